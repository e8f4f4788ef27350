package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/relay"
	"github.com/staffetta-relay/staffetta/sender"
)

// liveRelay is a whole relay that speaks real TCP, on the loopback alone.
type liveRelay struct {
	t       testing.TB
	address string
	http    *http.Client
	stop    func() // as SIGTERM does
}

// startLive runs a relay on the folder until the test ends or stop is called.
func startLive(t testing.TB, dir string, change ...func(*relaySettings)) *liveRelay {
	t.Helper()
	settings := relaySettings{
		listen: "127.0.0.1:0", data: dir, shards: 4, policy: staffetta.DefaultPolicy(), catalogue: staffetta.DefaultCatalogue(),
		guard: sender.Guard{AllowAll: true}, minPlan: staffetta.PlanAdvanced, adminKey: testAdminKey,
		secret: bytes.Repeat([]byte{7}, 32), log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.ErrorLevel),
	}
	for _, f := range change {
		f(&settings)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- runRelay(ctx, settings, func(r *relay.Relay) { ready <- r.Addr().String() })
	}()
	l := &liveRelay{t: t, http: newHTTPClient(t)}
	l.stop = sync.OnceFunc(func() {
		l.http.CloseIdleConnections() // a stop gives one that was never used five seconds
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the relay stopped with: %v", err)
		}
	})
	select {
	case l.address = <-ready:
	case err := <-done:
		t.Fatalf("the relay did not start: %v", err)
	}
	t.Cleanup(l.stop)
	return l
}

// newHTTPClient gives a client of the test's own.
func newHTTPClient(t testing.TB) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// reply is what the relay answered.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// members reads the reply as a JSON object.
func (r reply) members(t testing.TB) map[string]any {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal(r.body, &members); err != nil {
		t.Fatalf("status %d, and no JSON object: %q", r.status, r.body)
	}
	return members
}

// ask makes a request of the admin's; headers come in pairs of name and value.
func (l *liveRelay) ask(method, path, body string, headers ...string) reply {
	l.t.Helper()
	req, err := http.NewRequest(method, "http://"+l.address+path, bytes.NewReader([]byte(body)))
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testAdminKey)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if req.Header.Set(headers[i], headers[i+1]); headers[i+1] == "" {
			req.Header.Del(headers[i])
		}
	}
	resp, err := l.http.Do(req)
	if err != nil {
		l.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatalf("%s %s: %v", method, path, err)
	}
	return reply{resp.StatusCode, resp.Header, answer}
}

// must makes a request that has to come to the status.
func (l *liveRelay) must(status int, method, path, body string, headers ...string) reply {
	l.t.Helper()
	r := l.ask(method, path, body, headers...)
	if r.status != status {
		l.t.Fatalf("%s %s: status %d, want %d: %s", method, path, r.status, status, r.body)
	}
	return r
}

// workspace makes a workspace that may have endpoints.
func (l *liveRelay) workspace(name string) {
	l.t.Helper()
	l.must(http.StatusCreated, "PUT", "/v1/workspaces/"+name, `{"plan":"advanced","quota":0}`) // failures disable nothing
}

// endpoint makes an endpoint for the event types and gives its id.
func (l *liveRelay) endpoint(workspace, url string, types ...string) string {
	l.t.Helper()
	body, err := json.Marshal(map[string]any{"url": url, "event_types": types})
	if err != nil {
		l.t.Fatal(err)
	}
	r := l.must(http.StatusCreated, "POST", "/v1/workspaces/"+workspace+"/endpoints", string(body))
	return r.members(l.t)["id"].(string)
}

// event posts one event of the workspace and gives its id.
func (l *liveRelay) event(workspace, body string) string {
	l.t.Helper()
	r := l.must(http.StatusAccepted, "POST", "/v1/workspaces/"+workspace+"/events", body)
	return r.members(l.t)["event_id"].(string)
}

// liveSink is an endpoint that answers 200 and remembers what it got.
type liveSink struct {
	url string

	mu  sync.Mutex
	got []liveArrival
}

// liveArrival is one attempt as a liveSink saw it.
type liveArrival struct {
	path, body string
	header     http.Header
}

func startLiveSink(t testing.TB) *liveSink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &liveSink{url: "http://" + l.Addr().String()}
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.got = append(s.got, liveArrival{r.URL.Path, string(body), r.Header})
		s.mu.Unlock()
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
	return s
}

// all gives what came so far.
func (s *liveSink) all() []liveArrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]liveArrival(nil), s.got...)
}

// wait gives what came once it is n attempts or more.
func (s *liveSink) wait(t testing.TB, n int) []liveArrival {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("%d deliveries", n), func() bool { return len(s.all()) >= n })
	return s.all()
}

// eventually asks until it is so, and fails the test after the time.
func eventually(t testing.TB, within time.Duration, what string, is func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(within); time.Now().Before(end); <-ticker.C {
		if is() {
			return
		}
	}
	t.Fatalf("within %v there were not: %s", within, what)
}
