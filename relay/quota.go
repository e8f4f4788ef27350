package relay

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

// QuotaConfig says how a Quota counts and whom it tells. The functions may be nil.
type QuotaConfig struct {
	// Quota is the rule; a workspace may have another number of failures. The zero value counts in a
	// window of 30 minutes and disables nothing.
	Quota staffetta.Quota
	// OnLevel is told of a window that has reached 50, 80 or 100 percent of its quota: once, until the
	// window has fallen by a fifth of the quota below that. It is called by whoever failed and must be
	// quick.
	OnLevel func(QuotaLevel)
	// OnDisabled is told of every endpoint that was disabled, for whatever reason, once that is stored.
	OnDisabled func(context.Context, Disabling)
	// OnEnabled is told of every endpoint that was enabled again. It must be quick and must not call
	// the Registry.
	OnEnabled func(staffetta.Endpoint)
	Log       zerolog.Logger
}

// QuotaLevel is a part of a quota that has been reached.
type QuotaLevel struct {
	Workspace string
	// Endpoint made the failure; the window is its own where the workspace's scope says so.
	Endpoint string
	// Percent is 50, 80 or 100; Count failures are in the window, and Quota are borne.
	Percent, Count, Quota int
}

// Disabling is an endpoint's being disabled.
type Disabling struct {
	Endpoint staffetta.Endpoint
	// Failures are in the window, and Quota are borne.
	Failures, Quota int
}

// Quota counts the failures of every workspace in a sliding window, and disables the endpoint whose
// failure finds the window over the quota. Only time empties a window: an endpoint that is enabled
// while the window is still over the quota is disabled again by its next failure.
//
// The decision is Failed's, at once; that it is stored in the Registry is Run's, which tries until it
// is. Where the process dies in between, the window, which Restore reads from the log at the start, is
// still over the quota, and the endpoint's next failure disables it.
type Quota struct {
	cfg      QuotaConfig
	registry atomic.Pointer[Registry]

	mu      sync.RWMutex // guards the map; tallies are removed by sweep and drop
	tallies map[string]*tally

	disablings
}

// tally has the windows of a workspace.
type tally struct {
	mu        sync.Mutex
	all       counter
	endpoints map[string]*counter
}

// counter is a window, and the level of the quota that was told of it.
type counter struct {
	window staffetta.FailureWindow
	told   int
}

// NewQuota checks the configuration. Hand it to New as Config.Quota.
func NewQuota(cfg QuotaConfig) (*Quota, error) {
	if err := cfg.Quota.Validate(); err != nil {
		return nil, fmt.Errorf("new quota: %w", err)
	}
	if cfg.Quota.Window == 0 {
		cfg.Quota.Window = staffetta.DefaultQuotaWindow
	}
	return &Quota{cfg: cfg, tallies: map[string]*tally{}, disablings: newDisablings()}, nil
}

// Failed counts a failure of an endpoint, and says whether the endpoint is disabled by it. It is
// sender.Hooks.Failed: it waits for nothing but the workspace's other failures.
func (q *Quota) Failed(workspace, endpoint string, at time.Time) (stop bool) {
	rule, scope := q.rule(workspace)
	level, over := q.count(workspace, endpoint, at, rule, scope)
	if level.Percent > 0 && q.cfg.OnLevel != nil {
		q.cfg.OnLevel(level)
	}
	if over {
		q.disable(disabling{workspace: workspace, endpoint: endpoint, failures: level.Count, quota: rule.Failures})
	}
	return over
}

// count adds a failure. The level has a percentage where it is to be told of.
func (q *Quota) count(workspace, endpoint string, at time.Time, rule staffetta.Quota, scope staffetta.QuotaScope) (level QuotaLevel, over bool) {
	t, unlock := q.tally(workspace)
	defer unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.endpoint(endpoint, rule.Window)
	deciding := &t.all
	if scope == staffetta.QuotaEndpoint {
		deciding = own
	}
	before := deciding.window.Count(at)
	t.all.window.Add(at)
	own.window.Add(at)
	count := deciding.window.Count(at)
	level = QuotaLevel{Workspace: workspace, Endpoint: endpoint, Count: count, Quota: rule.Failures}
	level.Percent = deciding.crossed(rule, before, count)
	return level, rule.Exceeded(count)
}

// crossed is the level that the window has reached and that was not told of, or 0.
func (c *counter) crossed(rule staffetta.Quota, before, count int) int {
	c.told = rule.Rearmed(c.told, before)
	if level := rule.Level(count); level > c.told {
		c.told = level
		return level
	}
	return 0
}

// rule is what holds for a workspace.
func (q *Quota) rule(workspace string) (staffetta.Quota, staffetta.QuotaScope) {
	if r := q.registry.Load(); r != nil {
		if ws, err := r.Workspace(workspace); err == nil {
			return q.Of(ws), ws.QuotaScope
		}
	}
	return q.cfg.Quota, staffetta.QuotaWorkspace
}

// Of is the quota of a workspace: its own number of failures or the relay's.
func (q *Quota) Of(ws staffetta.Workspace) staffetta.Quota {
	rule := q.cfg.Quota
	if ws.Quota != nil {
		rule.Failures = *ws.Quota
	}
	return rule
}

// tally finds or makes the windows of a workspace, which stay until unlock.
func (q *Quota) tally(workspace string) (t *tally, unlock func()) {
	q.mu.RLock()
	for {
		if t = q.tallies[workspace]; t != nil {
			return t, q.mu.RUnlock
		}
		q.mu.RUnlock()
		q.mu.Lock()
		if q.tallies[workspace] == nil {
			q.tallies[workspace] = &tally{
				all:       counter{window: staffetta.NewFailureWindow(q.cfg.Quota.Window)},
				endpoints: map[string]*counter{},
			}
		}
		q.mu.Unlock()
		q.mu.RLock()
	}
}

// endpoint finds or makes the window of an endpoint. The lock is held.
func (t *tally) endpoint(id string, window time.Duration) *counter {
	c := t.endpoints[id]
	if c == nil {
		c = &counter{window: staffetta.NewFailureWindow(window)}
		t.endpoints[id] = c
	}
	return c
}

// Failures is how many failures of an endpoint, and of all endpoints of its workspace, are in the
// window now. An empty endpoint has none.
func (q *Quota) Failures(workspace, endpoint string) (own, all int) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	t := q.tallies[workspace]
	if t == nil {
		return 0, 0
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.endpoints[endpoint]; c != nil {
		own = c.window.Count(now)
	}
	return own, t.all.window.Count(now)
}

// Restore counts the failures of before the start: failures, such as AttemptLog.Failures, gives those
// that happened since a time. What the windows have reached by them was told of then. Call it after
// New and before the first Failed.
func (q *Quota) Restore(ctx context.Context, failures func(ctx context.Context, since time.Time, f func(workspace, endpoint string, at time.Time)) error) error {
	window := q.cfg.Quota.Window
	now := time.Now()
	err := failures(ctx, now.Add(-window), func(workspace, endpoint string, at time.Time) {
		if q.isBefore(workspace, at) {
			return
		}
		t, unlock := q.tally(workspace)
		defer unlock()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.all.window.Add(at)
		t.endpoint(endpoint, window).window.Add(at)
	})
	q.mu.RLock()
	defer q.mu.RUnlock()
	for workspace, t := range q.tallies {
		rule, _ := q.rule(workspace)
		t.mu.Lock()
		t.all.told = rule.Level(t.all.window.Count(now))
		for _, c := range t.endpoints {
			c.told = rule.Level(c.window.Count(now))
		}
		t.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("restore the failures of the last %v: %w", window, err)
	}
	return nil
}

// isBefore says that a failure is of a deleted workspace whose id another one has by now.
func (q *Quota) isBefore(workspace string, at time.Time) bool {
	r := q.registry.Load()
	if r == nil {
		return false
	}
	ws, err := r.Workspace(workspace)
	return err == nil && at.Before(ws.CreatedAt)
}

// drop stands before the hook of the Registry, and forgets the windows of a workspace that is gone: one
// made again under its id begins with empty ones.
func (q *Quota) drop(next func(staffetta.Workspace)) func(staffetta.Workspace) {
	return func(ws staffetta.Workspace) {
		q.mu.Lock()
		delete(q.tallies, ws.ID)
		q.mu.Unlock()
		if next != nil {
			next(ws)
		}
	}
}

// sweep forgets windows in which nothing is left.
func (q *Quota) sweep(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for workspace, t := range q.tallies {
		for id, c := range t.endpoints {
			if c.window.Count(now) == 0 {
				delete(t.endpoints, id)
			}
		}
		if len(t.endpoints) == 0 && t.all.window.Count(now) == 0 {
			delete(q.tallies, workspace)
		}
	}
}
