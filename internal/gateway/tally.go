package gateway

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/policy"
)

// Bounds of what is counted in memory. What falls out is counted from nothing again.
const (
	maxTallies = 50_000  // sessions
	maxReads   = 100_000 // results that a session reads under a limit
	maxBilled  = 50_000  // jobs that a session was billed for
)

// tallies are what sessions have done so far, for rules that look at it. They begin
// anew with the gateway, as sessions do.
type tallies struct {
	now func() time.Time

	mu     sync.Mutex // guards both
	sum    recent[*policy.Session]
	billed recent[*int64] // of jobs, as last seen: many answers tell of one job
}

func newTallies(now func() time.Time) *tallies {
	return &tallies{now: now, sum: recent[*policy.Session]{most: maxTallies}, billed: recent[*int64]{most: maxBilled}}
}

// session is a session's sum before the present call.
func (t *tallies) session(id string) policy.Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return *t.get(id)
}

func (t *tallies) get(id string) *policy.Session {
	return t.sum.get(id, func() *policy.Session { return &policy.Session{ID: id, Started: t.now()} })
}

// add counts a call that has ended.
func (t *tallies) add(id string, e *trailgate.Entry) {
	o := e.Outcome
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.get(id)
	s.Calls++
	s.Rows += o.Rows
	s.Bytes += o.Bytes
	t.billLocked(s, id, e)
}

// billedLater counts what the gateway asked for itself.
func (t *tallies) billedLater(id string, e *trailgate.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.billLocked(t.get(id), id, e)
}

// billLocked counts what an answer says of a job's bill, each job once.
func (t *tallies) billLocked(s *policy.Session, id string, e *trailgate.Entry) {
	o := e.Outcome
	if e.Job == nil || e.Job.ID == "" || o.BytesBilled == 0 {
		return
	}
	seen := t.billed.get(short(id+"/"+jobKey(e.Job.Project, e.Job.ID)), func() *int64 { return new(int64) })
	if o.BytesBilled > *seen {
		s.BytesBilled += o.BytesBilled - *seen
		*seen = o.BytesBilled
	}
}

func (t *tallies) drop(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.drop(id)
}

// reads counts what sessions have read of results that a rule limits.
type reads struct {
	mu  sync.Mutex // guards all
	all recent[*reading]
}

// reading is what one session has read of one result. Calls that read it go one
// after the other, so that two together cannot read more than one might.
type reading struct {
	turn        chan struct{} // holds one token, for who may read
	rows, bytes int64
}

func newReads() *reads { return &reads{all: recent[*reading]{most: maxReads}} }

func (r *reads) of(key string) *reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.get(short(key), func() *reading {
		x := &reading{turn: make(chan struct{}, 1)}
		x.turn <- struct{}{}
		return x
	})
}

// allowance is what a call may still read, and where that is counted.
type allowance struct {
	limits policy.Limits
	count  *reading
	reads  *reads
	key    string // "": known only once BigQuery has named the job
}

// Methods that hand out rows.
const (
	methodResults = "bigquery.jobs.getQueryResults"
	methodRows    = "bigquery.tabledata.list"
	methodInsert  = "bigquery.jobs.insert"
	methodQuery   = "bigquery.jobs.query"
	methodJob     = "bigquery.jobs.get"
	methodCancel  = "bigquery.jobs.cancel"
)

// allow says what a call that reads a result may still read of it: the lower of
// what the call's own rule and the rule that let the job run give. It waits for
// other calls that read the same; done must be called at the end.
func (g *Gateway) allow(ctx context.Context, e *trailgate.Entry, c *bigquery.Call, l policy.Limits) (*allowance, *bigquery.Error) {
	a := &allowance{limits: policy.Limits{MaxRows: l.MaxRows, MaxBytes: l.MaxBytes}, reads: g.reads}
	switch c.Method {
	case methodResults:
		if e.Job != nil {
			rows, bytes := g.resultLimits(e)
			a.limits.MaxRows, a.limits.MaxBytes = lower(a.limits.MaxRows, rows), lower(a.limits.MaxBytes, bytes)
			a.key = e.Session + "/" + jobKey(e.Job.Project, e.Job.ID)
		}
	case methodRows:
		if len(c.Read) > 0 {
			a.key = e.Session + "/table/" + c.Read[0]
		}
	case methodQuery:
	default:
		return nil, nil
	}
	if a.limits.MaxRows == 0 && a.limits.MaxBytes == 0 {
		return nil, nil
	}
	if a.key == "" {
		return a, nil
	}
	a.count = g.reads.of(a.key)
	select {
	case <-a.count.turn:
	case <-ctx.Done():
		return nil, unavailable("cancelled")
	}
	rows, bytes := a.left()
	if a.limits.MaxRows > 0 && rows <= 0 {
		a.done(nil, nil)
		return nil, denied(fmt.Sprintf("this session has read the %d rows that it may read of this result", a.limits.MaxRows))
	}
	if a.limits.MaxBytes > 0 && bytes <= 0 {
		a.done(nil, nil)
		return nil, denied(fmt.Sprintf("this session has read the %d bytes that it may read of this result", a.limits.MaxBytes))
	}
	return a, nil
}

// left is how many rows and bytes may still be read; 0 of what has no limit.
func (a *allowance) left() (rows, bytes int64) {
	if a == nil {
		return 0, 0
	}
	rows, bytes = a.limits.MaxRows, a.limits.MaxBytes
	if a.count != nil {
		if rows > 0 {
			rows -= a.count.rows
		}
		if bytes > 0 {
			bytes -= a.count.bytes
		}
	}
	return rows, bytes
}

// done counts what was read, and lets the next one read.
func (a *allowance) done(e *trailgate.Entry, o *trailgate.Outcome) {
	if a == nil {
		return
	}
	if a.count == nil { // jobs.query: the job's id is known now
		if e == nil || e.Job == nil || e.Job.ID == "" || o == nil {
			return
		}
		a.count = a.reads.of(e.Session + "/" + jobKey(e.Job.Project, e.Job.ID))
		<-a.count.turn
	}
	if o != nil {
		a.count.rows += o.Rows
		a.count.bytes += o.Bytes
	}
	a.count.turn <- struct{}{}
}

// lower is the lower of two limits, of which 0 is none.
func lower(a, b int64) int64 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// resultLimits are those that the decision about a job gave to reading its result.
func (g *Gateway) resultLimits(e *trailgate.Entry) (rows, bytes int64) {
	limits := g.owners.limits(jobKey(e.Job.Project, e.Job.ID))
	number := func(name string) int64 {
		n, err := strconv.ParseInt(limits[name], 10, 64)
		if err != nil {
			return 0 // what is not there, or was not written by a rule
		}
		return n
	}
	return number("max_rows"), number("max_bytes")
}

// tooMuch is the answer to a call whose result is larger than may be read.
func tooMuch(limit int64) *bigquery.Error {
	return &bigquery.Error{
		Status: http.StatusForbidden, Reason: "accessDenied",
		Message: fmt.Sprintf("Trailgate: the answer is larger than the %d bytes that this session may still read of this result; ask for fewer rows or columns", limit),
	}
}
