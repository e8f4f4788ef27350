//go:build !race

package main

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// What one event may allocate on its whole way, from the request that brings it to the endpoint's answer,
// the store's server and client included: the intake's own and the attempt's are pinned more narrowly
// beside them. Measured, in a steady state of many events: 32 in a single post, 12 in a batch of 100; how
// many copies share an answer of the store moves both a little.
const (
	allocationsSingle = 40
	allocationsBatch  = 18
)

func TestADeliveredEventCostsFewAllocations(t *testing.T) {
	for batch, most := range map[int]float64{1: allocationsSingle, 100: allocationsBatch} {
		t.Run(fmt.Sprint("batch ", batch), func(t *testing.T) {
			const endpoints, events = 10, 10_000
			nothing := startCountingSink(t)
			nothing.status = fasthttp.StatusAccepted
			l, sink := startLive(t, t.TempDir()), startCountingSink(t)
			for i := range endpoints {
				workspace := fmt.Sprint("w", i)
				l.workspace(workspace)
				l.endpoint(workspace, fmt.Sprint(sink.url, "/", i), "message.received")
			}
			// What the producer and an endpoint's server allocate is counted without a relay and taken off.
			first := 0
			count := func(address string, last *countingSink, arrivals int) float64 {
				first += events
				last.expect(arrivals)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				produce(t, address, endpoints, batch, events/batch, first)
				select {
				case <-last.done:
				case <-time.After(time.Minute):
					t.Fatal("not all events came within a minute")
				}
				runtime.ReadMemStats(&after)
				return float64(after.Mallocs-before.Mallocs) / events
			}
			bare := strings.TrimPrefix(nothing.url, "http://")
			count(bare, nothing, events/batch)
			producer := count(bare, nothing, events/batch)
			count(l.address, sink, events) // connections, lanes and pools are made
			whole := count(l.address, sink, events)
			t.Logf("%.1f allocations an event, and %.1f of the producer", whole-producer, producer)
			if whole-producer > most {
				t.Errorf("%.1f allocations an event, at most %.0f are wanted", whole-producer, most)
			}
		})
	}
}
