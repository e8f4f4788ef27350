package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/relay"
)

// temper is how an endpoint of the demo answers attempt n at event number e: with a status, or with
// 0 not at all.
type temper uint8

const (
	healthy temper = iota
	flaky
	dead
)

func (t temper) answer(event, n int) int {
	switch {
	case t == dead:
		return http.StatusServiceUnavailable
	case t == flaky && event == 2 && n == 1, t == flaky && event == 9 && n <= 2:
		return http.StatusInternalServerError
	case t == flaky && event == 5 && n == 1:
		return 0
	default:
		return http.StatusOK
	}
}

// demoEndpoint takes events as a customer's server would, and keeps books.
type demoEndpoint struct {
	demo        *demo
	name, about string
	colour      colour
	temper      temper
	url         string
	// Under the demo's mu; id and key once the relay knows the endpoint.
	id, key string
	book    book
}

// book is what an endpoint has seen.
type book struct {
	delivered, attempts, retries, dropped int
	verified                              int
	outOfOrder                            int
	lastDelivery                          time.Duration
	// event and n are the last attempt that began; settled says that no other may follow for its event.
	event, n int
	settled  bool
}

// begin notes an attempt and whether it may come now: the next one at the same event, or the first
// at the next event once that before was accepted or dropped.
func (b *book) begin(event, n int, settled bool) {
	inOrder := !b.settled && event == b.event && n == b.n+1 || b.settled && event == b.event+1 && n == 1
	if b.event == 0 {
		inOrder = event == 1 && n == 1
	}
	if !inOrder {
		b.outOfOrder++
	}
	b.event, b.n, b.settled = event, n, settled
	b.attempts++
	if n > 1 {
		b.retries++
	}
}

// openSinks starts the three endpoints; stop ends them.
func (d *demo) openSinks() (stop func(), err error) {
	d.sinks = []*demoEndpoint{
		{name: "healthy", about: "answers 200, always", colour: green, temper: healthy},
		{name: "flaky", about: "fails now and then: a 500 on event 2, no answer in time on event 5, a 500 twice on event 9", colour: yellow, temper: flaky},
		{name: "dead", about: "answers 503, always", colour: red, temper: dead},
	}
	var stops []func()
	stop = func() {
		for _, stop := range stops {
			stop()
		}
	}
	for _, sink := range d.sinks {
		address, stopOne, err := serveDemo(sink)
		if err != nil {
			stop()
			return nil, fmt.Errorf("start the demo's endpoints: %w", err)
		}
		stops = append(stops, stopOne)
		sink.demo, sink.url = d, address+"/"+sink.name
	}
	return stop, nil
}

// serveDemo serves on a free port of this machine until stop is called.
func serveDemo(h http.Handler) (url string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: h, ReadTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }() // ends with stop
	return "http://" + listener.Addr().String(), func() { _ = server.Close() }, nil
}

// ServeHTTP takes one attempt.
func (e *demoEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, relay.MaxPayload+1))
	n, convErr := strconv.Atoi(r.Header.Get("Staffetta-Attempt"))
	if err != nil || convErr != nil {
		http.Error(w, "not an attempt of the relay", http.StatusBadRequest)
		return
	}
	d := e.demo
	d.mu.Lock()
	signed := e.verify(r.Header, body)
	event := d.numberOf(r.Header.Get("webhook-id"), body)
	status := e.temper.answer(event, n)
	outcome := staffetta.Outcome{Status: status}
	if status == 0 {
		outcome.Error = staffetta.ErrorTimeout
	}
	verdict := d.policy.Decide(outcome, staffetta.SuccessOK, n)
	e.book.begin(event, n, verdict.Action != staffetta.Retry)
	if signed == nil {
		e.book.verified++
	}
	d.mu.Unlock()

	if status == 0 {
		select {
		case <-r.Context().Done(): // the relay has hung up
		case <-time.After(2 * d.policy.Deadline):
		}
	}
	e.end(event, n, status, verdict, signed)
	if status == 0 {
		panic(http.ErrAbortHandler) // which closes the connection without an answer
	}
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, http.StatusText(status))
}

// numberOf is for holders of mu. An event that the demo did not send gets the next number.
func (d *demo) numberOf(id string, body []byte) int {
	number := d.numbers.of(id)
	if number > len(d.types) {
		eventType := "an unknown type"
		if p, err := staffetta.Canonicalize(body); err == nil {
			eventType = string(p.EventType)
		}
		d.types = append(d.types, eventType)
	}
	return number
}

// verify, for holders of mu, checks both signatures and that the body is canonical and carries the id of the header.
func (e *demoEndpoint) verify(h http.Header, body []byte) error {
	keys := []string{e.key}
	id := h.Get("webhook-id")
	err := errors.Join(
		staffetta.VerifyRespondIO(keys, h.Get("X-Webhook-Signature"), body),
		staffetta.VerifyStandard(keys, id, h.Get("webhook-timestamp"), h.Get("webhook-signature"), body, time.Now(), staffetta.SignatureTolerance),
	)
	p, bad := staffetta.Canonicalize(body)
	switch {
	case bad != nil:
		return errors.Join(err, bad)
	case string(p.EventID) != id || string(p.Body) != string(body):
		return errors.Join(err, errors.New("the body is not as it was signed for"))
	}
	return err
}

// end notes what the attempt came to and shows it.
func (e *demoEndpoint) end(event, n, status int, v staffetta.Verdict, signed error) {
	d := e.demo
	answer := fmt.Sprintf("%d %s", status, http.StatusText(status))
	if status == 0 {
		answer = fmt.Sprintf("no answer within %s", d.policy.Deadline)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now, tint := time.Now(), green
	switch v.Action {
	case staffetta.Retry:
		answer, tint = answer+", again in "+v.Wait.String(), yellow
	case staffetta.Drop:
		answer, tint = answer+", dropped to the dead letters", red
		e.book.dropped++
	default:
		e.book.delivered++
		e.book.lastDelivery = now.Sub(d.start)
	}
	if signed != nil {
		answer, tint = answer+"; the signature is wrong", red
	}
	if !d.hidden {
		d.show(now, e.colour, e.name, fmt.Sprintf("%3d %-25s  %s  %s",
			event, clean(d.types[event-1]), d.attemptText(n), d.paint.text(tint, answer)))
	}
	d.happened()
}

// attemptText makes a retry stand out.
func (d *demo) attemptText(n int) string {
	text := fmt.Sprintf("attempt %d", n)
	if n > 1 {
		return d.paint.text(bold, text)
	}
	return text
}
