package receiver

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

// The orders in which a source's events are handed over.
type Order string

const (
	// OrderContact hands over the events of one contact one at a time, in their order, and contacts
	// beside one another. The default.
	OrderContact Order = "contact"
	// OrderStrict hands over one event at a time.
	OrderStrict Order = "strict"
	// OrderNone hands over in no order.
	OrderNone Order = "none"
)

// DefaultOrderKey is the JSON pointer to a contact's id in the payloads of respond.io.
const DefaultOrderKey = "/contact/id"

// Config of a Receiver.
type Config struct {
	// Listen is the address of the intake. Default 127.0.0.1:8090. NoListener binds none: webhooks come
	// through Handler alone.
	Listen     string
	NoListener bool
	// Listener is used in place of Listen where it is set.
	Listener net.Listener
	// TLSCert and TLSKey are PEM files; with them the intake speaks TLS. They are read again when they
	// change.
	TLSCert, TLSKey string
	// Connect opens a connection to the store: a NATS server with the streams of a journal, such as
	// embed.Server with embed.Layout.Journal. Each part of the receiver opens one of its own.
	Connect func(name string, opts ...nats.Option) (*nats.Conn, error)
	// Sources are where webhooks come in, and where their events go. At least one.
	Sources []Source
	// Upstream is where requests to other paths pass through to; empty answers 404.
	Upstream string
	// MaxBody bounds a webhook's body, in bytes. Default 1 MiB. The store must take messages that are
	// 64 KiB larger.
	MaxBody int
	// TrustedProxies are the networks of proxies before the receiver, whose X-Forwarded-For and -Proto
	// are believed. Default: none.
	TrustedProxies []netip.Prefix
	// MaxAge is how long an event may wait for a target; an older one goes to the dead letters. Default
	// 72 hours, 0 < MaxAge.
	MaxAge time.Duration
	// Retention is how long events that all targets have are kept to be replayed, as long as less than
	// half of the journal's bytes are used. Default 24 hours; negative: not at all.
	Retention time.Duration
	// KeyBound is how many event ids of the last 24 hours are remembered, at about 50 bytes of memory
	// each; beyond it the oldest go. Default 4,000,000.
	KeyBound int
	// Accepting says why nothing can be taken now, or nil. It is asked for every request. Default: nil.
	Accepting func() error
	// Attempted is told of every attempt to hand an event over, with Workspace "receiver" and Endpoint
	// "<source>.<target>"; it must be quick. The record is only lent.
	Attempted func(*staffetta.AttemptRecord)
	// Metrics count what comes and goes; they are registered by who made them. Default: some of its own,
	// which nobody sees.
	Metrics *Metrics
	Log     zerolog.Logger
}

// Source is a path at which webhooks come in.
type Source struct {
	// Name of the source, 1 to 30 letters, digits, dashes or underscores: its events are stored under
	// it. Default: made of the path, so a source whose path changes needs a name.
	Name string
	// Path, as /hooks/respond.
	Path string
	// Verify is how its webhooks are signed, Keys with what: one that matches is enough.
	Verify staffetta.Scheme
	Keys   []string
	// Allow are the networks from which webhooks are taken. Default: all.
	Allow []netip.Prefix
	// Order says which events wait for one another. Default OrderContact, whose key is what OrderKey, a
	// JSON pointer, leads to (default /contact/id); events without one wait for one another.
	Order    Order
	OrderKey string
	// To are the targets: each gets every event. At least one, or Handle.
	To []Target
	// Handle is a target that is a function, named "handle".
	Handle func(ctx context.Context, e staffetta.Event) error
}

// Target is where events go; one of HTTP, Postgres, NATS, File and Handle says how.
type Target struct {
	// Name, unique in its source, by the rules of a source's: how far the target has come is kept under
	// it. Default: its kind, with a number behind it from the second of a kind on.
	Name     string
	HTTP     *HTTPTarget
	Postgres *PostgresTarget
	NATS     *NATSTarget
	File     *FileTarget
	Handle   func(ctx context.Context, e staffetta.Event) error
	// Rate is how many events a second it gets at most. Default: without a bound.
	Rate float64
	// Concurrency is how many calls it gets at a time. Default 8. What takes events in batches (Postgres,
	// NATS, File) gets one batch at a time, in order.
	Concurrency int
	// Timeout bounds one call. Default 30 s.
	Timeout time.Duration
	// Backoff says when a failed event is tried again. Default staffetta.DefaultBackoff.
	Backoff staffetta.Backoff
}

func (c *Config) setDefaults() error {
	switch {
	case c.Connect == nil:
		return errors.New("receiver config: Connect is missing")
	case len(c.Sources) == 0:
		return configError("sources", "name at least one")
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return configError("tls-cert, tls-key", "go together")
	case c.MaxBody < 0 || c.MaxBody > MaxBodyLimit:
		return configError("max-body", "must be between 1 byte and 15 MiB")
	case c.MaxAge < 0:
		return configError("max-age", "must be above 0")
	case c.KeyBound < 0:
		return configError("event-ids", "must not be negative")
	}
	setDefault(&c.Listen, "127.0.0.1:8090")
	setDefault(&c.MaxBody, 1<<20)
	setDefault(&c.MaxAge, 72*time.Hour)
	setDefault(&c.Retention, 24*time.Hour)
	setDefault(&c.KeyBound, 4_000_000)
	if c.Accepting == nil {
		c.Accepting = func() error { return nil }
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics()
	}
	if c.Upstream != "" {
		u, err := url.Parse(c.Upstream)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return configError("upstream", "must be the URL of the server behind, such as http://127.0.0.1:9000")
		}
	}
	return c.setSources()
}

// MaxBodyLimit is the largest bound of a body: a request is one message of the store at the most.
const MaxBodyLimit = 15 << 20

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// ConfigError is what New returns where a setting cannot be: it says which, and what to do.
type ConfigError struct{ err error }

func (e *ConfigError) Error() string { return e.err.Error() }

func (e *ConfigError) Unwrap() error { return e.err }

// configError says which setting cannot be, and what to do.
func configError(setting, text string) error { return fmt.Errorf("%s: %s", setting, text) }

// setSources fills in names, on copies, and checks every source.
func (c *Config) setSources() error {
	c.Sources = append([]Source(nil), c.Sources...)
	names, paths := map[string]bool{}, map[string]bool{}
	for i := range c.Sources {
		s := &c.Sources[i]
		if err := s.setDefaults(); err != nil {
			return fmt.Errorf("source %s: %w", s.label(i), err)
		}
		if paths[s.Path] || names[s.Name] {
			return fmt.Errorf("source %s: another source has the same path or name; give it a name of its own", s.label(i))
		}
		paths[s.Path], names[s.Name] = true, true
	}
	return nil
}

func (s *Source) label(i int) string {
	if s.Path != "" {
		return s.Path
	}
	return fmt.Sprintf("number %d", i+1)
}

func (s *Source) setDefaults() error {
	if !strings.HasPrefix(s.Path, "/") || path.Clean(s.Path) != s.Path || strings.ContainsAny(s.Path, "?#% ") {
		return configError("path", "must be the path of a URL, such as /hooks/respond")
	}
	if s.Name == "" {
		s.Name = nameOf(s.Path)
	}
	if err := checkName(s.Name); err != nil {
		return err
	}
	switch s.Order {
	case "":
		s.Order = OrderContact
	case OrderContact, OrderStrict, OrderNone:
	default:
		return configError("order", "must be strict, contact or none")
	}
	setDefault(&s.OrderKey, DefaultOrderKey)
	if _, ok := parsePointer(s.OrderKey); !ok {
		return configError("order-key", "must be a JSON pointer, such as /contact/id")
	}
	s.To = append([]Target(nil), s.To...)
	if s.Handle != nil {
		s.To = append(s.To, Target{Handle: s.Handle})
	}
	if len(s.To) == 0 {
		return configError("to", "name at least one target")
	}
	names, kinds := map[string]bool{}, map[string]int{}
	for i := range s.To {
		t := &s.To[i]
		if err := t.setDefaults(kinds); err != nil {
			return fmt.Errorf("target %d: %w", i+1, err)
		}
		if names[t.Name] {
			return fmt.Errorf("target %d: another target is named %s", i+1, t.Name)
		}
		names[t.Name] = true
	}
	return nil
}

func (t *Target) setDefaults(kinds map[string]int) error {
	kind := t.kind()
	if kind == "" {
		return configError("to", "must be one of http, postgres, nats, file")
	}
	kinds[kind]++
	if t.Name == "" {
		if t.Name = kind; kinds[kind] > 1 {
			t.Name = fmt.Sprintf("%s-%d", kind, kinds[kind])
		}
	}
	setDefault(&t.Concurrency, 8)
	setDefault(&t.Timeout, 30*time.Second)
	setDefault(&t.Backoff, staffetta.DefaultBackoff())
	switch {
	case t.Rate < 0 || t.Rate > 1e6:
		return configError("rate", "must be between 0 (without a bound) and 1000000 a second")
	case t.Concurrency < 1 || t.Concurrency > 1000:
		return configError("concurrency", "must be between 1 and 1000")
	case t.Timeout < 10*time.Millisecond || t.Timeout > time.Hour:
		return configError("timeout", "must be between 10ms and 1h")
	}
	if err := t.Backoff.Validate(); err != nil {
		return err
	}
	return checkName(t.Name)
}

// kind is what the target is, empty where that is not said or said twice.
func (t *Target) kind() (kind string) {
	for name, is := range map[string]bool{
		"http": t.HTTP != nil, "postgres": t.Postgres != nil, "nats": t.NATS != nil, "file": t.File != nil, "handle": t.Handle != nil,
	} {
		switch {
		case is && kind != "":
			return ""
		case is:
			kind = name
		}
	}
	return kind
}

// nameOf makes a name of a path.
func nameOf(path string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' {
			return r
		}
		return '-'
	}, strings.Trim(path, "/"))
	name = strings.ReplaceAll(name, feedSeparator, "_-")
	switch {
	case name == "":
		return "root"
	case len(name) > maxName:
		h := fnv.New32a()
		_, _ = h.Write([]byte(path))
		return fmt.Sprintf("%s-%08x", name[:maxName-9], h.Sum32())
	}
	return name
}

// maxName bounds the name of a source or a target: two of them make that of a feed.
const maxName = 30

// feedSeparator stands between the names of a source and a target in that of their feed.
const feedSeparator = "__"

func checkName(name string) error {
	if len(name) > maxName || !staffetta.ValidID(name) || strings.Contains(name, feedSeparator) {
		return configError("name", "must be 1 to 30 letters, digits, dashes or single underscores; give one with name: "+name)
	}
	return nil
}

// feedOrder is the order of the hand-over to a target: what takes batches takes all in order.
func (s *Source) feedOrder(batches bool) sender.Order {
	switch {
	case batches || s.Order == OrderStrict:
		return sender.OrderStrict
	case s.Order == OrderNone:
		return sender.OrderNone
	default:
		return sender.OrderKey
	}
}
