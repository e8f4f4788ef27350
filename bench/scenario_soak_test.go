package bench

import (
	"math"
	"testing"
)

func TestASlopeTellsGrowthFromNoise(t *testing.T) {
	var samples []soakSample
	for i := range 300 {
		s := soakSample{AtS: float64(i), RSSMiB: 100, Goroutines: 1000 + 10*math.Sin(float64(i)), OpenFiles: 50}
		if i < 100 {
			s.RSSMiB = float64(i) // it grows into its work
		}
		if i >= 100 {
			s.OpenFiles += float64(i - 100)
		}
		samples = append(samples, s)
	}
	lines := slopes(samples)
	if len(lines) != 3 { // the disk is not known
		t.Fatalf("%+v", lines)
	}
	for i, want := range []struct {
		name    string
		perHour float64
		flat    bool
	}{{"rss_mib", 0, true}, {"goroutines", 0, true}, {"open_files", 3600, false}} {
		if s := lines[i]; s.Name != want.name || s.Flat != want.flat || math.Abs(s.PerHour-want.perHour) > 20 {
			t.Errorf("%+v, want %+v", s, want)
		}
	}
	if slopes(samples[:3]) != nil {
		t.Error("two samples make no line")
	}
}

func TestAGaugeIsReadFromTheMetrics(t *testing.T) {
	text := []byte("# HELP go_goroutines x\ngo_goroutines_total 3\ngo_goroutines 41\nprocess_resident_memory_bytes 1.5e+08\n")
	if gauge(text, "go_goroutines") != 41 || gauge(text, "process_resident_memory_bytes") != 1.5e8 || gauge(text, "nothing") != 0 {
		t.Errorf("%g %g", gauge(text, "go_goroutines"), gauge(text, "process_resident_memory_bytes"))
	}
}
