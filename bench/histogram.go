package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Quantiles of a time, in milliseconds.
type Quantiles struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

const (
	histogramShards = 8
	// longest is what the histograms tell apart; what takes longer counts as this.
	longest = time.Hour
)

// Histogram counts times from 1 µs to an hour with three digits. It is safe for concurrent use;
// recorders with different lanes rarely meet.
type Histogram struct {
	shards [histogramShards]struct {
		mu sync.Mutex
		h  *hdrhistogram.Histogram
		_  [48]byte // a line of the cache each
	}
}

// NewHistogram makes an empty one, of about 1.5 MB.
func NewHistogram() *Histogram {
	h := new(Histogram)
	for i := range h.shards {
		h.shards[i].h = hdrhistogram.New(1, longest.Microseconds(), 3)
	}
	return h
}

// Record counts one time.
func (h *Histogram) Record(lane int, d time.Duration) {
	micros := min(max(d, time.Microsecond), longest).Microseconds()
	s := &h.shards[lane&(histogramShards-1)]
	s.mu.Lock()
	_ = s.h.RecordValue(micros) // within its bounds
	s.mu.Unlock()
}

func (h *Histogram) merged() *hdrhistogram.Histogram {
	all := hdrhistogram.New(1, longest.Microseconds(), 3)
	for i := range h.shards {
		s := &h.shards[i]
		s.mu.Lock()
		all.Merge(s.h)
		s.mu.Unlock()
	}
	return all
}

// add counts the times of another one, too.
func (h *Histogram) add(other *Histogram) {
	all, s := other.merged(), &h.shards[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.h.Merge(all)
}

// Count is how many times were recorded.
func (h *Histogram) Count() int64 { return h.merged().TotalCount() }

// Quantiles gives the usual ones.
func (h *Histogram) Quantiles() Quantiles {
	all := h.merged()
	if all.TotalCount() == 0 {
		return Quantiles{}
	}
	at := func(quantile float64) float64 { return float64(all.ValueAtQuantile(quantile)) / 1000 }
	return Quantiles{P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(all.Max()) / 1000}
}

// Spectrum gives the time in milliseconds at rising quantiles, for a chart: pairs of quantile (0 to 1)
// and time.
func (h *Histogram) Spectrum() [][2]float64 {
	var pairs [][2]float64
	for _, b := range h.merged().CumulativeDistribution() {
		pairs = append(pairs, [2]float64{b.Quantile / 100, float64(b.ValueAt) / 1000})
	}
	return pairs
}
