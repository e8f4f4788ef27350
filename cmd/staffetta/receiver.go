package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/receiver"
	"github.com/staffetta-relay/staffetta/relay"
)

// receiverCommand holds the flags of staffetta receiver.
type receiverCommand struct {
	Listen      string `help:"Address that takes the webhooks." default:"127.0.0.1:8090"`
	AdminListen string `help:"Address of the admin API: targets, attempts, dead letters, replays, metrics. Keep it off public networks." default:"127.0.0.1:8091"`
	Data        string `help:"Data folder; made at the first start, with the admin key in it." default:"./receiver" type:"path"`

	Source      string        `help:"Path at which webhooks come in, as /hooks/respond. For more sources than one, list them in the configuration file, under sources." placeholder:"PATH"`
	Verify      string        `help:"How they are signed: respond.io, standard-webhooks, github, stripe, or none." default:"respond.io"`
	Key         []string      `help:"Signing key; several, with commas between them, where keys are rotated or several webhooks point here. env:NAME reads one from the environment." placeholder:"KEY"`
	Allow       []string      `help:"Networks, as CIDRs, from which webhooks are taken. Default: all." placeholder:"CIDR"`
	To          []string      `help:"Target that gets every event: http://…, https://…, postgres://…/database#table, nats://host:4222/subject or file:events.jsonl. May be given several times." placeholder:"URL" sep:"none"`
	Order       string        `help:"Which events wait for one another: contact (those of one contact), strict (all) or none." default:"contact"`
	OrderKey    string        `help:"JSON pointer to the key of --order contact." default:"/contact/id"`
	Rate        rateText      `help:"Events that a target gets at most, as 50/s. Default: without a bound." placeholder:"RATE"`
	Concurrency int           `help:"Calls that a target gets at a time." default:"8"`
	Timeout     time.Duration `help:"Time for one call." default:"30s"`

	Sources sourcesFlag `help:"Sources and their targets; for the configuration file." hidden:""`

	RetryFirst time.Duration `help:"Wait after the first failure of an event; it doubles with each." default:"1s"`
	RetryMax   time.Duration `help:"Longest wait." default:"5m"`
	RetryFor   ageFlag       `help:"How long an event is tried before it goes to the dead letters." default:"24h"`

	Upstream       string   `help:"URL of the server behind: requests to other paths pass through to it." placeholder:"URL"`
	MaxBody        byteSize `help:"Largest body of a webhook." default:"1MiB"`
	TrustedProxies []string `help:"Networks of the proxies before the receiver, whose X-Forwarded-For is believed." placeholder:"CIDR"`
	TLSCert        string   `help:"PEM file of a certificate with its chain; read again when it changes." placeholder:"FILE" type:"path"`
	TLSKey         string   `help:"PEM file of its key." placeholder:"FILE" type:"path"`

	Durability string   `help:"What an answer of 200 outlives: process (a kill; a power failure may take the last second) or power (that too: every answer waits for the disk)." default:"process" enum:"process,power"`
	MaxBytes   byteSize `help:"Bytes of events that wait or are kept; beyond it webhooks are refused with 503. 0: 16 GiB, at most half of the file system." default:"0" placeholder:"SIZE"`
	MaxAge     ageFlag  `help:"How long an event may wait for a target; an older one goes to the dead letters." default:"72h"`
	Retention  ageFlag  `help:"How long events that all targets have are kept for a replay, as long as less than half of --max-bytes is used. 0: not at all." default:"24h"`
	EventIDs   int      `name:"event-ids" help:"Event ids that are remembered for 24 hours to tell repeats, at about 50 bytes of memory each; beyond it the oldest go first." default:"4000000"`

	DeadLetterRetention ageFlag       `help:"How long a dropped event is kept, with its payload." default:"30d"`
	Log                 relay.LogMode `help:"Attempts that the log keeps: all, or failures." default:"all" enum:"all,failures"`
	LogRetention        time.Duration `help:"How long the log keeps them." default:"72h"`

	AdminKey    string `help:"Key of the admin API; at least 16 characters. Default: made at the first start, in the file admin.key of the data folder." placeholder:"KEY"`
	LogLevel    string `help:"debug, info, warn or error." default:"info"`
	DebugListen string `help:"Address for Go's profiles at /debug/pprof/; keep it to yourself. Default: none." placeholder:"ADDR"`
}

// Run is staffetta receiver.
func (c *receiverCommand) Run(s *surroundings) error {
	log, err := newLogger(s.stderr, c.LogLevel)
	if err != nil {
		return err
	}
	settings, err := c.settings(log)
	if err != nil {
		return err
	}
	stopProfiles, err := serveProfiles(c.DebugListen)
	if err != nil {
		return err
	}
	defer stopProfiles()
	running := func(r *receiver.Receiver, admin net.Addr) { c.printStart(s.stdout, settings, r, admin) }
	err = runReceiver(s.ctx, settings, running)
	if wrong, ok := errors.AsType[*receiver.ConfigError](err); ok {
		return usageError(wrong.Error())
	}
	if s.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // stopped while it started
	}
	return err
}

// settings checks what the flags say.
func (c *receiverCommand) settings(log zerolog.Logger) (receiverSettings, error) {
	sources, err := c.sources()
	if err != nil {
		return receiverSettings{}, usageError(err.Error())
	}
	trusted, err := receiver.ParseNetworks(c.TrustedProxies)
	if err != nil {
		return receiverSettings{}, usageError("--trusted-proxies: " + err.Error())
	}
	if c.LogRetention < time.Second || c.DeadLetterRetention < ageFlag(time.Second) || c.MaxAge < ageFlag(time.Second) {
		return receiverSettings{}, usageError("--log-retention, --dead-letter-retention and --max-age must be at least 1s")
	}
	if c.MaxBody < 1 || c.MaxBody > receiver.MaxBodyLimit {
		return receiverSettings{}, usageError("--max-body must be between 1 byte and 15MiB")
	}
	if c.MaxBytes != 0 && (c.MaxBytes < 16<<20 || c.MaxBytes < 16*c.MaxBody) {
		return receiverSettings{}, usageError("--max-bytes must be 0, or at least 16MiB and 16 times --max-body")
	}
	settings := receiverSettings{
		config: receiver.Config{
			Listen: c.Listen, TLSCert: c.TLSCert, TLSKey: c.TLSKey, Sources: sources, Upstream: c.Upstream, MaxBody: int(c.MaxBody),
			TrustedProxies: trusted, MaxAge: time.Duration(c.MaxAge), Retention: time.Duration(c.Retention), KeyBound: c.EventIDs, Log: log,
		},
		adminListen: c.AdminListen, data: c.Data, power: c.Durability == "power", maxBytes: int64(c.MaxBytes),
		deadLetterAge: time.Duration(c.DeadLetterRetention), logMode: c.Log, logAge: c.LogRetention, log: log,
	}
	if c.Retention == 0 {
		settings.config.Retention = -1
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return receiverSettings{}, fmt.Errorf("make data folder: %w", err)
	}
	if settings.adminKey, settings.adminKeyMade, err = relay.LoadAdminKey(c.AdminKey, c.Data); err != nil {
		return receiverSettings{}, err
	}
	return settings, nil
}

// sources are those of the configuration file, or the one of the flags.
func (c *receiverCommand) sources() ([]receiver.Source, error) {
	if c.Source != "" && len(c.Sources) > 0 {
		return nil, usageError("--source and the configuration file's sources do not go together; list all in the file")
	}
	backoff := staffetta.DefaultBackoff()
	backoff.First, backoff.Max, backoff.For = c.RetryFirst, c.RetryMax, time.Duration(c.RetryFor)
	if err := backoff.Validate(); err != nil {
		return nil, usageError("--retry-first, --retry-max, --retry-for: " + err.Error())
	}
	var sources []receiver.Source
	for i := range c.Sources {
		source, err := c.Sources[i].source()
		if err != nil {
			return nil, err
		}
		sources = append(sources, source)
	}
	if c.Source != "" {
		source, err := c.source()
		if err != nil {
			return nil, err
		}
		sources = append(sources, source)
	}
	if len(sources) == 0 {
		return nil, usageError("name a source: --source /hooks/respond --key KEY --to http://127.0.0.1:9000/crm, or list sources in a file and give --config")
	}
	for i := range sources {
		for k := range sources[i].To {
			if t := &sources[i].To[k]; t.Backoff == (staffetta.Backoff{}) {
				t.Backoff = backoff
			}
		}
	}
	return sources, nil
}

// source is the one of the flags.
func (c *receiverCommand) source() (receiver.Source, error) {
	entry := sourceEntry{Path: c.Source, Verify: c.Verify, Allow: c.Allow, Order: c.Order, OrderKey: c.OrderKey}
	for _, key := range c.Key {
		entry.Keys = append(entry.Keys, secretText(key))
	}
	s, err := entry.source()
	if err != nil {
		return s, err
	}
	if len(c.To) == 0 {
		return s, usageError("name a target: --to http://127.0.0.1:9000/crm, postgres://…, nats://… or file:events.jsonl")
	}
	for _, text := range c.To {
		t, err := targetOf(text)
		if err != nil {
			return s, err
		}
		t.Rate, t.Concurrency, t.Timeout = float64(c.Rate), c.Concurrency, c.Timeout
		s.To = append(s.To, t)
	}
	return s, nil
}

// printStart is the one screen of a start: what comes in where, and where it goes.
func (c *receiverCommand) printStart(w io.Writer, settings receiverSettings, r *receiver.Receiver, admin net.Addr) {
	key := "the one you gave"
	if c.AdminKey == "" {
		key = filepath.Join(settings.data, "admin.key")
		if settings.adminKeyMade {
			key += " (just made)"
		}
	}
	scheme := "http://"
	if c.TLSCert != "" {
		scheme = "https://"
	}
	_, _ = fmt.Fprintf(w, "staffetta %s receiver\n", version)
	for _, s := range settings.config.Sources {
		_, _ = fmt.Fprintf(w, "  webhooks   %s%s%s (%s)\n", scheme, r.Addr(), s.Path, s.Verify)
	}
	for _, id := range r.Targets() {
		_, _ = fmt.Fprintf(w, "  target     %s\n", id)
	}
	_, _ = fmt.Fprintf(w, `  admin API  http://%s
  data       %s
  admin key  %s

What became of them:
  staffetta targets --receiver http://%s --data %s
  staffetta attempts --receiver http://%s --data %s --follow
`, admin, settings.data, key, admin, settings.data, admin, settings.data)
}
