package trail

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/transparency-dev/merkle/compact"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate/internal/trail/journal"
)

// checkJournal checks the journal: its chain, that it agrees with the log on
// the entries that both have, and what it holds beyond the checkpoint. Again is
// true where the log has grown so much since its checkpoint was read that the
// journal no longer reaches back to it.
func (v *verifier) checkJournal(ctx context.Context, grown bool) (again bool, err error) {
	dir := filepath.Join(v.o.Dir, journalDir)
	size := v.cp.Size
	var beyond []bundleEntry
	begin := func() func(journal.Record) error {
		beyond = beyond[:0]
		leaves := tileCursor{src: v.src, size: size}
		return func(r journal.Record) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if r.Seq < size {
				leaf, err := leaves.leaf(ctx, r.Seq)
				if err != nil {
					return err
				}
				if leaf != r.Leaf {
					return &Bad{Seq: r.Seq, Place: dir, Reason: "the journal has another entry than the log"}
				}
				return nil
			}
			f, err := v.entries.look(r.Seq, r.Entry, dir)
			if err != nil {
				return err
			}
			_, stamp, _ := entryHeader(r.Entry) // it was decoded
			e := bundleEntry{facts: f, stamp: string(stamp)}
			if len(v.tree.leftovers) > 0 {
				e.raw = bytes.Clone(r.Entry)
			}
			beyond = append(beyond, e)
			return nil
		}
	}
	end, err := journal.Walk(dir, logID(v.chain.Genesis()), v.heads[0].Size, begin)
	damage, damaged := errors.AsType[*journal.DamageError](err)
	switch {
	case damaged:
		return false, &Bad{Seq: damage.Seq, Place: fmt.Sprintf("%s, byte %d", damage.Path, damage.Offset), Reason: damage.Reason}
	case errors.Is(err, journal.ErrForeign), errors.Is(err, journal.ErrMissing):
		return false, &Bad{Seq: size, Place: dir, Reason: err.Error()}
	case err != nil:
		return false, err
	case end.First > size && grown:
		return true, nil
	case end.First > size:
		return false, &Bad{Seq: size, Place: dir, Reason: fmt.Sprintf("the log's checkpoint ends at entry %d, but the journal begins at %d", size, end.First)}
	case end.Next < size:
		return false, &Bad{Seq: end.Next, Place: dir, Reason: fmt.Sprintf("the journal ends before entry %d, but the log has %d entries", end.Next, size)}
	}
	v.report.JournalSize = end.Next
	for i := range beyond {
		v.aside(beyond[i].aside)
		if err := v.tree.takeEntry(size+uint64(i), &beyond[i], dir); err != nil {
			return false, err
		}
	}
	v.tree.beyond = beyond
	return false, nil
}

// tileCursor reads leaf hashes one after the other.
type tileCursor struct {
	src   source
	size  uint64
	index uint64
	tile  []byte
}

func (t *tileCursor) leaf(ctx context.Context, seq uint64) (tlog.Hash, error) {
	if index := seq / tileWidth; t.tile == nil || index != t.index {
		data, name, err := resourceOf(ctx, t.src, tileKey{0, index}.path, widthAt(0, index, t.size))
		if missing(err) {
			return tlog.Hash{}, &Bad{Seq: seq, Place: t.src.place(name), Reason: "the tile is missing"}
		}
		if err != nil {
			return tlog.Hash{}, err
		}
		t.index, t.tile = index, data
	}
	var h tlog.Hash
	at := int(seq%tileWidth) * tlog.HashSize
	if len(t.tile) < at+tlog.HashSize {
		return h, &Bad{Seq: seq, Place: t.src.place(tileKey{0, t.index}.path(0)), Reason: "the tile is too short"}
	}
	copy(h[:], t.tile[at:])
	return h, nil
}

// finish checks the files that lie beyond the checkpoint against what the
// journal holds, which is all that they may have been made from. Of a log
// without its journal nothing more is known of them.
func (c *treeCheck) finish() error {
	ctx := context.Background()
	strict := c.v.o.Dir != ""
	if len(c.leftovers) == 0 {
		return nil
	}
	upper, err := treeFactory.NewRange(0, c.upper.End(), slices.Clone(c.upper.Hashes()))
	if err != nil {
		return err
	}
	tiles := make([][]byte, len(c.tiles))
	for i := range tiles {
		tiles[i] = bytes.Clone(c.tiles[i])
	}
	entries := append(append([]bundleEntry(nil), c.rest...), c.beyond...)
	index := upper.End()
	for ; len(entries) > 0; index++ {
		chunk := entries[:min(tileWidth, len(entries))]
		entries = entries[len(chunk):]
		bad, err := c.bundleLeftovers(ctx, index, chunk, strict)
		if err != nil {
			return err
		}
		c.v.aside(bad)
		if len(chunk) < tileWidth {
			index++
			break
		}
		root := subtreeRoot(chunk)
		if tiles, err = c.extend(ctx, upper, tiles, root, strict); err != nil {
			return err
		}
	}
	for level := 1; level < len(tiles); level++ {
		key := tileKey{level, upper.End() >> (tileHeight * level)}
		bad, err := c.tileLeftovers(ctx, key, tiles[level], strict)
		if err != nil {
			return err
		}
		c.v.aside(bad)
	}
	return c.strayFiles(ctx, index, upper.End(), strict)
}

// extend adds a bundle beyond the checkpoint, and checks the files of the tiles
// that it fills.
func (c *treeCheck) extend(ctx context.Context, upper *compact.Range, tiles [][]byte, root tlog.Hash, strict bool) ([][]byte, error) {
	var errs []error
	err := upper.Append(root[:], func(id compact.NodeID, hash []byte) {
		if id.Level%tileHeight != 0 {
			return
		}
		level := int(id.Level/tileHeight) + 1
		for len(tiles) <= level {
			tiles = append(tiles, nil)
		}
		tiles[level] = append(tiles[level], hash...)
		if len(tiles[level]) == tileWidth*tlog.HashSize {
			bad, err := c.tileLeftovers(ctx, tileKey{level, id.Index / tileWidth}, tiles[level], strict)
			c.v.aside(bad)
			errs = append(errs, err)
			tiles[level] = nil
		}
	})
	return tiles, errors.Join(append(errs, err)...)
}

// strayFiles looks for files beyond all that was ever written: that many
// bundles, the last of which may be partial, and so many full ones.
func (c *treeCheck) strayFiles(ctx context.Context, bundles, full uint64, strict bool) error {
	if !strict {
		return nil
	}
	for key, w := range c.leftovers {
		end := bundles
		if key.level > 0 {
			end = full>>(tileHeight*key.level) + 1
		}
		if key.index < end {
			continue
		}
		for p := range tileWidth {
			if !w.has(uint8(p)) {
				continue
			}
			if _, err := c.v.src.read(ctx, key.path(uint8(p))); err == nil {
				c.v.aside(&Bad{Seq: key.first(), Place: c.v.src.place(key.path(uint8(p))), Reason: "holds entries that were never written"})
			}
		}
	}
	return nil
}

// bundleLeftovers compares the files of a bundle, and of the tile of its leaf
// hashes, that the log's size does not call for. Strict is set when no more
// entries exist than these.
func (c *treeCheck) bundleLeftovers(ctx context.Context, index uint64, entries []bundleEntry, strict bool) (*Bad, error) {
	if c.leftovers[tileKey{bundleLevel, index}] != nil {
		var want []byte
		ends := make([]int, 0, len(entries))
		for i := range entries {
			want = binary.BigEndian.AppendUint16(want, uint16(len(entries[i].raw)))
			want = append(want, entries[i].raw...)
			ends = append(ends, len(want))
		}
		if bad, err := c.compareLeftovers(ctx, tileKey{bundleLevel, index}, want, ends, strict); bad != nil || err != nil {
			return bad, err
		}
	}
	if c.leftovers[tileKey{0, index}] == nil {
		return nil, nil
	}
	want := make([]byte, 0, len(entries)*tlog.HashSize)
	for i := range entries {
		want = append(want, entries[i].leaf[:]...)
	}
	return c.tileLeftovers(ctx, tileKey{0, index}, want, strict)
}

func (c *treeCheck) tileLeftovers(ctx context.Context, key tileKey, want []byte, strict bool) (*Bad, error) {
	ends := make([]int, len(want)/tlog.HashSize)
	for i := range ends {
		ends[i] = (i + 1) * tlog.HashSize
	}
	return c.compareLeftovers(ctx, key, want, ends, strict)
}

// compareLeftovers compares files with the content that they must begin with;
// the i-th item of that ends at ends[i].
func (c *treeCheck) compareLeftovers(ctx context.Context, key tileKey, want []byte, ends []int, strict bool) (*Bad, error) {
	set := c.leftovers[key]
	if set == nil {
		return nil, nil
	}
	for p := range tileWidth {
		if !set.has(uint8(p)) {
			continue
		}
		width := p
		if p == 0 {
			width = tileWidth
		}
		data, err := c.v.src.read(ctx, key.path(uint8(p)))
		if missing(err) {
			continue // cleaned up since
		}
		if err != nil {
			return nil, err
		}
		bad := ""
		switch {
		case width <= len(ends):
			if !bytes.Equal(data, want[:ends[width-1]]) {
				bad = "the file has another content than the log"
			}
		case !bytes.HasPrefix(data, want):
			bad = "the file has another content than the log"
		case strict:
			bad = "the file holds more than was ever written"
		}
		if bad != "" {
			return &Bad{Seq: key.first(), Place: c.v.src.place(key.path(uint8(p))), Reason: bad}, nil
		}
	}
	return nil, nil
}
