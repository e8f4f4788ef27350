package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/staffetta-relay/staffetta"
)

// Relay is a running relay and the way to its API: one that the bench has started, or the target.
type Relay struct {
	// Program is nil for a target.
	Program *Program
	// Address is its host and port, Key its admin key.
	Address, Key string
	TLS          bool
	client       *fasthttp.HostClient
}

// StartRelay starts a relay with a data folder of its own under dir, or of an earlier one where
// address is given: it then takes that one's place. flags come after those of the bench.
func StartRelay(ctx context.Context, binary, dir, address, key string, flags ...string) (*Relay, error) {
	var err error
	if address == "" {
		if address, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	args := append([]string{
		"relay", "--data", dir, "--listen", address, "--admin-key", key, "--allow-private-networks",
		"--log", "failures", "--log-level", "warn", "--quota", "0", "--max-endpoints", "100000",
	}, flags...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("start relay: %w", err)
	}
	program, err := startProgram(binary, dir, "relay", args...)
	if err != nil {
		return nil, err
	}
	r := &Relay{Program: program, Address: address, Key: key}
	r.client = r.newClient()
	if err := program.awaitReady(ctx, 30*time.Second, func() error { return r.call("GET", "/readyz", nil, nil) }); err != nil {
		r.client.CloseIdleConnections()
		program.Kill()
		return nil, err
	}
	return r, nil
}

// TargetRelay is one that runs already.
func TargetRelay(target, key string) (*Relay, error) {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("--target is the URL of a relay, such as http://127.0.0.1:8080, not %q", target)
	}
	r := &Relay{Address: u.Host, TLS: u.Scheme == "https", Key: key}
	if u.Port() == "" {
		r.Address = u.Hostname() + map[bool]string{false: ":80", true: ":443"}[r.TLS]
	}
	r.client = r.newClient()
	return r, nil
}

func (r *Relay) newClient() *fasthttp.HostClient {
	return &fasthttp.HostClient{
		Addr: r.Address, IsTLS: r.TLS, MaxConns: apiConnections, MaxIdemponentCallAttempts: 1,
		ReadTimeout: time.Minute, WriteTimeout: time.Minute,
	}
}

// apiConnections is how many calls are made at a time.
const apiConnections = 8

// call makes one call of the API; in is sent and out read as JSON, where they are not nil.
func (r *Relay) call(method, path string, in, out any) error {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod(method)
	scheme := map[bool]string{false: "http://", true: "https://"}[r.TLS]
	req.SetRequestURI(scheme + r.Address + path)
	req.Header.Set(fasthttp.HeaderAuthorization, "Bearer "+r.Key)
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		req.Header.SetContentType("application/json")
		req.SetBodyRaw(body)
	}
	if err := r.client.Do(req, resp); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if status := resp.StatusCode(); status/100 != 2 {
		return fmt.Errorf("%s %s: status %d: %.500s", method, path, status, resp.Body())
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(resp.Body(), out); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// Create makes the workspaces of a layout, without a quota, and their endpoints at the sink, which
// gets their keys.
func (r *Relay) Create(ctx context.Context, l *Layout, sink *Sink) error {
	err := inParallel(ctx, len(l.Workspaces), func(i int) error {
		return r.call("PUT", "/v1/workspaces/"+l.Workspaces[i].ID, map[string]any{"plan": staffetta.PlanEnterprise, "quota": 0}, nil)
	})
	if err != nil {
		return err
	}
	return inParallel(ctx, len(l.Endpoints), func(i int) error {
		e := &l.Endpoints[i]
		var made struct {
			ID         string `json:"id"`
			SigningKey string `json:"signing_key"`
		}
		body := map[string]any{"url": sink.URL(i), "event_types": e.Types}
		if err := r.call("POST", "/v1/workspaces/"+l.Workspaces[e.Workspace].ID+"/endpoints", body, &made); err != nil {
			return err
		}
		e.ID, e.SigningKey = made.ID, made.SigningKey
		sink.SetKey(i, e.SigningKey)
		return nil
	})
}

// Remove deletes the workspaces, with all that they hold.
func (r *Relay) Remove(l *Layout) error {
	return inParallel(context.Background(), len(l.Workspaces), func(i int) error {
		return r.call("DELETE", "/v1/workspaces/"+l.Workspaces[i].ID, nil, nil)
	})
}

// inParallel does n things, some at a time, until one fails.
func inParallel(ctx context.Context, n int, do func(i int) error) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, apiConnections) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && ctx.Err() == nil; i = next.Add(1) - 1 {
				if err := do(int(i)); err != nil {
					fail(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
