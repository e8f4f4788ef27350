package relay

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/staffetta-relay/staffetta"
)

func TestTheKeyOfOperationalEventsIsShownOnceAndRotated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPITest(t)
		key := func(answer object) string { text, _ := answer["operations_signing_key"].(string); return text }
		stored := func() staffetta.SigningKeys {
			ws, err := a.registry.Workspace("acme")
			if err != nil {
				t.Fatal(err)
			}
			return ws.OperationsKeys
		}
		if answer := a.ask(201, "PUT", acme, `{"plan":"advanced"}`); key(answer) != "" {
			t.Errorf("a workspace without an operations URL has a key: %v", answer)
		}
		a.refuse(422, "invalid_rotation", "PUT", acme, `{"rotate_operations_key":true}`)
		a.refuse(422, "read_only_member", "PUT", acme, `{"operations_signing_key":"x"}`)
		first := key(a.ask(200, "PUT", acme, `{"operations_url":"https://ops.example/"}`))
		if staffetta.ValidateSigningKey(first) != nil || stored().Current != first {
			t.Errorf("the first key is %q", first)
		}
		for _, body := range []string{`{}`, `{"operations_url":"https://other.example/"}`, `{"rotate_operations_key":false}`} {
			if answer := a.ask(200, "PUT", acme, body); key(answer) != "" || stored().Current != first {
				t.Errorf("%s changes or shows the key: %v", body, answer)
			}
		}
		if answer := a.ask(200, "GET", acme, ""); key(answer) != "" || strings.Contains(fmt.Sprint(answer), first) {
			t.Errorf("GET shows the key: %v", answer)
		}
		second := key(a.ask(200, "PUT", acme, `{"rotate_operations_key":true}`))
		if keys := stored(); second == first || keys.Current != second || keys.Previous != first || time.Until(keys.PreviousUntil) != defaultOverlap {
			t.Errorf("after a rotation: %q, %v", second, keys.PreviousUntil)
		}
		a.ask(200, "PUT", acme, `{"operations_url":null}`)
		if stored() != (staffetta.SigningKeys{}) {
			t.Error("the keys outlive their URL")
		}
		if third := key(a.ask(200, "PUT", acme, `{"operations_url":"https://ops.example/"}`)); third == "" || third == first || third == second {
			t.Errorf("a URL set again has the key %q", third)
		}
	})
}

func TestTheRegistryTellsOfWorkspacesAndKeepsTheirKeysSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		cfg := testRegistryConfig(t, bucketFor(t))
		cfg.OnWorkspace = func(ws staffetta.Workspace) {
			e, ok := OperationsEndpoint(ws)
			told = append(told, fmt.Sprintf("%s %v %s", e.ID, ok, e.URL))
		}
		cfg.OnWorkspaceRemoved = func(ws staffetta.Workspace) { told = append(told, "removed "+ws.ID) }
		r := openRegistry(t, cfg)
		follow(t, r)
		addWorkspace(t, r, "acme")
		change := func(url string, keys staffetta.SigningKeys) {
			t.Helper()
			if _, _, err := r.PutWorkspace(t.Context(), "acme", func(ws *staffetta.Workspace) error {
				ws.OperationsURL, ws.OperationsKeys = url, keys
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		keys := staffetta.SigningKeys{Current: staffetta.NewSigningKey(), Previous: staffetta.NewSigningKey(), PreviousUntil: stamp().Add(time.Hour)}
		change("https://ops.example/", keys)
		entry, err := cfg.Bucket.Get(t.Context(), workspaceRecordName("acme"))
		if err != nil || bytes.Contains(entry.Value(), []byte(keys.Current)) || bytes.Contains(entry.Value(), []byte(keys.Previous)) {
			t.Errorf("the record shows the key, or %v: %s", err, entry.Value())
		}
		again := openRegistry(t, cfg)
		if ws, err := again.Workspace("acme"); err != nil || ws.OperationsKeys != keys {
			t.Errorf("after a restart: %v, %+v", err, ws)
		}
		change("", staffetta.SigningKeys{})
		if err := r.DeleteWorkspace(t.Context(), "acme"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		want := []string{
			"op_acme false ", "op_acme true https://ops.example/", "op_acme true https://ops.example/",
			"op_acme false ", "removed acme",
		}
		if strings.Join(told, ",") != strings.Join(want, ",") {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}
