package approval_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/approval"
)

// change is one thing that can be done to a store: prepare gives the doing.
type change struct {
	name    string
	prepare func(w *world) func() error
	// sure: it has happened in any case, since the trail has it; the store writes it
	// down as soon as it can.
	sure bool
	// extra counts open requests that the doing adds.
	extra int
}

func changes() []change {
	approved := func(w *world) approval.Request {
		r := w.hold(w.ask("DELETE 1"))
		return w.vote(r.ID, ada)
	}
	claimed := func(w *world) *approval.Claimed {
		c, err := w.claim(approved(w), "01intent")
		if err != nil {
			w.t.Fatal(err)
		}
		return c
	}
	return []change{
		{name: "hold", extra: 1, prepare: func(w *world) func() error {
			return func() error { _, _, err := w.store.Hold(w.t.Context(), w.ask("DELETE 1"), w.trail); return err }
		}},
		{name: "approve", prepare: func(w *world) func() error {
			r := w.hold(w.ask("DELETE 1"))
			return func() error { _, err := w.store.Vote(w.t.Context(), r.ID, ada, w.trailVote); return err }
		}},
		{name: "deny", prepare: func(w *world) func() error {
			r := w.hold(w.ask("DELETE 1"))
			return func() error { _, err := w.store.Vote(w.t.Context(), r.ID, deny(ada), w.trailVote); return err }
		}},
		{name: "cancel", prepare: func(w *world) func() error {
			r := approved(w)
			return func() error { _, err := w.store.Cancel(w.t.Context(), r.ID, "etl-bot", w.trail); return err }
		}},
		{name: "claim", prepare: func(w *world) func() error {
			r := approved(w)
			return func() error { _, err := w.claim(r, "01intent"); return err }
		}},
		{name: "claim with other facts", prepare: func(w *world) func() error {
			r := approved(w)
			r.FactsSHA256 = digest("others")
			return func() error {
				if _, err := w.claim(r, "01intent"); !errors.Is(err, approval.ErrChanged) {
					return err
				}
				return nil
			}
		}},
		{name: "done", sure: true, prepare: func(w *world) func() error { return claimed(w).Done }},
		{name: "abort", sure: true, prepare: func(w *world) func() error { return claimed(w).Abort }},
		{name: "expire", sure: true, prepare: func(w *world) func() error {
			approved(w)
			w.pass(2 * time.Hour)
			return func() error { _, err := w.store.Expire(w.t.Context(), w.trail); return err }
		}},
	}
}

// TestWriteFaults: whatever step of a write fails, memory is as it was, the disk
// has what was or what would be, and both are right as soon as the disk is.
func TestWriteFaults(t *testing.T) {
	all := approval.Filter{Limit: 1 << 20}
	for _, c := range changes() {
		for _, ext := range []string{".json", ".body"} {
			for _, step := range approval.WriteSteps {
				if ext == ".body" && c.name != "hold" {
					continue
				}
				t.Run(c.name+"/"+ext+"/"+step, func(t *testing.T) {
					w := newWorld(t)
					do := c.prepare(w)
					before := w.store.List(all)
					w.store.SetFault(func(at, path string) error {
						if at == step && strings.Contains(filepath.Base(path), ext) {
							return errDisk
						}
						return nil
					})
					w.told = nil
					if err := do(); !errors.Is(err, errDisk) {
						t.Fatalf("the fault was not told: %v", err)
					}
					told := len(w.told)
					if d := cmp.Diff(before, w.store.List(all)); d != "" {
						t.Errorf("a change that failed is in memory:\n%s", d)
					}
					// What a crash leaves here can be opened, and has nothing left over.
					there := w.copy()
					if list := there.store.List(all); len(list) > len(before)+c.extra {
						t.Errorf("it left %+v", list)
					}
					for _, name := range there.files() {
						if strings.HasSuffix(name, ".new") {
							t.Errorf("it left %s", name)
						}
					}

					w.store.SetFault(nil)
					if err := do(); err != nil {
						t.Fatal("the store did not recover:", err)
					}
					if c.sure && len(w.told) != told {
						t.Errorf("the trail was told again")
					}
					if _, err := w.store.Expire(t.Context(), w.trail); err != nil {
						t.Fatal(err)
					}
					after := w.store.List(all)
					if len(after) != max(len(before), 1) || cmp.Equal(before, after) && c.name != "abort" {
						t.Errorf("nothing happened: %+v", after)
					}
					if after[0].State != approval.StateReleasing { // another start would settle it
						w.same()
					}
				})
			}
		}
	}
}

// copy is what a new process finds if this one is killed now.
func (w *world) copy() *world {
	w.t.Helper()
	there := &world{t: w.t, dir: filepath.Join(w.t.TempDir(), "approvals"), opts: w.opts, now: w.clock(), intents: map[string]bool{}}
	w.mu.Lock()
	for intent := range w.intents {
		there.intents[intent] = true
	}
	w.mu.Unlock()
	there.opts.Now = there.clock
	if err := os.CopyFS(there.dir, os.DirFS(w.dir)); err != nil {
		w.t.Fatal(err)
	}
	there.restart()
	return there
}

// TestDoubt: a change that failed when its file may have been there already is
// taken back from the disk, without anybody doing anything about that request.
func TestDoubt(t *testing.T) {
	w := newWorld(t)
	r := w.hold(w.ask("DELETE 1"))
	w.store.SetFault(func(step, _ string) error {
		if step == "sync directory" {
			return errDisk
		}
		return nil
	})
	if _, err := w.store.Vote(t.Context(), r.ID, ada, w.trailVote); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	w.copy().state(r.ID, approval.StateApproved) // the doubt is real
	if _, err := w.store.Expire(t.Context(), w.trail); !errors.Is(err, errDisk) {
		t.Error("the disk may say approved, and nobody is told:", err)
	}
	w.store.SetFault(nil)
	if _, err := w.store.Expire(t.Context(), w.trail); err != nil {
		t.Fatal(err)
	}
	w.copy().state(r.ID, approval.StatePending)
	w.same()
}

// TestDoneIsSure: an approval whose use could not be written down is used, and
// one that was given back cannot be used before that is written down.
func TestDoneIsSure(t *testing.T) {
	for _, step := range approval.WriteSteps {
		w := newWorld(t)
		r := w.hold(w.ask("DELETE 1"))
		w.vote(r.ID, ada)
		c, err := w.claim(r, "01intent")
		if err != nil {
			t.Fatal(err)
		}
		w.commit("01intent")
		w.store.SetFault(func(at, _ string) error {
			if at == step {
				return errDisk
			}
			return nil
		})
		if err := c.Done(); !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
		if _, err := w.claim(r, "02intent"); !errors.Is(err, errDisk) {
			t.Fatal("claimed twice, or for another reason not:", err)
		}
		if err := c.Abort(); err == nil {
			t.Fatal("an approval that was used came back")
		}
		w.copy().state(r.ID, approval.StateReleased) // the trail says so
		w.store.SetFault(nil)
		if _, err := w.store.Expire(t.Context(), w.trail); err != nil {
			t.Fatal(err)
		}
		w.state(r.ID, approval.StateReleased)
		w.same()
	}
}

// TestReplaceFaults: a new question stands although the end of the one that it
// replaces could not be written.
func TestReplaceFaults(t *testing.T) {
	for _, step := range approval.WriteSteps {
		w := newWorld(t)
		var failed []error
		w.opts.Failed = func(err error) { failed = append(failed, err) }
		w.restart()
		old := w.hold(w.ask("DELETE 1"))
		w.vote(old.ID, ada)
		w.store.SetFault(func(at, path string) error {
			if at == step && strings.Contains(path, old.ID) {
				return errDisk
			}
			return nil
		})
		other := w.ask("DELETE 1")
		other.FactsSHA256 = digest("others")
		r := w.hold(other)
		if len(failed) != 1 || !errors.Is(failed[0], errDisk) {
			t.Error(failed)
		}
		there := w.copy()
		there.state(old.ID, approval.StateChanged)
		there.state(r.ID, approval.StatePending)
		if _, err := w.claim(old, "01intent"); !errors.Is(err, approval.ErrChanged) {
			t.Error("an approval of other facts was used:", err)
		}
		w.store.SetFault(nil)
		_, err := w.store.Vote(t.Context(), old.ID, by("bob@example.com", "approver"), w.trailVote)
		is(t, err, approval.ErrDecided, old.ID)
		w.state(old.ID, approval.StateChanged)
		w.same()
	}
}

// TestCrash: killed before any step of any write, from the question to the end
// of its release, the approval is used exactly once or not at all.
func TestCrash(t *testing.T) {
	w := newWorld(t)
	type moment struct {
		at   string
		left *world
	}
	var moments []moment
	snap := func(at string) { moments = append(moments, moment{at, w.copy()}) }
	w.store.SetFault(func(step, path string) error {
		snap(step + " " + filepath.Ext(strings.TrimSuffix(path, ".new")))
		return nil
	})
	r := w.hold(w.ask("DELETE 1"))
	snap("held")
	w.vote(r.ID, ada)
	snap("approved")
	c, err := w.claim(r, "01intent")
	if err != nil {
		t.Fatal(err)
	}
	snap("claimed")
	w.commit("01intent")
	snap("committed")
	if err := c.Done(); err != nil {
		t.Fatal(err)
	}
	snap("done")

	states := map[approval.State]int{}
	for i, m := range moments {
		left := m.left
		got, err := left.store.Get(r.ID)
		if errors.Is(err, approval.ErrNotFound) {
			got = approval.Request{State: "none"}
		} else if err != nil {
			t.Fatal(err)
		}
		states[got.State]++
		used := left.intents["01intent"]
		if used != (got.State == approval.StateReleased) {
			t.Errorf("moment %d (%s): the trail has the intent: %t, and the approval is %s", i, m.at, used, got.State)
		}
		_, err = left.claim(r, "02intent")
		if (err == nil) != (got.State == approval.StateApproved) {
			t.Errorf("moment %d (%s): %s, and claimed: %v", i, m.at, got.State, err)
		}
		for _, name := range left.files() {
			if strings.HasSuffix(name, ".new") || (strings.HasSuffix(name, ".body") && !got.State.Open()) {
				t.Errorf("moment %d (%s): %s, and there is %s", i, m.at, got.State, name)
			}
		}
	}
	for _, s := range []approval.State{"none", approval.StatePending, approval.StateApproved, approval.StateReleased} {
		if states[s] == 0 {
			t.Errorf("no moment left it %s: %v", s, states)
		}
	}
}
