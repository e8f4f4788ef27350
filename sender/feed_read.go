package sender

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The reader's bounds.
const (
	// readWindow is how many blocks are asked for at once.
	readWindow = 16
	// readWait is how long one request for blocks stands.
	readWait = time.Minute
	// readHeartbeat is how often the server says that it still knows of the request.
	readHeartbeat = 10 * time.Second
	// readerIdle is how long the server keeps a consumer that asks for nothing.
	readerIdle = 10 * time.Minute
)

// feedBlock is a stored block at hand.
type feedBlock struct {
	sequence uint64
	storedAt time.Time
	size     int
	entries  []Entry
	needed   int // events that still need their entry
	// marks are set where the record asks for some of its events alone.
	marks []feedMark
}

// newBlock splits a stored message.
func (f *Feed) newBlock(sequence uint64, storedAt time.Time, data []byte) (*feedBlock, error) {
	b := f.blocks.Get().(*feedBlock)
	b.sequence, b.storedAt, b.size = sequence, storedAt, len(data)
	err := f.split(b, data)
	if err == nil && len(b.entries) == 0 {
		err = errors.New("it has no event")
	}
	if err != nil {
		clear(b.entries)
		b.entries = b.entries[:0]
		return b, fmt.Errorf("read block %d: %w", sequence, err)
	}
	for i := range b.entries {
		e := &b.entries[i]
		e.Sequence, e.StoredAt, e.Index = sequence, storedAt, i
	}
	return b, nil
}

func (f *Feed) split(b *feedBlock, data []byte) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("splitting it panicked: %v", v)
		}
	}()
	b.entries, err = f.cfg.Split(data, b.entries[:0])
	return err
}

// freeBlock lets go of what a block held, so that another one may use its room.
func (f *Feed) freeBlock(b *feedBlock) {
	clear(b.entries)
	*b = feedBlock{entries: b.entries[:0]}
	if cap(b.entries) <= 4096 {
		f.blocks.Put(b)
	}
}

// errGone says that a block is no longer stored, or cannot be read any more.
var errGone = errors.New("the block is gone")

// fetchBlock reads one block again. It returns errGone where that will never succeed.
func (f *Feed) fetchBlock(ctx context.Context, sequence uint64) (*feedBlock, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m, err := f.stream.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) && f.maybeLate(ctx, sequence) {
		// A replica that answers may lag behind the one that had the block.
		if err = pauseFor(ctx, time.Second); err == nil {
			m, err = f.stream.GetMsg(ctx, sequence)
		}
	}
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, errGone
	}
	if err != nil {
		return nil, fmt.Errorf("fetch block %d: %w", sequence, err)
	}
	b, err := f.newBlock(sequence, m.Time, m.Data)
	if err != nil {
		f.freeBlock(b)
		return nil, errGone
	}
	return b, nil
}

// maybeLate reports whether a block that was not found may be stored all the same.
func (f *Feed) maybeLate(ctx context.Context, sequence uint64) bool {
	info, err := f.stream.Info(ctx)
	return err != nil || info.Config.Replicas > 1 && sequence >= info.State.FirstSeq
}

// lastStored is the sequence of the last block; 0 without one.
func (f *Feed) lastStored(ctx context.Context) (uint64, error) {
	m, err := f.stream.GetLastMsgForSubject(ctx, f.cfg.Subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find the last block of %s: %w", f.cfg.Subject, err)
	}
	return m.Sequence, nil
}

// feedReader reads blocks in their order and hands them over one at a time.
type feedReader struct {
	feed   *Feed
	blocks chan<- *feedBlock
	next   uint64 // sequence to go on at
	opened int    // consumers made so far
}

// run reads the blocks of marks first, then all from next on, until ctx ends.
func (r *feedReader) run(ctx context.Context, marks []feedMark) {
	for len(marks) > 0 && ctx.Err() == nil {
		n := 1
		for n < len(marks) && marks[n].sequence == marks[0].sequence {
			n++
		}
		if err := r.again(ctx, marks[:n:n]); err != nil {
			r.complain(ctx, err)
			continue
		}
		marks = marks[n:]
	}
	for ctx.Err() == nil {
		if err := r.follow(ctx); err != nil {
			r.complain(ctx, err)
		}
	}
}

// complain logs what keeps the reader from reading, now and then, and rests.
func (r *feedReader) complain(ctx context.Context, err error) {
	f := r.feed
	if ctx.Err() == nil && f.complaints.due() {
		f.log.Error().Err(err).Msg("cannot read the feed's events; trying again")
	}
	_ = pauseFor(ctx, time.Second)
}

// again hands over the block of some marks of the record.
func (r *feedReader) again(ctx context.Context, marks []feedMark) error {
	b, err := r.feed.fetchBlock(ctx, marks[0].sequence)
	if errors.Is(err, errGone) {
		b, err = &feedBlock{sequence: marks[0].sequence}, nil
	}
	if err != nil {
		return err
	}
	b.marks = marks
	r.hand(ctx, b)
	return nil
}

// hand waits until the loop takes b; it reports false when ctx ended before.
func (r *feedReader) hand(ctx context.Context, b *feedBlock) bool {
	select {
	case r.blocks <- b:
		return true
	case <-ctx.Done():
		return false
	}
}

// follow makes a consumer and hands over what it brings, until ctx ends, the connection was cut, or
// the loop had no room for long: then it returns nil and may be called again.
func (r *feedReader) follow(ctx context.Context) error {
	conn := r.feed.cfg.JetStream.Conn()
	again := conn.StatusChanged(nats.CONNECTED)
	defer conn.RemoveStatusListener(again)
	consumer, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer r.close(consumer.CachedInfo().Name)
	var count uint64
	for ctx.Err() == nil {
		request, cancel := context.WithTimeout(ctx, readWait)
		batch, err := consumer.Fetch(readWindow, jetstream.FetchContext(request), jetstream.FetchHeartbeat(readHeartbeat))
		if err != nil {
			cancel()
			return fmt.Errorf("ask for blocks: %w", err)
		}
		more, err := r.take(ctx, batch, again, &count)
		cancel()
		if !more || err != nil {
			return err
		}
	}
	return nil
}

// take hands over what a request brings; count is how many blocks the consumer has sent. It reports
// whether the consumer can be asked for more.
func (r *feedReader) take(ctx context.Context, batch jetstream.MessageBatch, again <-chan nats.Status, count *uint64) (bool, error) {
	for {
		var m jetstream.Msg
		var ok bool
		select {
		case m, ok = <-batch.Messages():
		case <-again:
			return false, nil
		case <-ctx.Done():
			return false, nil
		}
		if !ok {
			break
		}
		meta, err := m.Metadata()
		if err != nil {
			return false, fmt.Errorf("read a block's place: %w", err)
		}
		if *count++; meta.Sequence.Consumer != *count {
			return false, nil // one was lost on the way
		}
		asked := time.Now()
		if !r.deliver(ctx, meta, m.Data()) || time.Since(asked) > readerIdle/2 {
			return false, nil
		}
	}
	if err := batch.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return false, fmt.Errorf("read blocks: %w", err)
	}
	return true, nil
}

// deliver hands a block over.
func (r *feedReader) deliver(ctx context.Context, meta *jetstream.MsgMetadata, data []byte) bool {
	f := r.feed
	b, err := f.newBlock(meta.Sequence.Stream, meta.Timestamp, data)
	if err != nil {
		f.log.Error().Err(err).Uint64("sequence", b.sequence).Msg("a stored block cannot be read; its events are passed over")
	}
	if !r.hand(ctx, b) {
		return false
	}
	r.next = meta.Sequence.Stream + 1
	return true
}

// open makes a consumer that starts at next.
func (r *feedReader) open(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r.opened++
	consumer, err := r.feed.cfg.JetStream.CreateConsumer(ctx, r.feed.cfg.Stream, jetstream.ConsumerConfig{
		Name:              "feed-" + r.feed.cfg.Name + "-" + r.feed.id + strconv.Itoa(r.opened),
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       r.next,
		AckPolicy:         jetstream.AckNonePolicy,
		FilterSubject:     r.feed.cfg.Subject,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: readerIdle,
	})
	if err != nil {
		return nil, fmt.Errorf("create consumer on %s: %w", r.feed.cfg.Stream, err)
	}
	return consumer, nil
}

// close gives a consumer back. Where that fails it ends by its inactivity threshold.
func (r *feedReader) close(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = r.feed.cfg.JetStream.DeleteConsumer(ctx, r.feed.cfg.Stream, name)
}

// pauseFor waits for d, or returns the reason why ctx ended.
func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
