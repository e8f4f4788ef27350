package relay

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

func TestAQueryWhoseTimeIsUpBeforeItBeginsComesFurtherAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLog(t)
		const attempts = 1000 // several blocks
		for i := range attempts {
			l.Record(attemptOf(fmt.Sprint(i)))
		}
		if err := l.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		filter, err := AttemptFilter{Workspace: "acme"}.compile()
		if err != nil {
			t.Fatal(err)
		}
		found, before := 0, LogPosition{Sequence: math.MaxUint64}
		for {
			q := logQuery{
				log: l.AttemptLog, filter: filter, limit: 7, blocks: logQueryBlocks, before: before,
				until: time.Now().Add(-time.Second),
			}
			if err := q.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			found += len(q.page.Attempts)
			if q.page.Next == nil {
				break
			}
			if *q.page.Next == before {
				t.Fatalf("after %d attempts the next page is the same again", found)
			}
			before = *q.page.Next
		}
		if found != attempts {
			t.Errorf("found %d attempts", found)
		}
	})
}
