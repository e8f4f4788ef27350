//go:build linux || darwin || freebsd

package embed

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// tryLock reports whether the file could be locked. The kernel frees it when the process ends,
// however it ends.
func tryLock(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// diskSpace reports what the file system of a folder has free for us, and its size, in bytes.
func diskSpace(dir string) (free, size int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	return blocks(st.Bavail, st.Bsize), blocks(st.Blocks, st.Bsize), nil
}

// blocks takes whatever types the system's numbers have.
func blocks[N, S int64 | uint64 | uint32](n N, size S) int64 { return int64(n) * int64(size) }
