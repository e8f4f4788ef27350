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
	hooks  Hooks
	js     jetstream.JetStream
	log    zerolog.Logger

	mu        sync.Mutex
	endpoints map[string]*delivery
}

// Hooks are told of what becomes of events, from the lanes' own goroutines: they must be quick. Any
// of them may be nil.
type Hooks struct {
	// Attempted is told of every attempt that was the endpoint's, once it is decided. The record is
	// only lent.
	Attempted func(*staffetta.AttemptRecord)
	// Failed is told of every attempt that counts as the endpoint's failure, before Attempted, and
	// says whether the endpoint is to make no further attempt.
	Failed func(workspace, endpoint string, at time.Time) (stop bool)
	// Dropped is told of an event once it is among the dead letters.
	Dropped func(workspace, endpoint string, m *Message, attempts int, o staffetta.Outcome)
	// Withdrawn is asked before every attempt of a replayed copy, by its Message.Replay, whether the
	// replay was cancelled: the copy is then settled unseen.
	Withdrawn func(replay string) bool
}

func (h *Hooks) withdrawn(m *Message) bool {
	return m.Replay != "" && h.Withdrawn != nil && h.Withdrawn(m.Replay)
}

// New joins the two halves of delivery. Nothing runs before Run.
func New(d *Dispatcher, c *Client, policy staffetta.Policy, hooks Hooks) (*Sender, error) {
	if d == nil || c == nil {
		return nil, errors.New("new sender: a dispatcher and a client are needed")
	}
	if err := policy.Validate(); err != nil {
		return nil, fmt.Errorf("new sender: policy: %w", err)
	}
	return &Sender{
		Dispatcher: d, client: c, policy: policy, hooks: hooks, js: d.cfg.JetStream, log: d.cfg.Log,
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
	d := &delivery{sender: s, endpoint: prepared, workspace: e.Workspace, id: e.ID, success: e.Success, health: &health{}}
	s.mu.Lock()
	old := s.endpoints[e.ID]
	s.endpoints[e.ID] = d
	if old != nil {
		d.failing.Store(old.failing.Load())
		d.health = old.health
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
	health    *health     // of the endpoint, through all its changes
	// The lane tries one event at a time: these are its working memory.
	attempt Attempt
	record  staffetta.AttemptRecord
}

// Attempt posts the event once, and decides by the policy.
func (d *delivery) Attempt(ctx context.Context, m *Message, n int) (staffetta.Outcome, staffetta.Verdict) {
	if d.sender.hooks.withdrawn(m) {
		d.sender.cfg.Metrics.withdrawn.Inc()
		return staffetta.Outcome{}, staffetta.Verdict{Action: staffetta.Deliver}
	}
	a := &d.attempt
	d.endpoint.Attempt(ctx, m.Event, n, a)
	v := d.sender.policy.Decide(a.Outcome, d.success, n)
	d.sender.cfg.Metrics.attempted(a, v, m.StoredAt)
	if v.Action == staffetta.Again {
		return a.Outcome, v
	}
	d.noteHealth(a.Outcome, v.Counts)
	d.health.note(a, v.Counts)
	if m.Event.Replay || staffetta.IsOperationsEndpoint(d.id) {
		v.Counts = false
	}
	if v.Counts && d.sender.hooks.Failed != nil {
		v.Stop = d.sender.hooks.Failed(d.workspace, d.id, a.StartedAt.Add(a.Duration))
	}
	if d.sender.hooks.Attempted != nil {
		d.record = staffetta.AttemptRecord{
			At: a.StartedAt, Workspace: d.workspace, Endpoint: d.id, EventID: m.Event.ID, EventType: m.Event.Type,
			Sequence: m.Sequence, StoredAt: m.StoredAt, Attempt: n, Outcome: a.Outcome, Verdict: v, Replay: m.Event.Replay,
			Duration: a.Duration, DNS: a.DNS, Connect: a.Connect, TLS: a.TLS, FirstByte: a.FirstByte, Remote: a.Remote,
			ResponseHead: a.Head, ResponseBody: a.Body,
		}
		d.sender.hooks.Attempted(&d.record)
	}
	return a.Outcome, v
}

// noteHealth logs when the endpoint begins to fail, and when it ceases to.
func (d *delivery) noteHealth(o staffetta.Outcome, failed bool) {
	if failed == d.failing.Swap(failed) {
		return
	}
	if failed {
		d.sender.log.Warn().Str("workspace", d.workspace).Str("endpoint", d.id).Stringer("outcome", o).Msg("endpoint fails")
	} else {
		d.sender.log.Info().Str("workspace", d.workspace).Str("endpoint", d.id).Msg("endpoint works again")
	}
}

// Drop stores the event as a dead letter. The message id makes a repeat after a crash harmless.
func (d *delivery) Drop(ctx context.Context, m *Message, n int, o staffetta.Outcome) error {
	if d.sender.hooks.withdrawn(m) {
		d.sender.cfg.Metrics.withdrawn.Inc()
		return nil
	}
	letter := &nats.Msg{
		Subject: staffetta.DeadLetterSubject(d.workspace, d.id),
		Header: nats.Header{
			staffetta.HeaderEventID:   {m.Event.ID},
			staffetta.HeaderEventType: {m.Event.Type},
			staffetta.HeaderAttempts:  {strconv.Itoa(n)},
			staffetta.HeaderError:     {o.String()},
			staffetta.HeaderStoredAt:  {m.StoredAt.UTC().Format(time.RFC3339Nano)},
			staffetta.HeaderDroppedAt: {time.Now().UTC().Format(time.RFC3339Nano)},
		},
		Data: m.Event.Payload,
	}
	if o.Status != 0 {
		letter.Header[staffetta.HeaderStatusCode] = []string{strconv.Itoa(o.Status)}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	id := d.id + "." + strconv.FormatUint(m.Sequence, 10)
	if _, err := d.sender.js.PublishMsg(ctx, letter, jetstream.WithMsgID(id)); err != nil {
		return fmt.Errorf("store dead letter: %w", err)
	}
	d.sender.cfg.Metrics.gaveUp(o)
	level := zerolog.WarnLevel
	if o.Error == staffetta.ErrorHeld { // the lane said so for all of them
		level = zerolog.DebugLevel
	}
	d.sender.log.WithLevel(level).Str("workspace", d.workspace).Str("endpoint", d.id).Str("event_id", m.Event.ID).
		Int("attempts", n).Stringer("outcome", o).Msg("event dropped to the dead letters")
	if d.sender.hooks.Dropped != nil {
		d.sender.hooks.Dropped(d.workspace, d.id, m, n, o)
	}
	return nil
}
