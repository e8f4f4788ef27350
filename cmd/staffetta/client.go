package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/staffetta-relay/staffetta"
)

const (
	// answerTimeout bounds one request to the relay.
	answerTimeout = 30 * time.Second
	// testTimeout bounds a test send, whose answer waits for the endpoint's: a relay's deadline is 5
	// minutes at most.
	testTimeout = 5*time.Minute + answerTimeout
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 64 << 20
	// pageSize is how many items of a list are asked for at a time.
	pageSize = 500
)

// clientFlags say which relay a command talks to, and as whom.
type clientFlags struct {
	Relay     string `help:"URL of the relay's API." default:"http://127.0.0.1:8080" env:"STAFFETTA_URL,STAFFETTA_RELAY"`
	Key       string `help:"The admin key, or an API key of the workspace. Default, for a relay on this machine: the file admin.key of its data folder." env:"STAFFETTA_KEY,STAFFETTA_ADMIN_KEY" aliases:"admin-key" placeholder:"KEY"`
	Data      string `help:"Data folder of a relay on this machine, to read its admin key from." default:"./data" type:"path"`
	Workspace string `help:"Workspace to work on." required:"" placeholder:"ID"`
}

// client makes the requests of one command.
type client struct {
	base      string // the relay's URL without a slash at its end
	shown     string // the same, without a password
	key       string
	workspace string
	http      *http.Client
}

// client checks the flags and finds the key.
func (f *clientFlags) client() (*client, error) {
	u, err := url.Parse(f.Relay)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, usageError("--relay must be the URL of a relay, such as http://127.0.0.1:8080")
	}
	if !staffetta.ValidID(f.Workspace) {
		return nil, usageError("--workspace must be 1 to 64 letters, digits, dashes or underscores")
	}
	key, err := f.findKey(u)
	if err != nil {
		return nil, err
	}
	return &client{
		base: strings.TrimRight(u.String(), "/"), shown: strings.TrimRight(u.Redacted(), "/"), key: key, workspace: f.Workspace,
		http: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}, nil
}

// findKey takes the key that was given, else that of a relay on this machine: the key of one relay
// is not for another one elsewhere.
func (f *clientFlags) findKey(relay *url.URL) (string, error) {
	key := strings.TrimSpace(f.Key)
	if key == "" && isLoopback(relay.Hostname()) {
		text, err := os.ReadFile(filepath.Join(f.Data, "admin.key"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read admin key: %w", err)
		}
		key = strings.TrimSpace(string(text))
	}
	switch {
	case key == "" && isLoopback(relay.Hostname()):
		return "", usageError("no key: give one with --key or STAFFETTA_ADMIN_KEY, or name the relay's data folder with --data (there is no admin.key in " + f.Data + ")")
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

// workspacePath is a path below the workspace's, or its own where there are no elements.
func (c *client) workspacePath(elements ...string) string {
	path := []string{"/v1/workspaces", url.PathEscape(c.workspace)}
	for _, e := range elements {
		path = append(path, url.PathEscape(e))
	}
	return strings.Join(path, "/")
}

// call sends body, as JSON unless it is nil, and reads the answer's JSON into answer unless that is nil.
func (c *client) call(ctx context.Context, method, path string, body, answer any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return fmt.Errorf("write request: %w", err)
		}
	}
	got, err := c.send(ctx, method, path, http.Header{"Content-Type": {"application/json"}}, text)
	if err != nil || answer == nil {
		return err
	}
	if err := json.Unmarshal(got, answer); err != nil {
		return c.notARelay()
	}
	return nil
}

// send makes one request and returns the answer's body. An answer that is an error is a *problem.
func (c *client) send(ctx context.Context, method, path string, header http.Header, body []byte) ([]byte, error) {
	timeout := answerTimeout
	if strings.HasSuffix(path, "/test") {
		timeout = testTimeout
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(bounded, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	request.Header = header.Clone()
	if len(body) == 0 {
		request.Header.Del("Content-Type")
	}
	request.Header.Set("Authorization", "Bearer "+c.key)
	request.Header.Set("User-Agent", "staffetta-cli/"+version)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.unreachable(ctx, err, timeout)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	switch {
	case err != nil:
		return nil, c.unreachable(ctx, err, timeout)
	case response.StatusCode < 200 || response.StatusCode > 299:
		return nil, c.problem(response, got)
	}
	return got, nil
}

// unreachable says why there was no answer, and what to do.
func (c *client) unreachable(ctx context.Context, err error, timeout time.Duration) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok { // it repeats the method and the URL
		err = wrapped.Err
	}
	switch {
	case ctx.Err() != nil:
		return errInterrupted
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the relay at %s did not answer within %s", c.shown, timeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf(`%w at %s: start a relay with "staffetta relay", or name the one to use with --relay`, errNothingListens, c.shown)
	default:
		return fmt.Errorf("reach the relay at %s: %w", c.shown, err)
	}
}

var (
	errInterrupted = errors.New("interrupted")
	// errNothingListens: what was asked for cannot have begun.
	errNothingListens = errors.New("nothing listens")
	// errUnknownAnswer: JSON came back, but not what this version knows.
	errUnknownAnswer = errors.New("the relay's answer cannot be read; is it of another version?")
)

func (c *client) notARelay() error {
	return fmt.Errorf("what answers at %s is not a Staffetta relay; name the relay with --relay", c.shown)
}

// problem is an error as the relay tells it.
type problem struct {
	Status     int    `json:"status"`
	Code       string `json:"code"`
	Detail     string `json:"detail"`
	Field      string `json:"field"`
	retryAfter time.Duration
}

func (c *client) problem(response *http.Response, body []byte) error {
	p := &problem{}
	if err := json.Unmarshal(body, p); err != nil || p.Code == "" {
		return fmt.Errorf("%w (status %d)", c.notARelay(), response.StatusCode)
	}
	p.Status = response.StatusCode
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		p.retryAfter = time.Duration(min(seconds, 3600)) * time.Second
	}
	return p
}

// Error is the relay's sentence with its code, and what to do about it on the command line.
func (p *problem) Error() string {
	switch p.Code {
	case "unauthorized":
		return "the relay does not know this key; give another with --key or STAFFETTA_ADMIN_KEY (unauthorized)"
	case "workspace_not_found":
		return `the workspace does not exist; "staffetta endpoints add --plan advanced" with the admin key makes it (workspace_not_found)`
	case "plan_required":
		return clean(p.Detail) + "; --plan changes it (plan_required)"
	}
	text := clean(p.Detail)
	if p.Field != "" {
		text = clean(p.Field) + ": " + text
	}
	return text + " (" + clean(p.Code) + ")"
}

// list reads every page of a collection.
func (c *client) list(ctx context.Context, path string) ([]json.RawMessage, error) {
	items := []json.RawMessage{}
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	for {
		var page struct {
			Items      []json.RawMessage `json:"items"`
			NextCursor string            `json:"next_cursor"`
		}
		if err := c.call(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &page); err != nil {
			return nil, err
		}
		items = append(items, page.Items...)
		if page.NextCursor == "" || page.NextCursor == query.Get("cursor") {
			return items, nil
		}
		query.Set("cursor", page.NextCursor)
	}
}

// eventTypes are the names of the relay's catalogue.
func (c *client) eventTypes(ctx context.Context) ([]string, error) {
	var page struct {
		Items []staffetta.EventType `json:"items"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/event-types", nil, &page); err != nil {
		return nil, err
	}
	names := make([]string, len(page.Items))
	for i, t := range page.Items {
		names[i] = t.Name
	}
	return names, nil
}
