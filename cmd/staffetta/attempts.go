package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// attemptsCommand is staffetta attempts.
type attemptsCommand struct {
	eitherFlags
	eventFilterFlags
	Outcome string `help:"Only those that came to this: delivered, retry or dropped." enum:",delivered,retry,dropped" default:"" placeholder:"OUTCOME"`
	Status  string `help:"Only those with this status (500), of this class (5xx), or with this error (timeout, refused, reset, tls, dns, forbidden_address, protocol)." placeholder:"STATUS"`
	Limit   *int   `help:"Show this many at most; 0: all. Default: 50, and with --follow the last 10." placeholder:"N"`
	Follow  bool   `short:"f" help:"Then show new attempts as they end, until Ctrl-C."`
	jsonLines
}

const (
	attemptsShown = 50
	// attemptsBefore is how many are shown before what is followed, or up to attemptsBeforeSince of
	// those since a time.
	attemptsBefore      = 10
	attemptsBeforeSince = 1000
)

// Run is staffetta attempts.
func (a *attemptsCommand) Run(s *surroundings) error {
	query, limit, err := a.check()
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	p := newAttemptPrinter(s, c, a)
	if a.Follow {
		return newFollower(s, c, query, limit, p).run()
	}
	shown := 0
	more, err := c.pages(s.ctx, c.workspacePath("attempts"), query, limit, func(items []json.RawMessage) error {
		shown += len(items)
		return p.print(items)
	})
	switch {
	case err != nil || a.JSON:
		return err
	case shown == 0:
		return printLine(s.stdout, "No attempts"+matching(query)+retention(c))
	case more:
		_, _ = fmt.Fprintf(s.stderr, "These are the newest %d; --limit shows more (0: all), --since and --until others.\n", shown)
	}
	return nil
}

// check refuses combinations of flags; limit is 0 for all.
func (a *attemptsCommand) check() (query url.Values, limit int, err error) {
	switch limit = attemptsShown; {
	case a.Limit != nil && *a.Limit < 0:
		return nil, 0, usageError("--limit must be a number of attempts, or 0 for all")
	case a.Follow && !a.Until.IsZero():
		return nil, 0, usageError("--until does not go with --follow, which has no end")
	case a.Limit != nil:
		limit = *a.Limit
	case a.Follow && !a.Since.IsZero():
		limit = attemptsBeforeSince
	case a.Follow:
		limit = attemptsBefore
	}
	query, err = a.query("outcome", a.Outcome, "status", a.Status)
	return query, limit, err
}

// matching reminds of a filter that left nothing over.
func matching(query url.Values) string {
	if len(query) > 0 {
		return " match."
	}
	return " yet."
}

// retention reminds of how far back a relay's log goes.
func retention(c *client) string {
	if c.ofReceiver() {
		return ""
	}
	return " The log keeps them for 72 hours unless the relay's --log-retention says otherwise."
}

// attempt is an attempt as the service shows it.
type attempt struct {
	ID         string    `json:"id"`
	EventID    string    `json:"event_id"`
	EventType  string    `json:"event_type"`
	Endpoint   string    `json:"endpoint"`
	Attempt    int       `json:"attempt"`
	Outcome    string    `json:"outcome"`
	Status     int       `json:"status"`
	Error      string    `json:"error"`
	Detail     string    `json:"detail"`
	StartedAt  time.Time `json:"started_at"`
	DurationMS float64   `json:"duration_ms"`
	Disabled   bool      `json:"disabled_endpoint"`
	Replay     bool      `json:"replay"`
}

// result is the status, or the kind of error.
func (a *attempt) result() string {
	switch {
	case a.Error != "":
		return a.Error
	case a.Status == 0: // what is not reached over HTTP took it
		return "ok"
	}
	return strconv.Itoa(a.Status)
}

// failure is why it failed, as the service says it of an endpoint.
func (a *attempt) failure() string {
	switch {
	case a.Error == "":
		return "status " + strconv.Itoa(a.Status)
	case a.Detail == "":
		return a.Error
	default:
		return a.Error + ": " + a.Detail
	}
}

// note is what is special about the attempt.
func (a *attempt) note() string {
	var notes []string
	if a.Replay {
		notes = append(notes, "replay")
	}
	if a.Disabled {
		notes = append(notes, "disabled the endpoint")
	}
	if a.Detail != "" {
		notes = append(notes, shorten(a.Detail, 80))
	}
	return strings.Join(notes, "; ")
}

// outcomeColours say at a glance how attempts ended.
var outcomeColours = map[string]colour{"delivered": green, "retry": yellow, "dropped": red}

// attemptPrinter prints attempts, in a table for people. What the filter says of all of them has no
// column.
type attemptPrinter struct {
	s                    *surroundings
	place                string // what the service calls where events go
	json                 bool
	noEndpoint, noEvents bool
	table                table
}

func newAttemptPrinter(s *surroundings, c *client, a *attemptsCommand) *attemptPrinter {
	return &attemptPrinter{s: s, place: c.at.place, json: a.JSON, noEndpoint: a.Endpoint != "", noEvents: a.EventID != ""}
}

// print prints attempts in the order in which they are given.
func (p *attemptPrinter) print(items []json.RawMessage) error {
	switch {
	case len(items) == 0:
		return nil
	case p.json:
		return printLines(p.s.stdout, items)
	}
	for _, item := range items {
		var a attempt
		if err := json.Unmarshal(item, &a); err != nil {
			return errUnknownAnswer
		}
		p.add(&a)
	}
	return p.table.print(p.s.stdout)
}

func (p *attemptPrinter) add(a *attempt) {
	head := []string{"STARTED", "OUTCOME", "RESULT", "ATTEMPT", "MS"}
	row := []cell{
		left(a.StartedAt.UTC().Format("2006-01-02T15:04:05.000Z")),
		{text: a.Outcome, colour: outcomeColours[a.Outcome]},
		left(a.result()), number(a.Attempt),
		{text: strconv.FormatFloat(a.DurationMS, 'f', 1, 64), right: true},
	}
	if !p.noEvents {
		head = append(head, "EVENT", "EVENT ID")
		row = append(row, left(a.EventType), left(a.EventID))
	}
	if !p.noEndpoint {
		head = append(head, strings.ToUpper(p.place))
		row = append(row, left(a.Endpoint))
	}
	p.table.head = append(head, "NOTE")
	p.table.add(append(row, left(a.note()))...)
}

// lastAttempts reads the newest attempts that match; none where the log, which is off the path of
// everything, cannot be read.
func lastAttempts(s *surroundings, c *client, query url.Values, limit int) (last []json.RawMessage) {
	_, err := c.pages(s.ctx, c.workspacePath("attempts"), query, limit, func(items []json.RawMessage) error {
		last = append(last, items...)
		return nil
	})
	if err != nil {
		return nil
	}
	return last
}

// printUnder prints attempts of one endpoint under a title, where there are some.
func printUnder(s *surroundings, title string, attempts []json.RawMessage, oneEvent bool) error {
	if len(attempts) == 0 {
		return nil
	}
	if err := printLine(s.stdout, "\n"+paintFor(s.stdout).text(bold, title)); err != nil {
		return err
	}
	p := &attemptPrinter{s: s, noEndpoint: true, noEvents: oneEvent}
	return p.print(attempts)
}
