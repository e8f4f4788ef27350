package main

import (
	"errors"
	"fmt"
	"time"
)

// moment is a flag for a point in time: as RFC 3339 has it, or how long ago it was.
type moment struct{ time.Time }

// UnmarshalText reads it.
func (m *moment) UnmarshalText(text []byte) error {
	if t, err := time.Parse(time.RFC3339, string(text)); err == nil {
		m.Time = t.UTC()
		return nil
	}
	var age ageFlag
	if err := age.UnmarshalText(text); err != nil {
		return errors.New("a time such as 2026-03-02T09:30:00Z is expected, or how long ago it was, such as 2h, 90m or 3d")
	}
	m.Time = time.Now().UTC().Add(-time.Duration(age))
	return nil
}

// text is empty for no time.
func (m moment) text() string {
	if m.IsZero() {
		return ""
	}
	return m.Format(time.RFC3339Nano)
}

// age says a span of time in its two largest units.
func age(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm %ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh %dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd %dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}

// when is a time, and how far from now it is. The clocks of the relay and of this machine may differ.
func when(t, now time.Time) string {
	text := t.UTC().Format(time.RFC3339)
	switch d := now.Sub(t); {
	case d >= time.Second/2:
		return text + " (" + age(d) + " ago)"
	case d <= -time.Second/2:
		return text + " (in " + age(-d) + ")"
	default:
		return text + " (now)"
	}
}
