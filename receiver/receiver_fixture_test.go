package receiver

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
)

// runReceiver runs a receiver on s until the test ends: one source, at /hooks, whose events a function
// takes, and no listener, unless change says otherwise.
func runReceiver(t testing.TB, s *embed.Server, change ...func(*Config)) *Receiver {
	t.Helper()
	cfg := Config{Connect: s.Connect, NoListener: true, Sources: []Source{{
		Path: "/hooks", Verify: staffetta.SchemeNone, Handle: func(context.Context, staffetta.Event) error { return nil },
	}}}
	for _, f := range change {
		f(&cfg)
	}
	r, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return r
}

// onLoopback has the receiver listen on a free port.
func onLoopback(c *Config) { c.NoListener, c.Listen = false, "127.0.0.1:0" }

// pass lets fake time pass, and what it wakes come to rest.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// journalState says what the store has of all journals.
func journalState(t testing.TB, r *Receiver) jetstream.StreamState {
	t.Helper()
	stream, err := r.records.Stream(t.Context(), staffetta.JournalStream)
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo().State
}

// padded is a request with a body of about so many bytes.
func padded(id string, size int) *Request {
	r := request(id)
	r.Body = fmt.Appendf(nil, `{"pad":"%s","event_id":"%s"}`, bytes.Repeat([]byte{'x'}, size), id)
	return r
}
