package respondio_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/respondio"
)

// samples are all the payloads of the project, by their names.
func samples() map[string][]byte {
	all := staffetta.SampleVariants()
	for _, t := range staffetta.DefaultCatalogue().Types() {
		all[t.Name] = staffetta.Sample(t.Name)
	}
	return all
}

// generic is any JSON as Go has it, numbers as text, so that what is equal means the same.
func generic(t testing.TB, src []byte) any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(src))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v: %s", err, src)
	}
	return v
}

func parse(t testing.TB, body []byte) respondio.Payload {
	t.Helper()
	p, err := respondio.ParseBody(body)
	if err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return p
}

// parseAs parses into the type that the test expects.
func parseAs[P respondio.Payload](t testing.TB, body []byte) P {
	t.Helper()
	p, ok := parse(t, body).(P)
	if !ok {
		t.Fatalf("got a %T, want a %T", parse(t, body), p)
	}
	return p
}

func marshal(t testing.TB, p respondio.Payload) []byte {
	t.Helper()
	written, err := respondio.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return written
}

func TestEverySampleComesBackByteForByte(t *testing.T) {
	all := samples()
	if len(all) != 33 {
		t.Errorf("%d samples, want 33", len(all))
	}
	for name, body := range all {
		p := parse(t, body)
		if got := marshal(t, p); !bytes.Equal(got, body) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, body)
		}
		if len(p.Head().Odd) != 0 {
			t.Errorf("%s: odd members %v", name, p.Head().Odd)
		}
	}
}

func TestEverySampleIsReadIntoTheTypeOfItsName(t *testing.T) {
	plain := func(name string) string { return strings.ToLower(strings.NewReplacer(".", "", "_", "").Replace(name)) }
	typeName := func(v any) string { return strings.ToLower(reflect.TypeOf(v).Elem().Name()) }
	seen := map[string]bool{}
	for name, body := range samples() {
		p := parse(t, body)
		if typeName(p) != plain(p.Head().Type) || !strings.HasPrefix(name, p.Head().Type) {
			t.Errorf("%s is read into a %T", name, p)
		}
		var content respondio.Content
		switch p := p.(type) {
		case *respondio.MessageReceived:
			content = p.Message.Content
		case *respondio.MessageSent:
			content = p.Message.Content
		default:
			continue
		}
		if typeName(content) != plain(content.Head().Type) {
			t.Errorf("%s has the content %T", name, content)
		}
		seen[content.Head().Type] = true
	}
	if want := slices.Sorted(slices.Values(respondio.ContentTypes())); !slices.Equal(slices.Sorted(maps.Keys(seen)), want) {
		t.Errorf("the samples have the contents %v, the package %v", slices.Sorted(maps.Keys(seen)), want)
	}
}

func TestTheTypesAreThoseOfTheCatalogue(t *testing.T) {
	var want []string
	for _, entry := range staffetta.DefaultCatalogue().Types() {
		want = append(want, entry.Name)
	}
	if got := respondio.Types(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOnlyTheMembersThatAreNotDocumentedAreExtra(t *testing.T) {
	known := map[string][]string{
		"contact.created":     {"company", "loyalty_points", "wants_callback"},
		"contact.updated":     {"company", "loyalty_points", "wants_callback"},
		"contact.tag.updated": {"company", "loyalty_points", "wants_callback"},
	}
	for name, body := range samples() {
		var extra []string
		walk(reflect.ValueOf(parse(t, body)), func(r respondio.Rest) {
			extra = append(extra, slices.Collect(maps.Keys(r.Extra))...)
		})
		slices.Sort(extra)
		if !slices.Equal(extra, known[name]) {
			t.Errorf("%s: extra members %v, want %v", name, extra, known[name])
		}
	}
}

// walk visits the Rest of every object in v.
func walk(v reflect.Value, visit func(respondio.Rest)) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			walk(v.Elem(), visit)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), visit)
		}
	case reflect.Struct:
		if r, ok := reflect.TypeAssert[respondio.Rest](v); ok {
			visit(r)
			return
		}
		for _, f := range v.Fields() {
			walk(f, visit)
		}
	default: // a value
	}
}

func TestAnEventsTypeDecidesBeforeThePayloads(t *testing.T) {
	body := []byte(`{"event_type":"message.sent","text":"x"}`)
	p, err := respondio.Parse(staffetta.Event{Type: "comment.created", Payload: body})
	if err != nil {
		t.Fatal(err)
	}
	if c, ok := p.(*respondio.CommentCreated); !ok || c.Text != "x" || c.Type != "message.sent" {
		t.Errorf("got %#v", p)
	}
}

func TestAnUnknownEventAndAnUnknownContentKeepEverything(t *testing.T) {
	body := []byte(`{"contact":{"id":1},"party":{"at":[1,{"x":null}]},"event_type":"party.began","event_id":"e1"}`)
	u := parseAs[*respondio.Unknown](t, body)
	if u.Type != "party.began" || u.ID != "e1" || u.Contact.ID != "1" || string(u.Extra["party"]) != `{"at":[1,{"x":null}]}` {
		t.Errorf("got %+v", u)
	}
	if got := marshal(t, u); !bytes.Equal(got, body) {
		t.Errorf("got %s", got)
	}
	body = []byte(`{"message":{"message":{"type":"hologram","beams":[1,2]}},"event_type":"message.received"}`)
	c, ok := parseAs[*respondio.MessageReceived](t, body).Message.Content.(*respondio.UnknownContent)
	if !ok || c.Type != "hologram" || string(c.Extra["beams"]) != "[1,2]" {
		t.Errorf("got %+v", c)
	}
}

func TestWhatIsNoJSONObjectIsRefused(t *testing.T) {
	for _, body := range []string{"", "null", "[]", `"x"`, "{", `{"a":1}x`, `{"a":1,"a":2}`, "{\"a\":\"\xff\"}", `{"contact":{"id":1,"id":2}}`} {
		p, err := respondio.ParseBody([]byte(body))
		if _, ok := errors.AsType[*staffetta.InputError](err); !ok || p != nil {
			t.Errorf("%s: %v, want an InputError", body, err)
		}
	}
}

func TestMarshalWritesWhatAProgramHasChanged(t *testing.T) {
	body := []byte(`{"contact":{"id":"12","company":"K","assignee":null,"tags":"vip","created_at":"1784604780","x":1},"message":{"message":{"type":"text","text":"a"}},"event_type":"message.received"}`)
	p := parseAs[*respondio.MessageReceived](t, body)
	p.Contact.ID = "13"
	p.Contact.Assignee.ID = "7"
	p.Contact.Tags = append(p.Contact.Tags, "new")
	p.Contact.FirstName = "Aisyah"
	p.Contact.Extra["company"] = []byte(`"L"`)
	p.Contact.Extra["y"] = []byte(`[]`)
	delete(p.Contact.Extra, "x")
	p.Message.Content = &respondio.Location{ContentHead: respondio.ContentHead{Type: "location"}, Latitude: 3.5}
	want := `{"contact":{"id":13,"company":"L","assignee":{"id":7},"tags":["vip","new"],"created_at":"1784604780","firstName":"Aisyah","y":[]},` +
		`"message":{"message":{"type":"location","latitude":3.5}},"event_type":"message.received"}`
	if got := string(marshal(t, p)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	p.Contact.ID, p.Contact.Tags, p.Message.Content = "", nil, (*respondio.Text)(nil)
	want = `{"contact":{"id":"","company":"L","assignee":{"id":7},"tags":[],"created_at":"1784604780","firstName":"Aisyah","y":[]},` +
		`"message":{"message":null},"event_type":"message.received"}`
	if got := string(marshal(t, p)); got != want {
		t.Errorf("emptied, got\n%s\nwant\n%s", got, want)
	}
}

func TestMarshalRefusesWhatIsNotJSON(t *testing.T) {
	p := new(respondio.Unknown)
	for _, raw := range []string{"", "x", `{"a":1,"a":2}`} {
		p.Extra = map[string]jsontext.Value{"a": jsontext.Value(raw)}
		if written, err := respondio.Marshal(p); err == nil {
			t.Errorf("%q is written as %s", raw, written)
		}
	}
	for _, p := range []respondio.Payload{nil, (*respondio.MessageSent)(nil)} {
		if _, err := respondio.Marshal(p); err == nil {
			t.Errorf("%#v is written", p)
		}
	}
}

func TestAPayloadMadeByHandIsWritten(t *testing.T) {
	p := &respondio.CommentCreated{Text: "hi", MentionedUserIDs: []respondio.ID{"1", "a-2"}}
	p.Type, p.Contact.ID = "comment.created", "5"
	const want = `{"event_type":"comment.created","contact":{"id":5},"text":"hi","mentionedUserIds":[1,"a-2"]}`
	got := marshal(t, p)
	if !reflect.DeepEqual(generic(t, got), generic(t, []byte(want))) {
		t.Errorf("got %s", got)
	}
}

func TestEncodingJSONTreatsAPartAsMarshalDoesTheWhole(t *testing.T) {
	body := staffetta.Sample("contact.created")
	c := parse(t, body).Head().Contact
	written, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	want := generic(t, body).(map[string]any)["contact"]
	if !reflect.DeepEqual(generic(t, written), want) {
		t.Errorf("got %s, want %v", written, want)
	}
	var again respondio.Contact
	if err := json.Unmarshal(written, &again); err != nil || !reflect.DeepEqual(again, c) {
		t.Errorf("got %+v, %v, want %+v", again, err, c)
	}
	if err := json.Unmarshal([]byte("null"), &again); err != nil || again.ID != c.ID {
		t.Errorf("null: %+v, %v", again, err)
	}
}

func TestEveryTypeReadsAndWritesItself(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var visit func(reflect.Type)
	visit = func(at reflect.Type) {
		if seen[at] {
			return
		}
		seen[at] = true
		switch at.Kind() {
		case reflect.Pointer, reflect.Slice:
			visit(at.Elem())
		case reflect.Struct:
			for _, f := range reflect.VisibleFields(at) {
				if f.Tag.Get("json") != "" {
					visit(f.Type)
				}
			}
			if !at.Implements(reflect.TypeFor[json.Marshaler]()) || !reflect.PointerTo(at).Implements(reflect.TypeFor[json.Unmarshaler]()) {
				t.Errorf("%s has no MarshalJSON or no UnmarshalJSON", at)
			}
		default: // a value
		}
	}
	for _, body := range samples() {
		p := parse(t, body)
		visit(reflect.TypeOf(p))
		if m, ok := p.(*respondio.MessageSent); ok {
			visit(reflect.TypeOf(m.Message.Content))
		}
		if m, ok := p.(*respondio.MessageReceived); ok {
			visit(reflect.TypeOf(m.Message.Content))
		}
	}
	visit(reflect.TypeFor[respondio.Unknown]())
	visit(reflect.TypeFor[respondio.UnknownContent]())
}

func BenchmarkParse(b *testing.B) {
	body := staffetta.Sample("message.received")
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		parse(b, body)
	}
}

func BenchmarkMarshal(b *testing.B) {
	p := parse(b, staffetta.Sample("message.received"))
	b.ReportAllocs()
	for b.Loop() {
		marshal(b, p)
	}
}
