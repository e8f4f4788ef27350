package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

// apiTest asks an API, without a network, and holds every answer against the OpenAPI document.
type apiTest struct {
	*testing.T
	registry *Registry
	handler  http.Handler
	doc      openAPIDoc
	log      *bytes.Buffer
	// key is sent with every request unless it is empty.
	key string
}

func newAPITest(t *testing.T, change ...func(*APIConfig)) *apiTest {
	t.Helper()
	a := &apiTest{T: t, doc: parseOpenAPI(t), log: &bytes.Buffer{}, key: testAdminKey}
	a.registry = openRegistry(t, testRegistryConfig(t, bucketFor(t)))
	cfg := APIConfig{Registry: a.registry, Catalogue: staffetta.DefaultCatalogue(), Log: zerolog.New(a.log), Version: "1.2.3"}
	for _, f := range change {
		f(&cfg)
	}
	api, err := NewAPI(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a.handler = api.Handler()
	return a
}

// as asks with another key.
func (a *apiTest) as(key string) *apiTest {
	other := *a
	other.key = key
	return &other
}

func (a *apiTest) send(r *http.Request) *httptest.ResponseRecorder {
	a.Helper()
	if a.key != "" {
		r.Header.Set("Authorization", "Bearer "+a.key)
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	a.doc.checkAnswer(a, r.Pattern, w.Code, w.Header(), w.Body.Bytes())
	if w.Code >= 400 && w.Header().Get("Content-Type") != problemType {
		a.Errorf("%s %s: %d as %s", r.Method, r.URL.Path, w.Code, w.Header().Get("Content-Type"))
	}
	return w
}

// ask sends a JSON body, or none where it is empty, and reads the answer.
func (a *apiTest) ask(want int, method, path, body string) object {
	a.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := a.send(r)
	if w.Code != want {
		a.Errorf("%s %s %.200s: got %d %s, want %d", method, path, body, w.Code, w.Body, want)
	}
	if w.Body.Len() == 0 {
		return nil
	}
	var answer object
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		a.Errorf("%s %s: %v in %s", method, path, err, w.Body)
	}
	return answer
}

// refuse expects a problem with a code.
func (a *apiTest) refuse(status int, code, method, path, body string) object {
	a.Helper()
	answer := a.ask(status, method, path, body)
	if answer["code"] != code {
		a.Errorf("%s %s %.200s: got %v, want %s", method, path, body, answer, code)
	}
	return answer
}

const acme = "/v1/workspaces/acme"

// withEndpoint makes the workspace acme and an endpoint in it.
func (a *apiTest) withEndpoint() (endpoint object, path string) {
	a.Helper()
	a.ask(201, "PUT", acme, `{"plan":"advanced"}`)
	endpoint = a.ask(201, "POST", acme+"/endpoints", `{"url":"http://hook.example/in","event_types":["message.received"]}`)
	return endpoint, acme + "/endpoints/" + fmt.Sprint(endpoint["id"])
}

func ids(page object) (list []string) {
	for _, item := range page["items"].([]any) {
		list = append(list, item.(object)["id"].(string))
	}
	return list
}

func TestAWorkspaceIsCreatedChangedListedAndDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPITest(t)
		ws := a.ask(201, "PUT", acme, "")
		if ws["plan"] != "starter" || ws["language"] != "en" || ws["quota_scope"] != "workspace" {
			t.Errorf("defaults: %v", ws)
		}
		<-time.After(time.Second)
		ws = a.ask(200, "PUT", acme, `{"plan":"growth","quota":0,"notify_emails":["a@b.example"],"operations_url":"https://ops.example/"}`)
		if ws["plan"] != "growth" || ws["quota"] != 0.0 || ws["updated_at"] == ws["created_at"] {
			t.Errorf("changed: %v", ws)
		}
		ws = a.ask(200, "PUT", acme, `{"language":"it","quota":null}`)
		if _, has := ws["quota"]; ws["plan"] != "growth" || ws["language"] != "it" || has {
			t.Errorf("what was left out, or null: %v", ws)
		}
		if got := a.ask(200, "GET", acme, ""); fmt.Sprint(got) != fmt.Sprint(ws) {
			t.Errorf("got %v, want %v", got, ws)
		}
		a.refuse(422, "invalid_plan", "PUT", acme, `{"plan":"gold"}`)
		a.refuse(422, "invalid_email", "PUT", acme, `{"notify_emails":["nobody"]}`)
		a.refuse(422, "invalid_workspace", "PUT", "/v1/workspaces/a.b", "")
		a.refuse(422, "invalid_workspace", "PUT", "/v1/workspaces/"+strings.Repeat("a", 65), "")
		a.refuse(404, "workspace_not_found", "GET", "/v1/workspaces/a%2Fb", "")
		for _, id := range []string{"beta", "alpha", "zeta"} {
			a.ask(201, "PUT", "/v1/workspaces/"+id, "")
		}
		page := a.ask(200, "GET", "/v1/workspaces?limit=3", "")
		rest := a.ask(200, "GET", "/v1/workspaces?limit=3&cursor="+fmt.Sprint(page["next_cursor"]), "")
		if got := append(ids(page), ids(rest)...); !slices.Equal(got, []string{"acme", "alpha", "beta", "zeta"}) || rest["next_cursor"] != nil {
			t.Errorf("pages: %v", got)
		}
		a.ask(204, "DELETE", acme, "")
		a.refuse(404, "workspace_not_found", "DELETE", acme, "")
		a.refuse(404, "workspace_not_found", "GET", acme, "")
	})
}

func TestCursorsStayGoodWhileEndpointsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPITest(t)
		a.ask(201, "PUT", acme, `{"plan":"advanced"}`)
		var made []string
		for i := range 7 {
			made = append(made, addEndpoint(t, a.registry, "acme", fmt.Sprintf("http://%d.example", i), "call.ended").ID)
		}
		page := a.ask(200, "GET", acme+"/endpoints?limit=3", "")
		if got := ids(page); !slices.Equal(got, made[:3]) {
			t.Errorf("first page: %v", got)
		}
		// The last one of the page goes, so does the next one, and a new one comes.
		a.ask(204, "DELETE", acme+"/endpoints/"+made[2], "")
		a.ask(204, "DELETE", acme+"/endpoints/"+made[3], "")
		made = append(made, addEndpoint(t, a.registry, "acme", "http://late.example", "call.ended").ID)
		page = a.ask(200, "GET", acme+"/endpoints?limit=3&cursor="+fmt.Sprint(page["next_cursor"]), "")
		if got := ids(page); !slices.Equal(got, made[4:7]) {
			t.Errorf("second page: %v", got)
		}
		page = a.ask(200, "GET", acme+"/endpoints?limit=1&cursor="+fmt.Sprint(page["next_cursor"]), "")
		if got := ids(page); !slices.Equal(got, made[7:]) || page["next_cursor"] != nil {
			t.Errorf("last page: %v", page)
		}
		for _, limit := range []string{"0", "-1", "1001", "x"} {
			a.refuse(422, "invalid_limit", "GET", acme+"/endpoints?limit="+limit, "")
		}
		a.refuse(422, "invalid_cursor", "GET", acme+"/endpoints?cursor=%00", "")
		a.refuse(422, "invalid_cursor", "GET", acme+"/endpoints?cursor=IyMj", "")
		a.ask(204, "DELETE", acme, "")
		a.refuse(404, "workspace_not_found", "GET", acme+"/endpoints", "")
	})
}

func TestAKeyOpensItsWorkspaceAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPITest(t)
		_, path := a.withEndpoint()
		a.ask(201, "PUT", "/v1/workspaces/other", `{"plan":"advanced"}`)
		made := a.ask(201, "POST", acme+"/keys", `{"name":"billing"}`)
		second := a.ask(201, "POST", acme+"/keys", "")
		a.refuse(422, "invalid_name", "POST", acme+"/keys", `{"name":"a\nb"}`)
		own := a.as(fmt.Sprint(made["key"]))

		own.ask(200, "GET", acme, "")
		own.ask(200, "GET", path, "")
		own.ask(200, "GET", "/v1/event-types", "")
		own.ask(201, "POST", acme+"/endpoints", `{"url":"http://hook.example/own","event_types":["call.ended"]}`)
		for _, adminOnly := range [][2]string{
			{"GET", "/v1/workspaces"},
			{"PUT", acme},
			{"DELETE", acme},
			{"GET", acme + "/keys"},
			{"POST", acme + "/keys"},
			{"DELETE", acme + "/keys/" + fmt.Sprint(made["id"])},
		} {
			own.refuse(403, "admin_key_required", adminOnly[0], adminOnly[1], "")
		}
		own.refuse(403, "forbidden", "GET", "/v1/workspaces/other/endpoints", "")
		own.refuse(403, "forbidden", "GET", "/v1/workspaces/none/endpoints", "")

		key := fmt.Sprint(made["key"])
		for _, wrong := range []string{"", "x", key[:len(key)-1], key + "x", key[:keyIDLength], key[:keyIDLength] + "_", testAdminKey + "x", "key_" + strings.Repeat("0", 32) + "_x"} {
			a.as(wrong).refuse(401, "unauthorized", "GET", acme, "")
		}
		r := httptest.NewRequest("GET", acme, nil)
		r.Header.Set("Authorization", "bearer  "+key)
		if w := a.as("").send(r); w.Code != 200 {
			t.Errorf("the scheme in lower case: %d", w.Code)
		}

		shown := a.ask(200, "GET", acme+"/keys?limit=1", "")
		rest := a.ask(200, "GET", acme+"/keys?cursor="+fmt.Sprint(shown["next_cursor"]), "")
		if got := append(ids(shown), ids(rest)...); !slices.Equal(got, []string{fmt.Sprint(made["id"]), fmt.Sprint(second["id"])}) {
			t.Errorf("keys: %v", got)
		}
		a.ask(204, "DELETE", acme+"/keys/"+fmt.Sprint(made["id"]), "")
		a.refuse(404, "key_not_found", "DELETE", acme+"/keys/"+fmt.Sprint(made["id"]), "")
		own.refuse(401, "unauthorized", "GET", acme, "")
		a.ask(204, "DELETE", acme, "")
		a.as(fmt.Sprint(second["key"])).refuse(401, "unauthorized", "GET", acme, "")
	})
}

func TestWhatIsNotARequestOfTheAPIIsRefusedAsAProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPITest(t)
		_, path := a.withEndpoint()
		for _, unknown := range []string{"/", "/v1", "/v1/", "/v1/workspaces/", "/v1//workspaces", "/v1/../v1/workspaces", "/v1/workspaces/acme/nothing", path + "/enable/"} {
			a.refuse(404, "not_found", "GET", unknown, "")
		}
		for _, c := range [][3]string{
			{"POST", acme, "DELETE, GET, HEAD, PUT"},
			{"OPTIONS", path, "DELETE, GET, HEAD, PATCH"},
			{"GET", path + "/enable", "POST"},
			{"GET", acme + "/events", "POST"},
			{"DELETE", "/v1/openapi.json", "GET, HEAD"},
			{"POST", "/healthz", "GET"},
		} {
			w := a.send(httptest.NewRequest(c[0], c[1], nil))
			if w.Code != 405 || w.Header().Get("Allow") != c[2] {
				t.Errorf("%s %s: %d, Allow %s", c[0], c[1], w.Code, w.Header().Get("Allow"))
			}
		}
		p := a.refuse(400, "invalid_body", "PATCH", path, `{"url":"x",}`)
		if p["offset"] != 10.0 {
			t.Errorf("the place: %v", p)
		}
		a.refuse(400, "invalid_body", "PATCH", path, `{"url":"`+"\xff"+`"}`)
		a.refuse(400, "invalid_body", "PATCH", path, `{} {}`)
		a.refuse(413, "body_too_large", "PATCH", path, `{"description":"`+strings.Repeat("a", maxBody)+`"}`)
		for _, media := range []string{"text/plain", "application/json; charset=latin1", "application/merge-patch+json", ";"} {
			r := httptest.NewRequest("PUT", acme, strings.NewReader("{}"))
			r.Header.Set("Content-Type", media)
			if w := a.send(r); w.Code != 415 {
				t.Errorf("%s: %d", media, w.Code)
			}
		}
		r := httptest.NewRequest("PUT", acme, strings.NewReader(`{"language":"it"}`))
		r.Header.Set("Content-Type", "Application/JSON; charset=UTF-8")
		if w := a.send(r); w.Code != 200 {
			t.Errorf("JSON with its charset: %d %s", w.Code, w.Body)
		}
		if a.log.Len() > 0 {
			t.Errorf("refusals are logged: %s", a.log)
		}
	})
}

func TestAnErrorOfOursIsLoggedWithoutKeysAndNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPITest(t, func(c *APIConfig) {
			c.State = func(string) (State, bool) { panic("lost my mind") }
			c.TestSend = func(context.Context, staffetta.Endpoint) (TestResult, error) {
				return TestResult{}, errors.New("out of sorts")
			}
		})
		a.ask(201, "PUT", acme, `{"plan":"advanced"}`)
		e := addEndpoint(t, a.registry, "acme", "http://hook.example", "call.ended")
		path := acme + "/endpoints/" + e.ID
		for _, c := range [][2]string{{"GET", path}, {"POST", path + "/test"}} {
			r := httptest.NewRequest(c[0], c[1], nil)
			r.Header.Set("Authorization", "Bearer "+testAdminKey)
			w := httptest.NewRecorder()
			a.handler.ServeHTTP(w, r)
			if body := w.Body.String(); w.Code != 500 || strings.Contains(body, "mind") || strings.Contains(body, "sorts") {
				t.Errorf("%d %s", w.Code, body)
			}
		}
		log := a.log.String()
		if strings.Contains(log, testAdminKey) || strings.Contains(log, e.Keys.Current) {
			t.Errorf("the log shows a key: %s", log)
		}
		for _, want := range []string{"lost my mind", "out of sorts", `"workspace":"acme"`, `"endpoint":"` + e.ID + `"`} {
			if !strings.Contains(log, want) {
				t.Errorf("the log lacks %s: %s", want, log)
			}
		}
	})
}

func TestTheCatalogueAndTheDocumentAreServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPITest(t)
		types := a.ask(200, "GET", "/v1/event-types", "")["items"].([]any)
		if len(types) != 11 || types[0].(object)["title"] != "Conversation Closed" {
			t.Errorf("got %v", types)
		}
		a.as("").refuse(401, "unauthorized", "GET", "/v1/event-types", "")
		if doc := a.as("").ask(200, "GET", "/v1/openapi.json", ""); doc["info"].(object)["version"] != "1.2.3" {
			t.Errorf("got %v", doc["info"])
		}
	})
}
