package relay

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/staffetta-relay/staffetta"
)

func TestAnOutageOfTheMailServerLosesNoMailAndSendsNoneTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNoticesTest(t, t.TempDir())
		m := startMailServer(t, func(m *mailServer) { m.down = true })
		n.workspace("acme", "en", "a@acme.example", "b@acme.example")
		notices, stop := n.start(m.config(mailURL))
		for i := range 20 {
			notices.Warning("acme", "ep_1", 50, 15+i, 30)
		}
		pass(3 * time.Hour)
		if s := notices.Stats(); s.Queued != 40 || s.Sent != 0 || s.GivenUp != 0 {
			t.Errorf("during the outage: %+v", s)
		}
		m.set(func(m *mailServer) { m.down = false })
		pass(6 * time.Minute)
		stop()
		seen := map[string]int{}
		for _, r := range m.received() {
			seen[r.to+readReceived(t, r).subject]++
		}
		if len(seen) != 40 || len(m.received()) != 40 {
			t.Errorf("%d mails, %d of them different; want 40", len(m.received()), len(seen))
		}
		if s := notices.Stats(); s.Queued != 0 || s.Sent != 40 {
			t.Errorf("after it: %+v", s)
		}
	})
}

func TestTriesAreOneSecondToFiveMinutesApartAndEndAfterADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNoticesTest(t, t.TempDir())
		m := startMailServer(t, func(m *mailServer) { m.down = true })
		n.workspace("acme", "en", "ops@acme.example")
		notices, stop := n.start(m.config(mailURL))
		notices.Warning("acme", "ep_1", 50, 15, 30)
		pass(23 * time.Hour)
		if s := notices.Stats(); s.GivenUp != 0 || s.Queued != 1 {
			t.Errorf("after 23 hours: %+v", s)
		}
		pass(time.Hour + 6*time.Minute)
		stop()
		if s := notices.Stats(); s.GivenUp != 1 || s.Queued != 0 || s.Sent != 0 {
			t.Errorf("after a day: %+v", s)
		}
		for i := 1; i < len(m.dials); i++ {
			gap, most := m.dials[i].Sub(m.dials[i-1]), 5*time.Minute
			if i < 10 {
				most = time.Second << (i - 1)
			}
			if gap > most || gap < max(most*3/4, time.Second) {
				t.Errorf("gap %d is %v, want at most %v and at least three quarters of it", i, gap, most)
			}
		}
		if len(m.dials) < 24*12 {
			t.Errorf("only %d tries in a day", len(m.dials))
		}
		info, err := n.js.Stream(t.Context(), staffetta.NoticeStream)
		if err != nil || info.CachedInfo().State.Msgs != 0 {
			t.Errorf("the store still has %d notices, %v", info.CachedInfo().State.Msgs, err)
		}
	})
}

func TestOneBadAddressHoldsBackNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNoticesTest(t, t.TempDir())
		full := true
		m := startMailServer(t, func(m *mailServer) {
			m.rcpt = func(to string) error {
				switch {
				case strings.HasPrefix(to, "nobody@"):
					return &smtp.SMTPError{Code: 550, Message: "no such user"}
				case strings.HasPrefix(to, "full@") && full:
					return &smtp.SMTPError{Code: 452, Message: "mailbox full"}
				}
				return nil
			}
		})
		n.workspace("acme", "en", "nobody@acme.example", "a..b@acme.example", "full@acme.example", "ops@acme.example")
		notices, stop := n.start(m.config(mailURL))
		notices.Warning("acme", "ep_1", 50, 15, 30)
		pass(time.Minute)
		if s := notices.Stats(); s.Sent != 1 || s.GivenUp != 2 || s.Queued != 1 {
			t.Errorf("with a full mailbox: %+v", s)
		}
		m.set(func(*mailServer) { full = false })
		pass(5 * time.Minute)
		stop()
		if got := m.received(); len(got) != 2 || got[0].to != "ops@acme.example" || got[1].to != "full@acme.example" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestAStoreThatRefusesForAWhileGetsEverythingOnceItTakesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, m := newNoticesTest(t, t.TempDir()), startMailServer(t)
		n.workspace("acme", "en", "ops@acme.example")
		config := streamConfig(t, n.js, staffetta.NoticeStream)
		limited := config
		limited.MaxMsgSize = 1
		if _, err := n.js.UpdateStream(t.Context(), limited); err != nil {
			t.Fatal(err)
		}
		notices, stop := n.start(m.config(mailURL), func(c *NoticesConfig) { c.StopWait = time.Minute })
		notices.Warning("acme", "ep_1", 50, 15, 30)
		notices.Dropped("acme", "ep_1", "event", "message.received", "timeout")
		pass(10 * time.Second)
		if _, err := n.js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Minute)
		stop()
		if s := notices.Stats(); s.Sent != 2 || s.Lost != 0 {
			t.Errorf("got %+v", s)
		}
	})
}

func streamConfig(t *testing.T, js jetstream.JetStream, name string) jetstream.StreamConfig {
	t.Helper()
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo().Config
}

func TestAMailThatIsUnderWayAtAStopIsSentOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		n := newNoticesTest(t, dir)
		m := startMailServer(t, func(m *mailServer) {
			m.data = func(string) error { <-time.After(3 * time.Second); return nil }
		})
		n.workspace("acme", "en", "a@acme.example", "b@acme.example", "c@acme.example")
		notices, stop := n.start(m.config(mailURL))
		notices.Warning("acme", "ep_1", 50, 15, 30)
		pass(4 * time.Second) // the second is under way
		stop()
		if s := notices.Stats(); s.Sent != 2 || s.Queued != 1 {
			t.Errorf("at the stop: %+v", s)
		}
		n.shutdown()
		n = newNoticesTest(t, dir)
		_, stop = n.start(m.config(mailURL))
		pass(time.Minute)
		stop()
		seen := map[string]int{}
		for _, r := range m.received() {
			seen[r.to]++
		}
		if len(seen) != 3 || len(m.received()) != 3 {
			t.Errorf("got %v, want one mail each", seen)
		}
	})
}
