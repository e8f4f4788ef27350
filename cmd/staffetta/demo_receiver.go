package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/receiver"
	"github.com/staffetta-relay/staffetta/relay"
	"github.com/staffetta-relay/staffetta/respondio"
)

const (
	crmWorkspace   = "crm"
	receiverColour = cyan
	// receiverEvents is the most that the receiver gets: the CRM behind it is slow.
	receiverEvents = 55
)

// demoContacts are whom the events of the second act are about, in turn.
var demoContacts = []respondio.Contact{
	{ID: "398350624", FirstName: "Aisyah"},
	{ID: "398350625", FirstName: "Bruno"},
	{ID: "398350626", FirstName: "Chiara"},
}

// demoReceiver is the second act: a receiver, which is an endpoint of the relay, in front of a CRM.
type demoReceiver struct {
	demo     *demo
	crm      *demoCRM
	settings receiverSettings
	events   int    // to send
	key      string // that the relay signs with
	url      string // where the webhooks come in
	admin    string // URL of the admin API

	client   *client // of the relay, in the receiver's workspace
	endpoint string  // its id there
	answered int     // events that the relay saw answered with 200
	slowest  time.Duration
}

// startReceiver starts the receiver and its CRM; failed is told when it ends. stop ends both.
func (d *demo) startReceiver(ctx context.Context, failed context.CancelCauseFunc) (stop func() error, err error) {
	crm, stopCRM, err := d.openCRM()
	if err != nil {
		return nil, err
	}
	r := &demoReceiver{demo: d, crm: crm, events: min(d.command.Events, receiverEvents), key: staffetta.NewSigningKey()}
	if r.settings, err = r.newSettings(); err != nil {
		stopCRM()
		return nil, err
	}
	d.receiver = r
	// It outlives the relay, which sends to it until it has stopped.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		err := runReceiver(ctx, r.settings, func(intake *receiver.Receiver, admin net.Addr) {
			r.url, r.admin = "http://"+intake.Addr().String()+r.settings.config.Sources[0].Path, "http://"+admin.String()
			close(started)
		})
		failed(err)
		ended <- err
	}()
	stop = func() error {
		cancel()
		err := <-ended
		stopCRM()
		return err
	}
	select {
	case <-started:
		return stop, nil
	case err := <-ended:
		ended <- err
		return nil, stop()
	}
}

// newSettings makes the data folder, and says what the receiver does: staffetta receiver --source
// /hooks/respond --key KEY --to URL of the CRM.
func (r *demoReceiver) newSettings() (c receiverSettings, err error) {
	d := r.demo
	backoff := staffetta.DefaultBackoff()
	backoff.First = d.command.CRMDown * 2 / 3 // so that an attempt during the outage fails, too
	backoff.Max = 10 * backoff.First
	c = receiverSettings{
		adminListen: "127.0.0.1:0", data: filepath.Join(d.settings.data, "receiver"), maxBytes: 64 << 20, log: d.settings.log,
		config: receiver.Config{
			Listen: "127.0.0.1:0", Log: d.settings.log,
			Sources: []receiver.Source{{
				Path: "/hooks/respond", Verify: staffetta.SchemeRespondIO, Keys: []string{r.key}, Order: receiver.OrderContact,
				To: []receiver.Target{{Name: "crm", HTTP: &receiver.HTTPTarget{URL: r.crm.url}, Backoff: backoff}},
			}},
		},
	}
	if err := os.MkdirAll(c.data, 0o700); err != nil {
		return c, fmt.Errorf("make data folder: %w", err)
	}
	c.adminKey, c.adminKeyMade, err = relay.LoadAdminKey("", c.data)
	return c, err
}

// play is the second act: the CRM takes the first events, is down while the others come, and gets them
// when it is back.
func (r *demoReceiver) play(ctx context.Context, c *client) error {
	d, early := r.demo, r.events/3
	r.client = c
	r.introduce(early)
	if err := addWorkspace(ctx, c); err != nil {
		return err
	}
	made, err := addEndpoint(ctx, c, map[string]any{"url": r.url, "description": "receiver", "signing_key": r.key})
	if err != nil {
		return err
	}
	r.endpoint = made.ID
	if err := r.send(ctx, 0, early); err != nil {
		return err
	}
	if err := d.await(ctx, demoPatience, func() bool { return r.crm.taken >= early }); err != nil || ctx.Err() != nil {
		return err
	}
	r.crm.turn(true)
	outage := time.NewTimer(d.command.CRMDown)
	defer outage.Stop()
	if err := r.send(ctx, early, r.events); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-outage.C:
	}
	r.crm.turn(false)
	if err := d.await(ctx, demoPatience+d.command.CRMDown, func() bool { return r.crm.taken >= r.events }); err != nil || ctx.Err() != nil {
		return err
	}
	return r.sumUp(ctx)
}

func (r *demoReceiver) introduce(early int) {
	d := r.demo
	outage := fmt.Sprintf("is down for %s after event %d", d.command.CRMDown, early)
	if early == 0 {
		outage = fmt.Sprintf("is down for %s at first", d.command.CRMDown)
	}
	d.say("\n2. The other end: a customer's receiver takes the webhooks, in front of a CRM that breaks down.\n")
	for _, line := range []struct {
		colour      colour
		name, about string
	}{
		{receiverColour, "receiver", "stores every event, answers 200 at once, and hands on, each contact's events in their order"},
		{crmColour, "crm", fmt.Sprintf("takes %s for an event, and %s", crmPace, outage)},
	} {
		d.say(fmt.Sprintf("  %s  %s", d.paint.text(line.colour, fmt.Sprintf("%-8s", line.name)), line.about))
	}
	d.say("")
}

// send sends the samples from one number to before another, one by one, and shows what the relay saw
// the receiver answer.
func (r *demoReceiver) send(ctx context.Context, from, to int) error {
	types := sampleTypes()
	for i := from; i < to; i++ {
		payload, err := respondio.Parse(staffetta.Event{Type: types[i%len(types)], Payload: staffetta.Sample(types[i%len(types)])})
		if err != nil {
			return fmt.Errorf("read sample: %w", err)
		}
		head, contact := payload.Head(), demoContacts[i%len(demoContacts)]
		head.ID, head.Contact.ID, head.Contact.FirstName = uuid.Must(uuid.NewV7()).String(), contact.ID, contact.FirstName
		event, err := respondio.Marshal(payload)
		if err != nil {
			return fmt.Errorf("write event: %w", err)
		}
		r.demo.mu.Lock()
		r.crm.expect(head.ID, contact.ID)
		r.demo.mu.Unlock()
		if err := postEvent(ctx, r.client, event); err != nil {
			return err
		}
		if err := r.awaitAnswer(ctx, i+1, head); err != nil {
			return err
		}
	}
	return nil
}

// awaitAnswer shows the relay's attempt at an event, from its log. Any answer but a 200 at once ends
// the demo.
func (r *demoReceiver) awaitAnswer(ctx context.Context, number int, head *respondio.EventHead) error {
	d := r.demo
	timeout := time.NewTimer(demoPatience)
	defer timeout.Stop()
	for {
		seen, err := r.attempts(ctx, url.Values{"event_id": {head.ID}})
		if err != nil {
			return err
		}
		if len(seen) > 0 {
			a := &seen[0]
			if a.Attempt != 1 || a.Status != http.StatusOK {
				return fmt.Errorf("the relay saw attempt %d at event %d come to %s", a.Attempt, number, a.failure())
			}
			took := time.Duration(a.DurationMS * float64(time.Millisecond))
			d.mu.Lock()
			defer d.mu.Unlock()
			r.answered++
			r.slowest = max(r.slowest, took)
			d.show(a.StartedAt.Add(took), receiverColour, "receiver", fmt.Sprintf("%s  %s  %s",
				eventOf(number, head), d.attemptText(a.Attempt), d.paint.text(green, "200 OK in "+milliseconds(took))))
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout.C:
			return fmt.Errorf("the relay has not sent event %d to the receiver within %s", number, demoPatience)
		case <-time.After(time.Millisecond):
		}
	}
}

// attempts are those of the relay at the receiver.
func (r *demoReceiver) attempts(ctx context.Context, query url.Values) (seen []attempt, err error) {
	_, err = r.client.pages(ctx, r.client.workspacePath("attempts"), query, 0, func(items []json.RawMessage) error {
		for _, item := range items {
			var a attempt
			if err := json.Unmarshal(item, &a); err != nil {
				return errUnknownAnswer
			}
			seen = append(seen, a)
		}
		return nil
	})
	return seen, err
}

// sumUp prints what became of the events, holding the CRM's books against the receiver's and the relay's.
func (r *demoReceiver) sumUp(ctx context.Context) error {
	stood, err := r.reconcile(ctx)
	if err != nil {
		return err
	}
	seen, err := r.attempts(ctx, nil)
	if err != nil {
		return err
	}
	d := r.demo
	d.mu.Lock()
	defer d.mu.Unlock()
	var faults []error
	if len(seen) != r.events || r.answered != r.events {
		faults = append(faults, fmt.Errorf("the relay made %d attempts at %d events, of which %d were answered with 200", len(seen), r.events, r.answered))
	}
	if int(stood.Delivered) != r.events || stood.Dropped > 0 || stood.Waiting > 0 {
		faults = append(faults, fmt.Errorf("of %d events the receiver has handed over %d, dropped %d, and %d wait", r.events, stood.Delivered, stood.Dropped, stood.Waiting))
	}
	if r.crm.taken != r.events || len(r.crm.events) != r.events {
		faults = append(faults, fmt.Errorf("the CRM has %d of %d events", r.crm.taken, r.events))
	}
	if times := r.crm.outOfOrder(); times > 0 {
		faults = append(faults, fmt.Errorf("a contact's order was broken %d times", times))
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	_, _ = fmt.Fprintf(d.out, `
%s  %s stored, each answered 200 at its first attempt, the slowest in %s; handed over %d
%s  down for %s, refused %s, and has all %d, once each, every contact's in order
`,
		d.paint.text(receiverColour, "receiver"), count(r.answered, "event"), milliseconds(r.slowest), stood.Delivered,
		d.paint.text(crmColour, "crm     "), d.command.CRMDown, count(r.crm.refused, "attempt"), r.crm.taken)
	return nil
}

// reconcile asks the receiver where its target stands until it has taken notice of what the CRM took.
func (r *demoReceiver) reconcile(ctx context.Context) (stood target, err error) {
	at, err := url.Parse(r.admin)
	if err != nil {
		return stood, err
	}
	c := newClient(receiverService, at, r.settings.adminKey)
	timeout := time.NewTimer(3 * time.Second)
	defer timeout.Stop()
	for {
		var page struct{ Items []target }
		if err := c.call(ctx, http.MethodGet, c.workspacePath("targets"), nil, &page); err != nil {
			return stood, err
		}
		if len(page.Items) > 0 {
			stood = page.Items[0]
		}
		if int(stood.Delivered) >= r.events && stood.Waiting == 0 {
			return stood, nil
		}
		select {
		case <-ctx.Done():
			return stood, ctx.Err()
		case <-timeout.C:
			return stood, nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.1fms", d.Seconds()*1000) }
