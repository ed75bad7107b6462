package bigquery

import (
	"strings"

	"github.com/trailgate/trailgate"
)

// Method is one method of the API.
type Method struct {
	ID string // such as "bigquery.jobs.insert"
	// Verb and Template are those of the discovery document; Template is
	// relative to /bigquery/v2/, with {braces} for what varies.
	Verb, Template string
	// Classes is what the method does by itself. Where the body says more (a
	// statement, a load), that is added; "by body" methods have none here.
	Classes []trailgate.Class
	// Schema names the request body's schema, "" where there is no body.
	Schema string
	// Query lists the query parameters of its own; the common ones are extra.
	Query []string

	segments []string
	suffix   string // ":verb"
}

// Short names, for the table and for what else speaks of classes.
const (
	classRead       = trailgate.ClassRead
	classWrite      = trailgate.ClassWrite
	classMeta       = trailgate.ClassMetadataRead
	classMetaChange = trailgate.ClassMetadataChange
	classAccess     = trailgate.ClassAccessChange
	classExport     = trailgate.ClassExport
)

const (
	tProject = "projects/{projectId}"
	tDataset = tProject + "/datasets/{datasetId}"
	tTable   = tDataset + "/tables/{tableId}"
	tRoutine = tDataset + "/routines/{routineId}"
	tModel   = tDataset + "/models/{modelId}"
	tPolicy  = tTable + "/rowAccessPolicies/{policyId}"
)

// methods is the whole table. A test holds it to the discovery document, so a
// method that Google adds fails the test until somebody classes it here.
//
// The datasets IAM methods are not in the document; bq calls them.
var methods = compile([]Method{
	{ID: "bigquery.datasets.delete", Verb: "DELETE", Template: tDataset, Classes: does(classMetaChange, classWrite), Query: names("deleteContents")},
	{ID: "bigquery.datasets.get", Verb: "GET", Template: tDataset, Classes: does(classMeta), Query: names("accessPolicyVersion", "datasetView")},
	{ID: "bigquery.datasets.getIamPolicy", Verb: "POST", Template: tDataset + ":getIamPolicy", Classes: does(classMeta), Schema: "GetIamPolicyRequest"},
	{ID: "bigquery.datasets.insert", Verb: "POST", Template: tProject + "/datasets", Classes: does(classMetaChange), Schema: "Dataset", Query: names("accessPolicyVersion")},
	{ID: "bigquery.datasets.list", Verb: "GET", Template: tProject + "/datasets", Classes: does(classMeta), Query: names("all", "filter", "maxResults", "pageToken")},
	{ID: "bigquery.datasets.patch", Verb: "PATCH", Template: tDataset, Classes: does(classMetaChange), Schema: "Dataset", Query: names("accessPolicyVersion", "updateMode")},
	{ID: "bigquery.datasets.setIamPolicy", Verb: "POST", Template: tDataset + ":setIamPolicy", Classes: does(classAccess), Schema: "SetIamPolicyRequest"},
	{ID: "bigquery.datasets.testIamPermissions", Verb: "POST", Template: tDataset + ":testIamPermissions", Classes: does(classMeta), Schema: "TestIamPermissionsRequest"},
	{ID: "bigquery.datasets.undelete", Verb: "POST", Template: tDataset + ":undelete", Classes: does(classMetaChange, classWrite), Schema: "UndeleteDatasetRequest"},
	{ID: "bigquery.datasets.update", Verb: "PUT", Template: tDataset, Classes: does(classMetaChange), Schema: "Dataset", Query: names("accessPolicyVersion", "updateMode")},
	{ID: "bigquery.jobs.cancel", Verb: "POST", Template: tProject + "/jobs/{jobId}/cancel", Classes: does(classMetaChange), Query: names("location")},
	{ID: "bigquery.jobs.delete", Verb: "DELETE", Template: tProject + "/jobs/{jobId}/delete", Classes: does(classMetaChange), Query: names("location")},
	{ID: "bigquery.jobs.get", Verb: "GET", Template: tProject + "/jobs/{jobId}", Classes: does(classMeta), Query: names("location")},
	{ID: "bigquery.jobs.getQueryResults", Verb: "GET", Template: tProject + "/queries/{jobId}", Classes: does(classRead), Query: names("formatOptions.timestampOutputFormat", "formatOptions.useInt64Timestamp", "location", "maxResults", "pageToken", "startIndex", "timeoutMs")},
	{ID: "bigquery.jobs.insert", Verb: "POST", Template: tProject + "/jobs", Schema: "Job"},
	{ID: "bigquery.jobs.list", Verb: "GET", Template: tProject + "/jobs", Classes: does(classMeta), Query: names("allUsers", "maxCreationTime", "maxResults", "minCreationTime", "pageToken", "parentJobId", "projection", "stateFilter")},
	{ID: "bigquery.jobs.query", Verb: "POST", Template: tProject + "/queries", Schema: "QueryRequest"},
	{ID: "bigquery.models.delete", Verb: "DELETE", Template: tModel, Classes: does(classMetaChange)},
	{ID: "bigquery.models.get", Verb: "GET", Template: tModel, Classes: does(classMeta)},
	{ID: "bigquery.models.list", Verb: "GET", Template: tDataset + "/models", Classes: does(classMeta), Query: names("maxResults", "pageToken")},
	{ID: "bigquery.models.patch", Verb: "PATCH", Template: tModel, Classes: does(classMetaChange), Schema: "Model"},
	{ID: "bigquery.projects.getServiceAccount", Verb: "GET", Template: tProject + "/serviceAccount", Classes: does(classMeta)},
	{ID: "bigquery.projects.list", Verb: "GET", Template: "projects", Classes: does(classMeta), Query: names("maxResults", "pageToken")},
	{ID: "bigquery.routines.delete", Verb: "DELETE", Template: tRoutine, Classes: does(classMetaChange)},
	{ID: "bigquery.routines.get", Verb: "GET", Template: tRoutine, Classes: does(classMeta), Query: names("readMask")},
	{ID: "bigquery.routines.getIamPolicy", Verb: "POST", Template: tRoutine + ":getIamPolicy", Classes: does(classMeta), Schema: "GetIamPolicyRequest"},
	{ID: "bigquery.routines.insert", Verb: "POST", Template: tDataset + "/routines", Classes: does(classMetaChange), Schema: "Routine"},
	{ID: "bigquery.routines.list", Verb: "GET", Template: tDataset + "/routines", Classes: does(classMeta), Query: names("filter", "maxResults", "pageToken", "readMask")},
	{ID: "bigquery.routines.setIamPolicy", Verb: "POST", Template: tRoutine + ":setIamPolicy", Classes: does(classAccess), Schema: "SetIamPolicyRequest"},
	{ID: "bigquery.routines.testIamPermissions", Verb: "POST", Template: tRoutine + ":testIamPermissions", Classes: does(classMeta), Schema: "TestIamPermissionsRequest"},
	{ID: "bigquery.routines.update", Verb: "PUT", Template: tRoutine, Classes: does(classMetaChange), Schema: "Routine"},
	{ID: "bigquery.rowAccessPolicies.batchDelete", Verb: "POST", Template: tTable + "/rowAccessPolicies:batchDelete", Classes: does(classAccess), Schema: "BatchDeleteRowAccessPoliciesRequest"},
	{ID: "bigquery.rowAccessPolicies.delete", Verb: "DELETE", Template: tPolicy, Classes: does(classAccess), Query: names("force")},
	{ID: "bigquery.rowAccessPolicies.get", Verb: "GET", Template: tPolicy, Classes: does(classMeta)},
	{ID: "bigquery.rowAccessPolicies.getIamPolicy", Verb: "POST", Template: tPolicy + ":getIamPolicy", Classes: does(classMeta), Schema: "GetIamPolicyRequest"},
	{ID: "bigquery.rowAccessPolicies.insert", Verb: "POST", Template: tTable + "/rowAccessPolicies", Classes: does(classAccess), Schema: "RowAccessPolicy"},
	{ID: "bigquery.rowAccessPolicies.list", Verb: "GET", Template: tTable + "/rowAccessPolicies", Classes: does(classMeta), Query: names("pageSize", "pageToken")},
	{ID: "bigquery.rowAccessPolicies.testIamPermissions", Verb: "POST", Template: tPolicy + ":testIamPermissions", Classes: does(classMeta), Schema: "TestIamPermissionsRequest"},
	{ID: "bigquery.rowAccessPolicies.update", Verb: "PUT", Template: tPolicy, Classes: does(classAccess), Schema: "RowAccessPolicy"},
	{ID: "bigquery.tabledata.insertAll", Verb: "POST", Template: tTable + "/insertAll", Classes: does(classWrite), Schema: "TableDataInsertAllRequest"},
	{ID: "bigquery.tabledata.list", Verb: "GET", Template: tTable + "/data", Classes: does(classRead), Query: names("formatOptions.timestampOutputFormat", "formatOptions.useInt64Timestamp", "maxResults", "pageToken", "selectedFields", "startIndex")},
	{ID: "bigquery.tables.delete", Verb: "DELETE", Template: tTable, Classes: does(classMetaChange, classWrite)},
	{ID: "bigquery.tables.get", Verb: "GET", Template: tTable, Classes: does(classMeta), Query: names("selectedFields", "view")},
	{ID: "bigquery.tables.getIamPolicy", Verb: "POST", Template: tTable + ":getIamPolicy", Classes: does(classMeta), Schema: "GetIamPolicyRequest"},
	{ID: "bigquery.tables.insert", Verb: "POST", Template: tDataset + "/tables", Classes: does(classMetaChange), Schema: "Table"},
	{ID: "bigquery.tables.list", Verb: "GET", Template: tDataset + "/tables", Classes: does(classMeta), Query: names("maxResults", "pageToken")},
	{ID: "bigquery.tables.patch", Verb: "PATCH", Template: tTable, Classes: does(classMetaChange), Schema: "Table", Query: names("autodetect_schema")},
	{ID: "bigquery.tables.setIamPolicy", Verb: "POST", Template: tTable + ":setIamPolicy", Classes: does(classAccess), Schema: "SetIamPolicyRequest"},
	{ID: "bigquery.tables.testIamPermissions", Verb: "POST", Template: tTable + ":testIamPermissions", Classes: does(classMeta), Schema: "TestIamPermissionsRequest"},
	{ID: "bigquery.tables.update", Verb: "PUT", Template: tTable, Classes: does(classMetaChange), Schema: "Table", Query: names("autodetect_schema")},
})

// Methods returns a copy of the table.
func Methods() []Method { return append([]Method(nil), methods...) }

func does(classes ...trailgate.Class) []trailgate.Class { return classes }

func names(n ...string) []string { return n }

func compile(ms []Method) []Method {
	for i := range ms {
		t := ms[i].Template
		if at := strings.LastIndexByte(t, ':'); at >= 0 {
			t, ms[i].suffix = t[:at], t[at:]
		}
		ms[i].segments = strings.Split(t, "/")
	}
	return ms
}

// match finds the method of a verb and the segments of a decoded path, and
// what stands in the braces. known says whether any verb has that path.
func match(verb string, segments []string) (found *Method, vars map[string]string, known bool) {
	for i := range methods {
		v := methods[i].fit(segments)
		if v == nil {
			continue
		}
		known = true
		if methods[i].Verb == verb {
			return &methods[i], v, true
		}
	}
	return nil, nil, known
}

func (m *Method) fit(segments []string) map[string]string {
	if len(segments) != len(m.segments) {
		return nil
	}
	vars := map[string]string{}
	for i, want := range m.segments {
		got := segments[i]
		if i == len(segments)-1 {
			if m.suffix != "" {
				var ok bool
				if got, ok = strings.CutSuffix(got, m.suffix); !ok {
					return nil
				}
			} else if want[0] == '{' && verbSuffix(got) && want != "{projectId}" {
				return nil
			}
		}
		if want[0] != '{' {
			if got != want {
				return nil
			}
			continue
		}
		if !validID(want, got) {
			return nil
		}
		vars[want] = got
	}
	return vars
}

// verbSuffix reports whether a segment ends in what looks like ":verb".
func verbSuffix(s string) bool { return strings.ContainsRune(s, ':') }
