package relay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/staffetta-relay/staffetta"
)

const (
	// replayBatch and replayBatchBytes bound what a replay stores before it records how far it is.
	replayBatch      = 256
	replayBatchBytes = 4 << 20
	// replayRetry is the pause after something that the store did not do, replayRetries how many of
	// them in a row fail a replay while it comes no further: 5 minutes.
	replayRetry   = time.Second
	replayRetries = 300
	// maxAgedOutIDs is how many of the event ids that are not held an answer names.
	maxAgedOutIDs = 100
)

// The reasons for which an event that was found is not put in line.
const (
	skippedDeleted  = "endpoint_deleted"
	skippedDiscards = "endpoint_discards"
	skippedWaiting  = "waiting"
)

// replayJob works a replay off.
type replayJob struct {
	r    *Replays
	name string
	done chan struct{} // closed once it is at its end and off the queue

	mu     sync.Mutex
	record replayRecord
	begun  bool
	ended  bool                    // before it began
	stop   context.CancelCauseFunc // while it runs

	ending    sync.Mutex // stores the end of before it began, once
	endStored bool

	// What follows is the running goroutine's own.

	// stored is the record as it was last stored, and storedAt when; zero for a new replay.
	stored   replayRecord
	storedAt time.Time
	ids      map[string]int
	seen     recently
	// copies are those put in line after the record was stored, by their marks.
	copies map[string]bool
	batch  []replayItem
	bytes  int
}

// replayItem is an event on its way into an endpoint's line.
type replayItem struct {
	route Route
	mark  string
	event staffetta.StoredEvent
}

func newReplayJob(r *Replays, record replayRecord, storedAt time.Time) *replayJob {
	return &replayJob{
		r: r, name: replayName(record.Workspace, record.ID), record: record, stored: record, storedAt: storedAt,
		done: make(chan struct{}),
	}
}

// now is the record of the moment.
func (j *replayJob) now() replayRecord {
	j.mu.Lock()
	defer j.mu.Unlock()
	record := j.record
	record.Skipped = maps.Clone(record.Skipped)
	return record
}

// change writes in the record.
func (j *replayJob) change(f func(*replayRecord)) {
	j.mu.Lock()
	f(&j.record)
	j.mu.Unlock()
}

// end cancels the replay and returns once it is at its end.
func (j *replayJob) end(ctx context.Context) error {
	j.mu.Lock()
	if !j.begun && !j.ended { // it waits for others, which may take long
		j.ended = true
		j.finish(replayCancelled, "")
	}
	stop, ended := j.stop, j.ended
	j.mu.Unlock()
	if ended {
		return j.storeEnd(ctx)
	}
	stop(errReplayCancelled)
	ctx, cancel := context.WithTimeout(ctx, 2*storeTimeout)
	defer cancel()
	select {
	case <-j.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("end replay: %w", ErrUnavailable)
	}
}

// storeEnd stores that the replay was cancelled before it began, unless that is stored.
func (j *replayJob) storeEnd(ctx context.Context) error {
	j.ending.Lock()
	defer j.ending.Unlock()
	if j.endStored {
		return nil
	}
	record := j.now()
	err := j.r.save(ctx, &record)
	j.endStored = err == nil
	return err
}

// finish marks the end. The lock is held.
func (j *replayJob) finish(status replayStatus, why string) {
	at := time.Now().UTC()
	j.record.Status, j.record.FinishedAt, j.record.Error = status, &at, why
}

// run works the replay off. It reports false where the relay stops before its end.
func (j *replayJob) run(relay context.Context) (ended bool) {
	ctx, stop := context.WithCancelCause(relay)
	defer stop(nil)
	j.mu.Lock()
	j.begun, j.stop = true, stop
	ended = j.ended
	j.mu.Unlock()
	if ended {
		for j.storeEnd(context.WithoutCancel(relay)) != nil {
			if relay.Err() != nil {
				return false
			}
			pause(relay, replayRetry)
		}
		return true
	}
	status, why := j.work(ctx)
	if status == replayRunning {
		return false
	}
	for {
		j.mu.Lock()
		j.finish(status, why)
		j.mu.Unlock()
		if j.store(ctx) == nil || relay.Err() != nil {
			break
		}
		pause(relay, replayRetry)
	}
	record := j.now()
	j.r.log.Info().Str("workspace", record.Workspace).Str("replay", record.ID).Str("status", string(status)).
		Int("replayed", record.Replayed).Int("found", record.Found).Msg("replay ended")
	return true
}

// work goes through the store, again from where it was recorded to be when that fails.
func (j *replayJob) work(ctx context.Context) (status replayStatus, why string) {
	for failures := 0; ; failures++ {
		before := j.stored.Position
		err := j.scan(ctx)
		switch {
		case err == nil:
			return replayDone, ""
		case errors.Is(context.Cause(ctx), errReplayCancelled):
			j.change(func(r *replayRecord) { *r = j.stored })
			return replayCancelled, ""
		case ctx.Err() != nil:
			return replayRunning, ""
		case failures >= replayRetries:
			j.change(func(r *replayRecord) { *r = j.stored })
			return replayFailed, "the relay could not read or store events for minutes; its log says more"
		}
		if j.stored.Position != before {
			failures = 0
		}
		if j.storedAt.IsZero() { // some copies may be in line by now
			j.storedAt = j.stored.CreatedAt
		}
		record := j.now()
		j.r.log.Error().Err(err).Str("workspace", record.Workspace).Str("replay", record.ID).Msg("cannot go on with a replay; trying again")
		pause(ctx, replayRetry)
	}
}

// pause waits for d, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// scan goes through all of the replay's sources and puts in line what is not yet.
func (j *replayJob) scan(ctx context.Context) error {
	j.batch, j.bytes, j.seen = nil, 0, recently{bound: recentKeys}
	j.change(func(r *replayRecord) {
		*r = j.stored
		r.Skipped = maps.Clone(r.Skipped)
		r.Held = slices.Clone(r.Held)
		r.Examined, r.Candidates = 0, 0
	})
	if err := j.readIDs(ctx); err != nil {
		return err
	}
	if err := j.findCopies(ctx); err != nil {
		return err
	}
	outcome := j.record.Request.Outcome
	if outcome != replayDelivered {
		if err := j.scanLetters(ctx); err != nil {
			return err
		}
	}
	if outcome != replayDropped {
		if err := j.scanEvents(ctx); err != nil {
			return err
		}
	}
	if err := j.flush(ctx); err != nil {
		return err
	}
	j.countAgedOut()
	return nil
}

// readIDs reads the event ids that were asked for.
func (j *replayJob) readIDs(ctx context.Context) error {
	if j.record.Request.Events == 0 || j.ids != nil {
		return nil
	}
	record := j.record
	m, err := j.r.shelf.last(ctx, staffetta.ReplayEventSubject(record.Workspace, record.ID, record.Fingerprint))
	if err != nil {
		return err
	}
	if m == nil {
		return errors.New("the list of the event ids is lost")
	}
	var ids []string
	if err := json.Unmarshal(m.data, &ids); err != nil {
		return fmt.Errorf("read event ids: %w", err)
	}
	j.ids = make(map[string]int, len(ids))
	for i, id := range ids {
		j.ids[id] = i
	}
	return nil
}

// countAgedOut counts the event ids that nothing was found of.
func (j *replayJob) countAgedOut() {
	missing := []string{}
	for id, i := range j.ids {
		if !hasBit(j.record.Held, i) {
			missing = append(missing, id)
		}
	}
	slices.SortFunc(missing, func(a, b string) int { return j.ids[a] - j.ids[b] })
	j.change(func(r *replayRecord) {
		r.AgedOut, r.AgedOutIDs = len(missing), missing[:min(len(missing), maxAgedOutIDs)]
	})
}

func hasBit(bits []byte, i int) bool { return i/8 < len(bits) && bits[i/8]&(1<<(i%8)) != 0 }

func setBit(bits []byte, i int) []byte {
	for len(bits) <= i/8 {
		bits = append(bits, 0)
	}
	bits[i/8] |= 1 << (i % 8)
	return bits
}

// flush puts the batch in line and records how far the replay is by that.
func (j *replayJob) flush(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if j.r.accepting() == nil {
			break
		}
		pause(ctx, replayRetry)
	}
	if len(j.batch) > 0 {
		if err := j.publish(ctx); err != nil {
			return err
		}
	}
	replayed := len(j.batch)
	j.r.replayed.Add(uint64(replayed))
	j.change(func(r *replayRecord) { r.Replayed += replayed })
	j.batch, j.bytes = j.batch[:0], 0
	return j.store(ctx)
}

// publish stores the copies of a batch, but for those that are. It is not cut off half way.
func (j *replayJob) publish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	group := newPublishGroup()
	for i := range j.batch {
		item := &j.batch[i]
		if j.copies[item.mark] {
			continue
		}
		// Under one name the store takes a copy once: the answer to the first may have been late.
		if err := j.r.publisher.add(ctx, group, newStoredEvent(item.event, 1), item.route, "replay."+item.mark+"."+item.route.Endpoint); err != nil {
			group.fail(err)
			break
		}
	}
	j.r.publisher.flushAll()
	return group.wait(ctx)
}

// store puts the record into the store, whether ctx has ended or not.
func (j *replayJob) store(ctx context.Context) error {
	record := j.now()
	at := time.Now()
	if err := j.r.save(context.WithoutCancel(ctx), &record); err != nil {
		return err
	}
	record.Held = slices.Clone(record.Held)
	j.stored, j.storedAt = record, at
	return nil
}

// recently remembers, of the keys put in, at least the last bound, and at most twice as many: 40 MB.
type recently struct {
	bound      int
	young, old map[fingerprint]struct{}
}

const recentKeys = 500_000

// put reports whether the key is new.
func (s *recently) put(f fingerprint) bool {
	if _, known := s.young[f]; known {
		return false
	}
	if _, known := s.old[f]; known {
		return false
	}
	if s.young == nil || len(s.young) >= s.bound {
		s.old, s.young = s.young, make(map[fingerprint]struct{})
	}
	s.young[f] = struct{}{}
	return true
}
