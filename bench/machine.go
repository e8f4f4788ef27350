package bench

import (
	"fmt"
	"runtime"
	"strings"
)

// machine says in a line what the figures were measured on.
func machine() string {
	parts := []string{fmt.Sprintf("%d cores", runtime.NumCPU())}
	name, memory := processor()
	if name != "" {
		parts[0] += " of " + name
	}
	if memory > 0 {
		parts = append(parts, fmt.Sprintf("%.0f GiB", float64(memory)/(1<<30)))
	}
	return strings.Join(append(parts, runtime.GOOS+"/"+runtime.GOARCH, runtime.Version()), ", ")
}
