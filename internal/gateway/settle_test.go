package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/gateway"
)

// unfinished lists the intents in a trail that nothing closes, as the index would.
func unfinished(m *memory) func(context.Context, uint64, int) ([]*trailgate.Entry, error) {
	return func(_ context.Context, before uint64, limit int) ([]*trailgate.Entry, error) {
		closed := map[string]bool{}
		var out []*trailgate.Entry
		all := m.all()
		for _, e := range all {
			closed[e.IntentID] = true
		}
		for _, e := range all {
			if e.Kind == trailgate.KindIntent && e.Seq < before && !closed[e.ID] && len(out) < limit {
				out = append(out, e)
			}
		}
		return out, nil
	}
}

// TestSettle: intents that an earlier run left open are settled by what
// BigQuery says of their jobs; while it says nothing they stay open.
func TestSettle(t *testing.T) {
	var mu sync.Mutex
	down := true
	trail := &memory{}
	job := func(id, entry string) string {
		return fmt.Sprintf(`{"kind":"bigquery#job","jobReference":{"projectId":"demo-project","jobId":%q,"location":"US"},"configuration":{"jobType":"QUERY","labels":{"trailgate_entry":%q}},"status":{"state":"DONE"},"statistics":{"query":{"statementType":"DELETE","numDmlAffectedRows":"3"}}}`, id, entry)
	}
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case down:
			w.WriteHeader(503)
		case req.Method != http.MethodGet:
			t.Errorf("settling sent %s %s", req.Method, req.URL)
		case strings.HasSuffix(req.URL.Path, "/jobs/ran"):
			io.WriteString(w, job("ran", "x"))
		case strings.HasSuffix(req.URL.Path, "/jobs/never"):
			w.WriteHeader(404)
			io.WriteString(w, `{"error":{"code":404,"message":"Not found","errors":[{"reason":"notFound"}]}}`)
		case strings.HasSuffix(req.URL.Path, "/jobs") && req.URL.Query().Get("pageToken") == "":
			io.WriteString(w, `{"jobs":[`+job("other", "somebody")+`],"nextPageToken":"2"}`)
		case strings.HasSuffix(req.URL.Path, "/jobs"):
			io.WriteString(w, `{"jobs":[`+job("bq-chose-this", "entry-query")+`]}`)
		default:
			t.Errorf("asked for %s", req.URL)
		}
	}, func(c *gateway.Config) {
		c.Trail, c.Unfinished, c.SettleAfter = trail, unfinished(trail), time.Nanosecond
	})
	r.trail = trail
	put := func(e *trailgate.Entry) {
		t.Helper()
		e.Connection, e.Project, e.Principal = "main", "demo-project", &trailgate.Principal{Agent: "etl-bot"}
		if err := trail.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	intent := func(id, method, job string) *trailgate.Entry {
		e := &trailgate.Entry{ID: id, Kind: trailgate.KindIntent, Method: method, Class: trailgate.ClassWrite, Request: &trailgate.Request{Verb: "POST"}}
		if job != "" {
			e.Job = &trailgate.Job{Project: "demo-project", ID: job, Location: "US"}
		}
		return e
	}
	put(intent("entry-ran", "bigquery.jobs.insert", "ran"))
	put(intent("entry-never", "bigquery.jobs.insert", "never"))
	put(intent("entry-query", "bigquery.jobs.query", ""))
	put(intent("entry-read", "bigquery.tabledata.list", ""))
	put(intent("entry-done", "bigquery.jobs.insert", "done"))
	put(&trailgate.Entry{ID: "outcome-done", Kind: trailgate.KindOutcome, IntentID: "entry-done", Outcome: &trailgate.Outcome{Status: 200}})
	before := uint64(len(trail.all()))
	put(intent("entry-later", "bigquery.jobs.insert", "later")) // of this run: none of settle's business

	run := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { r.gw.Run(ctx, before); close(done) }()
		return func() { cancel(); <-done }
	}
	stop := run()
	for deadline := time.Now().Add(time.Minute); len(settled(trail)) < 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what needs no question was not settled")
		}
	}
	stop()
	if got := settled(trail); len(got) != 1 || got["entry-read"] == nil {
		t.Fatalf("while BigQuery is down: %s", dump(got))
	}
	mu.Lock()
	down = false
	mu.Unlock()
	stop = run()
	for deadline := time.Now().Add(time.Minute); len(settled(trail)) < 4; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("settled %s", dump(settled(trail)))
		}
	}
	stop()
	got := settled(trail)
	for id, want := range map[string]string{"entry-ran": "job_found", "entry-never": "job_absent", "entry-query": "job_found", "entry-read": "not_a_job"} {
		if e := got[id]; e == nil || e.Outcome.End != want {
			t.Errorf("%s: %s, want %s", id, dump(e), want)
		}
	}
	if e := got["entry-query"]; e.Job.ID != "bq-chose-this" || e.Outcome.RowsAffected != 3 || e.StatementType.Final != "DELETE" {
		t.Errorf("%s", dump(e))
	}
	if n := len(settled(trail)); n != 4 {
		t.Errorf("%d settled", n)
	}
	raw, _ := json.Marshal(trail.all())
	if strings.Contains(string(raw), `"entry-later","kind":"settled"`) {
		t.Error("an intent of this run was settled")
	}
}

func settled(m *memory) map[string]*trailgate.Entry {
	out := map[string]*trailgate.Entry{}
	for _, e := range m.all() {
		if e.Kind == trailgate.KindSettled {
			if out[e.IntentID] != nil {
				return nil // twice
			}
			out[e.IntentID] = e
		}
	}
	return out
}
