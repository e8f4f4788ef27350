package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// stopWithin is how long a program has to end when it is asked to.
const stopWithin = 20 * time.Second

// Program is a process that the bench has started, and ends.
type Program struct {
	name  string
	cmd   *exec.Cmd
	log   string // the file with all that it prints
	ended chan struct{}
	err   error       // once ended
	asked atomic.Bool // to stop; or its end has been reported
}

// startProgram runs a binary with its output in a file of dir.
func startProgram(path, dir, name string, args ...string) (*Program, error) {
	p := &Program{name: name, log: filepath.Join(dir, name+".log"), ended: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer func() { _ = out.Close() }()
	p.cmd = exec.Command(path, args...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = out, out, dir
	p.cmd.SysProcAttr = ownGroup() // Ctrl-C is for the bench, which stops the program in its turn
	p.cmd.Env = programEnvironment()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// programEnvironment is what a program that the bench starts gets of the bench's own. What STAFFETTA_
// variables say is for the user's programs, not for these.
func programEnvironment() (variables []string) {
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "STAFFETTA_") || strings.HasPrefix(variable, "STAFFETTA_TEST_") {
			variables = append(variables, variable)
		}
	}
	return variables
}

// Running reports whether the process has not ended.
func (p *Program) Running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// PID is the process's number.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Stop asks the process to end, and kills it if it does not; it does nothing after Kill or another
// Stop. The error says that it had failed before,
// would not end, or ended with a failure; it shows the end of its log.
func (p *Program) Stop() error {
	if !p.Running() {
		if p.asked.Load() {
			return nil
		}
		return p.failure("has ended by itself")
	}
	p.asked.Store(true)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopWithin)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		p.Kill()
		return p.failure(fmt.Sprintf("did not stop within %s", stopWithin))
	}
	if p.err != nil {
		return p.failure("failed when it stopped")
	}
	return nil
}

// Kill ends the process as a power switch does.
func (p *Program) Kill() {
	p.asked.Store(true)
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// failure is an error about the program that shows the end of its log. One is enough: Stop adds none.
func (p *Program) failure(what string) error {
	p.asked.Store(true)
	text := fmt.Sprintf("the %s %s", p.name, what)
	if !p.Running() && p.err != nil {
		text += fmt.Sprintf(" (%v)", p.err)
	}
	if tail := p.Tail(); tail != "" {
		text += "; the end of its log:\n" + tail
	}
	return errors.New(text)
}

// Tail is the end of what the program has printed.
func (p *Program) Tail() string {
	const lines, most = 15, 8 << 10
	f, err := os.Open(p.log)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	text, _ := io.ReadAll(f)
	all := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// Usage is what a process has taken from the machine so far.
type Usage struct {
	// CPU is the time of all cores, in steps of 10 ms on Linux.
	CPU time.Duration
	// RSS is the memory in bytes: what it has on Linux, the most it had elsewhere.
	RSS int64
	// Known is false where the system does not say, or only once the process has ended.
	Known bool
}

// Usage asks the system.
func (p *Program) Usage() Usage {
	if !p.Running() {
		return endedUsage(p.cmd.ProcessState)
	}
	return usageOf(p.PID())
}

// freeAddress is an address of the loopback that nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	address := l.Addr().String()
	return address, l.Close()
}

// awaitReady asks every few milliseconds until the answer is yes, the program ends, or ctx does.
func (p *Program) awaitReady(ctx context.Context, within time.Duration, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if !p.Running() {
			return p.failure("has ended by itself")
		}
		if !pause(ctx, 5*time.Millisecond) {
			return p.failure(fmt.Sprintf("is not ready within %s: %v", within, err))
		}
	}
}
