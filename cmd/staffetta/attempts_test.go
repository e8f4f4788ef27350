package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// quickly makes the station's relay try an event twice, at once.
func quickly(c *relaySettings) { c.policy.Retry = []time.Duration{time.Millisecond} }

// newWeakSink is an endpoint that answers 503 until it is healed.
func newWeakSink(t *testing.T) (url string, heal func()) {
	t.Helper()
	var healthy atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !healthy.Load() {
			http.Error(w, "down\x1b[2J", http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, func() { healthy.Store(true) }
}

// drop sends samples that an endpoint gives up, and waits until the log and the dead letters tell of it.
func (s *station) drop(endpoint string, n int) {
	s.t.Helper()
	for range n {
		s.must("events", "send", "--sample", "message.received")
	}
	eventually(s.t, 20*time.Second, "dropped events", func() bool {
		return s.show(endpoint).Backlog == 0 &&
			strings.Count(s.must("attempts", "--endpoint", endpoint, "--outcome", "dropped", "--json", "--limit", "0"), "\n") == n &&
			strings.Count(s.must("dead-letters", "list", "--json", "--limit", "0"), "\n") == n
	})
}

func TestAttemptsAreListedNewestFirstWithWhatBecameOfThem(t *testing.T) {
	s := startStation(t, quickly)
	url, heal := newWeakSink(t)
	id := s.addEndpoint(url, "--events", "message.received").ID
	s.run("attempts").check(t, exitDone, "No attempts yet")
	s.drop(id, 2)
	heal()
	s.must("events", "send", "--sample", "message.received")
	eventually(t, 20*time.Second, "a delivered event", func() bool {
		return strings.Contains(s.must("attempts", "--status", "2xx"), "delivered")
	})

	lines := strings.Split(strings.TrimSpace(s.must("attempts")), "\n")
	if len(lines) != 6 || !strings.HasPrefix(lines[0], "STARTED ") {
		t.Fatalf("got\n%s", strings.Join(lines, "\n"))
	}
	for i, want := range []string{"delivered 200 1", "dropped 503 2", "retry 503 1", "dropped 503 2", "retry 503 1"} {
		if got := strings.Join(strings.Fields(lines[i+1])[1:4], " "); got != want {
			t.Errorf("line %d: %s, want %s", i+1, got, want)
		}
	}
	if o := s.run("attempts", "--limit", "2", "--endpoint", id); strings.Contains(o.stdout, id) || !strings.Contains(o.stderr, "the newest 2") {
		t.Errorf("of one endpoint:\n%s%s", o.stdout, o.stderr)
	}
	s.run("attempts", "--outcome", "delivered", "--until", "1h").check(t, exitDone, "No attempts match")
	var shown attempt
	out := s.must("attempts", "--status", "503", "--since", "1h", "--limit", "1", "--json")
	if err := json.Unmarshal([]byte(out), &shown); err != nil || shown.Endpoint != id || strings.Count(out, "\n") != 1 {
		t.Errorf("%v: %s", err, out)
	}
	s.run("attempts", "--status", "6xx7").check(t, exitFailed, "(invalid_status)")
}

func TestShowTellsHowAnEndpointFares(t *testing.T) {
	s := startStation(t, quickly)
	url, _ := newWeakSink(t)
	id := s.addEndpoint(url, "--events", "message.received").ID
	s.drop(id, 1)
	o := s.run("endpoints", "show", id)
	for _, want := range []string{
		"enabled", "waiting        nothing", "last error     status 503, ",
		"2 in the window; with the workspace's other endpoints 2 of the quota of 30", "last attempts", "dropped", "retry",
	} {
		o.check(t, exitDone, want)
	}
	s.must("endpoints", "disable", id)
	s.must("events", "send", "--sample", "message.received")
	o = s.run("endpoints", "show", id)
	for _, want := range []string{
		"disabled (user) since", "staffetta endpoints enable " + id, "1 event, the first since", "the endpoint to be enabled",
	} {
		o.check(t, exitDone, want)
	}
}

// followedLog is a relay's log that is followed: what its list has, and what each connection brings.
func followedLog(t *testing.T, list string, connections ...string) (server *httptest.Server, resumed func() []string) {
	t.Helper()
	ids := make(chan string, 10)
	var n atomic.Int64
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/follow") {
			_, _ = fmt.Fprint(w, list)
			return
		}
		ids <- r.Header.Get("Last-Event-ID")
		i := int(n.Add(1)) - 1
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprint(w, ": following\n\n"+connections[min(i, len(connections)-1)])
		w.(http.Flusher).Flush()
		if i >= len(connections)-1 {
			<-r.Context().Done()
		}
	}))
	t.Cleanup(server.Close)
	return server, func() (all []string) {
		for {
			select {
			case id := <-ids:
				all = append(all, id)
			default:
				return all
			}
		}
	}
}

// watchedBuffer cancels once what is written to it has a text in it.
type watchedBuffer struct {
	got   bytes.Buffer
	until string
	then  func()
}

func (b *watchedBuffer) Write(p []byte) (int, error) {
	n, err := b.got.Write(p)
	if strings.Contains(b.got.String(), b.until) {
		b.then()
	}
	return n, err
}

func attemptEvent(id string) string {
	return fmt.Sprintf("id: %s\nevent: attempt\ndata: %s\n\n", id, attemptText(id))
}

func attemptText(id string) string {
	return fmt.Sprintf(`{"id":%q,"event_id":"event-%s","event_type":"a.b","endpoint":"ep_1","attempt":1,"outcome":"delivered","status":200,"started_at":"2026-03-02T10:00:05Z","duration_ms":1}`, id, id)
}

func TestFollowShowsEachAttemptOnceAndGoesOnAfterALostConnection(t *testing.T) {
	server, resumed := followedLog(t, `{"items":[`+attemptText("a2")+`,`+attemptText("a1")+`]}`,
		attemptEvent("a2")+attemptEvent("a3")+"event: lagged\ndata: {\"missed\":7}\n\n", attemptEvent("a4")+"event: lagged\ndata: {\"missed\":null}\n\n"+attemptEvent("a5"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stderr bytes.Buffer
	stdout := watchedBuffer{until: "event-a5", then: cancel}
	status := run(ctx, []string{"attempts", "--follow", "--relay", server.URL, "--key", "k", "--workspace", "acme"}, strings.NewReader(""), &stdout, &stderr)
	if status != exitDone {
		t.Errorf("exit status %d: %s", status, stderr.String())
	}
	var got []string
	for line := range strings.Lines(stdout.got.String()) {
		got = append(got, strings.TrimPrefix(strings.Fields(line)[6], "event-"))
	}
	if text := strings.Join(got, " "); text != "EVENT a1 a2 a3 a4 a5" {
		t.Errorf("shown: %s\n%s", text, stdout.got.String())
	}
	if ids := resumed(); len(ids) != 2 || ids[0] != "" || ids[1] != "a3" {
		t.Errorf("Last-Event-ID: %q", ids)
	}
	for _, want := range []string{"7 attempts left out", "some attempts are left out", "connection to the relay was lost", "connected again"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("no %q in %s", want, stderr.String())
		}
	}
}

func TestFollowPrintsOneObjectALineForPrograms(t *testing.T) {
	s := startStation(t)
	url, _ := newSink(t)
	s.addEndpoint(url, "--events", "message.received")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.must("events", "send", "--sample", "message.received")
	eventually(t, 20*time.Second, "an attempt", func() bool { return s.must("attempts", "--json") != "" })
	var stderr bytes.Buffer
	stdout := watchedBuffer{until: "\n", then: cancel}
	status := run(ctx, []string{"attempts", "-f", "--json", "--relay", s.url, "--data", s.data, "--workspace", "acme"}, strings.NewReader(""), &stdout, &stderr)
	var shown attempt
	if err := json.Unmarshal(stdout.got.Bytes(), &shown); err != nil || status != exitDone || shown.Outcome != "delivered" {
		t.Errorf("exit status %d, %v: %s%s", status, err, stdout.got.String(), stderr.String())
	}
}
