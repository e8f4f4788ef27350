package relay

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// The first byte of a record says what follows, one after another until its end. Numbers are
// uvarints, texts have their length before them.
const (
	// recordOfKeys: first the millisecond since 1970 from which on events may be stored whose keys are on
	// no record; then fingerprint, the second it was accepted in, the event's id where the relay made it.
	recordOfKeys = 1
	// recordOfFound: fingerprint, the event's id, how many endpoints have a copy, their ids.
	recordOfFound = 2
)

var errKeyRecord = errors.New("a record of idempotency keys is damaged or of a newer version")

func appendKeys(dst []byte, since time.Time, batch []acceptedKey) []byte {
	dst = append(dst, recordOfKeys)
	dst = binary.AppendUvarint(dst, uint64(max(since.UnixMilli(), 0)))
	for _, k := range batch {
		dst = append(dst, k.fingerprint[:]...)
		dst = binary.AppendUvarint(dst, uint64(k.unix))
		dst = staffetta.AppendText(dst, k.eventID)
	}
	return dst
}

func appendFound(dst []byte, f fingerprint, e *foundEvent) []byte {
	dst = append(dst, f[:]...)
	dst = staffetta.AppendText(dst, e.eventID)
	dst = binary.AppendUvarint(dst, uint64(len(e.endpoints)))
	for id := range e.endpoints {
		dst = staffetta.AppendText(dst, id)
	}
	return dst
}

// parseRecord reads a record of either kind.
func parseRecord(b []byte, since func(time.Time), key func(acceptedKey), found func(fingerprint, *foundEvent)) error {
	if len(b) == 0 || b[0] != recordOfKeys && b[0] != recordOfFound {
		return errKeyRecord
	}
	r := keyReader{staffetta.BinaryReader{Rest: b[1:]}}
	if b[0] == recordOfKeys {
		ms := r.Uvarint()
		if r.Failed {
			return errKeyRecord
		}
		since(time.UnixMilli(int64(ms)))
	}
	for len(r.Rest) > 0 {
		f := r.fingerprint()
		if b[0] == recordOfKeys {
			k := acceptedKey{fingerprint: f, unix: uint32(r.Uvarint()), eventID: r.text()}
			if !r.Failed {
				key(k)
			}
		} else {
			e := &foundEvent{eventID: r.text(), endpoints: make(map[string]bool), recorded: true}
			for n := r.Uvarint(); n > 0 && !r.Failed; n-- {
				e.endpoints[r.text()] = true
			}
			if !r.Failed {
				found(f, e)
			}
		}
		if r.Failed {
			return errKeyRecord
		}
	}
	return nil
}

// keyReader reads the members of a record.
type keyReader struct{ staffetta.BinaryReader }

func (r *keyReader) fingerprint() (f fingerprint) {
	copy(f[:], r.Take(uint64(len(f))))
	return f
}

func (r *keyReader) text() string { return string(r.Text()) }
