package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"time"
)

// helper is a process of the bench's own program with a scenario that is in no list: one end of a floor that
// the program under test has in another process, too. It says one line of JSON on its standard output.
type helper struct {
	name     string
	cmd      *exec.Cmd
	stdin    io.WriteCloser
	stdout   io.Reader
	problems bytes.Buffer // its standard error, whole once it has ended
}

// startHelper starts the program with the scenario name. The end of ctx kills it; hear or end must be called
// to know that it is gone.
func startHelper(ctx context.Context, binary, name string, args ...string) (*helper, error) {
	h := &helper{name: name, cmd: exec.CommandContext(ctx, binary, append([]string{"bench", name}, args...)...)}
	h.cmd.Stderr, h.cmd.Env, h.cmd.SysProcAttr = &h.problems, programEnvironment(), ownGroup()
	var err error
	if h.stdin, err = h.cmd.StdinPipe(); err == nil {
		h.stdout, err = h.cmd.StdoutPipe()
	}
	if err == nil {
		err = h.cmd.Start()
	}
	if err != nil {
		return nil, h.failure(err)
	}
	return h, nil
}

// hear reads what the helper says, and kills it where it says nothing in time. After an error it has ended.
func (h *helper) hear(v any, within time.Duration) error {
	timer := time.AfterFunc(within, func() { _ = h.cmd.Process.Kill() })
	defer timer.Stop()
	err := json.NewDecoder(h.stdout).Decode(v)
	if err == nil {
		return nil
	}
	if failed := h.end(); failed != nil { // which says more
		return failed
	}
	return fmt.Errorf("read what the %s says: %w", h.name, err)
}

// end closes the standard input, which ends the helper, and waits for it.
func (h *helper) end() error {
	_ = h.stdin.Close() // it may be closed
	timer := time.AfterFunc(stopWithin, func() { _ = h.cmd.Process.Kill() })
	defer timer.Stop()
	_, _ = io.Copy(io.Discard, h.stdout) // Wait would close it before its end
	if err := h.cmd.Wait(); err != nil {
		return h.failure(err)
	}
	return nil
}

// failure is an error about a helper that has ended, with what it printed of it.
func (h *helper) failure(err error) error {
	return fmt.Errorf("the %s failed (%w): %s", h.name, err, bytes.TrimSpace(h.problems.Bytes()))
}

// loopbackTarget is the --target of a helper. The UsageError says what it must be: a helper is for this machine
// alone.
func loopbackTarget(target, mustBe string) (*url.URL, error) {
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "http" || !onThisMachine(u.Hostname()) {
		return nil, UsageError("--target must be " + mustBe)
	}
	return u, nil
}
