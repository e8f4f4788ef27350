package sender

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// feedCall is one call of the target: some events on their way there and what became of them. The loop
// fills in the first part, a worker the second.
type feedCall struct {
	events []*feedEvent
	drop   bool              // the event is given up: put it on record
	last   staffetta.Outcome // what it came to
	probe  bool              // the target is down

	entries  []*Entry
	fetched  []*feedBlock // blocks that had to be read again
	gone     bool         // the first event's block is gone
	fetchErr error        // it could not be read
	accepted int
	failed   bool // the event behind the accepted ones was tried and not taken
	verdict  staffetta.Verdict
	outcome  staffetta.Outcome
	handed   Handed
	dropErr  error
	endedAt  time.Time

	attempt staffetta.AttemptRecord
}

// reset makes the call ready for its next use.
func (c *feedCall) reset() {
	clear(c.events)
	clear(c.entries)
	clear(c.fetched)
	*c = feedCall{events: c.events[:0], entries: c.entries[:0], fetched: c.fetched[:0]}
}

// do is the worker's part.
func (c *feedCall) do(ctx context.Context, f *Feed) {
	c.gather(ctx, f)
	switch {
	case len(c.entries) == 0:
	case c.drop:
		c.outcome = c.last
		c.giveUp(ctx, f, 0, c.events[0].failed)
	default:
		c.handOver(ctx, f)
	}
	c.endedAt = time.Now()
}

// gather finds the events' entries, and reads their blocks again where they are not at hand. What
// cannot be had, or would be too much at once, cuts the call short.
func (c *feedCall) gather(ctx context.Context, f *Feed) {
	room := f.cfg.MaxReadBytes / f.cfg.Concurrency
	for i, e := range c.events {
		if e.block != nil {
			c.entries = append(c.entries, e.entry())
			continue
		}
		var b *feedBlock
		if n := len(c.fetched); n > 0 && c.fetched[n-1].sequence == e.sequence {
			b = c.fetched[n-1]
		} else {
			if i > 0 && room <= 0 {
				return
			}
			var err error
			if b, err = f.fetchBlock(ctx, e.sequence); err == nil {
				c.fetched = append(c.fetched, b)
				room -= b.size
			} else if i == 0 {
				c.gone = errors.Is(err, errGone)
				c.fetchErr = err
			}
		}
		if b == nil {
			return
		}
		if e.index >= len(b.entries) {
			c.gone = i == 0
			return
		}
		c.entries = append(c.entries, &b.entries[e.index])
	}
}

// handOver calls the target and decides on what comes of it.
func (c *feedCall) handOver(ctx context.Context, f *Feed) {
	first := c.events[0]
	started := time.Now()
	c.handed = f.handOver(ctx, c.entries, first.failed+1)
	now := time.Now()
	h := &c.handed
	h.RetryAfter = min(h.RetryAfter, maxPause)
	c.accepted = min(max(h.Accepted, 0), len(c.entries))
	c.failed = c.accepted < len(c.entries)
	var taken staffetta.Outcome
	if !c.failed {
		taken = h.Outcome
	}
	for i := range c.accepted {
		c.tell(f, i, started, now, taken, staffetta.Verdict{Action: staffetta.Deliver})
	}
	if !c.failed {
		return
	}
	c.outcome, c.verdict = h.Outcome, c.decide(ctx, f, now)
	if c.verdict.Action == staffetta.Again {
		return
	}
	c.tell(f, c.accepted, started, now, c.outcome, c.verdict)
	if c.verdict.Action == staffetta.Drop {
		c.giveUp(ctx, f, c.accepted, c.events[c.accepted].failed+1)
	}
}

// decide says what becomes of the event that was not taken.
func (c *feedCall) decide(ctx context.Context, f *Feed, now time.Time) staffetta.Verdict {
	e := c.events[c.accepted]
	switch {
	case ctx.Err() != nil: // it was cut off by the stop: nobody knows what it would have come to
		return staffetta.Verdict{Action: staffetta.Again}
	case c.handed.Permanent:
		return staffetta.Verdict{Action: staffetta.Drop, Counts: true}
	}
	var failing time.Duration
	if !e.firstFailed.IsZero() {
		failing = now.Sub(e.firstFailed)
	}
	return f.cfg.Backoff.Decide(c.outcome, e.failed+1, failing, c.handed.RetryAfter, rand.Float64())
}

// tell hands the record of event i's attempt to who wants to know.
func (c *feedCall) tell(f *Feed, i int, started, now time.Time, o staffetta.Outcome, v staffetta.Verdict) {
	if f.cfg.Attempted == nil {
		return
	}
	e := c.entries[i]
	c.attempt = staffetta.AttemptRecord{
		At: started, Workspace: f.cfg.Workspace, Endpoint: f.cfg.Endpoint, EventID: e.Event.ID, EventType: e.Event.Type,
		Sequence: e.Sequence, StoredAt: e.StoredAt, Attempt: c.events[i].failed + 1, Outcome: o, Verdict: v,
		Replay: e.Event.Replay, Duration: now.Sub(started), Remote: c.handed.Remote,
		ResponseHead: c.handed.ResponseHead, ResponseBody: c.handed.ResponseBody,
	}
	f.cfg.Attempted(&c.attempt)
}

// giveUp puts event i on record as dropped after n attempts.
func (c *feedCall) giveUp(ctx context.Context, f *Feed, i, n int) {
	c.dropErr = f.drop(ctx, c.entries[i], n, c.outcome)
	if c.dropErr != nil && ctx.Err() == nil && f.complaints.due() {
		f.log.Error().Err(c.dropErr).Str("event_id", c.entries[i].Event.ID).
			Msg("cannot record a dropped event; those behind it wait until it can be")
	}
}

// handOver calls the target; a panic of it is a failed attempt.
func (f *Feed) handOver(ctx context.Context, entries []*Entry, n int) (h Handed) {
	defer func() {
		if v := recover(); v != nil {
			f.log.Error().Bytes("stack", debug.Stack()).Msg("the target panicked")
			h = Handed{Outcome: staffetta.Outcome{Error: staffetta.ErrorTarget, Detail: panicked(v)}}
		}
	}()
	return f.cfg.Target.HandOver(ctx, entries, n)
}

func (f *Feed) drop(ctx context.Context, e *Entry, n int, o staffetta.Outcome) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = errors.New(panicked(v))
		}
	}()
	return f.cfg.Target.Drop(ctx, e, n, o)
}

// panicked is a short line about a panic.
func panicked(v any) string {
	text := []rune(fmt.Sprintf("panic: %v", v))
	return string(text[:min(len(text), 200)])
}

// transient reports whether an outcome says more about the target than about the event.
func transient(o staffetta.Outcome) bool {
	switch o.Status {
	case 429, 502, 503, 504:
		return true
	}
	return o.Error != staffetta.ErrorNone
}
