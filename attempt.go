package staffetta

import "time"

// AttemptRecord is what is known of one attempt once it is decided: what the log keeps, the quota
// counts and the metrics measure.
type AttemptRecord struct {
	// At is when the attempt started.
	At        time.Time
	Workspace string
	Endpoint  string
	EventID   string
	EventType string
	// Sequence is the event's place in the stream of the endpoint's shard.
	Sequence uint64
	// StoredAt is when the event was stored: from it the end-to-end latency is counted.
	StoredAt time.Time
	// Attempt is the number of the attempt, from 1.
	Attempt int
	Outcome Outcome
	Verdict Verdict
	// Replay says that the event was sent again on request; such an attempt never counts.
	Replay bool

	// Duration is the time until the last byte of the response head, or the failure.
	Duration time.Duration
	// DNS, Connect and TLS are parts of it, 0 on a connection that was there; FirstByte is the time
	// from the request's last byte to the response's first.
	DNS, Connect, TLS, FirstByte time.Duration
	// Remote is the address really dialled; empty when it never came to that.
	Remote string
	// ResponseHead and ResponseBody are the first KiB of each. They are only lent: who keeps the
	// record copies them.
	ResponseHead, ResponseBody []byte
}
