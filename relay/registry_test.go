package relay

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

const testAdminKey = "admin-key-of-the-tests"

// bucketFor starts a queue on a folder of its own and opens the registry's bucket.
func bucketFor(t testing.TB) jetstream.KeyValue {
	t.Helper()
	js := embedtest.JetStream(t, embedtest.Start(t, t.TempDir(), 4))
	bucket, err := js.KeyValue(t.Context(), staffetta.RegistryBucket)
	if err != nil {
		t.Fatal(err)
	}
	return bucket
}

func testRegistryConfig(t testing.TB, bucket jetstream.KeyValue) RegistryConfig {
	t.Helper()
	sealer, err := NewSealer(bytes.Repeat([]byte{7}, SecretSize))
	if err != nil {
		t.Fatal(err)
	}
	return RegistryConfig{Bucket: bucket, Sealer: sealer, AdminKey: testAdminKey, Shards: 4}
}

func openRegistry(t testing.TB, cfg RegistryConfig) *Registry {
	t.Helper()
	r, err := OpenRegistry(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// follow runs the registry until the test, or what it returns, ends it.
func follow(t testing.TB, r *Registry) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func addWorkspace(t testing.TB, r *Registry, id string) {
	t.Helper()
	_, _, err := r.PutWorkspace(t.Context(), id, func(ws *staffetta.Workspace) error {
		ws.Plan = staffetta.PlanAdvanced
		ws.SetDefaults()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func testEndpoint(workspace, url string, types ...string) staffetta.Endpoint {
	e := staffetta.Endpoint{Workspace: workspace, URL: url, EventTypes: types}
	e.SetDefaults()
	e.Keys.Current = staffetta.NewSigningKey()
	return e
}

func addEndpoint(t testing.TB, r *Registry, workspace, url string, types ...string) staffetta.Endpoint {
	t.Helper()
	e, err := r.CreateEndpoint(t.Context(), testEndpoint(workspace, url, types...))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// routesTo lists the endpoints of Routes, or nil where there is no such workspace.
func routesTo(r *Registry, workspace, eventType string) []string {
	routes, ok := r.Routes(workspace, []byte(eventType))
	if !ok {
		return nil
	}
	ids := []string{}
	for _, route := range routes {
		ids = append(ids, route.Endpoint)
	}
	return ids
}

func wantRoutes(t testing.TB, r *Registry, workspace, eventType string, want ...string) {
	t.Helper()
	if got := routesTo(r, workspace, eventType); !slices.Equal(got, want) {
		t.Errorf("routes of %s: got %v, want %v", eventType, got, want)
	}
}

func TestRoutesFollowEveryChangeOfAnEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRegistry(t, testRegistryConfig(t, bucketFor(t)))
		if _, ok := r.Routes("acme", []byte("message.received")); ok {
			t.Error("an unknown workspace has routes")
		}
		addWorkspace(t, r, "acme")
		if routes, ok := r.Routes("acme", []byte("message.received")); !ok || len(routes) != 0 {
			t.Errorf("a new workspace: routes %v, ok %v", routes, ok)
		}
		a := addEndpoint(t, r, "acme", "http://a.example", "message.received", "message.sent")
		b := addEndpoint(t, r, "acme", "http://b.example", "message.received")
		c := addEndpoint(t, r, "acme", "http://c.example", "message.sent")
		wantRoutes(t, r, "acme", "message.received", a.ID, b.ID)
		wantRoutes(t, r, "acme", "message.sent", a.ID, c.ID)
		wantRoutes(t, r, "acme", "call.ended", []string{}...)

		update := func(id string, change func(*staffetta.Endpoint)) {
			t.Helper()
			if _, err := r.UpdateEndpoint(t.Context(), "acme", id, func(e *staffetta.Endpoint) error { change(e); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		update(c.ID, func(e *staffetta.Endpoint) { e.EventTypes = []string{"message.received"} })
		wantRoutes(t, r, "acme", "message.received", a.ID, b.ID, c.ID)
		wantRoutes(t, r, "acme", "message.sent", a.ID)
		update(a.ID, func(e *staffetta.Endpoint) { e.EventTypes = []string{"message.sent"} })
		update(a.ID, func(e *staffetta.Endpoint) { e.EventTypes = []string{"message.sent", "message.received"} })
		wantRoutes(t, r, "acme", "message.received", a.ID, b.ID, c.ID)

		if _, err := r.DisableEndpoint(t.Context(), "acme", b.ID, staffetta.DisabledByUser); err != nil {
			t.Fatal(err)
		}
		wantRoutes(t, r, "acme", "message.received", a.ID, b.ID, c.ID)
		update(b.ID, func(e *staffetta.Endpoint) { e.OnDisable = staffetta.Discard })
		wantRoutes(t, r, "acme", "message.received", a.ID, c.ID)
		if _, err := r.EnableEndpoint(t.Context(), "acme", b.ID); err != nil {
			t.Fatal(err)
		}
		wantRoutes(t, r, "acme", "message.received", a.ID, b.ID, c.ID)

		if err := r.DeleteEndpoint(t.Context(), "acme", a.ID); err != nil {
			t.Fatal(err)
		}
		wantRoutes(t, r, "acme", "message.received", b.ID, c.ID)
		if err := r.DeleteEndpoint(t.Context(), "acme", a.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("delete again: %v", err)
		}
		routes, _ := r.Routes("acme", []byte("message.received"))
		shard := staffetta.Shard(b.ID, 4)
		if want := (Route{b.ID, shard, staffetta.EventSubject(shard, b.ID)}); routes[0] != want {
			t.Errorf("got %+v, want %+v", routes[0], want)
		}
	})
}

func TestARestartFindsEverythingAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testRegistryConfig(t, bucketFor(t))
		r := openRegistry(t, cfg)
		addWorkspace(t, r, "acme")
		a := addEndpoint(t, r, "acme", "http://a.example", "message.received")
		b := testEndpoint("acme", "http://b.example", "message.received")
		b.Headers = map[string]string{"Authorization": "Bearer of-the-customer"}
		b, err := r.CreateEndpoint(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		gone := addEndpoint(t, r, "acme", "http://gone.example", "message.received")
		if err := r.DeleteEndpoint(t.Context(), "acme", gone.ID); err != nil {
			t.Fatal(err)
		}
		if a, err = r.DisableEndpoint(t.Context(), "acme", a.ID, "quota"); err != nil {
			t.Fatal(err)
		}
		_, key, err := r.CreateKey(t.Context(), "acme", "billing")
		if err != nil {
			t.Fatal(err)
		}
		// Written last, the workspace's record comes after those of its endpoints.
		if _, _, err := r.PutWorkspace(t.Context(), "acme", func(ws *staffetta.Workspace) error { ws.Language = "it"; return nil }); err != nil {
			t.Fatal(err)
		}

		var told []string
		cfg.OnEndpoint = func(e staffetta.Endpoint) { told = append(told, e.ID) }
		again := openRegistry(t, cfg)
		if want := []string{a.ID, b.ID}; !slices.Equal(told, want) {
			t.Errorf("hooks at the start: got %v, want %v", told, want)
		}
		wantRoutes(t, again, "acme", "message.received", a.ID, b.ID)
		for _, want := range []staffetta.Endpoint{a, b} {
			got, err := again.Endpoint("acme", want.ID)
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) || got.Keys.Current != want.Keys.Current {
				t.Errorf("got %v, %v, want %v", got, err, want)
			}
		}
		if ws, err := again.Workspace("acme"); err != nil || ws.Language != "it" {
			t.Errorf("workspace: %v, %v", ws, err)
		}
		if access := again.Authorize("acme", []byte(key)); access != AccessWorkspace {
			t.Errorf("the key gives %v", access)
		}
	})
}

func TestNothingSecretLiesReadableInTheBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := bucketFor(t)
		r := openRegistry(t, testRegistryConfig(t, bucket))
		addWorkspace(t, r, "acme")
		e := testEndpoint("acme", "http://a.example", "message.received")
		e.Headers = map[string]string{"Authorization": "Bearer of-the-customer"}
		e, err := r.CreateEndpoint(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		_, key, err := r.CreateKey(t.Context(), "acme", "")
		if err != nil {
			t.Fatal(err)
		}
		keys, err := bucket.Keys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range keys {
			entry, err := bucket.Get(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range []string{e.Keys.Current, "of-the-customer", key, key[keyIDLength+1:]} {
				for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))} {
					if strings.Contains(string(entry.Value()), form) {
						t.Errorf("%s shows a secret: %s", name, entry.Value())
					}
				}
			}
		}
	})
}

func TestAnotherSecretKeyIsRefusedAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testRegistryConfig(t, bucketFor(t))
		openRegistry(t, cfg)
		other, err := NewSealer(bytes.Repeat([]byte{8}, SecretSize))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Sealer = other
		_, err = OpenRegistry(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), "secret key of the first start") {
			t.Errorf("got %v", err)
		}
	})
}

func TestARecordUnderAnotherNameIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testRegistryConfig(t, bucketFor(t))
		r := openRegistry(t, cfg)
		addWorkspace(t, r, "acme")
		addWorkspace(t, r, "evil")
		e := addEndpoint(t, r, "acme", "http://a.example", "message.received")
		entry, err := cfg.Bucket.Get(t.Context(), childRecordName(kindEndpoint, "acme", e.ID))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{
			"as it is":       string(entry.Value()),
			"with its names": strings.Replace(string(entry.Value()), `"acme"`, `"evil"`, 1),
		} {
			copied := childRecordName(kindEndpoint, "evil", e.ID)
			if _, err := cfg.Bucket.Put(t.Context(), copied, []byte(value)); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenRegistry(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), copied) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})
}

func TestOneURLIsOneEndpointOfAWorkspace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRegistry(t, testRegistryConfig(t, bucketFor(t)))
		addWorkspace(t, r, "acme")
		addWorkspace(t, r, "other")
		addEndpoint(t, r, "other", "http://hook.example/in", "message.received")
		var wg sync.WaitGroup
		ids, errs := make([]string, 32), make([]error, 32)
		for i := range ids {
			wg.Go(func() {
				e, err := r.CreateEndpoint(t.Context(), testEndpoint("acme", "http://hook.example/in", "message.received"))
				ids[i], errs[i] = e.ID, err
			})
		}
		wg.Wait()
		stored := routesTo(r, "acme", "message.received")
		if len(stored) != 1 {
			t.Fatalf("%d endpoints with one URL", len(stored))
		}
		for i, err := range errs {
			var refused *refusal
			if ids[i] == stored[0] && err == nil {
				continue
			}
			if !errors.As(err, &refused) || refused.code != "url_taken" || refused.endpoint != stored[0] {
				t.Errorf("a second endpoint: %v", err)
			}
		}
		second := addEndpoint(t, r, "acme", "http://hook.example/second", "message.received")
		_, err := r.UpdateEndpoint(t.Context(), "acme", second.ID, func(e *staffetta.Endpoint) error {
			e.URL = "HTTP://HOOK.example:80/in"
			return nil
		})
		var refused *refusal
		if !errors.As(err, &refused) || refused.endpoint != stored[0] {
			t.Errorf("moving onto a taken URL: %v", err)
		}
		// A URL is free again once its endpoint is gone or has moved away.
		if err := r.DeleteEndpoint(t.Context(), "acme", stored[0]); err != nil {
			t.Fatal(err)
		}
		addEndpoint(t, r, "acme", "http://hook.example/in", "message.received")
		if _, err := r.UpdateEndpoint(t.Context(), "acme", second.ID, func(e *staffetta.Endpoint) error { e.URL += "/moved"; return nil }); err != nil {
			t.Fatal(err)
		}
		addEndpoint(t, r, "acme", "http://hook.example/second", "message.received")
	})
}

func TestURLsThatLeadToTheSamePlaceCompareEqual(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"http://a.example", "http://a.example/", true},
		{"http://A.Example/x", "HTTP://a.example:80/x", true},
		{"https://a.example/x", "https://a.example:443/x", true},
		{"https://a.example:0443/x", "https://a.example/x", true},
		{"http://[::1]/x", "http://[::1]:80/x", true},
		{"http://a.example:443/x", "http://a.example/x", false},
		{"http://a.example/x", "https://a.example/x", false},
		{"http://a.example/x", "http://a.example/X", false},
		{"http://a.example/x", "http://a.example/x?", false},
		{"http://a.example/?a=1", "http://a.example?a=1", true},
		{"http://a.example/%2F", "http://a.example//", false},
		{"http://[::1]:81/", "http://[::1:81]/", false},
	} {
		if got := comparableURL(c.a) == comparableURL(c.b); got != c.same {
			t.Errorf("%s and %s: same is %v (%s, %s)", c.a, c.b, got, comparableURL(c.a), comparableURL(c.b))
		}
	}
}

func TestTheBoundsAreHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testRegistryConfig(t, bucketFor(t))
		cfg.MaxWorkspaces, cfg.MaxEndpoints, cfg.MaxKeys = 2, 3, 1
		r := openRegistry(t, cfg)
		addWorkspace(t, r, "acme")
		addWorkspace(t, r, "other")
		wantCode := func(err error, code string) {
			t.Helper()
			var refused *refusal
			if !errors.As(err, &refused) || refused.code != code {
				t.Errorf("got %v, want %s", err, code)
			}
		}
		_, _, err := r.PutWorkspace(t.Context(), "third", func(*staffetta.Workspace) error { return nil })
		wantCode(err, "workspace_limit")
		for i := range 3 {
			addEndpoint(t, r, "acme", fmt.Sprintf("http://%d.example", i), "message.received")
		}
		_, err = r.CreateEndpoint(t.Context(), testEndpoint("acme", "http://more.example", "message.received"))
		wantCode(err, "endpoint_limit")
		if _, _, err := r.CreateKey(t.Context(), "acme", ""); err != nil {
			t.Fatal(err)
		}
		_, _, err = r.CreateKey(t.Context(), "acme", "")
		wantCode(err, "key_limit")
		if err := r.DeleteWorkspace(t.Context(), "other"); err != nil {
			t.Fatal(err)
		}
		addWorkspace(t, r, "third")
	})
}

func TestTenThousandEndpointsAreCreatedOneByOne(t *testing.T) {
	if testing.Short() {
		t.Skip("creates 10,000 endpoints")
	}
	cfg := testRegistryConfig(t, bucketFor(t))
	r := openRegistry(t, cfg)
	follow(t, r)
	addWorkspace(t, r, "acme")
	types := []string{"message.received", "message.sent", "contact.updated"}
	start := time.Now()
	for i := range 10_000 {
		addEndpoint(t, r, "acme", fmt.Sprintf("http://%d.example/hook", i), types...)
		if routes, _ := r.Routes("acme", []byte("message.sent")); len(routes) != i+1 {
			t.Fatalf("%d routes after %d endpoints", len(routes), i+1)
		}
	}
	t.Logf("created 10,000 endpoints in %v", time.Since(start))
	start = time.Now()
	again := openRegistry(t, cfg)
	t.Logf("opened a registry of them in %v", time.Since(start))
	if !slices.Equal(routesTo(again, "acme", "contact.updated"), routesTo(r, "acme", "contact.updated")) {
		t.Error("a restart has other routes")
	}
	start = time.Now()
	if err := r.DeleteWorkspace(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	t.Logf("deleted the workspace in %v", time.Since(start))
}

func TestTheHotPathAllocatesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRegistry(t, testRegistryConfig(t, bucketFor(t)))
		addWorkspace(t, r, "acme")
		addEndpoint(t, r, "acme", "http://a.example", "message.received")
		_, key, err := r.CreateKey(t.Context(), "acme", "")
		if err != nil {
			t.Fatal(err)
		}
		workspace, eventType, bearer := "acme", []byte("message.received"), []byte(key)
		if n := testing.AllocsPerRun(1000, func() {
			if r.Authorize(workspace, bearer) != AccessWorkspace {
				t.Fatal("not authorized")
			}
			if routes, ok := r.Routes(workspace, eventType); !ok || len(routes) != 1 {
				t.Fatal("no routes")
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

func BenchmarkAuthorizeAndRoutes(b *testing.B) {
	r := openRegistry(b, testRegistryConfig(b, bucketFor(b)))
	addWorkspace(b, r, "acme")
	addEndpoint(b, r, "acme", "http://a.example", "message.received")
	_, key, err := r.CreateKey(b.Context(), "acme", "")
	if err != nil {
		b.Fatal(err)
	}
	eventType, bearer := []byte("message.received"), []byte(key)
	b.ReportAllocs()
	for b.Loop() {
		r.Authorize("acme", bearer)
		r.Routes("acme", eventType)
	}
}
