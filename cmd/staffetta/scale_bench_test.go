package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// asProgram makes the test binary be the program itself, so that a test can kill a relay and read
// off what the process takes, with nothing of the test in it.
const asProgram = "STAFFETTA_TEST_AS_PROGRAM"

func init() {
	if os.Getenv(asProgram) != "" {
		main()
	}
}

// The size of BenchmarkTenThousandEndpoints: one large workspace, and many small ones.
const (
	scaleLarge      = 5000
	scaleSmall      = 50
	scaleSmallEach  = 100
	scaleEndpoints  = scaleLarge + scaleSmall*scaleSmallEach
	scaleEvents     = 10 // for each endpoint
	scaleDeliveries = scaleEndpoints * scaleEvents
)

// BenchmarkTenThousandEndpoints makes 10,000 endpoints over the API, looks at the idle relay, lets
// 100,000 events wait, kills the relay, and measures how soon a new one delivers; after half of them
// the same with a clean stop.
func BenchmarkTenThousandEndpoints(b *testing.B) {
	for b.Loop() {
		s := newScaleSink(b)
		dir := b.TempDir()
		p := startScaleRelay(b, dir, "--in-flight", "2", "--deadline", "1m")
		b.ReportMetric(p.ready.Seconds()*1000, "ms-first-start")
		b.ReportMetric(seconds(func() { createScale(b, p, s.url) }), "s-create")
		s.mustBe(b, 0)
		reportIdle(b, p, "-idle")

		s.hold()
		b.ReportMetric(seconds(func() { postScale(b, p) }), "s-post")
		b.ReportMetric(processCPU(p.command.Process.Pid).Seconds(), "cpu-s-post")
		p.kill()
		s.letGo()

		p = startScaleRelay(b, dir)
		b.ReportMetric(p.ready.Seconds()*1000, "ms-start-after-kill")
		reportDelivering(b, p, s, "-after-kill")
		b.ReportMetric(seconds(p.terminate), "s-stop")

		p = startScaleRelay(b, dir)
		b.ReportMetric(p.ready.Seconds()*1000, "ms-start-after-stop")
		reportDelivering(b, p, s, "-after-stop")
		eventually(b, time.Minute, "all deliveries", func() bool { return s.distinct.Load() >= scaleDeliveries })
		b.ReportMetric(float64(s.total.Load()-s.distinct.Load()), "repeated")
		b.ReportMetric(p.memory("VmHWM"), "MB-peak")
		p.terminate()

		p = startScaleRelay(b, dir)
		reportIdle(b, p, "-idle-restarted")
		p.terminate()
		s.mustBe(b, scaleDeliveries)
	}
	b.ReportMetric(0, "ns/op")
}

func seconds(f func()) float64 {
	started := time.Now()
	f()
	return time.Since(started).Seconds()
}

// reportIdle looks at a relay that has nothing to do.
func reportIdle(b *testing.B, p *scaleRelay, suffix string) {
	const watch = 3 * time.Second
	used := processCPU(p.command.Process.Pid)
	<-time.After(watch)
	used = processCPU(p.command.Process.Pid) - used
	b.ReportMetric(100*used.Seconds()/watch.Seconds(), "%cpu"+suffix)
	b.ReportMetric(p.memory("VmRSS"), "MB"+suffix)
}

// reportDelivering waits until half of what is left is delivered.
func reportDelivering(b *testing.B, p *scaleRelay, s *scaleSink, suffix string) {
	before := s.distinct.Load()
	half := before + (scaleDeliveries-before)/2
	reached := func(n int64) float64 {
		eventually(b, time.Minute, fmt.Sprintf("%d deliveries", n), func() bool { return s.distinct.Load() >= n })
		return float64(time.Since(p.started).Milliseconds())
	}
	b.ReportMetric(reached(before+1), "ms-first"+suffix)
	b.ReportMetric(reached(half), "ms-half"+suffix)
	b.ReportMetric(processCPU(p.command.Process.Pid).Seconds(), "cpu-s-half"+suffix)
}

// createScale makes the workspaces and their endpoints, eight requests at a time.
func createScale(b *testing.B, p *scaleRelay, url string) {
	create := func(workspace string, endpoint int) {
		p.must(b, 201, "POST", "/v1/workspaces/"+workspace+"/endpoints",
			fmt.Sprintf(`{"url":"%s/%d","event_types":["message.received"]}`, url, endpoint))
	}
	workspaceOf := func(endpoint int) string {
		if endpoint < scaleLarge {
			return "large"
		}
		return fmt.Sprint("small-", (endpoint-scaleLarge)/scaleSmallEach)
	}
	for n := -1; n < scaleSmall; n++ {
		workspace := fmt.Sprint("small-", n)
		if n < 0 {
			workspace = "large"
		}
		p.must(b, 201, "PUT", "/v1/workspaces/"+workspace, `{"plan":"advanced","quota":0}`)
	}
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 8 {
		wg.Go(func() {
			for n := next.Add(1) - 1; n < scaleEndpoints; n = next.Add(1) - 1 {
				create(workspaceOf(int(n)), int(n))
			}
		})
	}
	wg.Wait()
}

// postScale posts every endpoint its events, in their order. One event of the large workspace is
// thousands of copies: where the store does not take them in time the event is sent again.
func postScale(b *testing.B, p *scaleRelay) {
	post := func(workspace string, n int) {
		body := fmt.Sprintf(`{"event_type":"message.received","event_id":"%d","n":%d,"contact":{"id":1,"name":"%s"}}`, n, n, strings.Repeat("x", 900))
		for range 10 {
			status, answer := p.ask(b, "POST", "/v1/workspaces/"+workspace+"/events", body)
			if status == 202 {
				return
			}
			b.Logf("event %d of %s: %d %s", n, workspace, status, answer)
		}
		b.Fatalf("event %d of %s is not taken", n, workspace)
	}
	for n := range scaleEvents {
		post("large", n)
		for small := range scaleSmall {
			post(fmt.Sprint("small-", small), n)
		}
	}
}

// scaleRelay is a relay in a process of its own.
type scaleRelay struct {
	b       *testing.B
	command *exec.Cmd
	address string
	client  *fasthttp.HostClient
	started time.Time
	ready   time.Duration // until it took requests
}

func startScaleRelay(b *testing.B, dir string, flags ...string) *scaleRelay {
	b.Helper()
	args := append([]string{"relay", "--listen", "127.0.0.1:0", "--data", dir, "--allow-private-networks", "--admin-key", testAdminKey, "--log-level", "error"}, flags...)
	p := &scaleRelay{b: b, command: exec.CommandContext(context.Background(), os.Args[0], args...), started: time.Now()}
	p.command.Env = append(os.Environ(), asProgram+"=1")
	p.command.Stderr = os.Stderr
	stdout, err := p.command.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := p.command.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.command.Process.Kill() })
	for lines := bufio.NewScanner(stdout); p.address == "" && lines.Scan(); {
		if _, url, found := strings.Cut(lines.Text(), "http://"); found {
			p.address, _, _ = strings.Cut(url, " ")
		}
	}
	if p.address == "" {
		b.Fatalf("the relay did not start: %v", p.command.Wait())
	}
	p.ready = time.Since(p.started)
	p.client = &fasthttp.HostClient{Addr: p.address, MaxConns: 64}
	return p
}

// ask makes a request of the admin's.
func (p *scaleRelay) ask(b *testing.B, method, path, body string) (status int, answer string) {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.SetRequestURI("http://" + p.address + path)
	req.Header.SetMethod(method)
	req.Header.Set("Authorization", "Bearer "+testAdminKey)
	req.Header.SetContentType("application/json")
	req.SetBodyString(body)
	if err := p.client.DoTimeout(req, resp, time.Minute); err != nil {
		b.Errorf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode(), string(resp.Body())
}

// must makes a request that has to come to the status.
func (p *scaleRelay) must(b *testing.B, want int, method, path, body string) {
	if status, answer := p.ask(b, method, path, body); status != want {
		b.Errorf("%s %s: status %d, want %d: %s", method, path, status, want, answer)
	}
}

// kill ends the process as a power switch does.
func (p *scaleRelay) kill() {
	_ = p.command.Process.Kill()
	_ = p.command.Wait()
	p.client.CloseIdleConnections()
}

// terminate ends it as an operator does.
func (p *scaleRelay) terminate() {
	p.client.CloseIdleConnections()
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		p.b.Error(err)
	}
	if err := p.command.Wait(); err != nil {
		p.b.Errorf("the relay stopped with %v", err)
	}
}

// memory reads a figure of the process in MB; 0 where /proc is not there.
func (p *scaleRelay) memory(name string) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), name+":")
	kib, _ := strconv.ParseFloat(strings.Fields(after)[0], 64)
	return kib * 1024 / 1e6
}

// scaleSink is where all endpoints lead. It checks the order of each.
type scaleSink struct {
	url             string
	total, distinct atomic.Int64
	held            atomic.Pointer[chan struct{}]
	next            []atomic.Int32 // the number of the event that each endpoint gets next
	wrong           atomic.Int64
}

func newScaleSink(b *testing.B) *scaleSink {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &scaleSink{url: "http://" + l.Addr().String(), next: make([]atomic.Int32, scaleEndpoints)}
	server := &fasthttp.Server{Handler: s.take}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	b.Cleanup(func() {
		s.letGo()
		_ = server.Shutdown()
		<-served
	})
	return s
}

func (s *scaleSink) take(ctx *fasthttp.RequestCtx) {
	if held := s.held.Load(); held != nil {
		<-*held
		return
	}
	endpoint, err := strconv.Atoi(string(ctx.Path()[1:]))
	_, rest, found := bytes.Cut(ctx.PostBody(), []byte(`"n":`))
	if err != nil || !found || endpoint >= len(s.next) {
		s.wrong.Add(1)
		return
	}
	n := int32(rest[0] - '0')
	s.total.Add(1)
	switch next := s.next[endpoint].Load(); {
	case n == next:
		s.next[endpoint].Store(n + 1)
		s.distinct.Add(1)
	case n > next:
		s.wrong.Add(1) // one was left out
	}
}

// hold keeps every request without an answer until letGo.
func (s *scaleSink) hold() {
	held := make(chan struct{})
	s.held.Store(&held)
}

func (s *scaleSink) letGo() {
	if held := s.held.Swap(nil); held != nil {
		close(*held)
	}
}

// mustBe fails the benchmark unless so many different events have come, all in order.
func (s *scaleSink) mustBe(b *testing.B, deliveries int64) {
	b.Helper()
	if got, wrong := s.distinct.Load(), s.wrong.Load(); got != deliveries || wrong != 0 {
		b.Errorf("%d different events came, %d out of order; want %d and none", got, wrong, deliveries)
	}
}
