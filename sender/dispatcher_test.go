package sender

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

// try is one attempt as a target saw it.
type try struct {
	at      time.Duration
	id      string
	attempt int
}

// recorder is a target that notes what it is asked for and answers by a function.
type recorder struct {
	start  time.Time
	answer func(try) staffetta.Outcome
	drop   func(id string) error
	policy staffetta.Policy

	mu      sync.Mutex
	tries   []try
	dropped []string
}

func newRecorder(answer func(try) staffetta.Outcome) *recorder {
	return &recorder{start: time.Now(), answer: answer, policy: staffetta.DefaultPolicy(), drop: func(string) error { return nil }}
}

func always(status int) func(try) staffetta.Outcome {
	return func(try) staffetta.Outcome { return staffetta.Outcome{Status: status} }
}

func (r *recorder) Attempt(_ context.Context, m *Message, n int) (staffetta.Outcome, staffetta.Verdict) {
	t := try{time.Since(r.start), m.Event.ID, n}
	r.mu.Lock()
	r.tries = append(r.tries, t)
	r.mu.Unlock()
	o := r.answer(t)
	return o, r.policy.Decide(o, staffetta.SuccessOK, n)
}

func (r *recorder) Drop(_ context.Context, m *Message, _ int, _ staffetta.Outcome) error {
	if err := r.drop(m.Event.ID); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropped = append(r.dropped, m.Event.ID)
	return nil
}

func (r *recorder) ids() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []string
	for _, t := range r.tries {
		ids = append(ids, t.id)
	}
	return ids
}

// numbered lists the texts of first to last.
func numbered(first, last int) []string {
	var ids []string
	for n := first; n <= last; n++ {
		ids = append(ids, strconv.Itoa(n))
	}
	return ids
}

// bench is a dispatcher on a real store of two shards.
type bench struct {
	t    *testing.T
	dir  string
	srv  *embed.Server
	js   jetstream.JetStream
	conn *nats.Conn
	d    *Dispatcher
	stop context.CancelFunc
	done chan error
}

func newBench(t *testing.T, dir string, change ...func(*Config)) *bench {
	t.Helper()
	b := &bench{t: t, dir: dir, srv: embedtest.Start(t, dir, 2)}
	b.js = embedtest.JetStream(t, b.srv)
	b.dispatcher(change...)
	return b
}

func (b *bench) dispatcher(change ...func(*Config)) {
	b.t.Helper()
	conn, err := b.srv.Connect("lanes")
	if err != nil {
		b.t.Fatal(err)
	}
	b.conn = conn
	cfg := Config{Conn: conn, JetStream: b.js, Shards: 2}
	for _, f := range change {
		f(&cfg)
	}
	if b.d, err = NewDispatcher(cfg); err != nil {
		b.t.Fatal(err)
	}
}

// run loads the lanes that were set, and runs until end.
func (b *bench) run() {
	b.t.Helper()
	if err := b.d.Load(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d, done := b.d, make(chan error, 1)
	b.stop, b.done = cancel, done
	go func() { done <- d.Run(ctx) }()
}

func (b *bench) end() {
	b.t.Helper()
	b.stop()
	if err := <-b.done; err != nil {
		b.t.Errorf("run: %v", err)
	}
	b.conn.Close()
}

// store puts an event into a lane's shard without telling the dispatcher.
func (b *bench) store(key, id string, payload []byte) uint64 {
	b.t.Helper()
	shard := staffetta.Shard(key, 2)
	e := staffetta.StoredEvent{ID: id, Type: "message.sent", Payload: payload}
	ack, err := b.js.Publish(b.t.Context(), staffetta.EventSubject(shard, key), e.Append(nil))
	if err != nil {
		b.t.Fatal(err)
	}
	return ack.Sequence
}

func (b *bench) send(key string, ids ...string) {
	b.t.Helper()
	for _, id := range ids {
		b.d.Stored(staffetta.Shard(key, 2), key, b.store(key, id, []byte("{}")), 2)
	}
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestAHeldLaneKeepsItsEventsAndDeliversThemInOrderOnceItOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		r := newRecorder(always(200))
		b.d.Set("a", r, Held)
		b.run()
		b.send("a", numbered(1, 40)...)
		pass(time.Minute)
		if got := r.ids(); len(got) > 0 {
			t.Errorf("a held lane tried %v", got)
		}
		if s, _ := b.d.State("a"); s.Backlog != 40 || s.BacklogBytes != 80 {
			t.Errorf("backlog %d of %d bytes, want 40 of 80", s.Backlog, s.BacklogBytes)
		}
		b.d.Set("a", r, Open)
		pass(time.Second)
		if got := r.ids(); !slices.Equal(got, numbered(1, 40)) {
			t.Errorf("delivered %v", got)
		}
		if s, _ := b.d.State("a"); s != (State{Settled: 40}) {
			t.Errorf("a lane without events is at %+v", s)
		}
		b.end()
	})
}

func TestADiscardingLaneForgetsItsEventsAndTakesNewOnesOnceItOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		var up atomic.Bool
		r := newRecorder(func(try) staffetta.Outcome {
			return staffetta.Outcome{Status: map[bool]int{true: 200, false: 500}[up.Load()]}
		})
		b.d.Set("a", r, Open)
		b.run()
		b.send("a", numbered(1, 3)...)
		pass(time.Second)
		b.d.Set("a", r, Discarding)
		b.send("a", "4")
		pass(time.Minute)
		up.Store(true)
		b.d.Set("a", r, Open)
		b.send("a", "5")
		pass(time.Minute)
		if got := r.ids(); !slices.Equal(got, []string{"1", "5"}) {
			t.Errorf("tried %v, want the first once and then the one after the discarding", got)
		}
		b.end()
	})
}

func TestARemovedLaneDeliversNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		r := newRecorder(always(500))
		b.d.Set("a", r, Open)
		b.run()
		b.send("a", "1", "2")
		pass(time.Second)
		b.d.Remove("a")
		b.d.Stored(staffetta.Shard("a", 2), "a", 99, 2)
		pass(10 * time.Minute)
		if got := r.ids(); !slices.Equal(got, []string{"1"}) {
			t.Errorf("tried %v", got)
		}
		if _, ok := b.d.State("a"); ok {
			t.Error("a removed lane has a state")
		}
		b.end()
	})
}

func TestAFaultOfOurOwnIsNotOneOfTheEndpointsAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		faults := 3
		r := newRecorder(func(try) staffetta.Outcome {
			if faults--; faults >= 0 {
				return staffetta.Outcome{Error: staffetta.ErrorLocal}
			}
			return staffetta.Outcome{Status: 500}
		})
		b.d.Set("a", r, Open)
		b.run()
		b.send("a", "1")
		pass(10 * time.Minute)
		want := []try{
			{0, "1", 1},
			{1 * time.Second, "1", 1},
			{2 * time.Second, "1", 1},
			{3 * time.Second, "1", 1},
			{33 * time.Second, "1", 2},
			{93 * time.Second, "1", 3},
			{183 * time.Second, "1", 4},
		}
		if !slices.Equal(r.tries, want) {
			t.Errorf("tries %v, want %v", r.tries, want)
		}
		b.end()
	})
}

func TestALaneStandsStillWhileADropCannotBeRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		r := newRecorder(func(x try) staffetta.Outcome {
			return staffetta.Outcome{Status: map[bool]int{true: 500, false: 200}[x.id == "1"]}
		})
		var full atomic.Bool
		full.Store(true)
		r.drop = func(string) error {
			if full.Load() {
				return errors.New("no space")
			}
			return nil
		}
		b.d.Set("a", r, Open)
		b.run()
		b.send("a", "1", "2")
		pass(10 * time.Minute)
		if got := r.ids(); !slices.Equal(got, []string{"1", "1", "1", "1"}) {
			t.Errorf("tried %v", got)
		}
		full.Store(false)
		pass(2 * time.Second)
		if got := r.ids(); !slices.Equal(got, []string{"1", "1", "1", "1", "2"}) || !slices.Equal(r.dropped, []string{"1"}) {
			t.Errorf("tried %v, dropped %v", got, r.dropped)
		}
		b.end()
	})
}

func TestLargeEventsComeOneByOneAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		sizes := map[string]int{}
		r := newRecorder(always(200))
		b.d.Set("a", r, Held)
		b.run()
		for i := 1; i <= 30; i++ {
			id, size := strconv.Itoa(i), 10
			if i%3 == 0 {
				size = 1 << 20
			}
			sizes[id] = size
			b.d.Stored(staffetta.Shard("a", 2), "a", b.store("a", id, bytes.Repeat([]byte{'x'}, size)), size)
		}
		b.d.Set("a", r, Open)
		pass(time.Second)
		if got := r.ids(); !slices.Equal(got, numbered(1, 30)) {
			t.Errorf("delivered %v", got)
		}
		b.end()
	})
}

func TestALaneGoesOnWhenTheServerLosesItsConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		r := newRecorder(always(200))
		b.d.Set("a", r, Open)
		b.run()
		for round := range 5 {
			b.send("a", numbered(10*round+1, 10*round+5)...)
			stream, err := b.js.Stream(t.Context(), staffetta.EventStream(staffetta.Shard("a", 2)))
			if err != nil {
				t.Fatal(err)
			}
			for name := range stream.ConsumerNames(t.Context()).Name() {
				_ = stream.DeleteConsumer(t.Context(), name)
			}
			b.send("a", numbered(10*round+6, 10*round+10)...)
			pass(time.Second)
		}
		if got := r.ids(); !slices.Equal(got, numbered(1, 50)) {
			t.Errorf("delivered %v", got)
		}
		b.end()
	})
}

func TestAnIdleLaneGivesItsConsumerBackAndStillHearsOfNewEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		r := newRecorder(always(200))
		b.d.Set("a", r, Open)
		b.run()
		b.send("a", "1")
		pass(time.Second)
		if n := b.consumers("a"); n != 1 {
			t.Errorf("a lane at work has %d consumers", n)
		}
		pass(3 * time.Minute)
		if n := b.consumers("a"); n != 0 {
			t.Errorf("an idle lane has %d consumers", n)
		}
		b.send("a", "2")
		pass(time.Second)
		if got := r.ids(); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("delivered %v", got)
		}
		b.end()
	})
}

func (b *bench) consumers(key string) int {
	b.t.Helper()
	stream, err := b.js.Stream(b.t.Context(), staffetta.EventStream(staffetta.Shard(key, 2)))
	if err != nil {
		b.t.Fatal(err)
	}
	return stream.CachedInfo().State.Consumers
}

func TestOfTwoOwnersOfAShardOneStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		b.d.Set("a", newRecorder(always(200)), Open)
		b.run()
		b.send("a", "1")
		pass(time.Second)
		first, firstConn := *b, b.conn

		b.dispatcher()
		b.d.Set("a", newRecorder(always(200)), Open)
		b.run()
		b.send("a", "2") // both consumers get it; whoever writes its cursor first stays
		var err error
		select {
		case err = <-first.done:
			b.end()
		case err = <-b.done:
			first.end()
		}
		if !errors.Is(err, ErrShardTaken) {
			t.Errorf("one owner ended with %v", err)
		}
		firstConn.Close()
		b.conn.Close()
	})
}

func TestCursorsAheadOfTheStoreDoNotSwallowNewEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		shard := staffetta.Shard("a", 2)
		record := appendCursor(staffetta.AppendText([]byte{cursorFormat}, "somebody"), "a", cursor{settled: 1000})
		if _, err := b.js.Publish(t.Context(), staffetta.CursorSubject(shard), record); err != nil {
			t.Fatal(err)
		}
		r := newRecorder(always(200))
		b.d.Set("a", r, Open)
		b.run()
		b.send("a", "1")
		pass(time.Second)
		if got := r.ids(); !slices.Equal(got, []string{"1"}) {
			t.Errorf("delivered %v", got)
		}
		b.end()
	})
}

func TestAStopLetsTheAttemptInFlightEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		r := newRecorder(func(try) staffetta.Outcome {
			<-time.After(4 * time.Second)
			return staffetta.Outcome{Status: 200}
		})
		b.d.Set("a", r, Open)
		b.run()
		b.send("a", "1", "2")
		pass(time.Second)
		b.end()
		if took := time.Since(r.start); took != 4*time.Second {
			t.Errorf("the stop took until %v, want the end of the attempt at 4s", took)
		}
		b.dispatcher()
		r2 := newRecorder(always(200))
		b.d.Set("a", r2, Open)
		b.run()
		pass(time.Second)
		if got := r2.ids(); !slices.Equal(got, []string{"2"}) {
			t.Errorf("after the stop %v was tried, want what was not tried before", got)
		}
		b.end()
	})
}

func TestManyLanesKeepTheirOrderWhateverTheEndpointsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lanes, events = 50, 100
		b := newBench(t, t.TempDir())
		recorders := map[string]*recorder{}
		for i := range lanes {
			key := fmt.Sprintf("lane%d", i)
			recorders[key] = newRecorder(func(x try) staffetta.Outcome {
				n, _ := strconv.Atoi(x.id)
				if (n*7+i)%13 == 0 && x.attempt <= (n+i)%5 {
					return staffetta.Outcome{Status: 500}
				}
				return staffetta.Outcome{Status: 200}
			})
			b.d.Set(key, recorders[key], Open)
		}
		b.run()
		for n := 1; n <= events; n++ {
			for i := range lanes {
				b.send(fmt.Sprintf("lane%d", i), strconv.Itoa(n))
			}
		}
		pass(time.Hour)
		for key, r := range recorders {
			seen := slices.Compact(r.ids())
			if !slices.Equal(seen, numbered(1, events)) {
				t.Errorf("%s tried %v", key, seen)
			}
		}
		b.end()
	})
}

func TestLanesGoOnAfterTheirConnectionWasCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		r := newRecorder(always(200))
		b.d.Set("a", r, Open)
		b.run()
		for round := range 3 {
			b.send("a", numbered(10*round+1, 10*round+5)...)
			if err := b.conn.ForceReconnect(); err != nil {
				t.Fatal(err)
			}
			b.send("a", numbered(10*round+6, 10*round+10)...)
			pass(time.Minute)
		}
		if got := slices.Compact(r.ids()); !slices.Equal(got, numbered(1, 30)) {
			t.Errorf("delivered %v", got)
		}
		b.end()
	})
}

func TestALaneFindsAnEventThatNobodyToldItOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		r := newRecorder(always(200))
		b.d.Set("a", r, Open)
		b.run()
		b.d.Look(staffetta.Shard("a", 2), "a") // nothing there
		pass(time.Second)
		b.send("a", "1")
		pass(5 * time.Minute) // its consumer is given back
		b.store("a", "2", []byte("{}"))
		pass(time.Minute)
		b.d.Look(staffetta.Shard("a", 2), "a")
		pass(time.Second)
		b.send("a", "3")
		pass(time.Second)
		if got := r.ids(); !slices.Equal(got, []string{"1", "2", "3"}) {
			t.Errorf("delivered %v", got)
		}
		b.end()
	})
}

func TestALateAnswerToAWriteOfCursorsIsNoSecondOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		r := newRecorder(always(200))
		b.d.Set("a", r, Open)
		b.run()
		b.send("a", "1")
		pass(time.Second)
		// A write of this process that it has not heard of.
		record := appendCursor(staffetta.AppendText([]byte{cursorFormat}, b.d.id), "a", cursor{settled: 1})
		if _, err := b.js.Publish(t.Context(), staffetta.CursorSubject(staffetta.Shard("a", 2)), record); err != nil {
			t.Fatal(err)
		}
		b.send("a", "2")
		pass(time.Minute)
		b.end()
		b.dispatcher()
		again := newRecorder(always(200))
		b.d.Set("a", again, Open)
		b.run()
		pass(time.Second)
		if got := again.ids(); len(got) > 0 {
			t.Errorf("after a restart %v was tried again: its cursor was not written", got)
		}
		b.end()
	})
}
