package main

import (
	"strings"
	"testing"
	"time"
)

func TestAMomentIsATimeOrHowLongAgoItWas(t *testing.T) {
	var m moment
	if err := m.UnmarshalText([]byte("2026-03-02T10:30:00+01:00")); err != nil || m.text() != "2026-03-02T09:30:00Z" {
		t.Errorf("%v, %v", m, err)
	}
	for text, want := range map[string]time.Duration{"2h": 2 * time.Hour, "3d": 72 * time.Hour, "1d12h": 36 * time.Hour, "0s": 0} {
		if err := m.UnmarshalText([]byte(text)); err != nil || time.Since(m.Time) < want || time.Since(m.Time) > want+time.Minute {
			t.Errorf("%s: %v, %v", text, m, err)
		}
	}
	for _, text := range []string{"", "yesterday", "-2h", "2026-03-02", "d"} {
		if err := m.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "how long ago") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestATimeIsShownWithItsDistance(t *testing.T) {
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0:                              "2026-03-02T10:00:00Z (now)",
		-12 * time.Second:              "2026-03-02T09:59:48Z (12s ago)",
		-185 * time.Second:             "2026-03-02T09:56:55Z (3m 5s ago)",
		-50 * time.Hour:                "2026-02-28T08:00:00Z (2d 2h ago)",
		90 * time.Minute:               "2026-03-02T11:30:00Z (in 1h 30m)",
		59*time.Second + 900*1_000_000: "2026-03-02T10:00:59Z (in 1m 0s)",
	} {
		if got := when(now.Add(d), now); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
