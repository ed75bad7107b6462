package policy_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/policy"
)

func recorded() (open, outcome *trailgate.Entry) {
	open = &trailgate.Entry{
		ID: "01open", Kind: trailgate.KindIntent, Time: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC), Session: "s1",
		Principal:  &trailgate.Principal{Agent: "etl-bot", Human: "ada@example.com", HumanBy: "issuer"},
		Claims:     &trailgate.Claims{Labels: map[string]string{"team": "x"}},
		Connection: "prod", Project: "acme", Method: "bigquery.jobs.query", Class: "read", Flags: []string{"dropped_labels"},
		Request:       &trailgate.Request{Verb: "POST", Path: "/x", Bytes: 100},
		Statements:    []trailgate.Statement{{Where: "query", Text: "SELECT * FROM s.t", SHA256: "x", Length: 17}},
		StatementType: &trailgate.StatementType{Local: "SELECT"},
		Tables:        &trailgate.Tables{Read: []string{"acme.s.t"}},
		Job:           &trailgate.Job{ID: "j", OwnerAgent: "etl-bot"},
		Decision:      &trailgate.Decision{Effect: "allow", Rule: "builtin/record"},
	}
	outcome = &trailgate.Entry{
		ID: "01out", Kind: trailgate.KindOutcome, IntentID: "01open",
		StatementType: &trailgate.StatementType{Local: "SELECT", Final: "SELECT"},
		Tables:        &trailgate.Tables{Read: []string{"acme.s.t", "acme.s.u"}, Final: true},
		Outcome:       &trailgate.Outcome{Status: 200, BytesProcessed: 3e12},
	}
	return open, outcome
}

func TestFromEntry(t *testing.T) {
	open, outcome := recorded()
	in, err := policy.FromEntry(open, outcome)
	if err != nil {
		t.Fatal(err)
	}
	want := &policy.Input{
		Principal: *open.Principal, Claims: *open.Claims, Connection: "prod", Project: "acme", Method: "bigquery.jobs.query", Class: "read",
		StatementType: "SELECT", Statement: "SELECT * FROM s.t", Tables: trailgate.Tables{Read: []string{"acme.s.t"}}, Flags: []string{"dropped_labels"},
		Job: *open.Job, Request: policy.Request{Bytes: 100}, Session: policy.Session{ID: "s1"}, Now: open.Time,
		DryRun: &policy.DryRun{Ran: true, StatementType: "SELECT", Read: []string{"acme.s.t", "acme.s.u"}, Bytes: 3e12},
	}
	unknown := in.Unknown
	in.Unknown = nil
	if diff := cmp.Diff(want, in); diff != "" {
		t.Error(diff)
	}
	paths, _ := policy.Variables()
	for _, name := range unknown {
		if !slices.Contains(paths, name) {
			t.Errorf("%q is no variable", name)
		}
	}
	for _, kind := range []trailgate.Kind{"refused", "session", "admin", "gateway", "outcome", "gap", "settled", "expired", "approved"} {
		if _, err := policy.FromEntry(&trailgate.Entry{Kind: kind, Method: "x"}, nil); !errors.Is(err, policy.ErrNotJudged) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	for _, e := range []*trailgate.Entry{nil, {Kind: "denied"}} {
		if _, err := policy.FromEntry(e, nil); !errors.Is(err, policy.ErrNotJudged) {
			t.Error(err)
		}
	}
	if _, err := policy.FromEntry(&trailgate.Entry{Kind: "held", Method: "x"}, &trailgate.Entry{}); err != nil {
		t.Error(err)
	}
}

// TestReplay: what the trail holds is decided as it was; what it does not hold is
// said to be uncertain where it matters.
func TestReplay(t *testing.T) {
	for _, tt := range []struct {
		rule      string
		edit      func(open, outcome *trailgate.Entry)
		effect    string
		uncertain []string
		differs   bool
	}{
		{`a allow: class == "read" && tables.read.within("s.*")`, nil, "allow", nil, false},
		{`a deny: principal.human == "ada@example.com"`, nil, "deny", nil, true},
		{`a allow: dry_run.bytes < 2.TB`, nil, "deny", []string{"dry_run.bytes"}, true},
		{`a allow: session.calls < 10`, nil, "allow", []string{"session.calls"}, false},
		{`a allow: class == "read" || session.calls < 10`, nil, "allow", nil, false},
		{`a allow: statement.contains("s.t")`, nil, "allow", nil, false},
		{`a allow: statement.contains("s.t")`, func(open, _ *trailgate.Entry) { open.Statements[0].Text = "" }, "deny", []string{"statement"}, true},
		{`a allow: tables.read.size() == 1`, func(open, _ *trailgate.Entry) { open.Tables.Omitted = 5 }, "allow", []string{"tables.read"}, false},
		{`a allow: job.own && now == timestamp("2026-11-23T10:00:00Z")`, nil, "allow", nil, false},
		{`a require_approval: true`, nil, "require_approval", nil, true},
	} {
		open, outcome := recorded()
		if tt.edit != nil {
			tt.edit(open, outcome)
		}
		in, err := policy.FromEntry(open, outcome)
		if err != nil {
			t.Fatal(err)
		}
		now := rules(t, tt.rule).Replay(context.Background(), in)
		if now.Effect != tt.effect || !slices.Equal(now.Uncertain, tt.uncertain) {
			t.Errorf("%s: %+v", tt.rule, now)
		}
		d, differs := policy.Compare(open, now)
		if differs != tt.differs || d.Entry != "01open" || d.Was.Rule != "builtin/record" {
			t.Errorf("%s: %+v, %v", tt.rule, d, differs)
		}
	}
	// Without an outcome it is not known what a dry run would have said.
	open, _ := recorded()
	in, _ := policy.FromEntry(open, nil)
	now := rules(t, `a allow: dry_run.bytes < 2.TB`).Replay(context.Background(), in)
	if !now.Failed || !slices.Equal(now.Uncertain, []string{"dry_run.bytes"}) {
		t.Errorf("%+v", now)
	}
	// Limits count.
	now = load(t, "version: 1\nrules:\n- {name: a, when: 'true', allow: {max_rows: 5}}\n").Replay(context.Background(), in)
	if d, differs := policy.Compare(open, now); !differs || !slices.Equal(d.Limits, []string{"max_rows: none, now 5"}) {
		t.Errorf("%+v", d)
	}
	open.Decision.Limits = map[string]string{"max_rows": "5"}
	if d, differs := policy.Compare(open, now); differs {
		t.Errorf("%+v", d)
	}
	now = load(t, "version: 1\nrules:\n- {name: a, when: 'true', allow: {maximum_bytes_billed: 1TB}}\n").Replay(context.Background(), in)
	if !slices.Equal(now.Uncertain, []string{"dry_run.statement_type", "dry_run.bytes"}) {
		t.Errorf("%+v", now)
	}
}
