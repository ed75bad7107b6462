package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
)

// Bounds of one expression.
const (
	maxDepth     = 64
	maxNodes     = 4000
	maxRegexSize = 1000
	maxLoopDepth = 2
)

// typePrefix keeps the objects' type names out of what a rule can write.
const typePrefix = "trailgate.policy."

// provider tells CEL which objects there are, which fields they have, and how to
// get at them.
type provider struct{ types.Provider }

func (p provider) object(structType string) (string, map[string]int) {
	name, ours := strings.CutPrefix(structType, typePrefix)
	if !ours {
		return "", nil
	}
	return name, fieldIndex[name]
}

func (p provider) FindStructType(structType string) (*types.Type, bool) {
	if _, fields := p.object(structType); fields != nil {
		return types.NewTypeTypeWithParam(types.NewObjectType(structType)), true
	}
	return p.Provider.FindStructType(structType)
}

func (p provider) FindStructFieldNames(structType string) ([]string, bool) {
	if _, fields := p.object(structType); fields != nil {
		names := make([]string, 0, len(fields))
		for name := range fields {
			names = append(names, name)
		}
		slices.Sort(names)
		return names, true
	}
	return p.Provider.FindStructFieldNames(structType)
}

func (p provider) FindStructFieldType(structType, field string) (*types.FieldType, bool) {
	_, fields := p.object(structType)
	if fields == nil {
		return p.Provider.FindStructFieldType(structType, field)
	}
	i, ok := fields[field]
	if !ok {
		return nil, false
	}
	return &types.FieldType{
		Type:  variables[i].typ,
		IsSet: func(any) bool { return true }, // has() of a field is refused, see inspect
		GetFrom: func(target any) (any, error) {
			o, ok := target.(*object)
			if !ok {
				return nil, fmt.Errorf("no such field %q", field)
			}
			return o.e.value(i)
		},
	}, true
}

// NewValue: rules look at objects, they make none.
func (p provider) NewValue(structType string, fields map[string]ref.Val) ref.Val {
	if _, ours := p.object(structType); ours != nil {
		return types.NewErr("%s cannot be made by a rule", structType)
	}
	return p.Provider.NewValue(structType, fields)
}

// object is one of the variables with fields, as CEL handles it.
type object struct {
	e    *evaluation
	name string
}

func (o *object) ConvertToNative(reflect.Type) (any, error) {
	return nil, fmt.Errorf("%s is no value by itself; name one of its fields", o.name)
}

func (o *object) ConvertToType(ref.Type) ref.Val {
	return types.NewErr("%s is no value by itself; name one of its fields", o.name)
}

func (o *object) Equal(other ref.Val) ref.Val {
	return types.NewErr("%s is no value by itself; name one of its fields", o.name)
}
func (o *object) Type() ref.Type { return types.NewObjectType(typePrefix + o.name) }
func (o *object) Value() any     { return o }

// environment is CEL with our variables and functions; made once, read by all.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	opts := []cel.EnvOption{
		cel.CustomTypeProvider(provider{registry}),
		ext.Strings(),
		cel.DefaultUTCTimeZone(true),
		cel.EagerlyValidateDeclarations(true),
		cel.ExtendedValidations(),
		cel.ASTValidators(cel.ValidateComprehensionNestingLimit(maxLoopDepth), cel.ValidateRegexProgramSizeLimit(maxRegexSize)),
		cel.ParserRecursionLimit(maxDepth),
		cel.ParserErrorRecoveryLimit(4),
		cel.ParserExpressionSizeLimit(MaxWhenBytes),
		cel.ExpressionNodeLimit(maxNodes),
		cel.ExpressionNestingDepthLimit(maxDepth),
		cel.RegexProgramSizeLimit(maxRegexSize),
	}
	for i := range variables {
		if v := &variables[i]; v.object == "" {
			opts = append(opts, cel.Variable(v.name, v.typ))
		}
	}
	for _, name := range objectNames {
		opts = append(opts, cel.Variable(name, cel.ObjectType(typePrefix+name)))
	}
	return cel.NewEnv(append(opts, functions()...)...)
})
