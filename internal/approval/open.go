package approval

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// Open reads the store, or begins an empty one where there is no directory; its
// parent must exist. A file that cannot be read whole, or that says what this
// program would not have written, is an error that names it. Releases that a
// crash cut short are settled: used if the trail holds their intent, and open
// for use again if not.
func Open(ctx context.Context, dir string, o Options) (*Store, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Window = cmp.Or(o.Window, DefaultWindow)
	o.MaxPending = cmp.Or(o.MaxPending, DefaultMaxPending)
	if o.NewID == nil {
		o.NewID = NewID
	}
	if o.Window < 0 || o.Window > MaxSpan || o.MaxPending < 0 || o.Consumed == nil {
		return nil, fmt.Errorf("open approvals: %w: the window is at most %v, and Consumed is needed", ErrInvalid, MaxSpan)
	}
	s := &Store{
		dir: dir, opts: o, max: defaultLimits, wake: make(chan struct{}, 1),
		slots: map[string]*slot{}, keys: map[key]*slot{}, jobs: map[job][]*slot{}, agents: map[string]*tally{}, litter: map[string]struct{}{},
	}
	all, err := s.load()
	if err != nil {
		return nil, fmt.Errorf("open approvals: %w", err)
	}
	if err := s.fill(all); err != nil {
		return nil, fmt.Errorf("open approvals: %w", err)
	}
	if err := s.settle(ctx); err != nil {
		return nil, fmt.Errorf("open approvals: %w", err)
	}
	s.prune()
	return s, nil
}

// fill puts what was read in the maps.
func (s *Store) fill(all []loaded) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(all, func(a, b loaded) int { return cmp.Compare(a.number, b.number) })
	for _, l := range all {
		if l.number == s.number {
			return fmt.Errorf("%s: %w: another has the same number; move the one away that does not belong here", s.path(l.req.ID, requestExt), errDamaged)
		}
		sl := newSlot(l.req, l.number)
		s.slots[sl.id] = sl
		s.addLocked(sl)
		s.publishLocked(sl, l.req, l.size)
	}
	slices.SortStableFunc(s.done, func(a, b *slot) int { return a.cur.Ended.Compare(b.cur.Ended) })
	return nil
}

// settle brings what a crash cut short to an end.
func (s *Store) settle(ctx context.Context) error {
	s.mu.Lock()
	slots := make([]*slot, 0, s.active)
	for _, sl := range s.slots {
		if !sl.cur.State.Final() {
			slots = append(slots, sl)
		}
	}
	s.mu.Unlock()
	for _, sl := range slots {
		next := sl.cur.clone()
		newest := s.keys[sl.key]
		switch {
		case next.State == StateReleasing:
			used, err := s.opts.Consumed(ctx, next.IntentEntry)
			if err != nil {
				return fmt.Errorf("ask the trail whether approval %s was used: %w", sl.id, err)
			}
			if used {
				next.State = StateReleased
				next.end(s.wall())
			} else {
				next.State, next.IntentEntry = StateApproved, ""
			}
		case newest != sl && newest.cur.Replaces == sl.id:
			// A crash between the new question and the end of the old one.
			next.State = StateChanged
			next.end(s.wall())
		default:
			continue
		}
		// A crash here: the next start comes to the same end.
		if err := s.put(sl, &next, false); err != nil {
			return fmt.Errorf("settle approval %s: %w", sl.id, err)
		}
	}
	// One that was asked again after its deadline, before it was written down as
	// expired: a clock that was set back since does not bring it back.
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sl := range slots {
		if sl.cur.State.Open() && s.keys[sl.key] != sl {
			sl.lapsed = true
		}
	}
	return nil
}
