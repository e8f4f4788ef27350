package bench

import (
	"math"
	"time"
)

// Pacer plans the sends of an open loop: a rate that goes from one value to another in a straight
// line. It is a value and pure, so that what was planned does not depend on what has happened.
type Pacer struct {
	// From and To are the sends a second at the start and at the end.
	From, To float64
	// Over is how long it takes.
	Over time.Duration
}

// Constant plans the same rate all the time.
func Constant(perSecond float64, over time.Duration) Pacer {
	return Pacer{From: perSecond, To: perSecond, Over: over}
}

// Rate is the planned rate at a time from the start.
func (p Pacer) Rate(at time.Duration) float64 {
	switch {
	case at < 0 || at > p.Over || p.Over <= 0:
		return 0
	default:
		return p.From + (p.To-p.From)*float64(at)/float64(p.Over)
	}
}

// Sends is how many are planned in all.
func (p Pacer) Sends() uint64 {
	if n := (p.From + p.To) / 2 * p.Over.Seconds(); n > 0 {
		return uint64(n + 1e-6) // what is an integer but for rounding is that integer
	}
	return 0
}

// At is when the n-th send is planned, from the start; the first one is number 0.
func (p Pacer) At(n uint64) time.Duration {
	if n == 0 {
		return 0
	}
	// From·t + slope/2·t² = n, solved for t in the form that is exact for a slope of 0 too.
	slope := (p.To - p.From) / p.Over.Seconds()
	root := math.Sqrt(max(0, p.From*p.From+2*slope*float64(n)))
	return time.Duration(math.Round(2 * float64(n) / (p.From + root) * float64(time.Second)))
}

// Pace says how long to wait before the next send when so many were sent in the time elapsed; stop
// says that the plan is fulfilled. A sender that is behind does not wait.
func (p Pacer) Pace(elapsed time.Duration, sent uint64) (wait time.Duration, stop bool) {
	if sent >= p.Sends() {
		return 0, true
	}
	return max(0, p.At(sent)-elapsed), false
}
