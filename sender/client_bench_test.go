package sender

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/staffetta-relay/staffetta"
)

// benchPayload is 1 KiB of JSON.
func benchPayload() []byte {
	return fmt.Appendf(nil, `{"text":"%s"}`, bytes.Repeat([]byte("x"), 1<<10-len(`{"text":""}`)))
}

func benchServer(b *testing.B, listener net.Listener) {
	b.Helper()
	server := &fasthttp.Server{Handler: func(*fasthttp.RequestCtx) {}}
	go func() { _ = server.Serve(listener) }()
	b.Cleanup(func() { _ = listener.Close() })
}

// BenchmarkAttempt is one attempt with 1 KiB on a connection that is kept: two signatures, the
// request, the response; the sink's share of the CPU is in it. The twin is the same request, built
// by fasthttp.Request and sent by fasthttp's DoDeadline, which is what the hand-made head and the
// exchange on acquired connections are worth.
func BenchmarkAttempt(b *testing.B) {
	ev := staffetta.Event{ID: testEvent.ID, Type: testEvent.Type, Payload: benchPayload()}
	memory := fasthttputil.NewInmemoryListener()
	benchServer(b, memory)
	inMemory := func(context.Context, string, string) (net.Conn, error) { return memory.Dial() }
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	benchServer(b, tcp)

	run := func(cfg ClientConfig, url string) func(*testing.B) {
		return func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			e := testEndpoint(b, testClient(b, cfg), "w", url)
			var a Attempt
			b.ReportAllocs()
			b.SetBytes(int64(len(ev.Payload)))
			for b.Loop() {
				if e.Attempt(ctx, ev, 1, &a); a.Outcome.Status != 200 {
					b.Fatal(a.Outcome)
				}
			}
		}
	}
	b.Run("memory", run(ClientConfig{Dial: inMemory}, "http://e.test/hook"))
	b.Run("tcp", run(ClientConfig{}, "http://"+tcp.Addr().String()+"/hook"))
	b.Run("tcp/64 at once", func(b *testing.B) {
		c := testClient(b, ClientConfig{})
		b.ReportAllocs()
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			e := testEndpoint(b, c, "w", "http://"+tcp.Addr().String()+"/hook")
			var a Attempt
			for pb.Next() {
				if e.Attempt(b.Context(), ev, 1, &a); a.Outcome.Status != 200 {
					b.Error(a.Outcome)
					return
				}
			}
		})
	})
	b.Run("memory/twin with fasthttp's Do", benchDo(&fasthttp.HostClient{
		Addr: "e.test:80", Dial: func(string) (net.Conn, error) { return memory.Dial() },
	}, "http://e.test/hook", ev))
	b.Run("tcp/twin with fasthttp's Do", benchDo(&fasthttp.HostClient{Addr: tcp.Addr().String()}, "http://"+tcp.Addr().String()+"/hook", ev))
}

func benchDo(hc *fasthttp.HostClient, url string, ev staffetta.Event) func(*testing.B) {
	return func(b *testing.B) {
		hc.DisableHeaderNamesNormalizing, hc.DisablePathNormalizing = true, true
		hc.MaxResponseBodySize = maxBody
		c := testClient(b, ClientConfig{})
		e := testEndpoint(b, c, "w", url)
		current := e.current
		var req fasthttp.Request
		var resp fasthttp.Response
		var text []byte
		b.ReportAllocs()
		b.SetBytes(int64(len(ev.Payload)))
		for b.Loop() {
			var a Attempt
			a.StartedAt = time.Now()
			req.Reset()
			req.Header.DisableNormalizing()
			req.Header.SetMethod(fasthttp.MethodPost)
			req.SetRequestURI(url)
			req.Header.SetContentType("application/json")
			req.Header.SetUserAgent("Staffetta")
			text = current.AppendRespondIO(text[:0], ev.Payload)
			req.Header.SetBytesV("X-Webhook-Signature", text)
			req.Header.Set("webhook-id", ev.ID)
			text = fasthttp.AppendUint(text[:0], int(a.StartedAt.Unix()))
			req.Header.SetBytesV("webhook-timestamp", text)
			text = current.AppendStandard(text[:0], ev.ID, a.StartedAt.Unix(), ev.Payload)
			req.Header.SetBytesV("webhook-signature", text)
			req.Header.Set("Staffetta-Attempt", "1")
			req.SetBody(ev.Payload)
			if err := hc.DoDeadline(&req, &resp, a.StartedAt.Add(c.cfg.Deadline)); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkNewConnection is one attempt with all that a new connection costs.
func BenchmarkNewConnection(b *testing.B) {
	peer := testPeer(b, writing("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
	e := testEndpoint(b, testClient(b, ClientConfig{TLSConfig: &tls.Config{}}), "w", "http://"+peer)
	var a Attempt
	b.ReportAllocs()
	for b.Loop() {
		if e.Attempt(b.Context(), testEvent, 1, &a); a.Outcome.Status != 200 {
			b.Fatal(a.Outcome)
		}
	}
}
