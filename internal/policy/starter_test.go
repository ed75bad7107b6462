package policy_test

import (
	"context"
	"os"
	"testing"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/policy"
)

func starter(tb testing.TB) *policy.Set {
	tb.Helper()
	return load(tb, string(policy.Starter()))
}

func TestStarter(t *testing.T) {
	s := starter(t)
	raw, err := os.ReadFile("testdata/starter-cases.yaml")
	if err != nil {
		t.Fatal(err)
	}
	results, err := policy.RunCases(context.Background(), s, policy.File{Name: "starter-cases.yaml", Data: raw}, nil)
	if err != nil {
		t.Fatal(err)
	}
	decided := map[string]bool{}
	for _, r := range results {
		if !r.Passed() {
			t.Errorf("%s:%d: %s: %s", r.File, r.Line, r.Name, r.Problem)
		}
		decided[r.Got.Rule] = true
	}
	for _, r := range s.Rules() {
		if !decided[r.Name] {
			t.Errorf("no case for rule %q", r.Name)
		}
	}
	for _, f := range s.Lint() {
		t.Error(f)
	}
}

// TestStarterAllowsNoChange: whatever else is said of a call, the starter policy
// lets none through that changes anything, except for what it is meant to.
func TestStarterAllowsNoChange(t *testing.T) {
	s := starter(t)
	methods := []string{"bigquery.jobs.insert", "bigquery.jobs.query", "bigquery.tables.delete", "bigquery.jobs.cancel", "bigquery.jobs.getQueryResults", "x.y"}
	classes := []trailgate.Class{"unknown", "access_change", "export", "write", "metadata_change", "read", "metadata_read", "brand_new", ""}
	for _, method := range methods {
		for _, class := range classes {
			for _, other := range classes {
				for _, kind := range []string{"", "SELECT", "SCRIPT", "CALL", "UNKNOWN"} {
					in := &policy.Input{
						Principal: trailgate.Principal{Agent: "etl-bot"}, Method: method, Class: class, Classes: []trailgate.Class{class, other}, StatementType: kind,
					}
					if other.Gravity() > class.Gravity() {
						in.Class = other
					}
					d, needDryRun := s.Evaluate(context.Background(), in)
					if needDryRun {
						t.Fatalf("%+v asks for a dry run", in)
					}
					reads := in.Class.Gravity() <= trailgate.ClassRead.Gravity()
					if d.Effect == policy.Allow && !reads {
						t.Errorf("%s %s %v %s: allowed by %s", method, in.Class, in.Classes, kind, d.Rule)
					}
					if d.Failed {
						t.Errorf("%s %s: %+v", method, class, d)
					}
				}
			}
		}
	}
}
