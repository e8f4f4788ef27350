package main

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnEndpointThatIsDownForAnHourGetsItsAttemptsToTheSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newMemorySink(func(a arrival) int {
			if a.path == "/down" && a.at < time.Hour {
				return 503
			}
			return 200
		})
		m := startInMemory(t, t.TempDir(), sink, withoutQuota)
		down := m.endpoint("acme", "/down")
		m.endpoint("acme", "/up")
		sink.start = time.Now()
		m.post("acme", 1, 25)
		sink.passTo(time.Hour + time.Second)

		var want []arrival
		for n := 1; n <= 20; n++ {
			for i, after := range []int{0, 30, 90, 180} {
				want = append(want, arrival{path: "/down", at: time.Duration(180*(n-1)+after) * time.Second, n: n, attempt: i + 1})
			}
		}
		for n := 21; n <= 25; n++ {
			want = append(want, arrival{path: "/down", at: time.Hour, n: n, attempt: 1})
		}
		checkArrivals(t, sink.at("/down"), want)

		want = nil
		for n := 1; n <= 25; n++ {
			want = append(want, arrival{path: "/up", n: n, attempt: 1})
		}
		checkArrivals(t, sink.at("/up"), want)

		if state := m.callJSON("GET", "/v1/workspaces/acme/endpoints/"+down, "", 200); state["backlog"] != 0.0 {
			t.Errorf("the endpoint that came back has a backlog: %v", state)
		}
		m.shutdown()
		sink.close()
	})
}

func TestARestartInTheMiddleOfAWaitGoesOnAtTheRightSecond(t *testing.T) {
	for _, kill := range []bool{false, true} {
		name := map[bool]string{false: "after a stop", true: "after a kill"}[kill]
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := newMemorySink(func(arrival) int { return 500 })
				dir := t.TempDir()
				m := startInMemory(t, dir, sink)
				m.endpoint("acme", "/down")
				sink.start = time.Now()
				m.post("acme", 1, 2)
				sink.passTo(50 * time.Second) // 20 s into the wait of 60
				if kill {
					dir = copyStore(t, dir)
				}
				m.shutdown()
				sink.passTo(70 * time.Second)
				m = startInMemory(t, dir, sink)
				sink.passTo(181 * time.Second)
				checkArrivals(t, sink.at("/down"), []arrival{
					{path: "/down", at: 0, n: 1, attempt: 1},
					{path: "/down", at: 30 * time.Second, n: 1, attempt: 2},
					{path: "/down", at: 90 * time.Second, n: 1, attempt: 3},
					{path: "/down", at: 180 * time.Second, n: 1, attempt: 4},
					{path: "/down", at: 180 * time.Second, n: 2, attempt: 1},
				})
				m.shutdown()
				sink.close()
			})
		})
	}
}

// checkArrivals compares all but the ids; event ids must be one to an event.
func checkArrivals(t *testing.T, got, want []arrival) {
	t.Helper()
	ids := map[int]string{}
	for i := range got {
		if id, ok := ids[got[i].n]; ok && id != got[i].id {
			t.Errorf("event %d came as %s and as %s", got[i].n, id, got[i].id)
		}
		ids[got[i].n] = got[i].id
		got[i].id = ""
	}
	if slices.Equal(got, want) {
		return
	}
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Fatalf("attempt %d is missing: want %v", i, want[i])
		case i >= len(want):
			t.Fatalf("attempt %d is one too many: %v", i, got[i])
		case got[i] != want[i]:
			t.Fatalf("attempt %d: %v, want %v", i, got[i], want[i])
		}
	}
}
