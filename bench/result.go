package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Result is what a scenario has found. Its JSON is a contract: fields are added, never changed.
type Result struct {
	Scenario string `json:"scenario"`
	Version  string `json:"version"`
	Machine  string `json:"machine"`

	// Offered counts the events that were planned, or in a closed loop sent, in the measured phase;
	// Accepted those that the program took; Delivered the different ones that came to their endpoint.
	Offered   int64 `json:"offered"`
	Accepted  int64 `json:"accepted"`
	Delivered int64 `json:"delivered"`
	// Lost, Duplicated and OutOfOrder count over the whole run, warm-up included.
	Lost       int64 `json:"lost"`
	Duplicated int64 `json:"duplicated"`
	OutOfOrder int64 `json:"out_of_order"`

	AcceptedPerSecond  float64 `json:"accepted_per_second"`
	DeliveredPerSecond float64 `json:"delivered_per_second"`
	// FloorPerSecond and ProxyPerSecond are the floors of the same run, the ratios the deliveries a
	// second to them.
	FloorPerSecond float64 `json:"floor_per_second"`
	Ratio          float64 `json:"ratio"`
	ProxyPerSecond float64 `json:"proxy_per_second"`
	ProxyRatio     float64 `json:"proxy_ratio"`

	// CPUSecondsPer1000 is the program's time on all cores for 1,000 deliveries, RSSMiB the most
	// memory that it was seen with in the phase. Null where the system does not say: a target's.
	CPUSecondsPer1000 *float64 `json:"cpu_seconds_per_1000"`
	RSSMiB            *float64 `json:"rss_mib"`

	// LatencyMS is from the planned send to the arrival, AckMS from there to the answer.
	LatencyMS Quantiles `json:"latency_ms"`
	AckMS     Quantiles `json:"ack_ms"`

	// Figures are the scenario's own, by name.
	Figures map[string]any `json:"figures"`
	Verdict Verdict        `json:"verdict"`

	// Tables are texts for people that the summary shows after the common figures.
	Tables []string `json:"tables"`
	// Format is that of this JSON, for who reads it again. Phases are the stretches of load with their
	// times and how they went, Floors all floors that were measured.
	Format int      `json:"format"`
	Phases []Record `json:"phases"`
	Floors []Floor  `json:"floors"`
}

// Verdict says whether the run shows what it has to, and why not; reasons of a run that is well are
// remarks, as that it was saturated.
type Verdict struct {
	OK      bool     `json:"ok"`
	Reasons []string `json:"reasons"`
}

// fail adds a reason that makes the verdict a bad one.
func (v *Verdict) fail(format string, args ...any) {
	v.OK = false
	v.remark(format, args...)
}

// remark adds a reason that changes nothing.
func (v *Verdict) remark(format string, args ...any) {
	v.Reasons = append(v.Reasons, fmt.Sprintf(format, args...))
}

// sequential gives the sequential floor and the deliveries a second to it; 0 where it was not measured.
func (r *Result) sequential() (perSecond, ratio float64) {
	perSecond, _ = r.Figures["sequential_per_second"].(float64)
	ratio, _ = r.Figures["sequential_ratio"].(float64)
	return perSecond, ratio
}

// perSecond is a rate; 0 where nothing was measured.
func perSecond(n int64, took time.Duration) float64 {
	if n == 0 || took <= 0 {
		return 0
	}
	return float64(n) / took.Seconds()
}

func ratio(of, to float64) float64 {
	if to <= 0 {
		return 0
	}
	return of / to
}

// WriteJSON writes the result as the contract has it.
func (r *Result) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}
