package main

import (
	"fmt"
	"math"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/receiver"
)

// sourcesFlagName is the one flag whose value is a structure: the sources of the configuration file.
const sourcesFlagName = "sources"

// sourcesFlag are the sources of a configuration file.
type sourcesFlag []sourceEntry

// UnmarshalText reads their YAML.
func (s *sourcesFlag) UnmarshalText(text []byte) error {
	if err := yaml.UnmarshalWithOptions(text, (*[]sourceEntry)(s), yaml.Strict()); err != nil {
		return fmt.Errorf("a list of sources is expected:\n%s", yaml.FormatError(err, false, false))
	}
	return nil
}

// sourceEntry is a source in the configuration file.
type sourceEntry struct {
	Name     string        `yaml:"name"`
	Path     string        `yaml:"path"`
	Verify   string        `yaml:"verify"`
	Keys     []secretText  `yaml:"keys"`
	Allow    []string      `yaml:"allow"`
	Order    string        `yaml:"order"`
	OrderKey string        `yaml:"order_key"`
	To       []targetEntry `yaml:"to"`
}

// targetEntry is a target: one of its members is there.
type targetEntry struct {
	HTTP *struct {
		TargetRules `yaml:",inline"`
		URL         string                `yaml:"url"`
		Headers     map[string]secretText `yaml:"headers"`
	} `yaml:"http"`
	Postgres *struct {
		TargetRules `yaml:",inline"`
		DSN         secretText `yaml:"dsn"`
		Table       string     `yaml:"table"`
	} `yaml:"postgres"`
	NATS *struct {
		TargetRules `yaml:",inline"`
		URL         secretText `yaml:"url"`
		Subject     string     `yaml:"subject"`
		Credentials string     `yaml:"credentials"`
	} `yaml:"nats"`
	File *struct {
		TargetRules `yaml:",inline"`
		Path        string   `yaml:"path"`
		MaxBytes    sizeText `yaml:"max_bytes"`
		Keep        int      `yaml:"keep"`
	} `yaml:"file"`
}

// TargetRules are what all kinds of targets have; the YAML decoder asks for the exported name.
type TargetRules struct {
	Name        string       `yaml:"name"`
	Rate        rateText     `yaml:"rate"`
	Concurrency int          `yaml:"concurrency"`
	Timeout     durationText `yaml:"timeout"`
	Retry       *struct {
		First  *durationText `yaml:"first"`
		Max    *durationText `yaml:"max"`
		For    *durationText `yaml:"for"`
		Jitter *float64      `yaml:"jitter"`
	} `yaml:"retry"`
}

// rules fills in what all kinds have.
func (r *TargetRules) rules(t receiver.Target) receiver.Target {
	t.Name, t.Rate, t.Concurrency, t.Timeout = r.Name, float64(r.Rate), r.Concurrency, time.Duration(r.Timeout)
	if r.Retry == nil {
		return t
	}
	t.Backoff = staffetta.DefaultBackoff()
	for _, v := range []struct {
		from *durationText
		to   *time.Duration
	}{{r.Retry.First, &t.Backoff.First}, {r.Retry.Max, &t.Backoff.Max}, {r.Retry.For, &t.Backoff.For}} {
		if v.from != nil {
			*v.to = time.Duration(*v.from)
		}
	}
	t.Backoff.Max = max(t.Backoff.Max, t.Backoff.First)
	if r.Retry.Jitter != nil {
		t.Backoff.Jitter = *r.Retry.Jitter
	}
	return t
}

// source turns the entry into the receiver's own form.
func (e *sourceEntry) source() (s receiver.Source, err error) {
	s = receiver.Source{Name: e.Name, Path: e.Path, Order: receiver.Order(e.Order), OrderKey: e.OrderKey}
	if e.Verify == "" {
		return s, fmt.Errorf("source %s: verify: is missing; name how its webhooks are signed, or none", e.Path)
	}
	if s.Verify, err = staffetta.ParseScheme(e.Verify); err != nil {
		return s, fmt.Errorf("source %s: %w", e.Path, err)
	}
	for i, key := range e.Keys {
		text, err := key.value()
		if err != nil {
			return s, fmt.Errorf("source %s: key %d: %w", e.Path, i+1, err)
		}
		s.Keys = append(s.Keys, text)
	}
	if s.Allow, err = receiver.ParseNetworks(e.Allow); err != nil {
		return s, fmt.Errorf("source %s: allow: %w", e.Path, err)
	}
	for i := range e.To {
		t, err := e.To[i].target()
		if err != nil {
			return s, fmt.Errorf("source %s: target %d: %w", e.Path, i+1, err)
		}
		s.To = append(s.To, t)
	}
	return s, nil
}

func (e *targetEntry) target() (t receiver.Target, err error) {
	if c := e.HTTP; c != nil {
		h := &receiver.HTTPTarget{URL: c.URL, Headers: map[string]string{}}
		for name, secret := range c.Headers {
			if h.Headers[name], err = secret.value(); err != nil {
				return t, fmt.Errorf("header %s: %w", name, err)
			}
		}
		t = c.rules(receiver.Target{HTTP: h})
	}
	if c := e.Postgres; c != nil {
		dsn, err := c.DSN.value()
		if err != nil {
			return t, fmt.Errorf("dsn: %w", err)
		}
		p := t.HTTP
		t = c.rules(receiver.Target{HTTP: p, Postgres: &receiver.PostgresTarget{DSN: dsn, Table: c.Table}})
	}
	if c := e.NATS; c != nil {
		address, err := c.URL.value()
		if err != nil {
			return t, fmt.Errorf("url: %w", err)
		}
		n := &receiver.NATSTarget{URL: address, Subject: c.Subject, Credentials: c.Credentials}
		t = c.rules(receiver.Target{HTTP: t.HTTP, Postgres: t.Postgres, NATS: n})
	}
	if c := e.File; c != nil {
		f := &receiver.FileTarget{Path: c.Path, MaxBytes: int64(c.MaxBytes), Keep: c.Keep}
		t = c.rules(receiver.Target{HTTP: t.HTTP, Postgres: t.Postgres, NATS: t.NATS, File: f})
	}
	return t, nil
}

// targetOf reads a value of --to.
func targetOf(text string) (t receiver.Target, err error) {
	u, err := url.Parse(text)
	if err != nil { // its text may have a password in it
		return t, usageError("--to: cannot be read as a URL")
	}
	switch u.Scheme {
	case "http", "https":
		return receiver.Target{HTTP: &receiver.HTTPTarget{URL: text}}, nil
	case "postgres", "postgresql":
		table := u.Fragment
		u.Fragment, u.RawFragment = "", ""
		return receiver.Target{Postgres: &receiver.PostgresTarget{DSN: u.String(), Table: table}}, nil
	case "nats", "tls":
		subject := strings.Trim(u.Path, "/")
		u.Path = ""
		return receiver.Target{NATS: &receiver.NATSTarget{URL: u.String(), Subject: subject}}, nil
	case "file":
		return receiver.Target{File: &receiver.FileTarget{Path: u.Opaque + u.Path}}, nil
	default:
		return t, usageError("--to must be http://…, https://…, postgres://…/database#table, nats://host:4222/subject or file:events.jsonl")
	}
}

// secretText is a text, or env:NAME for what that variable of the environment holds.
type secretText string

func (s secretText) value() (string, error) {
	name, ok := strings.CutPrefix(string(s), "env:")
	if !ok {
		return string(s), nil
	}
	value, ok := os.LookupEnv(name)
	if !ok || value == "" {
		return "", fmt.Errorf("the environment has no %s", name)
	}
	return value, nil
}

// rateText is a number of events a second: 50, 50/s or 600/m.
type rateText float64

// UnmarshalText reads it.
func (r *rateText) UnmarshalText(text []byte) error {
	number, unit, found := strings.Cut(strings.TrimSpace(string(text)), "/")
	per := 1.0
	switch unit {
	case "s", "":
	case "m":
		per = 60
	case "h":
		per = 3600
	default:
		found = true
		per = 0
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n < 0 || math.IsInf(n, 0) || math.IsNaN(n) || per == 0 || found && unit == "" {
		return fmt.Errorf("%q: a rate such as 50/s, 600/m or 1000/h is expected", text)
	}
	*r = rateText(n / per)
	return nil
}

// UnmarshalYAML takes a number too.
func (r *rateText) UnmarshalYAML(text []byte) error { return r.UnmarshalText(unquoted(text)) }

// durationText is a duration such as 30s or 5m.
type durationText time.Duration

// UnmarshalYAML reads it; 24h, and 2d too.
func (d *durationText) UnmarshalYAML(text []byte) error {
	var age ageFlag
	if err := age.UnmarshalText(unquoted(text)); err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	*d = durationText(age)
	return nil
}

// sizeText is a number of bytes, such as 100MiB.
type sizeText int64

// UnmarshalYAML reads it.
func (s *sizeText) UnmarshalYAML(text []byte) error {
	n, err := parseSize(string(unquoted(text)))
	*s = sizeText(n)
	return err
}

func unquoted(text []byte) []byte {
	return []byte(strings.Trim(strings.TrimSpace(string(text)), `"'`))
}
