package index

import (
	"strings"

	"github.com/oklog/ulid/v2"
)

// otherName begins the stored form of an id that is not a ULID. A ULID of our
// days begins with 0x01.
const otherName = 0xff

// nameKey is an id as the table "name" stores it: a ULID's 16 bytes, which
// sort as its text does, or any other text after a mark.
func nameKey(id string) []byte {
	if u, ok := parseULID(id); ok {
		return u[:]
	}
	return append([]byte{otherName}, id...)
}

func parseULID(id string) (ulid.ULID, bool) {
	if len(id) != ulid.EncodedSize || id != strings.ToLower(id) {
		return ulid.ULID{}, false
	}
	u, err := ulid.ParseStrict(id)
	return u, err == nil && u[0] != otherName
}

// nameRanges are the ranges of keys, ends included, of the ids that begin with
// prefix.
func nameRanges(prefix string) [][2][]byte {
	last := append([]byte{otherName}, prefix...)
	for range 8 {
		last = append(last, 0xff) // above any UTF-8
	}
	ranges := [][2][]byte{{append([]byte{otherName}, prefix...), last}}
	if n := ulid.EncodedSize - len(prefix); n >= 0 {
		lo, ok1 := parseULID(prefix + strings.Repeat("0", n))
		hi, ok2 := parseULID(prefix + strings.Repeat("z", n))
		if ok1 && ok2 {
			ranges = append(ranges, [2][]byte{lo[:], hi[:]})
		}
	}
	return ranges
}
