package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"github.com/staffetta-relay/staffetta"
)

const (
	// shelfBatch and shelfBytes bound what one request to the store brings.
	shelfBatch = 500
	shelfBytes = 4 << 20
	// shelfWait bounds the wait for the next message of such a request.
	shelfWait = 10 * time.Second
	// shelfStride is how many messages are looked at in one go, at the most, where a page takes few of
	// them; shelfFirstStride is what it begins with at the least.
	shelfStride, shelfFirstStride = 2000, 64
	// pageBytes and pageTime end a page early: a page is held in memory, and somebody waits for it.
	pageBytes = 8 << 20
	pageTime  = 2 * time.Second
)

// errShelf says that the store did not give what was asked of it.
var errShelf = fmt.Errorf("read the store: %w", ErrUnavailable)

// shelf reads a stream in place, by direct gets of up to shelfBatch messages: nothing is made or kept
// in the server for it, and the server skips the blocks without a message of the subject.
type shelf struct {
	conn   *nats.Conn
	stream string
	// events says that the messages are staffetta.StoredEvents.
	events bool
}

// eventShelf reads a shard's events.
func eventShelf(conn *nats.Conn, shard int) shelf {
	return shelf{conn: conn, stream: staffetta.EventStream(shard), events: true}
}

// shelved is a stored message.
type shelved struct {
	subject  string
	sequence uint64
	at       time.Time
	header   nats.Header
	data     []byte // an event's payload, where it is one
	// eventID and eventType are of an event or a dead letter; key and replay are an event's, see
	// staffetta.StoredEvent.
	eventID, eventType, key, replay string
	// behind is how many messages of the subject come behind it, where many were asked for.
	behind uint64
}

func (m *shelved) text(name string) string {
	if values := m.header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// shelfRequest is the body of a direct get.
type shelfRequest struct {
	Sequence uint64     `json:"seq,omitzero"`
	From     *time.Time `json:"start_time,omitzero"`
	Last     string     `json:"last_by_subj,omitzero"`
	Next     string     `json:"next_by_subj,omitzero"`
	Batch    int        `json:"batch,omitzero"`
	MaxBytes int        `json:"max_bytes,omitzero"`
}

// ask calls f for every message of the answer, until f reports false.
func (s shelf) ask(ctx context.Context, req shelfRequest, f func(*shelved) (more bool)) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	inbox := s.conn.NewRespInbox()
	sub, err := s.conn.SubscribeSync(inbox)
	if err != nil {
		return fmt.Errorf("%w: %w", errShelf, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := s.conn.PublishRequest("$JS.API.DIRECT.GET."+s.stream, inbox, body); err != nil {
		return fmt.Errorf("%w: %w", errShelf, err)
	}
	// A message is waited for on the clock, but not what f does with it.
	wait, giveUp := context.WithCancel(ctx)
	defer giveUp()
	clock := time.AfterFunc(shelfWait, giveUp)
	defer clock.Stop()
	for {
		clock.Reset(shelfWait)
		msg, err := sub.NextMsgWithContext(wait)
		clock.Stop()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%w: %w", errShelf, err)
		}
		switch status := msg.Header.Get("Status"); status {
		case "":
		case "204", "404": // the end of a batch; nothing there
			return nil
		default:
			return fmt.Errorf("%w: status %s %s", errShelf, status, msg.Header.Get("Description"))
		}
		m, err := s.read(msg)
		if err != nil {
			return err
		}
		if !f(m) || req.Batch == 0 {
			return nil
		}
	}
}

func (s shelf) read(msg *nats.Msg) (*shelved, error) {
	m := &shelved{header: msg.Header, data: msg.Data, subject: msg.Header.Get("Nats-Subject")}
	if s.events {
		e, _ := staffetta.ParseStoredEvent(msg.Data)
		m.data, m.eventID, m.eventType, m.key, m.replay = e.Payload, e.ID, e.Type, e.Key, e.Replay
	} else {
		m.eventID, m.eventType = m.text(staffetta.HeaderEventID), m.text(staffetta.HeaderEventType)
	}
	var err1, err2 error
	m.sequence, err1 = strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
	m.at, err2 = time.Parse(time.RFC3339Nano, msg.Header.Get("Nats-Time-Stamp"))
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("%w: %w", errShelf, err)
	}
	m.behind, _ = strconv.ParseUint(msg.Header.Get("Nats-Num-Pending"), 10, 64) // only a batch has it
	return m, nil
}

// one gives the message that a request finds, or nil.
func (s shelf) one(ctx context.Context, req shelfRequest) (found *shelved, err error) {
	err = s.ask(ctx, req, func(m *shelved) bool {
		found = m
		return true
	})
	return found, err
}

// at gives the message at a sequence, or nil.
func (s shelf) at(ctx context.Context, sequence uint64) (*shelved, error) {
	return s.one(ctx, shelfRequest{Sequence: sequence})
}

// last gives the newest message of a subject, which may have wildcards, or nil.
func (s shelf) last(ctx context.Context, subject string) (*shelved, error) {
	return s.one(ctx, shelfRequest{Last: subject})
}

// firstSince gives the sequence of the first message that was stored at t or later; 0 where there is
// none.
func (s shelf) firstSince(ctx context.Context, t time.Time) (uint64, error) {
	m, err := s.one(ctx, shelfRequest{From: &t, Next: ">"})
	if m == nil {
		return 0, err
	}
	return m.sequence, err
}

// count says how many messages of a subject there are from a sequence on, and gives the first.
func (s shelf) count(ctx context.Context, subject string, from uint64) (n uint64, first *shelved, err error) {
	err = s.ask(ctx, shelfRequest{Sequence: from, Next: subject, Batch: 1}, func(m *shelved) bool {
		n, first = m.behind+1, m
		return true
	})
	return n, first, err
}

// errEnough ends an each early.
var errEnough = errors.New("enough")

// each calls f for the messages of a subject from a sequence up to another, in order. An error of f
// ends it, errEnough without an error. expected is how many there are, 0 where nobody knows.
func (s shelf) each(ctx context.Context, subject string, from, to, expected uint64, f func(*shelved) error) error {
	if expected == 0 {
		expected = shelfBatch
	}
	var failed error
	for from <= to {
		req := shelfRequest{Sequence: max(from, 1), Next: subject, Batch: int(min(expected, shelfBatch)), MaxBytes: shelfBytes}
		got, past, behind := 0, false, uint64(0)
		err := s.ask(ctx, req, func(m *shelved) bool {
			got++
			if past = m.sequence > to; past {
				return false
			}
			from, behind = m.sequence+1, m.behind
			failed = f(m)
			return failed == nil
		})
		switch {
		case errors.Is(failed, errEnough):
			return nil
		case failed != nil:
			return failed
		case err != nil:
			return err
		case got == 0 || past || behind == 0:
			return nil
		}
	}
	return nil
}

// shelfQuery selects messages for pages that go from the newest back.
type shelfQuery struct {
	subject string
	// floor is the first sequence, before the one behind the last; 0 leaves either open.
	floor, before uint64
	// keep takes a message into the page; nil takes all.
	keep func(*shelved) bool
}

// newest gives a page of at most limit messages, newest first. before is where the next page goes on,
// 0 behind the last one. A page may be short, even empty, and not the last: its bytes and its time
// are bounded.
//
// It reads backwards in strides whose width follows from how many messages of the subject there are in
// them, which the store counts without reading them: a page costs about as much at any depth, and
// however rare the subject.
func (s shelf) newest(ctx context.Context, q shelfQuery, limit int) (page []*shelved, before uint64, err error) {
	b := backwards{shelf: s, q: q, limit: limit, started: time.Now()}
	if err := b.start(ctx); err != nil {
		return nil, 0, err
	}
	for !b.done {
		if err := b.step(ctx); err != nil {
			return nil, 0, err
		}
	}
	return b.page, b.next, nil
}

// backwards is the state of one page.
type backwards struct {
	shelf   shelf
	q       shelfQuery
	limit   int
	started time.Time

	high   uint64 // last sequence not looked at yet
	width  uint64 // of the next stride, in sequences
	aim    int    // messages that it should have, where not all of them are kept
	beyond uint64 // messages of the subject above high

	page  []*shelved
	bytes int
	done  bool
	next  uint64
}

func (b *backwards) start(ctx context.Context) error {
	b.q.floor = max(b.q.floor, 1)
	b.aim = max(2*b.limit, shelfFirstStride)
	b.width = uint64(b.stride())
	last, err := b.shelf.last(ctx, b.q.subject)
	if err != nil || last == nil {
		b.done = true
		return err
	}
	b.high = last.sequence
	if b.q.before > 0 && b.q.before <= b.high {
		b.high = b.q.before - 1
		if b.beyond, _, err = b.shelf.count(ctx, b.q.subject, b.q.before); err != nil {
			return err
		}
	}
	b.done = b.high < b.q.floor
	return nil
}

// stride is how many messages the next stride should have.
func (b *backwards) stride() int {
	if b.q.keep != nil {
		return min(b.aim, shelfStride)
	}
	return b.limit + 1 - len(b.page)
}

// step looks at one stride.
func (b *backwards) step(ctx context.Context) error {
	low := b.q.floor
	if b.high-b.q.floor >= b.width {
		low = b.high - b.width + 1
	}
	total, first, err := b.shelf.count(ctx, b.q.subject, low)
	if err != nil {
		return err
	}
	wanted := uint64(b.stride())
	there := total - min(b.beyond, total)
	switch {
	case first == nil || first.sequence > b.high:
		b.width *= 8
	case there > 4*wanted && b.width > 1:
		b.width = max(b.width/(there/wanted), 1)
		return nil
	default:
		if err := b.read(ctx, low, there); err != nil {
			return err
		}
		b.width = min(max(b.width*wanted/max(there, 1), 1), b.width*8)
		b.aim = min(2*b.aim, shelfStride)
	}
	b.beyond = total
	switch {
	case b.done:
	case low == b.q.floor:
		b.done = true
	case b.bytes >= pageBytes || time.Since(b.started) >= pageTime:
		b.done, b.next = true, low
	}
	b.high = low - 1
	return nil
}

// read takes what the page wants of a stride. Of more than it has room for it keeps the newest.
func (b *backwards) read(ctx context.Context, low, expected uint64) error {
	var kept []*shelved
	bytes, left := 0, false
	room := b.limit + 1 - len(b.page)
	err := b.shelf.each(ctx, b.q.subject, low, b.high, expected, func(m *shelved) error {
		if b.q.keep != nil && !b.q.keep(m) {
			return nil
		}
		kept, bytes = append(kept, m), bytes+len(m.data)
		for len(kept) > room || len(kept) > 1 && bytes-len(kept[0].data) > pageBytes-b.bytes {
			bytes -= len(kept[0].data)
			kept[0] = nil
			kept, left = kept[1:], true
		}
		return nil
	})
	slices.Reverse(kept)
	b.page = append(b.page, kept...)
	b.bytes += bytes
	if len(b.page) > b.limit {
		b.page, left = b.page[:b.limit], true
	}
	if left {
		b.done, b.next = true, b.page[len(b.page)-1].sequence
	}
	return err
}
