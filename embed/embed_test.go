package embed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

func publish(t *testing.T, js jetstream.JetStream, subject string, n int) {
	t.Helper()
	for i := range n {
		if _, err := js.Publish(t.Context(), subject, fmt.Appendf(nil, "message-%03d", i)); err != nil {
			t.Fatal(err)
		}
	}
}

func state(t *testing.T, js jetstream.JetStream, stream string) jetstream.StreamState {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State
}

// cursor reads what is left on a subject the way the senders do.
func cursor(t *testing.T, js jetstream.JetStream, stream, subject string, from uint64) []string {
	t.Helper()
	c, err := js.CreateConsumer(t.Context(), stream, jetstream.ConsumerConfig{
		FilterSubject: subject,
		MemoryStorage: true,
		AckPolicy:     jetstream.AckNonePolicy,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   from,
	})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := c.FetchNoWait(1000)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for m := range batch.Messages() {
		got = append(got, string(m.Data()))
	}
	return got
}

func TestAServerRestartsOnItsFolderInsideABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := embedtest.Start(t, dir, 4)
		js := embedtest.JetStream(t, s)
		publish(t, js, "events.1.a", 3)
		if got := cursor(t, js, "EVENTS_1", "events.1.a", 1); len(got) != 3 {
			t.Fatalf("before the restart: %q", got)
		}
		kv, err := js.KeyValue(t.Context(), staffetta.RegistryBucket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kv.PutString(t.Context(), "workspace", "w"); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour)
		s.Shutdown()

		js = embedtest.JetStream(t, embedtest.Start(t, dir, 4))
		if got := cursor(t, js, "EVENTS_1", "events.1.a", 2); len(got) != 2 || got[0] != "message-001" {
			t.Errorf("after the restart, from the second: %q", got)
		}
		kv, err = js.KeyValue(t.Context(), staffetta.RegistryBucket)
		if err != nil {
			t.Fatal(err)
		}
		watch, err := kv.WatchAll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if entry := <-watch.Updates(); string(entry.Value()) != "w" {
			t.Errorf("registry has %q", entry.Value())
		}
		// What a test leaves open ends with it: no goroutine may outlive the bubble.
		if _, err := js.CreateConsumer(t.Context(), "EVENTS_2", jetstream.ConsumerConfig{MemoryStorage: true}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAStreamTakesMoreThanAThousandMemoryConsumers(t *testing.T) {
	s := embedtest.Start(t, t.TempDir(), 1)
	js := embedtest.JetStream(t, s)
	for i := range 1100 {
		_, err := js.CreateConsumer(t.Context(), "EVENTS_0", jetstream.ConsumerConfig{
			Name:          fmt.Sprintf("e%d", i),
			FilterSubject: staffetta.EventSubject(0, fmt.Sprintf("e%d", i)),
			MemoryStorage: true,
			AckPolicy:     jetstream.AckNonePolicy,
		})
		if err != nil {
			t.Fatalf("consumer %d: %v", i, err)
		}
	}
	usage, err := s.Usage()
	if err != nil || usage.Consumers != 1100 {
		t.Errorf("usage %+v, %v; want 1100 consumers", usage, err)
	}
}

func TestABatchOf16MiBOfSmallEventsGoesToOneStreamAtOnce(t *testing.T) {
	js := embedtest.JetStream(t, embedtest.Start(t, t.TempDir(), 1))
	nc := js.Conn()
	const events = 80_000
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	payload := bytes.Repeat([]byte("x"), 16<<20/events)
	for range events {
		if err := nc.PublishRequest("events.0.a", inbox, payload); err != nil {
			t.Fatal(err)
		}
	}
	for i := range events {
		ack, err := sub.NextMsg(30 * time.Second)
		if err != nil {
			t.Fatalf("after %d answers: %v", i, err)
		}
		if bytes.Contains(ack.Data, []byte(`"error"`)) {
			t.Fatalf("event refused: %s", ack.Data)
		}
	}
}

func TestAFullStoreRefusesAndRecoversWhenPurged(t *testing.T) {
	s := embedtest.Start(t, t.TempDir(), 1, func(c *embed.Config) { c.MaxStore = 64 << 20 })
	js := embedtest.JetStream(t, s)
	payload := make([]byte, 1<<20)
	var err error
	for range 100 {
		if _, err = js.Publish(t.Context(), "events.0.a", payload); err != nil {
			break
		}
	}
	var refused *jetstream.APIError
	if !errors.As(err, &refused) || refused.Code != 503 {
		t.Fatalf("publish into a full store: %v, want 503", err)
	}
	usage, err := s.Usage()
	if err != nil || usage.StoreLimit != 64<<20 || usage.StoreBytes < usage.StoreLimit || usage.FreeDisk <= 0 {
		t.Errorf("usage of a full store: %+v, %v", usage, err)
	}
	stream, err := js.Stream(t.Context(), "EVENTS_0")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "events.0.a", payload); err != nil {
		t.Errorf("publish after the purge: %v", err)
	}
}

func TestHealthTellsOfAStoppedServer(t *testing.T) {
	s := embedtest.Start(t, t.TempDir(), 1)
	if err := s.Health(); err != nil {
		t.Errorf("running server: %v", err)
	}
	s.Shutdown()
	s.Shutdown()
	if s.Health() == nil {
		t.Error("a stopped server calls itself healthy")
	}
	if _, err := s.Usage(); err == nil {
		t.Error("a stopped server measures its store")
	}
	if _, err := s.Connect("late"); err == nil {
		t.Error("a stopped server takes a connection")
	}
}

func TestAClientPortNeedsTheToken(t *testing.T) {
	s := embedtest.Start(t, t.TempDir(), 1, func(c *embed.Config) { c.Listen, c.Token = "127.0.0.1:0", "secret" })
	embedtest.JetStream(t, s)
	if nc, err := nats.Connect(s.ClientURL()); err == nil {
		nc.Close()
		t.Error("a client without the token got in")
	}
	nc, err := nats.Connect(s.ClientURL(), nats.Token("secret"))
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()

	if _, err := embed.Start(t.Context(), embed.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}); err == nil {
		t.Error("a client port without a token was opened")
	}
	if url := embedtest.Start(t, t.TempDir(), 1).ClientURL(); url != "" {
		t.Errorf("a server without a port has the URL %q", url)
	}
}

func TestAPortThatIsTakenIsSaid(t *testing.T) {
	first := embedtest.Start(t, t.TempDir(), 1, func(c *embed.Config) { c.Listen, c.Token = "127.0.0.1:0", "secret" })
	address := strings.TrimPrefix(first.ClientURL(), "nats://")
	_, err := embed.Start(t.Context(), embed.Config{Dir: t.TempDir(), Listen: address, Token: "secret"})
	if err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("start on a taken port: %v", err)
	}
}

func TestAStartThatIsCalledOffGivesTheFolderBack(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := embed.Start(ctx, embed.Config{Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("start with a cancelled context: %v", err)
	}
	embedtest.Start(t, dir, 64)
}

func TestAQuietStartAndStopLogsNothing(t *testing.T) {
	dir, log := t.TempDir(), new(bytes.Buffer)
	for range 2 {
		s := embedtest.Start(t, dir, 2, func(c *embed.Config) { c.Log = zerolog.New(log) })
		publish(t, embedtest.JetStream(t, s), "events.1.a", 10)
		s.Shutdown()
	}
	if log.Len() > 0 {
		t.Errorf("logged:\n%s", log)
	}
}

func TestAFolderIsForItsOwnerAlone(t *testing.T) {
	dir := t.TempDir() + "/data"
	embedtest.Start(t, dir, 1)
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data folder has mode %v, %v; want 0700", info.Mode(), err)
	}
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		s, err := embed.Start(b.Context(), embed.Config{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		s.Shutdown()
	}
}

func BenchmarkRestart(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		s, err := embed.Start(b.Context(), embed.Config{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		s.Shutdown()
	}
}

func TestAKillWhileTheServerTriesTheFolderDoesNoHarm(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/jetstream", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/jetstream/_test_1234", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := embedtest.Start(t, dir, 1).Health(); err != nil {
		t.Error(err)
	}
}
