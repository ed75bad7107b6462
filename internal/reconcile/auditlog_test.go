package reconcile_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/reconcile"
)

type object = map[string]any

// logged is a log entry of the newer form.
func (r *rig) logged(principal, reason, resource string, metadata object) object {
	return object{
		"insertId": r.id(), "timestamp": r.clock().Format(time.RFC3339Nano), "logName": "projects/" + project + "/logs/cloudaudit.googleapis.com%2Fdata_access",
		"resource": object{"type": "bigquery_dataset", "labels": object{"project_id": project}},
		"protoPayload": object{
			"@type": "type.googleapis.com/google.cloud.audit.AuditLog", "serviceName": "bigquery.googleapis.com", "resourceName": resource, "status": object{},
			"authenticationInfo": object{"principalEmail": principal}, "requestMetadata": object{"requestAttributes": object{"reason": reason}},
			"metadata": metadata,
		},
	}
}

func (r *rig) loggedJob(kind, principal, id, statement, state string, processed int64, labels map[string]string) object {
	stats := object{"createTime": r.clock().Format(time.RFC3339Nano)}
	if state == "DONE" {
		stats["queryStats"] = object{"totalProcessedBytes": fmt.Sprint(processed), "totalBilledBytes": fmt.Sprint(10 << 20)}
	}
	return r.logged(principal, "", "projects/"+project+"/jobs/"+id, object{
		"@type": "type.googleapis.com/google.cloud.audit.BigQueryAuditMetadata",
		kind: object{"job": object{
			"jobName": "projects/" + project + "/jobs/" + id, "jobStatus": object{"jobState": state}, "jobStats": stats,
			"jobConfig": object{"type": "QUERY", "labels": labels, "queryConfig": object{"query": statement, "statementType": "SELECT"}},
		}},
	})
}

// TestAuditLog finds in exported audit logs what no job tells of, in the newer form and
// the older, in lines and in arrays, in any order.
func TestAuditLog(t *testing.T) {
	r := newRig(t, 100)
	var lines []object
	add := func(o object) { lines = append(lines, o) }
	good := r.call("good", "SELECT 1")
	add(r.loggedJob("jobChange", agentSA, "good", "SELECT 1", "DONE", 100, labels(good)))
	add(r.loggedJob("jobInsertion", agentSA, "good", "SELECT 1", "RUNNING", 0, labels(good)))
	tampered := r.call("tampered", "SELECT 2")
	add(r.loggedJob("jobInsertion", agentSA, "tampered", "SELECT 2", "DONE", 101, labels(tampered)))
	long := r.call("long", "SELECT 3")
	cut := r.loggedJob("jobInsertion", agentSA, "long", "SELECT", "DONE", 100, labels(long))
	cut["protoPayload"].(object)["metadata"].(object)["jobInsertion"].(object)["job"].(object)["jobConfig"].(object)["queryConfig"].(object)["queryTruncated"] = true
	add(cut)
	r.pass(2 * time.Hour)
	add(r.loggedJob("jobInsertion", agentSA, "direct", "SELECT 4", "DONE", 1, nil))
	add(r.loggedJob("jobInsertion", human, "of-ada", "SELECT 5", "DONE", 1, nil))
	add(r.loggedJob("jobInsertion", agentSA, "forged", "SELECT 6", "DONE", 1, map[string]string{"trailgate_entry": "01k99999999999999999999999"}))
	add(object{ // the older form
		"insertId": "older", "timestamp": r.clock().Format(time.RFC3339Nano), "resource": object{"labels": object{"project_id": project}},
		"protoPayload": object{
			"serviceName": "bigquery.googleapis.com", "methodName": "jobservice.jobcompleted", "authenticationInfo": object{"principalEmail": agentSA},
			"serviceData": object{"@type": "type.googleapis.com/google.cloud.bigquery.logging.v1.AuditData", "jobCompletedEvent": object{"eventName": "query_job_completed", "job": object{
				"jobName": object{"projectId": project, "jobId": "older", "location": "US"}, "jobConfiguration": object{"query": object{"query": "SELECT 7", "statementType": "SELECT"}},
				"jobStatus": object{"state": "DONE", "error": object{}}, "jobStatistics": object{"createTime": r.clock().Format(time.RFC3339Nano), "totalProcessedBytes": "5"},
			}}},
		},
	})
	// Rows without a job.
	list := r.intent("", "")
	list.Method, list.Statements, list.Project = "bigquery.tabledata.list", nil, project
	r.append(list)
	table := "projects/" + project + "/datasets/shop/tables/orders"
	add(r.logged(agentSA, list.ID, table, object{"tableDataRead": object{"reason": "TABLEDATA_LIST_REQUEST"}}))
	add(r.logged(agentSA, "because", table, object{"tableDataRead": object{"reason": "TABLEDATA_LIST_REQUEST"}}))
	r.pass(time.Second)
	add(r.logged(agentSA, list.ID, table, object{"tableDataRead": object{"reason": "CREATE_READ_SESSION", "sessionName": "projects/p/locations/us/sessions/s"}}))
	add(r.logged(agentSA, "", table, object{"tableDataChange": object{"reason": "WRITE_API", "streamName": "s"}}))
	add(r.logged(human, "", table, object{"tableDataRead": object{"reason": "CREATE_READ_SESSION"}}))
	add(r.logged(agentSA, "", table, object{"tableDataRead": object{"reason": "JOB", "jobName": "projects/" + project + "/jobs/good"}}))
	add(object{"insertId": "x", "timestamp": r.clock().Format(time.RFC3339Nano), "protoPayload": object{"serviceName": "bigquery.googleapis.com", "methodName": "google.cloud.bigquery.v2.TableService.GetTable"}})
	add(object{"insertId": "y", "textPayload": "not an audit log"})
	slices.Reverse(lines)

	dir := filepath.Join(r.dir, "spool")
	spool, err := reconcile.NewSpool(dir)
	if err != nil {
		t.Fatal(err)
	}
	half, err := json.MarshalIndent(lines[:len(lines)/2], "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	var rest strings.Builder
	for _, l := range lines[len(lines)/2:] {
		raw, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		rest.Write(append(raw, '\n'))
	}
	for _, export := range []string{string(half), "\n", rest.String()} {
		if err := spool.Add(strings.NewReader(export)); err != nil {
			t.Fatal(err)
		}
	}
	if int(spool.Entries) != len(lines) || !slices.Equal(spool.Projects(), []string{project}) {
		t.Errorf("%d entries of %d, projects %q", spool.Entries, len(lines), spool.Projects())
	}
	r.pass(3 * time.Hour)
	cfg := r.config("jobs")
	cfg.Source = spool
	report, found := r.reconcile(cfg)
	got := strings.Split(names(found), "\n")
	slices.Sort(got)
	want := []string{
		"bypassed direct", "bypassed older", "bypassed storage.read", "bypassed storage.write", "bypassed tabledata.list", "forged forged", "mismatched tampered bytes_processed",
	}
	if !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if want := (reconcile.Counts{Both: 3, Direct: 6, Mismatched: 1, Forged: 1, Others: 2, Jobless: 1}); report.Counts != want {
		t.Errorf("%+v, want %+v", report.Counts, want)
	}
	// What was exported is no coverage: nothing of it is kept.
	st, err := r.store.Load("sandbox")
	if err != nil || len(st.Hours) != 0 || !st.LastRun.IsZero() {
		t.Errorf("%+v, %v", st, err)
	}
	if err := spool.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}

// TestAuditLogBroken: what is no export is an error that names the place, never a
// shorter export.
func TestAuditLogBroken(t *testing.T) {
	for _, text := range []string{`{"insertId":"a"}{"insert`, `[{"insertId":"a"},`, `nonsense`, `[{"insertId":"a"}} `, `{"timestamp": "yesterday"}`} {
		if _, _, err := reconcile.ReadAuditLog(strings.NewReader(text), func(*reconcile.Job) error { return nil }); err == nil {
			t.Errorf("%s is taken for whole", text)
		}
	}
	for _, text := range []string{"", " \n", "[]", `{"insertId":"a"}`, `[{"insertId":"a"}][{"insertId":"b"}]{}`} {
		if _, _, err := reconcile.ReadAuditLog(strings.NewReader(text), func(*reconcile.Job) error { return nil }); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzAuditLog(f *testing.F) {
	r := &rig{}
	r.set(start)
	for _, o := range []object{
		r.loggedJob("jobChange", agentSA, "good", "SELECT 1", "DONE", 100, map[string]string{"trailgate_entry": "x"}),
		r.logged(agentSA, "x", "t", object{"tableDataRead": object{"reason": "CREATE_READ_SESSION"}}),
	} {
		raw, err := json.Marshal(o)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add([]byte("[" + string(raw) + "]"))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		_, _, _ = reconcile.ReadAuditLog(strings.NewReader(string(text)), func(j *reconcile.Job) error {
			if j.ID == "" && j.Method == "" || j.Created.IsZero() {
				t.Errorf("%+v is neither a job nor a read", j)
			}
			return nil
		})
	})
}
