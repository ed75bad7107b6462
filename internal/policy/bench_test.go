package policy_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/policy"
)

// benchmarkPolicy is 200 rules of several kinds, of which the last one matches.
func benchmarkPolicy(tb testing.TB) (*policy.Set, *policy.Input) {
	var lines []string
	for i := range 199 {
		kinds := []string{
			`r%d allow: principal.agent == "bot-%[1]d" && class == "write"`,
			`r%d allow: class in ["write", "export"] && tables.written.within("acme.d%[1]d.*")`,
			`r%d deny: tables.read.exists(t, t.table("acme.secret%[1]d.*"))`,
			`r%d deny: method == "bigquery.jobs.insert" && tables.all.touches(["acme.x%[1]d.*", "y%[1]d.*"])`,
			`r%d require_approval: risky && principal.human != "" && request.bytes > %[1]d.MB`,
			`r%d deny: claims.labels.size() > %[1]d && !business_hours(now, "Europe/Berlin", "Mon-Fri", "09:00-17:00")`,
			`r%d deny: statement_type == "DELETE" || "flag-%[1]d" in flags`,
		}
		lines = append(lines, fmt.Sprintf(kinds[i%len(kinds)], i))
	}
	lines = append(lines, `last allow: class == "read"`)
	return rules(tb, lines...), &policy.Input{
		Principal: trailgate.Principal{Agent: "etl-bot", Human: "ada@example.com"}, Class: "read", Method: "bigquery.jobs.insert", Now: time.Now(),
		Connection: "prod", Project: "acme", StatementType: "SELECT", Statement: "SELECT * FROM staging.imports JOIN staging.batches USING (batch_id)",
		Tables: trailgate.Tables{Read: []string{"acme.staging.imports", "acme.staging.batches"}},
		Claims: trailgate.Claims{Labels: map[string]string{"team": "data"}},
	}
}

func BenchmarkEvaluate200(b *testing.B) {
	s, in := benchmarkPolicy(b)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if d, _ := s.Evaluate(ctx, in); d.Rule != "last" {
			b.Fatal(d)
		}
	}
}

func BenchmarkEvaluate200Counted(b *testing.B) {
	s, in := benchmarkPolicy(b)
	s = s.Counted()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if d, _ := s.Evaluate(ctx, in); d.Rule != "last" {
			b.Fatal(d)
		}
	}
}

func BenchmarkEvaluateStarter(b *testing.B) {
	s, in := starter(b), &policy.Input{Class: "read", Method: "bigquery.jobs.query", StatementType: "SELECT"}
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if d, _ := s.Evaluate(ctx, in); d.Rule != "reads" {
			b.Fatal(d)
		}
	}
}

func BenchmarkLoad200(b *testing.B) {
	var lines []string
	for i := range 200 {
		lines = append(lines, fmt.Sprintf(`r%d deny: class == "read" && tables.read.touches("acme.secret%d.*")`, i, i))
	}
	files := []policy.File{{Name: "p", Data: []byte(rulesYAML(lines...))}}
	for b.Loop() {
		if _, err := policy.Load(files); err != nil {
			b.Fatal(err)
		}
	}
}
