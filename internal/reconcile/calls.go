package reconcile

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/trailgate/trailgate"
)

// Trail is the log, as *trail.Trail is one.
type Trail interface {
	// Size is the number of durable entries.
	Size() uint64
	// Get returns one entry's encoding.
	Get(ctx context.Context, seq uint64) ([]byte, error)
	// Scan calls fn for the durable entries from seq on, in order, until fn returns an
	// error, which it returns.
	Scan(ctx context.Context, from uint64, fn func(seq uint64, raw []byte) error) error
}

// call is what the trail says of one call that makes a job, or reads rows without one.
type call struct {
	entry          string
	seq            uint64
	time           time.Time
	agent, session string
	connection     string
	method         string
	project, job   string // job: "" where it is not known
	location       string
	statement      [32]byte // of the SQL, where hasStatement
	hasStatement   bool
	tables         []string // of one that reads or writes rows without a job
	principal      string   // as whom the call went on; "" where that is not known
	closed         bool     // there is an outcome, or a settlement
	closing        string   // the entry
	settled        bool
	unknown        bool // the outcome's answer was lost: whether there is a job is not known
	failed         bool // BigQuery refused it, or it never went there
	named          bool // BigQuery itself named the job
	final          bool // the figures are of a job that was done
	figures        trailgate.Outcome

	matched bool
}

func (c *call) key() string {
	if c.job == "" {
		return ""
	}
	return c.project + ":" + c.job
}

// open reports whether what became of the call is not known.
func (c *call) open() bool { return !c.settled && (!c.closed || c.unknown) }

// makesJob reports whether a method's calls make jobs.
func makesJob(method string) bool {
	return method == "bigquery.jobs.insert" || method == "bigquery.jobs.query"
}

// begin makes a call of the entry that opened it; nil where the call is none that
// BigQuery's records can tell of.
func begin(e *trailgate.Entry) *call {
	if e.Kind != trailgate.KindIntent || e.Request == nil || e.Request.DryRun || e.Upstream == nil || e.Upstream.Mode == "local" {
		return nil
	}
	if !makesJob(e.Method) && !readsRows(e.Method) {
		return nil
	}
	c := &call{entry: e.ID, seq: e.Seq, time: e.Time, session: e.Session, connection: e.Connection, method: e.Method, project: e.Project, principal: e.Upstream.Principal}
	if e.Principal != nil {
		c.agent = e.Principal.Agent
	}
	if makesJob(e.Method) && e.Job != nil && e.Job.ID != "" {
		c.named = false
		c.project, c.job, c.location = e.Job.Project, e.Job.ID, e.Job.Location
	}
	if readsRows(e.Method) && e.Tables != nil {
		c.tables = slices.Concat(e.Tables.Read, e.Tables.Written)
	}
	for _, s := range e.Statements {
		if s.Where == "query" || s.Where == "configuration.query.query" {
			if sum, err := hex.DecodeString(s.SHA256); err == nil && len(sum) == len(c.statement) {
				copy(c.statement[:], sum)
				c.hasStatement = true
			}
		}
	}
	return c
}

// readsRows reports whether a method's calls leave rows' reads or writes in the audit
// log, and no job.
func readsRows(method string) bool {
	return method == "bigquery.tabledata.list" || method == "bigquery.tabledata.insertAll"
}

// end adds what a later entry of the call says.
func (c *call) end(e *trailgate.Entry) {
	o := e.Outcome
	if o == nil || e.Kind != trailgate.KindOutcome && e.Kind != trailgate.KindSettled {
		return
	}
	c.closing = e.ID
	if e.Upstream != nil && e.Upstream.Principal != "" {
		c.principal = e.Upstream.Principal
	}
	if e.Kind == trailgate.KindSettled {
		c.closed, c.settled = true, true
		c.failed = o.End == settledAbsent
		c.named = o.End == settledFound
	} else {
		c.closed = true
		c.unknown = slices.Contains(e.Flags, "effect_unknown")
		c.failed = !c.unknown && (o.Status >= 400 || o.End == trailgate.EndNotForwarded || o.End == trailgate.EndRefused || o.End == trailgate.EndUpstreamDown)
	}
	if e.Job != nil && e.Job.ID != "" && makesJob(c.method) && !c.failed {
		c.project, c.job, c.named = e.Job.Project, e.Job.ID, true
		if e.Job.Location != "" {
			c.location = e.Job.Location
		}
	}
	c.figures = *o
	c.final = o.JobState == "DONE" && o.CaptureError == "" && !c.failed
	if c.figures.ErrorReason != "" {
		c.final = false
	}
}

// errTooMany means that a slice has more than may be held in memory.
var errTooMany = errors.New("more than may be held in memory")

// kept are marks that an entry of interest has among its bytes, which spares most
// entries their decoding.
var kept = [][]byte{[]byte(`"method":"bigquery.jobs.insert"`), []byte(`"method":"bigquery.jobs.query"`), []byte(`"method":"bigquery.tabledata.`)}

func interesting(raw []byte, rows bool) bool {
	marks := kept
	if !rows {
		marks = kept[:2]
	}
	for _, m := range marks {
		if bytes.Contains(raw, m) {
			return true
		}
	}
	return false
}

// collect reads the calls of a connection that were recorded from from on and before
// until, with what later entries of that time say of them; errTooMany where there are
// more than most. rows adds calls that read rows without a job.
func collect(ctx context.Context, t Trail, connection string, from, until time.Time, rows bool, most int) ([]*call, error) {
	first, err := seqAt(ctx, t, from)
	if err != nil {
		return nil, err
	}
	var calls []*call
	byID := map[string]*call{}
	errDone := errors.New("done")
	err = t.Scan(ctx, first, func(seq uint64, raw []byte) error {
		if seq&0xff == 0 {
			// Entries that are not looked at are not decoded, and their time is not known:
			// now and then it is read all the same, so as not to run on to the log's end.
			at, err := timeOf(raw)
			if err != nil {
				return err
			}
			if !at.Before(until) {
				return errDone
			}
		}
		if !interesting(raw, rows) {
			return nil
		}
		var e trailgate.Entry
		if err := e.UnmarshalJSON(raw); err != nil {
			return fmt.Errorf("entry %d: %w", seq, err)
		}
		if !e.Time.Before(until) {
			return errDone
		}
		if e.Connection != connection {
			return nil
		}
		if e.IntentID != "" {
			if c := byID[e.IntentID]; c != nil {
				c.end(&e)
			}
		}
		c := begin(&e)
		if c == nil {
			return nil
		}
		if len(calls) >= most {
			return errTooMany
		}
		calls = append(calls, c)
		byID[c.entry] = c
		return nil
	})
	if err != nil && !errors.Is(err, errDone) {
		return nil, err
	}
	return calls, nil
}

// seqAt is the place of the first entry that is not older than at.
func seqAt(ctx context.Context, t Trail, at time.Time) (uint64, error) {
	var failed error
	n := sort.Search(int(min(t.Size(), 1<<62)), func(i int) bool {
		if failed != nil {
			return true
		}
		raw, err := t.Get(ctx, uint64(i))
		if err == nil {
			var when time.Time
			if when, err = timeOf(raw); err == nil {
				return !when.Before(at)
			}
		}
		failed = err
		return true
	})
	return uint64(n), failed
}

// timeOf reads an entry's time, which is its third member, without decoding the rest.
func timeOf(raw []byte) (time.Time, error) {
	const mark = `"time":"`
	if i := bytes.Index(raw[:min(len(raw), 128)], []byte(mark)); i >= 0 {
		rest := raw[i+len(mark):]
		if j := bytes.IndexByte(rest, '"'); j >= 0 {
			return time.Parse(time.RFC3339Nano, string(rest[:j]))
		}
	}
	return time.Time{}, errors.New("the entry has no time")
}

// callOf makes a call of all its entries, in the log's order.
func callOf(stages []*trailgate.Entry) *call {
	var c *call
	for _, e := range stages {
		if c == nil {
			c = begin(e)
			continue
		}
		c.end(e)
	}
	return c
}
