package relay

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/staffetta-relay/staffetta"
)

// stalledWriter is the answer to a client that does not read until it is released.
type stalledWriter struct {
	*httptest.ResponseRecorder
	release chan struct{}
}

func (w stalledWriter) Write(text []byte) (int, error) {
	<-w.release
	return w.ResponseRecorder.Write(text)
}

func TestOnlySoManyRequestsHoldPagesOfTheStoreAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newLogAPI(t, func(c *APIConfig, x *logAPI) { c.DeadLetters = NewDeadLetters(x.js.Conn()) })
		a.ask(201, "PUT", acme, "")
		letterStore{js: a.js}.drop(t, "acme", "ep_1", "one", "message.sent", 1)
		release := make(chan struct{})
		var wg sync.WaitGroup
		for i := range heavyReads {
			wg.Go(func() {
				r := httptest.NewRequest("GET", acme+"/dead-letters", nil)
				r.Header.Set("Authorization", "Bearer "+testAdminKey)
				if i%2 == 0 {
					r.Header.Set("Accept", ndjson)
				}
				w := stalledWriter{httptest.NewRecorder(), release}
				if a.handler.ServeHTTP(w, r); w.Code != http.StatusOK || w.Body.Len() == 0 {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			})
		}
		synctest.Wait()
		for _, path := range []string{"/dead-letters", "/events/one"} {
			a.refuse(503, "too_many_reads", "GET", acme+path, "")
		}
		a.ask(200, "GET", acme+"/dead-letters/dl_1", "")
		close(release)
		wg.Wait()
		for range heavyReads + 1 { // an error gives its place back too
			a.refuse(422, "invalid_limit", "GET", acme+"/dead-letters?limit=0", "")
			a.refuse(404, "event_not_found", "GET", acme+"/events/two", "")
		}
		a.ask(200, "GET", acme+"/dead-letters", "")
	})
}

func TestTheSearchForAnEventEndsAfterSoManyBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newLogAPI(t)
		a.ask(201, "PUT", acme, "")
		payload := []byte(`"` + strings.Repeat("x", 900<<10) + `"`)
		store := func(id string) {
			m := nats.NewMsg(staffetta.DeadLetterSubject("acme", "ep_1"))
			m.Header.Set(staffetta.HeaderEventID, id)
			m.Data = payload
			if _, err := a.js.PublishMsg(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		for n := range 10 {
			store(strconv.Itoa(n))
		}
		p := a.refuse(404, "event_not_found", "GET", acme+"/events/beyond", "")
		if strings.Contains(p["detail"].(string), "ended before") {
			t.Errorf("within the bounds: %v", p)
		}
		for n := range eventBytes / len(payload) {
			store(strconv.Itoa(n))
		}
		store("beyond")
		p = a.refuse(404, "event_not_found", "GET", acme+"/events/beyond", "")
		if !strings.Contains(p["detail"].(string), "ended before") {
			t.Errorf("beyond the bounds: %v", p)
		}
	})
}

func TestEveryParameterThatIsDocumentedIsTakenAndNoOther(t *testing.T) {
	r := startReplayRelay(t, t.TempDir(), func(c *Config) { c.API.Attempts = openTestLog(t, c.JetStream).AttemptLog })
	a := r.api
	a.ask(201, "PUT", acme, "")
	checked := 0
	for name, op := range a.doc.operations {
		method, path, _ := strings.Cut(name, " ")
		path = strings.ReplaceAll(path, "{workspace}", "acme")
		var query []string
		for _, p := range listOf(op["parameters"]) {
			if p := a.doc.resolve(p); p["in"] == "query" {
				query = append(query, p["name"].(string))
			}
		}
		if len(query) == 0 {
			continue
		}
		checked++
		if p := a.refuse(422, "unknown_parameter", method, path+"?since=2020-01-01T00:00:00Z&endpoint_id=ep_1", ""); p["field"] == nil {
			t.Errorf("%s: %v", name, p)
		}
		// A value that no parameter takes; what is first at fault is never the name.
		for _, parameter := range query {
			request := httptest.NewRequest(method, path+"?"+parameter+"=%20&limit=%20", nil)
			if path == acme+"/attempts/follow" || method == "DELETE" {
				request = httptest.NewRequest(method, path+"?"+parameter+"=%20&since=%20", nil)
			}
			if w := a.send(request); w.Code != 422 || strings.Contains(w.Body.String(), "unknown_parameter") {
				t.Errorf("%s: %s: %d %s", name, parameter, w.Code, w.Body)
			}
		}
		a.refuse(422, "invalid_query", method, path+"?endpoint=%zz", "")
	}
	if checked != 8 {
		t.Errorf("%d operations take parameters", checked)
	}
	r.drop(t, "acme", "ep_2", "kept", "message.sent", 1)
	if p := a.refuse(422, "unknown_parameter", "DELETE", acme+"/dead-letters?since=2020-01-01T00:00:00Z&endpoint_id=ep_1", ""); p["field"] != "endpoint_id" {
		t.Errorf("%v", p)
	}
	if got := a.ask(200, "GET", acme+"/dead-letters", ""); len(got["items"].([]any)) != 1 {
		t.Errorf("the letters left are %v", got)
	}
	r.stop()
}

func TestAWorkspaceMadeAgainSeesNothingOfTheOneBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQuota(QuotaConfig{Quota: staffetta.DefaultPolicy().Quota})
		if err != nil {
			t.Fatal(err)
		}
		a := newLogAPI(t, func(c *APIConfig, x *logAPI) { c.Quota, c.DeadLetters = q, NewDeadLetters(x.js.Conn()) })
		a.registry.cfg.OnWorkspaceRemoved = q.drop(nil)
		q.attach(a.registry)
		store := letterStore{js: a.js}
		a.ask(201, "PUT", acme, "")
		fill := func(event string, source int) {
			a.log.Record(attemptOf(event, failedWith(500)))
			store.drop(t, "acme", "ep_1", "letter-of-"+event, "message.sent", source)
			q.Failed("acme", "ep_1", attemptOf(event).At)
		}
		fill("old", 1)
		<-time.After(time.Second)
		a.ask(204, "DELETE", acme, "") // there are no Replays here, so that the letters stay
		ws := a.ask(201, "PUT", acme, "")
		if ws["failures_in_window"] != 0.0 {
			t.Errorf("made again it has %v failures", ws["failures_in_window"])
		}
		fill("new", 2)
		for _, list := range []string{"/attempts", "/attempts?since=1990-01-01T00:00:00Z", "/dead-letters", "/dead-letters?since=1990-01-01T00:00:00Z"} {
			items := a.ask(200, "GET", acme+list, "")["items"].([]any)
			if len(items) != 1 || !strings.HasSuffix(items[0].(object)["event_id"].(string), "new") {
				t.Errorf("%s: %v", list, items)
			}
		}
		a.refuse(404, "dead_letter_not_found", "GET", acme+"/dead-letters/dl_1", "")
		a.ask(200, "GET", acme+"/dead-letters/dl_2", "")
		a.refuse(404, "event_not_found", "GET", acme+"/events/old", "")
		a.refuse(404, "event_not_found", "GET", acme+"/events/letter-of-old", "")
		a.ask(200, "GET", acme+"/events/new", "")

		restarted, err := NewQuota(QuotaConfig{Quota: staffetta.DefaultPolicy().Quota})
		if err != nil {
			t.Fatal(err)
		}
		restarted.attach(a.registry)
		if err := restarted.Restore(t.Context(), a.log.Failures); err != nil {
			t.Fatal(err)
		}
		if _, all := restarted.Failures("acme", ""); all != 1 {
			t.Errorf("after a restart it has %d failures", all)
		}
	})
}
