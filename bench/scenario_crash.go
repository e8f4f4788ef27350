package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A relay is killed about every crashEvery, in the first part of the load that crashUntil says, so that
// what the last one interrupts is sent as well.
const (
	crashEvery = 2 * time.Second
	crashUntil = 0.8
	// onItsWay is how long after a kill the sink may still get what had been sent before.
	onItsWay = 20 * time.Millisecond
)

func crashScenario() Scenario {
	return Scenario{
		Name:    "crash",
		Summary: "whether a relay that is killed under load loses anything, what it repeats, how soon it is back",
		Explain: `
The relay is ended with kill -9 about every two seconds, at random moments of a closed loop, and started
again on its data; producers send again what was not answered. Every event that was taken has to come, in
order. What was delivered in the last moment before a kill may come twice, with the same event_id, and in
order: figures.repeats counts that, with how far back it went in events of a sequence and in time before the
kill. A repeat that steps back twice after one kill is out of order; one without a kill is a fault. The
JSON's duplicated counts the repeats. restarts has the times from the start of the new process until it is
ready and until it delivers.`,
		Defaults: Options{Endpoints: 100},
		Run:      runCrash,
	}
}

// kill is one crash.
type kill struct {
	// AtS is when in the phase, Outstanding what was taken and not delivered then.
	AtS         float64 `json:"at_s"`
	Outstanding int64   `json:"outstanding"`
	// ReadyMS and FirstMS are from the start of the new process until it was ready, and until something
	// was delivered.
	ReadyMS float64 `json:"ready_ms"`
	FirstMS float64 `json:"first_delivery_ms"`
	// Repeats are the deliveries that came again after it, EventsBack how far behind the newest event
	// of their sequence the furthest was, MSBack how long before a kill the oldest had been
	// delivered: before the next one, which may be earlier than this.
	Repeats    int64   `json:"repeats"`
	EventsBack uint32  `json:"events_back"`
	MSBack     float64 `json:"ms_back"`

	at int64 // in Unix nanoseconds
}

func runCrash(ctx context.Context, r *Run) (out *Result, err error) {
	if r.Options.Target != "" {
		return nil, UsageError("crash ends a relay of its own: it has no --target")
	}
	rig, err := r.NewRig(ctx, RigConfig{MayDie: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	seed := uint64(time.Now().UnixNano())
	c := crash{rig: rig, random: rand.New(rand.NewPCG(seed, 0)), seen: make([]trail, len(rig.Tracks))}
	rig.Judge.witness = c.witness
	floors, err := rig.Floors(ctx)
	if err != nil {
		return nil, err
	}
	if err := rig.WarmUp(ctx); err != nil {
		return nil, err
	}
	d := r.Options.Duration
	p, err := rig.Phase(ctx, "closed loop with kills", func(ctx context.Context) (*Load, error) {
		var wg sync.WaitGroup
		var failed error
		wg.Go(func() { failed = c.killAll(ctx, d) })
		load, err := rig.Producers.Closed(ctx, d)
		wg.Wait()
		return load, errors.Join(err, failed)
	})
	if err != nil {
		return nil, err
	}
	if err := rig.Settle(); err != nil {
		return nil, err
	}
	out = c.result(rig.Result(p, floors), p)
	out.Figures["seed"] = seed
	return out, nil
}

// crash kills the relay and looks at what comes again.
type crash struct {
	rig    *Rig
	random *rand.Rand
	seen   []trail // by track

	number    atomic.Int32 // of kills so far
	unasked   atomic.Int64 // repeats before any kill
	backwards atomic.Int64 // repeats out of order

	mu    sync.Mutex
	kills []kill
}

// remembered is how many of a track's last deliveries have their times kept.
const remembered = 256

// trail is what came of one track. Its deliveries come one at a time.
type trail struct {
	mu      sync.Mutex
	last    int64 // the number of the delivery before; of nothing, too
	high    uint32
	stepped int32 // the kill after which it last stepped back
	number  [remembered]uint32
	at      [remembered]int64
}

// witness is the judge's.
func (c *crash) witness(m Mark, at int64, fresh bool) {
	t := &c.seen[m.Track]
	t.mu.Lock()
	defer t.mu.Unlock()
	slot, n := m.Sequence%remembered, c.number.Load()
	back := int64(m.Sequence) < t.last || !fresh && int64(m.Sequence) == t.last
	t.last = int64(m.Sequence)
	if fresh {
		t.high = max(t.high, m.Sequence)
		t.number[slot], t.at[slot] = m.Sequence, at
		return
	}
	switch {
	case n == 0:
		c.unasked.Add(1)
		return
	case back && t.stepped == n:
		c.backwards.Add(1)
	case back:
		t.stepped = n
	}
	var delivered int64
	if t.number[slot] == m.Sequence {
		delivered = t.at[slot]
	}
	t.number[slot], t.at[slot] = m.Sequence, at // what comes a third time was delivered now
	c.mu.Lock()
	defer c.mu.Unlock()
	k := &c.kills[n-1]
	k.Repeats++
	k.EventsBack = max(k.EventsBack, t.high-m.Sequence+1)
	if delivered > 0 {
		next := slices.IndexFunc(c.kills, func(k kill) bool { return k.at+int64(onItsWay) >= delivered })
		k.MSBack = max(k.MSBack, milliseconds(time.Duration(c.kills[max(next, 0)].at-delivered))) // below 0: it was on its way
	}
}

// killAll kills and restarts until the time is nearly up, at least once.
func (c *crash) killAll(ctx context.Context, d time.Duration) error {
	slot := min(crashEvery, time.Duration(crashUntil*float64(d)))
	start := time.Now()
	for begin := time.Duration(0); ; begin += slot {
		at := begin + time.Duration((0.2+0.7*c.random.Float64())*float64(slot))
		if begin > 0 && at > time.Duration(crashUntil*float64(d)) {
			return nil
		}
		if time.Since(start) > at+slot {
			continue // the one before took that long
		}
		if !pause(ctx, at-time.Since(start)) {
			return context.Cause(ctx)
		}
		if err := c.killOnce(ctx, start); err != nil {
			return fmt.Errorf("restart after kill %d: %w", c.number.Load(), err)
		}
	}
}

func (c *crash) killOnce(ctx context.Context, start time.Time) error {
	r := c.rig
	if !r.Relay.Program.Running() {
		return r.Relay.Program.failure("has ended by itself")
	}
	k := kill{AtS: time.Since(start).Seconds(), Outstanding: r.Judge.Expected() - r.Judge.Arrived()}
	r.Relay.Program.Kill()
	k.at = time.Now().UnixNano()
	c.mu.Lock()
	c.kills = append(c.kills, k)
	c.mu.Unlock()
	c.number.Add(1)
	pause(ctx, onItsWay)
	before, started := r.Judge.Arrived(), time.Now()
	var wg sync.WaitGroup
	var came time.Duration
	wg.Go(func() { came = r.firstArrival(ctx, before, started) })
	err := r.RestartRelay(ctx)
	ready := time.Since(started)
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	last := &c.kills[len(c.kills)-1]
	last.ReadyMS, last.FirstMS = milliseconds(ready), milliseconds(came)
	return err
}

// result judges anew: a repeat is no fault here, unless it is one.
func (c *crash) result(out *Result, p *Phase) *Result {
	j := c.rig.Judge.Judge()
	repeats := j.Duplicated
	if j.Duplicated = 0; j.Lost+j.OutOfOrder == 0 {
		j.Offenders = nil
	}
	out.Verdict = Verdict{OK: true, Reasons: []string{}}
	out.Verdict.judge(j, c.rig.Sink.Report())
	if n := c.unasked.Load(); n > 0 {
		out.Verdict.fail("%s events came twice before the first kill", count(n))
	}
	if n := c.backwards.Load(); n > 0 {
		out.Verdict.fail("%s repeats were out of order", count(n))
	}
	var eventsBack uint32
	var msBack, ready, came float64
	var table strings.Builder
	fmt.Fprintf(&table, "%6s %12s %10s %18s %10s %12s %10s\n", "AT S", "OUTSTANDING", "READY MS", "FIRST DELIVERY MS", "REPEATS", "EVENTS BACK", "MS BACK")
	for _, k := range c.kills {
		eventsBack, msBack, ready, came = max(eventsBack, k.EventsBack), max(msBack, k.MSBack), max(ready, k.ReadyMS), max(came, k.FirstMS)
		fmt.Fprintf(&table, "%6.1f %12s %10s %18s %10s %12d %10s\n", k.AtS, count(k.Outstanding), ms(k.ReadyMS), ms(k.FirstMS), count(k.Repeats), k.EventsBack, ms(k.MSBack))
	}
	out.Tables = append(out.Tables, table.String())
	maps.Copy(out.Figures, map[string]any{
		"kills": len(c.kills), "restarts": c.kills, "repeats": repeats, "repeats_events_back": eventsBack, "repeats_ms_back": msBack,
		"repeats_out_of_order": c.backwards.Load(), "ready_ms_max": ready, "first_delivery_ms_max": came,
	})
	out.Verdict.remark("%d kills: %s events were repeated, at most %d of one sequence, the oldest delivered %s ms before a kill", len(c.kills), count(repeats), eventsBack, ms(msBack))
	out.Verdict.remark("back after at most %s ms, delivering after %s ms", ms(ready), ms(came))
	if p.Load.Unsent > 0 {
		out.Verdict.remark("%s events of the plan were not sent", count(p.Load.Unsent))
	}
	return out
}
