package receiver

import (
	"strings"
	"testing"

	"github.com/staffetta-relay/staffetta"
)

func TestARepeatIsToldByTheEventIDThenTheHeaderThenTheBody(t *testing.T) {
	digest := eventIDOf(nil, []byte(`{"a":1}`))
	if !strings.HasPrefix(digest, "sha256-") || !staffetta.ValidEventID(digest) {
		t.Fatalf("a body without an id gives %q", digest)
	}
	for _, c := range []struct{ header, body, want string }{
		{"h", `{"event_type":"x","event_id":"last"}`, "last"},
		{"h", `{"event_id":"only"}`, "only"},
		{"h", `{"event_id":"first","event_type":"x"}`, "first"},
		{"h", `{"event_id": "spaced" , "a":{"event_id":"inner"}}`, "spaced"},
		{"h", `{"a":{"event_id":"inner"}}`, "h"},
		{"h", `{"a":[{"event_id":"inner"}]}`, "h"},
		{"h", `{"text":"an \"event_id\":\"quoted\"}"}`, "h"},
		{"h", `{"event_id":"\u0061bc","b":1}`, "abc"},
		{"h", `{"event_id":"has a space"}`, "h"},
		{"h", `{"event_id":7}`, "7"},
		{"h", `{"event_id":null}`, "h"},
		{"h", `[{"event_id":"in a list"}]`, "h"},
		{"h", `not JSON "event_id":"x"}`, "h"},
		{"h", ``, "h"},
		{"not an\nid", `{"a":1}`, digest},
		{"", `{"a":1}`, digest},
	} {
		if got := eventIDOf([]byte(c.header), []byte(c.body)); got != c.want {
			t.Errorf("%s with header %q gives %q, want %q", c.body, c.header, got, c.want)
		}
	}
	if eventIDOf(nil, []byte(`{"a":2}`)) == digest {
		t.Error("different bodies have the same digest")
	}
}

func TestAPointerLeadsToTheKeyOfAnEvent(t *testing.T) {
	for _, c := range []struct{ pointer, body, key string }{
		{"/contact/id", `{"contact":{"id":398350624,"name":"x"},"event_type":"t"}`, "398350624"},
		{"/contact/id", `{"event_type":"t","contact":{"name":{"id":1},"id":"c-7"}}`, "c-7"},
		{"/contact/id", `{"contact":null,"event_type":"t"}`, ""},
		{"/contact/id", `{"contact":{"id":null},"event_type":"t"}`, ""},
		{"/contact/id", `{"event_type":"t"}`, ""},
		{"/list/1/a~1b", `{"list":[0,{"a/b":"found"}],"event_type":"t"}`, "found"},
		{"/0", `{"0":true,"event_type":"t"}`, "true"},
	} {
		pointer, ok := parsePointer(c.pointer)
		if !ok {
			t.Fatalf("%s is refused", c.pointer)
		}
		got := readMembers([]byte(c.body), "event_type", pointer)
		if got.pointed != c.key || got.first != "t" {
			t.Errorf("%s of %s is %q with type %q, want %q", c.pointer, c.body, got.pointed, got.first, c.key)
		}
	}
	for _, sample := range []string{"message.received", "contact.updated"} {
		pointer, _ := parsePointer(DefaultOrderKey)
		if got := readMembers(staffetta.Sample(sample), "event_type", pointer); got.pointed != "398350624" || got.first != sample {
			t.Errorf("the sample of %s has key %q and type %q", sample, got.pointed, got.first)
		}
	}
}

func BenchmarkEventID(b *testing.B) {
	p, err := staffetta.Canonicalize(staffetta.Sample("message.received"))
	if err != nil {
		b.Fatal(err)
	}
	body := p.Body
	last := append([]byte(`{"pad":"`+strings.Repeat("x", 1000)+`"`), `,"event_id":"0198f1c2-aaaa-7bbb-8ccc-ddddeeeeffff"}`...)
	for name, body := range map[string][]byte{"last": last, "inside": body} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				eventIDOf(nil, body)
			}
		})
	}
}
