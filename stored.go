package staffetta

import "strings"

// StoredEvent is an event in the form in which the streams of events keep it: one message, in which the
// payload comes last and as it is. It has no headers, for those cost the store more than all the rest.
type StoredEvent struct {
	// ID, Type and Payload are the event's.
	ID, Type string
	Payload  []byte
	// Key is the fingerprint of the key that the producer gave for the event; empty for none.
	Key string
	// Replay is the mark of a copy that is sent again on request; empty for any other.
	Replay string
}

// storedForm begins a stored event: a change of the form changes it.
const storedForm = 1

// Append appends the stored form, in which Payload stands last.
func (e *StoredEvent) Append(dst []byte) []byte {
	dst = append(dst, storedForm)
	for _, text := range [...]string{e.ID, e.Type, e.Key, e.Replay} {
		dst = AppendText(dst, text)
	}
	return append(dst, e.Payload...)
}

// Size is at least as many bytes as Append appends, and at most a few more.
func (e *StoredEvent) Size() int {
	const lengths = 1 + 4*3 // of texts below 2 MiB
	return lengths + len(e.ID) + len(e.Type) + len(e.Key) + len(e.Replay) + len(e.Payload)
}

// ParseStoredEvent reads the stored form; the payload is a part of data. What is not of the form is
// taken for a payload without a name, with ok false.
func ParseStoredEvent(data []byte) (e StoredEvent, ok bool) {
	if len(data) == 0 || data[0] != storedForm {
		return StoredEvent{Payload: data}, false
	}
	r := BinaryReader{Rest: data[1:]}
	var texts [4][]byte
	for i := range texts {
		texts[i] = r.Text()
	}
	if r.Failed {
		return StoredEvent{Payload: data}, false
	}
	e = StoredEvent{Type: string(texts[1]), Payload: r.Rest}
	// One allocation for what is of one size and life.
	var head strings.Builder
	head.Grow(len(texts[0]) + len(texts[2]) + len(texts[3]))
	head.Write(texts[0])
	head.Write(texts[2])
	head.Write(texts[3])
	all, id, key := head.String(), len(texts[0]), len(texts[0])+len(texts[2])
	e.ID, e.Key, e.Replay = all[:id], all[id:key], all[key:]
	return e, true
}

// Event is the event as an endpoint gets it.
func (e *StoredEvent) Event() Event {
	return Event{ID: e.ID, Type: e.Type, Payload: e.Payload, Replay: e.Replay != ""}
}
