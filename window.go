package staffetta

import (
	"cmp"
	"slices"
	"time"
)

// FailureWindow counts failures of the last stretch of time, second by second: one that happened in
// the second s counts up to and including the second s+length-1, and no more once it is exactly
// length old. It holds one small entry for each second in which something failed, so at most one for
// every second of its length, whatever the rate. The order of its failures does not matter.
//
// Make one with NewFailureWindow. It has no lock.
type FailureWindow struct {
	length  int64 // in seconds
	seconds []failures
	total   int
}

// failures are those of one second.
type failures struct {
	second int64 // since 1970
	count  int
}

// NewFailureWindow makes an empty window; length is in whole seconds, at least one.
func NewFailureWindow(length time.Duration) FailureWindow {
	return FailureWindow{length: max(1, int64(length/time.Second))}
}

// Add counts a failure, and forgets those that no longer count when it happened. What lies a whole
// length ahead of it was counted under a clock that has been set back since, and is forgotten too.
func (w *FailureWindow) Add(at time.Time) {
	now := at.Unix()
	w.forget(now)
	i, found := slices.BinarySearchFunc(w.seconds, now, func(f failures, second int64) int {
		return cmp.Compare(f.second, second)
	})
	if found {
		w.seconds[i].count++
	} else {
		w.seconds = slices.Insert(w.seconds, i, failures{second: now, count: 1})
	}
	w.total++
	w.forget(w.seconds[len(w.seconds)-1].second)
}

// Count is how many failures count at a time. Those of a few seconds later, which another goroutine
// may have added already, are among them. It forgets what has expired by then.
func (w *FailureWindow) Count(at time.Time) int {
	w.forget(at.Unix())
	return w.total
}

// forget drops what is a whole length or more away from now.
func (w *FailureWindow) forget(now int64) {
	from, to := 0, len(w.seconds)
	for from < to && w.seconds[from].second <= now-w.length {
		w.total -= w.seconds[from].count
		from++
	}
	for to > from && w.seconds[to-1].second >= now+w.length {
		to--
		w.total -= w.seconds[to].count
	}
	switch {
	case from == to:
		w.seconds = nil
	case from > 0 || to < len(w.seconds):
		w.seconds = w.seconds[from:to]
	}
}
