// Package durabletest models what a disk holds after a power cut: for tests of
// what is written through package durable.
package durabletest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/trailgate/trailgate/internal/trail/durable"
)

// ErrFrozen is the error of every operation after [Disk.Freeze].
var ErrFrozen = errors.New("durabletest: the power is cut")

const sector = 512

// Disk follows the operations on a directory and knows which of them have
// reached the disk. It is safe for concurrent use.
type Disk struct {
	// Inject, if set, may fail an operation. A sync that fails without being
	// applied loses what was written before it for good, as Linux does.
	Inject func(durable.Op) durable.Fault

	mu      sync.Mutex // guards all below
	root    string
	frozen  bool
	names   map[string]*inode // as a running process sees them
	synced  map[string]*inode // as the disk has them
	touched map[string]bool   // paths that an operation was about
	// moves are the changes of names in a directory since it was last synced.
	moves map[string][]func(map[string]*inode)
}

type inode struct {
	content []byte  // on disk for certain
	pending []write // since the last sync
}

type write struct {
	off  int64
	data []byte
}

// New follows the directory root, whose present content counts as synced.
func New(root string) (*Disk, error) {
	d := &Disk{root: root, names: map[string]*inode{}, touched: map[string]bool{}, moves: map[string][]func(map[string]*inode){}}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		d.names[path] = &inode{content: raw}
		return err
	})
	d.synced = maps.Clone(d.names)
	return d, err
}

// FS is a file system whose operations the disk follows.
func (d *Disk) FS() *durable.FS { return &durable.FS{Hook: d.hook} }

// Freeze has all later operations fail and do nothing, as if the power was cut now.
func (d *Disk) Freeze() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.frozen = true
}

func (d *Disk) hook(op durable.Op) durable.Fault {
	var fault durable.Fault
	if d.Inject != nil {
		fault = d.Inject(op)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.frozen {
		return durable.Fault{Err: ErrFrozen}
	}
	switch {
	case fault.Err == nil || fault.Apply:
		d.apply(op)
	case op.Kind == durable.OpWrite && fault.Bytes > 0:
		op.Data = op.Data[:min(fault.Bytes, len(op.Data))]
		d.apply(op)
	case op.Kind == durable.OpSync:
		if f := d.names[op.Path]; f != nil {
			f.pending = nil
		}
	}
	return fault
}

func (d *Disk) apply(op durable.Op) {
	d.touched[op.Path], d.touched[op.To] = true, true
	dir := filepath.Dir(op.Path)
	move := func(f func(map[string]*inode)) {
		f(d.names)
		d.moves[dir] = append(d.moves[dir], f)
	}
	switch op.Kind {
	case durable.OpCreate:
		f := &inode{content: make([]byte, op.Len)}
		move(func(m map[string]*inode) { m[op.Path] = f })
	case durable.OpWrite:
		if f := d.names[op.Path]; f != nil {
			f.pending = append(f.pending, write{op.Off, slices.Clone(op.Data)})
		}
	case durable.OpSync:
		if f := d.names[op.Path]; f != nil {
			for _, w := range f.pending {
				f.content = put(f.content, w.off, w.data)
			}
			f.pending = nil
		}
	case durable.OpRename:
		f := d.names[op.Path]
		move(func(m map[string]*inode) { delete(m, op.Path); m[op.To] = f })
	case durable.OpRemove:
		move(func(m map[string]*inode) { delete(m, op.Path) })
	case durable.OpSyncDir:
		for _, f := range d.moves[op.Path] {
			f(d.synced)
		}
		delete(d.moves, op.Path)
	}
}

func put(content []byte, off int64, data []byte) []byte {
	if end := off + int64(len(data)); end > int64(len(content)) {
		content = append(content, make([]byte, end-int64(len(content)))...)
	}
	copy(content[off:], data)
	return content
}

// Cut writes to the directory to what the disk may hold if the power was cut
// now: all that was synced, and of the rest what r chooses, sector by sector
// and change of name by change of name. Files that never passed through the
// disk are copied as they are.
func (d *Disk) Cut(to string, r *rand.Rand) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := maps.Clone(d.synced)
	for _, dir := range slices.Sorted(maps.Keys(d.moves)) {
		moves := d.moves[dir]
		for _, f := range moves[:r.IntN(len(moves)+1)] {
			f(names)
		}
	}
	err := filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, path[len(d.root):])
		if e.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		if d.touched[path] {
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, raw, 0o600)
	})
	if err != nil {
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(names)) {
		if !d.touched[path] {
			continue
		}
		f := names[path]
		if f == nil {
			return fmt.Errorf("durabletest: no file behind %s", path)
		}
		content := slices.Clone(f.content)
		for _, w := range f.pending {
			for at := 0; at < len(w.data); {
				n := min(len(w.data)-at, sector-int((w.off+int64(at))%sector))
				if r.IntN(2) == 0 {
					content = put(content, w.off+int64(at), w.data[at:at+n])
				}
				at += n
			}
		}
		if err := os.WriteFile(filepath.Join(to, path[len(d.root):]), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
