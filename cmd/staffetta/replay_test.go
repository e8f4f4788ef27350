package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// numbers gives the numbers of the events that arrived at a path; a replayed one is negative.
func (s *memorySink) numbers(path string) (numbers []int) {
	for _, a := range s.at(path) {
		if a.replay {
			a.n = -a.n
		}
		numbers = append(numbers, a.n)
	}
	return numbers
}

// forget drops what has arrived so far.
func (s *memorySink) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrivals = nil
}

// letters gives the numbers of the workspace's dead letters as they are listed.
func (m *memoryRelay) letters(workspace, query string) (numbers []int) {
	m.t.Helper()
	for _, item := range m.callJSON("GET", "/v1/workspaces/"+workspace+"/dead-letters"+query, "", 200)["items"].([]any) {
		numbers = append(numbers, int(item.(map[string]any)["payload"].(map[string]any)["n"].(float64)))
	}
	return numbers
}

func TestWhatWasDroppedInAnOutageIsReplayedOnceInOrderBehindWhatCameSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newMemorySink(func(a arrival) int {
			if a.path == "/down" && a.at < time.Hour {
				return 503
			}
			return 200
		})
		m := startInMemory(t, t.TempDir(), sink)
		down := m.endpoint("acme", "/down")
		m.endpoint("acme", "/up")
		sink.start = time.Now()
		m.post("acme", 1, 5) // 20 failures: below the quota
		sink.passTo(16 * time.Minute)
		if got := m.letters("acme", "?endpoint="+down); !slices.Equal(got, []int{5, 4, 3, 2, 1}) {
			t.Errorf("dead letters: %v", got)
		}
		// Sent again while the endpoint is still down, when the window has nothing left in it.
		sink.passTo(48 * time.Minute)
		first := m.callJSON("POST", "/v1/workspaces/acme/replays", `{"endpoint":"`+down+`"}`, 202)
		if first["status"] != "done" || first["replayed"] != 5.0 {
			t.Errorf("the first replay: %v", first)
		}
		sink.passTo(time.Hour - time.Second)
		state := m.callJSON("GET", "/v1/workspaces/acme/endpoints/"+down, "", 200)
		if state["failures_in_window"] != 0.0 || state["workspace_failures_in_window"] != 0.0 || state["status"] != "enabled" {
			t.Errorf("a replay was counted: %v", state)
		}
		sink.passTo(time.Hour + 5*time.Minute)
		sink.forget()
		m.post("acme", 6, 7)
		answer := m.callJSON("POST", "/v1/workspaces/acme/replays", `{"since":"1999-01-01T00:00:00Z"}`, 202)
		if answer["status"] != "done" || answer["found"] != 5.0 || answer["replayed"] != 5.0 || answer["skipped"] != 0.0 {
			t.Errorf("the second replay: %v", answer)
		}
		m.post("acme", 8, 8)
		synctest.Wait()
		if got := sink.numbers("/down"); !slices.Equal(got, []int{6, 7, -1, -2, -3, -4, -5, 8}) {
			t.Errorf("arrived: %v", got)
		}
		if got := sink.numbers("/up"); !slices.Equal(got, []int{6, 7, 8}) {
			t.Errorf("arrived at the other endpoint: %v", got)
		}
		m.shutdown()
		sink.close()
	})
}

func TestACancelledReplayIsNotSentAnyMoreAlsoAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newMemorySink(func(a arrival) int {
			if a.at < time.Hour {
				return 503
			}
			return 200
		})
		dir := t.TempDir()
		m := startInMemory(t, dir, sink)
		m.endpoint("acme", "/down")
		sink.start = time.Now()
		m.post("acme", 1, 4)
		sink.passTo(13 * time.Minute)
		answer := m.callJSON("POST", "/v1/workspaces/acme/replays", `{"replay_id":"mine","since":"1999-01-01T00:00:00Z"}`, 202)
		if answer["replayed"] != 4.0 {
			t.Errorf("replay: %v", answer)
		}
		synctest.Wait()
		answer = m.callJSON("DELETE", "/v1/workspaces/acme/replays/mine", "", 200)
		if answer["status"] != "cancelled" || answer["replayed"] != 4.0 {
			t.Errorf("cancelled: %v", answer)
		}
		m.shutdown()
		m = startInMemory(t, dir, sink)
		m.post("acme", 5, 5)
		sink.passTo(2 * time.Hour)
		got := sink.numbers("/down")
		if i := slices.Index(got, -1); i < 0 || !slices.Equal(got[i:], []int{-1, 5, 5, 5, 5}) {
			t.Errorf("arrived: %v", got)
		}
		if got := m.letters("acme", ""); !slices.Equal(got, []int{5, 4, 3, 2, 1}) {
			t.Errorf("dead letters: %v", got)
		}
		m.shutdown()
		sink.close()
	})
}

func TestAReplayAskedForTwiceIsDoneOnceAlsoAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var healthy atomic.Bool
		sink := newMemorySink(func(arrival) int {
			if healthy.Load() {
				return 200
			}
			return 500
		})
		dir := t.TempDir()
		m := startInMemory(t, dir, sink, withoutQuota, func(c *relaySettings) { c.policy.Retry = nil })
		m.endpoint("acme", "/down")
		var batch strings.Builder
		for n := 1; n <= 2000; n++ {
			fmt.Fprintf(&batch, `{"event_type":"message.received","n":%d}`+"\n", n)
		}
		m.call("POST", "/v1/workspaces/acme/events", "application/x-ndjson", []byte(batch.String()), 202)
		<-time.After(time.Minute)
		healthy.Store(true)
		sink.forget()
		m.headers = map[string]string{"Idempotency-Key": "after the outage"}
		const body = `{"since":"1999-01-01T00:00:00Z"}`
		first := m.callJSON("POST", "/v1/workspaces/acme/replays", body, 202)
		<-time.After(time.Minute)
		m.shutdown()
		m = startInMemory(t, dir, sink, withoutQuota)
		m.headers = map[string]string{"Idempotency-Key": "after the outage"}
		again := m.callJSON("POST", "/v1/workspaces/acme/replays", body, 202)
		if again["replay_id"] != first["replay_id"] || again["duplicate"] != true || again["status"] != "done" || again["replayed"] != 2000.0 {
			t.Errorf("first %v, again %v", first, again)
		}
		var problem map[string]any
		if err := json.Unmarshal(m.call("POST", "/v1/workspaces/acme/replays", "application/json", []byte(`{"since":"2001-01-01T00:00:00Z"}`), 409), &problem); err != nil || problem["code"] != "replay_id_taken" {
			t.Errorf("another request under the same key: %v, %v", problem, err)
		}
		<-time.After(time.Minute)
		got := sink.numbers("/down")
		for i, n := range got {
			if n != -(i + 1) {
				t.Fatalf("arrival %d is %d", i, n)
			}
		}
		if len(got) != 2000 {
			t.Errorf("%d arrived", len(got))
		}
		m.headers = map[string]string{"Accept": "application/x-ndjson"}
		export := m.call("GET", "/v1/workspaces/acme/dead-letters", "", nil, 200)
		if n := bytes.Count(export, []byte{'\n'}); n != 2000 {
			t.Errorf("%d lines were exported", n)
		}
		m.shutdown()
		sink.close()
	})
}
