package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// Path is a path in the file; after [Load] it is absolute, or empty.
type Path string

func (p Path) String() string { return string(p) }

// Bytes is a size. It is written as a plain number of bytes or with a unit:
// "512KiB", "16MiB", "1GiB", "2TiB", or in powers of 1,000 "500GB", "5TB".
type Bytes int64

var byteUnits = []struct {
	suffix string
	factor int64
}{
	{"TiB", 1 << 40},
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"PB", 1e15},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"kB", 1e3},
	{"B", 1},
}

func (b Bytes) String() string {
	for _, u := range byteUnits[:4] {
		if int64(b) >= u.factor && int64(b)%u.factor == 0 {
			return strconv.FormatInt(int64(b)/u.factor, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

func parseBytes(s string) (Bytes, error) {
	errSize := errors.New(`want a size such as 512KiB, 16MiB or 1GiB`)
	factor := int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			s, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return 0, errSize
	}
	return Bytes(n * factor), nil
}

func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New(`want a duration such as 500ms, 30s, 15m, 2h or 90d`)
	}
	return d, nil
}
