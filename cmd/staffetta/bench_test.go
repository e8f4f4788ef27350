package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// benchFields are the contract's, and what JSON they are.
var benchFields = map[string]string{
	"scenario": "string", "version": "string", "machine": "string",
	"offered": "number", "accepted": "number", "delivered": "number", "lost": "number", "duplicated": "number", "out_of_order": "number",
	"accepted_per_second": "number", "delivered_per_second": "number", "floor_per_second": "number", "ratio": "number",
	"proxy_per_second": "number", "proxy_ratio": "number", "cpu_seconds_per_1000": "number or null", "rss_mib": "number or null",
	"latency_ms": "quantiles", "ack_ms": "quantiles", "figures": "object", "verdict": "object",
	"format": "number", "phases": "array", "floors": "array", "tables": "array or null",
}

func isA(kind string, value any) bool {
	switch v := value.(type) {
	case nil:
		return strings.HasSuffix(kind, "or null")
	case string:
		return kind == "string" && v != ""
	case float64:
		return strings.HasPrefix(kind, "number")
	case []any:
		return strings.HasPrefix(kind, "array")
	case map[string]any:
		if kind == "quantiles" {
			for _, name := range []string{"p50", "p90", "p99", "p999", "max"} {
				if q, ok := v[name].(float64); !ok || q <= 0 {
					return false
				}
			}
			return len(v) == 5
		}
		return kind == "object"
	}
	return false
}

// asBench runs a bench that starts the test binary in place of staffetta.
func asBench(t *testing.T, ctx context.Context, args ...string) (status int, stdout, stderr, temp string) {
	t.Helper()
	temp = t.TempDir()
	t.Setenv("TMPDIR", temp)
	t.Setenv(asProgram, "1")
	t.Setenv("STAFFETTA_RETRY", "nonsense") // what the user's relay is told is not for the bench's
	var out, err bytes.Buffer
	status = run(ctx, append([]string{"bench"}, args...), strings.NewReader(""), &out, &err)
	return status, out.String(), err.String(), temp
}

func TestTheBenchOfARelayLosesNothingAndSaysAll(t *testing.T) {
	file := filepath.Join(t.TempDir(), "result.json")
	page := filepath.Join(t.TempDir(), "result.html")
	status, stdout, stderr, temp := asBench(t, t.Context(), "relay", "--endpoints", "20", "--duration", "1s", "--json", file, "--html", page)
	if status != exitDone || !strings.Contains(stdout, "0 lost, 0 duplicated, 0 out of order") {
		t.Fatalf("exit status %d\n%s%s", status, stdout, stderr)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var result map[string]any
	if err := json.Unmarshal(text, &result); err != nil {
		t.Fatal(err)
	}
	for name, kind := range benchFields {
		if !isA(kind, result[name]) {
			t.Errorf("%s is %v, want a %s", name, result[name], kind)
		}
	}
	for name := range result {
		if benchFields[name] == "" {
			t.Errorf("%s is not in the contract", name)
		}
	}
	for name, want := range map[string]any{"scenario": "relay", "lost": 0.0, "duplicated": 0.0, "out_of_order": 0.0, "delivered": result["offered"], "accepted": result["offered"]} {
		if result[name] != want {
			t.Errorf("%s is %v, want %v", name, result[name], want)
		}
	}
	if verdict := result["verdict"].(map[string]any); verdict["ok"] != true || result["delivered"] == 0.0 {
		t.Errorf("%v", result)
	}
	if floor, has := result["figures"].(map[string]any)["sequential_per_second"]; has {
		t.Errorf("20 endpoints have the floor of a single one: %v", floor)
	}
	if text, err := os.ReadFile(page); err != nil || !bytes.Contains(text, []byte(">relay</h2>")) {
		t.Errorf("the page: %v", err)
	}
	mustBeEmpty(t, temp)
}

func TestTheBenchMeasuresTheSequentialFloorOfARelayWithOneEndpointOnly(t *testing.T) {
	for args, want := range map[string]bool{"relay --endpoints 1": true, "fanout --endpoints 1": false} {
		status, stdout, stderr, temp := asBench(t, t.Context(), append(strings.Fields(args), "--duration", "100ms", "--json", "-")...)
		if status != exitDone {
			t.Fatalf("%s: exit status %d\n%s%s", args, status, stdout, stderr)
		}
		var result struct {
			Delivered float64 `json:"delivered_per_second"`
			Figures   struct {
				PerSecond *float64 `json:"sequential_per_second"`
				Ratio     *float64 `json:"sequential_ratio"`
			}
			Floors []struct{ Sequential float64 }
		}
		if err := json.Unmarshal([]byte(stdout), &result); err != nil {
			t.Fatal(err)
		}
		if len(result.Floors) != 2 || (result.Floors[0].Sequential > 0) != want || (result.Floors[1].Sequential > 0) != want {
			t.Errorf("%s: the floors are %+v", args, result.Floors)
		}
		f := result.Figures
		if (f.PerSecond != nil) != want || (f.Ratio != nil) != want {
			t.Errorf("%s: %+v", args, f)
		} else if want && (*f.PerSecond <= 0 || *f.Ratio <= 0 || *f.Ratio != result.Delivered / *f.PerSecond) {
			t.Errorf("%s: %v of %v is %v", args, result.Delivered, *f.PerSecond, *f.Ratio)
		}
		mustBeEmpty(t, temp)
	}
}

func TestTheBenchOfLatencyRunsAtAGivenRate(t *testing.T) {
	status, stdout, stderr, temp := asBench(t, t.Context(), "latency", "--endpoints", "5", "--duration", "400ms", "--rate", "200", "--json", "-")
	if status != exitDone {
		t.Fatalf("exit status %d\n%s%s", status, stdout, stderr)
	}
	var result struct {
		Offered int64
		Figures struct{ Rates []struct{ Rate float64 } }
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || result.Offered != 80 || len(result.Figures.Rates) != 1 || result.Figures.Rates[0].Rate != 200 {
		t.Errorf("%+v %v\n%s", result, err, stdout)
	}
	mustBeEmpty(t, temp)
}

func TestAnInterruptedBenchCleansUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	status, _, stderr, temp := asBench(t, ctx, "relay", "--endpoints", "5", "--duration", "1h")
	if status != exitFailed || !strings.Contains(stderr, "interrupted") {
		t.Errorf("exit status %d: %s", status, stderr)
	}
	mustBeEmpty(t, temp)
}

func mustBeEmpty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left over: %v %v", left, err)
	}
}

func TestAWrongUseOfTheBenchIsSaid(t *testing.T) {
	for args, want := range map[string]string{
		"nothing":                              `there is no scenario "nothing"; there are relay, `,
		"relay --payload 10":                   "--payload must be 256 to 1048576 bytes",
		"relay --batch -3":                     "expected",
		"relay --batch=-3":                     "--batch must be 1 to 10000",
		"relay --batch 10000 --payload 10000":  "--batch times --payload must be at most",
		"relay --duration 1ms":                 "--duration must be 100ms to ",
		"relay --endpoints=-1":                 "--endpoints must be 0 to ",
		"relay --rate=-1":                      "--rate must be ",
		"relay --rate 10 --duration 1s":        "--rate times --duration must be at least one post",
		"relay --target http://127.0.0.1:1":    "--target needs --admin-key",
		"relay --target ftp://x --admin-key=k": "--target is the URL of a relay",
	} {
		o := runCommand("", append([]string{"bench"}, strings.Fields(args)...)...)
		if o.status != exitUsage || !strings.Contains(o.stderr, want) {
			t.Errorf("%s: exit status %d: %s", args, o.status, o.stderr)
		}
	}
	runCommand("", "bench", "list").check(t, exitDone, "relay: how many events a second")
}

func TestABenchOfATargetThatIsNotThereFails(t *testing.T) {
	o := runCommand("", "bench", "relay", "--target", "http://"+freeAddress(t), "--admin-key", "0123456789abcdef", "--endpoints", "1")
	if o.status != exitFailed || !strings.Contains(o.stderr, "connection refused") {
		t.Errorf("exit status %d: %s", o.status, o.stderr)
	}
}
