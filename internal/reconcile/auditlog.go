package reconcile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// maxLogEntry bounds one log entry; Cloud Logging's own bound is 256 KiB.
const maxLogEntry = 4 << 20

// logEntry is as much of a Cloud Logging LogEntry as is looked at, with the audit
// log's payload in its newer form (BigQueryAuditMetadata, in metadata) and its older
// one (AuditData, in serviceData).
// https://cloud.google.com/bigquery/docs/reference/auditlogs/rest/Shared.Types/BigQueryAuditMetadata
// https://cloud.google.com/bigquery/docs/reference/auditlogs/rest/Shared.Types/AuditData
type logEntry struct {
	InsertID  string    `json:"insertId"`
	Timestamp time.Time `json:"timestamp"`
	Payload   *struct {
		ServiceName  string `json:"serviceName"`
		MethodName   string `json:"methodName"`
		ResourceName string `json:"resourceName"`
		Who          struct {
			Email   string `json:"principalEmail"`
			Subject string `json:"principalSubject"`
		} `json:"authenticationInfo"`
		Request struct {
			Attributes struct {
				Reason string `json:"reason"`
			} `json:"requestAttributes"`
		} `json:"requestMetadata"`
		Status struct {
			Code int `json:"code"`
		} `json:"status"`
		Metadata struct {
			JobInsertion    *struct{ Job auditJob } `json:"jobInsertion"`
			JobChange       *struct{ Job auditJob } `json:"jobChange"`
			TableDataRead   *dataEvent              `json:"tableDataRead"`
			TableDataChange *dataEvent              `json:"tableDataChange"`
		} `json:"metadata"`
		ServiceData struct {
			JobInsert    *struct{ Resource olderJob } `json:"jobInsertResponse"`
			JobCompleted *struct{ Job olderJob }      `json:"jobCompletedEvent"`
			JobQueryDone *struct{ Job olderJob }      `json:"jobQueryDoneResponse"`
			TableData    *struct{}                    `json:"tableDataListRequest"`
		} `json:"serviceData"`
	} `json:"protoPayload"`
	Resource struct {
		Labels struct {
			Project string `json:"project_id"`
		} `json:"labels"`
	} `json:"resource"`
}

// auditJob is BigQueryAuditMetadata.Job.
type auditJob struct {
	Name   string `json:"jobName"` // projects/P/jobs/J
	Config struct {
		Type   string            `json:"type"`
		Labels map[string]string `json:"labels"`
		DryRun bool              `json:"dryRun"`
		Query  *struct {
			Query         string `json:"query"`
			Truncated     bool   `json:"queryTruncated"`
			StatementType string `json:"statementType"`
		} `json:"queryConfig"`
	} `json:"jobConfig"`
	Status struct {
		State string `json:"jobState"`
		Error *struct {
			Code int `json:"code"`
		} `json:"errorResult"`
	} `json:"jobStatus"`
	Stats struct {
		Created time.Time `json:"createTime"`
		Ended   time.Time `json:"endTime"`
		Parent  string    `json:"parentJobName"`
		SlotMs  integer   `json:"totalSlotMs"`
		Query   *struct {
			Processed integer `json:"totalProcessedBytes"`
			Billed    integer `json:"totalBilledBytes"`
			CacheHit  bool    `json:"cacheHit"`
		} `json:"queryStats"`
	} `json:"jobStats"`
}

// olderJob is AuditData's Job.
type olderJob struct {
	Name struct {
		Project  string `json:"projectId"`
		ID       string `json:"jobId"`
		Location string `json:"location"`
	} `json:"jobName"`
	Config struct {
		Labels map[string]string `json:"labels"`
		DryRun bool              `json:"dryRun"`
		Query  *struct {
			Query         string `json:"query"`
			Truncated     bool   `json:"queryTruncated"`
			StatementType string `json:"statementType"`
		} `json:"query"`
		Load      *struct{} `json:"load"`
		Extract   *struct{} `json:"extract"`
		TableCopy *struct{} `json:"tableCopy"`
	} `json:"jobConfiguration"`
	Status struct {
		State string `json:"state"`
		Error struct {
			Code int `json:"code"`
		} `json:"error"`
	} `json:"jobStatus"`
	Stats struct {
		Created   time.Time `json:"createTime"`
		Processed integer   `json:"totalProcessedBytes"`
		Billed    integer   `json:"totalBilledBytes"`
		SlotMs    integer   `json:"totalSlotMs"`
	} `json:"jobStatistics"`
}

// dataEvent is a read or change of a table's rows.
type dataEvent struct {
	Job     string `json:"jobName"`
	Session string `json:"sessionName"`
	Stream  string `json:"streamName"`
	Reason  string `json:"reason"`
}

// integer is an int64 as logs write it: a string, or a number.
type integer struct {
	n   int64
	set bool
}

// UnmarshalJSON implements json.Unmarshaler.
func (i *integer) UnmarshalJSON(raw []byte) error {
	if n := number(strings.Trim(string(raw), `"`)); n >= 0 {
		i.n, i.set = n, true
	}
	return nil
}

func (i integer) or() int64 {
	if !i.set {
		return -1
	}
	return i.n
}

// ReadAuditLog reads exported log entries, one JSON object after the other, a line
// each or not, or arrays of them ("gcloud logging read --format=json", Cloud Storage
// sinks), and calls fn for each that tells of a job, or of rows that were read without
// one. It returns how many entries there were, and how many of them told something.
func ReadAuditLog(r io.Reader, fn func(*Job) error) (entries, told int64, err error) {
	d := json.NewDecoder(bufio.NewReaderSize(r, 1<<20))
	one := func() error {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return err
		}
		if len(raw) > maxLogEntry {
			return fmt.Errorf("log entry %d has %d bytes; at most %d are read", entries+1, len(raw), maxLogEntry)
		}
		entries++
		var e logEntry
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("log entry %d: %w", entries, err)
		}
		j := e.job()
		if j == nil {
			return nil
		}
		told++
		return fn(j)
	}
	array := false
	for {
		if array && !d.More() {
			if _, err := d.Token(); err != nil {
				return entries, told, fmt.Errorf("read audit log: %w", err)
			}
			array = false
			continue
		}
		if !array {
			begins, err := peek(d)
			if errors.Is(err, io.EOF) {
				return entries, told, nil
			}
			if err == nil && begins == '[' {
				if _, err = d.Token(); err == nil {
					array = true
					continue
				}
			}
			if err != nil {
				return entries, told, fmt.Errorf("read audit log: %w", err)
			}
		}
		if err := one(); err != nil {
			return entries, told, fmt.Errorf("read audit log: %w", err)
		}
	}
}

// peek is the first byte of the next value at the top.
func peek(d *json.Decoder) (byte, error) {
	if !d.More() { // reads on until there is something but white space
		if _, err := d.Token(); err != nil {
			return 0, err
		}
	}
	next := make([]byte, 64)
	n, _ := d.Buffered().Read(next)
	if trimmed := bytes.TrimLeft(next[:n], " \t\r\n"); len(trimmed) > 0 {
		return trimmed[0], nil
	}
	return '{', nil
}

// job is what an entry tells of; nil for all that is not looked at.
func (e *logEntry) job() *Job {
	p := e.Payload
	if p == nil {
		return nil
	}
	j := &Job{Principal: p.Who.Email, Subject: subject(p.Who.Subject), Reason: p.Request.Attributes.Reason, Processed: -1, Billed: -1, Affected: -1, SlotMillis: -1}
	switch m, s := p.Metadata, p.ServiceData; {
	case m.JobChange != nil:
		return m.JobChange.Job.into(j)
	case m.JobInsertion != nil:
		return m.JobInsertion.Job.into(j)
	case s.JobCompleted != nil:
		return s.JobCompleted.Job.into(j)
	case s.JobQueryDone != nil:
		return s.JobQueryDone.Job.into(j)
	case s.JobInsert != nil:
		return s.JobInsert.Resource.into(j)
	case m.TableDataRead != nil:
		return e.jobless(j, m.TableDataRead, "read")
	case m.TableDataChange != nil:
		return e.jobless(j, m.TableDataChange, "change")
	case s.TableData != nil:
		return e.jobless(j, &dataEvent{Reason: "TABLEDATA_LIST_REQUEST"}, "read")
	}
	return nil
}

// jobless is a read, or change, of rows that makes no job.
func (e *logEntry) jobless(j *Job, d *dataEvent, what string) *Job {
	if d.Job != "" || e.Payload.Status.Code != 0 {
		return nil // a job's own, which is judged as a job; or refused
	}
	switch {
	case d.Session != "", d.Reason == "CREATE_READ_SESSION":
		j.Method = "storage.read"
	case d.Stream != "", d.Reason == "WRITE_API":
		j.Method = "storage.write"
	case d.Reason == "TABLEDATA_LIST_REQUEST":
		j.Method = "tabledata.list"
	case what == "change":
		j.Method = "tabledata.insertAll"
	default:
		return nil // of a query's rows, say, which is a job's
	}
	j.Insert, j.Created, j.Resource = e.InsertID, e.Timestamp.UTC(), e.Payload.ResourceName
	if j.Project = e.Resource.Labels.Project; j.Project == "" {
		j.Project = nameAfter(j.Resource, "projects/")
	}
	if j.Insert == "" || j.Created.IsZero() {
		return nil
	}
	return j
}

func (a *auditJob) into(j *Job) *Job {
	j.Project, j.ID = nameAfter(a.Name, "projects/"), nameAfter(a.Name, "jobs/")
	if j.ID == "" || a.Config.DryRun || a.Stats.Created.IsZero() {
		return nil
	}
	j.Created, j.Parent = a.Stats.Created.UTC(), nameAfter(a.Stats.Parent, "jobs/")
	j.Type, j.Done, j.SlotMillis = a.Config.Type, a.Status.State == "DONE", a.Stats.SlotMs.or()
	if q := a.Config.Query; q != nil {
		j.StatementType = q.StatementType
		if !q.Truncated && q.Query != "" {
			j.Statement = statementOf(q.Query)
		}
	}
	for k, v := range a.Config.Labels {
		j.Labels.set(k, v)
	}
	if a.Status.Error != nil && a.Status.Error.Code != 0 {
		j.ErrorReason = "error"
	}
	if q := a.Stats.Query; q != nil {
		j.Processed, j.Billed, j.CacheHit = q.Processed.or(), q.Billed.or(), q.CacheHit
	}
	return j
}

func (o *olderJob) into(j *Job) *Job {
	j.Project, j.ID, j.Location = o.Name.Project, o.Name.ID, o.Name.Location
	if j.ID == "" || o.Config.DryRun || o.Stats.Created.IsZero() {
		return nil
	}
	j.Created, j.Done = o.Stats.Created.UTC(), o.Status.State == "DONE"
	j.Processed, j.Billed, j.SlotMillis = o.Stats.Processed.or(), o.Stats.Billed.or(), o.Stats.SlotMs.or()
	switch c := o.Config; {
	case c.Query != nil:
		j.Type, j.StatementType = "QUERY", c.Query.StatementType
		// The older form cuts texts without always saying so; 50,000 bytes is where.
		if !c.Query.Truncated && c.Query.Query != "" && len(c.Query.Query) < 50_000 {
			j.Statement = statementOf(c.Query.Query)
		}
	case c.Load != nil:
		j.Type = "LOAD"
	case c.Extract != nil:
		j.Type = "EXTRACT"
	case c.TableCopy != nil:
		j.Type = "COPY"
	}
	for k, v := range o.Config.Labels {
		j.Labels.set(k, v)
	}
	if o.Status.Error.Code != 0 {
		j.ErrorReason = "error"
	}
	return j
}

// nameAfter is the part of a resource's name behind "projects/" and the like.
func nameAfter(name, collection string) string {
	_, rest, ok := strings.Cut("/"+name, "/"+collection)
	if !ok {
		return ""
	}
	id, _, _ := strings.Cut(rest, "/")
	return id
}
