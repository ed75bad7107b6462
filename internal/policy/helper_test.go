package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/trailgate/trailgate/internal/policy"
)

// load makes a set of one file.
func load(tb testing.TB, text string) *policy.Set {
	tb.Helper()
	s, err := policy.Load([]policy.File{{Name: "policy.yaml", Data: []byte(text)}})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// rules makes a set of rules given as "name effect: condition" lines; a denial's
// message is "no", an approval is the approvers'.
func rules(tb testing.TB, lines ...string) *policy.Set {
	tb.Helper()
	return load(tb, rulesYAML(lines...))
}

func rulesYAML(lines ...string) string {
	var b strings.Builder
	b.WriteString("version: 1\nrules:\n")
	for _, line := range lines {
		head, when, _ := strings.Cut(line, ": ")
		name, effect, _ := strings.Cut(head, " ")
		switch effect {
		case policy.Allow:
			effect = "allow: {}"
		case policy.Deny:
			effect = "deny: \"no\""
		case policy.RequireApproval:
			effect = "require_approval: {from: [\"role:approver\"]}"
		}
		fmt.Fprintf(&b, "- name: %s\n  when: %s\n  %s\n", name, quote(when), effect)
	}
	return b.String()
}

// quote is YAML's single-quoted form.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
