package e2e

import "strings"

// call is what the trail must say of one HTTP request.
type call struct {
	method, class  string // the method without "bigquery."
	sql            []string
	read, written  string // tables, without the project, separated by spaces
	status         int    // 0: 200
	reason         string // of an error
	rows, affected int64
}

// bqCase is one command, and the calls that it makes after it has read the
// discovery document.
type bqCase struct {
	name, agent string
	args        []string
	code        int
	calls       []call
	polls       bool // how often it asks how a job is getting on depends on the clock
}

// words splits the flags of a command line; what holds spaces is given after it.
func words(line string, more ...string) []string { return append(strings.Fields(line), more...) }

// sql is a bq query in GoogleSQL.
func sql(flags, text string) []string {
	return words("query --use_legacy_sql=false "+flags, text)
}

const (
	analyst = "analyst-bot"
	etl     = "etl-bot"

	byBatch  = "SELECT batch_id, COUNT(*) AS n FROM staging.imports GROUP BY batch_id ORDER BY batch_id LIMIT 3"
	hidden   = "/* a harmless */ DELETE FROM staging.imports -- SELECT\nWHERE batch_id = 42"
	script   = "UPDATE staging.imports SET amount = 1 WHERE batch_id = 41; SELECT COUNT(*) AS n FROM staging.imports;"
	named    = "SELECT COUNT(*) AS n FROM staging.imports WHERE batch_id = @b"
	question = "SELECT COUNT(*) AS n FROM staging.imports WHERE batch_id = ?"
	toCopy   = "SELECT id, amount FROM staging.imports WHERE batch_id = 43"
	viewBody = "SELECT id FROM staging.imports WHERE valid"
	merge    = "INSERT INTO scratch.t (a, b) SELECT id, source FROM staging.imports WHERE batch_id = 44"
	create   = "CREATE TABLE scratch.made AS SELECT customer_id, country FROM analytics.customers WHERE country = 'SE'"
	grant    = "GRANT `roles/bigquery.dataViewer` ON SCHEMA scratch TO 'user:ada@example.com'"
	export   = "EXPORT DATA OPTIONS (uri = 'gs://demo-bucket/out-*.csv', format = 'CSV') AS SELECT id FROM staging.imports"
)

var (
	getJob     = call{method: "jobs.get", class: "metadata_read"}
	getScratch = call{method: "datasets.get", class: "metadata_read"}
)

func insert(class, text, read, written string) call {
	c := call{method: "jobs.insert", class: class, read: read, written: written}
	if text != "" {
		c.sql = []string{text}
	}
	return c
}

// affects is a DML statement that changed rows.
func (c call) affects(n int64) call { c.affected = n; return c }

func (c call) ends(status int, reason string) call { c.status, c.reason = status, reason; return c }

func results(rows int64) call {
	return call{method: "jobs.getQueryResults", class: "read", rows: rows}
}

func tableCall(method, class, read, written string) call {
	return call{method: "tables." + method, class: class, read: read, written: written}
}

// foreignLooks are the calls among the cases in which the analyst looks at the
// other agent's job.
var foreignLooks = []string{"bigquery.jobs.get", "bigquery.jobs.getQueryResults"}

// cases run in order, on both sides alike. Together they are the commands of
// bq that reach BigQuery's REST API v2.
var cases = []bqCase{
	{name: "select", agent: analyst, args: sql("", byBatch), calls: []call{insert("read", byBatch, "staging.imports", ""), results(3)}},
	{name: "legacy", agent: analyst, args: words("query --format=csv", "SELECT COUNT(*) AS n FROM [demo-project:staging.imports]"), calls: []call{
		insert("read", "SELECT COUNT(*) AS n FROM [demo-project:staging.imports]", "staging.imports", ""), results(1),
	}},
	{name: "dml", agent: etl, args: sql("", hidden), calls: []call{insert("write", hidden, "staging.imports", "staging.imports").affects(250)}},
	{name: "script", agent: etl, args: sql("", script), calls: []call{
		insert("write", script, "staging.imports", "staging.imports"), {method: "jobs.list", class: "metadata_read", rows: 2}, results(1),
	}},
	{name: "dry run", agent: analyst, args: sql("--dry_run", "SELECT * FROM analytics.orders"), calls: []call{insert("read", "SELECT * FROM analytics.orders", "analytics.orders", "")}},
	{name: "named parameter", agent: analyst, args: sql("--parameter=b:INT64:43", named), calls: []call{insert("read", named, "staging.imports", ""), results(1)}},
	{name: "positional parameter", agent: analyst, args: sql("--parameter=:INT64:43", question), calls: []call{insert("read", question, "staging.imports", ""), results(1)}},
	{name: "rpc", agent: analyst, args: sql("--rpc", "SELECT 7 AS n"), calls: []call{{method: "jobs.query", class: "read", sql: []string{"SELECT 7 AS n"}, rows: 1}}},
	{name: "nosync", agent: etl, args: words("--job_id=nosync-1 query --nosync --use_legacy_sql=false --label=sandbox_delay_ms:6000", "SELECT 1 AS n"), calls: []call{insert("read", "SELECT 1 AS n", "", "")}},
	{name: "wait", agent: etl, args: words("wait nosync-1"), calls: []call{getJob}, polls: true},
	{name: "destination", agent: etl, args: sql("--destination_table=staging.copy1", toCopy), calls: []call{insert("write", toCopy, "staging.imports", "staging.copy1"), results(100)}},
	{name: "batch", agent: analyst, args: sql("--batch", "SELECT 2 AS n"), calls: []call{insert("read", "SELECT 2 AS n", "", ""), results(1)}},
	{name: "label", agent: analyst, args: sql("--label=team:ops --label=trailgate_agent:somebody-else", "SELECT 3 AS n"), calls: []call{insert("read", "SELECT 3 AS n", "", ""), results(1)}},
	{name: "request reason", agent: analyst, args: words("--request_reason=because query --use_legacy_sql=false", "SELECT 4 AS n"), calls: []call{insert("read", "SELECT 4 AS n", "", ""), results(1)}},
	{name: "error", agent: analyst, args: sql("", "SELECT nothing FROM staging.no_such_table"), code: 2, calls: []call{insert("read", "SELECT nothing FROM staging.no_such_table", "staging.no_such_table", "").ends(200, "notFound")}},

	{name: "ls", agent: analyst, args: words("ls"), calls: []call{{method: "datasets.list", class: "metadata_read", rows: 3}}},
	{name: "ls dataset", agent: analyst, args: words("ls analytics"), calls: []call{{method: "tables.list", class: "metadata_read", rows: 3}}},
	{name: "ls projects", agent: analyst, args: words("ls -p"), calls: []call{{method: "projects.list", class: "metadata_read", rows: 1}}},
	{name: "ls jobs", agent: analyst, args: words("ls -j -n 2"), calls: []call{{method: "jobs.list", class: "metadata_read", rows: 2}}},
	{name: "show table", agent: analyst, args: words("show --format=prettyjson staging.imports"), calls: []call{tableCall("get", "metadata_read", "staging.imports", "")}},
	{name: "show dataset", agent: analyst, args: words("show --format=prettyjson staging"), calls: []call{getScratch}},
	{name: "show another's job", agent: analyst, args: words("show --format=json -j nosync-1"), calls: []call{getJob}},
	{name: "head of another's job", agent: analyst, args: words("head -j nosync-1"), calls: []call{results(1)}},
	{name: "head", agent: analyst, args: words("head -n 3 analytics.customers"), calls: []call{
		{method: "tabledata.list", class: "read", read: "analytics.customers", rows: 3}, tableCall("get", "metadata_read", "analytics.customers", ""),
	}},

	{name: "mk dataset", agent: etl, args: words("mk --dataset scratch"), calls: []call{getScratch.ends(404, "notFound"), {method: "datasets.insert", class: "metadata_change"}}},
	{name: "mk table", agent: etl, args: words("mk --table scratch.t a:INTEGER,b:STRING"), calls: []call{
		tableCall("get", "metadata_read", "scratch.t", "").ends(404, "notFound"), tableCall("insert", "metadata_change", "", "scratch.t"),
	}},
	{name: "mk view", agent: etl, args: words("mk --use_legacy_sql=false", "--view="+viewBody, "scratch.v"), calls: []call{
		tableCall("get", "metadata_read", "scratch.v", "").ends(404, "notFound"), {method: "tables.insert", class: "metadata_change", sql: []string{viewBody}, read: "staging.imports", written: "scratch.v"},
	}},
	{name: "update table", agent: etl, args: words("update --description=hello scratch.t"), calls: []call{tableCall("patch", "metadata_change", "", "scratch.t")}},
	{name: "update dataset", agent: etl, args: words("update --description=hello scratch"), calls: []call{getScratch, {method: "datasets.patch", class: "access_change"}}},
	{name: "insert from select", agent: etl, args: sql("", merge), calls: []call{insert("write", merge, "staging.imports", "scratch.t").affects(250)}},
	{name: "create table as", agent: etl, args: sql("", create), calls: []call{insert("write", create, "analytics.customers", "scratch.made")}},
	{name: "cp", agent: etl, args: words("cp -f staging.copy1 scratch.copy2"), calls: []call{getScratch, getScratch, insert("write", "", "staging.copy1", "scratch.copy2")}},
	{name: "load resumable", agent: etl, args: words("load --autodetect scratch.loaded rows.csv"), calls: []call{
		insert("write", "", "", "scratch.loaded"), insert("write", "", "", "scratch.loaded").affects(2),
	}},
	{name: "load multipart", agent: etl, args: words("--enable_resumable_uploads=false load --source_format=NEWLINE_DELIMITED_JSON scratch.loaded2 rows.json a:INTEGER,b:STRING"), calls: []call{
		insert("write", "", "", "scratch.loaded2").affects(2),
	}},
	{name: "load gs", agent: etl, args: words("load --autodetect scratch.loaded3 gs://demo-bucket/imports-45.csv"), calls: []call{insert("write", "", "", "scratch.loaded3").affects(3)}},
	{name: "extract", agent: analyst, args: words("extract staging.copy1 gs://demo-bucket/out.csv"), calls: []call{insert("export", "", "staging.copy1", "")}},
	{name: "insert", agent: etl, args: words("insert scratch.t rows.json"), calls: []call{{method: "tabledata.insertAll", class: "write", written: "scratch.t"}}},
	{name: "grant", agent: etl, args: sql("", grant), calls: []call{insert("access_change", grant, "", "scratch.*"), results(0)}},
	{name: "export data", agent: etl, args: sql("", export), calls: []call{insert("export", export, "staging.imports", ""), results(0)}},
	{name: "nosync again", agent: etl, args: words("--job_id=nosync-2 query --nosync --use_legacy_sql=false --label=sandbox_delay_ms:120000", "DELETE FROM staging.imports WHERE true"), calls: []call{
		insert("write", "DELETE FROM staging.imports WHERE true", "", "staging.imports"),
	}},
	{name: "cancel", agent: etl, args: words("cancel nosync-2"), calls: []call{{method: "jobs.cancel", class: "metadata_change"}}},
	{name: "get-iam-policy", agent: analyst, args: words("get-iam-policy scratch.t"), calls: []call{tableCall("getIamPolicy", "metadata_read", "scratch.t", "")}},
	{name: "add-iam-policy-binding", agent: etl, args: words("add-iam-policy-binding --member=user:ada@example.com --role=roles/bigquery.dataViewer scratch.t"), calls: []call{
		tableCall("getIamPolicy", "metadata_read", "scratch.t", ""), tableCall("setIamPolicy", "access_change", "", "scratch.t"),
	}},
	{name: "rm table", agent: etl, args: words("rm -f scratch.copy2"), calls: []call{tableCall("delete", "write", "", "scratch.copy2").ends(204, "")}},
	{name: "rm dataset", agent: etl, args: words("rm -r -f scratch"), calls: []call{{method: "datasets.delete", class: "write", status: 204}}},
	{name: "ls what is gone", agent: analyst, args: words("ls scratch"), code: 2, calls: []call{{method: "tables.list", class: "metadata_read", status: 404, reason: "notFound"}}},
}
