package relay

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestDeadLettersAreListedFilteredAndShownToTheirWorkspaceAlone(t *testing.T) {
	r := startReplayRelay(t, t.TempDir())
	a := r.api
	a.refuse(404, "workspace_not_found", "GET", acme+"/dead-letters", "")
	a.withEndpoint()
	a.ask(201, "PUT", "/v1/workspaces/beta", `{"plan":"advanced"}`)
	key := fmt.Sprint(a.ask(201, "POST", "/v1/workspaces/beta/keys", "")["key"])
	r.drop(t, "acme", "ep_a", "one", "message.received", 1)
	r.drop(t, "acme", "ep_b", "one", "message.received", 2)
	<-time.After(5 * time.Millisecond)
	middle := time.Now().UTC().Format(time.RFC3339Nano)
	r.drop(t, "acme", "ep_a", "two", "message.sent", 3)
	foreign := letterPrefix + strconv.FormatUint(r.drop(t, "beta", "ep_a", "foreign", "message.sent", 4), 10)

	for query, want := range map[string]string{
		"":                                       "two ep_a, one ep_b, one ep_a",
		"?endpoint=ep_a":                         "two ep_a, one ep_a",
		"?event_id=one":                          "one ep_b, one ep_a",
		"?event_type=message.sent&endpoint=ep_a": "two ep_a",
		"?since=" + middle:                       "two ep_a",
		"?until=" + middle:                       "one ep_b, one ep_a",
		"?event_id=foreign":                      "",
		"?endpoint=ep_none":                      "",
		"?since=2190-01-01T00:00:00Z":            "",
		"?until=1980-01-01T00:00:00Z":            "",
	} {
		var got []string
		for _, item := range a.ask(200, "GET", acme+"/dead-letters"+query, "")["items"].([]any) {
			l := item.(object)
			got = append(got, fmt.Sprint(l["event_id"], " ", l["endpoint"]))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: %v, want %s", query, got, want)
		}
	}
	first := a.ask(200, "GET", acme+"/dead-letters?limit=1", "")
	letter := first["items"].([]any)[0].(object)
	if letter["error"] != "status 503" || letter["status"] != 503.0 || letter["attempts"] != 4.0 || letter["payload"].(object)["n"] != 3.0 {
		t.Errorf("letter: %v", letter)
	}
	path := acme + "/dead-letters/" + fmt.Sprint(letter["id"])
	if got := a.ask(200, "GET", path, ""); fmt.Sprint(got) != fmt.Sprint(letter) {
		t.Errorf("one: %v", got)
	}
	for _, method := range []string{"GET", "DELETE"} {
		for _, id := range []string{foreign, "dl_0", "dl_99", "dl_x", "99", "dl_-1"} {
			a.refuse(404, "dead_letter_not_found", method, acme+"/dead-letters/"+id, "")
		}
	}
	a.as(key).refuse(403, "forbidden", "GET", acme+"/dead-letters", "")
	a.as(key).refuse(403, "forbidden", "POST", acme+"/replays", "{}")
	a.ask(204, "DELETE", path, "")
	a.refuse(404, "dead_letter_not_found", "DELETE", path, "")
	a.refuse(422, "invalid_endpoint", "GET", acme+"/dead-letters?endpoint=*", "")
	a.refuse(422, "invalid_time", "GET", acme+"/dead-letters?since=now", "")
	a.refuse(422, "invalid_limit", "GET", acme+"/dead-letters?limit=1001", "")
	a.refuse(422, "invalid_cursor", "GET", acme+"/dead-letters?cursor=Zm9v", "")
	r.stop()
}

func TestDeadLettersAreDeletedByFilterAndWithTheirWorkspace(t *testing.T) {
	r := startReplayRelay(t, t.TempDir())
	a := r.api
	a.withEndpoint()
	a.ask(201, "PUT", "/v1/workspaces/beta", `{"plan":"advanced"}`)
	r.drop(t, "beta", "ep_a", "foreign", "message.sent", 100)
	for n := range 40 {
		r.drop(t, "acme", "ep_"+string("ab"[n%2]), "e"+strconv.Itoa(n), []string{"message.sent", "message.received"}[n/2%2], n)
	}
	<-time.After(5 * time.Millisecond)
	middle := time.Now().UTC().Format(time.RFC3339Nano)
	for n := range 10 {
		r.drop(t, "acme", "ep_a", "f"+strconv.Itoa(n), "message.sent", 50+n)
	}
	a.refuse(422, "filter_required", "DELETE", acme+"/dead-letters", "")
	a.refuse(422, "filter_required", "DELETE", acme+"/dead-letters?event_type=message.sent", "")
	for _, test := range []struct {
		query string
		want  float64
	}{
		{"?endpoint=ep_a&event_type=message.received", 10},
		{"?endpoint=ep_a&until=" + middle, 10},
		{"?since=" + middle + "&event_id=f3", 1},
		{"?since=" + middle, 9},
		{"?since=" + middle, 0},
		{"?endpoint=ep_b", 20},
	} {
		if got := a.ask(200, "DELETE", acme+"/dead-letters"+test.query, ""); got["deleted"] != test.want || got["more"] != false {
			t.Errorf("%s: %v, want %v", test.query, got, test.want)
		}
	}
	if got := a.ask(200, "GET", "/v1/workspaces/beta/dead-letters", ""); len(got["items"].([]any)) != 1 {
		t.Errorf("another workspace's: %v", got)
	}
	r.drop(t, "acme", "ep_a", "last", "message.sent", 200)
	a.ask(202, "POST", acme+"/replays", `{"event_ids":["last"]}`)
	a.ask(204, "DELETE", acme, "")
	a.ask(201, "PUT", acme, `{"plan":"advanced"}`)
	for _, list := range []string{"/dead-letters", "/replays"} {
		if got := a.ask(200, "GET", acme+list, ""); len(got["items"].([]any)) != 0 {
			t.Errorf("a workspace made again has %v", got)
		}
	}
	r.stop()
}

func TestAnExportHasEveryLetterOnALineOfItsOwn(t *testing.T) {
	r := startReplayRelay(t, t.TempDir())
	r.api.withEndpoint()
	const letters = 1200
	for n := range letters {
		r.drop(t, "acme", "ep_a", "e"+strconv.Itoa(n), "message.sent", n)
	}
	request := httptest.NewRequest("GET", acme+"/dead-letters?endpoint=ep_a", nil)
	request.Header.Set("Authorization", "Bearer "+testAdminKey)
	request.Header.Set("Accept", "application/x-ndjson, application/json;q=0.5")
	w := httptest.NewRecorder()
	r.api.handler.ServeHTTP(w, request)
	if w.Code != 200 || w.Header().Get("Content-Type") != ndjson || !w.Flushed {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	lines := bufio.NewScanner(w.Body)
	for n := letters - 1; n >= 0; n-- {
		var l struct {
			EventID string `json:"event_id"`
			Payload struct{ N int }
		}
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &l) != nil || l.EventID != "e"+strconv.Itoa(n) || l.Payload.N != n {
			t.Fatalf("line of %d: %s", n, lines.Text())
		}
	}
	if lines.Scan() {
		t.Errorf("one line too many: %s", lines.Text())
	}
	r.stop()
}
