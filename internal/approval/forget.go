package approval

import (
	"errors"
	"fmt"
	"slices"
)

// prune forgets requests that ended long ago, or are too many.
func (s *Store) prune() {
	now := s.wall()
	s.mu.Lock()
	var gone []*slot
	s.done = slices.DeleteFunc(s.done, func(sl *slot) bool {
		t := s.tallyLocked(sl)
		if len(s.done)-len(gone) <= s.max.done && s.bytes.done <= s.max.doneBytes && t.done <= s.max.donePerAgent && now.Sub(sl.cur.Ended) < retention {
			return false
		}
		gone = append(gone, sl)
		t.done--
		s.bytes.done -= sl.size
		s.dropLocked(sl)
		return true
	})
	s.mu.Unlock()
	for _, sl := range gone {
		s.discard(s.path(sl.id, requestExt))
	}
}

// discard removes a file, now or at the next [Store.Expire].
func (s *Store) discard(path string) {
	if err := s.remove(path); err != nil {
		s.mu.Lock()
		s.litter[path] = struct{}{}
		s.mu.Unlock()
	}
}

// sweep removes what could not be removed before.
func (s *Store) sweep() error {
	s.mu.Lock()
	paths := make([]string, 0, len(s.litter))
	for path := range s.litter {
		paths = append(paths, path)
	}
	s.mu.Unlock()
	var errs []error
	for _, path := range paths {
		if err := s.remove(path); err != nil {
			errs = append(errs, fmt.Errorf("forget an approval: %w", err))
			continue
		}
		s.mu.Lock()
		delete(s.litter, path)
		s.mu.Unlock()
	}
	return errors.Join(errs...)
}
