package receiver

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttpadaptor"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

const (
	defaultPage = 100
	maxPage     = 1000
	// maxAdminBody bounds the body of a request to the admin API.
	maxAdminBody = 2 << 20
)

// AdminConfig says what the admin API serves beside the receiver's own.
type AdminConfig struct {
	// Key is what every request to /v1/ must bring, as Authorization: Bearer. At least 16 characters.
	Key string
	// Attempts serves /v1/attempts and what lies below; nil answers 501 there.
	Attempts http.Handler
	// Metrics serves /metrics; nil answers 404.
	Metrics http.Handler
}

// AdminHandler serves where the targets stand, dead letters and replays, and health and metrics. Keep it
// off public networks: it shows payloads to who has the key.
func (r *Receiver) AdminHandler(c AdminConfig) (http.Handler, error) {
	if len(c.Key) < 16 {
		return nil, configError("admin-key", "must have at least 16 characters")
	}
	a := &admin{receiver: r, key: sha256.Sum256([]byte(c.Key)), attempts: c.Attempts}
	mux := http.NewServeMux()
	a.serve(mux, "GET /v1/targets", a.listTargets)
	a.serve(mux, "GET /v1/dead-letters", a.listLetters)
	a.serve(mux, "DELETE /v1/dead-letters", a.deleteLetters)
	a.serve(mux, "GET /v1/dead-letters/{letter}", a.getLetter)
	a.serve(mux, "DELETE /v1/dead-letters/{letter}", a.deleteLetter)
	a.serve(mux, "POST /v1/replays", a.replay)
	mux.HandleFunc("GET /v1/attempts", a.serveAttempts)
	mux.HandleFunc("GET /v1/attempts/", a.serveAttempts)
	r.serveProbes(mux, c.Metrics)
	mux.HandleFunc("/", func(w http.ResponseWriter, q *http.Request) {
		writeProblem(w, &problem{Status: http.StatusNotFound, Code: "not_found", Detail: "there is nothing at this path"})
	})
	return mux, nil
}

// serveProbes answers health and metrics.
func (r *Receiver) serveProbes(mux *http.ServeMux, metrics http.Handler) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, health{"ok"}) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := r.Ready(); err != nil {
			writeProblem(w, &problem{Status: http.StatusServiceUnavailable, Code: "unavailable", Detail: "webhooks cannot be stored now: " + err.Error()})
			return
		}
		writeJSON(w, http.StatusOK, health{"ok"})
	})
	if metrics != nil {
		mux.Handle("GET /metrics", metrics)
	}
}

type health struct {
	Status string `json:"status"`
}

// ServeProbes makes the intake answer /healthz, /readyz and, with a handler for it, /metrics too; call it
// before Run. Where there is an upstream, these paths are the upstream's.
func (r *Receiver) ServeProbes(metrics http.Handler) {
	mux := http.NewServeMux()
	r.serveProbes(mux, metrics)
	handler := fasthttpadaptor.NewFastHTTPHandler(mux)
	r.probes = func(ctx *fasthttp.RequestCtx) bool {
		switch path := string(ctx.Path()); {
		case path == "/healthz", path == "/readyz", path == "/metrics" && metrics != nil:
			handler(ctx)
			return true
		default:
			return false
		}
	}
}

// admin serves the API.
type admin struct {
	receiver *Receiver
	key      [sha256.Size]byte
	attempts http.Handler
}

// problem is an error as the API tells it: RFC 9457 with a stable code.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Field  string `json:"field,omitempty"`
}

func (p *problem) Error() string { return p.Detail }

func invalidMember(code, field, detail string) error {
	return &problem{Status: http.StatusUnprocessableEntity, Code: code, Field: field, Detail: detail}
}

func writeProblem(w http.ResponseWriter, p *problem) {
	p.Type, p.Title = "about:blank", http.StatusText(p.Status)
	h := w.Header()
	switch p.Status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="staffetta"`)
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "1")
	}
	text, _ := json.Marshal(p)
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_, _ = w.Write(text) // a client that has gone needs no answer
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		writeProblem(w, &problem{Status: http.StatusInternalServerError, Code: "internal", Detail: "an error of the program; its log says more"})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// Permitted reports whether a request brings the key.
func (a *admin) permitted(q *http.Request) bool {
	token, ok := strings.CutPrefix(q.Header.Get("Authorization"), "Bearer ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return ok && subtle.ConstantTimeCompare(sum[:], a.key[:]) == 1
}

// serve adds an operation; what it returns is the answer, or an error that is a *problem or ours.
func (a *admin) serve(mux *http.ServeMux, pattern string, operation func(*http.Request) (status int, body any, err error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, q *http.Request) {
		if !a.allow(w, q) {
			return
		}
		status, body, err := operation(q)
		var p *problem
		switch {
		case errors.As(err, &p):
			writeProblem(w, p)
		case errors.Is(err, errUnavailable):
			writeProblem(w, &problem{Status: http.StatusServiceUnavailable, Code: "unavailable", Detail: "this cannot be stored or read now; try again"})
		case err != nil:
			a.receiver.cfg.Log.Error().Err(err).Str("route", q.Pattern).Msg("cannot answer a request")
			writeProblem(w, &problem{Status: http.StatusInternalServerError, Code: "internal", Detail: "an error of the program; its log says more"})
		case body == nil:
			w.WriteHeader(status)
		default:
			writeJSON(w, status, body)
		}
	})
}

func (a *admin) allow(w http.ResponseWriter, q *http.Request) bool {
	if a.permitted(q) {
		return true
	}
	writeProblem(w, &problem{
		Status: http.StatusUnauthorized, Code: "unauthorized",
		Detail: "send the receiver's admin key, as the header Authorization: Bearer <key>",
	})
	return false
}

func (a *admin) serveAttempts(w http.ResponseWriter, q *http.Request) {
	switch {
	case !a.allow(w, q):
	case a.attempts == nil:
		writeProblem(w, &problem{Status: http.StatusNotImplemented, Code: "not_available", Detail: "this receiver keeps no log of attempts"})
	default:
		a.attempts.ServeHTTP(w, q)
	}
}

// targetAnswer is where a target stands, as the API shows it.
type targetAnswer struct {
	ID            string     `json:"id"`
	Source        string     `json:"source"`
	Target        string     `json:"target"`
	Kind          string     `json:"kind"`
	Status        string     `json:"status"`
	Backlog       uint64     `json:"backlog"`
	Waiting       int        `json:"waiting"`
	InFlight      int        `json:"in_flight"`
	Delivered     uint64     `json:"delivered"`
	Failed        uint64     `json:"failed"`
	Dropped       uint64     `json:"dropped"`
	OldestAt      *time.Time `json:"oldest_at,omitempty"`
	NextAttemptAt *time.Time `json:"next_attempt_at,omitempty"`
	LastError     string     `json:"last_error,omitempty"`
	LastErrorAt   *time.Time `json:"last_error_at,omitempty"`
	LastSuccessAt *time.Time `json:"last_success_at,omitempty"`
}

func newTargetAnswer(f *feed) targetAnswer {
	s := f.feed.State()
	return targetAnswer{
		ID: f.id(), Source: f.source, Target: f.target, Kind: f.kind, Status: targetStatus(&s),
		Backlog: f.backlog(&s), Waiting: s.Waiting, InFlight: s.InFlight,
		Delivered: s.Delivered, Failed: s.Failed, Dropped: s.Dropped,
		OldestAt: orNil(s.OldestAt), NextAttemptAt: orNil(s.NextAttemptAt),
		LastError: s.LastError, LastErrorAt: orNil(s.LastErrorAt), LastSuccessAt: orNil(s.LastSuccessAt),
	}
}

func targetStatus(s *sender.FeedState) string {
	switch {
	case s.Down:
		return "down"
	case s.InFlight > 0 || s.Read > 0:
		return "delivering"
	case s.Waiting > 0:
		return "waiting"
	default:
		return "idle"
	}
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func (a *admin) listTargets(*http.Request) (int, any, error) {
	items := []targetAnswer{}
	for _, s := range a.receiver.sources {
		for _, f := range s.feeds {
			items = append(items, newTargetAnswer(f))
		}
	}
	return http.StatusOK, page[targetAnswer]{Items: items}, nil
}

type page[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor,omitempty"`
}

// findTarget finds a target by its id.
func (r *Receiver) findTarget(id string) (*source, *feed, bool) {
	for _, s := range r.sources {
		for _, f := range s.feeds {
			if f.id() == id {
				return s, f, true
			}
		}
	}
	return nil, nil, false
}

// parametersOf reads a query whose names are known, each at most once.
func parametersOf(q *http.Request, names ...string) (url.Values, error) {
	query, err := url.ParseQuery(q.URL.RawQuery)
	if err != nil {
		return nil, invalidMember("invalid_query", "", "the query of the request cannot be read")
	}
	for name, values := range query {
		if !slices.Contains(names, name) {
			return nil, invalidMember("unknown_parameter", name, "this takes "+strings.Join(names, ", "))
		}
		if len(values) > 1 {
			return nil, invalidMember("repeated_parameter", name, "must be given once")
		}
	}
	return query, nil
}

func timeOf(field, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() < 1970 || t.Year() > 2200 {
		return time.Time{}, invalidMember("invalid_time", field, "must be a time as RFC 3339 has it, such as 2026-03-02T09:30:00Z")
	}
	return t.UTC(), nil
}

func limitOf(text string) (int, error) {
	if text == "" {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxPage {
		return 0, invalidMember("invalid_limit", "limit", "must be between 1 and "+strconv.Itoa(maxPage))
	}
	return n, nil
}

// payloadOf shows a body: as JSON where it is JSON, else as its bytes in base64.
func payloadOf(body []byte) (payload json.RawMessage, encoded []byte) {
	if jsontext.Value(body).IsValid() && json.Valid(body) {
		return body, nil
	}
	return nil, body
}

func checkEventID(id string) error {
	if !staffetta.ValidEventID(id) {
		return invalidMember("invalid_event_ids", "event_ids", fmt.Sprintf("has one that is no event id: %.40q", id))
	}
	return nil
}
