package receiver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/sender"
)

// hostileTypes are what a stranger may write for a type, in JSON, and what is handed over for it.
var hostileTypes = map[string]string{
	strings.Repeat("x", 70<<10):              strings.Repeat("x", maxEventType),
	`\u0000\u0007\r\nStaffetta-Event-Id: e9`: "????Staffetta-Event-Id: e9",
	"caf\u00e9 \u2028":                       "caf? ?",
	`\u007f`:                                 "?",
	strings.Repeat("\u00e9", maxEventType):   strings.Repeat("?", maxEventType/2),
	"":                                       "",
}

// splitBodies gives the entries that a feed makes of a block of requests with these bodies.
func splitBodies(t testing.TB, pointer string, bodies ...string) []sender.Entry {
	t.Helper()
	f := feed{source: "s", target: "crm"}
	if pointer != "" {
		f.pointer, _ = parsePointer(pointer)
	}
	b := newBlock(nil)
	for i, body := range bodies {
		r := request(fmt.Sprint("e", i))
		r.Body = []byte(body)
		b.add(r)
	}
	b.number(1)
	entries, err := f.split(b.data, nil)
	if err != nil || len(entries) != len(bodies) {
		t.Fatalf("%d entries of %d requests: %v", len(entries), len(bodies), err)
	}
	return entries
}

func TestATypeIsHandedOverShortAndFitForAHeaderWhateverThePayloadSays(t *testing.T) {
	for written, want := range hostileTypes {
		e := splitBodies(t, "", `{"event_type":"`+written+`"}`)[0]
		if e.Event.Type != want {
			t.Errorf("the type %.40q of %d bytes becomes %.40q of %d bytes, want %.40q", written, len(written), e.Event.Type, len(e.Event.Type), want)
		}
	}
}

func TestAnEventWithAHostileTypeBlocksNeitherItsKeyNorItsTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var taken []string
		s := startStore(t, t.TempDir())
		r := runReceiver(t, s, func(c *Config) {
			c.Sources[0].Order = OrderStrict
			c.Sources[0].Handle = func(_ context.Context, e staffetta.Event) error {
				if strings.HasPrefix(e.ID, "poison") {
					return Permanent(errors.New("no such type"))
				}
				mu.Lock()
				defer mu.Unlock()
				taken = append(taken, e.ID)
				return nil
			}
		})
		want := map[string]string{}
		var after []string
		for written, bounded := range hostileTypes {
			poison, next := request(fmt.Sprint("poison", len(want))), request(fmt.Sprint("good", len(want)))
			poison.Body = []byte(`{"event_type":"` + written + `"}`)
			want[poison.EventID], after = bounded, append(after, next.EventID)
			for _, q := range []*Request{poison, next} {
				if _, err := r.sources[0].journal.store(q); err != nil {
					t.Fatal(err)
				}
			}
		}
		pass(10 * time.Second)
		mu.Lock()
		if !slices.Equal(taken, after) {
			t.Errorf("taken were %v, want %v", taken, after)
		}
		mu.Unlock()
		first, end, err := r.letterBounds(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		err = r.readLetters(t.Context(), staffetta.DeadLetterSubjects, first, end, func(l *letter) (bool, error) {
			id := l.header(staffetta.HeaderEventID)
			// The client of the store takes the blanks at a header's ends away.
			if got, ok := want[id]; !ok || strings.TrimSpace(got) != l.header(staffetta.HeaderEventType) {
				t.Errorf("a dead letter of %s has the type %.40q, want %.40q", id, l.header(staffetta.HeaderEventType), got)
			}
			delete(want, id)
			return false, nil
		})
		if err != nil || len(want) > 0 {
			t.Errorf("not among the dead letters: %.200q (%v)", want, err)
		}
	})
}

func TestATargetThatPutsTheTypeIntoAHeaderTakesAHostileOne(t *testing.T) {
	js, _, url := natsServer(t, t.TempDir(), "127.0.0.1:0")
	stream := createStream(t, js)
	h := opened(t, NATSTarget{URL: url, Subject: "crm.events"})
	var bodies, want []string
	for written, bounded := range hostileTypes {
		bodies, want = append(bodies, `{"event_type":"`+written+`"}`), append(want, strings.TrimSpace(bounded))
	}
	entries := splitBodies(t, "", bodies...)
	lent := make([]*sender.Entry, len(entries))
	for i := range entries {
		lent[i] = &entries[i]
	}
	expect(t, h.handOver(t.Context(), lent, 1), len(lent), staffetta.ErrorNone, false, "")
	for i := range lent {
		m, err := stream.GetMsg(t.Context(), uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Header.Get("Event-Type"); got != want[i] || string(m.Data) != bodies[i] {
			t.Errorf("type %d arrives as %.40q, want %.40q", i, got, want[i])
		}
	}
}

func TestAKeyOfAnySizeIsKeptShortAndTellsContactsApart(t *testing.T) {
	long := strings.Repeat("k", 1<<20)
	body := func(key string) string { return `{"contact":{"id":"` + key + `"}}` }
	e := splitBodies(t, DefaultOrderKey, body(long), body(long+"2"), body(long), body("398350624"), body(strings.Repeat("k", maxKey)))
	for i := range e[:3] {
		if n := len(e[i].Key); n == 0 || n > maxKey {
			t.Errorf("a key of 1 MiB is kept as %d bytes", n)
		}
	}
	if e[0].Key == e[1].Key || e[0].Key != e[2].Key {
		t.Error("long keys are taken for one another, or for two")
	}
	if e[3].Key != "398350624" || e[4].Key != strings.Repeat("k", maxKey) {
		t.Errorf("short keys become %q and %q", e[3].Key, e[4].Key)
	}
}

func TestTheTypeOfAnEventMayBeItsKeyToo(t *testing.T) {
	bodies := []string{`{"event_type":"t","a":1}`, `{"a":{"event_type":"inner"},"event_type":"u"}`, `{"event_type":{"name":"deep"}}`, `{"a":1}`}
	for pointer, want := range map[string][]string{
		"/event_type":      {"t t", "u u", " ", " "},
		"/event_type/name": {"t ", "u ", " deep", " "},
		"/a":               {"t 1", "u ", " ", " 1"},
		"":                 {"t ", "u ", " ", " "},
	} {
		for i, e := range splitBodies(t, pointer, bodies...) {
			if got := e.Event.Type + " " + e.Key; got != want[i] {
				t.Errorf("%s with order key %s has type and key %q, want %q", bodies[i], pointer, got, want[i])
			}
		}
	}
}

// The smallest store, and more records of keys than fit into it.
func TestTheRecordOfKeysLeavesRoomForTheJournalAndTheCursors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startStore(t, t.TempDir(), func(c *embed.Config) { c.Layout.JournalBytes, c.MaxStore = 1<<20, 16<<20 })
		r := runReceiver(t, s, func(c *Config) { c.Retention = -1 })
		j, f := r.sources[0].journal, r.sources[0].feeds[0]
		batch := make([]storedKey, keysOfRecord)
		for i := range batch {
			batch[i] = storedKey{fingerprint: fingerprintOf(fmt.Sprint(i)), unix: uint32(time.Now().Unix())}
		}
		record := appendKeyRecord(nil, 0, batch)
		for recorded := 0; recorded < 20<<20; recorded += len(record) {
			if _, err := r.records.Publish(t.Context(), staffetta.JournalKeySubject("another"), record, jetstream.WithRetryAttempts(0)); err != nil {
				t.Errorf("record of keys after %d MiB: %v", recorded>>20, err)
				break
			}
		}
		stored := 0
		for round := range 10 { // 3 MiB in all
			for i := range 3 {
				if _, err := j.store(padded(fmt.Sprint("e", round, "-", i), 100<<10)); err != nil {
					t.Fatalf("the store refuses event %d: %v", stored, err)
				}
				stored++
			}
			pass(20 * time.Second) // the janitor comes by
		}
		if st := f.feed.State(); st.Delivered != uint64(stored) || st.DoneOnRecord != j.last.Load() {
			t.Errorf("of %d events, up to block %d, the feed is at %+v", stored, j.last.Load(), st)
		}
		if st := journalState(t, r); st.Msgs != 1 {
			t.Errorf("the journal still has %d blocks of what is handed over", st.Msgs)
		}
	})
}
