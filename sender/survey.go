package sender

import (
	"cmp"
	"slices"
	"time"
)

// workspaceLabels bounds the workspaces that have series of their own; the rest are summed.
const (
	workspaceLabels = 1000
	otherWorkspaces = "other"
)

// laneState is what a lane does at the moment.
type laneState uint8

const (
	laneIdle    laneState = iota // nothing to do
	laneActive                   // hands events over, or asks the store for them
	laneWaiting                  // for the next attempt of its head
	laneHeld                     // until its endpoint is enabled
	laneStates
)

var laneStateNames = [laneStates]string{"idle", "active", "waiting", "held"}

// laneSurvey is what all lanes hold at a moment.
type laneSurvey struct {
	states     [laneStates]int
	all        waiting
	workspaces map[string]*waiting // those with a backlog; the target knows the workspace
}

// waiting is what a workspace, or all of them, have to wait for.
type waiting struct {
	workspace string
	backlog   uint64
	age       time.Duration // of the oldest head that is known
}

func (w *waiting) add(more waiting) {
	w.backlog += more.backlog
	w.age = max(w.age, more.age)
}

// ofWorkspace is a Target that belongs to a workspace.
type ofWorkspace interface{ ofWorkspace() string }

func (d *delivery) ofWorkspace() string { return d.workspace }

// surveyLanes looks at every lane once; BenchmarkSurveyLanes says how long that takes.
func (d *Dispatcher) surveyLanes(now time.Time) laneSurvey {
	s := laneSurvey{workspaces: make(map[string]*waiting)}
	var lanes []*lane
	for _, shard := range d.shards {
		lanes = shard.appendLanes(lanes[:0])
		for _, l := range lanes {
			s.add(l, now)
		}
	}
	return s
}

// appendLanes is all with a buffer to use again.
func (s *shard) appendLanes(lanes []*lane) []*lane {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range s.lanes {
		lanes = append(lanes, l)
	}
	return lanes
}

func (s *laneSurvey) add(l *lane, now time.Time) {
	state, w, t := l.stand(now)
	s.states[state]++
	if w.backlog == 0 {
		return
	}
	s.all.add(w)
	owned, ok := t.(ofWorkspace)
	if !ok {
		return
	}
	name := owned.ofWorkspace()
	sum := s.workspaces[name]
	if sum == nil {
		sum = &waiting{workspace: name}
		s.workspaces[name] = sum
	}
	sum.add(w)
}

// stand is where the lane is.
func (l *lane) stand(now time.Time) (laneState, waiting, Target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var w waiting
	if w.backlog = l.waits(); w.backlog > 0 && !l.headAt.IsZero() {
		w.age = max(now.Sub(l.headAt), 0)
	}
	state := laneIdle
	switch {
	case l.mode == Held:
		state = laneHeld
	case l.mode != Open:
	case !l.due.IsZero():
		state = laneWaiting
	case l.active || w.backlog > 0:
		state = laneActive
	}
	return state, w, l.target
}

// bounded gives at most n workspaces, those with the most events waiting, and the sum of the others.
// A workspace that is named as the sum is falls under it.
func (s *laneSurvey) bounded(n int) (named []*waiting, other waiting) {
	for name, w := range s.workspaces {
		if name == otherWorkspaces {
			other.add(*w)
		} else {
			named = append(named, w)
		}
	}
	slices.SortFunc(named, func(a, b *waiting) int {
		return cmp.Or(cmp.Compare(b.backlog, a.backlog), cmp.Compare(a.workspace, b.workspace))
	})
	for len(named) > n {
		last := len(named) - 1
		other.add(*named[last])
		named = named[:last]
	}
	return named, other
}

// countDiscarded counts what waits in a lane that settles it unseen, or ends. The lock is held.
func (l *lane) countDiscarded() {
	if n := l.waits(); n > 0 {
		l.shard.d.cfg.Metrics.discarded.Add(float64(n))
	}
}

// waits is how many events the lane has to hand over. The lock is held.
func (l *lane) waits() uint64 {
	if l.tail <= l.settled {
		return 0
	}
	return max(l.backlog, 1)
}
