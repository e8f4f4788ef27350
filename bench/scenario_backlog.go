package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"
)

const (
	// backlogPerSecond is how many events wait for a second of --duration.
	backlogPerSecond = 100_000
	// backlogMost bounds the time of storing them.
	backlogMost = time.Hour
)

func backlogScenario() Scenario {
	return Scenario{
		Name:    "backlog",
		Summary: "how fast a million waiting events go out to 1,000 endpoints, and how soon after a crash",
		Explain: `
The endpoints are disabled, so that their events are held, and 100,000 events for each second of --duration
are stored as fast as the relay takes them: a million unless told otherwise, 20,000 with --duration 200ms.
Then the endpoints are enabled and every one has its first event in flight, without an answer; the relay is
ended with kill -9 and started again. restart_ms is from the start of the new process to its first delivery,
drain_per_second from there to the last one; figures.catch_up compares it with closed loops to the same
endpoints before and after. In the JSON accepted_per_second is the rate of the storing, delivered_per_second
that of the draining, and latency_ms has the waiting in it. A --target is not restarted.`,
		Defaults: Options{Endpoints: 1000},
		Run:      runBacklog,
	}
}

func runBacklog(ctx context.Context, r *Run) (out *Result, err error) {
	rig, err := r.NewRig(ctx, RigConfig{MayDie: true, Patience: 3 * Patience, Flags: []string{"--deadline", "1m"}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	b := backlog{rig: rig, want: int64(max(backlogPerSecond*r.Options.Duration.Seconds(), 1))}
	before, err := rig.Floors(ctx)
	if err != nil {
		return nil, err
	}
	if err := rig.WarmUp(ctx); err != nil {
		return nil, err
	}
	if err := b.measureLive(ctx); err != nil {
		return nil, err
	}
	p, err := rig.Phase(ctx, "backlog", b.run)
	if err != nil {
		return nil, err
	}
	if err := b.measureLive(ctx); err != nil {
		return nil, err
	}
	after, err := rig.Floors(ctx)
	if err != nil {
		return nil, err
	}
	if err := rig.Settle(); err != nil {
		return nil, err
	}
	return b.result(p, before.mean(after)), nil
}

// backlog is what is measured.
type backlog struct {
	rig  *Rig
	want int64
	live []float64

	waiting         int64   // deliveries, when all were stored
	waitingMiB      float64 // the relay's memory then
	disable, enable time.Duration
	restarted       bool
	ready, first    time.Duration // from the start of the new process, or from the enabling
	started, began  time.Time     // of the draining; began is the first delivery
	arrivedBefore   int64
}

// measureLive adds the rate of a closed loop.
func (b *backlog) measureLive(ctx context.Context) error {
	p, err := b.rig.Closed(ctx, min(max(b.rig.run.Options.Duration/2, 500*time.Millisecond), 10*time.Second))
	if err != nil {
		return err
	}
	if p.Measure.Delivered() == 0 {
		return errNothing
	}
	b.live = append(b.live, perSecond(p.Measure.Delivered(), p.Measure.Took()))
	return nil
}

// run stores the events, and has them delivered from a restart on.
func (b *backlog) run(ctx context.Context) (*Load, error) {
	r := b.rig
	start := time.Now()
	if err := r.Relay.Enable(ctx, r.Layout, false); err != nil {
		return nil, err
	}
	b.disable = time.Since(start)
	load, err := r.Producers.Fill(ctx, b.want)
	if err != nil {
		return load, err
	}
	b.arrivedBefore = r.Judge.Arrived()
	b.waiting, b.waitingMiB = r.Judge.Expected()-b.arrivedBefore, float64(r.usage().RSS)/(1<<20)
	if r.Relay.Program != nil {
		err = b.restart(ctx)
	} else {
		b.started = time.Now()
		err = r.Relay.Enable(ctx, r.Layout, true)
		b.enable = time.Since(b.started)
		b.first = r.firstArrival(ctx, b.arrivedBefore, b.started)
	}
	b.began = b.started.Add(b.first)
	return load, err
}

// restart has every endpoint's first event in flight, and the relay killed and started.
func (b *backlog) restart(ctx context.Context) error {
	r := b.rig
	r.Sink.Follow(Plan{{Kind: FaultHang, Last: r.cfg.Endpoints - 1}})
	start := time.Now()
	if err := r.Relay.Enable(ctx, r.Layout, true); err != nil {
		return err
	}
	b.enable = time.Since(start)
	if !r.Relay.Program.Running() {
		return r.Relay.Program.failure("has ended by itself")
	}
	r.Relay.Program.Kill()
	r.Sink.Follow(nil)
	b.restarted, b.started = true, time.Now()
	first := make(chan time.Duration, 1)
	go func() { first <- r.firstArrival(ctx, b.arrivedBefore, b.started) }()
	err := r.RestartRelay(ctx)
	b.ready, b.first = time.Since(b.started), <-first
	return err
}

func (b *backlog) result(p *Phase, floors Floors) *Result {
	r := b.rig
	out := r.Result(p, floors)
	took := time.Duration(p.Measure.last.Load() - b.began.UnixNano())
	drain, live := perSecond(p.Measure.Delivered(), took), middle(b.live)
	out.DeliveredPerSecond = drain
	out.Ratio, out.ProxyRatio = ratio(drain, floors.Direct), ratio(drain, floors.Proxy)
	kept := ratio(drain, live)
	maps.Copy(out.Figures, map[string]any{
		"waiting": b.waiting, "waiting_rss_mib": b.waitingMiB, "ingest_per_second": out.AcceptedPerSecond, "disable_ms": milliseconds(b.disable), "enable_ms": milliseconds(b.enable),
		"restarted": b.restarted, "ready_ms": milliseconds(b.ready), "restart_ms": milliseconds(b.first), "drain_s": took.Seconds(), "drain_per_second": drain,
		"live_per_second": live, "live": b.live, "catch_up": kept,
	})
	from := "enabling the endpoints"
	if b.restarted {
		from = "the start after a kill"
		out.Verdict.remark("the first delivery %.2f s after the start with %s events waiting; the target for 1,000,000 is %s", b.first.Seconds(), count(b.waiting), restartTarget)
	}
	out.Tables = append(out.Tables, fmt.Sprintf(`backlog      %s events for %s endpoints, stored at %s/s; the relay then had %.0f MiB
restart      ready %s ms, first delivery %s ms after %s
catch-up     %s/s for %.1f s, %.2f of the live rate of %s/s
`, count(b.waiting), count(r.cfg.Endpoints), count(out.AcceptedPerSecond), b.waitingMiB, ms(milliseconds(b.ready)), ms(milliseconds(b.first)), from,
		count(drain), took.Seconds(), kept, count(live)))
	out.Verdict.remark("the catch-up has %.2f of the live rate; the target for 1,000,000 events and 1,000 endpoints is %.2f", kept, catchUpTarget)
	return out
}

// Fill has every producer send its next post once the one before is answered, until so many events were
// sent, whatever is outstanding.
func (p *Producers) Fill(ctx context.Context, events int64) (*Load, error) {
	return p.phase(ctx, backlogMost, func(ctx context.Context, one *producer, l *Load, _ time.Time) {
		for ctx.Err() == nil && atomic.LoadInt64(&l.Offered) < events {
			if !one.post(ctx, l, time.Now()) {
				return
			}
		}
	})
}
