package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/sandbox"
	"github.com/trailgate/trailgate/internal/webhook"
)

// decisions is the policy of these tests.
const decisions = `version: 1
rules:
  - name: own-jobs
    when: method in ["bigquery.jobs.get", "bigquery.jobs.getQueryResults", "bigquery.jobs.cancel"] && job.own
    allow: {}
  - name: scans
    when: class == "read" && statement.contains("bench.") && dry_run.bytes > 5.TB
    deny: "this would process {dry_run.bytes}; the most is 5 TB"
  - name: reads
    when: class in ["read", "metadata_read"]
    allow: {}
  - name: short
    when: class == "write" && statement.contains("short")
    require_approval: {from: ["role:approver"], expires: 1m}
  - name: writes-ask
    when: class == "write"
    require_approval: {from: ["role:approver"], expires: 1h, reason: "{principal.agent} wants to change {tables.written}"}
`

// govern gives a rig rules, and starts it anew.
func (r *rig) govern(more string) {
	r.t.Helper()
	write(r.t, filepath.Join(r.dir, "policy.yaml"), decisions)
	text := strings.Replace(read(r.t, r.config()), "policy: {record_only: true}\n", "policy: {files: [policy.yaml]}\napproval: {wait: 1s}\n"+more, 1)
	r.stop()
	write(r.t, r.config(), text)
	r.start()
}

// waiting is the only call that waits, once it does.
func (r *rig) waiting() client.Approval {
	r.t.Helper()
	var list []client.Approval
	waitFor(r.t, 60*time.Second, func() bool {
		if err := json.Unmarshal([]byte(r.must("approval", "list", "-o", "json")), &list); err != nil {
			r.t.Fatal(err)
		}
		return len(list) == 1
	}, func() string { return fmt.Sprintf("%d calls wait", len(list)) })
	return list[0]
}

func (r *rig) deleted() int64 {
	r.t.Helper()
	n := int64(0)
	for _, j := range r.box.box.Jobs() {
		if strings.HasPrefix(j.Statement, "DELETE") && j.Executed && !j.DryRun {
			n++
		}
	}
	return n
}

const deleteBatch = "DELETE FROM staging.imports WHERE batch_id = 42"

// changer runs one statement with one of the clients, and says what it printed.
type changer struct {
	name string
	run  func(t *testing.T, r *rig, sql string) said
	// affected and denied are what the client prints of a statement that changed 250
	// rows, and of one that was denied.
	affected, denied string
}

func changers(t *testing.T) []changer {
	t.Helper()
	goclient := filepath.Join(t.TempDir(), "goclient")
	build := exec.Command("go", "build", "-o", goclient, ".")
	build.Dir = "goclient"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the Go client: %v\n%s", err, out)
	}
	node := nodePrograms(t)
	library := func(dir string, command ...string) func(*testing.T, *rig, string) said {
		return func(t *testing.T, r *rig, sql string) said {
			args := append([]string{"--config", r.config(), "run", "--agent", etl, "--", "env", "TRAILGATE_STATEMENT=" + sql}, command...)
			cmd := exec.Command(binary, args...)
			cmd.Dir, cmd.Env = dir, cleanEnv(t.TempDir())
			var out, errs output
			cmd.Stdout, cmd.Stderr = &out, &errs
			_ = cmd.Run() // its code is in what it is asked for
			return said{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
		}
	}
	return []changer{
		{"bq", func(t *testing.T, r *rig, sql string) said {
			return gated(t, r).bq(t, etl, []string{"query", "--use_legacy_sql=false", sql})
		}, "Number of affected rows: 250", "was denied by"},
		{"go", library(".", goclient), `"value":250`, `accessDenied`},
		{"node", library(node, "node", "client.mjs"), `"value":250`, `denied`},
	}
}

// TestApproval: a change waits, is decided on the command line by somebody else, and
// runs once or not at all; each client sees a job as it knows them, and the trail shows
// the whole story.
func TestApproval(t *testing.T) {
	needBQ(t)
	need(t, "node", "install Node.js 20 or later (https://nodejs.org)")
	for _, ask := range changers(t) {
		t.Run(ask.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.govern("")
			got := make(chan said, 1)
			start := func(sql string) {
				go func() { got <- ask.run(t, r, sql) }()
			}

			start(deleteBatch)
			a := r.waiting()
			if a.Statement != deleteBatch || a.Principal.Agent != etl || a.Rule != "writes-ask" || !slices.Contains(a.Tables.Written, "demo-project.staging.imports") || a.Facts.Bytes == 0 {
				t.Errorf("what the approver sees: %+v", a)
			}
			if n := r.deleted(); n != 0 {
				t.Fatalf("%d ran before anybody said yes", n)
			}
			r.must("approval", "approve", a.ID, "--reason", "batch 42 is wrong")
			if out := <-got; out.Code != 0 || !strings.Contains(out.Stdout+out.Stderr, ask.affected) {
				t.Errorf("approved: %+v", out)
			}
			if n := r.deleted(); n != 1 {
				t.Errorf("it ran %d times", n)
			}
			r.checkStory(t, a.ID)

			start(strings.Replace(deleteBatch, "42", "43", 1))
			a = r.waiting()
			r.must("approval", "deny", a.ID, "--reason", "batch 43 is fine")
			out := <-got
			if text := out.Stdout + out.Stderr; !strings.Contains(text, "batch 43 is fine") || !strings.Contains(text, ask.denied) || strings.Contains(text, ask.affected) {
				t.Errorf("denied: %+v", out)
			}
			if n := r.deleted(); n != 1 {
				t.Errorf("what was denied ran: %d", n)
			}

			// What was approved is not there any more when it would go on.
			r.box.do(t, "POST", base+"/queries", `{"query":"CREATE TABLE staging.short_lived AS SELECT 1 AS x","useLegacySql":false}`)
			start("DELETE FROM staging.short_lived WHERE x = 1")
			a = r.waiting()
			r.box.do(t, "DELETE", base+"/datasets/staging/tables/short_lived", "")
			r.must("approval", "approve", a.ID)
			out = <-got
			if text := out.Stdout + out.Stderr; !strings.Contains(strings.Join(strings.Fields(text), " "), "Not found") || strings.Contains(text, ask.affected) {
				t.Errorf("changed after the approval: %+v", out)
			}
			if n := r.deleted(); n != 1 {
				t.Errorf("what had changed ran: %d", n)
			}
			if out := r.must("verify"); !strings.HasPrefix(out, "good: ") {
				t.Errorf("verify says %s", out)
			}
		})
	}
}

// do is a call past the gateway, as whoever owns the project.
func (u *upstream) do(t *testing.T, verb, path, body string) {
	t.Helper()
	req, err := http.NewRequest(verb, u.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+upstreamToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if raw, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %d %v %s", verb, path, resp.StatusCode, err, raw)
	}
}

// checkStory: intent → held → approved by whom → intent → outcome, all under one
// approval.
func (r *rig) checkStory(t *testing.T, id string) {
	t.Helper()
	r.calls()
	var held, ran []index.Row
	for _, w := range r.search(`approval = "` + id + `"`) {
		switch w.Entry.Kind {
		case trailgate.KindHeld:
			held = append(held, w)
		case trailgate.KindIntent:
			ran = append(ran, w)
		}
	}
	if len(held) != 1 || held[0].State != index.StateHeld || held[0].Entry.Decision.Effect != "require_approval" {
		t.Fatalf("held: %+v", held)
	}
	if len(ran) != 1 || ran[0].State != index.StateDone || ran[0].Entry.IntentID != held[0].Entry.ID || len(ran[0].Entry.Decision.Approvers) != 1 ||
		ran[0].Entry.Decision.Approvers[0] == etl || ran[0].Entry.Principal.Agent != etl {
		t.Fatalf("ran: %+v", ran)
	}
	var shown client.Call
	if err := json.Unmarshal([]byte(r.must("show", held[0].Entry.ID, "-o", "json")), &shown); err != nil {
		t.Fatal(err)
	}
	kinds := ""
	for _, e := range shown.Stages {
		kinds += string(e.Kind) + " "
	}
	if kinds != "held outcome approved " {
		t.Errorf("the held call's stages: %s", kinds)
	}
}

// TestApprovalChanged: what was approved is what may run, nothing else and not twice.
func TestApprovalChanged(t *testing.T) {
	r := newRig(t)
	r.govern("")
	query := func(sql string) (int, string) { return r.queryOnce(t, etl, sql) }
	status, body := query(deleteBatch)
	a := r.waiting()
	if status != 403 || !strings.Contains(body, a.ID) {
		t.Fatalf("%d %s", status, body)
	}
	r.must("approval", "approve", a.ID)
	if status, body = query("DELETE FROM staging.imports WHERE true"); status != 403 || !strings.Contains(body, "waits for approval") {
		t.Errorf("another statement: %d %s", status, body)
	}
	r.must("approval", "deny", r.waiting().ID, "--reason", "no")
	if status, body = query(deleteBatch); status != 200 {
		t.Errorf("the very same: %d %s", status, body)
	}
	if status, _ = query(deleteBatch); status != 403 {
		t.Errorf("twice: %d", status)
	}
	if n := r.deleted(); n != 1 {
		t.Errorf("it ran %d times", n)
	}
}

// queryOnce is a jobs.query, without a client's retries.
func (r *rig) queryOnce(t *testing.T, agent, sql string) (int, string) {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"query": sql, "useLegacySql": false})
	if err != nil {
		t.Fatal(err)
	}
	got := r.exchange(message(r.token(agent), "POST", base+"/queries", string(raw), jsonType))
	if len(got) != 1 {
		t.Fatalf("%d answers", len(got))
	}
	return got[0].status, got[0].body
}

// TestApprovalExpires: nobody decides in time, and the job ends; a restart in between
// changes nothing.
func TestApprovalExpires(t *testing.T) {
	needBQ(t)
	t.Parallel()
	r := newRig(t)
	r.govern("")
	got := make(chan said, 1)
	go func() {
		got <- gated(t, r).bq(t, etl, []string{"query", "--use_legacy_sql=false", deleteBatch + " -- short"})
	}()
	a := r.waiting()
	r.stop()
	r.start()
	// Whether its minute is over by now is the machine's business.
	var shown client.ApprovalDetail
	err := json.Unmarshal([]byte(r.must("approval", "show", a.ID, "-o", "json")), &shown)
	if again := shown.Approval; err != nil || again.ID != a.ID || again.CallSHA256 != a.CallSHA256 {
		t.Errorf("after a restart the question is %+v, %v", again, err)
	}
	out := <-got
	if !strings.Contains(out.Stdout+out.Stderr, "was not decided, or not used, in time") || out.Code == 0 {
		t.Errorf("%+v", out)
	}
	waitFor(t, 30*time.Second, func() bool { return len(r.search(`kind = "expired"`)) == 1 }, func() string { return "the trail does not say that it expired" })
	if n := r.deleted(); n != 0 {
		t.Errorf("%d ran", n)
	}
}

// TestApprovalAfterRestart: what was approved while the gateway was down to its client
// goes on when the client asks.
func TestApprovalAfterRestart(t *testing.T) {
	needBQ(t)
	t.Parallel()
	r := newRig(t)
	r.govern("")
	got := make(chan said, 1)
	go func() {
		got <- gated(t, r).bq(t, etl, []string{"query", "--use_legacy_sql=false", deleteBatch})
	}()
	a := r.waiting()
	r.stop()
	r.start()
	r.must("approval", "approve", a.ID)
	if out := <-got; out.Code != 0 || !strings.Contains(out.Stdout, "Number of affected rows: 250") {
		t.Errorf("%+v", out)
	}
	if n := r.deleted(); n != 1 {
		t.Errorf("it ran %d times", n)
	}
}

// TestTooLargeScan: the real bq is told how much it would have been.
func TestTooLargeScan(t *testing.T) {
	needBQ(t)
	t.Parallel()
	r := newRig(t)
	r.govern("")
	out := gated(t, r).bq(t, analyst, []string{"query", "--use_legacy_sql=false", "SELECT COUNT(note) FROM bench.rows_70000000000"})
	if text := strings.Join(strings.Fields(out.Stdout+out.Stderr), " "); out.Code == 0 || !strings.Contains(text, "this would process 5.25 TB; the most is 5 TB") {
		t.Errorf("%+v", out)
	}
	for _, j := range r.box.box.Jobs() {
		if strings.Contains(j.Statement, "bench.") && !j.DryRun {
			t.Errorf("it ran: %+v", j)
		}
	}
}

// TestBudget: an agent that has used its budget is refused until the period turns;
// others are not, and a restart does not give it more.
func TestBudget(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.govern("budgets:\n  - {name: daily, per: agent, limit: 40MiB, period: day, zone: " + noonZone() + "}\n")
	const sql = "SELECT COUNT(*) AS n, %d AS i FROM staging.imports" // 10 MiB each, the least that is billed
	ran := 0
	var status int
	var body string
	for i := range 6 {
		if status, body = r.queryOnce(t, analyst, fmt.Sprintf(sql, i)); status == 200 {
			ran++
		}
	}
	if ran != 4 || status != 403 || !strings.Contains(body, "budget daily has 0 B of 40.00 MiB left until ") {
		t.Fatalf("%d ran; %d %s", ran, status, body)
	}
	if status, body = r.queryOnce(t, etl, fmt.Sprintf(sql, 9)); status != 200 {
		t.Errorf("another agent: %d %s", status, body)
	}
	r.stop()
	r.start()
	if status, body = r.queryOnce(t, analyst, fmt.Sprintf(sql, 10)); status != 403 {
		t.Errorf("after a restart: %d %s", status, body)
	}
	if out := r.must("policy", "budgets"); !strings.Contains(out, "analyst-bot  40.00 MiB  40.00 MiB") {
		t.Errorf("%s", out)
	}
	var rows []index.Row
	waitFor(t, 30*time.Second, func() bool {
		rows = r.search(`rule = "builtin/budget" AND state = "denied"`)
		return len(rows) == 3
	}, func() string { return fmt.Sprintf("%d refusals are found", len(rows)) })
}

// noonZone is one in which it is about noon, so that no day turns during a test.
func noonZone() string {
	switch ahead := 12 - time.Now().UTC().Hour(); {
	case ahead > 0: // the names of these zones have the sign of POSIX
		return fmt.Sprintf("Etc/GMT-%d", ahead)
	case ahead < 0:
		return fmt.Sprintf("Etc/GMT+%d", -ahead)
	}
	return "Etc/GMT"
}

// TestBudgetBills: what is billed counts, however the agent goes about not being told: it
// reads the result of a job without asking about the job, leaves the bill out of the
// answer, has a script fail behind its last costly statement.
func TestBudgetBills(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.govern("budgets:\n  - {name: daily, per: agent, limit: 1GiB, period: day, zone: " + noonZone() + "}\n")
	send := func(verb, path, body string, want int) {
		t.Helper()
		headers := []string{}
		if body != "" {
			headers = append(headers, jsonType)
		}
		got := r.exchange(message(r.token(analyst), verb, base+path, body, headers...))
		if len(got) != 1 || got[0].status != want {
			t.Fatalf("%s %s: %+v", verb, path, got)
		}
	}
	used := func(want string) {
		t.Helper()
		var out string
		waitFor(t, 60*time.Second, func() bool {
			out = strings.Join(strings.Fields(r.must("policy", "budgets", "-o", "csv")), " ")
			return strings.Contains(out, "daily,analyst-bot,1.00 GiB,"+want+",0 B,")
		}, func() string { return "the budgets stand at " + out + ", want used " + want })
	}
	send("POST", "/jobs", `{"jobReference":{"projectId":"demo-project","jobId":"slow-1"},"configuration":{"labels":{"sandbox_delay_ms":"500"},"query":{"query":"SELECT COUNT(*) AS n, 1 AS i FROM staging.imports","useLegacySql":false}}}`, 200)
	send("GET", "/queries/slow-1?timeoutMs=60000&maxResults=100", "", 200)
	used("10.00 MiB")
	send("POST", "/queries?fields=jobComplete", `{"query":"SELECT COUNT(*) AS n, 2 AS i FROM staging.imports","useLegacySql":false}`, 200)
	used("20.00 MiB")
	send("POST", "/queries", `{"query":"SELECT COUNT(*) AS n, 3 AS i FROM staging.imports; SELECT ERROR('on purpose');","useLegacySql":false}`, 400)
	used("30.00 MiB")
}

// TestSuspend: the kill switch cuts what an agent has running, cancels its job, and
// holds over a restart.
func TestSuspend(t *testing.T) {
	needBQ(t)
	t.Parallel()
	r := newRig(t)
	r.govern("")
	got := make(chan said, 1)
	go func() {
		got <- gated(t, r).bq(t, analyst, []string{"query", "--use_legacy_sql=false", "--label=sandbox_delay_ms:120000", "SELECT COUNT(*) FROM staging.imports"})
	}()
	var running sandbox.JobRecord
	waitFor(t, 60*time.Second, func() bool {
		for _, j := range r.box.box.Jobs() {
			if j.Labels["sandbox_delay_ms"] != "" && j.State != "DONE" && !j.DryRun {
				running = j
				return true
			}
		}
		return false
	}, func() string { return "the query does not run" })
	_, errs, code := r.run("agent", "suspend", analyst, "--reason", "incident 4711", "--cancel-jobs")
	if code != 0 || !strings.Contains(errs, "suspended agent analyst-bot") || !strings.Contains(errs, running.ID+" of analyst-bot: cancelled") {
		t.Errorf("%d %s", code, errs)
	}
	if out := <-got; out.Code == 0 || !strings.Contains(out.Stdout+out.Stderr, "incident 4711") {
		t.Errorf("bq: %+v", out)
	}
	waitFor(t, 30*time.Second, func() bool {
		for _, j := range r.box.box.Jobs() {
			if j.ID == running.ID && j.State == "DONE" && j.ErrorReason == "stopped" && !j.Executed {
				return true
			}
		}
		return false
	}, func() string { return "the job runs on" })
	r.stop()
	r.start()
	if status, body := r.queryOnce(t, analyst, "SELECT 1"); status != 403 || !strings.Contains(body, "agent analyst-bot may make no calls for now: incident 4711") {
		t.Errorf("after a restart: %d %s", status, body)
	}
	if status, body := r.queryOnce(t, etl, "SELECT 1"); status != 200 {
		t.Errorf("another agent: %d %s", status, body)
	}
	r.must("agent", "resume", analyst)
	if status, body := r.queryOnce(t, analyst, "SELECT 1"); status != 200 {
		t.Errorf("resumed: %d %s", status, body)
	}
}

// TestSuspendEveryJob: also the jobs that the agent does not know of, or that the gateway
// began before it was restarted, are cancelled; another's are not.
func TestSuspendEveryJob(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.govern("")
	running := func(mark string) (ids []string) {
		for _, j := range r.box.box.Jobs() {
			if strings.Contains(j.Statement, mark) && j.State != "DONE" && !j.DryRun {
				ids = append(ids, j.ID)
			}
		}
		return ids
	}
	begun := func(mark string) string {
		t.Helper()
		waitFor(t, 60*time.Second, func() bool { return len(running(mark)) == 1 }, func() string { return "no job of " + mark + " runs" })
		return running(mark)[0]
	}
	insert := func(agent, mark string) {
		t.Helper()
		body := `{"configuration":{"labels":{"sandbox_delay_ms":"600000"},"query":{"query":"SELECT COUNT(*) AS ` + mark + ` FROM staging.imports","useLegacySql":false}}}`
		if got := r.exchange(message(r.token(agent), "POST", base+"/jobs", body, jsonType)); len(got) != 1 || got[0].status != 200 {
			t.Fatalf("%+v", got)
		}
	}
	insert(analyst, "before")
	insert(etl, "other")
	before, other := begun("before"), begun("other")
	r.stop()
	r.start()
	answer := make(chan []answered, 1)
	token := r.token(analyst)
	go func() {
		body := `{"query":"SELECT COUNT(*) AS unheard FROM staging.imports","useLegacySql":false,"timeoutMs":600000,"labels":{"sandbox_delay_ms":"600000"}}`
		answer <- r.exchange(message(token, "POST", base+"/queries", body, jsonType))
	}()
	unheard := begun("unheard")
	_, errs, code := r.run("agent", "suspend", analyst, "--cancel-jobs")
	if code != 0 || !strings.Contains(errs, before+" of analyst-bot: cancelled") || !strings.Contains(errs, unheard+" of analyst-bot: cancelled") || strings.Contains(errs, other) {
		t.Errorf("%d %s (before %s, unheard %s)", code, errs, before, unheard)
	}
	if got := <-answer; len(got) != 1 || got[0].status != 403 {
		t.Errorf("%+v", got)
	}
	waitFor(t, 60*time.Second, func() bool { return len(running("before"))+len(running("unheard")) == 0 }, func() string { return "jobs run on" })
	if len(running("other")) != 1 {
		t.Error("another agent's job was cancelled")
	}
}

// TestWebhook: who is to decide is told, signed, at once, and that they were is on
// record.
func TestWebhook(t *testing.T) {
	t.Parallel()
	key := []byte("0123456789abcdefghijklmnopqrstuv")
	type told struct {
		Type string
		Data struct{ Subject, Title, Statement string }
	}
	got := make(chan told, 10)
	first := true
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err == nil {
			err = webhook.Verify(key, req.Header, body, time.Now())
		}
		var n told
		if err != nil || json.Unmarshal(body, &n) != nil {
			t.Errorf("%v: %s", err, body)
			return
		}
		if first { // it is busy at first
			first = false
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		got <- n
	}))
	t.Cleanup(receiver.Close)
	r := newRig(t)
	write(t, filepath.Join(r.dir, "hook.secret"), "whsec_"+base64.StdEncoding.EncodeToString(key)+"\n")
	r.govern("")
	text := strings.Replace(read(t, r.config()), "approval: {wait: 1s}", "approval: {wait: 1s, webhooks: [{name: ops, url: "+receiver.URL+", secret_file: hook.secret, format: json}]}", 1)
	r.stop()
	write(t, r.config(), text)
	r.start()
	r.queryOnce(t, etl, deleteBatch)
	next := func() told {
		t.Helper()
		select {
		case n := <-got:
			return n
		case <-time.After(60 * time.Second):
			t.Fatal("nobody is told")
			return told{}
		}
	}
	a := r.waiting()
	if n := next(); n.Type != "approval.held" || n.Data.Subject != a.ID || n.Data.Statement != deleteBatch {
		t.Errorf("%+v", n)
	}
	r.must("approval", "deny", a.ID, "--reason", "no")
	if n := next(); n.Type != "approval.denied" || n.Data.Subject != a.ID {
		t.Errorf("%+v", n)
	}
	var rows []index.Row
	waitFor(t, 30*time.Second, func() bool {
		rows = r.search(`action = "webhook.deliver"`)
		return len(rows) == 2
	}, func() string { return fmt.Sprintf("%d deliveries are on record", len(rows)) })
	if d := rows[0].Entry.Event; d.Target != a.ID || d.Detail["attempts"] != "2" || d.Detail["status"] != "200" || d.Detail["error"] != "" {
		t.Errorf("%+v", d)
	}
}

// TestApprovalKilled: a gateway that is killed at any moment around a release carries
// the call out once or not at all, and the trail says which.
func TestApprovalKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.govern("")
	executed := func(sql string) int {
		n := 0
		for _, j := range r.box.box.Jobs() {
			if j.Statement == sql && j.Executed && !j.DryRun {
				n++
			}
		}
		return n
	}
	ask := func(verb, path, body string) answered {
		t.Helper()
		headers := []string{}
		if body != "" {
			headers = append(headers, jsonType)
		}
		got := r.exchange(message(r.token(etl), verb, base+path, body, headers...))
		if len(got) != 1 {
			t.Fatalf("%d answers", len(got))
		}
		return got[0]
	}
	ran, not := 0, 0
	for i := range 10 {
		sql := fmt.Sprintf("DELETE FROM staging.imports WHERE id = %d", i+1)
		id := fmt.Sprintf("kill-%d", i)
		raw, err := json.Marshal(map[string]any{
			"jobReference":  map[string]string{"projectId": "demo-project", "jobId": id},
			"configuration": map[string]any{"query": map[string]any{"query": sql, "useLegacySql": false}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if a := ask("POST", "/jobs", string(raw)); a.status != 200 || !strings.Contains(a.body, "PENDING") {
			t.Fatalf("%d %s", a.status, a.body)
		}
		a := r.waiting()
		voted := make(chan struct{})
		go func() {
			defer close(voted)
			r.run("approval", "approve", a.ID) // it may be cut off
		}()
		time.Sleep(time.Duration(i*i) * 2 * time.Millisecond)
		if err := r.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = r.cmd.Wait() // it was killed
		r.cmd = nil
		<-voted
		r.start()
		// Who asked goes on asking; where the vote was lost it is given again.
		var last answered
		waitFor(t, 60*time.Second, func() bool {
			if last = ask("GET", "/jobs/"+id, ""); strings.Contains(last.body, "PENDING") {
				r.run("approval", "approve", a.ID)
			}
			return strings.Contains(last.body, `"DONE"`) || last.status == 404
		}, func() string { return fmt.Sprintf("the job ends nowhere: %d %s", last.status, last.body) })
		n := executed(sql)
		var intents []index.Row
		waitFor(t, 60*time.Second, func() bool {
			intents = r.search(`approval = "` + a.ID + `" AND kind = "intent"`)
			return len(intents) > 0 && intents[0].State != index.StateOpen && intents[0].State != index.StateIndeterminate
		}, func() string {
			return fmt.Sprintf("the trail does not tell what became of %s: %d intents", a.ID, len(intents))
		})
		switch {
		case len(intents) != 1 || n > 1:
			t.Errorf("%d intents, executed %d times", len(intents), n)
		case n == 1:
			ran++
		case last.status != 404 || intents[0].State != index.StateSettled:
			t.Errorf("not executed, and the trail says %s: %d %s", intents[0].State, last.status, last.body)
		default:
			not++
		}
	}
	t.Logf("%d ran once, %d not at all", ran, not)
	if out := r.must("verify"); !strings.HasPrefix(out, "good: ") {
		t.Errorf("verify says %s", out)
	}
}
