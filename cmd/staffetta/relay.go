package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/relay"
)

// relayCommand holds the flags of staffetta relay.
type relayCommand struct {
	Listen string `help:"Address of the HTTP API." default:"127.0.0.1:8080"`
	Data   string `help:"Data folder; made at the first start, with the admin key and the secret key in it." default:"./data" type:"path"`
	Shards int    `help:"Streams that the events are spread over; fixed at the first start of a data folder." default:"16"`

	Deadline    time.Duration   `help:"Time for one attempt: DNS, TCP, TLS, sending and the head of the response." default:"5s"`
	Retry       []time.Duration `help:"Gaps between a failed attempt and the next one; after the last the event goes to the dead letters." default:"30s,60s,90s"`
	Quota       int             `help:"Failed attempts that all endpoints of a workspace may have within --quota-window; the failure above it disables its endpoint. 0: never." default:"30"`
	QuotaWindow time.Duration   `help:"How long a failed attempt counts." default:"30m"`

	HoldMaxAge    time.Duration `help:"How long an event is held for a disabled endpoint before it goes to the dead letters. 0: without a bound." default:"72h"`
	HoldMaxEvents int           `help:"Events that are held for one disabled endpoint; beyond it the oldest go to the dead letters. 0: without a bound." default:"1000000"`

	DeadLetterRetention ageFlag  `help:"How long a dropped event is kept, with its payload." default:"30d"`
	DeadLetterMaxBytes  byteSize `help:"Bytes of the dead letters, as 4GiB or 512MiB; beyond it the oldest go first. 0: 4GiB, at most an eighth of --max-store." default:"0" placeholder:"SIZE"`

	InFlight int `help:"Attempts that one workspace may have in flight." default:"1000"`

	Log          relay.LogMode `help:"Attempts that the log keeps: all, or failures." default:"all" enum:"all,failures"`
	LogRetention time.Duration `help:"How long the log keeps them." default:"72h"`
	LogMaxBytes  byteSize      `help:"Bytes of the log, as 2GiB or 512MiB; beyond it the oldest attempts go first. 0: 2GiB, at most an eighth of --max-store." default:"0" placeholder:"SIZE"`

	mailFlags

	AdminKey  string         `help:"Key that may do everything; at least 16 characters. Default: made at the first start, in the file admin.key of the data folder." placeholder:"KEY"`
	SecretKey string         `help:"Base64 of the 32 bytes that seal the signing keys at rest. Default: made at the first start, in the file secret.key of the data folder." placeholder:"BASE64"`
	MinPlan   staffetta.Plan `help:"Least plan whose workspaces may have endpoints." default:"advanced" enum:"starter,growth,advanced,enterprise"`

	EventTypes           string    `help:"YAML file with the platform's event types, in place of respond.io's." placeholder:"FILE" type:"path"`
	AllowPrivateNetworks guardFlag `help:"Deliver to loopback, private and other special-purpose addresses too: all of them, or =CIDR,CIDR."`

	MaxStore           byteSize `help:"Bytes that all streams may hold; events are refused with 503 from nine tenths on. 0: 64 GiB, at most nine tenths of the file system." default:"0" placeholder:"SIZE"`
	IdempotencyKeys    int      `help:"Keys of accepted events that are remembered for 24 hours, at about 50 bytes of memory each; beyond it the oldest go first." default:"4000000"`
	EndpointsPerTenant int      `name:"max-endpoints" help:"Endpoints that one workspace may have." default:"10000"`
	LogLevel           string   `help:"debug, info, warn or error." default:"info"`
	DebugListen        string   `help:"Address for Go's profiles at /debug/pprof/; keep it to yourself. Default: none." placeholder:"ADDR"`
}

// Run is staffetta relay.
func (c *relayCommand) Run(s *surroundings) error {
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
	running := func(r *relay.Relay) { c.printStart(s.stdout, settings, r) }
	err = runRelay(s.ctx, settings, running)
	if s.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // stopped while it started
	}
	return err
}

// settings checks what the flags say.
func (c *relayCommand) settings(log zerolog.Logger) (relaySettings, error) {
	policy := staffetta.DefaultPolicy()
	policy.Deadline, policy.Retry = c.Deadline, c.Retry
	policy.Quota = staffetta.Quota{Failures: c.Quota, Window: c.QuotaWindow}
	if err := policy.Validate(); err != nil {
		return relaySettings{}, usageError("--" + err.Error())
	}
	if c.HoldMaxAge < 0 || c.HoldMaxEvents < 0 {
		return relaySettings{}, usageError("--hold-max-age and --hold-max-events must not be negative")
	}
	if c.Shards < 1 || c.Shards > staffetta.MaxShards {
		return relaySettings{}, usageError(fmt.Sprintf("--shards must be 1 to %d", staffetta.MaxShards))
	}
	if c.DeadLetterRetention < ageFlag(time.Second) || c.DeadLetterMaxBytes != 0 && c.DeadLetterMaxBytes < 1<<20 {
		return relaySettings{}, usageError("--dead-letter-retention must be at least 1s, --dead-letter-max-bytes 0 or at least 1MiB")
	}
	if c.LogRetention < time.Second {
		return relaySettings{}, usageError("--log-retention must be at least 1s")
	}
	catalogue, err := loadCatalogue(c.EventTypes)
	if err != nil {
		return relaySettings{}, err
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return relaySettings{}, fmt.Errorf("make data folder: %w", err)
	}
	settings := relaySettings{
		listen: c.Listen, data: c.Data, shards: c.Shards, policy: policy, catalogue: catalogue,
		logMode: c.Log, logAge: c.LogRetention, logBytes: int64(c.LogMaxBytes),
		holdMaxAge: c.HoldMaxAge, holdMaxEvents: c.HoldMaxEvents,
		guard: c.AllowPrivateNetworks.Guard, inFlight: c.InFlight, minPlan: c.MinPlan,
		deadLetterAge: time.Duration(c.DeadLetterRetention), deadLetterBytes: int64(c.DeadLetterMaxBytes),
		maxStore: int64(c.MaxStore), idempotencyKeys: c.IdempotencyKeys, maxEndpoints: c.EndpointsPerTenant, log: log,
	}
	if settings.mail, err = c.config(); err != nil {
		return relaySettings{}, err
	}
	if settings.adminKey, settings.adminKeyMade, err = relay.LoadAdminKey(c.AdminKey, c.Data); err != nil {
		return relaySettings{}, err
	}
	if settings.secret, err = relay.LoadSecret(c.SecretKey, c.Data); err != nil {
		return relaySettings{}, err
	}
	return settings, nil
}

// printStart is the one screen of a start: what runs, where, and how to send the first event.
func (c *relayCommand) printStart(w io.Writer, settings relaySettings, r *relay.Relay) {
	url := "http://" + r.Addr().String()
	key, show := "the one you gave", "…"
	if c.AdminKey == "" {
		key = filepath.Join(settings.data, "admin.key")
		show = "$(cat " + key + ")"
		if settings.adminKeyMade {
			key += " (just made)"
		}
	}
	_, _ = fmt.Fprintf(w, `staffetta %s relay
  API        %s   (described at %s/v1/openapi.json)
  data       %s
  admin key  %s

The first event:
  export STAFFETTA_URL=%s STAFFETTA_ADMIN_KEY=%s
  staffetta endpoints add --workspace acme --plan advanced --url https://example.com/hook --events message.received
  staffetta events send --workspace acme --sample message.received
`, version, url, url, settings.data, key, url, show)
}
