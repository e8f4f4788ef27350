package sender

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

// mortal is a JetStream whose process was killed: nothing that it publishes arrives.
type mortal struct {
	jetstream.JetStream
	dead atomic.Bool
}

func (m *mortal) PublishMsg(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if m.dead.Load() {
		return nil, errors.New("killed")
	}
	return m.JetStream.PublishMsg(ctx, msg, opts...)
}

func TestAFeedsFirstCursorIsOnRecordAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFeedBench(t, newFeedTaker(byID(nil)))
		b.store("a 1") // before the feed was known
		b.make()       // and killed at once
		b.store("a 2")
		b.run()
		b.store("a 3")
		pass(time.Second)
		wantIDs(t, "taken", b.taker.taken(""), []string{"2", "3"})
		b.end()
	})
}

func TestAStoppedFeedGoesOnInTheMiddleOfAWait(t *testing.T) {
	for _, order := range []Order{OrderKey, OrderStrict, OrderNone} {
		synctest.Test(t, func(t *testing.T) {
			r := newFeedTaker(byID(map[string]int{"bad": 500}))
			b := newFeedBench(t, r)
			b.run(func(c *FeedConfig) { c.Order, c.Concurrency = order, 1 })
			b.store("a 1", "p bad", "p after", "a 2")
			b.store("p 3", "a 4")
			pass(100 * time.Second) // in the wait of 64 s that ends at 127 s
			if s := b.feed.State(); s.Done != 0 {
				t.Errorf("%s: the feed is at %+v", order, s)
			}
			b.end()
			pass(10 * time.Second)
			before := len(r.tried())
			b.run(func(c *FeedConfig) { c.Order, c.Concurrency = order, 1 })
			pass(time.Second)
			if tries := r.tried(); len(tries) != before {
				t.Errorf("%s: after the restart %v was tried at once", order, tries[before:])
			}
			pass(10 * time.Minute)
			wantTimes(t, "the failing one", r.timesOf("bad"), seconds(0, 1, 3, 7, 15, 31, 63, 127, 255, 511))
			b.end()
			r.answer = byID(nil)
			b.run(func(c *FeedConfig) { c.Order, c.Concurrency = order, 1 })
			pass(time.Hour)
			taken := r.taken("")
			slices.Sort(taken)
			wantIDs(t, "taken", taken, []string{"1", "2", "3", "4", "after", "bad"})
			wantTimes(t, "the failing one", r.timesOf("bad"), seconds(0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 811))
			if s := b.feed.State(); s.Done != 2 || s.DoneOnRecord != 2 {
				t.Errorf("%s: in the end the feed is at %+v", order, s)
			}
			b.end()
		})
	}
}

func TestAStopInTheMiddleOfABlockOfAFeedRepeatsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(byID(nil))
		r.takes = time.Second
		b := newFeedBench(t, r)
		b.run(func(c *FeedConfig) { c.Order = OrderStrict })
		b.store(under("a", numbered(1, 5)...)...)
		b.store(under("b", numbered(6, 10)...)...)
		for range 4 {
			pass(1500 * time.Millisecond)
			b.end()
			b.run(func(c *FeedConfig) { c.Order = OrderStrict })
		}
		pass(time.Minute)
		wantIDs(t, "tried", r.tried(), numbered(1, 10))
		b.end()
	})
}

func TestAStopOfAFeedCutsOffWhatOutlastsItAndDoesNotCountIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(byID(nil))
		r.takes = 30 * time.Second
		b := newFeedBench(t, r)
		b.run()
		b.store("a 1", "a 2")
		pass(time.Second)
		b.end()
		if took := time.Since(r.start); took != 7*time.Second {
			t.Errorf("the stop was over after %v, want 6 s after it was asked for", took)
		}
		if s := b.feed.State(); s.Failed != 0 || s.InFlight != 0 {
			t.Errorf("after the stop the feed is at %+v", s)
		}
		r.takes = 0
		b.run()
		pass(time.Second)
		if x := r.tries; len(x) != 2 || x[0].id != "1" || x[0].n != 1 {
			t.Errorf("after the restart %v", x)
		}
		b.end()
	})
}

func TestAKilledFeedLosesNothingAndRepeatsAtMostTheLastInterval(t *testing.T) {
	for round := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(round, 1))
			const keys, events = 7, 40
			chance := rand.New(rand.NewPCG(round, 2)) // the taker's, under its lock
			r := newFeedTaker(nil)
			var salt uint64
			r.answer = func(x feedTry) staffetta.Outcome {
				if chance.Uint64N(10) < salt {
					return staffetta.Outcome{Status: []int{500, 503}[chance.Uint64N(2)]}
				}
				return staffetta.Outcome{Status: 200}
			}
			r.takes = 3 * time.Millisecond
			b := newFeedBench(t, r)
			alive := &mortal{JetStream: b.js}
			configure := func(c *FeedConfig) { c.JetStream, c.Batch, c.MaxRead = alive, 2, 50 }
			salt = 4
			b.run(configure)
			stored := 0
			for kill := range 6 {
				for ; stored < events*(kill+1)/6; stored++ {
					var lines []string
					for k := range keys {
						lines = append(lines, fmt.Sprintf("k%d %d", k, stored*keys+k))
					}
					b.store(lines...)
				}
				pass(time.Duration(random.IntN(700)) * time.Millisecond)
				// What is taken from now on, and was in the interval before, may be repeated.
				r.mu.Lock()
				sure := 0
				for _, x := range r.accepted {
					if time.Since(r.start)-x.at > 50*time.Millisecond {
						sure++
					}
				}
				certain := idsOfTries(r.accepted[:sure])
				r.mu.Unlock()
				alive.dead.Store(true)
				b.end()
				r.mu.Lock()
				at := len(r.accepted)
				r.mu.Unlock()
				alive = &mortal{JetStream: b.js}
				b.run(configure)
				pass(20 * time.Second)
				r.mu.Lock()
				for _, x := range r.accepted[at:] {
					if slices.Contains(certain, x.id) {
						t.Errorf("round %d: %s was on record for long and is repeated", round, x.id)
					}
				}
				r.mu.Unlock()
			}
			r.mu.Lock()
			salt = 0
			r.mu.Unlock()
			pass(2 * time.Hour)
			for k := range keys {
				wantRepeatsInOrder(t, r.taken(fmt.Sprintf("k%d", k)), k, keys, events)
			}
			b.end()
		})
	}
}

func idsOfTries(tries []feedTry) []string {
	var ids []string
	for _, x := range tries {
		ids = append(ids, x.id)
	}
	return ids
}

// wantRepeatsInOrder checks that a key's events were all taken, that each came first after the one
// before it, and that repeats go back and come on again in order.
func wantRepeatsInOrder(t *testing.T, ids []string, key, keys, events int) {
	t.Helper()
	next := 0
	last := -1
	for _, id := range ids {
		n, _ := strconv.Atoi(id)
		n = (n - key) / keys
		if n > next || n > last+1 {
			t.Errorf("key %d: event %d was taken after %d, with %d still to come first", key, n, last, next)
		}
		next, last = max(next, n+1), n
	}
	if next != events {
		t.Errorf("key %d: %d events were taken, want %d", key, next, events)
	}
}

func TestOfTwoProcessesOnOneFeedOneStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFeedBench(t, newFeedTaker(byID(nil)))
		b.run()
		pass(time.Second)
		first := b.done
		b.run()
		pass(time.Second)
		if r, err := b.feed.load(t.Context()); err != nil || r.writer != b.feed.id {
			t.Errorf("a process that starts does not take the record: it is %q's, %v", r.writer, err)
		}
		b.store("a 1")
		if err := <-first; !errors.Is(err, ErrShardTaken) {
			t.Errorf("the process that was there before ended with %v", err)
		}
		b.store("a 2")
		pass(time.Second)
		if s := b.feed.State(); s.DoneOnRecord != 2 {
			t.Errorf("the one that stays is at %+v", s)
		}
		b.end()
	})
}

func TestALateAnswerToAWriteOfAFeedIsNoSecondProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFeedBench(t, newFeedTaker(byID(nil)))
		b.run()
		pass(time.Second)
		// A write of this process that it has not heard of.
		record := appendFeedHead(nil, b.feed.id, position{1, 0}, time.Time{})
		if _, err := b.js.Publish(t.Context(), staffetta.FeedCursorSubject("crm"), record); err != nil {
			t.Fatal(err)
		}
		b.store("a 1")
		pass(time.Minute)
		if s := b.feed.State(); s.DoneOnRecord != 1 {
			t.Errorf("the feed is at %+v", s)
		}
		b.end()
	})
}

func TestAFeedAheadOfTheStoreGoesOnAtItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFeedBench(t, newFeedTaker(byID(nil)))
		record := appendFeedHead(nil, "somebody", position{1000, 2}, time.Time{})
		record = appendMark(record, 0, &feedMark{position: position{999, 0}})
		if _, err := b.js.Publish(t.Context(), staffetta.FeedCursorSubject("crm"), record); err != nil {
			t.Fatal(err)
		}
		b.run()
		b.store("a 1")
		pass(time.Second)
		wantIDs(t, "taken", b.taker.taken(""), []string{"1"})
		b.end()
	})
}

func TestAFeedGoesOnWhenItsConnectionIsCutOrItsConsumerLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFeedBench(t, newFeedTaker(byID(nil)))
		own := embedtest.JetStream(t, b.srv)
		b.run(func(c *FeedConfig) { c.JetStream = own })
		pass(time.Second)
		for round := range 20 {
			// The first block may be on its way when the connection is cut, and nothing comes after it.
			if _, err := b.js.PublishAsync("journal.a", fmt.Appendf(nil, "a %d", 2*round+1)); err != nil {
				t.Fatal(err)
			}
			if round%4 > 0 {
				if err := own.Conn().ForceReconnect(); err != nil {
					t.Fatal(err)
				}
			} else {
				for name := range b.feed.stream.ConsumerNames(t.Context()).Name() {
					_ = b.feed.stream.DeleteConsumer(t.Context(), name)
				}
			}
			pass(5 * time.Second)
			wantIDs(t, "taken", b.taker.taken(""), numbered(1, 2*round+1))
			b.store(fmt.Sprint("a ", 2*round+2))
			pass(5 * time.Second)
			wantIDs(t, "taken", b.taker.taken(""), numbered(1, 2*round+2))
		}
		b.end()
	})
}

func TestAFeedPassesOverEventsThatAreNoLongerStored(t *testing.T) {
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newFeedTaker(byID(map[string]int{"bad": 500}))
			b := newFeedBench(t, r)
			b.run()
			b.store("p bad", "p gone")
			b.store("p 1")
			pass(2 * time.Second)
			if restart {
				b.end()
			}
			if err := b.feed.stream.Purge(t.Context(), jetstream.WithPurgeSequence(2)); err != nil {
				t.Fatal(err)
			}
			if restart {
				b.run()
			}
			pass(time.Minute)
			wantIDs(t, "taken", r.taken(""), []string{"1"})
			if s := b.feed.State(); s.Done != 2 {
				t.Errorf("the feed is at %+v", s)
			}
			b.end()
		})
	}
}

// The record is written at a start before anything is read: a kill right behind that must cost nothing.
func TestAFeedThatIsKilledSoonAfterAStartInTheMiddleOfABlockRepeatsNothingOfBefore(t *testing.T) {
	for _, order := range []Order{OrderKey, OrderStrict} {
		synctest.Test(t, func(t *testing.T) {
			r := newFeedTaker(byID(nil))
			r.takes = time.Second
			b := newFeedBench(t, r)
			b.run(func(c *FeedConfig) { c.Order = order })
			b.store(under("a", numbered(1, 3)...)...)
			b.store(under("a", numbered(4, 10)...)...)
			pass(5500 * time.Millisecond)
			b.end() // the sixth is let end
			wantIDs(t, "tried before", r.tried(), numbered(1, 6))
			for range 3 { // each takes the seventh, and cannot put it on record
				alive := &mortal{JetStream: b.js}
				b.run(func(c *FeedConfig) { c.Order, c.JetStream, c.CursorInterval = order, alive, time.Hour })
				pass(500 * time.Millisecond)
				alive.dead.Store(true)
				b.end()
			}
			if at := b.feed.start.high; at != (position{2, 3}) {
				t.Errorf("%s: the record is at %v, want the fourth event of the second block", order, at)
			}
			b.run(func(c *FeedConfig) { c.Order = order })
			pass(time.Minute)
			wantIDs(t, "tried", r.tried(), slices.Concat(numbered(1, 6), []string{"7", "7", "7"}, numbered(7, 10)))
			b.end()
		})
	}
}

func TestAFeedWhoseClockWasSetBackInAPauseWaitsNoLongerThanAPauseMayBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFeedBench(t, newFeedTaker(byID(nil)))
		record := appendFeedHead(nil, "somebody", position{1, 0}, time.Now().Add(1000*time.Hour))
		if _, err := b.js.Publish(t.Context(), staffetta.FeedCursorSubject("crm"), record); err != nil {
			t.Fatal(err)
		}
		b.run()
		b.store("a 1")
		pass(maxPause - time.Second)
		wantIDs(t, "taken in the pause", b.taker.taken(""), nil)
		pass(2 * time.Second)
		wantIDs(t, "taken behind it", b.taker.taken(""), []string{"1"})
		b.end()
	})
}

func TestAFeedThatHadNoRoomForLongGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(func(x feedTry) staffetta.Outcome {
			if x.at < 3*time.Hour {
				return staffetta.Outcome{Status: 503}
			}
			return staffetta.Outcome{Status: 200}
		})
		b := newFeedBench(t, r)
		b.run(func(c *FeedConfig) { c.MaxRead, c.MaxOpen = 10, 10 })
		for n := 1; n <= 200; n++ {
			b.store(fmt.Sprintf("k%d %d", n%50, n))
		}
		pass(4 * time.Hour)
		if s := b.feed.State(); s.Delivered != 200 || s.Done != 200 {
			t.Errorf("in the end the feed is at %+v", s)
		}
		b.end()
	})
}

func TestAFeedPutsARetryOnRecordAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(byID(map[string]int{"bad": 500}))
		b := newFeedBench(t, r)
		alive := &mortal{JetStream: b.js}
		b.run(func(c *FeedConfig) { c.JetStream, c.CursorInterval = alive, time.Hour })
		b.store("a bad")
		pass(4 * time.Second)
		alive.dead.Store(true)
		b.end()
		b.run()
		pass(10 * time.Second)
		wantTimes(t, "the event", r.timesOf("bad"), seconds(0, 1, 3, 7))
		b.end()
	})
}

func TestARestartOfAFeedDoesNotProlongTheTimeThatAnEventIsTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(byID(map[string]int{"bad": 500}))
		b := newFeedBench(t, r)
		short := func(c *FeedConfig) { c.Backoff.For = 500 * time.Second }
		b.run(short)
		b.store("a bad")
		pass(2 * time.Minute)
		b.end()
		b.run(short)
		pass(time.Hour)
		wantTimes(t, "the event", r.timesOf("bad"), seconds(0, 1, 3, 7, 15, 31, 63, 127, 255, 511))
		wantIDs(t, "dropped", r.dropped, []string{"bad"})
		b.end()
	})
}
