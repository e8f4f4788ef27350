package relay

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// CreateEndpoint stores a new endpoint, which must be valid and have its signing key: the Registry
// gives it its ID and its times.
func (r *Registry) CreateEndpoint(ctx context.Context, e staffetta.Endpoint) (staffetta.Endpoint, error) {
	t, err := r.liveTenant(e.Workspace)
	if err != nil {
		return e, err
	}
	t.write.Lock()
	defer t.write.Unlock()
	if err := r.admit(t, &e); err != nil {
		return e, err
	}
	e.ID = newID(endpointPrefix)
	e.CreatedAt = stamp()
	e.UpdatedAt = e.CreatedAt
	value, err := r.cfg.Sealer.encodeEndpoint(e)
	if err != nil {
		return e, err
	}
	revision, err := r.cfg.Bucket.Create(ctx, childRecordName(kindEndpoint, e.Workspace, e.ID), value)
	if err != nil {
		return e, storeError("create endpoint", err)
	}
	r.putEndpoint(t, revision, e)
	return e, nil
}

// admit says why a new endpoint cannot be.
func (r *Registry) admit(t *tenant, e *staffetta.Endpoint) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if !t.isLive() {
		return noWorkspace(t.id)
	}
	if id, taken := t.urls[comparableURL(e.URL)]; taken {
		return urlTaken(id)
	}
	if len(t.endpoints) >= r.cfg.MaxEndpoints {
		return limitReached("endpoint_limit", "the workspace "+t.id, r.cfg.MaxEndpoints, "endpoints")
	}
	return nil
}

// UpdateEndpoint stores what change makes of an endpoint, which must be valid; it gets a copy to
// write in. An error of change ends the attempt; one that changes nothing is not stored. change
// may be called again, where another process wrote in between.
func (r *Registry) UpdateEndpoint(ctx context.Context, workspace, id string, change func(*staffetta.Endpoint) error) (staffetta.Endpoint, error) {
	t, err := r.liveTenant(workspace)
	if err != nil {
		return staffetta.Endpoint{}, err
	}
	t.write.Lock()
	defer t.write.Unlock()
	for range casAttempts {
		e, err := r.updateEndpoint(ctx, t, id, change)
		if !isConflict(err) {
			return e, err
		}
		if err := r.refresh(ctx, t, kindEndpoint, id); err != nil {
			return staffetta.Endpoint{}, err
		}
	}
	return staffetta.Endpoint{}, changedMeanwhile()
}

func (r *Registry) updateEndpoint(ctx context.Context, t *tenant, id string, change func(*staffetta.Endpoint) error) (staffetta.Endpoint, error) {
	entry, err := t.endpoint(id)
	if err != nil {
		return staffetta.Endpoint{}, err
	}
	e := entry.endpoint
	e.EventTypes, e.Headers = slices.Clone(e.EventTypes), maps.Clone(e.Headers)
	if err := change(&e); err != nil {
		return e, err
	}
	if reflect.DeepEqual(e, entry.endpoint) {
		return entry.endpoint, nil
	}
	t.mu.RLock()
	other, taken := t.urls[comparableURL(e.URL)]
	t.mu.RUnlock()
	if taken && other != id {
		return e, urlTaken(other)
	}
	e.UpdatedAt = stamp()
	value, err := r.cfg.Sealer.encodeEndpoint(e)
	if err != nil {
		return e, err
	}
	revision, err := r.cfg.Bucket.Update(ctx, childRecordName(kindEndpoint, t.id, id), value, entry.revision)
	if err != nil {
		return e, storeError("change endpoint", err)
	}
	r.putEndpoint(t, revision, e)
	return e, nil
}

// endpoint finds the entry of an endpoint that the API may see. Entries never change once they
// can be found, but for their place in the routes.
func (t *tenant) endpoint(id string) (*endpointEntry, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if !t.isLive() {
		return nil, noWorkspace(t.id)
	}
	if entry := t.endpoints[id]; entry != nil {
		return entry, nil
	}
	return nil, noEndpoint(t.id, id)
}

// EnableEndpoint lets an endpoint have its events; one that is enabled stays as it is. One that
// requires a test send before, and has not accepted any, is refused.
func (r *Registry) EnableEndpoint(ctx context.Context, workspace, id string) (staffetta.Endpoint, error) {
	return r.UpdateEndpoint(ctx, workspace, id, func(e *staffetta.Endpoint) error {
		if e.NeedsTest() {
			return testRequired(e.ID)
		}
		e.Status, e.DisabledReason, e.DisabledAt, e.TestedAt = staffetta.Enabled, "", nil, nil
		return nil
	})
}

// DisableEndpoint stops an endpoint for a reason, such as staffetta.DisabledByUser; one that is
// disabled keeps its first reason.
func (r *Registry) DisableEndpoint(ctx context.Context, workspace, id, reason string) (staffetta.Endpoint, error) {
	return r.UpdateEndpoint(ctx, workspace, id, func(e *staffetta.Endpoint) error {
		if e.Status == staffetta.Enabled {
			disable(e, reason)
		}
		return nil
	})
}

func disable(e *staffetta.Endpoint, reason string) {
	at := stamp()
	e.Status, e.DisabledReason, e.DisabledAt, e.TestedAt = staffetta.Disabled, reason, &at, nil
}

// noteTest takes note of a test send that was accepted, where it is needed to enable the endpoint as
// it was tested. It says nothing of an endpoint that was disabled or led elsewhere meanwhile.
func (r *Registry) noteTest(ctx context.Context, tested staffetta.Endpoint, startedAt time.Time) error {
	if !tested.NeedsTest() {
		return nil
	}
	_, err := r.UpdateEndpoint(ctx, tested.Workspace, tested.ID, func(e *staffetta.Endpoint) error {
		if e.NeedsTest() && e.URL == tested.URL && e.DisabledAt != nil && !startedAt.Before(*e.DisabledAt) {
			e.TestedAt = &startedAt
		}
		return nil
	})
	return err
}

// DeleteEndpoint deletes an endpoint. What waits for it is discarded.
func (r *Registry) DeleteEndpoint(ctx context.Context, workspace, id string) error {
	t, err := r.liveTenant(workspace)
	if err != nil {
		return err
	}
	t.write.Lock()
	defer t.write.Unlock()
	if _, err := t.endpoint(id); err != nil {
		return err
	}
	return r.removeChild(ctx, t, kindEndpoint, id)
}
