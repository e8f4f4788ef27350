package sender

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// Endpoint is an endpoint made ready for attempts. It is safe for concurrent use: a test send may
// coincide with a delivery.
type Endpoint struct {
	client *Client
	tenant *tenant
	pool   *hostPool
	closed atomic.Bool

	// head is what every request starts with, up to the User-Agent; tail are the user's headers.
	head, tail []byte

	mu            sync.Mutex // guards the signers
	current       *staffetta.Signer
	previous      *staffetta.Signer // nil when there is none, or none any more
	previousUntil time.Time
}

// Bounds of what an Attempt keeps of a response, in bytes.
const (
	keptHead = 1 << 10
	keptBody = 1 << 10
)

// Attempt is what one attempt came to. It belongs to the caller, who may use it again: its buffers
// are.
type Attempt struct {
	Outcome staffetta.Outcome
	// StartedAt is when the clock of the deadline started.
	StartedAt time.Time
	// Duration until the last byte of the response head, or the failure.
	Duration time.Duration
	// Reused says that the request went over a connection of an attempt before.
	Reused bool
	// Resent says that the first connection had been closed by the peer while it was idle, and the
	// request was sent once more on a new one; the other fields tell of that one.
	Resent bool
	// Remote is the address really dialled; empty when it never came to that.
	Remote string
	// DNS, Connect and TLS are how long each took; 0 on a connection that was there.
	DNS, Connect, TLS time.Duration
	// FirstByte is the time between the request written and the first byte of the response.
	FirstByte time.Duration
	// Head is the status line and the header of the response as they came, the first KiB.
	Head []byte
	// Body is the first KiB of the response's body.
	Body []byte
}

// cutOff is the outcome of an attempt whose context ended.
var cutOff = failed(staffetta.ErrorLocal, "the attempt was cut off by the relay")

func (a *Attempt) reset() {
	*a = Attempt{Head: a.Head[:0], Body: a.Body[:0]}
}

// Attempt posts ev once, as attempt number n from 1, and fills a. It ends within the deadline, or
// soon after ctx ends: the outcome is then ErrorLocal. It first waits for a free slot of the
// workspace, which is not part of the deadline.
func (e *Endpoint) Attempt(ctx context.Context, ev staffetta.Event, n int, a *Attempt) {
	a.reset()
	if !e.tenant.acquire(ctx) {
		a.StartedAt = time.Now()
		a.Outcome = cutOff
		return
	}
	defer e.tenant.release()
	a.StartedAt = time.Now()

	x := e.client.exchanges.Get().(*exchange)
	x.out = e.appendHead(x.out[:0], ev, n, a.StartedAt)
	x.headSize = len(x.out)
	if stale := e.try(ctx, x, ev.Payload, a, false); stale && ctx.Err() == nil {
		e.pool.hc.CloseIdleConnections()
		started := a.StartedAt
		a.reset()
		a.StartedAt, a.Resent = started, true
		e.try(ctx, x, ev.Payload, a, true)
	}
	x.forget()
	e.client.exchanges.Put(x)

	if a.Outcome.Status == 0 && ctx.Err() != nil {
		a.Outcome = cutOff
	}
}

// try makes the attempt over a connection of the pool, or over a new one where fresh asks for it.
// It reports true when the connection proved to have been closed by the peer before.
func (e *Endpoint) try(ctx context.Context, x *exchange, body []byte, a *Attempt, fresh bool) (stale bool) {
	hc := &e.pool.hc
	cc, err := hc.AcquireConn(0, false)
	for fresh && err == nil && cc.Conn().(*peerConn).used {
		hc.CloseConn(cc)
		cc, err = hc.AcquireConn(0, false)
	}
	if err != nil {
		a.Outcome = localOutcome(err)
		return false
	}
	conn := cc.Conn().(*peerConn)
	reusable, stale := e.over(ctx, conn, x, body, a)
	conn.whole = reusable
	if reusable {
		hc.ReleaseConn(cc)
	} else {
		hc.CloseConn(cc)
	}
	return stale
}

// over makes the attempt over conn, and dials it first when it is new.
func (e *Endpoint) over(ctx context.Context, conn *peerConn, x *exchange, body []byte, a *Attempt) (reusable, stale bool) {
	deadline := a.StartedAt.Add(e.client.cfg.Deadline)
	a.Reused = conn.used
	if !conn.used {
		err := e.client.open(ctx, e.pool, deadline, conn)
		a.Remote = conn.remote
		a.DNS, a.Connect, a.TLS = conn.resolve, conn.connect, conn.secured
		if err != nil {
			a.Duration = time.Since(a.StartedAt)
			a.Outcome = dialOutcome(err, !time.Now().Before(deadline))
			return false, false
		}
		conn.used = true
	}
	a.Remote = conn.remote
	if !conn.watch(ctx) {
		return false, true
	}
	conn.whole = false

	// One deadline for all that is left. Where it cannot be set the connection is closed, as the
	// first write will tell.
	_ = conn.SetDeadline(deadline)
	return x.run(conn, body, a)
}

// Close gives back what the endpoint held. Attempts in flight end by themselves.
func (e *Endpoint) Close() {
	if !e.closed.Swap(true) {
		e.client.release(e.tenant, e.pool)
	}
}

func (e *Endpoint) keys(keys staffetta.SigningKeys) (err error) {
	if e.current, err = staffetta.NewSigner(keys.Current); err != nil {
		return err
	}
	if keys.Previous != "" {
		e.previousUntil = keys.PreviousUntil
		e.previous, err = staffetta.NewSigner(keys.Previous)
	}
	return err
}

// headers writes what all requests have in common. The path, the query and the host stand as the
// user wrote them: a path that is decoded and encoded again may lead elsewhere.
func (e *Endpoint) headers(endpoint staffetta.Endpoint, userAgent string) error {
	_, rest, _ := strings.Cut(endpoint.URL, "://")
	host, target := rest, ""
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		host, target = rest[:i], rest[i:]
	}
	if !strings.HasPrefix(target, "/") {
		target = "/" + target
	}
	e.head = []byte("POST " + target + " HTTP/1.1\r\nHost: " + host +
		"\r\nContent-Type: application/json\r\nUser-Agent: " + userAgent)
	for _, name := range slices.Sorted(maps.Keys(endpoint.Headers)) {
		value := endpoint.Headers[name]
		if name == "" || breaksHeader(name) || breaksHeader(value) {
			return errors.New("a header of the endpoint has an empty name or a control character")
		}
		e.tail = append(e.tail, "\r\n"+name+": "+value...)
	}
	return nil
}

// appendHead appends the head of a request. It is built by hand: the names keep their case, which
// fasthttp.Request would change, and no header is copied twice (BenchmarkAttempt).
func (e *Endpoint) appendHead(dst []byte, ev staffetta.Event, n int, now time.Time) []byte {
	timestamp := now.Unix()
	dst = append(dst, e.head...)
	e.mu.Lock()
	if e.previous != nil && !now.Before(e.previousUntil) {
		e.previous = nil
	}
	// A receiver of respond.io's scheme knows one key: the old one while the overlap lasts.
	legacy := e.current
	if e.previous != nil {
		legacy = e.previous
	}
	dst = append(dst, "\r\nX-Webhook-Signature: "...)
	dst = legacy.AppendRespondIO(dst, ev.Payload)
	dst = append(dst, "\r\nwebhook-id: "...)
	dst = append(dst, ev.ID...)
	dst = append(dst, "\r\nwebhook-timestamp: "...)
	dst = strconv.AppendInt(dst, timestamp, 10)
	dst = append(dst, "\r\nwebhook-signature: "...)
	dst = e.current.AppendStandard(dst, ev.ID, timestamp, ev.Payload)
	if e.previous != nil {
		dst = append(dst, ' ')
		dst = e.previous.AppendStandard(dst, ev.ID, timestamp, ev.Payload)
	}
	e.mu.Unlock()
	dst = append(dst, "\r\nStaffetta-Attempt: "...)
	dst = strconv.AppendInt(dst, int64(n), 10)
	if ev.Replay {
		dst = append(dst, "\r\nStaffetta-Replay: true"...)
	}
	dst = append(dst, e.tail...)
	dst = append(dst, "\r\nContent-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(ev.Payload)), 10)
	return append(dst, "\r\n\r\n"...)
}
