package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

const (
	stormContacts = 50
	stormSenders  = 8
	stormPath     = "/hooks/storm"
)

// numberedHook is the n-th webhook of a contact, from 0.
type numberedHook struct {
	contact int
	n       uint32
}

func (h numberedHook) id() string { return fmt.Sprintf("c%d-%d", h.contact, h.n) }

func parseHookID(id string) (h numberedHook, err error) {
	_, err = fmt.Sscanf(id, "c%d-%d", &h.contact, &h.n)
	if err == nil && (h.contact >= stormContacts || h.id() != id) {
		err = fmt.Errorf("%q is no id of this test", id)
	}
	return h, err
}

// failures is how many times the CRM fails it.
func (h numberedHook) failures() int {
	switch r := rand.NewPCG(uint64(h.contact), uint64(h.n)); r.Uint64() % 200 {
	case 0:
		return 1
	case 1:
		return 3
	default:
		return 0
	}
}

func (h numberedHook) appendBody(dst []byte) []byte {
	size := int(h.n*131) % 700
	switch {
	case h.n%1024 == 99:
		size = 300 << 10
	case h.n%128 == 77:
		size = 20 << 10
	}
	dst = append(dst, `{"contact":{"id":`...)
	dst = strconv.AppendInt(dst, int64(h.contact), 10)
	dst = append(dst, `},"event_type":"message.received","filling":"`...)
	dst = append(dst, crashPad[:size]...)
	dst = append(dst, `","event_id":"`...)
	dst = append(dst, h.id()...)
	return append(dst, `"}`...)
}

// hookArrival is an attempt as the CRM saw it, in times since the storm began.
type hookArrival struct {
	conn, began, ended time.Duration
	n                  uint32
	ok                 bool
}

// stormContact is a contact: how many of its webhooks were sent and taken, and what came of them.
type stormContact struct {
	posted atomic.Uint32 // webhooks whose first attempt at the receiver has begun
	taken  atomic.Uint32 // webhooks that were answered with 200: all below it

	mu       sync.Mutex
	arrivals []hookArrival
	failed   map[uint32]int
	accepted uint32 // how many the CRM has accepted
}

// storm is what surrounds the receiver: senders before it, a CRM behind it.
type storm struct {
	began    time.Time
	address  string // of the CRM
	contacts [stormContacts]stormContact
	owed     atomic.Int64 // webhooks taken that the CRM has not
	limit    atomic.Int64 // with so many, senders wait
	arrived  atomic.Int64
	halt     atomic.Bool
	cutOff   atomic.Int64 // requests without an answer, or with a 503
	again    atomic.Int64 // webhooks sent again after their 200

	mu     sync.Mutex
	faults []string
}

func newStorm(t *testing.T) *storm {
	t.Helper()
	w := &storm{began: time.Now()}
	w.limit.Store(500)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = l.Addr().String()
	server := &fasthttp.Server{Handler: w.handle, NoDefaultDate: true}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-served
	})
	for i := range w.contacts {
		w.contacts[i].failed = make(map[uint32]int)
	}
	return w
}

// fault notes what must not be; the first ones say enough.
func (w *storm) fault(format string, v ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.faults) < 30 {
		w.faults = append(w.faults, fmt.Sprintf("%8s ", ms(time.Since(w.began)))+fmt.Sprintf(format, v...))
	}
}

// send posts the webhooks of every eighth contact, one after another, until there is a halt. A webhook
// without a 200 is sent again, as a platform does.
func (w *storm) send(ctx context.Context, first int, receiver string, key string) {
	api := newAPIClient(receiver, "")
	signer, err := staffetta.NewSigner(key)
	if err != nil {
		w.fault("%v", err)
		return
	}
	random := rand.New(rand.NewPCG(uint64(first), 1))
	for ctx.Err() == nil && !w.halt.Load() {
		if w.owed.Load() > w.limit.Load() {
			pause(ctx, time.Millisecond)
			continue
		}
		contact := first + stormSenders*random.IntN((stormContacts-first+stormSenders-1)/stormSenders)
		c := &w.contacts[contact]
		h := numberedHook{contact, c.taken.Load()}
		c.posted.Store(h.n + 1)
		w.owed.Add(1)
		if !w.post(ctx, api, signer, h) {
			return
		}
		c.taken.Store(h.n + 1)
		if h.n%64 == 5 {
			w.again.Add(1)
			w.post(ctx, api, signer, h)
		}
	}
}

// post sends one webhook until it is answered with 200.
func (w *storm) post(ctx context.Context, api *apiClient, signer *staffetta.Signer, h numberedHook) bool {
	body := h.appendBody(nil)
	signature := string(signer.AppendRespondIO(nil, body))
	for {
		status, answer, err := api.do("POST", stormPath, body, "X-Webhook-Signature", signature)
		switch {
		case err == nil && status == fasthttp.StatusOK && string(answer) == "OK":
			return true
		case err == nil && status != fasthttp.StatusServiceUnavailable:
			w.fault("%s was answered with %d: %s", h.id(), status, answer)
			return false
		}
		w.cutOff.Add(1)
		if !pause(ctx, 10*time.Millisecond) {
			return false
		}
	}
}

// handle is the CRM.
func (w *storm) handle(ctx *fasthttp.RequestCtx) {
	a := hookArrival{conn: ctx.ConnTime().Sub(w.began), began: time.Since(w.began)}
	w.arrived.Add(1)
	h, err := parseHookID(string(ctx.Request.Header.Peek("Staffetta-Event-Id")))
	if err != nil {
		w.fault("to %s came %v: %.200s", ctx.Path(), err, ctx.PostBody())
		return
	}
	c := &w.contacts[h.contact]
	if body := ctx.PostBody(); h.n >= c.posted.Load() || !bytes.Equal(body, h.appendBody(make([]byte, 0, len(body)))) {
		w.fault("%s was never posted like this: %.200s", h.id(), body)
	}
	if h.n%256 == 11 { // now and then an answer takes its time, so that a kill finds attempts in flight
		pause(context.Background(), 30*time.Millisecond)
	}
	a.n = h.n
	c.mu.Lock()
	defer c.mu.Unlock()
	a.ok = h.n < c.accepted || c.failed[h.n] >= h.failures()
	switch {
	case !a.ok:
		c.failed[h.n]++
		ctx.SetStatusCode(fasthttp.StatusInternalServerError)
	case h.n == c.accepted:
		c.accepted++
		w.owed.Add(-1)
	}
	a.ended = time.Since(w.began)
	c.arrivals = append(c.arrivals, a)
}

// stormJudge goes through what came to the CRM.
type stormJudge struct {
	w      *storm
	runs   []crashRun
	stalls *stalls

	events, repeats     uint32
	oldest, oldestAwake time.Duration
	mostAtOnce          int
}

// Repeats may only go back over what the CRM took just before a kill. The promise is 50 ms and the time
// of a write; on a busy machine a write takes its time, beyond what the stalls of this process show.
const (
	stormSpan = time.Second
	stormAge  = 5 * time.Second
)

func (j *stormJudge) all() {
	perRun := make(map[int]int)
	for i := range j.w.contacts {
		j.contact(i, &j.w.contacts[i], perRun)
	}
	for _, n := range perRun {
		j.mostAtOnce = max(j.mostAtOnce, n)
	}
}

func (j *stormJudge) contact(contact int, c *stormContact, perRun map[int]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.taken.Load()
	j.events += taken
	if c.accepted < taken {
		j.w.fault("contact %d: webhook %d was answered with 200 and has not arrived", contact, c.accepted)
	}
	type acceptance struct {
		at  time.Duration
		run int
	}
	accepted := make(map[uint32]acceptance)
	lastRun, due, next := -1, uint32(0), uint32(0) // next is what comes next in this run, due in all
	for i := range c.arrivals {
		a := &c.arrivals[i]
		run := runOf(j.runs, a.conn)
		if run != lastRun {
			if a.n > due {
				j.w.fault("contact %d: run %d began with %d while %d was due", contact, run, a.n, due)
			}
			lastRun, next = run, a.n
		}
		if a.n != next {
			j.w.fault("contact %d: in run %d came %d while %d was due", contact, run, a.n, next)
		}
		if was, ok := accepted[a.n]; ok {
			j.repeat(contact, a, was.at, was.run)
			perRun[was.run]++
		}
		if a.ok {
			accepted[a.n] = acceptance{a.ended, run}
			next = a.n + 1
			due = max(due, next)
		}
	}
}

func runOf(runs []crashRun, conn time.Duration) int {
	run := 0
	for run+1 < len(runs) && conn > runs[run+1].started {
		run++
	}
	return run
}

// repeat judges the arrival of a webhook that was accepted before.
func (j *stormJudge) repeat(contact int, a *hookArrival, at time.Duration, run int) {
	before := &j.runs[run]
	age := before.ended - at
	awake := age - j.stalls.between(j.w.began.Add(at), j.w.began.Add(before.ended))
	switch {
	case before.ending == stopped:
		j.w.fault("contact %d: %d was accepted %v before a stop and came again after it", contact, a.n, age)
	case a.conn < before.ended:
		j.w.fault("contact %d: %d was accepted and came again in the same run", contact, a.n)
	case awake > stormSpan || age > stormAge:
		j.w.fault("contact %d: %d was accepted %v (%v without stalls) before a kill and came again after it", contact, a.n, age, awake)
	}
	j.repeats++
	j.oldest, j.oldestAwake = max(j.oldest, age), max(j.oldestAwake, awake)
}
