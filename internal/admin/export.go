package admin

import (
	"bytes"
	"encoding/csv"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/export"
	"github.com/trailgate/trailgate/internal/index"
)

const actionExport = "trail.export"

// export is GET entries:export: all rows that a filter finds, the newest first, as a
// file. A file that ends in an error says so in its last line.
func (a *API) export(w http.ResponseWriter, r *request) error {
	form := r.query.Get("format")
	if form == "" {
		form = "jsonl"
	}
	if form != "jsonl" && form != "csv" && form != "ocsf" {
		return invalid("format: want jsonl, csv or ocsf")
	}
	if !a.followers.enter() {
		return busy()
	}
	defer a.followers.leave()
	q := index.Query{Filter: r.query.Get("filter"), PageSize: index.MaxPageSize}
	if _, err := a.record(r, actionExport, "", map[string]string{"filter": q.Filter, "format": form}); err != nil {
		return err
	}
	rows, next, err := a.cfg.Index.Search(r.Context(), q)
	if err != nil {
		return err
	}
	cp, err := a.cfg.Trail.Checkpoint()
	if err != nil {
		return err
	}
	kind, suffix := "application/x-ndjson", form
	switch form {
	case "csv":
		kind = "text/csv; charset=utf-8"
	case "ocsf":
		suffix = "ocsf.jsonl"
	}
	w.Header().Set("Content-Disposition", `attachment; filename="trail-`+a.cfg.Now().UTC().Format("20060102T150405Z")+`.`+suffix+`"`)
	out := newStream(w, kind)
	if form == "csv" {
		if err := out.write(csvLine(csvColumns)); err != nil {
			return nil //nolint:nilerr // the caller is gone
		}
	}
	for {
		var page bytes.Buffer
		for _, row := range rows {
			if form == "csv" {
				page.Write(csvLine(csvRow(row)))
				continue
			}
			raw, err := exported(row, form, cp.Origin)
			if err != nil {
				return a.exportEnds(out, form, err)
			}
			page.Write(raw)
			page.WriteByte('\n')
		}
		if err := out.write(page.Bytes()); err != nil {
			return nil //nolint:nilerr // the caller is gone
		}
		if next == "" {
			return nil
		}
		q.PageToken = next
		if rows, next, err = a.cfg.Index.Search(r.Context(), q); err != nil {
			return a.exportEnds(out, form, err)
		}
	}
}

// exported is a row as a line of JSON, without its end.
func exported(row index.Row, form, origin string) ([]byte, error) {
	if form != "ocsf" {
		return row.MarshalJSON()
	}
	stages := []*trailgate.Entry{row.Entry}
	if row.Closing != nil {
		stages = append(stages, row.Closing)
	}
	c := export.NewCall(stages)
	c.State = row.State // the index knows more: that the gateway ended meanwhile, for one
	return export.OCSF(c, origin)
}

// exportEnds says in a file that it is not whole.
func (a *API) exportEnds(out *stream, form string, err error) error {
	a.cfg.Log.Error("an export ended early", "err", err)
	if form == "csv" {
		_ = out.write(csvLine([]string{"ERROR: the export is not complete: " + explain(err).Message}))
		return nil
	}
	_ = out.json(errorBody{explain(err)})
	return nil
}

var csvColumns = []string{
	"time", "seq", "id", "kind", "state", "agent", "human", "session", "connection", "project", "method", "class", "statement_type", "statement", "statement_sha256",
	"tables_read", "tables_written", "job", "decision", "rule", "approval", "approvers", "status", "error", "rows", "bytes_processed", "bytes_billed", "duration_ms", "flags",
	"event", "actor", "claimed_human", "user_agent",
}

func csvRow(row index.Row) []string {
	e := row.Fold()
	p, d, o, c, t, j, ev := e.Principal, e.Decision, e.Outcome, e.Claims, e.Tables, e.Job, e.Event
	if p == nil {
		p = &trailgate.Principal{}
	}
	if d == nil {
		d = &trailgate.Decision{}
	}
	if o == nil {
		o = &trailgate.Outcome{}
	}
	if c == nil {
		c = &trailgate.Claims{}
	}
	if t == nil {
		t = &trailgate.Tables{}
	}
	if j == nil {
		j = &trailgate.Job{}
	}
	if ev == nil {
		ev = &trailgate.Event{}
	}
	kind, statement, sha := "", "", ""
	if s := e.StatementType; s != nil {
		kind = s.Final
		if kind == "" {
			kind = s.Local
		}
	}
	if len(e.Statements) > 0 {
		statement, sha = e.Statements[0].Text, e.Statements[0].SHA256
	}
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	return []string{
		e.Time.UTC().Format(time.RFC3339Nano), strconv.FormatUint(e.Seq, 10), e.ID, string(e.Kind), row.State, p.Agent, p.Human, e.Session, e.Connection, e.Project, e.Method,
		string(e.Class), kind, statement, sha, strings.Join(t.Read, " "), strings.Join(t.Written, " "), j.ID, d.Effect, d.Rule, d.ApprovalID, strings.Join(d.Approvers, " "),
		strconv.Itoa(o.Status), o.ErrorReason, n(o.Rows), n(o.BytesProcessed), n(o.BytesBilled), n(o.DurationNanos / 1e6), strings.Join(e.Flags, " "), ev.Action, ev.Actor, c.Human, c.UserAgent,
	}
}

// csvLine writes a line of CSV (RFC 4180). A cell that a spreadsheet would take for a
// formula gets an apostrophe before it.
func csvLine(cells []string) []byte {
	safe := make([]string, len(cells))
	for i, c := range cells {
		c = strings.ReplaceAll(strings.ToValidUTF8(c, "�"), "\x00", "�")
		if c != "" && strings.ContainsRune("=+-@\t\r", rune(c[0])) {
			c = "'" + c
		}
		safe[i] = c
	}
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	w.UseCRLF = true
	_ = w.Write(safe) // to memory: it does not fail
	w.Flush()
	return out.Bytes()
}
