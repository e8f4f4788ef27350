package relay

import (
	"crypto/sha256"
	"crypto/subtle"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/staffetta-relay/staffetta"
)

// Route is where a copy of an event goes.
type Route struct {
	// Endpoint is the endpoint's id.
	Endpoint string
	// Shard is the shard that the endpoint lives in, for ever.
	Shard int
	// Subject is where the shard takes the endpoint's events.
	Subject string
}

// Access is what a key may do with a workspace.
type Access uint8

const (
	// AccessNone: the key is unknown.
	AccessNone Access = iota
	// AccessOther: the key is another workspace's.
	AccessOther
	// AccessWorkspace: the key is this workspace's.
	AccessWorkspace
	// AccessAdmin: the admin key.
	AccessAdmin
)

// Routes lists, in the order of their creation, the endpoints that an event of the type goes to: the
// enabled ones, and the disabled ones that hold. ok is false where the workspace does not exist.
// It takes no lock and allocates nothing (TestTheHotPathAllocatesNothing); the caller must not
// change the routes.
func (r *Registry) Routes(workspace string, eventType []byte) (routes []Route, ok bool) {
	t, ok := r.tenants.get(workspace)
	if !ok || t.workspace.Load() == nil {
		return nil, false
	}
	return t.routes.of(eventType), true
}

// Authorize says what the bearer of a key may do with a workspace, whether or not that exists. It
// takes no lock and allocates nothing; keys are compared as SHA-256 sums, in constant time.
func (r *Registry) Authorize(workspace string, bearer []byte) Access {
	sum := sha256.Sum256(bearer)
	if subtle.ConstantTimeCompare(sum[:], r.admin[:]) == 1 {
		return AccessAdmin
	}
	g, ok := r.grants.getBytes(apiKeyID(bearer))
	switch {
	case !ok || subtle.ConstantTimeCompare(sum[:], g.hash[:]) != 1:
		return AccessNone
	case g.workspace != workspace:
		return AccessOther
	default:
		return AccessWorkspace
	}
}

// grant is what an API key opens.
type grant struct {
	workspace string
	hash      [sha256.Size]byte
}

// routeTable has the routes of a workspace by event type. An event reads one list only, so each
// list changes on its own. Writers hold the tenant's mu.
type routeTable struct {
	lists atomic.Pointer[map[string]*routeList]
}

type routeList struct{ routes atomic.Pointer[[]Route] }

func (t *routeTable) of(eventType []byte) []Route {
	lists := t.lists.Load()
	if lists == nil {
		return nil
	}
	l := (*lists)[string(eventType)]
	if l == nil {
		return nil
	}
	return *l.routes.Load()
}

// change takes the route out of the lists of the types before and puts it into those of after.
func (t *routeTable) change(route Route, before, after []string) {
	for _, name := range before {
		if !slices.Contains(after, name) {
			t.list(name).remove(route.Endpoint)
		}
	}
	for _, name := range after {
		if !slices.Contains(before, name) {
			t.list(name).add(route)
		}
	}
}

func (t *routeTable) clear() { t.lists.Store(nil) }

func (t *routeTable) list(eventType string) *routeList {
	old := t.lists.Load()
	if old != nil && (*old)[eventType] != nil {
		return (*old)[eventType]
	}
	lists := map[string]*routeList{}
	if old != nil {
		lists = maps.Clone(*old)
	}
	l := &routeList{}
	l.routes.Store(&[]Route{})
	lists[eventType] = l
	t.lists.Store(&lists)
	return l
}

// add keeps the list in the order of the ids, which is that of creation. A newest endpoint is
// appended behind what the readers of the moment see, so that 10,000 of them cost no 10,000 copies.
func (l *routeList) add(route Route) {
	routes := *l.routes.Load()
	if n := len(routes); n == 0 || routes[n-1].Endpoint < route.Endpoint {
		routes = append(routes, route)
	} else if i, found := slices.BinarySearchFunc(routes, route.Endpoint, compareRoute); !found {
		routes = slices.Insert(slices.Clone(routes), i, route)
	}
	l.routes.Store(&routes)
}

func (l *routeList) remove(endpoint string) {
	routes := *l.routes.Load()
	if i, found := slices.BinarySearchFunc(routes, endpoint, compareRoute); found {
		routes = slices.Delete(slices.Clone(routes), i, i+1)
		l.routes.Store(&routes)
	}
}

func compareRoute(r Route, endpoint string) int { return strings.Compare(r.Endpoint, endpoint) }

// wantedTypes are the event types that reach an endpoint as it stands.
func wantedTypes(e *staffetta.Endpoint) []string {
	if e.Status == staffetta.Disabled && e.OnDisable == staffetta.Discard {
		return nil
	}
	return e.EventTypes
}

// snapshotMap is a map whose readers take no lock: a write copies one of many small maps. At
// 100,000 entries that is a hundred of them.
type snapshotMap[V any] struct {
	seed   maphash.Seed
	shards [1024]struct {
		mu sync.Mutex
		m  atomic.Pointer[map[string]V]
	}
}

func newSnapshotMap[V any]() *snapshotMap[V] { return &snapshotMap[V]{seed: maphash.MakeSeed()} }

func (s *snapshotMap[V]) get(key string) (v V, ok bool) {
	if m := s.shards[maphash.String(s.seed, key)%uint64(len(s.shards))].m.Load(); m != nil {
		v, ok = (*m)[key]
	}
	return v, ok
}

func (s *snapshotMap[V]) getBytes(key []byte) (v V, ok bool) {
	if m := s.shards[maphash.Bytes(s.seed, key)%uint64(len(s.shards))].m.Load(); m != nil {
		v, ok = (*m)[string(key)]
	}
	return v, ok
}

// change replaces the map that the key belongs to by a copy that f has changed.
func (s *snapshotMap[V]) change(key string, f func(map[string]V)) {
	shard := &s.shards[maphash.String(s.seed, key)%uint64(len(s.shards))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	next := map[string]V{}
	if m := shard.m.Load(); m != nil {
		next = maps.Clone(*m)
	}
	f(next)
	shard.m.Store(&next)
}

func (s *snapshotMap[V]) set(key string, v V) { s.change(key, func(m map[string]V) { m[key] = v }) }

func (s *snapshotMap[V]) remove(key string) {
	s.change(key, func(m map[string]V) { delete(m, key) })
}

// all yields the entries in no order.
func (s *snapshotMap[V]) all(yield func(string, V) bool) {
	for i := range s.shards {
		if m := s.shards[i].m.Load(); m != nil {
			for k, v := range *m {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}
