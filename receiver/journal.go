package receiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

const (
	// blockBytes and blockRequests are what one block holds, but for a larger request, which has one of
	// its own.
	blockBytes    = 256 << 10
	blockRequests = 256
	// maxPending bounds the bytes of a source's requests that wait to be stored.
	maxPending = 64 << 20
	// storeTimeout bounds the wait for the store; beyond it the sender of a request gets a 503.
	storeTimeout = 5 * time.Second
	// storeRetry is the pause after a block of which it is not known whether it was stored.
	storeRetry = 250 * time.Millisecond
)

var (
	// errUnavailable says that a request cannot be stored now: its sender gets a 503 and tries again.
	errUnavailable = errors.New("the event cannot be stored now")
	// errTaken says that another process writes the same journal.
	errTaken = errors.New("another process writes to the journal of this source")
)

// journal stores the requests of one source. Requests that come while a block is being stored gather
// in the next one: the more there are, the more share the cost of a block.
type journal struct {
	source  string
	subject string
	intake  jetstream.JetStream // stores the blocks
	records jetstream.JetStream // reads, and keeps the record of keys
	log     zerolog.Logger

	mu      sync.Mutex
	keys    keys
	blocks  []*block // that wait to be stored, oldest first; the last may take more
	pending int      // bytes in them and in the one that is being stored
	wake    chan struct{}
	spare   []byte // of a block that was stored, to be used again

	covered atomic.Uint64 // sequence up to which all keys are on record
	last    atomic.Uint64 // sequence of the last block
	end     atomic.Uint64 // ordinal of the next request; requests are numbered from 1
	blocked atomic.Bool   // the store did not take the last block
}

func newJournal(source string, intake, records jetstream.JetStream, keyBound int, log zerolog.Logger) *journal {
	return &journal{
		source: source, subject: staffetta.JournalSubject(source), intake: intake, records: records, log: log,
		keys: newKeys(keyBound, log), wake: make(chan struct{}, 1),
	}
}

// load finds the journal's end, and the keys of the last day.
func (j *journal) load(ctx context.Context) error {
	if err := j.findEnd(ctx); err != nil {
		return err
	}
	return j.loadKeys(ctx)
}

// findEnd reads the last block's place and number.
func (j *journal) findEnd(ctx context.Context) error {
	m, end, err := j.lastBlock(ctx)
	if err != nil {
		return err
	}
	if m != nil {
		j.last.Store(m.Sequence)
	}
	j.end.Store(end)
	return nil
}

// lastBlock reads the last block, nil without one, and the ordinal behind it.
func (j *journal) lastBlock(ctx context.Context) (*jetstream.RawStreamMsg, uint64, error) {
	stream, err := j.records.Stream(ctx, staffetta.JournalStream)
	if err != nil {
		return nil, 0, fmt.Errorf("open journal: %w", err)
	}
	m, err := stream.GetLastMsgForSubject(ctx, j.subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 1, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("find the end of the journal of source %s: %w", j.source, err)
	}
	_, end, err := blockOrdinals(m.Data)
	if err != nil {
		return nil, 0, fmt.Errorf("find the end of the journal of source %s: %w", j.source, err)
	}
	return m, end, nil
}

// store returns once the request is stored, or was within the last day. An error wraps errUnavailable:
// the request may be stored all the same, and a repeat is told by its key.
func (j *journal) store(r *Request) (repeat bool, err error) {
	f := fingerprintOf(r.EventID)
	j.mu.Lock()
	if j.keys.known(f, r.ReceivedAt) {
		j.mu.Unlock()
		return true, nil
	}
	b, repeat := j.keys.underWay[f]
	if !repeat {
		if b, err = j.add(r); err != nil {
			j.mu.Unlock()
			return false, err
		}
		b.keys = append(b.keys, f)
		j.keys.underWay[f] = b
	}
	j.mu.Unlock()
	return repeat, b.wait()
}

// append stores requests that are not told from repeats: copies that are handed over again.
func (j *journal) append(requests []*Request) error {
	var last *block
	j.mu.Lock()
	for _, r := range requests {
		b, err := j.add(r)
		if err != nil {
			j.mu.Unlock()
			return err
		}
		last = b
	}
	j.mu.Unlock()
	if last == nil {
		return nil
	}
	return last.wait() // blocks are stored in their order
}

// add puts a request into the last block. The lock is held.
func (j *journal) add(r *Request) (*block, error) {
	if j.pending > maxPending {
		return nil, fmt.Errorf("%w: too much waits to be stored", errUnavailable)
	}
	var b *block
	if n := len(j.blocks); n > 0 {
		b = j.blocks[n-1]
	}
	if b == nil || b.count >= blockRequests || len(b.data)+len(r.Body) > blockBytes {
		b = newBlock(j.spare)
		j.spare = nil
		j.blocks = append(j.blocks, b)
		select {
		case j.wake <- struct{}{}:
		default:
		}
	}
	before := len(b.data)
	b.add(r)
	j.pending += len(b.data) - before
	return b, nil
}

// wait returns once the block is stored, or is not after storeTimeout.
func (b *block) wait() error {
	select {
	case <-b.done:
		return b.err
	case <-b.late:
		return fmt.Errorf("%w: the store does not answer", errUnavailable)
	}
}

// run stores blocks until ctx ends and none is left, or the store does not answer any more. It returns
// errTaken where another process writes the same journal.
func (j *journal) run(ctx context.Context) error {
	for {
		b := j.next()
		if b == nil {
			select {
			case <-j.wake:
				continue
			case <-ctx.Done():
			}
			if b = j.next(); b == nil {
				return nil
			}
		}
		sequence, err := j.storeBlock(ctx, b)
		j.settle(b, sequence, err)
		if errors.Is(err, errTaken) {
			j.failAll(err)
			return fmt.Errorf("source %s: %w", j.source, err)
		}
	}
}

// next takes out the oldest block.
func (j *journal) next() *block {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.blocks) == 0 {
		return nil
	}
	b := j.blocks[0]
	j.blocks[0] = nil
	if j.blocks = j.blocks[1:]; len(j.blocks) == 0 {
		j.blocks = nil
	}
	return b
}

// storeBlock returns once the block is stored, or the store has refused it. While it is not known which
// (an answer that never came), the same block is offered again: it says which it stands behind, so it
// cannot be stored twice.
func (j *journal) storeBlock(ctx context.Context, b *block) (uint64, error) {
	b.number(j.end.Load())
	m := &nats.Msg{Subject: j.subject, Data: b.data}
	for {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		ack, err := j.intake.PublishMsg(bounded, m, jetstream.WithExpectLastSequencePerSubject(j.last.Load()), jetstream.WithRetryAttempts(0))
		cancel()
		var refused *jetstream.APIError
		switch {
		case err == nil:
			return ack.Sequence, nil
		case errors.As(err, &refused) && refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
			sequence, err := j.foundAt(ctx, b)
			if sequence > 0 {
				return sequence, nil
			}
			if errors.Is(err, errTaken) {
				return 0, fmt.Errorf("%w: %w", errUnavailable, err)
			}
		case errors.Is(err, nats.ErrMaxPayload):
			return 0, fmt.Errorf("%w: it is larger than a message of the store may be", errUnavailable)
		case errors.As(err, &refused):
			return 0, fmt.Errorf("%w: the store refuses it (%d %s)", errUnavailable, refused.ErrorCode, refused.Description)
		}
		if !j.blocked.Swap(true) {
			j.log.Error().Err(err).Str("source", j.source).Msg("the store does not answer; offering the same events again")
		}
		select {
		case <-time.After(storeRetry):
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: the store does not answer", errUnavailable)
		}
	}
}

// foundAt looks where the journal ends: at this block, which then was stored when its answer was lost;
// at another than was thought, behind which it is to be offered again; or beyond, where somebody else
// has written.
func (j *journal) foundAt(ctx context.Context, b *block) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	m, end, err := j.lastBlock(ctx)
	switch {
	case err != nil:
		return 0, err
	case m == nil:
		j.last.Store(0)
		return 0, nil
	case bytes.Equal(m.Data, b.data):
		return m.Sequence, nil
	case end > j.end.Load():
		return 0, errTaken
	default:
		j.last.Store(m.Sequence)
		return 0, nil
	}
}

// settle tells those who wait for a block what became of it.
func (j *journal) settle(b *block, sequence uint64, err error) {
	now := uint32(time.Now().Unix())
	j.mu.Lock()
	j.pending -= len(b.data) - blockHead
	if cap(b.data) <= 2*blockBytes {
		j.spare = b.data
	}
	for _, f := range b.keys {
		delete(j.keys.underWay, f)
		if err == nil {
			key := storedKey{f, now, sequence}
			j.keys.put(key)
			j.keys.pending = append(j.keys.pending, key)
		}
	}
	j.mu.Unlock()
	if err == nil {
		j.end.Add(uint64(b.count))
		j.last.Store(sequence)
		if j.blocked.Swap(false) {
			j.log.Info().Str("source", j.source).Msg("the store takes events again")
		}
	} else if !j.blocked.Swap(true) {
		j.log.Error().Err(err).Str("source", j.source).Msg("events are refused")
	}
	b.err = err
	b.timer.Stop()
	close(b.done)
}

// failAll ends what waits.
func (j *journal) failAll(err error) {
	for b := j.next(); b != nil; b = j.next() {
		j.settle(b, 0, fmt.Errorf("%w: %w", errUnavailable, err))
	}
}
