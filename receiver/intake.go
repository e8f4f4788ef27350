package receiver

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

// source is where webhooks of one kind come in.
type source struct {
	name     string
	path     string
	verifier *staffetta.Verifier
	allow    []netip.Prefix
	journal  *journal
	feeds    []*feed
	results  [refusedPath]prometheus.Counter
}

// reply is what the sender of a webhook is told.
type reply struct {
	status int
	text   string
	// retryAfter is in seconds, 0 for no such header.
	retryAfter int
	reason     refusal
}

// The answers. A sender that may not is told nothing of why its signature does not hold; the log is.
var (
	replyOK          = reply{status: http.StatusOK, text: "OK"}
	replyRepeat      = reply{status: http.StatusOK, text: "OK", reason: repeated}
	replyNoSource    = reply{status: http.StatusNotFound, text: "no webhooks are taken at this path\n", reason: refusedPath}
	replyMethod      = reply{status: http.StatusMethodNotAllowed, text: "send a POST\n", reason: refusedMethod}
	replyNetwork     = reply{status: http.StatusForbidden, text: "webhooks from this address are not taken\n", reason: refusedNetwork}
	replyMissing     = reply{status: http.StatusUnauthorized, text: "the signature is missing\n", reason: refusedSignature}
	replyInvalid     = reply{status: http.StatusUnauthorized, text: "the signature is wrong\n", reason: refusedSignature}
	replyStale       = reply{status: http.StatusUnauthorized, text: "the signed timestamp is too far from now\n", reason: refusedSignature}
	replyTooLarge    = reply{status: http.StatusRequestEntityTooLarge, text: "the body is too large\n", reason: refusedSize}
	replyHeaders     = reply{status: http.StatusRequestHeaderFieldsTooLarge, text: "the head of the request is larger than 16 KiB\n", reason: refusedSize}
	replyIncomplete  = reply{status: http.StatusBadRequest, text: "the body ended, or stalled, before its announced length\n", reason: refusedBroken}
	replyMalformed   = reply{status: http.StatusBadRequest, text: "this is not an HTTP/1.1 request that can be read\n", reason: refusedBroken}
	replySlow        = reply{status: http.StatusRequestTimeout, text: "the request was not complete in time\n", reason: refusedBroken}
	replyUnavailable = reply{status: http.StatusServiceUnavailable, text: "the event cannot be stored now; send it again\n", retryAfter: 1, reason: refusedStore}
)

// take verifies a webhook, stores it and says what to answer. header gives the first value of a name.
func (r *Receiver) take(s *source, header func(name string) []byte, request *Request) reply {
	if err := s.verifier.Verify(header, request.Body, request.ReceivedAt); err != nil {
		switch {
		case errors.Is(err, staffetta.ErrSignatureMissing):
			return replyMissing
		case errors.Is(err, staffetta.ErrTimestampOutside):
			return replyStale
		default:
			return replyInvalid
		}
	}
	if r.cfg.Accepting() != nil {
		return replyUnavailable
	}
	request.EventID = eventIDOf(header("webhook-id"), request.Body)
	repeat, err := s.journal.store(request)
	switch {
	case err != nil:
		return replyUnavailable
	case repeat:
		return replyRepeat
	default:
		return replyOK
	}
}

// handle is the intake's handler. It answers health and metrics too, unless there is an upstream, whose
// paths these are then; every other path is the upstream's.
func (r *Receiver) handle(ctx *fasthttp.RequestCtx) {
	if isAmbiguous(&ctx.Request.Header) {
		ctx.SetConnectionClose()
		r.answer(ctx, replyMalformed)
		return
	}
	s := r.paths[string(ctx.Path())]
	switch {
	case s != nil:
		began := time.Now()
		answer, read := r.handleSource(ctx, s, began)
		r.metrics.answered(s, answer, time.Since(began))
		if answer.status == http.StatusUnauthorized || answer.status == http.StatusForbidden {
			r.refusals.note(s.name, answer)
		}
		r.answer(ctx, answer)
		if read {
			return
		}
	case r.upstream != nil:
		r.upstream(ctx)
		return
	case r.probes != nil && r.probes(ctx):
	default:
		r.answer(ctx, replyNoSource)
	}
	leaveBody(ctx, r.cfg.MaxBody)
}

// handleSource takes a request to the path of a source. read says that its body was read to its end.
func (r *Receiver) handleSource(ctx *fasthttp.RequestCtx, s *source, now time.Time) (a reply, read bool) {
	if !ctx.IsPost() {
		return replyMethod, false
	}
	address := clientAddress(ctx.RemoteAddr(), forwardedLines(&ctx.Request.Header), r.cfg.TrustedProxies)
	if len(s.allow) > 0 && !contains(s.allow, address) {
		return replyNetwork, false
	}
	x := reads.Get().(*reading)
	defer x.done(r)
	if failure := x.body(ctx, r); failure.status != 0 {
		return failure, false
	}
	x.head(ctx, address)
	x.request.ReceivedAt, x.request.TLS = now, ctx.IsTLS() || r.forwardedTLS(ctx)
	return r.take(s, ctx.Request.Header.Peek, &x.request), true
}

// forwardedLines are those of the header X-Forwarded-For: a proxy may add a line to those that came.
func forwardedLines(h *fasthttp.RequestHeader) []byte {
	lines := h.PeekAll(fasthttp.HeaderXForwardedFor)
	if len(lines) == 0 {
		return nil
	}
	return bytes.Join(lines, []byte{','})
}

// forwardedTLS says that a trusted proxy took the request over TLS.
func (r *Receiver) forwardedTLS(ctx *fasthttp.RequestCtx) bool {
	return len(r.cfg.TrustedProxies) > 0 && contains(r.cfg.TrustedProxies, addressOf(ctx.RemoteAddr())) &&
		string(ctx.Request.Header.Peek(fasthttp.HeaderXForwardedProto)) == "https"
}

// answer writes a reply.
func (r *Receiver) answer(ctx *fasthttp.RequestCtx, a reply) {
	ctx.SetStatusCode(a.status)
	ctx.SetContentType("text/plain; charset=utf-8")
	if a.retryAfter > 0 {
		ctx.Response.Header.Set(fasthttp.HeaderRetryAfter, strconv.Itoa(a.retryAfter))
	}
	if a.status == http.StatusMethodNotAllowed {
		ctx.Response.Header.Set(fasthttp.HeaderAllow, fasthttp.MethodPost)
	}
	ctx.Response.SetBodyString(a.text)
}

// hopByHop are the headers of one connection, and those that a target gets anew.
var hopByHop = map[string]bool{
	"connection": true, "keep-alive": true, "proxy-authenticate": true, "proxy-authorization": true, "proxy-connection": true,
	"te": true, "trailer": true, "transfer-encoding": true, "upgrade": true, "host": true, "content-length": true, "expect": true,
}

func isHopByHop(key []byte) bool {
	var lower [32]byte
	if len(key) > len(lower) {
		return false
	}
	n := copy(lower[:], key)
	for i, c := range lower[:n] {
		if c >= 'A' && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return hopByHop[string(lower[:n])]
}

// names says that a Connection header names a header.
func names(connection, key []byte) bool {
	if len(connection) == 0 {
		return false
	}
	for name := range bytes.SplitSeq(connection, []byte{','}) {
		if bytes.EqualFold(bytes.TrimSpace(name), key) {
			return true
		}
	}
	return false
}

// Handler takes the webhooks of all sources for a Go program that has an HTTP server of its own. Mount
// it at the paths of the sources; Run need not listen then, see Config.NoListener.
func (r *Receiver) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		began := time.Now()
		a := replyNoSource
		if s := r.paths[q.URL.Path]; s != nil {
			a = r.serve(w, q, s, began)
			r.metrics.answered(s, a, time.Since(began))
		}
		if a.retryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(a.retryAfter))
		}
		if a.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", http.MethodPost)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, a.text)
	})
}

func (r *Receiver) serve(w http.ResponseWriter, q *http.Request, s *source, now time.Time) reply {
	if q.Method != http.MethodPost {
		return replyMethod
	}
	peer, _ := netip.ParseAddrPort(q.RemoteAddr)
	address := clientAddress(tcpAddress(peer), []byte(strings.Join(q.Header.Values("X-Forwarded-For"), ",")), r.cfg.TrustedProxies)
	if len(s.allow) > 0 && !contains(s.allow, address) {
		return replyNetwork
	}
	if q.ContentLength > int64(r.cfg.MaxBody) {
		return replyTooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, int64(r.cfg.MaxBody)))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return replyTooLarge
	}
	if err != nil {
		return replyIncomplete
	}
	request := Request{
		ReceivedAt: now, Method: q.Method, URI: q.URL.RequestURI(), Host: q.Host, TLS: q.TLS != nil, Body: body,
	}
	if address.IsValid() {
		request.Remote = address.String()
	}
	size := len(request.URI) + len(request.Host)
	named := []byte(strings.Join(q.Header.Values("Connection"), ","))
	for key, values := range q.Header {
		if isHopByHop([]byte(key)) || names(named, []byte(key)) {
			continue
		}
		for _, v := range values {
			size += len(key) + len(v)
			request.Header = append(request.Header, HeaderField{key, v})
		}
	}
	if size > maxHead {
		return replyHeaders
	}
	return r.take(s, func(name string) []byte { return []byte(q.Header.Get(name)) }, &request)
}
