package relay

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/staffetta-relay/staffetta"
)

// casAttempts is how often a change is decided anew because another process wrote in between.
const casAttempts = 5

// stamp is the present as the API shows it: UTC, in milliseconds.
func stamp() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// PutWorkspace creates a workspace, or changes it: change gets what there is, or a workspace with
// only its ID, and must leave a valid one; an error of it ends the attempt. created says which.
func (r *Registry) PutWorkspace(ctx context.Context, id string, change func(*staffetta.Workspace) error) (ws staffetta.Workspace, created bool, err error) {
	if !staffetta.ValidID(id) {
		invalid := staffetta.Workspace{ID: id}
		return staffetta.Workspace{}, false, invalid.Validate()
	}
	t := r.tenant(id)
	t.write.Lock()
	defer t.write.Unlock()
	for range casAttempts {
		if !t.isLive() {
			if ws, err = r.createWorkspace(ctx, t, change); !isConflict(err) {
				return ws, true, err
			}
		} else if ws, err = r.changeWorkspace(ctx, t, change); !isConflict(err) {
			return ws, false, err
		}
		if err := r.refresh(ctx, t, kindWorkspace, ""); err != nil {
			return staffetta.Workspace{}, false, err
		}
	}
	return staffetta.Workspace{}, false, changedMeanwhile()
}

func (r *Registry) createWorkspace(ctx context.Context, t *tenant, change func(*staffetta.Workspace) error) (staffetta.Workspace, error) {
	ws := staffetta.Workspace{ID: t.id, CreatedAt: stamp()}
	ws.UpdatedAt = ws.CreatedAt
	if err := change(&ws); err != nil {
		return ws, err
	}
	if int(r.live.Load()) >= r.cfg.MaxWorkspaces {
		return ws, limitReached("workspace_limit", "the relay", r.cfg.MaxWorkspaces, "workspaces")
	}
	// What a deletion has left behind must not come back with the new workspace.
	if err := r.removeRecords(ctx, t); err != nil {
		return ws, err
	}
	value, err := r.cfg.Sealer.encodeWorkspace(workspaceValue{Workspace: ws})
	if err != nil {
		return ws, err
	}
	revision, err := r.cfg.Bucket.Create(ctx, workspaceRecordName(t.id), value)
	if err != nil {
		return ws, storeError("create workspace", err)
	}
	r.putWorkspace(t, revision, workspaceValue{Workspace: ws})
	return ws, nil
}

func (r *Registry) changeWorkspace(ctx context.Context, t *tenant, change func(*staffetta.Workspace) error) (staffetta.Workspace, error) {
	old, revision := t.current()
	if old == nil {
		return staffetta.Workspace{}, errConflict
	}
	ws := *old
	if err := change(&ws); err != nil {
		return ws, err
	}
	if reflect.DeepEqual(ws, *old) {
		return ws, nil
	}
	ws.UpdatedAt = stamp()
	return ws, r.storeWorkspace(ctx, t, revision, workspaceValue{Workspace: ws})
}

func (r *Registry) storeWorkspace(ctx context.Context, t *tenant, revision uint64, v workspaceValue) error {
	value, err := r.cfg.Sealer.encodeWorkspace(v)
	if err != nil {
		return err
	}
	if revision, err = r.cfg.Bucket.Update(ctx, workspaceRecordName(t.id), value, revision); err != nil {
		return storeError("change workspace", err)
	}
	r.putWorkspace(t, revision, v)
	return nil
}

// current is the workspace as memory knows it, with its revision.
func (t *tenant) current() (*staffetta.Workspace, uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.workspace.Load(), t.revision
}

// DeleteWorkspace deletes a workspace with its endpoints and keys. One write makes all of them
// disappear; their records are removed after it. Where that is cut short, the workspace stays
// gone, and the next DeleteWorkspace, PutWorkspace or OpenRegistry removes the rest.
func (r *Registry) DeleteWorkspace(ctx context.Context, id string) error {
	t, ok := r.tenants.get(id)
	if !ok {
		return noWorkspace(id)
	}
	t.write.Lock()
	defer t.write.Unlock()
	for range casAttempts {
		ws, revision := t.current()
		if ws == nil {
			if !t.hasRecords() {
				return noWorkspace(id)
			}
			return r.removeRecords(ctx, t)
		}
		err := r.storeWorkspace(ctx, t, revision, workspaceValue{Workspace: *ws, Deleting: true})
		if err == nil {
			return r.removeRecords(ctx, t)
		}
		if !isConflict(err) {
			return err
		}
		if err := r.refresh(ctx, t, kindWorkspace, ""); err != nil {
			return err
		}
	}
	return changedMeanwhile()
}

// finishDeletions removes what deletions that were cut short left behind.
func (r *Registry) finishDeletions(ctx context.Context) error {
	for _, t := range r.tenants.all {
		if t.isLive() || !t.hasRecords() {
			continue
		}
		t.write.Lock()
		err := r.removeRecords(ctx, t)
		t.write.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tenant) hasRecords() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.stored || len(t.endpoints) > 0 || len(t.keys) > 0
}

// removeRecords removes every record of a workspace that is not live: its own comes last, so that
// whatever is left after a crash is found again. For holders of write.
func (r *Registry) removeRecords(ctx context.Context, t *tenant) error {
	t.mu.RLock()
	endpoints := slices.Clone(t.order)
	keys := slices.Collect(maps.Keys(t.keys))
	own, stored := t.revision, t.stored
	t.mu.RUnlock()

	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for _, id := range endpoints {
		group.Go(func() error { return r.removeChild(groupCtx, t, kindEndpoint, id) })
	}
	for _, id := range keys {
		group.Go(func() error { return r.removeChild(groupCtx, t, kindKey, id) })
	}
	if err := group.Wait(); err != nil || !stored {
		return err
	}
	err := r.remove(ctx, workspaceRecordName(t.id), own)
	if isConflict(err) { // another process has done it already
		return r.refresh(ctx, t, kindWorkspace, "")
	}
	if err == nil {
		r.dropWorkspace(t, own)
	}
	return err
}

// removeChild removes an endpoint or a key from the bucket and then from memory, whatever others
// have made of it meanwhile. For holders of write.
func (r *Registry) removeChild(ctx context.Context, t *tenant, kind, id string) error {
	for range casAttempts {
		revision, found := t.childRevision(kind, id)
		if !found {
			return nil
		}
		err := r.remove(ctx, childRecordName(kind, t.id, id), revision)
		if err == nil {
			r.dropChild(t, kind, id, revision)
			return nil
		}
		if !isConflict(err) {
			return err
		}
		if err := r.refresh(ctx, t, kind, id); err != nil {
			return err
		}
	}
	return changedMeanwhile()
}

func (t *tenant) childRevision(kind, id string) (revision uint64, found bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if kind == kindKey {
		if entry := t.keys[id]; entry != nil {
			return entry.revision, true
		}
	} else if entry := t.endpoints[id]; entry != nil {
		return entry.revision, true
	}
	return 0, false
}

func (r *Registry) dropChild(t *tenant, kind, id string, revision uint64) {
	if kind == kindKey {
		r.dropKey(t, id, revision)
	} else {
		r.dropEndpoint(t, id, revision)
	}
}

// remove deletes a record of the bucket at the revision.
func (r *Registry) remove(ctx context.Context, name string, revision uint64) (err error) {
	last := jetstream.LastRevision(revision)
	if r.markerTTL > 0 {
		err = r.cfg.Bucket.Purge(ctx, name, last, jetstream.PurgeTTL(r.markerTTL))
	} else {
		err = r.cfg.Bucket.Delete(ctx, name, last)
	}
	if err != nil {
		return storeError("delete "+name, err)
	}
	return nil
}

// refresh reads a record again, because another process has changed it.
func (r *Registry) refresh(ctx context.Context, t *tenant, kind, id string) error {
	name := workspaceRecordName(t.id)
	if kind != kindWorkspace {
		name = childRecordName(kind, t.id, id)
	}
	entry, err := r.cfg.Bucket.Get(ctx, name)
	switch {
	case err == nil:
		return r.apply(entry)
	case !errors.Is(err, jetstream.ErrKeyNotFound):
		return storeError("read "+name, err)
	}
	// Deleted by another process: what memory knows is what it deleted.
	if kind == kindWorkspace {
		_, revision := t.current()
		r.dropWorkspace(t, revision)
	} else if revision, found := t.childRevision(kind, id); found {
		r.dropChild(t, kind, id, revision)
	}
	return nil
}

// CreateKey makes an API key of a workspace. The key is returned here and never again.
func (r *Registry) CreateKey(ctx context.Context, workspace, name string) (k APIKey, key string, err error) {
	t, err := r.liveTenant(workspace)
	if err != nil {
		return APIKey{}, "", err
	}
	t.write.Lock()
	defer t.write.Unlock()
	t.mu.RLock()
	count, live := len(t.keys), t.isLive()
	t.mu.RUnlock()
	if !live {
		return APIKey{}, "", noWorkspace(workspace)
	}
	if count >= r.cfg.MaxKeys {
		return APIKey{}, "", limitReached("key_limit", "the workspace "+workspace, r.cfg.MaxKeys, "API keys")
	}
	id, key, hash := newAPIKey()
	k = APIKey{ID: id, Name: name, CreatedAt: stamp()}
	value, err := encodeKey(k, hash)
	if err != nil {
		return APIKey{}, "", err
	}
	revision, err := r.cfg.Bucket.Create(ctx, childRecordName(kindKey, workspace, id), value)
	if err != nil {
		return APIKey{}, "", storeError("create key", err)
	}
	r.putKey(t, revision, k, hash)
	return k, key, nil
}

// DeleteKey revokes an API key at once.
func (r *Registry) DeleteKey(ctx context.Context, workspace, id string) error {
	t, err := r.liveTenant(workspace)
	if err != nil {
		return err
	}
	t.write.Lock()
	defer t.write.Unlock()
	if _, found := t.childRevision(kindKey, id); !found {
		return noKey(workspace, id)
	}
	return r.removeChild(ctx, t, kindKey, id)
}
