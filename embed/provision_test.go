package embed_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

func TestEveryStreamIsMadeAsTheDesignSays(t *testing.T) {
	js := embedtest.JetStream(t, embedtest.Start(t, t.TempDir(), 3))
	type want struct {
		subject   string
		discard   jetstream.DiscardPolicy
		perKey    int64
		age       time.Duration
		bytes     int64
		consumers int
	}
	forever, unlimited := time.Duration(0), int64(-1)
	wants := map[string]want{
		"EVENTS_0":     {"events.0.*", jetstream.DiscardNew, unlimited, forever, unlimited, 1_000_000},
		"EVENTS_1":     {"events.1.*", jetstream.DiscardNew, unlimited, forever, unlimited, 1_000_000},
		"EVENTS_2":     {"events.2.*", jetstream.DiscardNew, unlimited, forever, unlimited, 1_000_000},
		"CURSORS":      {"cursors.*", jetstream.DiscardOld, 1, forever, unlimited, -1},
		"ATTEMPTS":     {"attempts", jetstream.DiscardOld, unlimited, 72 * time.Hour, 2 << 30, -1},
		"DEAD_LETTERS": {"dead.*.*", jetstream.DiscardOld, unlimited, 30 * 24 * time.Hour, 4 << 30, -1},
		"IDEMPOTENCY":  {"idempotency", jetstream.DiscardOld, unlimited, 24 * time.Hour, unlimited, -1},
		"NOTICES":      {"notices.>", jetstream.DiscardNew, 1, 7 * 24 * time.Hour, unlimited, -1},
		"REPLAYS":      {"replays.>", jetstream.DiscardOld, 1, 30 * 24 * time.Hour, unlimited, -1},
		"KV_REGISTRY":  {"$KV.REGISTRY.>", jetstream.DiscardNew, 1, forever, unlimited, -1},
	}
	seen := 0
	list := js.ListStreams(t.Context())
	for info := range list.Info() {
		seen++
		c := info.Config
		got := want{c.Subjects[0], c.Discard, c.MaxMsgsPerSubject, c.MaxAge, c.MaxBytes, c.MaxConsumers}
		if got != wants[c.Name] || len(c.Subjects) != 1 {
			t.Errorf("%s is %+v, want %+v", c.Name, got, wants[c.Name])
		}
		if c.Retention != jetstream.LimitsPolicy || c.Storage != jetstream.FileStorage || c.Replicas != 1 ||
			!c.AllowDirect || c.Duplicates != 2*time.Minute {
			t.Errorf("%s: %+v", c.Name, c)
		}
	}
	if err := list.Err(); err != nil || seen != len(wants) {
		t.Errorf("%d streams, %v; want %d", seen, err, len(wants))
	}
}

func TestProvisioningAgainWritesNothing(t *testing.T) {
	dir := t.TempDir()
	s := embedtest.Start(t, dir, 3)
	written := func() []time.Time {
		var times []time.Time
		metas, err := filepath.Glob(filepath.Join(dir, "jetstream", "$G", "streams", "*", "meta.inf"))
		if err != nil || len(metas) != 10 {
			t.Fatalf("%d streams on disk, %v", len(metas), err)
		}
		for _, path := range append(metas, filepath.Join(dir, "staffetta.json")) {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			times = append(times, info.ModTime())
		}
		return times
	}
	before := written()
	if err := embed.Provision(t.Context(), embedtest.JetStream(t, s), embed.Layout{Shards: 3}); err != nil {
		t.Fatal(err)
	}
	s.Shutdown()
	embedtest.Start(t, dir, 3)
	if after := written(); !slices.Equal(before, after) {
		t.Errorf("streams were updated without a change:\n%v\n%v", before, after)
	}
}

func TestAChangedBoundIsUpdatedAndKeepsTheMessages(t *testing.T) {
	dir := t.TempDir()
	s := embedtest.Start(t, dir, 1)
	publish(t, embedtest.JetStream(t, s), "dead.w.e", 3)
	s.Shutdown()

	js := embedtest.JetStream(t, embedtest.Start(t, dir, 1, func(c *embed.Config) {
		c.Layout.DeadLetterAge, c.Layout.DeadLetterBytes = time.Hour, 1<<20
	}))
	stream, err := js.Stream(t.Context(), "DEAD_LETTERS")
	if err != nil {
		t.Fatal(err)
	}
	info := stream.CachedInfo()
	if info.Config.MaxAge != time.Hour || info.Config.MaxBytes != 1<<20 || info.State.Msgs != 3 {
		t.Errorf("dead letters: age %v, bytes %d, %d messages", info.Config.MaxAge, info.Config.MaxBytes, info.State.Msgs)
	}
}

func TestShardsAreFixedAtTheFirstStart(t *testing.T) {
	dir := t.TempDir()
	s := embedtest.Start(t, dir, 3)
	js := embedtest.JetStream(t, s)
	if err := embed.Provision(t.Context(), js, embed.Layout{Shards: 4}); !errors.Is(err, embed.ErrLayout) {
		t.Errorf("provision with other shards: %v", err)
	}
	s.Shutdown()

	_, err := embed.Start(t.Context(), embed.Config{Dir: dir, Layout: embed.Layout{Shards: 4}})
	if !errors.Is(err, embed.ErrLayout) || !strings.Contains(err.Error(), "--shards 3") {
		t.Errorf("start with other shards: %v", err)
	}
	// The streams know it as well, should the file be gone.
	if err := os.Remove(filepath.Join(dir, "staffetta.json")); err != nil {
		t.Fatal(err)
	}
	_, err = embed.Start(t.Context(), embed.Config{Dir: dir, Layout: embed.Layout{Shards: 4}})
	if !errors.Is(err, embed.ErrLayout) || !strings.Contains(err.Error(), "--shards 3") {
		t.Errorf("start with other shards and without the file: %v", err)
	}
	embedtest.Start(t, dir, 3)
}

func TestALayoutOutOfRangeIsRefused(t *testing.T) {
	for name, layout := range map[string]embed.Layout{
		"shards":             {Shards: 1025},
		"replicas":           {Replicas: 2},
		"duplicate window":   {DuplicateWindow: time.Millisecond},
		"dead letter age":    {DeadLetterAge: -1},
		"idempotency age":    {IdempotencyAge: time.Millisecond},
		"dead letter bytes:": {DeadLetterBytes: 1},
		"dead letter bytes":  {DeadLetterBytes: 1 << 50},
	} {
		_, err := embed.Start(t.Context(), embed.Config{Dir: t.TempDir(), Layout: layout})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
