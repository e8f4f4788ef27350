package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// The neighbourhood of BenchmarkIsolation.
const (
	healthyEndpoints  = 80
	hangingEndpoints  = 10
	refusingEndpoints = 10

	// isolationLines is how many events a batch has, each for every healthy endpoint of its workspace.
	isolationLines = 25
	// isolationEvents is how many events each healthy endpoint gets in a phase.
	isolationEvents = 200
	// isolationRounds is how many pairs of phases are measured.
	isolationRounds = 6
)

// BenchmarkIsolation measures what ten endpoints that hang and ten that refuse cost eighty healthy
// ones. The same load goes to the eighty in phases with the twenty and without them, which alternate
// in one run. ratio is the eighty's rate with the twenty to their rate without, the median of the
// rounds; cpu-ratio is the same of the process's time for a delivery, and steadier on a busy machine.
func BenchmarkIsolation(b *testing.B) {
	for _, workspaces := range []int{1, 100} {
		b.Run(fmt.Sprintf("workspaces=%d", workspaces), func(b *testing.B) {
			n := newNeighbourhood(b, workspaces)
			n.phase(false) // connections, pools, caches
			n.phase(true)
			for b.Loop() {
				n.measure()
			}
		})
	}
}

// neighbourhood is a relay with healthy endpoints, for message.received, and others, for
// message.sent.
type neighbourhood struct {
	b       *testing.B
	relay   *liveRelay
	healthy []string // the workspaces of the healthy endpoints, each once
	others  []string // and of the others
	states  []string // the paths of the others in the API

	delivered atomic.Int64
	mu        sync.Mutex
	hanging   map[net.Conn]bool
}

func newNeighbourhood(b *testing.B, workspaces int) *neighbourhood {
	n := &neighbourhood{b: b, hanging: make(map[net.Conn]bool)}
	server := &fasthttp.Server{Handler: func(*fasthttp.RequestCtx) { n.delivered.Add(1) }}
	var served sync.WaitGroup
	b.Cleanup(func() {
		_ = server.Shutdown()
		n.release()
		served.Wait()
	})
	n.relay = startLive(b, b.TempDir(), func(s *relaySettings) { s.shards = 16 })
	for i := range healthyEndpoints + hangingEndpoints + refusingEndpoints {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		workspace := fmt.Sprint("w", i%workspaces)
		if i < workspaces {
			n.relay.workspace(workspace)
		}
		eventType, list := "message.sent", &n.others
		switch {
		case i < healthyEndpoints:
			eventType, list = "message.received", &n.healthy
			served.Go(func() { _ = server.Serve(l) })
		case i < healthyEndpoints+hangingEndpoints:
			served.Go(func() { n.hang(l) })
			b.Cleanup(func() { _ = l.Close() })
		default:
			_ = l.Close()
		}
		id := n.relay.endpoint(workspace, "http://"+l.Addr().String()+"/hook", eventType)
		if !slices.Contains(*list, workspace) {
			*list = append(*list, workspace)
		}
		if i >= healthyEndpoints {
			n.states = append(n.states, "/v1/workspaces/"+workspace+"/endpoints/"+id)
		}
	}
	n.present(false)
	for range 4 { // they have a backlog from the start
		n.post(n.others, "message.sent", isolationLines)
	}
	return n
}

// hang takes connections and never answers on them.
func (n *neighbourhood) hang(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		n.mu.Lock()
		n.hanging[c] = true
		n.mu.Unlock()
		go func() { _, _ = io.Copy(io.Discard, c) }() // until either side closes
	}
}

// release ends what hangs.
func (n *neighbourhood) release() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.hanging {
		_ = c.Close()
	}
	clear(n.hanging)
}

// present lets the others get events, or holds theirs back.
func (n *neighbourhood) present(yes bool) {
	action := map[bool]string{true: "/enable", false: "/disable"}[yes]
	for _, path := range n.states {
		n.relay.must(200, "POST", path+action, "")
	}
	if !yes {
		n.release()
	}
}

// post sends a batch of events to each of the workspaces.
func (n *neighbourhood) post(workspaces []string, eventType string, lines int) {
	body := strings.Repeat(`{"event_type":"`+eventType+`","contact":{"id":1,"name":"`+strings.Repeat("x", 900)+"\"}}\n", lines)
	for _, workspace := range workspaces {
		n.relay.must(202, "POST", "/v1/workspaces/"+workspace+"/events", body, "Content-Type", "application/x-ndjson")
	}
}

// phase sends the load to the healthy endpoints and waits until all of it is delivered.
func (n *neighbourhood) phase(withOthers bool) (perSecond, cpuMicros float64) {
	n.present(withOthers)
	n.delivered.Store(0)
	started, cpu := time.Now(), processCPU(os.Getpid())
	var producers sync.WaitGroup
	var batches atomic.Int64
	for range 4 {
		producers.Go(func() {
			for batches.Add(1) <= isolationEvents/isolationLines {
				n.post(n.healthy, "message.received", isolationLines)
				if withOthers { // they get events as well, and never catch up
					n.post(n.others, "message.sent", 1)
				}
			}
		})
	}
	producers.Wait()
	const want = isolationEvents * healthyEndpoints
	eventually(n.b, time.Minute, "all deliveries to the healthy endpoints", func() bool { return n.delivered.Load() >= want })
	took, used := time.Since(started), processCPU(os.Getpid())-cpu
	return want / took.Seconds(), used.Seconds() * 1e6 / want
}

// measure alternates the phases in the order ABBA, so that what drifts counts for both.
func (n *neighbourhood) measure() {
	var ratios, cpuRatios []float64
	for round := range isolationRounds {
		var rates, cpu [2]float64
		for i := range 2 {
			with := i ^ round&1
			rates[with], cpu[with] = n.phase(with == 1)
		}
		ratios = append(ratios, rates[1]/rates[0])
		cpuRatios = append(cpuRatios, cpu[1]/cpu[0])
		n.b.Logf("round %d: the 80 alone %.0f/s, %.0f µs of CPU each; beside the 20 %.0f/s, %.0f µs", round, rates[0], cpu[0], rates[1], cpu[1])
	}
	n.b.ReportMetric(median(ratios), "ratio")
	n.b.ReportMetric(median(cpuRatios), "cpu-ratio")
	n.b.ReportMetric(0, "ns/op")
}

func median(of []float64) float64 {
	slices.Sort(of)
	return (of[(len(of)-1)/2] + of[len(of)/2]) / 2
}

// processCPU is the time that a process has used of all cores, in steps of 10 ms; 0 where /proc is
// not there.
func processCPU(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}
