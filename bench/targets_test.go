package bench

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// atRatios is a result of a relay with such ratios to the direct, the proxy's and the sequential floor.
func atRatios(direct, proxy, sequential float64) *Result {
	r := aRun(10_000, 40_000)
	r.Ratio, r.ProxyRatio = direct, proxy
	r.Figures["sequential_per_second"], r.Figures["sequential_ratio"] = 20_000.0, sequential
	return r
}

func TestAMissedTargetIsARemarkAndAHeldOneIsNone(t *testing.T) {
	for name, c := range map[string]struct {
		batch, endpoints int
		result           *Result
		remark           string // empty: held
	}{
		"direct held":            {100, 100, atRatios(0.5, 0.1, 0.1), ""},
		"direct missed":          {100, 100, atRatios(0.49, 0.9, 0.9), "0.49 of direct; the target is at least 0.50"},
		"direct, 1,000 held":     {100, 1000, atRatios(0.45, 0.1, 0.1), ""},
		"direct, 10,000 missed":  {100, 10_000, atRatios(0.34, 0.9, 0.9), "0.34 of direct; the target is at least 0.35"},
		"proxy held":             {1, 100, atRatios(0.1, 0.6, 0.1), ""},
		"proxy missed":           {1, 100, atRatios(0.9, 0.59, 0.9), "0.59 of proxy; the target is at least 0.60"},
		"proxy, 1,000 missed":    {1, 1000, atRatios(0.9, 0.49, 0.9), "0.49 of proxy; the target is at least 0.50"},
		"proxy, 10,000 held":     {1, 10_000, atRatios(0.1, 0.45, 0.1), ""},
		"sequential held":        {100, 1, atRatios(0.1, 0.1, 0.6), ""},
		"sequential missed":      {1, 1, atRatios(0.9, 0.9, 0.59), "0.59 of sequential; the target is at least 0.60"},
		"sequential, 100 missed": {100, 1, atRatios(0.9, 0.9, 0.25), "0.25 of sequential; the target is at least 0.60"},
	} {
		c.result.hold(c.result.relayTargets(Options{Batch: c.batch}.or(usual), c.endpoints)...)
		list := c.result.targets()
		if len(list) != 1 || list[0].Held != (c.remark == "") {
			t.Errorf("%s: the targets are %v", name, list)
		}
		if v := c.result.Verdict; !v.OK || strings.Join(v.Reasons, "\n") != c.remark {
			t.Errorf("%s: %+v, want the remark %q", name, v, c.remark)
		}
	}
}

func TestATargetIsForItsOwnLoadOnly(t *testing.T) {
	for name, o := range map[string]Options{
		"other events":       {Payload: 2048},
		"other posts":        {Batch: 20},
		"an open loop":       {Rate: 1000},
		"a relay of another": {Target: "http://192.0.2.1"},
	} {
		for _, endpoints := range []int{1, 100} {
			if got := atRatios(0.1, 0.1, 0.1).relayTargets(o.or(usual), endpoints); len(got) > 0 {
				t.Errorf("%s, %d endpoints: %v", name, endpoints, got)
			}
		}
		o.Batch = first(o.Batch, 1)
		if got := latencyTargets(o.or(usual), ratedLatency{}); len(got) > 0 {
			t.Errorf("latency, %s: %v", name, got)
		}
	}
	if got := atRatios(0.1, 0.1, 0.1).relayTargets(usual, 50); len(got) > 0 {
		t.Errorf("50 endpoints: %v", got)
	}
	if got := receiverTargets(Options{Payload: 2048}.or(usual), receiverRow{}); len(got) > 0 {
		t.Errorf("a receiver of other events: %v", got)
	}
}

func TestTheTargetsOfTimesHoldBelowTheirBound(t *testing.T) {
	o := Options{Batch: 1}.or(usual)
	for _, c := range []struct {
		p50, p99 float64
		want     []bool
	}{
		{1.99, 14.9, []bool{true, true}},
		{2, 14.9, []bool{false, true}},
		{1, 15, []bool{true, false}},
		{0, 0, []bool{false, false}}, // nothing was measured
	} {
		r := aRun(1, 1)
		r.hold(latencyTargets(o, ratedLatency{LatencyMS: Quantiles{P50: c.p50, P99: c.p99}})...)
		list := r.targets()
		if len(list) != 2 || list[0].Held != c.want[0] || list[1].Held != c.want[1] || len(r.Verdict.Reasons) != missed(list) || !r.Verdict.OK {
			t.Errorf("%v: %v, %+v", c, list, r.Verdict)
		}
	}
	r := aRun(1, 1)
	r.hold(receiverTargets(o, receiverRow{TargetRatio: powerTarget, Ratio: 0.3, AckMS: Quantiles{P99: 12}})...)
	if want := []string{"12.0 ms answer p99 at half load; the target is below 10 ms"}; !r.Verdict.OK || !slices.Equal(r.Verdict.Reasons, want) {
		t.Errorf("%+v, want %q", r.Verdict, want)
	}
}

func TestASeriesSaysTheTargetsOfAllAndKeepsThemInItsFile(t *testing.T) {
	var all []*Result
	for _, endpoints := range relaySeries {
		one := atRatios(0.4, 0.7, 0.7)
		if endpoints > 1 {
			delete(one.Figures, "sequential_per_second")
			delete(one.Figures, "sequential_ratio")
		}
		one.hold(one.relayTargets(usual, endpoints)...)
		all = append(all, one)
	}
	out := *all[slices.Index(relaySeries, headline)]
	path := filepath.Join(t.TempDir(), "a.json")
	if err := series(&out, all).writeFile(path); err != nil {
		t.Fatal(err)
	}
	read, err := ReadResult(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"100 endpoints: 0.40 of direct; the target is at least 0.50", "1,000 endpoints: 0.40 of direct; the target is at least 0.45"}
	if !read.Verdict.OK || !slices.Equal(read.Verdict.Reasons, want) {
		t.Errorf("%+v, want %q", read.Verdict, want)
	}
	var text, page bytes.Buffer
	if err := read.WriteSummary(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"targets      1 endpoint: 0.70 of sequential (at least 0.60)\n",
		"             100 endpoints: 0.40 of direct (at least 0.50), missed\n",
		"             10,000 endpoints: 0.40 of direct (at least 0.35)\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the summary does not say %q:\n%s", want, &text)
		}
	}
	if err := read.WriteHTML(&page); err != nil || !strings.Contains(page.String(), "2 of 4 held") {
		t.Errorf("the page does not say the targets: %v", err)
	}
	rows := read.Figures["series"].([]any)
	for i, row := range rows {
		if _, has := row.(map[string]any)["sequential_ratio"]; has != (relaySeries[i] == 1) {
			t.Errorf("the row of %d endpoints: %v", relaySeries[i], row)
		}
	}
}
