package approval

import (
	"context"
	"fmt"
	"time"
)

// Vote takes a human's answer. One denial decides; as many approvals as the
// request needs, of different humans, do. The same answer of the same human
// again changes nothing, is not an error, and before is not called; a pending
// approval can be turned into a denial.
//
// before writes the trail's entry, with the request as the vote will make it.
// What the human must be is described with [Request.May]; that they are who they
// say is the caller's to know. A request that is no longer pending is a
// [*Refusal] with ErrDecided.
//
// A crash after before and before the file is durable leaves the vote in the
// trail alone: the request is pending still, and the human must vote again.
func (s *Store) Vote(ctx context.Context, id string, v Vote, before func(after Request, v Vote) error) (Request, error) {
	r, err := s.vote(ctx, id, v, before)
	if err != nil {
		return Request{}, fmt.Errorf("vote: %w", err)
	}
	return r, nil
}

func (s *Store) vote(ctx context.Context, id string, v Vote, before func(after Request, v Vote) error) (Request, error) {
	sl, err := s.find(ctx, id, false)
	if err != nil {
		return Request{}, err
	}
	defer sl.release()
	cur := s.view(sl)
	next := cur.clone()
	v.At, v.Void = s.wall(), false
	if err := next.checkVote(v); err != nil {
		return Request{}, refuse(err, &cur)
	}
	if cur.State != StatePending {
		return Request{}, refuse(ErrDecided, &cur)
	}
	added, err := next.add(v)
	if err != nil {
		return Request{}, refuse(err, &cur)
	}
	if !added {
		return cur.clone(), nil
	}
	next.decide(v.At, s.opts.Window)
	if err := before(next.clone(), v); err != nil {
		return Request{}, err
	}
	if err := s.put(sl, &next, false); err != nil {
		return Request{}, err
	}
	return next.clone(), nil
}

// Claimed is an approval that one call, and no other, may use.
type Claimed struct {
	// Request is as it was claimed, with the body of its call.
	Request Request

	s        *Store
	sl       *slot
	finished State // guarded by the slot's lock
}

// Claim takes an approval of exactly this call, with exactly these facts, for
// the intent whose id the caller has chosen: at its return that id is durable
// with the request. The caller then commits the intent to the trail and calls
// Done, or, where the intent is certainly not in the trail, Abort. A caller that
// does not know which, or is killed, does neither: the next Open asks the trail.
//
// A crash at any moment so uses the approval exactly once, where the trail has
// the intent, or not at all.
//
// No approval to use is a [*Refusal]: ErrNone, ErrPending, ErrDenied (for
// Options.Window after the denial), ErrChanged (the facts are others; the request
// is changed from now on, and Hold asks anew), ErrReleasing (another call is
// about to use it, and did not say for a while whether it did). Where a human's
// vote no longer counts (Options.StillMay) and the others do not suffice, the
// request is pending again.
func (s *Store) Claim(ctx context.Context, k Key, factsSHA256, intentEntry string) (*Claimed, error) {
	c, err := s.claim(ctx, k.key(), factsSHA256, intentEntry)
	if err != nil {
		return nil, fmt.Errorf("claim approval: %w", err)
	}
	return c, nil
}

func (s *Store) claim(ctx context.Context, k key, facts, intent string) (*Claimed, error) {
	if intent == "" || len(intent) > 64 {
		return nil, fmt.Errorf("%w: the intent's id is needed", ErrInvalid)
	}
	for {
		s.mu.Lock()
		sl := s.keys[k]
		s.mu.Unlock()
		if sl == nil {
			return nil, &Refusal{Err: ErrNone}
		}
		if err := s.acquireSettled(ctx, sl); err != nil {
			return nil, err
		}
		s.mu.Lock()
		stale := s.keys[k] != sl
		s.mu.Unlock()
		if stale {
			sl.release()
			continue
		}
		c, err := s.claimAt(sl, facts, intent)
		sl.release()
		return c, err
	}
}

// claimAt claims the newest request about the call; the caller holds its lock.
func (s *Store) claimAt(sl *slot, facts, intent string) (*Claimed, error) {
	cur := s.view(sl)
	next := cur.clone()
	switch {
	case s.stands(&cur):
		return nil, refuse(ErrDenied, &cur)
	case !cur.State.Open():
		return nil, refuse(ErrNone, &cur)
	case cur.FactsSHA256 != facts:
		next.State = StateChanged
		next.end(s.wall())
		if err := s.put(sl, &next, false); err != nil {
			return nil, err
		}
		return nil, refuse(ErrChanged, &next)
	case cur.State == StatePending:
		return nil, refuse(ErrPending, &cur)
	}
	if s.opts.StillMay != nil {
		for i, v := range next.Votes {
			if v.Verdict == Approve && !v.Void && !s.opts.StillMay(v, next.From) {
				next.Votes[i].Void = true
			}
		}
	}
	if next.approvals() < next.Need {
		return nil, s.reopen(sl, &next)
	}
	body, err := s.readBody(&cur)
	if err != nil {
		return nil, err
	}
	next.State, next.IntentEntry = StateReleasing, intent
	// A crash before this is durable: approved, as before. After it: the trail
	// decides, and it does not have the intent before this returns.
	if err := s.put(sl, &next, false); err != nil {
		return nil, err
	}
	claimed := next.clone()
	claimed.Call.Body = body
	return &Claimed{Request: claimed, s: s, sl: sl}, nil
}

// reopen asks again where votes do not count any more. The deadline stays as it
// was: where it has passed, the question has expired.
func (s *Store) reopen(sl *slot, next *Request) error {
	next.State = StatePending
	next.Decided, next.ReleaseBy = time.Time{}, time.Time{}
	if err := s.put(sl, next, false); err != nil {
		return err
	}
	cur := s.view(sl)
	if cur.State != StatePending {
		return refuse(ErrNone, &cur)
	}
	return refuse(ErrPending, &cur)
}

// Done says that the intent is in the trail: the approval is used up. It may be
// called again. After an error the approval is used up all the same; the Store
// tries again to write that down, and the next Open finds it out from the trail.
func (c *Claimed) Done() error { return c.finish(StateReleased) }

// Abort says that the intent is certainly not in the trail, and never will be:
// the approval can be used by another call, until its deadline. It may be called
// again. After an error the Store tries again.
func (c *Claimed) Abort() error { return c.finish(StateApproved) }

func (c *Claimed) finish(state State) error {
	s, sl := c.s, c.sl
	if err := s.acquire(context.Background(), sl); err != nil { // nobody holds it for long
		return fmt.Errorf("finish release: %w", err)
	}
	defer sl.release()
	s.mu.Lock()
	cur := sl.cur
	s.mu.Unlock()
	switch {
	case c.finished == state:
		return nil
	case c.finished != "" || cur.State != StateReleasing || cur.IntentEntry != c.Request.IntentEntry:
		return fmt.Errorf("finish release: approval %s is %s: %w", sl.id, cur.State, ErrFinished)
	}
	c.finished = state
	next := cur.clone()
	next.State = state
	if state == StateReleased {
		next.end(s.wall())
	} else {
		next.IntentEntry = ""
	}
	// A crash before this is durable: the trail says whether the intent is there.
	if err := s.put(sl, &next, true); err != nil {
		return fmt.Errorf("finish release: %w", err)
	}
	return nil
}
