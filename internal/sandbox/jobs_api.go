package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var validJobID = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// newJobID makes an id as BigQuery does where the client gave none.
func newJobID(prefix string) string {
	var b [12]byte
	rand.Read(b[:])
	return prefix + hex.EncodeToString(b[:])
}

func (s *Sandbox) jobsInsert(c *call) (answer, error) {
	j, err := s.insertJob(c, c.body, nil)
	if err != nil {
		return nil, err
	}
	return reply(s.jobs.object(j, c.host))
}

// insertJob makes and starts a job from a Job resource. media is the uploaded
// data of a load job, nil where there was no upload.
func (s *Sandbox) insertJob(c *call, body object, media *media) (*job, error) {
	project := c.params["projectId"]
	if p := str(body, "jobReference", "projectId"); p != "" && p != project {
		return nil, fail("invalid", "The project of the jobReference is %s, that of the address %s", p, project)
	}
	config := clone(sub(body, "configuration"))
	if err := checkJob(config); err != nil {
		return nil, err
	}
	j := s.newJob(c, project, str(body, "jobReference", "jobId"), str(body, "jobReference", "location"), config)
	for _, kind := range []string{"query", "load", "copy", "extract"} {
		if config[kind] == nil {
			continue
		}
		if j.kind != "" {
			return nil, fail("invalid", "Job configuration must contain exactly one job-specific configuration object (e.g., query, load, extract, spreadsheetExtract), but there were 2 or more: ")
		}
		j.kind = strings.ToUpper(kind)
	}
	if j.kind == "" {
		return nil, fail("required", "Required parameter is missing: configuration.query, load, copy or extract")
	}
	if media != nil && j.kind != "LOAD" {
		return nil, fail("invalid", "Only load jobs take uploaded data")
	}
	config["jobType"] = j.kind
	var work func(context.Context) error
	var err error
	switch j.kind {
	case "QUERY":
		work, err = s.prepareQuery(j, sub(config, "query"))
	case "LOAD":
		work, err = s.prepareLoad(j, sub(config, "load"), media)
	case "COPY":
		work, err = s.prepareCopy(j, sub(config, "copy"))
	case "EXTRACT":
		work, err = s.prepareExtract(j, sub(config, "extract"))
	}
	if err != nil {
		return nil, err
	}
	if j.dryRun {
		if err := s.rehearse(j, work); err != nil {
			return nil, err
		}
	}
	if err := s.start(j, work); err != nil {
		return nil, err
	}
	return j, nil
}

// rehearse does a dry run: nothing is changed, the answer is what can be told
// beforehand, or the error.
func (s *Sandbox) rehearse(j *job, work func(context.Context) error) error {
	release, err := s.engine.hold(j.ctx)
	if err == nil {
		err = work(j.ctx)
		release()
	}
	if err != nil {
		j.stop()
	}
	return err
}

// newJob makes a job that is not started. Its context ends with the sandbox or
// with a cancel, never with the request.
func (s *Sandbox) newJob(c *call, project, id, location string, config object) *job {
	if location == "" {
		location = defaultLocation
	}
	j := &job{
		project: project, id: id, location: location, principal: c.principal, reason: c.reason, config: config, state: statePending,
		created: s.now(), done: make(chan struct{}), dryRun: boolean(config, false, "dryRun"), delay: s.cfg.JobDelay,
	}
	if id == "" {
		j.id = newJobID("job_")
	}
	if ms, err := strconv.ParseInt(str(config, "labels", "sandbox_delay_ms"), 10, 64); err == nil && ms >= 0 {
		j.delay = min(time.Duration(ms)*time.Millisecond, maxDelay)
	}
	j.ctx, j.stop = context.WithCancel(s.ctx)
	if ms, ok := integer(config, "jobTimeoutMs"); ok && ms > 0 {
		// From the job's creation on, as BigQuery has it.
		limited, stop := context.WithTimeoutCause(j.ctx, time.Duration(min(ms, maxJobTimeout.Milliseconds()))*time.Millisecond, errJobTimeout)
		all := j.stop
		j.ctx, j.stop = limited, func() { stop(); all() }
	}
	return j
}

// maxJobTimeout is far above what a sandbox's job takes.
const maxJobTimeout = 24 * time.Hour

var errJobTimeout = errors.New("job timeout")

// stopped is how a job ends that its context ended.
func (j *job) stopped() *apiError {
	if errors.Is(context.Cause(j.ctx), errJobTimeout) {
		ms, _ := integer(j.config, "jobTimeoutMs")
		return fail("stopped", "Job execution was cancelled: Job timed out after %v", time.Duration(ms)*time.Millisecond)
	}
	return fail("stopped", "Job execution was cancelled: User requested cancellation")
}

// start takes a job in and has it run: before start returns where it has no
// delay, in the background where it has.
func (s *Sandbox) start(j *job, work func(context.Context) error) error {
	if len(j.id) > 1024 || !validJobID.MatchString(j.id) {
		j.stop()
		return fail("invalid", "Invalid job ID %q. It may hold letters, digits, _ and -, 1,024 of them at most", j.id)
	}
	if j.dryRun {
		// Its statistics are known already; and a dry run takes no job id.
		j.id = newJobID("dry_")
		if err := s.jobs.add(j); err != nil {
			return err
		}
		s.jobs.finish(j, s.now(), nil)
		return nil
	}
	if err := s.jobs.add(j); err != nil {
		j.stop()
		return err
	}
	if j.delay <= 0 {
		s.perform(j, work)
		return nil
	}
	s.running.Go(func() {
		// A third of the delay PENDING, the rest RUNNING; the effect comes last, so
		// that a cancel before the end leaves none.
		for _, d := range []time.Duration{j.delay / 3, j.delay - j.delay/3} {
			t := time.NewTimer(d)
			select {
			case <-t.C:
			case <-j.ctx.Done():
				t.Stop()
			}
			s.jobs.begin(j, s.now())
		}
		s.perform(j, work)
	})
	return nil
}

// perform runs a job's work and ends the job.
func (s *Sandbox) perform(j *job, work func(context.Context) error) {
	s.jobs.begin(j, s.now())
	err := error(nil)
	release, herr := s.engine.hold(j.ctx)
	if herr != nil {
		err = j.stopped()
	} else {
		// The hold may have won over a cancel that came first.
		if err = j.ctx.Err(); err != nil {
			err = j.stopped()
		} else {
			s.jobs.mu.Lock()
			j.executed = true
			s.jobs.mu.Unlock()
			err = work(j.ctx)
		}
		release()
	}
	var ae *apiError
	if err != nil {
		ae = asAPIError(err)
	}
	s.jobs.finish(j, s.now(), ae)
}

func (s *Sandbox) jobsGet(c *call) (answer, error) {
	j, err := s.jobs.find(c.params["projectId"], c.params["jobId"], c.query("location"))
	if err != nil {
		return nil, err
	}
	return reply(s.jobs.object(j, c.host))
}

func (s *Sandbox) jobsCancel(c *call) (answer, error) {
	j, err := s.jobs.find(c.params["projectId"], c.params["jobId"], c.query("location"))
	if err != nil {
		return nil, err
	}
	j.stop()
	select {
	case <-j.done:
	case <-c.r.Context().Done():
	}
	return reply(object{"kind": "bigquery#jobCancelResponse", "job": s.jobs.object(j, c.host)})
}

func (s *Sandbox) jobsDelete(c *call) (answer, error) {
	j, err := s.jobs.find(c.params["projectId"], c.params["jobId"], c.query("location"))
	if err != nil {
		return nil, err
	}
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	if j.state != stateDone {
		return nil, fail("invalid", "Cannot delete a job that is not done: %s", j.id)
	}
	if j.parent != nil {
		return nil, fail("invalid", "Cannot delete a child job; delete its parent %s", j.parent.id)
	}
	// Only what REST gives is forgotten; Jobs still knows it.
	for _, gone := range append(slices.Clone(j.children), j) {
		delete(s.jobs.byID, gone.project+":"+gone.id)
	}
	return noContent{}, nil
}

func (s *Sandbox) jobsList(c *call) (answer, error) {
	q := c.r.URL.Query()
	bounds := object{"min": q.Get("minCreationTime"), "max": q.Get("maxCreationTime"), "n": q.Get("maxResults")}
	earliest, hasMin := integer(bounds, "min")
	latest, hasMax := integer(bounds, "max")
	states := q["stateFilter"]
	for i, st := range states {
		states[i] = strings.ToUpper(st)
		if !slices.Contains([]string{statePending, stateRunning, stateDone}, states[i]) {
			return nil, fail("invalid", "Invalid stateFilter %q", st)
		}
	}
	projection := strings.ToLower(q.Get("projection"))
	if projection != "" && projection != "full" && projection != "minimal" {
		return nil, fail("invalid", "Invalid projection %q", q.Get("projection"))
	}
	parent := q.Get("parentJobId")
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	if parent != "" && s.jobs.byID[c.params["projectId"]+":"+parent] == nil {
		return nil, notFound("Job", c.params["projectId"]+":"+defaultLocation+"."+parent)
	}
	var found []*job
	oldest := s.now().Add(-jobHistory)
	for _, j := range slices.Backward(s.jobs.order) {
		created := j.created.UnixMilli()
		switch {
		case j.created.Before(oldest):
		case j.project != c.params["projectId"], j.dryRun, s.jobs.byID[j.project+":"+j.id] != j:
		case parent == "" && j.parent != nil, parent != "" && (j.parent == nil || j.parent.id != parent):
		case q.Get("allUsers") != "true" && j.principal != c.principal:
		case hasMin && created < earliest, hasMax && created > latest:
		case len(states) > 0 && !slices.Contains(states, j.state):
		default:
			found = append(found, j)
		}
	}
	n, _ := integer(bounds, "n")
	if n <= 0 {
		n = 50
	}
	page, next, err := pageOf(found, n, q.Get("pageToken"))
	if err != nil {
		return nil, err
	}
	items := make([]any, len(page))
	for i, j := range page {
		o := j.objectLocked(c.host)
		o["state"] = j.state
		if j.err != nil {
			o["errorResult"] = j.err.proto()
		}
		if projection != "full" {
			// The documentation: "minimal" leaves the configuration out.
			delete(o, "configuration")
		}
		for _, k := range []string{"etag", "selfLink", "jobCreationReason"} {
			delete(o, k)
		}
		items[i] = o
	}
	o := object{"kind": "bigquery#jobList", "jobs": items}
	o["etag"] = etagOf(object{"n": len(found), "p": q.Get("pageToken")})
	if next != "" {
		o["nextPageToken"] = next
	}
	return reply(o)
}

// await waits for a job, as long as a request's timeoutMs says; default 10 s.
func (s *Sandbox) await(r *http.Request, j *job, timeout object) (done bool) {
	d := 10 * time.Second
	if ms, ok := integer(timeout, "timeoutMs"); ok && ms >= 0 {
		d = min(time.Duration(ms)*time.Millisecond, 200*time.Second)
	}
	select {
	case <-j.done:
		return true
	default:
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-j.done:
		return true
	case <-t.C:
	case <-r.Context().Done():
	case <-s.ctx.Done():
	}
	return false
}

func (s *Sandbox) jobsGetQueryResults(c *call) (answer, error) {
	j, err := s.jobs.find(c.params["projectId"], c.params["jobId"], c.query("location"))
	if err != nil {
		return nil, err
	}
	if j.kind != "QUERY" {
		return nil, fail("invalid", "Cannot get query results of job %s: it is not a query", j.id)
	}
	format, err := formatOf(c.query("formatOptions.useInt64Timestamp"), c.query("formatOptions.timestampOutputFormat"))
	if err != nil {
		return nil, err
	}
	params := object{}
	for _, k := range []string{"maxResults", "timeoutMs"} {
		if v := c.query(k); v != "" {
			params[k] = v
		}
	}
	if !s.await(c.r, j, params) {
		s.jobs.mu.Lock()
		defer s.jobs.mu.Unlock()
		return reply(object{"kind": "bigquery#getQueryResultsResponse", "jobReference": j.referenceLocked(), "jobComplete": false})
	}
	return s.resultPage(j, params, c.query("pageToken"), c.query("startIndex"), format, "bigquery#getQueryResultsResponse")
}

// resultPage is the answer of jobs.query and getQueryResults for a job that is
// done.
func (s *Sandbox) resultPage(j *job, params object, pageToken, startIndex string, format timestampFormat, kind string) (answer, error) {
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	if j.err != nil {
		return nil, j.err
	}
	head := object{
		"kind": kind, "jobReference": j.referenceLocked(), "jobComplete": true, "cacheHit": j.cacheHit, "totalBytesProcessed": decimal(j.bytes),
	}
	if j.dropped {
		return nil, fail("notFound", "Not found: the results of job %s:%s.%s are no longer kept", j.project, j.location, j.id)
	}
	src := j.result
	if src == nil {
		src = &resultSet{}
	}
	if cols := src.columns(); len(cols) > 0 {
		head["schema"] = schemaObject(cols, true)
	} else if schema := sub(j.statistics, "schema"); schema != nil {
		head["schema"] = schema
	}
	head["totalRows"] = decimal(src.count())
	if j.affected != nil {
		head["numDmlAffectedRows"] = decimal(*j.affected)
	}
	if kind == "bigquery#queryResponse" {
		head["queryId"], head["location"], head["statementType"], head["jobCreationReason"] = j.id, j.location, j.statementType, object{"code": "REQUESTED"}
		head["creationTime"], head["startTime"], head["endTime"] = millis(j.created), millis(j.started), millis(j.ended)
		head["totalSlotMs"], head["totalBytesBilled"] = decimal(j.slotMillisLocked()), get(j.statistics, "totalBytesBilled")
		if d := sub(j.statistics, "dmlStats"); d != nil {
			head["dmlStats"] = d
		}
		if j.dryRun {
			delete(head, "queryId")
			delete(head["jobReference"].(object), "jobId")
		}
	} else {
		head["etag"] = etagOf(object{"j": j.id, "t": pageToken, "i": startIndex})
	}
	from, to, err := pageFrom(params, src, pageToken, startIndex)
	if err != nil {
		return nil, err
	}
	return &rowPage{head: head, src: src, from: from, to: to, maxBytes: s.cfg.MaxPageBytes, format: format, token: "pageToken"}, nil
}
