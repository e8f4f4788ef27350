package sender

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

// feedTry is one event as the target of a feed saw it.
type feedTry struct {
	at  time.Duration
	id  string
	n   int // of the call
	key string
}

// feedTaker is a target that notes what it gets and answers for every event by a function: a status of
// 200 takes it.
type feedTaker struct {
	start  time.Time
	answer func(feedTry) staffetta.Outcome
	change func(*Handed)
	drop   func(id string) error
	takes  time.Duration

	mu       sync.Mutex
	calls    [][]string
	tries    []feedTry
	accepted []feedTry
	dropped  []string
	dropOf   map[string]staffetta.Outcome
	at, most int // calls under way
}

func newFeedTaker(answer func(feedTry) staffetta.Outcome) *feedTaker {
	return &feedTaker{
		start: time.Now(), answer: answer, change: func(*Handed) {},
		drop: func(string) error { return nil }, dropOf: map[string]staffetta.Outcome{},
	}
}

// byID answers an event by its id, and any other with 200.
func byID(statuses map[string]int) func(feedTry) staffetta.Outcome {
	return func(x feedTry) staffetta.Outcome { return staffetta.Outcome{Status: cmp.Or(statuses[x.id], 200)} }
}

func (r *feedTaker) HandOver(ctx context.Context, entries []*Entry, n int) Handed {
	r.mu.Lock()
	r.at++
	r.most = max(r.most, r.at)
	r.mu.Unlock()
	if r.takes > 0 {
		select {
		case <-time.After(r.takes):
		case <-ctx.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at--
	h := Handed{Outcome: staffetta.Outcome{Status: 200}}
	if ctx.Err() != nil {
		h.Outcome = staffetta.Outcome{Error: staffetta.ErrorTimeout}
		return h
	}
	var ids []string
	for i, e := range entries {
		ids = append(ids, e.Event.ID)
		if i > h.Accepted {
			continue
		}
		x := feedTry{time.Since(r.start), e.Event.ID, n, e.Key}
		if want := "payload of " + x.id; string(e.Event.Payload) != want {
			panic(fmt.Sprintf("the payload of %s is %q", x.id, e.Event.Payload))
		}
		r.tries = append(r.tries, x)
		if h.Outcome = r.answer(x); h.Outcome.Status == 200 {
			r.accepted = append(r.accepted, x)
			h.Accepted++
		}
	}
	r.calls = append(r.calls, ids)
	r.change(&h)
	return h
}

func (r *feedTaker) Drop(_ context.Context, e *Entry, _ int, o staffetta.Outcome) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.drop(e.Event.ID); err != nil {
		return err
	}
	r.dropped = append(r.dropped, e.Event.ID)
	r.dropOf[e.Event.ID] = o
	return nil
}

// taken lists what was taken, of one key or, for "", of all.
func (r *feedTaker) taken(key string) []string { return idsOf(&r.mu, &r.accepted, key) }

// tried lists what was tried.
func (r *feedTaker) tried() []string { return idsOf(&r.mu, &r.tries, "") }

func idsOf(mu *sync.Mutex, tries *[]feedTry, key string) []string {
	mu.Lock()
	defer mu.Unlock()
	var ids []string
	for _, x := range *tries {
		if key == "" || x.key == key {
			ids = append(ids, x.id)
		}
	}
	return ids
}

// timesOf lists when an event was tried.
func (r *feedTaker) timesOf(id string) []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var at []time.Duration
	for _, x := range r.tries {
		if x.id == id {
			at = append(at, x.at)
		}
	}
	return at
}

// splitLines reads a block of lines, a key and an id each; those of the key "skip" are not for the feed.
func splitLines(block []byte, dst []Entry) ([]Entry, error) {
	for line := range bytes.Lines(block) {
		key, id, ok := strings.Cut(strings.TrimSpace(string(line)), " ")
		if !ok {
			return dst, errors.New("a line without an id")
		}
		e := Entry{Key: key, Skip: key == "skip"}
		e.Event = staffetta.Event{ID: id, Type: "message.sent", Payload: []byte("payload of " + id)}
		dst = append(dst, e)
	}
	return dst, nil
}

// feedBench is a feed on a real store.
type feedBench struct {
	t     *testing.T
	srv   *embed.Server
	js    jetstream.JetStream
	taker *feedTaker
	feed  *Feed
	stop  context.CancelFunc
	done  chan error
}

func newFeedBench(t *testing.T, taker *feedTaker) *feedBench {
	t.Helper()
	b := &feedBench{t: t, srv: embedtest.Start(t, t.TempDir(), 1), taker: taker}
	b.js = embedtest.JetStream(t, b.srv)
	_, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "JOURNAL", Subjects: []string{"journal.*"}, AllowDirect: true})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// make makes a feed, as a new process would, and loads it.
func (b *feedBench) make(change ...func(*FeedConfig)) {
	b.t.Helper()
	cfg := FeedConfig{
		Name: "crm", Workspace: "receiver", Endpoint: "crm", JetStream: b.js, Stream: "JOURNAL", Subject: "journal.a",
		Split: splitLines, Target: b.taker, Backoff: staffetta.Backoff{First: time.Second, Max: 5 * time.Minute, For: 24 * time.Hour},
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if b.feed, err = NewFeed(cfg); err != nil {
		b.t.Fatal(err)
	}
	if err := b.feed.Load(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

// run makes a feed and runs it until end.
func (b *feedBench) run(change ...func(*FeedConfig)) {
	b.t.Helper()
	b.make(change...)
	ctx, cancel := context.WithCancel(context.Background())
	feed, done := b.feed, make(chan error, 1)
	b.stop, b.done = cancel, done
	go func() { done <- feed.Run(ctx) }()
}

func (b *feedBench) end() {
	b.t.Helper()
	b.stop()
	if err := <-b.done; err != nil {
		b.t.Errorf("run: %v", err)
	}
}

// store puts a block of lines into the journal and gives its sequence.
func (b *feedBench) store(lines ...string) uint64 {
	b.t.Helper()
	ack, err := b.js.Publish(b.t.Context(), "journal.a", []byte(strings.Join(lines, "\n")))
	if err != nil {
		b.t.Fatal(err)
	}
	return ack.Sequence
}

// under gives ids a key.
func under(key string, ids ...string) []string {
	var lines []string
	for _, id := range ids {
		lines = append(lines, key+" "+id)
	}
	return lines
}

func seconds(s ...int) []time.Duration {
	var at []time.Duration
	for _, n := range s {
		at = append(at, time.Duration(n)*time.Second)
	}
	return at
}

func wantIDs(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func wantTimes(t *testing.T, what string, got, want []time.Duration) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s was tried at %v, want %v", what, got, want)
	}
}
