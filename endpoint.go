package staffetta

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Plan is what a workspace pays for.
type Plan string

// The plans, from the least to the most.
const (
	PlanStarter    Plan = "starter"
	PlanGrowth     Plan = "growth"
	PlanAdvanced   Plan = "advanced"
	PlanEnterprise Plan = "enterprise"
)

// Plans lists them from the least to the most.
func Plans() []Plan { return []Plan{PlanStarter, PlanGrowth, PlanAdvanced, PlanEnterprise} }

// Valid reports whether p is a plan.
func (p Plan) Valid() bool { return slices.Contains(Plans(), p) }

// AtLeast reports whether p includes what least includes.
func (p Plan) AtLeast(least Plan) bool {
	return slices.Index(Plans(), p) >= slices.Index(Plans(), least)
}

// QuotaScope says who shares the failure quota.
type QuotaScope string

// The scopes.
const (
	QuotaWorkspace QuotaScope = "workspace"
	QuotaEndpoint  QuotaScope = "endpoint"
)

// Workspace is a customer of the platform.
type Workspace struct {
	// ID is 1 to 64 letters, digits, dashes and underscores.
	ID   string `json:"id"`
	Plan Plan   `json:"plan"`
	// NotifyEmails are told when an endpoint is disabled; at most 20.
	NotifyEmails []string `json:"notify_emails"`
	// Language of the mails: "en" or "it".
	Language string `json:"language"`
	// Quota is how many failures the window bears; nil is the relay's default, 0 never disables.
	Quota      *int       `json:"quota,omitempty"`
	QuotaScope QuotaScope `json:"quota_scope"`
	// OperationsURL gets the operational events; empty for none.
	OperationsURL string    `json:"operations_url,omitempty"`
	CreatedAt     time.Time `json:"created_at"`
	UpdatedAt     time.Time `json:"updated_at"`
	// OperationsKeys sign the operational events; they are never part of the workspace's JSON.
	OperationsKeys SigningKeys `json:"-"`
}

// SetDefaults fills what the caller left out.
func (w *Workspace) SetDefaults() {
	if w.Plan == "" {
		w.Plan = PlanStarter
	}
	if w.Language == "" {
		w.Language = "en"
	}
	if w.QuotaScope == "" {
		w.QuotaScope = QuotaWorkspace
	}
	if w.NotifyEmails == nil {
		w.NotifyEmails = []string{}
	}
}

// Validate reports the first member that is not as it must be.
func (w *Workspace) Validate() error {
	switch {
	case !ValidID(w.ID):
		return invalid("invalid_workspace", "id", "a workspace id is 1 to 64 letters, digits, dashes or underscores")
	case !w.Plan.Valid():
		return invalid("invalid_plan", "plan", "must be one of starter, growth, advanced, enterprise")
	case len(w.NotifyEmails) > 20:
		return invalid("invalid_email", "notify_emails", "lists more than 20 addresses")
	case w.Language != "en" && w.Language != "it":
		return invalid("invalid_language", "language", "must be en or it")
	case w.Quota != nil && (*w.Quota < 0 || *w.Quota > 1_000_000):
		return invalid("invalid_quota", "quota", "must be between 0 (never disable) and 1000000")
	case w.QuotaScope != QuotaWorkspace && w.QuotaScope != QuotaEndpoint:
		return invalid("invalid_quota_scope", "quota_scope", "must be workspace or endpoint")
	}
	for _, address := range w.NotifyEmails {
		if !validEmail(address) {
			return invalid("invalid_email", "notify_emails", "not an e-mail address: "+printable(address))
		}
	}
	if w.OperationsURL != "" {
		if err := ValidateURL(w.OperationsURL); err != nil {
			err.Field = "operations_url"
			return err
		}
	}
	return nil
}

// Success says which statuses accept an event.
type Success string

// The rules of success.
const (
	// SuccessOK accepts 200 alone.
	SuccessOK Success = "200"
	// Success2xx accepts every status from 200 to 299.
	Success2xx Success = "2xx"
)

// Accepts reports whether the status accepts an event.
func (s Success) Accepts(status int) bool {
	if s == Success2xx {
		return status >= 200 && status <= 299
	}
	return status == 200
}

// OnDisable says what becomes of the events of a disabled endpoint.
type OnDisable string

// What becomes of them.
const (
	// Hold keeps them until the endpoint is enabled again.
	Hold OnDisable = "hold"
	// Discard drops them without a record.
	Discard OnDisable = "discard"
)

// Status says whether an endpoint gets events.
type Status string

// The statuses of an endpoint.
const (
	Enabled  Status = "enabled"
	Disabled Status = "disabled"
)

// The reasons why an endpoint is disabled.
const (
	// DisabledByUser: somebody asked for it.
	DisabledByUser = "user"
	// DisabledByQuota: it failed while the failures in the window were over the quota.
	DisabledByQuota = "quota"
)

// Bounds of an endpoint's members.
const (
	// MaxURL is the length of an endpoint's URL in bytes.
	MaxURL = 2048
	// MaxHeaders is how many headers of its own an endpoint may have.
	MaxHeaders = 20
	// MaxHeaderValue is the length of such a header's value in bytes.
	MaxHeaderValue = 4096
	// MaxDescription is the length of a description in bytes.
	MaxDescription = 512
)

// Endpoint is a URL with the event types it asked for.
type Endpoint struct {
	// ID is made by the relay: a subject token.
	ID        string `json:"id"`
	Workspace string `json:"workspace"`
	// URL is absolute, http or https, without user, password and fragment.
	URL string `json:"url"`
	// EventTypes are names of the catalogue, each once, at least one.
	EventTypes  []string `json:"event_types"`
	Description string   `json:"description,omitempty"`
	// Headers are sent with every attempt; they cannot replace those of the relay.
	Headers        map[string]string `json:"headers,omitempty"`
	Success        Success           `json:"success"`
	OnDisable      OnDisable         `json:"on_disable"`
	Status         Status            `json:"status"`
	DisabledReason string            `json:"disabled_reason,omitempty"`
	DisabledAt     *time.Time        `json:"disabled_at,omitempty"`
	// EnableRequiresTest lets the disabled endpoint be enabled only after a test send that it accepted.
	EnableRequiresTest bool `json:"enable_requires_test"`
	// TestedAt is when the last such test send of the disabled endpoint started.
	TestedAt  *time.Time `json:"tested_at,omitempty"`
	CreatedAt time.Time  `json:"created_at"`
	UpdatedAt time.Time  `json:"updated_at"`
	// Keys sign; they are never part of the endpoint's JSON.
	Keys SigningKeys `json:"-"`
}

// SigningKeys are the key of an endpoint and, while a rotation's overlap lasts, the one before it.
type SigningKeys struct {
	// Current is the base64 text of 24 to 64 bytes.
	Current string
	// Previous still signs until PreviousUntil; empty when there was no rotation.
	Previous      string
	PreviousUntil time.Time
}

// SetDefaults fills what the caller left out.
func (e *Endpoint) SetDefaults() {
	if e.Success == "" {
		e.Success = SuccessOK
	}
	if e.OnDisable == "" {
		e.OnDisable = Hold
	}
	if e.Status == "" {
		e.Status = Enabled
	}
}

// Validate reports the first member that is not as it must be.
func (e *Endpoint) Validate(c Catalogue) error {
	if err := ValidateURL(e.URL); err != nil {
		return err
	}
	if len(e.EventTypes) == 0 {
		return invalid("invalid_event_types", "event_types", "name at least one event type")
	}
	for i, name := range e.EventTypes {
		if !c.Has(name) {
			err := c.UnknownType(name)
			err.Field = "event_types"
			return err
		}
		if slices.Contains(e.EventTypes[:i], name) {
			return invalid("invalid_event_types", "event_types", name+" is listed twice")
		}
	}
	switch {
	case len(e.Description) > MaxDescription:
		return invalid("invalid_description", "description", "longer than "+strconv.Itoa(MaxDescription)+" bytes")
	case e.Success != SuccessOK && e.Success != Success2xx:
		return invalid("invalid_success", "success", "must be 200 or 2xx")
	case e.OnDisable != Hold && e.OnDisable != Discard:
		return invalid("invalid_on_disable", "on_disable", "must be hold or discard")
	case e.Status != Enabled && e.Status != Disabled:
		return invalid("invalid_status", "status", "must be enabled or disabled")
	}
	return validateHeaders(e.Headers)
}

// NeedsTest reports whether the endpoint is disabled and must accept a test send before it can be
// enabled.
func (e *Endpoint) NeedsTest() bool {
	return e.EnableRequiresTest && e.Status == Disabled && e.TestedAt == nil
}

// ValidID reports whether id can be a workspace's: 1 to 64 letters, digits, dashes and
// underscores, and so a token of a subject and a segment of a path.
func ValidID(id string) bool {
	return id != "" && len(id) <= 64 && strings.IndexFunc(id, func(r rune) bool { return !isToken(r) }) < 0
}

// ValidateURL reports why a URL cannot be an endpoint's. Where it leads is the network guard's
// business: a name may lead elsewhere at each attempt.
func ValidateURL(raw string) *InputError {
	bad := func(detail string) *InputError { return invalid("invalid_url", "url", detail) }
	switch {
	case raw == "":
		return bad("is missing; give an absolute http or https URL")
	case len(raw) > MaxURL:
		return bad("longer than " + strconv.Itoa(MaxURL) + " bytes")
	case strings.IndexFunc(raw, func(r rune) bool { return r <= ' ' || r >= 0x7f }) >= 0:
		return bad("has a space, a control character or a character outside ASCII; percent-encode it")
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return bad("cannot be read as a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return bad("must start with http:// or https://")
	case u.Opaque != "" || u.Hostname() == "":
		return bad("has no host")
	case u.User != nil:
		return bad("carries a user or a password; send them as a header instead")
	case strings.Contains(raw, "#"):
		return bad("has a fragment (#…), which is never sent; remove it")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return bad("has a port outside 1 to 65535")
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return bad("has an empty port")
	}
	return nil
}

// reservedHeaders are ours or the connection's: a user's header may not replace them. Names that
// start with "webhook-" or "staffetta-" are reserved as well.
var reservedHeaders = []string{
	"connection", "content-encoding", "content-length", "content-type", "expect", "host", "keep-alive",
	"proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "x-webhook-signature",
}

func validateHeaders(headers map[string]string) error {
	if len(headers) > MaxHeaders {
		return invalid("invalid_headers", "headers", "more than "+strconv.Itoa(MaxHeaders)+" headers")
	}
	seen := make(map[string]bool, len(headers))
	for name, value := range headers {
		lower := strings.ToLower(name)
		switch {
		case name == "" || len(name) > 128 || strings.IndexFunc(name, func(r rune) bool { return !isHeaderToken(r) }) >= 0:
			return invalid("invalid_headers", "headers", "not a header name: "+printable(name))
		case slices.Contains(reservedHeaders, lower), strings.HasPrefix(lower, "webhook-"), strings.HasPrefix(lower, "staffetta-"):
			return invalid("invalid_headers", "headers", name+" is set by the relay and cannot be replaced")
		case seen[lower]:
			return invalid("invalid_headers", "headers", name+" is given twice")
		case len(value) > MaxHeaderValue:
			return invalid("invalid_headers", "headers", "the value of "+name+" is longer than "+strconv.Itoa(MaxHeaderValue)+" bytes")
		case strings.IndexFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f }) >= 0:
			return invalid("invalid_headers", "headers", "the value of "+name+" has a line break, a control character or a character outside ASCII")
		}
		seen[lower] = true
	}
	return nil
}

func isHeaderToken(r rune) bool {
	return isToken(r) || r < 0x7f && strings.ContainsRune("!#$%&'*+.^`|~", r)
}

// ValidateSigningKey reports why a key that a user brings cannot sign: it must be the standard
// base64, padded, of 24 to 64 bytes. A leading "whsec_" is not part of it.
func ValidateSigningKey(key string) error {
	raw, err := base64.StdEncoding.Strict().DecodeString(key)
	if err != nil || len(raw) < 24 || len(raw) > 64 || strings.ContainsAny(key, "\r\n") {
		return invalid("invalid_signing_key", "signing_key", "must be the base64 text of 24 to 64 random bytes")
	}
	return nil
}

// validEmail is deliberately loose: one @ with something on both sides, no spaces or control
// characters. Whether the mailbox exists only a mail can tell.
func validEmail(address string) bool {
	at := strings.LastIndexByte(address, '@')
	return at > 0 && at < len(address)-1 && len(address) <= 254 &&
		strings.IndexFunc(address, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`<>",;`, r) }) < 0
}

// printable quotes what a caller gave, shortened, so that an error shows no control characters.
func printable(s string) string {
	if len(s) > 64 {
		s = strings.ToValidUTF8(s[:64], "") + "…"
	}
	return strconv.QuoteToGraphic(s)
}
