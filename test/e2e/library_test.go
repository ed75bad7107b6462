package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
)

// program is a small program that uses one of Google's libraries.
type program struct {
	command []string
	dir     string
	agents  []string // what it calls itself, in parts
}

// result is what a step printed.
type result struct {
	Step  string
	Value json.RawMessage
	Error *struct {
		Code            int
		Reason, Message string
	}
}

const refusedProject = "Trailgate: no connection is configured for project other-project; ask whoever runs the gateway to add it under 'connections'"

// TestGoClient drives Google's own Go library.
func TestGoClient(t *testing.T) {
	endToEnd(t)
	bin := filepath.Join(t.TempDir(), "goclient")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Dir = "goclient"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the Go client: %v\n%s", err, out)
	}
	runProgram(t, program{command: []string{bin}, agents: []string{"gcloud-golang-bigquery"}})
}

// TestNodeClient drives npm's @google-cloud/bigquery.
func TestNodeClient(t *testing.T) {
	runProgram(t, program{command: []string{"node", "client.mjs"}, dir: nodePrograms(t), agents: []string{"gcloud-node-bigquery", "node-fetch"}})
}

// nodePrograms is a directory of the test's own with the programs of directory node, and
// npm's client for them.
func nodePrograms(t *testing.T) string {
	t.Helper()
	need(t, "node", "install Node.js 20 or later (https://nodejs.org)")
	need(t, "npm", "install npm")
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", ".npmrc", "client.mjs", "asagent.mjs"} {
		write(t, filepath.Join(dir, name), read(t, filepath.Join("node", name)))
	}
	ci := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--no-update-notifier")
	ci.Dir = dir
	if out, err := ci.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}

// fileClient is a program that knows nothing but a credential file and the environment
// that "agent credential" printed.
type fileClient struct {
	name  string
	start func(dir string, env []string) *exec.Cmd // with the rig's directory
}

// fileClients are those beside bq and the Go client. Python's google-auth is taken from
// where bq has it, since it comes with no package of its own here.
func fileClients(t *testing.T) []fileClient {
	t.Helper()
	node := nodePrograms(t)
	need(t, "python3", "install Python 3.9 or later")
	bq, err := exec.LookPath("bq")
	if err == nil {
		bq, err = filepath.EvalSymlinks(bq)
	}
	library := filepath.Join(filepath.Dir(filepath.Dir(bq)), "lib", "third_party")
	if err == nil {
		_, err = os.Stat(filepath.Join(library, "google", "auth"))
	}
	if err != nil {
		t.Fatalf("google-auth comes with the Google Cloud SDK, beside bq, and is not there: %v", err)
	}
	script, err := filepath.Abs(filepath.Join("python", "asagent.py"))
	if err != nil {
		t.Fatal(err)
	}
	return []fileClient{
		{"node", func(_ string, env []string) *exec.Cmd {
			cmd := exec.Command("node", "asagent.mjs")
			cmd.Dir, cmd.Env = node, env
			return cmd
		}},
		{"python", func(dir string, env []string) *exec.Cmd {
			cmd := exec.Command("python3", script)
			cmd.Env = append(slices.Clone(env), "PYTHONPATH="+library, "PYTHONDONTWRITEBYTECODE=1", "REQUESTS_CA_BUNDLE="+filepath.Join(dir, "ca.pem"))
			return cmd
		}},
	}
}

// runProgram runs a program against a sandbox, and through "trailgate run"
// against another one that is alike, and compares what its steps gave and what
// the trail says of them.
func runProgram(t *testing.T, p program) {
	r := newRig(t)
	alone := exec.Command(p.command[0], p.command[1:]...)
	alone.Dir = p.dir
	alone.Env = append(cleanEnv(t.TempDir()), "TRAILGATE_GATEWAY="+newUpstream(t).url, "TRAILGATE_TOKEN="+upstreamToken, "GOOGLE_CLOUD_PROJECT=demo-project")
	plain := steps(t, alone)

	args := append([]string{"--config", r.config(), "run", "--agent", etl, "--"}, p.command...)
	through := exec.Command(binary, args...)
	through.Dir, through.Env = p.dir, cleanEnv(t.TempDir())
	gated := steps(t, through)

	last := len(gated) - 1
	if last < 1 || gated[last].Step != "denied" {
		t.Fatalf("the program took the steps %+v", gated)
	}
	if s := gated[last-1]; s.Step != "bad token" || s.Error == nil || s.Error.Code != 401 || !strings.Contains(s.Error.Message, "trailgate agent token") {
		t.Errorf("the gateway's own 401 came out as %+v", s.Error)
	}
	if diff := cmp.Diff(plain[:last-1], gated[:last-1]); diff != "" {
		t.Errorf("the library does not give (-) without a gateway what it gives (+) through it:\n%s", diff)
	}
	if e := gated[last].Error; e == nil || e.Code != 403 || e.Reason != "accessDenied" || e.Message != refusedProject {
		t.Errorf("the gateway's own 403 came out as %+v", e)
	}
	checkSteps(t, gated)

	rows := r.calls()
	r.checkArrivals(rows)
	r.checkLabels(rows)
	checkLibrary(t, p, rows)
	if out := r.must("verify"); !strings.HasPrefix(out, "good: ") {
		t.Errorf("verify says %s", out)
	}
}

func steps(t *testing.T, cmd *exec.Cmd) []result {
	t.Helper()
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	var list []result
	for line := range strings.Lines(string(out)) {
		var s result
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("%s printed %q: %v", cmd.Args[0], line, err)
		}
		list = append(list, s)
	}
	return list
}

// checkSteps knows what the demo's data must give, so that two wrong answers
// that agree don't pass.
func checkSteps(t *testing.T, list []result) {
	t.Helper()
	want := map[string]string{
		"dml": "250", "destination": "250", "load multipart": "2", "insert all": "2", "pages": "1000", "dry run": "true",
		"load resumable": "6000", "load stream": "6000", "result pages": "1000", "datasets": `["analytics","finance","staging"]`,
	}
	for _, s := range list {
		if w, ok := want[s.Step]; ok && string(s.Value) != w {
			t.Errorf("%s gave %s, want %s (%+v)", s.Step, s.Value, w, s.Error)
		}
		switch s.Step {
		case "error", "no such table", "bad token", "denied":
			if s.Error == nil {
				t.Errorf("%s gave %s and no error", s.Step, s.Value)
			}
		default:
			if s.Error != nil {
				t.Errorf("%s: %+v", s.Step, s.Error)
			}
		}
	}
}

// checkLibrary looks for the program's steps in the trail.
func checkLibrary(t *testing.T, p program, rows []index.Row) {
	t.Helper()
	session := rows[0].Entry.Session
	methods := map[string]int{}
	for _, w := range rows {
		e := w.Entry
		methods[string(e.Kind)+" "+strings.TrimPrefix(e.Method, "bigquery.")+" "+string(e.Class)]++
		if e.Principal.Agent != etl || e.Session != session || session == "" {
			t.Errorf("%s is put down to %+v in session %q", e.Method, e.Principal, e.Session)
		}
		if c := e.Claims; c == nil || !slices.ContainsFunc(p.agents, func(a string) bool { return strings.Contains(c.UserAgent+" "+c.APIClient, a) }) {
			t.Errorf("%s came from %+v", e.Method, c)
		}
	}
	t.Logf("calls: %v", methods)
	find := func(what string, f func(*trailgate.Entry) bool) {
		t.Helper()
		if !slices.ContainsFunc(rows, func(w index.Row) bool { return f(w.Entry) }) {
			t.Errorf("the trail has no %s", what)
		}
	}
	wrote := func(e *trailgate.Entry, table string) bool {
		return e.Class == trailgate.ClassWrite && e.Tables != nil && slices.Contains(e.Tables.Written, "demo-project."+table)
	}
	states := func(e *trailgate.Entry, text string) bool {
		return len(e.Statements) == 1 && e.Statements[0].Text == text
	}
	find("DELETE", func(e *trailgate.Entry) bool {
		return wrote(e, "staging.imports") && states(e, "DELETE FROM staging.imports WHERE batch_id = 42")
	})
	find("parameter", func(e *trailgate.Entry) bool {
		return states(e, "SELECT name FROM analytics.customers WHERE customer_id = @id") && strings.Contains(e.Statements[0].Parameters, `"id"`)
	})
	find("destination", func(e *trailgate.Entry) bool { return wrote(e, "staging.copy1") && len(e.Statements) == 1 })
	find("small load", func(e *trailgate.Entry) bool { return wrote(e, "staging.small") && e.Outcome.RowsAffected == 2 })
	find("large load", func(e *trailgate.Entry) bool {
		return wrote(e, "staging.large") && e.Outcome.RowsAffected == 6000 && e.Outcome.RequestBytes > 100_000
	})
	find("insertAll", func(e *trailgate.Entry) bool {
		return wrote(e, "staging.small") && e.Method == "bigquery.tabledata.insertAll"
	})
	find("query that fails", func(e *trailgate.Entry) bool {
		return states(e, "SELECT nonsense FROM staging.imports") && e.Outcome.ErrorReason == "invalidQuery"
	})
	find("table that is missing", func(e *trailgate.Entry) bool {
		return e.Method == "bigquery.tables.get" && e.Outcome.Status == 404
	})
	find("denial", func(e *trailgate.Entry) bool {
		return e.Kind == trailgate.KindDenied && e.Project == "other-project" && e.Decision.Rule == "builtin/connections" && e.Outcome.Status == 403
	})
	var pages, results int64
	for _, w := range rows {
		if w.Entry.Method == "bigquery.tabledata.list" {
			if w.Entry.Outcome.Rows > 300 {
				t.Errorf("a page of %d rows", w.Entry.Outcome.Rows)
			}
			pages += w.Entry.Outcome.Rows
		}
		if w.Entry.Method == "bigquery.jobs.getQueryResults" && w.Entry.Outcome.TotalRows == 1000 {
			if w.Entry.Outcome.Rows > 150 {
				t.Errorf("a page of %d result rows", w.Entry.Outcome.Rows)
			}
			results += w.Entry.Outcome.Rows
		}
	}
	if pages != 1000 || results != 1000 {
		t.Errorf("the pages in the trail have %d and %d rows together, want 1000 each", pages, results)
	}
}
