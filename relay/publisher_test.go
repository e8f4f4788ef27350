package relay

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/staffetta-relay/staffetta/embed/embedtest"

	"github.com/staffetta-relay/staffetta"
)

func TestWhatWasUnderWayOnACutConnectionFailsAndFreesItsPlace(t *testing.T) {
	srv := embedtest.Start(t, t.TempDir(), 1)
	conn, err := srv.Connect("intake")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	var lost []string
	var stored int
	p, err := newPublisher([]*nats.Conn{conn}, func(int, string, uint64, staffetta.Event, string) { stored++ }, func(_ int, endpoint string) { lost = append(lost, endpoint) })
	if err != nil {
		t.Fatal(err)
	}
	c, g := p.conns[0], newPublishGroup()
	g.pending.Add(1)
	old := c.take(<-c.free, publishSlot{group: g, endpoint: "ep_1"})
	p.cutOff(c)
	if err := g.wait(t.Context()); !errors.Is(err, errPressure) {
		t.Errorf("the request got %v, want to be asked to try again", err)
	}
	if len(lost) != 1 || lost[0] != "ep_1" || len(c.free) != publishWindow {
		t.Errorf("lost %v, %d places free", lost, len(c.free))
	}
	// The answer comes late, when the place serves another copy.
	next := newPublishGroup()
	next.pending.Add(1)
	for range publishWindow {
		n := <-c.free
		if n == 0 {
			c.take(n, publishSlot{group: next, endpoint: "ep_2"})
			break
		}
		c.free <- n
	}
	p.answer(c, &nats.Msg{Subject: old, Data: []byte(`{"stream":"EVENTS_0","seq":7}`)})
	if next.pending.Load() != 2 || stored != 0 {
		t.Error("a late answer was taken for that of another copy")
	}
}

func TestTheIntakeGoesOnAfterItsConnectionWasCut(t *testing.T) {
	in := newTestIngest(t, 1)
	for n := range 5 {
		_, err := in.one(t.Context(), "acme", numberedEvent(t, nil, n), nil)
		for errors.Is(err, errPressure) { // cut while it was under way: the producer sends it again
			_, err = in.one(t.Context(), "acme", numberedEvent(t, nil, n), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range in.publisher.conns {
			if err := c.conn.ForceReconnect(); err != nil {
				t.Fatal(err)
			}
			if err := c.conn.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
