package relay

import (
	"bytes"
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

// attemptScope is the part of a log that a request may read.
type attemptScope struct {
	log       *AttemptLog
	workspace string
	// created is the workspace's: what is older is of another one under its id.
	created time.Time
	// checkEndpoint refuses what cannot be an endpoint's id; nil takes any text.
	checkEndpoint func(id string) error
	// permitted is asked again while the log is followed.
	permitted func() bool
	// stopping is closed when the server begins to stop, or nil.
	stopping <-chan struct{}
}

// ofAttempts is an operation on the attempts of the path's workspace.
func (a *API) ofAttempts(serve func(*attemptScope, *http.Request) (answer, error)) func(*http.Request) (answer, error) {
	return func(r *http.Request) (answer, error) {
		log, ws, err := a.logOf(r)
		if err != nil {
			return answer{}, err
		}
		// The server uses a request again once its client has gone: a stream keeps nothing of it.
		token := bytes.Clone(bearerToken([]byte(r.Header.Get("Authorization"))))
		return serve(&attemptScope{
			log: log, workspace: ws.ID, created: ws.CreatedAt, checkEndpoint: checkEndpointFilter, stopping: connectionOf(r).stopping,
			permitted: func() bool {
				access := a.cfg.Registry.Authorize(ws.ID, token)
				_, err := a.cfg.Registry.Workspace(ws.ID)
				return err == nil && (access == AccessAdmin || access == AccessWorkspace)
			},
		}, r)
	}
}

// filterOf reads the filter of a request.
func (s *attemptScope) filterOf(query url.Values) (AttemptFilter, error) {
	f := AttemptFilter{
		Workspace: s.workspace, Endpoint: query.Get("endpoint"), EventID: query.Get("event_id"),
		EventType: query.Get("event_type"), Outcome: query.Get("outcome"), Status: query.Get("status"),
	}
	if s.checkEndpoint != nil {
		if err := s.checkEndpoint(f.Endpoint); err != nil {
			return f, err
		}
	}
	var err error
	if f.Since, err = timeOf("since", query.Get("since")); err != nil {
		return f, err
	}
	f.Since = later(f.Since, s.created)
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

// list answers with a page of attempts, newest first.
func (s *attemptScope) list(r *http.Request) (answer, error) {
	query, err := queryOf(r, slices.Concat(attemptParameters, pageParameters)...)
	if err != nil {
		return answer{}, err
	}
	filter, err := s.filterOf(query)
	if err != nil {
		return answer{}, err
	}
	before, limit, err := attemptPageOf(query)
	if err != nil {
		return answer{}, err
	}
	page, err := s.log.Query(r.Context(), filter, before, limit)
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
