package bench

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// How the scenario endpoint looks for the highest rate.
const (
	endpointFirst     = 10.0 // events a second of the first step
	endpointLeast     = 0.5  // below it the search gives up
	endpointClose     = 1.15 // the search ends when what is too much is not more than this times what is not
	endpointMostSteps = 24
	remoteMost        = 200.0 // --max-rate unless told otherwise, for another machine
	localMost         = 20_000.0
)

func endpointScenario() Scenario {
	return Scenario{
		Name:    "endpoint",
		Summary: "how many webhooks a second a URL answers with 200 in time, and whether the platform's quota would spare it",
		Explain: `
Signed webhooks as the relay sends them, with all its headers, go to --target, which verifies them with
--signing-key (base64, with or without whsec_). First one at a time, as a relay does that keeps the order,
until three have failed. Then open loops: 10 a second, twice as many as long as every answer is 200 within 5 s,
then what lies between, each step --duration long; with --rate that rate, and lower ones if it is too much. A
step is well only without a single failure, because a few are many in half an hour. The result says what the
highest rate means for the quota of more than 30 failures in 30 minutes, after which a platform disables the
webhook. Nothing is sent twice. The events have ids of their own and contacts from 100000000 on: use an
endpoint where they do no harm. A target that is not on this machine needs --confirm-remote, and gets at most
--max-rate events a second (200). Without --target it measures an endpoint of the bench's own. The JSON's common figures are those of the highest rate, and figures.steps has all.`,
		Defaults: Options{Duration: 3 * time.Second, Batch: 1},
		Check:    checkEndpoint,
		Run:      runEndpoint,
	}
}

// checkEndpoint refuses what must not, or cannot, be measured.
func checkEndpoint(o Options) error {
	if o.Target == "" {
		return nil
	}
	u, err := url.Parse(o.Target)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Fragment != "" {
		return UsageError("--target is the URL of a webhook, such as http://127.0.0.1:8090/hooks/respond, without a user and a fragment")
	}
	if o.SigningKey == "" {
		return UsageError("--target needs --signing-key: the key that the endpoint verifies webhooks with")
	}
	if err := staffetta.ValidateSigningKey(bareKey(o.SigningKey)); err != nil {
		return UsageError("--signing-key: " + err.Error())
	}
	if !onThisMachine(u.Hostname()) && !o.ConfirmRemote {
		return UsageError("--target " + u.Host + " is not on this machine: load on it needs --confirm-remote, which says that the endpoint is yours or its owner agrees")
	}
	if o.MaxRate > 0 && o.Rate > o.MaxRate {
		return UsageError("--rate is above --max-rate")
	}
	return nil
}

// bareKey is a key without the mark of Standard Webhooks.
func bareKey(key string) string { return strings.TrimPrefix(key, "whsec_") }

// onThisMachine says that a host is the loopback.
func onThisMachine(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// search looks for the highest rate that an endpoint is well at.
type search struct {
	run    *Run
	probe  *probe
	most   float64
	steps  []*Step
	good   *Step   // the highest that was well
	bad    float64 // the lowest that was not; 0: none yet
	capped bool    // the rate was not raised further although all was well
}

func runEndpoint(ctx context.Context, r *Run) (out *Result, err error) {
	target, key, most := r.Options.Target, bareKey(r.Options.SigningKey), r.Options.MaxRate
	if target == "" {
		sink, err := NewSink(SinkConfig{Endpoints: 1})
		if err != nil {
			return nil, err
		}
		defer sink.Close()
		target, key = sink.URL(0), staffetta.NewSigningKey()
		sink.SetKey(0, key)
	}
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("read the target: %w", err)
	}
	if most == 0 {
		if most = remoteMost; onThisMachine(u.Hostname()) {
			most = localMost
		}
	}
	s := &search{run: r, most: most}
	if s.probe, err = newProbe(u, key, r.Options.Payload); err != nil {
		return nil, err
	}
	defer s.probe.close()
	alone, err := s.step(ctx, 0)
	if err != nil {
		return nil, err
	}
	if alone.OK > 0 {
		if err := s.search(ctx); err != nil {
			return nil, err
		}
	}
	return s.result(alone), nil
}

// step sends at a rate, and notes how it went; 0 is one at a time.
func (s *search) step(ctx context.Context, rate float64) (*Step, error) {
	name := "one at a time"
	if rate > 0 {
		name = number(rate) + "/s"
	}
	d := s.run.Options.Duration
	if rate > 0 {
		d = max(d, time.Duration(1/rate*float64(time.Second)+1)) // at least one
	}
	shown := s.run.Terminal.Watch(func() string { return name + ": " + s.probe.progress() })
	step, record, err := s.probe.step(ctx, rate, s.most, d)
	shown()
	if err != nil {
		return nil, err
	}
	record.Name = name
	s.run.records.phases = append(s.run.records.phases, record)
	s.steps = append(s.steps, step)
	s.run.Terminal.Say("%s: %s of %s answered 200 in time, p99 %s ms%s", name, count(step.OK), count(step.Sent), ms(step.LatencyMS.P99), step.errorText())
	if step.OK < step.Sent { // let it recover
		pause(ctx, min(d, 2*time.Second))
	}
	return step, ctx.Err()
}

// search doubles, then halves what lies between.
func (s *search) search(ctx context.Context) error {
	rate := min(first(s.run.Options.Rate, endpointFirst), s.most)
	for range endpointMostSteps {
		step, err := s.step(ctx, rate)
		if err != nil {
			return err
		}
		if step.OK == step.Sent {
			s.good = step
			if s.capped = s.bad == 0 && (rate >= s.most || s.run.Options.Rate > 0); s.capped {
				return nil
			}
		} else {
			s.bad = rate
		}
		switch {
		case s.bad == 0:
			rate = min(2*rate, s.most)
		case s.good == nil:
			rate = s.bad / 2
		default:
			rate = (s.good.Rate + s.bad) / 2
		}
		if rate < endpointLeast || s.good != nil && s.bad > 0 && s.bad/s.good.Rate < endpointClose {
			return nil
		}
	}
	return nil
}

// result puts the search into the contract's form.
func (s *search) result(alone *Step) *Result {
	out := s.run.NewResult()
	out.Tables = append(out.Tables, s.table())
	out.Figures["steps"] = s.steps
	out.Figures["max_rate"] = s.most
	out.Figures["one_at_a_time_per_second"] = ratio(float64(alone.OK), alone.TookS)
	best := first(s.good, alone)
	out.Offered, out.Accepted, out.Delivered = best.Sent, best.OK, best.OK
	out.AcceptedPerSecond = ratio(float64(best.OK), best.TookS)
	out.DeliveredPerSecond = out.AcceptedPerSecond
	out.LatencyMS, out.AckMS = best.LatencyMS, best.LatencyMS
	quota := staffetta.DefaultPolicy().Quota
	if s.good == nil {
		out.Figures["highest_rate"] = 0.0
		worst := s.steps[len(s.steps)-1]
		out.Verdict.fail("there is no rate that the endpoint was well at; at the last one it gave:%s", worst.errorText())
		if worst.Errors["status 401"]+worst.Errors["status 403"] > 0 {
			out.Verdict.remark("is --signing-key the one that the endpoint verifies with?")
		}
		return out
	}
	out.Figures["highest_rate"] = s.good.Rate
	out.Figures["highest_rate_is_the_bound"] = s.capped
	survival := survivalOf(s.good, quota)
	out.Figures["quota"] = survival
	at := "up to about %s/s every answer was 200 within 5 s"
	if s.capped {
		at = "at %s/s, the most that was tried, every answer was 200 within 5 s"
	}
	out.Verdict.remark(at, number(s.good.Rate))
	out.Verdict.remark("one at a time, as a relay sends that keeps the order, it took %s/s", number(ratio(float64(alone.OK), alone.TookS)))
	out.Verdict.remark("%s", survival.Text)
	if bad := s.lowestBad(); bad != nil {
		perSecond := float64(bad.Sent-bad.OK) / bad.TookS
		out.Verdict.remark("at %s/s it failed %s times in %.1f s:%s: at that pace the quota of %d failures in %s is used up, and the webhook disabled, after %s",
			number(bad.Rate), count(bad.Sent-bad.OK), bad.TookS, bad.errorText(), quota.Failures, quota.Window,
			time.Duration(float64(quota.Failures+1)/perSecond*float64(time.Second)).Round(time.Second/10))
	}
	return out
}

// lowestBad is the step of the lowest rate above the highest good one that had failures.
func (s *search) lowestBad() (lowest *Step) {
	for _, step := range s.steps {
		if step.Rate > s.good.Rate && step.OK < step.Sent && (lowest == nil || step.Rate < lowest.Rate) {
			lowest = step
		}
	}
	return lowest
}

// Survival says what a step without a failure shows about a quota.
type Survival struct {
	Failures int     `json:"failures"`
	WindowS  float64 `json:"window_s"`
	// AtMost is how many failures a window has at that rate with a probability of 95 %: with none in
	// n webhooks up to three in n are possible.
	AtMost float64 `json:"failures_in_window_at_most"`
	Shown  bool    `json:"survival_shown"`
	Text   string  `json:"text"`
}

func survivalOf(step *Step, quota staffetta.Quota) Survival {
	s := Survival{Failures: quota.Failures, WindowS: quota.Window.Seconds(), AtMost: 3 * quota.Window.Seconds() / step.TookS}
	s.Shown = s.AtMost <= float64(quota.Failures)
	if s.Shown {
		s.Text = fmt.Sprintf("at that rate it would survive the quota of %d failures in %s: %.0f are to be expected at most", quota.Failures, quota.Window, s.AtMost)
	} else {
		enough := time.Duration(3 * s.WindowS / float64(quota.Failures) * float64(time.Second)).Round(time.Second)
		s.Text = fmt.Sprintf("no failure was seen at that rate, but %.1f s are too short to show that it survives the quota of %d failures in %s: --rate %.1f --duration %s would",
			step.TookS, quota.Failures, quota.Window, step.Rate, enough+10*time.Second)
	}
	return s
}

func (s *search) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%14s %8s %8s %8s %10s %10s %10s  %s\n", "RATE/S", "SENT", "200", "FAILED", "P50 MS", "P99 MS", "MAX MS", "ERRORS")
	sorted := slices.Clone(s.steps)
	slices.SortStableFunc(sorted, func(a, b *Step) int { return int(1000 * (a.Rate - b.Rate)) })
	for _, step := range sorted {
		rate := "one at a time"
		if step.Rate > 0 {
			rate = fmt.Sprintf("%.1f", step.Rate)
		}
		fmt.Fprintf(&b, "%14s %8s %8s %8s %10s %10s %10s %s\n", rate, count(step.Sent), count(step.OK), count(step.Sent-step.OK),
			ms(step.LatencyMS.P50), ms(step.LatencyMS.P99), ms(step.LatencyMS.Max), step.errorText())
	}
	return b.String()
}
