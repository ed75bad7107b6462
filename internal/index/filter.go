package index

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.einride.tech/aip/filtering"
	expr "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
)

// Bounds of a filter.
const (
	maxFilterBytes = 8 << 10
	maxFilterTests = 200
	maxFilterDepth = 16
)

type op int

const (
	opTest op = iota
	opAnd     // of no kids: everything
	opOr
	opNot
)

// node is a filter as it was understood. It refers to no file.
type node struct {
	op   op
	kids []*node
	test *test
}

// test is one comparison. Which members are set depends on the field's kind.
type test struct {
	field  *Field
	column int      // where it stands, for errors
	pat    pattern  // kindText, kindTable, kindJob, kindClient, kindID
	values []string // kindWord, kindClass, kindState: any of
	words  []string // kindWords: all of; a last '*' matches any ending
	lo, hi int64    // kindNumber, kindStatus, kindTime, kindSeq: ends included
	seqs   []uint64 // kindID, once resolved
}

// filterParser turns the grammar's tree into nodes.
type filterParser struct {
	quoted string
	shifts []int
	info   *expr.SourceInfo
	now    time.Time
	tests  int
}

// parseFilter reads a filter; now is what relative times refer to. All errors
// are *FilterError.
func parseFilter(filter string, now time.Time) (*node, error) {
	if len(filter) > maxFilterBytes {
		return nil, &FilterError{Message: fmt.Sprintf("a filter may have %d bytes, this one has %d", maxFilterBytes, len(filter))}
	}
	if strings.TrimSpace(filter) == "" {
		return &node{op: opAnd}, nil
	}
	p := &filterParser{now: now}
	// The grammar's parser trims; blank what it would trim, for true columns.
	quoted, shifts := quoteBare(filter)
	start := len(quoted) - len(strings.TrimLeft(quoted, " \t\r\n\v\f\u0085\u00a0"))
	p.quoted, p.shifts = quoted, shifts
	var parser filtering.Parser
	parser.Init(quoted)
	parsed, err := parser.Parse()
	if err != nil {
		return nil, p.syntaxError(err, start)
	}
	p.info = parsed.GetSourceInfo()
	for id := range p.info.GetPositions() {
		p.info.Positions[id] += int32(start) //nolint:gosec // below maxFilterBytes
	}
	return p.node(parsed.GetExpr(), 0)
}

// located is what the grammar's errors know, innermost last.
type located interface {
	Position() filtering.Position
	Message() string
}

func (p *filterParser) syntaxError(err error, start int) error {
	fe, atEnd := &FilterError{Message: "cannot be read"}, false
	for ; err != nil; err = errors.Unwrap(err) {
		if l, ok := err.(located); ok { //nolint:errorlint // each level is looked at
			fe.Column = column(p.quoted, p.shifts, start+int(l.Position().Offset))
			fe.Message = l.Message()
			atEnd = start+int(l.Position().Offset) >= len(strings.TrimSpace(p.quoted))+start
		}
	}
	switch {
	case strings.Contains(fe.Message, "unterminated string"):
		fe.Message = "a string begins here and does not end"
	case strings.Contains(fe.Message, "UTF-8"):
		fe.Message = "not valid UTF-8"
	case atEnd || strings.Contains(fe.Message, "parse token"):
		fe.Message = "the filter ends too early"
	default:
		fe.Message = `not understood from here on; a filter is made of comparisons such as agent = "etl-bot", ` +
			`joined by AND and OR, with NOT and parentheses`
	}
	return fe
}

func (p *filterParser) errorf(e *expr.Expr, format string, args ...any) error {
	return &FilterError{Message: fmt.Sprintf(format, args...), Column: p.columnOf(e)}
}

func (p *filterParser) columnOf(e *expr.Expr) int {
	return column(p.quoted, p.shifts, int(p.info.GetPositions()[e.GetId()]))
}

// join makes a node of kids, flattening what is nested without need.
func join(o op, kids ...*node) *node {
	n := &node{op: o}
	for _, k := range kids {
		if k.op == o {
			n.kids = append(n.kids, k.kids...)
		} else {
			n.kids = append(n.kids, k)
		}
	}
	return n
}

// spine gathers the operands of a chain of one operator, which the grammar
// nests to the left, without recursion.
func spine(e *expr.Expr, names ...string) []*expr.Expr {
	var kids []*expr.Expr
	for {
		call := e.GetCallExpr()
		if call == nil || len(call.GetArgs()) != 2 || !slices.Contains(names, call.GetFunction()) {
			break
		}
		kids = append(kids, call.GetArgs()[1])
		e = call.GetArgs()[0]
	}
	kids = append(kids, e)
	slices.Reverse(kids)
	return kids
}

func (p *filterParser) node(e *expr.Expr, depth int) (*node, error) {
	if depth > maxFilterDepth {
		return nil, p.errorf(e, "nested more than %d deep", maxFilterDepth)
	}
	call := e.GetCallExpr()
	if call == nil {
		return p.bare(e)
	}
	args, name := call.GetArgs(), call.GetFunction()
	switch { // by arity too: the grammar takes any word for a function's name
	case len(args) == 2 && (name == filtering.FunctionAnd || name == filtering.FunctionFuzzyAnd):
		return p.nodes(opAnd, spine(e, filtering.FunctionAnd, filtering.FunctionFuzzyAnd), depth)
	case len(args) == 2 && name == filtering.FunctionOr:
		return p.nodes(opOr, spine(e, filtering.FunctionOr), depth)
	case len(args) == 1 && name == filtering.FunctionNot:
		kid, err := p.node(args[0], depth+1)
		if err != nil {
			return nil, err
		}
		return &node{op: opNot, kids: []*node{kid}}, nil
	case len(args) == 2 && slices.Contains(comparators, name):
		field, err := p.field(args[0])
		if err != nil {
			return nil, err
		}
		return p.compare(field, name, args[1], depth)
	default:
		return nil, p.errorf(e, "there is no function %s; values need no function around them", show(name))
	}
}

var comparators = []string{"=", "!=", "<", "<=", ">", ">=", ":"}

func (p *filterParser) nodes(o op, list []*expr.Expr, depth int) (*node, error) {
	kids := make([]*node, 0, len(list))
	for _, e := range list {
		kid, err := p.node(e, depth+1)
		if err != nil {
			return nil, err
		}
		kids = append(kids, kid)
	}
	return join(o, kids...), nil
}

// bare is a word without a field: one of the statements'.
func (p *filterParser) bare(e *expr.Expr) (*node, error) {
	text, ok := valueText(e)
	if !ok {
		return nil, p.errorf(e, "not understood")
	}
	if up := strings.ToUpper(text); e.GetConstExpr() == nil && (up == "AND" || up == "OR" || up == "NOT") {
		return nil, p.errorf(e, "write %s in capitals (or the word %q in quotes)", up, text)
	}
	return p.test(fieldByName("text"), ":", text, e)
}

// valueText is the text of a constant, a name, or names joined by dots.
func valueText(e *expr.Expr) (string, bool) {
	switch k := e.GetExprKind().(type) {
	case *expr.Expr_IdentExpr:
		return k.IdentExpr.GetName(), true
	case *expr.Expr_SelectExpr:
		var names []string
		for {
			s := e.GetSelectExpr()
			if s == nil {
				break
			}
			names = append(names, s.GetField())
			e = s.GetOperand()
		}
		head, ok := valueText(e)
		for i := len(names) - 1; i >= 0; i-- {
			head += "." + names[i]
		}
		return head, ok
	case *expr.Expr_ConstExpr:
		switch c := k.ConstExpr.GetConstantKind().(type) {
		case *expr.Constant_StringValue:
			return c.StringValue, true
		case *expr.Constant_Int64Value:
			return strconv.FormatInt(c.Int64Value, 10), true
		case *expr.Constant_DoubleValue:
			return strconv.FormatFloat(c.DoubleValue, 'f', -1, 64), true
		}
	}
	return "", false
}

func (p *filterParser) field(e *expr.Expr) (*Field, error) {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	name, ok := valueText(e)
	if !ok || e.GetConstExpr() != nil {
		return nil, p.errorf(e, "a comparison begins with the name of a field, without quotes: one of %s", strings.Join(names, ", "))
	}
	if f := fieldByName(name); f != nil {
		return f, nil
	}
	return nil, p.errorf(e, "there is no field %s; %s fields are %s", show(name), didYouMean(name, names), strings.Join(names, ", "))
}

// compare makes a test, or several where the value is a list in parentheses.
func (p *filterParser) compare(f *Field, cmp string, value *expr.Expr, depth int) (*node, error) {
	if depth > maxFilterDepth {
		return nil, p.errorf(value, "nested more than %d deep", maxFilterDepth)
	}
	if call := value.GetCallExpr(); call != nil {
		var o op
		var list []*expr.Expr
		switch name, arity := call.GetFunction(), len(call.GetArgs()); {
		case arity == 2 && (name == filtering.FunctionAnd || name == filtering.FunctionFuzzyAnd):
			o, list = opAnd, spine(value, filtering.FunctionAnd, filtering.FunctionFuzzyAnd)
		case arity == 2 && name == filtering.FunctionOr:
			o, list = opOr, spine(value, filtering.FunctionOr)
		case arity == 1 && name == filtering.FunctionNot:
			o, list = opNot, call.GetArgs()
		default:
			return nil, p.errorf(value, "the value of %s is to be a text, a number, or a list such as (\"a\" OR \"b\")", f.Name)
		}
		n := &node{op: o}
		for _, e := range list {
			kid, err := p.compare(f, cmp, e, depth+1)
			if err != nil {
				return nil, err
			}
			n.kids = append(n.kids, kid)
		}
		if o == opNot {
			return n, nil
		}
		return join(o, n.kids...), nil
	}
	text, ok := valueText(value)
	if !ok {
		return nil, p.errorf(value, "the value of %s is to be a text or a number", f.Name)
	}
	if cmp == "!=" {
		n, err := p.test(f, "=", text, value)
		if err != nil {
			return nil, err
		}
		return &node{op: opNot, kids: []*node{n}}, nil
	}
	return p.test(f, cmp, text, value)
}

// show quotes what a person wrote, shortened, for a message.
func show(s string) string { return strconv.Quote(cut(s, 60)) }
