package main

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/staffetta-relay/staffetta/receiver"
)

// outageOfCRM is how a CRM behaves for the first ten minutes, and by when it must have everything.
type outageOfCRM struct {
	name    string
	refuses bool
	answer  func(crmArrival) crmAnswer
	by      time.Duration
	check   func(*testing.T, *crm)
}

const crmIsBack = 10 * time.Minute

var outagesOfCRM = []outageOfCRM{
	{
		// It is probed every 30 seconds at the most; the first answer frees all the others.
		name: "that is down", refuses: true, by: crmIsBack + 30*time.Second,
		check: func(t *testing.T, c *crm) {
			// Probes alone: 5 failures, then one event at a time after 1, 2, 4, 8, 16 and 30 s again and again.
			if n := len(c.refusals()); n < 20 || n > 50 {
				t.Errorf("a CRM that is down was called %d times in ten minutes", n)
			}
		},
	},
	{
		// What a 500 says may be about the event: each waits for its own time, 5 minutes at the most.
		name: "that answers 500", answer: func(crmArrival) crmAnswer { return crmAnswer{status: 500} },
		by: crmIsBack + 5*time.Minute,
	},
	{
		name: "that asks for pauses", answer: func(crmArrival) crmAnswer { return crmAnswer{status: 429, retryAfter: "120"} },
		by: crmIsBack + 2*time.Minute + 30*time.Second, check: checkPauses,
	},
	{
		name: "that cuts connections", answer: func(crmArrival) crmAnswer { return crmAnswer{reset: true} },
		by: crmIsBack + 30*time.Second,
	},
	{
		// Eight at a time, three seconds each, beside one another: 300 events take two minutes.
		name: "that is slow", answer: func(crmArrival) crmAnswer { return crmAnswer{status: 200, after: 3 * time.Second} },
		by: crmIsBack + 3*time.Second,
		check: func(t *testing.T, c *crm) {
			if n := len(c.all()); n != 300 {
				t.Errorf("%d attempts of 300 webhooks", n)
			}
			if n := c.most.Load(); n != 8 {
				t.Errorf("%d at a time, want 8", n)
			}
		},
	},
}

// checkPauses fails the test where an attempt falls inside a pause that the CRM asked for. Those that
// were under way at that moment had begun before.
func checkPauses(t *testing.T, c *crm) {
	t.Helper()
	all := c.all()
	for i, a := range all {
		atOnce := 0
		for _, b := range all[i:] {
			if a.answer.retryAfter == "" {
				continue
			}
			if b.at > a.ended && b.at < a.ended+120*time.Second {
				t.Errorf("%v inside the pause that was asked for at %v", b, a.ended)
			}
			if b.at == a.at {
				atOnce++
			}
		}
		if atOnce > 8 {
			t.Errorf("%d attempts at %v, where 8 may run", atOnce, a.at)
		}
	}
}

func TestReceiverTakesEverythingWhileTheCRMIsInTrouble(t *testing.T) {
	for _, o := range outagesOfCRM {
		t.Run("a CRM "+o.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { o.run(t) })
		})
	}
}

// run sends 300 webhooks of 20 contacts within the ten minutes, a third of them at once.
func (o *outageOfCRM) run(t *testing.T) {
	c := newCRM(func(a crmArrival) crmAnswer {
		if o.answer == nil || a.at >= crmIsBack {
			return crmAnswer{status: 200}
		}
		return o.answer(a)
	})
	c.refuses = func(at time.Duration) bool { return o.refuses && at < crmIsBack }
	m := receiveInMemory(t, t.TempDir(), []receiver.Source{c.source()})
	c.start = time.Now()
	var sent []hook
	for i := range 300 {
		if i >= 100 {
			c.passTo(time.Duration(i-100) * 2900 * time.Millisecond)
		}
		h := hook{i % 20, i / 20}
		m.send(h)
		sent = append(sent, h)
	}
	if m.slowest > 50*time.Millisecond {
		t.Errorf("a webhook was answered after %v", m.slowest)
	}
	c.passTo(crmIsBack - time.Second)
	want := "down"
	switch answer := o.answer; {
	case answer == nil:
	case answer(crmArrival{}).after > 0: // it has what came by now
		want = "idle"
	case answer(crmArrival{}).status == 500: // it is there
		want = "waiting"
	}
	if status := m.items("/v1/targets")[0]["status"]; status != want {
		t.Errorf("the target in trouble is shown as %v, want %s", status, want)
	}
	c.passTo(o.by)
	checkHandedOver(t, c.all(), sent)
	if letters := m.items("/v1/dead-letters"); len(letters) > 0 {
		t.Errorf("%d dead letters: %v", len(letters), letters[0])
	}
	if o.check != nil {
		o.check(t, c)
	}
	if at := m.items("/v1/targets")[0]; at["backlog"] != 0.0 || at["status"] != "idle" || at["delivered"] != 300.0 {
		t.Errorf("at the end the target is %v", at)
	}
	m.shutdown()
	c.close()
}

func TestReceiverHoldsBackOnlyThePoisonedContactUntilItsEventsGoToTheDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		repaired := 24*time.Hour + 10*time.Minute
		poison := hook{666, 1}
		c := newCRM(func(a crmArrival) crmAnswer {
			if a.contact == 666 && a.at < repaired {
				return crmAnswer{status: 400}
			}
			return crmAnswer{status: 200}
		})
		m := receiveInMemory(t, t.TempDir(), []receiver.Source{c.source()})
		c.start = time.Now()
		m.send(poison, hook{666, 2})
		for i := range 24 { // the others never wait
			c.passTo(time.Duration(i) * time.Hour)
			at := time.Since(c.start)
			m.send(hook{1, i}, hook{2, i})
			synctest.Wait()
			for _, h := range []hook{{1, i}, {2, i}} {
				if got := c.of(h); len(got) != 1 || got[0].at != at {
					t.Fatalf("%s, sent at %v, came as %v", h.id(), at, got)
				}
			}
		}
		if letters := m.items("/v1/dead-letters"); len(letters) > 0 {
			t.Fatalf("dead letters before 24 hours: %v", letters)
		}
		c.passTo(24*time.Hour + 5*time.Minute)
		letters := m.items("/v1/dead-letters")
		if len(letters) != 1 {
			t.Fatalf("%d dead letters after 24 hours, want 1", len(letters))
		}
		letter, attempts := letters[0], c.of(poison)
		payload, _ := letter["payload"].(map[string]any)
		if letter["event_id"] != poison.id() || letter["endpoint"] != "hooks-crm.http" || letter["status"] != 400.0 ||
			letter["attempts"] != float64(len(attempts)) || payload["n"] != 1.0 {
			t.Errorf("after %d attempts the dead letter is %v", len(attempts), letter)
		}
		if last := attempts[len(attempts)-1].at; last < 24*time.Hour {
			t.Errorf("it was given up after %v", last)
		}
		checkAttemptsListed(t, m, poison, attempts)
		checkBackoff(t, attempts)

		c.passTo(repaired + 5*time.Minute)
		if got := c.of(hook{666, 2}); !got[len(got)-1].taken() || got[len(got)-1].replay {
			t.Errorf("the event behind the poisoned one came as %v", got[len(got)-1])
		}
		answer := m.ask("POST", "/v1/replays", `{"endpoint":"hooks-crm.http"}`, 202)
		if answer["replayed"] != 1.0 {
			t.Errorf("the replay: %v", answer)
		}
		synctest.Wait()
		if got := c.of(poison); len(got) != len(attempts)+1 || !got[len(attempts)].taken() || !got[len(attempts)].replay || got[len(attempts)].id != poison.id() {
			t.Errorf("the replayed event came as %v", got[len(attempts):])
		}
		m.shutdown()
		c.close()
	})
}

// checkAttemptsListed holds GET /v1/attempts against what the CRM saw.
func checkAttemptsListed(t *testing.T, m *memoryReceiver, h hook, seen []crmArrival) {
	t.Helper()
	<-time.After(2 * time.Second) // the log is written in blocks
	synctest.Wait()
	var listed []map[string]any
	path := "/v1/attempts?limit=100&event_id=" + h.id()
	for next := path; next != ""; {
		page := m.ask("GET", next, "", 200)
		for _, item := range page["items"].([]any) {
			listed = append(listed, item.(map[string]any))
		}
		next = ""
		if cursor, ok := page["next_cursor"].(string); ok && cursor != "" {
			next = path + "&cursor=" + cursor
		}
	}
	if len(listed) != len(seen) {
		t.Fatalf("%d attempts are listed of %d", len(listed), len(seen))
	}
	for i, item := range listed { // newest first
		a, outcome := seen[len(seen)-1-i], "retry"
		if i == 0 {
			outcome = "dropped"
		}
		if item["attempt"] != float64(a.attempt) || item["outcome"] != outcome || item["status"] != 400.0 || item["endpoint"] != "hooks-crm.http" {
			t.Fatalf("%v is listed as %v", a, item)
		}
	}
}

// checkBackoff holds the attempts against 1, 2, 4 s and so on up to 5 minutes, without jitter.
func checkBackoff(t *testing.T, attempts []crmArrival) {
	t.Helper()
	var want time.Duration
	gap := time.Second
	for i, a := range attempts {
		if a.at != want || a.attempt != i+1 {
			t.Fatalf("attempt %d is %v, want it at %v", i+1, a, want)
		}
		want += gap
		gap = min(2*gap, 5*time.Minute)
	}
}

func TestReceiverHandsOverOneAtATimeWhereTheOrderIsStrict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCRM(func(a crmArrival) crmAnswer {
			if a.contact == 3 && a.at < time.Minute {
				return crmAnswer{status: 500}
			}
			return crmAnswer{status: 200, after: time.Second}
		})
		m := receiveInMemory(t, t.TempDir(), []receiver.Source{c.source(func(s *receiver.Source) { s.Order = receiver.OrderStrict })})
		c.start = time.Now()
		var sent []string
		for i := range 10 {
			m.send(hook{i, 1})
			sent = append(sent, hook{i, 1}.id())
		}
		c.passTo(time.Minute)
		if n := len(c.of(hook{4, 1})); n > 0 {
			t.Errorf("the event behind the one that fails was tried %d times", n)
		}
		c.passTo(10 * time.Minute)
		var taken []string
		for _, a := range c.all() {
			if a.taken() {
				taken = append(taken, a.id)
			}
		}
		if fmt.Sprint(taken) != fmt.Sprint(sent) {
			t.Errorf("taken: %v", taken)
		}
		if n := c.most.Load(); n != 1 {
			t.Errorf("%d at a time", n)
		}
		m.shutdown()
		c.close()
	})
}

func TestReceiverLetsNoTargetHoldBackAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down, up := newCRM(takesAll), newCRM(takesAll)
		down.refuses = func(at time.Duration) bool { return at < time.Hour }
		source := up.source(func(s *receiver.Source) { s.To = append(s.To, down.target()) })
		m := receiveInMemory(t, t.TempDir(), []receiver.Source{source})
		up.start, down.start = time.Now(), time.Now()
		var sent []hook
		for i := range 60 {
			up.passTo(time.Duration(i) * time.Minute)
			h := hook{i % 3, i}
			m.send(h)
			sent = append(sent, h)
			synctest.Wait()
			if got := up.of(h); len(got) != 1 || got[0].at != time.Duration(i)*time.Minute {
				t.Fatalf("%s came to the target that is up as %v", h.id(), got)
			}
		}
		up.passTo(time.Hour + 5*time.Minute) // three contacts wait, each for 5 minutes at the most
		checkHandedOver(t, up.all(), sent)
		checkHandedOver(t, down.all(), sent)
		m.shutdown()
		up.close()
		down.close()
	})
}
