package sender

import (
	"bytes"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
)

func (b *bench) stored(key string) jetstream.StreamState {
	b.t.Helper()
	stream, err := b.js.Stream(b.t.Context(), staffetta.EventStream(staffetta.Shard(key, 2)))
	if err != nil {
		b.t.Fatal(err)
	}
	return stream.CachedInfo().State
}

// neighbour gives a second lane of the same shard as key.
func neighbour(key string) string {
	for i := 0; ; i++ {
		if other := "other" + strconv.Itoa(i); staffetta.Shard(other, 2) == staffetta.Shard(key, 2) {
			return other
		}
	}
}

func TestSettledEventsArePurgedOnceTheyAreOldEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir())
		b.d.Set("a", newRecorder(always(200)), Open)
		b.run()
		b.send("a", numbered(1, 100)...)
		pass(time.Minute)
		if n := b.stored("a").Msgs; n != 100 {
			t.Errorf("%d events are stored after a minute, want all 100: repeats must be recognised", n)
		}
		pass(3 * time.Minute)
		if n := b.stored("a").Msgs; n != 0 {
			t.Errorf("%d settled events are still stored", n)
		}
		b.end()
	})
}

func TestAWaitingEventIsNeverPurged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir(), func(c *Config) { c.Keep = time.Second })
		held, other := newRecorder(always(200)), neighbour("a")
		b.d.Set("a", held, Held)
		b.d.Set(other, newRecorder(always(200)), Open)
		b.run()
		b.send("a", "1", "2")
		// Much more than purgeBytes around the held events, and more than pinnedBytes in all.
		load := bytes.Repeat([]byte{'x'}, 1<<20)
		for i := range 300 {
			b.d.Stored(staffetta.Shard(other, 2), other, b.store(other, strconv.Itoa(i), load), len(load))
		}
		b.send("a", "3")
		pass(10 * time.Minute)
		if n := b.stored("a").Bytes; n > 64<<20 {
			t.Errorf("%d bytes are stored, though all but three small events are settled", n)
		}
		b.d.Set("a", held, Open)
		pass(time.Second)
		if got := held.ids(); len(got) != 3 || got[0] != "1" || got[2] != "3" {
			t.Errorf("delivered %v, want 1 2 3", got)
		}
		b.end()
	})
}
