package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/staffetta-relay/staffetta"
)

// What a rig has unless its config says otherwise.
const (
	// Connections is how many producers there are at most, a connection each.
	Connections = 32
	// PerWorkspace is how many endpoints share a workspace: what a platform's customer has.
	PerWorkspace = 10
	// Patience is how long nothing may arrive before what has not come is lost.
	Patience = 10 * time.Second
)

// RigConfig says what is to be set up. The zero value takes everything from the run's options.
type RigConfig struct {
	// Endpoints, PerWorkspace and Fan are the layout's. Defaults: the options' and PerWorkspace.
	Endpoints, PerWorkspace int
	Fan                     bool
	// Types are the event types that the endpoints share. Default: all.
	Types []string
	// Plan is the faults of the endpoints.
	Plan Plan
	// Batch is how many events a post has. Default: the options'.
	Batch int
	// Connections is how many producers there are; a few less where that serves all workspaces alike.
	// Default: Connections.
	Connections int
	// Window bounds what a closed loop leaves undelivered. Default: four posts of every producer, and
	// at least 1,000 events. Negative: without a bound.
	Window int
	// Patience is how long a drain waits for the next arrival; longer than the gaps between the
	// attempts, where there are faults. Default: Patience.
	Patience time.Duration
	// Flags are the relay's, beside those that the bench sets.
	Flags []string
	// Sequential says that the sequential floor is measured with the others: it is the limit where the rig
	// has one endpoint, and says nothing elsewhere.
	Sequential bool
	// MayDie says that the scenario ends the relay itself.
	MayDie bool
}

// Rig is a running program with endpoints at one side and producers at the other.
type Rig struct {
	Relay     *Relay // nil where the scenario measures something else
	Sink      *Sink
	Layout    *Layout
	Templates *Templates
	Tracks    []*Track
	Judge     *Judge
	Producers *Producers
	// Beside are further programs that the scenario has started: what they take counts with the
	// relay's, a phase fails when one ends, and Close stops them.
	Beside []*Program

	run    *Run
	cfg    RigConfig
	label  string // what reports call it; empty: by its endpoints
	dir    string
	remove bool // the workspaces are to be deleted

	mu   sync.Mutex // holds Relay while it is replaced
	past []*Program // the relays that were ended and replaced
}

// NewRig starts a relay, or takes the target, with a sink, and makes workspaces and endpoints. Close
// ends it.
func (r *Run) NewRig(ctx context.Context, cfg RigConfig) (rig *Rig, err error) {
	cfg = r.fillIn(cfg)
	r.rigs++
	rig = &Rig{run: r, cfg: cfg, dir: filepath.Join(r.Dir, fmt.Sprintf("relay-%d", r.rigs))}
	defer func() {
		if err != nil {
			_ = rig.Close() // the first error says more
			rig = nil
		}
	}()
	if rig.Templates, err = NewTemplates(r.Options.Payload); err != nil {
		return rig, err
	}
	prefix := "bench-"
	if r.Options.Target != "" {
		prefix += uuid.NewString()[:8] + "-"
	}
	if cfg.Types == nil {
		cfg.Types = rig.Templates.Types()
	}
	if rig.Layout, err = NewLayout(prefix, cfg.Endpoints, cfg.PerWorkspace, cfg.Fan, cfg.Types); err != nil {
		return rig, err
	}
	if err = rig.startRelay(ctx); err != nil {
		return rig, err
	}
	host, err := sinkHost(rig.Relay.Address)
	if err != nil {
		return rig, err
	}
	if rig.Sink, err = NewSink(SinkConfig{Endpoints: cfg.Endpoints, Plan: cfg.Plan, Host: host}); err != nil {
		return rig, err
	}
	stop := r.Terminal.Watch(func() string {
		return fmt.Sprintf("making %s endpoints in %s workspaces", count(cfg.Endpoints), count(len(rig.Layout.Workspaces)))
	})
	defer stop()
	rig.remove = r.Options.Target != ""
	if err = rig.Relay.Create(ctx, rig.Layout, rig.Sink); err != nil {
		return rig, fmt.Errorf("make endpoints: %w", err)
	}
	rig.Produce(rig.Relay.Address, rig.Relay.TLS, RelayDialect(rig.Layout, rig.Relay.Key, cfg.Batch))
	return rig, nil
}

func (r *Run) fillIn(cfg RigConfig) RigConfig {
	cfg.Endpoints = max(1, first(cfg.Endpoints, r.Options.Endpoints))
	cfg.PerWorkspace = first(cfg.PerWorkspace, PerWorkspace)
	cfg.Batch = first(cfg.Batch, r.Options.Batch)
	cfg.Connections = first(cfg.Connections, Connections)
	cfg.Window = max(0, first(cfg.Window, max(1000, 4*cfg.Connections*cfg.Batch)))
	cfg.Patience = first(cfg.Patience, Patience)
	return cfg
}

func (r *Rig) startRelay(ctx context.Context) (err error) {
	if target := r.run.Options.Target; target != "" {
		r.Relay, err = TargetRelay(target, r.run.Options.AdminKey)
		return err
	}
	r.Relay, err = StartRelay(ctx, r.run.Binary, r.dir, "", first(r.run.Options.AdminKey, staffetta.NewSigningKey()), r.cfg.Flags...)
	return err
}

// RestartRelay starts the relay anew on its data and address, after the scenario has ended it.
func (r *Rig) RestartRelay(ctx context.Context, flags ...string) error {
	relay, err := StartRelay(ctx, r.run.Binary, r.dir, r.Relay.Address, r.Relay.Key, slices.Concat(r.cfg.Flags, flags)...)
	if err == nil {
		r.mu.Lock()
		r.past = append(r.past, r.Relay.Program)
		r.Relay = relay
		r.mu.Unlock()
	}
	return err
}

// sinkHost is where the sink listens: the loopback, unless the program is on another machine.
func sinkHost(address string) (string, error) {
	host, _, err := net.SplitHostPort(address)
	if ip, bad := netip.ParseAddr(host); err == nil && (host == "localhost" || bad == nil && ip.IsLoopback()) {
		return "127.0.0.1", nil
	}
	c, err := net.Dial("udp", address) // sends nothing: it finds out which address of ours leads there
	if err != nil {
		return "", fmt.Errorf("find the way to the target: %w", err)
	}
	host, _, err = net.SplitHostPort(c.LocalAddr().String())
	return host, errors.Join(err, c.Close())
}

// Produce makes the tracks, their judge, and the producers, which send to an address in its dialect.
func (r *Rig) Produce(address string, tls bool, d Dialect) {
	var crews [][]*crew
	r.Tracks, crews = r.Layout.Tracks(producersFor(len(r.Layout.Workspaces), r.cfg.Connections), r.Templates)
	r.Judge = NewJudge(r.Layout, r.Tracks)
	r.Producers = NewProducers(LoadConfig{
		Address: address, TLS: tls, Dialect: d,
		Crews: crews, Size: r.Templates.Size, Batch: r.cfg.Batch, Window: r.cfg.Window, Arrived: r.Judge.Arrived,
	})
}

// Settle ends the programs where the system tells what a process took only then. Call it after the last
// phase and before Result.
func (r *Rig) Settle() error {
	if usageWhileRunning {
		return nil
	}
	return r.stopPrograms()
}

// programs are all that the bench has started.
func (r *Rig) programs() (list []*Program) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Relay != nil && r.Relay.Program != nil {
		list = append(list, r.Relay.Program)
	}
	return append(list, r.Beside...)
}

func (r *Rig) stopPrograms() (err error) {
	for _, p := range r.programs() {
		err = errors.Join(err, p.Stop())
	}
	return err
}

// Close ends the producers, the relay and the sink, in that order.
func (r *Rig) Close() (err error) {
	if r.Producers != nil {
		r.Producers.Close()
	}
	if r.remove {
		err = r.Relay.Remove(r.Layout)
	}
	if r.Relay != nil {
		r.Relay.client.CloseIdleConnections()
	}
	err = errors.Join(err, r.stopPrograms())
	if r.Sink != nil {
		r.Sink.Close()
	}
	return err
}

// Floors measures the floors with the rig's sink, for a quarter of a phase each, at most 2 s.
func (r *Rig) Floors(ctx context.Context) (Floors, error) {
	d := min(max(r.run.Options.Duration/4, 250*time.Millisecond), 2*time.Second)
	stop := r.run.Terminal.Watch(func() string { return "measuring the floors" })
	defer stop()
	f, err := MeasureFloors(ctx, r.Sink, r.Layout, r.Templates, Connections, d)
	if err == nil && r.cfg.Sequential {
		f.Sequential, err = MeasureSequential(ctx, r.run.Binary, r.Sink, r.Layout, r.Templates, d)
	}
	r.Sink.Judged(r.Judge)
	if err == nil {
		r.run.recordFloors(r.name(), f)
	}
	return f, err
}
