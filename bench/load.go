package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// againAfter is how long a producer waits before it sends again what was not taken.
const againAfter = 50 * time.Millisecond

// dozeMost is the end of a wait that Doze does.
const dozeMost = 2 * time.Millisecond

// LoadConfig says how producers send.
type LoadConfig struct {
	// Address is the program's host and port; TLS speaks https to it.
	Address string
	TLS     bool
	// Dial connects. Default: TCP.
	Dial    fasthttp.DialFunc
	Dialect Dialect
	// Crews are the producers, each with what it serves: Layout.Tracks makes them.
	Crews [][]*crew
	// Size is that of one event, Batch how many a post has.
	Size, Batch int
	// Window bounds the deliveries that a closed loop leaves outstanding: with more of them it waits.
	// 0: it waits for the answers alone.
	Window int
	// Arrived says how many deliveries there were since the start; for Window.
	Arrived func() int64
	// Doze waits for at most 2 ms to the microsecond, which Go's timers do not: they are up to a
	// millisecond late. Default: the system's sleep, where there is one.
	Doze func(time.Duration)
	// Grace is how long after its end a phase goes on sending what was not taken, or is late.
	// Default: 2 s.
	Grace time.Duration
}

// Producers send the events of their tracks, in one phase after the other.
type Producers struct {
	cfg  LoadConfig
	list []*producer
	sent atomic.Int64 // deliveries that what was sent asks for
	// live are the counters of all phases, for whoever watches.
	live struct{ offered, accepted atomic.Int64 }
	now  atomic.Pointer[Load] // the phase that runs, or the last one
}

// Load is what the producers did in one phase.
type Load struct {
	// Offered counts the events of the plan, or in a closed loop those that were sent.
	Offered int64
	// Accepted are those of them that were taken, Unsent those that the plan had and nobody was free
	// to send even after the grace.
	Accepted, Unsent int64
	// Failed counts the posts that were not taken and sent again, or given up; Problems are some of
	// them.
	Failed   int64
	Problems []string
	// Ack are the times from the planned send to the answer, Late from there to the real one.
	Ack, Late *Histogram
	// Took is from the start to the last answer.
	Took time.Duration

	mu    sync.Mutex
	fatal error
	stop  context.CancelFunc
}

// Saturated says that the program, or the machine, could not keep the planned rate.
func (l *Load) Saturated() bool { return l.Unsent > 0 }

// NewProducers makes them; they send nothing before a phase begins.
func NewProducers(cfg LoadConfig) *Producers {
	if cfg.Grace == 0 {
		cfg.Grace = 2 * time.Second
	}
	if cfg.Doze == nil {
		cfg.Doze = doze
	}
	p := &Producers{cfg: cfg}
	for i, crews := range cfg.Crews {
		client := &fasthttp.HostClient{
			Addr: cfg.Address, IsTLS: cfg.TLS, Dial: cfg.Dial, MaxConns: 1, MaxIdemponentCallAttempts: 1,
			ReadTimeout: 15 * time.Second, WriteTimeout: 15 * time.Second, MaxIdleConnDuration: 5 * time.Second,
			NoDefaultUserAgentHeader: true, DisablePathNormalizing: true,
		}
		one := &producer{all: p, number: i, client: client, body: make([]byte, cfg.Batch*(cfg.Size+1)), lines: make([]*Template, cfg.Batch)}
		for _, c := range crews {
			one.turns = append(one.turns, one.turn(c))
		}
		p.list = append(p.list, one)
	}
	return p
}

// Close closes the connections.
func (p *Producers) Close() {
	for _, one := range p.list {
		one.client.CloseIdleConnections()
	}
}

// Accepted is how many events were taken so far.
func (p *Producers) Accepted() int64 { return p.live.accepted.Load() }

// Ack are the times of the answers in the phase that runs, or the last one; nil before the first.
func (p *Producers) Ack() *Histogram {
	if l := p.now.Load(); l != nil {
		return l.Ack
	}
	return nil
}

// Closed has every producer send its next post once the one before is answered, for a time. An error
// means that the program refused an event.
func (p *Producers) Closed(ctx context.Context, d time.Duration) (*Load, error) {
	return p.phase(ctx, d, func(ctx context.Context, one *producer, l *Load, start time.Time) {
		for ctx.Err() == nil && time.Since(start) < d && p.room(ctx, start.Add(d)) {
			if !one.post(ctx, l, time.Now()) {
				return
			}
		}
	})
}

// Open has the producers send the posts of a plan at their times, whatever the answers do: the n-th
// post is the n-th modulo the producers' number. One whose producer is still busy goes late, and its
// times count from when it should have gone.
func (p *Producers) Open(ctx context.Context, plan Pacer) (*Load, error) {
	sends := plan.Sends()
	l, err := p.phase(ctx, plan.Over, func(ctx context.Context, one *producer, l *Load, start time.Time) {
		for n := uint64(one.number); n < sends; n += uint64(len(p.list)) {
			wait, _ := plan.Pace(time.Since(start), n)
			if wait > dozeMost && !pause(ctx, wait-dozeMost) {
				return
			}
			planned := start.Add(plan.At(n))
			if left := time.Until(planned); left > 0 {
				p.cfg.Doze(left)
			}
			late := time.Since(planned)
			if late > p.cfg.Grace && time.Since(start) > plan.Over+p.cfg.Grace {
				return
			}
			l.Late.Record(one.number, late)
			if !one.post(ctx, l, planned) {
				return
			}
		}
	})
	if planned := int64(sends) * int64(p.cfg.Batch); ctx.Err() == nil {
		l.Unsent = planned - l.Offered
		l.Offered = planned
	}
	return l, err
}

// phase runs something in every producer.
func (p *Producers) phase(ctx context.Context, d time.Duration, run func(context.Context, *producer, *Load, time.Time)) (*Load, error) {
	l := &Load{Ack: NewHistogram(), Late: NewHistogram()}
	p.now.Store(l)
	start := time.Now()
	ctx, l.stop = context.WithDeadline(ctx, start.Add(d+p.cfg.Grace))
	defer l.stop()
	var wg sync.WaitGroup
	for _, one := range p.list {
		wg.Go(func() { run(ctx, one, l, start) })
	}
	wg.Wait()
	l.Took = time.Since(start)
	return l, l.fatal
}

// room waits until fewer deliveries than the window are outstanding; it reports false when the time is
// up.
func (p *Producers) room(ctx context.Context, until time.Time) bool {
	if p.cfg.Window == 0 {
		return true
	}
	for p.sent.Load()-p.cfg.Arrived() > int64(p.cfg.Window) {
		if !pause(ctx, 5*time.Millisecond) || time.Now().After(until) {
			return false
		}
	}
	return true
}

// note counts a post that was not taken; the first few are kept as texts.
func (l *Load) note(err error, fatal bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Failed++
	if len(l.Problems) < 5 {
		l.Problems = append(l.Problems, err.Error())
	}
	if fatal && l.fatal == nil {
		l.fatal = fmt.Errorf("send events: %w", err)
		l.stop()
	}
}

// producer is one connection and what it sends on it.
type producer struct {
	all    *Producers
	number int
	client *fasthttp.HostClient
	turns  []*turn
	next   int
	body   []byte
	lines  []*Template // what the lines of the body were made of
	// pending is the post that the phase before gave up: nothing may overtake it.
	pending *turn
}

// turn is a workspace's request.
type turn struct {
	*crew
	req fasthttp.Request
}

func (p *producer) turn(c *crew) *turn {
	t := &turn{crew: c}
	d := p.all.cfg.Dialect
	scheme := "http://"
	if p.all.cfg.TLS {
		scheme = "https://"
	}
	t.req.Header.SetMethod(fasthttp.MethodPost)
	t.req.SetRequestURI(scheme + p.all.cfg.Address + d.Path(c.workspace))
	if d.Header != nil {
		d.Header(&t.req.Header, c.workspace)
	}
	return t
}

// fill writes the next events of the workspace into the body: only what differs from the events that
// stood there before, where their types are the same. It gives the deliveries they ask for.
func (p *producer) fill(c *crew, planned int64) (body []byte, deliveries int) {
	size := p.all.cfg.Size
	for i := range p.lines {
		t := c.tracks[c.next]
		if c.next++; c.next == len(c.tracks) {
			c.next = 0
		}
		n := t.sent.Load()
		template := t.templates[int(n)%len(t.templates)]
		line := p.body[i*(size+1) : (i+1)*(size+1)]
		mark := Mark{Track: t.Number, Sequence: n, Planned: planned}
		if p.lines[i] == template {
			template.patch(line[:size], mark)
		} else {
			template.Render(line[:size], mark)
			line[size] = '\n'
			p.lines[i] = template
		}
		t.sent.Store(n + 1)
		deliveries += t.Fan
	}
	if len(p.lines) == 1 {
		return p.body[:size], deliveries
	}
	return p.body, deliveries
}

// post sends the next post until it is taken; it reports false when it was not.
func (p *producer) post(ctx context.Context, l *Load, planned time.Time) bool {
	if p.pending != nil && !p.deliver(ctx, l, p.pending) {
		return false
	}
	t := p.turns[p.next]
	if p.next++; p.next == len(p.turns) {
		p.next = 0
	}
	body, deliveries := p.fill(t.crew, planned.UnixNano())
	events := int64(len(p.lines))
	p.all.sent.Add(int64(deliveries))
	p.all.live.offered.Add(events)
	atomic.AddInt64(&l.Offered, events)
	t.req.SetBodyRaw(body)
	if sign := p.all.cfg.Dialect.Sign; sign != nil {
		sign(&t.req.Header, t.workspace, body)
	}
	if !p.deliver(ctx, l, t) {
		return false
	}
	l.Ack.Record(p.number, time.Since(planned))
	return true
}

// taken notes that the body's events were taken.
func (p *producer) taken(l *Load, t *turn) {
	p.pending = nil
	for _, track := range t.tracks {
		track.accepted.Store(track.sent.Load())
	}
	atomic.AddInt64(&l.Accepted, int64(len(p.lines)))
	p.all.live.accepted.Add(int64(len(p.lines)))
}

// deliver sends one request until it is taken, the load is over, or the program refuses it for good.
func (p *producer) deliver(ctx context.Context, l *Load, t *turn) bool {
	p.pending = t
	resp := fasthttp.AcquireResponse()
	defer fasthttp.ReleaseResponse(resp)
	for {
		err := p.client.Do(&t.req, resp)
		again := err != nil
		if err == nil {
			if err = p.all.cfg.Dialect.Taken(resp.StatusCode(), resp.Body(), len(p.lines)); err == nil {
				p.taken(l, t)
				return true
			}
			again = errors.Is(err, ErrAgain)
		}
		l.note(err, !again)
		if !again || !pause(ctx, againAfter) {
			return false
		}
	}
}

// pause waits for d; it reports false when ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
