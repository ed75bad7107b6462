package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// queryJob is a query on its way.
type queryJob struct {
	s      *Sandbox
	j      *job
	q      object // configuration.query
	x      *execution
	land   *landing // Optional: destinationTable
	legacy bool
	cap    int64 // maximumBytesBilled; 0 for none
}

// prepareQuery checks a query's configuration and gives the work of its job.
func (s *Sandbox) prepareQuery(j *job, q object) (func(context.Context) error, error) {
	text := str(q, "query")
	if text == "" {
		return nil, fail("required", "Required parameter is missing: query")
	}
	if p := str(q, "priority"); p != "" && p != "INTERACTIVE" && p != "BATCH" {
		return nil, fail("invalid", "Invalid priority %q", p)
	}
	j.statement = text
	job := &queryJob{s: s, j: j, q: q, legacy: googlesql.UsesLegacy(text, boolean(q, true, "useLegacySql"))}
	q["useLegacySql"] = job.legacy
	if str(q, "priority") == "" {
		q["priority"] = "INTERACTIVE"
	}
	job.cap, _ = integer(q, "maximumBytesBilled")
	positional, named, err := queryParameters(q)
	if err != nil {
		return nil, err
	}
	if sub(q, "destinationTable") != nil {
		if job.land, err = landingOf(q, j.project, "WRITE_EMPTY"); err != nil {
			return nil, err
		}
	}
	job.x = &execution{
		s: s, project: j.project, defaultProject: str(q, "defaultDataset", "projectId"), defaultDataset: str(q, "defaultDataset", "datasetId"),
		principal: j.principal, legacy: job.legacy, dryRun: j.dryRun, positional: positional, named: named,
	}
	return job.run, nil
}

// run is the job's work; the engine is held.
func (w *queryJob) run(ctx context.Context) error {
	w.x.now = w.s.now()
	stmts, err := googlesql.Split(w.j.statement, w.legacy)
	if err != nil {
		return err
	}
	if len(stmts) == 0 {
		return asInvalidQuery("Syntax error: Unexpected end of script")
	}
	if len(stmts) > 1 || slices.Contains([]string{"DECLARE", "SET", "EXECUTE_IMMEDIATE", "BEGIN_TRANSACTION", "COMMIT_TRANSACTION", "ROLLBACK_TRANSACTION"}, stmts[0].Type) {
		return w.script(ctx, stmts)
	}
	w.setType(stmts[0].Type)
	o, err := w.statement(ctx, stmts[0])
	if err != nil {
		return err
	}
	w.s.record(w.j, o)
	return nil
}

func asInvalidQuery(message string) *apiError {
	e := fail("invalidQuery", "%s", message)
	e.location, e.locationType = "q", "parameter"
	return e
}

// setType makes the statement's type known, also where the job then fails.
func (w *queryJob) setType(t string) {
	w.s.jobs.mu.Lock()
	defer w.s.jobs.mu.Unlock()
	w.j.statementType = t
	if t != "" {
		w.j.statistics = object{"statementType": t}
	}
}

// statement runs the only statement of a query: with the cache, the
// destination table and the limit on bytes.
func (w *queryJob) statement(ctx context.Context, stmt googlesql.Statement) (*outcome, error) {
	cacheable := stmt.Type == "SELECT" && w.land == nil && !w.x.dryRun && boolean(w.q, true, "useQueryCache")
	key := ""
	if cacheable {
		key = w.cacheKey()
		if o := w.s.cache.lookup(w.s.catalog, key); o != nil {
			hit := *o
			hit.cacheHit = true
			return &hit, nil
		}
	}
	if w.land != nil && stmt.Type != "SELECT" {
		return nil, fail("invalid", "Cannot set destination table in jobs with %s statements", stmt.Type)
	}
	if w.cap > 0 && !w.x.dryRun {
		if err := w.checkBilled(ctx, stmt); err != nil {
			return nil, err
		}
	}
	o, err := w.x.run(ctx, stmt)
	if err != nil {
		return nil, err
	}
	if w.land != nil && !w.x.dryRun {
		rows, err := materialize(o.rows)
		if err != nil {
			return nil, err
		}
		if _, err := w.s.storeRows(ctx, w.land, rows.cols, rows.rows); err != nil {
			return nil, err
		}
		o.destination = w.land.table
	}
	if cacheable {
		w.s.cache.store(key, o)
	}
	return o, nil
}

// checkBilled holds a query to its maximumBytesBilled before it runs.
func (w *queryJob) checkBilled(ctx context.Context, stmt googlesql.Statement) error {
	estimate := *w.x
	estimate.dryRun = true
	o, err := estimate.run(ctx, stmt)
	if err != nil {
		return err
	}
	if need := billed(o); need > w.cap {
		return fail("bytesBilledLimitExceeded", "Query exceeded limit for bytes billed: %d. %d or higher required.", w.cap, need)
	}
	return nil
}

func (w *queryJob) cacheKey() string {
	raw, err := json.Marshal([]any{w.j.project, w.x.defaultProject, w.x.defaultDataset, w.legacy, w.j.statement, w.q["queryParameters"]})
	if err != nil {
		return w.j.id // no other query has that
	}
	return string(raw)
}

// materialize gives rows in memory.
func materialize(src rowSource) (*resultSet, error) {
	switch src := src.(type) {
	case *resultSet:
		return src, nil
	case nil:
		return &resultSet{}, nil
	}
	return nil, unsupported("storing the rows of a computed table; select its columns by name")
}

// record puts what a statement did into its job.
func (s *Sandbox) record(j *job, o *outcome) {
	p := o.plan
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	j.statementType, j.cacheHit, j.bytes = p.StatementType(), o.cacheHit, o.bytes
	stats := object{"statementType": j.statementType, "cacheHit": o.cacheHit, "billingTier": 1}
	if o.cacheHit {
		j.bytes = 0
	}
	stats["totalBytesProcessed"], stats["totalBytesBilled"] = decimal(j.bytes), decimal(billed(o))
	if j.dryRun {
		stats["totalBytesBilled"], stats["totalBytesProcessedAccuracy"] = "0", "PRECISE"
		delete(stats, "billingTier")
		if len(o.schema) > 0 {
			stats["schema"] = schemaObject(o.schema, true)
		}
	}
	if len(o.reads) > 0 {
		refs := make([]any, len(o.reads))
		for i, t := range o.reads {
			refs[i] = tableReference(t.name)
		}
		stats["referencedTables"] = refs
	}
	query := sub(j.config, "query")
	switch p.Type {
	case "SELECT":
		if o.rows != nil {
			s.jobs.keepLocked(j, o.rows)
		}
		switch {
		case j.dryRun:
		case o.destination.Table != "":
			j.destination = o.destination
		default:
			j.destination = googlesql.Name{Project: j.project, Dataset: anonymousDataset, Table: "anon_" + j.id}
			query["writeDisposition"] = "WRITE_TRUNCATE"
		}
	case "INSERT", "UPDATE", "DELETE", "TRUNCATE_TABLE":
		j.destination = p.Target
		if !j.dryRun {
			n := o.affected
			j.affected = &n
			stats["numDmlAffectedRows"] = decimal(n)
			dml := object{}
			switch p.Type {
			case "INSERT":
				dml["insertedRowCount"] = decimal(n)
			case "UPDATE":
				dml["updatedRowCount"] = decimal(n)
			default:
				dml["deletedRowCount"] = decimal(n)
			}
			stats["dmlStats"] = dml
		}
	case "GRANT", "REVOKE":
		if p.ResourceType == "SCHEMA" {
			stats["dclTargetDataset"] = object{"projectId": p.Target.Project, "datasetId": p.Target.Dataset}
		} else {
			stats["dclTarget"+strings.ToUpper(p.ResourceType[:1])+strings.ToLower(p.ResourceType[1:])] = tableReference(p.Target)
		}
	case "EXPORT_DATA":
		if len(o.exported) == 2 {
			stats["exportDataStatistics"] = object{"fileCount": decimal(o.exported[0]), "rowCount": decimal(o.exported[1])}
		}
	case "CREATE_SCHEMA", "DROP_SCHEMA":
		stats["ddlTargetDataset"] = object{"projectId": p.Target.Project, "datasetId": p.Target.Dataset}
	default:
		if p.Target.Table != "" {
			stats["ddlTargetTable"] = tableReference(p.Target)
			if p.Type == "CREATE_TABLE_AS_SELECT" {
				j.destination = p.Target
			}
			if p.RenameTo != "" {
				stats["ddlDestinationTable"] = tableReference(googlesql.Name{Project: p.Target.Project, Dataset: p.Target.Dataset, Table: p.RenameTo})
			}
		}
	}
	if o.ddl != "" {
		stats["ddlOperationPerformed"] = o.ddl
	}
	if query != nil && j.destination.Table != "" {
		query["destinationTable"] = tableReference(j.destination)
	}
	stats["totalSlotMs"] = decimal(s.now().Sub(j.started).Milliseconds() + 1)
	if o.cacheHit || j.dryRun {
		stats["totalSlotMs"] = "0"
	}
	j.statistics = stats
}

// billed is what BigQuery's on-demand price counts: whole MiB, 10 of them a
// table at least, nothing for a cache hit.
func billed(o *outcome) int64 {
	const mib = 1 << 20
	if o.cacheHit || len(o.reads) == 0 {
		return 0
	}
	return max((o.bytes+mib-1)/mib, 10*int64(len(o.reads))) * mib
}

// storeRows puts rows where a job wants them; the caller holds the engine.
func (s *Sandbox) storeRows(ctx context.Context, l *landing, cols []googlesql.Column, rows [][]any) (*table, error) {
	t, err := s.catalog.tableLocked(l.table)
	if err != nil {
		if err.reason != "notFound" || l.create == "CREATE_NEVER" {
			return nil, err
		}
		made, err := s.createTable(ctx, tableSpec{name: l.table, columns: cols, resource: clone(l.resource)})
		if err != nil {
			return nil, err
		}
		if err := s.appendRows(ctx, made, cols, rows); err != nil {
			return nil, errors.Join(err, s.dropTable(made))
		}
		return made, nil
	}
	if t.storage == "" {
		return nil, fail("invalid", "%s is not a table that can be written", tableID(t.name))
	}
	switch l.write {
	case "WRITE_TRUNCATE":
		return t, s.swapTable(ctx, t, tableSpec{columns: cols}, rows)
	case "WRITE_EMPTY":
		if t.rows > 0 {
			return nil, alreadyExists("Table", tableID(t.name))
		}
	}
	if len(t.columns) == 0 {
		return t, s.swapTable(ctx, t, tableSpec{columns: cols}, rows)
	}
	for _, c := range cols {
		old, ok := column(t.columns, c.Name)
		if !ok {
			return nil, fail("invalid", "Provided Schema does not match Table %s. Cannot add fields (field: %s)", tableID(t.name), c.Name)
		}
		if old.Type != c.Type || (old.Mode == "REPEATED") != (c.Mode == "REPEATED") {
			return nil, fail("invalid", "Provided Schema does not match Table %s. Field %s has changed type from %s to %s", tableID(t.name), c.Name, old.Type, c.Type)
		}
	}
	return t, s.appendRows(ctx, t, cols, rows)
}
