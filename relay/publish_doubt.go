package relay

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/staffetta-relay/staffetta"
)

const (
	// doubtWait bounds one try to clear a doubt, barrierWait the first part of it. doubtPause is the time
	// before the first, and twice as long before each of the next: where a connection was cut the server may
	// still be at what it had read of it.
	doubtWait     = 5 * time.Second
	barrierWait   = time.Second
	doubtPause    = 250 * time.Millisecond
	doubtPauseMax = 4 * time.Second
)

var errCut = fmt.Errorf("the connection to the store was cut: %w", errPressure)

// cutOff doubts what was on its way on a connection that was lost and found again: some of it may have
// reached the store.
func (p *publisher) cutOff(conn *nats.Conn) {
	for _, l := range p.lines {
		if l.conn == conn {
			l.mu.Lock()
			l.doubted(errCut)
			l.mu.Unlock()
		}
	}
}

// clear looks up what of the run in doubt is stored, and goes on. It tries until it knows or ctx ends:
// a wrong guess would store events twice, or have a lane miss one.
func (l *line) clear(ctx context.Context) {
	l.mu.Lock()
	run, last := l.run, l.last // nobody changes them while there is a doubt
	l.mu.Unlock()
	for wait := doubtPause; ; wait = min(2*wait, doubtPauseMax) {
		pause(ctx, wait)
		sequences, end, err := l.lookUp(ctx, run, last)
		if err == nil {
			l.cleared(sequences, end)
			return
		}
		if ctx.Err() != nil {
			return
		}
		l.p.cfg.log.Error().Err(err).Int("shard", l.shard).Msg("cannot look up what is stored; trying again, and taking no events for the shard")
	}
}

// lookUp gives the sequence of every copy of a run, 0 where it is not stored, and where the stream ends.
// The run's copies are stored in their order behind last, if at all.
func (l *line) lookUp(ctx context.Context, run []*eventCopy, last uint64) (sequences []uint64, end uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, doubtWait)
	defer cancel()
	if err := l.passThrough(ctx, run[0].route.Subject); err != nil {
		return nil, 0, err
	}
	stream, err := l.p.cfg.js.Stream(ctx, staffetta.EventStream(l.shard))
	if err != nil {
		return nil, 0, fmt.Errorf("read the stream's end: %w", err)
	}
	end = stream.CachedInfo().State.LastSeq
	sequences = make([]uint64, len(run))
	if end <= last {
		return sequences, last, nil
	}
	next := 0
	events := eventShelf(l.p.cfg.reads, l.shard)
	err = events.each(ctx, staffetta.EventSubjects(l.shard), last+1, end, 0, func(m *shelved) error {
		for i := next; i < len(run); i++ {
			if c := run[i]; c.route.Subject == m.subject && c.event.is(m) {
				sequences[i], next = m.sequence, i+1
				return nil
			}
		}
		l.p.cfg.unheard(l.shard, endpointOfSubject(m.subject)) // not of this run: its lane sees for itself
		return nil
	})
	return sequences, end, err
}

// is reports whether a stored message is the event.
func (e *storedEvent) is(m *shelved) bool {
	return e.ID == m.eventID && e.Replay == m.replay && e.Key == m.key && bytes.Equal(e.Payload, m.data)
}

// passThrough returns once the store has dealt with all that was sent over the connection before: a
// message that it must refuse takes the same way.
func (l *line) passThrough(ctx context.Context, subject string) error {
	ctx, cancel := context.WithTimeout(ctx, barrierWait)
	defer cancel()
	m := nats.NewMsg(subject)
	m.Header.Set("Nats-Expected-Last-Sequence", "9223372036854775807")
	answer, err := l.conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return fmt.Errorf("wait for the store: %w", err)
	}
	if len(answer.Data) == 0 {
		return fmt.Errorf("wait for the store: no stream answers")
	}
	return nil
}

// cleared settles a run that was looked up.
func (l *line) cleared(sequences []uint64, end uint64) {
	for i, c := range l.run {
		if sequences[i] == 0 {
			c.group.fail(fmt.Errorf("the store did not take the event: %w", errPressure))
		} else {
			c.confirmed(l.p, sequences[i])
		}
		c.group.answered()
	}
	l.mu.Lock()
	l.last = end
	l.mu.Unlock()
	l.next()
}
