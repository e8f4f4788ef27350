package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/staffetta-relay/staffetta/relay"
	"github.com/staffetta-relay/staffetta/sender"
)

// relayMetrics are all metrics of a relay, in a registry of its own.
type relayMetrics struct {
	registry *prometheus.Registry
	sender   *sender.Metrics
	relay    *relay.Metrics
}

func newRelayMetrics(g *gate) relayMetrics {
	m := relayMetrics{
		registry: prometheus.NewRegistry(), sender: sender.NewMetrics(),
		relay: relay.NewMetrics(relay.MetricsConfig{Version: version, Store: g.storeUsage}),
	}
	m.registry.MustRegister(m.sender, m.relay,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// storeUsage is what the gate measured last.
func (g *gate) storeUsage() relay.StoreUsage {
	u := g.usage.Load()
	if u == nil {
		return relay.StoreUsage{}
	}
	return relay.StoreUsage{
		Bytes: u.StoreBytes, Limit: u.StoreLimit, FreeDisk: u.FreeDisk, Messages: u.Messages, Consumers: u.Consumers,
	}
}
