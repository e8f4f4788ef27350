package bench

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// group is a second set of endpoints at a rig's relay, in the same workspaces, with event types, a sink,
// producers and a judge of its own: what a phase measures is not theirs.
type group struct {
	rig       *Rig
	layout    *Layout
	sink      *Sink
	judge     *Judge
	producers *Producers
}

// newGroup makes so many endpoints in each of the rig's first workspaces. All of them are behind one
// door, where the plan has a line of FaultRefuse for all.
func (r *Rig) newGroup(ctx context.Context, endpoints, perWorkspace int, types []string, plan Plan) (g *group, err error) {
	g = &group{rig: r}
	if g.layout, err = NewLayout("", endpoints, perWorkspace, false, types); err != nil {
		return nil, err
	}
	if len(g.layout.Workspaces) > len(r.Layout.Workspaces) {
		return nil, fmt.Errorf("make a group of %d endpoints: there are only %d workspaces", endpoints, len(r.Layout.Workspaces))
	}
	for i := range g.layout.Workspaces {
		g.layout.Workspaces[i].ID = r.Layout.Workspaces[i].ID
	}
	if g.sink, err = NewSink(SinkConfig{Endpoints: endpoints, Plan: plan, Host: r.Sink.cfg.Host}); err != nil {
		return nil, err
	}
	if err := r.Relay.Create(ctx, g.layout, g.sink); err != nil {
		g.sink.Close()
		return nil, fmt.Errorf("make endpoints: %w", err)
	}
	tracks, crews := g.layout.Tracks(producersFor(len(g.layout.Workspaces), 4), r.Templates)
	g.judge = NewJudge(g.layout, tracks)
	g.sink.Judged(g.judge)
	g.producers = NewProducers(LoadConfig{
		Address: r.Relay.Address, TLS: r.Relay.TLS, Dialect: RelayDialect(g.layout, r.Relay.Key, r.cfg.Batch),
		Crews: crews, Size: r.Templates.Size, Batch: r.cfg.Batch, Arrived: g.judge.Arrived,
	})
	return g, nil
}

func (g *group) endpoints() int { return len(g.layout.Endpoints) }

func (g *group) close() {
	g.producers.Close()
	g.sink.Close()
}

// send sends so many events a second until stop is called, whose error is what went wrong.
func (g *group) send(ctx context.Context, perSecond float64) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	posts := perSecond / float64(g.rig.cfg.Batch)
	over := max(500*time.Millisecond, time.Duration(2/posts*float64(time.Second)))
	var err error
	var wg sync.WaitGroup
	wg.Go(func() {
		for err == nil && ctx.Err() == nil {
			_, err = g.producers.Open(ctx, Constant(posts, over))
			pause(ctx, 0)
		}
	})
	return func() error {
		cancel()
		wg.Wait()
		return err
	}
}

// enable enables the endpoints, or disables them, so that their events are held.
func (g *group) enable(ctx context.Context, yes bool) error {
	return g.rig.Relay.Enable(ctx, g.layout, yes)
}

// shut has the group's door shut, after what is on its way has been answered.
func (g *group) shut() { g.sink.shutAll() }

// open mends the group's sink: it answers all that comes.
func (g *group) open() error { return g.sink.openAll() }

// drain waits until everything that was taken for the group has come, or nothing comes any more.
func (g *group) drain(ctx context.Context) error {
	stop := g.rig.run.Terminal.Watch(func() string {
		return fmt.Sprintf("%s of the others' events outstanding", count(g.judge.Expected()-g.judge.Arrived()))
	})
	defer stop()
	last, since := int64(-1), time.Now()
	for arrived := g.judge.Arrived(); arrived < g.judge.Expected() && time.Since(since) < g.rig.cfg.Patience; arrived = g.judge.Arrived() {
		if arrived != last {
			last, since = arrived, time.Now()
		}
		if !pause(ctx, 5*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// judged adds what became of the group's events to the run's result.
func (g *group) judged(out *Result) {
	j, seen := g.judge.Judge(), g.sink.Report()
	out.Lost, out.Duplicated, out.OutOfOrder = out.Lost+j.Lost, out.Duplicated+j.Duplicated, out.OutOfOrder+j.OutOfOrder
	out.Verdict.judge(j, seen)
	out.Figures["group_judgement"], out.Figures["group_sink"] = j, seen
}

// shutAll has every door of the sink shut, after what is on its way has been answered.
func (s *Sink) shutAll() {
	s.Follow(s.cfg.Plan.now())
	s.wait(50 * time.Millisecond)
	for _, d := range s.doors {
		d.shut()
	}
}

// openAll ends every fault.
func (s *Sink) openAll() error {
	s.Follow(nil)
	for _, d := range s.doors {
		if err := d.open(); err != nil {
			return err
		}
	}
	return nil
}

// now is the plan with all its faults there from the start on.
func (p Plan) now() Plan {
	all := make(Plan, len(p))
	for i, f := range p {
		f.From, f.To = 0, 0
		all[i] = f
	}
	return all
}

// Enable enables the endpoints of a layout, or disables them, so that their events are held.
func (r *Relay) Enable(ctx context.Context, l *Layout, yes bool) error {
	action := map[bool]string{true: "/enable", false: "/disable"}[yes]
	return inParallel(ctx, len(l.Endpoints), func(i int) error {
		e := &l.Endpoints[i]
		return r.call("POST", "/v1/workspaces/"+l.Workspaces[e.Workspace].ID+"/endpoints/"+e.ID+action, nil, nil)
	})
}
