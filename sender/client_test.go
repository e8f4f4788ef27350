package sender

import (
	"bufio"
	"context"
	"io"
	"log"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/staffetta-relay/staffetta"
)

const (
	testKey  = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	otherKey = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
)

var (
	testEvent = staffetta.Event{
		ID:      "0198c0de-0000-7000-8000-000000000001",
		Type:    "message.received",
		Payload: []byte(`{"text":"ciao","event_type":"message.received","event_id":"0198c0de-0000-7000-8000-000000000001"}`),
	}
	loopbackOnly = Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
)

func testClient(t testing.TB, cfg ClientConfig) *Client {
	t.Helper()
	if cfg.Dial == nil && cfg.Guard.Allow == nil {
		cfg.Guard = loopbackOnly
	}
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	return c
}

func testEndpoint(t testing.TB, c *Client, workspace, url string) *Endpoint {
	t.Helper()
	e, err := c.Endpoint(staffetta.Endpoint{Workspace: workspace, URL: url, Keys: staffetta.SigningKeys{Current: testKey}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// attempt makes the first attempt at a new endpoint of workspace w.
func attempt(t testing.TB, c *Client, url string) *Attempt {
	t.Helper()
	var a Attempt
	testEndpoint(t, c, "w", url).Attempt(t.Context(), testEvent, 1, &a)
	return &a
}

// testPeer listens on loopback and runs serve for every connection; it gives its address.
func testPeer(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for _, conn := range conns {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return listener.Addr().String()
}

// testRequest is a request as it stood on the wire.
type testRequest struct {
	line   string
	fields []string
	body   string
}

func (r testRequest) field(name string) string {
	for _, field := range r.fields {
		if value, ok := strings.CutPrefix(field, name+": "); ok {
			return value
		}
	}
	return ""
}

func readRequest(br *bufio.Reader) (r testRequest, err error) {
	line := func() string {
		var text string
		if err == nil {
			text, err = br.ReadString('\n')
		}
		return strings.TrimSuffix(text, "\r\n")
	}
	r.line = line()
	for field := line(); field != ""; field = line() {
		r.fields = append(r.fields, field)
	}
	if err != nil {
		return r, err
	}
	size, err := strconv.Atoi(r.field("Content-Length"))
	if err != nil {
		return r, err
	}
	body := make([]byte, size)
	_, err = io.ReadFull(br, body)
	r.body = string(body)
	return r, err
}

// answering serves requests of one connection after another with the same text, and reports them.
func answering(requests chan<- testRequest, text string) func(net.Conn) {
	return func(conn net.Conn) {
		br := bufio.NewReader(conn)
		for {
			r, err := readRequest(br)
			if err != nil {
				return
			}
			if requests != nil {
				requests <- r
			}
			if _, err := io.WriteString(conn, text); err != nil {
				return
			}
		}
	}
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"

func TestRequestIsByteForByteWhatTheContractSays(t *testing.T) {
	t.Parallel()
	requests := make(chan testRequest, 1)
	peer := testPeer(t, answering(requests, okAnswer))
	c := testClient(t, ClientConfig{UserAgent: "Staffetta/1.2.3"})
	for target, want := range map[string]string{
		"":                                  "/",
		"/":                                 "/",
		"?a=b":                              "/?a=b",
		"/a%2Fb//c/../d/./%7e?a=b%20c&d=/?": "/a%2Fb//c/../d/./%7e?a=b%20c&d=/?",
		"/%E2%82%AC;v=1?":                   "/%E2%82%AC;v=1?",
	} {
		e, err := c.Endpoint(staffetta.Endpoint{
			Workspace: "w", URL: "http://" + peer + target,
			Headers: map[string]string{"x-lower": "1", "Authorization": "Bearer\tsecret", "X-UPPER": ""},
			Keys:    staffetta.SigningKeys{Current: testKey},
		})
		if err != nil {
			t.Fatal(err)
		}
		var a Attempt
		e.Attempt(t.Context(), testEvent, 3, &a)
		e.Close()
		if a.Outcome.Status != 200 {
			t.Fatalf("%q: %v", target, a.Outcome)
		}
		r := <-requests
		timestamp := strconv.FormatInt(a.StartedAt.Unix(), 10)
		signer, _ := staffetta.NewSigner(testKey)
		fields := []string{
			"Host: " + peer,
			"Content-Type: application/json",
			"User-Agent: Staffetta/1.2.3",
			"X-Webhook-Signature: " + string(signer.AppendRespondIO(nil, testEvent.Payload)),
			"webhook-id: " + testEvent.ID,
			"webhook-timestamp: " + timestamp,
			"webhook-signature: " + string(signer.AppendStandard(nil, testEvent.ID, a.StartedAt.Unix(), testEvent.Payload)),
			"Staffetta-Attempt: 3",
			"Authorization: Bearer\tsecret",
			"X-UPPER: ",
			"x-lower: 1",
			"Content-Length: " + strconv.Itoa(len(testEvent.Payload)),
		}
		if r.line != "POST "+want+" HTTP/1.1" {
			t.Errorf("%q: request line %q, want the target %q", target, r.line, want)
		}
		if !slices.Equal(r.fields, fields) {
			t.Errorf("%q: header\n%q\nwant\n%q", target, r.fields, fields)
		}
		if r.body != string(testEvent.Payload) {
			t.Errorf("%q: body %q", target, r.body)
		}
	}
}

func TestHostIsSentAsTheUserWroteIt(t *testing.T) {
	t.Parallel()
	requests := make(chan testRequest, 1)
	peer := testPeer(t, answering(requests, okAnswer))
	var dialled string
	c := testClient(t, ClientConfig{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		dialled = address
		return (&net.Dialer{}).DialContext(ctx, network, peer)
	}})
	for url, want := range map[string][2]string{
		"http://Example.COM":           {"Example.COM", "Example.COM:80"},
		"HTTP://b.example.com:80/x":    {"b.example.com:80", "b.example.com:80"},
		"http://example.com:8080?x":    {"example.com:8080", "example.com:8080"},
		"http://[2001:DB8::1]/":        {"[2001:DB8::1]", "[2001:DB8::1]:80"},
		"http://[2001:db8::1]:99/?a:b": {"[2001:db8::1]:99", "[2001:db8::1]:99"},
	} {
		if a := attempt(t, c, url); a.Outcome.Status != 200 {
			t.Fatalf("%s: %v", url, a.Outcome)
		}
		if r := <-requests; r.field("Host") != want[0] || dialled != want[1] {
			t.Errorf("%s: host %q at %q, want %q", url, r.field("Host"), dialled, want)
		}
	}
}

func TestLargeBodyArrivesWhole(t *testing.T) {
	t.Parallel()
	requests := make(chan testRequest, 1)
	peer := testPeer(t, answering(requests, okAnswer))
	e := testEndpoint(t, testClient(t, ClientConfig{}), "w", "http://"+peer)
	for _, size := range []int{0, 1, maxJoined, maxJoined + 1, 1 << 20} {
		ev := testEvent
		ev.Payload = []byte(strings.Repeat("x", size))
		var a Attempt
		e.Attempt(t.Context(), ev, 1, &a)
		if a.Outcome.Status != 200 {
			t.Fatalf("%d bytes: %v", size, a.Outcome)
		}
		if r := <-requests; r.body != string(ev.Payload) {
			t.Errorf("%d bytes: %d came", size, len(r.body))
		}
	}
}

func TestBothKeysSignUntilTheOverlapEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := make(chan testRequest, 1)
		c := memoryClient(t, ClientConfig{}, func(ctx *fasthttp.RequestCtx) {
			requests <- testRequest{
				fields: []string{
					"legacy: " + string(ctx.Request.Header.Peek("X-Webhook-Signature")),
					"standard: " + string(ctx.Request.Header.Peek("Webhook-Signature")),
				},
			}
		})
		e, err := c.Endpoint(staffetta.Endpoint{Workspace: "w", URL: "http://e.test/", Keys: staffetta.SigningKeys{
			Current: testKey, Previous: otherKey, PreviousUntil: time.Now().Add(time.Hour),
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Close)
		current, _ := staffetta.NewSigner(testKey)
		previous, _ := staffetta.NewSigner(otherKey)
		check := func(legacy *staffetta.Signer, listed ...*staffetta.Signer) {
			t.Helper()
			var a Attempt
			e.Attempt(t.Context(), testEvent, 1, &a)
			if a.Outcome.Status != 200 {
				t.Fatal(a.Outcome)
			}
			r := <-requests
			var list []byte
			for i, signer := range listed {
				if i > 0 {
					list = append(list, ' ')
				}
				list = signer.AppendStandard(list, testEvent.ID, a.StartedAt.Unix(), testEvent.Payload)
			}
			if want := string(legacy.AppendRespondIO(nil, testEvent.Payload)); r.field("legacy") != want {
				t.Errorf("X-Webhook-Signature %q, want %q", r.field("legacy"), want)
			}
			if r.field("standard") != string(list) {
				t.Errorf("webhook-signature %q, want %q", r.field("standard"), list)
			}
		}
		check(previous, current, previous)
		<-time.After(time.Hour - time.Nanosecond)
		check(previous, current, previous)
		<-time.After(time.Nanosecond)
		check(current, current)
	})
}

// memoryClient is a client whose every connection leads to handler, without a network.
func memoryClient(t testing.TB, cfg ClientConfig, handler fasthttp.RequestHandler) *Client {
	t.Helper()
	listener := fasthttputil.NewInmemoryListener()
	server := &fasthttp.Server{Handler: handler, NoDefaultDate: true, Logger: log.New(io.Discard, "", 0)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	cfg.Dial = func(context.Context, string, string) (net.Conn, error) { return listener.Dial() }
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.CloseIdle()
		_ = listener.Close()
		<-served
		<-time.After(maxIdleConnTimeout) // the pool's own goroutine ends
	})
	return c
}

func TestDeadlineIsKeptToTheNanosecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := memoryClient(t, ClientConfig{}, func(*fasthttp.RequestCtx) { <-release })
		a := attempt(t, c, "http://e.test/")
		close(release)
		if a.Outcome.Error != staffetta.ErrorTimeout || a.Duration != 5*time.Second {
			t.Errorf("%v after %v", a.Outcome, a.Duration)
		}
	})
}

func TestAnswerJustBeforeTheDeadlineCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := memoryClient(t, ClientConfig{}, func(*fasthttp.RequestCtx) { <-time.After(5*time.Second - time.Nanosecond) })
		if a := attempt(t, c, "http://e.test/"); a.Outcome.Status != 200 || a.Duration != 5*time.Second-time.Nanosecond {
			t.Errorf("%v after %v", a.Outcome, a.Duration)
		}
	})
}

func TestIdleConnectionIsKeptTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := memoryClient(t, ClientConfig{}, func(*fasthttp.RequestCtx) {})
		e := testEndpoint(t, c, "w", "http://e.test/")
		for i, gap := range []time.Duration{0, 9 * time.Second, 9 * time.Second, 11 * time.Second} {
			<-time.After(gap)
			synctest.Wait()
			var a Attempt
			e.Attempt(t.Context(), testEvent, 1, &a)
			if want := i == 1 || i == 2; a.Outcome.Status != 200 || a.Reused != want || a.Resent {
				t.Errorf("after %v: %v, reused %v, resent %v", gap, a.Outcome, a.Reused, a.Resent)
			}
		}
	})
}

func TestClientRefusesWhatCannotWork(t *testing.T) {
	for _, cfg := range []ClientConfig{
		{Deadline: time.Millisecond},
		{Deadline: time.Hour},
		{InFlightPerWorkspace: -1},
		{IdleConnTimeout: 11 * time.Second},
		{IdleConnTimeout: -1},
		{UserAgent: "a\r\nb"},
	} {
		if _, err := NewClient(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
	c := testClient(t, ClientConfig{})
	good := staffetta.Endpoint{Workspace: "w", URL: "http://example.com", Keys: staffetta.SigningKeys{Current: testKey}}
	for name, change := range map[string]func(*staffetta.Endpoint){
		"no URL":           func(e *staffetta.Endpoint) { e.URL = "" },
		"a relative URL":   func(e *staffetta.Endpoint) { e.URL = "/x" },
		"a line break":     func(e *staffetta.Endpoint) { e.URL += "/\r\nX: y" },
		"a user":           func(e *staffetta.Endpoint) { e.URL = "http://u:p@example.com" },
		"another scheme":   func(e *staffetta.Endpoint) { e.URL = "ftp://example.com" },
		"no key":           func(e *staffetta.Endpoint) { e.Keys.Current = "" },
		"a bad key":        func(e *staffetta.Endpoint) { e.Keys.Previous = "short" },
		"a split header":   func(e *staffetta.Endpoint) { e.Headers = map[string]string{"X": "a\r\nb"} },
		"a nameless field": func(e *staffetta.Endpoint) { e.Headers = map[string]string{"": "a"} },
	} {
		e := good
		change(&e)
		if _, err := c.Endpoint(e); err == nil {
			t.Errorf("an endpoint with %s was accepted", name)
		}
	}
	if len(c.tenants) != 0 {
		t.Error("a refused endpoint left a workspace behind")
	}
}
