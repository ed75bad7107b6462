package index

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/oklog/ulid/v2"
)

// checkedTable is a table that Check compares, in the order of its key.
type checkedTable struct {
	name    string
	columns []string
	key     int // the first so many columns are the key
	seq     int // the column that is an entry's sequence number, -1 for none
}

// checkedTables are all tables of a file but the inverted index. What the others
// refer to comes first: a changed name is told as that, not as a number.
var checkedTables = []checkedTable{
	// What SQLite would run or look into besides the tables: triggers, views, indexes.
	{name: "sqlite_master", columns: []string{"type", "name", "sql"}, key: 2, seq: -1},
	{name: "meta", columns: []string{"key", "value"}, key: 1, seq: -1},
	{name: "dict", columns: []string{"id", "field", "text"}, key: 1, seq: -1},
	{name: "tbl", columns: []string{"id", "project", "dataset", "name"}, key: 1, seq: -1},
	{name: "job", columns: []string{"id", "name", "project"}, key: 1, seq: -1},
	{name: "call", columns: []string{
		"seq", "time", "state", "closing", "agent", "human", "session", "connection", "method", "decision",
		"statement_type", "classes", "port", "makes", "tables", "billed", "processed", "rows", "affected", "bytes", "duration",
	}, key: 1, seq: 0},
	{name: "name", columns: []string{"id", "seq"}, key: 1, seq: 1},
	{name: "stage", columns: []string{"opening", "seq"}, key: 2, seq: 0},
	{name: "rollup", columns: []string{
		"day", "agent", "human", "connection", "method", "classes", "decision",
		"calls", "errors", "billed", "processed", "rows", "bytes",
	}, key: 7, seq: -1},
	{name: "rollup_table", columns: []string{
		"day", "agent", "classes", "tbl",
		"calls", "errors", "billed", "processed", "rows", "bytes",
	}, key: 4, seq: -1},
	{name: "rollup_day_table", columns: []string{
		"day", "tbl",
		"calls", "errors", "billed", "processed", "rows", "bytes",
	}, key: 2, seq: -1},
}

func (t *checkedTable) query() string {
	order := strings.Join(t.columns[:t.key], ", ")
	q := "SELECT " + strings.Join(t.columns, ", ") + " FROM " + t.name
	if t.name == "rollup" || strings.HasPrefix(t.name, "rollup_") {
		// A row whose calls were all moved to another key stays, at zero, or is not there
		// where both happened at once.
		q += " WHERE calls <> 0 OR errors <> 0 OR billed <> 0 OR processed <> 0 OR rows <> 0 OR bytes <> 0"
	}
	return q + " ORDER BY " + order
}

// tableReader reads a table's rows in order.
type tableReader struct {
	rows *sql.Rows
	cur  []any // nil at the end
	next []any
	dst  []any
}

func (t *checkedTable) read(ctx context.Context, f *file) (*tableReader, error) {
	rows, err := f.conn.QueryContext(ctx, t.query())
	if err != nil {
		return nil, err
	}
	r := &tableReader{rows: rows, next: make([]any, len(t.columns)), dst: make([]any, len(t.columns))}
	return r, r.step()
}

func (r *tableReader) step() error {
	if !r.rows.Next() {
		r.cur = nil
		return r.rows.Err()
	}
	for i := range r.next {
		r.dst[i] = &r.next[i]
	}
	r.cur = r.next
	return r.rows.Scan(r.dst...)
}

// compareTable compares a table with the reference's.
func compareTable(ctx context.Context, t *checkedTable, f, mine *file, p *part) (_ *Difference, n uint64, err error) {
	theirs, err := t.read(ctx, f)
	if err != nil {
		return nil, 0, err
	}
	defer theirs.rows.Close()
	want, err := t.read(ctx, mine)
	if err != nil {
		return nil, 0, err
	}
	defer want.rows.Close()
	for theirs.cur != nil || want.cur != nil {
		var reason string
		row := want.cur
		switch c := compareKeys(t, theirs.cur, want.cur); {
		case c < 0:
			row, reason = theirs.cur, "the row is invented: the log's entries make none like it"
		case c > 0:
			reason = "the row is missing"
		default:
			for i := t.key; i < len(t.columns) && reason == ""; i++ {
				if !sameValue(theirs.cur[i], want.cur[i]) {
					reason = fmt.Sprintf("%s is %s, the log's entries make it %s", t.columns[i], showValue(theirs.cur[i]), showValue(want.cur[i]))
				}
			}
		}
		if reason != "" {
			d := &Difference{File: f.path, Table: t.name, Row: showKey(t, row), Seq: p.lo, Reason: reason}
			if t.seq >= 0 {
				d.Seq = seqText(row[t.seq])
			}
			return d, n, nil
		}
		n++
		if err := theirs.step(); err != nil {
			return nil, n, err
		}
		if err := want.step(); err != nil {
			return nil, n, err
		}
	}
	return nil, n, nil
}

// compareKeys orders two rows by their keys; the end comes last.
func compareKeys(t *checkedTable, a, b []any) int {
	switch {
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	for i := range t.key {
		if c := compareValues(a[i], b[i]); c != 0 {
			return c
		}
	}
	return 0
}

// compareValues orders values as SQLite does: NULL, numbers, texts, blobs.
func compareValues(a, b any) int {
	if x, y := rank(a), rank(b); x != y {
		return x - y
	}
	switch x := a.(type) {
	case int64:
		if y, ok := b.(int64); ok {
			return cmpInt(x, y)
		}
	case string:
		return strings.Compare(x, b.(string))
	case []byte:
		return bytes.Compare(x, b.([]byte))
	case nil:
		return 0
	}
	return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) // no figure of ours has a fraction
}

func cmpInt(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func rank(v any) int {
	switch v.(type) {
	case nil:
		return 0
	case string:
		return 2
	case []byte:
		return 3
	}
	return 1
}

func sameValue(a, b any) bool { return rank(a) == rank(b) && compareValues(a, b) == 0 }

func showKey(t *checkedTable, row []any) string {
	parts := make([]string, t.key)
	for i := range parts {
		text := showValue(row[i])
		if id, ok := row[i].([]byte); ok && t.name == "name" {
			text = showName(id)
		}
		parts[i] = t.columns[i] + " " + text
	}
	return strings.Join(parts, ", ")
}

// showName undoes nameKey.
func showName(key []byte) string {
	if len(key) == 16 {
		return strings.ToLower(ulid.ULID(key).String())
	}
	if len(key) > 0 && key[0] == otherName {
		return fmt.Sprintf("%q", key[1:])
	}
	return hex.EncodeToString(key)
}

// maxShown bounds what is shown of a value.
const maxShown = 200

func showValue(v any) string {
	switch x := v.(type) {
	case nil:
		return "nothing"
	case []byte:
		return "x" + hex.EncodeToString(x[:min(len(x), maxShown/2)])
	case string:
		return fmt.Sprintf("%q", cut(x, maxShown))
	}
	return fmt.Sprint(v)
}
