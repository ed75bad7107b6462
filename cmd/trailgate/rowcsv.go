package main

import (
	"encoding/csv"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate/internal/admin/client"
)

// csvColumns is the header of CSV output; docs/cli.md explains each.
var csvColumns = []string{
	"time", "id", "seq", "kind", "state", "agent", "human", "session", "connection", "project", "location",
	"class", "method", "action", "target", "actor", "statement_type", "tables_written", "tables_read", "statement", "job",
	"status", "error_reason", "error_message", "rows", "rows_affected", "bytes_processed", "bytes_billed",
	"duration_ms", "decision", "rule", "reason", "flags", "user_agent",
}

type csvRows struct {
	w      *csv.Writer
	each   bool
	headed bool
}

func (c *csvRows) add(r client.Row) error {
	if err := c.header(); err != nil {
		return err
	}
	if err := c.w.Write((&row{r}).csv()); err != nil {
		return err
	}
	if c.each {
		return c.flush()
	}
	return nil
}

func (c *csvRows) header() error {
	if c.headed {
		return nil
	}
	c.headed = true
	return c.w.Write(csvColumns)
}

func (c *csvRows) flush() error {
	if err := c.header(); err != nil {
		return err
	}
	c.w.Flush()
	return c.w.Error()
}

func (r *row) csv() []string {
	var human, tablesRead, tablesWritten, job, action, target, actor, decision, rule, reason, userAgent, statementType string
	var agent string
	if p := r.Entry.Principal; p != nil {
		agent, human = p.Agent, p.Human
	}
	if t := r.Entry.Tables; t != nil {
		tablesRead, tablesWritten = strings.Join(t.Read, " "), strings.Join(t.Written, " ")
	}
	if r.Entry.Job != nil {
		job = r.Entry.Job.ID
	}
	if r.Entry.Event != nil {
		action, target, actor = r.Entry.Event.Action, r.Entry.Event.Target, r.Entry.Event.Actor
	}
	if d := r.Entry.Decision; d != nil {
		decision, rule, reason = d.Effect, d.Rule, d.Reason
	}
	if r.Entry.Claims != nil {
		userAgent = r.Entry.Claims.UserAgent
	}
	if s := r.Entry.StatementType; s != nil {
		statementType = bestType(s)
	}
	var status, rows, affected, processed, billed, duration, errReason, errMessage string
	if o := r.Entry.Outcome; o != nil {
		errReason, errMessage = o.ErrorReason, o.ErrorMessage
		status, rows, affected = number(int64(o.Status)), number(o.Rows), number(o.RowsAffected)
		processed, billed = number(o.BytesProcessed), number(o.BytesBilled)
		duration = strconv.FormatFloat(float64(o.DurationNanos)/1e6, 'f', 3, 64)
	}
	statements := make([]string, 0, len(r.Entry.Statements))
	for _, s := range r.Entry.Statements {
		if s.Text != "" {
			statements = append(statements, s.Text)
		} else if s.Blob != "" {
			statements = append(statements, "sha256:"+s.Blob)
		}
	}
	cells := []string{
		r.Entry.Time.UTC().Format(time.RFC3339Nano), r.Entry.ID, strconv.FormatUint(r.Entry.Seq, 10), string(r.Entry.Kind), r.State,
		agent, human, r.Entry.Session, r.Entry.Connection, r.Entry.Project, r.Entry.Location,
		string(r.Entry.Class), r.Entry.Method, action, target, actor, statementType, tablesWritten, tablesRead, strings.Join(statements, ";\n"), job,
		status, errReason, errMessage, rows, affected, processed, billed,
		duration, decision, rule, reason, strings.Join(r.Entry.Flags, " "), userAgent,
	}
	for i := range cells {
		cells[i] = csvSafe(cells[i])
	}
	return cells
}

func number(n int64) string { return strconv.FormatInt(n, 10) }
