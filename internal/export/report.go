package export

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
)

// Bounds of a report: it is for reading. What is left out is said, and is in the entries.
const (
	maxReportCalls     = 500
	maxReportStatement = 16 << 10
	maxReportGroups    = 100
)

// Report gathers calls for a report. Its zero value is ready; it keeps the first
// calls, and sums of all.
type Report struct {
	Origin string // of the log
	Title  string // what was asked for: a filter, or a range
	// Text gets a statement that is stored aside, by its hash. Optional.
	Text func(sha256 string) (string, error)

	calls  []Call
	n      int
	stages int
	first  time.Time
	last   time.Time
	sums   [4]sum
}

// sum counts calls by what they have in common.
type sum struct {
	name   string
	counts map[string]int
	more   int // calls that are in no group, as there were too many
}

// Add takes a call, in the log's order.
func (r *Report) Add(c Call) {
	if r.n == 0 {
		r.first = c.Stages[0].Time
		for i, name := range []string{"Agent", "Class", "State", "Table written"} {
			r.sums[i] = sum{name: name, counts: map[string]int{}}
		}
	}
	r.n++
	r.stages += len(c.Stages)
	r.last = c.Stages[0].Time
	if len(r.calls) < maxReportCalls {
		r.calls = append(r.calls, c)
	}
	f := c.Folded
	agent := ""
	if f.Principal != nil {
		agent = f.Principal.Agent
	}
	r.sums[0].add(agent)
	r.sums[1].add(string(f.Class))
	r.sums[2].add(c.State)
	if f.Tables != nil {
		for _, t := range f.Tables.Written {
			r.sums[3].add(t)
		}
	}
}

func (s *sum) add(key string) {
	if key == "" {
		return
	}
	if _, known := s.counts[key]; !known && len(s.counts) == maxReportGroups {
		s.more++
		return
	}
	s.counts[key]++
}

// keys are the groups, the largest first.
func (s *sum) keys() []string {
	var keys []string
	for k := range s.counts {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if d := s.counts[b] - s.counts[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return keys
}

// page is what a report is written on: HTML, Markdown or plain text.
type page interface {
	begin(title string)
	heading(level int, text, anchor string)
	paragraph(text string)
	table(head []string, rows [][]string)
	code(text string)
	end()
	err() error
}

// HTML writes the report as one page without script, style sheets or images from elsewhere.
func (r *Report) HTML(w io.Writer) error { return r.write(&htmlPage{out: out{w: w}}) }

// Markdown writes it as CommonMark with tables.
func (r *Report) Markdown(w io.Writer) error { return r.write(&markdownPage{out: out{w: w}}) }

// Plain writes it for a terminal.
func (r *Report) Plain(w io.Writer) error { return r.write(&plainPage{out: out{w: w}}) }

const reportIntro = "This report was made from entries of an audit log, for reading. It proves nothing by itself: the entries do, once the bundle that they came in was verified with the log's public key from a source that you trust. Times are UTC, by the gateway's clock. What is marked as a claim is the client's word, and was not verified."

func (r *Report) write(p page) error {
	p.begin("Trailgate evidence report")
	p.heading(1, "Evidence report", "")
	p.paragraph(reportIntro)
	facts := [][]string{{"Log", r.Origin}, {"Asked for", r.Title}, {"Calls and events", strconv.Itoa(r.n)}, {"Entries", strconv.Itoa(r.stages)}}
	if r.n > 0 {
		facts = append(facts, []string{"First", stamp(r.first)}, []string{"Last", stamp(r.last)})
	}
	p.table([]string{"", ""}, facts)
	for _, s := range r.sums {
		if len(s.counts) == 0 {
			continue
		}
		p.heading(2, "By "+strings.ToLower(s.name), "")
		var rows [][]string
		for _, k := range s.keys() {
			rows = append(rows, []string{k, strconv.Itoa(s.counts[k])})
		}
		if s.more > 0 {
			rows = append(rows, []string{"(others)", strconv.Itoa(s.more)})
		}
		p.table([]string{s.name, "Calls"}, rows)
	}
	p.heading(2, "Calls and events", "")
	if r.n > len(r.calls) {
		p.paragraph(fmt.Sprintf("The first %d of %d; all are in entries.jsonl.", len(r.calls), r.n))
	}
	for _, c := range r.calls {
		r.call(p, c)
	}
	p.end()
	return p.err()
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000000 UTC") }

// call writes one call: facts, statements, approvals and stages.
func (r *Report) call(p page, c Call) {
	e, f := c.Stages[0], c.Folded
	what := f.Method
	if what == "" && f.Event != nil {
		what = f.Event.Action
	}
	if what == "" {
		what = string(e.Kind)
	}
	p.heading(3, fmt.Sprintf("Entry %d: %s, %s", e.Seq, what, c.State), "e"+strconv.FormatUint(e.Seq, 10))
	p.table([]string{"", ""}, callFacts(c))
	for i := range f.Statements {
		r.statement(p, &f.Statements[i])
	}
	var rows [][]string
	for _, s := range c.Stages {
		rows = append(rows, []string{strconv.FormatUint(s.Seq, 10), stamp(s.Time), string(s.Kind), s.ID, stageNote(s)})
	}
	p.table([]string{"Entry", "Time", "Kind", "Id", ""}, rows)
}

func (r *Report) statement(p page, s *trailgate.Statement) {
	p.paragraph(fmt.Sprintf("Statement at %s, %d bytes, SHA-256 %s", s.Where, s.Length, s.SHA256))
	text := s.Text
	if s.Blob != "" && r.Text != nil {
		if stored, err := r.Text(s.Blob); err == nil {
			text = stored
		}
	}
	if len(text) > maxReportStatement {
		text = strings.ToValidUTF8(text[:maxReportStatement], "") + "\n… (cut)"
	}
	if text != "" {
		p.code(text)
	}
	if s.Parameters != "" {
		p.paragraph("Parameters:")
		p.code(s.Parameters[:min(len(s.Parameters), maxReportStatement)])
	}
}

// stageNote is what a stage adds, in words.
func stageNote(e *trailgate.Entry) string {
	var words []string
	add := func(s string) {
		if s != "" {
			words = append(words, s)
		}
	}
	if ev := e.Event; ev != nil {
		add(ev.Action)
		if ev.Actor != "" {
			add("by " + ev.Actor + " (" + ev.Via + ")")
		}
		add(ev.Detail["reason"])
	}
	if d := e.Decision; d != nil {
		add(strings.TrimSpace(d.Effect + " " + d.Rule))
		if d.ApprovalID != "" {
			add("approval " + d.ApprovalID)
		}
		if len(d.Approvers) > 0 {
			add("approvers " + strings.Join(d.Approvers, ", "))
		}
		add(d.Reason)
	}
	if q := e.Request; q != nil && q.SHA256 != "" {
		add("body SHA-256 " + q.SHA256)
	}
	if o := e.Outcome; o != nil {
		add(o.End)
		if o.Status > 0 {
			add("HTTP " + strconv.Itoa(o.Status))
		}
		add(strings.TrimSpace(o.ErrorReason + " " + o.ErrorMessage))
	}
	return strings.Join(words, "; ")
}

// callFacts are the facts of a call, those that there are.
func callFacts(c Call) [][]string {
	f := c.Folded
	var rows [][]string
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	number := func(name string, n int64) {
		if n > 0 {
			add(name, strconv.FormatInt(n, 10))
		}
	}
	if p := f.Principal; p != nil {
		add("Agent", p.Agent)
		if p.Human != "" {
			add("On behalf of", p.Human+" (vouched for by "+p.HumanBy+")")
		}
		add("Acting parties", strings.Join(p.Actors, ", "))
		add("Authenticated by", strings.TrimSpace(p.AuthMode+" "+p.TokenID))
		add("Issuer", p.Issuer)
		add("Subject", p.Subject)
		add("Credential SHA-256", p.CredentialSHA256)
		if p.Evidence != "" {
			add("Identity evidence", "identity/"+p.Evidence+".json")
		}
	}
	add("Session", f.Session)
	add("Client", f.Client)
	add("Connection", strings.TrimSpace(f.Connection+" "+f.Project))
	add("Class", string(f.Class))
	if s := f.StatementType; s != nil {
		add("Statement type", strings.Join(slices.DeleteFunc([]string{s.Final, s.DryRun, s.Local}, func(s string) bool { return s == "" }), ", "))
	}
	if q := f.Request; q != nil {
		add("Request", q.Verb+" "+q.Path)
		add("Body sent, SHA-256", q.SHA256)
	}
	if t := f.Tables; t != nil {
		add("Tables read", strings.Join(t.Read, ", "))
		add("Tables written", strings.Join(t.Written, ", "))
		number("Tables left out", t.Omitted)
	}
	add("Destinations", strings.Join(f.Destinations, ", "))
	if j := f.Job; j != nil {
		add("Job", strings.TrimSpace(j.ID+" "+j.Location))
	}
	if d := f.Decision; d != nil {
		add("Decision", strings.TrimSpace(d.Effect+" "+d.Rule))
		add("Reason", d.Reason)
		add("Approval", d.ApprovalID)
		add("Approved by", strings.Join(d.Approvers, ", "))
	}
	if u := f.Upstream; u != nil {
		add("As", strings.TrimSpace(u.Mode+" "+u.Principal))
	}
	if o := f.Outcome; o != nil {
		number("HTTP status", int64(o.Status))
		add("Ended", o.End)
		add("Error", strings.TrimSpace(o.ErrorReason+" "+o.ErrorMessage))
		number("Rows", o.Rows)
		number("Rows affected", o.RowsAffected)
		number("Bytes processed", o.BytesProcessed)
		number("Bytes billed", o.BytesBilled)
	}
	if r := f.Recording; r != nil {
		add("Recorded", r.Level)
		add("Rows' commitment", r.Body)
		number("Rows stored", r.StoredRows)
		add("Recording is short", r.Error)
	}
	if cl := f.Claims; cl != nil {
		add("User agent (claim)", cl.UserAgent)
		add("Reason (claim)", cl.Reason)
		add("Human (claim)", cl.Human)
		add("Title (claim)", cl.Title)
		add("Purpose (claim)", cl.Purpose)
	}
	if ev := f.Event; ev != nil {
		add("Action", ev.Action)
		add("Target", ev.Target)
		add("By", strings.TrimSpace(ev.Actor+" "+ev.Via))
		var keys []string
		for k := range ev.Detail {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			add(k, ev.Detail[k])
		}
	}
	if a := f.Aggregate; a != nil {
		add("Stands for", fmt.Sprintf("%d calls since %s", a.Count, stamp(a.Since)))
	}
	add("Flags", strings.Join(f.Flags, ", "))
	add("Gateway", strings.TrimSpace(f.Gateway.ID+" "+f.Gateway.Version))
	add("Policy SHA-256", f.Gateway.PolicyDigest)
	return rows
}
