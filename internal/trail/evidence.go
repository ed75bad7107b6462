package trail

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

// Covering waits until a checkpoint covers the entry at seq, or ctx ends, and returns
// the newest one.
func (t *Trail) Covering(ctx context.Context, seq uint64) (*trailgate.Checkpoint, error) {
	err := t.proven.wait(ctx, t.sequenced, func() bool { return t.published.Load().Size > seq })
	if err != nil {
		return nil, fmt.Errorf("wait for a checkpoint of entry %d: %w", seq, err)
	}
	return t.published.Load(), nil
}

// maxKeptTiles bounds the tiles that a reader of hashes keeps, at most 8 KiB each.
const maxKeptTiles = 512

// Hashes reads the tree's hashes out of the tiles, as they are in a tree of that size,
// which must have been published. It does not check them: whoever makes proofs of them
// checks the proofs. It is for a task that reads many, one goroutine at a time.
func (t *Trail) Hashes(size uint64) tlog.HashReader {
	r := &keptTiles{dir: t.tiles, size: size, tiles: map[tlog.Tile][]byte{}}
	return tlog.HashReaderFunc(r.read)
}

type keptTiles struct {
	dir  tileDir
	size uint64

	mu    sync.Mutex // guards tiles
	tiles map[tlog.Tile][]byte
}

func (r *keptTiles) read(indexes []int64) ([]tlog.Hash, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]tlog.Hash, 0, len(indexes))
	for _, idx := range indexes {
		at := tlog.TileForIndex(tileHeight, idx)
		key := tlog.Tile{L: at.L, N: at.N}
		data, ok := r.tiles[key]
		if !ok {
			var err error
			if data, err = r.dir.tile(uint64(at.L), uint64(at.N), widthAt(uint64(at.L), uint64(at.N), r.size)); err != nil {
				return nil, err
			}
			if len(r.tiles) >= maxKeptTiles {
				clear(r.tiles)
			}
			r.tiles[key] = data
		}
		h, err := tlog.HashFromTile(at, data[:min(len(data), at.W*tlog.HashSize)], idx)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}
