package sender

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

func TestConnectionsAreReusedWithinAWorkspaceOnly(t *testing.T) {
	t.Parallel()
	var accepted atomic.Int32
	peer := testPeer(t, func(conn net.Conn) {
		accepted.Add(1)
		answering(nil, okAnswer)(conn)
	})
	c := testClient(t, ClientConfig{})
	first, second := testEndpoint(t, c, "a", "http://"+peer+"/1"), testEndpoint(t, c, "a", "http://"+peer+"/2")
	other := testEndpoint(t, c, "b", "http://"+peer+"/1")
	for i, e := range []*Endpoint{first, second, first, other, other} {
		var a Attempt
		e.Attempt(t.Context(), testEvent, 1, &a)
		if want := i != 0 && i != 3; a.Outcome.Status != 200 || a.Reused != want {
			t.Fatalf("attempt %d: %v, reused %v", i, a.Outcome, a.Reused)
		}
		if a.Remote != peer {
			t.Errorf("attempt %d: remote %q, want %q", i, a.Remote, peer)
		}
		if a.Reused && a.Connect != 0 || !a.Reused && a.Connect <= 0 || a.FirstByte <= 0 || a.Duration < a.FirstByte {
			t.Errorf("attempt %d: connect %v, first byte %v, in all %v", i, a.Connect, a.FirstByte, a.Duration)
		}
	}
	if n := accepted.Load(); n != 2 {
		t.Errorf("%d connections, want one for each workspace", n)
	}
}

func TestWorkspaceThatHangsDelaysNoOther(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 10)
	peer := testPeer(t, func(conn net.Conn) {
		br := bufio.NewReader(conn)
		for {
			r, err := readRequest(br)
			if err != nil {
				return
			}
			if strings.Contains(r.line, "/hang") {
				arrived <- struct{}{}
				continue
			}
			_, _ = io.WriteString(conn, okAnswer)
		}
	})
	c := testClient(t, ClientConfig{InFlightPerWorkspace: 3})
	ctx, cancel := context.WithCancel(t.Context())
	var hanging sync.WaitGroup
	e := testEndpoint(t, c, "a", "http://"+peer+"/hang")
	var waiting Attempt
	for range 3 {
		hanging.Go(func() { e.Attempt(ctx, testEvent, 1, &Attempt{}) })
	}
	for range 3 {
		<-arrived
	}
	hanging.Go(func() { e.Attempt(ctx, testEvent, 1, &waiting) })

	other := testEndpoint(t, c, "b", "http://"+peer+"/ok")
	for range 10 {
		var a Attempt
		if other.Attempt(t.Context(), testEvent, 1, &a); a.Outcome.Status != 200 || a.Duration > time.Second {
			t.Errorf("the other workspace: %v after %v", a.Outcome, a.Duration)
		}
	}
	cancel()
	hanging.Wait()
	if waiting.Outcome.Error != staffetta.ErrorLocal || len(arrived) != 0 {
		t.Errorf("the attempt without a slot: %v, %d more arrived", waiting.Outcome, len(arrived))
	}
}

func TestWaitForASlotIsNotPartOfTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := memoryClient(t, ClientConfig{InFlightPerWorkspace: 1}, func(*fasthttp.RequestCtx) { <-time.After(4 * time.Second) })
		e := testEndpoint(t, c, "w", "http://e.test/")
		began := time.Now()
		var wg sync.WaitGroup
		attempts := make([]Attempt, 3)
		for i := range attempts {
			wg.Go(func() { e.Attempt(t.Context(), testEvent, 1, &attempts[i]) })
		}
		wg.Wait()
		if took := time.Since(began); took != 12*time.Second {
			t.Errorf("three attempts one after another took %v", took)
		}
		for _, a := range attempts {
			if a.Outcome.Status != 200 || a.Duration != 4*time.Second {
				t.Errorf("%v after %v", a.Outcome, a.Duration)
			}
		}
	})
}

func TestAttemptIsCutOffWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	peer := testPeer(t, func(conn net.Conn) {
		br := bufio.NewReader(conn)
		for {
			r, err := readRequest(br)
			if err != nil {
				return
			}
			if r.field("Staffetta-Attempt") == "2" {
				arrived <- struct{}{}
				continue
			}
			_, _ = io.WriteString(conn, okAnswer)
		}
	})
	e := testEndpoint(t, testClient(t, ClientConfig{}), "w", "http://"+peer)
	var a Attempt
	for _, reused := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		if reused {
			e.Attempt(ctx, testEvent, 1, &a)
		}
		go func() {
			<-arrived
			cancel()
		}()
		e.Attempt(ctx, testEvent, 2, &a)
		if a.Outcome.Error != staffetta.ErrorLocal || a.Reused != reused || a.Duration > 2*time.Second {
			t.Errorf("reused %v: %v after %v", a.Reused, a.Outcome, a.Duration)
		}
		e.Attempt(ctx, testEvent, 1, &a)
		if a.Outcome.Error != staffetta.ErrorLocal || a.Remote != "" {
			t.Errorf("with an ended context: %v at %q", a.Outcome, a.Remote)
		}
	}
	// A connection that an ended context has closed is not offered to the next attempt.
	ctx, cancel := context.WithCancel(t.Context())
	e.Attempt(ctx, testEvent, 1, &a)
	cancel()
	e.Attempt(t.Context(), testEvent, 1, &a)
	if a.Outcome.Status != 200 || a.Reused {
		t.Errorf("after the end of another's context: %v, reused %v", a.Outcome, a.Reused)
	}
}

func TestEndpointIsSafeForConcurrentAttempts(t *testing.T) {
	t.Parallel()
	requests := make(chan testRequest, 400)
	peer := testPeer(t, answering(requests, okAnswer))
	e := testEndpoint(t, testClient(t, ClientConfig{}), "w", "http://"+peer)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			var a Attempt
			for i := range 50 {
				ev := staffetta.Event{ID: fmt.Sprintf("%d-%d", worker, i), Payload: fmt.Appendf(nil, `{"n":%d}`, worker*1000+i)}
				e.Attempt(t.Context(), ev, 1, &a)
				if a.Outcome.Status != 200 || string(a.Body) != "OK" {
					t.Errorf("%v, body %q", a.Outcome, a.Body)
				}
			}
		})
	}
	wg.Wait()
	for range 400 {
		r := <-requests
		if err := staffetta.VerifyRespondIO([]string{testKey}, r.field("X-Webhook-Signature"), []byte(r.body)); err != nil {
			t.Fatal(err)
		}
		if err := staffetta.VerifyStandard([]string{testKey}, r.field("webhook-id"), r.field("webhook-timestamp"),
			r.field("webhook-signature"), []byte(r.body), time.Now(), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNothingIsLeftOfEndpointsThatWereClosed(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{}, 2)
	peer := testPeer(t, func(conn net.Conn) {
		answering(nil, okAnswer)(conn)
		gone <- struct{}{}
	})
	c := testClient(t, ClientConfig{})
	var endpoints []*Endpoint
	for i := range 100 {
		endpoints = append(endpoints, testEndpoint(t, c, fmt.Sprint("w", i%2), fmt.Sprintf("http://%s/%d", peer, i)))
	}
	if n := len(c.tenants); n != 2 {
		t.Errorf("%d workspaces, want 2", n)
	}
	for _, e := range endpoints[:2] {
		e.Attempt(t.Context(), testEvent, 1, &Attempt{})
	}
	for _, e := range endpoints {
		e.Close()
		e.Close()
	}
	if n := len(c.tenants); n != 0 {
		t.Errorf("%d workspaces are left", n)
	}
	<-gone
	<-gone
}
