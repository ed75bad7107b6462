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

// statements: kind | class | read | written | SQL. Names are without "p.".
var statements = `
SELECT|read|||SELECT 1
SELECT|read|d.t||SELECT * FROM t
SELECT|read|s.t||SELECT * FROM s.t
SELECT|read|s.t||select * from s.t -- FROM x.y
SELECT|read|s.t||# DELETE FROM x.y
SELECT|read|s.t||/* DROP TABLE a.b */ SELECT 'FROM x.y', "FROM x.y", r'FROM x.y', """FROM x.y""" FROM s.t
SELECT|read|q.s.t||SELECT * FROM ~q.s.t~
SELECT|read|q.s.t||SELECT * FROM ~q~.~s~.~t~
SELECT|read|my-project.s.t||SELECT * FROM my-project.s.t AS x WHERE x.a = 1
SELECT|read|my-project-12.s.t||SELECT * FROM my-project-12.s.t
SELECT|read|example.com:q.s.t||SELECT * FROM ~example.com:q.s.t~
SELECT|read|s.a s.b||SELECT * FROM s.a, s.b
SELECT|read|s.a s.b||SELECT * FROM s.a JOIN s.b USING (id)
SELECT|read|s.a s.b s.c||SELECT * FROM s.a LEFT JOIN s.b ON a.x = b.x, s.c
SELECT|read|s.a s.b||SELECT * FROM (s.a CROSS JOIN s.b)
SELECT|read|s.a||SELECT * FROM (SELECT * FROM s.a)
SELECT|read|s.a s.b||SELECT * FROM s.a WHERE x IN (SELECT y FROM s.b)
SELECT|read|s.a s.b||(SELECT * FROM s.a) UNION ALL (SELECT * FROM s.b)
SELECT|read|s.a||WITH t AS (SELECT * FROM s.a) SELECT * FROM t
SELECT|read|s.a s.b||WITH t AS (SELECT 1 FROM s.a), u AS (SELECT 2 FROM t JOIN s.b ON TRUE) SELECT * FROM u, t
SELECT|read|s.a||WITH RECURSIVE t AS (SELECT 1 FROM s.a UNION ALL SELECT 2 FROM t) SELECT * FROM t
SELECT|read|s.a||SELECT * FROM s.a, UNNEST(a.list) AS x
SELECT|read|s.a||SELECT * FROM s.a AS x, x.list
SELECT|read|s.a||SELECT EXTRACT(YEAR FROM ts) FROM s.a
SELECT|read|s.a||SELECT x IS DISTINCT FROM y FROM s.a
SELECT|read|s.a||SELECT x IS NOT DISTINCT FROM y FROM s.a
SELECT|read|s.a||SELECT a.b.c, ARRAY(SELECT AS STRUCT 1) FROM s.a GROUP BY 1, 2 ORDER BY x, y
SELECT|read|s.a||SELECT * FROM s.a FOR SYSTEM_TIME AS OF TIMESTAMP '2026-01-01'
SELECT|read|s.a||SELECT * FROM s.a TABLESAMPLE SYSTEM (10 PERCENT)
SELECT|read|s.a s.b||SELECT * FROM s.a PIVOT(SUM(x) FOR q IN ('a','b')), s.b
SELECT|read|s.events_*||SELECT * FROM ~s.events_*~ WHERE _TABLE_SUFFIX = 'x'
SELECT|read|s.INFORMATION_SCHEMA.TABLES||SELECT * FROM s.INFORMATION_SCHEMA.TABLES
SELECT|read|region-us.INFORMATION_SCHEMA.JOBS||SELECT * FROM ~region-us~.INFORMATION_SCHEMA.JOBS
SELECT|read|s.a||FROM s.a |> WHERE x > 1 |> AGGREGATE COUNT(*) GROUP BY y
SELECT|read|s.a s.b||FROM s.a |> JOIN s.b USING (id)
SELECT|read|s.a||SELECT * FROM s.a WHERE x = @p AND y = ? AND z = @@time_zone
SELECT|read|s.a||SELECT * FROM s.a QUALIFY ROW_NUMBER() OVER (PARTITION BY x, y) = 1
SELECT|read|s.from||SELECT * FROM s.from
SELECT|read|s.a||SELECT "\u0046ROM x" FROM s.a
SELECT|export|||SELECT * FROM EXTERNAL_QUERY('p.us.conn', 'SELECT 1')
INSERT|write||s.t|INSERT INTO s.t (a, b) VALUES (1, 2)
INSERT|write||s.t|INSERT s.t VALUES (1)
INSERT|write|s.a|s.t|INSERT INTO s.t (a) SELECT a FROM s.a
UPDATE|write||s.t|UPDATE s.t SET a = 1, b = 2 WHERE TRUE
UPDATE|write|s.b|s.t|UPDATE s.t SET a = b.a FROM s.b WHERE t.id = b.id
DELETE|write||s.t|DELETE FROM s.t WHERE TRUE
DELETE|write||s.t|DELETE s.t WHERE TRUE
DELETE|write|s.b|s.t|DELETE FROM s.t WHERE id IN (SELECT id FROM s.b)
MERGE|write|s.b|s.t|MERGE INTO s.t AS x USING s.b AS y ON x.id = y.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (a, b) VALUES (1, 2)
MERGE|write|s.b|s.t|MERGE s.t USING (SELECT * FROM s.b) ON FALSE WHEN NOT MATCHED THEN INSERT ROW
TRUNCATE_TABLE|write||s.t|TRUNCATE TABLE s.t
CREATE_TABLE|metadata_change||s.t|CREATE TABLE s.t (a INT64, b STRING)
CREATE_TABLE|metadata_change||s.t|CREATE TABLE IF NOT EXISTS s.t (a INT64)
CREATE_TABLE_AS_SELECT|write|s.a|s.t|CREATE OR REPLACE TABLE s.t AS SELECT * FROM s.a
CREATE_TABLE_AS_SELECT|write|s.a|s.t|CREATE TABLE s.t PARTITION BY DATE(x) CLUSTER BY y OPTIONS (description = 'x') AS (SELECT * FROM s.a)
CREATE_TABLE|metadata_change|s.a|s.t|CREATE TABLE s.t LIKE s.a
CREATE_VIEW|metadata_change|s.a|s.v|CREATE VIEW s.v AS SELECT * FROM s.a
CREATE_MATERIALIZED_VIEW|metadata_change|s.a|s.v|CREATE MATERIALIZED VIEW s.v AS SELECT * FROM s.a
CREATE_EXTERNAL_TABLE|export||s.t|CREATE EXTERNAL TABLE s.t OPTIONS (format = 'CSV', uris = ['gs://b/x.csv'])
CREATE_SNAPSHOT_TABLE|metadata_change|s.a|s.t|CREATE SNAPSHOT TABLE s.t CLONE s.a
CREATE_SCHEMA|metadata_change|||CREATE SCHEMA s
CREATE_FUNCTION|metadata_change|||CREATE FUNCTION s.f(x INT64) AS (x + 1)
CREATE_FUNCTION|metadata_read|||CREATE TEMP FUNCTION f(x INT64) RETURNS INT64 LANGUAGE js AS "return x"
CREATE_FUNCTION|export|||CREATE FUNCTION s.f(x INT64) RETURNS INT64 REMOTE WITH CONNECTION ~p.us.c~ OPTIONS (endpoint = 'https://example.com/f')
CREATE_TABLE_FUNCTION|metadata_change|s.a||CREATE TABLE FUNCTION s.f(x INT64) AS SELECT * FROM s.a
CREATE_PROCEDURE|unknown|||CREATE PROCEDURE s.f() BEGIN EXECUTE IMMEDIATE 'DROP TABLE s.x'; END
CREATE_PROCEDURE|metadata_change|s.x||CREATE PROCEDURE s.f() BEGIN DELETE FROM s.x WHERE TRUE; END
CREATE_ROW_ACCESS_POLICY|access_change||s.t|CREATE ROW ACCESS POLICY x ON s.t GRANT TO ('user:a@example.com') FILTER USING (region = 'US')
DROP_ROW_ACCESS_POLICY|access_change||s.t|DROP ALL ROW ACCESS POLICIES ON s.t
CREATE_SEARCH_INDEX|metadata_change||s.t|CREATE SEARCH INDEX i ON s.t(ALL COLUMNS)
ALTER_TABLE|metadata_change||s.t|ALTER TABLE s.t ADD COLUMN x INT64
ALTER_SCHEMA|metadata_change|||ALTER SCHEMA s SET OPTIONS (description = 'x')
DROP_TABLE|write||s.t|DROP TABLE s.t
DROP_TABLE|write||s.t|DROP TABLE IF EXISTS ~p.s.t~
DROP_VIEW|metadata_change||s.v|DROP VIEW s.v
DROP_SCHEMA|write|||DROP SCHEMA s CASCADE
GRANT_ON_TABLE|access_change||s.t|GRANT ~roles/bigquery.dataViewer~ ON TABLE s.t TO 'user:a@example.com'
GRANT_ON_SCHEMA|access_change|||GRANT ~roles/bigquery.dataViewer~ ON SCHEMA s TO 'user:a@example.com'
REVOKE_ON_TABLE|access_change||s.t|REVOKE ~roles/bigquery.dataViewer~ ON TABLE s.t FROM 'user:a@example.com'
EXPORT_DATA|export|s.a||EXPORT DATA OPTIONS (uri = 'gs://b/*.csv', format = 'CSV') AS SELECT * FROM s.a
LOAD_DATA|write||s.t|LOAD DATA INTO s.t FROM FILES (format = 'CSV', uris = ['gs://b/x.csv'])
CALL|unknown|||CALL s.f(1)
SCRIPT|unknown|||EXECUTE IMMEDIATE 'SELECT 1'
ASSERT|read|s.a||ASSERT (SELECT COUNT(*) FROM s.a) > 0
SCRIPT|write|s.a|s.t|DELETE FROM s.t WHERE TRUE; SELECT * FROM s.a
SCRIPT|unknown|||SELECT 1; EXECUTE IMMEDIATE 'DROP TABLE s.t'
SCRIPT|unknown|||SELECT 1; CALL s.f()
SCRIPT|access_change||s.t|BEGIN SELECT 1; GRANT ~r~ ON TABLE s.t TO 'x'; END
SCRIPT|write|s.a|s.t|DECLARE x INT64 DEFAULT 0; IF x = 0 THEN DELETE FROM s.t WHERE TRUE; ELSE SELECT * FROM s.a; END IF;
SCRIPT|write||s.t|WHILE TRUE DO DELETE FROM s.t WHERE TRUE; END WHILE;
SCRIPT|write||s.t|BEGIN TRANSACTION; DELETE FROM s.t WHERE TRUE; COMMIT TRANSACTION;
SCRIPT|write||s.t|BEGIN DELETE FROM s.t WHERE TRUE; EXCEPTION WHEN ERROR THEN SELECT 1; END;
SCRIPT|write|s.a||CREATE TEMP TABLE x AS SELECT * FROM s.a; SELECT * FROM x
SCRIPT|export|s.a||SELECT 1; EXPORT DATA OPTIONS (uri = 'gs://b/*') AS SELECT * FROM s.a
SELECT|read|s.a||SELECT CASE WHEN x THEN 1 ELSE 2 END FROM s.a
UNKNOWN|unknown|||FROBNICATE TABLE s.t
UNKNOWN|unknown|||SELECT 'unclosed
UNKNOWN|unknown|||SELECT "\0
UNKNOWN|unknown|||
`

func TestStatements(t *testing.T) {
	n := 0
	for line := range strings.Lines(statements + moreStatements) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), "|", 5)
		if len(parts) < 5 {
			continue
		}
		n++
		sql := strings.NewReplacer("~", "`", "␤", "\n", "␍", "\r").Replace(parts[4])
		if strings.HasPrefix(sql, "#") {
			sql += "\nSELECT * FROM s.t"
		}
		c := judge(t, sql, false)
		full := func(names string) []string {
			var out []string
			for f := range strings.FieldsSeq(names) {
				if strings.Count(f, ".") < 2 || strings.Contains(f, ".INFORMATION_SCHEMA") && strings.Count(f, ".") < 3 {
					f = "p." + f
				}
				out = append(out, f)
			}
			slices.Sort(out)
			return out
		}
		slices.Sort(c.Read)
		slices.Sort(c.Written)
		if c.StatementType != parts[0] || string(c.Class) != parts[1] || !slices.Equal(c.Read, full(parts[2])) || !slices.Equal(c.Written, full(parts[3])) {
			t.Errorf("%s\n  is  %s|%s|%v|%v\n  not %s|%s|%v|%v", sql, c.StatementType, c.Class, c.Read, c.Written, parts[0], parts[1], full(parts[2]), full(parts[3]))
		}
	}
	if n < 200 {
		t.Errorf("%d statements", n)
	}
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
		if took := time.Since(start); took > 5*time.Second { // bounded, however slow the machine
			t.Errorf("%s took %s", name, took)
		} else {
			t.Logf("%s took %s", name, took)
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

func FuzzStatement(f *testing.F) {
	for line := range strings.Lines(statements + moreStatements) {
		if parts := strings.SplitN(line, "|", 5); len(parts) == 5 {
			f.Add(strings.ReplaceAll(parts[4], "~", "`"), false)
		}
	}
	f.Add("SELECT * FROM [q:s.t]", true)
	f.Fuzz(func(t *testing.T, sql string, legacy bool) {
		if len(sql) > 1<<16 {
			return
		}
		c := judge(t, strings.ToValidUTF8(sql, "?"), legacy)
		if c.Class == "" || c.StatementType == "" {
			t.Errorf("%q has no class or type", sql)
		}
	})
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
		{"SELECT s.f(x), my-proj.s.g(1), `q.s.h`(2), SAFE.SUBSTR(y, 1), NET.HOST(z) FROM s.a", "function:p.s.f function:my-proj.s.g function:q.s.h", ""},
		{"SELECT * FROM s.tvf(1), f(2)", "function:p.s.tvf function:p.d.f", "table_function"},
		{"EXPORT DATA OPTIONS (uri = 'gs://b/*') AS SELECT * FROM s.a WHERE u = 'https://example.com'", "gs://b/*", ""},
		{"LOAD DATA INTO s.t FROM FILES (uris = ['gs://b/x', 'gs://b/y'])", "gs://b/x gs://b/y", ""},
		{"GRANT `r` ON TABLE s.t TO 'user:a@example.com', 'allUsers'", "user:a@example.com allUsers", ""},
		{"CREATE ROW ACCESS POLICY p ON s.t GRANT TO ('user:a@example.com') FILTER USING (TRUE)", "user:a@example.com", ""},
		{"CREATE FUNCTION s.f() RETURNS INT64 REMOTE WITH CONNECTION `c` OPTIONS (endpoint = 'https://example.com')", "https://example.com", "remote_function"},
		{"CREATE FUNCTION s.f() RETURNS INT64 LANGUAGE js OPTIONS (library = ['gs://b/x.js']) AS 'return 1'", "gs://b/x.js", ""},
		{"SET @@dataset_id = 'hr'; SELECT 1", "", "sets_system_variable"},
		{"EXECUTE IMMEDIATE 'x'; CALL s.p()", "function:p.s.p", "dynamic_sql calls_procedure"},
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
