package sandbox_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSelect checks that SQL means in SQLite what it means in GoogleSQL, as far
// as the sandbox takes it: rows, names and types.
func TestSelect(t *testing.T) {
	c := seeded(t)
	for _, tt := range []struct{ sql, types, rows string }{
		{"SELECT 1", "f0_:INTEGER", "1"},
		{"SELECT 1 AS one, 2.5, 'x' s, TRUE, NULL, b'ab'", "one:INTEGER,f0_:FLOAT,s:STRING,f1_:BOOLEAN,f2_:INTEGER,f3_:BYTES", "1|2.5|x|true|∅|YWI="},
		{"SELECT 5/2, DIV(5, 2), MOD(5, 2), 5*2, -3", "f0_:FLOAT,f1_:INTEGER,f2_:INTEGER,f3_:INTEGER,f4_:INTEGER", "2.5|2|1|10|-3"},
		{`SELECT "it's" || 'b', r'\d', '''th"ree''', 'a\nb'`, "f0_:STRING,f1_:STRING,f2_:STRING,f3_:STRING", "it'sb|\\d|th\"ree|a\nb"},
		{"SELECT 1 < 2, NOT TRUE, 1 IN (1, 2), 'a' LIKE 'A', NULL IS NULL, 2 BETWEEN 1 AND 3, 1 != 1", "f0_:BOOLEAN,f1_:BOOLEAN,f2_:BOOLEAN,f3_:BOOLEAN,f4_:BOOLEAN,f5_:BOOLEAN,f6_:BOOLEAN", "true|false|true|false|true|true|false"},
		{"SELECT CAST('7' AS INT64), CAST(7 AS STRING), CAST(1.5 AS INT64), SAFE_CAST('x' AS INT64), CAST(TRUE AS STRING), CAST('2026-11-01' AS DATE)", "f0_:INTEGER,f1_:STRING,f2_:INTEGER,f3_:INTEGER,f4_:STRING,f5_:DATE", "7|7|2|∅|true|2026-11-01"},
		{"SELECT IF(TRUE, 'y', 'n'), COALESCE(NULL, 3), IFNULL(NULL, 'z'), NULLIF(1, 1), CASE WHEN FALSE THEN 1 ELSE 2 END", "f0_:STRING,f1_:INTEGER,f2_:STRING,f3_:INTEGER,f4_:INTEGER", "y|3|z|∅|2"},
		{"SELECT UPPER('ß'), LOWER('ÄB'), CONCAT('a', 'b', 'c'), LENGTH('héé'), SUBSTR('hello', 2, 3), LEFT('hello', 2), RIGHT('hello', 2), REVERSE('abc'), LPAD('7', 3, '0'), RPAD('7', 3), REPEAT('ab', 2)", "f0_:STRING,f1_:STRING,f2_:STRING,f3_:INTEGER,f4_:STRING,f5_:STRING,f6_:STRING,f7_:STRING,f8_:STRING,f9_:STRING,f10_:STRING", "ß|äb|abc|3|ell|he|lo|cba|007|7  |abab"},
		{"SELECT STARTS_WITH('abc', 'ab'), ENDS_WITH('abc', 'bc'), CONTAINS_SUBSTR('Hello', 'ELL'), STRPOS('hello', 'l'), REGEXP_CONTAINS('a1', r'\\d')", "f0_:BOOLEAN,f1_:BOOLEAN,f2_:BOOLEAN,f3_:INTEGER,f4_:BOOLEAN", "true|true|true|3|true"},
		{"SELECT REGEXP_EXTRACT('id=42', r'id=(\\d+)'), REGEXP_REPLACE('a1', r'(\\d)', r'<\\1>')", "f0_:STRING,f1_:STRING", "42|a<1>"},
		{"SELECT ABS(-2), ROUND(2.567, 2), CEIL(1.2), FLOOR(1.8), SQRT(9), POW(2, 3), SAFE_DIVIDE(1, 0), GREATEST(1, 5, 3), LEAST('b', 'a')", "f0_:INTEGER,f1_:FLOAT,f2_:FLOAT,f3_:FLOAT,f4_:FLOAT,f5_:FLOAT,f6_:FLOAT,f7_:INTEGER,f8_:STRING", "2|2.57|2.0|1.0|3.0|8.0|∅|5|a"},
		{"SELECT TIMESTAMP '2026-11-01 12:30:00+00', DATE '2026-11-01', DATETIME '2026-11-01 12:30:00', TIMESTAMP('2026-11-01')", "f0_:TIMESTAMP,f1_:DATE,f2_:DATETIME,f3_:TIMESTAMP", "1.7935362E9|2026-11-01|2026-11-01T12:30:00|1.7934912E9"},
		{"SELECT DATE_ADD(DATE '2026-01-31', INTERVAL 1 MONTH), DATE_SUB(DATE '2026-03-01', INTERVAL 1 DAY), DATE_DIFF(DATE '2026-03-01', DATE '2026-02-01', DAY), DATE_TRUNC(DATE '2026-11-23', MONTH)", "f0_:DATE,f1_:DATE,f2_:INTEGER,f3_:DATE", "2026-02-28|2026-02-28|28|2026-11-01"},
		{"SELECT EXTRACT(YEAR FROM TIMESTAMP '2026-11-23 10:11:12+00'), EXTRACT(HOUR FROM TIMESTAMP '2026-11-23 10:11:12+00'), FORMAT_TIMESTAMP('%Y/%m', TIMESTAMP '2026-11-23 10:11:12+00'), UNIX_SECONDS(TIMESTAMP '1970-01-02 00:00:00+00')", "f0_:INTEGER,f1_:INTEGER,f2_:STRING,f3_:INTEGER", "2026|10|2026/11|86400"},
		{"SELECT TIMESTAMP_DIFF(TIMESTAMP '2026-11-02 00:00:00+00', TIMESTAMP '2026-11-01 12:00:00+00', HOUR), TIMESTAMP_TRUNC(TIMESTAMP '2026-11-02 10:30:00+00', HOUR) = TIMESTAMP '2026-11-02 10:00:00+00'", "f0_:INTEGER,f1_:BOOLEAN", "12|true"},
		{"SELECT SESSION_USER()", "f0_:STRING", "anonymous@sandbox.invalid"},
		{"SELECT TO_HEX(SHA256('a')), TO_BASE64(b'abc')", "f0_:STRING,f1_:STRING", "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb|YWJj"},
		{"SELECT n FROM UNNEST([3, 1, 2]) AS n ORDER BY n", "n:INTEGER", "1 2 3"},
		{"SELECT n, off FROM UNNEST(['a', 'b']) AS n WITH OFFSET AS off ORDER BY off", "n:STRING,off:INTEGER", "a|0 b|1"},
		{"SELECT [1, 2] AS a, SPLIT('x,y'), GENERATE_ARRAY(1, 2), ['p']", "a:INTEGER[],f0_:STRING[],f1_:INTEGER[],f2_:STRING[]", `[{"v":"1"},{"v":"2"}]|[{"v":"x"},{"v":"y"}]|[{"v":"1"},{"v":"2"}]|[{"v":"p"}]`},
		{"SELECT 2 IN UNNEST([1, 2])", "f0_:BOOLEAN", "true"},
		{"SELECT COUNT(*), COUNTIF(valid) > 0, SUM(amount) > 0 FROM staging.imports", "f0_:INTEGER,f1_:BOOLEAN,f2_:BOOLEAN", "1250|true|true"},
		{"SELECT batch_id, COUNT(*) n FROM staging.imports GROUP BY batch_id HAVING n > 1 ORDER BY batch_id LIMIT 2", "batch_id:INTEGER,n:INTEGER", "40|250 41|250"},
		{"SELECT imports.batch_id FROM staging.imports WHERE imports.id = 1", "batch_id:INTEGER", "40"},
		{"SELECT i.batch_id b FROM `demo-project`.staging.imports AS i WHERE i.id = 1", "b:INTEGER", "40"},
		{"SELECT batch_id FROM `demo-project.staging.imports` WHERE id = 1", "batch_id:INTEGER", "40"},
		{"SELECT batch_id FROM demo-project.staging.imports WHERE id = 1", "batch_id:INTEGER", "40"},
		{"SELECT MIN(imported_at) = TIMESTAMP '2026-11-01 06:00:00+00', MIN(imported_at) FROM staging.imports", "f0_:BOOLEAN,f1_:TIMESTAMP", "true|1.7935128E9"},
		{"WITH a AS (SELECT 1 AS x UNION ALL SELECT 2), b AS (SELECT x * 10 AS y FROM a) SELECT * FROM b ORDER BY y DESC", "y:INTEGER", "20 10"},
		{"SELECT x FROM (SELECT 1 AS x UNION DISTINCT SELECT 1) INTERSECT DISTINCT SELECT 1", "x:INTEGER", "1"},
		{"SELECT (SELECT MAX(batch_id) FROM staging.imports), EXISTS(SELECT 1 FROM finance.payroll WHERE salary < 0)", "f0_:INTEGER,f1_:BOOLEAN", "44|false"},
		{"SELECT c.name IS NOT NULL FROM analytics.orders o JOIN analytics.customers c ON c.customer_id = o.customer_id, (SELECT 1 AS one) LIMIT 1", "f0_:BOOLEAN", "true"},
		{"SELECT ROW_NUMBER() OVER (PARTITION BY batch_id ORDER BY id) AS r FROM staging.imports WHERE id = 251", "r:INTEGER", "1"},
		{"SELECT COUNT(DISTINCT batch_id), APPROX_COUNT_DISTINCT(source) FROM staging.imports", "f0_:INTEGER,f1_:INTEGER", "5|4"},
		{"SELECT COUNT(*) n FROM analytics.daily_revenue WHERE revenue > 0", "n:INTEGER", "91"},
		{"SELECT table_name, table_type FROM analytics.INFORMATION_SCHEMA.TABLES ORDER BY 1", "table_name:STRING,table_type:STRING", "customers|BASE TABLE daily_revenue|VIEW orders|BASE TABLE"},
		{"SELECT SUM(id) s, COUNT(*) FROM bench.rows_100", "s:INTEGER,f0_:INTEGER", "4950|100"},
	} {
		_, o := c.do("POST", base+"/queries", object{"query": tt.sql, "useLegacySql": false})
		got := strings.Join(rows(o), " ")
		if m := at(o, "error.message"); m != "" {
			got = m
		}
		if got != tt.rows || types(o) != tt.types {
			t.Errorf("%s\n got %s\n     %s\nwant %s\n     %s", tt.sql, types(o), got, tt.types, tt.rows)
		}
	}
}

func TestQueryErrors(t *testing.T) {
	c := seeded(t)
	for _, tt := range []struct {
		sql     string
		status  int
		reason  string
		message string
	}{
		{"SELEC 1", 400, "invalidQuery", `Syntax error: Unexpected identifier "SELEC" at [1:1]`},
		{"SELECT\n  nope FROM staging.imports", 400, "invalidQuery", "Unrecognized name: nope"},
		{"SELECT 1 FROM", 400, "invalidQuery", "Syntax error: Unexpected end of script at [1:14]"},
		{"SELECT 'open", 400, "invalidQuery", "Syntax error"},
		{"SELECT (1", 400, "invalidQuery", "Syntax error"},
		{"SELECT 1)", 400, "invalidQuery", `Syntax error: Unexpected ")" at [1:9]`},
		{" ", 400, "invalidQuery", "Syntax error: Unexpected end of script"},
		{"SELECT * FROM imports", 400, "invalid", `Table "imports" must be qualified with a dataset (e.g. dataset.table).`},
		{"SELECT * FROM staging.absent", 404, "notFound", "Not found: Table demo-project:staging.absent was not found in location US"},
		{"SELECT * FROM absent.t", 404, "notFound", "Not found: Dataset demo-project:absent was not found in location US"},
		{"SELECT * FROM `absent.a.b`", 404, "notFound", "Not found: Project absent was not found in location US"},
		{"SELECT sqlite_version()", 400, "invalidQuery", "Function not found: sqlite_version at [1:8]"},
		{"SELECT LOAD_EXTENSION('x')", 400, "invalidQuery", "Function not found: LOAD_EXTENSION at [1:8]"},
		{"SELECT * FROM sqlite_master", 400, "invalid", `Table "sqlite_master" must be qualified`},
		{"PRAGMA table_list", 400, "invalidQuery", `Unexpected identifier "PRAGMA"`},
		{"ATTACH DATABASE 'x' AS y", 400, "invalidQuery", `Unexpected identifier "ATTACH"`},
		{"SELECT ABS('x', 1, 2)", 400, "invalidQuery", "No matching signature for function ABS"},
		{"DELETE FROM staging.imports", 400, "invalidQuery", "DELETE must have a WHERE clause at [1:1]"},
		{"UPDATE staging.imports SET id = 1", 400, "invalidQuery", "UPDATE must have a WHERE clause at [1:1]"},
		{"INSERT staging.imports (id, batch_id) VALUES (1, 'x')", 400, "invalidQuery", "cannot be inserted into column batch_id, which has type INT64"},
		{"INSERT staging.imports (id, imported_at) VALUES (1, 'soon')", 400, "invalidQuery", "cannot be inserted into column imported_at, which has type TIMESTAMP"},
		{"INSERT staging.imports (batch_id) VALUES (1)", 400, "invalid", "Required field id cannot be null"},
		{"INSERT analytics.daily_revenue (day) VALUES (NULL)", 400, "invalidQuery", "not a table that DML can change"},
		{"SELECT id, id FROM staging.imports", 400, "invalidQuery", "Duplicate column names in the result are not supported. Found duplicate(s): id"},
		{"SELECT CAST('x' AS INT64)", 400, "invalidQuery", "Bad int64 value: x"},
		{"SELECT ERROR('mine')", 400, "invalidQuery", "mine"},
		{"SELECT @p", 400, "invalidQuery", "Query parameter 'p' not found"},
		{"SELECT ?", 400, "invalidQuery", "Number of query parameters is 0"},
		{"MERGE staging.imports USING staging.imports s ON TRUE WHEN MATCHED THEN DELETE", 501, "notImplemented", "MERGE"},
		{"CREATE FUNCTION staging.f() AS (1)", 501, "notImplemented", "CREATE_FUNCTION"},
		{"CALL staging.p()", 501, "notImplemented", "CALL"},
		{"SELECT * FROM EXTERNAL_QUERY('c', 'q')", 501, "notImplemented", "the table function EXTERNAL_QUERY"},
		{"SELECT staging.f(1)", 501, "notImplemented", "the function staging.f"},
		{"SELECT * EXCEPT (id) FROM staging.imports", 501, "notImplemented", "SELECT * EXCEPT"},
		{"SELECT STRUCT(1 AS a)", 501, "notImplemented", "STRUCT"},
		{"SELECT * FROM staging.imports FOR SYSTEM_TIME AS OF CURRENT_TIMESTAMP()", 501, "notImplemented", "FOR"},
		{"SELECT * FROM `staging.imp*`", 501, "notImplemented", "wildcard tables"},
		{"BEGIN SELECT 1; END", 501, "notImplemented", "the statement that begins with BEGIN"},
		{"CREATE TEMP TABLE x AS SELECT 1", 400, "invalidQuery", "CREATE TEMPORARY TABLE requires a script or session"},
	} {
		got := c.fails("POST", base+"/queries", object{"query": tt.sql, "useLegacySql": false}, tt.status, tt.reason)
		if !strings.Contains(got, tt.message) {
			t.Errorf("%s: %q, want %q in it", tt.sql, got, tt.message)
		}
	}
	if got := rows(c.query("SELECT COUNT(*) FROM staging.imports"))[0]; got != "1250" {
		t.Errorf("a refused statement had an effect: %s rows", got)
	}
}

func TestLegacySQL(t *testing.T) {
	c := seeded(t)
	legacy := func(sql string) object { return object{"query": sql} } // useLegacySql is true where it is missing
	o := c.ok("POST", base+"/queries", legacy("SELECT COUNT(*) AS n, INTEGER('4') FROM [demo-project:staging.imports] WHERE source = 'shop' OR source != '[x]'"))
	if got := rows(o)[0]; got != "1250|4" {
		t.Errorf("legacy query: %s", got)
	}
	c.ok("POST", base+"/queries", legacy("SELECT COUNT(*) FROM [staging.imports]"))
	c.ok("POST", base+"/queries", legacy("#standardSQL\nSELECT COUNT(*) FROM `staging.imports`"))
	c.ok("POST", base+"/queries", object{"query": "#legacySQL\nSELECT COUNT(*) FROM [staging.imports]", "useLegacySql": false})
	c.fails("POST", base+"/queries", legacy("DELETE FROM [staging.imports] WHERE true"), 400, "invalidQuery")
	c.fails("POST", base+"/queries", legacy("SELECT 1; SELECT 2"), 400, "invalidQuery")
	c.fails("POST", base+"/queries", legacy("SELECT 1 FROM [staging.imports], [analytics.orders]"), 501, "notImplemented")
}

func TestParameters(t *testing.T) {
	c := seeded(t)
	param := func(name, typ, value string) object {
		return object{"name": name, "parameterType": object{"type": typ}, "parameterValue": object{"value": value}}
	}
	o := c.ok("POST", base+"/queries", object{
		"query": "SELECT COUNT(*), @b, @b + 1, @when FROM staging.imports WHERE batch_id = @B", "useLegacySql": false, "parameterMode": "NAMED",
		"queryParameters": []any{param("b", "INT64", "41"), param("when", "TIMESTAMP", "2026-11-01 00:00:00 UTC")},
	})
	if got := rows(o)[0]; got != "250|41|42|1.7934912E9" {
		t.Errorf("named: %s", got)
	}
	if got := types(o); got != "f0_:INTEGER,f1_:INTEGER,f2_:INTEGER,f3_:TIMESTAMP" {
		t.Errorf("named: %s", got)
	}
	o = c.ok("POST", base+"/queries", object{
		"query": "SELECT ?, ?, ?", "useLegacySql": false, "queryParameters": []any{param("", "STRING", "a'b"), param("", "BOOL", "true"), object{"parameterType": object{"type": "DATE"}, "parameterValue": object{}}},
	})
	if got := rows(o)[0] + " " + types(o); got != "a'b|true|∅ f0_:STRING,f1_:BOOLEAN,f2_:DATE" {
		t.Errorf("positional: %s", got)
	}
	o = c.ok("POST", base+"/queries", object{
		"query": "SELECT COUNT(*) FROM staging.imports WHERE batch_id IN UNNEST(@list)", "useLegacySql": false,
		"queryParameters": []any{object{"name": "list", "parameterType": object{"type": "ARRAY", "arrayType": object{"type": "INT64"}}, "parameterValue": object{"arrayValues": []any{object{"value": "40"}, object{"value": "42"}}}}},
	})
	if got := rows(o)[0]; got != "500" {
		t.Errorf("array: %s", got)
	}
	o = c.ok("POST", base+"/queries", object{ // as Node's client sends them
		"query": "SELECT ?, ?", "useLegacySql": false,
		"queryParameters": []any{object{"parameterType": object{"type": "INT64"}, "parameterValue": object{"value": 41}}, object{"parameterType": object{"type": "BOOL"}, "parameterValue": object{"value": true}}},
	})
	if got := rows(o)[0]; got != "41|true" {
		t.Errorf("values that are no strings: %s", got)
	}
	c.fails("POST", base+"/queries", object{"query": "SELECT @x", "useLegacySql": false, "queryParameters": []any{param("x", "INT64", "many")}}, 400, "invalid")
	c.fails("POST", base+"/queries", object{"query": "SELECT @x", "useLegacySql": false, "queryParameters": []any{object{"name": "x", "parameterType": object{"type": "STRUCT"}}}}, 501, "notImplemented")
	c.fails("POST", base+"/queries", object{"query": "SELECT ?", "useLegacySql": false, "queryParameters": []any{param("x", "INT64", "1"), param("", "INT64", "1")}}, 400, "invalid")
}

// TestDML checks effects, and what jobs.insert says of them.
func TestDML(t *testing.T) {
	c := seeded(t)
	job := c.insert("DELETE FROM staging.imports WHERE batch_id = 42", object{"jobReference": object{"jobId": "bqjob_r1"}, "configuration": object{"labels": object{"team": "data"}}})
	want := map[string]string{
		"id": "demo-project:US.bqjob_r1", "jobReference.jobId": "bqjob_r1", "jobReference.location": "US", "status.state": "DONE", "status.errorResult": "",
		"user_email": "anonymous@sandbox.invalid", "configuration.jobType": "QUERY", "configuration.labels.team": "data", "configuration.query.useLegacySql": "false",
		"configuration.query.destinationTable.tableId": "imports", "statistics.query.statementType": "DELETE", "statistics.query.numDmlAffectedRows": "250",
		"statistics.query.dmlStats.deletedRowCount": "250", "statistics.query.cacheHit": "false", "statistics.query.totalBytesBilled": "10485760",
		"statistics.query.referencedTables.0.datasetId": "staging", "statistics.query.referencedTables.0.tableId": "imports",
	}
	got := map[string]string{}
	for path := range want {
		got[path] = at(job, path)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("job (-want +got):\n%s", diff)
	}
	for _, tt := range []struct{ sql, typ, affected, left string }{
		{"INSERT INTO staging.imports (id, batch_id, valid) VALUES (9001, 90, TRUE), (9002, 90, FALSE)", "INSERT", "2", "1002"},
		{"INSERT staging.imports (id, batch_id) SELECT id + 10000, 91 FROM staging.imports WHERE batch_id = 40", "INSERT", "250", "1252"},
		{"UPDATE staging.imports AS i SET i.valid = FALSE, source = 'x' WHERE i.batch_id = 91", "UPDATE", "250", "1252"},
		{"UPDATE staging.imports SET amount = o.total FROM analytics.orders o WHERE imports.id = o.order_id - 99999", "UPDATE", "1000", "1252"},
		{"DELETE staging.imports WHERE batch_id IN (SELECT batch_id FROM staging.imports WHERE batch_id > 89)", "DELETE", "252", "1000"},
		{"TRUNCATE TABLE staging.imports", "TRUNCATE_TABLE", "1000", "0"},
	} {
		o := c.query(tt.sql)
		if at(o, "statementType") != tt.typ || at(o, "numDmlAffectedRows") != tt.affected || at(o, "totalRows") != "0" {
			t.Errorf("%s: %s %s", tt.sql, at(o, "statementType"), at(o, "numDmlAffectedRows"))
		}
		if left := rows(c.query("SELECT COUNT(*) FROM staging.imports"))[0]; left != tt.left {
			t.Errorf("%s: %s rows left, want %s", tt.sql, left, tt.left)
		}
		if n := at(c.ok("GET", base+"/datasets/staging/tables/imports", nil), "numRows"); n != tt.left {
			t.Errorf("%s: numRows %s, want %s", tt.sql, n, tt.left)
		}
	}
}

// TestTimesAreCanonical: however a statement spells a time, it compares.
func TestTimesAreCanonical(t *testing.T) {
	c := seeded(t)
	c.query("CREATE TABLE staging.times (seen TIMESTAMP, d DATE)")
	c.query("INSERT staging.times VALUES ('2026-11-01 10:00:00+02', '2026-1-5'), (TIMESTAMP '2026-11-01T08:00:00Z', DATE '2026-01-05')")
	o := c.query("SELECT COUNT(DISTINCT seen), COUNT(DISTINCT d), MIN(seen) FROM staging.times WHERE seen >= '2026-11-01' AND d = '2026-01-05'")
	if got := rows(o)[0]; got != "1|1|1.79352E9" {
		t.Errorf("got %s", got)
	}
	c.query("UPDATE staging.times SET seen = '2027-01-01' WHERE TRUE")
	if got := rows(c.query("SELECT DISTINCT seen FROM staging.times")); len(got) != 1 || got[0] != "1.7987616E9" {
		t.Errorf("after UPDATE: %v", got)
	}
}
