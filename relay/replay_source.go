package relay

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/staffetta-relay/staffetta"
)

// copySlack is how much earlier than the record a look for copies begins.
const copySlack = time.Second

// findCopies looks for the copies that were put in line after the record was stored: those of the batch
// that a stop, or the store, cut off. None of them can have been purged yet, for what is delivered
// stays for minutes, and from a start on at least as long.
func (j *replayJob) findCopies(ctx context.Context) error {
	j.copies = nil
	if j.storedAt.IsZero() {
		return nil
	}
	prefix := j.name + "."
	for shard := range j.r.shards {
		endpoint := orAny(j.record.Request.Endpoint)
		if endpoint != "*" && staffetta.Shard(endpoint, j.r.shards) != shard {
			continue
		}
		events := eventShelf(j.r.conn, shard)
		from, err := events.firstSince(ctx, j.storedAt.Add(-copySlack))
		if err != nil {
			return err
		}
		if from == 0 {
			continue
		}
		err = events.each(ctx, staffetta.EventSubject(shard, endpoint), from, ^uint64(0), 0, func(m *shelved) error {
			if mark := m.replay; strings.HasPrefix(mark, prefix) {
				if j.copies == nil {
					j.copies = make(map[string]bool)
				}
				j.copies[mark] = true
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// scanLetters goes through the dead letters, in the order of their drop.
func (j *replayJob) scanLetters(ctx context.Context) error {
	req := &j.record.Request
	f := letterFilter{workspace: j.record.Workspace, endpoint: req.Endpoint}
	if req.Since != nil {
		f.since = *req.Since
	}
	if req.Until != nil {
		f.until = *req.Until
	}
	if err := j.noteAgedLetters(ctx, f.since); err != nil {
		return err
	}
	if ws, err := j.r.registry.Workspace(f.workspace); err == nil {
		f.since = later(f.since, ws.CreatedAt)
	}
	letters := j.r.letters
	floor, before, none, err := letters.span(ctx, &f)
	if err != nil || none || j.record.LastLetter == 0 {
		return err
	}
	to := j.record.LastLetter
	if before > 0 {
		to = min(to, before-1)
	}
	if to < floor {
		return nil
	}
	candidates, _, err := letters.shelf.count(ctx, f.subject(), max(floor, 1))
	if err != nil {
		return err
	}
	beyond, _, err := letters.shelf.count(ctx, f.subject(), to+1)
	if err != nil {
		return err
	}
	j.change(func(r *replayRecord) { r.Candidates += candidates - min(beyond, candidates) })
	return letters.shelf.each(ctx, f.subject(), floor, to, 0, func(m *shelved) error {
		return j.look(ctx, m, replayPosition{Sequence: m.sequence}, "")
	})
}

// noteAgedLetters records since when dead letters are held, where the request reaches further back.
func (j *replayJob) noteAgedLetters(ctx context.Context, since time.Time) error {
	if j.record.Request.Events > 0 {
		return nil
	}
	first, err := j.r.letters.shelf.one(ctx, shelfRequest{Sequence: 1, Next: ">"})
	if err != nil || first == nil || first.sequence == 1 || !since.Before(first.at) {
		return err
	}
	j.change(func(r *replayRecord) { r.LettersFrom = inUTC(&first.at) })
	return nil
}

// scanEvents goes through the events that the store still holds, endpoint by endpoint, for those that
// were delivered: settled, and not dropped.
func (j *replayJob) scanEvents(ctx context.Context) error {
	if j.r.state == nil {
		return nil
	}
	workspace := j.record.Workspace
	if only := j.record.Request.Endpoint; only != "" {
		return j.scanEndpoint(ctx, only)
	}
	for after, more := "", true; more; {
		page, next, err := j.r.registry.Endpoints(workspace, after, maxPage)
		if err != nil {
			if errors.Is(err, ErrNotFound) {
				return nil
			}
			return err
		}
		more = next
		for _, e := range page {
			after = e.ID
			if p := j.stored.Position; p.Events && e.ID < p.Endpoint {
				continue
			}
			if err := j.scanEndpoint(ctx, e.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// scanEndpoint goes through the events of one endpoint.
func (j *replayJob) scanEndpoint(ctx context.Context, endpoint string) error {
	state, known := j.r.state(endpoint)
	if _, err := j.r.registry.Endpoint(j.record.Workspace, endpoint); err != nil || !known {
		return nil
	}
	shard := staffetta.Shard(endpoint, j.r.shards)
	events := eventShelf(j.r.conn, shard)
	subject := staffetta.EventSubject(shard, endpoint)
	from := uint64(1)
	if since := j.record.Request.Since; since != nil {
		var err error
		if from, err = events.firstSince(ctx, *since); err != nil || from == 0 {
			return err
		}
	}
	candidates, first, err := events.count(ctx, subject, from)
	if err != nil || first == nil {
		return err
	}
	// An event that is settled by now and was dropped has its letter by now.
	dropped, err := j.droppedSince(ctx, endpoint, first.at)
	if err != nil {
		return err
	}
	j.change(func(r *replayRecord) { r.Candidates += candidates })
	until := j.record.CreatedAt
	if end := j.record.Request.Until; end != nil && end.Before(until) {
		until = end.Add(-1)
	}
	return events.each(ctx, subject, from, ^uint64(0), candidates, func(m *shelved) error {
		if m.at.After(until) || m.sequence > state.Settled && j.ids == nil {
			return errEnough
		}
		if dropped[m.sequence] || m.replay != "" {
			return nil
		}
		why := ""
		if m.sequence > state.Settled {
			why = skippedWaiting
		}
		return j.look(ctx, m, replayPosition{Events: true, Endpoint: endpoint, Sequence: m.sequence}, why)
	})
}

// droppedSince gives the sequences of the endpoint's events that were dropped since a time.
func (j *replayJob) droppedSince(ctx context.Context, endpoint string, since time.Time) (map[uint64]bool, error) {
	letters := j.r.letters.shelf
	from, err := letters.firstSince(ctx, since)
	if err != nil || from == 0 {
		return nil, err
	}
	dropped := make(map[uint64]bool)
	err = letters.each(ctx, staffetta.DeadLetterSubject(j.record.Workspace, endpoint), from, ^uint64(0), 0, func(m *shelved) error {
		digits, _ := strings.CutPrefix(m.text(nats.MsgIdHdr), endpoint+".")
		if sequence, err := strconv.ParseUint(digits, 10, 64); err == nil {
			dropped[sequence] = true
		}
		return nil
	})
	return dropped, err
}

// look takes the event of a letter, or an event, into the batch if the request wants it and nothing
// stands against it. why is what does, where the caller knows that already.
func (j *replayJob) look(ctx context.Context, m *shelved, at replayPosition, why string) error {
	j.change(func(r *replayRecord) { r.Examined++ })
	id, req := m.eventID, &j.record.Request
	if req.EventType != "" && m.eventType != req.EventType {
		return nil
	}
	index, wanted := j.ids[id]
	if j.ids != nil && !wanted {
		return nil
	}
	endpoint := endpointOfSubject(m.subject)
	if staffetta.IsOperationsEndpoint(endpoint) { // a notice of then is none of now
		return nil
	}
	// An event that was dropped, replayed and dropped again is still one.
	if !j.seen.put(fingerprintOf(endpoint, keyOfEvent, id)) || j.stored.Position.covers(at) {
		return nil
	}
	if why == "" {
		why = j.r.obstacle(j.record.Workspace, endpoint)
	}
	j.change(func(r *replayRecord) {
		r.Found++
		r.Position = at
		if j.ids != nil {
			r.Held = setBit(r.Held, index)
		}
		if why != "" {
			if r.Skipped == nil {
				r.Skipped = make(map[string]int)
			}
			r.Skipped[why]++
		}
	})
	if why != "" {
		return nil
	}
	j.add(m, endpoint, id, at)
	if len(j.batch) >= replayBatch || j.bytes >= replayBatchBytes {
		return j.flush(ctx)
	}
	return nil
}

// add takes an event into the batch.
func (j *replayJob) add(m *shelved, endpoint, id string, at replayPosition) {
	shard := staffetta.Shard(endpoint, j.r.shards)
	kind := "d"
	if at.Events { // whose sequences are the shard's own
		kind = "e" + strconv.Itoa(shard) + "-"
	}
	item := replayItem{
		route: Route{Endpoint: endpoint, Shard: shard, Subject: staffetta.EventSubject(shard, endpoint)},
		mark:  j.name + "." + kind + strconv.FormatUint(at.Sequence, 10),
	}
	item.event = staffetta.StoredEvent{ID: id, Type: m.eventType, Payload: m.data, Replay: item.mark}
	j.batch = append(j.batch, item)
	j.bytes += len(m.data)
}

// obstacle says why no copy can go to an endpoint, or nothing.
func (r *Replays) obstacle(workspace, endpoint string) string {
	e, err := r.registry.Endpoint(workspace, endpoint)
	switch {
	case err != nil:
		return skippedDeleted
	case e.Status == staffetta.Disabled && e.OnDisable == staffetta.Discard:
		return skippedDiscards
	default:
		return ""
	}
}
