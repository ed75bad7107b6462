package index

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// errBatch ends a scan of the log where a batch is full.
var errBatch = errors.New("batch is full")

// Run follows the log until ctx ends, and then returns nil. An entry is
// searchable about Options.Linger after it is durable. Errors are told to the
// log and tried again; a damaged index is rebuilt. It returns an error only if
// the index was closed.
func (x *Index) Run(ctx context.Context) error {
	delay := retryDelay
	for ctx.Err() == nil {
		err := x.follow(ctx)
		switch {
		case err == nil:
			delay = retryDelay
			continue
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrClosed):
			return err
		}
		if x.isBroken() || damaged(err) {
			x.opt.Log.ErrorContext(ctx, "the index is damaged; building it anew from the log", "err", err)
			if err = x.Rebuild(ctx, nil); err == nil {
				continue
			}
		}
		x.opt.Log.ErrorContext(ctx, "index cannot follow the log; trying again", "err", err, "retry_in", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
		delay = min(2*delay, retryMax)
	}
	return nil
}

// follow waits for entries and indexes those that there are.
func (x *Index) follow(ctx context.Context) error {
	if x.isBroken() {
		return ErrDamaged
	}
	cursor := x.Cursor()
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	x.mu.Lock()
	x.alarm = cancel
	x.mu.Unlock()
	if err := x.src.Wait(wait, cursor); err != nil {
		if wait.Err() != nil && ctx.Err() == nil {
			return nil
		}
		return fmt.Errorf("wait for entries: %w", err)
	}
	if x.opt.Linger > 0 && x.src.Size()-cursor < catchUpBatch {
		select {
		case <-time.After(x.opt.Linger):
		case <-ctx.Done():
			return nil
		}
	}
	x.turn.Lock()
	defer x.turn.Unlock()
	st, err := x.current()
	if err != nil {
		return err
	}
	return x.feed(ctx, st, x.src.Size(), nil)
}

// CatchUp indexes what is in the log when it is called, telling progress after
// each commit. progress may be nil.
func (x *Index) CatchUp(ctx context.Context, progress func(done, total uint64)) error {
	if x.isBroken() {
		return x.Rebuild(ctx, progress)
	}
	x.turn.Lock()
	defer x.turn.Unlock()
	st, err := x.current()
	if err != nil {
		return err
	}
	return x.feed(ctx, st, x.src.Size(), progress)
}

// feed indexes the entries up to total. Who calls it is st's one writer.
func (x *Index) feed(ctx context.Context, st *store, total uint64, progress func(done, total uint64)) error {
	if err := st.settle(ctx); err != nil {
		return err
	}
	for st.next < total {
		err := x.src.Scan(ctx, st.next, func(seq uint64, raw []byte) error {
			if seq >= total {
				return errBatch
			}
			if err := st.add(ctx, seq, raw); err != nil {
				return err
			}
			if st.pending >= catchUpBatch || st.next == total {
				return errBatch
			}
			return ctx.Err()
		})
		full := errors.Is(err, errBatch)
		if full {
			err = nil
		}
		if err == nil && st.pending == 0 {
			err = fmt.Errorf("the log has %d entries and gave none after %d", total, st.next)
		}
		if err == nil {
			err = st.commit(ctx)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("index: %w", err), st.abort())
		}
		x.wake()
		if progress != nil {
			progress(st.next, total)
		}
	}
	return nil
}

// Rebuild makes the index anew from the log, beside the one in use, and puts
// it in its place when it has caught up. Searches see the old one meanwhile.
// progress may be nil. A second call waits for the first.
func (x *Index) Rebuild(ctx context.Context, progress func(done, total uint64)) error {
	x.rebuilding.Lock()
	defer x.rebuilding.Unlock()
	st, err := x.newGeneration(ctx)
	if err != nil {
		return err
	}
	if err := x.replace(ctx, st, progress); err != nil {
		return errors.Join(err, st.close(), Remove(st.dir))
	}
	return nil
}

// replace fills st and makes it the index. On an error st is not in use.
func (x *Index) replace(ctx context.Context, st *store, progress func(done, total uint64)) error {
	// The most of it with the old one still followed.
	if err := x.feed(ctx, st, x.src.Size(), progress); err != nil {
		return err
	}
	x.turn.Lock()
	defer x.turn.Unlock()
	old, err := x.current()
	if err != nil {
		return err
	}
	if err := x.feed(ctx, st, x.src.Size(), progress); err != nil {
		return err
	}
	if err := x.makeCurrent(st); err != nil {
		return err
	}
	x.mu.Lock()
	x.st, x.broken = st, false
	x.mu.Unlock()
	x.cache.clear()
	x.wake()
	// From here on nobody finds the old one; those who have it finish.
	if err := errors.Join(old.close(), x.removeOthers(filepath.Base(st.dir))); err != nil {
		x.opt.Log.WarnContext(ctx, "old index files could not be removed", "err", err)
	}
	return nil
}

func (x *Index) isBroken() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.broken
}

// spoiled turns an error of a search into one for the caller: damage is noted
// for Run, an overrun budget named.
func (x *Index) spoiled(ctx, caller context.Context, st *store, err error) error {
	switch {
	case err == nil:
		return nil
	case caller.Err() != nil:
		return caller.Err()
	case ctx.Err() != nil && interrupted(err):
		return ErrTooSlow
	case damaged(err):
		x.mu.Lock()
		first := !x.broken && x.st == st
		x.broken = x.broken || first
		if first && x.alarm != nil {
			x.alarm()
		}
		x.mu.Unlock()
		if first {
			x.opt.Log.ErrorContext(caller, "a search met damage in the index", "err", err)
		}
		if errors.Is(err, ErrDamaged) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	default:
		return err
	}
}
