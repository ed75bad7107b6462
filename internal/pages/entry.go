package pages

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin/client"
)

func (p *Pages) entryRoutes() {
	p.handle("GET /entries/{id}", (*view).entry)
	p.handle("GET /entries/{id}/results", (*view).results)
	p.handle("GET /entries/{id}/results/rows", (*view).resultRows)
}

// stage is one entry of a call, as the story tells it.
type stage struct {
	*trailgate.Entry
	Said  string        // in a sentence
	After time.Duration // since the stage before
	Raw   string        // the canonical bytes
	Bytes string        // those, in base64, for the proof to be held against
}

type entryPage struct {
	ID, State  string
	Opening    *trailgate.Entry
	Stages     []stage
	Statements []client.Statement
	Outcome    *trailgate.Outcome
	Recording  *trailgate.Recording
	Tables     *trailgate.Tables
	Job        *trailgate.Job
	Upstream   *trailgate.Upstream
	Type       *trailgate.StatementType
	Flags      []flagged
	Console    string // BigQuery's own page of the job
	Before     *similar
}

// similar is the agent's earlier call that is most like this one.
type similar struct {
	ID   string
	Time time.Time
	Diff []change
	Same bool
}

type flagged struct{ Flag, Means string }

// entry is a call with all its stages.
func (v *view) entry() error {
	call, err := v.api.Show(v.r.Context(), v.r.PathValue("id"))
	if err != nil {
		return err
	}
	d := &entryPage{ID: call.ID, State: call.State, Opening: call.Stages[0], Statements: call.Statements}
	for i, e := range call.Stages {
		raw, err := e.Encode()
		if err != nil {
			return err
		}
		s := stage{Entry: e, Said: said(e), Raw: string(raw), Bytes: base64.StdEncoding.EncodeToString(raw)}
		if i > 0 {
			s.After = e.Time.Sub(call.Stages[i-1].Time)
		}
		d.Stages = append(d.Stages, s)
		d.take(e)
	}
	slices.SortFunc(d.Flags, func(a, b flagged) int { return strings.Compare(a.Flag, b.Flag) })
	d.Flags = slices.Compact(d.Flags)
	d.Console = console(d.Job, d.Upstream)
	d.Before = v.before(d)
	return v.render("entry.html", "trail", d)
}

// take notes what a stage adds to what is known of the call.
func (d *entryPage) take(e *trailgate.Entry) {
	if e.Outcome != nil {
		d.Outcome = e.Outcome
	}
	if e.Recording != nil {
		d.Recording = e.Recording
	}
	if e.Tables != nil {
		d.Tables = e.Tables
	}
	if e.Job != nil && e.Job.ID != "" {
		d.Job = e.Job
	}
	if e.Upstream != nil {
		d.Upstream = e.Upstream
	}
	if e.StatementType != nil {
		d.Type = e.StatementType
	}
	for _, f := range e.Flags {
		means := flagMeanings[f]
		if means == "" {
			means = "docs/spec/entry.md explains it"
		}
		d.Flags = append(d.Flags, flagged{f, means})
	}
}

// said is what a stage is, in a sentence.
func said(e *trailgate.Entry) string {
	status := ""
	if e.Outcome != nil && e.Outcome.Status != 0 {
		status = strconv.Itoa(e.Outcome.Status)
	}
	switch e.Kind {
	case trailgate.KindIntent:
		return "The call was allowed, recorded, and then sent on."
	case trailgate.KindOutcome:
		switch e.Outcome.End {
		case trailgate.EndComplete:
			return "It was answered, with status " + status + "."
		case trailgate.EndClientGone:
			return "The agent went away before it had all of the answer."
		case trailgate.EndUpstreamCut:
			return "BigQuery's answer broke off."
		case trailgate.EndUpstreamDown:
			return "BigQuery could not be reached, or did not answer."
		case trailgate.EndNotForwarded:
			return "Nothing was sent to BigQuery after all."
		}
		return "The gateway answered in BigQuery's place, with status " + status + "."
	case trailgate.KindDenied:
		switch {
		case e.Event != nil:
			return "A human denied it."
		case e.IntentID != "" && e.Request == nil:
			return "It was taken back before a human decided."
		}
		return "It was denied; nothing was sent to BigQuery."
	case trailgate.KindHeld:
		return "It was held back until a human decides."
	case trailgate.KindApproved:
		return "A human approved it."
	case trailgate.KindExpired:
		return "Nobody decided, or used the approval, in time."
	case trailgate.KindRefused:
		return "It was refused: not a call that could be judged."
	case trailgate.KindSettled:
		return "What became of it was found out later, by asking BigQuery."
	case trailgate.KindSession:
		return "A session began or ended."
	case trailgate.KindAdmin:
		return "A human looked at the trail, or changed something."
	case trailgate.KindGateway:
		return "Something happened to the gateway itself."
	case trailgate.KindGap:
		if e.Event != nil && strings.HasPrefix(e.Event.Action, "reconcile.") {
			return "BigQuery's own records and the trail do not fit."
		}
		return "Something that the trail should hold is known to be missing."
	}
	return string(e.Kind)
}

// console is the job's page in Google's console; "" where the job is not Google's.
func console(j *trailgate.Job, u *trailgate.Upstream) string {
	if j == nil || j.ID == "" || j.Project == "" || u == nil || !strings.HasSuffix(u.Host, ".googleapis.com") {
		return ""
	}
	q := url.Values{"project": {j.Project}, "j": {"bq:" + j.Location + ":" + j.ID}, "page": {"queryresults"}}
	return "https://console.cloud.google.com/bigquery?" + q.Encode()
}

// Bounds of the search for an earlier statement like this one.
const (
	maxLookedAt   = 50
	maxCompared   = 20_000 // bytes of a statement
	leastLikeness = 0.5
)

// before finds the agent's earlier call whose statement is most like this one's. That
// it finds none, for whatever reason, is no reason not to show the rest.
func (v *view) before(d *entryPage) *similar {
	if len(d.Statements) == 0 || d.Statements[0].Text == "" || len(d.Statements[0].Text) > maxCompared || d.Opening.Principal == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(v.r.Context(), time.Second)
	defer cancel()
	e := d.Opening
	rows, _, err := v.api.Page(ctx, client.Query{
		Filter: "agent = " + quoteTerm(e.Principal.Agent) + " AND method = " + quoteTerm(e.Method) + " AND time < " + quoteTerm(e.Time.UTC().Format(time.RFC3339Nano)) +
			` AND kind = ("intent" OR "denied" OR "held")`,
		PageSize: maxLookedAt,
	})
	if err != nil {
		return nil
	}
	mine := words(d.Statements[0].Text)
	var best *client.Row
	most := leastLikeness
	for i := range rows {
		r := &rows[i]
		if r.Entry.ID == e.ID || len(r.Entry.Statements) == 0 || r.Entry.Statements[0].Text == "" || len(r.Entry.Statements[0].Text) > maxCompared || r.Entry.Request != nil && r.Entry.Request.For != "" {
			continue
		}
		if like := likeness(mine, words(r.Entry.Statements[0].Text)); like > most {
			best, most = r, like
		}
	}
	if best == nil {
		return nil
	}
	s := &similar{ID: best.Entry.ID, Time: best.Entry.Time}
	theirs := best.Entry.Statements[0].Text
	if s.Same = theirs == d.Statements[0].Text; !s.Same {
		s.Diff = diff(words(theirs), mine)
	}
	return s
}

// resultsPage is recorded rows in a grid.
type resultsPage struct {
	*client.Results
	Call          string
	Columns       []client.Column
	Lines         []line
	Prev, Next    int64
	HasPrev, Last bool
}

// line is a row of the grid.
type line struct {
	N     int64
	Cells []string
	Why   string // the row is not there
}

const gridRows = 100

// results shows recorded rows; that it does is itself an entry.
func (v *view) results() error {
	d, err := v.grid(gridRows)
	if err != nil {
		return err
	}
	return v.render("results.html", "trail", d)
}

// resultRows is the grid alone, the first rows of it, for a session's replay.
func (v *view) resultRows() error {
	d, err := v.grid(20)
	if err != nil {
		return err
	}
	return v.fragment("results.html", "grid", d)
}

func (v *view) grid(rows int64) (*resultsPage, error) {
	var from int64
	if s := v.arg("from"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return nil, bad("from: want the number of a row, from 0 on")
		}
		from = n
	}
	r, err := v.api.Results(v.r.Context(), v.r.PathValue("id"), from, rows)
	if err != nil {
		return nil, err
	}
	d := &resultsPage{Results: r, Call: r.Entry, Columns: r.Schema, Prev: max(from-rows, 0), HasPrev: from > 0, Next: from + int64(len(r.Rows)), Last: !r.More}
	width := len(r.Schema)
	for _, raw := range r.Rows {
		width = max(width, len(cells(raw, nil)))
	}
	for i := len(d.Columns); i < width; i++ {
		d.Columns = append(d.Columns, client.Column{Name: "column " + strconv.Itoa(i+1)})
	}
	for i, raw := range r.Rows {
		l := line{N: from + int64(i)}
		if string(raw) == "null" {
			for _, g := range r.Gaps {
				if l.N >= g.From && l.N < g.To {
					l.Why = g.Why
				}
			}
		} else {
			l.Cells = cells(raw, d.Columns)
		}
		d.Lines = append(d.Lines, l)
	}
	return d, nil
}

// cells are a row's values as text.
func cells(raw json.RawMessage, columns []client.Column) []string {
	var row struct {
		F []struct {
			V json.RawMessage `json:"v"`
		} `json:"f"`
	}
	if json.Unmarshal(raw, &row) != nil {
		return []string{string(raw)}
	}
	out := make([]string, 0, len(row.F))
	for i, c := range row.F {
		kind := ""
		if i < len(columns) {
			kind = columns[i].Type
		}
		out = append(out, cellText(c.V, kind))
	}
	return out
}

func cellText(v json.RawMessage, kind string) string {
	var s string
	if json.Unmarshal(v, &s) != nil {
		if string(v) == "null" {
			return "NULL"
		}
		return string(v)
	}
	if kind == "TIMESTAMP" { // seconds since 1970, in whatever notation
		if f, err := strconv.ParseFloat(s, 64); err == nil && f > -1e11 && f < 1e12 {
			return time.UnixMicro(int64(f * 1e6)).UTC().Format("2006-01-02 15:04:05.999999")
		}
	}
	return s
}

// flagMeanings are docs/spec/entry.md's, in a sentence each.
var flagMeanings = map[string]string{
	"foreign_job": "The job belongs to another agent.", "duplicate_job_id": "The same job id was sent before.", "duplicate_request_id": "The same request id was sent before.",
	"job_owner_unknown": "The index could not be asked who made the job.", "effect_unknown": "The answer was lost after the call was sent; whether the job ran is not known.",
	"dropped_labels": "The client sent labels that imitate the gateway's own; they did not go to BigQuery.", "statement_type_differs": "BigQuery says another statement type than the reading here, or than its own dry run.",
	"dry_run_differs": "BigQuery's dry run says another statement type, or a written table that was not read in the statement.", "written_table_differs": "BigQuery says that a table was written which was not read in the statement.",
	"result_limit": "The answer was cut, or not given, because it is longer than the rule lets the session read.", "budget_warning": "With this call a budget reached its warning level.",
	"bill_unknown": "The job is done, and the answer does not say what was billed; the gateway asked for itself.", "script_failed": "The script failed; what it did before is done, and billed.",
	"statement_unparsed": "The statement could not be read.", "not_legacy_sql": "The statement could not be read as legacy SQL.", "statement_too_complex": "The statement was read in part.",
	"name_unread": "A name in the statement could not be read.", "target_unread": "What the statement changes could not be read.", "tables_omitted": "The statement names more tables than are read.",
	"destinations_omitted": "There were more destinations than an entry holds.", "names_omitted": "There were more names than an entry holds.", "dynamic_sql": "EXECUTE IMMEDIATE: what runs is not in the statement.",
	"calls_procedure": "CALL: what runs is not in the statement.", "external_query": "EXTERNAL_QUERY: data of another database.", "external_tables": "Data from outside of BigQuery.", "remote_function": "A remote function gets data.",
	"remote_model": "A remote model gets data.", "spark": "Spark runs code.", "table_function": "A table function: what it reads is not in the statement.", "calls_function": "A stored function is called, which may be remote.", "calls_model": "A stored model is asked, which may be remote.",
	"code_from_uri": "Code is loaded from elsewhere.", "dataset_project_id": "A connection property changes how names resolve.", "sets_system_variable": "A system variable is set.", "other_project": "A copy into another project.",
	"load_without_source": "A load that names no source.", "all_users": "A list of all users' jobs.", "bidi_in_statement": "The statement holds Unicode controls that make it read otherwise than it runs.",
}
