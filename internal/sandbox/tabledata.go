package sandbox

import (
	"context"
	"errors"
	"strings"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

func (s *Sandbox) tabledataList(c *call) (answer, error) {
	format, ferr := formatOf(c.query("formatOptions.useInt64Timestamp"), c.query("formatOptions.timestampOutputFormat"))
	if ferr != nil {
		return nil, ferr
	}
	params := object{}
	if v := c.query("maxResults"); v != "" {
		params["maxResults"] = v
	}
	src, err := s.tableRows(c, params)
	if err != nil {
		return nil, err
	}
	from, to, perr := pageFrom(params, src, c.query("pageToken"), c.query("startIndex"))
	if perr != nil {
		return nil, perr
	}
	if w, ok := src.(*tableWindow); ok {
		to = w.from + int64(len(w.rows)) // as many as fit into a page
	}
	return &rowPage{
		head: object{"kind": "bigquery#tableDataList", "etag": etagOf(object{"t": tableID(nameOf(c)), "n": src.count()}), "totalRows": decimal(src.count())},
		src:  src, from: from, to: to, maxBytes: s.cfg.MaxPageBytes, format: format, token: "pageToken",
	}, nil
}

// tableRows reads the rows that a tabledata.list wants.
func (s *Sandbox) tableRows(c *call, params object) (rowSource, error) {
	n := nameOf(c)
	if src := s.anonymousRows(n); src != nil {
		return src, nil
	}
	if t := benchTable(n); t != nil {
		return benchRows(t.generated), nil
	}
	release, err := s.engine.hold(c.r.Context())
	if err != nil {
		return nil, err
	}
	defer release()
	t, aerr := s.catalog.tableLocked(n)
	if aerr != nil {
		return nil, aerr
	}
	if t.view != "" {
		return nil, fail("invalid", "Cannot list a table of type VIEW.")
	}
	cols := t.columns
	if sel := c.query("selectedFields"); sel != "" {
		cols = nil
		for name := range strings.SplitSeq(sel, ",") {
			col, ok := column(t.columns, strings.TrimSpace(name))
			if !ok {
				return nil, fail("invalid", "Selected fields: no such field %s", name)
			}
			cols = append(cols, col)
		}
	}
	w := &tableWindow{resultSet: resultSet{cols: cols}, total: t.rows}
	var perr *apiError
	var to int64
	if w.from, to, perr = pageFrom(params, w, c.query("pageToken"), c.query("startIndex")); perr != nil {
		return nil, perr
	}
	w.rows, err = s.engine.read(c.r.Context(), t, cols, w.from, to-w.from, s.cfg.MaxPageBytes)
	return w, err
}

// read fetches rows of a table in the order in which they came, up to n, and
// about maxBytes; the caller holds the engine.
func (e *engine) read(ctx context.Context, t *table, cols []googlesql.Column, from, n, maxBytes int64) (_ [][]any, err error) {
	if len(cols) == 0 || n <= 0 {
		return nil, nil
	}
	conn, err := e.ready(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(cols))
	for i, c := range cols {
		names[i] = quote(c.Name)
	}
	rows, err := conn.QueryContext(ctx, "SELECT "+strings.Join(names, ", ")+" FROM "+quote(t.storage)+" ORDER BY rowid LIMIT ? OFFSET ?", n, from)
	if err != nil {
		return nil, sqlError(ctx, err, []*table{t})
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var out [][]any
	var size int64
	for rows.Next() && (size < maxBytes || len(out) == 0) {
		row, err := scanRow(rows, len(cols))
		if err != nil {
			return nil, err
		}
		out = append(out, row)
		for _, v := range row {
			size += sizeOf(v) + 12
		}
	}
	return out, rows.Err()
}

// scanner is *sql.Rows, as far as scanRow needs it.
type scanner interface{ Scan(dest ...any) error }

func scanRow(rows scanner, n int) ([]any, error) {
	row, ptrs := make([]any, n), make([]any, n)
	for i := range row {
		ptrs[i] = &row[i]
	}
	err := rows.Scan(ptrs...)
	return row, err
}

// maxInsertIDs bounds the insertIds remembered of a table, which BigQuery calls
// best-effort too.
const maxInsertIDs = 100_000

func (s *Sandbox) tabledataInsertAll(c *call) (answer, error) {
	if str(c.body, "templateSuffix") != "" {
		return nil, unsupported("templateSuffix")
	}
	rows := list(c.body, "rows")
	if len(rows) == 0 {
		return nil, fail("invalid", "No rows present in the request.")
	}
	skip, ignore := boolean(c.body, false, "skipInvalidRows"), boolean(c.body, false, "ignoreUnknownValues")
	release, err := s.engine.hold(c.r.Context())
	if err != nil {
		return nil, err
	}
	defer release()
	t, aerr := s.catalog.tableLocked(nameOf(c))
	if aerr != nil {
		return nil, aerr
	}
	if t.storage == "" {
		return nil, fail("invalid", "Cannot add rows to a table of type %s.", t.kind())
	}
	if len(t.columns) == 0 {
		return nil, fail("invalid", "The destination table has no schema.")
	}
	good, ids, bad := convertRows(t, rows, ignore)
	insertErrors := []any{}
	for i := range rows {
		switch err, isBad := bad[i]; {
		case isBad:
			insertErrors = append(insertErrors, object{"index": i, "errors": []any{object{"reason": err.reason, "message": err.message, "location": err.location, "debugInfo": ""}}})
		case len(bad) > 0 && !skip:
			insertErrors = append(insertErrors, object{"index": i, "errors": []any{object{"reason": "stopped", "message": "", "location": "", "debugInfo": ""}}})
		}
	}
	if len(bad) == 0 || skip {
		if err := s.appendRows(c.r.Context(), t, t.columns, good); err != nil {
			return nil, err
		}
		if len(t.insertIDs)+len(ids) > maxInsertIDs {
			clear(t.insertIDs)
		}
		for _, id := range ids {
			t.insertIDs[id] = struct{}{}
		}
	}
	o := object{"kind": "bigquery#tableDataInsertAllResponse"}
	if len(insertErrors) > 0 {
		o["insertErrors"] = insertErrors
	}
	return reply(o)
}

// convertRows reads insertAll's rows: those to add, with their insertIds, and
// what is wrong with the others, by index.
func convertRows(t *table, rows []any, ignore bool) (good [][]any, ids []string, bad map[int]*apiError) {
	bad = map[int]*apiError{}
	batch := map[string]bool{}
	for i, r := range rows {
		o, _ := r.(object)
		values, err := recordRow(t.columns, sub(o, "json"), ignore)
		if err != nil {
			bad[i] = err
			continue
		}
		if id := str(o, "insertId"); id != "" {
			if _, seen := t.insertIDs[id]; seen || batch[id] {
				continue
			}
			batch[id] = true
			ids = append(ids, id)
		}
		good = append(good, values)
	}
	return good, ids, bad
}

// recordRow reads a row from a JSON object.
func recordRow(cols []googlesql.Column, o object, ignoreUnknown bool) ([]any, *apiError) {
	row := make([]any, len(cols))
	byName := map[string]any{}
	for name, v := range o {
		if _, ok := column(cols, name); !ok && !ignoreUnknown {
			e := fail("invalid", "no such field: %s.", name)
			e.location = name
			return nil, e
		}
		byName[strings.ToLower(name)] = v
	}
	for i, c := range cols {
		var err *apiError
		if row[i], err = fromJSON(c, byName[strings.ToLower(c.Name)], ignoreUnknown); err != nil {
			err.location = c.Name
			return nil, err
		}
	}
	return row, nil
}

// appendRows adds rows to a table and keeps its counts; the caller holds the
// engine.
func (s *Sandbox) appendRows(ctx context.Context, t *table, cols []googlesql.Column, rows [][]any) error {
	bytes, err := s.engine.insert(ctx, t, cols, rows)
	if err != nil {
		return err
	}
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	t.rows += int64(len(rows))
	t.bytes += bytes
	t.touch(s.now())
	return nil
}
