package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// goodPerWorkspace is how many of a workspace's ten endpoints are well; the tenth is not.
	goodPerWorkspace = PerWorkspace - 1
	// isolationRounds is how many pairs of closed loops are measured of each kind of fault.
	isolationRounds = 5
	neverItself     = maxDuration // of a door that the scenario shuts
)

// badNeighbours are what the tenth endpoint of every workspace does; the first one stands for the run.
var badNeighbours = []Fault{
	{Kind: FaultHang},
	{Kind: FaultRefuse},
	{Kind: FaultSlow, Median: 500 * time.Millisecond, P99: time.Second},
}

func isolationScenario() Scenario {
	return Scenario{
		Name:    "isolation",
		Summary: "what the others keep of their rate and latency when 10 % of the endpoints hang, refuse or are slow",
		Explain: `
One endpoint of every workspace's ten is a bad neighbour: it hangs (takes a request and never answers), then
it refuses connections, then it takes about 500 ms each. It gets as many events as each of the others, all
the time; in every other phase it is disabled, so that its events are held and nothing is sent to it: that
is what the others have alone. Five pairs of closed loops give the rates, the order changing from pair to
pair, a pair of open loops at half the rate, or at --rate, the latencies. figures.kept is the others' rate
beside those that hang to their rate alone, the median of the pairs, figures.kinds has all kinds. Failed
attempts are repeated every tenth of --duration, so that the bad ones never rest. After each kind they are
mended and get all that is theirs: loss and order count for them as well. The JSON's common figures are
those of the others' last closed loop beside the ones that hang. --duration is that of one kind.`,
		Defaults: Options{Endpoints: 100, Batch: 20},
		Run:      runIsolation,
	}
}

// everyGap are the flags for a hundred attempts, a fixed time apart.
func everyGap(gap time.Duration) []string {
	return []string{"--retry", strings.TrimSuffix(strings.Repeat(gap.String()+",", 100), ",")}
}

func runIsolation(ctx context.Context, r *Run) (out *Result, err error) {
	bad := max(1, r.Options.Endpoints/PerWorkspace)
	if r.Options.Endpoints < 2 {
		return nil, UsageError("--endpoints must be at least 2: one of them is a bad neighbour")
	}
	templates, err := NewTemplates(r.Options.Payload)
	if err != nil {
		return nil, err
	}
	types := templates.Types()
	rig, err := r.NewRig(ctx, RigConfig{
		Endpoints: r.Options.Endpoints - bad, PerWorkspace: goodPerWorkspace, Types: types[:len(types)-1],
		Flags: everyGap(max(r.Options.Duration/10, 250*time.Millisecond)),
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	n, err := rig.newGroup(ctx, bad, 1, types[len(types)-1:], Plan{{Kind: FaultRefuse, Last: bad - 1, From: neverItself}})
	if err != nil {
		return nil, err
	}
	defer n.close()
	return rig.runIsolation(ctx, n)
}

func (r *Rig) runIsolation(ctx context.Context, n *group) (*Result, error) {
	before, err := r.Floors(ctx)
	if err != nil {
		return nil, err
	}
	warm, err := r.Phase(ctx, "warm-up", func(ctx context.Context) (*Load, error) {
		return r.Producers.Closed(ctx, max(r.run.Options.Duration/5, 200*time.Millisecond))
	})
	if err != nil {
		return nil, err
	}
	i := isolation{rig: r, bad: n, rate: perSecond(warm.Measure.Delivered(), warm.Measure.Took())}
	if i.rate == 0 {
		return nil, errNothing
	}
	for _, fault := range badNeighbours {
		fault.Last = n.endpoints() - 1
		if err := i.measure(ctx, fault); err != nil {
			return nil, fmt.Errorf("neighbours that %s: %w", fault.Kind, err)
		}
	}
	after, err := r.Floors(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.Settle(); err != nil {
		return nil, err
	}
	return i.result(r.Result(i.headline, before.mean(after))), nil
}

// isolation is the measurement of the endpoints that are well.
type isolation struct {
	rig  *Rig
	bad  *group
	rate float64 // of the good ones, about
	// headline is the last closed loop beside those that hang.
	headline *Phase
	kinds    []keptBeside
}

// keptBeside is what one kind of bad neighbours left to the others.
type keptBeside struct {
	Kind FaultKind `json:"kind"`
	// Kept is the rate beside them to the rate alone, CPU the same of the program's time for a
	// delivery; the medians of the pairs.
	Kept float64 `json:"kept"`
	CPU  float64 `json:"cpu"`
	// Alone and Beside are the rates of the pairs.
	Alone  []float64 `json:"alone_per_second"`
	Beside []float64 `json:"beside_per_second"`
	// The latencies are at Rate.
	Rate            float64   `json:"latency_rate"`
	AloneLatencyMS  Quantiles `json:"alone_latency_ms"`
	BesideLatencyMS Quantiles `json:"beside_latency_ms"`
	// Requests is how many requests came to the bad ones, Waited how many of their events waited when they
	// were mended.
	Requests int64 `json:"requests"`
	Waited   int64 `json:"waited"`
}

// measure is one kind of fault.
func (i *isolation) measure(ctx context.Context, fault Fault) error {
	k := keptBeside{Kind: fault.Kind}
	requests := i.bad.sink.Report().Requests
	d := i.rig.run.Options.Duration
	var ratios, cpu []float64
	for round := range isolationRounds {
		var rates, costs [2]float64
		for step := range 2 {
			beside := step ^ round&1
			p, err := i.phase(ctx, fault, beside == 1, func(ctx context.Context) (*Load, error) {
				return i.rig.Producers.Closed(ctx, max(d/(2*isolationRounds), 50*time.Millisecond))
			})
			if err != nil {
				return err
			}
			rates[beside] = perSecond(p.Measure.Delivered(), p.Measure.Took())
			costs[beside] = ratio(p.Used.CPU.Seconds(), float64(p.Measure.Delivered()))
			if beside == 1 && fault.Kind == badNeighbours[0].Kind {
				i.headline = p
			}
		}
		k.Alone, k.Beside = append(k.Alone, rates[0]), append(k.Beside, rates[1])
		ratios, cpu = append(ratios, ratio(rates[1], rates[0])), append(cpu, ratio(costs[1], costs[0]))
	}
	k.Kept, k.CPU = middle(ratios), middle(cpu)
	k.Rate = first(i.rig.run.Options.Rate, i.rate/2)
	for beside, q := range []*Quantiles{&k.AloneLatencyMS, &k.BesideLatencyMS} {
		p, err := i.phase(ctx, fault, beside == 1, func(ctx context.Context) (*Load, error) {
			return i.rig.Producers.Open(ctx, i.rig.Posts(Constant(k.Rate, max(d/5, 100*time.Millisecond))))
		})
		if err != nil {
			return err
		}
		*q = p.Measure.Latency().Quantiles()
	}
	k.Waited = i.bad.judge.Expected() - i.bad.judge.Arrived()
	k.Requests = i.bad.sink.Report().Requests - requests // what was refused came to nobody
	i.kinds = append(i.kinds, k)
	i.rig.run.Terminal.Say("beside neighbours with the fault %s: %.2f of the rate", k.Kind, k.Kept)
	return i.mend(ctx)
}

// phase sends to the good ones, and as much to each of the bad ones, which are disabled or are not.
func (i *isolation) phase(ctx context.Context, fault Fault, beside bool, send func(context.Context) (*Load, error)) (*Phase, error) {
	name := fmt.Sprintf("alone (the others: %s)", fault.Kind)
	i.bad.sink.Follow(Plan{fault})
	if fault.Kind == FaultRefuse {
		i.bad.shut()
	}
	if beside {
		name = fmt.Sprintf("beside %d with the fault %s", i.bad.endpoints(), fault.Kind)
	}
	if err := i.bad.enable(ctx, beside); err != nil {
		return nil, err
	}
	stop := i.bad.send(ctx, i.rate*float64(i.bad.endpoints())/float64(i.rig.cfg.Endpoints))
	p, err := i.rig.Phase(ctx, name, send)
	return p, errors.Join(err, stop())
}

// mend has the bad ones answer, and waits until they have what is theirs.
func (i *isolation) mend(ctx context.Context) error {
	if err := i.bad.enable(ctx, false); err != nil {
		return err
	}
	if err := i.bad.open(); err != nil {
		return err
	}
	if err := i.bad.enable(ctx, true); err != nil {
		return err
	}
	return i.bad.drain(ctx)
}

func (i *isolation) result(out *Result) *Result {
	i.bad.judged(out)
	out.Figures["kept"], out.Figures["kinds"] = i.kinds[0].Kept, i.kinds
	out.Figures["bad_endpoints"] = i.bad.endpoints()
	var table strings.Builder
	fmt.Fprintf(&table, "%10s %6s %6s %12s %12s %14s %14s %14s %14s\n", "NEIGHBOURS", "KEPT", "CPU", "ALONE/S", "BESIDE/S", "P50 ALONE MS", "P50 BESIDE MS", "P99 ALONE MS", "P99 BESIDE MS")
	for _, k := range i.kinds {
		fmt.Fprintf(&table, "%10s %6.2f %6.2f %12s %12s %14s %14s %14s %14s\n", k.Kind, k.Kept, k.CPU, count(middle(k.Alone)), count(middle(k.Beside)),
			ms(k.AloneLatencyMS.P50), ms(k.BesideLatencyMS.P50), ms(k.AloneLatencyMS.P99), ms(k.BesideLatencyMS.P99))
		out.Verdict.remark("beside %d of %d endpoints with the fault %s the others keep %.0f %% of their rate; the target is %.0f %%",
			i.bad.endpoints(), i.bad.endpoints()+i.rig.cfg.Endpoints, k.Kind, 100*k.Kept, 100*keptTarget)
	}
	out.Tables = append(out.Tables, table.String())
	return out
}

// middle is the median; it leaves the order alone.
func middle(of []float64) float64 {
	if len(of) == 0 {
		return 0
	}
	of = slices.Sorted(slices.Values(of))
	return (of[(len(of)-1)/2] + of[len(of)/2]) / 2
}
