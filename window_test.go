package staffetta_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func TestAFailureCountsUntilItIsExactlyAsOldAsTheWindow(t *testing.T) {
	for name, test := range map[string]struct {
		failures []time.Duration // after noon
		at       time.Duration
		want     int
	}{
		"nothing has failed":                   {nil, 0, 0},
		"in the same second":                   {[]time.Duration{0}, 0, 1},
		"a second before its end":              {[]time.Duration{0}, 30*time.Minute - time.Second, 1},
		"just before its end":                  {[]time.Duration{0}, 30*time.Minute - 1, 1},
		"at its end":                           {[]time.Duration{0}, 30 * time.Minute, 0},
		"to the second, not below":             {[]time.Duration{900 * time.Millisecond}, 30 * time.Minute, 0},
		"several in one second":                {[]time.Duration{0, 1, 2, time.Second - 1}, time.Minute, 4},
		"the older half has expired":           {[]time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}, 30*time.Minute + time.Second, 2},
		"in no order":                          {[]time.Duration{3 * time.Second, 0, 2 * time.Second, time.Second}, 30*time.Minute + time.Second, 2},
		"a little later than the moment":       {[]time.Duration{0, 2 * time.Second}, time.Second, 2},
		"an hour ahead, of a clock set back":   {[]time.Duration{time.Hour, 0}, 0, 1},
		"a day ahead, and nothing fails since": {[]time.Duration{24 * time.Hour}, 0, 0},
	} {
		w := staffetta.NewFailureWindow(30 * time.Minute)
		for _, f := range test.failures {
			w.Add(noon.Add(f))
		}
		if got := w.Count(noon.Add(test.at)); got != test.want {
			t.Errorf("%s: %d failures count, want %d", name, got, test.want)
		}
	}
}

// A window agrees with a list of all failures, as long as the clock goes on.
func TestAWindowCountsWhatAListOfAllFailuresCounts(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		length := time.Duration(1+random.IntN(120)) * time.Second
		w := staffetta.NewFailureWindow(length)
		var all []time.Time
		now := noon
		for step := range 500 {
			now = now.Add(time.Duration(random.Int64N(int64(3 * time.Second))))
			if random.IntN(50) == 0 {
				now = now.Add(length)
			}
			for range random.IntN(4) {
				w.Add(now)
				all = append(all, now)
			}
			want := 0
			for _, at := range all {
				if now.Unix()-at.Unix() < int64(length/time.Second) {
					want++
				}
			}
			if got := w.Count(now); got != want {
				t.Fatalf("seed %d, step %d: %d failures count, want %d", seed, step, got, want)
			}
		}
	}
}

func TestTheOrderOfFailuresDoesNotMatter(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 2))
		forwards, shuffled := staffetta.NewFailureWindow(time.Minute), staffetta.NewFailureWindow(time.Minute)
		offsets := make([]time.Duration, 100)
		for i := range offsets {
			offsets[i] = time.Duration(i) * 590 * time.Millisecond
			forwards.Add(noon.Add(offsets[i]))
		}
		random.Shuffle(len(offsets), func(i, j int) { offsets[i], offsets[j] = offsets[j], offsets[i] })
		for _, offset := range offsets {
			shuffled.Add(noon.Add(offset))
		}
		for s := range 120 {
			at := noon.Add(time.Minute + time.Duration(s)*time.Second)
			if a, b := forwards.Count(at), shuffled.Count(at); a != b {
				t.Fatalf("seed %d, %d s later: %d in order, %d shuffled", seed, s, a, b)
			}
		}
	}
}

func TestAWindowOfAnyRateStaysSmall(t *testing.T) {
	w := staffetta.NewFailureWindow(time.Minute)
	now := noon
	fail := func() {
		for range 1000 {
			now = now.Add(time.Millisecond)
			w.Add(now)
		}
	}
	for range 120 {
		fail()
	}
	if n := testing.AllocsPerRun(100, fail); n > 2 { // of 1,000 failures
		t.Errorf("a second of 1,000 failures allocates %v times", n)
	}
	if got := w.Count(now); got < 59_000 || got > 60_000 {
		t.Errorf("%d failures count, want a minute's", got)
	}
}

func TestAQuotaIsExceededByTheFailureAboveIt(t *testing.T) {
	quota := staffetta.DefaultPolicy().Quota
	if quota != (staffetta.Quota{Failures: 30, Window: 30 * time.Minute}) {
		t.Errorf("the default quota is %+v", quota)
	}
	for _, test := range []struct {
		quota, count, level int
		exceeded            bool
	}{
		{30, 0, 0, false},
		{30, 14, 0, false},
		{30, 15, 50, false},
		{30, 23, 50, false},
		{30, 24, 80, false},
		{30, 29, 80, false},
		{30, 30, 100, false},
		{30, 31, 100, true},
		{1, 1, 100, false},
		{1, 2, 100, true},
		{5, 2, 0, false},
		{5, 3, 50, false},
		{5, 4, 80, false},
		{0, 0, 0, false},
		{0, 1_000_000, 0, false},
	} {
		q := staffetta.Quota{Failures: test.quota}
		if q.Exceeded(test.count) != test.exceeded || q.Level(test.count) != test.level {
			t.Errorf("%d of %d: exceeded %v, level %d", test.count, test.quota, q.Exceeded(test.count), q.Level(test.count))
		}
	}
}

func TestALevelIsToldOfAgainOnlyOnceTheWindowHasFallenWellBelow(t *testing.T) {
	q := staffetta.Quota{Failures: 30}
	for _, test := range []struct{ told, count, want int }{
		{0, 30, 0},
		{50, 15, 50},
		{50, 14, 50},
		{50, 9, 50},
		{50, 8, 0},
		{80, 24, 80},
		{80, 18, 80},
		{80, 17, 50},
		{80, 8, 0},
		{100, 31, 100},
		{100, 24, 100},
		{100, 23, 80},
		{100, 0, 0},
	} {
		if got := q.Rearmed(test.told, test.count); got != test.want {
			t.Errorf("told of %d, then %d failures: level %d is left, want %d", test.told, test.count, got, test.want)
		}
	}
}

func TestAQuotaOutsideItsBoundsIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		quota staffetta.Quota
		valid bool
	}{
		"the zero value":         {staffetta.Quota{}, true},
		"a day":                  {staffetta.Quota{Failures: 1_000_000, Window: 24 * time.Hour}, true},
		"a negative number":      {staffetta.Quota{Failures: -1}, false},
		"too large a number":     {staffetta.Quota{Failures: 1_000_001}, false},
		"half a second":          {staffetta.Quota{Failures: 30, Window: time.Second / 2}, false},
		"a second and a half":    {staffetta.Quota{Failures: 30, Window: 1500 * time.Millisecond}, false},
		"more than a day":        {staffetta.Quota{Failures: 30, Window: 25 * time.Hour}, false},
		"a negative window":      {staffetta.Quota{Failures: 30, Window: -time.Second}, false},
		"never, within a minute": {staffetta.Quota{Window: time.Minute}, true},
	} {
		policy := staffetta.DefaultPolicy()
		policy.Quota = test.quota
		if err := policy.Validate(); (err == nil) != test.valid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
