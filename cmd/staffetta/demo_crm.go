package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/staffetta-relay/staffetta/relay"
	"github.com/staffetta-relay/staffetta/respondio"
)

// crmPace is how long the CRM takes for an answer.
const crmPace = 40 * time.Millisecond

// demoCRM takes the events behind the receiver as a customer's CRM would, slowly and not always, and
// keeps books by contact.
type demoCRM struct {
	demo *demo
	url  string
	// Under the demo's mu.
	down           bool
	taken, refused int
	events         eventNumbers
	contacts       map[respondio.ID]*crmContact
}

// crmContact is what the CRM has seen of a contact; its book counts the contact's own events.
type crmContact struct {
	events eventNumbers
	book   book
}

const crmColour = yellow

// openCRM starts it; stop ends it.
func (d *demo) openCRM() (c *demoCRM, stop func(), err error) {
	c = &demoCRM{demo: d, events: eventNumbers{}, contacts: map[respondio.ID]*crmContact{}}
	address, stop, err := serveDemo(c)
	if err != nil {
		return nil, nil, fmt.Errorf("start the demo's CRM: %w", err)
	}
	c.url = address + "/crm"
	return c, stop, nil
}

// expect, for holders of the demo's mu, notes that an event was sent: in this order they should come.
func (c *demoCRM) expect(id string, contact respondio.ID) {
	c.events.of(id)
	c.contact(contact).events.of(id)
}

// contact is for holders of the demo's mu.
func (c *demoCRM) contact(id respondio.ID) *crmContact {
	known := c.contacts[id]
	if known == nil {
		known = &crmContact{events: eventNumbers{}}
		c.contacts[id] = known
	}
	return known
}

// turn takes the CRM down, or up again.
func (c *demoCRM) turn(down bool) {
	d := c.demo
	d.mu.Lock()
	defer d.mu.Unlock()
	c.down = down
	if down {
		d.show(time.Now(), crmColour, "crm", d.paint.text(red, "the CRM is down"))
	} else {
		d.show(time.Now(), crmColour, "crm", d.paint.text(green, "the CRM is back"))
	}
	d.happened()
}

// outOfOrder, for holders of the demo's mu, is how often an event came that should not yet, or not again.
func (c *demoCRM) outOfOrder() (times int) {
	for _, contact := range c.contacts {
		times += contact.book.outOfOrder
	}
	return times
}

// ServeHTTP takes one event from the receiver.
func (c *demoCRM) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, relay.MaxPayload+1))
	n, convErr := strconv.Atoi(r.Header.Get("Staffetta-Attempt"))
	payload, parseErr := respondio.ParseBody(body)
	if err != nil || convErr != nil || parseErr != nil {
		http.Error(w, "not an event of the receiver", http.StatusBadRequest)
		return
	}
	d, head := c.demo, payload.Head()
	d.mu.Lock()
	event, contact, status := c.events.of(head.ID), c.contact(head.Contact.ID), http.StatusOK
	contact.book.begin(contact.events.of(head.ID), n, false)
	if c.down {
		status = http.StatusServiceUnavailable
	}
	d.mu.Unlock()

	select {
	case <-r.Context().Done(): // the receiver has hung up
	case <-time.After(crmPace):
	}
	c.end(contact, event, n, status, head)
	w.WriteHeader(status)
}

// end notes what came of an event and shows it.
func (c *demoCRM) end(contact *crmContact, event, n, status int, head *respondio.EventHead) {
	d, tint := c.demo, green
	d.mu.Lock()
	defer d.mu.Unlock()
	if status == http.StatusOK {
		contact.book.settled = true
		c.taken++
	} else {
		tint = yellow
		c.refused++
	}
	d.show(time.Now(), crmColour, "crm", fmt.Sprintf("%s  %s  %s", eventOf(event, head), d.attemptText(n),
		d.paint.text(tint, fmt.Sprintf("%d %s", status, http.StatusText(status)))))
	d.happened()
}

// eventOf is an event of the second act on the display.
func eventOf(number int, head *respondio.EventHead) string {
	return fmt.Sprintf("%3d %-25s  %-7s", number, clean(head.Type), clean(head.Contact.FirstName))
}
