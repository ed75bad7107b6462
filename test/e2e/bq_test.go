package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/sandbox"
)

// side is where bq is pointed at: the gateway, or a sandbox of its own.
type side struct {
	url   string
	home  string
	token func(agent string) string // a file
}

// bq runs one command and returns what it printed, both streams, and its code.
func (s side) bq(t *testing.T, agent, dir string, args []string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bq", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.home, "LANG=C.UTF-8", "CLOUDSDK_CONFIG=" + filepath.Join(s.home, "gcloud"),
		"BIGQUERYRC=" + filepath.Join(s.home, "bigqueryrc"), "CLOUDSDK_CORE_PROJECT=demo-project",
		"CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERY=" + s.url + "/", "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE=" + s.token(agent),
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("bq %s: %v", strings.Join(args, " "), err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func newSide(t *testing.T, url string, token func(string) string) side {
	t.Helper()
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, "gcloud"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(home, "bigqueryrc"), "", 0o600)
	return side{url, home, token}
}

// volatile is what differs between two runs of anything: ids, times, hosts.
var volatile = []*regexp.Regexp{
	regexp.MustCompile(`bqjob_r[0-9a-f]+_[0-9a-f]+_\d+`),
	regexp.MustCompile(`(trailgate|sandbox|job)_[0-9A-Za-z_-]{8,}`),
	regexp.MustCompile(`\b\d{2} [A-Z][a-z]{2} \d{2}:\d{2}:\d{2}\b`),
	regexp.MustCompile(`\d+:\d{2}:\d{2}(\.\d+)?`),
	regexp.MustCompile(`"(etag|creationTime|lastModifiedTime|startTime|endTime|totalSlotMs|finalExecutionDurationMs|elapsedMs)": "[^"]*"`),
	regexp.MustCompile(`http://127\.0\.0\.1:\d+`),
	regexp.MustCompile(`\(\d+s\)`),
	regexp.MustCompile(`trailgate_(entry|agent|session):\S+`),
	regexp.MustCompile(`[ \t]+`),
	regexp.MustCompile(`-{3,}`),
}

func normal(s string) string {
	s = s[strings.LastIndex(s, "\r")+1:] // a wait's line is rewritten in place
	for _, re := range volatile {
		s = re.ReplaceAllString(s, " ")
	}
	return strings.TrimSpace(s)
}

// want is a call that a bq command must leave in the trail.
type want struct{ method, class, statement, table string }

type bqCase struct {
	name, agent string
	args        []string
	code        int
	calls       []want // in order; discovery, which each command asks first, is left out
	loose       bool   // what is printed holds more that is volatile; the code must agree
}

const q = "query --use_legacy_sql=false"

func args(line string, more ...string) []string { return append(strings.Fields(line), more...) }

var (
	insertJob = "bigquery.jobs.insert"
	results   = want{"bigquery.jobs.getQueryResults", "read", "", ""}
	getJob    = want{"bigquery.jobs.get", "metadata_read", "", ""}
	getTable  = want{"bigquery.tables.get", "metadata_read", "", ""}
	getSet    = want{"bigquery.datasets.get", "metadata_read", "", ""}
)

// cases run in order, on both sides alike. Each is a command of WIRE's table.
var cases = []bqCase{
	{name: "select", agent: "analyst-bot", args: args(q, "SELECT batch_id, COUNT(*) AS n FROM staging.imports GROUP BY batch_id ORDER BY batch_id LIMIT 3"),
		calls: []want{{insertJob, "read", "SELECT batch_id", "demo-project.staging.imports"}, results}},
	{name: "legacy", agent: "analyst-bot", args: args("query --format=csv", "SELECT COUNT(*) AS n FROM [demo-project:staging.imports]"),
		calls: []want{{insertJob, "read", "[demo-project:staging.imports]", "demo-project.staging.imports"}, results}},
	{name: "dml", agent: "etl-bot", args: args(q, "DELETE FROM staging.imports WHERE batch_id = 42"),
		calls: []want{{insertJob, "write", "DELETE FROM staging.imports", "demo-project.staging.imports"}}},
	{name: "script", agent: "etl-bot", args: args(q, "UPDATE staging.imports SET amount = 1 WHERE batch_id = 41; SELECT COUNT(*) AS n FROM staging.imports;"), loose: true,
		calls: []want{{insertJob, "write", "UPDATE staging.imports", "demo-project.staging.imports"}, {"bigquery.jobs.list", "metadata_read", "", ""}}},
	{name: "dry run", agent: "analyst-bot", args: args(q+" --dry_run", "SELECT * FROM analytics.orders"),
		calls: []want{{insertJob, "read", "SELECT * FROM analytics.orders", "demo-project.analytics.orders"}}},
	{name: "named parameter", agent: "analyst-bot", args: args(q+" --parameter=b:INT64:43", "SELECT COUNT(*) AS n FROM staging.imports WHERE batch_id = @b"),
		calls: []want{{insertJob, "read", "@b", "demo-project.staging.imports"}, results}},
	{name: "positional parameter", agent: "analyst-bot", args: args(q+" --parameter=:INT64:43", "SELECT COUNT(*) AS n FROM staging.imports WHERE batch_id = ?"),
		calls: []want{{insertJob, "read", "= ?", "demo-project.staging.imports"}, results}},
	{name: "rpc", agent: "analyst-bot", args: args(q+" --rpc", "SELECT 7 AS n"),
		calls: []want{{"bigquery.jobs.query", "read", "SELECT 7", ""}}},
	{name: "nosync", agent: "etl-bot", args: args("--job_id=nosync-1 "+q+" --nosync", "SELECT 1 AS n"),
		calls: []want{{insertJob, "read", "SELECT 1", ""}}},
	{name: "wait", agent: "etl-bot", args: args("wait nosync-1"), loose: true, calls: []want{getJob}},
	{name: "destination", agent: "etl-bot", args: args(q+" --destination_table=staging.copy1", "SELECT id, amount FROM staging.imports WHERE batch_id = 43"),
		loose: true, calls: []want{{insertJob, "write", "SELECT id, amount", "demo-project.staging.imports"}, results}},
	{name: "batch", agent: "analyst-bot", args: args(q+" --batch", "SELECT 2 AS n"), calls: []want{{insertJob, "read", "SELECT 2", ""}, results}},
	{name: "label", agent: "analyst-bot", args: args(q+" --label=team:ops --label=trailgate_agent:somebody-else", "SELECT 3 AS n"), calls: []want{{insertJob, "read", "SELECT 3", ""}, results}},
	{name: "request reason", agent: "analyst-bot", args: args("--request_reason=because "+q, "SELECT 4 AS n"), calls: []want{{insertJob, "read", "SELECT 4", ""}, results}},
	{name: "error", agent: "analyst-bot", args: args(q, "SELECT nothing FROM staging.no_such_table"), code: 2, calls: []want{{insertJob, "read", "no_such_table", ""}}, loose: true},
	{name: "ls", agent: "analyst-bot", args: args("ls"), calls: []want{{"bigquery.datasets.list", "metadata_read", "", ""}}},
	{name: "ls dataset", agent: "analyst-bot", args: args("ls staging"), calls: []want{{"bigquery.tables.list", "metadata_read", "", ""}}, loose: true},
	{name: "ls projects", agent: "analyst-bot", args: args("ls -p"), calls: []want{{"bigquery.projects.list", "metadata_read", "", ""}}},
	{name: "ls jobs", agent: "analyst-bot", args: args("ls -j -n 2"), calls: []want{{"bigquery.jobs.list", "metadata_read", "", ""}}, loose: true},
	{name: "show table", agent: "analyst-bot", args: args("show --format=prettyjson staging.imports"), calls: []want{getTable}},
	{name: "show dataset", agent: "analyst-bot", args: args("show --format=prettyjson staging"), calls: []want{getSet}},
	{name: "show job", agent: "analyst-bot", args: args("show --format=json -j nosync-1"), calls: []want{getJob}, loose: true},
	{name: "head", agent: "analyst-bot", args: args("head -n 3 analytics.customers"), calls: []want{{"bigquery.tabledata.list", "read", "", "demo-project.analytics.customers"}, getTable}},
	{name: "mk dataset", agent: "etl-bot", args: args("mk --dataset scratch"), calls: []want{getSet, {"bigquery.datasets.insert", "metadata_change", "", ""}}},
	{name: "mk table", agent: "etl-bot", args: args("mk --table scratch.t a:INTEGER,b:STRING"), calls: []want{getTable, {"bigquery.tables.insert", "metadata_change", "", "demo-project.scratch.t"}}},
	{name: "mk view", agent: "etl-bot", args: args("mk --use_legacy_sql=false", "--view=SELECT id FROM staging.imports", "scratch.v"),
		calls: []want{getTable, {"bigquery.tables.insert", "metadata_change", "SELECT id FROM staging.imports", "demo-project.staging.imports"}}},
	{name: "update table", agent: "etl-bot", args: args("update --description=hello scratch.t"), calls: []want{{"bigquery.tables.patch", "metadata_change", "", "demo-project.scratch.t"}}},
	{name: "cp", agent: "etl-bot", args: args("cp -f staging.copy1 scratch.copy2"), loose: true, calls: []want{getSet, getSet, {insertJob, "write", "", "demo-project.staging.copy1"}}},
	{name: "load resumable", agent: "etl-bot", args: args("load --autodetect scratch.loaded rows.csv"), loose: true,
		calls: []want{{insertJob, "write", "", "demo-project.scratch.loaded"}, {insertJob, "write", "", ""}}},
	{name: "load multipart", agent: "etl-bot", args: args("--enable_resumable_uploads=false load --source_format=NEWLINE_DELIMITED_JSON scratch.loaded2 rows.json a:INTEGER,b:STRING"), loose: true,
		calls: []want{{insertJob, "write", "", "demo-project.scratch.loaded2"}}},
	{name: "load gs", agent: "etl-bot", args: args("load --autodetect scratch.loaded3 gs://demo-bucket/imports-45.csv"), loose: true,
		calls: []want{{insertJob, "write", "", "demo-project.scratch.loaded3"}}},
	{name: "extract", agent: "analyst-bot", args: args("extract staging.copy1 gs://demo-bucket/out.csv"), loose: true,
		calls: []want{{insertJob, "export", "", "demo-project.staging.copy1"}}},
	{name: "insert", agent: "etl-bot", args: args("insert scratch.t rows.json"), calls: []want{{"bigquery.tabledata.insertAll", "write", "", "demo-project.scratch.t"}}, loose: true},
	{name: "cancel", agent: "etl-bot", args: args("--sync=false cancel nosync-1"), loose: true, calls: []want{{"bigquery.jobs.cancel", "metadata_change", "", ""}}},
	{name: "get-iam-policy", agent: "analyst-bot", args: args("get-iam-policy scratch.t"), calls: []want{{"bigquery.tables.getIamPolicy", "metadata_read", "", ""}}},
	{name: "rm table", agent: "etl-bot", args: args("rm -f scratch.copy2"), calls: []want{{"bigquery.tables.delete", "write", "", "demo-project.scratch.copy2"}}},
	{name: "rm dataset", agent: "etl-bot", args: args("rm -r -f scratch"), calls: []want{{"bigquery.datasets.delete", "write", "", ""}}},
}

// TestBQ runs every command against a sandbox, and through the gateway against
// another one that is alike. The outcome must be the same, and the trail must
// hold each call that the second sandbox saw, and no other, in order.
func TestBQ(t *testing.T) {
	needBQ(t)
	r := newRig(t)
	_, direct := newSandbox(t)
	upstream := filepath.Join(r.dir, "upstream.token")
	plain := newSide(t, direct, func(string) string { return upstream })
	gated := newSide(t, "http://"+r.addr, r.tokenFile)
	work := t.TempDir()
	write(t, filepath.Join(work, "rows.csv"), "a,b\n1,one\n2,two\n", 0o600)
	write(t, filepath.Join(work, "rows.json"), `{"a":1,"b":"one"}`+"\n"+`{"a":2,"b":"two"}`+"\n", 0o600)

	type span struct{ from, to int } // of the sandbox's calls
	spans := make([]span, len(cases))
	for i, c := range cases {
		spans[i].from = len(r.box.Calls())
		var wantOut, gotOut string
		var wantCode, gotCode int
		var wg sync.WaitGroup
		wg.Go(func() { wantOut, wantCode = plain.bq(t, c.agent, work, c.args) })
		wg.Go(func() { gotOut, gotCode = gated.bq(t, c.agent, work, c.args) })
		wg.Wait()
		spans[i].to = len(r.box.Calls())
		if wantCode != c.code {
			t.Errorf("%s: without a gateway bq ends with %d:\n%s", c.name, wantCode, wantOut)
		}
		if gotCode != wantCode {
			t.Errorf("%s: bq ends with %d through the gateway, with %d without:\n%s", c.name, gotCode, wantCode, gotOut)
		}
		if g, w := normal(gotOut), normal(wantOut); !c.loose && g != w {
			t.Errorf("%s: through the gateway bq prints\n%s\nand without\n%s", c.name, g, w)
		}
	}

	rows := r.settled()
	byID := map[string]row{}
	var order []string // of intents that went upstream
	discoveries := 0
	for _, w := range rows {
		byID[w.ID] = w
		switch {
		case w.Kind != "intent":
			t.Errorf("bq was refused something: %+v", w)
		case w.Method == "discovery.apis.getRest":
			discoveries++
		default:
			order = append(order, w.ID)
		}
		if w.Outcome.Status == 0 || w.Outcome.End != "complete" {
			t.Errorf("%s %s has no proper outcome: %+v", w.Method, w.ID, w.Outcome)
		}
	}
	// get-iam-policy uses a document that bq brings along.
	if discoveries < len(cases)-1 {
		t.Errorf("%d discoveries of %d commands are in the trail", discoveries, len(cases))
	}

	calls := r.box.Calls()
	var seen []string
	for _, c := range calls {
		seen = append(seen, c.Header.Get("X-Goog-Request-Reason"))
		if c.Principal != gatewaySA {
			t.Errorf("%s %s reached the sandbox as %q", c.Verb, c.Path, c.Principal)
		}
	}
	if !slices.Equal(seen, order) {
		t.Errorf("the sandbox saw %d calls, the trail has %d, or in another order", len(seen), len(order))
	}
	for i, c := range cases {
		checkCase(t, c, calls[spans[i].from:spans[i].to], byID)
	}

	for _, job := range r.box.Jobs() {
		if job.Parent != "" {
			continue
		}
		w, ok := byID[job.Labels["trailgate_entry"]]
		if !ok || w.Principal.Agent != job.Labels["trailgate_agent"] || w.Session != job.Labels["trailgate_session"] {
			t.Errorf("job %s has labels %v, which fit no entry", job.ID, job.Labels)
		}
	}
	labelled := r.search(`flag = "dropped_labels"`)
	if len(labelled) != 1 || labelled[0].Claims.DroppedLabels["trailgate_agent"] != "somebody-else" {
		t.Errorf("the forged label is not on record: %+v", labelled)
	}
	if !slices.ContainsFunc(rows, func(w row) bool {
		return w.Claims.Reason == "because" && len(w.Statements) == 1 && w.Statements[0].Text == "SELECT 4 AS n"
	}) {
		t.Error("the claimed reason is not on record")
	}
	if foreign := r.search(`flag = "foreign_job" AND agent = "analyst-bot"`); len(foreign) != 1 || foreign[0].Job.ID != "nosync-1" || foreign[0].Job.OwnerAgent != "etl-bot" {
		t.Errorf("one agent's look at another's job: %+v", foreign)
	}
	if out := r.must("verify"); !strings.Contains(out, "good") {
		t.Errorf("verify says %s", out)
	}
	raw, _ := exec.Command("grep", "-rl", r.token("etl-bot"), r.data).Output()
	if len(bytes.TrimSpace(raw)) > 0 {
		t.Errorf("a token is at rest in %s", raw)
	}
}

// checkCase holds the calls that one command made to what it must leave.
func checkCase(t *testing.T, c bqCase, calls []sandbox.CallRecord, byID map[string]row) {
	t.Helper()
	var got []row
	for _, call := range calls {
		got = append(got, byID[call.Header.Get("X-Goog-Request-Reason")])
	}
	describe := func() string {
		var b strings.Builder
		for _, w := range got {
			fmt.Fprintf(&b, "  %s %s %v %+v\n", w.Method, w.Class, w.Statements, w.Tables)
		}
		return b.String()
	}
	if len(got) < len(c.calls) {
		t.Errorf("%s: %d calls are in the trail, want %d:\n%s", c.name, len(got), len(c.calls), describe())
		return
	}
	next := 0
	for _, w := range got {
		if w.Principal.Agent != c.agent {
			t.Errorf("%s: %s is put down to %q, it was %s", c.name, w.Method, w.Principal.Agent, c.agent)
		}
		if next < len(c.calls) && fits(w, c.calls[next]) {
			next++
		}
	}
	if next < len(c.calls) {
		t.Errorf("%s: the trail lacks %+v, it has\n%s", c.name, c.calls[next], describe())
	}
}

func fits(w row, x want) bool {
	if w.Method != x.method || w.Class != x.class {
		return false
	}
	if x.statement != "" && (len(w.Statements) == 0 || !strings.Contains(w.Statements[0].Text, x.statement)) {
		return false
	}
	return x.table == "" || slices.Contains(w.Tables.Read, x.table) || slices.Contains(w.Tables.Written, x.table)
}

// TestRun: one command with the whole environment, nothing exported by hand.
func TestRun(t *testing.T) {
	needBQ(t)
	r := newRig(t)
	out, errs, code := r.run("run", "--agent", "etl-bot", "--title", "nightly", "--", "bq", "--format=csv", "query", "--use_legacy_sql=false", "SELECT COUNT(*) AS n FROM staging.imports")
	if code != 0 || !strings.Contains(out, "n\n1250") {
		t.Fatalf("exit %d\n%s\n%s", code, out, errs)
	}
	rows := r.search(`agent = "etl-bot" AND method = "bigquery.jobs.insert"`)
	if len(rows) != 1 || rows[0].Session == "" {
		t.Fatalf("%+v", rows)
	}
	if _, _, code := r.run("run", "--agent", "etl-bot", "--", "sh", "-c", "exit 7"); code != 7 {
		t.Errorf("the command's exit code 7 became %d", code)
	}
	if _, errs, code := r.run("run", "--agent", "nobody", "--", "true"); code == 0 || !strings.Contains(errs, "nobody") {
		t.Errorf("an unknown agent: exit %d, %s", code, errs)
	}
}
