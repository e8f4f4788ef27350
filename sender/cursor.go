package sender

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
)

// cursor is where a lane stands, as it is kept.
type cursor struct {
	settled uint64    // sequence of the last event done with
	backlog uint64    // events behind it
	bytes   uint64    // of their payloads
	failed  int       // failed attempts of the next one
	due     time.Time // when it may be tried again; zero for at once
}

// record is the writing of a shard's cursors.
type record struct {
	dirty  atomic.Bool
	since  atomic.Int64  // when it became so, in nanoseconds since 1970
	wake   chan struct{} // something changed
	urgent chan struct{} // and must not wait for the interval
	kept   keptRecord    // made by readCursors; from then on only the writer touches it
	buffer []byte
}

func newRecord() record {
	return record{wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1)}
}

// touch says that a cursor of the shard has changed.
func (s *shard) touch(urgent bool) {
	if s.record.dirty.CompareAndSwap(false, true) {
		s.record.since.Store(time.Now().UnixNano())
		signal(s.record.wake)
	}
	if urgent {
		signal(s.record.urgent)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// keepCursors writes the record whenever it changed: at most once an interval, but at once where it
// is urgent. When ctx ends it writes a last time. A write expects to follow the one before, so that
// a second owner of the shard is found out at its or our next write.
func (s *shard) keepCursors(ctx context.Context) error {
	interval := s.d.cfg.CursorInterval
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-s.record.wake:
		case <-ctx.Done():
			return s.writeCursors(context.WithoutCancel(ctx))
		}
		// What was settled while the record was being written waits for less than the interval.
		timer.Reset(interval - time.Since(time.Unix(0, s.record.since.Load())))
		select {
		case <-timer.C:
		case <-s.record.urgent:
		case <-ctx.Done():
		}
		if err := s.writeCursors(context.WithoutCancel(ctx)); err != nil {
			if errors.Is(err, ErrShardTaken) {
				return err
			}
			s.d.cfg.Log.Error().Err(err).Int("shard", s.n).Msg("cannot write cursors; trying again")
			signal(s.record.wake)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
}

// writeCursors replaces the record where something changed.
func (s *shard) writeCursors(ctx context.Context) error {
	if !s.record.dirty.Swap(false) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.record.kept.settle(ctx); err != nil {
		s.record.dirty.Store(true)
		return fmt.Errorf("write cursors of shard %d: %w", s.n, err)
	}
	s.record.buffer = s.appendCursors(s.record.buffer[:0])
	if err := s.record.kept.write(ctx, s.record.buffer); err != nil {
		s.record.dirty.Store(true)
		return fmt.Errorf("write cursors of shard %d: %w", s.n, err)
	}
	return nil
}

// readCursors gives the cursors as they were kept last.
func (s *shard) readCursors(ctx context.Context) (map[string]cursor, error) {
	s.record.kept = keptRecord{js: s.d.cfg.JetStream, subject: staffetta.CursorSubject(s.n), writer: s.d.id}
	data, err := s.record.kept.read(ctx)
	if err != nil || data == nil {
		return nil, err
	}
	cursors, _, err := parseCursors(data)
	if err != nil {
		return nil, fmt.Errorf("read cursors of shard %d: %w", s.n, err)
	}
	return cursors, nil
}

// keptRecord is one message on a subject of its own, replaced as a whole by every write. Its first byte
// is its format, then comes the text that its writer goes by. A write expects to follow the one before,
// so that a second writer is found out at its or our next write.
type keptRecord struct {
	js      jetstream.JetStream
	subject string
	writer  string
	last    uint64 // sequence of the message that is the record now
	lost    bool   // the answer to the last write never came: look before the next
}

// read gives the record of the moment; nil where there is none.
func (k *keptRecord) read(ctx context.Context) ([]byte, error) {
	stream, err := k.js.Stream(ctx, staffetta.CursorStream)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", staffetta.CursorStream, err)
	}
	m, err := stream.GetLastMsgForSubject(ctx, k.subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		k.last = 0
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", k.subject, err)
	}
	k.last = m.Sequence
	return m.Data, nil
}

// readOwner reads the record, and who wrote it.
func (k *keptRecord) readOwner(ctx context.Context) (string, error) {
	data, err := k.read(ctx)
	if err != nil || data == nil {
		return "", err
	}
	r := recordReader{staffetta.BinaryReader{Rest: data[min(1, len(data)):]}}
	if writer := r.text(); !r.Failed {
		return writer, nil
	}
	return "", fmt.Errorf("read %s: %w", k.subject, errRecord)
}

// settle learns what became of a write without an answer.
func (k *keptRecord) settle(ctx context.Context) error {
	if !k.lost {
		return nil
	}
	before := k.last
	writer, err := k.readOwner(ctx)
	if err != nil {
		return err
	}
	if k.last != before && writer != k.writer {
		return ErrShardTaken
	}
	k.lost = false
	return nil
}

// write replaces the record; settle must have succeeded. It returns ErrShardTaken where another
// writer has replaced it since.
func (k *keptRecord) write(ctx context.Context, data []byte) error {
	m := &nats.Msg{Subject: k.subject, Data: data}
	ack, err := k.js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(k.last))
	var api *jetstream.APIError
	switch {
	case err == nil:
		k.last = ack.Sequence
		return nil
	case errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
		return k.whose(ctx)
	default:
		k.lost = true
		return err
	}
}

// whose tells a second writer from a write of our own whose answer came too late to be heard; after
// that one the next write goes on.
func (k *keptRecord) whose(ctx context.Context) error {
	writer, err := k.readOwner(ctx)
	switch {
	case err != nil:
		return err
	case writer != k.writer:
		return ErrShardTaken
	}
	return errors.New("an earlier write was late")
}

// cursorFormat is the first byte of a record. Behind it stand, each text with its length before
// it and each number as a uvarint: the writer, then for every lane its key, settled, backlog, bytes,
// failed, and due in nanoseconds since 1970 (0 for none).
const cursorFormat = 2

// appendCursors writes the record of the moment.
func (s *shard) appendCursors(dst []byte) []byte {
	dst = append(dst, cursorFormat)
	dst = staffetta.AppendText(dst, s.d.id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for key, l := range s.lanes {
		l.mu.Lock()
		c := cursor{l.settled, l.backlog, l.bytes, l.failed, l.due}
		l.mu.Unlock()
		dst = appendCursor(dst, key, c)
	}
	return dst
}

func appendCursor(dst []byte, key string, c cursor) []byte {
	var due uint64
	if !c.due.IsZero() {
		due = uint64(c.due.UnixNano())
	}
	dst = staffetta.AppendText(dst, key)
	dst = binary.AppendUvarint(dst, c.settled)
	dst = binary.AppendUvarint(dst, c.backlog)
	dst = binary.AppendUvarint(dst, c.bytes)
	dst = binary.AppendUvarint(dst, uint64(c.failed))
	return binary.AppendUvarint(dst, due)
}

var errRecord = errors.New("the record of cursors is damaged or of a newer version")

func parseCursors(b []byte) (map[string]cursor, string, error) {
	if len(b) == 0 || b[0] != cursorFormat {
		return nil, "", errRecord
	}
	r := recordReader{staffetta.BinaryReader{Rest: b[1:]}}
	writer := r.text()
	cursors := make(map[string]cursor)
	for len(r.Rest) > 0 && !r.Failed {
		key := r.text()
		c := cursor{settled: r.Uvarint(), backlog: r.Uvarint(), bytes: r.Uvarint(), failed: int(r.Uvarint())}
		if due := r.Uvarint(); due > 0 {
			c.due = time.Unix(0, int64(due))
		}
		cursors[key] = c
	}
	if r.Failed {
		return nil, "", errRecord
	}
	return cursors, writer, nil
}

// recordReader reads a record.
type recordReader struct{ staffetta.BinaryReader }

func (r *recordReader) text() string { return string(r.Text()) }
