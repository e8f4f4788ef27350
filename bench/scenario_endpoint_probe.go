package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

// HookDialect speaks to a webhook: events signed as the relay signs them, with all its headers.
func HookDialect(path, key string) Dialect {
	signers := sync.Pool{New: func() any {
		signer, err := staffetta.NewSigner(key)
		if err != nil {
			panic(err) // the caller has validated the key
		}
		return signer
	}}
	return Dialect{
		Path: func(int) string { return path },
		Header: func(h *fasthttp.RequestHeader, _ int) {
			h.SetContentType("application/json")
			h.SetUserAgent("Staffetta/bench")
			h.Set("Staffetta-Attempt", "1")
		},
		Sign: func(h *fasthttp.RequestHeader, _ int, body []byte) {
			signer := signers.Get().(*staffetta.Signer)
			defer signers.Put(signer)
			var room [128]byte
			id := string(body[len(body)-len(`"}`)-markLen : len(body)-len(`"}`)])
			now := time.Now().Unix()
			h.SetBytesV("X-Webhook-Signature", signer.AppendRespondIO(room[:0], body))
			h.Set("Webhook-Id", id)
			h.SetBytesV("Webhook-Timestamp", strconv.AppendInt(room[:0], now, 10))
			h.SetBytesV("Webhook-Signature", signer.AppendStandard(room[:0], id, now, body))
		},
		Taken: func(status int, body []byte, _ int) error { return wantStatus(fasthttp.StatusOK, status, body) },
	}
}

// Step is what one rate came to.
type Step struct {
	// Rate is in events a second; 0: one at a time.
	Rate float64 `json:"rate"`
	Sent int64   `json:"sent"`
	// OK were answered 200 within the deadline.
	OK int64 `json:"ok"`
	// Errors counts the others, by what they were.
	Errors    map[string]int64 `json:"errors"`
	TookS     float64          `json:"took_s"`
	LatencyMS Quantiles        `json:"latency_ms"`
	Problem   string           `json:"problem,omitempty"`
}

// errorText lists the errors in a line that starts with a space, or is empty.
func (s *Step) errorText() (text string) {
	for i, kind := range slices.Sorted(maps.Keys(s.Errors)) {
		if i > 0 {
			text += ","
		}
		text += fmt.Sprintf(" %s %s", count(s.Errors[kind]), kind)
	}
	return text
}

// probe sends single webhooks to a URL.
type probe struct {
	url       *url.URL
	key       string
	templates *Templates
	all       []*Template
	deadline  time.Duration
	client    *fasthttp.HostClient
	next      atomic.Uint32 // the next event's number
	now       atomic.Pointer[probing]
}

// probing is one step while it runs.
type probing struct {
	p        *probe
	step     *Step
	plan     Pacer
	alone    bool
	start    time.Time
	times    *Histogram
	claimed  atomic.Uint64
	sent, ok atomic.Int64
	mu       sync.Mutex // of step
}

// probeWorkers is how many requests are under way at most.
const probeWorkers = 1024

// aloneFailures end the step that sends one at a time: what follows would be told no more, as with a
// wrong key.
const aloneFailures = 3

// contactsOfProbe is how many contacts the events are of.
const contactsOfProbe = 1000

func newProbe(u *url.URL, key string, size int) (*probe, error) {
	templates, err := NewTemplates(size)
	if err != nil {
		return nil, err
	}
	p := &probe{url: u, key: key, templates: templates, all: templates.Of(templates.Types()...), deadline: staffetta.DefaultPolicy().Deadline}
	address, secure := u.Host, u.Scheme == "https"
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), map[bool]string{false: "80", true: "443"}[secure])
	}
	p.client = &fasthttp.HostClient{
		Addr: address, IsTLS: secure, MaxConns: probeWorkers, MaxIdemponentCallAttempts: 1, DialDualStack: true,
		MaxIdleConnDuration: 2 * time.Second, // less than servers keep them, so that none is closed under a request
		ReadTimeout:         p.deadline, WriteTimeout: p.deadline, NoDefaultUserAgentHeader: true, DisablePathNormalizing: true,
	}
	return p, nil
}

func (p *probe) close() { p.client.CloseIdleConnections() }

// progress is the step that runs, for people.
func (p *probe) progress() string {
	if s := p.now.Load(); s != nil {
		return fmt.Sprintf("%s sent, %s answered 200", count(s.sent.Load()), count(s.ok.Load()))
	}
	return "starting"
}

// step sends for d at a rate, or one at a time, but not above most; it ends with the last answer.
func (p *probe) step(ctx context.Context, rate, most float64, d time.Duration) (*Step, Record, error) {
	s := &probing{p: p, step: &Step{Rate: rate, Errors: map[string]int64{}}, plan: Constant(rate, d), alone: rate == 0, times: NewHistogram(), start: time.Now()}
	workers := min(probeWorkers, int(rate*p.deadline.Seconds())+1)
	if s.alone {
		s.plan, workers = Constant(most, d), 1
	}
	p.now.Store(s)
	timeline := s.watch(min(max(d/20, 100*time.Millisecond), time.Second))
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() { s.work(ctx, worker) })
	}
	wg.Wait()
	took := time.Since(s.start)
	s.step.Sent, s.step.OK, s.step.LatencyMS = s.sent.Load(), s.ok.Load(), s.times.Quantiles()
	s.step.TookS = took.Seconds()
	if !s.alone && took < d { // the last one was answered before the time was up
		s.step.TookS = d.Seconds()
	}
	record := Record{
		Of: "endpoint", Counted: true, Offered: s.step.Sent, Accepted: s.step.OK, Delivered: s.step.OK, LoadS: s.step.TookS, TookS: s.step.TookS,
		Ack: s.times.Distribution(), Timeline: timeline(),
	}
	return s.step, record, ctx.Err()
}

// watch takes samples until the function it gives is called.
func (s *probing) watch(every time.Duration) (stop func() []Sample) {
	var recent stretch
	var samples []Sample
	sampled := sampling(every, func(bool) {
		samples = append(samples, Sample{
			AtS: time.Since(s.start).Seconds(), Accepted: s.sent.Load(), Delivered: s.ok.Load(), Recent: Recent{Ack: recent.since(s.times)},
		})
	})
	return func() []Sample {
		sampled()
		return samples
	}
}

// work sends what is planned next, until nothing is.
func (s *probing) work(ctx context.Context, worker int) {
	dialect := HookDialect("", s.p.key)
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod(fasthttp.MethodPost)
	req.SetRequestURI(s.p.url.String())
	dialect.Header(&req.Header, 0)
	body := make([]byte, s.p.templates.Size)
	for ctx.Err() == nil {
		n := s.claimed.Add(1) - 1
		if n >= s.plan.Sends() || s.alone && (time.Since(s.start) >= s.plan.Over || s.sent.Load()-s.ok.Load() >= aloneFailures) {
			return
		}
		planned := s.start.Add(s.plan.At(n))
		if wait := time.Until(planned); wait > 0 {
			if !pause(ctx, wait-dozeMost) {
				return
			}
			doze(max(0, time.Until(planned)))
		} else if s.alone {
			planned = time.Now()
		}
		number := s.p.next.Add(1) - 1
		s.p.all[int(number)%len(s.p.all)].Render(body, Mark{Track: number % contactsOfProbe, Sequence: number / contactsOfProbe, Planned: planned.UnixNano()})
		req.SetBodyRaw(body)
		dialect.Sign(&req.Header, 0, body)
		s.sent.Add(1)
		err := s.p.client.DoDeadline(req, resp, planned.Add(s.p.deadline))
		took := time.Since(planned)
		s.times.Record(worker, took)
		if err == nil && resp.StatusCode() == fasthttp.StatusOK && took <= s.p.deadline {
			s.ok.Add(1)
			continue
		}
		s.failed(resp.StatusCode(), err)
	}
}

func (s *probing) failed(status int, err error) {
	kind := kindOf(err)
	if kind == "" {
		kind = fmt.Sprintf("status %d", status)
		if status == fasthttp.StatusOK {
			kind = "timeout"
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.step.Errors[kind]++
	if err != nil && s.step.Problem == "" {
		s.step.Problem = err.Error()
	}
}

// kindOf is what an error of a request was, in a few words of which there are few.
func kindOf(err error) string {
	_, name := errors.AsType[*net.DNSError](err)
	_, certificate := errors.AsType[*tls.CertificateVerificationError](err)
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	n, isNet := errors.AsType[net.Error](err)
	switch {
	case err == nil:
		return ""
	case errors.Is(err, fasthttp.ErrTimeout), errors.Is(err, fasthttp.ErrDialTimeout), errors.Is(err, fasthttp.ErrTLSHandshakeTimeout):
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, fasthttp.ErrConnectionClosed), errors.Is(err, io.EOF):
		return "connection closed"
	case name:
		return "name not found"
	case certificate, authority, host, record:
		return "certificate or TLS"
	case isNet && n.Timeout():
		return "timeout"
	default:
		return "no answer"
	}
}
