package approval

import (
	"context"
	"fmt"
	"time"
)

// acquire locks a slot. On an error it is not locked.
func (s *Store) acquire(ctx context.Context, sl *slot) error {
	select {
	case sl.lock <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for approval %s: %w", sl.id, context.Cause(ctx))
	}
	if sl.want == nil {
		return nil
	}
	if err := s.put(sl, sl.want, true); err != nil {
		sl.release()
		return err
	}
	return nil
}

func (sl *slot) release() { <-sl.lock }

// acquireSettled locks a slot whose request is not being released: it waits for
// that to end, which takes as long as the trail takes to write an intent.
func (s *Store) acquireSettled(ctx context.Context, sl *slot) error {
	late := time.NewTimer(releaseWait)
	defer late.Stop()
	for {
		if err := s.acquire(ctx, sl); err != nil {
			return err
		}
		s.mu.Lock()
		busy, changed := !sl.dead && sl.cur.State == StateReleasing, sl.changed
		s.mu.Unlock()
		if !busy {
			return nil
		}
		sl.release()
		select {
		case <-changed:
		case <-late.C:
			r := s.view(sl)
			return refuse(ErrReleasing, &r)
		case <-ctx.Done():
			return fmt.Errorf("wait for approval %s: %w", sl.id, context.Cause(ctx))
		}
	}
}

// find locks a request by its id.
func (s *Store) find(ctx context.Context, id string, settled bool) (*slot, error) {
	s.mu.Lock()
	sl := s.slots[id]
	ok := sl != nil && sl.cur != nil
	s.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("approval %q: %w", trim(id), ErrNotFound)
	}
	take := s.acquire
	if settled {
		take = s.acquireSettled
	}
	if err := take(ctx, sl); err != nil {
		return nil, err
	}
	s.mu.Lock()
	dead := sl.dead
	s.mu.Unlock()
	if dead {
		sl.release()
		return nil, fmt.Errorf("approval %q: %w", trim(id), ErrNotFound)
	}
	return sl, nil
}

func trim(id string) string { return id[:min(len(id), 64)] }
