package approval_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/approval"
)

// inEveryState makes a request in each state and gives their ids.
func inEveryState(w *world) map[approval.State]string {
	w.t.Helper()
	ids := map[approval.State]string{}
	held := func(s approval.State) approval.Request {
		r := w.hold(w.ask("DELETE " + string(s)))
		ids[s] = r.ID
		return r
	}
	approved := func(s approval.State) approval.Request { return w.vote(held(s).ID, ada) }
	expired := w.ask("DELETE expired")
	expired.Expires = w.clock().Add(1)
	ids[approval.StateExpired] = w.hold(expired).ID
	w.pass(1)
	if _, err := w.store.Expire(w.t.Context(), w.trail); err != nil {
		w.t.Fatal(err)
	}
	held(approval.StatePending)
	approved(approval.StateApproved)
	w.vote(held(approval.StateDenied).ID, deny(ada))
	w.release(approved(approval.StateReleased), "01released")
	if _, err := w.claim(approved(approval.StateReleasing), "01releasing"); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.store.Cancel(w.t.Context(), approved(approval.StateCancelled).ID, "etl-bot", w.trail); err != nil {
		w.t.Fatal(err)
	}
	changed := held(approval.StateChanged)
	changed.FactsSHA256 = digest("others")
	if _, err := w.claim(changed, "01changed"); !errors.Is(err, approval.ErrChanged) {
		w.t.Fatal(err)
	}
	return ids
}

// TestRestart: in every state a request is after a start what it was before,
// except that a release that was cut short is settled by the trail.
func TestRestart(t *testing.T) {
	for _, used := range []bool{false, true} {
		w := newWorld(t)
		ids := inEveryState(w)
		before := map[approval.State]approval.Request{}
		for s, id := range ids {
			before[s] = w.state(id, s)
		}
		if used {
			w.commit("01releasing")
		}
		w.restart()
		for s, id := range ids {
			if s != approval.StateReleasing {
				if d := cmp.Diff(before[s], w.state(id, s)); d != "" {
					t.Errorf("%s:\n%s", s, d)
				}
				continue
			}
			if !used {
				got := w.state(id, approval.StateApproved)
				if got.IntentEntry != "" {
					t.Errorf("%+v", got)
				}
				w.release(got, "02releasing")
				continue
			}
			if got := w.state(id, approval.StateReleased); got.IntentEntry != "01releasing" || got.Released.IsZero() {
				t.Errorf("%+v", got)
			}
		}
		w.same()
	}
}

// TestTrailAway: where the trail cannot be asked, a release is not guessed at.
func TestTrailAway(t *testing.T) {
	w := newWorld(t)
	ids := inEveryState(w)
	o := w.opts
	o.Consumed = func(context.Context, string) (bool, error) { return false, errTrail }
	if _, err := approval.Open(t.Context(), w.dir, o); !errors.Is(err, errTrail) || !strings.Contains(err.Error(), ids[approval.StateReleasing]) {
		t.Error(err)
	}
	o.Consumed = nil
	if _, err := approval.Open(t.Context(), w.dir, o); !errors.Is(err, approval.ErrInvalid) {
		t.Error(err)
	}
}

// TestDamaged: a file that this program would not have written stops the start,
// with its name, and stays as it is.
func TestDamaged(t *testing.T) {
	swap := func(old, new string) func([]byte) []byte {
		return func(raw []byte) []byte {
			if !bytes.Contains(raw, []byte(old)) {
				t.Errorf("there is no %s in\n%s", old, raw)
			}
			return bytes.Replace(raw, []byte(old), []byte(new), 1)
		}
	}
	for name, tt := range map[string]struct {
		state  approval.State
		damage func([]byte) []byte
	}{
		"empty":             {approval.StatePending, func([]byte) []byte { return nil }},
		"cut":               {approval.StatePending, func(raw []byte) []byte { return raw[:len(raw)/2] }},
		"trailing":          {approval.StatePending, func(raw []byte) []byte { return append(raw, "{}"...) }},
		"too large":         {approval.StatePending, func(raw []byte) []byte { return append(raw, bytes.Repeat([]byte(" "), 1<<20)...) }},
		"no version":        {approval.StatePending, swap(`"version": 1,`, ``)},
		"next version":      {approval.StatePending, swap(`"version": 1,`, `"version": 2,`)},
		"unknown member":    {approval.StatePending, swap(`"state"`, `"more": 1, "state"`)},
		"repeated member":   {approval.StatePending, swap(`"state"`, `"state": "pending", "state"`)},
		"other letters":     {approval.StatePending, swap(`"state"`, `"State"`)},
		"bad text":          {approval.StatePending, swap(`prod`, "\xff")},
		"unknown state":     {approval.StatePending, swap(`"state": "pending"`, `"state": "fine"`)},
		"another id":        {approval.StatePending, swap(`"id": "apr_0`, `"id": "apr_1`)},
		"approved by hand":  {approval.StatePending, swap(`"state": "pending"`, `"state": "approved"`)},
		"fewer needed":      {approval.StateApproved, swap(`"need": 1`, `"need": 0`)},
		"more needed":       {approval.StateApproved, swap(`"need": 1`, `"need": 2`)},
		"another was asked": {approval.StateApproved, swap(`role:approver`, `role:admin`)},
		"own approval":      {approval.StateApproved, swap(`grace@example.com`, `ada@example.com`)},
		"an agent's vote":   {approval.StateApproved, swap(`"via": "login"`, `"via": "agent"`)},
		"void vote":         {approval.StateApproved, swap(`"verdict"`, `"void": true, "verdict"`)},
		"denial taken back": {approval.StateDenied, swap(`"state": "denied"`, `"state": "pending"`)},
		"used once more":    {approval.StateReleased, swap(`"state": "released"`, `"state": "approved"`)},
		"no intent":         {approval.StateReleasing, swap(`"intent_entry": "01releasing",`, ``)},
		"expired revived":   {approval.StateExpired, swap(`"state": "expired"`, `"state": "pending"`)},
		"digest":            {approval.StatePending, swap(`"call_sha256": "`, `"call_sha256": "x`)},
		"deadline":          {approval.StatePending, swap(`"expires": "2026`, `"expires": "2999`)},
		"number":            {approval.StatePending, swap(`"number": `, `"number": 0, "x": `)},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.opts.NewID = ids()
			w.restart()
			path := filepath.Join(w.dir, inEveryState(w)[tt.state]+".json")
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			bad := tt.damage(bytes.Clone(raw))
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			before := w.files()
			_, err = approval.Open(t.Context(), w.dir, w.opts)
			if !errors.Is(err, approval.ErrDamaged) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move it away") {
				t.Error(err)
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, bad) || !cmp.Equal(before, w.files()) {
				t.Error("the start changed what it could not read")
			}
		})
	}
}

// TestMovedAway: following the message helps, and only that approval is gone.
func TestMovedAway(t *testing.T) {
	w := newWorld(t)
	a, b := w.hold(w.ask("DELETE 1")), w.hold(w.ask("DELETE 2"))
	path := filepath.Join(w.dir, a.ID)
	if err := os.Truncate(path+".body", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := approval.Open(t.Context(), w.dir, w.opts); err == nil || !strings.Contains(err.Error(), path) {
		t.Fatal(err)
	}
	for _, ext := range []string{".json", ".body"} {
		if err := os.Rename(path+ext, path+ext+".bad"); err != nil {
			t.Fatal(err)
		}
	}
	w.restart()
	if got := idsOf(w.store.List(approval.Filter{})); len(got) != 1 || got[0] != b.ID {
		t.Error(got)
	}
	if n := len(w.files()); n != 4 {
		t.Errorf("what was moved away is gone: %v", w.files())
	}
}

// TestDirectory: what is no request is not read as one, and what is no
// directory is not written to.
func TestDirectory(t *testing.T) {
	w := newWorld(t)
	r := w.hold(w.ask("DELETE 1"))
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.WriteFile(elsewhere, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(w.dir, r.ID+".json.new")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "README"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.vote(r.ID, ada)
	w.restart()
	w.state(r.ID, approval.StateApproved)
	if raw, err := os.ReadFile(elsewhere); err != nil || string(raw) != "mine" {
		t.Errorf("the store wrote through a link: %q %v", raw, err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "notes.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := approval.Open(t.Context(), w.dir, w.opts); err == nil || !strings.Contains(err.Error(), "notes.json") {
		t.Error(err)
	}
	for _, dir := range []string{elsewhere, filepath.Join(w.dir, "no", "such")} {
		if _, err := approval.Open(t.Context(), dir, w.opts); err == nil {
			t.Errorf("%s was opened", dir)
		}
	}
	twice, err := os.ReadFile(filepath.Join(w.dir, r.ID+".json"))
	if err != nil {
		t.Fatal(err)
	}
	other := "apr_01234567890123456789012345"
	twice = bytes.ReplaceAll(twice, []byte(r.ID), []byte(other))
	for name, data := range map[string][]byte{other + ".json": twice, other + ".body": []byte("DELETE 1")} {
		if err := os.WriteFile(filepath.Join(w.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(w.dir, "notes.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := approval.Open(t.Context(), w.dir, w.opts); !errors.Is(err, approval.ErrDamaged) {
		t.Error("a copy of an approval is another approval:", err)
	}
}

// FuzzLoad: no file makes the loader fall over, and what it takes is consistent
// and comes out as it went in.
func FuzzLoad(f *testing.F) {
	w := newWorld(f)
	for _, id := range inEveryState(w) {
		raw, err := os.ReadFile(filepath.Join(w.dir, id+".json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add(raw[:len(raw)/2])
	}
	f.Add([]byte(`{"version":1,"number":1,"request":{}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, r, err := approval.Decode(raw)
		if err != nil {
			if !errors.Is(err, approval.ErrDamaged) {
				t.Error(err)
			}
			return
		}
		again, err := approval.Encode(n, r)
		if err != nil {
			t.Fatal(err)
		}
		m, r2, err := approval.Decode(again)
		if err != nil || m != n {
			t.Fatalf("%v\n%s\n%s", err, raw, again)
		}
		if third, err := approval.Encode(m, r2); err != nil || !bytes.Equal(again, third) {
			t.Fatalf("%v\n%s\n%s", err, again, third)
		}
		switch r.State {
		case approval.StateApproved, approval.StateReleasing, approval.StateReleased:
			humans := map[string]bool{}
			for _, v := range r.Votes {
				if v.Verdict == approval.Approve && !v.Void && r.May(v) == nil {
					humans[strings.ToLower(v.Human)] = true
				}
			}
			if len(humans) < r.Need {
				t.Fatalf("%s, and %d of %d approved", r.State, len(humans), r.Need)
			}
		}
	})
}
