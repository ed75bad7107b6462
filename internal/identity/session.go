package identity

import (
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// maxSessions bounds how many sessions are open at a time; tokens are bounded
// to as many.
const maxSessions = maxTokens

// Session is an agent's calls that belong together: those of one token, until
// it has been idle for a while.
type Session struct {
	ID      string // a ULID in lower case
	Agent   string
	TokenID string
	Started time.Time
	Last    time.Time
	Calls   int64
	// Title and Purpose are what was claimed when the token was made.
	Title, Purpose string
}

// Sessions are the open ones. They live in memory: a restart begins new ones.
// Safe for concurrent use.
type Sessions struct {
	idle time.Duration
	now  func() time.Time

	mu     sync.Mutex // guards open
	open   map[string]*Session
	closed []Session // pushed out before they were idle; Expire hands them on
}

// NewSessions makes an empty set; a session closes after idle without a call.
func NewSessions(idle time.Duration, now func() time.Time) *Sessions {
	return &Sessions{idle: idle, now: now, open: map[string]*Session{}}
}

// Touch counts a call of the token and returns its session, a new one where
// none is open or the last one was idle too long.
func (s *Sessions) Touch(t Token) (sess Session, opened bool) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	cur := s.open[t.ID]
	if cur != nil && now.Sub(cur.Last) >= s.idle {
		s.closed = append(s.closed, *cur)
		cur = nil
	}
	if cur == nil {
		if len(s.open) >= maxSessions {
			s.evictLocked()
		}
		cur = &Session{
			ID: strings.ToLower(ulid.MustNew(ulid.Timestamp(now), rand.Reader).String()), Agent: t.Agent, TokenID: t.ID,
			Started: now, Title: t.Title, Purpose: t.Purpose,
		}
		s.open[t.ID], opened = cur, true
	}
	cur.Last = now
	cur.Calls++
	return *cur, opened
}

// evictLocked closes the session that was idle longest.
func (s *Sessions) evictLocked() {
	var oldest *Session
	for _, c := range s.open {
		if oldest == nil || c.Last.Before(oldest.Last) {
			oldest = c
		}
	}
	if oldest != nil {
		delete(s.open, oldest.TokenID)
		s.closed = append(s.closed, *oldest)
	}
}

// Expire closes the sessions that are idle and returns all that were closed
// since it was last asked.
func (s *Sessions) Expire() []Session {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.closed
	s.closed = nil
	for id, c := range s.open {
		if now.Sub(c.Last) >= s.idle {
			delete(s.open, id)
			out = append(out, *c)
		}
	}
	return out
}

// CloseAll closes every session and returns them, with those that Expire would
// have returned.
func (s *Sessions) CloseAll() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.closed
	for _, c := range s.open {
		out = append(out, *c)
	}
	s.open, s.closed = map[string]*Session{}, nil
	return out
}
