package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
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
	holdMaxAge      time.Duration
	holdMaxEvents   int
	catalogue       staffetta.Catalogue
	guard           sender.Guard
	dial            func(ctx context.Context, network, address string) (net.Conn, error)
	inFlight        int
	minPlan         staffetta.Plan
	adminKey        string
	adminKeyMade    bool
	secret          []byte
	maxStore        int64
	deadLetterAge   time.Duration // 0 is the layout's default, as for the bytes
	deadLetterBytes int64
	logMode         relay.LogMode
	logAge          time.Duration // 0 is the layout's default, as for the bytes
	logBytes        int64
	syncInterval    time.Duration // of the store; 0 is its default
	idempotencyKeys int
	maxEndpoints    int
	mail            *relay.MailConfig // nil sends none
	log             zerolog.Logger
}

// publishConnections is how many in-process connections carry events into the store.
const publishConnections = 2

// runRelay wires a relay together and runs it until ctx ends; running is called once it takes
// events. What was started is stopped in the order of the code, backwards: the intake, the attempts
// in flight, the queue.
func runRelay(ctx context.Context, c relaySettings, running func(*relay.Relay)) error {
	server, err := embed.Start(ctx, embed.Config{
		Dir: c.data, Layout: embed.Layout{
			Shards: c.shards, DeadLetterAge: c.deadLetterAge, DeadLetterBytes: c.deadLetterBytes,
			AttemptAge: c.logAge, AttemptBytes: c.logBytes,
		}, MaxStore: c.maxStore, SyncInterval: c.syncInterval, Log: c.log,
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
	reads, err := connect("reads")
	if err != nil {
		return err
	}
	defer reads.Close()
	js, err := jetstream.New(api)
	if err != nil {
		return fmt.Errorf("open jetstream: %w", err)
	}
	var publish []*nats.Conn
	for range publishConnections {
		conn, err := server.Connect("staffetta intake", nats.ReconnectBufSize(-1))
		if err != nil {
			return err
		}
		defer conn.Close()
		publish = append(publish, conn)
	}

	gate := newGate(server, c.log)
	metrics := newRelayMetrics(gate)
	dispatcher, err := sender.NewDispatcher(sender.Config{
		Conn: messages, JetStream: js, Shards: c.shards, StopWait: c.policy.Deadline + time.Second,
		HoldMaxAge: c.holdMaxAge, HoldMaxEvents: c.holdMaxEvents, Metrics: metrics.sender, Log: c.log,
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
	records, err := connect("log")
	if err != nil {
		return err
	}
	defer records.Close()
	recordStream, err := jetstream.New(records)
	if err != nil {
		return fmt.Errorf("open jetstream: %w", err)
	}
	attempts, err := relay.OpenAttemptLog(ctx, relay.AttemptLogConfig{
		JetStream: recordStream, Mode: c.logMode, Retention: c.logAge, MaxBytes: c.logBytes, Room: gate.room, Log: c.log,
	})
	if err != nil {
		return err
	}
	notices, err := relay.NewNotices(relay.NoticesConfig{JetStream: js, Mail: c.mail, QuotaWindow: c.policy.Quota.Window, Log: c.log})
	if err != nil {
		return err
	}
	quota, err := relay.NewQuota(relay.QuotaConfig{
		Quota: c.policy.Quota, OnLevel: tellLevel(notices), OnDisabled: metrics.relay.OnDisabled(tellDisabled(notices, attempts)), OnEnabled: tellEnabled(notices), Log: c.log,
	})
	if err != nil {
		return err
	}
	var intake *relay.Relay // there before the first attempt
	deliveries, err := sender.New(dispatcher, client, c.policy, sender.Hooks{
		Attempted: attempts.Record,
		Failed:    quota.Failed,
		Dropped:   tellDropped(notices),
		Withdrawn: func(replay string) bool { return intake.ReplayWithdrawn(replay) },
	})
	if err != nil {
		return err
	}
	sealer, err := relay.NewSealer(c.secret)
	if err != nil {
		return err
	}
	intake, err = relay.New(ctx, relay.Config{
		Listen: c.listen, Listener: c.listener, Publish: publish, JetStream: js, Reads: reads, Shards: c.shards,
		Registry: relay.RegistryConfig{
			Sealer: sealer, AdminKey: c.adminKey, MaxEndpoints: c.maxEndpoints,
			OnEndpoint: deliveries.SetEndpoint, OnEndpointRemoved: deliveries.RemoveEndpoint,
			OnWorkspace: operationsLane(deliveries), OnWorkspaceRemoved: endOperationsLane(deliveries), Log: c.log,
		},
		API: relay.APIConfig{
			Catalogue: c.catalogue, MinPlan: c.minPlan, Version: version, Log: c.log,
			TestSend: testSend(deliveries), State: endpointState(deliveries), Attempts: attempts,
		},
		Metrics: metrics.relay, Gatherer: metrics.registry,
		Quota: quota, Notices: notices, IdempotencyKeys: c.idempotencyKeys, Stored: storedEvent(deliveries), Unheard: deliveries.Look, Accepting: gate.accepting, Log: c.log,
	})
	if err != nil {
		return err
	}
	if err := quota.Restore(ctx, attempts.Failures); err != nil {
		c.log.Error().Err(err).Msg("the quota starts without what failed before")
	}
	if err := deliveries.Load(ctx); err != nil {
		return err
	}

	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	behind, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	last, stopLast := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLast()
	var counting, telling sync.WaitGroup
	untold, stopTelling := context.WithCancel(context.WithoutCancel(ctx))
	defer stopTelling()
	telling.Go(func() {
		if err := notices.Run(untold); err != nil {
			fail(err)
		}
	})
	counting.Go(func() {
		if err := quota.Run(last); err != nil {
			fail(err)
		}
	})
	counting.Go(func() {
		if err := attempts.Run(last); err != nil {
			fail(err)
		}
	})
	wg.Go(func() { gate.watch(behind) })
	wg.Go(func() {
		if err := deliveries.Run(behind); err != nil {
			fail(err)
		}
	})
	if running != nil {
		running(intake)
	}
	debug.FreeOSMemory() // loading a store takes more than having it: 366 MB became 245 for 10,000 endpoints
	c.log.Info().Str("version", version).Stringer("address", intake.Addr()).Str("data", c.data).Msg("relay started")
	err = intake.Run(ctx)
	stop()
	wg.Wait()
	stopLast()
	counting.Wait()
	stopTelling()
	telling.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = errors.Join(err, cause)
	}
	c.log.Info().Err(err).Msg("relay stopped")
	return err
}

// storedEvent connects the intake with the lanes: one that keeps up gets its events without the way
// through the store and back.
func storedEvent(s *sender.Sender) func(int, string, uint64, staffetta.Event, string) {
	return func(shard int, endpoint string, sequence uint64, e staffetta.Event, replay string) {
		s.StoredEvent(shard, endpoint, &sender.Message{Event: e, Sequence: sequence, StoredAt: time.Now(), Replay: replay})
	}
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
		state := relay.State{Backlog: lane.Backlog, BacklogBytes: lane.BacklogBytes, Attempt: lane.Attempt, LastError: lane.LastError, Settled: lane.Settled}
		state.OldestAt, state.NextAttemptAt = orNil(lane.OldestAt), orNil(lane.NextAttemptAt)
		if health, ok := s.Health(id); ok {
			state.LastSuccessAt, state.LastFailureAt = orNil(health.LastSuccessAt), orNil(health.LastFailureAt)
			if state.LastError == "" && health.LastFailureAt.After(health.LastSuccessAt) {
				state.LastError = health.LastFailure.String()
			}
		}
		return state, true
	}
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// gate says whether the store can take events. Nine tenths of its bound, and of the disk's last
// space, are the events'; the rest is for cursors, dead letters and the registry, which must always
// find room.
type gate struct {
	server *embed.Server
	log    zerolog.Logger
	closed atomic.Pointer[error]
	usage  atomic.Pointer[embed.Usage] // as measured last
	low    atomic.Pointer[error]       // the disk is about to fill up: what can be spared is not stored
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

// room says why the log of attempts should not be stored, or nil: it leaves the disk's last space to
// the events before they are refused.
func (g *gate) room() error {
	if err := g.low.Load(); err != nil {
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
		if u, err = g.server.Usage(); err == nil {
			g.usage.Store(&u)
		}
		half = err == nil && u.StoreBytes > u.StoreLimit/2
		g.lookAtDisk(u, err)
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

func (g *gate) lookAtDisk(u embed.Usage, err error) {
	if err == nil && u.FreeDisk >= 2*minFreeDisk {
		g.low.Store(nil)
		return
	}
	low := errors.New("the disk is nearly full; free some space")
	if err != nil {
		low = err
	}
	g.low.Store(&low)
}
