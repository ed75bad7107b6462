package googlesql

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cloudspannerecosystem/memefish/token"
)

// selectList reads the outermost select list: names as GoogleSQL gives them
// (f0_, f1_ for what has none), and types where they show.
func selectList(toks []tok, t *translator) []Output {
	depth, start := 0, -1
	for i, tk := range toks {
		switch tk.kind {
		case "(", "[":
			depth++
		case ")", "]":
			depth--
		}
		if depth == 0 && tk.is("SELECT") {
			start = i + 1
			break
		}
	}
	if start < 0 {
		return nil
	}
	for start < len(toks) && toks[start].isAny("ALL", "DISTINCT") {
		start++
	}
	var items [][]tok
	from := start
	i := start
	for ; i < len(toks); i++ {
		switch toks[i].kind {
		case "(", "[":
			depth++
		case ")", "]":
			depth--
		}
		if depth > 0 {
			continue
		}
		if toks[i].kind == "," {
			items = append(items, toks[from:i])
			from = i + 1
		} else if toks[i].isAny("FROM", "UNION", "INTERSECT", "EXCEPT", "WHERE", "ORDER", "LIMIT", "GROUP", "HAVING", "WINDOW") && !(toks[i].is("FROM") && toks[i-1].is("DISTINCT")) {
			break
		}
	}
	if from < i {
		items = append(items, toks[from:i])
	}
	outputs := make([]Output, 0, len(items))
	unnamed := 0
	for _, item := range items {
		o := output(item, t)
		if o.Name == "" && !o.Star {
			o.Name = "f" + strconv.Itoa(unnamed) + "_"
			unnamed++
		}
		outputs = append(outputs, o)
	}
	return outputs
}

func output(item []tok, t *translator) Output {
	n := len(item)
	if n == 0 {
		return Output{}
	}
	if item[n-1].kind == "*" && (n == 1 || item[n-2].kind == ".") {
		return Output{Star: true}
	}
	name := ""
	switch last := item[n-1]; {
	case n >= 3 && item[n-2].is("AS") && last.ident():
		name, item = last.text, item[:n-2]
	case n >= 2 && last.ident() && !last.field && (item[n-2].kind == ")" || item[n-2].kind == "]" || item[n-2].ident() || item[n-2].is("END") || item[n-2].isAny("TRUE", "FALSE", "NULL") ||
		item[n-2].kind == token.TokenInt || item[n-2].kind == token.TokenFloat || item[n-2].kind == token.TokenString || item[n-2].kind == token.TokenParam):
		name, item = last.text, item[:n-1]
	case last.ident() && isPath(item):
		name = last.text
	}
	o := expressionType(item, t)
	o.Name = name
	return o
}

func isPath(toks []tok) bool {
	for i, tk := range toks {
		if i%2 == 0 && !tk.ident() || i%2 == 1 && tk.kind != "." {
			return false
		}
	}
	return len(toks)%2 == 1
}

// maxLooks bounds how deep an expression is looked into for its type; below,
// the values tell it.
const maxLooks = 50

// expressionType tells the type of an expression by its looks: Type, Column or
// Arg of the result is set, or none.
func expressionType(e []tok, t *translator) Output {
	if len(e) == 0 || t.depth > maxLooks {
		return Output{}
	}
	t.depth++
	defer func() { t.depth-- }()
	if e[0].kind == "(" && closing(e, 0) == len(e)-1 {
		if len(e) > 1 && e[1].isAny("SELECT", "WITH") {
			inner := selectList(e[1:len(e)-1], t)
			if len(inner) == 1 {
				return inner[0]
			}
			return Output{}
		}
		return expressionType(e[1:len(e)-1], t)
	}
	if o, ok := operatorType(e, t); ok {
		return o
	}
	if e[0].kind == "[" && closing(e, 0) == len(e)-1 {
		o := Output{Type: "INTEGER"}
		if len(e) > 2 {
			o = expressionType(arguments(e[1 : len(e)-1])[0], t)
		}
		o.Array = true
		return o
	}
	if len(e) == 1 {
		return atomType(e[0], t)
	}
	switch {
	case isPath(e):
		return Output{Column: e[len(e)-1].text}
	case (e[0].kind == "-" || e[0].kind == "+"):
		return expressionType(e[1:], t)
	case len(e) == 2 && e[1].kind == token.TokenString:
		return Output{Type: RESTType(e[0].raw)}
	case e[0].is("CASE"):
		return caseType(e, t)
	case e[0].is("EXISTS"):
		return Output{Type: "BOOLEAN"}
	case e[1].kind == "(":
		return callType(e, t)
	}
	return Output{}
}

func atomType(tk tok, t *translator) Output {
	switch tk.kind {
	case token.TokenInt:
		return Output{Type: "INTEGER"}
	case token.TokenFloat:
		return Output{Type: "FLOAT"}
	case token.TokenString:
		return Output{Type: "STRING"}
	case token.TokenBytes:
		return Output{Type: "BYTES"}
	case "TRUE", "FALSE":
		return Output{Type: "BOOLEAN"}
	case "NULL":
		return Output{Type: "INTEGER"} // as BigQuery types a bare NULL
	case token.TokenParam:
		return Output{Arg: &Arg{Name: strings.ToLower(tk.text), Index: -1}}
	case "?":
		if n, ok := t.positional[tk.pos]; ok {
			return Output{Arg: &Arg{Index: n}}
		}
	case token.TokenIdent:
		if fn, ok := functions[strings.ToUpper(tk.text)]; ok && fn.sqlite == "" && !tk.quoted {
			return Output{Type: fn.result}
		}
		if t.scope.Variable != nil && !tk.quoted && t.scope.Variable(tk.text) {
			return Output{Arg: &Arg{Name: strings.ToLower(tk.text), Index: -1, Variable: true}}
		}
		return Output{Column: tk.text}
	}
	return Output{}
}

// operatorType tells the type by an operator outside of all brackets.
func operatorType(e []tok, t *translator) (Output, bool) {
	depth, arithmetic := 0, -1
	divided, joined := false, false
	for i, tk := range e {
		switch tk.kind {
		case "(", "[", "CASE":
			depth++
		case ")", "]", "END":
			depth--
		}
		if depth > 0 {
			continue
		}
		switch tk.kind {
		case "AND", "OR", "NOT", "=", "<", ">", "<=", ">=", "<>", "!=", "LIKE", "IN", "BETWEEN", "IS":
			return Output{Type: "BOOLEAN"}, true
		case "||":
			joined = true
		case "/":
			divided = true
		case "+", "-", "*":
			if i > 0 {
				arithmetic = i
			}
		}
	}
	switch {
	case joined:
		return Output{Type: "STRING"}, true
	case divided:
		return Output{Type: "FLOAT"}, true
	case arithmetic > 0:
		left, right := expressionType(e[:arithmetic], t), expressionType(e[arithmetic+1:], t)
		if left.Type == "INTEGER" && right.Type == "INTEGER" {
			return Output{Type: "INTEGER"}, true
		}
		if left.Type == "FLOAT" || right.Type == "FLOAT" {
			return Output{Type: "FLOAT"}, true
		}
		return Output{}, true
	}
	return Output{}, false
}

func caseType(e []tok, t *translator) Output {
	depth, then := 0, -1
	for i, tk := range e {
		switch {
		case tk.kind == "(" || tk.kind == "[" || tk.is("CASE"):
			depth++
		case tk.kind == ")" || tk.kind == "]" || tk.is("END"):
			depth--
		}
		if then < 0 && depth == 1 && tk.is("THEN") {
			then = i + 1
		} else if then >= 0 && (depth == 1 && tk.isAny("WHEN", "ELSE") || depth == 0) {
			return expressionType(e[then:i], t)
		}
	}
	return Output{}
}

func callType(e []tok, t *translator) Output {
	name := strings.ToUpper(e[0].raw)
	end := closing(e, 1)
	if end < 0 {
		return Output{}
	}
	if name == "CAST" || name == "SAFE_CAST" {
		for i := end; i > 1; i-- {
			if e[i].is("AS") && i+1 < end {
				return Output{Type: RESTType(e[i+1].raw)}
			}
		}
		return Output{}
	}
	if name == "APPROX_COUNT_DISTINCT" {
		return Output{Type: "INTEGER"}
	}
	if to, ok := legacyFunctions[name]; ok && t.scope.Legacy {
		return Output{Type: RESTType(to)}
	}
	fn, ok := functions[name]
	if !ok {
		return Output{}
	}
	if fn.result != arg1 && fn.result != arg2 {
		elem, array := strings.CutSuffix(fn.result, "[]")
		return Output{Type: elem, Array: array}
	}
	args := arguments(e[2:end])
	n := 0
	if fn.result == arg2 {
		n = 1
	}
	for n < len(args)-1 && len(args[n]) == 1 && args[n][0].is("NULL") {
		n++ // a bare NULL takes the other's type
	}
	if n >= len(args) {
		return Output{}
	}
	o := expressionType(args[n], t)
	return Output{Type: o.Type, Column: o.Column, Arg: o.Arg}
}

func arguments(toks []tok) [][]tok {
	var out [][]tok
	depth, from := 0, 0
	for i, tk := range toks {
		switch tk.kind {
		case "(", "[":
			depth++
		case ")", "]":
			depth--
		case ",":
			if depth == 0 {
				out = append(out, toks[from:i])
				from = i + 1
			}
		}
	}
	out = append(out, toks[from:])
	for i, a := range out {
		if len(a) > 1 && a[0].is("DISTINCT") {
			out[i] = a[1:]
		}
	}
	return out
}

// String shows where an argument comes from, for messages.
func (a Arg) String() string {
	if a.Index >= 0 {
		return fmt.Sprintf("number %d", a.Index+1)
	}
	return a.Name
}
