package relay

import (
	"context"
	"encoding/hex"
	"net/http"
	"strconv"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// replayPatience is how long the answer to a request waits for its end: a small replay is done by then.
const replayPatience = 3 * time.Second

// replayAnswer is a replay as the API shows it.
type replayAnswer struct {
	ID     string       `json:"replay_id"`
	Status replayStatus `json:"status"`
	// Duplicate says that the request was made before, and that this is what became of it.
	Duplicate  bool       `json:"duplicate,omitzero"`
	CreatedAt  time.Time  `json:"created_at"`
	FinishedAt *time.Time `json:"finished_at,omitzero"`
	// The request; Events is how many event ids it named.
	Events    int           `json:"events,omitzero"`
	Endpoint  string        `json:"endpoint,omitzero"`
	EventType string        `json:"event_type,omitzero"`
	Since     *time.Time    `json:"since,omitzero"`
	Until     *time.Time    `json:"until,omitzero"`
	Outcome   replayOutcome `json:"outcome"`

	Found           int            `json:"found"`
	Replayed        int            `json:"replayed"`
	Skipped         int            `json:"skipped"`
	SkippedBy       map[string]int `json:"skipped_by,omitempty"`
	AgedOut         int            `json:"aged_out"`
	AgedOutEventIDs []string       `json:"aged_out_event_ids,omitempty"`
	Examined        uint64         `json:"examined"`
	Candidates      uint64         `json:"candidates"`
	Note            string         `json:"note,omitzero"`
	Error           string         `json:"error,omitzero"`
}

func newReplayAnswer(r *replayRecord) replayAnswer {
	shown := replayAnswer{
		ID: r.ID, Status: r.Status, CreatedAt: r.CreatedAt, FinishedAt: r.FinishedAt,
		Events: r.Request.Events, Endpoint: r.Request.Endpoint, EventType: r.Request.EventType,
		Since: r.Request.Since, Until: r.Request.Until, Outcome: r.Request.Outcome,
		Found: r.Found, Replayed: r.Replayed, SkippedBy: r.Skipped, AgedOut: r.AgedOut, AgedOutEventIDs: r.AgedOutIDs,
		Examined: r.Examined, Candidates: r.Candidates, Note: r.note(), Error: r.Error,
	}
	for _, n := range r.Skipped {
		shown.Skipped += n
	}
	return shown
}

// deliveredFor is how long a delivered event stays in the store for certain.
const deliveredFor = 2 * time.Minute

// note says in words what could not be found any more.
func (r *replayRecord) note() string {
	var text string
	add := func(sentence string) {
		if text != "" {
			text += " "
		}
		text += sentence
	}
	switch {
	case r.AgedOut == 1:
		add("1 of the event ids is not held: it was never accepted, or what became of it has aged out.")
	case r.AgedOut > 1:
		add(strconv.Itoa(r.AgedOut) + " of the event ids are not held: they were never accepted, or what became of them has aged out.")
	}
	if r.LettersFrom != nil && r.Request.Outcome != replayDelivered {
		add("Dead letters from before " + r.LettersFrom.Format(time.RFC3339) + " have aged out or were deleted, and are not counted.")
	}
	reaches := r.Request.Since == nil || r.Request.Since.Before(r.CreatedAt.Add(-deliveredFor))
	if r.Request.Outcome != replayDropped && r.Request.Events == 0 && reaches {
		add("Delivered events are held for two minutes, and then until they are purged: what has aged out of before is not counted.")
	}
	return text
}

// replaysOf gives the replays, and checks the workspace of the path.
func (a *API) replaysOf(r *http.Request) (*Replays, string, error) {
	if a.cfg.Replays == nil {
		return nil, "", problemNotAvailable("this relay cannot send events again")
	}
	workspace := r.PathValue("workspace")
	_, err := a.cfg.Registry.Workspace(workspace)
	return a.cfg.Replays, workspace, err
}

func (a *API) createReplay(r *http.Request) (answer, error) {
	replays, workspace, err := a.replaysOf(r)
	if err != nil {
		return answer{}, err
	}
	var body replayBody
	if err := readObjectWithin(r, maxReplayBody, &body); err != nil {
		return answer{}, err
	}
	req, ids, err := body.parse()
	if err != nil {
		return answer{}, err
	}
	if req.Endpoint != "" {
		if _, err := a.cfg.Registry.Endpoint(workspace, req.Endpoint); err != nil {
			return answer{}, err
		}
	}
	id, err := replayIDOf(r, workspace, body.ReplayID.value)
	if err != nil {
		return answer{}, err
	}
	record, duplicate, err := replays.start(r.Context(), workspace, id, req, ids)
	if err != nil {
		return answer{}, err
	}
	if job := replays.job(workspace, id); job != nil {
		select {
		case <-job.done:
		case <-time.After(replayPatience):
		case <-r.Context().Done():
		}
	}
	if now, err := replays.find(r.Context(), workspace, id); err == nil {
		record = now
	}
	shown := newReplayAnswer(&record)
	shown.Duplicate = duplicate
	return answer{status: http.StatusAccepted, body: shown, location: "/v1/workspaces/" + workspace + "/replays/" + id}, nil
}

// replayIDOf is the id that the client gives, or one that follows from its Idempotency-Key, or a new one.
func replayIDOf(r *http.Request, workspace, given string) (string, error) {
	key := r.Header.Get("Idempotency-Key")
	switch {
	case given != "":
		return given, nil
	case len(key) > MaxIdempotencyKey:
		return "", bodyError("invalid_idempotency_key", "Idempotency-Key", "has more than "+strconv.Itoa(MaxIdempotencyKey)+" bytes")
	case key != "":
		print := fingerprintOf(workspace, keyOfReplay, key)
		return replayPrefix + hex.EncodeToString(print[:]), nil
	default:
		return newID(replayPrefix), nil
	}
}

// keyOfReplay is the kind of an Idempotency-Key that came with a replay.
const keyOfReplay = 'r'

func (a *API) listReplays(r *http.Request) (answer, error) {
	replays, workspace, err := a.replaysOf(r)
	if err != nil {
		return answer{}, err
	}
	query, err := queryOf(r, pageParameters...)
	if err != nil {
		return answer{}, err
	}
	before, limit, err := sequencePage(query)
	if err != nil {
		return answer{}, err
	}
	records, next, err := replays.page(r.Context(), workspace, before, limit)
	page := list[replayAnswer]{Items: make([]replayAnswer, len(records)), NextCursor: cursorBefore(next)}
	for i := range records {
		page.Items[i] = newReplayAnswer(&records[i])
	}
	return answer{status: http.StatusOK, body: page}, err
}

func (a *API) getReplay(r *http.Request) (answer, error) {
	replays, workspace, err := a.replaysOf(r)
	if err != nil {
		return answer{}, err
	}
	record, err := replays.find(r.Context(), workspace, r.PathValue("replay"))
	return answer{status: http.StatusOK, body: newReplayAnswer(&record)}, err
}

func (a *API) cancelReplay(r *http.Request) (answer, error) {
	replays, workspace, err := a.replaysOf(r)
	if err != nil {
		return answer{}, err
	}
	record, err := replays.cancel(r.Context(), workspace, r.PathValue("replay"))
	return answer{status: http.StatusOK, body: newReplayAnswer(&record)}, err
}

// forgetEvents deletes what is kept of a deleted workspace's events. Where that fails they age out.
func (a *API) forgetEvents(ctx context.Context, workspace string) {
	if a.cfg.DeadLetters == nil || a.cfg.Replays == nil || !staffetta.ValidID(workspace) {
		return
	}
	for _, forget := range []func(context.Context, string) error{a.cfg.Replays.forget, a.cfg.DeadLetters.forget} {
		if err := forget(ctx, workspace); err != nil {
			a.cfg.Log.Error().Err(err).Str("workspace", workspace).Msg("cannot delete the dead letters and replays of a deleted workspace; they go at the end of their retention")
		}
	}
}
