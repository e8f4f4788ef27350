package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

func idleScenario() Scenario {
	return Scenario{
		Name:    "idle",
		Summary: "what 10,000 endpoints cost while nothing happens",
		Explain: `
The relay's memory and CPU time are watched for --duration while no event is sent, after a settling time of
half of that: when the endpoints have just been made, when all of them have had events, and when the relay has
been restarted. figures.rss_mb and cpu_percent are those of the first, in 1,000,000 bytes and in percent of one
core; figures.windows has all. In the JSON rss_mib is the most of all three; the counts, rates and times are
those of the load between them, a closed loop.`,
		Defaults: Options{Endpoints: 10_000, Duration: 5 * time.Second},
		Run:      runIdle,
	}
}

// quiet is a stretch in which nothing happens.
type quiet struct {
	Of string `json:"of"`
	// RSSMB is the mean of the samples in 1,000,000 bytes, RSSMaxMB the highest.
	RSSMB    float64 `json:"rss_mb"`
	RSSMaxMB float64 `json:"rss_max_mb"`
	// CPUPercent is of one core, to ±1 s/100 over the stretch.
	CPUPercent float64 `json:"cpu_percent"`
	Seconds    float64 `json:"seconds"`
}

func runIdle(ctx context.Context, r *Run) (out *Result, err error) {
	switch {
	case r.Options.Target != "":
		return nil, UsageError("idle looks at a process of its own: it has no --target")
	case !usageWhileRunning:
		return nil, errors.New("this system does not tell what a running process takes; run it on Linux")
	}
	rig, err := r.NewRig(ctx, RigConfig{MayDie: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	made, err := rig.quiet(ctx, "endpoints just made")
	if err != nil {
		return nil, err
	}
	floors, err := rig.Floors(ctx)
	if err != nil {
		return nil, err
	}
	p, err := rig.Closed(ctx, max(r.Options.Duration/2, 200*time.Millisecond))
	if err != nil {
		return nil, err
	}
	used, err := rig.quiet(ctx, "after load")
	if err != nil {
		return nil, err
	}
	if err := rig.Relay.Program.Stop(); err != nil {
		return nil, err
	}
	start := time.Now()
	if err := rig.RestartRelay(ctx); err != nil {
		return nil, err
	}
	ready := time.Since(start)
	restarted, err := rig.quiet(ctx, "after a restart")
	if err != nil {
		return nil, err
	}
	out = idleResult(rig.Result(p, floors), []quiet{made, used, restarted})
	out.Figures["ready_ms"] = milliseconds(ready)
	return out, nil
}

// quiet waits until things have settled, and watches.
func (r *Rig) quiet(ctx context.Context, name string) (q quiet, err error) {
	d := r.run.Options.Duration
	stop := r.run.Terminal.Watch(func() string {
		return fmt.Sprintf("%s idle endpoints, %s: %.0f MiB", count(r.cfg.Endpoints), name, float64(r.usage().RSS)/(1<<20))
	})
	defer stop()
	if !pause(ctx, d/2) {
		return q, context.Cause(ctx)
	}
	const samples = 20
	start, before := time.Now(), r.usage()
	q.Of = name
	for range samples {
		if !pause(ctx, d/samples) {
			return q, context.Cause(ctx)
		}
		mb := float64(r.usage().RSS) / 1e6
		q.RSSMB += mb / samples
		q.RSSMaxMB = max(q.RSSMaxMB, mb)
	}
	q.Seconds = time.Since(start).Seconds()
	q.CPUPercent = 100 * (r.usage().CPU - before.CPU).Seconds() / q.Seconds
	if !r.Relay.Program.Running() {
		return q, r.Relay.Program.failure("has ended by itself")
	}
	return q, nil
}

func idleResult(out *Result, all []quiet) *Result {
	var most float64
	var table strings.Builder
	fmt.Fprintf(&table, "%-20s %8s %8s %14s\n", "IDLE", "MB", "MAX MB", "% OF A CORE")
	for _, q := range all {
		most = max(most, q.RSSMaxMB*1e6/(1<<20))
		fmt.Fprintf(&table, "%-20s %8.0f %8.0f %14.2f\n", q.Of, q.RSSMB, q.RSSMaxMB, q.CPUPercent)
		out.Verdict.remark("%s: %.0f MB and %.2f %% of a core; the targets for 10,000 endpoints are %.0f MB and %.0f %%",
			q.Of, q.RSSMB, q.CPUPercent, idleMemoryTarget/1e6, idleCPUTarget)
	}
	out.RSSMiB = &most
	out.Figures["rss_mb"], out.Figures["cpu_percent"], out.Figures["windows"] = all[0].RSSMB, all[0].CPUPercent, all
	out.Tables = append(out.Tables, table.String())
	return out
}
