package relay

import (
	"encoding/binary"
	"errors"
)

// The first byte of a record says what follows, one after another until its end. Numbers are
// uvarints, texts have their length before them.
const (
	// recordOfKeys: fingerprint, the second it was accepted in, the event's id where the relay made it.
	recordOfKeys = 1
	// recordOfFound: fingerprint, the event's id, how many endpoints have a copy, their ids.
	recordOfFound = 2
)

var errKeyRecord = errors.New("a record of idempotency keys is damaged or of a newer version")

func appendKeys(dst []byte, batch []acceptedKey) []byte {
	dst = append(dst, recordOfKeys)
	for _, k := range batch {
		dst = append(dst, k.fingerprint[:]...)
		dst = binary.AppendUvarint(dst, uint64(k.unix))
		dst = appendText(dst, k.eventID)
	}
	return dst
}

func appendFound(dst []byte, f fingerprint, e *foundEvent) []byte {
	dst = append(dst, f[:]...)
	dst = appendText(dst, e.eventID)
	dst = binary.AppendUvarint(dst, uint64(len(e.endpoints)))
	for id := range e.endpoints {
		dst = appendText(dst, id)
	}
	return dst
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// parseRecord reads a record of either kind.
func parseRecord(b []byte, key func(acceptedKey), found func(fingerprint, *foundEvent)) error {
	if len(b) == 0 || b[0] != recordOfKeys && b[0] != recordOfFound {
		return errKeyRecord
	}
	for r := (keyReader{rest: b[1:]}); len(r.rest) > 0; {
		f := r.fingerprint()
		if b[0] == recordOfKeys {
			k := acceptedKey{fingerprint: f, unix: uint32(r.number()), eventID: r.text()}
			if !r.bad {
				key(k)
			}
		} else {
			e := &foundEvent{eventID: r.text(), endpoints: make(map[string]bool), recorded: true}
			for n := r.number(); n > 0 && !r.bad; n-- {
				e.endpoints[r.text()] = true
			}
			if !r.bad {
				found(f, e)
			}
		}
		if r.bad {
			return errKeyRecord
		}
	}
	return nil
}

// keyReader reads a record; once something does not fit it is bad and gives zeros.
type keyReader struct {
	rest []byte
	bad  bool
}

func (r *keyReader) take(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return nil
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *keyReader) fingerprint() (f fingerprint) {
	copy(f[:], r.take(uint64(len(f))))
	return f
}

func (r *keyReader) number() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *keyReader) text() string { return string(r.take(r.number())) }
