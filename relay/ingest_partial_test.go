package relay

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
)

// limitEvents bounds the size of one shard's messages; -1 lifts the bound.
func limitEvents(t *testing.T, in *ingest, shard int, size int32) {
	t.Helper()
	js := in.idempotency.js
	stream, err := js.Stream(t.Context(), staffetta.EventStream(shard))
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.MaxMsgSize = size
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

// storedCopies counts, for each endpoint, the copies of an event.
func storedCopies(t *testing.T, in *ingest, eventID string) map[string]int {
	t.Helper()
	copies := make(map[string]int)
	for shard := range 4 {
		err := eventShelf(in.publisher.cfg.reads, shard).each(t.Context(), staffetta.EventSubjects(shard), 1, ^uint64(0), 0, func(m *shelved) error {
			if m.eventID == eventID {
				copies[endpointOfSubject(m.subject)]++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return copies
}

// refuseSome makes one of the shards that the endpoints are in refuse events, and gives it.
func refuseSome(t *testing.T, in *ingest) (refusing int) {
	t.Helper()
	routes, _ := in.registry.Routes("acme", []byte("message.received"))
	refusing = routes[0].Shard
	for _, r := range routes {
		if r.Shard != refusing {
			limitEvents(t, in, refusing, 10)
			return refusing
		}
	}
	t.Fatal("all endpoints are in one shard")
	return 0
}

func TestARepeatOfAnEventThatIsStoredForSomeEndpointsSendsTheOthersAlone(t *testing.T) {
	const event = `{"event_type":"message.received","n":1}`
	for name, post := range map[string]func(in *ingest) (eventID string, err error){
		"with a key": func(in *ingest) (string, error) {
			answer, err := in.one(t.Context(), "acme", []byte(event), []byte("a key"))
			return answer.eventID, err
		},
		"with an event_id": func(in *ingest) (string, error) {
			answer, err := in.one(t.Context(), "acme", numberedEvent(t, nil, 7), nil)
			return answer.eventID, err
		},
		"in a batch": func(in *ingest) (string, error) {
			_, err := in.batch(t.Context(), "acme", numberedEvent(t, nil, 7))
			return fmt.Sprintf("%036d", 7), err
		},
	} {
		for _, restarts := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", restart ", restarts), func(t *testing.T) {
				in := newTestIngest(t, 8)
				refusing := refuseSome(t, in)
				for range 2 {
					if _, err := post(in); !errors.Is(err, errPressure) {
						t.Fatalf("an event that one shard refuses is answered %v", err)
					}
				}
				limitEvents(t, in, refusing, -1)
				if restarts {
					if err := in.idempotency.recordFound(t.Context()); err != nil {
						t.Fatal(err)
					}
					in.idempotency = newIdempotency(in.idempotency.js, in.idempotency.reads, 1_000_000, zerolog.Nop())
					if err := in.idempotency.load(t.Context(), 4); err != nil {
						t.Fatal(err)
					}
				}
				id, err := post(in)
				if err != nil {
					t.Fatal(err)
				}
				copies := storedCopies(t, in, id)
				for endpoint, n := range copies {
					if n != 1 {
						t.Errorf("%d copies for %s", n, endpoint)
					}
				}
				if len(copies) != 8 {
					t.Errorf("copies for %d of 8 endpoints", len(copies))
				}
				if _, err := post(in); err != nil {
					t.Errorf("a repeat is answered %v", err)
				}
				if again := storedCopies(t, in, id); len(again) != 8 || again[in.anyEndpoint(t)] != 1 {
					t.Errorf("after a repeat of the whole there are %v", again)
				}
			})
		}
	}
}

func (in *ingest) anyEndpoint(t *testing.T) string {
	t.Helper()
	routes, ok := in.registry.Routes("acme", []byte("message.received"))
	if !ok {
		t.Fatal("no workspace")
	}
	return routes[0].Endpoint
}

// The producer was told to try again, and then the store's answer came: the repeat is a duplicate.
func TestAKeyWhoseAnswerCameLateIsKnown(t *testing.T) {
	in := newTestIngest(t, 1)
	body := numberedEvent(t, nil, 1)
	routes, _ := in.registry.Routes("acme", []byte("message.received"))
	l := in.publisher.lines[routes[0].Shard]
	l.mu.Lock()
	ctx, giveUp := context.WithTimeout(t.Context(), 50*time.Millisecond) // the line is held: no answer can come
	defer giveUp()
	answered := make(chan error, 1)
	go func() {
		_, err := in.one(ctx, "acme", body, nil)
		answered <- err
	}()
	<-ctx.Done()
	l.mu.Unlock()
	if err := <-answered; err != nil && !errors.Is(err, errPressure) {
		t.Fatal(err)
	}
	answer, err := in.one(t.Context(), "acme", body, nil)
	if err != nil {
		t.Fatal(err)
	}
	if copies := storedCopies(t, in, answer.eventID); copies[routes[0].Endpoint] != 1 {
		t.Errorf("copies: %v", copies)
	}
}
