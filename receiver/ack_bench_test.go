package receiver

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
)

const benchKey = "a-signing-key-of-respond-io"

// post is a request of 1 KiB that is made before it is timed.
type post struct {
	body []byte
	sign string
}

func makePosts(n int, prefix string) []post {
	posts := make([]post, n)
	mac := hmac.New(sha256.New, []byte(benchKey))
	for i := range posts {
		b := fmt.Appendf(nil, `{"contact":{"id":%d},"message":{"text":"`, i%1000)
		b = append(b, bytes.Repeat([]byte{'x'}, 900)...)
		b = fmt.Appendf(b, `"},"event_type":"message.received","event_id":"%s-%08d-8ccc-ddddeeeeffff"}`, prefix, i)
		mac.Reset()
		mac.Write(b)
		posts[i] = post{b, base64.StdEncoding.EncodeToString(mac.Sum(nil))}
	}
	return posts
}

// sendAll posts them over so many connections, open loop where pace is not 0: request n is due n paces
// after the start, and its latency counts from then. It gives the time in all and the latencies.
func sendAll(b *testing.B, address string, posts []post, connections int, pace time.Duration) (time.Duration, []time.Duration) {
	b.Helper()
	client := &fasthttp.HostClient{Addr: address, MaxConns: connections}
	defer client.CloseIdleConnections()
	latencies := make([]time.Duration, len(posts))
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range connections {
		wg.Go(func() {
			req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			defer fasthttp.ReleaseRequest(req)
			defer fasthttp.ReleaseResponse(resp)
			req.Header.SetMethod(fasthttp.MethodPost)
			req.SetRequestURI("http://" + address + "/hooks/respond")
			req.Header.SetContentType("application/json")
			for {
				i := int(next.Add(1)) - 1
				if i >= len(posts) {
					return
				}
				due := time.Now()
				if pace > 0 {
					due = start.Add(time.Duration(i) * pace)
					if wait := time.Until(due); wait > 0 {
						<-time.After(wait)
					}
				}
				req.Header.Set("X-Webhook-Signature", posts[i].sign)
				req.SetBodyRaw(posts[i].body)
				if err := client.Do(req, resp); err != nil || resp.StatusCode() != fasthttp.StatusOK {
					failed.Add(1)
				}
				latencies[i] = time.Since(due)
			}
		})
	}
	wg.Wait()
	if n := failed.Load(); n > 0 {
		b.Fatalf("%d of %d posts were not answered with 200", n, len(posts))
	}
	slices.Sort(latencies)
	return time.Since(start), latencies
}

// startBare is the same server that only reads the body and answers 200.
func startBare(b *testing.B) string {
	r := &Receiver{cfg: Config{MaxBody: 1 << 20}}
	s := r.newServer()
	s.StreamRequestBody = false
	s.Handler = func(ctx *fasthttp.RequestCtx) {
		_ = ctx.Request.Body()
		ctx.SetStatusCode(fasthttp.StatusOK)
		ctx.SetBodyString("OK")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	b.Cleanup(func() { _ = s.Shutdown() })
	return l.Addr().String()
}

// startReceiver is a whole receiver whose one target takes its events with the rate.
func startReceiver(b *testing.B, power bool, rate float64) string {
	store := startStore(b, b.TempDir(), func(c *embed.Config) {
		c.SyncAlways, c.SyncInterval = power, time.Second
		c.Layout.JournalBytes = 8 << 30
		c.MaxStore = 20 << 30
	})
	r, err := New(b.Context(), Config{
		Listen: "127.0.0.1:0", Connect: store.Connect,
		Sources: []Source{{
			Path: "/hooks/respond", Verify: staffetta.SchemeRespondIO, Keys: []string{benchKey},
			To: []Target{{Handle: func(context.Context, staffetta.Event) error { return nil }, Rate: rate}},
		}},
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return r.Addr().String()
}

// BenchmarkAck measures acknowledgements, verified and durable, against the same server that verifies
// and stores nothing, in turns within one run; then the latency at half of that load. "paused" hands
// nothing on meanwhile, as when the CRM is down; "handing-on" does, to a function.
func BenchmarkAck(b *testing.B) {
	for _, c := range []struct {
		name        string
		power       bool
		rate        float64
		connections int
	}{
		{"process/paused", false, 0.001, 64},
		{"process/handing-on", false, 0, 64},
		{"power/64-connections", true, 0.001, 64},
		{"power/512-connections", true, 0.001, 512},
	} {
		b.Run(c.name, func(b *testing.B) {
			bare, receiver := startBare(b), startReceiver(b, c.power, c.rate)
			round := min(b.N, 20_000)
			var bareTime, receiverTime time.Duration
			sent := 0
			b.ResetTimer()
			for ; sent < b.N; sent += round {
				posts := makePosts(round, fmt.Sprintf("%08x-%s", sent, strings.Repeat("a", 4)))
				took, _ := sendAll(b, bare, posts, c.connections, 0)
				bareTime += took
				took, _ = sendAll(b, receiver, posts, c.connections, 0)
				receiverTime += took
			}
			rate := float64(sent) / receiverTime.Seconds()
			b.ReportMetric(float64(sent)/bareTime.Seconds(), "bare/s")
			b.ReportMetric(rate, "acks/s")
			b.ReportMetric(bareTime.Seconds()/receiverTime.Seconds(), "of-bare")
			posts, pace := makePosts(round, "halfload-bbbb"), time.Duration(2*float64(time.Second)/rate)
			_, latencies := sendAll(b, bare, posts, c.connections, pace)
			b.ReportMetric(float64(latencies[len(latencies)*99/100].Microseconds())/1000, "bare-p99-ms")
			_, latencies = sendAll(b, receiver, posts, c.connections, pace)
			b.ReportMetric(float64(latencies[len(latencies)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(latencies[len(latencies)*99/100].Microseconds())/1000, "p99-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}
