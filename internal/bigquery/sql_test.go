package bigquery_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/discovery"
)

// judge reads one statement as jobs.query would carry it, in project p with
// default dataset d.
func judge(t testing.TB, sql string, legacy bool) *bigquery.Call {
	t.Helper()
	c := route(t, "POST", "projects/p/queries")
	body, err := json.Marshal(map[string]any{"query": sql, "useLegacySql": legacy, "defaultDataset": map[string]string{"datasetId": "d"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ReadBody(body); err != nil {
		t.Fatalf("%.80q: %v", sql, err)
	}
	return c
}

func TestLegacySQL(t *testing.T) {
	for _, tt := range []struct{ sql, kind, read string }{
		{"SELECT 1", "SELECT", "[]"},
		{"SELECT COUNT(*) FROM [q:s.t]", "SELECT", "[q.s.t]"},
		{"SELECT * FROM [s.t], [s.u]", "SELECT", "[p.s.t p.s.u]"},
		{"SELECT * FROM s.t JOIN EACH [q:s.u] ON a = b", "SELECT", "[p.s.t q.s.u]"},
		{"SELECT * FROM (SELECT * FROM [example.com:q:s.t])", "SELECT", "[example.com:q.s.t]"},
		{"SELECT 'FROM [x:y.z]' FROM t -- FROM [x:y.z]", "SELECT", "[p.d.t]"},
		{"SELECT * FROM TABLE_DATE_RANGE([s.e], TIMESTAMP('2026-01-01'), CURRENT_TIMESTAMP())", "SELECT", "[]"},
		{"#standardSQL\nDELETE FROM s.t WHERE TRUE", "DELETE", "[]"},
		{"DELETE FROM s.t", "UNKNOWN", "[]"},
		{"", "UNKNOWN", "[]"},
	} {
		c := judge(t, tt.sql, true)
		if c.StatementType != tt.kind || fmt.Sprint(c.Read) != tt.read {
			t.Errorf("%q: %s %v, want %s %s", tt.sql, c.StatementType, c.Read, tt.kind, tt.read)
		}
	}
	if c := judge(t, "#legacySQL\nSELECT * FROM [q:s.t]", false); fmt.Sprint(c.Read) != "[q.s.t]" {
		t.Errorf("%v", c.Read)
	}
}

// unbounded tells a reading whose time grows out of hand from one on a slow machine: it is
// held against that of an ordinary long text, read at the same moment.
func unbounded(t testing.TB, took time.Duration) bool {
	t.Helper()
	if took <= 5*time.Second {
		return false
	}
	start := time.Now()
	judge(t, strings.Repeat("SELECT 1;", 10_000), false)
	return took > 500*time.Since(start)
}

// TestHostileStatements: however large or odd, a statement is read in bounded
// time, and no text ends the call.
func TestHostileStatements(t *testing.T) {
	for name, sql := range map[string]string{
		"parentheses": "SELECT " + strings.Repeat("(", 100_000) + "1" + strings.Repeat(")", 100_000),
		"statements":  strings.Repeat("SELECT 1;", 10_000),
		"tables": "SELECT * FROM s.t0" + func() string {
			var b strings.Builder
			for i := range 20_000 {
				fmt.Fprintf(&b, ", s.t%d", i)
			}
			return b.String()
		}(),
		"escapes":    "SELECT '" + strings.Repeat(`\u0041`, 200_000) + "'",
		"withs":      strings.Repeat("WITH x AS (", 20_000) + "SELECT 1",
		"froms":      strings.Repeat("SELECT 1 FROM (", 20_000),
		"commas":     "SELECT " + strings.Repeat("1 FROM,", 200_000),
		"comment":    "SELECT 1 /*" + strings.Repeat("*", 1<<20),
		"one string": "SELECT '" + strings.Repeat("x", 8<<20) + "'",
		"begins":     strings.Repeat("BEGIN ", 50_000),
		"dots":       "SELECT * FROM " + strings.Repeat("a.", 200_000) + "b",
		"subqueries": strings.Repeat("SELECT (SELECT 1 FROM a.b, ", 20_000),
		"ctes":       "WITH RECURSIVE x AS (SELECT 1)" + strings.Repeat(", x AS (SELECT 1)", 60_000) + " SELECT * FROM x",
		"calls":      "SELECT " + strings.Repeat("a.b.c(1)+", 100_000) + "1",
		"chain":      "SELECT " + strings.Repeat("a-", 200_000) + "b(1)",
		"brackets":   "SELECT " + strings.Repeat("[", 200_000),
		"bodies":     strings.Repeat("CREATE PROCEDURE s.p() BEGIN ", 50_000),
		"procedures": strings.Repeat("CREATE PROCEDURE s.p() BEGIN SELECT 1; END;", 10_000),
		"labels":     strings.Repeat("x: BEGIN ", 50_000),
		"deletes":    "WHILE " + strings.Repeat("DELETE x ", 100_000),
		"as":         "CREATE TABLE s.t " + strings.Repeat("( AS ", 100_000),
		"dashes":     "SELECT * FROM a" + strings.Repeat("-a", 200_000),
	} {
		start := time.Now()
		c := judge(t, sql, false)
		if took := time.Since(start); unbounded(t, took) {
			t.Errorf("%s took %s", name, took)
		}
		if c.StatementType == "" || len(c.Statements) != 1 || c.Statements[0].Text != sql {
			t.Errorf("%s: %s, %d statements", name, c.StatementType, len(c.Statements))
		}
		judge(t, sql, true)
	}
	for _, sql := range []string{"SELECT \"\\0", "b'\\01", "\"\\x", "\"\\u1", "`\\0", "'\\", "r'", "'''\\", "`", "@", "@@", "-", ".", "a.", "1.", "\x00", "SELECT * FROM", "DELETE", "MERGE", "CREATE", "GRANT", "WITH x AS", "CREATE TABLE", "ALTER", "EXPORT DATA", "(((", ")))"} {
		judge(t, sql, false)
		judge(t, sql, true)
	}
}

// TestKinds holds the statement types to those that Google documents.
func TestKinds(t *testing.T) {
	var doc struct {
		Schemas map[string]struct {
			Properties map[string]struct{ Description string }
		}
	}
	if err := json.Unmarshal(discovery.Document(), &doc); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile("\\* `([A-Z_]+)`:").FindAllStringSubmatch(doc.Schemas["JobStatistics2"].Properties["statementType"].Description, -1) {
		want = append(want, m[1])
	}
	if d := cmp.Diff(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(bigquery.Kinds))); d != "" || len(want) < 70 {
		t.Errorf("%d types in the document; theirs against ours:\n%s", len(want), d)
	}
}

// TestBeyondTables: where statements reach out of BigQuery's tables, and what
// an auditor is told of them.
func TestBeyondTables(t *testing.T) {
	for _, tt := range []struct{ sql, destinations, flags string }{
		{"SELECT * FROM EXTERNAL_QUERY('p.us.c', 'SELECT 1')", "p.us.c", "external_query"},
		{"SELECT s.f(x), my-proj.s.g(1), `q.s.h`(2), SAFE.SUBSTR(y, 1), NET.HOST(z) FROM s.a", "function:p.s.f function:my-proj.s.g function:q.s.h", "calls_function"},
		{"SELECT * FROM s.tvf(1), f(2)", "function:p.s.tvf function:p.d.f", "calls_function table_function"},
		{"EXPORT DATA OPTIONS (uri = 'gs://b/*') AS SELECT * FROM s.a WHERE u = 'https://example.com'", "gs://b/*", ""},
		{"LOAD DATA INTO s.t FROM FILES (uris = ['gs://b/x', 'gs://b/y'])", "gs://b/x gs://b/y", ""},
		{"GRANT `r` ON TABLE s.t TO 'user:a@example.com', 'allUsers'", "user:a@example.com allUsers", ""},
		{"CREATE ROW ACCESS POLICY p ON s.t GRANT TO ('user:a@example.com') FILTER USING (TRUE)", "user:a@example.com", ""},
		{"CREATE FUNCTION s.f() RETURNS INT64 REMOTE WITH CONNECTION `c` OPTIONS (endpoint = 'https://example.com')", "https://example.com", "remote_function"},
		{"CREATE FUNCTION s.f() RETURNS INT64 LANGUAGE js OPTIONS (library = ['gs://b/x.js']) AS 'return 1'", "gs://b/x.js", ""},
		{"SET @@dataset_id = 'hr'; SELECT 1", "", "sets_system_variable"},
		{"EXECUTE IMMEDIATE 'x'; CALL s.p()", "function:p.s.p", "dynamic_sql calls_procedure calls_function"},
		{"SELECT '\u202e' FROM s.a", "", "bidi_in_statement"},
		{"SELECT 1 FROM a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s", "", "name_unread"},
	} {
		c := judge(t, tt.sql, false)
		if got := strings.Join(c.Destinations, " "); got != tt.destinations {
			t.Errorf("%s: to %q, want %q", tt.sql, got, tt.destinations)
		}
		if got := strings.Join(c.Flags, " "); got != tt.flags {
			t.Errorf("%s: flags %q, want %q", tt.sql, got, tt.flags)
		}
	}
}

// TestScope: what names are completed with.
func TestScope(t *testing.T) {
	for _, tt := range []struct{ rest, sql, read string }{
		{``, "SELECT * FROM t, s.t", "t p.s.t"},
		{`,"defaultDataset":{"datasetId":"d"}`, "SELECT * FROM t, s.t", "p.d.t p.s.t"},
		// "This setting does not alter behavior of unqualified dataset names."
		{`,"defaultDataset":{"datasetId":"d","projectId":"q"}`, "SELECT * FROM t, s.t", "q.d.t p.s.t"},
		{`,"connectionProperties":[{"key":"dataset_project_id","value":"q"}]`, "SELECT * FROM s.t", "q.s.t"},
		{`,"defaultDataset":{"datasetId":"d"}`, "SELECT * FROM t; SET @@dataset_id = 'x'; SELECT * FROM t, s.t", "p.d.t t s.t"},
		{`,"defaultDataset":{"datasetId":"d"}`, "WHILE TRUE DO SELECT * FROM t; SET @@dataset_id = 'x'; END WHILE", "t"},
	} {
		c := route(t, "POST", "projects/p/queries")
		if err := c.ReadBody(fmt.Appendf(nil, `{"useLegacySql":false,"query":%q%s}`, tt.sql, tt.rest)); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(c.Read, " "); got != tt.read {
			t.Errorf("%s%s reads %s, want %s", tt.sql, tt.rest, got, tt.read)
		}
	}
}

// TestManyTables: nothing is dropped in silence.
func TestManyTables(t *testing.T) {
	var b strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&b, "SELECT * FROM s.t%d;", i)
	}
	b.WriteString("GRANT `r` ON TABLE s.t TO 'allUsers'")
	c := judge(t, b.String(), false)
	if c.Class != trailgate.ClassUnknown || !slices.Contains(c.Classes, trailgate.ClassAccessChange) || !slices.Contains(c.Flags, "tables_omitted") || len(c.Read) > 2000 {
		t.Errorf("%v %v %d", c.Classes, c.Flags, len(c.Read))
	}
}

// TestDirectives: the first line may say the dialect; what only looks like it
// does not make a script into one query.
func TestDirectives(t *testing.T) {
	for _, tt := range []struct {
		sql    string
		legacy bool
		class  trailgate.Class
	}{
		{"#standardSQL\nDELETE FROM s.t WHERE TRUE", true, "write"},
		{"#STANDARDSQL DELETE\nSELECT 1", true, "read"},
		{"#standardSQLx\nDELETE FROM s.t WHERE TRUE", true, "unknown"},
		{"-- x\n#standardSQL\nSELECT 1; DELETE FROM s.t WHERE TRUE", true, "unknown"},
		{"SELECT 1; DELETE FROM s.t WHERE TRUE", true, "unknown"},
		{"SELECT 1;", true, "read"},
		{"SELECT 1 -- x\r; DELETE FROM s.t WHERE TRUE", true, "unknown"},
		{"#legacySQL\nSELECT 1; DELETE FROM s.t WHERE TRUE", false, "unknown"},
		{"#legacySQL_\nSELECT 1; DELETE FROM s.t WHERE TRUE", false, "write"},
	} {
		if c := judge(t, tt.sql, tt.legacy); c.Class != tt.class {
			t.Errorf("%q: %s, want %s", tt.sql, c.Class, tt.class)
		}
	}
}
