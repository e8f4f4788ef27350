package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/relay"
	"github.com/staffetta-relay/staffetta/sender"
)

const (
	demoWorkspace = "demo"
	// demoPatience is what the demo may take beside the waits between its attempts.
	demoPatience = 15 * time.Second
)

// demoCommand is staffetta demo. Its flags have no environment twins: those are a real relay's.
type demoCommand struct {
	Events   int             `help:"Events to send to the relay's endpoints, and to the receiver, which gets 55 at most; the first eleven are one of each type." default:"11" env:"-"`
	Listen   string          `help:"Address of the relay's HTTP API." default:"127.0.0.1:0" env:"-"`
	Deadline time.Duration   `help:"Time for one attempt." default:"500ms" env:"-"`
	Retry    []time.Duration `help:"Gaps between the attempts; 30s,60s,90s are a relay's own." default:"1s,2s,3s" env:"-"`
	CRMDown  time.Duration   `name:"crm-down" help:"How long the CRM behind the receiver is down." default:"1500ms" env:"-"`
	Keep     bool            `help:"Leave everything running until Ctrl-C, and keep the data folder." env:"-"`
	Verbose  bool            `help:"Show the warnings of the relay's log and the receiver's." env:"-"`
}

// demo is one run of the demo.
type demo struct {
	command  *demoCommand
	policy   staffetta.Policy
	settings relaySettings
	out      io.Writer
	paint    paint
	start    time.Time
	client   *client
	// sinks are the endpoints of the first act, in the order of the display.
	sinks []*demoEndpoint
	// receiver is that of the second act, with its CRM.
	receiver *demoReceiver

	mu sync.Mutex // for what follows, and for out
	// numbers are the events of the first act; types are by number - 1.
	numbers eventNumbers
	types   []string
	hidden  bool          // the endpoints, which go on during the second act
	changed chan struct{} // closed, and made anew, when an attempt has ended
}

// Run is staffetta demo.
func (c *demoCommand) Run(s *surroundings) (err error) {
	d, err := c.prepare(s)
	if err != nil {
		return err
	}
	defer func() {
		if c.Keep {
			_, _ = fmt.Fprintf(s.stdout, "\nThe data folder stays: %s\n", d.settings.data)
			return
		}
		err = errors.Join(err, os.RemoveAll(d.settings.data))
	}()
	closeSinks, err := d.openSinks()
	if err != nil {
		return err
	}
	defer closeSinks()

	ctx, fail := context.WithCancelCause(s.ctx)
	defer fail(nil)
	stopReceiver, err := d.startReceiver(ctx, fail)
	if err != nil {
		return fmt.Errorf("start the demo's receiver: %w", err)
	}
	err = d.withRelay(ctx, fail)
	if failure := stopReceiver(); failure != nil {
		return errors.Join(fmt.Errorf("the demo's receiver failed: %w", failure), err)
	}
	if s.ctx.Err() != nil && err == nil {
		d.say("\nStopped.")
	}
	return err
}

// withRelay plays against a relay, which it starts, and stops.
func (d *demo) withRelay(ctx context.Context, fail context.CancelCauseFunc) (err error) {
	started, ended := make(chan *relay.Relay, 1), make(chan error, 1)
	go func() {
		err := runRelay(ctx, d.settings, func(r *relay.Relay) { started <- r })
		fail(err)
		ended <- err
	}()
	select {
	case r := <-started:
		err = d.play(ctx, "http://"+r.Addr().String())
	case <-ctx.Done():
	}
	interrupted := ctx.Err() != nil
	fail(nil)
	if failure := <-ended; failure != nil {
		return errors.Join(fmt.Errorf("the demo's relay failed: %w", failure), err)
	}
	if interrupted {
		return nil
	}
	return err
}

// prepare checks the flags and makes the data folder.
func (c *demoCommand) prepare(s *surroundings) (*demo, error) {
	policy := staffetta.DefaultPolicy()
	policy.Deadline, policy.Retry = c.Deadline, c.Retry
	policy.Quota.Failures = 0 // its dead endpoint is to show every drop
	if err := policy.Validate(); err != nil {
		return nil, usageError("--" + err.Error())
	}
	if c.Events < 1 || c.Events > 10_000 {
		return nil, usageError("--events must be 1 to 10000")
	}
	if c.CRMDown < 10*time.Millisecond || c.CRMDown > time.Minute {
		return nil, usageError("--crm-down must be 10ms to 1m")
	}
	log := zerolog.Nop()
	if c.Verbose {
		var err error
		if log, err = newLogger(s.stderr, "warn"); err != nil {
			return nil, err
		}
	}
	data, err := os.MkdirTemp("", "staffetta-demo-")
	if err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	d := &demo{
		command: c, policy: policy, out: s.stdout, paint: paintFor(s.stdout),
		numbers: eventNumbers{}, changed: make(chan struct{}),
		settings: relaySettings{
			listen: c.Listen, data: data, shards: 4, policy: policy, catalogue: staffetta.DefaultCatalogue(),
			guard:    sender.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}},
			inFlight: 100, minPlan: staffetta.PlanAdvanced, idempotencyKeys: 100_000, maxEndpoints: 100, log: log,
		},
	}
	if d.settings.adminKey, d.settings.adminKeyMade, err = relay.LoadAdminKey("", data); err == nil {
		d.settings.secret, err = relay.LoadSecret("", data)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(data))
	}
	return d, nil
}

// play is what the demo shows, against the running relay: one act, and then the other.
func (d *demo) play(ctx context.Context, url string) (err error) {
	for _, act := range []struct {
		workspace string
		play      func(context.Context, *client) error
	}{{demoWorkspace, d.playEndpoints}, {crmWorkspace, d.receiver.play}} {
		flags := clientFlags{Relay: url, Key: d.settings.adminKey, Workspace: act.workspace}
		client, err := flags.client()
		if err != nil {
			return err
		}
		d.hideEndpoints(act.workspace == crmWorkspace)
		if err := act.play(ctx, client); err != nil || ctx.Err() != nil {
			return err
		}
	}
	if !d.command.Keep {
		d.say("\nstaffetta demo --keep leaves it running to play with; staffetta relay and staffetta receiver start your own.")
		return nil
	}
	d.invite(url)
	d.hideEndpoints(false)
	<-ctx.Done()
	return nil
}

// playEndpoints is the first act: three endpoints, each at its own pace.
func (d *demo) playEndpoints(ctx context.Context, c *client) error {
	d.client = c
	d.introduce()
	if err := d.addEndpoints(ctx); err != nil {
		return err
	}
	if err := d.sendEvents(ctx); err != nil {
		return err
	}
	played := d.await(ctx, d.patience(), d.finished)
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(played, d.sumUp(ctx))
}

func (d *demo) introduce() {
	waits := make([]string, len(d.policy.Retry))
	for i, wait := range d.policy.Retry {
		waits[i] = wait.String()
	}
	retries := "no retries"
	if len(waits) > 0 {
		retries = "retries after " + strings.Join(waits, ", ")
	}
	d.say(fmt.Sprintf("1. A relay with three endpoints; %s for an attempt, %s.\n", d.policy.Deadline, retries))
	for _, sink := range d.sinks {
		d.say(fmt.Sprintf("  %s  %s", d.paint.text(sink.colour, fmt.Sprintf("%-8s", sink.name)), sink.about))
	}
	d.say("")
}

// addEndpoints registers the sinks with the relay.
func (d *demo) addEndpoints(ctx context.Context) error {
	if err := addWorkspace(ctx, d.client); err != nil {
		return err
	}
	for _, sink := range d.sinks {
		made, err := addEndpoint(ctx, d.client, map[string]any{"url": sink.url, "description": sink.name})
		if err != nil {
			return err
		}
		d.mu.Lock()
		sink.id, sink.key = made.ID, made.SigningKey
		d.mu.Unlock()
	}
	return nil
}

// addWorkspace makes the client's workspace.
func addWorkspace(ctx context.Context, c *client) error {
	return c.call(ctx, http.MethodPut, c.workspacePath(), map[string]string{"plan": string(staffetta.PlanAdvanced)}, nil)
}

// addEndpoint makes an endpoint for all event types.
func addEndpoint(ctx context.Context, c *client, body map[string]any) (made endpoint, err error) {
	if body["event_types"], err = c.eventTypes(ctx); err != nil {
		return made, err
	}
	return made, c.call(ctx, http.MethodPost, c.workspacePath("endpoints"), body, &made)
}

// sendEvents sends the samples one by one, as a platform would.
func (d *demo) sendEvents(ctx context.Context) error {
	types := sampleTypes()
	d.start = time.Now()
	for i := range d.command.Events {
		eventType := types[i%len(types)]
		id, event, err := newSample(eventType)
		if err != nil {
			return err
		}
		d.mu.Lock()
		d.types = append(d.types, eventType)
		d.numbers.of(id)
		d.mu.Unlock()
		if err := postEvent(ctx, d.client, event); err != nil {
			return err
		}
	}
	return nil
}

// postEvent sends one event.
func postEvent(ctx context.Context, c *client, event []byte) error {
	header := http.Header{"Content-Type": {"application/json"}}
	_, err := c.send(ctx, http.MethodPost, c.workspacePath("events"), header, event)
	return err
}

// patience is how long the first act may take.
func (d *demo) patience() time.Duration {
	limit := demoPatience + time.Duration(d.command.Events)*50*time.Millisecond
	for _, wait := range d.policy.Retry {
		limit += 2*wait + 2*d.policy.Deadline
	}
	return limit
}

// await returns once done says so, which is asked with mu held whenever something has happened.
func (d *demo) await(ctx context.Context, limit time.Duration, done func() bool) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		d.mu.Lock()
		isDone, changed := done(), d.changed
		d.mu.Unlock()
		if isDone {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			return fmt.Errorf("the demo did not come to its end within %s", limit)
		case <-changed:
		}
	}
}

// finished says, for holders of mu, that healthy and flaky have everything, and that dead has lost its
// first event and has gone on to the next.
func (d *demo) finished() bool {
	for _, sink := range d.sinks {
		b := sink.book
		if sink.temper == dead {
			if b.dropped == 0 || b.dropped < d.command.Events && b.attempts <= d.policy.Attempts() {
				return false
			}
		} else if b.delivered < d.command.Events {
			return false
		}
	}
	return true
}

// sumUp prints what became of the events, holding the endpoints' books against the relay's.
func (d *demo) sumUp(ctx context.Context) error {
	waiting, missing, err := d.reconcile(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	t := table{head: []string{"ENDPOINT", "DELIVERED", "ATTEMPTS", "RETRIES", "DROPPED", "WAITING", "ORDER", "SIGNATURES"}}
	var faults []error
	for i, sink := range d.sinks {
		b := sink.book
		order, signatures := cell{text: "kept", colour: green}, cell{text: "verified", colour: green}
		if b.outOfOrder > 0 {
			order = cell{text: fmt.Sprintf("broken %d times", b.outOfOrder), colour: red}
			faults = append(faults, fmt.Errorf("the order of %s was broken", sink.name))
		}
		if b.verified < b.attempts {
			signatures = cell{text: fmt.Sprintf("%d of %d are wrong", b.attempts-b.verified, b.attempts), colour: red}
			faults = append(faults, fmt.Errorf("signatures that %s got are wrong", sink.name))
		}
		t.add(cell{text: sink.name, colour: sink.colour}, number(b.delivered), number(b.attempts), number(b.retries),
			number(b.dropped), number(waiting[i]), order, signatures)
	}
	_, _ = fmt.Fprintln(d.out)
	if err := t.print(d.out); err != nil {
		return err
	}
	if missing != "" {
		faults = append(faults, errors.New(missing))
	}
	if len(faults) == 0 {
		_, _ = fmt.Fprintf(d.out, "\nEvery event is accounted for. healthy had all of them after %s: it waits for no other endpoint.\n",
			d.sinks[0].book.lastDelivery.Round(time.Millisecond))
	}
	return errors.Join(faults...)
}

// reconcile asks the relay how many events wait until its answer and the endpoints' books agree: an
// attempt that an endpoint has answered takes the relay a moment to settle.
func (d *demo) reconcile(ctx context.Context) (waiting []uint64, missing string, err error) {
	timeout := time.NewTimer(3 * time.Second)
	defer timeout.Stop()
	waiting = make([]uint64, len(d.sinks))
	for {
		missing = ""
		for i, sink := range d.sinks {
			var shown endpoint
			if err := d.client.call(ctx, http.MethodGet, d.client.workspacePath("endpoints", sink.id), nil, &shown); err != nil {
				return nil, "", err
			}
			waiting[i] = shown.Backlog
			d.mu.Lock()
			known := sink.book.delivered + sink.book.dropped + int(shown.Backlog)
			d.mu.Unlock()
			if known != d.command.Events {
				missing = fmt.Sprintf("%d of the %d events of %s are accounted for", known, d.command.Events, sink.name)
			}
		}
		if missing == "" {
			return waiting, "", nil
		}
		select {
		case <-ctx.Done():
			return nil, "", ctx.Err()
		case <-timeout.C:
			return waiting, missing, nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// invite says how to play with what goes on.
func (d *demo) invite(url string) {
	key := filepath.Join(d.settings.data, "admin.key")
	d.say(fmt.Sprintf(`
The relay and its endpoints go on until Ctrl-C.
  API        %[1]s
  admin key  %[2]s

  curl -H "Authorization: Bearer $(cat %[2]s)" %[1]s/v1/workspaces/%[3]s/endpoints
  curl -H "Authorization: Bearer $(cat %[2]s)" %[1]s/v1/workspaces/%[3]s/events \
    -H 'Content-Type: application/json' -d '{"event_type":"message.received","message":{"text":"Ciao!"}}'
  staffetta endpoints list --relay %[1]s --data %[4]s --workspace %[3]s

So do the receiver and its CRM, which get what workspace %[5]s sends.
  staffetta events send --sample message.received --relay %[1]s --data %[4]s --workspace %[5]s
  staffetta targets --receiver=%[6]s --data %[7]s
  staffetta attempts --receiver=%[6]s --data %[7]s
`, url, key, demoWorkspace, d.settings.data, crmWorkspace, d.receiver.admin, d.receiver.settings.data))
}

// hideEndpoints keeps what the endpoints go on with from the display of the second act.
func (d *demo) hideEndpoints(hidden bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hidden = hidden
}

// say prints a line between those of the endpoints.
func (d *demo) say(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, _ = fmt.Fprintln(d.out, line)
}

// show prints, for holders of mu, what happened to whom.
func (d *demo) show(at time.Time, who colour, name, what string) {
	_, _ = fmt.Fprintf(d.out, "%s  %s  %s\n", d.paint.text(dim, fmt.Sprintf("%7.3fs", at.Sub(d.start).Seconds())),
		d.paint.text(who, fmt.Sprintf("%-8s", name)), what)
}

// happened tells those who wait, for holders of mu.
func (d *demo) happened() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// eventNumbers count events by their id, from 1.
type eventNumbers map[string]int

// of is an event's number: the next one where it had none.
func (n eventNumbers) of(id string) int {
	number, known := n[id]
	if !known {
		number = len(n) + 1
		n[id] = number
	}
	return number
}
