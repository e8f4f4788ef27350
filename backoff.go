package staffetta

import "time"

// Backoff says when an event that a receiver's target did not take is tried again: after First, then
// after twice as long each time up to Max, until For has passed since the first failure.
type Backoff struct {
	First, Max time.Duration
	// For is how long an event is tried at all; then it goes to the dead letters.
	For time.Duration
	// Jitter is the part of a wait, 0 to 1, that chance may take off it: many events that failed
	// together are not all tried again together.
	Jitter float64
}

// DefaultBackoff tries after 1 s, 2 s, 4 s and so on up to 5 minutes, for 24 hours.
func DefaultBackoff() Backoff {
	return Backoff{First: time.Second, Max: 5 * time.Minute, For: 24 * time.Hour, Jitter: 0.2}
}

// Validate reports the first value that cannot be a rule.
func (b Backoff) Validate() error {
	switch {
	case b.First < time.Millisecond || b.First > time.Hour:
		return invalid("invalid_backoff", "retry first", "must be between 1ms and 1h")
	case b.Max < b.First || b.Max > 24*time.Hour:
		return invalid("invalid_backoff", "retry max", "must be between the first wait and 24h")
	case b.For < 0 || b.For > 90*24*time.Hour:
		return invalid("invalid_backoff", "retry for", "must be between 0s (try once) and 90 days")
	case !(b.Jitter >= 0 && b.Jitter <= 1):
		return invalid("invalid_backoff", "retry jitter", "must be between 0 and 1")
	}
	return nil
}

// Wait is the gap after failure number n (from 1). chance, from 0 to below 1, is what the jitter goes by.
func (b Backoff) Wait(n int, chance float64) time.Duration {
	wait := b.First
	for i := 1; i < n && wait < b.Max; i++ {
		wait *= 2
	}
	wait = min(wait, b.Max)
	return wait - time.Duration(float64(wait)*b.Jitter*chance)
}

// Decide turns failure number n (from 1) of an event, failing since the first one, into what happens
// next. asked is what the target said with Retry-After, 0 for nothing: it is never undercut.
func (b Backoff) Decide(o Outcome, n int, failing, asked time.Duration, chance float64) Verdict {
	switch {
	case o.Error == ErrorLocal:
		return Verdict{Action: Again, Wait: b.First}
	case o.Error == ErrorHeld, failing >= b.For:
		return Verdict{Action: Drop, Counts: o.Error != ErrorHeld}
	default:
		return Verdict{Action: Retry, Wait: max(b.Wait(n, chance), asked), Counts: true}
	}
}
