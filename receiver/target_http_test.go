package receiver

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

// memoryPeer runs serve for every connection that the target makes to it.
func memoryPeer(t testing.TB, target HTTPTarget, serve func(net.Conn)) handler {
	t.Helper()
	listener := fasthttputil.NewInmemoryListener()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	if target.URL == "" {
		target.URL = "http://crm.example.com/"
	}
	target.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return listener.DialWithLocalAddr(nil) }
	h, err := target.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		listener.Close()
		h.close()
		wg.Wait()
	})
	return h
}

// readRequest reads a request and gives it as it came.
func readRequest(conn net.Conn, br *bufio.Reader) (string, error) {
	var raw strings.Builder
	length := 0
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return "", err
		}
		raw.WriteString(line)
		_, _ = fmt.Sscanf(line, "Content-Length: %d", &length)
		if line == "\r\n" {
			break
		}
	}
	_, err := io.CopyN(&raw, br, int64(length))
	return raw.String(), err
}

// answering answers every request with the same text.
func answering(text string) func(net.Conn) {
	return func(conn net.Conn) {
		br := bufio.NewReader(conn)
		for {
			if _, err := readRequest(conn, br); err != nil {
				return
			}
			if _, err := io.WriteString(conn, text); err != nil {
				return
			}
		}
	}
}

// inBubble runs f on fake time, and lets a minute of it pass at the end: the goroutine that closes idle
// connections sees that there are none.
func inBubble(t *testing.T, f func(*testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { <-time.After(time.Minute) })
		f(t)
	})
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"

func handOne(t testing.TB, h handler, change ...func(*Request)) sender.Handed {
	t.Helper()
	return h.handOver(t.Context(), []*sender.Entry{entryOf("evt-1", `{"n": 1}`, change...)}, 1)
}

func TestOnlyA2xxIsSuccess(t *testing.T) {
	var answer atomic.Value
	h := memoryPeer(t, HTTPTarget{}, func(conn net.Conn) {
		br := bufio.NewReader(conn)
		for {
			if _, err := readRequest(conn, br); err != nil {
				return
			}
			_, _ = io.WriteString(conn, answer.Load().(string))
		}
	})
	for status := 200; status < 600; status++ {
		text := fmt.Sprintf("HTTP/1.1 %d X\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n", status)
		if status == 204 || status == 304 {
			text = fmt.Sprintf("HTTP/1.1 %d X\r\n\r\n", status)
		}
		answer.Store(text)
		handed := handOne(t, h)
		if handed.Outcome.Status != status || (handed.Accepted == 1) != (status < 300) || handed.Permanent {
			t.Fatalf("%d: %+v", status, handed)
		}
	}
}

func TestRetryAfterIsHonouredInSecondsAndAsADate(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var answer atomic.Value
		h := memoryPeer(t, HTTPTarget{}, func(conn net.Conn) {
			br := bufio.NewReader(conn)
			for {
				if _, err := readRequest(conn, br); err != nil {
					return
				}
				_, _ = io.WriteString(conn, answer.Load().(string))
			}
		})
		padding := strings.Repeat("X-Padding: "+strings.Repeat("x", 100)+"\r\n", 30)
		for _, c := range []struct {
			status int
			value  string
			want   time.Duration
		}{
			{429, "120", 2 * time.Minute},
			{503, time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat), 90 * time.Second},
			{503, time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), 0},
			{429, "999999999999", 24 * time.Hour},
			{429, "soon", 0},
			{429, "-5", 0},
			{500, "120", 0},
			{200, "120", 0},
		} {
			answer.Store(fmt.Sprintf("HTTP/1.1 %d X\r\n%sRetry-After: %s\r\nContent-Length: 0\r\n\r\n", c.status, padding, c.value))
			if handed := handOne(t, h); handed.RetryAfter != c.want || handed.Outcome.Status != c.status {
				t.Errorf("%d %s: %v; want %v", c.status, c.value, handed.RetryAfter, c.want)
			}
		}
	})
}

func TestALargeOrEndlessBodyIsASuccess(t *testing.T) {
	endless := func(head, piece string) func(net.Conn) {
		return func(conn net.Conn) {
			br := bufio.NewReader(conn)
			if _, err := readRequest(conn, br); err != nil {
				return
			}
			_, err := io.WriteString(conn, head)
			for err == nil {
				_, err = io.WriteString(conn, piece)
			}
		}
	}
	kilobyte := strings.Repeat("x", 1<<10)
	for name, serve := range map[string]func(net.Conn){
		"until closed": endless("HTTP/1.1 200 OK\r\n\r\n", kilobyte),
		"chunked":      endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "400\r\n"+kilobyte+"\r\n"),
		"one chunk":    endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n", kilobyte),
		"long":         endless("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", kilobyte),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				h := memoryPeer(t, HTTPTarget{}, serve)
				start := time.Now()
				handed := handOne(t, h)
				if handed.Accepted != 1 || handed.Outcome.Status != 200 || string(handed.ResponseBody) != kilobyte || time.Since(start) != 0 {
					t.Errorf("after %v: %+v", time.Since(start), handed)
				}
			})
		})
	}
}

func TestABodyThatStallsIsASuccessAfterAWhile(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := memoryPeer(t, HTTPTarget{}, answering("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"))
		start := time.Now()
		handed := handOne(t, h)
		if handed.Accepted != 1 || string(handed.ResponseBody) != "half" || time.Since(start) != bodyWait {
			t.Errorf("after %v: %+v", time.Since(start), handed)
		}
	})
}

func TestTheDeadlineCoversDiallingAndTheHead(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		slow := HTTPTarget{URL: "http://h/", Timeout: 2 * time.Second, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, &net.OpError{Op: "dial", Err: ctx.Err()}
		}}
		start := time.Now()
		expect(t, handOne(t, opened(t, slow)), 0, staffetta.ErrorTimeout, false, "no connection within the deadline")
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("dialling took %v", took)
		}

		silent := memoryPeer(t, HTTPTarget{}, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		start = time.Now()
		expect(t, handOne(t, silent), 0, staffetta.ErrorTimeout, false, "no response within the deadline")
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("waiting took %v", took)
		}

		trickling := memoryPeer(t, HTTPTarget{}, func(conn net.Conn) {
			_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			for err == nil {
				<-time.After(time.Second)
				_, err = io.WriteString(conn, "X-More: 1\r\n")
			}
		})
		start = time.Now()
		expect(t, handOne(t, trickling), 0, staffetta.ErrorTimeout, false, "head was not complete within the deadline")
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("the head took %v", took)
		}
	})
}

func TestAStopCutsAnAttemptOff(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := memoryPeer(t, HTTPTarget{}, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		expect(t, h.handOver(ctx, entriesOf("a", 1), 1), 0, staffetta.ErrorLocal, false, "cut off")
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestAConnectionThatThePeerHadClosedCostsNoAttempt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var conns, requests atomic.Int64
		h := memoryPeer(t, HTTPTarget{}, func(conn net.Conn) {
			conns.Add(1)
			br := bufio.NewReader(conn)
			if _, err := readRequest(conn, br); err == nil {
				requests.Add(1)
				_, _ = io.WriteString(conn, okAnswer)
			}
		})
		for range 3 {
			expect(t, handOne(t, h), 1, staffetta.ErrorNone, false, "")
			synctest.Wait()
		}
		if conns.Load() != 3 || requests.Load() != 3 {
			t.Errorf("%d connections, %d requests; want 3 and 3", conns.Load(), requests.Load())
		}
	})
}

func TestARequestIsNotSentAgainOnceItFailedOnANewConnection(t *testing.T) {
	var requests atomic.Int64
	h := memoryPeer(t, HTTPTarget{}, func(conn net.Conn) {
		if _, err := readRequest(conn, bufio.NewReader(conn)); err == nil {
			requests.Add(1)
		}
	})
	expect(t, handOne(t, h), 0, staffetta.ErrorReset, false, "closed before the response")
	if requests.Load() != 1 {
		t.Errorf("%d requests", requests.Load())
	}
}

func TestARequestIsNotSentAgainWhereAnAnswerHadBegun(t *testing.T) {
	var requests atomic.Int64
	h := memoryPeer(t, HTTPTarget{}, func(conn net.Conn) {
		br := bufio.NewReader(conn)
		for range 2 {
			if _, err := readRequest(conn, br); err != nil {
				return
			}
			if requests.Add(1) == 1 {
				_, _ = io.WriteString(conn, okAnswer)
				continue
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 2")
		}
	})
	expect(t, handOne(t, h), 1, staffetta.ErrorNone, false, "")
	expect(t, handOne(t, h), 0, staffetta.ErrorReset, false, "in the middle of the response head")
	if requests.Load() != 2 {
		t.Errorf("%d requests", requests.Load())
	}
}

func TestAnswersThatAreOdd(t *testing.T) {
	for _, c := range []struct {
		answer   string
		accepted int
		kind     staffetta.ErrorKind
		status   int
	}{
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + okAnswer, 1, staffetta.ErrorNone, 200},
		{"HTTP/1.0 200 OK\r\n\r\nOK", 1, staffetta.ErrorNone, 200},
		{"HTTP/1.1 200 OK\r\nBad Header : x\r\nContent-Length: 0\r\n\r\n", 1, staffetta.ErrorNone, 200},
		{"HTTP/1.1 500 No\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 0, staffetta.ErrorNone, 500},
		{"HTTP/1.1 101 Switching Protocols\r\n\r\n", 0, staffetta.ErrorNone, 101},
		{"SSH-2.0-OpenSSH_9.2\r\n\r\n", 0, staffetta.ErrorProtocol, 0},
		{"HTTP/2.0 200 OK\r\n\r\n", 0, staffetta.ErrorProtocol, 0},
		{"HTTP/1.1 banana\r\n\r\n", 0, staffetta.ErrorProtocol, 0},
		{"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n", 0, staffetta.ErrorProtocol, 0},
		{"", 0, staffetta.ErrorReset, 0},
	} {
		h := memoryPeer(t, HTTPTarget{Timeout: 5 * time.Second}, func(conn net.Conn) {
			_, _ = readRequest(conn, bufio.NewReader(conn))
			_, _ = io.WriteString(conn, c.answer)
		})
		handed := handOne(t, h)
		if handed.Accepted != c.accepted || handed.Outcome.Error != c.kind || handed.Outcome.Status != c.status {
			t.Errorf("%.40q: %+v", c.answer, handed)
		}
	}
}

func TestFailuresOfTheNetworkAreTold(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	secured := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	secured.Config.ErrorLog = log.New(io.Discard, "", 0)
	secured.StartTLS()
	defer secured.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for _, c := range []struct {
		url    string
		kind   staffetta.ErrorKind
		detail string
	}{
		{"http://" + closed.Addr().String() + "/?key=secret", staffetta.ErrorRefused, "the connection was refused"},
		{secured.URL, staffetta.ErrorTLS, "unknown authority"},
		{strings.Replace(plain.URL, "http:", "https:", 1), staffetta.ErrorTLS, "does not speak TLS"},
		{"http://nowhere.invalid/", staffetta.ErrorDNS, "the host name"},
	} {
		handed := handOne(t, opened(t, HTTPTarget{URL: c.url}))
		expect(t, handed, 0, c.kind, false, c.detail)
		if strings.Contains(handed.Outcome.Detail, "secret") {
			t.Errorf("a detail tells a secret: %s", handed.Outcome.Detail)
		}
	}
}

func TestConnectionsAreBoundedByTheConcurrency(t *testing.T) {
	var open, most atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			now := open.Add(1)
			for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
			}
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		default:
		}
	}
	server.Start()
	defer server.Close()
	h := opened(t, HTTPTarget{URL: server.URL, Concurrency: 3})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if handed := h.handOver(t.Context(), entriesOf(fmt.Sprint(i), 10), 1); handed.Accepted != 10 {
				t.Errorf("%+v", handed)
			}
		})
	}
	wg.Wait()
	if most.Load() > 3 {
		t.Errorf("%d connections at a time; want at most 3", most.Load())
	}
}

func TestALargeBodyGoesToARealServer(t *testing.T) {
	body := `{"x":"` + strings.Repeat("x", 1<<20) + `"}`
	got := make(chan string, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/early" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		b, _ := io.ReadAll(r.Body)
		got <- string(b)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	handed := opened(t, HTTPTarget{URL: server.URL}).handOver(t.Context(), []*sender.Entry{entryOf("a", body)}, 1)
	if handed.Outcome.Status != 307 || handed.Accepted != 0 || <-got != body || handed.Remote != server.Listener.Addr().String() {
		t.Errorf("handed over: %+v", handed)
	}
	handed = opened(t, HTTPTarget{URL: server.URL + "/early"}).handOver(t.Context(), []*sender.Entry{entryOf("a", body)}, 1)
	if handed.Outcome.Status != 413 && handed.Outcome.Error != staffetta.ErrorReset {
		t.Errorf("handed over: %+v", handed)
	}
}

func BenchmarkHTTP(b *testing.B) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString("OK") }}
	go func() { _ = server.Serve(listener) }()
	defer server.Shutdown()
	h := opened(b, HTTPTarget{URL: "http://" + listener.Addr().String() + "/", Concurrency: 8})
	entries := []*sender.Entry{entryOf("a", `{"x":"`+strings.Repeat("x", 1<<10)+`"}`)}
	b.ReportAllocs()
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if handed := h.handOver(b.Context(), entries, 1); handed.Accepted != 1 {
				b.Errorf("%+v", handed)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
