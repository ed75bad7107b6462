package sandbox

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a Sandbox is made of. The zero value works.
type Config struct {
	// Projects that exist. Default: demo-project alone.
	Projects []string
	// Principals maps bearer tokens to the e-mail addresses they stand for.
	// Empty: no token is asked for, and everyone is AnonymousPrincipal.
	Principals map[string]string
	// Principal does the same for tokens that come and go; it must be safe for
	// concurrent use. Optional; where it is set, Principals is not looked at.
	Principal func(token string) (principal string, ok bool)
	// JobDelay is how long a job stays PENDING and RUNNING before it takes
	// effect, unless its label sandbox_delay_ms says otherwise. Default: 0, a
	// job is DONE when the request that made it is answered.
	JobDelay time.Duration
	// MaxPageBytes bounds the rows of one answer, about. Default: 10 MiB, which
	// is near BigQuery's own bound; benchmarks raise it.
	MaxPageBytes int64
	// MaxJobs bounds how many jobs are remembered, some 3 kB each and their
	// results besides. Default: 20,000.
	MaxJobs int
	// Log gets what the operator of a demo may want to know. Default: none.
	Log *slog.Logger
	// Now is the clock. Default: time.Now. Delays are real time in any case.
	Now func() time.Time
}

// Names that the sandbox gives by itself.
const (
	DefaultProject     = "demo-project"
	AnonymousPrincipal = "anonymous@sandbox.invalid"
	defaultLocation    = "US"
)

const (
	defaultPageBytes = 10 << 20
	maxRequestBytes  = 10 << 20 // of a JSON body, as BigQuery has it
	maxDelay         = time.Hour
)

// Sandbox is a stand-in for BigQuery's REST API. Its methods may be called
// concurrently.
type Sandbox struct {
	cfg     Config
	log     *slog.Logger
	now     func() time.Time
	methods []*method
	schemas map[string]*schema
	engine  *engine
	catalog *catalog
	jobs    *jobStore
	// jobsTable is what INFORMATION_SCHEMA.JOBS_BY_PROJECT is read from; whoever holds
	// the engine owns it. nil until it is first asked for.
	jobsTable *table
	cache     *resultCache
	uploads   *uploadStore
	objects   *objectStore
	calls     callLog
	fault     atomic.Pointer[func(*http.Request) *Fault]
	ctx       context.Context // of everything that runs beyond a request; ends with Close
	cancel    context.CancelFunc
	running   sync.WaitGroup // jobs in the background
	closeOne  sync.Once
}

// New makes a sandbox with empty projects. Close it.
func New(cfg Config) (*Sandbox, error) {
	if len(cfg.Projects) == 0 {
		cfg.Projects = []string{DefaultProject}
	}
	cfg.Projects = slices.Clone(cfg.Projects)
	slices.Sort(cfg.Projects)
	if cfg.MaxPageBytes <= 0 {
		cfg.MaxPageBytes = defaultPageBytes
	}
	if cfg.MaxJobs <= 0 {
		cfg.MaxJobs = defaultMaxJobs
	}
	s := &Sandbox{cfg: cfg, log: cfg.Log, now: cfg.Now, jobs: newJobStore(cfg.MaxJobs), cache: &resultCache{entries: map[string]*cached{}}, uploads: newUploadStore(), objects: newObjectStore()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	var err error
	if s.methods, s.schemas, err = loadMethods(); err != nil {
		return nil, err
	}
	if s.engine, err = openEngine(); err != nil {
		return nil, fmt.Errorf("open SQLite: %w", err)
	}
	s.catalog = newCatalog(cfg.Projects)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Close stops running jobs, waits for them, and frees the data.
func (s *Sandbox) Close() error {
	var err error
	s.closeOne.Do(func() {
		s.cancel()
		s.running.Wait()
		err = s.engine.close()
	})
	return err
}

// call is one request on its way to a handler.
type call struct {
	r         *http.Request
	method    *method
	params    map[string]string // from the path
	body      object            // nil where the method has none
	principal string
	reason    string // X-Goog-Request-Reason
	host      string // scheme and authority that the client used
}

func (c *call) query(name string) string { return c.r.URL.Query().Get(name) }

// answer is what a handler gives: an object, rows that stream, or nothing.
type answer interface{ isAnswer() }

type jsonAnswer struct{ object }

type noContent struct{}

func (jsonAnswer) isAnswer() {}
func (noContent) isAnswer()  {}
func (*rowPage) isAnswer()   {}

// reply wraps an object as an answer.
func reply(o object) (answer, error) { return jsonAnswer{o}, nil }

// handlers are the methods that the sandbox implements; all others of the
// discovery document answer notImplemented.
var handlers = map[string]func(*Sandbox, *call) (answer, error){
	"bigquery.projects.list":               (*Sandbox).projectsList,
	"bigquery.projects.getServiceAccount":  (*Sandbox).projectsGetServiceAccount,
	"bigquery.datasets.list":               (*Sandbox).datasetsList,
	"bigquery.datasets.get":                (*Sandbox).datasetsGet,
	"bigquery.datasets.insert":             (*Sandbox).datasetsInsert,
	"bigquery.datasets.patch":              (*Sandbox).datasetsPatch,
	"bigquery.datasets.update":             (*Sandbox).datasetsUpdate,
	"bigquery.datasets.delete":             (*Sandbox).datasetsDelete,
	"bigquery.datasets.getIamPolicy":       (*Sandbox).getIamPolicy,
	"bigquery.datasets.setIamPolicy":       (*Sandbox).setIamPolicy,
	"bigquery.datasets.testIamPermissions": (*Sandbox).testIamPermissions,
	"bigquery.tables.list":                 (*Sandbox).tablesList,
	"bigquery.tables.get":                  (*Sandbox).tablesGet,
	"bigquery.tables.insert":               (*Sandbox).tablesInsert,
	"bigquery.tables.patch":                (*Sandbox).tablesPatch,
	"bigquery.tables.update":               (*Sandbox).tablesUpdate,
	"bigquery.tables.delete":               (*Sandbox).tablesDelete,
	"bigquery.tables.getIamPolicy":         (*Sandbox).getIamPolicy,
	"bigquery.tables.setIamPolicy":         (*Sandbox).setIamPolicy,
	"bigquery.tables.testIamPermissions":   (*Sandbox).testIamPermissions,
	"bigquery.tabledata.list":              (*Sandbox).tabledataList,
	"bigquery.tabledata.insertAll":         (*Sandbox).tabledataInsertAll,
	"bigquery.jobs.insert":                 (*Sandbox).jobsInsert,
	"bigquery.jobs.query":                  (*Sandbox).jobsQuery,
	"bigquery.jobs.get":                    (*Sandbox).jobsGet,
	"bigquery.jobs.list":                   (*Sandbox).jobsList,
	"bigquery.jobs.getQueryResults":        (*Sandbox).jobsGetQueryResults,
	"bigquery.jobs.cancel":                 (*Sandbox).jobsCancel,
	"bigquery.jobs.delete":                 (*Sandbox).jobsDelete,
	"bigquery.routines.list":               emptyList("routines"),
	"bigquery.models.list":                 emptyList("models"),
	"bigquery.rowAccessPolicies.list":      emptyList("rowAccessPolicies"),
	"bigquery.routines.get":                missing("Routine", "routineId"),
	"bigquery.models.get":                  missing("Model", "modelId"),
}

// emptyList answers for collections that are empty for want of a way to fill
// them.
func emptyList(string) func(*Sandbox, *call) (answer, error) {
	return func(s *Sandbox, c *call) (answer, error) {
		s.catalog.mu.RLock()
		defer s.catalog.mu.RUnlock()
		if _, err := s.catalog.datasetLocked(c.params["projectId"], c.params["datasetId"]); err != nil {
			return nil, err
		}
		return reply(object{})
	}
}

func missing(kind, param string) func(*Sandbox, *call) (answer, error) {
	return func(s *Sandbox, c *call) (answer, error) {
		s.catalog.mu.RLock()
		defer s.catalog.mu.RUnlock()
		if _, err := s.catalog.datasetLocked(c.params["projectId"], c.params["datasetId"]); err != nil {
			return nil, err
		}
		return nil, notFound(kind, c.params["projectId"]+":"+c.params["datasetId"]+"."+c.params[param])
	}
}
