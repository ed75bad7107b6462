package gateway_test

import (
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

// anyBudget lets every call reserve what it wants.
type anyBudget struct{}

func (anyBudget) Peek(string, string, string) policy.Budget {
	return policy.Budget{Limited: true, Name: "daily", Limit: 1 << 40}
}

func (anyBudget) Reserve(_, _, _, _ string, want int64) (int64, bool, []string, error) {
	return max(want, 1), true, nil, nil
}

func (anyBudget) Release(string) {}

// billing is a BigQuery that begins jobs, and tells what they were billed only in their
// own resource.
type billing struct {
	mu     sync.Mutex // guards all
	labels map[string]any
	asked  int // about the job
	failed int // of these, answered with 503 first
}

func (b *billing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	last := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	ref := map[string]string{"projectId": "demo-project", "jobId": "j1", "location": "EU"}
	var body struct {
		Query         string
		Labels        map[string]any
		Configuration struct{ DryRun bool }
	}
	if r.Method == http.MethodPost {
		_ = json.NewDecoder(r.Body).Decode(&body)
	}
	switch {
	case body.Configuration.DryRun:
		reply(w, map[string]any{"status": map[string]string{"state": "DONE"}, "statistics": map[string]any{"totalBytesProcessed": "1000", "query": map[string]any{"statementType": "SELECT"}}})
	case last == "queries" && strings.Contains(body.Query, "ERROR"):
		b.labels = body.Labels
		w.WriteHeader(400)
		io.WriteString(w, `{"error":{"code":400,"message":"Query error: mine at [2:1]","errors":[{"reason":"invalidQuery","message":"x"}]}}`)
	case last == "queries":
		reply(w, map[string]any{"jobReference": ref, "jobComplete": true}) // as if its bill had been left out
	case last == "jobs" && r.Method == http.MethodPost:
		reply(w, map[string]any{"jobReference": ref, "status": map[string]string{"state": "RUNNING"}})
	case last == "jobs":
		reply(w, map[string]any{"jobs": []any{map[string]any{"jobReference": ref, "configuration": map[string]any{"labels": b.labels}}}})
	case strings.Contains(r.URL.Path, "/queries/"):
		reply(w, map[string]any{"jobReference": ref, "jobComplete": true, "totalRows": "0"})
	default:
		b.asked++
		if b.failed > 0 {
			b.failed--
			w.WriteHeader(503)
			io.WriteString(w, `{"error":{"code":503,"message":"later","errors":[{"reason":"backendError","message":"x"}]}}`)
			return
		}
		reply(w, map[string]any{
			"jobReference": ref, "status": map[string]string{"state": "DONE"},
			"statistics": map[string]any{"query": map[string]any{"statementType": "SELECT", "totalBytesBilled": "10485760"}},
		})
	}
}

// TestBill: where the answer that says that a job is done does not say its bill, the
// gateway asks BigQuery, once, as the agent and on the record.
func TestBill(t *testing.T) {
	const began = `{"jobReference":{"jobId":"j1"},"configuration":{"query":{"query":"SELECT 1","useLegacySql":false}}}`
	for name, tt := range map[string]struct {
		steps  []string // verb, path and body
		failed int
	}{
		"begun and read, as bq does":        {steps: []string{"POST " + jobsPath + " " + began, "GET " + queriesPath + "/j1 ", "GET " + queriesPath + "/j1 "}},
		"the bill left out by the client":   {steps: []string{"POST " + queriesPath + `?fields=jobComplete {"query":"SELECT 1","useLegacySql":false}`}},
		"a script that fails in its middle": {steps: []string{"POST " + queriesPath + ` {"query":"SELECT 1 FROM d.t; SELECT ERROR('mine')","useLegacySql":false}`}},
		"BigQuery is busy at first":         {steps: []string{"POST " + jobsPath + " " + began, "GET " + queriesPath + "/j1 "}, failed: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &billing{failed: tt.failed}
			r := newRig(t, b.ServeHTTP, func(c *gateway.Config) { c.Budgets = anyBudget{} })
			for _, s := range tt.steps {
				part := strings.SplitN(s, " ", 3)
				r.call("etl-bot", part[0], part[1], part[2])
			}
			var own *trailgate.Entry
			deadline := time.Now().Add(time.Minute)
			for own == nil && time.Now().Before(deadline) {
				for _, e := range r.trail.calls() {
					if e.Kind == trailgate.KindOutcome && e.Outcome.BytesBilled == 10485760 {
						own = e
					}
				}
				time.Sleep(5 * time.Millisecond)
			}
			if own == nil {
				t.Fatalf("nobody asked: %s", dump(r.trail.calls()))
			}
			ask := r.trail.byID(own.IntentID)
			first := r.trail.byID(ask.Request.For)
			if ask.Decision.Rule != "builtin/budget" || ask.Principal.Agent != "etl-bot" || first == nil || len(first.Statements) != 1 || ask.Job.ID != "j1" || slices.Contains(own.Flags, "bill_unknown") {
				t.Errorf("%s of %s", dump(ask), dump(first))
			}
			if err := r.gw.Close(t.Context()); err != nil {
				t.Error(err)
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.asked != 1+tt.failed {
				t.Errorf("BigQuery was asked %d times", b.asked)
			}
			flags := fmt.Sprint(r.trail.calls()[len(r.trail.calls())-3].Flags)
			switch name {
			case "the bill left out by the client":
				if !strings.Contains(flags, "bill_unknown") {
					t.Errorf("flags %s", flags)
				}
			case "a script that fails in its middle":
				if !strings.Contains(flags, "script_failed") {
					t.Errorf("flags %s", flags)
				}
			}
		})
	}
}

// TestBillToldAlready: nothing is asked that was told, or that no budget wants to know.
func TestBillToldAlready(t *testing.T) {
	told := func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		if strings.Contains(string(raw), `"dryRun":true`) {
			reply(w, map[string]any{"status": map[string]string{"state": "DONE"}, "statistics": map[string]any{"query": map[string]any{"statementType": "SELECT"}}})
			return
		}
		reply(w, map[string]any{"jobReference": map[string]string{"projectId": "demo-project", "jobId": "j1"}, "jobComplete": true, "totalBytesBilled": "0", "statementType": "SELECT"})
	}
	r := newRig(t, told, func(c *gateway.Config) { c.Budgets = anyBudget{} })
	r.call("etl-bot", "POST", queriesPath, `{"query":"SELECT 1","useLegacySql":false}`)
	without := newRig(t, (&billing{}).ServeHTTP)
	without.call("etl-bot", "POST", queriesPath, `{"query":"SELECT 1","useLegacySql":false}`)
	for _, x := range []*rig{r, without} {
		if err := x.gw.Close(t.Context()); err != nil { // which waits for questions
			t.Error(err)
		}
		for _, e := range x.trail.calls() {
			if e.Method == "bigquery.jobs.get" || len(e.Flags) > 0 {
				t.Errorf("%s", dump(e))
			}
		}
	}
}
