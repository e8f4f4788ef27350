package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// suiteVariants are the options that the suite runs a scenario with, beside the scenario's own; a
// scenario that is not here runs once.
var suiteVariants = map[string][]Options{
	"relay": {{Endpoints: 100, Batch: 100}, {Endpoints: 100, Batch: 1}, {Endpoints: 1000, Batch: 100}, {Endpoints: 1000, Batch: 1}},
}

// Suite runs every scenario, one after the other, and writes a result of each into dir. What fails is
// told at the end and does not keep the others from running; the results are those that there are.
func Suite(ctx context.Context, c Config, dir string) (results []*Result, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	stale, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("list folder: %w", err)
	}
	for _, path := range stale { // a report of the folder is one of this run
		if _, err := ReadResult(path); err == nil {
			_ = os.Remove(path)
		}
	}
	var failed []error
	for _, s := range Scenarios() {
		for _, variant := range variants(s.Name, c.Options) {
			if ctx.Err() != nil {
				return results, errors.New("interrupted")
			}
			name := s.Name + variant.suffix
			one := c
			one.Scenario, one.Options = s.Name, variant.Options
			c.Terminal.Say("%s …", name)
			start := time.Now()
			r, err := Start(ctx, one)
			if err == nil {
				err = r.writeFile(filepath.Join(dir, name+".json"))
			}
			if err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", name, err))
				continue
			}
			results = append(results, r)
			c.Terminal.Say("%s, %.0f s", r.headline(), time.Since(start).Seconds())
			if !r.Verdict.OK {
				failed = append(failed, fmt.Errorf("%s: the verdict is not ok: %s", name, strings.Join(r.Verdict.Reasons, "; ")))
			}
		}
	}
	return results, errors.Join(failed...)
}

// variant is one run of the suite.
type variant struct {
	Options
	suffix string
}

// variants are the runs of one scenario: what the command line says goes first, and what it makes equal
// runs once.
func variants(scenario string, o Options) (list []variant) {
	all, ok := suiteVariants[scenario]
	if !ok {
		return []variant{{Options: o}}
	}
	seen := map[string]bool{}
	for _, v := range all {
		one := variant{Options: o.or(v)}
		one.suffix = fmt.Sprintf("-%d-b%d", one.Endpoints, one.Batch)
		if !seen[one.suffix] {
			seen[one.suffix] = true
			list = append(list, one)
		}
	}
	return list
}

// headline is the result in a line.
func (r *Result) headline() string {
	text := fmt.Sprintf("  %s/s delivered", count(r.DeliveredPerSecond))
	if r.FloorPerSecond > 0 {
		text += fmt.Sprintf(", ratio %.2f", r.Ratio)
	}
	text += fmt.Sprintf(", p99 %s ms, %s lost, %s duplicated, %s out of order", ms(r.LatencyMS.P99), count(r.Lost), count(r.Duplicated), count(r.OutOfOrder))
	if targets := r.targets(); missed(targets) > 0 {
		text += fmt.Sprintf(", %d of %d targets missed", missed(targets), len(targets))
	}
	if !r.Verdict.OK {
		text += ", NOT OK"
	}
	return text
}

func (r *Result) writeFile(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return errors.Join(r.WriteJSON(f), f.Close())
}

// Names lists the scenarios' names, one a line.
func Names() string {
	var b strings.Builder
	for _, s := range Scenarios() {
		b.WriteString(s.Name + "\n")
	}
	return b.String()
}
