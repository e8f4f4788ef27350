package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// latencyShares are the parts of the saturation that latency is measured at; the targets are for the
// first, the figures of the last one stand for the run.
var latencyShares = []float64{latencyTargetShare, 0.5}

func latencyScenario() Scenario {
	return Scenario{
		Name:    "latency",
		Summary: "how long an event takes through a relay that is not busy",
		Explain: `
First a closed loop finds out how many events a second the relay takes at most. Then open loops send at 20 %
and at 50 % of that, or at --rate: every event has a planned time, whatever became of those before, and all
latencies count from it. So a stall shows in every event that it held up. Posts that could not be sent are
reported as saturation. send_late_ms is how late the bench itself sent; it is part of the latencies. The
JSON's common figures are those of the last rate, and figures.rates has all.`,
		Defaults: Options{Endpoints: 100, Batch: 1},
		Run:      runLatency,
	}
}

// ratedLatency is what one rate came to.
type ratedLatency struct {
	Rate               float64      `json:"rate"`
	Share              float64      `json:"share_of_saturation"`
	Saturated          bool         `json:"saturated"`
	DeliveredPerSecond float64      `json:"delivered_per_second"`
	LatencyMS          Quantiles    `json:"latency_ms"`
	AckMS              Quantiles    `json:"ack_ms"`
	SendLateMS         Quantiles    `json:"send_late_ms"`
	Spectrum           [][2]float64 `json:"latency_spectrum"`
}

func runLatency(ctx context.Context, r *Run) (out *Result, err error) {
	rig, err := r.NewRig(ctx, RigConfig{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	floors, err := rig.Floors(ctx)
	if err != nil {
		return nil, err
	}
	if err := rig.WarmUp(ctx); err != nil {
		return nil, err
	}
	full, err := rig.Closed(ctx, r.Options.Duration/2)
	if err != nil {
		return nil, err
	}
	saturation := perSecond(full.Measure.Delivered(), full.Measure.Took())
	if saturation == 0 {
		return nil, errNothing
	}
	rates := []float64{r.Options.Rate}
	if r.Options.Rate == 0 {
		rates = rates[:0]
		for _, share := range latencyShares {
			rates = append(rates, share*saturation)
		}
	}
	var last *Phase
	var rows []ratedLatency
	for _, rate := range rates {
		if last, err = rig.latencyAt(ctx, rate); err != nil {
			return nil, err
		}
		rows = append(rows, ratedLatency{
			Rate: rate, Share: rate / saturation, Saturated: last.Saturated(rate),
			DeliveredPerSecond: perSecond(last.Measure.Delivered(), last.Measure.Took()),
			LatencyMS:          last.Measure.Latency().Quantiles(), AckMS: last.Load.Ack.Quantiles(),
			SendLateMS: last.Load.Late.Quantiles(), Spectrum: last.Measure.Latency().Spectrum(),
		})
	}
	if err := rig.Settle(); err != nil {
		return nil, err
	}
	out = latencyResult(rig.Result(last, floors), rows, saturation)
	out.hold(latencyTargets(r.Options, rows[0])...)
	return out, nil
}

// latencyAt leads a rate up for a fifth of the phase, which is not counted, and measures it.
func (r *Rig) latencyAt(ctx context.Context, rate float64) (*Phase, error) {
	d := r.run.Options.Duration
	if _, err := r.Open(ctx, "ramp", r.Posts(Pacer{To: rate, Over: d / 5})); err != nil {
		return nil, err
	}
	return r.Open(ctx, fmt.Sprintf("open loop of %s/s", count(rate)), r.Posts(Constant(rate, d)))
}

func latencyResult(out *Result, rows []ratedLatency, saturation float64) *Result {
	out.Figures["saturation_per_second"] = saturation
	out.Figures["rates"] = rows
	var table strings.Builder
	fmt.Fprintf(&table, "saturation   %s/s\n%10s %7s %10s %10s %10s %10s %10s %14s\n", count(saturation), "RATE/S", "SHARE", "P50 MS", "P90 MS", "P99 MS", "P99.9 MS", "MAX MS", "LATE P99 MS")
	for _, row := range rows {
		q := row.LatencyMS
		fmt.Fprintf(&table, "%10s %7.2f %10s %10s %10s %10s %10s %14s\n", count(row.Rate), row.Share, ms(q.P50), ms(q.P90), ms(q.P99), ms(q.P999), ms(q.Max), ms(row.SendLateMS.P99))
		if row.Saturated {
			out.Verdict.remark("saturated: %s events a second were not kept up with", count(row.Rate))
		}
	}
	out.Tables = append(out.Tables, table.String())
	return out
}
