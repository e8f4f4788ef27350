package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/semaphore"
)

const (
	// lineRoom bounds the copies of one shard that are in line or on their way.
	lineRoom = 4096
	// lineEarly is how many copies in line go without waiting for a flush.
	lineEarly = 64
	// runCopies and runBytes bound what goes into the store in one go.
	runCopies = 512
	runBytes  = 2 << 20
	// runWait is how long an answer may take before the store is asked what it has.
	runWait = 30 * time.Second
)

// line is the way of one shard's copies into its stream, in order. One run of them is on its way at a
// time, and only the last of a run asks the store for an answer: a stream takes its messages in their
// order, and nobody else writes to it, so the answer's sequence says whether all are stored. What comes
// in the meantime is the next run; so under load an answer is paid for by many copies.
type line struct {
	p     *publisher
	shard int
	conn  *nats.Conn
	inbox string
	room  *semaphore.Weighted

	mu      sync.Mutex
	waiting []*eventCopy
	run     []*eventCopy
	state   runState
	number  uint64    // of the run, or of the last one
	since   time.Time // when it was sent
	last    uint64    // sequence of the last message that is known to be in the stream
}

// runState is what becomes of a line's run.
type runState uint8

const (
	runNone     runState = iota
	runUnderWay          // an answer is awaited
	runAnswered          // its requests and lanes are being told
	runDoubtful          // nobody knows what of it is stored, see publish_doubt.go
)

func newLine(p *publisher, shard int, conn *nats.Conn, inbox string, last uint64) *line {
	return &line{
		p: p, shard: shard, conn: conn, inbox: inbox + "." + strconv.Itoa(shard) + ".",
		room: semaphore.NewWeighted(lineRoom), last: last,
	}
}

// add puts a copy in line. Where there is no room it waits for some.
func (l *line) add(ctx context.Context, c *eventCopy) error {
	if !l.room.TryAcquire(1) {
		l.flush()
		if err := l.room.Acquire(ctx, 1); err != nil {
			return fmt.Errorf("wait for room to publish: %w", errPressure)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, c)
	if len(l.waiting) >= lineEarly {
		l.start()
	}
	return nil
}

// copies says how many are in line or on their way.
func (l *line) copies() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) + len(l.run)
}

// flush sends what is in line on its way, unless a run is: the next one follows it.
func (l *line) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.start()
}

// start begins the next run where there is none. The lock is held.
func (l *line) start() {
	if l.state != runNone {
		if l.state == runUnderWay && time.Since(l.since) > runWait {
			l.doubted(fmt.Errorf("no answer for %s", runWait))
		}
		return
	}
	if l.take(); len(l.run) == 0 {
		return
	}
	l.state, l.since = runUnderWay, time.Now()
	l.number++
	life := l.conn.Stats().Reconnects
	for i, c := range l.run {
		if l.conn.Stats().Reconnects != life { // the end of the run must not go without its beginning
			l.doubted(errCut)
			return
		}
		m := nats.Msg{Subject: c.route.Subject, Data: c.event.data}
		if i == len(l.run)-1 {
			m.Reply = l.inbox + strconv.FormatUint(l.number, 10)
		}
		if c.name != "" {
			m.Header = nats.Header{nats.MsgIdHdr: []string{c.name}}
		}
		if err := l.conn.PublishMsg(&m); err != nil {
			l.doubted(err)
			return
		}
	}
}

// take makes a run of the first copies in line. One with a name goes alone: the store may know it, and
// then it gets no sequence. The lock is held.
func (l *line) take() {
	n, size := 0, 0
	for ; n < len(l.waiting) && len(l.run) < runCopies; n++ {
		c := l.waiting[n]
		if c.group.abandoned.Load() || c.group.failed() != nil { // its producer sends all of it again, in order
			l.room.Release(1)
			c.group.fail(errPressure)
			c.group.answered()
			continue
		}
		if len(l.run) > 0 && (c.name != "" || l.run[0].name != "" || size+len(c.event.data) > runBytes) {
			break
		}
		size += len(c.event.data)
		l.run = append(l.run, c)
	}
	left := copy(l.waiting, l.waiting[n:])
	clear(l.waiting[left:])
	l.waiting = l.waiting[:left]
}

// doubted says that nobody knows what of the run is stored. The lock is held.
func (l *line) doubted(err error) {
	if l.state != runUnderWay {
		return
	}
	l.state = runDoubtful
	l.p.cfg.log.Warn().Err(err).Int("shard", l.shard).Int("copies", len(l.run)).Msg("looking up in the store what of the last events is stored")
	l.p.doubtful <- l // there is room for all lines, and each is in it once
}

// answer takes the store's word on a run.
func (p *publisher) answer(m *nats.Msg) {
	rest, number := cutLast(m.Subject)
	_, shard := cutLast(rest)
	n, err1 := strconv.ParseUint(number, 10, 64)
	s, err2 := strconv.Atoi(shard)
	if err1 == nil && err2 == nil && s >= 0 && s < len(p.lines) {
		p.lines[s].answer(n, m.Data)
	}
}

// cutLast takes the last token off a subject.
func cutLast(subject string) (before, token string) {
	i := strings.LastIndexByte(subject, '.')
	return subject[:max(i, 0)], subject[i+1:]
}

func (l *line) answer(number uint64, data []byte) {
	sequence, duplicate, err := parsePubAck(data)
	l.mu.Lock()
	if number != l.number || l.state != runUnderWay {
		l.mu.Unlock()
		return
	}
	n := uint64(len(l.run))
	if why := doubtful(n, l.last, sequence, duplicate, err); why != nil {
		l.doubted(why)
		l.mu.Unlock()
		return
	}
	if err == nil && !duplicate {
		l.last = sequence
	}
	l.state = runAnswered
	l.mu.Unlock()
	for i, c := range l.run {
		switch {
		case err != nil:
			c.group.fail(err)
		case duplicate:
			c.known(l.p)
		default:
			c.confirmed(l.p, sequence-n+1+uint64(i))
		}
		c.group.answered()
	}
	l.next()
}

// doubtful says why an answer to a run of n copies behind last does not tell what became of them, or nil.
// Of one copy alone an error or a duplicate does.
func doubtful(n, last, sequence uint64, duplicate bool, err error) error {
	switch {
	case err != nil && n > 1:
		return err
	case err != nil || duplicate && n == 1:
		return nil
	case sequence != last+n:
		return fmt.Errorf("the stream ends at %d, not at %d", sequence, last+n)
	default:
		return nil
	}
}

// next begins the next run: all that the one before was for has been told, so the lanes hear of a
// shard's events in the order of its sequences.
func (l *line) next() {
	l.room.Release(int64(len(l.run)))
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.run)
	l.run, l.state = l.run[:0], runNone
	l.start()
}

// confirmed says that the store has taken the copy.
func (c *eventCopy) confirmed(p *publisher, sequence uint64) {
	c.stored = true
	p.copies.Add(1)
	p.cfg.stored(c.route.Shard, c.route.Endpoint, sequence, c.event.Event(), c.event.Replay)
}

// known says that the store had a copy of the same name.
func (c *eventCopy) known(p *publisher) {
	c.stored = true
	c.group.duplicates.Add(1)
	p.cfg.unheard(c.route.Shard, c.route.Endpoint)
}

// parsePubAck reads the store's answer. The usual one is told by its shape, without a decoder.
func parsePubAck(data []byte) (sequence uint64, duplicate bool, err error) {
	if _, digits, ok := bytes.Cut(data, []byte(`"seq":`)); ok && !bytes.Contains(data, []byte(`"error"`)) {
		digits = bytes.TrimLeft(digits, " ")
		for len(digits) > 0 && digits[0] >= '0' && digits[0] <= '9' {
			sequence, digits = sequence*10+uint64(digits[0]-'0'), digits[1:]
		}
		return sequence, bytes.Contains(digits, []byte(`"duplicate"`)), nil
	}
	if len(data) == 0 {
		return 0, false, fmt.Errorf("no stream answers: %w", errPressure)
	}
	var answer struct {
		Error struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return 0, false, fmt.Errorf("read the store's answer: %w", err)
	}
	return 0, false, fmt.Errorf("the store refuses (%d %s): %w", answer.Error.Code, answer.Error.Description, errPressure)
}
