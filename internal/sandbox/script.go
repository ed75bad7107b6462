package sandbox

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// script runs several statements, each as a child job of its own. A statement
// that fails ends the script.
func (w *queryJob) script(ctx context.Context, stmts []googlesql.Statement) (err error) {
	w.setType("SCRIPT")
	if w.land != nil {
		return fail("invalid", "configuration.query.destinationTable cannot be set for scripts")
	}
	// As in BigQuery, what is no statement at all keeps the whole script from
	// running.
	for _, stmt := range stmts {
		if stmt.Type == "" {
			if _, err := googlesql.Parse(stmt, w.x.scope()); err != nil {
				return err
			}
		}
	}
	if w.x.dryRun {
		w.s.jobs.mu.Lock()
		defer w.s.jobs.mu.Unlock()
		w.j.statistics = object{"statementType": "SCRIPT", "totalBytesProcessed": "0", "totalBytesBilled": "0", "totalBytesProcessedAccuracy": "LOWER_BOUND", "cacheHit": false}
		return nil
	}
	w.x.temporary = map[string]*table{}
	defer func() { err = errors.Join(err, w.x.end(context.WithoutCancel(ctx))) }()
	prefix := newJobID("script_job_")
	n := 0
	for _, stmt := range stmts {
		run := stmt
		if stmt.Type == "EXECUTE_IMMEDIATE" {
			if run, err = w.immediate(ctx, stmt); err != nil {
				return at(err, stmt)
			}
		}
		kind := "STATEMENT"
		switch run.Type {
		case "DECLARE", "SET":
			kind = ""
			if strings.Contains(strings.ToUpper(run.Text), "SELECT") {
				kind = "EXPRESSION" // only those are jobs in BigQuery
			}
		}
		var child *job
		if kind != "" {
			child = w.child(prefix, n, kind, stmt, run)
			n++
			if err := w.s.jobs.add(child); err != nil {
				return err
			}
		}
		o, rerr := w.x.run(ctx, run)
		if child != nil {
			if rerr == nil {
				w.s.record(child, o)
			}
			var ae *apiError
			if rerr != nil {
				ae = asAPIError(rerr)
			}
			w.s.jobs.finish(child, w.s.now(), ae)
		}
		if rerr != nil {
			return at(rerr, stmt)
		}
		w.add(o)
	}
	return nil
}

// at says where in a script a statement failed.
func at(err error, stmt googlesql.Statement) error {
	e := *asAPIError(err)
	e.message = "Query error: " + e.message + " at " + stmt.Start.String()
	return &e
}

// immediate evaluates the text of EXECUTE IMMEDIATE and gives the statement
// that it is.
func (w *queryJob) immediate(ctx context.Context, stmt googlesql.Statement) (googlesql.Statement, error) {
	w.x.reads, w.x.views = nil, nil
	plan, err := googlesql.Parse(stmt, w.x.scope())
	if err != nil {
		return stmt, err
	}
	r, err := w.x.fetch(ctx, plan.Query, plan.Query.SQL)
	if err != nil {
		return stmt, err
	}
	text := ""
	if len(r.rows) == 1 && len(r.cols) == 1 {
		text, _ = r.rows[0][0].(string)
	}
	inner, err := googlesql.Split(text, false)
	if err != nil {
		return stmt, err
	}
	if len(inner) != 1 || inner[0].Type == "EXECUTE_IMMEDIATE" {
		return stmt, fail("invalidQuery", "EXECUTE IMMEDIATE takes one statement, which is not EXECUTE IMMEDIATE itself")
	}
	return inner[0], nil
}

// child makes the job of a script's statement.
func (w *queryJob) child(prefix string, n int, kind string, stmt, run googlesql.Statement) *job {
	query := object{"query": run.Text, "useLegacySql": false, "priority": w.q["priority"]}
	for _, k := range []string{"defaultDataset", "queryParameters", "parameterMode"} {
		if w.q[k] != nil {
			query[k] = cloneValue(w.q[k])
		}
	}
	config := object{"query": query, "jobType": "QUERY"}
	if labels := sub(w.j.config, "labels"); labels != nil {
		config["labels"] = clone(labels)
	}
	// bq and others put a script's jobs in order by creationTime, which counts
	// milliseconds; at BigQuery's pace that tells them apart.
	now := w.s.now()
	if n := len(w.j.children); n > 0 {
		if earliest := w.j.children[n-1].created.Add(time.Millisecond); now.Before(earliest) {
			now = earliest
		}
	}
	j := &job{
		project: w.j.project, id: prefix + "_" + decimal(n), location: w.j.location, kind: "QUERY", principal: w.j.principal, reason: w.j.reason,
		statement: run.Text, parent: w.j, config: config, state: stateRunning, statementType: run.Type, created: now, started: now, executed: true,
		done: make(chan struct{}), stop: func() {},
		frame: object{"evaluationKind": kind, "stackFrames": []any{object{
			"startLine": stmt.Start.Line, "startColumn": stmt.Start.Column, "endLine": stmt.End.Line, "endColumn": stmt.End.Column, "text": stmt.Text,
		}}},
	}
	j.ctx = w.j.ctx
	return j
}

// add counts a statement's work with the script's. The script's result is that
// of its last SELECT.
func (w *queryJob) add(o *outcome) {
	w.s.jobs.mu.Lock()
	defer w.s.jobs.mu.Unlock()
	w.j.bytes += o.bytes
	total, _ := integer(w.j.statistics, "totalBytesBilled")
	w.j.statistics["statementType"] = "SCRIPT"
	w.j.statistics["totalBytesProcessed"], w.j.statistics["totalBytesBilled"] = decimal(w.j.bytes), decimal(total+billed(o))
	if o.rows != nil {
		w.j.result = o.rows // counted with the child that has it too
	}
}
