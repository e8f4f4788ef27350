package relay

import (
	"net/http"
	"time"

	"github.com/staffetta-relay/staffetta"
)

const (
	// defaultOverlap is how long the old signing key goes on signing beside a new one.
	defaultOverlap = 24 * time.Hour
	// maxOverlap bounds it.
	maxOverlap = 30 * 24 * time.Hour
)

// endpointBody is what POST and PATCH take: a member left out keeps its value, null puts its
// default back.
type endpointBody struct {
	URL         optional[string]              `json:"url"`
	EventTypes  optional[[]string]            `json:"event_types"`
	Description optional[string]              `json:"description"`
	Headers     optional[map[string]*string]  `json:"headers"`
	Success     optional[staffetta.Success]   `json:"success"`
	OnDisable   optional[staffetta.OnDisable] `json:"on_disable"`
	// EnableRequiresTest is kept while a test that was made still tells something of the endpoint.
	EnableRequiresTest optional[bool] `json:"enable_requires_test"`
}

// newEndpointBody is what POST takes besides.
type newEndpointBody struct {
	endpointBody
	SigningKey optional[string] `json:"signing_key"`
}

func (b *endpointBody) apply(e *staffetta.Endpoint, c staffetta.Catalogue) error {
	tested := e.URL
	if b.URL.into(&e.URL); e.URL != tested {
		e.TestedAt = nil
	}
	b.EnableRequiresTest.into(&e.EnableRequiresTest)
	b.EventTypes.into(&e.EventTypes)
	b.Description.into(&e.Description)
	b.Success.into(&e.Success)
	b.OnDisable.into(&e.OnDisable)
	if b.Headers.given {
		if b.Headers.value == nil {
			e.Headers = nil
		}
		e.Headers = mergeHeaders(e.Headers, b.Headers.value)
	}
	e.SetDefaults()
	return e.Validate(c)
}

// endpointAnswer is an endpoint with where its deliveries stand.
type endpointAnswer struct {
	staffetta.Endpoint
	Backlog       *uint64    `json:"backlog,omitzero"`
	BacklogBytes  *uint64    `json:"backlog_bytes,omitzero"`
	OldestAt      *time.Time `json:"oldest_at,omitzero"`
	Attempt       int        `json:"attempt,omitzero"`
	NextAttemptAt *time.Time `json:"next_attempt_at,omitzero"`
	// WaitsFor is what the first waiting event waits for.
	WaitsFor      string     `json:"waits_for,omitzero"`
	LastError     string     `json:"last_error,omitzero"`
	LastSuccessAt *time.Time `json:"last_success_at,omitzero"`
	LastFailureAt *time.Time `json:"last_failure_at,omitzero"`
	// FailuresInWindow are the endpoint's own, the others those of its whole workspace.
	FailuresInWindow          *int `json:"failures_in_window,omitzero"`
	WorkspaceFailuresInWindow *int `json:"workspace_failures_in_window,omitzero"`
	// PreviousExpiresAt is there while the key before a rotation still signs.
	PreviousExpiresAt *time.Time `json:"previous_expires_at,omitzero"`
	// SigningKey is shown by the two answers that make one.
	SigningKey string `json:"signing_key,omitzero"`
}

func (a *API) endpointAnswer(e staffetta.Endpoint) endpointAnswer {
	shown := endpointAnswer{Endpoint: e}
	if until := e.Keys.PreviousUntil; e.Keys.Previous != "" && until.After(time.Now()) {
		shown.PreviousExpiresAt = &until
	}
	if a.cfg.Quota != nil {
		own, all := a.cfg.Quota.Failures(e.Workspace, e.ID)
		shown.FailuresInWindow, shown.WorkspaceFailuresInWindow = &own, &all
	}
	if a.cfg.State == nil {
		return shown
	}
	if state, known := a.cfg.State(e.ID); known {
		shown.Backlog, shown.BacklogBytes = &state.Backlog, &state.BacklogBytes
		shown.Attempt, shown.LastError = state.Attempt, state.LastError
		shown.OldestAt, shown.NextAttemptAt = inUTC(state.OldestAt), inUTC(state.NextAttemptAt)
		shown.LastSuccessAt, shown.LastFailureAt = inUTC(state.LastSuccessAt), inUTC(state.LastFailureAt)
		shown.WaitsFor = waitsFor(&e, &state)
	}
	return shown
}

// waitsFor says what the first waiting event waits for: that the endpoint is enabled, the time of its
// next attempt, or the end of the attempt under way.
func waitsFor(e *staffetta.Endpoint, state *State) string {
	switch {
	case state.Backlog == 0:
		return ""
	case e.Status == staffetta.Disabled:
		return "enable"
	case state.NextAttemptAt != nil:
		return "retry"
	default:
		return "attempt"
	}
}

func inUTC(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	utc := t.UTC()
	return &utc
}

func (a *API) createEndpoint(r *http.Request) (answer, error) {
	ws, err := a.cfg.Registry.Workspace(r.PathValue("workspace"))
	if err != nil {
		return answer{}, err
	}
	if !ws.Plan.AtLeast(a.cfg.MinPlan) {
		return answer{}, newProblem(http.StatusForbidden, "plan_required",
			"webhooks need the "+string(a.cfg.MinPlan)+" plan or one above it; this workspace is on the "+string(ws.Plan)+" plan")
	}
	var body newEndpointBody
	if err := readObject(r, &body); err != nil {
		return answer{}, err
	}
	e := staffetta.Endpoint{Workspace: ws.ID}
	if err := body.apply(&e, a.cfg.Catalogue); err != nil {
		return answer{}, err
	}
	if e.Keys.Current, err = signingKey(body.SigningKey.value); err != nil {
		return answer{}, err
	}
	if e, err = a.cfg.Registry.CreateEndpoint(r.Context(), e); err != nil {
		return answer{}, err
	}
	shown := a.endpointAnswer(e)
	shown.SigningKey = e.Keys.Current
	return answer{status: http.StatusCreated, body: shown, location: "/v1/workspaces/" + ws.ID + "/endpoints/" + e.ID}, nil
}

// signingKey checks the key that the user brings, or makes one.
func signingKey(given string) (string, error) {
	if given == "" {
		return staffetta.NewSigningKey(), nil
	}
	return given, staffetta.ValidateSigningKey(given)
}

func (a *API) listEndpoints(r *http.Request) (answer, error) {
	after, limit, err := pageOf(r)
	if err != nil {
		return answer{}, err
	}
	endpoints, more, err := a.cfg.Registry.Endpoints(r.PathValue("workspace"), after, limit)
	if err != nil {
		return answer{}, err
	}
	page := list[endpointAnswer]{Items: make([]endpointAnswer, len(endpoints))}
	for i, e := range endpoints {
		page.Items[i] = a.endpointAnswer(e)
	}
	if more {
		page.NextCursor = cursorAfter(endpoints[len(endpoints)-1].ID)
	}
	return answer{status: http.StatusOK, body: page}, nil
}

// endpointOf finds the endpoint of the path.
func (a *API) endpointOf(r *http.Request) (staffetta.Endpoint, error) {
	return a.cfg.Registry.Endpoint(r.PathValue("workspace"), r.PathValue("endpoint"))
}

func (a *API) getEndpoint(r *http.Request) (answer, error) {
	return a.showEndpoint(a.endpointOf(r))
}

func (a *API) showEndpoint(e staffetta.Endpoint, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: a.endpointAnswer(e)}, nil
}

func (a *API) patchEndpoint(r *http.Request) (answer, error) {
	if _, err := a.endpointOf(r); err != nil {
		return answer{}, err
	}
	var body endpointBody
	if err := readObject(r, &body); err != nil {
		return answer{}, err
	}
	return a.showEndpoint(a.cfg.Registry.UpdateEndpoint(r.Context(), r.PathValue("workspace"), r.PathValue("endpoint"),
		func(e *staffetta.Endpoint) error { return body.apply(e, a.cfg.Catalogue) }))
}

func (a *API) deleteEndpoint(r *http.Request) (answer, error) {
	return answer{status: http.StatusNoContent}, a.cfg.Registry.DeleteEndpoint(r.Context(), r.PathValue("workspace"), r.PathValue("endpoint"))
}

func (a *API) enableEndpoint(r *http.Request) (answer, error) {
	if err := readObject(r, &struct{}{}); err != nil {
		return answer{}, err
	}
	return a.showEndpoint(a.cfg.Registry.EnableEndpoint(r.Context(), r.PathValue("workspace"), r.PathValue("endpoint")))
}

func (a *API) disableEndpoint(r *http.Request) (answer, error) {
	if err := readObject(r, &struct{}{}); err != nil {
		return answer{}, err
	}
	return a.showEndpoint(a.cfg.Registry.DisableEndpoint(r.Context(), r.PathValue("workspace"), r.PathValue("endpoint"), staffetta.DisabledByUser))
}

// testAnswer is what a test send came to.
type testAnswer struct {
	Delivered  bool   `json:"delivered"`
	Status     int    `json:"status,omitzero"`
	Error      string `json:"error,omitzero"`
	DurationMS int64  `json:"duration_ms"`
	Response   string `json:"response,omitzero"`
}

func (a *API) testEndpoint(r *http.Request) (answer, error) {
	e, err := a.endpointOf(r)
	if err != nil {
		return answer{}, err
	}
	if err := readObject(r, &struct{}{}); err != nil {
		return answer{}, err
	}
	if a.cfg.TestSend == nil {
		return answer{}, newProblem(http.StatusNotImplemented, "not_available", "this relay cannot make test sends")
	}
	startedAt := stamp()
	result, err := a.cfg.TestSend(r.Context(), e)
	if err == nil && result.Delivered {
		err = a.cfg.Registry.noteTest(r.Context(), e, startedAt)
	}
	return answer{status: http.StatusOK, body: testAnswer{
		Delivered:  result.Delivered,
		Status:     result.Status,
		Error:      result.Error,
		DurationMS: result.Duration.Milliseconds(),
		Response:   result.Response,
	}}, err
}

// rotateBody is what a rotation takes.
type rotateBody struct {
	Overlap    optional[*string] `json:"overlap"`
	SigningKey optional[string]  `json:"signing_key"`
}

func (b *rotateBody) overlap() (time.Duration, error) {
	if b.Overlap.value == nil {
		return defaultOverlap, nil
	}
	overlap, err := time.ParseDuration(*b.Overlap.value)
	if err != nil || overlap < 0 || overlap > maxOverlap {
		return 0, bodyError("invalid_overlap", "overlap", "must be a duration between 0s and 720h, such as 24h")
	}
	return overlap, nil
}

func (a *API) rotateKey(r *http.Request) (answer, error) {
	if _, err := a.endpointOf(r); err != nil {
		return answer{}, err
	}
	var body rotateBody
	if err := readObject(r, &body); err != nil {
		return answer{}, err
	}
	overlap, err := body.overlap()
	if err != nil {
		return answer{}, err
	}
	key, err := signingKey(body.SigningKey.value)
	if err != nil {
		return answer{}, err
	}
	e, err := a.cfg.Registry.UpdateEndpoint(r.Context(), r.PathValue("workspace"), r.PathValue("endpoint"), func(e *staffetta.Endpoint) error {
		if key == e.Keys.Current {
			return bodyError("invalid_signing_key", "signing_key", "is the key that signs already")
		}
		e.Keys = rotated(e.Keys, key, overlap)
		return nil
	})
	if err != nil {
		return answer{}, err
	}
	shown := a.endpointAnswer(e)
	shown.SigningKey = e.Keys.Current
	return answer{status: http.StatusOK, body: shown}, nil
}

// rotated puts a new key in place of the current one, which goes on signing for the overlap.
func rotated(keys staffetta.SigningKeys, key string, overlap time.Duration) staffetta.SigningKeys {
	if overlap == 0 {
		return staffetta.SigningKeys{Current: key}
	}
	return staffetta.SigningKeys{Current: key, Previous: keys.Current, PreviousUntil: stamp().Add(overlap)}
}
