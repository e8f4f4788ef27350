package relay

import (
	"fmt"
	"net/http"
	"path"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rs/zerolog"
)

// router serves operations.
type router struct {
	operations []operation
	// elsewhere are paths that another server answers, with the method it takes there.
	elsewhere map[string]string
	// permit says why the caller may not, or nil.
	permit func(*http.Request, permission) error
	// noRoute is the answer to an unknown path.
	noRoute Problem
	// log gets answers of 500 and above.
	log zerolog.Logger
}

// operation is one method of one path.
type operation struct {
	method, path string
	permission   permission
	serve        func(*http.Request) (answer, error)
}

// answer is what a request comes to when it is no error.
type answer struct {
	status   int
	body     any // JSON, or nothing where it is nil
	location string
	// stream writes the whole answer itself, in place of body.
	stream func(http.ResponseWriter)
	// done is called once all is written; it may be nil.
	done func()
}

// handler answers JSON or a problem document, whatever it is asked.
func (o *router) handler() http.Handler {
	mux := http.NewServeMux()
	for _, op := range o.operations {
		mux.HandleFunc(op.method+" "+op.path, func(w http.ResponseWriter, r *http.Request) { o.handle(w, r, op) })
	}
	for path, method := range o.elsewhere {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { writeProblem(w, problemMethod(method)) })
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer o.recoverPanic(w, r)
		// The mux would redirect a path that is not clean.
		if r.URL.Path != path.Clean(r.URL.Path) {
			writeProblem(w, o.noRoute)
			return
		}
		if fallback, pattern := mux.Handler(r); pattern == "" {
			writeProblem(w, o.unrouted(fallback, r))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// unrouted asks the mux's own handler whether the path or the method is unknown.
func (o *router) unrouted(fallback http.Handler, r *http.Request) Problem {
	probe := headerProbe{}
	fallback.ServeHTTP(probe, r)
	if allow := http.Header(probe).Get("Allow"); allow != "" {
		return problemMethod(allow)
	}
	return o.noRoute
}

// headerProbe is a ResponseWriter that keeps the headers alone.
type headerProbe http.Header

func (p headerProbe) Header() http.Header            { return http.Header(p) }
func (p headerProbe) Write(text []byte) (int, error) { return len(text), nil }
func (p headerProbe) WriteHeader(int)                {}

func (o *router) recoverPanic(w http.ResponseWriter, r *http.Request) {
	if cause := recover(); cause != nil {
		o.fail(w, r, fmt.Errorf("panic: %v", cause))
	}
}

func (o *router) handle(w http.ResponseWriter, r *http.Request, op operation) {
	if err := o.permit(r, op.permission); err != nil {
		o.fail(w, r, err)
		return
	}
	result, err := op.serve(r)
	if err != nil {
		o.fail(w, r, err)
		return
	}
	if result.done != nil {
		defer result.done()
	}
	if result.stream != nil {
		result.stream(w)
		return
	}
	var body []byte
	if raw, ok := result.body.(jsontext.Value); ok {
		body = raw
	} else if result.body != nil {
		// What an endpoint answered may not be UTF-8.
		if body, err = json.Marshal(result.body, jsontext.AllowInvalidUTF8(true), json.Deterministic(true)); err != nil {
			o.fail(w, r, fmt.Errorf("write answer: %w", err))
			return
		}
		w.Header().Set("Cache-Control", "no-store") // it may have a key in it
	}
	if body != nil {
		w.Header().Set("Content-Type", "application/json")
	}
	if result.location != "" {
		w.Header().Set("Location", result.location)
	}
	w.WriteHeader(result.status)
	_, _ = w.Write(body) // a client that has gone needs no answer
}

// fail answers with the problem that the error is, and logs those that are ours.
func (o *router) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problemFor(err)
	if p.Status >= http.StatusInternalServerError {
		line := o.log.Error().Err(err).Int("status", p.Status).Str("method", r.Method).Str("route", r.Pattern)
		for _, name := range []string{"workspace", "endpoint"} {
			if id := r.PathValue(name); id != "" {
				line = line.Str(name, id)
			}
		}
		line.Msg("cannot answer a request")
	}
	writeProblem(w, p)
}
