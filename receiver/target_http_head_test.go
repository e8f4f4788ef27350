package receiver

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

func TestATargetGetsTheRequestAsItCameIn(t *testing.T) {
	var got string
	peer := func(conn net.Conn) {
		got, _ = readRequest(conn, bufio.NewReader(conn))
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\nX-Seen: yes\r\n\r\n")
	}
	h := memoryPeer(t, HTTPTarget{
		URL:     "http://crm.example.com:9000/base/",
		Headers: map[string]string{"authorization": "Bearer token", "X-Extra": "1"},
	}, peer)
	e := entryOf("evt-1", "{ \"n\": 1,\r\n \"x\": \"\xff\" }", func(r *Request) {
		r.Method, r.Replay = "PUT", true
		r.URI = "/hooks//respond%2Fx?a=1&b=%20"
		r.Header = []HeaderField{
			{"x-signature", "abc"},
			{"X-Forwarded-For", "198.51.100.1"},
			{"Authorization", "Basic old"},
			{"X-Multi", "one"},
			{"X-Multi", "two"},
			{"Content-Type", "application/json; charset=utf-8"},
			{"Cookie", "b=2; a=1"},
			{"Staffetta-Attempt", "9"},
			{"X-Forwarded-Proto", "gopher"},
			{"Transfer-Encoding", "chunked"},
			{"Empty", ""},
		}
	})
	handed := h.handOver(t.Context(), []*sender.Entry{e}, 3)
	want := "PUT /base/hooks//respond%2Fx?a=1&b=%20 HTTP/1.1\r\n" +
		"Host: crm.example.com:9000\r\n" +
		"x-signature: abc\r\n" +
		"X-Multi: one\r\n" +
		"X-Multi: two\r\n" +
		"Content-Type: application/json; charset=utf-8\r\n" +
		"Cookie: b=2; a=1\r\n" +
		"Empty: \r\n" +
		"X-Extra: 1\r\n" +
		"authorization: Bearer token\r\n" +
		"X-Forwarded-For: 198.51.100.1, 203.0.113.7\r\n" +
		"X-Forwarded-Proto: https\r\n" +
		"X-Forwarded-Host: hooks.example.com\r\n" +
		"Staffetta-Event-Id: evt-1\r\n" +
		"Staffetta-Attempt: 3\r\n" +
		"Staffetta-Replay: true\r\n" +
		"Content-Length: 22\r\n\r\n" +
		"{ \"n\": 1,\r\n \"x\": \"\xff\" }"
	if got != want {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
	if handed.Accepted != 1 || handed.Outcome.Status != 204 || string(handed.ResponseHead) != "HTTP/1.1 204 No Content\r\nX-Seen: yes\r\n\r\n" {
		t.Errorf("handed over: %+v", handed)
	}
}

func TestThePathIsAppendedToAURLThatEndsInASlash(t *testing.T) {
	for _, c := range []struct{ url, uri, want string }{
		{"http://h", "/hooks?a=1", "/"},
		{"http://h/", "/hooks?a=1", "/hooks?a=1"},
		{"http://h/crm", "/hooks?a=1", "/crm"},
		{"http://h/crm/", "/hooks?a=1", "/crm/hooks?a=1"},
		{"http://h/crm/", "/", "/crm/"},
		{"http://h/crm/", "http://other/hooks?a=1", "/crm/hooks?a=1"},
		{"http://h/crm?to=/", "/hooks?a=1", "/crm?to=/"},
		{"http://h?to=1", "/hooks", "/?to=1"},
	} {
		opened, err := HTTPTarget{URL: c.url}.open()
		if err != nil {
			t.Fatal(err)
		}
		head, ok := opened.(*httpHandler).head(&Request{Method: "POST", URI: c.uri}, entryOf("a", "{}"), 1)
		if got := strings.Fields(string(head))[1]; !ok || got != c.want {
			t.Errorf("%s with %s: %s; want %s", c.url, c.uri, got, c.want)
		}
	}
}

func TestTheClientIsTheLastAddressOfTheChain(t *testing.T) {
	for _, c := range []struct {
		lines        []string
		remote, want string
	}{
		{nil, "c", "c"},
		{[]string{"a, b"}, "c", "a, b, c"},
		{[]string{"a", "b,"}, "c", "a, b, c"},
		{[]string{"a, c"}, "c", "a, c"},
		{[]string{"a, c, proxy"}, "c", "a, c"},
		{[]string{"a"}, "", "a"},
	} {
		if got := forwardedFor(c.lines, c.remote); got != c.want {
			t.Errorf("%q and %s: %s; want %s", c.lines, c.remote, got, c.want)
		}
	}
}

func TestARequestThatCouldSmuggleIsNotSent(t *testing.T) {
	h := memoryPeer(t, HTTPTarget{}, func(net.Conn) { t.Error("a connection was made") })
	for _, change := range []func(*Request){
		func(r *Request) { r.Method = "GET / HTTP/1.1\r\nX:" },
		func(r *Request) { r.URI = "/ HTTP/1.1\r\nX: y" },
		func(r *Request) { r.Host = "a\r\nX: y" },
		func(r *Request) { r.Header = []HeaderField{{"X", "a\r\nX: y"}} },
		func(r *Request) { r.Header = []HeaderField{{"X y", "a"}} },
	} {
		expect(t, handOne(t, h, change), 0, staffetta.ErrorTarget, true, "control character")
	}
}
