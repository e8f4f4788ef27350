package sender

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

func TestAFeedProbesWithOneEventThoughItHasBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(func(x feedTry) staffetta.Outcome {
			if x.at < 20*time.Second {
				return staffetta.Outcome{Status: 503}
			}
			return staffetta.Outcome{Status: 200}
		})
		b := newFeedBench(t, r)
		b.run(func(c *FeedConfig) { c.Order, c.Batch = OrderStrict, 10 })
		b.store(under("a", numbered(1, 20)...)...)
		pass(time.Minute)
		var sizes []int
		for _, ids := range r.calls {
			sizes = append(sizes, len(ids))
		}
		if fmt.Sprint(sizes) != "[10 10 10 10 10 1 10 9]" {
			t.Errorf("the calls had %v events", sizes)
		}
		b.end()
	})
}

func TestAFeedPausesForAnHourAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(byID(map[string]int{"1": 503}))
		r.change = func(h *Handed) {
			if h.Accepted == 0 {
				h.RetryAfter = 1000 * time.Hour
			}
		}
		b := newFeedBench(t, r)
		b.run()
		b.store("a 1")
		pass(90 * time.Minute)
		wantTimes(t, "the event", r.timesOf("1"), seconds(0, 3600))
		b.end()
	})
}

func TestAFeedSaysOnceThatItsTargetIsDownAndOnceThatItIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := newFeedTaker(func(x feedTry) staffetta.Outcome {
			if x.at < time.Minute {
				return staffetta.Outcome{Error: staffetta.ErrorTimeout}
			}
			return staffetta.Outcome{Status: 200}
		})
		b := newFeedBench(t, r)
		b.run(func(c *FeedConfig) { c.Log = zerolog.New(&log) })
		for n := range 50 {
			b.store(fmt.Sprintf("k%d %d", n, n))
		}
		pass(time.Hour)
		b.end()
		want := `{"level":"warn","feed":"crm","workspace":"receiver","endpoint":"crm","outcome":"timeout","message":"the target takes nothing; trying it with one event at a time"}
{"level":"info","feed":"crm","workspace":"receiver","endpoint":"crm","message":"the target takes events again"}
`
		if log.String() != want {
			t.Errorf("the log says\n%s", log.String())
		}
	})
}

func TestATargetThatIsWellIsNotHeldToBeDownForTheEventsThatItRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFeedTaker(func(x feedTry) staffetta.Outcome {
			if x.id[0] == 'p' { // poison
				return staffetta.Outcome{Status: 500}
			}
			return staffetta.Outcome{Status: 200}
		})
		b := newFeedBench(t, r)
		b.run()
		var lines, good []string
		for n := range 100 {
			lines = append(lines, fmt.Sprintf("refused%d p%d", n, n))
		}
		b.store(lines...)
		pass(10 * time.Minute) // all of them have failed many times, and some are due at any time
		began := len(r.taken("a"))
		for n := range 20 {
			b.store(fmt.Sprintf("a g%d", n))
			good = append(good, fmt.Sprintf("g%d", n))
		}
		pass(31 * time.Second) // one gap between probes at the most
		t.Logf("%+v %v", b.feed.State(), r.timesOf("g0"))
		for _, x := range r.tries[max(0, len(r.tries)-8):] {
			t.Log(x)
		}
		wantIDs(t, "taken", r.taken("a")[began:], good)
		b.end()
	})
}
