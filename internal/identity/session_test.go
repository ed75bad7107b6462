package identity_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/identity"
)

// who is the identity of a token's holder.
func who(t identity.Token) identity.Identity {
	return identity.Identity{Principal: trailgate.Principal{Agent: t.Agent, TokenID: t.ID}, SessionKey: t.ID, Title: t.Title, Purpose: t.Purpose, Token: t}
}

func TestSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := identity.NewSessions(time.Minute, time.Now)
		a := identity.Token{ID: "tok_a", Agent: "etl-bot", Title: "nightly", Purpose: "loads"}
		first, opened := s.Touch(who(a))
		if !opened || first.Title != "nightly" || first.Purpose != "loads" || first.Calls != 1 || !first.Started.Equal(first.Last) {
			t.Fatalf("%+v %v", first, opened)
		}
		time.Sleep(59 * time.Second)
		if again, opened := s.Touch(who(a)); opened || again.ID != first.ID || again.Calls != 2 || again.Last.Sub(again.Started) != 59*time.Second {
			t.Errorf("%+v %v", again, opened)
		}
		if other, opened := s.Touch(who(identity.Token{ID: "tok_b", Agent: "etl-bot"})); !opened || other.ID == first.ID {
			t.Error("two tokens share a session")
		}
		time.Sleep(time.Minute - 1)
		if closed := s.Expire(); len(closed) != 0 {
			t.Errorf("closed too early: %+v", closed)
		}
		time.Sleep(time.Nanosecond)
		second, opened := s.Touch(who(a))
		if !opened || second.ID == first.ID {
			t.Error("an idle session went on")
		}
		closed := s.Expire()
		if len(closed) != 2 || closed[0].ID != first.ID || closed[0].Calls != 2 || closed[1].TokenID != "tok_b" {
			t.Errorf("closed %+v", closed)
		}
		if closed := s.Expire(); len(closed) != 0 {
			t.Errorf("closed twice %+v", closed)
		}
		if closed := s.CloseAll(); len(closed) != 1 || closed[0].ID != second.ID {
			t.Errorf("left %+v", closed)
		}
		if closed := s.CloseAll(); len(closed) != 0 {
			t.Errorf("closed twice %+v", closed)
		}
	})
}

// TestSessionsEnd: a session ends with its credential, and says so; the others go on.
func TestSessionsEnd(t *testing.T) {
	s := identity.NewSessions(time.Hour, time.Now)
	a, b := who(identity.Token{ID: "tok_a", Agent: "etl-bot"}), who(identity.Token{ID: "tok_b", Agent: "etl-bot"})
	first, _ := s.Touch(a)
	other, _ := s.Touch(b)
	s.End(func(x identity.Session) bool { return x.TokenID == "tok_a" }, "revoked")
	closed := s.Expire()
	if len(closed) != 1 || closed[0].ID != first.ID || closed[0].Ended != "revoked" || closed[0].Calls != 1 {
		t.Errorf("closed %+v", closed)
	}
	if again, opened := s.Touch(b); opened || again.ID != other.ID {
		t.Error("another credential's session ended too")
	}
	if closed := s.CloseAll(); len(closed) != 1 || closed[0].Ended != "" {
		t.Errorf("left %+v", closed)
	}
}

// TestMostSessions: at the bound, the session that was idle longest makes room,
// and what nobody fetches does not pile up.
func TestMostSessions(t *testing.T) {
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	s := identity.NewSessions(time.Hour, func() time.Time { return now })
	touch := func(i int) { s.Touch(who(identity.Token{ID: fmt.Sprintf("tok_%d", i), Agent: "a"})) }
	for i := range identity.MaxSessions {
		touch(i)
	}
	now = now.Add(time.Second)
	touch(0) // now the newest
	touch(identity.MaxSessions)
	closed := s.Expire()
	if len(closed) != 1 || closed[0].TokenID != "tok_1" {
		t.Errorf("%d closed: %+v", len(closed), closed)
	}
	for i := range 2*identity.MaxSessions + 10 {
		touch(i + identity.MaxSessions)
	}
	if n := len(s.CloseAll()); n != 2*identity.MaxSessions {
		t.Errorf("%d sessions are kept", n)
	}
}

// TestSessionsConcurrent: every call is counted in exactly one session.
func TestSessionsConcurrent(t *testing.T) {
	s := identity.NewSessions(time.Microsecond, time.Now)
	var wg sync.WaitGroup
	var mu sync.Mutex
	calls := map[string]int64{}
	count := func(closed []identity.Session) {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range closed {
			if calls[c.ID] != 0 {
				t.Errorf("session %s was closed twice", c.ID)
			}
			calls[c.ID] = c.Calls
		}
	}
	const workers, each = 8, 500
	for i := range workers {
		wg.Go(func() {
			for range each {
				s.Touch(who(identity.Token{ID: fmt.Sprintf("tok_%d", i%4), Agent: "a"}))
				count(s.Expire())
			}
		})
	}
	wg.Wait()
	count(s.CloseAll())
	var total int64
	for _, n := range calls {
		total += n
	}
	if total != workers*each {
		t.Errorf("%d calls in sessions, %d were made", total, workers*each)
	}
}

// TestBegun: who comes second learns whether the first could record the beginning.
func TestBegun(t *testing.T) {
	s := identity.NewSessions(time.Hour, time.Now)
	a := who(identity.Token{ID: "tok_a", Agent: "etl-bot"})
	first, opened := s.Touch(a)
	second, again := s.Touch(a)
	if !opened || again || first.ID != second.ID {
		t.Fatal("not one session")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if second.Begun(ended) {
		t.Error("begun before anybody said so")
	}
	s.Forget(first)
	if second.Begun(t.Context()) {
		t.Error("begun although it could not be recorded")
	}
	third, opened := s.Touch(a)
	if !opened || third.ID == first.ID {
		t.Fatal("the forgotten session goes on")
	}
	s.Recorded(third)
	fourth, opened := s.Touch(a)
	if opened || !fourth.Begun(ended) { // it is known: ctx is not waited for
		t.Error("not begun")
	}
}
