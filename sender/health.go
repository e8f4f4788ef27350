package sender

import (
	"sync/atomic"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// Health is how the attempts of an endpoint last ended, since this process started.
type Health struct {
	// LastSuccessAt and LastFailureAt are when an attempt was last accepted, and when one last failed;
	// zero when none did.
	LastSuccessAt, LastFailureAt time.Time
	// LastFailure is what that one came to.
	LastFailure staffetta.Outcome
}

// Health of the endpoint's attempts; false when there is no such endpoint.
func (s *Sender) Health(endpoint string) (Health, bool) {
	s.mu.Lock()
	d := s.endpoints[endpoint]
	s.mu.Unlock()
	if d == nil {
		return Health{}, false
	}
	return d.health.read(), true
}

// health is written by the endpoint's lane, without a lock.
type health struct {
	succeeded atomic.Int64 // nanoseconds since 1970, 0 for never
	failure   atomic.Pointer[failure]
}

type failure struct {
	at      time.Time
	outcome staffetta.Outcome
}

func (h *health) note(a *Attempt, failed bool) {
	at := a.StartedAt.Add(a.Duration)
	if failed {
		h.failure.Store(&failure{at, a.Outcome})
	} else {
		h.succeeded.Store(at.UnixNano())
	}
}

func (h *health) read() Health {
	var read Health
	if at := h.succeeded.Load(); at != 0 {
		read.LastSuccessAt = time.Unix(0, at)
	}
	if f := h.failure.Load(); f != nil {
		read.LastFailureAt, read.LastFailure = f.at, f.outcome
	}
	return read
}
