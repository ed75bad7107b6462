package bigquery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/policy"
)

// row is one statement of testdata/statements.yaml and all that must be read of it.
// One without a name does not stand on the page.
type row struct {
	Name   string
	SQL    string
	Build  []piece // instead of SQL, where it is long
	Legacy bool
	Want   reading

	group string
}

// piece is a part of a long statement. "%d" in its text is the count so far.
type piece struct {
	Text  string
	Times int
}

// reading is what the gateway makes of a statement.
type reading struct {
	Class         string
	Classes       []string
	StatementType string `yaml:"statement_type"`
	Read          []string
	ReadCount     int `yaml:"read_count"` // instead of Read, where it is long
	Written       []string
	Destinations  []string
	Flags         []string
	Risky         bool
}

func (r *row) long() bool { return len(r.Build) > 0 }

// path names the row in messages.
func (r *row) path() string {
	if r.Name == "" {
		return r.group + "/" + r.SQL
	}
	return r.group + "/" + r.Name
}

func (r *row) text() string {
	if !r.long() {
		return r.SQL
	}
	var b strings.Builder
	for _, p := range r.Build {
		for i := range max(p.Times, 1) {
			b.WriteString(strings.ReplaceAll(p.Text, "%d", strconv.Itoa(i)))
		}
	}
	return b.String()
}

// table is testdata/statements.yaml.
func table(t testing.TB) []row {
	t.Helper()
	text, err := os.ReadFile("testdata/statements.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var groups []struct {
		Group      string
		Statements []row
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&groups); err != nil {
		t.Fatal(err)
	}
	var all []row
	seen := map[string]bool{}
	for _, g := range groups {
		for _, r := range g.Statements {
			r.group = g.Group
			if seen[r.path()] || r.Name == "" && r.SQL == "" {
				t.Fatalf("%s stands twice", r.path())
			}
			seen[r.path()] = true
			all = append(all, r)
		}
	}
	return all
}

// riskRule is a policy that tells risky calls from others.
const riskRule = "version: 1\nrules:\n  - name: risky\n    when: risky\n    deny: risky\n  - name: other\n    when: \"true\"\n    allow: {}\n"

// judged is what the gateway hands to the policy of a call, and whether the policy
// calls it risky.
func judged(t testing.TB, set *policy.Set, c *bigquery.Call) reading {
	t.Helper()
	out := reading{
		Class: string(c.Class), StatementType: c.StatementType, Read: c.Read, Written: c.Written, Destinations: c.Destinations, Flags: c.Flags,
	}
	for _, k := range c.Classes {
		out.Classes = append(out.Classes, string(k))
	}
	in := &policy.Input{
		Class: c.Class, Classes: c.Classes, StatementType: c.StatementType, Destinations: c.Destinations, Flags: c.Flags,
		Tables: trailgate.Tables{Read: c.Read, Written: c.Written},
	}
	d, _ := set.Evaluate(context.Background(), in)
	out.Risky = d.Rule == "risky"
	return out
}

func riskSet(t testing.TB) *policy.Set {
	t.Helper()
	set, err := policy.Load([]policy.File{{Name: "risky.yaml", Data: []byte(riskRule)}})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// inserted reads one statement as a query job of jobs.insert would carry it, in
// project p with default dataset d.
func inserted(t testing.TB, sql string, legacy bool) *bigquery.Call {
	t.Helper()
	c := route(t, "POST", "projects/p/jobs")
	body, err := json.Marshal(map[string]any{"configuration": map[string]any{
		"query": map[string]any{"query": sql, "useLegacySql": legacy, "defaultDataset": map[string]string{"datasetId": "d"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ReadBody(body); err != nil {
		t.Fatalf("%.80q: %v", sql, err)
	}
	return c
}

// TestStatements: every statement of the table is read as the table says, whichever way
// the call carries it.
func TestStatements(t *testing.T) {
	set := riskSet(t)
	all := table(t)
	if len(all) < 220 {
		t.Errorf("%d statements", len(all))
	}
	for _, r := range all {
		sql := r.text()
		for _, c := range []*bigquery.Call{judge(t, sql, r.Legacy), inserted(t, sql, r.Legacy)} {
			got := judged(t, set, c)
			if r.Want.ReadCount > 0 {
				got.ReadCount, got.Read = len(got.Read), nil
			}
			if d := cmp.Diff(r.Want, got); d != "" {
				t.Errorf("%s, %s: %.200q (-want +got):\n%s", r.path(), c.Method, sql, d)
			}
			if len(c.Statements) != 1 || c.Statements[0].Text != sql {
				t.Errorf("%s, %s: the text is not recorded as it is", r.path(), c.Method)
			}
		}
	}
}

// TestStatementsCovers: each class, each statement type that BigQuery has and each flag
// that reading SQL can give stands in the table.
func TestStatementsCovers(t *testing.T) {
	classes, kinds, flags := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, r := range table(t) {
		classes[r.Want.Class] = true
		kinds[r.Want.StatementType] = true
		for _, f := range r.Want.Flags {
			flags[f] = true
		}
	}
	for _, c := range []trailgate.Class{
		trailgate.ClassUnknown, trailgate.ClassAccessChange, trailgate.ClassExport, trailgate.ClassWrite, trailgate.ClassMetadataChange, trailgate.ClassRead, trailgate.ClassMetadataRead,
	} {
		if !classes[string(c)] {
			t.Errorf("no statement has class %s", c)
		}
	}
	for _, k := range append([]string{"UNKNOWN"}, bigquery.Kinds...) {
		if !kinds[k] {
			t.Errorf("no statement has type %s", k)
		}
	}
	// The flags are the literals that the source gives to the functions which set them.
	emitted := regexp.MustCompile(`\b(?:flag|unknown|unread|remote)\("([a-z_]+)"\)`)
	n := 0
	for _, file := range []string{"sql.go", "ddl.go", "script.go", "tables.go", "legacy.go"} {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range emitted.FindAllStringSubmatch(string(src), -1) {
			n++
			if !flags[m[1]] {
				t.Errorf("no statement has flag %s, which %s gives", m[1], file)
			}
		}
	}
	if n < 15 || !flags["bidi_in_statement"] {
		t.Errorf("%d places give flags", n)
	}
}

// visible writes a statement for a page: on one line, with what cannot be seen as
// an escape.
func visible(sql string) string {
	var b strings.Builder
	for _, c := range sql {
		switch {
		case !unicode.IsPrint(c): // of spaces, U+0020 alone is
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(c), "'"))
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// code is a text as code in a cell of a Markdown table.
func code(text string) string {
	if text == "" {
		return ""
	}
	fence := "`"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	if strings.HasPrefix(text, "`") || strings.HasSuffix(text, "`") {
		text = " " + text + " "
	}
	return fence + strings.ReplaceAll(text, "|", `\|`) + fence
}

const pageHead = `# What a statement is taken for

This is how the gateway reads SQL before it asks the policy: by tokens, without BigQuery. What it cannot tell it classes ` + "`unknown`" + `, which counts as
the gravest; it never takes a change for a read. The classes are those of [entry.md](entry.md), gravest first where there are several; ` + "`risky`" + ` is the
variable of [policy.md](policy.md). Names stand as they would be in project ` + "`p`" + ` with default dataset ` + "`d`" + `.

The table is made from [statements.yaml](../../internal/bigquery/testdata/statements.yaml), which also has the destinations and more statements, and is held to it and to
the gateway's reading by a test: edit the YAML, then run ` + "`TRAILGATE_UPDATE_GOLDEN=1 go test ./internal/bigquery -run TestStatementsPage`" + `.

What the text alone does not tell, and the gateway so cannot read there:

- **A function that was made before** (` + "`s.f(x)`" + `) may be remote. It is flagged ` + "`calls_function`" + `, and stands among the destinations as ` + "`function:p.s.f`" + `.
- **A model in ` + "`ML.PREDICT` or `ML.EVALUATE`" + `** may be remote. It is flagged ` + "`calls_model`" + `, and stands among the tables read.
- **A view or a table function** reads tables that are not in the statement; a dry run names them.
- **A temporary table of a session** that an earlier call made is read as a table of the default dataset.
- **What a script runs of its text**, and how often: everything in it counts, branches that are never taken too.
- **What a procedure's body does when it is called**: of a stored body only access changes, exports and what cannot be told count when it is made; a ` + "`CALL`" + ` is ` + "`unknown`" + `.
- **Legacy SQL's table functions** (` + "`TABLE_DATE_RANGE`, `TABLE_QUERY`" + `): which tables they find; the statement is flagged.
- **Addresses put together from parts** stand among the destinations as far as their literals go.
`

// tablePage is docs/spec/statements.md.
func tablePage(all []row) string {
	var b strings.Builder
	b.WriteString(pageHead)
	group := ""
	for _, r := range all {
		if r.Name == "" {
			continue
		}
		if r.group != group {
			group = r.group
			fmt.Fprintf(&b, "\n## %s\n\n| statement | | class | statement type | risky | tables read | written | flags |\n|---|---|---|---|---|---|---|---|\n", group)
		}
		sql := visible(r.SQL)
		if r.long() {
			var parts []string
			for _, p := range r.Build {
				part := visible(p.Text)
				if p.Times > 1 {
					part += " × " + strconv.Itoa(p.Times)
				}
				parts = append(parts, part)
			}
			sql = strings.Join(parts, " … ")
		}
		read := strings.Join(r.Want.Read, ", ")
		if r.Want.ReadCount > 0 {
			read = strconv.Itoa(r.Want.ReadCount) + " of them"
		}
		risky := ""
		if r.Want.Risky {
			risky = "yes"
		}
		name := r.Name
		if r.Legacy {
			name += " (legacy)"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", name, code(sql), strings.Join(r.Want.Classes, ", "), code(r.Want.StatementType),
			risky, code(read), code(strings.Join(r.Want.Written, ", ")), strings.Join(r.Want.Flags, ", "))
	}
	return b.String()
}

// TestStatementsPage holds the page to the table.
func TestStatementsPage(t *testing.T) {
	const file = "../../docs/spec/statements.md"
	want := tablePage(table(t))
	if os.Getenv("TRAILGATE_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(want, "\n"), strings.Split(string(got), "\n")); d != "" {
		t.Errorf("the page is not the table's (TRAILGATE_UPDATE_GOLDEN=1 writes it; -table +page):\n%s", d)
	}
	if strings.ContainsFunc(want, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		t.Error("the page has characters that cannot be seen")
	}
}
