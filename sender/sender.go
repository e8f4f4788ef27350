package sender

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

// Sender delivers the events of endpoints: a lane for each, a signed POST for each attempt, a dead
// letter for each event that is given up.
type Sender struct {
	*Dispatcher
	client *Client
	policy staffetta.Policy
	js     jetstream.JetStream
	log    zerolog.Logger

	mu        sync.Mutex
	endpoints map[string]*delivery
}

// New joins the two halves of delivery. Nothing runs before Run.
func New(d *Dispatcher, c *Client, policy staffetta.Policy) (*Sender, error) {
	if d == nil || c == nil {
		return nil, errors.New("new sender: a dispatcher and a client are needed")
	}
	if err := policy.Validate(); err != nil {
		return nil, fmt.Errorf("new sender: policy: %w", err)
	}
	return &Sender{
		Dispatcher: d, client: c, policy: policy, js: d.cfg.JetStream, log: d.cfg.Log,
		endpoints: make(map[string]*delivery),
	}, nil
}

// SetEndpoint makes the endpoint's lane, or changes it. Attempts in flight end as they began.
func (s *Sender) SetEndpoint(e staffetta.Endpoint) {
	prepared, err := s.client.Endpoint(e)
	if err != nil { // the registry validates: only a record of another version can come to this
		s.log.Error().Err(err).Str("workspace", e.Workspace).Str("endpoint", e.ID).Msg("cannot prepare the endpoint; its events are held")
		s.Set(e.ID, nil, Held)
		return
	}
	d := &delivery{sender: s, endpoint: prepared, workspace: e.Workspace, id: e.ID, success: e.Success}
	s.mu.Lock()
	old := s.endpoints[e.ID]
	s.endpoints[e.ID] = d
	if old != nil {
		d.failing.Store(old.failing.Load())
	}
	s.mu.Unlock()
	s.Set(e.ID, d, modeOf(e))
	if old != nil {
		old.endpoint.Close()
	}
}

func modeOf(e staffetta.Endpoint) Mode {
	switch {
	case e.Status == staffetta.Enabled:
		return Open
	case e.OnDisable == staffetta.Discard:
		return Discarding
	default:
		return Held
	}
}

// RemoveEndpoint ends the endpoint's lane; what waits in it is discarded.
func (s *Sender) RemoveEndpoint(e staffetta.Endpoint) {
	s.Remove(e.ID)
	s.mu.Lock()
	d := s.endpoints[e.ID]
	delete(s.endpoints, e.ID)
	s.mu.Unlock()
	if d != nil {
		d.endpoint.Close()
	}
}

// Test posts a sample of the endpoint's first event type at once, beside its lane. It is not counted
// as anything.
func (s *Sender) Test(ctx context.Context, e staffetta.Endpoint) (Attempt, bool, error) {
	ev, err := sampleFor(e)
	if err != nil {
		return Attempt{}, false, err
	}
	prepared, err := s.client.Endpoint(e)
	if err != nil {
		return Attempt{}, false, fmt.Errorf("test endpoint: %w", err)
	}
	defer prepared.Close()
	var a Attempt
	prepared.Attempt(ctx, ev, 1, &a)
	accepted := s.policy.Decide(a.Outcome, e.Success, 1).Action == staffetta.Deliver
	return a, accepted, nil
}

// sampleFor is the sample of the endpoint's first type under an id of its own.
func sampleFor(e staffetta.Endpoint) (staffetta.Event, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return staffetta.Event{}, fmt.Errorf("make event id: %w", err)
	}
	ev := staffetta.Event{ID: id.String(), Type: e.EventTypes[0]}
	sample := staffetta.Sample(ev.Type)
	if sample == nil {
		p := staffetta.Payload{Body: []byte(`{"event_type":"` + ev.Type + `"}`)}
		ev.Payload = p.AppendEventID(nil, ev.ID)
		return ev, nil
	}
	p, err := staffetta.Canonicalize(sample)
	if err != nil {
		return staffetta.Event{}, fmt.Errorf("read sample: %w", err)
	}
	ev.Payload = bytes.Replace(p.Body, p.EventID, []byte(ev.ID), 1)
	return ev, nil
}

// delivery is an endpoint as the target of its lane.
type delivery struct {
	sender    *Sender
	endpoint  *Endpoint
	workspace string
	id        string
	success   staffetta.Success
	failing   atomic.Bool // said in the log already
	attempt   Attempt     // the lane tries one event at a time
}

// Attempt posts the event once.
func (d *delivery) Attempt(ctx context.Context, m *Message, n int) staffetta.Outcome {
	d.endpoint.Attempt(ctx, m.Event, n, &d.attempt)
	return d.attempt.Outcome
}

// Decide applies the policy, and logs when an endpoint begins or ceases to fail.
func (d *delivery) Decide(o staffetta.Outcome, n int) staffetta.Verdict {
	v := d.sender.policy.Decide(o, d.success, n)
	if v.Counts != d.failing.Load() && v.Action != staffetta.Again {
		d.failing.Store(v.Counts)
		if v.Counts {
			d.sender.log.Warn().Str("workspace", d.workspace).Str("endpoint", d.id).Stringer("outcome", o).Msg("endpoint fails")
		} else {
			d.sender.log.Info().Str("workspace", d.workspace).Str("endpoint", d.id).Msg("endpoint works again")
		}
	}
	return v
}

// The headers of a dead letter, beside those of the event. Its data is the payload.
const (
	headerAttempts  = "Attempts"
	headerStatus    = "Status-Code"
	headerError     = "Error"
	headerStoredAt  = "Stored-At"
	headerDroppedAt = "Dropped-At"
)

// Drop stores the event as a dead letter. The message id makes a repeat after a crash harmless.
func (d *delivery) Drop(ctx context.Context, m *Message, n int, o staffetta.Outcome) error {
	letter := &nats.Msg{
		Subject: staffetta.DeadLetterSubject(d.workspace, d.id),
		Header: nats.Header{
			staffetta.HeaderEventID:   {m.Event.ID},
			staffetta.HeaderEventType: {m.Event.Type},
			headerAttempts:            {strconv.Itoa(n)},
			headerError:               {o.String()},
			headerStoredAt:            {m.StoredAt.UTC().Format(time.RFC3339Nano)},
			headerDroppedAt:           {time.Now().UTC().Format(time.RFC3339Nano)},
		},
		Data: m.Event.Payload,
	}
	if o.Status != 0 {
		letter.Header[headerStatus] = []string{strconv.Itoa(o.Status)}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	id := d.id + "." + strconv.FormatUint(m.Sequence, 10)
	if _, err := d.sender.js.PublishMsg(ctx, letter, jetstream.WithMsgID(id)); err != nil {
		return fmt.Errorf("store dead letter: %w", err)
	}
	d.sender.log.Warn().Str("workspace", d.workspace).Str("endpoint", d.id).Str("event_id", m.Event.ID).
		Int("attempts", n).Stringer("outcome", o).Msg("event dropped to the dead letters")
	return nil
}
