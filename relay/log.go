package relay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/sync/semaphore"

	"github.com/staffetta-relay/staffetta"
)

// LogMode says which attempts the log keeps.
type LogMode string

const (
	// LogAll keeps every attempt.
	LogAll LogMode = "all"
	// LogFailures keeps those that did not deliver.
	LogFailures LogMode = "failures"
)

const (
	// logInterval is how long a record may be off the store, logFailureInterval how long one that
	// counts against the quota: after a restart the quota's memory is read from the log.
	logInterval        = 100 * time.Millisecond
	logFailureInterval = 10 * time.Millisecond
	// logRetry is the pause after a block that the store did not take.
	logRetry = time.Second
	// logStoreTimeout bounds the wait for the store's word on one block, logStopTimeout that for
	// all that is left at a stop.
	logStoreTimeout = 5 * time.Second
	logStopTimeout  = 3 * time.Second
	// logShedInterval is the least time between two lines about attempts that were shed.
	logShedInterval = 10 * time.Second
	// logEvictInterval is how often the index follows the stream's eviction.
	logEvictInterval = 30 * time.Second
)

// AttemptLogConfig of an AttemptLog.
type AttemptLogConfig struct {
	// JetStream has the stream ATTEMPTS; give it a connection that carries no events.
	JetStream jetstream.JetStream
	// Mode is which attempts are kept. Default LogAll.
	Mode LogMode
	// Retention and MaxBytes bound the log by age and by its bytes in the store; the oldest go
	// first. 0 leaves the stream's own bound, as it was provisioned.
	Retention time.Duration
	MaxBytes  int64
	// Buffer is how many blocks, of at most 256 attempts and 64 KiB, may wait for the store; what
	// comes beyond them is shed. Default 256: 16 MiB.
	Buffer int
	// Room says why nothing can be stored now, or nil: a disk that fills up is left to the events.
	Room func() error
	// Followers is how many may follow at once. Default 64.
	Followers int
	Log       zerolog.Logger
}

func (c *AttemptLogConfig) setDefaults() error {
	if c.Mode == "" {
		c.Mode = LogAll
	}
	switch {
	case c.JetStream == nil:
		return errors.New("attempt log config: JetStream is missing")
	case c.Mode != LogAll && c.Mode != LogFailures:
		return fmt.Errorf("attempt log config: Mode %q is neither all nor failures", c.Mode)
	case c.Retention < 0 || c.MaxBytes < 0 || c.Buffer < 0 || c.Followers < 0:
		return errors.New("attempt log config: Retention, MaxBytes, Buffer and Followers must not be negative")
	}
	if c.Buffer == 0 {
		c.Buffer = 256
	}
	if c.Followers == 0 {
		c.Followers = 64
	}
	if c.Room == nil {
		c.Room = func() error { return nil }
	}
	return nil
}

// AttemptLog keeps what became of every attempt: in blocks, off the hot path, bounded by age and
// size. It never slows or stops a delivery: what it cannot store in time it sheds, and counts. A
// kill of the process takes from it what the last 100 ms brought (10 ms where a failure counts).
type AttemptLog struct {
	cfg    AttemptLogConfig
	stream jetstream.Stream
	name   string // of this process, for the ids of its blocks

	mu      sync.Mutex
	current *logBlock
	sealed  []*logBlock // full, oldest first
	free    []*logBlock
	made    int    // blocks there are
	taken   uint64 // records that came, and were not shed
	flushes []logFlush

	wake    chan struct{} // something to do, see Record
	written atomic.Uint64
	shed    atomic.Uint64
	settled atomic.Uint64 // of taken, those that were stored or given up
	stopped atomic.Bool

	index   logIndex
	queries *semaphore.Weighted
	follows followers
}

// logFlush waits until all that was taken up to its moment is settled.
type logFlush struct {
	taken uint64
	done  chan struct{}
}

// OpenAttemptLog finds the log's stream and sets its bounds. Nothing is stored before Run.
func OpenAttemptLog(ctx context.Context, cfg AttemptLogConfig) (*AttemptLog, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	stream, err := cfg.JetStream.Stream(ctx, staffetta.AttemptStream)
	if err != nil {
		return nil, fmt.Errorf("open attempt log: %w", err)
	}
	want := stream.CachedInfo().Config
	if cfg.Retention > 0 {
		want.MaxAge = cfg.Retention
	}
	if cfg.MaxBytes > 0 {
		want.MaxBytes = cfg.MaxBytes
	}
	if have := stream.CachedInfo().Config; want.MaxAge != have.MaxAge || want.MaxBytes != have.MaxBytes {
		want.Duplicates = min(want.Duplicates, want.MaxAge)
		if stream, err = cfg.JetStream.UpdateStream(ctx, want); err != nil {
			return nil, fmt.Errorf("set the bounds of the attempt log: %w", err)
		}
	}
	l := &AttemptLog{
		cfg: cfg, stream: stream, name: newLogName(), wake: make(chan struct{}, 1),
		queries: semaphore.NewWeighted(logQueries), follows: followers{bound: cfg.Followers},
	}
	state := stream.CachedInfo().State
	l.index.first, l.index.started = state.FirstSeq, state.LastSeq
	l.current = l.newBlock()
	return l, nil
}

// Record takes an attempt into the log; it is made for sender.Hooks. It does not wait for anything
// but a lock held for as long as a copy takes, and allocates nothing once the buffers have grown.
func (l *AttemptLog) Record(r *staffetta.AttemptRecord) {
	if l.cfg.Mode == LogFailures && r.Verdict.Action == staffetta.Deliver {
		return
	}
	l.mu.Lock()
	if l.current == nil {
		if l.current = l.newBlock(); l.current == nil {
			l.mu.Unlock()
			l.shed.Add(1)
			return
		}
	}
	b := l.current
	wake := b.count == 0 || r.Verdict.Counts && !b.counted
	b.add(r)
	l.taken++
	if b.full() {
		l.sealed = append(l.sealed, b)
		l.current = nil
		wake = true
	}
	l.mu.Unlock()
	if wake {
		l.rouse()
	}
}

// rouse makes Run look at what there is.
func (l *AttemptLog) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// newBlock gives an empty block, or nil where there are as many as may be. The lock is held.
func (l *AttemptLog) newBlock() *logBlock {
	if n := len(l.free); n > 0 {
		b := l.free[n-1]
		l.free = l.free[:n-1]
		return b
	}
	if l.made >= l.cfg.Buffer {
		return nil
	}
	l.made++
	return &logBlock{}
}

// Shed is how many attempts are not in the log because the store did not take them in time.
func (l *AttemptLog) Shed() uint64 { return l.shed.Load() }

// Flush returns once everything recorded before it is stored or shed, or ctx ends.
func (l *AttemptLog) Flush(ctx context.Context) error {
	l.mu.Lock()
	taken := l.taken
	if l.settled.Load() >= taken || l.stopped.Load() {
		l.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	l.flushes = append(l.flushes, logFlush{taken, done})
	l.mu.Unlock()
	l.rouse()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flush attempt log: %w", ctx.Err())
	}
}

// answerFlushes tells those that wait for what is settled by now.
func (l *AttemptLog) answerFlushes() {
	settled := l.settled.Load()
	if l.stopped.Load() {
		settled = math.MaxUint64
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.flushes[:0]
	for _, f := range l.flushes {
		if f.taken > settled {
			kept = append(kept, f)
			continue
		}
		close(f.done)
	}
	clear(l.flushes[len(kept):])
	l.flushes = kept
}

// Failures tells f of every attempt since then that counted against the quota, in the order in
// which they were decided; at is when the attempt ended.
func (l *AttemptLog) Failures(ctx context.Context, since time.Time, f func(workspace, endpoint string, at time.Time)) error {
	var reader logReader
	err := readStream(ctx, l.cfg.JetStream, staffetta.AttemptStream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since,
	}, func(m jetstream.Msg) error {
		err := reader.each(m.Data(), func(rec *logRecord) {
			at := time.UnixMicro(rec.at + int64(rec.duration)).UTC()
			if rec.flags&logCounts != 0 && !at.Before(since) {
				f(string(reader.text(rec.workspace)), string(reader.text(rec.endpoint)), at)
			}
		})
		if err != nil {
			l.cfg.Log.Error().Err(err).Msg("cannot read a block of the attempt log; passing over it")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read failures from the attempt log: %w", err)
	}
	return nil
}

// each reads every record of a block.
func (r *logReader) each(block []byte, f func(*logRecord)) error {
	if err := r.open(block); err != nil {
		return err
	}
	for {
		var rec logRecord
		ok, err := r.next(&rec)
		if err != nil || !ok {
			return err
		}
		f(&rec)
	}
}
