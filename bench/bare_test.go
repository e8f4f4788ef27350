package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

// aBareServer runs one in this process. close closes its standard input, ended has what it returns.
func aBareServer(t *testing.T, ctx context.Context) (address string, closeInput func() error, ended <-chan error) {
	t.Helper()
	input, hold := io.Pipe()
	output, say := io.Pipe()
	t.Cleanup(func() { _ = hold.Close() })
	done := make(chan error, 1)
	go func() {
		err := RunBareServer(ctx, Options{Target: "http://127.0.0.1:0"}, input, say)
		_ = say.CloseWithError(io.EOF)
		done <- err
	}()
	lines := bufio.NewScanner(output)
	if !lines.Scan() {
		t.Fatalf("it says nothing, and ends with %v", <-done)
	}
	var listening bareListening
	if err := json.Unmarshal(lines.Bytes(), &listening); err != nil || !strings.HasPrefix(listening.Address, "127.0.0.1:") {
		t.Fatalf("%v: %s", err, lines.Bytes())
	}
	return listening.Address, hold.Close, done
}

func TestTheBareServerAnswersAsAReceiverDoesUntilItsInputIsClosed(t *testing.T) {
	address, closeInput, ended := aBareServer(t, t.Context())
	client := &fasthttp.HostClient{Addr: address, MaxConns: 1}
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	req.SetRequestURI("http://" + address + receiverPath)
	req.Header.SetMethod(fasthttp.MethodPost)
	for _, size := range []int{0, 1024, 100_000} { // the last is more than what fasthttp reads by itself
		req.SetBody(bytes.Repeat([]byte("x"), size))
		if err := client.Do(req, resp); err != nil || resp.StatusCode() != 200 || string(resp.Body()) != "OK" ||
			string(resp.Header.ContentType()) != "text/plain; charset=utf-8" || string(resp.Header.Server()) != "Staffetta" || resp.ConnectionClose() {
			t.Errorf("%d bytes: %v\n%s", size, err, resp)
		}
	}
	_ = closeInput() // with a connection open, as when the bench is killed
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", address); err == nil {
		_ = c.Close()
		t.Error("it listens still")
	}
}

func TestTheBareServerEndsWhenItIsTold(t *testing.T) {
	ctx, tell := context.WithCancel(t.Context())
	_, _, ended := aBareServer(t, ctx)
	tell()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestTheBareServerListensOnTheLoopbackOnly(t *testing.T) {
	for _, target := range []string{
		"", "127.0.0.1:0", "http://:0", "http://0.0.0.0:0", "http://[::]:0", "http://192.0.2.1:0", "http://sink.example.com:0",
		"http://127.0.0.1:0@192.0.2.1:0", "https://127.0.0.1:0",
	} {
		var out bytes.Buffer
		err := RunBareServer(t.Context(), Options{Target: target}, strings.NewReader(""), &out)
		if _, usage := errors.AsType[UsageError](err); !usage || !strings.Contains(err.Error(), "--target must be where to listen on the loopback") || out.Len() > 0 {
			t.Errorf("%q: %v %q", target, err, &out)
		}
	}
}

func TestTheBareServerNeedsAProcessOfItsOwn(t *testing.T) {
	templates, err := NewTemplates(MinPayload)
	if err != nil {
		t.Fatal(err)
	}
	run := &Run{Binary: filepath.Join(t.TempDir(), "none")}
	_, err = run.startBare(t.Context(), templates, receiverCases[0], staffetta.NewSigningKey())
	if err == nil || !strings.Contains(err.Error(), "the bare-server failed") {
		t.Error(err)
	}
}

func TestTurnsDivideAPhaseWithAFloorBesideEachRound(t *testing.T) {
	for d, want := range map[time.Duration]turns{
		100 * time.Millisecond: {2, 50 * time.Millisecond, 100 * time.Millisecond},
		500 * time.Millisecond: {2, 250 * time.Millisecond, 125 * time.Millisecond},
		3 * time.Second:        {4, 750 * time.Millisecond, 375 * time.Millisecond},
		9 * time.Second:        {12, 750 * time.Millisecond, 375 * time.Millisecond},
		time.Hour:              {12, 5 * time.Minute, 500 * time.Millisecond},
	} {
		if got := turnsOf(d); got != want {
			t.Errorf("%s: %+v, want %+v", d, got, want)
		}
	}
}

// aRound is a phase of a second's load and half a second until all is delivered.
func aRound(events int64, answer time.Duration) *Phase {
	p := &Phase{
		Drained: true, Drain: 500 * time.Millisecond, Backlog: events / 10, Answered: time.Second, Own: time.Second,
		Used: Usage{CPU: time.Second, RSS: events, Known: true},
		Load: &Load{Offered: events, Accepted: events, Took: time.Second, Ack: NewHistogram(), Late: NewHistogram()},
		Timeline: []Sample{
			{AtS: 1, Accepted: events, Delivered: events / 2, CPUS: 0.5},
			{AtS: 1.5, Accepted: events, Delivered: events, CPUS: 1},
		},
		Measure: &Measure{latency: NewHistogram()},
	}
	p.Load.Ack.Record(0, answer)
	p.Measure.latency.Record(1, answer)
	p.Measure.from.Store(7e18)
	p.Measure.last.Store(7e18 + 1.4e9)
	p.Measure.delivered.Store(events)
	return p
}

func TestRoundsAreJoinedAsIfNothingHadBeenBetween(t *testing.T) {
	p := joined([]*Phase{aRound(100, 10*time.Millisecond), aRound(300, 30*time.Millisecond)})
	if p.Load.Accepted != 400 || p.Load.Offered != 400 || p.Load.Took != 2*time.Second || p.Measure.Delivered() != 400 || p.Measure.Took() != 2800*time.Millisecond {
		t.Errorf("%+v %+v", p.Load, p.Measure)
	}
	if p.Backlog != 40 || p.Drain != time.Second || !p.Drained || p.Own != 2*time.Second || p.Answered != 2500*time.Millisecond {
		t.Errorf("%+v", p)
	}
	if want := (Usage{CPU: 2 * time.Second, RSS: 300, Known: true}); p.Used != want {
		t.Errorf("%+v, want %+v", p.Used, want)
	}
	for name, h := range map[string]*Histogram{"answers": p.Load.Ack, "latencies": p.Measure.Latency()} {
		if q := h.Quantiles(); h.Count() != 2 || q.P50 < 9.9 || q.P50 > 10.1 || q.Max < 29.9 || q.Max > 30.1 {
			t.Errorf("%s: %+v", name, q)
		}
	}
	if n := len(p.Timeline); n != 4 || p.Timeline[2].AtS != 2.5 || p.Timeline[2].Accepted != 400 || p.Timeline[2].Delivered != 250 || p.Timeline[3].CPUS != 2 {
		t.Errorf("%+v", p.Timeline)
	}
	lost := aRound(100, time.Millisecond)
	lost.Drained = false
	if joined([]*Phase{lost, aRound(100, time.Millisecond)}).Drained {
		t.Error("what a round lost is forgotten")
	}
}
