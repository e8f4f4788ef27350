package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/staffetta-relay/staffetta"
)

// OperationsEndpoint is the hidden endpoint that takes a workspace's operational events to its
// operations URL; ok is false where it has none, and only the ID is set. It is no endpoint of the
// registry: nothing lists it, and its failures count nowhere. A status from 200 to 299 accepts.
func OperationsEndpoint(ws staffetta.Workspace) (e staffetta.Endpoint, ok bool) {
	e = staffetta.Endpoint{
		ID: staffetta.OperationsEndpoint(ws.ID), Workspace: ws.ID, URL: ws.OperationsURL,
		Success: staffetta.Success2xx, Keys: ws.OperationsKeys,
	}
	e.SetDefaults()
	return e, ws.OperationsURL != ""
}

// operationalEvent is the payload of an operational event.
type operationalEvent struct {
	EventType noticeKind          `json:"event_type"`
	EventID   string              `json:"event_id"`
	Workspace string              `json:"workspace"`
	Endpoint  operationalEndpoint `json:"endpoint,omitzero"`
	// Event is the one that was dropped.
	Event  operationalSubject `json:"event,omitzero"`
	Reason string             `json:"reason,omitzero"`
	// Percent of the quota that a warning is about.
	Percent int `json:"percent,omitzero"`
	// Failures in the window, and how many it bears.
	Failures   int       `json:"failures,omitzero"`
	Quota      int       `json:"quota,omitzero"`
	OccurredAt time.Time `json:"occurred_at"`
}

type operationalEndpoint struct {
	ID  string `json:"id"`
	URL string `json:"url,omitzero"`
}

type operationalSubject struct {
	ID   string `json:"id"`
	Type string `json:"type"`
}

func operationalEventOf(f *notice) operationalEvent {
	return operationalEvent{
		EventType: f.kind, EventID: f.id, Workspace: f.workspace,
		Endpoint: operationalEndpoint{ID: f.endpoint, URL: f.url},
		Event:    operationalSubject{ID: f.eventID, Type: f.eventType},
		Reason:   f.reason, Percent: f.percent, Failures: f.count, Quota: f.quota, OccurredAt: f.at,
	}
}

// payload is the event in the form that every receiver verifies.
func (e *operationalEvent) payload() ([]byte, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("write operational event: %w", err)
	}
	p, err := staffetta.Canonicalize(text)
	if err != nil {
		return nil, fmt.Errorf("write operational event: %w", err)
	}
	return p.Body, nil
}

// storeEvents hands operational events, in their order, to the delivery that all events have. The
// event's id lets the store recognise one that a try before has stored.
func (n *Notices) storeEvents(ctx context.Context, events []operationalEvent) error {
	group := newPublishGroup()
	for i := range events {
		e := &events[i]
		body, err := e.payload()
		if err != nil { // what came in is bounded and valid; not even this may stop the others
			n.cfg.Log.Error().Err(err).Str("workspace", e.Workspace).Msg("an operational event is lost")
			continue
		}
		endpoint := staffetta.OperationsEndpoint(e.Workspace)
		shard := staffetta.Shard(endpoint, n.shards)
		route := Route{Endpoint: endpoint, Shard: shard, Subject: staffetta.EventSubject(shard, endpoint)}
		stored := newStoredEvent(staffetta.StoredEvent{ID: e.EventID, Type: string(e.EventType), Payload: body}, 1)
		if err := n.publish.add(ctx, group, stored, route, "op."+e.EventID); err != nil {
			group.fail(err)
			break
		}
	}
	n.publish.flushAll()
	if err := group.wait(ctx); err != nil {
		return err
	}
	n.mu.Lock()
	n.stats.Operations += uint64(len(events))
	n.mu.Unlock()
	return nil
}
