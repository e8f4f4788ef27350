package sender

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/staffetta-relay/staffetta"
)

// lane is the small FIFO of one key with one event in flight. Its goroutine exists only while
// there is an event to try; whoever finds work for a lane that rests starts it.
type lane struct {
	key     string
	subject string
	shard   *shard

	mu      sync.Mutex
	target  Target
	mode    Mode
	removed bool

	settled uint64 // sequence of the last event that was accepted, dropped or discarded
	tail    uint64 // highest sequence known to be stored for this lane
	backlog uint64 // events from the head to the tail, see State
	bytes   uint64 // of their payloads
	// estimated says that backlog is from the cursor: after a kill it may lack the last events.
	estimated bool

	failed    int       // failed attempts of the head
	due       time.Time // when the waiting head may be tried again; zero when it does not wait
	timer     *time.Timer
	lastError string
	headAt    time.Time // when the head was stored

	window  window
	taken   uint64    // highest sequence that is settled, in an attempt, or fed to the window
	suspect bool      // see look
	watched time.Time // until when something may turn up of which no word came

	trimming bool      // held events beyond the bounds are being given up, see hold.go
	active   bool      // the goroutine exists
	rested   time.Time // when it last ended
}

// set gives the lane a target and a mode.
func (l *lane) set(t Target, mode Mode) {
	l.mu.Lock()
	opened, changed := mode == Open && l.mode != Open, mode != l.mode
	l.target, l.mode = t, mode
	l.trimming = l.trimming && mode == Held
	switch {
	case opened:
		l.failed, l.lastError = 0, ""
		l.unwait()
	case mode == Discarding:
		l.discard()
	}
	if mode != Open {
		l.unwait()
		l.window.close(l)
	}
	start := l.tryActivate()
	l.mu.Unlock()
	l.shard.touch(changed)
	l.startIf(start)
}

// discard settles all that is stored. The lock is held.
func (l *lane) discard() {
	l.countDiscarded()
	l.settled = max(l.settled, l.tail)
	l.backlog, l.bytes, l.failed, l.lastError, l.headAt = 0, 0, 0, "", time.Time{}
}

// remove ends the lane for good.
func (l *lane) remove() {
	l.mu.Lock()
	l.countDiscarded()
	l.removed = true
	l.unwait()
	l.window.close(l)
	l.mu.Unlock()
	l.shard.touch(true)
}

// stop ends the waiting of a lane whose dispatcher stops; the record of it stays.
func (l *lane) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
	if !l.active {
		l.window.close(l)
	}
}

// stored takes notice of an event in the stream, and of the event itself unless event is nil.
func (l *lane) stored(sequence uint64, size int, event *Message) {
	l.mu.Lock()
	if event != nil && l.keepsUp(sequence) && l.window.feed(l, event) {
		l.taken = sequence
	}
	l.noticed(sequence, size)
	if l.mode == Discarding {
		l.discard()
		l.shard.touch(false)
	}
	start := l.tryActivate()
	l.mu.Unlock()
	l.startIf(start)
}

// keepsUp reports whether the event at sequence is the next one behind all that the lane has taken.
// Words of the store come in the order of its sequences; where one did not come, look was called. The
// lock is held.
func (l *lane) keepsUp(sequence uint64) bool {
	if l.mode != Open || l.suspect || !l.due.IsZero() || sequence <= l.tail {
		return false
	}
	if l.window.consumer != "" {
		return l.settled == l.tail && time.Now().After(l.watched)
	}
	return max(l.taken, l.settled) == l.tail && (l.watched.IsZero() || time.Now().After(l.watched))
}

// noticed counts an event at its first sight: the store's word and the event itself may come in
// either order. The lock is held.
func (l *lane) noticed(sequence uint64, size int) {
	if sequence > l.tail {
		if l.mode == Held && l.tail == l.settled {
			l.headAt = time.Now() // of an event that nobody will look at for long
		}
		l.tail = sequence
		l.backlog++
		l.bytes += uint64(size)
	}
}

// arrived takes an event that the window's consumer sent.
func (l *lane) arrived(m *nats.Msg, p place) {
	e, _ := staffetta.ParseStoredEvent(m.Data)
	l.mu.Lock()
	if !l.window.take(l, &e, p) {
		l.mu.Unlock()
		return
	}
	l.noticed(p.sequence, len(e.Payload))
	start := l.tryActivate()
	l.mu.Unlock()
	l.startIf(start)
}

// told takes a status that the server sent in place of events.
func (l *lane) told(consumer string, s status) {
	l.mu.Lock()
	l.window.told(l, consumer, s)
	start := l.tryActivate()
	l.mu.Unlock()
	l.startIf(start)
}

// lookedAfter is how long a lane reads its events from the store after something may have been stored
// of which no word came: it may still be under way into the store.
const lookedAfter = time.Minute

// look makes the lane ask the store itself: something may have been stored of which no word came.
func (l *lane) look() {
	l.mu.Lock()
	l.suspect, l.watched = true, time.Now().Add(lookedAfter)
	start := l.tryActivate()
	l.mu.Unlock()
	l.startIf(start)
}

// reset drops the window, so that the next one starts behind the last settled event.
func (l *lane) reset() {
	l.mu.Lock()
	l.window.close(l)
	start := l.tryActivate()
	l.mu.Unlock()
	l.startIf(start)
}

// wake is the end of a wait.
func (l *lane) wake() {
	l.mu.Lock()
	if left := time.Until(l.due); left > 0 {
		l.arm(left) // a timer of an earlier wait, or a clock that was set back
		l.mu.Unlock()
		return
	}
	l.due = time.Time{}
	start := l.tryActivate()
	l.mu.Unlock()
	l.startIf(start)
}

// tryActivate marks the lane as active when there is something to do and nobody does it yet; the
// caller then starts it. The lock is held.
func (l *lane) tryActivate() bool {
	if l.active || !l.mayRun(time.Now()) || !l.window.hasWork(l) {
		return false
	}
	l.active = true
	return true
}

// mayRun reports whether the head may be tried, or given up, at now. The lock is held.
func (l *lane) mayRun(now time.Time) bool {
	if l.removed || l.target == nil {
		return false
	}
	return l.mode == Open && (l.due.IsZero() || !now.Before(l.due)) || l.mode == Held && l.trimming
}

func (l *lane) startIf(start bool) {
	for start && !l.shard.d.start(l) {
		l.mu.Lock()
		l.active = false
		start = l.shard.d.running() && l.tryActivate() // it began to run in between
		l.mu.Unlock()
	}
}

// run hands events over until there is none, the head has to wait, or the dispatcher stops.
func (l *lane) run(ctx context.Context) {
	var m Message
	for {
		t, n, mode, ok := l.next(ctx, &m)
		if !ok {
			return
		}
		if mode == Held {
			if !l.giveUp(ctx, t, &m, n-1) {
				return
			}
			continue
		}
		o, v := t.Attempt(ctx, &m, n)
		if v.Stop {
			l.halt(t)
		}
		switch v.Action {
		case staffetta.Deliver:
			l.settle(&m)
		case staffetta.Retry:
			l.wait(v.Wait, n, o)
			return
		case staffetta.Again:
			l.pause(v.Wait)
			return
		case staffetta.Drop:
			if !l.drop(ctx, t, &m, n, o) {
				return
			}
		}
	}
}

// halt holds the lane from within, before its next attempt; Set opens it again. Where Set was there
// since the attempt began, it knew of the failure.
func (l *lane) halt(t Target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mode == Open && l.target == t {
		l.mode = Held
	}
}

// next gives the head, its target, the number of its attempt, and the mode: Open to try it, Held to
// see whether it is to be given up. When it reports false the lane rests: it has no event at hand, or
// may not try it now.
func (l *lane) next(ctx context.Context, m *Message) (Target, int, Mode, bool) {
	for {
		l.mu.Lock()
		if !l.shard.d.running() || !l.mayRun(time.Now()) || !l.window.hasWork(l) {
			l.active, l.rested = false, time.Now()
			if !l.mayRun(l.rested) || !l.shard.d.running() {
				l.window.close(l)
			}
			l.mu.Unlock()
			return nil, 0, Open, false
		}
		if l.window.pop(l, m) {
			t, n, mode := l.target, l.failed+1, l.mode
			l.due, l.headAt = time.Time{}, m.StoredAt
			l.mu.Unlock()
			return t, n, mode, true
		}
		l.mu.Unlock()
		if err := l.window.open(ctx, l); err != nil {
			if l.shard.d.running() {
				l.shard.d.cfg.Log.Error().Err(err).Str("lane", l.key).Msg("cannot read the lane's events; trying again")
			}
			l.pause(time.Second)
			return nil, 0, Open, false
		}
	}
}

// settle records that everything up to m is done with.
func (l *lane) settle(m *Message) {
	l.mu.Lock()
	l.settled = max(l.settled, m.Sequence)
	l.bytes -= min(l.bytes, uint64(len(m.Event.Payload)))
	l.failed, l.lastError, l.headAt = 0, "", time.Time{}
	if l.backlog > 0 {
		l.backlog--
	}
	if l.settled >= l.tail {
		l.backlog, l.bytes, l.trimming = 0, 0, false
	}
	l.mu.Unlock()
	l.shard.touch(false)
}

// wait records the head's n-th failure and rests until its next attempt is due.
func (l *lane) wait(d time.Duration, n int, o staffetta.Outcome) {
	l.mu.Lock()
	l.failed, l.lastError = n, o.String()
	l.mu.Unlock()
	l.pause(d)
}

// pause rests for d. Nothing behind the head moves, and nothing of it stays in memory: the window
// opens again at the head.
func (l *lane) pause(d time.Duration) {
	l.mu.Lock()
	l.active, l.rested = false, time.Now()
	l.window.close(l)
	if l.mode == Open && !l.removed {
		l.due = l.rested.Add(d)
		l.arm(d)
	}
	l.mu.Unlock()
	l.shard.touch(true)
}

// arm sets the timer of the wait. The lock is held.
func (l *lane) arm(d time.Duration) {
	if l.timer == nil {
		l.timer = time.AfterFunc(d, l.wake)
		return
	}
	l.timer.Reset(d)
}

// unwait forgets a wait. The lock is held.
func (l *lane) unwait() {
	l.due = time.Time{}
	if l.timer != nil {
		l.timer.Stop()
	}
}

// drop puts the head on record as given up and settles it. While the record cannot be made the
// lane stands still: an event may be late, but not lost without a trace. It reports false when the
// dispatcher stops before.
func (l *lane) drop(ctx context.Context, t Target, m *Message, n int, o staffetta.Outcome) bool {
	for {
		err := t.Drop(ctx, m, n, o)
		if err == nil {
			l.settle(m)
			l.shard.touch(true)
			return true
		}
		l.shard.d.cfg.Log.Error().Err(err).Str("lane", l.key).Str("event_id", m.Event.ID).
			Msg("cannot record a dropped event; the endpoint's events wait until it can be")
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		if ctx.Err() != nil || !l.shard.d.running() {
			l.mu.Lock()
			l.active = false
			l.window.close(l)
			l.mu.Unlock()
			return false
		}
	}
}

func (l *lane) state() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := State{Backlog: l.backlog, BacklogBytes: l.bytes, OldestAt: l.headAt, NextAttemptAt: l.due, LastError: l.lastError, Settled: l.settled}
	if l.tail > l.settled {
		s.Backlog = max(s.Backlog, 1)
		s.Attempt = l.failed
	}
	return s
}

// closeIdle gives the consumer of a lane without work back.
func (l *lane) closeIdle(before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.active && l.settled >= l.tail && l.rested.Before(before) {
		l.window.close(l)
	}
}
