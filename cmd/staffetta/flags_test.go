package main

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

// parseRelay reads a command line of staffetta relay.
func parseRelay(t *testing.T, args ...string) (*relayCommand, error) {
	t.Helper()
	var line struct {
		Config kong.ConfigFlag
		Relay  relayCommand `cmd:""`
	}
	parser, err := kong.New(&line, kong.DefaultEnvars("STAFFETTA"), kong.Configuration(loadYAML), kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(append([]string{"relay"}, args...))
	return &line.Relay, err
}

func writeYAML(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheDefaultsAreThePlatformsRules(t *testing.T) {
	c, err := parseRelay(t)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:8080" || c.Deadline != 5*time.Second || c.MinPlan != "advanced" || c.Shards != 16 ||
		len(c.Retry) != 3 || c.Retry[0] != 30*time.Second || c.Retry[1] != time.Minute || c.Retry[2] != 90*time.Second {
		t.Errorf("the defaults are %+v", c)
	}
	if c.AllowPrivateNetworks.Check(netip.MustParseAddr("127.0.0.1")) == nil {
		t.Error("loopback is allowed by default")
	}
}

func TestAFlagComesBeforeTheEnvironmentAndThatBeforeTheFile(t *testing.T) {
	file := writeYAML(t, "deadline: 1s\nshards: 8\nretry: [1s, 2s]\nallow_private_networks: true\n")
	t.Setenv("STAFFETTA_SHARDS", "16")
	t.Setenv("STAFFETTA_DEADLINE", "2s")
	c, err := parseRelay(t, "--config", file, "--deadline", "3s")
	if err != nil {
		t.Fatal(err)
	}
	if c.Deadline != 3*time.Second || c.Shards != 16 || len(c.Retry) != 2 || !c.AllowPrivateNetworks.AllowAll {
		t.Errorf("got %+v", c)
	}
}

func TestAConfigurationFileWithAFaultIsRefused(t *testing.T) {
	for text, reason := range map[string]string{
		"dead_line: 5s\n":   "dead_line",
		"deadline: [\n":     "configuration",
		"deadline: never\n": "never",
		"- deadline\n":      "configuration",
	} {
		if _, err := parseRelay(t, "--config", writeYAML(t, text)); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: %v, want a reason with %q", text, err, reason)
		}
	}
}

func TestPrivateNetworksAreAllowedAllOrByList(t *testing.T) {
	loopback, private := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.1.2.3")
	for arg, allowed := range map[string][2]bool{
		"--allow-private-networks":                       {true, true},
		"--allow-private-networks=true":                  {true, true},
		"--allow-private-networks=false":                 {false, false},
		"--allow-private-networks=10.0.0.0/8":            {false, true},
		"--allow-private-networks=10.1.2.3,127.0.0.0/16": {true, true},
	} {
		c, err := parseRelay(t, arg)
		if err != nil {
			t.Errorf("%s: %v", arg, err)
			continue
		}
		g := c.AllowPrivateNetworks
		if got := [2]bool{g.Check(loopback) == nil, g.Check(private) == nil}; got != allowed {
			t.Errorf("%s allows loopback and 10.1.2.3: %v, want %v", arg, got, allowed)
		}
	}
	if _, err := parseRelay(t, "--allow-private-networks=everything"); err == nil {
		t.Error("a list that is none passes")
	}
}

func TestACatalogueIsAListOfNamesOrOfNamesAndTitles(t *testing.T) {
	c, err := loadCatalogue(writeYAML(t, "- order.paid\n- {name: order.shipped, title: Order Shipped}\n"))
	if err != nil {
		t.Fatal(err)
	}
	types := c.Types()
	if len(types) != 2 || types[0].Name != "order.paid" || types[1].Title != "Order Shipped" || c.Has("message.sent") {
		t.Errorf("got %+v", types)
	}
	if c, err = loadCatalogue(""); err != nil || !c.Has("call.ended") {
		t.Errorf("without a file: %+v, %v", c, err)
	}
	for _, text := range []string{"", "a: b\n", "- a\n- a\n", "- {nam: a}\n", "- [a]\n", "- 'a b'\n"} {
		if _, err := loadCatalogue(writeYAML(t, text)); err == nil || !strings.Contains(err.Error(), "event types") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := loadCatalogue(filepath.Join(t.TempDir(), "none.yaml")); err == nil {
		t.Error("a missing file passes")
	}
}

func TestAWrongValueOfARelaysFlagIsWrongUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--deadline", "0s"},
		{"--retry", "-1s"},
		{"--shards", "0"},
		{"--min-plan", "gold"},
		{"--log-level", "loud"},
		{"--nope"},
	} {
		var out, errs bytes.Buffer
		args = append([]string{"relay", "--data", t.TempDir()}, args...)
		if status := run(context.Background(), args, nil, &out, &errs); status != exitUsage {
			t.Errorf("%v: status %d, %s", args, status, errs.String())
		}
	}
}
