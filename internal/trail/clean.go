package trail

import (
	"os"
	"path/filepath"
	"regexp"

	"github.com/transparency-dev/tessera/api/layout"
)

// clean removes the partial versions of tiles and bundles that a log of that
// size has in full, as C2SP tlog-tiles permits, from those of entry from on. It
// returns where to go on next time. What cannot be removed stays.
func (d tileDir) clean(from, size uint64) uint64 {
	for ; from+tileWidth <= size; from += tileWidth {
		index := from / tileWidth
		d.removePartials(layout.EntriesPath(index, 0))
		d.removePartials(layout.TilePath(0, index, 0))
		for level := uint64(1); index%tileWidth == tileWidth-1; level++ {
			index /= tileWidth
			d.removePartials(layout.TilePath(level, index, 0))
		}
	}
	return from
}

func (d tileDir) removePartials(path string) {
	_ = os.RemoveAll(filepath.Join(string(d), path+".p")) // a leftover costs space, and nothing else
}

// cleanFrom finds where an earlier run left off cleaning: it looks back from
// the log's end until a long stretch of bundles has nothing to remove.
func (d tileDir) cleanFrom(size uint64) uint64 {
	const stretch = 1024
	from := size / tileWidth * tileWidth
	for at, clean := from, 0; at > 0 && clean < stretch; {
		at -= tileWidth
		clean++
		for _, path := range []string{layout.EntriesPath(at/tileWidth, 0), layout.TilePath(0, at/tileWidth, 0)} {
			if _, err := os.Lstat(filepath.Join(string(d), path+".p")); err == nil {
				from, clean = at, 0
			}
		}
	}
	return from
}

// temporary matches the names under which Tessera writes files before it renames
// them: the final name and a random number. No tile has a name of that length.
var temporary = regexp.MustCompile(`^(\d{4,}|(checkpoint|treeState)\d+)$`)

// sweep removes what Tessera was writing when an earlier process was killed. It
// looks where that can be: at the right edge of a log of that size.
func (d tileDir) sweep(size uint64) {
	const ahead = 2 * defaultBatchMaxSize / tileWidth // bundles that one batch may have begun
	dirs := map[string]bool{string(d): true, filepath.Join(string(d), ".state"): true}
	add := func(path string) {
		path = filepath.Join(string(d), path)
		dirs[filepath.Dir(path)], dirs[path+".p"] = true, true
	}
	for i := range uint64(ahead) {
		add(layout.EntriesPath(size/tileWidth+i, 0))
		add(layout.TilePath(0, size/tileWidth+i, 0))
	}
	for level, index := uint64(1), size>>(2*tileHeight); level < 8; level, index = level+1, index>>tileHeight {
		add(layout.TilePath(level, index, 0))
	}
	for dir := range dirs {
		names, err := os.ReadDir(dir)
		if err != nil {
			continue // it need not exist
		}
		for _, e := range names {
			if e.Type().IsRegular() && temporary.MatchString(e.Name()) {
				_ = os.Remove(filepath.Join(dir, e.Name())) // a leftover costs space, and nothing else
			}
		}
	}
}
