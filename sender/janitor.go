package sender

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// What the janitor goes by. A purge that ends inside a block rewrites that block (75 ms measured
// for 8 MiB), one that empties the stream does not: so it either waits until much is settled or until
// all is.
const (
	janitorInterval = 15 * time.Second
	// purgeBytes is how much must be settled at the front of a shard that has events waiting.
	purgeBytes = 32 << 20
	// pinnedBytes is the size from which on a shard that an endpoint holds back is purged endpoint
	// by endpoint; such a purge is dear (0.3-0.5 s measured at 500,000 events), so only
	// pinnedPurges of them happen at a time and only where pinnedGain is to be won.
	pinnedBytes  = 256 << 20
	pinnedPurges = 4
	pinnedGain   = 4 << 20
)

// mark remembers what a shard's last sequence was at a time.
type mark struct {
	at   time.Time
	last uint64
}

// housekeep purges what is settled and gives back the consumers of idle lanes, until ctx ends.
func (d *Dispatcher) housekeep(ctx context.Context) {
	ticker := time.NewTicker(janitorInterval)
	defer ticker.Stop()
	d.tendHeld(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			d.tendHeld(ctx)
			for _, s := range d.shards {
				for _, l := range s.all() {
					l.closeIdle(now.Add(-d.cfg.IdleAfter))
				}
				if err := s.purge(ctx, now); err != nil && ctx.Err() == nil {
					d.cfg.Log.Error().Err(err).Str("stream", s.stream).Msg("cannot purge delivered events; trying again")
				}
			}
		}
	}
}

// tendHeld looks after the lanes of all shards that do not move.
func (d *Dispatcher) tendHeld(ctx context.Context) {
	err := eachShard(d.shards, 4, func(s *shard) error { return s.tendHeld(ctx) })
	if err != nil && ctx.Err() == nil {
		d.cfg.Log.Error().Err(err).Msg("cannot look after held events; trying again")
	}
}

// purge removes events that every lane has settled and that are older than Keep.
func (s *shard) purge(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	// The floor is taken before the state: what is stored in between lies above both.
	floor, pinned := s.floor()
	stream, err := s.d.cfg.JetStream.Stream(ctx, s.stream)
	if err != nil {
		return fmt.Errorf("open stream: %w", err)
	}
	state := stream.CachedInfo().State
	old := s.oldMark(now, state.LastSeq)
	if state.Msgs == 0 || old < state.FirstSeq {
		return nil
	}
	each := state.Bytes / state.Msgs
	upTo := old
	if pinned {
		upTo = min(upTo, floor)
	}
	if upTo >= state.FirstSeq {
		settled := (upTo - state.FirstSeq + 1) * each
		if upTo == state.LastSeq || settled >= purgeBytes {
			return stream.Purge(ctx, jetstream.WithPurgeSequence(upTo+1))
		}
	}
	if pinned && state.Bytes >= pinnedBytes {
		return s.purgeLanes(ctx, stream, old, each)
	}
	return nil
}

// floor is the highest sequence up to which every lane with waiting events is done. Without such a
// lane nothing is pinned.
func (s *shard) floor() (floor uint64, pinned bool) {
	for _, l := range s.all() {
		l.mu.Lock()
		if l.tail > l.settled && (!pinned || l.settled < floor) {
			floor, pinned = l.settled, true
		}
		l.mu.Unlock()
	}
	return floor, pinned
}

// oldMark notes the last sequence of now and gives the one of Keep ago: what is up to it may go.
func (s *shard) oldMark(now time.Time, last uint64) uint64 {
	s.marks = append(s.marks, mark{now, last})
	var old uint64
	for len(s.marks) > 0 && now.Sub(s.marks[0].at) >= s.d.cfg.Keep {
		old = s.marks[0].last
		if len(s.marks) == 1 || now.Sub(s.marks[1].at) < s.d.cfg.Keep {
			break
		}
		s.marks = s.marks[1:]
	}
	return old
}

// purgeLanes removes settled events by subject, where one lane holds the front of the shard back.
func (s *shard) purgeLanes(ctx context.Context, stream jetstream.Stream, old, each uint64) error {
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(s.prefix+"*"))
	if err != nil {
		return fmt.Errorf("read subjects: %w", err)
	}
	done := 0
	for subject, count := range info.State.Subjects {
		if done == pinnedPurges {
			return nil
		}
		upTo, waiting := old, uint64(0)
		if l := s.lane(subject[len(s.prefix):]); l != nil {
			l.mu.Lock()
			if l.tail > l.settled {
				upTo, waiting = min(old, l.settled), l.backlog
			}
			l.mu.Unlock()
		}
		if count <= waiting || (count-waiting)*each < pinnedGain {
			continue
		}
		if err := stream.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(upTo+1)); err != nil {
			return fmt.Errorf("purge %s: %w", subject, err)
		}
		done++
	}
	return nil
}
