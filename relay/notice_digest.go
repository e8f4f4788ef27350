package relay

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
)

const (
	// maxDigestEndpoints is how many endpoints a digest names, maxDigestEvents how many events.
	maxDigestEndpoints = 20
	maxDigestEvents    = 5
)

// digest tells of the events of a workspace that were dropped since the digest before.
type digest struct {
	Workspace string `json:"workspace"`
	// SentAt is when the digest before was queued; Since when the first event of this one was dropped.
	SentAt time.Time `json:"sent_at,omitzero"`
	Since  time.Time `json:"since,omitzero"`
	Total  int       `json:"total"`
	// Endpoints are the first ones that events were dropped for, Newest the newest events.
	Endpoints []digestEndpoint `json:"endpoints,omitempty"`
	Newest    []digestEvent    `json:"newest,omitempty"`
}

type digestEndpoint struct {
	ID    string `json:"id"`
	URL   string `json:"url"`
	Count int    `json:"count"`
}

type digestEvent struct {
	At     time.Time `json:"at"`
	ID     string    `json:"id"`
	Type   string    `json:"type"`
	Reason string    `json:"reason"`
}

// digests gathers what was dropped. It belongs to one goroutine.
type digests struct {
	every, gather time.Duration
	of            map[string]*digest
	changed       map[string]bool
	next          time.Time // no digest is due before; zero for none at all
}

func newDigests(every, gather time.Duration) *digests {
	return &digests{every: every, gather: gather, of: map[string]*digest{}, changed: map[string]bool{}}
}

// add counts a dropped event.
func (g *digests) add(f *notice) {
	d := g.of[f.workspace]
	if d == nil {
		d = &digest{Workspace: f.workspace}
		g.of[f.workspace] = d
	}
	if d.Total == 0 {
		d.Since = f.at
		g.expect(g.due(d))
	}
	d.Total++
	at := slices.IndexFunc(d.Endpoints, func(e digestEndpoint) bool { return e.ID == f.endpoint })
	switch {
	case at >= 0:
		d.Endpoints[at].Count++
	case len(d.Endpoints) < maxDigestEndpoints:
		d.Endpoints = append(d.Endpoints, digestEndpoint{ID: f.endpoint, URL: f.url, Count: 1})
	}
	if len(d.Newest) == maxDigestEvents {
		d.Newest = slices.Delete(d.Newest, 0, 1)
	}
	d.Newest = append(d.Newest, digestEvent{At: f.at, ID: f.eventID, Type: f.eventType, Reason: f.reason})
	g.changed[f.workspace] = true
}

// due is when a digest that has something to tell is sent.
func (g *digests) due(d *digest) time.Time {
	due := d.Since.Add(g.gather)
	if again := d.SentAt.Add(g.every); !d.SentAt.IsZero() && again.After(due) {
		return again
	}
	return due
}

func (g *digests) expect(due time.Time) {
	if g.next.IsZero() || due.Before(g.next) {
		g.next = due
	}
}

// untilNext is how long no digest is due.
func (g *digests) untilNext(now time.Time) time.Duration {
	if g.next.IsZero() {
		return g.every
	}
	return max(g.next.Sub(now), 0)
}

// take gives the digests that are due, each as it stands, and begins the next ones.
func (g *digests) take(now time.Time) []digest {
	if g.next.IsZero() || now.Before(g.next) {
		return nil
	}
	g.next = time.Time{}
	var taken []digest
	for workspace, d := range g.of {
		switch {
		case d.Total == 0:
			if now.Sub(d.SentAt) > g.every { // nothing to remember any more
				delete(g.of, workspace)
			}
		case now.Before(g.due(d)):
			g.expect(g.due(d))
		default:
			taken = append(taken, *d)
			g.of[workspace] = &digest{Workspace: workspace, SentAt: now}
			g.changed[workspace] = true
		}
	}
	slices.SortFunc(taken, func(a, b digest) int { return strings.Compare(a.Workspace, b.Workspace) })
	return taken
}

// changes gives the digests to be written, and forgets that they are.
func (g *digests) changes() map[string]*digest {
	changed := make(map[string]*digest, len(g.changed))
	for workspace := range g.changed {
		changed[workspace] = g.of[workspace]
	}
	clear(g.changed)
	maps.DeleteFunc(changed, func(_ string, d *digest) bool { return d == nil })
	return changed
}

// keep writes the digest where a restart finds it.
func (d *digest) keep(ctx context.Context, js jetstream.JetStream, workspace string) error {
	value, err := json.Marshal(d, jsonLenient)
	if err != nil {
		return err
	}
	_, err = js.Publish(ctx, staffetta.NoticeDigestSubject(workspace), value)
	return err
}

// load reads what was gathered before a restart.
func (g *digests) load(ctx context.Context, stream jetstream.Stream) error {
	return eachNotice(ctx, stream, staffetta.NoticeDigestSubjects, func(m *jetstream.RawStreamMsg) error {
		d := &digest{}
		if err := json.Unmarshal(m.Data, d); err != nil {
			return fmt.Errorf("read digest: %w", err)
		}
		g.of[d.Workspace] = d
		if d.Total > 0 {
			g.expect(g.due(d))
		}
		return nil
	})
}
