package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestWhatWasDroppedIsReplayedByOneCommand(t *testing.T) {
	s := startStation(t, quickly)
	url, heal := newWeakSink(t)
	id := s.addEndpoint(url, "--events", "message.received").ID
	s.run("replay", "list").check(t, exitDone, "No replays yet")
	s.drop(id, 3)
	heal()
	o := s.run("replay", "--since", "1h", "--endpoint", id, "--wait", "--idempotency-key", "outage")
	for _, want := range []string{"found          3", "replayed       3", "skipped        0", "aged out       0", "staffetta endpoints show " + id} {
		o.check(t, exitDone, want)
	}
	eventually(t, 20*time.Second, "replayed events", func() bool {
		return strings.Count(s.must("attempts", "--outcome", "delivered"), "  replay\n") == 3
	})
	s.run("replay", "--since", "2026-03-02T10:00:00Z", "--idempotency-key", "outage").check(t, exitFailed, "--idempotency-key")
	s.run("replay", "list").check(t, exitDone, "dropped events to "+id)

	event := strings.Fields(strings.Split(s.must("dead-letters", "list"), "\n")[1])[6]
	s.must("endpoints", "disable", id)
	s.run("replay", event, "--endpoint", id).check(t, exitDone, "staffetta endpoints enable "+id)
	o = s.run("replay", event, "never-accepted")
	o.check(t, exitFailed, "1: never-accepted")
	o.check(t, exitFailed, "not everything could be sent again")
	replay := strings.Fields(o.stdout)[1]
	s.run("replay", "status", replay).check(t, exitDone, "2 event ids")
	s.run("replay", "cancel", replay).check(t, exitDone, "cancelled "+replay+": 1 event put in line")
	s.run("replay", "status", replay).check(t, exitDone, "cancelled")
	s.run("replay", "status", "rp_missing").check(t, exitFailed, "(replay_not_found)")
}

// slowReplays is a relay whose replays go on until they were asked after a few times.
func slowReplays(t *testing.T, end string, asked func(n int)) string {
	t.Helper()
	n := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := `"status":"running"`
		if r.Method == http.MethodGet {
			n++
			asked(n)
		}
		if n == 3 {
			status = end
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"replay_id":"rp_1",%s,"created_at":"2026-03-02T11:00:00Z","outcome":"dropped","found":%d,"replayed":%d,"skipped":2,"skipped_by":{"waiting":2},"aged_out":0,"examined":%d,"candidates":900}`,
			status, n*300, n*300-2, n*300)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestWaitingEndsWithTheReplay(t *testing.T) {
	args := []string{"replay", "--since", "1h", "--wait", "--key", "k", "--workspace", "acme", "--relay"}
	o := runCommand("", append(args, slowReplays(t, `"status":"done"`, func(int) {}))...)
	o.check(t, exitDone, "replayed       898")
	o.check(t, exitDone, "2 (2: not delivered yet, so they still come)")
	if o.stderr != "" {
		t.Errorf("progress for a program: %q", o.stderr)
	}
	runCommand("", append(args, slowReplays(t, `"status":"failed","error":"the store is gone"`, func(int) {}))...).
		check(t, exitFailed, "the replay failed: the store is gone")
}

func TestCtrlCEndsTheWaitingAndNotTheReplay(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	url := slowReplays(t, `"status":"running"`, func(n int) {
		if n == 2 {
			cancel()
		}
	})
	var stdout, stderr bytes.Buffer
	status := run(ctx, []string{"replay", "--since", "1h", "--wait", "--key", "k", "--workspace", "acme", "--relay", url}, strings.NewReader(""), &stdout, &stderr)
	outcome{status, stdout.String(), stderr.String()}.check(t, exitFailed, "the replay goes on; staffetta replay status rp_1 shows it, staffetta replay cancel rp_1 ends it")
}

func TestAReplayWithoutAnAnswerSaysHowToLookForIt(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(server.Close)
	args := []string{"replay", "--since", "1h", "--key", "k", "--workspace", "acme", "--relay"}
	runCommand("", append(args, server.URL)...).check(t, exitFailed, "staffetta replay status rp_")
	runCommand("", append(args, server.URL, "--idempotency-key", "a")...).check(t, exitFailed, "the same command does it once")
	if o := runCommand("", append(args, "http://"+closedPort(t))...); o.status != exitFailed || strings.Contains(o.stderr, "not known") {
		t.Errorf("exit status %d: %s", o.status, o.stderr)
	}
}

func TestWrongUseOfTheLogAndOfReplaysEndsWithStatus2(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"a time that is none", []string{"attempts", "--since", "noon"}, "how long ago"},
		{"an end before the begin", []string{"attempts", "--since", "1h", "--until", "2h"}, "--until must be later"},
		{"an end of what is followed", []string{"attempts", "-f", "--until", "1h"}, "--follow"},
		{"less than nothing", []string{"attempts", "--limit=-1"}, "--limit"},
		{"an unknown outcome", []string{"attempts", "--outcome", "lost"}, "--outcome"},
		{"letters less than nothing", []string{"dead-letters", "list", "--limit=-1"}, "--limit"},
		{"a deletion of everything", []string{"dead-letters", "delete"}, "say which dead letters"},
		{"a deletion by type alone", []string{"dead-letters", "delete", "--event-type", "a.b"}, "say which dead letters"},
		{"a deletion by id and filter", []string{"dead-letters", "delete", "dl_1", "--since", "1h"}, "not both"},
		{"a replay of everything", []string{"replay"}, "say what to send again"},
		{"a replay by type alone", []string{"replay", "--event-type", "a.b"}, "say what to send again"},
		{"a replay of ids since a time", []string{"replay", "id", "--since", "1h"}, "event ids go with"},
		{"replays less than nothing", []string{"replay", "list", "--limit=-1"}, "--limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			runCommand("", append(c.args, "--workspace", "acme", "--key", "k")...).check(t, exitUsage, c.want)
		})
	}
}
