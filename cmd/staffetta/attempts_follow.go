package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	// followRetry is the first wait after a lost connection; it doubles up to followRetryMost.
	followRetry     = time.Second
	followRetryMost = 10 * time.Second
	// maxFollowed bounds one line of a stream: an attempt has up to 2 KiB of a response in it.
	maxFollowed = 1 << 20
)

// follower shows new attempts as they end. After a lost connection it goes on where it was.
type follower struct {
	s       *surroundings
	client  *client
	query   url.Values
	limit   int
	printer *attemptPrinter

	last string          // the id of the last attempt that was shown
	seen map[string]bool // those shown before the stream, which may come in it again
}

func newFollower(s *surroundings, c *client, query url.Values, limit int, p *attemptPrinter) *follower {
	return &follower{s: s, client: c, query: query, limit: limit, printer: p, seen: map[string]bool{}}
}

// run follows until Ctrl-C, which is how it ends well.
func (f *follower) run() error {
	stream, err := f.open()
	if err == nil {
		if err = f.showBefore(); err != nil {
			err = errors.Join(err, stream.Close())
		}
	}
	for wait := followRetry; err == nil; {
		begun := time.Now()
		broken := f.read(stream)
		if f.s.ctx.Err() != nil {
			break
		}
		if unprintable, ok := errors.AsType[*printError](broken); ok {
			return unprintable.error
		}
		if time.Since(begun) > followRetryMost {
			wait = followRetry
		}
		f.say("the connection to the " + f.client.at.name + " was lost; trying again")
		stream, err = f.reopen(&wait)
	}
	if f.s.ctx.Err() != nil {
		return nil
	}
	return err
}

func (f *follower) say(line string) { _, _ = fmt.Fprintln(f.s.stderr, "staffetta: "+line) }

func (f *follower) open() (*stream, error) {
	header := http.Header{"Accept": {"text/event-stream"}}
	if f.last != "" {
		header.Set("Last-Event-ID", f.last)
	}
	path := f.client.workspacePath("attempts", "follow")
	if len(f.query) > 0 {
		path += "?" + f.query.Encode()
	}
	return f.client.open(f.s.ctx, path, header)
}

// reopen tries until the service is there again, or refuses for good.
func (f *follower) reopen(wait *time.Duration) (*stream, error) {
	for {
		select {
		case <-f.s.ctx.Done():
			return nil, errInterrupted
		case <-time.After(*wait):
		}
		*wait = min(2**wait, followRetryMost)
		stream, err := f.open()
		if refused, ok := errors.AsType[*problem](err); ok && refused.Status < http.StatusInternalServerError {
			return nil, err
		}
		if err != nil {
			continue
		}
		line := "connected again"
		if f.last == "" {
			line += "; attempts in between may be missing"
		}
		f.say(line)
		return stream, nil
	}
}

// showBefore shows the attempts before the stream, oldest first.
func (f *follower) showBefore() error {
	if f.limit == 0 {
		f.limit = attemptsBeforeSince
	}
	var before []json.RawMessage
	_, err := f.client.pages(f.s.ctx, f.client.workspacePath("attempts"), f.query, f.limit, func(items []json.RawMessage) error {
		before = append(before, items...)
		return nil
	})
	if err != nil {
		return err
	}
	slices.Reverse(before)
	for _, item := range before {
		var a attempt
		if err := json.Unmarshal(item, &a); err != nil {
			return errUnknownAnswer
		}
		f.last, f.seen[a.ID] = a.ID, true
	}
	if len(before) == 0 && isTerminal(f.s.stderr) {
		f.say("no attempts yet; waiting for the first, Ctrl-C ends")
	}
	return f.printer.print(before)
}

// printError is one of our own output, after which following on is of no use.
type printError struct{ error }

// read shows what the stream brings until it ends. It closes the stream.
func (f *follower) read(stream *stream) error {
	defer func() { _ = stream.Close() }()
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, maxFollowed)
	var id, event string
	var data []byte
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "":
			if err := f.take(id, event, data); err != nil {
				return err
			}
			id, event, data = "", "", nil
		case name == "id":
			id = value
		case name == "event":
			event = value
		case name == "data":
			data = append(data, value...)
		}
	}
	return lines.Err()
}

// take shows one event of the stream.
func (f *follower) take(id, event string, data []byte) error {
	switch event {
	case "attempt":
		if id != "" {
			f.last = id
		}
		if f.seen[id] {
			delete(f.seen, id)
			return nil
		}
		if err := f.printer.print([]json.RawMessage{bytes.Clone(data)}); err != nil {
			return &printError{err}
		}
	case "lagged":
		var lagged struct {
			Missed *int `json:"missed"`
		}
		if json.Unmarshal(data, &lagged) == nil && lagged.Missed != nil {
			f.say("too slow: " + count(*lagged.Missed, "attempt") + " left out here")
		} else {
			f.say(`some attempts are left out here; "staffetta attempts --since" shows them`)
		}
	}
	return nil
}
