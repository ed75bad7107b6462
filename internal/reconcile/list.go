package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// List is jobs.list with allUsers and the full projection. It shows the jobs of the
// last 180 days, newest first, without dry runs, and without the statements of
// scripts, which are their parents'.
type List struct{ API *API }

// Name implements [Source].
func (*List) Name() string { return "jobs" }

const listPage = 1000

// jobFields are what is asked of each job, so that pages stay small.
const jobFields = "jobReference,user_email,principal_subject,configuration(jobType,dryRun,labels,query(query))," +
	"status(state,errorResult(reason)),statistics(creationTime,parentJobId,totalBytesProcessed,totalSlotMs," +
	"query(statementType,totalBytesProcessed,totalBytesBilled,numDmlAffectedRows,cacheHit),load(outputRows))"

// resource is a Job as the API writes it.
type resource struct {
	JobReference struct {
		ProjectID string `json:"projectId"`
		JobID     string `json:"jobId"`
		Location  string `json:"location"`
	} `json:"jobReference"`
	UserEmail        string `json:"user_email"`
	PrincipalSubject string `json:"principal_subject"`
	Configuration    struct {
		JobType string            `json:"jobType"`
		DryRun  bool              `json:"dryRun"`
		Labels  map[string]string `json:"labels"`
		Query   *struct {
			Query string `json:"query"`
		} `json:"query"`
	} `json:"configuration"`
	Status struct {
		State       string `json:"state"`
		ErrorResult *struct {
			Reason string `json:"reason"`
		} `json:"errorResult"`
	} `json:"status"`
	Statistics struct {
		CreationTime        string `json:"creationTime"`
		ParentJobID         string `json:"parentJobId"`
		TotalBytesProcessed string `json:"totalBytesProcessed"`
		TotalSlotMs         string `json:"totalSlotMs"`
		Query               *struct {
			StatementType       string `json:"statementType"`
			TotalBytesProcessed string `json:"totalBytesProcessed"`
			TotalBytesBilled    string `json:"totalBytesBilled"`
			NumDmlAffectedRows  string `json:"numDmlAffectedRows"`
			CacheHit            bool   `json:"cacheHit"`
		} `json:"query"`
		Load *struct {
			OutputRows string `json:"outputRows"`
		} `json:"load"`
	} `json:"statistics"`
}

func (r *resource) job() *Job {
	j := &Job{
		Project: r.JobReference.ProjectID, ID: r.JobReference.JobID, Location: r.JobReference.Location, Parent: r.Statistics.ParentJobID,
		Principal: r.UserEmail, Subject: subject(r.PrincipalSubject), Type: r.Configuration.JobType,
		Done: r.Status.State == "DONE", Processed: number(r.Statistics.TotalBytesProcessed), Billed: -1, Affected: -1, SlotMillis: number(r.Statistics.TotalSlotMs),
	}
	if ms := number(r.Statistics.CreationTime); ms >= 0 {
		j.Created = time.UnixMilli(ms).UTC()
	}
	if r.Configuration.Query != nil {
		j.Statement = statementOf(r.Configuration.Query.Query)
	}
	for k, v := range r.Configuration.Labels {
		j.Labels.set(k, v)
	}
	if r.Status.ErrorResult != nil {
		j.ErrorReason = r.Status.ErrorResult.Reason
	}
	if q := r.Statistics.Query; q != nil {
		j.StatementType, j.CacheHit, j.Billed, j.Affected = q.StatementType, q.CacheHit, number(q.TotalBytesBilled), number(q.NumDmlAffectedRows)
		if j.Processed < 0 {
			j.Processed = number(q.TotalBytesProcessed)
		}
	}
	if l := r.Statistics.Load; l != nil {
		j.Affected = number(l.OutputRows)
	}
	return j
}

// Jobs implements [Source]. A page is read job by job, so that one of long
// statements needs no more memory than its longest.
func (l *List) Jobs(ctx context.Context, project string, from, until time.Time, fn func(*Job) error) error {
	q := url.Values{
		"allUsers": {"true"}, "projection": {"full"}, "maxResults": {strconv.Itoa(listPage)},
		"minCreationTime": {millis(from)}, "maxCreationTime": {lastMillis(until)},
		"fields": {"nextPageToken,jobs(" + jobFields + ")"},
	}
	seen := pages{}
	for {
		next := ""
		err := l.API.do(ctx, http.MethodGet, "projects/"+url.PathEscape(project)+"/jobs", q, nil, func(body io.Reader) error {
			var err error
			next, err = readPage(body, func(r *resource) error {
				j := r.job()
				if r.Configuration.DryRun || j.ID == "" || j.Created.Before(from) || !j.Created.Before(until) {
					return nil
				}
				return fn(j)
			})
			return err
		})
		if err != nil {
			return fmt.Errorf("list jobs of %s: %w", project, err)
		}
		if next == "" {
			return nil
		}
		if err := seen.next(next); err != nil {
			return fmt.Errorf("list jobs of %s: %w", project, err)
		}
		q.Set("pageToken", next)
	}
}

// pages are the tokens of a list's pages so far. One that comes again would go round for
// ever, or hide what lies behind it.
type pages map[string]bool

func (p pages) next(token string) error {
	if p[token] {
		return errors.New("BigQuery gives the same page again and again")
	}
	p[token] = true
	return nil
}

// readPage reads {"nextPageToken": …, "jobs": […]} as it streams by.
func readPage(body io.Reader, fn func(*resource) error) (next string, err error) {
	d := json.NewDecoder(body)
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return "", errors.Join(errors.New("the answer is no job list"), err)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return "", err
		}
		switch name {
		case "nextPageToken":
			if err := d.Decode(&next); err != nil {
				return "", err
			}
		case "jobs":
			if t, err := d.Token(); err != nil || t != json.Delim('[') {
				return "", errors.Join(errors.New("the answer's jobs are no list"), err)
			}
			for d.More() {
				var r resource
				if err := d.Decode(&r); err != nil {
					return "", err
				}
				if err := fn(&r); err != nil {
					return "", err
				}
			}
			if _, err := d.Token(); err != nil {
				return "", err
			}
		case "error":
			return "", errors.New("the answer is an error, and no job list")
		default:
			var skip json.RawMessage
			if err := d.Decode(&skip); err != nil {
				return "", err
			}
		}
	}
	_, err = d.Token() // a page that broke off must not pass for a whole one
	return next, err
}

// Get implements [Getter].
func (l *List) Get(ctx context.Context, project, id, location string) (*Job, error) {
	q := url.Values{"fields": {jobFields}}
	if location != "" {
		q.Set("location", location)
	}
	var r resource
	err := l.API.do(ctx, http.MethodGet, "projects/"+url.PathEscape(project)+"/jobs/"+url.PathEscape(id), q, nil, func(body io.Reader) error {
		return json.NewDecoder(io.LimitReader(body, maxJobAnswer)).Decode(&r)
	})
	if e, ok := errors.AsType[*apiError](err); ok && e.status == http.StatusNotFound {
		return nil, ErrNoJob
	}
	if err != nil {
		return nil, fmt.Errorf("get job %s:%s: %w", project, id, err)
	}
	if j := r.job(); j.ID != "" && strings.EqualFold(j.ID, id) {
		return j, nil
	}
	return nil, fmt.Errorf("get job %s:%s: BigQuery answered with something else", project, id)
}
