package policy_test

import (
	"context"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/policy"
)

func TestTablePatterns(t *testing.T) {
	for _, tt := range []struct{ pattern, name, want string }{
		// from the right
		{"imports", "acme.staging.imports", "yes"},
		{"imports", "acme.staging.exports", "no"},
		{"staging.*", "acme.staging.imports", "yes"},
		{"staging.*", "acme.prod.imports", "no"},
		{"acme.staging.*", "acme.staging.imports", "yes"},
		{"acme.staging.*", "other.staging.imports", "no"},
		{"*.staging.imports", "acme.staging.imports", "yes"},
		{"acme.*.*", "acme.staging.imports", "yes"},
		{"acme.stag*.im*s", "acme.staging.imports", "yes"},
		{"acme.stag*.im*x", "acme.staging.imports", "no"},
		{"*", "acme.staging.imports", "yes"},
		{"*.*", "imports", "yes"},
		// a star does not reach beyond its part
		{"acme.*", "acme.staging.imports", "no"},
		{"staging*imports", "acme.staging.imports", "no"},
		// parts that the name does not tell
		{"staging.*", "imports", "unsure"},
		{"staging.exports", "imports", "no"},
		{"acme.staging.*", "staging.imports", "unsure"},
		{"acme.prod.*", "staging.imports", "no"},
		{"*.staging.*", "staging.imports", "yes"},
		{"staging.*", "", "unsure"},
		{"acme.staging.*", ".staging.imports", "unsure"},
		// partitions and moments of a table
		{"staging.imports", "acme.staging.imports$20261101", "yes"},
		{"staging.imports", "acme.staging.imports@-3600000", "yes"},
		{"staging.imports$20261101", "acme.staging.imports", "bad pattern"},
		// wildcard tables
		{"staging.*", "acme.staging.t_2026*", "yes"},
		{"staging.t_*", "acme.staging.t_2026*", "yes"},
		{"staging.t_2026*", "acme.staging.t_*", "unsure"},
		{"staging.t_20261101", "acme.staging.t_2026*", "unsure"},
		{"staging.u_*", "acme.staging.t_2026*", "no"},
		{"staging.t_*_x", "acme.staging.t_2026*", "unsure"},
		{"staging.*", "acme.staging.*", "yes"},
		{"staging.imports", "acme.staging.*", "unsure"},
		{"prod.imports", "acme.staging.*", "no"},
		{"staging.T_*", "acme.staging.t_2026*", "unsure"},
		// case: BigQuery has datasets where it counts, and others
		{"hr.salaries", "acme.hr.Salaries", "unsure"},
		{"hr.*", "acme.HR.salaries", "unsure"},
		{"hr.salaries", "acme.HR.bonus", "no"},
		{"straße.t", "acme.STRASSE.t", "no"},
		{"größe.t", "acme.GRÖSSE.t", "no"},
		{"größen.t", "acme.GRÖßEN.t", "unsure"},
		// views of INFORMATION_SCHEMA belong to the dataset
		{"staging.*", "acme.staging.INFORMATION_SCHEMA.TABLES", "yes"},
		{"prod.*", "acme.staging.INFORMATION_SCHEMA.TABLES", "no"},
		{"acme.staging.*", "acme.staging.INFORMATION_SCHEMA.TABLES", "yes"},
		{"INFORMATION_SCHEMA.*", "acme.region-eu.INFORMATION_SCHEMA.JOBS", "yes"},
		{"region-eu.INFORMATION_SCHEMA.JOBS*", "acme.region-eu.INFORMATION_SCHEMA.JOBS_BY_PROJECT", "yes"},
		{"INFORMATION_SCHEMA.*", "acme.staging.imports", "no"},
		// domain-scoped projects
		{"example.com:acme.staging.*", "example.com:acme.staging.imports", "yes"},
		{"example.com:other.staging.*", "example.com:acme.staging.imports", "no"},
		// names may hold any letters, spaces and dashes
		{"staging.*", "acme.staging.two words-and ünïcode", "yes"},
		// look-alikes are other letters
		{"staging.imports", "acme.staging.іmports", "no"}, // Cyrillic
		// bad patterns
		{"", "x", "bad pattern"},
		{"a.b.c.d", "x", "bad pattern"},
		{"a..c", "x", "bad pattern"},
		{".a", "x", "bad pattern"},
		{"a.`b`", "x", "bad pattern"},
		{"a.b c", "x", "bad pattern"},
		{strings.Repeat("*a", 9), "x", "bad pattern"},
		{strings.Repeat("a", 2000), "x", "bad pattern"},
		{"\xff", "x", "bad pattern"},
		// names that no table has
		{"a.b.c", strings.Repeat("x.", 3000) + "c", "unsure"},
	} {
		if got := policy.Match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("%q with %.60q: %s, want %s", tt.pattern, tt.name, got, tt.want)
		}
	}
}

// TestWildcardSound: what is said of a wildcard table is true of every table that
// it may stand for.
func TestWildcardSound(t *testing.T) {
	part := rapid.StringMatching(`[abA]{0,3}`)
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[abA*]{1,5}`).Draw(t, "pattern")
		stem, rest := part.Draw(t, "stem"), part.Draw(t, "rest")
		whole := policy.Match("d."+pattern, "p.d."+stem+"*")
		one := policy.Match("d."+pattern, "p.d."+stem+rest)
		if rest == "" && stem == "" {
			return // no name of a table
		}
		switch whole {
		case "yes", "no":
			if one != whole {
				t.Errorf("%s of %s* is %s, but %s of %s", pattern, stem, whole, one, stem+rest)
			}
		case "unsure":
		default:
			t.Error(whole)
		}
	})
}

// TestPatternModel holds the matching of one part to a plain recursive model.
func TestPatternModel(t *testing.T) {
	var model func(p, s string) bool
	model = func(p, s string) bool {
		switch {
		case p == "":
			return s == ""
		case p[0] == '*':
			return model(p[1:], s) || s != "" && model(p, s[1:])
		default:
			return s != "" && p[0] == s[0] && model(p[1:], s[1:])
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		pattern, name := rapid.StringMatching(`[abB*]{1,6}`).Draw(t, "pattern"), rapid.StringMatching(`[abB]{1,8}`).Draw(t, "name")
		want := "no"
		if model(pattern, name) {
			want = "yes"
		} else if model(strings.ToLower(pattern), strings.ToLower(name)) {
			want = "unsure"
		}
		if got := policy.Match(pattern, "p.d."+name); got != want {
			t.Errorf("%s with %s: %s, want %s", pattern, name, got, want)
		}
	})
}

func TestTableFunctions(t *testing.T) {
	in := func(written ...string) *policy.Input {
		return &policy.Input{Class: "write", Tables: trailgate.Tables{Written: written, Read: []string{"acme.src.t"}}}
	}
	for _, tt := range []struct {
		when string
		in   *policy.Input
		want string // a decision's effect, or "failed"
	}{
		{`tables.written.within("scratch.*")`, in("acme.scratch.a", "acme.scratch.b"), "allow"},
		{`tables.written.within("scratch.*")`, in("acme.scratch.a", "acme.prod.b"), "deny"},
		{`tables.written.within("scratch.*")`, in(), "deny"}, // nothing is not within
		{`tables.written.within(["scratch.*", "tmp.*"])`, in("acme.scratch.a", "acme.tmp.b"), "allow"},
		{`tables.written.within([])`, in("acme.scratch.a"), "deny"},
		{`tables.written.within("acme.scratch.*")`, in("acme.scratch.a", "scratch.b"), "failed"},
		{`tables.written.within("acme.scratch.*")`, in("scratch.b", "acme.prod.b"), "deny"},
		{`tables.written.touches("prod.*")`, in("acme.scratch.a", "acme.prod.b"), "allow"},
		{`tables.written.touches("prod.*")`, in("acme.scratch.a"), "deny"},
		{`tables.written.touches("prod.*")`, in(), "deny"},
		{`tables.written.touches("acme.prod.*")`, in("prod.b"), "failed"},
		{`tables.written.touches("acme.prod.*")`, in("prod.b", "acme.prod.c"), "allow"},
		{`!tables.written.touches("acme.prod.*")`, in("prod.b"), "failed"},
		{`tables.all.touches(["src.*"])`, in("acme.scratch.a"), "allow"},
		{`tables.all.size() == 3`, in("acme.scratch.a", "acme.scratch.b"), "allow"},
		{`(tables.read + tables.written).within("*.*.*")`, in("acme.scratch.a"), "allow"},
		{`tables.written.exists(t, t.table("acme.prod.*"))`, in("prod.b", "acme.prod.c"), "allow"},
		{`tables.written.exists(t, t.table("acme.prod.*"))`, in("prod.b", "acme.x.c"), "failed"},
		{`tables.written.all(t, t.table("acme.prod.*"))`, in("prod.b", "acme.x.c"), "deny"},
		{`tables.written.all(t, t.table("acme." + class + ".*"))`, in("acme.write.c"), "allow"},
		{`tables.written.all(t, t.table(class + "..x"))`, in("acme.write.c"), "failed"},
		{`tables.written.filter(t, t.table("prod.*")).size() == 1`, in("acme.prod.a", "acme.b.c"), "allow"},
		{`tables.written == ["acme.prod.a"]`, in("acme.prod.a"), "allow"},
		{`"acme.prod.a" in tables.written`, in("acme.prod.a"), "allow"},
	} {
		d, _ := rules(t, "r allow: "+tt.when).Evaluate(context.Background(), tt.in)
		got := d.Effect
		if d.Failed {
			got = "failed"
		}
		if got != tt.want {
			t.Errorf("%s of %v: %s (%s), want %s", tt.when, tt.in.Tables.Written, got, d.Reason, tt.want)
		}
	}
}
