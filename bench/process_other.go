//go:build !unix

package bench

import (
	"os"
	"syscall"
	"time"
)

// usageWhileRunning says that the system tells what a running process takes.
const usageWhileRunning = false

func ownGroup() *syscall.SysProcAttr { return nil }

func usageOf(int) Usage { return Usage{} }

func endedUsage(*os.ProcessState) Usage { return Usage{} }

func processor() (name string, memory int64) { return "", 0 }

func doze(d time.Duration) { time.Sleep(d) }
