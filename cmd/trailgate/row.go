package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"strings"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin/client"
)

// row is one call, or one event that stands alone, as the admin API tells it:
// the opening entry with what its closing entry added.
type row struct{ client.Row }

// timeFormat shows times in tables, UTC.
const timeFormat = "2006-01-02 15:04:05"

// shortID is what tables show of an id: the time part and 30 random bits, which
// is unique in any trail that a person will search, and "show" takes it.
const shortID = 16

func (r *row) agent() string {
	if r.Entry.Principal == nil {
		return ""
	}
	if r.Entry.Principal.Human != "" {
		return r.Entry.Principal.Agent + " for " + r.Entry.Principal.Human
	}
	return r.Entry.Principal.Agent
}

// what is the method of a call, or the action of anything else.
func (r *row) what() string {
	if r.Entry.Event != nil && r.Entry.Method == "" {
		return r.Entry.Event.Action
	}
	if r.Entry.Method == "" && r.Entry.Aggregate != nil {
		return fmt.Sprintf("%d calls", r.Entry.Aggregate.Count)
	}
	return strings.TrimPrefix(r.Entry.Method, "bigquery.")
}

// tables lists written tables first: they are what a reviewer looks for.
func (r *row) tables() []string {
	if r.Entry.Tables == nil {
		return nil
	}
	var out []string
	seen := map[string]bool{}
	for _, list := range [][]string{r.Entry.Tables.Written, r.Entry.Tables.Read} {
		for _, name := range list {
			if !seen[name] {
				seen[name] = true
				out = append(out, name)
			}
		}
	}
	return out
}

// tablesShort names the first table without its project, and counts the rest.
func (r *row) tablesShort() string {
	names := r.tables()
	if len(names) == 0 {
		return ""
	}
	first := names[0]
	if r.Entry.Project != "" {
		first = strings.TrimPrefix(first, r.Entry.Project+".")
	}
	more := int64(len(names)-1) + r.Entry.Tables.Omitted
	if more > 0 {
		return fmt.Sprintf("%s +%d", first, more)
	}
	return first
}

// status is the state, and for what failed the reason or HTTP status.
func (r *row) status() string {
	switch {
	case r.Entry.Outcome == nil || r.State == "open":
		return r.State
	case r.Entry.Outcome.ErrorReason != "":
		return r.State + " " + r.Entry.Outcome.ErrorReason
	case r.Entry.Outcome.Status >= 400:
		return fmt.Sprintf("%s %d", r.State, r.Entry.Outcome.Status)
	}
	return r.State
}

// said is the statement, or what stands in its place.
func (r *row) said() string {
	if len(r.Entry.Statements) > 0 {
		s := r.Entry.Statements[0]
		text := s.Text
		if text == "" && s.Blob != "" {
			text = fmt.Sprintf("(%d bytes, stored as %.12s)", s.Length, s.Blob)
		}
		if n := len(r.Entry.Statements); n > 1 {
			text = fmt.Sprintf("%s (+%d more)", text, n-1)
		}
		return text
	}
	if r.Entry.Decision != nil && r.Entry.Decision.Effect != "allow" && r.Entry.Decision.Reason != "" {
		return r.Entry.Decision.Reason
	}
	if r.Entry.Event != nil {
		text := r.Entry.Event.Target
		if filter := r.Entry.Event.Detail["filter"]; filter != "" {
			text = strings.TrimSpace(text + " " + filter)
		}
		return text
	}
	return ""
}

// rowWriter prints rows in one of the output forms. Flush ends the output.
type rowWriter interface {
	add(r client.Row) error
	flush() error
}

// newRowWriter makes the writer for a form that [outputForms] allows.
// Follow: rows come one by one and each is to be seen at once.
func newRowWriter(w io.Writer, form string, follow bool) rowWriter {
	switch form {
	case "json":
		return &jsonRows{w: w, lines: follow}
	case "jsonl":
		return &jsonRows{w: w, lines: true}
	case "csv":
		return &csvRows{w: csv.NewWriter(w), each: follow}
	default:
		return newTableRows(w, follow)
	}
}

// jsonRows prints one array, or one object a line.
type jsonRows struct {
	w     io.Writer
	lines bool
	count int
}

func (j *jsonRows) add(r client.Row) error {
	lead, indent, tail := "", false, "\n"
	if !j.lines {
		lead, indent, tail = ",\n  ", true, ""
		if j.count == 0 {
			lead = "[\n  "
		}
	}
	j.count++
	text, err := respell(r.Raw, "  ", indent)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(j.w, "%s%s%s", lead, text, tail)
	return err
}

func (j *jsonRows) flush() error {
	var err error
	switch {
	case j.lines:
	case j.count == 0:
		_, err = io.WriteString(j.w, "[]\n")
	default:
		_, err = io.WriteString(j.w, "\n]\n")
	}
	return err
}

// bestType is BigQuery's own word on the statement type, or the nearest to it.
func bestType(s *trailgate.StatementType) string {
	for _, t := range []string{s.Final, s.DryRun, s.Local} {
		if t != "" {
			return t
		}
	}
	return ""
}
