package relay

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

// rejectedReason is why an event was not accepted, as a label.
type rejectedReason uint8

const (
	rejectedMalformed   rejectedReason = iota // no canonical JSON object, or the body did not come whole
	rejectedEventType                         // missing or unknown
	rejectedEventID                           // not a valid one
	rejectedTooLarge                          // the event, or the batch
	rejectedWorkspace                         // it does not exist
	rejectedUnavailable                       // the store did not take it: the producer sends it again
	rejectedInternal                          // anything else: the relay's log says more
	rejectedReasons
)

var rejectedNames = [rejectedReasons]string{
	"malformed", "event_type", "event_id", "too_large", "workspace", "unavailable", "internal",
}

func rejectedByCode(code string) rejectedReason {
	switch code {
	case "missing_event_type", "unknown_event_type":
		return rejectedEventType
	case "invalid_event_id":
		return rejectedEventID
	case "payload_too_large", "too_many_lines":
		return rejectedTooLarge
	default:
		return rejectedMalformed
	}
}

func rejectedByError(err error) rejectedReason {
	if input, ok := errors.AsType[*staffetta.InputError](err); ok {
		return rejectedByCode(input.Code)
	}
	switch {
	case errors.Is(err, errBodyTooLarge):
		return rejectedTooLarge
	case errors.Is(err, errBodyBroken), errors.Is(err, errEncoded):
		return rejectedMalformed
	case errors.Is(err, errUnknownWorkspace):
		return rejectedWorkspace
	case errors.Is(err, ErrUnavailable), errors.Is(err, errPressure), errors.Is(err, errConflict):
		return rejectedUnavailable
	default:
		return rejectedInternal
	}
}

// The classes of status that a request with events is answered with.
const (
	answered2xx = iota
	answered4xx
	answered5xx
	answerClasses
)

var (
	answerNames = [answerClasses]string{"2xx", "4xx", "5xx"}
	ackBuckets  = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	// disabledReasons are those of staffetta, and at the end what another version may have written.
	disabledReasons = []string{staffetta.DisabledByUser, staffetta.DisabledByQuota, "other"}
)

func disabledReason(e *staffetta.Endpoint) int {
	for i, reason := range disabledReasons {
		if e.DisabledReason == reason {
			return i
		}
	}
	return len(disabledReasons) - 1
}

// StoreUsage is what the store holds and what it may.
type StoreUsage struct {
	// Bytes that the streams hold, and the bound of them.
	Bytes, Limit int64
	// FreeDisk is what the file system has left, in bytes.
	FreeDisk int64
	// Messages and Consumers are counts.
	Messages  uint64
	Consumers int
}

// MetricsConfig of Metrics.
type MetricsConfig struct {
	// Version is that of the program.
	Version string
	// Store tells of the store what was measured last; it is asked once a scrape. Default: nothing.
	Store func() StoreUsage
}

// Metrics of the intake and of what is beside it, for Prometheus. Make them with NewMetrics, hand them
// to New as Config.Metrics, and register them: they are a prometheus.Collector. What is counted for an
// event was resolved before, and allocates nothing; what others know is looked at when it is asked for.
type Metrics struct {
	cfg     MetricsConfig
	all     []prometheus.Collector
	of      atomic.Pointer[Relay]
	readers []reader
	reasons *prometheus.Desc // of disabled endpoints

	accepted, duplicate prometheus.Counter
	rejected            [rejectedReasons]prometheus.Counter
	answers             [answerClasses]prometheus.Counter
	ack                 prometheus.Histogram
	disablings          []prometheus.Counter
}

// NewMetrics makes metrics that are all zero.
func NewMetrics(cfg MetricsConfig) *Metrics {
	if cfg.Store == nil {
		cfg.Store = func() StoreUsage { return StoreUsage{} }
	}
	m := &Metrics{cfg: cfg, readers: newReaders()}
	m.reasons = prometheus.NewDesc("staffetta_disabled_endpoints", "Endpoints that are disabled, by why (reason).", []string{"reason"}, nil)
	m.accepted = m.counter("staffetta_events_accepted_total", "Events that were accepted and stored, repeats not counted.")
	m.duplicate = m.counter("staffetta_events_duplicate_total", "Events that were known already: answered as accepted, stored and delivered no second time.")
	m.ack = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "staffetta_ingest_ack_seconds", Buckets: ackBuckets,
		Help: "Time from the head of a request with events until it was answered as accepted.",
	})
	rejected := m.counters("staffetta_events_rejected_total",
		"Events that were not accepted, by why (reason). A batch that is refused as a whole counts once.", "reason")
	for i, name := range rejectedNames {
		m.rejected[i] = rejected.WithLabelValues(name)
	}
	answers := m.counters("staffetta_ingest_answers_total", "Requests with events, single ones and batches, by the class of the status they were answered with.", "class")
	for i, name := range answerNames {
		m.answers[i] = answers.WithLabelValues(name)
	}
	disablings := m.counters("staffetta_disablings_total", "Times that an endpoint was disabled, by why (reason).", "reason")
	for _, reason := range disabledReasons {
		m.disablings = append(m.disablings, disablings.WithLabelValues(reason))
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "staffetta_build_info", Help: "Always 1; the version of the program is a label."}, []string{"version"})
	build.WithLabelValues(cfg.Version).Set(1)
	m.all = append(m.all, m.ack, build)
	return m
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	m.all = append(m.all, c)
	return c
}

func (m *Metrics) counters(name, help, label string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	m.all = append(m.all, v)
	return v
}

// took counts an event that was accepted.
func (m *Metrics) took(a accepted) {
	if a.duplicate {
		m.duplicate.Inc()
	} else {
		m.accepted.Inc()
	}
}

// tookBatch counts the lines of a batch.
func (m *Metrics) tookBatch(r *batchResult) {
	m.accepted.Add(float64(r.accepted - r.duplicates))
	m.duplicate.Add(float64(r.duplicates))
	for i := range r.rejected {
		m.rejected[rejectedByCode(r.rejected[i].code)].Inc()
	}
}

// refused counts a request whose events were not accepted.
func (m *Metrics) refused(err error) { m.rejected[rejectedByError(err)].Inc() }

// answered counts an answer to a request with events.
func (m *Metrics) answered(status int, took time.Duration) {
	switch {
	case status < fasthttp.StatusBadRequest:
		m.answers[answered2xx].Inc()
		m.ack.Observe(took.Seconds())
	case status < fasthttp.StatusInternalServerError:
		m.answers[answered4xx].Inc()
	default:
		m.answers[answered5xx].Inc()
	}
}

// OnDisabled counts every endpoint that is disabled, and tells next of it, which may be nil. It makes a
// QuotaConfig.OnDisabled.
func (m *Metrics) OnDisabled(next func(context.Context, Disabling)) func(context.Context, Disabling) {
	return func(ctx context.Context, d Disabling) {
		m.disablings[disabledReason(&d.Endpoint)].Inc()
		if next != nil {
			next(ctx, d)
		}
	}
}

// watch makes the relay known that is to be looked at.
func (m *Metrics) watch(r *Relay) { m.of.Store(r) }
