package staffetta_test

import (
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta"
)

func TestEveryStatusIsDecidedByTheEndpointsRuleOfSuccess(t *testing.T) {
	policy := staffetta.DefaultPolicy()
	for status := 100; status <= 599; status++ {
		for success, accepted := range map[staffetta.Success]bool{
			staffetta.SuccessOK:  status == 200,
			staffetta.Success2xx: status >= 200 && status < 300,
			"":                   status == 200,
		} {
			want := staffetta.Verdict{Action: staffetta.Retry, Wait: 30 * time.Second, Counts: true}
			if accepted {
				want = staffetta.Verdict{Action: staffetta.Deliver}
			}
			if got := policy.Decide(staffetta.Outcome{Status: status}, success, 1); got != want {
				t.Errorf("status %d with success %q: %+v, want %+v", status, success, got, want)
			}
		}
	}
}

func TestEveryKindOfErrorButOurOwnFaultIsTheEndpointsFailure(t *testing.T) {
	policy := staffetta.DefaultPolicy()
	for _, kind := range staffetta.ErrorKinds() {
		want := staffetta.Verdict{Action: staffetta.Retry, Wait: 30 * time.Second, Counts: true}
		switch kind {
		case staffetta.ErrorNone:
			want = staffetta.Verdict{Action: staffetta.Deliver}
		case staffetta.ErrorLocal:
			want = staffetta.Verdict{Action: staffetta.Again, Wait: time.Second}
		case staffetta.ErrorHeld:
			want = staffetta.Verdict{Action: staffetta.Drop}
		case staffetta.ErrorTimeout, staffetta.ErrorRefused, staffetta.ErrorReset, staffetta.ErrorTLS,
			staffetta.ErrorDNS, staffetta.ErrorForbidden, staffetta.ErrorProtocol, staffetta.ErrorTarget:
		default:
			t.Errorf("the kind %v has no line in this table", kind)
		}
		if got := policy.Decide(staffetta.Outcome{Status: 200, Error: kind}, staffetta.SuccessOK, 1); got != want {
			t.Errorf("%v: %+v, want %+v", kind, got, want)
		}
		if kind != staffetta.ErrorNone && kind.String() == "" {
			t.Errorf("kind %d has no name", kind)
		}
	}
}

func TestAFailedEventIsRetriedAfter30And60And90SecondsAndThenDropped(t *testing.T) {
	policy := staffetta.DefaultPolicy()
	if policy.Attempts() != 4 || policy.Deadline != 5*time.Second {
		t.Errorf("%d attempts of %v, want 4 of 5s", policy.Attempts(), policy.Deadline)
	}
	failed := staffetta.Outcome{Status: 503}
	for n, want := range map[int]staffetta.Verdict{
		1: {Action: staffetta.Retry, Wait: 30 * time.Second, Counts: true},
		2: {Action: staffetta.Retry, Wait: 60 * time.Second, Counts: true},
		3: {Action: staffetta.Retry, Wait: 90 * time.Second, Counts: true},
		4: {Action: staffetta.Drop, Counts: true},
		5: {Action: staffetta.Drop, Counts: true}, // a schedule that was shortened meanwhile
	} {
		if got := policy.Decide(failed, staffetta.SuccessOK, n); got != want {
			t.Errorf("attempt %d: %+v, want %+v", n, got, want)
		}
	}
	none := policy
	none.Retry = nil
	if got := none.Decide(failed, staffetta.SuccessOK, 1); got.Action != staffetta.Drop {
		t.Errorf("without retries the first failure leads to %v", got.Action)
	}
}

func TestAPolicyOutsideItsBoundsIsRefused(t *testing.T) {
	if err := staffetta.DefaultPolicy().Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*staffetta.Policy){
		"no deadline":       func(p *staffetta.Policy) { p.Deadline = 0 },
		"endless deadline":  func(p *staffetta.Policy) { p.Deadline = time.Hour },
		"negative wait":     func(p *staffetta.Policy) { p.Retry = []time.Duration{-1} },
		"wait of two days":  func(p *staffetta.Policy) { p.Retry = []time.Duration{48 * time.Hour} },
		"too many waits":    func(p *staffetta.Policy) { p.Retry = make([]time.Duration, 101) },
		"local retry of 0s": func(p *staffetta.Policy) { p.LocalRetry = 0 },
	} {
		p := staffetta.DefaultPolicy()
		change(&p)
		if p.Validate() == nil {
			t.Errorf("%s passes", name)
		}
	}
}

func TestAnOutcomeReadsAsOneLine(t *testing.T) {
	for want, o := range map[string]staffetta.Outcome{
		"status 503":                {Status: 503},
		"timeout":                   {Error: staffetta.ErrorTimeout},
		"dns: no such name":         {Error: staffetta.ErrorDNS, Detail: "no such name"},
		"forbidden_address: a loop": {Error: staffetta.ErrorForbidden, Detail: "a loop"},
	} {
		if got := o.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := staffetta.ErrorKind(200).String() + staffetta.Action(200).String(); got != "unknownunknown" {
		t.Errorf("what does not exist reads %q", got)
	}
}
