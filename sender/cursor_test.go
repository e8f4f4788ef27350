package sender

import (
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta"
)

func TestARecordOfCursorsSurvivesARoundTrip(t *testing.T) {
	want := map[string]cursor{
		"ep_1": {settled: 1 << 40, backlog: 7, bytes: 900, failed: 3, due: time.Unix(1_800_000_000, 123)},
		"ep_2": {},
	}
	record := staffetta.AppendText([]byte{cursorFormat}, "writer")
	for key, c := range want {
		record = appendCursor(record, key, c)
	}
	got, writer, err := parseCursors(record)
	if err != nil || writer != "writer" || len(got) != len(want) {
		t.Fatalf("got %v by %q: %v", got, writer, err)
	}
	for key, c := range want {
		if g := got[key]; g.settled != c.settled || g.backlog != c.backlog || g.bytes != c.bytes || g.failed != c.failed || !g.due.Equal(c.due) {
			t.Errorf("%s: got %+v, want %+v", key, g, c)
		}
	}
	for n := range len(record) {
		cut, _, err := parseCursors(record[:n])
		if err == nil && len(cut) == len(want) {
			t.Errorf("a record cut at byte %d passes for whole", n)
		}
	}
}

func FuzzParseCursors(f *testing.F) {
	f.Add(appendCursor(staffetta.AppendText([]byte{cursorFormat}, "w"), "a", cursor{settled: 5, failed: 1, due: time.Unix(1, 0)}))
	f.Add([]byte{cursorFormat, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		if cursors, _, err := parseCursors(b); err != nil && cursors != nil {
			t.Error("a damaged record gives cursors")
		}
	})
}

func TestPlaceOfReadsTheReplySubjectsOfEveryServer(t *testing.T) {
	at := time.Unix(0, 1795350927000000001)
	for reply, want := range map[string]place{
		"$JS.ACK.EVENTS_3.ep_1-abc1.1.57.12.1795350927000000001.4":                     {"ep_1-abc1", 57, 12, at},
		"$JS.ACK.hub.ACCOUNTHASH.EVENTS_3.ep_1-abc1.1.57.12.1795350927000000001.4":     {"ep_1-abc1", 57, 12, at},
		"$JS.ACK.hub.ACCOUNTHASH.EVENTS_3.ep_1-abc1.1.57.12.1795350927000000001.4.x1y": {"ep_1-abc1", 57, 12, at},
	} {
		if got, ok := placeOf(reply); !ok || got != want {
			t.Errorf("%s: got %+v, %v", reply, got, ok)
		}
	}
	for _, reply := range []string{"", "_INBOX.x", "$JS.ACK.", "$JS.ACK.S.c.1.x.1.1.1", "$JS.ACK.S.c.1.99999999999999999999999.1.1.1"} {
		if got, ok := placeOf(reply); ok {
			t.Errorf("%q passes for %+v", reply, got)
		}
	}
}
