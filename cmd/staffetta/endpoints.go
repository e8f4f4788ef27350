package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// endpointsCommand is staffetta endpoints.
type endpointsCommand struct {
	Add     endpointsAdd     `cmd:"" help:"Add an endpoint; prints its id and, this once, its signing key."`
	List    endpointsList    `cmd:"" help:"List the endpoints of the workspace."`
	Show    endpointsShow    `cmd:"" help:"Show one endpoint and where its deliveries stand."`
	Update  endpointsUpdate  `cmd:"" help:"Change an endpoint; what is not named stays."`
	Enable  endpointsEnable  `cmd:"" help:"Enable an endpoint; events that were held are delivered in order."`
	Disable endpointsDisable `cmd:"" help:"Disable an endpoint; its events are held or discarded, as its on_disable says."`
	Rotate  endpointsRotate  `cmd:"" help:"Give an endpoint a new signing key; prints it this once."`
	Test    endpointsTest    `cmd:"" help:"Send a sample to an endpoint now; exit status 1 when it is not accepted."`
	Remove  endpointsRemove  `cmd:"" help:"Remove an endpoint; events that wait for it are discarded."`
}

// endpoint is an endpoint as the relay shows it.
type endpoint struct {
	staffetta.Endpoint
	Backlog           uint64     `json:"backlog"`
	BacklogBytes      uint64     `json:"backlog_bytes"`
	OldestAt          *time.Time `json:"oldest_at"`
	Attempt           int        `json:"attempt"`
	NextAttemptAt     *time.Time `json:"next_attempt_at"`
	WaitsFor          string     `json:"waits_for"`
	LastError         string     `json:"last_error"`
	LastSuccessAt     *time.Time `json:"last_success_at"`
	LastFailureAt     *time.Time `json:"last_failure_at"`
	Failures          int        `json:"failures_in_window"`
	AllFailures       int        `json:"workspace_failures_in_window"`
	PreviousExpiresAt *time.Time `json:"previous_expires_at"`
	SigningKey        string     `json:"signing_key"`
}

// endpointChanges are the flags of add and update.
type endpointChanges struct {
	Description *string  `help:"A note for people." placeholder:"TEXT"`
	Header      []string `help:"Header to send with every attempt, as Name=value; can be repeated. Name= alone takes one out." sep:"none" placeholder:"NAME=VALUE"`
	Success     string   `help:"Statuses that accept an event: 200 alone, or 2xx." enum:",200,2xx" default:"" placeholder:"200|2xx"`
	Test        *bool    `name:"enable-requires-test" help:"Enable the endpoint, once it was disabled, only after a test send that it accepted." negatable:""`
	OnDisable   string   `help:"What becomes of the events of the disabled endpoint: hold or discard." enum:",hold,discard" default:"" placeholder:"hold|discard"`
}

// body is what the flags say, as the API takes it.
func (f *endpointChanges) body() (map[string]any, error) {
	body := map[string]any{}
	if f.Description != nil {
		body["description"] = *f.Description
	}
	if f.Success != "" {
		body["success"] = f.Success
	}
	if f.Test != nil {
		body["enable_requires_test"] = *f.Test
	}
	if f.OnDisable != "" {
		body["on_disable"] = f.OnDisable
	}
	if len(f.Header) > 0 {
		headers := map[string]any{}
		for _, h := range f.Header {
			at := strings.IndexAny(h, "=:") // neither is part of a name
			if at < 1 {
				return nil, usageError("--header must be Name=value")
			}
			headers[strings.TrimSpace(h[:at])] = nil
			if value := strings.TrimSpace(h[at+1:]); value != "" {
				headers[strings.TrimSpace(h[:at])] = value
			}
		}
		body["headers"] = headers
	}
	return body, nil
}

// endpointID is the argument of the commands about one endpoint.
type endpointID struct {
	ID string `arg:"" help:"Id of the endpoint." placeholder:"ID"`
}

// send makes a request about the endpoint; action is the last element of its path or empty.
func (e endpointID) send(s *surroundings, f *clientFlags, method, action string, body any) (json.RawMessage, error) {
	c, err := f.client()
	if err != nil {
		return nil, err
	}
	path := c.workspacePath("endpoints", e.ID)
	if action != "" {
		path += "/" + action
	}
	if method == http.MethodDelete {
		return nil, c.call(s.ctx, method, path, body, nil)
	}
	var raw json.RawMessage
	return raw, c.call(s.ctx, method, path, body, &raw)
}

// call is send where the answer is the endpoint.
func (e endpointID) call(s *surroundings, f *clientFlags, method, action string, body any) (shown endpoint, raw json.RawMessage, err error) {
	if raw, err = e.send(s, f, method, action, body); err != nil {
		return shown, nil, err
	}
	if err := json.Unmarshal(raw, &shown); err != nil {
		return shown, nil, errUnknownAnswer
	}
	return shown, raw, nil
}

// endpointsAdd has no environment twin of --url: STAFFETTA_URL is the relay's.
type endpointsAdd struct {
	clientFlags
	URL    string   `help:"Where the events are posted to." required:"" env:"-" placeholder:"URL"`
	Events []string `help:"Event types it gets, or all." required:"" placeholder:"TYPE,TYPE"`
	endpointChanges
	SigningKey string `help:"Base64 of 24 to 64 bytes to sign with. Default: the relay makes one." placeholder:"BASE64"`
	Plan       string `help:"Make the workspace with this plan first, or give it this plan: starter, growth, advanced or enterprise. Takes the admin key." enum:",starter,growth,advanced,enterprise" default:"" placeholder:"PLAN"`
	jsonAnswer
}

// Run is staffetta endpoints add.
func (a *endpointsAdd) Run(s *surroundings) error {
	body, err := a.body()
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	if a.Plan != "" {
		if err := c.call(s.ctx, http.MethodPut, c.workspacePath(), map[string]string{"plan": a.Plan}, nil); err != nil {
			return fmt.Errorf("set the workspace's plan: %w", err)
		}
	}
	body["url"] = a.URL
	if body["event_types"], err = chosenTypes(s, c, a.Events); err != nil {
		return err
	}
	if a.SigningKey != "" {
		body["signing_key"] = a.SigningKey
	}
	var raw json.RawMessage
	if err := c.call(s.ctx, http.MethodPost, c.workspacePath("endpoints"), body, &raw); err != nil {
		return err
	}
	var made endpoint
	if err := json.Unmarshal(raw, &made); err != nil {
		return errUnknownAnswer
	}
	if a.JSON {
		return printLine(s.stdout, string(raw))
	}
	return printFields(s.stdout, [][2]string{
		{"endpoint", made.ID},
		{"signing key", made.SigningKey},
	}, "The key is shown this once: the receiver verifies the signatures with it.")
}

// chosenTypes are the event types of --events; all stands for the relay's whole catalogue.
func chosenTypes(s *surroundings, c *client, events []string) ([]string, error) {
	if slices.Equal(events, []string{"all"}) {
		return c.eventTypes(s.ctx)
	}
	return events, nil
}

type endpointsUpdate struct {
	clientFlags
	endpointID
	URL    *string  `help:"Where the events are posted to." env:"-" placeholder:"URL"`
	Events []string `help:"Event types it gets from now on, or all." placeholder:"TYPE,TYPE"`
	endpointChanges
	jsonAnswer
}

// Run is staffetta endpoints update.
func (u *endpointsUpdate) Run(s *surroundings) error {
	body, err := u.body()
	if err != nil {
		return err
	}
	c, err := u.client()
	if err != nil {
		return err
	}
	if u.URL != nil {
		body["url"] = *u.URL
	}
	if len(u.Events) > 0 {
		if body["event_types"], err = chosenTypes(s, c, u.Events); err != nil {
			return err
		}
	}
	if len(body) == 0 {
		return usageError("nothing to change: give --url, --events, --description, --header, --success, --on-disable or --enable-requires-test")
	}
	shown, raw, err := u.call(s, &u.clientFlags, http.MethodPatch, "", body)
	return printEndpoint(s, shown, raw, u.JSON, err)
}

type endpointsList struct {
	clientFlags
	JSON bool `help:"Print {\"items\": […]} as the relay gives them."`
}

// Run is staffetta endpoints list.
func (l *endpointsList) Run(s *surroundings) error {
	c, err := l.client()
	if err != nil {
		return err
	}
	items, err := c.list(s.ctx, c.workspacePath("endpoints"))
	if err != nil {
		return err
	}
	if l.JSON {
		return json.NewEncoder(s.stdout).Encode(map[string]any{"items": items})
	}
	if len(items) == 0 {
		return printLine(s.stdout, "The workspace "+c.workspace+` has no endpoints; "staffetta endpoints add" makes one.`)
	}
	t := table{head: []string{"ID", "STATUS", "WAITING", "URL", "EVENTS", "LAST ERROR"}}
	for _, item := range items {
		var e endpoint
		if err := json.Unmarshal(item, &e); err != nil {
			return errUnknownAnswer
		}
		state := green
		if e.Status != staffetta.Enabled {
			state = red
		} else if e.LastError != "" {
			state = yellow
		}
		events := strings.Join(e.EventTypes, ", ")
		if n := len(e.EventTypes); n > 2 {
			events = fmt.Sprintf("%s and %d others", e.EventTypes[0], n-1)
		}
		t.add(left(e.ID), cell{text: string(e.Status), colour: state}, number(e.Backlog), left(e.URL), left(events), left(e.LastError))
	}
	return t.print(s.stdout)
}

type endpointsEnable struct {
	clientFlags
	endpointID
}

// Run is staffetta endpoints enable.
func (c *endpointsEnable) Run(s *surroundings) error {
	shown, _, err := c.call(s, &c.clientFlags, http.MethodPost, "enable", nil)
	if err != nil {
		return err
	}
	line := "enabled " + shown.ID
	if shown.Backlog > 0 {
		line += "; delivering what waited: " + count(shown.Backlog, "event")
	}
	return printLine(s.stdout, line)
}

type endpointsDisable struct {
	clientFlags
	endpointID
}

// Run is staffetta endpoints disable.
func (c *endpointsDisable) Run(s *surroundings) error {
	shown, _, err := c.call(s, &c.clientFlags, http.MethodPost, "disable", nil)
	if err != nil {
		return err
	}
	fate := "; its events are held until it is enabled"
	if shown.OnDisable == staffetta.Discard {
		fate = "; its events are discarded"
	}
	return printLine(s.stdout, "disabled "+shown.ID+fate)
}

type endpointsRotate struct {
	clientFlags
	endpointID
	Overlap    time.Duration `help:"How long the old key goes on signing beside the new one." default:"24h"`
	SigningKey string        `help:"Base64 of 24 to 64 bytes to sign with. Default: the relay makes one." placeholder:"BASE64"`
	jsonAnswer
}

// Run is staffetta endpoints rotate.
func (c *endpointsRotate) Run(s *surroundings) error {
	body := map[string]string{"overlap": c.Overlap.String()}
	if c.SigningKey != "" {
		body["signing_key"] = c.SigningKey
	}
	shown, raw, err := c.call(s, &c.clientFlags, http.MethodPost, "rotate-key", body)
	if err != nil {
		return err
	}
	if c.JSON {
		return printLine(s.stdout, string(raw))
	}
	fields := [][2]string{{"endpoint", shown.ID}, {"signing key", shown.SigningKey}}
	note := "The key is shown this once, and signs alone from now on."
	if until := shown.PreviousExpiresAt; until != nil {
		fields = append(fields, [2]string{"old key until", until.Format(time.RFC3339)})
		note = "The key is shown this once. Until then webhook-signature has both signatures and X-Webhook-Signature the old one."
	}
	return printFields(s.stdout, fields, note)
}

type endpointsTest struct {
	clientFlags
	endpointID
	jsonAnswer
}

// Run is staffetta endpoints test.
func (c *endpointsTest) Run(s *surroundings) error {
	raw, err := c.send(s, &c.clientFlags, http.MethodPost, "test", nil)
	if err != nil {
		return err
	}
	var result struct {
		Delivered  bool    `json:"delivered"`
		Status     int     `json:"status"`
		Error      string  `json:"error"`
		DurationMS float64 `json:"duration_ms"`
		Response   string  `json:"response"`
	}
	if err := json.Unmarshal(raw, &result); err != nil {
		return errUnknownAnswer
	}
	if c.JSON {
		if err := printLine(s.stdout, string(raw)); err != nil {
			return err
		}
	}
	came := clean(result.Error)
	if result.Error == "" {
		came = strings.TrimSpace(fmt.Sprintf("%d %s", result.Status, http.StatusText(result.Status)))
	}
	came = fmt.Sprintf("%s after %.0f ms", came, result.DurationMS)
	if head := clean(result.Response); head != "" {
		came += ": " + shorten(head, 200)
	}
	if !result.Delivered {
		return fmt.Errorf("not delivered: %s", came)
	}
	if c.JSON {
		return nil
	}
	return printLine(s.stdout, "delivered: "+came)
}

type endpointsRemove struct {
	clientFlags
	endpointID
}

// Run is staffetta endpoints remove.
func (c *endpointsRemove) Run(s *surroundings) error {
	if _, err := c.send(s, &c.clientFlags, http.MethodDelete, "", nil); err != nil {
		return err
	}
	return printLine(s.stdout, "removed "+c.ID)
}

// headerNames leaves the values out: they may be secrets.
func headerNames(headers map[string]string) string {
	if len(headers) == 0 {
		return ""
	}
	names := make([]string, 0, len(headers))
	for name := range headers {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ") + " (--json shows the values)"
}

// printFields prints name and value a line, without those that are empty.
func printFields(w io.Writer, fields [][2]string, note string) error {
	var out strings.Builder
	p := paintFor(w)
	for _, f := range fields {
		if f[1] != "" {
			fmt.Fprintf(&out, "%s  %s\n", p.text(dim, fmt.Sprintf("%-13s", f[0])), clean(f[1]))
		}
	}
	if note != "" {
		out.WriteString(note + "\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func printLine(w io.Writer, line string) error {
	_, err := fmt.Fprintln(w, line)
	return err
}

// count says how many of a thing there are.
func count[T int | uint64](n T, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

func shorten(s string, length int) string {
	if r := []rune(s); len(r) > length {
		return string(r[:length]) + "…"
	}
	return s
}
