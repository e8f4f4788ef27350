package sender

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

// ErrShardTaken says that another process writes the cursors of a shard that this one works on.
// The dispatcher stops: two owners would break the order.
var ErrShardTaken = errors.New("another process works on the same shard")

// Message is a stored event at the head of its lane.
type Message struct {
	Event staffetta.Event
	// Sequence is the event's place in the stream of its shard.
	Sequence uint64
	// StoredAt is when JetStream stored it.
	StoredAt time.Time
	// Replay is the header that marks a copy sent again on request; empty for any other event.
	Replay string
}

// Target is where the events of one lane go. A lane calls its target from one goroutine at a time.
type Target interface {
	// Attempt tries to hand m over, as attempt number n from 1, and decides what happens next. It
	// ends within the target's own deadline, or soon after ctx does.
	Attempt(ctx context.Context, m *Message, n int) (staffetta.Outcome, staffetta.Verdict)
	// Drop puts on record that m was given up after n attempts, the last of which came to o.
	// Only when it has returned nil does the lane go on with the next event.
	Drop(ctx context.Context, m *Message, n int, o staffetta.Outcome) error
}

// Mode says what a lane does with its events.
type Mode uint8

// The modes of a lane.
const (
	// Open hands them over.
	Open Mode = iota
	// Held keeps them until the lane is open again.
	Held
	// Discarding settles them unseen.
	Discarding
)

// Config of a Dispatcher.
type Config struct {
	// Conn carries the events and the requests for them. Keep it apart from the connection that
	// publishes: the two would wait for each other's buffers.
	Conn *nats.Conn
	// JetStream creates consumers and keeps the cursors; give it a connection of its own too.
	JetStream jetstream.JetStream
	// Shards is how many streams there are; it is fixed when the store is made.
	Shards int
	// Window is how many events of a lane are fetched at once. Default 16.
	Window int
	// WindowBytes bounds the bytes of such a fetch; a larger event comes alone. Default 256 KiB.
	WindowBytes int
	// CursorInterval is the longest time that a settled event may stay off the record, and so
	// the stretch of deliveries that a kill may repeat. Default 50 ms: with the time of the write
	// it stays within the 100 ms of the promise.
	CursorInterval time.Duration
	// IdleAfter is how long a lane keeps its consumer without an event. Default 2 minutes.
	IdleAfter time.Duration
	// Keep is how long settled events stay in the store at least, for whoever looks for an event soon
	// after it was stored: a start after a kill, a replay. Default 2 minutes.
	Keep time.Duration
	// HoldMaxAge and HoldMaxEvents bound what a held lane keeps: events that were stored longer ago,
	// or that are more, the oldest first, are given up by Target.Drop with ErrorHeld, within half a
	// minute. 0, the default, is without a bound.
	HoldMaxAge    time.Duration
	HoldMaxEvents int
	// StopWait is how long a stop waits for the attempts in flight before it cuts them off.
	// Default 6 s, a little above the deadline of an attempt.
	StopWait time.Duration
	// Metrics count what becomes of events; they are registered by who made them. Default: some of
	// its own, which nobody sees.
	Metrics *Metrics
	Log     zerolog.Logger
}

func (c *Config) setDefaults() error {
	switch {
	case c.Conn == nil:
		return errors.New("sender config: Conn is missing")
	case c.JetStream == nil:
		return errors.New("sender config: JetStream is missing")
	case c.Shards < 1 || c.Shards > staffetta.MaxShards:
		return fmt.Errorf("sender config: Shards must be 1 to %d", staffetta.MaxShards)
	case c.HoldMaxAge < 0 || c.HoldMaxEvents < 0:
		return errors.New("sender config: HoldMaxAge and HoldMaxEvents must not be negative")
	}
	if c.Window == 0 {
		c.Window = 16
	}
	if c.WindowBytes == 0 {
		c.WindowBytes = 256 << 10
	}
	if c.CursorInterval == 0 {
		c.CursorInterval = 50 * time.Millisecond
	}
	if c.IdleAfter == 0 {
		c.IdleAfter = 2 * time.Minute
	}
	if c.Keep == 0 {
		c.Keep = 2 * time.Minute
	}
	if c.StopWait == 0 {
		c.StopWait = 6 * time.Second
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics()
	}
	return nil
}

// maxOpening bounds the consumers that are being made at a time. The server makes them one after
// another: what is asked for beyond that would only run out of its time there, and with it the
// cursors and everything else that goes over the same connection (BenchmarkTenThousandEndpoints).
const maxOpening = 16

// Dispatcher owns the lanes of all shards.
type Dispatcher struct {
	cfg Config
	// id is this process's name in cursors and in the names of consumers.
	id     string
	shards []*shard

	hold holdBounds
	fed  atomic.Int64 // bytes of the events that lanes were fed and have not tried yet

	pull, pullOne []byte // bodies of the requests for events

	// spawn starts a lane's goroutine; it is nil unless Run runs. The lock makes sure that none
	// starts once the stop has begun to wait for them.
	spawnMu sync.RWMutex
	spawn   func(*lane)

	consumers atomic.Uint64 // numbers the consumers of this process
	opening   chan struct{} // holds one for each consumer that is being made
}

// NewDispatcher checks the configuration. Nothing runs before Run.
func NewDispatcher(cfg Config) (*Dispatcher, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	d := &Dispatcher{cfg: cfg, id: nuid.Next()[14:], hold: holdBounds{cfg.HoldMaxAge, uint64(cfg.HoldMaxEvents)}}
	d.opening = make(chan struct{}, maxOpening)
	d.pull = fmt.Appendf(nil, `{"batch":%d,"max_bytes":%d}`, cfg.Window, cfg.WindowBytes)
	d.pullOne = []byte(`{"batch":1}`)
	for n := range cfg.Shards {
		d.shards = append(d.shards, newShard(d, n))
	}
	cfg.Metrics.watch(d)
	return d, nil
}

func (d *Dispatcher) shardOf(key string) *shard {
	return d.shards[staffetta.Shard(key, len(d.shards))]
}

// Load reads where every lane stands. Call Set for the lanes that exist before it, and Run after.
func (d *Dispatcher) Load(ctx context.Context) error {
	return eachShard(d.shards, 8, func(s *shard) error {
		if err := s.load(ctx); err != nil {
			return fmt.Errorf("load shard %d: %w", s.n, err)
		}
		return nil
	})
}

// Set makes a lane for key, or changes the target and the mode of the one there is. A lane that
// opens again tries its head at once and counts its attempts anew.
func (d *Dispatcher) Set(key string, t Target, mode Mode) {
	d.shardOf(key).ensure(key).set(t, mode)
}

// Remove ends a lane: its events are never handed over, an attempt in flight ends by itself.
func (d *Dispatcher) Remove(key string) {
	if l := d.shardOf(key).remove(key); l != nil {
		l.remove()
	}
}

// Stored tells the dispatcher that JetStream has stored an event of the lane, with a payload of size
// bytes, at sequence. It must
// be called for every stored event: a lane without a consumer learns of its work here.
func (d *Dispatcher) Stored(shard int, key string, sequence uint64, size int) {
	d.shards[shard].sawSequence(sequence)
	if l := d.shards[shard].lane(key); l != nil {
		l.stored(sequence, size, nil)
	}
}

// StoredEvent is Stored with the event itself, so that a lane that keeps up need not read it from the
// store. Of one shard it must be called in the order of the sequences. The message is only lent.
func (d *Dispatcher) StoredEvent(shard int, key string, m *Message) {
	d.shards[shard].sawSequence(m.Sequence)
	if l := d.shards[shard].lane(key); l != nil {
		l.stored(m.Sequence, len(m.Event.Payload), m)
	}
}

// Look is for an event of which nobody knows whether it was stored: the lane asks the store.
func (d *Dispatcher) Look(shard int, key string) {
	if l := d.shards[shard].lane(key); l != nil {
		l.look()
	}
}

// State is where a lane stands.
type State struct {
	// Backlog is how many events wait, the head included. It is exact up to the events of the moment.
	Backlog uint64
	// BacklogBytes is how many bytes their payloads have; after a kill, without those of the last moment.
	BacklogBytes uint64
	// OldestAt is when the head was stored; zero when there is none or it was not fetched yet.
	OldestAt time.Time
	// Attempt is how many attempts of the head have failed.
	Attempt int
	// NextAttemptAt is when a waiting head is due; zero when it does not wait.
	NextAttemptAt time.Time
	// LastError is what the last failed attempt of the head came to.
	LastError string
	// Settled is the sequence of the last event that was delivered, dropped or discarded.
	Settled uint64
}

// State of the lane of key.
func (d *Dispatcher) State(key string) (State, bool) {
	l := d.shardOf(key).lane(key)
	if l == nil {
		return State{}, false
	}
	return l.state(), true
}

// Run hands events over until ctx ends, then lets the attempts in flight end, for StopWait at the
// most, and writes the cursors a last time. It returns nil after a stop, ErrShardTaken when
// another process took a shard over. Load must have succeeded.
func (d *Dispatcher) Run(ctx context.Context) error {
	attempts, cutOff := context.WithCancel(context.WithoutCancel(ctx))
	defer cutOff()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	var lanes, loops sync.WaitGroup
	spawn := func(l *lane) { lanes.Go(func() { l.run(attempts) }) }

	for _, s := range d.shards {
		sub, err := s.subscribe()
		if err != nil {
			return fmt.Errorf("subscribe shard %d: %w", s.n, err)
		}
		defer func() { _ = sub.Unsubscribe() }()
	}
	cursors, stopCursors := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCursors()
	for _, s := range d.shards {
		loops.Go(func() {
			if err := s.keepCursors(cursors); err != nil {
				fail(err)
			}
		})
	}
	loops.Go(func() { d.housekeep(ctx) })
	d.setSpawn(spawn)
	d.cfg.Conn.SetReconnectHandler(func(*nats.Conn) {
		d.cfg.Log.Warn().Msg("the lanes' connection was cut; asking for the events anew")
		d.reset()
	})
	for _, s := range d.shards {
		s.wakeAll()
	}

	<-ctx.Done()
	d.setSpawn(nil)
	for _, s := range d.shards {
		for _, l := range s.all() {
			l.stop()
		}
	}
	timer := time.AfterFunc(d.cfg.StopWait, cutOff)
	lanes.Wait()
	timer.Stop()
	stopCursors()
	loops.Wait()
	if err := context.Cause(ctx); errors.Is(err, ErrShardTaken) {
		return err
	}
	return nil
}

func (d *Dispatcher) setSpawn(spawn func(*lane)) {
	d.spawnMu.Lock()
	d.spawn = spawn
	d.spawnMu.Unlock()
}

// running reports whether lanes may start another attempt.
func (d *Dispatcher) running() bool {
	d.spawnMu.RLock()
	defer d.spawnMu.RUnlock()
	return d.spawn != nil
}

// start runs a lane that was marked as running; it reports false when the dispatcher does not run.
func (d *Dispatcher) start(l *lane) bool {
	d.spawnMu.RLock()
	defer d.spawnMu.RUnlock()
	if d.spawn == nil {
		return false
	}
	d.spawn(l)
	return true
}

// reset makes every lane ask for its events anew, after the connection was lost and found again:
// what was asked for over the old one is gone. A process that stood still for ten seconds comes to
// that, for the server cuts off who does not read.
func (d *Dispatcher) reset() {
	for _, s := range d.shards {
		for _, l := range s.all() {
			l.reset()
		}
	}
}

// eachShard calls f for every shard, at most atOnce at a time, and returns the first error.
func eachShard(shards []*shard, atOnce int, f func(*shard) error) error {
	errs := make([]error, len(shards))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, s := range shards {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = f(s)
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
