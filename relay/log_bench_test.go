package relay

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

func BenchmarkLogRecord(b *testing.B) {
	l := newTestLog(b)
	made := newAttempts()
	var records [1000]staffetta.AttemptRecord
	for n := range records {
		records[n] = *made.next(uint64(n), time.Millisecond)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		l.Record(&records[n%len(records)])
		if n++; n%(32*logBlockRecords) == 0 { // what is stored, not what is shed
			b.StopTimer()
			if err := l.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	}
	if l.Shed() > 0 {
		b.Errorf("shed %d", l.Shed())
	}
}

// attempts makes the records of a relay with 100 workspaces of 100 endpoints each: one in twenty
// fails, and each has an event of its own.
type attempts struct {
	random    *rand.Rand
	at        time.Time
	record    staffetta.AttemptRecord
	endpoints [100][100]string
	types     []staffetta.EventType
	heads     [10][]byte
}

func newAttempts() *attempts {
	a := &attempts{random: rand.New(rand.NewPCG(1, 2)), at: time.Now().Add(-72 * time.Hour), types: staffetta.DefaultCatalogue().Types()}
	for w := range a.endpoints {
		for e := range a.endpoints[w] {
			a.endpoints[w][e] = fmt.Sprintf("ep_0195562f2c407aef9b1f0d6c52e7%02d%02d", w, e)
		}
	}
	for i := range a.heads {
		a.heads[i] = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: nginx/1.2%d\r\nDate: Mon, 02 Mar 2026 10:00:%02d GMT\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n", i, i)
	}
	return a
}

func (a *attempts) eventID(n uint64) string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:], n*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(id[8:], n)
	return string(appendUUID(nil, id[:]))
}

func (a *attempts) next(n uint64, gap time.Duration) *staffetta.AttemptRecord {
	a.at = a.at.Add(gap)
	w, e := a.random.IntN(100), a.random.IntN(100)
	a.record = staffetta.AttemptRecord{
		At: a.at, Workspace: "workspace-" + strconv.Itoa(w), Endpoint: a.endpoints[w][e], EventID: a.eventID(n),
		EventType: a.types[a.random.IntN(len(a.types))].Name, Sequence: n, StoredAt: a.at.Add(-time.Millisecond), Attempt: 1,
		Outcome: staffetta.Outcome{Status: 200}, Duration: time.Duration(a.random.IntN(1e8)), FirstByte: time.Millisecond,
		Remote: "203.0.113.7:443", ResponseHead: a.heads[a.random.IntN(len(a.heads))], ResponseBody: []byte("OK"),
	}
	switch f := a.random.IntN(1000); {
	case f < 40:
		failedWith(500)(&a.record)
	case f < 49:
		endedBy(staffetta.ErrorTimeout)(&a.record)
	case f < 50:
		failedWith(410)(&a.record)
	}
	return &a.record
}

// storedAttempts fills a log of which nothing is in memory.
func storedAttempts(b *testing.B, a *attempts, total uint64) jetstream.JetStream {
	b.Helper()
	server := embedtest.Start(b, b.TempDir(), 1, func(c *embed.Config) { c.Layout.AttemptBytes = 8 << 30 })
	js := embedtest.JetStream(b, server)
	l := openTestLog(b, js)
	defer l.stop()
	began := time.Now()
	for n := range total {
		l.Record(a.next(n, 72*time.Hour/time.Duration(total)))
		if n%(64*logBlockRecords) == 0 {
			if err := l.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := l.Flush(b.Context()); err != nil || l.Shed() > 0 {
		b.Fatalf("shed %d, %v", l.Shed(), err)
	}
	b.Logf("%d attempts made in %v", total, time.Since(began).Round(time.Millisecond))
	return js
}

// BenchmarkLogQueryTenMillion asks a log of ten million attempts, or of as many as
// STAFFETTA_BENCH_ATTEMPTS says; without it, of a million, which takes a few seconds to make.
func BenchmarkLogQueryTenMillion(b *testing.B) {
	total := uint64(1_000_000)
	if text := os.Getenv("STAFFETTA_BENCH_ATTEMPTS"); text != "" {
		var err error
		if total, err = strconv.ParseUint(text, 10, 64); err != nil {
			b.Fatal(err)
		}
	} else if testing.Short() {
		total = 100_000
	}
	a := newAttempts()
	js := storedAttempts(b, a, total)
	began := time.Now()
	l := openTestLog(b, js)
	for !l.index.whole() {
		runtime.Gosched()
	}
	took := time.Since(began)
	segments, bytes := l.index.size()
	info, err := l.stream.Info(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%d blocks, %d MiB stored; indexed in %v: %d segments, %d MiB of memory", info.State.Msgs, info.State.Bytes>>20,
		took.Round(time.Millisecond), segments, bytes>>20)

	middle := a.at.Add(-36 * time.Hour)
	for _, c := range []struct {
		name   string
		filter AttemptFilter
	}{
		{"workspace", AttemptFilter{}},
		{"endpoint", AttemptFilter{Endpoint: a.endpoints[7][7]}},
		{"endpoint_dropped", AttemptFilter{Endpoint: a.endpoints[7][7], Outcome: "dropped"}},
		{"dropped", AttemptFilter{Outcome: "dropped"}},
		{"rare_status", AttemptFilter{Status: "410"}},
		{"class_and_type", AttemptFilter{Status: "5xx", EventType: "call.ended"}},
		{"absent_status", AttemptFilter{Status: "302"}},
		{"absent_event", AttemptFilter{EventID: a.eventID(total + 1)}},
		{"window", AttemptFilter{Outcome: "retry", Since: middle, Until: middle.Add(time.Hour)}},
	} {
		c.filter.Workspace = "workspace-7"
		b.Run(c.name, func(b *testing.B) { benchmarkQuery(b, l.AttemptLog, c.filter) })
	}
	oldest := AttemptFilter{EventID: a.eventID(3)}
	first := newAttempts()
	for n := range uint64(4) {
		oldest.Workspace = first.next(n, 0).Workspace
	}
	b.Run("oldest_event", func(b *testing.B) { benchmarkQuery(b, l.AttemptLog, oldest) })
}

func benchmarkQuery(b *testing.B, l *AttemptLog, f AttemptFilter) {
	found, whole, slowest := 0, 1.0, time.Duration(0)
	b.ReportAllocs()
	for b.Loop() {
		began := time.Now()
		page, err := l.Query(b.Context(), f, nil, defaultPage)
		if err != nil {
			b.Fatal(err)
		}
		slowest = max(slowest, time.Since(began))
		found = len(page.Attempts)
		if page.Next != nil && found < defaultPage {
			whole = 0
		}
	}
	b.ReportMetric(float64(found), "found")
	b.ReportMetric(whole, "whole")
	b.ReportMetric(float64(slowest.Microseconds())/1000, "slowest-ms")
}
