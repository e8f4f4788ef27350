package relay

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/staffetta-relay/staffetta"
)

const (
	// disablingWorkers is how many disablings are stored at once.
	disablingWorkers = 8
	// disablingTimeout bounds one try, disablingRetry is the pause after one that failed.
	disablingTimeout = 5 * time.Second
	disablingRetry   = time.Second
	// disablingLast bounds what a stop waits for those that are left.
	disablingLast = 2 * time.Second
	// sweepInterval is how often empty windows are forgotten.
	sweepInterval = time.Minute
)

// disabling is an endpoint that was stopped, or whose being disabled is to be told of.
type disabling struct {
	workspace, endpoint string
	failures, quota     int
	// stored is the endpoint as it is in the Registry, where somebody else has disabled it.
	stored *staffetta.Endpoint
}

// disablings are those on their way, at most one an endpoint.
type disablings struct {
	wake chan struct{}

	mu sync.Mutex
	// pending are decided, but not in the Registry yet: until then these endpoints count as disabled,
	// whatever the Registry says of them.
	pending map[string]bool
	// disabled are those that the Registry has as disabled.
	disabled map[string]bool
	queue    []disabling
}

func newDisablings() disablings {
	return disablings{wake: make(chan struct{}, 1), pending: map[string]bool{}, disabled: map[string]bool{}}
}

// disable takes note of a decision.
func (d *disablings) disable(one disabling) {
	d.mu.Lock()
	if !d.pending[one.endpoint] {
		d.pending[one.endpoint] = true
		d.queue = append(d.queue, one)
	}
	d.mu.Unlock()
	d.rouse()
}

func (d *disablings) rouse() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// take empties the queue.
func (d *disablings) take() []disabling {
	d.mu.Lock()
	defer d.mu.Unlock()
	queue := d.queue
	d.queue = nil
	return queue
}

func (d *disablings) isPending(endpoint string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pending[endpoint]
}

// forget ends what is pending of an endpoint.
func (d *disablings) forget(endpoint string) {
	d.mu.Lock()
	delete(d.pending, endpoint)
	d.mu.Unlock()
}

// attach makes the registry known, whose endpoints were all told by then.
func (q *Quota) attach(r *Registry) { q.registry.Store(r) }

// follow stands before the hook of the Registry: an endpoint whose being disabled is decided, but not
// stored yet, is not opened again by any other change of it. The lock is held across the hook, so that
// a decision comes either before it or after.
func (q *Quota) follow(next func(staffetta.Endpoint)) func(staffetta.Endpoint) {
	return func(e staffetta.Endpoint) {
		d := &q.disablings
		d.mu.Lock()
		defer d.mu.Unlock()
		started := q.registry.Load() != nil
		was := d.disabled[e.ID]
		switch {
		case e.Status == staffetta.Disabled:
			d.disabled[e.ID] = true
			delete(d.pending, e.ID)
			if started && !was && e.DisabledReason != staffetta.DisabledByQuota {
				d.queue = append(d.queue, disabling{workspace: e.Workspace, endpoint: e.ID, stored: &e})
				d.rouse()
			}
		case was:
			delete(d.disabled, e.ID)
			delete(d.pending, e.ID) // of an attempt that was under way when somebody disabled it
			if q.cfg.OnEnabled != nil {
				q.cfg.OnEnabled(e)
			}
		case d.pending[e.ID]:
			e.Status, e.DisabledReason = staffetta.Disabled, staffetta.DisabledByQuota
		}
		if next != nil {
			next(e)
		}
	}
}

// unfollow stands before the hook of removed endpoints.
func (q *Quota) unfollow(next func(staffetta.Endpoint)) func(staffetta.Endpoint) {
	return func(e staffetta.Endpoint) {
		d := &q.disablings
		d.mu.Lock()
		delete(d.pending, e.ID)
		delete(d.disabled, e.ID)
		d.mu.Unlock()
		if next != nil {
			next(e)
		}
	}
}

// Run stores which endpoints are disabled until ctx ends, and then for a moment what is left.
func (q *Quota) Run(ctx context.Context) error {
	if q.registry.Load() == nil {
		return errors.New("run quota: no relay was made with it")
	}
	sweep := time.NewTicker(sweepInterval)
	defer sweep.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), disablingLast)
			defer cancel()
			q.settle(last)
			return nil
		case now := <-sweep.C:
			q.sweep(now)
			continue
		case <-q.wake:
		case <-retry.C:
		}
		if !q.settle(ctx) {
			retry.Reset(disablingRetry)
		}
	}
}

// settle stores and tells what is in the queue; what cannot be stored goes back into it.
func (q *Quota) settle(ctx context.Context) (all bool) {
	all = true
	var group errgroup.Group
	group.SetLimit(disablingWorkers)
	var mu sync.Mutex
	for _, one := range q.take() {
		group.Go(func() error {
			if err := q.settleOne(ctx, one); err != nil {
				q.cfg.Log.Error().Err(err).Str("workspace", one.workspace).Str("endpoint", one.endpoint).
					Msg("cannot store that the endpoint is disabled; it gets no events, and storing is tried again")
				mu.Lock()
				all = false
				mu.Unlock()
				q.disablings.mu.Lock()
				q.queue = append(q.queue, one)
				q.disablings.mu.Unlock()
			}
			return nil
		})
	}
	_ = group.Wait() // there are no errors
	return all
}

func (q *Quota) settleOne(ctx context.Context, one disabling) error {
	ctx, cancel := context.WithTimeout(ctx, disablingTimeout)
	defer cancel()
	if one.stored == nil {
		e, done, err := q.store(ctx, one)
		if err != nil || !done {
			return err
		}
		one.stored = &e
		q.cfg.Log.Warn().Str("workspace", one.workspace).Str("endpoint", one.endpoint).
			Int("failures", one.failures).Int("quota", one.quota).Msg("endpoint disabled: more failures than the quota bears")
	}
	if q.cfg.OnDisabled != nil {
		q.cfg.OnDisabled(ctx, Disabling{Endpoint: *one.stored, Failures: one.failures, Quota: one.quota})
	}
	return nil
}

// store writes a decision into the Registry; done is false where there was nothing to do: the
// endpoint is gone, or somebody has disabled it, and perhaps enabled it since.
func (q *Quota) store(ctx context.Context, one disabling) (e staffetta.Endpoint, done bool, err error) {
	e, err = q.registry.Load().UpdateEndpoint(ctx, one.workspace, one.endpoint, func(e *staffetta.Endpoint) error {
		// Disabled by the quota while the decision is pending: an earlier write of it was stored, but
		// its answer was lost.
		stored := e.Status == staffetta.Disabled && e.DisabledReason == staffetta.DisabledByQuota
		done = q.isPending(e.ID) && (e.Status == staffetta.Enabled || stored)
		switch {
		case !done:
			q.forget(e.ID) // here, where nobody can enable it in between
		case !stored:
			disable(e, staffetta.DisabledByQuota)
		}
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		q.forget(one.endpoint)
		return e, false, nil
	}
	return e, done && err == nil, err
}
