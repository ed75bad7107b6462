package trail

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail/journal"
)

const (
	// maxBatchBytes bounds one group commit; with more waiting, the next follows.
	maxBatchBytes = 1 << 20
	// maxStagedBytes bounds what waits for a group commit.
	maxStagedBytes = 256 << 20
	// appendTimeout bounds how long Append waits for the disk.
	appendTimeout = 30 * time.Second
	// stallAfter is how long a commit may take before new entries are refused.
	stallAfter = 5 * time.Second
	// paceBytes is how far the log may lag behind the journal before commits are
	// slowed down, a little at first and by maxPause each at twice the lag. It
	// keeps a checkpoint no more than some two seconds behind under any load.
	paceBytes = 24 << 20
	minPause  = 3 * time.Millisecond
	maxPause  = 5 * time.Millisecond
)

// staged is an entry on its way to the disk.
type staged struct {
	draft trailgate.Draft
	// Set by the committer before it sends on done.
	seq  uint64
	time time.Time
	err  error
	done chan struct{} // capacity 1; nil for the trail's own entries
	// freezes: no entry comes after this one.
	freezes bool
}

var stagedPool = sync.Pool{New: func() any { return &staged{done: make(chan struct{}, 1)} }}

// Append makes an entry durable. On return without error e.Seq and e.Time are
// set, and the entry is on the disk and will be in the log at index e.Seq.
//
// Where ctx has ended before the entry is handed to the journal, nothing is
// recorded. From then on Append waits for the disk whatever becomes of ctx,
// for up to 30 seconds. An error that is [ErrUnavailable] means that the
// entry does not count; only after a crash or that wait may it be found all
// the same. Append is safe for concurrent use, and cheapest so: all who wait
// share one write.
func (t *Trail) Append(ctx context.Context, e *trailgate.Entry) error {
	return t.append(ctx, e, t.stage)
}

func (t *Trail) append(ctx context.Context, e *trailgate.Entry, stage func(*staged) error) error {
	draft, err := e.Prepare()
	if err != nil {
		return fmt.Errorf("append: %w", err)
	}
	if err := t.unwitnessed(e.Kind); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	s := stagedPool.Get().(*staged)
	s.draft, s.err, s.freezes = draft, nil, false
	if err := stage(s); err != nil {
		stagedPool.Put(s)
		return fmt.Errorf("append: %w", err)
	}
	timer := time.NewTimer(appendTimeout)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
		// The committer still holds s, so it does not go back to the pool.
		return fmt.Errorf("append: %w: the disk has not answered for %s (the entry may be recorded yet)", ErrUnavailable, appendTimeout)
	}
	err = s.err
	if err == nil {
		e.Seq, e.Time = s.seq, s.time
	}
	s.draft = trailgate.Draft{}
	stagedPool.Put(s)
	if err != nil {
		return fmt.Errorf("append: %w", err)
	}
	return nil
}

// stage hands an entry to the committer, or refuses it.
func (t *Trail) stage(s *staged) error {
	t.mu.Lock()
	err := t.refusalLocked()
	if err == nil && t.stagedBytes+int64(s.draft.Len()) > maxStagedBytes {
		err = fmt.Errorf("%w: more than %d MiB wait for the disk", ErrUnavailable, maxStagedBytes>>20)
	}
	if err != nil {
		t.refused++
		t.refusedTotal++
		t.mu.Unlock()
		return err
	}
	t.staged = append(t.staged, s)
	t.stagedBytes += int64(s.draft.Len())
	t.mu.Unlock()
	t.wakeCommitter()
	return nil
}

func (t *Trail) wakeCommitter() {
	select {
	case t.wake <- struct{}{}:
	default: // it has yet to see an earlier wake-up, and will see all that is staged
	}
}

// takeStaged takes the next batch off the queue. The trail's own entries come first.
func (t *Trail) takeStaged() []*staged {
	limit := min(maxBatchBytes, t.journal.MaxBatchBytes())
	t.mu.Lock()
	defer t.mu.Unlock()
	var batch []*staged
	var size int64
	take := func(queue []*staged) []*staged {
		n := 0
		for _, s := range queue {
			size += journal.RecordBytes(s.draft.Len())
			if size > limit && len(batch)+n > 0 {
				break
			}
			n++
		}
		batch = append(batch, queue[:n]...)
		return queue[n:]
	}
	t.notes = take(t.notes)
	if len(t.notes) > 0 {
		return batch
	}
	t.notes = nil
	t.staged = take(t.staged)
	if len(t.staged) == 0 {
		t.staged = nil
	}
	for _, s := range batch {
		if s.done != nil {
			t.stagedBytes -= int64(s.draft.Len())
		}
	}
	return batch
}

// commitLoop is the committer: the one goroutine that writes to the journal.
func (t *Trail) commitLoop() {
	defer close(t.committed)
	for {
		batch := t.takeStaged()
		if len(batch) == 0 {
			select {
			case <-t.wake:
			case <-t.closing:
				// Nobody stages any more once closing is closed; what is staged still counts.
				if batch = t.takeStaged(); len(batch) == 0 {
					return
				}
				t.commit(batch)
			}
			continue
		}
		t.pause()
		t.commit(batch)
		runtime.Gosched() // let those who were answered go first: what they stage now shares the next sync
	}
}

// pause slows the committer down where the sequencer cannot follow. It adds up
// what it owes and pays in pauses of a few milliseconds: most commits then are
// as fast as ever, and those in a pause share one large write.
func (t *Trail) pause() {
	from := t.integrated.Load()
	if t.size.Load()-from < uint64(t.o.BatchMaxSize) {
		return
	}
	over := t.journal.BytesFrom(from) - paceBytes
	if over <= 0 {
		t.owed = 0
		return
	}
	t.owed += time.Duration(float64(maxPause) * min(1, float64(over)/paceBytes))
	if t.owed < minPause {
		return
	}
	timer := time.NewTimer(min(t.owed, maxPause))
	defer timer.Stop()
	t.owed = 0
	select {
	case <-timer.C:
	case <-t.closing:
	}
}

// commit gives a batch its place in the log and makes it durable.
func (t *Trail) commit(batch []*staged) {
	now := t.clock.stamp()
	size := 0
	for _, s := range batch {
		size += s.draft.Len()
	}
	raw, recs := make([]byte, 0, size), make([]journal.Record, len(batch))
	first := t.size.Load()
	for i, s := range batch {
		start := len(raw)
		s.seq, s.time = first+uint64(i), now
		raw = s.draft.Seal(raw, s.seq, now)
		entry := raw[start:len(raw):len(raw)]
		recs[i] = journal.Record{Entry: entry, Leaf: trailgate.LeafHash(entry)}
	}

	start := time.Now()
	t.commitStart.Store(start.UnixNano())
	err := t.journal.Append(recs)
	t.commitStart.Store(0)
	if err != nil {
		t.fail(batch, err)
		t.restore(err)
		return
	}
	// On disk now: every entry of the batch, for good. A crash from here on loses
	// none of them, whether or not the callers still hear of it.
	t.recent.add(recs)
	t.size.Store(first + uint64(len(recs)))
	for _, s := range batch {
		s.finish(nil)
	}
	t.grown.broadcast()
	t.commits.Add(1)
	t.syncNanos.Add(int64(time.Since(start)))
	if t.journal.Spares() == 0 {
		select {
		case t.prepare <- struct{}{}:
		default:
		}
	}
}

func (s *staged) finish(err error) {
	if s.done != nil {
		s.err = err
		s.done <- struct{}{}
	}
}

// fail refuses a batch whose write failed, and all who wait behind it.
func (t *Trail) fail(batch []*staged, cause error) {
	err := fmt.Errorf("%w: writing the journal failed: %w", ErrUnavailable, cause)
	if errors.Is(cause, syscall.ENOSPC) {
		err = fmt.Errorf("%w: writing the journal failed: %w", ErrNoSpace, cause)
	}
	t.mu.Lock()
	t.broken = err
	behind := t.staged
	t.staged, t.stagedBytes = nil, 0
	for _, s := range slices.Concat(batch, behind) {
		if s.freezes {
			t.frozen = nil // it did not come to that
		}
	}
	for _, s := range batch {
		if s.done == nil {
			t.notes = append(t.notes, s)
			continue
		}
		t.refused++
		t.refusedTotal++
	}
	t.refused += uint64(len(behind))
	t.refusedTotal += uint64(len(behind))
	t.failures++
	t.mu.Unlock()
	t.o.Log.LogAttrs(context.Background(), slog.LevelError, "journal write failed, refusing all entries until the disk recovers", slog.Any("err", cause))
	for _, s := range batch {
		s.finish(err)
	}
	for _, s := range behind {
		s.finish(err)
	}
}

// restore tries to go on in a new segment until that succeeds or the trail is
// closed. Meanwhile Append refuses.
func (t *Trail) restore(cause error) {
	since := t.clock.now()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := t.journal.Turn()
		if err == nil {
			break
		}
		t.o.Log.LogAttrs(context.Background(), slog.LevelDebug, "journal still cannot be written", slog.Any("err", err))
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-t.closing:
			timer.Stop()
			// Nothing was staged since; notes that are left are lost with this process.
			t.mu.Lock()
			t.notes = nil
			t.mu.Unlock()
			return
		}
	}
	t.o.Log.LogAttrs(context.Background(), slog.LevelInfo, "journal recovered")
	t.change(func() { t.broken = nil }, since, cause)
}

// refusalLocked is why an entry cannot be accepted now, nil if it can.
func (t *Trail) refusalLocked() error {
	for _, err := range []error{t.frozen, t.fatal, t.closedErr, t.broken, t.stalled, t.noSpace, t.behind} {
		if err != nil {
			return err
		}
	}
	return nil
}

// change changes what refusalLocked looks at. Where entries are accepted again
// thereafter, the trail says so in an entry of its own.
func (t *Trail) change(f func(), since time.Time, cause error) {
	t.mu.Lock()
	before := t.refusalLocked()
	f()
	after := t.refusalLocked()
	refused := t.refused
	if before != nil && after == nil {
		t.refused = 0
	}
	t.mu.Unlock()
	if before == nil || after != nil {
		return
	}
	t.note("trail.recovered", map[string]string{
		"cause":   cause.Error(),
		"refused": strconv.FormatUint(refused, 10),
		"since":   since.UTC().Format(time.RFC3339Nano),
	})
}

// note records something about the trail itself, as soon as that is possible.
func (t *Trail) note(action string, detail map[string]string) {
	t.noteKind(trailgate.KindGateway, action, detail)
}

func (t *Trail) noteKind(kind trailgate.Kind, action string, detail map[string]string) {
	draft, err := t.ownEntry(kind, action, detail)
	if err != nil {
		t.o.Log.LogAttrs(context.Background(), slog.LevelError, "recording an event of the trail", slog.String("action", action), slog.Any("err", err))
		return
	}
	t.mu.Lock()
	if t.frozen == nil { // else nothing comes any more
		t.notes = append(t.notes, &staged{draft: draft})
	}
	t.mu.Unlock()
	t.wakeCommitter()
}

// noteAndWait is noteKind that returns when the entry is durable, or cannot be so soon.
func (t *Trail) noteAndWait(ctx context.Context, kind trailgate.Kind, action string, detail map[string]string) {
	draft, err := t.ownEntry(kind, action, detail)
	if err == nil {
		s := &staged{draft: draft, done: make(chan struct{}, 1)}
		if err = t.stage(s); err == nil {
			timer := time.NewTimer(stallAfter)
			defer timer.Stop()
			select {
			case <-s.done:
				err = s.err
			case <-timer.C:
				err = errors.New("the disk does not answer")
			}
		}
	}
	if err != nil {
		t.o.Log.LogAttrs(ctx, slog.LevelError, "recording an event of the trail", slog.String("action", action), slog.Any("err", err))
	}
}

func (t *Trail) ownEntry(kind trailgate.Kind, action string, detail map[string]string) (trailgate.Draft, error) {
	id, err := ulid.New(ulid.Timestamp(t.clock.now()), rand.Reader)
	if err != nil {
		return trailgate.Draft{}, err
	}
	e := &trailgate.Entry{
		ID: strings.ToLower(id.String()), Kind: kind, Gateway: t.o.Gateway,
		Event: &trailgate.Event{Action: action, Actor: "trail", Detail: detail},
	}
	return e.Prepare()
}
