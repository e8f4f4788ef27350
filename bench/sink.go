package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

// The paths of the sink: signed deliveries, and those of the proxy floor, which are not signed.
const (
	signedPath   = "/e/"
	unsignedPath = "/p/"
)

// verifiedOneIn says of how many events one has its signatures verified; the first of every track has.
const verifiedOneIn = 64

// SinkConfig says what a sink stands for.
type SinkConfig struct {
	// Endpoints is how many there are.
	Endpoints int
	// Plan is their faults; nil: all are well.
	Plan Plan
	// Host is the address to listen on. Default: 127.0.0.1.
	Host string
	// Listen makes the listeners. Default: TCP.
	Listen func(address string) (net.Listener, error)
}

// Sink is an HTTP server that stands for many endpoints, a path each. It hands what it answers with
// 200 to a judge.
type Sink struct {
	cfg     SinkConfig
	started time.Time
	server  *fasthttp.Server
	address string
	doors   map[int]*door // by the line of the plan
	judge   atomic.Pointer[Judge]
	plan    atomic.Pointer[planned]
	books   []book

	closing  chan struct{} // closed by Close: what hangs or waits asks it
	close    func()
	running  sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]struct{} // hijacked ones
	inner    string                // the address that loopback has opened
	verified atomic.Int64
	bad      atomic.Int64
	unknown  atomic.Int64
}

// planned is a plan and when it began.
type planned struct {
	plan  Plan
	since time.Time
}

// book is what the sink knows of one endpoint.
type book struct {
	key      atomic.Pointer[string]
	requests atomic.Uint32
	refused  atomic.Uint32 // answered otherwise than 200, or not at all
	attempts atomic.Uint32 // the highest number of an attempt
}

// NewSink binds the sink's address; Start serves.
func NewSink(cfg SinkConfig) (*Sink, error) {
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	if cfg.Listen == nil {
		cfg.Listen = func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	}
	s := &Sink{cfg: cfg, books: make([]book, cfg.Endpoints), conns: make(map[net.Conn]struct{}), doors: make(map[int]*door), started: time.Now()}
	s.plan.Store(&planned{cfg.Plan, s.started})
	s.closing = make(chan struct{})
	s.close = sync.OnceFunc(func() { close(s.closing) })
	s.server = &fasthttp.Server{
		Handler: s.take, NoDefaultDate: true, NoDefaultServerHeader: true, NoDefaultContentType: true,
		MaxRequestBodySize: 16 << 20, Logger: silent{},
	}
	l, err := cfg.Listen(net.JoinHostPort(cfg.Host, "0"))
	if err != nil {
		return nil, fmt.Errorf("open the sink: %w", err)
	}
	s.address = l.Addr().String()
	s.serve(l)
	for i := range cfg.Plan {
		if cfg.Plan[i].Kind != FaultRefuse {
			continue
		}
		if s.doors[i], err = s.openDoor(&cfg.Plan[i]); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

type silent struct{}

func (silent) Printf(string, ...any) {}

func (s *Sink) serve(l net.Listener) {
	s.running.Go(func() { _ = s.server.Serve(l) })
}

// URL is where an endpoint is.
func (s *Sink) URL(endpoint int) string {
	address := s.address
	if d := s.doors[s.cfg.Plan.refuses(endpoint)]; d != nil {
		address = d.address
	}
	return "http://" + address + signedPath + strconv.Itoa(endpoint)
}

// loopback is an address of the sink on the loopback: its own, or one more where it listens for a program
// on another machine.
func (s *Sink) loopback() (string, error) {
	if host, _, err := net.SplitHostPort(s.address); err == nil && onThisMachine(host) {
		return s.address, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inner == "" {
		l, err := s.cfg.Listen("127.0.0.1:0")
		if err != nil {
			return "", fmt.Errorf("open the sink: %w", err)
		}
		s.serve(l)
		s.inner = l.Addr().String()
	}
	return s.inner, nil
}

// Follow puts a plan in the place of the one before, its times counted from now on; what hung is cut.
// A line of FaultRefuse resets what comes: only the doors that the first plan has made can be shut.
func (s *Sink) Follow(plan Plan) {
	s.plan.Store(&planned{plan, time.Now()})
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.SetDeadline(time.Now()) // fasthttp closes it once its handler returns
	}
}

// Judged makes a judge get what comes from now on; nil for none.
func (s *Sink) Judged(j *Judge) { s.judge.Store(j) }

// SetKey tells the sink an endpoint's signing key: it verifies a sample of what comes there.
func (s *Sink) SetKey(endpoint int, key string) { s.books[endpoint].key.Store(&key) }

// SinkReport is what the sink saw since the start.
type SinkReport struct {
	Requests int64 `json:"requests"`
	// Refused were answered otherwise than 200, or not at all, as the plan says.
	Refused int64 `json:"refused"`
	// HighestAttempt is the highest Staffetta-Attempt.
	HighestAttempt int64 `json:"highest_attempt"`
	// Verified had their signatures looked at, BadSignatures were wrong.
	Verified      int64 `json:"verified"`
	BadSignatures int64 `json:"bad_signatures"`
	// Unknown were no events of the bench, or for no endpoint of it.
	Unknown int64 `json:"unknown"`
}

// Report sums the endpoints' books up.
func (s *Sink) Report() SinkReport {
	r := SinkReport{Verified: s.verified.Load(), BadSignatures: s.bad.Load(), Unknown: s.unknown.Load()}
	for i := range s.books {
		b := &s.books[i]
		r.Requests += int64(b.requests.Load())
		r.Refused += int64(b.refused.Load())
		r.HighestAttempt = max(r.HighestAttempt, int64(b.attempts.Load()))
	}
	return r
}

// Requests is how many requests an endpoint got, and how many of them the plan refused.
func (s *Sink) Requests(endpoint int) (requests, refused int) {
	b := &s.books[endpoint]
	return int(b.requests.Load()), int(b.refused.Load())
}

// take is one delivery.
func (s *Sink) take(ctx *fasthttp.RequestCtx) {
	path := ctx.Path()
	endpoint := endpointOf(path)
	mark, ok := markOf(ctx.PostBody())
	if endpoint < 0 || endpoint >= len(s.books) || !ok {
		s.unknown.Add(1)
		ctx.SetStatusCode(fasthttp.StatusNotFound)
		return
	}
	b := &s.books[endpoint]
	b.requests.Add(1)
	attempt := attemptOf(ctx)
	if seen := b.attempts.Load(); uint32(attempt) > seen {
		b.attempts.CompareAndSwap(seen, uint32(attempt))
	}
	if p := s.plan.Load(); len(p.plan) > 0 && s.misbehave(p, ctx, endpoint, mark, attempt) {
		b.refused.Add(1)
		return
	}
	if mark.Sequence%verifiedOneIn == 0 && path[1] == signedPath[1] {
		s.verify(ctx, b)
	}
	if j := s.judge.Load(); j != nil {
		j.Arrive(mark, endpoint, time.Now().UnixNano())
	}
}

// endpointOf reads the number at the end of a path of the sink, or gives -1.
func endpointOf(path []byte) int {
	if len(path) <= len(signedPath) || len(path) > len(signedPath)+7 {
		return -1
	}
	n := 0
	for _, c := range path[len(signedPath):] {
		if c < '0' || c > '9' {
			return -1
		}
		n = 10*n + int(c-'0')
	}
	return n
}

func attemptOf(ctx *fasthttp.RequestCtx) int {
	if text := ctx.Request.Header.Peek("Staffetta-Attempt"); len(text) == 1 {
		return int(text[0] - '0')
	}
	return 1
}

// verify checks both signatures.
func (s *Sink) verify(ctx *fasthttp.RequestCtx, b *book) {
	key := b.key.Load()
	if key == nil {
		return
	}
	s.verified.Add(1)
	h, keys := &ctx.Request.Header, []string{*key}
	err := errors.Join(
		staffetta.VerifyRespondIO(keys, string(h.Peek("X-Webhook-Signature")), ctx.PostBody()),
		staffetta.VerifyStandard(keys, string(h.Peek("Webhook-Id")), string(h.Peek("Webhook-Timestamp")), string(h.Peek("Webhook-Signature")),
			ctx.PostBody(), time.Now(), staffetta.SignatureTolerance))
	if err != nil {
		s.bad.Add(1)
	}
}

// misbehave does what the plan says; it reports false where the request is to be answered 200.
func (s *Sink) misbehave(p *planned, ctx *fasthttp.RequestCtx, endpoint int, m Mark, attempt int) bool {
	f := p.plan.Befalls(endpoint, time.Since(p.since), roll(endpoint, m, attempt, 0))
	if f == nil {
		return false
	}
	switch f.Kind {
	case FaultSlow:
		s.wait(f.Delay(roll(endpoint, m, attempt, 1)))
		return s.closed()
	case FaultStatus:
		ctx.SetStatusCode(f.Status)
	case FaultHang:
		s.hijack(ctx, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	case FaultTrickle:
		s.hijack(ctx, func(c net.Conn) { s.trickle(c, f.Median) })
	case FaultReset, FaultRefuse:
		if c, ok := ctx.Conn().(interface{ SetLinger(sec int) error }); ok {
			_ = c.SetLinger(0)
		}
		s.hijack(ctx, func(net.Conn) {})
	}
	return true
}

// wait waits for d or the end of the sink.
func (s *Sink) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.closing:
	}
}

func (s *Sink) closed() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// hijack takes the connection away from the server, without an answer.
func (s *Sink) hijack(ctx *fasthttp.RequestCtx, use func(net.Conn)) {
	s.running.Add(1)
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(c net.Conn) {
		defer s.running.Done()
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		if !s.closed() {
			use(c)
		}
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	})
}

func (s *Sink) trickle(c net.Conn, pace time.Duration) {
	for _, b := range []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK") {
		if _, err := c.Write([]byte{b}); err != nil || s.closed() {
			return
		}
		s.wait(pace)
	}
}

// Close ends everything the sink has started. Whoever delivers to it should have ended before.
func (s *Sink) Close() {
	s.close()
	s.mu.Lock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = s.server.ShutdownWithContext(ctx) // beyond it connections of a program that does not end are left
	s.running.Wait()
}
