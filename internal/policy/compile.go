package policy

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
)

// when compiles a rule's condition.
func (l *loader) when(n *lined[string], key string, r *rule) {
	text := n.Value
	if len(text) > MaxWhenBytes {
		l.errorf(n.Line, key, "longer than %d bytes; split the rule", MaxWhenBytes)
		return
	}
	if strings.TrimSpace(text) == "" {
		l.errorf(n.Line, key, "empty; a rule for every call says so: when: 'true'")
		return
	}
	parsed, issues := l.env.Parse(text)
	if issues.Err() != nil {
		l.issues(n, key, issues)
		return
	}
	if err := errors.Join(fields(parsed.NativeRep()), sizes(parsed.NativeRep())); err != nil {
		l.errorf(n.Line, key, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	checked, issues := l.env.Check(parsed)
	if issues.Err() != nil {
		l.issues(n, key, issues)
		return
	}
	if got := checked.OutputType(); !got.IsExactType(types.BoolType) {
		l.errorf(n.Line, key, "want a condition that is true or false; this is of type %s", cel.FormatCELType(got))
		return
	}
	if err := inspect(checked.NativeRep()); err != nil {
		l.errorf(n.Line, key, "%v", err)
		return
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize), cel.CustomDecoratorV2(prepare)}
	cost, err := l.env.EstimateCost(checked, costs{})
	if err == nil && cost.Max <= maxSmallCost {
		r.small, err = l.env.Program(checked, options...)
	}
	if err == nil {
		r.counted, err = l.env.Program(checked, append(options,
			cel.CostTracking(costs{}), cel.CostLimit(maxRuleCost), cel.InterruptCheckFrequency(interruptEvery))...)
	}
	if err != nil {
		l.errorf(n.Line, key, "%v", err)
		return
	}
	r.ast = checked.NativeRep()
	r.ReadsDryRun = r.message.readsDryRun || r.Limits.ReadOnly
	for i := range reads(r.ast) {
		r.ReadsDryRun = r.ReadsDryRun || variables[i].object == dryRunObject
	}
}

// issues reports what CEL found, at the line it means where the condition is
// written over several lines.
func (l *loader) issues(n *lined[string], key string, issues *cel.Issues) {
	for i, e := range issues.Errors() {
		if i == 3 { // the rest mostly follows from the first
			return
		}
		message := e.Message
		if name, ok := undeclared(message); ok {
			message = fmt.Sprintf("%q is no variable or function%s", name, hint(name, append(paths(), objectNames...)))
		}
		message, _, _ = strings.Cut(message, " expecting {") // tokens, which tell nobody anything
		where := fmt.Sprintf("character %d", e.Location.Column()+1)
		if strings.Contains(strings.TrimSpace(n.Value), "\n") {
			where += fmt.Sprintf(" of line %d of the condition", e.Location.Line())
		}
		l.errorf(n.Line, key, "%s (%s)", message, where)
	}
}

func undeclared(message string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(message, "undeclared reference to '")
	if !ok {
		return "", false
	}
	name, _, ok = strings.Cut(rest, "'")
	return name, ok
}

func fieldNames(object string) []string {
	var out []string
	for name := range fieldIndex[object] {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// fields finds misspelt fields before CEL's checker does, to say what was meant.
func fields(a *celast.AST) error {
	var failed error
	celast.PreOrderVisit(a.Expr(), celast.NewExprVisitor(func(e celast.Expr) {
		if failed != nil {
			return
		}
		switch e.Kind() {
		case celast.SelectKind:
			sel := e.AsSelect()
			if sel.Operand().Kind() != celast.IdentKind {
				return
			}
			object := sel.Operand().AsIdent()
			known := fieldIndex[object]
			if _, ok := known[sel.FieldName()]; known != nil && !ok {
				failed = fmt.Errorf("%s has no field %q%s", object, sel.FieldName(), hint(sel.FieldName(), fieldNames(object)))
			}
		case celast.ComprehensionKind:
			name := e.AsComprehension().IterVar()
			if _, taken := plainIndex[name]; taken || fieldIndex[name] != nil {
				failed = fmt.Errorf("%q is a variable already; call the element something else", name)
			}
		}
	}))
	return failed
}

var errSizeRange = errors.New("a size is negative or too large")

// sizes turns 2.TB into the number that it stands for. CEL reads it as the field
// TB of the number 2, which exists nowhere else.
func sizes(a *celast.AST) error {
	var failed error
	make := celast.NewExprFactory()
	celast.PostOrderVisit(a.Expr(), celast.NewExprVisitor(func(e celast.Expr) {
		if e.Kind() != celast.SelectKind || e.AsSelect().Operand().Kind() != celast.LiteralKind {
			return
		}
		sel := e.AsSelect()
		factor, ok := unit(sel.FieldName())
		if !ok || sel.IsTestOnly() {
			failed = fmt.Errorf("%q is no unit of bytes; known are B, kB, MB, GB, TB, PB, KiB, MiB, GiB, TiB, PiB", sel.FieldName())
			return
		}
		var n types.Int
		switch v := sel.Operand().AsLiteral().(type) {
		case types.Int:
			if v < 0 || int64(v) > math.MaxInt64/factor {
				failed = errSizeRange
				return
			}
			n = v * types.Int(factor)
		case types.Double:
			x := float64(v) * float64(factor)
			if !(x >= 0 && x < 1<<62) {
				failed = errSizeRange
				return
			}
			n = types.Int(math.Round(x))
		default:
			failed = fmt.Errorf("%q belongs to a number, as in 2.TB", sel.FieldName())
			return
		}
		e.SetKindCase(make.NewLiteral(e.ID(), n))
	}))
	return failed
}

// inspect refuses what the checker lets through and a policy is better without.
func inspect(a *celast.AST) error {
	var failed error
	operands := map[int64]bool{} // of field selections, met before what they select from
	celast.PreOrderVisit(a.Expr(), celast.NewExprVisitor(func(e celast.Expr) {
		if failed != nil {
			return
		}
		switch e.Kind() {
		case celast.IdentKind:
			if fieldIndex[e.AsIdent()] != nil && !operands[e.ID()] {
				failed = fmt.Errorf("%s is an object: compare its fields, which are %s", e.AsIdent(), strings.Join(fieldNames(e.AsIdent()), ", "))
			}
		case celast.CallKind:
			switch name := e.AsCall().FunctionName(); name {
			case "dyn", "type":
				failed = fmt.Errorf("%s() is not part of the language: names could no longer be checked", name)
			}
		case celast.SelectKind:
			sel := e.AsSelect()
			operands[sel.Operand().ID()] = true
			if name := a.GetType(sel.Operand().ID()).TypeName(); sel.IsTestOnly() && strings.HasPrefix(name, typePrefix) {
				name = strings.TrimPrefix(name, typePrefix) + "." + sel.FieldName()
				failed = fmt.Errorf("has(%s): a variable is always there; compare it, as in %s != \"\" (has() is for labels)", name, name)
			}
		case celast.StructKind:
			failed = errors.New("a condition makes no objects")
		}
	}))
	return failed
}

// reads are the variables that the expression names, by index.
func reads(a *celast.AST) map[int]bool {
	out := map[int]bool{}
	celast.PreOrderVisit(a.Expr(), celast.NewExprVisitor(func(e celast.Expr) {
		if i, ok := variableOf(a, e); ok {
			out[i] = true
		}
	}))
	return out
}

// variableOf is the variable that an expression is.
func variableOf(a *celast.AST, e celast.Expr) (int, bool) {
	switch e.Kind() {
	case celast.IdentKind:
		if ref, ok := a.ReferenceMap()[e.ID()]; ok && ref.Name == e.AsIdent() {
			i, ok := plainIndex[e.AsIdent()]
			return i, ok
		}
	case celast.SelectKind:
		sel := e.AsSelect()
		if name, ok := strings.CutPrefix(a.GetType(sel.Operand().ID()).TypeName(), typePrefix); ok {
			i, ok := fieldIndex[name][sel.FieldName()]
			return i, ok
		}
	}
	return 0, false
}
