package sender

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
)

// window is the stretch of a lane's events that is at hand: a consumer in the server, used as a
// cursor that starts behind the last settled event, one standing request for events, and those that
// have come. All of it may be dropped at any time and opened again.
//
// Its methods are called with the lane's lock held, but open.
type window struct {
	consumer string // name of the open consumer, empty for none
	count    uint64 // events that it has sent
	owed     int    // events that the standing request still brings
	alone    bool   // the next event is too large for a window: ask for it alone
	queue    []*nats.Msg
	head     int // index of the first event in queue
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
func (w *window) take(l *lane, m *nats.Msg, p place) bool {
	if w.consumer == "" || p.consumer != w.consumer {
		return false
	}
	if p.count != w.count+1 {
		w.close(l)
		return true
	}
	w.count++
	w.owed--
	w.queue = append(w.queue, m)
	return true
}

// pop gives the first event at hand.
func (w *window) pop(l *lane, m *Message) bool {
	if w.head == len(w.queue) {
		return false
	}
	msg := w.queue[w.head]
	w.queue[w.head] = nil
	w.head++
	if w.head == len(w.queue) {
		w.queue, w.head = w.queue[:0], 0
	}
	w.askIfLow(l)
	p, _ := placeOf(msg.Reply)
	m.Sequence, m.StoredAt = p.sequence, p.storedAt
	m.Replay = firstHeader(msg, staffetta.HeaderReplay)
	m.Event = staffetta.Event{
		ID:      firstHeader(msg, staffetta.HeaderEventID),
		Type:    firstHeader(msg, staffetta.HeaderEventType),
		Payload: msg.Data,
		Replay:  m.Replay != "",
	}
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
	if w.consumer == "" {
		return
	}
	d := l.shard.d
	if l.headAt.IsZero() && w.head < len(w.queue) && l.tail > l.settled {
		p, _ := placeOf(w.queue[w.head].Reply)
		l.headAt = p.storedAt
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
