package index_test

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
	"pgregory.net/rapid"
)

// model is the index as one would write it without caring for speed.
type model struct {
	rows    []*modelRow
	byID    map[string]*modelRow
	started int // sequence of the newest serve.start, plus one
}

type modelRow struct {
	opening, closing *trailgate.Entry
	stages           []*trailgate.Entry // all, in order
}

func newModel(entries []*trailgate.Entry) *model {
	m := &model{byID: map[string]*modelRow{}}
	for _, e := range entries {
		m.add(e)
	}
	return m
}

func (m *model) add(e *trailgate.Entry) {
	if e.Kind == trailgate.KindGateway && e.Event != nil && e.Event.Action == "serve.start" {
		m.started = int(e.Seq) + 1
	}
	closes := e.Kind == trailgate.KindOutcome || e.Kind == trailgate.KindSettled
	if closes || e.Kind == trailgate.KindApproved || e.Kind == trailgate.KindExpired || e.Kind == trailgate.KindDenied && e.Request == nil {
		if r := m.byID[e.IntentID]; r != nil && r.opening.ID == e.IntentID {
			if k := r.opening.Kind; closes && r.closing == nil && (k == trailgate.KindIntent || k == trailgate.KindHeld) {
				r.closing = e
			}
			r.stages = append(r.stages, e)
			m.byID[e.ID] = r
			return
		}
	}
	r := &modelRow{opening: e, stages: []*trailgate.Entry{e}}
	m.rows = append(m.rows, r)
	m.byID[e.ID] = r
}

func (m *model) state(r *modelRow) string {
	if c := r.closing; c != nil {
		switch {
		case c.Kind == trailgate.KindSettled:
			return "settled"
		case c.Outcome != nil && (c.Outcome.ErrorReason != "" || c.Outcome.Status >= 400):
			return "failed"
		default:
			return "done"
		}
	}
	switch r.opening.Kind {
	case trailgate.KindIntent:
		if int(r.opening.Seq) < m.started {
			return "indeterminate"
		}
		return "open"
	case trailgate.KindDenied, trailgate.KindHeld, trailgate.KindRefused:
		return string(r.opening.Kind)
	default:
		return "recorded"
	}
}

// effective are the stages whose facts the row has.
func (r *modelRow) effective() []*trailgate.Entry {
	if r.closing == nil {
		return []*trailgate.Entry{r.opening}
	}
	return []*trailgate.Entry{r.opening, r.closing}
}

func (r *modelRow) outcome() *trailgate.Outcome {
	if r.closing != nil {
		return r.closing.Outcome
	}
	if k := r.opening.Kind; k == trailgate.KindIntent || k == trailgate.KindHeld {
		return nil
	}
	return r.opening.Outcome
}

func (r *modelRow) tables() []string {
	var list []string
	for _, e := range r.effective() {
		if e.Tables != nil {
			list = append(append(list, e.Tables.Read...), e.Tables.Written...)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// texts are the values of a field that has texts.
func (m *model) texts(r *modelRow, field string) []string {
	e := r.opening
	one := func(s string) []string {
		if s == "" {
			return nil
		}
		return []string{s}
	}
	var list []string
	switch field {
	case "agent":
		if e.Principal != nil {
			return one(e.Principal.Agent)
		}
	case "human":
		if e.Principal != nil {
			return one(e.Principal.Human)
		}
	case "session":
		return one(e.Session)
	case "method":
		return one(e.Method)
	case "connection":
		return one(e.Connection)
	case "client":
		return one(e.Client)
	case "class":
		for _, c := range append([]trailgate.Class{e.Class}, e.Classes...) {
			list = append(list, one(string(c))...)
		}
	case "kind":
		for _, s := range r.stages {
			list = append(list, string(s.Kind))
		}
	case "state":
		return one(m.state(r))
	case "decision":
		if e.Decision != nil {
			return one(e.Decision.Effect)
		}
	case "table":
		return r.tables()
	case "job":
		for _, s := range r.effective() {
			if s.Job != nil {
				list = append(append(list, one(s.Job.ID)...), s.Job.Children...)
			}
		}
	case "statement_type":
		for _, s := range r.effective() {
			if t := s.StatementType; t != nil {
				list = append(append(append(list, one(t.Local)...), one(t.DryRun)...), one(t.Final)...)
			}
		}
	case "flag":
		for _, s := range r.effective() {
			list = append(list, s.Flags...)
		}
	case "error_reason":
		for _, s := range r.effective() {
			if s.Outcome != nil {
				list = append(list, one(s.Outcome.ErrorReason)...)
			}
		}
	case "text":
		for _, s := range e.Statements {
			list = append(list, index.Words(s.Text)...)
		}
	}
	return list
}

// numbers are the values of a field that has numbers.
func (r *modelRow) numbers(field string) []int64 {
	if field == "seq" {
		return []int64{int64(r.opening.Seq)}
	}
	if field == "status" {
		var list []int64
		for _, e := range r.effective() {
			if e.Outcome != nil && e.Outcome.Status != 0 {
				list = append(list, int64(e.Outcome.Status))
			}
		}
		return list
	}
	o := r.outcome()
	if o == nil {
		return nil
	}
	switch field {
	case "rows":
		return []int64{o.Rows}
	case "bytes_billed":
		return []int64{o.BytesBilled}
	default:
		return []int64{o.DurationNanos}
	}
}

// modelFilter is a filter as text, and as the model has it.
type modelFilter struct {
	text string
	ok   func(m *model, r *modelRow) bool
}

func matchTable(pattern, table string) bool {
	p, t := strings.Split(pattern, "."), strings.Split(table, ".")
	for len(p) < len(t) {
		p = append([]string{"*"}, p...)
	}
	for len(t) < len(p) {
		t = append([]string{""}, t...)
	}
	for i := range p {
		if ok, err := path.Match(p[i], t[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

var filterValues = map[string][]string{
	"agent":          {"a-bot", "b-bot", "c-bot", "*-bot", "nobody", "*"},
	"human":          {"ada@example.com", "*", "*@example.com"},
	"session":        {"s1", "s2", "s*"},
	"method":         {"bigquery.jobs.insert", "bigquery.jobs.*", "bigquery.tables.get"},
	"connection":     {"prod", "dev"},
	"class":          {"read", "write", "export", "metadata_*"},
	"kind":           {"intent", "outcome", "denied", "held", "approved", "settled", "admin", "gateway"},
	"state":          {"open", "indeterminate", "done", "failed", "denied", "held", "refused", "settled", "recorded", "*d"},
	"decision":       {"allow", "deny", "*"},
	"table":          {"p.staging.imports", "staging.*", "imports", "*.imports", "q.*.*", "staging.im*", "p.st*.orders", "*", "*.*.*"},
	"job":            {"j1", "j2", "j*", "*", "j9"},
	"statement_type": {"SELECT", "DELETE", "S*"},
	"flag":           {"foreign_job", "*"},
	"error_reason":   {"notFound", "not*"},
	"text":           {"delete", "staging", "imp*", "batch_id", "nowhere"},
	"client":         {"10.0.0.1", "10.0.0.*", "10.0.0.2:1001", "10.0.*:1002"},
}

var textFields = func() []string {
	var list []string
	for f := range filterValues {
		list = append(list, f)
	}
	slices.Sort(list)
	return list
}()

// drawFilter draws a filter of some depth.
func drawFilter(t *rapid.T, m *model, depth int) modelFilter {
	n := rapid.IntRange(0, 9).Draw(t, "node")
	if depth == 0 || n < 5 {
		return drawTest(t, m)
	}
	a := drawFilter(t, m, depth-1)
	switch {
	case n < 6:
		return modelFilter{"NOT (" + a.text + ")", func(m *model, r *modelRow) bool { return !a.ok(m, r) }}
	case n < 8:
		b := drawFilter(t, m, depth-1)
		return modelFilter{"(" + a.text + ") AND (" + b.text + ")", func(m *model, r *modelRow) bool { return a.ok(m, r) && b.ok(m, r) }}
	default:
		b := drawFilter(t, m, depth-1)
		return modelFilter{"(" + a.text + ") OR (" + b.text + ")", func(m *model, r *modelRow) bool { return a.ok(m, r) || b.ok(m, r) }}
	}
}

func drawTest(t *rapid.T, m *model) modelFilter {
	if rapid.IntRange(0, 3).Draw(t, "numeric") == 0 {
		return drawInterval(t, m)
	}
	field := rapid.SampledFrom(textFields).Draw(t, "field")
	value := rapid.SampledFrom(filterValues[field]).Draw(t, "value")
	cmp := rapid.SampledFrom([]string{"=", ":", "!="}).Draw(t, "cmp")
	if field == "text" {
		cmp = ":"
	}
	ok := func(m *model, r *modelRow) bool {
		return slices.ContainsFunc(m.texts(r, field), func(s string) bool {
			switch field {
			case "table":
				return matchTable(value, s)
			case "client":
				if !strings.Contains(value, ":") {
					s, _, _ = strings.Cut(s, ":")
				}
			}
			return index.Glob(value, s) || value == s
		})
	}
	f := modelFilter{fmt.Sprintf("%s %s %q", field, cmp, value), ok}
	if cmp == "!=" {
		f.ok = func(m *model, r *modelRow) bool { return !ok(m, r) }
	}
	return f
}

func drawInterval(t *rapid.T, m *model) modelFilter {
	cmp := rapid.SampledFrom([]string{"=", "<", "<=", ">", ">=", "!="}).Draw(t, "cmp")
	compare := func(a, lo, hi int64) bool {
		switch cmp {
		case "=":
			return lo <= a && a <= hi
		case "!=":
			return a < lo || a > hi
		case "<":
			return a < lo
		case "<=":
			return a <= hi
		case ">":
			return a > hi
		default:
			return a >= lo
		}
	}
	field := rapid.SampledFrom([]string{"time", "day", "seq", "status", "rows", "bytes_billed", "duration_ms"}).Draw(t, "field")
	if field == "time" || field == "day" {
		i := rapid.IntRange(0, max(0, len(m.rows)-1)).Draw(t, "row")
		when := epoch
		if len(m.rows) > 0 {
			when = m.rows[i].opening.Time.Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "ns")))
		}
		lo, hi, text := when.UnixNano(), when.UnixNano(), when.Format(time.RFC3339Nano)
		if field == "day" {
			text = when.Format(time.DateOnly)
			day := when.Truncate(24 * time.Hour)
			lo, hi = day.UnixNano(), day.Add(24*time.Hour).UnixNano()-1
		}
		return modelFilter{fmt.Sprintf("time %s %q", cmp, text), func(_ *model, r *modelRow) bool {
			return compare(r.opening.Time.UnixNano(), lo, hi)
		}}
	}
	n := int64(rapid.SampledFrom([]int{0, 1, 2, 3, 4, 7, 8, 100, 200, 403, 404, 1023, 1024}).Draw(t, "n"))
	lo, hi := n, n
	if field == "duration_ms" {
		lo, hi = n*1e6, n*1e6+1e6-1
	}
	return modelFilter{fmt.Sprintf("%s %s %d", field, cmp, n), func(_ *model, r *modelRow) bool {
		ok := slices.ContainsFunc(r.numbers(field), func(a int64) bool {
			if cmp == "!=" {
				return lo <= a && a <= hi
			}
			return compare(a, lo, hi)
		})
		return ok != (cmp == "!=")
	}}
}

// epoch is when the tests' logs begin.
var epoch = time.Date(2026, 11, 22, 23, 0, 0, 0, time.UTC)

// drawEntry draws the next entry of a log.
func drawEntry(t *rapid.T, seq int, m *model) *trailgate.Entry {
	pick := func(label string, list ...string) string { return rapid.SampledFrom(list).Draw(t, label) }
	last := epoch
	if len(m.rows) > 0 {
		for _, r := range m.rows {
			for _, e := range r.stages {
				if e.Time.After(last) {
					last = e.Time
				}
			}
		}
	}
	e := &trailgate.Entry{
		Seq: uint64(seq), Time: last.Add(time.Duration(rapid.SampledFrom([]int64{0, 1, 1e9, 600e9}).Draw(t, "step"))),
		ID: fmt.Sprintf("01jd%022d", seq), Gateway: trailgate.Gateway{ID: "gw", Version: "v"},
	}
	n := rapid.IntRange(0, 99).Draw(t, "kind")
	var openings []*modelRow
	for _, r := range m.rows {
		if k := r.opening.Kind; (k == trailgate.KindIntent || k == trailgate.KindHeld || k == trailgate.KindDenied) && len(r.stages) < 4 {
			openings = append(openings, r)
		}
	}
	switch {
	case n < 45 && len(openings) > 0:
		r := openings[rapid.IntRange(0, len(openings)-1).Draw(t, "of")]
		e.Kind = trailgate.Kind(pick("stage", "outcome", "outcome", "outcome", "settled", "approved", "expired", "denied"))
		e.IntentID = r.opening.ID
		if rapid.IntRange(0, 30).Draw(t, "orphan") == 0 {
			e.IntentID = "01jdorphan"
		}
		if rapid.Bool().Draw(t, "has_outcome") {
			e.Outcome = drawOutcome(t)
		}
		drawFacts(t, e)
		return e
	case n < 50:
		e.Kind = trailgate.KindGateway
		e.Event = &trailgate.Event{Action: pick("action", "serve.start", "serve.start", "serve.stop")}
		return e
	case n < 55:
		e.Kind = trailgate.KindAdmin
		e.Event = &trailgate.Event{Action: "trail.search"}
		return e
	case n < 85:
		e.Kind = trailgate.KindIntent
	case n < 90:
		e.Kind = trailgate.KindDenied
		e.Outcome = drawOutcome(t)
	case n < 95:
		e.Kind = trailgate.KindHeld
	default:
		e.Kind = trailgate.KindRefused
	}
	e.Principal = &trailgate.Principal{Agent: pick("agent", "a-bot", "b-bot", "c-bot"), Human: pick("human", "", "ada@example.com")}
	e.Session = pick("session", "", "s1", "s2")
	e.Client = fmt.Sprintf("10.0.0.%d:%d", rapid.IntRange(1, 2).Draw(t, "host"), rapid.IntRange(1001, 1002).Draw(t, "port"))
	e.Method = pick("method", "bigquery.jobs.insert", "bigquery.jobs.query", "bigquery.tables.get")
	e.Connection = pick("connection", "prod", "dev")
	e.Project = "p"
	for _, c := range []trailgate.Class{trailgate.ClassRead, trailgate.ClassWrite, trailgate.ClassExport} {
		if rapid.IntRange(0, 2).Draw(t, "class") == 0 {
			e.Classes, e.Class = append(e.Classes, c), c
		}
	}
	e.Decision = &trailgate.Decision{Effect: pick("effect", "allow", "deny")}
	if s := pick("sql", "", "DELETE FROM staging.imports WHERE batch_id = 42", "SELECT * FROM staging.orders", "select \"imp\" -- delete"); s != "" {
		e.Statements = []trailgate.Statement{{Where: "query", Text: s, Length: int64(len(s))}}
	}
	drawFacts(t, e)
	return e
}

// drawFacts draws what an opening and a closing entry may both tell.
func drawFacts(t *rapid.T, e *trailgate.Entry) {
	pick := func(label string, list ...string) string { return rapid.SampledFrom(list).Draw(t, label) }
	if s := pick("type", "", "SELECT", "DELETE"); s != "" {
		e.StatementType = &trailgate.StatementType{Local: s, Final: pick("final", "", "SELECT", "SCRIPT")}
	}
	if rapid.Bool().Draw(t, "tables") {
		e.Tables = &trailgate.Tables{
			Read:    rapid.SliceOfN(rapid.SampledFrom([]string{"p.staging.imports", "p.staging.orders", "q.staging.imports", "imports"}), 0, 2).Draw(t, "read"),
			Written: rapid.SliceOfN(rapid.SampledFrom([]string{"p.crm.users", "staging.orders", "p.staging.imports"}), 0, 1).Draw(t, "written"),
		}
	}
	if j := pick("job", "", "j1", "j2", "j3"); j != "" {
		e.Job = &trailgate.Job{Project: pick("job_project", "p", "q"), ID: j}
		if rapid.IntRange(0, 5).Draw(t, "children") == 0 {
			e.Job.Children = []string{"j9"}
		}
	}
	if rapid.IntRange(0, 5).Draw(t, "flag") == 0 {
		e.Flags = []string{"foreign_job"}
	}
}

func drawOutcome(t *rapid.T) *trailgate.Outcome {
	o := &trailgate.Outcome{
		Status:        rapid.SampledFrom([]int{0, 200, 200, 403, 404}).Draw(t, "status"),
		ErrorReason:   rapid.SampledFrom([]string{"", "", "", "notFound"}).Draw(t, "reason"),
		Rows:          rapid.SampledFrom([]int64{0, 1, 3, 4, 8, 1023, 1024}).Draw(t, "rows"),
		BytesBilled:   rapid.SampledFrom([]int64{0, 2, 7, 1024}).Draw(t, "billed"),
		DurationNanos: rapid.SampledFrom([]int64{0, 999_999, 1e6, 2_500_000, 7e6, math.MaxInt64}).Draw(t, "duration"),
		Bytes:         5,
	}
	return o
}

// jobOwner is the model's answer to JobOwner.
func (m *model) jobOwner(project, job string) (agent, id string, found bool) {
	for _, r := range m.rows {
		e := r.opening
		if e.Kind != trailgate.KindIntent || e.Method != "bigquery.jobs.insert" && e.Method != "bigquery.jobs.query" {
			continue
		}
		if r.closing != nil && r.closing.Outcome != nil && r.closing.Outcome.Status >= 400 {
			continue
		}
		for _, s := range r.effective() {
			if s.Job != nil && s.Job.Project == project && (s.Job.ID == job || slices.Contains(s.Job.Children, job)) {
				return e.Principal.Agent, e.ID, true
			}
		}
	}
	return "", "", false
}

// stats is the model's answer to Stats.
func (m *model) stats(by []string, f modelFilter) map[string]index.Group {
	total := map[string]index.Group{}
	for _, r := range m.rows {
		if m.state(r) == "recorded" || !f.ok(m, r) {
			continue
		}
		tables := []string{""}
		if slices.Contains(by, "table") {
			tables = r.tables()
		}
		for _, table := range tables {
			key := ""
			for _, k := range by {
				key += k + "=" + m.sumKey(r, k, table) + " "
			}
			g := total[key]
			g.Calls++
			if s := m.state(r); s == "failed" || s == "denied" || s == "refused" {
				g.Errors++
			}
			if o := r.outcome(); o != nil {
				g.BytesBilled += o.BytesBilled
				g.Rows += o.Rows
				g.ResponseBytes += o.Bytes
			}
			total[key] = g
		}
	}
	return total
}

func (m *model) sumKey(r *modelRow, key, table string) string {
	switch key {
	case "table":
		return table
	case "day":
		return r.opening.Time.Format(time.DateOnly)
	case "hour":
		return r.opening.Time.Truncate(time.Hour).Format(time.RFC3339)
	case "class":
		return string(r.opening.Class) // the last drawn is the gravest
	case "statement_type":
		name := ""
		for _, e := range r.effective() {
			if s := e.StatementType; s != nil {
				name = s.Local
				if s.Final != "" {
					name = s.Final
				}
			}
		}
		return name
	default:
		if list := m.texts(r, key); len(list) > 0 {
			return list[0]
		}
		return ""
	}
}
