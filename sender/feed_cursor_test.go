package sender

import (
	"errors"
	"reflect"
	"testing"
	"time"
)

func appendFeedRecord(dst []byte, r feedRecord) []byte {
	dst = appendFeedHead(dst, r.writer, r.high, r.pausedUntil)
	var last uint64
	for i := range r.marks {
		dst = appendMark(dst, last, &r.marks[i])
		last = r.marks[i].sequence
	}
	return dst
}

func someFeedRecord() feedRecord {
	at := time.Unix(1_800_000_000, 123)
	return feedRecord{writer: "writer", high: position{1 << 40, 3}, pausedUntil: at, marks: []feedMark{
		{position: position{7, 0}, failed: 3, transient: true, firstFailed: at, due: at.Add(time.Minute)},
		{position: position{7, 63}},
		{position: position{8, 1}, due: at},
		{position: position{1 << 40, 2}, failed: 300, firstFailed: at},
	}}
}

func TestARecordOfAFeedSurvivesARoundTrip(t *testing.T) {
	want := someFeedRecord()
	b := appendFeedRecord(nil, want)
	got, err := parseFeedRecord(b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v: %v, want %+v", got, err, want)
	}
	for n := range len(b) {
		if cut, err := parseFeedRecord(b[:n]); err == nil && len(cut.marks) == len(want.marks) {
			t.Errorf("a record cut at byte %d passes for whole", n)
		}
	}
}

func TestARecordOfAFeedThatCannotBeIsRefused(t *testing.T) {
	for name, change := range map[string]func(*feedRecord){
		"an event twice":               func(r *feedRecord) { r.marks[1] = r.marks[0] },
		"an event out of order":        func(r *feedRecord) { r.marks[1].sequence, r.marks[1].index = 6, 0 },
		"an event that was not read":   func(r *feedRecord) { r.marks[3].index = 3 },
		"an event without a block":     func(r *feedRecord) { r.marks[0].sequence = 0 },
		"a feed that begins at zero":   func(r *feedRecord) { r.high, r.marks = position{}, nil },
		"an index that is no index":    func(r *feedRecord) { r.marks[0].index, r.marks = 1<<40, r.marks[:1] },
		"a number of failures too big": func(r *feedRecord) { r.marks[0].failed = 1 << 40 },
	} {
		r := someFeedRecord()
		change(&r)
		if got, err := parseFeedRecord(appendFeedRecord(nil, r)); err == nil {
			t.Errorf("%s passes for %+v", name, got)
		}
	}
}

func FuzzFeedCursor(f *testing.F) {
	f.Add(appendFeedRecord(nil, someFeedRecord()))
	f.Add([]byte{feedFormat, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Add([]byte{feedFormat, 0, 9, 0, 0, 1, 0, 0, 0, 0, 0, 1, 3, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseFeedRecord(b)
		if err != nil {
			if r.marks != nil {
				t.Error("a damaged record gives events")
			}
			return
		}
		again, err := parseFeedRecord(appendFeedRecord(nil, r))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%+v comes back as %+v: %v", r, again, err)
		}
	})
}

func TestAFeedsRecordIsWrittenAtOnceWhereItMattersAndALargeOneSeldom(t *testing.T) {
	now := time.Unix(1000, 0)
	k := feedKeeper{interval: 50 * time.Millisecond}
	after := func() time.Duration { return k.dueAt().Sub(now) }
	if !k.dueAt().IsZero() {
		t.Error("a record without a change is due")
	}
	k.touch(now, false)
	k.touch(now.Add(20*time.Millisecond), false)
	if after() != 50*time.Millisecond {
		t.Errorf("what was settled is due after %v", after())
	}
	k.touch(now.Add(30*time.Millisecond), true)
	if after() > 30*time.Millisecond {
		t.Errorf("a retry is due after %v", after())
	}
	k.startedAt, k.buffer = now, make([]byte, largeRecord+1)
	if after() != time.Second {
		t.Errorf("a large record is due after %v", after())
	}
	k.ended(now.Add(time.Second), errors.New("no answer"))
	if after() != 2*time.Second || k.onRecord != 0 {
		t.Errorf("after a failed write the next is due after %v", after())
	}
}
