package policy_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/trailgate/trailgate/internal/policy"
)

func TestLint(t *testing.T) {
	for _, tt := range []struct {
		rules []string
		want  []string // "rule code", and a part of the message
	}{
		{[]string{`a allow: class == "read"`, `b deny: class == "write"`}, nil},

		// never decides
		{[]string{`a allow: class == "read"`, `b deny: true`, `c allow: class == "write"`}, []string{`c unreachable: rule "b" above takes every call`}},
		{[]string{`a allow: class == "read"`, `b deny: "read" == class`}, []string{`b unreachable: rule "a"`}},
		{[]string{`a allow: class == "read"`, `b deny: risky && class == "read"`}, []string{`b unreachable: rule "a"`}},
		{[]string{`a allow: class in ["read", "write"]`, `b deny: class == "write"`}, []string{`b unreachable: rule "a"`}},
		{[]string{`a allow: class == "read" || class == "write"`, `b deny: class in ["write", "read"] && risky`}, []string{`b unreachable: rule "a"`}},
		{[]string{`a allow: class == "read" || risky`, `b deny: class == "read"`}, []string{`b unreachable: rule "a"`}},
		{[]string{`a allow: !(class != "read")`, `b deny: class == "read"`}, []string{`b unreachable: rule "a"`}},
		{[]string{`a allow: !(risky || class == "x")`, `b deny: class == "read" && !risky && class != "x"`}, []string{`b unreachable: rule "a"`, `a unknown-word: class is never "x"`}},
		{[]string{`a require_approval: tables.read.exists(t, t.table("x.*"))`, `b deny: tables.read.exists(t, t.table("x.*")) && risky`}, []string{`b unreachable: rule "a"`}},
		{[]string{`a require_approval: tables.read.exists(t, t.table("x.*"))`, `b deny: tables.read.exists(t, t.table("y.*"))`}, nil},
		{[]string{`a allow: class == "read" && risky`, `b deny: class == "read"`}, nil},
		{[]string{`a allow: class == "read"`, `b deny: class == "read" || risky`}, nil},

		// never true
		{[]string{`a allow: false`, `b allow: risky`}, []string{`a never: never true`}},
		{[]string{`a allow: 1 == 2 && risky`, `b allow: risky`}, []string{`a never: never true`}},
		{[]string{`a allow: class == "read" && class == "write"`}, []string{`a never: class would have to be two things at once`}},
		{[]string{`a allow: class in ["read", "write"] && class in ["export"]`}, []string{`a never: class would have`}},
		{[]string{`a allow: principal.agent == "x" && principal.agent != "x"`}, []string{`a never: principal.agent would have`}},
		{[]string{`a allow: class == "read" && "write" in classes`}, nil},

		// words
		{[]string{`a allow: class == "reed"`}, []string{`a unknown-word: class is never "reed"; did you mean "read"?`}},
		{[]string{`a allow: class in ["read", "wirte"]`}, []string{`a unknown-word: class is never "wirte"; did you mean "write"?`}},
		{[]string{`a deny: "exports" in classes`, `b allow: risky`}, []string{`a unknown-word: classes is never "exports"; did you mean "export"?`}},
		{[]string{`a allow: principal.auth_mode == "oidc"`}, []string{`a unknown-word: principal.auth_mode is never "oidc"`}},
		{[]string{`a allow: principal.human_by == "client"`}, []string{`a unknown-word: principal.human_by is never "client"`}},
		{[]string{`a allow: method == "jobs.insert"`}, []string{`a unknown-word: method is never "jobs.insert"`}},
		{[]string{`a allow: statement_type == "select"`}, []string{`a unknown-word: statement_type is never "select"`}},
		{[]string{`a allow: "acme.staging.*" in tables.read`}, []string{`a star: write tables.read.touches("acme.staging.*")`}},
		{[]string{`a allow: tables.read.exists(t, t == "acme.staging.*")`}, []string{`a star: == compares`}},

		// allows
		{[]string{`a allow: true`}, []string{`a allows-all: allows every call`}},
		{[]string{`a allow: claims.human == "ada"`}, []string{`a claims: (claims.human); anyone`}},
		{[]string{`a allow: claims.labels.team == "x"`}, nil},
		{[]string{`a deny: claims.user_agent == "x"`, `b allow: risky`}, nil},
		{[]string{`a allow: statement.startsWith("SELECT")`}, []string{`a statement-text: can say one thing in many ways`}},
		{[]string{`a allow: tables.written.all(t, t.table("scratch.*"))`}, []string{`a empty-list: tables.written.all() is true where there are no tables`}},
		{[]string{`a allow: tables.written.within("scratch.*")`}, nil},
		{[]string{`a allow: class == "read" && tables.read.all(t, t.table("x.*"))`}, nil}, // SELECT 1 reads nothing
		{[]string{`a allow: destinations.all(d, d.startsWith("gs://ours/"))`}, []string{`a empty-list: destinations.all()`}},
		{[]string{`a deny: class == "read"`, `b deny: risky`}, []string{`a denies-all: every call is denied`}},

		// dry runs
		{[]string{`a allow: class == "metadata_read" && dry_run.ran`}, []string{`a dry-run: calls of class metadata_read`}},
		{[]string{`a allow: method == "bigquery.tables.get" && dry_run.bytes < 1.TB`}, []string{`a dry-run: a dry run of bigquery.tables.get`}},
		{[]string{`a allow: method == "bigquery.jobs.query" && dry_run.bytes < 1.TB`}, nil},
	} {
		var got []string
		for _, f := range rules(t, tt.rules...).Lint() {
			got = append(got, f.Rule+" "+f.Code+": "+f.Message)
			if f.File != "policy.yaml" || f.Line == 0 || !strings.HasPrefix(f.String(), "policy.yaml:") {
				t.Errorf("%+v", f)
			}
		}
		ok := len(got) == len(tt.want)
		for _, want := range tt.want {
			head, part, _ := strings.Cut(want, ": ")
			ok = ok && slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, head+": ") && strings.Contains(s, part) })
		}
		if !ok {
			t.Errorf("%q:\n got %q\nwant %q", tt.rules, got, tt.want)
		}
	}
}

func TestLintApprovals(t *testing.T) {
	for _, tt := range []struct{ when, approval, want string }{
		{"true", `{from: ["role:approver"]}`, ""},
		{"true", `{from: ["role:admin"], approvals: 3}`, ""},
		{"true", `{from: ["human:a@x", "human:b@x"], approvals: 2}`, ""},
		{"true", `{from: ["role:auditor"]}`, "a role of that name cannot approve"},
		{"true", `{from: ["human:a@x"], approvals: 2}`, "nobody could give this approval: it wants 2, and 1 could"},
		{"true", `{from: ["human:a@x", "human:A@X"], approvals: 2}`, "it wants 2, and 1 could"},
		{`principal.human == "A@x"`, `{from: ["human:a@x"]}`, "it wants 1, and 0 could"},
		{`principal.human == "b@x"`, `{from: ["human:a@x"]}`, ""},
		{`principal.human in ["a@x", "b@x"]`, `{from: ["human:a@x"]}`, ""},
	} {
		s := load(t, fmt.Sprintf("version: 1\nrules:\n- name: a\n  when: %s\n  require_approval: %s\n", quote(tt.when), tt.approval))
		found := fmt.Sprint(s.Lint())
		if (tt.want == "") != (found == "[]") || !strings.Contains(found, tt.want) {
			t.Errorf("%s %s: %s", tt.when, tt.approval, found)
		}
	}
	s := load(t, "version: 1\nrules:\n- {name: a, when: class == \"write\", allow: {read_only: true}}\n")
	if found := fmt.Sprint(s.Lint()); !strings.Contains(found, "read_only denies every call of class write") {
		t.Error(found)
	}
}

// TestLintSound: a rule of which lint says that it never decides does not, for any
// call.
func TestLintSound(t *testing.T) {
	told := 0
	rapid.Check(t, func(t *rapid.T) {
		var lines []string
		for i := range 4 {
			lines = append(lines, fmt.Sprintf("r%d allow: %s", i, condition(t, 2, false)))
		}
		s, err := policy.Load([]policy.File{{Name: "p", Data: []byte(rulesYAML(lines...))}})
		if err != nil {
			t.Fatal(err)
		}
		silent := map[string]bool{}
		for _, f := range s.Lint() {
			if f.Code == "unreachable" || f.Code == "never" {
				silent[f.Rule] = true
				told++
			}
		}
		for range 20 {
			d, _ := s.Evaluate(context.Background(), input(t))
			// A condition that is never true may still be one that cannot be evaluated.
			if silent[d.Rule] && !d.Failed {
				t.Errorf("%q decides: %+v", lines, d)
			}
		}
	})
	if told == 0 {
		t.Error("lint found nothing in any policy")
	}
}

func TestDiff(t *testing.T) {
	before := rules(t, "a allow: true", "b allow: risky", "c allow: risky", "d deny: risky")
	for _, tt := range []struct {
		after []string
		want  string
	}{
		{[]string{"a allow: true", "b allow: risky", "c allow: risky", "d deny: risky"}, ""},
		{[]string{"a allow: true", "b allow: risky", "c allow: risky"}, "d removed"},
		{[]string{"a allow: true", "new deny: true", "b allow: risky", "c allow: risky", "d deny: risky"}, "new added"},
		{[]string{"a allow: true", "b allow: !risky", "c deny: risky", "d deny: risky"}, "b changed, c changed"},
		{[]string{"d deny: risky", "a allow: true", "b allow: risky", "c allow: risky"}, "d moved"},
		{[]string{"x deny: risky", "d deny: risky"}, "a removed, b removed, c removed, 1 more"},
	} {
		if got := policy.Summary(policy.Diff(before, rules(t, tt.after...)), 3); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.after, got, tt.want)
		}
	}
	if diff := cmp.Diff([]policy.Change{{"a", "added"}, {"b", "added"}, {"c", "added"}, {"d", "added"}}, policy.Diff(nil, before)); diff != "" {
		t.Error(diff)
	}
	if got := policy.Summary(policy.Diff(before, nil), 10); got != "a removed, b removed, c removed, d removed" {
		t.Error(got)
	}
}
