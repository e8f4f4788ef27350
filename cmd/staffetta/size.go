package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
)

// byteSize is a flag for a number of bytes: 512, 64KiB, 1.5GiB or 2GB.
type byteSize int64

var byteUnits = []struct {
	name  string
	bytes float64
}{
	{"kib", 1 << 10},
	{"mib", 1 << 20},
	{"gib", 1 << 30},
	{"tib", 1 << 40},
	{"kb", 1e3},
	{"mb", 1e6},
	{"gb", 1e9},
	{"tb", 1e12},
	{"b", 1},
}

// Decode reads the flag's value.
func (s *byteSize) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("size", &text); err != nil {
		return err
	}
	n, err := parseSize(text)
	*s = byteSize(n)
	return err
}

var errSize = errors.New("must be a number of bytes, such as 1048576, 512MiB or 2GiB")

func parseSize(text string) (int64, error) {
	number, unit := strings.ToLower(strings.TrimSpace(text)), 1.0
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil && unit == 1 && n >= 0 {
		return n, nil
	}
	// ParseFloat also takes inf, hexadecimals and underscores.
	if strings.Trim(number, "0123456789.") != "" {
		return 0, fmt.Errorf("%q: %w", text, errSize)
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n*unit >= math.MaxInt64 {
		return 0, fmt.Errorf("%q: %w", text, errSize)
	}
	return int64(n * unit), nil
}
