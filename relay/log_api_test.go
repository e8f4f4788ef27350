package relay

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

// logAPI is an API with a log, and lanes that stand where the test says.
type logAPI struct {
	*apiTest
	log   *testLog
	js    jetstream.JetStream
	lanes map[string]State
}

func newLogAPI(t *testing.T, change ...func(*APIConfig, *logAPI)) *logAPI {
	t.Helper()
	x := &logAPI{lanes: map[string]State{}}
	x.apiTest = newAPITest(t, func(c *APIConfig) {
		x.js = embedtest.JetStream(t, embedtest.Start(t, t.TempDir(), 4))
		x.log = openTestLog(t, x.js)
		c.Attempts = x.log.AttemptLog
		c.State = func(id string) (State, bool) {
			s, ok := x.lanes[id]
			return s, ok
		}
		for _, f := range change {
			f(c, x)
		}
	})
	return x
}

// store puts a copy of an event where the endpoint's events are.
func (x *logAPI) store(endpoint, id string) uint64 {
	x.Helper()
	e := staffetta.StoredEvent{ID: id, Type: "message.received", Payload: []byte(`{"event_type":"message.received","event_id":"` + id + `"}`)}
	ack, err := x.js.Publish(x.Context(), staffetta.EventSubject(staffetta.Shard(endpoint, 4), endpoint), e.Append(nil))
	if err != nil {
		x.Fatal(err)
	}
	return ack.Sequence
}

func TestTheAttemptsOfAWorkspaceAreListedAsTheContractSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newLogAPI(t)
		a.ask(201, "PUT", acme, `{"plan":"advanced"}`)
		a.log.Record(attemptOf("a", func(r *staffetta.AttemptRecord) {
			r.ResponseHead = []byte("HTTP/1.1 200 OK\r\nServer: x\r\nSet-Cookie: hidden\r\n\r\n")
			r.ResponseBody = []byte{'o', 'k', 0xff}
		}))
		a.log.Record(attemptOf("b", failedWith(500)))
		a.log.Record(attemptOf("c", endedBy(staffetta.ErrorTimeout)))
		a.log.Record(attemptOf("d", of("beta", "ep_9", "call.ended")))
		page := a.ask(200, "GET", acme+"/attempts", "")
		var found []string
		for _, item := range page["items"].([]any) {
			i := item.(object)
			found = append(found, fmt.Sprintf("%v %v %v %v %v", i["event_id"], i["outcome"], i["status"], i["error"], i["duration_ms"]))
		}
		if got := strings.Join(found, ", "); got != "c dropped <nil> timeout 12, b retry 500 <nil> 12, a delivered 200 <nil> 12" {
			t.Errorf("%s", got)
		}
		delivered := page["items"].([]any)[2].(object)
		if got := fmt.Sprint(delivered["response"]); got != "map[body:ok\ufffd headers:map[Server:x Set-Cookie:[struck out]]]" {
			t.Errorf("%v", got)
		}
		for query, want := range map[string]int{
			"?endpoint=ep_1": 3, "?endpoint=ep_9": 0, "?event_id=b": 1, "?event_type=call.ended": 0, "?outcome=retry": 1,
			"?status=5xx": 1, "?status=timeout&outcome=dropped": 1, "?since=2100-01-01T00:00:00Z": 0, "?until=2100-01-01T00:00:00Z": 3,
		} {
			if got := len(a.ask(200, "GET", acme+"/attempts"+query, "")["items"].([]any)); got != want {
				t.Errorf("%s: %d, want %d", query, got, want)
			}
		}
		page = a.ask(200, "GET", acme+"/attempts?limit=2", "")
		rest := a.ask(200, "GET", acme+"/attempts?limit=2&cursor="+fmt.Sprint(page["next_cursor"]), "")
		if len(page["items"].([]any)) != 2 || len(rest["items"].([]any)) != 1 || rest["next_cursor"] != nil {
			t.Errorf("pages %v, %v", page, rest)
		}
		for query, code := range map[string]string{
			"?limit=0": "invalid_limit", "?limit=1001": "invalid_limit", "?cursor=x": "invalid_cursor", "?cursor=*": "invalid_cursor",
			"?outcome=lost": "invalid_outcome", "?status=9": "invalid_status", "?since=now": "invalid_time", "?endpoint=a.b": "invalid_endpoint",
		} {
			a.refuse(422, code, "GET", acme+"/attempts"+query, "")
			if !strings.Contains(query, "limit") && !strings.Contains(query, "cursor") {
				a.refuse(422, code, "GET", acme+"/attempts/follow"+query, "")
			}
		}
		a.refuse(404, "workspace_not_found", "GET", "/v1/workspaces/nobody/attempts", "")
		a.as("").refuse(401, "unauthorized", "GET", acme+"/attempts", "")
		a.ask(201, "PUT", "/v1/workspaces/beta", "")
		key := a.ask(201, "POST", "/v1/workspaces/beta/keys", "")["key"].(string)
		a.as(key).refuse(403, "forbidden", "GET", acme+"/attempts", "")
		a.as(key).refuse(403, "forbidden", "GET", acme+"/attempts/follow", "")
		a.as(key).refuse(403, "forbidden", "GET", acme+"/events/a", "")
	})
}

func TestARelayWithoutALogSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPITest(t)
		a.ask(201, "PUT", acme, "")
		for _, path := range []string{"/attempts", "/attempts/follow", "/events/a"} {
			a.refuse(501, "not_available", "GET", acme+path, "")
		}
	})
}

// standings is an event with a copy in every situation, by the name of its endpoint.
type standings struct {
	*logAPI
	endpoint map[string]string
	due      time.Time
}

func newStandings(t *testing.T) *standings {
	t.Helper()
	x := &standings{logAPI: newLogAPI(t), endpoint: map[string]string{"gone": "ep_gone"}, due: time.Now().Add(30 * time.Second)}
	x.ask(201, "PUT", acme, `{"plan":"advanced"}`)
	sequence := map[string]uint64{}
	for _, name := range []string{"delivered", "retrying", "held", "dropped", "waiting", "idle"} {
		id := addEndpoint(t, x.registry, "acme", "http://"+name+".example", "message.received").ID
		x.endpoint[name] = id
		if name != "idle" {
			x.store(id, "another")
			sequence[name] = x.store(id, "evt")
		}
	}
	record := func(name string, change func(*staffetta.AttemptRecord)) {
		r := attemptOf("evt", change)
		r.Endpoint, r.Sequence = x.endpoint[name], sequence[name]
		x.log.Record(r)
	}
	record("delivered", failedWith(500))
	record("delivered", func(*staffetta.AttemptRecord) {})
	record("retrying", failedWith(503))
	record("held", failedWith(503))
	record("dropped", endedBy(staffetta.ErrorTimeout))
	record("gone", failedWith(500))
	x.lanes[x.endpoint["retrying"]] = State{Backlog: 2, Attempt: 1, NextAttemptAt: &x.due, Settled: sequence["retrying"] - 1}
	x.lanes[x.endpoint["waiting"]] = State{Backlog: 2, Settled: sequence["waiting"] - 2}
	x.lanes[x.endpoint["idle"]] = State{}
	if _, err := x.registry.DisableEndpoint(t.Context(), "acme", x.endpoint["held"], staffetta.DisabledByUser); err != nil {
		t.Fatal(err)
	}
	return x
}

func TestAnEventTellsWhereItStandsAtEveryEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newStandings(t)
		answer := a.ask(200, "GET", acme+"/events/evt", "")
		want := map[string]string{
			"delivered": "delivered 1", "retrying": "retrying 1", "held": "waiting 1", "dropped": "dropped 4",
			"waiting": "waiting 0", "gone": "discarded 1",
		}
		got := map[string]string{}
		for _, s := range answer["endpoints"].([]any) {
			s := s.(object)
			for name, id := range a.endpoint {
				if id == s["endpoint"] {
					got[name] = fmt.Sprint(s["state"], " ", s["attempts"])
				}
			}
			if s["state"] == "retrying" && s["next_attempt_at"] != a.due.UTC().Format(time.RFC3339Nano) {
				t.Errorf("%v", s)
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("got %v", got)
		}
		if answer["event_type"] != "message.received" || answer["payload_aged_out"] != false || answer["payload"].(object)["event_id"] != "evt" {
			t.Errorf("%v", answer)
		}
		a.refuse(404, "event_not_found", "GET", acme+"/events/nothing", "")
		a.refuse(404, "event_not_found", "GET", acme+"/events/%20", "")
		a.refuse(404, "workspace_not_found", "GET", "/v1/workspaces/nobody/events/evt", "")
		a.ask(201, "PUT", "/v1/workspaces/beta", "")
		a.refuse(404, "event_not_found", "GET", "/v1/workspaces/beta/events/evt", "")
	})
}

func TestAnEventSaysWhenItsPayloadHasAgedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newStandings(t)
		for n := range 4 {
			stream, err := a.js.Stream(t.Context(), staffetta.EventStream(n))
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Purge(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		answer := a.ask(200, "GET", acme+"/events/evt", "")
		if answer["payload_aged_out"] != true || answer["payload"] != nil {
			t.Errorf("%v", answer)
		}
		letter := nats.NewMsg(staffetta.DeadLetterSubject("acme", a.endpoint["dropped"]))
		letter.Header.Set(staffetta.HeaderEventID, "evt")
		letter.Data = []byte(`{"event_id":"evt"}`)
		if _, err := a.js.PublishMsg(t.Context(), letter); err != nil {
			t.Fatal(err)
		}
		if answer = a.ask(200, "GET", acme+"/events/evt", ""); answer["payload_aged_out"] != false {
			t.Errorf("%v", answer)
		}
	})
}

func TestAnEventGivenUpWithoutAnAttemptIsFoundAmongTheDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newLogAPI(t)
		a.ask(201, "PUT", acme, `{"plan":"advanced"}`)
		letter := nats.NewMsg(staffetta.DeadLetterSubject("acme", "ep_1"))
		letter.Header.Set(staffetta.HeaderEventID, "evt")
		letter.Header.Set(staffetta.HeaderEventType, "call.ended")
		letter.Header.Set(staffetta.HeaderError, "held: longer than 72h")
		letter.Data = []byte(`{"event_id":"evt"}`)
		if _, err := a.js.PublishMsg(t.Context(), letter); err != nil {
			t.Fatal(err)
		}
		answer := a.ask(200, "GET", acme+"/events/evt", "")
		standing := answer["endpoints"].([]any)[0].(object)
		if standing["state"] != "dropped" || standing["error"] != "held: longer than 72h" || answer["event_type"] != "call.ended" {
			t.Errorf("%v", answer)
		}
	})
}

// serveStream runs the relay's own server over a listener, and gives a client of it.
func (x *logAPI) serveStream(l net.Listener, dial func() (net.Conn, error), change func(*server), after ...func()) (client *http.Client, stop func()) {
	x.Helper()
	api, err := NewAPI(APIConfig{Registry: x.registry, Catalogue: staffetta.DefaultCatalogue(), Attempts: x.log.AttemptLog})
	if err != nil {
		x.Fatal(err)
	}
	s := newServer(&ingest{registry: x.registry}, api, func() error { return nil })
	s.http.NoDefaultDate = true // its goroutine would outlive a bubble
	change(s)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.serve(ctx, l) }()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return dial() }}
	x.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			x.Error(err)
		}
		for _, f := range after {
			f()
		}
	})
	return &http.Client{Transport: transport}, cancel
}

func (x *logAPI) follow(client *http.Client, key, last string) (*http.Response, *bufio.Scanner) {
	x.Helper()
	r, err := http.NewRequest("GET", "http://relay"+acme+"/attempts/follow", nil)
	if err != nil {
		x.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Last-Event-ID", last)
	response, err := client.Do(r)
	if err != nil {
		x.Fatal(err)
	}
	x.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != "text/event-stream" {
		text, _ := io.ReadAll(response.Body)
		x.Fatalf("%s: %s", response.Status, text)
	}
	return response, bufio.NewScanner(response.Body)
}

// untilAttempt reads the stream up to the next attempt, and counts the comments before it.
func untilAttempt(t *testing.T, lines *bufio.Scanner) (id string, attempt object, comments int) {
	t.Helper()
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, ":"):
			comments++
		case strings.HasPrefix(line, "id: "):
			id = line[4:]
		case strings.HasPrefix(line, "data: "):
			if err := json.Unmarshal([]byte(line[6:]), &attempt); err != nil {
				t.Fatal(err)
			}
			return id, attempt, comments
		}
	}
	t.Fatalf("the stream ended: %v", lines.Err())
	return "", nil, 0
}

// undated is a listener whose connections have no deadline for writing: those of fasthttputil bear
// none that another goroutine sets.
type undated struct{ net.Listener }

func (l undated) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return undatedConn{conn}, err
}

type undatedConn struct{ net.Conn }

func (undatedConn) SetWriteDeadline(time.Time) error { return nil }

func (x *logAPI) followersNow() int {
	x.log.follows.mu.Lock()
	defer x.log.follows.mu.Unlock()
	return len(x.log.follows.all)
}

// checkNext reads the next attempt off a stream, which must be of the event, and gives its id.
func checkNext(t *testing.T, lines *bufio.Scanner, event string) string {
	t.Helper()
	id, attempt, _ := untilAttempt(t, lines)
	if attempt["event_id"] != event || attempt["id"] != id {
		t.Fatalf("got %v, want %s", attempt, event)
	}
	for _, p := range parseOpenAPI(t).problems(object{"$ref": "#/components/schemas/Attempt"}, attempt, "attempt") {
		t.Error(p)
	}
	return id
}

// checkEnd reads a stream to its end, which must be a clean one with nothing but comments before it.
func checkEnd(t *testing.T, lines *bufio.Scanner) {
	t.Helper()
	for lines.Scan() {
		if line := lines.Text(); !strings.HasPrefix(line, ":") && line != "" {
			t.Errorf("before the end: %s", line)
		}
	}
	if lines.Err() != nil {
		t.Errorf("the stream broke off: %v", lines.Err())
	}
}

func TestAStreamOfAttemptsLivesOnAndEndsWithItsClientItsKeyOrTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newLogAPI(t)
		a.ask(201, "PUT", acme, `{"plan":"advanced"}`)
		key := a.ask(201, "POST", acme+"/keys", "")
		l := fasthttputil.NewInmemoryListener()
		client, stop := a.serveStream(undated{l}, l.Dial, func(*server) {}, func() { <-time.After(time.Minute) }) // for fasthttp's own goroutines

		response, lines := a.follow(client, testAdminKey, "")
		a.log.Record(attemptOf("a"))
		last := checkNext(t, lines, "a")
		time.AfterFunc(time.Hour, func() { a.log.Record(attemptOf("b", failedWith(500))) })
		checkNext(t, lines, "b")
		if n := a.followersNow(); n != 1 {
			t.Errorf("%d followers", n)
		}
		response.Body.Close()
		<-time.After(3 * followKeepAlive)
		if n := a.followersNow(); n != 0 {
			t.Errorf("%d followers after the client has gone", n)
		}

		_, lines = a.follow(client, testAdminKey, last)
		checkNext(t, lines, "b")
		a.log.Record(attemptOf("c"))
		checkNext(t, lines, "c")

		_, revoked := a.follow(client, key["key"].(string), "")
		a.ask(204, "DELETE", acme+"/keys/"+fmt.Sprint(key["id"]), "")
		checkEnd(t, revoked)
		stop()
		checkEnd(t, lines)
		synctest.Wait()
		if n := a.followersNow(); n != 0 {
			t.Errorf("%d followers after the stop", n)
		}
	})
}

// Outside of a bubble, for only real connections have deadlines for writing.
func TestTheServersWriteTimeoutDoesNotCutAStream(t *testing.T) {
	a := newLogAPI(t)
	a.ask(201, "PUT", acme, `{"plan":"advanced"}`)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const timeout = 50 * time.Millisecond
	client, _ := a.serveStream(l, func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }, func(s *server) { s.http.WriteTimeout = timeout })
	_, lines := a.follow(client, testAdminKey, "")
	for i := range 3 {
		<-time.After(3 * timeout)
		a.log.Record(attemptOf(fmt.Sprint(i)))
		if _, attempt, _ := untilAttempt(t, lines); attempt["event_id"] != fmt.Sprint(i) {
			t.Fatalf("%v", attempt)
		}
	}
}
