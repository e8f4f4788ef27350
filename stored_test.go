package staffetta

import (
	"bytes"
	"testing"
)

func TestAStoredEventReadsAsItWasWritten(t *testing.T) {
	for _, e := range []StoredEvent{
		{ID: "e1", Type: "message.received", Payload: []byte(`{"a":1}`)},
		{ID: "e2", Type: "contact.updated", Payload: []byte(`{}`), Key: "AAECAwQFBgcICQoLDA0ODw"},
		{ID: "e3", Type: "call.ended", Payload: bytes.Repeat([]byte("x"), 1<<20), Key: "k", Replay: "rpl_1.d7"},
		{},
	} {
		data := e.Append([]byte("before"))[len("before"):]
		if len(data) > e.Size() {
			t.Errorf("%s: %d bytes, more than the %d of Size", e.ID, len(data), e.Size())
		}
		got, ok := ParseStoredEvent(data)
		if !ok || got.ID != e.ID || got.Type != e.Type || got.Key != e.Key || got.Replay != e.Replay || !bytes.Equal(got.Payload, e.Payload) {
			t.Errorf("%s reads as %+.80v, %v", e.ID, got, ok)
		}
		if event := got.Event(); event.Replay != (e.Replay != "") || event.ID != e.ID || event.Type != e.Type {
			t.Errorf("%s is the event %+.80v", e.ID, event)
		}
	}
}

func FuzzParseStoredEvent(f *testing.F) {
	whole := StoredEvent{ID: "e1", Type: "message.received", Payload: []byte(`{"a":1}`), Key: "key", Replay: "mark"}
	f.Add(whole.Append(nil))
	f.Add([]byte(`{"a":1}`))
	f.Add([]byte{storedForm, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		e, ok := ParseStoredEvent(data)
		if !ok {
			if !bytes.Equal(e.Payload, data) || e.ID != "" {
				t.Errorf("what is not a stored event reads as %+v", e)
			}
			return
		}
		if again, ok := ParseStoredEvent(e.Append(nil)); !ok || again.ID != e.ID || again.Key != e.Key || !bytes.Equal(again.Payload, e.Payload) {
			t.Errorf("%+v reads again as %+v", e, again)
		}
	})
}
