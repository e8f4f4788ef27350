package relay

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/staffetta-relay/staffetta"
)

// benchmarkLetters is how many letters of 1 KiB the benchmark's store has: 20,000, or what the environment
// says (STAFFETTA_BENCH_LETTERS=1000000 takes a minute to fill).
func benchmarkLetters() int {
	if n, err := strconv.Atoi(os.Getenv("STAFFETTA_BENCH_LETTERS")); err == nil {
		return n
	}
	return 20_000
}

// BenchmarkDeadLetters pages through letters of 100 workspaces; "rare" has one in 100,000 and none of the
// newest.
func BenchmarkDeadLetters(b *testing.B) {
	s := newLetterStore(b)
	total := benchmarkLetters()
	payload := append(append([]byte(`{"text":"`), bytes.Repeat([]byte{'x'}, 1000)...), `"}`...)
	for n := range total {
		workspace, endpoint := "ws_"+strconv.Itoa(n%100), "ep_"+strconv.Itoa(n%1000)
		if n%100_000 == 500 {
			workspace, endpoint = "rare", "ep_rare"
		}
		_, err := s.js.PublishMsgAsync(&nats.Msg{
			Subject: staffetta.DeadLetterSubject(workspace, endpoint),
			Header: nats.Header{
				staffetta.HeaderEventID: {"event-" + strconv.Itoa(n)}, staffetta.HeaderEventType: {"message.received"},
				staffetta.HeaderAttempts: {"4"}, staffetta.HeaderError: {"status 503"},
			},
			Data: payload,
		})
		if err != nil {
			b.Fatal(err)
		}
		if n%2000 != 1999 && n != total-1 {
			continue
		}
		select {
		case <-s.js.PublishAsyncComplete():
		case <-time.After(time.Minute):
			b.Fatal("the store does not take the letters")
		}
	}
	middle := uint64(total / 2)
	for _, bench := range []struct {
		name   string
		filter letterFilter
		before uint64
		limit  int
	}{
		{"newest 100 of a workspace", letterFilter{workspace: "ws_7"}, 0, 100},
		{"100 of a workspace in the middle", letterFilter{workspace: "ws_7"}, middle, 100},
		{"newest 100 of an endpoint", letterFilter{workspace: "ws_7", endpoint: "ep_107"}, 0, 100},
		{"all of a rare one", letterFilter{workspace: "rare"}, 0, 100},
		{"one event of a workspace", letterFilter{workspace: "ws_7", eventID: "event-" + strconv.Itoa(total/2/100*100+7)}, 0, 1},
		{"an unknown event of a workspace", letterFilter{workspace: "ws_7", eventID: "none"}, 0, 100},
		{"an unknown event of everything", letterFilter{workspace: "*", eventID: "none"}, 0, 100},
	} {
		b.Run(fmt.Sprintf("%s of %d", bench.name, total), func(b *testing.B) {
			for b.Loop() {
				if _, _, err := s.letters.page(b.Context(), &bench.filter, bench.before, bench.limit); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
