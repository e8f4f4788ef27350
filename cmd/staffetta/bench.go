package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/staffetta-relay/staffetta/bench"
)

// benchCommand is staffetta bench. What it leaves open the scenario decides. Its flags have no
// environment twins: those of the same name are a real relay's.
type benchCommand struct {
	Scenario string   `arg:"" help:"What to measure; list explains the scenarios. suite runs them all, report shows results again, or compares two."`
	Files    []string `arg:"" optional:"" help:"For report: files of --json. Two of one scenario are compared." type:"path"`

	Duration  time.Duration `help:"Length of a measured phase. Default: the scenario's, 10s as a rule." env:"-"`
	Endpoints int           `help:"Endpoints to deliver to. Default: the scenario's." placeholder:"N" env:"-"`
	Rate      float64       `help:"Events a second, whatever the answers do. Default: the scenario's load." placeholder:"R" env:"-"`
	Payload   int           `help:"Bytes of an event. Default: the scenario's, 1024 as a rule." placeholder:"BYTES" env:"-"`
	Batch     int           `help:"Events a POST. Default: the scenario's, 100 as a rule." placeholder:"N" env:"-"`

	Target   string `help:"URL of a running relay to measure, in place of one that the bench starts." placeholder:"URL" env:"-"`
	AdminKey string `help:"Admin key of the target." placeholder:"KEY" env:"-"`

	SigningKey    string  `help:"For endpoint: the key that the target verifies webhooks with, base64 with or without whsec_." placeholder:"KEY" env:"-"`
	MaxRate       float64 `help:"For endpoint: most events a second. Default: 200, on this machine 20000." placeholder:"R" env:"-"`
	ConfirmRemote bool    `help:"For endpoint: the target is not on this machine, and is mine or its owner agrees to the load." env:"-"`

	JSON  string `name:"json" help:"File for the result as JSON; - is the standard output, without the summary. For suite: a folder." placeholder:"FILE" env:"-"`
	HTML  string `name:"html" help:"File for a report as a page." placeholder:"FILE" env:"-"`
	Names bool   `help:"For list: the names alone." env:"-"`
}

// Run is staffetta bench.
func (c *benchCommand) Run(s *surroundings) error {
	err := c.run(s)
	if usage, ok := errors.AsType[bench.UsageError](err); ok {
		return usageError(usage)
	}
	return err
}

func (c *benchCommand) run(s *surroundings) error {
	if len(c.Files) > 0 && c.Scenario != "report" {
		return bench.UsageError("files are for report")
	}
	switch {
	case c.Scenario == "list" && c.Names:
		_, err := io.WriteString(s.stdout, bench.Names())
		return err
	case c.Scenario == "list":
		_, err := io.WriteString(s.stdout, bench.Explain())
		return err
	case c.Scenario == "report":
		return c.again(s)
	case c.Scenario == bench.SequentialClient:
		return bench.RunSequentialClient(s.ctx, c.options(), s.stdin, s.stdout)
	case c.Scenario == bench.BareServer:
		return bench.RunBareServer(s.ctx, c.options(), s.stdin, s.stdout)
	}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the program to start: %w", err)
	}
	config := bench.Config{
		Scenario: c.Scenario, Binary: binary, Version: version, Terminal: bench.NewTerminal(s.stderr, isTerminal(s.stderr)),
		Options: c.options(),
	}
	if c.Scenario == "suite" {
		return c.suite(s, config)
	}
	result, err := bench.Start(s.ctx, config)
	if err != nil {
		return fmt.Errorf("bench %s: %w", c.Scenario, err)
	}
	if err := c.report(s, result); err != nil {
		return err
	}
	if !result.Verdict.OK {
		return fmt.Errorf("bench %s: the verdict is not ok", c.Scenario)
	}
	return nil
}

// options are what the flags say of a run.
func (c *benchCommand) options() bench.Options {
	return bench.Options{
		Duration: c.Duration, Endpoints: c.Endpoints, Rate: c.Rate, Payload: c.Payload, Batch: c.Batch,
		Target: c.Target, AdminKey: c.AdminKey, SigningKey: c.SigningKey, MaxRate: c.MaxRate, ConfirmRemote: c.ConfirmRemote,
	}
}

// report writes the result wherever it is wanted.
func (c *benchCommand) report(s *surroundings, result *bench.Result) error {
	write := result.WriteSummary
	if c.JSON == "-" {
		write = result.WriteJSON
	}
	if err := write(s.stdout); err != nil {
		return err
	}
	if c.JSON != "" && c.JSON != "-" {
		if err := writeReport(c.JSON, result.WriteJSON); err != nil {
			return err
		}
	}
	if c.HTML != "" {
		return writeReport(c.HTML, result.WriteHTML)
	}
	return nil
}

// writeReport makes a file of what write writes.
func writeReport(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return errors.Join(write(f), f.Close())
}

// suite runs all scenarios; what failed of them is told after the page is written.
func (c *benchCommand) suite(s *surroundings, config bench.Config) error {
	if c.Target != "" || c.JSON == "" || c.JSON == "-" {
		return bench.UsageError("suite needs --json with a folder for its results, and has no --target")
	}
	results, failed := bench.Suite(s.ctx, config, c.JSON)
	if c.HTML != "" && len(results) > 0 {
		err := writeReport(c.HTML, func(w io.Writer) error { return bench.WriteHTML(w, results...) })
		failed = errors.Join(failed, err)
	}
	if failed != nil {
		return fmt.Errorf("bench suite: %w", failed)
	}
	return nil
}

// again reports results of earlier runs.
func (c *benchCommand) again(s *surroundings) error {
	if len(c.Files) == 0 {
		return bench.UsageError("report needs a file of --json, or two to compare")
	}
	var results []*bench.Result
	for _, path := range c.Files {
		r, err := bench.ReadResult(path)
		if err != nil {
			return err
		}
		results = append(results, r)
	}
	page := func(w io.Writer) error { return bench.WriteHTML(w, results...) }
	if len(results) == 2 && results[0].Scenario == results[1].Scenario {
		compared, err := bench.Compare(results[0], results[1])
		if err != nil {
			return err
		}
		if err := compared.WriteSummary(s.stdout); err != nil {
			return err
		}
		page = compared.WriteHTML
	} else {
		for _, r := range results {
			if err := r.WriteSummary(s.stdout); err != nil {
				return err
			}
		}
	}
	if c.HTML != "" {
		return writeReport(c.HTML, page)
	}
	return nil
}
