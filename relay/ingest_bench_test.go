package relay

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

// newTestIngest is the intake on a real store, with n endpoints in the workspace acme; opts are of the
// connections that it publishes over.
func newTestIngest(tb testing.TB, n int, opts ...nats.Option) *ingest {
	tb.Helper()
	srv := embedtest.Start(tb, tb.TempDir(), 4, func(c *embed.Config) { c.Log = zerolog.Nop() })
	js := embedtest.JetStream(tb, srv)
	var conns []*nats.Conn
	for range 2 {
		conn, err := srv.Connect("intake", append(opts, nats.ReconnectBufSize(-1))...)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(conn.Close)
		conns = append(conns, conn)
	}
	bucket, err := js.KeyValue(tb.Context(), staffetta.RegistryBucket)
	if err != nil {
		tb.Fatal(err)
	}
	sealer, err := NewSealer(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		tb.Fatal(err)
	}
	registry, err := OpenRegistry(tb.Context(), RegistryConfig{Bucket: bucket, Sealer: sealer, AdminKey: "an-admin-key-for-the-tests", Shards: 4})
	if err != nil {
		tb.Fatal(err)
	}
	_, _, err = registry.PutWorkspace(tb.Context(), "acme", func(w *staffetta.Workspace) error {
		w.Plan = staffetta.PlanAdvanced
		w.SetDefaults()
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	for i := range n {
		e := staffetta.Endpoint{
			Workspace: "acme", URL: "https://example.com/" + strconv.Itoa(i), EventTypes: []string{"message.received"},
			Keys: staffetta.SigningKeys{Current: staffetta.NewSigningKey()},
		}
		e.SetDefaults()
		if _, err := registry.CreateEndpoint(tb.Context(), e); err != nil {
			tb.Fatal(err)
		}
	}
	p := startPublisher(tb, publisherConfig{conns: conns, js: js, shards: 4})
	return &ingest{
		registry: registry, publisher: p, idempotency: newIdempotency(js, js.Conn(), 1_000_000, zerolog.Nop()),
		catalogue: staffetta.DefaultCatalogue(), accepting: func() error { return nil },
	}
}

// numberedEvent is a sample of about 1 KiB with an id of its own.
func numberedEvent(tb testing.TB, dst []byte, n int) []byte {
	tb.Helper()
	p, err := staffetta.Canonicalize(staffetta.Sample("message.received"))
	if err != nil {
		tb.Fatal(err)
	}
	return append(dst, bytes.Replace(p.Body, p.EventID, fmt.Appendf(nil, "%036d", n), 1)...)
}

// BenchmarkStoreOneEvent is the limit that the intake is measured against: the same body stored by a
// plain request over one connection, with nothing around it.
func BenchmarkStoreOneEvent(b *testing.B) {
	in := newTestIngest(b, 1)
	body := numberedEvent(b, nil, 1)
	routes, _ := in.registry.Routes("acme", []byte("message.received"))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := in.publisher.cfg.conns[0].RequestWithContext(b.Context(), routes[0].Subject, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIngestOneEvent(b *testing.B) {
	in := newTestIngest(b, 1)
	bodies := make([][]byte, b.N)
	for i := range bodies {
		bodies[i] = numberedEvent(b, nil, i)
	}
	b.SetBytes(int64(len(bodies[0])))
	b.ReportAllocs()
	b.ResetTimer()
	for _, body := range bodies {
		if _, err := in.one(b.Context(), "acme", body, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIngestBatchOf100(b *testing.B) {
	in := newTestIngest(b, 1)
	bodies := make([][]byte, b.N)
	for i := range bodies {
		for k := range 100 {
			bodies[i] = append(numberedEvent(b, bodies[i], 100*i+k), '\n')
		}
	}
	b.SetBytes(int64(len(bodies[0])))
	b.ReportAllocs()
	b.ResetTimer()
	for _, body := range bodies {
		if _, err := in.batch(b.Context(), "acme", body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPrepareEvent(b *testing.B) {
	in := newTestIngest(b, 10)
	body := numberedEvent(b, nil, 1)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := in.prepare("acme", body, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// The bounds are what was measured, with a little room for the server's own goroutines, which count
// too. Raise one only with a reason.
func TestTheIntakeAllocatesNoMoreThanItDid(t *testing.T) {
	in := newTestIngest(t, 1)
	body := numberedEvent(t, nil, 1)
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := in.prepare("acme", body, nil); err != nil {
			t.Fatal(err)
		}
	}); n > 2 { // the event's id and its type
		t.Errorf("preparing an event allocates %v times", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n, next := 0, body
	if allocs := testing.AllocsPerRun(1000, func() {
		n++
		next = numberedEvent(t, next[:0], 1)
		next = bytes.Replace(next, fmt.Appendf(nil, "%036d", 1), fmt.Appendf(nil, "%036d", n), 1)
		if _, err := in.one(ctx, "acme", next, nil); err != nil {
			t.Fatal(err)
		}
	}); allocs > 46 {
		t.Errorf("taking an event in allocates %v times, the store included", allocs)
	} else {
		t.Logf("taking an event in: %v allocations, the store and this test included", allocs)
	}
}
