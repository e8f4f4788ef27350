package relay

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/staffetta-relay/staffetta"
)

const (
	// maxLetterDeletes is how many letters one request deletes where they have to go one by one.
	maxLetterDeletes = 10_000
	// letterDeleters is how many of those deletions are under way at once.
	letterDeleters = 16
	// letterDeleteTime ends such a request early.
	letterDeleteTime = 10 * time.Second

	letterPrefix = "dl_"
)

// DeadLetters are the events that were given up, with their payload, by endpoint. Their order is that
// of their drop, and their time the store's.
type DeadLetters struct {
	shelf shelf
}

// NewDeadLetters reads over a connection that carries no events.
func NewDeadLetters(conn *nats.Conn) *DeadLetters {
	return &DeadLetters{shelf{conn: conn, stream: staffetta.DeadLetterStream}}
}

// deadLetter is a letter as the API shows it.
type deadLetter struct {
	ID        string         `json:"id"`
	EventID   string         `json:"event_id"`
	EventType string         `json:"event_type"`
	Endpoint  string         `json:"endpoint"`
	Error     string         `json:"error"`
	Status    int            `json:"status,omitzero"`
	Attempts  int            `json:"attempts"`
	StoredAt  *time.Time     `json:"stored_at,omitzero"`
	DroppedAt time.Time      `json:"dropped_at"`
	Payload   jsontext.Value `json:"payload"`
}

func newDeadLetter(m *shelved) deadLetter {
	l := deadLetter{
		ID:        letterPrefix + strconv.FormatUint(m.sequence, 10),
		EventID:   m.eventID,
		EventType: m.eventType,
		Endpoint:  endpointOfSubject(m.subject),
		Error:     m.text(staffetta.HeaderError),
		DroppedAt: m.at.UTC(),
		Payload:   m.data,
	}
	l.Status, _ = strconv.Atoi(m.text(staffetta.HeaderStatusCode)) // absent where there was none
	l.Attempts, _ = strconv.Atoi(m.text(staffetta.HeaderAttempts))
	if at, err := time.Parse(time.RFC3339Nano, m.text(staffetta.HeaderStoredAt)); err == nil {
		l.StoredAt = inUTC(&at)
	}
	return l
}

// endpointOfSubject is the last token, of a letter's subject and of an event's.
func endpointOfSubject(subject string) string {
	return subject[strings.LastIndexByte(subject, '.')+1:]
}

// letterFilter selects letters of one workspace; what is empty selects nothing away.
type letterFilter struct {
	workspace, endpoint, eventID, eventType string
	since, until                            time.Time
}

func (f *letterFilter) subject() string {
	return staffetta.DeadLetterSubject(f.workspace, orAny(f.endpoint))
}

func orAny(token string) string {
	if token == "" {
		return "*"
	}
	return token
}

// keep is the part of the filter that the store does not know; nil where it knows all of it.
func (f *letterFilter) keep() func(*shelved) bool {
	if f.eventID == "" && f.eventType == "" {
		return nil
	}
	return func(m *shelved) bool {
		return (f.eventID == "" || m.eventID == f.eventID) &&
			(f.eventType == "" || m.eventType == f.eventType)
	}
}

// span turns the filter's times into sequences: from floor on, and before another, which is 0 where
// the end is open. none says that nothing lies between.
func (d *DeadLetters) span(ctx context.Context, f *letterFilter) (floor, before uint64, none bool, err error) {
	if !f.since.IsZero() {
		if floor, err = d.shelf.firstSince(ctx, f.since); err != nil || floor == 0 {
			return 0, 0, true, err
		}
	}
	if !f.until.IsZero() {
		before, err = d.shelf.firstSince(ctx, f.until)
	}
	return floor, before, false, err
}

// page gives letters, newest first, from before a sequence on; see shelf.newest.
func (d *DeadLetters) page(ctx context.Context, f *letterFilter, before uint64, limit int) ([]deadLetter, uint64, error) {
	floor, end, none, err := d.span(ctx, f)
	if err != nil || none {
		return []deadLetter{}, 0, err
	}
	if before == 0 || end > 0 && end < before {
		before = end
	}
	found, next, err := d.shelf.newest(ctx, shelfQuery{subject: f.subject(), floor: floor, before: before, keep: f.keep()}, limit)
	letters := make([]deadLetter, len(found))
	for i, m := range found {
		letters[i] = newDeadLetter(m)
	}
	return letters, next, err
}

// find gives one letter of a workspace; another workspace's is not there.
func (d *DeadLetters) find(ctx context.Context, ws staffetta.Workspace, id string) (*shelved, error) {
	digits, ok := strings.CutPrefix(id, letterPrefix)
	sequence, err := strconv.ParseUint(digits, 10, 64)
	if ok && err == nil && sequence > 0 {
		m, err := d.shelf.at(ctx, sequence)
		if err != nil {
			return nil, err
		}
		if m != nil && strings.HasPrefix(m.subject, staffetta.DeadLetterSubject(ws.ID, "")) && !m.at.Before(ws.CreatedAt) {
			return m, nil
		}
	}
	return nil, &refusal{code: "dead_letter_not_found", missing: true, detail: "the workspace " + quote(ws.ID) + " has no dead letter " + quote(id) + "; it may have aged out"}
}

// deleteWhere deletes what the filter selects and says how many letters that was, and whether it left
// some: a filter of an endpoint and an end is one purge, any other deletes letter by letter.
func (d *DeadLetters) deleteWhere(ctx context.Context, f *letterFilter) (deleted uint64, more bool, err error) {
	floor, before, none, err := d.span(ctx, f)
	if err != nil || none {
		return 0, false, err
	}
	if f.since.IsZero() && f.keep() == nil {
		deleted, err = d.shelf.purge(ctx, f.subject(), before)
		return deleted, false, err
	}
	to := ^uint64(0)
	if before > 0 {
		to = before - 1
	}
	var doomed []uint64
	keep := f.keep()
	started := time.Now()
	err = d.shelf.each(ctx, f.subject(), floor, to, 0, func(m *shelved) error {
		if keep != nil && !keep(m) {
			return nil
		}
		if more = len(doomed) == maxLetterDeletes || time.Since(started) > letterDeleteTime; more {
			return errEnough
		}
		doomed = append(doomed, m.sequence)
		return nil
	})
	if err != nil {
		return 0, false, err
	}
	var count atomic.Uint64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(letterDeleters)
	for _, sequence := range doomed {
		g.Go(func() error {
			gone, err := d.shelf.remove(ctx, sequence)
			if gone {
				count.Add(1)
			}
			return err
		})
	}
	err = g.Wait()
	return count.Load(), more, err
}

// forget deletes every letter of a workspace.
func (d *DeadLetters) forget(ctx context.Context, workspace string) error {
	_, err := d.shelf.purge(ctx, staffetta.DeadLetterSubject(workspace, "*"), 0)
	return err
}

// writeAll writes every letter that the filter selects, newest first, one a line. Nothing is held
// but a page.
func (d *DeadLetters) writeAll(ctx context.Context, f *letterFilter, w http.ResponseWriter, each func() error) error {
	var line []byte
	before := uint64(0)
	for {
		letters, next, err := d.page(ctx, f, before, shelfBatch)
		if err != nil {
			return err
		}
		if err := each(); err != nil {
			return err
		}
		for i := range letters {
			text, err := json.Marshal(&letters[i], jsontext.AllowInvalidUTF8(true))
			if err != nil {
				return err
			}
			line = append(append(line[:0], text...), '\n')
			if _, err := w.Write(line); err != nil {
				return errors.Join(errGone, err)
			}
		}
		if flusher, ok := w.(http.Flusher); ok {
			flusher.Flush()
		}
		if next == 0 {
			return nil
		}
		before = next
	}
}

// errGone says that nobody reads the answer any more.
var errGone = errors.New("the client has gone")
