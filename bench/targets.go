package bench

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The targets are for a machine with two cores that does nothing else, and for events of targetPayload bytes.
// A target that is missed is a remark and never makes a verdict a bad one: speed is the machine's as much as
// the program's.

// targetPayload is the size of the events that the targets are for.
const targetPayload = 1024

// relayFloorTargets are the least parts of the floors that a relay is meant to deliver to so many endpoints in a
// closed loop: of the direct one in posts of 100 events, of the proxy's in single posts.
var relayFloorTargets = map[int]struct{ direct, proxy float64 }{
	100:    {direct: 0.50, proxy: 0.60},
	1000:   {direct: 0.45, proxy: 0.50},
	10_000: {direct: 0.35, proxy: 0.45},
}

// sequentialTarget is the same for a single endpoint, of the sequential floor, in either kind of post.
const sequentialTarget = 0.60

// The times in milliseconds in which an event is meant to pass a relay at latencyTargetShare of its saturation.
const (
	latencyTargetShare = 0.2
	latencyP50Target   = 2.0
	latencyP99Target   = 15.0
)

// The least parts of the bare server's rate at which a receiver is meant to answer, with durability process at
// 64 connections and with power at 512; and the milliseconds in which 99 of 100 are meant to be answered at half
// of the rate.
const (
	processTarget = 0.5
	powerTarget   = 0.25
	targetAckP99  = 10.0
)

// The targets of the scenarios that do one thing to a relay.
const (
	// restartTarget is the time from the start with 1,000,000 events waiting to the first delivery.
	restartTarget = 5 * time.Second
	// catchUpTarget is the rate of catching up to the live one.
	catchUpTarget = 0.8
	// keptTarget is the rate beside bad neighbours to the rate alone.
	keptTarget = 0.95
	// idleMemoryTarget and idleCPUTarget are for 10,000 idle endpoints: bytes, and percent of a core.
	idleMemoryTarget = 300e6
	idleCPUTarget    = 1.0
)

// Target is a figure that is held against what it is meant to be.
type Target struct {
	// Of is what was measured, as "100 endpoints", where a run measures several things.
	Of string `json:"of,omitempty"`
	// Figure says of what Measured is a part, or which time it is in milliseconds.
	Figure   string  `json:"figure"`
	Measured float64 `json:"measured"`
	// AtLeast is the target of a part, BelowMS that of a time; the other one is 0.
	AtLeast float64 `json:"at_least,omitempty"`
	BelowMS float64 `json:"below_ms,omitempty"`
	Held    bool    `json:"held"`
}

// atLeast holds a part of something against the least that it is meant to be.
func atLeast(least, measured float64, figure string) Target {
	return Target{Figure: figure, Measured: measured, AtLeast: least, Held: measured >= least}
}

// below holds a time in milliseconds against its bound; 0 is a time that nothing was measured of.
func below(bound, measured float64, figure string) Target {
	return Target{Figure: figure, Measured: measured, BelowMS: bound, Held: measured > 0 && measured < bound}
}

// found is the figure in words, aim what it is meant to be.
func (t Target) found() string {
	if t.BelowMS > 0 {
		return fmt.Sprintf("%s ms %s", ms(t.Measured), t.Figure)
	}
	return fmt.Sprintf("%.2f %s", t.Measured, t.Figure)
}

func (t Target) aim() string {
	if t.BelowMS > 0 {
		return fmt.Sprintf("below %g ms", t.BelowMS)
	}
	return fmt.Sprintf("at least %.2f", t.AtLeast)
}

// String is the target in a few words, with what came of it.
func (t Target) String() string {
	text := fmt.Sprintf("%s (%s)", t.found(), t.aim())
	if t.Of != "" {
		text = t.Of + ": " + text
	}
	if !t.Held {
		text += ", missed"
	}
	return text
}

// hold notes targets among the figures, and remarks those that are missed.
func (r *Result) hold(targets ...Target) {
	for _, t := range targets {
		if !t.Held {
			r.Verdict.remark("%s; the target is %s", t.found(), t.aim())
		}
	}
	r.noteTargets(targets)
}

// noteTargets is hold without the remarks, for a result of several whose remarks it has already.
func (r *Result) noteTargets(targets []Target) {
	if len(targets) > 0 {
		r.Figures["targets"] = targets
	}
}

// targets are those that the result was held to, also of one that was read from a file.
func (r *Result) targets() (list []Target) {
	if text, err := json.Marshal(r.Figures["targets"]); err == nil {
		_ = json.Unmarshal(text, &list) // what was just written
	}
	return list
}

// targetsOf are the same with the name of what was measured.
func (r *Result) targetsOf(name string) []Target {
	list := r.targets()
	for i := range list {
		list[i].Of = name
	}
	return list
}

// missed is how many of the targets are.
func missed(targets []Target) (n int) {
	for _, t := range targets {
		if !t.Held {
			n++
		}
	}
	return n
}

// targetsText is all targets in a line.
func targetsText(targets []Target) string {
	texts := make([]string, len(targets))
	for i, t := range targets {
		texts[i] = t.String()
	}
	return strings.Join(texts, "; ")
}

// aimed says that a run has the load that the targets are for: events of their size, in one of those posts, at
// the program's own rate, and the program on this machine, which the floors are of.
func (o Options) aimed(batches ...int) bool {
	return o.Payload == targetPayload && o.Rate == 0 && o.Target == "" && slices.Contains(batches, o.Batch)
}

// relayTargets are those of the scenario relay with so many endpoints.
func (r *Result) relayTargets(o Options, endpoints int) []Target {
	if !o.aimed(1, 100) {
		return nil
	}
	if endpoints == 1 {
		_, ratio := r.sequential()
		return []Target{atLeast(sequentialTarget, ratio, "of sequential")}
	}
	least, ok := relayFloorTargets[endpoints]
	switch {
	case !ok:
		return nil
	case o.Batch == 1:
		return []Target{atLeast(least.proxy, r.ProxyRatio, "of proxy")}
	default:
		return []Target{atLeast(least.direct, r.Ratio, "of direct")}
	}
}

// latencyTargets are those of the scenario latency; first is its first rate, latencyTargetShare of the saturation.
func latencyTargets(o Options, first ratedLatency) []Target {
	if !o.aimed(1) {
		return nil
	}
	at := fmt.Sprintf("at %.0f %% of saturation", 100*latencyTargetShare)
	return []Target{
		below(latencyP50Target, first.LatencyMS.P50, "p50 "+at),
		below(latencyP99Target, first.LatencyMS.P99, "p99 "+at),
	}
}

// receiverTargets are those of one case of the scenario receiver, whose posts have always one event.
func receiverTargets(o Options, row receiverRow) []Target {
	if o.Payload != targetPayload {
		return nil
	}
	return []Target{
		atLeast(row.TargetRatio, row.Ratio, "of the bare server"),
		below(targetAckP99, row.AckMS.P99, "answer p99 at half load"),
	}
}
