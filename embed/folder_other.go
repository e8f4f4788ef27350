//go:build !(linux || darwin || freebsd)

package embed

import (
	"errors"
	"os"
)

func tryLock(*os.File) (bool, error) { return false, errors.ErrUnsupported }

func diskSpace(string) (free, size int64, err error) { return 0, 0, errors.ErrUnsupported }
