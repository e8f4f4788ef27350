package bench

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/staffetta-relay/staffetta"
)

// MinPayload is the least size of an event in bytes: the type with the longest name, its contact and
// its id.
const MinPayload = 256

// markLen is the length of a mark as text.
const markLen = 36

// Mark is what an event of the bench carries, as its event_id: 32 hexadecimal digits and four dashes,
// as a UUID has. So whoever gets the event knows where it stands without reading the payload, and no
// two events share an id.
type Mark struct {
	// Track is the number of the sequence that the event belongs to.
	Track uint32
	// Sequence is the event's number in it, from 0.
	Sequence uint32
	// Planned is when it was to be sent, in Unix nanoseconds.
	Planned int64
}

const hexDigits = "0123456789abcdef"

// put writes the mark's text over dst, which has markLen bytes.
func (m Mark) put(dst []byte) {
	_ = dst[markLen-1]
	high, low := uint64(m.Track)<<32|uint64(m.Sequence), uint64(m.Planned)
	for i := range markLen {
		switch i {
		case 8, 13, 18, 23:
			dst[i] = '-'
			continue
		}
		dst[i] = hexDigits[high>>60]
		high = high<<4 | low>>60
		low <<= 4
	}
}

// parseMark reads a mark back; it reports false for what is not one.
func parseMark(text []byte) (Mark, bool) {
	if len(text) != markLen {
		return Mark{}, false
	}
	var high, low uint64
	for i, c := range text {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return Mark{}, false
			}
			continue
		}
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		default:
			return Mark{}, false
		}
		high = high<<4 | low>>60
		low = low<<4 | uint64(c)
	}
	return Mark{Track: uint32(high >> 32), Sequence: uint32(high), Planned: int64(low)}, true
}

// markOf reads the mark of a payload: event_id is its last member.
func markOf(payload []byte) (Mark, bool) {
	end := len(payload) - len(`"}`)
	if end < markLen {
		return Mark{}, false
	}
	return parseMark(payload[end-markLen : end])
}

// firstContact is the least contact id: all have nine digits.
const firstContact = 100_000_000

// Template is a canonical payload of one type whose events differ in places of fixed width alone: the
// event_id and the contact's id.
type Template struct {
	Type    string
	text    []byte
	contact int // where the contact's id stands
}

// Render writes an event over dst, which has the template's size.
func (t *Template) Render(dst []byte, m Mark) {
	copy(dst, t.text)
	t.patch(dst, m)
}

// patch makes an event of the template into another one. The contact is the track's: what is in order
// for each contact is in order for each track.
func (t *Template) patch(event []byte, m Mark) {
	n := firstContact + m.Track%(9*firstContact)
	for i := t.contact + 8; i >= t.contact; i-- {
		event[i] = '0' + byte(n%10)
		n /= 10
	}
	m.put(event[len(event)-len(`"}`)-markLen:])
}

// Templates holds one or more templates for every event type that has a sample, all of one size.
type Templates struct {
	Size   int
	byType map[string][]*Template
	types  []string
}

// NewTemplates makes the templates of respond.io's samples, each brought to size bytes: members are
// left out from the last on where a sample is longer, and a member padding fills it up.
func NewTemplates(size int) (*Templates, error) {
	if size < MinPayload {
		return nil, fmt.Errorf("make payloads: an event has at least %d bytes, not %d", MinPayload, size)
	}
	all := &Templates{Size: size, byType: make(map[string][]*Template)}
	samples := staffetta.SampleVariants()
	for _, eventType := range staffetta.DefaultCatalogue().Types() {
		samples[eventType.Name] = staffetta.Sample(eventType.Name)
	}
	names := make([]string, 0, len(samples))
	for name := range samples {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		t, err := newTemplate(samples[name], size)
		if err != nil {
			return nil, fmt.Errorf("make payload of the sample %s: %w", name, err)
		}
		if len(all.byType[t.Type]) == 0 {
			all.types = append(all.types, t.Type)
		}
		all.byType[t.Type] = append(all.byType[t.Type], t)
	}
	return all, nil
}

// Types lists the event types, in alphabetical order.
func (ts *Templates) Types() []string { return ts.types }

// Of lists the templates of some types.
func (ts *Templates) Of(types ...string) (list []*Template) {
	for _, name := range types {
		list = append(list, ts.byType[name]...)
	}
	return list
}

// member is one of a payload's, as text.
type member struct{ name, value string }

const (
	memberContact   = "contact"
	memberEventType = "event_type"
	memberEventID   = "event_id"
	padding         = `"padding":"",`
)

func newTemplate(sample []byte, size int) (*Template, error) {
	members, err := membersOf(sample)
	if err != nil {
		return nil, err
	}
	t := &Template{}
	for _, m := range members {
		if m.name == memberEventType {
			t.Type = strings.Trim(m.value, `"`)
		}
	}
	body := func() string {
		var b strings.Builder
		for _, m := range members {
			fmt.Fprintf(&b, "%q:%s,", m.name, m.value)
		}
		return b.String()
	}
	room := size - len(`{`+padding+`"event_type":"","event_id":""}`) - len(t.Type) - markLen
	members = slices.DeleteFunc(members, func(m member) bool { return m.name == memberEventType || m.name == memberEventID })
	for len(body()) > room && len(members) > 1 {
		members = members[:len(members)-1]
	}
	if len(body()) > room {
		members[0].value = fmt.Sprintf(`{"id":%d}`, firstContact)
	}
	kept := body()
	if members[0].name != memberContact || len(kept) > room {
		return nil, fmt.Errorf("it does not start with a contact, or does not fit into %d bytes", size)
	}
	t.text = fmt.Appendf(nil, `{%s"padding":"%s","event_type":"%s","event_id":"%s"}`,
		kept, filler(room-len(kept)), t.Type, strings.Repeat("0", markLen))
	const before = `{"contact":{"id":`
	t.contact = len(before)
	digits := bytes.IndexFunc(t.text[t.contact:], func(r rune) bool { return r < '0' || r > '9' })
	if !bytes.HasPrefix(t.text, []byte(before)) || digits != 9 {
		return nil, fmt.Errorf("its contact does not start with an id of nine digits")
	}
	return t, nil
}

// membersOf takes an object apart, in its order.
func membersOf(object []byte) (members []member, err error) {
	d := jsontext.NewDecoder(bytes.NewReader(object))
	if _, err = d.ReadToken(); err != nil {
		return nil, err
	}
	for d.PeekKind() != jsontext.KindEndObject {
		name, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		text := name.String()
		value, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		members = append(members, member{text, string(value)})
	}
	return members, nil
}

// filler is text of n bytes that is neither all the same nor random.
func filler(n int) string {
	const words = "the order left the shop this morning and the driver asks whether somebody is at home before six "
	return strings.Repeat(words, n/len(words)+1)[:n]
}
