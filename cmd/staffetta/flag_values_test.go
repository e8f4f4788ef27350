package main

import (
	"testing"
	"time"
)

func TestAnAgeMayHaveDays(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30d": 30 * 24 * time.Hour, "36h": 36 * time.Hour, "1d12h": 36 * time.Hour, "90s": 90 * time.Second, "0s": 0,
		"": -1, "d": -1, "1.5d": -1, "-1d": -1, "-5s": -1, "3": -1, "70000d": -1, "1dx": -1, "0d": -1,
	} {
		var f ageFlag
		if err := f.UnmarshalText([]byte(text)); (err != nil) != (want < 0) || err == nil && time.Duration(f) != want {
			t.Errorf("%q: %v, %v", text, time.Duration(f), err)
		}
	}
}
