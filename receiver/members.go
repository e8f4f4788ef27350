package receiver

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/staffetta-relay/staffetta"
)

// eventIDOf is what a repeat of the request is told by: the payload's event_id, else the header
// webhook-id, else a digest of the body.
func eventIDOf(webhookID, body []byte) string {
	if id, ok := lastEventID(body); ok {
		return string(id)
	}
	if bytes.Contains(body, []byte(`event_id"`)) {
		m := readMembers(body, "event_id", nil)
		if staffetta.ValidEventID(m.first) {
			return m.first
		}
	}
	if staffetta.ValidEventID(webhookID) {
		return string(webhookID)
	}
	sum := sha256.Sum256(body)
	return "sha256-" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// lastEventID reads an event_id that is the payload's last member, as a relay writes it, without a
// decoder (BenchmarkEventID): an object that ends in a string member ends its outermost level there.
func lastEventID(body []byte) ([]byte, bool) {
	const name, end = `"event_id":"`, `"}`
	if !bytes.HasSuffix(body, []byte(end)) {
		return nil, false
	}
	at := bytes.LastIndexByte(body[:len(body)-len(end)], '"') + 1
	start := at - len(name)
	if start < 1 || string(body[start:at]) != name || body[start-1] != ',' && body[start-1] != '{' {
		return nil, false
	}
	id := body[at : len(body)-len(end)]
	return id, staffetta.ValidEventID(id)
}

// members are what is looked up in a payload: a member of the outermost level, and what a JSON pointer
// leads to. Strings are without their quotes; both are empty where there is nothing, or no JSON.
type members struct{ first, pointed string }

var decoders = sync.Pool{New: func() any { return new(jsontext.Decoder) }}

// readMembers looks both up in one pass.
func readMembers(body []byte, name string, pointer []string) (m members) {
	if len(pointer) > 0 && pointer[0] == name { // each is looked up by itself
		return members{readMembers(body, name, nil).first, readMembers(body, "", pointer).pointed}
	}
	d := decoders.Get().(*jsontext.Decoder)
	defer decoders.Put(d)
	d.Reset(bytes.NewBuffer(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if d.PeekKind() != '{' {
		return m
	}
	if _, err := d.ReadToken(); err != nil {
		return m
	}
	left := 1
	if len(pointer) > 0 {
		left++
	}
	for left > 0 && d.PeekKind() == '"' {
		token, err := d.ReadToken()
		if err != nil {
			return m
		}
		switch member := token.String(); {
		case member == name:
			if m.first, err = readText(d); err != nil {
				return m
			}
			left--
		case len(pointer) > 0 && member == pointer[0]:
			if m.pointed, err = follow(d, pointer[1:]); err != nil {
				return m
			}
			left--
		default:
			if err := d.SkipValue(); err != nil {
				return m
			}
		}
	}
	return m
}

// readText reads a value: a string's content, or the text of a number, true or false; of anything else
// nothing.
func readText(d *jsontext.Decoder) (string, error) {
	switch d.PeekKind() {
	case '"', '0', 't', 'f':
		token, err := d.ReadToken()
		if err != nil {
			return "", err
		}
		return token.String(), nil
	default:
		return "", d.SkipValue()
	}
}

// follow reads the value that the rest of a pointer leads to.
func follow(d *jsontext.Decoder, rest []string) (text string, err error) {
	if len(rest) == 0 {
		return readText(d)
	}
	kind := d.PeekKind()
	if kind != '{' && kind != '[' {
		return "", d.SkipValue()
	}
	if _, err := d.ReadToken(); err != nil {
		return "", err
	}
	for i := 0; d.PeekKind() != '}' && d.PeekKind() != ']'; i++ {
		name := strconv.Itoa(i)
		if kind == '{' {
			token, err := d.ReadToken()
			if err != nil {
				return "", err
			}
			name = token.String()
		}
		if name != rest[0] {
			err = d.SkipValue()
		} else if found, e := follow(d, rest[1:]); e != nil || text == "" {
			text, err = found, e
		}
		if err != nil {
			return "", err
		}
	}
	_, err = d.ReadToken()
	return text, err
}

// parsePointer reads a JSON pointer (RFC 6901).
func parsePointer(text string) ([]string, bool) {
	if !strings.HasPrefix(text, "/") {
		return nil, false
	}
	parts := strings.Split(text[1:], "/")
	for i, p := range parts {
		parts[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(p)
	}
	return parts, true
}
