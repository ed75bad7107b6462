package policy

import (
	"maps"
	"slices"
)

// Hooks for black-box tests.

// Match compares a table's name with a pattern: "yes", "no", "unsure", or
// "bad pattern".
func Match(pattern, name string) string {
	g, err := compileGlob(pattern)
	if err != nil {
		return "bad pattern"
	}
	t := splitTable(name)
	a, err := g.match(&t)
	if (err != nil) != (a == unsure) {
		return "an error that does not fit the answer"
	}
	return map[answer]string{yes: "yes", no: "no", unsure: "unsure"}[a]
}

// Variables lists the variables with their CEL types.
func Variables() (paths, types []string) {
	for i := range variables {
		paths = append(paths, variables[i].path())
		types = append(types, variables[i].typ.String())
	}
	return paths, types
}

// Small says whether each rule is evaluated without counting its cost.
func (s *Set) Small() []bool {
	out := make([]bool, len(s.rules))
	for i := range s.rules {
		out[i] = s.rules[i].small != nil
	}
	return out
}

// Counted is the set with the cost of every rule counted.
func (s *Set) Counted() *Set {
	out := *s
	out.rules = append([]rule(nil), s.rules...)
	for i := range out.rules {
		out.rules[i].small = nil
	}
	return &out
}

var (
	ParseSize   = parseSize
	FormatBytes = formatBytes
)

// RiskyFlags lists the flags that make a call risky.
func RiskyFlags() []string { return slices.Collect(maps.Keys(riskyFlags)) }
