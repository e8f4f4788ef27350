package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// soakShare is the part of what the relay can that a soak sends, without --rate.
const soakShare = 0.3

func soakScenario() Scenario {
	return Scenario{
		Name:    "soak",
		Summary: "whether memory, goroutines, open files and disk stay flat under a moderate load",
		Explain: `
For --duration an open loop sends 0.3 of what a short closed loop before it came to, or --rate; an hour says
more than the minute that it takes unless told otherwise. The relay's /metrics give its memory, goroutines
and open files, the data folder the disk it uses. figures.slopes has a straight line through the samples of
each, without the first third, in which a process grows into its work: how much it grows an hour, and whether
that is flat: over the time that was measured less than a tenth of the mean, or less than what these figures
go up and down by anyway.`,
		Defaults: Options{Endpoints: 100, Duration: time.Minute},
		Run:      runSoak,
	}
}

// soakSample is how the relay stands at a moment. What is not known is 0.
type soakSample struct {
	AtS         float64 `json:"at_s"`
	RSSMiB      float64 `json:"rss_mib"`
	Goroutines  float64 `json:"goroutines"`
	OpenFiles   float64 `json:"open_files"`
	DiskMiB     float64 `json:"disk_mib"`
	Outstanding int64   `json:"outstanding"`
}

// soakSeries are what is watched, each with what it goes up and down by anyway.
var soakSeries = []struct {
	name  string
	noise float64
	of    func(*soakSample) float64
}{
	{"rss_mib", 16, func(s *soakSample) float64 { return s.RSSMiB }},
	{"goroutines", 50, func(s *soakSample) float64 { return s.Goroutines }},
	{"open_files", 50, func(s *soakSample) float64 { return s.OpenFiles }},
	{"disk_mib", 64, func(s *soakSample) float64 { return s.DiskMiB }},
}

// slope is a straight line through a series.
type slope struct {
	Name string  `json:"name"`
	Mean float64 `json:"mean"`
	Max  float64 `json:"max"`
	// PerHour is how much it grows, Grown how much it did over the samples.
	PerHour float64 `json:"per_hour"`
	Grown   float64 `json:"grown"`
	Flat    bool    `json:"flat"`
}

func runSoak(ctx context.Context, r *Run) (out *Result, err error) {
	rig, err := r.NewRig(ctx, RigConfig{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	before, err := rig.Floors(ctx)
	if err != nil {
		return nil, err
	}
	rate := r.Options.Rate
	d := min(max(r.Options.Duration/10, 500*time.Millisecond), 5*time.Second)
	full, err := rig.Phase(ctx, "warm-up", func(ctx context.Context) (*Load, error) { return rig.Producers.Closed(ctx, d) })
	if err != nil {
		return nil, err
	}
	if rate == 0 {
		rate = soakShare * perSecond(full.Measure.Delivered(), full.Measure.Took())
	}
	if rate == 0 {
		return nil, errNothing
	}
	var samples []soakSample
	p, err := rig.Phase(ctx, fmt.Sprintf("open loop of %s/s", count(rate)), func(ctx context.Context) (*Load, error) {
		stop := rig.sampleSoak(ctx, &samples)
		defer stop()
		return rig.Producers.Open(ctx, rig.Posts(Constant(rate, r.Options.Duration)))
	})
	if err != nil {
		return nil, err
	}
	after, err := rig.Floors(ctx)
	if err != nil {
		return nil, err
	}
	if err := rig.Settle(); err != nil {
		return nil, err
	}
	out = soakResult(rig.Result(p, before.mean(after)), samples)
	out.Figures["rate"], out.Figures["saturated"] = rate, p.Saturated(rate)
	if p.Saturated(rate) {
		out.Verdict.remark("saturated: %s events a second were not kept up with", count(rate))
	}
	return out, nil
}

// sampleSoak takes up to 500 samples until stop is called.
func (r *Rig) sampleSoak(ctx context.Context, samples *[]soakSample) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	start, every := time.Now(), max(r.run.Options.Duration/500, 100*time.Millisecond)
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1; pause(ctx, time.Until(start.Add(time.Duration(n)*every))); n++ {
			s := r.soakSample()
			s.AtS = time.Since(start).Seconds()
			*samples = append(*samples, s)
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

func (r *Rig) soakSample() soakSample {
	s := soakSample{Outstanding: r.Judge.Expected() - r.Judge.Arrived()}
	if text, err := r.Relay.Metrics(); err == nil { // one that does not answer in time leaves a gap
		s.RSSMiB = gauge(text, "process_resident_memory_bytes") / (1 << 20)
		s.Goroutines, s.OpenFiles = gauge(text, "go_goroutines"), gauge(text, "process_open_fds")
	}
	if r.Relay.Program != nil {
		s.DiskMiB = float64(diskUse(r.dir)) / (1 << 20)
	}
	return s
}

// Metrics are the relay's, as Prometheus reads them.
func (r *Relay) Metrics() ([]byte, error) {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.SetRequestURI(map[bool]string{false: "http://", true: "https://"}[r.TLS] + r.Address + "/metrics")
	req.Header.Set(fasthttp.HeaderAuthorization, "Bearer "+r.Key)
	if err := r.client.DoTimeout(req, resp, 5*time.Second); err != nil {
		return nil, fmt.Errorf("GET /metrics: %w", err)
	}
	if status := resp.StatusCode(); status != fasthttp.StatusOK {
		return nil, fmt.Errorf("GET /metrics: status %d", status)
	}
	return bytes.Clone(resp.Body()), nil
}

// gauge reads one without labels; 0 if it is not there.
func gauge(text []byte, name string) float64 {
	for line := range bytes.Lines(text) {
		if rest, found := bytes.CutPrefix(line, []byte(name+" ")); found {
			v, _ := strconv.ParseFloat(string(bytes.TrimSpace(rest)), 64)
			return v
		}
	}
	return 0
}

// diskUse is the size of all files of a folder; those that go away meanwhile count for nothing.
func diskUse(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			sum += info.Size()
		}
		return nil
	})
	return sum
}

// slopes draws the lines, without the first third; a series that is not known has none.
func slopes(samples []soakSample) (all []slope) {
	samples = samples[len(samples)/3:]
	if len(samples) < 3 {
		return nil
	}
	n := float64(len(samples))
	for _, series := range soakSeries {
		var meanX, meanY, xx, xy float64
		s := slope{Name: series.name}
		for i := range samples {
			meanX += samples[i].AtS / n
			meanY += series.of(&samples[i]) / n
			s.Max = max(s.Max, series.of(&samples[i]))
		}
		for i := range samples {
			x := samples[i].AtS - meanX
			xx += x * x
			xy += x * (series.of(&samples[i]) - meanY)
		}
		if s.Max == 0 || xx == 0 {
			continue
		}
		perSecond := xy / xx
		s.Mean, s.PerHour, s.Grown = meanY, perSecond*3600, perSecond*(samples[len(samples)-1].AtS-samples[0].AtS)
		s.Flat = math.Abs(s.Grown) < max(meanY/10, series.noise)
		all = append(all, s)
	}
	return all
}

func soakResult(out *Result, samples []soakSample) *Result {
	lines := slopes(samples)
	out.Figures["samples"], out.Figures["slopes"] = samples, lines
	var table strings.Builder
	fmt.Fprintf(&table, "%-12s %10s %10s %12s %14s  %s\n", "SOAK", "MEAN", "MAX", "GROWN", "AN HOUR", "")
	for _, s := range lines {
		word := "flat"
		if !s.Flat {
			word = "not flat"
			out.Verdict.remark("%s is not flat: it changed by %.0f in %.0f s, from a mean of %.0f", s.Name, s.Grown, samples[len(samples)-1].AtS*2/3, s.Mean)
		}
		fmt.Fprintf(&table, "%-12s %10.0f %10.0f %+12.1f %+14.0f  %s\n", s.Name, s.Mean, s.Max, s.Grown, s.PerHour, word)
	}
	if len(lines) == 0 {
		out.Verdict.remark("too short to tell what is flat")
	}
	out.Tables = append(out.Tables, table.String())
	return out
}
