package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/gateway"
	"github.com/trailgate/trailgate/internal/policy"
)

func withRules(t *testing.T, text string) func(*gateway.Config) {
	return func(c *gateway.Config) { c.Policy = rules(t, "version: 1\nrules:\n"+text) }
}

const queriesPath = "/bigquery/v2/projects/demo-project/queries"

// TestTooLarge: a query that would read too much is refused with the estimate, which
// was asked for with an entry of its own, and nothing of it runs.
func TestTooLarge(t *testing.T) {
	h := newHeldRig(t)
	h.bq.set(func() { h.bq.bytes, h.bq.type_ = 5e12, "SELECT" })
	status, body := h.call("etl-bot", "POST", queriesPath, `{"query":"SELECT * FROM d.t -- huge","useLegacySql":false}`)
	if r, why := reason(t, body); status != 403 || r != "accessDenied" || !strings.Contains(why, "this would process 5.00 TB") || !strings.Contains(why, "rule too-large") {
		t.Errorf("%d %s", status, body)
	}
	calls := h.trail.calls()
	if len(calls) != 3 || calls[0].Kind != trailgate.KindIntent || calls[1].Kind != trailgate.KindOutcome || calls[2].Kind != trailgate.KindDenied {
		t.Fatalf("%s", dump(calls))
	}
	dry, denied := calls[0], calls[2]
	if !dry.Request.DryRun || dry.Request.For != denied.ID || dry.Method != "bigquery.jobs.insert" || calls[1].Outcome.BytesProcessed != 5e12 {
		t.Errorf("dry run: %s", dump(calls[:2]))
	}
	if denied.Decision.Rule != "too-large" || denied.StatementType.DryRun != "SELECT" || denied.Gateway.PolicyDigest == "" {
		t.Errorf("denied: %s", dump(denied))
	}
	if ran := h.bq.ran(); len(ran) != 0 {
		t.Errorf("%v", ran)
	}
}

// TestDryRunNotRecorded: BigQuery is asked nothing without its entry, either.
func TestDryRunNotRecorded(t *testing.T) {
	h := newHeldRig(t)
	h.trail.fail(func(e *trailgate.Entry) error {
		if e.Kind == trailgate.KindIntent && e.Request.DryRun {
			return errDisk
		}
		return nil
	})
	if status, body := h.call("etl-bot", "POST", queriesPath, `{"query":"SELECT 1 -- huge","useLegacySql":false}`); status != 503 {
		t.Errorf("%d %s", status, body)
	}
	if seen, _ := h.upstreamSaw(); len(seen) != 0 {
		t.Errorf("the upstream saw %d requests", len(seen))
	}
}

// TestDryRunRefused: what BigQuery refuses when it is asked, it would have refused: the
// agent gets its words, so that a typing error reads as one.
func TestDryRunRefused(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(400)
		io.WriteString(w, `{"error":{"code":400,"message":"Syntax error: Unexpected keyword FORM at [1:10]","errors":[{"reason":"invalidQuery","message":"x"}]}}`)
	}, withRules(t, `  - {name: small, when: 'class == "read" && dry_run.bytes < 1.TB', allow: {}}`))
	status, body := r.call("etl-bot", "POST", queriesPath, `{"query":"SELECT 1 FROM d.t","useLegacySql":false}`)
	if got, why := reason(t, body); status != 400 || got != "invalidQuery" || !strings.Contains(why, "Unexpected keyword FORM") {
		t.Errorf("%d %s", status, body)
	}
	last := r.trail.calls()[2]
	if last.Kind != trailgate.KindDenied || last.Decision.Rule != "small" || !strings.Contains(last.Decision.Reason, "BigQuery refuses") {
		t.Errorf("%s", dump(last))
	}
}

// TestDryRunDown: without an answer the rule denies; it is never passed over.
func TestDryRunDown(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) },
		withRules(t, "  - {name: large, when: 'dry_run.bytes > 1.TB', deny: \"too much\"}\n  - {name: rest, when: 'true', allow: {}}"))
	status, body := r.call("etl-bot", "POST", queriesPath, `{"query":"SELECT 1 FROM d.t","useLegacySql":false}`)
	if _, why := reason(t, body); status != 403 || !strings.Contains(why, "rule large") {
		t.Errorf("%d %s", status, body)
	}
}

// TestDisagreement: a difference between what was read here and what BigQuery says is
// marked, and a rule can act on it.
func TestDisagreement(t *testing.T) {
	h := newHeldRig(t, withRules(t, "  - {name: odd, when: dry_run.differs, deny: \"BigQuery reads it as {dry_run.statement_type}\"}\n  - {name: rest, when: 'true', allow: {}}"))
	status, body := h.call("etl-bot", "POST", queriesPath, `{"query":"SELECT 1 FROM d.t","useLegacySql":false}`)
	if _, why := reason(t, body); status != 403 || !strings.Contains(why, "BigQuery reads it as DELETE") {
		t.Errorf("%d %s", status, body)
	}
	last := h.trail.calls()[2]
	if !slices.Contains(last.Flags, "dry_run_differs") || !last.StatementType.Disagree || last.StatementType.Local != "SELECT" || last.StatementType.DryRun != "DELETE" {
		t.Errorf("%s", dump(last))
	}
}

// TestLimitsUpstream: what a rule allows at most is what BigQuery is told, and what the
// entry says.
func TestLimitsUpstream(t *testing.T) {
	h := newHeldRig(t)
	h.bq.set(func() { h.bq.type_ = "SELECT" })
	h.call("etl-bot", "POST", queriesPath, `{"query":"SELECT 1","useLegacySql":false,"maximumBytesBilled":"99000000000000"}`)
	_, bodies := h.upstreamSaw()
	var sent map[string]any
	if err := json.Unmarshal([]byte(bodies[len(bodies)-1]), &sent); err != nil {
		t.Fatal(err)
	}
	if sent["maximumBytesBilled"] != "1000000000000" || sent["jobTimeoutMs"] != "1800000" {
		t.Errorf("%v", sent)
	}
	intent, _ := h.one()
	if intent.Decision.Rule != "reads" || intent.Decision.Limits["maximum_bytes_billed"] != "1000000000000" || intent.Decision.Limits["job_timeout_ms"] != "1800000" {
		t.Errorf("%s", dump(intent.Decision))
	}
}

// rowsAnswer answers a page of as many rows as maxResults asks for, 100 at most.
func rowsAnswer(w http.ResponseWriter, r *http.Request) {
	n := 100
	if s := r.URL.Query().Get("maxResults"); s != "" {
		fmt.Sscan(s, &n)
	}
	list := strings.TrimSuffix(strings.Repeat(`{"f":[{"v":"1"}]},`, min(n, 100)), ",")
	fmt.Fprintf(w, `{"jobReference":{"projectId":"demo-project","jobId":"j1"},"jobComplete":true,"totalRows":"1000","rows":[%s]}`, list)
}

// TestResultLimits: a session reads back no more rows than the rule says, over however
// many pages, by whichever way, also at the same time.
func TestResultLimits(t *testing.T) {
	r := newRig(t, rowsAnswer, withRules(t, "  - {name: some, when: 'true', allow: {max_rows: 250}}"))
	got := 0
	page := func() (int, string) {
		return r.call("etl-bot", "GET", queriesPath+"/j1?maxResults=1000", "")
	}
	for range 3 {
		status, body := page()
		if status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		got += strings.Count(body, `"v"`)
	}
	if got != 250 {
		t.Errorf("%d rows, want 250", got)
	}
	status, body := page()
	if _, why := reason(t, body); status != 403 || !strings.Contains(why, "has read the 250 rows") {
		t.Errorf("%d %s", status, body)
	}
	last := r.trail.calls()[len(r.trail.calls())-1]
	if last.Kind != trailgate.KindDenied || last.Decision.Rule != "builtin/result-limit" {
		t.Errorf("%s", dump(last))
	}
	// Another session, another result: counted apart. Many at once: no more than that.
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for range 16 {
		wg.Go(func() {
			status, body := r.call("analyst-bot", "GET", "/bigquery/v2/projects/demo-project/datasets/d/tables/t/data?maxResults=40", "")
			mu.Lock()
			defer mu.Unlock()
			if status == 200 {
				total += strings.Count(body, `"v"`)
			}
		})
	}
	wg.Wait()
	if total != 250 {
		t.Errorf("%d rows at once, want 250", total)
	}
}

// TestResultLimitOfJob: the limit of the rule that let a job run holds for reading it.
func TestResultLimitOfJob(t *testing.T) {
	r := newRig(t, rowsAnswer, withRules(t, "  - {name: queries, when: 'method == \"bigquery.jobs.query\"', allow: {max_rows: 130}}\n  - {name: rest, when: 'true', allow: {}}"))
	_, body := r.call("etl-bot", "POST", queriesPath, `{"query":"SELECT 1 FROM d.t","useLegacySql":false}`)
	first := strings.Count(body, `"v"`)
	_, body = r.call("etl-bot", "GET", queriesPath+"/j1?maxResults=100", "")
	second := strings.Count(body, `"v"`)
	if first != 100 || second != 30 {
		t.Errorf("%d and %d rows, want 100 and 30", first, second)
	}
}

// TestResultBytes: an answer that is longer than may be read is not given, or cut where
// its length was not told.
func TestResultBytes(t *testing.T) {
	for _, long := range []bool{false, true} {
		r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"rows":[`)
			if long {
				for range 100 {
					io.WriteString(w, strings.Repeat(" ", 10_000))
					http.NewResponseController(w).Flush()
				}
			} else {
				io.WriteString(w, strings.Repeat(" ", 20_000))
			}
			io.WriteString(w, `]}`)
		}, withRules(t, "  - {name: few, when: 'true', allow: {max_bytes: 10kB}}"))
		resp, body, err := r.do(r.request("etl-bot", "GET", queriesPath+"/j1", ""))
		if err == nil && resp.StatusCode == 200 && strings.HasSuffix(body, "]}") {
			t.Errorf("long %v: the whole answer came through", long)
		}
		waitFor(t, func() bool { return len(r.trail.calls()) == 2 })
		_, outcome := r.one()
		if outcome.Outcome.End != trailgate.EndRefused || !slices.Contains(outcome.Flags, "result_limit") {
			t.Errorf("long %v: %s", long, dump(outcome))
		}
	}
}

// TestForeignResults: the starter policy keeps an agent from another's results.
func TestForeignResults(t *testing.T) {
	h := newHeldRig(t, func(c *gateway.Config) { c.Policy = rules(t, string(policy.Starter())) })
	h.bq.set(func() { h.bq.type_ = "SELECT" })
	if status, body := h.call("etl-bot", "POST", jobsPath, `{"jobReference":{"jobId":"etl"},"configuration":{"query":{"query":"SELECT 1 FROM d.t","useLegacySql":false}}}`); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if status, body := h.call("etl-bot", "GET", queriesPath+"/etl", ""); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	status, body := h.call("analyst-bot", "GET", queriesPath+"/etl", "")
	if _, why := reason(t, body); status != 403 || !strings.Contains(why, "no-foreign-results") {
		t.Errorf("%d %s", status, body)
	}
}

// suspensions is the list that a gateway asks.
type suspensions struct {
	mu  sync.Mutex
	set map[string]bool
}

func (s *suspensions) is(agent, connection string) (string, string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set[agent] {
		return "agent " + agent, "runs wild", true
	}
	return "", "", false
}

func (s *suspensions) add(agent string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set[agent] = true
}

// TestSuspend: a suspended agent's next call is denied, its calls under way are cut, its
// jobs cancelled with its own credential; others go on.
func TestSuspend(t *testing.T) {
	s := &suspensions{set: map[string]bool{}}
	arrived, release := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	var cancelled []string
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		switch {
		case strings.HasSuffix(req.URL.Path, "/cancel"):
			mu.Lock()
			cancelled = append(cancelled, req.URL.Path)
			mu.Unlock()
			io.WriteString(w, `{"kind":"bigquery#jobCancelResponse"}`)
		case strings.HasSuffix(req.URL.Path, "/slow"):
			close(arrived)
			select {
			case <-release:
			case <-req.Context().Done():
			}
		case req.Method == http.MethodPost:
			io.WriteString(w, `{"jobReference":{"projectId":"demo-project","jobId":"long","location":"EU"},"status":{"state":"RUNNING"}}`)
		default:
			io.WriteString(w, `{}`)
		}
	}, func(c *gateway.Config) { c.Suspended, c.GraceTimeout = s.is, time.Hour })
	t.Cleanup(func() { close(release) })
	r.call("etl-bot", "POST", jobsPath, `{"jobReference":{"jobId":"long"},"configuration":{"query":{"query":"SELECT 1","useLegacySql":false}}}`)
	type got struct {
		status int
		body   string
	}
	slow := make(chan got, 1)
	go func() {
		status, body := r.call("etl-bot", "GET", queriesPath+"/slow", "")
		slow <- got{status, body}
	}()
	<-arrived
	s.add("etl-bot")
	if n := r.gw.CutSuspended(); n != 1 {
		t.Errorf("%d calls were cut", n)
	}
	select {
	case g := <-slow:
		if _, why := reason(t, g.body); g.status != 403 || !strings.Contains(why, "suspended while the call was under way") {
			t.Errorf("%d %s", g.status, g.body)
		}
	case <-time.After(time.Minute):
		t.Fatal("the call under way goes on")
	}
	status, body := r.call("etl-bot", "GET", jobsPath, "")
	if _, why := reason(t, body); status != 403 || !strings.Contains(why, "runs wild") {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := r.call("analyst-bot", "GET", jobsPath, ""); status != 200 {
		t.Errorf("another agent: %d", status)
	}
	done, err := r.gw.CancelSuspended(context.Background())
	if err != nil || len(done) != 1 || done[0].Job != "long" || done[0].Error != "" {
		t.Errorf("%+v %v", done, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprint(cancelled) != "["+jobsPath+"/long/cancel]" {
		t.Errorf("%v", cancelled)
	}
	var intent *trailgate.Entry
	for _, e := range r.trail.calls() {
		if e.Method == "bigquery.jobs.cancel" && e.Kind == trailgate.KindIntent {
			intent = e
		}
	}
	if intent == nil || intent.Principal.Agent != "etl-bot" || intent.Decision.Rule != "builtin/suspended" || intent.Request.For == "" {
		t.Errorf("%s", dump(intent))
	}
	if again, err := r.gw.CancelSuspended(context.Background()); err != nil || len(again) != 0 {
		t.Errorf("cancelled twice: %+v %v", again, err)
	}
}

// TestSuspendLost: the jobs of calls that the suspension itself cut end too, though their
// agents never learnt the ids, and what BigQuery does not have is no failure.
func TestSuspendLost(t *testing.T) {
	s := &suspensions{set: map[string]bool{}}
	arrived := make(chan string, 3)
	release := make(chan struct{})
	var mu sync.Mutex // guards all below
	var cancelled []string
	labels := map[string]any{}
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		last := req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:]
		switch {
		case last == "cancel":
			mu.Lock()
			cancelled = append(cancelled, req.URL.Path)
			mu.Unlock()
			if strings.Contains(req.URL.Path, "never") {
				w.WriteHeader(404)
				io.WriteString(w, `{"error":{"code":404,"message":"Not found: Job","errors":[{"reason":"notFound","message":"Not found: Job"}]}}`)
				return
			}
			io.WriteString(w, `{"kind":"bigquery#jobCancelResponse"}`)
		case req.Method == http.MethodGet && last == "jobs":
			mu.Lock()
			defer mu.Unlock()
			reply(w, map[string]any{"jobs": []any{
				map[string]any{"jobReference": map[string]string{"projectId": "demo-project", "jobId": "another"}, "status": map[string]string{"state": "RUNNING"}},
				map[string]any{"jobReference": map[string]string{"projectId": "demo-project", "jobId": "chosen", "location": "EU"}, "status": map[string]string{"state": "RUNNING"}, "configuration": map[string]any{"labels": labels}},
			}})
		default: // jobs.query and jobs.insert: no answer comes
			var body struct{ Labels map[string]any }
			if err := json.NewDecoder(req.Body).Decode(&body); err == nil && last == "queries" {
				mu.Lock()
				labels = body.Labels
				mu.Unlock()
			}
			arrived <- last
			select {
			case <-release:
			case <-req.Context().Done():
			}
		}
	}, func(c *gateway.Config) { c.Suspended, c.GraceTimeout = s.is, time.Hour })
	t.Cleanup(func() { close(release) })
	var calls sync.WaitGroup
	for path, body := range map[string]string{
		queriesPath: `{"query":"DELETE FROM d.t WHERE true","useLegacySql":false,"timeoutMs":60000}`,
		jobsPath:    `{"jobReference":{"jobId":"never"},"configuration":{"query":{"query":"SELECT 1","useLegacySql":false}}}`,
	} {
		calls.Go(func() {
			if status, answer := r.call("etl-bot", "POST", path, body); status != 403 {
				t.Errorf("%s: %d %s", path, status, answer)
			}
		})
		<-arrived
	}
	s.add("etl-bot")
	if n := r.gw.CutSuspended(); n != 2 {
		t.Errorf("%d calls were cut", n)
	}
	done, err := r.gw.CancelSuspended(t.Context())
	calls.Wait()
	if err != nil || len(done) != 1 || done[0].Job != "chosen" || done[0].Error != "" {
		t.Errorf("%+v %v", done, err)
	}
	mu.Lock()
	slices.Sort(cancelled)
	if want := []string{jobsPath + "/chosen/cancel", jobsPath + "/never/cancel"}; !slices.Equal(cancelled, want) {
		t.Errorf("%v", cancelled)
	}
	mu.Unlock()
	if again, err := r.gw.CancelSuspended(t.Context()); err != nil || len(again) != 0 {
		t.Errorf("cancelled twice: %+v %v", again, err)
	}
}

// TestSuspendAfterRestart: what an earlier run began and BigQuery says is running is
// cancelled too, where the trail says that it is the agent's; that BigQuery cannot be asked
// about one principal keeps nobody else's running.
func TestSuspendAfterRestart(t *testing.T) {
	var mu sync.Mutex // guards cancelled
	var cancelled []string
	job := func(id, agent, entry string) any {
		return map[string]any{
			"jobReference": map[string]string{"projectId": "demo-project", "jobId": id}, "status": map[string]string{"state": "RUNNING"},
			"configuration": map[string]any{"labels": map[string]string{"trailgate_agent": agent, "trailgate_entry": entry}},
		}
	}
	began := func(id, project string) *trailgate.Entry {
		return &trailgate.Entry{ID: id, Kind: trailgate.KindIntent, Connection: "main", Project: project, Session: "s", Principal: &trailgate.Principal{Agent: "etl-bot"}}
	}
	asked := 0
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		q := req.URL.Query()
		switch {
		case strings.HasSuffix(req.URL.Path, "/cancel"):
			mu.Lock()
			cancelled = append(cancelled, req.URL.Path)
			mu.Unlock()
			io.WriteString(w, `{"kind":"bigquery#jobCancelResponse"}`)
		case strings.Contains(req.URL.Path, "/closed-project/"):
			w.WriteHeader(403)
			io.WriteString(w, `{}`)
		case !slices.Equal(q["stateFilter"], []string{"running", "pending"}) || q.Get("minCreationTime") == "" || q.Get("allUsers") != "":
			t.Errorf("asked for %s", req.URL)
		default:
			reply(w, map[string]any{"jobs": []any{
				job("mine", "etl-bot", "01mine"), job("looked-up", "etl-bot", "01older"), job("of-another-gateway", "etl-bot", "01other"), job("of-another-agent", "analyst-bot", "01mine"),
			}})
		}
	}, func(c *gateway.Config) {
		c.Suspended = func(agent, _ string) (string, string, bool) { return "agent " + agent, "", agent == "etl-bot" }
		c.Begun = func(_ context.Context, from, to time.Time, which func(agent, connection string) bool, _ int) ([]*trailgate.Entry, error) {
			asked++
			if to.Sub(from) < 20*time.Hour || !which("etl-bot", "main") || which("analyst-bot", "main") {
				t.Errorf("asked from %s to %s", from, to)
			}
			return []*trailgate.Entry{began("01closed", "closed-project"), began("01mine", "demo-project")}, nil
		}
		c.JobOwner = func(_ context.Context, _, job string) (gateway.Owner, bool, error) {
			return gateway.Owner{Agent: "etl-bot", Entry: "01older"}, job == "looked-up", nil
		}
	})
	done, err := r.gw.CancelSuspended(t.Context())
	if err != nil || asked != 1 {
		t.Fatal(err, asked)
	}
	var told []string
	for _, d := range done {
		told = append(told, d.Project+":"+d.Job+" "+d.Error)
	}
	slices.Sort(told)
	want := []string{"closed-project: jobs of before the gateway's start cannot be listed: list jobs: BigQuery answered 403", "demo-project:looked-up ", "demo-project:mine "}
	if !slices.Equal(told, want) {
		t.Errorf("%q", told)
	}
	mu.Lock()
	defer mu.Unlock()
	if slices.Sort(cancelled); !slices.Equal(cancelled, []string{jobsPath + "/looked-up/cancel", jobsPath + "/mine/cancel"}) {
		t.Errorf("%v", cancelled)
	}
	var of []string
	for _, e := range r.trail.calls() {
		if e.Kind == trailgate.KindIntent && e.Method == "bigquery.jobs.cancel" {
			of = append(of, e.Request.For)
		}
	}
	if slices.Sort(of); !slices.Equal(of, []string{"01mine", "01older"}) {
		t.Errorf("%v", of)
	}
}

// TestReload: a call is judged and recorded under one policy, whenever another comes.
func TestReload(t *testing.T) {
	r := newRig(t, answerJob)
	a := rules(t, "version: 1\nrules:\n  - {name: a, when: 'true', allow: {}}\n")
	b := rules(t, "version: 1\nrules:\n  - {name: b, when: 'true', allow: {}}\n")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				r.gw.SetPolicy([]gateway.Policy{a, b}[i%2])
			}
		}
	})
	for range 200 {
		r.call("etl-bot", "GET", jobsPath, "")
	}
	close(stop)
	wg.Wait()
	seen := map[string]int{}
	for _, e := range r.trail.calls() {
		if e.Kind != trailgate.KindIntent || e.Decision.Rule == gateway.RecordOnlyRule {
			continue
		}
		seen[e.Decision.Rule]++
		if want := map[string]string{"a": a.Digest(), "b": b.Digest()}[e.Decision.Rule]; e.Gateway.PolicyDigest != want {
			t.Fatalf("rule %s under %s", e.Decision.Rule, e.Gateway.PolicyDigest)
		}
	}
	if len(seen) != 2 {
		t.Logf("only %v were seen", seen) // a slow machine may swap rarely
	}
}

// TestFinalDiffers: what BigQuery says of a job when it is done is held against what was
// read when it began, whoever asks about it.
func TestFinalDiffers(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		state, stats := "RUNNING", ""
		if req.Method == http.MethodGet {
			state = "DONE"
			stats = `,"statistics":{"query":{"statementType":"MERGE","ddlTargetTable":{"projectId":"demo-project","datasetId":"d","tableId":"other"}}}`
		}
		fmt.Fprintf(w, `{"jobReference":{"projectId":"demo-project","jobId":"long"},"status":{"state":%q}%s}`, state, stats)
	})
	r.call("etl-bot", "POST", jobsPath, `{"jobReference":{"jobId":"long"},"configuration":{"query":{"query":"DELETE FROM d.t WHERE true","useLegacySql":false}}}`)
	r.call("etl-bot", "GET", jobsPath+"/long", "")
	calls := r.trail.calls()
	last := calls[len(calls)-1]
	if !slices.Contains(last.Flags, "statement_type_differs") || !slices.Contains(last.Flags, "written_table_differs") || last.StatementType == nil || last.StatementType.Local != "DELETE" || !last.StatementType.Disagree {
		t.Errorf("%s", dump(last))
	}
	for _, e := range calls[:2] {
		if slices.Contains(e.Flags, "statement_type_differs") {
			t.Errorf("%s", dump(e))
		}
	}
}
