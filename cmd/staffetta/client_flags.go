package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/staffetta-relay/staffetta"
)

const (
	defaultRelay    = "http://127.0.0.1:8080"
	defaultReceiver = "http://127.0.0.1:8091"
)

// service is a program that a command works on, in words.
type service struct {
	name  string // also of its flag and of the command that starts it
	url   string // where it is by default
	data  string // its data folder by default
	place string // what it calls where events go
}

var (
	relayService    = &service{name: "relay", url: defaultRelay, data: "./data", place: "endpoint"}
	receiverService = &service{name: "receiver", url: defaultReceiver, data: "./receiver", place: "target"}
)

// clientFlags say which relay a command talks to, and as whom.
type clientFlags struct {
	Relay     string `help:"URL of the relay's API." default:"http://127.0.0.1:8080" env:"STAFFETTA_URL,STAFFETTA_RELAY"`
	Key       string `help:"The admin key, or an API key of the workspace. Default, for a relay on this machine: the file admin.key of its data folder." env:"STAFFETTA_KEY,STAFFETTA_ADMIN_KEY" aliases:"admin-key" placeholder:"KEY"`
	Data      string `help:"Data folder of a relay on this machine, to read its admin key from. Default: ./data." type:"path" placeholder:"DIR"`
	Workspace string `help:"Workspace to work on. Required, for a relay." placeholder:"ID"`
}

// client checks the flags and finds the key.
func (f *clientFlags) client() (*client, error) {
	switch {
	case f.Workspace == "":
		return nil, usageError("missing flags: --workspace=ID")
	case !staffetta.ValidID(f.Workspace):
		return nil, usageError("--workspace must be 1 to 64 letters, digits, dashes or underscores")
	}
	c, err := relayService.client(f.Relay, f.Key, f.Data)
	if err != nil {
		return nil, err
	}
	c.workspace = f.Workspace
	return c, nil
}

// eitherFlags are those of a command that works on a relay or on a receiver.
type eitherFlags struct {
	clientFlags
	Receiver receiverFlag `help:"Work on a receiver in place of a relay: --receiver alone is http://127.0.0.1:8091, --receiver=URL the admin API at another place. There --workspace is left out, --endpoint is the id of a target, and --data the receiver's folder (default ./receiver)." env:"STAFFETTA_RECEIVER"`
}

// client is that of the receiver, where one is named.
func (f *eitherFlags) client() (*client, error) {
	switch {
	case f.Receiver == "" && f.Workspace == "":
		return nil, usageError("missing flags: --workspace=ID of a relay, or --receiver")
	case f.Receiver == "":
		return f.clientFlags.client()
	// What the environment says of a relay is for other commands.
	case f.Workspace != "" && !inEnvironment(f.Workspace, "STAFFETTA_WORKSPACE"):
		return nil, usageError("--workspace does not go with --receiver (or STAFFETTA_RECEIVER): a receiver has no workspaces")
	case f.Relay != defaultRelay && !inEnvironment(f.Relay, "STAFFETTA_URL", "STAFFETTA_RELAY"):
		return nil, usageError("--relay does not go with --receiver (or STAFFETTA_RECEIVER): name one of the two")
	}
	return receiverService.client(string(f.Receiver), f.Key, f.Data)
}

// inEnvironment says whether a value may have come from there.
func inEnvironment(value string, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return os.Getenv(name) == value })
}

// receiverFlags are those of a command that works on a receiver only.
type receiverFlags struct {
	Receiver receiverFlag `help:"The receiver's admin API, as --receiver=URL. Default: http://127.0.0.1:8091." env:"STAFFETTA_RECEIVER"`
	Key      string       `help:"The receiver's admin key. Default, for one on this machine: the file admin.key of its data folder." env:"STAFFETTA_KEY,STAFFETTA_ADMIN_KEY" aliases:"admin-key" placeholder:"KEY"`
	Data     string       `help:"Data folder of a receiver on this machine, to read its admin key from. Default: ./receiver." type:"path" placeholder:"DIR"`
}

// client checks the flags and finds the key.
func (f *receiverFlags) client() (*client, error) {
	return receiverService.client(cmp.Or(string(f.Receiver), defaultReceiver), f.Key, f.Data)
}

// relayFlags are those of a command that works on a relay only, though others of its kind take a receiver.
type relayFlags struct {
	clientFlags
	Receiver receiverFlag `hidden:"" env:"-"`
}

// client refuses a receiver; why says what is done there instead.
func (f *relayFlags) client(why string) (*client, error) {
	if f.Receiver != "" {
		return nil, usageError("this does not go with --receiver: " + why)
	}
	return f.clientFlags.client()
}

// receiverFlag is --receiver: alone it is the default, and empty where it is left out.
type receiverFlag string

// IsBool lets the flag stand without a value.
func (*receiverFlag) IsBool() bool { return true }

// Decode reads the flag's value where it has one, behind = or a space. Behind a space it must begin
// as a URL does, for it may be the next argument.
func (f *receiverFlag) Decode(ctx *kong.DecodeContext) error {
	token := ctx.Scan.Peek()
	text := fmt.Sprint(token.Value)
	isURL := strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://")
	*f = defaultReceiver
	if token.Type != kong.FlagValueToken && !isURL {
		return nil
	}
	ctx.Scan.Pop()
	switch text {
	case "true":
	case "false", "":
		*f = ""
	default:
		*f = receiverFlag(text)
	}
	return nil
}

// client makes one of the service.
func (at *service) client(raw, key, data string) (*client, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, usageError("--" + at.name + " must be the URL of a " + at.name + ", such as " + at.url)
	}
	if key, err = at.findKey(u, strings.TrimSpace(key), data); err != nil {
		return nil, err
	}
	return newClient(at, u, key), nil
}

// findKey takes the key that was given, else that of a service on this machine: the key of one is
// not for another one elsewhere.
func (at *service) findKey(u *url.URL, key, data string) (string, error) {
	if data == "" {
		data = kong.ExpandPath(at.data)
	}
	if key == "" && isLoopback(u.Hostname()) {
		text, err := os.ReadFile(filepath.Join(data, "admin.key"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read admin key: %w", err)
		}
		key = strings.TrimSpace(string(text))
	}
	switch {
	case key == "" && isLoopback(u.Hostname()):
		return "", usageError("no key: give one with --key or STAFFETTA_ADMIN_KEY, or name the " + at.name + "'s data folder with --data (there is no admin.key in " + data + ")")
	case key == "":
		return "", usageError("no key: give one with --key or STAFFETTA_ADMIN_KEY")
	case strings.IndexFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0:
		return "", usageError("the key has characters that no key has")
	}
	return key, nil
}

func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}

// filterFlags select what happened to events.
type filterFlags struct {
	Endpoint  string `help:"Only of this endpoint; of a receiver, of this target." placeholder:"ID"`
	EventType string `help:"Only of events of this type." placeholder:"TYPE"`
	Since     moment `help:"Only from this time on: RFC 3339, or how long ago, such as 2h or 3d." placeholder:"TIME"`
	Until     moment `help:"Only before this time." placeholder:"TIME"`
}

// query is what the flags say, as the API takes it; more are other names and values.
func (f *filterFlags) query(more ...string) (url.Values, error) {
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until.Time) {
		return nil, usageError("--until must be later than --since")
	}
	query := url.Values{}
	set := func(name, value string) {
		if value != "" {
			query.Set(name, value)
		}
	}
	set("endpoint", f.Endpoint)
	set("event_type", f.EventType)
	set("since", f.Since.text())
	set("until", f.Until.text())
	for i := 0; i+1 < len(more); i += 2 {
		set(more[i], more[i+1])
	}
	return query, nil
}

// eventFilterFlags can select what happened to one event, too.
type eventFilterFlags struct {
	filterFlags
	EventID string `help:"Only of this event." placeholder:"ID"`
}

func (f *eventFilterFlags) query(more ...string) (url.Values, error) {
	return f.filterFlags.query(append(more, "event_id", f.EventID)...)
}

// jsonLines is --json of a command that prints many things.
type jsonLines struct {
	JSON bool `help:"Print one JSON object a line, as they come."`
}

// jsonAnswer is --json of a command that prints one.
type jsonAnswer struct {
	JSON bool `help:"Print the answer as it comes."`
}

// listFlags bound a list.
type listFlags struct {
	Limit int `help:"Show this many at most; 0: all." default:"50"`
	jsonLines
}

func (f *listFlags) check(things string) error {
	if f.Limit < 0 {
		return usageError("--limit must be a number of " + things + ", or 0 for all")
	}
	return nil
}
