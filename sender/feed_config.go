package sender

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

// Entry is one event of a feed: several may lie in one stored message, their block.
type Entry struct {
	// Message has the event, and the sequence and time of its block.
	Message
	// Index is its place in the block, from 0.
	Index int
	// Key is what FeedConfig.Order goes by.
	Key string
	// Data is what Split keeps for the target.
	Data []byte
	// Skip says that the event is not for this feed's target.
	Skip bool
}

// Handed is what handing over some entries came to.
type Handed struct {
	// Accepted is how many of them, from the first, the target has taken.
	Accepted int
	// Outcome is what the entry behind those came to; for a log, of the last one where all were taken.
	Outcome staffetta.Outcome
	// RetryAfter is for how long the target asked not to be called; 0 where it did not.
	RetryAfter time.Duration
	// Permanent says that the entry can never be taken: it goes to the dead letters at once.
	Permanent bool
	// Remote is the address that was reached, ResponseHead and ResponseBody the first KiB of what it
	// answered. They are only lent.
	Remote                     string
	ResponseHead, ResponseBody []byte
}

// FeedTarget is where a feed hands its events. Calls for different keys run at the same time.
type FeedTarget interface {
	// HandOver hands entries over in their order, as attempt number n from 1 of the first of them. It
	// ends within the target's own deadline, or soon after ctx does. The entries are only lent.
	HandOver(ctx context.Context, entries []*Entry, n int) Handed
	// Drop puts on record that e was given up after n attempts, the last of which came to o. Only when
	// it has returned nil do the events behind it go on.
	Drop(ctx context.Context, e *Entry, n int, o staffetta.Outcome) error
}

// Order says which events wait for one another.
type Order string

// The orders.
const (
	// OrderKey: those of one Entry.Key, one after another; keys beside one another.
	OrderKey Order = "key"
	// OrderStrict: all, one after another.
	OrderStrict Order = "strict"
	// OrderNone: none.
	OrderNone Order = "none"
)

// FeedConfig of a Feed.
type FeedConfig struct {
	// Name of the feed, a subject token: its cursor is kept under it, for ever.
	Name string
	// Workspace and Endpoint are what attempts are recorded as.
	Workspace, Endpoint string
	// JetStream reads the events and keeps the cursor.
	JetStream jetstream.JetStream
	// Stream and Subject select the blocks.
	Stream, Subject string
	// Split appends the events of a block to dst: ID, Type, Payload and Replay of Event, Key, Data and
	// Skip. The feed fills in the rest. It is called from several goroutines. A block that cannot be read is
	// passed over, with an error in the log.
	Split func(block []byte, dst []Entry) ([]Entry, error)
	// Target takes the events.
	Target FeedTarget
	// Order says which events wait for one another. Default OrderKey.
	Order Order
	// Concurrency is how many calls of HandOver may run at a time. Default 8; OrderStrict needs no more
	// than one.
	Concurrency int
	// Rate is how many events a second are handed over at most, in even steps; 0 is without a bound.
	Rate float64
	// Batch is how many entries one call of HandOver may get. Default 1.
	Batch int
	// Backoff says when a failed event is tried again. Default staffetta.DefaultBackoff.
	Backoff staffetta.Backoff
	// MaxAge is how long an event may wait; an older one goes to the dead letters untried. 0: for ever.
	MaxAge time.Duration
	// MaxOpen bounds the events that wait for their next attempt, and those behind them: with so many
	// the feed reads no further. Default 10,000, at most 50,000: the cursor lists them.
	MaxOpen int
	// MaxRead and MaxReadBytes bound what is read ahead, but for the last block. Defaults 1,000 events, at
	// most 10,000, and 16 MiB.
	MaxRead      int
	MaxReadBytes int
	// CursorInterval is the longest time that a settled event may stay off the record. Default 50 ms.
	CursorInterval time.Duration
	// StopWait is how long a stop waits for what is under way before it cuts it off. Default 6 s.
	StopWait time.Duration
	// Attempted is told of every attempt that is decided, one record an event, from several goroutines;
	// it must be quick. The record is only lent. nil tells nobody.
	Attempted func(*staffetta.AttemptRecord)
	Log       zerolog.Logger
}

func (c *FeedConfig) setDefaults() error {
	switch {
	case c.JetStream == nil || c.Split == nil || c.Target == nil:
		return errors.New("feed config: JetStream, Split and Target are needed")
	case !staffetta.ValidID(c.Name):
		return errors.New("feed config: Name must be 1 to 64 letters, digits, dashes or underscores")
	case c.Stream == "" || c.Subject == "":
		return errors.New("feed config: Stream and Subject are needed")
	case c.Rate < 0 || c.Batch < 0 || c.Concurrency < 0 || c.MaxAge < 0 || c.MaxOpen < 0 || c.MaxRead < 0 || c.MaxReadBytes < 0:
		return errors.New("feed config: no bound may be negative")
	case c.MaxOpen > 50_000 || c.MaxRead > 10_000:
		return errors.New("feed config: MaxOpen must be at most 50000, MaxRead at most 10000")
	}
	switch c.Order {
	case "":
		c.Order = OrderKey
	case OrderKey, OrderNone, OrderStrict:
	default:
		return errors.New("feed config: Order " + strconv.Quote(string(c.Order)) + " is neither key nor strict nor none")
	}
	if c.Backoff == (staffetta.Backoff{}) {
		c.Backoff = staffetta.DefaultBackoff()
	}
	if err := c.Backoff.Validate(); err != nil {
		return fmt.Errorf("feed config: Backoff: %w", err)
	}
	setDefault(&c.Concurrency, 8)
	setDefault(&c.Batch, 1)
	setDefault(&c.MaxOpen, 10_000)
	setDefault(&c.MaxRead, 1000)
	setDefault(&c.MaxReadBytes, 16<<20)
	setDefault(&c.CursorInterval, 50*time.Millisecond)
	setDefault(&c.StopWait, 6*time.Second)
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// FeedState is where a feed stands.
type FeedState struct {
	// Waiting is how many events were read and wait for their next attempt, or behind one that does;
	// InFlight how many are being handed over.
	Waiting, InFlight int
	// Read is how many more were read and may be tried.
	Read int
	// Down says that the target takes nothing: it is probed with one event at a time.
	Down bool
	// OldestAt is when the oldest event that is not settled was stored; zero without one that was read.
	OldestAt time.Time
	// NextAttemptAt is when something may be tried again, where nothing can be before; else zero.
	NextAttemptAt time.Time
	// LastError is what the last failed attempt came to, LastErrorAt when; empty once the target takes
	// events again.
	LastError   string
	LastErrorAt time.Time
	// LastSuccessAt is when the target last took an event, since the start.
	LastSuccessAt time.Time
	// Delivered, Failed and Dropped count since the start: events taken, attempts that failed, events
	// that went to the dead letters.
	Delivered, Failed, Dropped uint64
	// Done is the sequence of the last block up to which every event is settled: the store may let go
	// of it once the cursor is on record, which DoneOnRecord says.
	Done, DoneOnRecord uint64
}
