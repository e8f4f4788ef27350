package sender

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/rs/zerolog"
)

// Feed hands the events of one subject over to one target, for as long as it takes: an event that the
// target does not take is tried again by FeedConfig.Backoff and holds back those alone that must come
// behind it. An event is settled when the target has taken it, or when it is on record as dropped. What
// is not settled survives a stop and a kill, with its schedule; after a kill at most what was settled in
// the last CursorInterval, and the time of a write, is handed over again, in its order.
type Feed struct {
	cfg        FeedConfig
	id         string // this process's name in the cursor
	stream     jetstream.Stream
	record     keptRecord
	start      feedRecord // where Run goes on
	blocks     sync.Pool  // of *feedBlock
	complaints seldom
	log        zerolog.Logger

	mu    sync.Mutex
	state FeedState
}

// NewFeed checks the configuration. Nothing runs before Run.
func NewFeed(cfg FeedConfig) (*Feed, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	f := &Feed{cfg: cfg, id: nuid.Next()[14:]}
	f.log = cfg.Log.With().Str("feed", cfg.Name).Str("workspace", cfg.Workspace).Str("endpoint", cfg.Endpoint).Logger()
	f.blocks.New = func() any { return new(feedBlock) }
	return f, nil
}

// Load reads where the feed stands. The first time it puts on record, before it returns, that the feed
// starts behind what is stored by now: of what is stored from then on no event is missed.
func (f *Feed) Load(ctx context.Context) error {
	stream, err := f.cfg.JetStream.Stream(ctx, f.cfg.Stream)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", f.cfg.Stream, err)
	}
	f.stream = stream
	r, err := f.load(ctx)
	if err != nil {
		return fmt.Errorf("load feed %s: %w", f.cfg.Name, err)
	}
	if end := stream.CachedInfo().State.LastSeq; r.high.sequence > end+1 {
		// Sequences that are no longer there will be those of other events.
		f.log.Error().Uint64("cursor", r.high.sequence).Uint64("last", end).
			Msg("the store lost events that were read already; going on at its end")
		r.high = position{end + 1, 0}
		for i, m := range r.marks {
			if m.sequence > end {
				r.marks = r.marks[:i]
				break
			}
		}
	}
	f.start = r
	done := r.high.sequence - 1
	if len(r.marks) > 0 {
		done = r.marks[0].sequence - 1
	}
	f.publish(&FeedState{Done: done, DoneOnRecord: done, Waiting: len(r.marks)})
	return nil
}

// Run hands events over until ctx ends, then lets the attempts in flight end, for StopWait at the
// most, and writes the cursor a last time. It returns nil after a stop, ErrShardTaken when another
// process writes the feed's cursor. Load must have succeeded.
func (f *Feed) Run(ctx context.Context) error {
	attempts, cutOff := context.WithCancel(context.WithoutCancel(ctx))
	defer cutOff()
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()

	blocks := make(chan *feedBlock)
	l := newFeedLoop(f, blocks)
	var others sync.WaitGroup
	for range f.cfg.Concurrency {
		others.Go(func() {
			for c := range l.calls {
				c.do(attempts, f)
				l.ended <- c
			}
		})
	}
	reader := feedReader{feed: f, blocks: blocks, next: f.start.high.sequence}
	others.Go(func() { reader.run(reading, f.start.marks) })
	others.Go(func() { l.keeper.keep(context.WithoutCancel(ctx), &f.record) })

	err := l.run(ctx, stopReading, cutOff)
	stopReading()
	close(l.calls)
	close(l.keeper.records)
	others.Wait()
	return err
}

// State is where the feed stands. It may be called at any time.
func (f *Feed) State() FeedState {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

func (f *Feed) publish(s *FeedState) {
	f.mu.Lock()
	f.state = *s
	f.mu.Unlock()
}

// seldom thins out what repeats itself.
type seldom struct{ last atomic.Int64 }

// due reports whether the last time that it was due is a minute ago.
func (s *seldom) due() bool {
	now, last := time.Now().UnixNano(), s.last.Load()
	return now-last >= int64(time.Minute) && s.last.CompareAndSwap(last, now)
}
