package bench

import (
	"math"
	"time"
)

// FaultKind is what an endpoint does in place of answering 200 at once.
type FaultKind string

const (
	// FaultSlow answers 200 after a time that varies: half within Median, one in a hundred after P99.
	FaultSlow FaultKind = "slow"
	// FaultStatus answers Status.
	FaultStatus FaultKind = "status"
	// FaultHang takes the request and never answers.
	FaultHang FaultKind = "hang"
	// FaultTrickle answers one byte every Median.
	FaultTrickle FaultKind = "trickle"
	// FaultReset takes the request and resets the connection.
	FaultReset FaultKind = "reset"
	// FaultRefuse has nobody listen, and resets the connections that there are: down from From to To.
	FaultRefuse FaultKind = "refuse"
)

// Fault is one line of a plan: some endpoints, for some time, at some rate.
type Fault struct {
	Kind FaultKind
	// First and Last are the numbers of the endpoints, both included.
	First, Last int
	// From and To bound the time of the fault, from the sink's start; a To of 0 is the end of time.
	From, To time.Duration
	// Rate is the share of the requests that the fault befalls, 0 to 1; 0 means all. FaultRefuse
	// befalls all.
	Rate float64
	// Status is FaultStatus's.
	Status int
	// Median and P99 are FaultSlow's distribution, which is log-normal; Median is FaultTrickle's pace.
	Median, P99 time.Duration
}

func (f *Fault) covers(endpoint int) bool { return endpoint >= f.First && endpoint <= f.Last }

func (f *Fault) active(at time.Duration) bool { return at >= f.From && (f.To == 0 || at < f.To) }

// Plan is the faults of a sink. The first line that befalls a request counts.
type Plan []Fault

// Befalls gives the fault that a request meets, and nil where it is answered at once. roll is a number
// from 0 to 1 that is the request's own.
func (p Plan) Befalls(endpoint int, at time.Duration, roll float64) *Fault {
	for i := range p {
		f := &p[i]
		if f.covers(endpoint) && f.active(at) && (f.Rate == 0 || f.Kind == FaultRefuse || roll < f.Rate) {
			return f
		}
	}
	return nil
}

// refuses gives the line of the plan that has an endpoint refuse connections at some time, or -1: it
// needs a listener of its own.
func (p Plan) refuses(endpoint int) int {
	for i := range p {
		if p[i].Kind == FaultRefuse && p[i].covers(endpoint) {
			return i
		}
	}
	return -1
}

// Delay is how long FaultSlow takes for a roll from 0 to 1.
func (f *Fault) Delay(roll float64) time.Duration {
	if f.Median <= 0 || f.P99 <= f.Median {
		return f.Median
	}
	const z99 = 2.3263478740408408 // the standard normal's 99th percentile
	sigma := math.Log(float64(f.P99)/float64(f.Median)) / z99
	z := math.Sqrt2 * math.Erfinv(2*min(max(roll, 1e-9), 1-1e-9)-1)
	return time.Duration(float64(f.Median) * math.Exp(sigma*z))
}

// roll is a number from 0 to 1 that an attempt of an event has at an endpoint, in every run.
func roll(endpoint int, m Mark, attempt int, salt uint64) float64 {
	x := uint64(endpoint)<<40 ^ uint64(m.Track)<<32 ^ uint64(m.Sequence)<<8 ^ uint64(attempt) ^ salt*0x9e3779b97f4a7c15
	x += 0x9e3779b97f4a7c15 // splitmix64
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return float64(x>>11) / (1 << 53)
}
