package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/staffetta-relay/staffetta"
	_ "github.com/staffetta-relay/staffetta/embed/embedtest" // holds the store's clock outside of bubbles
	"github.com/staffetta-relay/staffetta/relay"
)

const testAdminKey = "an-admin-key-for-the-tests"

// The clock of fasthttp's Date header is one goroutine a process that never ends: a request outside
// of every bubble starts it, so that no bubble has to wait for it.
func init() {
	l := fasthttputil.NewInmemoryListener()
	s := &fasthttp.Server{Handler: func(*fasthttp.RequestCtx) {}}
	go func() { _ = s.Serve(l) }()
	c := &fasthttp.HostClient{Addr: "clock", Dial: func(string) (net.Conn, error) { return l.Dial() }}
	if _, _, err := c.Get(nil, "http://clock/"); err != nil {
		panic(err)
	}
	c.CloseIdleConnections()
	_ = s.Shutdown()
}

// memoryRelay is a whole relay, the real store included, whose connections are in memory, so that it
// runs inside a bubble where an hour passes in milliseconds.
type memoryRelay struct {
	t    *testing.T
	api  *fasthttputil.InmemoryListener
	http *fasthttp.HostClient
	stop context.CancelFunc
	done chan error
	// headers go with every request.
	headers map[string]string
}

// startInMemory runs a relay on the folder; sink is where every endpoint leads.
func startInMemory(t *testing.T, dir string, sink *memorySink, change ...func(*relaySettings)) *memoryRelay {
	t.Helper()
	m := &memoryRelay{t: t, api: fasthttputil.NewInmemoryListener(), done: make(chan error, 1)}
	m.http = &fasthttp.HostClient{
		Addr: "relay", Dial: func(string) (net.Conn, error) { return m.api.Dial() }, MaxIdleConnDuration: time.Second,
	}
	settings := relaySettings{
		listener: m.api, data: dir, shards: 4, policy: staffetta.DefaultPolicy(), catalogue: staffetta.DefaultCatalogue(),
		dial:    func(context.Context, string, string) (net.Conn, error) { return sink.listener.Dial() },
		minPlan: staffetta.PlanAdvanced, adminKey: testAdminKey, secret: bytes.Repeat([]byte{7}, 32),
		syncInterval: 24 * time.Hour, // every second of fake time would sync the disk in real time
		log:          zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.ErrorLevel),
	}
	for _, f := range change {
		f(&settings)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	ready := make(chan struct{})
	go func() { m.done <- runRelay(ctx, settings, func(*relay.Relay) { close(ready) }) }()
	select {
	case <-ready:
	case err := <-m.done:
		t.Fatalf("the relay did not start: %v", err)
	}
	return m
}

// shutdown stops the relay as SIGTERM does.
func (m *memoryRelay) shutdown() {
	m.t.Helper()
	m.http.CloseIdleConnections()
	m.stop()
	if err := <-m.done; err != nil {
		m.t.Errorf("the relay stopped with: %v", err)
	}
}

// call makes a request of the admin's and fails the test on another status than the wanted.
func (m *memoryRelay) call(method, path, contentType string, body []byte, want int) []byte {
	m.t.Helper()
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod(method)
	req.SetRequestURI("http://relay" + path)
	req.Header.Set("Authorization", "Bearer "+testAdminKey)
	for name, value := range m.headers {
		req.Header.Set(name, value)
	}
	if body != nil {
		req.Header.SetContentType(contentType)
		req.SetBody(body)
	}
	if err := m.http.DoTimeout(req, resp, time.Minute); err != nil {
		m.t.Fatalf("%s %s: %v", method, path, err)
	}
	if resp.StatusCode() != want {
		m.t.Fatalf("%s %s: status %d, want %d: %s", method, path, resp.StatusCode(), want, resp.Body())
	}
	return bytes.Clone(resp.Body())
}

func (m *memoryRelay) callJSON(method, path, body string, want int) map[string]any {
	m.t.Helper()
	var b []byte
	if body != "" {
		b = []byte(body)
	}
	var answer map[string]any
	if err := json.Unmarshal(m.call(method, path, "application/json", b, want), &answer); err != nil {
		m.t.Fatal(err)
	}
	return answer
}

// endpoint makes a workspace and an endpoint of it for message.received, and gives its id.
func (m *memoryRelay) endpoint(workspace, path string) string {
	m.t.Helper()
	m.call("PUT", "/v1/workspaces/"+workspace, "application/json", []byte(`{"plan":"advanced"}`), putStatus(m, workspace))
	answer := m.callJSON("POST", "/v1/workspaces/"+workspace+"/endpoints",
		fmt.Sprintf(`{"url":"http://sink.example%s","event_types":["message.received"]}`, path), 201)
	return answer["id"].(string)
}

// putStatus is 200 for a workspace that exists and 201 for a new one.
func putStatus(m *memoryRelay, workspace string) int {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.SetRequestURI("http://relay/v1/workspaces/" + workspace)
	req.Header.Set("Authorization", "Bearer "+testAdminKey)
	if err := m.http.DoTimeout(req, resp, time.Minute); err != nil {
		m.t.Fatal(err)
	}
	if resp.StatusCode() == 200 {
		return 200
	}
	return 201
}

// post sends numbered events, from first to last.
func (m *memoryRelay) post(workspace string, first, last int) {
	m.t.Helper()
	for n := first; n <= last; n++ {
		m.callJSON("POST", "/v1/workspaces/"+workspace+"/events", fmt.Sprintf(`{"event_type":"message.received","n":%d}`, n), 202)
	}
}

// arrival is one attempt as the sink saw it.
type arrival struct {
	path    string
	at      time.Duration // since the sink was made
	n       int           // the event's number
	attempt int
	id      string
	replay  bool // marked as sent again on request
}

func (a arrival) String() string {
	return fmt.Sprintf("%s at %v: event %d, attempt %d", a.path, a.at, a.n, a.attempt)
}

// memorySink stands for every endpoint.
type memorySink struct {
	listener *fasthttputil.InmemoryListener
	server   *fasthttp.Server
	start    time.Time
	done     chan struct{}

	mu       sync.Mutex
	arrivals []arrival
}

// newMemorySink answers each attempt with the status that answer gives.
func newMemorySink(answer func(arrival) int) *memorySink {
	s := &memorySink{listener: fasthttputil.NewInmemoryListener(), start: time.Now(), done: make(chan struct{})}
	s.server = &fasthttp.Server{NoDefaultDate: true, Handler: func(ctx *fasthttp.RequestCtx) {
		var body struct {
			N       int    `json:"n"`
			EventID string `json:"event_id"`
		}
		if err := json.Unmarshal(ctx.PostBody(), &body); err != nil {
			ctx.SetStatusCode(400)
			return
		}
		a := arrival{path: string(ctx.Path()), at: time.Since(s.start), n: body.N, id: body.EventID}
		_, _ = fmt.Sscan(string(ctx.Request.Header.Peek("Staffetta-Attempt")), &a.attempt)
		a.replay = string(ctx.Request.Header.Peek("Staffetta-Replay")) == "true"
		s.mu.Lock()
		s.arrivals = append(s.arrivals, a)
		s.mu.Unlock()
		ctx.SetStatusCode(answer(a))
	}}
	go func() {
		defer close(s.done)
		_ = s.server.Serve(s.listener)
	}()
	return s
}

func (s *memorySink) close() {
	_ = s.listener.Close()
	_ = s.server.Shutdown()
	<-s.done
	<-time.After(time.Minute) // of fake time: what the libraries keep for a while ends
}

// at gives what arrived at the path.
func (s *memorySink) at(path string) []arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []arrival
	for _, a := range s.arrivals {
		if a.path == path {
			found = append(found, a)
		}
	}
	return found
}

// passTo lets fake time pass until d after the sink was made.
func (s *memorySink) passTo(d time.Duration) {
	<-time.After(d - time.Since(s.start))
	synctest.Wait()
}

// copyStore is a kill: the folder as it is at this moment, under a new name.
func copyStore(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}
