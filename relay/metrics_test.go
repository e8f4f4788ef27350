package relay

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/staffetta-relay/staffetta"
)

func TestTheRelaysMetricsLintAndAreThereBeforeTheRelay(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewMetrics(MetricsConfig{Version: "1.2.3"}))
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for name, want := range map[string]int{
		"staffetta_events_rejected_total": int(rejectedReasons), "staffetta_ingest_answers_total": answerClasses,
		"staffetta_disablings_total": 3, "staffetta_disabled_endpoints": 3, "staffetta_ready": 1,
	} {
		if n, err := testutil.GatherAndCount(registry, name); n != want || err != nil {
			t.Errorf("%s has %d series at the start, want %d (%v)", name, n, want, err)
		}
	}
}

func TestEveryRefusalHasAReason(t *testing.T) {
	for _, x := range []struct {
		err  error
		want rejectedReason
	}{
		{&staffetta.InputError{Code: "malformed_json"}, rejectedMalformed},
		{&staffetta.InputError{Code: "duplicate_key"}, rejectedMalformed},
		{&staffetta.InputError{Code: "missing_event_type"}, rejectedEventType},
		{staffetta.DefaultCatalogue().UnknownType("x"), rejectedEventType},
		{&staffetta.InputError{Code: "invalid_event_id"}, rejectedEventID},
		{payloadTooLarge(9), rejectedTooLarge},
		{&staffetta.InputError{Code: "too_many_lines"}, rejectedTooLarge},
		{errBodyTooLarge, rejectedTooLarge},
		{errBodyBroken, rejectedMalformed},
		{errEncoded, rejectedMalformed},
		{errUnknownWorkspace, rejectedWorkspace},
		{Unavailable(errors.New("full")), rejectedUnavailable},
		{fmt.Errorf("x: %w", errPressure), rejectedUnavailable},
		{errors.New("x"), rejectedInternal},
	} {
		if got := rejectedByError(x.err); got != x.want {
			t.Errorf("%v is counted as %s, want %s", x.err, rejectedNames[got], rejectedNames[x.want])
		}
	}
}

func TestAnswersAreCountedByClassAndOnlyAcceptedOnesAreTimed(t *testing.T) {
	m := NewMetrics(MetricsConfig{})
	for _, status := range []int{202, 401, 422, 500, 503, 503} {
		m.answered(status, time.Millisecond)
	}
	for class, want := range map[int]float64{answered2xx: 1, answered4xx: 2, answered5xx: 3} {
		if n := testutil.ToFloat64(m.answers[class]); n != want {
			t.Errorf("%v answers of %s, want %v", n, answerNames[class], want)
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "staffetta_ingest_ack_seconds" && f.GetMetric()[0].GetHistogram().GetSampleCount() != 1 {
			t.Error("not only the accepted one is timed")
		}
	}
}

func TestCountingAnEventAllocatesNothing(t *testing.T) {
	m := NewMetrics(MetricsConfig{})
	failure := fmt.Errorf("wait for the store: %w", errPressure)
	if n := testing.AllocsPerRun(1000, func() {
		m.took(accepted{})
		m.answered(202, time.Millisecond)
		m.refused(failure)
	}); n > 0 {
		t.Errorf("it allocates %v times", n)
	}
}

// BenchmarkCountEvent is what the metrics add to an event that is accepted.
func BenchmarkCountEvent(b *testing.B) {
	m := NewMetrics(MetricsConfig{})
	b.ReportAllocs()
	for b.Loop() {
		m.took(accepted{})
		m.answered(202, time.Millisecond)
	}
}

// BenchmarkCountEndpoints is what a scrape costs beside the lanes with 10,000 endpoints.
func BenchmarkCountEndpoints(b *testing.B) {
	r := &Registry{tenants: newSnapshotMap[*tenant]()}
	for w := range 100 {
		t := &tenant{endpoints: map[string]*endpointEntry{}}
		t.workspace.Store(&staffetta.Workspace{})
		for e := range 100 {
			t.endpoints[fmt.Sprint(e)] = &endpointEntry{endpoint: staffetta.Endpoint{Status: staffetta.Disabled, DisabledReason: staffetta.DisabledByQuota}}
		}
		r.tenants.set(fmt.Sprint(w), t)
	}
	b.ReportAllocs()
	for b.Loop() {
		r.count(&reading{disabled: make([]int, len(disabledReasons))})
	}
}
