package sandbox

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// modify runs INSERT, UPDATE and DELETE.
func (x *execution) modify(ctx context.Context, o *outcome) error {
	t, err := x.find(o.plan.Target)
	if err != nil {
		return err
	}
	args, err := x.bind(o.plan.Query)
	if err != nil {
		return err
	}
	if o.affected, err = x.s.engine.change(ctx, o.plan.Query.SQL, args, append(x.reads, t)); err != nil {
		return err
	}
	// BigQuery counts the changed table among those read by UPDATE and DELETE.
	if o.plan.Type != "INSERT" {
		if !slices.Contains(o.reads, t) {
			o.reads = append(o.reads, t)
			o.bytes += t.bytes
		}
	}
	x.saveCount(t)
	x.s.catalog.mu.Lock()
	defer x.s.catalog.mu.Unlock()
	average := int64(32)
	if t.rows > 0 {
		average = t.bytes / t.rows
	}
	switch o.plan.Type {
	case "INSERT":
		t.rows += o.affected
		t.bytes += o.affected * average
	case "DELETE":
		t.rows = max(t.rows-o.affected, 0)
		t.bytes = t.rows * average
	}
	if o.affected > 0 {
		t.touch(x.s.now())
	}
	return nil
}

// saveCount notes a table's counts for ROLLBACK, before they change.
func (x *execution) saveCount(t *table) {
	if x.inTransaction && !slices.ContainsFunc(x.saved, func(c savedCount) bool { return c.t == t }) {
		x.saved = append(x.saved, savedCount{t, t.rows, t.bytes})
	}
}

// truncate runs TRUNCATE TABLE.
func (x *execution) truncate(ctx context.Context, o *outcome) error {
	t, err := x.find(o.plan.Target)
	if err != nil {
		return err
	}
	if t.storage == "" {
		return fail("invalidQuery", "Cannot truncate %s: it is not a table that can be changed", tableID(t.name))
	}
	if o.affected, err = x.s.engine.change(ctx, "DELETE FROM "+quote(t.storage), nil, []*table{t}); err != nil {
		return err
	}
	x.saveCount(t)
	x.s.catalog.mu.Lock()
	defer x.s.catalog.mu.Unlock()
	t.rows, t.bytes = 0, 0
	t.touch(x.s.now())
	return nil
}

// transaction runs BEGIN, COMMIT and ROLLBACK.
func (x *execution) transaction(ctx context.Context, kind string) error {
	if begin := kind == "BEGIN_TRANSACTION"; begin == x.inTransaction {
		if begin {
			return fail("invalidQuery", "Transaction already in progress")
		}
		return fail("invalidQuery", "There is no active transaction")
	}
	switch kind {
	case "BEGIN_TRANSACTION":
		if err := x.s.engine.exec(ctx, "BEGIN"); err != nil {
			return err
		}
		x.inTransaction, x.saved = true, nil
		return nil
	case "COMMIT_TRANSACTION":
		x.inTransaction = false
		return x.s.engine.exec(ctx, "COMMIT")
	}
	return x.rollback(ctx)
}

// rollback undoes an open transaction; with none it does nothing.
func (x *execution) rollback(ctx context.Context) error {
	if !x.inTransaction {
		return nil
	}
	x.inTransaction = false
	x.s.catalog.mu.Lock()
	for _, c := range x.saved {
		c.t.rows, c.t.bytes = c.rows, c.bytes
		c.t.touch(x.s.now())
	}
	x.s.catalog.mu.Unlock()
	return x.s.engine.exec(ctx, "ROLLBACK")
}

// end undoes what a script left open: its transaction and temporary tables.
func (x *execution) end(ctx context.Context) error {
	err := x.rollback(ctx)
	for _, t := range x.temporary {
		err = errors.Join(err, x.s.engine.exec(ctx, "DROP TABLE IF EXISTS "+quote(t.storage)))
	}
	return err
}

// assign runs DECLARE and SET.
func (x *execution) assign(ctx context.Context, p *googlesql.Plan) error {
	var value any
	var found googlesql.Column
	if p.Query != nil {
		r, err := x.fetch(ctx, p.Query, p.Query.SQL)
		if err != nil {
			return err
		}
		if len(r.rows) != 1 || len(r.cols) != 1 {
			return fail("invalidQuery", "The value of %s is not one value", p.Variables[0].Name)
		}
		value, found = r.rows[0][0], r.cols[0]
	}
	for _, v := range p.Variables {
		old, exists := x.variables[v.Name]
		col := v
		switch {
		case p.Type == "SET" && !exists:
			return fail("invalidQuery", "Undeclared variable: %s", v.Name)
		case p.Type == "SET":
			col = old.column
		case exists:
			return fail("invalidQuery", "Re-declaration of variable %s", v.Name)
		case col.Type == "":
			col = found
		}
		if value != nil && col.Type != found.Type && col.Mode == "" {
			converted, err := fromText(col.Type, plainText(found, value))
			if err != nil {
				return err
			}
			value = converted
		}
		if x.variables == nil {
			x.variables = map[string]parameter{}
		}
		x.variables[v.Name] = parameter{column: googlesql.Column{Type: col.Type, Mode: col.Mode}, value: value}
	}
	return nil
}

// define runs DDL.
func (x *execution) define(ctx context.Context, o *outcome) error {
	p := o.plan
	switch p.Type {
	case "CREATE_SCHEMA":
		if _, err := x.s.catalog.datasetLocked(p.Target.Project, p.Target.Dataset); err == nil && p.IfNotExists {
			o.ddl = "SKIP"
			return nil
		}
		resource, err := x.schemaOptions(p.Options)
		if err != nil {
			return err
		}
		o.ddl = "CREATE"
		if _, err := x.s.createDataset(p.Target.Project, p.Target.Dataset, resource); err != nil {
			return err
		}
		return nil
	case "DROP_SCHEMA":
		if _, err := x.s.catalog.datasetLocked(p.Target.Project, p.Target.Dataset); err != nil && p.IfExists {
			o.ddl = "SKIP"
			return nil
		}
		o.ddl = "DROP"
		return x.s.dropDataset(p.Target.Project, p.Target.Dataset, p.Cascade)
	case "DROP_TABLE", "DROP_VIEW":
		return x.drop(ctx, o)
	case "ALTER_TABLE":
		return x.alter(ctx, o)
	case "CREATE_TABLE", "CREATE_TABLE_AS_SELECT", "CREATE_VIEW":
		return x.create(ctx, o)
	}
	return unsupported("%s", p.Type)
}

// tableOptions turns OPTIONS(…) of a table into resource fields.
func (x *execution) tableOptions(p *googlesql.Plan) (object, error) {
	r := object{}
	for name, v := range p.Options {
		switch name {
		case "description":
			r["description"] = v
		case "friendly_name":
			r["friendlyName"] = v
		case "labels":
			labels, err := labelPairs(v)
			if err != nil {
				return nil, err
			}
			r["labels"] = labels
		default:
			return nil, unsupported("the option %s of a table", name)
		}
	}
	if p.Partition != "" {
		r["timePartitioning"] = object{"type": p.Granularity, "field": p.Partition}
	}
	if len(p.Cluster) > 0 {
		r["clustering"] = object{"fields": anys(p.Cluster)}
	}
	return r, nil
}

func (x *execution) schemaOptions(options map[string]any) (object, error) {
	r := object{}
	for name, v := range options {
		switch name {
		case "description", "location":
			r[name] = v
		case "friendly_name":
			r["friendlyName"] = v
		case "labels":
			labels, err := labelPairs(v)
			if err != nil {
				return nil, err
			}
			r["labels"] = labels
		default:
			return nil, unsupported("the option %s of a schema", name)
		}
	}
	return r, nil
}

// labelPairs reads [("key", "value"), …].
func labelPairs(v any) (object, error) {
	out := object{}
	pairs, _ := v.([]any)
	for _, p := range pairs {
		pair, _ := p.([]any)
		if len(pair) != 2 {
			return nil, fail("invalidQuery", "labels are pairs of strings")
		}
		k, _ := pair[0].(string)
		out[k] = pair[1]
	}
	if err := validateLabels(out); err != nil {
		return nil, err
	}
	return out, nil
}

func anys(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

// create runs CREATE TABLE and CREATE VIEW.
func (x *execution) create(ctx context.Context, o *outcome) error {
	p := o.plan
	resource, err := x.tableOptions(p)
	if err != nil {
		return err
	}
	var old *table
	switch {
	case p.Temporary:
		if p.Type == "CREATE_VIEW" {
			return unsupported("CREATE TEMP VIEW")
		}
		if x.temporary == nil {
			return fail("invalidQuery", "Use of CREATE TEMPORARY TABLE requires a script or session")
		}
		old = x.temporary[p.Target.Table]
	case p.Target.Dataset == "":
		return fail("invalid", "Table %q must be qualified with a dataset (e.g. dataset.table).", p.Target.Table)
	default:
		old, _ = x.s.catalog.tableLocked(p.Target) // not there: nil
	}
	switch {
	case old == nil:
		o.ddl = "CREATE"
	case p.IfNotExists:
		o.ddl = "SKIP"
		return nil
	case !p.OrReplace || old.generated > 0:
		return alreadyExists("Table", tableID(p.Target))
	default:
		o.ddl = "REPLACE"
	}
	spec := tableSpec{name: p.Target, columns: p.Columns, resource: resource}
	var rows [][]any
	switch p.Type {
	case "CREATE_VIEW":
		spec.view, spec.viewLegacy = p.QueryText, x.legacy
		inner := *x
		if spec.columns, err = inner.describe(ctx, p.QueryText); err != nil {
			return err
		}
	case "CREATE_TABLE_AS_SELECT":
		r, err := x.fetch(ctx, p.Query, p.Query.SQL)
		if err != nil {
			return err
		}
		if rows = r.rows; len(spec.columns) == 0 {
			spec.columns = r.cols
		}
		if len(spec.columns) != len(r.cols) {
			return fail("invalidQuery", "The number of columns in the column definition list does not match the number of columns produced by the query")
		}
	}
	return x.replace(ctx, old, spec, rows, p.Temporary)
}

// replace makes a table with rows, and removes the one that had its name.
func (x *execution) replace(ctx context.Context, old *table, spec tableSpec, rows [][]any, temporary bool) error {
	if temporary {
		t := &table{name: googlesql.Name{Project: x.project, Dataset: "_script", Table: spec.name.Table}, columns: spec.columns, resource: object{}, created: x.now, modified: x.now}
		x.s.catalog.mu.Lock()
		t.storage = x.s.catalog.newStorageLocked()
		x.s.catalog.mu.Unlock()
		if err := x.s.engine.createStorage(ctx, t); err != nil {
			return err
		}
		if old != nil {
			if err := x.s.dropTable(old); err != nil {
				return err
			}
		}
		x.temporary[spec.name.Table] = t
		return x.s.appendRows(ctx, t, t.columns, rows)
	}
	if old == nil {
		t, err := x.s.createTable(ctx, spec)
		if err != nil {
			return err
		}
		if err := x.s.appendRows(ctx, t, t.columns, rows); err != nil {
			return errors.Join(err, x.s.dropTable(t))
		}
		return nil
	}
	return x.s.swapTable(ctx, old, spec, rows)
}

// swapTable gives a table other columns and rows, in one step as others see it;
// the caller holds the engine.
func (s *Sandbox) swapTable(ctx context.Context, old *table, spec tableSpec, rows [][]any) error {
	next := &table{name: old.name, columns: spec.columns, view: spec.view, viewLegacy: spec.viewLegacy}
	var bytes int64
	if spec.view == "" {
		s.catalog.mu.Lock()
		next.storage = s.catalog.newStorageLocked()
		s.catalog.mu.Unlock()
		if err := s.engine.createStorage(ctx, next); err != nil {
			return err
		}
		var err error
		if bytes, err = s.engine.insert(ctx, next, next.columns, rows); err != nil {
			return errors.Join(err, s.engine.exec(context.WithoutCancel(ctx), "DROP TABLE "+quote(next.storage)))
		}
	}
	if old.storage != "" {
		if err := s.engine.exec(s.ctx, "DROP TABLE "+quote(old.storage)); err != nil {
			return err
		}
	}
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	old.storage, old.columns, old.view, old.viewLegacy = next.storage, next.columns, next.view, next.viewLegacy
	old.rows, old.bytes = int64(len(rows)), bytes
	if spec.resource != nil {
		location := old.resource["location"]
		old.resource = maps.Clone(spec.resource)
		if location != nil {
			old.resource["location"] = location
		}
	}
	old.insertIDs = map[string]struct{}{}
	old.touch(s.now())
	return nil
}

func (x *execution) drop(ctx context.Context, o *outcome) error {
	p := o.plan
	t, err := x.find(p.Target)
	if err != nil {
		if p.IfExists {
			o.ddl = "SKIP"
			return nil
		}
		return err
	}
	if isView := t.view != ""; isView != (p.Type == "DROP_VIEW") {
		return fail("invalid", "%s is a %s, which is not what the statement drops", tableID(t.name), strings.ToLower(t.kind()))
	}
	if t.generated > 0 {
		return fail("accessDenied", "Access Denied: Table %s: it is computed and cannot be changed", tableID(t.name))
	}
	o.ddl = "DROP"
	if p.Target.Dataset == "" {
		delete(x.temporary, p.Target.Table)
	}
	return x.s.dropTable(t)
}

func (x *execution) alter(ctx context.Context, o *outcome) error {
	p := o.plan
	t, err := x.find(p.Target)
	if err != nil {
		if p.IfExists {
			o.ddl = "SKIP"
			return nil
		}
		return err
	}
	if t.storage == "" {
		return fail("invalid", "%s is not a table that can be altered", tableID(t.name))
	}
	o.ddl = "ALTER"
	change, err := x.tableOptions(&googlesql.Plan{Options: p.Options})
	if err != nil {
		return err
	}
	columns := slices.Clone(t.columns)
	for _, c := range p.AddColumns {
		if _, ok := column(columns, c.Name); ok {
			if p.IfNotExists {
				continue
			}
			return fail("invalidQuery", "Column already exists: %s", c.Name)
		}
		if err := x.s.engine.addColumn(ctx, t, c); err != nil {
			return err
		}
		columns = append(columns, c)
	}
	if p.DropColumn != "" {
		return unsupported("ALTER TABLE … DROP COLUMN")
	}
	x.s.catalog.mu.Lock()
	defer x.s.catalog.mu.Unlock()
	if p.RenameTo != "" {
		d, err := x.s.catalog.datasetLocked(t.name.Project, t.name.Dataset)
		if err != nil {
			return err
		}
		if _, ok := d.tables[p.RenameTo]; ok {
			return alreadyExists("Table", tableID(googlesql.Name{Project: t.name.Project, Dataset: t.name.Dataset, Table: p.RenameTo}))
		}
		if err := validID("table", p.RenameTo); err != nil {
			return err
		}
		delete(d.tables, t.name.Table)
		t.name.Table = p.RenameTo
		d.tables[p.RenameTo] = t
	}
	merge(t.resource, change)
	t.columns = columns
	t.touch(x.s.now())
	return nil
}
