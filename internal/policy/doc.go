// Package policy decides what a call may do: rules in YAML whose conditions are
// CEL expressions over the facts of the call, tried in order until one matches.
//
// It is pure. A [Set] is made from the bytes of files, never changes, and may be
// used by any number of goroutines at once; its owner swaps it whole. The package
// reads no file, no clock and no network: what a rule may look at is in [Input],
// the time included. That is why a recorded trail can be decided again ([FromEntry])
// with the answer that a live call would have got.
//
// What holds for every decision:
//
//   - The first rule whose condition is true decides. None: deny, by [DefaultDeny].
//   - A rule that cannot be evaluated (a fact that is not known, a size that is
//     over its bound, too much work) denies, by its own name. It is never skipped:
//     the rule might have been the one that says no.
//   - Names of fields are checked when the rules are loaded. A misspelt one is an
//     error with file and line, not a rule that silently never matches.
//   - Work is bounded, by the number and length of rules, by CEL's cost model, and by
//     the context.
//
// The language, with each variable and function, is specified in
// docs/spec/policy.md.
package policy
