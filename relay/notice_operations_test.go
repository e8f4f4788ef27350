package relay

import (
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
)

func TestOperationalEventsAreStoredInOrderAndInTheirOneForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNoticesTest(t, t.TempDir())
		n.workspace("acme", "en")
		if _, _, err := n.registry.PutWorkspace(t.Context(), "acme", func(ws *staffetta.Workspace) error {
			ws.OperationsURL = "https://ops.acme.example/"
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		e := addEndpoint(t, n.registry, "acme", "https://hooks.acme.example/in", "message.received")
		notices, stop := n.start(nil)
		notices.Warning("acme", e.ID, 50, 15, 30)
		notices.Disabled("acme", e.ID, e.URL, "quota", 31, 30, someFailures)
		notices.Enabled("acme", e.ID, e.URL)
		for i := range 500 {
			notices.Dropped("acme", e.ID, fmt.Sprintf("event-%d", i), "message.received", "timeout: \"<&\u2028\x01")
		}
		stop() // at once: all of it is in memory
		id := staffetta.OperationsEndpoint("acme")
		shard := staffetta.Shard(id, 4)
		stream, err := n.js.Stream(t.Context(), staffetta.EventStream(shard))
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"endpoint.warning", "endpoint.disabled", "endpoint.enabled"}
		for i := range 503 {
			m, err := stream.GetMsg(t.Context(), uint64(i+1))
			if err != nil {
				t.Fatal(err)
			}
			checkOperationalEvent(t, m, i, want, e)
		}
		if s := notices.Stats(); s.Operations != 503 || s.Lost != 0 || len(n.stored) != 503 || n.stored[0] != id {
			t.Errorf("got %+v, %d wake-ups", s, len(n.stored))
		}
	})
}

func checkOperationalEvent(t *testing.T, m *jetstream.RawStreamMsg, i int, first []string, e staffetta.Endpoint) {
	t.Helper()
	want := "event.dropped"
	if i < len(first) {
		want = first[i]
	}
	stored, ok := staffetta.ParseStoredEvent(m.Data)
	p, err := staffetta.Canonicalize(stored.Payload)
	if err != nil || !ok || string(p.Body) != string(stored.Payload) || string(p.EventType) != want || stored.Type != want || string(p.EventID) != stored.ID {
		t.Fatalf("event %d: %v %s", i, err, m.Data)
	}
	var body struct {
		Workspace  string
		Endpoint   struct{ ID, URL string }
		Event      struct{ ID, Type string }
		OccurredAt time.Time `json:"occurred_at"`
	}
	if err := json.Unmarshal(stored.Payload, &body); err != nil {
		t.Fatal(err)
	}
	if body.Workspace != "acme" || body.Endpoint.ID != e.ID || body.Endpoint.URL != e.URL || body.OccurredAt.IsZero() {
		t.Errorf("event %d: %s", i, m.Data)
	}
	if i >= len(first) && body.Event.ID != fmt.Sprintf("event-%d", i-len(first)) {
		t.Errorf("event %d is about %s", i, body.Event.ID)
	}
}
