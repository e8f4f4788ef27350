package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/staffetta-relay/staffetta"
)

// errPressure says that the store does not take events as fast as they come, or not at all. The
// producer gets a 503 and tries again; nothing of the request counts as accepted.
var errPressure = errors.New("the store cannot take the event now")

// publishWindow bounds the copies under way on one connection: the window at which asynchronous
// publishing was measured to be fastest, and a bound on what waits in the server's queues.
const publishWindow = 4096

// publisher stores events. A copy is published with a reply subject of one inbox a connection, and
// the answer finds the request that waits for it by the number of a slot: no subscription, timer or
// goroutine a copy. All copies of one shard go over the same connection, which keeps their order.
type publisher struct {
	conns []*publishConn
	// stored is called for every copy that the store confirms, before its request is told.
	stored func(shard int, endpoint string, sequence uint64)
	// copies counts those that were not known to the store.
	copies atomic.Uint64
}

type publishConn struct {
	conn  *nats.Conn
	inbox string
	slots []publishSlot
	free  chan uint32
}

// publishSlot is one copy under way.
type publishSlot struct {
	group    *publishGroup
	endpoint string
	shard    int
}

// publishGroup is what one request waits for: all its copies.
type publishGroup struct {
	pending    atomic.Int32 // copies without an answer, and one for the request that still adds some
	duplicates atomic.Int32
	failure    atomic.Pointer[error]
	done       chan struct{}
}

func newPublishGroup() *publishGroup {
	g := &publishGroup{done: make(chan struct{})}
	g.pending.Store(1)
	return g
}

func (g *publishGroup) fail(err error) { g.failure.CompareAndSwap(nil, &err) }

func (g *publishGroup) answered() {
	if g.pending.Add(-1) == 0 {
		close(g.done)
	}
}

// wait returns once every copy of the group is stored, or says why one is not.
func (g *publishGroup) wait(ctx context.Context) error {
	g.answered()
	select {
	case <-g.done:
	case <-ctx.Done():
		return fmt.Errorf("wait for the store: %w", errPressure)
	}
	if err := g.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// newPublisher subscribes to the answers on every connection.
func newPublisher(conns []*nats.Conn, stored func(int, string, uint64)) (*publisher, error) {
	p := &publisher{stored: stored}
	for _, conn := range conns {
		c := &publishConn{
			conn:  conn,
			inbox: nats.NewInbox() + ".",
			slots: make([]publishSlot, publishWindow),
			free:  make(chan uint32, publishWindow),
		}
		for i := range uint32(publishWindow) {
			c.free <- i
		}
		sub, err := conn.Subscribe(c.inbox+"*", func(m *nats.Msg) { p.answer(c, m) })
		if err != nil {
			return nil, fmt.Errorf("subscribe to answers of the store: %w", err)
		}
		if err := sub.SetPendingLimits(-1, -1); err != nil { // the window is the bound
			return nil, fmt.Errorf("subscribe to answers of the store: %w", err)
		}
		p.conns = append(p.conns, c)
	}
	return p, nil
}

// publish sends one copy. id names the copy to the store, which drops a second one of the same
// name; an empty id names nothing.
func (p *publisher) publish(ctx context.Context, g *publishGroup, r Route, id string, e *storedEvent) error {
	c := p.conns[r.Shard%len(p.conns)]
	var n uint32
	select {
	case n = <-c.free:
	default:
		select {
		case n = <-c.free:
		case <-ctx.Done():
			return fmt.Errorf("wait for room to publish: %w", errPressure)
		}
	}
	c.slots[n] = publishSlot{group: g, endpoint: r.Endpoint, shard: r.Shard}
	g.pending.Add(1)
	m := nats.Msg{Subject: r.Subject, Reply: c.inbox + strconv.FormatUint(uint64(n), 10), Data: e.payload, Header: e.header}
	if id != "" {
		e.header[nats.MsgIdHdr] = []string{id}
	}
	if err := c.conn.PublishMsg(&m); err != nil {
		c.slots[n] = publishSlot{}
		c.free <- n
		g.answered()
		return fmt.Errorf("publish event: %w: %w", err, errPressure)
	}
	return nil
}

// storedEvent is the form in which an event is stored.
type storedEvent struct {
	header  nats.Header
	payload []byte
}

func newStoredEvent(id, eventType string, payload []byte) *storedEvent {
	return &storedEvent{
		header:  nats.Header{staffetta.HeaderEventID: {id}, staffetta.HeaderEventType: {eventType}},
		payload: payload,
	}
}

// answer takes the store's word on one copy.
func (p *publisher) answer(c *publishConn, m *nats.Msg) {
	n, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, c.inbox), 10, 32)
	if err != nil || n >= uint64(len(c.slots)) || c.slots[n].group == nil {
		return
	}
	slot := c.slots[n]
	c.slots[n] = publishSlot{}
	c.free <- uint32(n)
	sequence, duplicate, err := parsePubAck(m)
	switch {
	case err != nil:
		slot.group.fail(err)
	case duplicate:
		slot.group.duplicates.Add(1)
		p.stored(slot.shard, slot.endpoint, sequence)
	default:
		p.copies.Add(1)
		p.stored(slot.shard, slot.endpoint, sequence)
	}
	slot.group.answered()
}

// parsePubAck reads the store's answer. The usual one is told by its shape, without a decoder.
func parsePubAck(m *nats.Msg) (sequence uint64, duplicate bool, err error) {
	const member = `"seq":`
	at := bytes.Index(m.Data, []byte(member))
	if at >= 0 && !bytes.Contains(m.Data, []byte(`"error"`)) {
		digits := bytes.TrimLeft(m.Data[at+len(member):], " ")
		for len(digits) > 0 && digits[0] >= '0' && digits[0] <= '9' {
			sequence, digits = sequence*10+uint64(digits[0]-'0'), digits[1:]
		}
		return sequence, bytes.Contains(digits, []byte(`"duplicate"`)), nil
	}
	if len(m.Data) == 0 {
		return 0, false, fmt.Errorf("no stream answers: %w", errPressure)
	}
	var answer struct {
		Error struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return 0, false, fmt.Errorf("read the store's answer: %w", err)
	}
	return 0, false, fmt.Errorf("the store refuses (%d %s): %w", answer.Error.Code, answer.Error.Description, errPressure)
}

// Unavailable marks an error as one that a producer should wait out: it is answered with 503 and
// Retry-After.
func Unavailable(err error) error { return fmt.Errorf("%w: %w", err, errPressure) }
