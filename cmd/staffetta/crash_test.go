package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// incident is how and when a run of the relay is ended.
type incident uint8

const (
	killRunning  incident = iota // some time after it was ready
	killStarting                 // while it starts
	killInBatch                  // while a batch of 1,000 lines is under way
	killStopping                 // while it stops
	stopRunning                  // SIGTERM some time after it was ready
)

// incidents gives the order of what happens: mixed by the seed, and every start-up that is killed is
// followed by another one.
func incidents(r *rand.Rand, running, twiceStarting, inBatch, stopping, stops int) (all []incident) {
	blocks := slices.Repeat([][]incident{{killRunning}}, running)
	blocks = append(blocks, slices.Repeat([][]incident{{killStarting, killStarting}}, twiceStarting)...)
	blocks = append(blocks, slices.Repeat([][]incident{{killInBatch}}, inBatch)...)
	blocks = append(blocks, slices.Repeat([][]incident{{killStopping}}, stopping)...)
	blocks = append(blocks, slices.Repeat([][]incident{{stopRunning}}, stops)...)
	r.Shuffle(len(blocks), func(i, k int) { blocks[i], blocks[k] = blocks[k], blocks[i] })
	return slices.Concat(blocks...)
}

// crashTest drives the relay through its incidents.
type crashTest struct {
	t       *testing.T
	w       *crashWorld
	random  *rand.Rand
	program string
	address string
	api     *apiClient
	stalls  stalls
	runs    []crashRun
	stops   []time.Duration // how long each stop took
	log     strings.Builder // what the relay said in all runs
	quit    context.CancelFunc
	posting sync.WaitGroup
}

func TestNothingIsLostOrReorderedWhenTheRelayIsKilledAgainAndAgain(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no SIGTERM to send")
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("STAFFETTA_TEST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("STAFFETTA_TEST_SEED=%d", seed)
	x := &crashTest{t: t, random: rand.New(rand.NewPCG(seed, 0)), program: buildProgram(t), address: freeAddress(t)}
	x.api = newAPIClient(x.address, crashAdminKey)
	plan := incidents(x.random, 6, 3, 6, 2, 5)
	if testing.Short() {
		plan = incidents(x.random, 1, 1, 1, 1, 1)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 110*time.Second)
	defer cancel()
	x.quit = cancel
	go x.stalls.watch(ctx)

	x.w = newCrashWorld(t, seed, x.address)
	data := filepath.Join(t.TempDir(), "data")
	p := x.start(data)
	x.awaitReady(ctx, p)
	x.subscribe()

	for _, p := range x.w.producers {
		x.posting.Go(func() { p.run(ctx) })
	}
	// What the store leaves behind where a kill falls into its start: its probe whether it can write.
	if err := os.WriteFile(filepath.Join(data, "jetstream", "_test_1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, what := range plan {
		x.w.limit.Store([]int64{100, 1000, 5000}[i%3])
		x.happen(ctx, p, what)
		p = x.start(data)
	}
	x.finish(ctx, p)
	x.judge()
}

// start starts the relay on the data folder.
func (x *crashTest) start(data string) *process {
	var retry []string
	for _, d := range crashRetry {
		retry = append(retry, d.String())
	}
	p := startProcess(x.t, x.program, "relay", "--data", data, "--listen", x.address, "--admin-key", crashAdminKey,
		"--allow-private-networks", "--retry", strings.Join(retry, ","), "--deadline", "5s")
	x.runs = append(x.runs, crashRun{started: p.started.Sub(x.w.began)})
	return p
}

// subscribe makes the workspace and its endpoints. No quota: the failures are meant.
func (x *crashTest) subscribe() {
	x.api.must(x.t, "PUT", "/v1/workspaces/crash", `{"plan":"advanced","quota":0}`, fasthttp.StatusCreated, nil)
	for _, e := range x.w.endpoints {
		var types []string
		for kind, name := range crashTypes {
			if crashWants(e.n, kind) {
				types = append(types, strconv.Quote(name))
			}
		}
		var made struct {
			SigningKey string `json:"signing_key"`
		}
		x.api.must(x.t, "POST", "/v1/workspaces/crash/endpoints", fmt.Sprintf(`{"url":"http://%s/hook/%d","event_types":[%s]}`,
			x.w.address, e.n, strings.Join(types, ",")), fasthttp.StatusCreated, &made)
		e.key = made.SigningKey
	}
}

// happen lets the relay run into an incident and notes when that was.
func (x *crashTest) happen(ctx context.Context, p *process, what incident) {
	if what != killStarting {
		x.awaitReady(ctx, p)
	}
	switch what {
	case killRunning:
		pause(ctx, x.upTo(1500*time.Millisecond))
	case killStarting:
		pause(ctx, x.upTo(x.usualStart()*5/4))
	case killInBatch:
		select {
		case <-x.w.batches.underWay:
			pause(ctx, x.upTo(60*time.Millisecond))
		case <-time.After(2 * time.Second): // the producers wait for the endpoints
		}
	case killStopping, stopRunning:
		pause(ctx, x.upTo(time.Second))
	}
	switch {
	case ctx.Err() != nil:
		x.giveUp(p, "the test takes too long")
	case !p.running():
		x.giveUp(p, "the relay ended by itself")
	case what == stopRunning:
		x.stop(p)
		return
	case what == killStopping:
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		pause(ctx, x.upTo(150*time.Millisecond))
	}
	x.ended(p, p.end(syscall.SIGKILL))
}

// awaitReady notes how long the start took, and from then on how quickly the relay answers.
func (x *crashTest) awaitReady(ctx context.Context, p *process) {
	run := &x.runs[len(x.runs)-1]
	if run.ready > 0 {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, crashHang)
	defer cancel()
	if err := x.api.ready(bounded, p); err != nil {
		x.giveUp(p, fmt.Sprintf("the relay of run %d is not ready: %v", len(x.runs)-1, err))
	}
	run.ready = time.Since(x.w.began) - run.started
	go x.stalls.ask(newAPIClient(x.address, crashAdminKey), p)
}

// stop ends a run with SIGTERM.
func (x *crashTest) stop(p *process) {
	x.runs[len(x.runs)-1].ending = stopped
	at, heeded := p.stop(10 * time.Second)
	if !heeded {
		x.giveUp(p, "the relay did not stop within 10 s")
	}
	x.stops = append(x.stops, time.Since(at))
	if p.err != nil {
		x.w.fault("after SIGTERM the relay ended with: %v", p.err)
	}
	x.ended(p, time.Now())
}

// ended notes when a run ended, and what the relay said in it.
func (x *crashTest) ended(p *process, at time.Time) {
	n := len(x.runs) - 1
	x.runs[n].ended = at.Sub(x.w.began)
	_, _ = fmt.Fprintf(&x.log, "--- run %d, %v to %v\n", n, ms(x.runs[n].started), ms(x.runs[n].ended))
	for line := range strings.Lines(p.stderr.String()) {
		if !strings.Contains(line, `"endpoint":`) { // failures: there are many, and they are meant
			_, _ = x.log.WriteString(line)
		}
	}
	for _, line := range p.complaints() {
		x.w.fault("the relay complained in run %d: %.500s", n, line)
	}
}

func (x *crashTest) upTo(d time.Duration) time.Duration {
	return time.Duration(x.random.Int64N(int64(d)))
}

// starts are the times from start to ready of the runs that came so far.
func (x *crashTest) starts() (all []time.Duration) {
	for _, r := range x.runs {
		if r.ready > 0 {
			all = append(all, r.ready)
		}
	}
	slices.Sort(all)
	return all
}

func (x *crashTest) usualStart() time.Duration {
	all := x.starts()
	return all[len(all)/2]
}

// finish waits until every event has arrived everywhere, and stops the relay.
func (x *crashTest) finish(ctx context.Context, p *process) {
	x.awaitReady(ctx, p)
	pause(ctx, 300*time.Millisecond)
	x.w.halt.Store(true)
	posted := make(chan struct{})
	go func() {
		x.posting.Wait()
		close(posted)
	}()
	moved, last := time.Now(), int64(0)
	waitUntil(ctx, 10*time.Millisecond, func() bool {
		if n := x.w.arrived.Load(); n != last {
			moved, last = time.Now(), n
		}
		select {
		case <-posted:
			return x.w.owed() == 0 || time.Since(moved) > crashHang
		default:
			return time.Since(moved) > crashHang
		}
	})
	if n := x.w.owed(); n != 0 {
		x.giveUp(p, fmt.Sprintf("%d deliveries are missing; the last one came %v ago", n, time.Since(moved).Round(time.Second)))
	}
	x.stop(p)
}

// giveUp ends the test with everything that tells why.
func (x *crashTest) giveUp(p *process, why string) {
	x.t.Helper()
	run := &x.runs[len(x.runs)-1]
	run.ended = time.Since(x.w.began)
	said := p.goroutines()
	x.quit()
	x.posting.Wait()
	x.judge()
	x.t.Fatalf("%s\n--- what the relay said in the last run, and its goroutines\n%s", why, said)
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// judge holds what came against what was sent, and prints the figures.
func (x *crashTest) judge() {
	j := &crashJudge{w: x.w, runs: x.runs, stalls: &x.stalls}
	j.all()
	kills, most := 0, 0
	for i, r := range x.runs {
		if r.ending == killed {
			kills++
		}
		most = max(most, j.perKill[i])
	}
	events, repeated, cutOff := uint32(0), 0, 0
	for _, p := range x.w.producers {
		events += p.accepted.Load()
		repeated += p.repeated
		cutOff += p.cutOff
	}
	starts := append(x.starts(), 0)
	x.t.Logf("%d events, %d arrivals at %d endpoints in %v; %d kills, %d stops; %d requests cut off, %d repeated after their 202; "+
		"repeats: %d, at most %d after one kill, %d of one endpoint, accepted at most %v before the kill (%v without the stalls); "+
		"restart min %v median %v max %v; stop max %v",
		events, x.w.arrived.Load(), crashEndpoints, time.Since(x.w.began).Round(time.Second), kills, len(x.stops), cutOff, repeated,
		j.repeats, most, j.mostAtOnce, ms(j.oldest), ms(j.oldestAwake),
		ms(starts[0]), ms(starts[(len(starts)-1)/2]), ms(slices.Max(starts)), ms(slices.Max(append(x.stops, 0))))
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	for _, fault := range x.w.faults {
		x.t.Error(fault)
	}
	if x.w.hidden > 0 {
		x.t.Errorf("and %d faults more", x.w.hidden)
	}
	if x.t.Failed() {
		x.t.Logf("what the relay said:\n%s", tail(x.log.String(), 20<<10))
	}
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
