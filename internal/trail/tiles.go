package trail

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight // hashes in a full tile, entries in a full bundle
	// maxBundleBytes is a full bundle of the largest entries.
	maxBundleBytes = tileWidth * (2 + 1<<16)
)

// errShort means that a tile has fewer hashes than the log's size calls for.
var errShort = errors.New("the tile is too short")

// tileDir reads the files of a tiled log (https://c2sp.org/tlog-tiles).
type tileDir string

// resource reads a tile or bundle of which the tree of a certain size has
// width entries. Once a larger one exists the smaller may be gone; what is
// returned may then hold more than width.
func (d tileDir) resource(path func(p uint8) string, width int) (data []byte, name string, err error) {
	if width < tileWidth {
		name = filepath.Join(string(d), path(uint8(width)))
		data, err = os.ReadFile(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return data, name, err
		}
	}
	name = filepath.Join(string(d), path(0))
	data, err = os.ReadFile(name)
	return data, name, err
}

// tile reads the first width hashes of a tile.
func (d tileDir) tile(level, index uint64, width int) ([]byte, error) {
	data, name, err := d.resource(func(p uint8) string { return layout.TilePath(level, index, p) }, width)
	if err != nil {
		return nil, err
	}
	if len(data) < width*tlog.HashSize {
		return nil, fmt.Errorf("%s: %w: %d bytes, %d hashes expected", name, errShort, len(data), width)
	}
	return data[:width*tlog.HashSize], nil
}

// bundle reads the first width entries of a bundle.
func (d tileDir) bundle(index uint64, width int) ([][]byte, error) {
	data, name, err := d.resource(func(p uint8) string { return layout.EntriesPath(index, p) }, width)
	if err != nil {
		return nil, err
	}
	entries, _, err := splitBundle(data, width)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return entries, nil
}

// splitBundle returns the first width entries of a bundle, and what follows them.
func splitBundle(data []byte, width int) (entries [][]byte, rest []byte, err error) {
	entries = make([][]byte, 0, width)
	for i := range width {
		if len(data) < 2 {
			return entries, nil, fmt.Errorf("ends before its entry %d", i)
		}
		n := 2 + int(binary.BigEndian.Uint16(data))
		if len(data) < n {
			return entries, nil, fmt.Errorf("ends inside its entry %d", i)
		}
		entries = append(entries, data[2:n:n])
		data = data[n:]
	}
	return entries, data, nil
}

// widthAt is how many entries the tile or bundle has in a tree of that size.
func widthAt(level, index, size uint64) int {
	if p := layout.PartialTileSize(level, index, size); p > 0 {
		return int(p)
	}
	return tileWidth
}

// hashes reads tree hashes as they lie in the tiles of a tree of that size,
// without checking them.
func (d tileDir) hashes(size uint64) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		cache := map[tlog.Tile][]byte{}
		out := make([]tlog.Hash, 0, len(indexes))
		for _, idx := range indexes {
			t := tlog.TileForIndex(tileHeight, idx)
			key := tlog.Tile{L: t.L, N: t.N}
			data, ok := cache[key]
			if !ok {
				var err error
				data, err = d.tile(uint64(t.L), uint64(t.N), widthAt(uint64(t.L), uint64(t.N), size))
				if err != nil {
					return nil, err
				}
				cache[key] = data
			}
			h, err := tlog.HashFromTile(t, data[:min(len(data), t.W*tlog.HashSize)], idx)
			if err != nil {
				return nil, err
			}
			out = append(out, h)
		}
		return out, nil
	})
}

// Height, ReadTiles and SaveTiles make a tileDir a [tlog.TileReader], which
// [tlog.TileHashReader] checks against a signed root.
func (d tileDir) Height() int { return tileHeight }

// ReadTiles reads tiles of the widths asked for.
func (d tileDir) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		data, err := d.tile(uint64(t.L), uint64(t.N), t.W)
		if err != nil {
			return nil, err
		}
		out[i] = data
	}
	return out, nil
}

// SaveTiles does nothing: there is no cache.
func (d tileDir) SaveTiles([]tlog.Tile, [][]byte) {}

var treeFactory = compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// loadRange reads the compact range of a tree of that size from its tiles.
func (d tileDir) loadRange(size uint64) (*compact.Range, error) {
	ids := compact.RangeNodes(0, size, nil)
	indexes := make([]int64, len(ids))
	for i, id := range ids {
		indexes[i] = tlog.StoredHashIndex(int(id.Level), int64(id.Index))
	}
	hashes, err := d.hashes(size).ReadHashes(indexes)
	if err != nil {
		return nil, err
	}
	raw := make([][]byte, len(hashes))
	for i := range hashes {
		raw[i] = hashes[i][:]
	}
	return treeFactory.NewRange(0, size, raw)
}

// rootOf is the RFC 6962 root of a compact range.
func rootOf(r *compact.Range) (tlog.Hash, error) {
	var root tlog.Hash
	if r.End() == 0 {
		copy(root[:], rfc6962.DefaultHasher.EmptyRoot())
		return root, nil
	}
	raw, err := r.GetRootHash(nil)
	copy(root[:], raw)
	return root, err
}

// treeRoot is the root of the first n entries of the log, of which the tiles
// are those of a tree of that size.
func (d tileDir) treeRoot(n, size uint64) (tlog.Hash, error) {
	if n == 0 {
		return rootOf(treeFactory.NewEmptyRange(0))
	}
	return tlog.TreeHash(int64(n), d.hashes(size))
}

var headerPrefix = []byte(`{"v":1,"seq":`)

const (
	timeKey    = `,"time":"`
	timeLayout = "2006-01-02T15:04:05.000000000Z" // docs/spec/entry.md
)

// entryHeader reads the sequence number and the time that an encoded entry
// begins with; stamp aliases raw.
func entryHeader(raw []byte) (seq uint64, stamp []byte, err error) {
	rest, ok := bytes.CutPrefix(raw, headerPrefix)
	if !ok {
		return 0, nil, errors.New("not an entry of this version")
	}
	digits, rest, ok := bytes.Cut(rest[:min(len(rest), 20+len(timeKey)+len(timeLayout))], []byte(timeKey))
	if !ok || len(rest) < len(timeLayout) {
		return 0, nil, errors.New("entry has no time")
	}
	seq, err = strconv.ParseUint(string(digits), 10, 64)
	if err != nil {
		return 0, nil, fmt.Errorf("entry's sequence number: %w", err)
	}
	return seq, rest[:len(timeLayout)], nil
}

// entryTime is the time that an encoded entry begins with.
func entryTime(raw []byte) (time.Time, error) {
	_, stamp, err := entryHeader(raw)
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(timeLayout, string(stamp))
}
