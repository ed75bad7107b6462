package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
)

// maxObjects is at least how many variables have fields.
const maxObjects = 16

// evaluation is what one decision looks at: the input behind CEL's variables,
// each made once.
type evaluation struct {
	in          *Input
	wantsDryRun bool // a fact was asked for that only a dry run tells
	// large: a variable is larger than the costs of rules were estimated for, so
	// that they have to be counted.
	large    bool
	counting bool   // the present rule's cost is counted
	touched  uint64 // which variables were looked at, a bit each
	values   [64]ref.Val
	objects  [maxObjects]object
}

var evaluations = sync.Pool{New: func() any {
	e := &evaluation{}
	for i, name := range objectNames {
		e.objects[i] = object{e, name}
	}
	return e
}}

func (e *evaluation) release() {
	e.in, e.wantsDryRun, e.large, e.touched = nil, false, false, 0
	clear(e.values[:])
	evaluations.Put(e)
}

// dryRunBits are those of the variables that limits look at.
var dryRunBits = uint64(1)<<fieldIndex[dryRunObject]["statement_type"] | 1<<fieldIndex[dryRunObject]["bytes"]

// value is variable i's.
func (e *evaluation) value(i int) (ref.Val, error) {
	e.touched |= 1 << i
	if v := e.values[i]; v != nil {
		return v, nil
	}
	v, err := variables[i].get(e)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", variables[i].path(), err)
	}
	e.values[i] = v
	if !e.large && !usual(v) {
		e.large = true
		if !e.counting {
			return nil, errLarge // ends the rule's evaluation, which is begun again
		}
	}
	return v, nil
}

// ResolveName implements CEL's Activation.
func (e *evaluation) ResolveName(name string) (any, bool) {
	if i, ok := plainIndex[name]; ok {
		v, err := e.value(i)
		if err != nil {
			return types.WrapErr(err), true
		}
		return v, true
	}
	for i := range objectNames {
		if objectNames[i] == name {
			return &e.objects[i], true
		}
	}
	return nil, false
}

// Parent implements CEL's Activation.
func (e *evaluation) Parent() interpreter.Activation { return nil }

// Evaluate decides about a call. needDryRun says that the answer depends on what
// BigQuery would say to a dry run, and in.DryRun is nil: the caller is to ask,
// put the answer (or that there is none) into in.DryRun, and evaluate again; the
// decision is then a denial, in case it does not. A nil Set denies everything.
func (s *Set) Evaluate(ctx context.Context, in *Input) (d Decision, needDryRun bool) {
	d, needDryRun, _ = s.evaluate(ctx, in)
	return d, needDryRun
}

func (s *Set) evaluate(ctx context.Context, in *Input) (d Decision, needDryRun bool, touched uint64) {
	if s == nil {
		return Decision{Effect: Deny, Rule: DefaultDeny, Reason: "no policy is loaded"}, false, 0
	}
	e := evaluations.Get().(*evaluation)
	defer e.release()
	e.in = in
	frame, err := interpreter.NewExecutionFrame(e)
	if err != nil {
		return Decision{Effect: Deny, Rule: DefaultDeny, Failed: true, Reason: err.Error()}, false, 0
	}
	defer frame.Close()
	var spent uint64
	for i := range s.rules {
		r := &s.rules[i]
		if err := ctx.Err(); err != nil {
			return r.failed(fmt.Errorf("the evaluation was cut short: %w", context.Cause(ctx))), false, e.touched
		}
		hit, cost, err := r.matches(ctx, e, frame)
		spent += cost
		switch {
		case err != nil && e.wantsDryRun && in.DryRun == nil:
			return r.failed(errNoDryRun), true, e.touched
		case err != nil:
			return r.failed(err), false, e.touched
		case spent > maxTotalCost:
			return r.failed(errTotalCost), false, e.touched
		case hit:
			d, needDryRun = r.decide(e)
			return d, needDryRun, e.touched
		}
		// A dry run was asked for in a part of the condition that did not decide.
		e.wantsDryRun = false
	}
	return Decision{Effect: Deny, Rule: DefaultDeny, Reason: "no rule of the policy allows this call"}, false, e.touched
}

// matches evaluates the rule's condition: without counting where its cost is known
// to be small, counting and heeding ctx otherwise.
func (r *rule) matches(ctx context.Context, e *evaluation, frame *interpreter.ExecutionFrame) (hit bool, cost uint64, err error) {
	if r.small != nil && !e.large {
		out, _, err := r.small.Eval(frame)
		if !e.large {
			return truthOf(out, 0, err)
		}
		e.wantsDryRun = false
	}
	e.counting = true
	defer func() { e.counting = false }()
	out, details, err := r.counted.ContextEval(ctx, e)
	if details != nil {
		if c := details.ActualCost(); c != nil {
			cost = *c
		}
	}
	return truthOf(out, cost, err)
}

func truthOf(out ref.Val, cost uint64, err error) (bool, uint64, error) {
	if err != nil {
		return false, cost, err
	}
	b, ok := out.(types.Bool)
	if !ok {
		return false, cost, fmt.Errorf("the condition is %s, not true or false", out.Type().TypeName())
	}
	return bool(b), cost, nil
}

// failed is the denial by a rule that could not be evaluated.
func (r *rule) failed(err error) Decision {
	return Decision{
		Effect: Deny, Rule: r.Name, Failed: true,
		Reason: clip(strings.Map(printable, fmt.Sprintf("the rule could not be evaluated: %v", err)), MaxTextBytes),
	}
}

// decide is what the rule says, now that it matched.
func (r *rule) decide(e *evaluation) (d Decision, needDryRun bool) {
	in := e.in
	if (r.readOnlyNeedsDryRun(in) || r.message.readsDryRun) && in.DryRun == nil {
		return r.failed(errNoDryRun), true
	}
	d = Decision{Effect: r.Effect, Rule: r.Name, Reason: r.message.text(e)}
	if r.Effect == Deny {
		return d, false
	}
	if r.Limits.ReadOnly || r.Limits.MaximumBytesBilled > 0 && in.DryRun != nil {
		e.touched |= dryRunBits
	}
	if why := r.broken(in); why != "" {
		return Decision{Effect: Deny, Rule: r.Name, Reason: why}, false
	}
	d.Limits, d.Approval = r.Limits, r.Approval
	d.Limits.RequireLabels = slices.Clone(d.Limits.RequireLabels)
	d.Approval.From = slices.Clone(d.Approval.From)
	return d, false
}

// readOnlyNeedsDryRun: the limit read_only has BigQuery confirm what a statement
// is, where it is one.
func (r *rule) readOnlyNeedsDryRun(in *Input) bool {
	return r.Limits.ReadOnly && in.makesJob() && readClass(in)
}

// broken tells which of the rule's limits the call itself does not keep; "" none.
func (r *rule) broken(in *Input) string {
	l := &r.Limits
	if len(l.RequireLabels) > 0 && in.makesJob() {
		var missing []string
		for _, name := range l.RequireLabels {
			if in.Claims.Labels[name] == "" {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			return "the job needs a label: set " + strings.Join(missing, ", ")
		}
	}
	if l.ReadOnly {
		if !readClass(in) {
			return fmt.Sprintf("only reading is allowed, and this call is of class %s", in.Class)
		}
		if in.makesJob() {
			switch d := in.DryRun; {
			case !d.Ran:
				return clip("only reading is allowed, and BigQuery did not confirm that the statement reads: "+d.Error, MaxTextBytes)
			case d.StatementType != "SELECT":
				return fmt.Sprintf("only reading is allowed, and BigQuery says that the statement is %s", clip(d.StatementType, 64))
			case len(d.Written) > 0:
				return fmt.Sprintf("only reading is allowed, and BigQuery says that the statement writes %s", clip(d.Written[0], 200))
			}
		}
	}
	if d := in.DryRun; l.MaximumBytesBilled > 0 && d != nil && d.Ran && d.Bytes > l.MaximumBytesBilled {
		return fmt.Sprintf("the statement would process %s; this rule allows %s", formatBytes(d.Bytes), formatBytes(l.MaximumBytesBilled))
	}
	return ""
}

func readClass(in *Input) bool {
	for _, c := range in.Classes {
		if c.Gravity() > 2 { // ClassRead's
			return false
		}
	}
	return in.Class.Gravity() <= 2
}
