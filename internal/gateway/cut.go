package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/policy"
)

// Suspended tells whether calls of an agent over a connection ("": not known yet)
// are suspended: what is ("agent etl-bot"), and why.
type Suspended func(agent, connection string) (what, reason string, is bool)

// errSuspended is why a call in flight was cut.
var errSuspended = errors.New("suspended")

// flight is a call under way.
type flight struct {
	agent, connection string
	cut               context.CancelCauseFunc
	ended             chan struct{} // of one that was cut; nil: it was not
}

// flights are the calls under way, so that a suspension can cut them.
type flights struct {
	mu  sync.Mutex // guards all, and each flight's connection
	all map[*flight]struct{}
}

func newFlights() *flights { return &flights{all: map[*flight]struct{}{}} }

// begin registers a call before it is asked whether it is suspended: a suspension
// comes before the one or the other.
func (f *flights) begin(ctx context.Context, agent string) (context.Context, *flight) {
	ctx, cut := context.WithCancelCause(ctx)
	x := &flight{agent: agent, cut: cut}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all[x] = struct{}{}
	return ctx, x
}

func (f *flights) over(x *flight, connection string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x.connection = connection
}

func (f *flights) end(x *flight) {
	f.mu.Lock()
	delete(f.all, x)
	if x.ended != nil {
		close(x.ended)
	}
	f.mu.Unlock()
	x.cut(nil)
}

// cutLanded waits until the calls that were cut have ended, so that what is known of
// their jobs is known; not beyond landing.
func (f *flights) cutLanded(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, landing)
	defer cancel()
	f.mu.Lock()
	var all []chan struct{}
	for x := range f.all {
		if x.ended != nil {
			all = append(all, x.ended)
		}
	}
	f.mu.Unlock()
	for _, ended := range all {
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
	}
}

// landing is how long a call that was cut may take to record its outcome.
const landing = 30 * time.Second

// CutSuspended ends the calls under way that are suspended by now, and tells how
// many. Their outcomes are recorded as those of all others; whether BigQuery did
// what it was asked is in doubt where the answer was cut.
func (g *Gateway) CutSuspended() int {
	if g.cfg.Suspended == nil {
		return 0
	}
	g.flights.mu.Lock()
	defer g.flights.mu.Unlock()
	n := 0
	for x := range g.flights.all {
		if _, _, is := g.cfg.Suspended(x.agent, x.connection); is {
			if x.ended == nil {
				x.ended = make(chan struct{})
			}
			x.cut(errSuspended)
			n++
		}
	}
	return n
}

// suspended is the answer to a call that may not be made for now; nil if it may.
func (g *Gateway) suspended(agent, connection string) *bigquery.Error {
	if g.cfg.Suspended == nil {
		return nil
	}
	what, reason, is := g.cfg.Suspended(agent, connection)
	if !is {
		return nil
	}
	return suspension(what, reason)
}

func suspension(what, reason string) *bigquery.Error {
	why := what + " may make no calls for now"
	if reason != "" {
		why += ": " + reason
	}
	return denied(why + "; ask whoever runs the gateway")
}

// wasCut reports whether a call's context ended by a suspension.
func wasCut(ctx context.Context) bool {
	return ctx.Err() != nil && errors.Is(context.Cause(ctx), errSuspended)
}

// Bounds of the jobs that are known to run: how many, and what is kept of the calls
// that began them, bytes. What falls out is asked of BigQuery (see runningBefore).
const (
	maxRunning  = 20_000
	runningRoom = 32 << 20
)

// running are the jobs that were begun through this gateway since it started and
// were not seen finished. Those are among them whose answers were lost, so that they
// may or may not run.
type running struct {
	mu  sync.Mutex // guards all
	all recent[*runningJob]
}

type runningJob struct {
	key        string
	job        trailgate.Job    // without an id where BigQuery chose it, and its answer was lost
	doubtful   bool             // whether it was begun is not known
	entry      *trailgate.Entry // the intent that began it
	connection string
	ours       identity.Identity
}

func newRunning() *running {
	return &running{all: recent[*runningJob]{most: maxRunning, room: runningRoom, size: (*runningJob).bytes}}
}

// bytes is about what one takes.
func (x *runningJob) bytes() int {
	const fixed = 2 << 10 // entry, principal, identity and what is short in them
	n := fixed + len(x.ours.Assertion) + len(x.entry.Client)
	if t := x.entry.Tables; t != nil {
		n += stringsBytes(t.Read) + stringsBytes(t.Written)
	}
	return n
}

// stringsBytes is what a list takes.
func stringsBytes(list []string) int {
	n := 16 * len(list)
	for _, s := range list {
		n += len(s)
	}
	return n
}

// begunBy is what has to be known of an intent once its call has ended: whose it is,
// what it is, and what was read of it; not its statements, which may be long.
func begunBy(intent *trailgate.Entry) *trailgate.Entry {
	e := *intent
	e.Statements, e.Request, e.Decision = nil, nil, nil
	return &e
}

// saw learns from an outcome: of a job that was begun, or that has finished.
func (r *running) saw(intent, result *trailgate.Entry, who identity.Identity, creates bool) {
	job := result.Job
	if job == nil || job.ID == "" {
		job = intent.Job
	}
	lost := creates && slices.Contains(result.Flags, "effect_unknown")
	key := ""
	switch {
	case job != nil && job.ID != "":
		key = jobKey(job.Project, job.ID)
	case lost:
		key, job = "entry/"+intent.ID, &trailgate.Job{Project: intent.Project, Location: intent.Location}
	default:
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case result.Outcome.JobState == "DONE":
		r.all.drop(key)
	case lost || creates && result.Outcome.Status < 400 && result.Outcome.Status > 0:
		r.all.get(key, func() *runningJob {
			return &runningJob{key: key, job: *job, doubtful: lost, entry: begunBy(intent), connection: intent.Connection, ours: who}
		})
	}
}

// began is the intent that began a job which was not seen finished; nil where it is
// not known.
func (r *running) began(key string) *trailgate.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x, ok := r.all.peek(key); ok {
		return x.entry
	}
	return nil
}

func (r *running) take(which func(*runningJob) bool) []*runningJob {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runningJob
	for el := r.all.used.Front(); el != nil; el = el.Next() {
		if x := el.Value.(*kept[*runningJob]).value; which(x) {
			out = append(out, x)
		}
	}
	return out
}

// Cancelled is what came of cancelling a job.
type Cancelled struct {
	Agent, Connection, Project, Job string
	Error                           string // "": BigQuery took the request
}

// CancelSuspended has BigQuery cancel the jobs that suspended agents began through
// this gateway since it started and that were not seen finished, and of those before
// that, in the last day, the ones that BigQuery says are running, each with the
// credential of its agent; those of calls that the suspension cut, too, whose ids the
// agents never learnt. Each is a call with an entry of its own. The error is
// that of a trail that cannot be written; what is left then was not asked for.
func (g *Gateway) CancelSuspended(ctx context.Context) ([]Cancelled, error) {
	if g.cfg.Suspended == nil {
		return nil, nil
	}
	g.flights.cutLanded(ctx)
	jobs := g.running.take(func(x *runningJob) bool {
		_, _, is := g.cfg.Suspended(x.entry.Principal.Agent, x.connection)
		return is
	})
	out := make([]Cancelled, 0, len(jobs))
	earlier, failed := g.runningBefore(ctx)
	jobs = append(jobs, earlier...)
	out = append(out, failed...)
	for _, known := range jobs {
		x := *known // another suspension may be at it too
		err := g.identifyLost(ctx, &x)
		if err == nil && x.job.ID == "" {
			continue // BigQuery has no such job
		}
		done := Cancelled{Agent: x.entry.Principal.Agent, Connection: x.connection, Project: x.job.Project, Job: x.job.ID}
		if err == nil {
			err = g.cancel(ctx, &x)
		}
		var failed *cancelError
		switch {
		case errors.Is(err, errNothingRuns):
			continue
		case errors.As(err, &failed):
			done.Error = failed.Error()
		case err != nil:
			return out, err
		}
		out = append(out, done)
	}
	return out, nil
}

// errNothingRuns: BigQuery does not have the job, or has finished it, of a call whose answer was lost.
var errNothingRuns = errors.New("no such job runs")

// lostWait is between looks at BigQuery's job list, which lags by some seconds.
var lostWait = []time.Duration{0, time.Second, 3 * time.Second}

// identifyLost finds the id of a job that BigQuery chose it for, and whose answer was
// lost, by the label that names its entry. It stays "" where there is no such job.
func (g *Gateway) identifyLost(ctx context.Context, x *runningJob) error {
	conn := g.connectionNamed(x.connection)
	if x.job.ID != "" || conn == nil {
		return nil
	}
	var last error
	for _, wait := range lostWait {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return &cancelError{"cancelled while its job was looked for"}
		case <-timer.C:
		}
		var found *bigquery.Facts
		found, last = g.findLabelled(ctx, conn, x.entry, asked(x.entry, x.ours, conn), x.entry.Time.Add(-time.Minute), g.cfg.Now().Add(time.Minute))
		if found != nil && found.Job != nil {
			x.job = *found.Job
			if found.Outcome.JobState == "DONE" {
				g.running.forget(x.key)
				return errNothingRuns
			}
			return nil
		}
	}
	if last != nil {
		return &cancelError{"the job of entry " + x.entry.ID + " cannot be looked for: " + rootCause(last)}
	}
	g.running.forget(x.key)
	return nil
}

func (r *running) forget(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all.drop(key)
}

// cancelError is BigQuery's no, or that it could not be asked.
type cancelError struct{ why string }

func (e *cancelError) Error() string { return e.why }

func (g *Gateway) cancel(ctx context.Context, x *runningJob) error {
	conn := g.connectionNamed(x.connection)
	path := "/bigquery/v2/projects/" + url.PathEscape(x.job.Project) + "/jobs/" + url.PathEscape(x.job.ID) + "/cancel"
	query := ""
	if x.job.Location != "" {
		query = "location=" + url.QueryEscape(x.job.Location)
	}
	c, refusal := bigquery.Route(bigquery.Request{Verb: http.MethodPost, EscapedPath: path, RawQuery: query})
	if conn == nil || refusal != nil {
		return &cancelError{"the job's connection is not there any more"}
	}
	e := g.sibling(x.entry)
	e.Kind, e.Method, e.Class = trailgate.KindIntent, c.Method, c.Class
	e.Client = ""
	job := x.job
	job.OwnerAgent, job.OwnerEntry = x.entry.Principal.Agent, x.entry.ID
	up := conn.Credential.Describe()
	e.Job = &job
	e.Request = &trailgate.Request{Verb: c.Verb, Path: c.Path, For: x.entry.ID}
	e.Decision = &trailgate.Decision{Effect: policy.Allow, Rule: ruleSuspended, Reason: "the agent or connection was suspended, and its jobs are to end"}
	e.Upstream = &trailgate.Upstream{Mode: up.Mode, Shared: up.Shared, Host: conn.Upstream.Host}
	if err := g.append(ctx, e); err != nil {
		return err
	}
	result := outcomeOf(e)
	answer := g.send(ctx, e, x.ours, conn, c, c.Verb, c.Path, nil)
	o := answer.facts.Outcome
	o.Status, o.End, o.Bytes, o.ErrorReason, o.ErrorMessage = answer.status, answer.end, answer.bytes, clip(o.ErrorReason, 128), clip(o.ErrorMessage, 1024)
	if answer.err != nil {
		o.ErrorMessage = clip(answer.err.Error(), 1024)
	}
	result.Outcome, result.Upstream, result.Job, result.Flags = &o, answer.upstream, answer.facts.Job, answer.flags
	if err := g.append(ctx, result); err != nil {
		return err
	}
	g.metrics.outcome(result)
	switch {
	case answer.err != nil:
		return &cancelError{answer.err.Error()}
	case answer.status == http.StatusNotFound && x.doubtful:
		g.running.forget(x.key)
		return errNothingRuns
	case answer.status >= 400:
		return &cancelError{o.ErrorMessage}
	}
	g.running.forget(x.key)
	return nil
}
