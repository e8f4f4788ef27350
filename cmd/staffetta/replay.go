package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/relay"
)

// replayCommand is staffetta replay.
type replayCommand struct {
	Start  replayStart  `cmd:"" default:"withargs" help:"Send events again: by their ids, or what a filter selects. This is what staffetta replay alone does."`
	Status replayStatus `cmd:"" help:"Show how far a replay is."`
	Cancel replayCancel `cmd:"" help:"End a replay; of what waits in line of it nothing more is sent."`
	List   replayList   `cmd:"" help:"List the replays of the last 30 days."`
}

// Help shows how it is used without a word behind it, which the list of commands does not.
func (replayCommand) Help() string {
	return `For example:

    staffetta replay EVENT_ID EVENT_ID      these events
    staffetta replay --since 2h             what was dropped in the last two hours
    staffetta replay --endpoint ID --wait   what was dropped of an endpoint
    staffetta replay --receiver --since 2h  the same of a receiver's targets

"staffetta replay start --help" lists the flags.`
}

// replayWatch is how often a replay that is waited for is asked after.
const replayWatch = 500 * time.Millisecond

// replayStart is staffetta replay.
type replayStart struct {
	eitherFlags
	EventIDs []string `arg:"" optional:"" name:"event-id" help:"Ids of events." placeholder:"EVENT_ID"`
	filterFlags
	Outcome        string `help:"Which events: dropped, delivered or all. Default: dropped, and all of event ids." enum:",dropped,delivered,all" default:"" placeholder:"OUTCOME"`
	IdempotencyKey string `help:"Makes a repeat of the command harmless: the same key is the same replay." placeholder:"KEY"`
	Wait           bool   `help:"Wait until everything is in line at its endpoint. Ctrl-C ends the waiting, not the replay. A receiver always does."`
	jsonAnswer
}

// replay is a replay as the relay shows it.
type replay struct {
	ID         string         `json:"replay_id"`
	Status     string         `json:"status"`
	Duplicate  bool           `json:"duplicate"`
	CreatedAt  time.Time      `json:"created_at"`
	FinishedAt *time.Time     `json:"finished_at"`
	Events     int            `json:"events"`
	Endpoint   string         `json:"endpoint"`
	EventType  string         `json:"event_type"`
	Since      *time.Time     `json:"since"`
	Until      *time.Time     `json:"until"`
	Outcome    string         `json:"outcome"`
	Found      int            `json:"found"`
	Replayed   int            `json:"replayed"`
	Skipped    int            `json:"skipped"`
	SkippedBy  map[string]int `json:"skipped_by"`
	AgedOut    int            `json:"aged_out"`
	AgedOutIDs []string       `json:"aged_out_event_ids"`
	Examined   uint64         `json:"examined"`
	Candidates uint64         `json:"candidates"`
	Note       string         `json:"note"`
	Error      string         `json:"error"`

	raw json.RawMessage
}

// UnmarshalJSON keeps the text, too.
func (r *replay) UnmarshalJSON(text []byte) error {
	type plain replay
	err := json.Unmarshal(text, (*plain)(r))
	r.raw = slices.Clone(text)
	return err
}

// Run is staffetta replay.
func (r *replayStart) Run(s *surroundings) error {
	body, err := r.body()
	if err != nil {
		return err
	}
	if err := r.checkReceiver(); err != nil {
		return err
	}
	c, err := r.client()
	if err != nil {
		return err
	}
	header := http.Header{"Content-Type": {"application/json"}}
	id := "rp_" + strings.ReplaceAll(uuid.Must(uuid.NewV7()).String(), "-", "")
	switch {
	case c.ofReceiver(): // it keeps no replays
	case r.IdempotencyKey == "":
		body["replay_id"] = id
	default:
		header.Set("Idempotency-Key", r.IdempotencyKey)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	raw, err := c.send(s.ctx, http.MethodPost, c.workspacePath("replays"), header, text)
	if err != nil {
		return r.unanswered(c, err, id)
	}
	var started replay
	if err := json.Unmarshal(raw, &started); err != nil {
		return errUnknownAnswer
	}
	if r.Wait {
		if err := started.wait(s, c); err != nil {
			return err
		}
	}
	return started.report(s, c, r.JSON)
}

// body is what the flags say, as the API takes it.
func (r *replayStart) body() (map[string]any, error) {
	query, err := r.query("outcome", r.Outcome)
	switch {
	case err != nil:
		return nil, err
	case len(r.EventIDs) > 0 && (r.EventType != "" || !r.Since.IsZero() || !r.Until.IsZero()):
		return nil, usageError("event ids go with --endpoint and --outcome alone, not with --event-type, --since or --until")
	case len(r.EventIDs) > relay.MaxReplayEvents:
		return nil, usageError(fmt.Sprintf("at most %d event ids at a time; beyond that replay by --endpoint and --since", relay.MaxReplayEvents))
	case len(r.EventIDs) == 0 && r.Endpoint == "" && r.Since.IsZero():
		return nil, usageError("say what to send again: event ids, or --endpoint or --since; everything that was dropped in the last two hours is --since 2h")
	}
	body := map[string]any{}
	for name := range query {
		body[name] = query.Get(name)
	}
	if len(r.EventIDs) > 0 {
		body["event_ids"] = r.EventIDs
	}
	return body, nil
}

// checkReceiver refuses what a receiver does not know.
func (r *replayStart) checkReceiver() error {
	switch {
	case r.Receiver == "":
		return nil
	case r.Wait:
		return usageError("--wait does not go with --receiver: a receiver answers once everything is in line at its target")
	case r.IdempotencyKey != "":
		return usageError("--idempotency-key does not go with --receiver: a receiver keeps no replays")
	case r.EventType != "":
		return usageError("--event-type does not go with --receiver: a receiver replays by event ids, --endpoint and --since")
	case len(r.EventIDs) > 0 && r.Outcome != "":
		return usageError("--outcome does not go with event ids and --receiver: they are sent again whatever became of them")
	}
	return nil
}

// unanswered tells what to do where nobody knows whether the replay has begun.
func (r *replayStart) unanswered(c *client, err error, id string) error {
	refused, isRefused := errors.AsType[*problem](err)
	switch {
	case isRefused && refused.Code == "replay_id_taken":
		return errors.New("another replay was started with this --idempotency-key; give this one a key of its own (replay_id_taken)")
	case isRefused || errors.Is(err, errNothingListens):
		return err
	case c.ofReceiver():
		return fmt.Errorf("%w; whether anything is sent again is not known: staffetta attempts%s shows what is", err, c.flags())
	case r.IdempotencyKey != "":
		return fmt.Errorf("%w; whether the replay has begun is not known: the same command does it once", err)
	default:
		return fmt.Errorf("%w; whether the replay has begun is not known: staffetta replay status %s tells", err, id)
	}
}

// wait asks after the replay until it is at its end.
func (r *replay) wait(s *surroundings, c *client) error {
	p := newProgress(s.stderr)
	defer p.clear()
	ticker := time.NewTicker(replayWatch)
	defer ticker.Stop()
	for r.Status == "running" {
		p.show(r.progress())
		err := errInterrupted
		select {
		case <-ticker.C:
			err = r.refresh(s.ctx, c)
		case <-s.ctx.Done():
		}
		if err != nil {
			p.clear()
			return fmt.Errorf("%w: the replay goes on; staffetta replay status %s shows it, staffetta replay cancel %s ends it", err, r.ID, r.ID)
		}
	}
	return nil
}

// refresh asks how the replay stands now. That the first answer was a repeat's stays.
func (r *replay) refresh(ctx context.Context, c *client) error {
	var now replay
	if err := c.call(ctx, http.MethodGet, c.workspacePath("replays", r.ID), nil, &now); err != nil {
		return err
	}
	now.Duplicate = now.Duplicate || r.Duplicate
	*r = now
	return nil
}

// progress is how far it has come, in one line.
func (r *replay) progress() string {
	text := fmt.Sprintf("replaying: %d in line", r.Replayed)
	if r.Candidates > 0 {
		text += fmt.Sprintf(", %d of %d looked at (%d%%)", r.Examined, r.Candidates, r.Examined*100/max(r.Candidates, r.Examined))
	}
	return text
}

// report prints what it came to. Event ids that are not held, and a replay that did not come to its
// end, are failures.
func (r *replay) report(s *surroundings, c *client, asJSON bool) error {
	if asJSON {
		if err := printLine(s.stdout, string(r.raw)); err != nil {
			return err
		}
	} else if err := r.print(s, c); err != nil {
		return err
	}
	switch {
	case r.Status == "failed":
		return fmt.Errorf("the replay failed: %s; the same command goes through it again", clean(r.Error))
	case r.AgedOut > 0 && asJSON:
		return fmt.Errorf("%s not held any more", count(r.AgedOut, "event id"))
	case r.AgedOut > 0:
		return errors.New("not everything could be sent again")
	}
	return nil
}

func (r *replay) print(s *surroundings, c *client) error {
	if c.ofReceiver() {
		return r.printOfReceiver(s, c)
	}
	fields := [][2]string{{"replay", r.ID}, {"status", r.statusLine(time.Now())}, {"asked for", r.request()}}
	fields = append(fields,
		[2]string{"found", fmt.Sprint(r.Found)}, [2]string{"replayed", fmt.Sprint(r.Replayed)},
		[2]string{"skipped", r.skippedLine()}, [2]string{"aged out", r.agedOutLine()}, [2]string{"note", r.Note})
	return printFields(s.stdout, fields, r.advice(s, c))
}

// printOfReceiver shows a replay that is over, and that nobody can ask after.
func (r *replay) printOfReceiver(s *surroundings, c *client) error {
	fields := [][2]string{{"replayed", fmt.Sprint(r.Replayed)}}
	if r.Skipped > 0 {
		fields = append(fields, [2]string{"skipped", r.skippedLine()})
	}
	if r.AgedOut > 0 {
		fields = append(fields, [2]string{"aged out", r.agedOutLine()})
	}
	advice := ""
	if r.Replayed > 0 {
		advice = fmt.Sprintf(`They are in line behind what waits at their targets: "staffetta targets%[1]s" tells how many are left, "staffetta attempts%[1]s --follow" shows them arrive.`, c.flags())
	}
	return printFields(s.stdout, append(fields, [2]string{"note", r.Note}), advice)
}

func (r *replay) statusLine(now time.Time) string {
	text := r.Status
	switch {
	case r.FinishedAt != nil:
		text += ", " + when(*r.FinishedAt, now)
	case r.Candidates > 0:
		text += fmt.Sprintf(", %d of %d looked at", r.Examined, r.Candidates)
	}
	if r.Duplicate {
		text += "; it was asked for before, " + when(r.CreatedAt, now)
	}
	return text
}

// request is what was asked for, in words.
func (r *replay) request() string {
	text := map[string]string{"dropped": "dropped events", "delivered": "delivered events", "all": "events"}[r.Outcome]
	if r.Events > 0 {
		text = count(r.Events, "event id")
	}
	if r.EventType != "" {
		text += " of type " + r.EventType
	}
	if r.Endpoint != "" {
		text += " to " + r.Endpoint
	}
	if r.Since != nil {
		text += " since " + r.Since.Format(time.RFC3339)
	}
	if r.Until != nil {
		text += " before " + r.Until.Format(time.RFC3339)
	}
	return text
}

// skippedReasons are the API's reasons in words.
var skippedReasons = map[string]string{
	"endpoint_deleted": "their endpoint was deleted", "endpoint_discards": "their endpoint is disabled and discards its events",
	"waiting": "not delivered yet, so they still come",
}

func (r *replay) skippedLine() string {
	reasons := make([]string, 0, len(r.SkippedBy))
	for reason, n := range r.SkippedBy {
		words := skippedReasons[reason]
		if words == "" {
			words = reason
		}
		reasons = append(reasons, fmt.Sprintf("%d: %s", n, words))
	}
	slices.Sort(reasons)
	if len(reasons) == 0 {
		return fmt.Sprint(r.Skipped)
	}
	return fmt.Sprintf("%d (%s)", r.Skipped, strings.Join(reasons, "; "))
}

func (r *replay) agedOutLine() string {
	if len(r.AgedOutIDs) == 0 {
		return fmt.Sprint(r.AgedOut)
	}
	const shown = 3
	text := fmt.Sprintf("%d: %s", r.AgedOut, strings.Join(r.AgedOutIDs[:min(shown, len(r.AgedOutIDs))], ", "))
	if r.AgedOut > shown {
		text += " and others (--json names more)"
	}
	return text
}

// advice says what to do next.
func (r *replay) advice(s *surroundings, c *client) string {
	switch {
	case r.Status == "running":
		return fmt.Sprintf("It goes on by itself: staffetta replay status %s shows how far it is, staffetta replay cancel %s ends it.", r.ID, r.ID)
	case r.Status != "done" || r.Replayed == 0:
		return ""
	case r.Endpoint == "":
		return `They are in line behind what waits at their endpoints; "staffetta attempts --follow" shows them arrive.`
	}
	var e endpoint
	if err := c.call(s.ctx, http.MethodGet, c.workspacePath("endpoints", r.Endpoint), nil, &e); err == nil && e.Status == staffetta.Disabled {
		return "The endpoint is disabled and holds them: staffetta endpoints enable " + r.Endpoint + " lets them go."
	}
	return "They are in line behind what waits at the endpoint: staffetta endpoints show " + r.Endpoint + " tells how many are left."
}

// replaysOfReceiver says why there is nothing to ask after.
const replaysOfReceiver = "a replay at a receiver is over when its command ends, and is not kept"

// replayID is the argument of the commands about one replay.
type replayID struct {
	relayFlags
	ID string `arg:"" help:"Id of the replay." placeholder:"ID"`
	jsonAnswer
}

// call makes a request about the replay.
func (f *replayID) call(s *surroundings, method string) (*client, *replay, error) {
	c, err := f.client(replaysOfReceiver)
	if err != nil {
		return nil, nil, err
	}
	r := &replay{}
	return c, r, c.call(s.ctx, method, c.workspacePath("replays", f.ID), nil, r)
}

type replayStatus struct{ replayID }

// Run is staffetta replay status.
func (f *replayStatus) Run(s *surroundings) error {
	c, r, err := f.call(s, http.MethodGet)
	switch {
	case err != nil:
		return err
	case f.JSON:
		return printLine(s.stdout, string(r.raw))
	}
	return r.print(s, c)
}

type replayCancel struct{ replayID }

// Run is staffetta replay cancel.
func (f *replayCancel) Run(s *surroundings) error {
	_, r, err := f.call(s, http.MethodDelete)
	switch {
	case err != nil:
		return err
	case f.JSON:
		return printLine(s.stdout, string(r.raw))
	}
	return printLine(s.stdout, fmt.Sprintf("cancelled %s: %s put in line; of those nothing more is sent", r.ID, count(r.Replayed, "event")))
}

type replayList struct {
	relayFlags
	listFlags
}

// replayColours say at a glance how replays stand.
var replayColours = map[string]colour{"running": yellow, "done": green, "cancelled": dim, "failed": red}

// Run is staffetta replay list.
func (l *replayList) Run(s *surroundings) error {
	if err := l.check("replays"); err != nil {
		return err
	}
	c, err := l.client(replaysOfReceiver)
	if err != nil {
		return err
	}
	t := table{head: []string{"ID", "CREATED", "STATUS", "FOUND", "REPLAYED", "SKIPPED", "AGED OUT", "ASKED FOR"}}
	shown := 0
	_, err = c.pages(s.ctx, c.workspacePath("replays"), nil, l.Limit, func(items []json.RawMessage) error {
		shown += len(items)
		if l.JSON {
			return printLines(s.stdout, items)
		}
		for _, item := range items {
			var r replay
			if err := json.Unmarshal(item, &r); err != nil {
				return errUnknownAnswer
			}
			t.add(left(r.ID), left(r.CreatedAt.UTC().Format(time.RFC3339)), cell{text: r.Status, colour: replayColours[r.Status]},
				number(r.Found), number(r.Replayed), number(r.Skipped), number(r.AgedOut), left(r.request()))
		}
		return t.print(s.stdout)
	})
	if err == nil && shown == 0 && !l.JSON {
		return printLine(s.stdout, "No replays yet; \"staffetta replay\" makes one.")
	}
	return err
}
