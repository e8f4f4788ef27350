package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// quickDemo makes the demo's waits short.
var quickDemo = []string{"demo", "--deadline", "150ms", "--retry", "40ms,50ms,60ms"}

// screen is a standard output that is read while the command runs.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// inTemp gives the demo a temporary folder of its own to make its data folder in.
func inTemp(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	return dir
}

func leftOver(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "staffetta-demo-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// shown are the lines about one endpoint: event, type, attempt, what came of it.
func shown(out, name string) []string {
	var lines []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 5 && f[1] == name {
			lines = append(lines, f[2]+" "+strings.Join(f[3:], " "))
		}
	}
	return lines
}

func TestTheDemoShowsOrderRetriesAndDrops(t *testing.T) {
	dir := inTemp(t)
	o := runCommand("", quickDemo...)
	o.check(t, exitDone, "Every event is accounted for.")
	if healthy := shown(o.stdout, "healthy"); len(healthy) != 11 {
		t.Errorf("healthy has %d lines:\n%s", len(healthy), o.stdout)
	}
	flaky := strings.Join(shown(o.stdout, "flaky"), "\n")
	for _, want := range []string{
		"1 conversation.closed attempt 1 200 OK\n2 conversation.opened attempt 1 500 Internal Server Error, again in 40ms\n2 conversation.opened attempt 2 200 OK\n3 contact.created",
		"5 contact.assignee.updated attempt 1 no answer within 150ms, again in 40ms\n5 contact.assignee.updated attempt 2 200 OK\n6 contact.tag.updated",
		"9 message.sent attempt 2 500 Internal Server Error, again in 50ms\n9 message.sent attempt 3 200 OK\n10 comment.created",
	} {
		if !strings.Contains(flaky, want) {
			t.Errorf("flaky lacks %q:\n%s", want, flaky)
		}
	}
	dead := strings.Join(shown(o.stdout, "dead"), "\n")
	if !strings.Contains(dead, "1 conversation.closed attempt 4 503 Service Unavailable, dropped to the dead letters\n2 conversation.opened attempt 1") {
		t.Errorf("dead:\n%s", dead)
	}
	for _, row := range []string{`healthy +11 +11 +0 +0 +0  kept   verified`, `flaky +11 +15 +4 +0 +0  kept   verified`, `dead +0 +\d+ +\d+ +\d+ +\d+  kept   verified`} {
		if !regexp.MustCompile(row).MatchString(o.stdout) {
			t.Errorf("no row %s:\n%s", row, o.stdout)
		}
	}
	if o.stderr != "" || strings.Contains(o.stdout, "\x1b") {
		t.Errorf("the display is disturbed: %q", o.stderr)
	}
	if left := leftOver(t, dir); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestASmallDemoEndsToo(t *testing.T) {
	inTemp(t)
	runCommand("", append(quickDemo, "--events", "1")...).check(t, exitDone, "Every event is accounted for.")
}

func TestADemoWhoseAddressIsTakenFails(t *testing.T) {
	dir := inTemp(t)
	s := startStation(t)
	runCommand("", append(quickDemo, "--listen", strings.TrimPrefix(s.url, "http://"))...).check(t, exitFailed, "address already in use")
	if left := leftOver(t, dir); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// startDemo runs a demo until it has printed something.
func startDemo(t *testing.T, until string, more ...string) (out *screen, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out = &screen{}
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, append(quickDemo, more...), strings.NewReader(""), out, out) }()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.After(20 * time.Second)
	for !strings.Contains(out.String(), until) {
		select {
		case status := <-ended:
			t.Fatalf("the demo ended with %d:\n%s", status, out)
		case <-timeout:
			t.Fatalf("%q did not come within 20 s:\n%s", until, out)
		case <-ticker.C:
		}
	}
	return out, func() int {
		cancel()
		return <-ended
	}
}

func TestAnInterruptedDemoEndsCleanly(t *testing.T) {
	dir := inTemp(t)
	out, stop := startDemo(t, "attempt 2")
	if status := stop(); status != exitDone || !strings.Contains(out.String(), "Stopped.") {
		t.Errorf("exit status %d:\n%s", status, out)
	}
	if left := leftOver(t, dir); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestAKeptDemoGoesOnUntilItIsInterrupted(t *testing.T) {
	dir := inTemp(t)
	out, stop := startDemo(t, "staffetta endpoints list", "--keep", "--events", "2")
	url := regexp.MustCompile(`API +(\S+)`).FindStringSubmatch(out.String())[1]
	folders := leftOver(t, dir)
	if len(folders) != 1 {
		t.Fatalf("data folders: %v", folders)
	}
	client := []string{"--relay", url, "--data", folders[0], "--workspace", "demo"}
	runCommand("", append([]string{"endpoints", "list"}, client...)...).check(t, exitDone, "/flaky")
	runCommand("", append([]string{"events", "send", "--sample", "call.ended"}, client...)...).check(t, exitDone, "for 3 endpoints")

	key, err := os.ReadFile(filepath.Join(folders[0], "admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v1/workspaces/demo/endpoints", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(key)))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("as curl: %d %s %v", response.StatusCode, body, err)
	}
	if status := stop(); status != exitDone || !strings.Contains(out.String(), "The data folder stays: "+folders[0]) {
		t.Errorf("exit status %d:\n%s", status, out)
	}
	if len(leftOver(t, dir)) != 1 {
		t.Error("the data folder has gone")
	}
}

func TestTheBooksOfTheDemoSeeABrokenOrder(t *testing.T) {
	type step struct {
		event, n int
		settled  bool
	}
	for _, c := range []struct {
		name  string
		steps []step
		wrong int
	}{
		{"each accepted", []step{{1, 1, true}, {2, 1, true}, {3, 1, true}}, 0},
		{"a retry", []step{{1, 1, false}, {1, 2, true}, {2, 1, true}}, 0},
		{"not from the start", []step{{2, 1, true}}, 1},
		{"overtaken", []step{{1, 1, false}, {2, 1, true}}, 1},
		{"one left out", []step{{1, 1, true}, {3, 1, true}}, 1},
		{"twice", []step{{1, 1, true}, {1, 1, true}}, 1},
		{"the same attempt again", []step{{1, 1, false}, {1, 1, false}}, 1},
		{"back", []step{{1, 1, true}, {2, 1, true}, {1, 1, true}}, 1},
	} {
		var b book
		for _, s := range c.steps {
			b.begin(s.event, s.n, s.settled)
		}
		if b.outOfOrder != c.wrong {
			t.Errorf("%s: %s", c.name, fmt.Sprintf("%d out of order, want %d", b.outOfOrder, c.wrong))
		}
	}
}
