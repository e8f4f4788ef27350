package main

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// ageFlag is a duration that may have days before the rest: 30d, 1d12h, 72h.
type ageFlag time.Duration

// UnmarshalText reads it.
func (f *ageFlag) UnmarshalText(text []byte) error {
	const example = "a duration such as 30d, 36h or 1d12h is expected"
	rest, days := string(text), time.Duration(0)
	if before, after, found := strings.Cut(rest, "d"); found {
		n, err := strconv.ParseUint(before, 10, 16)
		if err != nil {
			return errors.New(example)
		}
		days, rest = time.Duration(n)*24*time.Hour, after
	}
	if rest == "" && days > 0 {
		*f = ageFlag(days)
		return nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 {
		return errors.New(example)
	}
	*f = ageFlag(days + d)
	return nil
}
