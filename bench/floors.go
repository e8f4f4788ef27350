package bench

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

// Floors are what the machine does without the program under test, in deliveries a second.
type Floors struct {
	// Direct is the same signed bodies from a fasthttp client to the sink with nothing between.
	Direct float64 `json:"direct"`
	// Proxy is the producers, in single posts, through a stateless fasthttp proxy.
	Proxy float64 `json:"proxy"`
	// Sequential is the signed bodies from one client on one connection, a request after the answer to the
	// one before: what strict order leaves to a single endpoint. The client is a process of its own, as a
	// relay is. 0 where it was not measured.
	Sequential float64 `json:"sequential,omitempty"`
}

// mean is the average of two measurements, one before and one after what they are held against.
func (f Floors) mean(g Floors) Floors {
	return Floors{Direct: (f.Direct + g.Direct) / 2, Proxy: (f.Proxy + g.Proxy) / 2, Sequential: (f.Sequential + g.Sequential) / 2}
}

// floorRun is one floor being measured: workers that send a track each to the endpoints' paths.
type floorRun struct {
	sink      *Sink
	layout    *Layout
	templates *Templates
	workers   int
	address   string // where the workers send to
	path      string
	signed    bool
}

// MeasureFloors measures Direct and Proxy, d each.
func MeasureFloors(ctx context.Context, sink *Sink, layout *Layout, templates *Templates, workers int, d time.Duration) (f Floors, err error) {
	run := directRun(sink, layout, templates, workers)
	if f.Direct, err = run.measure(ctx, d); err != nil {
		return f, fmt.Errorf("measure the direct floor: %w", err)
	}
	f.Proxy, err = MeasureProxy(ctx, sink, layout, templates, workers, d)
	return f, err
}

// MeasureProxy measures Proxy alone.
func MeasureProxy(ctx context.Context, sink *Sink, layout *Layout, templates *Templates, workers int, d time.Duration) (float64, error) {
	proxy, err := startProxy(sink.address)
	if err != nil {
		return 0, err
	}
	defer proxy.close()
	run := directRun(sink, layout, templates, workers)
	run.address, run.path, run.signed = proxy.address, unsignedPath, false
	perSecond, err := run.measure(ctx, d)
	if err != nil {
		return 0, fmt.Errorf("measure the proxy floor: %w", err)
	}
	return perSecond, nil
}

// directRun has workers send signed bodies straight to the sink.
func directRun(sink *Sink, layout *Layout, templates *Templates, workers int) floorRun {
	return floorRun{sink: sink, layout: layout, templates: templates, workers: workers, address: sink.address, path: signedPath, signed: true}
}

// measure has the workers send for d.
func (r *floorRun) measure(ctx context.Context, d time.Duration) (float64, error) {
	return r.judged(func(tracks []*Track, _ *Measure) error {
		ctx, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		errs := make([]error, len(tracks))
		var wg sync.WaitGroup
		for i, t := range tracks {
			wg.Go(func() { errs[i] = r.work(ctx, t) })
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// judged gives the rate at which the tracks that send sends arrive. They are judged as those of the
// program are, so that the sink works as hard. send may move the measure's start.
func (r *floorRun) judged(send func([]*Track, *Measure) error) (float64, error) {
	tracks := make([]*Track, r.workers)
	for i := range tracks {
		tracks[i] = &Track{Number: uint32(i), First: i % len(r.layout.Endpoints), Fan: 1, templates: r.templates.Of(r.templates.Types()...)}
	}
	judge := NewJudge(r.layout, tracks)
	m := judge.Measure(time.Now())
	r.sink.Judged(judge)
	err := send(tracks, m)
	r.sink.Judged(nil)
	if err != nil {
		return 0, err
	}
	sum := judge.Judge()
	if sum.Lost+sum.OutOfOrder+sum.Duplicated > 0 {
		return 0, fmt.Errorf("events of the floor itself are missing or out of order: %v", sum.Offenders)
	}
	if sum.Arrived != sum.Accepted {
		return 0, fmt.Errorf("%d events of the floor itself arrived, and %d were accepted", sum.Arrived, sum.Accepted)
	}
	return float64(m.Delivered()) / max(m.Took(), time.Millisecond).Seconds(), nil
}

// work sends one track until ctx ends.
func (r *floorRun) work(ctx context.Context, t *Track) error {
	client := floorClient{address: r.address, uri: r.uri(t.First), size: r.templates.Size}
	if r.signed {
		var err error
		if client.signer, err = staffetta.NewSigner(r.key(t.First)); err != nil {
			return err
		}
	}
	return client.send(ctx, t)
}

// uri is where the run sends an endpoint's events.
func (r *floorRun) uri(endpoint int) string {
	return "http://" + r.address + r.path + strconv.Itoa(endpoint)
}

// floorClient sends the events of a track one after the other on one connection.
type floorClient struct {
	address, uri string
	signer       *staffetta.Signer // nil: unsigned
	size         int               // of an event in bytes
}

// send posts events until ctx ends.
func (c *floorClient) send(ctx context.Context, t *Track) error {
	client := &fasthttp.HostClient{Addr: c.address, MaxConns: 1, NoDefaultUserAgentHeader: true, DisablePathNormalizing: true}
	defer client.CloseIdleConnections()
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod(fasthttp.MethodPost)
	req.SetRequestURI(c.uri)
	req.Header.SetContentType("application/json")
	body := make([]byte, c.size)
	var id, text []byte
	for n := uint32(0); ctx.Err() == nil; n++ {
		now := time.Now()
		t.templates[int(n)%len(t.templates)].Render(body, Mark{Track: t.Number, Sequence: n, Planned: now.UnixNano()})
		t.sent.Store(n + 1)
		if c.signer != nil {
			id = append(id[:0], body[len(body)-len(`"}`)-markLen:len(body)-len(`"}`)]...)
			text = c.signer.AppendRespondIO(text[:0], body)
			req.Header.SetBytesV("X-Webhook-Signature", text)
			req.Header.SetBytesV("Webhook-Id", id)
			req.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
			text = c.signer.AppendStandard(text[:0], string(id), now.Unix(), body)
			req.Header.SetBytesV("Webhook-Signature", text)
			req.Header.Set("Staffetta-Attempt", "1")
		}
		req.SetBodyRaw(body)
		if err := client.Do(req, resp); err != nil {
			return err
		}
		if resp.StatusCode() != fasthttp.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode())
		}
		t.accepted.Store(n + 1)
	}
	return nil
}

// key is the endpoint's own, so that the sink's sample verifies.
func (r *floorRun) key(endpoint int) string {
	if key := r.sink.books[endpoint].key.Load(); key != nil {
		return *key
	}
	return staffetta.NewSigningKey()
}

// proxy posts on what it gets and answers what it is answered: the least that can stand between a
// producer and an endpoint. It keeps nothing and signs nothing.
type proxy struct {
	server  *fasthttp.Server
	client  *fasthttp.HostClient
	address string
	served  chan struct{}
}

func startProxy(to string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the proxy: %w", err)
	}
	p := &proxy{address: l.Addr().String(), served: make(chan struct{}), client: &fasthttp.HostClient{Addr: to, MaxConns: 1024}}
	p.server = &fasthttp.Server{Handler: p.pass, NoDefaultDate: true, NoDefaultServerHeader: true, MaxRequestBodySize: 16 << 20, Logger: silent{}}
	go func() {
		defer close(p.served)
		_ = p.server.Serve(l)
	}()
	return p, nil
}

func (p *proxy) pass(ctx *fasthttp.RequestCtx) {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod(fasthttp.MethodPost)
	req.SetRequestURI("http://" + p.client.Addr + string(ctx.Path()))
	req.Header.SetContentType("application/json")
	req.SetBodyRaw(ctx.PostBody())
	if err := p.client.Do(req, resp); err != nil {
		ctx.SetStatusCode(fasthttp.StatusBadGateway)
		return
	}
	ctx.SetStatusCode(resp.StatusCode())
}

func (p *proxy) close() {
	_ = p.server.Shutdown()
	<-p.served
	p.client.CloseIdleConnections()
}
