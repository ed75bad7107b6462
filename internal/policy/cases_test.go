package policy_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/policy"
)

func TestRunCases(t *testing.T) {
	s := rules(t,
		`large deny: class == "read" && dry_run.bytes > 2.TB`,
		`reads allow: class == "read"`,
		`labels allow: claims.labels.team == "x"`,
	)
	for _, tt := range []struct{ text, problem string }{
		{`{name: a, call: {class: read, dry_run: {bytes: 1TB}}, want: allow}`, ""},
		{`{name: a, call: {class: read, dry_run: {bytes: 1TB}}, want: allow, rule: reads}`, ""},
		{`{name: a, call: {class: read, dry_run: {bytes: 3TB}}, want: deny, rule: large}`, ""},
		{`{name: a, call: {class: read, dry_run: {bytes: 3TB}}, want: allow}`, `want allow, got deny by rule "large": no`},
		{`{name: a, call: {class: read, dry_run: {bytes: 1TB}}, want: allow, rule: labels}`, `want allow by rule "labels", got it by "reads"`},
		{`{name: a, call: {class: read}, want: allow}`, `rule "large" asks for a dry run: give the case a dry_run`},
		{`{name: a, call: {class: read, dry_run: {error: nope}}, want: deny}`, `rule "large": the rule could not be evaluated: dry_run.bytes`},
		{`{name: a, call: {class: read, dry_run: {error: nope}}, want: deny, rule: large}`, ""},
		{`{name: a, call: {class: write, claims: {labels: {team: x}}}, want: allow, rule: labels}`, ""},
		{`{name: a, call: {class: write}, want: deny}`, `rule "labels": the rule could not be evaluated: no such key`},
	} {
		results, err := policy.RunCases(context.Background(), s, policy.File{Name: "c.yaml", Data: []byte("version: 1\ncases:\n- " + tt.text + "\n")}, nil)
		if err != nil || len(results) != 1 {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		r := results[0]
		if !strings.HasPrefix(r.Problem, tt.problem) || r.Passed() != (tt.problem == "") || r.Line != 3 || r.File != "c.yaml" {
			t.Errorf("%s: %+v", tt.text, r)
		}
	}
}

// TestCaseVariables: a case can say every variable that is not worked out from
// others, and each arrives where the condition looks.
func TestCaseVariables(t *testing.T) {
	said := `
    principal: {agent: "v1", issuer: "v2", subject: "v3", human: "v4", human_by: "issuer", actors: ["v5"], auth_mode: "oidc_jwt", token_id: "v6"}
    claims: {human: "v7", user_agent: "v8", reason: "v9", labels: {team: "v10"}, title: "v11", purpose: "v12"}
    connection: "v13"
    project: "v14"
    location: "v15"
    method: "v16"
    classes: [read, write]
    statement_type: "v17"
    statement: "v18"
    tables: {read: ["v19"], written: ["v20"]}
    destinations: ["v21"]
    flags: ["v22"]
    job: {id: "v23", project: "v24", type: "v25", owner_agent: "v26"}
    request: {dry_run: true, bytes: 27, maximum_bytes_billed: 28, priority: "v29"}
    dry_run: {statement_type: "v30", read: ["v31"], written: ["v32"], bytes: 33}
    session: {id: "v34", calls: 35, rows: 36, bytes: 37, bytes_billed: 38, started: 2026-11-23T10:00:39Z}
    budget: {name: "v40", limit: 100, used: 41, reserved: 42, warning: true}
    now: 2026-11-23T10:00:43Z
`
	conditions := map[string]string{
		"principal.agent": `== "v1"`, "principal.issuer": `== "v2"`, "principal.subject": `== "v3"`, "principal.human": `== "v4"`,
		"principal.human_by": `== "issuer"`, "principal.actors": `== ["v5"]`, "principal.auth_mode": `== "oidc_jwt"`, "principal.token_id": `== "v6"`,
		"claims.human": `== "v7"`, "claims.user_agent": `== "v8"`, "claims.reason": `== "v9"`, "claims.labels": `== {"team": "v10"}`,
		"claims.title": `== "v11"`, "claims.purpose": `== "v12"`, "connection": `== "v13"`, "project": `== "v14"`, "location": `== "v15"`,
		"method": `== "v16"`, "class": `== "write"`, "classes": `== ["read", "write"]`, "statement_type": `== "v17"`, "statement": `== "v18"`,
		"risky": `== false`, "tables.read": `== ["v19"]`, "tables.written": `== ["v20"]`, "tables.all": `== ["v19", "v20"]`,
		"destinations": `== ["v21"]`, "flags": `== ["v22"]`, "job.id": `== "v23"`, "job.project": `== "v24"`, "job.type": `== "v25"`,
		"job.owner_agent": `== "v26"`, "job.own": `== false`, "job.foreign": `== false`, "job.created_here": `== true`,
		"request.dry_run": `== true`, "request.bytes": `== 27`, "request.maximum_bytes_billed": `== 28`, "request.priority": `== "v29"`,
		"dry_run.ran": `== true`, "dry_run.error": `== ""`, "dry_run.statement_type": `== "v30"`, "dry_run.read": `== ["v31"]`,
		"dry_run.written": `== ["v32"]`, "dry_run.bytes": `== 33`, "dry_run.differs": `== true`, "session.id": `== "v34"`, "session.calls": `== 35`,
		"session.rows": `== 36`, "session.bytes": `== 37`, "session.bytes_billed": `== 38`, "session.started": `== timestamp("2026-11-23T10:00:39Z")`,
		"budget.limited": `== true`, "budget.name": `== "v40"`, "budget.limit": `== 100`, "budget.used": `== 41`, "budget.remaining": `== 17`,
		"budget.warning": `== true`, "now": `== timestamp("2026-11-23T10:00:43Z")`,
	}
	paths, _ := policy.Variables()
	for _, path := range paths {
		if conditions[path] == "" {
			t.Errorf("no case says %s", path)
			continue
		}
		s := rules(t, "a allow: "+path+" "+conditions[path])
		results, err := policy.RunCases(context.Background(), s, policy.File{Name: "c", Data: []byte("version: 1\ncases:\n- name: a\n  want: allow\n  call:" + said)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !results[0].Passed() {
			t.Errorf("%s %s: %s", path, conditions[path], results[0].Problem)
		}
	}
}

func TestCasesMistakes(t *testing.T) {
	s := rules(t, "a allow: true")
	for text, want := range map[string]string{
		"":                           "c: the file is empty",
		"cases: []":                  "c: version: want",
		"version: 1\n":               "c: cases: want 1 to 10000",
		"version: 1\ncases:\n- {}\n": "c:3: cases[0].name: missing",
		"version: 1\ncases:\n- {name: a, call: {class: read}, want: maybe}":                                           "c:3: cases[0].want: want allow, deny, require_approval",
		"version: 1\ncases:\n- {name: a, call: {class: reed}, want: deny}":                                            `c:3: cases[0].call.class: "reed" is no class; did you mean "read"?`,
		"version: 1\ncases:\n- {name: a, call: {agent: x}, want: deny}":                                               "c:3: cases[0].call.class: missing",
		"version: 1\ncases:\n- {name: a, call: {class: read, agnet: x}, want: deny}":                                  `c:3: cases[0].call.agnet: unknown key; did you mean "agent"?`,
		"version: 1\ncases:\n- {name: a, call: {class: read, agent: x, principal: {agent: y}}, want: deny}":           "c:3: cases[0].call: agent and human are short for",
		"version: 1\ncases:\n- {name: a, call: {class: read, now: yesterday}, want: deny}":                            `c:3: cases[0].call.now: "yesterday": want a time`,
		"version: 1\ncases:\n- {name: a, call: {class: read, request: {bytes: many}}, want: deny}":                    `c:3: cases[0].call.request.bytes: "many": want a size`,
		"version: 1\ncases:\n- {name: a, call: {class: read, claims: {labels: {a: [b]}}}, want: deny}":                "c:3: cases[0].call.claims.labels.a: want text, not a list",
		"version: 1\ncases:\n- {name: a, call: {class: read, statement: 'SELECT 1', tables: {raed: []}}, want: deny}": `c:3: cases[0].call.tables.raed: unknown key; did you mean "read"?`,
	} {
		_, err := policy.RunCases(context.Background(), s, policy.File{Name: "c", Data: []byte(text)}, nil)
		if !strings.HasPrefix(fmt.Sprint(err), want) {
			t.Errorf("%q:\n got %v\nwant %s", text, err, want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := policy.RunCases(ctx, s, policy.File{Name: "c", Data: []byte("version: 1\ncases:\n- {name: a, call: {class: read}, want: allow}")}, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestClassify: a case that gives its statement needs no class of its own.
func TestClassify(t *testing.T) {
	s := rules(t, `writes deny: class == "write" && tables.written.within("hr.*")`, "rest allow: true")
	classify := func(in *policy.Input) error {
		if in.Statement == "bad" {
			return errors.New("cannot be read")
		}
		if in.Class == "" {
			in.Class = "write"
			in.Tables = trailgate.Tables{Written: []string{in.Project + ".hr.pay"}}
		}
		return nil
	}
	run := func(text string) ([]policy.Result, error) {
		return policy.RunCases(context.Background(), s, policy.File{Name: "c", Data: []byte("version: 1\ncases:\n- " + text)}, classify)
	}
	if r, err := run(`{name: a, call: {project: acme, statement: "DELETE FROM hr.pay WHERE TRUE"}, want: deny, rule: writes}`); err != nil || !r[0].Passed() {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := run(`{name: a, call: {project: acme, statement: "DELETE FROM hr.pay WHERE TRUE", class: read}, want: allow}`); err != nil || !r[0].Passed() {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := run(`{name: a, call: {statement: bad}, want: deny}`); err == nil || err.Error() != "c:3: cases[0].call: cannot be read" {
		t.Error(err)
	}
}
