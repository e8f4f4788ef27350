package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// usageWhileRunning says that the system tells what a running process takes.
const usageWhileRunning = true

// tick is what /proc counts CPU time in: 1/100 s on every architecture that Go knows.
const tick = 10 * time.Millisecond

// usageOf reads /proc.
func usageOf(pid int) Usage {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name before may hold anything
	fields := strings.Fields(rest)
	if len(fields) < 22 {
		return Usage{}
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	pages, _ := strconv.ParseInt(fields[21], 10, 64)
	return Usage{CPU: time.Duration(user+system) * tick, RSS: pages * int64(os.Getpagesize()), Known: true}
}

// endedUsage is what a process took in all.
func endedUsage(state *os.ProcessState) Usage {
	if r, ok := state.SysUsage().(*syscall.Rusage); ok {
		return Usage{CPU: state.UserTime() + state.SystemTime(), RSS: r.Maxrss << 10, Known: true}
	}
	return Usage{}
}

// processor is the name of the machine's, and its memory in bytes.
func processor() (name string, memory int64) {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range bytes.Lines(info) {
		if key, value, ok := bytes.Cut(line, []byte(":")); ok && string(bytes.TrimSpace(key)) == "model name" {
			name = string(bytes.TrimSpace(value))
			break
		}
	}
	var system syscall.Sysinfo_t
	if syscall.Sysinfo(&system) == nil {
		memory = int64(system.Totalram) * int64(system.Unit)
	}
	return name, memory
}

// doze sleeps in the system, with a thread of its own: exact to tens of microseconds.
func doze(d time.Duration) {
	for left := syscall.NsecToTimespec(d.Nanoseconds()); syscall.Nanosleep(&left, &left) == syscall.EINTR; {
	}
}
