package staffetta_test

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/staffetta-relay/staffetta"
)

func TestAURLThatCannotBeAnEndpointsIsRefusedWithTheReason(t *testing.T) {
	for raw, reason := range map[string]string{
		"":                               "missing",
		"example.com/hook":               "http",
		"/hook":                          "http",
		"ftp://example.com/":             "http",
		"file:///etc/passwd":             "http",
		"javascript:alert(1)":            "http",
		"http:example.com":               "host",
		"http://":                        "host",
		"https:///hook":                  "host",
		"http://:8080/":                  "host",
		"http://u@example.com/":          "user",
		"http://u:p@example.com/":        "user",
		"http://example.com/#here":       "fragment",
		"http://example.com/a#":          "fragment",
		"http://example.com:/":           "port",
		"http://example.com:0/":          "port",
		"http://example.com:65536/":      "port",
		"http://example.com:port/":       "cannot be read",
		"http://[::1/":                   "cannot be read",
		"http://example.com/%zz":         "cannot be read",
		"http://example.com/a b":         "space",
		"http://example.com/a\x00b":      "control",
		"http://example.com/a\r\nHost:x": "control",
		"http://exämple.com/":            "ASCII",
		"http://example.com/" + strings.Repeat("a", staffetta.MaxURL): "longer",
	} {
		err := staffetta.ValidateURL(raw)
		if err == nil || !strings.Contains(err.Detail, reason) || err.Code != "invalid_url" {
			t.Errorf("%q: %v, want a reason with %q", raw, err, reason)
		}
	}
	for _, raw := range []string{
		"http://example.com", "https://example.com:8443/hook?a=b%20c&d", "HTTP://Example.COM/", "http://192.0.2.1/",
		"http://[2001:db8::1]:80/x", "https://example.com/%2F//..;a=1", "http://localhost:9000/crm", "http://2130706433/",
	} {
		if err := staffetta.ValidateURL(raw); err != nil {
			t.Errorf("%q is refused: %v", raw, err)
		}
	}
}

func validEndpoint() staffetta.Endpoint {
	e := staffetta.Endpoint{URL: "https://example.com/", EventTypes: []string{"message.received"}}
	e.SetDefaults()
	return e
}

func TestAnEndpointIsCheckedMemberByMember(t *testing.T) {
	catalogue := staffetta.DefaultCatalogue()
	if e := validEndpoint(); e.Validate(catalogue) != nil || e.Success != "200" || e.OnDisable != "hold" || e.Status != "enabled" {
		t.Errorf("the defaults are %+v: %v", e, e.Validate(catalogue))
	}
	for code, changes := range map[string][]func(*staffetta.Endpoint){
		"invalid_event_types": {
			func(e *staffetta.Endpoint) { e.EventTypes = nil },
			func(e *staffetta.Endpoint) { e.EventTypes = []string{"message.sent", "message.sent"} },
		},
		"unknown_event_type":  {func(e *staffetta.Endpoint) { e.EventTypes = []string{"message.deleted"} }},
		"invalid_description": {func(e *staffetta.Endpoint) { e.Description = strings.Repeat("x", 513) }},
		"invalid_success":     {func(e *staffetta.Endpoint) { e.Success = "3xx" }},
		"invalid_on_disable":  {func(e *staffetta.Endpoint) { e.OnDisable = "keep" }},
		"invalid_status":      {func(e *staffetta.Endpoint) { e.Status = "asleep" }},
	} {
		for _, change := range changes {
			e := validEndpoint()
			change(&e)
			checkInputError(t, e.Validate(catalogue), code)
		}
	}
}

func TestAUsersHeaderCanNeitherReplaceOursNorBreakALine(t *testing.T) {
	many := map[string]string{}
	for i := range staffetta.MaxHeaders + 1 {
		many["X-"+strings.Repeat("a", i+1)] = "v"
	}
	for name, headers := range map[string]map[string]string{
		"ours":             {"X-Webhook-Signature": "x"},
		"ours, lower case": {"x-webhook-signature": "x"},
		"the standard's":   {"Webhook-Id": "x"},
		"the attempt":      {"staffetta-attempt": "1"},
		"the host":         {"HOST": "internal"},
		"the length":       {"Content-Length": "0"},
		"the framing":      {"Transfer-Encoding": "chunked"},
		"a line break":     {"X-A": "b\r\nX-C: d"},
		"a bare feed":      {"X-A": "b\nX-C: d"},
		"a NUL":            {"X-A": "b\x00"},
		"outside ASCII":    {"X-A": "bé"},
		"a name of parts":  {"X A": "b"},
		"a colon":          {"X-A:": "b"},
		"no name":          {"": "b"},
		"twice":            {"X-A": "b", "x-a": "c"},
		"too long":         {"X-A": strings.Repeat("x", staffetta.MaxHeaderValue+1)},
		"too many":         many,
	} {
		e := validEndpoint()
		e.Headers = headers
		if err := e.Validate(staffetta.DefaultCatalogue()); err == nil {
			t.Errorf("%s passes", name)
		} else {
			checkInputError(t, err, "invalid_headers")
			for value := range maps.Values(headers) {
				if len(value) > 3 && strings.Contains(err.Error(), value) {
					t.Errorf("%s: the error repeats the value: %v", name, err)
				}
			}
		}
	}
	e := validEndpoint()
	e.Headers = map[string]string{"Authorization": "Bearer abc", "X-Tenant": "7", "X-Empty": ""}
	if err := e.Validate(staffetta.DefaultCatalogue()); err != nil {
		t.Error(err)
	}
}

func checkInputError(t *testing.T, err error, code string) {
	t.Helper()
	input, ok := errors.AsType[*staffetta.InputError](err)
	if !ok || input.Code != code || input.Detail == "" {
		t.Errorf("got %v (%+v), want code %s", err, input, code)
	}
}

func TestAWorkspaceIsCheckedMemberByMember(t *testing.T) {
	for code, change := range map[string]func(*staffetta.Workspace){
		"invalid_workspace":   func(w *staffetta.Workspace) { w.ID = "a.b" },
		"invalid_plan":        func(w *staffetta.Workspace) { w.Plan = "gold" },
		"invalid_email":       func(w *staffetta.Workspace) { w.NotifyEmails = []string{"ops@example.com\r\nBcc: x@y"} },
		"invalid_language":    func(w *staffetta.Workspace) { w.Language = "fr" },
		"invalid_quota":       func(w *staffetta.Workspace) { n := -1; w.Quota = &n },
		"invalid_quota_scope": func(w *staffetta.Workspace) { w.QuotaScope = "plan" },
		"invalid_url":         func(w *staffetta.Workspace) { w.OperationsURL = "ops.example.com" },
	} {
		w := staffetta.Workspace{ID: "acme"}
		w.SetDefaults()
		if err := w.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&w)
		checkInputError(t, w.Validate(), code)
	}
	for _, id := range []string{"", ".", "a/b", "a b", "ü", "a*", "a>", strings.Repeat("a", 65)} {
		if staffetta.ValidID(id) {
			t.Errorf("%q passes for an id", id)
		}
	}
}

func TestAPlanIncludesThoseBelowIt(t *testing.T) {
	plans := staffetta.Plans()
	for i, p := range plans {
		for j, least := range plans {
			if p.AtLeast(least) != (i >= j) {
				t.Errorf("%s at least %s: %v", p, least, p.AtLeast(least))
			}
		}
	}
	if staffetta.Plan("gold").Valid() || staffetta.Plan("gold").AtLeast(staffetta.PlanStarter) {
		t.Error("an unknown plan passes")
	}
}

func TestASigningKeyIsTheBase64OfEnoughBytes(t *testing.T) {
	for key, ok := range map[string]bool{
		"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=":       true,
		"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3":                   true,  // 24 bytes
		"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NQ==":                   false, // 22 bytes
		"whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=": false,
		"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY":        false, // no padding
		"MDEyMzQ1Njc4OWFiY2RlZjAx\nMjM0NTY3ODlhYmNkZWY=":     false,
		"":                      false,
		strings.Repeat("A", 88): false, // 66 bytes
	} {
		if err := staffetta.ValidateSigningKey(key); (err == nil) != ok {
			t.Errorf("%q: %v", key, err)
		}
	}
}

func TestACatalogueNamesEachTypeOnce(t *testing.T) {
	c := staffetta.DefaultCatalogue()
	if n := len(c.Types()); n != 11 {
		t.Errorf("respond.io has %d event types here, want 11", n)
	}
	for _, types := range [][]staffetta.EventType{
		nil,
		{{Name: "a"}, {Name: "a"}},
		{{Name: ""}},
		{{Name: "a b"}},
		{{Name: strings.Repeat("a", 65)}},
		make([]staffetta.EventType, 1001),
	} {
		_, err := staffetta.NewCatalogue(types)
		checkInputError(t, err, "invalid_catalogue")
	}
	custom, err := staffetta.NewCatalogue([]staffetta.EventType{{Name: "order.paid"}})
	if err != nil || !custom.Has("order.paid") || custom.Has("message.sent") || custom.Types()[0].Title != "order.paid" {
		t.Errorf("a catalogue of one's own: %+v, %v", custom, err)
	}
	if detail := c.UnknownType("nope\x00").Detail; !strings.Contains(detail, "call.ended") || strings.Contains(detail, "\x00") {
		t.Errorf("an unknown type is answered with %q", detail)
	}
}

func TestAnEventIDCanTravelInAHeader(t *testing.T) {
	for id, ok := range map[string]bool{
		"313ba4a0-7dd6-4818-84f0-43a5e987786e": true, "evt_1!~": true, strings.Repeat("a", 128): true,
		"": false, strings.Repeat("a", 129): false, "a b": false, "a\n": false, "é": false, `a"b`: false, `a\b`: false,
	} {
		if staffetta.ValidEventID(id) != ok || staffetta.ValidEventID([]byte(id)) != ok {
			t.Errorf("%q: %v", id, !ok)
		}
	}
}

func TestAnEndpointKeepsItsShard(t *testing.T) {
	// Stored data depends on these: a change of the hash would look for events where they are not.
	for id, want := range map[string]int{"": 5, "ep_1": 36, "ep_01a2034117e5708989914affd2ac173e": 49} {
		if got := staffetta.Shard(id, 64); got != want {
			t.Errorf("%q lives in shard %d, want %d", id, got, want)
		}
	}
	if got := staffetta.EventSubject(49, "ep_1"); got != "events.49.ep_1" {
		t.Errorf("its events are published on %s", got)
	}
}
