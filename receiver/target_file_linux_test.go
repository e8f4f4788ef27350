package receiver

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/staffetta-relay/staffetta"
)

func TestADiskThatIsFullTakesNoPartOfABatch(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	folder := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a small disk: %s", out)
	}
	t.Cleanup(func() { _ = syscall.Unmount(folder, syscall.MNT_DETACH) })
	path := filepath.Join(folder, "events.jsonl")
	h := opened(t, FileTarget{Path: path})
	expect(t, h.handOver(t.Context(), entriesOf("a", 3), 1), 3, staffetta.ErrorNone, false, "")
	before := readFile(t, path)
	expect(t, h.handOver(t.Context(), entriesOf("big", 2000), 1), 0, staffetta.ErrorTarget, false, "no space left on device")
	if got := readFile(t, path); got != before {
		t.Fatalf("%d bytes of the batch stayed", len(got)-len(before))
	}
	expect(t, h.handOver(t.Context(), entriesOf("b", 3), 1), 3, staffetta.ErrorNone, false, "")
	if got := readFile(t, path); !strings.HasPrefix(got, before) || strings.Count(got, "\n") != 6 {
		t.Errorf("file: %s", got)
	}
}
