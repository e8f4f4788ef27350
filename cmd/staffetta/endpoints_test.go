package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// addEndpoint makes an endpoint, and the workspace before it.
func (s *station) addEndpoint(url string, more ...string) endpoint {
	s.t.Helper()
	out := s.must(append([]string{"endpoints", "add", "--plan", "advanced", "--json", "--url", url}, more...)...)
	var made endpoint
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	return made
}

// show is the endpoint as the relay has it.
func (s *station) show(id string) endpoint {
	s.t.Helper()
	var shown endpoint
	if err := json.Unmarshal([]byte(s.must("endpoints", "show", id, "--json")), &shown); err != nil {
		s.t.Fatal(err)
	}
	return shown
}

func TestAddPrintsTheIDAndTheKeyThatSigns(t *testing.T) {
	s := startStation(t)
	url, got := newSink(t)
	out := s.must("endpoints", "add", "--plan", "advanced", "--url", url, "--events", "message.received,message.sent",
		"--header", "X-Team=blue; green", "--header", "Authorization: Bearer abc=")
	lines := strings.Split(out, "\n")
	id, key := strings.Fields(lines[0])[1], strings.Fields(lines[1])[2]

	s.run("endpoints", "test", id).check(t, exitDone, "delivered: 200 OK after")
	d := next(t, got)
	if err := staffetta.VerifyRespondIO([]string{key}, d.header.Get("X-Webhook-Signature"), []byte(d.body)); err != nil {
		t.Errorf("the printed key does not verify: %v", err)
	}
	if team, token := d.header.Get("X-Team"), d.header.Get("Authorization"); team != "blue; green" || token != "Bearer abc=" {
		t.Errorf("headers %q and %q", team, token)
	}
	if shown := s.must("endpoints", "show", id); strings.Contains(shown, key) || strings.Contains(shown, "abc=") {
		t.Errorf("show prints a secret:\n%s", shown)
	}
}

func TestAddTakesAllEventTypesAndTheUsersKey(t *testing.T) {
	s := startStation(t)
	key := staffetta.NewSigningKey()
	made := s.addEndpoint("https://example.com/", "--events", "all", "--signing-key", key,
		"--success", "2xx", "--on-disable", "discard", "--description", "the CRM")
	if len(made.EventTypes) != 11 || made.SigningKey != key {
		t.Errorf("%d event types, key %q", len(made.EventTypes), made.SigningKey)
	}
	if made.Success != staffetta.Success2xx || made.OnDisable != staffetta.Discard || made.Description != "the CRM" {
		t.Errorf("made %+v", made.Endpoint)
	}
	s.run("endpoints", "add", "--url", "https://example.com/2", "--events", "all", "--signing-key", "short").
		check(t, exitFailed, "(invalid_signing_key)")
}

func TestUpdateChangesWhatIsNamedAndNothingElse(t *testing.T) {
	s := startStation(t)
	made := s.addEndpoint("https://example.com/", "--events", "message.received", "--description", "old",
		"--header", "X-A=1", "--header", "X-B=2")
	s.must("endpoints", "update", made.ID, "--events", "message.sent,call.ended", "--header", "X-A=", "--header", "X-C=3")
	now := s.show(made.ID)
	if fmt.Sprint(now.EventTypes) != "[message.sent call.ended]" || fmt.Sprint(now.Headers) != "map[X-B:2 X-C:3]" || now.Description != "old" {
		t.Errorf("now %v %v %q", now.EventTypes, now.Headers, now.Description)
	}
	s.run("endpoints", "update", made.ID, "--url", "https://example.com/new", "--description", "").
		check(t, exitDone, "https://example.com/new")
	if now = s.show(made.ID); now.Description != "" || now.URL != "https://example.com/new" {
		t.Errorf("now %q at %s", now.Description, now.URL)
	}
}

func TestADisabledEndpointHoldsItsEventsUntilItIsEnabled(t *testing.T) {
	s := startStation(t)
	url, got := newSink(t)
	id := s.addEndpoint(url, "--events", "message.received").ID
	s.run("endpoints", "disable", id).check(t, exitDone, "its events are held")
	s.must("events", "send", "--sample", "message.received")
	s.run("endpoints", "show", id).check(t, exitDone, "disabled (user)")
	s.run("endpoints", "list").check(t, exitDone, "disabled")
	s.run("endpoints", "enable", id).check(t, exitDone, "enabled "+id)
	if d := next(t, got); !strings.Contains(d.body, `"message.received"`) {
		t.Errorf("delivered %s", d.body)
	}
	s.must("endpoints", "update", id, "--on-disable", "discard")
	s.run("endpoints", "disable", id).check(t, exitDone, "its events are discarded")
}

func TestAFailedTestSendEndsWithStatus1(t *testing.T) {
	s := startStation(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "not\x1b[2J today", http.StatusTeapot)
	}))
	t.Cleanup(server.Close)
	id := s.addEndpoint(server.URL, "--events", "message.received").ID
	s.run("endpoints", "test", id).check(t, exitFailed, "not delivered: 418 I'm a teapot")
	if o := s.run("endpoints", "test", id); strings.Contains(o.stderr, "\x1b") {
		t.Errorf("the endpoint's answer reaches the terminal as it is: %q", o.stderr)
	}
	dead := s.addEndpoint("http://"+closedPort(t), "--events", "message.received").ID
	s.run("endpoints", "test", dead, "--json").check(t, exitFailed, `"delivered":false`)
	private := s.addEndpoint("http://10.1.2.3/", "--events", "message.received").ID
	s.run("endpoints", "test", private).check(t, exitFailed, "not delivered: forbidden_address")
}

func TestRotateShowsTheNewKeyAndWhenTheOldOneEnds(t *testing.T) {
	s := startStation(t)
	made := s.addEndpoint("https://example.com/", "--events", "message.received")
	s.run("endpoints", "rotate", made.ID, "--overlap", "2h").check(t, exitDone, "old key until")
	s.run("endpoints", "show", made.ID).check(t, exitDone, "old key until")
	o := s.run("endpoints", "rotate", made.ID, "--overlap", "0s")
	o.check(t, exitDone, "signs alone from now on")
	if strings.Contains(o.stdout, made.SigningKey) {
		t.Error("the old key is shown")
	}
	s.run("endpoints", "rotate", made.ID, "--overlap", "9000h").check(t, exitFailed, "(invalid_overlap)")
}

func TestRemoveEndsAnEndpoint(t *testing.T) {
	s := startStation(t)
	id := s.addEndpoint("https://example.com/", "--events", "message.received").ID
	s.run("endpoints", "remove", id).check(t, exitDone, "removed "+id)
	s.run("endpoints", "list").check(t, exitDone, "has no endpoints")
	s.run("endpoints", "list", "--json").check(t, exitDone, `{"items":[]}`)
}

func TestAListHasEveryPage(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page := r.URL.Query().Get("cursor")
		if page == "" {
			page = "1"
		}
		following := map[string]string{"1": `,"next_cursor":"2"`, "2": `,"next_cursor":"3"`}[page]
		_, _ = fmt.Fprintf(w, `{"items":[{"id":"ep_%s","url":"https://example.com/%s","event_types":["a","b","c"],"status":"enabled","backlog":%s}]%s}`, page, page, page, following)
	}))
	t.Cleanup(server.Close)
	args := []string{"endpoints", "list", "--relay", server.URL, "--key", "k", "--workspace", "acme"}
	want := `ID    STATUS   WAITING  URL                    EVENTS          LAST ERROR
ep_1  enabled        1  https://example.com/1  a and 2 others
ep_2  enabled        2  https://example.com/2  a and 2 others
ep_3  enabled        3  https://example.com/3  a and 2 others
`
	if o := runCommand("", args...); o.stdout != want {
		t.Errorf("got\n%swant\n%s", o.stdout, want)
	}
	var list struct{ Items []staffetta.Endpoint }
	if o := runCommand("", append(args, "--json")...); json.Unmarshal([]byte(o.stdout), &list) != nil || len(list.Items) != 3 {
		t.Errorf("%d items in %s", len(list.Items), o.stdout)
	}
}

func TestShowSaysWhyEventsWait(t *testing.T) {
	s := startStation(t)
	hit := make(chan struct{}, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		hit <- struct{}{}
	}))
	t.Cleanup(server.Close)
	id := s.addEndpoint(server.URL, "--events", "message.received").ID
	s.must("events", "send", "--sample", "message.received")
	<-hit
	deadline := time.After(10 * time.Second)
	for s.show(id).NextAttemptAt == nil { // the answer takes the relay a moment to settle
		select {
		case <-deadline:
			t.Fatal("no next attempt within 10 s")
		default:
		}
	}
	o := s.run("endpoints", "show", id)
	for _, want := range []string{"1 event, the first since", "status 502", "after 1 failed"} {
		o.check(t, exitDone, want)
	}
}
