package main

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/staffetta-relay/staffetta/receiver"
)

// endRun ends the receiver politely, or as a kill does: then the folder as it was goes on under
// another name, which is given.
func (m *memoryReceiver) endRun(dir string, kill bool) string {
	m.t.Helper()
	if kill {
		dir = copyStore(m.t, dir)
	}
	m.shutdown()
	return dir
}

// eachEnding runs a test in a bubble for a stop and for a kill.
func eachEnding(t *testing.T, f func(t *testing.T, kill bool)) {
	for _, kill := range []bool{false, true} {
		t.Run(map[bool]string{false: "after a stop", true: "after a kill"}[kill], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, kill) })
		})
	}
}

func TestReceiverThatIsRestartedInAWaitGoesOnAtTheRightSecond(t *testing.T) {
	eachEnding(t, func(t *testing.T, kill bool) {
		c := newCRM(func(a crmArrival) crmAnswer {
			if a.contact == 1 && a.at < 10*time.Minute {
				return crmAnswer{status: 500}
			}
			return crmAnswer{status: 200}
		})
		dir := t.TempDir()
		m := receiveInMemory(t, dir, []receiver.Source{c.source()})
		c.start = time.Now()
		m.send(hook{1, 1}, hook{1, 2}, hook{2, 1})
		c.passTo(40 * time.Second) // in the wait from 31 s to 63 s
		dir = m.endRun(dir, kill)
		c.passTo(50 * time.Second)
		m = receiveInMemory(t, dir, []receiver.Source{c.source()})
		m.send(hook{2, 2})
		c.passTo(100 * time.Second) // in the wait from 63 s to 127 s
		dir = m.endRun(dir, kill)
		c.passTo(200 * time.Second)
		m = receiveInMemory(t, dir, []receiver.Source{c.source()})
		c.passTo(300 * time.Second)

		var at []time.Duration
		for i, a := range c.of(hook{1, 1}) {
			at = append(at, a.at)
			if a.attempt != i+1 {
				t.Errorf("attempt %d at %v says that it is number %d", i+1, a.at, a.attempt)
			}
		}
		if want := "[0s 1s 3s 7s 15s 31s 1m3s 3m20s]"; fmt.Sprint(at) != want {
			t.Errorf("attempts at %v, want %s", at, want)
		}
		c.passTo(20 * time.Minute)
		checkHandedOver(t, c.all(), []hook{{1, 1}, {1, 2}, {2, 1}, {2, 2}})
		m.shutdown()
		c.close()
	})
}

func TestReceiverThatIsRestartedKeepsThePauseThatWasAskedFor(t *testing.T) {
	eachEnding(t, func(t *testing.T, kill bool) {
		c := newCRM(func(a crmArrival) crmAnswer {
			if a.at < time.Second {
				return crmAnswer{status: 429, retryAfter: "120"}
			}
			return crmAnswer{status: 200}
		})
		dir := t.TempDir()
		m := receiveInMemory(t, dir, []receiver.Source{c.source()})
		c.start = time.Now()
		m.send(hook{1, 1})
		c.passTo(10 * time.Second)
		dir = m.endRun(dir, kill)
		m = receiveInMemory(t, dir, []receiver.Source{c.source()})
		m.send(hook{2, 1})
		c.passTo(119 * time.Second)
		if n := len(c.all()); n != 1 {
			t.Errorf("%d attempts before the pause was over", n)
		}
		c.passTo(121 * time.Second)
		checkHandedOver(t, c.all(), []hook{{1, 1}, {2, 1}})
		m.shutdown()
		c.close()
	})
}

func TestReceiverHandsADuplicateOverOnceWithinADay(t *testing.T) {
	eachEnding(t, func(t *testing.T, kill bool) {
		c := newCRM(func(a crmArrival) crmAnswer {
			if a.contact == 4 && a.at < 2*time.Second {
				return crmAnswer{status: 500}
			}
			return crmAnswer{status: 200}
		})
		dir := t.TempDir()
		m := receiveInMemory(t, dir, []receiver.Source{c.source()})
		c.start = time.Now()
		// By the payload's event_id, by the header webhook-id, by the body.
		withID, byHeader, bare := hook{1, 1}, `{"contact":{"id":2},"n":1}`, `{"contact":{"id":3},"n":1}`
		posts := func() {
			t.Helper()
			m.send(withID)
			for _, body := range []string{byHeader, bare} {
				headers := []string{"X-Webhook-Signature", respondIOSignature(t, testHookKey, body)}
				if body == byHeader {
					headers = append(headers, "webhook-id", "msg_1")
				}
				if status, _, _ := call(t, m.hooks, "POST", "/hooks/crm", body, headers...); status != 200 {
					t.Errorf("%s was answered with %d", body, status)
				}
			}
			synctest.Wait()
		}
		posts()
		posts()
		c.passTo(time.Second)
		posts()
		m.send(hook{4, 1}) // its key is not on record yet when the run ends
		dir = m.endRun(dir, kill)
		m = receiveInMemory(t, dir, []receiver.Source{c.source()})
		m.send(hook{4, 1})
		posts()
		c.passTo(time.Minute)
		if !kill {
			c.passTo(24*time.Hour - time.Second)
		}
		m.send(hook{4, 1})
		posts()
		checkHandedOver(t, c.all(), []hook{{1, 1}, {2, 1}, {3, 1}, {4, 1}})
		if kill {
			m.shutdown()
			c.close()
			return
		}
		if ids := c.of(hook{2, 1}); ids[0].id != "msg_1" {
			t.Errorf("the event with a webhook-id came as %s", ids[0].id)
		}
		// A day later it is a new one.
		c.passTo(24*time.Hour + 5*time.Second)
		posts()
		if n := len(c.of(hook{1, 1})) + len(c.of(hook{2, 1})) + len(c.of(hook{3, 1})); n != 6 {
			t.Errorf("after a day the same three came %d times in all, want 6", n)
		}
		m.shutdown()
		c.close()
	})
}

func TestReceiverTellsADuplicateThatComesWhileTheFirstIsBeingStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCRM(takesAll)
		m := receiveInMemory(t, t.TempDir(), []receiver.Source{c.source()})
		done := make(chan int)
		for i := range 200 {
			go func() {
				h := hook{i % 4, 1}
				status, _, _ := call(t, m.hooks, "POST", "/hooks/crm", h.body(), "X-Webhook-Signature", respondIOSignature(t, testHookKey, h.body()))
				done <- status
			}()
		}
		for range 200 {
			if status := <-done; status != 200 {
				t.Errorf("status %d", status)
			}
		}
		synctest.Wait()
		checkHandedOver(t, c.all(), []hook{{0, 1}, {1, 1}, {2, 1}, {3, 1}})
		m.shutdown()
		c.close()
	})
}

func TestReceiverThatIsFullRefusesAndTakesAgainOnceTheCRMHasCaughtUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCRM(takesAll)
		c.refuses = func(at time.Duration) bool { return at < time.Hour }
		m := receiveInMemory(t, t.TempDir(), []receiver.Source{c.source()}, func(s *receiverSettings) { s.maxBytes = 16 << 20 })
		c.start = time.Now()
		filling := strings.Repeat("x", 100<<10)
		body := func(h hook) string { return strings.TrimSuffix(h.body(), "}") + `,"filling":"` + filling + `"}` }
		var sent []hook
		refused := hook{-1, 0}
		for i := 0; i < 400 && refused.contact < 0; i++ {
			h := hook{i % 10, i / 10}
			switch status, header := m.post("/hooks/crm", body(h)); {
			case status == 200:
				sent = append(sent, h)
			case status != 503 || string(header.Peek("Retry-After")) == "":
				t.Fatalf("the full receiver answers %d, Retry-After %q", status, header.Peek("Retry-After"))
			default:
				refused = h
			}
			synctest.Wait()
		}
		if n := len(sent); n < 80 || refused.contact < 0 {
			t.Fatalf("%d webhooks of 100 KiB fitted into 16 MiB", n)
		}
		for at := 5 * time.Minute; at < time.Hour; at += 5 * time.Minute { // the platform tries again
			c.passTo(at)
			if status, _ := m.post("/hooks/crm", body(refused)); status != 503 {
				t.Fatalf("at %v the full receiver answers %d", at, status)
			}
		}
		c.passTo(time.Hour + 6*time.Minute)
		if status, _ := m.post("/hooks/crm", body(refused)); status != 200 {
			t.Fatalf("six minutes after the CRM came back it answers %d", status)
		}
		sent = append(sent, refused)
		for n := range 300 { // three times what fits
			h := hook{20, n}
			if status, _ := m.post("/hooks/crm", body(h)); status != 200 {
				t.Fatalf("%s was answered with %d", h.id(), status)
			}
			sent = append(sent, h)
			<-time.After(time.Second)
		}
		synctest.Wait()
		checkHandedOver(t, c.all(), sent)
		if letters := m.items("/v1/dead-letters"); len(letters) > 0 {
			t.Errorf("dead letters: %v", letters)
		}
		m.hooks.CloseIdleConnections()
		m.admin.CloseIdleConnections()
		m.stop()
		if err := <-m.done; err != nil { // its log has errors: what it could not store
			t.Error(err)
		}
		c.close()
	})
}

func TestReceiverKeepsTheEventsOfASourceThatWasRemovedUntilItIsBack(t *testing.T) {
	eachEnding(t, func(t *testing.T, kill bool) {
		c := newCRM(takesAll)
		c.refuses = func(at time.Duration) bool { return at < time.Minute }
		dir := t.TempDir()
		kept := c.source(func(s *receiver.Source) { s.Path, s.Name = "/hooks/kept", "kept" })
		named := c.source(func(s *receiver.Source) { s.Name = "crm" })
		m := receiveInMemory(t, dir, []receiver.Source{named, kept})
		c.start = time.Now()
		m.send(hook{1, 1}, hook{1, 2}, hook{2, 1})
		c.passTo(30 * time.Second)
		dir = m.endRun(dir, kill)

		m = receiveInMemory(t, dir, []receiver.Source{kept}) // crm is gone
		c.passTo(time.Hour)
		if n := len(c.all()); n != 0 {
			t.Errorf("%d events of a source that is not configured were handed over", n)
		}
		if said := m.log.String(); !strings.Contains(said, `"source":"crm"`) || !strings.Contains(said, "not configured") {
			t.Errorf("no warning of the events that are left over:\n%s", said)
		}
		if status, _ := m.post("/hooks/crm", hook{1, 3}.body()); status != 404 {
			t.Errorf("the path of the removed source answers %d", status)
		}
		dir = m.endRun(dir, kill)

		// It is renamed: another source, whose events are its own.
		renamed := c.source(func(s *receiver.Source) { s.Name = "crm-2" })
		m = receiveInMemory(t, dir, []receiver.Source{renamed, kept})
		m.send(hook{3, 1})
		c.passTo(2 * time.Hour)
		checkHandedOver(t, c.all(), []hook{{3, 1}})
		if said := m.log.String(); !strings.Contains(said, `"source":"crm"`) {
			t.Errorf("no warning after a source was renamed:\n%s", said)
		}
		dir = m.endRun(dir, kill)

		// It is back, at another path.
		named.Path = "/hooks/moved"
		m = receiveInMemory(t, dir, []receiver.Source{named, kept})
		if said := m.log.String(); !strings.Contains(said, `"source":"crm-2"`) && strings.Contains(said, `"source":"crm"`) {
			t.Errorf("what is left over is said wrongly:\n%s", said)
		}
		c.passTo(2*time.Hour + 5*time.Minute)
		if status, _ := m.post("/hooks/moved", hook{1, 1}.body()); status != 200 { // a repeat
			t.Errorf("at its new path the source answers %d", status)
		}
		synctest.Wait()
		checkHandedOver(t, c.all(), []hook{{3, 1}, {1, 1}, {1, 2}, {2, 1}})
		m.shutdown()
		c.close()
	})
}

func TestReceiverGivesANewTargetWhatComesAfterItWasAdded(t *testing.T) {
	eachEnding(t, func(t *testing.T, kill bool) {
		first, second := newCRM(takesAll), newCRM(takesAll)
		dir := t.TempDir()
		m := receiveInMemory(t, dir, []receiver.Source{first.source()})
		m.send(hook{1, 1}, hook{1, 2})
		<-time.After(time.Second)
		dir = m.endRun(dir, kill)
		both := first.source(func(s *receiver.Source) { s.To = append(s.To, second.target()) })
		m = receiveInMemory(t, dir, []receiver.Source{both})
		m.send(hook{1, 3}, hook{2, 1})
		<-time.After(time.Second)
		dir = m.endRun(dir, kill)
		m = receiveInMemory(t, dir, []receiver.Source{both})
		m.send(hook{1, 4})
		<-time.After(time.Second)
		synctest.Wait()
		checkHandedOver(t, first.all(), []hook{{1, 1}, {1, 2}, {1, 3}, {2, 1}, {1, 4}})
		checkHandedOver(t, second.all(), []hook{{1, 3}, {2, 1}, {1, 4}})
		m.shutdown()
		first.close()
		second.close()
	})
}
