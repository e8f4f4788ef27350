package sender

import (
	"testing"
	"time"
)

func TestTheRateOfAFeedIsExactThoughTimersAreLate(t *testing.T) {
	start := time.Unix(0, 0)
	b := newBrake(3000)
	now, events := start, 0
	var last time.Time
	for now.Before(start.Add(10 * time.Second)) {
		for !b.opensAt(now, position{}).After(now) {
			b.start(now, 1)
			events++
			last = now
		}
		// A timer of 333 µs that rings up to 5 ms late.
		now = now.Add(time.Millisecond + time.Duration(events%5)*time.Millisecond)
	}
	if events < 29_980 || events > 30_001 {
		t.Errorf("%d events in 10 s at 3000/s", events)
	}
	// A standstill is made up for to a small extent only, a rest not at all.
	for _, lag := range []struct {
		held bool
		most int
	}{{true, 62}, {false, 1}} {
		now = last.Add(time.Hour)
		b.held = lag.held
		n := 0
		for ; !b.opensAt(now, position{}).After(now); n++ {
			b.start(now, 1)
		}
		if n < 1 || n > lag.most {
			t.Errorf("after an hour (held %v) %d events went at once, want at most %d", lag.held, n, lag.most)
		}
		last = now
	}
}

func TestABrakeOfAFeedCountsEveryEventOfABatch(t *testing.T) {
	now := time.Unix(0, 0)
	b := newBrake(10)
	b.start(now, 5)
	if at := b.opensAt(now, position{}); at.Sub(now) != 500*time.Millisecond {
		t.Errorf("after 5 events at 10/s the next may go after %v", at.Sub(now))
	}
}

func TestOneEventThatFailsAgainAndAgainDoesNotHoldBackTheFeed(t *testing.T) {
	now := time.Unix(0, 0)
	b := newBrake(0)
	bad, other := position{1, 0}, position{1, 1}
	for n := range 9 {
		if went := b.failed(now, bad, b.down); went != (n == downAfter-1) {
			t.Errorf("failure %d: down only now: %v", n+1, went)
		}
	}
	if at := b.opensAt(now, bad); at.Sub(now) != 16*time.Second {
		t.Errorf("the failing event may be tried after %v, want 16s", at.Sub(now))
	}
	if at := b.opensAt(now, other); at.After(now) {
		t.Errorf("another event waits for %v", at.Sub(now))
	}
	b.failed(now, other, true)
	if at := b.opensAt(now, position{2, 0}); at.Sub(now) != lastProbeGap {
		t.Errorf("after failures of two events the gap is %v", at.Sub(now))
	}
	if !b.succeeded() || b.opensAt(now, bad).After(now) || b.succeeded() {
		t.Error("a success does not end it")
	}
	for range downAfter {
		b.failed(now, bad, b.down)
	}
	if at := b.opensAt(now, other); at.After(now) {
		t.Error("after a success it is still known that several events failed before")
	}
}
