package policy_test

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/trailgate/trailgate/internal/policy"
)

func spec(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/spec/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestSpecVariables: the spec's table is the vocabulary, in the same order, with
// the same types, and each example is a condition that uses its variable.
func TestSpecVariables(t *testing.T) {
	row := regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| ([a-z]+(?:\\([a-z, ]+\\))?) \\| .* \\| `([^`]+)` \\|$")
	paths, types := policy.Variables()
	var got []string
	for _, m := range row.FindAllStringSubmatch(spec(t), -1) {
		path, typ, example := m[1], m[2], m[3]
		i := len(got)
		got = append(got, path)
		if i < len(paths) && paths[i] == path && strings.Replace(types[i], "google.protobuf.Timestamp", "timestamp", 1) != typ {
			t.Errorf("%s is of type %s, not %s", path, types[i], typ)
		}
		if !strings.Contains(example, path) {
			t.Errorf("the example of %s does not use it", path)
		}
		rules(t, "a allow: "+example)
	}
	if len(paths) > 64 {
		t.Errorf("%d variables; an evaluation keeps 64", len(paths))
	}
	if !slices.Equal(got, paths) {
		t.Errorf("the spec has\n%v, the code\n%v", got, paths)
	}
}

func TestSpecFunctions(t *testing.T) {
	_, section, _ := strings.Cut(spec(t), "\n## Functions\n")
	section, _, _ = strings.Cut(section, "\n### ")
	row := regexp.MustCompile("(?m)^\\| `[^`]+` \\| .* \\| `([^`]+)` \\|$")
	examples := row.FindAllStringSubmatch(section, -1)
	if len(examples) != 5 {
		t.Errorf("%d functions", len(examples))
	}
	for _, m := range examples {
		rules(t, "a allow: "+m[1])
	}
	rules(t, `a allow: tables.written.within("acme.scratch_" + principal.agent + ".*")`)
	for _, fn := range []string{
		`"a".lowerAscii() == "a"`, `"a,b".split(",").join("") == "ab"`, `" a".trim() == "a"`, `now.getHours("Europe/Berlin") > 8`,
		`"abc".replace("a", "b").substring(1).indexOf("b") == 0 && "a".charAt(0) == "a" && "a".upperAscii() == "A"`, `flags.exists_one(f, f == "x") || flags.map(f, f + "y").size() > 1`,
	} {
		rules(t, "a allow: "+fn)
	}
}

// TestSpecYAML: every policy in the spec loads without a finding, and every case
// passes with the policy that has the rule it names.
func TestSpecYAML(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(spec(t), -1)
	var sets []*policy.Set
	cases := 0
	for _, b := range blocks {
		if !strings.Contains(b[1], "\ncases:") {
			s := load(t, b[1])
			for _, f := range s.Lint() {
				t.Errorf("%s\n%s", f, b[1])
			}
			sets = append(sets, s)
			continue
		}
		for _, s := range sets {
			if !slices.ContainsFunc(s.Rules(), func(r policy.Rule) bool { return strings.Contains(b[1], "rule: "+r.Name+"\n") }) {
				continue
			}
			results, err := policy.RunCases(context.Background(), s, policy.File{Name: "spec", Data: []byte(b[1])}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range results {
				cases++
				if !r.Passed() {
					t.Errorf("%s: %s", r.Name, r.Problem)
				}
			}
		}
	}
	if len(sets) < 3 || cases < 2 {
		t.Errorf("%d policies, %d cases", len(sets), cases)
	}
}

// TestSpecLists: codes of findings and the risky words are those of the code.
func TestSpecLists(t *testing.T) {
	text := spec(t)
	src, err := os.ReadFile("lint.go")
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`(?:add\(r, |add\(&s\.rules\[0\], |once\()"([a-z-]+)"`).FindAllStringSubmatch(string(src), -1)
	if len(codes) < 11 {
		t.Errorf("%d codes", len(codes))
	}
	for _, m := range codes {
		if !strings.Contains(text, "\n| `"+m[1]+"` |") {
			t.Errorf("the spec does not explain %q", m[1])
		}
	}
	entry, err := os.ReadFile("../../docs/spec/entry.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, flag := range policy.RiskyFlags() {
		if !strings.Contains(string(entry), "`"+flag+"`") {
			t.Errorf("entry.md has no flag %q", flag)
		}
	}
}
