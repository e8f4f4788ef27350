package embed_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

func journal(c *embed.Config) { c.Layout = embed.Layout{Journal: true, JournalBytes: 1 << 20} }

func TestAReceiversFolderHasAJournalAndNoneOfTheRelaysStreams(t *testing.T) {
	js := embedtest.JetStream(t, embedtest.Start(t, t.TempDir(), 0, journal))
	var names []string
	for name := range js.StreamNames(t.Context()).Name() {
		names = append(names, name)
	}
	slices.Sort(names)
	if want := []string{"ATTEMPTS", "CURSORS", "DEAD_LETTERS", "IDEMPOTENCY", "JOURNAL"}; !slices.Equal(names, want) {
		t.Errorf("streams are %v, want %v", names, want)
	}
}

func TestAFullJournalRefusesWhatComesAndKeepsWhatItHas(t *testing.T) {
	js := embedtest.JetStream(t, embedtest.Start(t, t.TempDir(), 0, journal))
	block := make([]byte, 100<<10)
	stored := 0
	var err error
	for ; err == nil && stored < 100; stored++ {
		_, err = js.PublishMsg(t.Context(), &nats.Msg{Subject: staffetta.JournalSubject("s"), Data: block})
	}
	var refused *jetstream.APIError
	if !errors.As(err, &refused) || stored-1 < 8 || stored-1 > 10 {
		t.Fatalf("after %d blocks of 100 KiB in 1 MiB: %v", stored-1, err)
	}
	stream, err := js.Stream(t.Context(), staffetta.JournalStream)
	if err != nil || stream.CachedInfo().State.Msgs != uint64(stored-1) {
		t.Errorf("%+v (%v)", stream.CachedInfo().State, err)
	}
}

func TestARelayAndAReceiverDoNotShareAFolder(t *testing.T) {
	for _, first := range []embed.Layout{{Shards: 1}, {Journal: true}} {
		dir := t.TempDir()
		s, err := embed.Start(t.Context(), embed.Config{Dir: dir, Layout: first})
		if err != nil {
			t.Fatal(err)
		}
		s.Shutdown()
		_, err = embed.Start(t.Context(), embed.Config{Dir: dir, Layout: embed.Layout{Journal: !first.Journal, Shards: 1}})
		if !errors.Is(err, embed.ErrLayout) || !strings.Contains(fmt.Sprint(err), "choose another") {
			t.Errorf("the other program on a folder of %+v: %v", first, err)
		}
	}
}
