package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// relaySeries are the numbers of endpoints of a series, headline the one whose figures stand for it.
var relaySeries = []int{1, 100, 1000, 10_000}

const headline = 100

func relayScenario() Scenario {
	return Scenario{
		Name:    "relay",
		Summary: "how many events a second go through a relay, in order, to how many endpoints",
		Explain: `
Up to 32 producers post batches of events to a relay in a closed loop; an event has one endpoint, and ten
endpoints share a workspace and its event types. A warm-up is not counted; the measured phase ends when the
last event has been delivered. A producer waits while more than four posts of each are undelivered, so the
rate is one that lasts. The floors are measured before and after; a single endpoint, which gets one event
after the other, is held against a client that sends like that too, from a process of its own as a relay does:
figures.sequential_ratio. With --rate the loop is open: so many events a second, and what cannot be kept is
said. Without --endpoints it runs a series of 1, 100, 1,000 and 10,000 endpoints, each on a relay of its own;
the JSON's common figures are then those of 100 endpoints, and figures.series has all.`,
		Run: runRelay,
	}
}

func runRelay(ctx context.Context, r *Run) (*Result, error) {
	if r.Options.Endpoints > 0 {
		return r.measureOneRelay(ctx, r.Options.Endpoints)
	}
	var all []*Result
	var out *Result
	for _, endpoints := range relaySeries {
		one, err := r.measureOneRelay(ctx, endpoints)
		if err != nil {
			return nil, fmt.Errorf("%d endpoints: %w", endpoints, err)
		}
		all = append(all, one)
		if endpoints == headline {
			copied := *one
			out = &copied
		}
		r.Terminal.Say("%s: %s/s delivered, %.2f of direct", endpointsName(endpoints), count(one.DeliveredPerSecond), one.Ratio)
	}
	return series(out, all), nil
}

// measureOneRelay measures so many endpoints, and holds the rate to its target; a single one has the
// sequential floor too.
func (r *Run) measureOneRelay(ctx context.Context, endpoints int) (*Result, error) {
	out, err := r.measureRelay(ctx, RigConfig{Endpoints: endpoints, Sequential: endpoints == 1})
	if err != nil {
		return nil, err
	}
	out.hold(out.relayTargets(r.Options, endpoints)...)
	return out, nil
}

// series makes one result of several; out is the one whose figures stand for it.
func series(out *Result, all []*Result) *Result {
	rows := make([]map[string]any, len(all))
	out.Verdict = Verdict{OK: true, Reasons: []string{}}
	var targets []Target
	var table strings.Builder
	fmt.Fprintf(&table, "%10s %12s %12s %7s %7s %10s %10s %10s %9s %6s\n", "ENDPOINTS", "DELIVERED/S", "DIRECT/S", "RATIO", "PROXY", "SEQUENTIAL", "P50 MS", "P99 MS", "CPU/1000", "MIB")
	for i, one := range all {
		rows[i] = one.seriesRow(relaySeries[i])
		var cpu, rss float64
		if one.CPUSecondsPer1000 != nil && one.RSSMiB != nil {
			cpu, rss = *one.CPUSecondsPer1000, *one.RSSMiB
		}
		sequential := "-"
		if perSecond, ratio := one.sequential(); perSecond > 0 {
			sequential = fmt.Sprintf("%.2f", ratio)
		}
		fmt.Fprintf(&table, "%10s %12s %12s %7.2f %7.2f %10s %10s %10s %9.3f %6.0f\n", count(relaySeries[i]), count(one.DeliveredPerSecond),
			count(one.FloorPerSecond), one.Ratio, one.ProxyRatio, sequential, ms(one.LatencyMS.P50), ms(one.LatencyMS.P99), cpu, rss)
		out.Verdict.OK = out.Verdict.OK && one.Verdict.OK
		for _, reason := range one.Verdict.Reasons {
			out.Verdict.remark("%s: %s", endpointsName(relaySeries[i]), reason)
		}
		targets = append(targets, one.targetsOf(endpointsName(relaySeries[i]))...)
	}
	out.noteTargets(targets)
	out.Figures["series"] = rows
	out.Tables = append(out.Tables, table.String())
	return out
}

// seriesRow is what the JSON has of one number of endpoints.
func (r *Result) seriesRow(endpoints int) map[string]any {
	row := map[string]any{
		"endpoints": endpoints, "offered": r.Offered, "accepted": r.Accepted, "delivered": r.Delivered,
		"lost": r.Lost, "duplicated": r.Duplicated, "out_of_order": r.OutOfOrder,
		"accepted_per_second": r.AcceptedPerSecond, "delivered_per_second": r.DeliveredPerSecond,
		"floor_per_second": r.FloorPerSecond, "ratio": r.Ratio, "proxy_per_second": r.ProxyPerSecond, "proxy_ratio": r.ProxyRatio,
		"cpu_seconds_per_1000": r.CPUSecondsPer1000, "rss_mib": r.RSSMiB, "latency_ms": r.LatencyMS, "ack_ms": r.AckMS,
	}
	if perSecond, ratio := r.sequential(); perSecond > 0 {
		row["sequential_per_second"], row["sequential_ratio"] = perSecond, ratio
	}
	return row
}

// measureRelay measures some endpoints on a relay of their own.
func (r *Run) measureRelay(ctx context.Context, cfg RigConfig) (out *Result, err error) {
	rig, err := r.NewRig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	before, err := rig.Floors(ctx)
	if err != nil {
		return nil, err
	}
	if err := rig.WarmUp(ctx); err != nil {
		return nil, err
	}
	var phase *Phase
	if r.Options.Rate > 0 {
		phase, err = rig.Open(ctx, "open loop", rig.Posts(Constant(r.Options.Rate, r.Options.Duration)))
	} else {
		phase, err = rig.Closed(ctx, r.Options.Duration)
	}
	if err != nil {
		return nil, err
	}
	after, err := rig.Floors(ctx)
	if err != nil {
		return nil, err
	}
	if err := rig.Settle(); err != nil {
		return nil, err
	}
	out = rig.Result(phase, before.mean(after))
	out.Figures["floors_before"], out.Figures["floors_after"] = before, after
	if r.Options.Rate > 0 {
		saturated := phase.Saturated(r.Options.Rate * max(1, ratio(float64(out.Delivered), float64(out.Accepted))))
		out.Figures["saturated"] = saturated
		if saturated {
			out.Verdict.remark("saturated: %s events a second were not kept up with", count(r.Options.Rate))
		}
	}
	return out, nil
}
