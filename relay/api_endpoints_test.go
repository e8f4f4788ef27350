package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/staffetta-relay/staffetta"
)

func TestAnEndpointNeedsAWorkspaceAndItsPlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPITest(t)
		const body = `{"url":"http://hook.example","event_types":["message.received"]}`
		if p := a.refuse(404, "workspace_not_found", "POST", acme+"/endpoints", body); !strings.Contains(fmt.Sprint(p["detail"]), "PUT /v1/workspaces/") {
			t.Errorf("does not say how to make it: %v", p)
		}
		for _, plan := range []string{"starter", "growth"} {
			a.ask(map[string]int{"starter": 201, "growth": 200}[plan], "PUT", acme, `{"plan":"`+plan+`"}`)
			if p := a.refuse(403, "plan_required", "POST", acme+"/endpoints", body); !strings.Contains(fmt.Sprint(p["detail"]), "the advanced plan") {
				t.Errorf("does not name the plan: %v", p)
			}
		}
		a.ask(200, "PUT", acme, `{"plan":"enterprise"}`)
		a.ask(201, "POST", acme+"/endpoints", body)
	})
}

func TestAnEndpointIsShownWithItsKeyOnceAndChangedByMergePatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPITest(t)
		made, path := a.withEndpoint()
		key, _ := made["signing_key"].(string)
		if err := staffetta.ValidateSigningKey(key); err != nil || made["status"] != "enabled" || made["success"] != "200" || made["on_disable"] != "hold" {
			t.Errorf("made: %v, %v", made, err)
		}
		delete(made, "signing_key")
		if got := a.ask(200, "GET", path, ""); fmt.Sprint(got) != fmt.Sprint(made) {
			t.Errorf("got %v, want %v", got, made)
		}
		a.ask(200, "PATCH", path, `{"headers":{"X-A":"1","X-B":"2"},"description":"first","success":"2xx","event_types":["message.sent","call.ended"]}`)
		got := a.ask(200, "PATCH", path, `{"headers":{"x-a":null,"X-C":"3"},"description":null}`)
		if fmt.Sprint(got["headers"]) != "map[X-B:2 X-C:3]" || got["description"] != nil || got["success"] != "2xx" || fmt.Sprint(got["event_types"]) != "[message.sent call.ended]" {
			t.Errorf("patched: %v", got)
		}
		got = a.ask(200, "PATCH", path, `{"headers":null,"success":null}`)
		if got["headers"] != nil || got["success"] != "200" {
			t.Errorf("null: %v", got)
		}
		before := a.ask(200, "GET", path, "")
		<-time.After(time.Second)
		if got := a.ask(200, "PATCH", path, `{}`); fmt.Sprint(got) != fmt.Sprint(before) {
			t.Errorf("a patch without members: got %v, want %v", got, before)
		}
		r := httptest.NewRequest("PATCH", path, strings.NewReader(`{"description":"second"}`))
		r.Header.Set("Content-Type", "application/merge-patch+json")
		if w := a.send(r); w.Code != 200 {
			t.Errorf("merge-patch+json: %d", w.Code)
		}
		for body, code := range map[string]string{
			`{"url":null}`:                         "invalid_url",
			`{"event_types":null}`:                 "invalid_event_types",
			`{"event_types":["message.lost"]}`:     "unknown_event_type",
			`{"status":"disabled"}`:                "read_only_member",
			`{"signing_key":"x"}`:                  "read_only_member",
			`{"headers":{"Host":"x"}}`:             "invalid_headers",
			`{"headers":{"X-A":"1","x-a":"2"}}`:    "invalid_headers",
			`{"colour":"red"}`:                     "unknown_member",
			`{"url":1}`:                            "invalid_type",
			`{"event_types":"message.received"}`:   "invalid_type",
			`{"event_types":["message.sent",7]}`:   "invalid_type",
			`{"url":"http://a/","url":"http://b"}`: "duplicate_key",
			`[]`:                                   "invalid_type",
			`null`:                                 "invalid_type",
		} {
			p := a.refuse(422, code, "PATCH", path, body)
			if want := strings.SplitN(body, `"`, 3); len(want) == 3 && p["field"] != want[1] {
				t.Errorf("%s: field %v", body, p["field"])
			}
		}
		a.refuse(404, "endpoint_not_found", "PATCH", acme+"/endpoints/ep_none", `{}`)
		a.ask(204, "DELETE", path, "")
		a.refuse(404, "endpoint_not_found", "GET", path, "")
		a.refuse(404, "endpoint_not_found", "DELETE", path, "")
	})
}

func TestASecondEndpointWithTheURLIsRefusedNamingTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPITest(t)
		first, _ := a.withEndpoint()
		p := a.refuse(409, "url_taken", "POST", acme+"/endpoints", `{"url":"HTTP://Hook.Example:80/in","event_types":["call.ended"]}`)
		if p["endpoint"] != first["id"] || !strings.Contains(fmt.Sprint(p["detail"]), fmt.Sprint(first["id"])) {
			t.Errorf("does not name the first: %v", p)
		}
		second := a.ask(201, "POST", acme+"/endpoints", `{"url":"http://hook.example/two","event_types":["call.ended"],"signing_key":"`+staffetta.NewSigningKey()+`"}`)
		a.refuse(409, "url_taken", "PATCH", acme+"/endpoints/"+fmt.Sprint(second["id"]), `{"url":"http://hook.example/in"}`)
		a.refuse(422, "invalid_signing_key", "POST", acme+"/endpoints", `{"url":"http://hook.example/three","event_types":["call.ended"],"signing_key":"short"}`)
	})
}

func TestAnEndpointIsDisabledAndEnabledAsOftenAsOneLikes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPITest(t)
		_, path := a.withEndpoint()
		for range 2 {
			got := a.ask(200, "POST", path+"/disable", "")
			if got["status"] != "disabled" || got["disabled_reason"] != "user" || got["disabled_at"] == nil {
				t.Errorf("disabled: %v", got)
			}
		}
		for range 2 {
			got := a.ask(200, "POST", path+"/enable", "{}")
			if got["status"] != "enabled" || got["disabled_reason"] != nil || got["disabled_at"] != nil {
				t.Errorf("enabled: %v", got)
			}
		}
		a.refuse(422, "unknown_member", "POST", path+"/enable", `{"now":true}`)
		a.refuse(404, "endpoint_not_found", "POST", acme+"/endpoints/ep_none/enable", "")
	})
}

func TestARotationKeepsTheOldKeyForTheOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPITest(t)
		made, path := a.withEndpoint()
		keys := func() staffetta.SigningKeys {
			e, err := a.registry.Endpoint("acme", fmt.Sprint(made["id"]))
			if err != nil {
				t.Fatal(err)
			}
			return e.Keys
		}
		first := keys().Current
		got := a.ask(200, "POST", path+"/rotate-key", "")
		want := time.Now().UTC().Truncate(time.Millisecond).Add(24 * time.Hour)
		if k := keys(); k.Previous != first || k.Current != got["signing_key"] || k.Current == first || !k.PreviousUntil.Equal(want) || got["previous_expires_at"] != want.Format(time.RFC3339Nano) {
			t.Errorf("after a rotation: %v, %v", k, got)
		}
		own := staffetta.NewSigningKey()
		got = a.ask(200, "POST", path+"/rotate-key", `{"overlap":"90s","signing_key":"`+own+`"}`)
		if k := keys(); k.Current != own || got["signing_key"] != own || !k.PreviousUntil.Equal(time.Now().Add(90*time.Second)) {
			t.Errorf("with a key of one's own: %v, %v", k, got)
		}
		if shown := a.ask(200, "GET", path, ""); shown["previous_expires_at"] == nil || shown["signing_key"] != nil {
			t.Errorf("in between: %v", shown)
		}
		<-time.After(90 * time.Second)
		if shown := a.ask(200, "GET", path, ""); shown["previous_expires_at"] != nil {
			t.Errorf("after the overlap: %v", shown)
		}
		a.refuse(422, "invalid_signing_key", "POST", path+"/rotate-key", `{"signing_key":"`+own+`"}`)
		a.ask(200, "POST", path+"/rotate-key", `{"overlap":"0s"}`)
		if k := keys(); k.Previous != "" || !k.PreviousUntil.IsZero() {
			t.Errorf("without an overlap: %v", k)
		}
		for _, overlap := range []string{`"1 day"`, `"-1s"`, `"721h"`, `""`} {
			a.refuse(422, "invalid_overlap", "POST", path+"/rotate-key", `{"overlap":`+overlap+`}`)
		}
		a.refuse(422, "invalid_type", "POST", path+"/rotate-key", `{"overlap":86400}`)
	})
}

func TestATestSendTellsWhatItCameTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		result, failure := TestResult{Delivered: true, Status: 200, Duration: 1500 * time.Millisecond, Response: "OK \xff"}, error(nil)
		var sentTo staffetta.Endpoint
		a := newAPITest(t, func(c *APIConfig) {
			c.TestSend = func(_ context.Context, e staffetta.Endpoint) (TestResult, error) { sentTo = e; return result, failure }
		})
		made, path := a.withEndpoint()
		got := a.ask(200, "POST", path+"/test", "")
		if fmt.Sprint(got) != "map[delivered:true duration_ms:1500 response:OK \ufffd status:200]" || sentTo.ID != made["id"] || sentTo.Keys.Current != made["signing_key"] {
			t.Errorf("got %v, sent to %v", got, sentTo)
		}
		result = TestResult{Error: "timeout"}
		if got := a.ask(200, "POST", path+"/test", ""); fmt.Sprint(got) != "map[delivered:false duration_ms:0 error:timeout]" {
			t.Errorf("got %v", got)
		}
		failure = fmt.Errorf("send: %w", ErrUnavailable)
		a.refuse(503, "unavailable", "POST", path+"/test", "")
		a.refuse(404, "endpoint_not_found", "POST", acme+"/endpoints/ep_none/test", "")
	})
	synctest.Test(t, func(t *testing.T) {
		a := newAPITest(t)
		_, path := a.withEndpoint()
		a.refuse(501, "not_available", "POST", path+"/test", "")
	})
}

func TestAnEndpointShowsWhereItsDeliveriesStand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var state *State
		a := newAPITest(t, func(c *APIConfig) {
			c.State = func(string) (State, bool) {
				if state == nil {
					return State{}, false
				}
				return *state, true
			}
		})
		_, path := a.withEndpoint()
		if got := a.ask(200, "GET", path, ""); got["backlog"] != nil {
			t.Errorf("unknown: %v", got)
		}
		state = &State{}
		if got := a.ask(200, "GET", path, ""); got["backlog"] != 0.0 || got["attempt"] != nil || got["oldest_at"] != nil {
			t.Errorf("idle: %v", got)
		}
		at := time.Date(2026, 3, 2, 10, 0, 0, 0, time.FixedZone("", 3600))
		state = &State{Backlog: 3, OldestAt: &at, Attempt: 2, NextAttemptAt: &at, LastError: "status 500"}
		for _, got := range []object{a.ask(200, "GET", path, ""), a.ask(200, "GET", acme+"/endpoints", "")["items"].([]any)[0].(object)} {
			if got["backlog"] != 3.0 || got["attempt"] != 2.0 || got["oldest_at"] != "2026-03-02T09:00:00Z" || got["last_error"] != "status 500" {
				t.Errorf("waiting: %v", got)
			}
		}
	})
}

// FuzzEndpointBody: whatever the body, the decoder ends with an endpoint that is valid, or with an
// error that is the client's.
func FuzzEndpointBody(f *testing.F) {
	for _, seed := range []string{
		`{"url":"http://a.example","event_types":["call.ended"]}`,
		`{"url":"http://a.example","event_types":["call.ended"],"headers":{"X-A":null,"x-a":"1"},"signing_key":null}`,
		`{"url":"http://a.example","url":1}`, `{"headers":{"":[]}}`, `{"success":{}}`, `[]`, `null`, ``, "{\"\xff\":1}", `{"a":{"a":{"a":[{}]}}}`, `{"event_types":[null]}`,
	} {
		f.Add([]byte(seed))
	}
	catalogue := staffetta.DefaultCatalogue()
	f.Fuzz(func(t *testing.T, text []byte) {
		var body newEndpointBody
		e := staffetta.Endpoint{Headers: map[string]string{"X-A": "1"}}
		err := decodeBody(text, &body)
		if err == nil {
			err = body.apply(&e, catalogue)
		}
		if err == nil {
			err = e.Validate(catalogue)
			if err != nil {
				t.Fatalf("an endpoint that is not valid: %v", err)
			}
			return
		}
		p := problemFor(err)
		if p.Status != 400 && p.Status != 422 {
			t.Fatalf("%d for %q", p.Status, text)
		}
		if document := p.AppendJSON(nil); !json.Valid(document) {
			t.Fatalf("not JSON: %s", document)
		}
	})
}
