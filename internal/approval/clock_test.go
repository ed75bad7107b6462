package approval_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trailgate/trailgate/internal/approval"
)

// TestExpire: what nobody decided or used in time has ended, whether or not that
// was written down yet, and the trail is told once.
func TestExpire(t *testing.T) {
	w := newWorld(t)
	a, b := w.hold(w.ask("DELETE 1")), w.hold(w.ask("DELETE 2"))
	w.pass(time.Hour - time.Second)
	w.vote(b.ID, ada)
	if n, err := w.store.Expire(t.Context(), w.trail); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	w.pass(time.Second)
	if got := w.state(a.ID, approval.StateExpired); !got.Ended.Equal(a.Expires) {
		t.Errorf("it ended at %v", got.Ended)
	}
	_, err := w.claim(a, "01intent")
	is(t, err, approval.ErrNone, a.ID)
	w.told = nil
	for i := range 2 {
		if n, err := w.store.Expire(t.Context(), w.trail); n != 1-i || err != nil {
			t.Fatal(n, err)
		}
	}
	w.pass(approval.DefaultWindow - time.Second) // of b's approval
	_, err = w.claim(b, "01intent")
	is(t, err, approval.ErrNone, b.ID)
	if n, err := w.store.Expire(t.Context(), w.trail); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if got := idsOf(w.told); !slices.Equal(got, idsOf([]approval.Request{a, b})) {
		t.Errorf("the trail was told of %v", got)
	}
	w.same()
	if again := w.hold(w.ask("DELETE 1")); again.Replaces != "" {
		t.Errorf("%+v", again)
	}
}

// TestClockSet: a clock that is set forward ends requests; set back, none comes
// to life, and none lives longer.
func TestClockSet(t *testing.T) {
	back := func(w *world) { w.pass(-2 * time.Hour) }
	for name, look := range map[string]func(w *world, r approval.Request){
		"written down": func(w *world, r approval.Request) {
			if n, err := w.store.Expire(w.t.Context(), w.trail); n != 1 || err != nil {
				w.t.Fatal(n, err)
			}
		},
		"written down, and restarted": func(w *world, r approval.Request) {
			if n, err := w.store.Expire(w.t.Context(), w.trail); n != 1 || err != nil {
				w.t.Fatal(n, err)
			}
			w.restart()
		},
		"seen": func(w *world, r approval.Request) { w.state(r.ID, approval.StateExpired) },
		"voted on": func(w *world, r approval.Request) {
			_, err := w.store.Vote(w.t.Context(), r.ID, ada, w.trailVote)
			is(w.t, err, approval.ErrDecided, r.ID)
		},
		"asked again": func(w *world, r approval.Request) {
			if again := w.hold(w.ask("DELETE 1")); again.ID == r.ID {
				w.t.Fatal("it was joined")
			}
			w.restart()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.hold(w.ask("DELETE 1"))
			w.pass(time.Hour)
			look(w, r)
			back(w)
			w.state(r.ID, approval.StateExpired)
			_, err := w.store.Vote(t.Context(), r.ID, ada, w.trailVote)
			is(t, err, approval.ErrDecided, r.ID)
		})
	}

	// Restarted with a clock that is a year behind: the whole span again, no more.
	w := newWorld(t)
	r := w.hold(w.ask("DELETE 1"))
	w.pass(-365 * 24 * time.Hour)
	w.restart()
	w.pass(time.Hour - 1)
	w.state(r.ID, approval.StatePending)
	w.vote(r.ID, ada)
	w.restart()
	w.pass(approval.DefaultWindow)
	w.state(r.ID, approval.StateExpired)
	if n, err := w.store.Expire(t.Context(), w.trail); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	w.same()
}

// TestRun: deadlines are met when they pass, whether they were there at the
// start or came later, and a trail that fails is tried again.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.opts.Now = time.Now
		w.now = time.Now()
		var failed []error
		w.opts.Failed = func(err error) { failed = append(failed, err) }
		w.restart()
		first := w.hold(w.ask("DELETE 1"))
		broken := true
		var ended []time.Duration
		begun := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.store.Run(ctx, func(r approval.Request) error {
				if r.ID == first.ID && broken {
					broken = false
					return errTrail
				}
				ended = append(ended, time.Since(begun))
				return nil
			})
		}()
		synctest.Wait()
		brief := w.ask("DELETE 2")
		brief.Expires = time.Now().Add(90 * time.Second)
		brief = w.hold(brief)
		if r, err := w.store.Wait(t.Context(), brief.ID); err != nil || r.State != approval.StateExpired {
			t.Error(r.State, err)
		}
		if r, err := w.store.Wait(t.Context(), first.ID); err != nil || r.State != approval.StateExpired {
			t.Error(r.State, err)
		}
		cancel()
		<-done
		if want := []time.Duration{90 * time.Second, time.Hour + 5*time.Second}; !slices.Equal(ended, want) {
			t.Errorf("they ended after %v, want %v", ended, want)
		}
		if len(failed) != 1 || !errors.Is(failed[0], errTrail) {
			t.Error(failed)
		}
	})
}

// TestForget: what ended is forgotten after a week, or where it is too much,
// and what is open never is.
func TestForget(t *testing.T) {
	w := newWorld(t)
	long := w.ask("DELETE 0")
	long.Expires = w.clock().Add(approval.MaxSpan)
	long = w.hold(long)
	old := w.hold(w.ask("DELETE 1"))
	w.vote(old.ID, deny(ada))
	w.pass(approval.Retention - time.Second)
	w.restart()
	w.state(old.ID, approval.StateDenied)
	w.pass(time.Second / 2)
	recent := w.hold(w.ask("DELETE 2"))
	w.vote(recent.ID, deny(ada))
	w.pass(time.Second / 2)
	w.store.SetFault(func(step, _ string) error {
		if step == "remove" {
			return errDisk
		}
		return nil
	})
	w.pass(-time.Nanosecond)
	w.vote(long.ID, ada)
	w.pass(time.Nanosecond)
	if _, err := w.store.Expire(t.Context(), w.trail); !errors.Is(err, errDisk) {
		t.Error("a file that could not be removed was not told:", err)
	}
	if _, err := w.store.Get(old.ID); !errors.Is(err, approval.ErrNotFound) {
		t.Error(err)
	}
	w.store.SetFault(nil)
	if _, err := w.store.Expire(t.Context(), w.trail); err != nil {
		t.Fatal(err)
	}
	if files := w.files(); slices.Contains(files, old.ID+".json") || len(files) != 3 {
		t.Error(files)
	}
	w.state(long.ID, approval.StateApproved)
	w.state(recent.ID, approval.StateDenied)
	w.same()
}

// TestForgetTooMuch: the oldest that ended go, and one agent's do not push out
// another's.
func TestForgetTooMuch(t *testing.T) {
	w := newWorld(t)
	denied := func(agent, call string) string {
		r := w.ask(call)
		r.Principal.Agent = agent
		r = w.hold(r)
		w.vote(r.ID, deny(ada))
		w.pass(time.Second)
		return r.ID
	}
	gone := func(ids ...string) {
		t.Helper()
		for _, id := range ids {
			if _, err := w.store.Get(id); !errors.Is(err, approval.ErrNotFound) {
				t.Errorf("%s is still there: %v", id, err)
			}
			if slices.Contains(w.files(), id+".json") {
				t.Errorf("the file of %s is still there", id)
			}
		}
		w.same()
	}
	w.store.SetLimits(4, 2, 0, 0, 0)
	other := denied("other-bot", "a")
	a, b, c := denied("etl-bot", "a"), denied("etl-bot", "b"), denied("etl-bot", "c")
	gone(a)
	w.state(other, approval.StateDenied)
	d, e := denied("third-bot", "a"), denied("fourth-bot", "a")
	gone(a, other)
	w.store.SetLimits(0, 0, 1, 0, 0)
	open := w.hold(w.ask("open"))
	w.pass(-time.Hour) // the order is that in which they ended
	f := denied("fifth-bot", "a")
	gone(a, b, c, d, e, other, f)
	w.state(open.ID, approval.StatePending)
}
