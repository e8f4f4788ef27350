package main

import (
	"context"
	"time"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/relay"
	"github.com/staffetta-relay/staffetta/sender"
)

// mailFlags say how notices are mailed.
type mailFlags struct {
	SMTPURL   string `name:"smtp-url" help:"Mail server for notices: smtp://user:password@host:port, with STARTTLS where it is offered (?starttls=require insists, ?starttls=no never), or smtps://. Default: no mails." placeholder:"URL"`
	MailFrom  string `help:"Sender of the mails." placeholder:"ADDRESS"`
	PublicURL string `name:"public-url" help:"URL under which the API is reached from outside, for the commands in the mails." placeholder:"URL"`
}

// config is nil where no mails are sent.
func (f mailFlags) config() (*relay.MailConfig, error) {
	if f.SMTPURL == "" {
		return nil, nil
	}
	c := &relay.MailConfig{URL: f.SMTPURL, From: f.MailFrom, PublicURL: f.PublicURL}
	if err := c.Validate(); err != nil {
		return nil, usageError("--" + err.Error())
	}
	return c, nil
}

// noticeFailures is how many attempts before a disabling are looked through for failures.
const noticeFailures = 50

// tellDisabled connects the quota's disablings with the notices, which show what the log has of the
// endpoint's last failures.
func tellDisabled(n *relay.Notices, attempts *relay.AttemptLog) func(context.Context, relay.Disabling) {
	return func(ctx context.Context, d relay.Disabling) {
		e := d.Endpoint
		var failures []relay.FailedAttempt
		if e.DisabledReason != staffetta.DisabledByUser {
			failures = lastFailures(ctx, attempts, e)
		}
		n.Disabled(e.Workspace, e.ID, e.URL, e.DisabledReason, d.Failures, d.Quota, failures)
	}
}

// lastFailures gives them oldest first, or none where the log cannot be read now.
func lastFailures(ctx context.Context, attempts *relay.AttemptLog, e staffetta.Endpoint) []relay.FailedAttempt {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	page, err := attempts.Query(ctx, relay.AttemptFilter{Workspace: e.Workspace, Endpoint: e.ID}, nil, noticeFailures)
	if err != nil {
		return nil
	}
	var failures []relay.FailedAttempt
	for i := len(page.Attempts) - 1; i >= 0; i-- { // the page has the newest first
		a := &page.Attempts[i]
		if !a.Verdict.Counts {
			continue
		}
		failed := relay.FailedAttempt{At: a.At, EventType: a.EventType, Status: a.Outcome.Status}
		if a.Outcome.Error != staffetta.ErrorNone {
			failed.Error = a.Outcome.String()
		}
		failures = append(failures, failed)
	}
	return failures
}

func tellLevel(n *relay.Notices) func(relay.QuotaLevel) {
	return func(l relay.QuotaLevel) { n.Warning(l.Workspace, l.Endpoint, l.Percent, l.Count, l.Quota) }
}

func tellEnabled(n *relay.Notices) func(staffetta.Endpoint) {
	return func(e staffetta.Endpoint) { n.Enabled(e.Workspace, e.ID, e.URL) }
}

func tellDropped(n *relay.Notices) func(string, string, *sender.Message, int, staffetta.Outcome) {
	return func(workspace, endpoint string, m *sender.Message, _ int, o staffetta.Outcome) {
		n.Dropped(workspace, endpoint, m.Event.ID, m.Event.Type, o.String())
	}
}

// operationsLane keeps the hidden lane of a workspace's operational events as the workspace is.
func operationsLane(s *sender.Sender) func(staffetta.Workspace) {
	return func(ws staffetta.Workspace) {
		if e, ok := relay.OperationsEndpoint(ws); ok {
			s.SetEndpoint(e)
		} else {
			s.RemoveEndpoint(e)
		}
	}
}

// endOperationsLane ends it with the workspace.
func endOperationsLane(s *sender.Sender) func(staffetta.Workspace) {
	return func(ws staffetta.Workspace) {
		e, _ := relay.OperationsEndpoint(ws)
		s.RemoveEndpoint(e)
	}
}
