package bench

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Record is one stretch of load as a report shows it.
type Record struct {
	// Of is what was measured, as "100 endpoints"; Name is the phase's.
	Of   string `json:"of"`
	Name string `json:"name"`
	// Counted is false for what only leads up to a measurement.
	Counted bool `json:"counted"`
	// Offered, Accepted and Delivered count events, LoadS is from the start to the last answer, TookS to
	// the last delivery.
	Offered   int64   `json:"offered"`
	Accepted  int64   `json:"accepted"`
	Delivered int64   `json:"delivered"`
	LoadS     float64 `json:"load_s"`
	TookS     float64 `json:"took_s"`
	// Latency and Ack are the times, as far as there were any.
	Latency *Distribution `json:"latency,omitempty"`
	Ack     *Distribution `json:"ack,omitempty"`
	// Timeline is how the phase went.
	Timeline []Sample `json:"timeline"`
}

// Distribution is a histogram of times.
type Distribution struct {
	Count int64 `json:"count"`
	// Percentiles are pairs of a quantile (0 to 1) and the time in milliseconds.
	Percentiles [][2]float64 `json:"percentiles"`
	// HDR is the whole histogram in microseconds, in HdrHistogram's compressed form (V2, base64), which
	// its tools of every language read.
	HDR string `json:"hdr"`
}

// ticksPerHalf is how many percentiles a distribution has on each halving of what is above.
const ticksPerHalf = 5

// Distribution gives the histogram as it is now; nil if it is empty.
func (h *Histogram) Distribution() *Distribution {
	all := h.merged()
	if all.TotalCount() == 0 {
		return nil
	}
	text, _ := all.Encode(hdrhistogram.V2CompressedEncodingCookieBase) // into memory: it does not fail
	d := &Distribution{Count: all.TotalCount(), HDR: string(text)}
	for _, b := range all.CumulativeDistributionWithTicks(ticksPerHalf) {
		d.Percentiles = append(d.Percentiles, [2]float64{b.Quantile / 100, float64(b.ValueAt) / 1000})
	}
	return d
}

// at is the time at a quantile (0 to 1).
func (d *Distribution) at(quantile float64) float64 {
	if d == nil || len(d.Percentiles) == 0 {
		return 0
	}
	for _, p := range d.Percentiles {
		if p[0] >= quantile {
			return p[1]
		}
	}
	return d.Percentiles[len(d.Percentiles)-1][1]
}

// Recent are the times of one stretch between two samples.
type Recent struct {
	Latency *Short `json:"latency_ms,omitempty"`
	Ack     *Short `json:"ack_ms,omitempty"`
}

// Short are quantiles of a short stretch, in milliseconds.
type Short struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// stretch tells what a histogram got from what it had before.
type stretch struct {
	of     *Histogram
	before []int64
}

// since gives the quantiles of what came since the last call; nil if nothing did.
func (s *stretch) since(h *Histogram) *Short {
	if h == nil {
		return nil
	}
	all := h.merged().Export()
	now := all.Counts
	if s.of != h {
		s.of, s.before = h, make([]int64, len(now))
	}
	fresh := *all
	fresh.Counts = make([]int64, len(now))
	for i := range now {
		fresh.Counts[i] = now[i] - s.before[i]
	}
	s.before = now
	few := hdrhistogram.Import(&fresh)
	if few.TotalCount() == 0 {
		return nil
	}
	at := func(quantile float64) float64 { return float64(few.ValueAtQuantile(quantile)) / 1000 }
	return &Short{P50: at(50), P99: at(99), Max: at(100)}
}

// Floor is one measurement of the floors.
type Floor struct {
	Of string `json:"of"`
	Floors
}

// records is what a run has measured so far.
type records struct {
	phases []Record
	floors []Floor
}

// leadsUp are the phases that nothing is said of.
var leadsUp = map[string]bool{"warm-up": true, "ramp": true}

// recordPhase keeps a phase for the reports.
func (r *Run) recordPhase(of, name string, p *Phase) {
	one := Record{Of: of, Name: name, Counted: !leadsUp[name], TookS: p.Measure.Took().Seconds(), Delivered: p.Measure.Delivered(), Timeline: p.Timeline}
	if p.Load != nil {
		one.Offered, one.Accepted, one.LoadS = p.Load.Offered, p.Load.Accepted, p.Answered.Seconds()
	}
	if one.Counted {
		one.Latency = p.Measure.Latency().Distribution()
		if p.Load != nil {
			one.Ack = p.Load.Ack.Distribution()
		}
	}
	r.records.phases = append(r.records.phases, one)
}

// recordFloors keeps floors for the reports.
func (r *Run) recordFloors(of string, f Floors) {
	r.records.floors = append(r.records.floors, Floor{Of: of, Floors: f})
}

// name is what reports call the rig.
func (r *Rig) name() string {
	if r.label != "" {
		return r.label
	}
	return endpointsName(r.cfg.Endpoints)
}

// endpointsName is what reports call so many endpoints.
func endpointsName(n int) string {
	if n == 1 {
		return "1 endpoint"
	}
	return fmt.Sprintf("%s endpoints", count(n))
}

// title is what a chart says of the record.
func (r *Record) title() string {
	if r.Of == "" {
		return r.Name
	}
	return r.Of + ", " + r.Name
}

// point is a rate or a time at a moment of a phase.
type point struct{ at, value float64 }

// rates gives the deliveries, or what else of counts from the start, a second between the samples. A long
// phase is brought to at most most points.
func (r *Record) rates(of func(Sample) int64, most int) (points []point) {
	step := max(1, int(math.Ceil(float64(len(r.Timeline))/float64(most))))
	var at float64
	var n int64
	for i, s := range r.Timeline {
		if (i+1)%step != 0 && i != len(r.Timeline)-1 {
			continue
		}
		if s.AtS-at < 0.01 { // the last one, of a ticker that has just fired
			continue
		}
		points = append(points, point{s.AtS, float64(of(s)-n) / (s.AtS - at)})
		at, n = s.AtS, of(s)
	}
	return points
}

// times gives the worst of each few samples, so that a spike is never left out.
func (r *Record) times(of func(Sample) (float64, bool), most int) (points []point) {
	step := max(1, int(math.Ceil(float64(len(r.Timeline))/float64(most))))
	for first := 0; first < len(r.Timeline); first += step {
		few := r.Timeline[first:min(first+step, len(r.Timeline))]
		worst, any := 0.0, false
		for _, s := range few {
			if v, ok := of(s); ok {
				worst, any = max(worst, v), true
			}
		}
		if any {
			points = append(points, point{few[len(few)-1].AtS, worst})
		}
	}
	return points
}

// closedLoop is the name of the phases whose rate is the program's own.
const closedLoop = "closed loop"

// plain brings figures into the form that they have when they were read from JSON.
func plain(figures map[string]any) (all map[string]any) {
	if text, err := json.Marshal(figures); err == nil {
		_ = json.Unmarshal(text, &all) // what was just written
	}
	return all
}

// loaded is the record up to the end of its load.
func (r *Record) loaded() *Record {
	short := *r
	for i, s := range r.Timeline {
		if s.AtS > r.LoadS {
			short.Timeline = r.Timeline[:i]
			break
		}
	}
	return &short
}

func delivered(s Sample) int64 { return s.Delivered }
func accepted(s Sample) int64  { return s.Accepted }
