package receiver

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

const (
	// janitorInterval is how often the journal is looked at for what may go; once it is half full, every
	// janitorHurry.
	janitorInterval = 15 * time.Second
	janitorHurry    = time.Second
	// purgeBytes is how much of a source must be settled before it is purged, unless all of it is: a
	// purge that ends inside a file of the store rewrites the file.
	purgeBytes = 16 << 20
)

// keepHouse purges what every target has until ctx ends.
func (r *Receiver) keepHouse(ctx context.Context) {
	timer := time.NewTimer(janitorInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		half, err := r.purge(ctx)
		if err != nil && ctx.Err() == nil {
			r.cfg.Log.Error().Err(err).Msg("cannot purge events that were handed over; trying again")
		}
		r.refusals.flush()
		if half {
			timer.Reset(janitorHurry)
		} else {
			timer.Reset(janitorInterval)
		}
	}
}

// purge lets go of the blocks that every target of their source has and that are older than Retention;
// of all that they have once the journal is half full. It reports whether it is.
func (r *Receiver) purge(ctx context.Context) (half bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	stream, err := r.records.Stream(ctx, staffetta.JournalStream)
	if err != nil {
		return false, fmt.Errorf("open journal: %w", err)
	}
	info := stream.CachedInfo()
	half = info.Config.MaxBytes > 0 && info.State.Bytes > uint64(info.Config.MaxBytes)/2
	r.full.Store(info.Config.MaxBytes > 0 && info.State.Bytes+uint64(r.cfg.MaxBody+blockBytes) > uint64(info.Config.MaxBytes))
	retention := max(r.cfg.Retention, 0)
	if half {
		retention = 0
	}
	for _, s := range r.sources {
		upTo := s.done()
		if upTo == 0 || upTo < info.State.FirstSeq {
			continue
		}
		if retention > 0 {
			if upTo, err = olderThan(ctx, stream, s.journal.subject, info.State.FirstSeq, upTo, time.Now().Add(-retention)); err != nil {
				return half, err
			}
		}
		if err := s.purge(ctx, stream, info, upTo, half); err != nil {
			return half, err
		}
	}
	return half, nil
}

// done is the sequence up to which every target has the events, that is on record, and so are the
// events' keys. The last block stays: the journal goes on by its number.
func (s *source) done() uint64 {
	upTo := s.journal.covered.Load()
	for _, f := range s.feeds {
		upTo = min(upTo, f.feed.State().DoneOnRecord)
	}
	if last := s.journal.last.Load(); upTo >= last && last > 0 {
		upTo = last - 1
	}
	return upTo
}

func (s *source) purge(ctx context.Context, stream jetstream.Stream, info *jetstream.StreamInfo, upTo uint64, half bool) error {
	if upTo < info.State.FirstSeq || info.State.Msgs == 0 {
		return nil
	}
	each := info.State.Bytes / info.State.Msgs
	if settled := (upTo - info.State.FirstSeq + 1) * each; settled < purgeBytes && !half && upTo+1 < s.journal.last.Load() {
		return nil
	}
	err := stream.Purge(ctx, jetstream.WithPurgeSubject(s.journal.subject), jetstream.WithPurgeSequence(upTo+1))
	if err != nil {
		return fmt.Errorf("purge source %s: %w", s.name, err)
	}
	return nil
}

// olderThan finds the last sequence up to which the blocks of a subject are from before a time; 0 for
// none.
func olderThan(ctx context.Context, stream jetstream.Stream, subject string, first, last uint64, before time.Time) (uint64, error) {
	var failure error
	n := sort.Search(int(last-first+1), func(i int) bool {
		if failure != nil {
			return true
		}
		m, err := stream.GetMsg(ctx, first+uint64(i), jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return true
		}
		if err != nil {
			failure = fmt.Errorf("find old events: %w", err)
			return true
		}
		return !m.Time.Before(before)
	})
	if failure != nil || n == 0 {
		return 0, failure
	}
	return first + uint64(n) - 1, nil
}

// refusals logs, at most once per janitor's round and source, that webhooks are refused: whoever sets a
// receiver up sees why nothing comes, and a stranger cannot fill the log.
type refusals struct {
	log   zerolog.Logger
	mu    sync.Mutex
	count map[refused]int
}

type refused struct{ source, text string }

func (r *refusals) note(source string, a reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count == nil {
		r.count = make(map[refused]int)
	}
	key := refused{source, a.text[:len(a.text)-1]}
	if r.count[key]++; r.count[key] == 1 {
		r.log.Warn().Str("source", source).Str("why", key.text).Msg("a webhook was refused")
	}
}

func (r *refusals) flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, n := range r.count {
		if n > 1 {
			r.log.Warn().Str("source", key.source).Str("why", key.text).Int("more", n-1).Msg("webhooks were refused")
		}
	}
	r.count = nil
}
