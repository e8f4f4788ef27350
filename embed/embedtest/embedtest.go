// Package embedtest starts the embedded server for the tests of other packages, inside and outside
// of testing/synctest bubbles.
package embedtest

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta/embed"
)

// The server shares one clock goroutine among all stores of a process. Held from here, outside of
// every bubble, it is never started by a bubble, which would wait for its end for ever.
func init() { ats.Register() }

// Start runs a server on a folder and ends it with the test. To try a restart, call Shutdown and
// Start again on the same folder.
func Start(t testing.TB, dir string, shards int, change ...func(*embed.Config)) *embed.Server {
	t.Helper()
	// A day, for in a bubble every second of fake time would sync every stream in real time.
	cfg := embed.Config{Dir: dir, Layout: embed.Layout{Shards: shards}, SyncInterval: 24 * time.Hour}
	for _, f := range change {
		f(&cfg)
	}
	s, err := embed.Start(t.Context(), cfg)
	if err != nil {
		t.Fatalf("start embedded server: %v", err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

// JetStream opens a connection of its own to the server.
func JetStream(t testing.TB, s *embed.Server) jetstream.JetStream {
	t.Helper()
	nc, err := s.Connect(t.Name())
	if err != nil {
		t.Fatalf("connect to embedded server: %v", err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatalf("open jetstream: %v", err)
	}
	return js
}
