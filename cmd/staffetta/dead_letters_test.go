package main

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestDeadLettersAreListedShownExportedAndDeleted(t *testing.T) {
	s := startStation(t, quickly)
	url, _ := newWeakSink(t)
	id := s.addEndpoint(url, "--events", "message.received").ID
	s.run("dead-letters", "list").check(t, exitDone, "has no dead letters")
	s.drop(id, 3)

	lines := strings.Split(strings.TrimSpace(s.must("dead-letters", "list")), "\n")
	if len(lines) != 4 || !strings.Contains(lines[1], "status 503") || !strings.Contains(lines[1], id) {
		t.Fatalf("got\n%s", strings.Join(lines, "\n"))
	}
	newest, oldest := strings.Fields(lines[1])[0], strings.Fields(lines[3])[0]
	s.run("dead-letters", "list", "--limit", "1").check(t, exitDone, "the newest 1")
	s.run("dead-letters", "list", "--until", "1h").check(t, exitDone, "No dead letters match")

	o := s.run("dead-letters", "show", newest)
	for _, want := range []string{"status 503, after 2 attempts", "staffetta replay ", "retry", "dropped", `"event_type": "message.received"`} {
		o.check(t, exitDone, want)
	}
	var letter deadLetter
	if err := json.Unmarshal([]byte(s.must("dead-letters", "show", newest, "--json")), &letter); err != nil || letter.ID != newest {
		t.Errorf("%v: %+v", err, letter)
	}

	o = s.run("dead-letters", "export", "--endpoint", id)
	o.check(t, exitDone, "exported 3 dead letters")
	if got := strings.Split(strings.TrimSpace(o.stdout), "\n"); len(got) != 3 || !strings.Contains(got[2], `"`+oldest+`"`) {
		t.Errorf("exported\n%s", o.stdout)
	}

	s.run("dead-letters", "delete", "--endpoint", id).check(t, exitUsage, "--yes")
	s.run("dead-letters", "delete", newest, "dl_999").check(t, exitFailed, "deleted before it: 1 dead letter")
	s.run("dead-letters", "delete", "--since", "1h", "--event-type", "message.received", "--yes").check(t, exitDone, "deleted 2 dead letters")
	s.run("dead-letters", "list").check(t, exitDone, "has no dead letters")
	s.run("dead-letters", "show", oldest).check(t, exitFailed, "(dead_letter_not_found)")
}

func TestAnExportThatBreaksOffIsNotTakenForAWholeOne(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name, want string
		in         io.Reader
		n          int
	}{
		{"a problem at its end", "try again (unavailable)", strings.NewReader(`{"id":"dl_2"}` + "\n" + `{"type":"about:blank","status":503,"code":"unavailable","detail":"try again"}` + "\n"), 1},
		{"half a line", io.ErrUnexpectedEOF.Error(), strings.NewReader(`{"id":"dl_2"}` + "\n" + `{"id":"d`), 1},
		{"a lost connection", "broken", io.MultiReader(strings.NewReader(`{"id":"dl_2"}`+"\n"), iotest.ErrReader(broken)), 1},
		{"nothing at all", "", strings.NewReader(""), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			n, err := copyLetters(&out, c.in, func(int) {})
			if n != c.n || strings.Count(out.String(), "\n") != c.n || strings.Contains(out.String(), "about:blank") {
				t.Errorf("%d letters: %s", n, out.String())
			}
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}
