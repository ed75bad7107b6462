package policy

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// units of bytes, as BigQuery's own documents and bills use them: both powers of
// 1,000 and of 1,024, told apart by the "i".
var units = []struct {
	name   string
	factor int64
}{
	{"PiB", 1 << 50},
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

func unit(name string) (factor int64, ok bool) {
	for _, u := range units {
		if u.name == name {
			return u.factor, true
		}
	}
	return 0, false
}

var errSize = errors.New("want a size such as 10MB, 2TB or 1GiB")

// parseSize reads "2TB", "1.5 GiB" or "1000".
func parseSize(s string) (int64, error) {
	factor := int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			s, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	whole, fraction, dotted := strings.Cut(s, ".")
	if whole == "" || dotted && fraction == "" || strings.Trim(whole+fraction, "0123456789") != "" || len(fraction) > 6 {
		return 0, errSize
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n > math.MaxInt64/factor {
		return 0, errSize
	}
	n *= factor
	// The fraction counts as far as it makes whole bytes.
	part, scale := int64(0), int64(1)
	for _, digit := range fraction {
		part, scale = part*10+int64(digit-'0'), scale*10
	}
	extra := factor / scale * part
	extra += factor % scale * part / scale
	if extra > math.MaxInt64-n {
		return 0, errSize
	}
	return n + extra, nil
}

// formatBytes is for people: three digits and a unit of 1,000.
func formatBytes(n int64) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	name, factor := "kB", 1e3
	for _, u := range units[5:9] {
		if n >= u.factor {
			name, factor = u.name, float64(u.factor)
			break
		}
	}
	x := float64(n) / factor
	digits := 2
	if x >= 100 {
		digits = 0
	} else if x >= 10 {
		digits = 1
	}
	return strconv.FormatFloat(x, 'f', digits, 64) + " " + name
}
