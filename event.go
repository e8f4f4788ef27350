// Package staffetta is the domain of a webhook relay and receiver: events, endpoints, the delivery
// rules as values, the one form of a payload and its signatures. Everything here is a value or a
// pure function; the rooms that store, send and receive are the packages beside it.
package staffetta

import (
	"slices"
	"strings"
)

// Event is one JSON object on its way to the endpoints that asked for its type.
type Event struct {
	// ID is the event_id: the same on every attempt and for every endpoint.
	ID string
	// Type is the event_type, one of the catalogue's.
	Type string
	// Payload is the canonical JSON object with its event_type and event_id members.
	Payload []byte
	// Replay says that the event is sent again on request: a header tells the endpoint.
	Replay bool
}

// MaxEventID bounds an event_id: 1 to 128 visible ASCII characters other than the double quote and
// the backslash, for it travels in a header and stands unescaped in the payload.
const MaxEventID = 128

// ValidEventID reports whether id can travel in a header and name a record.
func ValidEventID[T ~string | ~[]byte](id T) bool {
	if len(id) == 0 || len(id) > MaxEventID {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' || id[i] == '"' || id[i] == '\\' {
			return false
		}
	}
	return true
}

// EventType is one entry of a catalogue.
type EventType struct {
	// Name is the wire name, such as "message.received".
	Name string `json:"name" yaml:"name"`
	// Title is what the platform calls it, such as "New Incoming Message".
	Title string `json:"title" yaml:"title"`
}

// Catalogue is the set of event types that a platform has. The zero value knows none.
type Catalogue struct {
	types []EventType
	names map[string]struct{}
}

// DefaultCatalogue is respond.io's.
func DefaultCatalogue() Catalogue {
	c, err := NewCatalogue([]EventType{
		{"conversation.closed", "Conversation Closed"},
		{"conversation.opened", "Conversation Opened"},
		{"contact.created", "New Contact"},
		{"contact.updated", "Contact Updated"},
		{"contact.assignee.updated", "Contact Assignee Updated"},
		{"contact.tag.updated", "Contact Tag Updated"},
		{"contact.lifecycle.updated", "Contact Lifecycle Updated"},
		{"message.received", "New Incoming Message"},
		{"message.sent", "New Outgoing Message"},
		{"comment.created", "New Comment"},
		{"call.ended", "Call Ended"},
	})
	if err != nil {
		panic(err) // unreachable: the list above is a constant
	}
	return c
}

// NewCatalogue checks a list of types: at least one, at most 1,000, each name once and made of
// 1 to 64 letters, digits, dots, dashes and underscores. A title left empty becomes the name.
func NewCatalogue(types []EventType) (Catalogue, error) {
	if len(types) == 0 || len(types) > 1000 {
		return Catalogue{}, invalid("invalid_catalogue", "event_types", "a catalogue lists 1 to 1000 event types")
	}
	c := Catalogue{names: make(map[string]struct{}, len(types))}
	for _, t := range types {
		if !validEventType(t.Name) {
			return Catalogue{}, invalid("invalid_catalogue", "name", "an event type is 1 to 64 letters, digits, dots, dashes or underscores: "+printable(t.Name))
		}
		if c.Has(t.Name) {
			return Catalogue{}, invalid("invalid_catalogue", "name", "the event type "+t.Name+" is listed twice")
		}
		if t.Title == "" {
			t.Title = t.Name
		}
		c.names[t.Name] = struct{}{}
		c.types = append(c.types, t)
	}
	return c, nil
}

// Has reports whether the catalogue knows the type.
func (c Catalogue) Has(name string) bool {
	_, ok := c.names[name]
	return ok
}

// Types lists the entries in the catalogue's order.
func (c Catalogue) Types() []EventType { return slices.Clone(c.types) }

// UnknownType is the error for a type that the catalogue does not have; it lists those it has.
func (c Catalogue) UnknownType(name string) *InputError {
	names := make([]string, len(c.types))
	for i, t := range c.types {
		names[i] = t.Name
	}
	return invalid("unknown_event_type", "event_type",
		"unknown event type "+printable(name)+"; known are "+strings.Join(names, ", "))
}

func validEventType(name string) bool {
	if name == "" || len(name) > 64 {
		return false
	}
	for _, r := range name {
		if !isToken(r) && r != '.' {
			return false
		}
	}
	return true
}

func isToken(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}
