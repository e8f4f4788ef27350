package respondio_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"testing"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/respondio"
)

// survives asserts that a payload parses, comes back with the same meaning, and does so once more.
func survives(t testing.TB, eventType string, body []byte) {
	t.Helper()
	p, err := respondio.Parse(staffetta.Event{Type: eventType, Payload: body})
	if err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	once := marshal(t, p)
	if !reflect.DeepEqual(generic(t, once), generic(t, body)) {
		t.Fatalf("got\n%s\nwant\n%s", once, body)
	}
	again, err := respondio.Parse(staffetta.Event{Type: eventType, Payload: once})
	if err != nil {
		t.Fatalf("%v: %s", err, once)
	}
	if twice := marshal(t, again); !bytes.Equal(twice, once) {
		t.Fatalf("got\n%s\nthe second time, the first\n%s", twice, once)
	}
}

// mutations are the other forms that a member may come in.
func mutations(v any) []any {
	others := []any{
		nil, true, "x", "", json.Number("7"), json.Number("-1.5e3"), json.Number("1784604785000"),
		[]any{},
		map[string]any{},
		[]any{nil},
		[]any{v},
		[]any{v, "x"},
		map[string]any{"id": nil, "type": nil, "x": v},
		map[string]any{"type": "hologram"},
	}
	switch v := v.(type) {
	case string:
		others = append(others, json.Number(strconv.Itoa(len(v))))
	case json.Number:
		others = append(others, v.String(), v+"000", v+"e1", "0"+v.String())
	case map[string]any:
		nulls := map[string]any{}
		for name := range v {
			nulls[name] = nil
		}
		others = append(others, nulls)
	}
	return others
}

// mutator gives members their other forms, each member of the same name and value once.
type mutator struct {
	done map[string]bool
	each func()
}

// mutate calls each with every other form of every member below v, and with members missing and added.
func (m *mutator) mutate(v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, was := range v {
			key := fmt.Sprint(name, was)
			if m.done[key] {
				continue
			}
			m.done[key] = true
			m.mutate(was)
			for _, other := range mutations(was) {
				v[name] = other
				m.each()
			}
			delete(v, name)
			m.each()
			v[name] = was
		}
		v["a new member"] = []any{"x", json.Number("1.50")}
		m.each()
		delete(v, "a new member")
	case []any:
		for i, was := range v {
			m.mutate(was)
			for _, other := range mutations(was) {
				v[i] = other
				m.each()
			}
			v[i] = was
		}
	}
}

func TestEverySampleSurvivesEveryOtherFormOfEveryMember(t *testing.T) {
	n := 0
	done := map[string]bool{}
	for name, body := range samples() {
		t.Run(name, func(t *testing.T) {
			tree := generic(t, body)
			eventType := parse(t, body).Head().Type
			m := mutator{done, func() {
				n++
				mutated, err := json.Marshal(tree)
				if err != nil {
					t.Fatal(err)
				}
				survives(t, eventType, mutated)
			}}
			m.mutate(tree)
		})
	}
	if n < 4_000 {
		t.Errorf("%d mutations were tried; the walk does not reach all members", n)
	}
}

func TestEverySampleSurvivesAsEveryOtherType(t *testing.T) {
	for _, body := range samples() {
		for _, eventType := range append(respondio.Types(), "party.began") {
			survives(t, eventType, body)
		}
	}
}

// FuzzParse: nothing panics, and what is a JSON object comes back with the same meaning.
func FuzzParse(f *testing.F) {
	for _, body := range samples() {
		f.Add("", body)
	}
	f.Add("message.sent", []byte(` { "message" : { "message" : [ "\u0061", 1E2 ] , "status":[{}] } } `))
	f.Add("message.received", []byte(`{"message":{"message":{"type":"attachment","attachment":[null]}}}`))
	f.Fuzz(func(t *testing.T, eventType string, body []byte) {
		if _, err := respondio.Parse(staffetta.Event{Type: eventType, Payload: body}); err == nil {
			survives(t, eventType, body)
		}
	})
}

// FuzzContent puts any JSON where the message, its content and its members are.
func FuzzContent(f *testing.F) {
	for _, body := range samples() {
		if m, ok := parse(f, body).(*respondio.MessageSent); ok {
			content, err := json.Marshal(m.Message.Content)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(content)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		wrap := func(before, after string) []byte { return []byte(before + string(raw) + after) }
		bodies := [][]byte{
			wrap(`{"message":`, `}`), wrap(`{"message":{"message":`, `}}`), wrap(`{"message":{"replyTo":{"message":`, `}}}`),
			wrap(`{"message":{"status":[`, `]}}`), wrap(`{"message":{"message":{"type":"attachment","attachment":`, `}}}`),
			wrap(`{"message":{"message":{"type":"whatsapp_template","template":{"components":`, `}}}}`),
		}
		for _, body := range bodies {
			if _, err := respondio.ParseBody(body); err == nil {
				survives(t, "message.sent", body)
			}
		}
	})
}

// FuzzMembers puts any JSON where text, ids, times, numbers and lists are.
func FuzzMembers(f *testing.F) {
	for _, raw := range []string{
		"null", `"1784604785"`, "1784604785000", `"2026-07-21T03:33:05.5Z"`, "1.50", "-0", "1e400", `["a",1]`, `[[]]`, `{"id":null}`, `"\u2028\/"`,
		"-9223372036854775808", `"9223372036854775807"`, "1e19", `"NaN"`, `" 1 "`,
	} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		members := `"firstName":` + string(raw) + `,"id":` + string(raw) + `,"created_at":` + string(raw) + `,"tags":` + string(raw) +
			`,"assignee":` + string(raw) + `,"custom":` + string(raw)
		call := `"durationSeconds":` + string(raw) + `,"transcript":[{"start":` + string(raw) + `}],"callSummary":{"summary":` + string(raw) + `}`
		file := `"attachments":[{"size":` + string(raw) + `}]`
		for eventType, body := range map[string]string{
			"contact.updated": `{"contact":{` + members + `}}`, "call.ended": `{"call":{` + call + `}}`, "comment.created": `{` + file + `}`,
		} {
			p, err := respondio.Parse(staffetta.Event{Type: eventType, Payload: []byte(body)})
			if err != nil {
				continue
			}
			survives(t, eventType, []byte(body))
			if at := p.Head().Contact.CreatedAt; at == 0 && !at.Time().IsZero() {
				t.Fatalf("%d is %v", at, at.Time())
			}
		}
	})
}
