package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/approval"
	"github.com/trailgate/trailgate/internal/idptest"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/suspend"
)

// decide gives an API what it decides with.
func decide(t testing.TB, c *admin.Config) {
	t.Helper()
	var err error
	c.Approvals, err = approval.Open(context.Background(), filepath.Join(t.TempDir(), "approvals"), approval.Options{
		Consumed: func(context.Context, string) (bool, error) { return false, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	stores.Store(c.Trail, c.Approvals)
	if c.Suspensions, err = suspend.Open(filepath.Join(t.TempDir(), "suspended.json")); err != nil {
		t.Fatal(err)
	}
	c.CutSuspended = func() int { return 2 }
	c.CancelSuspended = func(context.Context) ([]admin.Cancelled, error) {
		return []admin.Cancelled{{Agent: "etl-bot", Connection: "prod", Project: "p", Job: "j"}, {Agent: "etl-bot", Connection: "prod", Project: "p", Job: "k", Error: "gone"}}, nil
	}
	c.Policy = func() admin.Policy {
		return admin.Policy{Digest: "d", Source: "files", Files: []string{"policy.yaml"}, Rules: []admin.PolicyRule{{Name: "r", Effect: "allow", When: "true"}}, Loaded: time.Now().UTC()}
	}
	reloads := 0
	c.Reload = func(context.Context) (admin.Reloaded, error) {
		if reloads++; reloads > 1 {
			return admin.Reloaded{}, errors.New("policy.yaml:3: rules[0].when: no such variable")
		}
		return admin.Reloaded{Digest: "e", Previous: "d", Changes: []string{"r changed"}, NeedsRestart: []string{}}, nil
	}
	c.Budgets = func() []admin.Budget {
		return []admin.Budget{{Budget: "daily", Scope: "etl-bot", Limit: 10, Used: 5, Reserved: 1, Period: "day", Turns: time.Now().UTC()}}
	}
}

// stores are the approvals by the trail of their rig.
var stores sync.Map

func (r *rig) approvals() *approval.Store {
	s, ok := stores.Load(admin.Trail(r.trail))
	if !ok {
		r.t.Fatal("no approvals")
	}
	return s.(*approval.Store)
}

var calls int

// hold has an agent's call wait, as the gateway does.
func hold(t testing.TB, r *rig, agent, human string, change ...func(*approval.Request)) string {
	t.Helper()
	calls++
	q := approval.Request{
		Created: time.Now(), Expires: time.Now().Add(time.Hour), Principal: trailgate.Principal{Agent: agent, Human: human, HumanBy: "issuer", AuthMode: "oidc_jwt"},
		Session: "s1", Connection: "prod", Project: "p", Method: "bigquery.jobs.insert", Class: trailgate.ClassWrite, StatementType: "DELETE",
		Statement: "DELETE FROM d.t WHERE true", StatementSHA256: strings.Repeat("a", 64), Tables: trailgate.Tables{Written: []string{"p.d.t"}},
		Rule: "ask", Reason: "why", From: []string{"role:approver", "human:carla@example.com"}, Need: 1,
		CallSHA256: fmt.Sprintf("%064x", calls), FactsSHA256: strings.Repeat("b", 64), Facts: approval.Facts{Ran: true, StatementType: "DELETE", Bytes: 5},
		HeldEntry: fmt.Sprintf("01jd2v8c9mhw3k5r7t9x0z%04d", calls),
	}
	for _, f := range change {
		f(&q)
	}
	held, _, err := r.approvals().Hold(context.Background(), q, func(q approval.Request) error {
		return r.trail.Append(context.Background(), &trailgate.Entry{
			ID: q.HeldEntry, Kind: trailgate.KindHeld, Gateway: trailgate.Gateway{ID: "gw", Version: "v1"}, Principal: &q.Principal, Method: q.Method,
			Claims: &trailgate.Claims{Human: "the pope"}, Decision: &trailgate.Decision{Effect: "require_approval", ApprovalID: q.ID},
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return held.ID
}

func boss(name string) idptest.User {
	return idptest.User{Subject: name, Email: "boss-" + name + "@example.com", EmailVerified: true, Claims: map[string]any{"groups": []any{}}}
}

// TestVote: a human who signed in decides; the vote is an entry that names them, before
// it counts.
func TestVote(t *testing.T) {
	voted := make(chan string, 10)
	f := newFront(t, func(c *admin.Config) {
		decide(t, c)
		c.Voted = func(_ context.Context, q approval.Request) { voted <- string(q.State) }
	})
	yes, no := hold(t, f.rig, "etl-bot", "ada@example.com"), hold(t, f.rig, "etl-bot", "ada@example.com")
	b := f.signIn(boss("a"))
	f.caughtUp() // the claims come from the index
	if status, body, _ := b.get("/api/v1/approvals/" + yes); status != 200 || !strings.Contains(body, `"may_vote":true`) || !strings.Contains(body, "DELETE FROM d.t") || !strings.Contains(body, `"claims":{"human":"the pope"}`) {
		t.Errorf("%d %s", status, body)
	}
	if status, body := b.post("/api/v1/approvals/"+yes+":approve", "application/json", `{"reason":"checked"}`); status != 200 || !strings.Contains(body, `"state":"approved"`) {
		t.Fatalf("%d %s", status, body)
	}
	if status, body := b.post("/api/v1/approvals/"+no+":deny", "application/json", `{"reason":"not now"}`); status != 200 || !strings.Contains(body, `"state":"denied"`) {
		t.Fatalf("%d %s", status, body)
	}
	if a, d := <-voted, <-voted; a != "approved" || d != "denied" {
		t.Errorf("told %s, %s", a, d)
	}
	e := f.told("approval.approve")
	if len(e) != 1 || e[0].Kind != trailgate.KindApproved || e[0].IntentID == "" || e[0].Decision.Effect != "allow" || e[0].Decision.ApprovalID != yes ||
		fmt.Sprint(e[0].Decision.Approvers) != "[boss-a@example.com]" || e[0].Event.Actor != "boss-a@example.com" || e[0].Decision.Reason != "checked" || e[0].Principal.Agent != "etl-bot" {
		t.Errorf("%+v", e)
	}
	if e = f.told("approval.deny"); len(e) != 1 || e[0].Kind != trailgate.KindDenied || e[0].Decision.Effect != "deny" || e[0].Decision.Reason != "not now" {
		t.Errorf("%+v", e)
	}
	if len(f.told("approval.show")) != 1 {
		t.Error("looking at it is not on record")
	}
}

// TestVotesThatDoNotCount: each is refused in words, and on record as refused.
func TestVotesThatDoNotCount(t *testing.T) {
	f := newFront(t, func(c *admin.Config) { decide(t, c) })
	approve := func(b *browser, id string) (int, string) {
		return b.post("/api/v1/approvals/"+id+":approve", "application/json", `{}`)
	}
	mine := hold(t, f.rig, "etl-bot", "boss-a@example.com")
	a, other := f.signIn(boss("a")), f.signIn(boss("b"))
	if status, body := approve(a, mine); status != 403 || !strings.Contains(body, "asked for on your own behalf") {
		t.Errorf("one's own agent's call: %d %s", status, body)
	}
	through := hold(t, f.rig, "etl-bot", "ada@example.com", func(q *approval.Request) {
		q.Principal.Actors = []string{"https://idp|boss-a@example.com", "boss-a@example.com"}
	})
	if status, _ := approve(a, through); status != 403 {
		t.Errorf("by an actor in the chain: %d", status)
	}
	named := hold(t, f.rig, "etl-bot", "ada@example.com", func(q *approval.Request) { q.From = []string{"human:carla@example.com"} })
	if status, body := approve(a, named); status != 403 || !strings.Contains(body, "not among those") {
		t.Errorf("somebody else was asked: %d %s", status, body)
	}
	auditor, root := f.signIn(ada("audit")), f.signIn(ada("root"))
	for name, b := range map[string]*browser{"an auditor": auditor, "an admin who is no approver": root} {
		if status, _ := approve(b, mine); status != 403 {
			t.Errorf("%s: %d", name, status)
		}
	}
	if status, _ := approve(other, mine); status != 200 {
		t.Errorf("another approver: %d", status)
	}
	if status, body := approve(other, mine); status != 409 {
		t.Errorf("decided already: %d %s", status, body)
	}
	// An agent's token opens no door here, and a form of another site no vote.
	agent, _ := agentWithToken(t, f.rig, "etl-bot")
	req, err := http.NewRequest(http.MethodPost, f.url+"/api/v1/approvals/"+named+":approve", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+agent)
	if status, _, _ := f.browser().send(req); status != 401 {
		t.Errorf("an agent's token: %d", status)
	}
	if status, _ := other.post("/api/v1/approvals/"+named+":approve", "application/x-www-form-urlencoded", "x=1"); status != 415 {
		t.Errorf("a form: %d", status)
	}
	if status, _ := other.post("/api/v1/approvals/"+named+":approve", "application/json", `{}`, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"); status != 403 {
		t.Errorf("another site: %d", status)
	}
	if got, err := f.approvals().Get(named); err != nil || len(got.Votes) != 0 {
		t.Errorf("%+v %v", got.Votes, err)
	}
	refused := 0
	for _, e := range f.told("approval.approve") {
		if e.Kind == trailgate.KindAdmin && e.Event.Detail["refused"] != "" {
			refused++
		}
	}
	if refused != 5 { // own, chain, not asked, admin, decided; the others came to no vote
		t.Errorf("%d refused votes are on record", refused)
	}
}

// TestTwoApprovers: each human counts once, and the entries tell how far it is.
func TestTwoApprovers(t *testing.T) {
	f := newFront(t, func(c *admin.Config) { decide(t, c) })
	id := hold(t, f.rig, "etl-bot", "ada@example.com", func(q *approval.Request) { q.Need = 2 })
	a, b := f.signIn(boss("a")), f.signIn(boss("b"))
	for i, who := range []*browser{a, a, b} {
		status, body := who.post("/api/v1/approvals/"+id+":approve", "application/json", `{}`)
		want := []string{"pending", "pending", "approved"}[i]
		if status != 200 || !strings.Contains(body, `"state":"`+want+`"`) {
			t.Fatalf("vote %d: %d %s", i, status, body)
		}
	}
	e := f.told("approval.approve")
	if len(e) != 2 || e[0].Decision.Effect != "require_approval" || e[0].Event.Detail["have"] != "1" || e[1].Decision.Effect != "allow" || e[1].Event.Detail["have"] != "2" {
		t.Errorf("%+v", e)
	}
	// Both at the same moment: one decision, two entries.
	id = hold(t, f.rig, "etl-bot", "ada@example.com", func(q *approval.Request) { q.Need = 2 })
	var wg sync.WaitGroup
	for _, who := range []*browser{a, b} {
		wg.Go(func() {
			if status, _ := who.post("/api/v1/approvals/"+id+":approve", "application/json", `{}`); status != 200 {
				t.Errorf("%d", status)
			}
		})
	}
	wg.Wait()
	if got, _ := f.approvals().Get(id); got.State != approval.StateApproved || len(got.Votes) != 2 {
		t.Errorf("%+v", got)
	}
}

// TestVoteNotRecorded: what cannot be on record does not count.
func TestVoteNotRecorded(t *testing.T) {
	r := newRig(t, func(c *admin.Config) { decide(t, c) })
	id := hold(t, r, "etl-bot", "")
	r.trail.set(func(m *memory) { m.refuse = func(*trailgate.Entry) error { return errNoSpace } })
	if a := r.socket(http.MethodPost, "/api/v1/approvals/"+id+":approve", `{}`); a.StatusCode != 503 || !strings.Contains(string(a.body), "does not count") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if got, _ := r.approvals().Get(id); got.State != approval.StatePending || len(got.Votes) != 0 {
		t.Errorf("%+v", got)
	}
	if a := r.socket(http.MethodPost, "/api/v1/suspensions", `{"scope":"all"}`); a.StatusCode != 503 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	r.trail.set(func(m *memory) { m.refuse = nil })
	if a := r.socket(http.MethodGet, "/api/v1/suspensions", ""); strings.Contains(string(a.body), "scope") {
		t.Errorf("suspended all the same: %s", a.body)
	}
}

// TestSuspendWithdraws: what a suspended agent asked for is withdrawn, with an entry;
// what others asked stays.
func TestSuspendWithdraws(t *testing.T) {
	r := newRig(t, func(c *admin.Config) { decide(t, c) })
	if _, err := r.agents.AddAgent("etl-bot", ""); err != nil {
		t.Fatal(err)
	}
	mine, other := hold(t, r, "etl-bot", ""), hold(t, r, "load-bot", "")
	a := r.socket(http.MethodPost, "/api/v1/suspensions", `{"scope":"agent","name":"etl-bot","reason":"incident"}`)
	var out struct {
		Cut, Withdrawn int
		Cancelled      []admin.Cancelled
	}
	if err := json.Unmarshal(a.body, &out); err != nil || a.StatusCode != 201 || out.Cut != 2 || out.Withdrawn != 1 || len(out.Cancelled) != 0 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if got, _ := r.approvals().Get(mine); got.State != approval.StateCancelled {
		t.Errorf("%s", got.State)
	}
	if got, _ := r.approvals().Get(other); got.State != approval.StatePending {
		t.Errorf("%s", got.State)
	}
	last := r.trail.entries(t)
	if e := last[len(last)-1]; e.Kind != trailgate.KindDenied || e.Decision.Rule != "builtin/suspended" || e.Decision.ApprovalID != mine || e.IntentID == "" {
		t.Errorf("%+v", e)
	}
}

// TestStillMay: an approver who signs in without the role counts no longer.
func TestStillMay(t *testing.T) {
	f := newFront(t, func(c *admin.Config) { decide(t, c) })
	f.signIn(boss("a"))
	from := []string{"role:approver"}
	vote := approval.Vote{Human: "boss-a@example.com", Roles: []string{"approver"}, Via: "login"}
	if !f.api.StillMay(vote, from) {
		t.Error("an approver may not")
	}
	if !f.api.StillMay(approval.Vote{Human: "uid:0", Roles: []string{"admin"}, Via: "cli"}, from) {
		t.Error("the machine's owner may not")
	}
	// The provider now says that they are but an auditor; the browser that they had
	// signed in with before knows it, too.
	old := f.signIn(boss("a"))
	fired := boss("a")
	fired.Claims = map[string]any{"groups": []any{"audit", "fired"}}
	f.signIn(fired)
	if f.api.StillMay(vote, from) {
		t.Error("who lost the role still may")
	}
	if status, _ := old.post("/api/v1/approvals/"+hold(t, f.rig, "etl-bot", "")+":approve", "application/json", `{}`); status != 403 {
		t.Errorf("the older session still votes: %d", status)
	}
	if !f.api.StillMay(vote, []string{"human:boss-a@example.com"}) {
		t.Error("who was asked by name may not")
	}
}

// TestTheirs: what an agent did before is shown without what the gateway asked in its name.
func TestTheirs(t *testing.T) {
	var rows []index.Row
	for i := range 30 {
		e := &trailgate.Entry{ID: fmt.Sprint(i), Request: &trailgate.Request{Verb: "POST"}}
		if i%2 == 0 {
			e.Request.For = "x" // a dry run
		}
		rows = append(rows, index.Row{Entry: e})
	}
	got := admin.Theirs(append([]index.Row{{Entry: &trailgate.Entry{ID: "bare"}}}, rows...))
	if len(got) != 10 || got[0].Entry.ID != "bare" || got[1].Entry.ID != "1" || got[9].Entry.ID != "17" {
		t.Errorf("%d rows: %v", len(got), got)
	}
}
