package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

const (
	// maxRunningReplays is how many replays run at once, of different workspaces: those of one follow
	// one another, so that what they put in line does not mix.
	maxRunningReplays = 4
	// maxOpenReplays bounds the replays of a workspace that are not at their end.
	maxOpenReplays = 100

	replayPrefix = "rp_"
)

// replayStatus is how a replay stands.
type replayStatus string

const (
	replayRunning   replayStatus = "running"
	replayDone      replayStatus = "done"
	replayCancelled replayStatus = "cancelled"
	replayFailed    replayStatus = "failed"
)

// replayRecord is what the store keeps of a replay, and all that a restart needs to go on with it.
type replayRecord struct {
	ID          string        `json:"id"`
	Workspace   string        `json:"workspace"`
	Fingerprint string        `json:"fingerprint"`
	Request     replayRequest `json:"request"`
	Status      replayStatus  `json:"status"`
	CreatedAt   time.Time     `json:"created_at"`
	FinishedAt  *time.Time    `json:"finished_at,omitzero"`
	Error       string        `json:"error,omitzero"`

	Found    int            `json:"found,omitzero"`
	Replayed int            `json:"replayed,omitzero"`
	Skipped  map[string]int `json:"skipped,omitempty"`
	// Examined of Candidates have been looked at.
	Examined   uint64 `json:"examined,omitzero"`
	Candidates uint64 `json:"candidates,omitzero"`
	// AgedOut is how many of the event ids are not held, AgedOutIDs the first of them.
	AgedOut    int      `json:"aged_out,omitzero"`
	AgedOutIDs []string `json:"aged_out_ids,omitempty"`
	// LettersFrom is there where dead letters from before have aged out that the request asks for.
	LettersFrom *time.Time `json:"letters_from,omitzero"`

	// LastLetter is the newest dead letter of the time of the request: what is dropped of the
	// replay itself is none of it.
	LastLetter uint64 `json:"last_letter,omitzero"`
	// Position is how far it has come: all up to it is in line, or was skipped.
	Position replayPosition `json:"position,omitzero"`
	// Held has a bit for each of the event ids that was found.
	Held []byte `json:"held,omitempty"`
}

// replayPosition is a place in the order in which a replay goes through the store: the dead letters,
// then the events, endpoint by endpoint.
type replayPosition struct {
	Events   bool   `json:"events,omitzero"`
	Endpoint string `json:"endpoint,omitzero"`
	Sequence uint64 `json:"sequence,omitzero"`
}

// covers reports whether p comes behind q, or is it.
func (p replayPosition) covers(q replayPosition) bool {
	switch {
	case p.Events != q.Events:
		return p.Events
	case p.Events && p.Endpoint != q.Endpoint:
		return p.Endpoint > q.Endpoint
	default:
		return p.Sequence >= q.Sequence
	}
}

// Replays sends events again on request. A replay is a job on record: it goes on after a restart where
// it was, and asked for again under the same id it is not done again.
type Replays struct {
	conn      *nats.Conn
	js        jetstream.JetStream
	shelf     shelf
	letters   *DeadLetters
	registry  *Registry
	publisher *publisher
	accepting func() error
	state     func(endpoint string) (State, bool)
	shards    int
	log       zerolog.Logger

	starting sync.Mutex // makes one replay at a time

	mu        sync.Mutex
	open      map[string]*replayJob   // by name, those that are not at their end
	queues    map[string][]*replayJob // by workspace, in the order of the requests
	running   context.Context         // nil unless Run runs
	slots     chan struct{}
	wg        sync.WaitGroup
	replayed  atomic.Uint64
	cancelled sync.Map // the names of replays whose copies are not to be sent any more
}

func newReplays(cfg *Config, registry *Registry, p *publisher) *Replays {
	return &Replays{
		conn: cfg.Reads, js: cfg.JetStream, shelf: shelf{conn: cfg.Reads, stream: staffetta.ReplayStream}, letters: NewDeadLetters(cfg.Reads),
		registry: registry, publisher: p, accepting: cfg.Accepting, state: cfg.API.State, shards: cfg.Shards, log: cfg.Log,
		open: make(map[string]*replayJob), queues: make(map[string][]*replayJob), slots: make(chan struct{}, maxRunningReplays),
	}
}

// replayName is the name of a replay among those of all workspaces.
func replayName(workspace, id string) string { return workspace + "." + id }

// load reads which replays are to go on, and which were cancelled.
func (r *Replays) load(ctx context.Context) error {
	err := r.shelf.each(ctx, staffetta.ReplayRecordSubjects, 1, ^uint64(0), 0, func(m *shelved) error {
		record, err := readReplay(m)
		if err != nil {
			r.log.Error().Err(err).Str("subject", m.subject).Msg("cannot read the record of a replay; leaving it")
			return nil
		}
		switch record.Status {
		case replayRunning:
			r.enqueue(newReplayJob(r, record, m.at))
		case replayCancelled:
			r.cancelled.Store(replayName(record.Workspace, record.ID), true)
		case replayDone, replayFailed:
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load replays: %w", err)
	}
	return nil
}

func readReplay(m *shelved) (record replayRecord, err error) {
	err = json.Unmarshal(m.data, &record)
	return record, err
}

// Withdrawn reports whether the copy of an event belongs to a replay that was cancelled, by the header
// that marks it.
func (r *Replays) Withdrawn(header string) bool {
	at := strings.LastIndexByte(header, '.')
	if at < 0 {
		return false
	}
	_, cancelled := r.cancelled.Load(header[:at])
	return cancelled
}

// start makes a replay and puts it in line, unless one of the id is known: duplicate then, and what has
// become of it.
func (r *Replays) start(ctx context.Context, workspace, id string, req replayRequest, ids []string) (record replayRecord, duplicate bool, err error) {
	print, err := fingerprintOfReplay(req, ids)
	if err != nil {
		return record, false, err
	}
	r.starting.Lock()
	defer r.starting.Unlock()
	record, err = r.find(ctx, workspace, id)
	switch {
	case err == nil && record.Fingerprint != print:
		return record, false, &refusal{code: "replay_id_taken", detail: "the replay " + quote(id) + " was another request; give this one an id, or an Idempotency-Key, of its own"}
	case err == nil:
		return record, true, nil
	case !errors.Is(err, ErrNotFound):
		return record, false, err
	}
	if err := r.accepting(); err != nil {
		return record, false, err
	}
	r.mu.Lock()
	open := len(r.queues[workspace])
	r.mu.Unlock()
	if open >= maxOpenReplays {
		return record, false, limitReached("replay_limit", "the workspace "+workspace, maxOpenReplays, "replays under way")
	}
	record = replayRecord{ID: id, Workspace: workspace, Fingerprint: print, Request: req, Status: replayRunning, CreatedAt: time.Now().UTC()}
	if err := r.create(ctx, &record, ids); err != nil {
		return record, false, err
	}
	r.enqueue(newReplayJob(r, record, time.Time{}))
	r.log.Info().Str("workspace", workspace).Str("endpoint", req.Endpoint).Str("replay", id).Msg("replay requested")
	return record, false, nil
}

// create stores a new replay: the event ids before the record, without which they mean nothing.
func (r *Replays) create(ctx context.Context, record *replayRecord, ids []string) error {
	last, err := r.letters.shelf.last(ctx, staffetta.DeadLetterSubject(record.Workspace, orAny(record.Request.Endpoint)))
	if err != nil {
		return err
	}
	if last != nil {
		record.LastLetter = last.sequence
	}
	if len(ids) > 0 {
		text, err := json.Marshal(ids)
		if err != nil {
			return err
		}
		if _, err := r.js.Publish(ctx, staffetta.ReplayEventSubject(record.Workspace, record.ID, record.Fingerprint), text); err != nil {
			return storeError("store replay", err)
		}
	}
	return r.save(ctx, record, jetstream.WithExpectLastSequencePerSubject(0))
}

func (r *Replays) save(ctx context.Context, record *replayRecord, options ...jetstream.PublishOpt) error {
	text, err := json.Marshal(record, json.Deterministic(true))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if _, err := r.js.Publish(ctx, staffetta.ReplaySubject(record.Workspace, record.ID), text, options...); err != nil {
		return storeError("store replay", err)
	}
	return nil
}

// find gives a replay as it stands now.
func (r *Replays) find(ctx context.Context, workspace, id string) (replayRecord, error) {
	if job := r.job(workspace, id); job != nil {
		return job.now(), nil
	}
	if staffetta.ValidID(id) {
		m, err := r.shelf.last(ctx, staffetta.ReplaySubject(workspace, id))
		if err != nil {
			return replayRecord{}, err
		}
		if m != nil {
			return readReplay(m)
		}
	}
	return replayRecord{}, &refusal{code: "replay_not_found", missing: true, detail: "the workspace " + quote(workspace) + " has no replay " + quote(id)}
}

func (r *Replays) job(workspace, id string) *replayJob {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open[replayName(workspace, id)]
}

// page lists the replays of a workspace, the one changed last first.
func (r *Replays) page(ctx context.Context, workspace string, before uint64, limit int) ([]replayRecord, uint64, error) {
	found, next, err := r.shelf.newest(ctx, shelfQuery{subject: staffetta.ReplaySubject(workspace, "*"), before: before}, limit)
	if err != nil {
		return nil, 0, err
	}
	records := make([]replayRecord, 0, len(found))
	for _, m := range found {
		record, err := readReplay(m)
		if err != nil {
			return nil, 0, fmt.Errorf("read replay: %w", err)
		}
		if job := r.job(workspace, record.ID); job != nil {
			record = job.now()
		}
		records = append(records, record)
	}
	return records, next, nil
}

// cancel ends a replay: it puts no more in line, and of what waits there nothing more is sent.
func (r *Replays) cancel(ctx context.Context, workspace, id string) (replayRecord, error) {
	record, err := r.find(ctx, workspace, id)
	if err != nil {
		return record, err
	}
	r.cancelled.Store(replayName(workspace, id), true)
	if job := r.job(workspace, id); job != nil { // also where it is cancelled, but that not stored yet
		if err := job.end(ctx); err != nil {
			return record, err
		}
		if record, err = r.find(ctx, workspace, id); err != nil {
			return record, err
		}
	}
	if record.Status == replayCancelled {
		return record, nil
	}
	record.Status = replayCancelled
	return record, r.save(ctx, &record)
}

// forget ends and forgets the replays of a workspace.
func (r *Replays) forget(ctx context.Context, workspace string) error {
	r.mu.Lock()
	jobs := append([]*replayJob(nil), r.queues[workspace]...)
	r.mu.Unlock()
	for _, job := range jobs {
		if err := job.end(ctx); err != nil {
			return err
		}
	}
	_, err1 := r.shelf.purge(ctx, staffetta.ReplaySubject(workspace, "*"), 0)
	_, err2 := r.shelf.purge(ctx, staffetta.ReplayEventSubject(workspace, "*", "*"), 0)
	return errors.Join(err1, err2)
}
