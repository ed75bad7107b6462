package sandbox

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// States of a job.
const (
	statePending = "PENDING"
	stateRunning = "RUNNING"
	stateDone    = "DONE"
)

// Bounds of what is remembered; the oldest finished jobs go first.
const (
	defaultMaxJobs = 20_000
	maxStoredCells = 40_000_000 // of results, over all jobs
	maxRequestIDs  = 100_000
)

// job is one job. What New… gives it never changes; what is below mu is guarded
// by the store's mutex.
type job struct {
	project, id, location string
	kind                  string // QUERY, LOAD, COPY, EXTRACT
	principal, reason     string
	statement             string // SQL; "" for other kinds
	dryRun                bool
	delay                 time.Duration
	parent                *job
	frame                 object // of a script's child: scriptStatistics
	created               time.Time
	seq                   int64         // order of creation
	done                  chan struct{} // closed when the job is DONE
	ctx                   context.Context
	stop                  context.CancelFunc

	// guarded by jobStore.mu:
	config        object
	state         string
	statementType string
	started       time.Time
	ended         time.Time
	err           *apiError
	warnings      []*apiError
	statistics    object // statistics.query, .load, .copy or .extract
	bytes         int64  // statistics.totalBytesProcessed
	result        rowSource
	affected      *int64
	cacheHit      bool
	children      []*job
	destination   googlesql.Name // where a SELECT's result went; a made-up table where nowhere
	executed      bool           // its effect was attempted
	dropped       bool           // its result is no longer kept
}

// jobStore has all jobs, and what makes requests idempotent.
type jobStore struct {
	limit    int // of jobs that are remembered
	mu       sync.Mutex
	byID     map[string]*job // "project:id"
	order    []*job          // by seq
	requests map[string]*job // jobs.query by requestId
	cells    int64           // of results that are kept
	next     int64
}

func newJobStore(limit int) *jobStore {
	return &jobStore{limit: limit, byID: map[string]*job{}, requests: map[string]*job{}}
}

// add takes a new job in; 409 where its id is taken.
func (st *jobStore) add(j *job) *apiError {
	st.mu.Lock()
	defer st.mu.Unlock()
	key := j.project + ":" + j.id
	if _, ok := st.byID[key]; ok {
		return alreadyExists("Job", j.project+":"+j.location+"."+j.id)
	}
	st.next++
	j.seq = st.next
	st.byID[key] = j
	st.order = append(st.order, j)
	if j.parent != nil {
		j.parent.children = append(j.parent.children, j)
	}
	if len(st.order) > st.limit {
		st.forgetLocked(st.limit/10 + 1) // many at once, since each time looks at all
	}
	return nil
}

// forgetLocked drops up to n of the oldest jobs that are done.
func (st *jobStore) forgetLocked(n int) {
	st.order = slices.DeleteFunc(st.order, func(j *job) bool {
		if n == 0 || j.state != stateDone || j.parent != nil && j.parent.state != stateDone {
			return false
		}
		n--
		if key := j.project + ":" + j.id; st.byID[key] == j {
			delete(st.byID, key)
		}
		st.cells -= cells(j.result)
		return true
	})
}

// find looks a job up. A wrong location is as good as no job, as in BigQuery.
func (st *jobStore) find(project, id, location string) (*job, *apiError) {
	st.mu.Lock()
	defer st.mu.Unlock()
	j, ok := st.byID[project+":"+id]
	if !ok || location != "" && location != j.location {
		if location == "" {
			location = defaultLocation
		}
		return nil, notFound("Job", project+":"+location+"."+id)
	}
	return j, nil
}

// keepLocked holds the result of a job for reading, and lets older ones go where
// there are too many.
func (st *jobStore) keepLocked(j *job, src rowSource) {
	j.result = src
	if st.cells += cells(src); st.cells <= maxStoredCells {
		return
	}
	for _, old := range st.order {
		if st.cells <= maxStoredCells/4*3 {
			return
		}
		if old != j && old.result != nil && cells(old.result) > 0 {
			st.cells -= cells(old.result)
			if p := old.parent; p != nil && p.result == old.result {
				p.result, p.dropped = nil, true
			}
			old.result, old.dropped = nil, true
		}
	}
}

func cells(src rowSource) int64 {
	r, ok := src.(*resultSet)
	if !ok {
		return 0
	}
	return int64(len(r.rows)) * int64(len(r.cols))
}

// finish ends a job, once.
func (st *jobStore) finish(j *job, now time.Time, err *apiError) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if j.state == stateDone {
		return
	}
	if j.started.IsZero() {
		j.started = now
	}
	if now.Before(j.started) { // a script's children may be dated ahead, see child
		now = j.started
	}
	j.state, j.ended, j.err = stateDone, now, err
	close(j.done)
	j.stop()
}

func (st *jobStore) begin(j *job, now time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if j.state == statePending {
		j.state, j.started = stateRunning, now
	}
}

// JobRecord is what the sandbox knows of one job, dry runs and script
// statements included.
type JobRecord struct {
	Project, ID string
	Parent      string // id of the script's job, for its statements
	Location    string
	Principal   string
	Type        string // QUERY, LOAD, COPY, EXTRACT
	Statement   string // SQL, of a query
	// StatementType is BigQuery's name; "" until it is known.
	StatementType string
	Labels        map[string]string
	Reason        string // X-Goog-Request-Reason of the request that made it
	DryRun        bool
	State         string
	// Executed says that the job got as far as to have an effect, if it is of a
	// kind that has; ErrorReason then tells whether it succeeded.
	Executed                  bool
	ErrorReason, ErrorMessage string
	RowsAffected              int64
	Created, Started, Ended   time.Time
}

// Jobs returns the jobs there were, the oldest first: all, up to
// Config.MaxJobs, beyond which the oldest that are done are forgotten.
func (s *Sandbox) Jobs() []JobRecord {
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	out := make([]JobRecord, len(s.jobs.order))
	for i, j := range s.jobs.order {
		r := JobRecord{
			Project: j.project, ID: j.id, Location: j.location, Principal: j.principal, Type: j.kind, Statement: j.statement, StatementType: j.statementType,
			Reason: j.reason, DryRun: j.dryRun, State: j.state, Executed: j.executed, Created: j.created, Started: j.started, Ended: j.ended, Labels: map[string]string{},
		}
		if j.parent != nil {
			r.Parent = j.parent.id
		}
		for k := range sub(j.config, "labels") {
			r.Labels[k] = str(j.config, "labels", k)
		}
		if j.err != nil {
			r.ErrorReason, r.ErrorMessage = j.err.reason, j.err.message
		}
		if j.affected != nil {
			r.RowsAffected = *j.affected
		}
		out[i] = r
	}
	return out
}

// objectLocked is the Job resource; the caller holds the store.
func (j *job) objectLocked(host string) object {
	o := object{
		"kind": "bigquery#job", "id": j.project + ":" + j.location + "." + j.id, "user_email": j.principal, "principal_subject": subjectOf(j.principal),
		"selfLink":      host + servicePath + "projects/" + j.project + "/jobs/" + j.id + "?location=" + j.location,
		"jobReference":  j.referenceLocked(),
		"configuration": clone(j.config), "status": j.statusLocked(),
	}
	if j.dryRun {
		// A dry run makes no job that could be asked for.
		delete(o["jobReference"].(object), "jobId")
		delete(o, "id")
		delete(o, "selfLink")
	}
	stats := object{"creationTime": millis(j.created)}
	if !j.started.IsZero() {
		stats["startTime"] = millis(j.started)
	}
	if j.state == stateDone {
		stats["endTime"] = millis(j.ended)
		stats["totalSlotMs"] = decimal(j.slotMillisLocked())
		stats["finalExecutionDurationMs"] = decimal(j.ended.Sub(j.started).Milliseconds())
	}
	if j.statistics != nil {
		stats[statisticsName[j.kind]] = clone(j.statistics)
		if j.kind == "QUERY" {
			stats["totalBytesProcessed"] = decimal(j.bytes)
		}
	}
	if n := len(j.children); n > 0 {
		stats["numChildJobs"] = decimal(n)
	}
	if j.parent != nil {
		stats["parentJobId"], stats["scriptStatistics"] = j.parent.id, clone(j.frame)
	}
	o["statistics"] = stats
	o["jobCreationReason"] = object{"code": "REQUESTED"}
	o["etag"] = etagOf(object{"s": stats, "st": o["status"], "id": j.id})
	return o
}

func (j *job) slotMillisLocked() int64 {
	if j.cacheHit || j.dryRun {
		return 0
	}
	return j.ended.Sub(j.started).Milliseconds() + 1
}

var statisticsName = map[string]string{"QUERY": "query", "LOAD": "load", "COPY": "copy", "EXTRACT": "extract"}

func (j *job) referenceLocked() object {
	return object{"projectId": j.project, "jobId": j.id, "location": j.location}
}

func (j *job) statusLocked() object {
	o := object{"state": j.state}
	if j.err != nil {
		o["errorResult"] = j.err.proto()
		o["errors"] = []any{j.err.proto()}
	}
	for _, w := range j.warnings {
		o["errors"] = append(list(o, "errors"), w.proto())
	}
	return o
}

// object is the Job resource.
func (st *jobStore) object(j *job, host string) object {
	st.mu.Lock()
	defer st.mu.Unlock()
	return j.objectLocked(host)
}

// remember notes a requestId, within the bound; the caller holds the store.
func (st *jobStore) remember(key string, j *job) {
	if len(st.requests) >= maxRequestIDs {
		maps.DeleteFunc(st.requests, func(_ string, j *job) bool { return j.state == stateDone })
	}
	st.requests[key] = j
}
