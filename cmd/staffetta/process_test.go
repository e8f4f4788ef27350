package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// buildProgram builds the real program, or takes the one that STAFFETTA_TEST_BINARY names.
func buildProgram(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("STAFFETTA_TEST_BINARY"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "staffetta")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", path, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	return path
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// pause waits for d; it reports false when ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// waitUntil asks every few milliseconds until the answer is yes; it reports false when ctx ends before.
func waitUntil(ctx context.Context, every time.Duration, ask func() bool) bool {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for !ask() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// process is a running program.
type process struct {
	cmd     *exec.Cmd
	started time.Time
	ended   chan struct{} // closed once the process is gone; state and stderr may be read then
	err     error
	stderr  bytes.Buffer
}

func startProcess(t *testing.T, path string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(path, args...), started: time.Now(), ended: make(chan struct{})}
	p.cmd.Stderr = &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start the program: %v", err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() { p.end(syscall.SIGKILL) })
	return p
}

// end sends a signal and waits until the process is gone. It gives the moment of the signal.
func (p *process) end(s syscall.Signal) time.Time {
	_ = p.cmd.Process.Signal(s)
	at := time.Now()
	<-p.ended
	return at
}

// stop ends the process politely; it reports false for one that does not heed it within the time.
func (p *process) stop(within time.Duration) (time.Time, bool) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	at := time.Now()
	select {
	case <-p.ended:
		return at, true
	case <-time.After(within):
		return at, false
	}
}

// goroutines ends the process in the way that makes it print its goroutines.
func (p *process) goroutines() string {
	_ = p.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-p.ended:
	case <-time.After(5 * time.Second):
		p.end(syscall.SIGKILL)
	}
	return p.stderr.String()
}

// running reports whether the process has not ended by itself.
func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// complaints are the lines of its log that say error, and what is no line of a log at all.
func (p *process) complaints() (lines []string) {
	for line := range strings.Lines(p.stderr.String()) {
		if strings.Contains(line, `"level":"error"`) || !strings.HasPrefix(line, "{") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// apiClient speaks to a relay as its admin.
type apiClient struct {
	http fasthttp.HostClient
	key  string
}

func newAPIClient(address, key string) *apiClient {
	return &apiClient{key: key, http: fasthttp.HostClient{
		Addr: address, MaxConns: 64, MaxIdemponentCallAttempts: 1,
		ReadTimeout: 15 * time.Second, WriteTimeout: 15 * time.Second,
	}}
}

// do makes a request and gives the status and the body of the answer.
func (c *apiClient) do(method, path string, body []byte, header ...string) (int, []byte, error) {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod(method)
	req.SetRequestURI("http://" + c.http.Addr + path)
	req.Header.Set("Authorization", "Bearer "+c.key)
	if body != nil {
		req.Header.SetContentType("application/json")
		req.SetBodyRaw(body)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if err := c.http.Do(req, resp); err != nil {
		return 0, nil, err
	}
	return resp.StatusCode(), bytes.Clone(resp.Body()), nil
}

// must makes a request that has to come to a status, and reads the answer into out.
func (c *apiClient) must(t *testing.T, method, path, body string, want int, out any) {
	t.Helper()
	status, answer, err := c.do(method, path, []byte(body))
	if err == nil && status != want {
		err = fmt.Errorf("status %d, want %d: %s", status, want, answer)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(answer, out)
	}
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
}

// ready waits until the relay takes events; the error is what it said last.
func (c *apiClient) ready(ctx context.Context, p *process) (err error) {
	waitUntil(ctx, 2*time.Millisecond, func() bool {
		status, answer, failed := c.do("GET", "/readyz", nil)
		if err = failed; err == nil && status != fasthttp.StatusOK {
			err = fmt.Errorf("status %d: %s", status, answer)
		}
		return err == nil || !p.running()
	})
	return err
}

// stalls notes when goroutines that had something to do did not get to it, in this process or in one
// that is asked: what a busy machine does to every promise in milliseconds.
type stalls struct {
	mu    sync.Mutex
	found []stall
}

type stall struct{ from, to time.Time }

// stallMin is how late anything may be without a stall.
const stallMin = 5 * time.Millisecond

func (s *stalls) note(from, to time.Time) {
	if from = from.Add(stallMin); !from.Before(to) {
		return
	}
	s.mu.Lock()
	s.found = append(s.found, stall{from, to})
	s.mu.Unlock()
}

// watch looks every two milliseconds how late this process is, until ctx ends.
func (s *stalls) watch(ctx context.Context) {
	for due := time.Now().Add(2 * time.Millisecond); pause(ctx, time.Until(due)); due = time.Now().Add(2 * time.Millisecond) {
		s.note(due, time.Now())
	}
}

// ask asks a relay again and again whether it is ready, until it is gone.
func (s *stalls) ask(c *apiClient, p *process) {
	for p.running() {
		asked := time.Now()
		_, _, _ = c.do("GET", "/readyz", nil)
		s.note(asked, time.Now())
		pause(context.Background(), stallMin)
	}
}

// between is how much of a stretch of time was stalled.
func (s *stalls) between(from, to time.Time) (sum time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.found, func(a, b stall) int { return a.from.Compare(b.from) })
	for _, x := range s.found {
		if x.from.After(from) {
			from = x.from
		}
		if end := x.to; from.Before(to) && end.After(from) {
			if end.After(to) {
				end = to
			}
			sum += end.Sub(from)
			from = end
		}
	}
	return sum
}
