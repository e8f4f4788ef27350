package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/relay"
)

// The shape of BenchmarkTheCostOfTheLog: workspaces with an endpoint each, and batches of 1 KiB events.
const (
	costWorkspaces = 20
	costBatch      = 100
	costRounds     = 6
)

// costRelay is a whole relay whose endpoints lead to a sink in this process.
type costRelay struct {
	api       *fasthttputil.InmemoryListener
	http      *fasthttp.HostClient
	delivered *atomic.Int64
	cpu, wall time.Duration
	events    int
}

func startCostRelay(b *testing.B, mode relay.LogMode) *costRelay {
	b.Helper()
	sink := fasthttputil.NewInmemoryListener()
	r := &costRelay{api: fasthttputil.NewInmemoryListener(), delivered: &atomic.Int64{}}
	answering := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		r.delivered.Add(1)
		ctx.SetBodyString("OK")
	}}
	go func() { _ = answering.Serve(sink) }()
	b.Cleanup(func() { _ = sink.Close() })
	r.http = &fasthttp.HostClient{Addr: "relay", MaxConns: 100, Dial: func(string) (net.Conn, error) { return r.api.Dial() }}
	startRelay(b, relaySettings{
		listener: r.api, data: b.TempDir(), shards: 16, policy: staffetta.DefaultPolicy(), catalogue: staffetta.DefaultCatalogue(),
		dial: sinkDialer(sink), minPlan: staffetta.PlanAdvanced, adminKey: testAdminKey, secret: bytes.Repeat([]byte{7}, 32),
		logMode: mode, log: zerolog.Nop(),
	}, r.http)
	for w := range costWorkspaces {
		r.send(b, "PUT", fmt.Sprintf("/v1/workspaces/w%d", w), "application/json", []byte(`{"plan":"advanced"}`), 201)
		r.send(b, "POST", fmt.Sprintf("/v1/workspaces/w%d/endpoints", w), "application/json",
			[]byte(`{"url":"http://sink.example/","event_types":["message.received"]}`), 201)
	}
	return r
}

func (r *costRelay) send(b *testing.B, method, path, contentType string, body []byte, want int) {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod(method)
	req.SetRequestURI("http://relay" + path)
	req.Header.Set("Authorization", "Bearer "+testAdminKey)
	req.Header.SetContentType(contentType)
	req.SetBody(body)
	if err := r.http.DoTimeout(req, resp, time.Minute); err != nil || resp.StatusCode() != want {
		b.Errorf("%s %s: %d %s, %v", method, path, resp.StatusCode(), resp.Body(), err)
	}
}

// round sends a batch to every workspace n times over and waits until all is delivered.
func (r *costRelay) round(b *testing.B, n int) {
	line := fmt.Appendf(nil, `{"event_type":"message.received","text":%q}`+"\n", bytes.Repeat([]byte("x"), 960))
	batch := bytes.Repeat(line, costBatch)
	cpu, began := cpuTime(b), time.Now()
	until := r.delivered.Load() + int64(n*costWorkspaces*costBatch)
	var wg sync.WaitGroup
	for w := range costWorkspaces {
		wg.Go(func() {
			for range n {
				r.send(b, "POST", fmt.Sprintf("/v1/workspaces/w%d/events", w), "application/x-ndjson", batch, 202)
			}
		})
	}
	wg.Wait()
	for deadline := time.After(time.Minute); r.delivered.Load() < until; {
		select {
		case <-deadline:
			b.Fatalf("%d deliveries missing", until-r.delivered.Load())
		case <-time.After(time.Millisecond):
		}
	}
	r.cpu += cpuTime(b) - cpu
	r.wall += time.Since(began)
	r.events += n * costWorkspaces * costBatch
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTheCostOfTheLog runs two relays turn by turn, one that logs every attempt and one that logs
// failures alone, of which there are none, and compares what an event costs. The time of the CPU
// is the steadier measure; on a machine that is full the two ratios are the same.
func BenchmarkTheCostOfTheLog(b *testing.B) {
	all, none := startCostRelay(b, relay.LogAll), startCostRelay(b, relay.LogFailures)
	all.round(b, 1)
	none.round(b, 1)
	for _, r := range []*costRelay{all, none} {
		r.cpu, r.wall, r.events = 0, 0, 0
	}
	for b.Loop() {
		for range costRounds / 2 { // in the order ABBA, so that what drifts falls on both
			for _, r := range []*costRelay{all, none, none, all} {
				r.round(b, 1)
			}
		}
	}
	perEvent := func(r *costRelay) float64 { return float64(r.cpu.Microseconds()) / float64(r.events) }
	rate := func(r *costRelay) float64 { return float64(r.events) / r.wall.Seconds() }
	b.ReportMetric(perEvent(all), "cpu-µs/event")
	b.ReportMetric(perEvent(all)/perEvent(none), "cpu-ratio")
	b.ReportMetric(rate(all), "events/s")
	b.ReportMetric(rate(all)/rate(none), "rate-ratio")
}

func sinkDialer(l *fasthttputil.InmemoryListener) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) { return l.Dial() }
}

func startRelay(b *testing.B, settings relaySettings, http *fasthttp.HostClient) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done, ready := make(chan error, 1), make(chan struct{})
	go func() { done <- runRelay(ctx, settings, func(*relay.Relay) { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		b.Fatalf("the relay did not start: %v", err)
	}
	b.Cleanup(func() {
		http.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
}
