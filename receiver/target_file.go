package receiver

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/staffetta-relay/staffetta"
	"github.com/staffetta-relay/staffetta/sender"
)

// FileTarget appends events to a file, one line of JSON an event:
//
//	{"event_id":"…","event_type":"…","received_at":"2026-01-02T03:04:05.678901Z","payload":{…}}
//
// A body that is not JSON stands in base64 as payload_base64. Each event is written at least once,
// and is on the disk before it counts as handed over: after a kill the last ones may stand twice,
// and a line may be cut short. One file is for one target.
type FileTarget struct {
	// Path of the file; its folder must exist. A new file has mode 0600.
	Path string
	// MaxBytes is how large the file may get: before that it becomes Path.1, Path.1 becomes Path.2 and
	// so on. Only a batch that is larger by itself makes a larger file. Default 100 MiB.
	MaxBytes int64
	// Keep is how many older files stay. Default 10; at most 1000.
	Keep int
}

const (
	defaultFileBytes = 100 << 20
	defaultFileKeep  = 10
)

func (t FileTarget) validate() error {
	switch {
	case t.Path == "":
		return onField("file", "Path", "is missing; give the path of a file")
	case t.MaxBytes < 0:
		return onField("file", "MaxBytes", "must not be negative; 0 is 100 MiB")
	case t.Keep < 0 || t.Keep > 1000:
		return onField("file", "Keep", "must be between 0 and 1000; 0 is 10")
	}
	return nil
}

func (t FileTarget) open() (handler, error) {
	if err := t.validate(); err != nil {
		return nil, err
	}
	if t.MaxBytes == 0 {
		t.MaxBytes = defaultFileBytes
	}
	if t.Keep == 0 {
		t.Keep = defaultFileKeep
	}
	return &fileHandler{FileTarget: t}, nil
}

type fileHandler struct {
	FileTarget

	mu   sync.Mutex
	file *logFile // nil before the first batch, and after a failure

	// syncMu lets one sync serve all batches that were written before it; it is taken before mu.
	syncMu sync.Mutex
}

// logFile is the file as it was opened.
type logFile struct {
	*os.File
	size   int64       // fileHandler.mu guards it
	synced int64       // of size, what is on the disk; fileHandler.syncMu guards it
	whole  atomic.Bool // all of it is on the disk, and it is closed
}

func (h *fileHandler) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop()
}

// drop lets go of the file; the next batch opens it again.
func (h *fileHandler) drop() {
	if h.file != nil {
		_ = h.file.Close()
		h.file = nil
	}
}

func (h *fileHandler) handOver(_ context.Context, entries []*sender.Entry, _ int) sender.Handed {
	lines, whole := appendLines(nil, entries)
	if len(lines) > 0 {
		if err := h.store(lines); err != nil {
			return targetFailed(staffetta.ErrorTarget, "the file cannot be written: "+reason(err))
		}
	}
	if whole < len(entries) {
		handed := damaged()
		handed.Accepted = whole
		return handed
	}
	return sender.Handed{Accepted: whole}
}

// reason is what the system says, without the path.
func reason(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		err = e.Err
	}
	return firstLine(err.Error())
}

// store writes lines and waits until they are on the disk.
func (h *fileHandler) store(lines []byte) error {
	h.mu.Lock()
	file, end, err := h.write(lines)
	h.mu.Unlock()
	if err != nil {
		return err
	}

	h.syncMu.Lock()
	defer h.syncMu.Unlock()
	h.mu.Lock()
	written := file.size
	h.mu.Unlock()
	if file.synced >= end {
		return nil
	}
	err = file.Sync()
	switch {
	case err == nil:
		file.synced = written
	case file.whole.Load():
		return nil
	default:
		// What a failed sync has left on the disk nobody knows.
		h.mu.Lock()
		if h.file == file {
			h.drop()
		}
		h.mu.Unlock()
	}
	return err
}

// write appends lines, in a new file where the old one is full. The lines end at end.
func (h *fileHandler) write(lines []byte) (file *logFile, end int64, err error) {
	if err := h.ready(int64(len(lines))); err != nil {
		h.drop()
		return nil, 0, err
	}
	file = h.file
	n, err := file.Write(lines)
	if err != nil {
		// Half a batch is taken away again; where that fails too the next open ends the torn line.
		if info, statErr := file.Stat(); n > 0 && statErr == nil && info.Size() == file.size+int64(n) {
			_ = file.Truncate(file.size)
		}
		h.drop()
		return nil, 0, err
	}
	file.size += int64(n)
	return file, file.size, nil
}

// ready opens the file where it is not open or somebody moved it away, and rotates it where need
// more bytes would be too many.
func (h *fileHandler) ready(need int64) error {
	if h.file != nil && !h.file.isAt(h.Path) {
		if err := h.retire(); err != nil {
			return err
		}
	}
	if h.file == nil {
		if err := h.openFile(); err != nil {
			return err
		}
	}
	if h.file.size == 0 || h.file.size+need <= h.MaxBytes {
		return nil
	}
	if err := h.retire(); err != nil {
		return err
	}
	if err := h.rotate(); err != nil {
		return err
	}
	return h.openFile()
}

// retire closes a file that is full or was moved away, once all of it is on the disk.
func (h *fileHandler) retire() error {
	if err := h.file.Sync(); err != nil {
		return err
	}
	h.file.whole.Store(true)
	h.drop()
	return nil
}

// isAt reports whether path still leads to the file.
func (f *logFile) isAt(path string) bool {
	there, err := os.Stat(path)
	if err != nil {
		return false
	}
	here, err := f.Stat()
	return err == nil && os.SameFile(there, here)
}

func (h *fileHandler) openFile() error {
	file, err := os.OpenFile(h.Path, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	size, err := endLine(file)
	if err == nil && size == 0 {
		err = syncFolder(h.Path)
	}
	if err != nil {
		_ = file.Close()
		return err
	}
	h.file = &logFile{File: file, size: size}
	return nil
}

// endLine ends a line that a kill has cut short, and gives the size of the file.
func endLine(file *os.File) (int64, error) {
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return 0, err
	}
	var last [1]byte
	if _, err := file.ReadAt(last[:], size-1); err != nil {
		return 0, err
	}
	if last[0] == '\n' {
		return size, nil
	}
	_, err = file.Write([]byte{'\n'})
	return size + 1, err
}

// rotate moves every file on by one; the oldest goes.
func (h *fileHandler) rotate() error {
	name := func(i int) string { return h.Path + "." + strconv.Itoa(i) }
	for i := h.Keep - 1; i > 0; i-- {
		if err := os.Rename(name(i), name(i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(h.Path, name(1)); err != nil {
		return err
	}
	return syncFolder(h.Path)
}

// syncFolder puts the name of a file on the disk.
func syncFolder(path string) error {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	if err := folder.Sync(); err != nil {
		_ = folder.Close()
		return fmt.Errorf("sync the folder: %w", err)
	}
	return folder.Close()
}

// appendLines appends one line an entry, up to the first that cannot be read; whole is how many it
// appended.
func appendLines(dst []byte, entries []*sender.Entry) (lines []byte, whole int) {
	for i, e := range entries {
		r, err := parseRequest(e.Data)
		if err != nil {
			return dst, i
		}
		dst = appendLine(dst, e.Event.ID, e.Event.Type, r)
	}
	return dst, len(entries)
}

func appendLine(dst []byte, id, eventType string, r *Request) []byte {
	dst = append(dst, `{"event_id":`...)
	dst = appendQuoted(dst, id)
	dst = append(dst, `,"event_type":`...)
	dst = appendQuoted(dst, eventType)
	dst = append(dst, `,"received_at":"`...)
	dst = r.ReceivedAt.UTC().AppendFormat(dst, time.RFC3339Nano)
	if !isJSON(r.Body) {
		dst = append(dst, `","payload_base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, r.Body)
		return append(dst, "\"}\n"...)
	}
	dst = append(dst, `","payload":`...)
	if bytes.ContainsAny(r.Body, "\r\n") {
		compact := bytes.NewBuffer(dst)
		_ = json.Compact(compact, r.Body) // it is JSON
		dst = compact.Bytes()
	} else {
		dst = append(dst, r.Body...)
	}
	return append(dst, "}\n"...)
}

// appendQuoted appends a JSON string; what is not UTF-8 becomes U+FFFD.
func appendQuoted(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s)
	return dst
}

// isJSON reports whether body is one JSON text in UTF-8.
func isJSON(body []byte) bool { return json.Valid(body) && utf8.Valid(body) }
