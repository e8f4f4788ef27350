package sender

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// hand stores events and hands them to the lane, as the relay's intake does.
func (b *bench) hand(key string, size int, ids ...string) {
	b.t.Helper()
	for _, id := range ids {
		payload := bytes.Repeat([]byte{'x'}, size)
		m := Message{Sequence: b.store(key, id, payload), StoredAt: time.Now()}
		m.Event = staffetta.Event{ID: id, Type: "message.sent", Payload: payload}
		b.d.StoredEvent(staffetta.Shard(key, 2), key, &m)
		clear(payload) // it was only lent
	}
}

func TestALaneThatKeepsUpNeedsNoConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		r := newRecorder(always(200))
		b.d.Set("a", r, Open)
		b.run()
		for n := range 100 {
			b.hand("a", 10, strconv.Itoa(n+1))
			pass(time.Millisecond)
		}
		if got := r.ids(); !slices.Equal(got, numbered(1, 100)) {
			t.Errorf("delivered %v", got)
		}
		if n := b.consumers("a"); n != 0 {
			t.Errorf("it has %d consumers", n)
		}
		if n := b.d.fed.Load(); n != 0 {
			t.Errorf("%d bytes are held of events that were tried", n)
		}
		b.end()
	})
}

func TestALaneThatFallsBehindReadsTheStoreAndThenKeepsUpAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		r := newRecorder(func(try) staffetta.Outcome {
			<-time.After(10 * time.Millisecond)
			return staffetta.Outcome{Status: 200}
		})
		b.d.Set("a", r, Open)
		b.run()
		const n = 3 * maxFed
		b.hand("a", 10, numbered(1, n)...)
		l := b.d.shardOf("a").lane("a")
		l.mu.Lock()
		if len(l.window.queue) > maxFed || l.window.fed > maxFedBytes {
			t.Errorf("the lane holds %d events of %d bytes", len(l.window.queue), l.window.fed)
		}
		l.mu.Unlock()
		pass(n*10*time.Millisecond + time.Second)
		if got := r.ids(); !slices.Equal(got, numbered(1, n)) {
			t.Errorf("delivered %d events, the last %v", len(got), got[max(len(got)-5, 0):])
		}
		if b.consumers("a") != 1 {
			t.Error("it did not read the store")
		}
		pass(3 * time.Minute) // it is idle for long enough to give its consumer back
		b.hand("a", 10, numbered(n+1, n+5)...)
		pass(time.Second)
		if got := r.ids(); !slices.Equal(got, numbered(1, n+5)) || b.consumers("a") != 0 {
			t.Errorf("delivered %d events with %d consumers, want %d with none", len(got), b.consumers("a"), n+5)
		}
		b.end()
	})
}

func TestNothingIsPassedOverWhereTheStoresWordDidNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		r := newRecorder(always(200))
		b.d.Set("a", r, Open)
		b.run()
		b.hand("a", 10, "1")
		pass(time.Second)
		b.store("a", "2", []byte("{}")) // stored, but the answer was lost
		b.d.Look(staffetta.Shard("a", 2), "a")
		b.hand("a", 10, "3")
		pass(time.Second)
		// And one that was still on its way into the store when the lane looked.
		b.store("a", "4", []byte("{}"))
		b.hand("a", 10, "5")
		pass(time.Second)
		if got := r.ids(); !slices.Equal(got, numbered(1, 5)) {
			t.Errorf("delivered %v", got)
		}
		pass(lookedAfter + 3*time.Minute)
		b.hand("a", 10, "6")
		pass(time.Second)
		if got := r.ids(); !slices.Equal(got, numbered(1, 6)) || b.consumers("a") != 0 {
			t.Errorf("delivered %v with %d consumers", got, b.consumers("a"))
		}
		b.end()
	})
}

func TestAFedLaneKeepsOrderThroughFailuresHoldsAndACutConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		failed := map[string]bool{}
		r := newRecorder(func(at try) staffetta.Outcome {
			if n, _ := strconv.Atoi(at.id); n%10 == 3 && !failed[at.id] {
				failed[at.id] = true
				return staffetta.Outcome{Status: 500}
			}
			return staffetta.Outcome{Status: 200}
		})
		b.d.Set("a", r, Open)
		b.run()
		next := 1
		for round := range 20 {
			b.hand("a", 10, numbered(next, next+6)...)
			next += 7
			switch round % 5 {
			case 1:
				b.d.reset()
			case 2:
				b.d.Set("a", r, Held)
				b.hand("a", 10, numbered(next, next+2)...)
				next += 3
				b.d.Set("a", r, Open)
			case 3:
				pass(31 * time.Second)
			case 4:
				pass(time.Millisecond)
			}
		}
		pass(time.Hour)
		var delivered []string
		for i, at := range r.tries {
			if i+1 == len(r.tries) || r.tries[i+1].id != at.id {
				delivered = append(delivered, at.id)
			}
		}
		if !slices.Equal(delivered, numbered(1, next-1)) {
			t.Errorf("delivered %v", delivered)
		}
		if n := b.d.fed.Load(); n != 0 {
			t.Errorf("%d bytes are held of events that were tried", n)
		}
		b.end()
	})
}

func TestAFedEventIsTheStoredOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		var got []Message
		b.d.Set("a", targetFunc(func(m *Message) { got = append(got, *m) }), Open)
		b.run()
		b.hand("a", 10, "fed")
		pass(time.Second)
		shard := staffetta.Shard("a", 2)
		b.d.Stored(shard, "a", b.store("a", "read", bytes.Repeat([]byte{'x'}, 10)), 10)
		pass(time.Second)
		if len(got) != 2 || got[0].Event.ID != "fed" || got[1].Event.ID != "read" {
			t.Fatalf("got %+v", got)
		}
		for _, m := range got {
			if m.Event.Type != "message.sent" || string(m.Event.Payload) != "xxxxxxxxxx" || m.Event.Replay || m.StoredAt.IsZero() || m.Sequence == 0 {
				t.Errorf("got %+v", m)
			}
		}
		b.end()
	})
}

func TestAQueueThatIsNeverEmptyDoesNotGrow(t *testing.T) {
	var w window
	for n := range 100_000 {
		w.push(&Message{Sequence: uint64(n)})
		if len(w.queue)-w.head > 10 {
			if w.queue[w.head].Sequence != uint64(n-10) {
				t.Fatalf("the head is %d, want %d", w.queue[w.head].Sequence, n-10)
			}
			w.queue[w.head] = Message{}
			w.head++
		}
	}
	if cap(w.queue) > 64 {
		t.Errorf("the queue of 10 has room for %d", cap(w.queue))
	}
}

// targetFunc takes everything, and shows it.
type targetFunc func(*Message)

func (f targetFunc) Attempt(_ context.Context, m *Message, _ int) (staffetta.Outcome, staffetta.Verdict) {
	f(m)
	return staffetta.Outcome{Status: 200}, staffetta.Verdict{}
}

func (f targetFunc) Drop(context.Context, *Message, int, staffetta.Outcome) error { return nil }
