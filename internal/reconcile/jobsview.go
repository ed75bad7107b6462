package reconcile

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// JobsView reads INFORMATION_SCHEMA.JOBS_BY_PROJECT of one region by a query, which
// is a job itself and bills at least 10 MiB. Unlike the job list it has the statements
// of scripts as rows of their own, and shows a job a little later.
type JobsView struct {
	API    *API
	Region string // such as "us", "eu", "europe-west1"
	// Run is the entry that the queries are labelled with, and named by.
	Run string

	queries int
}

// Name implements [Source].
func (*JobsView) Name() string { return "information-schema" }

// ViewQuery is the text of the queries, with %s for the region: whoever finds a job
// with another text under the reconciliation's name has found a forgery.
const ViewQuery = "SELECT UNIX_MILLIS(creation_time) AS created, project_id, job_id, parent_job_id, user_email, principal_subject, job_type, statement_type, state, query, " +
	"total_bytes_processed, total_bytes_billed, total_slot_ms, cache_hit, " +
	"TO_JSON_STRING(error_result) AS error_result, TO_JSON_STRING(labels) AS labels, TO_JSON_STRING(dml_statistics) AS dml_statistics\n" +
	"FROM `region-%s`.INFORMATION_SCHEMA.JOBS_BY_PROJECT\nWHERE creation_time >= @from AND creation_time < @until"

const (
	viewPage    = 1000
	viewPolls   = 60
	viewTimeout = 20 * time.Second
)

// viewJobs is how the queries' jobs are called; the run's entry and a number follow.
const viewJobs = prefix + "reconcile_"

// Jobs implements [Source].
func (v *JobsView) Jobs(ctx context.Context, project string, from, until time.Time, fn func(*Job) error) error {
	v.queries++
	// Nobody can guess the name. Who could might take it first, for a query of their own
	// that finds nothing, and its answer would be read as this one's.
	id := viewJobs + v.Run + "_" + strconv.Itoa(v.queries) + "_" + rand.Text()
	moment := func(name string, t time.Time) map[string]any {
		return map[string]any{
			"name": name, "parameterType": map[string]any{"type": "TIMESTAMP"},
			"parameterValue": map[string]any{"value": t.UTC().Format("2006-01-02 15:04:05.000000+00:00")},
		}
	}
	body, err := json.Marshal(map[string]any{
		"jobReference": map[string]any{"projectId": project, "jobId": id, "location": v.Region},
		"configuration": map[string]any{
			"labels": map[string]any{prefix + "entry": v.Run},
			"query": map[string]any{
				"query": fmt.Sprintf(ViewQuery, v.Region), "useLegacySql": false, "useQueryCache": false,
				"parameterMode": "NAMED", "queryParameters": []any{moment("from", from), moment("until", until)},
			},
		},
	})
	if err != nil {
		return err
	}
	// A try whose answer was lost may have made the job; the next then finds it there.
	err = v.API.do(ctx, http.MethodPost, "projects/"+url.PathEscape(project)+"/jobs", nil, body, func(r io.Reader) error {
		_, err := io.Copy(io.Discard, io.LimitReader(r, maxJobAnswer))
		return err
	})
	if e, ok := errors.AsType[*apiError](err); ok && e.status == http.StatusConflict {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("query JOBS_BY_PROJECT of %s in %s: %w", project, v.Region, err)
	}
	if err := v.read(ctx, project, id, from, until, fn); err != nil {
		return fmt.Errorf("read JOBS_BY_PROJECT of %s in %s: %w", project, v.Region, err)
	}
	return nil
}

func (v *JobsView) read(ctx context.Context, project, id string, from, until time.Time, fn func(*Job) error) error {
	q := url.Values{
		"location": {v.Region}, "maxResults": {strconv.Itoa(viewPage)}, "timeoutMs": {strconv.FormatInt(viewTimeout.Milliseconds(), 10)},
		"formatOptions.useInt64Timestamp": {"true"},
	}
	path := "projects/" + url.PathEscape(project) + "/queries/" + url.PathEscape(id)
	seen, rows := pages{}, int64(0)
	for polls := 0; ; {
		var page struct {
			JobComplete bool                 `json:"jobComplete"`
			PageToken   string               `json:"pageToken"`
			TotalRows   string               `json:"totalRows"`
			Schema      schema               `json:"schema"`
			Rows        []struct{ F []cell } `json:"rows"`
		}
		err := v.API.do(ctx, http.MethodGet, path, q, nil, func(r io.Reader) error {
			return json.NewDecoder(r).Decode(&page) // at most 10 MB, says BigQuery
		})
		if err != nil {
			return err
		}
		if !page.JobComplete {
			if polls++; polls > viewPolls {
				return errors.New("the query does not end")
			}
			continue
		}
		for _, r := range page.Rows {
			j, err := viewJob(page.Schema, r.F, v.Region)
			if err != nil {
				return err
			}
			if j.ID == "" || j.Created.Before(from) || !j.Created.Before(until) {
				continue
			}
			if err := fn(j); err != nil {
				return err
			}
		}
		rows += int64(len(page.Rows))
		if page.PageToken == "" {
			if total := number(page.TotalRows); total >= 0 && total != rows {
				return fmt.Errorf("the result has %d rows, its pages had %d", total, rows)
			}
			return nil
		}
		if err := seen.next(page.PageToken); err != nil {
			return err
		}
		q.Set("pageToken", page.PageToken)
	}
}

// schema and cell are how BigQuery writes rows in JSON; the query has scalars alone.
type schema struct {
	Fields []struct {
		Name string `json:"name"`
	} `json:"fields"`
}

type cell struct {
	V *string `json:"v"`
}

func viewJob(s schema, row []cell, region string) (*Job, error) {
	if len(row) != len(s.Fields) {
		return nil, errors.New("a row has another number of columns than the schema")
	}
	at := map[string]string{}
	for i, f := range s.Fields {
		if row[i].V != nil {
			at[f.Name] = *row[i].V
		}
	}
	text := func(name string) string { return at[name] }
	j := &Job{
		Project: text("project_id"), ID: text("job_id"), Location: region, Parent: text("parent_job_id"),
		Principal: text("user_email"), Subject: subject(text("principal_subject")), Type: text("job_type"), StatementType: text("statement_type"),
		Done: text("state") == "DONE", Processed: number(text("total_bytes_processed")), Billed: number(text("total_bytes_billed")), Affected: -1,
		SlotMillis: number(text("total_slot_ms")), CacheHit: text("cache_hit") == "true",
	}
	if ms := number(text("created")); ms >= 0 {
		j.Created = time.UnixMilli(ms).UTC()
	}
	if q := text("query"); q != "" {
		j.Statement = statementOf(q)
	}
	var labels []struct{ Key, Value string }
	if err := json.Unmarshal([]byte(cmp.Or(text("labels"), "null")), &labels); err != nil {
		return nil, fmt.Errorf("labels of job %s: %w", clip(j.ID, 64), err)
	}
	for _, l := range labels {
		j.Labels.set(l.Key, l.Value)
	}
	var failed struct{ Reason string }
	if err := json.Unmarshal([]byte(cmp.Or(text("error_result"), "null")), &failed); err != nil {
		return nil, fmt.Errorf("error of job %s: %w", clip(j.ID, 64), err)
	}
	j.ErrorReason = failed.Reason
	var dml *struct {
		Inserted integer `json:"inserted_row_count"`
		Deleted  integer `json:"deleted_row_count"`
		Updated  integer `json:"updated_row_count"`
	}
	if err := json.Unmarshal([]byte(cmp.Or(text("dml_statistics"), "null")), &dml); err != nil {
		return nil, fmt.Errorf("statistics of job %s: %w", clip(j.ID, 64), err)
	}
	if dml != nil {
		j.Affected = dml.Inserted.n + dml.Deleted.n + dml.Updated.n
	}
	return j, nil
}
