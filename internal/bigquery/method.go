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

// short names for the table
const (
	r  = trailgate.ClassRead
	w  = trailgate.ClassWrite
	m  = trailgate.ClassMetadataRead
	c  = trailgate.ClassMetadataChange
	ac = trailgate.ClassAccessChange
	x  = trailgate.ClassExport
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
	{ID: "bigquery.datasets.delete", Verb: "DELETE", Template: tDataset, Classes: k(c, w), Query: q("deleteContents")},
	{ID: "bigquery.datasets.get", Verb: "GET", Template: tDataset, Classes: k(m), Query: q("accessPolicyVersion", "datasetView")},
	{ID: "bigquery.datasets.getIamPolicy", Verb: "POST", Template: tDataset + ":getIamPolicy", Classes: k(m), Schema: "GetIamPolicyRequest"},
	{ID: "bigquery.datasets.insert", Verb: "POST", Template: tProject + "/datasets", Classes: k(c), Schema: "Dataset", Query: q("accessPolicyVersion")},
	{ID: "bigquery.datasets.list", Verb: "GET", Template: tProject + "/datasets", Classes: k(m), Query: q("all", "filter", "maxResults", "pageToken")},
	{ID: "bigquery.datasets.patch", Verb: "PATCH", Template: tDataset, Classes: k(c), Schema: "Dataset", Query: q("accessPolicyVersion", "updateMode")},
	{ID: "bigquery.datasets.setIamPolicy", Verb: "POST", Template: tDataset + ":setIamPolicy", Classes: k(ac), Schema: "SetIamPolicyRequest"},
	{ID: "bigquery.datasets.testIamPermissions", Verb: "POST", Template: tDataset + ":testIamPermissions", Classes: k(m), Schema: "TestIamPermissionsRequest"},
	{ID: "bigquery.datasets.undelete", Verb: "POST", Template: tDataset + ":undelete", Classes: k(c, w), Schema: "UndeleteDatasetRequest"},
	{ID: "bigquery.datasets.update", Verb: "PUT", Template: tDataset, Classes: k(c), Schema: "Dataset", Query: q("accessPolicyVersion", "updateMode")},
	{ID: "bigquery.jobs.cancel", Verb: "POST", Template: tProject + "/jobs/{jobId}/cancel", Classes: k(c), Query: q("location")},
	{ID: "bigquery.jobs.delete", Verb: "DELETE", Template: tProject + "/jobs/{jobId}/delete", Classes: k(c), Query: q("location")},
	{ID: "bigquery.jobs.get", Verb: "GET", Template: tProject + "/jobs/{jobId}", Classes: k(m), Query: q("location")},
	{ID: "bigquery.jobs.getQueryResults", Verb: "GET", Template: tProject + "/queries/{jobId}", Classes: k(r), Query: q("formatOptions.timestampOutputFormat", "formatOptions.useInt64Timestamp", "location", "maxResults", "pageToken", "startIndex", "timeoutMs")},
	{ID: "bigquery.jobs.insert", Verb: "POST", Template: tProject + "/jobs", Schema: "Job"},
	{ID: "bigquery.jobs.list", Verb: "GET", Template: tProject + "/jobs", Classes: k(m), Query: q("allUsers", "maxCreationTime", "maxResults", "minCreationTime", "pageToken", "parentJobId", "projection", "stateFilter")},
	{ID: "bigquery.jobs.query", Verb: "POST", Template: tProject + "/queries", Schema: "QueryRequest"},
	{ID: "bigquery.models.delete", Verb: "DELETE", Template: tModel, Classes: k(c)},
	{ID: "bigquery.models.get", Verb: "GET", Template: tModel, Classes: k(m)},
	{ID: "bigquery.models.list", Verb: "GET", Template: tDataset + "/models", Classes: k(m), Query: q("maxResults", "pageToken")},
	{ID: "bigquery.models.patch", Verb: "PATCH", Template: tModel, Classes: k(c), Schema: "Model"},
	{ID: "bigquery.projects.getServiceAccount", Verb: "GET", Template: tProject + "/serviceAccount", Classes: k(m)},
	{ID: "bigquery.projects.list", Verb: "GET", Template: "projects", Classes: k(m), Query: q("maxResults", "pageToken")},
	{ID: "bigquery.routines.delete", Verb: "DELETE", Template: tRoutine, Classes: k(c)},
	{ID: "bigquery.routines.get", Verb: "GET", Template: tRoutine, Classes: k(m), Query: q("readMask")},
	{ID: "bigquery.routines.getIamPolicy", Verb: "POST", Template: tRoutine + ":getIamPolicy", Classes: k(m), Schema: "GetIamPolicyRequest"},
	{ID: "bigquery.routines.insert", Verb: "POST", Template: tDataset + "/routines", Classes: k(c), Schema: "Routine"},
	{ID: "bigquery.routines.list", Verb: "GET", Template: tDataset + "/routines", Classes: k(m), Query: q("filter", "maxResults", "pageToken", "readMask")},
	{ID: "bigquery.routines.setIamPolicy", Verb: "POST", Template: tRoutine + ":setIamPolicy", Classes: k(ac), Schema: "SetIamPolicyRequest"},
	{ID: "bigquery.routines.testIamPermissions", Verb: "POST", Template: tRoutine + ":testIamPermissions", Classes: k(m), Schema: "TestIamPermissionsRequest"},
	{ID: "bigquery.routines.update", Verb: "PUT", Template: tRoutine, Classes: k(c), Schema: "Routine"},
	{ID: "bigquery.rowAccessPolicies.batchDelete", Verb: "POST", Template: tTable + "/rowAccessPolicies:batchDelete", Classes: k(ac), Schema: "BatchDeleteRowAccessPoliciesRequest"},
	{ID: "bigquery.rowAccessPolicies.delete", Verb: "DELETE", Template: tPolicy, Classes: k(ac), Query: q("force")},
	{ID: "bigquery.rowAccessPolicies.get", Verb: "GET", Template: tPolicy, Classes: k(m)},
	{ID: "bigquery.rowAccessPolicies.getIamPolicy", Verb: "POST", Template: tPolicy + ":getIamPolicy", Classes: k(m), Schema: "GetIamPolicyRequest"},
	{ID: "bigquery.rowAccessPolicies.insert", Verb: "POST", Template: tTable + "/rowAccessPolicies", Classes: k(ac), Schema: "RowAccessPolicy"},
	{ID: "bigquery.rowAccessPolicies.list", Verb: "GET", Template: tTable + "/rowAccessPolicies", Classes: k(m), Query: q("pageSize", "pageToken")},
	{ID: "bigquery.rowAccessPolicies.testIamPermissions", Verb: "POST", Template: tPolicy + ":testIamPermissions", Classes: k(m), Schema: "TestIamPermissionsRequest"},
	{ID: "bigquery.rowAccessPolicies.update", Verb: "PUT", Template: tPolicy, Classes: k(ac), Schema: "RowAccessPolicy"},
	{ID: "bigquery.tabledata.insertAll", Verb: "POST", Template: tTable + "/insertAll", Classes: k(w), Schema: "TableDataInsertAllRequest"},
	{ID: "bigquery.tabledata.list", Verb: "GET", Template: tTable + "/data", Classes: k(r), Query: q("formatOptions.timestampOutputFormat", "formatOptions.useInt64Timestamp", "maxResults", "pageToken", "selectedFields", "startIndex")},
	{ID: "bigquery.tables.delete", Verb: "DELETE", Template: tTable, Classes: k(c, w)},
	{ID: "bigquery.tables.get", Verb: "GET", Template: tTable, Classes: k(m), Query: q("selectedFields", "view")},
	{ID: "bigquery.tables.getIamPolicy", Verb: "POST", Template: tTable + ":getIamPolicy", Classes: k(m), Schema: "GetIamPolicyRequest"},
	{ID: "bigquery.tables.insert", Verb: "POST", Template: tDataset + "/tables", Classes: k(c), Schema: "Table"},
	{ID: "bigquery.tables.list", Verb: "GET", Template: tDataset + "/tables", Classes: k(m), Query: q("maxResults", "pageToken")},
	{ID: "bigquery.tables.patch", Verb: "PATCH", Template: tTable, Classes: k(c), Schema: "Table", Query: q("autodetect_schema")},
	{ID: "bigquery.tables.setIamPolicy", Verb: "POST", Template: tTable + ":setIamPolicy", Classes: k(ac), Schema: "SetIamPolicyRequest"},
	{ID: "bigquery.tables.testIamPermissions", Verb: "POST", Template: tTable + ":testIamPermissions", Classes: k(m), Schema: "TestIamPermissionsRequest"},
	{ID: "bigquery.tables.update", Verb: "PUT", Template: tTable, Classes: k(c), Schema: "Table", Query: q("autodetect_schema")},
})

// Methods returns a copy of the table.
func Methods() []Method { return append([]Method(nil), methods...) }

func k(classes ...trailgate.Class) []trailgate.Class { return classes }
func q(names ...string) []string                     { return names }

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
