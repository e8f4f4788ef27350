package bench

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// Judge sees whether every event of every track comes to each of its endpoints, once and in order. It
// keeps a few words for a track and endpoint, and a bit for each event behind the first missing one. It
// is safe for concurrent use.
type Judge struct {
	tracks []*Track
	base   []int // of each track, its first lane
	lanes  []lane
	layout *Layout

	arrived atomic.Int64 // different events
	strays  atomic.Int64
	measure atomic.Pointer[Measure]
	// witness is told of every arrival, before the first one is set; at is in Unix nanoseconds, fresh
	// says that the event had not come before. nil: nobody.
	witness func(m Mark, at int64, fresh bool)
}

// lane is a track at one endpoint.
type lane struct {
	mu         sync.Mutex
	words      []uint64 // which events have come, from base on
	base       uint32   // a multiple of 64; all before it have come
	high       uint32   // the number behind the highest that has come
	duplicated uint32
	outOfOrder uint32
	// firstDuplicate and firstDisorder are the numbers of the first of each, where there is one.
	firstDuplicate, firstDisorder uint32
}

// Measure counts what arrives of the events that were planned in a stretch of time.
type Measure struct {
	from, to  atomic.Int64 // Unix nanoseconds
	delivered atomic.Int64
	last      atomic.Int64
	latency   *Histogram
}

// NewJudge judges the tracks of a layout.
func NewJudge(layout *Layout, tracks []*Track) *Judge {
	j := &Judge{tracks: tracks, layout: layout, base: make([]int, len(tracks))}
	n := 0
	for i, t := range tracks {
		j.base[i] = n
		n += t.Fan
	}
	j.lanes = make([]lane, n)
	return j
}

// Measure starts to count events that are planned from now on; the one before keeps what it has.
func (j *Judge) Measure(from time.Time) *Measure {
	m := &Measure{latency: NewHistogram()}
	m.from.Store(from.UnixNano())
	m.to.Store(1<<63 - 1)
	j.measure.Store(m)
	return m
}

// End bounds the stretch.
func (m *Measure) End(to time.Time) { m.to.Store(to.UnixNano()) }

// Delivered is how many different events have come.
func (m *Measure) Delivered() int64 { return m.delivered.Load() }

// Latency holds the times from the planned send to the first arrival.
func (m *Measure) Latency() *Histogram { return m.latency }

// Took is the time from the start to the last arrival; 0 if nothing came.
func (m *Measure) Took() time.Duration {
	if m.delivered.Load() == 0 {
		return 0
	}
	return time.Duration(m.last.Load() - m.from.Load())
}

// Arrived is how many different events have come to an endpoint since the start.
func (j *Judge) Arrived() int64 { return j.arrived.Load() }

// Arrive notes that an endpoint has taken an event at a time, in Unix nanoseconds.
func (j *Judge) Arrive(m Mark, endpoint int, at int64) {
	if int(m.Track) >= len(j.tracks) {
		j.strays.Add(1)
		return
	}
	t := j.tracks[m.Track]
	i := endpoint - t.First
	if i < 0 || i >= t.Fan || m.Sequence >= t.sent.Load() {
		j.strays.Add(1)
		return
	}
	number := j.base[m.Track] + i
	fresh := j.lanes[number].arrive(m.Sequence)
	if j.witness != nil {
		j.witness(m, at, fresh)
	}
	if !fresh {
		return
	}
	j.arrived.Add(1)
	s := j.measure.Load()
	if s == nil || m.Planned < s.from.Load() || m.Planned >= s.to.Load() {
		return
	}
	s.delivered.Add(1)
	s.last.Store(at)
	s.latency.Record(number, time.Duration(at-m.Planned))
}

// arrive reports whether the event is new.
func (l *lane) arrive(n uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.has(n) {
		if l.duplicated++; l.duplicated == 1 {
			l.firstDuplicate = n
		}
		return false
	}
	if n < l.high {
		if l.outOfOrder++; l.outOfOrder == 1 {
			l.firstDisorder = n
		}
	}
	l.high = max(l.high, n+1)
	word := int(n-l.base) / 64
	for len(l.words) <= word {
		l.words = append(l.words, 0)
	}
	l.words[word] |= 1 << (n % 64)
	full := 0
	for full < len(l.words) && l.words[full] == ^uint64(0) {
		full++
	}
	if full > 0 {
		l.base += uint32(full) * 64
		l.words = append(l.words[:0], l.words[full:]...)
	}
	return true
}

func (l *lane) has(n uint32) bool {
	if n < l.base {
		return true
	}
	word := int(n-l.base) / 64
	return word < len(l.words) && l.words[word]&(1<<(n%64)) != 0
}

// missing is how many of the first n events have not come, and the first of them.
func (l *lane) missing(n uint32) (count, first uint32) {
	for word := 0; l.base+uint32(word)*64 < n; word++ {
		from := l.base + uint32(word)*64
		gaps := ^uint64(0)
		if word < len(l.words) {
			gaps = ^l.words[word]
		}
		if n-from < 64 {
			gaps &= 1<<(n-from) - 1
		}
		if gaps != 0 && count == 0 {
			first = from + uint32(bits.TrailingZeros64(gaps))
		}
		count += uint32(bits.OnesCount64(gaps))
	}
	return count, first
}

// offendersNamed is how many endpoints a judgement names.
const offendersNamed = 10

// Judgement is what the judge has found since the start, warm-up included.
type Judgement struct {
	// Accepted counts the events that the program took, each once for every endpoint it goes to.
	Accepted int64 `json:"accepted"`
	// Arrived counts the different ones of them that came, and those that came although their
	// producer never got an answer.
	Arrived    int64 `json:"arrived"`
	Lost       int64 `json:"lost"`
	Duplicated int64 `json:"duplicated"`
	OutOfOrder int64 `json:"out_of_order"`
	// Strays came to an endpoint that they were not for, or were never sent.
	Strays int64 `json:"strays"`
	// Offenders names the first endpoints with something wrong.
	Offenders []string `json:"offenders,omitempty"`
}

// Expected is how many events, each once for every endpoint, the program has taken so far.
func (j *Judge) Expected() (n int64) {
	for _, t := range j.tracks {
		n += int64(t.Accepted()) * int64(t.Fan)
	}
	return n
}

// Judge sums up. What is accepted and has not come is lost: wait before.
func (j *Judge) Judge() Judgement {
	sum := Judgement{Accepted: j.Expected(), Arrived: j.Arrived(), Strays: j.strays.Load()}
	named := make(map[int]bool)
	for number, t := range j.tracks {
		accepted := t.Accepted()
		for i := range t.Fan {
			l := &j.lanes[j.base[number]+i]
			l.mu.Lock()
			lost, first := l.missing(accepted)
			sum.Lost += int64(lost)
			sum.Duplicated += int64(l.duplicated)
			sum.OutOfOrder += int64(l.outOfOrder)
			endpoint := t.First + i
			if (lost > 0 || l.duplicated > 0 || l.outOfOrder > 0) && (len(named) < offendersNamed || named[endpoint]) {
				named[endpoint] = true
				if len(sum.Offenders) < offendersNamed {
					sum.Offenders = append(sum.Offenders, l.offence(endpoint, t, lost, first, accepted))
				}
			}
			l.mu.Unlock()
		}
	}
	return sum
}

func (l *lane) offence(endpoint int, t *Track, lost, first, accepted uint32) string {
	text := fmt.Sprintf("endpoint %d, track %d of %d events:", endpoint, t.Number, accepted)
	if lost > 0 {
		text += fmt.Sprintf(" %d lost (first number %d)", lost, first)
	}
	if l.duplicated > 0 {
		text += fmt.Sprintf(" %d duplicated (first number %d)", l.duplicated, l.firstDuplicate)
	}
	if l.outOfOrder > 0 {
		text += fmt.Sprintf(" %d out of order (first number %d)", l.outOfOrder, l.firstDisorder)
	}
	return text
}
