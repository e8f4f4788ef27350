package sender

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// feedFormat is the first byte of a feed's record. Behind it stand, the text with its length before
// it and each number as a uvarint: the writer, high's sequence and index, until when the target asked
// for a pause, and for every event below high that is not settled, by position: how far its sequence is
// from that of the one before, its index, twice its failed attempts and 1 more where it is transient,
// when it failed first, and when it is due. Times are in nanoseconds since 1970, 0 for none.
const feedFormat = 0x80 + 1

// feedMark is what a record says of an event that is not settled.
type feedMark struct {
	position
	failed           int
	transient        bool
	firstFailed, due time.Time
}

// feedRecord is where a feed stands: what is below high and has no mark is settled.
type feedRecord struct {
	writer      string
	high        position
	pausedUntil time.Time
	marks       []feedMark
}

func appendFeedHead(dst []byte, writer string, high position, pausedUntil time.Time) []byte {
	dst = staffetta.AppendText(append(dst, feedFormat), writer)
	dst = binary.AppendUvarint(dst, high.sequence)
	dst = binary.AppendUvarint(dst, uint64(high.index))
	return appendTime(dst, pausedUntil)
}

// appendMark appends an event; last is the sequence of the one before it.
func appendMark(dst []byte, last uint64, m *feedMark) []byte {
	failed := uint64(m.failed) << 1
	if m.transient {
		failed |= 1
	}
	dst = binary.AppendUvarint(dst, m.sequence-last)
	dst = binary.AppendUvarint(dst, uint64(m.index))
	dst = binary.AppendUvarint(dst, failed)
	dst = appendTime(dst, m.firstFailed)
	return appendTime(dst, m.due)
}

func appendTime(dst []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(dst, 0)
	}
	return binary.AppendUvarint(dst, uint64(t.UnixNano()))
}

func parseFeedRecord(b []byte) (feedRecord, error) {
	if len(b) == 0 || b[0] != feedFormat {
		return feedRecord{}, errRecord
	}
	r := recordReader{staffetta.BinaryReader{Rest: b[1:]}}
	f := feedRecord{writer: r.text(), high: position{r.Uvarint(), r.count()}, pausedUntil: r.time()}
	r.Failed = r.Failed || f.high.sequence == 0
	var last feedMark
	for len(r.Rest) > 0 && !r.Failed {
		m := feedMark{position: position{last.sequence + r.Uvarint(), r.count()}}
		failed := r.count()
		m.failed, m.transient = failed>>1, failed&1 == 1
		m.firstFailed, m.due = r.time(), r.time()
		ordered := m.sequence >= last.sequence && (len(f.marks) == 0 || last.before(m.position))
		r.Failed = r.Failed || !ordered || m.sequence == 0 || !m.before(f.high)
		f.marks, last = append(f.marks, m), m
	}
	if r.Failed {
		return feedRecord{}, errRecord
	}
	return f, nil
}

// count reads a number that must be small.
func (r *recordReader) count() int {
	n := r.Uvarint()
	if n > math.MaxInt32 {
		r.Failed, r.Rest = true, nil
		return 0
	}
	return int(n)
}

func (r *recordReader) time() time.Time {
	n := r.Uvarint()
	if n == 0 || n > math.MaxInt64 {
		r.Failed = r.Failed || n != 0
		return time.Time{}
	}
	return time.Unix(0, int64(n))
}

// A record beyond largeRecord is written at most once in largeInterval.
const (
	largeRecord   = 16 << 10
	largeInterval = time.Second
)

// feedKeeper decides when the loop's record is written. A goroutine of its own writes it.
type feedKeeper struct {
	interval time.Duration
	records  chan []byte // to the writer, one at a time
	written  chan error  // from it

	dirty      bool
	dirtySince time.Time
	urgent     bool
	writing    bool
	taken      bool      // another process writes the record
	startedAt  time.Time // when the last write began
	notBefore  time.Time // after a failed one
	done       uint64    // FeedState.Done of the record that is being written
	onRecord   uint64    // and of the last one that was
	buffer     []byte
}

// touch says that the record has changed.
func (k *feedKeeper) touch(now time.Time, urgent bool) {
	if !k.dirty {
		k.dirty, k.dirtySince = true, now
	}
	k.urgent = k.urgent || urgent
}

// dueAt is when the record is to be written; zero for not at all.
func (k *feedKeeper) dueAt() time.Time {
	if !k.dirty || k.writing || k.taken {
		return time.Time{}
	}
	at := k.dirtySince
	if !k.urgent {
		at = at.Add(k.interval)
	}
	if len(k.buffer) > largeRecord {
		at = later(at, k.startedAt.Add(largeInterval))
	}
	return later(at, k.notBefore)
}

// ended notes what became of a write.
func (k *feedKeeper) ended(now time.Time, err error) {
	k.writing = false
	if err == nil {
		k.onRecord = k.done
		return
	}
	k.touch(now, true)
	k.notBefore = now.Add(time.Second)
}

// keep writes records until there are no more; ctx does not end before.
func (k *feedKeeper) keep(ctx context.Context, record *keptRecord) {
	for data := range k.records {
		k.written <- writeRecord(ctx, record, data)
	}
}

func writeRecord(ctx context.Context, record *keptRecord, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := record.settle(ctx); err != nil {
		return err
	}
	return record.write(ctx, data)
}

// write hands the record of the moment to the writer, who must have none.
func (l *feedLoop) write(now time.Time) {
	k := &l.keeper
	k.dirty, k.urgent, k.writing, k.startedAt = false, false, true, now
	k.done = l.done()
	k.buffer = l.appendRecord(k.buffer[:0])
	k.records <- k.buffer
}

// appendRecord writes down where the feed stands.
func (l *feedLoop) appendRecord(dst []byte) []byte {
	switch first := l.events.first; {
	case len(l.pending) > 0: // then high is as it was read
	case first == nil:
		if next := (position{l.lastRead + 1, 0}); l.high.before(next) { // at a start high may be within a block
			l.high = next
		}
	case l.high.before(first.position):
		l.high = first.position
	}
	dst = appendFeedHead(dst, l.feed.id, l.high, l.brake.pausedUntil)
	var last uint64
	for e := l.events.first; e != nil && e.before(l.high); e = e.next {
		dst = appendMark(dst, last, &feedMark{e.position, e.failed, e.transient, e.firstFailed, e.due})
		last = e.sequence
	}
	for i := range l.pending {
		dst = appendMark(dst, last, &l.pending[i])
		last = l.pending[i].sequence
	}
	return dst
}

// done is FeedState.Done of the moment.
func (l *feedLoop) done() uint64 {
	switch {
	case l.events.first != nil:
		return l.events.first.earlier
	case len(l.pending) > 0:
		return l.pending[0].sequence - 1
	}
	return l.lastRead
}

// wrote takes note of how a write ended.
func (l *feedLoop) wrote(err error) error {
	l.keeper.ended(time.Now(), err)
	switch {
	case errors.Is(err, ErrShardTaken):
		l.keeper.taken = true
		return fmt.Errorf("write cursor of feed %s: %w", l.cfg.Name, err)
	case err != nil && l.feed.complaints.due():
		l.feed.log.Error().Err(err).Msg("cannot write the cursor; trying again")
	}
	return nil
}

// load reads the record, or makes the first one: at the end of what is stored.
func (f *Feed) load(ctx context.Context) (feedRecord, error) {
	f.record = keptRecord{js: f.cfg.JetStream, subject: staffetta.FeedCursorSubject(f.cfg.Name), writer: f.id}
	data, err := f.record.read(ctx)
	if err != nil {
		return feedRecord{}, err
	}
	if data != nil {
		return parseFeedRecord(data)
	}
	last, err := f.lastStored(ctx)
	if err != nil {
		return feedRecord{}, err
	}
	r := feedRecord{writer: f.id, high: position{last + 1, 0}}
	return r, f.record.write(ctx, appendFeedHead(nil, f.id, r.high, time.Time{}))
}
