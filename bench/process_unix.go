//go:build unix && !linux

package bench

import (
	"os"
	"runtime"
	"syscall"
	"time"
)

// usageWhileRunning says that the system tells what a running process takes.
const usageWhileRunning = false

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// usageOf knows the bench itself alone: of a child getrusage speaks once it has ended.
func usageOf(pid int) Usage {
	var r syscall.Rusage
	if pid != os.Getpid() || syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return Usage{}
	}
	return usageFrom(&r)
}

func endedUsage(state *os.ProcessState) Usage {
	if r, ok := state.SysUsage().(*syscall.Rusage); ok {
		return usageFrom(r)
	}
	return Usage{}
}

func usageFrom(r *syscall.Rusage) Usage {
	size := int64(r.Maxrss)
	if runtime.GOOS != "darwin" && runtime.GOOS != "ios" { // which count bytes
		size *= 1024
	}
	return Usage{CPU: time.Duration(r.Utime.Nano() + r.Stime.Nano()), RSS: size, Known: true}
}

func processor() (name string, memory int64) { return "", 0 }

func doze(d time.Duration) { time.Sleep(d) }
