package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/relay"
)

// eventsCommand is staffetta events.
type eventsCommand struct {
	Send eventsSend `cmd:"" help:"Send events: a sample, a JSON object, or one object a line. Prints how many were accepted, how many of these were repeats, and how many were rejected."`
}

const (
	// batchLines and batchBytes are when a batch is full, well within what a relay takes at a time.
	batchLines = 1000
	batchBytes = 4 << 20
	// batchWait is how long a line of a slow input waits for others to go with.
	batchWait = 200 * time.Millisecond
	// patience is how long a relay that cannot store now is tried again, and patienceStep the longest
	// single wait that it may ask for.
	patience     = time.Minute
	patienceStep = 10 * time.Second
	// maxSamples bounds --count.
	maxSamples = 10_000_000
)

// eventsSend is staffetta events send.
type eventsSend struct {
	clientFlags
	Sample         string `help:"Send respond.io's example of this event type, with a new event_id." placeholder:"TYPE"`
	Count          int    `help:"How many samples." default:"1"`
	File           string `help:"Send the events of a file, or of standard input with -: one JSON object, or one a line." placeholder:"FILE"`
	NDJSON         bool   `name:"ndjson" help:"The input has one event a line, sent as the lines come. Default: by the file's name (.ndjson, .jsonl) or its content."`
	IdempotencyKey string `help:"Key of a single event: a repeat with the same key is accepted and not delivered again." placeholder:"KEY"`
	Input          string `arg:"" optional:"" help:"The same as --file; - is standard input."`
}

// Run is staffetta events send.
func (e *eventsSend) Run(s *surroundings) error {
	if err := e.check(); err != nil {
		return err
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	if e.Sample != "" {
		return e.sendSamples(s, c)
	}
	input := s.stdin
	if e.File != "-" {
		f, err := os.Open(e.File)
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		defer func() { _ = f.Close() }()
		input = f
	}
	input = interruptible(s.ctx, input)
	if !e.NDJSON {
		head, err := io.ReadAll(io.LimitReader(input, relay.MaxPayload+1))
		switch {
		case err != nil:
			return fmt.Errorf("read events: %w", err)
		case len(bytes.TrimSpace(head)) == 0:
			return errors.New("read events: the input is empty")
		case !hasManyEvents(head):
			return e.sendOne(s, c, head)
		case e.IdempotencyKey != "":
			return errKeyOfMany
		}
		input = io.MultiReader(bytes.NewReader(head), input)
	}
	return e.sendLines(s, c, func(ctx context.Context, lines chan<- inputLine) { readLines(ctx, input, lines) })
}

const errKeyOfMany = usageError("--idempotency-key goes with a single event; of many, each has its event_id")

// check refuses combinations of flags and settles File and NDJSON.
func (e *eventsSend) check() error {
	given := 0
	for _, source := range []string{e.Sample, e.File, e.Input} {
		if source != "" {
			given++
		}
	}
	if e.File == "" {
		e.File = e.Input
	}
	switch extension := strings.ToLower(filepath.Ext(e.File)); {
	case given != 1:
		return usageError("say what to send, one of --sample TYPE, --file FILE and - for standard input")
	case e.Count < 1 || e.Count > maxSamples:
		return usageError(fmt.Sprintf("--count must be 1 to %d", maxSamples))
	case e.Count > 1 && e.Sample == "":
		return usageError("--count goes with --sample")
	case e.Sample != "" && e.NDJSON:
		return usageError("--ndjson goes with a file or standard input")
	case e.Sample != "" && staffetta.Sample(e.Sample) == nil:
		return usageError(fmt.Sprintf("there is no sample of %q; there is one of %s", e.Sample, strings.Join(sampleTypes(), ", ")))
	case extension == ".ndjson" || extension == ".jsonl":
		e.NDJSON = true
	}
	if e.IdempotencyKey != "" && (e.NDJSON || e.Count > 1) {
		return errKeyOfMany
	}
	return nil
}

// sampleTypes are the event types that have a sample.
func sampleTypes() []string {
	var names []string
	for _, t := range staffetta.DefaultCatalogue().Types() {
		if staffetta.Sample(t.Name) != nil {
			names = append(names, t.Name)
		}
	}
	return names
}

// newSample is the sample of a type that has one, with an event_id of its own.
func newSample(eventType string) (id string, event []byte, err error) {
	p, err := staffetta.Canonicalize(staffetta.Sample(eventType))
	if err != nil {
		return "", nil, fmt.Errorf("read sample: %w", err)
	}
	id = uuid.Must(uuid.NewV7()).String()
	if p.EventID == nil {
		return id, p.AppendEventID(nil, id), nil
	}
	return id, bytes.Replace(p.Body, p.EventID, []byte(id), 1), nil
}

// withEventID gives an event without an event_id one, so that sending it again after a failure
// cannot deliver it twice. What is no event stays as it is: the relay says what is wrong with it.
func withEventID(event []byte) []byte {
	p, err := staffetta.Canonicalize(event)
	if err != nil || p.EventID != nil || p.EventType == nil {
		return event
	}
	if full := p.AppendEventID(nil, uuid.Must(uuid.NewV7()).String()); len(full) <= relay.MaxPayload {
		return full
	}
	return event
}

// hasManyEvents tells lines of JSON from one object: the text is not JSON as a whole, but two of its
// lines are objects.
func hasManyEvents(head []byte) bool {
	if len(head) <= relay.MaxPayload && json.Valid(head) {
		return false
	}
	objects := 0
	for line := range bytes.Lines(head) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] == '{' && json.Valid(line) {
			objects++
		}
		if objects == 2 {
			return true
		}
	}
	return false
}

// interruptible makes reads end with ctx. The goroutine of a read that never ends lives until the
// program does: a terminal cannot be told to stop.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	out, in := io.Pipe()
	go func() {
		_, err := io.Copy(in, r)
		_ = in.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { _ = out.CloseWithError(errInterrupted) })
	return out
}

// inputLine is one line of the input, or why there are no more.
type inputLine struct {
	number  int
	text    []byte
	tooLong bool
	err     error
}

// readLines hands on the lines that are not blank, then closes the channel.
func readLines(ctx context.Context, r io.Reader, lines chan<- inputLine) {
	defer close(lines)
	input := bufio.NewReaderSize(r, relay.MaxPayload+2) // with \r\n at its end
	for number := 1; ; number++ {
		text, err := input.ReadSlice('\n')
		l := inputLine{number: number, text: bytes.TrimSpace(text)}
		for errors.Is(err, bufio.ErrBufferFull) {
			l.tooLong, l.text = true, nil
			_, err = input.ReadSlice('\n')
		}
		l.text = bytes.Clone(l.text)
		if err != nil && !errors.Is(err, io.EOF) {
			l = inputLine{number: number, err: fmt.Errorf("read events: %w", err)}
		}
		if len(l.text) > 0 || l.tooLong || l.err != nil {
			select {
			case lines <- l:
			case <-ctx.Done():
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (e *eventsSend) sendSamples(s *surroundings, c *client) error {
	if e.Count == 1 {
		_, event, err := newSample(e.Sample)
		if err != nil {
			return err
		}
		return e.sendOne(s, c, event)
	}
	return e.sendLines(s, c, func(ctx context.Context, lines chan<- inputLine) {
		defer close(lines)
		for number := 1; number <= e.Count; number++ {
			_, event, err := newSample(e.Sample)
			select {
			case lines <- inputLine{number: number, text: event, err: err}:
			case <-ctx.Done():
				return
			}
		}
	})
}

// sendOne sends a single event.
func (e *eventsSend) sendOne(s *surroundings, c *client, event []byte) error {
	if len(event) > relay.MaxPayload {
		return fmt.Errorf("the event is larger than %d bytes, which is the most that a relay takes; or is it one event a line, which --ndjson says?", relay.MaxPayload)
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if e.IdempotencyKey != "" {
		header.Set("Idempotency-Key", e.IdempotencyKey)
	} else {
		event = withEventID(event)
	}
	raw, err := newPoster(s, c).post(s.ctx, header, event)
	if err != nil {
		return err
	}
	var answer struct {
		EventID   string `json:"event_id"`
		Endpoints int    `json:"endpoints"`
		Duplicate bool   `json:"duplicate"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return errUnknownAnswer
	}
	duplicates, fate := 0, "for "+count(answer.Endpoints, "endpoint")
	switch {
	case answer.Duplicate:
		duplicates, fate = 1, "is a repeat; it is not delivered again"
	case answer.Endpoints == 0:
		fate = "that no endpoint of the workspace wants"
	}
	return printLine(s.stdout, fmt.Sprintf("event %s %s\naccepted 1, duplicates %d, rejected 0", clean(answer.EventID), fate, duplicates))
}

// sendLines sends what read puts into the channel, in batches, and sums up.
func (e *eventsSend) sendLines(s *surroundings, c *client, read func(context.Context, chan<- inputLine)) error {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	lines := make(chan inputLine, 64) // which may be 1 MiB each
	go read(ctx, lines)
	b := &batches{poster: newPoster(s, c)}
	err := b.sendAll(s.ctx, lines)
	if err != nil && s.ctx.Err() != nil {
		err = errInterrupted // whatever it broke off
	}
	b.clearStatus()
	if summary := printLine(s.stdout, fmt.Sprintf("accepted %d, duplicates %d, rejected %d", b.accepted, b.duplicates, b.rejected)); err == nil {
		err = summary
	}
	switch {
	case err != nil && b.sent > 0:
		return fmt.Errorf("%w; what follows line %d was not sent", err, b.sent)
	case err == nil && b.rejected > 0:
		return fmt.Errorf("%s rejected", count(b.rejected, "line"))
	}
	return err
}

// batches gathers lines and posts them.
type batches struct {
	*poster
	body    bytes.Buffer
	numbers []int // of the lines in body
	// sent is the last line that was posted.
	sent                           int
	accepted, duplicates, rejected int
}

// sendAll posts the lines until the channel is closed.
func (b *batches) sendAll(ctx context.Context, lines <-chan inputLine) error {
	ticker := time.NewTicker(batchWait)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return errInterrupted
		case <-ticker.C:
			if err := b.flush(ctx); err != nil {
				return err
			}
		case line, open := <-lines:
			if !open {
				if ctx.Err() != nil { // the reader ended for that reason
					return errInterrupted
				}
				return b.flush(ctx)
			}
			if err := b.add(ctx, line); err != nil {
				return err
			}
		}
	}
}

// add takes a line, and posts those before it where there is no more room.
func (b *batches) add(ctx context.Context, line inputLine) error {
	switch {
	case line.err != nil:
		return errors.Join(line.err, b.flush(ctx))
	case line.tooLong:
		b.reject(line.number, fmt.Sprintf("longer than %d bytes, which is the most that a relay takes", relay.MaxPayload), "payload_too_large")
		return nil
	}
	event := withEventID(line.text)
	if len(b.numbers) == batchLines || b.body.Len()+len(event) > batchBytes {
		if err := b.flush(ctx); err != nil {
			return err
		}
	}
	b.numbers = append(b.numbers, line.number)
	b.body.Write(event)
	b.body.WriteByte('\n')
	return nil
}

// flush posts what was gathered.
func (b *batches) flush(ctx context.Context) error {
	if len(b.numbers) == 0 {
		return nil
	}
	raw, err := b.post(ctx, http.Header{"Content-Type": {"application/x-ndjson"}}, b.body.Bytes())
	if err != nil {
		return err
	}
	var answer struct {
		Accepted   int `json:"accepted"`
		Duplicates int `json:"duplicates"`
		Rejected   []struct {
			Line   int    `json:"line"`
			Code   string `json:"code"`
			Detail string `json:"detail"`
		} `json:"rejected"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return errUnknownAnswer
	}
	b.accepted += answer.Accepted
	b.duplicates += answer.Duplicates
	for _, r := range answer.Rejected {
		if r.Line >= 1 && r.Line <= len(b.numbers) {
			b.reject(b.numbers[r.Line-1], r.Detail, r.Code)
		}
	}
	b.sent = b.numbers[len(b.numbers)-1]
	b.status(fmt.Sprintf("%d sent, to line %d", b.accepted+b.rejected, b.sent))
	b.body.Reset()
	b.numbers = b.numbers[:0]
	return nil
}

func (b *batches) reject(line int, detail, code string) {
	b.rejected++
	b.clearStatus()
	_, _ = fmt.Fprintf(b.stderr, "line %d: %s (%s)\n", line, clean(detail), clean(code))
}

// poster posts events, with patience for a relay that cannot store them at the moment.
type poster struct {
	client   *client
	stderr   io.Writer
	terminal bool
	patience time.Duration
}

func newPoster(s *surroundings, c *client) *poster {
	return &poster{client: c, stderr: s.stderr, terminal: isTerminal(s.stderr), patience: patience}
}

// post tries again while the relay answers 503, when it asks to.
func (p *poster) post(ctx context.Context, header http.Header, body []byte) ([]byte, error) {
	for waited := time.Duration(0); ; {
		answer, err := p.client.send(ctx, http.MethodPost, p.client.workspacePath("events"), header, body)
		refused, ok := errors.AsType[*problem](err)
		if !ok || refused.Status != http.StatusServiceUnavailable {
			return answer, err
		}
		wait := min(max(refused.retryAfter, batchWait), patienceStep)
		if waited += wait; waited > p.patience {
			return nil, fmt.Errorf("gave up after trying for %s: %w", p.patience, err)
		}
		p.status(fmt.Sprintf("the relay cannot store events now; trying again in %s", wait))
		select {
		case <-ctx.Done():
			return nil, errInterrupted
		case <-time.After(wait):
		}
	}
}

// status replaces the one line of progress that a person at a terminal sees.
func (p *poster) status(line string) {
	if p.terminal {
		_, _ = fmt.Fprint(p.stderr, "\r\x1b[K"+line)
	}
}

func (p *poster) clearStatus() { p.status("") }
