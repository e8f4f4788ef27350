package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/receiver"
)

const testHookKey = "bFZJb2x0ZXN0a2V5bFZJb2x0ZXN0a2V5bFZJb2x0ZQ=="

// hook is a webhook of these tests: the n-th of a contact.
type hook struct{ contact, n int }

func (h hook) id() string { return fmt.Sprintf("e-%d-%d", h.contact, h.n) }

func (h hook) body() string {
	return fmt.Sprintf(`{"contact":{"id":%d},"event_type":"message.received","n":%d,"event_id":%q}`, h.contact, h.n, h.id())
}

func respondIOSignature(t testing.TB, key, body string) string {
	t.Helper()
	s, err := staffetta.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(s.AppendRespondIO(nil, []byte(body)))
}

// crmAnswer is what the CRM does with a request.
type crmAnswer struct {
	status     int
	retryAfter string
	after      time.Duration // how long it takes
	reset      bool          // it cuts the connection instead
}

// crmArrival is one attempt as the CRM saw it.
type crmArrival struct {
	hook
	at      time.Duration // since the CRM was made
	attempt int
	replay  bool
	id      string
	path    string
	answer  crmAnswer
	ended   time.Duration
}

func (a crmArrival) String() string {
	return fmt.Sprintf("%s at %v, attempt %d, answered %d", a.hook.id(), a.at, a.attempt, a.answer.status)
}

func (a crmArrival) taken() bool { return a.answer.status/100 == 2 && !a.answer.reset }

// crm stands behind the receiver, in memory.
type crm struct {
	start  time.Time
	answer func(crmArrival) crmAnswer
	// refuses says that nothing listens.
	refuses func(at time.Duration) bool

	listener *fasthttputil.InmemoryListener
	server   *fasthttp.Server
	done     chan struct{}
	now      atomic.Int64 // requests under way
	most     atomic.Int64

	mu       sync.Mutex
	arrivals []crmArrival
	refused  []time.Duration
}

func newCRM(answer func(crmArrival) crmAnswer) *crm {
	c := &crm{start: time.Now(), answer: answer, listener: fasthttputil.NewInmemoryListener(), done: make(chan struct{})}
	c.server = &fasthttp.Server{NoDefaultDate: true, Handler: c.handle}
	go func() {
		defer close(c.done)
		_ = c.server.Serve(c.listener)
	}()
	return c
}

func takesAll(crmArrival) crmAnswer { return crmAnswer{status: 200} }

func (c *crm) handle(ctx *fasthttp.RequestCtx) {
	running := c.now.Add(1)
	for old := c.most.Load(); running > old && !c.most.CompareAndSwap(old, running); old = c.most.Load() {
	}
	defer c.now.Add(-1)
	var body struct {
		Contact struct{ ID int }
		N       int
	}
	if err := json.Unmarshal(ctx.PostBody(), &body); err != nil {
		ctx.SetStatusCode(422)
		return
	}
	header := &ctx.Request.Header
	a := crmArrival{
		hook: hook{body.Contact.ID, body.N}, at: time.Since(c.start), id: string(header.Peek("Staffetta-Event-Id")),
		path: string(ctx.RequestURI()), replay: string(header.Peek("Staffetta-Replay")) == "true",
	}
	_, _ = fmt.Sscan(string(header.Peek("Staffetta-Attempt")), &a.attempt)
	a.answer = c.answer(a)
	if a.answer.after > 0 {
		<-time.After(a.answer.after)
	}
	a.ended = time.Since(c.start)
	c.mu.Lock()
	c.arrivals = append(c.arrivals, a)
	c.mu.Unlock()
	if a.answer.reset {
		ctx.HijackSetNoResponse(true)
		ctx.Hijack(func(conn net.Conn) { _ = conn.Close() })
		return
	}
	if a.answer.retryAfter != "" {
		ctx.Response.Header.Set("Retry-After", a.answer.retryAfter)
	}
	ctx.SetStatusCode(a.answer.status)
}

func (c *crm) dial(context.Context, string, string) (net.Conn, error) {
	if at := time.Since(c.start); c.refuses != nil && c.refuses(at) {
		c.mu.Lock()
		c.refused = append(c.refused, at)
		c.mu.Unlock()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	return c.listener.Dial()
}

func (c *crm) close() {
	_ = c.listener.Close()
	_ = c.server.Shutdown()
	<-c.done
	<-time.After(time.Minute) // of fake time: what the libraries keep for a while ends
}

// all gives the attempts so far.
func (c *crm) all() []crmArrival {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.arrivals)
}

func (c *crm) refusals() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.refused)
}

// of gives the attempts of one webhook.
func (c *crm) of(h hook) (found []crmArrival) {
	for _, a := range c.all() {
		if a.hook == h {
			found = append(found, a)
		}
	}
	return found
}

// passTo lets fake time pass until d after the CRM was made.
func (c *crm) passTo(d time.Duration) {
	<-time.After(d - time.Since(c.start))
	synctest.Wait()
}

// source leads from /hooks/crm to the CRM, by default rules but for the jitter: none.
func (c *crm) source(change ...func(*receiver.Source)) receiver.Source {
	s := receiver.Source{
		Path: "/hooks/crm", Verify: staffetta.SchemeRespondIO, Keys: []string{testHookKey},
		To: []receiver.Target{c.target()},
	}
	for _, f := range change {
		f(&s)
	}
	return s
}

func (c *crm) target() receiver.Target {
	exact := staffetta.DefaultBackoff()
	exact.Jitter = 0
	return receiver.Target{HTTP: &receiver.HTTPTarget{URL: "http://crm.example/in/", Dial: c.dial}, Backoff: exact}
}

// textLog keeps what a program logs.
type textLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *textLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *textLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// memoryReceiver is a whole receiver, the real store included, whose connections are in memory.
type memoryReceiver struct {
	t            *testing.T
	hooks, admin *fasthttp.HostClient
	stop         context.CancelFunc
	done         chan error
	log          *textLog
	slowest      time.Duration // an answer to a webhook
}

// receiveInMemory runs a receiver on the folder.
func receiveInMemory(t *testing.T, dir string, sources []receiver.Source, change ...func(*receiverSettings)) *memoryReceiver {
	t.Helper()
	hooks, admin := fasthttputil.NewInmemoryListener(), fasthttputil.NewInmemoryListener()
	m := &memoryReceiver{t: t, done: make(chan error, 1), log: &textLog{}, hooks: clientInMemory(hooks), admin: clientInMemory(admin)}
	settings := receiverSettings{
		config: receiver.Config{Listener: hooks, Sources: sources}, adminListener: admin, data: dir, adminKey: testAdminKey,
		syncInterval: 24 * time.Hour, log: zerolog.New(m.log),
	}
	for _, f := range change {
		f(&settings)
	}
	settings.config.Log = settings.log
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	ready := make(chan struct{})
	go func() {
		m.done <- runReceiver(ctx, settings, func(*receiver.Receiver, net.Addr) { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-m.done:
		t.Fatalf("the receiver did not start: %v", err)
	}
	return m
}

func clientInMemory(l *fasthttputil.InmemoryListener) *fasthttp.HostClient {
	return &fasthttp.HostClient{
		Addr: "receiver", Dial: func(string) (net.Conn, error) { return l.Dial() }, MaxIdleConnDuration: time.Second,
		MaxIdemponentCallAttempts: 1,
	}
}

// shutdown stops the receiver as SIGTERM does.
func (m *memoryReceiver) shutdown() {
	m.t.Helper()
	m.hooks.CloseIdleConnections()
	m.admin.CloseIdleConnections()
	m.stop()
	if err := <-m.done; err != nil {
		m.t.Errorf("the receiver stopped with: %v", err)
	}
	for line := range strings.Lines(m.log.String()) {
		if strings.Contains(line, `"level":"error"`) {
			m.t.Errorf("the receiver logged: %s", line)
		}
	}
}

// call makes a request; headers come in pairs of name and value.
func call(t testing.TB, client *fasthttp.HostClient, method, path, body string, headers ...string) (int, *fasthttp.ResponseHeader, []byte) {
	t.Helper()
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod(method)
	req.SetRequestURI("http://receiver" + path)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	req.SetBodyString(body)
	if err := client.DoTimeout(req, resp, time.Minute); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	header := &fasthttp.ResponseHeader{}
	resp.Header.CopyTo(header)
	return resp.StatusCode(), header, bytes.Clone(resp.Body())
}

// post sends a signed body to a path and gives the answer's status.
func (m *memoryReceiver) post(path, body string) (int, *fasthttp.ResponseHeader) {
	m.t.Helper()
	began := time.Now()
	status, header, _ := call(m.t, m.hooks, "POST", path, body,
		"X-Webhook-Signature", respondIOSignature(m.t, testHookKey, body), "Content-Type", "application/json")
	if took := time.Since(began); status == 200 {
		m.slowest = max(m.slowest, took)
	}
	return status, header
}

// send posts webhooks to /hooks/crm; each must be answered with 200.
func (m *memoryReceiver) send(hooks ...hook) {
	m.t.Helper()
	for _, h := range hooks {
		if status, _ := m.post("/hooks/crm", h.body()); status != 200 {
			m.t.Fatalf("%s was answered with %d", h.id(), status)
		}
	}
}

// ask makes a request to the admin API and reads the answer.
func (m *memoryReceiver) ask(method, path, body string, want int) map[string]any {
	m.t.Helper()
	status, _, answer := call(m.t, m.admin, method, path, body, "Authorization", "Bearer "+testAdminKey, "Content-Type", "application/json")
	if status != want {
		m.t.Fatalf("%s %s: status %d, want %d: %s", method, path, status, want, answer)
	}
	var members map[string]any
	if err := json.Unmarshal(answer, &members); err != nil {
		m.t.Fatalf("%s %s: %v in %s", method, path, err, answer)
	}
	return members
}

func (m *memoryReceiver) items(path string) []map[string]any {
	m.t.Helper()
	var items []map[string]any
	for _, item := range m.ask("GET", path, "", 200)["items"].([]any) {
		items = append(items, item.(map[string]any))
	}
	return items
}

// checkHandedOver fails the test unless each of the webhooks was taken once, and those of a contact in
// their order, none tried before the one before it was taken.
func checkHandedOver(t *testing.T, arrivals []crmArrival, sent []hook) {
	t.Helper()
	taken, expected := map[hook]int{}, map[int][]int{}
	for _, h := range sent {
		expected[h.contact] = append(expected[h.contact], h.n)
	}
	place := map[int]int{}
	for _, a := range arrivals {
		due := expected[a.contact]
		switch at := place[a.contact]; {
		case at >= len(due):
			t.Errorf("%v came when nothing of its contact was due", a)
		case due[at] != a.n:
			t.Errorf("%v came while %d was due", a, due[at])
		case a.taken():
			taken[a.hook]++
			place[a.contact]++
		}
	}
	for _, h := range sent {
		if taken[h] != 1 {
			t.Errorf("%s was taken %d times", h.id(), taken[h])
		}
	}
}
