package receiver

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

// Workspace is what the receiver's attempts and dead letters are recorded under.
const Workspace = "receiver"

// batchSize is how many events a target that takes batches gets at a time.
const batchSize = 500

// feed is the hand-over of a source's events to one of its targets.
type feed struct {
	source, target, kind string
	pointer              []string // to an event's key; nil where all or none wait for one another
	journal              *journal
	handler              handler
	records              jetstream.JetStream
	feed                 *sender.Feed
	read                 atomic.Uint64 // ordinal behind the last event that was read
}

// id names the target among those of all sources.
func (f *feed) id() string { return f.source + "." + f.target }

// openHandler opens what hands the events over, and says how many it takes at a time.
func (f *feed) openHandler(t *Target, s *Source) (batch int, err error) {
	var opener interface{ open() (handler, error) }
	batch = 1
	switch {
	case t.HTTP != nil:
		c := *t.HTTP
		setDefault(&c.Timeout, t.Timeout)
		setDefault(&c.Concurrency, t.Concurrency)
		opener = c
	case t.Postgres != nil:
		c := *t.Postgres
		setDefault(&c.Timeout, t.Timeout)
		setDefault(&c.Contact, s.OrderKey)
		opener, batch = c, batchSize
	case t.NATS != nil:
		c := *t.NATS
		setDefault(&c.Timeout, t.Timeout)
		opener, batch = c, batchSize
	case t.File != nil:
		opener, batch = *t.File, batchSize
	default:
		opener = HandleTarget{Handle: t.Handle, Timeout: t.Timeout}
	}
	f.handler, err = opener.open()
	return batch, err
}

// HandOver is the target's part.
func (f *feed) HandOver(ctx context.Context, entries []*sender.Entry, n int) sender.Handed {
	return f.handler.handOver(ctx, entries, n)
}

// Split reads a block of the journal.
func (f *feed) split(data []byte, dst []sender.Entry) ([]sender.Entry, error) {
	_, end, err := blockOrdinals(data)
	if err != nil {
		return dst, err
	}
	for old := f.read.Load(); end > old && !f.read.CompareAndSwap(old, end); old = f.read.Load() {
	}
	err = eachRequest(data, func(stored []byte) error {
		id, err := identify(stored)
		if err != nil {
			return err
		}
		e := sender.Entry{Data: stored, Skip: len(id.target) > 0 && string(id.target) != f.target}
		if !e.Skip {
			m := readMembers(id.body, "event_type", f.pointer)
			e.Key = boundedKey(m.pointed)
			e.Event = staffetta.Event{ID: string(id.eventID), Type: boundedType(m.first), Payload: id.body, Replay: id.replay}
		}
		dst = append(dst, e)
		return nil
	})
	return dst, err
}

// What a payload says of itself may be of any size: a type travels in headers, and a key stays in memory.
const (
	maxEventType = 128
	maxKey       = 128
)

// boundedType is the event's type, without what cannot stand in a header.
func boundedType(eventType string) string {
	clean := func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}
	if len(eventType) > maxEventType {
		eventType = eventType[:maxEventType]
	}
	return strings.Map(clean, eventType)
}

// boundedKey stands for a key: a long one by its digest.
func boundedKey(key string) string {
	if len(key) <= maxKey {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return string(sum[:])
}

// Drop stores the event as a dead letter, as it came in. The message id makes a repeat after a crash
// harmless.
func (f *feed) Drop(ctx context.Context, e *sender.Entry, n int, o staffetta.Outcome) error {
	letter := &nats.Msg{
		Subject: staffetta.DeadLetterSubject(f.source, f.target),
		Header: nats.Header{
			staffetta.HeaderEventID:   {e.Event.ID},
			staffetta.HeaderEventType: {e.Event.Type},
			staffetta.HeaderAttempts:  {strconv.Itoa(n)},
			staffetta.HeaderError:     {o.String()},
			staffetta.HeaderStoredAt:  {e.StoredAt.UTC().Format(time.RFC3339Nano)},
			staffetta.HeaderDroppedAt: {time.Now().UTC().Format(time.RFC3339Nano)},
		},
		Data: e.Data,
	}
	if o.Status != 0 {
		letter.Header[staffetta.HeaderStatusCode] = []string{strconv.Itoa(o.Status)}
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	id := f.id() + "." + strconv.FormatUint(e.Sequence, 10) + "." + strconv.Itoa(e.Index)
	if _, err := f.records.PublishMsg(ctx, letter, jetstream.WithMsgID(id)); err != nil {
		return fmt.Errorf("store dead letter: %w", err)
	}
	return nil
}

// backlog is how many events the target does not have yet: those that were not read, and those that
// were and are not settled.
func (f *feed) backlog(s *sender.FeedState) uint64 {
	known := uint64(s.Waiting + s.InFlight + s.Read)
	end := f.journal.end.Load()
	if read := f.read.Load(); read > 0 && end > read {
		return known + end - read
	}
	return known
}

// handler is what hands events over to one kind of target; sender.FeedTarget says how.
type handler interface {
	handOver(ctx context.Context, entries []*sender.Entry, n int) sender.Handed
	close()
}
