package bench

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// judged makes a judge of tracks with so many events, all accepted, an endpoint each.
func judged(tracks int, events uint32) (*Judge, []*Track) {
	l := &Layout{Endpoints: make([]Endpoint, tracks)}
	list := make([]*Track, tracks)
	for i := range list {
		list[i] = &Track{Number: uint32(i), First: i, Fan: 1}
		list[i].sent.Store(events)
		list[i].accepted.Store(events)
	}
	return NewJudge(l, list), list
}

func TestTheJudgeFindsWhatIsLostDuplicatedAndOutOfOrder(t *testing.T) {
	upTo := func(n uint32) (list []uint32) {
		for i := range n {
			list = append(list, i)
		}
		return list
	}
	for _, c := range []struct {
		name                         string
		accepted                     uint32
		arrive                       []uint32
		lost, duplicated, outOfOrder int64
		said                         string
	}{
		{"all", 5, upTo(5), 0, 0, 0, ""},
		{"nothing sent", 0, nil, 0, 0, 0, ""},
		{"nothing came", 3, nil, 3, 0, 0, "3 lost (first number 0)"},
		{"one lost", 5, []uint32{0, 1, 3, 4}, 1, 0, 0, "1 lost (first number 2)"},
		{"the last lost", 5, upTo(4), 1, 0, 0, "1 lost (first number 4)"},
		{"repeated in order after a crash", 5, []uint32{0, 1, 2, 1, 2, 3, 4}, 0, 2, 0, "2 duplicated (first number 1)"},
		{"overtaken", 5, []uint32{0, 2, 1, 3, 4}, 0, 0, 1, "1 out of order (first number 1)"},
		{"backwards", 4, []uint32{3, 2, 1, 0}, 0, 0, 3, "3 out of order (first number 2)"},
		{"one too early", 5, []uint32{0, 4, 1, 2, 3}, 0, 0, 3, "3 out of order (first number 1)"},
		{"more than was answered", 3, upTo(5), 0, 0, 0, ""},
		{"many", 1000, upTo(1000), 0, 0, 0, ""},
		{"many, one lost and one twice", 1000, append(append(upTo(500), upTo(1000)[501:]...), 63, 64), 1, 2, 0, "1 lost (first number 500) 2 duplicated (first number 63)"},
	} {
		j, tracks := judged(1, 2000)
		tracks[0].accepted.Store(c.accepted)
		for _, n := range c.arrive {
			j.Arrive(Mark{Sequence: n}, 0, 0)
		}
		got := j.Judge()
		if got.Lost != c.lost || got.Duplicated != c.duplicated || got.OutOfOrder != c.outOfOrder || got.Strays != 0 {
			t.Errorf("%s: %+v", c.name, got)
		}
		if said := strings.Join(got.Offenders, "\n"); !strings.Contains(said, c.said) || (c.said == "") != (said == "") {
			t.Errorf("%s: says %q, want %q", c.name, said, c.said)
		}
	}
}

func TestTheJudgeNamesTheFirstTenOffenders(t *testing.T) {
	j, _ := judged(30, 3)
	for track := range uint32(30) {
		for n := range uint32(3) {
			if track%2 == 0 || n != 1 {
				j.Arrive(Mark{Track: track, Sequence: n}, int(track), 0)
			}
		}
	}
	got := j.Judge()
	if got.Lost != 15 || len(got.Offenders) != 10 {
		t.Fatalf("%+v", got)
	}
	for i, said := range got.Offenders {
		if want := fmt.Sprintf("endpoint %d, track %[1]d of 3 events: 1 lost (first number 1)", 2*i+1); said != want {
			t.Errorf("offender %d is %q, want %q", i, said, want)
		}
	}
}

func TestTheJudgeKnowsWhatIsNotForAnEndpoint(t *testing.T) {
	l := &Layout{Endpoints: make([]Endpoint, 6)}
	fan := &Track{Number: 0, First: 2, Fan: 3}
	fan.sent.Store(1)
	fan.accepted.Store(1)
	j := NewJudge(l, []*Track{fan})
	for endpoint := range 6 {
		j.Arrive(Mark{}, endpoint, 0)
	}
	j.Arrive(Mark{Track: 1}, 2, 0)
	j.Arrive(Mark{Sequence: 1}, 2, 0) // was never sent
	if got := j.Judge(); got.Strays != 5 || got.Arrived != 3 || got.Accepted != 3 || got.Lost != 0 {
		t.Errorf("%+v", got)
	}
}

func TestTheJudgeKeepsNothingOfWhatHasCome(t *testing.T) {
	const events = 1 << 20
	j, _ := judged(1, events)
	for n := range uint32(events) {
		j.Arrive(Mark{Sequence: n ^ 1}, 0, 0) // neighbours swapped
	}
	if l := &j.lanes[0]; cap(l.words) > 8 {
		t.Errorf("%d words are kept", cap(l.words))
	}
	if got := j.Judge(); got.Lost != 0 || got.OutOfOrder != events/2 || got.Arrived != events {
		t.Errorf("%+v", got)
	}
}

// TestTheJudgeAgreesWithASet lets events come in any order, some twice, some never.
func TestTheJudgeAgreesWithASet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		events := uint32(random.IntN(400) + 1)
		j, _ := judged(1, events)
		seen := map[uint32]bool{}
		var high, disorder, repeats int64 = -1, 0, 0
		for range random.IntN(800) {
			n := uint32(random.IntN(int(events)))
			switch {
			case seen[n]:
				repeats++
			case int64(n) < high:
				disorder++
			}
			seen[n] = true
			high = max(high, int64(n))
			j.Arrive(Mark{Sequence: n}, 0, 0)
		}
		got := j.Judge()
		if got.Lost != int64(events)-int64(len(seen)) || got.Duplicated != repeats || got.OutOfOrder != disorder {
			t.Fatalf("%d events: %+v, want %d lost, %d repeated, %d out of order", events, got, int(events)-len(seen), repeats, disorder)
		}
	}
}

func TestAMeasureCountsWhatWasPlannedInItsTime(t *testing.T) {
	j, _ := judged(4, 100)
	start := time.Unix(1000, 0)
	at := func(ms int64) int64 { return start.UnixNano() + ms*1e6 }
	j.Arrive(Mark{Sequence: 0, Planned: at(-10)}, 0, at(-5))
	m := j.Measure(start)
	j.Arrive(Mark{Sequence: 1, Planned: at(-1)}, 0, at(30)) // of the warm-up
	var wg sync.WaitGroup
	for track := range uint32(4) {
		wg.Go(func() {
			for n := range uint32(10) {
				j.Arrive(Mark{Track: track, Sequence: 10 + n, Planned: at(int64(n))}, int(track), at(int64(n)+7))
			}
		})
	}
	wg.Wait()
	j.Arrive(Mark{Sequence: 10, Planned: at(0)}, 0, at(900)) // a repeat
	m.End(start.Add(50 * time.Millisecond))
	j.Arrive(Mark{Sequence: 50, Planned: at(50)}, 0, at(900))
	if m.Delivered() != 40 || m.Latency().Count() != 40 {
		t.Errorf("%d delivered, %d timed", m.Delivered(), m.Latency().Count())
	}
	if q := m.Latency().Quantiles(); q.P50 < 6.99 || q.Max > 7.01 {
		t.Errorf("%+v", q)
	}
	if took := m.Took(); took < 7*time.Millisecond || took > 16*time.Millisecond {
		t.Errorf("took %s", took)
	}
}
