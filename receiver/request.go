package receiver

import (
	"encoding/binary"
	"errors"
	"time"
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
		dst = appendText(dst, s)
	}
	dst = binary.AppendUvarint(dst, uint64(len(r.Header)))
	for _, h := range r.Header {
		dst = appendText(appendText(dst, h.Name), h.Value)
	}
	return appendText(dst, r.Body)
}

func appendText[T string | []byte](dst []byte, s T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// parseRequest reads what appendRequest wrote. Body is a part of b.
func parseRequest(b []byte) (*Request, error) {
	if len(b) == 0 {
		return nil, errStored
	}
	rd := storedReader{rest: b[1:]}
	r := &Request{TLS: b[0]&flagTLS != 0, Replay: b[0]&flagReplay != 0}
	r.ReceivedAt = time.UnixMicro(int64(rd.number())).UTC()
	for _, s := range [...]*string{&r.EventID, &r.Target, &r.Method, &r.URI, &r.Host, &r.Remote} {
		*s = string(rd.text())
	}
	n := rd.number()
	if n > uint64(len(rd.rest)) {
		return nil, errStored
	}
	r.Header = make([]HeaderField, n)
	for i := range r.Header {
		r.Header[i] = HeaderField{string(rd.text()), string(rd.text())}
	}
	r.Body = rd.text()
	if rd.bad || len(rd.rest) > 0 {
		return nil, errStored
	}
	return r, nil
}

// storedReader reads what is stored; once something does not fit it is bad and gives zeros.
type storedReader struct {
	rest []byte
	bad  bool
}

func (r *storedReader) number() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *storedReader) text() []byte {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}
