package index_test

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/index/indextest"
)

var update = flag.Bool("update", false, "rewrite golden files")

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// small is an index of a short generated trail.
func small(t testing.TB, n uint64, opt index.Options) (*index.Index, *indextest.Gen) {
	t.Helper()
	gen := indextest.New(7)
	x, err := index.Open(t.Context(), t.TempDir(), indextest.Generated{Gen: gen, Entries: n}, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := x.CatchUp(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return x, gen
}

// TestFilterErrors compares messages with testdata/filter_errors.txt: a filter
// a line, and under it, indented, what is said about it.
func TestFilterErrors(t *testing.T) {
	path := filepath.Join("testdata", "filter_errors.txt")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	lines := bufio.NewScanner(strings.NewReader(string(raw)))
	for lines.Scan() {
		filter := lines.Text()
		if strings.HasPrefix(filter, "\t") {
			continue
		}
		fmt.Fprintln(&got, filter)
		err := index.ParseFilter(filter, noon)
		if fe, ok := errors.AsType[*index.FilterError](err); ok {
			if fe.Column > 0 {
				fmt.Fprintf(&got, "\t%s^\n", strings.Repeat(" ", fe.Column-1))
			}
			// Long lists of names are the fields' own test.
			msg, _, _ := strings.Cut(fe.Message, "agent, human, token_id")
			fmt.Fprintf(&got, "\t%s\n", msg)
		} else {
			fmt.Fprintf(&got, "\t%v\n", err)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(string(raw), got.String()); d != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", path, d)
	}
}

// TestFilterBounds checks that what is too large is refused, and what is as
// large as it may be is answered.
func TestFilterBounds(t *testing.T) {
	x, _ := small(t, 200, index.Options{})
	for name, filter := range map[string]string{
		"bytes":  "agent = \"" + strings.Repeat("a", 9000) + "\"",
		"depth":  strings.Repeat("(a OR (b AND ", 100) + "c" + strings.Repeat("))", 100),
		"nots":   strings.Repeat("NOT (", 100) + "c" + strings.Repeat(")", 100),
		"tests":  strings.Repeat("a AND ", 300) + "b",
		"parens": strings.Repeat("(", 8000),
		"list":   "agent = " + strings.Repeat("(NOT ", 100) + "a" + strings.Repeat(")", 100),
		"words":  strings.Repeat("w", 7) + ` statement:"` + longWords(200) + `"`,
		"stars":  `agent = "` + strings.Repeat("*a", 40) + `"`,
	} {
		if _, _, err := x.Search(t.Context(), index.Query{Filter: filter}); err == nil {
			t.Errorf("%s: no error", name)
		} else if _, ok := errors.AsType[*index.FilterError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, filter := range map[string]string{
		"depth": strings.Repeat("(a OR (b AND ", 7) + "c" + strings.Repeat("))", 7),
		"nots":  strings.Repeat("NOT (agent = a AND ", 7) + "b" + strings.Repeat(")", 7),
		"tests": strings.Repeat("agent = a OR ", 199) + "b",
		"words": `statement:"` + longWords(99) + `"`,
	} {
		if _, _, err := x.Search(t.Context(), index.Query{Filter: filter}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func longWords(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "w%d ", i)
	}
	return b.String()
}

// TestQuoteBare shows what may go without quotes.
func TestQuoteBare(t *testing.T) {
	for in, want := range map[string]string{
		`agent = etl-bot`:                 `agent = "etl-bot"`,
		`time >= -24h`:                    `time >= "-24h"`,
		`time>=2026-11-23T10:00:00Z`:      `time>="2026-11-23T10:00:00Z"`,
		`client:10.0.0.7:80 AND rows > 5`: `client:"10.0.0.7:80" AND rows > 5`,
		`table : staging.*`:               `table : "staging.*"`,
		`-agent = a`:                      `-agent = a`,
		`NOT batch-id`:                    `NOT "batch-id"`,
		`-batch-id`:                       `-"batch-id"`,
		`agent = (a-1 OR "b-2")`:          `agent = ("a-1" OR "b-2")`,
		`"a \" = b-c" d-e`:                `"a \" = b-c" "d-e"`,
		`bytes_billed > 1GiB`:             `bytes_billed > "1GiB"`,
		`a\b`:                             `"a\\b"`,
		`NOT(a) OR(b)`:                    `NOT (a) OR (b)`,
		`rows = -5`:                       `rows = -5`,
		`agent != x.y AND (a OR b)`:       `agent != "x.y" AND (a OR b)`,
		`timestamp("2026-11-23") = time`:  `timestamp("2026-11-23") = time`,
		"agent\n=\n\tetl-bot":             "agent\n=\n\t\"etl-bot\"",
		`statement:"x"`:                   `statement:"x"`,
		`99999999999999999999`:            `"99999999999999999999"`,
	} {
		if got := index.QuoteBare(in); got != want {
			t.Errorf("%s:\n got %s\nwant %s", in, got, want)
		}
	}
}

// TestFieldExamples searches for every field's example, with each operator
// that it takes.
func TestFieldExamples(t *testing.T) {
	x, _ := small(t, 500, index.Options{FileEntries: 200})
	for _, f := range index.Fields() {
		if _, _, err := x.Search(t.Context(), index.Query{Filter: f.Example}); err != nil {
			t.Errorf("%s: %v", f.Example, err)
		}
		if _, err := x.Stats(t.Context(), []string{"agent"}, "NOT ("+f.Example+")"); err != nil {
			t.Errorf("NOT %s: %v", f.Example, err)
		}
		for _, v := range f.Values {
			if _, _, err := x.Search(t.Context(), index.Query{Filter: f.Name + " = " + v}); err != nil {
				t.Errorf("%s = %s: %v", f.Name, v, err)
			}
		}
	}
}

// TestFieldsDocumented holds docs/spec/filter.md to the table of fields.
func TestFieldsDocumented(t *testing.T) {
	raw, err := os.ReadFile("../../docs/spec/filter.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range index.Fields() {
		if !strings.Contains(string(raw), "| `"+f.Name+"` |") {
			t.Errorf("filter.md has no line for the field %s", f.Name)
		}
	}
	for _, k := range index.SumKeys() {
		if !strings.Contains(string(raw), "`"+k+"`") {
			t.Errorf("filter.md does not name the key %s", k)
		}
	}
}

// TestInjection looks for what FTS5 and SQL would take for syntax, as words and
// as values: it finds the text and nothing else, and breaks nothing.
func TestInjection(t *testing.T) {
	nasty := []string{
		`" OR 1=1 --`, `x" OR "y`, `terms:foo`, `NEAR(a b)`, `^first`, `a + b`, `{terms} : x`, `words MATCH 'x'`, `'; DROP TABLE call; --`,
		`=a1`, `=0`, "=\x00", `* OR *`, `NOT`, `AND`, "\u202e", `%`, `_`, `\`, "a\nb", `"`, `""`, `(`, `)`, "ünïcödé ñ", "日本語", "\xff",
	}
	l := &indextest.Log{}
	id := 0
	add := func(e *trailgate.Entry) {
		id++
		e.ID, e.Kind, e.Time = fmt.Sprintf("01jd%022d", id), trailgate.KindIntent, noon
		e.Gateway = trailgate.Gateway{ID: "gw", Version: "v"}
		if err := l.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	add(&trailgate.Entry{Statements: []trailgate.Statement{{Text: "SELECT innocent FROM bystander"}}, Principal: &trailgate.Principal{Agent: "plain"}})
	for _, s := range nasty {
		if !utf8.ValidString(s) {
			continue
		}
		add(&trailgate.Entry{
			Statements: []trailgate.Statement{{Text: "needle " + s}}, Principal: &trailgate.Principal{Agent: "agent " + s, TokenID: s},
			Tables: &trailgate.Tables{Read: []string{"p.d." + s}}, Session: s, Job: &trailgate.Job{Project: "p", ID: s}, Flags: []string{s},
		})
	}
	x, err := index.Open(t.Context(), t.TempDir(), l, index.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := x.CatchUp(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	quote := func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }
	for _, s := range nasty {
		filters := map[string]bool{ // whether it must find its entry
			`agent = ` + quote("agent "+s):            !strings.Contains(s, "*"),
			`session = ` + quote(s):                   !strings.Contains(s, "*"),
			`job = ` + quote(s):                       !strings.Contains(s, "*"),
			`flag : ` + quote(s):                      false,
			`table : ` + quote("d."+s):                !strings.ContainsAny(s, "*."),
			`statement : ` + quote("needle "+s):       false,
			`statement : needle AND text:` + quote(s): false,
			s:        false,
			quote(s): false,
		}
		for f, must := range filters {
			rows, _, err := x.Search(t.Context(), index.Query{Filter: f})
			if err != nil {
				if _, ok := errors.AsType[*index.FilterError](err); !ok {
					t.Errorf("%s: %v", f, err)
				}
				if must && utf8.ValidString(s) {
					t.Errorf("%s: %v", f, err)
				}
				continue
			}
			for _, r := range rows {
				if r.Entry.Principal.Agent == "plain" {
					t.Errorf("%s finds the bystander", f)
				}
			}
			if must && utf8.ValidString(s) && len(rows) == 0 {
				t.Errorf("%s finds nothing", f)
			}
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, field := range index.Fields() {
		f.Add(field.Example)
	}
	for _, s := range []string{
		`agent = "etl-bot" AND table : "staging.*" AND class = "write" AND time >= "2026-11-01T00:00:00Z"`,
		`a b (c OR -d) NOT e`, `agent=(a OR NOT (b c))`, `((((`, `f(g(h(1)))`, `x.y.z:w`, `"\"'`, `time > -5d`, `rows<1e3`, `state = "*"`,
		`NOT(agent = a) AND(b)`, `NOT()`, `OR()`, `FUZZY(a)`, `AND(a, b)`, `NOT(a, b)`, `agent = AND(a)`, `agent = (FUZZY(a))`,
	} {
		f.Add(s)
	}
	x, _ := small(f, 300, index.Options{FileEntries: 128, Now: func() time.Time { return noon }})
	f.Fuzz(func(t *testing.T, filter string) {
		_, _, err := x.Search(t.Context(), index.Query{Filter: filter, PageSize: 3})
		if err == nil {
			_, err = x.Stats(t.Context(), []string{"agent", "class"}, filter)
		}
		if fe, ok := errors.AsType[*index.FilterError](err); ok {
			if fe.Column < 0 || fe.Column > utf8.RuneCountInString(filter)+1 || fe.Message == "" {
				t.Errorf("%q: column %d: %q", filter, fe.Column, fe.Message)
			}
		} else if err != nil {
			t.Errorf("%q: %v", filter, err)
		}
	})
}
