package trailgate_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestVocabulary: every flag and action that the code writes is in the
// specification, where readers of the trail look it up.
func TestVocabulary(t *testing.T) {
	spec, err := os.ReadFile("docs/spec/entry.md")
	if err != nil {
		t.Fatal(err)
	}
	words := regexp.MustCompile(`(?:\.flag\(|[Ff]lags, |Flags = append\([a-z.A-Z]+, |unread\()"([a-z_]+)"|"((?:serve|witness|checkpoint|agent|connector|token|trail|index|session|clock|consent|connection|admin|credential)\.[a-z_]+)"`)
	found := 0
	for _, dir := range []string{"internal/bigquery", "internal/connector", "internal/gateway", "internal/admin", "internal/trail", "cmd/trailgate"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range words.FindAllStringSubmatch(string(src), -1) {
				if m[2] == "admin.token" || m[2] == "admin.sock" || m[2] == "session.key" || m[2] == "connector.pem" || strings.HasSuffix(m[2], ".key") || strings.HasSuffix(m[2], ".pub") {
					continue // files
				}
				found++
				if word := m[1] + m[2]; !strings.Contains(string(spec), "`"+word+"`") {
					t.Errorf("%s writes %q, which docs/spec/entry.md does not explain", name, word)
				}
			}
		}
	}
	if found < 40 {
		t.Errorf("only %d words were found; does the pattern still fit the code?", found)
	}
}

// TestThreatModel: the tests that docs/threat-model.md names exist, and each
// attack of testdata/attacks.txt has a row, in that order, that says what becomes
// of it and which test holds that.
func TestThreatModel(t *testing.T) {
	doc, err := os.ReadFile("docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	attacks, err := os.ReadFile("testdata/attacks.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(doc), "\n## Line by line\n")
	var rows []string
	for line := range strings.Lines(list) {
		line = strings.TrimSpace(line)
		if title, ok := strings.CutPrefix(line, "### "); ok {
			rows = append(rows, "# "+title)
		}
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		if !strings.HasPrefix(line, "| ") || cells[0] == " attack" {
			continue
		}
		if len(cells) != 4 {
			t.Fatalf("%q has %d cells", line, len(cells))
		}
		rows = append(rows, strings.TrimSpace(cells[0]))
		switch verdict, how, by := cells[1], strings.TrimSpace(cells[2]), cells[3]; {
		case verdict != "prevented" && verdict != "detected" && verdict != "out of scope", how == "":
			t.Errorf("%q: want prevented, detected or out of scope, and how or why", line)
		case verdict != "out of scope" && !regexp.MustCompile("`(Test|Fuzz|Benchmark)").MatchString(by):
			t.Errorf("%q names no test", line)
		}
	}
	if want := strings.Split(strings.TrimSpace(string(attacks)), "\n"); !slices.Equal(rows, want) || len(want) < 150 {
		for i := range max(len(rows), len(want)) {
			if i >= len(rows) || i >= len(want) || rows[i] != want[i] {
				t.Errorf("docs/threat-model.md and testdata/attacks.txt part at line %d: %q, %q", i+1, rows[min(i, len(rows)-1)], want[min(i, len(want)-1)])
				break
			}
		}
	}
	have := map[string]bool{}
	err = filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)`).FindAllStringSubmatch(string(src), -1) {
			have[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Za-z0-9]+)").FindAllStringSubmatch(string(doc), -1)
	for _, m := range named {
		if !have[m[1]] {
			t.Errorf("docs/threat-model.md names %s, which does not exist", m[1])
		}
	}
	if len(named) < 40 {
		t.Errorf("only %d tests are named", len(named))
	}
}
