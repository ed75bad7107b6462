package reconcile_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/reconcile"
)

// given is a source of jobs as a test wants them.
type given struct {
	name string
	jobs []*reconcile.Job
}

func (g given) Name() string { return g.name }

func (g given) Jobs(_ context.Context, project string, from, until time.Time, fn func(*reconcile.Job) error) error {
	for _, j := range g.jobs {
		if j.Project == project && !j.Created.Before(from) && j.Created.Before(until) {
			again := *j
			if err := fn(&again); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestSameNameElsewhere: BigQuery lets a job of one name run in each location. A direct
// one in another location than the gateway's must not pass for that, whatever its labels,
// whichever of them was first, and though a finding of that name is known already.
func TestSameNameElsewhere(t *testing.T) {
	for name, labelled := range map[string]bool{"plain": false, "labelled": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 10)
			made := r.append(r.intent("twice", "SELECT 1"))
			r.append(r.outcome(made, "twice", 100))
			job := func(location, text string, at time.Time) *reconcile.Job {
				s := reconcile.Statement{SHA256: sha256.Sum256([]byte(text)), Length: int64(len(text)), Text: text}
				return &reconcile.Job{
					Project: project, ID: "twice", Location: location, Principal: agentSA, Created: at, Type: "QUERY", StatementType: "SELECT",
					Statement: &s, Done: true, Processed: 100, Billed: 10 << 20, Affected: -1, SlotMillis: -1,
				}
			}
			own := job("us", "SELECT 1", r.clock())
			own.Labels = reconcile.Labels{Entry: made.ID, Agent: "etl-bot", Session: "s1"}
			before, after := job("EU", "DELETE FROM x", r.clock().Add(-time.Minute)), job("asia-east1", "DELETE FROM y", r.clock().Add(time.Minute))
			if labelled {
				before.Labels, after.Labels = own.Labels, own.Labels
			}
			r.pass(3 * time.Hour)
			cfg := r.config("jobs")
			for _, jobs := range [][]*reconcile.Job{{before, own}, {after, own, before}} {
				cfg.Source = given{"information-schema", jobs}
				report, found := r.reconcileSince(cfg, start.Add(-time.Hour))
				if len(found) != len(jobs)-1 || int(report.Counts.Direct) != len(jobs)-1 || report.Counts.Both != 1 {
					t.Errorf("%+v, found\n%s", report.Counts, names(found))
				}
				if report.New != 1 {
					t.Errorf("%d are new", report.New)
				}
				cfg = r.config("jobs")
			}
		})
	}
}

func (r *rig) reconcileSince(cfg reconcile.Config, since time.Time) (*reconcile.Report, []*reconcile.Finding) {
	r.t.Helper()
	r.indexed()
	var found []*reconcile.Finding
	report, err := reconcile.Run(r.t.Context(), cfg, reconcile.Options{Since: since, Until: r.clock(), Found: func(f *reconcile.Finding) { found = append(found, f) }})
	if err != nil {
		r.t.Fatal(err)
	}
	r.indexed()
	return report, found
}

// TestReasonAgain: an entry's id as the reason of reads past the gateway covers the one
// that the entry is of, and no second one, of another table, or of another time.
func TestReasonAgain(t *testing.T) {
	r := newRig(t, 10)
	e := r.intent("", "")
	e.Method, e.Statements = "bigquery.tabledata.list", nil
	e.Upstream.Principal = agentSA
	e.Tables = &trailgate.Tables{Read: []string{project + ".shop.orders$20261128"}}
	r.append(e)
	read := func(insert, table string, after time.Duration) *reconcile.Job {
		return &reconcile.Job{
			Project: project, Principal: agentSA, Created: r.clock().Add(after), Method: "tabledata.list", Insert: insert, Reason: e.ID,
			Resource: "projects/" + project + "/datasets/shop/tables/" + table, Processed: -1, Billed: -1, Affected: -1, SlotMillis: -1,
		}
	}
	jobs := []*reconcile.Job{
		read("other table", "customers", 0), read("own", "orders", time.Second), read("own", "orders", time.Second),
		read("again", "orders", 2*time.Second), read("later", "orders", 70*time.Minute),
	}
	r.pass(3 * time.Hour)
	cfg := r.config("jobs")
	cfg.Source = given{"audit-log", jobs}
	report, found := r.reconcile(cfg)
	if report.Counts.Jobless != 2 || report.Counts.Direct != 3 || len(found) != 3 {
		t.Errorf("%+v, found\n%s", report.Counts, names(found))
	}
}

// TestListsThatLie: an answer that is no whole list makes the run fail; it is never
// taken for a list in which nothing is missing.
func TestListsThatLie(t *testing.T) {
	page := func(token string) string {
		return `{"jobComplete":true,"totalRows":"0","nextPageToken":"` + token + `","pageToken":"` + token + `","schema":{"fields":[]},"rows":[],"jobs":[]}`
	}
	for name, c := range map[string]struct {
		source string
		answer func(token string) string
	}{
		"an error with status 200": {"jobs", func(string) string { return `{"error":{"code":500}}` }},
		"broken off": {"jobs", func(string) string {
			return `{"jobs":[{"jobReference":{"projectId":"p","jobId":"j"}}`
		}},
		"pages in a circle": {"jobs", func(token string) string {
			return page(map[string]string{"": "a", "a": "b", "b": "c", "c": "b"}[token])
		}},
		"the view's pages in a circle": {"information-schema", func(token string) string {
			return page(map[string]string{"": "a", "a": "b", "b": "b"}[token])
		}},
		"a row of the view's is missing": {"information-schema", func(string) string { return strings.Replace(page(""), `"totalRows":"0"`, `"totalRows":"1"`, 1) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 10)
			r.pass(3 * time.Hour)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				_, _ = fmt.Fprint(w, c.answer(q.URL.Query().Get("pageToken")))
			}))
			defer srv.Close()
			cfg := r.config(c.source)
			api := &reconcile.API{
				HTTP: http.DefaultTransport, Token: func(context.Context) (string, error) { return "auditor", nil },
				Pause: func(context.Context, time.Duration) error { return nil },
			}
			var err error
			if api.Root, err = url.Parse(srv.URL); err != nil {
				t.Fatal(err)
			}
			cfg.Source = &reconcile.List{API: api}
			if c.source != "jobs" {
				cfg.Source = &reconcile.JobsView{API: api, Region: "us", Run: cfg.Run}
			}
			r.indexed()
			if report, err := reconcile.Run(t.Context(), cfg, reconcile.Options{Since: start, Until: r.clock()}); err == nil {
				t.Errorf("a run that saw nothing is good: %+v", report)
			}
		})
	}
}

// TestViewJobNames: who can see one query of the reconciliation's cannot name the next
// one's job before it, and so answer in its place.
func TestViewJobNames(t *testing.T) {
	r := newRig(t, 10)
	r.pass(3 * time.Hour)
	var ids []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodPost {
			var body struct{ JobReference struct{ JobID string } }
			if err := json.NewDecoder(q.Body).Decode(&body); err != nil {
				t.Error(err)
			}
			ids = append(ids, body.JobReference.JobID)
		}
		_, _ = fmt.Fprint(w, `{"jobComplete":true,"totalRows":"0"}`)
	}))
	defer srv.Close()
	cfg := r.config("information-schema")
	view := cfg.Source.(*reconcile.JobsView)
	var err error
	if view.API.Root, err = url.Parse(srv.URL); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		view := *view // the same run's, from its beginning
		for range 2 {
			if err := view.Jobs(t.Context(), project, start, start.Add(time.Hour), func(*reconcile.Job) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != 4 {
		t.Errorf("%q", ids)
	}
}
