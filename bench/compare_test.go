package bench

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// aRun is a result that might be of a relay: what it delivered, and the floors before and after.
func aRun(perSecond float64, floors ...float64) *Result {
	cpu, rss := 0.05, 100.0
	r := &Result{
		Scenario: "relay", Version: "v1", Machine: "a machine", Format: Format, Verdict: Verdict{OK: true, Reasons: []string{}},
		Offered: 1000, Accepted: 1000, Delivered: 1000, DeliveredPerSecond: perSecond, AcceptedPerSecond: perSecond,
		LatencyMS: Quantiles{P50: 10, P90: 20, P99: 30, P999: 40, Max: 50}, AckMS: Quantiles{P50: 1, P90: 2, P99: 3, P999: 4, Max: 5},
		CPUSecondsPer1000: &cpu, RSSMiB: &rss,
		Figures: map[string]any{"options": map[string]any{"batch": 100.0}, "rates": []any{map[string]any{"rate": 10.0, "latency_ms": map[string]any{"p50": 1.0}}}},
	}
	for _, f := range floors {
		r.Floors = append(r.Floors, Floor{Of: "100 endpoints", Floors: Floors{Direct: f}})
		r.FloorPerSecond += f / float64(len(floors))
	}
	r.Ratio = ratio(perSecond, r.FloorPerSecond)
	return r
}

func compare(t *testing.T, before, after *Result) (*Comparison, map[string]Change) {
	t.Helper()
	c, err := Compare(before, after)
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]Change)
	for _, row := range c.Rows {
		rows[row.Name] = row
	}
	return c, rows
}

func TestARegressionIsFound(t *testing.T) {
	slow := aRun(6000, 40_000, 40_400)
	slow.LatencyMS.P99, slow.Lost = 90, 1
	c, rows := compare(t, aRun(10_000, 40_000, 40_400), slow)
	for _, name := range []string{"ratio", "delivered_per_second", "latency_ms.p99", "lost"} {
		if rows[name].Verdict != OutcomeWorse {
			t.Errorf("%s: %+v", name, rows[name])
		}
	}
	if rows["latency_ms.p50"].Verdict != OutcomeSame || len(c.Worse()) < 4 {
		t.Errorf("%+v", c.Rows)
	}
	var text bytes.Buffer
	if err := c.WriteSummary(&text); err != nil || !strings.Contains(text.String(), "worse") {
		t.Errorf("%v %s", err, &text)
	}
	if _, rows = compare(t, slow, aRun(10_000, 40_000, 40_400)); rows["delivered_per_second"].Verdict != OutcomeBetter || rows["lost"].Verdict != OutcomeBetter {
		t.Errorf("the other way round: %+v", rows["delivered_per_second"])
	}
}

func TestNoiseIsCalledNoise(t *testing.T) {
	for name, c := range map[string]struct{ before, after *Result }{
		"two hundredths": {aRun(10_000, 40_000, 40_000), aRun(9800, 40_000, 40_000)},
		"less than the floors moved within a run": {aRun(10_000, 34_000, 46_000), aRun(8500, 40_000, 40_000)},
		"a machine of half the speed":             {aRun(10_000, 40_000, 40_400), aRun(5000, 20_000, 20_200)},
		"less than the stretches of a phase":      {restless(10_000, 40_000), aRun(8500, 40_000, 40_000)},
	} {
		if _, rows := compare(t, c.before, c.after); rows["delivered_per_second"].Verdict != OutcomeNoise {
			t.Errorf("%s: %+v", name, rows["delivered_per_second"])
		}
	}
}

// restless is a run whose closed loop was now fast, now slow.
func restless(perSecond, floor float64) *Result {
	r := aRun(perSecond, floor, floor)
	p := Record{Of: "100 endpoints", Name: closedLoop, Counted: true, LoadS: 8}
	total := 0.0
	for i := range 8 {
		total += perSecond * (0.7 + 0.6*float64(i/2%2))
		p.Timeline = append(p.Timeline, Sample{AtS: float64(i + 1), Accepted: int64(total), Delivered: int64(total)})
	}
	r.Phases = append(r.Phases, p)
	return r
}

func TestTheRestlessnessOfTheDrainIsNotTheLoads(t *testing.T) {
	p := Record{Of: "x", Name: closedLoop, Counted: true, LoadS: 8}
	for i := range 16 {
		p.Timeline = append(p.Timeline, Sample{AtS: float64(i + 1), Accepted: int64(min(i+1, 8)) * 1000})
	}
	r := aRun(1000, 4000, 4000)
	r.Phases = []Record{p}
	if got := r.spread(); got > 0.001 {
		t.Errorf("spread %v", got)
	}
}

func TestWhatMakesRunsHardToCompareIsSaid(t *testing.T) {
	other := aRun(10_000, 80_000, 80_000)
	other.Machine, other.Figures["options"] = "another", map[string]any{"batch": 1.0}
	c, rows := compare(t, aRun(10_000, 40_000, 40_000), other)
	if text := strings.Join(c.Remarks, "\n"); !strings.Contains(text, "the machines differ") || !strings.Contains(text, "in batch: 100, 1") || !strings.Contains(text, "2.00 times") {
		t.Errorf("%s", text)
	}
	if row := rows["delivered_per_second"]; row.Verdict != OutcomeWorse || row.Ratio != 1 || row.Fair != 0.5 {
		t.Errorf("the same rate on a machine of twice the speed: %+v", row)
	}
	if row := rows["figures.rates.0.rate"]; row.Verdict != OutcomeSame {
		t.Errorf("%+v", row)
	}
	other.Scenario = "latency"
	if _, err := Compare(aRun(1, 1), other); !errors.As(err, new(UsageError)) || !strings.Contains(err.Error(), "relay") {
		t.Errorf("two scenarios: %v", err)
	}
}
