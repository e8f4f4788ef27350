package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/receiver"
)

// passThrough runs a receiver with a source at /hooks/crm, and the handler behind everything else.
func passThrough(t *testing.T, behind http.HandlerFunc) (*liveReceiver, *liveSink) {
	t.Helper()
	server := httptest.NewServer(behind)
	t.Cleanup(server.Close)
	return passTo(t, server.URL)
}

func passTo(t *testing.T, upstream string) (*liveReceiver, *liveSink) {
	t.Helper()
	sink := startLiveSink(t)
	return receiveLive(t, t.TempDir(), []receiver.Source{sourceTo("/hooks/crm", staffetta.SchemeRespondIO, sink.url, testHookKey)}, func(s *receiverSettings) {
		s.config.Upstream = upstream
	}), sink
}

func TestReceiverPassesOtherPathsThroughAndAnswersItsSourcesItself(t *testing.T) {
	var asked atomic.Pointer[http.Request]
	l, sink := passThrough(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked.Store(r)
		for name, value := range map[string]string{
			"Connection": "X-Hop", "X-Hop": "gone", "Keep-Alive": "timeout=7", "Proxy-Authenticate": "Basic", "X-End": "kept", "Content-Type": "text/x",
		} {
			w.Header().Set(name, value)
		}
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.WriteHeader(http.StatusTeapot)
		_, _ = fmt.Fprintf(w, "%s %s", r.Method, body)
	})
	r := l.do("PATCH", "http://"+l.address+"/a%2Fb//c?x=%20&y=a%26b", "hello", "Host", "crm.example", "Connection", "X-Once", "X-Once", "gone",
		"Keep-Alive", "timeout=7", "Proxy-Authorization", "Basic x", "Te", "trailers", "X-Forwarded-For", "203.0.113.7", "Authorization", "Bearer kept", "X-Twice", "1")
	got := asked.Load()
	if r.status != http.StatusTeapot || string(r.body) != "PATCH hello" || got.RequestURI != "/a%2Fb//c?x=%20&y=a%26b" {
		t.Errorf("%s is answered with %d %q", got.RequestURI, r.status, r.body)
	}
	for name, want := range map[string]string{
		"X-Once": "", "Keep-Alive": "", "Proxy-Authorization": "", "Te": "", "Connection": "", "Authorization": "Bearer kept", "X-Twice": "1",
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": l.address,
	} {
		if have := got.Header.Get(name); have != want {
			t.Errorf("the upstream gets %s %q, want %q", name, have, want)
		}
	}
	for name, want := range map[string]string{
		"X-Hop": "", "Keep-Alive": "", "Proxy-Authenticate": "", "X-End": "kept", "Content-Type": "text/x",
	} {
		if have := r.header.Get(name); have != want {
			t.Errorf("the client gets %s %q, want %q", name, have, want)
		}
	}
	if cookies := r.header.Values("Set-Cookie"); fmt.Sprint(cookies) != "[a=1 b=2]" {
		t.Errorf("the client gets the cookies %v", cookies)
	}
	for _, path := range []string{"/", "/healthz", "/metrics", "/hooks/crm/", "/hooks"} {
		if r := l.do("GET", "http://"+l.address+path, ""); r.status != http.StatusTeapot {
			t.Errorf("%s is answered with %d, want the upstream's", path, r.status)
		}
	}
	body := hook{1, 1}.body()
	if r := l.post("/hooks/crm", body, "X-Webhook-Signature", respondIOSignature(t, testHookKey, body)); r.status != 200 {
		t.Errorf("a webhook is answered with %d", r.status)
	}
	if r := l.post("/hooks/crm", body, "X-Webhook-Signature", "wrong"); r.status != 401 {
		t.Errorf("a forged webhook is answered with %d", r.status)
	}
	sink.wait(t, 1)
}

func TestReceiverPassesBodiesThroughAsTheyComeBothWays(t *testing.T) {
	pieces, answered := make(chan string, 10), make(chan bool)
	l, _ := passThrough(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/up" {
			buffer := make([]byte, 100)
			for {
				n, err := r.Body.Read(buffer)
				if n > 0 {
					pieces <- string(buffer[:n])
				}
				if err != nil {
					return
				}
			}
		}
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "piece %d", i)
			w.(http.Flusher).Flush()
			select {
			case <-answered:
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Second):
				panic(http.ErrAbortHandler)
			}
		}
	})
	// Every piece must be there before the next one is sent.
	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() {
		req, _ := http.NewRequest("POST", "http://"+l.address+"/up", reader)
		resp, err := l.http.Do(req)
		if err == nil {
			err = resp.Body.Close()
		}
		done <- err
	}()
	for i := range 3 {
		_, _ = fmt.Fprintf(writer, "piece %d", i)
		select {
		case got := <-pieces:
			if got != fmt.Sprintf("piece %d", i) {
				t.Errorf("the upstream got %q", got)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("piece %d of a request did not come before the next was sent", i)
		}
	}
	_ = writer.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	resp, err := l.http.Get("http://" + l.address + "/down")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	buffer := make([]byte, 100)
	for i := range 3 {
		n, err := io.ReadAtLeast(resp.Body, buffer, len("piece 0"))
		if err != nil || string(buffer[:n]) != fmt.Sprintf("piece %d", i) {
			t.Fatalf("the client got %q, %v", buffer[:n], err)
		}
		answered <- true
	}
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("behind the pieces came %q, %v", rest, err)
	}
}

// All bodies of webhooks together have 256 MiB; what passes through is held to no bound, and is not held.
func TestReceiverPassesMoreThroughThanItWouldHoldInMemory(t *testing.T) {
	const size = 300 << 20
	var most atomic.Uint64
	watch := func(n int64) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most.Store(max(most.Load(), m.HeapAlloc))
	}
	l, _ := passThrough(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		watch(n)
		if r.Method == http.MethodPost {
			_, _ = fmt.Fprintf(w, "%d %v", n, err)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = io.CopyN(w, zeros{}, size/2)
		watch(n)
		_, _ = io.CopyN(w, zeros{}, size/2)
	})
	for name, length := range map[string]int64{"with a length": size, "in chunks": -1} {
		req, err := http.NewRequest("POST", "http://"+l.address+"/big", io.LimitReader(zeros{}, size))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		resp, err := l.http.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		answer, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if want := fmt.Sprintf("%d <nil>", size); string(answer) != want {
			t.Errorf("%s: the upstream got %d %s, want %s", name, resp.StatusCode, answer, want)
		}
	}
	resp, err := l.http.Get("http://" + l.address + "/big")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Errorf("the client got %d bytes, %v", n, err)
	}
	if n := most.Load(); n > size/2 {
		t.Errorf("%d MiB of memory were in use", n>>20)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestReceiverAnswers502WhileTheUpstreamIsDownAndTakesWebhooksAllTheSame(t *testing.T) {
	l, sink := passTo(t, "http://"+closedPort(t))
	for range 3 {
		if r := l.post("/page", "x"); r.status != http.StatusBadGateway {
			t.Errorf("the upstream is down, and the answer %d", r.status)
		}
	}
	body := hook{1, 1}.body()
	if r := l.post("/hooks/crm", body, "X-Webhook-Signature", respondIOSignature(t, testHookKey, body)); r.status != 200 {
		t.Errorf("a webhook is answered with %d", r.status)
	}
	sink.wait(t, 1)
}

// An answer that breaks off must not look whole.
func TestReceiverDoesNotMakeAnAnswerWholeThatBrokeOff(t *testing.T) {
	l, _ := passThrough(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/sized" {
			w.Header().Set("Content-Length", "1000")
		}
		_, _ = io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	for _, path := range []string{"/sized", "/chunked"} {
		resp, err := l.http.Get("http://" + l.address + path)
		if err != nil {
			continue
		}
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%s came as %q, without an error", path, body)
		}
		_ = resp.Body.Close()
	}
}

func TestReceiverPassesAWebSocketThrough(t *testing.T) {
	l, _ := passThrough(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || !strings.EqualFold(r.Header.Get("Connection"), "Upgrade") {
			w.WriteHeader(http.StatusUpgradeRequired)
			return
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer func() { _ = conn.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nfirst")
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		_, _ = rw.WriteString("echo " + line)
		_ = rw.Flush()
		_, _ = rw.ReadString('\n') // until the other end goes
	})
	conn := dialLive(t, l)
	_, _ = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: k\r\n\r\n")
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != "x" || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("the upgrade is answered with %v, %v", resp, err)
	}
	first := make([]byte, 5)
	if _, err := io.ReadFull(reader, first); err != nil || !bytes.Equal(first, []byte("first")) {
		t.Errorf("first came %q, %v", first, err)
	}
	_, _ = io.WriteString(conn, "hello\n")
	if line, err := reader.ReadString('\n'); err != nil || line != "echo hello\n" {
		t.Errorf("back came %q, %v", line, err)
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	if _, err := reader.ReadByte(); err == nil {
		t.Error("the tunnel outlives its ends")
	}
}
