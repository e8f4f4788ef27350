package main

import (
	"encoding/json"
	"net/http"
	"time"
)

// targetsCommand is staffetta targets.
type targetsCommand struct {
	receiverFlags
	jsonLines
}

// target is a target as the receiver shows it.
type target struct {
	ID            string     `json:"id"`
	Kind          string     `json:"kind"`
	Status        string     `json:"status"`
	Waiting       uint64     `json:"waiting"`
	Delivered     uint64     `json:"delivered"`
	Failed        uint64     `json:"failed"`
	Dropped       uint64     `json:"dropped"`
	OldestAt      *time.Time `json:"oldest_at"`
	NextAttemptAt *time.Time `json:"next_attempt_at"`
	LastError     string     `json:"last_error"`
	LastErrorAt   *time.Time `json:"last_error_at"`
	LastSuccessAt *time.Time `json:"last_success_at"`
}

// targetColours say at a glance how targets stand.
var targetColours = map[string]colour{"idle": dim, "delivering": green, "waiting": yellow, "down": red}

// Run is staffetta targets.
func (f *targetsCommand) Run(s *surroundings) error {
	c, err := f.client()
	if err != nil {
		return err
	}
	var page struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := c.call(s.ctx, http.MethodGet, c.workspacePath("targets"), nil, &page); err != nil {
		return err
	}
	switch {
	case f.JSON:
		return printLines(s.stdout, page.Items)
	case len(page.Items) == 0:
		return printLine(s.stdout, "The receiver hands its events on to nobody: it has no targets.")
	}
	t := table{head: []string{"TARGET", "KIND", "STATUS", "WAITING", "OLDEST", "DELIVERED", "FAILED", "DROPPED", "LAST SUCCESS", "NEXT ATTEMPT", "LAST ERROR"}}
	now := time.Now()
	for _, item := range page.Items {
		var g target
		if err := json.Unmarshal(item, &g); err != nil {
			return errUnknownAnswer
		}
		t.add(left(g.ID), left(g.Kind), cell{text: g.Status, colour: targetColours[g.Status]},
			number(g.Waiting), left(sinceOr(g.OldestAt, now)), number(g.Delivered), number(g.Failed), number(g.Dropped),
			left(sinceOr(g.LastSuccessAt, now)), left(sinceOr(g.NextAttemptAt, now)), left(g.lastErrorCell(now)))
	}
	return t.print(s.stdout)
}

// lastErrorCell is the last error and how long ago it was.
func (g *target) lastErrorCell(now time.Time) string {
	if g.LastError == "" {
		return "-"
	}
	text := shorten(g.LastError, 60)
	if g.LastErrorAt != nil {
		text += ", " + sinceOr(g.LastErrorAt, now)
	}
	return text
}

// sinceOr is how far a time is from now, or a dash where there is none.
func sinceOr(t *time.Time, now time.Time) string {
	switch {
	case t == nil:
		return "-"
	case t.After(now):
		return "in " + age(t.Sub(now))
	default:
		return age(now.Sub(*t)) + " ago"
	}
}
