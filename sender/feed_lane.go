package sender

import (
	"container/heap"
	"strings"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// position is the place of an event: its block's sequence, and its place in the block.
type position struct {
	sequence uint64
	index    int
}

func (p position) before(o position) bool {
	return p.sequence < o.sequence || p.sequence == o.sequence && p.index < o.index
}

// feedEvent is an event that was read and is not settled.
type feedEvent struct {
	position
	earlier  uint64 // every block before its own has a sequence of at most this
	storedAt time.Time
	lane     *feedLane
	block    *feedBlock // where its payload is at hand; else nil

	failed      int
	firstFailed time.Time
	due         time.Time         // when it may be tried again; zero for at once
	transient   bool              // it may be due earlier: the target failed, not the event
	doomed      bool              // given up, which is not yet on record
	outcome     staffetta.Outcome // of its last attempt, where it is doomed

	behind     *feedEvent // the next one of its lane
	prev, next *feedEvent // its neighbours in feedEvents
}

// entry gives what the target gets of an event at hand.
func (e *feedEvent) entry() *Entry { return &e.block.entries[e.index] }

// feedEvents lists all events that are not settled by their position, and keeps used ones for new
// ones.
type feedEvents struct {
	first, last *feedEvent
	count       int
	free        *feedEvent
}

// add appends an event; it comes after all others.
func (l *feedEvents) add(p position) *feedEvent {
	e := l.free
	if e == nil {
		e = new(feedEvent)
	} else {
		l.free = e.next
		*e = feedEvent{}
	}
	e.position, e.prev = p, l.last
	if l.last == nil {
		l.first = e
	} else {
		l.last.next = e
	}
	l.last = e
	l.count++
	return e
}

func (l *feedEvents) remove(e *feedEvent) {
	if e.prev == nil {
		l.first = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.last = e.prev
	} else {
		e.next.prev = e.prev
	}
	l.count--
	*e = feedEvent{next: l.free}
	l.free = e
}

// laneAt says where a lane of a feed is.
type laneAt uint8

const (
	laneNew    laneAt = iota // nowhere: it is new
	laneQueued               // in a queue, its head may be tried
	laneAwaits               // among the waits
	laneInCall               // in a call
)

// feedLane is the queue of the events that wait for one another: those of a key, all, or a single one.
type feedLane struct {
	key        string
	own        bool // the key's bytes are not part of something larger
	mapped     bool // others may come under its key
	state      laneAt
	head, tail *feedEvent
	events     int
	atHand     int       // events whose payload is at hand: they are the first ones
	due        time.Time // when its wait is over
	slot       int       // its place among the waits
	next       *feedLane // in its queue
}

func (l *feedLane) push(e *feedEvent) {
	e.lane = l
	if l.tail == nil {
		l.head = e
	} else {
		l.tail.behind = e
	}
	l.tail = e
	l.events++
}

func (l *feedLane) pop() {
	e := l.head
	l.head = e.behind
	if l.head == nil {
		l.tail = nil
	}
	e.behind = nil
	l.events--
}

// ownKey lets go of what the key may be a part of.
func (l *feedLane) ownKey(lanes map[string]*feedLane) {
	if l.own {
		return
	}
	l.own = true
	if l.mapped {
		delete(lanes, l.key)
		l.key = strings.Clone(l.key)
		lanes[l.key] = l
	}
}

// laneQueue is a first-in, first-out queue.
type laneQueue struct{ first, last *feedLane }

func (q *laneQueue) push(l *feedLane) {
	l.next = nil
	if q.last == nil {
		q.first = l
	} else {
		q.last.next = l
	}
	q.last = l
}

func (q *laneQueue) pop() *feedLane {
	l := q.first
	q.first = l.next
	if q.first == nil {
		q.last = nil
	}
	l.next = nil
	return l
}

// bringForward puts the first lane that is wanted, where there is one, before all others.
func (q *laneQueue) bringForward(wanted func(*feedLane) bool) {
	if q.first == nil || wanted(q.first) {
		return
	}
	for before := q.first; before.next != nil; before = before.next {
		if l := before.next; wanted(l) {
			if before.next = l.next; q.last == l {
				q.last = before
			}
			l.next, q.first = q.first, l
			return
		}
	}
}

// laneWaits has the lanes whose head is not due yet, the one that is due first at its top.
type laneWaits []*feedLane

func (w *laneWaits) Len() int           { return len(*w) }
func (w *laneWaits) Less(i, j int) bool { return (*w)[i].due.Before((*w)[j].due) }

func (w *laneWaits) Swap(i, j int) {
	(*w)[i], (*w)[j] = (*w)[j], (*w)[i]
	(*w)[i].slot, (*w)[j].slot = i, j
}

// Push is for package heap alone.
func (w *laneWaits) Push(l any) {
	lane := l.(*feedLane)
	lane.slot = len(*w)
	*w = append(*w, lane)
}

// Pop is for package heap alone.
func (w *laneWaits) Pop() any {
	last := len(*w) - 1
	l := (*w)[last]
	(*w)[last] = nil
	*w = (*w)[:last]
	return l
}

func (w *laneWaits) add(l *feedLane) { heap.Push(w, l) }

// popDue gives a lane whose wait is over, nil without one.
func (w *laneWaits) popDue(now time.Time) *feedLane {
	if len(*w) == 0 || (*w)[0].due.After(now) {
		return nil
	}
	return heap.Pop(w).(*feedLane)
}

// nextDue is when the first wait is over; zero without one.
func (w *laneWaits) nextDue() time.Time {
	if len(*w) == 0 {
		return time.Time{}
	}
	return (*w)[0].due
}
