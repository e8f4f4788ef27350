package receiver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

var receivedAt = time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)

// entryOf makes an entry as a feed has it.
func entryOf(id, body string, change ...func(*Request)) *sender.Entry {
	r := &Request{
		EventID: id, ReceivedAt: receivedAt, Method: "POST", URI: "/hooks/respond?a=1", Host: "hooks.example.com",
		Remote: "203.0.113.7", TLS: true, Body: []byte(body),
		Header: []HeaderField{{"Content-Type", "application/json"}, {"User-Agent", "respond.io"}},
	}
	for _, f := range change {
		f(r)
	}
	e := &sender.Entry{Data: appendRequest(nil, r)}
	e.Event = staffetta.Event{ID: id, Type: "message.received", Payload: r.Body, Replay: r.Replay}
	return e
}

// entriesOf are n entries with the ids prefix-0, prefix-1 and so on.
func entriesOf(prefix string, n int) []*sender.Entry {
	entries := make([]*sender.Entry, n)
	for i := range entries {
		id := fmt.Sprintf("%s-%d", prefix, i)
		entries[i] = entryOf(id, fmt.Sprintf(`{"contact":{"id":%d},"event_id":%q}`, i%7, id))
	}
	return entries
}

func opened(t testing.TB, target interface{ open() (handler, error) }) handler {
	t.Helper()
	h, err := target.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	return h
}

// expect fails unless accepted events were taken and what came then is of a kind.
func expect(t testing.TB, h sender.Handed, accepted int, kind staffetta.ErrorKind, permanent bool, detail string) {
	t.Helper()
	if h.Accepted != accepted || h.Outcome.Error != kind || h.Permanent != permanent || !strings.Contains(h.Outcome.Detail, detail) {
		t.Fatalf("accepted %d, outcome %v, permanent %v; want %d, %v: …%s…, %v",
			h.Accepted, h.Outcome, h.Permanent, accepted, kind, detail, permanent)
	}
}

func TestATargetThatCannotWorkIsRefusedByTheNameOfItsField(t *testing.T) {
	const secret = "hunter2"
	handle := func(context.Context, staffetta.Event) error { return nil }
	for _, c := range []struct {
		target interface{ validate() error }
		want   string // empty: fine
	}{
		{HTTPTarget{URL: "http://127.0.0.1:9000/"}, ""},
		{HTTPTarget{}, "http target: URL: is missing"},
		{HTTPTarget{URL: "http://user:" + secret + "@host/"}, "http target: URL: carries a user"},
		{HTTPTarget{URL: "http://host/", Concurrency: -1}, "http target: Concurrency"},
		{HTTPTarget{URL: "http://host/", Timeout: time.Millisecond}, "http target: Timeout: must be between 10ms and 1h"},
		{HTTPTarget{URL: "http://host/", Headers: map[string]string{"Authorization": "Bearer " + secret}}, ""},
		{HTTPTarget{URL: "http://host/", Headers: map[string]string{"Authorization": secret + "\r\nX: y"}}, "the value of Authorization"},
		{HTTPTarget{URL: "http://host/", Headers: map[string]string{"A b": secret}}, "no header name"},
		{HTTPTarget{URL: "http://host/", Headers: map[string]string{"content-length": "0"}}, "content-length is set by the receiver"},
		{PostgresTarget{DSN: "postgres://u:" + secret + "@host/db"}, ""},
		{PostgresTarget{DSN: "host=/run/postgresql dbname=crm", Table: `odd"name`}, ""},
		{PostgresTarget{}, "postgres target: DSN: is missing"},
		{PostgresTarget{DSN: "postgres://u:" + secret + "/" + secret + "@host:x/db"}, "postgres target: DSN: cannot be read"},
		{PostgresTarget{DSN: "postgres://u:" + secret + "@host/db?sslrootcert=/nowhere.pem&sslmode=verify-full"}, "/nowhere.pem: no such file"},
		{PostgresTarget{DSN: "postgres://host/db", Table: "a.b.c"}, "postgres target: Table"},
		{PostgresTarget{DSN: "postgres://host/db", Contact: "contact.id"}, "postgres target: Contact: must be a JSON pointer"},
		{NATSTarget{URL: "nats://" + secret + "@host:4222", Subject: "crm.events"}, ""},
		{NATSTarget{Subject: "crm.events"}, "nats target: URL: is missing"},
		{NATSTarget{URL: secret + "@host:4222", Subject: "crm.events"}, "nats target: URL: each server"},
		{NATSTarget{URL: "nats://host", Subject: "crm.>"}, "nats target: Subject"},
		{NATSTarget{URL: "nats://host", Subject: "crm.events", Credentials: "/nowhere.creds"}, "nats target: Credentials: the file cannot be read: no such file"},
		{FileTarget{Path: "events.jsonl"}, ""},
		{FileTarget{}, "file target: Path: is missing"},
		{FileTarget{Path: "x", MaxBytes: -1}, "file target: MaxBytes"},
		{FileTarget{Path: "x", Keep: -1}, "file target: Keep"},
		{HandleTarget{Handle: handle}, ""},
		{HandleTarget{}, "handle target: Handle: is missing"},
	} {
		err := c.target.validate()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%T: %v", c.target, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%T: %v; want …%s…", c.target, err, c.want)
		case err != nil && strings.Contains(err.Error(), secret):
			t.Errorf("%T: the error tells a secret: %v", c.target, err)
		}
	}
}

func TestADetailIsOneLineOfText(t *testing.T) {
	for in, want := range map[string]string{
		"  one\ntwo":                         "one",
		"tab\there\x00\x7f":                  "tab here  ",
		"bad \xff text":                      "bad ? text",
		strings.Repeat("è", maxDetail):       strings.Repeat("è", maxDetail/2),
		"x" + strings.Repeat("è", maxDetail): "x" + strings.Repeat("è", maxDetail/2-1),
	} {
		if got := firstLine(in); got != want {
			t.Errorf("%q: %q; want %q", in, got, want)
		}
	}
}

func TestAFunctionTakesEventsUntilOneFails(t *testing.T) {
	var seen []string
	h := opened(t, HandleTarget{Handle: func(_ context.Context, e staffetta.Event) error {
		seen = append(seen, e.ID)
		switch e.ID {
		case "a-2":
			return errors.New("the CRM is asleep\nwith a stack")
		case "b-1":
			return fmt.Errorf("save: %w", Permanent(errors.New("no such contact")))
		case "c-0":
			panic("index out of range\ngoroutine 1")
		}
		return nil
	}})
	expect(t, h.handOver(t.Context(), entriesOf("a", 4), 1), 2, staffetta.ErrorTarget, false, "the CRM is asleep")
	expect(t, h.handOver(t.Context(), entriesOf("b", 3), 1), 1, staffetta.ErrorTarget, true, "save: no such contact")
	expect(t, h.handOver(t.Context(), entriesOf("c", 1), 1), 0, staffetta.ErrorTarget, false, "panic: index out of range")
	expect(t, h.handOver(t.Context(), entriesOf("d", 3), 1), 3, staffetta.ErrorNone, false, "")
	if got := strings.Join(seen, " "); got != "a-0 a-1 a-2 b-0 b-1 c-0 d-0 d-1 d-2" {
		t.Errorf("seen: %s", got)
	}
	if Permanent(nil) != nil {
		t.Error("Permanent(nil) is an error")
	}
}

func TestAFunctionThatTakesTooLongTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := opened(t, HandleTarget{Handle: func(ctx context.Context, _ staffetta.Event) error {
			<-ctx.Done()
			return ctx.Err()
		}})
		start := time.Now()
		expect(t, h.handOver(t.Context(), entriesOf("a", 1), 1), 0, staffetta.ErrorTimeout, false, "")
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("took %v", took)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		expect(t, h.handOver(ctx, entriesOf("a", 1), 1), 0, staffetta.ErrorLocal, false, "cut off")
	})
}

func TestAFunctionMayKeepThePayload(t *testing.T) {
	var kept []byte
	h := opened(t, HandleTarget{Handle: func(_ context.Context, e staffetta.Event) error {
		kept = e.Payload
		return nil
	}})
	e := entryOf("a", `{"n":1}`)
	h.handOver(t.Context(), []*sender.Entry{e}, 1)
	clear(e.Event.Payload)
	if string(kept) != `{"n":1}` {
		t.Errorf("kept %q", kept)
	}
}

func TestADamagedRequestGoesToTheDeadLettersAtEveryTarget(t *testing.T) {
	broken := entryOf("b", "{}")
	broken.Data = broken.Data[:5]
	for _, target := range []interface{ open() (handler, error) }{
		HTTPTarget{URL: "http://127.0.0.1:1/"},
		PostgresTarget{DSN: "postgres://127.0.0.1:1/none"},
		FileTarget{Path: t.TempDir() + "/events.jsonl"},
	} {
		expect(t, opened(t, target).handOver(t.Context(), []*sender.Entry{broken}, 1), 0, staffetta.ErrorTarget, true, "damaged")
	}
}
