package sender

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/staffetta-relay/staffetta"
)

func TestAFeedKeepsTheOrderOfEveryKeyWhileKeysGoSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys, events = 20, 60
		r := newFeedTaker(func(x feedTry) staffetta.Outcome {
			var k, n int
			_, _ = fmt.Sscanf(x.id, "%d.%d", &k, &n)
			if (n*7+k)%11 == 0 && x.n <= (n+k)%4 {
				return staffetta.Outcome{Status: []int{500, 503, 400}[n%3]}
			}
			return staffetta.Outcome{Status: 200}
		})
		r.takes = 5 * time.Millisecond
		b := newFeedBench(t, r)
		b.run(func(c *FeedConfig) { c.Batch, c.MaxRead, c.MaxOpen = 3, 100, 200 })
		var lines []string
		for n := 1; n <= events; n++ {
			for k := range keys {
				lines = append(lines, fmt.Sprintf("k%d %d.%d", k, k, n))
			}
		}
		for len(lines) > 0 {
			n := min(1+len(lines)%64, len(lines))
			b.store(lines[:n]...)
			lines = lines[n:]
		}
		pass(time.Hour)
		for k := range keys {
			var want []string
			for n := 1; n <= events; n++ {
				want = append(want, fmt.Sprintf("%d.%d", k, n))
			}
			wantIDs(t, fmt.Sprintf("key %d", k), r.taken(fmt.Sprintf("k%d", k)), want)
		}
		if r.most != 8 {
			t.Errorf("at most %d calls ran at a time, want the 8 that may", r.most)
		}
		last := b.feed.stream.CachedInfo().State.LastSeq
		if info, _ := b.feed.stream.Info(t.Context()); info != nil {
			last = info.State.LastSeq
		}
		if s := b.feed.State(); s.Delivered != keys*events || s.Done != last || s.DoneOnRecord != last || s.Waiting+s.InFlight+s.Read > 0 {
			t.Errorf("in the end the feed is at %+v, want all of %d blocks done", s, last)
		}
		b.end()
	})
}

func TestAPoisonedKeyOfAFeedNeverHoldsBackTheOthersAndIsDroppedAfterADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(byID(map[string]int{"bad": 400}))
		b := newFeedBench(t, r)
		b.run()
		pass(time.Second)
		r.start = time.Now()
		b.store("p bad", "p after", "a 0")
		want := []string{"0"}
		for n := 1; n < 100; n++ {
			pass(13*time.Minute + 17*time.Second)
			id := fmt.Sprint(n)
			want = append(want, id)
			b.store("a " + id)
			synctest.Wait()
			wantIDs(t, "the others", r.taken("a"), want)
		}
		pass(4 * time.Hour)
		var tries []time.Duration
		at, wait := time.Duration(0), time.Second
		for {
			tries = append(tries, at)
			if at >= 24*time.Hour {
				break
			}
			at += wait
			wait = min(2*wait, 5*time.Minute)
		}
		wantTimes(t, "the poisoned event", r.timesOf("bad"), tries)
		wantTimes(t, "the one behind it", r.timesOf("after"), []time.Duration{at})
		wantIDs(t, "dropped", r.dropped, []string{"bad"})
		if s := b.feed.State(); s.Dropped != 1 || s.Failed != uint64(len(tries)) || s.Down || s.LastError != "" {
			t.Errorf("in the end the feed is at %+v", s)
		}
		b.end()
	})
}

func TestAStrictFeedHoldsEverythingBehindAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := false
		r := newFeedTaker(func(x feedTry) staffetta.Outcome {
			if x.id == "2" && !up {
				return staffetta.Outcome{Status: 500}
			}
			return staffetta.Outcome{Status: 200}
		})
		b := newFeedBench(t, r)
		b.run(func(c *FeedConfig) { c.Order = OrderStrict })
		b.store("a 1", "b 2", "c 3")
		b.store("d 4", "a 5")
		pass(10 * time.Minute)
		wantIDs(t, "taken", r.taken(""), []string{"1"})
		wantTimes(t, "the head", r.timesOf("2"), seconds(0, 1, 3, 7, 15, 31, 63, 127, 255, 511))
		if s := b.feed.State(); s.Waiting != 4 || s.Down || s.Done != 0 || s.NextAttemptAt.Sub(r.start) != 811*time.Second {
			t.Errorf("a feed that waits is at %+v", s)
		}
		r.mu.Lock()
		up = true
		r.mu.Unlock()
		pass(10 * time.Minute)
		wantIDs(t, "taken", r.taken(""), numbered(1, 5))
		if r.most != 1 {
			t.Errorf("%d calls ran at a time", r.most)
		}
		b.end()
	})
}

func TestAFeedWithoutOrderHoldsNothingBack(t *testing.T) {
	for _, batch := range []int{1, 4} {
		synctest.Test(t, func(t *testing.T) {
			r := newFeedTaker(func(x feedTry) staffetta.Outcome {
				if x.id == "2" && x.at < 10*time.Second {
					return staffetta.Outcome{Status: 500}
				}
				return staffetta.Outcome{Status: 200}
			})
			b := newFeedBench(t, r)
			b.run(func(c *FeedConfig) { c.Order, c.Batch, c.Concurrency = OrderNone, batch, 1 })
			b.store("a 1", "a 2", "a 3", "b 4", "a 5", "b 6")
			synctest.Wait()
			taken := r.taken("")
			slices.Sort(taken)
			wantIDs(t, "taken at once", taken, []string{"1", "3", "4", "5", "6"})
			pass(time.Minute)
			wantTimes(t, "the failing one", r.timesOf("2"), seconds(0, 1, 3, 7, 15))
			if first := len(r.calls[0]); first != batch {
				t.Errorf("the first call had %d events, want %d", first, batch)
			}
			b.end()
		})
	}
}

func TestABatchOfAFeedIsSettledUpToTheEntryThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(nil)
		r.answer = func(x feedTry) staffetta.Outcome {
			if x.id == "3" && x.at < 2*time.Second {
				return staffetta.Outcome{Status: 500}
			}
			return staffetta.Outcome{Status: 200}
		}
		var records []string
		b := newFeedBench(t, r)
		b.run(func(c *FeedConfig) {
			c.Batch = 4
			c.Attempted = func(a *staffetta.AttemptRecord) {
				records = append(records, fmt.Sprintf("%s %s #%d %s", a.EventID, a.Verdict.Action, a.Attempt, a.Outcome))
				if a.Workspace != "receiver" || a.Endpoint != "crm" || a.Sequence != 1 || a.StoredAt.IsZero() || a.EventType == "" {
					t.Errorf("attempt on record as %+v", a)
				}
			}
		})
		b.store(under("a", numbered(1, 7)...)...)
		pass(time.Minute)
		want := [][]string{numbered(1, 4), numbered(3, 6), numbered(3, 6), {"7"}}
		if fmt.Sprint(r.calls) != fmt.Sprint(want) {
			t.Errorf("calls %v, want %v", r.calls, want)
		}
		wantTimes(t, "the failing one", r.timesOf("3"), seconds(0, 1, 3))
		wantIDs(t, "taken", r.taken(""), numbered(1, 7))
		wantIDs(t, "on record", records, []string{
			"1 delivered #1 status 0", "2 delivered #1 status 0", "3 retry #1 status 500", "3 retry #2 status 500",
			"3 delivered #3 status 200", "4 delivered #1 status 200", "5 delivered #1 status 200", "6 delivered #1 status 200",
			"7 delivered #1 status 200",
		})
		b.end()
	})
}

func TestRetryAfterPausesTheWholeTargetOfAFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(byID(nil))
		r.change = func(h *Handed) {
			if len(r.calls) == 2 {
				h.Accepted, h.Outcome, h.RetryAfter = 0, staffetta.Outcome{Status: 429}, 90*time.Second
				r.accepted = r.accepted[:len(r.accepted)-1]
			}
		}
		b := newFeedBench(t, r)
		b.run(func(c *FeedConfig) { c.Concurrency = 1 })
		b.store("a 1", "b 2", "c 3")
		pass(30 * time.Second)
		b.store("d 4")
		pass(10 * time.Second)
		wantIDs(t, "taken", r.taken(""), []string{"1"})
		if s := b.feed.State(); s.NextAttemptAt.Sub(r.start) != 90*time.Second {
			t.Errorf("the next attempt is said to be after %v", s.NextAttemptAt.Sub(r.start))
		}
		b.end()
		b.run(func(c *FeedConfig) { c.Concurrency = 1 }) // the pause outlives the process
		pass(2 * time.Minute)
		for _, id := range []string{"3", "4"} {
			wantTimes(t, id, r.timesOf(id), seconds(90))
		}
		wantTimes(t, "the one that was put off", r.timesOf("2"), seconds(0, 90))
		b.end()
	})
}

func TestAFeedProbesATargetThatIsDownAndSendsWhatWaitsAtOnceWhenItIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(func(x feedTry) staffetta.Outcome {
			switch {
			case x.id == "bad":
				return staffetta.Outcome{Status: 400}
			case x.at < 100*time.Second:
				return staffetta.Outcome{Error: staffetta.ErrorRefused}
			}
			return staffetta.Outcome{Status: 200}
		})
		b := newFeedBench(t, r)
		// All waits are long, so that the probes alone try something.
		b.run(func(c *FeedConfig) { c.Concurrency, c.Backoff.First, c.Backoff.Max = 5, time.Hour, time.Hour })
		var lines []string
		for n := range 40 {
			lines = append(lines, fmt.Sprintf("k%d %d", n, n))
		}
		b.store(append([]string{"p bad"}, lines...)...)
		pass(50 * time.Second)
		if s := b.feed.State(); !s.Down || s.LastError != "refused" || s.Delivered != 0 {
			t.Errorf("a target that refuses for 50 s is said to be at %+v", s)
		}
		pass(60 * time.Minute)
		var at []time.Duration
		for _, x := range r.tries {
			at = append(at, x.at)
		}
		slices.Sort(at)
		// After the first ones come the probes, and with the first success all that is left.
		first, _ := slices.BinarySearch(at, 1)
		if first < 5 || first > 20 { // the one that it refused said that it was there
			t.Errorf("%d were tried before the target was taken to be down, want 5 and those beside them, of before the refusal too", first)
		}
		wantTimes(t, "the whole from then on", at[first:first+9], seconds(1, 3, 7, 15, 31, 61, 91, 121, 121))
		for n := range 40 {
			times := r.timesOf(fmt.Sprint(n))
			if last := times[len(times)-1]; last != 121*time.Second {
				t.Errorf("%d was tried last at %v, want all at once when the target is up", n, last)
			}
		}
		wantTimes(t, "the event that is at fault itself", r.timesOf("bad"), seconds(0, 3600))
		b.end()
	})
}

func TestADropThatAFeedCannotRecordHoldsItsKeyAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(byID(map[string]int{"bad": 400}))
		full := true
		r.drop = func(string) error {
			if full {
				return errors.New("no space")
			}
			return nil
		}
		r.change = func(h *Handed) { h.Permanent = h.Outcome.Status == 400 }
		b := newFeedBench(t, r)
		b.run(func(c *FeedConfig) { c.Concurrency = 1 })
		b.store("p bad", "p after", "a 1")
		pass(10 * time.Minute)
		wantIDs(t, "tried", r.tried(), []string{"bad", "1"})
		r.mu.Lock()
		full = false
		r.mu.Unlock()
		pass(time.Second)
		wantIDs(t, "tried", r.tried(), []string{"bad", "1", "after"})
		wantIDs(t, "dropped", r.dropped, []string{"bad"})
		if o := r.dropOf["bad"]; o.Status != 400 {
			t.Errorf("dropped for %v", o)
		}
		b.end()
	})
}

func TestAnEventBeyondMaxAgeOfAFeedIsDroppedUntried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(byID(nil))
		b := newFeedBench(t, r)
		b.make()
		b.store("a 1", "b 2")
		pass(61 * time.Minute)
		b.store("a 3")
		b.run(func(c *FeedConfig) { c.MaxAge, c.Batch, c.Order = time.Hour, 10, OrderNone })
		pass(time.Second)
		wantIDs(t, "taken", r.taken(""), []string{"3"})
		slices.Sort(r.dropped)
		wantIDs(t, "dropped", r.dropped, []string{"1", "2"})
		if o := r.dropOf["1"]; o.Error != staffetta.ErrorHeld || o.Detail != "older than 1h0m0s" {
			t.Errorf("dropped for %v", o)
		}
		b.end()
	})
}

func TestAPanicOfAFeedsTargetIsAFailedAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(byID(nil))
		r.change = func(*Handed) {
			if len(r.calls) == 1 {
				panic("the database driver is at its end")
			}
		}
		b := newFeedBench(t, r)
		b.run()
		b.store("a 1")
		synctest.Wait()
		if s := b.feed.State(); s.LastError != "target: panic: the database driver is at its end" || s.Failed != 1 {
			t.Errorf("after a panic the feed is at %+v", s)
		}
		pass(time.Second)
		wantTimes(t, "the event", r.timesOf("1"), seconds(0, 1))
		b.end()
	})
}

func TestTheRateOfAFeedIsEvenAndExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(byID(nil))
		b := newFeedBench(t, r)
		b.run(func(c *FeedConfig) { c.Rate = 8 })
		for n := range 5 {
			b.store(under(fmt.Sprint("k", n), numbered(10*n+1, 10*n+10)...)...)
		}
		pass(time.Minute)
		if len(r.tries) != 50 {
			t.Fatalf("%d events went", len(r.tries))
		}
		for i, x := range r.tries {
			if want := time.Duration(i) * 125 * time.Millisecond; x.at != want {
				t.Errorf("event %d went at %v, want %v", i, x.at, want)
			}
		}
		b.store("a 51", "b 52") // a rest saves nothing up
		pass(time.Minute)
		if gap := r.tries[51].at - r.tries[50].at; gap != 125*time.Millisecond {
			t.Errorf("after a rest two events went within %v", gap)
		}
		b.end()
	})
}

func TestAFeedWithAFullTableReadsNoFurtherAndThenGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(func(x feedTry) staffetta.Outcome {
			if strings.HasPrefix(x.key, "p") && x.at < time.Minute {
				return staffetta.Outcome{Status: 400}
			}
			return staffetta.Outcome{Status: 200}
		})
		b := newFeedBench(t, r)
		b.run(func(c *FeedConfig) { c.MaxOpen, c.MaxRead = 20, 10 })
		for n := 1; n <= 100; n++ {
			b.store(fmt.Sprintf("p%d %d", n%7, n), fmt.Sprintf("ok %d", 1000+n))
		}
		pass(30 * time.Second)
		if s := b.feed.State(); s.Waiting+s.Read < 20 || s.Waiting+s.InFlight+s.Read > 20+10+2 {
			t.Errorf("with room for 20 waiting events the feed is at %+v", s)
		}
		pass(10 * time.Minute)
		if s := b.feed.State(); s.Delivered != 200 || s.Done != 100 {
			t.Errorf("in the end the feed is at %+v", s)
		}
		wantIDs(t, "a key that never failed", r.taken("ok"), numbered(1001, 1100))
		b.end()
	})
}

func TestBlocksOfAFeedThatHoldNothingForItAreDoneWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(byID(nil))
		b := newFeedBench(t, r)
		b.run()
		b.store("skip 1", "a 2", "skip 3")
		b.store("unreadable")
		b.store("skip 4")
		_, err := b.js.PublishMsg(t.Context(), &nats.Msg{Subject: "journal.b", Data: []byte("a 5")})
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		wantIDs(t, "taken", r.taken(""), []string{"2"})
		if s := b.feed.State(); s.Done != 3 || s.DoneOnRecord != 3 {
			t.Errorf("the feed is at %+v, want 3 blocks done", s)
		}
		b.end()
	})
}
