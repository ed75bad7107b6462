package policy

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// maxClauses bounds what lint takes apart; a larger condition is one opaque clause.
const maxClauses = 200

// A condition in normal form, for lint: every clause has to hold, and a clause
// holds if any of its atoms does. It is normal enough to see that two conditions
// say the same or that one says more, and never claims so wrongly.
type (
	condition []clause
	clause    []atom
	atom      struct {
		text string // canonical; two atoms with the same text are the same
		// variable == value, where the atom is such a comparison.
		variable int
		value    string
		equals   bool
		negated  bool // of equals: !=
	}
)

// normalize takes a checked expression apart.
func normalize(a *ast.AST) condition {
	c := conjuncts(a, a.Expr(), false)
	if len(c) > maxClauses {
		return condition{{{text: canonical(a, a.Expr())}}}
	}
	return c
}

func call(e ast.Expr, function string) []ast.Expr {
	if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == function {
		return e.AsCall().Args()
	}
	return nil
}

// conjuncts are the clauses of an expression, or of its negation.
func conjuncts(a *ast.AST, e ast.Expr, not bool) condition {
	and, or := operators.LogicalAnd, operators.LogicalOr
	if not {
		and, or = or, and
	}
	if args := call(e, operators.LogicalNot); args != nil {
		return conjuncts(a, args[0], !not)
	}
	if args := call(e, and); args != nil {
		var out condition
		for _, arg := range args {
			out = append(out, conjuncts(a, arg, not)...)
		}
		return out
	}
	if args := call(e, or); args != nil {
		var out clause
		for _, arg := range args {
			// (x && y) || z is not taken apart further: x && y is one atom.
			if part := conjuncts(a, arg, not); len(part) == 1 {
				out = append(out, part[0]...)
			} else {
				out = append(out, opaque(a, arg, not))
			}
		}
		return condition{out}
	}
	return condition{atoms(a, e, not)}
}

func opaque(a *ast.AST, e ast.Expr, not bool) atom {
	text := canonical(a, e)
	if not {
		text = "!" + text
	}
	return atom{text: text}
}

// atoms of an expression that is neither && nor ||: one, or those of "x in [...]".
func atoms(a *ast.AST, e ast.Expr, not bool) clause {
	if args := call(e, operators.In); args != nil && !not && args[1].Kind() == ast.ListKind {
		if v, ok := variableOf(a, args[0]); ok {
			var out clause
			for _, el := range args[1].AsList().Elements() {
				s, ok := literalText(el)
				if !ok {
					return clause{opaque(a, e, not)}
				}
				out = append(out, equal(v, s, false))
			}
			if len(out) > 0 {
				return out
			}
		}
	}
	for _, op := range []string{operators.Equals, operators.NotEquals} {
		args := call(e, op)
		if args == nil {
			continue
		}
		for i := range 2 {
			v, isVariable := variableOf(a, args[i])
			s, isText := literalText(args[1-i])
			if isVariable && isText {
				return clause{equal(v, s, (op == operators.NotEquals) != not)}
			}
		}
	}
	return clause{opaque(a, e, not)}
}

func equal(v int, s string, negated bool) atom {
	op := "=="
	if negated {
		op = "!="
	}
	return atom{text: fmt.Sprintf("%s%s%q", variables[v].path(), op, s), variable: v, value: s, equals: true, negated: negated}
}

func literalText(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

// implies: whoever fits c fits the more general condition too.
func (c condition) implies(general condition) bool {
	for _, want := range general {
		if !slices.ContainsFunc(c, func(have clause) bool { return have.implies(want) }) {
			return false
		}
	}
	return true
}

func (c clause) implies(general clause) bool {
	for _, have := range c {
		if !slices.ContainsFunc(general, func(a atom) bool { return a.text == have.text }) {
			return false
		}
	}
	return true
}

// values are those that the condition leaves to a text variable; known is false
// where it says nothing about them.
func (c condition) values(v int) (left []string, known bool) {
	for _, cl := range c {
		var here []string
		for _, a := range cl {
			if !a.equals || a.negated || a.variable != v {
				here = nil
				break
			}
			here = append(here, a.value)
		}
		if here == nil {
			continue
		}
		if known {
			left = slices.DeleteFunc(left, func(s string) bool { return !contains(here, s) })
		} else {
			left, known = here, true
		}
	}
	return left, known
}

// contradiction is a variable that the condition wants to be two things at once.
func (c condition) contradiction() (variable int, found bool) {
	for i := range variables {
		left, known := c.values(i)
		if !known {
			continue
		}
		for _, cl := range c {
			if len(cl) == 1 && cl[0].equals && cl[0].negated && cl[0].variable == i {
				left = slices.DeleteFunc(left, func(s string) bool { return s == cl[0].value })
			}
		}
		if len(left) == 0 {
			return i, true
		}
	}
	return 0, false
}

// canonical writes an expression down so that two that differ only in order of
// && and ||, of the sides of == and != and in white space are the same.
func canonical(a *ast.AST, e ast.Expr) string {
	switch e.Kind() {
	case ast.LiteralKind:
		return literal(e.AsLiteral())
	case ast.IdentKind:
		return e.AsIdent()
	case ast.SelectKind:
		sel := e.AsSelect()
		text := canonical(a, sel.Operand()) + "." + sel.FieldName()
		if sel.IsTestOnly() {
			return "has(" + text + ")"
		}
		return text
	case ast.CallKind:
		c := e.AsCall()
		args := make([]string, 0, len(c.Args())+1)
		for _, arg := range c.Args() {
			args = append(args, canonical(a, arg))
		}
		switch c.FunctionName() {
		case operators.LogicalAnd, operators.LogicalOr, operators.Equals, operators.NotEquals:
			slices.Sort(args)
		}
		if c.IsMemberFunction() {
			args = slices.Insert(args, 0, canonical(a, c.Target()))
		}
		return c.FunctionName() + "(" + strings.Join(args, ",") + ")"
	case ast.ListKind:
		var parts []string
		for _, el := range e.AsList().Elements() {
			parts = append(parts, canonical(a, el))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case ast.MapKind:
		var parts []string
		for _, entry := range e.AsMap().Entries() {
			m := entry.AsMapEntry()
			parts = append(parts, canonical(a, m.Key())+":"+canonical(a, m.Value()))
		}
		return "{" + strings.Join(parts, ",") + "}"
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		parts := []string{c.IterVar(), c.IterVar2(), c.AccuVar()}
		for _, part := range []ast.Expr{c.IterRange(), c.AccuInit(), c.LoopCondition(), c.LoopStep(), c.Result()} {
			parts = append(parts, canonical(a, part))
		}
		return "loop(" + strings.Join(parts, ";") + ")"
	default:
		return fmt.Sprintf("expr#%d", e.ID())
	}
}

func literal(v ref.Val) string {
	return fmt.Sprintf("%s(%q)", v.Type().TypeName(), fmt.Sprint(v.Value()))
}
