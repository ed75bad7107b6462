package trail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail/journal"
)

// Reader reads a trail's entries from its files, as of the moment at which it was
// opened, beside a running gateway if need be. It takes no lock and changes
// nothing. What it reads it does not check: [Verify] does.
//
// All methods are safe for concurrent use.
type Reader struct {
	dir     string
	tiles   tileDir
	cp      *trailgate.Checkpoint
	chain   *trailgate.Keychain
	covered uint64   // entries under the checkpoint
	beyond  [][]byte // entries after those, from the journal
	bundles bundleCache
}

// OpenReader reads what a data directory holds. Key is the log's verifier key;
// empty: that in the directory.
func OpenReader(ctx context.Context, dir, key string) (*Reader, error) {
	v, err := newVerifier(VerifyOptions{Dir: dir, Key: key})
	if err != nil {
		return nil, fmt.Errorf("read trail: %w", err)
	}
	// A gateway may publish, and trim the journal, between the two looks.
	for range 10 {
		r := &Reader{dir: dir, tiles: tileDir(filepath.Join(dir, logDir))}
		again, err := r.load(ctx, v)
		if err != nil {
			return nil, fmt.Errorf("read trail: %w", err)
		}
		if !again {
			return r, nil
		}
	}
	return nil, errors.New("read trail: the log grows faster than it can be read")
}

func (r *Reader) load(ctx context.Context, v *verifier) (again bool, err error) {
	raw, err := os.ReadFile(filepath.Join(r.dir, logDir, cpFile))
	if err != nil {
		return false, err
	}
	if err := v.readKeys(ctx); err != nil {
		return false, err
	}
	cp, err := v.chain.Open(raw)
	if err != nil {
		return false, err
	}
	r.cp, r.chain, r.covered = cp, v.chain, cp.Size
	end, err := journal.Walk(filepath.Join(r.dir, journalDir), logID(v.chain.Genesis()), cp.Size, func() func(journal.Record) error {
		r.beyond = nil
		return func(rec journal.Record) error {
			if rec.Seq >= r.covered {
				r.beyond = append(r.beyond, bytes.Clone(rec.Entry))
			}
			return ctx.Err()
		}
	})
	if err != nil {
		return false, err
	}
	return end.First > cp.Size, nil
}

// Size is the number of entries.
func (r *Reader) Size() uint64 { return r.covered + uint64(len(r.beyond)) }

// Wait returns at once where Size() > size, and otherwise when ctx ends: what is
// read does not grow.
func (r *Reader) Wait(ctx context.Context, size uint64) error {
	if r.Size() > size {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// Scan calls fn for each entry from seq on, in order, as [Trail.Scan] does.
func (r *Reader) Scan(ctx context.Context, from uint64, fn func(seq uint64, raw []byte) error) error {
	for seq := from; seq < r.Size(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		some := r.beyond
		if seq < r.covered {
			entries, err := r.bundle(seq / tileWidth)
			if err != nil {
				return fmt.Errorf("scan: %w", err)
			}
			some = entries[seq%tileWidth:]
		} else {
			some = some[seq-r.covered:]
		}
		for _, raw := range some {
			if err := fn(seq, raw); err != nil {
				return err
			}
			seq++
		}
	}
	return nil
}

// Get returns the entry at seq, [ErrNotFound] if there is none.
func (r *Reader) Get(ctx context.Context, seq uint64) ([]byte, error) {
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case seq >= r.Size():
		return nil, fmt.Errorf("entry %d: %w", seq, ErrNotFound)
	case seq >= r.covered:
		return r.beyond[seq-r.covered], nil
	}
	entries, err := r.bundle(seq / tileWidth)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", seq, err)
	}
	return entries[seq%tileWidth], nil
}

// GetBlob returns a stored body, checked against its hash.
func (r *Reader) GetBlob(ctx context.Context, sha string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("body %s: %w", sha, err)
	}
	return readBlob(filepath.Join(r.dir, blobDir), sha)
}

func (r *Reader) bundle(index uint64) ([][]byte, error) {
	width := widthAt(0, index, r.covered)
	if entries := r.bundles.get(index, width); entries != nil {
		return entries[:width], nil
	}
	entries, err := r.tiles.bundle(index, width)
	if err != nil {
		return nil, err
	}
	r.bundles.put(index, entries)
	return entries, nil
}

// Checkpoint is the log's checkpoint.
func (r *Reader) Checkpoint() *trailgate.Checkpoint { return r.cp }

// Head is the checkpoint that is remembered outside the log, nil if it cannot be read.
func (r *Reader) Head() *trailgate.Checkpoint {
	raw, err := os.ReadFile(filepath.Join(r.dir, headDir, cpFile))
	if err != nil {
		return nil
	}
	cp, err := r.chain.Open(raw)
	if err != nil {
		return nil
	}
	return cp
}

// Keys are all keys that the log had, the newest last.
func (r *Reader) Keys() []string { return r.chain.Keys() }
