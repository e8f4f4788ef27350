package embed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/minio/highwayhash"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// The server cuts a block of messages at the first record that it cannot read, for good, and where
// only the content of one is bad it skips that one. At the end of a file the cut is right: the last
// write did not complete. In the middle either loses stored events without a word, and a cut makes
// their sequences be used again; so the blocks are read before it starts. Their records are: length
// (4 bytes, the top bit tells of headers), sequence (8), time (8), length of the subject (2),
// subject, [length of the headers (4)], headers and content, hash (8).
const (
	recordHead = 22
	recordHash = 8
	recordMin  = recordHead + recordHash
	recordMax  = 32 << 20
	headersBit = 1 << 31
)

// checkBlocks refuses a store that is unreadable in the middle of a block. A stream whose loss is
// accepted has what is unreadable cut out instead, and nothing else.
func checkBlocks(ctx context.Context, dir string, streams []string, accepted bool, log zerolog.Logger) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, stream := range streams {
		g.Go(func() error {
			var b block
			entries, err := os.ReadDir(blockFolder(dir, stream))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("list blocks of stream %s: %w", stream, err)
			}
			for _, entry := range entries {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := b.check(dir, stream, entry.Name(), accepted, log); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// blockFolder is where the server keeps the messages of a stream.
func blockFolder(dir, stream string) string { return filepath.Join(streamFolder(dir, stream), "msgs") }

// block is a file of messages; its memory serves for one after the other.
type block struct {
	bytes.Buffer
	path string
}

func (b *block) check(dir, stream, name string, accepted bool, log zerolog.Logger) error {
	number, isBlock := strings.CutSuffix(name, ".blk")
	index, err := strconv.ParseUint(number, 10, 32)
	if !isBlock || err != nil {
		return nil
	}
	b.path = filepath.Join(blockFolder(dir, stream), name)
	if err := b.read(); err != nil {
		return fmt.Errorf("read block of stream %s: %w", stream, err)
	}
	log = log.With().Str("stream", stream).Str("file", b.path).Logger()
	bad, rest := damage(b.Bytes(), stream, index)
	if rest > 0 && !accepted {
		return fmt.Errorf("%w: %s has unreadable messages at byte %d, before %d bytes of good ones. Restore the file "+
			"from a copy; or, to give up what is unreadable, delete the line of %s in %s and start again",
			ErrDamaged, b.path, bad, rest, stream, filepath.Join(dir, planFile))
	}
	for ; rest > 0; bad, rest = damage(b.Bytes(), stream, index) {
		log.Error().Int("bytes", b.Len()-rest-bad).Msg("unreadable messages are cut out of a file, as its stream is not listed any more")
		if err := b.cut(bad, b.Len()-rest); err != nil {
			return fmt.Errorf("repair block of stream %s: %w", stream, err)
		}
	}
	if torn := b.Len() - bad; torn > 0 {
		log.Warn().Int("bytes", torn).Msg("the last write to a file did not complete; it is cut off")
	}
	return nil
}

// cut takes a part out of the file. The stream's index, which knows the file as it was, goes first:
// the server makes it again.
func (b *block) cut(from, to int) error {
	whole := b.Bytes()
	b.Truncate(from + copy(whole[from:], whole[to:]))
	index := filepath.Join(filepath.Dir(b.path), "index.db")
	if err := os.Remove(index); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return replaceFile(b.path, b.Bytes())
}

func (b *block) read() error {
	f, err := os.Open(b.path)
	if err != nil {
		return err
	}
	b.Reset()
	_, err = b.ReadFrom(f)
	return errors.Join(err, f.Close())
}

// damage reports where a block becomes unreadable, its length if it never does, and how many bytes
// after that start with a good record again, 0 if none do.
func damage(block []byte, stream string, index uint64) (bad, rest int) {
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", stream, index))
	hash, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return len(block), 0 // unreachable: the key has the length it must have
	}
	for bad < len(block) {
		n := record(block[bad:], hash)
		if n == 0 {
			break
		}
		bad += n
	}
	for next := bad + 1; next+recordMin <= len(block); next++ {
		// A subject of ours starts with a lower-case letter or the bucket's dollar sign: a cheap test
		// that spares the rest at almost every offset.
		if c := block[next+recordHead]; (c >= 'a' && c <= 'z' || c == '$') && record(block[next:], hash) > 0 {
			return bad, len(block) - next
		}
	}
	return bad, 0
}

// record is the length of the record that b starts with, 0 where there is no sound one.
func record(b []byte, hash *highwayhash.Digest64) int {
	if len(b) < recordMin {
		return 0
	}
	length := binary.LittleEndian.Uint32(b)
	n, subject := int(length&^headersBit), int(binary.LittleEndian.Uint16(b[20:]))
	if n < recordMin || n > len(b) || n > recordMax {
		return 0
	}
	content := subject
	if length&headersBit != 0 {
		content += 4 // the length of the headers is not hashed
	}
	body, sum := b[recordHead:n-recordHash], b[n-recordHash:n]
	if content > len(body) {
		return 0
	}
	hash.Reset()
	_, _ = hash.Write(b[4:20])
	_, _ = hash.Write(body[:subject])
	_, _ = hash.Write(body[content:])
	var got [highwayhash.Size64]byte
	if !bytes.Equal(hash.Sum(got[:0]), sum) {
		return 0
	}
	return n
}
