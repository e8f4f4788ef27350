package embed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	lockFile = "lock"
	planFile = "staffetta.json"
	// relayFormat and journalFormat are the layouts of a folder that this version reads and writes, of a
	// relay and of a receiver. A relay's events were messages with headers in format 1.
	relayFormat   = 2
	journalFormat = 1
)

// formatOf is the format of a layout's folder.
func formatOf(l Layout) int {
	if l.Journal {
		return journalFormat
	}
	return relayFormat
}

// lock is the exclusive hold on a folder. Its file has the owner's pid while it runs and is empty
// after a clean end, so a pid found in it tells of a kill or a power failure.
type lock struct {
	file    *os.File
	unclean bool
}

// takeFolder makes the folder where it is missing and locks it.
func takeFolder(dir string) (*lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of data folder: %w", err)
	}
	held, err := tryLock(f)
	content, _ := io.ReadAll(io.LimitReader(f, 32))
	pid := strings.TrimSpace(string(content))
	switch {
	case err != nil:
		err = fmt.Errorf("lock data folder %s: %w", dir, err)
	case !held:
		err = fmt.Errorf("%w: %s is held by another process (pid %s); stop it or choose another folder", ErrLocked, dir, pid)
	default:
		err = writePid(f, strconv.Itoa(os.Getpid())+"\n")
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &lock{file: f, unclean: pid != ""}, nil
}

func writePid(f *os.File, pid string) error {
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("write lock of data folder: %w", err)
	}
	if _, err := f.WriteAt([]byte(pid), 0); err != nil {
		return fmt.Errorf("write lock of data folder: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write lock of data folder: %w", err)
	}
	return nil
}

// release gives the folder back. The file stays: to remove it would let two processes lock two files.
func (l *lock) release(clean bool) {
	if clean {
		_ = l.file.Truncate(0)
	}
	_ = l.file.Close()
}

// plan is the folder's staffetta.json: how it was laid out, and which streams it must hold.
type plan struct {
	path string

	Format int `json:"format"`
	Shards int `json:"shards"`
	// Journal says that it is a receiver's.
	Journal bool `json:"journal,omitempty"`
	// Streams is nil until the plan was first recorded.
	Streams []string `json:"streams"`
}

// openPlan reads the plan; at the first start it is still to be recorded.
func openPlan(dir string, layout Layout) (*plan, error) {
	p := &plan{path: filepath.Join(dir, planFile)}
	raw, err := os.ReadFile(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		p.Format, p.Shards, p.Journal = formatOf(layout), layout.Shards, layout.Journal
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read layout of data folder: %w", err)
	}
	if err := json.Unmarshal(raw, p); err != nil {
		return nil, fmt.Errorf("%w: %s cannot be read (%w); restore it from a copy", ErrDamaged, p.path, err)
	}
	switch {
	case p.Format < 1 || p.Shards < 1:
		return nil, fmt.Errorf("%w: %s has no format or no shards; restore it from a copy", ErrDamaged, p.path)
	case p.Journal != layout.Journal:
		return nil, fmt.Errorf("%w: %s is the data folder of a %s; choose another for this program", ErrLayout, dir, p.owner())
	case p.Format > formatOf(layout):
		return nil, fmt.Errorf("%w: %s has format %d and this version knows %d; run the version that wrote it or a newer one",
			ErrLayout, p.path, p.Format, formatOf(layout))
	case p.Format < formatOf(layout):
		return nil, fmt.Errorf("%w: %s has format %d and this version reads %d; let the version that wrote it deliver what waits, then choose another folder",
			ErrLayout, p.path, p.Format, formatOf(layout))
	case p.Shards != layout.Shards:
		return nil, fmt.Errorf("%w: %s was made with %d shards, which is fixed at the first start, and not with %d; start with --shards %d",
			ErrLayout, dir, p.Shards, layout.Shards, p.Shards)
	}
	return p, nil
}

// owner is the program that the folder is for.
func (p *plan) owner() string {
	if p.Journal {
		return "receiver"
	}
	return "relay"
}

// unlisted are the streams of a layout that the folder need not hold: new ones, and those whose
// damage somebody accepted by deleting their line.
func (p *plan) unlisted(streams []string) []string {
	return slices.DeleteFunc(streams, func(name string) bool { return slices.Contains(p.Streams, name) })
}

// record notes the streams that the folder must hold from now on.
func (p *plan) record(streams []string) error {
	if p.Streams != nil && slices.Equal(p.Streams, streams) {
		return nil
	}
	p.Streams = streams
	raw, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("write layout of data folder: %w", err)
	}
	if err := replaceFile(p.path, append(raw, '\n')); err != nil {
		return fmt.Errorf("write layout of data folder: %w", err)
	}
	return nil
}

// replaceFile writes a file whole: after a crash it is the old one or the new one.
func replaceFile(path string, data []byte) error {
	temp := path + ".tmp"
	if err := writeSynced(temp, data); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
