package embed_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/staffetta-relay/staffetta/embed"
	"github.com/staffetta-relay/staffetta/embed/embedtest"
)

// childEnv makes the test binary a process that owns the folder it names and publishes into it until
// it is killed, one line on standard output for each acknowledged event.
const childEnv = "STAFFETTA_EMBED_TEST_FOLDER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		fmt.Println(publishForEver(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func publishForEver(dir string) error {
	ctx := context.Background()
	s, err := embed.Start(ctx, embed.Config{Dir: dir, Layout: embed.Layout{Shards: 1}})
	if err != nil {
		return err
	}
	nc, err := s.Connect("child")
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	for {
		ack, err := js.Publish(ctx, "events.0.a", bytes.Repeat([]byte("x"), 1000))
		if err != nil {
			return err
		}
		fmt.Println(ack.Sequence)
	}
}

// child starts such a process and returns it with what it says.
func child(t *testing.T, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

func TestASecondProcessIsToldWhoHoldsTheFolder(t *testing.T) {
	dir := t.TempDir()
	owner, says := child(t, dir)
	if !says.Scan() {
		t.Fatal("the child said nothing")
	}
	_, err := embed.Start(t.Context(), embed.Config{Dir: dir, Layout: embed.Layout{Shards: 1}})
	if !errors.Is(err, embed.ErrLocked) || !strings.Contains(err.Error(), dir) ||
		!strings.Contains(err.Error(), "pid "+strconv.Itoa(owner.Process.Pid)) {
		t.Errorf("start on a held folder: %v", err)
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait()
	embedtest.Start(t, dir, 1)
}

func TestAKilledProcessLosesNothingThatWasAcknowledged(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		owner, says := child(t, dir)
		var last uint64
		for range 2000 {
			if !says.Scan() {
				t.Fatal("the child ended")
			}
			if n, err := strconv.ParseUint(says.Text(), 10, 64); err == nil {
				last = n
			} else {
				t.Fatalf("the child said %q", says.Text())
			}
		}
		if err := owner.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for says.Scan() { // what it had said by then
			if n, err := strconv.ParseUint(says.Text(), 10, 64); err == nil {
				last = n
			}
		}
		_ = owner.Wait()

		log := new(bytes.Buffer)
		s := embedtest.Start(t, dir, 1, func(c *embed.Config) { c.Log = zerolog.New(log) })
		state := state(t, embedtest.JetStream(t, s), "EVENTS_0")
		if state.Msgs < last || state.LastSeq < last || state.FirstSeq != 1 {
			t.Errorf("round %d: %d acknowledged, %d recovered", round, last, state.Msgs)
		}
		if !strings.Contains(log.String(), "did not end cleanly") || bytes.Count(log.Bytes(), []byte("\n")) > 2 {
			t.Errorf("round %d logged:\n%s", round, log)
		}
		s.Shutdown()
	}
}

func TestAFolderOfAnotherFormatIsRefused(t *testing.T) {
	for format, say := range map[string]string{"1": "deliver what waits", "3": "a newer one"} {
		dir := t.TempDir()
		embedtest.Start(t, dir, 1).Shutdown()
		edit(t, filepath.Join(dir, "staffetta.json"), func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"format": 2`), []byte(`"format": `+format), 1)
		})
		_, err := embed.Start(t.Context(), embed.Config{Dir: dir, Layout: embed.Layout{Shards: 1}})
		if !errors.Is(err, embed.ErrLayout) || !strings.Contains(err.Error(), "format "+format) || !strings.Contains(err.Error(), say) {
			t.Errorf("start on a folder of format %s: %v", format, err)
		}
	}
}

func TestALayoutFileThatCannotBeReadIsDamage(t *testing.T) {
	for _, content := range []string{"", "{", "{}", `{"format":1}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "staffetta.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := embed.Start(t.Context(), embed.Config{Dir: dir})
		if !errors.Is(err, embed.ErrDamaged) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// The folder of a stream in these tests, and its only block.
const (
	streamDir = "jetstream/$G/streams/EVENTS_0"
	blockFile = streamDir + "/msgs/1.blk"
)

// stored is a folder with 100 events on two subjects in one stream, as a kill leaves it, or as a
// clean end does.
func stored(t *testing.T, killed bool) string {
	t.Helper()
	dir, copied := t.TempDir(), t.TempDir()
	s := embedtest.Start(t, dir, 1)
	js := embedtest.JetStream(t, s)
	for i := range 100 {
		if _, err := js.Publish(t.Context(), fmt.Sprintf("events.0.%c", 'a'+i%2), fmt.Appendf(nil, "message-%03d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if killed {
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		s.Shutdown()
		return copied
	}
	s.Shutdown()
	return dir
}

func edit(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// flip changes a bit of message 50: of its content, or of its record's length.
func flip(part string) func([]byte) []byte {
	return func(b []byte) []byte {
		content := bytes.Index(b, []byte("message-050"))
		if part == "length" {
			content -= len("events.0.a") + 22
		}
		b[content] ^= 1
		return b
	}
}

// accept gives a stream's loss up, the way the error says.
func accept(t *testing.T, dir, stream string) {
	t.Helper()
	edit(t, filepath.Join(dir, "staffetta.json"), func(b []byte) []byte {
		var plan map[string]any
		if err := json.Unmarshal(b, &plan); err != nil {
			t.Fatal(err)
		}
		plan["streams"] = slices.DeleteFunc(plan["streams"].([]any), func(name any) bool { return name == stream })
		b, err := json.Marshal(plan)
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

func TestDamageIsRefusedUntilItsLossIsAccepted(t *testing.T) {
	tests := []struct {
		name   string
		damage func(t *testing.T, dir string)
		names  string // what the error must name
		left   int    // messages when the loss is accepted
	}{
		{"a stream's description is missing", func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, streamDir, "meta.inf"))
		}, "EVENTS_0", 100},
		{"a stream's description is changed", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, streamDir, "meta.inf"), func(b []byte) []byte { b[20] ^= 1; return b })
		}, "EVENTS_0", 100},
		{"a stream's folder is missing", func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, streamDir))
		}, "EVENTS_0", 0},
		{"a message's content is changed", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, blockFile), flip("content"))
		}, blockFile, 99},
		{"a message's length is changed", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, blockFile), flip("length"))
		}, blockFile, 99},
	}
	for _, killed := range []bool{false, true} {
		for _, test := range tests {
			t.Run(fmt.Sprintf("%s, killed %v", test.name, killed), func(t *testing.T) {
				dir := stored(t, killed)
				test.damage(t, dir)
				for range 2 { // and stays refused
					_, err := embed.Start(t.Context(), embed.Config{Dir: dir, Layout: embed.Layout{Shards: 1}})
					if !errors.Is(err, embed.ErrDamaged) || !strings.Contains(err.Error(), test.names) ||
						!strings.Contains(err.Error(), filepath.Join(dir, "staffetta.json")) {
						t.Fatalf("start on a damaged folder: %v", err)
					}
				}
				accept(t, dir, "EVENTS_0")
				for range 2 { // and is listed again
					s := embedtest.Start(t, dir, 1)
					js := embedtest.JetStream(t, s)
					got := len(cursor(t, js, "EVENTS_0", "events.0.a", 1)) + len(cursor(t, js, "EVENTS_0", "events.0.b", 1))
					if got != test.left {
						t.Errorf("%d messages are left, want %d", got, test.left)
					}
					s.Shutdown()
				}
			})
		}
	}
}

func TestWhatAKillOrAPowerFailureLeavesStarts(t *testing.T) {
	tests := []struct {
		name string
		harm func(t *testing.T, dir string)
		left uint64
	}{
		{"nothing is missing", func(*testing.T, string) {}, 100},
		{"the index is missing", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, streamDir, "msgs", "index.db")); !errors.Is(err, fs.ErrNotExist) && err != nil {
				t.Fatal(err)
			}
		}, 100},
		{"the last record is torn", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, blockFile), func(b []byte) []byte { return b[:len(b)-5] })
		}, 99},
		{"the last page is zeros", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, blockFile), func(b []byte) []byte { return append(b, make([]byte, 4096)...) })
		}, 100},
		{"the last block is empty", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, blockFile), func([]byte) []byte { return nil })
		}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := stored(t, true)
			test.harm(t, dir)
			js := embedtest.JetStream(t, embedtest.Start(t, dir, 1))
			got := state(t, js, "EVENTS_0")
			if got.Msgs != test.left {
				t.Errorf("%d messages, want %d", got.Msgs, test.left)
			}
			if _, err := js.Publish(t.Context(), "events.0.a", []byte("next")); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestATrustedCleanEndSkipsTheReading(t *testing.T) {
	trust := func(c *embed.Config) { c.TrustCleanEnd = true }
	dir := stored(t, false)
	edit(t, filepath.Join(dir, blockFile), flip("content"))
	embedtest.Start(t, dir, 1, trust)

	dir = stored(t, true)
	edit(t, filepath.Join(dir, blockFile), flip("content"))
	_, err := embed.Start(t.Context(), embed.Config{Dir: dir, Layout: embed.Layout{Shards: 1}, TrustCleanEnd: true})
	if !errors.Is(err, embed.ErrDamaged) {
		t.Errorf("after a kill: %v", err)
	}
}
