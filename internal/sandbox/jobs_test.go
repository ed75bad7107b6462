package sandbox_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/sandbox"
)

func jobsOf(o object) []string {
	var ids []string
	list, _ := o["jobs"].([]any)
	for _, j := range list {
		ids = append(ids, at(j, "jobReference.jobId"))
	}
	return ids
}

func withID(id string) object { return object{"jobReference": object{"jobId": id}} }

func withLabels(kv ...string) object {
	labels := object{}
	for i := 0; i < len(kv); i += 2 {
		labels[kv[i]] = kv[i+1]
	}
	return object{"configuration": object{"labels": labels}}
}

// TestJobIDs: a job id works once in a project; in another it is another job.
func TestJobIDs(t *testing.T) {
	c := newClient(t, sandbox.Config{Projects: []string{"demo-project", "other"}})
	c.insert("SELECT 1", withID("a"))
	if got := c.fails("POST", base+"/jobs", queryBody("SELECT 2", withID("a")), 409, "duplicate"); got != "Already Exists: Job demo-project:US.a" {
		t.Errorf("message %q", got)
	}
	c.ok("POST", "/bigquery/v2/projects/other/jobs", object{"configuration": object{"query": object{"query": "SELECT 3"}}, "jobReference": object{"jobId": "a"}})
	c.fails("POST", base+"/jobs", queryBody("SELECT 2", withID("no spaces")), 400, "invalid")
	c.fails("POST", base+"/jobs", queryBody("SELECT 2", object{"jobReference": object{"projectId": "other"}}), 400, "invalid")
	if id := at(c.insert("SELECT 1", nil), "jobReference.jobId"); !strings.HasPrefix(id, "job_") {
		t.Errorf("made-up id %q", id)
	}
	if n := len(c.s.Jobs()); n != 3 {
		t.Errorf("%d jobs, want 3", n)
	}
	c.fails("GET", base+"/jobs/absent", nil, 404, "notFound")
	c.fails("GET", base+"/jobs/a?location=EU", nil, 404, "notFound")
	c.ok("GET", base+"/jobs/a?location=US", nil)
}

// TestFailedJob: a job that fails is a job all the same; jobs.query and
// getQueryResults tell its error as an HTTP error.
func TestFailedJob(t *testing.T) {
	c := seeded(t)
	job := c.insert("SELECT nope FROM staging.imports", withID("bad"))
	want := object{"state": "DONE", "errorResult": object{"reason": "invalidQuery", "message": "Unrecognized name: nope", "location": "q"}, "errors": []any{object{"reason": "invalidQuery", "message": "Unrecognized name: nope", "location": "q"}}}
	if diff := cmp.Diff(want, job["status"]); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	c.fails("GET", base+"/queries/bad", nil, 400, "invalidQuery")
	if at(job, "statistics.query.statementType") != "SELECT" {
		t.Errorf("statistics: %v", job["statistics"])
	}
}

// TestDelayedJob follows a job through its states.
func TestDelayedJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, sandbox.Config{JobDelay: 9 * time.Second})
		c.ok("POST", base+"/datasets", object{"datasetReference": object{"datasetId": "d"}})
		c.ok("POST", base+"/datasets/d/tables", object{"tableReference": object{"tableId": "t"}, "schema": object{"fields": []any{object{"name": "a", "type": "INT64"}}}})
		if got := at(c.insert("INSERT d.t (a) VALUES (1)", withID("slow")), "status.state"); got != "PENDING" {
			t.Errorf("at first: %s", got)
		}
		for _, step := range []struct {
			after time.Duration
			state string
			rows  string
		}{{2 * time.Second, "PENDING", "0"}, {2 * time.Second, "RUNNING", "0"}, {4 * time.Second, "RUNNING", "0"}, {2 * time.Second, "DONE", "1"}} {
			time.Sleep(step.after)
			synctest.Wait()
			if got := at(c.ok("GET", base+"/jobs/slow", nil), "status.state"); got != step.state {
				t.Errorf("%s, want %s", got, step.state)
			}
			if got := at(c.ok("GET", base+"/datasets/d/tables/t", nil), "numRows"); got != step.rows {
				t.Errorf("in state %s: %s rows, want %s", step.state, got, step.rows)
			}
		}

		// jobs.query answers that the job goes on, getQueryResults waits for it.
		o := c.ok("POST", base+"/queries", object{"query": "SELECT 7", "useLegacySql": false, "timeoutMs": 1000})
		if at(o, "jobComplete") != "false" || at(o, "rows") != "" || at(o, "jobReference.jobId") == "" {
			t.Errorf("early answer: %v", o)
		}
		path := base + "/queries/" + at(o, "jobReference.jobId")
		if got := at(c.ok("GET", path+"?timeoutMs=0", nil), "jobComplete"); got != "false" {
			t.Errorf("jobComplete %s at once", got)
		}
		if got := rows(c.ok("GET", path, nil)); len(got) != 1 || got[0] != "7" {
			t.Errorf("rows %v", got)
		}

		// The label outweighs the configuration.
		if got := at(c.insert("SELECT 1", withLabels("sandbox_delay_ms", "0")), "status.state"); got != "DONE" {
			t.Errorf("without delay: %s", got)
		}
	})
}

// TestCancel: what is cancelled before its end has no effect.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := seeded(t)
		for i, wait := range []time.Duration{0, 20 * time.Second, 50 * time.Second} {
			id := fmt.Sprint("job", i)
			body := withID(id)
			merge(body, withLabels("sandbox_delay_ms", "60000"))
			c.insert("DELETE FROM staging.imports WHERE TRUE", body)
			time.Sleep(wait)
			o := c.ok("POST", base+"/jobs/"+id+"/cancel", nil)
			if at(o, "kind") != "bigquery#jobCancelResponse" || at(o, "job.status.state") != "DONE" || at(o, "job.status.errorResult.reason") != "stopped" {
				t.Errorf("cancelled after %v: %v", wait, at(o, "job.status"))
			}
		}
		time.Sleep(2 * time.Minute)
		if got := rows(c.query("SELECT COUNT(*) FROM staging.imports"))[0]; got != "1250" {
			t.Errorf("%s rows left", got)
		}
		for _, j := range c.s.Jobs() {
			if j.Type == "QUERY" && strings.HasPrefix(j.Statement, "DELETE") && j.Executed {
				t.Errorf("job %s was executed", j.ID)
			}
		}
		// Cancelling what is done changes nothing.
		c.insert("SELECT 1", withID("done"))
		if got := at(c.ok("POST", base+"/jobs/done/cancel", nil), "job.status.errorResult"); got != "" {
			t.Errorf("a job that was done got %s", got)
		}
		c.fails("POST", base+"/jobs/absent/cancel", nil, 404, "notFound")
	})
}

// TestCancelRunning interrupts SQLite itself.
func TestCancelRunning(t *testing.T) {
	c := seeded(t)
	done := make(chan object)
	go func() { done <- c.insert("SELECT COUNT(*) FROM bench.rows_100000000 a WHERE a.id > 5", withID("long")) }()
	for {
		if code, o := c.do("GET", base+"/jobs/long", nil); code == 200 && at(o, "status.state") == "RUNNING" {
			break
		}
		time.Sleep(time.Millisecond)
	}
	c.ok("POST", base+"/jobs/long/cancel", nil)
	if job := <-done; at(job, "status.errorResult.reason") != "stopped" {
		t.Errorf("status %v", job["status"])
	}
	if got := rows(c.query("SELECT COUNT(*) FROM staging.imports"))[0]; got != "1250" {
		t.Errorf("after an interrupt: %s rows", got)
	}
}

func TestRequestID(t *testing.T) {
	c := seeded(t)
	body := object{"query": "DELETE FROM staging.imports WHERE batch_id = 42", "useLegacySql": false, "requestId": "r-1"}
	first, again := c.ok("POST", base+"/queries", body), c.ok("POST", base+"/queries", body)
	if at(first, "jobReference.jobId") != at(again, "jobReference.jobId") || at(again, "numDmlAffectedRows") != "250" {
		t.Errorf("sent again: %v", again)
	}
	if n := len(c.s.Jobs()); n != 1 {
		t.Errorf("%d jobs", n)
	}
	body["query"] = "DELETE FROM staging.imports WHERE batch_id = 41"
	c.fails("POST", base+"/queries", body, 400, "invalid")
	body["requestId"] = strings.Repeat("x", 37)
	c.fails("POST", base+"/queries", body, 400, "invalid")
	delete(body, "requestId")
	c.ok("POST", base+"/queries", body)
	c.ok("POST", base+"/queries", body)
	if n := len(c.s.Jobs()); n != 3 {
		t.Errorf("%d jobs without requestId, want 3", n)
	}
}

func TestDryRun(t *testing.T) {
	c := seeded(t)
	dry := object{"configuration": object{"dryRun": true}, "jobReference": object{"jobId": "dry"}}
	for sql, want := range map[string]string{
		"DELETE FROM staging.imports WHERE batch_id = 42":            "DELETE ",
		"SELECT name, salary FROM finance.payroll":                   "SELECT name:STRING,salary:NUMERIC",
		"CREATE TABLE staging.copy AS SELECT * FROM finance.payroll": "CREATE_TABLE_AS_SELECT employee_id:INTEGER,name:STRING,iban:STRING,salary:NUMERIC,bonus:NUMERIC,paid_on:DATE",
		"DROP TABLE staging.imports":                                 "DROP_TABLE ",
		"TRUNCATE TABLE staging.imports":                             "TRUNCATE_TABLE ",
		"SELECT 1; DROP TABLE staging.imports":                       "SCRIPT ",
	} {
		o := c.insert(sql, dry)
		got := at(o, "statistics.query.statementType") + " " + types(object{"schema": o["statistics"].(object)["query"].(object)["schema"]})
		if got != want || at(o, "status.state") != "DONE" || at(o, "configuration.dryRun") != "true" || at(o, "jobReference.jobId") != "" || at(o, "statistics.query.totalBytesBilled") != "0" {
			t.Errorf("%s: %s; %v", sql, got, o)
		}
	}
	o := c.ok("POST", base+"/queries", object{"query": "SELECT COUNT(*) FROM finance.payroll", "useLegacySql": false, "dryRun": true})
	if at(o, "totalBytesProcessed") == "0" || at(o, "rows") != "" || types(o) != "f0_:INTEGER" {
		t.Errorf("jobs.query: %v", o)
	}
	// What would fail fails at once, and makes no job.
	c.fails("POST", base+"/jobs", queryBody("SELECT nope FROM staging.imports", dry), 400, "invalidQuery")
	c.fails("POST", base+"/jobs", queryBody("DROP TABLE staging.absent", dry), 404, "notFound")
	c.fails("POST", base+"/jobs", queryBody("CREATE TABLE staging.imports (a INT64)", dry), 409, "duplicate")
	c.fails("GET", base+"/jobs/dry", nil, 404, "notFound")
	if got := at(c.ok("GET", base+"/datasets/staging/tables/imports", nil), "numRows"); got != "1250" {
		t.Errorf("a dry run left %s rows", got)
	}
	if got := jobsOf(c.ok("GET", base+"/jobs", nil)); len(got) != 0 {
		t.Errorf("jobs.list has dry runs: %v", got)
	}
	for _, j := range c.s.Jobs() {
		if !j.DryRun || j.Executed {
			t.Errorf("job %+v", j)
		}
	}
}

// TestScript checks child jobs, the order that they are listed in, and what a
// failure leaves.
func TestScript(t *testing.T) {
	c := seeded(t)
	body := withID("script")
	merge(body, withLabels("team", "data"))
	job := c.insert("DECLARE b INT64 DEFAULT 42;\nCREATE TEMP TABLE bad AS SELECT * FROM staging.imports WHERE batch_id = b AND NOT valid;\nDELETE FROM staging.imports WHERE id IN (SELECT id FROM bad);\nSET b = (SELECT COUNT(*) FROM bad);\nSELECT b AS gone;", body)
	if at(job, "statistics.query.statementType") != "SCRIPT" || at(job, "statistics.numChildJobs") != "4" || at(job, "status.errorResult") != "" {
		t.Fatalf("parent: %v %v", job["status"], job["statistics"])
	}
	o := c.ok("GET", base+"/jobs?parentJobId=script&projection=full", nil)
	var got []string
	for _, j := range o["jobs"].([]any) {
		got = append(got, fmt.Sprintf("%s %s %s@%s %s", at(j, "statistics.query.statementType"), at(j, "statistics.scriptStatistics.evaluationKind"),
			at(j, "statistics.parentJobId"), at(j, "statistics.scriptStatistics.stackFrames.0.startLine"), at(j, "configuration.labels.team")))
	}
	want := []string{"SELECT STATEMENT script@5 data", "SET EXPRESSION script@4 data", "DELETE STATEMENT script@3 data", "CREATE_TABLE_AS_SELECT STATEMENT script@2 data"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("children, newest first (-want +got):\n%s", diff)
	}
	if got := rows(c.ok("GET", base+"/queries/script", nil)); len(got) != 1 || got[0] != "179" {
		t.Errorf("result %v", got)
	}
	if got := jobsOf(c.ok("GET", base+"/jobs", nil)); len(got) != 1 || got[0] != "script" {
		t.Errorf("jobs.list without parentJobId has %v", got)
	}
	c.fails("GET", base+"/jobs?parentJobId=absent", nil, 404, "notFound")

	job = c.insert("DELETE FROM staging.imports WHERE batch_id = 40;\n  SELECT nope FROM staging.imports; DELETE FROM staging.imports WHERE TRUE", withID("failing"))
	if got := at(job, "status.errorResult.message"); got != "Query error: Unrecognized name: nope at [2:3]" {
		t.Errorf("error %q", got)
	}
	if got := rows(c.query("SELECT COUNT(*) FROM staging.imports WHERE batch_id = 40"))[0]; got != "0" {
		t.Errorf("the first statement was undone: %s rows", got)
	}
	if got := rows(c.query("SELECT COUNT(*) > 0 FROM staging.imports"))[0]; got != "true" {
		t.Error("the statement after the failure was run")
	}
	if got := len(jobsOf(c.ok("GET", base+"/jobs?parentJobId=failing", nil))); got != 2 {
		t.Errorf("%d children", got)
	}
	// What is no statement keeps the whole script from running.
	c.fails("POST", base+"/queries", object{"query": "DELETE FROM staging.imports WHERE TRUE; SELEC 1", "useLegacySql": false}, 400, "invalidQuery")
	if got := rows(c.query("SELECT COUNT(*) > 0 FROM staging.imports"))[0]; got != "true" {
		t.Error("a script with a syntax error was run")
	}
}

func TestScriptStatements(t *testing.T) {
	c := seeded(t)
	c.query("BEGIN TRANSACTION; DELETE FROM staging.imports WHERE TRUE; ROLLBACK TRANSACTION;")
	if got := at(c.ok("GET", base+"/datasets/staging/tables/imports", nil), "numRows"); got != "1250" {
		t.Errorf("after ROLLBACK: %s rows", got)
	}
	c.query("BEGIN; DELETE FROM staging.imports WHERE batch_id = 40; COMMIT;")
	// A script that ends within a transaction rolls back.
	c.query("BEGIN; DELETE FROM staging.imports WHERE batch_id = 41;")
	if got := rows(c.query("SELECT COUNT(*) FROM staging.imports"))[0]; got != "1000" {
		t.Errorf("after COMMIT and an open transaction: %s rows", got)
	}
	o := c.query("EXECUTE IMMEDIATE CONCAT('DELETE FROM staging.imports ', 'WHERE batch_id = 44')")
	children := c.ok("GET", base+"/jobs?projection=full&parentJobId="+at(o, "jobReference.jobId"), nil)
	if got := at(children, "jobs.0.statistics.query.statementType") + " " + at(children, "jobs.0.configuration.query.query"); got != "DELETE DELETE FROM staging.imports WHERE batch_id = 44" {
		t.Errorf("EXECUTE IMMEDIATE: %s", got)
	}
	for sql, reason := range map[string]string{
		"COMMIT; SELECT 1": "invalidQuery", "DECLARE a INT64; DECLARE a INT64;": "invalidQuery", "SET a = 1; SELECT 1": "invalidQuery",
		"BEGIN; CREATE TABLE staging.x (a INT64); COMMIT;": "invalidQuery", "DECLARE d DATE DEFAULT 'x'; SELECT d": "invalid",
	} {
		c.fails("POST", base+"/queries", object{"query": sql, "useLegacySql": false}, 400, reason)
	}
	c.fails("POST", base+"/queries", object{"query": "IF TRUE THEN SELECT 1; END IF; ", "useLegacySql": false}, 501, "notImplemented")
}

func TestJobsList(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	c := newClient(t, sandbox.Config{Principals: map[string]string{"a": "a@x", "b": "b@x"}, Now: func() time.Time { return now }})
	for i, token := range []string{"a", "b", "a", "a"} {
		c.token = token
		c.insert("SELECT 1", withID(fmt.Sprint("j", i)))
		now = now.Add(time.Minute)
	}
	for query, want := range map[string]string{
		"":                  "j3 j2 j0",
		"?allUsers=true":    "j3 j2 j1 j0",
		"?stateFilter=done": "j3 j2 j0", "?stateFilter=running&stateFilter=pending": "",
		fmt.Sprintf("?minCreationTime=%d", now.Add(-2*time.Minute).UnixMilli()):               "j3 j2",
		fmt.Sprintf("?allUsers=true&maxCreationTime=%d", now.Add(-3*time.Minute).UnixMilli()): "j1 j0",
		"?maxResults=2": "j3 j2",
	} {
		if got := strings.Join(jobsOf(c.ok("GET", base+"/jobs"+query, nil)), " "); got != want {
			t.Errorf("jobs%s: %s, want %s", query, got, want)
		}
	}
	page := c.ok("GET", base+"/jobs?maxResults=2", nil)
	if got := strings.Join(jobsOf(c.ok("GET", base+"/jobs?maxResults=2&pageToken="+at(page, "nextPageToken"), nil)), " "); got != "j0" {
		t.Errorf("second page: %s", got)
	}
	if o := c.ok("GET", base+"/jobs?projection=full", nil); at(o, "jobs.0.configuration.query.query") != "SELECT 1" || at(o, "jobs.0.user_email") != "a@x" || at(o, "jobs.0.state") != "DONE" {
		t.Errorf("full: %v", o["jobs"].([]any)[0])
	}
	if o := c.ok("GET", base+"/jobs", nil); at(o, "jobs.0.configuration") != "" {
		t.Error("the minimal projection has the configuration")
	}
	c.fails("GET", base+"/jobs?pageToken=x", nil, 400, "invalid")
	c.fails("GET", base+"/jobs?stateFilter=odd", nil, 400, "invalid")
	c.ok("DELETE", base+"/jobs/j3/delete", nil)
	c.fails("GET", base+"/jobs/j3", nil, 404, "notFound")
	if got := strings.Join(jobsOf(c.ok("GET", base+"/jobs", nil)), " "); got != "j2 j0" {
		t.Errorf("after a delete: %s", got)
	}
	if n := len(c.s.Jobs()); n != 4 {
		t.Errorf("Jobs() has %d", n)
	}
}

// TestJobRecords: what the tests of others rely on.
func TestJobRecords(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	c := newClient(t, sandbox.Config{Principals: map[string]string{"tok": "etl@x"}, Now: func() time.Time { return now }})
	c.token = "tok"
	c.header = http.Header{"X-Goog-Request-Reason": {"entry 17"}}
	body := withID("j")
	merge(body, withLabels("trailgate_entry", "17"))
	c.insert("SELECT 1", body)
	want := []sandbox.JobRecord{{
		Project: "demo-project", ID: "j", Location: "US", Principal: "etl@x", Type: "QUERY", Statement: "SELECT 1", StatementType: "SELECT",
		Labels: map[string]string{"trailgate_entry": "17"}, Reason: "entry 17", State: "DONE", Executed: true, Created: now, Started: now, Ended: now,
	}}
	if diff := cmp.Diff(want, c.s.Jobs()); diff != "" {
		t.Errorf("Jobs() (-want +got):\n%s", diff)
	}
	calls := c.s.Calls()
	if len(calls) != 1 || calls[0].Verb != "POST" || calls[0].Path != base+"/jobs" || calls[0].Principal != "etl@x" || !calls[0].Authorization || calls[0].Header.Get("X-Goog-Request-Reason") != "entry 17" {
		t.Errorf("Calls() = %+v", calls)
	}
}

func TestResultPages(t *testing.T) {
	c := seeded(t)
	c.insert("SELECT id FROM staging.imports ORDER BY id", withID("q"))
	var got []string
	token := ""
	pages := 0
	for {
		o := c.ok("GET", base+"/queries/q?maxResults=500&pageToken="+token, nil)
		if at(o, "totalRows") != "1250" {
			t.Fatalf("totalRows %s", at(o, "totalRows"))
		}
		got = append(got, rows(o)...)
		pages++
		if token = at(o, "pageToken"); token == "" {
			break
		}
	}
	if pages != 3 || len(got) != 1250 || got[0] != "1" || got[1249] != "1250" {
		t.Errorf("%d pages, %d rows", pages, len(got))
	}
	if got := rows(c.ok("GET", base+"/queries/q?startIndex=1248", nil)); strings.Join(got, " ") != "1249 1250" {
		t.Errorf("startIndex: %v", got)
	}
	if o := c.ok("GET", base+"/queries/q?maxResults=0", nil); at(o, "rows") != "" || types(o) != "id:INTEGER" || at(o, "pageToken") == "" {
		t.Errorf("maxResults=0: %v", o)
	}
	// The made-up table that a client may list instead.
	ref := at(c.ok("GET", base+"/jobs/q", nil), "configuration.query.destinationTable.tableId")
	path := base + "/datasets/_anonymous/tables/" + ref
	if got := rows(c.ok("GET", path+"/data?maxResults=1", nil)); len(got) != 1 || got[0] != "1" {
		t.Errorf("destination table: %v", got)
	}
	if got := at(c.ok("GET", path, nil), "numRows"); got != "1250" {
		t.Errorf("destination table: %s rows", got)
	}
	c.fails("GET", base+"/queries/q?pageToken=odd", nil, 400, "invalid")
}

func TestPageBytes(t *testing.T) {
	c := newClient(t, sandbox.Config{MaxPageBytes: 10_000})
	c.insert("SELECT * FROM bench.rows_1000", withID("q"))
	o := c.ok("GET", base+"/queries/q", nil)
	if n := len(rows(o)); n < 50 || n > 200 || at(o, "pageToken") == "" {
		t.Errorf("%d rows in a page of 10 kB", n)
	}
}

func TestCache(t *testing.T) {
	c := seeded(t)
	const sql = "SELECT COUNT(*) FROM analytics.daily_revenue"
	hit := func() string { return at(c.query(sql), "cacheHit") }
	if hit() != "false" || hit() != "true" {
		t.Error("the second time is no cache hit")
	}
	if o := c.query(sql); at(o, "totalBytesProcessed") != "0" || at(o, "totalBytesBilled") != "0" || rows(o)[0] != "91" {
		t.Errorf("cache hit: %v", o)
	}
	c.query("DELETE FROM analytics.orders WHERE order_id = 100000")
	if hit() != "false" {
		t.Error("a cache hit though a table changed")
	}
	if o := c.ok("POST", base+"/queries", object{"query": sql, "useLegacySql": false, "useQueryCache": false}); at(o, "cacheHit") != "false" {
		t.Error("a cache hit though none was wanted")
	}
	if c.query("SELECT RAND()"); at(c.query("SELECT RAND()"), "cacheHit") != "false" {
		t.Error("RAND() is cached")
	}
	c.query("CREATE OR REPLACE TABLE staging.one AS SELECT 1 AS a")
	c.query("SELECT * FROM staging.one")
	c.query("CREATE OR REPLACE TABLE staging.one AS SELECT 2 AS a")
	if got := rows(c.query("SELECT * FROM staging.one"))[0]; got != "2" {
		t.Errorf("the result of a table that was replaced: %s", got)
	}
}

func TestDestinationTable(t *testing.T) {
	c := seeded(t)
	to := func(write, create string) object {
		q := object{"destinationTable": object{"projectId": "demo-project", "datasetId": "staging", "tableId": "sums"}}
		if write != "" {
			q["writeDisposition"] = write
		}
		if create != "" {
			q["createDisposition"] = create
		}
		return object{"configuration": object{"query": q}}
	}
	const sql = "SELECT batch_id, COUNT(*) AS n FROM staging.imports GROUP BY batch_id"
	reason := func(more object) string { return at(c.insert(sql, more), "status.errorResult.reason") }
	if got := reason(to("", "CREATE_NEVER")); got != "notFound" {
		t.Errorf("CREATE_NEVER: %q", got)
	}
	job := c.insert(sql, to("", ""))
	if at(job, "configuration.query.destinationTable.tableId") != "sums" || at(job, "status.errorResult") != "" {
		t.Fatalf("%v", job)
	}
	for _, tt := range []struct{ write, reason, rows string }{{"", "duplicate", "5"}, {"WRITE_EMPTY", "duplicate", "5"}, {"WRITE_APPEND", "", "10"}, {"WRITE_TRUNCATE", "", "5"}, {"ODD", "", ""}} {
		if tt.write == "ODD" {
			c.fails("POST", base+"/jobs", queryBody(sql, to("ODD", "")), 400, "invalid")
			continue
		}
		if got := reason(to(tt.write, "")); got != tt.reason {
			t.Errorf("%s: %q", tt.write, got)
		}
		if got := rows(c.query("SELECT COUNT(*) FROM staging.sums"))[0]; got != tt.rows {
			t.Errorf("%s: %s rows", tt.write, got)
		}
	}
	if got := at(c.insert("SELECT 'x' AS batch_id", to("WRITE_APPEND", "")), "status.errorResult.message"); !strings.Contains(got, "has changed type from INTEGER to STRING") {
		t.Errorf("another schema: %q", got)
	}
	if got := at(c.insert("DELETE FROM staging.sums WHERE TRUE", to("", "")), "status.errorResult.reason"); got != "invalid" {
		t.Errorf("DML with a destination: %q", got)
	}
	if got := types(c.ok("GET", base+"/datasets/staging/tables/sums", nil)); got != "batch_id:INTEGER,n:INTEGER" {
		t.Errorf("schema %s", got)
	}
}

func TestMaximumBytesBilled(t *testing.T) {
	c := seeded(t)
	body := object{"query": "DELETE FROM staging.imports WHERE TRUE AND id IN (SELECT id FROM staging.imports)", "useLegacySql": false, "maximumBytesBilled": 1000}
	c.fails("POST", base+"/queries", body, 400, "bytesBilledLimitExceeded")
	body["maximumBytesBilled"] = "10485760"
	c.ok("POST", base+"/queries", body)
}

// TestMaxJobs: the oldest go, and those that are not done stay.
func TestMaxJobs(t *testing.T) {
	c := newClient(t, sandbox.Config{MaxJobs: 20})
	more := withID("slow")
	merge(more, withLabels("sandbox_delay_ms", "3600000"))
	c.insert("SELECT 1", more)
	for i := range 50 {
		c.insert("SELECT 1", withID(fmt.Sprint("j", i)))
	}
	jobs := c.s.Jobs()
	if len(jobs) < 15 || len(jobs) > 20 || jobs[0].ID != "slow" || jobs[len(jobs)-1].ID != "j49" {
		t.Errorf("%d jobs, from %s to %s", len(jobs), jobs[0].ID, jobs[len(jobs)-1].ID)
	}
	c.fails("GET", base+"/jobs/j0", nil, 404, "notFound")
	c.ok("GET", base+"/jobs/slow", nil)
}

// TestJobTimeout: a job that takes longer than jobTimeoutMs ends, without effect.
func TestJobTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := seeded(t)
		more := object{"configuration": object{"jobTimeoutMs": "20000"}}
		merge(more, withID("slow"))
		merge(more, withLabels("sandbox_delay_ms", "60000"))
		c.insert("DELETE FROM staging.imports WHERE TRUE", more)
		time.Sleep(time.Minute)
		job := c.ok("GET", base+"/jobs/slow", nil)
		if at(job, "status.errorResult.reason") != "stopped" || !strings.Contains(fmt.Sprint(at(job, "status.errorResult.message")), "timed out after 20s") {
			t.Errorf("%v", at(job, "status"))
		}
		if got := rows(c.query("SELECT COUNT(*) FROM staging.imports"))[0]; got != "1250" {
			t.Errorf("%s rows left", got)
		}
		c.ok("POST", base+"/queries", object{"query": "SELECT 1 AS x", "useLegacySql": false, "jobTimeoutMs": "60000"})
	})
}
