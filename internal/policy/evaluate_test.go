package policy_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/policy"
)

// check holds a set to what is true of every set.
func check(t *testing.T, s *policy.Set) {
	t.Helper()
	for _, in := range []*policy.Input{{}, {DryRun: &policy.DryRun{}}} {
		d, needDryRun := s.Evaluate(t.Context(), in)
		switch d.Effect {
		case policy.Allow, policy.RequireApproval:
			if needDryRun || d.Failed {
				t.Errorf("%+v although a dry run is needed (%v)", d, needDryRun)
			}
		case policy.Deny:
			if d.Reason == "" {
				t.Errorf("a denial without a reason: %+v", d)
			}
		default:
			t.Errorf("%+v", d)
		}
		if needDryRun && in.DryRun != nil {
			t.Error("a dry run is asked for twice")
		}
		if d.Rule == "" {
			t.Errorf("no rule: %+v", d)
		}
	}
	s.Lint()
}

func TestFirstMatchWins(t *testing.T) {
	s := rules(t,
		`no-secrets deny: tables.all.touches("hr.*")`,
		`reads allow: class == "read"`,
		`ask require_approval: class == "write"`,
		`reads-again deny: class == "read"`,
	)
	for _, tt := range []struct {
		in           policy.Input
		effect, rule string
	}{
		{policy.Input{Class: "read"}, policy.Allow, "reads"},
		{policy.Input{Class: "write"}, policy.RequireApproval, "ask"},
		{policy.Input{Class: "read", Tables: trailgate.Tables{Read: []string{"acme.hr.pay"}}}, policy.Deny, "no-secrets"},
		{policy.Input{Class: "export"}, policy.Deny, policy.DefaultDeny},
		{policy.Input{}, policy.Deny, policy.DefaultDeny},
	} {
		d, needDryRun := s.Evaluate(context.Background(), &tt.in)
		if d.Effect != tt.effect || d.Rule != tt.rule || needDryRun || d.Failed {
			t.Errorf("%+v: %+v", tt.in, d)
		}
	}
	var none *policy.Set
	if d, _ := none.Evaluate(context.Background(), &policy.Input{Class: "read"}); d.Effect != policy.Deny || d.Rule != policy.DefaultDeny {
		t.Errorf("no policy: %+v", d)
	}
}

// TestErrorsDeny: a rule that cannot be evaluated denies by its own name; the rules
// after it are not asked.
func TestErrorsDeny(t *testing.T) {
	many := make([]string, policy.MaxList+1)
	labels := map[string]string{}
	for i := range policy.MaxLabels + 1 {
		labels[fmt.Sprint(i)] = "x"
	}
	for _, tt := range []struct {
		when string
		in   policy.Input
		why  string
	}{
		{`claims.labels.team == "x"`, policy.Input{}, "no such key: team"},
		{`claims.labels["team"] == "x"`, policy.Input{}, "no such key: team"},
		{`tables.read[0] == "x"`, policy.Input{}, "index out of bounds: 0"},
		{`now > timestamp("2026-01-01T00:00:00Z")`, policy.Input{}, "now: the time of the call is not known"},
		{`session.started > timestamp("2026-01-01T00:00:00Z")`, policy.Input{}, "session.started: the time"},
		{`1 / request.bytes > 0`, policy.Input{}, "division by zero"},
		{`int(principal.agent) == 1`, policy.Input{}, "type conversion error"},
		{`dry_run.bytes < 1.TB`, policy.Input{DryRun: &policy.DryRun{Error: "Not found: Table x"}}, "dry_run.bytes: BigQuery gave no answer to a dry run: Not found: Table x"},
		{`dry_run.bytes < 1.TB`, policy.Input{DryRun: &policy.DryRun{}}, "dry_run.bytes: BigQuery gave no answer to a dry run"},
		{`tables.read.size() == 0`, policy.Input{Tables: trailgate.Tables{Omitted: 1}}, "tables.read: the call names more tables than are known"},
		{`tables.written.size() == 0`, policy.Input{Tables: trailgate.Tables{Omitted: 1}}, "tables.written: the call names more tables than are known"},
		{`tables.all.size() == 0`, policy.Input{Tables: trailgate.Tables{Omitted: 1}}, "tables.all: the call names more tables than are known"},
		{`tables.read.within("a.*.c")`, policy.Input{Tables: trailgate.Tables{Read: []string{"\x1b[31m\n.c"}}}, " [31m .c: the table's name"},
		{`flags.size() > 5`, policy.Input{Flags: many}, "flags: more than 4096 elements"},
		{`claims.labels.size() > 5`, policy.Input{Claims: trailgate.Claims{Labels: labels}}, "claims.labels: more than 256 labels"},
	} {
		s := rules(t, "broken allow: "+tt.when, "all allow: true")
		d, needDryRun := s.Evaluate(context.Background(), &tt.in)
		if d.Effect != policy.Deny || d.Rule != "broken" || !d.Failed || needDryRun || !strings.Contains(d.Reason, tt.why) {
			t.Errorf("%s: %+v (%v)", tt.when, d, needDryRun)
		}
		if strings.ContainsAny(d.Reason, "\x00\x1b\n") {
			t.Errorf("%q", d.Reason)
		}
		// The same error where it does not matter.
		s = rules(t, "whole allow: true || "+tt.when, "none deny: true")
		if d, _ := s.Evaluate(context.Background(), &tt.in); d.Rule != "whole" {
			t.Errorf("true || %s: %+v", tt.when, d)
		}
	}
}

// TestDryRunOnlyWhereNeeded: a dry run is asked for when, and only when, the first
// rule that could decide depends on it.
func TestDryRunOnlyWhereNeeded(t *testing.T) {
	s := rules(t,
		`metadata allow: class == "metadata_read"`,
		`large deny: class == "read" && dry_run.bytes > 2.TB`,
		`reads allow: class == "read"`,
		`differs deny: dry_run.differs`,
		`rest allow: true`,
	)
	ran := &policy.DryRun{Ran: true, StatementType: "SELECT", Bytes: 1e12}
	for _, tt := range []struct {
		in   policy.Input
		need bool
		rule string
	}{
		{policy.Input{Class: "metadata_read"}, false, "metadata"},
		{policy.Input{Class: "read"}, true, "large"},
		{policy.Input{Class: "read", DryRun: ran}, false, "reads"},
		{policy.Input{Class: "read", DryRun: &policy.DryRun{Ran: true, Bytes: 3e12}}, false, "large"},
		{policy.Input{Class: "read", DryRun: &policy.DryRun{Error: "x"}}, false, "large"},
		{policy.Input{Class: "write"}, true, "differs"},
		{policy.Input{Class: "write", StatementType: "SELECT", DryRun: ran}, false, "rest"},
		{policy.Input{Class: "write", StatementType: "UNKNOWN", DryRun: ran}, false, "rest"},
		{policy.Input{Class: "write", StatementType: "DELETE", DryRun: ran}, false, "differs"},
		{policy.Input{Class: "write", DryRun: &policy.DryRun{Ran: true, Written: []string{"a.b.c"}}}, false, "differs"},
		{policy.Input{Class: "write", Tables: trailgate.Tables{Written: []string{"a.b.c"}}, DryRun: &policy.DryRun{Ran: true, Written: []string{"a.b.c"}}}, false, "rest"},
	} {
		d, need := s.Evaluate(context.Background(), &tt.in)
		if need != tt.need || d.Rule != tt.rule {
			t.Errorf("%+v: %+v, dry run %v", tt.in, d, need)
		}
		if need && (d.Effect != policy.Deny || !d.Failed) {
			t.Errorf("a call that needs a dry run gets %+v", d)
		}
	}
	if !s.ReadsDryRun() || rules(t, "a allow: true").ReadsDryRun() {
		t.Error("ReadsDryRun is wrong")
	}
	if d, need := rules(t, "a allow: dry_run.ran || true").Evaluate(context.Background(), &policy.Input{}); need || d.Effect != policy.Allow {
		t.Errorf("what does not decide asks for a dry run: %+v", d)
	}
}

// TestDryRunAskIsSound: without a dry run the answer is either that one is needed
// or what it will be, whatever the dry run says.
func TestDryRunAskIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rulesYAML(
			"a allow: "+condition(t, 3, true),
			"b deny: "+condition(t, 3, true),
			"c require_approval: "+condition(t, 2, true),
		)
		s, err := policy.Load([]policy.File{{Name: "p", Data: []byte(text)}})
		if err != nil {
			t.Fatal(err)
		}
		in := input(t)
		before, need := s.Evaluate(context.Background(), in)
		if need {
			return
		}
		in.DryRun = dryRun(t)
		after, need := s.Evaluate(context.Background(), in)
		if diff := cmp.Diff(before, after); diff != "" || need {
			t.Errorf("%s\nasks for no dry run, and then: %s", text, diff)
		}
	})
}

// condition makes one of the grammar that the properties are about.
func condition(t *rapid.T, depth int, dry bool) string {
	leaves := []string{
		`class == "read"`, `class == "write"`, `class in ["read", "export"]`, `class != "read"`, `risky`, `true`, `false`, `principal.agent == "etl-bot"`,
		`principal.agent in ["etl-bot", "x"]`, `tables.read.within("a.*")`, `tables.read.touches("b.*")`, `tables.written.exists(t, t.table("p.a.*"))`,
		`claims.labels.team == "x"`, `"dynamic_sql" in flags`, `request.bytes > 5`,
	}
	if dry {
		leaves = append(leaves, `dry_run.ran`, `dry_run.bytes > 1.TB`, `dry_run.differs`, `dry_run.read.touches("a.*")`, `dry_run.statement_type == "SELECT"`)
	}
	if depth == 0 {
		return rapid.SampledFrom(leaves).Draw(t, "leaf")
	}
	sub := func() string { return condition(t, depth-1, dry) }
	switch rapid.IntRange(0, 5).Draw(t, "kind") {
	case 0:
		return "(" + sub() + " && " + sub() + ")"
	case 1:
		return "(" + sub() + " || " + sub() + ")"
	case 2:
		return "!(" + sub() + ")"
	case 3:
		return "(" + sub() + " ? " + sub() + " : " + sub() + ")"
	default:
		return sub()
	}
}

func input(t *rapid.T) *policy.Input {
	tables := []string{"p.a.t", "p.b.t", "a.t", "t", "p.a.t_*"}
	in := &policy.Input{
		Class:  rapid.SampledFrom([]trailgate.Class{"read", "write", "export", "unknown"}).Draw(t, "class"),
		Flags:  rapid.SliceOfN(rapid.SampledFrom([]string{"dynamic_sql", "foreign_job"}), 0, 2).Draw(t, "flags"),
		Tables: trailgate.Tables{Read: rapid.SliceOfN(rapid.SampledFrom(tables), 0, 3).Draw(t, "read"), Written: rapid.SliceOfN(rapid.SampledFrom(tables), 0, 2).Draw(t, "written")},
	}
	in.Principal.Agent = rapid.SampledFrom([]string{"etl-bot", "x", "y"}).Draw(t, "agent")
	in.Request.Bytes = rapid.Int64Range(0, 10).Draw(t, "bytes")
	in.StatementType = rapid.SampledFrom([]string{"SELECT", "DELETE", ""}).Draw(t, "statement_type")
	if rapid.Bool().Draw(t, "labelled") {
		in.Claims.Labels = map[string]string{"team": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "team")}
	}
	return in
}

func dryRun(t *rapid.T) *policy.DryRun {
	return &policy.DryRun{
		Ran: rapid.Bool().Draw(t, "ran"), Bytes: rapid.Int64Range(0, 3e12).Draw(t, "dry_run.bytes"),
		StatementType: rapid.SampledFrom([]string{"SELECT", "DELETE"}).Draw(t, "dry_run.statement_type"),
		Read:          rapid.SliceOfN(rapid.SampledFrom([]string{"p.a.t", "p.b.t"}), 0, 2).Draw(t, "dry_run.read"),
	}
}

func TestLimits(t *testing.T) {
	s := load(t, `version: 1
rules:
  - name: confirmed
    when: connection == "confirmed"
    allow: {read_only: true}
  - name: labelled
    when: connection == "labelled"
    allow: {require_labels: [team, cost]}
  - name: capped
    when: connection == "capped"
    allow: {maximum_bytes_billed: 2TB}
  - name: asked
    when: connection == "asked"
    require_approval: {from: ["role:approver"], reason: "{{{principal.agent}}} reads {dry_run.bytes} of {tables.read}", limits: {max_rows: 10, require_labels: [team]}}
`)
	insert := func(connection string, class trailgate.Class, d *policy.DryRun, labels map[string]string) policy.Input {
		return policy.Input{
			Principal: trailgate.Principal{Agent: "etl\x1b-bot"}, Connection: connection, Class: class, Method: "bigquery.jobs.insert", DryRun: d,
			Claims: trailgate.Claims{Labels: labels}, Tables: trailgate.Tables{Read: []string{"a.b.c", "a.b.d"}},
		}
	}
	ran := func(kind string, bytes int64, written ...string) *policy.DryRun {
		return &policy.DryRun{Ran: true, StatementType: kind, Bytes: bytes, Written: written}
	}
	for _, tt := range []struct {
		in     policy.Input
		effect string
		need   bool
		reason string
	}{
		{insert("confirmed", "read", nil, nil), "deny", true, "no dry run"},
		{insert("confirmed", "read", ran("SELECT", 0), nil), "allow", false, ""},
		{insert("confirmed", "read", ran("INSERT", 0), nil), "deny", false, "BigQuery says that the statement is INSERT"},
		{insert("confirmed", "read", ran("SELECT", 0, "a.b.c"), nil), "deny", false, "the statement writes a.b.c"},
		{insert("confirmed", "read", &policy.DryRun{Error: "not found"}, nil), "deny", false, "BigQuery did not confirm that the statement reads: not found"},
		{insert("confirmed", "write", nil, nil), "deny", false, "this call is of class write"},
		{policy.Input{Connection: "confirmed", Class: "metadata_read", Method: "bigquery.tables.list"}, "allow", false, ""},
		{policy.Input{Connection: "confirmed", Class: "read", Classes: []trailgate.Class{"read", "brand_new"}}, "deny", false, "class read"},
		{insert("labelled", "read", nil, map[string]string{"team": "x", "cost": "y"}), "allow", false, ""},
		{insert("labelled", "read", nil, map[string]string{"team": "x"}), "deny", false, "set cost"},
		{insert("labelled", "read", nil, map[string]string{"team": ""}), "deny", false, "set team, cost"},
		{policy.Input{Connection: "labelled", Class: "metadata_read", Method: "bigquery.tables.list"}, "allow", false, ""},
		{insert("capped", "read", nil, nil), "allow", false, ""},
		{insert("capped", "read", ran("SELECT", 5e12), nil), "deny", false, "the statement would process 5.00 TB; this rule allows 2.00 TB"},
		{insert("asked", "read", nil, map[string]string{"team": "x"}), "deny", true, ""},
		{insert("asked", "read", ran("SELECT", 5e9), map[string]string{"team": "x"}), "require_approval", false, "{etl -bot} reads 5.00 GB of a.b.c, a.b.d"},
		{insert("asked", "read", &policy.DryRun{}, map[string]string{"team": "x"}), "require_approval", false, "{etl -bot} reads (unknown) of a.b.c, a.b.d"},
		{insert("asked", "read", ran("SELECT", 5e9), nil), "deny", false, "set team"},
	} {
		d, need := s.Evaluate(context.Background(), &tt.in)
		if d.Effect != tt.effect || need != tt.need || d.Rule != tt.in.Connection || !strings.Contains(d.Reason, tt.reason) {
			t.Errorf("%+v: %+v (%v)", tt.in, d, need)
		}
		if d.Effect == policy.Deny && (d.Limits.Map() != nil || d.Approval.Approvals != 0) {
			t.Errorf("a denial with limits: %+v", d)
		}
	}
	in := insert("asked", "read", ran("SELECT", 5e9), map[string]string{"team": "x"})
	d, _ := s.Evaluate(context.Background(), &in)
	want := policy.Decision{
		Effect: policy.RequireApproval, Rule: "asked", Reason: "{etl -bot} reads 5.00 GB of a.b.c, a.b.d",
		Limits:   policy.Limits{MaxRows: 10, RequireLabels: []string{"team"}},
		Approval: policy.Approval{From: []string{"role:approver"}, Approvals: 1, Expires: time.Hour},
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Error(diff)
	}
}

// TestRisky: what the spec lists, and nothing that is read whole.
func TestRisky(t *testing.T) {
	s := rules(t, "risky deny: risky", "not allow: true")
	for _, tt := range []struct {
		in   policy.Input
		want bool
	}{
		{policy.Input{Class: "read", StatementType: "SELECT"}, false},
		{policy.Input{Class: "write", StatementType: "DELETE"}, false},
		{policy.Input{Class: "metadata_change", StatementType: "CREATE_TABLE", Flags: []string{"foreign_job"}}, false},
		{policy.Input{Class: "metadata_read"}, false},
		{policy.Input{Class: "read", StatementType: "SCRIPT"}, true},
		{policy.Input{Class: "read", Flags: []string{"remote_function"}}, true},
		{policy.Input{Class: "read", Flags: []string{"external_query"}}, true},
		{policy.Input{Class: "unknown", StatementType: "EXECUTE_IMMEDIATE", Flags: []string{"dynamic_sql"}}, true},
		{policy.Input{Class: "write", StatementType: "CALL"}, true},
		{policy.Input{Class: "export", StatementType: "EXPORT_DATA"}, true},
		{policy.Input{Class: "access_change", StatementType: "GRANT"}, true},
		{policy.Input{Class: "write", Classes: []trailgate.Class{"write", "export"}}, true},
		{policy.Input{Class: "brand_new"}, true},
		{policy.Input{}, true},
	} {
		if d, _ := s.Evaluate(context.Background(), &tt.in); (d.Rule == "risky") != tt.want {
			t.Errorf("%+v: %+v", tt.in, d)
		}
	}
}

func TestJobs(t *testing.T) {
	job := func(owner string) trailgate.Job { return trailgate.Job{ID: "j", OwnerAgent: owner} }
	me := trailgate.Principal{Agent: "etl-bot"}
	for _, tt := range []struct {
		in                 policy.Input
		own, foreign, made bool
	}{
		{in: policy.Input{Principal: me, Method: "bigquery.jobs.insert"}},
		{in: policy.Input{Principal: me, Method: "bigquery.jobs.cancel", Job: job("etl-bot")}, own: true, made: true},
		{in: policy.Input{Principal: me, Method: "bigquery.jobs.cancel", Job: job("analyst-bot")}, foreign: true, made: true},
		{in: policy.Input{Principal: me, Method: "bigquery.jobs.getQueryResults", Job: job("")}, foreign: true},
		{in: policy.Input{Method: "bigquery.jobs.get", Job: job("")}, foreign: true}, // nobody is nobody's owner
	} {
		s := rules(t, fmt.Sprintf("a allow: job.own == %v && job.foreign == %v && job.created_here == %v", tt.own, tt.foreign, tt.made))
		if d, _ := s.Evaluate(context.Background(), &tt.in); d.Effect != policy.Allow {
			t.Errorf("%+v: %+v", tt.in, d)
		}
	}
}

func TestBudget(t *testing.T) {
	s := rules(t, "over deny: budget.limited && budget.remaining < 1.TB", "rest allow: true")
	for _, tt := range []struct {
		b    policy.Budget
		over bool
	}{
		{policy.Budget{}, false},
		{policy.Budget{Limited: true, Limit: 10e12, Used: 8e12}, false},
		{policy.Budget{Limited: true, Limit: 10e12, Used: 8e12, Reserved: 15e11}, true},
		{policy.Budget{Limited: true, Limit: 10e12, Used: 12e12}, true},
		{policy.Budget{Limited: true, Limit: 10e12, Used: 10e12, Reserved: 1 << 62}, true},
	} {
		if d, _ := s.Evaluate(context.Background(), &policy.Input{Budget: tt.b}); (d.Rule == "over") != tt.over {
			t.Errorf("%+v: %+v", tt.b, d)
		}
	}
}
