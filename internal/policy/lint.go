package policy

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/trailgate/trailgate"
)

// Finding is something about a rule that is probably not meant. A set with
// findings works, as the rules say.
type Finding struct {
	Rule, File string
	Line       int
	Code       string // one of the codes of docs/spec/policy.md, such as "unreachable"
	Message    string
}

func (f Finding) String() string {
	return fmt.Sprintf("%s:%d: %s: %s (%s)", f.File, f.Line, f.Rule, f.Message, f.Code)
}

// approverRoles are the roles that can approve (docs/identity.md).
var approverRoles = []string{"admin", "approver"}

// Lint looks for rules that cannot do what they say.
func (s *Set) Lint() []Finding {
	env, err := environment()
	if err != nil {
		return nil // Load would have failed too
	}
	l := &linter{env: env}
	for i := range s.rules {
		l.rule(&s.rules[i])
	}
	if !slices.ContainsFunc(s.rules, func(r rule) bool { return r.Effect != Deny }) && len(s.rules) > 0 {
		l.add(&s.rules[0], "denies-all", "no rule allows anything or asks for approval: every call is denied")
	}
	return l.found
}

type linter struct {
	env     *cel.Env
	earlier []earlierRule
	found   []Finding
}

type earlierRule struct {
	name string
	when condition
}

func (l *linter) add(r *rule, code, format string, args ...any) {
	l.found = append(l.found, Finding{Rule: r.Name, File: r.File, Line: r.Line, Code: code, Message: fmt.Sprintf(format, args...)})
}

func (l *linter) rule(r *rule) {
	when := l.folded(r)
	c := normalize(when)
	l.approval(r, c)
	if b, constant := constantOf(when); constant && !b {
		l.add(r, "never", "the condition is never true")
		return
	}
	if v, found := c.contradiction(); found {
		l.add(r, "never", "the condition is never true: %s would have to be two things at once", variables[v].path())
		return
	}
	for _, e := range l.earlier {
		if c.implies(e.when) {
			l.add(r, "unreachable", "never decides: rule %q above takes every call that this one would", e.name)
			return
		}
	}
	l.words(r, when, c)
	l.dryRun(r, c)
	l.loops(r, when)
	l.claims(r)
	if b, constant := constantOf(when); constant && b {
		if r.Effect == Allow {
			l.add(r, "allows-all", "allows every call that no rule above took, access changes and unknown ones included")
		}
		c = nil // which every other condition implies
	}
	l.earlier = append(l.earlier, earlierRule{r.Name, c})
}

// folded is the rule's condition with what is constant in it worked out.
func (l *linter) folded(r *rule) *ast.AST {
	folding, err := cel.NewConstantFoldingOptimizer()
	if err != nil {
		return r.ast
	}
	optimizer, err := cel.NewStaticOptimizer(folding)
	if err != nil {
		return r.ast
	}
	parsed, issues := l.env.Parse(r.When)
	if issues.Err() != nil || sizes(parsed.NativeRep()) != nil {
		return r.ast
	}
	checked, issues := l.env.Check(parsed)
	if issues.Err() != nil {
		return r.ast
	}
	out, issues := optimizer.Optimize(l.env, checked)
	if issues.Err() != nil {
		return r.ast
	}
	return out.NativeRep()
}

func constantOf(a *ast.AST) (value, constant bool) {
	if a.Expr().Kind() != ast.LiteralKind {
		return false, false
	}
	b, ok := a.Expr().AsLiteral().(types.Bool)
	return bool(b), ok
}

// approval looks for approvals that nobody could give.
func (l *linter) approval(r *rule, c condition) {
	if r.Effect != RequireApproval {
		return
	}
	humans, roles := []string{}, 0
	for _, from := range r.Approval.From {
		kind, name, _ := strings.Cut(from, ":")
		switch {
		case kind == "human":
			humans = append(humans, strings.ToLower(name))
		case contains(approverRoles, name):
			roles++
		default:
			l.add(r, "approver", "%q: a role of that name cannot approve; those that can are %s", from, strings.Join(approverRoles, " and "))
		}
	}
	slices.Sort(humans)
	humans = slices.Compact(humans)
	// Nobody approves what was asked for on their own behalf.
	if i, ok := fieldIndex["principal"]["human"]; ok {
		if asking, known := c.values(i); known && len(asking) == 1 {
			humans = slices.DeleteFunc(humans, func(h string) bool { return h == strings.ToLower(asking[0]) })
		}
	}
	if roles == 0 && len(humans) < r.Approval.Approvals {
		l.add(r, "approver", "nobody could give this approval: it wants %d, and %d could, who may not be the one on whose behalf the agent asks",
			r.Approval.Approvals, len(humans))
	}
}

// words finds comparisons with what a variable never is.
func (l *linter) words(r *rule, when *ast.AST, c condition) {
	seen := map[string]bool{}
	once := func(code, format string, args ...any) {
		message := fmt.Sprintf(format, args...)
		if !seen[message] {
			seen[message] = true
			l.add(r, code, "%s", message)
		}
	}
	check := func(v int, value string) {
		switch va := &variables[v]; {
		case va.words != nil && !contains(va.words, value):
			once("unknown-word", "%s is never %q%s", va.path(), value, hint(value, va.words))
		case va.path() == "method" && !strings.HasPrefix(value, "bigquery."):
			once("unknown-word", "method is never %q; methods are written as in %q", value, methodInsert)
		case strings.HasSuffix(va.path(), "statement_type") && value != strings.ToUpper(value):
			once("unknown-word", "%s is never %q; BigQuery's words are in capitals, as %q", va.path(), value, strings.ToUpper(value))
		}
	}
	for _, cl := range c {
		for _, a := range cl {
			if a.equals {
				check(a.variable, a.value)
			}
		}
	}
	ast.PreOrderVisit(when.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if args := call(e, operators.In); args != nil {
			value, isText := literalText(args[0])
			if v, ok := variableOf(when, args[1]); ok && isText {
				check(v, value)
				if variables[v].object == "tables" && strings.Contains(value, "*") {
					once("star", "\"in\" compares %q as it stands; write %s.touches(%q)", value, variables[v].path(), value)
				}
			}
			if v, ok := variableOf(when, args[0]); ok && args[1].Kind() == ast.ListKind {
				for _, el := range args[1].AsList().Elements() {
					if s, ok := literalText(el); ok {
						check(v, s)
					}
				}
			}
		}
		for _, op := range []string{operators.Equals, operators.NotEquals} {
			for _, arg := range call(e, op) {
				if s, ok := literalText(arg); ok && strings.HasSuffix(s, ".*") {
					once("star", "== compares %q as it stands; write .table(%q) for tables, .matches() or .startsWith() for other texts", s, s)
				}
			}
		}
	}))
}

// dryRun finds rules that ask for a dry run of what BigQuery has none for.
func (l *linter) dryRun(r *rule, c condition) {
	class, classKnown := c.values(plainIndex["class"])
	method, methodKnown := c.values(plainIndex["method"])
	asks := r.ReadsDryRun && !(r.Effect == Allow && onlyByReadOnly(r))
	switch {
	case asks && classKnown && slices.Equal(class, []string{string(trailgate.ClassMetadataRead)}):
		l.add(r, "dry-run", "asks for a dry run of calls of class metadata_read, for which BigQuery has none: the rule denies them")
	case asks && methodKnown && !contains(method, methodInsert) && !contains(method, methodQuery):
		l.add(r, "dry-run", "asks for a dry run of %s, for which BigQuery has none: the rule denies it", strings.Join(method, ", "))
	}
	if r.Limits.ReadOnly && classKnown && !slices.ContainsFunc(class, func(s string) bool { return trailgate.Class(s).Gravity() <= trailgate.ClassRead.Gravity() }) {
		l.add(r, "never", "read_only denies every call of class %s", strings.Join(class, ", "))
	}
}

func onlyByReadOnly(r *rule) bool {
	for i := range reads(r.ast) {
		if variables[i].object == dryRunObject {
			return false
		}
	}
	return !r.message.readsDryRun
}

// loops finds all() over lists that may be empty, in rules that let calls pass.
func (l *linter) loops(r *rule, when *ast.AST) {
	if r.Effect == Deny {
		return
	}
	told := map[int]bool{}
	ast.PreOrderVisit(when.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.ComprehensionKind {
			return
		}
		loop := e.AsComprehension()
		v, ok := variableOf(when, loop.IterRange())
		isAll := loop.AccuInit().Kind() == ast.LiteralKind && loop.AccuInit().AsLiteral() == types.True
		if !ok || !isAll || told[v] {
			return
		}
		switch path := variables[v].path(); path {
		case "tables.written", "tables.all", "dry_run.written":
			told[v] = true
			l.add(r, "empty-list", "%s.all() is true where there are no tables at all, as for DROP SCHEMA; write %s.within(pattern)", path, path)
		case "destinations", "classes":
			told[v] = true
			if path == "destinations" {
				l.add(r, "empty-list", "destinations.all() is true where there are none; add destinations.size() > 0 if that is not meant")
			}
		}
	}))
}

// claims finds rules that let calls pass for what the client merely says.
func (l *linter) claims(r *rule) {
	if r.Effect != Allow {
		return
	}
	var named []string
	for i := range reads(r.ast) {
		if variables[i].object == "claims" && variables[i].name != "labels" {
			named = append(named, variables[i].path())
		}
		if variables[i].path() == "statement" {
			l.add(r, "statement-text", "decides by the text of the statement, which can say one thing in many ways; tables, class and statement_type are read from it")
		}
	}
	if len(named) > 0 {
		slices.Sort(named)
		l.add(r, "claims", "allows by what the client merely says (%s); anyone who has a token can say it", strings.Join(named, ", "))
	}
}
