package relay

import (
	"fmt"
	"strconv"
)

// phrases is what the mails say, in one language.
type phrases interface {
	language() string
	workspace() string
	endpoint() string
	time() string
	failures() string
	eventType() string
	event() string
	result() string
	reason() string
	events() string
	others() string
	outOf(n, quota int) string
	minutes(n int) string
	footer(workspace string) string

	warningSubject(l letter) string
	warningHeading(percent int) string
	warningIntro(l letter, span string) []string
	lastFailing() string

	disabledSubject(host string) string
	disabledHeading() string
	disabledIntro(l letter, span string) []string
	disabledAt() string
	lastFailures() string
	enableAgain() string
	enableOnPlatform() string
	enableByAPI() string
	enableByCommand() string

	digestSubject(total int) string
	digestIntro(total int, since string) []string
	dropped() string
	byEndpoint() string
	newest() string
	sendAgain() string
	sendAgainByAPI() string
}

// wordsOf speaks English where it does not know the language.
func wordsOf(language string) phrases {
	if language == "it" {
		return italian{}
	}
	return english{}
}

// platformPath is the way through the platform's own pages, which have no Italian.
const platformPath = "Workspace settings > Integrations > Webhook > Enable"

type english struct{}

func (english) language() string          { return "en" }
func (english) workspace() string         { return "Workspace" }
func (english) endpoint() string          { return "Endpoint" }
func (english) time() string              { return "Time" }
func (english) failures() string          { return "Failures" }
func (english) eventType() string         { return "Event type" }
func (english) event() string             { return "Event" }
func (english) result() string            { return "Result" }
func (english) reason() string            { return "Reason" }
func (english) events() string            { return "Events" }
func (english) others() string            { return "others" }
func (english) outOf(n, quota int) string { return fmt.Sprintf("%d (limit %d)", n, quota) }

func (english) minutes(n int) string {
	if n == 1 {
		return "1 minute"
	}
	return strconv.Itoa(n) + " minutes"
}

func (english) footer(workspace string) string {
	return "You get this mail because your address is among the notification addresses of the workspace " + workspace + "."
}

func (english) warningSubject(l letter) string {
	return fmt.Sprintf("Webhook failures at %d%% of the limit (%d of %d)", l.Percent, l.Count, l.Quota)
}

func (english) warningHeading(percent int) string {
	return fmt.Sprintf("Webhook failures have reached %d%% of the limit", percent)
}

func (english) warningIntro(l letter, span string) []string {
	whose := "All webhooks of the workspace share this limit."
	if l.PerEndpoint {
		whose = "The limit is this webhook's own."
	}
	return []string{
		fmt.Sprintf("There were %d failed webhook attempts within %s. The failure that goes beyond %d disables the webhook that makes it. %s", l.Count, span, l.Quota, whose),
		"Please check that the webhook below answers each event at once with a success status, and does its own work afterwards.",
	}
}

func (english) lastFailing() string { return "Last to fail" }

func (english) disabledSubject(host string) string { return "Webhook disabled: " + host }
func (english) disabledHeading() string            { return "A webhook was disabled" }

func (english) disabledIntro(l letter, span string) []string {
	held := "Events that arrive meanwhile are held, and are delivered in their order once it is enabled."
	if l.Discards {
		held = "Events that arrive meanwhile are discarded."
	}
	whose := "the webhooks of this workspace together"
	if l.PerEndpoint {
		whose = "this webhook"
	}
	return []string{
		fmt.Sprintf("There were %d failed attempts within %s, and the limit for %s is %d. The webhook below made the failure that was one too many, so it gets no more events until you enable it again.", l.Count, span, whose, l.Quota),
		held,
	}
}

func (english) disabledAt() string       { return "Disabled at" }
func (english) lastFailures() string     { return "The last failures" }
func (english) enableAgain() string      { return "How to enable it again" }
func (english) enableOnPlatform() string { return "On the platform: " + platformPath }
func (english) enableByAPI() string      { return "Or through the API:" }
func (english) enableByCommand() string  { return "Or on the command line:" }

func (english) digestSubject(total int) string {
	if total == 1 {
		return "1 webhook event was dropped"
	}
	return strconv.Itoa(total) + " webhook events were dropped"
}

func (english) digestIntro(total int, since string) []string {
	what := fmt.Sprintf("Since %s, %d events could not be delivered and were dropped.", since, total)
	if total == 1 {
		what = fmt.Sprintf("At %s, an event could not be delivered and was dropped.", since)
	}
	return []string{what + " What is dropped is kept among the dead letters, with its payload, and can be sent again."}
}

func (english) dropped() string        { return "Dropped" }
func (english) byEndpoint() string     { return "By endpoint" }
func (english) newest() string         { return "The newest" }
func (english) sendAgain() string      { return "How to send them again" }
func (english) sendAgainByAPI() string { return "Once deliveries succeed again, through the API:" }
