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
	// Quota says when failures disable an endpoint.
	Quota Quota
}

// Quota is how many failed attempts are borne within a sliding window. The failure that takes the
// window over it disables the endpoint that made it.
type Quota struct {
	// Failures is the number that is still borne; 0 disables never.
	Failures int
	// Window is how long a failure counts, in whole seconds; 0 stands for DefaultQuotaWindow.
	Window time.Duration
}

// DefaultQuotaWindow is how long a failure counts unless something else is said.
const DefaultQuotaWindow = 30 * time.Minute

// Exceeded reports whether a window with count failures is over the quota.
func (q Quota) Exceeded(count int) bool { return q.Failures > 0 && count > q.Failures }

// quotaLevels are the parts of a quota, in percent, at which somebody is told.
var quotaLevels = [...]int{100, 80, 50}

// Level is the highest of 50, 80 and 100 percent of the quota that count has reached, or 0.
func (q Quota) Level(count int) int {
	for _, level := range quotaLevels {
		if q.Failures > 0 && count*100 >= q.Failures*level {
			return level
		}
	}
	return 0
}

// levelMargin is how far below a level, in percent of the quota, a window must have fallen before
// the level can be reached anew: one that hovers around a level is told of once.
const levelMargin = 20

// Rearmed is what is left of a level that was told of, once the window has fallen to count.
func (q Quota) Rearmed(told, count int) int {
	for _, level := range quotaLevels {
		if level <= told && count*100 >= q.Failures*(level-levelMargin) {
			return level
		}
	}
	return 0
}

// Validate reports the first value that cannot be a quota.
func (q Quota) Validate() error {
	if q.Failures < 0 || q.Failures > MaxQuota {
		return invalid("invalid_quota", "quota", "must be between 0 (never disable) and 1000000")
	}
	if q.Window != 0 && (q.Window < time.Second || q.Window > 24*time.Hour || q.Window%time.Second != 0) {
		return invalid("invalid_quota_window", "quota-window", "must be between 1s and 24h, in whole seconds")
	}
	return nil
}

// MaxQuota is the largest quota.
const MaxQuota = 1_000_000

// DefaultPolicy is what respond.io promises its customers: an answer within 5 seconds, retries
// after 30, 60 and 90 seconds, and a webhook disabled by more than 30 failures in 30 minutes.
func DefaultPolicy() Policy {
	return Policy{
		Deadline:   5 * time.Second,
		Retry:      []time.Duration{30 * time.Second, 60 * time.Second, 90 * time.Second},
		LocalRetry: time.Second,
		Quota:      Quota{Failures: 30, Window: DefaultQuotaWindow},
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
	return p.Quota.Validate()
}
