package policy

import (
	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// The functions that rules may call beside CEL's own.
const (
	fnTable   = "table"
	fnWithin  = "within"
	fnTouches = "touches"
	fnHours   = "business_hours"
)

func functions() []cel.EnvOption {
	listOf := func(name string, op func(list, patterns ref.Val) ref.Val) cel.EnvOption {
		return cel.Function(name,
			cel.MemberOverload("list_"+name+"_string", []*cel.Type{texts, cel.StringType}, cel.BoolType, cel.BinaryBinding(op)),
			cel.MemberOverload("list_"+name+"_list", []*cel.Type{texts, texts}, cel.BoolType, cel.BinaryBinding(op)))
	}
	return []cel.EnvOption{
		cel.Function(fnTable,
			cel.MemberOverload("string_table_string", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType, cel.BinaryBinding(tableFits))),
		listOf(fnWithin, within),
		listOf(fnTouches, touches),
		cel.Function(fnHours,
			cel.Overload("timestamp_business_hours", []*cel.Type{cel.TimestampType, cel.StringType, cel.StringType, cel.StringType}, cel.BoolType,
				cel.FunctionBinding(businessHours))),
	}
}

// globs makes the patterns of an argument: one, or a list of them.
func globs(v ref.Val) ([]glob, error) {
	switch v := v.(type) {
	case types.String:
		g, err := compileGlob(string(v))
		return []glob{g}, err
	case traits.Lister:
		n, ok := v.Size().(types.Int)
		if !ok || n > MaxList {
			return nil, errTooMany
		}
		out := make([]glob, 0, n)
		for i := types.Int(0); i < n; i++ {
			s, ok := v.Get(i).(types.String)
			if !ok {
				return nil, errGlob
			}
			g, err := compileGlob(string(s))
			if err != nil {
				return nil, err
			}
			out = append(out, g)
		}
		return out, nil
	default:
		return nil, errGlob
	}
}

// matchAny compares a name with several patterns: yes if one fits.
func matchAny(patterns []glob, t *tableName) (answer, error) {
	best := no
	var why error
	for i := range patterns {
		a, err := patterns[i].match(t)
		if a == yes {
			return yes, nil
		}
		if a == unsure && best == no {
			best, why = unsure, err
		}
	}
	return best, why
}

func nameError(name string, err error) ref.Val {
	return types.NewErr("%s: %w", clip(name, 200), err)
}

// fits is t.table(pattern).
func fits(patterns []glob, v ref.Val) ref.Val {
	name, ok := v.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(v)
	}
	t := splitTable(string(name))
	a, err := matchAny(patterns, &t)
	if a == unsure {
		return nameError(string(name), err)
	}
	return types.Bool(a == yes)
}

// textList is a list of texts, as our variables are. Its elements are made once,
// and taken apart as tables' names once.
type textList struct {
	traits.Lister
	traits.Foldable
	raw    []string
	tables []tableName
}

func newTextList(raw []string) *textList {
	values := make([]ref.Val, len(raw))
	for i, s := range raw {
		values[i] = types.String(s)
	}
	list := types.NewRefValList(types.DefaultTypeAdapter, values)
	return &textList{Lister: list, Foldable: types.ToFoldableList(list), raw: raw}
}

// tableNames are a list's elements as names of tables; failed is CEL's error where
// it is no list of texts.
func tableNames(v ref.Val) (tables []tableName, failed ref.Val) {
	if list, ok := v.(*textList); ok {
		if list.tables == nil && len(list.raw) > 0 {
			list.tables = make([]tableName, len(list.raw))
			for i, s := range list.raw {
				list.tables[i] = splitTable(s)
			}
		}
		return list.tables, nil
	}
	list, ok := v.(traits.Lister)
	if !ok {
		return nil, types.MaybeNoSuchOverloadErr(v)
	}
	n, ok := list.Size().(types.Int)
	if !ok || n > 2*MaxList {
		return nil, types.WrapErr(errTooMany)
	}
	tables = make([]tableName, n)
	for i := range tables {
		e := list.Get(types.Int(i))
		s, ok := e.(types.String)
		if !ok {
			return nil, types.MaybeNoSuchOverloadErr(e)
		}
		tables[i] = splitTable(string(s))
	}
	return tables, nil
}

// allWithin is true of a list that has an element and whose elements all fit.
func allWithin(patterns []glob, v ref.Val) ref.Val {
	tables, failed := tableNames(v)
	if failed != nil {
		return failed
	}
	var open ref.Val
	for i := range tables {
		switch a, why := matchAny(patterns, &tables[i]); {
		case a == no:
			return types.False // whatever is open about others
		case a == unsure && open == nil:
			open = nameError(tables[i].name, why)
		}
	}
	if open != nil {
		return open
	}
	return types.Bool(len(tables) > 0)
}

// anyTouched is true of a list an element of which fits.
func anyTouched(patterns []glob, v ref.Val) ref.Val {
	tables, failed := tableNames(v)
	if failed != nil {
		return failed
	}
	var open ref.Val
	for i := range tables {
		switch a, why := matchAny(patterns, &tables[i]); {
		case a == yes:
			return types.True
		case a == unsure && open == nil:
			open = nameError(tables[i].name, why)
		}
	}
	if open != nil {
		return open
	}
	return types.False
}

func withPatterns(op func([]glob, ref.Val) ref.Val) func(v, patterns ref.Val) ref.Val {
	return func(v, patterns ref.Val) ref.Val {
		g, err := globs(patterns)
		if err != nil {
			return types.WrapErr(err)
		}
		return op(g, v)
	}
}

var (
	tableFits = withPatterns(fits)
	within    = withPatterns(allWithin)
	touches   = withPatterns(anyTouched)
)

// businessHours is never called by a rule: prepare replaces it, or refuses it.
func businessHours(...ref.Val) ref.Val { return types.WrapErr(errHoursFixed) }

// prepare replaces calls whose patterns or hours are written out by ones that
// have read them already. It is where mistakes in them show when rules are loaded.
func prepare(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	call, ok := i.(interpreter.InterpretableCall)
	if !ok {
		return i, nil
	}
	args := call.Args()
	switch call.Function() {
	case fnTable, fnWithin, fnTouches:
		if len(args) != 2 {
			return i, nil
		}
		fixed, ok := args[1].(interpreter.InterpretableConst)
		if !ok {
			return i, nil
		}
		g, err := globs(fixed.Value())
		if err != nil {
			return nil, err
		}
		op := fits
		if call.Function() == fnWithin {
			op = allWithin
		} else if call.Function() == fnTouches {
			op = anyTouched
		}
		return &prepared{InterpretableCall: call, arg: args[0], second: fixed.Value(), op: func(v ref.Val) ref.Val { return op(g, v) }}, nil
	case fnHours:
		if len(args) != 4 {
			return i, nil
		}
		var s [3]string
		for k, a := range args[1:] {
			fixed, ok := a.(interpreter.InterpretableConst)
			if !ok {
				return nil, errHoursFixed
			}
			text, _ := fixed.Value().(types.String)
			s[k] = string(text)
		}
		h, err := parseHours(s[0], s[1], s[2])
		if err != nil {
			return nil, err
		}
		return &prepared{InterpretableCall: call, arg: args[0], op: h.holds}, nil
	default:
		return i, nil
	}
}

// prepared is a call with all but its first argument built in.
type prepared struct {
	interpreter.InterpretableCall
	arg    interpreter.InterpretableV2
	second ref.Val // for the cost; may be nil
	op     func(ref.Val) ref.Val
}

func (p *prepared) Eval(vars interpreter.Activation) ref.Val {
	return interpreter.EvalActivation(vars, p.Exec)
}

func (p *prepared) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	v := p.arg.Exec(frame)
	if types.IsUnknownOrError(v) {
		return v
	}
	out := p.op(v)
	if costs := frame.CostTracker(); costs != nil {
		costs.EvalBinary(frame, p.ID(), p.InterpretableCall, v, p.second, out)
	}
	return types.LabelErrNode(p.ID(), out)
}
