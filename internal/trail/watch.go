package trail

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

const (
	watchInterval   = 100 * time.Millisecond
	prepareInterval = time.Second
)

// watchLoop is the housekeeper.
func (t *Trail) watchLoop() {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-t.closing:
			return
		case <-ticker.C:
			t.watch()
		}
	}
}

// watch looks after what may make the trail refuse entries, or accept them again.
func (t *Trail) watch() {
	if detail, stepped := t.clock.look(); stepped {
		t.o.Log.LogAttrs(context.Background(), slog.LevelWarn, "the wall clock was set", slog.String("step_ns", detail["step_ns"]))
		t.note("clock.step", detail)
	}
	t.watchSpace()
	t.watchBacklog()
	t.watchStall()
}

// watchSpace refuses entries before the disk is full: the journal's segments
// are there already, but the log needs room to take over what they hold.
func (t *Trail) watchSpace() {
	if t.o.MinFreeBytes < 0 {
		return
	}
	free, err := t.fs.Free(t.dir)
	if err != nil {
		t.o.Log.LogAttrs(context.Background(), slog.LevelWarn, "asking for free disk space", slog.Any("err", err))
		return
	}
	t.freeBytes.Store(free)
	// A little more than the minimum must be free before entries are accepted again.
	t.mu.Lock()
	low := t.noSpace != nil
	t.mu.Unlock()
	switch {
	case !low && free < t.o.MinFreeBytes:
		err := fmt.Errorf("%w: %d MiB free on the disk of %s, at least %d MiB are needed (make room; recording goes on by itself)",
			ErrNoSpace, free>>20, t.dir, t.o.MinFreeBytes>>20)
		t.refuse(&t.noSpace, &t.noSpaceSince, err)
	case low && free >= t.o.MinFreeBytes+t.o.MinFreeBytes/8:
		t.accept(&t.noSpace, t.noSpaceSince)
	}
}

func (t *Trail) watchBacklog() {
	waiting := t.journal.BytesFrom(t.integrated.Load())
	t.mu.Lock()
	behind := t.behind != nil
	cause := t.sequencerErr
	t.mu.Unlock()
	switch {
	case !behind && waiting > t.o.MaxJournalBytes:
		err := fmt.Errorf("%w: %d MiB wait in the journal for the log to take them over, more than the %d MiB allowed", ErrUnavailable, waiting>>20, t.o.MaxJournalBytes>>20)
		if cause != nil {
			err = fmt.Errorf("%w: %w", err, cause)
		}
		t.refuse(&t.behind, &t.behindSince, err)
	case behind && waiting <= t.o.MaxJournalBytes/8*7:
		t.accept(&t.behind, t.behindSince)
	}
}

func (t *Trail) watchStall() {
	start := t.commitStart.Load()
	t.mu.Lock()
	stalled := t.stalled != nil
	t.mu.Unlock()
	switch {
	case !stalled && start != 0 && time.Since(time.Unix(0, start)) > stallAfter:
		err := fmt.Errorf("%w: the journal's disk has not answered for %s", ErrUnavailable, stallAfter)
		t.refuse(&t.stalled, &t.stalledSince, err)
	case stalled && (start == 0 || time.Since(time.Unix(0, start)) < stallAfter):
		t.accept(&t.stalled, t.stalledSince)
	}
}

// refuse sets one of the reasons to refuse entries.
func (t *Trail) refuse(reason *error, since *time.Time, err error) {
	t.o.Log.LogAttrs(context.Background(), slog.LevelError, "refusing all entries", slog.Any("err", err))
	*since = t.clock.now()
	t.mu.Lock()
	*reason = err
	t.mu.Unlock()
}

// accept takes a reason to refuse entries away.
func (t *Trail) accept(reason *error, since time.Time) {
	t.mu.Lock()
	cause := *reason
	t.mu.Unlock()
	t.o.Log.LogAttrs(context.Background(), slog.LevelInfo, "a reason to refuse entries is gone", slog.Any("was", cause))
	t.change(func() { *reason = nil }, since, cause)
}

// prepareLoop is the preparer.
func (t *Trail) prepareLoop() {
	ticker := time.NewTicker(prepareInterval)
	defer ticker.Stop()
	for {
		t.mu.Lock()
		low := t.noSpace != nil
		t.mu.Unlock()
		if !low {
			if err := t.journal.Prepare(); err != nil {
				// The committer will make a segment itself when it needs one, or refuse.
				t.o.Log.LogAttrs(context.Background(), slog.LevelDebug, "preparing a journal segment", slog.Any("err", err))
			}
		}
		select {
		case <-t.closing:
			return
		case <-ticker.C:
		case <-t.prepare:
		}
	}
}
