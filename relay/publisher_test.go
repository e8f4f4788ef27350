package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

// startPublisher makes and runs a publisher; cfg may leave out what the test has no use for.
func startPublisher(tb testing.TB, cfg publisherConfig) *publisher {
	tb.Helper()
	cfg.log = quietLog(tb)
	if cfg.reads == nil {
		cfg.reads = cfg.js.Conn()
	}
	if cfg.stored == nil {
		cfg.stored = func(int, string, uint64, staffetta.Event, string) {}
	}
	if cfg.unheard == nil {
		cfg.unheard = func(int, string) {}
	}
	p, err := newPublisher(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.run(ctx)
	}()
	tb.Cleanup(func() {
		cancel()
		<-done
	})
	return p
}

// publisherTest is a publisher for one shard, and what it said.
type publisherTest struct {
	*publisher
	t    *testing.T
	conn *nats.Conn
	js   jetstream.JetStream

	mu      sync.Mutex
	stored  []string // "sequence id", in the order of the words
	unheard []string
}

func newPublisherTest(t *testing.T) *publisherTest {
	t.Helper()
	srv := embedtest.Start(t, t.TempDir(), 1)
	connect := func(name string) *nats.Conn {
		conn, err := srv.Connect(name, nats.ReconnectBufSize(-1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		return conn
	}
	x := &publisherTest{t: t, conn: connect("intake")}
	var err error
	if x.js, err = jetstream.New(connect("other")); err != nil {
		t.Fatal(err)
	}
	x.publisher = startPublisher(t, publisherConfig{
		conns: []*nats.Conn{x.conn}, js: x.js, shards: 1,
		stored: func(_ int, _ string, sequence uint64, e staffetta.Event, _ string) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.stored = append(x.stored, fmt.Sprint(sequence, " ", e.ID))
		},
		unheard: func(_ int, endpoint string) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.unheard = append(x.unheard, endpoint)
		},
	})
	return x
}

var publisherRoute = Route{Endpoint: "ep_1", Subject: staffetta.EventSubject(0, "ep_1")}

// event puts an event in line.
func (x *publisherTest) event(g *publishGroup, id, name string) *storedEvent {
	x.t.Helper()
	e := newStoredEvent(staffetta.StoredEvent{ID: id, Type: "message.received", Payload: []byte(`{}`)}, 1)
	if err := x.add(x.t.Context(), g, e, publisherRoute, name); err != nil {
		x.t.Fatal(err)
	}
	return e
}

// inStream gives "sequence id" of all that is stored.
func (x *publisherTest) inStream() (all []string) {
	x.t.Helper()
	err := eventShelf(x.js.Conn(), 0).each(x.t.Context(), staffetta.EventSubjects(0), 1, ^uint64(0), 0, func(m *shelved) error {
		all = append(all, fmt.Sprint(m.sequence, " ", m.eventID))
		return nil
	})
	if err != nil {
		x.t.Fatal(err)
	}
	return all
}

// checkWords fails the test unless the lanes were told of all that is stored, in its order.
func (x *publisherTest) checkWords() {
	x.t.Helper()
	stored := x.inStream()
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range max(len(x.stored), len(stored)) {
		if i >= len(x.stored) || i >= len(stored) || x.stored[i] != stored[i] {
			x.t.Fatalf("word %d of %d is not what is stored there, of %d", i, len(x.stored), len(stored))
		}
	}
}

func TestARunIsStoredInOrderAndEachOfItsCopiesHasItsSequence(t *testing.T) {
	x := newPublisherTest(t)
	for round := range 5 {
		g := newPublishGroup()
		for n := range 1 + 300*round {
			x.event(g, fmt.Sprint(round, "-", n), "")
		}
		x.flushAll()
		if err := g.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(x.inStream()); n != 3005 || x.copies.Load() != 3005 {
		t.Errorf("%d stored, %d counted, want 3005", n, x.copies.Load())
	}
	x.checkWords()
}

func TestACopyWithANameIsStoredOnceAmongOthers(t *testing.T) {
	x := newPublisherTest(t)
	for range 3 {
		g := newPublishGroup()
		for _, name := range []string{"", "first", "", "", "second", ""} {
			x.event(g, "named "+name, name)
		}
		x.flushAll()
		if err := g.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(x.inStream()); n != 3*4+2 {
		t.Errorf("%d stored, want 14", n)
	}
	if want := []string{"ep_1", "ep_1", "ep_1", "ep_1"}; !slices.Equal(x.unheard, want) {
		t.Errorf("the lanes shall see for themselves: %v, want %v", x.unheard, want)
	}
	x.checkWords()
}

// A word of the store that nobody can follow: somebody else has written to the stream, or a copy in the
// middle of a run was not stored.
func TestARunWhoseAnswerDoesNotAddUpIsLookedUp(t *testing.T) {
	x := newPublisherTest(t)
	l := x.lines[0]
	foreign := staffetta.StoredEvent{ID: "foreign", Type: "message.received", Payload: []byte(`{}`)}
	for range 2 {
		if _, err := x.js.Publish(t.Context(), publisherRoute.Subject, foreign.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	// The run's second copy is too large for the stream, so it is not stored, and no answer says so.
	stream, err := x.js.Stream(t.Context(), staffetta.EventStream(0))
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.MaxMsgSize = 1000
	if _, err := x.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	g := newPublishGroup()
	first := x.event(g, "a", "")
	large := newStoredEvent(staffetta.StoredEvent{ID: "b", Type: "message.received", Payload: make([]byte, 2000)}, 1)
	if err := x.add(t.Context(), g, large, publisherRoute, ""); err != nil {
		t.Fatal(err)
	}
	last := x.event(g, "c", "")
	l.flush()
	if err := g.wait(t.Context()); !errors.Is(err, errPressure) {
		t.Errorf("the request got %v, want to be asked to try again", err)
	}
	if len(first.storedAt()) != 1 || len(large.storedAt()) != 0 || len(last.storedAt()) != 1 {
		t.Errorf("stored: %v %v %v", first.storedAt(), large.storedAt(), last.storedAt())
	}
	if want := []string{"3 a", "4 c"}; !slices.Equal(x.stored, want) {
		t.Errorf("the lanes were told of %v, want %v", x.stored, want)
	}
	if want := []string{"ep_1", "ep_1"}; !slices.Equal(x.unheard, want) {
		t.Errorf("of what is not ours the lanes shall see for themselves: %v, want %v", x.unheard, want)
	}
	// The line goes on.
	next := newPublishGroup()
	x.event(next, "d", "")
	x.event(next, "e", "")
	l.flush()
	if err := next.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"3 a", "4 c", "5 d", "6 e"}; !slices.Equal(x.stored, want) {
		t.Errorf("the lanes were told of %v, want %v", x.stored, want)
	}
}

func TestWhatWasUnderWayOnACutConnectionIsLookedUp(t *testing.T) {
	x := newPublisherTest(t)
	refused, taken := 0, 0
	for round := range 8 {
		g := newPublishGroup()
		var events []*storedEvent
		for n := range 200 {
			events = append(events, x.event(g, fmt.Sprint(round, "-", n), ""))
		}
		x.flushAll()
		if err := x.conn.ForceReconnect(); err != nil {
			t.Fatal(err)
		}
		err := g.wait(t.Context())
		if err != nil && !errors.Is(err, errPressure) {
			t.Fatal(err)
		}
		for _, e := range events {
			if len(e.storedAt()) == 1 {
				taken++
			} else {
				refused++
			}
		}
		if (err == nil) != (taken == 200*(round+1)-refused && refused == 0) && refused == 0 {
			t.Errorf("round %d: %v", round, err)
		}
	}
	if got := len(x.inStream()); got != taken {
		t.Errorf("%d are stored, %d are said to be", got, taken)
	}
	t.Logf("%d stored, %d not", taken, refused)
	x.checkWords()
}

func TestWhatNobodyWaitsForIsNotStored(t *testing.T) {
	x := newPublisherTest(t)
	l := x.lines[0]
	l.mu.Lock()
	l.state, l.since = runAnswered, time.Now() // as if a run were being told
	l.mu.Unlock()
	ctx, giveUp := context.WithCancel(t.Context())
	giveUp()
	g := newPublishGroup()
	x.event(g, "abandoned", "")
	x.flushAll()
	if err := g.wait(ctx); !errors.Is(err, errPressure) {
		t.Errorf("the request got %v, want to be asked to try again", err)
	}
	ended := make(chan struct{})
	g.whenDone(func() { close(ended) })
	l.next()
	<-ended
	if g.failed() == nil || len(x.inStream()) != 0 || l.copies() != 0 {
		t.Errorf("%v; stored are %v", g.failed(), x.inStream())
	}
}

func TestALineWithoutRoomGoesOnOnceThereIsSome(t *testing.T) {
	x := newPublisherTest(t)
	g := newPublishGroup()
	for n := range 3 * lineRoom {
		x.event(g, fmt.Sprint(n), "")
	}
	x.flushAll()
	if err := g.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.checkWords()
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
		for _, conn := range in.publisher.cfg.conns {
			if err := conn.ForceReconnect(); err != nil {
				t.Fatal(err)
			}
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
