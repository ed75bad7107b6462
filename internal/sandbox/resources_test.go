package sandbox_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/sandbox"
)

const datasets = base + "/datasets"

func ids(o object, list, key string) string {
	var out []string
	l, _ := o[list].([]any)
	for _, e := range l {
		out = append(out, at(e, key))
	}
	return strings.Join(out, " ")
}

func TestProjects(t *testing.T) {
	c := newClient(t, sandbox.Config{Projects: []string{"zeta", "example.com:alpha"}})
	o := c.ok("GET", "/bigquery/v2/projects", nil)
	if got := ids(o, "projects", "projectReference.projectId"); got != "example.com:alpha zeta" {
		t.Errorf("projects %s", got)
	}
	c.ok("GET", "/bigquery/v2/projects/example.com:alpha/datasets", nil)
	if got := c.fails("GET", "/bigquery/v2/projects/absent/datasets", nil, 404, "notFound"); got != "Not found: Project absent" {
		t.Errorf("message %q", got)
	}
	if got := at(c.ok("GET", "/bigquery/v2/projects/zeta/serviceAccount", nil), "email"); !strings.HasPrefix(got, "bq-") {
		t.Errorf("service account %q", got)
	}
}

func TestDatasets(t *testing.T) {
	c := newClient(t, sandbox.Config{})
	body := object{"datasetReference": object{"projectId": "demo-project", "datasetId": "one"}, "labels": object{"env": "test"}, "description": "first"}
	made := c.ok("POST", datasets+"?accessPolicyVersion=3", body)
	if at(made, "id") != "demo-project:one" || at(made, "location") != "US" || at(made, "access.0.role") == "" || at(made, "selfLink") != "http://bigquery.test"+datasets+"/one" {
		t.Errorf("made %v", made)
	}
	if got := c.fails("POST", datasets, body, 409, "duplicate"); got != "Already Exists: Dataset demo-project:one" {
		t.Errorf("message %q", got)
	}
	c.fails("POST", datasets, object{"datasetReference": object{"datasetId": "no-dash"}}, 400, "invalid")
	c.fails("POST", datasets, object{"datasetReference": object{"datasetId": "x"}, "labels": object{"Upper": "x"}}, 400, "invalid")
	c.fails("POST", datasets, object{"datasetReference": object{"datasetId": "x"}, "linkedDatasetSource": object{"sourceDataset": object{"datasetId": "y"}}}, 501, "notImplemented")
	c.fails("POST", datasets, object{"datasetReference": object{"datasetId": "x"}, "descripton": "typo"}, 400, "invalid")
	c.ok("POST", datasets, object{"datasetReference": object{"datasetId": "two"}})
	if got := ids(c.ok("GET", datasets, nil), "datasets", "datasetReference.datasetId"); got != "one two" {
		t.Errorf("list %s", got)
	}
	if got := ids(c.ok("GET", datasets+"?filter=labels.env:test", nil), "datasets", "datasetReference.datasetId"); got != "one" {
		t.Errorf("filtered %s", got)
	}

	// PATCH merges, with If-Match where the client is careful.
	c.header = http.Header{"If-Match": {at(made, "etag")}}
	patched := c.ok("PATCH", datasets+"/one", object{"labels": object{"team": "data", "env": nil}})
	if at(patched, "labels") != `{"team":"data"}` || at(patched, "description") != "first" || at(patched, "etag") == at(made, "etag") {
		t.Errorf("patched %v", patched)
	}
	c.fails("PATCH", datasets+"/one", object{"description": "second"}, 412, "conditionNotMet")
	c.header = http.Header{}
	if put := c.ok("PUT", datasets+"/one", object{"description": "third"}); at(put, "labels") != "" || at(put, "location") != "US" || at(put, "description") != "third" {
		t.Errorf("put %v", put)
	}
	c.fails("PATCH", datasets+"/one", object{"location": "EU"}, 400, "invalid")

	c.ok("POST", datasets+"/one/tables", object{"tableReference": object{"tableId": "t"}})
	if got := c.fails("DELETE", datasets+"/one", nil, 400, "resourceInUse"); got != "Dataset demo-project:one is still in use" {
		t.Errorf("message %q", got)
	}
	if code, _ := c.do("DELETE", datasets+"/one?deleteContents=true", nil); code != 204 {
		t.Errorf("delete: %d", code)
	}
	c.fails("GET", datasets+"/one", nil, 404, "notFound")
	c.fails("DELETE", datasets+"/one", nil, 404, "notFound")
}

func TestTables(t *testing.T) {
	c := seeded(t)
	tables := datasets + "/staging/tables"
	spec := object{
		"tableReference": object{"projectId": "demo-project", "datasetId": "staging", "tableId": "t"}, "labels": object{"a": "b"},
		"schema": object{"fields": []any{
			object{"name": "id", "type": "INT64", "mode": "REQUIRED"},
			object{"name": "tags", "type": "STRING", "mode": "REPEATED"},
			object{"name": "r", "type": "STRUCT", "fields": []any{object{"name": "x", "type": "FLOAT64"}, object{"name": "when", "type": "TIMESTAMP"}}},
		}},
		"timePartitioning": object{"type": "DAY"},
	}
	made := c.ok("POST", tables, spec)
	if types(made) != "id:INTEGER,tags:STRING[],r:RECORD" || at(made, "type") != "TABLE" || at(made, "timePartitioning.type") != "DAY" || at(made, "numRows") != "0" {
		t.Errorf("made %v", made)
	}
	c.fails("POST", tables, spec, 409, "duplicate")
	c.fails("POST", tables, object{"tableReference": object{"tableId": "u"}, "externalDataConfiguration": object{"sourceUris": []any{"gs://b/o"}}}, 501, "notImplemented")
	c.fails("POST", tables, object{"tableReference": object{"tableId": "u"}, "schema": object{"fields": []any{object{"name": "a", "type": "RANGE"}}}}, 501, "notImplemented")
	c.fails("POST", tables, object{"tableReference": object{"tableId": "u"}, "schema": object{"fields": []any{object{"name": "a", "type": "STRING"}, object{"name": "A", "type": "STRING"}}}}, 400, "invalid")
	c.fails("POST", datasets+"/absent/tables", spec, 400, "invalid")
	c.fails("POST", datasets+"/absent/tables", object{"tableReference": object{"tableId": "t"}}, 404, "notFound")
	if got := ids(c.ok("GET", tables, nil), "tables", "tableReference.tableId"); got != "imports t" {
		t.Errorf("list %s", got)
	}
	page := c.ok("GET", tables+"?maxResults=1", nil)
	if got := ids(c.ok("GET", tables+"?maxResults=1&pageToken="+at(page, "nextPageToken"), nil), "tables", "tableReference.tableId"); got != "t" {
		t.Errorf("second page %s", got)
	}

	// Columns may be added, not taken or changed.
	imports := tables + "/imports"
	schema := c.ok("GET", imports, nil)["schema"].(object)
	fields := schema["fields"].([]any)
	add := func(f ...any) object {
		return object{"schema": object{"fields": append(append([]any{}, fields...), f...)}}
	}
	if got := types(c.ok("PATCH", imports, add(object{"name": "note", "type": "STRING"}))); !strings.HasSuffix(got, ",note:STRING") {
		t.Errorf("patched %s", got)
	}
	c.fails("PATCH", imports, object{"schema": schema}, 400, "invalid")
	c.fails("PATCH", imports, add(object{"name": "note", "type": "INT64"}), 400, "invalid")
	if got := rows(c.query("SELECT note, batch_id FROM staging.imports WHERE id = 1"))[0]; got != "∅|40" {
		t.Errorf("row %s", got)
	}
	c.fails("GET", tables+"/absent", nil, 404, "notFound")
	if code, _ := c.do("DELETE", tables+"/t", nil); code != 204 {
		t.Errorf("delete: %d", code)
	}
	c.fails("DELETE", tables+"/t", nil, 404, "notFound")
}

func TestViews(t *testing.T) {
	c := seeded(t)
	tables := datasets + "/staging/tables"
	view := func(id, query string, legacy bool) object {
		return object{"tableReference": object{"tableId": id}, "view": object{"query": query, "useLegacySql": legacy}}
	}
	made := c.ok("POST", tables, view("v", "SELECT batch_id, COUNT(*), 'x' AS k FROM staging.imports GROUP BY 1", false))
	if at(made, "type") != "VIEW" || types(made) != "batch_id:INTEGER,f0_:INTEGER,k:STRING" || at(made, "view.query") == "" {
		t.Errorf("made %v", made)
	}
	c.ok("POST", tables, view("legacy", "SELECT id FROM [demo-project:staging.imports]", true))
	o := c.insert("SELECT v.f0_, l.id FROM staging.v AS v JOIN staging.legacy l ON l.id = 1 WHERE v.batch_id = 42", withID("q"))
	var refs []string
	for _, r := range o["statistics"].(object)["query"].(object)["referencedTables"].([]any) {
		refs = append(refs, at(r, "tableId"))
	}
	if diff := cmp.Diff([]string{"imports"}, refs); diff != "" {
		t.Errorf("referenced tables of a view (-want +got):\n%s", diff)
	}
	if got := rows(c.ok("GET", base+"/queries/q", nil)); len(got) != 1 || got[0] != "250|1" {
		t.Errorf("rows %v", got)
	}
	c.fails("POST", tables, view("bad", "SELECT nope FROM staging.imports", false), 400, "invalidQuery")
	c.fails("POST", tables, view("bad", "DELETE FROM staging.imports WHERE TRUE", false), 400, "invalidQuery")
	c.fails("GET", tables+"/v/data", nil, 400, "invalid")
	c.ok("PATCH", tables+"/v", object{"view": object{"query": "SELECT 1 AS one", "useLegacySql": false}})
	if got := types(c.query("SELECT * FROM staging.v")); got != "one:INTEGER" {
		t.Errorf("changed view: %s", got)
	}
}

// TestDDL checks what statements make, and what statistics say of it.
func TestDDL(t *testing.T) {
	c := seeded(t)
	for _, tt := range []struct{ sql, typ, op, target string }{
		{"CREATE SCHEMA IF NOT EXISTS mart OPTIONS(description='x', labels=[('a','b')])", "CREATE_SCHEMA", "CREATE", ""},
		{"CREATE SCHEMA IF NOT EXISTS mart", "CREATE_SCHEMA", "SKIP", ""},
		{"CREATE TABLE mart.t (id INT64 NOT NULL OPTIONS(description='key'), tags ARRAY<STRING>, s STRUCT<a INT64, b ARRAY<STRING>>, n NUMERIC(10, 2)) PARTITION BY DATE(seen) CLUSTER BY id OPTIONS(description='t')", "CREATE_TABLE", "CREATE", "mart.t"},
		{"CREATE TABLE IF NOT EXISTS mart.t (id INT64)", "CREATE_TABLE", "SKIP", "mart.t"},
		{"CREATE OR REPLACE TABLE mart.t AS SELECT source, SUM(amount) AS total FROM staging.imports GROUP BY source", "CREATE_TABLE_AS_SELECT", "REPLACE", "mart.t"},
		{"CREATE VIEW mart.v AS SELECT * FROM mart.t", "CREATE_VIEW", "CREATE", "mart.v"},
		{"ALTER TABLE mart.t ADD COLUMN note STRING, ADD COLUMN n INT64", "ALTER_TABLE", "ALTER", "mart.t"},
		{"ALTER TABLE mart.t SET OPTIONS(description='new')", "ALTER_TABLE", "ALTER", "mart.t"},
		{"ALTER TABLE mart.t RENAME TO t2", "ALTER_TABLE", "ALTER", "mart.t"},
		{"DROP VIEW mart.v", "DROP_VIEW", "DROP", "mart.v"},
		{"DROP TABLE IF EXISTS mart.absent", "DROP_TABLE", "SKIP", "mart.absent"},
		{"DROP TABLE `demo-project.mart.t2`", "DROP_TABLE", "DROP", "mart.t2"},
		{"DROP SCHEMA mart CASCADE", "DROP_SCHEMA", "DROP", ""},
	} {
		job := c.insert(tt.sql, nil)
		q, _ := job["statistics"].(object)["query"].(object)
		target := ""
		if at(q, "ddlTargetTable") != "" {
			target = at(q, "ddlTargetTable.datasetId") + "." + at(q, "ddlTargetTable.tableId")
		}
		if at(job, "status.errorResult") != "" || at(q, "statementType") != tt.typ || at(q, "ddlOperationPerformed") != tt.op || target != tt.target {
			t.Errorf("%s: %v %v", tt.sql, job["status"], q)
		}
	}
	for sql, reason := range map[string]string{
		"CREATE TABLE staging.imports (a INT64)": "duplicate", "DROP TABLE staging.absent": "notFound", "DROP VIEW staging.imports": "invalid",
		"DROP SCHEMA staging": "resourceInUse", "CREATE TABLE staging.x (a NOTATYPE)": "invalidQuery", "CREATE TABLE absent.x (a INT64)": "notFound",
		"CREATE TABLE staging.x CLONE staging.imports": "notImplemented", "ALTER TABLE staging.imports DROP COLUMN id": "notImplemented",
		"CREATE TABLE staging.x (a INT64 DEFAULT 1)": "notImplemented", "ALTER TABLE staging.imports ADD COLUMN id INT64": "invalidQuery",
	} {
		if got := at(c.insert(sql, nil), "status.errorResult.reason"); got != reason {
			t.Errorf("%s: %q, want %s", sql, got, reason)
		}
	}
}

func TestIAM(t *testing.T) {
	c := seeded(t)
	for _, resource := range []string{datasets + "/staging", datasets + "/staging/tables/imports"} {
		policy := c.ok("POST", resource+":getIamPolicy", object{})
		policy["bindings"] = []any{object{"role": "roles/bigquery.dataViewer", "members": []any{"user:x@example.com"}}}
		set := c.ok("POST", resource+":setIamPolicy", object{"policy": policy})
		if got := at(c.ok("POST", resource+":getIamPolicy", object{}), "bindings.0.members.0"); got != "user:x@example.com" || at(set, "etag") == at(policy, "etag") {
			t.Errorf("%s: %s", resource, got)
		}
		c.fails("POST", resource+":setIamPolicy", object{"policy": policy}, 409, "aborted") // the etag is old
		if got := at(c.ok("POST", resource+":testIamPermissions", object{"permissions": []any{"bigquery.tables.get"}}), "permissions.0"); got != "bigquery.tables.get" {
			t.Errorf("permissions %s", got)
		}
	}
	c.fails("POST", datasets+"/absent:getIamPolicy", object{}, 404, "notFound")
	job := c.insert("GRANT `roles/bigquery.dataOwner` ON TABLE finance.payroll TO 'user:a@x', \"user:b@x\"", nil)
	if at(job, "statistics.query.statementType") != "GRANT_ON_TABLE" || at(job, "statistics.query.dclTargetTable.tableId") != "payroll" {
		t.Errorf("GRANT: %v", job["statistics"])
	}
	c.query("REVOKE `roles/bigquery.dataOwner` ON TABLE finance.payroll FROM 'user:a@x'")
	if got := at(c.ok("POST", datasets+"/finance/tables/payroll:getIamPolicy", object{}), "bindings"); got != `[{"members":["user:b@x"],"role":"roles/bigquery.dataOwner"}]` {
		t.Errorf("bindings %s", got)
	}
	if got := at(c.insert("GRANT `r` ON SCHEMA finance TO 'user:a@x'", nil), "statistics.query.dclTargetDataset.datasetId"); got != "finance" {
		t.Errorf("GRANT ON SCHEMA: %s", got)
	}
}
