package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// silence is how long a stream may bring nothing: one that is followed says every 15 seconds that it
// lives, and an export looks through the store for seconds.
const silence = 45 * time.Second

var errSilent = errors.New("silent")

// stream is an answer that is read while it comes.
type stream struct {
	client *client
	ctx    context.Context //nolint:containedctx // of the request, whose end every read has to know
	body   io.ReadCloser
	alarm  *time.Timer
	cancel context.CancelCauseFunc
}

// open starts reading an answer that may take long; it breaks off after too long a silence.
func (c *client) open(ctx context.Context, path string, header http.Header) (*stream, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stream{client: c, ctx: ctx, cancel: cancel}
	s.alarm = time.AfterFunc(silence, func() { cancel(errSilent) })
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make request: %w", err), s.Close())
	}
	request.Header = header.Clone()
	request.Header.Set("Authorization", "Bearer "+c.key)
	request.Header.Set("User-Agent", "staffetta-cli/"+version)
	response, err := c.http.Do(request)
	if err != nil {
		err = s.broken(err)
		return nil, errors.Join(err, s.Close())
	}
	s.body = response.Body
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer)) // what is missing shows below
		return nil, errors.Join(c.problem(response, text), s.Close())
	}
	return s, nil
}

// broken says why nothing more comes.
func (s *stream) broken(err error) error {
	switch {
	case errors.Is(context.Cause(s.ctx), errSilent):
		return fmt.Errorf("the %s at %s sent nothing for %s", s.client.at.name, s.client.shown, silence)
	default:
		return s.client.unreachable(s.ctx, err, silence)
	}
}

// Read gives what came.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.body.Read(p)
	s.alarm.Reset(silence)
	if err != nil && !errors.Is(err, io.EOF) {
		err = s.broken(err)
	}
	return n, err
}

// Close ends the stream.
func (s *stream) Close() error {
	s.alarm.Stop()
	s.cancel(nil)
	if s.body != nil {
		return s.body.Close()
	}
	return nil
}

// pages hands on the items of a list, page by page, up to limit of them; 0 is all. more says whether
// the list has others.
func (c *client) pages(ctx context.Context, path string, query url.Values, limit int, each func([]json.RawMessage) error) (more bool, err error) {
	query = maps.Clone(query)
	if query == nil {
		query = url.Values{}
	}
	for given := 0; ; {
		want := pageSize
		if limit > 0 {
			want = min(want, limit-given)
		}
		query.Set("limit", strconv.Itoa(want))
		var page struct {
			Items      []json.RawMessage `json:"items"`
			NextCursor string            `json:"next_cursor"`
		}
		if err := c.call(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &page); err != nil {
			return false, err
		}
		if len(page.Items) > 0 {
			if err := each(page.Items); err != nil {
				return false, err
			}
		}
		given += len(page.Items)
		switch {
		case page.NextCursor == "" || page.NextCursor == query.Get("cursor"):
			return false, nil
		case limit > 0 && given >= limit:
			return true, nil
		}
		query.Set("cursor", page.NextCursor)
	}
}

// printLines prints items for programs, one a line.
func printLines(w io.Writer, items []json.RawMessage) error {
	var out bytes.Buffer
	for _, item := range items {
		if err := json.Compact(&out, item); err != nil {
			return errUnknownAnswer
		}
		out.WriteByte('\n')
	}
	_, err := out.WriteTo(w)
	return err
}

// progress is the one line that a person at a terminal sees change; programs see nothing of it.
type progress struct {
	w        io.Writer
	terminal bool
	shown    bool
}

func newProgress(w io.Writer) *progress { return &progress{w: w, terminal: isTerminal(w)} }

// show replaces the line.
func (p *progress) show(line string) {
	if p.terminal {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K"+line)
		p.shown = true
	}
}

// clear takes the line away.
func (p *progress) clear() {
	if p.shown {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}
