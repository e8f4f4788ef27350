package receiver

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
)

func TestALargeReplayGoesInSmallStepsAndLiveWebhooksAreTakenMeanwhile(t *testing.T) {
	const events, size = 70, 1 << 20 // together more than maxPending
	synctest.Test(t, func(t *testing.T) {
		s := startStore(t, t.TempDir(), func(c *embed.Config) { c.Layout.JournalBytes, c.MaxStore = 400<<20, 1<<30 })
		r := runReceiver(t, s)
		j, f := r.sources[0].journal, r.sources[0].feeds[0]
		body := bytes.Repeat([]byte{'x'}, size) // no JSON: nothing looks through it
		for i := range events {
			q := request(fmt.Sprint("e", i))
			q.Body = body
			if _, err := j.store(q); err != nil {
				t.Fatal(err)
			}
		}
		pass(time.Second)
		if st := f.feed.State(); st.Delivered != events {
			t.Fatalf("before the replay the feed is at %+v", st)
		}
		ended := make(chan struct{})
		var answer replayAnswer
		var failure error
		go func() {
			defer close(ended)
			answer, failure = r.replay(t.Context(), replayRequest{endpoint: f.id(), outcome: replayDelivered, until: time.Now()})
		}()
		live, most := 0, 0
		for during := true; during; live++ {
			if repeat, err := j.store(request(fmt.Sprint("live", live))); err != nil || repeat {
				t.Errorf("live webhook %d: repeat %v, %v", live, repeat, err)
				<-ended
			}
			j.mu.Lock()
			most = max(most, j.pending)
			j.mu.Unlock()
			select {
			case <-ended:
				during = false
			default:
			}
		}
		if failure != nil || answer.Replayed != events {
			t.Errorf("%d of %d were replayed: %v", answer.Replayed, events, failure)
		}
		if bound := replayBytes + 2*size; most > bound {
			t.Errorf("%d bytes waited to be stored at one time, want at most %d", most, bound)
		}
		pass(time.Minute)
		if st := f.feed.State(); st.Delivered != uint64(2*events+live) {
			t.Errorf("with %d live ones the feed is at %+v", live, st)
		}
	})
}

// Copies have no key on record: nothing but their blocks says how far the record reaches.
func TestBlocksThatHaveOnlyReplayedEventsArePurgedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startStore(t, t.TempDir(), func(c *embed.Config) { c.Layout.JournalBytes = 1 << 20 })
		r := runReceiver(t, s, func(c *Config) { c.Retention = time.Hour })
		j, f := r.sources[0].journal, r.sources[0].feeds[0]
		for i := range 4 {
			if _, err := j.store(padded(fmt.Sprint("e", i), 25<<10)); err != nil {
				t.Fatal(err)
			}
		}
		pass(time.Second)
		var full error
		replayed := 0
		for range 20 {
			var answer replayAnswer
			answer, full = r.replay(t.Context(), replayRequest{endpoint: f.id(), outcome: replayDelivered, until: time.Now()})
			replayed += answer.Replayed
			if full != nil {
				break
			}
		}
		if full == nil || replayed < 4*4 {
			t.Fatalf("%d copies of 25 KiB fit into 1 MiB, then %v", replayed, full)
		}
		pass(time.Minute)
		if st := f.feed.State(); st.Delivered != uint64(4+replayed) {
			t.Errorf("of 4 events and %d copies the feed is at %+v", replayed, st)
		}
		if st := journalState(t, r); st.Msgs != 1 {
			t.Errorf("the journal still has %d blocks of what is handed over", st.Msgs)
		}
		for i := range 3 {
			if _, err := j.store(padded(fmt.Sprint("after", i), 200<<10)); err != nil {
				t.Errorf("after the purge: %v", err)
			}
		}
	})
}

// A replay stores 4 MiB at a time, but readAll has asked for 200 messages by then.
func TestAReadingHoldsOnlyALittleOfTheStoreAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, _ := openJournal(t, startStore(t, t.TempDir()))
		for i := range 40 {
			if _, err := j.store(padded(fmt.Sprint("e", i), 1<<20)); err != nil {
				t.Fatal(err)
			}
		}
		before, seen := j.records.Conn().Stats().InBytes, 0
		err := readAll(t.Context(), j.records, staffetta.JournalStream, jetstream.ConsumerConfig{
			FilterSubject: j.subject, DeliverPolicy: jetstream.DeliverAllPolicy,
		}, func(jetstream.Msg) error {
			if seen++; seen == 1 {
				synctest.Wait() // all that was asked for has come
				if n := j.records.Conn().Stats().InBytes - before; n > 4*replayBytes {
					t.Errorf("%d MiB are held while the first MiB is looked at", n>>20)
				}
			}
			return nil
		})
		if err != nil || seen != 40 {
			t.Errorf("%d of 40 were read: %v", seen, err)
		}
	})
}
