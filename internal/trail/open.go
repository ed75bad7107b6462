package trail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail/durable"
	"github.com/trailgate/trailgate/internal/trail/journal"
)

const (
	defaultSegmentBytes       = 32 << 20
	defaultMinFreeBytes       = 64 << 20
	defaultMaxJournalBytes    = 1 << 30
	defaultBatchMaxSize       = 4096
	defaultBatchMaxAge        = 20 * time.Millisecond
	defaultCheckpointInterval = time.Second
)

// hooks are what tests of this package put in place of the world.
type hooks struct {
	fs         *durable.FS
	mono       func() time.Duration
	integrator func(integrator) integrator
}

// logID names the trail's log in its journal.
func (t *Trail) logID() tlog.Hash { return logID(t.chain.Genesis()) }

func (o *Options) setDefaults() error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = defaultSegmentBytes
	}
	if o.SegmentBytes < journal.MinSegmentBytes || o.SegmentBytes > 1<<30 {
		return fmt.Errorf("open trail: segment size %d: choose 256 KiB to 1 GiB", o.SegmentBytes)
	}
	if o.MinFreeBytes == 0 {
		o.MinFreeBytes = defaultMinFreeBytes
	}
	if o.MaxJournalBytes <= 0 {
		o.MaxJournalBytes = defaultMaxJournalBytes
	}
	if o.BatchMaxSize <= 0 {
		o.BatchMaxSize = defaultBatchMaxSize
	}
	if o.BatchMaxAge <= 0 {
		o.BatchMaxAge = defaultBatchMaxAge
	}
	if o.CheckpointInterval <= 0 {
		o.CheckpointInterval = defaultCheckpointInterval
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.hooks.fs == nil {
		o.hooks.fs = &durable.FS{}
	}
	if o.hooks.mono == nil {
		start := time.Now()
		o.hooks.mono = func() time.Duration { return time.Since(start) }
	}
	return nil
}

// Trail is an open trail. All methods are safe for concurrent use.
//
// Four goroutines belong to it: the committer writes the journal, the
// sequencer feeds the log and publishes checkpoints, the preparer lays out
// journal segments ahead, the housekeeper watches disk, clock and backlog.
// Close ends and awaits them.
type Trail struct {
	dir, vkey string
	chain     *trailgate.Keychain // all keys of the log; vkey is the newest
	o         Options
	fs        *durable.FS
	lock      io.Closer
	signer    note.Signer
	verifier  note.Verifier
	journal   *journal.Journal
	log       integrator
	tiles     tileDir
	clock     *clock
	recent    recent
	bundles   bundleCache
	blobs     blobStore

	size       atomic.Uint64 // durable entries
	grown      signal
	integrated atomic.Uint64 // entries in the log's tree, as the sequencer knows it
	published  atomic.Pointer[trailgate.Checkpoint]
	proven     signal // published has changed
	witnessed  atomic.Pointer[WitnessState]
	answered   *Cosigned       // what the witnesses said at the start, for the sequencer
	disagreed  map[string]bool // what was recorded of witnesses; the sequencer's own
	rolledBack chan struct{}   // closed when witnesses contradict the trail; fatal then says so

	wake      chan struct{} // capacity 1, to the committer
	prepare   chan struct{} // capacity 1, to the preparer
	closing   chan struct{} // closed when no more entries are accepted
	abandon   chan struct{} // closed when Close no longer waits for the log to catch up
	committed chan struct{} // closed when the committer has ended
	sequenced chan struct{} // closed when the sequencer has ended
	helpers   sync.WaitGroup
	closeOnce sync.Once
	abandoned sync.Once
	closeErr  error

	owed        time.Duration // by the committer, which alone looks at it: see pause
	commitStart atomic.Int64  // Unix ns of the journal write under way, 0 if none
	commits     atomic.Uint64
	syncNanos   atomic.Int64
	batches     atomic.Uint64
	freeBytes   atomic.Int64
	publishedAt atomic.Int64 // Unix ns

	noSpaceSince, behindSince, stalledSince time.Time // the housekeeper's own

	mu           sync.Mutex // guards all below
	staged       []*staged
	stagedBytes  int64
	notes        []*staged // the trail's own entries
	refused      uint64    // since entries were last accepted
	refusedTotal uint64
	failures     uint64
	// Why entries are refused; nil where that is no reason.
	frozen, fatal, closedErr, broken, stalled, noSpace, behind error
	sequencerErr                                               error // why the log does not grow; entries are accepted all the same
}

// Open opens the trail in dir, which [Create] made, recovers what a crash
// interrupted, and starts to feed the log.
//
// It fails with [ErrLocked] where another process has the trail open, with
// [ErrMissing], [ErrForeign] or [ErrTruncated] where what it finds is not all
// that was written. None of these goes away by itself, and Open repairs
// nothing of the kind: the message says what to do.
func Open(ctx context.Context, dir string, o Options) (*Trail, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	t := &Trail{
		dir: dir, o: o, fs: o.hooks.fs,
		tiles:     tileDir(filepath.Join(dir, logDir)),
		clock:     newClock(o.Now, o.hooks.mono),
		wake:      make(chan struct{}, 1),
		prepare:   make(chan struct{}, 1),
		closing:   make(chan struct{}),
		abandon:   make(chan struct{}),
		committed: make(chan struct{}),
		sequenced: make(chan struct{}),

		disagreed: map[string]bool{}, rolledBack: make(chan struct{}),
	}
	t.blobs = blobStore{dir: filepath.Join(dir, blobDir), fs: t.fs, log: o.Log}
	if err := t.recover(ctx); err != nil {
		if t.journal != nil {
			err = errors.Join(err, t.journal.Close())
		}
		if t.lock != nil {
			err = errors.Join(err, t.lock.Close())
		}
		return nil, fmt.Errorf("open trail: %w", err)
	}
	t.watch() // so that a full disk is known before the first entry
	go t.commitLoop()
	t.helpers.Go(t.prepareLoop)
	t.helpers.Go(t.watchLoop)
	if err := t.askBeforeStart(ctx); err != nil {
		close(t.sequenced) // nothing is published any more
		return nil, fmt.Errorf("open trail: %w", errors.Join(err, t.endRolledBack(ctx)))
	}
	go t.sequenceLoop()
	return t, nil
}

// recover brings the parts together, and refuses where they do not fit.
func (t *Trail) recover(ctx context.Context) error {
	if err := t.takeLock(); err != nil {
		return err
	}
	if err := t.loadKeys(); err != nil {
		return err
	}
	l, err := newTesseraLog(string(t.tiles), t.signer)
	if err != nil {
		return err
	}
	t.log = l
	if t.o.hooks.integrator != nil {
		t.log = t.o.hooks.integrator(l)
	}
	cp, head, err := t.loadCheckpoints()
	if err != nil {
		return err
	}
	size, err := t.checkTree(cp, head)
	if err != nil {
		return err
	}
	if err := t.openJournal(size, head.Size); err != nil {
		return err
	}
	if err := t.checkOverlap(ctx, size); err != nil {
		return err
	}
	// What is on disk may so far be there by name only in the kernel's memory.
	for _, dir := range []string{filepath.Join(string(t.tiles), ".state"), string(t.tiles), filepath.Join(t.dir, headDir)} {
		if err := t.fs.SyncDir(dir); err != nil {
			return err
		}
	}
	t.integrated.Store(size)
	t.size.Store(t.journal.Next())
	t.published.Store(cp)
	if next := t.journal.Next(); next > 0 {
		raw, err := t.Get(ctx, next-1)
		if err != nil {
			return err
		}
		last, err := entryTime(raw)
		if err != nil {
			return fmt.Errorf("%w: entry %d: %w", ErrTruncated, next-1, err)
		}
		if isFreeze(raw) {
			t.frozen = fmt.Errorf("%w since %s: it can be read and verified; to go on recording, make a successor with trailgate init --successor-of %s", ErrFrozen, last.Format(time.DateTime), t.dir)
		}
		if detail, stepped := t.clock.resume(last); stepped {
			t.note("clock.step", detail)
		}
	}
	return nil
}

func (t *Trail) takeLock() error {
	for _, name := range []string{keyFile, pubFile, logDir, journalDir, headDir} {
		path := filepath.Join(t.dir, name)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if moved := filepath.Join(t.dir, movedKeyFile); name == keyFile && exists(moved) {
				return fmt.Errorf("%w: %s is there: the log was moved, its last entry says where to (point data_dir there; where \"trailgate log move\" was interrupted, run it again)", ErrMissing, moved)
			}
			return fmt.Errorf("%w: %s does not exist (if there never was a trail here, make one with \"trailgate init\"; if there was, restore it from a backup: a new one would hide that the old one is gone)", ErrMissing, path)
		} else if err != nil {
			return err
		}
	}
	lock, err := durable.Lock(filepath.Join(t.dir, journalDir, lockFile))
	if errors.Is(err, durable.ErrLocked) {
		return fmt.Errorf("%w: %s (stop the other gateway, or give this one another data directory)", ErrLocked, t.dir)
	}
	t.lock = lock
	return err
}

func (t *Trail) loadKeys() error {
	if _, err := os.Lstat(filepath.Join(t.dir, nextKeyFile)); err == nil && !t.o.rotating {
		return fmt.Errorf("%w: %s is there (trailgate log rotate-key completes it)", ErrInterrupted, filepath.Join(t.dir, nextKeyFile))
	}
	raw, err := os.ReadFile(filepath.Join(t.dir, keyFile))
	if err != nil {
		return err
	}
	t.signer, err = note.NewSigner(strings.TrimSpace(string(raw)))
	if err != nil {
		return fmt.Errorf("%s: %w (restore it from a backup)", filepath.Join(t.dir, keyFile), err)
	}
	t.vkey, t.verifier, err = readVerifier(filepath.Join(t.dir, pubFile))
	if err != nil {
		return err
	}
	signed, err := note.Sign(&note.Note{Text: "\n"}, t.signer)
	if err == nil {
		_, err = note.Open(signed, note.VerifierList(t.verifier))
	}
	if err != nil || t.signer.Name() != t.verifier.Name() {
		return fmt.Errorf("%w: log.key and log.pub in %s are not a pair (restore both from one backup)", ErrForeign, t.dir)
	}
	if t.chain, err = readKeychain(t.dir, t.vkey); err != nil {
		return err
	}
	if t.chain.Current() != t.vkey {
		return fmt.Errorf("%w: the log went over to another key than the one in %s (put the key from the last rotation there; an older one must not sign)", ErrForeign, filepath.Join(t.dir, pubFile))
	}
	return nil
}

func readVerifier(path string) (string, note.Verifier, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", nil, err
	}
	vkey := strings.TrimSpace(string(raw))
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", path, err)
	}
	return vkey, v, nil
}

func (t *Trail) loadCheckpoints() (cp, head *trailgate.Checkpoint, err error) {
	for _, c := range []struct {
		path string
		to   **trailgate.Checkpoint
	}{
		{filepath.Join(t.dir, headDir, cpFile), &head},
		{filepath.Join(string(t.tiles), cpFile), &cp},
	} {
		raw, err := os.ReadFile(c.path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("%w: %s does not exist (restore it from a backup; trailgate verify shows what else is gone)", ErrMissing, c.path)
		}
		if err != nil {
			return nil, nil, err
		}
		*c.to, err = trailgate.OpenCheckpoint(raw, t.verifier)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %s is not signed by the key in log.pub for %s: %w (put back the log that belongs to this key)", ErrForeign, c.path, t.verifier.Name(), err)
		}
	}
	return cp, head, nil
}

const whatToDo = "keep the directory as evidence, run trailgate verify to see the first bad place, and restore from a backup"

// checkTree checks that both checkpoints are heads of the tree that the tiles
// make up, and returns that tree's size.
func (t *Trail) checkTree(cp, head *trailgate.Checkpoint) (uint64, error) {
	if cp.Size < head.Size {
		return 0, fmt.Errorf("%w: the log's checkpoint has %d entries, but one with %d was published (head/checkpoint); %s", ErrTruncated, cp.Size, head.Size, whatToDo)
	}
	size, err := t.log.size()
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%w: %w (%s)", ErrMissing, err, whatToDo)
	}
	if err != nil {
		return 0, err
	}
	if size < cp.Size {
		return 0, fmt.Errorf("%w: the log's tree has %d entries, its checkpoint %d; %s", ErrTruncated, size, cp.Size, whatToDo)
	}
	for name, c := range map[string]*trailgate.Checkpoint{"log/checkpoint": cp, "head/checkpoint": head} {
		root, err := t.tiles.treeRoot(c.Size, size)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("%w: %w; %s", ErrTruncated, err, whatToDo)
		}
		if err != nil {
			return 0, fmt.Errorf("%w: tiles: %w; %s", ErrTruncated, err, whatToDo)
		}
		if root != c.Root {
			return 0, fmt.Errorf("%w: the first %d entries of the log are not those that %s was signed for; %s", ErrTruncated, c.Size, name, whatToDo)
		}
	}
	return size, nil
}

func (t *Trail) openJournal(size, covered uint64) error {
	j, err := journal.Open(filepath.Join(t.dir, journalDir), journal.Options{
		FS: t.fs, Log: t.o.Log, ID: t.logID(), SegmentBytes: t.o.SegmentBytes, Covered: covered,
	})
	damage, damaged := errors.AsType[*journal.DamageError](err)
	switch {
	case damaged:
		return fmt.Errorf("%w: %w; %s", ErrTruncated, damage, whatToDo)
	case errors.Is(err, journal.ErrForeign):
		return fmt.Errorf("%w: %w (put back the journal that belongs to this log)", ErrForeign, err)
	case errors.Is(err, journal.ErrMissing):
		return fmt.Errorf("%w: %w; %s", ErrMissing, err, whatToDo)
	case err != nil:
		return err
	}
	t.journal = j
	if j.Next() < size || j.First() > size {
		return fmt.Errorf("%w: the log has %d entries, the journal those from %d to %d; %s", ErrTruncated, size, j.First(), j.Next(), whatToDo)
	}
	return nil
}

// checkOverlap compares the entries that the journal and the log both hold:
// byte for byte with the bundles, and with the leaf hashes in the tiles. It is
// how an entry gets into the log exactly once: what is there already is known
// to be the same, and only the rest is fed.
func (t *Trail) checkOverlap(ctx context.Context, size uint64) error {
	for seq := t.journal.First(); seq < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		recs, err := t.journal.Read(seq, 1<<20)
		if err != nil {
			return err
		}
		recs = recs[:min(uint64(len(recs)), size-seq)]
		indexes := make([]int64, len(recs))
		for i, r := range recs {
			indexes[i] = tlog.StoredHashIndex(0, int64(r.Seq))
		}
		leaves, err := t.tiles.hashes(size).ReadHashes(indexes)
		if err != nil {
			return fmt.Errorf("%w: tiles: %w; %s", ErrTruncated, err, whatToDo)
		}
		for i, r := range recs {
			raw, err := t.fromBundle(r.Seq, size)
			if err != nil {
				return fmt.Errorf("%w: entry %d: %w; %s", ErrTruncated, r.Seq, err, whatToDo)
			}
			if !bytes.Equal(raw, r.Entry) || leaves[i] != trailgate.LeafHash(r.Entry) {
				return fmt.Errorf("%w: entry %d in the log is not the one in the journal; %s", ErrTruncated, r.Seq, whatToDo)
			}
		}
		seq += uint64(len(recs))
	}
	return nil
}

// Close stops accepting entries, waits until all that were accepted are in the
// log and under a checkpoint, and releases the trail. Where ctx ends first,
// what is left stays in the journal, and the next Open goes on with it; the
// error says how much that is. Only the first call does anything.
func (t *Trail) Close(ctx context.Context) error {
	t.closeOnce.Do(func() { t.closeErr = t.close(ctx) })
	return t.closeErr
}

// giveUp has the sequencer end after its current step.
func (t *Trail) giveUp() { t.abandoned.Do(func() { close(t.abandon) }) }

func (t *Trail) close(ctx context.Context) error {
	t.mu.Lock()
	t.closedErr = ErrClosed
	t.mu.Unlock()
	close(t.closing)
	var err error
	select {
	case <-t.committed:
	case <-ctx.Done():
		// Who waits no longer still leaves the journal time for the step that it is at.
		select {
		case <-t.committed:
		case <-time.After(appendTimeout):
			// A write to the journal hangs. The lock stays with this process.
			return fmt.Errorf("close trail: the journal's disk does not answer: %w", ctx.Err())
		}
	}
	select {
	case <-t.sequenced:
	case <-ctx.Done():
		t.giveUp()
		select {
		case <-t.sequenced:
		case <-time.After(appendTimeout):
			return fmt.Errorf("close trail: the log's disk does not answer: %w", ctx.Err())
		}
	}
	if left := t.size.Load() - t.published.Load().Size; left > 0 {
		t.mu.Lock()
		cause := errors.Join(ctx.Err(), t.sequencerErr, t.fatal)
		t.mu.Unlock()
		err = fmt.Errorf("close trail: %d entries are not yet under a checkpoint; they are safe in the journal, and the next start goes on with them: %w", left, cause)
	}
	t.helpers.Wait()
	return errors.Join(err, t.journal.Close(), t.lock.Close())
}
