package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"
)

// keyed posts an event with an Idempotency-Key.
func (l *liveRelay) keyed(key, body string) (eventID string, duplicate bool) {
	l.t.Helper()
	m := l.must(http.StatusAccepted, "POST", acmeEvents, body, "Idempotency-Key", key).members(l.t)
	duplicate, _ = m["duplicate"].(bool)
	return m["event_id"].(string), duplicate
}

// bodiesOf gives the bodies of what came, with their ids.
func bodiesOf(arrivals []liveArrival) string {
	var b strings.Builder
	for _, a := range arrivals {
		b.WriteString(a.header.Get("webhook-id") + " " + a.body + "\n")
	}
	return b.String()
}

// checkOnce sends a last event and fails the test unless what came before it are n deliveries.
func checkOnce(t *testing.T, l *liveRelay, sink *liveSink, n int) {
	t.Helper()
	checkStillTakes(t, l, sink)
	if got := sink.all(); len(got) != n+1 {
		t.Errorf("%d deliveries, want %d and the last:\n%s", len(got), n, bodiesOf(got))
	}
}

func TestARepeatWithTheSameKeyIsAcceptedAndDeliveredOnce(t *testing.T) {
	l, sink := startIntake(t)
	const event = `{"event_type":"message.received","n":1}`
	first, duplicate := l.keyed("key-one", event)
	if duplicate {
		t.Error("the first of its key is called a duplicate")
	}
	for range 5 {
		if id, duplicate := l.keyed("key-one", event); id != first || !duplicate {
			t.Errorf("a repeat is answered %s, duplicate %v; want %s, true", id, duplicate, first)
		}
	}
	if id, duplicate := l.keyed("key two", event); id == first || duplicate {
		t.Errorf("another key is answered %s, duplicate %v", id, duplicate)
	}
	// A key is the workspace's own, and no event_id.
	l.workspace("other")
	r := l.must(202, "POST", "/v1/workspaces/other/events", event, "Idempotency-Key", "key-one")
	if m := r.members(t); m["event_id"] == first || m["duplicate"] == true {
		t.Errorf("the key of another workspace is answered %v", m)
	}
	const named = `{"event_type":"message.received","event_id":"key-one"}`
	for i, want := range []any{nil, true, true} {
		if m := l.must(202, "POST", acmeEvents, named).members(t); m["event_id"] != "key-one" || m["duplicate"] != want {
			t.Errorf("post %d of an event_id is answered %v", i, m)
		}
	}
	checkProblem(t, l.ask("POST", acmeEvents, event, "Idempotency-Key", strings.Repeat("k", 256)), 422, "invalid_idempotency_key")
	checkProblem(t, l.ask("POST", acmeEvents, event, "Idempotency-Key", "k", "Content-Type", "application/x-ndjson"), 422, "invalid_idempotency_key")
	// What was refused has not used its key up.
	checkProblem(t, l.ask("POST", acmeEvents, `{"event_type":"message.lost"}`, "Idempotency-Key", "key three"), 422, "unknown_event_type")
	if _, duplicate := l.keyed("key three", event); duplicate {
		t.Error("the key of a refused event is used up")
	}
	checkOnce(t, l, sink, 4)
}

func TestRequestsOfOneKeyAtTheSameTimeAreOneEvent(t *testing.T) {
	l, sink := startIntake(t)
	for round := range 5 {
		var wg sync.WaitGroup
		ids, firsts := make([]string, 40), make([]bool, 40)
		for i := range ids {
			wg.Go(func() {
				id, duplicate := l.keyed(fmt.Sprint("round ", round), fmt.Sprintf(`{"event_type":"message.received","n":%d}`, i))
				ids[i], firsts[i] = id, !duplicate
			})
		}
		wg.Wait()
		taken := 0
		for i := range ids {
			if ids[i] != ids[0] {
				t.Fatalf("one key is answered %s and %s", ids[0], ids[i])
			}
			if firsts[i] {
				taken++
			}
		}
		if taken != 1 {
			t.Errorf("%d of the requests of one key are not called duplicates", taken)
		}
	}
	checkOnce(t, l, sink, 5)
}

func TestAnEventIDThatABatchRepeatsIsDeliveredOnce(t *testing.T) {
	l, sink := startIntake(t)
	var lines []string
	for n := range 30 {
		lines = append(lines, fmt.Sprintf(`{"event_type":"message.received","event_id":"id-%d","n":%d}`, n%10, n))
	}
	body := strings.Join(lines, "\n")
	for round := range 3 {
		m := l.must(202, "POST", acmeEvents, body, "Content-Type", "application/x-ndjson").members(t)
		want := map[bool]float64{true: 20, false: 30}[round == 0]
		if m["accepted"] != 30.0 || m["duplicates"] != want {
			t.Errorf("round %d is answered %v, want 30 accepted, %v of them duplicates", round, m, want)
		}
	}
	for n, a := range sink.wait(t, 10)[:10] {
		if id := fmt.Sprint("id-", n); a.header.Get("webhook-id") != id || !strings.Contains(a.body, fmt.Sprintf(`"n":%d}`, n)) {
			t.Errorf("delivery %d is %s, want %s", n, a.body, id)
		}
	}
	// Batches that share ids, in opposite orders, and single events, all at once.
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			var mine []string
			for n := range 50 {
				if i%2 == 1 {
					n = 49 - n
				}
				mine = append(mine, fmt.Sprintf(`{"event_type":"message.received","event_id":"shared-%d"}`, n))
			}
			l.must(202, "POST", acmeEvents, strings.Join(mine, "\n"), "Content-Type", "application/x-ndjson")
			l.must(202, "POST", acmeEvents, mine[i])
		})
	}
	wg.Wait()
	checkOnce(t, l, sink, 60)
}

func TestAKeyOutlivesARestartAndAKill(t *testing.T) {
	for _, kill := range []bool{false, true} {
		t.Run(map[bool]string{false: "after a stop", true: "after a kill"}[kill], func(t *testing.T) {
			sink, dir := startLiveSink(t), t.TempDir()
			l := startLive(t, dir)
			l.workspace("acme")
			l.endpoint("acme", sink.url+"/hook", "message.received")
			keyed := map[string]string{}
			for n := range 20 {
				key := fmt.Sprint("key ", n)
				keyed[key], _ = l.keyed(key, `{"event_type":"message.received"}`)
				l.event("acme", fmt.Sprintf(`{"event_type":"message.received","event_id":"id-%d"}`, n))
			}
			if kill {
				dir = copyStore(t, dir) // right after the answer: the keys cannot all be on record
			}
			before := len(sink.wait(t, 40)) // a stop ends attempts, it does not deliver what waits
			l.stop()
			l = startLive(t, dir)
			for key, want := range keyed {
				if id, duplicate := l.keyed(key, `{"event_type":"message.received"}`); id != want || !duplicate {
					t.Errorf("%s is answered %s, duplicate %v; want %s, true", key, id, duplicate, want)
				}
			}
			for n := range 20 {
				m := l.must(202, "POST", acmeEvents, fmt.Sprintf(`{"event_type":"message.received","event_id":"id-%d"}`, n)).members(t)
				if m["duplicate"] != true {
					t.Errorf("event id-%d is answered %v", n, m)
				}
			}
			checkStillTakes(t, l, sink)
			after := sink.all()[before:]
			ids := map[string]int{}
			for _, a := range after { // a kill may repeat deliveries, but never one of them twice
				ids[a.header.Get("webhook-id")]++
			}
			if len(ids) != len(after) || !kill && len(after) != 1 {
				t.Errorf("after the restart came:\n%s", bodiesOf(after))
			}
		})
	}
}

// keyed posts an event with an Idempotency-Key.
func (m *memoryRelay) keyed(key, body string) (eventID string, duplicate bool) {
	m.t.Helper()
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod("POST")
	req.SetRequestURI("http://relay" + acmeEvents)
	req.Header.Set("Authorization", "Bearer "+testAdminKey)
	req.Header.Set("Idempotency-Key", key)
	req.Header.SetContentType("application/json")
	req.SetBodyString(body)
	if err := m.http.DoTimeout(req, resp, time.Minute); err != nil {
		m.t.Fatal(err)
	}
	answer := reply{status: resp.StatusCode(), body: resp.Body()}.members(m.t)
	duplicate, _ = answer["duplicate"].(bool)
	eventID, _ = answer["event_id"].(string)
	return eventID, duplicate
}

func TestAKeyIsRememberedForADayAndNotLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink, dir := newMemorySink(func(arrival) int { return 200 }), t.TempDir()
		m := startInMemory(t, dir, sink)
		m.endpoint("acme", "/hook")
		sink.start = time.Now()
		const event, named = `{"event_type":"message.received","n":1}`, `{"event_type":"message.received","n":2,"event_id":"named"}`
		first, _ := m.keyed("key", event)
		m.callJSON("POST", acmeEvents, named, 202)
		sink.passTo(time.Minute)
		m.shutdown() // nothing happens for a day

		sink.passTo(23 * time.Hour)
		m = startInMemory(t, dir, sink)
		if id, duplicate := m.keyed("key", event); id != first || !duplicate {
			t.Errorf("after 23 h the key is answered %s, duplicate %v; want %s, true", id, duplicate, first)
		}
		if answer := m.callJSON("POST", acmeEvents, named, 202); answer["duplicate"] != true {
			t.Errorf("after 23 h the event_id is answered %v", answer)
		}
		sink.passTo(23*time.Hour + time.Minute)
		if n := len(sink.at("/hook")); n != 2 {
			t.Errorf("after 23 h there were %d deliveries of two events", n)
		}
		m.shutdown()

		sink.passTo(25 * time.Hour)
		m = startInMemory(t, dir, sink)
		if id, duplicate := m.keyed("key", event); id == first || duplicate {
			t.Errorf("after 25 h the key is answered %s, duplicate %v", id, duplicate)
		}
		if answer := m.callJSON("POST", acmeEvents, named, 202); answer["duplicate"] == true {
			t.Errorf("after 25 h the event_id is answered %v", answer)
		}
		sink.passTo(25*time.Hour + time.Minute)
		if got := sink.at("/hook"); len(got) != 4 || got[3].id != "named" {
			t.Errorf("after 25 h there were these deliveries: %v", got)
		}
		m.shutdown()
		sink.close()
	})
}

func TestAFullStoreTakesEventsAgainOnceItsEventsAreDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newMemorySink(func(arrival) int { return 200 })
		m := startInMemory(t, t.TempDir(), sink, func(s *relaySettings) { s.maxStore = 16 << 20 })
		held := m.endpoint("acme", "/hook")
		m.callJSON("POST", "/v1/workspaces/acme/endpoints/"+held+"/disable", "", 200)
		large := `{"event_type":"message.received","s":"` + strings.Repeat("x", 500_000) + `"}`
		for range 31 {
			m.callJSON("POST", acmeEvents, large, 202)
		}
		sink.passTo(2 * time.Second)
		m.callJSON("POST", acmeEvents, large, 503)
		m.callJSON("POST", "/v1/workspaces/acme/endpoints/"+held+"/enable", "", 200)
		sink.passTo(5 * time.Minute) // what is delivered stays in the store for two
		m.callJSON("POST", acmeEvents, large, 202)
		sink.passTo(6 * time.Minute)
		if n := len(sink.at("/hook")); n != 32 {
			t.Errorf("%d deliveries of 32 accepted events", n)
		}
		m.shutdown()
		sink.close()
	})
}
