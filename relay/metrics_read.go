package relay

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttpadaptor"

	"github.com/staffetta-relay/staffetta"
)

// reading is what the parts of a relay say at a scrape.
type reading struct {
	ready                 bool
	copies, replayed      uint64
	windowUsed, window    int
	logWritten, logShed   uint64
	notices               NoticeStats
	store                 StoreUsage
	workspaces, endpoints int
	disabled              []int // by the place in disabledReasons
}

// reader turns a part of a reading into a metric.
type reader struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*reading) float64
}

func newReaders() (all []reader) {
	add := func(kind prometheus.ValueType, name, help string, value func(*reading) float64) {
		all = append(all, reader{prometheus.NewDesc(name, help, nil, nil), kind, value})
	}
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	add(gauge, "staffetta_ready", "1 while events can be taken and stored, as /readyz says; else 0.", func(r *reading) float64 {
		if r.ready {
			return 1
		}
		return 0
	})
	add(counter, "staffetta_copies_stored_total", "Copies of events that were stored, one for each endpoint; replays and operational events are among them.",
		func(r *reading) float64 { return float64(r.copies) })
	add(counter, "staffetta_replayed_total", "Events that replays have put in line again.", func(r *reading) float64 { return float64(r.replayed) })
	add(gauge, "staffetta_publish_window_in_use", "Copies on their way into the store.", func(r *reading) float64 { return float64(r.windowUsed) })
	add(gauge, "staffetta_publish_window_size", "Copies that may be on their way into the store at once.", func(r *reading) float64 { return float64(r.window) })
	add(counter, "staffetta_log_attempts_written_total", "Attempts that the log has stored.", func(r *reading) float64 { return float64(r.logWritten) })
	add(counter, "staffetta_log_attempts_shed_total", "Attempts that are missing from the log because the store did not take them in time.",
		func(r *reading) float64 { return float64(r.logShed) })
	add(counter, "staffetta_mails_sent_total", "Mails that the mail server has taken.", func(r *reading) float64 { return float64(r.notices.Sent) })
	add(counter, "staffetta_mails_failed_total", "Mails that were given up: refused for good, or not taken for a day.", func(r *reading) float64 { return float64(r.notices.GivenUp) })
	add(gauge, "staffetta_mails_queued", "Mails that wait to be sent.", func(r *reading) float64 { return float64(r.notices.Queued) })
	add(counter, "staffetta_operational_events_total", "Operational events that were stored for delivery to operations URLs.", func(r *reading) float64 { return float64(r.notices.Operations) })
	add(counter, "staffetta_notices_lost_total", "Facts that nobody was told of: the store took them neither in time nor before the stop.", func(r *reading) float64 { return float64(r.notices.Lost) })
	add(gauge, "staffetta_store_bytes", "Bytes that all JetStream streams hold.", func(r *reading) float64 { return float64(r.store.Bytes) })
	add(gauge, "staffetta_store_limit_bytes", "Bytes that they may hold; from nine tenths on events are refused with 503.", func(r *reading) float64 { return float64(r.store.Limit) })
	add(gauge, "staffetta_store_messages", "Messages that all JetStream streams hold.", func(r *reading) float64 { return float64(r.store.Messages) })
	add(gauge, "staffetta_store_consumers", "JetStream consumers that there are.", func(r *reading) float64 { return float64(r.store.Consumers) })
	add(gauge, "staffetta_disk_free_bytes", "Bytes that the store's file system has left.", func(r *reading) float64 { return float64(r.store.FreeDisk) })
	add(gauge, "staffetta_workspaces", "Workspaces that there are.", func(r *reading) float64 { return float64(r.workspaces) })
	add(gauge, "staffetta_endpoints", "Endpoints that there are, disabled ones included.", func(r *reading) float64 { return float64(r.endpoints) })
	return all
}

// read asks the parts of the relay.
func (m *Metrics) read() *reading {
	x := &reading{store: m.cfg.Store(), disabled: make([]int, len(disabledReasons))}
	r := m.of.Load()
	if r == nil {
		return x
	}
	x.ready = r.server.ready() == nil
	p := r.replays.publisher
	x.copies, x.replayed = p.copies.Load(), r.replays.replayed.Load()
	for _, l := range p.lines {
		x.window += lineRoom
		x.windowUsed += l.copies()
	}
	if r.attempts != nil {
		x.logWritten, x.logShed = r.attempts.written.Load(), r.attempts.Shed()
	}
	if r.notices != nil {
		x.notices = r.notices.Stats()
	}
	r.registry.count(x)
	return x
}

// count counts workspaces and endpoints.
func (r *Registry) count(x *reading) {
	for _, t := range r.tenants.all {
		t.mu.RLock()
		if t.isLive() {
			x.workspaces++
			x.endpoints += len(t.endpoints)
			for _, entry := range t.endpoints {
				if entry.endpoint.Status == staffetta.Disabled {
					x.disabled[disabledReason(&entry.endpoint)]++
				}
			}
		}
		t.mu.RUnlock()
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all {
		c.Describe(ch)
	}
	for i := range m.readers {
		ch <- m.readers[i].desc
	}
	ch <- m.reasons
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all {
		c.Collect(ch)
	}
	x := m.read()
	for i := range m.readers {
		ch <- prometheus.MustNewConstMetric(m.readers[i].desc, m.readers[i].kind, m.readers[i].value(x))
	}
	for i, n := range x.disabled {
		ch <- prometheus.MustNewConstMetric(m.reasons, prometheus.GaugeValue, float64(n), disabledReasons[i])
	}
}

// metricsInFlight is how many scrapes are answered at once: they need no key.
const metricsInFlight = 4

// newMetricsPage answers /metrics; without a gatherer nothing does.
func newMetricsPage(g prometheus.Gatherer, log zerolog.Logger) fasthttp.RequestHandler {
	if g == nil {
		return func(ctx *fasthttp.RequestCtx) { answerProblem(ctx, problemNoRoute()) }
	}
	page := promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorLog: scrapeErrors{log}, ErrorHandling: promhttp.ContinueOnError,
		EnableOpenMetrics: true,
	})
	gather := fasthttpadaptor.NewFastHTTPHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		page.ServeHTTP(w, r)
	}))
	slots := make(chan struct{}, metricsInFlight)
	return func(ctx *fasthttp.RequestCtx) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			gather(ctx)
		default:
			answerProblem(ctx, problemUnavailable())
		}
	}
}

// scrapeErrors logs what a scrape could not gather.
type scrapeErrors struct{ log zerolog.Logger }

func (s scrapeErrors) Println(v ...any) {
	s.log.Error().Interface("errors", v).Msg("cannot gather all metrics")
}
