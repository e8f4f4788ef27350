package relay

import (
	"crypto/sha256"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/staffetta-relay/staffetta"
)

// tenant is what memory knows of a workspace. It stays while the process lives, also when the
// workspace is deleted: its locks and the revisions it has seen must outlive that.
//
// Every change goes through the put and drop methods of Registry, whether the watch or this
// process made it; each ignores what is not newer than what is known, so the same change arriving
// twice is one change.
type tenant struct {
	id string
	// workspace is nil while there is none, or while it is being deleted.
	workspace atomic.Pointer[staffetta.Workspace]
	routes    routeTable

	// write is held from a decision until it is stored and in memory. mu is only for memory, so
	// that reading does not wait for the store.
	write sync.Mutex
	mu    sync.RWMutex
	// revision is the newest known of the workspace's record, also when that is deleted.
	revision uint64
	stored   bool // the record exists
	doomed   bool // it says that the workspace is being deleted

	endpoints map[string]*endpointEntry
	order     []string          // the endpoints' ids, sorted: the order of their creation
	urls      map[string]string // comparableURL -> id
	keys      map[string]*keyEntry
	// gone has the revision up to which a record that we deleted is void, until the watch has told
	// of the deletion: what it still tells from before must not bring the record back.
	gone map[string]uint64
}

type endpointEntry struct {
	revision uint64
	endpoint staffetta.Endpoint
	url      string
	// types are those that Routes leads here for; the hooks know of the endpoint if told is set.
	types []string
	told  bool
}

type keyEntry struct {
	revision uint64
	key      APIKey
	hash     [sha256.Size]byte
}

// isLive is for holders of mu.
func (t *tenant) isLive() bool { return t.workspace.Load() != nil }

// isStale says that a record is from before a deletion of ours. For holders of mu.
func (t *tenant) isStale(kind, id string, revision uint64) bool {
	name := kind + id
	known, ok := t.gone[name]
	if ok && revision > known {
		delete(t.gone, name)
		return false
	}
	return ok
}

func (r *Registry) putWorkspace(t *tenant, revision uint64, v workspaceValue) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if revision <= t.revision {
		return
	}
	t.revision, t.stored, t.doomed = revision, true, v.Deleting
	switch {
	case v.Deleting:
		r.retire(t)
	case t.isLive():
		r.tellWorkspace(&v.Workspace)
		t.workspace.Store(&v.Workspace)
	default:
		r.tellWorkspace(&v.Workspace)
		for _, id := range t.order {
			r.lead(t, t.endpoints[id])
		}
		t.workspace.Store(&v.Workspace)
		r.live.Add(1)
		for _, entry := range t.keys {
			r.grants.set(entry.key.ID, grant{workspace: t.id, hash: entry.hash})
		}
	}
}

func (r *Registry) tellWorkspace(ws *staffetta.Workspace) {
	if r.cfg.OnWorkspace != nil {
		r.cfg.OnWorkspace(*ws)
	}
}

// dropWorkspace takes the revision of the deletion or, where the deletion was ours, of what it deleted.
func (r *Registry) dropWorkspace(t *tenant, revision uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if revision < t.revision {
		return
	}
	t.revision, t.stored, t.doomed = revision, false, false
	r.retire(t)
}

// retire takes a workspace out of sight at once, with all it has; the records are removed after.
// For holders of mu.
func (r *Registry) retire(t *tenant) {
	ws := t.workspace.Swap(nil)
	if ws == nil {
		return
	}
	r.live.Add(-1)
	t.routes.clear()
	for id := range t.keys {
		r.grants.remove(id)
	}
	for _, id := range t.order {
		entry := t.endpoints[id]
		entry.types = nil
		r.tellRemoved(entry)
	}
	if r.cfg.OnWorkspaceRemoved != nil {
		r.cfg.OnWorkspaceRemoved(*ws)
	}
}

func (r *Registry) putEndpoint(t *tenant, revision uint64, e staffetta.Endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.endpoints[e.ID]
	if t.isStale(kindEndpoint, e.ID, revision) || old != nil && revision <= old.revision {
		return
	}
	entry := &endpointEntry{revision: revision, endpoint: e, url: comparableURL(e.URL)}
	if old == nil {
		at, _ := slices.BinarySearch(t.order, e.ID)
		t.order = slices.Insert(t.order, at, e.ID)
	} else {
		entry.types, entry.told = old.types, old.told
		t.forgetURL(old)
	}
	t.endpoints[e.ID] = entry
	t.urls[entry.url] = e.ID
	if t.isLive() {
		r.lead(t, entry)
	}
}

// lead tells the hook of an endpoint and then lets Routes lead to it. For holders of mu.
func (r *Registry) lead(t *tenant, entry *endpointEntry) {
	if r.cfg.OnEndpoint != nil {
		r.cfg.OnEndpoint(entry.endpoint)
	}
	entry.told = true
	shard := staffetta.Shard(entry.endpoint.ID, r.cfg.Shards)
	types := wantedTypes(&entry.endpoint)
	t.routes.change(Route{
		Endpoint: entry.endpoint.ID,
		Shard:    shard,
		Subject:  staffetta.EventSubject(shard, entry.endpoint.ID),
	}, entry.types, types)
	entry.types = types
}

func (r *Registry) tellRemoved(entry *endpointEntry) {
	if entry.told && r.cfg.OnEndpointRemoved != nil {
		r.cfg.OnEndpointRemoved(entry.endpoint)
	}
	entry.told = false
}

// dropEndpoint takes the revision of the deletion or, where the deletion was ours, of what it deleted.
func (r *Registry) dropEndpoint(t *tenant, id string, revision uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	entry := t.endpoints[id]
	if entry == nil {
		t.isStale(kindEndpoint, id, revision) // the watch tells of our deletion: no more to wait for
		return
	}
	if revision < entry.revision {
		return
	}
	if revision == entry.revision {
		t.gone[kindEndpoint+id] = revision
	}
	delete(t.endpoints, id)
	t.forgetURL(entry)
	if at, found := slices.BinarySearch(t.order, id); found {
		t.order = slices.Delete(t.order, at, at+1)
	}
	t.routes.change(Route{Endpoint: id}, entry.types, nil)
	r.tellRemoved(entry)
}

func (t *tenant) forgetURL(entry *endpointEntry) {
	if t.urls[entry.url] == entry.endpoint.ID {
		delete(t.urls, entry.url)
	}
}

func (r *Registry) putKey(t *tenant, revision uint64, k APIKey, hash [sha256.Size]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.keys[k.ID]
	if t.isStale(kindKey, k.ID, revision) || old != nil && revision <= old.revision {
		return
	}
	t.keys[k.ID] = &keyEntry{revision: revision, key: k, hash: hash}
	if t.isLive() {
		r.grants.set(k.ID, grant{workspace: t.id, hash: hash})
	}
}

// dropKey takes the revision of the deletion or, where the deletion was ours, of what it deleted.
func (r *Registry) dropKey(t *tenant, id string, revision uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	entry := t.keys[id]
	if entry == nil {
		t.isStale(kindKey, id, revision)
		return
	}
	if revision < entry.revision {
		return
	}
	if revision == entry.revision {
		t.gone[kindKey+id] = revision
	}
	delete(t.keys, id)
	r.grants.remove(id)
}
