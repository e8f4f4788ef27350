package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

// noticesTest is what notices stand on: the real queue, a registry and a publisher.
type noticesTest struct {
	*testing.T
	server    *embed.Server
	conn      *nats.Conn
	js        jetstream.JetStream
	registry  *Registry
	publisher *publisher
	stored    []string
}

func newNoticesTest(t *testing.T, dir string) *noticesTest {
	t.Helper()
	n := &noticesTest{T: t, server: embedtest.Start(t, dir, 4)}
	var err error
	if n.conn, err = n.server.Connect("test"); err != nil {
		t.Fatal(err)
	}
	if n.js, err = jetstream.New(n.conn); err != nil {
		t.Fatal(err)
	}
	bucket, err := n.js.KeyValue(t.Context(), staffetta.RegistryBucket)
	if err != nil {
		t.Fatal(err)
	}
	n.registry = openRegistry(t, testRegistryConfig(t, bucket))
	n.publisher = startPublisher(t, publisherConfig{
		conns: []*nats.Conn{n.conn}, js: n.js, shards: 4,
		stored: func(_ int, endpoint string, _ uint64, _ staffetta.Event, _ string) {
			n.stored = append(n.stored, endpoint)
		},
	})
	return n
}

// workspace makes or changes one, with an address and a language.
func (n *noticesTest) workspace(id, language string, emails ...string) {
	n.Helper()
	_, _, err := n.registry.PutWorkspace(n.Context(), id, func(ws *staffetta.Workspace) error {
		ws.Plan, ws.Language, ws.NotifyEmails = staffetta.PlanAdvanced, language, emails
		ws.SetDefaults()
		return ws.Validate()
	})
	if err != nil {
		n.Fatal(err)
	}
}

// start runs notices; stop stops them as a clean stop of the relay does.
func (n *noticesTest) start(m *MailConfig, change ...func(*NoticesConfig)) (notices *Notices, stop func()) {
	n.Helper()
	cfg := NoticesConfig{JetStream: n.js, Mail: m, Log: quietLog(n)}
	for _, f := range change {
		f(&cfg)
	}
	notices, err := NewNotices(cfg)
	if err != nil {
		n.Fatal(err)
	}
	notices.attach(n.registry, n.publisher, 4)
	ctx, cancel := context.WithCancel(n.Context())
	done := make(chan error, 1)
	go func() { done <- notices.Run(ctx) }()
	return notices, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.Errorf("Run: %v", err)
		}
	})
}

// shutdown ends the queue, so that another test's half can start on the same folder.
func (n *noticesTest) shutdown() {
	n.conn.Close()
	n.server.Shutdown()
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// readMail is a mail as a reader of mail sees it.
type readMail struct {
	header        mail.Header
	subject       string
	text, html    string
	contentTypes  []string
	to, messageID string
}

func readReceived(t testing.TB, r receivedMail) readMail {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(r.raw))
	if err != nil {
		t.Fatal(err)
	}
	read := readMail{header: m.Header, to: r.to, messageID: m.Header.Get("Message-ID")}
	if read.subject, err = new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject")); err != nil {
		t.Fatal(err)
	}
	media, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || media != "multipart/alternative" {
		t.Fatalf("content type %s, %v", media, err)
	}
	parts := multipart.NewReader(m.Body, params["boundary"])
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return read
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(quotedprintable.NewReader(part))
		if err != nil || part.Header.Get("Content-Transfer-Encoding") != "quoted-printable" {
			t.Fatalf("part %v: %v", part.Header, err)
		}
		media, _, _ := mime.ParseMediaType(part.Header.Get("Content-Type"))
		read.contentTypes = append(read.contentTypes, media)
		if media == "text/html" {
			read.html = string(body)
		} else {
			read.text = string(body)
		}
	}
}

var someFailures = []FailedAttempt{
	{At: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC), EventType: "message.sent", Status: 418},
	{At: time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC), EventType: "message.received", Status: 503},
	{At: time.Date(2026, 3, 2, 10, 0, 30, 0, time.UTC), EventType: "message.received", Error: "timeout: no answer within 5s"},
	{At: time.Date(2026, 3, 2, 10, 1, 30, 0, time.UTC), EventType: "contact.updated", Error: "dns: no such host"},
	{At: time.Date(2026, 3, 2, 10, 3, 0, 0, time.UTC), EventType: "contact.updated", Status: 500},
	{At: time.Date(2026, 3, 2, 10, 3, 1, 0, time.UTC), EventType: "contact.updated", Status: 502},
}

func TestEveryNoticeIsMailedInBothPartsInTheWorkspacesLanguage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, m := newNoticesTest(t, t.TempDir()), startMailServer(t)
		n.workspace("acme", "en", "ops@acme.example")
		n.workspace("rossi", "it", "ops@rossi.example")
		notices, stop := n.start(m.config(mailURL))
		for _, ws := range []string{"acme", "rossi"} {
			e := addEndpoint(t, n.registry, ws, "https://hooks."+ws+".example/in", "message.received")
			notices.Warning(ws, e.ID, 50, 15, 30)
			notices.Warning(ws, e.ID, 80, 24, 30)
			notices.Warning(ws, e.ID, 100, 30, 30)
			notices.Disabled(ws, e.ID, e.URL, staffetta.DisabledByQuota, 31, 30, someFailures)
			notices.Disabled(ws, e.ID, e.URL, staffetta.DisabledByUser, 0, 30, nil)
			notices.Enabled(ws, e.ID, e.URL)
			for i := range 7 {
				notices.Dropped(ws, e.ID, fmt.Sprintf("event-%d", i), "message.received", "status 503")
			}
			notices.Dropped(ws, "ep_gone", "event-x", "message.sent", "timeout")
			notices.Dropped(ws, staffetta.OperationsEndpoint(ws), "event-op", "event.dropped", "timeout")
		}
		pass(2 * time.Minute)
		stop()
		wants := map[string][]string{
			"[acme] Webhook failures at 50% of the limit (15 of 30)":  {"15 failed webhook attempts within 30 minutes", "https://hooks.acme.example/in"},
			"[acme] Webhook failures at 80% of the limit (24 of 30)":  {"24 failed webhook attempts"},
			"[acme] Webhook disabled: hooks.acme.example":             {"message.received HTTP 503", "timeout: no answer within 5s", platformPath, "https://relay.example/v1/workspaces/acme/endpoints/ep_", "staffetta endpoints enable", "are held"},
			"[acme] 8 webhook events were dropped":                    {"event-x", "event-6", "/v1/workspaces/acme/replays", "8 events could not be delivered"},
			"[rossi] Errori dei webhook al 50% del limite (15 su 30)": {"In 30 minuti ci sono stati 15 tentativi falliti", "https://hooks.rossi.example/in"},
			"[rossi] Errori dei webhook al 80% del limite (24 su 30)": {"24 tentativi"},
			"[rossi] Webhook disattivato: hooks.rossi.example":        {"finché non lo riattivi", platformPath, "endpoints/ep_", "vengono conservati"},
			"[rossi] 8 eventi webhook non consegnati":                 {"event-x", "/v1/workspaces/rossi/replays", "8 eventi"},
		}
		for _, r := range m.received() {
			read := readReceived(t, r)
			want, ok := wants[read.subject]
			if !ok {
				t.Errorf("unexpected mail: %s", read.subject)
				continue
			}
			delete(wants, read.subject)
			for _, text := range want {
				if !strings.Contains(read.text, text) {
					t.Errorf("%s: no %q in the text:\n%s", read.subject, text, read.text)
				}
			}
			if strings.Contains(read.text+read.html, "HTTP 418") || strings.Contains(read.text+read.html, "event-op") {
				t.Errorf("%s: has what does not belong in it", read.subject)
			}
			checkForm(t, read)
		}
		for subject := range wants {
			t.Errorf("not sent: %s", subject)
		}
	})
}

// checkForm holds what all mails have in common.
func checkForm(t *testing.T, read readMail) {
	t.Helper()
	if !slices.Equal(read.contentTypes, []string{"text/plain", "text/html"}) || !strings.Contains(read.html, "<h1") {
		t.Errorf("%s: parts %v", read.subject, read.contentTypes)
	}
	for _, remote := range []string{"src=", "url(", "<link", "<script", "<img", "href="} {
		if strings.Contains(read.html, remote) {
			t.Errorf("%s: the HTML has %s", read.subject, remote)
		}
	}
	if read.header.Get("Auto-Submitted") != "auto-generated" || !strings.HasSuffix(read.messageID, "@relay.example>") ||
		read.header.Get("From") != `"Webhooks" <webhooks@relay.example>` {
		t.Errorf("%s: headers %v", read.subject, read.header)
	}
}

func TestWhatAnEndpointAnswersNeverBecomesMarkupOrAHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, m := newNoticesTest(t, t.TempDir()), startMailServer(t)
		n.workspace("acme", "en", "ops@acme.example")
		notices, stop := n.start(m.config(mailURL))
		e := addEndpoint(t, n.registry, "acme", `https://hooks.example/"><script>alert(1)</script>`, "message.received")
		evil := "reset: \"<img src=x>\r\nBcc: victim@example.com\r\n\r\n\x00\xff" + strings.Repeat("x", 5000)
		notices.Disabled("acme", e.ID, e.URL, staffetta.DisabledByQuota, 31, 30, []FailedAttempt{{At: time.Now(), EventType: "message.received", Error: evil}})
		notices.Dropped("acme", e.ID, "<b>", "message.received", evil)
		pass(2 * time.Minute)
		stop()
		got := m.received()
		if len(got) != 2 {
			t.Fatalf("%d mails", len(got))
		}
		for _, r := range got {
			read := readReceived(t, r)
			if read.header.Get("Bcc") != "" || r.to != "ops@acme.example" || strings.Contains(read.html, "<script") || strings.Contains(read.html, "<img") || strings.Contains(read.html, "<b>") {
				t.Errorf("%s: %v\n%s", read.subject, read.header, read.html)
			}
			if strings.Contains(read.text, "\nBcc") || len(read.text) > 4000 || !strings.Contains(read.html, "&lt;img src=x&gt;") {
				t.Errorf("%s:\n%s", read.subject, read.text)
			}
		}
	})
}

func TestQueuedMailsAndDigestsSurviveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		n := newNoticesTest(t, dir)
		m := startMailServer(t, func(m *mailServer) { m.down = true })
		n.workspace("acme", "en", "ops@acme.example")
		notices, stop := n.start(m.config(mailURL))
		notices.Warning("acme", "ep_1", 50, 15, 30)
		notices.Dropped("acme", "ep_1", "event-1", "message.received", "timeout")
		pass(time.Second)
		notices.Warning("acme", "ep_1", 80, 24, 30)
		notices.Dropped("acme", "ep_1", "event-2", "message.received", "timeout")
		stop() // at once: what is in memory must be stored
		n.shutdown()

		n = newNoticesTest(t, dir)
		m.set(func(m *mailServer) { m.down = false })
		_, stop = n.start(m.config(mailURL))
		pass(2 * time.Minute)
		stop()
		var subjects []string
		for _, r := range m.received() {
			subjects = append(subjects, readReceived(t, r).subject)
		}
		want := []string{
			"[acme] Webhook failures at 50% of the limit (15 of 30)",
			"[acme] Webhook failures at 80% of the limit (24 of 30)",
			"[acme] 2 webhook events were dropped",
		}
		if !slices.Equal(subjects, want) {
			t.Errorf("got %q, want %q", subjects, want)
		}
		n.shutdown()

		n = newNoticesTest(t, dir)
		notices, stop = n.start(m.config(mailURL))
		notices.Dropped("acme", "ep_1", "event-3", "message.received", "timeout")
		pass(30 * time.Minute)
		if got := len(m.received()); got != 3 {
			t.Errorf("%d mails within the hour after a digest, want the 3 of before", got)
		}
		pass(31 * time.Minute)
		stop()
		if got := m.received(); len(got) != 4 || readReceived(t, got[3]).subject != "[acme] 1 webhook event was dropped" {
			t.Errorf("%d mails after the hour, want 4", len(got))
		}
	})
}

func TestDigestsOfAWorkspaceComeAtMostOnceAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, m := newNoticesTest(t, t.TempDir()), startMailServer(t)
		n.workspace("acme", "en", "ops@acme.example")
		n.workspace("other", "en", "ops@other.example")
		notices, stop := n.start(m.config(mailURL))
		start := time.Now()
		for i := range 5 * 60 { // one a minute, for five hours
			notices.Dropped("acme", fmt.Sprintf("ep_%d", i%30), fmt.Sprintf("event-%d", i), "message.received", "timeout")
			if i == 90 {
				notices.Dropped("other", "ep_1", "event", "message.received", "timeout")
			}
			pass(time.Minute)
		}
		stop()
		total, last, others := 0, time.Time{}, 0
		for _, r := range m.received() {
			if r.to == "ops@other.example" {
				others++
				if at := r.at.Sub(start); at != 91*time.Minute {
					t.Errorf("the other workspace's digest came after %v", at)
				}
				continue
			}
			if !last.IsZero() && r.at.Sub(last) < time.Hour {
				t.Errorf("a digest came %v after the one before", r.at.Sub(last))
			}
			last = r.at
			var count int
			if _, err := fmt.Sscanf(readReceived(t, r).subject, "[acme] %d webhook", &count); err != nil {
				t.Error(err)
			}
			total += count
		}
		if len(m.received()) != 6 || others != 1 || total < 240 {
			t.Errorf("%d digests (%d of the other), of %d events", len(m.received()), others, total)
		}
	})
}

func TestWithoutAMailServerOrAnAddressNoMailIsQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, m := newNoticesTest(t, t.TempDir()), startMailServer(t)
		n.workspace("acme", "en")
		n.workspace("other", "en", "ops@other.example")
		for _, c := range []struct {
			mail      *MailConfig
			workspace string
		}{{nil, "other"}, {m.config(mailURL), "acme"}, {m.config(mailURL), "nobody"}} {
			notices, stop := n.start(c.mail)
			notices.Warning(c.workspace, "ep_1", 50, 15, 30)
			notices.Dropped(c.workspace, "ep_1", "event", "message.received", "timeout")
			pass(2 * time.Minute)
			stop()
		}
		stream, err := n.js.Stream(t.Context(), staffetta.NoticeStream)
		if err != nil || stream.CachedInfo().State.Msgs != 0 || len(m.received()) != 0 {
			t.Errorf("%v, %d mails", err, len(m.received()))
		}
	})
}

func TestACallerNeverWaitsAndWhatFindsNoRoomIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNoticesTest(t, t.TempDir())
		notices, err := NewNotices(NoticesConfig{JetStream: n.js, Buffer: 10})
		if err != nil {
			t.Fatal(err)
		}
		if err := notices.Run(t.Context()); err == nil {
			t.Error("notices run without a relay")
		}
		for range 15 { // nothing takes them out
			notices.Dropped("acme", "ep_1", "event", "message.received", "timeout")
		}
		if s := notices.Stats(); s.Lost != 5 {
			t.Errorf("got %+v, want 5 lost", s)
		}
	})
}
