package sender

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
)

// window is the stretch of a lane's events that is at hand. A lane that keeps up has them from who
// stored them, see feed. One that does not has a consumer in the server, used as a cursor that starts
// behind the last settled event, and one standing request for events. All of it may be dropped at any
// time and opened again.
//
// Its methods are called with the lane's lock held, but open.
type window struct {
	consumer string // name of the open consumer, empty for none
	count    uint64 // events that it has sent
	owed     int    // events that the standing request still brings
	alone    bool   // the next event is too large for a window: ask for it alone
	queue    []Message
	head     int // index of the first event in queue
	fed      int // bytes in queue that did not come from the consumer
}

// What a lane may hold of events that it was fed, and what all lanes together may: a lane beyond it
// reads them from the store, once it has come to them.
const (
	maxFed      = 1024
	maxFedBytes = 1 << 20
	maxFedTotal = 128 << 20
)

// feed takes a stored event without the way through the store and back, which is most of what a lane
// that keeps up would cost (BenchmarkThroughput). It may only where the event is the next one behind
// all that the lane has: nothing that is stored is passed over.
func (w *window) feed(l *lane, m *Message) bool {
	size := len(m.Event.Payload)
	total := &l.shard.d.fed
	if len(w.queue)-w.head >= maxFed || w.fed+size > maxFedBytes || total.Load()+int64(size) > maxFedTotal {
		return false
	}
	if w.consumer != "" { // all that it brought is done with
		w.close(l)
	}
	w.fed += size
	total.Add(int64(size))
	own := *m
	own.Event.Payload = bytes.Clone(m.Event.Payload) // of a request that ends
	w.push(&own)
	return true
}

// push queues an event. A queue that is never empty uses its front again.
func (w *window) push(m *Message) {
	if w.head > 0 && len(w.queue) == cap(w.queue) && w.head >= len(w.queue)/2 {
		n := copy(w.queue, w.queue[w.head:])
		clear(w.queue[n:])
		w.queue, w.head = w.queue[:n], 0
	}
	w.queue = append(w.queue, *m)
}

// place is where an event stands, read off its reply subject.
type place struct {
	consumer string
	sequence uint64    // in the stream
	count    uint64    // in the consumer
	storedAt time.Time // set by the server
}

// hasWork reports whether a goroutine would find something to do: an event at hand, or events to
// ask for.
func (w *window) hasWork(l *lane) bool {
	return w.head < len(w.queue) || w.consumer == "" && (l.tail > l.settled || l.suspect)
}

// take queues an event. It reports false for one that is not of this window; after a gap in the
// consumer's count the window is dropped, for an event in between was lost on the way.
func (w *window) take(l *lane, e *staffetta.StoredEvent, p place) bool {
	if w.consumer == "" || p.consumer != w.consumer {
		return false
	}
	if p.count != w.count+1 {
		w.close(l)
		return true
	}
	w.count++
	w.owed--
	w.push(&Message{Sequence: p.sequence, StoredAt: p.storedAt, Replay: e.Replay, Event: e.Event()})
	return true
}

// pop gives the first event at hand.
func (w *window) pop(l *lane, m *Message) bool {
	if w.head == len(w.queue) {
		return false
	}
	*m = w.queue[w.head]
	w.queue[w.head] = Message{}
	w.head++
	if w.head == len(w.queue) {
		w.queue, w.head = w.queue[:0], 0
	}
	if w.consumer != "" {
		w.askIfLow(l)
		return true
	}
	size := len(m.Event.Payload)
	w.fed -= size
	l.shard.d.fed.Add(-int64(size))
	return true
}

// askIfLow sends the next request for events once the last one is used up and the window is half
// empty, so that the next events are on their way while one is tried. A large event is asked for
// only when nothing else is at hand.
func (w *window) askIfLow(l *lane) {
	d, atHand := l.shard.d, len(w.queue)-w.head
	if w.owed > 0 || atHand > d.cfg.Window/2 || w.alone && atHand > 0 {
		return
	}
	body, n := d.pull, d.cfg.Window
	if w.alone {
		body, n = d.pullOne, 1
	}
	subject := "$JS.API.CONSUMER.MSG.NEXT." + l.shard.stream + "." + w.consumer
	if err := d.cfg.Conn.PublishRequest(subject, l.shard.inbox+"."+w.consumer, body); err != nil {
		w.close(l)
		return
	}
	w.owed, w.alone = n, false
}

// told handles a status: the end of a request, or of the consumer.
func (w *window) told(l *lane, consumer string, s status) {
	if w.consumer == "" || consumer != w.consumer {
		return
	}
	switch s {
	case statusComplete: // the events told as much, and the next request may be under way
		return
	case statusConsumerLost:
		l.shard.d.cfg.Log.Warn().Str("lane", l.key).Msg("the server ended the lane's consumer; opening another")
		w.close(l)
		return
	case statusRequestEnded, statusTooLarge:
	}
	// A request that brought nothing because its first event is too large is followed by one
	// without a bound.
	w.alone = s == statusTooLarge && w.owed == l.shard.d.cfg.Window
	w.owed = 0
	w.askIfLow(l)
}

// close gives the consumer back and forgets what came from it.
func (w *window) close(l *lane) {
	d := l.shard.d
	if l.headAt.IsZero() && w.head < len(w.queue) && l.tail > l.settled {
		l.headAt = w.queue[w.head].StoredAt
	}
	d.fed.Add(-int64(w.fed))
	l.taken = l.settled
	if w.consumer == "" {
		*w = window{}
		return
	}
	// Nobody waits for the answer: a consumer that is left over ends by its inactivity threshold.
	_ = d.cfg.Conn.PublishRequest("$JS.API.CONSUMER.DELETE."+l.shard.stream+"."+w.consumer, l.shard.inbox, nil)
	*w = window{}
}

// errStopping says that the dispatcher stops before a window was open.
var errStopping = errors.New("the dispatcher stops")

// open makes a consumer that starts behind the lane's last settled event. It is called without
// the lane's lock, by the lane's goroutine.
func (w *window) open(ctx context.Context, l *lane) error {
	d := l.shard.d
	select {
	case d.opening <- struct{}{}:
		defer func() { <-d.opening }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if !d.running() {
		return errStopping
	}
	l.mu.Lock()
	start, known := l.settled+1, l.tail
	l.mu.Unlock()
	name := l.key + "-" + d.id + strconv.FormatUint(d.consumers.Add(1), 36)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	consumer, err := d.cfg.JetStream.CreateConsumer(ctx, l.shard.stream, jetstream.ConsumerConfig{
		Name:              name,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       start,
		AckPolicy:         jetstream.AckNonePolicy,
		FilterSubject:     l.subject,
		MemoryStorage:     true,
		Replicas:          1,
		MaxWaiting:        4,
		InactiveThreshold: 10 * time.Minute,
	})
	if err != nil {
		return fmt.Errorf("create consumer on %s: %w", l.shard.stream, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	*w = window{consumer: name}
	switch pending := consumer.CachedInfo().NumPending; {
	case pending == 0:
		// Nothing behind the cursor: what was counted as stored is no longer there.
		l.settled, l.backlog, l.bytes = max(l.settled, known), 0, 0
	case l.estimated:
		l.backlog = pending
	}
	l.estimated, l.suspect = false, false
	w.askIfLow(l)
	return nil
}

func firstHeader(m *nats.Msg, name string) string {
	if values := m.Header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}
