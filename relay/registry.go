package relay

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

// RegistryConfig says what a Registry works on.
type RegistryConfig struct {
	// Bucket is the key-value bucket staffetta.RegistryBucket: the truth. Where it has a limit
	// marker TTL, the marks that deletions leave behind end by themselves after a day.
	Bucket jetstream.KeyValue
	// Sealer encrypts the signing keys. Another key than the bucket was made with is an error.
	Sealer *Sealer
	// AdminKey may do everything; at least MinAdminKey visible ASCII characters.
	AdminKey string
	// Shards is how many streams the events are spread over; 1 to staffetta.MaxShards.
	Shards int

	// MaxEndpoints bounds the endpoints of one workspace; 0 is 10,000.
	MaxEndpoints int
	// MaxWorkspaces bounds the workspaces; 0 is 100,000.
	MaxWorkspaces int
	// MaxKeys bounds the API keys of one workspace; 0 is 100.
	MaxKeys int

	// OnEndpoint is told of every endpoint at the start and of every change of one, from here or
	// from another process, before Routes leads to it. OnEndpointRemoved is told once Routes no
	// longer does. Calls about one workspace come one after the other. They must be quick and must
	// not call the Registry. Either may be nil.
	OnEndpoint        func(staffetta.Endpoint)
	OnEndpointRemoved func(staffetta.Endpoint)
	// OnWorkspace and OnWorkspaceRemoved are told of workspaces in the same way.
	OnWorkspace        func(staffetta.Workspace)
	OnWorkspaceRemoved func(staffetta.Workspace)

	// Log gets what another process wrote and cannot be read. The zero value is silent.
	Log zerolog.Logger
}

// Registry knows the workspaces, their endpoints and their API keys. The truth is a key-value
// bucket; memory follows it, first by loading all of it, then by the same watch that tells of what
// other processes write. A change is stored, by compare and set, before it is answered, and is in
// memory when the answer comes. It is safe for concurrent use.
//
// That a URL is one endpoint of its workspace is held strictly within a process; two processes
// that create the same URL within the moment the watch takes are not told apart.
type Registry struct {
	cfg   RegistryConfig
	admin [sha256.Size]byte
	// markerTTL is how long the mark of a deletion stays in the bucket; 0 is for ever.
	markerTTL time.Duration

	tenants *snapshotMap[*tenant]
	grants  *snapshotMap[grant]
	// live counts the workspaces.
	live atomic.Int64
	// seen is the newest revision of the load, and then of the watch; Run owns it.
	seen uint64
}

// OpenRegistry loads the bucket, telling the hooks of every endpoint, and finishes the deletions
// that a stop cut short. From then on changes made here are in memory; Run brings those of others.
func OpenRegistry(ctx context.Context, cfg RegistryConfig) (*Registry, error) {
	switch {
	case cfg.Bucket == nil:
		return nil, errors.New("open registry: Bucket is missing")
	case cfg.Sealer == nil:
		return nil, errors.New("open registry: Sealer is missing")
	case cfg.Shards < 1 || cfg.Shards > staffetta.MaxShards:
		return nil, fmt.Errorf("open registry: Shards must be between 1 and %d", staffetta.MaxShards)
	}
	if err := checkAdminKey(cfg.AdminKey); err != nil {
		return nil, fmt.Errorf("open registry: AdminKey %w", err)
	}
	cfg.MaxEndpoints = orDefault(cfg.MaxEndpoints, 10_000)
	cfg.MaxWorkspaces = orDefault(cfg.MaxWorkspaces, 100_000)
	cfg.MaxKeys = orDefault(cfg.MaxKeys, 100)
	r := &Registry{
		cfg:     cfg,
		admin:   sha256.Sum256([]byte(cfg.AdminKey)),
		tenants: newSnapshotMap[*tenant](),
		grants:  newSnapshotMap[grant](),
	}
	for _, step := range []func(context.Context) error{r.readMarkerTTL, r.checkSecret, r.load, r.finishDeletions} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("open registry: %w", err)
		}
	}
	return r, nil
}

func orDefault(n, otherwise int) int {
	if n <= 0 {
		return otherwise
	}
	return n
}

func (r *Registry) readMarkerTTL(ctx context.Context) error {
	status, err := r.cfg.Bucket.Status(ctx)
	if err != nil {
		return err
	}
	if status.LimitMarkerTTL() > 0 {
		r.markerTTL = 24 * time.Hour
	}
	return nil
}

// checkSecret finds a wrong secret key before the first endpoint fails to open.
func (r *Registry) checkSecret(ctx context.Context) error {
	entry, err := r.cfg.Bucket.Get(ctx, secretRecord)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		_, err = r.cfg.Bucket.Create(ctx, secretRecord, r.cfg.Sealer.Seal([]byte(secretText), secretRecord))
		if !errors.Is(err, jetstream.ErrKeyExists) {
			return err
		}
		entry, err = r.cfg.Bucket.Get(ctx, secretRecord) // another process was first
	}
	if err != nil {
		return err
	}
	plain, err := r.cfg.Sealer.Open(entry.Value(), secretRecord)
	if err != nil || string(plain) != secretText {
		return errors.New("this is not the secret key that the stored signing keys were sealed with: start with the secret key of the first start (by default the file secret.key in the data folder)")
	}
	return nil
}

// load reads every record. An endpoint may come before its workspace, whose record may have been
// written again later, so workspaces go into memory last, which also makes their endpoints known
// to the hooks in the order of their creation.
func (r *Registry) load(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch, err := r.cfg.Bucket.WatchAll(ctx)
	if err != nil {
		return err
	}
	defer stopWatch(watch)
	var workspaces []jetstream.KeyValueEntry
	for {
		var entry jetstream.KeyValueEntry
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, open := <-watch.Updates():
			if !open {
				return errors.New("the watch of the bucket ended")
			}
			entry = e
		}
		if entry == nil {
			break
		}
		r.seen = max(r.seen, entry.Revision())
		if kind, _, _ := parseRecordName(entry.Key()); kind == kindWorkspace {
			workspaces = append(workspaces, entry)
		} else if err := r.apply(entry); err != nil {
			return err
		}
	}
	for _, entry := range workspaces {
		if err := r.apply(entry); err != nil {
			return err
		}
	}
	return nil
}

// stopWatch ends a watch, whose goroutine may be blocked on handing over an update.
func stopWatch(watch jetstream.KeyWatcher) {
	if err := watch.Stop(); err != nil {
		return // the connection is closed, and the watch with it
	}
	for range watch.Updates() {
		continue
	}
}

// Run follows the bucket until the context ends, which is no error.
func (r *Registry) Run(ctx context.Context) error {
	watch, err := r.cfg.Bucket.WatchAll(ctx, jetstream.ResumeFromRevision(r.seen+1))
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("watch registry: %w", err)
	}
	defer stopWatch(watch)
	for {
		select {
		case <-ctx.Done():
			return nil
		case entry, open := <-watch.Updates():
			if !open {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("watch registry: the connection to the queue was closed")
			}
			if entry == nil {
				continue
			}
			r.seen = max(r.seen, entry.Revision())
			if err := r.apply(entry); err != nil {
				r.cfg.Log.Error().Err(err).Msg("cannot read a record of the registry; what was known before stays")
			}
		}
	}
}

// apply brings a record of the bucket into memory, unless memory knows a newer one.
func (r *Registry) apply(entry jetstream.KeyValueEntry) error {
	kind, workspace, id := parseRecordName(entry.Key())
	if kind == "" {
		return nil
	}
	if err := r.applyTo(r.tenant(workspace), kind, id, entry); err != nil {
		return fmt.Errorf("read %s: %w", entry.Key(), err)
	}
	return nil
}

func (r *Registry) applyTo(t *tenant, kind, id string, entry jetstream.KeyValueEntry) error {
	revision, removed := entry.Revision(), entry.Operation() != jetstream.KeyValuePut
	switch {
	case kind == kindWorkspace && removed:
		r.dropWorkspace(t, revision)
	case kind == kindEndpoint && removed:
		r.dropEndpoint(t, id, revision)
	case kind == kindKey && removed:
		r.dropKey(t, id, revision)
	case kind == kindWorkspace:
		v, err := r.cfg.Sealer.decodeWorkspace(entry.Value())
		if err != nil {
			return err
		}
		r.putWorkspace(t, revision, v)
	case kind == kindEndpoint:
		e, err := r.cfg.Sealer.decodeEndpoint(entry.Value())
		if err != nil {
			return err
		}
		if e.ID != id || e.Workspace != t.id {
			return errors.New("it is the record of another endpoint")
		}
		r.putEndpoint(t, revision, e)
	case kind == kindKey:
		k, hash, err := decodeKey(entry.Value())
		if err != nil {
			return err
		}
		r.putKey(t, revision, k, hash)
	}
	return nil
}

// tenant finds or makes the place of a workspace in memory.
func (r *Registry) tenant(workspace string) *tenant {
	t, ok := r.tenants.get(workspace)
	if !ok {
		r.tenants.change(workspace, func(m map[string]*tenant) {
			if t = m[workspace]; t == nil {
				t = &tenant{id: workspace, endpoints: map[string]*endpointEntry{}, urls: map[string]string{}, keys: map[string]*keyEntry{}, gone: map[string]uint64{}}
				m[workspace] = t
			}
		})
	}
	return t
}

// Workspace finds a workspace.
func (r *Registry) Workspace(id string) (staffetta.Workspace, error) {
	t, err := r.liveTenant(id)
	if err != nil {
		return staffetta.Workspace{}, err
	}
	if ws := t.workspace.Load(); ws != nil {
		return *ws, nil
	}
	return staffetta.Workspace{}, noWorkspace(id)
}

// Workspaces lists up to limit workspaces, by id, from the first one after the given id.
func (r *Registry) Workspaces(after string, limit int) (page []staffetta.Workspace, more bool) {
	var ids []string
	for id, t := range r.tenants.all {
		if id > after && t.workspace.Load() != nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		if len(page) == limit {
			return page, true
		}
		if ws, err := r.Workspace(id); err == nil { // it may just have been deleted
			page = append(page, ws)
		}
	}
	return page, false
}

// Endpoint finds an endpoint. Its slices and maps are shared: they must not be changed.
func (r *Registry) Endpoint(workspace, id string) (staffetta.Endpoint, error) {
	t, err := r.liveTenant(workspace)
	if err != nil {
		return staffetta.Endpoint{}, err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if entry := t.endpoints[id]; entry != nil {
		return entry.endpoint, nil
	}
	return staffetta.Endpoint{}, noEndpoint(workspace, id)
}

// Endpoints lists up to limit endpoints of a workspace in the order of their creation, from the
// first one after the given id.
func (r *Registry) Endpoints(workspace, after string, limit int) (page []staffetta.Endpoint, more bool, err error) {
	t, err := r.liveTenant(workspace)
	if err != nil {
		return nil, false, err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	from, found := slices.BinarySearch(t.order, after)
	if found {
		from++
	}
	for _, id := range t.order[from:] {
		if len(page) == limit {
			return page, true, nil
		}
		page = append(page, t.endpoints[id].endpoint)
	}
	return page, false, nil
}

// Keys lists the API keys of a workspace in the order of their creation.
func (r *Registry) Keys(workspace string) ([]APIKey, error) {
	t, err := r.liveTenant(workspace)
	if err != nil {
		return nil, err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	keys := make([]APIKey, 0, len(t.keys))
	for _, entry := range t.keys {
		keys = append(keys, entry.key)
	}
	slices.SortFunc(keys, func(a, b APIKey) int { return strings.Compare(a.ID, b.ID) })
	return keys, nil
}

func (r *Registry) liveTenant(workspace string) (*tenant, error) {
	t, ok := r.tenants.get(workspace)
	if !ok || t.workspace.Load() == nil {
		return nil, noWorkspace(workspace)
	}
	return t, nil
}
