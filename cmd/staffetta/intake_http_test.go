package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// dial opens a connection to the relay's API that ends with the test.
func (l *liveRelay) dial() *net.TCPConn {
	l.t.Helper()
	c, err := net.Dial("tcp", l.address)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		l.t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// raw sends the bytes over a connection of their own, says that no more will come, and gives what is
// answered until the relay closes it.
func (l *liveRelay) raw(request string) []reply {
	l.t.Helper()
	c := l.dial()
	defer func() { _ = c.Close() }()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(c, request) // the relay may answer and close before it has read all
		_ = c.CloseWrite()
	}()
	defer func() { <-sent }()
	var replies []reply
	for in := bufio.NewReader(c); len(replies) < 10; {
		r, err := readReply(in)
		if err != nil {
			break
		}
		replies = append(replies, r)
	}
	_ = c.Close()
	return replies
}

func readReply(in *bufio.Reader) (reply, error) {
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, body}, err
}

// The parts of requests that are written by hand.
const (
	rawHeaders = "Host: relay\r\nAuthorization: Bearer " + testAdminKey + "\r\nContent-Type: application/json\r\n"
	rawPost    = "POST " + acmeEvents + " HTTP/1.1\r\n" + rawHeaders
	rawEvent   = `{"event_type":"message.received"}` // 33 bytes, 0x21
	rawLength  = "Content-Length: 33\r\n"
	rawChunked = "Transfer-Encoding: chunked\r\n"
	rawChunk   = "21\r\n" + rawEvent + "\r\n0\r\n\r\n"
	rawWhole   = rawPost + rawLength + "\r\n" + rawEvent
)

// notHTTP are requests that are refused with 400 and end their connection: whatever stands behind
// them must not be taken for another request.
var notHTTP = map[string]string{
	"a length that is longer than the body":         rawPost + "Content-Length: 1000\r\n\r\n" + rawEvent,
	"a large length that is longer than the body":   rawPost + "Content-Length: 100000\r\n\r\n" + rawEvent + strings.Repeat(" ", 20_000),
	"a negative length":                             rawPost + "Content-Length: -5\r\n\r\n" + rawEvent + rawWhole,
	"a signed length":                               rawPost + "Content-Length: +33\r\n\r\n" + rawEvent + rawWhole,
	"a hexadecimal length":                          rawPost + "Content-Length: 0x21\r\n\r\n" + rawEvent + rawWhole,
	"an empty length":                               rawPost + "Content-Length:\r\n\r\n" + rawEvent + rawWhole,
	"a length beyond 64 bits":                       rawPost + "Content-Length: 99999999999999999999\r\n\r\n" + rawEvent + rawWhole,
	"a list of lengths":                             rawPost + "Content-Length: 33, 33\r\n\r\n" + rawEvent + rawWhole,
	"two lengths":                                   rawPost + "Content-Length: 33\r\nContent-Length: 5\r\n\r\n" + rawEvent + rawWhole,
	"two lengths, the short one first":              rawPost + "Content-Length: 5\r\nContent-Length: 33\r\n\r\n" + rawEvent + rawWhole,
	"a length and chunks":                           rawPost + "Content-Length: 43\r\n" + rawChunked + "\r\n" + rawChunk + rawWhole,
	"a length that hides a request behind a chunk":  rawPost + "Content-Length: 5\r\n" + rawChunked + "\r\n0\r\n\r\n" + rawWhole,
	"chunks and a length":                           rawPost + rawChunked + "Content-Length: 5\r\n\r\n" + rawChunk + rawWhole,
	"an unknown transfer encoding":                  rawPost + "Transfer-Encoding: xchunked\r\n\r\n" + rawChunk + rawWhole,
	"an unknown transfer encoding and a length":     rawPost + "Transfer-Encoding: xchunked\r\n" + rawLength + "\r\n" + rawEvent + rawWhole,
	"a transfer encoding with a space before colon": rawPost + "Transfer-Encoding : chunked\r\n\r\n" + rawChunk + rawWhole,
	"two transfer encodings":                        rawPost + rawChunked + "Transfer-Encoding: identity\r\n\r\n" + rawChunk + rawWhole,
	"compressed chunks":                             rawPost + "Transfer-Encoding: gzip, chunked\r\n\r\n" + rawChunk + rawWhole,
	"chunks that are not last":                      rawPost + "Transfer-Encoding: chunked, identity\r\n\r\n" + rawChunk + rawWhole,
	"chunks in HTTP/1.0":                            strings.Replace(rawPost, "1.1", "1.0", 1) + rawChunked + "\r\n" + rawChunk + rawWhole,
	"a chunk of a negative size":                    rawPost + rawChunked + "\r\n-1\r\n" + rawEvent + rawWhole,
	"a chunk beyond 64 bits":                        rawPost + rawChunked + "\r\nffffffffffffffffff\r\n" + rawEvent + rawWhole,
	"a chunk longer than its size":                  rawPost + rawChunked + "\r\n20\r\n" + rawEvent + "\r\n0\r\n\r\n" + rawWhole,
	"a chunk without an end":                        rawPost + rawChunked + "\r\n21\r\n" + rawEvent[:10],
	"a length in the trailer":                       rawPost + rawChunked + "\r\n21\r\n" + rawEvent + "\r\n0\r\nContent-Length: 5\r\n\r\n" + rawWhole,
	"bare line feeds":                               strings.ReplaceAll(rawPost+rawLength, "\r\n", "\n") + "\n" + rawEvent,
	"bare carriage returns":                         strings.ReplaceAll(rawPost+rawLength, "\r\n", "\r") + "\r" + rawEvent,
	"a null in a header's value":                    rawPost + "X-Null: a\x00b\r\n" + rawLength + "\r\n" + rawEvent,
	"a null in a header's name":                     rawPost + "X\x00: a\r\n" + rawLength + "\r\n" + rawEvent,
	"a header without a colon":                      rawPost + "X-Nothing\r\n" + rawLength + "\r\n" + rawEvent,
	"a null in the path":                            strings.Replace(rawPost, "acme", "ac\x00me", 1) + rawLength + "\r\n" + rawEvent,
	"a space in the path":                           strings.Replace(rawPost, "acme", "ac me", 1) + rawLength + "\r\n" + rawEvent,
	"no host":                                       strings.Replace(rawPost, "Host: relay\r\n", "", 1) + rawLength + "\r\n" + rawEvent,
	"two hosts":                                     rawPost + "Host: other\r\n" + rawLength + "\r\n" + rawEvent,
	"TLS":                                           "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	"noise":                                         "\x00\xff\xfe\x01\r\n\r\n",
}

func TestWhatIsNotHTTPIsRefusedAndEndsItsConnection(t *testing.T) {
	l, sink := startIntake(t)
	for name, request := range notHTTP {
		t.Run(name, func(t *testing.T) {
			replies := l.raw(request)
			if len(replies) != 1 {
				t.Fatalf("%d answers, want one: %v", len(replies), replies)
			}
			code := replies[0].members(t)["code"]
			if code != "malformed_request" && code != "body_incomplete" {
				t.Errorf("the code is %v", code)
			}
			checkProblem(t, replies[0], 400, fmt.Sprint(code))
		})
	}
	checkStillTakes(t, l, sink)
	if n := len(sink.all()); n != 1 {
		t.Errorf("%d deliveries of one event: something hidden in a request was taken", n)
	}
}

func TestAHeadOfMoreThan16KiBIsRefused(t *testing.T) {
	l, sink := startIntake(t)
	for name, request := range map[string]string{
		"a header":     rawPost + "X-Long: " + strings.Repeat("x", 16<<10) + "\r\n\r\n",
		"many headers": rawPost + strings.Repeat("X: y\r\n", 3000) + "\r\n",
		"a path":       "POST /v1/workspaces/" + strings.Repeat("x", 16<<10) + "/events HTTP/1.1\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			replies := l.raw(request[:16<<10]) // the rest would be unread, and reset the connection
			if len(replies) != 1 {
				t.Fatalf("%d answers, want one", len(replies))
			}
			checkProblem(t, replies[0], 431, "header_too_large")
		})
	}
	checkStillTakes(t, l, sink)
}

func TestChunkedBodiesAreTakenUpToTheLimit(t *testing.T) {
	l, sink := startIntake(t)
	chunks := func(size int) string {
		var b strings.Builder
		for left := `{"event_type":"message.received","s":"` + strings.Repeat("x", size-40) + `"}`; left != ""; {
			n := min(len(left), 50_000)
			fmt.Fprintf(&b, "%x;extension=1\r\n%s\r\n", n, left[:n])
			left = left[n:]
		}
		return rawPost + rawChunked + "\r\n" + b.String() + "0\r\n\r\n"
	}
	for size, want := range map[int]int{40: 202, 8000: 202, 9000: 202, 1 << 20: 202, 1<<20 + 50: 413, 3 << 20: 413} {
		replies := l.raw(chunks(size) + rawWhole)
		if len(replies) == 0 || replies[0].status != want {
			t.Fatalf("%d bytes in chunks: %v, want %d", size, replies, want)
		}
		if want == 413 {
			checkProblem(t, replies[0], 413, "payload_too_large")
		} else if len(replies) != 2 || replies[1].status != 202 {
			t.Errorf("what stands behind %d bytes in chunks is not the next request: %v", size, replies)
		}
	}
	checkStillTakes(t, l, sink)
}

// A producer without a key sends a body that nobody reads: its end is not the next request.
func TestABodyThatNobodyReadsIsNeverTheNextRequest(t *testing.T) {
	l, sink := startIntake(t)
	heads := map[string]string{
		"a wrong key":         strings.Replace(rawPost, testAdminKey, "wrong", 1),
		"a wrong media type":  strings.Replace(rawPost, "application/json", "text/plain", 1),
		"an encoding":         rawPost + "Content-Encoding: gzip\r\n",
		"a wrong method":      strings.Replace(rawPost, "POST", "PUT", 1),
		"no such workspace":   strings.Replace(rawPost, "acme", "nobody", 1),
		"no such path":        strings.Replace(rawPost, "events", "nothing", 1),
		"a health check":      strings.Replace(rawPost, acmeEvents, "/healthz", 1),
		"an unreadable path":  strings.Replace(rawPost, acmeEvents, "/v1/%zz", 1),
		"a key that is large": rawPost + "Idempotency-Key: " + strings.Repeat("x", 300) + "\r\n",
	}
	for name, head := range heads {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{100, 8191, 8192, 8193, 20_000, 300_000} {
				body := strings.Repeat(" ", size) + rawWhole
				for _, rest := range []string{
					fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body),
					fmt.Sprintf("%s\r\n%x\r\n%s\r\n0\r\n\r\n", rawChunked, len(body), body),
				} {
					for i, r := range l.raw(head + rest) {
						if i > 0 || r.status == 202 {
							t.Fatalf("a body of %d bytes was answered %d", len(body), r.status)
						}
					}
				}
			}
		})
	}
	checkStillTakes(t, l, sink)
	if n := len(sink.all()); n != 1 {
		t.Errorf("%d deliveries of one event: the end of a body was taken for a request", n)
	}
}

func TestOddPathsLeadToNothingAndAreAnsweredWithAProblem(t *testing.T) {
	l, sink := startIntake(t)
	l.must(201, "PUT", "/v1/workspaces/events", `{"plan":"advanced"}`)
	long := strings.Repeat("x", 15_000)
	for _, id := range []string{
		"", "/", "//", ".", "..", "../..", "%2e", "%2e%2e", "..%2f", "%2e%2e%2f%2e%2e", "a%00b", "%00", "a%2fb", "a%5cb", "a%0d%0aX:%20y", "%zz", "%", "%e", "a.b", "a*", "%3e", "$JS", "%ff%fe",
		"*", ";", "?", "?/events", "%23", "~", "events", "events/events", "../events", long,
	} {
		for _, rest := range []string{"", "/events", "/endpoints", "/keys", "/endpoints/" + id, "/endpoints/" + id + "/test"} {
			for _, method := range []string{"GET", "PUT", "POST", "PATCH", "DELETE"} {
				if method == "DELETE" && rest == "" || id == "events" && rest == "" {
					continue
				}
				request := method + " /v1/workspaces/" + id + rest + " HTTP/1.1\r\n" + rawHeaders + "Content-Length: 2\r\n\r\n{}"
				checkOddAnswer(t, request, l.raw(request))
			}
		}
	}
	checkStillTakes(t, l, sink)
}

func checkOddAnswer(t *testing.T, request string, replies []reply) {
	t.Helper()
	line, _, _ := strings.Cut(request, " HTTP")
	if len(replies) != 1 {
		t.Errorf("%.80q: %d answers", line, len(replies))
		return
	}
	r := replies[0]
	if r.status < 400 && r.header.Get("Content-Type") == "application/json" {
		return // the list of workspaces, or what belongs to one that is named events
	}
	if r.status < 400 || r.status >= 500 || r.header.Get("Content-Type") != "application/problem+json" || r.members(t)["code"] == "" {
		t.Errorf("%.80q: status %d, %s", line, r.status, r.body)
	}
}

func TestWhoSendsWithoutAKeyTakesNoMemoryAndNoDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("it sends 200 MB")
	}
	spool := t.TempDir()
	t.Setenv("TMPDIR", spool)
	l, sink := startIntake(t)
	before := heapBytes()
	const whole = 64 << 20
	for name, head := range map[string]string{
		"chunks to the API":    "POST /v1/nothing HTTP/1.1\r\nHost: relay\r\nTransfer-Encoding: chunked\r\n\r\n4000000\r\n",
		"a length for the API": "POST /v1/nothing HTTP/1.1\r\nHost: relay\r\nContent-Length: 67108864\r\n\r\n",
		"a form": "POST /v1/nothing HTTP/1.1\r\nHost: relay\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 67108864\r\n\r\n" +
			"--x\r\nContent-Disposition: form-data; name=\"a\"; filename=\"b\"\r\n\r\n",
	} {
		c := l.dial()
		if _, err := io.WriteString(c, head); err != nil {
			t.Fatal(err)
		}
		block := make([]byte, 1<<20)
		for sent := 0; sent < whole-1<<20; sent += len(block) {
			if _, err := c.Write(block); err != nil {
				break // it need not read all of it
			}
		}
		if grown := heapBytes() - before; grown > 32<<20 {
			t.Errorf("%s: %d MiB of memory", name, grown>>20)
		}
		files, err := os.ReadDir(spool)
		if err != nil || len(files) > 0 {
			t.Errorf("%s: files %v, %v", name, files, err)
		}
	}
	checkStillTakes(t, l, sink)
}

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestSlowProducersHoldNobodyUp(t *testing.T) {
	l, sink := startIntake(t)
	before := heapBytes()
	slow := map[string]string{
		"a head":             rawPost,
		"a small body":       rawPost + "Content-Length: 1000\r\n\r\n{",
		"a body":             rawPost + "Content-Length: 1000000\r\n\r\n{" + strings.Repeat(" ", 9000),
		"a batch":            strings.Replace(rawPost, "json", "x-ndjson", 1) + "Content-Length: 16777216\r\n\r\n{" + strings.Repeat(" ", 9000),
		"chunks":             rawPost + rawChunked + "\r\n1000\r\n{",
		"a body for the API": strings.Replace(rawPost, "events", "endpoints", 1) + "Content-Length: 200000\r\n\r\n{" + strings.Repeat(" ", 9000),
	}
	var conns []*net.TCPConn
	for range 50 {
		for _, beginning := range slow {
			c := l.dial()
			if _, err := io.WriteString(c, beginning); err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
		}
	}
	large := `{"event_type":"message.received","s":"` + strings.Repeat("x", 100_000) + `"}`
	for range 20 {
		for _, c := range conns {
			if _, err := c.Write([]byte(" ")); err != nil {
				t.Fatal(err)
			}
		}
		l.event("acme", large)
		l.must(200, "GET", "/v1/workspaces/acme", "")
	}
	if grown := heapBytes() - before; grown > 64<<20 {
		t.Errorf("%d slow producers take %d MiB of memory", len(conns), grown>>20)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	checkStillTakes(t, l, sink)
}
