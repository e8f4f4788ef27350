package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

// pair opens two registries on one bucket, as two processes would; both follow it.
func pair(t *testing.T) (a, b *Registry) {
	cfg := testRegistryConfig(t, bucketFor(t))
	a, b = openRegistry(t, cfg), openRegistry(t, cfg)
	follow(t, a)
	follow(t, b)
	return a, b
}

func TestASecondProcessSeesWhatTheFirstDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		addWorkspace(t, a, "acme")
		e := addEndpoint(t, a, "acme", "http://a.example", "message.received")
		k, key, err := a.CreateKey(t.Context(), "acme", "")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantRoutes(t, b, "acme", "message.received", e.ID)
		if access := b.Authorize("acme", []byte(key)); access != AccessWorkspace {
			t.Errorf("the key gives %v", access)
		}
		// It changes what the first made, and the first sees that.
		if _, err := b.UpdateEndpoint(t.Context(), "acme", e.ID, func(e *staffetta.Endpoint) error {
			e.EventTypes = []string{"message.sent"}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := b.DeleteKey(t.Context(), "acme", k.ID); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantRoutes(t, a, "acme", "message.received", []string{}...)
		wantRoutes(t, a, "acme", "message.sent", e.ID)
		if access := a.Authorize("acme", []byte(key)); access != AccessNone {
			t.Errorf("a revoked key gives %v", access)
		}
		if err := b.DeleteEndpoint(t.Context(), "acme", e.ID); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantRoutes(t, a, "acme", "message.sent", []string{}...)
		if err := b.DeleteWorkspace(t.Context(), "acme"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, ok := a.Routes("acme", nil); ok {
			t.Error("a deleted workspace has routes")
		}
	})
}

func TestAWriteOnAnOldViewIsDecidedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testRegistryConfig(t, bucketFor(t))
		a := openRegistry(t, cfg)
		addWorkspace(t, a, "acme")
		e := addEndpoint(t, a, "acme", "http://a.example", "message.received")
		gone := addEndpoint(t, a, "acme", "http://gone.example", "message.received")
		b := openRegistry(t, cfg) // neither follows the bucket: what it knows grows old
		if _, err := a.DisableEndpoint(t.Context(), "acme", e.ID, "quota"); err != nil {
			t.Fatal(err)
		}
		got, err := b.UpdateEndpoint(t.Context(), "acme", e.ID, func(e *staffetta.Endpoint) error {
			e.Description = "by the second"
			return nil
		})
		if err != nil || got.Status != staffetta.Disabled || got.Description != "by the second" {
			t.Errorf("got %+v, %v: a change was lost", got, err)
		}
		if err := a.DeleteEndpoint(t.Context(), "acme", gone.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := b.EnableEndpoint(t.Context(), "acme", gone.ID); err != nil {
			t.Errorf("enabling what is enabled: %v", err)
		}
		if _, err := b.DisableEndpoint(t.Context(), "acme", gone.ID, "user"); !errors.Is(err, ErrNotFound) {
			t.Errorf("changing what is gone: %v", err)
		}
		wantRoutes(t, b, "acme", "message.received", e.ID)
		if err := b.DeleteEndpoint(t.Context(), "acme", e.ID); err != nil {
			t.Fatal(err)
		}
		if err := a.DeleteEndpoint(t.Context(), "acme", e.ID); err != nil {
			t.Errorf("deleting what is gone: %v", err)
		}
		wantRoutes(t, a, "acme", "message.received", []string{}...)
		if err := a.DeleteWorkspace(t.Context(), "acme"); err != nil {
			t.Fatal(err)
		}
		if _, created, err := b.PutWorkspace(t.Context(), "acme", func(ws *staffetta.Workspace) error { ws.Language = "it"; ws.SetDefaults(); return nil }); err != nil || !created {
			t.Errorf("created %v, %v", created, err)
		}
		if err := a.DeleteWorkspace(t.Context(), "acme"); !errors.Is(err, ErrNotFound) {
			t.Errorf("deleting what this one does not know yet: %v", err)
		}
	})
}

// hookLog notes what the hooks are told, and whether Routes led to the endpoint at that moment.
type hookLog struct {
	registry *Registry
	calls    []string
}

func (l *hookLog) note(what string) func(staffetta.Endpoint) {
	return func(e staffetta.Endpoint) {
		led := l.registry != nil && slices.Contains(routesTo(l.registry, e.Workspace, "message.received"), e.ID)
		l.calls = append(l.calls, fmt.Sprintf("%s %s led=%v", what, e.URL, led))
	}
}

func (l *hookLog) want(t *testing.T, calls ...string) {
	t.Helper()
	synctest.Wait()
	if !slices.Equal(l.calls, calls) {
		t.Errorf("hooks: got %q, want %q", l.calls, calls)
	}
	l.calls = nil
}

func TestHooksAreToldOnceAndBeforeRoutesLeadThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testRegistryConfig(t, bucketFor(t))
		log := &hookLog{}
		cfg.OnEndpoint, cfg.OnEndpointRemoved = log.note("set"), log.note("removed")
		r := openRegistry(t, cfg)
		log.registry = r
		cfg.OnEndpoint, cfg.OnEndpointRemoved = nil, nil
		other := openRegistry(t, cfg)
		follow(t, r)
		follow(t, other)
		addWorkspace(t, r, "acme")

		// The registry's own changes come back through the watch, and are told once all the same.
		a := addEndpoint(t, r, "acme", "http://a.example", "message.received")
		log.want(t, "set http://a.example led=false")
		b := addEndpoint(t, other, "acme", "http://b.example", "message.received")
		log.want(t, "set http://b.example led=false")
		if _, err := r.DisableEndpoint(t.Context(), "acme", a.ID, "user"); err != nil {
			t.Fatal(err)
		}
		log.want(t, "set http://a.example led=true")
		if err := r.DeleteEndpoint(t.Context(), "acme", a.ID); err != nil {
			t.Fatal(err)
		}
		log.want(t, "removed http://a.example led=false")
		if err := other.DeleteEndpoint(t.Context(), "acme", b.ID); err != nil {
			t.Fatal(err)
		}
		log.want(t, "removed http://b.example led=false")
		addEndpoint(t, r, "acme", "http://c.example", "message.received")
		addEndpoint(t, r, "acme", "http://d.example", "message.received")
		log.calls = nil
		if err := r.DeleteWorkspace(t.Context(), "acme"); err != nil {
			t.Fatal(err)
		}
		log.want(t, "removed http://c.example led=false", "removed http://d.example led=false")
		addWorkspace(t, other, "acme")
		log.want(t, []string{}...)
	})
}

// laggingBucket keeps back what its watch tells until it is let go.
type laggingBucket struct {
	jetstream.KeyValue
	letGo chan struct{}
}

type laggingWatcher struct {
	jetstream.KeyWatcher
	updates chan jetstream.KeyValueEntry
}

func (w laggingWatcher) Updates() <-chan jetstream.KeyValueEntry { return w.updates }

func (b laggingBucket) WatchAll(ctx context.Context, options ...jetstream.WatchOpt) (jetstream.KeyWatcher, error) {
	watch, err := b.KeyValue.WatchAll(ctx, options...)
	if err != nil || len(options) == 0 { // the load
		return watch, err
	}
	w := laggingWatcher{watch, make(chan jetstream.KeyValueEntry)}
	go func() {
		defer close(w.updates)
		<-b.letGo
		for entry := range watch.Updates() {
			w.updates <- entry
		}
	}()
	return w, nil
}

func TestALateWatchBringsNothingBackThatWasDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testRegistryConfig(t, bucketFor(t))
		lagging := laggingBucket{cfg.Bucket, make(chan struct{})}
		cfg.Bucket = lagging
		log := &hookLog{}
		cfg.OnEndpoint, cfg.OnEndpointRemoved = log.note("set"), log.note("removed")
		r := openRegistry(t, cfg)
		follow(t, r)
		addWorkspace(t, r, "acme")
		a := addEndpoint(t, r, "acme", "http://a.example", "message.received")
		k, key, err := r.CreateKey(t.Context(), "acme", "")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the watch has it all, but has not told it
		if err := errors.Join(r.DeleteEndpoint(t.Context(), "acme", a.ID), r.DeleteKey(t.Context(), "acme", k.ID)); err != nil {
			t.Fatal(err)
		}
		if err := r.DeleteWorkspace(t.Context(), "acme"); err != nil {
			t.Fatal(err)
		}
		addWorkspace(t, r, "acme")
		log.want(t, "set http://a.example led=false", "removed http://a.example led=false")
		close(lagging.letGo)
		log.want(t, []string{}...)
		if routes, ok := r.Routes("acme", []byte("message.received")); !ok || len(routes) != 0 {
			t.Errorf("routes %v, ok %v", routes, ok)
		}
		if access := r.Authorize("acme", []byte(key)); access != AccessNone {
			t.Errorf("a revoked key gives %v", access)
		}
		tenant, _ := r.tenants.get("acme")
		if len(tenant.gone) != 0 {
			t.Errorf("still waits to be told of %v", tenant.gone)
		}
	})
}

// brokenBucket does not delete records of a kind.
type brokenBucket struct {
	jetstream.KeyValue
	kind string
}

func (b brokenBucket) Delete(ctx context.Context, key string, options ...jetstream.KVDeleteOpt) error {
	if kind, _, _ := parseRecordName(key); kind == b.kind {
		return errors.New("out of order")
	}
	return b.KeyValue.Delete(ctx, key, options...)
}

func (b brokenBucket) Purge(ctx context.Context, key string, options ...jetstream.KVDeleteOpt) error {
	if kind, _, _ := parseRecordName(key); kind == b.kind {
		return errors.New("out of order")
	}
	return b.KeyValue.Purge(ctx, key, options...)
}

func TestAWorkspaceWhoseDeletionWasCutShortStaysGoneAndIsSweptLater(t *testing.T) {
	for _, kind := range []string{kindEndpoint, kindKey, kindWorkspace} {
		for how, finish := range map[string]func(*testing.T, RegistryConfig, *Registry){
			"deleted again": func(t *testing.T, _ RegistryConfig, r *Registry) {
				if err := r.DeleteWorkspace(t.Context(), "acme"); err != nil {
					t.Fatal(err)
				}
			},
			"created again": func(t *testing.T, _ RegistryConfig, r *Registry) {
				addWorkspace(t, r, "acme")
				wantRoutes(t, r, "acme", "message.received", []string{}...)
				if err := r.DeleteWorkspace(t.Context(), "acme"); err != nil {
					t.Fatal(err)
				}
			},
			"restarted": func(t *testing.T, cfg RegistryConfig, _ *Registry) { openRegistry(t, cfg) },
		} {
			t.Run(kind+" kept, "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cfg := testRegistryConfig(t, bucketFor(t))
					r := openRegistry(t, cfg)
					addWorkspace(t, r, "acme")
					addEndpoint(t, r, "acme", "http://a.example", "message.received")
					_, key, err := r.CreateKey(t.Context(), "acme", "")
					if err != nil {
						t.Fatal(err)
					}
					r.cfg.Bucket = brokenBucket{cfg.Bucket, kind}
					if err := r.DeleteWorkspace(t.Context(), "acme"); !errors.Is(err, ErrUnavailable) {
						t.Fatalf("got %v", err)
					}
					_, unknown := r.Workspace("acme")
					if access := r.Authorize("acme", []byte(key)); !errors.Is(unknown, ErrNotFound) || routesTo(r, "acme", "message.received") != nil || access != AccessNone {
						t.Errorf("it is still there: %v, %v", unknown, access)
					}
					r.cfg.Bucket = cfg.Bucket
					finish(t, cfg, r)
					if keys, err := cfg.Bucket.Keys(t.Context()); err != nil || !slices.Equal(keys, []string{secretRecord}) {
						t.Errorf("records left: %v, %v", keys, err)
					}
				})
			})
		}
	}
}

func TestRunEndsWithAnErrorWhenTheConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		js := embedtest.JetStream(t, embedtest.Start(t, t.TempDir(), 4))
		bucket, err := js.KeyValue(t.Context(), staffetta.RegistryBucket)
		if err != nil {
			t.Fatal(err)
		}
		r := openRegistry(t, testRegistryConfig(t, bucket))
		done := make(chan error)
		go func() { done <- r.Run(t.Context()) }()
		synctest.Wait()
		js.Conn().Close()
		if err := <-done; err == nil {
			t.Error("no error")
		}
	})
}

func TestARecordThatCannotBeReadLeavesWhatWasKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testRegistryConfig(t, bucketFor(t))
		r := openRegistry(t, cfg)
		follow(t, r)
		addWorkspace(t, r, "acme")
		e := addEndpoint(t, r, "acme", "http://a.example", "message.received")
		for _, name := range []string{childRecordName(kindEndpoint, "acme", e.ID), workspaceRecordName("acme"), "something.else", "key.acme.key_1", "endpoint.acme"} {
			if _, err := cfg.Bucket.PutString(t.Context(), name, "{"); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		wantRoutes(t, r, "acme", "message.received", e.ID)
	})
}

func TestTheMarksOfDeletionsEndWhereTheBucketLetsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		js := embedtest.JetStream(t, embedtest.Start(t, t.TempDir(), 4))
		bucket, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "MARKED", LimitMarkerTTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		records := func() uint64 {
			status, err := bucket.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return status.Values()
		}
		r := openRegistry(t, testRegistryConfig(t, bucket))
		stop := follow(t, r)
		addWorkspace(t, r, "acme")
		addEndpoint(t, r, "acme", "http://a.example", "call.ended")
		if err := r.DeleteWorkspace(t.Context(), "acme"); err != nil {
			t.Fatal(err)
		}
		if n := records(); n != 3 {
			t.Errorf("%d records: the check of the secret and two marks were expected", n)
		}
		<-time.After(25 * time.Hour)
		if n := records(); n != 1 {
			t.Errorf("%d records after a day", n)
		}
		addWorkspace(t, r, "acme")
		stop()
	})
}
