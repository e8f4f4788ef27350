package bench

import (
	"fmt"
	"sync/atomic"
)

// Endpoint is one place that events are delivered to. Its number is its place in the layout and the
// path of its URL.
type Endpoint struct {
	Workspace int
	// Types are the event types it asks for.
	Types []string
	// ID and SigningKey are the program's, once the endpoint is made.
	ID, SigningKey string
}

// Workspace is a neighbourhood of endpoints, numbered in one piece.
type Workspace struct {
	ID           string
	First, Count int
}

// Layout is who gets what: endpoints spread over workspaces.
type Layout struct {
	Workspaces []Workspace
	Endpoints  []Endpoint
	// Fan says that every endpoint of a workspace gets every event; otherwise each event has one
	// endpoint.
	Fan bool
}

// NewLayout spreads endpoints over workspaces of at most perWorkspace. Without fan the event types are
// dealt out among a workspace's endpoints, so that its events, of all types, each go to one of them; so
// perWorkspace is at most the number of types. prefix begins the workspaces' ids.
func NewLayout(prefix string, endpoints, perWorkspace int, fan bool, types []string) (*Layout, error) {
	if endpoints < 1 || perWorkspace < 1 || !fan && perWorkspace > len(types) {
		return nil, fmt.Errorf("lay out %d endpoints, %d a workspace: with one endpoint an event a workspace has 1 to %d of them", endpoints, perWorkspace, len(types))
	}
	l := &Layout{Fan: fan, Endpoints: make([]Endpoint, endpoints)}
	for first := 0; first < endpoints; first += perWorkspace {
		w := Workspace{ID: fmt.Sprintf("%s%d", prefix, len(l.Workspaces)), First: first, Count: min(perWorkspace, endpoints-first)}
		for i := range w.Count {
			e := &l.Endpoints[first+i]
			e.Workspace = len(l.Workspaces)
			if fan {
				e.Types = types
				continue
			}
			for t := i; t < len(types); t += w.Count {
				e.Types = append(e.Types, types[t])
			}
		}
		l.Workspaces = append(l.Workspaces, w)
	}
	return l, nil
}

// Track is one sequence of events from one producer, numbered from 0: the unit of order, since what
// two producers send at the same time has none. Its producer alone sends on it.
type Track struct {
	Number    uint32
	Workspace int
	// First and Fan are the endpoints that each of its events goes to.
	First, Fan int
	templates  []*Template

	// sent counts the events that were handed to the network, accepted those of them, from 0 on
	// without a gap, that the program has taken.
	sent, accepted atomic.Uint32
}

// Sent is how many events were handed to the network, Accepted how many of them, from the first one on,
// were taken.
func (t *Track) Sent() uint32 { return t.sent.Load() }

// Accepted is how many events of the track, from the first one on, were taken.
func (t *Track) Accepted() uint32 { return t.accepted.Load() }

// crew is what one producer serves of one workspace: its tracks, one after the other.
type crew struct {
	workspace int
	tracks    []*Track
	next      int
}

// producersFor is how many of at most so many producers serve every workspace alike: a number that
// divides that of the workspaces or is a multiple of it, where there is one that is not much less.
func producersFor(workspaces, most int) int {
	if workspaces < most {
		return most - most%workspaces
	}
	for n := most; n > most/2; n-- {
		if workspaces%n == 0 {
			return n
		}
	}
	return most
}

// Tracks deals the workspaces out among producers. With fewer workspaces than producers several serve
// one workspace, each with tracks of its own.
func (l *Layout) Tracks(producers int, templates *Templates) (all []*Track, crews [][]*crew) {
	crews = make([][]*crew, producers)
	add := func(producer, workspace int) {
		w := l.Workspaces[workspace]
		c := &crew{workspace: workspace}
		step, fan := 1, 1
		if l.Fan {
			step, fan = w.Count, w.Count
		}
		for i := 0; i < w.Count; i += step {
			t := &Track{
				Number: uint32(len(all)), Workspace: workspace, First: w.First + i, Fan: fan,
				templates: templates.Of(l.Endpoints[w.First+i].Types...),
			}
			all = append(all, t)
			c.tracks = append(c.tracks, t)
		}
		crews[producer] = append(crews[producer], c)
	}
	for i := range max(producers, len(l.Workspaces)) {
		add(i%producers, i%len(l.Workspaces))
	}
	return all, crews
}
