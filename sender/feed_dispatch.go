package sender

import (
	"time"

	"github.com/staffetta-relay/staffetta"
)

// dispatch starts the calls that may start.
func (l *feedLoop) dispatch(now time.Time) {
	l.blockedTo = time.Time{}
	if l.stopping {
		return
	}
	for l.doomed.first != nil && l.trying+l.dropping < l.cfg.Concurrency {
		l.startDrop(l.doomed.pop())
	}
	for l.ready.first != nil && l.trying+l.dropping < l.cfg.Concurrency {
		if l.brake.down && l.trying > 0 {
			return // its end says how to go on
		}
		if l.brake.down && !l.brake.probeAt.After(now) {
			l.ready.bringForward(untried)
		}
		lane := l.ready.first
		at := l.brake.opensAt(now, lane.head.position)
		switch {
		case !at.After(now):
			l.ready.pop()
			if l.tooOld(lane.head, now) {
				lane.head.doomed = true
				lane.head.outcome = staffetta.Outcome{Error: staffetta.ErrorHeld, Detail: "older than " + l.cfg.MaxAge.String()}
				l.startDrop(lane)
				continue
			}
			l.startTry(lane, now)
		case l.ready.last != lane && l.brake.suspects(lane.head.position):
			l.ready.push(l.ready.pop()) // what it waits for does not hold back the others
		default:
			l.blockedTo = at
			return
		}
	}
}

// untried reports whether a lane's head was never tried. Such events are the better probes: those that
// the target has refused may be refused by a target that is well.
func untried(lane *feedLane) bool { return lane.head.failed == 0 }

func (l *feedLoop) tooOld(e *feedEvent, now time.Time) bool {
	return l.cfg.MaxAge > 0 && now.Sub(e.storedAt) > l.cfg.MaxAge
}

// startTry hands the head of lane over, and what may go with it.
func (l *feedLoop) startTry(lane *feedLane, now time.Time) {
	c := l.newCall()
	c.probe = l.brake.down
	limit := l.cfg.Batch
	if c.probe {
		limit = 1
	}
	for e := lane.head; e != nil && len(c.events) < limit; e = e.behind {
		if e != lane.head && e.due.After(now) {
			break
		}
		l.include(c, e)
	}
	for l.cfg.Order == OrderNone && len(c.events) < limit && l.ready.first != nil && !l.tooOld(l.ready.first.head, now) {
		l.include(c, l.ready.pop().head)
	}
	l.brake.start(now, len(c.events))
	l.trying++
	l.calls <- c
}

// startDrop puts the head of lane on record as dropped.
func (l *feedLoop) startDrop(lane *feedLane) {
	c := l.newCall()
	c.drop, c.last = true, lane.head.outcome
	l.include(c, lane.head)
	l.dropping++
	l.calls <- c
}

func (l *feedLoop) include(c *feedCall, e *feedEvent) {
	c.events = append(c.events, e)
	e.lane.state = laneInCall
	l.inFlight++
	if behind := (position{e.sequence, e.index + 1}); l.high.before(behind) {
		l.high = behind
	}
}

func (l *feedLoop) newCall() *feedCall {
	n := len(l.freeCalls)
	if n == 0 {
		return new(feedCall)
	}
	c := l.freeCalls[n-1]
	l.freeCalls = l.freeCalls[:n-1]
	return c
}

// end takes what became of a call.
func (l *feedLoop) end(c *feedCall) {
	if c.drop {
		l.dropping--
	} else {
		l.trying--
	}
	l.inFlight -= len(c.events)
	if c.accepted > 0 {
		l.succeeded(c)
	}
	if c.handed.RetryAfter > 0 {
		l.brake.pause(c.endedAt, c.handed.RetryAfter)
		l.keeper.touch(c.endedAt, true)
	}
	now := time.Now()
	for i, e := range c.events {
		lane := e.lane
		last := i+1 == len(c.events) || c.events[i+1].lane != lane
		switch {
		case i < c.accepted:
			l.settle(e)
		case i == c.accepted:
			l.decide(c, e)
		}
		if last {
			l.adopt(c.fetched, lane, now)
			l.place(lane, now)
		}
	}
	for _, b := range c.fetched {
		if b.needed == 0 {
			l.feed.freeBlock(b)
		}
	}
	c.reset()
	l.freeCalls = append(l.freeCalls, c)
}

// succeeded takes notice of a target that took something.
func (l *feedLoop) succeeded(c *feedCall) {
	l.keeper.touch(c.endedAt, false)
	l.state.Delivered += uint64(c.accepted)
	l.state.LastSuccessAt = c.endedAt
	l.state.LastError, l.state.LastErrorAt = "", time.Time{}
	l.answered(c)
}

// decide does what was decided on the event behind the accepted ones.
func (l *feedLoop) decide(c *feedCall, e *feedEvent) {
	switch {
	case c.gone:
		l.feed.log.Error().Uint64("sequence", e.sequence).Int("index", e.index).
			Msg("an event is no longer stored, or cannot be read any more; it is passed over")
		l.keeper.touch(c.endedAt, false)
		l.settle(e)
	case c.fetchErr != nil:
		if !l.stopping && l.feed.complaints.due() {
			l.feed.log.Error().Err(c.fetchErr).Msg("cannot read an event again; trying again")
		}
		e.due = c.endedAt.Add(time.Second)
	case c.drop:
		l.dropped(c, e)
	case !c.failed: // the call was cut short before it
	case c.verdict.Action == staffetta.Again:
		l.noteFailure(c)
		e.due, e.transient = c.endedAt.Add(c.verdict.Wait), true
		l.keeper.touch(c.endedAt, false)
	default:
		l.failed(c, e)
	}
}

// failed counts a failed attempt.
func (l *feedLoop) failed(c *feedCall, e *feedEvent) {
	l.state.Failed++
	l.noteFailure(c)
	e.failed++
	if e.firstFailed.IsZero() {
		e.firstFailed = c.endedAt
	}
	l.judge(c, e)
	if c.verdict.Action == staffetta.Drop {
		l.dropped(c, e)
		return
	}
	e.due, e.transient = c.endedAt.Add(c.verdict.Wait), transient(c.outcome)
	l.keeper.touch(c.endedAt, true)
}

// judge says what a failed attempt tells of the target: that it takes nothing, that it is there and
// refuses this event alone, or, with a 500, neither.
func (l *feedLoop) judge(c *feedCall, e *feedEvent) {
	switch {
	case c.handed.Permanent:
	case transient(c.outcome), c.probe && c.outcome.Status >= 500:
		if l.brake.failed(c.endedAt, e.position, c.probe) {
			l.feed.log.Warn().Stringer("outcome", c.outcome).
				Msg("the target takes nothing; trying it with one event at a time")
		}
	case c.outcome.Status < 500:
		l.answered(c)
	}
}

// answered notes that the target is there.
func (l *feedLoop) answered(c *feedCall) {
	if l.brake.succeeded() {
		l.feed.log.Info().Msg("the target takes events again")
		l.revive(c.endedAt)
	}
}

// dropped settles an event whose drop is on record. While that cannot be made its key stands still: an
// event may be late, but not lost without a trace.
func (l *feedLoop) dropped(c *feedCall, e *feedEvent) {
	l.keeper.touch(c.endedAt, true)
	if c.dropErr == nil {
		l.state.Dropped++
		l.settle(e)
		return
	}
	e.doomed, e.outcome, e.due = true, c.outcome, c.endedAt.Add(time.Second)
}

// adopt keeps the payloads of a lane's next events, where a block that was read again has them.
func (l *feedLoop) adopt(blocks []*feedBlock, lane *feedLane, now time.Time) {
	if len(blocks) == 0 || lane.head == nil || lane.head.due.After(now) {
		return
	}
	e := lane.head
	for e != nil && e.block != nil {
		e = e.behind
	}
	for _, b := range blocks {
		if e != nil && e.sequence == b.sequence && b.needed == 0 && l.bytes < l.cfg.MaxReadBytes {
			l.bytes += b.size
			for ; e != nil && e.sequence == b.sequence && e.index < len(b.entries); e = e.behind {
				l.take(e, b)
			}
		}
	}
}

// noteFailure shows what the last failed attempt came to.
func (l *feedLoop) noteFailure(c *feedCall) {
	l.state.LastError, l.state.LastErrorAt = c.outcome.String(), c.endedAt
}
