package sandbox

import (
	"context"
	"strings"
	"time"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// jobHistory is how long BigQuery shows jobs.
const jobHistory = 180 * 24 * time.Hour

// jobsViewColumns are those columns of INFORMATION_SCHEMA.JOBS_BY_PROJECT that the
// sandbox has.
var jobsViewColumns = []googlesql.Column{
	{Name: "creation_time", Type: "TIMESTAMP"},
	{Name: "project_id", Type: "STRING"},
	{Name: "user_email", Type: "STRING"},
	{Name: "principal_subject", Type: "STRING"},
	{Name: "job_id", Type: "STRING"},
	{Name: "job_type", Type: "STRING"},
	{Name: "statement_type", Type: "STRING"},
	{Name: "priority", Type: "STRING"},
	{Name: "start_time", Type: "TIMESTAMP"},
	{Name: "end_time", Type: "TIMESTAMP"},
	{Name: "query", Type: "STRING"},
	{Name: "state", Type: "STRING"},
	{Name: "total_bytes_processed", Type: "INTEGER"},
	{Name: "total_bytes_billed", Type: "INTEGER"},
	{Name: "total_slot_ms", Type: "INTEGER"},
	{Name: "cache_hit", Type: "BOOLEAN"},
	{Name: "parent_job_id", Type: "STRING"},
	{Name: "error_result", Type: "RECORD", Fields: []googlesql.Column{{Name: "reason", Type: "STRING"}, {Name: "message", Type: "STRING"}}},
	{Name: "labels", Type: "RECORD", Mode: "REPEATED", Fields: []googlesql.Column{{Name: "key", Type: "STRING"}, {Name: "value", Type: "STRING"}}},
	{Name: "dml_statistics", Type: "RECORD", Fields: []googlesql.Column{
		{Name: "inserted_row_count", Type: "INTEGER"}, {Name: "deleted_row_count", Type: "INTEGER"}, {Name: "updated_row_count", Type: "INTEGER"},
	}},
}

// jobsView is INFORMATION_SCHEMA.JOBS_BY_PROJECT of a project's region: every job of
// the last 180 days but dry runs, the statements of scripts too. It is filled anew for
// each statement that reads it; the caller holds the engine.
func (x *execution) jobsView(ctx context.Context, n googlesql.Name) (string, error) {
	region, ok := strings.CutPrefix(strings.ToLower(n.Dataset), "region-")
	if !ok {
		return "", fail("invalid", "INFORMATION_SCHEMA.JOBS_BY_PROJECT must be qualified with a region, such as `region-us`")
	}
	x.changing = true
	t := x.s.jobsTable
	if t == nil {
		x.s.catalog.mu.Lock()
		t = &table{name: googlesql.Name{Table: "JOBS_BY_PROJECT"}, columns: jobsViewColumns, storage: x.s.catalog.newStorageLocked(), resource: object{}}
		x.s.catalog.mu.Unlock()
		if err := x.s.engine.createStorage(ctx, t); err != nil {
			return "", err
		}
		x.s.jobsTable = t
	}
	if err := x.s.engine.exec(ctx, "DELETE FROM "+quote(t.storage)); err != nil {
		return "", err
	}
	if _, err := x.s.engine.insert(ctx, t, t.columns, x.s.jobRows(n.Project, region)); err != nil {
		return "", err
	}
	return quote(t.storage), nil
}

func (s *Sandbox) jobRows(project, region string) [][]any {
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	oldest := s.now().Add(-jobHistory)
	var rows [][]any
	for _, j := range s.jobs.order {
		if j.project != project || j.dryRun || j.created.Before(oldest) || !strings.EqualFold(j.location, region) || s.jobs.byID[j.project+":"+j.id] != j {
			continue
		}
		billed, _ := integer(j.statistics, "totalBytesBilled")
		row := []any{
			layoutTime("TIMESTAMP", j.created), j.project, j.principal, subjectOf(j.principal), j.id, j.kind, textOrNull(j.statementType), "INTERACTIVE",
			nil, nil, textOrNull(j.statement), j.state, j.bytes, billed, nil, j.cacheHit, nil, nil, "[]", nil,
		}
		if !j.started.IsZero() {
			row[8] = layoutTime("TIMESTAMP", j.started)
		}
		if j.state == stateDone {
			row[9], row[14] = layoutTime("TIMESTAMP", j.ended), j.slotMillisLocked()
		}
		if j.parent != nil {
			row[16] = j.parent.id
		}
		if j.err != nil {
			row[17] = jsonOf(object{"reason": j.err.reason, "message": j.err.message})
		}
		labels := []any{}
		for k := range sub(j.config, "labels") {
			labels = append(labels, object{"key": k, "value": str(j.config, "labels", k)})
		}
		row[18] = jsonOf(labels)
		if j.affected != nil {
			stats := object{"inserted_row_count": 0, "deleted_row_count": 0, "updated_row_count": 0}
			switch j.statementType {
			case "INSERT":
				stats["inserted_row_count"] = *j.affected
			case "UPDATE":
				stats["updated_row_count"] = *j.affected
			default:
				stats["deleted_row_count"] = *j.affected
			}
			row[19] = jsonOf(stats)
		}
		rows = append(rows, row)
	}
	return rows
}

func textOrNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func jsonOf(v any) any {
	text, err := jsonText(v)
	if err != nil {
		return nil
	}
	return text
}

// subjectOf is a principal as principal_subject has it.
func subjectOf(principal string) string {
	switch {
	case strings.HasPrefix(principal, "principal://"):
		return principal
	case strings.HasSuffix(principal, ".gserviceaccount.com"):
		return "serviceAccount:" + principal
	}
	return "user:" + principal
}
