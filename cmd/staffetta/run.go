package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/relay"
	"github.com/staffetta-relay/staffetta/sender"
)

// relaySettings is what a relay is wired from.
type relaySettings struct {
	listen          string
	listener        net.Listener // in place of listen where it is set
	data            string
	shards          int
	policy          staffetta.Policy
	catalogue       staffetta.Catalogue
	guard           sender.Guard
	dial            func(ctx context.Context, network, address string) (net.Conn, error)
	inFlight        int
	minPlan         staffetta.Plan
	adminKey        string
	adminKeyMade    bool
	secret          []byte
	maxStore        int64
	syncInterval    time.Duration // of the store; 0 is its default
	idempotencyKeys int
	maxEndpoints    int
	log             zerolog.Logger
}

// publishConnections is how many in-process connections carry events into the store.
const publishConnections = 2

// runRelay wires a relay together and runs it until ctx ends; running is called once it takes
// events. What was started is stopped in the order of the code, backwards: the intake, the attempts
// in flight, the queue.
func runRelay(ctx context.Context, c relaySettings, running func(*relay.Relay)) error {
	server, err := embed.Start(ctx, embed.Config{
		Dir: c.data, Layout: embed.Layout{Shards: c.shards}, MaxStore: c.maxStore, SyncInterval: c.syncInterval, Log: c.log,
	})
	if err != nil {
		return err
	}
	defer server.Shutdown()

	connect := func(name string) (*nats.Conn, error) { return server.Connect("staffetta " + name) }
	messages, err := connect("lanes")
	if err != nil {
		return err
	}
	defer messages.Close()
	api, err := connect("api")
	if err != nil {
		return err
	}
	defer api.Close()
	js, err := jetstream.New(api)
	if err != nil {
		return fmt.Errorf("open jetstream: %w", err)
	}
	var publish []*nats.Conn
	for range publishConnections {
		conn, err := connect("intake")
		if err != nil {
			return err
		}
		defer conn.Close()
		publish = append(publish, conn)
	}

	dispatcher, err := sender.NewDispatcher(sender.Config{
		Conn: messages, JetStream: js, Shards: c.shards, StopWait: c.policy.Deadline + time.Second, Log: c.log,
	})
	if err != nil {
		return err
	}
	client, err := sender.NewClient(sender.ClientConfig{
		Deadline: c.policy.Deadline, UserAgent: "Staffetta/" + version, Guard: c.guard,
		InFlightPerWorkspace: c.inFlight, Dial: c.dial,
	})
	if err != nil {
		return err
	}
	defer client.CloseIdle()
	deliveries, err := sender.New(dispatcher, client, c.policy, sender.Hooks{})
	if err != nil {
		return err
	}
	sealer, err := relay.NewSealer(c.secret)
	if err != nil {
		return err
	}
	gate := newGate(server, c.log)
	intake, err := relay.New(ctx, relay.Config{
		Listen: c.listen, Listener: c.listener, Publish: publish, JetStream: js, Shards: c.shards,
		Registry: relay.RegistryConfig{
			Sealer: sealer, AdminKey: c.adminKey, MaxEndpoints: c.maxEndpoints,
			OnEndpoint: deliveries.SetEndpoint, OnEndpointRemoved: deliveries.RemoveEndpoint, Log: c.log,
		},
		API: relay.APIConfig{
			Catalogue: c.catalogue, MinPlan: c.minPlan, Version: version, Log: c.log,
			TestSend: testSend(deliveries), State: endpointState(deliveries),
		},
		IdempotencyKeys: c.idempotencyKeys, Stored: deliveries.Stored, Accepting: gate.accepting, Log: c.log,
	})
	if err != nil {
		return err
	}
	if err := deliveries.Load(ctx); err != nil {
		return err
	}

	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	behind, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { gate.watch(behind) })
	wg.Go(func() {
		if err := deliveries.Run(behind); err != nil {
			fail(err)
		}
	})
	if running != nil {
		running(intake)
	}
	c.log.Info().Str("version", version).Stringer("address", intake.Addr()).Str("data", c.data).Msg("relay started")
	err = intake.Run(ctx)
	stop()
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = errors.Join(err, cause)
	}
	c.log.Info().Err(err).Msg("relay stopped")
	return err
}

// testSend connects the API's test send with the sender.
func testSend(s *sender.Sender) func(context.Context, staffetta.Endpoint) (relay.TestResult, error) {
	return func(ctx context.Context, e staffetta.Endpoint) (relay.TestResult, error) {
		a, accepted, err := s.Test(ctx, e)
		if err != nil {
			return relay.TestResult{}, err
		}
		r := relay.TestResult{
			Delivered: accepted, Status: a.Outcome.Status,
			Duration: a.Duration, Response: string(a.Body),
		}
		if a.Outcome.Error != staffetta.ErrorNone {
			r.Error = a.Outcome.String()
		}
		return r, nil
	}
}

// endpointState connects the API's view of an endpoint with its lane.
func endpointState(s *sender.Sender) func(string) (relay.State, bool) {
	return func(id string) (relay.State, bool) {
		lane, ok := s.State(id)
		if !ok {
			return relay.State{}, false
		}
		state := relay.State{Backlog: lane.Backlog, Attempt: lane.Attempt, LastError: lane.LastError}
		if !lane.OldestAt.IsZero() {
			state.OldestAt = &lane.OldestAt
		}
		if !lane.NextAttemptAt.IsZero() {
			state.NextAttemptAt = &lane.NextAttemptAt
		}
		return state, true
	}
}

// gate says whether the store can take events. Nine tenths of its bound, and of the disk's last
// space, are the events'; the rest is for cursors, dead letters and the registry, which must always
// find room.
type gate struct {
	server *embed.Server
	log    zerolog.Logger
	closed atomic.Pointer[error]
}

// minFreeDisk is what a disk must have left, in bytes: a full one makes the store close itself.
const minFreeDisk = 256 << 20

func newGate(server *embed.Server, log zerolog.Logger) *gate {
	g := &gate{server: server, log: log}
	g.look()
	return g
}

func (g *gate) accepting() error {
	if err := g.closed.Load(); err != nil {
		return *err
	}
	return nil
}

// watch looks at the store until ctx ends: every second, and ten times as often once it is half full,
// so that a burst cannot run past the bound.
func (g *gate) watch(ctx context.Context) {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if g.look() {
			timer.Reset(100 * time.Millisecond)
		} else {
			timer.Reset(time.Second)
		}
	}
}

// look closes or opens the gate, and reports whether the store is more than half full.
func (g *gate) look() (half bool) {
	err := g.server.Health()
	if err == nil {
		var u embed.Usage
		u, err = g.server.Usage()
		half = err == nil && u.StoreBytes > u.StoreLimit/2
		switch {
		case err != nil:
		case u.StoreBytes >= u.StoreLimit/10*9:
			err = errors.New("the store is full; events are taken again once some are delivered")
		case u.FreeDisk < minFreeDisk:
			err = errors.New("the disk is full; free some space")
		}
	}
	if err == nil {
		if g.closed.Swap(nil) != nil {
			g.log.Info().Msg("events are taken again")
		}
		return half
	}
	unavailable := relay.Unavailable(err)
	if g.closed.Swap(&unavailable) == nil {
		g.log.Error().Err(err).Msg("no events are taken")
	}
	return half
}
