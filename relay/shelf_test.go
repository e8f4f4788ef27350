package relay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

// letterStore is a store of dead letters.
type letterStore struct {
	js      jetstream.JetStream
	letters *DeadLetters
}

func newLetterStore(t testing.TB) letterStore {
	t.Helper()
	js := embedtest.JetStream(t, embedtest.Start(t, t.TempDir(), 4))
	return letterStore{js, NewDeadLetters(js.Conn())}
}

// drop stores a letter as the sender does.
func (s letterStore) drop(t testing.TB, workspace, endpoint, eventID, eventType string, source int) uint64 {
	t.Helper()
	now := time.Now().UTC().Format(time.RFC3339Nano)
	ack, err := s.js.PublishMsg(t.Context(), &nats.Msg{
		Subject: staffetta.DeadLetterSubject(workspace, endpoint),
		Header: nats.Header{
			staffetta.HeaderEventID: {eventID}, staffetta.HeaderEventType: {eventType}, staffetta.HeaderAttempts: {"4"},
			staffetta.HeaderError: {"status 503"}, staffetta.HeaderStatusCode: {"503"},
			staffetta.HeaderStoredAt: {now}, staffetta.HeaderDroppedAt: {now},
		},
		Data: fmt.Appendf(nil, `{"event_type":%q,"n":%d,"event_id":%q}`, eventType, source, eventID),
	}, jetstream.WithMsgID(endpoint+"."+strconv.Itoa(source)))
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}

func TestPagesGoBackThroughEveryLetterOfAnySubjectOnce(t *testing.T) {
	s := newLetterStore(t)
	random := rand.New(rand.NewPCG(1, 2))
	want := map[string][]uint64{}
	for n := range 1200 {
		// One subject is dense at first and rare later, one the other way round, one has a single letter.
		endpoint := "ep_a"
		if random.IntN(600) < n-280 {
			endpoint = "ep_b"
		}
		if n == 734 {
			endpoint = "ep_c"
		}
		eventType := "message.received"
		if n%7 == 0 {
			eventType = "message.sent"
		}
		sequence := s.drop(t, "acme", endpoint, "e"+strconv.Itoa(n), eventType, n)
		want[endpoint] = append(want[endpoint], sequence)
		want["*"] = append(want["*"], sequence)
		if n%7 == 0 {
			want["sent "+endpoint] = append(want["sent "+endpoint], sequence)
		}
	}
	for _, gone := range []uint64{1, 2, 3, 500, 735, 1200} {
		if _, err := s.letters.shelf.remove(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
		for name := range want {
			want[name] = slices.DeleteFunc(want[name], func(n uint64) bool { return n == gone })
		}
	}
	for _, test := range []struct {
		name, endpoint, eventType string
	}{{"*", "", ""}, {"ep_a", "ep_a", ""}, {"ep_b", "ep_b", ""}, {"ep_c", "ep_c", ""}, {"sent ep_a", "ep_a", "message.sent"}, {"none", "ep_d", ""}} {
		for _, limit := range []int{1, 30, 100, 1000} {
			if limit == 1 && len(want[test.name]) > 100 {
				continue
			}
			f := &letterFilter{workspace: "acme", endpoint: test.endpoint, eventType: test.eventType}
			if got := s.all(t, f, limit); !slices.Equal(got, want[test.name]) {
				t.Errorf("%s by %d: got %d letters, want %d", test.name, limit, len(got), len(want[test.name]))
			}
		}
	}
}

// all pages through the letters and gives their sequences, oldest first. Every page but the last is full.
func (s letterStore) all(t testing.TB, f *letterFilter, limit int) (sequences []uint64) {
	t.Helper()
	for before := uint64(0); ; {
		page, next, err := s.letters.page(t.Context(), f, before, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > limit || next > 0 && len(page) != limit {
			t.Fatalf("a page of %d, limit %d, next %d", len(page), limit, next)
		}
		for _, l := range page {
			n, err := strconv.ParseUint(l.ID[len(letterPrefix):], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			sequences = append(sequences, n)
		}
		if before = next; next == 0 {
			slices.Reverse(sequences)
			return sequences
		}
	}
}
