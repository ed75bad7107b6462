package googlesql_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// scope resolves every table to its own name, and notes what is asked for.
func scope(read, written *[]string) *googlesql.Scope {
	return &googlesql.Scope{
		Project: "p", DefaultDataset: "dd", User: "me@x", Now: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC),
		Resolve: func(n googlesql.Name) (string, error) {
			*read = append(*read, n.String())
			return `"` + n.String() + `"`, nil
		},
		Store: func(n googlesql.Name) (string, error) {
			*written = append(*written, n.String())
			return `"` + n.String() + `"`, nil
		},
		Variable: func(name string) bool { return name == "v" },
	}
}

func parse(sql string) (*googlesql.Plan, []string, []string, error) {
	var read, written []string
	stmts, err := googlesql.Split(sql, false)
	if err != nil {
		return nil, nil, nil, err
	}
	if len(stmts) != 1 {
		return nil, nil, nil, errors.New("not one statement")
	}
	p, err := googlesql.Parse(stmts[0], scope(&read, &written))
	return p, read, written, err
}

func TestTables(t *testing.T) {
	for _, tt := range []struct{ sql, read, written string }{
		{"SELECT 1", "", ""},
		{"SELECT * FROM t", "p.dd.t", ""},
		{"SELECT * FROM `q.d.t` a, d.u AS b JOIN (d.v JOIN w USING (x)) ON TRUE", "q.d.t p.d.u p.d.v p.dd.w", ""},
		{"SELECT * FROM `my-project`.d.t", "my-project.d.t", ""},
		{"SELECT * FROM `example.com:proj.d.t`", "example.com:proj.d.t", ""},
		{"WITH c AS (SELECT * FROM d.t), c2 AS (SELECT * FROM c) SELECT * FROM c2, C", "p.d.t", ""},
		{"SELECT (SELECT MAX(x) FROM d.a) FROM d.b WHERE y IN (SELECT z FROM d.c) AND EXISTS (SELECT 1 FROM d.e)", "p.d.a p.d.b p.d.c p.d.e", ""},
		{"SELECT EXTRACT(DAY FROM ts), a IS NOT DISTINCT FROM b, TRIM(x) FROM d.t", "p.d.t", ""},
		{"SELECT x FROM UNNEST([1, 2]) AS x, d.t", "p.d.t", ""},
		{"SELECT 'FROM d.no' -- FROM d.no\n FROM /* FROM d.no */ d.t # FROM d.no", "p.d.t", ""},
		{"SELECT 1 FROM d.a UNION ALL SELECT 2 FROM d.b", "p.d.a p.d.b", ""},
		{"INSERT INTO d.t (a) SELECT a FROM d.s", "p.d.s", "p.d.t"},
		{"UPDATE d.t SET a = 1 FROM d.u WHERE u.a = t.a", "p.d.u", "p.d.t"},
		{"DELETE d.t WHERE a IN (SELECT a FROM d.u)", "p.d.u", "p.d.t"},
		{"CREATE OR REPLACE TABLE d.n AS SELECT * FROM d.t", "p.d.t", ""},
		{"SELECT * FROM d.INFORMATION_SCHEMA.tables", "p.d.INFORMATION_SCHEMA.TABLES", ""},
	} {
		_, read, written, err := parse(tt.sql)
		if err != nil || strings.Join(read, " ") != tt.read || strings.Join(written, " ") != tt.written {
			t.Errorf("%s: reads %v, writes %v, %v", tt.sql, read, written, err)
		}
	}
}

func TestTranslation(t *testing.T) {
	for _, tt := range []struct{ sql, want string }{
		{"SELECT a FROM d.t", `SELECT a FROM "p.d.t" AS "t"`},
		{"SELECT `a b`, t.c FROM d.t WHERE x != 'it''s' AND y = \"q\"", ""},
		{"SELECT `a b`, t.c FROM d.t WHERE x != 'its' AND y = \"it's\"", `SELECT "a b", t."c" FROM "p.d.t" AS "t" WHERE x <> 'its' AND y = 'it''s'`},
		{"SELECT @a, @b, @a, v, ? FROM d.t", `SELECT ?1, ?2, ?1, ?3, ?4 FROM "p.d.t" AS "t"`},
		{"SELECT DATE_ADD(x, INTERVAL n + 1 DAY), DATE_TRUNC(x, MONTH) FROM d.t", `SELECT bq_date_add( x, n + 1 , 'DAY'), bq_date_trunc( x, 'MONTH') FROM "p.d.t" AS "t"`},
		{"SELECT CURRENT_TIMESTAMP(), CURRENT_DATE, SESSION_USER()", `SELECT '2026-11-23 10:00:00.000000+00', '2026-11-23', 'me@x'`},
		{"SELECT CAST(a AS STRING), SAFE_CAST('x' AS ARRAY<INT64>) FROM d.t", ""},
		{"DELETE FROM d.t AS x WHERE x.a = 1", `DELETE FROM "p.d.t" AS "x" WHERE x."a" = 1`},
		{"UPDATE d.t SET t.a = b / 2 WHERE TRUE", `UPDATE "p.d.t" AS "t" SET "a" = b * 1.0 / 2 WHERE 1`},
		{"SELECT index, `select` FROM d.t", `SELECT "index", "select" FROM "p.d.t" AS "t"`},
		{"SELECT 1 UNION DISTINCT SELECT 2 EXCEPT DISTINCT SELECT 3", "SELECT 1 UNION SELECT 2 EXCEPT SELECT 3"},
		{"SELECT x'1'", ""},
	} {
		p, _, _, err := parse(tt.sql)
		if tt.want == "" {
			if err == nil && tt.sql != "SELECT x'1'" {
				t.Errorf("%s: no error but %s", tt.sql, p.Query.SQL)
			}
			continue
		}
		if err != nil || p.Query.SQL != tt.want {
			t.Errorf("%s\n got %v (%v)\nwant %s", tt.sql, p.Query, err, tt.want)
		}
	}
}

func TestOutputs(t *testing.T) {
	p, _, _, err := parse("SELECT DISTINCT a, t.b, COUNT(*), SUM(c) AS s, 1 + 2, d.*, @x y, CASE WHEN TRUE THEN 'k' END, (SELECT MAX(z) FROM d.u), COALESCE(NULL, 1.5) FROM d.t UNION ALL SELECT 1")
	if err != nil {
		t.Fatal(err)
	}
	want := []googlesql.Output{
		{Name: "a", Column: "a"},
		{Name: "b", Column: "b"},
		{Name: "f0_", Type: "INTEGER"},
		{Name: "s", Column: "c"},
		{Name: "f1_", Type: "INTEGER"},
		{Star: true},
		{Name: "y", Arg: &googlesql.Arg{Name: "x", Index: -1}},
		{Name: "f2_", Type: "STRING"},
		{Name: "f3_", Column: "z"},
		{Name: "f4_", Type: "FLOAT"},
	}
	if diff := cmp.Diff(want, p.Query.Columns); diff != "" {
		t.Errorf("outputs (-want +got):\n%s", diff)
	}
}

func TestStatementTypes(t *testing.T) {
	for sql, want := range map[string]string{
		"select 1": "SELECT", "(SELECT 1)": "SELECT", "WITH a AS (SELECT 1) SELECT * FROM a": "SELECT", "insert d.t values (1)": "INSERT",
		"UPDATE d.t SET a=1 WHERE TRUE": "UPDATE", "DELETE d.t WHERE TRUE": "DELETE", "MERGE d.t USING d.u ON TRUE WHEN MATCHED THEN DELETE": "MERGE",
		"TRUNCATE TABLE d.t": "TRUNCATE_TABLE", "CREATE TABLE d.t (a INT64)": "CREATE_TABLE", "CREATE OR REPLACE TEMP TABLE t (a INT64) AS SELECT 1": "CREATE_TABLE_AS_SELECT",
		"CREATE VIEW d.v AS SELECT 1": "CREATE_VIEW", "CREATE MATERIALIZED VIEW d.v AS SELECT 1": "CREATE_MATERIALIZED_VIEW", "CREATE EXTERNAL TABLE d.t": "CREATE_EXTERNAL_TABLE",
		"CREATE SCHEMA s": "CREATE_SCHEMA", "DROP SCHEMA s": "DROP_SCHEMA", "DROP TABLE d.t": "DROP_TABLE", "DROP VIEW d.v": "DROP_VIEW", "ALTER TABLE d.t RENAME TO u": "ALTER_TABLE",
		"CREATE FUNCTION d.f() AS (1)": "CREATE_FUNCTION", "CREATE PROCEDURE d.p() BEGIN END": "CREATE_PROCEDURE", "CREATE ROW ACCESS POLICY r ON d.t": "CREATE_ROW_ACCESS_POLICY",
		"GRANT `r` ON TABLE d.t TO 'u'": "GRANT", "REVOKE `r` ON TABLE d.t FROM 'u'": "REVOKE", "CALL d.p()": "CALL", "EXPORT DATA OPTIONS() AS SELECT 1": "EXPORT_DATA", "LOAD DATA INTO d.t": "LOAD_DATA",
		"BEGIN": "BEGIN_TRANSACTION", "BEGIN TRANSACTION": "BEGIN_TRANSACTION", "COMMIT": "COMMIT_TRANSACTION", "ROLLBACK TRANSACTION": "ROLLBACK_TRANSACTION",
		"EXECUTE IMMEDIATE 'x'": "EXECUTE_IMMEDIATE", "DECLARE x INT64": "DECLARE", "SET x = 1": "SET", "SELEC 1": "", "`SELECT` 1": "", "PRAGMA x": "", "EXPLAIN SELECT 1": "",
	} {
		stmts, err := googlesql.Split(sql, false)
		if err != nil || len(stmts) != 1 || stmts[0].Type != want {
			t.Errorf("%s: %v %v, want %s", sql, stmts, err, want)
		}
	}
}

func TestSplit(t *testing.T) {
	stmts, err := googlesql.Split("-- first\nSELECT ';' ;; \n  DELETE d.t\nWHERE TRUE -- x;\n;", false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range stmts {
		got = append(got, s.Start.String()+s.End.String()+s.Type+" "+s.Text)
	}
	if diff := cmp.Diff([]string{"[2:1][2:11]SELECT SELECT ';'", "[3:3][4:11]DELETE DELETE d.t\nWHERE TRUE"}, got); diff != "" {
		t.Errorf("statements (-want +got):\n%s", diff)
	}
	if stmts, err := googlesql.Split(" -- nothing\n;", false); err != nil || len(stmts) != 0 {
		t.Errorf("nothing: %v %v", stmts, err)
	}
}

func TestDDL(t *testing.T) {
	p, _, _, err := parse("CREATE TABLE IF NOT EXISTS d.t (a INT64 NOT NULL OPTIONS(description='key'), b ARRAY<STRUCT<x STRING, y ARRAY<FLOAT64>>>, c NUMERIC(10, 2)) PARTITION BY TIMESTAMP_TRUNC(ts, MONTH) CLUSTER BY a, c OPTIONS(description='d', labels=[('k', 'v')], friendly_name=NULL)")
	if err != nil {
		t.Fatal(err)
	}
	want := &googlesql.Plan{
		Type: "CREATE_TABLE", Target: googlesql.Name{Project: "p", Dataset: "d", Table: "t"}, IfNotExists: true,
		Columns: []googlesql.Column{
			{Name: "a", Type: "INTEGER", Mode: "REQUIRED", Description: "key"},
			{Name: "b", Type: "RECORD", Mode: "REPEATED", Fields: []googlesql.Column{{Name: "x", Type: "STRING"}, {Name: "y", Type: "FLOAT", Mode: "REPEATED"}}},
			{Name: "c", Type: "NUMERIC"},
		},
		Partition: "ts", Granularity: "MONTH", Cluster: []string{"a", "c"},
		Options: map[string]any{"description": "d", "labels": []any{[]any{"k", "v"}}, "friendly_name": nil},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
}

func TestUsesLegacy(t *testing.T) {
	for _, tt := range []struct {
		sql         string
		asked, want bool
	}{
		{"SELECT 1", true, true},
		{"SELECT 1", false, false},
		{"#standardSQL\nSELECT 1", true, false},
		{" #STANDARDSQL \nSELECT 1", true, false},
		{"#legacySQL\nSELECT 1", false, true},
		{"SELECT 1 #legacySQL", false, false},
	} {
		if got := googlesql.UsesLegacy(tt.sql, tt.asked); got != tt.want {
			t.Errorf("UsesLegacy(%q, %v) = %v", tt.sql, tt.asked, got)
		}
	}
}

func TestBounds(t *testing.T) {
	for sql, reason := range map[string]string{
		"SELECT 1 -- " + strings.Repeat("x", 1<<20):            googlesql.ReasonInvalidQuery,
		"SELECT '" + strings.Repeat(`\u0041`, 10_000) + "'":    googlesql.ReasonNotImplemented,
		"SELECT " + strings.Repeat("(", 100_000):               googlesql.ReasonInvalidQuery,
		`SELECT "\0`:                                           googlesql.ReasonInvalidQuery,
		"SELECT 1 FROM UNNEST(" + strings.Repeat("[", 100_000): googlesql.ReasonInvalidQuery,
	} {
		_, _, _, err := parse(sql)
		var known *googlesql.Error
		if !errors.As(err, &known) || known.Reason != reason {
			t.Errorf("%.40s…: %v", sql, err)
		}
	}
	// Long, but legal: it is read in a moment.
	for _, sql := range []string{"SELECT " + strings.Repeat("1+", 400_000) + "1", "SELECT " + strings.Repeat("CASE WHEN a THEN ", 40_000) + "1" + strings.Repeat(" END", 40_000)} {
		if _, _, _, err := parse(sql); err != nil {
			t.Errorf("%.40s…: %v", sql, err)
		}
	}
}

// FuzzParse: whatever comes, it is a plan or an error that says why.
func FuzzParse(f *testing.F) {
	for _, sql := range []string{
		"SELECT a, COUNT(*) FROM d.t AS x JOIN `p.d.u` USING (a) WHERE b = @p GROUP BY 1", "WITH a AS (SELECT 1) SELECT * FROM a, UNNEST([1,2]) AS x WITH OFFSET o",
		"INSERT INTO d.t (a) VALUES (1), (?)", "UPDATE d.t SET t.a = 1 WHERE TRUE", "DELETE FROM d.t WHERE a IN UNNEST(@x)", "CREATE OR REPLACE TABLE d.t (a ARRAY<STRUCT<b INT64>>) AS SELECT 1",
		"SELECT DATE_ADD(d, INTERVAL 1 DAY), EXTRACT(DAY FROM x), CAST(a AS INT64)", "DECLARE a, b INT64 DEFAULT (SELECT 1); SET a = 2;", "EXPORT DATA OPTIONS(uri='gs://b/*') AS SELECT 1",
		"GRANT `r` ON TABLE d.t TO 'x'", "ALTER TABLE d.t ADD COLUMN a INT64", "SELECT CASE WHEN a THEN b ELSE c END, (SELECT 1), -x", "SELECT [1", "((((", "INTERVAL", "CAST(", "\"\\0", "SELECT UNNEST(", "[p:d.t]", "SELECT DATE_TRUNC(",
	} {
		f.Add(sql, false)
		f.Add(sql, true)
	}
	f.Fuzz(func(t *testing.T, sql string, legacy bool) {
		stmts, err := googlesql.Split(sql, legacy)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		for _, s := range stmts {
			if !strings.Contains(sql, s.Text) {
				t.Errorf("the statement %q is not in %q", s.Text, sql)
			}
			var read, written []string
			sc := scope(&read, &written)
			sc.Legacy = legacy
			p, err := googlesql.Parse(s, sc)
			var known *googlesql.Error
			if err != nil && (!errors.As(err, &known) || known.Message == "" || known.Reason == "") {
				t.Errorf("%q: %#v", s.Text, err)
			}
			if err == nil && p.Type == "" {
				t.Errorf("%q: a plan without a type", s.Text)
			}
		}
	})
}
