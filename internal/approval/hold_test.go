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
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/approval"
)

// TestJoin: asking again joins the same question, pending or approved, also of
// many at once; the trail is told once.
func TestJoin(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	for range 32 {
		wg.Go(func() {
			r, isNew, err := w.store.Hold(t.Context(), w.ask("DELETE 1"), w.trail)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			seen[r.ID]++
			if isNew {
				seen["new"]++
			}
		})
	}
	wg.Wait()
	if len(seen) != 2 || seen["new"] != 1 || len(w.told) != 1 {
		t.Fatalf("%v, and the trail has %d", seen, len(w.told))
	}
	first := w.told[0]
	w.vote(first.ID, ada)
	w.restart()
	again := w.ask("DELETE 1")
	again.Principal.TokenID, again.Session, again.HeldEntry = "tok_2", "another", "02held"
	r, isNew, err := w.store.Hold(t.Context(), again, w.trail)
	if err != nil || isNew || r.ID != first.ID || r.State != approval.StateApproved || r.HeldEntry != first.HeldEntry {
		t.Errorf("new %t, %v: %+v", isNew, err, r)
	}
	w.same()
}

// TestJoinRace: two who ask about the same call at the very same moment ask one
// question.
func TestJoinRace(t *testing.T) {
	w := newWorld(t)
	for i := range 300 {
		ask := w.ask(fmt.Sprint("DELETE ", i))
		ask.Principal.Agent, ask.Call.Body = fmt.Sprint("bot", i), nil
		go_, ids := make(chan struct{}), make(chan string, 4)
		for range cap(ids) {
			go func() {
				<-go_
				r, _, err := w.store.Hold(t.Context(), ask, w.trail)
				if err != nil {
					t.Error(err)
				}
				ids <- r.ID
			}()
		}
		close(go_)
		first := <-ids
		for range cap(ids) - 1 {
			if id := <-ids; id != first {
				t.Fatalf("%s and %s ask the same", first, id)
			}
		}
	}
	w.same()
}

// TestBoundTo: an approval is of one call by one principal on one connection,
// and no use to any other.
func TestBoundTo(t *testing.T) {
	for name, change := range map[string]func(*approval.Request){
		"another body":       func(r *approval.Request) { r.CallSHA256 = digest("DELETE 2") },
		"another agent":      func(r *approval.Request) { r.Principal.Agent = "other-bot" },
		"another connection": func(r *approval.Request) { r.Connection = "staging" },
		// Ada approved grace's; the same agent in ada's name is ada's own question.
		"on behalf of the approver": func(r *approval.Request) { r.Principal.Human = "ada@example.com" },
		"another issuer":            func(r *approval.Request) { r.Principal.Issuer = "https://other.example" },
		"another subject":           func(r *approval.Request) { r.Principal.Subject = "svc-2" },
		"others between":            func(r *approval.Request) { r.Principal.Actors = []string{"planner"} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			first := w.hold(w.ask("DELETE 1"))
			w.vote(first.ID, ada)
			other := w.ask("DELETE 1")
			change(&other)
			_, err := w.claim(other, "01intent")
			is(t, err, approval.ErrNone, "")
			if r := w.hold(other); r.ID == first.ID || r.Replaces != "" {
				t.Fatal("it joined the other question")
			}
			w.state(first.ID, approval.StateApproved)
			w.release(first, "02intent")
			w.same()
		})
	}
	w := newWorld(t)
	first := w.hold(w.ask("DELETE 1"))
	own := w.ask("DELETE 1")
	own.Principal.Human = " GRACE@example.com"
	if r, isNew, err := w.store.Hold(t.Context(), own, w.trail); err != nil || isNew || r.ID != first.ID {
		t.Errorf("the same human in other letters is another: %v %+v", err, r)
	}
}

// TestOtherFacts: what the dry run says has changed, so the question has.
func TestOtherFacts(t *testing.T) {
	for _, approved := range []bool{false, true} {
		for _, by := range []string{"hold", "claim"} {
			w := newWorld(t)
			first := w.hold(w.ask("DELETE 1"))
			if approved {
				w.vote(first.ID, ada)
			}
			other := w.ask("DELETE 1")
			other.FactsSHA256 = digest("more rows")
			if by == "claim" {
				_, err := w.claim(other, "01intent")
				is(t, err, approval.ErrChanged, first.ID)
				w.state(first.ID, approval.StateChanged)
			}
			second := w.hold(other)
			if second.Replaces != first.ID || second.State != approval.StatePending {
				t.Errorf("%+v", second)
			}
			w.state(first.ID, approval.StateChanged)
			_, err := w.claim(first, "01intent") // the facts of before
			is(t, err, approval.ErrChanged, second.ID)
			w.same()
		}
	}
}

// TestJobs: one job id is one open question, and leads to it.
func TestJobs(t *testing.T) {
	w := newWorld(t)
	ask := w.ask("DELETE 1")
	ask.JobProject, ask.JobID = "acme", "job_1"
	first := w.hold(ask)
	other := w.ask("DELETE 2")
	other.JobProject, other.JobID = "acme", "job_1"
	_, _, err := w.store.Hold(t.Context(), other, w.trail)
	is(t, err, approval.ErrJobTaken, first.ID)
	foreign := ask
	foreign.Principal.Agent = "other-bot"
	var no *approval.Refusal
	if _, _, err = w.store.Hold(t.Context(), foreign, w.trail); !errors.Is(err, approval.ErrJobTaken) || errors.As(err, &no) {
		t.Errorf("another agent learns whose job it is: %v", err)
	}
	if r, ok := w.store.ByJob("etl-bot", "acme", "job_1"); !ok || r.ID != first.ID {
		t.Error(ok, r)
	}
	for _, c := range [][3]string{{"other-bot", "acme", "job_1"}, {"etl-bot", "acme", "job_2"}, {"etl-bot", "other", "job_1"}, {"etl-bot", "", ""}} {
		if r, ok := w.store.ByJob(c[0], c[1], c[2]); ok {
			t.Errorf("%v leads to %+v", c, r)
		}
	}
	ask.FactsSHA256 = digest("others") // the same job, asked anew
	second := w.hold(ask)
	w.vote(second.ID, deny(ada))
	w.restart()
	if r, ok := w.store.ByJob("etl-bot", "acme", "job_1"); !ok || r.ID != second.ID || r.State != approval.StateDenied {
		t.Error(ok, r)
	}
	w.hold(other)
	w.same()
}

// TestInvalid: what could not be kept is refused, and the trail is not told.
func TestInvalid(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*approval.Request){
		"no agent":             func(r *approval.Request) { r.Principal.Agent = "" },
		"no connection":        func(r *approval.Request) { r.Connection = "" },
		"no held entry":        func(r *approval.Request) { r.HeldEntry = "" },
		"no call digest":       func(r *approval.Request) { r.CallSHA256 = "" },
		"upper-case digest":    func(r *approval.Request) { r.FactsSHA256 = strings.ToUpper(r.FactsSHA256) },
		"statement digest":     func(r *approval.Request) { r.StatementSHA256 = "x" },
		"nobody needed":        func(r *approval.Request) { r.Need = 0 },
		"too many needed":      func(r *approval.Request) { r.Need = 1000 },
		"nobody asked":         func(r *approval.Request) { r.From = nil },
		"nobody in particular": func(r *approval.Request) { r.From = []string{"role: "} },
		"what kind of asked":   func(r *approval.Request) { r.From = []string{"ada@example.com"} },
		"half a job":           func(r *approval.Request) { r.JobID = "job_1" },
		"already over":         func(r *approval.Request) { r.Expires = w.clock() },
		"too long":             func(r *approval.Request) { r.Expires = w.clock().Add(approval.MaxSpan + 1) },
		"no deadline":          func(r *approval.Request) { r.Expires = time.Time{} },
		"body":                 func(r *approval.Request) { r.Call.Body = make([]byte, approval.MaxBodyBytes+1) },
		"bad text":             func(r *approval.Request) { r.Rule = "\xff" },
		"tables":               func(r *approval.Request) { r.Tables.Read = slices.Repeat([]string{strings.Repeat("x", 1000)}, 1000) },
		"actors":               func(r *approval.Request) { r.Principal.Actors = make([]string, 1000) },
	} {
		r := w.ask("DELETE 1")
		change(&r)
		if _, _, err := w.store.Hold(t.Context(), r, w.trail); !errors.Is(err, approval.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(w.told) != 0 || len(w.files()) != 0 {
		t.Errorf("the trail has %v, the disk %v", w.told, w.files())
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := w.store.Hold(ended, w.ask("DELETE 1"), w.trail); !errors.Is(err, context.Canceled) || len(w.told) != 0 {
		t.Error(err, w.told)
	}
}

// TestKept: what a caller says of states and votes counts for nothing, long
// statements are cut between characters, and what is handed out is a copy.
func TestKept(t *testing.T) {
	w := newWorld(t)
	ask := w.ask("DELETE 1")
	ask.Statement = strings.Repeat("é", approval.MaxStatementBytes) + "\xff"
	ask.State, ask.Votes, ask.IntentEntry, ask.ReleaseBy = approval.StateApproved, []approval.Vote{ada}, "01intent", w.clock().Add(time.Hour)
	r := w.hold(ask)
	if r.State != approval.StatePending || r.Votes != nil || r.IntentEntry != "" || !r.ReleaseBy.IsZero() {
		t.Errorf("%+v", r)
	}
	if !r.StatementCut || len(r.Statement) > approval.MaxStatementBytes || len(r.Statement) < approval.MaxStatementBytes-4 || !utf8.ValidString(r.Statement) {
		t.Errorf("%d bytes of statement", len(r.Statement))
	}
	if r.Call.Body != nil || r.Call.BodyBytes != int64(len("DELETE 1")) || r.Call.BodySHA256 != digest("DELETE 1") {
		t.Errorf("%+v", r.Call)
	}
	r.From[0], r.Tables.Written[0], r.Call.Header["Content-Type"] = "role:nobody", "x", "x"
	if got := w.state(r.ID, approval.StatePending); got.From[0] != "role:approver" || got.Tables.Written[0] == "x" || got.Call.Header["Content-Type"] == "x" {
		t.Errorf("a caller changed %+v", got)
	}
	info, err := os.Stat(filepath.Join(w.dir, r.ID+".json"))
	if err != nil || info.Mode() != 0o600 {
		t.Error(info.Mode(), err)
	}
	w.same()
}

// TestFull: open requests are bounded, for each agent and for all.
func TestFull(t *testing.T) {
	w := newWorld(t)
	w.opts.MaxPending = approval.MaxPerAgent + 2
	w.restart()
	call := func(i int) string { return "DELETE " + string(rune('a'+i/26)) + string(rune('a'+i%26)) }
	var first approval.Request
	for i := range approval.MaxPerAgent {
		if r := w.hold(w.ask(call(i))); i == 0 {
			first = r
		}
	}
	if _, _, err := w.store.Hold(t.Context(), w.ask("one more"), w.trail); !errors.Is(err, approval.ErrFull) {
		t.Fatal(err)
	}
	for i := range 3 {
		r := w.ask(call(i))
		r.Principal.Agent = "other-bot"
		if _, _, err := w.store.Hold(t.Context(), r, w.trail); (err != nil) != (i == 2) || err != nil && !errors.Is(err, approval.ErrFull) {
			t.Fatal(i, err)
		}
	}
	w.vote(first.ID, deny(ada))
	w.restart()
	w.hold(w.ask("one more"))
	if _, _, err := w.store.Hold(t.Context(), w.ask("and one"), w.trail); !errors.Is(err, approval.ErrFull) {
		t.Error(err)
	}
}

// TestFullOfBytes: so are their bytes, on the disk and in memory.
func TestFullOfBytes(t *testing.T) {
	w := newWorld(t)
	w.store.SetLimits(0, 0, 0, 0, 20)
	r := w.hold(w.ask("DELETE 1 "))
	w.hold(w.ask("DELETE 22"))
	if _, _, err := w.store.Hold(t.Context(), w.ask("DELETE 3"), w.trail); !errors.Is(err, approval.ErrFull) {
		t.Error(err)
	}
	w.vote(r.ID, deny(ada))
	r = w.hold(w.ask("DELETE 3"))
	w.store.SetLimits(0, 0, 0, 6500, 1000)
	if _, _, err := w.store.Hold(t.Context(), w.ask("DELETE 4"), w.trail); !errors.Is(err, approval.ErrFull) {
		t.Error(err)
	}
	w.vote(r.ID, deny(ada))
	w.hold(w.ask("DELETE 4"))
	w.same()
}

// TestCancel: an agent withdraws its own requests, and no other's; all go with it.
func TestCancel(t *testing.T) {
	w := newWorld(t)
	a, b := w.hold(w.ask("DELETE 1")), w.hold(w.ask("DELETE 2"))
	done := w.hold(w.ask("DELETE 3"))
	w.vote(done.ID, deny(ada))
	other := w.ask("DELETE 1")
	other.Principal.Agent = "other-bot"
	other = w.hold(other)
	for _, id := range []string{other.ID, "apr_nothing", ""} {
		if _, err := w.store.Cancel(t.Context(), id, "etl-bot", w.trail); !errors.Is(err, approval.ErrNotFound) {
			t.Error(id, err)
		}
	}
	w.vote(b.ID, ada)
	n, err := w.store.CancelAgent(t.Context(), "etl-bot", w.trail)
	if n != 2 || err != nil {
		t.Fatal(n, err)
	}
	_, err = w.store.Cancel(t.Context(), a.ID, "etl-bot", w.trail)
	is(t, err, approval.ErrDecided, a.ID)
	_, err = w.claim(b, "01intent")
	is(t, err, approval.ErrNone, b.ID)
	w.state(a.ID, approval.StateCancelled)
	w.state(other.ID, approval.StatePending)
	w.same()
}

// TestCancelDuringRelease: an agent that is suspended while its call is being
// released has used the approval, or has lost it; Abort does not give it back.
func TestCancelDuringRelease(t *testing.T) {
	for _, abort := range []bool{true, false} {
		w := newWorld(t)
		r := w.hold(w.ask("DELETE 1"))
		w.vote(r.ID, ada)
		c, err := w.claim(r, "01intent")
		if err != nil {
			t.Fatal(err)
		}
		type result struct {
			n   int
			err error
		}
		done := make(chan result)
		go func() {
			n, err := w.store.CancelAgent(t.Context(), "etl-bot", w.trail)
			done <- result{n, err}
		}()
		if abort {
			if err := c.Abort(); err != nil {
				t.Fatal(err)
			}
			if got := <-done; got.n != 1 || got.err != nil {
				t.Error(got)
			}
			w.state(r.ID, approval.StateCancelled)
			continue
		}
		if err := c.Done(); err != nil {
			t.Fatal(err)
		}
		if got := <-done; got.n != 0 || got.err != nil {
			t.Error(got)
		}
		w.state(r.ID, approval.StateReleased)
	}
}

// TestList: the newest first, filtered and bounded.
func TestList(t *testing.T) {
	w := newWorld(t)
	w.opts.NewID = ids()
	w.restart()
	var all []string
	for i, call := range []string{"a", "b", "c", "d"} {
		r := w.ask(call)
		if i%2 == 1 {
			r.Principal.Agent, r.Principal.Human = "other-bot", "Hal@example.com"
		}
		w.pass(-time.Minute) // the order is not the clock's
		all = append(all, w.hold(r).ID)
	}
	w.vote(all[0], ada)
	w.vote(all[1], deny(ada))
	w.restart()
	a, b, c, d := all[0], all[1], all[2], all[3]
	for name, tt := range map[string]struct {
		f    approval.Filter
		want []string
	}{
		"all":      {approval.Filter{}, []string{d, c, b, a}},
		"limit":    {approval.Filter{Limit: 2}, []string{d, c}},
		"open":     {approval.Filter{Open: true}, []string{d, c, a}},
		"state":    {approval.Filter{State: approval.StateDenied}, []string{b}},
		"agent":    {approval.Filter{Agent: "etl-bot"}, []string{c, a}},
		"human":    {approval.Filter{Human: "hal@EXAMPLE.com"}, []string{d, b}},
		"together": {approval.Filter{Human: "hal@example.com", Open: true, Limit: 5}, []string{d}},
		"none":     {approval.Filter{Agent: "nobody"}, nil},
	} {
		var got []string
		for _, r := range w.store.List(tt.f) {
			got = append(got, r.ID)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
	want := map[approval.State]int{approval.StatePending: 2, approval.StateApproved: 1, approval.StateDenied: 1}
	if d := cmp.Diff(want, w.store.Counts()); d != "" {
		t.Error(d)
	}
	if _, err := w.store.Get("apr_nothing"); !errors.Is(err, approval.ErrNotFound) {
		t.Error(err)
	}
}

// TestFind: an open request is found by its call, with the body as it was held.
func TestFind(t *testing.T) {
	w := newWorld(t)
	ask := w.ask("DELETE 1")
	if r, ok := w.store.Find(approval.KeyOf(&ask)); ok {
		t.Errorf("%+v", r)
	}
	r := w.hold(ask)
	if got, ok := w.store.Find(approval.KeyOf(&ask)); !ok || got.ID != r.ID || got.Call.Body != nil {
		t.Errorf("%t %+v", ok, got)
	}
	if body, err := w.store.Body(r.ID); err != nil || string(body) != "DELETE 1" {
		t.Errorf("%q %v", body, err)
	}
	w.pass(time.Hour)
	if r, ok := w.store.Find(approval.KeyOf(&ask)); ok {
		t.Errorf("one that expired is open: %+v", r)
	}
	w.vote(w.hold(w.ask("DELETE 1")).ID, deny(ada))
	if r, ok := w.store.Find(approval.KeyOf(&ask)); ok {
		t.Errorf("one that was denied is open: %+v", r)
	}
	if _, err := w.store.Body("apr_nothing"); !errors.Is(err, approval.ErrNotFound) {
		t.Error(err)
	}
}
