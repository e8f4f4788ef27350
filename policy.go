package staffetta

import "time"

// Policy holds the delivery rules as values. The zero value is of no use: start from DefaultPolicy.
type Policy struct {
	// Deadline is how long one attempt may take, from the first byte dialled to the last byte of
	// the response head; DNS, TCP and TLS are included.
	Deadline time.Duration
	// Retry holds the gaps between a failed attempt and the next one. An event has
	// len(Retry)+1 attempts; when the last has failed it is dropped.
	Retry []time.Duration
	// LocalRetry is the gap after a fault of our own (no free descriptor, a full local queue):
	// such an attempt is not one of the endpoint's and leaves its number as it was.
	LocalRetry time.Duration
}

// DefaultPolicy is what respond.io promises its customers: an answer within 5 seconds, retries
// after 30, 60 and 90 seconds.
func DefaultPolicy() Policy {
	return Policy{
		Deadline:   5 * time.Second,
		Retry:      []time.Duration{30 * time.Second, 60 * time.Second, 90 * time.Second},
		LocalRetry: time.Second,
	}
}

// Attempts is how many times an event is tried before it is dropped.
func (p Policy) Attempts() int { return len(p.Retry) + 1 }

// Validate reports the first value that cannot be a rule.
func (p Policy) Validate() error {
	if p.Deadline < 10*time.Millisecond || p.Deadline > 5*time.Minute {
		return invalid("invalid_deadline", "deadline", "must be between 10ms and 5m")
	}
	if len(p.Retry) > 100 {
		return invalid("invalid_retry", "retry", "lists more than 100 waits")
	}
	for _, wait := range p.Retry {
		if wait < 0 || wait > 24*time.Hour {
			return invalid("invalid_retry", "retry", "every wait must be between 0s and 24h, such as 30s,60s,90s")
		}
	}
	if p.LocalRetry <= 0 {
		return invalid("invalid_local_retry", "local retry", "must be above 0")
	}
	return nil
}
