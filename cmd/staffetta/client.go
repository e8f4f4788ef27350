package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/staffetta-relay/staffetta"
)

const (
	// answerTimeout bounds one request.
	answerTimeout = 30 * time.Second
	// testTimeout bounds a test send, whose answer waits for the endpoint's: a relay's deadline is 5
	// minutes at most.
	testTimeout = 5*time.Minute + answerTimeout
	// replayTimeout bounds a replay at a receiver, which answers once all of it is in line.
	replayTimeout = 10 * time.Minute
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 64 << 20
	// pageSize is how many items of a list are asked for at a time.
	pageSize = 500
)

// client makes the requests of one command.
type client struct {
	at        *service
	base      string // the service's URL without a slash at its end
	shown     string // the same, without a password
	key       string
	workspace string // of a relay
	http      *http.Client
}

// newClient speaks to a service with a key; it follows no redirect.
func newClient(at *service, u *url.URL, key string) *client {
	return &client{
		at: at, base: strings.TrimRight(u.String(), "/"), shown: strings.TrimRight(u.Redacted(), "/"), key: key,
		http: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
}

// ofReceiver says that the client speaks to a receiver.
func (c *client) ofReceiver() bool { return c.at == receiverService }

// flags are those that lead another command to the same receiver; to a relay the person knows them.
func (c *client) flags() string {
	switch {
	case !c.ofReceiver():
		return ""
	case c.shown == defaultReceiver:
		return " --receiver"
	default:
		return " --receiver=" + c.shown
	}
}

// whose says of whom dead letters are.
func (c *client) whose() string {
	if c.ofReceiver() {
		return "receiver at " + c.shown
	}
	return "workspace " + c.workspace
}

// workspacePath is a path below the workspace's, or its own where there are no elements. A receiver
// has the same paths without a workspace.
func (c *client) workspacePath(elements ...string) string {
	path := []string{"/v1"}
	if !c.ofReceiver() {
		path = append(path, "workspaces", url.PathEscape(c.workspace))
	}
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
		return c.notOurs()
	}
	return nil
}

// patience bounds one request.
func (c *client) patience(method, path string) time.Duration {
	switch {
	case strings.HasSuffix(path, "/test"):
		return testTimeout
	case c.ofReceiver() && method == http.MethodPost && strings.HasSuffix(path, "/replays"):
		return replayTimeout
	default:
		return answerTimeout
	}
}

// send makes one request and returns the answer's body. An answer that is an error is a *problem.
func (c *client) send(ctx context.Context, method, path string, header http.Header, body []byte) ([]byte, error) {
	timeout := c.patience(method, path)
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
		return fmt.Errorf("the %s at %s did not answer within %s", c.at.name, c.shown, timeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf(`%w at %s: start a %[3]s with "staffetta %[3]s", or name the one to use with --%[3]s`, errNothingListens, c.shown, c.at.name)
	default:
		return fmt.Errorf("reach the %s at %s: %w", c.at.name, c.shown, err)
	}
}

var (
	errInterrupted = errors.New("interrupted")
	// errNothingListens: what was asked for cannot have begun.
	errNothingListens = errors.New("nothing listens")
	// errUnknownAnswer: JSON came back, but not what this version knows.
	errUnknownAnswer = errors.New("the answer cannot be read; is it of another version?")
)

func (c *client) notOurs() error {
	return fmt.Errorf("what answers at %s is not a Staffetta %[2]s; name the %[2]s with --%[2]s", c.shown, c.at.name)
}

// problem is an error as the service tells it.
type problem struct {
	Status     int    `json:"status"`
	Code       string `json:"code"`
	Detail     string `json:"detail"`
	Field      string `json:"field"`
	at         *service
	retryAfter time.Duration
}

func (c *client) problem(response *http.Response, body []byte) error {
	p := &problem{at: c.at}
	if err := json.Unmarshal(body, p); err != nil || p.Code == "" {
		return fmt.Errorf("%w (status %d)", c.notOurs(), response.StatusCode)
	}
	p.Status = response.StatusCode
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		p.retryAfter = time.Duration(min(seconds, 3600)) * time.Second
	}
	return p
}

// Error is the service's sentence with its code, and what to do about it on the command line.
func (p *problem) Error() string {
	switch p.Code {
	case "unauthorized":
		return "the " + p.at.name + " does not know this key; give another with --key or STAFFETTA_ADMIN_KEY (unauthorized)"
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
