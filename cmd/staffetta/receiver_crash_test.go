package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
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

	"github.com/jackc/pgx/v5"

	"github.com/staffetta-relay/staffetta"
)

// receiverCrash drives the real receiver through kills and stops, under load.
type receiverCrash struct {
	t       *testing.T
	w       *storm
	random  *rand.Rand
	program string
	key     string
	listen  string
	admin   string
	data    string
	file    string
	extra   []string // arguments
	probe   *apiClient
	stalls  stalls
	runs    []crashRun
	stops   []time.Duration
	log     strings.Builder
	sending sync.WaitGroup
}

func newReceiverCrash(t *testing.T) *receiverCrash {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("there is no SIGTERM to send")
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("STAFFETTA_TEST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("STAFFETTA_TEST_SEED=%d", seed)
	dir := t.TempDir()
	x := &receiverCrash{
		t: t, random: rand.New(rand.NewPCG(seed, 0)), program: buildProgram(t), key: staffetta.NewSigningKey(),
		listen: freeAddress(t), admin: freeAddress(t), data: filepath.Join(dir, "data"), file: filepath.Join(dir, "events.jsonl"),
	}
	x.w = newStorm(t)
	x.probe = newAPIClient(x.listen, "")
	return x
}

func TestReceiverLosesAndReordersNothingWhenItIsKilledAgainAndAgain(t *testing.T) {
	x := newReceiverCrash(t)
	plan := incidents(x.random, 12, 3, 0, 2, 3) // 20 kills, 3 stops
	if testing.Short() {
		plan = incidents(x.random, 2, 1, 0, 1, 1)
	}
	x.run(plan)
}

// With a Postgres behind it, the table has each webhook once: a repeat changes nothing.
func TestReceiverThatIsKilledPutsEveryWebhookIntoPostgresExactlyOnce(t *testing.T) {
	dsn := os.Getenv("STAFFETTA_TEST_POSTGRES")
	if dsn == "" {
		t.Skip("STAFFETTA_TEST_POSTGRES names no server: make test-all starts one")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	table := fmt.Sprintf("storm_%d", time.Now().UnixNano())
	t.Cleanup(func() { _, _ = conn.Exec(context.Background(), "DROP TABLE IF EXISTS "+table) })
	x := newReceiverCrash(t)
	x.extra = []string{"--to", dsn + "#" + table}
	x.run(incidents(x.random, 5, 1, 0, 1, 1))
	x.checkTable(conn, table)
}

func (x *receiverCrash) run(plan []incident) {
	ctx, cancel := context.WithTimeout(x.t.Context(), 3*time.Minute)
	defer cancel()
	go x.stalls.watch(ctx)
	p := x.start()
	x.awaitReady(ctx, p)
	for n := range stormSenders {
		x.sending.Go(func() { x.w.send(ctx, n, x.listen, x.key) })
	}
	for i, what := range plan {
		x.w.limit.Store([]int64{10, 200, 2000}[i%3])
		x.happen(ctx, p, what)
		p = x.start()
	}
	x.finish(ctx, p)
	x.judge()
}

func (x *receiverCrash) start() *process {
	args := []string{
		"receiver", "--data", x.data, "--listen", x.listen, "--admin-listen", x.admin, "--admin-key", crashAdminKey,
		"--source", stormPath, "--key", x.key, "--to", "http://" + x.w.address + "/in/", "--to", "file:" + x.file,
		"--retry-first", "30ms", "--retry-max", "100ms", "--timeout", "5s",
	}
	p := startProcess(x.t, x.program, append(args, x.extra...)...)
	x.runs = append(x.runs, crashRun{started: p.started.Sub(x.w.began)})
	return p
}

func (x *receiverCrash) awaitReady(ctx context.Context, p *process) {
	run := &x.runs[len(x.runs)-1]
	if run.ready > 0 {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, crashHang)
	defer cancel()
	if err := x.probe.ready(bounded, p); err != nil {
		x.giveUp(p, fmt.Sprintf("the receiver of run %d is not ready: %v", len(x.runs)-1, err))
	}
	run.ready = time.Since(x.w.began) - run.started
	go x.stalls.ask(newAPIClient(x.listen, ""), p)
}

// happen lets the receiver run into an incident.
func (x *receiverCrash) happen(ctx context.Context, p *process, what incident) {
	switch what {
	case killStarting:
		starts := x.starts()
		pause(ctx, x.upTo(starts[len(starts)/2]*5/4))
	default:
		x.awaitReady(ctx, p)
		pause(ctx, x.upTo(1500*time.Millisecond))
	}
	switch {
	case ctx.Err() != nil:
		x.giveUp(p, "the test takes too long")
	case !p.running():
		x.giveUp(p, "the receiver ended by itself")
	case what == stopRunning:
		x.stop(p)
		return
	case what == killStopping:
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		pause(ctx, x.upTo(150*time.Millisecond))
	}
	x.ended(p, p.end(syscall.SIGKILL))
}

// stop ends a run with SIGTERM, in the middle of the load.
func (x *receiverCrash) stop(p *process) {
	x.runs[len(x.runs)-1].ending = stopped
	at, heeded := p.stop(15 * time.Second) // 6 s for what is under way, and the store's own end
	if !heeded {
		x.giveUp(p, "the receiver did not stop within 15 s")
	}
	x.stops = append(x.stops, time.Since(at))
	if p.err != nil {
		x.w.fault("after SIGTERM the receiver ended with: %v", p.err)
	}
	x.ended(p, time.Now())
}

func (x *receiverCrash) ended(p *process, at time.Time) {
	n := len(x.runs) - 1
	x.runs[n].ended = at.Sub(x.w.began)
	_, _ = fmt.Fprintf(&x.log, "--- run %d, %v to %v\n%s", n, ms(x.runs[n].started), ms(x.runs[n].ended), p.stderr.String())
	for _, line := range p.complaints() {
		x.w.fault("the receiver complained in run %d: %.500s", n, line)
	}
}

func (x *receiverCrash) upTo(d time.Duration) time.Duration {
	return time.Duration(x.random.Int64N(int64(d)))
}

func (x *receiverCrash) starts() (all []time.Duration) {
	for _, r := range x.runs {
		if r.ready > 0 {
			all = append(all, r.ready)
		}
	}
	slices.Sort(all)
	return all
}

// finish waits until every target has everything, and stops the receiver.
func (x *receiverCrash) finish(ctx context.Context, p *process) {
	x.awaitReady(ctx, p)
	pause(ctx, 300*time.Millisecond)
	x.w.halt.Store(true)
	x.sending.Wait() // each ends with the 200 of its last webhook
	bounded, cancel := context.WithTimeout(ctx, 2*crashHang)
	defer cancel()
	admin := newAPIClient(x.admin, crashAdminKey)
	var targets string
	idle := waitUntil(bounded, 10*time.Millisecond, func() bool {
		status, answer, err := admin.do("GET", "/v1/targets", nil)
		targets = string(answer)
		return err == nil && status == 200 && strings.Count(targets, `"backlog":0`) == strings.Count(targets, `"backlog":`) &&
			strings.Count(targets, `"status":"idle"`) == strings.Count(targets, `"status":`)
	})
	if !idle {
		x.giveUp(p, "the targets do not get all: "+targets)
	}
	x.stop(p)
}

func (x *receiverCrash) giveUp(p *process, why string) {
	x.t.Helper()
	x.runs[len(x.runs)-1].ended = time.Since(x.w.began)
	said := p.goroutines()
	x.w.halt.Store(true)
	x.judge()
	x.t.Fatalf("%s\n--- what the receiver said in the last run, and its goroutines\n%s", why, said)
}

// judge holds what came against what was sent, and prints the figures.
func (x *receiverCrash) judge() {
	j := &stormJudge{w: x.w, runs: x.runs, stalls: &x.stalls}
	j.all()
	lines, torn, again := x.checkFile()
	kills := 0
	for _, r := range x.runs {
		if r.ending == killed {
			kills++
		}
	}
	starts := append(x.starts(), 0)
	x.t.Logf("%d webhooks in %v; %d kills, %d stops; %d requests without a 200, %d sent again after it; "+
		"%d arrivals, %d repeats, at most %d after one kill, accepted at most %v before it (%v without the stalls); "+
		"file: %d lines, %d torn, %d repeats; restart median %v max %v; stop max %v",
		j.events, time.Since(x.w.began).Round(time.Second), kills, len(x.stops), x.w.cutOff.Load(), x.w.again.Load(),
		x.w.arrived.Load(), j.repeats, j.mostAtOnce, ms(j.oldest), ms(j.oldestAwake),
		lines, torn, again, ms(starts[(len(starts)-1)/2]), ms(slices.Max(starts)), ms(slices.Max(append(x.stops, 0))))
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	for _, fault := range x.w.faults {
		x.t.Error(fault)
	}
	if x.t.Failed() {
		x.t.Logf("what the receiver said:\n%s", tail(x.log.String(), 20<<10))
	}
}

// checkFile holds the file target against what was sent: per contact all webhooks in their order. A kill
// may cut a line short, and the last lines before it may stand twice.
func (x *receiverCrash) checkFile() (lines, torn, again int) {
	f, err := os.Open(x.file)
	if err != nil {
		x.w.fault("%v", err)
		return 0, 0, 0
	}
	defer func() { _ = f.Close() }()
	var due, next [stormContacts]uint32
	var back [stormContacts]int
	var body []byte
	s := bufio.NewScanner(f)
	s.Buffer(nil, 2<<20)
	for ; s.Scan(); lines++ {
		var line struct {
			EventID string          `json:"event_id"`
			Type    string          `json:"event_type"`
			Payload json.RawMessage `json:"payload"`
		}
		if json.Unmarshal(s.Bytes(), &line) != nil {
			torn++
			continue
		}
		h, err := parseHookID(line.EventID)
		if err != nil {
			x.w.fault("the file has a line of: %v", err)
			continue
		}
		if body = h.appendBody(body[:0]); !bytes.Equal(body, line.Payload) || line.Type != "message.received" {
			x.w.fault("the file has %s changed: %.200s", h.id(), line.Payload)
		}
		if h.n < due[h.contact] {
			again++
		}
		if h.n != next[h.contact] {
			if back[h.contact]++; h.n > next[h.contact] {
				x.w.fault("the file has %s, but %d of its contact was due", h.id(), next[h.contact])
			}
		}
		next[h.contact] = h.n + 1
		due[h.contact] = max(due[h.contact], h.n+1)
	}
	if err := s.Err(); err != nil {
		x.w.fault("read the file: %v", err)
	}
	for i := range x.w.contacts {
		if taken := x.w.contacts[i].taken.Load(); due[i] < taken {
			x.w.fault("webhook %d of contact %d was answered with 200 and is not in the file", due[i], i)
		}
		if back[i] > len(x.runs) {
			x.w.fault("the file goes back %d times over contact %d, in %d runs", back[i], i, len(x.runs))
		}
	}
	if torn > len(x.runs) {
		x.w.fault("%d lines of the file are torn, after %d runs", torn, len(x.runs))
	}
	return lines, torn, again
}

// checkTable holds the table against what was sent.
func (x *receiverCrash) checkTable(conn *pgx.Conn, table string) {
	x.t.Helper()
	rows, err := conn.Query(x.t.Context(), "SELECT event_id, contact_id, payload->>'event_id' FROM "+table)
	if err != nil {
		x.t.Fatal(err)
	}
	defer rows.Close()
	var counted [stormContacts]uint32
	seen := make(map[string]bool)
	for rows.Next() {
		var id, contact, inside string
		if err := rows.Scan(&id, &contact, &inside); err != nil {
			x.t.Fatal(err)
		}
		h, err := parseHookID(id)
		if err != nil || strconv.Itoa(h.contact) != contact || inside != id || seen[id] {
			x.t.Fatalf("the table has %s of contact %s with %s inside (%v)", id, contact, inside, err)
		}
		seen[id] = true
		counted[h.contact]++
	}
	if err := rows.Err(); err != nil {
		x.t.Fatal(err)
	}
	for i := range x.w.contacts {
		if taken := x.w.contacts[i].taken.Load(); counted[i] != taken {
			x.t.Errorf("the table has %d webhooks of contact %d, %d were answered with 200", counted[i], i, taken)
		}
	}
	x.t.Logf("the table has %d rows", len(seen))
}
