package relay

import (
	"context"
	"encoding/base64"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/staffetta-relay/staffetta"
)

const ndjson = "application/x-ndjson"

// letterParameters are those of a filter of letters.
var letterParameters = []string{"endpoint", "event_id", "event_type", "since", "until"}

// deadLettersOf gives the letters, and checks the workspace of the path.
func (a *API) deadLettersOf(r *http.Request) (*DeadLetters, staffetta.Workspace, error) {
	if a.cfg.DeadLetters == nil {
		return nil, staffetta.Workspace{}, problemNotAvailable("this relay keeps no dead letters")
	}
	ws, err := a.cfg.Registry.Workspace(r.PathValue("workspace"))
	return a.cfg.DeadLetters, ws, err
}

// later keeps what is older than a workspace, and so of one before it under its id, out of its sight.
func later(t, created time.Time) time.Time {
	if t.Before(created) {
		return created
	}
	return t
}

func problemNotAvailable(detail string) Problem {
	return newProblem(http.StatusNotImplemented, "not_available", detail)
}

// letterFilterOf reads the filter of a request.
func letterFilterOf(workspace string, query url.Values) (*letterFilter, error) {
	f := &letterFilter{
		workspace: workspace, endpoint: query.Get("endpoint"),
		eventID: query.Get("event_id"), eventType: query.Get("event_type"),
	}
	if err := checkEndpointFilter(f.endpoint); err != nil {
		return nil, err
	}
	var err error
	if f.since, err = timeOf("since", query.Get("since")); err != nil {
		return nil, err
	}
	f.until, err = timeOf("until", query.Get("until"))
	return f, err
}

func checkEndpointFilter(endpoint string) error {
	if endpoint != "" && !staffetta.ValidID(endpoint) {
		return bodyError("invalid_endpoint", "endpoint", "must be the id of an endpoint")
	}
	return nil
}

// timeOf reads a time, which is zero where it is left out.
func timeOf(field, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	// The store counts nanoseconds from 1970 in 64 bits.
	if err != nil || t.Year() < 1970 || t.Year() > 2200 {
		return time.Time{}, bodyError("invalid_time", field, "must be a time as RFC 3339 has it, such as 2026-03-02T09:30:00Z")
	}
	return t.UTC(), nil
}

// sequencePage reads limit and the cursor of a list whose cursors are sequences.
func sequencePage(query url.Values) (before uint64, limit int, err error) {
	limit = defaultPage
	if text := query.Get("limit"); text != "" {
		limit, err = strconv.Atoi(text)
		if err != nil || limit < 1 || limit > maxPage {
			return 0, 0, bodyError("invalid_limit", "limit", "must be between 1 and "+strconv.Itoa(maxPage))
		}
	}
	if text := query.Get("cursor"); text != "" {
		raw, err := base64.RawURLEncoding.DecodeString(text)
		digits, ok := strings.CutPrefix(string(raw), "<")
		before, failed := strconv.ParseUint(digits, 10, 64)
		if err != nil || !ok || failed != nil || before == 0 {
			return 0, 0, bodyError("invalid_cursor", "cursor", "is not a next_cursor of this list; leave it out to start again")
		}
		return before, limit, nil
	}
	return 0, limit, nil
}

// cursorBefore is the cursor of a page that goes on before a sequence; 0 is no page.
func cursorBefore(sequence uint64) string {
	if sequence == 0 {
		return ""
	}
	return cursorAfter("<" + strconv.FormatUint(sequence, 10))
}

func (a *API) listDeadLetters(r *http.Request) (answer, error) {
	letters, ws, err := a.deadLettersOf(r)
	if err != nil {
		return answer{}, err
	}
	query, err := queryOf(r, slices.Concat(letterParameters, pageParameters)...)
	if err != nil {
		return answer{}, err
	}
	f, err := letterFilterOf(ws.ID, query)
	if err != nil {
		return answer{}, err
	}
	f.since = later(f.since, ws.CreatedAt)
	if acceptsNDJSON(r) {
		return answer{status: http.StatusOK, stream: func(w http.ResponseWriter) { a.exportDeadLetters(w, r, letters, f) }}, nil
	}
	before, limit, err := sequencePage(query)
	if err != nil {
		return answer{}, err
	}
	page, next, err := letters.page(r.Context(), f, before, limit)
	return answer{status: http.StatusOK, body: list[deadLetter]{Items: page, NextCursor: cursorBefore(next)}}, err
}

// acceptsNDJSON says whether the client names the lines, and not JSON before them.
func acceptsNDJSON(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		switch media, _, _ := mime.ParseMediaType(part); media {
		case ndjson, "application/ndjson":
			return true
		case "application/json", "*/*":
			return false
		}
	}
	return false
}

// exportDeadLetters streams all letters that match. An export that breaks off ends with a problem
// document as its last line.
func (a *API) exportDeadLetters(w http.ResponseWriter, r *http.Request, letters *DeadLetters, f *letterFilter) {
	// The request's own context is used again by the server once the client has gone.
	ctx, extend := context.Background(), extendWrites(w, r)
	w.Header().Set("Content-Type", ndjson)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	if err := letters.writeAll(ctx, f, w, extend); err != nil && !errors.Is(err, errGone) {
		a.cfg.Log.Error().Err(err).Str("workspace", f.workspace).Msg("cannot finish an export of dead letters")
		_, _ = w.Write(append(problemFor(err).AppendJSON(nil), '\n'))
	}
}

// extendWrites gives a function that puts off the deadline for writing an answer: a stream may take
// longer than any other, as long as the client reads on. It is called before the first write.
func extendWrites(w http.ResponseWriter, r *http.Request) func() error {
	extend := http.NewResponseController(w).SetWriteDeadline
	if conn := connectionOf(r).conn; conn != nil {
		extend = conn.SetWriteDeadline
	}
	return func() error {
		if err := extend(time.Now().Add(readTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return errors.Join(errGone, err)
		}
		return nil
	}
}

func (a *API) getDeadLetter(r *http.Request) (answer, error) {
	letters, ws, err := a.deadLettersOf(r)
	if err != nil {
		return answer{}, err
	}
	m, err := letters.find(r.Context(), ws, r.PathValue("letter"))
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: newDeadLetter(m)}, nil
}

func (a *API) deleteDeadLetter(r *http.Request) (answer, error) {
	letters, ws, err := a.deadLettersOf(r)
	if err != nil {
		return answer{}, err
	}
	m, err := letters.find(r.Context(), ws, r.PathValue("letter"))
	if err != nil {
		return answer{}, err
	}
	_, err = letters.shelf.remove(r.Context(), m.sequence)
	return answer{status: http.StatusNoContent}, err
}

// deletedLetters is what a deletion by a filter came to.
type deletedLetters struct {
	Deleted uint64 `json:"deleted"`
	// More says that the same request finds more to delete.
	More bool `json:"more"`
}

func (a *API) deleteDeadLetters(r *http.Request) (answer, error) {
	letters, ws, err := a.deadLettersOf(r)
	if err != nil {
		return answer{}, err
	}
	query, err := queryOf(r, letterParameters...)
	if err != nil {
		return answer{}, err
	}
	f, err := letterFilterOf(ws.ID, query)
	if err != nil {
		return answer{}, err
	}
	if f.endpoint == "" && f.since.IsZero() && f.until.IsZero() {
		return answer{}, newProblem(http.StatusUnprocessableEntity, "filter_required",
			"say which letters to delete: endpoint, since or until at least")
	}
	deleted, more, err := letters.deleteWhere(r.Context(), f)
	if err == nil {
		a.cfg.Log.Info().Str("workspace", ws.ID).Str("endpoint", f.endpoint).Uint64("letters", deleted).Msg("dead letters deleted on request")
	}
	return answer{status: http.StatusOK, body: deletedLetters{Deleted: deleted, More: more}}, err
}
