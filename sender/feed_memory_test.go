package sender

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// stillFeed is the loop of a feed that nothing else runs with.
func stillFeed(t *testing.T, change func(*FeedConfig)) *feedLoop {
	t.Helper()
	f := &Feed{cfg: FeedConfig{Name: "crm", Split: splitLines, Backoff: staffetta.DefaultBackoff(), CursorInterval: time.Second}}
	change(&f.cfg)
	f.cfg.Order, f.cfg.Concurrency, f.cfg.Batch = OrderKey, 8, 1
	f.cfg.MaxRead, f.cfg.MaxReadBytes, f.cfg.MaxOpen = 100, 1<<20, 100
	f.blocks.New = func() any { return new(feedBlock) }
	f.start.high = position{1, 0}
	return newFeedLoop(f, nil)
}

func (l *feedLoop) mustAdmit(t *testing.T, sequence uint64, lines string) {
	t.Helper()
	b, err := l.feed.newBlock(sequence, time.Now(), []byte(lines))
	if err != nil {
		t.Fatal(err)
	}
	l.admit(b)
}

// payloads counts the events whose payload is in memory, one by one.
func (l *feedLoop) payloads() int {
	n := 0
	for e := l.events.first; e != nil; e = e.next {
		if e.block != nil {
			n++
		}
	}
	return n
}

func TestAFeedKeepsNoPayloadOfAnEventThatWaitsOrIsBehindOne(t *testing.T) {
	l := stillFeed(t, func(*FeedConfig) {})
	l.mustAdmit(t, 1, "p 1\np 2\np 3")
	now := time.Now()
	l.dispatch(now)
	c := <-l.calls
	if l.payloads() != 3 || l.atHand != 3 || l.bytes != 11 {
		t.Fatalf("before the failure %d payloads are at hand (%d, %d bytes)", l.payloads(), l.atHand, l.bytes)
	}
	c.failed, c.outcome, c.endedAt = true, staffetta.Outcome{Status: 500}, now
	c.verdict = staffetta.Verdict{Action: staffetta.Retry, Wait: time.Minute}
	l.end(c)
	l.mustAdmit(t, 2, "p 4\np 5")
	if l.payloads() != 0 || l.atHand != 0 || l.bytes != 0 || l.events.count != 5 || l.waiting != 5 {
		t.Errorf("of 5 events that wait %d payloads are at hand (%d, %d bytes)", l.payloads(), l.atHand, l.bytes)
	}

	// Once due, its block is read again: those of the block that are next stay at hand, others do not.
	now = now.Add(time.Minute)
	l.wake(now)
	l.mustAdmit(t, 3, "p 6")
	if l.payloads() != 0 {
		t.Errorf("%d payloads are at hand of events behind some whose payload is not", l.payloads())
	}
	l.dispatch(now)
	c = <-l.calls
	b, err := l.feed.newBlock(1, now, []byte("p 1\np 2\np 3"))
	if err != nil {
		t.Fatal(err)
	}
	c.fetched, c.accepted, c.endedAt = append(c.fetched, b), 1, now
	l.end(c)
	if l.payloads() != 2 || l.bytes != 11 || l.lanes["p"].head.entry().Event.ID != "2" {
		t.Errorf("after the block was read again %d payloads are at hand (%d bytes)", l.payloads(), l.bytes)
	}
}

func TestAFeedLetsGoOfEveryBlockThatIsSettled(t *testing.T) {
	l := stillFeed(t, func(*FeedConfig) {})
	for n := uint64(1); n <= 50; n++ {
		l.mustAdmit(t, n, fmt.Sprintf("a %d\nskip 0\nb %d", n, n))
		for l.events.count > 0 {
			l.dispatch(time.Now())
			c := <-l.calls
			c.accepted, c.endedAt = len(c.events), time.Now()
			l.end(c)
		}
	}
	if l.bytes != 0 || l.atHand != 0 || len(l.lanes) != 0 || l.inFlight != 0 || l.done() != 50 {
		t.Errorf("in the end %d bytes, %d events, %d lanes, %d in flight, done %d", l.bytes, l.atHand, len(l.lanes), l.inFlight, l.done())
	}
	if len(l.freeLanes) > 2 || len(l.freeCalls) > 2 {
		t.Errorf("%d lanes and %d calls were made, want them used again", len(l.freeLanes), len(l.freeCalls))
	}
}

func TestAFeedReadsNoFurtherThanItsBounds(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*feedLoop)
		reads  bool
	}{
		"room":                   {func(*feedLoop) {}, true},
		"too many events":        {func(l *feedLoop) { l.cfg.MaxRead = 3 }, false},
		"too many bytes":         {func(l *feedLoop) { l.cfg.MaxReadBytes = 11 }, false},
		"too many that wait":     {func(l *feedLoop) { l.cfg.MaxOpen, l.atHand = 3, 0 }, false},
		"a strict head":          {func(l *feedLoop) { l.cfg.Order, l.waiting = OrderStrict, 1 }, false},
		"a stop":                 {func(l *feedLoop) { l.stopping = true }, false},
		"events of the record":   {func(l *feedLoop) { l.cfg.MaxOpen, l.atHand, l.pending = 3, 0, make([]feedMark, 1) }, true},
		"a head that is no more": {func(l *feedLoop) { l.cfg.Order = OrderStrict }, true},
	} {
		l := stillFeed(t, func(*FeedConfig) {})
		blocks := make(chan *feedBlock)
		l.blocks = blocks
		l.mustAdmit(t, 1, "a 1\nb 2\nc 3")
		c.change(l)
		if reads := l.readable() != nil; reads != c.reads {
			t.Errorf("%s: reads on: %v", name, reads)
		}
	}
}

func TestWhatAFeedHasNotReadAgainStaysOnItsRecord(t *testing.T) {
	l := stillFeed(t, func(*FeedConfig) {})
	l.high, l.from, l.lastRead = position{9, 0}, position{9, 0}, 8
	due := time.Unix(time.Now().Unix()+100, 0)
	marks := []feedMark{{position: position{4, 1}}, {position: position{6, 0}, failed: 2, firstFailed: due, due: due}}
	l.pending = slices.Clone(marks)
	check := func(when string, done uint64) {
		t.Helper()
		r, err := parseFeedRecord(l.appendRecord(nil))
		if err != nil || !reflect.DeepEqual(r.marks, marks) || r.high != (position{9, 0}) || l.done() != done {
			t.Errorf("%s the record is %+v, done %d: %v", when, r, l.done(), err)
		}
	}
	check("before", 3)
	for i := range marks {
		b, err := l.feed.newBlock(marks[i].sequence, time.Now(), []byte("a 1\nb 2"))
		if err != nil {
			t.Fatal(err)
		}
		b.marks = marks[i : i+1]
		l.admit(b)
		check(fmt.Sprint("after block ", marks[i].sequence), 3)
	}
	l.dispatch(time.Now())
	c := <-l.calls
	c.accepted, c.endedAt = 1, time.Now()
	l.end(c)
	marks = marks[1:]
	check("in the end", 5)
}
