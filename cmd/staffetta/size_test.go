package main

import "testing"

func TestASizeIsANumberOfBytesWithOrWithoutAUnit(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1048576": 1 << 20, "9223372036854775807": 1<<63 - 1, "512MiB": 512 << 20, "2GiB": 2 << 30, "2gib": 2 << 30,
		"1.5 GiB": 3 << 29, "64KB": 64_000, "1TB": 1e12, "7B": 7, " 3 MiB ": 3 << 20,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "-1GiB", "1e3", "0x10", "inf", "nan", "1_000", "2Gi", "1.2.3MiB", "9223372036854775808", "9e99TiB", "1 2"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q was taken for %d", text, got)
		}
	}
}
