package main

import "time"

// How a run of the relay ended.
type ending uint8

const (
	killed  ending = iota // by SIGKILL
	stopped               // by SIGTERM
)

// crashRun is one run of the relay, in times since the world began.
type crashRun struct {
	started, ended time.Duration
	ready          time.Duration // how long its start took; 0 for one that was killed before
	ending         ending
}

// crashJudge goes through what came to one endpoint after another. The order of the first arrivals is the
// endpoint's order; whatever else came must fit in: an attempt is followed by the next attempt of the
// same event or, once that was accepted, by the next event. Only where a run of the relay follows
// another may it go back, and never further than to what was accepted in the last moments before a kill.
type crashJudge struct {
	w      *crashWorld
	runs   []crashRun
	stalls *stalls

	repeats     int
	oldest      time.Duration // how long before the kill the event of a repeat was accepted at most
	oldestAwake time.Duration // and the same without the stalls
	perKill     map[int]int   // repeats of all endpoints together, by the run that was killed
	mostAtOnce  int           // repeats of one endpoint after one kill
}

// standing is where an endpoint stands while its arrivals are gone through.
type standing struct {
	endpoint int
	place    map[numbered]int
	events   []eventStanding
	due      []uint32 // per producer, the event that must come next
	last     *crashArrival
	lastRun  int
	lastAt   int // place of the last arrival's event
	perKill  map[int]int
}

type eventStanding struct {
	failed   int
	accepted bool
	at       time.Duration // when it was accepted last
	run      int           // and in which run
}

func (j *crashJudge) all() {
	j.perKill = make(map[int]int)
	for _, e := range j.w.endpoints {
		j.endpoint(e)
	}
}

func (j *crashJudge) endpoint(e *crashEndpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &standing{
		endpoint: e.n, place: make(map[numbered]int), due: make([]uint32, len(j.w.producers)),
		lastRun: -1, lastAt: -1, perKill: make(map[int]int),
	}
	for p := range s.due {
		s.due[p] = nextWanted(e.n, uint8(p), 0)
	}
	for i := range e.arrivals {
		j.arrival(s, &e.arrivals[i])
	}
	for p, due := range s.due {
		if due < j.w.producers[p].accepted.Load() {
			j.w.fault("endpoint %d: event %v was accepted and never arrived", e.n, numbered{uint8(p), due})
		}
	}
	for event, at := range s.place {
		if !s.events[at].accepted {
			j.w.fault("endpoint %d: event %v was tried %d times and then lost", e.n, event, s.events[at].failed)
		}
	}
	for run, n := range s.perKill {
		j.perKill[run] += n
		j.mostAtOnce = max(j.mostAtOnce, n)
	}
}

// nextWanted is the first event of a producer, from seq on, that an endpoint has subscribed to.
func nextWanted(endpoint int, producer uint8, seq uint32) uint32 {
	for !crashWants(endpoint, numbered{producer, seq}.kind()) {
		seq++
	}
	return seq
}

// runOf is the run that made a connection: a run connects long after it was started.
func (j *crashJudge) runOf(a *crashArrival) int {
	run := 0
	for run+1 < len(j.runs) && a.conn > j.runs[run+1].started {
		run++
	}
	return run
}

func (j *crashJudge) arrival(s *standing, a *crashArrival) {
	at, known := s.place[a.event]
	if !known {
		if due := s.due[a.event.producer]; a.event.seq != due {
			j.w.fault("endpoint %d: event %v came while %d was due", s.endpoint, a.event, due)
		}
		s.due[a.event.producer] = nextWanted(s.endpoint, a.event.producer, a.event.seq+1)
		at = len(s.events)
		s.place[a.event] = at
		s.events = append(s.events, eventStanding{})
	}
	run := j.runOf(a)
	if run == s.lastRun {
		j.sameRun(s, a, at)
	} else {
		j.nextRun(s, a, at)
	}
	if s.last != nil && !s.last.ok && at == s.lastAt && a.attempt == s.last.attempt+1 {
		if gap := a.began - s.last.ended; gap < crashRetry[s.last.attempt-1]-2*time.Millisecond {
			j.w.fault("endpoint %d: attempt %d of %v came %v after the one before", s.endpoint, a.attempt, a.event, gap)
		}
	}
	e := &s.events[at]
	if e.accepted {
		j.repeat(s, e, a)
	}
	if a.ok {
		e.accepted, e.at, e.run = true, a.ended, run
	} else {
		e.failed++
	}
	s.last, s.lastRun, s.lastAt = a, run, at
}

// sameRun judges an arrival that follows one of the same run.
func (j *crashJudge) sameRun(s *standing, a *crashArrival, at int) {
	wantAt, wantAttempt := s.lastAt, s.last.attempt+1
	if s.last.ok {
		wantAt, wantAttempt = s.lastAt+1, 1
	}
	switch {
	case at != wantAt:
		j.w.fault("endpoint %d: %v (place %d) came %d ms after %v (place %d, accepted %t) in the same run",
			s.endpoint, a.event, at, (a.began - s.last.ended).Milliseconds(), s.last.event, s.lastAt, s.last.ok)
	case a.attempt != wantAttempt:
		j.w.fault("endpoint %d: %v came as attempt %d, but %d was due", s.endpoint, a.event, a.attempt, wantAttempt)
	case a.began < s.last.ended:
		j.w.fault("endpoint %d: %v came before %v was answered", s.endpoint, a.event, s.last.event)
	}
}

// nextRun judges the first arrival of a run.
func (j *crashJudge) nextRun(s *standing, a *crashArrival, at int) {
	if s.last == nil {
		return
	}
	furthest := s.lastAt
	if s.last.ok {
		furthest++
	}
	if at > furthest {
		j.w.fault("endpoint %d: after a restart %v (place %d) came, but place %d was due", s.endpoint, a.event, at, furthest)
	}
	if int(a.attempt) > s.events[at].failed+1 {
		j.w.fault("endpoint %d: %v came as attempt %d after %d failures", s.endpoint, a.event, a.attempt, s.events[at].failed)
	}
	// A failure is on record at once, so a schedule goes on where it was.
	before := &j.runs[s.lastRun]
	onRecord := before.ending == stopped || j.awake(s.last.ended, before.ended) > crashSpan+crashSlack
	if at == s.lastAt && !s.last.ok && onRecord && a.attempt != s.last.attempt+1 {
		j.w.fault("endpoint %d: %v came as attempt %d after a restart, but %d was due", s.endpoint, a.event, a.attempt, s.last.attempt+1)
	}
}

// repeat judges the arrival of an event that was accepted before.
func (j *crashJudge) repeat(s *standing, e *eventStanding, a *crashArrival) {
	before := &j.runs[e.run]
	age := before.ended - e.at
	if before.ending == stopped {
		j.w.fault("endpoint %d: %v was accepted %v before a stop and came again after it", s.endpoint, a.event, age)
		return
	}
	awake := j.awake(e.at, before.ended)
	if awake > crashSpan+crashSlack || age > 20*crashSpan {
		j.w.fault("endpoint %d: %v was accepted %v (%v without stalls) before a kill and came again after it", s.endpoint, a.event, age, awake)
	}
	j.repeats++
	j.oldest, j.oldestAwake = max(j.oldest, age), max(j.oldestAwake, awake)
	s.perKill[e.run]++
}

// awake is the length of a stretch of time without the stalls in it.
func (j *crashJudge) awake(from, to time.Duration) time.Duration {
	return to - from - j.stalls.between(j.w.began.Add(from), j.w.began.Add(to))
}
