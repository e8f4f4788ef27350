package relay

import (
	"context"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/staffetta-relay/staffetta"
)

const (
	// eventPages is how many pages of the log one event may take: it has few attempts an endpoint,
	// but perhaps many endpoints.
	eventPages = 10
	// eventScan, eventBytes and eventTime bound the stored events and letters that are looked at for
	// one that no attempt tells of.
	eventScan  = 20_000
	eventBytes = 32 << 20
	eventTime  = 2 * time.Second
	// eventBefore and eventBehind are how far the copies of one event lie apart at most.
	eventBefore = 5 * time.Second
	eventBehind = time.Minute
	// eventLetter is how long after the start of its last attempt a dropped event's letter is stored,
	// but where the store was in trouble.
	eventLetter = 10 * time.Minute
)

// Where an event stands at an endpoint.
const (
	standsDelivered = "delivered"
	standsRetrying  = "retrying"
	standsWaiting   = "waiting"
	standsDropped   = "dropped"
	standsDiscarded = "discarded"
)

// eventAnswer is an event and where it stands.
type eventAnswer struct {
	EventID   string           `json:"event_id"`
	EventType string           `json:"event_type"`
	StoredAt  *time.Time       `json:"stored_at,omitzero"`
	Endpoints []standingAnswer `json:"endpoints"`
	// Payload is there while one copy of the event is stored, AgedOut says that none is any more.
	Payload jsontext.Value `json:"payload,omitzero"`
	AgedOut bool           `json:"payload_aged_out"`
	// Incomplete says that the search ended before all endpoints were looked at.
	Incomplete bool `json:"incomplete,omitzero"`
}

// standingAnswer is where an event stands at one endpoint.
type standingAnswer struct {
	Endpoint string `json:"endpoint"`
	State    string `json:"state"`
	// Attempts is how many were made; LastAttemptAt, Status and Error are of the last one.
	Attempts      int        `json:"attempts"`
	LastAttemptAt *time.Time `json:"last_attempt_at,omitzero"`
	Status        int        `json:"status,omitzero"`
	Error         string     `json:"error,omitzero"`
	NextAttemptAt *time.Time `json:"next_attempt_at,omitzero"`
	// EndpointDisabled says why an event waits.
	EndpointDisabled bool `json:"endpoint_disabled,omitzero"`
	Replay           bool `json:"replay,omitzero"`

	sequence uint64 `json:"-"`
}

func (a *API) getEvent(r *http.Request) (answer, error) {
	log, ws, err := a.logOf(r)
	if err != nil {
		return answer{}, err
	}
	id := r.PathValue("event")
	e := eventSearch{api: a, log: log, workspace: ws.ID, created: ws.CreatedAt, seen: map[string]bool{}}
	e.answer = eventAnswer{EventID: id, Endpoints: []standingAnswer{}}
	if staffetta.ValidEventID(id) {
		if err := e.run(r.Context()); err != nil {
			return answer{}, err
		}
	}
	if len(e.answer.Endpoints) == 0 {
		p := newProblem(http.StatusNotFound, "event_not_found",
			"the event "+quote(id)+" neither waits for an endpoint of this workspace nor does the log tell of an attempt; it went to no endpoint, or has aged out")
		if log.cfg.Mode == LogFailures {
			p.Detail += " (this relay's log keeps failures only)"
		}
		if e.answer.Incomplete {
			p.Detail += "; but the search ended before it had looked at everything that is stored"
		}
		return answer{}, p
	}
	e.answer.AgedOut = e.answer.Payload == nil && !e.answer.Incomplete
	return answer{status: http.StatusOK, body: e.answer}, nil
}

// eventSearch puts together where an event stands: from the log, from the lanes, from what is stored.
type eventSearch struct {
	api       *API
	log       *AttemptLog
	workspace string
	created   time.Time // what is older is of another workspace
	answer    eventAnswer
	seen      map[string]bool // endpoints that the log tells of
	stored    time.Time       // of the first copy; zero where nobody knows
	until     time.Time       // the end of looking at what is stored
	scanned   int
	bytes     int
}

// mayGoOn counts the bytes of a stored message, and reports whether the search is within its bounds.
func (e *eventSearch) mayGoOn(bytes int) bool {
	e.scanned++
	e.bytes += bytes
	within := e.scanned <= eventScan && e.bytes <= eventBytes && time.Now().Before(e.until)
	if !within {
		e.answer.Incomplete = true
	}
	return within
}

func (e *eventSearch) run(ctx context.Context) error {
	if err := e.readLog(ctx); err != nil {
		return err
	}
	if e.stored.IsZero() {
		e.stored, _ = timeOfUUID(e.answer.EventID)
	}
	e.until = time.Now().Add(eventTime)
	if err := e.findWaiting(ctx); err != nil {
		return err
	}
	if len(e.answer.Endpoints) == 0 && !e.answer.Incomplete {
		if err := e.findLetters(ctx); err != nil {
			return err
		}
	}
	return e.findPayload(ctx)
}

// readLog takes the last attempt at each endpoint.
func (e *eventSearch) readLog(ctx context.Context) error {
	var before *LogPosition
	for range eventPages {
		page, err := e.log.Query(ctx, AttemptFilter{Workspace: e.workspace, EventID: e.answer.EventID, Since: e.created}, before, maxPage)
		if err != nil {
			return err
		}
		for i := range page.Attempts {
			e.attempted(&page.Attempts[i])
		}
		if before = page.Next; before == nil {
			return nil
		}
	}
	e.answer.Incomplete = true
	return nil
}

func (e *eventSearch) attempted(a *LoggedAttempt) {
	e.answer.EventType = a.EventType
	if e.stored.IsZero() || a.StoredAt.Before(e.stored) {
		e.stored = a.StoredAt
		e.answer.StoredAt = &a.StoredAt
	}
	if e.seen[a.Endpoint] {
		return
	}
	e.seen[a.Endpoint] = true
	s := standingAnswer{
		Endpoint: a.Endpoint, Attempts: a.Attempt, LastAttemptAt: &a.At, Status: a.Outcome.Status, Replay: a.Replay, sequence: a.Sequence,
	}
	if a.Outcome.Error != staffetta.ErrorNone {
		s.Error = a.Outcome.String()
	}
	switch a.Verdict.Action {
	case staffetta.Deliver:
		s.State = standsDelivered
	case staffetta.Drop:
		s.State = standsDropped
	case staffetta.Retry, staffetta.Again:
		e.unsettled(&s, a.NextAttemptAt())
	}
	e.answer.Endpoints = append(e.answer.Endpoints, s)
}

// unsettled says where an event stands whose last attempt was not the last word.
func (e *eventSearch) unsettled(s *standingAnswer, next time.Time) {
	endpoint, err := e.api.cfg.Registry.Endpoint(e.workspace, s.Endpoint)
	if err != nil {
		s.State = standsDiscarded
		return
	}
	lane, known := e.state(s.Endpoint)
	switch {
	case known && lane.Settled >= s.sequence && s.sequence > 0:
		// Settled without an attempt on record: delivered, where the log keeps failures only, else
		// given up or discarded while the endpoint was disabled.
		s.State = standsDiscarded
		if e.log.cfg.Mode == LogFailures {
			s.State = standsDelivered
		}
	case endpoint.Status != staffetta.Enabled:
		s.State, s.EndpointDisabled = standsWaiting, true
	default:
		s.State = standsRetrying
		if s.NextAttemptAt = inUTC(lane.NextAttemptAt); s.NextAttemptAt == nil && !next.IsZero() {
			s.NextAttemptAt = &next
		}
	}
}

func (e *eventSearch) state(endpoint string) (State, bool) {
	if e.api.cfg.State == nil {
		return State{}, false
	}
	return e.api.cfg.State(endpoint)
}

// findWaiting looks for copies that wait at endpoints without an attempt on record.
func (e *eventSearch) findWaiting(ctx context.Context) error {
	after := ""
	for {
		endpoints, more, err := e.api.cfg.Registry.Endpoints(e.workspace, after, maxPage)
		if err != nil {
			return err
		}
		for i := range endpoints {
			if err := e.findWaitingAt(ctx, &endpoints[i]); err != nil || e.answer.Incomplete {
				return err
			}
		}
		if !more {
			return nil
		}
		after = endpoints[len(endpoints)-1].ID
	}
}

func (e *eventSearch) findWaitingAt(ctx context.Context, endpoint *staffetta.Endpoint) error {
	lane, known := e.state(endpoint.ID)
	if e.seen[endpoint.ID] || !known || lane.Backlog == 0 || !e.mayGoOn(0) {
		return nil
	}
	events, subject := e.events(endpoint.ID)
	from := lane.Settled + 1
	if !e.stored.IsZero() {
		first, err := events.firstSince(ctx, e.stored.Add(-eventBefore))
		if err != nil || first == 0 {
			return err
		}
		from = max(from, first)
	}
	return events.each(ctx, subject, from, ^uint64(0), 0, func(m *shelved) error {
		if !e.mayGoOn(len(m.data)) {
			return errEnough
		}
		if !e.stored.IsZero() && m.at.After(e.stored.Add(eventBehind)) {
			return errEnough
		}
		if m.eventID != e.answer.EventID {
			return nil
		}
		e.waits(endpoint, &lane, m)
		return errEnough
	})
}

// waits takes a copy that waits; the head of its lane may have been tried and the log not know.
func (e *eventSearch) waits(endpoint *staffetta.Endpoint, lane *State, m *shelved) {
	s := standingAnswer{Endpoint: endpoint.ID, State: standsWaiting, sequence: m.sequence, EndpointDisabled: endpoint.Status != staffetta.Enabled}
	if lane.Attempt > 0 && lane.OldestAt != nil && lane.OldestAt.Equal(m.at) {
		s.State, s.Attempts, s.Error, s.NextAttemptAt = standsRetrying, lane.Attempt, lane.LastError, inUTC(lane.NextAttemptAt)
	}
	e.answer.EventType, e.answer.Payload = m.eventType, m.data
	if at := m.at.UTC(); e.answer.StoredAt == nil || at.Before(*e.answer.StoredAt) {
		e.answer.StoredAt = &at
	}
	e.answer.Endpoints = append(e.answer.Endpoints, s)
}

// events is where the events of an endpoint are stored.
func (e *eventSearch) events(endpoint string) (shelf, string) {
	n := staffetta.Shard(endpoint, e.api.cfg.Registry.cfg.Shards)
	return eventShelf(e.log.cfg.JetStream.Conn(), n), staffetta.EventSubject(n, endpoint)
}

// findPayload reads the event from any copy that is left, among the dead letters too.
func (e *eventSearch) findPayload(ctx context.Context) error {
	for i := range e.answer.Endpoints {
		if e.answer.Payload != nil {
			return nil
		}
		s := &e.answer.Endpoints[i]
		if s.sequence == 0 {
			continue
		}
		events, subject := e.events(s.Endpoint)
		m, err := events.at(ctx, s.sequence)
		if err != nil {
			return err
		}
		if m != nil && m.subject == subject && m.eventID == e.answer.EventID {
			e.answer.Payload = m.data
		} else if s.State == standsDropped || s.State == standsDiscarded {
			if err := e.findLetter(ctx, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// findLetter reads the payload of a dropped event. The letter is stored just after the last attempt,
// or long after it where it was given up while it was held.
func (e *eventSearch) findLetter(ctx context.Context, s *standingAnswer) error {
	return e.eachLetter(ctx, s.Endpoint, *s.LastAttemptAt, func(m *shelved) error {
		if s.State == standsDropped && m.at.After(s.LastAttemptAt.Add(eventLetter)) {
			return errEnough
		}
		if m.eventID != e.answer.EventID {
			return nil
		}
		s.State, s.Error = standsDropped, m.text(staffetta.HeaderError)
		e.answer.Payload = m.data
		return errEnough
	})
}

// findLetters looks for an event that was given up without an attempt on record.
func (e *eventSearch) findLetters(ctx context.Context) error {
	return e.eachLetter(ctx, "*", e.stored, func(m *shelved) error {
		if endpoint := endpointOfSubject(m.subject); m.eventID == e.answer.EventID && !e.seen[endpoint] {
			l := newDeadLetter(m)
			e.seen[endpoint] = true
			e.answer.EventType, e.answer.StoredAt, e.answer.Payload = l.EventType, l.StoredAt, m.data
			e.answer.Endpoints = append(e.answer.Endpoints, standingAnswer{
				Endpoint: endpoint, State: standsDropped, Attempts: l.Attempts, Status: l.Status, Error: l.Error,
			})
		}
		return nil
	})
}

// eachLetter reads dead letters of since then, in order, within the bound of the search.
func (e *eventSearch) eachLetter(ctx context.Context, endpoint string, since time.Time, f func(*shelved) error) error {
	letters := shelf{conn: e.log.cfg.JetStream.Conn(), stream: staffetta.DeadLetterStream}
	from, err := letters.firstSince(ctx, later(since, e.created))
	if err != nil || from == 0 {
		return err
	}
	return letters.each(ctx, staffetta.DeadLetterSubject(e.workspace, endpoint), from, ^uint64(0), 0, func(m *shelved) error {
		if !e.mayGoOn(len(m.data)) {
			return errEnough
		}
		return f(m)
	})
}

// timeOfUUID is when an id that the relay made was made.
func timeOfUUID(id string) (time.Time, bool) {
	u, ok := parseUUID(id)
	if !ok || u[6]>>4 != 7 {
		return time.Time{}, false
	}
	var ms int64
	for _, b := range u[:6] {
		ms = ms<<8 | int64(b)
	}
	at := time.UnixMilli(ms)
	// An id of somebody else's may say anything.
	if d := time.Since(at); d < -time.Minute || d > 365*24*time.Hour {
		return time.Time{}, false
	}
	return at, true
}
