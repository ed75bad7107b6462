package budget_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/budget"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

func daily(limit int64) budget.Budget {
	return budget.Budget{Name: "daily", Per: budget.PerAgent, Limit: limit, Period: budget.Day, Warn: 0.8}
}

func ledger(t testing.TB, c *clock, budgets ...budget.Budget) *budget.Ledger {
	t.Helper()
	l, err := budget.New(budgets, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// log makes entries as the gateway does, in order.
type log struct {
	seq uint64
	c   *clock
}

func (g *log) add(e trailgate.Entry) *trailgate.Entry {
	e.Seq, e.Time = g.seq, g.c.now()
	g.seq++
	return &e
}

func (g *log) intent(id, agent string, reserved int64) *trailgate.Entry {
	e := trailgate.Entry{
		ID: id, Kind: trailgate.KindIntent, Method: "bigquery.jobs.insert", Principal: &trailgate.Principal{Agent: agent}, Connection: "main",
		Request: &trailgate.Request{}, Statements: []trailgate.Statement{{Where: "q"}}, Job: &trailgate.Job{Project: "p", ID: "job-" + id}, Decision: &trailgate.Decision{},
	}
	if reserved > 0 {
		e.Decision.Limits = map[string]string{budget.Limit: strconv.FormatInt(reserved, 10)}
	}
	return g.add(e)
}

func (g *log) outcome(id string, o trailgate.Outcome) *trailgate.Entry {
	return g.add(trailgate.Entry{Kind: trailgate.KindOutcome, IntentID: id, Method: "bigquery.jobs.insert", Outcome: &o, Job: &trailgate.Job{Project: "p", ID: "job-" + id}})
}

// told is an outcome of another call, such as jobs.get, that tells of a job.
func (g *log) told(id string, o trailgate.Outcome) *trailgate.Entry {
	return g.add(trailgate.Entry{Kind: trailgate.KindOutcome, IntentID: "get-" + id, Method: "bigquery.jobs.get", Outcome: &o, Job: &trailgate.Job{Project: "p", ID: "job-" + id}})
}

func stands(t *testing.T, l *budget.Ledger, agent string, used, reserved int64) {
	t.Helper()
	s, held := l.Peek(budget.Call{Agent: agent, Connection: "main"})
	if !held || s.Used != used || s.Reserved != reserved {
		t.Errorf("%s: used %d, reserved %d (%v), want %d and %d", agent, s.Used, s.Reserved, held, used, reserved)
	}
}

// TestLife: reserved, then what was billed; each once, whoever tells it how often.
func TestLife(t *testing.T) {
	c := &clock{t: noon}
	l, g := ledger(t, c, daily(1000)), &log{c: c}
	call := budget.Call{Agent: "etl", Connection: "main"}
	amount, held, warned, err := l.Reserve("a", call, 600)
	if amount != 600 || !held || warned != nil || err != nil {
		t.Fatal(amount, held, warned, err)
	}
	stands(t, l, "etl", 0, 600)
	intent := g.intent("a", "etl", 600)
	l.Apply(intent)
	l.Apply(intent) // again: no difference
	l.Release("a")  // too late: the trail has it
	stands(t, l, "etl", 0, 600)
	var over *budget.OverError
	if _, _, _, err := l.Reserve("b", call, 500); !errors.As(err, &over) || over.Budget != "daily" || !strings.Contains(err.Error(), "400 B of 1000 B left until 2026-11-24T00:00:00Z") {
		t.Fatalf("%v", err)
	}
	stands(t, l, "etl", 0, 600) // what was refused holds nothing
	l.Apply(g.outcome("a", trailgate.Outcome{Status: 200, JobState: "RUNNING", BytesBilled: 7}))
	stands(t, l, "etl", 0, 600)
	for range 3 {
		l.Apply(g.told("a", trailgate.Outcome{Status: 200, JobState: "DONE", BytesBilled: 450}))
		stands(t, l, "etl", 450, 0)
	}
	if _, _, warned, err = l.Reserve("c", call, 400); err != nil || fmt.Sprint(warned) != "[daily]" {
		t.Errorf("%v %v", warned, err)
	}
	l.Release("c")
	stands(t, l, "etl", 450, 0)
	stands(t, l, "other", 0, 0) // each agent has its own
	// All that is left, where the bill cannot be told beforehand.
	if amount, _, _, err = l.Reserve("d", call, -1); amount != 550 || err != nil {
		t.Errorf("%d %v", amount, err)
	}
	if _, _, _, err = l.Reserve("e", call, -1); !errors.As(err, &over) {
		t.Errorf("%v", err)
	}
	if amount, _, _, err = l.Reserve("f", call, 0); amount != 0 || err != nil {
		t.Errorf("a call that costs nothing: %d %v", amount, err)
	}
}

// TestEnds: how a reservation ends.
func TestEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		outcome        trailgate.Outcome
		flags          []string
		used, reserved int64
	}{
		"refused by BigQuery":   {trailgate.Outcome{Status: 403}, nil, 0, 0},
		"never sent":            {trailgate.Outcome{Status: 503, End: trailgate.EndNotForwarded}, nil, 0, 0},
		"lost on the way":       {trailgate.Outcome{Status: 502, End: trailgate.EndUpstreamDown}, []string{"effect_unknown"}, 0, 100},
		"done":                  {trailgate.Outcome{Status: 200, JobState: "DONE", BytesBilled: 80}, nil, 80, 0},
		"done, more than asked": {trailgate.Outcome{Status: 200, JobState: "DONE", BytesBilled: 180}, nil, 180, 0},
		"from the cache":        {trailgate.Outcome{Status: 200, JobState: "DONE", BytesBilled: 80, CacheHit: true}, nil, 0, 0},
		"failed":                {trailgate.Outcome{Status: 200, JobState: "DONE", ErrorReason: "invalidQuery"}, nil, 0, 0},
		"running":               {trailgate.Outcome{Status: 200, JobState: "RUNNING"}, nil, 0, 100},
		"settled as absent":     {trailgate.Outcome{End: "job_absent"}, nil, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := &clock{t: noon}
			l, g := ledger(t, c, daily(1000)), &log{c: c}
			l.Apply(g.intent("a", "etl", 100))
			e := g.outcome("a", tc.outcome)
			e.Flags = tc.flags
			l.Apply(e)
			stands(t, l, "etl", tc.used, tc.reserved)
		})
	}
}

// TestBillUnknown: that a job is done is no bill. Only who could say it, and did, settles.
func TestBillUnknown(t *testing.T) {
	done := trailgate.Outcome{Status: 200, JobState: "DONE"}
	cached := trailgate.Outcome{Status: 200, JobState: "DONE", CacheHit: true}
	for name, tc := range map[string]struct {
		method         string
		outcome        trailgate.Outcome
		flags          []string
		used, reserved int64
	}{
		"the result is read":                     {"bigquery.jobs.getQueryResults", done, nil, 0, 100},
		"the result is read, from the cache":     {"bigquery.jobs.getQueryResults", cached, nil, 0, 0},
		"the bill was left out":                  {"bigquery.jobs.get", done, []string{budget.FlagBillUnknown}, 0, 100},
		"the bill is nothing, and BigQuery says": {"bigquery.jobs.get", done, nil, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := &clock{t: noon}
			l, g := ledger(t, c, daily(1000)), &log{c: c}
			l.Apply(g.intent("a", "etl", 100))
			e := g.told("a", tc.outcome)
			e.Method, e.Flags = tc.method, tc.flags
			l.Apply(e)
			stands(t, l, "etl", tc.used, tc.reserved)
			// The gateway asks for itself.
			l.Apply(g.told("a", trailgate.Outcome{Status: 200, JobState: "DONE", BytesBilled: 60}))
			if want := min(60, tc.reserved); want == 0 {
				stands(t, l, "etl", 0, 0)
			} else {
				stands(t, l, "etl", want, 0)
			}
		})
	}
}

// TestScriptFailed: a script that fails has been billed for what it did before; what
// that was is told by its job, which the gateway's own question names.
func TestScriptFailed(t *testing.T) {
	c := &clock{t: noon}
	l, g := ledger(t, c, daily(1000)), &log{c: c}
	intent := g.intent("a", "etl", 900)
	intent.Method, intent.Job = "bigquery.jobs.query", nil
	l.Apply(intent)
	l.Apply(g.add(trailgate.Entry{
		Kind: trailgate.KindOutcome, IntentID: "a", Method: intent.Method,
		Outcome: &trailgate.Outcome{Status: 400, ErrorReason: "invalidQuery"}, Flags: []string{budget.FlagScriptFailed},
	}))
	stands(t, l, "etl", 0, 900)
	l.Apply(g.add(trailgate.Entry{
		ID: "get-a", Kind: trailgate.KindIntent, Method: "bigquery.jobs.get", Principal: &trailgate.Principal{Agent: "etl"},
		Request: &trailgate.Request{For: "a"}, Job: &trailgate.Job{Project: "p", ID: "job-a"},
	}))
	l.Apply(g.told("a", trailgate.Outcome{Status: 200, JobState: "DONE", ErrorReason: "invalidQuery", BytesBilled: 450}))
	stands(t, l, "etl", 450, 0)
}

// TestPeriods: a new day has all of it again, by the clock of the budget's zone; what
// began before is charged to its own day.
func TestPeriods(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		period      string
		from, turns time.Time
	}{
		"day":                   {budget.Day, time.Date(2026, 11, 23, 23, 30, 0, 0, berlin), time.Date(2026, 11, 24, 0, 0, 0, 0, berlin)},
		"day of 25 hours":       {budget.Day, time.Date(2026, 10, 25, 0, 30, 0, 0, berlin), time.Date(2026, 10, 26, 0, 0, 0, 0, berlin)},
		"day of 23 hours":       {budget.Day, time.Date(2026, 3, 29, 0, 30, 0, 0, berlin), time.Date(2026, 3, 30, 0, 0, 0, 0, berlin)},
		"month":                 {budget.Month, time.Date(2026, 11, 30, 23, 59, 59, 0, berlin), time.Date(2026, 12, 1, 0, 0, 0, 0, berlin)},
		"month at a year's end": {budget.Month, time.Date(2026, 12, 1, 0, 0, 0, 0, berlin), time.Date(2027, 1, 1, 0, 0, 0, 0, berlin)},
	} {
		t.Run(name, func(t *testing.T) {
			c := &clock{t: tc.from}
			b := daily(1000)
			b.Period, b.Zone = tc.period, berlin
			l, g := ledger(t, c, b), &log{c: c}
			call := budget.Call{Agent: "etl", Connection: "main"}
			if _, _, _, err := l.Reserve("a", call, 900); err != nil {
				t.Fatal(err)
			}
			l.Apply(g.intent("a", "etl", 900))
			if s, _ := l.Peek(call); !s.Turns.Equal(tc.turns) {
				t.Errorf("turns at %v, want %v", s.Turns, tc.turns)
			}
			c.set(tc.turns.Add(-time.Nanosecond))
			if _, _, _, err := l.Reserve("b", call, 200); err == nil {
				t.Error("over the limit a moment before the turn")
			}
			c.set(tc.turns)
			stands(t, l, "etl", 0, 0)
			if _, _, _, err := l.Reserve("c", call, 200); err != nil {
				t.Error(err)
			}
			l.Apply(g.told("a", trailgate.Outcome{Status: 200, JobState: "DONE", BytesBilled: 700}))
			stands(t, l, "etl", 0, 200)
			c.set(tc.turns.Add(-time.Hour)) // the clock is set back: the old period is as it was
			stands(t, l, "etl", 700, 0)
		})
	}
}

// TestAssumed: a bill that nobody tells is taken at its reservation, for good.
func TestAssumed(t *testing.T) {
	c := &clock{t: noon.Truncate(24 * time.Hour)}
	b := daily(1000)
	b.Period = budget.Month
	l, g := ledger(t, c, b), &log{c: c}
	l.Apply(g.intent("a", "etl", 100))
	c.set(c.now().Add(budget.AssumeAfter + time.Minute))
	g.seq = 2048
	l.Apply(g.add(trailgate.Entry{Kind: trailgate.KindAdmin}))
	stands(t, l, "etl", 100, 0)
	l.Apply(g.told("a", trailgate.Outcome{Status: 200, JobState: "DONE", BytesBilled: 5}))
	stands(t, l, "etl", 100, 0)
}

// TestHolds: for whom a budget holds, and who shares a count.
func TestHolds(t *testing.T) {
	c := &clock{t: noon}
	l := ledger(t, c,
		budget.Budget{Name: "bots", Per: budget.PerAll, Agents: []string{"*-bot"}, Limit: 100, Period: budget.Day, Warn: 1},
		budget.Budget{Name: "people", Per: budget.PerHuman, Humans: []string{"*@example.com"}, Limit: 50, Period: budget.Month, Warn: 1},
		budget.Budget{Name: "lake", Per: budget.PerConnection, Connections: []string{"lake"}, Limit: 70, Period: budget.Day, Warn: 1},
	)
	reserve := func(id, agent, human, connection string, want int64) string {
		_, held, _, err := l.Reserve(id, budget.Call{Agent: agent, Human: human, Connection: connection}, want)
		var over *budget.OverError
		switch {
		case errors.As(err, &over):
			return "over " + over.Budget
		case !held:
			return "free"
		}
		return "held"
	}
	for i, tc := range []struct {
		agent, human, connection string
		want                     int64
		is                       string
	}{
		{"analyst", "", "main", 1 << 40, "free"},
		{"etl-bot", "", "main", 60, "held"},
		{"load-bot", "", "main", 50, "over bots"}, // they share one
		{"load-bot", "", "main", 40, "held"},
		{"analyst", "Ada@Example.com", "main", 40, "held"},
		{"other", "ada@example.com", "main", 20, "over people"}, // by whichever agent
		{"other", "bob@example.com", "main", 20, "held"},
		{"other", "eve@example.org", "main", 1 << 40, "free"},
		{"analyst", "bob@example.com", "lake", 60, "over people"}, // the scarcest is named
		{"analyst", "", "lake", 70, "held"},
		{"another", "", "lake", 1, "over lake"},
	} {
		if got := reserve(fmt.Sprint(i), tc.agent, tc.human, tc.connection, tc.want); got != tc.is {
			t.Errorf("%d %+v: %s", i, tc, got)
		}
	}
	// What one budget refuses, no other holds.
	for _, s := range l.All() {
		if s.Budget == "people" && s.Scope == "bob@example.com" && s.Reserved != 20 {
			t.Errorf("%+v", s)
		}
	}
}

// TestConcurrent: together, calls never reserve more than there is, and what is settled
// for less is there again.
func TestConcurrent(t *testing.T) {
	c := &clock{t: noon}
	const limit = 1_000_000
	l := ledger(t, c, daily(limit))
	var mu sync.Mutex
	granted := int64(0)
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for i := range 150 {
				want := r.Int64N(5000)
				if amount, _, _, err := l.Reserve(fmt.Sprintf("%d-%d", w, i), budget.Call{Agent: "etl"}, want); err == nil {
					mu.Lock()
					granted += amount
					mu.Unlock()
				}
				if i%7 == 0 {
					l.Peek(budget.Call{Agent: "etl"})
				}
			}
		})
	}
	wg.Wait()
	s, _ := l.Peek(budget.Call{Agent: "etl"})
	if granted > limit || s.Reserved != granted || granted < limit-5000 {
		t.Errorf("granted %d, reserved %d, of %d", granted, s.Reserved, limit)
	}
}

// TestModel: whatever happens in whatever order, with restarts from snapshots of any
// age, the count is what a plain sum over the log says.
func TestModel(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		c := &clock{t: noon}
		g := &log{c: c}
		budgets := []budget.Budget{daily(10_000)}
		l, err := budget.New(budgets, c.now)
		if err != nil {
			rt.Fatal(err)
		}
		path := filepath.Join(dir, fmt.Sprint(rapid.Uint64().Draw(rt, "file"))+".json")
		_ = os.Remove(path)
		var all []*trailgate.Entry
		type call struct {
			amount int64
			state  string // pending, open, done
			billed int64
		}
		calls := map[string]*call{}
		var names []string
		apply := func(e *trailgate.Entry) {
			all = append(all, e)
			l.Apply(e)
		}
		for i := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"reserve", "reserve", "commit", "release", "settle", "save", "restart"}).Draw(rt, "step") {
			case "reserve":
				id := fmt.Sprint("c", i)
				amount, _, _, err := l.Reserve(id, budget.Call{Agent: "etl", Connection: "main"}, rapid.Int64Range(0, 4000).Draw(rt, "want"))
				if err == nil {
					calls[id] = &call{amount: amount, state: "pending"}
					names = append(names, id)
				}
			case "commit", "release", "settle":
				if len(names) == 0 {
					continue
				}
				id := rapid.SampledFrom(names).Draw(rt, "call")
				x := calls[id]
				switch {
				case x.state == "pending" && i%2 == 0:
					apply(g.intent(id, "etl", x.amount))
					x.state = "open"
				case x.state == "pending":
					l.Release(id)
					x.state, x.amount = "gone", 0
				case x.state == "open":
					billed := rapid.Int64Range(0, 5000).Draw(rt, "billed")
					apply(g.told(id, trailgate.Outcome{Status: 200, JobState: "DONE", BytesBilled: billed}))
					x.state, x.billed = "done", billed
				default:
					apply(g.told(id, trailgate.Outcome{Status: 200, JobState: "DONE", BytesBilled: 99}))
				}
			case "save":
				if err := l.Save(path, &durable.FS{}); err != nil {
					rt.Fatal(err)
				}
			case "restart":
				if l, err = budget.Load(path, budgets, c.now); err != nil {
					rt.Fatal(err)
				}
				for _, e := range all {
					l.Apply(e)
				}
				for _, x := range calls { // what was not committed is gone with the process
					if x.state == "pending" {
						x.state, x.amount = "gone", 0
					}
				}
			}
			used, reserved := int64(0), int64(0)
			for _, x := range calls {
				switch x.state {
				case "pending", "open":
					reserved += x.amount
				case "done":
					used += x.billed
				}
			}
			s, _ := l.Peek(budget.Call{Agent: "etl", Connection: "main"})
			if s.Used != used || s.Reserved != reserved {
				rt.Fatalf("used %d, reserved %d; the model says %d and %d", s.Used, s.Reserved, used, reserved)
			}
		}
	})
}

func TestInvalid(t *testing.T) {
	for name, b := range map[string]budget.Budget{
		"no name":   {Per: budget.PerAgent, Limit: 1, Period: budget.Day},
		"no limit":  {Name: "a", Per: budget.PerAgent, Period: budget.Day},
		"no period": {Name: "a", Per: budget.PerAgent, Limit: 1},
		"no scope":  {Name: "a", Limit: 1, Period: budget.Day},
	} {
		if _, err := budget.New([]budget.Budget{b}, nil); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := budget.New([]budget.Budget{daily(1), daily(2)}, nil); err == nil {
		t.Error("two of one name are taken")
	}
}

// TestRaised: a limit that is raised gives the rest of the period more.
func TestRaised(t *testing.T) {
	c := &clock{t: noon}
	l := ledger(t, c, daily(100))
	call := budget.Call{Agent: "etl"}
	if _, _, _, err := l.Reserve("a", call, 90); err != nil {
		t.Fatal(err)
	}
	if err := l.Set([]budget.Budget{daily(200)}); err != nil {
		t.Fatal(err)
	}
	if amount, _, _, err := l.Reserve("b", call, -1); amount != 110 || err != nil {
		t.Errorf("%d %v", amount, err)
	}
}

// TestDamaged: a snapshot that cannot be read is said to be so.
func TestDamaged(t *testing.T) {
	c := &clock{t: noon}
	for name, raw := range map[string]string{
		"cut":       `{"version":1,"next":5,`,
		"other":     `{"version":2,"next":5}`,
		"twice":     `{"version":1,"counts":[{"budget":"a","start":1,"used":1},{"budget":"a","start":1,"used":1}]}`,
		"unknown":   `{"version":1,"more":1}`,
		"one job":   `{"version":1,"calls":[{"entry":"a","job":"j","at":"2026-11-23T00:00:00Z","amount":1,"keys":[]},{"entry":"b","job":"j","at":"2026-11-23T00:00:00Z","amount":1,"keys":[]}]}`,
		"empty":     ``,
		"a million": `{"version":1,"calls":` + strings.Repeat("[", 1000) + `}`,
	} {
		path := filepath.Join(t.TempDir(), "b.json")
		if err := os.WriteFile(path, []byte(raw), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := budget.Load(path, nil, c.now); err == nil || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{"version":1,"next":5,"counts":[{"budget":"daily","scope":"etl","start":1763856000,"used":7}],"calls":[{"entry":"a","job":"p\u0000j","at":"2026-11-23T00:00:00Z","amount":1,"keys":[{"budget":"daily","scope":"etl","start":1763856000,"used":0}]}]}`))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "b.json")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		c := &clock{t: noon}
		l, err := budget.Load(path, []budget.Budget{daily(1000)}, c.now)
		if err != nil {
			return
		}
		g := &log{c: c, seq: l.Next()}
		l.Apply(g.intent("x", "etl", 5))
		again := filepath.Join(t.TempDir(), "again.json")
		if err := l.Save(again, &durable.FS{}); err != nil {
			t.Fatal(err)
		}
		m, err := budget.Load(again, []budget.Budget{daily(1000)}, c.now)
		if err != nil {
			t.Fatalf("what was saved cannot be loaded: %v", err)
		}
		if d := cmp.Diff(l.All(), m.All()); d != "" {
			t.Error(d)
		}
	})
}

func BenchmarkReserve(b *testing.B) {
	c := &clock{t: noon}
	l := ledger(b, c, daily(1<<60))
	g := &log{c: c}
	for i := range b.N {
		id := strconv.Itoa(i)
		if _, _, _, err := l.Reserve(id, budget.Call{Agent: "etl", Connection: "main"}, 10); err != nil {
			b.Fatal(err)
		}
		l.Apply(g.intent(id, "etl", 10))
		l.Apply(g.told(id, trailgate.Outcome{Status: 200, JobState: "DONE", BytesBilled: 7}))
	}
}
