package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/valyala/fasthttp"
)

const (
	outageEvents = 20_000
	// outageQuota is borne, two attempts an event; outageHold is how many the disabled endpoint holds.
	outageQuota = 2_000
	outageHold  = 5_000
	outageLimit = 40 * time.Second
)

// outage is the drill: the real program, a real mail server, an endpoint that is down, and comes back.
type outage struct {
	t        *testing.T
	program  string
	data     string
	relay    *process
	address  string
	api      *apiClient
	mails    *mailbox
	sink     *outageSink
	endpoint string
	ctx      context.Context
}

// TestAfterAnOutageOneCommandReplaysAllThatWasDropped sends 20,000 events to an endpoint where nothing
// listens. Its failures disable it; some events are dropped by their attempts, most of the others
// because more is held than may be, the rest is held. When it is back, enabling it delivers what was
// held, and one command the rest.
func TestAfterAnOutageOneCommandReplaysAllThatWasDropped(t *testing.T) {
	if testing.Short() {
		t.Skip("a drill on the real program")
	}
	o := newOutage(t)
	o.send()
	o.wait("a disabled endpoint", func() bool { return o.state().Status == "disabled" })
	o.wait("a disabled endpoint that holds what it may", func() bool {
		e := o.state()
		return e.Status == "disabled" && e.DisabledReason == "quota" && e.Backlog == outageHold
	})
	before := o.state()
	if before.Failures != outageQuota+1 {
		t.Errorf("%d failures in the window, want %d", before.Failures, outageQuota+1)
	}
	o.checkMail()
	dropped := outageEvents - outageHold
	if n := strings.Count(o.command("dead-letters", "export"), "\n"); n != dropped {
		t.Errorf("%d dead letters, want %d", n, dropped)
	}

	o.sink.comeBack(t)
	o.command("endpoints", "enable", o.endpoint)
	out := o.command("replay", "--endpoint", o.endpoint, "--wait")
	for _, want := range []string{"done", "found          " + strconv.Itoa(dropped), "replayed       " + strconv.Itoa(dropped), "skipped        0", "aged out       0"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in what the replay says:\n%s", want, out)
		}
	}
	o.wait("all events", func() bool { return o.sink.count() >= outageEvents && o.state().Backlog == 0 })
	o.sink.check(t)
	// One attempt of the replay was refused while the window was full: it counted nowhere.
	if e := o.state(); e.Status != "enabled" || e.Failures != before.Failures || e.AllFailures != before.AllFailures {
		t.Errorf("the replay was counted: %s, %d failures before and %d after", e.Status, before.Failures, e.Failures)
	}
	if _, ok := o.relay.stop(10 * time.Second); !ok {
		t.Fatalf("the relay does not stop:\n%s", o.relay.goroutines())
	}
	if complaints := o.relay.complaints(); len(complaints) > 0 {
		t.Errorf("the relay complained: %q", complaints)
	}
}

// newOutage starts everything but the endpoint's program.
func newOutage(t *testing.T) *outage {
	t.Helper()
	program := buildProgram(t)
	ctx, cancel := context.WithTimeout(t.Context(), outageLimit)
	t.Cleanup(cancel)
	o := &outage{t: t, program: program, data: t.TempDir(), address: freeAddress(t), ctx: ctx}
	o.sink = &outageSink{address: freeAddress(t)}
	smtpAddress := o.startMail()
	o.relay = startProcess(t, o.program, "relay", "--listen", o.address, "--data", o.data, "--admin-key", testAdminKey, "--shards", "4",
		"--allow-private-networks", "--retry", "1ms", "--quota", strconv.Itoa(outageQuota), "--hold-max-events", strconv.Itoa(outageHold),
		"--smtp-url", "smtp://"+smtpAddress+"?starttls=no", "--mail-from", "webhooks@relay.example", "--public-url", "https://relay.example")
	o.api = newAPIClient(o.address, testAdminKey)
	if err := o.api.ready(ctx, o.relay); err != nil {
		t.Fatalf("the relay is not ready: %v\n%s", err, o.relay.goroutines())
	}
	o.api.must(t, "PUT", "/v1/workspaces/acme", `{"plan":"advanced","notify_emails":["ops@acme.example"]}`, 201, nil)
	var made endpoint
	o.api.must(t, "POST", "/v1/workspaces/acme/endpoints", `{"url":"http://`+o.sink.address+`/hook","event_types":["message.received"]}`, 201, &made)
	o.endpoint = made.ID
	return o
}

// startMail runs a real SMTP server that takes everything.
func (o *outage) startMail() (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		o.t.Fatal(err)
	}
	o.mails = &mailbox{done: make(chan struct{})}
	o.mails.server = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return o.mails, nil }))
	go func() {
		defer close(o.mails.done)
		_ = o.mails.server.Serve(l)
	}()
	o.t.Cleanup(func() {
		_ = o.mails.server.Close()
		<-o.mails.done
	})
	return l.Addr().String()
}

// command runs a command of the program, which has to succeed, and gives what it printed.
func (o *outage) command(args ...string) string {
	o.t.Helper()
	cmd := exec.CommandContext(o.ctx, o.program, append(args, "--relay", "http://"+o.address, "--key", testAdminKey, "--workspace", "acme")...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begun := time.Now()
	if err := cmd.Run(); err != nil {
		o.t.Fatalf("staffetta %s: %v\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	o.t.Logf("staffetta %s took %v", args[0], time.Since(begun).Round(time.Millisecond))
	return stdout.String()
}

// send sends the events in batches, one after the other.
func (o *outage) send() {
	o.t.Helper()
	path := filepath.Join(o.t.TempDir(), "events.ndjson")
	f, err := os.Create(path)
	if err != nil {
		o.t.Fatal(err)
	}
	lines := bufio.NewWriter(f)
	for n := 1; n <= outageEvents; n++ {
		_, _ = fmt.Fprintf(lines, `{"event_type":"message.received","event_id":"event-%d"}`+"\n", n)
	}
	if err := lines.Flush(); err != nil || f.Close() != nil {
		o.t.Fatalf("write %s: %v", path, err)
	}
	want := fmt.Sprintf("accepted %d, duplicates 0, rejected 0\n", outageEvents)
	if out := o.command("events", "send", path); out != want {
		o.t.Fatalf("sent: %s", out)
	}
}

func (o *outage) state() (e endpoint) {
	o.t.Helper()
	o.api.must(o.t, "GET", "/v1/workspaces/acme/endpoints/"+o.endpoint, "", 200, &e)
	return e
}

// wait fails the drill with its state when something does not come in time.
func (o *outage) wait(what string, is func() bool) {
	o.t.Helper()
	begun := time.Now()
	if !waitUntil(o.ctx, 20*time.Millisecond, is) {
		o.t.Fatalf("in %v there was not: %s; %d arrived; %+v", outageLimit, what, o.sink.count(), o.state())
	}
	o.t.Logf("%s after %v", what, time.Since(begun).Round(time.Millisecond))
}

// checkMail waits for the notices and looks at that of the disabling.
func (o *outage) checkMail() {
	o.t.Helper()
	subject := "[acme] Webhook disabled: 127.0.0.1"
	disabled := func(s string) bool { return strings.HasPrefix(s, subject) }
	o.wait("the mail of the disabling", func() bool { return slices.ContainsFunc(o.mails.subjects(o.t), disabled) })
	subjects := o.mails.subjects(o.t)
	o.t.Logf("mails: %q", subjects)
	for _, percent := range []string{"50%", "80%"} {
		if n := len(slices.DeleteFunc(slices.Clone(subjects), func(s string) bool { return !strings.Contains(s, "at "+percent) })); n != 1 {
			o.t.Errorf("%d warnings at %s in %q", n, percent, subjects)
		}
	}
	o.mails.mu.Lock()
	defer o.mails.mu.Unlock()
	text := strings.ReplaceAll(o.mails.mails[slices.IndexFunc(subjects, disabled)], "=\r\n", "")
	for _, want := range []string{"To: <ops@acme.example>", o.endpoint, "refused", "staffetta endpoints enable"} {
		if !strings.Contains(text, want) {
			o.t.Errorf("no %q in the mail:\n%s", want, text)
		}
	}
}

// outageSink is the endpoint, once it is back. It refuses one attempt of the replay.
type outageSink struct {
	address string

	mu       sync.Mutex
	arrivals []outageArrival
	refused  int
}

type outageArrival struct {
	event  int
	replay bool
}

// outageRefused is the event whose first attempt in the replay is refused.
const outageRefused = 4_321

func (s *outageSink) comeBack(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	server := &fasthttp.Server{Handler: s.handle}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Shutdown()
		<-done
	})
}

func (s *outageSink) handle(ctx *fasthttp.RequestCtx) {
	h := &ctx.Request.Header
	n, _ := strconv.Atoi(strings.TrimPrefix(string(h.Peek("Webhook-Id")), "event-")) // 0 is found by check
	a := outageArrival{n, string(h.Peek("Staffetta-Replay")) == "true"}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.event == outageRefused && s.refused == 0 {
		s.refused++
		ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
		return
	}
	s.arrivals = append(s.arrivals, a)
}

func (s *outageSink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.arrivals)
}

// check holds what arrived against what was sent: each event once, those that were held in their
// order, then those that were replayed in theirs.
func (s *outageSink) check(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.arrivals) != outageEvents || s.refused != 1 {
		t.Fatalf("%d events arrived, want %d; %d refused", len(s.arrivals), outageEvents, s.refused)
	}
	for i, a := range s.arrivals {
		want := outageArrival{i + 1 + outageEvents - outageHold, false}
		if i >= outageHold {
			want = outageArrival{i + 1 - outageHold, true}
		}
		if a != want {
			t.Fatalf("arrival %d is %+v, want %+v", i+1, a, want)
		}
	}
}
