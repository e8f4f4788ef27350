package staffetta_test

import (
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta"
)

func TestABackoffDoublesUpToItsMaximumAndChanceOnlyShortensIt(t *testing.T) {
	b := staffetta.DefaultBackoff()
	for n, want := range map[int]time.Duration{
		1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 9: 256 * time.Second, 10: 5 * time.Minute, 1000: 5 * time.Minute,
	} {
		if got := b.Wait(n, 0); got != want {
			t.Errorf("after failure %d: %s, want %s", n, got, want)
		}
		if got := b.Wait(n, 0.999); got < want*79/100 || got > want*81/100 {
			t.Errorf("after failure %d at the end of the jitter: %s, want about four fifths of %s", n, got, want)
		}
	}
}

func TestAnEventIsTriedForAsLongAsItsBackoffSays(t *testing.T) {
	b := staffetta.DefaultBackoff()
	refused := staffetta.Outcome{Error: staffetta.ErrorRefused}
	for _, c := range []struct {
		name           string
		outcome        staffetta.Outcome
		failing, asked time.Duration
		want           staffetta.Verdict
	}{
		{"the first failure", refused, 0, 0, staffetta.Verdict{Action: staffetta.Retry, Wait: time.Second, Counts: true}},
		{"a status", staffetta.Outcome{Status: 500}, 23 * time.Hour, 0, staffetta.Verdict{Action: staffetta.Retry, Wait: time.Second, Counts: true}},
		{"asked to wait longer", staffetta.Outcome{Status: 429}, 0, time.Minute, staffetta.Verdict{Action: staffetta.Retry, Wait: time.Minute, Counts: true}},
		{"asked to wait less", staffetta.Outcome{Status: 429}, 0, time.Millisecond, staffetta.Verdict{Action: staffetta.Retry, Wait: time.Second, Counts: true}},
		{"a day", refused, 24 * time.Hour, 0, staffetta.Verdict{Action: staffetta.Drop, Counts: true}},
		{"our own fault", staffetta.Outcome{Error: staffetta.ErrorLocal}, 25 * time.Hour, 0, staffetta.Verdict{Action: staffetta.Again, Wait: time.Second}},
		{"too old", staffetta.Outcome{Error: staffetta.ErrorHeld}, 0, 0, staffetta.Verdict{Action: staffetta.Drop}},
	} {
		if got := b.Decide(c.outcome, 1, c.failing, c.asked, 0); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
	b.For = 0
	if got := b.Decide(refused, 1, 0, 0, 0); got.Action != staffetta.Drop {
		t.Errorf("tried once: %+v", got)
	}
}

func TestABackoffThatCannotBeIsRefused(t *testing.T) {
	good := staffetta.DefaultBackoff()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*staffetta.Backoff){
		"no first wait":      func(b *staffetta.Backoff) { b.First = 0 },
		"a maximum below it": func(b *staffetta.Backoff) { b.Max = b.First - 1 },
		"a negative time":    func(b *staffetta.Backoff) { b.For = -1 },
		"more than a whole":  func(b *staffetta.Backoff) { b.Jitter = 1.1 },
	} {
		b := good
		change(&b)
		if b.Validate() == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
