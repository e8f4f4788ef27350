package sender

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// undertaker is a recorder that also notes why events were given up, and after how many attempts.
type undertaker struct {
	*recorder
	mu      sync.Mutex
	reasons []string
	counts  []int
}

func (u *undertaker) Drop(ctx context.Context, m *Message, n int, o staffetta.Outcome) error {
	if err := u.recorder.Drop(ctx, m, n, o); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reasons, u.counts = append(u.reasons, o.String()), append(u.counts, n)
	return nil
}

func (u *undertaker) given() []string {
	u.recorder.mu.Lock()
	defer u.recorder.mu.Unlock()
	return slices.Clone(u.dropped)
}

func TestHeldEventsBeyondTheCountAreGivenUpOldestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir(), func(c *Config) { c.HoldMaxEvents = 30 })
		u := &undertaker{recorder: newRecorder(always(200))}
		b.d.Set("a", u, Held)
		b.run()
		b.send("a", numbered(1, 100)...)
		pass(time.Minute)
		if got := u.given(); !slices.Equal(got, numbered(1, 70)) {
			t.Errorf("given up: %v, want 1 to 70", got)
		}
		if u.reasons[0] != "held: beyond 30 events for a disabled endpoint" || u.counts[0] != 0 {
			t.Errorf("given up for %q after %d attempts", u.reasons[0], u.counts[0])
		}
		if s, _ := b.d.State("a"); s.Backlog != 30 || s.OldestAt.IsZero() {
			t.Errorf("the lane is at %+v, want 30 events and the time of the first", s)
		}
		b.send("a", "101")
		pass(time.Minute)
		if got := u.given(); !slices.Equal(got, numbered(1, 71)) {
			t.Errorf("given up after one more: %v, want 1 to 71", got)
		}
		b.d.Set("a", u, Open)
		pass(time.Second)
		if got := u.ids(); !slices.Equal(got, numbered(72, 101)) {
			t.Errorf("delivered %v, want 72 to 101", got)
		}
		b.end()
	})
}

func TestHeldEventsBeyondTheAgeAreGivenUpAndYoungerOnesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir(), func(c *Config) { c.HoldMaxAge = time.Hour })
		u := &undertaker{recorder: newRecorder(always(500))}
		b.d.Set("a", u, Open)
		b.run()
		b.send("a", "1", "2")
		pass(40 * time.Second) // two attempts of the first
		b.d.Set("a", u, Held)
		pass(30 * time.Minute)
		b.send("a", "3")
		pass(29 * time.Minute)
		if got := u.given(); len(got) > 0 {
			t.Errorf("given up before the hour: %v", got)
		}
		pass(time.Minute)
		if got := u.given(); !slices.Equal(got, []string{"1", "2"}) || !slices.Equal(u.counts, []int{2, 0}) ||
			!strings.HasPrefix(u.reasons[1], "held: longer than 1h") {
			t.Errorf("given up: %v after %v attempts for %q", got, u.counts, u.reasons)
		}
		pass(time.Hour)
		if got := u.given(); len(got) != 3 {
			t.Errorf("given up in the end: %v, want all", got)
		}
		if s, _ := b.d.State("a"); s.Backlog != 0 || !s.OldestAt.IsZero() || s.Attempt != 0 || s.LastError != "" {
			t.Errorf("an empty lane is at %+v", s)
		}
		b.end()
	})
}

func TestALaneThatOpensWhileItGivesEventsUpLosesNoneAndKeepsTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir(), func(c *Config) { c.HoldMaxEvents = 20 })
		u := &undertaker{recorder: newRecorder(always(200))}
		u.drop = func(string) error { <-time.After(time.Second); return nil }
		b.d.Set("a", u, Held)
		b.run()
		b.send("a", numbered(1, 100)...)
		pass(25 * time.Second) // in the middle of the eighty
		b.d.Set("a", u, Open)
		pass(time.Minute)
		dropped, delivered := u.given(), u.ids()
		if len(dropped) < 2 || len(dropped) > 30 {
			t.Errorf("%d events were given up when the lane opened: the test proves nothing", len(dropped))
		}
		if got := slices.Concat(dropped, delivered); !slices.Equal(got, numbered(1, 100)) {
			t.Errorf("given up %v, delivered %v: want 1 to 100 once and in order", dropped, delivered)
		}
		b.end()
	})
}

func TestARestartInTheMiddleOfGivingUpGoesOnWhereItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bounds := func(c *Config) { c.HoldMaxEvents = 20 }
		b := newBench(t, t.TempDir(), bounds)
		u := &undertaker{recorder: newRecorder(always(200))}
		u.drop = func(string) error { <-time.After(time.Second); return nil }
		b.d.Set("a", u, Held)
		b.run()
		b.send("a", numbered(1, 100)...)
		pass(25 * time.Second)
		b.end()
		b.dispatcher(bounds)
		b.d.Set("a", u, Held)
		b.run()
		pass(2 * time.Minute)
		if got := u.given(); !slices.Equal(got, numbered(1, 80)) {
			t.Errorf("given up %v, want 1 to 80 once", got)
		}
		b.end()
	})
}

func TestARestartedLaneThatStandsStillKnowsItsHeadAndItsBacklog(t *testing.T) {
	for name, mode := range map[string]Mode{"held": Held, "waiting": Open} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, t.TempDir())
				r := newRecorder(always(500))
				b.d.Set("a", r, mode)
				b.run()
				stored := time.Now()
				b.send("a", "1")
				pass(10 * time.Second)
				b.send("a", numbered(2, 40)...)
				b.send(neighbour("a"), numbered(1, 10)...)
				pass(time.Second)
				before, _ := b.d.State("a")
				b.end()
				b.dispatcher()
				b.d.Set("a", r, mode)
				b.run()
				pass(time.Second)
				s, _ := b.d.State("a")
				if s.Backlog != 40 || s.OldestAt.Sub(stored).Abs() > time.Second {
					t.Errorf("after the restart the lane is at %+v, before at %+v", s, before)
				}
				if mode == Open && (s.Attempt != 1 || s.NextAttemptAt.Sub(stored).Round(time.Second) != 30*time.Second) {
					t.Errorf("the waiting lane is at %+v", s)
				}
				b.end()
			})
		})
	}
}

func TestALaneThatStopsItselfShowsSinceWhenItsHeadWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		r := newRecorder(always(500))
		stopping := &stopper{recorder: r}
		b.d.Set("a", stopping, Open)
		b.run()
		b.send("a", numbered(1, 3)...)
		pass(10 * time.Minute)
		if got := len(r.ids()); got != 1 {
			t.Errorf("%d attempts were made, want the one that said stop", got)
		}
		s, _ := b.d.State("a")
		if s.Backlog != 3 || s.OldestAt.IsZero() || !s.NextAttemptAt.IsZero() || s.Attempt != 1 || s.LastError != "status 500" {
			t.Errorf("the lane is at %+v", s)
		}
		b.end()
	})
}

// stopper says stop at every failure.
type stopper struct{ *recorder }

func (s *stopper) Attempt(ctx context.Context, m *Message, n int) (staffetta.Outcome, staffetta.Verdict) {
	o, v := s.recorder.Attempt(ctx, m, n)
	v.Stop = v.Counts
	return o, v
}

func TestADurationReadsShort(t *testing.T) {
	for want, d := range map[string]time.Duration{"72h": 72 * time.Hour, "90m": 90 * time.Minute, "1m30s": 90 * time.Second} {
		if got := shortDuration(d); got != want {
			t.Errorf("%v reads %q, want %q", d, got, want)
		}
	}
}
