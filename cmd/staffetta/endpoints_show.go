package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/staffetta-relay/staffetta"
)

type endpointsShow struct {
	clientFlags
	endpointID
	jsonAnswer
}

// attemptsOfShow is how many of the last attempts show tells.
const attemptsOfShow = 5

// Run is staffetta endpoints show.
func (e *endpointsShow) Run(s *surroundings) error {
	shown, raw, err := e.call(s, &e.clientFlags, http.MethodGet, "", nil)
	if err != nil {
		return err
	}
	if e.JSON {
		return printLine(s.stdout, string(raw))
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	var ws *staffetta.Workspace // without it the quota is not shown
	if c.call(s.ctx, http.MethodGet, c.workspacePath(), nil, &ws) != nil {
		ws = nil
	}
	attempts := lastAttempts(s, c, url.Values{"endpoint": {shown.ID}}, attemptsOfShow)
	shown.remember(s, c, attempts)
	if err := printFields(s.stdout, shown.fields(ws, time.Now()), ""); err != nil {
		return err
	}
	return printUnder(s, "last attempts", attempts, false)
}

// remember takes from the log what a relay does not know since its start: the last success and the
// last error.
func (e *endpoint) remember(s *surroundings, c *client, attempts []json.RawMessage) {
	var last attempt
	if e.LastSuccessAt == nil {
		accepted := lastAttempts(s, c, url.Values{"endpoint": {e.ID}, "outcome": {"delivered"}}, 1)
		if len(accepted) == 1 && json.Unmarshal(accepted[0], &last) == nil {
			e.LastSuccessAt = &last.StartedAt
		}
	}
	if e.LastFailureAt != nil || e.LastError != "" || len(attempts) == 0 {
		return
	}
	var newest attempt
	if json.Unmarshal(attempts[0], &newest) == nil && newest.Outcome != "delivered" {
		e.LastFailureAt, e.LastError = &newest.StartedAt, newest.failure()
	}
}

// printEndpoint shows an endpoint to a person, or the relay's answer to a program.
func printEndpoint(s *surroundings, e endpoint, raw json.RawMessage, asJSON bool, err error) error {
	switch {
	case err != nil:
		return err
	case asJSON:
		return printLine(s.stdout, string(raw))
	}
	return printFields(s.stdout, e.fields(nil, time.Now()), "")
}

// fields are an endpoint's lines; what is empty is left out. Without the workspace its quota is.
func (e *endpoint) fields(ws *staffetta.Workspace, now time.Time) [][2]string {
	return [][2]string{
		{"endpoint", e.ID},
		{"url", e.URL},
		{"status", e.statusLine(now)},
		{"to enable", e.toEnable()},
		{"events", strings.Join(e.EventTypes, ", ")},
		{"description", e.Description},
		{"headers", headerNames(e.Headers)},
		{"success", string(e.Success)},
		{"on disable", string(e.OnDisable)},
		{"waiting", e.backlogLine(now)},
		{"waits for", e.waitsForLine(now)},
		{"last success", whenOr(e.LastSuccessAt, now, "")},
		{"last error", e.lastErrorLine(now)},
		{"last failure", e.lastFailureLine(now)},
		{"failures", e.failuresLine(ws)},
		{"old key until", whenOr(e.PreviousExpiresAt, now, "")},
	}
}

func (e *endpoint) statusLine(now time.Time) string {
	text := string(e.Status)
	if e.DisabledReason != "" {
		text += " (" + e.DisabledReason + ")"
	}
	if e.Status == staffetta.Disabled && e.DisabledAt != nil {
		text += " since " + when(*e.DisabledAt, now)
	}
	return text
}

func (e *endpoint) toEnable() string {
	switch {
	case e.Status != staffetta.Disabled:
		return ""
	case e.NeedsTest():
		return "staffetta endpoints test " + e.ID + " must be accepted first"
	default:
		return "staffetta endpoints enable " + e.ID
	}
}

func (e *endpoint) backlogLine(now time.Time) string {
	switch {
	case e.Backlog == 0:
		return "nothing"
	case e.OldestAt == nil:
		return count(e.Backlog, "event") + e.backlogSize()
	default:
		return count(e.Backlog, "event") + ", the first since " + when(*e.OldestAt, now) + e.backlogSize()
	}
}

// backlogSize is how large the waiting events are; empty where that is not known.
func (e *endpoint) backlogSize() string {
	if e.BacklogBytes == 0 {
		return ""
	}
	return fmt.Sprintf(", %.1f KiB", float64(e.BacklogBytes)/1024)
}

// waitsForLine is what the first waiting event waits for, and until when.
func (e *endpoint) waitsForLine(now time.Time) string {
	switch {
	case e.WaitsFor == "enable":
		return "the endpoint to be enabled"
	case e.NextAttemptAt != nil:
		return fmt.Sprintf("its next attempt, %s, after %d failed", when(*e.NextAttemptAt, now), e.Attempt)
	case e.WaitsFor == "attempt":
		return "the attempt under way"
	default:
		return ""
	}
}

func (e *endpoint) lastErrorLine(now time.Time) string {
	if e.LastError == "" {
		return ""
	}
	return e.LastError + whenOr(e.LastFailureAt, now, ", ")
}

// lastFailureLine is when an attempt last failed, where deliveries go well since.
func (e *endpoint) lastFailureLine(now time.Time) string {
	if e.LastError != "" {
		return ""
	}
	return whenOr(e.LastFailureAt, now, "")
}

// failuresLine is how much of the quota is used up.
func (e *endpoint) failuresLine(ws *staffetta.Workspace) string {
	switch {
	case ws == nil || ws.Quota == nil:
		return fmt.Sprintf("%d in the window, %d of the whole workspace", e.Failures, e.AllFailures)
	case *ws.Quota == 0:
		return fmt.Sprintf("%d in the window; no number of them disables the endpoint", e.Failures)
	case ws.QuotaScope == staffetta.QuotaEndpoint:
		return fmt.Sprintf("%d in the window; the quota is %d for each endpoint", e.Failures, *ws.Quota)
	default:
		return fmt.Sprintf("%d in the window; with the workspace's other endpoints %d of the quota of %d", e.Failures, e.AllFailures, *ws.Quota)
	}
}

// whenOr is a time behind a prefix, or nothing.
func whenOr(t *time.Time, now time.Time, prefix string) string {
	if t == nil {
		return ""
	}
	return prefix + when(*t, now)
}
