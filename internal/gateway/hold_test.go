package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/approval"
	"github.com/trailgate/trailgate/internal/gateway"
	"github.com/trailgate/trailgate/internal/policy"
)

const asksForWrites = `version: 1
rules:
  - name: too-large
    when: class == "read" && statement.contains("huge") && dry_run.bytes > 2.TB
    deny: "this would process {dry_run.bytes}"
  - name: reads
    when: class in ["read", "metadata_read"]
    allow: {maximum_bytes_billed: 1TB, job_timeout: 30m}
  - name: cancel-own
    when: method == "bigquery.jobs.cancel" && job.own
    allow: {}
  - name: ask-for-writes
    when: class in ["write", "metadata_change"]
    require_approval: {from: ["human:ada@example.com", "role:approver"], approvals: 1, expires: 1h, reason: "{principal.agent} wants to write"}
`

func rules(t testing.TB, text string) *policy.Set {
	t.Helper()
	set, err := policy.Load([]policy.File{{Name: "test", Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// bigQuery is as much of BigQuery as a held call meets: dry runs and jobs.
type bigQuery struct {
	mu    sync.Mutex
	bytes int64
	type_ string
	tabs  []string
	jobs  map[string]string // id to statement, of those that really ran
	fail  int               // status of the next real insert
}

func (b *bigQuery) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	var body struct {
		JobReference  struct{ JobID string }
		Configuration struct {
			DryRun bool
			Query  struct{ Query string }
		}
		Query string
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	last := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	switch {
	case r.Method == http.MethodPost && body.Configuration.DryRun:
		tables := []any{}
		for _, name := range b.tabs {
			p := strings.Split(name, ".")
			tables = append(tables, map[string]string{"projectId": p[0], "datasetId": p[1], "tableId": p[2]})
		}
		reply(w, map[string]any{
			"jobReference": map[string]string{"projectId": "demo-project", "location": "US"}, "status": map[string]string{"state": "DONE"},
			"statistics": map[string]any{"totalBytesProcessed": fmt.Sprint(b.bytes), "query": map[string]any{"statementType": b.type_, "totalBytesProcessed": fmt.Sprint(b.bytes), "referencedTables": tables}},
		})
	case r.Method == http.MethodPost && last == "jobs" && b.fail != 0:
		w.WriteHeader(b.fail)
		b.fail = 0
		reply(w, map[string]any{"error": map[string]any{"code": 403, "message": "no such right", "errors": []any{map[string]string{"reason": "accessDenied", "message": "no such right"}}}})
	case r.Method == http.MethodPost && last == "jobs":
		b.jobs[body.JobReference.JobID] = body.Configuration.Query.Query
		reply(w, b.job(body.JobReference.JobID))
	case r.Method == http.MethodPost && last == "queries":
		id := fmt.Sprint("job_", len(b.jobs))
		b.jobs[id] = body.Query
		reply(w, map[string]any{"jobComplete": true, "jobReference": map[string]string{"projectId": "demo-project", "jobId": id}, "totalRows": "0"})
	case strings.Contains(r.URL.Path, "/jobs/"), strings.Contains(r.URL.Path, "/queries/"):
		if b.jobs[last] == "" {
			w.WriteHeader(404)
			reply(w, map[string]any{"error": map[string]any{"code": 404, "message": "Not found: Job " + last, "errors": []any{map[string]string{"reason": "notFound"}}}})
			return
		}
		reply(w, b.job(last))
	default:
		reply(w, map[string]any{})
	}
}

func (b *bigQuery) job(id string) map[string]any {
	return map[string]any{
		"kind": "bigquery#job", "jobComplete": true, "jobReference": map[string]string{"projectId": "demo-project", "jobId": id, "location": "US"},
		"status": map[string]string{"state": "DONE"}, "statistics": map[string]any{"query": map[string]any{"statementType": "DELETE"}},
	}
}

func reply(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

func (b *bigQuery) ran() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for _, q := range b.jobs {
		all = append(all, q)
	}
	slices.Sort(all)
	return all
}

func (b *bigQuery) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

type heldRig struct {
	*rig
	bq    *bigQuery
	store *approval.Store
	dir   string
}

func newHeldRig(t *testing.T, change ...func(*gateway.Config)) *heldRig {
	t.Helper()
	h := &heldRig{bq: &bigQuery{type_: "DELETE", bytes: 1000, tabs: []string{"demo-project.d.t"}, jobs: map[string]string{}}, dir: filepath.Join(t.TempDir(), "approvals")}
	var err error
	h.store, err = approval.Open(t.Context(), h.dir, approval.Options{Consumed: func(context.Context, string) (bool, error) { return false, nil }})
	if err != nil {
		t.Fatal(err)
	}
	all := append([]func(*gateway.Config){func(c *gateway.Config) {
		c.Policy, c.Approvals, c.ApprovalWait = rules(t, asksForWrites), h.store, 50*time.Millisecond
	}}, change...)
	h.rig = newRig(t, h.bq.ServeHTTP, all...)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := h.gw.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *heldRig) pending() approval.Request {
	h.t.Helper()
	list := h.store.List(approval.Filter{State: approval.StatePending})
	if len(list) != 1 {
		h.t.Fatalf("%d requests are pending: %s", len(list), dump(list))
	}
	return list[0]
}

func (h *heldRig) vote(id string, verdict approval.Verdict) {
	h.t.Helper()
	_, err := h.store.Vote(h.t.Context(), id, approval.Vote{Human: "ada@example.com", Roles: []string{"approver"}, Verdict: verdict, Reason: "not today", Via: "cli"},
		func(approval.Request, approval.Vote) error { return nil })
	if err != nil {
		h.t.Fatal(err)
	}
}

const deletes = `{"jobReference":{"projectId":"demo-project","jobId":"mine"},"configuration":{"query":{"query":"DELETE FROM d.t WHERE x = 1","useLegacySql":false}}}`

func state(t *testing.T, body string) (state, reason string) {
	t.Helper()
	var job struct {
		Status struct {
			State       string
			ErrorResult struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal([]byte(body), &job); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return job.Status.State, job.Status.ErrorResult.Reason + ": " + job.Status.ErrorResult.Message
}

// TestHeldInsert: a jobs.insert that needs approval is a PENDING job until a human has
// decided, and then the real one, once.
func TestHeldInsert(t *testing.T) {
	h := newHeldRig(t)
	status, body := h.call("etl-bot", "POST", jobsPath, deletes)
	if s, _ := state(t, body); status != 200 || s != "PENDING" || !strings.Contains(body, `"jobId":"mine"`) || !strings.Contains(body, "DELETE FROM d.t") {
		t.Fatalf("%d %s", status, body)
	}
	if _, body = h.call("etl-bot", "GET", jobsPath+"/mine", ""); !strings.Contains(body, "PENDING") {
		t.Errorf("%s", body)
	}
	if _, body = h.call("etl-bot", "GET", "/bigquery/v2/projects/demo-project/queries/mine?timeoutMs=0", ""); !strings.Contains(body, `"jobComplete":false`) {
		t.Errorf("%s", body)
	}
	// Nobody else's agent sees it.
	if status, body = h.call("analyst-bot", "GET", jobsPath+"/mine", ""); status != 404 {
		t.Errorf("%d %s", status, body)
	}
	if ran := h.bq.ran(); len(ran) != 0 {
		t.Fatalf("ran before anybody said yes: %v", ran)
	}
	req := h.pending()
	if req.Principal.Agent != "etl-bot" || req.Statement != "DELETE FROM d.t WHERE x = 1" || req.Facts.Bytes != 1000 || !slices.Contains(req.Tables.Written, "demo-project.d.t") || req.Reason != "etl-bot wants to write" {
		t.Errorf("%s", dump(req))
	}
	h.vote(req.ID, approval.Approve)
	waitFor(t, func() bool { return len(h.bq.ran()) == 1 })
	for range 3 {
		if _, body = h.call("etl-bot", "GET", jobsPath+"/mine", ""); !strings.Contains(body, "DONE") {
			t.Errorf("%s", body)
		}
	}
	if ran := h.bq.ran(); len(ran) != 1 {
		t.Errorf("%v", ran)
	}
	// The trail: dry run, held, its answer, …, dry run at release, intent with the
	// approval, outcome.
	var held, intent *trailgate.Entry
	dryRuns := 0
	for _, e := range h.trail.calls() {
		switch {
		case e.Kind == trailgate.KindHeld:
			held = e
		case e.Kind == trailgate.KindIntent && e.Request.DryRun:
			dryRuns++
			if e.Request.For == "" || e.Decision.Rule != "builtin/dry-run" {
				t.Errorf("%s", dump(e))
			}
		case e.Kind == trailgate.KindIntent && e.Method == "bigquery.jobs.insert":
			intent = e
		}
	}
	if held == nil || held.Decision.Effect != "require_approval" || held.Decision.ApprovalID != req.ID || held.Decision.Rule != "ask-for-writes" || held.Job.ID != "mine" {
		t.Fatalf("held: %s", dump(held))
	}
	if intent == nil || intent.IntentID != held.ID || intent.Decision.ApprovalID != req.ID || fmt.Sprint(intent.Decision.Approvers) != "[ada@example.com]" || intent.Job.ID != "mine" || intent.StatementType.DryRun != "DELETE" {
		t.Fatalf("intent: %s", dump(intent))
	}
	if dryRuns != 2 {
		t.Errorf("%d dry runs, want one when it was held and one at the release", dryRuns)
	}
	if got, _ := h.store.Get(req.ID); got.State != approval.StateReleased || got.IntentEntry != intent.ID {
		t.Errorf("%s", dump(got))
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for range 6000 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it does not come about")
}

// TestHeldDenied: the job ends with the approver's reason, and asking again gets the
// same answer.
func TestHeldDenied(t *testing.T) {
	h := newHeldRig(t)
	h.call("etl-bot", "POST", jobsPath, deletes)
	h.vote(h.pending().ID, approval.Deny)
	_, body := h.call("etl-bot", "GET", jobsPath+"/mine", "")
	if s, why := state(t, body); s != "DONE" || !strings.HasPrefix(why, "accessDenied: ") || !strings.Contains(why, "not today") {
		t.Errorf("%s", body)
	}
	if status, body := h.call("etl-bot", "GET", "/bigquery/v2/projects/demo-project/queries/mine", ""); status != 403 || !strings.Contains(body, "not today") {
		t.Errorf("%d %s", status, body)
	}
	status, body := h.call("etl-bot", "POST", jobsPath, strings.Replace(deletes, `"mine"`, `"again"`, 1))
	if r, why := reason(t, body); status != 403 || r != "accessDenied" || !strings.Contains(why, "not today") {
		t.Errorf("%d %s", status, body)
	}
	if ran := h.bq.ran(); len(ran) != 0 {
		t.Errorf("%v", ran)
	}
}

// TestHeldQuery: a call that cannot be a pending job waits a while, then is told how to
// come back; the very same call then goes through, once.
func TestHeldQuery(t *testing.T) {
	h := newHeldRig(t)
	const path = "/bigquery/v2/projects/demo-project/queries"
	query := func(id string) (int, string) {
		return h.call("etl-bot", "POST", path, `{"query":"DELETE FROM d.t WHERE x = 1","useLegacySql":false,"requestId":"`+id+`"}`)
	}
	status, body := query("a")
	req := h.pending()
	if _, why := reason(t, body); status != 403 || !strings.Contains(why, req.ID) || !strings.Contains(why, "same call again") {
		t.Fatalf("%d %s", status, body)
	}
	if status, _ = query("b"); status != 403 || h.pending().ID != req.ID {
		t.Errorf("asking again: %d", status)
	}
	h.vote(req.ID, approval.Approve)
	if status, body = query("c"); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if ran := h.bq.ran(); len(ran) != 1 {
		t.Errorf("%v", ran)
	}
	if status, body = query("d"); status != 403 || h.pending().ID == req.ID {
		t.Errorf("an approval was used twice: %d %s", status, body)
	}
}

// TestHeldQueryWaits: it goes on by itself if a human decides in time.
func TestHeldQueryWaits(t *testing.T) {
	for verdict, want := range map[approval.Verdict]int{approval.Approve: 200, approval.Deny: 403} {
		h := newHeldRig(t, func(c *gateway.Config) { c.ApprovalWait = 30 * time.Second })
		go func() {
			waitFor(t, func() bool { return len(h.store.List(approval.Filter{State: approval.StatePending})) == 1 })
			h.vote(h.pending().ID, verdict)
		}()
		status, body := h.call("etl-bot", "POST", "/bigquery/v2/projects/demo-project/queries", `{"query":"DELETE FROM d.t WHERE x = 1","useLegacySql":false}`)
		if status != want {
			t.Errorf("%s: %d %s", verdict, status, body)
		}
		if ran := len(h.bq.ran()); ran != map[int]int{200: 1, 403: 0}[want] {
			t.Errorf("%s: %d ran", verdict, ran)
		}
		h.each(func(e *trailgate.Entry) {
			if e.Kind == trailgate.KindIntent && !e.Request.DryRun && verdict == approval.Deny {
				t.Errorf("%s", dump(e))
			}
		})
	}
}

func (h *heldRig) each(f func(*trailgate.Entry)) {
	for _, e := range h.trail.calls() {
		f(e)
	}
}

// TestHeldChanged: an approval is for exactly the call that was seen, and for what it
// would have done then.
func TestHeldChanged(t *testing.T) {
	h := newHeldRig(t)
	const path = "/bigquery/v2/projects/demo-project/queries"
	body := `{"query":"DELETE FROM d.t WHERE x = 1","useLegacySql":false}`
	h.call("etl-bot", "POST", path, body)
	first := h.pending()
	h.vote(first.ID, approval.Approve)
	for name, other := range map[string]string{
		"another statement": strings.Replace(body, "x = 1", "true", 1),
		"a parameter":       strings.Replace(body, `"useLegacySql":false`, `"useLegacySql":false,"queryParameters":[{"name":"p","parameterType":{"type":"INT64"},"parameterValue":{"value":"1"}}]`, 1),
		"another dialect":   strings.Replace(body, `"useLegacySql":false`, `"useLegacySql":true`, 1),
		"another dataset":   strings.Replace(body, `"useLegacySql":false`, `"useLegacySql":false,"defaultDataset":{"datasetId":"e"}`, 1),
	} {
		if status, text := h.call("etl-bot", "POST", path, other); status == 200 {
			t.Errorf("%s went through: %s", name, text)
		}
	}
	if status, _ := h.call("analyst-bot", "POST", path, body); status == 200 {
		t.Error("another agent used the approval")
	}
	// The table grew twentyfold beyond what the human saw.
	h.bq.set(func() { h.bq.bytes = 20 << 30 })
	if status, text := h.call("etl-bot", "POST", path, body); status != 403 || !strings.Contains(text, "waits for approval") {
		t.Errorf("a changed picture: %d %s", status, text)
	}
	if got, _ := h.store.Get(first.ID); got.State != approval.StateChanged {
		t.Errorf("%s", dump(got))
	}
	if ran := h.bq.ran(); len(ran) != 0 {
		t.Errorf("%v", ran)
	}
}

// TestHeldPolicyChanged: what the rules deny by the time of the release does not run.
func TestHeldPolicyChanged(t *testing.T) {
	h := newHeldRig(t)
	h.call("etl-bot", "POST", jobsPath, deletes)
	req := h.pending()
	h.gw.SetPolicy(rules(t, "version: 1\nrules:\n  - name: frozen\n    when: class == \"write\"\n    deny: \"nothing is written today\"\n  - {name: rest, when: 'true', allow: {}}\n"))
	h.vote(req.ID, approval.Approve)
	waitFor(t, func() bool { r, _ := h.store.Get(req.ID); return r.State == approval.StateCancelled })
	_, body := h.call("etl-bot", "GET", jobsPath+"/mine", "")
	if s, _ := state(t, body); s != "DONE" || len(h.bq.ran()) != 0 {
		t.Errorf("%s", body)
	}
}

// TestHeldRevoked: an agent whose credential has ended by the time of the approval
// runs nothing.
func TestHeldRevoked(t *testing.T) {
	h := newHeldRig(t)
	h.call("etl-bot", "POST", jobsPath, deletes)
	req := h.pending()
	if err := h.rig.store.RevokeAgent("etl-bot"); err != nil {
		t.Fatal(err)
	}
	h.vote(req.ID, approval.Approve)
	if status, _ := h.call("etl-bot", "GET", jobsPath+"/mine", ""); status != 401 {
		t.Errorf("%d", status)
	}
	if ran := h.bq.ran(); len(ran) != 0 {
		t.Errorf("%v", ran)
	}
}

// TestHeldFailsUpstream: what BigQuery would not begin ends the job that waited.
func TestHeldFailsUpstream(t *testing.T) {
	h := newHeldRig(t)
	h.call("etl-bot", "POST", jobsPath, deletes)
	h.bq.set(func() { h.bq.fail = 403 })
	h.vote(h.pending().ID, approval.Approve)
	waitFor(t, func() bool {
		_, body := h.call("etl-bot", "GET", jobsPath+"/mine", "")
		s, why := state(t, body)
		return s == "DONE" && why == "accessDenied: no such right"
	})
}

// TestHeldCancelled: the agent may withdraw what it asked for.
func TestHeldCancelled(t *testing.T) {
	h := newHeldRig(t)
	h.call("etl-bot", "POST", jobsPath, deletes)
	req := h.pending()
	if status, body := h.call("etl-bot", "POST", jobsPath+"/mine/cancel", ""); status != 200 || !strings.Contains(body, "jobCancelResponse") {
		t.Fatalf("%d %s", status, body)
	}
	if got, _ := h.store.Get(req.ID); got.State != approval.StateCancelled {
		t.Errorf("%s", dump(got))
	}
	found := false
	h.each(func(e *trailgate.Entry) {
		found = found || e.Kind == trailgate.KindDenied && e.IntentID == req.HeldEntry && e.Decision.Rule == "builtin/withdrawn"
	})
	if !found {
		t.Error("the trail does not say so")
	}
}

// TestHeldUnrecorded: nobody is asked, and nothing is released, without its entry.
func TestHeldUnrecorded(t *testing.T) {
	h := newHeldRig(t)
	h.trail.fail(func(e *trailgate.Entry) error {
		if e.Kind == trailgate.KindHeld {
			return errDisk
		}
		return nil
	})
	if status, body := h.call("etl-bot", "POST", jobsPath, deletes); status != 503 {
		t.Errorf("%d %s", status, body)
	}
	if n := len(h.store.List(approval.Filter{})); n != 0 {
		t.Errorf("%d were asked", n)
	}
	h.trail.fail(nil)
	h.call("etl-bot", "POST", jobsPath, deletes)
	req := h.pending()
	h.trail.fail(func(e *trailgate.Entry) error {
		if e.Kind == trailgate.KindIntent && e.Method == "bigquery.jobs.insert" && !e.Request.DryRun {
			return errDisk
		}
		return nil
	})
	h.vote(req.ID, approval.Approve)
	waitFor(t, func() bool { r, _ := h.store.Get(req.ID); return r.State == approval.StateReleasing })
	if ran := h.bq.ran(); len(ran) != 0 {
		t.Errorf("%v", ran)
	}
}

// TestHeldUpload: nobody can approve what nobody can see.
func TestHeldUpload(t *testing.T) {
	h := newHeldRig(t)
	body := "--b\r\nContent-Type: application/json\r\n\r\n" + `{"configuration":{"load":{"destinationTable":{"projectId":"demo-project","datasetId":"d","tableId":"t"}}}}` + "\r\n--b\r\nContent-Type: text/csv\r\n\r\n1\r\n--b--"
	req := h.request("etl-bot", "POST", "/upload/bigquery/v2/projects/demo-project/jobs?uploadType=multipart", body)
	req.Header.Set("Content-Type", "multipart/related; boundary=b")
	resp, text, err := h.do(req)
	if err != nil || resp.StatusCode != 403 || !strings.Contains(text, "an upload cannot wait") {
		t.Errorf("%v %s", err, text)
	}
	h.refused()
}

// TestHeldConcurrently: one approval, many who ask at once: it is used once.
func TestHeldConcurrently(t *testing.T) {
	h := newHeldRig(t)
	const path, body = "/bigquery/v2/projects/demo-project/queries", `{"query":"DELETE FROM d.t WHERE x = 1","useLegacySql":false}`
	h.call("etl-bot", "POST", path, body)
	h.vote(h.pending().ID, approval.Approve)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() { h.call("etl-bot", "POST", path, body) })
	}
	wg.Wait()
	if ran := h.bq.ran(); len(ran) != 1 {
		t.Errorf("it ran %d times", len(ran))
	}
}

// TestHeldPolicyAllows: what the rules of now allow runs, and nobody is asked about it
// any more.
func TestHeldPolicyAllows(t *testing.T) {
	h := newHeldRig(t)
	h.call("etl-bot", "POST", jobsPath, deletes)
	req := h.pending()
	h.gw.SetPolicy(rules(t, "version: 1\nrules:\n  - {name: all, when: 'true', allow: {}}\n"))
	h.vote(req.ID, approval.Approve)
	waitFor(t, func() bool { return len(h.bq.ran()) == 1 })
	waitFor(t, func() bool { r, _ := h.store.Get(req.ID); return r.State == approval.StateReleased })
	if _, body := h.call("etl-bot", "GET", jobsPath+"/mine", ""); !strings.Contains(body, "DONE") {
		t.Errorf("%s", body)
	}
}

// TestRequestBytes: rules see how long the body is.
func TestRequestBytes(t *testing.T) {
	r := newRig(t, answerJob, withRules(t, "  - {name: long, when: 'request.bytes > 100', deny: \"{request.bytes} is too long\"}\n  - {name: rest, when: 'true', allow: {}}"))
	if status, body := r.call("etl-bot", "POST", queriesPath, `{"query":"SELECT 1","useLegacySql":false}`); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := r.call("etl-bot", "POST", queriesPath, `{"query":"SELECT 1`+strings.Repeat(" ", 100)+`","useLegacySql":false}`); status != 403 {
		t.Errorf("%d", status)
	}
}

// TestHiddenTables: another's result is not to be had past its job, either.
func TestHiddenTables(t *testing.T) {
	h := newHeldRig(t, func(c *gateway.Config) { c.Policy = rules(t, string(policy.Starter())) })
	h.bq.set(func() { h.bq.type_ = "SELECT" })
	for _, tc := range []struct{ verb, path, body string }{
		{"GET", "/bigquery/v2/projects/demo-project/datasets/_0123abc/tables/anon456/data", ""},
		{"POST", queriesPath, `{"query":"SELECT * FROM _0123abc.anon456","useLegacySql":false}`},
		{"POST", queriesPath, "{\"query\":\"SELECT * FROM `demo-project._0123abc.anon456`\",\"useLegacySql\":false}"},
	} {
		status, body := h.call("etl-bot", tc.verb, tc.path, tc.body)
		if status != 403 || !strings.Contains(body, "no-hidden-tables") {
			t.Errorf("%s: %d %s", tc.path, status, body)
		}
	}
	if status, body := h.call("etl-bot", "GET", "/bigquery/v2/projects/demo-project/datasets/staging/tables/_x/data", ""); status != 200 {
		t.Errorf("%d %s", status, body)
	}
}

// TestPollDuringRelease: while an approved job is on its way, nobody is told that BigQuery
// does not have it.
func TestPollDuringRelease(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	h := newHeldRig(t)
	h.up.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if r.Method == http.MethodPost && !strings.Contains(string(body), `"dryRun"`) {
			close(begun)
			<-goOn // BigQuery takes its time
		}
		h.bq.ServeHTTP(w, r)
	})
	h.call("etl-bot", "POST", jobsPath, deletes)
	h.vote(h.pending().ID, approval.Approve)
	<-begun
	type got struct {
		status int
		body   string
	}
	answers := make(chan got, 2)
	for _, path := range []string{jobsPath + "/mine", "/bigquery/v2/projects/demo-project/queries/mine?timeoutMs=0"} {
		go func() {
			status, body := h.call("etl-bot", "GET", path, "")
			answers <- got{status, body}
		}()
	}
	time.Sleep(50 * time.Millisecond) // both are there by now, or come to the same later
	close(goOn)
	for range 2 {
		if g := <-answers; g.status != 200 || !strings.Contains(g.body, "DONE") {
			t.Errorf("%d %s", g.status, g.body)
		}
	}
}
