package policy_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/policy"
)

// TestMistakes: each mistake is reported with its file and line, in words that
// say what was meant.
func TestMistakes(t *testing.T) {
	rule := func(when string) string {
		return "version: 1\nrules:\n- name: a\n  when: " + quote(when) + "\n  allow: {}\n"
	}
	with := func(effect string) string {
		return "version: 1\nrules:\n- name: a\n  when: 'true'\n  " + effect + "\n"
	}
	for _, tt := range []struct{ text, want string }{
		// the file
		{"", `p.yaml: the file is empty`},
		{"# nothing\n", `p.yaml: the file is empty`},
		{"version: 1\n\trules: []\n", `p.yaml:2: not valid YAML`},
		{"version: 1\nrules: []\n---\nversion: 1\n", `p.yaml:3: a second YAML document`},
		{"rules: [{name: a, when: 'true', allow: {}}]", `p.yaml:1: version: missing`},
		{"version: 2\nrules: [{name: a, when: 'true', allow: {}}]", `p.yaml:1: version: 2 is not known`},
		{"version: 1\n", `p.yaml: rules: missing or empty`},
		{"version: 1\nrules: []\n", `p.yaml: rules: missing or empty`},
		{"version: 1\nrule: []\n", `p.yaml:2: rule: unknown key; did you mean "rules"?`},
		{"version: 1\nversion: 1\nrules: []", `p.yaml:2: version: given twice, first on line 1`},
		{"version: 1\nrules: {}\n", `p.yaml:2: rules: want a list, not keys and values`},
		{"version: one\nrules: []\n", `p.yaml:1: version: "one": want a whole number`},
		{"version: 1\nrules:\n- &x {name: a, when: 'true', allow: {}}\n- *x\n", `p.yaml:3: rules[0]: anchors and aliases are not supported`},
		{"version: 1\nrules:\n- {<<: {name: a}, when: 'true', allow: {}}\n", `p.yaml:3: rules[0]: want a plain key`},
		{"version: 1\nrules: \xff\n", `p.yaml: not valid UTF-8`},
		{"- a\n", `p.yaml:1: want keys and values, not a list`},
		// rules
		{"version: 1\nrules:\n- when: 'true'\n  allow: {}\n", `p.yaml:3: rules[0].name: missing`},
		{"version: 1\nrules:\n- name: A\n  when: 'true'\n  allow: {}\n", `p.yaml:3: rules[0].name: "A": want lower-case letters`},
		{"version: 1\nrules:\n- name: a\n  allow: {}\n", `p.yaml:3: rules[0].when: missing; a rule for every call says so`},
		{"version: 1\nrules:\n- name: a\n  when:\n  allow: {}\n", `p.yaml:4: rules[0].when: has no value`},
		{"version: 1\nrules:\n- name: a\n  whn: 'true'\n  allow: {}\n", `p.yaml:4: rules[0].whn: unknown key; did you mean "when"?`},
		{"version: 1\nrules:\n- name: a\n  when: 'true'\n", `p.yaml:3: rules[0]: want exactly one of allow, deny and require_approval; it has 0`},
		{with("allow: {}\n  deny: x"), `p.yaml:3: rules[0]: want exactly one of allow, deny and require_approval; it has 2`},
		{"version: 1\nrules:\n- {name: a, when: 'true', allow: {}}\n- {name: a, when: 'true', allow: {}}\n", `p.yaml:4: rules[1].name: "a" is taken by the rule at p.yaml:3`},
		{"version: 1\nrules:\n- {name: a, when: true, allow: {}}\n- {name: b, when: [x], allow: {}}\n", `p.yaml:4: rules[1].when: want text, not a list`},
		// conditions
		{rule(""), `p.yaml:4: rules[0].when: empty`},
		{rule("class =="), `p.yaml:4: rules[0].when: Syntax error: mismatched input '<EOF>' (character 9)`},
		{rule("clas == 'read'"), `p.yaml:4: rules[0].when: "clas" is no variable or function; did you mean "class"? (character 1)`},
		{rule("principal.agnet == 'x'"), `p.yaml:4: rules[0].when: principal has no field "agnet"; did you mean "agent"?`},
		{rule("dry_run.byte > 1.TB"), `p.yaml:4: rules[0].when: dry_run has no field "byte"; did you mean "bytes"?`},
		{rule("class == 1"), `p.yaml:4: rules[0].when: found no matching overload for '_==_' applied to '(string, int)'`},
		{rule("class"), `p.yaml:4: rules[0].when: want a condition that is true or false; this is of type string`},
		{rule("claims.labels.team"), `p.yaml:4: rules[0].when: want a condition that is true or false; this is of type string`},
		{rule("principal == principal"), `p.yaml:4: rules[0].when: principal is an object: compare its fields`},
		{rule("dyn(class) == 1"), `p.yaml:4: rules[0].when: dyn() is not part of the language`},
		{rule("type(class) == string"), `p.yaml:4: rules[0].when: type() is not part of the language`},
		{rule("[1, 'a'].exists(x, x == 1)"), `p.yaml:4: rules[0].when: `},
		{rule("has(principal.human)"), `p.yaml:4: rules[0].when: has(principal.human): a variable is always there`},
		{rule("request.bytes > 2.XB"), `p.yaml:4: rules[0].when: "XB" is no unit of bytes`},
		{rule("request.bytes > 9224.PB"), `p.yaml:4: rules[0].when: a size is negative or too large`},
		{rule("request.bytes > 'a'.TB"), `p.yaml:4: rules[0].when: "TB" belongs to a number`},
		{rule("tables.read.within('a..b')"), `p.yaml:4: rules[0].when: want a table pattern of one to three parts`},
		{rule("tables.read.within(['a', 'a..b'])"), `p.yaml:4: rules[0].when: want a table pattern of one to three parts`},
		{rule("tables.read.exists(t, t.table(''))"), `p.yaml:4: rules[0].when: want a table pattern of one to three parts`},
		{rule("tables.read.exists(class, class == 'x')"), `p.yaml:4: rules[0].when: "class" is a variable already`},
		{rule("business_hours(now, 'Mars', 'Mon', '09:00-17:00')"), `p.yaml:4: rules[0].when: "Mars" is no known time zone`},
		{rule("business_hours(now, '../../etc/passwd', 'Mon', '09:00-17:00')"), `p.yaml:4: rules[0].when: "../../etc/passwd" is no known time zone`},
		{rule("business_hours(now, 'Local', 'Mon', '09:00-17:00')"), `p.yaml:4: rules[0].when: "Local": want a time zone`},
		{rule("business_hours(now, 'UTC', 'Monday', '09:00-17:00')"), `p.yaml:4: rules[0].when: "Monday": want days`},
		{rule("business_hours(now, 'UTC', 'Mon', '9-17')"), `p.yaml:4: rules[0].when: "9-17": want hours`},
		{rule("business_hours(now, 'UTC', 'Mon', '09:00-09:00')"), `p.yaml:4: rules[0].when: "09:00-09:00": want hours`},
		{rule("business_hours(now, project, 'Mon', '09:00-17:00')"), `p.yaml:4: rules[0].when: business_hours wants zone, days and hours written out`},
		{rule("statement.matches('(')"), `p.yaml:4: rules[0].when: invalid matches argument`},
		{rule("statement.matches('((a{100}){100}){100}')"), `p.yaml:4: rules[0].when: invalid matches argument`},
		{rule("flags.exists(a, flags.exists(b, flags.exists(c, a == b && b == c)))"), `p.yaml:4: rules[0].when: comprehension exceeds nesting limit`},
		{rule(strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100)), `p.yaml:4: rules[0].when: `},
		{rule(strings.Repeat("1+", 4000) + "1 > 1"), `p.yaml:4: rules[0].when: `},
		{rule("[principal].size() == 1"), `p.yaml:4: rules[0].when: principal is an object`},
		{rule("'" + strings.Repeat("a", 9000) + "' == class"), `p.yaml:4: rules[0].when: longer than 8192 bytes`},
		{"version: 1\nrules:\n- name: a\n  when: |\n    class == 'read' &&\n    clas == 'x'\n  allow: {}\n", `p.yaml:4: rules[0].when: "clas" is no variable or function; did you mean "class"? (character 1 of line 2 of the condition)`},
		// what a rule says
		{with("deny: ''"), `p.yaml:5: rules[0].deny: want the message`},
		{with("deny: " + strings.Repeat("a", 1100)), `p.yaml:5: rules[0].deny: longer than 1024 bytes`},
		{with("deny: 'x {dry_run.byts}'"), `p.yaml:5: rules[0].deny: {dry_run.byts} is no variable; did you mean "dry_run.bytes"?`},
		{with("deny: 'x {clas'"), `p.yaml:5: rules[0].deny: a { without a }`},
		{with("deny: 'x } y'"), `p.yaml:5: rules[0].deny: a } without a {`},
		{with("deny: 'x {claims.labels}'"), `p.yaml:5: rules[0].deny: {claims.labels} has no short form`},
		{with("allow:"), `p.yaml:5: rules[0].allow: has no value`},
		{with("allow: true"), `p.yaml:5: rules[0].allow: want keys and values, not "true"`},
		{with("allow: {maximum_bytes: 1TB}"), `p.yaml:5: rules[0].allow.maximum_bytes: unknown key`},
		{with("allow: {maximum_bytes_billed: 0}"), `p.yaml:5: rules[0].allow.maximum_bytes_billed: want at least 1 byte`},
		{with("allow: {maximum_bytes_billed: 1T}"), `p.yaml:5: rules[0].allow.maximum_bytes_billed: "1T": want a size`},
		{with("allow: {job_timeout: 10}"), `p.yaml:5: rules[0].allow.job_timeout: "10": want a duration`},
		{with("allow: {job_timeout: 1ms}"), `p.yaml:5: rules[0].allow.job_timeout: want 1s to 24h`},
		{with("allow: {max_rows: 0}"), `p.yaml:5: rules[0].allow.max_rows: want at least 1`},
		{with("allow: {max_bytes: 0}"), `p.yaml:5: rules[0].allow.max_bytes: want at least 1 byte`},
		{with("allow: {recording: all}"), `p.yaml:5: rules[0].allow.recording: want metadata, request or results`},
		{with("allow: {read_only: yes}"), `p.yaml:5: rules[0].allow.read_only: "yes": want true or false`},
		{with("allow: {require_labels: [Team]}"), `p.yaml:5: rules[0].allow.require_labels[0]: "Team" is no key`},
		{with("allow: {require_labels: [a, a]}"), `p.yaml:5: rules[0].allow.require_labels[1]: "a" is given twice`},
		{with("allow: {require_labels: [trailgate_agent]}"), `p.yaml:5: rules[0].allow.require_labels[0]: labels under trailgate_ are the gateway's own`},
		{with("require_approval: {}"), `p.yaml:5: rules[0].require_approval.from: want 1 to 100 who may approve`},
		{with("require_approval: {from: [ada]}"), `p.yaml:5: rules[0].require_approval.from[0]: "ada": want "human:NAME" or "role:NAME"`},
		{with("require_approval: {from: ['role:A']}"), `p.yaml:5: rules[0].require_approval.from[0]: "role:A": want`},
		{with("require_approval: {from: ['role:a', 'role:a']}"), `p.yaml:5: rules[0].require_approval.from[1]: "role:a" is given twice`},
		{with("require_approval: {from: ['role:a'], approvals: 0}"), `p.yaml:5: rules[0].require_approval.approvals: want 1 to 10`},
		{with("require_approval: {from: ['role:a'], expires: 1s}"), `p.yaml:5: rules[0].require_approval.expires: want 1m to 168h`},
		{with("require_approval: {from: ['role:a'], limits: {max_rows: -1}}"), `p.yaml:5: rules[0].require_approval.limits.max_rows: want at least 1`},
	} {
		s, err := policy.Load([]policy.File{{Name: "p.yaml", Data: []byte(tt.text)}})
		var errs policy.Errors
		if s != nil || !errors.As(err, &errs) {
			t.Errorf("%.300q: want an Errors, got %v", tt.text, err)
			continue
		}
		if !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%.300q:\n got %s\nwant %s", tt.text, err, tt.want)
		}
		if len(err.Error()) > 4000 {
			t.Errorf("a mistake in %d bytes", len(err.Error()))
		}
	}
}

// TestAllMistakes: they are reported together, of all files.
func TestAllMistakes(t *testing.T) {
	_, err := policy.Load([]policy.File{
		{Name: "a.yaml", Data: []byte("version: 1\nrules:\n- name: a\n  when: clas == 'x'\n  allow: {max_rows: 0}\n- name: b\n  when: 'true'\n  deny: no\n")},
		{Name: "b.yaml", Data: []byte("version: 1\nrules:\n- name: b\n  when: 'tru'\n  deny: no\n")},
	})
	want := strings.Join([]string{
		`a.yaml:5: rules[0].allow.max_rows: want at least 1; to allow nothing, deny`,
		`a.yaml:4: rules[0].when: "clas" is no variable or function; did you mean "class"? (character 1)`,
		`b.yaml:3: rules[0].name: "b" is taken by the rule at a.yaml:6`,
		`b.yaml:4: rules[0].when: "tru" is no variable or function (character 1)`,
	}, "\n")
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Error(diff)
	}
	many := "version: 1\nrules:\n" + strings.Repeat("- {nam: a}\n", 5000)
	_, err = policy.Load([]policy.File{{Name: "p", Data: []byte(many)}})
	if n := strings.Count(fmt.Sprint(err), "\n"); n > 60 {
		t.Errorf("%d mistakes are reported", n)
	}
}

func TestLoadBounds(t *testing.T) {
	if _, err := policy.Load(nil); err == nil {
		t.Error("a set of no files")
	}
	if _, err := policy.Load(make([]policy.File, policy.MaxFiles+1)); err == nil {
		t.Error("too many files")
	}
	if _, err := policy.Load([]policy.File{{Name: "p", Data: make([]byte, policy.MaxFileBytes+1)}}); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a large file: %v", err)
	}
	var lines []string
	for i := range policy.MaxRules + 1 {
		lines = append(lines, fmt.Sprintf("r%d allow: true", i))
	}
	if _, err := policy.Load([]policy.File{{Name: "p", Data: []byte(rulesYAML(lines...))}}); err == nil || !strings.Contains(err.Error(), "more than 2000 rules") {
		t.Errorf("too many rules: %v", err)
	}
	if s := rules(t, lines[:policy.MaxRules]...); len(s.Rules()) != policy.MaxRules {
		t.Error("2,000 rules are not loaded")
	}
}

func TestRules(t *testing.T) {
	s, err := policy.Load([]policy.File{
		{Name: "a.yaml", Data: []byte(`version: 1
rules:
  - name: reads
    when: class == "read"
    allow: {maximum_bytes_billed: 2TB, job_timeout: 10m, max_rows: 10000, max_bytes: 10MB, recording: results, require_labels: [team], read_only: true}
`)},
		{Name: "b.yaml", Data: []byte(`version: 1
rules:
  - name: ask
    when: |
      class == "write"
    require_approval: {from: ["human:ada@example.com", "role:approver"], approvals: 2, expires: 2h, reason: "{principal.agent} asks", limits: {max_rows: 5}}
  - name: ask-simply
    when: dry_run.bytes > 1.TB
    require_approval: {from: ["role:approver"]}
  - {name: never, when: 'true', deny: "not {dry_run.bytes}"}
`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := s.Rules()
	want := []policy.Rule{
		{
			Name: "reads", File: "a.yaml", Line: 3, When: `class == "read"`, Effect: policy.Allow, ReadsDryRun: true,
			Limits: policy.Limits{
				MaximumBytesBilled: 2e12, JobTimeout: 600e9, MaxRows: 10000, MaxBytes: 1e7, Recording: "results", RequireLabels: []string{"team"}, ReadOnly: true,
			},
		},
		{
			Name: "ask", File: "b.yaml", Line: 3, When: "class == \"write\"\n", Effect: policy.RequireApproval, Message: "{principal.agent} asks", Limits: policy.Limits{MaxRows: 5},
			Approval: policy.Approval{From: []string{"human:ada@example.com", "role:approver"}, Approvals: 2, Expires: 7200e9},
		},
		{
			Name: "ask-simply", File: "b.yaml", Line: 7, When: "dry_run.bytes > 1.TB", Effect: policy.RequireApproval, ReadsDryRun: true,
			Approval: policy.Approval{From: []string{"role:approver"}, Approvals: 1, Expires: policy.DefaultExpiry},
		},
		{Name: "never", File: "b.yaml", Line: 10, When: "true", Effect: policy.Deny, Message: "not {dry_run.bytes}", ReadsDryRun: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got[0].Limits.RequireLabels[0] = "changed"
	if s.Rules()[0].Limits.RequireLabels[0] != "team" {
		t.Error("a set can be changed from outside")
	}
	limits := map[string]string{
		"maximum_bytes_billed": "2000000000000", "job_timeout_ms": "600000", "max_rows": "10000", "max_bytes": "10000000", "recording": "results",
		"require_labels": "team", "read_only": "true",
	}
	if diff := cmp.Diff(limits, want[0].Limits.Map()); diff != "" {
		t.Error(diff)
	}
	if (policy.Limits{}).Map() != nil {
		t.Error("no limits make a map")
	}
}

// TestDigest: it changes with every byte and with where files are divided.
func TestDigest(t *testing.T) {
	one := rulesYAML("a allow: true")
	two := rulesYAML("b allow: true")
	digest := func(texts ...string) string {
		var files []policy.File
		for i, text := range texts {
			files = append(files, policy.File{Name: fmt.Sprint(i), Data: []byte(text)})
		}
		s, err := policy.Load(files)
		if err != nil {
			t.Fatal(err)
		}
		return s.Digest()
	}
	all := []string{
		digest(one), digest(two), digest(one, two), digest(two, one), digest(one + "# note\n"),
		digest(one+two[len("version: 1\nrules:\n"):], strings.ReplaceAll(one, "name: a", "name: c")),
	}
	for i, a := range all {
		if len(a) != 64 {
			t.Errorf("%q is no SHA-256", a)
		}
		for _, b := range all[i+1:] {
			if a == b {
				t.Error("two policies have the same digest")
			}
		}
	}
	if digest(one) != all[0] {
		t.Error("one policy has two digests")
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(policy.Starter())
	cases, err := os.ReadFile("testdata/starter-cases.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cases)
	for _, when := range []string{
		`2.TB > 1.kB`, `tables.read.all(t, t.table("a.*"))`, `has(claims.labels.team)`, `business_hours(now, "UTC", "Mon", "09:00-17:00")`,
		`claims.labels["x"] in ["a"]`, `statement.matches("^(?i)select")`, `{"a": 1}["a"] == 1`, `class == "read" ? risky : !risky`,
	} {
		f.Add([]byte(rulesYAML("a allow: "+when, "b deny: "+when)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		files := []policy.File{{Name: "p", Data: data}}
		s, err := policy.Load(files)
		if (s == nil) != (err != nil) {
			t.Fatal("a set and an error, or neither")
		}
		var errs policy.Errors
		if err != nil && (!errors.As(err, &errs) || len(errs) == 0) {
			t.Fatalf("%v is no Errors", err)
		}
		if err == nil {
			check(t, s)
		}
		_, _ = policy.RunCases(t.Context(), s, files[0], nil)
	})
}
