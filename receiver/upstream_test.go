package receiver

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// runBefore runs a receiver before a server that answers /early as soon as it has the head, and anything
// else when it has the body. (A http.Server would wait for a small body in any case.)
func runBefore(t *testing.T) *Receiver {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	r := runReceiver(t, startStore(t, t.TempDir()), onLoopback, func(c *Config) { c.Upstream = "http://" + listener.Addr().String() })
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(t.Context(), func() { conn.Close() })()
				answerBehind(conn)
			})
		}
	})
	t.Cleanup(func() { listener.Close() })
	return r
}

func answerBehind(conn net.Conn) {
	br := bufio.NewReader(conn)
	for {
		q, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if q.URL.Path == "/early" {
			_, _ = io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 12\r\n\r\nwho are you\n")
		}
		n, err := io.Copy(io.Discard, q.Body)
		if err != nil {
			return
		}
		if q.URL.Path != "/early" {
			text := fmt.Sprintf("read %d\n", n)
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		}
	}
}

func dial(t testing.TB, r *Receiver) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", r.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// readAnswer reads one answer, its body too.
func readAnswer(br *bufio.Reader) (status int, text string, err error) {
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

const smuggled = "POST /hooks HTTP/1.1\r\nHost: x\r\nContent-Length: 23\r\n\r\n" + `{"event_id":"smuggled"}`

func TestAnAnswerThatComesBeforeTheBodyIsPassedBackAndTheRestIsNoRequest(t *testing.T) {
	r := runBefore(t)
	large := strings.Repeat("a", 20_000)
	var wg sync.WaitGroup
	for name, c := range map[string]struct{ first, rest string }{
		"with a length":             {"Content-Length: 1000000\r\n\r\n" + large, smuggled + large},
		"with a length that ends":   {"Content-Length: 20010\r\n\r\n" + large, "aaaaaaaaaa" + smuggled},
		"in chunks":                 {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "5\r\nhello\r\n0\r\n\r\n" + smuggled},
		"in chunks that break off":  {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", smuggled + smuggled},
		"in a chunk of a later end": {"Transfer-Encoding: chunked\r\n\r\nffff\r\nhello", smuggled},
	} {
		wg.Go(func() {
			conn := dial(t, r)
			br := bufio.NewReader(conn)
			_, _ = io.WriteString(conn, "POST /early HTTP/1.1\r\nHost: x\r\n"+c.first)
			if status, text, err := readAnswer(br); status != http.StatusUnauthorized || text != "who are you\n" || err != nil {
				t.Errorf("%s: the answer is %d %q (%v)", name, status, text, err)
			}
			_, _ = io.WriteString(conn, c.rest) // the connection may be gone
			if b, _ := io.ReadAll(br); len(b) > 0 {
				t.Errorf("%s: behind the answer comes %.80q", name, b)
			}
		})
	}
	wg.Wait()
	if ids, _ := storedIDs(t, r.sources[0].journal); len(ids) > 0 {
		t.Errorf("of what was left of bodies came the webhooks %v", ids)
	}
}

func TestABodyThatCameWholeLeavesTheConnectionToTheNextRequest(t *testing.T) {
	r := runBefore(t)
	for name, c := range map[string]struct{ at, request, want string }{
		"read, with a length":    {"/read", "Content-Length: 30000\r\n\r\n" + strings.Repeat("a", 30_000), "read 30000\n"},
		"read, in chunks":        {"/read", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "read 5\n"},
		"read, none":             {"/read", "Content-Length: 0\r\n\r\n", "read 0\n"},
		"not read, and is small": {"/early", "Content-Length: 5\r\n\r\nhello", "who are you\n"},
	} {
		conn := dial(t, r)
		br := bufio.NewReader(conn)
		_, _ = io.WriteString(conn, "POST "+c.at+" HTTP/1.1\r\nHost: x\r\n"+c.request+"GET /read HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, text, err := readAnswer(br); text != c.want || err != nil {
			t.Errorf("%s: the answer is %q (%v)", name, text, err)
		}
		if _, text, err := readAnswer(br); text != "read 0\n" || err != nil {
			t.Errorf("%s: the next answer is %q (%v)", name, text, err)
		}
	}
}

// The memory of a request that has ended is another's: what still sends to the first must not get into it.
func TestWebhooksAreTakenUnharmedWhileOthersAreAnsweredBeforeTheirBodyIsRead(t *testing.T) {
	r := runBefore(t)
	const abusers, senders, each = 6, 4, 40
	var over atomic.Bool
	var abuse, hooks sync.WaitGroup
	for range abusers {
		abuse.Go(func() {
			junk := bytes.Repeat([]byte{'A'}, 9000)
			for !over.Load() {
				conn, err := net.Dial("tcp", r.Addr().String())
				if err != nil {
					continue
				}
				_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
				_, _ = io.WriteString(conn, "POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
				_, err = conn.Write(junk)
				for _, _ = conn.Read(make([]byte, 1)); err == nil && !over.Load(); { // on and on behind the answer
					_, err = conn.Write(junk)
				}
				conn.Close()
			}
		})
	}
	want := make(map[string]int)
	for n := range senders {
		for i := range each {
			want[fmt.Sprintf("e%d-%d", n, i)] = 1
		}
		hooks.Go(func() {
			for i := range each {
				body := padded(fmt.Sprintf("e%d-%d", n, i), 40_000).Body
				conn, err := net.Dial("tcp", r.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				_, _ = fmt.Fprintf(conn, "POST /hooks HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(body))
				for piece := range bytes.SplitAfterSeq(body, []byte{'x', 'x', 'x', 'x'}) {
					_, err = conn.Write(piece)
					if err != nil {
						break
					}
				}
				if status, text, err := readAnswer(bufio.NewReader(conn)); status != http.StatusOK {
					t.Errorf("a webhook is answered with %d %q (%v)", status, text, err)
				}
				conn.Close()
			}
		})
	}
	hooks.Wait()
	over.Store(true)
	abuse.Wait()
	ids, _ := storedIDs(t, r.sources[0].journal)
	for _, id := range ids {
		want[id]--
	}
	for id, missing := range want {
		if missing != 0 {
			t.Errorf("%s is stored %d times", id, 1-missing)
		}
	}
}
