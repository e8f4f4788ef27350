package bench

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Terminal shows people how far a run is: on a terminal one line that is written anew, elsewhere a line
// every five seconds.
type Terminal struct {
	mu    sync.Mutex
	w     io.Writer
	live  bool
	shown bool // a line stands there that is to be written over
}

// NewTerminal writes to w; live says that it is a terminal.
func NewTerminal(w io.Writer, live bool) *Terminal { return &Terminal{w: w, live: live} }

// Say prints a line that stays.
func (t *Terminal) Say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	_, _ = fmt.Fprintf(t.w, format+"\n", args...)
}

// Watch shows what line says until stop is called.
func (t *Terminal) Watch(line func() string) (stop func()) {
	every := 5 * time.Second
	if t.live {
		every = 250 * time.Millisecond
	}
	ticker, done := time.NewTicker(every), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				t.show(line())
			}
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		wg.Wait()
		t.mu.Lock()
		t.clear()
		t.mu.Unlock()
	})
}

func (t *Terminal) show(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.live {
		_, _ = fmt.Fprintln(t.w, line)
		return
	}
	t.clear()
	t.shown = true
	_, _ = io.WriteString(t.w, line)
}

// clear is for holders of mu.
func (t *Terminal) clear() {
	if t.shown {
		_, _ = io.WriteString(t.w, "\r\x1b[K")
		t.shown = false
	}
}

// count writes a number with its thousands apart.
func count[T int | int64 | float64](n T) string {
	text := fmt.Sprintf("%.0f", float64(n))
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// WriteSummary writes the result for people.
func (r *Result) WriteSummary(w io.Writer) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	b.WriteByte('\n')
	line("scenario", "%s, staffetta %s", r.Scenario, r.Version)
	line("machine", "%s", r.Machine)
	line("events", "%s offered, %s accepted, %s delivered; %s lost, %s duplicated, %s out of order",
		count(r.Offered), count(r.Accepted), count(r.Delivered), count(r.Lost), count(r.Duplicated), count(r.OutOfOrder))
	line("throughput", "%s/s accepted, %s/s delivered", count(r.AcceptedPerSecond), count(r.DeliveredPerSecond))
	if r.FloorPerSecond > 0 {
		floors := fmt.Sprintf("direct %s/s (ratio %.2f), proxy %s/s (ratio %.2f)", count(r.FloorPerSecond), r.Ratio, count(r.ProxyPerSecond), r.ProxyRatio)
		if perSecond, ratio := r.sequential(); perSecond > 0 {
			floors += fmt.Sprintf(", sequential %s/s (ratio %.2f)", count(perSecond), ratio)
		}
		line("floors", "%s", floors)
	}
	line("latency", "%s", r.LatencyMS)
	line("ack", "%s", r.AckMS)
	if r.CPUSecondsPer1000 != nil && r.RSSMiB != nil {
		line("cost", "%.3f CPU seconds per 1,000 deliveries, %.0f MiB", *r.CPUSecondsPer1000, *r.RSSMiB)
	}
	if own, ok := r.Figures["bench_cpu_seconds_per_1000"].(float64); ok {
		line("the bench", "%.3f CPU seconds per 1,000 deliveries for producers, sink and judge", own)
	}
	name := "targets"
	for _, target := range r.targets() {
		line(name, "%s", target)
		name = ""
	}
	for _, text := range r.Tables {
		fmt.Fprintf(&b, "\n%s", text)
	}
	verdict := "ok"
	if !r.Verdict.OK {
		verdict = "NOT OK"
	}
	b.WriteByte('\n')
	line("verdict", "%s", verdict)
	for _, reason := range r.Verdict.Reasons {
		line("", "%s", reason)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// String shows them in milliseconds.
func (q Quantiles) String() string {
	return fmt.Sprintf("p50 %s, p90 %s, p99 %s, p99.9 %s, max %s ms", ms(q.P50), ms(q.P90), ms(q.P99), ms(q.P999), ms(q.Max))
}

// ms writes milliseconds with three figures.
func ms(v float64) string {
	switch {
	case v >= 100:
		return count(v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
