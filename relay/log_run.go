package relay

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/staffetta-relay/staffetta"
)

func newLogName() string { return nuid.Next() }

// Run stores what is recorded until ctx ends, then what is left, within 3 seconds. It returns when
// all that it started has ended.
func (l *AttemptLog) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { l.readHistory(ctx) })
	w := logWriter{log: l}
	w.run(ctx)
	wg.Wait()
	l.follows.closeAll()
	return nil
}

// logWriter is the one goroutine that stores blocks.
type logWriter struct {
	log      *AttemptLog
	blocks   uint64 // stored by this process, for their ids
	pending  *logBlock
	out      []byte
	due      time.Time // of the next write; zero when nothing waits
	retry    time.Time // the store is left alone until then
	refusing bool      // said in the log already
	reported uint64    // of shed
	reportAt time.Time
}

func (w *logWriter) run(ctx context.Context) {
	l := w.log
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	evict := time.NewTicker(logEvictInterval)
	defer evict.Stop()
	for {
		timer.Reset(w.next(time.Now()))
		select {
		case <-ctx.Done():
			w.stop(ctx)
			return
		case <-l.wake:
			w.plan(time.Now())
		case <-timer.C:
		case <-evict.C:
			l.evict(ctx)
		}
		if now := time.Now(); !w.due.IsZero() && !now.Before(w.due) && !now.Before(w.retry) {
			w.write(ctx)
		}
		w.reportShed()
	}
}

// plan says when to write, by what there is.
func (w *logWriter) plan(now time.Time) {
	l := w.log
	l.mu.Lock()
	counted := l.current != nil && l.current.counted
	urgent := len(l.sealed) > 0 || len(l.flushes) > 0
	l.mu.Unlock()
	wait := logInterval
	switch {
	case urgent:
		wait = 0
	case counted:
		wait = logFailureInterval
	}
	if due := now.Add(wait); w.due.IsZero() || due.Before(w.due) {
		w.due = due
	}
}

// next is how long to sleep.
func (w *logWriter) next(now time.Time) time.Duration {
	wait := time.Hour
	if !w.due.IsZero() {
		due := w.due
		if due.Before(w.retry) {
			due = w.retry
		}
		wait = due.Sub(now)
	}
	if w.log.shed.Load() != w.reported {
		wait = min(wait, max(w.reportAt.Sub(now), 0))
	}
	return wait
}

// write stores all that there is.
func (w *logWriter) write(ctx context.Context) {
	l := w.log
	for w.take() {
		if err := w.store(ctx, w.pending); err != nil {
			w.refused(err)
			w.retry = time.Now().Add(logRetry)
			w.due = w.retry
			return
		}
		w.accepted()
		w.giveBack()
	}
	w.due = time.Time{}
	l.answerFlushes()
}

// take makes the oldest records the pending block; it reports false when there are none.
func (w *logWriter) take() bool {
	if w.pending != nil {
		return true
	}
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.sealed) > 0:
		w.pending = l.sealed[0]
		n := copy(l.sealed, l.sealed[1:])
		l.sealed[n] = nil
		l.sealed = l.sealed[:n]
	case l.current != nil && l.current.count > 0:
		w.pending, l.current = l.current, nil
	default:
		return false
	}
	return true
}

// giveBack ends the pending block: its records are settled.
func (w *logWriter) giveBack() {
	l := w.log
	l.settled.Add(uint64(w.pending.count))
	w.pending.reset()
	l.mu.Lock()
	l.free = append(l.free, w.pending)
	l.mu.Unlock()
	w.pending = nil
}

// store publishes a block. Its id makes a second try harmless where the first one's answer was lost.
func (w *logWriter) store(ctx context.Context, b *logBlock) error {
	l := w.log
	if err := l.cfg.Room(); err != nil {
		return err
	}
	w.out = b.encode(w.out[:0])
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logStoreTimeout)
	defer cancel()
	return w.publish(ctx)
}

func (w *logWriter) publish(ctx context.Context) error {
	l := w.log
	id := l.name + "." + strconv.FormatUint(w.blocks, 10)
	ack, err := l.cfg.JetStream.Publish(ctx, staffetta.AttemptSubject, w.out, jetstream.WithMsgID(id))
	if err != nil {
		return fmt.Errorf("store block: %w", err)
	}
	w.blocks++
	l.written.Add(uint64(w.pending.count))
	if err := l.index.stored(ack.Sequence, w.out); err != nil {
		l.cfg.Log.Error().Err(err).Msg("cannot index a block of the attempt log")
	}
	l.follows.tell(ack.Sequence, w.out)
	return nil
}

func (w *logWriter) refused(err error) {
	if !w.refusing {
		w.log.cfg.Log.Error().Err(err).Msg("the attempt log cannot be stored; attempts wait in memory, and are shed beyond its bound")
	}
	w.refusing = true
}

func (w *logWriter) accepted() {
	if w.refusing {
		w.log.cfg.Log.Info().Uint64("shed", w.log.Shed()).Msg("the attempt log is stored again")
	}
	w.refusing = false
}

// reportShed says how many attempts were shed, at the first and then now and then.
func (w *logWriter) reportShed() {
	shed, now := w.log.Shed(), time.Now()
	if shed == w.reported || now.Before(w.reportAt) {
		return
	}
	w.log.cfg.Log.Warn().Uint64("shed", shed-w.reported).Uint64("total", shed).
		Msg("attempts are missing from the log: the store did not take them in time; deliveries are not affected")
	w.reported, w.reportAt = shed, now.Add(logShedInterval)
}

// stop stores what is left, once, and sheds what the store does not take.
func (w *logWriter) stop(ctx context.Context) {
	l := w.log
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logStopTimeout)
	defer cancel()
	err := l.cfg.Room()
	for w.take() {
		if err == nil {
			w.out = w.pending.encode(w.out[:0])
			if err = w.publish(ctx); err != nil {
				w.refused(err)
			}
		}
		if err != nil {
			l.shed.Add(uint64(w.pending.count))
		}
		w.giveBack()
	}
	w.reportAt = time.Time{}
	w.reportShed()
	l.stopped.Store(true)
	l.answerFlushes()
}

// evict lets the index follow the stream.
func (l *AttemptLog) evict(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, logStoreTimeout)
	defer cancel()
	if info, err := l.stream.Info(ctx); err == nil { // else at the next time
		l.index.evict(info.State.FirstSeq)
	}
}

// readHistory indexes the blocks of before the start. Until it has, queries that reach that far
// back read them one by one.
func (l *AttemptLog) readHistory(ctx context.Context) {
	from, to := l.index.first, l.index.started
	if to == 0 || from > to {
		l.index.complete()
		return
	}
	began, blocks := time.Now(), 0
	errEnd := errors.New("end of history")
	err := readStream(ctx, l.cfg.JetStream, staffetta.AttemptStream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverAllPolicy,
	}, func(m jetstream.Msg) error {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if err := l.index.found(meta.Sequence.Stream, m.Data()); err != nil {
			l.cfg.Log.Error().Err(err).Uint64("block", meta.Sequence.Stream).Msg("cannot index a block of the attempt log")
		}
		if blocks++; meta.Sequence.Stream >= to {
			return errEnd
		}
		return ctx.Err()
	})
	switch {
	case ctx.Err() != nil:
	case err != nil && !errors.Is(err, errEnd):
		l.cfg.Log.Error().Err(err).Msg("cannot index the attempt log of before the start; old attempts are found slowly")
	default:
		l.index.complete()
		l.cfg.Log.Debug().Int("blocks", blocks).Dur("took", time.Since(began)).Msg("attempt log indexed")
	}
}
