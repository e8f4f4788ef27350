package sender

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/staffetta-relay/staffetta"
)

// What an attempt came to, as a label: a class of status here, else the kind of error.
var statusClasses = [...]string{"2xx", "3xx", "4xx", "5xx", "other"}

// otherStatus is the last of them: a status below 200 or above 599.
const otherStatus = len(statusClasses) - 1

// attemptErrors are the kinds of error that an attempt of the endpoint's can come to.
var attemptErrors = [...]staffetta.ErrorKind{
	staffetta.ErrorTimeout, staffetta.ErrorRefused, staffetta.ErrorReset, staffetta.ErrorTLS,
	staffetta.ErrorDNS, staffetta.ErrorForbidden, staffetta.ErrorProtocol,
}

// attemptOutcomes are the actions that end an attempt of the endpoint's.
var attemptOutcomes = [...]staffetta.Action{staffetta.Deliver, staffetta.Retry, staffetta.Drop}

// Why a delivery ended, or an event was dropped.
const (
	endDelivered = "delivered"
	endDropped   = "dropped"
	endDiscarded = "discarded"
	endWithdrawn = "withdrawn"

	droppedAttempts = "attempts"
	droppedHeld     = "held"
)

// Buckets in seconds. An attempt ends within its deadline, 5 s by default; an event whose endpoint
// fails or is disabled may take days.
var (
	attemptBuckets  = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	endToEndBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 30, 60, 180, 600, 3600, 21600, 86400, 259200}
)

// Metrics of deliveries, for Prometheus. Make them with NewMetrics, hand them to a Dispatcher as
// Config.Metrics, and register them: they are a prometheus.Collector. What is counted for an attempt
// was resolved before, and allocates nothing; what the lanes hold is looked at when it is asked for.
// No label has an endpoint's URL or id.
type Metrics struct {
	all []prometheus.Collector

	// attempts by action and by what it came to: a class of status, and behind them the kinds of error.
	attempts [len(attemptOutcomes)][]prometheus.Counter
	kinds    []int // the place of an ErrorKind among them

	localFaults prometheus.Counter
	duration    prometheus.Histogram
	endToEnd    prometheus.Histogram

	delivered, dropped, discarded, withdrawn prometheus.Counter
	droppedAttempts, droppedHeld             prometheus.Counter

	lanes laneMetrics
}

// NewMetrics makes metrics that are all zero.
func NewMetrics() *Metrics {
	m := &Metrics{lanes: newLaneMetrics()}
	attempts := m.counters("staffetta_attempts_total",
		"Attempts to deliver an event, by what was decided (outcome) and what the attempt came to (result: class of the status or kind of error).", "outcome", "result")
	for i, action := range attemptOutcomes {
		for _, class := range statusClasses {
			m.attempts[i] = append(m.attempts[i], attempts.WithLabelValues(action.String(), class))
		}
		for _, kind := range attemptErrors {
			m.attempts[i] = append(m.attempts[i], attempts.WithLabelValues(action.String(), kind.String()))
		}
	}
	m.kinds = make([]int, len(staffetta.ErrorKinds()))
	for i := range m.kinds {
		m.kinds[i] = otherStatus
	}
	for i, kind := range attemptErrors {
		m.kinds[kind] = len(statusClasses) + i
	}
	m.duration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "staffetta_attempt_duration_seconds", Buckets: attemptBuckets,
		Help: "Time of an attempt, from the first byte dialled to the last byte of the response head, or to the failure.",
	})
	m.endToEnd = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "staffetta_end_to_end_seconds", Buckets: endToEndBuckets,
		Help: "Time from when an event was stored until its endpoint had accepted it.",
	})
	m.localFaults = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "staffetta_local_faults_total",
		Help: "Attempts that came to nothing by a fault of the relay's own machine; they are made again and count for nothing else.",
	})
	m.all = append(m.all, m.duration, m.endToEnd, m.localFaults)
	ends := m.counters("staffetta_deliveries_total", "Deliveries that ended, by how (end).", "end")
	m.delivered, m.dropped = ends.WithLabelValues(endDelivered), ends.WithLabelValues(endDropped)
	m.discarded, m.withdrawn = ends.WithLabelValues(endDiscarded), ends.WithLabelValues(endWithdrawn)
	reasons := m.counters("staffetta_dropped_total", "Events that went to the dead letters, by why (reason).", "reason")
	m.droppedAttempts, m.droppedHeld = reasons.WithLabelValues(droppedAttempts), reasons.WithLabelValues(droppedHeld)
	return m
}

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.all = append(m.all, v)
	return v
}

// attempted counts an attempt once it is decided. BenchmarkCountAttempt says what it costs.
func (m *Metrics) attempted(a *Attempt, v staffetta.Verdict, storedAt time.Time) {
	if v.Action == staffetta.Again {
		m.localFaults.Inc()
		return
	}
	m.attempts[v.Action][m.result(a.Outcome)].Inc()
	m.duration.Observe(a.Duration.Seconds())
	if v.Action == staffetta.Deliver {
		m.delivered.Inc()
		m.endToEnd.Observe(max(a.StartedAt.Add(a.Duration).Sub(storedAt), 0).Seconds())
	}
}

// result is the place of an outcome among the labels.
func (m *Metrics) result(o staffetta.Outcome) int {
	switch {
	case o.Error != staffetta.ErrorNone && int(o.Error) < len(m.kinds):
		return m.kinds[o.Error]
	case o.Status >= 200 && o.Status < 600:
		return o.Status/100 - 2
	default:
		return otherStatus
	}
}

// gaveUp counts an event that is among the dead letters.
func (m *Metrics) gaveUp(o staffetta.Outcome) {
	m.dropped.Inc()
	if o.Error == staffetta.ErrorHeld {
		m.droppedHeld.Inc()
	} else {
		m.droppedAttempts.Inc()
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all {
		c.Describe(ch)
	}
	m.lanes.describe(ch)
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all {
		c.Collect(ch)
	}
	m.lanes.collect(ch)
}

// watch makes the lanes known that are to be looked at.
func (m *Metrics) watch(d *Dispatcher) { m.lanes.of.Store(d) }

// laneMetrics are what the lanes hold, looked at when it is asked for.
type laneMetrics struct {
	of atomic.Pointer[Dispatcher]

	states, backlog, age                  *prometheus.Desc
	workspaceBacklog, workspaceAge, bound *prometheus.Desc
}

func newLaneMetrics() laneMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return laneMetrics{
		states:  desc("staffetta_lanes", "Endpoints with a lane, by what it does (state).", "state"),
		backlog: desc("staffetta_backlog_events", "Events that wait for their delivery, held ones included."),
		age:     desc("staffetta_oldest_event_age_seconds", "Age of the oldest event that waits at the head of a lane; 0 where none does."),
		workspaceBacklog: desc("staffetta_workspace_backlog_events",
			"Events of a workspace that wait for their delivery, for the workspaces with the most of them; the rest together are \"other\".", "workspace"),
		workspaceAge: desc("staffetta_workspace_oldest_event_age_seconds",
			"Age of the oldest event of a workspace that waits at the head of a lane, for the same workspaces.", "workspace"),
		bound: desc("staffetta_workspaces_with_backlog", "Workspaces that have events waiting."),
	}
}

func (x *laneMetrics) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{x.states, x.backlog, x.age, x.workspaceBacklog, x.workspaceAge, x.bound} {
		ch <- d
	}
}

func (x *laneMetrics) collect(ch chan<- prometheus.Metric) {
	var s laneSurvey
	if d := x.of.Load(); d != nil {
		s = d.surveyLanes(time.Now())
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for state, n := range s.states {
		gauge(x.states, float64(n), laneStateNames[state])
	}
	gauge(x.backlog, float64(s.all.backlog))
	gauge(x.age, s.all.age.Seconds())
	gauge(x.bound, float64(len(s.workspaces)))
	named, other := s.bounded(workspaceLabels)
	for _, w := range named {
		gauge(x.workspaceBacklog, float64(w.backlog), w.workspace)
		gauge(x.workspaceAge, w.age.Seconds(), w.workspace)
	}
	gauge(x.workspaceBacklog, float64(other.backlog), otherWorkspaces)
	gauge(x.workspaceAge, other.age.Seconds(), otherWorkspaces)
}
