package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

// receiverCase is one way to run a receiver. Target is the part of the bare server's rate that it is
// meant to reach.
type receiverCase struct {
	durability  string
	connections int
	target      float64
}

// receiverCases are what the scenario measures; the figures of the first stand for the run.
var receiverCases = []receiverCase{{"process", 64, processTarget}, {"power", 512, powerTarget}}

const (
	receiverPath = "/hooks/bench"
	// receiverContacts is how many contacts the events are of: many more than hand-overs at a time.
	receiverContacts = 1024
)

func receiverScenario() Scenario {
	return Scenario{
		Name:    "receiver",
		Summary: "how many webhooks a second a receiver stores and answers, and how fast it hands them on",
		Explain: `
Signed webhooks of 1,024 contacts, one a post, go to a receiver that hands them on to a sink: from 64
connections with --durability process, then from 512 with power, each on a receiver of its own. First a closed
loop in rounds, each until its last event has been handed over; then an open loop at half of that rate, which
the latencies are of. accepted_per_second are the answers, floor_per_second those of the same server that only
reads the body and says 200, a process of its own too, measured before, between and after the rounds; ratio is
the one to the other, round_ratios has it for each round, and bare_ack_ms are that server's times at the same
half load. delivered_per_second is the hand-over, and proxy_ratio holds it against a stateless proxy. The order
is judged for each contact. The JSON's common figures are those of process, and figures.durabilities has both.`,
		Defaults: Options{Batch: 1},
		Check:    noTarget,
		Run:      runReceiver,
	}
}

// noTarget is the check of a scenario that starts its programs itself.
func noTarget(o Options) error {
	if o.Target != "" {
		return UsageError("--target: this scenario starts its programs itself; endpoint measures any URL")
	}
	return nil
}

// receiverRow is what one case came to.
type receiverRow struct {
	Durability        string    `json:"durability"`
	Connections       int       `json:"connections"`
	AcksPerSecond     float64   `json:"acks_per_second"`
	BarePerSecond     float64   `json:"bare_per_second"`
	Ratio             float64   `json:"ratio"`
	RoundRatios       []float64 `json:"round_ratios"`
	TargetRatio       float64   `json:"target_ratio"`
	HandOverPerSecond float64   `json:"hand_over_per_second"`
	HandOverAlone     float64   `json:"hand_over_alone_per_second"`
	ProxyPerSecond    float64   `json:"proxy_per_second"`
	HalfLoad          float64   `json:"half_load"`
	Saturated         bool      `json:"saturated"`
	AckMS             Quantiles `json:"ack_ms"`
	BareAckMS         Quantiles `json:"bare_ack_ms"`
	AckMSAtFullLoad   Quantiles `json:"ack_ms_at_full_load"`
	LatencyMS         Quantiles `json:"latency_ms"`
	SendLateMS        Quantiles `json:"send_late_ms"`
	CPUSecondsPer1000 *float64  `json:"cpu_seconds_per_1000"`
	RSSMiB            *float64  `json:"rss_mib"`
}

func runReceiver(ctx context.Context, r *Run) (*Result, error) {
	var out *Result
	var rows []receiverRow
	var targets []Target
	verdict := Verdict{OK: true, Reasons: []string{}}
	for _, c := range receiverCases {
		one, row, err := r.measureReceiver(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("durability %s: %w", c.durability, err)
		}
		one.hold(receiverTargets(r.Options, row)...)
		rows, targets = append(rows, row), append(targets, one.targetsOf(c.durability)...)
		verdict.OK = verdict.OK && one.Verdict.OK
		for _, reason := range one.Verdict.Reasons {
			verdict.remark("%s: %s", c.durability, reason)
		}
		r.Terminal.Say("%s: %s/s answered, %.2f of the bare server", c.durability, count(row.AcksPerSecond), row.Ratio)
		if out == nil {
			out = one
			continue
		}
		out.Lost, out.Duplicated, out.OutOfOrder = out.Lost+one.Lost, out.Duplicated+one.Duplicated, out.OutOfOrder+one.OutOfOrder
	}
	out.Verdict = verdict
	out.noteTargets(targets)
	out.Figures["durabilities"] = rows
	out.Figures["target_ack_p99_ms"] = targetAckP99
	out.Tables = append(out.Tables, receiverTable(rows))
	return out, nil
}

func receiverTable(rows []receiverRow) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-10s %6s %9s %9s %6s %7s %11s %10s %10s %10s %11s %9s %5s\n", "DURABILITY", "CONNS", "ACKS/S", "BARE/S", "RATIO", "TARGET",
		"HAND-OVER/S", "HALF LOAD", "ACK P50 MS", "ACK P99 MS", "BARE P99 MS", "CPU/1000", "MIB")
	for _, row := range rows {
		var cpu, rss float64
		if row.CPUSecondsPer1000 != nil && row.RSSMiB != nil {
			cpu, rss = *row.CPUSecondsPer1000, *row.RSSMiB
		}
		fmt.Fprintf(&b, "%-10s %6d %9s %9s %6.2f %7.2f %11s %10s %10s %10s %11s %9.3f %5.0f\n", row.Durability, row.Connections, count(row.AcksPerSecond),
			count(row.BarePerSecond), row.Ratio, row.TargetRatio, count(row.HandOverPerSecond), count(row.HalfLoad), ms(row.AckMS.P50), ms(row.AckMS.P99), ms(row.BareAckMS.P99), cpu, rss)
	}
	fmt.Fprintf(&b, "The ratios are meant to be at least TARGET, and ACK P99 at half load below %.0f ms.\n", targetAckP99)
	return b.String()
}

// measureReceiver measures one case on a receiver of its own.
func (r *Run) measureReceiver(ctx context.Context, c receiverCase) (out *Result, row receiverRow, err error) {
	key := staffetta.NewSigningKey()
	rig, err := r.receiverRig(ctx, c, key)
	if err != nil {
		return nil, row, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	short := min(max(r.Options.Duration/4, 250*time.Millisecond), 2*time.Second)
	proxy, err := MeasureProxy(ctx, rig.Sink, rig.Layout, rig.Templates, Connections, short)
	if err != nil {
		return nil, row, err
	}
	bare, err := r.startBare(ctx, rig.Templates, c, key)
	if err != nil {
		return nil, row, err
	}
	defer func() { err = errors.Join(err, bare.close()) }()
	if err := rig.WarmUp(ctx); err != nil {
		return nil, row, err
	}
	full, floor, ratios, err := rig.inTurns(ctx, bare, proxy)
	if err != nil {
		return nil, row, err
	}
	rate := perSecond(full.Load.Accepted, full.Load.Took) / 2
	if rate == 0 {
		return nil, row, errNothing
	}
	half, err := rig.latencyAt(ctx, rate)
	if err != nil {
		return nil, row, err
	}
	bareHalf, err := bare.load(ctx, rate, short)
	if err != nil {
		return nil, row, err
	}
	if err := rig.Settle(); err != nil {
		return nil, row, err
	}
	out, row = c.result(rig, full, half, Floors{Direct: floor, Proxy: proxy})
	row.BareAckMS, row.RoundRatios = bareHalf.Ack.Quantiles(), ratios
	return out, row, nil
}

// result puts the two phases into the contract's form: counts and rates of the full load, times of the
// half one.
func (c receiverCase) result(rig *Rig, full, half *Phase, floors Floors) (*Result, receiverRow) {
	out := rig.Result(full, floors)
	acks := out.AcceptedPerSecond
	out.Ratio = ratio(acks, floors.Direct)
	row := receiverRow{
		Durability: c.durability, Connections: c.connections, AcksPerSecond: acks, BarePerSecond: floors.Direct, Ratio: out.Ratio,
		TargetRatio: c.target, HandOverPerSecond: out.DeliveredPerSecond, HandOverAlone: perSecond(full.Backlog, full.Drain),
		ProxyPerSecond: floors.Proxy, HalfLoad: acks / 2, Saturated: half.Load.Saturated(), AckMS: half.Load.Ack.Quantiles(),
		AckMSAtFullLoad: out.AckMS, LatencyMS: half.Measure.Latency().Quantiles(), SendLateMS: half.Load.Late.Quantiles(),
		CPUSecondsPer1000: out.CPUSecondsPer1000, RSSMiB: out.RSSMiB,
	}
	out.AckMS, out.LatencyMS = row.AckMS, row.LatencyMS
	out.Figures["send_late_ms"] = row.SendLateMS
	if row.Saturated {
		out.Verdict.remark("saturated: %s webhooks a second, half of the full load, were not kept up with", count(row.HalfLoad))
	}
	return out, row
}

// receiverRig starts a receiver with a sink behind it and connections before it.
func (r *Run) receiverRig(ctx context.Context, c receiverCase, key string) (rig *Rig, err error) {
	r.rigs++
	rig = &Rig{
		run: r, cfg: r.fillIn(RigConfig{Endpoints: 1, PerWorkspace: 1, Batch: 1, Connections: c.connections, Window: -1}),
		dir: filepath.Join(r.Dir, fmt.Sprintf("receiver-%d", r.rigs)), label: fmt.Sprintf("%s, %d connections", c.durability, c.connections),
	}
	defer func() {
		if err != nil {
			_ = rig.Close() // the first error says more
			rig = nil
		}
	}()
	if rig.Templates, err = NewTemplates(r.Options.Payload); err != nil {
		return rig, err
	}
	if rig.Layout, err = NewLayout("bench-", 1, 1, false, rig.Templates.Types()); err != nil {
		return rig, err
	}
	if rig.Sink, err = NewSink(SinkConfig{Endpoints: 1}); err != nil {
		return rig, err
	}
	rig.Sink.SetKey(0, key)
	address, err := rig.startReceiver(ctx, c, key)
	if err != nil {
		return rig, err
	}
	var crews [][]*crew
	rig.Tracks, crews = contactTracks(rig.Templates, c.connections)
	rig.Judge = NewJudge(rig.Layout, rig.Tracks)
	rig.Producers = NewProducers(LoadConfig{
		Address: address, Dialect: HookDialect(receiverPath, key), Crews: crews, Size: rig.Templates.Size, Batch: 1, Arrived: rig.Judge.Arrived,
	})
	return rig, nil
}

func (r *Rig) startReceiver(ctx context.Context, c receiverCase, key string) (address string, err error) {
	if err = os.MkdirAll(r.dir, 0o700); err != nil {
		return "", fmt.Errorf("start receiver: %w", err)
	}
	var admin string
	if address, err = freeAddress(); err == nil {
		admin, err = freeAddress()
	}
	if err != nil {
		return "", err
	}
	program, err := startProgram(r.run.Binary, r.dir, "receiver", "receiver", "--data", r.dir, "--listen", address, "--admin-listen", admin,
		"--source", receiverPath, "--verify", "respond.io", "--key", key, "--to", r.Sink.URL(0), "--durability", c.durability,
		"--log", "failures", "--log-level", "warn")
	if err != nil {
		return "", err
	}
	r.Beside = append(r.Beside, program)
	client := &fasthttp.HostClient{Addr: admin}
	defer client.CloseIdleConnections()
	return address, program.awaitReady(ctx, 30*time.Second, func() error {
		status, _, err := client.GetTimeout(nil, "http://"+admin+"/readyz", 5*time.Second)
		if err == nil && status != fasthttp.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
}

// contactTracks gives every connection some contacts, a track each.
func contactTracks(templates *Templates, connections int) (all []*Track, crews [][]*crew) {
	crews = make([][]*crew, connections)
	for i := range crews {
		c := &crew{}
		for range max(1, receiverContacts/connections) {
			t := &Track{Number: uint32(len(all)), Fan: 1, templates: templates.Of(templates.Types()...)}
			all, c.tracks = append(all, t), append(c.tracks, t)
		}
		crews[i] = []*crew{c}
	}
	return all, crews
}
