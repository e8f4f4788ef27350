package sender

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/staffetta-relay/staffetta"
)

// holdBounds is what a held lane keeps; 0 is without a bound.
type holdBounds struct {
	age    time.Duration
	events uint64
}

// beyond says why a held event is to be given up: it was stored too long ago, or too many are held,
// of which it is the oldest.
func (b holdBounds) beyond(held uint64, storedAt, now time.Time) (staffetta.Outcome, bool) {
	switch {
	case b.age > 0 && now.Sub(storedAt) >= b.age:
		return failed(staffetta.ErrorHeld, "longer than "+shortDuration(b.age)+" for a disabled endpoint"), true
	case b.events > 0 && held > b.events:
		return failed(staffetta.ErrorHeld, "beyond "+strconv.FormatUint(b.events, 10)+" events for a disabled endpoint"), true
	default:
		return staffetta.Outcome{}, false
	}
}

// shortDuration prints whole hours, minutes and seconds without the zeros behind them.
func shortDuration(d time.Duration) string {
	switch {
	case d%time.Hour == 0:
		return strconv.FormatInt(int64(d/time.Hour), 10) + "h"
	case d%time.Minute == 0:
		return strconv.FormatInt(int64(d/time.Minute), 10) + "m"
	default:
		return d.String()
	}
}

// tendHeld looks after the lanes of a shard that do not move: what memory lacks of them, and what they
// hold beyond the bounds.
func (s *shard) tendHeld(ctx context.Context) error {
	for _, l := range s.all() {
		if err := l.survey(ctx); err != nil {
			return err
		}
		l.trimIfBeyond(s.d.hold, time.Now())
	}
	return nil
}

// trimIfBeyond starts the lane where it holds more than it may, to give up what is beyond.
func (l *lane) trimIfBeyond(bounds holdBounds, now time.Time) {
	l.mu.Lock()
	start := false
	if l.mode == Held && !l.active && l.tail > l.settled {
		if !l.headAt.IsZero() {
			_, l.trimming = bounds.beyond(l.backlog, l.headAt, now)
		}
		start = l.tryActivate()
	}
	held := l.backlog
	l.mu.Unlock()
	if start {
		l.shard.d.cfg.Log.Warn().Str("lane", l.key).Uint64("held", held).
			Msg("more is held than may be; the oldest events go to the dead letters")
	}
	l.startIf(start)
}

// giveUp puts the head of a held lane among the dead letters where it is beyond the bounds. When
// it reports false the lane rests: the rest may stay, or the dispatcher stops.
func (l *lane) giveUp(ctx context.Context, t Target, m *Message, attempts int) bool {
	l.mu.Lock()
	o, beyond := l.shard.d.hold.beyond(l.backlog, m.StoredAt, time.Now())
	if !beyond || l.mode != Held {
		// Nobody has seen this event: the next window starts with it again.
		l.trimming, l.active, l.rested = false, false, time.Now()
		l.window.close(l)
		start := l.tryActivate()
		l.mu.Unlock()
		l.startIf(start)
		return false
	}
	l.mu.Unlock()
	return l.drop(ctx, t, m, attempts, o)
}

// survey asks the store for what the lane's memory does not have: when its head was stored, and how
// many events wait behind it. A lane that tries its events learns both by that; one that was held or
// waited at a restart would not.
func (l *lane) survey(ctx context.Context) error {
	l.mu.Lock()
	from, known := l.settled+1, l.backlog
	wanted := l.tail > l.settled && l.headAt.IsZero() && !l.active && !l.removed
	l.mu.Unlock()
	if !wanted {
		return nil
	}
	storedAt, behind, err := l.shard.head(ctx, l.subject, from)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.settled+1 != from || !l.headAt.IsZero() {
		return nil // the lane has gone on meanwhile
	}
	if storedAt.IsZero() {
		return nil // there is nothing: opening a window will tell
	}
	l.headAt = storedAt
	// What was noticed since the request is counted on both sides or on one: a matter of the moment.
	l.backlog = max(behind+1, behind+1+l.backlog-known)
	return nil
}

// head finds the first event of a subject from a sequence on: when it was stored, and how many of
// the subject follow it. Without one the time is zero.
func (s *shard) head(ctx context.Context, subject string, from uint64) (storedAt time.Time, behind uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := json.Marshal(struct {
		Sequence uint64 `json:"seq"`
		Subject  string `json:"next_by_subj"`
		Batch    int    `json:"batch"` // makes the answer say how many follow
	}{from, subject, 1})
	if err != nil {
		return time.Time{}, 0, fmt.Errorf("ask for the head of %s: %w", subject, err)
	}
	m, err := s.d.cfg.Conn.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+s.stream, request)
	if err != nil {
		return time.Time{}, 0, fmt.Errorf("ask for the head of %s: %w", subject, err)
	}
	return headFrom(m)
}

func headFrom(m *nats.Msg) (storedAt time.Time, behind uint64, err error) {
	switch firstHeader(m, "Status") {
	case "":
	case "404":
		return time.Time{}, 0, nil
	default:
		return time.Time{}, 0, errors.New("the server gives no event: " + firstHeader(m, "Description"))
	}
	if storedAt, err = time.Parse(time.RFC3339Nano, firstHeader(m, "Nats-Time-Stamp")); err != nil {
		return time.Time{}, 0, fmt.Errorf("read the time of an event: %w", err)
	}
	if behind, err = strconv.ParseUint(firstHeader(m, "Nats-Num-Pending"), 10, 64); err != nil {
		return time.Time{}, 0, fmt.Errorf("read the number of events: %w", err)
	}
	return storedAt, behind, nil
}
