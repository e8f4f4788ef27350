package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
)

// quotaTest is a quota on a real registry; it notes what it tells.
type quotaTest struct {
	*testing.T
	*Quota
	registry *Registry
	opened   map[string]bool // what the hook behind the quota was told last: may the endpoint have events
	told     []string
}

func newQuotaTest(t *testing.T, cfg RegistryConfig) *quotaTest {
	t.Helper()
	q := &quotaTest{T: t, opened: map[string]bool{}}
	var mu sync.Mutex
	tell := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		q.told = append(q.told, fmt.Sprintf(format, args...))
	}
	var err error
	q.Quota, err = NewQuota(QuotaConfig{
		Quota:   staffetta.DefaultPolicy().Quota,
		OnLevel: func(l QuotaLevel) { tell("%d%%: %d of %d", l.Percent, l.Count, l.Quota) },
		OnDisabled: func(_ context.Context, d Disabling) {
			tell("disabled by %s: %d of %d", d.Endpoint.DisabledReason, d.Failures, d.Quota)
		},
		OnEnabled: func(e staffetta.Endpoint) { tell("enabled") },
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg.OnEndpoint = q.follow(func(e staffetta.Endpoint) { q.opened[e.ID] = e.Status == staffetta.Enabled })
	cfg.OnEndpointRemoved = q.unfollow(nil)
	q.registry = openRegistry(t, cfg)
	q.attach(q.registry)
	return q
}

// start runs the quota until the test ends.
func (q *quotaTest) start() {
	ctx, cancel := context.WithCancel(q.Context())
	done := make(chan error, 1)
	go func() { done <- q.Quota.Run(ctx) }()
	q.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			q.Error(err)
		}
	})
}

// fail makes n failures at this moment and says whether the last one stops the endpoint.
func (q *quotaTest) fail(e staffetta.Endpoint, n int) (stop bool) {
	for range n {
		stop = q.Failed(e.Workspace, e.ID, time.Now())
	}
	return stop
}

// wantTold checks what was told since the last time.
func (q *quotaTest) wantTold(what string, want ...string) {
	q.Helper()
	if synctest.Wait(); !slices.Equal(q.told, want) {
		q.Errorf("%s: told %q, want %q", what, q.told, want)
	}
	q.told = nil
}

func (q *quotaTest) status(e staffetta.Endpoint) string {
	q.Helper()
	stored, err := q.registry.Endpoint(e.Workspace, e.ID)
	if err != nil {
		q.Fatal(err)
	}
	return string(stored.Status) + " " + stored.DisabledReason
}

// refusingBucket changes nothing while it refuses.
type refusingBucket struct {
	jetstream.KeyValue
	refuses *atomic.Bool
}

func (b refusingBucket) Update(ctx context.Context, key string, value []byte, last uint64) (uint64, error) {
	if b.refuses.Load() {
		return 0, errors.New("out of order")
	}
	return b.KeyValue.Update(ctx, key, value, last)
}

func TestADisablingIsStoredHoweverLongTheStoreRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testRegistryConfig(t, bucketFor(t))
		bucket := refusingBucket{cfg.Bucket, &atomic.Bool{}}
		cfg.Bucket = bucket
		q := newQuotaTest(t, cfg)
		addWorkspace(t, q.registry, "acme")
		e := addEndpoint(t, q.registry, "acme", "http://a.example", "message.sent")
		q.start()
		bucket.refuses.Store(true)
		if q.fail(e, 30) || !q.fail(e, 1) {
			t.Error("not the 31st failure stops the endpoint")
		}
		<-time.After(time.Hour)
		q.wantTold("while the store refuses", "50%: 15 of 30", "80%: 24 of 30", "100%: 30 of 30")
		bucket.refuses.Store(false)
		<-time.After(disablingRetry + time.Second)
		q.wantTold("once it is stored", "disabled by quota: 31 of 30")
		if got := q.status(e); got != "disabled quota" || q.opened[e.ID] {
			t.Errorf("the endpoint is %s, open %v", got, q.opened[e.ID])
		}
	})
}

func TestNoOtherChangeOpensAnEndpointWhoseDisablingIsNotStoredYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuotaTest(t, testRegistryConfig(t, bucketFor(t)))
		addWorkspace(t, q.registry, "acme")
		e := addEndpoint(t, q.registry, "acme", "http://a.example", "message.sent")
		q.fail(e, 31)
		_, err := q.registry.UpdateEndpoint(t.Context(), "acme", e.ID, func(e *staffetta.Endpoint) error {
			e.Description = "changed"
			return nil
		})
		if err != nil || q.opened[e.ID] {
			t.Errorf("%v, open %v: the change has opened a stopped endpoint", err, q.opened[e.ID])
		}
		q.start()
		synctest.Wait()
		if got := q.status(e); got != "disabled quota" {
			t.Errorf("the endpoint is %s", got)
		}
		if _, err := q.registry.EnableEndpoint(t.Context(), "acme", e.ID); err != nil || !q.opened[e.ID] {
			t.Errorf("%v, open %v: enabling does not open it", err, q.opened[e.ID])
		}
	})
}

func TestAnAttemptThatWasUnderWayWhenItsEndpointWasDisabledDoesNotDisableItLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuotaTest(t, testRegistryConfig(t, bucketFor(t)))
		addWorkspace(t, q.registry, "acme")
		e := addEndpoint(t, q.registry, "acme", "http://a.example", "message.sent")
		if _, err := q.registry.DisableEndpoint(t.Context(), "acme", e.ID, staffetta.DisabledByUser); err != nil {
			t.Fatal(err)
		}
		q.fail(e, 31)
		if _, err := q.registry.EnableEndpoint(t.Context(), "acme", e.ID); err != nil || !q.opened[e.ID] {
			t.Errorf("%v, open %v: enabling does not open it", err, q.opened[e.ID])
		}
		q.start()
		synctest.Wait()
		if got := q.status(e); got != "enabled " {
			t.Errorf("the endpoint is %s", got)
		}
		if !q.fail(e, 1) {
			t.Error("the window is over the quota, and the next failure does not stop the endpoint")
		}
		synctest.Wait()
		if got := q.status(e); got != "disabled quota" {
			t.Errorf("after the next failure the endpoint is %s", got)
		}
	})
}

func TestADisablingOfAnEndpointThatIsGoneIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuotaTest(t, testRegistryConfig(t, bucketFor(t)))
		addWorkspace(t, q.registry, "acme")
		e := addEndpoint(t, q.registry, "acme", "http://a.example", "message.sent")
		if err := q.registry.DeleteEndpoint(t.Context(), "acme", e.ID); err != nil {
			t.Fatal(err)
		}
		q.fail(e, 31)
		q.start()
		synctest.Wait()
		if q.isPending(e.ID) || len(q.take()) > 0 {
			t.Error("the disabling is still pending")
		}
	})
}

func TestWhoeverDisablesOrEnablesItIsToldButNotAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testRegistryConfig(t, bucketFor(t))
		q := newQuotaTest(t, cfg)
		addWorkspace(t, q.registry, "acme")
		e := addEndpoint(t, q.registry, "acme", "http://a.example", "message.sent")
		q.start()
		if _, err := q.registry.DisableEndpoint(t.Context(), "acme", e.ID, staffetta.DisabledByUser); err != nil {
			t.Fatal(err)
		}
		q.wantTold("disabled by hand", "disabled by user: 0 of 0")

		again := newQuotaTest(t, cfg)
		again.start()
		again.wantTold("at a start", []string{}...)
		if _, err := again.registry.EnableEndpoint(t.Context(), "acme", e.ID); err != nil {
			t.Fatal(err)
		}
		again.wantTold("enabled", "enabled")
	})
}

func TestALevelIsToldOncePerCrossing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuotaTest(t, testRegistryConfig(t, bucketFor(t)))
		addWorkspace(t, q.registry, "acme")
		e := addEndpoint(t, q.registry, "acme", "http://a.example", "message.sent")
		for range 100 { // for ever 15 in the window, give or take one
			<-time.After(2 * time.Minute)
			q.fail(e, 1)
		}
		q.wantTold("hovering at a half", "50%: 15 of 30")
		<-time.After(31 * time.Minute)
		q.fail(e, 14)
		q.wantTold("less than half, after a rest")
		q.fail(e, 1)
		q.wantTold("half again", "50%: 15 of 30")

		restored, err := NewQuota(q.cfg)
		if err != nil {
			t.Fatal(err)
		}
		restored.attach(q.registry)
		err = restored.Restore(t.Context(), func(_ context.Context, since time.Time, f func(string, string, time.Time)) error {
			if got := time.Since(since); got != 30*time.Minute {
				t.Errorf("failures of the last %v are asked for", got)
			}
			for range 15 {
				f("acme", e.ID, time.Now())
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		restored.Failed("acme", e.ID, time.Now())
		q.wantTold("after a restart")
		if own, all := restored.Failures("acme", e.ID); own != 16 || all != 16 {
			t.Errorf("after a restart %d and %d failures count, want 16", own, all)
		}
	})
}

func TestFailuresOfManyAtOnceAreAllCountedAndEmptyWindowsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQuota(QuotaConfig{Quota: staffetta.Quota{Failures: 30, Window: time.Minute}})
		if err != nil {
			t.Fatal(err)
		}
		var stops [4]atomic.Int64
		var wg sync.WaitGroup
		for n := range 64 {
			wg.Go(func() {
				for i := range 50 {
					workspace := (n + i) % len(stops)
					if q.Failed(fmt.Sprint("ws", workspace), fmt.Sprint("ep", n), time.Now()) {
						stops[workspace].Add(1)
					}
				}
			})
			wg.Go(func() { q.sweep(time.Now()) })
		}
		wg.Wait()
		for workspace := range stops {
			_, all := q.Failures(fmt.Sprint("ws", workspace), "")
			if got := int(stops[workspace].Load()); all != 800 || got != 770 {
				t.Errorf("workspace %d: %d failures count and %d stop, want 800 and 770", workspace, all, got)
			}
		}
		<-time.After(time.Minute)
		if q.sweep(time.Now()); len(q.tallies) != 0 {
			t.Errorf("%d workspaces have windows in which nothing is left", len(q.tallies))
		}
	})
}

func TestAWorkspaceAndAnEndpointShowTheirWindowAndTheirQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQuota(QuotaConfig{Quota: staffetta.DefaultPolicy().Quota})
		if err != nil {
			t.Fatal(err)
		}
		a := newAPITest(t, func(c *APIConfig) {
			c.Quota = q
			c.State = func(string) (State, bool) {
				return State{Backlog: 2, Attempt: 1, LastSuccessAt: new(time.Now())}, true
			}
		})
		e, path := a.withEndpoint()
		q.Failed("acme", e["id"].(string), time.Now())
		q.Failed("acme", "another", time.Now())
		shown := a.ask(200, "GET", path, "")
		if shown["failures_in_window"] != 1.0 || shown["workspace_failures_in_window"] != 2.0 || shown["waits_for"] != "attempt" || shown["last_success_at"] == nil {
			t.Errorf("the endpoint is shown as %v", shown)
		}
		if ws := a.ask(200, "GET", "/v1/workspaces/acme", ""); ws["failures_in_window"] != 2.0 || ws["quota"] != 30.0 {
			t.Errorf("the workspace is shown as %v", ws)
		}
		if ws := a.ask(200, "PUT", "/v1/workspaces/acme", `{"quota":0}`); ws["quota"] != 0.0 {
			t.Errorf("the workspace with a quota of its own is shown as %v", ws)
		}
		a.refuse(422, "invalid_type", "PATCH", path, `{"enable_requires_test":"yes"}`)
		a.refuse(422, "read_only_member", "PATCH", path, `{"tested_at":"2026-03-02T11:00:00Z"}`)
	})
}

// Ten thousand endpoints, each with failures in its window, in pages of 1,000: under a second.
func BenchmarkListTenThousandEndpoints(b *testing.B) {
	q, err := NewQuota(QuotaConfig{Quota: staffetta.DefaultPolicy().Quota})
	if err != nil {
		b.Fatal(err)
	}
	r := openRegistry(b, testRegistryConfig(b, bucketFor(b)))
	follow(b, r)
	addWorkspace(b, r, "acme")
	now := time.Now()
	for i := range 10_000 {
		e := addEndpoint(b, r, "acme", fmt.Sprintf("http://%d.example/hook", i), "message.received", "message.sent")
		for n := range 30 {
			q.Failed("acme", e.ID, now.Add(-time.Duration(n)*time.Minute))
		}
	}
	api, err := NewAPI(APIConfig{
		Registry: r, Catalogue: staffetta.DefaultCatalogue(), Quota: q,
		State: func(string) (State, bool) {
			return State{Backlog: 10, OldestAt: &now, Attempt: 2, NextAttemptAt: &now, LastError: "status 503"}, true
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	handler := api.Handler()
	for b.Loop() {
		listed, cursor := 0, ""
		for more := true; more; more = cursor != "" {
			req := httptest.NewRequest(http.MethodGet, "/v1/workspaces/acme/endpoints?limit=1000&cursor="+cursor, nil)
			req.Header.Set("Authorization", "Bearer "+testAdminKey)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, req)
			body := w.Body.String()
			listed += strings.Count(body, `"failures_in_window":30`)
			_, cursor, _ = strings.Cut(body, `"next_cursor":"`)
			cursor = strings.TrimSuffix(cursor, `"}`)
		}
		if listed != 10_000 {
			b.Fatalf("listed %d endpoints", listed)
		}
	}
}
