package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
)

const (
	letterPrefix = "dl_"
	// letterStretch is how many sequences of the dead letters are looked through at a time, letterTime how
	// long one request may do so: it ends with a cursor to go on from.
	letterStretch = 500
	letterTime    = 2 * time.Second
	// letterBytes bounds the payloads of one page.
	letterBytes = 16 << 20
)

// letterAnswer is a dead letter as the API shows it. Payload is there where the body is JSON, else
// PayloadBase64.
type letterAnswer struct {
	ID            string          `json:"id"`
	EventID       string          `json:"event_id"`
	EventType     string          `json:"event_type"`
	Endpoint      string          `json:"endpoint"`
	Error         string          `json:"error"`
	Status        int             `json:"status,omitempty"`
	Attempts      int             `json:"attempts"`
	StoredAt      *time.Time      `json:"stored_at,omitempty"`
	DroppedAt     time.Time       `json:"dropped_at"`
	Payload       json.RawMessage `json:"payload,omitempty"`
	PayloadBase64 []byte          `json:"payload_base64,omitempty"`
}

// letter is a dead letter as it is stored.
type letter struct {
	sequence       uint64
	at             time.Time
	source, target string
	header         func(string) string
	data           []byte
}

func (l *letter) endpoint() string { return l.source + "." + l.target }

func (l *letter) shown() letterAnswer {
	a := letterAnswer{
		ID: letterPrefix + strconv.FormatUint(l.sequence, 10), EventID: l.header(staffetta.HeaderEventID),
		EventType: l.header(staffetta.HeaderEventType), Endpoint: l.endpoint(), Error: l.header(staffetta.HeaderError), DroppedAt: l.at.UTC(),
	}
	a.Status, _ = strconv.Atoi(l.header(staffetta.HeaderStatusCode)) // absent where there was none
	a.Attempts, _ = strconv.Atoi(l.header(staffetta.HeaderAttempts))
	if at, err := time.Parse(time.RFC3339Nano, l.header(staffetta.HeaderStoredAt)); err == nil {
		a.StoredAt = &at
	}
	if r, err := parseRequest(l.data); err == nil {
		a.Payload, a.PayloadBase64 = payloadOf(r.Body)
	}
	return a
}

// letterFilter selects dead letters; what is empty selects nothing away.
type letterFilter struct {
	endpoint, eventID, eventType string
	since, until                 time.Time
}

// subject is the part of the filter that the store knows.
func (f *letterFilter) subject() string {
	if source, target, ok := strings.Cut(f.endpoint, "."); ok {
		return staffetta.DeadLetterSubject(source, target)
	}
	return staffetta.DeadLetterSubjects
}

func (f *letterFilter) wants(l *letter) bool {
	return (f.eventID == "" || l.header(staffetta.HeaderEventID) == f.eventID) &&
		(f.eventType == "" || l.header(staffetta.HeaderEventType) == f.eventType) &&
		(f.since.IsZero() || !l.at.Before(f.since)) && (f.until.IsZero() || l.at.Before(f.until))
}

var letterParameters = []string{"endpoint", "event_id", "event_type", "since", "until"}

func letterFilterOf(query url.Values) (f letterFilter, err error) {
	f = letterFilter{endpoint: query.Get("endpoint"), eventID: query.Get("event_id"), eventType: query.Get("event_type")}
	if err := checkTarget(f.endpoint); err != nil {
		return f, err
	}
	if f.since, err = timeOf("since", query.Get("since")); err != nil {
		return f, err
	}
	f.until, err = timeOf("until", query.Get("until"))
	return f, err
}

// checkTarget refuses what cannot be the id of a target; one that is no longer configured may have dead
// letters.
func checkTarget(id string) error {
	source, target, ok := strings.Cut(id, ".")
	if id == "" || ok && staffetta.ValidID(source) && staffetta.ValidID(target) {
		return nil
	}
	return invalidMember("invalid_endpoint", "endpoint", "must be the id of a target, <source>.<target>, as /v1/targets lists them")
}

// readLetters calls f with the letters of a subject whose sequences lie in [from, to), oldest first,
// until it says that it has enough.
func (r *Receiver) readLetters(ctx context.Context, subject string, from, to uint64, f func(*letter) (enough bool, err error)) error {
	return readRange(ctx, r.records, staffetta.DeadLetterStream, subject, from, to, func(m jetstream.Msg, meta *jetstream.MsgMetadata) (bool, error) {
		source, target, ok := strings.Cut(strings.TrimPrefix(m.Subject(), "dead."), ".")
		if !ok {
			return false, nil
		}
		return f(&letter{sequence: meta.Sequence.Stream, at: meta.Timestamp, source: source, target: target, header: m.Headers().Get, data: m.Data()})
	})
}

// readRange calls f with the messages of a subject whose sequences lie in [from, to), oldest first, until
// it says that it has enough.
func readRange(ctx context.Context, js jetstream.JetStream, stream, subject string, from, to uint64,
	f func(jetstream.Msg, *jetstream.MsgMetadata) (enough bool, err error),
) error {
	if from >= to {
		return nil
	}
	done := errors.New("done")
	err := readAll(ctx, js, stream, jetstream.ConsumerConfig{
		FilterSubject: subject, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1),
	}, func(m jetstream.Msg) error {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Stream >= to {
			return done
		}
		enough, err := f(m, meta)
		if err == nil && enough {
			err = done
		}
		return err
	})
	if errors.Is(err, done) {
		return nil
	}
	return err
}

// letterBounds are the first sequence of the dead letters, and the one behind the last.
func (r *Receiver) letterBounds(ctx context.Context) (first, end uint64, err error) {
	stream, err := r.records.Stream(ctx, staffetta.DeadLetterStream)
	if err != nil {
		return 0, 0, fmt.Errorf("open dead letters: %w", err)
	}
	state := stream.CachedInfo().State
	return max(state.FirstSeq, 1), state.LastSeq + 1, nil
}

// listLetters gives a page of dead letters, newest first.
func (a *admin) listLetters(q *http.Request) (int, any, error) {
	query, err := parametersOf(q, append([]string{"limit", "cursor"}, letterParameters...)...)
	if err != nil {
		return 0, nil, err
	}
	filter, err := letterFilterOf(query)
	if err != nil {
		return 0, nil, err
	}
	limit, err := limitOf(query.Get("limit"))
	if err != nil {
		return 0, nil, err
	}
	first, end, err := a.receiver.letterBounds(q.Context())
	if err != nil {
		return 0, nil, err
	}
	if text := query.Get("cursor"); text != "" {
		before, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return 0, nil, invalidMember("invalid_cursor", "cursor", "is not a next_cursor of this list; leave it out to start again")
		}
		end = min(end, before)
	}
	shown := page[letterAnswer]{Items: []letterAnswer{}}
	bytes, until := 0, time.Now().Add(letterTime)
	for end > first && len(shown.Items) < limit && bytes < letterBytes && time.Now().Before(until) {
		from := max(first, end-min(end, letterStretch))
		var found []letter
		err := a.receiver.readLetters(q.Context(), filter.subject(), from, end, func(l *letter) (bool, error) {
			if filter.wants(l) {
				found = append(found, *l)
			}
			return false, nil
		})
		if err != nil {
			return 0, nil, err
		}
		end = from
		for i := len(found) - 1; i >= 0; i-- {
			if len(shown.Items) == limit || bytes >= letterBytes {
				end = found[i].sequence + 1
				break
			}
			shown.Items = append(shown.Items, found[i].shown())
			bytes += len(found[i].data)
		}
	}
	if end > first {
		shown.NextCursor = strconv.FormatUint(end, 10)
	}
	return http.StatusOK, shown, nil
}

// findLetter reads one letter by its id.
func (a *admin) findLetter(q *http.Request) (*letter, jetstream.Stream, error) {
	missing := &problem{Status: http.StatusNotFound, Code: "dead_letter_not_found", Detail: "there is no such dead letter; it may have aged out"}
	sequence, err := strconv.ParseUint(strings.TrimPrefix(q.PathValue("letter"), letterPrefix), 10, 64)
	if err != nil || sequence == 0 {
		return nil, nil, missing
	}
	stream, err := a.receiver.records.Stream(q.Context(), staffetta.DeadLetterStream)
	if err != nil {
		return nil, nil, fmt.Errorf("open dead letters: %w", err)
	}
	m, err := stream.GetMsg(q.Context(), sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil, missing
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read dead letter: %w", err)
	}
	source, target, _ := strings.Cut(strings.TrimPrefix(m.Subject, "dead."), ".")
	return &letter{sequence: m.Sequence, at: m.Time, source: source, target: target, header: m.Header.Get, data: m.Data}, stream, nil
}

func (a *admin) getLetter(q *http.Request) (int, any, error) {
	l, _, err := a.findLetter(q)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, l.shown(), nil
}

func (a *admin) deleteLetter(q *http.Request) (int, any, error) {
	l, stream, err := a.findLetter(q)
	if err != nil {
		return 0, nil, err
	}
	if err := stream.DeleteMsg(q.Context(), l.sequence); err != nil && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return 0, nil, fmt.Errorf("delete dead letter: %w", err)
	}
	return http.StatusNoContent, nil, nil
}

// deleteLetters deletes those that a filter selects, as many as a request has time for.
func (a *admin) deleteLetters(q *http.Request) (int, any, error) {
	query, err := parametersOf(q, letterParameters...)
	if err != nil {
		return 0, nil, err
	}
	filter, err := letterFilterOf(query)
	if err != nil {
		return 0, nil, err
	}
	if filter.endpoint == "" && filter.since.IsZero() && filter.until.IsZero() {
		return 0, nil, invalidMember("filter_required", "", "say which letters to delete: endpoint, since or until at least")
	}
	stream, err := a.receiver.records.Stream(q.Context(), staffetta.DeadLetterStream)
	if err != nil {
		return 0, nil, fmt.Errorf("open dead letters: %w", err)
	}
	first, end, err := a.receiver.letterBounds(q.Context())
	if err != nil {
		return 0, nil, err
	}
	answer := struct {
		Deleted uint64 `json:"deleted"`
		More    bool   `json:"more"`
	}{}
	until := time.Now().Add(10 * time.Second)
	err = a.receiver.readLetters(q.Context(), filter.subject(), first, end, func(l *letter) (bool, error) {
		if !filter.wants(l) {
			return false, nil
		}
		if answer.More = time.Now().After(until); answer.More {
			return true, nil
		}
		answer.Deleted++
		err := stream.DeleteMsg(q.Context(), l.sequence)
		if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
			err = nil
		}
		return false, err
	})
	a.receiver.cfg.Log.Info().Str("target", filter.endpoint).Uint64("letters", answer.Deleted).Msg("dead letters deleted on request")
	return http.StatusOK, answer, err
}
