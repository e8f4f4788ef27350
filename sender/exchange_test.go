package sender

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/staffetta-relay/staffetta"
)

// once serves one request with what respond writes, and closes.
func once(respond func(net.Conn)) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := readRequest(bufio.NewReader(conn)); err == nil {
			respond(conn)
		}
	}
}

func writing(text string) func(net.Conn) {
	return once(func(conn net.Conn) { _, _ = io.WriteString(conn, text) })
}

// holding writes text and keeps the connection open until the other side closes it.
func holding(text string) func(net.Conn) {
	return func(conn net.Conn) {
		br := bufio.NewReader(conn)
		if _, err := readRequest(br); err == nil {
			_, _ = io.WriteString(conn, text)
			_, _ = br.ReadByte()
		}
	}
}

// endless repeats text for as long as it is taken.
func endless(head, text string) func(net.Conn) {
	return once(func(conn net.Conn) {
		_, err := io.WriteString(conn, head)
		for err == nil {
			_, err = io.WriteString(conn, text)
		}
	})
}

// dripping writes start, and then one byte of text at a time.
func dripping(start, text string, gap time.Duration) func(net.Conn) {
	return once(func(conn net.Conn) {
		_, _ = io.WriteString(conn, start)
		ticker := time.NewTicker(gap)
		defer ticker.Stop()
		for i := range len(text) {
			<-ticker.C
			if _, err := io.WriteString(conn, text[i:i+1]); err != nil {
				return
			}
		}
	})
}

func resetting(conn net.Conn) {
	_ = conn.(*net.TCPConn).SetLinger(0)
}

func TestWhatAnEndpointCanAnswer(t *testing.T) {
	t.Parallel()
	mib := strings.Repeat("x", 1<<20)
	for name, test := range map[string]struct {
		serve  func(net.Conn)
		status int
		kind   staffetta.ErrorKind
		body   string
	}{
		"200":                                 {serve: holding(okAnswer), status: 200, body: "OK"},
		"201":                                 {serve: holding("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"), status: 201},
		"204":                                 {serve: holding("HTTP/1.1 204 No Content\r\n\r\n"), status: 204},
		"304 with a length":                   {serve: holding("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"), status: 304},
		"301, which is not followed":          {serve: holding("HTTP/1.1 301 Moved\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"), status: 301},
		"400":                                 {serve: writing("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nno"), status: 400, body: "no"},
		"408":                                 {serve: writing("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"), status: 408},
		"500":                                 {serve: holding("HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nbad"), status: 500, body: "bad"},
		"a status without a reason":           {serve: holding("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"), status: 200},
		"HTTP/1.0":                            {serve: writing("HTTP/1.0 200 OK\r\n\r\nold"), status: 200, body: "old"},
		"bare line feeds":                     {serve: holding("HTTP/1.1 200 OK\nContent-Length: 2\n\nOK"), status: 200},
		"chunked":                             {serve: holding("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n3;x=y\r\n!!!\r\n0\r\n\r\n"), status: 200, body: "OK!!!"},
		"1xx before the 200":                  {serve: holding("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + okAnswer), status: 200, body: "OK"},
		"1xx and 200 apart":                   {serve: dripping("", "HTTP/1.1 100 Continue\r\n\r\n"+okAnswer, time.Millisecond/4), status: 200, body: "OK"},
		"101":                                 {serve: holding("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), status: 101},
		"a head of 15 KiB":                    {serve: holding("HTTP/1.1 200 OK\r\nX: " + mib[:15<<10] + "\r\nContent-Length: 2\r\n\r\nOK"), status: 200, body: "OK"},
		"200 and a body of 64 KiB":            {serve: holding("HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + mib[:64<<10]), status: 200, body: mib[:keptBody]},
		"200 and a body of 1 MiB":             {serve: writing("HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + mib), status: 200, body: mib[:keptBody]},
		"200 and 1 MiB in chunks":             {serve: writing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1000\r\n"+mib[:4096]+"\r\n", 256) + "0\r\n\r\n"), status: 200, body: mib[:keptBody]},
		"200 and an endless body":             {serve: endless("HTTP/1.1 200 OK\r\n\r\n", mib[:4096]), status: 200, body: mib[:keptBody]},
		"200 and endless chunks":              {serve: endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nxxxxx\r\n"), status: 200, body: mib[:keptBody]},
		"200 and a body that stops":           {serve: holding("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), status: 200, body: "half"},
		"200 and a body cut off":              {serve: writing("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), status: 200, body: "half"},
		"200 and a chunk cut off":             {serve: writing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf"), status: 200, body: "half"},
		"200 and no chunk at all":             {serve: writing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), status: 200},
		"200 and a broken header":             {serve: holding("HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: x\r\n\r\n"), status: 200},
		"200 and two lengths":                 {serve: holding("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nOK!"), status: 200},
		"200 and a coding nobody knows":       {serve: holding("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), status: 200},
		"413 before the body was read":        {serve: func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\n\r\n") }, status: 413},
		"nothing, then the end":               {serve: writing(""), kind: staffetta.ErrorReset},
		"half a head, then the end":           {serve: writing("HTTP/1.1 200 OK\r\nConte"), kind: staffetta.ErrorReset},
		"a head but for its last byte":        {serve: writing("HTTP/1.1 200 OK\r\n\r"), kind: staffetta.ErrorReset},
		"a reset":                             {serve: once(resetting), kind: staffetta.ErrorReset},
		"nothing":                             {serve: holding(""), kind: staffetta.ErrorTimeout},
		"half a head":                         {serve: holding("HTTP/1.1 200 OK\r\nConte"), kind: staffetta.ErrorTimeout},
		"one byte of the head at a time":      {serve: dripping("", "HTTP/1.1 200 OK\r\nX: "+mib[:1000], 5*time.Millisecond), kind: staffetta.ErrorTimeout},
		"another protocol":                    {serve: holding("SSH-2.0-OpenSSH_9.9\r\n"), kind: staffetta.ErrorProtocol},
		"garbage":                             {serve: holding("\x00\x01\x02"), kind: staffetta.ErrorProtocol},
		"HTTP/2":                              {serve: holding("\x00\x00\x12\x04\x00\x00\x00\x00\x00"), kind: staffetta.ErrorProtocol},
		"HTTP/2 in words":                     {serve: holding("HTTP/2 200\r\n\r\n"), kind: staffetta.ErrorProtocol},
		"a status of 000":                     {serve: holding("HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n"), kind: staffetta.ErrorProtocol},
		"a status of two digits":              {serve: holding("HTTP/1.1 20 OK\r\n\r\n"), kind: staffetta.ErrorProtocol},
		"a status of four digits":             {serve: holding("HTTP/1.1 2000 OK\r\n\r\n"), kind: staffetta.ErrorProtocol},
		"a status of letters":                 {serve: holding("HTTP/1.1 abc OK\r\n\r\n"), kind: staffetta.ErrorProtocol},
		"a head of 17 KiB":                    {serve: holding("HTTP/1.1 200 OK\r\nX: " + mib[:17<<10] + "\r\n\r\n"), kind: staffetta.ErrorProtocol},
		"an endless head":                     {serve: endless("HTTP/1.1 200 OK\r\n", "X: y\r\n"), kind: staffetta.ErrorProtocol},
		"interim responses, and no other one": {serve: endless("", "HTTP/1.1 102 Processing\r\n\r\n"), kind: staffetta.ErrorProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer := testPeer(t, test.serve)
			a := attempt(t, testClient(t, ClientConfig{Deadline: 300 * time.Millisecond}), "http://"+peer)
			if a.Outcome.Status != test.status || a.Outcome.Error != test.kind {
				t.Fatalf("%v, want status %d, error %q", a.Outcome, test.status, test.kind)
			}
			if (a.Outcome.Detail == "") != (test.kind == staffetta.ErrorNone) || strings.Contains(a.Outcome.Detail, peer) {
				t.Errorf("detail %q", a.Outcome.Detail)
			}
			if string(a.Body) != test.body {
				t.Errorf("body of %d bytes %.50q, want %d", len(a.Body), a.Body, len(test.body))
			}
			if hasHead := bytes.HasPrefix(a.Head, []byte("HTTP/1.")); hasHead != (test.status != 0) || len(a.Head) > keptHead {
				t.Errorf("head %q", a.Head)
			}
			if test.kind == staffetta.ErrorTimeout && (a.Duration < 300*time.Millisecond || a.Duration > 600*time.Millisecond) {
				t.Errorf("took %v", a.Duration)
			}
		})
	}
}

// The real deadline, for every way to hang, all at once.
func TestAttemptEndsAfterFiveSecondsHoweverTheEndpointHangs(t *testing.T) {
	t.Parallel()
	silent := testPeer(t, holding(""))
	deaf := testPeer(t, func(conn net.Conn) {
		_ = conn.(*net.TCPConn).SetReadBuffer(4096)
		<-t.Context().Done()
	})
	drip := testPeer(t, dripping("", "HTTP/1.1 200 OK\r\n"+strings.Repeat("X: y\r\n", 1000), 20*time.Millisecond))
	resolver := testResolver(t, func(string) []netip.Addr { return nil })
	large := testEvent
	large.Payload = bytes.Repeat([]byte("x"), 8<<20)
	// Goroutines, not parallel subtests: of those only as many run at once as there are processors.
	var wg sync.WaitGroup
	late := make(chan struct{})
	var lateness time.Duration // of a bare timer, on a machine that has other things to do
	began := time.Now()
	time.AfterFunc(5*time.Second, func() {
		lateness = time.Since(began) - 5*time.Second
		close(late)
	})
	for name, test := range map[string]struct {
		url string
		ev  staffetta.Event
	}{
		"accepts and says nothing":        {"http://" + silent, testEvent},
		"takes no body":                   {"http://" + deaf, large},
		"says its head a byte at a time":  {"http://" + drip, testEvent},
		"never finishes its handshake":    {"https://" + silent, testEvent},
		"takes no body, and holds on TLS": {"https://" + deaf, testEvent},
		"has a name that never resolves":  {"http://never.test", testEvent},
	} {
		e := testEndpoint(t, testClient(t, ClientConfig{Resolver: resolver}), "w", test.url)
		wg.Go(func() {
			var a Attempt
			began := time.Now()
			e.Attempt(t.Context(), test.ev, 1, &a)
			took := time.Since(began)
			if a.Outcome.Error != staffetta.ErrorTimeout {
				t.Errorf("%s: %v, want a timeout", name, a.Outcome)
			}
			<-late
			if took < 5*time.Second || took > 5100*time.Millisecond+lateness || a.Duration > took {
				t.Errorf("%s: took %v, recorded %v; a timer was %v late", name, took, a.Duration, lateness)
			}
		})
	}
	wg.Wait()
}

func TestSlowBodyEndsWithTheDeadlineAndTheStatusCounts(t *testing.T) {
	t.Parallel()
	peer := testPeer(t, dripping("HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", strings.Repeat("x", 60000), time.Millisecond))
	began := time.Now()
	a := attempt(t, testClient(t, ClientConfig{Deadline: 300 * time.Millisecond}), "http://"+peer)
	if took := time.Since(began); a.Outcome.Status != 200 || len(a.Body) == 0 || took < 300*time.Millisecond || took > 600*time.Millisecond {
		t.Errorf("%v, %d bytes of the body, after %v", a.Outcome, len(a.Body), took)
	}
	if a.Duration > 250*time.Millisecond {
		t.Errorf("the head took %v", a.Duration)
	}
}

func TestStaleConnectionIsReplacedOnceAndAtOnce(t *testing.T) {
	t.Parallel()
	nothing := func(net.Conn) {}
	says := func(text string) func(net.Conn) {
		return func(conn net.Conn) { _, _ = io.WriteString(conn, text) }
	}
	for name, test := range map[string]struct {
		idle   func(net.Conn)                // what the peer does after its first answer
		next   func(net.Conn, *bufio.Reader) // and after that, before it closes
		resent bool
		kind   staffetta.ErrorKind
	}{
		"closed while idle":          {idle: func(c net.Conn) { _ = c.Close() }, resent: true},
		"reset while idle":           {idle: func(c net.Conn) { resetting(c); _ = c.Close() }, resent: true},
		"closed on the next request": {idle: nothing, next: func(_ net.Conn, br *bufio.Reader) { _, _ = br.ReadByte() }, resent: true},
		"says 408 and closes":        {idle: says("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"), resent: true},
		"has something left to say":  {idle: says("\r\n"), next: func(_ net.Conn, br *bufio.Reader) { _, _ = br.ReadByte() }, resent: true},
		"says nothing more": {idle: nothing, next: func(_ net.Conn, br *bufio.Reader) {
			_, _ = io.Copy(io.Discard, br)
		}, kind: staffetta.ErrorTimeout},
		"closes in the middle of the head": {idle: nothing, next: func(c net.Conn, br *bufio.Reader) {
			_, _ = readRequest(br)
			_, _ = io.WriteString(c, "HTTP/1.1 2")
		}, kind: staffetta.ErrorReset},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answered, spoilt := make(chan struct{}), make(chan struct{})
			var connections, requests atomic.Int32
			peer := testPeer(t, func(conn net.Conn) {
				br := bufio.NewReader(conn)
				if connections.Add(1) == 1 {
					_, _ = readRequest(br)
					_, _ = io.WriteString(conn, okAnswer)
					<-answered
					test.idle(conn)
					close(spoilt)
					if test.next != nil {
						test.next(conn, br)
					}
					return
				}
				for {
					if _, err := readRequest(br); err != nil {
						return
					}
					requests.Add(1)
					_, _ = io.WriteString(conn, okAnswer)
				}
			})
			e := testEndpoint(t, testClient(t, ClientConfig{Deadline: 500 * time.Millisecond}), "w", "http://"+peer)
			var a Attempt
			e.Attempt(t.Context(), testEvent, 1, &a)
			close(answered)
			<-spoilt
			e.Attempt(t.Context(), testEvent, 2, &a)
			if a.Outcome.Error != test.kind || a.Resent != test.resent || a.Reused == test.resent {
				t.Fatalf("%v, resent %v, reused %v", a.Outcome, a.Resent, a.Reused)
			}
			if !test.resent {
				return
			}
			if a.Outcome.Status != 200 || requests.Load() != 1 || connections.Load() != 2 || string(a.Body) != "OK" {
				t.Errorf("%v: %d requests on %d connections", a.Outcome, requests.Load(), connections.Load())
			}
			e.Attempt(t.Context(), testEvent, 3, &a)
			if a.Outcome.Status != 200 || !a.Reused || a.Resent {
				t.Errorf("the next attempt: %v, reused %v", a.Outcome, a.Reused)
			}
		})
	}
}

func TestOneStaleConnectionCondemnsTheOthers(t *testing.T) {
	t.Parallel()
	const n = 4
	var connections, begun atomic.Int32
	all, closed := make(chan struct{}), make(chan struct{}, n)
	peer := testPeer(t, func(conn net.Conn) {
		br := bufio.NewReader(conn)
		if connections.Add(1) > n {
			answering(nil, okAnswer)(conn)
			return
		}
		_, _ = readRequest(br)
		if begun.Add(1) == n {
			close(all)
		}
		<-all
		_, _ = io.WriteString(conn, okAnswer)
		_ = conn.Close()
		closed <- struct{}{}
	})
	c := testClient(t, ClientConfig{})
	e := testEndpoint(t, c, "w", "http://"+peer)
	done := make(chan staffetta.Outcome)
	for range n {
		go func() {
			var a Attempt
			e.Attempt(t.Context(), testEvent, 1, &a)
			done <- a.Outcome
		}()
	}
	for range n {
		if o := <-done; o.Status != 200 {
			t.Fatal(o)
		}
		<-closed
	}
	var a Attempt
	e.Attempt(t.Context(), testEvent, 2, &a)
	if a.Outcome.Status != 200 || !a.Resent || connections.Load() != n+1 || e.pool.hc.ConnsCount() != 1 {
		t.Errorf("%v, resent %v; %d connections made, %d open", a.Outcome, a.Resent, connections.Load(), e.pool.hc.ConnsCount())
	}
}

func TestNewConnectionThatFailsIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(net.Conn){
		"closed": once(func(net.Conn) {}), "reset": once(resetting), "closed at once": func(net.Conn) {}, "reset at once": resetting,
	} {
		var connections atomic.Int32
		peer := testPeer(t, func(conn net.Conn) {
			connections.Add(1)
			serve(conn)
		})
		a := attempt(t, testClient(t, ClientConfig{}), "http://"+peer)
		if a.Outcome.Error != staffetta.ErrorReset || a.Resent || connections.Load() != 1 {
			t.Errorf("%s: %v on %d connections", name, a.Outcome, connections.Load())
		}
	}
}

func TestConnectionIsUsedAgainOnlyAfterAWholeAnswer(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]bool{
		okAnswer:                          true,
		"HTTP/1.1 204 No Content\r\n\r\n": true,
		"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno":                                                       true,
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nOK":                             true,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n0\r\nX-Sum: 1\r\n\r\n":         true,
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 8<<10) + "\r\nContent-Length: 0\r\n\r\n":                true,
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nOK":                                  false,
		"HTTP/1.1 200 OK\r\nconnection: Foo, Close\r\nContent-Length: 2\r\n\r\nOK":                             false,
		"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nOK":                                                       false,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK" + okAnswer:                                            false,
		"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nOK":                                               false,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n" + "x": false,
	} {
		var connections atomic.Int32
		peer := testPeer(t, func(conn net.Conn) {
			connections.Add(1)
			answering(nil, answer)(conn)
		})
		e := testEndpoint(t, testClient(t, ClientConfig{}), "w", "http://"+peer)
		for n := range 2 {
			var a Attempt
			e.Attempt(t.Context(), testEvent, 1, &a)
			if a.Outcome.Error != staffetta.ErrorNone || a.Resent || a.Reused != (want && n == 1) {
				t.Errorf("%.60q, attempt %d: %v, reused %v, want %v", answer, n, a.Outcome, a.Reused, want)
			}
		}
		if got := connections.Load() == 1; got != want {
			t.Errorf("%.60q: used again %v, want %v", answer, got, want)
		}
	}
}

func TestHeadIsReadTheSameHoweverItIsCutIntoPieces(t *testing.T) {
	t.Parallel()
	long := "HTTP/1.1 201 Created\r\nX: " + strings.Repeat("y", smallHead) + "\r\nContent-Length: 4\r\n\r\nbody"
	for _, text := range []string{
		"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nbody",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
		long,
	} {
		for name, r := range map[string]io.Reader{
			"whole":           strings.NewReader(text),
			"byte by byte":    iotest.OneByteReader(strings.NewReader(text)),
			"half by half":    iotest.HalfReader(strings.NewReader(text)),
			"data with error": iotest.DataErrReader(strings.NewReader(text)),
		} {
			x := newExchange()
			x.start(r)
			var a Attempt
			status, err := x.readHead(&a)
			if err != nil || status != 201 {
				t.Fatalf("%.60q %s: %d, %v", text, name, status, err)
			}
			if !x.readBody(&a, status) || string(a.Body) != "body" {
				t.Errorf("%.60q %s: body %q", text, name, a.Body)
			}
		}
	}
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte(okAnswer))
	f.Add([]byte("HTTP/1.1 100 Continue\n\nHTTP/1.0 200\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		read := func(r io.Reader) (string, *Attempt) {
			x := newExchange()
			x.start(r)
			var a Attempt
			status, err := x.readHead(&a)
			if err != nil {
				return "none", &a
			}
			return fmt.Sprint(status, x.readBody(&a, status)), &a
		}
		whole, a := read(bytes.NewReader(data))
		pieces, b := read(iotest.OneByteReader(bytes.NewReader(data)))
		if whole[:3] != pieces[:3] || !bytes.Equal(a.Head, b.Head) {
			t.Errorf("whole: %s %q; byte by byte: %s %q", whole, a.Head, pieces, b.Head)
		}
	})
}

func TestFailuresOfThisMachineAreNotTheEndpoints(t *testing.T) {
	v4, v6 := &net.TCPAddr{IP: net.IPv4(93, 184, 215, 14), Port: 443}, &net.TCPAddr{IP: net.ParseIP("2606:4700::1"), Port: 443}
	dial := func(addr net.Addr, err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: addr, Err: err}
	}
	for _, test := range []struct {
		err  error
		late bool
		kind staffetta.ErrorKind
	}{
		{dial(v4, syscall.EMFILE), false, staffetta.ErrorLocal},
		{dial(v4, syscall.ENFILE), false, staffetta.ErrorLocal},
		{dial(v4, syscall.ENOBUFS), false, staffetta.ErrorLocal},
		{dial(v4, syscall.ENOMEM), false, staffetta.ErrorLocal},
		{dial(v4, syscall.EADDRNOTAVAIL), false, staffetta.ErrorLocal},
		{dial(v6, syscall.EADDRNOTAVAIL), false, staffetta.ErrorRefused},
		{dial(nil, &net.DNSError{Err: "dial udp 192.0.2.53:53: socket: " + syscall.EMFILE.Error()}), false, staffetta.ErrorLocal},
		{dial(nil, &net.DNSError{Err: "no such host", IsNotFound: true}), false, staffetta.ErrorDNS},
		{dial(nil, &net.DNSError{Err: "server misbehaving", IsTemporary: true}), false, staffetta.ErrorDNS},
		{dial(nil, &net.DNSError{Err: "i/o timeout", IsTimeout: true}), false, staffetta.ErrorDNS},
		{dial(nil, &net.DNSError{Err: "i/o timeout", IsTimeout: true}), true, staffetta.ErrorTimeout},
		{dial(v4, syscall.ECONNREFUSED), false, staffetta.ErrorRefused},
		{dial(v4, syscall.EHOSTUNREACH), false, staffetta.ErrorRefused},
		{dial(v4, syscall.ENETUNREACH), false, staffetta.ErrorRefused},
		{dial(v4, syscall.EPERM), false, staffetta.ErrorRefused},
		{dial(v4, syscall.ECONNRESET), false, staffetta.ErrorReset},
		{dial(v4, syscall.ETIMEDOUT), false, staffetta.ErrorTimeout},
		{dial(v4, &forbiddenAddress{netip.MustParseAddr("10.0.0.1"), "a private address"}), false, staffetta.ErrorForbidden},
	} {
		o := dialOutcome(test.err, test.late)
		if o.Error != test.kind || o.Detail == "" {
			t.Errorf("%v: %v, want %v", test.err, o, test.kind)
		}
		if strings.Contains(o.Detail, "10.0.0.1") {
			t.Errorf("%v: the detail tells an internal address: %q", test.err, o.Detail)
		}
	}
	for err, kind := range map[error]staffetta.ErrorKind{
		syscall.EPIPE: staffetta.ErrorReset, syscall.ECONNRESET: staffetta.ErrorReset, io.EOF: staffetta.ErrorReset,
		io.ErrUnexpectedEOF: staffetta.ErrorReset, net.ErrClosed: staffetta.ErrorReset,
		syscall.ENOBUFS: staffetta.ErrorLocal, syscall.ETIMEDOUT: staffetta.ErrorTimeout,
		errNotHTTP: staffetta.ErrorProtocol, errHeadTooLarge: staffetta.ErrorProtocol, errInterim: staffetta.ErrorProtocol,
	} {
		for _, begun := range []bool{false, true} {
			if o := exchangeOutcome(&net.OpError{Op: "read", Err: err}, begun); o.Error != kind || o.Detail == "" {
				t.Errorf("%v: %v, want %v", err, o, kind)
			}
		}
	}
}
