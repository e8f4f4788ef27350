package bench

import (
	"context"
	"fmt"
	"time"
)

// turns are the rounds of a program and of its floor, in turn: a floor before each round and one after the
// last. The machine's speed moves within seconds, and so both see the same of it.
type turns struct {
	rounds       int
	round, floor time.Duration // how long each is
}

// The bounds of turns. A floor is half as long as a round, for there is one more of it and it is the steadier.
const (
	leastRounds, mostRounds = 2, 12
	usualRound              = 750 * time.Millisecond
	leastFloor, mostFloor   = 100 * time.Millisecond, 500 * time.Millisecond
)

// turnsOf divides a phase.
func turnsOf(d time.Duration) turns {
	n := min(max(int(d/usualRound), leastRounds), mostRounds)
	round := d / time.Duration(n)
	return turns{rounds: n, round: round, floor: min(max(round/2, leastFloor), mostFloor)}
}

// inTurns measures a closed loop of the rig's and the bare server in turn; proxy is kept with each floor. Of the
// rounds comes a phase as if they had been one, and of each the part of the bare server's rate right before and
// after that it answered at.
func (r *Rig) inTurns(ctx context.Context, bare *bareServer, proxy float64) (full *Phase, floor float64, ratios []float64, err error) {
	t := turnsOf(r.run.Options.Duration)
	if _, err := bare.load(ctx, 0, t.floor); err != nil { // its warm-up
		return nil, 0, nil, err
	}
	var accepted int64
	var took time.Duration
	var rates []float64
	var rounds []*Phase
	for {
		load, err := bare.load(ctx, 0, t.floor)
		if err != nil {
			return nil, 0, nil, err
		}
		accepted, took = accepted+load.Accepted, took+load.Took
		rates = append(rates, perSecond(load.Accepted, load.Took))
		r.run.recordFloors(r.name(), Floors{Direct: rates[len(rates)-1], Proxy: proxy})
		if len(rounds) == t.rounds {
			break
		}
		p, err := r.measure(ctx, fmt.Sprintf("%s %d of %d", closedLoop, len(rounds)+1, t.rounds),
			func(ctx context.Context) (*Load, error) { return r.Producers.Closed(ctx, t.round) })
		if err != nil {
			return nil, 0, nil, err
		}
		rounds = append(rounds, p)
	}
	for i, p := range rounds {
		ratios = append(ratios, ratio(perSecond(p.Load.Accepted, p.Load.Took), (rates[i]+rates[i+1])/2))
	}
	full = joined(rounds)
	r.run.recordPhase(r.name(), closedLoop, full)
	return full, perSecond(accepted, took), ratios, nil
}

// joined is one phase of several that were measured with something else between, which is left out of it. Its
// Load.Took is the time of the loads alone; Answered and the timeline have what was drained between them, too.
func joined(rounds []*Phase) *Phase {
	all := &Phase{Drained: true, Used: Usage{Known: true}, Load: &Load{Ack: NewHistogram(), Late: NewHistogram()}, Measure: &Measure{latency: NewHistogram()}}
	var at Sample // the end of the rounds before
	for _, p := range rounds {
		all.Load.add(p.Load)
		all.Measure.add(p.Measure)
		all.Answered = time.Duration(at.AtS*float64(time.Second)) + p.Answered
		all.Drained, all.Drain, all.Backlog = all.Drained && p.Drained, all.Drain+p.Drain, all.Backlog+p.Backlog
		all.Own += p.Own
		all.Used = Usage{CPU: all.Used.CPU + p.Used.CPU, RSS: max(all.Used.RSS, p.Used.RSS), Known: all.Used.Known && p.Used.Known}
		for _, s := range p.Timeline {
			s.AtS, s.CPUS = s.AtS+at.AtS, s.CPUS+at.CPUS
			s.Accepted, s.Delivered = s.Accepted+at.Accepted, s.Delivered+at.Delivered
			all.Timeline = append(all.Timeline, s)
		}
		if n := len(all.Timeline); n > 0 {
			at = all.Timeline[n-1]
		}
	}
	return all
}

// add counts what another load did, too. Neither may run.
func (l *Load) add(other *Load) {
	l.Offered, l.Accepted, l.Unsent, l.Failed = l.Offered+other.Offered, l.Accepted+other.Accepted, l.Unsent+other.Unsent, l.Failed+other.Failed
	l.Problems = append(l.Problems, other.Problems...)
	l.Ack.add(other.Ack)
	l.Late.add(other.Late)
	l.Took += other.Took
}

// add counts what came in another stretch of time, too, as if it had followed at once. Neither may run.
func (m *Measure) add(other *Measure) {
	m.delivered.Add(other.Delivered())
	m.last.Add(int64(other.Took())) // from is 0: what matters is the difference
	m.latency.add(other.latency)
}
