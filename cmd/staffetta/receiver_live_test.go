package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/receiver"
)

// liveReceiver is a whole receiver that speaks real TCP, on the loopback alone.
type liveReceiver struct {
	t              testing.TB
	address, admin string
	http           *http.Client
	log            *textLog
	stop           func() // as SIGTERM does
}

// receiveLive runs a receiver on the folder until the test ends or stop is called.
func receiveLive(t testing.TB, dir string, sources []receiver.Source, change ...func(*receiverSettings)) *liveReceiver {
	t.Helper()
	l := &liveReceiver{t: t, http: newHTTPClient(t), log: &textLog{}}
	settings := receiverSettings{
		config:      receiver.Config{Listen: "127.0.0.1:0", Sources: sources},
		adminListen: "127.0.0.1:0", data: dir, adminKey: testAdminKey, log: zerolog.New(l.log),
	}
	for _, f := range change {
		f(&settings)
	}
	settings.config.Log = settings.log
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- runReceiver(ctx, settings, func(r *receiver.Receiver, admin net.Addr) {
			l.address, l.admin = r.Addr().String(), admin.String()
			close(ready)
		})
	}()
	l.stop = sync.OnceFunc(func() {
		l.http.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the receiver stopped with: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("the receiver did not start: %v", err)
	}
	t.Cleanup(l.stop)
	return l
}

// sourceTo is a source with a fresh target at an address of HTTP.
func sourceTo(path string, scheme staffetta.Scheme, url string, keys ...string) receiver.Source {
	return receiver.Source{
		Path: path, Verify: scheme, Keys: keys,
		To: []receiver.Target{{HTTP: &receiver.HTTPTarget{URL: url}}},
	}
}

// post sends a body with headers, in pairs of name and value.
func (l *liveReceiver) post(path, body string, headers ...string) reply {
	l.t.Helper()
	return l.do("POST", "http://"+l.address+path, body, headers...)
}

func (l *liveReceiver) do(method, url, body string, headers ...string) reply {
	l.t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := l.http.Do(req)
	if err != nil {
		l.t.Fatalf("%s %s: %v", method, url, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatalf("%s %s: %v", method, url, err)
	}
	return reply{resp.StatusCode, resp.Header, answer}
}

// metric is the value of a line of /metrics, "" where there is none.
func (l *liveReceiver) metric(line string) string {
	l.t.Helper()
	for text := range strings.Lines(string(l.do("GET", "http://"+l.admin+"/metrics", "").body)) {
		if value, ok := strings.CutPrefix(text, line+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// refused is how many webhooks of a source had no good signature.
func (l *liveReceiver) refused(source string) string {
	l.t.Helper()
	return l.metric(fmt.Sprintf(`staffetta_receiver_requests_total{result="signature",source=%q}`, source))
}

// raw sends bytes over a connection of its own and gives what comes back until it is closed, or until
// the number of answers.
func (l *liveReceiver) raw(text string, answers int) string {
	l.t.Helper()
	conn, err := net.Dial("tcp", l.address)
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		l.t.Fatal(err)
	}
	var got bytes.Buffer
	buffer := make([]byte, 4096)
	for {
		n, err := conn.Read(buffer)
		got.Write(buffer[:n])
		if complete(got.String()) >= answers || err != nil {
			return got.String()
		}
	}
}

// complete counts the answers in a text that are there with their bodies.
func complete(text string) (n int) {
	for text != "" {
		head, rest, ok := strings.Cut(text, "\r\n\r\n")
		_, after, found := strings.Cut(strings.ToLower(head), "content-length: ")
		var length int
		if _, err := fmt.Sscan(after, &length); !ok || !found || err != nil || len(rest) < length {
			return n
		}
		n, text = n+1, rest[length:]
	}
	return n
}
