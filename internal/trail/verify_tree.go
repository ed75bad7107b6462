package trail

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/trailgate/trailgate"
)

// tileDiffers is what is said of a tile until it is known who is wrong.
const tileDiffers = "the tile has another hash than the entry in the bundle"

// bundleLevel stands for entry bundles where tiles have their level.
const bundleLevel = -1

// tileKey names a tile, or a bundle.
type tileKey struct {
	level int
	index uint64
}

func (k tileKey) path(p uint8) string {
	if k.level == bundleLevel {
		return layout.EntriesPath(k.index, p)
	}
	return layout.TilePath(uint64(k.level), k.index, p)
}

// first is the first entry that the tile is about.
func (k tileKey) first() uint64 {
	return k.index << (tileHeight * (max(k.level, 0) + 1))
}

// widths is a set of partial widths; 0 stands for the full tile.
type widths [tileWidth / 64]uint64

func (w *widths) add(p uint8) { w[p/64] |= 1 << (p % 64) }

func (w *widths) has(p uint8) bool { return w[p/64]&(1<<(p%64)) != 0 }

// treeCheck rebuilds the tree from its entries and compares every file with it.
type treeCheck struct {
	v *verifier
	// upper is over the roots of full bundles; its nodes are the tree's, eight
	// levels up.
	upper *compact.Range
	// rest are the entries after those, in the last, partial bundle.
	rest   []bundleEntry
	beyond []bundleEntry // entries in the journal beyond the checkpoint
	// tiles holds, by level from 1 on, the hashes of the tile that is being filled.
	tiles [][]byte
	// linked is how many entries have been looked at in order.
	linked uint64
	stamp  string // time of the newest of them, which sorts as text
	// leftovers are files that the log's size does not call for: partial tiles
	// that were not yet cleaned up, and what a crash or a running gateway wrote
	// beyond the checkpoint.
	leftovers map[tileKey]*widths

	rooted bool // the entries lead to the checkpoint's root
	size   uint64
}

func newTreeCheck(v *verifier) *treeCheck {
	return &treeCheck{v: v, upper: treeFactory.NewEmptyRange(0), leftovers: map[tileKey]*widths{}}
}

// bundleEntry is an entry as it was found in a bundle or in the journal.
type bundleEntry struct {
	facts
	raw   []byte
	stamp string
}

// bundleResult is what a worker found out about a bundle.
type bundleResult struct {
	index   uint64
	entries []bundleEntry
	root    tlog.Hash // of a full bundle
	// aside is wrong beside the entries: a tile, or a copy that is not needed.
	aside *Bad
	err   error
}

// listLeftovers finds the files in the directory of a log of that size which
// that size does not call for.
func (c *treeCheck) listLeftovers(size uint64) error {
	clear(c.leftovers)
	dir, ok := c.v.src.(dirSource)
	if !ok {
		return nil
	}
	root := filepath.Join(string(dir), "tile")
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if missing(err) {
			return nil // a running gateway cleans up
		}
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		c.noteFile(filepath.ToSlash(rel), size)
		return nil
	})
}

// noteFile notes a file below tile/ that is a partial tile, or may lie beyond
// the checkpoint. What has no name of a tile is no part of the log.
func (c *treeCheck) noteFile(rel string, size uint64) {
	level, index, ok := strings.Cut(rel, "/")
	if !ok {
		return
	}
	key := tileKey{level: bundleLevel}
	if level != "entries" {
		l, err := layout.ParseTileLevel(level)
		if err != nil {
			return
		}
		key.level = int(l)
	}
	n, p, err := layout.ParseTileIndexPartial(index)
	if err != nil {
		return
	}
	key.index = n
	if p == 0 && key.first()+tileWidth<<(tileHeight*max(key.level, 0)) <= size {
		return // an ordinary full one, which is read anyway
	}
	w := c.leftovers[key]
	if w == nil {
		w = &widths{}
		c.leftovers[key] = w
	}
	w.add(p)
}

// run extends the check to the size of cp, and compares the root.
func (c *treeCheck) run(ctx context.Context, cp *trailgate.Checkpoint) error {
	c.size, c.rooted = cp.Size, false
	first := uint64(c.upper.End())
	end := (cp.Size + tileWidth - 1) / tileWidth
	group, gctx := errgroup.WithContext(ctx)
	type job struct {
		index uint64
		out   chan *bundleResult
	}
	parallel := c.v.o.Parallel
	jobs, order := make(chan job), make(chan job, 2*parallel)
	group.Go(func() error {
		defer close(order)
		defer close(jobs)
		for i := first; i < end; i++ {
			j := job{index: i, out: make(chan *bundleResult, 1)}
			select {
			case order <- j:
			case <-gctx.Done():
				return gctx.Err()
			}
			select {
			case jobs <- j:
			case <-gctx.Done():
				return gctx.Err()
			}
		}
		return nil
	})
	for range parallel {
		group.Go(func() error {
			for j := range jobs {
				j.out <- c.bundle(gctx, j.index, widthAt(0, j.index, cp.Size))
			}
			return nil
		})
	}
	group.Go(func() error {
		for j := range order {
			select {
			case r := <-j.out:
				if err := c.take(r); err != nil {
					return err
				}
			case <-gctx.Done():
				return gctx.Err()
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return err
	}
	c.checkRemembered(nil)
	root, err := c.rootAt(cp.Size)
	if err != nil {
		return err
	}
	if root != cp.Root {
		return &Bad{Place: c.v.src.place(cpFile), Reason: fmt.Sprintf("the log's %d entries do not hash to the checkpoint's root", cp.Size)}
	}
	c.rooted = true
	return c.partialTiles(ctx)
}

// bundle reads and checks a bundle and the tile of its leaf hashes.
func (c *treeCheck) bundle(ctx context.Context, index uint64, width int) *bundleResult {
	r := &bundleResult{index: index}
	key := tileKey{bundleLevel, index}
	first := index * tileWidth
	data, name, err := resourceOf(ctx, c.v.src, key.path, width)
	if missing(err) {
		r.err = &Bad{Seq: first, Place: c.v.src.place(name), Reason: "the bundle is missing"}
		return r
	}
	if err != nil {
		r.err = err
		return r
	}
	raws, tail, splitErr := splitBundle(data, width)
	tile, tileName, err := resourceOf(ctx, c.v.src, tileKey{0, index}.path, width)
	switch {
	case missing(err):
		r.aside = &Bad{Seq: first, Place: c.v.src.place(tileName), Reason: "the tile is missing"}
	case err != nil:
		r.err = err
		return r
	}
	r.entries = make([]bundleEntry, len(raws))
	for i, raw := range raws {
		seq := first + uint64(i)
		f, err := c.v.entries.look(seq, raw, c.v.src.place(name))
		if err != nil {
			r.err, r.entries = err, r.entries[:i]
			return r
		}
		if r.aside == nil {
			r.aside = f.aside
		}
		_, stamp, _ := entryHeader(raw) // it was decoded
		r.entries[i] = bundleEntry{facts: f, raw: raw, stamp: string(stamp)}
	}
	switch {
	case splitErr != nil:
		r.err = &Bad{Seq: first + uint64(len(raws)), Place: c.v.src.place(name), Reason: "the bundle " + splitErr.Error()}
		return r
	case len(tail) > 0 && (width == tileWidth || name != key.path(0)):
		r.err = &Bad{Seq: first + uint64(width), Place: c.v.src.place(name), Reason: "the bundle goes on after its last entry"}
		return r
	}
	if r.aside == nil {
		r.aside = c.compareTile(tileKey{0, index}, tileName, tile, r.entries)
	}
	bad, err := c.bundleLeftovers(ctx, index, r.entries, false)
	if err != nil {
		r.err = err
		return r
	}
	if r.aside == nil {
		r.aside = bad
	}
	if len(r.entries) == tileWidth {
		r.root = subtreeRoot(r.entries)
	}
	return r
}

// compareTile compares a tile of leaf hashes with the entries.
func (c *treeCheck) compareTile(key tileKey, name string, tile []byte, entries []bundleEntry) *Bad {
	for i := range entries {
		at := i * tlog.HashSize
		if len(tile) < at+tlog.HashSize || !bytes.Equal(tile[at:at+tlog.HashSize], entries[i].leaf[:]) {
			return &Bad{Seq: key.first() + uint64(i), Place: c.v.src.place(name), Reason: tileDiffers}
		}
	}
	if n := len(entries) * tlog.HashSize; len(tile) > n && (len(entries) == tileWidth || name != key.path(0)) {
		return &Bad{Seq: key.first() + uint64(len(entries)), Place: c.v.src.place(name), Reason: "the tile goes on after its last hash"}
	}
	return nil
}

func subtreeRoot(entries []bundleEntry) tlog.Hash {
	level := make([]tlog.Hash, len(entries))
	for i := range entries {
		level[i] = entries[i].leaf
	}
	for len(level) > 1 {
		for i := range len(level) / 2 {
			level[i] = tlog.NodeHash(level[2*i], level[2*i+1])
		}
		level = level[:len(level)/2]
	}
	return level[0]
}

// take takes bundles in order.
func (c *treeCheck) take(r *bundleResult) error {
	first := r.index * tileWidth
	c.rest = r.entries
	for i := range r.entries {
		if err := c.takeEntry(first+uint64(i), &r.entries[i], c.v.src.place(tileKey{bundleLevel, r.index}.path(0))); err != nil {
			return err
		}
	}
	c.v.report.Bundles++
	c.v.report.Tiles++
	if r.aside != nil && r.aside.Reason == tileDiffers {
		c.v.aside(r.aside) // says which entry it is, where a remembered checkpoint says only that one is
	}
	c.checkRemembered(r.entries)
	if c.v.o.Progress != nil {
		c.v.o.Progress(min(first+tileWidth, c.size), c.size)
	}
	c.v.aside(r.aside)
	if r.err != nil {
		return r.err
	}
	if len(r.entries) < tileWidth {
		return nil
	}
	c.rest = nil
	return c.addBundle(r.root)
}

// takeEntry checks an entry against the one before it.
func (c *treeCheck) takeEntry(seq uint64, e *bundleEntry, place string) error {
	if seq < c.linked {
		return nil // a partial bundle that has grown since
	}
	if e.stamp < c.stamp {
		return &Bad{Seq: seq, Place: place, Reason: fmt.Sprintf("the entry is of %s, earlier than the one before it (%s)", e.stamp, c.stamp)}
	}
	c.stamp, c.linked = e.stamp, seq+1
	if err := c.v.life.take(seq, &e.facts, place); err != nil {
		return err
	}
	c.v.entries.link(seq, &e.facts)
	c.v.report.Entries++
	return nil
}

// addBundle adds a full bundle to the tree, and checks the tiles that it fills.
func (c *treeCheck) addBundle(root tlog.Hash) error {
	var full []tileKey
	err := c.upper.Append(root[:], func(id compact.NodeID, hash []byte) {
		if id.Level%tileHeight != 0 {
			return
		}
		level := int(id.Level/tileHeight) + 1
		for len(c.tiles) <= level {
			c.tiles = append(c.tiles, nil)
		}
		c.tiles[level] = append(c.tiles[level], hash...)
		if len(c.tiles[level]) == tileWidth*tlog.HashSize {
			full = append(full, tileKey{level, id.Index / tileWidth})
		}
	})
	if err != nil {
		return err
	}
	for _, key := range full {
		if err := c.checkTile(context.Background(), key, c.tiles[key.level]); err != nil {
			return err
		}
		c.tiles[key.level] = c.tiles[key.level][:0]
	}
	return nil
}

// partialTiles checks the tiles on the right edge.
func (c *treeCheck) partialTiles(ctx context.Context) error {
	for level := 1; level < len(c.tiles); level++ {
		if n := len(c.tiles[level]) / tlog.HashSize; n > 0 {
			index := c.size >> (tileHeight * (level + 1))
			if err := c.checkTile(ctx, tileKey{level, index}, c.tiles[level]); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkTile compares a tile above the leaves with what it must be. A difference
// is noted, and the check goes on: the entries may be good all the same.
func (c *treeCheck) checkTile(ctx context.Context, key tileKey, want []byte) error {
	width := len(want) / tlog.HashSize
	data, name, err := resourceOf(ctx, c.v.src, key.path, width)
	c.v.report.Tiles++
	reason := ""
	switch {
	case missing(err):
		reason = "the tile is missing"
	case err != nil:
		return err
	case len(data) > len(want) && width < tileWidth && name == key.path(0):
		data = data[:len(want)]
		fallthrough
	default:
		if !bytes.Equal(data, want) {
			reason = "the tile has other hashes than the entries below it"
		}
	}
	if reason != "" {
		c.v.aside(&Bad{Seq: key.first(), Place: c.v.src.place(name), Reason: reason})
	}
	bad, err := c.tileLeftovers(ctx, key, want, false)
	c.v.aside(bad)
	return err
}

// checkRemembered compares the remembered checkpoints that end in the bundle
// that comes next, of which these are the entries.
func (c *treeCheck) checkRemembered(entries []bundleEntry) {
	start := c.upper.End() * tileWidth
	for i := range c.v.heads {
		h := &c.v.heads[i]
		if h.checked || h.Size < start || h.Size > start+uint64(len(entries)) {
			continue
		}
		h.checked = true
		root, err := c.rootWith(entries[:h.Size-start])
		if err != nil || root != h.Root {
			c.v.notThose(h)
		}
	}
}

// rootWith is the root of all full bundles and some entries after them.
func (c *treeCheck) rootWith(entries []bundleEntry) (tlog.Hash, error) {
	// A copy: the range keeps, and overwrites, the slice that it is given.
	r, err := treeFactory.NewRange(0, c.upper.End()*tileWidth, slices.Clone(c.upper.Hashes()))
	if err != nil {
		return tlog.Hash{}, err
	}
	for i := range entries {
		if err := r.Append(entries[i].leaf[:], nil); err != nil {
			return tlog.Hash{}, err
		}
	}
	return rootOf(r)
}

// rootBeyond is the root over the entries in the journal too, zero where they are
// not all known.
func (c *treeCheck) rootBeyond() tlog.Hash {
	root, err := c.rootWith(slices.Concat(c.rest, c.beyond))
	if err != nil {
		return tlog.Hash{}
	}
	return root
}

// seen is how many entries the tree has so far.
func (c *treeCheck) seen() uint64 { return c.upper.End()*tileWidth + uint64(len(c.rest)) }

// rootAt is the root of the first n entries, where n lies in the last bundle
// that was taken or at its end.
func (c *treeCheck) rootAt(n uint64) (tlog.Hash, error) {
	start := c.upper.End() * tileWidth
	if n < start || n > c.seen() {
		return tlog.Hash{}, fmt.Errorf("no tree of %d entries at hand", n)
	}
	return c.rootWith(c.rest[:n-start])
}
