package receiver

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
	"github.com/staffetta-relay/staffetta/sender"
)

const natsToken = "hunter2"

// natsServer starts a server with a client port, and gives the URL for a target.
func natsServer(t testing.TB, dir, listen string) (jetstream.JetStream, *embed.Server, string) {
	t.Helper()
	s := embedtest.Start(t, dir, 1, func(c *embed.Config) { c.Listen, c.Token = listen, natsToken })
	return embedtest.JetStream(t, s), s, strings.Replace(s.ClientURL(), "://", "://"+natsToken+"@", 1)
}

func createStream(t testing.TB, js jetstream.JetStream, change ...func(*jetstream.StreamConfig)) jetstream.Stream {
	t.Helper()
	cfg := jetstream.StreamConfig{Name: "CRM", Subjects: []string{"crm.>"}}
	for _, f := range change {
		f(&cfg)
	}
	s, err := js.CreateOrUpdateStream(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func messages(t testing.TB, s jetstream.Stream) uint64 {
	t.Helper()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Msgs
}

func TestAStreamGetsTheBodyAndTheEventsIDOnce(t *testing.T) {
	js, _, url := natsServer(t, t.TempDir(), "127.0.0.1:0")
	stream := createStream(t, js)
	h := opened(t, NATSTarget{URL: url, Subject: "crm.events"})
	entries := append(entriesOf("a", 500), entryOf("binary", "\xff\x00", func(r *Request) { r.Replay = true }))
	for range 2 {
		expect(t, h.handOver(t.Context(), entries, 1), 501, staffetta.ErrorNone, false, "")
	}
	if n := messages(t, stream); n != 501 {
		t.Fatalf("%d messages; want 501", n)
	}
	for i, e := range entries {
		msg, err := stream.GetMsg(t.Context(), uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		if msg.Subject != "crm.events" || string(msg.Data) != string(e.Event.Payload) || msg.Header.Get("Event-Id") != e.Event.ID {
			t.Fatalf("message %d: %+v", i, msg)
		}
	}
	last, err := stream.GetMsg(t.Context(), 501)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Nats-Msg-Id": "binary/0", "Event-Type": "message.received", "Content-Type": "application/json", "Event-Replay": "true",
	} {
		if got := last.Header.Get(name); got != want {
			t.Errorf("%s: %q; want %q", name, got, want)
		}
	}
}

func TestASubjectWithoutAStreamIsToldAndTriedAgain(t *testing.T) {
	js, _, url := natsServer(t, t.TempDir(), "127.0.0.1:0")
	h := opened(t, NATSTarget{URL: url, Subject: "crm.events"})
	handed := h.handOver(t.Context(), entriesOf("a", 3), 1)
	expect(t, handed, 0, staffetta.ErrorTarget, false, "no stream listens on subject crm.events; create one: nats stream add")
	createStream(t, js)
	expect(t, h.handOver(t.Context(), entriesOf("a", 3), 1), 3, staffetta.ErrorNone, false, "")
}

func TestAMessageThatAStreamNeverTakesGoesToTheDeadLetters(t *testing.T) {
	js, _, url := natsServer(t, t.TempDir(), "127.0.0.1:0")
	createStream(t, js, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 })
	h := opened(t, NATSTarget{URL: url, Subject: "crm.events"})
	entries := append(entriesOf("a", 2), entryOf("large", `"`+strings.Repeat("x", 2000)+`"`), entryOf("after", "{}"))
	expect(t, h.handOver(t.Context(), entries, 1), 2, staffetta.ErrorTarget, true, "message size exceeds maximum")
	expect(t, h.handOver(t.Context(), entries[3:], 1), 1, staffetta.ErrorNone, false, "")

	huge := []*sender.Entry{entryOf("b", "{}"), entryOf("huge", strings.Repeat("x", 3<<20))}
	expect(t, h.handOver(t.Context(), huge, 1), 1, staffetta.ErrorTarget, true, "larger than the server's max_payload")
}

func TestAFullStreamIsTriedAgain(t *testing.T) {
	js, _, url := natsServer(t, t.TempDir(), "127.0.0.1:0")
	createStream(t, js, func(c *jetstream.StreamConfig) { c.MaxMsgs, c.Discard = 2, jetstream.DiscardNew })
	h := opened(t, NATSTarget{URL: url, Subject: "crm.events"})
	expect(t, h.handOver(t.Context(), entriesOf("a", 5), 1), 2, staffetta.ErrorTarget, false, "maximum messages exceeded")
}

func TestATargetFindsAServerThatCameBack(t *testing.T) {
	dir := t.TempDir()
	js, server, url := natsServer(t, dir, "127.0.0.1:0")
	listen := server.ClientURL()[len("nats://"):]
	createStream(t, js)
	h := opened(t, NATSTarget{URL: url, Subject: "crm.events", Timeout: 5 * time.Second})
	expect(t, h.handOver(t.Context(), entriesOf("a", 1), 1), 1, staffetta.ErrorNone, false, "")
	server.Shutdown()
	handed := h.handOver(t.Context(), entriesOf("b", 1), 1)
	expect(t, handed, 0, staffetta.ErrorReset, false, "the connection to the server is lost")
	if strings.Contains(handed.Outcome.Detail, natsToken) {
		t.Errorf("a detail tells the token: %s", handed.Outcome.Detail)
	}
	js, _, _ = natsServer(t, dir, listen)
	deadline := time.Now().Add(20 * time.Second)
	for {
		handed := h.handOver(t.Context(), entriesOf("b", 1), 1)
		if handed.Accepted == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not back: %+v", handed)
		}
		<-time.After(50 * time.Millisecond)
	}
	stream, err := js.Stream(t.Context(), "CRM")
	if err != nil {
		t.Fatal(err)
	}
	if n := messages(t, stream); n != 2 {
		t.Errorf("%d messages; want 2", n)
	}
}

func TestAServerThatIsNotThereOrRefusesIsTold(t *testing.T) {
	_, _, url := natsServer(t, t.TempDir(), "127.0.0.1:0")
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	credentials := filepath.Join(t.TempDir(), "bad.creds")
	if err := os.WriteFile(credentials, []byte("no credentials\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		url    string
		creds  string
		kind   staffetta.ErrorKind
		detail string
	}{
		{"nats://" + natsToken + "@" + closed.Addr().String(), "", staffetta.ErrorRefused, ""},
		{"nats://" + natsToken + "@" + silent.Addr().String(), "", staffetta.ErrorTimeout, ""},
		{"nats://" + natsToken + "@nowhere.invalid:4222", "", staffetta.ErrorDNS, ""},
		{strings.Replace(url, natsToken, "wrong-token", 1), "", staffetta.ErrorTarget, "refuses the credentials"},
		{url, credentials, staffetta.ErrorTarget, "the credentials file cannot be used"},
	} {
		h := opened(t, NATSTarget{URL: c.url, Subject: "crm.events", Credentials: c.creds, Timeout: 500 * time.Millisecond})
		handed := h.handOver(t.Context(), entriesOf("a", 1), 1)
		if strings.Contains(handed.Outcome.Detail, "token") || strings.Contains(handed.Outcome.Detail, natsToken) {
			t.Errorf("a detail tells the token: %s", handed.Outcome.Detail)
		}
		if handed.Accepted != 0 || handed.Permanent || handed.Outcome.Error != c.kind || !strings.Contains(handed.Outcome.Detail, c.detail) {
			t.Errorf("%+v; want %v: %s", handed.Outcome, c.kind, c.detail)
		}
	}
}

func TestManyWritersShareOneConnectionToTheStream(t *testing.T) {
	js, _, url := natsServer(t, t.TempDir(), "127.0.0.1:0")
	stream := createStream(t, js)
	h := opened(t, NATSTarget{URL: url, Subject: "crm.events"})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			if handed := h.handOver(context.Background(), entriesOf(fmt.Sprint("w", w), 50), 1); handed.Accepted != 50 {
				t.Errorf("%+v", handed)
			}
		})
	}
	wg.Wait()
	if n := messages(t, stream); n != 400 {
		t.Errorf("%d messages; want 400", n)
	}
}

func BenchmarkNATS(b *testing.B) {
	js, _, url := natsServer(b, b.TempDir(), "127.0.0.1:0")
	createStream(b, js)
	h := opened(b, NATSTarget{URL: url, Subject: "crm.events"})
	n := 0
	for b.Loop() {
		n++
		if handed := h.handOver(b.Context(), entriesOf(fmt.Sprint(n), 500), 1); handed.Accepted != 500 {
			b.Fatalf("%+v", handed)
		}
	}
	b.ReportMetric(float64(b.N*500)/b.Elapsed().Seconds(), "events/s")
}
