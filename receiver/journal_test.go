package receiver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

func startStore(t testing.TB, dir string, change ...func(*embed.Config)) *embed.Server {
	t.Helper()
	return embedtest.Start(t, dir, 0, append([]func(*embed.Config){func(c *embed.Config) {
		c.Layout = embed.Layout{Journal: true, JournalBytes: 64 << 20}
	}}, change...)...)
}

// openJournal runs a journal of source s; stop ends it in order.
func openJournal(t testing.TB, s *embed.Server) (j *journal, stop func() error) {
	t.Helper()
	j = newJournal("s", embedtest.JetStream(t, s), embedtest.JetStream(t, s), 1000, zerolog.Nop())
	if err := j.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var failure error
	wg.Go(func() { failure = j.run(ctx) })
	wg.Go(func() { j.keepKeys(ctx) })
	stop = sync.OnceValue(func() error {
		cancel()
		wg.Wait()
		return failure
	})
	t.Cleanup(func() { _ = stop() })
	return j, stop
}

func request(id string) *Request {
	return &Request{EventID: id, ReceivedAt: time.Now(), Method: "POST", URI: "/", Body: []byte(`{"event_id":"` + id + `"}`)}
}

// stored lists the ids in the journal, in their order, and the blocks that hold them.
func storedIDs(t testing.TB, j *journal) (ids []string, blocks int) {
	t.Helper()
	err := readAll(t.Context(), j.records, staffetta.JournalStream, jetstream.ConsumerConfig{
		FilterSubject: j.subject, DeliverPolicy: jetstream.DeliverAllPolicy,
	}, func(m jetstream.Msg) error {
		blocks++
		return eachRequest(m.Data(), func(stored []byte) error {
			r, err := parseRequest(stored)
			if err == nil {
				ids = append(ids, r.EventID)
			}
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids, blocks
}

func TestRequestsOfTheSameMomentShareABlock(t *testing.T) {
	j, _ := openJournal(t, startStore(t, t.TempDir()))
	var wg sync.WaitGroup
	const n = 2000
	for i := range n {
		wg.Go(func() {
			if repeat, err := j.store(request(fmt.Sprint("e", i))); err != nil || repeat {
				t.Errorf("repeat %v, %v", repeat, err)
			}
		})
	}
	wg.Wait()
	ids, blocks := storedIDs(t, j)
	if len(ids) != n || blocks > n/4 {
		t.Errorf("%d of %d requests are stored, in %d blocks", len(ids), n, blocks)
	}
	if end := j.end.Load(); end != n+1 {
		t.Errorf("the next ordinal is %d, want %d", end, n+1)
	}
}

func TestARepeatIsStoredOnceWhetherItComesLaterAtOnceOrAfterARestart(t *testing.T) {
	dir := t.TempDir()
	s := startStore(t, dir)
	j, stop := openJournal(t, s)
	var wg sync.WaitGroup
	repeats := make(chan bool, 100)
	for range 100 {
		wg.Go(func() {
			repeat, err := j.store(request("same"))
			if err != nil {
				t.Error(err)
			}
			repeats <- repeat
		})
	}
	wg.Wait()
	close(repeats)
	fresh := 0
	for repeat := range repeats {
		if !repeat {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d of 100 were taken for the first", fresh)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s.Shutdown()

	again, _ := openJournal(t, startStore(t, dir))
	if repeat, err := again.store(request("same")); err != nil || !repeat {
		t.Errorf("after a restart: repeat %v, %v", repeat, err)
	}
	if ids, _ := storedIDs(t, again); len(ids) != 1 {
		t.Errorf("the journal holds %v", ids)
	}
}

func TestAKeyThatAKillKeptOffTheRecordIsFoundInTheJournal(t *testing.T) {
	s := startStore(t, t.TempDir())
	// This journal never records its keys.
	killed := newJournal("s", embedtest.JetStream(t, s), embedtest.JetStream(t, s), 1000, zerolog.Nop())
	if err := killed.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = killed.run(ctx) })
	for i := range 10 {
		if _, err := killed.store(request(fmt.Sprint("e", i))); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	wg.Wait()

	j, _ := openJournal(t, s)
	for i := range 10 {
		if repeat, err := j.store(request(fmt.Sprint("e", i))); err != nil || !repeat {
			t.Errorf("e%d: repeat %v, %v", i, repeat, err)
		}
	}
	if repeat, err := j.store(request("e10")); err != nil || repeat {
		t.Errorf("e10: repeat %v, %v", repeat, err)
	}
}

func TestAnEventIsTakenAgainAfterADay(t *testing.T) {
	j, _ := openJournal(t, startStore(t, t.TempDir()))
	if _, err := j.store(request("old")); err != nil {
		t.Fatal(err)
	}
	later := request("old")
	later.ReceivedAt = time.Now().Add(keyAge - time.Minute)
	if repeat, err := j.store(later); err != nil || !repeat {
		t.Errorf("within a day: repeat %v, %v", repeat, err)
	}
	later.ReceivedAt = time.Now().Add(keyAge + 2*time.Second)
	if repeat, err := j.store(later); err != nil || repeat {
		t.Errorf("after a day: repeat %v, %v", repeat, err)
	}
}

func TestABlockWhoseAnswerWasLostIsNotStoredTwice(t *testing.T) {
	j, stop := openJournal(t, startStore(t, t.TempDir()))
	if _, err := j.store(request("a")); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	b := newBlock(nil)
	b.add(request("b"))
	sequence, err := j.storeBlock(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	// The answer to it never came: the journal offers the same block again.
	again, err := j.storeBlock(t.Context(), b)
	if err != nil || again != sequence {
		t.Errorf("the block is at %d and at %d (%v)", sequence, again, err)
	}
	if ids, _ := storedIDs(t, j); fmt.Sprint(ids) != "[a b]" {
		t.Errorf("the journal holds %v", ids)
	}
}

func TestASecondProcessOnTheSameJournalIsFoundOut(t *testing.T) {
	s := startStore(t, t.TempDir())
	first, stopFirst := openJournal(t, s)
	second, _ := openJournal(t, s)
	for i := range 3 {
		if _, err := second.store(request(fmt.Sprint("second", i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := first.store(request("first")); !errors.Is(err, errUnavailable) || !errors.Is(err, errTaken) {
		t.Errorf("the first process stores behind the second: %v", err)
	}
	if err := stopFirst(); !errors.Is(err, errTaken) {
		t.Errorf("the first process goes on: %v", err)
	}
}

// Both begin at the same place with as many requests, so that the ordinals of their blocks are the same.
func TestOfTwoProcessesOnOneJournalEachPromisesOnlyWhatIsStored(t *testing.T) {
	s := startStore(t, t.TempDir())
	for round := range 3 { // on an empty journal, and on others
		var writers [2]*journal
		var stops [2]func() error
		for i := range writers {
			writers[i], stops[i] = openJournal(t, s)
		}
		var promised [2][]string
		var failures [2]error
		for n := range 5 {
			for i, j := range writers {
				q := request(fmt.Sprintf("r%d-w%d-n%d", round, i, n))
				if failures[i] != nil {
					continue
				}
				if _, failures[i] = j.store(q); failures[i] == nil {
					promised[i] = append(promised[i], q.EventID)
				}
			}
		}
		ids, _ := storedIDs(t, writers[0])
		for i, err := range failures {
			for _, id := range promised[i] {
				if !slices.Contains(ids, id) {
					t.Errorf("round %d: writer %d said that %s is stored, and it is not", round, i, id)
				}
			}
			if err != nil && (!errors.Is(err, errTaken) || !errors.Is(err, errUnavailable)) {
				t.Errorf("round %d: writer %d fails with %v", round, i, err)
			}
			if end := stops[i](); errors.Is(end, errTaken) != (err != nil) {
				t.Errorf("round %d: writer %d answers with %v and ends with %v", round, i, err, end)
			}
		}
		if (failures[0] == nil) == (failures[1] == nil) {
			t.Errorf("round %d: of two writers one must go on: %v, %v", round, failures[0], failures[1])
		}
	}
}

func TestAFullStoreRefusesAndTakesAgainOnceThereIsRoom(t *testing.T) {
	s := startStore(t, t.TempDir(), func(c *embed.Config) { c.Layout.JournalBytes = 1 << 20 })
	j, _ := openJournal(t, s)
	large := func(i int) *Request {
		r := request(fmt.Sprint("e", i))
		r.Body = make([]byte, 200<<10)
		return r
	}
	taken := 0
	for ; taken < 20; taken++ {
		if _, err := j.store(large(taken)); err != nil {
			if !errors.Is(err, errUnavailable) {
				t.Fatalf("the refusal is %v", err)
			}
			break
		}
	}
	if taken < 3 || taken > 6 {
		t.Fatalf("%d requests of 200 KiB fit into 1 MiB", taken)
	}
	stream, err := j.records.Stream(t.Context(), staffetta.JournalStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(j.last.Load())); err != nil {
		t.Fatal(err)
	}
	if repeat, err := j.store(large(taken)); err != nil || repeat {
		t.Errorf("once there is room: repeat %v, %v", repeat, err)
	}
}

func BenchmarkJournal(b *testing.B) {
	j, _ := openJournal(b, startStore(b, b.TempDir()))
	j.keys.bound = 1 << 30
	body := make([]byte, 1024)
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			r := Request{EventID: fmt.Sprintf("%p-%d", pb, i), ReceivedAt: time.Now(), Method: "POST", URI: "/hooks", Body: body}
			if _, err := j.store(&r); err != nil {
				b.Error(err)
			}
		}
	})
}
