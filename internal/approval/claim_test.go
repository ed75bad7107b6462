package approval_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trailgate/trailgate/internal/approval"
)

// TestRelease: an approval is used once, and gives the call as it was held.
func TestRelease(t *testing.T) {
	w := newWorld(t)
	ask := w.ask("DELETE 1")
	_, err := w.claim(ask, "01intent")
	is(t, err, approval.ErrNone, "")
	r := w.hold(ask)
	_, err = w.claim(r, "01intent")
	is(t, err, approval.ErrPending, r.ID)
	w.vote(r.ID, ada)
	w.restart()
	c, err := w.claim(r, "01intent")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Request.Call; string(got.Body) != "DELETE 1" || got.Method != "POST" || got.Target == "" || got.Header["Content-Type"] != "application/json" {
		t.Errorf("%+v", got)
	}
	if got := w.state(r.ID, approval.StateReleasing); got.IntentEntry != "01intent" || got.Call.Body != nil {
		t.Errorf("%+v", got)
	}
	w.commit("01intent")
	for range 2 {
		if err := c.Done(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Abort(); !errors.Is(err, approval.ErrFinished) {
		t.Error("an approval that was used came back:", err)
	}
	if got := w.state(r.ID, approval.StateReleased); got.Released.IsZero() || got.IntentEntry != "01intent" {
		t.Errorf("%+v", got)
	}
	_, err = w.claim(r, "02intent")
	is(t, err, approval.ErrNone, r.ID)
	if again := w.hold(w.ask("DELETE 1")); again.ID == r.ID || again.State != approval.StatePending {
		t.Errorf("the second time is not asked about: %+v", again)
	}
	if files := w.files(); slices.Contains(files, r.ID+".body") || !slices.Contains(files, r.ID+".json") {
		t.Errorf("after the release there is %v", files)
	}
	if _, err := w.claim(ask, ""); !errors.Is(err, approval.ErrInvalid) {
		t.Error(err)
	}
	w.same()
}

// TestAbort: what was not used can be used, once.
func TestAbort(t *testing.T) {
	w := newWorld(t)
	r := w.hold(w.ask("DELETE 1"))
	w.vote(r.ID, ada)
	c, err := w.claim(r, "01intent")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Abort(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Done(); !errors.Is(err, approval.ErrFinished) {
		t.Error(err)
	}
	if got := w.state(r.ID, approval.StateApproved); got.IntentEntry != "" {
		t.Errorf("%+v", got)
	}
	w.same()
	w.release(r, "02intent")
	if err := c.Abort(); err != nil { // again, of the first claim
		t.Error(err)
	}
	w.state(r.ID, approval.StateReleased)
}

// TestManyClaims: of 64 at once, one uses the approval, whoever aborts before it.
func TestManyClaims(t *testing.T) {
	w := newWorld(t)
	r := w.hold(w.ask("DELETE 1"))
	w.vote(r.ID, ada)
	var won, aborted atomic.Int32
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			intent := fmt.Sprint("intent", i)
			c, err := w.claim(r, intent)
			switch {
			case err != nil:
				if !errors.Is(err, approval.ErrNone) {
					t.Error(err)
				}
			case aborted.Add(1) <= 3:
				if err := c.Abort(); err != nil {
					t.Error(err)
				}
			default:
				won.Add(1)
				w.commit(intent)
				if err := c.Done(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || len(w.intents) != 1 {
		t.Errorf("%d calls used one approval", won.Load())
	}
	got := w.state(r.ID, approval.StateReleased)
	if !w.intents[got.IntentEntry] {
		t.Errorf("released for %s, and the trail has %v", got.IntentEntry, w.intents)
	}
	w.same()
}

// TestReleasingIsWaitedFor: who asks about a call that is being released waits
// for the end of that, not for ever, and not longer than they want.
func TestReleasingIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.opts.Now = time.Now
		w.now = time.Now()
		w.restart()
		r := w.hold(w.ask("DELETE 1"))
		w.vote(r.ID, ada)
		c, err := w.claim(r, "01intent")
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		_, err = w.claim(r, "02intent")
		is(t, err, approval.ErrReleasing, r.ID)
		if d := time.Since(begun); d != 10*time.Second {
			t.Errorf("it took %v", d)
		}
		brief, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := w.store.Hold(brief, w.ask("DELETE 1"), w.trail); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		held := make(chan approval.Request)
		go func() { held <- w.hold(w.ask("DELETE 1")) }()
		synctest.Wait()
		w.commit("01intent")
		if err := c.Done(); err != nil {
			t.Fatal(err)
		}
		if again := <-held; again.ID == r.ID {
			t.Error("a question that was used up was joined")
		}
	})
}

// TestClaimWhileReplaced: who waits to use an approval that is just being
// replaced is told of the new question.
func TestClaimWhileReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		old := w.hold(w.ask("DELETE 1"))
		other := w.ask("DELETE 1")
		other.FactsSHA256 = digest("others")
		leave, held, claimed := make(chan struct{}), make(chan approval.Request), make(chan error)
		go func() {
			if _, err := w.store.Vote(t.Context(), old.ID, ada, func(approval.Request, approval.Vote) error { <-leave; return nil }); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait() // the old one is locked from here on
		go func() { held <- w.hold(other) }()
		synctest.Wait()
		go func() {
			_, err := w.claim(other, "01intent")
			claimed <- err
		}()
		synctest.Wait()
		close(leave)
		r := <-held
		is(t, <-claimed, approval.ErrPending, r.ID)
		w.state(old.ID, approval.StateChanged)
	})
}

// TestLostRole: a vote counts at the release only if its human could still give it.
func TestLostRole(t *testing.T) {
	w := newWorld(t)
	lost := map[string]bool{}
	w.opts.StillMay = func(v approval.Vote, from []string) bool {
		return !lost[v.Human] && slices.Equal(from, []string{"role:approver"})
	}
	w.restart()
	bob, cleo := by("bob@example.com", "approver"), by("cleo@example.com", "approver")
	ask := w.ask("DELETE 1")
	ask.Need = 2
	r := w.hold(ask)
	w.vote(r.ID, ada)
	w.vote(r.ID, bob)
	lost["ada@example.com"] = true
	_, err := w.claim(r, "01intent")
	is(t, err, approval.ErrPending, r.ID)
	w.restart()
	got := w.state(r.ID, approval.StatePending)
	if len(got.Votes) != 2 || !got.Votes[0].Void || got.Votes[1].Void || !got.ReleaseBy.IsZero() || !got.Decided.IsZero() {
		t.Errorf("%+v", got)
	}
	if got := w.vote(r.ID, bob); got.State != approval.StatePending {
		t.Error("bob's vote counts twice")
	}
	lost["ada@example.com"] = false
	if got := w.vote(r.ID, ada); got.State != approval.StateApproved { // has the role again, and says it again
		t.Fatalf("%+v", got)
	}
	lost["bob@example.com"] = true
	_, err = w.claim(r, "02intent")
	is(t, err, approval.ErrPending, r.ID)
	w.vote(r.ID, cleo)
	w.release(r, "03intent")
	w.same()

	// Where the question's own deadline has passed, it is over.
	late := w.hold(w.ask("DELETE 2"))
	w.pass(59 * time.Minute)
	w.vote(late.ID, cleo)
	w.pass(2 * time.Minute)
	lost["cleo@example.com"] = true
	_, err = w.claim(late, "04intent")
	is(t, err, approval.ErrNone, late.ID)
	w.state(late.ID, approval.StateExpired)
}

// TestBodyChangedOnDisk: what is forwarded is what was held, or nothing is.
func TestBodyChangedOnDisk(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"changed": func(path string) error { return os.WriteFile(path, []byte("DELETE 2"), 0o600) },
		"cut":     func(path string) error { return os.Truncate(path, 3) },
		"gone":    os.Remove,
	} {
		w := newWorld(t)
		r := w.hold(w.ask("DELETE 1"))
		w.vote(r.ID, ada)
		path := filepath.Join(w.dir, r.ID+".body")
		if err := change(path); err != nil {
			t.Fatal(err)
		}
		if _, err := w.claim(r, "01intent"); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		w.state(r.ID, approval.StateApproved)
	}
}

// TestWait: many wait for one, without asking over and over.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ask := w.ask("DELETE 1")
		ask.Need = 2
		r := w.hold(ask)
		got := make(chan approval.State, 100)
		for range 100 {
			go func() {
				r, err := w.store.Wait(t.Context(), r.ID)
				if err != nil {
					t.Error(err)
				}
				got <- r.State
			}()
		}
		gone, cancel := context.WithCancel(t.Context())
		left := make(chan error)
		go func() {
			_, err := w.store.Wait(gone, r.ID)
			left <- err
		}()
		synctest.Wait()
		w.vote(r.ID, ada)
		synctest.Wait()
		if len(got) != 0 {
			t.Fatal("it is pending, and somebody was told otherwise")
		}
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		w.vote(r.ID, by("bob@example.com", "approver"))
		for range 100 {
			if s := <-got; s != approval.StateApproved {
				t.Error(s)
			}
		}
		if r, err := w.store.Wait(t.Context(), r.ID); err != nil || r.State != approval.StateApproved {
			t.Error(r.State, err)
		}
		if _, err := w.store.Wait(t.Context(), "apr_nothing"); !errors.Is(err, approval.ErrNotFound) {
			t.Error(err)
		}
	})
}
