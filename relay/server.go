package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttpadaptor"
	"golang.org/x/sync/semaphore"
)

// Bounds of what a producer may send.
const (
	// MaxPayload is the size of one event in bytes.
	MaxPayload = 1 << 20
	// MaxBatch is the size of a batch's body in bytes.
	MaxBatch = 16 << 20
	// MaxBatchLines is how many lines a batch may have.
	MaxBatchLines = 100_000
	// MaxIdempotencyKey is the length of an Idempotency-Key in bytes.
	MaxIdempotencyKey = 255

	// maxBodies bounds the bytes of all bodies that are being read or stored at one time; a request
	// that finds no room within bodyWait gets a 503.
	maxBodies = 256 << 20
	bodyWait  = 2 * time.Second
	// bodyStep is how much room a body takes at a time, as it comes: who only announces holds none.
	bodyStep = 64 << 10
	// maxLeft is how much is read of a body that is not wanted.
	maxLeft = 2 * MaxBatch
	// smallBody is what fasthttp has read of a body by the time the handler runs: bodies up to it
	// are bounded by the number of connections alone.
	smallBody = 8 << 10
	// keptBody bounds the memory of a body that is kept for the next one.
	keptBody = 1 << 20

	maxConnections = 8192
	// readTimeout bounds the reading of one request, from its first byte to the last of its body.
	readTimeout = 30 * time.Second
	idleTimeout = 2 * time.Minute
	// storeTimeout bounds the wait for the store; beyond it the producer gets a 503.
	storeTimeout = 5 * time.Second
)

// server speaks HTTP: it takes events itself and hands every other path to the API.
type server struct {
	ingest *ingest
	api    fasthttp.RequestHandler
	ready  func() error
	bodies *semaphore.Weighted
	http   *fasthttp.Server

	metrics     *Metrics
	metricsPage fasthttp.RequestHandler
}

func newServer(in *ingest, api *API, ready func() error) *server {
	s := &server{
		ingest: in,
		api:    fasthttpadaptor.NewFastHTTPHandler(ownRequest(api.Handler())),
		ready:  ready,
		bodies: semaphore.NewWeighted(maxBodies),

		metrics: NewMetrics(MetricsConfig{}), metricsPage: newMetricsPage(nil, zerolog.Nop()),
	}
	s.http = &fasthttp.Server{
		Handler:            s.handle,
		ErrorHandler:       refuseRequest,
		Name:               "Staffetta",
		ReadBufferSize:     16 << 10, // and so the bound of a request's head
		Concurrency:        maxConnections,
		ReadTimeout:        readTimeout,
		WriteTimeout:       readTimeout,
		IdleTimeout:        idleTimeout,
		MaxRequestBodySize: MaxBatch,
		StreamRequestBody:  true,
		CloseOnShutdown:    true,
		TCPKeepalive:       true,
		// A form would be read before its sender is known, and what is large of it into files.
		DisablePreParseMultipartForm: true,
		SecureErrorLogMessage:        true,
		Logger:                       silence{},
	}
	return s
}

// ownRequest gives the API a request that it may keep parts of: the adaptor's strings lie in buffers,
// and its context in an object, that the next request uses again.
func ownRequest(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, err := url.ParseRequestURI(strings.Clone(r.RequestURI))
		if err != nil {
			http.Error(w, http.StatusText(http.StatusBadRequest), http.StatusBadRequest)
			return
		}
		ctx := context.Background()
		if served, ok := r.Context().(*fasthttp.RequestCtx); ok {
			ctx = context.WithValue(ctx, connectionKey{}, connection{served.Conn(), served.Done()})
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		r = r.WithContext(ctx)
		r.URL, r.RequestURI = u, u.RequestURI()
		next.ServeHTTP(w, r)
	})
}

// connection is what an answer that is a stream needs to know of its own; zero where a test asks
// without a network.
type connection struct {
	conn net.Conn
	// stopping is closed when the server begins to stop.
	stopping <-chan struct{}
}

type connectionKey struct{}

func connectionOf(r *http.Request) connection {
	c, _ := r.Context().Value(connectionKey{}).(connection)
	return c
}

// silence drops what fasthttp would print about broken requests; refuseRequest has answered them.
type silence struct{}

func (silence) Printf(string, ...any) {}

// serve takes connections until ctx ends, then lets the requests under way end.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	failed := make(chan error, 1)
	go func() { failed <- s.http.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout+time.Second)
	defer cancel()
	err := s.http.ShutdownWithContext(bounded)
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil // a producer that is still sending: its event was not acknowledged
	}
	return errors.Join(err, <-failed)
}

func (s *server) handle(ctx *fasthttp.RequestCtx) {
	if isAmbiguous(&ctx.Request.Header) {
		ctx.SetConnectionClose()
		answerProblem(ctx, newProblem(fasthttp.StatusBadRequest, "malformed_request", "send Content-Length or Transfer-Encoding, not both"))
		return
	}
	s.route(ctx)
	leaveBody(ctx)
}

// isAmbiguous says that a request has two lengths: what stands between us and the producer may go
// by the other one, and take the rest for another request.
func isAmbiguous(h *fasthttp.RequestHeader) bool {
	return h.ContentLength() == -1 && bytes.Contains(bytes.ToLower(h.RawHeaders()), []byte("content-length"))
}

// leaveBody sees to what nobody has read of the body: fasthttp would take it for the next request.
// Much of it is read, so that the producer comes to read the answer.
func leaveBody(ctx *fasthttp.RequestCtx) {
	stream := ctx.RequestBodyStream()
	if stream == nil || ctx.Response.ConnectionClose() {
		return
	}
	if _, err := io.CopyN(io.Discard, stream, maxLeft); !errors.Is(err, io.EOF) {
		ctx.SetConnectionClose()
	}
}

func (s *server) route(ctx *fasthttp.RequestCtx) {
	path := ctx.Path()
	switch {
	case len(path) > len(workspacesPath)+len(eventsPath) && bytes.HasPrefix(path, []byte(workspacesPath)) && bytes.HasSuffix(path, []byte(eventsPath)):
		workspace := path[len(workspacesPath) : len(path)-len(eventsPath)]
		if bytes.IndexByte(workspace, '/') < 0 {
			began := time.Now()
			s.handleEvents(ctx, string(workspace))
			s.metrics.answered(ctx.Response.StatusCode(), time.Since(began))
			return
		}
	case string(path) == "/healthz":
		answerHealth(ctx, nil)
		return
	case string(path) == "/readyz":
		answerHealth(ctx, s.ready())
		return
	case string(path) == "/metrics" && (ctx.IsGet() || ctx.IsHead()):
		s.metricsPage(ctx)
		return
	}
	s.manage(ctx)
}

// manage hands a request to the API, with its body read within the API's bound.
func (s *server) manage(ctx *fasthttp.RequestCtx) {
	if _, err := url.ParseRequestURI(string(ctx.RequestURI())); err != nil { // the adaptor answers 500
		answerProblem(ctx, newProblem(fasthttp.StatusBadRequest, "malformed_request", "the path of the request cannot be read"))
		return
	}
	if ctx.Request.Header.ContentLength() != 0 {
		limit := maxBody
		if ctx.IsPost() && bytes.HasSuffix(ctx.Path(), []byte(replaysPath)) {
			limit = maxReplayBody
		}
		body, done, err := s.body(ctx, limit)
		if errors.Is(err, errBodyTooLarge) {
			answerProblem(ctx, problemTooLarge(limit))
			return
		}
		if err != nil {
			answerError(ctx, err)
			return
		}
		defer done()
		ctx.Request.SetBodyRaw(body)
	}
	s.api(ctx)
}

const (
	workspacesPath = "/v1/workspaces/"
	eventsPath     = "/events"
	replaysPath    = "/replays"
)

// handleEvents is POST /v1/workspaces/{ws}/events.
func (s *server) handleEvents(ctx *fasthttp.RequestCtx, workspace string) {
	if !ctx.IsPost() {
		answerProblem(ctx, problemMethod(fasthttp.MethodPost))
		return
	}
	token := bearerToken(ctx.Request.Header.Peek(fasthttp.HeaderAuthorization))
	switch s.ingest.registry.Authorize(workspace, token) {
	case AccessAdmin, AccessWorkspace:
	case AccessNone:
		answerProblem(ctx, problemUnauthorized())
		return
	case AccessOther:
		answerProblem(ctx, problemForbidden())
		return
	}
	batch, ok := batchOf(ctx.Request.Header.ContentType())
	if !ok {
		answerProblem(ctx, problemMediaType("application/json for one event, application/x-ndjson for one event a line"))
		return
	}
	key := ctx.Request.Header.Peek("Idempotency-Key")
	if len(key) > MaxIdempotencyKey || batch && len(key) > 0 {
		answerProblem(ctx, newProblem(fasthttp.StatusUnprocessableEntity, "invalid_idempotency_key",
			"an Idempotency-Key has at most "+strconv.Itoa(MaxIdempotencyKey)+" bytes and goes with a single event; in a batch the event_id of each event makes a repeat harmless"))
		return
	}
	limit := MaxPayload
	if batch {
		limit = MaxBatch
	}
	body, done, err := s.body(ctx, limit)
	if err != nil {
		s.metrics.refused(err)
		answerError(ctx, err)
		return
	}
	defer done()
	wait, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	if batch {
		r, err := s.ingest.batch(wait, workspace, body)
		if err != nil {
			s.metrics.refused(err)
			answerError(ctx, err)
			return
		}
		s.metrics.tookBatch(&r)
		answerJSON(ctx, fasthttp.StatusAccepted, r.appendJSON(make([]byte, 0, 128)))
		return
	}
	a, err := s.ingest.one(wait, workspace, body, key)
	if err != nil {
		s.metrics.refused(err)
		answerError(ctx, err)
		return
	}
	s.metrics.took(a)
	answerJSON(ctx, fasthttp.StatusAccepted, a.appendJSON(make([]byte, 0, 192)))
}

// batchOf tells a batch from a single event by the media type. Without one it is a single event.
func batchOf(contentType []byte) (batch, ok bool) {
	media, _, _ := bytes.Cut(contentType, []byte{';'})
	media = bytes.TrimSpace(media)
	switch {
	case len(media) == 0, bytes.EqualFold(media, []byte("application/json")):
		return false, true
	case bytes.EqualFold(media, []byte("application/x-ndjson")), bytes.EqualFold(media, []byte("application/ndjson")):
		return true, true
	}
	return false, false
}

var (
	errBodyTooLarge = errors.New("the body is too large")
	errBodyBroken   = errors.New("the body ended before its announced length")
	errEncoded      = errors.New("the body is encoded")
)

// bodyBuffers are of *bytes.Buffer of at most keptBody bytes.
var bodyBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// body reads the request's body within its limit and within the room for all bodies. done gives
// the room and the memory back.
func (s *server) body(ctx *fasthttp.RequestCtx, limit int) (body []byte, done func(), err error) {
	if len(ctx.Request.Header.ContentEncoding()) > 0 {
		return nil, nil, errEncoded
	}
	var held int64
	buffer := bodyBuffers.Get().(*bytes.Buffer)
	buffer.Reset()
	body, err = readBody(ctx, buffer, limit, func() error {
		wait, cancel := context.WithTimeout(context.Background(), bodyWait)
		defer cancel()
		if s.bodies.Acquire(wait, bodyStep) != nil {
			return fmt.Errorf("wait for room for the body: %w", errPressure)
		}
		held += bodyStep
		return nil
	})
	done = func() {
		s.bodies.Release(held)
		if buffer.Cap() <= keptBody {
			bodyBuffers.Put(buffer)
		}
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return body, done, nil
}

// readBody reads a body of at most limit bytes into a buffer. It asks for room before each step beyond
// smallBody.
func readBody(ctx *fasthttp.RequestCtx, buffer *bytes.Buffer, limit int, room func() error) ([]byte, error) {
	length := ctx.Request.Header.ContentLength() // -1: chunked
	if length > limit {
		return nil, errBodyTooLarge
	}
	stream := ctx.RequestBodyStream()
	if stream == nil {
		return append(buffer.AvailableBuffer(), ctx.Request.Body()...), nil // the server uses its memory again
	}
	if length >= 0 && length <= smallBody {
		buffer.Grow(length)
		body := buffer.AvailableBuffer()[:length]
		if _, err := io.ReadFull(stream, body); err != nil {
			ctx.SetConnectionClose()
			return nil, errBodyBroken
		}
		return body, nil
	}
	for step := int64(smallBody + 1); ; step = bodyStep {
		_, err := io.CopyN(buffer, stream, step)
		switch ended := errors.Is(err, io.EOF); {
		case err != nil && !ended, ended && length > buffer.Len():
			ctx.SetConnectionClose()
			return nil, errBodyBroken
		case buffer.Len() > limit:
			return nil, errBodyTooLarge
		case ended:
			return buffer.Bytes(), nil
		}
		if err := room(); err != nil {
			ctx.SetConnectionClose()
			return nil, err
		}
	}
}

// answerError turns why an event was not accepted into a problem.
func answerError(ctx *fasthttp.RequestCtx, err error) {
	var p Problem
	switch {
	case errors.Is(err, errPressure):
		p = problemUnavailable()
		p.Detail = "the event was not accepted, send it again: " + strings.TrimSuffix(err.Error(), ": "+errPressure.Error())
	case errors.Is(err, errBodyTooLarge):
		p = newProblem(fasthttp.StatusRequestEntityTooLarge, "payload_too_large",
			"an event has at most "+strconv.Itoa(MaxPayload)+" bytes, a batch "+strconv.Itoa(MaxBatch))
	case errors.Is(err, errBodyBroken):
		p = newProblem(fasthttp.StatusBadRequest, "body_incomplete", "the body ended, or stalled, before its announced length")
	case errors.Is(err, errEncoded):
		p = newProblem(fasthttp.StatusUnsupportedMediaType, "unsupported_encoding", "send the body without Content-Encoding")
	default:
		p = problemFor(err)
	}
	answerProblem(ctx, p)
}

func answerProblem(ctx *fasthttp.RequestCtx, p Problem) {
	ctx.SetStatusCode(p.Status)
	ctx.SetContentType(problemType)
	if p.RetryAfter > 0 {
		ctx.Response.Header.Set(fasthttp.HeaderRetryAfter, strconv.Itoa(p.RetryAfter))
	}
	if p.Allow != "" {
		ctx.Response.Header.Set(fasthttp.HeaderAllow, p.Allow)
	}
	if p.Status == fasthttp.StatusUnauthorized {
		ctx.Response.Header.Set(fasthttp.HeaderWWWAuthenticate, authenticate)
	}
	ctx.SetBody(p.AppendJSON(nil))
}

func answerJSON(ctx *fasthttp.RequestCtx, status int, body []byte) {
	ctx.SetStatusCode(status)
	ctx.SetContentType("application/json")
	ctx.Response.SetBodyRaw(body)
}

func answerHealth(ctx *fasthttp.RequestCtx, err error) {
	if err != nil {
		p := problemUnavailable()
		p.Detail = strings.TrimSuffix(err.Error(), ": "+errPressure.Error())
		answerProblem(ctx, p)
		return
	}
	answerJSON(ctx, fasthttp.StatusOK, []byte(`{"status":"ok"}`))
}

// refuseRequest answers what is not a request that fasthttp can read.
func refuseRequest(ctx *fasthttp.RequestCtx, err error) {
	var small *fasthttp.ErrSmallBuffer
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &small):
		answerProblem(ctx, newProblem(fasthttp.StatusRequestHeaderFieldsTooLarge, "header_too_large", "the head of the request is larger than 16 KiB"))
	case errors.As(err, &timeout) && timeout.Timeout():
		answerProblem(ctx, newProblem(fasthttp.StatusRequestTimeout, "request_timeout", "the request was not complete within 30 seconds"))
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		answerError(ctx, errBodyTooLarge)
	default:
		answerProblem(ctx, newProblem(fasthttp.StatusBadRequest, "malformed_request", "this is not an HTTP/1.1 request that can be read"))
	}
	ctx.SetConnectionClose()
}

// appendJSON writes {"event_id":"…","endpoints":n}; an event id needs no escaping by validation.
func (a accepted) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"event_id":"`...)
	dst = append(dst, a.eventID...)
	dst = append(dst, `","endpoints":`...)
	dst = strconv.AppendInt(dst, int64(a.endpoints), 10)
	if a.duplicate {
		dst = append(dst, `,"duplicate":true`...)
	}
	return append(dst, '}')
}

// appendJSON writes {"accepted":n,"duplicates":n,"rejected":[{"line":n,"code":"…","detail":"…"}]}.
func (r batchResult) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"accepted":`...)
	dst = strconv.AppendInt(dst, int64(r.accepted), 10)
	dst = append(dst, `,"duplicates":`...)
	dst = strconv.AppendInt(dst, int64(r.duplicates), 10)
	dst = append(dst, `,"rejected":[`...)
	for i, x := range r.rejected {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"line":`...)
		dst = strconv.AppendInt(dst, int64(x.line), 10)
		dst = append(dst, `,"code":`...)
		dst, _ = jsontext.AppendQuote(dst, x.code)
		dst = append(dst, `,"detail":`...)
		dst, _ = jsontext.AppendQuote(dst, x.detail)
		dst = append(dst, '}')
	}
	return append(dst, "]}"...)
}
