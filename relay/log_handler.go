package relay

import (
	"net/http"
	"sync"

	"github.com/rs/zerolog"
)

// NewAttemptHandler serves a log alone, for a program that has no workspaces. GET /v1/attempts and GET
// /v1/attempts/follow take, answer and refuse what those of a workspace do at the relay, but that
// the filter endpoint may be any text; they show what was recorded under workspace.
//
// permitted says whether a request may read the log, and is asked again every 15 seconds of a stream.
// The handler is made for net/http's server, with or without timeouts: a stream ends with its
// request's context, when the server begins to shut down, and with the Run of the log.
func NewAttemptHandler(log *AttemptLog, workspace string, permitted func(*http.Request) bool, logger zerolog.Logger) http.Handler {
	stops := shutdowns{of: map[*http.Server]<-chan struct{}{}}
	on := func(serve func(*attemptScope, *http.Request) (answer, error)) func(*http.Request) (answer, error) {
		return func(r *http.Request) (answer, error) {
			return serve(&attemptScope{
				log: log, workspace: workspace, permitted: func() bool { return permitted(r) }, stopping: stops.begun(r),
			}, r)
		}
	}
	return (&router{
		operations: []operation{
			{"GET", "/v1/attempts", adminKey, on((*attemptScope).list)},
			{"GET", "/v1/attempts/follow", adminKey, on((*attemptScope).follow)},
		},
		permit: func(r *http.Request, _ permission) error {
			if !permitted(r) {
				p := problemUnauthorized()
				p.Detail = "send the admin key, as the header Authorization: Bearer <key>"
				return p
			}
			return nil
		},
		noRoute: newProblem(http.StatusNotFound, "not_found", "there is nothing at this path"),
		log:     logger,
	}).handler()
}

// shutdowns tells when a server of net/http begins to shut down: it ends the context of no request
// that is under way, and would wait for a stream.
type shutdowns struct {
	mu sync.Mutex
	of map[*http.Server]<-chan struct{} // one for each server that the handler ever had
}

// begun is closed when the server of a request begins to shut down; nil where that is not of net/http.
func (s *shutdowns) begun(r *http.Request) <-chan struct{} {
	server, ok := r.Context().Value(http.ServerContextKey).(*http.Server)
	if !ok {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	began, known := s.of[server]
	if !known {
		stop := make(chan struct{})
		server.RegisterOnShutdown(sync.OnceFunc(func() { close(stop) }))
		began, s.of[server] = stop, stop
	}
	return began
}
