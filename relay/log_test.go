package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

// testLog is an attempt log that runs until the test, or stop, ends it.
type testLog struct {
	*AttemptLog
	js     jetstream.JetStream
	output *bytes.Buffer // to be read once stopped
	stop   func()
}

func openTestLog(t testing.TB, js jetstream.JetStream, change ...func(*AttemptLogConfig)) *testLog {
	t.Helper()
	l := &testLog{js: js, output: &bytes.Buffer{}}
	cfg := AttemptLogConfig{JetStream: js, Log: zerolog.New(l.output)}
	for _, f := range change {
		f(&cfg)
	}
	opened, err := OpenAttemptLog(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.AttemptLog = opened
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(l.stop)
	return l
}

func newTestLog(t testing.TB, change ...func(*AttemptLogConfig)) *testLog {
	t.Helper()
	return openTestLog(t, embedtest.JetStream(t, embedtest.Start(t, t.TempDir(), 1)), change...)
}

// find queries to the end of the log.
func (l *testLog) find(t testing.TB, f AttemptFilter, limit int) (all []LoggedAttempt) {
	t.Helper()
	var before *LogPosition
	for {
		page, err := l.Query(t.Context(), f, before, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Attempts) > limit {
			t.Fatalf("%d on a page of %d", len(page.Attempts), limit)
		}
		all = append(all, page.Attempts...)
		if before = page.Next; before == nil {
			return all
		}
	}
}

func eventIDs(attempts []LoggedAttempt) (ids []string) {
	for _, a := range attempts {
		ids = append(ids, a.EventID)
	}
	return ids
}

// attemptOf is a delivered attempt of the workspace acme.
func attemptOf(event string, change ...func(*staffetta.AttemptRecord)) *staffetta.AttemptRecord {
	now := time.Now()
	r := &staffetta.AttemptRecord{
		At: now, Workspace: "acme", Endpoint: "ep_1", EventID: event, EventType: "message.received",
		Sequence: 7, StoredAt: now.Add(-3 * time.Millisecond), Attempt: 1,
		Outcome: staffetta.Outcome{Status: 200}, Verdict: staffetta.Verdict{Action: staffetta.Deliver},
		Duration: 12 * time.Millisecond, FirstByte: 9 * time.Millisecond, Remote: "203.0.113.7:443",
		ResponseHead: []byte("HTTP/1.1 200 OK\r\nServer: test\r\n\r\n"), ResponseBody: []byte("OK"),
	}
	for _, f := range change {
		f(r)
	}
	return r
}

func failedWith(status int) func(*staffetta.AttemptRecord) {
	return func(r *staffetta.AttemptRecord) {
		r.Outcome = staffetta.Outcome{Status: status}
		r.Verdict = staffetta.Verdict{Action: staffetta.Retry, Wait: 30 * time.Second, Counts: true}
	}
}

func endedBy(kind staffetta.ErrorKind) func(*staffetta.AttemptRecord) {
	return func(r *staffetta.AttemptRecord) {
		r.Outcome = staffetta.Outcome{Error: kind, Detail: "no response within the deadline"}
		r.Verdict = staffetta.Verdict{Action: staffetta.Drop, Counts: true}
		r.Attempt, r.ResponseHead, r.ResponseBody = 4, nil, nil
	}
}

func of(workspace, endpoint, eventType string) func(*staffetta.AttemptRecord) {
	return func(r *staffetta.AttemptRecord) {
		r.Workspace, r.Endpoint, r.EventType = workspace, endpoint, eventType
	}
}

const someUUID = "0195562f-2c40-7aef-9b1f-0d6c52e7a3b1"

func TestALoggedAttemptIsTheOneThatWasMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLog(t)
		made := []*staffetta.AttemptRecord{
			attemptOf(someUUID),
			attemptOf("its own id", failedWith(503), func(r *staffetta.AttemptRecord) {
				r.DNS, r.Connect, r.TLS = time.Millisecond, 2*time.Millisecond, 3*time.Millisecond
				r.Verdict.Stop, r.Replay = true, true
				r.ResponseBody = bytes.Repeat([]byte{0xff}, 5000)
			}),
			attemptOf(strings.ToUpper(someUUID), endedBy(staffetta.ErrorTimeout), func(r *staffetta.AttemptRecord) {
				r.StoredAt = r.At.Add(time.Second) // a clock that was set back
				r.Remote = ""
			}),
		}
		for _, r := range made {
			l.Record(r)
		}
		got := l.find(t, AttemptFilter{Workspace: "acme"}, 10)
		if len(got) != 3 {
			t.Fatalf("%d attempts", len(got))
		}
		slices.Reverse(got)
		for i, want := range made {
			w := *want
			w.At, w.StoredAt = w.At.UTC().Round(0), w.StoredAt.UTC().Round(0)
			w.ResponseBody = w.ResponseBody[:min(len(w.ResponseBody), 1024)]
			if len(w.ResponseHead) > 0 {
				w.ResponseHead = []byte("Server: test\n")
			}
			if fmt.Sprintf("%+v", got[i].AttemptRecord) != fmt.Sprintf("%+v", w) {
				t.Errorf("got  %+v\nwant %+v", got[i].AttemptRecord, w)
			}
		}
	})
}

func TestAFilterFindsWhatItSaysNewestFirstAndNothingOfAnotherWorkspace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLog(t)
		start := time.Now()
		for _, r := range []*staffetta.AttemptRecord{
			attemptOf("a"),
			attemptOf("b", failedWith(500)),
			attemptOf("b", of("acme", "ep_2", "call.ended"), failedWith(503)),
			attemptOf("c", of("beta", "ep_3", "message.received"), failedWith(500)),
			attemptOf(someUUID, endedBy(staffetta.ErrorTimeout)),
			attemptOf("e", of("acme", "ep_2", "message.received")),
		} {
			r.At = time.Now()
			l.Record(r)
			<-time.After(time.Minute) // each ends in a block of its own
		}
		for _, c := range []struct {
			name   string
			filter AttemptFilter
			want   string
		}{
			{"everything", AttemptFilter{}, "e " + someUUID + " b b a"},
			{"an endpoint", AttemptFilter{Endpoint: "ep_2"}, "e b"},
			{"another's endpoint", AttemptFilter{Endpoint: "ep_3"}, ""},
			{"an event", AttemptFilter{EventID: "b"}, "b b"},
			{"an event by UUID", AttemptFilter{EventID: someUUID}, someUUID},
			{"another's event", AttemptFilter{EventID: "c"}, ""},
			{"a type", AttemptFilter{EventType: "call.ended"}, "b"},
			{"delivered", AttemptFilter{Outcome: "delivered"}, "e a"},
			{"retried", AttemptFilter{Outcome: "retry"}, "b b"},
			{"dropped", AttemptFilter{Outcome: "dropped"}, someUUID},
			{"an outcome at an endpoint", AttemptFilter{Outcome: "retry", Endpoint: "ep_2"}, "b"},
			{"a status", AttemptFilter{Status: "500"}, "b"},
			{"a class of statuses", AttemptFilter{Status: "5xx"}, "b b"},
			{"a class without any", AttemptFilter{Status: "3xx"}, ""},
			{"what most come to", AttemptFilter{Status: "200"}, "e a"},
			{"the class of what most come to", AttemptFilter{Status: "2xx"}, "e a"},
			{"a kind of error", AttemptFilter{Status: "timeout"}, someUUID},
			{"since", AttemptFilter{Since: start.Add(4 * time.Minute)}, "e " + someUUID},
			{"until", AttemptFilter{Until: start.Add(time.Minute)}, "a"},
			{"between", AttemptFilter{Since: start.Add(time.Minute), Until: start.Add(3 * time.Minute)}, "b b"},
			{"all at once", AttemptFilter{
				Endpoint: "ep_1", EventID: "b", EventType: "message.received", Outcome: "retry", Status: "500",
				Since: start, Until: start.Add(time.Hour),
			}, "b"},
		} {
			c.filter.Workspace = "acme"
			for _, limit := range []int{1, 2, 100} {
				if got := strings.Join(eventIDs(l.find(t, c.filter, limit)), " "); got != c.want {
					t.Errorf("%s, %d a page: got %q, want %q", c.name, limit, got, c.want)
				}
			}
		}
		for _, f := range []AttemptFilter{{Outcome: "lost"}, {Status: "099"}, {Status: "5x"}, {Status: "none"}} {
			if _, err := l.Query(t.Context(), f, nil, 1); err == nil {
				t.Errorf("%+v was taken", f)
			}
		}
	})
}

func TestPagesNeitherRepeatNorLeaveOutAnAttemptWhileNewOnesCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLog(t)
		record := func(from, to int) {
			for i := from; i < to; i++ {
				l.Record(attemptOf(fmt.Sprint(i)))
			}
		}
		record(0, 1000)
		f := AttemptFilter{Workspace: "acme"}
		page, err := l.Query(t.Context(), f, nil, 7)
		if err != nil {
			t.Fatal(err)
		}
		got := eventIDs(page.Attempts)
		for n := 1000; page.Next != nil; n += 50 {
			record(n, n+50)
			text := page.Next.String()
			next, ok := ParseLogPosition(text)
			if !ok || next != *page.Next {
				t.Fatalf("cursor %q: %v, %v", text, next, ok)
			}
			if page, err = l.Query(t.Context(), f, &next, 7); err != nil {
				t.Fatal(err)
			}
			got = append(got, eventIDs(page.Attempts)...)
		}
		if len(got) != 1000 {
			t.Fatalf("%d attempts", len(got))
		}
		for i, id := range got {
			if id != fmt.Sprint(999-i) {
				t.Fatalf("%d-th is %s", i, id)
			}
		}
	})
}

func TestARestartKeepsTheLogAndTheFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		server := embedtest.Start(t, dir, 1)
		l := openTestLog(t, embedtest.JetStream(t, server))
		var want []string
		for i := range 700 {
			r := attemptOf(fmt.Sprint(i), failedWith(500))
			if i%2 == 0 {
				r.Verdict = staffetta.Verdict{Action: staffetta.Deliver}
			}
			l.Record(r)
			want = append(want, r.EventID)
			<-time.After(time.Second)
		}
		l.stop()
		server.Shutdown()

		l = openTestLog(t, embedtest.JetStream(t, embedtest.Start(t, dir, 1)))
		l.Record(attemptOf("after"))
		want = append(want, "after")
		slices.Reverse(want)
		for range 2 { // while the blocks of before are being indexed, perhaps, and after it
			if got := eventIDs(l.find(t, AttemptFilter{Workspace: "acme"}, 100)); !slices.Equal(got, want) {
				t.Errorf("%d of %d attempts: %v", len(got), len(want), got)
			}
			if got := eventIDs(l.find(t, AttemptFilter{Workspace: "acme", EventID: "333"}, 100)); !slices.Equal(got, []string{"333"}) {
				t.Errorf("one of before the restart: %v", got)
			}
			<-time.After(time.Second)
			synctest.Wait()
		}
		since := time.Now().Add(-5 * time.Minute)
		var last time.Time
		failures := 0
		err := l.Failures(t.Context(), since, func(workspace, endpoint string, at time.Time) {
			if workspace != "acme" || endpoint != "ep_1" || at.Before(since) || at.Before(last) {
				t.Errorf("failure of %s, %s at %v", workspace, endpoint, at)
			}
			last = at
			failures++
		})
		if err != nil || failures < 145 || failures > 150 {
			t.Errorf("%d failures, %v", failures, err)
		}
	})
}

func TestAFailureThatCountsIsStoredWithinTenMillisecondsAndTheRestWithinAHundred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLog(t)
		stored := func() uint64 {
			t.Helper()
			synctest.Wait()
			info, err := l.stream.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return info.State.Msgs
		}
		synctest.Wait()
		l.Record(attemptOf("a"))
		<-time.After(99 * time.Millisecond)
		if stored() != 0 {
			t.Error("stored at once")
		}
		<-time.After(time.Millisecond)
		if stored() != 1 {
			t.Error("not stored after 100 ms")
		}
		l.Record(attemptOf("b"))
		l.Record(attemptOf("c", failedWith(500)))
		<-time.After(10 * time.Millisecond)
		if stored() != 2 {
			t.Error("a failure is not stored after 10 ms")
		}
		for i := range logBlockRecords {
			l.Record(attemptOf(fmt.Sprint(i)))
		}
		if stored() != 3 {
			t.Error("a full block is not stored at once")
		}
	})
}

func TestAttemptsThatTheStoreDoesNotTakeAreShedAndCountedAndRecordNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("the disk is full")
		var room atomic.Pointer[error]
		l := newTestLog(t, func(c *AttemptLogConfig) {
			c.Buffer = 4
			c.Room = func() error {
				if err := room.Load(); err != nil {
					return *err
				}
				return nil
			}
		})
		l.Record(attemptOf("before"))
		<-time.After(time.Second)
		room.Store(&full)
		began := time.Now()
		for i := range 5000 {
			l.Record(attemptOf(fmt.Sprint(i)))
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("recording waited for %v", took)
		}
		if got := eventIDs(l.find(t, AttemptFilter{Workspace: "acme"}, 1000)); !slices.Equal(got, []string{"before"}) {
			t.Errorf("while the store refuses: %v", got)
		}
		<-time.After(time.Minute)
		if got, want := l.Shed(), uint64(5000-4*logBlockRecords); got != want {
			t.Errorf("shed %d, want %d", got, want)
		}
		room.Store(nil)
		<-time.After(2 * time.Second)
		l.Record(attemptOf("after"))
		got := eventIDs(l.find(t, AttemptFilter{Workspace: "acme"}, 1000))
		if len(got) != 4*logBlockRecords+2 || got[0] != "after" {
			t.Errorf("%d attempts, the newest %s", len(got), got[0])
		}
		l.stop()
		said := l.output.String()
		// The shedding may be told of in its midst, and then of the rest.
		for text, times := range map[string]int{"the disk is full": 1, "is stored again": 1, "are missing from the log": 2} {
			if n := strings.Count(said, text); n == 0 || n > times {
				t.Errorf("%q was said %d times in %s", text, n, said)
			}
		}
	})
}

func TestALogWhoseStreamIsGoneShedsAtTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLog(t)
		if err := l.js.DeleteStream(t.Context(), staffetta.AttemptStream); err != nil {
			t.Fatal(err)
		}
		for i := range 1000 {
			l.Record(attemptOf(fmt.Sprint(i)))
		}
		l.stop()
		if l.Shed() != 1000 || !strings.Contains(l.output.String(), "cannot be stored") {
			t.Errorf("shed %d: %s", l.Shed(), l.output)
		}
		l.Record(attemptOf("late"))
		if err := l.Flush(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestALogOfFailuresKeepsNoDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLog(t, func(c *AttemptLogConfig) { c.Mode = LogFailures })
		l.Record(attemptOf("a"))
		l.Record(attemptOf("b", failedWith(500)))
		l.Record(attemptOf("c", endedBy(staffetta.ErrorRefused)))
		if got := eventIDs(l.find(t, AttemptFilter{Workspace: "acme"}, 10)); !slices.Equal(got, []string{"c", "b"}) {
			t.Errorf("%v", got)
		}
	})
}

func TestTheOldestAttemptsGoFirstAndTheIndexFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLog(t, func(c *AttemptLogConfig) { c.MaxBytes, c.Retention = 256<<10, time.Hour })
		for i := range 90 {
			for range logBlockRecords {
				l.Record(attemptOf(fmt.Sprint(i)))
			}
			<-time.After(time.Second)
		}
		<-time.After(time.Minute)
		info, err := l.stream.Info(t.Context())
		if err != nil || info.Config.MaxAge != time.Hour || info.State.Msgs > 60 || info.State.Msgs < 10 {
			t.Fatalf("%+v, %v", info, err)
		}
		got := l.find(t, AttemptFilter{Workspace: "acme"}, 1000)
		if n := len(got); n != int(info.State.Msgs)*logBlockRecords || got[0].EventID != "89" {
			t.Errorf("%d attempts in %d blocks", n, info.State.Msgs)
		}
		if segments, _ := l.index.size(); segments != int(info.State.Msgs) {
			t.Errorf("%d segments, %d blocks", segments, info.State.Msgs)
		}
	})
}

func TestSmallBlocksShareSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLog(t)
		for i := range 640 {
			l.Record(attemptOf(fmt.Sprint(i)))
			<-time.After(time.Second)
		}
		if segments, bytes := l.index.size(); segments > 11 || bytes > segments*1024 {
			t.Errorf("%d segments, %d bytes", segments, bytes)
		}
		if got := eventIDs(l.find(t, AttemptFilter{Workspace: "acme", EventID: "77"}, 10)); !slices.Equal(got, []string{"77"}) {
			t.Errorf("%v", got)
		}
	})
}

func TestRecordingAnAttemptAllocatesNothing(t *testing.T) {
	l := newTestLog(t)
	r := attemptOf(someUUID)
	for range 20 * logBlockRecords { // until the buffers have grown
		l.Record(r)
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.stop()
	// The blocks that are free serve the count without the writer.
	if n := testing.AllocsPerRun(logBlockRecords-2, func() { l.Record(r) }); n != 0 {
		t.Errorf("%v allocations an attempt", n)
	}
}
