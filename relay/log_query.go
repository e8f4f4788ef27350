package relay

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
)

// The bounds of a query. One that reaches them ends early with what it has found and a position to
// go on from.
const (
	logQueries      = 4 // at once
	logQueryBlocks  = 2000
	logQueryTime    = 150 * time.Millisecond
	logQueryFlush   = 250 * time.Millisecond
	logQueryPatient = 2 * time.Second
)

const (
	minMicros = math.MinInt64
	maxMicros = math.MaxInt64
)

// AttemptFilter says which attempts are wanted. What is zero is not asked for, but for Workspace.
type AttemptFilter struct {
	Workspace string
	Endpoint  string
	EventID   string
	EventType string
	// Outcome is delivered, retry or dropped.
	Outcome string
	// Status is a status as 500, a class of them as 5xx, or the name of a staffetta.ErrorKind.
	Status string
	// Since and Until bound when the attempt started; Until is not in it.
	Since, Until time.Time
}

// logFilter is an AttemptFilter made ready.
type logFilter struct {
	AttemptFilter
	action      int // -1 for any
	status      int // -1 for any; 1 to 5 is a class
	errorKind   staffetta.ErrorKind
	eventUUID   [16]byte
	eventIsUUID bool
	since       int64 // microseconds
	until       int64
	keys        []uint64 // all of which a segment must have
}

// compile checks the filter.
func (f AttemptFilter) compile() (logFilter, error) {
	c := logFilter{AttemptFilter: f, action: -1, status: -1, since: minMicros, until: maxMicros}
	if f.Outcome != "" {
		c.action = slices.IndexFunc(logActions, func(a staffetta.Action) bool { return a.String() == f.Outcome })
		if c.action < 0 {
			return c, bodyError("invalid_outcome", "outcome", "must be delivered, retry or dropped")
		}
		c.action = int(logActions[c.action])
	}
	if err := c.compileStatus(f.Status); err != nil {
		return c, err
	}
	c.eventUUID, c.eventIsUUID = parseUUID(f.EventID)
	if !f.Since.IsZero() {
		c.since = f.Since.UnixMicro()
	}
	if !f.Until.IsZero() {
		c.until = f.Until.UnixMicro()
	}
	c.compileKeys()
	return c, nil
}

var logActions = []staffetta.Action{staffetta.Deliver, staffetta.Retry, staffetta.Drop}

func (c *logFilter) compileStatus(text string) error {
	if text == "" {
		return nil
	}
	for _, kind := range staffetta.ErrorKinds() {
		if kind != staffetta.ErrorNone && kind.String() == text {
			c.errorKind, c.status = kind, 0
			return nil
		}
	}
	if len(text) == 3 && text[0] >= '1' && text[0] <= '9' {
		if text[1:] == "xx" {
			c.status = int(text[0] - '0')
			return nil
		}
		if d, e := text[1]-'0', text[2]-'0'; d <= 9 && e <= 9 {
			c.status = int(text[0]-'0')*100 + int(d)*10 + int(e)
			return nil
		}
	}
	return bodyError("invalid_status", "status", "must be a status such as 500, a class such as 5xx, or a kind of error such as timeout")
}

func (c *logFilter) compileKeys() {
	hash := func(s string) uint64 { return maphash.String(logSeed, s) }
	w := hash(c.Workspace)
	add := func(kind int, value uint64) { c.keys = append(c.keys, logKey(kind, w, value)) }
	switch {
	case c.eventIsUUID:
		add(logByEvent, maphash.Bytes(logSeed, c.eventUUID[:]))
	case c.EventID != "":
		add(logByEvent, hash(c.EventID))
	}
	switch {
	case c.Endpoint != "" && c.action > int(staffetta.Deliver):
		add(logByEndpointOutcome, hash(c.Endpoint)+uint64(c.action))
	case c.Endpoint != "":
		add(logByEndpoint, hash(c.Endpoint))
	case c.action > int(staffetta.Deliver):
		add(logByOutcome, uint64(c.action))
	}
	if c.status >= 0 && c.status != 200 && c.status != 2 {
		add(logByStatus, logStatusValue(uint64(c.status), c.errorKind))
	}
	if c.EventType != "" {
		add(logByType, hash(c.EventType))
	}
	if len(c.keys) == 0 {
		add(logByWorkspace, 0)
	}
}

// mayHave reports whether a segment can have a record that the filter wants.
func (c *logFilter) mayHave(s *logSegment) bool {
	if s.latest < c.since || s.earliest >= c.until {
		return false
	}
	for _, key := range c.keys {
		if !s.has(key) {
			return false
		}
	}
	return true
}

// matches reports whether the filter wants a record.
func (c *logFilter) matches(r *logReader, rec *logRecord) bool {
	switch {
	case rec.at < c.since || rec.at >= c.until,
		c.action >= 0 && rec.action() != staffetta.Action(c.action),
		c.status >= 0 && !c.wantsStatus(rec),
		string(r.text(rec.workspace)) != c.Workspace,
		c.Endpoint != "" && string(r.text(rec.endpoint)) != c.Endpoint,
		c.EventType != "" && string(r.text(rec.eventType)) != c.EventType:
		return false
	case c.EventID == "":
		return true
	case c.eventIsUUID:
		return rec.flags&logUUID != 0 && string(rec.eventID) == string(c.eventUUID[:])
	default:
		return rec.flags&logUUID == 0 && string(rec.eventID) == c.EventID
	}
}

func (c *logFilter) wantsStatus(rec *logRecord) bool {
	if c.errorKind != staffetta.ErrorNone || rec.error != staffetta.ErrorNone {
		return rec.error == c.errorKind
	}
	if c.status < 10 {
		return rec.status/100 == uint64(c.status)
	}
	return rec.status == uint64(c.status)
}

// AttemptPage is a part of the log, newest first.
type AttemptPage struct {
	Attempts []LoggedAttempt
	// Next is where to go on; nil at the end of the log. A query that had to look through too much
	// gives one with few attempts or none.
	Next *LogPosition
}

// errLogBusy says that too many query the log at the same time.
var errLogBusy = fmt.Errorf("too many queries of the attempt log at once: %w", ErrUnavailable)

// Query gives up to limit attempts, newest first: in the reverse order of their decisions. before is
// the Next of the page before it, or nil for the newest; pages neither repeat nor leave out an
// attempt while new ones come. It sees everything recorded before it that the store takes.
func (l *AttemptLog) Query(ctx context.Context, f AttemptFilter, before *LogPosition, limit int) (AttemptPage, error) {
	filter, err := f.compile()
	if err != nil {
		return AttemptPage{}, err
	}
	patient, cancel := context.WithTimeout(ctx, logQueryPatient)
	defer cancel()
	if err := l.queries.Acquire(patient, 1); err != nil {
		return AttemptPage{}, errLogBusy
	}
	defer l.queries.Release(1)
	if before == nil {
		flush, cancel := context.WithTimeout(ctx, logQueryFlush)
		_ = l.Flush(flush) // a store that refuses has what it has
		cancel()
	}
	q := logQuery{
		log: l, filter: filter, limit: limit, blocks: logQueryBlocks, until: time.Now().Add(logQueryTime),
		before: LogPosition{Sequence: math.MaxUint64},
	}
	if before != nil {
		q.before = *before
	}
	if err := q.run(ctx); err != nil {
		return AttemptPage{}, err
	}
	return q.page, nil
}

// logQuery is one query under way.
type logQuery struct {
	log    *AttemptLog
	filter logFilter
	before LogPosition
	limit  int
	blocks int // that it may still read
	until  time.Time
	reader logReader
	found  []LoggedAttempt // of one block
	page   AttemptPage
}

func (q *logQuery) run(ctx context.Context) error {
	parts := q.log.index.segments()
	for _, part := range slices.Backward(parts) {
		for i := len(part) - 1; i >= 0; i-- {
			s := &part[i]
			if s.first > q.before.Sequence || !q.filter.mayHave(s) {
				continue
			}
			if done, err := q.segment(ctx, s); done || err != nil {
				return err
			}
		}
	}
	return nil
}

// segment reads the blocks of a segment, newest first. It reports true where the page ends.
func (q *logQuery) segment(ctx context.Context, s *logSegment) (bool, error) {
	for sequence := min(s.last, q.before.Sequence); sequence >= s.first && sequence > 0; sequence-- {
		// One block is read whatever the clock says, so that the next page begins further on.
		if q.blocks == 0 || q.blocks < logQueryBlocks && time.Now().After(q.until) {
			q.page.Next = &LogPosition{Sequence: sequence, Index: math.MaxInt}
			return true, nil
		}
		q.blocks--
		done, err := q.block(ctx, sequence)
		if done || err != nil {
			return done, err
		}
	}
	return false, nil
}

func (q *logQuery) block(ctx context.Context, sequence uint64) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, logStoreTimeout)
	defer cancel()
	m, err := q.log.stream.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) { // evicted
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read attempt log: %w: %w", ErrUnavailable, err)
	}
	q.found = q.found[:0]
	if err := q.reader.open(m.Data); err != nil {
		return false, nil // the index has said so
	}
	for {
		var rec logRecord
		ok, err := q.reader.next(&rec)
		if !ok || err != nil || sequence == q.before.Sequence && rec.index >= q.before.Index {
			break
		}
		if q.filter.matches(&q.reader, &rec) {
			q.found = append(q.found, q.reader.logged(sequence, &rec))
		}
	}
	for i, a := range slices.Backward(q.found) {
		q.page.Attempts = append(q.page.Attempts, a)
		if len(q.page.Attempts) == q.limit {
			if i > 0 || sequence > q.log.index.oldest() {
				q.page.Next = &LogPosition{Sequence: sequence, Index: a.Position.Index}
			}
			return true, nil
		}
	}
	return false, nil
}

// String is the position as a cursor: opaque, and good for as long as there is a log.
func (p LogPosition) String() string {
	b := binary.AppendUvarint(make([]byte, 0, 16), p.Sequence)
	return base64.RawURLEncoding.EncodeToString(binary.AppendUvarint(b, uint64(p.Index)))
}

// ParseLogPosition reads what String wrote.
func ParseLogPosition(text string) (LogPosition, bool) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) > 2*binary.MaxVarintLen64 {
		return LogPosition{}, false
	}
	sequence, n := binary.Uvarint(raw)
	if n <= 0 {
		return LogPosition{}, false
	}
	index, m := binary.Uvarint(raw[n:])
	if m <= 0 || n+m != len(raw) || index > math.MaxInt {
		return LogPosition{}, false
	}
	return LogPosition{sequence, int(index)}, true
}
