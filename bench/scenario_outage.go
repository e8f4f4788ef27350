package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// The load of an outage, as parts of the rate that the endpoints take when they are up.
const (
	outageLoad = 0.3
	besideLoad = 0.1
)

func outageScenario() Scenario {
	return Scenario{
		Name:    "outage",
		Summary: "how fast 10 % of the endpoints catch up after they were down, compared with what they take live",
		Explain: `
One endpoint of every workspace's ten goes down: nobody listens, connections are reset. For --duration it is
sent events at 0.3 of what it takes live, or at --rate; then it comes back, no more events are sent to it,
and it catches up. The others get a tenth of that load all the time. The relay repeats failed attempts every
twentieth of --duration, so that is how long the return may go unnoticed; figures.first_ms is how long it did
(a --target has its own schedule).
catch_up_per_second counts from the first delivery after the return to the last one; live_per_second is a
closed loop to the same endpoints, measured before and after, beside the same load. figures.catch_up is the
one to the other. The JSON's common figures are those of the outage with its catching up.`,
		Defaults: Options{Endpoints: 100},
		Run:      runOutage,
	}
}

func runOutage(ctx context.Context, r *Run) (out *Result, err error) {
	templates, err := NewTemplates(r.Options.Payload)
	if err != nil {
		return nil, err
	}
	types := templates.Types()
	down := (r.Options.Endpoints + PerWorkspace - 1) / PerWorkspace
	gap := max(r.Options.Duration/20, 100*time.Millisecond)
	patience := Patience + 2*gap
	if r.Options.Target != "" {
		patience = 10 * Patience // its own schedule: 30, 60 and 90 s as a rule
	}
	rig, err := r.NewRig(ctx, RigConfig{
		Endpoints: down, PerWorkspace: 1, Types: types[len(types)-1:], Flags: everyGap(gap), Patience: patience,
		Plan: Plan{{Kind: FaultRefuse, Last: down - 1, From: neverItself}},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	o := outage{rig: rig}
	if others := r.Options.Endpoints - down; others > 0 {
		if o.others, err = rig.newGroup(ctx, others, goodPerWorkspace, types[:len(types)-1], nil); err != nil {
			return nil, err
		}
		defer o.others.close()
	}
	return o.run(ctx)
}

// outage is the measurement of the rig's endpoints, which go down.
type outage struct {
	rig    *Rig
	others *group // nil: there are none
	live   []float64
	// downFor is how long they were down, waited how many events waited for them then; first is from the return to
	// the first delivery, caught from there to the last.
	downFor, first, caught time.Duration
	waited                 int64
	rate                   float64 // of the load in the outage
}

func (o *outage) run(ctx context.Context) (*Result, error) {
	r, d := o.rig, o.rig.run.Options.Duration
	floors, err := r.Floors(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.WarmUp(ctx); err != nil {
		return nil, err
	}
	if err := o.measureLive(ctx, d/4); err != nil { // finds out the load beside; it had none itself
		return nil, err
	}
	stop := func() error { return nil }
	if o.others != nil {
		stop = o.others.send(ctx, max(besideLoad*o.live[0], 1))
	}
	p, err := o.beside(ctx)
	if err := errors.Join(err, stop()); err != nil {
		return nil, err
	}
	if o.others != nil {
		if err := o.others.drain(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.Settle(); err != nil {
		return nil, err
	}
	return o.result(p, floors), nil
}

// beside does what is measured, beside the load of the others.
func (o *outage) beside(ctx context.Context) (*Phase, error) {
	r, d := o.rig, o.rig.run.Options.Duration
	o.live = nil
	if err := o.measureLive(ctx, d/2); err != nil {
		return nil, err
	}
	o.rate = first(r.run.Options.Rate, outageLoad*o.live[0])
	p, err := r.Phase(ctx, "outage", func(ctx context.Context) (*Load, error) { return o.outage(ctx, d) })
	if err != nil {
		return nil, err
	}
	o.caught = p.Measure.Took() - o.downFor - o.first
	return p, o.measureLive(ctx, d/2)
}

// measureLive adds the rate of a closed loop.
func (o *outage) measureLive(ctx context.Context, d time.Duration) error {
	p, err := o.rig.Closed(ctx, max(d, 200*time.Millisecond))
	if err != nil {
		return err
	}
	if p.Measure.Delivered() == 0 {
		return errNothing
	}
	o.live = append(o.live, perSecond(p.Measure.Delivered(), p.Measure.Took()))
	return nil
}

// outage sends while nobody listens, and has the endpoints come back.
func (o *outage) outage(ctx context.Context, d time.Duration) (*Load, error) {
	start := time.Now()
	o.rig.Sink.shutAll()
	load, err := o.rig.Producers.Open(ctx, o.rig.Posts(Constant(o.rate, d)))
	if err != nil {
		return load, err
	}
	before := o.rig.Judge.Arrived()
	o.waited = o.rig.Judge.Expected() - before
	back := time.Now()
	o.downFor = back.Sub(start)
	if err := o.rig.Sink.openAll(); err != nil {
		return load, err
	}
	o.first = o.rig.firstArrival(ctx, before, back)
	return load, nil
}

// firstArrival waits for more than so many deliveries, for as long as a drain would, and gives the time that they took
// from a moment on.
func (r *Rig) firstArrival(ctx context.Context, before int64, from time.Time) time.Duration {
	start := time.Now()
	for r.Judge.Arrived() <= before && time.Since(start) < r.cfg.Patience && pause(ctx, time.Millisecond) {
	}
	return time.Since(from)
}

func (o *outage) result(p *Phase, floors Floors) *Result {
	r := o.rig
	out := r.Result(p, floors)
	if o.others != nil {
		o.others.judged(out)
	}
	live, speed := middle(o.live), perSecond(p.Measure.Delivered(), o.caught)
	kept := ratio(speed, live)
	maps.Copy(out.Figures, map[string]any{
		"down_endpoints": r.cfg.Endpoints, "down_s": o.downFor.Seconds(), "rate": o.rate, "waited": o.waited, "first_ms": milliseconds(o.first),
		"catch_up_s": o.caught.Seconds(), "catch_up_per_second": speed, "live_per_second": live, "live": o.live, "catch_up": kept,
	})
	out.Tables = append(out.Tables, fmt.Sprintf(`down         %d of %d endpoints for %.1f s; %s events waited
return       the first delivery %s ms after it, all caught up %.1f s later
catch-up     %s/s, %.2f of the live rate of %s/s
`, r.cfg.Endpoints, r.run.Options.Endpoints, o.downFor.Seconds(), count(o.waited), ms(milliseconds(o.first)), o.caught.Seconds(), count(speed), kept, count(live)))
	out.Verdict.remark("the catch-up has %.2f of the live rate; the target is %.2f", kept, catchUpTarget)
	if p.Drain < 500*time.Millisecond {
		out.Verdict.remark("the catch-up took only %s: too short for a rate to lean on", p.Drain.Round(time.Millisecond))
	}
	return out
}

// milliseconds writes a time as the JSON has it.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
