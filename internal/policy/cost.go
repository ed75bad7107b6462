package policy

import (
	"errors"

	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// What evaluating may cost, in the units of CEL's cost model: about one for each
// step and for each ten bytes of text that are looked at; 10 to 50 ns.
//
// Counting is several times dearer than what is counted. So a rule's cost is
// estimated when it is loaded, for variables of usual size; one that is small for
// certain is evaluated without counting as long as no variable is larger than that.
const (
	maxSmallCost   = 10_000
	maxRuleCost    = 1_000_000
	maxTotalCost   = 4_000_000 // of the rules that are counted, together
	interruptEvery = 100       // iterations of a loop between looks at the context
)

// The usual sizes.
const (
	usualList = 32
	usualText = 512 // bytes
)

var (
	errLarge     = errors.New("larger than usual")
	errTotalCost = errors.New("the rules up to this one took too much work")
)

// usual says whether a variable's value is of usual size.
func usual(v ref.Val) bool {
	switch v := v.(type) {
	case types.String:
		return len(v) <= usualText
	case types.Int, types.Bool, types.Timestamp:
		return true
	}
	if list, ok := v.(*textList); ok {
		if len(list.raw) > usualList {
			return false
		}
		for _, s := range list.raw {
			if len(s) > usualText {
				return false
			}
		}
		return true
	}
	switch raw := v.Value().(type) {
	case map[string]string:
		if len(raw) > usualList {
			return false
		}
		for k, s := range raw {
			if len(k) > usualText || len(s) > usualText {
				return false
			}
		}
		return true
	default:
		return false
	}
}

// costs tells CEL's cost model how large variables usually are, and what our
// functions cost: as much text as they compare.
type costs struct{}

// EstimateSize implements cost.Estimator.
func (costs) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	if len(node.Path()) == 0 {
		return nil // made by the rule itself: CEL knows
	}
	switch node.Type().Kind() {
	case types.ListKind, types.MapKind:
		return &cost.SizeEstimate{Max: usualList}
	case types.StringKind:
		return &cost.SizeEstimate{Max: usualText}
	default:
		return nil
	}
}

// EstimateCallCost implements cost.Estimator.
func (c costs) EstimateCallCost(function, _ string, target *cost.AstNode, args []cost.AstNode) *cost.CallEstimate {
	if function == fnHours {
		return &cost.CallEstimate{CostEstimate: cost.FixedCostEstimate(hoursCost)}
	}
	if function != fnTable && function != fnWithin && function != fnTouches {
		return nil
	}
	texts, patterns := uint64(usualText), uint64(1)
	unknown := &cost.CallEstimate{CostEstimate: cost.Estimate{Max: maxSmallCost + 1}}
	if target == nil || len(args) != 1 {
		return unknown
	}
	if (*target).Type().Kind() == types.ListKind {
		if len((*target).Path()) == 0 {
			return unknown // a list that the rule makes; it is counted
		}
		texts *= usualList
	} else if len((*target).Path()) == 0 {
		return unknown
	}
	if args[0].Type().Kind() == types.ListKind {
		size := args[0].ComputedSize()
		if size == nil || size.Max > MaxList {
			return unknown
		}
		patterns = size.Max
	}
	return &cost.CallEstimate{CostEstimate: cost.Estimate{Min: 1, Max: 1 + texts/10*patterns}}
}

const hoursCost = 10

// CallCost implements CEL's ActualCostEstimator.
func (costs) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	total := uint64(hoursCost)
	switch function {
	case fnHours:
	case fnTable, fnWithin, fnTouches:
		total = 1 + textSize(args[0])/10
		if len(args) > 1 {
			if list, ok := args[1].(traits.Lister); ok {
				if n, ok := list.Size().(types.Int); ok {
					total *= 1 + uint64(n)
				}
			}
		}
	default:
		return nil
	}
	return &total
}

// textSize is how much text there is to be looked at.
func textSize(v ref.Val) uint64 {
	if s, ok := v.(types.String); ok {
		return uint64(len(s))
	}
	list, ok := v.(*textList)
	if !ok {
		return maxNameBytes
	}
	var total uint64
	for _, s := range list.raw {
		total += uint64(len(s)) + 10
	}
	return total
}
