package trail

import (
	"container/list"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail/journal"
)

// Size is the number of durable entries, and so the next sequence number.
func (t *Trail) Size() uint64 { return t.size.Load() }

// Wait returns when Size() > size, or with an error when ctx ends or the trail
// is closed.
func (t *Trail) Wait(ctx context.Context, size uint64) error {
	return t.grown.wait(ctx, t.committed, func() bool { return t.size.Load() > size })
}

// scanBytes is how much Scan and the sequencer read at once.
const scanBytes = 1 << 20

// Scan calls fn for each durable entry from seq on, in order, up to those that
// become durable while it runs; it does not wait for more. It ends with fn's
// error, if that returns one, or with ctx's. Raw must not be changed; it may
// be kept, but may keep up to a megabyte of its neighbours in memory.
func (t *Trail) Scan(ctx context.Context, from uint64, fn func(seq uint64, raw []byte) error) error {
	for seq := from; seq < t.size.Load(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		recs, err := t.read(seq, scanBytes)
		if err != nil {
			return fmt.Errorf("scan: %w", err)
		}
		for i := range recs {
			if err := fn(seq, recs[i].Entry); err != nil {
				return err
			}
			seq++
		}
	}
	return nil
}

// Get returns the entry at seq, [ErrNotFound] if there is none yet. The bytes
// must not be changed.
func (t *Trail) Get(ctx context.Context, seq uint64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if seq >= t.size.Load() {
		return nil, fmt.Errorf("entry %d: %w", seq, ErrNotFound)
	}
	recs, err := t.read(seq, 1)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", seq, err)
	}
	return recs[0].Entry, nil
}

// read returns some entries from seq on, at least one, from wherever that is
// cheapest: memory, journal, or the log's bundles. Seq must be durable. Of the
// records only Seq and Entry are always set.
func (t *Trail) read(seq uint64, maxBytes int64) ([]journal.Record, error) {
	if recs := t.recent.from(seq); recs != nil {
		return recs, nil
	}
	recs, err := t.journal.Read(seq, maxBytes)
	if err == nil && len(recs) > 0 {
		return recs, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// What the journal has given up is under a published checkpoint.
	size := t.published.Load().Size
	if seq >= size {
		return nil, fmt.Errorf("%w: entry %d is neither in the journal nor in the log", ErrTruncated, seq)
	}
	entries, err := t.bundle(seq/tileWidth, size)
	if err != nil {
		return nil, err
	}
	entries = entries[seq%tileWidth:]
	recs = make([]journal.Record, len(entries))
	for i, raw := range entries {
		if err := checkSeq(raw, seq+uint64(i)); err != nil {
			return nil, err
		}
		recs[i] = journal.Record{Seq: seq + uint64(i), Entry: raw}
	}
	return recs, nil
}

// checkSeq is a cheap look at what comes from a bundle; Verify and proofs do
// the real one.
func checkSeq(raw []byte, seq uint64) error {
	got, _, err := entryHeader(raw)
	if err != nil {
		return fmt.Errorf("%w: entry %d: %w; %s", ErrTruncated, seq, err, whatToDo)
	}
	if got != seq {
		return fmt.Errorf("%w: entry %d says that it is %d; %s", ErrTruncated, seq, got, whatToDo)
	}
	return nil
}

// fromBundle reads one entry of a tree of that size from its bundle.
func (t *Trail) fromBundle(seq, size uint64) ([]byte, error) {
	entries, err := t.bundle(seq/tileWidth, size)
	if err != nil {
		return nil, err
	}
	return entries[seq%tileWidth], nil
}

// bundle returns a bundle as it is in a tree of that size.
func (t *Trail) bundle(index, size uint64) ([][]byte, error) {
	width := widthAt(0, index, size)
	if entries := t.bundles.get(index, width); entries != nil {
		return entries[:width], nil
	}
	entries, err := t.tiles.bundle(index, width)
	if err != nil {
		return nil, err
	}
	t.bundles.put(index, entries)
	return entries, nil
}

// bundleCacheBytes bounds the parsed bundles that are kept for Get and Scan.
const bundleCacheBytes = 32 << 20

// bundleCache keeps the bundles that were used last. Its zero value is empty
// and ready to use.
type bundleCache struct {
	mu    sync.Mutex // guards all below; the bundles themselves never change
	byIdx map[uint64]*list.Element
	order list.List // of *cachedBundle, most recent first
	bytes int64
}

type cachedBundle struct {
	index   uint64
	entries [][]byte
	bytes   int64
}

func (c *bundleCache) get(index uint64, width int) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.byIdx[index]
	if el == nil || len(el.Value.(*cachedBundle).entries) < width {
		return nil
	}
	c.order.MoveToFront(el)
	return el.Value.(*cachedBundle).entries
}

func (c *bundleCache) put(index uint64, entries [][]byte) {
	b := &cachedBundle{index: index, entries: entries}
	for _, e := range entries {
		b.bytes += int64(len(e)) + 24
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byIdx == nil {
		c.byIdx = map[uint64]*list.Element{}
	}
	if old := c.byIdx[index]; old != nil {
		c.dropLocked(old)
	}
	c.byIdx[index] = c.order.PushFront(b)
	c.bytes += b.bytes
	for c.bytes > bundleCacheBytes && c.order.Len() > 1 {
		c.dropLocked(c.order.Back())
	}
}

func (c *bundleCache) dropLocked(el *list.Element) {
	b := c.order.Remove(el).(*cachedBundle)
	delete(c.byIdx, b.index)
	c.bytes -= b.bytes
}

// Prove returns a proof that the entry at seq is in the log. It waits until a
// checkpoint covers the entry, or ctx ends. The proof has been verified.
func (t *Trail) Prove(ctx context.Context, seq uint64) (*trailgate.Proof, error) {
	if seq >= t.size.Load() {
		return nil, fmt.Errorf("prove entry %d: %w", seq, ErrNotFound)
	}
	err := t.proven.wait(ctx, t.sequenced, func() bool { return t.published.Load().Size > seq })
	if err != nil {
		return nil, fmt.Errorf("prove entry %d: waiting for a checkpoint: %w", seq, err)
	}
	cp := t.published.Load()
	reader := tlog.TileHashReader(tlog.Tree{N: int64(cp.Size), Hash: cp.Root}, t.tiles)
	path, err := tlog.ProveRecord(int64(cp.Size), int64(seq), reader)
	if err != nil {
		return nil, fmt.Errorf("prove entry %d: %w", seq, err)
	}
	raw, err := t.fromBundle(seq, cp.Size)
	if err != nil {
		return nil, fmt.Errorf("prove entry %d: %w", seq, err)
	}
	p := &trailgate.Proof{Entry: raw, Index: seq, Checkpoint: string(cp.Raw), Hashes: make([][]byte, len(path))}
	for i := range path {
		p.Hashes[i] = path[i][:]
	}
	if _, _, err := p.Verify(t.verifier); err != nil {
		return nil, fmt.Errorf("%w: prove entry %d: %w; %s", ErrTruncated, seq, err, whatToDo)
	}
	return p, nil
}

// Checkpoint is the newest published checkpoint.
func (t *Trail) Checkpoint() (*trailgate.Checkpoint, error) { return t.published.Load(), nil }

// LogDir is the directory of the tiled log, whose files (but for those whose
// names begin with a dot) may be served as they are.
func (t *Trail) LogDir() string { return string(t.tiles) }

// PublicKey is the log's verifier key, as log.pub has it.
func (t *Trail) PublicKey() string { return t.vkey }

// Ready is nil while entries are accepted, and otherwise says why not.
func (t *Trail) Ready() error {
	t.mu.Lock()
	err := t.refusalLocked()
	t.mu.Unlock()
	if err != nil {
		return err
	}
	return t.unwitnessed(trailgate.KindIntent)
}

// Stats returns the trail's figures as of now.
func (t *Trail) Stats() Stats {
	published := t.published.Load().Size
	s := Stats{
		Size: t.size.Load(), Integrated: t.integrated.Load(), Published: published,
		JournalBytes: t.journal.BytesFrom(published), JournalSegments: t.journal.Segments(),
		FreeBytes: t.freeBytes.Load(), Commits: t.commits.Load(), Batches: t.batches.Load(),
		SyncTime: time.Duration(t.syncNanos.Load()),
	}
	if ns := t.publishedAt.Load(); ns > 0 {
		s.PublishedAt = time.Unix(0, ns).UTC()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Refused, s.Failures = t.refusedTotal, t.failures
	if t.sequencerErr != nil {
		s.SequencerError = t.sequencerErr.Error()
	}
	return s
}

// blobPath is where a blob of that hash lies.
func blobPath(dir, sha string) (string, error) {
	if raw, err := hex.DecodeString(sha); err != nil || len(raw) != 32 || hex.EncodeToString(raw) != sha {
		return "", fmt.Errorf("blob %q: not a SHA-256 in lower-case hex", sha)
	}
	return filepath.Join(dir, sha[:2], sha+".zst"), nil
}
