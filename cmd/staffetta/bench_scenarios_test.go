package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// shortScenarios are the smallest runs that still do everything, each with the figures that it must
// have above 0.
var shortScenarios = []struct {
	args    string
	long    bool
	figures []string
}{
	{"fanout --endpoints 10 --duration 400ms", false, []string{"fan", "events_per_second", "copies_per_second"}},
	{"isolation --endpoints 10 --duration 300ms", true, []string{"kept", "bad_endpoints"}},
	{"outage --endpoints 10 --duration 600ms", true, []string{"catch_up", "catch_up_per_second", "live_per_second", "waited", "first_ms"}},
	{"crash --endpoints 10 --duration 1s", false, []string{"kills", "ready_ms_max", "first_delivery_ms_max", "seed"}},
	{"backlog --endpoints 20 --duration 100ms --batch 20", false, []string{"waiting", "catch_up", "restart_ms", "drain_per_second", "live_per_second"}},
	{"idle --endpoints 50 --duration 200ms", true, []string{"rss_mb"}},
	{"soak --endpoints 5 --duration 1s --rate 500 --batch 10", false, []string{"rate"}},
}

func TestEveryScenarioLosesNothingAndSaysAll(t *testing.T) {
	for _, scenario := range shortScenarios {
		args := append(strings.Fields(scenario.args), "--json", "-")
		t.Run(args[0], func(t *testing.T) {
			if scenario.long && testing.Short() {
				t.Skip("takes seconds")
			}
			status, stdout, stderr, temp := asBench(t, t.Context(), args...)
			if status != exitDone {
				t.Fatalf("exit status %d\n%s%s", status, stdout, stderr)
			}
			var result map[string]any
			if err := json.Unmarshal([]byte(stdout), &result); err != nil {
				t.Fatal(err)
			}
			for name, kind := range benchFields {
				if !isA(kind, result[name]) {
					t.Errorf("%s is %v, want a %s", name, result[name], kind)
				}
			}
			want := map[string]any{"scenario": args[0], "lost": 0.0, "out_of_order": 0.0, "accepted": result["offered"]}
			if args[0] != "crash" { // which repeats
				want["duplicated"] = 0.0
			}
			if args[0] != "fanout" {
				want["delivered"] = result["accepted"]
			}
			for name, want := range want {
				if result[name] != want {
					t.Errorf("%s is %v, want %v", name, result[name], want)
				}
			}
			if verdict := result["verdict"].(map[string]any); verdict["ok"] != true || result["delivered"] == 0.0 {
				t.Errorf("%v of %v", verdict, result["delivered"])
			}
			figures := result["figures"].(map[string]any)
			for _, name := range scenario.figures {
				if v, ok := figures[name].(float64); !ok || v <= 0 {
					t.Errorf("figures.%s is %v", name, figures[name])
				}
			}
			mustBeEmpty(t, temp)
		})
	}
}

func TestAScenarioThatCannotBeSaysSo(t *testing.T) {
	for args, want := range map[string]string{
		"isolation --endpoints 1":                              "--endpoints must be at least 2",
		"crash --target http://127.0.0.1:1 --admin-key=secret": "it has no --target",
		"idle --target http://127.0.0.1:1 --admin-key=secret":  "it has no --target",
	} {
		o := runCommand("", append([]string{"bench"}, strings.Fields(args)...)...)
		if o.status != exitUsage || !strings.Contains(o.stderr, want) {
			t.Errorf("%s: exit status %d: %s", args, o.status, o.stderr)
		}
	}
}
