package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Phase is one stretch of load, until all of it has been delivered or is lost.
type Phase struct {
	Load    *Load
	Measure *Measure
	// Answered is from the start to the last answer.
	Answered time.Duration
	// Drained says that everything that was taken came; Drain is how long that took after the load.
	Drained bool
	Drain   time.Duration
	// Backlog is how many deliveries were outstanding when the load ended.
	Backlog int64
	// Used is what the program took from the machine in the phase: its CPU time, and the most memory
	// that it was seen with. Own is the CPU time of the bench: producers, sink and judge.
	Used Usage
	Own  time.Duration
	// Timeline has a sample for about every second, or for every twentieth of a short phase.
	Timeline []Sample
}

// Sample is how things stood at one moment of a phase.
type Sample struct {
	// AtS is the time from the start in seconds.
	AtS float64 `json:"at_s"`
	// Accepted and Delivered count from the start.
	Accepted  int64 `json:"accepted"`
	Delivered int64 `json:"delivered"`
	// CPUS is the program's CPU time from the start in seconds, RSSMiB its memory.
	CPUS   float64 `json:"cpu_s"`
	RSSMiB float64 `json:"rss_mib"`
	// Recent are the times of what arrived, or was answered, since the sample before.
	Recent
}

// Saturated says that the program did not keep up with an open loop: posts could not be sent, or more
// was left to deliver at the end than a second's worth.
func (p *Phase) Saturated(perSecond float64) bool {
	return p.Load.Saturated() || float64(p.Backlog) > max(perSecond, 100)
}

// WarmUp sends for a fifth of a phase, at least 200 ms, and waits until all is delivered.
func (r *Rig) WarmUp(ctx context.Context) error {
	d := max(r.run.Options.Duration/5, 200*time.Millisecond)
	_, err := r.Phase(ctx, "warm-up", func(ctx context.Context) (*Load, error) { return r.Producers.Closed(ctx, d) })
	return err
}

// Closed measures a closed loop.
func (r *Rig) Closed(ctx context.Context, d time.Duration) (*Phase, error) {
	return r.Phase(ctx, closedLoop, func(ctx context.Context) (*Load, error) { return r.Producers.Closed(ctx, d) })
}

// Open measures an open loop of events a second. The plan counts posts.
func (r *Rig) Open(ctx context.Context, name string, plan Pacer) (*Phase, error) {
	return r.Phase(ctx, name, func(ctx context.Context) (*Load, error) { return r.Producers.Open(ctx, plan) })
}

// Posts turns a plan of events into one of posts.
func (r *Rig) Posts(events Pacer) Pacer {
	events.From /= float64(r.cfg.Batch)
	events.To /= float64(r.cfg.Batch)
	return events
}

// Phase measures what send sends, waits for the deliveries, and keeps it for the reports.
func (r *Rig) Phase(ctx context.Context, name string, send func(context.Context) (*Load, error)) (*Phase, error) {
	p, err := r.measure(ctx, name, send)
	r.run.recordPhase(r.name(), name, p)
	return p, err
}

// measure is Phase for one that is a part of another: it is not kept.
func (r *Rig) measure(ctx context.Context, name string, send func(context.Context) (*Load, error)) (*Phase, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	if !r.cfg.MayDie {
		for _, program := range r.programs() {
			go func() { // ends with the phase
				select {
				case <-program.ended:
					fail(program.failure("has ended by itself"))
				case <-ctx.Done():
				}
			}()
		}
	}
	r.Sink.Judged(r.Judge)
	p := &Phase{}
	start := time.Now()
	p.Measure = r.Judge.Measure(start)
	watched := r.watch(p, name, start)
	load, err := send(ctx)
	p.Load, p.Backlog = load, r.Judge.Expected()-r.Judge.Arrived()
	if load != nil {
		p.Answered = load.Took
	}
	if err == nil {
		p.drain(ctx, r)
	}
	p.Measure.End(time.Now())
	watched()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return p, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

// drain waits until everything that was taken has come, or nothing comes any more.
func (p *Phase) drain(ctx context.Context, r *Rig) {
	start := time.Now()
	last, since := int64(-1), start
	for {
		arrived := r.Judge.Arrived()
		if p.Drained = arrived >= r.Judge.Expected(); p.Drained {
			break
		}
		if arrived != last {
			last, since = arrived, time.Now()
		}
		if time.Since(since) > r.cfg.Patience || !pause(ctx, 5*time.Millisecond) {
			break
		}
	}
	p.Drain = time.Since(start)
}

// sampling calls sample at an interval, and a last time when the function it gives is called, which
// returns after that.
func sampling(every time.Duration, sample func(last bool)) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				sample(true)
				return
			case <-ticker.C:
				sample(false)
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// watch takes the samples of a phase and shows how far it is, until the function it gives is called.
func (r *Rig) watch(p *Phase, name string, start time.Time) (stop func()) {
	taken, arrived := r.Producers.Accepted(), r.Judge.Arrived()
	used, own := r.usage(), usageOf(os.Getpid()).CPU
	p.Used.RSS = used.RSS
	var latency, ack stretch
	sample := func(last bool) {
		if !last && len(p.Timeline) >= 100_000 {
			return
		}
		now := r.usage()
		p.Used.Known = now.Known && used.Known
		p.Used.CPU, p.Used.RSS = now.CPU-used.CPU, max(p.Used.RSS, now.RSS)
		p.Timeline = append(p.Timeline, Sample{
			AtS: time.Since(start).Seconds(), Accepted: r.Producers.Accepted() - taken, Delivered: r.Judge.Arrived() - arrived,
			CPUS: p.Used.CPU.Seconds(), RSSMiB: float64(now.RSS) / (1 << 20),
			Recent: Recent{Latency: latency.since(p.Measure.Latency()), Ack: ack.since(r.Producers.Ack())},
		})
	}
	every := min(max(r.run.Options.Duration/20, 100*time.Millisecond), time.Second)
	sampled := sampling(every, sample)
	shown := r.run.Terminal.Watch(func() string {
		return fmt.Sprintf("%s, %s: %.0f s, %s accepted, %s delivered, %s outstanding", r.name(), name, time.Since(start).Seconds(),
			count(r.Producers.Accepted()-taken), count(r.Judge.Arrived()-arrived), count(r.Judge.Expected()-r.Judge.Arrived()))
	})
	return func() {
		shown()
		sampled()
		p.Own = usageOf(os.Getpid()).CPU - own
	}
}

// usage is that of all programs together.
func (r *Rig) usage() (sum Usage) {
	for i, p := range r.programs() {
		u := p.Usage()
		sum = Usage{CPU: sum.CPU + u.CPU, RSS: sum.RSS + u.RSS, Known: u.Known && (i == 0 || sum.Known)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.past {
		sum.CPU += p.Usage().CPU
	}
	return sum
}

// Result puts a measured phase into the contract's form, and judges the run so far.
func (r *Rig) Result(p *Phase, floors Floors) *Result {
	out := r.run.NewResult()
	out.Offered, out.Accepted, out.Delivered = p.Load.Offered, p.Load.Accepted, p.Measure.Delivered()
	out.AcceptedPerSecond = perSecond(out.Accepted, p.Load.Took)
	out.DeliveredPerSecond = perSecond(out.Delivered, p.Measure.Took())
	out.FloorPerSecond, out.ProxyPerSecond = floors.Direct, floors.Proxy
	out.Ratio, out.ProxyRatio = ratio(out.DeliveredPerSecond, floors.Direct), ratio(out.DeliveredPerSecond, floors.Proxy)
	if floors.Sequential > 0 {
		out.Figures["sequential_per_second"], out.Figures["sequential_ratio"] = floors.Sequential, ratio(out.DeliveredPerSecond, floors.Sequential)
	}
	out.LatencyMS, out.AckMS = p.Measure.Latency().Quantiles(), p.Load.Ack.Quantiles()
	used, deliveries := p.Used, out.Delivered
	if !used.Known { // of its whole life, once it has ended
		used, deliveries = r.usage(), r.Judge.Arrived()
	}
	if used.Known && deliveries > 0 {
		cpu, rss := used.CPU.Seconds()*1000/float64(deliveries), float64(used.RSS)/(1<<20)
		out.CPUSecondsPer1000, out.RSSMiB = &cpu, &rss
	}
	judgement, seen := r.Judge.Judge(), r.Sink.Report()
	out.Lost, out.Duplicated, out.OutOfOrder = judgement.Lost, judgement.Duplicated, judgement.OutOfOrder
	out.Verdict.judge(judgement, seen)
	if p.Load.Failed > 0 {
		out.Verdict.remark("%d posts were not taken at once, such as: %s", p.Load.Failed, p.Load.Problems[0])
	}
	out.Figures["bench_cpu_seconds_per_1000"] = ratio(p.Own.Seconds()*1000, float64(out.Delivered))
	out.Figures["drain_s"] = p.Drain.Seconds()
	out.Figures["send_late_ms"] = p.Load.Late.Quantiles()
	out.Figures["unsent"] = p.Load.Unsent
	out.Figures["failed_posts"] = p.Load.Failed
	out.Figures["sink"] = seen
	out.Figures["judgement"] = judgement
	out.Figures["timeline"] = p.Timeline
	out.Figures["workspaces"], out.Figures["producers"] = len(r.Layout.Workspaces), len(r.Producers.list)
	return out
}

// judge adds what no run may show.
func (v *Verdict) judge(j Judgement, s SinkReport) {
	for _, fault := range []struct {
		n    int64
		what string
	}{
		{j.Lost, "events were lost"},
		{j.Duplicated, "events came twice"},
		{j.OutOfOrder, "events came out of order"},
		{j.Strays, "events came to an endpoint that they were not for"},
		{s.BadSignatures, "events had a wrong signature"},
		{s.Unknown, "requests were no events of the bench"},
	} {
		if fault.n > 0 {
			v.fail("%s %s", count(fault.n), fault.what)
		}
	}
	v.Reasons = append(v.Reasons, j.Offenders...)
}

// errNothing says that a phase measured nothing at all.
var errNothing = errors.New("nothing was delivered")
