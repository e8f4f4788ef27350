package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
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
	// stored is called for every copy that the store confirms, before its request is told; lost for
	// every copy whose answer will not come, or that the store knew, so that nobody knows whether it is
	// still to be delivered.
	stored storedHook
	lost   func(shard int, endpoint string)
	// copies counts those that were not known to the store.
	copies atomic.Uint64
}

type publishConn struct {
	conn  *nats.Conn
	inbox string
	free  chan uint32

	mu    sync.Mutex
	slots []publishSlot
	// epoch tells the answers of one life of the connection from those of the one before.
	epoch uint64
}

// take puts a copy into a free slot and gives the reply subject that leads back to it.
func (c *publishConn) take(n uint32, slot publishSlot) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots[n] = slot
	return c.inbox + strconv.FormatUint(c.epoch, 10) + "-" + strconv.FormatUint(uint64(n), 10)
}

// release empties the slot that a token names, and gives what was in it; false for one that waits
// for nothing.
func (c *publishConn) release(token string) (slot publishSlot, ok bool) {
	life, number, _ := strings.Cut(token, "-")
	epoch, err1 := strconv.ParseUint(life, 10, 64)
	n, err2 := strconv.ParseUint(number, 10, 32)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err1 != nil || err2 != nil || epoch != c.epoch || n >= uint64(len(c.slots)) || c.slots[n].group == nil {
		return slot, false
	}
	slot, c.slots[n] = c.slots[n], publishSlot{}
	c.free <- uint32(n) // there is room: each slot is in it once
	return slot, true
}

// cut empties every slot, for the answers of this life will not come.
func (c *publishConn) cut() (lost []publishSlot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	for n, slot := range c.slots {
		if slot.group != nil {
			lost = append(lost, slot)
			c.slots[n] = publishSlot{}
			c.free <- uint32(n)
		}
	}
	return lost
}

// publishSlot is one copy under way.
type publishSlot struct {
	group    *publishGroup
	endpoint string
	shard    int
	event    *storedEvent
}

// storedHook is Config.Stored.
type storedHook = func(shard int, endpoint string, sequence uint64, e staffetta.Event, replay string)

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
func newPublisher(conns []*nats.Conn, stored storedHook, lost func(int, string)) (*publisher, error) {
	p := &publisher{stored: stored, lost: lost}
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
		conn.SetReconnectHandler(func(*nats.Conn) { p.cutOff(c) })
		p.conns = append(p.conns, c)
	}
	return p, nil
}

// cutOff fails what was under way on a connection that was lost and found again: its requests get a
// 503, and the lanes see for themselves what of it is stored.
func (p *publisher) cutOff(c *publishConn) {
	for _, slot := range c.cut() {
		slot.group.fail(fmt.Errorf("the connection to the store was cut: %w", errPressure))
		p.lost(slot.shard, slot.endpoint)
		slot.group.answered()
	}
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
	g.pending.Add(1)
	reply := c.take(n, publishSlot{group: g, endpoint: r.Endpoint, shard: r.Shard, event: e})
	m := nats.Msg{Subject: r.Subject, Reply: reply, Data: e.payload, Header: e.header}
	if id != "" {
		e.header[nats.MsgIdHdr] = []string{id}
	}
	if err := c.conn.PublishMsg(&m); err != nil {
		if _, waits := c.release(reply[len(c.inbox):]); waits {
			g.answered()
		}
		return fmt.Errorf("publish event: %w: %w", err, errPressure)
	}
	return nil
}

// storedEvent is the form in which an event is stored, and the event. Its payload must not change: the
// answer of the store may come when the request has ended.
type storedEvent struct {
	header  nats.Header
	payload []byte

	id, eventType, replay string
}

func newStoredEvent(id, eventType string, payload []byte) *storedEvent {
	return &storedEvent{
		header:  nats.Header{staffetta.HeaderEventID: {id}, staffetta.HeaderEventType: {eventType}},
		payload: payload,
		id:      id, eventType: eventType,
	}
}

// markReplay says that the event is sent again on request.
func (e *storedEvent) markReplay(mark string) {
	e.replay = mark
	e.header[staffetta.HeaderReplay] = []string{mark}
}

// event is the event as a lane takes it.
func (e *storedEvent) event() staffetta.Event {
	return staffetta.Event{ID: e.id, Type: e.eventType, Payload: e.payload, Replay: e.replay != ""}
}

// answer takes the store's word on one copy.
func (p *publisher) answer(c *publishConn, m *nats.Msg) {
	slot, ok := c.release(strings.TrimPrefix(m.Subject, c.inbox))
	if !ok {
		return
	}
	sequence, duplicate, err := parsePubAck(m)
	switch {
	case err != nil:
		slot.group.fail(err)
	case duplicate:
		slot.group.duplicates.Add(1)
		p.lost(slot.shard, slot.endpoint)
	default:
		p.copies.Add(1)
		p.stored(slot.shard, slot.endpoint, sequence, slot.event.event(), slot.event.replay)
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
