package bench

import (
	"testing"
	"time"
)

func TestAPacerPlansItsSends(t *testing.T) {
	for _, c := range []struct {
		name  string
		pacer Pacer
		sends uint64
		at    map[uint64]time.Duration
		rate  map[time.Duration]float64
	}{
		{
			"constant", Constant(100, 2*time.Second), 200,
			map[uint64]time.Duration{0: 0, 1: 10 * time.Millisecond, 150: 1500 * time.Millisecond, 199: 1990 * time.Millisecond},
			map[time.Duration]float64{0: 100, time.Second: 100, 2 * time.Second: 100, 3 * time.Second: 0, -1: 0},
		},
		{
			"a rate that is no integer", Constant(0.5, 10*time.Second), 5,
			map[uint64]time.Duration{0: 0, 4: 8 * time.Second},
			map[time.Duration]float64{time.Second: 0.5},
		},
		{
			"a third a second", Constant(1.0/3, 9*time.Second), 3,
			map[uint64]time.Duration{1: 3 * time.Second, 2: 6 * time.Second},
			nil,
		},
		{
			"a ramp from nothing",
			Pacer{To: 100, Over: 2 * time.Second},
			100,
			map[uint64]time.Duration{0: 0, 1: 200 * time.Millisecond, 25: time.Second, 100: 2 * time.Second},
			map[time.Duration]float64{0: 0, time.Second: 50, 2 * time.Second: 100},
		},
		{
			"a ramp down",
			Pacer{From: 100, Over: 2 * time.Second},
			100,
			map[uint64]time.Duration{0: 0, 75: time.Second, 100: 2 * time.Second},
			map[time.Duration]float64{0: 100, time.Second: 50, 2 * time.Second: 0},
		},
		{"nothing", Pacer{Over: time.Second}, 0, nil, map[time.Duration]float64{0: 0}},
		{"no time", Constant(100, 0), 0, nil, map[time.Duration]float64{0: 0}},
	} {
		if got := c.pacer.Sends(); got != c.sends {
			t.Errorf("%s: %d sends, want %d", c.name, got, c.sends)
		}
		for n, want := range c.at {
			if got := c.pacer.At(n); got != want {
				t.Errorf("%s: send %d at %s, want %s", c.name, n, got, want)
			}
		}
		for at, want := range c.rate {
			if got := c.pacer.Rate(at); got != want {
				t.Errorf("%s: %g a second at %s, want %g", c.name, got, at, want)
			}
		}
	}
}

func TestAPacerNeverGoesBack(t *testing.T) {
	for _, p := range []Pacer{Constant(7, time.Minute), {From: 3, To: 900, Over: time.Minute}, {From: 900, To: 1, Over: time.Minute}} {
		for n := uint64(1); n < p.Sends(); n++ {
			if p.At(n) < p.At(n-1) || p.At(n) > p.Over {
				t.Fatalf("%+v: send %d at %s, the one before at %s", p, n, p.At(n), p.At(n-1))
			}
		}
	}
}

func TestASenderThatIsBehindDoesNotWait(t *testing.T) {
	p := Constant(10, time.Second)
	for _, c := range []struct {
		elapsed time.Duration
		sent    uint64
		wait    time.Duration
		stop    bool
	}{
		{0, 0, 0, false},
		{0, 1, 100 * time.Millisecond, false},
		{150 * time.Millisecond, 2, 50 * time.Millisecond, false},
		{700 * time.Millisecond, 2, 0, false},
		{5 * time.Second, 9, 0, false},
		{0, 10, 0, true},
	} {
		if wait, stop := p.Pace(c.elapsed, c.sent); wait != c.wait || stop != c.stop {
			t.Errorf("after %s and %d sends: wait %s, stop %v", c.elapsed, c.sent, wait, stop)
		}
	}
}
