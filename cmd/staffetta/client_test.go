package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/relay"
	"github.com/staffetta-relay/staffetta/sender"
)

// station is a relay on loopback and the command line that leads to it.
type station struct {
	t    *testing.T
	url  string
	data string
}

// startStation runs a relay as staffetta relay does, until the test ends.
func startStation(t *testing.T, change ...func(*relaySettings)) *station {
	t.Helper()
	data := t.TempDir()
	settings := relaySettings{
		listen: "127.0.0.1:0", data: data, shards: 2, policy: staffetta.DefaultPolicy(), catalogue: staffetta.DefaultCatalogue(),
		guard:   sender.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
		minPlan: staffetta.PlanAdvanced, log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.ErrorLevel),
	}
	for _, f := range change {
		f(&settings)
	}
	var err error
	if settings.adminKey, _, err = relay.LoadAdminKey("", data); err != nil {
		t.Fatal(err)
	}
	if settings.secret, err = relay.LoadSecret("", data); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	started, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- runRelay(ctx, settings, func(r *relay.Relay) { started <- r.Addr().String() })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the relay stopped with: %v", err)
		}
	})
	select {
	case address := <-started:
		return &station{t: t, url: "http://" + address, data: data}
	case err := <-ended:
		ended <- nil
		t.Fatalf("the relay did not start: %v", err)
		return nil
	}
}

// outcome is what a person sees of a command.
type outcome struct {
	status         int
	stdout, stderr string
}

// runCommand runs the program with the text on its standard input.
func runCommand(stdin string, args ...string) outcome {
	var stdout, stderr bytes.Buffer
	status := run(context.Background(), args, strings.NewReader(stdin), &stdout, &stderr)
	return outcome{status, stdout.String(), stderr.String()}
}

// run runs a command about the workspace acme with the admin key of the data folder.
func (s *station) run(args ...string) outcome { return s.runWith("", args...) }

func (s *station) runWith(stdin string, args ...string) outcome {
	return runCommand(stdin, append(args, "--relay", s.url, "--data", s.data, "--workspace", "acme")...)
}

// must runs a command that has to succeed and gives what it printed.
func (s *station) must(args ...string) string {
	s.t.Helper()
	o := s.run(args...)
	if o.status != exitDone {
		s.t.Fatalf("staffetta %s: exit status %d: %s", strings.Join(args, " "), o.status, o.stderr)
	}
	return o.stdout
}

// check fails the test unless the command ended as said; want is part of what it printed.
func (o outcome) check(t *testing.T, status int, want string) {
	t.Helper()
	if o.status != status || !strings.Contains(o.stdout+o.stderr, want) {
		t.Errorf("exit status %d, want %d and %q in what it prints:\n%s%s", o.status, status, want, o.stdout, o.stderr)
	}
}

// delivery is a request that an endpoint got.
type delivery struct {
	header http.Header
	body   string
}

// newSink is an endpoint that answers 200 and hands on what it got.
func newSink(t *testing.T) (url string, got <-chan delivery) {
	t.Helper()
	arrived := make(chan delivery, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		select {
		case arrived <- delivery{r.Header, string(body)}:
		default: // more than the test looks at
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, arrived
}

// next waits for a delivery.
func next(t *testing.T, got <-chan delivery) delivery {
	t.Helper()
	select {
	case d := <-got:
		return d
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was delivered within 10 s")
		return delivery{}
	}
}

// closedPort is an address where nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestWithoutARelayACommandSaysHowToStartOne(t *testing.T) {
	o := runCommand("", "endpoints", "list", "--workspace", "acme", "--key", "some-key-that-is-long", "--relay", "http://"+closedPort(t))
	o.check(t, exitFailed, `start a relay with "staffetta relay"`)
	if strings.Contains(o.stdout+o.stderr, "some-key-that-is-long") {
		t.Errorf("the key is shown: %s", o.stderr)
	}
}

func TestWrongUseEndsWithStatus2(t *testing.T) {
	empty := t.TempDir()
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"no workspace", []string{"endpoints", "list", "--key", "k"}, "--workspace"},
		{"a workspace that cannot be", []string{"endpoints", "list", "--key", "k", "--workspace", "a/b"}, "1 to 64 letters"},
		{"no key", []string{"endpoints", "list", "--workspace", "acme", "--data", empty}, "no key"},
		{"a key with a line break", []string{"endpoints", "list", "--workspace", "acme", "--key", "a\nb"}, "no key has"},
		{"a relay that is no URL", []string{"endpoints", "list", "--workspace", "acme", "--key", "k", "--relay", "localhost:8080"}, "--relay must be"},
		{"an unknown flag", []string{"endpoints", "list", "--wrokspace", "acme"}, "unknown flag"},
		{"an unknown plan", []string{"endpoints", "add", "--plan", "gold", "--workspace", "acme", "--key", "k", "--url", "http://x", "--events", "all"}, "--plan"},
		{"a header without a value", []string{"endpoints", "add", "--header", "X-A", "--workspace", "acme", "--key", "k", "--url", "http://x", "--events", "all"}, "Name=value"},
		{"an update of nothing", []string{"endpoints", "update", "ep_1", "--workspace", "acme", "--key", "k"}, "nothing to change"},
		{"no events to send", []string{"events", "send", "--workspace", "acme", "--key", "k"}, "--sample TYPE"},
		{"two sources", []string{"events", "send", "-", "--sample", "message.sent", "--workspace", "acme", "--key", "k"}, "--sample TYPE"},
		{"an unknown sample", []string{"events", "send", "--sample", "message.lost", "--workspace", "acme", "--key", "k"}, "conversation.closed"},
		{"a count of a file", []string{"events", "send", "--file", "x", "--count", "2", "--workspace", "acme", "--key", "k"}, "--count"},
		{"a count of none", []string{"events", "send", "--sample", "message.sent", "--count", "0", "--workspace", "acme", "--key", "k"}, "--count"},
		{"one key for many", []string{"events", "send", "x.ndjson", "--idempotency-key", "a", "--workspace", "acme", "--key", "k"}, "single event"},
		{"a demo of no events", []string{"demo", "--events", "0"}, "--events"},
		{"a demo without a deadline", []string{"demo", "--deadline", "0s"}, "deadline"},
	} {
		t.Run(c.name, func(t *testing.T) { runCommand("", c.args...).check(t, exitUsage, c.want) })
	}
}

func TestTheKeyOfARelayOnThisMachineIsNotForAnotherOne(t *testing.T) {
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "admin.key"), []byte("admin_0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		relay, want string
	}{
		{"http://127.0.0.1:8080", "admin_0123456789abcdef"},
		{"http://[::1]:8080", "admin_0123456789abcdef"},
		{"https://localhost", "admin_0123456789abcdef"},
		{"https://relay.example.com", ""},
		{"http://192.168.1.7:8080", ""},
	} {
		flags := clientFlags{Relay: c.relay, Data: data, Workspace: "acme"}
		made, err := flags.client()
		switch {
		case c.want == "" && err == nil:
			t.Errorf("%s gets the key of this machine's relay", c.relay)
		case c.want != "" && (err != nil || made.key != c.want):
			t.Errorf("%s: %v, want the key of the data folder", c.relay, err)
		}
	}
}

func TestTheEnvironmentNamesRelayKeyAndWorkspace(t *testing.T) {
	s := startStation(t)
	key, err := os.ReadFile(filepath.Join(s.data, "admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("STAFFETTA_URL", s.url)
	t.Setenv("STAFFETTA_ADMIN_KEY", string(key))
	t.Setenv("STAFFETTA_WORKSPACE", "acme")
	runCommand("", "endpoints", "add", "--plan", "advanced", "--url", "https://example.com/hook", "--events", "message.received").
		check(t, exitDone, "signing key")
	runCommand("", "endpoints", "list").check(t, exitDone, "https://example.com/hook")
}

func TestWhatTheRelayRefusesIsToldWithItsCode(t *testing.T) {
	s := startStation(t)
	runCommand("", "endpoints", "list", "--relay", s.url, "--key", "not-the-key-of-this", "--workspace", "acme").check(t, exitFailed, "(unauthorized)")
	s.run("endpoints", "list").check(t, exitFailed, "(workspace_not_found)")
	s.run("events", "send", "--sample", "message.sent").check(t, exitFailed, "(workspace_not_found)")
	add := []string{"endpoints", "add", "--url", "https://example.com/", "--events", "message.received"}
	s.run(append(add, "--plan", "starter")...).check(t, exitFailed, "--plan changes it (plan_required)")
	s.must(append(add, "--plan", "advanced")...)
	s.run(add...).check(t, exitFailed, "(url_taken)")
	s.run("endpoints", "add", "--url", "https://example.com/2", "--events", "message.lost").check(t, exitFailed, "(unknown_event_type)")
	for _, command := range []string{"show", "enable", "disable", "rotate", "test", "remove"} {
		s.run("endpoints", command, "ep_missing").check(t, exitFailed, "(endpoint_not_found)")
	}
	s.run("endpoints", "update", "ep_missing", "--success", "2xx").check(t, exitFailed, "(endpoint_not_found)")
}

func TestWhatIsNoRelayIsToldApart(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		body   string
	}{
		{"a page", 200, "<html>"},
		{"another program's error", 502, "Bad Gateway"},
		{"a redirect", 302, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(c.status)
				_, _ = fmt.Fprint(w, c.body)
			}))
			t.Cleanup(server.Close)
			runCommand("", "endpoints", "list", "--relay", server.URL, "--key", "k", "--workspace", "acme").
				check(t, exitFailed, "is not a Staffetta relay")
		})
	}
}

func TestACommandEndsWhenItIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	var stdout, stderr bytes.Buffer
	status := run(ctx, []string{"endpoints", "list", "--relay", server.URL, "--key", "k", "--workspace", "acme"}, strings.NewReader(""), &stdout, &stderr)
	outcome{status, stdout.String(), stderr.String()}.check(t, exitFailed, "interrupted")
}
