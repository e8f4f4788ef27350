package receiver

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/staffetta-relay/staffetta/sender"
)

// refusal is why a webhook was not stored, as a label.
type refusal uint8

const (
	stored refusal = iota
	repeated
	refusedSignature
	refusedNetwork
	refusedMethod
	refusedSize
	refusedBroken
	refusedStore
	refusedPath
	refusalKinds
)

var refusalNames = [refusalKinds]string{
	"stored", "repeat", "signature", "network", "method", "too_large", "broken", "unavailable", "path",
}

var ackBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}

// Metrics of a receiver, for Prometheus. Make them with NewMetrics, hand them to New as Config.Metrics,
// and register them: they are a prometheus.Collector. Sources and targets are labels, for they are the
// operator's and few.
type Metrics struct {
	of       atomic.Pointer[Receiver]
	requests *prometheus.CounterVec
	ack      prometheus.Histogram
	ready    *prometheus.Desc
	readers  []feedReader
}

// feedReader turns where a target stands into a metric.
type feedReader struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*feed, *sender.FeedState) float64
}

// NewMetrics makes the metrics; they show nothing before New.
func NewMetrics() *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "staffetta_receiver_requests_total",
			Help: "Webhooks that came, by what became of them: stored and repeat were answered with 200.",
		}, []string{"source", "result"}),
		ack: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "staffetta_receiver_ack_seconds", Buckets: ackBuckets,
			Help: "Time from the head of a webhook to its answer with 200.",
		}),
		ready: prometheus.NewDesc("staffetta_receiver_ready", "1 while webhooks can be taken and stored, as /readyz says; else 0.", nil, nil),
	}
	labels := []string{"source", "target", "kind"}
	add := func(kind prometheus.ValueType, name, help string, value func(*feed, *sender.FeedState) float64) {
		m.readers = append(m.readers, feedReader{prometheus.NewDesc("staffetta_receiver_"+name, help, labels, nil), kind, value})
	}
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	add(counter, "delivered_total", "Events that the target has taken.", func(_ *feed, s *sender.FeedState) float64 { return float64(s.Delivered) })
	add(counter, "failed_attempts_total", "Attempts that the target did not take.", func(_ *feed, s *sender.FeedState) float64 { return float64(s.Failed) })
	add(counter, "dropped_total", "Events that went to the dead letters.", func(_ *feed, s *sender.FeedState) float64 { return float64(s.Dropped) })
	add(gauge, "backlog", "Stored events that the target does not have yet.", func(f *feed, s *sender.FeedState) float64 { return float64(f.backlog(s)) })
	add(gauge, "waiting", "Events that wait for their next attempt, or behind one that does.", func(_ *feed, s *sender.FeedState) float64 { return float64(s.Waiting) })
	add(gauge, "in_flight", "Events that are being handed over.", func(_ *feed, s *sender.FeedState) float64 { return float64(s.InFlight) })
	add(gauge, "oldest_seconds", "Age of the oldest event that the target does not have yet.", func(_ *feed, s *sender.FeedState) float64 {
		if s.OldestAt.IsZero() {
			return 0
		}
		return max(time.Since(s.OldestAt).Seconds(), 0)
	})
	add(gauge, "down", "1 while the target takes nothing and is probed with one event at a time; else 0.", func(_ *feed, s *sender.FeedState) float64 {
		if s.Down {
			return 1
		}
		return 0
	})
	return m
}

// watch begins to show a receiver, with every series of its sources at zero.
func (m *Metrics) watch(r *Receiver) {
	for _, s := range r.sources {
		for i, result := range refusalNames[:refusedPath] {
			s.results[i] = m.requests.WithLabelValues(s.name, result)
		}
	}
	m.of.Store(r)
}

func (m *Metrics) answered(s *source, a reply, took time.Duration) {
	s.results[a.reason].Inc()
	if a.status == http.StatusOK {
		m.ack.Observe(took.Seconds())
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	m.requests.Describe(to)
	m.ack.Describe(to)
	to <- m.ready
	for _, r := range m.readers {
		to <- r.desc
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	m.requests.Collect(to)
	m.ack.Collect(to)
	r := m.of.Load()
	ready := 0.0
	if r != nil && r.Ready() == nil {
		ready = 1
	}
	to <- prometheus.MustNewConstMetric(m.ready, prometheus.GaugeValue, ready)
	if r == nil {
		return
	}
	for _, s := range r.sources {
		for _, f := range s.feeds {
			state := f.feed.State()
			for _, read := range m.readers {
				to <- prometheus.MustNewConstMetric(read.desc, read.kind, read.value(f, &state), f.source, f.target, f.kind)
			}
		}
	}
}
