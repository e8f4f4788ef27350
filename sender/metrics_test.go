package sender

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/staffetta-relay/staffetta"
)

func TestTheSendersMetricsLintAndStartAtZero(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewMetrics())
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if m.GetCounter().GetValue() != 0 || m.GetGauge().GetValue() != 0 || m.GetHistogram().GetSampleCount() != 0 {
				t.Errorf("%s is not zero at the start: %v", f.GetName(), m)
			}
		}
	}
	for name, want := range map[string]int{
		"staffetta_attempts_total": 36, "staffetta_deliveries_total": 4, "staffetta_dropped_total": 2, "staffetta_lanes": 4,
	} {
		if n, err := testutil.GatherAndCount(registry, name); n != want || err != nil {
			t.Errorf("%s has %d series at the start, want %d (%v)", name, n, want, err)
		}
	}
}

func TestEveryOutcomeHasItsLabel(t *testing.T) {
	m := NewMetrics()
	count := func(action staffetta.Action, o staffetta.Outcome) {
		m.attempted(&Attempt{Outcome: o, StartedAt: time.Unix(100, 0), Duration: time.Second}, staffetta.Verdict{Action: action}, time.Unix(98, 0))
	}
	for _, status := range []int{99, 100, 200, 299, 302, 404, 500, 599, 600, 999} {
		count(staffetta.Retry, staffetta.Outcome{Status: status})
	}
	for _, kind := range staffetta.ErrorKinds() {
		switch kind {
		case staffetta.ErrorNone, staffetta.ErrorHeld, staffetta.ErrorTarget: // not of an attempt over HTTP
		case staffetta.ErrorLocal:
			count(staffetta.Again, staffetta.Outcome{Error: kind})
		default:
			count(staffetta.Drop, staffetta.Outcome{Error: kind})
		}
	}
	count(staffetta.Deliver, staffetta.Outcome{Status: 200})
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	want := map[string]float64{
		"delivered 2xx": 1, "retry 2xx": 2, "retry 3xx": 1, "retry 4xx": 1, "retry 5xx": 2, "retry other": 4,
		"dropped timeout": 1, "dropped refused": 1, "dropped reset": 1, "dropped tls": 1, "dropped dns": 1,
		"dropped forbidden_address": 1, "dropped protocol": 1,
	}
	for labels, value := range gathered(t, registry, "staffetta_attempts_total") {
		if value != want[labels] {
			t.Errorf("attempts_total{%s} is %v, want %v", labels, value, want[labels])
		}
	}
	if n := testutil.ToFloat64(m.localFaults); n != 1 {
		t.Errorf("%v faults of our own, want 1", n)
	}
	const text = `# HELP staffetta_end_to_end_seconds Time from when an event was stored until its endpoint had accepted it.
# TYPE staffetta_end_to_end_seconds histogram
`
	b := text
	for _, le := range endToEndBuckets {
		n := 0
		if le >= 3 {
			n = 1
		}
		b += fmt.Sprintf("staffetta_end_to_end_seconds_bucket{le=\"%v\"} %d\n", le, n)
	}
	b += "staffetta_end_to_end_seconds_bucket{le=\"+Inf\"} 1\nstaffetta_end_to_end_seconds_sum 3\nstaffetta_end_to_end_seconds_count 1\n"
	if err := testutil.GatherAndCompare(registry, strings.NewReader(b), "staffetta_end_to_end_seconds"); err != nil {
		t.Error(err)
	}
}

// gathered gives the values of a metric by those of its labels.
func gathered(t testing.TB, g prometheus.Gatherer, name string) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			values[strings.Join(labels, " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

// crowd is a dispatcher that does not run, with lanes lanes of as many workspaces as said, each with
// n+1 events waiting where n is the workspace's number.
func crowd(tb testing.TB, lanes, workspaces int) (*Metrics, *Dispatcher) {
	tb.Helper()
	m := NewMetrics()
	conn := &nats.Conn{}
	js, err := jetstream.New(conn)
	if err != nil {
		tb.Fatal(err)
	}
	d, err := NewDispatcher(Config{Conn: conn, JetStream: js, Shards: 64, Metrics: m})
	if err != nil {
		tb.Fatal(err)
	}
	now := time.Now()
	for i := range lanes {
		w := i % workspaces
		l := d.shardOf("ep_" + strconv.Itoa(i)).ensure("ep_" + strconv.Itoa(i))
		l.target = &delivery{workspace: "w" + strconv.Itoa(w)}
		l.backlog, l.tail = uint64(w+1), uint64(w+1)
		l.headAt = now.Add(-time.Duration(w+1) * time.Minute)
	}
	return m, d
}

func TestAtMostAThousandWorkspacesHaveSeriesAndTheRestAreSummed(t *testing.T) {
	m, d := crowd(t, 1500, 1500)
	d.shardOf("x").ensure("x").target = &delivery{workspace: otherWorkspaces}
	d.shardOf("x").ensure("x").backlog, d.shardOf("x").ensure("x").tail = 7, 7
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m)
	backlog := gathered(t, registry, "staffetta_workspace_backlog_events")
	if len(backlog) != workspaceLabels+1 {
		t.Fatalf("%d series, want %d", len(backlog), workspaceLabels+1)
	}
	if backlog["w1499"] != 1500 || backlog["w500"] != 501 {
		t.Errorf("the workspaces with the most events have %v and %v waiting", backlog["w1499"], backlog["w500"])
	}
	if want := float64(500*501/2 + 7); backlog[otherWorkspaces] != want {
		t.Errorf("the others have %v events waiting, want %v", backlog[otherWorkspaces], want)
	}
	if all := gathered(t, registry, "staffetta_backlog_events")[""]; all != 1500*1501/2+7 {
		t.Errorf("%v events wait in all", all)
	}
	if n := gathered(t, registry, "staffetta_workspaces_with_backlog")[""]; n != 1501 {
		t.Errorf("%v workspaces have events waiting", n)
	}
	age := gathered(t, registry, "staffetta_workspace_oldest_event_age_seconds")
	if old := age[otherWorkspaces]; old < 500*60 || old > 501*60 {
		t.Errorf("the oldest event of the others is %v s old", old)
	}
	if old := gathered(t, registry, "staffetta_oldest_event_age_seconds")[""]; old < 1500*60 || old > 1501*60 {
		t.Errorf("the oldest event is %v s old", old)
	}
}

func TestEveryLaneIsInOneState(t *testing.T) {
	m, d := crowd(t, 5, 5)
	lanes := make([]*lane, 5)
	for i := range lanes {
		lanes[i] = d.shardOf("ep_" + strconv.Itoa(i)).lane("ep_" + strconv.Itoa(i))
	}
	lanes[0].due = time.Now().Add(time.Minute)
	lanes[1].mode = Held
	lanes[2].settled = lanes[2].tail
	lanes[3].mode, lanes[3].settled = Discarding, lanes[3].tail
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	states := gathered(t, registry, "staffetta_lanes")
	want := map[string]float64{"waiting": 1, "held": 1, "idle": 2, "active": 1}
	for state, n := range want {
		if states[state] != n {
			t.Errorf("%v lanes are %s, want %v", states[state], state, n)
		}
	}
}

func TestDiscardedEventsAreCounted(t *testing.T) {
	m, d := crowd(t, 2, 2)
	d.Set("ep_0", &delivery{}, Discarding)
	d.Remove("ep_1")
	if n := testutil.ToFloat64(m.discarded); n != 3 {
		t.Errorf("%v events were discarded, want 3", n)
	}
}

func TestCountingAnAttemptAllocatesNothing(t *testing.T) {
	m := NewMetrics()
	a := &Attempt{Outcome: staffetta.Outcome{Status: 200}, StartedAt: time.Now(), Duration: 20 * time.Millisecond}
	storedAt := a.StartedAt.Add(-time.Second)
	if n := testing.AllocsPerRun(1000, func() { m.attempted(a, staffetta.Verdict{Action: staffetta.Deliver}, storedAt) }); n > 0 {
		t.Errorf("it allocates %v times", n)
	}
}

// BenchmarkCountAttempt is what the metrics add to a delivery.
func BenchmarkCountAttempt(b *testing.B) {
	m := NewMetrics()
	storedAt := time.Now().Add(-time.Second)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		a := &Attempt{Outcome: staffetta.Outcome{Status: 200}, StartedAt: time.Now(), Duration: 20 * time.Millisecond}
		for pb.Next() {
			m.attempted(a, staffetta.Verdict{Action: staffetta.Deliver}, storedAt)
		}
	})
}

// BenchmarkSurveyLanes is what a scrape costs with 10,000 endpoints.
func BenchmarkSurveyLanes(b *testing.B) {
	_, d := crowd(b, 10_000, 1000)
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		d.surveyLanes(now)
	}
}
