package trail

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

// This file is about going on from a checkpoint up to which a log was verified
// before. Its entries are not read again. That the log still begins with them
// is proven: the tree goes on from hashes that lead to that checkpoint's root,
// and comes to the new checkpoint's root only if it extends the old one.

// readSince reads the checkpoint from which to go on.
func (v *verifier) readSince() error {
	if v.o.Since == "" {
		return nil
	}
	raw, err := os.ReadFile(v.o.Since)
	if err != nil {
		return fmt.Errorf("read the checkpoint to go on from: %w", err)
	}
	cp, err := v.chain.Open(raw)
	if err != nil {
		return &Bad{Place: v.o.Since, Reason: fmt.Sprintf("the checkpoint to go on from is not one of this log: %v", err)}
	}
	v.since = cp
	v.report.Since = cp.Size
	v.heads = append(v.heads, rememberedHead{Checkpoint: cp, place: v.o.Since})
	return nil
}

// provenTiles reads tiles for a [tlog.TileHashReader], and remembers whether
// reading failed, which is another thing than a hash that does not fit.
type provenTiles struct {
	sourceTiles
	err error
}

func (p *provenTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data, err := p.sourceTiles.ReadTiles(tiles)
	if err != nil {
		p.err = err
	}
	return data, err
}

// provenHashes reads hashes of the tree that a checkpoint is of. What is wrong
// with them is a *[Bad].
func (v *verifier) provenHashes(cp *trailgate.Checkpoint) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		tiles := &provenTiles{sourceTiles: sourceTiles{v.src}}
		hashes, err := tlog.TileHashReader(tlog.Tree{N: int64(cp.Size), Hash: cp.Root}, tiles).ReadHashes(indexes)
		switch {
		case err == nil:
			return hashes, nil
		case tiles.err != nil && !missing(tiles.err):
			return nil, tiles.err
		}
		return nil, &Bad{
			Seq: cp.Size - 1, Place: v.src.place("tile"),
			Reason: fmt.Sprintf("the tiles do not lead to the root of the checkpoint of %d entries (the log was exchanged, or tiles were): %v", cp.Size, err),
		}
	})
}

// goOn begins with the tree of the checkpoint that was verified before, but for
// its last bundle, which is read again: for the time of its last entry, and
// since new entries may be in it.
func (c *treeCheck) goOn(ctx context.Context, since *trailgate.Checkpoint) error {
	if since.Size == 0 {
		return nil
	}
	hashes := c.v.provenHashes(since)
	read := func(ids []compact.NodeID) ([][]byte, error) {
		indexes := make([]int64, len(ids))
		for i, id := range ids {
			indexes[i] = tlog.StoredHashIndex(int(id.Level)+tileHeight, int64(id.Index))
		}
		got, err := hashes.ReadHashes(indexes)
		out := make([][]byte, len(got))
		for i := range got {
			out[i] = got[i][:]
		}
		return out, err
	}
	bundles := (since.Size - 1) / tileWidth
	c.v.report.NotRead = bundles * tileWidth
	raw, err := read(compact.RangeNodes(0, bundles, nil))
	if err != nil {
		return err
	}
	if c.upper, err = treeFactory.NewRange(0, bundles, raw); err != nil {
		return err
	}
	for level := 1; bundles>>(tileHeight*(level-1)) > 0; level++ {
		n := bundles >> (tileHeight * (level - 1))
		var ids []compact.NodeID
		for i := n - n%tileWidth; i < n; i++ {
			ids = append(ids, compact.NewNodeID(uint(tileHeight*(level-1)), i))
		}
		tile, err := read(ids)
		if err != nil {
			return err
		}
		for len(c.tiles) <= level {
			c.tiles = append(c.tiles, nil)
		}
		c.tiles[level] = slices.Concat(tile...)
	}
	for i := range c.v.heads {
		h := &c.v.heads[i]
		if h.Size >= bundles*tileWidth {
			continue // there are entries to compare it with
		}
		h.checked = true
		root, err := treeRootBy(h.Size, hashes)
		if err != nil {
			return err
		}
		if root != h.Root {
			c.v.notThose(h)
		}
	}
	return ctx.Err()
}

// treeRootBy is the root of the first n entries of a tree.
func treeRootBy(n uint64, hashes tlog.HashReader) (tlog.Hash, error) {
	if n == 0 {
		return rootOf(treeFactory.NewEmptyRange(0))
	}
	return tlog.TreeHash(int64(n), hashes)
}

// searcher finds entries in the part of a log that is not, or no longer, in memory.
type searcher struct {
	v     *verifier
	cache bundleCache
}

func (s *searcher) bundle(ctx context.Context, index uint64) ([][]byte, error) {
	width := widthAt(0, index, s.v.cp.Size)
	if entries := s.cache.get(index, width); entries != nil {
		return entries, nil
	}
	data, name, err := resourceOf(ctx, s.v.src, func(p uint8) string { return layout.EntriesPath(index, p) }, width)
	if err != nil {
		return nil, err
	}
	entries, _, err := splitBundle(data, width)
	if err != nil {
		return nil, &Bad{Seq: index * tileWidth, Place: s.v.src.place(name), Reason: "the bundle " + err.Error()}
	}
	s.cache.put(index, entries)
	return entries, nil
}

// How far from the time in an id the entry may be that has it.
const (
	idAhead  = time.Minute
	idBehind = 10 * time.Minute
)

// byTime looks for the entry of that id where the time in it says that it is: an
// id is made when its call comes in, and the entry is made durable soon after.
func (s *searcher) byTime(ctx context.Context, id string) (seq uint64, found bool, err error) {
	u, err := ulid.ParseStrict(strings.ToUpper(id))
	if err != nil {
		return 0, false, nil //nolint:nilerr // an id of another kind
	}
	made := ulid.Time(u.Time())
	from := made.Add(-idAhead).UTC().Format(timeLayout)
	to := made.Add(idBehind).UTC().Format(timeLayout)
	bundles := (s.v.cp.Size + tileWidth - 1) / tileWidth
	first := sort.Search(int(bundles), func(i int) bool {
		if err != nil {
			return false
		}
		var entries [][]byte
		if entries, err = s.bundle(ctx, uint64(i)); err != nil {
			return false
		}
		_, stamp, _ := entryHeader(entries[0])
		return string(stamp) > from
	})
	for index := uint64(max(first, 1) - 1); index < bundles && err == nil; index++ {
		var entries [][]byte
		if entries, err = s.bundle(ctx, index); err != nil {
			break
		}
		if _, stamp, _ := entryHeader(entries[0]); string(stamp) > to {
			break
		}
		for i, raw := range entries {
			if string(entryID(raw)) == id {
				return index*tileWidth + uint64(i), true, nil
			}
		}
	}
	return 0, false, err
}

// searchOld takes off the list of unresolved references those whose entries
// stand in the log before them.
func (c *entryCheck) searchOld(ctx context.Context, v *verifier) error {
	s := &searcher{v: v}
	for id, ref := range c.unresolved {
		seq, found, err := s.byTime(ctx, id)
		if err != nil {
			return err
		}
		if found && seq < ref {
			if err := v.authenticate(ctx, s, seq); err != nil {
				return err
			}
			delete(c.unresolved, id)
		}
	}
	// What is not where its id says, or has an id of another kind.
	for index := uint64(0); index*tileWidth < v.cp.Size && len(c.unresolved) > 0; index++ {
		entries, err := s.bundle(ctx, index)
		if err != nil {
			return err
		}
		for i, raw := range entries {
			id, seq := string(entryID(raw)), index*tileWidth+uint64(i)
			if ref, ok := c.unresolved[id]; ok && seq < ref {
				if err := v.authenticate(ctx, s, seq); err != nil {
					return err
				}
				delete(c.unresolved, id)
			}
		}
	}
	return nil
}

// authenticate checks an entry that was not read in this run against the root.
func (v *verifier) authenticate(ctx context.Context, s *searcher, seq uint64) error {
	if v.since == nil || seq >= v.since.Size {
		return nil // it was
	}
	entries, err := s.bundle(ctx, seq/tileWidth)
	if err != nil {
		return err
	}
	leaf, err := v.provenHashes(v.cp).ReadHashes([]int64{tlog.StoredHashIndex(0, int64(seq))})
	if err != nil {
		return err
	}
	want := trailgate.LeafHash(entries[seq%tileWidth])
	if !bytes.Equal(leaf[0][:], want[:]) {
		return &Bad{Seq: seq, Place: v.place(seq), Reason: "the entry was changed: its hash is not the one that was signed for"}
	}
	return nil
}
