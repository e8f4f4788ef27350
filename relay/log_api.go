package relay

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// attemptAnswer is an attempt as the API shows it.
type attemptAnswer struct {
	// ID is the attempt's place in the log.
	ID            string           `json:"id"`
	EventID       string           `json:"event_id"`
	EventType     string           `json:"event_type"`
	Endpoint      string           `json:"endpoint"`
	Attempt       int              `json:"attempt"`
	Outcome       string           `json:"outcome"`
	Status        int              `json:"status,omitzero"`
	Error         string           `json:"error,omitzero"`
	Detail        string           `json:"detail,omitzero"`
	StartedAt     time.Time        `json:"started_at"`
	DurationMS    float64          `json:"duration_ms"`
	Timings       timingsAnswer    `json:"timings"`
	Remote        string           `json:"remote,omitzero"`
	Counted       bool             `json:"counted,omitzero"`
	Disabled      bool             `json:"disabled_endpoint,omitzero"`
	Replay        bool             `json:"replay,omitzero"`
	NextAttemptAt *time.Time       `json:"next_attempt_at,omitzero"`
	Response      *attemptResponse `json:"response,omitzero"`
}

// timingsAnswer are the parts of a duration, in milliseconds.
type timingsAnswer struct {
	DNS       float64 `json:"dns_ms,omitzero"`
	Connect   float64 `json:"connect_ms,omitzero"`
	TLS       float64 `json:"tls_ms,omitzero"`
	FirstByte float64 `json:"first_byte_ms,omitzero"`
}

type attemptResponse struct {
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

func newAttemptAnswer(a *LoggedAttempt) attemptAnswer {
	shown := attemptAnswer{
		ID: a.Position.String(), EventID: a.EventID, EventType: a.EventType, Endpoint: a.Endpoint, Attempt: a.Attempt,
		Outcome: a.Verdict.Action.String(), Status: a.Outcome.Status, Error: a.Outcome.Error.String(), Detail: a.Outcome.Detail,
		StartedAt: a.At, DurationMS: milliseconds(a.Duration),
		Timings: timingsAnswer{milliseconds(a.DNS), milliseconds(a.Connect), milliseconds(a.TLS), milliseconds(a.FirstByte)},
		Remote:  a.Remote, Counted: a.Verdict.Counts, Disabled: a.Verdict.Stop, Replay: a.Replay,
	}
	if next := a.NextAttemptAt(); !next.IsZero() {
		shown.NextAttemptAt = &next
	}
	if a.Outcome.Error == staffetta.ErrorNone {
		shown.Response = &attemptResponse{headersOf(string(a.ResponseHead)), string(a.ResponseBody)}
	}
	return shown
}

// milliseconds keeps three places.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// logOf gives the log, and checks the workspace of the path.
func (a *API) logOf(r *http.Request) (*AttemptLog, staffetta.Workspace, error) {
	if a.cfg.Attempts == nil {
		return nil, staffetta.Workspace{}, problemNotAvailable("this relay keeps no log of attempts")
	}
	ws, err := a.cfg.Registry.Workspace(r.PathValue("workspace"))
	return a.cfg.Attempts, ws, err
}

// attemptParameters are those of a filter of attempts.
var attemptParameters = []string{"endpoint", "event_id", "event_type", "outcome", "status", "since", "until"}

// attemptFilterOf reads the filter of a request.
func attemptFilterOf(ws staffetta.Workspace, query url.Values) (AttemptFilter, error) {
	f := AttemptFilter{
		Workspace: ws.ID, Endpoint: query.Get("endpoint"), EventID: query.Get("event_id"),
		EventType: query.Get("event_type"), Outcome: query.Get("outcome"), Status: query.Get("status"),
	}
	if err := checkEndpointFilter(f.Endpoint); err != nil {
		return f, err
	}
	var err error
	if f.Since, err = timeOf("since", query.Get("since")); err != nil {
		return f, err
	}
	f.Since = later(f.Since, ws.CreatedAt)
	if f.Until, err = timeOf("until", query.Get("until")); err != nil {
		return f, err
	}
	_, err = f.compile()
	return f, err
}

// attemptPageOf reads limit and cursor.
func attemptPageOf(query url.Values) (before *LogPosition, limit int, err error) {
	limit = defaultPage
	if text := query.Get("limit"); text != "" {
		limit, err = strconv.Atoi(text)
		if err != nil || limit < 1 || limit > maxPage {
			return nil, 0, bodyError("invalid_limit", "limit", "must be between 1 and "+strconv.Itoa(maxPage))
		}
	}
	if text := query.Get("cursor"); text != "" {
		position, ok := ParseLogPosition(text)
		if !ok {
			return nil, 0, bodyError("invalid_cursor", "cursor", "is not a next_cursor of this list; leave it out to start again")
		}
		before = &position
	}
	return before, limit, nil
}

func (a *API) listAttempts(r *http.Request) (answer, error) {
	log, ws, err := a.logOf(r)
	if err != nil {
		return answer{}, err
	}
	query, err := queryOf(r, slices.Concat(attemptParameters, pageParameters)...)
	if err != nil {
		return answer{}, err
	}
	filter, err := attemptFilterOf(ws, query)
	if err != nil {
		return answer{}, err
	}
	before, limit, err := attemptPageOf(query)
	if err != nil {
		return answer{}, err
	}
	page, err := log.Query(r.Context(), filter, before, limit)
	if err != nil {
		return answer{}, err
	}
	shown := list[attemptAnswer]{Items: make([]attemptAnswer, len(page.Attempts))}
	for i := range page.Attempts {
		shown.Items[i] = newAttemptAnswer(&page.Attempts[i])
	}
	if page.Next != nil {
		shown.NextCursor = page.Next.String()
	}
	return answer{status: http.StatusOK, body: shown}, nil
}
