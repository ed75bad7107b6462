package approval

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Hold asks. What it needs of r is described with [Request]; ID, State, Created,
// Votes and what follows from them it gives itself, and a Statement that is too
// long is cut.
//
// Where the same call (see [Key]) with the same facts is pending or approved
// already, that request is returned, and isNew is false: asking again joins the
// same question. Where its facts are others, it becomes changed and the new one
// Replaces it. A denial stands against the same call for Options.Window,
// whatever the facts: a [*Refusal] with ErrDenied. While the same call is being
// released, Hold waits for the end of that.
//
// before writes the held entry; its error means that nothing happened. Other
// errors are ErrJobTaken where another open request has the job's id, ErrFull,
// ErrInvalid.
//
// A crash before the request's file is durable leaves at most a held entry: the
// agent, which got no answer, asks again.
func (s *Store) Hold(ctx context.Context, r Request, before func(Request) error) (held Request, isNew bool, err error) {
	r, err = s.prepare(r)
	if err != nil {
		return Request{}, false, fmt.Errorf("hold: %w", err)
	}
	k := KeyOf(&r).key()
	for {
		s.mu.Lock()
		old := s.keys[k]
		s.mu.Unlock()
		held, isNew, again, err := s.holdAt(ctx, old, &r, before)
		if again {
			continue
		}
		if err != nil {
			return Request{}, false, fmt.Errorf("hold: %w", err)
		}
		return held, isNew, nil
	}
}

// prepare makes of what the caller gave what could be stored.
func (s *Store) prepare(r Request) (Request, error) {
	r = r.clone()
	now := s.wall()
	r.State, r.Created, r.Expires = StatePending, now, r.Expires.Round(0).UTC()
	r.Decided, r.ReleaseBy, r.Ended, r.Released = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	r.IntentEntry, r.Replaces, r.Votes = "", "", nil
	r.Statement = strings.ToValidUTF8(r.Statement, "\uFFFD")
	if len(r.Statement) > MaxStatementBytes {
		cut := MaxStatementBytes
		for !utf8.RuneStart(r.Statement[cut]) {
			cut--
		}
		r.Statement, r.StatementCut = r.Statement[:cut], true
	}
	r.Call.Body = bytes.Clone(r.Call.Body) // what is hashed is what is stored
	r.Call.BodyBytes, r.Call.BodySHA256 = int64(len(r.Call.Body)), ""
	if len(r.Call.Body) > MaxBodyBytes {
		return Request{}, fmt.Errorf("%w: a body of %d bytes, at most %d can wait for a human", ErrInvalid, len(r.Call.Body), MaxBodyBytes)
	}
	if len(r.Call.Body) > 0 {
		sum := sha256.Sum256(r.Call.Body)
		r.Call.BodySHA256 = hex.EncodeToString(sum[:])
	}
	if r.ID = s.opts.NewID(); !idForm.MatchString(r.ID) {
		return Request{}, fmt.Errorf("%w: the id %q", ErrInvalid, trim(r.ID))
	}
	if err := r.check(); err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return r, nil
}

// holdAt holds r where old is the newest request about the same call, or nil. It
// reports again where that is not so any more.
func (s *Store) holdAt(ctx context.Context, old *slot, r *Request, before func(Request) error) (held Request, isNew, again bool, err error) {
	r.Replaces = ""
	replace := false
	if old != nil {
		if err := s.acquireSettled(ctx, old); err != nil {
			return Request{}, false, false, err
		}
		defer old.release()
		s.mu.Lock()
		stale := s.keys[old.key] != old
		var cur Request
		if !stale {
			cur = s.viewLocked(old)
		}
		s.mu.Unlock()
		switch {
		case stale:
			return Request{}, false, true, nil
		case cur.State.Open() && cur.FactsSHA256 == r.FactsSHA256:
			return cur.clone(), false, false, nil
		case s.stands(&cur):
			return Request{}, false, false, refuse(ErrDenied, &cur)
		}
		if replace = cur.State.Open(); replace || cur.State == StateChanged {
			r.Replaces = cur.ID
		}
	}
	again, err = s.create(ctx, old, r, before)
	if again || err != nil {
		return Request{}, false, again, err
	}
	if replace {
		// The new question is there, and found first. A crash before the old one's end
		// is durable, or an error, does not bring that back: see settle and acquire.
		next := old.cur.clone()
		next.State = StateChanged
		next.end(s.wall())
		if err := s.put(old, &next, true); err != nil && s.opts.Failed != nil {
			s.opts.Failed(err)
		}
	}
	held = r.clone()
	held.Call.Body = nil
	return held, true, false, nil
}

// stands reports whether r is a denial that is not to be asked about again yet.
// One that is from the future by more than a window, since the clock was set
// back, stands no longer.
func (s *Store) stands(r *Request) bool {
	age := s.wall().Sub(r.Ended)
	return r.State == StateDenied && age.Abs() < s.opts.Window
}

// create makes a request durable.
func (s *Store) create(ctx context.Context, old *slot, r *Request, before func(Request) error) (again bool, err error) {
	sl, err := s.reserve(old, r)
	if sl == nil || err != nil {
		return err == nil, err
	}
	born := false
	defer func() {
		if !born {
			s.unreserve(sl, old)
		}
		sl.release()
	}()
	raw, err := encode(sl.number, r)
	switch {
	case err != nil:
		return false, fmt.Errorf("%w: %w", ErrInvalid, err)
	case len(raw) > maxFileBytes/2: // the rest is for votes
		return false, fmt.Errorf("%w: without its body it takes %d bytes, at most %d can wait for a human", ErrInvalid, len(raw), maxFileBytes/2)
	}
	if err := context.Cause(ctx); err != nil {
		return false, err
	}
	asked := r.clone()
	asked.Call.Body = nil
	if err := before(asked); err != nil {
		return false, err
	}
	// The body first: a request on the disk has its body there.
	if len(r.Call.Body) > 0 {
		_, err = s.replaceFile(s.path(sl.id, bodyExt), r.Call.Body)
	}
	if err == nil {
		_, err = s.replaceFile(s.path(sl.id, requestExt), raw)
	}
	if err != nil {
		// Should the file be there and stay in spite of this, the next start asks a
		// question that nobody waits for. An approval of it is the agent's to use.
		s.discard(s.path(sl.id, requestExt))
		s.discard(s.path(sl.id, bodyExt))
		return false, fmt.Errorf("write approval %s: %w", sl.id, err)
	}
	kept := *r
	kept.Call.Body = nil
	s.mu.Lock()
	s.bytes.open -= sl.size // as reserved
	s.bytes.body -= r.Call.BodyBytes
	s.publishLocked(sl, &kept, int64(len(raw)))
	s.mu.Unlock()
	born = true
	return false, nil
}

// reserve takes the place of a new request, locked and not visible yet. Where
// old is no longer the newest about the call it gives nil.
func (s *Store) reserve(old *slot, r *Request) (*slot, error) {
	size := int64(len(r.Statement)) + int64(len(r.Reason)) + 4096 // about
	s.mu.Lock()
	defer s.mu.Unlock()
	k := KeyOf(r).key()
	if s.keys[k] != old {
		return nil, nil
	}
	agent := 0
	if t := s.agents[k.agent]; t != nil {
		agent = t.active
	}
	switch {
	case s.slots[r.ID] != nil:
		return nil, fmt.Errorf("%w: the id %s is taken", ErrInvalid, r.ID)
	case agent >= s.max.perAgent:
		return nil, fmt.Errorf("%w: agent %s waits for %d, decide or cancel some of them", ErrFull, k.agent, agent)
	case s.active >= s.opts.MaxPending || s.bytes.open+size > s.max.openBytes || s.bytes.body+r.Call.BodyBytes > s.max.bodyBytes:
		return nil, fmt.Errorf("%w: %d wait, with %d bytes of calls; decide or cancel some of them", ErrFull, s.active, s.bytes.body)
	}
	now := s.opts.Now()
	for _, o := range s.jobs[job{r.JobProject, r.JobID}] {
		if o.key == k || (o.cur != nil && (o.cur.State.Final() || s.dueLocked(o, now))) {
			continue
		}
		if o.cur == nil || o.key.agent != k.agent {
			return nil, fmt.Errorf("%w: %s:%s", ErrJobTaken, r.JobProject, r.JobID) // whose is not this agent's business
		}
		return nil, refuse(ErrJobTaken, o.cur)
	}
	sl := newSlot(r, s.number+1)
	sl.size = size
	sl.lock <- struct{}{}
	s.slots[sl.id] = sl
	s.addLocked(sl)
	s.bytes.open += size
	s.bytes.body += r.Call.BodyBytes
	return sl, nil
}

// unreserve gives back the place of a request that did not come to be.
func (s *Store) unreserve(sl, old *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	s.tallyLocked(sl).active--
	s.bytes.open -= sl.size
	s.bytes.body -= sl.body
	s.dropLocked(sl)
	if old != nil && !old.dead {
		s.keys[sl.key] = old
	}
}

// Cancel withdraws an agent's own open request. before is called with the
// request as it will be. Another agent's is ErrNotFound; one that is no longer
// open is a [*Refusal] with ErrDecided.
func (s *Store) Cancel(ctx context.Context, id, agent string, before func(Request) error) (Request, error) {
	sl, err := s.find(ctx, id, true)
	if err != nil {
		return Request{}, fmt.Errorf("cancel: %w", err)
	}
	defer sl.release()
	if sl.key.agent != agent {
		return Request{}, fmt.Errorf("cancel: approval %q: %w", trim(id), ErrNotFound)
	}
	r, err := s.cancel(sl, before)
	if err != nil {
		return Request{}, fmt.Errorf("cancel: %w", err)
	}
	return r, nil
}

// cancel withdraws; the caller holds the slot's lock.
func (s *Store) cancel(sl *slot, before func(Request) error) (Request, error) {
	cur := s.view(sl)
	if !cur.State.Open() {
		return Request{}, refuse(ErrDecided, &cur)
	}
	next := cur.clone()
	next.State = StateCancelled
	next.end(s.wall())
	if err := before(next.clone()); err != nil {
		return Request{}, err
	}
	if err := s.put(sl, &next, false); err != nil {
		return Request{}, err
	}
	return next.clone(), nil
}

// CancelAgent withdraws all open requests of an agent, which was revoked or
// suspended, and says how many. It goes on after an error. A request that is
// being released just then is waited for: it is used, or cancelled.
func (s *Store) CancelAgent(ctx context.Context, agent string, before func(Request) error) (n int, err error) {
	var errs []error
	for _, sl := range s.activeSlots(func(sl *slot) bool { return sl.key.agent == agent }) {
		if err := s.acquireSettled(ctx, sl); err != nil {
			errs = append(errs, err)
			continue
		}
		var no *Refusal
		switch _, err := s.cancel(sl, before); {
		case err == nil:
			n++
		case !errors.As(err, &no): // decided meanwhile is as good
			errs = append(errs, err)
		}
		sl.release()
	}
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("cancel what agent %s asked: %w", agent, err)
	}
	return n, nil
}
