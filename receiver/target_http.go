package receiver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

// HTTPTarget sends events on as the requests that they came in: method, body and end-to-end headers
// are theirs. Added are Staffetta-Event-Id, Staffetta-Attempt, Staffetta-Replay: true on a replay,
// and X-Forwarded-For, -Proto and -Host. Every event is sent at least once. Any 2xx is success;
// redirects are not followed; Retry-After of a 429 or 503 is honoured.
type HTTPTarget struct {
	// URL to send to, http or https. Where its path ends in "/" the path and query of the request are
	// appended; otherwise it is taken as it is.
	URL string
	// Headers to set, by name; they replace those that came in. Their values never show in an error.
	Headers map[string]string
	// Timeout of one attempt, from the dialling to the last byte of the answer's head. Default 30 s;
	// 10 ms to 1 h.
	Timeout time.Duration
	// Concurrency bounds the attempts, and with them the connections, at a time. Default 8; at most 1000.
	Concurrency int
	// Dial replaces TCP, for connections in memory.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// What is read and kept of an answer, in bytes.
const (
	maxAnswerHead = 16 << 10
	maxAnswerBody = 64 << 10
	keptAnswer    = 1 << 10
)

const defaultConcurrency = 8

// bodyWait is how long the body of an answer may take behind its head: the status is settled by then,
// so a slow one costs the connection alone.
const bodyWait = 5 * time.Second

// idleConn is how long a connection is kept for the next event.
const idleConn = 10 * time.Second

func (t HTTPTarget) validate() error {
	if err := staffetta.ValidateURL(t.URL); err != nil {
		return onField("http", "URL", err.Detail)
	}
	if t.Concurrency < 0 || t.Concurrency > 1000 {
		return onField("http", "Concurrency", "must be between 0 and 1000; 0 is 8")
	}
	for _, name := range slices.Sorted(maps.Keys(t.Headers)) {
		switch {
		case !isHeaderName(name):
			return onField("http", "Headers", strconv.Quote(firstLine(name))+" is no header name")
		case !isHeaderValue(t.Headers[name]):
			return onField("http", "Headers", "the value of "+name+" has a control character or a space at its end")
		case isOurHeader(name):
			return onField("http", "Headers", name+" is set by the receiver; leave it out")
		}
	}
	return timeoutOf("http", t.Timeout)
}

func (t HTTPTarget) open() (handler, error) {
	if err := t.validate(); err != nil {
		return nil, err
	}
	u, err := url.Parse(t.URL)
	if err != nil {
		return nil, onField("http", "URL", "cannot be read as a URL")
	}
	t.Timeout = orDefault(t.Timeout)
	if t.Concurrency == 0 {
		t.Concurrency = defaultConcurrency
	}
	if t.Dial == nil {
		t.Dial = (&net.Dialer{}).DialContext
	}
	h := &httpHandler{HTTPTarget: t, slots: make(chan struct{}, t.Concurrency)}
	_, rest, _ := strings.Cut(t.URL, "://")
	h.host, h.path = rest, "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		h.host, h.path = rest[:i], rest[i:]
	}
	if h.path[0] == '?' {
		h.path = "/" + h.path
	}
	// A URL that is a mere host has no path that could end in "/".
	h.appends = strings.HasSuffix(t.URL, "/") && !strings.Contains(h.path, "?")
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	h.conns.Addr = net.JoinHostPort(u.Hostname(), port)
	h.conns.DialTimeout = func(string, time.Duration) (net.Conn, error) { return &targetConn{}, nil }
	h.conns.MaxConns = 2 * t.Concurrency // idle ones that are being closed count too
	h.conns.MaxIdleConnDuration = idleConn
	h.conns.ConnPoolStrategy = fasthttp.LIFO
	if u.Scheme == "https" {
		h.tls = &tls.Config{
			MinVersion: tls.VersionTLS12, ServerName: strings.TrimSuffix(u.Hostname(), "."),
			NextProtos: []string{"http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(8),
		}
	}
	return h, nil
}

type httpHandler struct {
	HTTPTarget
	host, path string
	appends    bool
	tls        *tls.Config // nil for http
	slots      chan struct{}
	// conns keeps connections and nothing else: its Do knows neither a context nor one deadline for
	// all steps.
	conns fasthttp.HostClient
}

func (h *httpHandler) close() { h.conns.CloseIdleConnections() }

func (h *httpHandler) handOver(ctx context.Context, entries []*sender.Entry, n int) sender.Handed {
	var handed sender.Handed
	for i, e := range entries {
		if i > 0 {
			n = 1
		}
		handed = h.one(ctx, e, n)
		if handed.Accepted == 0 {
			handed.Accepted = i
			return handed
		}
	}
	handed.Accepted = len(entries)
	return handed
}

func (h *httpHandler) one(ctx context.Context, e *sender.Entry, n int) sender.Handed {
	r, err := parseRequest(e.Data)
	if err != nil {
		return damaged()
	}
	head, ok := h.head(r, e, n)
	if !ok {
		return targetRefused("the stored request has a control character in its head")
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return cutOff()
	}
	x := httpExchange{deadline: time.Now().Add(h.Timeout), head: head, body: r.Body, method: r.Method}
	if stale := h.try(ctx, &x, false); stale && ctx.Err() == nil {
		h.conns.CloseIdleConnections()
		x.handed = sender.Handed{}
		h.try(ctx, &x, true)
	}
	if x.handed.Outcome.Status == 0 && ctx.Err() != nil {
		return cutOff()
	}
	if x.handed.Outcome.Status/100 == 2 {
		x.handed.Accepted = 1
	}
	return x.handed
}

// try sends the request over a connection of the pool, or over a new one where fresh asks for it. It
// reports true when the connection was used before and the peer had closed it: no byte of an answer
// came.
func (h *httpHandler) try(ctx context.Context, x *httpExchange, fresh bool) (stale bool) {
	cc, err := h.conns.AcquireConn(0, false)
	for fresh && err == nil && cc.Conn().(*targetConn).Conn != nil {
		h.conns.CloseConn(cc)
		cc, err = h.conns.AcquireConn(0, false)
	}
	if err != nil {
		x.handed.Outcome = sender.FailureOutcome(err, sender.StepDial, false)
		return false
	}
	conn := cc.Conn().(*targetConn)
	reused := conn.Conn != nil
	reusable := false
	if !reused {
		err = h.dial(ctx, conn, x)
	}
	if err == nil {
		reusable, stale = x.run(ctx, conn)
	}
	if reusable {
		h.conns.ReleaseConn(cc)
	} else {
		h.conns.CloseConn(cc)
	}
	return stale && reused
}

// targetConn is a connection of the pool, which makes it empty; the first exchange dials. It notes
// what the exchange under way reads.
type targetConn struct {
	net.Conn // nil before the dialling
	raw      net.Conn
	reader   *bufio.Reader // of the connection
	answer   []byte        // its first bytes
	begun    bool
	err      error // the last of a read
}

func (c *targetConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.begun = true
		c.answer = append(c.answer, p[:min(n, maxAnswerHead-len(c.answer))]...)
	}
	c.err = err
	return n, err
}

// Close ends the connection without a farewell of TLS, which could block.
func (c *targetConn) Close() error {
	if c.Conn == nil {
		return nil
	}
	return c.raw.Close()
}

func (h *httpHandler) dial(ctx context.Context, conn *targetConn, x *httpExchange) error {
	ctx, cancel := context.WithDeadline(ctx, x.deadline)
	defer cancel()
	raw, err := h.Dial(ctx, "tcp", h.conns.Addr)
	if err != nil {
		x.handed.Outcome = sender.FailureOutcome(err, sender.StepDial, !time.Now().Before(x.deadline))
		return err
	}
	x.handed.Remote = raw.RemoteAddr().String()
	if h.tls == nil {
		conn.Conn, conn.raw = raw, raw
		return nil
	}
	secured := tls.Client(raw, h.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		x.handed.Outcome = sender.FailureOutcome(err, sender.StepTLS, false)
		return err
	}
	conn.Conn, conn.raw = secured, raw
	return nil
}

// httpExchange is one request and its answer.
type httpExchange struct {
	deadline   time.Time
	head, body []byte
	method     string
	handed     sender.Handed
}

// run sends the request and reads the answer. It reports whether the connection can be used again,
// and whether it may have been closed before the request.
func (x *httpExchange) run(ctx context.Context, conn *targetConn) (reusable, stale bool) {
	raw := conn.raw
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer func() { reusable = stop() && reusable }()

	x.handed.Remote = raw.RemoteAddr().String()
	conn.answer, conn.begun, conn.err = conn.answer[:0], false, nil
	if conn.reader == nil {
		conn.reader = bufio.NewReaderSize(conn, maxAnswerHead)
	}
	br := conn.reader
	_ = conn.SetDeadline(x.deadline) // where it cannot be set, the write fails
	err := x.write(conn)
	written := err == nil
	if !written && isTimeout(err) {
		x.handed.Outcome = sender.FailureOutcome(err, sender.StepRequest, true)
		return false, false
	}
	// A peer may answer and close before it has read all: what it said counts.
	resp := fasthttp.AcquireResponse()
	defer fasthttp.ReleaseResponse(resp)
	resp.StreamBody = true
	resp.SkipBody = x.method == fasthttp.MethodHead
	if readErr := resp.ReadLimitBody(br, 0); readErr != nil {
		switch {
		case conn.err != nil && !written && !conn.begun:
			// The write says more.
		case conn.err != nil:
			err = conn.err
		default:
			x.oddHead(conn.answer)
			return false, false
		}
		step := sender.StepRequest
		if conn.begun {
			step = sender.StepResponse
		}
		x.handed.Outcome = sender.FailureOutcome(err, step, false)
		return false, !conn.begun && !isTimeout(err)
	}
	if !bytes.HasPrefix(resp.Header.Protocol(), []byte("HTTP/1.")) {
		x.oddHead(conn.answer)
		return false, false
	}
	x.handed.Outcome.Status = resp.StatusCode()
	x.handed.RetryAfter = retryAfter(resp, time.Now())
	if soon := time.Now().Add(bodyWait); soon.Before(x.deadline) {
		_ = conn.SetReadDeadline(soon)
	}
	reusable = x.readBody(resp) && written && br.Buffered() == 0
	x.handed.ResponseHead = headOf(conn.answer)
	return reusable, false
}

// oddHead is for an answer whose head cannot be parsed. A status that can be read counts.
func (x *httpExchange) oddHead(answer []byte) {
	x.handed.ResponseHead = headOf(answer)
	const line = "HTTP/1.1 200"
	if len(answer) > len(line) && bytes.HasPrefix(answer, []byte("HTTP/1.")) && endOfHead(answer) > 0 {
		if status, err := strconv.Atoi(string(answer[len(line)-3 : len(line)])); err == nil && status >= 200 {
			x.handed.Outcome.Status = status
			return
		}
	}
	x.handed.Outcome = staffetta.Outcome{Error: staffetta.ErrorProtocol, Detail: "what came back is not HTTP/1.x, or its head is larger than 16 KiB"}
}

// write sends head and body; small ones in one piece.
func (x *httpExchange) write(conn net.Conn) error {
	if len(x.body) <= 16<<10 {
		_, err := conn.Write(append(x.head, x.body...))
		return err
	}
	if _, err := conn.Write(x.head); err != nil {
		return err
	}
	_, err := conn.Write(x.body)
	return err
}

// readBody reads the body of an answer, up to a bound, and keeps its beginning. It reports whether
// the connection can be used again: the body was read to its end.
func (x *httpExchange) readBody(resp *fasthttp.Response) (whole bool) {
	status := resp.StatusCode()
	body := resp.BodyStream()
	if status == fasthttp.StatusSwitchingProtocols {
		return false
	}
	if body == nil {
		return !resp.ConnectionClose()
	}
	var kept [keptAnswer]byte
	n, err := io.ReadFull(body, kept[:])
	x.handed.ResponseBody = bytes.Clone(kept[:n])
	length := resp.Header.ContentLength() // -1: chunked, -2: until the connection is closed
	if err == nil && length <= maxAnswerBody {
		_, err = io.CopyN(io.Discard, body, maxAnswerBody-keptAnswer+1)
	}
	ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	return ended && length >= -1 && !resp.ConnectionClose()
}

// headOf is the head at the beginning of an answer, as far as it is kept.
func headOf(answer []byte) []byte {
	if end := endOfHead(answer); end > 0 {
		answer = answer[:end]
	}
	return bytes.Clone(answer[:min(len(answer), keptAnswer)])
}

// endOfHead is the length of the head with the empty line that ends it, 0 without one.
func endOfHead(answer []byte) int {
	end := 0
	for _, blank := range []string{"\r\n\r\n", "\n\n"} {
		if i := bytes.Index(answer, []byte(blank)); i >= 0 && (end == 0 || i+len(blank) < end) {
			end = i + len(blank)
		}
	}
	return end
}

// retryAfter is what a 429 or 503 asks for: seconds or a date; 0 where it asks for nothing.
func retryAfter(resp *fasthttp.Response, now time.Time) time.Duration {
	if status := resp.StatusCode(); status != fasthttp.StatusTooManyRequests && status != fasthttp.StatusServiceUnavailable {
		return 0
	}
	value := strings.TrimSpace(string(resp.Header.Peek(fasthttp.HeaderRetryAfter)))
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

// maxRetryAfter is the longest that a target is believed: beyond it, who asks may have erred.
const maxRetryAfter = 24 * time.Hour

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}
