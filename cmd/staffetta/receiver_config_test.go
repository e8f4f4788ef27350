package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The example of the contract, but for its ports.
const exampleConfig = `listen: 127.0.0.1:0
admin-listen: 127.0.0.1:0
data: ./receiver
sources:
  - path: /hooks/respond
    verify: respond.io
    keys: [env:RESPOND_KEY_MESSAGES, env:RESPOND_KEY_CONTACTS]
    order: contact            # strict: one at a time; contact: one at a time per contact, contacts in parallel (default); none
    to:
      - http: {url: http://127.0.0.1:9000/crm, headers: {Authorization: env:CRM_TOKEN}, rate: 50/s, concurrency: 8, timeout: 30s}
      - postgres: {dsn: env:CRM_DSN, table: respond_events}
      - nats: {url: nats://127.0.0.1:4222, subject: crm.events}
      - file: {path: events.jsonl}
`

func setExampleEnv(t *testing.T) {
	t.Helper()
	for name, value := range map[string]string{
		"RESPOND_KEY_MESSAGES": "key-of-messages-Jx1", "RESPOND_KEY_CONTACTS": "key-of-contacts-Jx2", "CRM_TOKEN": "Bearer token-Jx3",
		"CRM_DSN": "postgres://crm:password-Jx4@127.0.0.1:1/crm",
	} {
		t.Setenv(name, value)
	}
}

// startReceiverCommand runs the command until it has started, or failed, and stops it.
func startReceiverCommand(t *testing.T, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stdout := watchedBuffer{until: "admin key", then: cancel}
	var stderr textLog
	status := run(ctx, append([]string{"receiver"}, args...), strings.NewReader(""), &stdout, &stderr)
	return outcome{status, stdout.got.String(), stderr.String()}
}

func TestReceiverStartsFromTheExampleOfItsConfiguration(t *testing.T) {
	t.Chdir(t.TempDir())
	setExampleEnv(t)
	o := startReceiverCommand(t, "--config", writeFile(t, "receiver.yaml", exampleConfig))
	for _, want := range []string{
		"/hooks/respond (respond.io)", "hooks-respond.http", "hooks-respond.postgres", "hooks-respond.nats", "hooks-respond.file",
		filepath.Join("receiver", "admin.key") + " (just made)", `"message":"receiver started"`,
	} {
		o.check(t, exitDone, want)
	}
	if _, err := os.Stat(filepath.Join("receiver", "admin.key")); err != nil {
		t.Error(err)
	}
	o.withoutSecrets(t)
	again := startReceiverCommand(t, "--config", writeFile(t, "receiver.yaml", exampleConfig), "--max-age", "2d", "--retention", "0s")
	again.check(t, exitDone, "admin.key\n")
}

// withoutSecrets fails the test where what was printed has a secret of the tests in it: all end in Jx and a digit.
func (o outcome) withoutSecrets(t *testing.T) {
	t.Helper()
	if at := strings.Index(o.stdout+o.stderr, "Jx"); at >= 0 {
		t.Errorf("a secret was printed:\n%s", o.stdout+o.stderr)
	}
}

func TestReceiverNamesTheSettingThatIsWrong(t *testing.T) {
	t.Chdir(t.TempDir())
	setExampleEnv(t)
	swap := func(old, now string) string {
		if !strings.Contains(exampleConfig, old) {
			t.Fatalf("the example has no %q", old)
		}
		return strings.Replace(exampleConfig, old, now, 1)
	}
	const second = "  - {path: %s, verify: none, name: %s, to: [{file: {path: b.jsonl}}]}\n"
	for _, c := range []struct {
		name, config string
		want         []string
	}{
		{"an unknown flag", exampleConfig + "max-bodys: 1MiB\n", []string{"max-bodys"}},
		{"an unknown member of a source", swap("order: contact ", "ordre: contact "), []string{"sources", "ordre"}},
		{"an unknown member of a target", swap("rate: 50/s", "rates: 50/s"), []string{"sources", "rates"}},
		{"an unknown kind of target", swap("- file: {path", "- fiel: {path"), []string{"sources", "fiel"}},
		{"an unknown scheme", swap("verify: respond.io", "verify: respondio"), []string{"/hooks/respond", "verify", "standard-webhooks"}},
		{"no scheme", swap("    verify: respond.io\n", ""), []string{"/hooks/respond", "verify"}},
		{"an unknown order", swap("order: contact ", "order: conctact "), []string{"/hooks/respond", "order", "strict, contact or none"}},
		{"a variable that is not there", swap("env:RESPOND_KEY_CONTACTS", "env:RESPOND_KEY_NOWHERE"), []string{"/hooks/respond", "key 2", "RESPOND_KEY_NOWHERE"}},
		{"a token that is not there", swap("env:CRM_TOKEN", "env:CRM_NOWHERE"), []string{"/hooks/respond", "target 1", "Authorization", "CRM_NOWHERE"}},
		{"no keys", swap("    keys: [env:RESPOND_KEY_MESSAGES, env:RESPOND_KEY_CONTACTS]\n", ""), []string{"/hooks/respond", "keys"}},
		{"a URL without a scheme", swap("url: http://127.0.0.1:9000/crm", "url: 127.0.0.1:9000/crm"), []string{"/hooks/respond", "http", "URL"}},
		{"a URL with a password", swap("http://127.0.0.1:9000", "http://u:password-Jx5@127.0.0.1:9000"), []string{"/hooks/respond", "http", "URL"}},
		{"a URL of NATS without a scheme", swap("url: nats://127.0.0.1:4222", "url: 127.0.0.1:4222"), []string{"/hooks/respond", "nats", "URL"}},
		{"a subject with a wildcard", swap("crm.events", "crm.>"), []string{"/hooks/respond", "nats", "Subject"}},
		{"a rate", swap("50/s", "50/fortnight"), []string{"sources", "50/fortnight"}},
		{"a time", swap("timeout: 30s", "timeout: 30 seconds"), []string{"sources", "30 seconds"}},
		{"too much at a time", swap("concurrency: 8", "concurrency: 8000"), []string{"/hooks/respond", "target 1", "concurrency"}},
		{"a header of ours", swap("Authorization: env:CRM_TOKEN", "Host: token-Jx3"), []string{"/hooks/respond", "Host"}},
		{"a table", swap("respond_events", "a.b.c"), []string{"/hooks/respond", "postgres", "Table"}},
		{"a DSN", swap("env:CRM_DSN", `"postgres://crm:pass word-Jx4@[::1/crm"`), []string{"/hooks/respond", "postgres", "DSN"}},
		{"a path", swap("path: /hooks/respond", "path: hooks/respond"), []string{"hooks/respond", "path"}},
		{"no path", swap("path: /hooks/respond", "name: crm"), []string{"path"}},
		{"two sources on one path", exampleConfig + fmt.Sprintf(second, "/hooks/respond", "b"), []string{"/hooks/respond", "same path"}},
		{"two sources of one name", exampleConfig + fmt.Sprintf(second, "/hooks/b", "hooks-respond"), []string{"/hooks/b", "name"}},
		{"two kinds in one target", swap("- file: {path: events.jsonl}", "- file: {path: events.jsonl}\n        nats: {url: nats://127.0.0.1, subject: a}"), []string{"/hooks/respond", "one of http, postgres, nats, file"}},
		{"no target", exampleConfig[:strings.Index(exampleConfig, "    to:")], []string{"/hooks/respond", "target"}},
		{"a network", swap("order: contact ", "allow: [10.0.0.0/33] "), []string{"/hooks/respond", "allow", "10.0.0.0/33"}},
		{"a wait", exampleConfig + "retry-first: 10m\nretry-max: 1m\n", []string{"retry"}},
		{"a size", exampleConfig + "max-body: 99MiB\n", []string{"max-body", "15"}},
		{"an upstream", exampleConfig + "upstream: 127.0.0.1:9000\n", []string{"upstream"}},
		{"a certificate without its key", exampleConfig + "tls-cert: a.pem\n", []string{"tls-key"}},
		{"no sources", "listen: 127.0.0.1:0\n", []string{"--source", "sources"}},
		{"sources that are no list", "sources: {path: /a}\n", []string{"sources", "list"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := startReceiverCommand(t, "--config", writeFile(t, "receiver.yaml", c.config))
			for _, want := range c.want {
				o.check(t, exitUsage, want)
			}
			if strings.Contains(o.stderr, "panic") || strings.Contains(o.stdout, "webhooks ") {
				t.Errorf("it started:\n%s", o.stdout+o.stderr)
			}
			o.withoutSecrets(t)
		})
	}
}

func TestReceiverNamesTheFlagThatIsWrong(t *testing.T) {
	t.Chdir(t.TempDir())
	startReceiverCommand(t, "--source", "/a", "--key", "k", "--to", "file:a.jsonl", "--admin-key", "short-Jx7").check(t, exitFailed, "at least 16 characters")
	config := writeFile(t, "receiver.yaml", strings.ReplaceAll(exampleConfig, "env:", ""))
	source := []string{"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--source", "/hooks/a"}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"flags and a file of sources", append(source, "--config", config, "--key", "k", "--to", "file:a.jsonl"), "--source and the configuration file's sources do not go together"},
		{"no target", append(source, "--key", "k"), "--to"},
		{"no key", append(source, "--to", "file:a.jsonl"), "key"},
		{"a key that is not there", append(source, "--key", "env:NOWHERE_AT_ALL", "--to", "file:a.jsonl"), "NOWHERE_AT_ALL"},
		{"an unknown target", append(source, "--key", "k", "--to", "ftp://127.0.0.1"), "--to"},
		{"a target with a password", append(source, "--key", "k", "--to", "postgres://u:pass%zzword-Jx4@h/db"), "--to"},
		{"an unknown scheme", append(source, "--key", "k", "--verify", "hmac", "--to", "file:a.jsonl"), "verify"},
		{"a key that is no base64", append(source, "--key", "!-Jx1", "--verify", "standard-webhooks", "--to", "file:a.jsonl"), "key 1"},
		{"a store that is too small", append(source, "--key", "k", "--to", "file:a.jsonl", "--max-bytes", "1MiB"), "--max-bytes"},
		{"a proxy", append(source, "--key", "k", "--to", "file:a.jsonl", "--trusted-proxies", "nobody"), "--trusted-proxies"},
		{"a durability", append(source, "--key", "k", "--to", "file:a.jsonl", "--durability", "eternal"), "--durability"},
		{"no source", nil, "--source"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := startReceiverCommand(t, c.args...)
			o.check(t, exitUsage, c.want)
			o.withoutSecrets(t)
		})
	}
}

// What is wrong with a file is shown with the lines around it: keys may stand there.
func TestReceiverShowsNoSecretThatStandsNextToAMistake(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, mistake := range []string{
		"    ordre: contact\n    keys: [key-Jx1]\n    verify: respond.io\n    to: [{file: {path: a.jsonl}}]\n",
		"    keys: [key-Jx1]\n    ordre: contact\n    verify: respond.io\n    to: [{file: {path: a.jsonl}}]\n",
		"    keys: [key-Jx1]\n    verify: respond.io\n    to: [{http: {url: http://127.0.0.1:1, timeout: 1x, headers: {Authorization: token-Jx3}}}]\n",
		"    keys: [key-Jx1]\n    verify: respond.io\n    to: [{postgres: {dsn: postgres://u:password-Jx4@h/db, tabel: a}}]\n",
		"    keys: [key-Jx1]\n    verify: respond.io\n    to: [{file: {path: a.jsonl}}\n",
		"    keys: [key-Jx1]\n  verify: respond.io\n",
		"    keys: key-Jx1\n    verify: respond.io\n    to: 1\n",
	} {
		o := startReceiverCommand(t, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
			"--config", writeFile(t, "receiver.yaml", "sources:\n  - path: /hooks/a\n"+mistake))
		if o.status != exitUsage {
			t.Errorf("exit status %d", o.status)
		}
		o.withoutSecrets(t)
	}
}

// A whole run, in which everything fails that can: whatever it says, no key, password or payload is in it.
func TestReceiverSaysNothingSecretInAWholeRun(t *testing.T) {
	t.Chdir(t.TempDir())
	setExampleEnv(t)
	listen, adminListen, crmURL := freeAddress(t), freeAddress(t), startFailingCRM(t)
	config := strings.NewReplacer("listen: 127.0.0.1:0\nadmin-listen: 127.0.0.1:0", "listen: "+listen+"\nadmin-listen: "+adminListen,
		"http://127.0.0.1:9000/crm", crmURL, "nats://127.0.0.1:4222", "nats://user:password-Jx6@127.0.0.1:1").Replace(exampleConfig) +
		"retry-first: 10ms\nretry-max: 20ms\nretry-for: 0s\nlog-level: debug\nadmin-key: an-admin-key-for-Jx7\nupstream: http://127.0.0.1:1\n"
	path := writeFile(t, "receiver.yaml", config)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	started, ended := make(chan struct{}), make(chan int, 1)
	stdout := watchedBuffer{until: "admin key", then: func() { close(started) }}
	var stderr textLog
	go func() {
		ended <- run(ctx, []string{"receiver", "--config", path}, strings.NewReader(""), &onlyFirst{w: &stdout}, &stderr)
	}()
	select {
	case <-started:
	case status := <-ended:
		t.Fatalf("it ended with %d: %s", status, stderr.String())
	}
	l := &liveReceiver{t: t, address: listen, admin: adminListen, http: newHTTPClient(t)}
	for n := range 20 {
		body := fmt.Sprintf(`{"contact":{"id":%d},"event_type":"message.received","text":"payload-Jx8","n":%d}`, n%5, n)
		signature := hmacText("key-of-contacts-Jx2", body)
		if r := l.post("/hooks/respond?token=query-Jx9", body, "X-Webhook-Signature", signature, "X-Secret", "header-Jx9"); r.status != 200 {
			t.Fatalf("a webhook is answered with %d", r.status)
		}
		l.post("/hooks/respond", body, "X-Webhook-Signature", "signature-Jx9")
	}
	l.do("GET", "http://"+listen+"/page?token=query-Jx9", "")
	authorized := []string{"Authorization", "Bearer an-admin-key-for-Jx7"}
	var letters string
	eventually(t, 30*time.Second, "dead letters of the three targets that fail", func() bool {
		letters = string(l.do("GET", "http://"+adminListen+"/v1/dead-letters?limit=1000", "", authorized...).body)
		return strings.Contains(letters, "hooks-respond.http") && strings.Contains(letters, "hooks-respond.postgres") && strings.Contains(letters, "hooks-respond.nats")
	})
	shown := letters
	for _, what := range []string{"/v1/targets", "/metrics", "/v1/attempts?limit=1000"} {
		shown += string(l.do("GET", "http://"+adminListen+what, "", authorized...).body)
	}
	l.do("GET", "http://"+adminListen+"/v1/targets", "", "Authorization", "Bearer wrong-Jx7")
	l.http.CloseIdleConnections()
	cancel()
	if status := <-ended; status != exitDone {
		t.Errorf("it ended with %d", status)
	}
	outcome{0, stdout.got.String(), stderr.String()}.withoutSecrets(t)
	shown = strings.ReplaceAll(shown, "payload-Jx8", "") // dead letters show it, to who has the key
	if at := strings.Index(shown, "Jx"); at >= 0 {
		t.Errorf("the admin API shows a secret: %.300s", shown[max(0, at-200):])
	}
	for _, want := range []string{"a webhook was refused", "the target takes nothing"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, stderr.String())
		}
	}
}

// onlyFirst writes to a watchedBuffer until it has what it waits for, so that it is told once.
type onlyFirst struct {
	w    *watchedBuffer
	done bool
}

func (o *onlyFirst) Write(p []byte) (int, error) {
	if o.done {
		return len(p), nil
	}
	n, err := o.w.Write(p)
	o.done = strings.Contains(o.w.got.String(), o.w.until)
	return n, err
}

// hmacText signs as respond.io does, under a key of any form.
func hmacText(key, body string) string {
	mac := hmac.New(sha256.New, []byte(key))
	_, _ = io.WriteString(mac, body)
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// startFailingCRM answers every request with 500 and a text that has nothing of it.
func startFailingCRM(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	t.Cleanup(server.Close)
	return server.URL
}

func TestReceiverTakesARetryOfZeroForWhatItSays(t *testing.T) {
	var sources sourcesFlag
	const text = `[{path: /a, verify: none, to: [{file: {path: a.jsonl, retry: {first: 2s, for: 0s, jitter: 0}}}]}]`
	if err := sources.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	s, err := sources[0].source()
	if err != nil {
		t.Fatal(err)
	}
	if got := s.To[0].Backoff; got.First != 2*time.Second || got.For != 0 || got.Jitter != 0 || got.Max != 5*time.Minute {
		t.Errorf("%s is read as %+v", text, got)
	}
}
