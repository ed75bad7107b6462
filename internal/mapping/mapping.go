// Package mapping evaluates small CEL expressions (https://cel.dev) over what a
// credential says: which agent it names, for whom, with what role.
//
// Expressions come from the operator, their input from outsiders. Both are
// bounded: the length of an expression, what evaluating it may cost, and what
// may come out. Errors never quote values, which may be personal or secret.
//
// Compiled expressions are immutable and safe for concurrent use.
package mapping

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
)

// Bounds of an expression and its result.
const (
	MaxExpression = 4 << 10 // bytes
	maxCost       = 20_000  // CEL's own units: some hundred operations on short texts
	maxText       = 4 << 10 // bytes of a resulting text
	maxList       = 1_000   // elements of a resulting list
	maxDepth      = 50      // of nesting in an expression
)

// Errors of an evaluation, for errors.Is.
var (
	// ErrMissing means that the input lacks what the expression reads.
	ErrMissing = errors.New("it reads something that is not there")
	// ErrCost means that the evaluation was stopped.
	ErrCost = errors.New("it costs too much to evaluate")
	// ErrType means that the result, or something on the way, is of another kind.
	ErrType = errors.New("it gives another kind of value")
)

// Env is what expressions may refer to.
type Env struct{ env *cel.Env }

// NewEnv makes an environment with variables of those names, of any type, and
// CEL's string functions (split, replace, lowerAscii and so on). They are of the
// first version that counts what they cost: replace and join multiply the lengths
// of what they are given.
func NewEnv(vars ...string) (*Env, error) {
	opts := []cel.EnvOption{
		ext.Strings(ext.StringsVersion(5)), cel.ParserExpressionSizeLimit(MaxExpression), cel.ParserRecursionLimit(maxDepth),
	}
	for _, name := range vars {
		opts = append(opts, cel.Variable(name, cel.DynType))
	}
	env, err := cel.NewEnv(opts...)
	if err != nil {
		return nil, fmt.Errorf("make a CEL environment: %w", err)
	}
	return &Env{env}, nil
}

// Expr is a compiled expression that gives a T.
type Expr[T any] struct {
	program cel.Program
	read    func(ref.Val) (T, error)
}

// Bool compiles an expression that says yes or no.
func (e *Env) Bool(expr string) (*Expr[bool], error) {
	return compile(e, expr, cel.BoolType, func(v ref.Val) (bool, error) {
		b, ok := v.(types.Bool)
		if !ok {
			return false, fmt.Errorf("%w: want true or false", ErrType)
		}
		return bool(b), nil
	})
}

// String compiles an expression that gives a text.
func (e *Env) String(expr string) (*Expr[string], error) {
	return compile(e, expr, cel.StringType, text)
}

// Strings compiles an expression that gives a list of texts.
func (e *Env) Strings(expr string) (*Expr[[]string], error) {
	return compile(e, expr, cel.ListType(cel.StringType), func(v ref.Val) ([]string, error) {
		native, err := v.ConvertToNative(reflect.TypeFor[[]string]())
		list, ok := native.([]string)
		switch {
		case err != nil || !ok:
			return nil, fmt.Errorf("%w: want a list of texts", ErrType)
		case len(list) > maxList:
			return nil, fmt.Errorf("%w: more than %d elements", ErrType, maxList)
		}
		for _, s := range list {
			if len(s) > maxText {
				return nil, fmt.Errorf("%w: a text of more than %d bytes", ErrType, maxText)
			}
		}
		return list, nil
	})
}

func text(v ref.Val) (string, error) {
	s, ok := v.(types.String)
	switch {
	case !ok:
		return "", fmt.Errorf("%w: want a text", ErrType)
	case len(s) > maxText:
		return "", fmt.Errorf("%w: a text of more than %d bytes", ErrType, maxText)
	}
	return string(s), nil
}

func compile[T any](e *Env, expr string, want *cel.Type, read func(ref.Val) (T, error)) (*Expr[T], error) {
	if strings.TrimSpace(expr) == "" {
		return nil, errors.New("the expression is empty")
	}
	if len(expr) > MaxExpression {
		return nil, fmt.Errorf("the expression is longer than %d bytes", MaxExpression)
	}
	ast, issues := e.env.Compile(expr)
	if err := issues.Err(); err != nil {
		return nil, fmt.Errorf("not valid CEL: %w", err)
	}
	// What is read out of a variable has a type that is known only then.
	if out := ast.OutputType(); !out.IsExactType(cel.DynType) && out.Kind() != want.Kind() {
		return nil, fmt.Errorf("the expression gives %s, want %s", out, want)
	}
	program, err := e.env.Program(ast, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, fmt.Errorf("not valid CEL: %w", err)
	}
	return &Expr[T]{program, read}, nil
}

// Eval evaluates the expression over its variables. Errors are [ErrMissing],
// [ErrCost] or [ErrType], or tell that it failed, without quoting any value.
func (x *Expr[T]) Eval(vars map[string]any) (T, error) {
	var zero T
	out, _, err := x.program.Eval(vars)
	if err != nil {
		return zero, blame(err)
	}
	return x.read(out)
}

// blame sorts an evaluation's error, whose own words may hold values.
func blame(err error) error {
	switch s := err.Error(); {
	case strings.Contains(s, "cost limit"):
		return ErrCost
	case strings.Contains(s, "no such key"), strings.Contains(s, "no such attribute"), strings.Contains(s, "index out of bounds"):
		return ErrMissing
	case strings.Contains(s, "no such overload"):
		return ErrType
	}
	return errors.New("it fails on what it was given")
}
