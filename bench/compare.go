package bench

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// Comparison holds two runs of one scenario against one another.
type Comparison struct {
	Before, After *Result
	Rows          []Change
	// Noise is the part by which a figure may differ without meaning anything: the spread of the floors
	// and of the stretches of the phases within the two runs, at least leastNoise.
	Noise float64
	// Machine is how much faster the machine was in the second run, by the floors.
	Machine float64
	// Remarks say what makes the two hard to compare.
	Remarks []string
}

// Change is one figure in both runs.
type Change struct {
	Name          string
	Before, After float64
	// Ratio is After to Before; Fair the same with the machine's share taken out, where it has one.
	Ratio, Fair float64
	Noise       float64
	Verdict     Outcome
}

// Outcome is what a change means.
type Outcome string

// The outcomes. Differs is for a figure of which neither more nor less is better.
const (
	OutcomeSame    Outcome = "same"
	OutcomeNoise   Outcome = "noise"
	OutcomeBetter  Outcome = "better"
	OutcomeWorse   Outcome = "worse"
	OutcomeDiffers Outcome = "differs"
)

const (
	// leastNoise is the least part that two runs differ by.
	leastNoise = 0.05
	// looseNoise is the least for times, memory and CPU, which move more, rareNoise for the times of a
	// few events.
	looseNoise, rareNoise = 0.15, 0.5
	// segments are the parts of a phase whose rates are held against one another.
	segments = 4
)

// Compare holds two runs against one another. They must be of one scenario.
func Compare(before, after *Result) (*Comparison, error) {
	if before.Scenario != after.Scenario {
		return nil, UsageError(fmt.Sprintf("runs of %s and of %s cannot be compared: give two of one scenario", before.Scenario, after.Scenario))
	}
	c := &Comparison{Before: before, After: after, Machine: 1}
	if before.FloorPerSecond > 0 && after.FloorPerSecond > 0 {
		c.Machine = after.FloorPerSecond / before.FloorPerSecond
	}
	c.Noise = max(leastNoise, before.spread(), after.spread())
	c.remark()
	a, b := before.figures(), after.figures()
	for _, name := range ordered(a, b) {
		c.Rows = append(c.Rows, c.change(name, a[name], b[name]))
	}
	return c, nil
}

// remark says what differs besides the figures.
func (c *Comparison) remark() {
	a, b := c.Before, c.After
	if a.Machine != b.Machine {
		c.Remarks = append(c.Remarks, fmt.Sprintf("the machines differ: %s; %s. Only the ratios to the floors mean something.", a.Machine, b.Machine))
	}
	ours, theirs := a.options(), b.options()
	for _, name := range slices.Sorted(maps.Keys(ours)) {
		if x, y := fmt.Sprint(ours[name]), fmt.Sprint(theirs[name]); x != y {
			c.Remarks = append(c.Remarks, fmt.Sprintf("the runs differ in %s: %s, %s", name, x, y))
		}
	}
	if m := math.Abs(c.Machine - 1); m > c.Noise {
		c.Remarks = append(c.Remarks, fmt.Sprintf("by its floors the machine did %.2f times as much in the second run; FAIR has that taken out", c.Machine))
	}
	if c.Noise > 0.25 {
		c.Remarks = append(c.Remarks, fmt.Sprintf("the machine was so restless that up to %.0f %% are noise: longer runs on an idle machine tell more", 100*c.Noise))
	}
}

// direction is 1 where more is better, -1 where less is, 0 where it says nothing.
func direction(name string) int {
	last := name[strings.LastIndexByte(name, '.')+1:]
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(name, part) })
	}
	switch {
	case has("target", "options.", "half_load", "unsent_", "share_of"), last == "rate":
		return 0
	case has("floor", "bare_", "proxy_per", "sequential_per", "bench_cpu", "send_late"): // the machine's, or the bench's
		return 0
	case has("per_second", "ratio", "highest_rate"):
		return 1
	case has("_ms", "cpu_", "rss_", "lost", "duplicated", "out_of_order", "strays", "bad_signatures", "drain_s", "failed"):
		return -1
	default:
		return 0
	}
}

// exact are the counts of which one more is a change.
func exact(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	return slices.Contains([]string{"lost", "duplicated", "out_of_order", "strays", "bad_signatures"}, last)
}

func (c *Comparison) change(name string, before, after float64) Change {
	d := direction(name)
	row := Change{Name: name, Before: before, After: after, Ratio: ratio(after, before), Noise: c.Noise}
	row.Fair = row.Ratio
	switch { // what a faster machine does by itself
	case strings.HasSuffix(name, "per_second") && d != 0:
		row.Fair = row.Ratio / c.Machine
	case strings.Contains(name, "_ms") && d != 0, strings.Contains(name, "cpu_seconds") && d != 0:
		row.Fair = row.Ratio * c.Machine
	}
	switch {
	case strings.HasSuffix(name, ".p999"), strings.HasSuffix(name, ".max"):
		row.Noise = max(4*row.Noise, rareNoise)
	case strings.Contains(name, "_ms"), strings.Contains(name, "drain_s"): // a queue is longer by more than the load is
		row.Noise = max(2*row.Noise, looseNoise)
	case strings.Contains(name, "rss_"), strings.Contains(name, "cpu_"):
		row.Noise = max(row.Noise, looseNoise)
	}
	row.Verdict = row.outcome(d)
	return row
}

func (row Change) outcome(direction int) Outcome {
	worse := map[bool]Outcome{true: OutcomeWorse, false: OutcomeBetter}[(row.After < row.Before) == (direction > 0)]
	switch {
	case row.Before == row.After && row.Fair == row.Ratio:
		return OutcomeSame
	case exact(row.Name):
		return worse
	case direction == 0:
		return OutcomeDiffers
	case row.Before == 0 || row.After == 0:
		return worse
	case row.Fair < 1+row.Noise && row.Fair > 1/(1+row.Noise):
		return OutcomeNoise
	case (row.Fair < 1) == (direction > 0):
		return OutcomeWorse
	default:
		return OutcomeBetter
	}
}

// spread is how much the run moved by itself: its floors from one measurement to the next, and the rate
// at which its closed loops were taken from one stretch to the next.
func (r *Result) spread() (worst float64) {
	floors := map[string][]point{}
	for _, f := range r.Floors {
		floors[f.Of] = append(floors[f.Of], point{value: f.Direct})
	}
	for _, list := range floors {
		worst = max(worst, deviation(list))
	}
	for i := range r.Phases {
		p := r.Phases[i].loaded()
		if p.Counted && p.Name == closedLoop && len(p.Timeline) >= 2*segments {
			worst = max(worst, deviation(p.rates(accepted, segments)))
		}
	}
	return worst
}

// deviation is the standard error of the mean rate in its parts, twice: what another run of that length
// may differ by. Of two parts it is their difference.
func deviation(parts []point) float64 {
	var sum, squares float64
	for _, p := range parts {
		sum += p.value
	}
	n := float64(len(parts))
	if n < 2 || sum <= 0 {
		return 0
	}
	mean := sum / n
	for _, p := range parts {
		squares += (p.value - mean) * (p.value - mean)
	}
	return 2 * math.Sqrt(squares/(n-1)/n) / mean
}

// figures are all numbers of a result by their path.
func (r *Result) figures() map[string]float64 {
	all := map[string]float64{
		"offered": float64(r.Offered), "accepted": float64(r.Accepted), "delivered": float64(r.Delivered),
		"lost": float64(r.Lost), "duplicated": float64(r.Duplicated), "out_of_order": float64(r.OutOfOrder),
		"accepted_per_second": r.AcceptedPerSecond, "delivered_per_second": r.DeliveredPerSecond,
		"floor_per_second": r.FloorPerSecond, "ratio": r.Ratio, "proxy_per_second": r.ProxyPerSecond, "proxy_ratio": r.ProxyRatio,
	}
	if r.CPUSecondsPer1000 != nil {
		all["cpu_seconds_per_1000"] = *r.CPUSecondsPer1000
	}
	if r.RSSMiB != nil {
		all["rss_mib"] = *r.RSSMiB
	}
	for name, q := range map[string]Quantiles{"latency_ms": r.LatencyMS, "ack_ms": r.AckMS} {
		all[name+".p50"], all[name+".p90"], all[name+".p99"], all[name+".p999"], all[name+".max"] = q.P50, q.P90, q.P99, q.P999, q.Max
	}
	for name, value := range plain(r.Figures) {
		if !slices.Contains(notFigures, name) {
			flatten(all, "figures."+name, value)
		}
	}
	return all
}

// notFigures are in a result's figures and are none.
var notFigures = []string{"options", "timeline", "judgement", "sink", "targets"}

// flatten notes the numbers of a value that came from JSON, whose charts and parts of a whole are left out.
func flatten(into map[string]float64, name string, value any) {
	switch v := value.(type) {
	case float64:
		into[name] = v
	case map[string]any:
		for key, one := range v {
			flatten(into, name+"."+key, one)
		}
	case []any:
		if strings.HasSuffix(name, "spectrum") || strings.HasSuffix(name, "timeline") || strings.HasSuffix(name, "round_ratios") || len(v) > 24 {
			return
		}
		for i, one := range v {
			flatten(into, fmt.Sprintf("%s.%d", name, i), one)
		}
	}
}

// ordered lists the names that both have: the common figures as the contract has them, then the others.
func ordered(a, b map[string]float64) (names []string) {
	for name := range a {
		if _, both := b[name]; both {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(x, y string) int {
		if byPlace := place(x) - place(y); byPlace != 0 {
			return byPlace
		}
		return strings.Compare(x, y)
	})
	return names
}

// contractOrder are the beginnings of the common figures, as a reader wants them.
var contractOrder = []string{
	"lost", "duplicated", "out_of_order", "ratio", "proxy_ratio", "delivered_per_second", "accepted_per_second",
	"floor_per_second", "proxy_per_second", "latency_ms.p50", "latency_ms.p90", "latency_ms.p99", "latency_ms.p999", "latency_ms.max",
	"ack_ms.p50", "ack_ms.p90", "ack_ms.p99", "ack_ms.p999", "ack_ms.max", "cpu_seconds_per_1000", "rss_mib", "offered", "accepted", "delivered",
}

func place(name string) int {
	if i := slices.Index(contractOrder, name); i >= 0 {
		return i
	}
	return len(contractOrder)
}

// Worse lists the figures that became worse beyond the noise.
func (c *Comparison) Worse() (rows []Change) {
	for _, row := range c.Rows {
		if row.Verdict == OutcomeWorse {
			rows = append(rows, row)
		}
	}
	return rows
}

// Summary says in a line what became of it.
func (c *Comparison) Summary() string {
	counts := map[Outcome]int{}
	for _, row := range c.Rows {
		counts[row.Verdict]++
	}
	return fmt.Sprintf("%d figures worse, %d better, %d within the noise or the same; differences below %.0f %% are noise in these runs",
		counts[OutcomeWorse], counts[OutcomeBetter], counts[OutcomeNoise]+counts[OutcomeSame], 100*c.Noise)
}

// WriteSummary writes the comparison for people.
func (c *Comparison) WriteSummary(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s: staffetta %s, then %s\n", c.Before.Scenario, c.Before.Version, c.After.Version)
	for _, remark := range c.Remarks {
		fmt.Fprintf(&b, "  %s\n", remark)
	}
	width := len("FIGURE")
	for _, row := range c.Rows {
		width = max(width, len(row.Name))
	}
	fmt.Fprintf(&b, "\n%-*s %12s %12s %7s %7s %7s  %s\n", width, "FIGURE", "BEFORE", "AFTER", "RATIO", "FAIR", "NOISE", "")
	for _, row := range c.Rows {
		fmt.Fprintf(&b, "%-*s %12s %12s %7s %7s %7s  %s\n", width, row.Name, row.BeforeText(), row.AfterText(),
			row.RatioText(), row.FairText(), row.NoiseText(), row.Verdict)
	}
	fmt.Fprintf(&b, "\n%s\n", c.Summary())
	_, err := io.WriteString(w, b.String())
	return err
}

func (row Change) ratioText(r float64) string {
	if row.Before == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", r)
}

// BeforeText is the first run's figure, for people; the others are what their names say.
func (row Change) BeforeText() string { return number(row.Before) }

// AfterText is the second run's figure.
func (row Change) AfterText() string { return number(row.After) }

// RatioText is the ratio of the two, or a dash.
func (row Change) RatioText() string { return row.ratioText(row.Ratio) }

// FairText is the ratio without the machine's share.
func (row Change) FairText() string { return row.ratioText(row.Fair) }

// NoiseText is what the figure may differ by, in percent.
func (row Change) NoiseText() string { return fmt.Sprintf("%.0f %%", 100*row.Noise) }

// number writes a figure with about four digits.
func number(v float64) string {
	switch a := math.Abs(v); {
	case v == math.Trunc(v) || a >= 1000:
		return count(v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.4g", v)
	}
}
