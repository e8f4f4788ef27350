// Package relay takes events in over HTTP and keeps the workspaces, endpoints and keys they are for.
//
// The guarantee: an event is answered with 202 only once a copy for every endpoint that wants it is
// stored; a repeat within a day is recognised and stores nothing. What cannot be stored is refused with
// 503, and nothing of it counts as accepted.
package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

// Config of a Relay.
type Config struct {
	// Listen is the address of the HTTP API. Default 127.0.0.1:8080.
	Listen string
	// Listener is used in place of Listen where it is set.
	Listener net.Listener
	// Publish are the connections that events are stored over; a shard always uses the same one.
	// Two or three serve best: one alone is a bottleneck, many cost more than they give. Have them buffer
	// nothing while they reconnect (nats.ReconnectBufSize(-1)): the end of a run must not go without its
	// beginning.
	Publish []*nats.Conn
	// JetStream is for everything else; give it a connection of its own.
	JetStream jetstream.JetStream
	// Reads is for reading much of the store, for pages of dead letters and replays, which holds up
	// what else goes over the connection. Default: that of JetStream.
	Reads *nats.Conn
	// Shards is how many streams there are; it is fixed when the store is made.
	Shards int
	// Registry says how workspaces and endpoints are kept; New sets its Bucket and Shards.
	Registry RegistryConfig
	// API says how they are managed; New sets its Registry.
	API APIConfig
	// IdempotencyKeys bounds the keys that are remembered for a day, at about 50 bytes each.
	// Default 4,000,000.
	IdempotencyKeys int
	// Quota counts failures and disables endpoints; nil never does. Run it beside the Relay.
	Quota *Quota
	// Notices tell workspaces what becomes of their webhooks; nil tells nobody. Run them beside the
	// Relay, and end them last.
	Notices *Notices
	// Metrics count what comes; they are registered by who made them. Default: some of its own, which
	// nobody sees.
	Metrics *Metrics
	// Gatherer is what /metrics answers; nil: 404.
	Gatherer prometheus.Gatherer
	// Stored is told of every copy of an event that was stored, in the order of a shard's sequences and
	// quickly: it runs on the hot path. The payload is only lent; replay is the mark of
	// staffetta.StoredEvent.
	Stored func(shard int, endpoint string, sequence uint64, e staffetta.Event, replay string)
	// Unheard is told of an endpoint for which something is stored of which Stored was not told.
	Unheard func(shard int, endpoint string)
	// Accepting says why no event can be taken now, or nil. It is asked for every request.
	Accepting func() error
	Log       zerolog.Logger
}

func (c *Config) setDefaults() error {
	switch {
	case len(c.Publish) == 0:
		return errors.New("relay config: Publish is empty")
	case c.JetStream == nil:
		return errors.New("relay config: JetStream is missing")
	case c.Shards < 1 || c.Shards > staffetta.MaxShards:
		return fmt.Errorf("relay config: Shards must be 1 to %d", staffetta.MaxShards)
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:8080"
	}
	if c.IdempotencyKeys == 0 {
		c.IdempotencyKeys = 4_000_000
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(MetricsConfig{})
	}
	if c.Reads == nil {
		c.Reads = c.JetStream.Conn()
	}
	if c.Stored == nil {
		c.Stored = func(int, string, uint64, staffetta.Event, string) {}
	}
	if c.Unheard == nil {
		c.Unheard = func(int, string) {}
	}
	if c.Accepting == nil {
		c.Accepting = func() error { return nil }
	}
	return nil
}

// Relay takes events in. Make one with New.
type Relay struct {
	registry    *Registry
	idempotency *idempotency
	replays     *Replays
	attempts    *AttemptLog // nil where there is none, as the notices
	notices     *Notices
	publisher   *publisher
	server      *server
	listener    net.Listener
}

// New loads what is stored and binds the address. Registry's hooks are told of every endpoint
// before it returns; nothing is taken in before Run.
func New(ctx context.Context, cfg Config) (*Relay, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	bucket, err := cfg.JetStream.KeyValue(ctx, staffetta.RegistryBucket)
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	cfg.Registry.Bucket, cfg.Registry.Shards = bucket, cfg.Shards
	if q := cfg.Quota; q != nil {
		cfg.Registry.OnEndpoint, cfg.Registry.OnEndpointRemoved = q.follow(cfg.Registry.OnEndpoint), q.unfollow(cfg.Registry.OnEndpointRemoved)
		cfg.Registry.OnWorkspaceRemoved = q.drop(cfg.Registry.OnWorkspaceRemoved)
		cfg.API.Quota = q
	}
	r := &Relay{attempts: cfg.API.Attempts, notices: cfg.Notices}
	if r.registry, err = OpenRegistry(ctx, cfg.Registry); err != nil {
		return nil, err
	}
	if cfg.Quota != nil {
		cfg.Quota.attach(r.registry)
	}
	r.idempotency = newIdempotency(cfg.JetStream, cfg.Reads, cfg.IdempotencyKeys, cfg.Log)
	if err := r.idempotency.load(ctx, cfg.Shards); err != nil {
		return nil, err
	}
	p, err := newPublisher(ctx, publisherConfig{
		conns: cfg.Publish, js: cfg.JetStream, reads: cfg.Reads, shards: cfg.Shards,
		stored: cfg.Stored, unheard: cfg.Unheard, log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	r.publisher = p
	if cfg.Notices != nil {
		cfg.Notices.attach(r.registry, p, cfg.Shards)
	}
	r.replays = newReplays(&cfg, r.registry, p)
	if err := r.replays.load(ctx); err != nil {
		return nil, err
	}
	cfg.API.DeadLetters, cfg.API.Replays = r.replays.letters, r.replays
	cfg.API.Registry = r.registry
	api, err := NewAPI(cfg.API)
	if err != nil {
		return nil, err
	}
	in := &ingest{
		registry: r.registry, publisher: p, idempotency: r.idempotency,
		catalogue: cfg.API.Catalogue, accepting: cfg.Accepting,
	}
	r.server = newServer(in, api, cfg.Accepting)
	r.server.metrics, r.server.metricsPage = cfg.Metrics, newMetricsPage(cfg.Gatherer, cfg.Log)
	if r.listener = cfg.Listener; r.listener == nil {
		if r.listener, err = net.Listen("tcp", cfg.Listen); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", cfg.Listen, err)
		}
	}
	cfg.Metrics.watch(r)
	return r, nil
}

// Addr is the address that is bound.
func (r *Relay) Addr() net.Addr { return r.listener.Addr() }

// Registry knows the workspaces and their endpoints.
func (r *Relay) Registry() *Registry { return r.registry }

// ReplayWithdrawn reports whether the copy of an event belongs to a replay that was cancelled, by its
// mark.
func (r *Relay) ReplayWithdrawn(mark string) bool { return r.replays.Withdrawn(mark) }

// Run takes events until ctx ends, then lets the requests under way end and writes down what they
// were. It returns when all that it started has ended.
func (r *Relay) Run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	behind, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { r.publisher.run(behind) })
	wg.Go(func() { r.idempotency.run(behind) })
	wg.Go(func() { r.replays.Run(behind) })
	wg.Go(func() {
		if err := r.registry.Run(behind); err != nil && behind.Err() == nil {
			fail(fmt.Errorf("follow the registry: %w", err))
		}
	})
	err := r.server.serve(ctx, r.listener)
	stop()
	wg.Wait()
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}
