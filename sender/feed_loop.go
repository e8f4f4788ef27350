package sender

import (
	"context"
	"slices"
	"time"
)

// feedLoop owns all that a running feed knows; it is one goroutine's. Workers hand events over, the
// reader brings them, the keeper's writer writes the record: each over channels.
type feedLoop struct {
	feed   *Feed
	cfg    *FeedConfig
	blocks <-chan *feedBlock
	calls  chan *feedCall // to the workers
	ended  chan *feedCall // from them
	keeper feedKeeper
	brake  brake

	timer   *time.Timer
	armedTo time.Time

	events   feedEvents
	lanes    map[string]*feedLane // those that more events may come to
	ready    laneQueue            // lanes whose head may be tried
	doomed   laneQueue            // lanes whose head is to be put on record as dropped
	waits    laneWaits
	waiting  int        // events in them
	atHand   int        // events whose payload is
	bytes    int        // of the blocks that these are in
	pending  []feedMark // events of the record whose block was not read yet
	high     position   // below it everything is settled or goes on record
	from     position   // where the reading goes on behind the record's events
	lastRead uint64

	trying    int // calls under way that hand over
	dropping  int // and that put a drop on record
	inFlight  int // events in all of them
	blockedTo time.Time
	stopping  bool

	freeLanes []*feedLane
	freeCalls []*feedCall
	state     FeedState
}

func newFeedLoop(f *Feed, blocks <-chan *feedBlock) *feedLoop {
	n := f.cfg.Concurrency
	l := &feedLoop{
		feed: f, cfg: &f.cfg, blocks: blocks,
		calls: make(chan *feedCall, n), ended: make(chan *feedCall, n),
		keeper: feedKeeper{interval: f.cfg.CursorInterval, records: make(chan []byte, 1), written: make(chan error, 1)},
		brake:  newBrake(f.cfg.Rate),
		timer:  time.NewTimer(time.Hour),
		lanes:  make(map[string]*feedLane),
		high:   f.start.high, from: f.start.high, lastRead: f.start.high.sequence - 1,
		pending: slices.Clone(f.start.marks),
		state:   f.State(),
	}
	l.brake.pausedUntil = f.start.pausedUntil
	if limit := time.Now().Add(maxPause); l.brake.pausedUntil.After(limit) { // a clock may have been set back
		l.brake.pausedUntil = limit
	}
	l.keeper.onRecord = l.state.DoneOnRecord
	l.keeper.touch(time.Now(), true) // the record is ours from now on
	return l
}

// run goes on until ctx ends or the record was written by another process.
func (l *feedLoop) run(ctx context.Context, stopReading, cutOff func()) error {
	defer l.timer.Stop()
	done := ctx.Done()
	var err error
	var patience *time.Timer
	stop := func() {
		if l.stopping {
			return
		}
		l.stopping, done = true, nil
		stopReading()
		patience = time.AfterFunc(l.cfg.StopWait, cutOff)
	}
	for {
		now := time.Now()
		l.wake(now)
		l.dispatch(now)
		if at := l.keeper.dueAt(); !at.IsZero() && !at.After(now) {
			l.write(now)
		}
		l.publish()
		if l.stopping && l.trying+l.dropping == 0 {
			break
		}
		l.arm(now)
		select {
		case c := <-l.ended:
			l.end(c)
			for range len(l.ended) {
				l.end(<-l.ended)
			}
		case b := <-l.readable():
			l.admit(b)
		case e := <-l.keeper.written:
			if e = l.wrote(e); e != nil {
				err = e
				stop()
			}
		case <-l.timer.C:
			l.armedTo = time.Time{}
		case <-done:
			stop()
		}
	}
	patience.Stop()
	return l.lastWords(err)
}

// lastWords writes the record a last time.
func (l *feedLoop) lastWords(err error) error {
	if l.keeper.writing {
		if e := l.wrote(<-l.keeper.written); e != nil {
			err = e
		}
	}
	if l.keeper.dirty && !l.keeper.taken {
		l.write(time.Now())
		e := <-l.keeper.written
		if err = l.wrote(e); err == nil && e != nil {
			l.feed.log.Error().Err(e).Msg("cannot write the cursor at the stop; some events will be handed over again")
		}
	}
	l.publish()
	return err
}

// readable is where the next block comes from; nil while there is no room for one.
func (l *feedLoop) readable() <-chan *feedBlock {
	strictlyHeld := l.cfg.Order == OrderStrict && l.waiting > 0
	parked := l.events.count - l.atHand
	if l.stopping || strictlyHeld || l.atHand >= l.cfg.MaxRead || l.bytes >= l.cfg.MaxReadBytes ||
		len(l.pending) == 0 && parked >= l.cfg.MaxOpen {
		return nil
	}
	return l.blocks
}

// admit takes the events of a block.
func (l *feedLoop) admit(b *feedBlock) {
	now := time.Now()
	l.keeper.touch(now, false)
	b.needed++ // for as long as it is looked at
	l.bytes += b.size
	if b.marks != nil {
		l.readmit(now, b)
	} else {
		for i := range b.entries {
			p := position{b.sequence, i}
			if e := &b.entries[i]; !e.Skip && !p.before(l.from) {
				l.add(now, b, &feedMark{position: p}, l.lastRead)
			}
		}
		l.lastRead = b.sequence
	}
	l.needless(b)
}

// readmit takes those events of a block that the record asks for.
func (l *feedLoop) readmit(now time.Time, b *feedBlock) {
	l.pending = l.pending[len(b.marks):]
	for _, m := range b.marks {
		if m.index >= len(b.entries) {
			l.feed.log.Error().Uint64("sequence", m.sequence).Int("index", m.index).
				Msg("an event is no longer stored, or cannot be read any more; it is passed over")
			continue
		}
		// No wait is longer than these, but a clock may have been set back.
		if limit := now.Add(max(l.cfg.Backoff.Max, maxPause)); m.due.After(limit) {
			m.due = limit
		}
		if !b.entries[m.index].Skip {
			l.add(now, b, &m, m.sequence-1)
		}
	}
}

// add puts an event of b behind those of its key.
func (l *feedLoop) add(now time.Time, b *feedBlock, m *feedMark, earlier uint64) {
	e := l.events.add(m.position)
	e.earlier, e.storedAt = earlier, b.storedAt
	e.failed, e.transient, e.firstFailed, e.due = m.failed, m.transient, m.firstFailed, m.due
	lane := l.laneOf(b.entries[m.index].Key)
	lane.push(e)
	if lane.state == laneAwaits {
		l.waiting++
	} else if lane.atHand == lane.events-1 {
		l.take(e, b)
	}
	if lane.state == laneNew {
		l.place(lane, now)
	}
}

// laneOf gives the lane that an event of key belongs to.
func (l *feedLoop) laneOf(key string) *feedLane {
	mapped := true
	switch l.cfg.Order {
	case OrderStrict:
		key = ""
	case OrderNone:
		key, mapped = "", false
	case OrderKey:
	}
	if mapped {
		if lane := l.lanes[key]; lane != nil {
			return lane
		}
	}
	var lane *feedLane
	if n := len(l.freeLanes); n > 0 {
		lane, l.freeLanes = l.freeLanes[n-1], l.freeLanes[:n-1]
	} else {
		lane = new(feedLane)
	}
	*lane = feedLane{key: key, mapped: mapped}
	if mapped {
		l.lanes[key] = lane
	}
	return lane
}

// take keeps an event's payload.
func (l *feedLoop) take(e *feedEvent, b *feedBlock) {
	e.block = b
	b.needed++
	e.lane.atHand++
	l.atHand++
}

// leave lets an event's payload go.
func (l *feedLoop) leave(e *feedEvent) {
	b := e.block
	if b == nil {
		return
	}
	e.block = nil
	e.lane.atHand--
	l.atHand--
	l.needless(b)
}

// needless notes that one less needs a block.
func (l *feedLoop) needless(b *feedBlock) {
	if b.needed--; b.needed == 0 {
		l.bytes -= b.size
		l.feed.freeBlock(b)
	}
}

// place puts a lane where its head says: among the waits, into a queue, or away.
func (l *feedLoop) place(lane *feedLane, now time.Time) {
	switch head := lane.head; {
	case head == nil:
		if lane.mapped {
			delete(l.lanes, lane.key)
		}
		*lane = feedLane{}
		l.freeLanes = append(l.freeLanes, lane)
	case head.due.After(now):
		for e := head; lane.atHand > 0; e = e.behind {
			l.leave(e)
		}
		lane.ownKey(l.lanes)
		lane.state, lane.due = laneAwaits, head.due
		l.waits.add(lane)
		l.waiting += lane.events
	case head.doomed:
		lane.state = laneQueued
		l.doomed.push(lane)
	default:
		lane.state = laneQueued
		l.ready.push(lane)
	}
}

// wake places the lanes whose wait is over.
func (l *feedLoop) wake(now time.Time) {
	for lane := l.waits.popDue(now); lane != nil; lane = l.waits.popDue(now) {
		l.waiting -= lane.events
		l.place(lane, now)
	}
}

// revive makes due at once what waits for the target alone.
func (l *feedLoop) revive(now time.Time) {
	lanes := slices.Clone(l.waits)
	slices.SortFunc(lanes, func(a, b *feedLane) int { return a.due.Compare(b.due) })
	clear(l.waits)
	l.waits, l.waiting = l.waits[:0], 0
	for _, lane := range lanes {
		if lane.head.transient && !lane.head.doomed {
			lane.head.due = time.Time{}
		}
		l.place(lane, now)
	}
}

// settle is done with the head of a lane.
func (l *feedLoop) settle(e *feedEvent) {
	lane := e.lane
	l.leave(e)
	lane.pop()
	l.events.remove(e)
}

// arm sets the timer to when there is something to do next.
func (l *feedLoop) arm(now time.Time) {
	at := l.keeper.dueAt()
	if !l.stopping {
		at = sooner(at, sooner(l.waits.nextDue(), l.blockedTo))
	}
	if !at.IsZero() && !at.Equal(l.armedTo) {
		l.armedTo = at
		l.timer.Reset(at.Sub(now))
	}
}

// publish shows where the feed stands.
func (l *feedLoop) publish() {
	s := &l.state
	s.Waiting, s.InFlight = l.waiting+len(l.pending), l.inFlight
	s.Read = l.events.count - l.waiting - l.inFlight
	s.Down, s.Done, s.DoneOnRecord = l.brake.down, l.done(), l.keeper.onRecord
	s.OldestAt, s.NextAttemptAt = time.Time{}, time.Time{}
	if first := l.events.first; first != nil {
		s.OldestAt = first.storedAt
	}
	if l.inFlight == 0 {
		s.NextAttemptAt = sooner(l.waits.nextDue(), l.blockedTo)
		if !s.NextAttemptAt.IsZero() {
			s.NextAttemptAt = later(s.NextAttemptAt, l.brake.pausedUntil)
		}
	}
	l.feed.publish(s)
}
