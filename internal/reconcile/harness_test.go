package reconcile_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/index/indextest"
	"github.com/trailgate/trailgate/internal/reconcile"
	"github.com/trailgate/trailgate/internal/sandbox"
	"github.com/trailgate/trailgate/internal/trail"
)

const (
	project = "demo-project"
	agentSA = "agent-etl-bot@demo-project.iam.gserviceaccount.com"
	auditor = "auditor@demo-project.iam.gserviceaccount.com"
	human   = "ada@example.com"
)

// rig is a trail, its index, and a sandbox, with one clock.
type rig struct {
	t     testing.TB
	now   atomic.Int64 // UnixNano
	log   journal
	index *index.Index
	box   *sandbox.Sandbox
	api   *httptest.Server
	store *reconcile.Store
	dir   string

	ids  atomic.Int64
	told []*reconcile.Finding
	// canned is a directory with the sandbox's answers, so that it can be asked the same
	// again and the run's own cost be seen. Empty: none are kept.
	canned string
	// requests counts what the sandbox was asked, by path.
	mu       sync.Mutex
	requests map[string]int
}

var start = time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)

// journal is a trail that can be written to.
type journal interface {
	index.Source
	write(ctx context.Context, e *trailgate.Entry) error
}

// onDisk is the real one.
type onDisk struct{ *trail.Trail }

func (l onDisk) write(ctx context.Context, e *trailgate.Entry) error { return l.Append(ctx, e) }

// inMemory spares most tests the waiting for a disk that others use.
type inMemory struct {
	indextest.Log
	now func() time.Time
}

func (l *inMemory) write(_ context.Context, e *trailgate.Entry) error {
	e.Time = l.now()
	return l.Append(e)
}

// newRig has its trail in memory.
func newRig(t testing.TB, jobs int) *rig {
	r := &rig{t: t, dir: t.TempDir(), requests: map[string]int{}}
	r.log = &inMemory{now: r.clock}
	r.open(jobs)
	return r
}

// newDiskRig has a real trail.
func newDiskRig(t testing.TB, jobs int) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), requests: map[string]int{}}
	r.set(start)
	ctx := t.Context()
	dir := filepath.Join(r.dir, "data")
	if _, err := trail.Create(ctx, dir, "trailgate.test/reconcile"); err != nil {
		t.Fatal(err)
	}
	tr, err := trail.Open(ctx, dir, trail.Options{Now: r.clock, MinFreeBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := tr.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	r.log = onDisk{tr}
	r.open(jobs)
	return r
}

func (r *rig) open(jobs int) {
	t, ctx := r.t, r.t.Context()
	t.Helper()
	r.set(start)
	var err error
	if r.index, err = index.Open(ctx, filepath.Join(r.dir, "index"), r.log, index.Options{Now: r.clock}); err != nil {
		t.Fatal(err)
	}
	r.box, err = sandbox.New(sandbox.Config{Principals: map[string]string{"agent": agentSA, "auditor": auditor, "human": human}, MaxJobs: jobs + 1000, Now: r.clock})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.box.Seed(ctx); err != nil {
		t.Fatal(err)
	}
	r.api = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		r.requests[q.Method+" "+q.URL.Path]++
		r.mu.Unlock()
		if r.canned != "" {
			r.serveCanned(w, q)
			return
		}
		r.box.ServeHTTP(w, q)
	}))
	r.store = reconcile.OpenStore(filepath.Join(r.dir, "reconcile"))
	t.Cleanup(func() {
		r.api.Close()
		if err := errors.Join(r.box.Close(), r.index.Close()); err != nil {
			t.Error(err)
		}
	})
}

// serveCanned answers a GET as before, from a file, so that neither the time nor the
// memory that the sandbox takes counts; what was not asked before is asked now.
func (r *rig) serveCanned(w http.ResponseWriter, q *http.Request) {
	file := filepath.Join(r.canned, sum(q.Method+" "+q.URL.String()))
	if f, err := os.Open(file); err == nil {
		defer f.Close()
		_, _ = io.Copy(w, f) // the run sees it where it breaks off
		return
	}
	rec := httptest.NewRecorder()
	q.Header.Del("Accept-Encoding") // a file holds it plain
	r.box.ServeHTTP(rec, q)
	if rec.Code == http.StatusOK && q.Method == http.MethodGet {
		if err := os.WriteFile(file, rec.Body.Bytes(), 0o600); err != nil {
			r.t.Error(err)
		}
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}

func (r *rig) clock() time.Time        { return time.Unix(0, r.now.Load()).UTC() }
func (r *rig) set(at time.Time)        { r.now.Store(at.UnixNano()) }
func (r *rig) pass(d time.Duration)    { r.now.Add(int64(d)) }
func (r *rig) id() string              { return fmt.Sprintf("01k%023d", r.ids.Add(1)) }
func (r *rig) self() trailgate.Gateway { return trailgate.Gateway{ID: "gw", Version: "test"} }
func sum(text string) string           { s := sha256.Sum256([]byte(text)); return hex.EncodeToString(s[:]) }

func (r *rig) append(e *trailgate.Entry) *trailgate.Entry {
	r.t.Helper()
	if err := r.write(r.t.Context(), e); err != nil {
		r.t.Fatal(err)
	}
	return e
}

func (r *rig) write(ctx context.Context, e *trailgate.Entry) error {
	if e.ID == "" {
		e.ID = r.id()
	}
	e.Gateway = r.self()
	return r.log.write(ctx, e)
}

// intent is a call of etl-bot's that is about to make a job.
func (r *rig) intent(job, statement string) *trailgate.Entry {
	e := &trailgate.Entry{
		ID: r.id(), Kind: trailgate.KindIntent, Principal: &trailgate.Principal{Agent: "etl-bot"}, Session: "s1", Connection: "sandbox", Project: project,
		Method: "bigquery.jobs.insert", Class: trailgate.ClassRead, Request: &trailgate.Request{Verb: "POST", Path: "/bigquery/v2/projects/" + project + "/jobs"},
		Statements: []trailgate.Statement{{Where: "configuration.query.query", Text: statement, SHA256: sum(statement), Length: int64(len(statement))}},
		Upstream:   &trailgate.Upstream{Mode: "impersonation", Host: "bigquery"},
	}
	if job != "" {
		e.Job = &trailgate.Job{Project: project, ID: job, AssignedBy: "gateway"}
	} else {
		e.Method = "bigquery.jobs.query"
		e.Statements[0].Where = "query"
	}
	return e
}

// outcome ends a call as BigQuery answers one that is done.
func (r *rig) outcome(e *trailgate.Entry, job string, processed int64) *trailgate.Entry {
	return &trailgate.Entry{
		ID: r.id(), Kind: trailgate.KindOutcome, IntentID: e.ID, Principal: &trailgate.Principal{Agent: "etl-bot"}, Session: "s1", Connection: "sandbox", Project: project,
		Method: e.Method, Class: e.Class, Job: &trailgate.Job{Project: project, ID: job, Location: "US", Type: "QUERY"},
		Upstream: &trailgate.Upstream{Mode: "impersonation", Principal: agentSA, Host: "bigquery"},
		Outcome:  &trailgate.Outcome{Status: 200, End: trailgate.EndComplete, JobState: "DONE", BytesProcessed: processed, BytesBilled: 10 << 20},
	}
}

func labels(e *trailgate.Entry) map[string]string {
	return map[string]string{"trailgate_entry": e.ID, "trailgate_agent": "etl-bot", "trailgate_session": "s1"}
}

// job is the job that a call made, as the sandbox has it.
func (r *rig) job(e *trailgate.Entry, id, statement string, processed int64) sandbox.PlantedJob {
	return sandbox.PlantedJob{
		Project: project, ID: id, Principal: agentSA, Statement: statement, Labels: labels(e), Created: r.clock(), Took: time.Second,
		BytesProcessed: processed, BytesBilled: 10 << 20,
	}
}

func (r *rig) plant(p sandbox.PlantedJob) {
	r.t.Helper()
	if err := r.box.Plant(p); err != nil {
		r.t.Fatal(err)
	}
}

// call makes a whole one, on both sides.
func (r *rig) call(job, statement string) *trailgate.Entry {
	r.t.Helper()
	e := r.append(r.intent(job, statement))
	r.plant(r.job(e, job, statement, 100))
	r.append(r.outcome(e, job, 100))
	return e
}

// indexed waits for the index to have all of the trail.
func (r *rig) indexed() {
	r.t.Helper()
	if err := r.index.CatchUp(r.t.Context(), nil); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) source(kind, run string) reconcile.Source {
	root, err := url.Parse(r.api.URL)
	if err != nil {
		r.t.Fatal(err)
	}
	api := &reconcile.API{
		Root: root, HTTP: http.DefaultTransport, Reason: run, Token: func(context.Context) (string, error) { return "auditor", nil },
		Pause: func(context.Context, time.Duration) error { return nil },
	}
	if kind == "information-schema" {
		return &reconcile.JobsView{API: api, Region: "us", Run: run}
	}
	return &reconcile.List{API: api}
}

// config is that of a run, by the means that the gateway uses.
func (r *rig) config(kind string) reconcile.Config {
	run := r.id()
	return reconcile.Config{
		Connection: "sandbox", Projects: []string{project}, Source: r.source(kind, run), Trail: r.log, Run: run, Store: r.store, Now: r.clock,
		Append: r.write, SettleBefore: 1 << 62,
		Lookup: func(ctx context.Context, id string) ([]*trailgate.Entry, error) {
			list, err := r.index.Lookup(ctx, id)
			if errors.Is(err, index.ErrNotFound) || errors.Is(err, index.ErrAmbiguous) {
				return nil, nil
			}
			for _, e := range list {
				if e.ID == id {
					return list, err
				}
			}
			return nil, err
		},
		JobOwner: r.index.JobOwner,
		Deleted: func(ctx context.Context, project, job string) (string, error) {
			rows, _, err := r.index.Search(ctx, index.Query{Filter: `method = "bigquery.jobs.delete" AND job = ` + strconv.Quote(job), PageSize: 1})
			if err != nil || len(rows) == 0 {
				return "", err
			}
			return rows[0].Entry.ID, nil
		},
		Upstream: func(ctx context.Context) ([]string, error) {
			var out []string
			list, err := r.index.Values(ctx, "upstream", "", 1000)
			for _, v := range list {
				rows, _, err := r.index.Search(ctx, index.Query{Filter: `connection = "sandbox" AND kind = "intent" AND upstream = ` + strconv.Quote(v), PageSize: 1})
				if err != nil {
					return nil, err
				}
				if len(rows) > 0 {
					out = append(out, v)
				}
			}
			if err != nil {
				return nil, err
			}
			return out, nil
		},
		Known: func(ctx context.Context) (out []*reconcile.Finding, err error) {
			rows, _, err := r.index.Search(ctx, index.Query{Filter: `kind = "gap" AND connection = "sandbox"`, PageSize: 1000})
			for _, row := range rows {
				if f := reconcile.FromEntry(row.Entry); f != nil {
					out = append(out, f)
				}
			}
			return out, err
		},
		Told: func(_ context.Context, f *reconcile.Finding) { r.told = append(r.told, f) },
	}
}

// reconcile runs once, an hour after now, over everything since start.
func (r *rig) reconcile(cfg reconcile.Config) (*reconcile.Report, []*reconcile.Finding) {
	r.t.Helper()
	r.indexed()
	var found []*reconcile.Finding
	report, err := reconcile.Run(r.t.Context(), cfg, reconcile.Options{Since: start, Until: r.clock(), Found: func(f *reconcile.Finding) { found = append(found, f) }})
	if err != nil {
		r.t.Fatal(err)
	}
	r.indexed()
	return report, found
}

// names shows findings in a comparable way.
func names(list []*reconcile.Finding) string {
	var out []string
	for _, f := range list {
		text := f.Kind + " " + f.Job + f.Method
		for _, d := range f.Differences {
			text += " " + d.Field
		}
		out = append(out, text)
	}
	return strings.Join(out, "\n")
}
