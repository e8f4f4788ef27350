package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta/relay"
)

// withWorkspace is a station whose workspace exists, with an endpoint for two types.
func withWorkspace(t *testing.T) (*station, <-chan delivery) {
	t.Helper()
	s := startStation(t)
	url, got := newSink(t)
	s.addEndpoint(url, "--events", "message.received,message.sent")
	return s, got
}

// writeFile makes a file of the test's.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestASampleIsSentUnderAnIDOfItsOwn(t *testing.T) {
	s, got := withWorkspace(t)
	seen := map[string]bool{}
	for range 2 {
		s.run("events", "send", "--sample", "message.received").check(t, exitDone, "for 1 endpoint\naccepted 1, duplicates 0, rejected 0\n")
		d := next(t, got)
		seen[d.header.Get("webhook-id")] = true
		if !strings.Contains(d.body, `"event_id":"`+d.header.Get("webhook-id")+`"`) {
			t.Errorf("delivered %s", d.body)
		}
	}
	if len(seen) != 2 {
		t.Errorf("two samples under %d ids", len(seen))
	}
	s.run("events", "send", "--sample", "call.ended").check(t, exitDone, "no endpoint of the workspace wants")
}

func TestManySamplesGoInBatchesAndKeepTheirOrder(t *testing.T) {
	s, got := withWorkspace(t)
	s.run("events", "send", "--sample", "message.sent", "--count", "2500").check(t, exitDone, "accepted 2500, duplicates 0, rejected 0")
	last := ""
	for range 100 {
		id := next(t, got).header.Get("webhook-id") // a UUIDv7 sorts by the time it was made
		if id <= last {
			t.Fatalf("%s came after %s", id, last)
		}
		last = id
	}
}

func TestASingleEventComesFromAFileOrStandardInput(t *testing.T) {
	s, got := withWorkspace(t)
	const event = "{\n  \"event_type\": \"message.received\",\n  \"n\": 1\n}\n"
	for name, send := range map[string]func() outcome{
		"a file":         func() outcome { return s.run("events", "send", "--file", writeFile(t, "event.json", event)) },
		"an argument":    func() outcome { return s.run("events", "send", writeFile(t, "event.json", event)) },
		"standard input": func() outcome { return s.runWith(event, "events", "send", "-") },
		"a flag's dash":  func() outcome { return s.runWith(event, "events", "send", "--file", "-") },
	} {
		t.Run(name, func(t *testing.T) {
			send().check(t, exitDone, "accepted 1, duplicates 0, rejected 0")
			if d := next(t, got); !strings.HasPrefix(d.body, `{"event_type":"message.received","n":1,"event_id":"`) {
				t.Errorf("delivered %s", d.body)
			}
		})
	}
}

func TestARepeatIsAcceptedAndSaidToBeOne(t *testing.T) {
	s, _ := withWorkspace(t)
	const event = `{"event_type":"message.received"}`
	send := []string{"events", "send", "-", "--idempotency-key", "order-17"}
	s.runWith(event, send...).check(t, exitDone, "accepted 1, duplicates 0, rejected 0")
	s.runWith(event, send...).check(t, exitDone, "is a repeat; it is not delivered again\naccepted 1, duplicates 1, rejected 0")
	const lines = `{"event_type":"message.received","event_id":"a"}` + "\n" + `{"event_type":"message.received","event_id":"b"}` + "\n"
	s.runWith(lines, "events", "send", "-").check(t, exitDone, "accepted 2, duplicates 0, rejected 0")
	s.runWith(lines, "events", "send", "-").check(t, exitDone, "accepted 2, duplicates 2, rejected 0")
	s.runWith(lines, send...).check(t, exitUsage, "single event")
}

func TestRejectedLinesAreToldByTheirPlaceInTheWholeInput(t *testing.T) {
	s, _ := withWorkspace(t)
	var input strings.Builder
	for n := 1; n <= 2100; n++ {
		switch n {
		case 3:
			input.WriteString("\n") // blank lines count, and are no events
		case 1500:
			input.WriteString(`{"event_type":"message.lost"}` + "\r\n")
		case 2001:
			input.WriteString(`{"event_type":"message.received","a":1,"a":2}` + "\n")
		case 2050:
			input.WriteString(`{"event_type":"message.received","a":"` + strings.Repeat("x", relay.MaxPayload) + "\"}\n")
		case 2100:
			input.WriteString(`{"event_type":`) // cut off
		default:
			fmt.Fprintf(&input, `{"event_type":"message.received","n":%d}`+"\n", n)
		}
	}
	o := s.run("events", "send", "--file", writeFile(t, "events.jsonl", input.String()))
	o.check(t, exitFailed, "accepted 2095, duplicates 0, rejected 4\n")
	o.check(t, exitFailed, "4 lines rejected")
	for line, code := range map[int]string{1500: "unknown_event_type", 2001: "duplicate_key", 2050: "payload_too_large", 2100: "malformed_json"} {
		found := false
		for told := range strings.Lines(o.stderr) {
			found = found || strings.HasPrefix(told, fmt.Sprintf("line %d: ", line)) && strings.HasSuffix(told, " ("+code+")\n")
		}
		if !found {
			t.Errorf("line %d is not told with %s:\n%s", line, code, o.stderr)
		}
	}
}

func TestLinesAreToldFromOneObject(t *testing.T) {
	for _, c := range []struct {
		name, input string
		many        bool
	}{
		{"one line", `{"a":1}`, false},
		{"one printed object", "{\n\"a\": {}\n}\n", false},
		{"two objects", "{\"a\":1}\n{\"b\":2}\n", true},
		{"two objects with blank lines", "\n{\"a\":1}\n\n{\"b\":2}", true},
		{"two objects and a broken line", "{\"a\":\n{\"a\":1}\n{\"b\":2}\n", true},
		{"a broken object", "{\"a\":1,\n\"b\"}\n", false},
		{"an array over lines", "[\n{},\n{}\n]", false},
	} {
		if got := hasManyEvents([]byte(c.input)); got != c.many {
			t.Errorf("%s: many is %v", c.name, got)
		}
	}
	long := bytes.Repeat([]byte(`{"a":1}`+"\n"), relay.MaxPayload/8+1)
	if !hasManyEvents(long[:relay.MaxPayload+1]) {
		t.Error("many lines that are cut off pass for one object")
	}
}

func TestWhatCannotBeReadIsSaid(t *testing.T) {
	s := startStation(t)
	s.run("events", "send", filepath.Join(t.TempDir(), "missing.json")).check(t, exitFailed, "missing.json")
	s.run("events", "send", t.TempDir()).check(t, exitFailed, "read events")
	s.run("events", "send", "--ndjson", t.TempDir()).check(t, exitFailed, "read events")
	s.runWith(" \n", "events", "send", "-").check(t, exitFailed, "the input is empty")
	s.runWith(`{"a":"`+strings.Repeat("x", relay.MaxPayload)+`"}`, "events", "send", "-").check(t, exitFailed, "larger than 1048576 bytes")
}

func TestABadSingleEventIsRefusedWithItsPlace(t *testing.T) {
	s, _ := withWorkspace(t)
	for input, want := range map[string]string{
		`{"event_type":"message.lost"}`: "(unknown_event_type)",
		`{"n":1}`:                       "(missing_event_type)",
		`{"event_type":"message.sent","a":{"b":1,"b":2}}`:    "/a/b",
		`{"event_type":"message.sent"} {"event_type":"too"}`: "(malformed_json)",
		`[]`: "object",
	} {
		s.runWith(input, "events", "send", "-").check(t, exitFailed, want)
	}
}

// busyRelay answers 503 to the first posts, then accepts.
func busyRelay(t *testing.T, refusals int64, retryAfter string) (url string, posts *atomic.Int64, bodies chan string) {
	t.Helper()
	posts, bodies = &atomic.Int64{}, make(chan string, 1000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- string(body)
		if posts.Add(1) <= refusals {
			w.Header().Set("Retry-After", retryAfter)
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"status":503,"code":"unavailable","detail":"the store is full"}`)
			return
		}
		w.WriteHeader(http.StatusAccepted)
		if r.Header.Get("Content-Type") == "application/json" {
			_, _ = io.WriteString(w, `{"event_id":"e","endpoints":1}`)
			return
		}
		_, _ = fmt.Fprintf(w, `{"accepted":%d,"duplicates":0,"rejected":[]}`, strings.Count(string(body), "\n"))
	}))
	t.Cleanup(server.Close)
	return server.URL, posts, bodies
}

func TestARelayThatCannotStoreIsTriedAgainWithTheSameEvents(t *testing.T) {
	url, posts, bodies := busyRelay(t, 2, "0")
	flags := []string{"--relay", url, "--key", "k", "--workspace", "acme"}
	start := time.Now()
	runCommand("{\"event_type\":\"a\"}\n{\"event_type\":\"b\"}\n", append([]string{"events", "send", "-"}, flags...)...).
		check(t, exitDone, "accepted 2, duplicates 0, rejected 0")
	if posts.Load() != 3 || time.Since(start) < 2*batchWait {
		t.Errorf("%d posts in %s", posts.Load(), time.Since(start))
	}
	first := <-bodies
	if second := <-bodies; first != second || strings.Count(first, `"event_id":"`) != 2 {
		t.Errorf("a repeat would be delivered twice:\n%s%s", first, second)
	}
}

func TestRetryAfterIsHonouredAndPatienceEnds(t *testing.T) {
	url, posts, _ := busyRelay(t, 1000, "1")
	flags := clientFlags{Relay: url, Key: "k", Workspace: "acme"}
	c, err := flags.client()
	if err != nil {
		t.Fatal(err)
	}
	p := &poster{client: c, stderr: io.Discard, patience: 1500 * time.Millisecond}
	start := time.Now()
	_, err = p.post(context.Background(), http.Header{}, []byte("{}"))
	if err == nil || !strings.Contains(err.Error(), "the store is full (unavailable)") {
		t.Errorf("error %v", err)
	}
	if posts.Load() != 2 || time.Since(start) < time.Second {
		t.Errorf("%d posts in %s", posts.Load(), time.Since(start))
	}
}

func TestBatchesStayWithinTheirBounds(t *testing.T) {
	url, _, bodies := busyRelay(t, 0, "")
	var input strings.Builder
	for range 12 {
		input.WriteString(`{"event_type":"a","event_id":"e","fill":"` + strings.Repeat("x", 900_000) + "\"}\n")
	}
	for range 1500 {
		input.WriteString(`{"event_type":"a","event_id":"e"}` + "\n")
	}
	runCommand(input.String(), "events", "send", "--ndjson", "-", "--relay", url, "--key", "k", "--workspace", "acme").
		check(t, exitDone, "accepted 1512,")
	close(bodies)
	var all strings.Builder
	for body := range bodies {
		if lines := strings.Count(body, "\n"); len(body) > batchBytes+1 || lines > batchLines {
			t.Errorf("a batch of %d bytes and %d lines", len(body), lines)
		}
		all.WriteString(body)
	}
	if all.String() != input.String() {
		t.Error("what was sent is not what was given")
	}
}

func TestASlowInputIsSentAsItComes(t *testing.T) {
	s, got := withWorkspace(t)
	in, out := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var stdout, stderr bytes.Buffer
	ended := make(chan int)
	go func() {
		ended <- run(ctx, []string{"events", "send", "--ndjson", "-", "--relay", s.url, "--data", s.data, "--workspace", "acme"}, in, &stdout, &stderr)
	}()
	for range 2 { // the second goes once the first was answered
		_, _ = io.WriteString(out, `{"event_type":"message.received"}`+"\n")
		next(t, got) // while the input is still open
	}
	cancel() // and a blocked read does not hold the command
	status := <-ended
	printed := stdout.String() + stderr.String()
	if !regexp.MustCompile(`^accepted [12], duplicates 0, rejected 0\nstaffetta: interrupted; what follows line [12] was not sent\n$`).MatchString(printed) || status != exitFailed {
		t.Errorf("exit status %d: %s", status, printed)
	}
	_ = out.Close()
}

func TestEverySampleOfTheCatalogueIsTaken(t *testing.T) {
	s := startStation(t)
	s.addEndpoint("https://example.com/", "--events", "all")
	if types := sampleTypes(); len(types) != 11 {
		t.Errorf("%d types have a sample", len(types))
	}
	for _, eventType := range sampleTypes() {
		s.run("events", "send", "--sample", eventType).check(t, exitDone, "for 1 endpoint\n")
		id, event, err := newSample(eventType)
		var body struct {
			ID   string `json:"event_id"`
			Type string `json:"event_type"`
		}
		if err != nil || json.Unmarshal(event, &body) != nil || body.ID != id || body.Type != eventType {
			t.Errorf("%s: %v, %+v", eventType, err, body)
		}
	}
}
