package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

const (
	crashEndpoints = 50
	crashAdminKey  = "an-admin-key-for-the-crash-test"
	// crashSpan is how much of what was delivered a kill may repeat, by the promise; crashSlack is for
	// the way of an answer through two busy processes and for the write of the cursor itself. What the
	// machine kept a waiting goroutine of this process from running comes on top, see stalls.
	crashSpan  = 100 * time.Millisecond
	crashSlack = 50 * time.Millisecond
	// crashHang is how long nothing may move before the test gives up.
	crashHang = 15 * time.Second
)

// crashRetry are the platform's 30, 60 and 90 s in milliseconds.
var crashRetry = []time.Duration{30 * time.Millisecond, 60 * time.Millisecond, 90 * time.Millisecond}

var crashTypes = []string{
	"conversation.closed", "conversation.opened", "contact.created", "contact.updated", "contact.assignee.updated",
	"contact.tag.updated", "contact.lifecycle.updated", "message.received", "message.sent", "comment.created",
}

// numbered is an event: the seq-th of a producer, from 0.
type numbered struct {
	producer uint8
	seq      uint32
}

func (e numbered) String() string { return fmt.Sprintf("p%d-%d", e.producer, e.seq) }

// kind is the index of the event's type: the producers go through all of them.
func (e numbered) kind() int { return int(e.seq*7+uint32(e.producer)*3) % len(crashTypes) }

// crashWants reports whether an endpoint has subscribed to a type: one each, and two for every fifth.
func crashWants(endpoint, kind int) bool {
	n := len(crashTypes)
	return endpoint%n == kind || endpoint%5 == 0 && (endpoint+3)%n == kind
}

func crashCopies(kind int) (n int) {
	for e := range crashEndpoints {
		if crashWants(e, kind) {
			n++
		}
	}
	return n
}

var crashPad = bytes.Repeat([]byte("x"), 300<<10)

// size of the event's filling: mostly some hundred bytes, at times more than one write, rarely more
// than a lane fetches at once.
func (e numbered) size() int {
	switch {
	case e.seq%4096 == 99:
		return 300 << 10
	case e.seq%128 == 77:
		return 20 << 10
	default:
		return int(e.seq*131) % 700
	}
}

// appendBody writes the event in its one form; without an id as its producer sends it.
func (e numbered) appendBody(dst []byte, id string) []byte {
	dst = append(dst, `{"producer":`...)
	dst = strconv.AppendUint(dst, uint64(e.producer), 10)
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendUint(dst, uint64(e.seq), 10)
	dst = append(dst, `,"event_type":"`...)
	dst = append(dst, crashTypes[e.kind()]...)
	dst = append(dst, `","filling":"`...)
	dst = append(dst, crashPad[:e.size()]...)
	if id == "" {
		return append(dst, `"}`...)
	}
	dst = append(dst, `","event_id":"`...)
	dst = append(dst, id...)
	return append(dst, `"}`...)
}

// failures is how many times an endpoint fails an event before it takes it.
func (e numbered) failures(endpoint int, seed uint64) int {
	r := rand.NewPCG(seed, uint64(endpoint)<<48|uint64(e.producer)<<32|uint64(e.seq))
	switch n := r.Uint64() % 1000; {
	case n < 5:
		return 1
	case n < 6:
		return 2
	case n < 7:
		return 3
	default:
		return 0
	}
}

// crashProducer posts its events one after another; the next one only once this one was answered with 202.
type crashProducer struct {
	n     uint8
	lines int  // events of a batch; 0 for one event a request
	keyed bool // an Idempotency-Key in place of an event_id

	w         *crashWorld
	api       *apiClient
	posted    atomic.Uint32 // events that were sent at least once
	accepted  atomic.Uint32 // events that were answered with 202
	owed      atomic.Int64  // copies of the posted events that no endpoint has accepted yet
	repeated  int           // events that were sent again after their 202
	cutOff    int           // requests without a 202
	mu        sync.Mutex
	madeIDs   map[uint32]string // ids that the relay made, as they were seen first
	underWay  chan struct{}     // tells of a request that begins
	interrupt bool              // the last request had no 202 at first
}

// id is the event's id, or the one first seen where the relay makes it.
func (p *crashProducer) id(seq uint32, seen string) string {
	if !p.keyed {
		return numbered{p.n, seq}.String()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.madeIDs[seq] == "" {
		p.madeIDs[seq] = seen
	}
	return p.madeIDs[seq]
}

// run posts until the world stops it; what it has begun it ends.
func (p *crashProducer) run(ctx context.Context) {
	size := uint32(max(p.lines, 1))
	for next := uint32(0); ctx.Err() == nil; next += size {
		if !waitUntil(ctx, time.Millisecond, func() bool { return p.w.halt.Load() || p.owed.Load() < p.w.limit.Load() }) || p.w.halt.Load() {
			return
		}
		for seq := next; seq < next+size; seq++ {
			p.owed.Add(int64(crashCopies(numbered{p.n, seq}.kind())))
		}
		p.posted.Store(next + size)
		p.interrupt = false
		if !p.post(ctx, next, false) {
			return
		}
		p.accepted.Store(next + size)
		// Now and then an accepted event comes a second time; after an interruption, the one before it.
		again := next
		switch {
		case p.interrupt && next > 0:
			again = next - size
		case rand.IntN(200) > 0:
			continue
		}
		p.repeated++
		if !p.post(ctx, again, true) {
			return
		}
	}
}

// post sends the request that starts with an event until it is answered with 202.
func (p *crashProducer) post(ctx context.Context, first uint32, again bool) bool {
	body, header := p.request(first)
	for {
		select {
		case p.underWay <- struct{}{}:
		default:
		}
		status, answer, err := p.api.do("POST", "/v1/workspaces/crash/events", body, header...)
		switch {
		case err == nil && status == fasthttp.StatusAccepted:
			p.check(first, answer, again)
			return true
		case err == nil && status != fasthttp.StatusServiceUnavailable:
			p.w.fault("producer %d: event %d was answered with %d: %s", p.n, first, status, answer)
			return false
		}
		p.interrupt = true
		p.cutOff++
		if !pause(ctx, 10*time.Millisecond) {
			return false
		}
	}
}

func (p *crashProducer) request(first uint32) (body []byte, header []string) {
	if p.keyed {
		return numbered{p.n, first}.appendBody(nil, ""), []string{"Idempotency-Key", fmt.Sprintf("key %d of %d", first, p.n)}
	}
	for seq := first; seq < first+uint32(max(p.lines, 1)); seq++ {
		e := numbered{p.n, seq}
		body = append(e.appendBody(body, e.String()), '\n')
	}
	if p.lines > 0 {
		header = []string{"Content-Type", "application/x-ndjson"}
	}
	return body, header
}

// check looks at what a 202 says. A request that was cut off may have been stored as a whole, so its
// answer may call it a duplicate; the repeat of an accepted event must be called one.
func (p *crashProducer) check(first uint32, body []byte, again bool) {
	var answer struct {
		EventID   string `json:"event_id"`
		Endpoints int    `json:"endpoints"`
		Duplicate bool   `json:"duplicate"`
		Accepted  int    `json:"accepted"`
		Rejected  []any  `json:"rejected"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		p.w.fault("producer %d: event %d: %v in %s", p.n, first, err, body)
		return
	}
	if p.lines > 0 {
		if answer.Accepted != p.lines || len(answer.Rejected) > 0 {
			p.w.fault("producer %d: the batch at %d: %s", p.n, first, body)
		}
		return
	}
	if id := p.id(first, answer.EventID); answer.EventID != id {
		p.w.fault("producer %d: event %d is %s, but was answered as %s", p.n, first, id, answer.EventID)
	}
	if want := crashCopies(numbered{p.n, first}.kind()); answer.Endpoints != want && !answer.Duplicate {
		p.w.fault("producer %d: event %d goes to %d endpoints, but was answered: %s", p.n, first, want, body)
	}
	if again && !answer.Duplicate {
		p.w.fault("producer %d: the repeat of the accepted event %d was answered: %s", p.n, first, body)
	}
}

// crashArrival is one attempt as its endpoint saw it, in times since the world began.
type crashArrival struct {
	conn, began, ended time.Duration // its connection was made; it came; it was answered
	event              numbered
	attempt            uint8
	ok                 bool
}

// crashEndpoint is an endpoint at the sink.
type crashEndpoint struct {
	n   int
	key string // signs what comes to it

	mu       sync.Mutex
	arrivals []crashArrival
	progress map[numbered]int // failed attempts; -1 once it was accepted
}

// crashWorld is what surrounds the relay: producers, endpoints, and what they know of each other.
type crashWorld struct {
	began     time.Time
	seed      uint64
	address   string // of the sink
	endpoints []*crashEndpoint
	producers []*crashProducer
	batches   *crashProducer // the one with 1,000 lines a batch
	limit     atomic.Int64   // copies under way at which their producer waits
	arrived   atomic.Int64   // attempts
	halt      atomic.Bool    // no further event

	mu     sync.Mutex
	faults []string
	hidden int
}

// newCrashWorld starts the sink and makes the producers; they rest until they are run.
func newCrashWorld(t *testing.T, seed uint64, relay string) *crashWorld {
	t.Helper()
	w := &crashWorld{began: time.Now(), seed: seed}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = l.Addr().String()
	sink := &fasthttp.Server{Handler: w.handle, NoDefaultDate: true, NoDefaultServerHeader: true}
	go func() { _ = sink.Serve(l) }()
	t.Cleanup(func() { _ = l.Close() })
	for n := range crashEndpoints {
		w.endpoints = append(w.endpoints, &crashEndpoint{n: n, progress: make(map[numbered]int)})
	}
	w.batches = &crashProducer{lines: 1000}
	w.producers = []*crashProducer{
		{}, {}, {}, {}, {}, {}, {}, {}, {keyed: true}, {keyed: true}, {keyed: true}, {keyed: true}, {lines: 10}, {lines: 100}, w.batches,
	}
	for n, p := range w.producers {
		p.n, p.w, p.api = uint8(n), w, newAPIClient(relay, crashAdminKey)
		p.madeIDs, p.underWay = make(map[uint32]string), make(chan struct{})
	}
	return w
}

// owed is how many copies of posted events no endpoint has accepted yet.
func (w *crashWorld) owed() (n int64) {
	for _, p := range w.producers {
		n += p.owed.Load()
	}
	return n
}

// fault notes what must not be; the first ones say enough.
func (w *crashWorld) fault(format string, v ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.faults) == 30 {
		w.hidden++
		return
	}
	w.faults = append(w.faults, fmt.Sprintf("%8s ", time.Since(w.began).Round(time.Millisecond))+fmt.Sprintf(format, v...))
}

// handle is the sink: it answers for every endpoint.
func (w *crashWorld) handle(ctx *fasthttp.RequestCtx) {
	a := crashArrival{conn: ctx.ConnTime().Sub(w.began), began: time.Since(w.began)}
	n, err := strconv.Atoi(strings.TrimPrefix(string(ctx.Path()), "/hook/"))
	if err != nil || n >= len(w.endpoints) {
		w.fault("something came to %s", ctx.Path())
		return
	}
	e, header, body := w.endpoints[n], &ctx.Request.Header, ctx.Request.Body()
	if a.event, err = w.recognise(body, string(header.Peek("webhook-id"))); err != nil {
		w.fault("endpoint %d: %v: %.200s", n, err, body)
		return
	}
	attempt, err := strconv.Atoi(string(header.Peek("Staffetta-Attempt")))
	if a.attempt = uint8(attempt); err != nil || attempt < 1 || attempt > len(crashRetry)+1 {
		w.fault("endpoint %d: %v: attempt %q", n, a.event, header.Peek("Staffetta-Attempt"))
	}
	if w.arrived.Add(1)%32 == 0 {
		if err := e.verify(header, body); err != nil {
			w.fault("endpoint %d: %v: %v", n, a.event, err)
		}
	}
	if a.event.seq%512 == 11 { // now and then an answer takes its time, so that a kill finds attempts in flight
		pause(context.Background(), 30*time.Millisecond)
	}
	if !w.note(e, a) {
		ctx.SetStatusCode(fasthttp.StatusInternalServerError)
	}
}

// recognise tells which event a body is, and whether it is the very bytes that must come.
func (w *crashWorld) recognise(body []byte, id string) (numbered, error) {
	rest, ok := bytes.CutPrefix(body, []byte(`{"producer":`))
	n, rest, ok1 := bytes.Cut(rest, []byte(`,"seq":`))
	s, _, ok2 := bytes.Cut(rest, []byte(`,`))
	by, err1 := strconv.ParseUint(string(n), 10, 8)
	seq, err2 := strconv.ParseUint(string(s), 10, 32)
	if !ok || !ok1 || !ok2 || err1 != nil || err2 != nil || by >= uint64(len(w.producers)) {
		return numbered{}, fmt.Errorf("not an event of this test")
	}
	e, p := numbered{uint8(by), uint32(seq)}, w.producers[by]
	if e.seq >= p.posted.Load() {
		return e, fmt.Errorf("%v was never posted", e)
	}
	if want := p.id(e.seq, id); id != want {
		return e, fmt.Errorf("%v came as %s and as %s", e, want, id)
	}
	if !bytes.Equal(body, e.appendBody(make([]byte, 0, len(body)+64), id)) {
		return e, fmt.Errorf("%v has another body than it was posted with", e)
	}
	return e, nil
}

// verify checks both signatures.
func (e *crashEndpoint) verify(h *fasthttp.RequestHeader, body []byte) error {
	keys := []string{e.key}
	if err := staffetta.VerifyRespondIO(keys, string(h.Peek("X-Webhook-Signature")), body); err != nil {
		return err
	}
	return staffetta.VerifyStandard(keys, string(h.Peek("webhook-id")), string(h.Peek("webhook-timestamp")),
		string(h.Peek("webhook-signature")), body, time.Now(), time.Minute)
}

// note decides whether the endpoint accepts, and writes the arrival down.
func (w *crashWorld) note(e *crashEndpoint, a crashArrival) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	failed := e.progress[a.event]
	a.ok = failed < 0 || failed >= a.event.failures(e.n, w.seed)
	switch {
	case !a.ok:
		e.progress[a.event]++
	case failed >= 0:
		e.progress[a.event] = -1
		w.producers[a.event.producer].owed.Add(-1)
	}
	a.ended = time.Since(w.began)
	e.arrivals = append(e.arrivals, a)
	return a.ok
}
