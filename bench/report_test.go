package bench

import (
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/valyala/fasthttp"
)

func TestAResultIsReadAsItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.json")
	written := aCharted("relay")
	if err := written.writeFile(path); err != nil {
		t.Fatal(err)
	}
	read, err := ReadResult(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(read, written) {
		t.Errorf("%+v\n%+v", read, written)
	}
	h, err := hdrhistogram.Decode([]byte(read.Phases[0].Latency.HDR))
	if err != nil || h.TotalCount() != 5000 || read.Phases[0].Latency.at(0.5) != float64(h.ValueAtQuantile(50))/1000 {
		t.Errorf("the histogram: %v, %v", err, read.Phases[0].Latency.at(0.5))
	}
}

func TestAFileOfAnotherFormatIsRefusedWithWhatToDo(t *testing.T) {
	for text, want := range map[string]string{
		`{"scenario":"relay","version":"v9","format":2}`: "its format is 2 and this staffetta reads 1: report it with the staffetta that made it (v9)",
		`{"scenario":"relay","version":"v0"}`:            "its format is none",
		`{"name":"x"}`:                                   "it is no result of staffetta bench --json",
		`[1]`:                                            "it is no result",
		`no JSON`:                                        "it is no result",
		`{"scenario":"relay","format":1,"offered":"x"}`: "offered",
	} {
		path := filepath.Join(t.TempDir(), "a.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadResult(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := ReadResult("nowhere.json"); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestAStretchHasOnlyWhatCameInIt(t *testing.T) {
	h := NewHistogram()
	var s stretch
	if s.since(nil) != nil || s.since(h) != nil {
		t.Error("times of nothing")
	}
	h.Record(1, 5*time.Millisecond)
	if got := s.since(h); got == nil || got.P50 < 4.99 || got.P50 > 5.01 {
		t.Errorf("%+v", got)
	}
	h.Record(2, 70*time.Millisecond)
	if got := s.since(h); got == nil || got.P50 < 69.9 || got.Max > 70.1 {
		t.Errorf("%+v", got)
	}
	if got := s.since(h); got != nil {
		t.Errorf("%+v", got)
	}
	other := NewHistogram()
	other.Record(0, time.Second)
	if got := s.since(other); got == nil || got.P99 < 999 {
		t.Errorf("of another histogram: %+v", got)
	}
}

func TestALongTimelineIsDrawnWithFewPointsAndAllItsPeaks(t *testing.T) {
	var r Record
	for i := range 10_000 {
		s := Sample{AtS: float64(i + 1), Delivered: int64(100 * (i + 1)), Recent: Recent{Latency: &Short{P99: 1}}}
		if i == 7321 {
			s.Latency.P99 = 900
		}
		r.Timeline = append(r.Timeline, s)
	}
	rates := r.rates(delivered, 100)
	times := r.times(func(s Sample) (float64, bool) { return s.Latency.P99, true }, 100)
	if len(rates) > 101 || len(times) > 101 {
		t.Errorf("%d and %d points", len(rates), len(times))
	}
	peak := 0.0
	for i := range times {
		peak = max(peak, times[i].value)
		if rates[i].value < 99.9 || rates[i].value > 100.1 {
			t.Fatalf("%+v", rates[i])
		}
	}
	if peak != 900 {
		t.Errorf("the peak is %v", peak)
	}
}

func TestTheSuiteRunsWhatTheCommandLineMakesEqualOnce(t *testing.T) {
	if got := variants("relay", Options{}); len(got) != 4 || got[3].suffix != "-1000-b1" {
		t.Errorf("%+v", got)
	}
	if got := variants("relay", Options{Endpoints: 5}); len(got) != 2 || got[0].Endpoints != 5 || got[1].Batch != 1 {
		t.Errorf("%+v", got)
	}
	if got := variants("latency", Options{Duration: time.Second}); len(got) != 1 || got[0].suffix != "" || got[0].Duration != time.Second {
		t.Errorf("%+v", got)
	}
}

func TestAnErrorOfARequestHasAKindOfWhichThereAreFew(t *testing.T) {
	step := Step{Errors: map[string]int64{"timeout": 2, "status 503": 1}}
	if got := step.errorText(); got != " 1 status 503, 2 timeout" {
		t.Errorf("%q", got)
	}
	for kind, err := range map[string]error{
		"":                   nil,
		"timeout":            fasthttp.ErrTimeout,
		"connection refused": &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED},
		"connection closed":  fasthttp.ErrConnectionClosed,
		"name not found":     &net.DNSError{IsNotFound: true},
		"certificate or TLS": x509.UnknownAuthorityError{},
		"no answer":          errors.New("anything"),
	} {
		if got := kindOf(err); got != kind {
			t.Errorf("%v: %q, want %q", err, got, kind)
		}
	}
}
