package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta"
)

func TestTheBenchOfAReceiverLosesNothingAndIsReportedAgain(t *testing.T) {
	dir := t.TempDir()
	file, page := filepath.Join(dir, "a.json"), filepath.Join(dir, "a.html")
	status, stdout, stderr, temp := asBench(t, t.Context(), "receiver", "--duration", "500ms", "--json", file)
	if status != exitDone || !strings.Contains(stdout, "0 lost, 0 duplicated, 0 out of order") {
		t.Fatalf("exit status %d\n%s%s", status, stdout, stderr)
	}
	mustBeEmpty(t, temp)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var result struct {
		Delivered, Accepted int64
		Ratio               float64
		FloorPerSecond      float64 `json:"floor_per_second"`
		AcceptedPerSecond   float64 `json:"accepted_per_second"`
		RSS                 float64 `json:"rss_mib"`
		Figures             struct {
			Durabilities []struct {
				Durability  string
				Connections int
				Ratio       float64
				RoundRatios []float64             `json:"round_ratios"`
				AckMS       struct{ P99 float64 } `json:"ack_ms"`
			}
		}
		Floors []struct{ Direct float64 }
		Phases []struct {
			Counted  bool
			Ack      struct{ HDR string }
			Timeline []any
		}
	}
	if err := json.Unmarshal(text, &result); err != nil {
		t.Fatal(err)
	}
	d := result.Figures.Durabilities
	if len(d) != 2 || d[0].Durability != "process" || d[0].Connections != 64 || d[1].Durability != "power" || d[1].Connections != 512 || d[1].AckMS.P99 <= 0 {
		t.Fatalf("%+v", d)
	}
	if got := result.AcceptedPerSecond / result.FloorPerSecond; result.Delivered == 0 || result.Delivered != result.Accepted ||
		d[0].Ratio != result.Ratio || got/result.Ratio > 1.001 || got/result.Ratio < 0.999 || result.RSS <= 0 {
		t.Errorf("%+v", result)
	}
	if len(d[0].RoundRatios) < 2 || len(result.Floors) != len(d[0].RoundRatios)+len(d[1].RoundRatios)+2 {
		t.Errorf("%d floors, and rounds %v and %v between them", len(result.Floors), d[0].RoundRatios, d[1].RoundRatios)
	}
	counted := 0
	for _, p := range result.Phases {
		if p.Counted {
			counted++
			if p.Ack.HDR == "" || len(p.Timeline) == 0 {
				t.Errorf("%+v", p)
			}
		}
	}
	if counted != 4 {
		t.Errorf("%d phases of the load", counted)
	}
	runCommand("", "bench", "report", file).check(t, exitDone, "0 lost, 0 duplicated, 0 out of order")
	runCommand("", "bench", "report", file, file, "--html", page).check(t, exitDone, "0 figures worse, 0 better")
	if text, err := os.ReadFile(page); err != nil || !bytes.Contains(text, []byte("<polyline")) || !bytes.Contains(text, []byte("after: process, 64 connections")) {
		t.Errorf("the page: %v", err)
	}
}

// guarded is a webhook that takes so many events a second, with some more at once, and answers 503 to what
// is beyond. It verifies both signatures.
type guarded struct {
	key       string
	perSecond float64
	burst     float64

	mu    sync.Mutex
	room  float64
	last  time.Time
	seen  map[string]bool
	wrong []string
}

func (h *guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	defer h.mu.Unlock()
	keys, id := []string{h.key}, r.Header.Get("webhook-id")
	if staffetta.VerifyRespondIO(keys, r.Header.Get("X-Webhook-Signature"), body) != nil ||
		staffetta.VerifyStandard(keys, id, r.Header.Get("webhook-timestamp"), r.Header.Get("webhook-signature"), body, time.Now(), staffetta.SignatureTolerance) != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var event struct {
		ID string `json:"event_id"`
	}
	if err := json.Unmarshal(body, &event); err != nil || event.ID != id || h.seen[id] || r.URL.RawQuery != "a=b" || r.Header.Get("Staffetta-Attempt") != "1" {
		h.wrong = append(h.wrong, fmt.Sprintf("%s %s %v %v", r.URL, id, err, r.Header))
	}
	h.seen[id] = true
	now := time.Now()
	h.room = min(h.burst, h.room+now.Sub(h.last).Seconds()*h.perSecond)
	h.last = now
	if h.room < 1 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	h.room--
}

func newGuarded(t *testing.T, perSecond float64) (*guarded, *httptest.Server) {
	h := &guarded{key: staffetta.NewSigningKey(), perSecond: perSecond, burst: 10, room: 10, seen: make(map[string]bool), last: time.Now()}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return h, server
}

func TestTheBenchFindsWhatAnEndpointTakes(t *testing.T) {
	h, server := newGuarded(t, 60)
	// One at a time is bounded by --max-rate, which here is what the endpoint takes at once.
	status, stdout, stderr, _ := asBench(t, t.Context(), "endpoint", "--target", server.URL+"/hook?a=b", "--signing-key", "whsec_"+h.key, "--duration", "400ms", "--max-rate", "640", "--json", "-")
	if status != exitDone {
		t.Fatalf("exit status %d\n%s%s", status, stdout, stderr)
	}
	var result struct {
		Figures struct {
			Options map[string]any
			Highest float64 `json:"highest_rate"`
			Steps   []struct {
				Rate     float64
				Sent, OK int64
				Errors   map[string]int64
			}
			Quota struct {
				Shown bool `json:"survival_shown"`
			}
		}
		Verdict struct{ Reasons []string }
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil {
		t.Fatal(err)
	}
	f := result.Figures
	if f.Highest < 40 || f.Highest > 160 || f.Quota.Shown || f.Options["target"] != server.URL+"/hook" {
		t.Errorf("%+v", f)
	}
	refused := false
	for _, s := range f.Steps {
		refused = refused || s.Rate > f.Highest && s.Errors["status 503"] > 0
		if s.Rate > 0 && s.Rate <= f.Highest && s.OK != s.Sent {
			t.Errorf("%+v", s)
		}
	}
	if reasons := strings.Join(result.Verdict.Reasons, "\n"); !refused || !strings.Contains(reasons, "too short to show") || !strings.Contains(reasons, "the webhook disabled, after") {
		t.Errorf("refused: %v\n%s", refused, reasons)
	}
	if len(h.wrong) > 0 {
		t.Errorf("%d wrong requests: %s", len(h.wrong), h.wrong[0])
	}
}

func TestAWrongSigningKeyEndsTheBenchOfAnEndpointAtOnce(t *testing.T) {
	_, server := newGuarded(t, 1000)
	status, stdout, _, _ := asBench(t, t.Context(), "endpoint", "--target", server.URL, "--signing-key", staffetta.NewSigningKey(), "--duration", "100ms", "--max-rate", "100")
	if status != exitFailed || !strings.Contains(stdout, "status 401") || !strings.Contains(stdout, "is --signing-key the one") || strings.Contains(stdout, "10/s") {
		t.Errorf("exit status %d\n%s", status, stdout)
	}
}

func TestTheBenchOfAnEndpointAsksBeforeItLoadsAnotherMachine(t *testing.T) {
	key := staffetta.NewSigningKey()
	for args, want := range map[string]string{
		"endpoint --target https://hooks.example.com/a --signing-key " + key:                     "is not on this machine: load on it needs --confirm-remote",
		"endpoint --target http://192.0.2.1/a --signing-key " + key:                              "needs --confirm-remote",
		"endpoint --target http://127.0.0.1:1/a":                                                 "--target needs --signing-key",
		"endpoint --target http://127.0.0.1:1/a --signing-key short":                             "--signing-key: ",
		"endpoint --target ftp://127.0.0.1/a --signing-key " + key:                               "--target is the URL of a webhook",
		"endpoint --target http://u:p@127.0.0.1/a --signing-key " + key:                          "without a user",
		"endpoint --rate 20 --max-rate 10 --signing-key " + key + " --target http://127.0.0.1:1": "--rate is above --max-rate",
		"endpoint --max-rate=-1":               "--max-rate must be",
		"receiver --target http://127.0.0.1:1": "starts its programs itself",
		"report":                               "report needs a file",
		"relay a.json":                         "files are for report",
		"suite":                                "suite needs --json",
		"suite --json x --target http://127.0.0.1:1": "suite needs --json",
	} {
		o := runCommand("", append([]string{"bench"}, strings.Fields(args)...)...)
		if o.status != exitUsage || !strings.Contains(o.stderr, want) {
			t.Errorf("%s: exit status %d: %s", args, o.status, o.stderr)
		}
	}
	runCommand("", "bench", "list", "--names").check(t, exitDone, "receiver\nendpoint\n")
}

func TestTheClientOfTheSequentialFloorSendsToTheLoopback(t *testing.T) {
	h, server := newGuarded(t, 1e9)
	o := runCommand(h.key, "bench", "sequential-client", "--target", server.URL+"/e/0?a=b", "--payload", "512", "--duration", "100ms")
	var sent struct{ Sent, Accepted int }
	if err := json.Unmarshal([]byte(o.stdout), &sent); err != nil || o.status != exitDone {
		t.Fatalf("exit status %d, %v\n%s%s", o.status, err, o.stdout, o.stderr)
	}
	if sent.Sent == 0 || sent.Accepted != sent.Sent || len(h.seen) != sent.Sent || len(h.wrong) > 0 {
		t.Errorf("%+v, and %d were seen, %d of them wrong", sent, len(h.seen), len(h.wrong))
	}
	o = runCommand(h.key, "bench", "sequential-client", "--target", "http://192.0.2.1/e/0")
	if o.status != exitUsage || !strings.Contains(o.stderr, "a sink on the loopback") {
		t.Errorf("another machine: exit status %d: %s", o.status, o.stderr)
	}
}

func TestTheBareServerOfTheBenchEndsWithItsInputAndWhenItIsTold(t *testing.T) {
	for name, end := range map[string]func(*exec.Cmd, io.Closer) error{
		"its input is closed, as by a bench that is killed": func(_ *exec.Cmd, input io.Closer) error { return input.Close() },
		"SIGTERM": func(c *exec.Cmd, _ io.Closer) error { return c.Process.Signal(syscall.SIGTERM) },
	} {
		c := exec.CommandContext(t.Context(), os.Args[0], "bench", "bare-server", "--target", "http://127.0.0.1:0")
		c.Env = append(os.Environ(), asProgram+"=1")
		input, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		output, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		var listening struct{ Address string }
		if err := json.NewDecoder(output).Decode(&listening); err != nil {
			t.Fatal(err)
		}
		resp, err := http.Post("http://"+listening.Address+"/hooks/bench", "application/json", strings.NewReader("{}"))
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %v %v", name, resp, err)
		} else {
			_ = resp.Body.Close()
		}
		if err := end(c, input); err != nil {
			t.Error(err)
		}
		if err := c.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := runCommand("", "bench", "bare-server", "--target", "http://0.0.0.0:0")
	if o.status != exitUsage || !strings.Contains(o.stderr, "where to listen on the loopback") {
		t.Errorf("every address: exit status %d: %s", o.status, o.stderr)
	}
}

func TestTheHelpersOfTheBenchAreInNoList(t *testing.T) {
	for _, args := range []string{"bench list", "bench list --names", "bench --help", "bench nothing"} {
		o := runCommand("", strings.Fields(args)...)
		for _, name := range []string{"sequential-client", "bare-server"} {
			if strings.Contains(o.stdout+o.stderr, name) {
				t.Errorf("%s names %s:\n%s%s", args, name, o.stdout, o.stderr)
			}
		}
	}
}
