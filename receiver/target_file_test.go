package receiver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

func readFile(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAFileGetsOneLineAnEvent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	h := opened(t, FileTarget{Path: path})
	entries := []*sender.Entry{
		entryOf("a", `{"n":1.50,"t":"è"}`),
		entryOf("b", "{\r\n  \"n\": [1,\n 2]\n}"),
		entryOf("c", "name=Ada&x=\xff"),
		entryOf("d", "\"\xff\""),
		entryOf("e", ""),
		entryOf(`f"<`, "null"),
	}
	expect(t, h.handOver(t.Context(), entries, 1), 6, staffetta.ErrorNone, false, "")
	head := func(id string) string {
		return `{"event_id":"` + id + `","event_type":"message.received","received_at":"2026-01-02T03:04:05.678901Z",`
	}
	want := head("a") + `"payload":{"n":1.50,"t":"è"}}` + "\n" +
		head("b") + `"payload":{"n":[1,2]}}` + "\n" +
		head("c") + `"payload_base64":"bmFtZT1BZGEmeD3/"}` + "\n" +
		head("d") + `"payload_base64":"Iv8i"}` + "\n" +
		head("e") + `"payload_base64":""}` + "\n" +
		head(`f\"<`) + `"payload":null}` + "\n"
	if got := readFile(t, path); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for line := range strings.Lines(want) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestALineThatAKillCutShortIsEndedAtTheNextOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	if err := os.WriteFile(path, []byte("{\"event_id\":\"a\"}\n{\"event_i"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := opened(t, FileTarget{Path: path})
	expect(t, h.handOver(t.Context(), entriesOf("b", 1), 1), 1, staffetta.ErrorNone, false, "")
	lines := strings.Split(readFile(t, path), "\n")
	if len(lines) != 4 || lines[1] != `{"event_i` || !strings.Contains(lines[2], `"b-0"`) || lines[3] != "" {
		t.Errorf("lines: %q", lines)
	}
}

func TestAFileIsRotatedBySizeAndTheOldestGoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	line, _ := appendLines(nil, entriesOf("e", 1))
	h := opened(t, FileTarget{Path: path, MaxBytes: int64(2 * len(line)), Keep: 3})
	for i := range 11 {
		e := entryOf(fmt.Sprintf("e-%x", i), fmt.Sprintf(`{"contact":{"id":0},"event_id":"e-%x"}`, i))
		expect(t, h.handOver(t.Context(), []*sender.Entry{e}, 1), 1, staffetta.ErrorNone, false, "")
	}
	for name, want := range map[string]string{"": "e-a", ".1": "e-8 e-9", ".2": "e-6 e-7", ".3": "e-4 e-5"} {
		var ids []string
		for line := range strings.Lines(readFile(t, path+name)) {
			var event struct {
				ID string `json:"event_id"`
			}
			if err := json.Unmarshal([]byte(line), &event); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, event.ID)
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%s%s: %s; want %s", path, name, got, want)
		}
	}
	if _, err := os.Stat(path + ".4"); err == nil {
		t.Error("a fourth old file was kept")
	}
	expect(t, h.handOver(t.Context(), entriesOf("large", 50), 1), 50, staffetta.ErrorNone, false, "")
	if got := strings.Count(readFile(t, path), "\n"); got != 50 {
		t.Errorf("a batch that is larger than a file was split: %d lines", got)
	}
}

func TestAFileThatWasMovedAwayIsMadeAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	h := opened(t, FileTarget{Path: path})
	expect(t, h.handOver(t.Context(), entriesOf("a", 1), 1), 1, staffetta.ErrorNone, false, "")
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	expect(t, h.handOver(t.Context(), entriesOf("b", 1), 1), 1, staffetta.ErrorNone, false, "")
	if got := readFile(t, path); !strings.Contains(got, "b-0") || strings.Contains(got, "a-0") {
		t.Errorf("new file: %s", got)
	}
}

func TestAFolderThatIsNotThereIsTriedAgainLater(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "later")
	h := opened(t, FileTarget{Path: filepath.Join(folder, "events.jsonl")})
	expect(t, h.handOver(t.Context(), entriesOf("a", 1), 1), 0, staffetta.ErrorTarget, false, "the file cannot be written: no such file")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	expect(t, h.handOver(t.Context(), entriesOf("a", 1), 1), 1, staffetta.ErrorNone, false, "")
}

func TestEveryEventOfManyWritersIsInTheFilesOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	h := opened(t, FileTarget{Path: path, MaxBytes: 8 << 10, Keep: 1000})
	const writers, batches, size = 8, 20, 5
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for b := range batches {
				handed := h.handOver(t.Context(), entriesOf(fmt.Sprintf("w%d-%d", w, b), size), 1)
				if handed.Accepted != size {
					t.Errorf("handed over: %+v", handed)
				}
			}
		})
	}
	wg.Wait()
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) < 2 {
		t.Fatalf("files: %v, %v", files, err)
	}
	seen := map[string]int{}
	for _, file := range files {
		for line := range bytes.Lines([]byte(readFile(t, file))) {
			var event struct {
				ID string `json:"event_id"`
			}
			if err := json.Unmarshal(line, &event); err != nil {
				t.Fatalf("%s: %v: %s", file, err, line)
			}
			seen[event.ID]++
		}
	}
	if len(seen) != writers*batches*size {
		t.Errorf("%d events; want %d", len(seen), writers*batches*size)
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s stands %d times", id, n)
		}
	}
}

func BenchmarkFile(b *testing.B) {
	for _, size := range []int{1, 500} {
		b.Run(fmt.Sprint("batch=", size), func(b *testing.B) {
			h := opened(b, FileTarget{Path: filepath.Join(b.TempDir(), "events.jsonl")})
			entries := entriesOf("a", size)
			for b.Loop() {
				if handed := h.handOver(b.Context(), entries, 1); handed.Accepted != size {
					b.Fatalf("%+v", handed)
				}
			}
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
