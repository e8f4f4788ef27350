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
	"strings"
	"testing"
)

// adminOfReceiver stands in for a receiver's admin API: what it answers by method and path, and what
// it was asked.
type adminOfReceiver struct {
	t       *testing.T
	url     string
	data    string // a folder with its key
	answers map[string]string
	asked   chan string // method, path with query, body
}

const keyOfReceiver = "admin_of_the_receiver"

func startAdmin(t *testing.T, answers map[string]string) *adminOfReceiver {
	t.Helper()
	a := &adminOfReceiver{t: t, data: t.TempDir(), answers: answers, asked: make(chan string, 100)}
	if err := os.WriteFile(filepath.Join(a.data, "admin.key"), []byte(keyOfReceiver+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.url = server.URL
	return a
}

func (a *adminOfReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a.asked <- strings.TrimSpace(r.Method + " " + r.URL.String() + " " + string(body))
	problem := func(status int, code string) {
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"status":%d,"code":%q,"detail":"so it is"}`, status, code)
	}
	answer, known := a.answers[r.Method+" "+r.URL.Path]
	switch {
	case r.Header.Get("Authorization") != "Bearer "+keyOfReceiver:
		problem(http.StatusUnauthorized, "unauthorized")
	case !known:
		problem(http.StatusNotFound, "not_found")
	case strings.HasPrefix(answer, ":"):
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, answer)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	default:
		_, _ = io.WriteString(w, answer)
	}
}

func (a *adminOfReceiver) run(args ...string) outcome {
	return runCommand("", append(args, "--receiver", a.url, "--data", a.data)...)
}

// wasAsked checks the requests since the last check.
func (a *adminOfReceiver) wasAsked(want ...string) {
	a.t.Helper()
	for _, w := range want {
		select {
		case got := <-a.asked:
			if got != w {
				a.t.Errorf("asked %s\nwant  %s", got, w)
			}
		default:
			a.t.Errorf("not asked %s", w)
		}
	}
	for len(a.asked) > 0 {
		a.t.Errorf("asked %s, too", <-a.asked)
	}
}

func attemptAt(target, id string) string {
	return strings.Replace(attemptText(id), "ep_1", target, 1)
}

func TestTheAttemptsOfAReceiverAreListedByTarget(t *testing.T) {
	a := startAdmin(t, map[string]string{"GET /v1/attempts": `{"items":[` + attemptAt("respond.crm", "a1") + `]}`})
	o := a.run("attempts")
	for _, want := range []string{"TARGET", "respond.crm", "delivered"} {
		o.check(t, exitDone, want)
	}
	a.wasAsked("GET /v1/attempts?limit=50")
	a.run("attempts", "--endpoint", "respond.crm", "--outcome", "dropped", "--json").check(t, exitDone, `"endpoint":"respond.crm"`)
	a.wasAsked("GET /v1/attempts?endpoint=respond.crm&limit=50&outcome=dropped")
	a.answers["GET /v1/attempts"] = `{"items":[]}`
	if o = a.run("attempts"); o.status != exitDone || o.stdout != "No attempts yet.\n" {
		t.Errorf("%+v", o)
	}
}

func TestTheAttemptsOfAReceiverAreFollowed(t *testing.T) {
	a := startAdmin(t, map[string]string{
		"GET /v1/attempts":        `{"items":[]}`,
		"GET /v1/attempts/follow": ": following\n\n" + strings.Replace(attemptEvent("a1"), "ep_1", "respond.crm", 1),
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stderr bytes.Buffer
	stdout := watchedBuffer{until: "event-a1", then: cancel}
	status := run(ctx, []string{"attempts", "-f", "--receiver", a.url, "--data", a.data}, strings.NewReader(""), &stdout, &stderr)
	outcome{status, stdout.got.String(), stderr.String()}.check(t, exitDone, "respond.crm")
	a.wasAsked("GET /v1/attempts/follow", "GET /v1/attempts?limit=10")
}

func letterOf(id, target string) string {
	return fmt.Sprintf(`{"id":%q,"event_id":"event-%[1]s","event_type":"a.b","endpoint":%q,"error":"status 503","attempts":9,"dropped_at":"2026-03-02T10:00:05Z","payload":{"a":1}}`, id, target)
}

func TestTheDeadLettersOfAReceiverAreListedShownExportedAndDeleted(t *testing.T) {
	a := startAdmin(t, map[string]string{
		"GET /v1/dead-letters":         `{"items":[` + letterOf("dl_2", "respond.crm") + `,` + letterOf("dl_1", "respond.queue") + `]}`,
		"GET /v1/dead-letters/dl_2":    letterOf("dl_2", "respond.crm"),
		"GET /v1/attempts":             `{"items":[` + attemptAt("respond.crm", "dl_2") + `]}`,
		"DELETE /v1/dead-letters/dl_2": "",
		"DELETE /v1/dead-letters":      `{"deleted":3}`,
	})
	o := a.run("dead-letters", "list", "--event-type", "a.b")
	for _, want := range []string{"TARGET", "respond.crm", "respond.queue", "status 503"} {
		o.check(t, exitDone, want)
	}
	a.wasAsked("GET /v1/dead-letters?event_type=a.b&limit=50")

	o = a.run("dead-letters", "show", "dl_2")
	for _, want := range []string{
		"target         respond.crm", "status 503, after 9 attempts", `"a": 1`, "delivered",
		"staffetta replay event-dl_2 --endpoint respond.crm --receiver=" + a.url,
	} {
		o.check(t, exitDone, want)
	}
	a.wasAsked("GET /v1/dead-letters/dl_2", "GET /v1/attempts?endpoint=respond.crm&event_id=event-dl_2&limit=10")

	o = a.run("dead-letters", "export")
	o.check(t, exitDone, "exported 2 dead letters")
	if o.stdout != letterOf("dl_2", "respond.crm")+"\n"+letterOf("dl_1", "respond.queue")+"\n" {
		t.Errorf("exported\n%s", o.stdout)
	}
	a.wasAsked("GET /v1/dead-letters?limit=500")

	a.run("dead-letters", "delete", "dl_2").check(t, exitDone, "deleted 1 dead letter")
	a.run("dead-letters", "delete", "--endpoint", "respond.crm", "--yes").check(t, exitDone, "deleted 3 dead letters")
	a.wasAsked("DELETE /v1/dead-letters/dl_2", "DELETE /v1/dead-letters?endpoint=respond.crm")

	a.answers["GET /v1/dead-letters"] = `{"items":[]}`
	a.run("dead-letters", "list").check(t, exitDone, "The receiver at "+a.url+" has no dead letters.")
}

func TestAReceiverReplaysAndSaysHowMany(t *testing.T) {
	a := startAdmin(t, map[string]string{"POST /v1/replays": `{"replayed":2}`})
	o := a.run("replay", "e1", "e2", "--endpoint", "respond.crm")
	o.check(t, exitDone, "replayed       2\n")
	o.check(t, exitDone, "staffetta targets --receiver="+a.url)
	a.run("replay", "--endpoint", "respond.crm", "--since", "2026-03-02T10:00:00Z", "--outcome", "all", "--json").check(t, exitDone, `{"replayed":2}`)
	a.wasAsked(`POST /v1/replays {"endpoint":"respond.crm","event_ids":["e1","e2"]}`,
		`POST /v1/replays {"endpoint":"respond.crm","outcome":"all","since":"2026-03-02T10:00:00Z"}`)

	a.answers["POST /v1/replays"] = `{"replayed":1,"aged_out":1,"aged_out_event_ids":["e2"],"note":"e2 is gone"}`
	o = a.run("replay", "e1", "e2")
	for _, want := range []string{"1: e2", "e2 is gone", "not everything could be sent again"} {
		o.check(t, exitFailed, want)
	}
	broken := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(broken.Close)
	runCommand("", "replay", "e1", "--key", "k", "--receiver="+broken.URL).check(t, exitFailed, "staffetta attempts --receiver="+broken.URL+" shows what is")
}

func TestTheTargetsOfAReceiverAreShown(t *testing.T) {
	const down = `{"id":"respond.crm","source":"respond","target":"crm","kind":"http","status":"down","waiting":12,"read":30,"delivered":18,"failed":7,"dropped":1,"oldest_at":"2026-03-02T10:00:05Z","next_attempt_at":"2999-03-02T10:00:05Z","last_error":"status 503","last_error_at":"2026-03-02T10:00:05Z"}`
	a := startAdmin(t, map[string]string{
		"GET /v1/targets": `{"items":[` + down + `,{"id":"respond.file","kind":"file","status":"idle","waiting":0,"read":3,"delivered":3,"failed":0,"dropped":0,"last_success_at":"2026-03-02T10:00:05Z"}]}`,
	})
	o := a.run("targets")
	o.check(t, exitDone, "TARGET")
	lines := strings.Split(o.stdout, "\n")
	if len(lines) != 4 || strings.Join(strings.Fields(lines[1])[:4], " ") != "respond.crm http down 12" ||
		!strings.Contains(lines[1], "status 503, ") || !strings.Contains(lines[1], " in ") ||
		strings.Join(strings.Fields(lines[2])[:8], " ") != "respond.file file idle 0 - 3 0 0" || !strings.Contains(lines[2], " ago") {
		t.Errorf("got\n%s", o.stdout)
	}
	if o = a.run("targets", "--json"); strings.Split(o.stdout, "\n")[0] != down {
		t.Errorf("got\n%s", o.stdout)
	}
	a.wasAsked("GET /v1/targets", "GET /v1/targets")
	a.answers["GET /v1/targets"] = `{"items":[]}`
	a.run("targets").check(t, exitDone, "no targets")
}

func TestAReceiverThatIsNotThereIsToldInItsOwnWords(t *testing.T) {
	nobody := "http://" + closedPort(t)
	runCommand("", "attempts", "--key", "k", "--receiver", nobody).check(t, exitFailed, `start a receiver with "staffetta receiver", or name the one to use with --receiver`)
	runCommand("", "targets", "--key", "k", "--receiver="+nobody).check(t, exitFailed, "nothing listens at "+nobody)
	a := startAdmin(t, nil)
	runCommand("", "targets", "--key", "another", "--receiver", a.url).check(t, exitFailed, "the receiver does not know this key")
	page := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(page.Close)
	runCommand("", "attempts", "--key", "k", "--receiver", page.URL).check(t, exitFailed, "is not a Staffetta receiver")
}

func TestTheEnvironmentNamesAReceiverBesideARelay(t *testing.T) {
	a := startAdmin(t, map[string]string{"GET /v1/attempts": `{"items":[]}`, "GET /v1/targets": `{"items":[]}`})
	t.Setenv("STAFFETTA_WORKSPACE", "acme")
	t.Setenv("STAFFETTA_URL", "http://127.0.0.1:1")
	t.Setenv("STAFFETTA_KEY", keyOfReceiver)
	runCommand("", "attempts", "--receiver", a.url).check(t, exitDone, "No attempts")
	t.Setenv("STAFFETTA_RECEIVER", a.url)
	runCommand("", "attempts").check(t, exitDone, "No attempts")
	runCommand("", "targets").check(t, exitDone, "no targets")
	a.wasAsked("GET /v1/attempts?limit=50", "GET /v1/attempts?limit=50", "GET /v1/targets")
	runCommand("", "attempts", "--workspace", "other").check(t, exitUsage, "a receiver has no workspaces")
	runCommand("", "attempts", "--receiver=false").check(t, exitFailed, "start a relay")
	runCommand("", "replay", "list").check(t, exitFailed, "start a relay")
}

func TestTheFlagReceiverStandsAloneOrWithAURL(t *testing.T) {
	t.Chdir(t.TempDir())
	// The default's port may be taken on this machine: without a key nothing is asked.
	for _, args := range [][]string{
		{"attempts", "--receiver"},
		{"attempts", "--receiver", "--limit=3"},
		{"attempts", "--receiver=true"},
		{"replay", "--receiver", "event"},
		{"targets"},
		{"targets", "--receiver"},
	} {
		runCommand("", args...).check(t, exitUsage, "there is no admin.key in "+filepath.Join(workingFolder(t), "receiver"))
	}
	for _, args := range [][]string{
		{"attempts", "--receiver", "https://hooks.example.com"},
		{"attempts", "--receiver=https://hooks.example.com", "--json"},
		{"replay", "--receiver", "https://hooks.example.com", "event"},
	} {
		o := runCommand("", args...)
		o.check(t, exitUsage, "no key: give one with --key")
		if strings.Contains(o.stderr, "data folder") {
			t.Errorf("%s: %s", args, o.stderr)
		}
	}
}

func workingFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestWrongUseOfAReceiverEndsWithStatus2(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"neither", []string{"attempts"}, "missing flags: --workspace=ID of a relay, or --receiver"},
		{"a workspace", []string{"dead-letters", "list", "--receiver", "--workspace", "acme"}, "a receiver has no workspaces"},
		{"a relay, too", []string{"attempts", "--receiver", "--relay", "http://127.0.0.1:9999"}, "name one of the two"},
		{"no URL", []string{"attempts", "--receiver=127.0.0.1:8091"}, "--receiver must be the URL of a receiver, such as http://127.0.0.1:8091"},
		{"no URL of targets", []string{"targets", "--receiver=ftp://x"}, "--receiver must be"},
		{"a wait", []string{"replay", "e1", "--receiver", "--wait"}, "--wait does not go with --receiver"},
		{"an idempotency key", []string{"replay", "e1", "--receiver", "--idempotency-key", "a"}, "--idempotency-key does not go"},
		{"a replay by type", []string{"replay", "--since", "1h", "--receiver", "--event-type", "a.b"}, "--event-type does not go"},
		{"a deletion by type", []string{"dead-letters", "delete", "--since", "1h", "--receiver", "--event-type", "a.b"}, "--event-type does not go"},
		{"an outcome of ids", []string{"replay", "e1", "--receiver", "--outcome", "dropped"}, "--outcome does not go"},
		{"a replay's status", []string{"replay", "status", "rp_1", "--receiver"}, "a replay at a receiver is over"},
		{"a replay's end", []string{"replay", "cancel", "rp_1", "--receiver"}, "a replay at a receiver is over"},
		{"the list of replays", []string{"replay", "list", "--receiver"}, "a replay at a receiver is over"},
		{"endpoints", []string{"endpoints", "list", "--receiver"}, "unknown flag"},
	} {
		t.Run(c.name, func(t *testing.T) { runCommand("", append(c.args, "--key", "k")...).check(t, exitUsage, c.want) })
	}
}
