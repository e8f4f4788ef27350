package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// deadLettersCommand is staffetta dead-letters.
type deadLettersCommand struct {
	List   deadLettersList   `cmd:"" help:"List the events that were given up, newest first."`
	Show   deadLettersShow   `cmd:"" help:"Show one with its payload and its last attempts."`
	Export deadLettersExport `cmd:"" help:"Write them all to standard output, one JSON object a line, newest first."`
	Delete deadLettersDelete `cmd:"" help:"Delete some by their ids, or all of an endpoint or a time."`
}

// deadLetter is a dead letter as the service shows it.
type deadLetter struct {
	ID        string          `json:"id"`
	EventID   string          `json:"event_id"`
	EventType string          `json:"event_type"`
	Endpoint  string          `json:"endpoint"`
	Error     string          `json:"error"`
	Attempts  int             `json:"attempts"`
	StoredAt  *time.Time      `json:"stored_at"`
	DroppedAt time.Time       `json:"dropped_at"`
	Payload   json.RawMessage `json:"payload"`
}

type deadLettersList struct {
	eitherFlags
	eventFilterFlags
	listFlags
}

// Run is staffetta dead-letters list.
func (l *deadLettersList) Run(s *surroundings) error {
	if err := l.check("dead letters"); err != nil {
		return err
	}
	query, err := l.query()
	if err != nil {
		return err
	}
	c, err := l.client()
	if err != nil {
		return err
	}
	t := table{head: []string{"ID", "DROPPED", "ERROR", "ATTEMPTS", "EVENT", "EVENT ID", strings.ToUpper(c.at.place)}}
	shown := 0
	more, err := c.pages(s.ctx, c.workspacePath("dead-letters"), query, l.Limit, func(items []json.RawMessage) error {
		shown += len(items)
		if l.JSON {
			return printLines(s.stdout, items)
		}
		for _, item := range items {
			var d deadLetter
			if err := json.Unmarshal(item, &d); err != nil {
				return errUnknownAnswer
			}
			t.add(left(d.ID), left(d.DroppedAt.UTC().Format(time.RFC3339)), cell{text: shorten(d.Error, 60), colour: red},
				number(d.Attempts), left(d.EventType), left(d.EventID), left(d.Endpoint))
		}
		return t.print(s.stdout)
	})
	switch {
	case err != nil || l.JSON:
		return err
	case shown == 0 && len(query) > 0:
		return printLine(s.stdout, "No dead letters match.")
	case shown == 0:
		return printLine(s.stdout, "The "+c.whose()+" has no dead letters.")
	case more:
		_, _ = fmt.Fprintf(s.stderr, "These are the newest %d; --limit shows more (0: all).\n", shown)
	}
	return nil
}

type deadLettersShow struct {
	eitherFlags
	ID string `arg:"" help:"Id of the dead letter." placeholder:"ID"`
	jsonAnswer
}

// Run is staffetta dead-letters show.
func (d *deadLettersShow) Run(s *surroundings) error {
	c, err := d.client()
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := c.call(s.ctx, http.MethodGet, c.workspacePath("dead-letters", d.ID), nil, &raw); err != nil {
		return err
	}
	if d.JSON {
		return printLine(s.stdout, string(raw))
	}
	var letter deadLetter
	var payload bytes.Buffer
	if json.Unmarshal(raw, &letter) != nil || json.Indent(&payload, letter.Payload, "", "  ") != nil {
		return errUnknownAnswer
	}
	now, stored := time.Now(), ""
	if letter.StoredAt != nil {
		stored = when(*letter.StoredAt, now)
	}
	err = printFields(s.stdout, [][2]string{
		{"dead letter", letter.ID},
		{"event", letter.EventID},
		{"event type", letter.EventType},
		{c.at.place, letter.Endpoint},
		{"accepted", stored},
		{"dropped", when(letter.DroppedAt, now)},
		{"because", letter.Error + ", after " + count(letter.Attempts, "attempt")},
		{"send again", "staffetta replay " + letter.EventID + " --endpoint " + letter.Endpoint + c.flags()},
	}, "")
	if err != nil {
		return err
	}
	query := url.Values{"event_id": {letter.EventID}, "endpoint": {letter.Endpoint}}
	attempts := lastAttempts(s, c, query, 10)
	slices.Reverse(attempts)
	if err := printUnder(s, "attempts", attempts, true); err != nil {
		return err
	}
	var out strings.Builder
	out.WriteString("\n" + paintFor(s.stdout).text(bold, "payload") + "\n")
	for line := range strings.Lines(payload.String()) {
		out.WriteString(clean(strings.TrimSuffix(line, "\n")) + "\n")
	}
	_, err = io.WriteString(s.stdout, out.String())
	return err
}

type deadLettersExport struct {
	eitherFlags
	eventFilterFlags
}

// Run is staffetta dead-letters export.
func (e *deadLettersExport) Run(s *surroundings) error {
	query, err := e.query()
	if err != nil {
		return err
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	p := newProgress(s.stderr)
	p.terminal = p.terminal && !isTerminal(s.stdout) // the lines themselves are there to see
	export := exportStream
	if c.ofReceiver() {
		export = exportPages
	}
	n, err := export(s, c, query, func(n int) { p.show(count(n, "dead letter") + " so far") })
	p.clear()
	if err != nil {
		return fmt.Errorf("the export is not complete, %s came: %w", count(n, "dead letter"), err)
	}
	_, _ = fmt.Fprintln(s.stderr, "exported "+count(n, "dead letter"))
	return nil
}

// exportStream takes all that a relay has in one answer.
func exportStream(s *surroundings, c *client, query url.Values, each func(int)) (n int, err error) {
	stream, err := c.open(s.ctx, c.workspacePath("dead-letters")+"?"+query.Encode(), http.Header{"Accept": {"application/x-ndjson"}})
	if err != nil {
		return 0, err
	}
	defer func() { _ = stream.Close() }()
	return copyLetters(s.stdout, stream, each)
}

// exportPages takes what a receiver has page by page: it gives nothing else.
func exportPages(s *surroundings, c *client, query url.Values, each func(int)) (n int, err error) {
	_, err = c.pages(s.ctx, c.workspacePath("dead-letters"), query, 0, func(items []json.RawMessage) error {
		if err := printLines(s.stdout, items); err != nil {
			return err
		}
		n += len(items)
		each(n)
		return nil
	})
	return n, err
}

// exportStep is after how many letters the progress is shown anew.
const exportStep = 500

// copyLetters copies the lines, and says how many. An export that the relay could not finish has a
// problem as its last line, which is not copied.
func copyLetters(w io.Writer, r io.Reader, each func(int)) (n int, err error) {
	in, out := bufio.NewReaderSize(r, 64<<10), bufio.NewWriterSize(w, 64<<10)
	for {
		line, err := in.ReadBytes('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return n, out.Flush()
		case errors.Is(err, io.EOF):
			return n, errors.Join(io.ErrUnexpectedEOF, out.Flush())
		case err != nil:
			return n, errors.Join(err, out.Flush())
		}
		if p := problemLine(line); p != nil {
			return n, errors.Join(p, out.Flush())
		}
		if _, err := out.Write(line); err != nil {
			return n, fmt.Errorf("write dead letters: %w", err)
		}
		if n++; n%exportStep == 0 {
			each(n)
		}
	}
}

// problemLine is a line that is a problem in place of a letter.
func problemLine(line []byte) error {
	if !bytes.HasPrefix(line, []byte(`{"type":`)) { // a letter begins with its id
		return nil
	}
	p := &problem{at: relayService}
	if err := json.Unmarshal(line, p); err != nil || p.Code == "" {
		return errUnknownAnswer
	}
	return p
}

type deadLettersDelete struct {
	eitherFlags
	filterFlags
	IDs []string `arg:"" optional:"" name:"id" help:"Ids of dead letters." placeholder:"ID"`
	Yes bool     `short:"y" help:"Do not ask before deleting by a filter."`
}

// Run is staffetta dead-letters delete.
func (d *deadLettersDelete) Run(s *surroundings) error {
	query, err := d.query()
	switch {
	case err != nil:
		return err
	case len(d.IDs) > 0 && len(query) > 0:
		return usageError("give ids or a filter, not both")
	case len(d.IDs) == 0 && d.Endpoint == "" && d.Since.IsZero() && d.Until.IsZero():
		return usageError("say which dead letters to delete: their ids, or --endpoint, --since or --until")
	case d.Receiver != "" && d.EventType != "":
		return usageError("--event-type does not go with --receiver: a receiver deletes by ids, --endpoint, --since and --until")
	}
	c, err := d.client()
	if err != nil {
		return err
	}
	if len(d.IDs) == 0 {
		return d.deleteMatching(s, c, query)
	}
	for i, id := range d.IDs {
		if err := c.call(s.ctx, http.MethodDelete, c.workspacePath("dead-letters", id), nil, nil); err != nil {
			if i > 0 {
				err = fmt.Errorf("%w; deleted before it: %s", err, count(i, "dead letter"))
			}
			return err
		}
	}
	return printLine(s.stdout, "deleted "+count(len(d.IDs), "dead letter"))
}

// deleteMatching deletes by a filter, in as many requests as that takes.
func (d *deadLettersDelete) deleteMatching(s *surroundings, c *client, query url.Values) error {
	if !d.Yes {
		if err := d.confirm(s, c); err != nil {
			return err
		}
	}
	p := newProgress(s.stderr)
	defer p.clear()
	var deleted uint64
	for {
		var answer struct {
			Deleted uint64 `json:"deleted"`
			More    bool   `json:"more"`
		}
		if err := c.call(s.ctx, http.MethodDelete, c.workspacePath("dead-letters")+"?"+query.Encode(), nil, &answer); err != nil {
			if deleted > 0 {
				err = fmt.Errorf("%w; deleted so far: %s", err, count(deleted, "dead letter"))
			}
			return err
		}
		deleted += answer.Deleted
		if !answer.More {
			p.clear()
			return printLine(s.stdout, "deleted "+count(deleted, "dead letter"))
		}
		p.show(count(deleted, "dead letter") + " deleted so far")
	}
}

// confirm asks a person, and takes nothing for granted from a program.
func (d *deadLettersDelete) confirm(s *surroundings, c *client) error {
	if in, ok := s.stdin.(io.Writer); !ok || !isTerminal(in) {
		return usageError("this deletes every dead letter that matches; --yes says that it is meant")
	}
	_, _ = fmt.Fprintf(s.stderr, "Delete every dead letter of the %s%s? They cannot be replayed any more. [y/N] ", c.whose(), d.words())
	answer, err := bufio.NewReader(interruptible(s.ctx, s.stdin)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return errInterrupted
	}
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return errors.New("nothing was deleted")
	}
	return nil
}

// words are the filter in words.
func (d *deadLettersDelete) words() string {
	var words strings.Builder
	add := func(word, value string) {
		if value != "" {
			words.WriteString(" " + word + " " + clean(value))
		}
	}
	add("that went to", d.Endpoint)
	add("of type", d.EventType)
	if !d.Since.IsZero() {
		add("since", d.Since.Format(time.RFC3339))
	}
	if !d.Until.IsZero() {
		add("before", d.Until.Format(time.RFC3339))
	}
	return words.String()
}
