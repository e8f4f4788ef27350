// Package respondio has the webhooks of respond.io as Go types: what Parse makes of an event is one
// of twelve types, and the content of a message one of sixteen.
//
// A payload is never refused for what it holds. Fields are plain Go values, zero where the member is
// missing, null or of another type than documented. An id may come as a number or as text, a number
// as text, a timestamp in seconds or in milliseconds, a list of one without its brackets, an
// assignee as null or as an object of nulls: the field reads the same. Extra holds the members that
// this package does not know, a contact's custom fields among them; Odd those that are of another
// type than documented.
//
// Marshal writes back what was parsed, member for member and in the same order, with the fields that
// a program has changed: what came as null, as text or as something odd goes out as it came.
package respondio

import (
	"github.com/staffetta-relay/staffetta"
)

// Payload is one of the event types below, always as a pointer, such as *MessageReceived; or
// *Unknown for an event type that this package does not know.
type Payload interface {
	// Head is what all events have.
	Head() *EventHead
	isPayload()
}

// EventHead is what all events have.
type EventHead struct {
	// Type is the event type, such as "message.received".
	Type string `json:"event_type"`
	// ID is the same on every attempt: an event that comes twice has it twice.
	ID      string  `json:"event_id"`
	Contact Contact `json:"contact"`
	Rest
}

// Head makes a type that embeds the head a Payload.
func (h *EventHead) Head() *EventHead { return h }

func (*EventHead) isPayload() {}

// ConversationClosed is conversation.closed.
type ConversationClosed struct {
	EventHead
	Conversation ClosedConversation `json:"conversation"`
}

// ConversationOpened is conversation.opened.
type ConversationOpened struct {
	EventHead
	Conversation OpenedConversation `json:"conversation"`
}

// ContactCreated is contact.created.
type ContactCreated struct{ EventHead }

// ContactUpdated is contact.updated: the contact as it is now.
type ContactUpdated struct{ EventHead }

// ContactAssigneeUpdated is contact.assignee.updated: Contact.Assignee is the new one, with an
// empty ID where the contact is now nobody's.
type ContactAssigneeUpdated struct{ EventHead }

// ContactTagUpdated is contact.tag.updated.
type ContactTagUpdated struct {
	EventHead
	Tag string `json:"tag"`
	// Action is what was done with the tag, such as "add".
	Action string `json:"action"`
}

// ContactLifecycleUpdated is contact.lifecycle.updated.
type ContactLifecycleUpdated struct {
	EventHead
	Lifecycle    string `json:"lifecycle"`
	OldLifecycle string `json:"oldLifecycle"`
	// Action is what was done, such as "update".
	Action string `json:"action"`
}

// MessageReceived is message.received: a contact has written.
type MessageReceived struct {
	EventHead
	Message Message `json:"message"`
	Channel Channel `json:"channel"`
	Sender  Sender  `json:"sender"`
}

// MessageSent is message.sent: somebody or something has written to a contact.
type MessageSent struct {
	EventHead
	Message Message `json:"message"`
	Channel Channel `json:"channel"`
	// User is who sent it; its ID is empty where no user did.
	User   User   `json:"user"`
	Sender Sender `json:"sender"`
}

// CommentCreated is comment.created.
type CommentCreated struct {
	EventHead
	// Text mentions a user as {{@user.25262}}.
	Text                string   `json:"text"`
	Attachments         []File   `json:"attachments"`
	MentionedUserIDs    []ID     `json:"mentionedUserIds"`
	MentionedUserEmails []string `json:"mentionedUserEmails"`
}

// CallEnded is call.ended.
type CallEnded struct {
	EventHead
	Call    Call    `json:"call"`
	User    User    `json:"user"`
	Channel Channel `json:"channel"`
}

// Unknown is an event of a type that this package does not know: its members are in Extra.
type Unknown struct{ EventHead }

// payloads are the event types that the package knows, in the order of the catalogue.
var payloads = []struct {
	name string
	make func() Payload
}{
	{"conversation.closed", func() Payload { return new(ConversationClosed) }},
	{"conversation.opened", func() Payload { return new(ConversationOpened) }},
	{"contact.created", func() Payload { return new(ContactCreated) }},
	{"contact.updated", func() Payload { return new(ContactUpdated) }},
	{"contact.assignee.updated", func() Payload { return new(ContactAssigneeUpdated) }},
	{"contact.tag.updated", func() Payload { return new(ContactTagUpdated) }},
	{"contact.lifecycle.updated", func() Payload { return new(ContactLifecycleUpdated) }},
	{"message.received", func() Payload { return new(MessageReceived) }},
	{"message.sent", func() Payload { return new(MessageSent) }},
	{"comment.created", func() Payload { return new(CommentCreated) }},
	{"call.ended", func() Payload { return new(CallEnded) }},
}

// Types lists the event types that have a type of their own here, such as "message.received".
func Types() []string {
	names := make([]string, len(payloads))
	for i, p := range payloads {
		names[i] = p.name
	}
	return names
}

func newPayload(eventType string) Payload {
	for _, p := range payloads {
		if p.name == eventType {
			return p.make()
		}
	}
	return new(Unknown)
}

// Parse reads an event. Its Type says which type comes back; where that is empty, the event_type of
// the payload does. The error, an InputError, says that the payload is no JSON object.
func Parse(e staffetta.Event) (Payload, error) {
	if err := check(e.Payload); err != nil {
		return nil, err
	}
	eventType := e.Type
	if eventType == "" {
		eventType = member(e.Payload, "event_type")
	}
	p := newPayload(eventType)
	parseInto(e.Payload, p)
	return p, nil
}

// ParseBody reads the body of a request; verify its signature first (staffetta.Verify). The error,
// an InputError, says that it is no JSON object.
func ParseBody(body []byte) (Payload, error) { return Parse(staffetta.Event{Payload: body}) }

// Marshal writes a payload as JSON: what was parsed, with the fields that were changed since. The
// error says that Extra, Odd or a raw field was given something that is not JSON.
func Marshal(p Payload) ([]byte, error) { return marshal(p) }
