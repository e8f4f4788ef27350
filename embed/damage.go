package embed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// streamFolder is where the server keeps a stream.
func streamFolder(dir, stream string) string {
	return filepath.Join(dir, "jetstream", "$G", "streams", stream)
}

// checkRecovered refuses a store that lacks a stream it had: the server only skips what it cannot
// read, and a stream made anew in its place would hide the loss.
func checkRecovered(dir string, planned []string, have map[string]*jetstream.StreamInfo) error {
	var missing []string
	for _, name := range planned {
		if have[name] == nil {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d of its streams could not be recovered: %s. Restore %s from a copy; or, to go on with "+
		"what is left of them, delete their lines in %s and start again",
		ErrDamaged, len(missing), strings.Join(missing, ", "),
		streamFolder(dir, missing[0]), filepath.Join(dir, planFile))
}

// forget removes what describes a stream that is not there and need not be: the server would neither
// read it nor replace it. The messages in its folder stay, and the stream made there has them.
func forget(dir string, streams []string, have map[string]*jetstream.StreamInfo) error {
	for _, name := range streams {
		if have[name] != nil {
			continue
		}
		for _, file := range []string{server.JetStreamMetaFile, server.JetStreamMetaFileSum} {
			err := os.Remove(filepath.Join(streamFolder(dir, name), file))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("make room for stream %s: %w", name, err)
			}
		}
	}
	return nil
}
