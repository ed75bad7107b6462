package trail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/merkle/compact"

	"github.com/trailgate/trailgate"
)

const (
	// feedBytes bounds what Tessera is given at once, and so the memory it takes.
	feedBytes = 16 << 20
	// restRatio is the sequencer's rest after a batch, as a part of the time the
	// batch took, while the log is not far behind: Tessera's many small synced
	// files slow down the journal's syncs on the same disk.
	restRatio = 0.25
	maxRest   = 50 * time.Millisecond
)

// sequencer feeds the log and publishes checkpoints. It is one goroutine's.
type sequencer struct {
	t         *Trail
	tree      *compact.Range // over the entries that are in the log, from the journal's own bytes
	lastFeed  time.Time
	lastCp    time.Time
	cleanFrom uint64 // partial tiles of entries below are gone

	// A signed checkpoint that the witnesses are asked about; nil: none. The answer
	// comes through asked, and stays in answer until it is published.
	pending    *trailgate.Checkpoint
	asked      chan *Cosigned
	answer     *Cosigned
	lastAsk    time.Time
	retries    int             // of this checkpoint
	asking     context.Context // of all asking, for as long as the sequencer lives
	stopAsking context.CancelFunc
}

// errFatal marks what no retry repairs.
var errFatal = errors.New("the trail must be stopped")

// sequenceLoop is the sequencer: everything between the journal and a published
// checkpoint happens here, one step after the other.
func (t *Trail) sequenceLoop() {
	defer close(t.sequenced)
	s := &sequencer{t: t}
	s.asking, s.stopAsking = context.WithCancel(context.Background())
	defer s.abandonAsking()
	if t.answered != nil { // at the start, about the checkpoint that was found
		s.pending, s.answer, s.lastAsk = t.published.Load(), t.answered, time.Now()
	}
	for wait := 100 * time.Millisecond; ; {
		select {
		case <-t.abandon:
			return
		default:
		}
		more, err := s.step()
		switch {
		case err == nil && !more:
			return
		case err == nil:
			t.sequencing(nil)
			wait = 100 * time.Millisecond
			continue
		case errors.Is(err, errFatal):
			t.o.Log.LogAttrs(context.Background(), slog.LevelError, "the log cannot go on", slog.Any("err", err))
			t.mu.Lock()
			t.fatal, t.sequencerErr = fmt.Errorf("%w: %w; %s", ErrUnavailable, err, whatToDo), err
			t.mu.Unlock()
			return
		}
		t.sequencing(err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			wait = min(2*wait, 5*time.Second)
		case <-t.abandon:
			timer.Stop()
			return
		}
	}
}

// sequencing notes whether the log grows, and logs when that changes.
func (t *Trail) sequencing(err error) {
	t.mu.Lock()
	before := t.sequencerErr
	t.sequencerErr = err
	t.mu.Unlock()
	switch {
	case err != nil && before == nil:
		t.o.Log.LogAttrs(context.Background(), slog.LevelError, "the log does not grow; entries stay in the journal", slog.Any("err", err))
	case err == nil && before != nil:
		t.o.Log.LogAttrs(context.Background(), slog.LevelInfo, "the log grows again")
	}
}

// step waits for the next thing to do, and does it. More is false when the
// trail is closing and nothing is left to do.
func (s *sequencer) step() (more bool, err error) {
	t := s.t
	if s.tree == nil {
		if err := s.begin(); err != nil {
			return false, err
		}
	}
	from := s.tree.End()
	size, published := t.size.Load(), t.published.Load().Size
	// Publishing comes first where it is due, or a busy log would never get to it.
	if s.hasAnswer() {
		return true, s.heard()
	}
	if s.pending == nil && from > published && time.Since(s.lastCp) >= t.o.CheckpointInterval {
		return true, s.publish()
	}
	if s.pending == nil && from == published && s.askAgainIn() <= 0 && !t.isClosing() {
		s.startAsking(t.published.Load())
	}
	if from < size && (s.due(size-from) || t.isClosing()) {
		return true, s.feed(from, size)
	}
	if from > published && t.isClosing() {
		if s.pending == nil {
			return true, s.publish()
		}
		select {
		case s.answer = <-s.asked:
		case <-t.abandon: // the loop looks
		}
		return true, nil
	}
	select {
	case <-t.committed:
		// All that ever becomes durable is; step came here since none of it is left to do.
		if t.size.Load() == from && t.published.Load().Size == from {
			return false, nil
		}
		return true, nil
	default:
	}
	return true, s.rest(from)
}

// isClosing reports whether the trail takes no more entries, so that what is
// there should be finished without waiting for company.
func (t *Trail) isClosing() bool {
	select {
	case <-t.closing:
		return true
	default:
		return false
	}
}

// rest waits until there may be something to do.
func (s *sequencer) rest(from uint64) error {
	t := s.t
	if t.size.Load() > from || from > t.published.Load().Size {
		// Something is there, but its time has not come.
		timer := time.NewTimer(min(t.o.BatchMaxAge, t.o.CheckpointInterval/4))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-t.closing:
		case <-t.abandon:
		}
		return nil
	}
	// Errors only say that the wait ended: step looks again.
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if t.o.Witnesses.Cosigner != nil {
		ctx, cancel = context.WithTimeout(ctx, max(s.askAgainIn(), t.o.BatchMaxAge))
	}
	_ = t.grown.wait(ctx, t.closing, func() bool { return t.size.Load() > from })
	cancel()
	if t.isClosing() {
		// The committer is about to end, or to make a last batch durable.
		<-t.committed
		return nil
	}
	s.gather()
	return nil
}

// gather lets the first entry after a pause wait for company.
func (s *sequencer) gather() {
	timer := time.NewTimer(s.t.o.BatchMaxAge)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.t.closing:
	}
}

// due reports whether that many waiting entries should go to the log now: as
// soon as they make a full batch, otherwise once a checkpoint can be published
// that shows them. (Each feed that ends inside a bundle leaves a partial copy of
// it until the bundle is full; more of them than checkpoints serve nobody.)
func (s *sequencer) due(waiting uint64) bool {
	return waiting >= uint64(s.t.o.BatchMaxSize) || time.Since(s.lastFeed) >= s.t.o.CheckpointInterval
}

// begin takes up what Open found.
func (s *sequencer) begin() error {
	tree, err := s.t.tiles.loadRange(s.t.integrated.Load())
	if err != nil {
		return err
	}
	s.tree = tree
	s.t.tiles.sweep(s.t.integrated.Load())
	s.cleanFrom = s.t.tiles.cleanFrom(s.t.published.Load().Size)
	return nil
}

// feed gives the log the next batch, [from, size) or a part of it.
func (s *sequencer) feed(from, size uint64) error {
	t := s.t
	start := time.Now()
	entries, err := s.batch(from, size)
	if err != nil {
		return err
	}
	err = t.log.integrate(from, entries)
	// On disk now, without error: the batch in bundles and tiles, and the tree's
	// new size; a crash here makes the next Open find these entries both in
	// journal and log. With an error: either that, or the old size and some files
	// that the next try writes again with the same bytes. So ask.
	if errors.Is(err, errIndex) {
		return fmt.Errorf("%w: %w", errFatal, err)
	}
	if err != nil {
		got, serr := t.log.size()
		if serr != nil {
			return errors.Join(err, serr)
		}
		switch got {
		case from: // nothing happened
			return err
		case from + uint64(len(entries)): // it did happen
			t.o.Log.LogAttrs(context.Background(), slog.LevelWarn, "the log took a batch, but reported an error", slog.Any("err", err))
		default:
			return fmt.Errorf("%w: the log has %d entries after a batch of %d that began at %d: %w", errFatal, got, len(entries), from, err)
		}
	}
	for _, raw := range entries {
		leaf := trailgate.LeafHash(raw)
		if err := s.tree.Append(leaf[:], nil); err != nil {
			return fmt.Errorf("%w: %w", errFatal, err)
		}
	}
	t.integrated.Store(s.tree.End())
	t.batches.Add(1)
	s.lastFeed = start
	if t.journal.BytesFrom(s.tree.End()) < paceBytes && !t.isClosing() {
		timer := time.NewTimer(min(maxRest, time.Duration(restRatio*float64(time.Since(start)))))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-t.closing:
		}
	}
	return nil
}

// batch reads what goes to the log at once.
func (s *sequencer) batch(from, size uint64) ([][]byte, error) {
	limit := min(size-from, uint64(s.t.o.BatchMaxSize))
	entries := make([][]byte, 0, limit)
	var n int64
	for uint64(len(entries)) < limit && n < feedBytes {
		recs, err := s.t.read(from+uint64(len(entries)), scanBytes)
		if err != nil {
			return nil, err
		}
		for i := range recs {
			if uint64(len(entries)) == limit || n >= feedBytes {
				break
			}
			entries = append(entries, recs[i].Entry)
			n += int64(len(recs[i].Entry))
		}
	}
	// With more to come, end where a bundle ends: that leaves no partial one behind.
	if end := from + uint64(len(entries)); end < size && end%tileWidth < uint64(len(entries)) {
		entries = entries[:uint64(len(entries))-end%tileWidth]
	}
	return entries, nil
}

// hasAnswer takes in what the witnesses said, if they have said it.
func (s *sequencer) hasAnswer() bool {
	if s.pending != nil && s.answer == nil {
		select {
		case s.answer = <-s.asked:
		default:
		}
	}
	return s.answer != nil
}

// askAgainIn is how soon the witnesses are asked about the published checkpoint
// once more: soon where they were no quorum, and now and then to have new times on it.
func (s *sequencer) askAgainIn() time.Duration {
	w := &s.t.o.Witnesses
	switch {
	case w.Cosigner == nil:
		return maxWait
	case s.pending != nil:
		return 0 // look for the answer
	}
	if state := s.t.Witnessed(); state.Quorum && len(state.Failed) == 0 {
		return time.Until(s.lastAsk.Add(w.refresh()))
	} else if state.Quorum { // some were away
		return time.Until(s.lastAsk.Add(min(lastRetryQuorum, w.refresh())))
	}
	return time.Until(s.lastAsk.Add(min(retryQuorum<<min(s.retries, 6), lastRetryQuorum)))
}

const maxWait = time.Hour

// publish signs the tree's head and has it published: at once, or, where there are
// witnesses, when they have been asked. The tree is on disk by then.
func (s *sequencer) publish() error {
	t := s.t
	size := s.tree.End()
	root, err := rootOf(s.tree)
	if err != nil {
		return fmt.Errorf("%w: %w", errFatal, err)
	}
	// The tree on disk must be the one that our own hashes make.
	onDisk, err := t.tiles.treeRoot(size, size)
	if missing(err) || errors.Is(err, errShort) {
		return fmt.Errorf("%w: the log's tiles are gone: %w", errFatal, err)
	}
	if err != nil {
		return fmt.Errorf("read the log's tiles: %w", err)
	}
	if onDisk != root {
		return fmt.Errorf("%w: the log's tiles do not hash to the %d entries that they were made from", errFatal, size)
	}
	ctx, cancel := context.WithTimeout(context.Background(), appendTimeout)
	defer cancel()
	raw, err := t.log.checkpoint(ctx, size, root)
	if err != nil {
		return fmt.Errorf("sign a checkpoint: %w", err)
	}
	cp, err := trailgate.OpenCheckpoint(raw, t.verifier)
	if err != nil {
		return fmt.Errorf("sign a checkpoint: %w", err)
	}
	if cp.Size != size || cp.Root != root {
		return fmt.Errorf("%w: a checkpoint of %d entries was asked for, one of %d was signed", errFatal, size, cp.Size)
	}
	// The tree's size must be durable before the checkpoint that speaks of it;
	// Tessera's own sync may have failed after its rename.
	if err := t.fs.SyncDir(filepath.Join(string(t.tiles), ".state")); err != nil {
		return fmt.Errorf("sync the log's state: %w", err)
	}
	if t.o.Witnesses.Cosigner != nil {
		s.lastCp = time.Now()
		s.startAsking(cp)
		return nil
	}
	if err := s.put(cp, raw); err != nil {
		return err
	}
	s.lastCp = time.Now()
	return nil
}

// put has a checkpoint where the world reads it, remembers it outside the log, and
// lets go of what it covers. Raw is cp with all its signatures.
func (s *sequencer) put(cp *trailgate.Checkpoint, raw []byte) error {
	t, size := s.t, cp.Size
	path := filepath.Join(string(t.tiles), cpFile)
	if err := t.fs.WriteFile(path, raw, 0o644); err != nil {
		return fmt.Errorf("publish a checkpoint: %w", err)
	}
	// On disk now: the new checkpoint; head/checkpoint has the one before, and the
	// journal still has all entries since that one. A crash here loses nothing:
	// the new one extends the old one, which Open checks.
	if back, err := os.ReadFile(path); err != nil || !bytes.Equal(back, raw) {
		return fmt.Errorf("publish a checkpoint: it does not read back: %w", err)
	}
	if err := t.fs.WriteFile(filepath.Join(t.dir, headDir, cpFile), raw, 0o600); err != nil {
		return fmt.Errorf("remember the checkpoint: %w", err)
	}
	// On disk now: both. From here on a log that is shorter than this checkpoint
	// is refused at start, and the journal may forget what it covers.
	t.publishedAt.Store(time.Now().UnixNano())
	published := *cp
	published.Raw = raw
	t.published.Store(&published)
	t.proven.broadcast()
	if err := t.journal.Trim(size); err != nil {
		return err
	}
	// A crash in Trim leaves segments that the next Open finds covered.
	s.cleanFrom = t.tiles.clean(s.cleanFrom, size)
	return nil
}
