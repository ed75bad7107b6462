package approval

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Get gives a request as it is now, without the body of its call.
func (s *Store) Get(id string) (Request, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl := s.slots[id]
	if sl == nil || sl.cur == nil {
		return Request{}, fmt.Errorf("approval %q: %w", trim(id), ErrNotFound)
	}
	r := s.viewLocked(sl)
	return r.clone(), nil
}

// ByJob gives an agent's newest request about a job, in whatever state.
func (s *Store) ByJob(agent, project, jobID string) (Request, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sl := range slices.Backward(s.jobs[job{project, jobID}]) {
		if sl.cur != nil && sl.key.agent == agent {
			r := s.viewLocked(sl)
			return r.clone(), true
		}
	}
	return Request{}, false
}

// Filter says which requests List gives. The zero value of a field: all.
type Filter struct {
	State State
	Open  bool   // pending and approved
	Agent string // who asked
	Human string // on whose behalf
	Limit int    // 100 where it is 0
}

// List gives requests, the newest first.
func (s *Store) List(f Filter) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	slots := make([]*slot, 0, len(s.slots))
	for _, sl := range s.slots {
		if sl.cur != nil && (f.Agent == "" || sl.key.agent == f.Agent) && (f.Human == "" || sl.key.human == fold(f.Human)) {
			slots = append(slots, sl)
		}
	}
	slices.SortFunc(slots, func(a, b *slot) int { return cmp.Compare(b.number, a.number) })
	limit := cmp.Or(f.Limit, 100)
	var all []Request
	for _, sl := range slots {
		if len(all) >= limit {
			break
		}
		r := s.viewLocked(sl)
		if (f.State == "" || r.State == f.State) && (!f.Open || r.State.Open()) {
			all = append(all, r.clone())
		}
	}
	return all
}

// Counts says how many requests are in each state.
func (s *Store) Counts() map[State]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := map[State]int{}
	for _, sl := range s.slots {
		if sl.cur != nil {
			n[s.viewLocked(sl).State]++
		}
	}
	return n
}

// Wait returns when the request is no longer pending, as the trail and the disk
// have it, or when ctx ends. Any number of callers may wait.
func (s *Store) Wait(ctx context.Context, id string) (Request, error) {
	for {
		s.mu.Lock()
		sl := s.slots[id]
		if sl == nil || sl.cur == nil {
			s.mu.Unlock()
			return Request{}, fmt.Errorf("wait: approval %q: %w", trim(id), ErrNotFound)
		}
		r, changed := *sl.cur, sl.changed
		s.mu.Unlock()
		if r.State != StatePending {
			return r.clone(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return r.clone(), fmt.Errorf("wait for approval %s: %w", sl.id, context.Cause(ctx))
		}
	}
}

// activeSlots gives the slots of requests that are not final and that want
// chooses, with mu held; the oldest first.
func (s *Store) activeSlots(want func(*slot) bool) []*slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	var slots []*slot
	for _, sl := range s.slots {
		if sl.cur != nil && !sl.cur.State.Final() && want(sl) {
			slots = append(slots, sl)
		}
	}
	slices.SortFunc(slots, func(a, b *slot) int { return cmp.Compare(a.number, b.number) })
	return slots
}

// Expire ends the requests whose deadline has passed, and says how many. before
// writes each one's expired entry. It goes on after an error; what could not be
// ended is not open all the same, and is ended by a later call. It also writes
// what could not be written earlier, and forgets what ended long ago.
func (s *Store) Expire(ctx context.Context, before func(Request) error) (n int, err error) {
	var errs []error
	now := s.opts.Now()
	for _, sl := range s.activeSlots(func(sl *slot) bool { return sl.want != nil || s.dueLocked(sl, now) }) {
		done, err := s.expire(ctx, sl, before)
		if err != nil {
			errs = append(errs, err)
		}
		if done {
			n++
		}
		if ctx.Err() != nil {
			break
		}
	}
	s.prune()
	errs = append(errs, s.sweep())
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("expire approvals: %w", err)
	}
	return n, nil
}

func (s *Store) expire(ctx context.Context, sl *slot, before func(Request) error) (bool, error) {
	if err := s.acquire(ctx, sl); err != nil {
		return false, err
	}
	defer sl.release()
	s.mu.Lock()
	due := !sl.dead && s.dueLocked(sl, s.opts.Now())
	next := sl.cur.clone()
	s.mu.Unlock()
	if !due {
		return false, nil
	}
	next.State = StateExpired
	next.end(s.wall())
	if err := before(next.clone()); err != nil {
		return false, fmt.Errorf("approval %s: %w", sl.id, err)
	}
	// The trail has the end: from here on there is no other, whatever the disk says.
	if err := s.put(sl, &next, true); err != nil {
		return false, err
	}
	return true, nil
}

// Run calls Expire when deadlines pass, and at least every minute, until ctx
// ends. One goroutine may run it.
func (s *Store) Run(ctx context.Context, before func(Request) error) {
	for {
		_, err := s.Expire(ctx, before)
		idle := s.untilNext()
		if err != nil && ctx.Err() == nil {
			if s.opts.Failed != nil {
				s.opts.Failed(err)
			}
			idle = retryAfter
		}
		timer := time.NewTimer(idle)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-s.wake:
			timer.Stop()
		}
	}
}

// untilNext is the time to the next deadline, by whichever clock comes first.
func (s *Store) untilNext() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.Now()
	idle := maxIdle
	for _, sl := range s.slots {
		if sl.cur == nil || !sl.cur.State.Open() {
			continue
		}
		until, _ := sl.cur.deadline()
		idle = min(idle, sl.deadline.Sub(now), until.Sub(now.Round(0)))
	}
	return max(idle, 0)
}
