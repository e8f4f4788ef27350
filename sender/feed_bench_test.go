package sender

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

// counter takes everything.
type counter struct {
	left atomic.Int64
	done chan struct{}
}

func (c *counter) HandOver(_ context.Context, entries []*Entry, _ int) Handed {
	if c.left.Add(int64(-len(entries))) == 0 {
		close(c.done)
	}
	return Handed{Accepted: len(entries), Outcome: staffetta.Outcome{Status: 200}}
}

func (c *counter) Drop(context.Context, *Entry, int, staffetta.Outcome) error { return nil }

// BenchmarkFeed hands over blocks of 64 events of 1 KiB and 1000 keys, which are stored before; an
// operation is an event.
func BenchmarkFeed(b *testing.B) {
	keys := strings.Fields(strings.Repeat("contact ", 1000))
	for i := range keys {
		keys[i] += fmt.Sprint(i)
	}
	split := func(block []byte, dst []Entry) ([]Entry, error) {
		for ; len(block) > 0; block = block[1024:] {
			e := Entry{Key: keys[binary.LittleEndian.Uint32(block)], Data: block[:1024]}
			e.Event = staffetta.Event{ID: "id", Type: "message.sent", Payload: block[:1024]}
			dst = append(dst, e)
		}
		return dst, nil
	}
	for _, order := range []Order{OrderKey, OrderNone, OrderStrict} {
		for _, batch := range []int{1, 100} {
			b.Run(fmt.Sprintf("%s/batch=%d", order, batch), func(b *testing.B) {
				js := embedtest.JetStream(b, embedtest.Start(b, b.TempDir(), 1))
				_, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "JOURNAL", Subjects: []string{"journal.*"}, AllowDirect: true})
				if err != nil {
					b.Fatal(err)
				}
				c := &counter{done: make(chan struct{})}
				c.left.Store(int64(b.N))
				feed, err := NewFeed(FeedConfig{
					Name: "bench", JetStream: js, Stream: "JOURNAL", Subject: "journal.a", Split: split, Target: c, Order: order, Batch: batch,
				})
				if err == nil {
					err = feed.Load(b.Context())
				}
				if err != nil {
					b.Fatal(err)
				}
				block := make([]byte, 64<<10)
				for n := 0; n < b.N; n += 64 {
					count := min(64, b.N-n)
					for i := range count {
						binary.LittleEndian.PutUint32(block[1024*i:], uint32((n+i)*7%len(keys)))
					}
					if _, err := js.PublishAsync("journal.a", block[:1024*count]); err != nil {
						b.Fatal(err)
					}
				}
				<-js.PublishAsyncComplete()
				ctx, stop := context.WithCancel(b.Context())
				ended := make(chan error, 1)
				b.ReportAllocs()
				b.ResetTimer()
				go func() { ended <- feed.Run(ctx) }()
				<-c.done
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
				stop()
				if err := <-ended; err != nil {
					b.Error(err)
				}
			})
		}
	}
}
