package policy

import (
	"fmt"
	"reflect"
	"strings"
)

// Change is one way in which a set differs from another.
type Change struct {
	Rule string
	What string // "added", "removed", "changed", "moved"
}

func (c Change) String() string { return c.Rule + " " + c.What }

// Diff lists what changed from one set to another, by rule: removed ones in the
// old order, then the others in the new. A rule is "moved" where it now stands
// before a rule that both sets have and that stood before it. Either set may be
// nil: no rules.
func Diff(from, to *Set) []Change {
	before, after := map[string]int{}, map[string]int{}
	var was, is []rule
	if from != nil {
		was = from.rules
	}
	if to != nil {
		is = to.rules
	}
	for i := range was {
		before[was[i].Name] = i
	}
	for i := range is {
		after[is[i].Name] = i
	}
	var out []Change
	for i := range was {
		if _, stays := after[was[i].Name]; !stays {
			out = append(out, Change{was[i].Name, "removed"})
		}
	}
	moved := make([]bool, len(is))
	first := len(was) // the earliest old place of the rules that stand further down
	for i := len(is) - 1; i >= 0; i-- {
		if old, stood := before[is[i].Name]; stood {
			moved[i] = old > first
			first = min(first, old)
		}
	}
	for i := range is {
		old, stood := before[is[i].Name]
		switch {
		case !stood:
			out = append(out, Change{is[i].Name, "added"})
		case !sameRule(&was[old], &is[i]):
			out = append(out, Change{is[i].Name, "changed"})
		case moved[i]:
			out = append(out, Change{is[i].Name, "moved"})
		}
	}
	return out
}

func sameRule(a, b *rule) bool {
	return a.When == b.When && a.Effect == b.Effect && a.Message == b.Message &&
		reflect.DeepEqual(a.Limits, b.Limits) && reflect.DeepEqual(a.Approval, b.Approval)
}

// Summary is a short text of changes for an entry or a log: at most n of them, and
// how many more there are.
func Summary(changes []Change, n int) string {
	texts := make([]string, 0, n+1)
	for _, c := range changes[:min(n, len(changes))] {
		texts = append(texts, c.String())
	}
	if more := len(changes) - n; more > 0 {
		texts = append(texts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(texts, ", ")
}
