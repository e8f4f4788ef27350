package receiver

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// Request is a webhook as it came in.
type Request struct {
	// EventID is what a repeat is told by: the payload's event_id, else the header webhook-id, else a
	// digest of the body.
	EventID string
	// ReceivedAt is when it came, to the microsecond.
	ReceivedAt time.Time
	// Method, URI (path and query as they came) and Host are of its first line and head.
	Method, URI, Host string
	// Remote is the client's address, behind the trusted proxies; TLS says that it came encrypted.
	Remote string
	TLS    bool
	// Header has the end-to-end headers, in their order: what belongs to one connection is left out, and
	// so are Host and Content-Length.
	Header []HeaderField
	// Body is the payload, byte for byte.
	Body []byte
	// Replay says that it is handed over again on request, and then Target is the only target for it.
	Replay bool
	Target string
}

// HeaderField is one line of a head.
type HeaderField struct{ Name, Value string }

// Flags of a stored request.
const (
	flagTLS    = 1 << 0
	flagReplay = 1 << 1
)

// errStored says that a stored request cannot be read.
var errStored = errors.New("a stored request is damaged or of a newer version")

// appendRequest writes a request: flags, time in microseconds, then texts and the body with their
// lengths before them. Numbers are uvarints.
func appendRequest(dst []byte, r *Request) []byte {
	var flags byte
	if r.TLS {
		flags |= flagTLS
	}
	if r.Replay {
		flags |= flagReplay
	}
	dst = append(dst, flags)
	dst = binary.AppendUvarint(dst, uint64(max(r.ReceivedAt.UnixMicro(), 0)))
	for _, s := range [...]string{r.EventID, r.Target, r.Method, r.URI, r.Host, r.Remote} {
		dst = staffetta.AppendText(dst, s)
	}
	dst = binary.AppendUvarint(dst, uint64(len(r.Header)))
	for _, h := range r.Header {
		dst = staffetta.AppendText(staffetta.AppendText(dst, h.Name), h.Value)
	}
	return staffetta.AppendText(dst, r.Body)
}

// parseRequest reads what appendRequest wrote. Body is a part of b.
func parseRequest(b []byte) (*Request, error) {
	if len(b) == 0 {
		return nil, errStored
	}
	rd := staffetta.BinaryReader{Rest: b[1:]}
	r := &Request{TLS: b[0]&flagTLS != 0, Replay: b[0]&flagReplay != 0}
	r.ReceivedAt = time.UnixMicro(int64(rd.Uvarint())).UTC()
	for _, s := range [...]*string{&r.EventID, &r.Target, &r.Method, &r.URI, &r.Host, &r.Remote} {
		*s = string(rd.Text())
	}
	n := rd.Uvarint()
	if n > uint64(len(rd.Rest)) {
		return nil, errStored
	}
	r.Header = make([]HeaderField, n)
	for i := range r.Header {
		r.Header[i] = HeaderField{string(rd.Text()), string(rd.Text())}
	}
	r.Body = rd.Text()
	if rd.Failed || len(rd.Rest) > 0 {
		return nil, errStored
	}
	return r, nil
}
