package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/staffetta-relay/staffetta/respondio"
)

// quickDemo makes the demo's waits short.
var quickDemo = []string{"demo", "--deadline", "300ms", "--retry", "40ms,50ms,60ms", "--crm-down", "60ms"}

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
		"5 contact.assignee.updated attempt 1 no answer within 300ms, again in 40ms\n5 contact.assignee.updated attempt 2 200 OK\n6 contact.tag.updated",
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

// contactOrder are the numbers of the events that the CRM accepted, in the order of the display, by
// contact.
func contactOrder(t *testing.T, lines []string) map[string][]int {
	t.Helper()
	order := map[string][]int{}
	for _, line := range lines {
		f := strings.Fields(line)
		number, err := strconv.Atoi(f[0])
		if err != nil {
			t.Fatal(err)
		}
		order[f[2]] = append(order[f[2]], number)
	}
	return order
}

func TestTheRelayOfTheDemoSeesNothingOfTheOutageBehindTheReceiver(t *testing.T) {
	inTemp(t)
	o := runCommand("", quickDemo...)
	o.check(t, exitDone, "2. The other end")
	before, rest, _ := strings.Cut(o.stdout, "the CRM is down")
	during, after, _ := strings.Cut(rest, "the CRM is back")
	for i, act := range []struct {
		out              string
		answered         int
		accepted, refuse bool
	}{{before, 3, true, false}, {during, 8, false, true}, {after, 0, true, false}} {
		answers := strings.Join(shown(act.out, "receiver"), "\n")
		if n := strings.Count(answers, "attempt 1 200 OK in "); n != act.answered || strings.Count(answers, "attempt") != n {
			t.Errorf("part %d: the receiver answered %d times 200, want %d:\n%s", i, n, act.answered, answers)
		}
		crm := strings.Join(shown(act.out, "crm"), "\n")
		if strings.Contains(crm, "200 OK") != act.accepted || strings.Contains(crm, "503 Service Unavailable") && !act.refuse {
			t.Errorf("part %d: the CRM:\n%s", i, crm)
		}
	}
	var accepted []string
	for _, line := range shown(o.stdout, "crm") {
		if strings.HasSuffix(line, " 200 OK") {
			accepted = append(accepted, line)
		}
	}
	want := map[string][]int{"Aisyah": {1, 4, 7, 10}, "Bruno": {2, 5, 8, 11}, "Chiara": {3, 6, 9}}
	if got := contactOrder(t, accepted); !reflect.DeepEqual(got, want) {
		t.Errorf("the CRM took %v, want %v:\n%s", got, want, o.stdout)
	}
	for _, line := range []string{
		`(?m)^receiver  11 events stored, each answered 200 at its first attempt, the slowest in [0-9.]+ms; handed over 11$`,
		`(?m)^crm       down for 60ms, refused \d+ attempts?, and has all 11, once each, every contact's in order$`,
	} {
		if !regexp.MustCompile(line).MatchString(o.stdout) {
			t.Errorf("no line %s:\n%s", line, o.stdout)
		}
	}
}

func TestASmallDemoEndsToo(t *testing.T) {
	inTemp(t)
	o := runCommand("", append(quickDemo, "--events", "1")...)
	o.check(t, exitDone, "Every event is accounted for.")
	o.check(t, exitDone, "receiver  1 event stored")
}

func TestAnOutageOfTheDemoHasBounds(t *testing.T) {
	dir := inTemp(t)
	for _, down := range []string{"0s", "2h"} {
		runCommand("", append(quickDemo, "--crm-down", down)...).check(t, exitUsage, "--crm-down")
	}
	if left := leftOver(t, dir); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
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
	t.Cleanup(cancel)
	out = &screen{}
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, append(quickDemo, more...), strings.NewReader(""), out, out) }()
	awaitText(t, out, until)
	return out, func() int {
		cancel()
		return <-ended
	}
}

func awaitText(t *testing.T, out *screen, until string) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.After(20 * time.Second)
	for !strings.Contains(out.String(), until) {
		select {
		case <-timeout:
			t.Fatalf("%q did not come within 20 s:\n%s", until, out)
		case <-ticker.C:
		}
	}
}

func TestAnInterruptedDemoEndsCleanly(t *testing.T) {
	dir := inTemp(t)
	for _, until := range []string{"attempt 2", "the CRM is down"} {
		out, stop := startDemo(t, until)
		if status := stop(); status != exitDone || !strings.Contains(out.String(), "Stopped.") {
			t.Errorf("after %q: exit status %d:\n%s", until, status, out)
		}
		if left := leftOver(t, dir); len(left) > 0 {
			t.Errorf("after %q: left over: %v", until, left)
		}
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
	admin := regexp.MustCompile(`staffetta targets (--receiver=\S+) --data (\S+)`).FindStringSubmatch(out.String())
	of := []string{admin[1], "--data", admin[2]}
	runCommand("", append([]string{"targets"}, of...)...).check(t, exitDone, "hooks-respond.crm")
	client[len(client)-1] = crmWorkspace
	runCommand("", append([]string{"events", "send", "--sample", "call.ended"}, client...)...).check(t, exitDone, "for 1 endpoint")
	awaitText(t, out, "  3 call.ended                 Aisyah   attempt 1  200 OK\n")
	runCommand("", append([]string{"attempts"}, of...)...).check(t, exitDone, "call.ended")
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

func TestTheCRMOfTheDemoSeesABrokenOrder(t *testing.T) {
	type call struct {
		contact string
		event   int
		attempt int
		down    bool
	}
	for _, c := range []struct {
		name  string
		calls []call
		wrong int
	}{
		{"contacts beside one another", []call{{"a", 1, 1, false}, {"b", 2, 1, false}, {"b", 4, 1, false}, {"a", 3, 1, false}}, 0},
		{"a retry", []call{{"a", 1, 1, true}, {"a", 1, 2, false}, {"a", 3, 1, false}}, 0},
		{"another contact meanwhile", []call{{"a", 1, 1, true}, {"b", 2, 1, false}, {"a", 1, 2, false}}, 0},
		{"overtaken", []call{{"a", 1, 1, true}, {"a", 3, 1, false}}, 1},
		{"one left out", []call{{"a", 3, 1, false}}, 1},
		{"twice", []call{{"b", 2, 1, false}, {"b", 2, 1, false}}, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := &demo{out: io.Discard, changed: make(chan struct{})}
			crm := &demoCRM{demo: d, events: eventNumbers{}, contacts: map[respondio.ID]*crmContact{}}
			for i, contact := range []respondio.ID{"a", "b", "a", "b"} {
				crm.expect(strconv.Itoa(i+1), contact)
			}
			for _, k := range c.calls {
				crm.down = k.down
				body := fmt.Sprintf(`{"contact":{"id":%q},"event_type":"contact.updated","event_id":"%d"}`, k.contact, k.event)
				r := httptest.NewRequest(http.MethodPost, "/crm", strings.NewReader(body))
				r.Header.Set("Staffetta-Attempt", strconv.Itoa(k.attempt))
				w := httptest.NewRecorder()
				if crm.ServeHTTP(w, r); (w.Code == http.StatusServiceUnavailable) != k.down {
					t.Errorf("%s: status %d", c.name, w.Code)
				}
			}
			if wrong := crm.outOfOrder(); wrong != c.wrong {
				t.Errorf("%s: %d out of order, want %d", c.name, wrong, c.wrong)
			}
		})
	}
}

func TestTheCRMOfTheDemoSeesTwoEventsOfAContactAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crm := &demoCRM{
			demo: &demo{out: io.Discard, changed: make(chan struct{})}, events: eventNumbers{}, contacts: map[respondio.ID]*crmContact{},
		}
		var wg sync.WaitGroup
		for _, id := range []string{"1", "2"} {
			crm.expect(id, "a")
			wg.Go(func() {
				r := httptest.NewRequest(http.MethodPost, "/crm", strings.NewReader(`{"contact":{"id":"a"},"event_type":"contact.updated","event_id":"`+id+`"}`))
				r.Header.Set("Staffetta-Attempt", "1")
				crm.ServeHTTP(httptest.NewRecorder(), r)
			})
			synctest.Wait()
		}
		wg.Wait()
		if crm.outOfOrder() != 1 {
			t.Error("the second came while the first was under way, and nobody noticed")
		}
	})
}
