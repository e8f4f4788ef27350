package sender

import "time"

// The brake's bounds.
const (
	// downAfter is how many attempts in a row fail before the target is taken to be down.
	downAfter = 5
	// The gap between two probes of a target that is down doubles from the first to the last of these.
	firstProbeGap = time.Second
	lastProbeGap  = 30 * time.Second
	// maxPause bounds what a target may ask for with Retry-After.
	maxPause = time.Hour
	// rateLateness is how far the steps of a rate may lag behind, for timers are late; it is made up for.
	rateLateness = 20 * time.Millisecond
)

// brake says when the target may be called: at its rate, not while it asked for a pause, and with one
// event at a time while it is down.
type brake struct {
	step time.Duration // between two events; 0 without a rate
	next time.Time     // when the next event may go
	held bool          // something waited for that, and the steps may lag behind

	pausedUntil time.Time

	failures int      // attempts that failed in a row
	only     position // the event that all of them were of, unless several is set
	several  bool
	down     bool
	gap      time.Duration
	probeAt  time.Time
}

func newBrake(rate float64) brake {
	if rate <= 0 {
		return brake{}
	}
	return brake{step: time.Duration(float64(time.Second) / rate)}
}

// opensAt is when the event at p may be tried, which is not after now where it may be at once. Of a
// target that is down nobody knows more than that while something is under way: the caller waits for it.
func (b *brake) opensAt(now time.Time, p position) time.Time {
	at := now
	if b.step > 0 {
		b.held = b.held || b.next.After(now)
		at = later(at, b.next)
	}
	at = later(at, b.pausedUntil)
	if b.down && (b.several || b.suspects(p)) {
		at = later(at, b.probeAt)
	}
	return at
}

// suspects reports that the target is taken to be down because of the event at p alone, which has
// failed time and again. That may be the event's fault: others need not wait for the next probe.
func (b *brake) suspects(p position) bool { return b.down && !b.several && p == b.only }

// start takes notice of n events that are handed over.
func (b *brake) start(now time.Time, n int) {
	if b.step == 0 {
		return
	}
	// Events that waited for their step keep the steps even; after a rest they start anew, for what
	// was not used is not saved.
	floor := now
	if b.held {
		floor = now.Add(-rateLateness)
	}
	b.next = later(b.next, floor).Add(time.Duration(n) * b.step)
	b.held = b.held && b.next.Before(now) // it is still behind
}

// pause keeps the target from being called for d.
func (b *brake) pause(now time.Time, d time.Duration) {
	b.pausedUntil = later(b.pausedUntil, now.Add(d))
}

// succeeded notes that the target took something; it reports whether it had been down.
func (b *brake) succeeded() bool {
	was := b.down
	b.failures, b.several, b.down = 0, false, false
	return was
}

// failed notes that the target did not take the event at p; probe says that the target was down
// when that was tried. It reports whether the target is down only now.
func (b *brake) failed(now time.Time, p position, probe bool) bool {
	b.several = b.several || b.failures > 0 && p != b.only
	b.only = p
	b.failures++
	switch {
	case b.down && probe:
		b.gap = min(2*b.gap, lastProbeGap)
		b.probeAt = now.Add(b.gap)
	case !b.down && b.failures >= downAfter:
		b.down, b.gap = true, firstProbeGap
		b.probeAt = now.Add(b.gap)
		return true
	}
	return false
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// sooner gives the earlier of two times; a zero one is none.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
