package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/receiver"
)

func TestReceiverTakesAWebhookInWhateverFormHTTPHasForIt(t *testing.T) {
	sink := startLiveSink(t)
	l := receiveLive(t, t.TempDir(), []receiver.Source{sourceTo("/hooks/any", staffetta.SchemeNone, sink.url)})
	length := func(body string) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body) }
	const head = "POST /hooks/any HTTP/1.1\r\nHost: crm.example\r\n"
	pipelined := head + length(`{"p":1}`) + head + length(`{"p":2}`) + head + length(`{"p":3}`)
	multipart := "--b\r\nContent-Disposition: form-data; name=\"a\"; filename=\"f\"\r\n\r\nx=%20\r\n--b--\r\n"
	for _, c := range []struct {
		name, text string
		answers    int
		bodies     []string
	}{
		{"in chunks", head + "Transfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n1\r\n:\r\n2;x=y\r\n1}\r\n0\r\n\r\n", 1, []string{`{"a":1}`}},
		{"as a form", head + "Content-Type: application/x-www-form-urlencoded\r\n" + length("a=1&b=%C3%A8+x"), 1, []string{"a=1&b=%C3%A8+x"}},
		{"as a form of parts", head + "Content-Type: multipart/form-data; boundary=b\r\n" + length(multipart), 1, []string{multipart}},
		{"over HTTP/1.0", "POST /hooks/any HTTP/1.0\r\n" + length(`{"old":1}`), 1, []string{`{"old":1}`}},
		{"one behind another", pipelined, 3, []string{`{"p":1}`, `{"p":2}`, `{"p":3}`}},
		{"without a body", head + length(""), 1, []string{""}},
		{"with a body that is not text", head + length("\x00\xff\r\n\r\n"), 1, []string{"\x00\xff\r\n\r\n"}},
		{"to a URL", "POST http://crm.example/hooks/any?q=1 HTTP/1.1\r\nHost: crm.example\r\n" + length(`{"absolute":1}`), 1, []string{`{"absolute":1}`}},
	} {
		before := len(sink.all())
		answer := l.raw(c.text, c.answers)
		if n := strings.Count(answer, " 200 OK\r\n"); n != c.answers || strings.Count(answer, "\r\n\r\nOK") != c.answers {
			t.Errorf("%s: %d answers with 200, want %d:\n%s", c.name, n, c.answers, answer)
			continue
		}
		var bodies []string
		for _, a := range sink.wait(t, before+len(c.bodies))[before:] {
			bodies = append(bodies, a.body)
		}
		slices.Sort(bodies) // they have no contact, but are of one: their order is checked elsewhere
		if !slices.Equal(bodies, c.bodies) {
			t.Errorf("%s: handed over as %q, want %q", c.name, bodies, c.bodies)
		}
	}
	// Whoever asks first is told to go on.
	conn := dialLive(t, l)
	reader := bufio.NewReader(conn)
	_, _ = io.WriteString(conn, head+"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	if line, err := reader.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		t.Fatalf("Expect: 100-continue is answered with %q, %v", line, err)
	}
	_, _ = io.WriteString(conn, "{}")
	_, _ = reader.ReadString('\n')
	if line, err := reader.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 200 ") {
		t.Errorf("and then with %q, %v", line, err)
	}
}

func dialLive(t *testing.T, l *liveReceiver) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", l.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// What is refused must not leave a part of itself behind that would be taken for the next request.
func TestReceiverRefusesWhatItCannotTakeAndNothingOfItBecomesAnotherRequest(t *testing.T) {
	sink := startLiveSink(t)
	l := receiveLive(t, t.TempDir(), []receiver.Source{sourceTo("/hooks/any", staffetta.SchemeNone, sink.url)}, func(s *receiverSettings) {
		s.config.MaxBody = 64 << 10
	})
	inside := "POST /hooks/any HTTP/1.1\r\nHost: smuggled\r\nContent-Length: 8\r\n\r\nsmuggled"
	big := inside + strings.Repeat("x", 64<<10)
	sized := func(line, headers, body string) string {
		return fmt.Sprintf("%s\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s", line, headers, len(body), body)
	}
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(big), big)
	const post = "POST /hooks/any HTTP/1.1"
	for _, c := range []struct {
		name, text string
		status     string
		closed     bool // the connection must be closed behind the answer
	}{
		{"a body beyond the bound", sized(post, "", big), "413", false},
		{"a body in chunks beyond the bound", post + "\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked, "413", false},
		{"another path", sized("POST /hooks/other HTTP/1.1", "", inside), "404", false},
		{"another method", sized("PUT /hooks/any HTTP/1.1", "", inside), "405", false},
		{"a GET", "GET /hooks/any HTTP/1.1\r\nHost: x\r\n\r\n", "405", false},
		{"two lengths", post + "\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inside, "400", true},
		{"two lengths the other way round", post + "\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + inside, "400", true},
		{"two different lengths", post + "\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 80\r\n\r\n" + inside, "400", true},
		{"a negative length", post + "\r\nHost: x\r\nContent-Length: -1\r\n\r\n" + inside, "400", true},
		{"a coding that nobody knows", post + "\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + inside, "400", true},
		{"a chunk without a length", post + "\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + inside, "400", true},
		{"no HTTP", "\x16\x03\x01 hello\r\n\r\n" + inside, "400", true},
		{"a head beyond the bound", sized(post, "X: "+strings.Repeat("y", 20<<10)+"\r\n", "{}"), "431", true},
	} {
		answer := l.raw(c.text+"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 100)
		got := statuses(answer)
		switch {
		case len(got) == 0 || got[0] != c.status:
			t.Errorf("%s is answered with %v, want %s:\n%.300s", c.name, got, c.status, answer)
		case c.closed && len(got) > 1:
			t.Errorf("%s: the connection goes on: %v", c.name, got)
		case len(got) > 2 || len(got) == 2 && got[1] != "200":
			t.Errorf("%s: behind it comes %v", c.name, got[1:])
		case c.status == "405" && !strings.Contains(answer, "\r\nAllow: POST\r\n"):
			t.Errorf("%s: no Allow:\n%s", c.name, answer)
		}
	}
	if n := l.metric(`staffetta_receiver_requests_total{result="stored",source="hooks-any"}`); n != "0" {
		t.Errorf("%s webhooks were stored", n)
	}
	l.stop()
	if got := sink.all(); len(got) > 0 {
		t.Errorf("handed over: %q", got[0].body)
	}
}

// statuses are those of the answers in a text.
func statuses(text string) (all []string) {
	for line := range strings.SplitSeq(text, "\r\n") {
		if _, rest, ok := strings.Cut(line, "HTTP/1.1 "); ok {
			status, _, _ := strings.Cut(rest, " ")
			if _, err := strconv.Atoi(status); err == nil {
				all = append(all, status)
			}
		}
	}
	return all
}

func TestReceiverGivesASlowRequestHalfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCRM(takesAll)
		listener := fasthttputil.NewInmemoryListener()
		m := receiveInMemory(t, t.TempDir(), []receiver.Source{c.source()}, func(s *receiverSettings) { s.config.Listener = listener })
		for _, x := range []struct{ name, text, want string }{
			{"the head", "POST /hooks/crm HTTP/1.1\r\nHost: x\r\nContent-Le", "408"},
			{"the body", "POST /hooks/crm HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", "408"},
			{"a long body", "POST /hooks/crm HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n" + strings.Repeat("x", 9999), "400"}, // as one that ended early
			{"a chunk", "POST /hooks/crm HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{", "400"},
		} {
			conn, err := listener.Dial()
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if _, err := io.WriteString(conn, x.text); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(conn)
			if got := statuses(string(answer)); err != nil || len(got) != 1 || got[0] != x.want {
				t.Errorf("where %s stalls it is answered with %v, %v, want %s", x.name, got, err, x.want)
			}
			if took := time.Since(began); took < 29*time.Second || took > 32*time.Second {
				t.Errorf("where %s stalls the connection is closed after %v", x.name, took)
			}
			_ = conn.Close()
		}
		m.shutdown()
		c.close()
	})
}

func TestReceiverBelievesTrustedProxiesAlone(t *testing.T) {
	sink := startLiveSink(t)
	networks := func(text string) func(*receiverSettings) {
		return func(s *receiverSettings) {
			var err error
			if s.config.TrustedProxies, err = receiver.ParseNetworks([]string{text}); err != nil {
				t.Fatal(err)
			}
			if s.config.Sources[0].Allow, err = receiver.ParseNetworks([]string{"203.0.113.0/24", "2001:db8::/32"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	source := func() []receiver.Source {
		return []receiver.Source{sourceTo("/hooks/any", staffetta.SchemeNone, sink.url)}
	}
	behind := receiveLive(t, t.TempDir(), source(), networks("127.0.0.0/8"))
	for _, c := range []struct {
		forwarded string
		status    int
	}{
		{"203.0.113.7", 200},
		{"10.0.0.1, 203.0.113.7", 200},
		{"203.0.113.7, 127.0.0.9", 200}, // a second proxy of ours
		{"[2001:db8::1]:443", 200},
		{"203.0.113.7, 10.0.0.1", 403}, // the proxy saw 10.0.0.1: what is before it anybody can write
		{"198.51.100.1", 403},
		{"", 403},
		{"nonsense", 403},
	} {
		headers := []string{"X-Forwarded-For", c.forwarded, "X-Forwarded-Proto", "https"}
		if c.forwarded == "" {
			headers = nil
		}
		if r := behind.post("/hooks/any", fmt.Sprintf(`{"from":%q}`, c.forwarded), headers...); r.status != c.status {
			t.Errorf("from %q it is answered with %d, want %d", c.forwarded, r.status, c.status)
		}
	}
	first := sink.wait(t, 4)[0].header
	if first.Get("X-Forwarded-For") != "203.0.113.7" || first.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("the target is told %q and %q", first.Get("X-Forwarded-For"), first.Get("X-Forwarded-Proto"))
	}
	bare := receiveLive(t, t.TempDir(), source(), networks("192.0.2.0/24"))
	if r := bare.post("/hooks/any", `{}`, "X-Forwarded-For", "203.0.113.7"); r.status != http.StatusForbidden {
		t.Errorf("a stranger who says to be 203.0.113.7 is answered with %d", r.status)
	}
}
