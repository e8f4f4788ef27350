package relay

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

const logKeyOfTest = "admin_0123456789abcdef"

// logServer serves a log alone on net/http's own server.
type logServer struct {
	*testing.T
	log    *testLog
	server *httptest.Server
	ended  chan string // the paths of requests that were served
}

func newLogServer(t *testing.T, change ...func(*http.Server)) *logServer {
	t.Helper()
	x := &logServer{T: t, log: newTestLog(t), ended: make(chan string, 100)}
	permitted := func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer "+logKeyOfTest }
	handler := NewAttemptHandler(x.log.AttemptLog, "receiver", permitted, zerolog.Nop())
	x.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		x.ended <- r.URL.Path
	}))
	for _, f := range change {
		f(x.server.Config)
	}
	x.server.Start()
	t.Cleanup(x.server.Close)
	return x
}

func (x *logServer) record(event, target string, change ...func(*staffetta.AttemptRecord)) {
	x.log.Record(attemptOf(event, append(change, func(r *staffetta.AttemptRecord) { r.Workspace, r.Endpoint = "receiver", target })...))
}

func (x *logServer) request(ctx context.Context, method, path, key string) *http.Response {
	x.Helper()
	r, err := http.NewRequestWithContext(ctx, method, x.server.URL+path, nil)
	if err != nil {
		x.Fatal(err)
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := x.server.Client().Do(r)
	if err != nil {
		x.Fatal(err)
	}
	x.Cleanup(func() { response.Body.Close() })
	return response
}

// ask reads an answer of JSON.
func (x *logServer) ask(status int, path string) (page object) {
	x.Helper()
	response := x.request(x.Context(), "GET", path, logKeyOfTest)
	if err := json.NewDecoder(response.Body).Decode(&page); err != nil || response.StatusCode != status {
		x.Fatalf("%s: %s, %v: %v", path, response.Status, err, page)
	}
	return page
}

func (x *logServer) events(path string) string {
	x.Helper()
	var found []string
	for _, item := range x.ask(200, path)["items"].([]any) {
		for _, p := range parseOpenAPI(x.T).problems(object{"$ref": "#/components/schemas/Attempt"}, item, "attempt") {
			x.Error(p)
		}
		found = append(found, fmt.Sprint(item.(object)["event_id"]))
	}
	return strings.Join(found, " ")
}

// follow opens a stream and reads its first line.
func (x *logServer) follow(ctx context.Context, query string) *bufio.Scanner {
	x.Helper()
	response := x.request(ctx, "GET", "/v1/attempts/follow"+query, logKeyOfTest)
	lines := bufio.NewScanner(response.Body)
	if response.Header.Get("Content-Type") != eventStream || !lines.Scan() || lines.Text() != ": following" {
		x.Fatalf("%s %s: %s", response.Status, response.Header, lines.Text())
	}
	return lines
}

func TestALogWithoutWorkspacesIsListedFilteredAndPaged(t *testing.T) {
	x := newLogServer(t)
	x.record("a", "respond.crm")
	x.record("b", "respond.crm", failedWith(500))
	x.record("c", "respond.queue", endedBy(staffetta.ErrorTimeout))
	x.log.Record(attemptOf("d", of("another", "respond.crm", "call.ended")))
	for query, want := range map[string]string{
		"": "c b a", "?endpoint=respond.crm": "b a", "?event_id=b": "b", "?event_type=call.ended": "", "?outcome=dropped": "c",
		"?status=5xx": "b", "?since=2100-01-01T00:00:00Z": "", "?until=2100-01-01T00:00:00Z&endpoint=respond.queue": "c",
		"?since=1970-01-01T00:00:00Z": "c b a",
	} {
		if got := x.events("/v1/attempts" + query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	cursor := fmt.Sprint(x.ask(200, "/v1/attempts?limit=2")["next_cursor"])
	if got := x.events("/v1/attempts?limit=2&cursor=" + cursor); got != "a" {
		t.Errorf("the second page: %q", got)
	}
}

func TestALogWithoutWorkspacesRefusesWithProblems(t *testing.T) {
	x := newLogServer(t)
	for _, c := range []struct {
		method, path, key string
		status            int
		code              string
	}{
		{"GET", "/v1/attempts", "", 401, "unauthorized"},
		{"GET", "/v1/attempts", "another", 401, "unauthorized"},
		{"GET", "/v1/attempts/follow", "another", 401, "unauthorized"},
		{"POST", "/v1/attempts", logKeyOfTest, 405, "method_not_allowed"},
		{"GET", "/v1/workspaces/receiver/attempts", logKeyOfTest, 404, "not_found"},
		{"GET", "/v1//attempts", logKeyOfTest, 404, "not_found"},
		{"GET", "/v1/attempts?limit=1001", logKeyOfTest, 422, "invalid_limit"},
		{"GET", "/v1/attempts?cursor=*", logKeyOfTest, 422, "invalid_cursor"},
		{"GET", "/v1/attempts?target=a", logKeyOfTest, 422, "unknown_parameter"},
		{"GET", "/v1/attempts/follow?outcome=lost", logKeyOfTest, 422, "invalid_outcome"},
		{"GET", "/v1/attempts/follow?limit=1", logKeyOfTest, 422, "unknown_parameter"},
	} {
		response := x.request(t.Context(), c.method, c.path, c.key)
		var problem object
		if err := json.NewDecoder(response.Body).Decode(&problem); err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != c.status || response.Header.Get("Content-Type") != problemType || problem["code"] != c.code {
			t.Errorf("%s %s: %s %v", c.method, c.path, response.Status, problem)
		}
		if c.status == 401 && (response.Header.Get("WWW-Authenticate") == "" || strings.Contains(fmt.Sprint(problem), "workspace")) {
			t.Errorf("%s: %v %v", c.path, response.Header, problem)
		}
	}
}

func TestAStreamOnNetHTTPOutlivesItsTimeoutAndEndsWithItsClient(t *testing.T) {
	const timeout = 50 * time.Millisecond
	x := newLogServer(t, func(s *http.Server) { s.WriteTimeout = timeout })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lines := x.follow(ctx, "?endpoint=respond.crm")
	for i := range 3 {
		<-time.After(2 * timeout)
		x.record("another", "respond.queue")
		x.record(fmt.Sprint(i), "respond.crm")
		checkNext(t, lines, fmt.Sprint(i))
	}
	cancel()
	if path := <-x.ended; path != "/v1/attempts/follow" {
		t.Errorf("%s ended", path)
	}
}

func TestAStreamOnNetHTTPDoesNotHoldUpAShutdown(t *testing.T) {
	x := newLogServer(t)
	lines, other := x.follow(t.Context(), ""), x.follow(t.Context(), "")
	x.record("a", "respond.crm")
	checkNext(t, lines, "a")
	bounded, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 2 { // a second call is harmless
		if err := x.server.Config.Shutdown(bounded); err != nil {
			t.Fatal(err)
		}
	}
	checkEnd(t, lines)
	checkNext(t, other, "a")
	checkEnd(t, other)
}

func TestAStreamOnNetHTTPEndsWithTheLog(t *testing.T) {
	x := newLogServer(t)
	lines := x.follow(t.Context(), "")
	x.log.stop()
	checkEnd(t, lines)
}

func TestAStreamEndsWhenItsCallerMayNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var revoked atomic.Bool
		handler := NewAttemptHandler(newTestLog(t).AttemptLog, "receiver", func(*http.Request) bool { return !revoked.Load() }, zerolog.Nop())
		w := httptest.NewRecorder()
		time.AfterFunc(2*followKeepAlive+time.Second, func() { revoked.Store(true) })
		start := time.Now()
		handler.ServeHTTP(w, httptest.NewRequest("GET", "/v1/attempts/follow", nil))
		text, _ := io.ReadAll(w.Body)
		if time.Since(start) != 3*followKeepAlive || strings.Count(string(text), ": alive\n\n") != 2 {
			t.Errorf("after %s: %s", time.Since(start), text)
		}
	})
}
