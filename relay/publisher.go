package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

// errPressure says that the store does not take events as fast as they come, or not at all. The
// producer gets a 503 and tries again; nothing of the request counts as accepted.
var errPressure = errors.New("the store cannot take the event now")

// Unavailable marks an error as one that a producer should wait out: it is answered with 503 and
// Retry-After.
func Unavailable(err error) error { return fmt.Errorf("%w: %w", err, errPressure) }

// publisherConfig is what a publisher needs.
type publisherConfig struct {
	// conns are what is published over, shards in turn.
	conns []*nats.Conn
	// js and reads find out what became of copies whose answer was lost.
	js     jetstream.JetStream
	reads  *nats.Conn
	shards int
	// stored is told of every copy that the store confirms, in the order of a shard's sequences, before
	// its request is told.
	stored storedHook
	// unheard is told of a copy that the store had already, and of one that is not the publisher's own.
	unheard func(shard int, endpoint string)
	log     zerolog.Logger
}

// storedHook is Config.Stored.
type storedHook = func(shard int, endpoint string, sequence uint64, e staffetta.Event, replay string)

// publisher stores events. Copies for one shard go over its line, which keeps their order.
type publisher struct {
	cfg   publisherConfig
	lines []*line
	// doubtful are lines with copies of which nobody knows whether they are stored.
	doubtful chan *line
	// copies counts those that were not known to the store.
	copies atomic.Uint64
}

// newPublisher finds out where the streams end, and subscribes to the store's answers.
func newPublisher(ctx context.Context, cfg publisherConfig) (*publisher, error) {
	p := &publisher{cfg: cfg, doubtful: make(chan *line, cfg.shards)}
	inboxes := make([]string, len(cfg.conns))
	for i, conn := range cfg.conns {
		inboxes[i] = nats.NewInbox()
		sub, err := conn.Subscribe(inboxes[i]+".*.*", p.answer)
		if err != nil {
			return nil, fmt.Errorf("subscribe to answers of the store: %w", err)
		}
		if err := sub.SetPendingLimits(-1, -1); err != nil { // a line has one answer under way
			return nil, fmt.Errorf("subscribe to answers of the store: %w", err)
		}
		conn.SetReconnectHandler(func(*nats.Conn) { p.cutOff(conn) })
	}
	for shard := range cfg.shards {
		stream, err := cfg.js.Stream(ctx, staffetta.EventStream(shard))
		if err != nil {
			return nil, fmt.Errorf("open stream of events: %w", err)
		}
		i := shard % len(cfg.conns)
		p.lines = append(p.lines, newLine(p, shard, cfg.conns[i], inboxes[i], stream.CachedInfo().State.LastSeq))
	}
	return p, nil
}

// run clears doubts until ctx ends.
func (p *publisher) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case l := <-p.doubtful:
			wg.Go(func() { l.clear(ctx) })
		}
	}
}

// add puts a copy of an event in line for a route. name is what the store knows the copy by: it drops a
// second one of the same name; an empty name knows nothing. The copy is on its way once flush was called.
func (p *publisher) add(ctx context.Context, g *publishGroup, e *storedEvent, r Route, name string) error {
	e.copies = append(e.copies, eventCopy{event: e, group: g, route: r, name: name})
	g.pending.Add(1)
	if err := p.lines[r.Shard].add(ctx, &e.copies[len(e.copies)-1]); err != nil {
		e.copies = e.copies[:len(e.copies)-1]
		g.answered()
		return err
	}
	return nil
}

// flush sends an event's copies on their way; those behind others go with the next run of their line.
func (p *publisher) flush(e *storedEvent) {
	for i := range e.copies {
		p.lines[e.copies[i].route.Shard].flush()
	}
}

// flushAll sends all copies that are in line on their way.
func (p *publisher) flushAll() {
	for _, l := range p.lines {
		l.flush()
	}
}

// publishGroup is what one request waits for: all its copies.
type publishGroup struct {
	pending    atomic.Int32 // copies without an answer, and one for the request that still adds some
	duplicates atomic.Int32
	failure    atomic.Pointer[error]
	// abandoned says that nobody waits any more: copies that are not on their way need not go.
	abandoned atomic.Bool
	done      chan struct{}
	after     atomic.Pointer[func()]
}

func newPublishGroup() *publishGroup {
	g := &publishGroup{done: make(chan struct{})}
	g.pending.Store(1)
	return g
}

func (g *publishGroup) fail(err error) { g.failure.CompareAndSwap(nil, &err) }

// failed is what the group came to; it is final once the group has ended.
func (g *publishGroup) failed() error {
	if err := g.failure.Load(); err != nil {
		return *err
	}
	return nil
}

func (g *publishGroup) answered() {
	if g.pending.Add(-1) == 0 {
		close(g.done)
		g.callAfter()
	}
}

// whenDone calls f once every copy of the group is answered: now or later, and one f alone.
func (g *publishGroup) whenDone(f func()) {
	g.after.Store(&f)
	select {
	case <-g.done:
		g.callAfter()
	default:
	}
}

func (g *publishGroup) callAfter() {
	if f := g.after.Swap(nil); f != nil {
		(*f)()
	}
}

// wait returns once every copy of the group is stored, or says why one is not. Where ctx ends before,
// the group is abandoned.
func (g *publishGroup) wait(ctx context.Context) error {
	g.answered()
	select {
	case <-g.done:
		return g.failed()
	case <-ctx.Done():
		g.abandoned.Store(true)
		return fmt.Errorf("wait for the store: %w", errPressure)
	}
}

// storedEvent is the form in which an event is stored, and its copies. Its bytes must not change: the
// answer of the store may come when the request has ended.
type storedEvent struct {
	staffetta.StoredEvent // Payload is the end of data
	data                  []byte
	copies                []eventCopy // each is pointed at: never more than there is room for
	one                   [1]eventCopy
}

// newStoredEvent brings an event that goes to n endpoints into the form, with a copy of its payload.
func newStoredEvent(e staffetta.StoredEvent, n int) *storedEvent {
	s := &storedEvent{StoredEvent: e}
	s.data = e.Append(make([]byte, 0, e.Size()))
	s.Payload = s.data[len(s.data)-len(e.Payload):]
	if s.copies = s.one[:0]; n > len(s.one) {
		s.copies = make([]eventCopy, 0, n)
	}
	return s
}

// storedAt are the endpoints that a copy of the event is stored for. Its group has ended.
func (e *storedEvent) storedAt() map[string]bool {
	var endpoints map[string]bool
	for i := range e.copies {
		if c := &e.copies[i]; c.stored {
			if endpoints == nil {
				endpoints = make(map[string]bool)
			}
			endpoints[c.route.Endpoint] = true
		}
	}
	return endpoints
}

// eventCopy is an event on its way to one endpoint.
type eventCopy struct {
	event *storedEvent
	group *publishGroup
	route Route
	name  string
	// stored says that the store has it; it is final once the group has ended.
	stored bool
}
