package main

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// withoutQuota is for tests in which an endpoint fails for long.
func withoutQuota(c *relaySettings) { c.policy.Quota.Failures = 0 }

// oneAttempt makes every failure a drop, so that each posted event is one failure at that moment.
func oneAttempt(c *relaySettings) { c.policy.Retry = nil }

func (m *memoryRelay) state(id string) map[string]any {
	m.t.Helper()
	return m.callJSON("GET", "/v1/workspaces/acme/endpoints/"+id, "", 200)
}

// wantStatus checks whether an endpoint is enabled, or disabled by the quota.
func (m *memoryRelay) wantStatus(what, id, want string) {
	m.t.Helper()
	state := m.state(id)
	if state["status"] != want || want == "disabled" && state["disabled_reason"] != "quota" {
		m.t.Errorf("%s: the endpoint is %v, want %s: %v", what, state["status"], want, state)
	}
}

func (m *memoryRelay) enable(id string) {
	m.t.Helper()
	m.callJSON("POST", "/v1/workspaces/acme/endpoints/"+id+"/enable", "", 200)
}

// events lists the numbers of the events that arrived, once each.
func events(arrivals []arrival) []int {
	var numbers []int
	for _, a := range arrivals {
		numbers = append(numbers, a.n)
	}
	return slices.Compact(numbers)
}

func numbersFrom(from, to int) []int {
	var numbers []int
	for n := from; n <= to; n++ {
		numbers = append(numbers, n)
	}
	return numbers
}

// Two endpoints fail by the schedule of 30, 60 and 90 seconds, the second five seconds after the first.
// Their 31st failure is the first one's at 720 s.
func TestThe31stFailureOfTwoEndpointsDisablesTheOneThatMadeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newMemorySink(func(a arrival) int {
			if a.path == "/up" {
				return 200
			}
			return 500
		})
		m := startInMemory(t, t.TempDir(), sink)
		first, up := m.endpoint("acme", "/first"), m.endpoint("acme", "/up")
		sink.start = time.Now()
		m.post("acme", 1, 1)
		sink.passTo(5 * time.Second)
		second := m.endpoint("acme", "/second")
		m.post("acme", 2, 20)

		sink.passTo(719 * time.Second)
		m.wantStatus("after 30 failures", first, "enabled")
		m.wantStatus("after 30 failures", second, "enabled")
		if n := len(sink.at("/first")) + len(sink.at("/second")); n != 30 {
			t.Fatalf("%d attempts failed by then, want 30", n)
		}
		sink.passTo(721 * time.Second)
		m.wantStatus("the 31st", first, "disabled")
		m.wantStatus("before its own failure", second, "enabled")
		sink.passTo(726 * time.Second)
		m.wantStatus("the 32nd", second, "disabled")
		sink.passTo(time.Hour)
		if n := len(sink.at("/first")); n != 16 {
			t.Errorf("the first endpoint got %d attempts, want 16: none after it was disabled", n)
		}
		m.wantStatus("the healthy endpoint", up, "enabled")
		if got := events(sink.at("/up")); !slices.Equal(got, numbersFrom(1, 20)) {
			t.Errorf("the healthy endpoint got %v", got)
		}
		m.shutdown()
		sink.close()
	})
}

func TestFailuresCountFor30MinutesToTheSecond(t *testing.T) {
	for name, test := range map[string]struct {
		last    time.Duration // when the 31st fails
		restart bool          // in between
		want    string
	}{
		"a second before":                  {30*time.Minute - time.Second, false, "disabled"},
		"at 30 minutes":                    {30 * time.Minute, false, "enabled"},
		"a second before, after a restart": {30*time.Minute - time.Second, true, "disabled"},
		"at 30 minutes, after a restart":   {30 * time.Minute, true, "enabled"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := newMemorySink(func(arrival) int { return 500 })
				dir := t.TempDir()
				m := startInMemory(t, dir, sink, oneAttempt)
				id := m.endpoint("acme", "/down")
				sink.start = time.Now()
				m.post("acme", 1, 30)
				if test.restart {
					sink.passTo(20 * time.Minute)
					m.shutdown()
					m = startInMemory(t, dir, sink, oneAttempt)
				}
				sink.passTo(test.last)
				m.wantStatus("after 30", id, "enabled")
				m.post("acme", 31, 31)
				sink.passTo(test.last + 100*time.Millisecond)
				m.wantStatus("after one more", id, test.want)
				m.shutdown()
				sink.close()
			})
		})
	}
}

func TestARestartForgetsNoFailure(t *testing.T) {
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprintf("kill %v", kill), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := newMemorySink(func(arrival) int { return 500 })
				dir, ids := t.TempDir(), map[string]string{}
				m := startInMemory(t, dir, sink, oneAttempt)
				for _, path := range []string{"/one", "/two"} {
					ids[path] = m.endpoint("acme", path)
				}
				sink.start = time.Now()
				m.post("acme", 1, 15) // 15 failures of each
				sink.passTo(10 * time.Minute)
				if kill {
					dir = copyStore(t, dir)
				}
				m.shutdown()
				sink.passTo(20 * time.Minute)
				m = startInMemory(t, dir, sink, oneAttempt)
				if state := m.state(ids["/one"]); state["failures_in_window"] != 15.0 || state["workspace_failures_in_window"] != 30.0 {
					t.Errorf("after the restart: %v", state)
				}
				m.wantStatus("after the restart", ids["/one"], "enabled")
				m.post("acme", 16, 16)
				sink.passTo(20*time.Minute + time.Second)
				m.wantStatus("the 31st or 32nd", ids["/one"], "disabled")
				m.wantStatus("the 31st or 32nd", ids["/two"], "disabled")
				m.shutdown()
				sink.close()
			})
		})
	}
}

func TestAKillAtTheMomentOfTheDisablingLeavesOneAttemptAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var kill sync.Once
		var copied string
		sink := newMemorySink(func(a arrival) int {
			if a.n == 32 {
				kill.Do(func() { t.Error("the 32nd event was tried before the kill") })
			}
			return 500
		})
		m := startInMemory(t, dir, sink, oneAttempt)
		id := m.endpoint("acme", "/down")
		sink.start = time.Now()
		m.post("acme", 1, 30)
		sink.passTo(time.Minute)
		m.post("acme", 31, 40)
		<-time.After(10 * time.Millisecond) // what the log may take to store a failure
		kill.Do(func() { copied = copyStore(t, dir) })
		m.shutdown()
		m = startInMemory(t, copied, sink, oneAttempt)
		sink.passTo(2 * time.Minute)
		m.wantStatus("after the kill", id, "disabled")
		if n := len(sink.at("/down")); n < 31 || n > 32 {
			t.Errorf("%d attempts were made, want the 31 and perhaps one after the kill", n)
		}
		m.shutdown()
		sink.close()
	})
}

func TestHeldEventsComeInOrderOnceTheEndpointIsEnabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := true
		sink := newMemorySink(func(a arrival) int {
			if broken && a.path == "/flaky" {
				return 503
			}
			return 200
		})
		m := startInMemory(t, t.TempDir(), sink)
		id := m.endpoint("acme", "/flaky")
		m.callJSON("PUT", "/v1/workspaces/acme", `{"quota":2}`, 200)
		sink.start = time.Now()
		m.post("acme", 1, 5)
		sink.passTo(2 * time.Minute)
		m.wantStatus("after three failures", id, "disabled")
		m.post("acme", 6, 50)
		sink.passTo(time.Hour)
		state := m.state(id)
		if state["backlog"] != 50.0 || state["waits_for"] != "enable" || state["next_attempt_at"] != nil || state["oldest_at"] == nil ||
			state["last_error"] != "status 503" || state["failures_in_window"] != 0.0 {
			t.Errorf("the disabled endpoint is at %v", state)
		}
		broken = false
		m.enable(id)
		sink.passTo(time.Hour + time.Second)
		if got := events(sink.at("/flaky")); !slices.Equal(got, numbersFrom(1, 50)) {
			t.Errorf("the endpoint got %v, want 1 to 50 in order", got)
		}
		m.wantStatus("after all", id, "enabled")
		if state := m.state(id); state["backlog"] != 0.0 || state["last_success_at"] == nil || state["waits_for"] != nil || state["last_error"] != nil {
			t.Errorf("after all: %v", state)
		}
		m.shutdown()
		sink.close()
	})
}

func TestAnEndpointThatIsEnabledWhileTheWindowIsOverIsDisabledByItsNextFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newMemorySink(func(arrival) int { return 500 })
		m := startInMemory(t, t.TempDir(), sink, oneAttempt)
		id := m.endpoint("acme", "/down")
		sink.start = time.Now()
		m.post("acme", 1, 32)
		sink.passTo(time.Minute)
		m.wantStatus("after 31", id, "disabled")
		m.enable(id)
		sink.passTo(2 * time.Minute)
		m.wantStatus("after the 32nd, that was held", id, "disabled")
		sink.passTo(31 * time.Minute) // the 31 of the first second have expired
		m.enable(id)
		m.post("acme", 33, 40)
		sink.passTo(40 * time.Minute)
		m.wantStatus("with a window that time has emptied", id, "enabled")
		if got := events(sink.at("/down")); !slices.Equal(got, numbersFrom(1, 40)) {
			t.Errorf("the endpoint got %v", got)
		}
		m.shutdown()
		sink.close()
	})
}

func TestTheQuotasScopeAndNumberAreTheWorkspaces(t *testing.T) {
	for name, test := range map[string]struct {
		settings string
		of20     int // how many of two endpoints are disabled once each has failed 20 times
		of31     int // and once each has failed 31 times
	}{
		"shared":             {`{}`, 2, 2},
		"of each endpoint":   {`{"quota_scope":"endpoint"}`, 0, 2},
		"never":              {`{"quota":0}`, 0, 0},
		"as many as failed":  {`{"quota":40}`, 0, 2},
		"one less":           {`{"quota":39}`, 1, 2},
		"for each, but more": {`{"quota_scope":"endpoint","quota":31}`, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := newMemorySink(func(arrival) int { return 500 })
				m := startInMemory(t, t.TempDir(), sink, oneAttempt)
				ids := []string{m.endpoint("acme", "/one"), m.endpoint("acme", "/two")}
				m.callJSON("PUT", "/v1/workspaces/acme", test.settings, 200)
				disabled := func() (n int) {
					for _, id := range ids {
						if m.state(id)["status"] == "disabled" {
							n++
						}
					}
					return n
				}
				sink.start = time.Now()
				for n := 1; n <= 20; n++ { // in step, so that both fail by turns
					m.post("acme", n, n)
					synctest.Wait()
				}
				sink.passTo(time.Second)
				if got := disabled(); got != test.of20 {
					t.Errorf("%d endpoints are disabled after 20 failures each, want %d", got, test.of20)
				}
				m.post("acme", 21, 31)
				sink.passTo(2 * time.Second)
				if got := disabled(); got != test.of31 {
					t.Errorf("%d endpoints are disabled after 31 failures each, want %d", got, test.of31)
				}
				m.shutdown()
				sink.close()
			})
		})
	}
}

func TestWhatIsHeldBeyondItsBoundsIsADeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newMemorySink(func(arrival) int { return 200 })
		m := startInMemory(t, t.TempDir(), sink, func(c *relaySettings) { c.holdMaxEvents, c.holdMaxAge = 10, time.Hour })
		id := m.endpoint("acme", "/held")
		m.call("POST", "/v1/workspaces/acme/endpoints/"+id+"/disable", "", nil, 200)
		sink.start = time.Now()
		m.post("acme", 1, 30)
		sink.passTo(30 * time.Minute)
		if state := m.state(id); state["backlog"] != 10.0 {
			t.Errorf("of 30 events %v are held, want 10", state["backlog"])
		}
		m.post("acme", 31, 33)
		sink.passTo(61 * time.Minute) // those of the first minute are too old
		if state := m.state(id); state["backlog"] != 3.0 {
			t.Errorf("after an hour %v are held, want 3", state["backlog"])
		}
		m.enable(id)
		sink.passTo(61*time.Minute + time.Second)
		if got := events(sink.at("/held")); !slices.Equal(got, []int{31, 32, 33}) {
			t.Errorf("the endpoint got %v, want the three that were still held", got)
		}
		m.shutdown()
		sink.close()
	})
}

func TestAnEndpointThatRequiresATestIsEnabledOnlyAfterOneThatWasAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status := 500
		sink := newMemorySink(func(arrival) int { return status })
		m := startInMemory(t, t.TempDir(), sink, oneAttempt)
		id := m.endpoint("acme", "/down")
		path := "/v1/workspaces/acme/endpoints/" + id
		m.callJSON("PATCH", path, `{"enable_requires_test":true}`, 200)
		m.callJSON("PUT", "/v1/workspaces/acme", `{"quota":1}`, 200)
		sink.start = time.Now()
		m.post("acme", 1, 3)
		sink.passTo(time.Second)
		m.wantStatus("after the second failure", id, "disabled")
		if answer := m.callJSON("POST", path+"/enable", "", 409); answer["code"] != "test_required" {
			t.Errorf("enabling at once is answered with %v", answer)
		}
		m.callJSON("POST", path+"/test", "", 200) // which fails
		m.callJSON("POST", path+"/enable", "", 409)
		status = 200
		m.callJSON("POST", path+"/test", "", 200)
		if state := m.state(id); state["tested_at"] == nil || state["failures_in_window"] != 2.0 {
			t.Errorf("after the test: %v", state)
		}
		m.enable(id)
		sink.passTo(2 * time.Second)
		m.wantStatus("after the test", id, "enabled")
		m.call("POST", path+"/disable", "", nil, 200)
		m.callJSON("POST", path+"/enable", "", 409) // the test was of before
		m.callJSON("POST", path+"/test", "", 200)
		m.callJSON("PATCH", path, `{"url":"http://sink.example/elsewhere"}`, 200)
		m.callJSON("POST", path+"/enable", "", 409) // and that one of another URL
		m.shutdown()
		sink.close()
	})
}
