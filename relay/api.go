package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rs/zerolog"
	"golang.org/x/sync/semaphore"

	"github.com/staffetta-relay/staffetta"
)

// APIConfig says what the management API works on.
type APIConfig struct {
	// Registry has the workspaces, endpoints and keys.
	Registry *Registry
	// Catalogue has the event types that an endpoint may ask for.
	Catalogue staffetta.Catalogue
	// MinPlan is the least plan whose workspaces may create endpoints; empty is
	// staffetta.PlanAdvanced.
	MinPlan staffetta.Plan
	// TestSend makes one signed POST of a sample to the endpoint, which counts nowhere. Without it
	// the API answers 501.
	TestSend func(context.Context, staffetta.Endpoint) (TestResult, error)
	// State says where the deliveries of an endpoint stand, by its id; nil and false leave that out
	// of the answers.
	State func(endpoint string) (State, bool)
	// Quota has the failures of the window; nil leaves them out of the answers.
	Quota *Quota
	// Attempts is the log; nil answers 501 to what needs it.
	Attempts *AttemptLog
	// DeadLetters and Replays are set by New of this package's Relay; nil answers 501 to what needs them.
	DeadLetters *DeadLetters
	Replays     *Replays
	// Version is the program's, for the OpenAPI document.
	Version string
	// Log gets answers of 500 and above. The zero value is silent.
	Log zerolog.Logger
}

// TestResult is what a test send came to.
type TestResult struct {
	// Delivered says that the endpoint has accepted the sample.
	Delivered bool
	// Status is the HTTP status, 0 where Error says why there is none.
	Status   int
	Error    string
	Duration time.Duration
	// Response is the head of the response's body.
	Response string
}

// State is where the deliveries of an endpoint stand. What is zero or nil is left out of answers,
// but for Backlog.
type State struct {
	// Backlog is how many events wait, the one under way included; OldestAt is when the first of
	// them was stored.
	Backlog uint64
	// BacklogBytes is how many bytes their payloads have.
	BacklogBytes uint64
	OldestAt     *time.Time
	// Attempt is the number of the head's attempts so far, NextAttemptAt when the next one is due.
	Attempt       int
	NextAttemptAt *time.Time
	// LastError says why the head's last attempt failed.
	LastError string
	// Settled is the sequence of the last event that was delivered, dropped or discarded.
	Settled uint64
	// LastSuccessAt and LastFailureAt are when an attempt was last accepted, and when one last failed,
	// since the relay started.
	LastSuccessAt, LastFailureAt *time.Time
}

// API is the management half of the relay's HTTP API: workspaces, keys, endpoints.
type API struct {
	cfg     APIConfig
	openAPI []byte
	reads   *semaphore.Weighted // of heavy
}

const (
	// heavyReads is how many requests may hold much of the store in memory at once, and heavyWait how
	// long one waits to be among them; then it gets a 503.
	heavyReads = 4
	heavyWait  = time.Second
)

// NewAPI checks the configuration.
func NewAPI(cfg APIConfig) (*API, error) {
	if cfg.MinPlan == "" {
		cfg.MinPlan = staffetta.PlanAdvanced
	}
	switch {
	case cfg.Registry == nil:
		return nil, errors.New("make API: Registry is missing")
	case !cfg.MinPlan.Valid():
		return nil, fmt.Errorf("make API: MinPlan %q is no plan", cfg.MinPlan)
	case len(cfg.Catalogue.Types()) == 0:
		return nil, errors.New("make API: Catalogue is empty")
	}
	document, err := openAPIDocument(cfg.Version, cfg.Catalogue)
	if err != nil {
		return nil, fmt.Errorf("make API: %w", err)
	}
	return &API{cfg: cfg, openAPI: document, reads: semaphore.NewWeighted(heavyReads)}, nil
}

// permission is who may call.
type permission uint8

const (
	anyone       permission = iota
	anyKey                  // the admin key or the key of any workspace
	workspaceKey            // the admin key or a key of the workspace in the path
	adminKey
)

// heavy bounds how many requests are served at once that hold much of the store in memory, from the
// first read to the last write of the answer.
func (a *API) heavy(serve func(*http.Request) (answer, error)) func(*http.Request) (answer, error) {
	return func(r *http.Request) (result answer, err error) {
		wait, cancel := context.WithTimeout(r.Context(), heavyWait)
		defer cancel()
		if a.reads.Acquire(wait, 1) != nil {
			p := problemUnavailable()
			p.Code, p.Detail = "too_many_reads", "too many read events and dead letters at once; try again"
			return answer{}, p
		}
		defer func() {
			if result.done == nil { // an error, or a panic
				a.reads.Release(1)
			}
		}()
		if result, err = serve(r); err == nil {
			result.done = func() { a.reads.Release(1) }
		}
		return result, err
	}
}

func (a *API) operations() []operation {
	const (
		workspace = "/v1/workspaces/{workspace}"
		keys      = workspace + "/keys"
		endpoints = workspace + "/endpoints"
		endpoint  = endpoints + "/{endpoint}"
		letters   = workspace + "/dead-letters"
		replays   = workspace + "/replays"
	)
	return []operation{
		{"GET", "/v1/openapi.json", anyone, a.getOpenAPI},
		{"GET", "/v1/event-types", anyKey, a.listEventTypes},
		{"GET", "/v1/workspaces", adminKey, a.listWorkspaces},
		{"PUT", workspace, adminKey, a.putWorkspace},
		{"GET", workspace, workspaceKey, a.getWorkspace},
		{"DELETE", workspace, adminKey, a.deleteWorkspace},
		{"POST", keys, adminKey, a.createKey},
		{"GET", keys, adminKey, a.listKeys},
		{"DELETE", keys + "/{key}", adminKey, a.deleteKey},
		{"POST", endpoints, workspaceKey, a.createEndpoint},
		{"GET", endpoints, workspaceKey, a.listEndpoints},
		{"GET", endpoint, workspaceKey, a.getEndpoint},
		{"PATCH", endpoint, workspaceKey, a.patchEndpoint},
		{"DELETE", endpoint, workspaceKey, a.deleteEndpoint},
		{"POST", endpoint + "/enable", workspaceKey, a.enableEndpoint},
		{"POST", endpoint + "/disable", workspaceKey, a.disableEndpoint},
		{"POST", endpoint + "/test", workspaceKey, a.testEndpoint},
		{"POST", endpoint + "/rotate-key", workspaceKey, a.rotateKey},
		{"GET", workspace + "/attempts", workspaceKey, a.ofAttempts((*attemptScope).list)},
		{"GET", workspace + "/attempts/follow", workspaceKey, a.ofAttempts((*attemptScope).follow)},
		{"GET", workspace + "/events/{event}", workspaceKey, a.heavy(a.getEvent)},
		{"GET", letters, workspaceKey, a.heavy(a.listDeadLetters)},
		{"DELETE", letters, workspaceKey, a.deleteDeadLetters},
		{"GET", letters + "/{letter}", workspaceKey, a.getDeadLetter},
		{"DELETE", letters + "/{letter}", workspaceKey, a.deleteDeadLetter},
		{"POST", replays, workspaceKey, a.createReplay},
		{"GET", replays, workspaceKey, a.listReplays},
		{"GET", replays + "/{replay}", workspaceKey, a.getReplay},
		{"DELETE", replays + "/{replay}", workspaceKey, a.cancelReplay},
	}
}

// servedElsewhere are the paths of the API that the intake's own server answers, with the methods
// it takes there; this half only says 405 to the others.
var servedElsewhere = map[string]string{
	"/healthz":                          http.MethodGet,
	"/metrics":                          http.MethodGet,
	"/readyz":                           http.MethodGet,
	"/v1/workspaces/{workspace}/events": http.MethodPost,
}

// Handler serves the API. Whatever it is asked, it answers JSON or a problem document.
func (a *API) Handler() http.Handler {
	return (&router{
		operations: a.operations(), elsewhere: servedElsewhere, permit: a.permit, noRoute: problemNoRoute(), log: a.cfg.Log,
	}).handler()
}

func (a *API) permit(r *http.Request, p permission) error {
	if p == anyone {
		return nil
	}
	token := bearerToken([]byte(r.Header.Get("Authorization")))
	access := a.cfg.Registry.Authorize(r.PathValue("workspace"), token)
	switch {
	case access == AccessAdmin, p == anyKey && access != AccessNone, p == workspaceKey && access == AccessWorkspace:
		return nil
	case access == AccessNone:
		return problemUnauthorized()
	case p == adminKey:
		return problemAdminOnly()
	default:
		return problemForbidden()
	}
}

func (a *API) getOpenAPI(*http.Request) (answer, error) {
	return answer{status: http.StatusOK, body: jsontext.Value(a.openAPI)}, nil
}

func (a *API) listEventTypes(*http.Request) (answer, error) {
	return answer{status: http.StatusOK, body: list[staffetta.EventType]{Items: a.cfg.Catalogue.Types()}}, nil
}
