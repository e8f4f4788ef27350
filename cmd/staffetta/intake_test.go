package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta"
)

const acmeEvents = "/v1/workspaces/acme/events"

// startIntake runs a relay with the workspace acme, one endpoint of it for message.received, and
// the sink that it leads to.
func startIntake(t testing.TB, change ...func(*relaySettings)) (*liveRelay, *liveSink) {
	t.Helper()
	sink := startLiveSink(t)
	l := startLive(t, t.TempDir(), change...)
	l.workspace("acme")
	l.endpoint("acme", sink.url+"/hook", "message.received")
	return l, sink
}

// checkProblem fails the test unless the reply is the problem document of the status and the code.
func checkProblem(t testing.TB, r reply, status int, code string) {
	t.Helper()
	if got := r.header.Get("Content-Type"); r.status != status || got != "application/problem+json" {
		t.Errorf("status %d of type %q, want %d %s: %s", r.status, got, status, code, r.body)
		return
	}
	if m := r.members(t); m["code"] != code || m["status"] != float64(status) || m["detail"] == "" {
		t.Errorf("the problem is not %s: %s", code, r.body)
	}
}

// checkStillTakes sends a normal event and waits until it has come.
func checkStillTakes(t testing.TB, l *liveRelay, sink *liveSink) {
	t.Helper()
	id := l.event("acme", `{"event_type":"message.received","still":"here"}`)
	eventually(t, 20*time.Second, "the delivery of a normal event", func() bool {
		for _, a := range sink.all() {
			if strings.Contains(a.body, id) {
				return true
			}
		}
		return false
	})
}

func TestWhatIsNoEventIsRefusedWithAStableCode(t *testing.T) {
	l, sink := startIntake(t)
	deep := strings.Repeat(`{"a":`, 20_000)
	for _, c := range []struct {
		name, body, code string
		status           int
	}{
		{"nothing", "", "malformed_json", 422},
		{"spaces", "  \n", "malformed_json", 422},
		{"no JSON", "event", "malformed_json", 422},
		{"half an object", `{"event_type":"message.received"`, "malformed_json", 422},
		{"two objects", `{"event_type":"message.received"}{}`, "malformed_json", 422},
		{"a comma too many", `{"event_type":"message.received",}`, "malformed_json", 422},
		{"single quotes", `{'event_type':'message.received'}`, "malformed_json", 422},
		{"a comment", `{"event_type":"message.received"/**/}`, "malformed_json", 422},
		{"NaN", `{"event_type":"message.received","n":NaN}`, "malformed_json", 422},
		{"a control character", "{\"event_type\":\"message.received\",\"s\":\"\x01\"}", "malformed_json", 422},
		{"an array", `[{"event_type":"message.received"}]`, "not_an_object", 422},
		{"a string", `"message.received"`, "not_an_object", 422},
		{"null", `null`, "not_an_object", 422},
		{"no event type", `{"a":1}`, "missing_event_type", 422},
		{"a number for an event type", `{"event_type":7}`, "invalid_event_type", 422},
		{"null for an event type", `{"event_type":null}`, "invalid_event_type", 422},
		{"an object for an event id", `{"event_type":"message.received","event_id":{}}`, "invalid_event_id", 422},
		{"an empty event id", `{"event_type":"message.received","event_id":""}`, "invalid_event_id", 422},
		{"an event id with a line break", `{"event_type":"message.received","event_id":"a\r\nX: y"}`, "invalid_event_id", 422},
		{"an unknown event type", `{"event_type":"message.lost"}`, "unknown_event_type", 422},
		{"an event type that is a subject", `{"event_type":"message.>"}`, "unknown_event_type", 422},
		{"a key twice", `{"event_type":"message.received","a":1,"a":2}`, "duplicate_key", 422},
		{"a key twice in another spelling", `{"event_type":"message.received","a":1,"\u0061":2}`, "duplicate_key", 422},
		{"invalid UTF-8", "{\"event_type\":\"message.received\",\"s\":\"\xff\"}", "invalid_utf8", 422},
		{"a byte order mark", "\ufeff{\"event_type\":\"message.received\"}", "byte_order_mark", 422},
		{"a lone surrogate", `{"event_type":"message.received","s":"\ud83d"}`, "lone_surrogate", 422},
		{"a number beyond 2^53", `{"event_type":"message.received","n":9007199254740993}`, "integer_out_of_range", 422},
		{"20,000 levels", `{"event_type":"message.received","d":` + deep, "too_deep", 422},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkProblem(t, l.ask("POST", acmeEvents, c.body, "Content-Type", "application/json"), c.status, c.code)
		})
	}
	checkStillTakes(t, l, sink)
	if n := len(sink.all()); n != 1 {
		t.Errorf("%d deliveries of one event", n)
	}
}

func TestAnUnknownEventTypeIsToldTheKnownOnes(t *testing.T) {
	l, _ := startIntake(t)
	r := l.ask("POST", acmeEvents, `{"event_type":"message.recieved"}`)
	checkProblem(t, r, 422, "unknown_event_type")
	for _, known := range staffetta.DefaultCatalogue().Types() {
		if !strings.Contains(string(r.body), known.Name) {
			t.Errorf("%s is not named: %s", known.Name, r.body)
		}
	}
}

func TestABatchTakesItsGoodLinesAndNamesTheOthers(t *testing.T) {
	l, sink := startIntake(t)
	body := strings.Join([]string{
		`{"event_type":"message.received","n":1}`,
		`{"event_type":"message.received"`,
		``,
		`{"event_type":"message.lost"}`,
		`  {"event_type":"message.received","n":2}` + "\r",
		`{"event_type":"message.received","s":"` + strings.Repeat("x", 1<<20) + `"}`,
		`{"event_type":"message.received","n":3}`,
	}, "\n")
	r := l.must(202, "POST", acmeEvents, body, "Content-Type", "application/x-ndjson")
	var answer struct {
		Accepted int `json:"accepted"`
		Rejected []struct {
			Line         int
			Code, Detail string
		} `json:"rejected"`
	}
	if err := json.Unmarshal(r.body, &answer); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range answer.Rejected {
		got = append(got, fmt.Sprint(x.Line, " ", x.Code))
	}
	if want := "2 malformed_json, 4 unknown_event_type, 6 payload_too_large"; answer.Accepted != 3 || strings.Join(got, ", ") != want {
		t.Errorf("accepted %d, rejected %v; want 3 and %s", answer.Accepted, got, want)
	}
	for i, a := range sink.wait(t, 3) {
		if want := fmt.Sprintf(`"n":%d,`, i+1); !strings.Contains(a.body, want) {
			t.Errorf("delivery %d is %s, want %s in it", i, a.body, want)
		}
	}
}

func TestABodyThatIsTooLargeIsRefused(t *testing.T) {
	l, sink := startIntake(t)
	event := func(size int) string {
		const frame = `{"event_type":"message.received","event_id":"large","s":""}`
		return strings.Replace(frame, `""`, `"`+strings.Repeat("x", size-len(frame))+`"`, 1)
	}
	checkProblem(t, l.ask("POST", acmeEvents, event(2<<20)), 413, "payload_too_large")
	checkProblem(t, l.ask("POST", acmeEvents, event(1<<20+1)), 413, "payload_too_large")
	l.must(202, "POST", acmeEvents, event(1<<20))
	sink.wait(t, 1)

	lines := strings.Repeat(`{"event_type":"message.received","s":"`+strings.Repeat("x", 1000)+`"}`+"\n", 17_000)
	checkProblem(t, l.ask("POST", acmeEvents, lines, "Content-Type", "application/x-ndjson"), 413, "payload_too_large")
	short := strings.Repeat("{}\n", 100_001)
	checkProblem(t, l.ask("POST", acmeEvents, short, "Content-Type", "application/x-ndjson"), 413, "too_many_lines")
	checkProblem(t, l.ask("PUT", "/v1/workspaces/other", `{"plan":"`+strings.Repeat("x", 1<<20)+`"}`), 413, "body_too_large")
	checkStillTakes(t, l, sink)
}

func TestABodyOfAnotherKindIsRefused(t *testing.T) {
	l, sink := startIntake(t)
	const event = `{"event_type":"message.received"}`
	for _, media := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp", "application", "\u00fc"} {
		checkProblem(t, l.ask("POST", acmeEvents, event, "Content-Type", media), 415, "unsupported_media_type")
	}
	for _, encoding := range []string{"gzip", "br", "identity, gzip"} {
		checkProblem(t, l.ask("POST", acmeEvents, event, "Content-Encoding", encoding), 415, "unsupported_encoding")
	}
	for _, media := range []string{"", "application/json", "Application/JSON; charset=utf-8", " application/json "} {
		l.must(202, "POST", acmeEvents, event, "Content-Type", media)
	}
	sink.wait(t, 4)
	checkStillTakes(t, l, sink)
}

func TestAKeyOpensItsOwnWorkspaceAlone(t *testing.T) {
	l, sink := startIntake(t)
	l.workspace("other")
	key := func(workspace string) string {
		r := l.must(201, "POST", "/v1/workspaces/"+workspace+"/keys", "")
		return "Bearer " + r.members(t)["key"].(string)
	}
	const event = `{"event_type":"message.received"}`
	own, others := key("acme"), key("other")
	l.must(202, "POST", acmeEvents, event, "Authorization", own)
	checkProblem(t, l.ask("POST", acmeEvents, event, "Authorization", others), 403, "forbidden")
	checkProblem(t, l.ask("POST", "/v1/workspaces/nobody/events", event), 404, "workspace_not_found")
	// Whether a workspace exists is not told to those who may not know.
	checkProblem(t, l.ask("POST", "/v1/workspaces/nobody/events", event, "Authorization", own), 403, "forbidden")
	for _, wrong := range []string{"", "Bearer", "Bearer ", "Bearer  ", "Basic YTpi", own + "x", own[:len(own)-1], strings.Repeat("x", 8000), "Bearer " + testAdminKey + "\t\u00fc"} {
		for _, workspace := range []string{"acme", "nobody"} {
			r := l.ask("POST", "/v1/workspaces/"+workspace+"/events", event, "Authorization", wrong)
			checkProblem(t, r, 401, "unauthorized")
			if r.header.Get("WWW-Authenticate") == "" {
				t.Errorf("a 401 without WWW-Authenticate for %q", wrong)
			}
		}
	}
	sink.wait(t, 1)
	checkStillTakes(t, l, sink)
}

func TestAnEndpointsURLLeadsNowhereElse(t *testing.T) {
	l, sink := startIntake(t)
	create := func(members map[string]any) reply {
		body, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		return l.ask("POST", "/v1/workspaces/acme/endpoints", string(body))
	}
	for _, url := range []string{
		"", "/hook", "//sink.example/hook", "sink.example/hook", "http://", "http:///hook", "http:sink.example", "http://:80/",
		"http://user@sink.example/", "http://user:password@sink.example/", "https://@sink.example/", "http://sink.example/#top", "http://sink.example/#",
		"ftp://sink.example/", "file:///etc/passwd", "gopher://sink.example/", "javascript:alert(1)", "unix:///run/docker.sock", "HTTP+unix://x/",
		"http://sink.example:0/", "http://sink.example:65536/", "http://sink.example:-1/", "http://sink.example:/", "http://sink.example:http/", "http://sink.example:99999999999999999999/",
		"http://sink.example/\r\nX-Injected: yes", "http://sink.example/a b", "http://sink.example/\x00", "http://sink.example/\u00e8", "http://sink\t.example/",
		"http://sink.example/%zz", "http://[::1/", "http://sink.example/" + strings.Repeat("x", 2048),
	} {
		t.Run(fmt.Sprintf("%.60q", url), func(t *testing.T) {
			checkProblem(t, create(map[string]any{"url": url, "event_types": []string{"message.received"}}), 422, "invalid_url")
		})
	}
	for name, value := range map[string]string{
		"X-Injected\r\nX-Other": "yes", "X-Injected": "yes\r\nX-Other: yes", "X-Bare": "yes\nno", "X-Null": "a\x00b", "X Space": "yes", "X-Colon:": "yes", "": "yes",
		"Content-Length": "0", "Transfer-Encoding": "chunked", "Host": "internal", "Connection": "close", "X-Webhook-Signature": "forged", "webhook-id": "forged", "WEBHOOK-SIGNATURE": "v1,forged", "Staffetta-Attempt": "9",
	} {
		t.Run(fmt.Sprintf("header %q", name), func(t *testing.T) {
			checkProblem(t, create(map[string]any{
				"url": sink.url + "/headers", "event_types": []string{"message.received"}, "headers": map[string]string{name: value},
			}), 422, "invalid_headers")
		})
	}
	if r := create(map[string]any{"url": sink.url + "/hook", "event_types": []string{"message.received"}}); r.status != http.StatusConflict {
		t.Errorf("a second endpoint of one URL: %d %s", r.status, r.body)
	}
	checkStillTakes(t, l, sink)
	if n := len(sink.all()); n != 1 {
		t.Errorf("%d deliveries of one event: a refused endpoint got one", n)
	}
}

func TestAFullStoreAnswers503AndLosesNothing(t *testing.T) {
	l, sink := startIntake(t, func(s *relaySettings) { s.maxStore = 16 << 20 })
	held := l.endpoint("acme", sink.url+"/held", "message.sent")
	l.must(200, "POST", "/v1/workspaces/acme/endpoints/"+held+"/disable", "")
	large := `{"event_type":"message.sent","s":"` + strings.Repeat("x", 500_000) + `"}`
	const taken = 31 // above nine tenths of the bound, and below all of it
	for range taken {
		l.event("acme", large)
	}
	var refused reply
	eventually(t, 10*time.Second, "a refusal by the full store", func() bool {
		refused = l.ask("GET", "/readyz", "")
		return refused.status == http.StatusServiceUnavailable
	})
	checkProblem(t, refused, 503, "unavailable")
	refused = l.ask("POST", acmeEvents, `{"event_type":"message.received"}`)
	checkProblem(t, refused, 503, "unavailable")
	if refused.header.Get("Retry-After") == "" {
		t.Error("a 503 without Retry-After")
	}
	l.must(200, "GET", "/healthz", "")

	// What was accepted is there, and all of it comes.
	l.must(200, "POST", "/v1/workspaces/acme/endpoints/"+held+"/enable", "")
	if n := len(sink.wait(t, taken)); n != taken {
		t.Errorf("%d deliveries of %d accepted events", n, taken)
	}
}
