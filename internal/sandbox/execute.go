package sandbox

import (
	"context"
	"database/sql"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// Bounds of a result in memory.
const (
	maxResultCells = 8_000_000
	maxViewDepth   = 16
)

// parameter is a query parameter's or script variable's type and value.
type parameter struct {
	column googlesql.Column
	value  any
}

// execution runs the statements of one query job. Its methods want the engine
// held.
type execution struct {
	s              *Sandbox
	project        string
	defaultProject string // of the default dataset
	defaultDataset string
	principal      string
	legacy         bool
	now            time.Time
	dryRun         bool

	positional []parameter
	named      map[string]parameter
	variables  map[string]parameter
	temporary  map[string]*table // of a script, by name
	undeclared []string          // parameters that a dry run did not get

	depth int      // of views in views
	reads []*table // of the statement that runs, each once
	views []*table
	// changing: the statement reads what changes without any statement, so that its
	// result is not cached.
	changing bool

	inTransaction bool
	saved         []savedCount // what ROLLBACK restores
}

type savedCount struct {
	t           *table
	rows, bytes int64
}

// outcome is what a statement did.
type outcome struct {
	plan        *googlesql.Plan
	rows        rowSource // of a SELECT; nil for all else
	affected    int64     // rows, of DML
	bytes       int64     // processed
	reads       []*table
	views       []*table
	volatile    bool
	cacheHit    bool
	ddl         string // operation performed: CREATE, REPLACE, SKIP, DROP, ALTER
	destination googlesql.Name
	schema      []googlesql.Column // of a dry run
	exported    []int64            // of EXPORT DATA: files, rows
}

func (x *execution) scope() *googlesql.Scope {
	return &googlesql.Scope{
		Project: x.project, DefaultProject: x.defaultProject, DefaultDataset: x.defaultDataset, Legacy: x.legacy, User: x.principal, Now: x.now,
		Resolve: x.resolve, Store: x.store,
		Variable: func(name string) bool { _, ok := x.variables[strings.ToLower(name)]; return ok },
	}
}

// find looks a table up for a statement.
func (x *execution) find(n googlesql.Name) (*table, error) {
	if n.Dataset == "" {
		if t, ok := x.temporary[n.Table]; ok {
			return t, nil
		}
		return nil, fail("invalid", "Table %q must be qualified with a dataset (e.g. dataset.table).", n.Table)
	}
	t, err := x.s.catalog.tableLocked(n)
	if err != nil {
		if err.reason == "notFound" {
			err.message += " was not found in location " + defaultLocation
		}
		return nil, err
	}
	return t, nil
}

// resolve gives what stands for a table in SQLite, and notes that it is read.
func (x *execution) resolve(n googlesql.Name) (string, error) {
	if view, ok := strings.CutPrefix(n.Table, "INFORMATION_SCHEMA."); ok {
		return x.informationSchema(n, view)
	}
	t, err := x.find(n)
	if err != nil {
		return "", err
	}
	if t.view != "" {
		return x.expand(t)
	}
	if !slices.ContainsFunc(x.reads, func(r *table) bool { return r.name == t.name }) {
		x.reads = append(x.reads, t)
	}
	if t.generated > 0 {
		return benchSQL(t.generated), nil
	}
	if len(t.columns) == 0 {
		return "", fail("invalid", "Table %s does not have a schema.", tableID(t.name))
	}
	return quote(t.storage), nil
}

// store gives the storage of a table that is written.
func (x *execution) store(n googlesql.Name) (string, error) {
	t, err := x.find(n)
	if err != nil {
		return "", err
	}
	if t.storage == "" {
		return "", fail("invalidQuery", "Cannot modify %s: it is not a table that DML can change", tableID(t.name))
	}
	return quote(t.storage), nil
}

// expand gives a view's query as a subquery, its columns named as the view's.
func (x *execution) expand(t *table) (string, error) {
	if x.depth >= maxViewDepth {
		return "", fail("invalidQuery", "Too many levels of views: %d", maxViewDepth)
	}
	if !slices.Contains(x.views, t) {
		x.views = append(x.views, t)
	}
	stmts, err := googlesql.Split(t.view, t.viewLegacy)
	if err != nil {
		return "", err
	}
	if len(stmts) != 1 {
		return "", fail("invalidQuery", "The view %s is not one query", tableID(t.name))
	}
	inner := *x
	inner.project, inner.defaultDataset, inner.legacy, inner.variables, inner.temporary = t.name.Project, "", t.viewLegacy, nil, nil
	inner.depth++
	plan, err := googlesql.Parse(stmts[0], inner.scope())
	if err != nil {
		return "", err
	}
	x.reads, x.views = inner.reads, inner.views
	if len(plan.Query.Args) > 0 {
		return "", fail("invalidQuery", "The view %s has query parameters", tableID(t.name))
	}
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = quote(c.Name)
	}
	return "(WITH sandbox_view(" + strings.Join(names, ", ") + ") AS (" + plan.Query.SQL + ") SELECT * FROM sandbox_view)", nil
}

// run runs one statement.
func (x *execution) run(ctx context.Context, stmt googlesql.Statement) (*outcome, error) {
	x.reads, x.views = nil, nil
	plan, err := googlesql.Parse(stmt, x.scope())
	if err != nil {
		return nil, err
	}
	o := &outcome{plan: plan, reads: x.reads, views: x.views}
	for _, t := range x.reads {
		o.bytes += t.bytes
	}
	if plan.Query != nil {
		o.volatile = plan.Query.Volatile || x.changing
	}
	if x.dryRun {
		return o, x.dry(ctx, o)
	}
	switch plan.Type {
	case "SELECT":
		o.rows, err = x.query(ctx, plan.Query)
	case "INSERT", "UPDATE", "DELETE":
		err = x.modify(ctx, o)
	case "TRUNCATE_TABLE":
		err = x.truncate(ctx, o)
	case "EXPORT_DATA":
		err = x.exportData(ctx, o)
	case "GRANT", "REVOKE":
		err = x.s.grant(plan)
	case "BEGIN_TRANSACTION", "COMMIT_TRANSACTION", "ROLLBACK_TRANSACTION":
		err = x.transaction(ctx, plan.Type)
	case "DECLARE", "SET":
		err = x.assign(ctx, plan)
	default:
		if x.inTransaction && !plan.Temporary {
			return nil, fail("invalidQuery", "DDL statements are not supported in a transaction, other than those creating or droping temporary tables or temporary functions.")
		}
		err = x.define(ctx, o)
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}

// bind gives the values of a query's parameters.
func (x *execution) bind(q *googlesql.Query) ([]any, error) {
	out := make([]any, len(q.Args))
	for i, a := range q.Args {
		p, err := x.parameter(a)
		if err != nil {
			return nil, err
		}
		out[i] = p.value
	}
	return out, nil
}

func (x *execution) parameter(a googlesql.Arg) (parameter, error) {
	var p parameter
	ok := false
	switch {
	case a.Variable:
		p, ok = x.variables[a.Name]
	case a.Index >= 0:
		if ok = a.Index < len(x.positional); ok {
			p = x.positional[a.Index]
		}
	default:
		p, ok = x.named[a.Name]
	}
	if !ok {
		if x.dryRun {
			if !slices.Contains(x.undeclared, a.String()) {
				x.undeclared = append(x.undeclared, a.String())
			}
			return parameter{column: googlesql.Column{Type: "STRING"}}, nil
		}
		if a.Index >= 0 {
			return p, fail("invalidQuery", "Query parameter number %d is not defined: Number of query parameters is %d", a.Index+1, len(x.positional))
		}
		return p, fail("invalidQuery", "Query parameter '%s' not found", a.Name)
	}
	return p, nil
}

// query runs a SELECT and keeps its rows.
func (x *execution) query(ctx context.Context, q *googlesql.Query) (rowSource, error) {
	if len(x.reads) == 1 && x.reads[0].generated > 0 && q.SQL == "SELECT * FROM "+benchSQL(x.reads[0].generated)+" AS "+quote(x.reads[0].name.Table) {
		return benchRows(x.reads[0].generated), nil
	}
	return x.fetch(ctx, q, q.SQL)
}

// fetch runs text, which is q's SQL or wraps it.
func (x *execution) fetch(ctx context.Context, q *googlesql.Query, text string) (_ *resultSet, err error) {
	args, err := x.bind(q)
	if err != nil {
		return nil, err
	}
	conn, err := x.s.engine.ready(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := conn.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, sqlError(ctx, err, x.reads)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	types, err := rows.ColumnTypes()
	if err != nil {
		return nil, sqlError(ctx, err, x.reads)
	}
	r := &resultSet{}
	for rows.Next() {
		row, err := scanRow(rows, len(types))
		if err != nil {
			return nil, sqlError(ctx, err, x.reads)
		}
		r.rows = append(r.rows, row)
		if len(r.rows)*len(types) > maxResultCells {
			return nil, fail("responseTooLarge", "Response too large to return. The sandbox keeps %d cells at most; use LIMIT, or %s.rows_N for big results.", maxResultCells, benchDataset)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, sqlError(ctx, err, x.reads)
	}
	r.cols, err = x.describeColumns(q, types, r.rows)
	return r, err
}

// describeColumns names and types the columns of a result: by the declared type
// where a column comes from a table, by the look of the expression, or by the
// first value.
func (x *execution) describeColumns(q *googlesql.Query, types []*sql.ColumnType, rows [][]any) ([]googlesql.Column, error) {
	hints := align(q.Columns, len(types))
	cols := make([]googlesql.Column, len(types))
	seen := map[string]bool{}
	for i, ct := range types {
		c := googlesql.Column{Name: ct.Name()}
		h := hints[i]
		if h != nil && h.Name != "" {
			c.Name = h.Name
		}
		name := c.Name
		switch decl := ct.DatabaseTypeName(); {
		case decl == "NESTED_TEXT":
			if from, ok := x.readColumn(ct.Name()); ok {
				c = from
			} else {
				c.Type = "JSON"
			}
		case declared[decl] != "":
			c.Type = declared[decl]
		case h != nil:
			t, err := x.hintType(h)
			if err != nil {
				return nil, err
			}
			c.Type, c.Mode = t.Type, t.Mode
		}
		if c.Type == "" {
			c.Type = valueType(rows, i)
		}
		c.Name, c.Description = name, ""
		if c.Mode != "REPEATED" {
			c.Mode = ""
		}
		if seen[strings.ToLower(c.Name)] {
			return nil, fail("invalidQuery", "Duplicate column names in the result are not supported. Found duplicate(s): %s", c.Name)
		}
		seen[strings.ToLower(c.Name)] = true
		cols[i] = c
	}
	return cols, nil
}

// align gives each result column its item of the select list, where the list
// tells which it is.
func align(items []googlesql.Output, n int) []*googlesql.Output {
	out := make([]*googlesql.Output, n)
	star := slices.IndexFunc(items, func(o googlesql.Output) bool { return o.Star })
	if star < 0 {
		star = len(items)
	}
	for i := 0; i < star && i < n; i++ {
		out[i] = &items[i]
	}
	for i := len(items) - 1; i > star && !items[i].Star; i-- {
		if j := n - len(items) + i; j >= 0 && j < n {
			out[j] = &items[i]
		}
	}
	return out
}

func (x *execution) readColumn(name string) (googlesql.Column, bool) {
	for _, t := range slices.Concat(x.reads, x.views) {
		if c, ok := column(t.columns, name); ok {
			return c, true
		}
	}
	return googlesql.Column{}, false
}

func (x *execution) hintType(h *googlesql.Output) (googlesql.Column, error) {
	switch {
	case h.Array && h.Type == "":
		return googlesql.Column{}, unsupported("an array of computed elements as a result")
	case h.Array:
		return googlesql.Column{Type: h.Type, Mode: "REPEATED"}, nil
	case h.Type != "":
		return googlesql.Column{Type: h.Type}, nil
	case h.Arg != nil:
		p, err := x.parameter(*h.Arg)
		return p.column, err
	case h.Column != "":
		c, _ := x.readColumn(h.Column)
		return c, nil
	}
	return googlesql.Column{}, nil
}

// keptTimestamp is the shape of a TIMESTAMP as it is kept: wide enough that no
// other text is taken for one.
var keptTimestamp = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\+00$`)

// valueType tells a type by the first value that is not NULL.
func valueType(rows [][]any, i int) string {
	for _, r := range rows {
		switch v := r[i].(type) {
		case int64:
			return "INTEGER"
		case float64:
			return "FLOAT"
		case []byte:
			return "BYTES"
		case string:
			if keptTimestamp.MatchString(v) {
				return "TIMESTAMP"
			}
			return "STRING"
		}
	}
	return "STRING"
}

// dry checks a statement as far as that goes without running it.
func (x *execution) dry(ctx context.Context, o *outcome) error {
	p := o.plan
	switch {
	case p.Query != nil && (p.Type == "SELECT" || strings.HasPrefix(p.Type, "CREATE_") || p.Type == "EXPORT_DATA"):
		r, err := x.fetch(ctx, p.Query, "SELECT * FROM ("+p.Query.SQL+") LIMIT 0")
		if err != nil {
			return err
		}
		o.schema = r.cols
	case p.Query != nil:
		args, err := x.bind(p.Query)
		if err != nil {
			return err
		}
		if err := x.s.engine.exec(ctx, "EXPLAIN "+p.Query.SQL, args...); err != nil {
			return err
		}
	}
	switch p.Type {
	case "INSERT", "UPDATE", "DELETE":
		t, err := x.find(p.Target)
		if err != nil {
			return err
		}
		if p.Type != "INSERT" && !slices.Contains(o.reads, t) { // as when it really runs
			o.reads = append(o.reads, t)
			o.bytes += t.bytes
		}
	case "DROP_TABLE", "DROP_VIEW", "TRUNCATE_TABLE", "ALTER_TABLE":
		if _, err := x.find(p.Target); err != nil && !p.IfExists {
			return err
		}
	case "CREATE_TABLE", "CREATE_TABLE_AS_SELECT", "CREATE_VIEW":
		if p.Temporary {
			break
		}
		if _, err := x.s.catalog.datasetLocked(p.Target.Project, p.Target.Dataset); err != nil {
			return err
		}
		if _, err := x.s.catalog.tableLocked(p.Target); err == nil && !p.OrReplace && !p.IfNotExists {
			return alreadyExists("Table", tableID(p.Target))
		}
	}
	return nil
}

// describe tells the columns that a view's query gives.
func (x *execution) describe(ctx context.Context, query string) ([]googlesql.Column, error) {
	stmts, err := googlesql.Split(query, x.legacy)
	if err != nil {
		return nil, err
	}
	if len(stmts) != 1 || stmts[0].Type != "SELECT" {
		return nil, fail("invalidQuery", "A view's query must be one SELECT statement")
	}
	x.dryRun = true
	o, err := x.run(ctx, stmts[0])
	if err != nil {
		return nil, err
	}
	if len(x.undeclared) > 0 {
		return nil, fail("invalidQuery", "Query parameters cannot be used in a view")
	}
	return o.schema, nil
}
