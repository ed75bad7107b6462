package identity

import (
	"container/list"
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// maxSessions bounds how many sessions are open at a time; tokens are bounded
// to as many.
const maxSessions = maxTokens

// Session is an agent's calls that belong together: those of one credential
// ([Identity.SessionKey]), until it has been idle for a while.
type Session struct {
	ID      string // a ULID in lower case
	Agent   string
	TokenID string // of the credential that began it, where it has an id
	Started time.Time
	Last    time.Time // of the last call
	Calls   int64
	// Title and Purpose are what was claimed when the token was made.
	Title, Purpose string
	// Ended is why it ended where it was not left idle: as End was told.
	Ended string

	key   string // Identity.SessionKey
	begun *beginning
}

// beginning is whether a session's beginning is on record.
type beginning struct {
	told chan struct{} // closed when that is known
	ok   bool          // written before told is closed
}

// Begun waits until it is known whether the session's beginning is on record, and
// reports that. Where it is not, the session is gone: the caller's next Touch
// begins another. It is false when ctx ends, too.
func (s Session) Begun(ctx context.Context) bool {
	select {
	case <-s.begun.told: // mostly long since
		return s.begun.ok
	default:
	}
	select {
	case <-s.begun.told:
		return s.begun.ok
	case <-ctx.Done():
		return false
	}
}

// Sessions are the open ones. They live in memory: a restart begins new ones.
// Safe for concurrent use.
type Sessions struct {
	idle time.Duration
	now  func() time.Time

	mu    sync.Mutex               // guards the rest
	byKey map[string]*list.Element // of *Session, in order
	order list.List                // of *Session, the one that was used last at the back
	// closed are sessions that ended in Touch; Expire hands them on. If nobody asks
	// for maxSessions of them, the oldest are forgotten.
	closed list.List // of Session
}

// NewSessions makes an empty set; a session closes after idle without a call.
func NewSessions(idle time.Duration, now func() time.Time) *Sessions {
	return &Sessions{idle: idle, now: now, byKey: map[string]*list.Element{}}
}

// Touch counts a call with a credential and returns its session, a new one where
// none is open or the last one was idle too long.
func (s *Sessions) Touch(who Identity) (sess Session, opened bool) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	el := s.byKey[who.SessionKey]
	if el != nil && now.Sub(el.Value.(*Session).Last) >= s.idle {
		s.setAsideLocked(el)
		el = nil
	}
	if el == nil {
		if len(s.byKey) >= maxSessions {
			s.setAsideLocked(s.order.Front())
		}
		el = s.order.PushBack(&Session{
			// The timestamp is bounded by ULID's year 10889, rand.Reader does not fail.
			ID:    strings.ToLower(ulid.MustNew(ulid.Timestamp(now), rand.Reader).String()),
			Agent: who.Principal.Agent, TokenID: who.Principal.TokenID, Started: now, Title: who.Title, Purpose: who.Purpose,
			key: who.SessionKey, begun: &beginning{told: make(chan struct{})},
		})
		s.byKey[who.SessionKey], opened = el, true
	}
	cur := el.Value.(*Session)
	cur.Last = now
	cur.Calls++
	s.order.MoveToBack(el)
	return *cur, opened
}

// Recorded says that a session's beginning is on record. Whoever opened a session
// calls this, or Forget, once.
func (s *Sessions) Recorded(sess Session) {
	sess.begun.ok = true
	close(sess.begun.told)
}

// Forget takes back a session whose beginning could not be recorded: the
// credential's next call begins another.
func (s *Sessions) Forget(sess Session) {
	defer close(sess.begun.told)
	s.mu.Lock()
	defer s.mu.Unlock()
	if el := s.byKey[sess.key]; el != nil && el.Value.(*Session).ID == sess.ID {
		s.endLocked(el)
	}
}

// endLocked takes a session out and returns it as it ended.
func (s *Sessions) endLocked(el *list.Element) Session {
	sess := s.order.Remove(el).(*Session)
	delete(s.byKey, sess.key)
	return *sess
}

func (s *Sessions) setAsideLocked(el *list.Element) {
	s.closed.PushBack(s.endLocked(el))
	if s.closed.Len() > maxSessions {
		s.closed.Remove(s.closed.Front())
	}
}

func (s *Sessions) takeClosedLocked() []Session {
	var out []Session
	for el := s.closed.Front(); el != nil; el = el.Next() {
		out = append(out, el.Value.(Session))
	}
	s.closed.Init()
	return out
}

// End ends the open sessions that are meant, for a reason: their credential is no
// longer good. Expire hands them on.
func (s *Sessions) End(meant func(Session) bool, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for el := s.order.Front(); el != nil; {
		sess, next := el.Value.(*Session), el.Next()
		if meant(*sess) {
			sess.Ended = why
			s.setAsideLocked(el)
		}
		el = next
	}
}

// Expire closes the sessions that are idle and returns all that were closed
// since it was last asked, the longest idle first.
func (s *Sessions) Expire() []Session {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.takeClosedLocked()
	for el := s.order.Front(); el != nil && now.Sub(el.Value.(*Session).Last) >= s.idle; el = s.order.Front() {
		out = append(out, s.endLocked(el))
	}
	return out
}

// CloseAll closes every session and returns them, with those that Expire would
// have returned.
func (s *Sessions) CloseAll() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.takeClosedLocked()
	for el := s.order.Front(); el != nil; el = s.order.Front() {
		out = append(out, s.endLocked(el))
	}
	return out
}
