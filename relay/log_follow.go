package relay

import (
	"context"
	"errors"
	"sync"
)

// errFollowers says that as many follow as may.
var errFollowers = errors.New("too many follow the log already")

// followBuffer is how many attempts may wait for a follower before it lags.
const followBuffer = 256

// FollowedAttempt is one step of following the log.
type FollowedAttempt struct {
	LoggedAttempt
	// Lagged is how many attempts the follower missed just before this one, because it was slow.
	Lagged uint64
}

// followers are told of every stored block.
type followers struct {
	bound int

	mu     sync.Mutex
	all    map[*follower]struct{}
	closed bool
	reader logReader
}

type follower struct {
	filter logFilter
	to     chan FollowedAttempt
	lagged uint64
}

// Follow gives every attempt that the filter wants once it is stored, in the order of the log. A
// follower that does not keep up misses attempts, and is told how many with the next one. The
// channel is closed when ctx or the log ends.
func (l *AttemptLog) Follow(ctx context.Context, f AttemptFilter) (<-chan FollowedAttempt, error) {
	filter, err := f.compile()
	if err != nil {
		return nil, err
	}
	o := &follower{filter: filter, to: make(chan FollowedAttempt, followBuffer)}
	if err := l.follows.add(o); err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { l.follows.remove(o) })
	return o.to, nil
}

func (x *followers) add(o *follower) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.all) >= x.bound {
		return errFollowers
	}
	if x.closed {
		close(o.to)
		return nil
	}
	if x.all == nil {
		x.all = make(map[*follower]struct{})
	}
	x.all[o] = struct{}{}
	return nil
}

func (x *followers) remove(o *follower) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, ok := x.all[o]; ok {
		delete(x.all, o)
		close(o.to)
	}
}

func (x *followers) closeAll() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for o := range x.all {
		delete(x.all, o)
		close(o.to)
	}
	x.closed = true
}

// tell hands the records of a stored block to those that want them. It waits for nobody.
func (x *followers) tell(sequence uint64, block []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.all) == 0 {
		return
	}
	// The index has read the same block and complained where it is damaged.
	_ = x.reader.each(block, func(rec *logRecord) {
		for o := range x.all {
			if o.filter.matches(&x.reader, rec) {
				o.send(x.reader.logged(sequence, rec))
			}
		}
	})
}

func (o *follower) send(a LoggedAttempt) {
	select {
	case o.to <- FollowedAttempt{LoggedAttempt: a, Lagged: o.lagged}:
		o.lagged = 0
	default:
		o.lagged++
	}
}
