package main

import (
	"io"
	"slices"
	"strings"

	"github.com/trailgate/trailgate/internal/admin/client"
)

// tableRows shows rows as a table: all of a batch at once so that columns fit,
// or, following, each as it comes, in columns of a fixed width.
type tableRows struct {
	w       io.Writer
	follow  bool
	columns []column
	t       table
	headed  bool
}

// column is one column of the table of rows.
type column struct {
	head   string
	follow int  // its width in a table that grows a row at a time; 0: any
	wide   bool // left out on a narrow terminal
	cell   func(*row) string
}

var columns = []column{
	{"TIME", len(timeFormat), false, func(r *row) string { return moment(r.Entry.Time) }},
	{"ID", shortID, false, func(r *row) string { return brief(r.Entry.ID) }},
	{"AGENT", 14, false, (*row).agent},
	{"CLASS", 15, false, func(r *row) string { return string(r.Entry.Class) }},
	{"METHOD", 18, false, (*row).what},
	{"TABLES", 24, true, (*row).tablesShort},
	{"STATUS", 18, false, (*row).status},
	{"STATEMENT", 0, false, (*row).said},
}

// narrow is the width below which a terminal is too narrow for all columns.
const narrow = 140

// batch is how many rows are laid out together: more than any screen, few
// enough that printing a whole trail takes no memory to speak of.
const batch = 1000

// statementMax is how much of a statement a table shows where there is no
// terminal to say so.
const statementMax = 100

func newTableRows(w io.Writer, follow bool) *tableRows {
	t := &tableRows{w: w, follow: follow, columns: columns, t: table{limit: terminalWidth(w)}}
	if t.t.limit > 0 && t.t.limit < narrow {
		t.columns = slices.DeleteFunc(slices.Clone(columns), func(c column) bool { return c.wide })
	}
	for _, c := range t.columns {
		t.t.head = append(t.t.head, c.head)
	}
	return t
}

func (t *tableRows) add(found client.Row) error {
	r := &row{found}
	cells := make([]string, len(t.columns))
	for i, c := range t.columns {
		text := visible(c.cell(r))
		if t.follow && c.follow > 0 {
			text = shorten(text, c.follow)
			text += strings.Repeat(" ", c.follow-textWidth(text))
		}
		cells[i] = text
	}
	last := len(cells) - 1
	if t.t.limit == 0 {
		cells[last] = shorten(cells[last], statementMax)
	}
	if cells[last] == "" && len(t.columns) < len(columns) {
		cells[last] = visible(r.tablesShort()) // there is no other place for them
	}
	t.t.add(cells...)
	if t.follow || len(t.t.rows) >= batch {
		return t.flush()
	}
	return nil
}

func (t *tableRows) flush() error {
	if len(t.t.rows) == 0 {
		return nil
	}
	err := t.t.writeRows(t.w, !t.headed)
	t.headed = true
	t.t.rows = t.t.rows[:0]
	return err
}

// brief is what a table shows of an id.
func brief(id string) string { return id[:min(len(id), shortID)] }
