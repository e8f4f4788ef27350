package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/relay"
)

// operationsSink keeps what arrives at /ops, whose first attempts it refuses, and refuses everything
// at /down.
type operationsSink struct {
	*memorySink
	refuse int

	mu    sync.Mutex
	facts []string
	bad   []string
	key   string
}

func newOperationsSink(refuse int) *operationsSink {
	s := &operationsSink{refuse: refuse}
	s.memorySink = &memorySink{listener: fasthttputil.NewInmemoryListener(), start: time.Now(), done: make(chan struct{})}
	s.server = &fasthttp.Server{NoDefaultDate: true, Handler: s.handle}
	go func() {
		defer close(s.done)
		_ = s.server.Serve(s.listener)
	}()
	return s
}

func (s *operationsSink) handle(ctx *fasthttp.RequestCtx) {
	if string(ctx.Path()) != "/ops" {
		ctx.SetStatusCode(503)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &ctx.Request.Header
	body := ctx.PostBody()
	if err := staffetta.VerifyRespondIO([]string{s.key}, string(h.Peek("X-Webhook-Signature")), body); err != nil {
		s.bad = append(s.bad, err.Error())
	}
	if err := staffetta.VerifyStandard([]string{s.key}, string(h.Peek("webhook-id")), string(h.Peek("webhook-timestamp")),
		string(h.Peek("webhook-signature")), body, time.Now(), staffetta.SignatureTolerance); err != nil {
		s.bad = append(s.bad, err.Error())
	}
	if s.refuse > 0 {
		s.refuse--
		ctx.SetStatusCode(500)
		return
	}
	var fact struct {
		EventType string `json:"event_type"`
		Workspace string
		Endpoint  struct{ URL string }
		Percent   int
		Reason    string
		Failures  int
	}
	if err := json.Unmarshal(body, &fact); err != nil || fact.Workspace != "acme" || fact.Endpoint.URL != "http://sink.example/down" {
		s.bad = append(s.bad, string(body))
	}
	s.facts = append(s.facts, fmt.Sprintf("%v %s %d %d %s", time.Since(s.start).Truncate(time.Second), fact.EventType, fact.Percent, fact.Failures, fact.Reason))
	ctx.SetStatusCode(204) // operations accept every 2xx
}

// mailbox is a mail server that takes everything.
type mailbox struct {
	listener *fasthttputil.InmemoryListener
	server   *smtp.Server
	done     chan struct{}

	mu    sync.Mutex
	mails []string
}

func startMailbox() *mailbox {
	b := &mailbox{listener: fasthttputil.NewInmemoryListener(), done: make(chan struct{})}
	b.server = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return b, nil }))
	go func() {
		defer close(b.done)
		_ = b.server.Serve(b.listener)
	}()
	return b
}

func (b *mailbox) close() {
	_ = b.listener.Close()
	_ = b.server.Close()
	<-b.done
}

func (b *mailbox) Reset()                                   {}
func (b *mailbox) Logout() error                            { return nil }
func (b *mailbox) Mail(string, *smtp.MailOptions) error     { return nil }
func (b *mailbox) Rcpt(_ string, _ *smtp.RcptOptions) error { return nil }

func (b *mailbox) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mails = append(b.mails, string(raw))
	return err
}

func (b *mailbox) subjects(t *testing.T) (subjects []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, raw := range b.mails {
		m, err := mail.ReadMessage(strings.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		subjects = append(subjects, m.Header.Get("Subject"))
	}
	return subjects
}

func TestAWorkspaceIsToldByMailAndByOperationalEventsOfWhatBecomesOfItsWebhooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink, box := newOperationsSink(2), startMailbox()
		m := startInMemory(t, t.TempDir(), sink.memorySink, func(s *relaySettings) {
			s.policy.Quota.Failures = 5
			s.mail = &relay.MailConfig{
				URL: "smtp://mail.example", From: "webhooks@relay.example", PublicURL: "https://relay.example",
				Dial: func(context.Context, string, string) (net.Conn, error) { return box.listener.Dial() },
			}
		})
		answer := m.callJSON("PUT", "/v1/workspaces/acme", `{"plan":"advanced","operations_url":"http://ops.example/ops","notify_emails":["ops@acme.example"]}`, 201)
		sink.key, _ = answer["operations_signing_key"].(string)
		id := m.endpoint("acme", "/down")
		sink.start = time.Now()
		m.post("acme", 1, 2)
		sink.passTo(215 * time.Second)
		state := m.callJSON("GET", "/v1/workspaces/acme/endpoints/"+id, "", 200)
		if state["status"] != "disabled" || state["failures_in_window"] != 6.0 {
			t.Errorf("the endpoint is %v with %v failures; those of the operations URL do not count", state["status"], state["failures_in_window"])
		}
		if list := m.callJSON("GET", "/v1/workspaces/acme/endpoints", "", 200); len(list["items"].([]any)) != 1 {
			t.Errorf("the hidden endpoint is listed: %v", list)
		}
		m.call("POST", "/v1/workspaces/acme/endpoints/"+id+"/disable", "", nil, 200)
		m.call("POST", "/v1/workspaces/acme/endpoints/"+id+"/enable", "", nil, 200)
		sink.passTo(216 * time.Second)
		m.call("POST", "/v1/workspaces/acme/endpoints/"+id+"/disable", "", nil, 200)
		sink.passTo(260 * time.Second)
		m.shutdown()

		want := []string{
			"3m0s endpoint.warning 50 3 ", // its first two attempts, at 90 s and 120 s, were refused
			"3m0s endpoint.warning 80 4 ",
			"3m0s event.dropped 0 0 status 503",
			"3m0s endpoint.warning 100 5 ",
			"3m30s endpoint.disabled 0 6 quota",
			"3m35s endpoint.enabled 0 0 ",
		}
		// The event that waited is tried at once, and its failure finds the window still over the quota.
		if len(sink.facts) < len(want) || !slices.Equal(sink.facts[:len(want)], want) || len(sink.bad) > 0 {
			t.Errorf("got %q, want %q; bad: %q", sink.facts, want, sink.bad)
		}
		subjects := box.subjects(t)
		for _, subject := range []string{
			"[acme] Webhook failures at 50% of the limit (3 of 5)", "[acme] Webhook failures at 80% of the limit (4 of 5)",
			"[acme] Webhook disabled: sink.example", "[acme] 1 webhook event was dropped",
		} {
			if !slices.Contains(subjects, subject) {
				t.Errorf("no mail %q among %q", subject, subjects)
			}
		}
		box.mu.Lock()
		disabled := box.mails[slices.Index(subjects, "[acme] Webhook disabled: sink.example")]
		box.mu.Unlock()
		if got := strings.Count(disabled, "message.received HTTP 503"); got != 5 {
			t.Errorf("the mail lists %d failures, want the last 5:\n%s", got, disabled)
		}
		box.close()
		sink.close()
	})
}

func TestAnOperationsURLThatFailsCausesNothingOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newOperationsSink(4) // the first event is dropped
		m := startInMemory(t, t.TempDir(), sink.memorySink)
		answer := m.callJSON("PUT", "/v1/workspaces/acme", `{"plan":"advanced","operations_url":"http://ops.example/ops"}`, 201)
		sink.key, _ = answer["operations_signing_key"].(string)
		id := m.endpoint("acme", "/down")
		sink.start = time.Now()
		m.call("POST", "/v1/workspaces/acme/endpoints/"+id+"/disable", "", nil, 200)
		sink.passTo(200 * time.Second)
		m.call("POST", "/v1/workspaces/acme/endpoints/"+id+"/enable", "", nil, 200)
		sink.passTo(time.Hour)
		m.call("PUT", "/v1/workspaces/acme", "application/json", []byte(`{"operations_url":null}`), 200)
		m.call("POST", "/v1/workspaces/acme/endpoints/"+id+"/disable", "", nil, 200)
		sink.passTo(2 * time.Hour)
		m.shutdown()
		if want := []string{"3m20s endpoint.enabled 0 0 "}; !slices.Equal(sink.facts, want) || len(sink.bad) > 0 {
			t.Errorf("got %q, want %q; bad: %q", sink.facts, want, sink.bad)
		}
		sink.close()
	})
}

func TestTheFlagsOfMailsAreChecked(t *testing.T) {
	if c, err := (mailFlags{PublicURL: "x"}).config(); c != nil || err != nil {
		t.Errorf("without a mail server: %v, %v", c, err)
	}
	if c, err := (mailFlags{SMTPURL: "smtp://u:p@mail.example", MailFrom: "a@b.example"}).config(); c == nil || err != nil {
		t.Errorf("with one: %v", err)
	}
	for _, f := range []mailFlags{
		{SMTPURL: "smtp://u:secret@mail.example/x", MailFrom: "a@b.example"},
		{SMTPURL: "smtp://u:secret@mail.example"},
		{SMTPURL: "smtp://u:secret@mail.example", MailFrom: "a@b.example", PublicURL: "nonsense"},
	} {
		if _, err := f.config(); err == nil || strings.Contains(err.Error(), "secret") || !strings.HasPrefix(err.Error(), "--") {
			t.Errorf("got %v", err)
		}
	}
}
