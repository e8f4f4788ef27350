package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Scenario is one thing that the bench can find out.
type Scenario struct {
	// Name is what the command line calls it.
	Name string
	// Summary is one line about it, Explain a few more: what is done, what the figures mean.
	Summary, Explain string
	// Defaults are the options that the command line leaves open.
	Defaults Options
	// Check refuses options that make no sense for it, as a UsageError. Default: those of a relay, which
	// needs --admin-key with --target.
	Check func(Options) error
	// Run does it. The error is for what kept it from finding out; what it found to be wrong is in
	// the result's verdict.
	Run func(ctx context.Context, r *Run) (*Result, error)
}

// Scenarios lists them all.
func Scenarios() []Scenario {
	return []Scenario{
		relayScenario(),
		latencyScenario(),
		receiverScenario(),
		endpointScenario(),
		fanoutScenario(),
		isolationScenario(),
		outageScenario(),
		crashScenario(),
		backlogScenario(),
		idleScenario(),
		soakScenario(),
	}
}

// Find gives the scenario of a name. The error is a UsageError.
func Find(name string) (Scenario, error) {
	var names []string
	for _, s := range Scenarios() {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return Scenario{}, UsageError(fmt.Sprintf("there is no scenario %q; there are %s, and list explains them", name, strings.Join(names, ", ")))
}

// Options are what the command line says of a run. What is 0 or empty is left to the scenario.
type Options struct {
	// Duration is that of a measured phase.
	Duration time.Duration
	// Endpoints is how many there are.
	Endpoints int
	// Rate makes the load an open loop of so many events a second.
	Rate float64
	// Payload is the size of an event in bytes, Batch how many a post has.
	Payload, Batch int
	// Target is the URL of a running relay in place of one that the bench starts, AdminKey its key.
	Target, AdminKey string
	// SigningKey, MaxRate and ConfirmRemote are for the scenario endpoint: the key that its target
	// verifies with, the most events a second, and that load on another machine is wanted.
	SigningKey    string
	MaxRate       float64
	ConfirmRemote bool
}

// Bounds of the options.
const (
	maxEndpoints = 100_000
	maxDuration  = 24 * time.Hour
	maxPayload   = 1 << 20
	maxBatch     = 10_000
	maxPost      = 16 << 20
)

// usual are the options that neither the command line nor the scenario has a say about.
var usual = Options{Duration: 10 * time.Second, Payload: 1024, Batch: 100}

// or fills in what is left open.
func (o Options) or(defaults Options) Options {
	return Options{
		Duration: first(o.Duration, defaults.Duration), Endpoints: first(o.Endpoints, defaults.Endpoints),
		Rate: first(o.Rate, defaults.Rate), Payload: first(o.Payload, defaults.Payload), Batch: first(o.Batch, defaults.Batch),
		Target: first(o.Target, defaults.Target), AdminKey: first(o.AdminKey, defaults.AdminKey),
		SigningKey: first(o.SigningKey, defaults.SigningKey), MaxRate: first(o.MaxRate, defaults.MaxRate),
		ConfirmRemote: o.ConfirmRemote || defaults.ConfirmRemote,
	}
}

func first[T comparable](a, b T) T {
	var none T
	if a != none {
		return a
	}
	return b
}

// Validate gives a UsageError that names the flag.
func (o Options) Validate() error {
	bad := func(format string, args ...any) error { return UsageError(fmt.Sprintf(format, args...)) }
	switch {
	case o.Duration < 100*time.Millisecond || o.Duration > maxDuration:
		return bad("--duration must be 100ms to %s", maxDuration)
	case o.Endpoints < 0 || o.Endpoints > maxEndpoints:
		return bad("--endpoints must be 0 to %d", maxEndpoints)
	case o.Rate < 0 || o.Rate > 1e7:
		return bad("--rate must be 0 to 10000000 events a second")
	case o.Payload < MinPayload || o.Payload > maxPayload:
		return bad("--payload must be %d to %d bytes", MinPayload, maxPayload)
	case o.Batch < 1 || o.Batch > maxBatch:
		return bad("--batch must be 1 to %d", maxBatch)
	case o.Batch*(o.Payload+1) > maxPost:
		return bad("--batch times --payload must be at most %d bytes", maxPost)
	case o.Rate > 0 && o.Rate*o.Duration.Seconds() < float64(o.Batch):
		return bad("--rate times --duration must be at least one post of --batch events")
	case o.MaxRate < 0 || o.MaxRate > 1e7:
		return bad("--max-rate must be 0 to 10000000 events a second")
	}
	return nil
}

// targetsRelay is the check of the scenarios that have none of their own.
func targetsRelay(o Options) error {
	if o.Target == "" {
		return nil
	}
	if o.AdminKey == "" {
		return UsageError("--target needs --admin-key")
	}
	if _, err := TargetRelay(o.Target, o.AdminKey); err != nil {
		return UsageError(err.Error())
	}
	return nil
}

// UsageError is a wrong use of the command.
type UsageError string

func (e UsageError) Error() string { return string(e) }

// Config is a run as the command line asks for it.
type Config struct {
	Scenario string
	Options  Options
	// Binary is the path of the program to start: the bench's own.
	Binary  string
	Version string
	// Terminal shows how far the run is.
	Terminal *Terminal
}

// Run is a scenario's surroundings.
type Run struct {
	Options  Options
	Binary   string
	Version  string
	Terminal *Terminal
	// Dir is a folder that is removed at the end.
	Dir      string
	scenario string
	rigs     int
	records  records
}

// Start runs a scenario and cleans up after it, whatever happens. A UsageError says that the options
// make no sense.
func Start(ctx context.Context, c Config) (result *Result, err error) {
	scenario, err := Find(c.Scenario)
	if err != nil {
		return nil, err
	}
	options := c.Options.or(scenario.Defaults).or(usual)
	if err := options.Validate(); err != nil {
		return nil, err
	}
	check := scenario.Check
	if check == nil {
		check = targetsRelay
	}
	if err := check(options); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "staffetta-bench-")
	if err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	run := &Run{
		Options: options, Binary: c.Binary, Version: c.Version, Terminal: c.Terminal, Dir: dir, scenario: scenario.Name,
		records: records{phases: []Record{}, floors: []Floor{}},
	}
	result, err = scenario.Run(ctx, run)
	if ctx.Err() != nil {
		return nil, errors.New("interrupted before there was a result")
	}
	if result != nil {
		result.Format, result.Phases, result.Floors = Format, run.records.phases, run.records.floors
	}
	return result, err
}

// NewResult makes a result that is well so far.
func (r *Run) NewResult() *Result {
	target, _, _ := strings.Cut(r.Options.Target, "?") // what follows may be a secret
	return &Result{
		Scenario: r.scenario, Version: r.Version, Machine: machine(), Verdict: Verdict{OK: true, Reasons: []string{}},
		Figures: map[string]any{"options": map[string]any{
			"duration_s": r.Options.Duration.Seconds(), "endpoints": r.Options.Endpoints, "rate": r.Options.Rate,
			"payload": r.Options.Payload, "batch": r.Options.Batch, "target": target,
		}},
	}
}

// Explain lists the scenarios for people.
func Explain() string {
	var b strings.Builder
	for i, s := range Scenarios() {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s: %s\n", s.Name, s.Summary)
		for line := range strings.Lines(strings.TrimSpace(s.Explain)) {
			fmt.Fprintf(&b, "  %s", line)
		}
		b.WriteByte('\n')
		d := s.Defaults.or(usual)
		list := []string{fmt.Sprintf("--duration %s", d.Duration), fmt.Sprintf("--payload %d", d.Payload), fmt.Sprintf("--batch %d", d.Batch)}
		if d.Endpoints > 0 {
			list = slices.Insert(list, 1, fmt.Sprintf("--endpoints %d", d.Endpoints))
		}
		fmt.Fprintf(&b, "  Unless told otherwise: %s\n", strings.Join(list, " "))
	}
	return b.String()
}
