package relay

import (
	"bytes"
	"testing"

	"github.com/staffetta-relay/staffetta"
)

func FuzzReadingABlockOfTheLog(f *testing.F) {
	var b logBlock
	b.reset()
	f.Add(b.encode(nil))
	b.add(attemptOf(someUUID))
	b.add(attemptOf("b", failedWith(500)))
	b.add(attemptOf("c", endedBy(staffetta.ErrorTimeout)))
	f.Add(b.encode(nil))
	f.Fuzz(func(t *testing.T, block []byte) {
		var r logReader
		var first []LoggedAttempt
		if err := r.each(block, func(rec *logRecord) { first = append(first, r.logged(1, rec)) }); err != nil {
			return
		}
		// What can be read can be written and read again, and is the same.
		var b logBlock
		for i := range first {
			if len(first) > logBlockRecords {
				return
			}
			a := &first[i].AttemptRecord
			a.ResponseHead = append([]byte("HTTP/1.1 200 OK\n"), a.ResponseHead...)
			b.add(a)
		}
		i := 0
		err := r.each(b.encode(nil), func(rec *logRecord) {
			again, was := r.logged(1, rec), first[i]
			i++
			if len(was.EventID) <= logText && again.EventID != was.EventID || len(was.Endpoint) <= logText && again.Endpoint != was.Endpoint ||
				again.Attempt != was.Attempt && was.Attempt >= 0 || len(was.ResponseBody) <= logKept && !bytes.Equal(again.ResponseBody, was.ResponseBody) {
				t.Fatalf("got  %+v\nwant %+v", again, was)
			}
		})
		if err != nil || i != len(first) {
			t.Fatalf("%d of %d records, %v", i, len(first), err)
		}
		var x logRun
		if err := x.add(1, block); err != nil {
			t.Fatal(err)
		}
	})
}
