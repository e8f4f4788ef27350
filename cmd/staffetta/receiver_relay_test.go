package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/receiver"
)

func TestReceiverNeverRefusesTheRelayWhileAKeyIsRotated(t *testing.T) {
	sink := startLiveSink(t)
	keys := []string{staffetta.NewSigningKey(), staffetta.NewSigningKey()}
	r := receiveLive(t, t.TempDir(), []receiver.Source{
		sourceTo("/respond", staffetta.SchemeRespondIO, sink.url+"/respond", keys...),
		sourceTo("/standard", staffetta.SchemeStandard, sink.url+"/standard", keys[0], "whsec_"+keys[1]),
	})
	l := startLive(t, t.TempDir(), quickRetries)
	l.workspace("acme")
	endpoints := []string{l.signed("http://"+r.address+"/respond", keys[0]), l.signed("http://"+r.address+"/standard", keys[0])}
	var ids []string
	post := func() {
		ids = append(ids, l.event("acme", fmt.Sprintf(`{"event_type":"message.received","contact":{"id":7},"n":%d,"s":"\u00e8 \u003c"}`, len(ids))))
	}
	post()
	for _, endpoint := range endpoints {
		l.must(200, "POST", endpoint+"/rotate-key", fmt.Sprintf(`{"signing_key":%q,"overlap":"1s"}`, keys[1]))
	}
	rotated := time.Now()
	eventually(t, 20*time.Second, "events during the overlap and after it", func() bool {
		post()
		return time.Since(rotated) > 2*time.Second
	})
	sink.wait(t, 2*len(ids))
	checkRelayed(t, sink.all(), ids)
	for _, source := range []string{"respond", "standard"} {
		if n := r.refused(source); n != "0" {
			t.Errorf("%s webhooks of source %s were refused", n, source)
		}
	}
	var attempts struct {
		Items []struct{ Status, Attempt int }
	}
	if err := json.Unmarshal(l.must(200, "GET", "/v1/workspaces/acme/attempts?limit=1000", "").body, &attempts); err != nil {
		t.Fatal(err)
	}
	for _, a := range attempts.Items {
		if a.Status != 200 || a.Attempt != 1 {
			t.Fatalf("the relay notes attempt %d with status %d", a.Attempt, a.Status)
		}
	}

	// The old key alone is refused by a receiver that holds the new one alone, and the relay keeps trying.
	l.must(200, "POST", endpoints[0]+"/rotate-key", fmt.Sprintf(`{"signing_key":%q,"overlap":"0s"}`, staffetta.NewSigningKey()))
	post()
	eventually(t, 20*time.Second, "a refusal of an unknown key", func() bool { return r.refused("respond") == "3" })
}

// checkRelayed wants every event once at each path, in order, with what the relay signed and sent.
func checkRelayed(t *testing.T, got []liveArrival, ids []string) {
	t.Helper()
	for _, path := range []string{"/respond", "/standard"} {
		var came []string
		for _, a := range got {
			var body struct {
				EventID string `json:"event_id"`
			}
			if err := json.Unmarshal([]byte(a.body), &body); err != nil {
				t.Fatal(err)
			}
			if a.path != path {
				continue
			}
			came = append(came, body.EventID)
			if h := a.header; h.Get("Webhook-Id") != body.EventID || h.Get("Staffetta-Event-Id") != body.EventID ||
				h.Get("X-Webhook-Signature") == "" || h.Get("Staffetta-Attempt") != "1" || h.Get("X-Forwarded-For") != "127.0.0.1" {
				t.Fatalf("%s came with %v", body.EventID, h)
			}
		}
		if fmt.Sprint(came) != fmt.Sprint(ids) {
			t.Errorf("at %s came %v, want %v", path, came, ids)
		}
	}
}

const forgedBody = `{"event_type":"message.received","contact":{"id":1},"text":"forged"}`

func TestReceiverRefusesWhatRespondIODidNotSign(t *testing.T) {
	sink := startLiveSink(t)
	key := staffetta.NewSigningKey()
	l := receiveLive(t, t.TempDir(), []receiver.Source{sourceTo("/hooks/respond", staffetta.SchemeRespondIO, sink.url, "another-key-of-the-platform", key)})
	good := respondIOSignature(t, key, forgedBody)
	for _, c := range []struct {
		name, body, signature string
		want                  int
	}{
		{"as it was signed", forgedBody, good, 200},
		{"tampered with", forgedBody[:len(forgedBody)-2] + `!"}`, good, 401},
		{"under another key", forgedBody, respondIOSignature(t, staffetta.NewSigningKey(), forgedBody), 401},
		{"without a signature", forgedBody, "", 401},
		{"with half a signature", forgedBody, good[:20], 401},
		{"with a white space behind", forgedBody + " ", good, 401},
		{"empty, with no signature", "", "", 401},
	} {
		headers := []string{"Content-Type", "application/json", "X-Webhook-Signature", c.signature}
		if c.signature == "" {
			headers = headers[:2]
		}
		if r := l.post("/hooks/respond", c.body, headers...); r.status != c.want {
			t.Errorf("%s it is answered with %d %q, want %d", c.name, r.status, r.body, c.want)
		}
	}
	if n := l.refused("hooks-respond"); n != "6" {
		t.Errorf("%s are counted as refused, want 6", n)
	}
	sink.wait(t, 1)
	l.stop()
	if n := len(sink.all()); n != 1 {
		t.Errorf("%d were handed over, want 1", n)
	}
}

// The reference library in Go signs as a platform would.
func TestReceiverAgreesWithTheStandardWebhooksLibrary(t *testing.T) {
	sink := startLiveSink(t)
	key, other := "whsec_"+staffetta.NewSigningKey(), "whsec_"+staffetta.NewSigningKey()
	l := receiveLive(t, t.TempDir(), []receiver.Source{sourceTo("/hooks/standard", staffetta.SchemeStandard, sink.url, other, key)})
	sign := func(key, id string, at time.Time) string {
		library, err := standardwebhooks.NewWebhook(key)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := library.Sign(id, at, []byte(forgedBody))
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
	now := time.Now()
	stranger := "whsec_" + staffetta.NewSigningKey()
	for _, c := range []struct {
		name, body, id string
		at             time.Time
		signature      string
		without        string
		want           int
	}{
		{"as it was signed", forgedBody, "msg_1", now, sign(key, "msg_1", now), "", 200},
		{"again", forgedBody, "msg_1", now, sign(key, "msg_1", now), "", 200},
		{"under the second key", forgedBody, "msg_2", now, sign(other, "msg_2", now), "", 200},
		{"with an unknown signature before", forgedBody, "msg_3", now, "v2,abc v1," + sign(stranger, "msg_3", now)[3:] + " " + sign(key, "msg_3", now), "", 200},
		{"four minutes old", forgedBody, "msg_4", now.Add(-4 * time.Minute), sign(key, "msg_4", now.Add(-4*time.Minute)), "", 200},
		{"tampered with", forgedBody + " ", "msg_5", now, sign(key, "msg_5", now), "", 401},
		{"under another id", forgedBody, "msg_6", now, sign(key, "msg_5", now), "", 401},
		{"under another time", forgedBody, "msg_6", now.Add(time.Second), sign(key, "msg_6", now), "", 401},
		{"six minutes old", forgedBody, "msg_7", now.Add(-6 * time.Minute), sign(key, "msg_7", now.Add(-6*time.Minute)), "", 401},
		{"of the future", forgedBody, "msg_8", now.Add(6 * time.Minute), sign(key, "msg_8", now.Add(6*time.Minute)), "", 401},
		{"under a stranger's key", forgedBody, "msg_9", now, sign(stranger, "msg_9", now), "", 401},
		{"without an id", forgedBody, "msg_a", now, sign(key, "msg_a", now), "webhook-id", 401},
		{"without a time", forgedBody, "msg_a", now, sign(key, "msg_a", now), "webhook-timestamp", 401},
		{"without a signature", forgedBody, "msg_a", now, sign(key, "msg_a", now), "webhook-signature", 401},
	} {
		headers := []string{"Content-Type", "application/json"}
		for name, value := range map[string]string{
			standardwebhooks.HeaderWebhookID: c.id, standardwebhooks.HeaderWebhookSignature: c.signature,
			standardwebhooks.HeaderWebhookTimestamp: strconv.FormatInt(c.at.Unix(), 10),
		} {
			if name != c.without {
				headers = append(headers, name, value)
			}
		}
		if r := l.post("/hooks/standard", c.body, headers...); r.status != c.want {
			t.Errorf("%s it is answered with %d %q, want %d", c.name, r.status, r.body, c.want)
		}
	}
	sink.wait(t, 4)
	l.stop()
	if n := len(sink.all()); n != 4 {
		t.Errorf("%d were handed over, want 4", n)
	}
}

// The library that most senders use signs, in the language that they use it in.
func TestReceiverAgreesWithTheStandardWebhooksLibraryInJavaScript(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed: it is needed to sign as senders written in JavaScript do")
	}
	modules := os.Getenv("STAFFETTA_TEST_NODE_MODULES")
	if modules == "" {
		t.Skip("STAFFETTA_TEST_NODE_MODULES names no folder with npm's standardwebhooks: make one with npm install standardwebhooks@1.1.1")
	}
	sink := startLiveSink(t)
	key := "whsec_" + staffetta.NewSigningKey()
	l := receiveLive(t, t.TempDir(), []receiver.Source{sourceTo("/hooks/standard", staffetta.SchemeStandard, sink.url, staffetta.NewSigningKey(), key)})
	command := exec.CommandContext(t.Context(), node, "testdata/senders.mjs", modules, "http://"+l.address+"/hooks/standard", key)
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]int
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	want := map[string]int{
		"good": http.StatusOK, "repeated": http.StatusOK, "emoji": http.StatusOK, "tampered": 401, "stale": 401, "future": 401,
		"stranger": 401, "no id": 401, "no time": 401, "no signature": 401,
	}
	for name, status := range want {
		if got[name] != status {
			t.Errorf("%s: status %d, want %d", name, got[name], status)
		}
	}
	if sink.wait(t, 2); len(got) != len(want) {
		t.Errorf("%d cases: %v", len(got), got)
	}
}
