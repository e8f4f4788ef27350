//go:build !race

package sender

import (
	"context"
	"io"
	"net"
	"testing"
)

// The race detector allocates, and makes pools forget.
func TestAttemptOnAReusedConnectionAllocatesNothing(t *testing.T) {
	ev := testEvent
	ev.Payload = benchPayload()
	answer := []byte("HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nOK")
	buf := make([]byte, 64<<10)
	var size int
	peer := testPeer(t, func(conn net.Conn) {
		first, _ := conn.Read(buf)
		for size = first; ; {
			if _, err := conn.Write(answer); err != nil {
				return
			}
			if _, err := io.ReadFull(conn, buf[:size]); err != nil {
				return
			}
		}
	})
	e := testEndpoint(t, testClient(t, ClientConfig{}), "w", "http://"+peer+"/hook")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var a Attempt
	e.Attempt(ctx, ev, 1, &a)
	allocs := testing.AllocsPerRun(1000, func() {
		e.Attempt(ctx, ev, 1, &a)
		if a.Outcome.Status != 200 || !a.Reused {
			t.Fatalf("%v, reused %v", a.Outcome, a.Reused)
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations an attempt, want none", allocs)
	}
}
