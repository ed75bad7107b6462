package approval_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/approval"
)

// TestWhoMayVote: each way in which somebody is, or is not, one who was asked.
func TestWhoMayVote(t *testing.T) {
	from := func(f ...string) []string { return f }
	via := func(v approval.Vote, door string) approval.Vote { v.Via = door; return v }
	grace := trailgate.Principal{Agent: "etl-bot", Issuer: "https://idp.example", Subject: "svc-1", Human: "grace@example.com", HumanBy: trailgate.HumanByIssuer}
	chain := grace
	chain.Actors = []string{"https://idp.example|Ada@Example.com", "planner"}
	subject := grace
	subject.Human, subject.Subject = "", "ada@example.com"
	vouched := grace
	vouched.HumanBy = "ada@example.com"
	for name, tt := range map[string]struct {
		p    trailgate.Principal
		from []string
		vote approval.Vote
		want error
	}{
		"a role that was asked":                    {grace, from("role:approver"), ada, nil},
		"a human who was asked":                    {grace, from("human:ada@example.com"), by("ada@example.com"), nil},
		"a human who was asked, in other letters":  {grace, from("human:Ada@Example.COM"), by(" ADA@example.com "), nil},
		"one of several":                           {grace, from("human:bob@example.com", "role:approver"), ada, nil},
		"another human":                            {grace, from("human:ada@example.com"), by("bob@example.com", "approver", "admin"), approval.ErrNotAsked},
		"no role":                                  {grace, from("role:approver"), by("ada@example.com"), approval.ErrNotAsked},
		"another role":                             {grace, from("role:approver"), by("ada@example.com", "auditor"), approval.ErrNotAsked},
		"an admin is no approver":                  {grace, from("role:approver"), by("ada@example.com", "admin"), approval.ErrNotAsked},
		"an admin where admins are asked":          {grace, from("role:admin"), by("ada@example.com", "admin"), nil},
		"an approver is no admin":                  {grace, from("role:admin"), ada, approval.ErrNotAsked},
		"a role that cannot approve":               {grace, from("role:auditor"), by("ada@example.com", "auditor"), approval.ErrNotAsked},
		"a human called like a role":               {grace, from("human:ada@example.com"), by("role:approver", "approver"), approval.ErrNotAsked},
		"the machine's user as approver":           {grace, from("role:approver"), via(by("local:uid=1000", "admin"), "cli"), nil},
		"the machine's user as admin":              {grace, from("role:admin"), via(by("uid:1000", "admin"), "cli"), nil},
		"the admin token":                          {grace, from("role:approver"), via(by("admin-token", "admin"), "api"), nil},
		"the admin token is no human of that name": {grace, from("human:admin-token"), via(by("admin-token", "admin"), "api"), approval.ErrNotAsked},
		"the machine's user is not a human":        {grace, from("human:ada@example.com"), via(by("local", "admin"), "cli"), approval.ErrNotAsked},
		"one who calls themselves local, no admin": {grace, from("role:approver"), by("local:x", "approver"), approval.ErrNotAsked},
		"nobody":                                      {grace, from("role:approver"), by("  ", "approver"), approval.ErrDoor},
		"an agent's token":                            {grace, from("role:approver"), via(ada, "agent"), approval.ErrDoor},
		"no door":                                     {grace, from("role:approver"), via(ada, ""), approval.ErrDoor},
		"a door of the wrong case":                    {grace, from("role:approver"), via(ada, "Login"), approval.ErrDoor},
		"on whose behalf it was asked":                {grace, from("role:approver"), by("grace@example.com", "approver"), approval.ErrOwn},
		"on whose behalf, in other letters":           {grace, from("human:grace@example.com"), by("\tGrace@EXAMPLE.com"), approval.ErrOwn},
		"who stands between":                          {chain, from("role:approver"), ada, approval.ErrOwn},
		"who stands between, without issuer":          {chain, from("role:approver"), by("planner", "approver"), approval.ErrOwn},
		"the subject":                                 {subject, from("role:approver"), ada, approval.ErrOwn},
		"who vouched":                                 {vouched, from("role:approver"), ada, approval.ErrOwn},
		"the agent by its own name":                   {grace, from("role:approver"), by("ETL-bot", "approver"), approval.ErrOwn},
		"a denial on one's own behalf is harmless":    {grace, from("role:approver"), deny(by("grace@example.com", "approver")), nil},
		"a denial by one who was not asked":           {grace, from("role:approver"), deny(by("bob@example.com")), approval.ErrNotAsked},
		"a denial by an agent":                        {grace, from("role:approver"), via(deny(ada), "agent"), approval.ErrDoor},
		"no verdict":                                  {grace, from("role:approver"), approval.Vote{Human: "ada@example.com", Roles: []string{"approver"}, Via: "login"}, approval.ErrInvalid},
		"a reason that is too long":                   {grace, from("role:approver"), approval.Vote{Human: "ada@example.com", Roles: []string{"approver"}, Via: "login", Verdict: approval.Approve, Reason: strings.Repeat("x", approval.MaxReasonBytes+1)}, approval.ErrInvalid},
		"a reason that is no text":                    {grace, from("role:approver"), approval.Vote{Human: "ada@example.com", Roles: []string{"approver"}, Via: "login", Verdict: approval.Approve, Reason: "\xff"}, approval.ErrInvalid},
		"a void vote is one like all others, and new": {grace, from("role:approver"), approval.Vote{Human: "ada@example.com", Roles: []string{"approver"}, Via: "login", Verdict: approval.Approve, Void: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.ask("DELETE 1")
			r.Principal, r.From = tt.p, tt.from
			r = w.hold(r)
			got, err := w.store.Vote(t.Context(), r.ID, tt.vote, w.trailVote)
			if tt.want != nil {
				is(t, err, tt.want, r.ID)
				w.state(r.ID, approval.StatePending)
				if len(w.told) != 1 {
					t.Errorf("a vote that was not taken is in the trail: %+v", w.told[1:])
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := approval.StateApproved
			if tt.vote.Verdict == approval.Deny {
				want = approval.StateDenied
			}
			if got.State != want || len(w.told) != 2 || w.told[1].State != want {
				t.Errorf("it is %s, and the trail has %+v", got.State, w.told)
			}
			w.same()
		})
	}
}

// TestSeveral: N of M counts different humans.
func TestSeveral(t *testing.T) {
	w := newWorld(t)
	ask := w.ask("DELETE 1")
	ask.Need = 3
	r := w.hold(ask)
	bob, eve := by("bob@example.com", "approver"), by("eve@example.com", "approver")
	socket, token := by("local:uid=1000", "admin"), by("admin-token", "admin")
	socket.Via, token.Via = "cli", "api"
	for i, v := range []approval.Vote{ada, ada, by(" ADA@Example.com", "approver"), socket, token} {
		if got := w.vote(r.ID, v); got.State != approval.StatePending {
			t.Fatalf("vote %d of two humans made it %s", i, got.State)
		}
	}
	if got := w.state(r.ID, approval.StatePending); len(got.Votes) != 2 || len(w.told) != 3 {
		t.Errorf("two humans' votes are %+v, and the trail has %d entries", got.Votes, len(w.told))
	}
	_, err := w.claim(r, "01intent")
	is(t, err, approval.ErrPending, r.ID)
	w.restart()
	if got := w.vote(r.ID, bob); got.State != approval.StateApproved {
		t.Fatalf("three humans made it %s", got.State)
	}
	_, err = w.store.Vote(t.Context(), r.ID, eve, w.trailVote)
	is(t, err, approval.ErrDecided, r.ID)
	if !strings.Contains(err.Error(), "approved") {
		t.Errorf("%q does not say what state it is in", err)
	}
	w.same()
}

// TestDenial: one denial decides, also of who approved before, and for good.
func TestDenial(t *testing.T) {
	w := newWorld(t)
	ask := w.ask("DELETE 1")
	ask.Need = 2
	r := w.hold(ask)
	w.vote(r.ID, ada)
	if got := w.vote(r.ID, deny(ada)); got.State != approval.StateDenied || len(got.Votes) != 1 || got.Denial() == nil {
		t.Fatalf("%+v", got)
	}
	_, err := w.store.Vote(t.Context(), r.ID, ada, w.trailVote)
	is(t, err, approval.ErrDecided, r.ID)

	// It stands for the window, over a restart too, for any facts, by both ways.
	w.restart()
	w.pass(approval.DefaultWindow - time.Second)
	ask = w.ask("DELETE 1")
	ask.FactsSHA256 = digest("others")
	_, err = w.claim(ask, "01intent")
	is(t, err, approval.ErrDenied, r.ID)
	if !strings.Contains(err.Error(), "not on a Monday") || !strings.Contains(err.Error(), "ada@example.com") {
		t.Errorf("%q does not say who denied, and why", err)
	}
	_, _, err = w.store.Hold(t.Context(), ask, w.trail)
	is(t, err, approval.ErrDenied, r.ID)

	w.pass(time.Second)
	_, err = w.claim(ask, "01intent")
	is(t, err, approval.ErrNone, r.ID)
	if again := w.hold(ask); again.ID == r.ID || again.Replaces != "" {
		t.Errorf("%+v", again)
	}
	w.state(r.ID, approval.StateDenied)
	w.same()
}

// TestVotesTooLate: a vote on what is not pending says what it is.
func TestVotesTooLate(t *testing.T) {
	for want, end := range map[approval.State]func(*world, approval.Request){
		approval.StateExpired: func(w *world, _ approval.Request) { w.pass(time.Hour) }, // nobody ran Expire yet
		approval.StateCancelled: func(w *world, r approval.Request) {
			if _, err := w.store.Cancel(w.t.Context(), r.ID, "etl-bot", w.trail); err != nil {
				w.t.Fatal(err)
			}
		},
		approval.StateDenied:   func(w *world, r approval.Request) { w.vote(r.ID, deny(ada)) },
		approval.StateReleased: func(w *world, r approval.Request) { w.vote(r.ID, ada); w.release(r, "01intent") },
		approval.StateReleasing: func(w *world, r approval.Request) {
			w.vote(r.ID, ada)
			if _, err := w.claim(r, "01intent"); err != nil {
				w.t.Fatal(err)
			}
		},
		approval.StateChanged: func(w *world, r approval.Request) {
			r.FactsSHA256 = digest("others")
			if _, err := w.claim(r, "01intent"); !errors.Is(err, approval.ErrChanged) {
				w.t.Fatal(err)
			}
		},
	} {
		t.Run(string(want), func(t *testing.T) {
			w := newWorld(t)
			r := w.hold(w.ask("DELETE 1"))
			end(w, r)
			for _, v := range []approval.Vote{by("bob@example.com", "approver"), deny(by("bob@example.com", "approver"))} {
				_, err := w.store.Vote(t.Context(), r.ID, v, w.trailVote)
				is(t, err, approval.ErrDecided, r.ID)
				if !strings.Contains(err.Error(), "is "+string(want)) {
					t.Errorf("%q does not say that it is %s", err, want)
				}
			}
			w.state(r.ID, want)
		})
	}
}

// TestTwoAtOnce: of many who decide at the same moment one does, where one is
// needed, and as many as are needed otherwise.
func TestTwoAtOnce(t *testing.T) {
	for _, need := range []int{1, 2} {
		w := newWorld(t)
		ask := w.ask("DELETE 1")
		ask.Need = need
		r := w.hold(ask)
		var wg sync.WaitGroup
		var mu sync.Mutex
		taken := 0
		for _, name := range []string{"ada", "bob", "cleo", "dan", "eve", "finn"} {
			wg.Go(func() {
				_, err := w.store.Vote(t.Context(), r.ID, by(name+"@example.com", "approver"), w.trailVote)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					taken++
				case !errors.Is(err, approval.ErrDecided):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := w.state(r.ID, approval.StateApproved); taken != need || len(got.Votes) != need || len(w.told) != need+1 {
			t.Errorf("need %d: %d votes were taken: %+v", need, taken, got.Votes)
		}
		w.same()
	}
}

// TestTrailFails: where the trail does not take it, nothing happened.
func TestTrailFails(t *testing.T) {
	w := newWorld(t)
	no := func(approval.Request) error { return errTrail }
	if _, _, err := w.store.Hold(t.Context(), w.ask("DELETE 1"), no); !errors.Is(err, errTrail) {
		t.Fatal(err)
	}
	if n := len(w.files()); n != 0 || len(w.store.List(approval.Filter{})) != 0 {
		t.Fatalf("a question that is not in the trail left %v", w.files())
	}
	r := w.hold(w.ask("DELETE 1"))
	before := w.state(r.ID, approval.StatePending)
	if _, err := w.store.Vote(t.Context(), r.ID, ada, func(approval.Request, approval.Vote) error { return errTrail }); !errors.Is(err, errTrail) {
		t.Error(err)
	}
	if _, err := w.store.Cancel(t.Context(), r.ID, "etl-bot", no); !errors.Is(err, errTrail) {
		t.Error(err)
	}
	if n, err := w.store.CancelAgent(t.Context(), "etl-bot", no); n != 0 || !errors.Is(err, errTrail) {
		t.Error(n, err)
	}
	if got := w.state(r.ID, approval.StatePending); len(got.Votes) != len(before.Votes) {
		t.Errorf("%+v", got)
	}
	other := w.ask("DELETE 1")
	other.FactsSHA256 = digest("others")
	if _, _, err := w.store.Hold(t.Context(), other, no); !errors.Is(err, errTrail) {
		t.Error(err)
	}
	if again, isNew, err := w.store.Hold(t.Context(), w.ask("DELETE 1"), no); err != nil || isNew || again.ID != r.ID {
		t.Error("a question that was not replaced is not found:", isNew, err)
	}
	w.pass(time.Hour)
	if n, err := w.store.Expire(t.Context(), no); n != 0 || !errors.Is(err, errTrail) {
		t.Error(n, err)
	}
	if n, err := w.store.Expire(t.Context(), w.trail); n != 1 || err != nil {
		t.Error(n, err)
	}
	w.state(r.ID, approval.StateExpired)
	w.same()
}

// TestBeforeHoldsUpNobodyElse: while the trail takes its time about one request,
// others are decided, and anything can be read.
func TestBeforeHoldsUpNobodyElse(t *testing.T) {
	w := newWorld(t)
	a, b := w.hold(w.ask("DELETE 1")), w.hold(w.ask("DELETE 2"))
	entered, leave, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		_, err := w.store.Vote(t.Context(), a.ID, ada, func(approval.Request, approval.Vote) error {
			close(entered)
			<-leave
			return nil
		})
		done <- err
	}()
	<-entered
	w.state(a.ID, approval.StatePending)
	w.vote(b.ID, ada)
	w.release(b, "01intent")
	w.hold(w.ask("DELETE 3"))
	if n, err := w.store.Expire(t.Context(), w.trail); n != 0 || err != nil {
		t.Error(n, err)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.state(a.ID, approval.StateApproved)
}
