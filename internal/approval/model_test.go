package approval_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/approval"
)

// question is a request as the model has it.
type question struct {
	id, caller, call, facts string
	need                    int
	state                   approval.State
	expires, deadline       time.Time // as asked; as it now stands
	span                    time.Duration
	ended                   time.Time
	votes                   map[string]bool // who approved, as far as it counts
	lapsed                  bool
	intent                  string
	claimed                 *approval.Claimed // nil after a restart
}

func (q *question) open() bool { return q.state.Open() && !q.lapsed }

func (q *question) want() approval.State {
	if q.state.Open() && q.lapsed {
		return approval.StateExpired
	}
	return q.state
}

// model is a plain account of what was done to a store.
type model struct {
	t         *rapid.T
	store     *approval.Store
	dir       string
	now       time.Time
	fail      string // the step of a write that fails
	opts      approval.Options
	questions []*question
	latest    map[string]*question // by caller and call
	trail     map[string]string    // intents, with the question they used
	lost      map[string]bool      // humans who lost the role
	intents   int
}

const day = 24 * time.Hour

// callers are who ask; ada may approve what grace's agent asks, and not the other way.
var callers = map[string]trailgate.Principal{
	"grace": {Agent: "etl-bot", Human: "grace@example.com"},
	"ada":   {Agent: "etl-bot", Human: "ada@example.com"},
	"bob":   {Agent: "report-bot", Human: "hal@example.com", Actors: []string{"https://idp.example|bob@example.com"}},
}

// voters are who vote, with what the rules say of them, by caller.
var voters = []struct {
	vote approval.Vote
	one  string // who it counts as
	may  map[string]bool
}{
	{by("ada@example.com", "approver"), "ada", map[string]bool{"grace": true, "bob": true}},
	{by("Bob@example.com", "approver"), "bob", map[string]bool{"grace": true, "ada": true}},
	{by("grace@example.com", "approver", "admin"), "grace", map[string]bool{"ada": true, "bob": true}},
	{approval.Vote{Human: "local:uid=1000", Roles: []string{"admin"}, Via: "cli", Verdict: approval.Approve}, "local", map[string]bool{"grace": true, "ada": true, "bob": true}},
	{approval.Vote{Human: "admin-token", Roles: []string{"admin"}, Via: "api", Verdict: approval.Approve}, "local", map[string]bool{"grace": true, "ada": true, "bob": true}},
	{by("mallory@example.com"), "mallory", nil},
	{approval.Vote{Human: "ada@example.com", Roles: []string{"approver"}, Via: "agent", Verdict: approval.Approve}, "ada", nil},
}

// TestModel: whatever is done in whatever order, while the disk fails, the clock
// is set and the process is killed, a request is used at most once, never
// without enough different humans who may approve it and still may, never after
// its deadline, and is in the state in which a plain account has it.
func TestModel(t *testing.T) {
	root := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		m := &model{
			t: t, dir: filepath.Join(root, fmt.Sprint(n)), now: start,
			latest: map[string]*question{}, trail: map[string]string{}, lost: map[string]bool{},
		}
		m.opts = approval.Options{
			Now:      func() time.Time { return m.now },
			NewID:    ids(),
			StillMay: func(v approval.Vote, _ []string) bool { return !m.lost[v.Human] },
			Consumed: func(_ context.Context, intent string) (bool, error) { _, ok := m.trail[intent]; return ok, nil },
		}
		m.restart(t)
		t.Repeat(map[string]func(*rapid.T){
			"hold":    m.hold,
			"vote":    m.vote,
			"vote 2":  m.vote, // more of these
			"claim":   m.claim,
			"claim 2": m.claim,
			"finish":  m.finish,
			"cancel":  m.cancel,
			"expire":  m.expire,
			"restart": m.restart,
			"role": func(t *rapid.T) {
				v := rapid.SampledFrom(voters[:4]).Draw(t, "voter").vote.Human
				m.lost[v] = !m.lost[v]
			},
			"clock": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(-30, 90).Draw(t, "minutes")) * time.Minute)
			},
			"disk": func(t *rapid.T) {
				// After a rename or a directory's sync that failed the file may be the new
				// one, which is more than the model knows. TestWriteFaults has those.
				m.fail = rapid.SampledFrom([]string{"", "", "", "create", "write", "sync"}).Draw(t, "step")
			},
			"": m.check,
		})
		if err := os.RemoveAll(m.dir); err != nil {
			t.Fatal(err)
		}
	})
}

func (m *model) restart(t *rapid.T) {
	s, err := approval.Open(context.Background(), m.dir, m.opts)
	if err != nil {
		t.Fatal(err)
	}
	m.store = s
	s.SetFault(func(step, _ string) error {
		if step == m.fail {
			return errDisk
		}
		return nil
	})
	for _, q := range m.questions {
		q.claimed = nil
		q.lapsed = q.state.Open() && m.latest[q.caller+q.call] != q
		if q.state == approval.StateReleasing {
			if m.trail[q.intent] == q.id {
				q.state, q.ended = approval.StateReleased, m.now
			} else {
				q.state, q.intent = approval.StateApproved, ""
			}
		}
		q.deadline = minTime(q.expires, m.now.Add(q.span))
	}
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (m *model) see(q *question) {
	if q.state.Open() && !m.now.Before(q.deadline) {
		q.lapsed = true
	}
}

func (m *model) request(caller, call, facts string, need int) approval.Request {
	return approval.Request{
		Principal: callers[caller], Connection: "prod", CallSHA256: digest(call), FactsSHA256: digest(facts),
		HeldEntry: "01held", From: []string{"role:approver"}, Need: need, Expires: m.now.Add(time.Hour), Call: approval.Stored{Body: []byte(call)},
	}
}

func (m *model) draw(t *rapid.T) (caller, call, facts string) {
	caller = rapid.SampledFrom(slices.Sorted(maps.Keys(callers))).Draw(t, "caller")
	call = rapid.SampledFrom([]string{"DELETE 1", "DELETE 2"}).Draw(t, "call")
	facts = rapid.SampledFrom([]string{"a", "a", "a", "b"}).Draw(t, "facts")
	return caller, call, facts
}

// busy reports whether a claim is under way that nobody will end while we wait.
func busy(q *question) bool { return q != nil && q.state == approval.StateReleasing }

func (m *model) stands(q *question) bool {
	return q.state == approval.StateDenied && m.now.Sub(q.ended).Abs() < approval.DefaultWindow
}

func ok(approval.Request) error { return nil }

func (m *model) hold(t *rapid.T) {
	caller, call, facts := m.draw(t)
	q := m.latest[caller+call]
	if busy(q) {
		t.Skip("it would wait")
	}
	need := rapid.IntRange(1, 2).Draw(t, "need")
	r, isNew, err := m.store.Hold(context.Background(), m.request(caller, call, facts, need), ok)
	switch {
	case q != nil && q.open() && q.facts == facts:
		if err != nil || isNew || r.ID != q.id {
			t.Fatalf("%+v was not joined: %v %+v", q, err, r)
		}
		return
	case q != nil && m.stands(q):
		if !errors.Is(err, approval.ErrDenied) {
			t.Fatalf("%+v does not stand: %v %+v", q, err, r)
		}
		return
	case m.fail != "":
		if !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
		return
	}
	if err != nil || !isNew {
		t.Fatal(isNew, err)
	}
	if q != nil && q.open() {
		m.end(q, approval.StateChanged)
	}
	q = &question{
		id: r.ID, caller: caller, call: call, facts: facts, need: need, state: approval.StatePending,
		expires: m.now.Add(time.Hour), deadline: m.now.Add(time.Hour), span: time.Hour, votes: map[string]bool{},
	}
	m.questions = append(m.questions, q)
	m.latest[caller+call] = q
}

func (m *model) end(q *question, s approval.State) { q.state, q.ended = s, m.now }

func (m *model) any(t *rapid.T) *question {
	if len(m.questions) == 0 {
		t.Skip("nothing was asked")
	}
	return rapid.SampledFrom(m.questions).Draw(t, "question")
}

func (m *model) vote(t *rapid.T) {
	q := m.any(t)
	who := rapid.SampledFrom(voters).Draw(t, "voter")
	v := who.vote
	if rapid.IntRange(0, 9).Draw(t, "deny") == 0 {
		v.Verdict = approval.Deny
	}
	told := 0
	r, err := m.store.Vote(context.Background(), q.id, v, func(approval.Request, approval.Vote) error { told++; return nil })
	may := who.may[q.caller] || (v.Verdict == approval.Deny && who.may != nil)
	switch {
	case !may:
		if !errors.Is(err, approval.ErrOwn) && !errors.Is(err, approval.ErrNotAsked) && !errors.Is(err, approval.ErrDoor) {
			t.Fatalf("%+v voted on %+v: %v", v, q, err)
		}
		return
	case q.want() != approval.StatePending:
		if !errors.Is(err, approval.ErrDecided) {
			t.Fatalf("a vote on %+v: %v", q, err)
		}
		return
	case v.Verdict == approval.Approve && q.votes[who.one]:
		if err != nil || told != 0 || r.State != approval.StatePending {
			t.Fatalf("the same vote again: %v, told %d", err, told)
		}
		return
	case m.fail != "":
		if !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
		return
	}
	if err != nil || told != 1 {
		t.Fatal(err, told)
	}
	if v.Verdict == approval.Deny {
		m.end(q, approval.StateDenied)
		return
	}
	q.votes[who.one] = true
	if len(q.votes) >= q.need {
		q.state = approval.StateApproved
		q.expires, q.span = m.now.Add(approval.DefaultWindow), approval.DefaultWindow
		q.deadline = q.expires
	}
}

func (m *model) claim(t *rapid.T) {
	caller, call, facts := m.draw(t)
	q := m.latest[caller+call]
	if busy(q) {
		t.Skip("it would wait")
	}
	m.intents++
	intent := fmt.Sprint("intent", m.intents)
	r := m.request(caller, call, facts, 1)
	c, err := m.store.Claim(context.Background(), approval.KeyOf(&r), r.FactsSHA256, intent)
	if err == nil && (q == nil || !q.open() || q.state != approval.StateApproved || q.facts != facts || c.Request.ID != q.id || string(c.Request.Call.Body) != call) {
		t.Fatalf("%+v was claimed as %+v", q, c.Request)
	}
	is := func(want error) bool {
		if !errors.Is(err, want) {
			t.Fatalf("%+v: %v, want %v", q, err, want)
		}
		return true
	}
	switch {
	case q == nil:
		is(approval.ErrNone)
	case m.stands(q):
		is(approval.ErrDenied)
	case !q.open():
		is(approval.ErrNone)
	case q.facts != facts:
		if m.fail != "" {
			is(errDisk)
		} else if is(approval.ErrChanged) {
			m.end(q, approval.StateChanged)
		}
	case q.state == approval.StatePending:
		is(approval.ErrPending)
	case m.fail != "":
		is(errDisk)
	default:
		m.claimed(t, q, c, err, intent)
	}
}

// claimed is what becomes of an approval, where votes may not count any more.
func (m *model) claimed(t *rapid.T, q *question, c *approval.Claimed, err error, intent string) {
	got, gerr := m.store.Get(q.id)
	if gerr != nil {
		t.Fatal(gerr)
	}
	counted := map[string]bool{}
	for _, v := range got.Votes {
		for _, who := range voters {
			if who.vote.Human == v.Human && who.vote.Via == v.Via && v.Verdict == approval.Approve && who.may[q.caller] && !m.lost[v.Human] {
				counted[who.one] = q.votes[who.one]
			}
		}
	}
	maps.DeleteFunc(counted, func(_ string, counts bool) bool { return !counts })
	q.votes = counted
	if len(counted) < q.need {
		if c != nil || (!errors.Is(err, approval.ErrPending) && !errors.Is(err, approval.ErrNone)) {
			t.Fatalf("%d of %d approve %+v, and it was claimed: %v", len(counted), q.need, q, err)
		}
		q.state, q.span = approval.StatePending, time.Hour
		q.expires = got.Expires
		q.deadline = minTime(q.expires, m.now.Add(q.span))
		return
	}
	if err != nil {
		t.Fatalf("%+v could not be claimed: %v", q, err)
	}
	q.state, q.intent, q.claimed = approval.StateReleasing, intent, c
}

func (m *model) finish(t *rapid.T) {
	i := slices.IndexFunc(m.questions, func(q *question) bool { return q.state == approval.StateReleasing && q.claimed != nil })
	if i < 0 {
		t.Skip("nothing is being released")
	}
	q := m.questions[i]
	var err error
	switch rapid.SampledFrom([]string{"done", "abort", "killed"}).Draw(t, "how") {
	case "abort":
		if err = q.claimed.Abort(); m.fail == "" {
			q.state, q.intent, q.claimed = approval.StateApproved, "", nil
		} else {
			q.claimed = nil // it stays releasing until the disk is well, and the model stops here
			m.fail = ""
			if _, err := m.store.Expire(context.Background(), ok); err != nil {
				t.Fatal(err)
			}
			q.state, q.intent = approval.StateApproved, ""
			m.expired()
			return
		}
	case "done":
		m.use(t, q)
		err = q.claimed.Done()
		if m.fail != "" {
			if !errors.Is(err, errDisk) {
				t.Fatal(err)
			}
			m.fail = ""
			if _, err := m.store.Expire(context.Background(), ok); err != nil {
				t.Fatal(err)
			}
			m.end(q, approval.StateReleased)
			m.expired()
			return
		}
		m.end(q, approval.StateReleased)
	case "killed":
		if rapid.Bool().Draw(t, "committed") {
			m.use(t, q)
		}
		m.restart(t)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// use is an intent in the trail: the call is made.
func (m *model) use(t *rapid.T, q *question) {
	for intent, id := range m.trail {
		if id == q.id {
			t.Fatalf("%s was used by %s and %s", q.id, intent, q.intent)
		}
	}
	if len(q.votes) < q.need {
		t.Fatalf("%+v is used", q)
	}
	m.trail[q.intent] = q.id
}

func (m *model) cancel(t *rapid.T) {
	q := m.any(t)
	if busy(q) {
		t.Skip("it would wait")
	}
	_, err := m.store.Cancel(context.Background(), q.id, callers[q.caller].Agent, ok)
	switch {
	case !q.open():
		if !errors.Is(err, approval.ErrDecided) {
			t.Fatal(err)
		}
	case m.fail != "":
		if !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
	case err != nil:
		t.Fatal(err)
	default:
		m.end(q, approval.StateCancelled)
	}
}

func (m *model) expire(t *rapid.T) {
	if m.fail != "" {
		t.Skip("TestWriteFaults has it")
	}
	n, err := m.store.Expire(context.Background(), ok)
	if want := m.expired(); err != nil || n != want {
		t.Fatalf("%d ended, want %d: %v", n, want, err)
	}
}

func (m *model) expired() int {
	n := 0
	for _, q := range m.questions {
		if q.state.Open() && q.lapsed {
			m.end(q, approval.StateExpired)
			n++
		}
	}
	return n
}

func (m *model) check(t *rapid.T) {
	for _, q := range m.questions {
		m.see(q)
		r, err := m.store.Get(q.id)
		if errors.Is(err, approval.ErrNotFound) && q.state.Final() && m.now.Sub(q.ended) >= 7*day {
			continue
		}
		if err != nil || r.State != q.want() {
			t.Fatalf("%s is %s, want %s: %v\n%+v", q.id, r.State, q.want(), err, q)
		}
	}
}
