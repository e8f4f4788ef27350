package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

// loadYAML reads a configuration file: a mapping from the names of flags to their values.
func loadYAML(r io.Reader) (kong.Resolver, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	values := yamlFile{}
	if err := yaml.Unmarshal(text, &values); err != nil {
		return nil, fmt.Errorf("read configuration: %s", yaml.FormatError(err, false, false)) // its text may have keys in it
	}
	return values, nil
}

type yamlFile map[string]any

// Validate refuses a name that no flag has: a misspelt rule must not pass for the default.
func (f yamlFile) Validate(app *kong.Application) error {
	known := map[string]bool{}
	_ = kong.Visit(app, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			known[flag.Name] = true
		}
		return next(nil)
	})
	var unknown []string
	for name := range f {
		if !known[strings.ReplaceAll(name, "_", "-")] {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return fmt.Errorf("the configuration file names unknown flags: %s", strings.Join(unknown, ", "))
	}
	return nil
}

// Resolve gives the value of a flag that the command line and the environment leave open.
func (f yamlFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return nil, nil
		}
	}
	value, ok := f[flag.Name]
	if !ok {
		value, ok = f[strings.ReplaceAll(flag.Name, "-", "_")]
	}
	if !ok {
		return nil, nil
	}
	if flag.Name == sourcesFlagName { // a structure of its own
		text, err := yaml.Marshal(value)
		return string(text), err
	}
	list, isList := value.([]any)
	if isList && flag.Tag.Sep == -1 { // its items may have commas in them
		return value, nil
	}
	if isList {
		items := make([]string, len(list))
		for i, item := range list {
			items[i] = fmt.Sprint(item)
		}
		return strings.Join(items, ","), nil
	}
	return fmt.Sprint(value), nil
}

// guardFlag is --allow-private-networks: alone it allows every address, with a list of networks only
// those beside the public ones.
type guardFlag struct{ sender.Guard }

// IsBool lets the flag stand without a value.
func (*guardFlag) IsBool() bool { return true }

// Decode reads the flag's value where it has one.
func (g *guardFlag) Decode(ctx *kong.DecodeContext) (err error) {
	spec := "true"
	if token := ctx.Scan.Peek(); token.Type == kong.FlagValueToken {
		spec = fmt.Sprint(ctx.Scan.Pop().Value)
	}
	if spec == "false" {
		spec = ""
	}
	g.Guard, err = sender.ParseGuard(spec)
	return err
}

// loadCatalogue reads the event types of a platform: a YAML list of names, or of {name, title}.
func loadCatalogue(path string) (staffetta.Catalogue, error) {
	if path == "" {
		return staffetta.DefaultCatalogue(), nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return staffetta.Catalogue{}, fmt.Errorf("read event types: %w", err)
	}
	var entries []eventTypeEntry
	if err := yaml.UnmarshalWithOptions(text, &entries, yaml.Strict()); err != nil {
		return staffetta.Catalogue{}, fmt.Errorf("read event types from %s: a list of names, or of name and title, is expected: %s", path, yaml.FormatError(err, false, true))
	}
	types := make([]staffetta.EventType, len(entries))
	for i, e := range entries {
		types[i] = staffetta.EventType(e)
	}
	c, err := staffetta.NewCatalogue(types)
	if err != nil {
		return c, fmt.Errorf("read event types from %s: %w", path, err)
	}
	return c, nil
}

// eventTypeEntry is a name alone or a mapping.
type eventTypeEntry staffetta.EventType

// UnmarshalYAML takes both.
func (e *eventTypeEntry) UnmarshalYAML(unmarshal func(any) error) error {
	if err := unmarshal(&e.Name); err == nil {
		return nil
	}
	return unmarshal((*staffetta.EventType)(e))
}

// newLogger writes JSON lines, or readable text where a person looks on.
func newLogger(w io.Writer, level string) (zerolog.Logger, error) {
	l, err := zerolog.ParseLevel(level)
	if err != nil || level == "" {
		return zerolog.Nop(), usageError("--log-level must be debug, info, warn or error")
	}
	if isTerminal(w) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly}
	}
	return zerolog.New(w).Level(l).With().Timestamp().Logger(), nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}
