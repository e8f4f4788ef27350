package main

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

// BenchmarkThroughput measures producers, the whole relay and a sink in one process, b.N events in
// all. The limit is taken in the same run: the same signed bodies from a fasthttp client to the sink,
// with nothing between. ratio is the relay's rate to that one; both move with the machine.
func BenchmarkThroughput(b *testing.B) {
	for _, endpoints := range []int{1, 100, 1000} {
		for _, batch := range []int{1, 100} {
			b.Run(fmt.Sprintf("endpoints=%d/batch=%d", endpoints, batch), func(b *testing.B) {
				measureThroughput(b, endpoints, batch)
			})
		}
	}
}

const throughputProducers = 32

func measureThroughput(b *testing.B, endpoints, batch int) {
	sink := startCountingSink(b)
	direct := sink.direct(b, max(b.N, 2000))
	l := startLive(b, b.TempDir(), func(s *relaySettings) { s.shards = 16 })
	for i := range endpoints {
		workspace := "w" + strconv.Itoa(i)
		l.workspace(workspace)
		l.endpoint(workspace, sink.url+"/"+strconv.Itoa(i), "message.received")
	}
	posts := max(b.N/batch, 1)
	sink.expect(posts * batch)
	b.SetBytes(int64(len(throughputEvent(nil, 0))))
	b.ResetTimer()
	produce(b, l.address, endpoints, batch, posts, 0)
	<-sink.done
	b.StopTimer()
	rate := float64(posts*batch) / b.Elapsed().Seconds()
	b.ReportMetric(rate, "events/s")
	b.ReportMetric(direct, "direct/s")
	b.ReportMetric(rate/direct, "ratio")
}

// produce sends the posts, of events numbered from first, each to the next workspace, from several producers at once.
func produce(b testing.TB, address string, endpoints, batch, posts, first int) {
	client := &fasthttp.HostClient{Addr: address, MaxConns: throughputProducers}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range throughputProducers {
		wg.Go(func() {
			req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			defer fasthttp.ReleaseRequest(req)
			defer fasthttp.ReleaseResponse(resp)
			var body []byte
			for n := int(next.Add(1)) - 1; n < posts; n = int(next.Add(1)) - 1 {
				req.Header.SetMethod("POST")
				req.SetRequestURI("http://" + address + "/v1/workspaces/w" + strconv.Itoa(n%endpoints) + "/events")
				req.Header.Set("Authorization", "Bearer "+testAdminKey)
				req.Header.SetContentType(map[bool]string{true: "application/x-ndjson", false: "application/json"}[batch > 1])
				body = body[:0]
				for k := range batch {
					body = append(throughputEvent(body, first+n*batch+k), '\n')
				}
				req.SetBody(body)
				if err := client.Do(req, resp); err != nil || resp.StatusCode() != 202 {
					b.Errorf("post: %v, status %d: %s", err, resp.StatusCode(), resp.Body())
					return
				}
			}
		})
	}
	wg.Wait()
}

// throughputEvent is a sample of about 1 KiB with an id of its own.
func throughputEvent(dst []byte, n int) []byte {
	sample := staffetta.Sample("message.received")
	at := bytes.LastIndex(sample, []byte(`"event_id":"`)) + len(`"event_id":"`)
	dst = append(dst, sample[:at]...)
	dst = fmt.Appendf(dst, "%036d", n)
	return append(dst, `"}`...)
}

// countingSink answers and says when as many came as were expected.
type countingSink struct {
	url    string
	status int // what it answers
	left   atomic.Int64
	done   chan struct{}
}

func startCountingSink(b testing.TB) *countingSink {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &countingSink{url: "http://" + l.Addr().String(), status: fasthttp.StatusOK}
	server := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.SetStatusCode(s.status)
		if s.left.Add(-1) == 0 {
			close(s.done)
		}
	}}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	b.Cleanup(func() {
		_ = server.Shutdown()
		<-served
	})
	return s
}

func (s *countingSink) expect(n int) {
	s.done = make(chan struct{})
	s.left.Store(int64(n))
}

// direct gives how many signed bodies a second a fasthttp client posts to the sink.
func (s *countingSink) direct(b *testing.B, n int) float64 {
	s.expect(n)
	key := staffetta.NewSigningKey()
	client := &fasthttp.HostClient{Addr: s.url[len("http://"):], MaxConns: throughputProducers}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range throughputProducers {
		wg.Go(func() {
			signer, err := staffetta.NewSigner(key)
			if err != nil {
				b.Error(err)
				return
			}
			req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			defer fasthttp.ReleaseRequest(req)
			defer fasthttp.ReleaseResponse(resp)
			var body []byte
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				body = throughputEvent(body[:0], i)
				req.Header.SetMethod("POST")
				req.SetRequestURI(s.url + "/direct")
				req.Header.SetContentType("application/json")
				req.Header.SetBytesV("X-Webhook-Signature", signer.AppendRespondIO(nil, body))
				req.Header.SetBytesV("webhook-signature", signer.AppendStandard(nil, "id", 1, body))
				req.SetBody(body)
				if err := client.Do(req, resp); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	<-s.done
	return float64(n) / b.Elapsed().Seconds()
}
