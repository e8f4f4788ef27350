package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/staffetta-relay/staffetta"
)

// ingest takes events in: one form, one id, one key, one copy for every endpoint that wants it. An
// event counts as accepted once all its copies are stored.
type ingest struct {
	registry    *Registry
	publisher   *publisher
	idempotency *idempotency
	catalogue   staffetta.Catalogue
	accepting   func() error
}

// errUnknownWorkspace says that events were sent to a workspace that does not exist.
var errUnknownWorkspace = errors.New("unknown workspace")

// accepted is the answer to one event.
type accepted struct {
	eventID   string
	endpoints int
	duplicate bool
}

// admission is an event on its way into the store.
type admission struct {
	workspace   string
	event       staffetta.Event
	routes      []Route
	keyed       bool
	fingerprint fingerprint
	madeID      string // the event's id where the relay made it and the producer gave a key
	found       *foundEvent
	group       *publishGroup
	stored      *storedEvent // on its way; nil for an event that nobody wants
}

// one takes a single event; key is the producer's Idempotency-Key or empty.
func (in *ingest) one(ctx context.Context, workspace string, body, key []byte) (accepted, error) {
	if err := in.accepting(); err != nil {
		return accepted{}, err
	}
	a, err := in.prepare(workspace, body, key)
	if err != nil {
		return accepted{}, err
	}
	for {
		answer, busy := in.claim(&a)
		if busy == nil {
			if answer.duplicate {
				return answer, nil
			}
			break
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return accepted{}, fmt.Errorf("wait for the request with the same key: %w", errPressure)
		}
	}
	a.group = newPublishGroup()
	if err := in.publish(ctx, &a); err != nil {
		a.group.fail(err)
	}
	if a.stored != nil {
		in.publisher.flush(a.stored)
	}
	return in.finish(ctx, &a)
}

// prepare brings the body into its one form and finds out who wants it. It stores nothing and takes
// no key.
func (in *ingest) prepare(workspace string, body, key []byte) (admission, error) {
	p, err := staffetta.Canonicalize(body)
	if err != nil {
		return admission{}, err
	}
	if len(p.Body) > MaxPayload {
		return admission{}, payloadTooLarge(len(p.Body))
	}
	if p.EventType == nil {
		return admission{}, &staffetta.InputError{
			Code: "missing_event_type", Field: "/event_type", Offset: -1,
			Detail: "the event has no event_type; known are those at /v1/event-types",
		}
	}
	routes, ok := in.registry.Routes(workspace, p.EventType)
	if !ok {
		return admission{}, errUnknownWorkspace
	}
	a := admission{workspace: workspace, routes: routes}
	a.event.Type = string(p.EventType)
	if len(routes) == 0 && !in.catalogue.Has(a.event.Type) {
		return admission{}, in.catalogue.UnknownType(a.event.Type)
	}
	switch {
	case len(key) > 0:
		a.keyed, a.fingerprint = true, fingerprintOf(workspace, keyOfRequest, key)
	case p.EventID != nil:
		a.keyed, a.fingerprint = true, fingerprintOf(workspace, keyOfEvent, p.EventID)
	}
	if p.EventID != nil {
		a.event.ID, a.event.Payload = string(p.EventID), p.Body
		return a, nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return admission{}, fmt.Errorf("make event id: %w", err)
	}
	a.event.ID, a.event.Payload = id.String(), p.Body
	a.madeID = a.event.ID
	return a, nil
}

// claim takes the event's key. When busy is not nil another request works on the key: ask again once
// it is closed.
func (in *ingest) claim(a *admission) (answer accepted, busy <-chan struct{}) {
	if !a.keyed {
		return accepted{}, nil
	}
	c := in.idempotency.claim(a.fingerprint, time.Now())
	switch {
	case c.busy != nil:
		return accepted{}, c.busy
	case c.duplicate:
		answer = accepted{eventID: a.event.ID, duplicate: true}
		if c.eventID != "" {
			answer.eventID = c.eventID
		}
		return answer, nil
	case c.found != nil:
		a.found = c.found
		if a.madeID != "" { // the copies that exist carry the id of the first time
			a.madeID, a.event.ID = c.found.eventID, c.found.eventID
		}
	}
	return accepted{}, nil
}

// publish puts the event's copies in line.
func (in *ingest) publish(ctx context.Context, a *admission) error {
	if len(a.routes) == 0 {
		return nil
	}
	e := staffetta.StoredEvent{ID: a.event.ID, Type: a.event.Type, Payload: a.event.Payload}
	if a.madeID != "" {
		p := staffetta.Payload{Body: e.Payload}
		e.Payload = p.AppendEventID(make([]byte, 0, len(p.Body)+64), a.madeID)
	}
	if a.keyed {
		e.Key = a.fingerprint.text()
	}
	a.stored = newStoredEvent(e, len(a.routes))
	for _, r := range a.routes {
		if a.found != nil && a.found.endpoints[r.Endpoint] {
			a.group.duplicates.Add(1) // as the store says of a copy that it knows
			continue
		}
		if err := in.publisher.add(ctx, a.group, a.stored, r, ""); err != nil {
			return err
		}
	}
	return nil
}

// finish waits for the store and settles the key.
func (in *ingest) finish(ctx context.Context, a *admission) (accepted, error) {
	if err := a.group.wait(ctx); err != nil {
		later := *a // on the heap in this case alone
		a.group.whenDone(func() { in.settle(&later) })
		return accepted{}, err
	}
	in.settle(a)
	answer := accepted{eventID: a.event.ID, endpoints: len(a.routes)}
	// All copies known to the store already: a repeat of an event from before a restart.
	answer.duplicate = len(a.routes) > 0 && int(a.group.duplicates.Load()) == len(a.routes)
	return answer, nil
}

// settle accepts the event's key or gives it back, once the group has ended. That may be when its request
// was told to try again: then the repeat finds what is stored.
func (in *ingest) settle(a *admission) {
	if !a.keyed {
		return
	}
	if a.group.failed() == nil {
		in.idempotency.accept(a.fingerprint, a.madeID, time.Now())
		return
	}
	var endpoints map[string]bool
	if a.stored != nil {
		endpoints = a.stored.storedAt()
	}
	in.idempotency.release(a.fingerprint, a.event.ID, endpoints)
}

// rejection is a line of a batch that is not an event.
type rejection struct {
	line   int
	code   string
	detail string
}

// batchResult is the answer to a batch.
type batchResult struct {
	accepted   int // stored, repeats included
	duplicates int
	rejected   []rejection
}

// batch takes one event a line, in the order of the lines. Lines that are not events are rejected
// one by one; an error means that nothing of the batch counts as accepted.
func (in *ingest) batch(ctx context.Context, workspace string, body []byte) (batchResult, error) {
	if err := in.accepting(); err != nil {
		return batchResult{}, err
	}
	if n := bytes.Count(body, []byte{'\n'}); n > MaxBatchLines {
		return batchResult{}, &staffetta.InputError{
			Code: "too_many_lines", Offset: -1,
			Detail: "the batch has " + strconv.Itoa(n) + " lines; send at most " + strconv.Itoa(MaxBatchLines) + " at a time",
		}
	}
	b := batch{in: in, own: make(map[fingerprint]bool)}
	b.group = newPublishGroup()
	for line := 1; len(body) > 0; line++ {
		var text []byte
		text, body, _ = bytes.Cut(body, []byte{'\n'})
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		if err := b.add(ctx, workspace, line, text); err != nil {
			b.group.fail(err)
			break
		}
	}
	return b.finish(ctx)
}

// batch is the state of one batch request.
type batch struct {
	in        *ingest
	group     *publishGroup
	taken     []admission // on their way, keyed ones hold their key
	contested []admission // another request works on the same key
	own       map[fingerprint]bool
	result    batchResult
}

// add sends the event of one line on its way. An error ends the batch.
func (b *batch) add(ctx context.Context, workspace string, line int, text []byte) error {
	if len(text) > MaxPayload {
		b.reject(line, payloadTooLarge(len(text)))
		return nil
	}
	a, err := b.in.prepare(workspace, text, nil)
	if input, ok := errors.AsType[*staffetta.InputError](err); ok {
		b.reject(line, input)
		return nil
	}
	if err != nil {
		return err
	}
	if a.keyed && b.own[a.fingerprint] {
		b.result.duplicates++
		return nil
	}
	answer, busy := b.in.claim(&a)
	switch {
	case busy != nil:
		b.contested = append(b.contested, a)
		return nil
	case answer.duplicate:
		b.result.duplicates++
		return nil
	}
	if a.keyed {
		b.own[a.fingerprint] = true
	}
	a.group = b.group
	b.taken = append(b.taken, a)
	return b.in.publish(ctx, &b.taken[len(b.taken)-1])
}

func (b *batch) reject(line int, err *staffetta.InputError) {
	b.result.rejected = append(b.result.rejected, rejection{line, err.Code, err.Error()})
}

// finish waits for the store, settles the keys, and then sees to the lines whose key another
// request was working on: by now that one has ended, or will without waiting for this one.
func (b *batch) finish(ctx context.Context) (batchResult, error) {
	b.in.publisher.flushAll()
	if err := b.group.wait(ctx); err != nil {
		b.group.whenDone(b.settle)
		return batchResult{}, err
	}
	b.settle()
	for i := range b.contested {
		a := &b.contested[i]
		answer, err := b.in.one(ctx, a.workspace, a.event.Payload, nil)
		if err != nil {
			return batchResult{}, err
		}
		if answer.duplicate {
			b.result.duplicates++
		} else {
			b.taken = append(b.taken, *a)
		}
	}
	b.result.accepted = len(b.taken) + b.result.duplicates
	return b.result, nil
}

// settle settles the keys of what was sent on its way.
func (b *batch) settle() {
	for i := range b.taken {
		b.in.settle(&b.taken[i])
	}
}

func payloadTooLarge(n int) *staffetta.InputError {
	return &staffetta.InputError{
		Code: "payload_too_large", Offset: -1,
		Detail: "the event has " + strconv.Itoa(n) + " bytes; at most " + strconv.Itoa(MaxPayload) + " are taken",
	}
}
