package bigquery_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/bigquery"
)

func read(t *testing.T, verb, path, query, body string) *bigquery.Call {
	t.Helper()
	call, refusal := bigquery.Route(bigquery.Request{Verb: verb, EscapedPath: path, RawQuery: query})
	if refusal == nil && call.HasBody {
		refusal = call.ReadBody([]byte(body))
	}
	if refusal != nil {
		t.Fatalf("%s %s: %v", verb, path, refusal)
	}
	return call
}

const (
	jobs    = "/bigquery/v2/projects/acme/jobs"
	queries = "/bigquery/v2/projects/acme/queries"
)

// TestBound: the lower of the client's limit and ours goes upstream.
func TestBound(t *testing.T) {
	bounds := bigquery.Bounds{MaximumBytesBilled: 1000, JobTimeoutMillis: 60_000, MaxRows: 5}
	for name, tc := range map[string]struct{ path, body, want string }{
		"job, none of its own": {
			jobs, `{"configuration":{"query":{"query":"SELECT 1"}}}`,
			`{"configuration":{"query":{"query":"SELECT 1","maximumBytesBilled":"1000"},"jobTimeoutMs":"60000","labels":{}},"jobReference":{"jobId":"j","projectId":"acme"}}`,
		},
		"job, lower ones": {
			jobs, `{"configuration":{"query":{"query":"SELECT 1","maximumBytesBilled":"10"},"jobTimeoutMs":"5"}}`,
			`{"configuration":{"query":{"query":"SELECT 1","maximumBytesBilled":"10"},"jobTimeoutMs":"5","labels":{}},"jobReference":{"jobId":"j","projectId":"acme"}}`,
		},
		"job, higher ones": {
			jobs, `{"configuration":{"query":{"query":"SELECT 1","maximumBytesBilled":999999},"jobTimeoutMs":"99999999"}}`,
			`{"configuration":{"query":{"query":"SELECT 1","maximumBytesBilled":"1000"},"jobTimeoutMs":"60000","labels":{}},"jobReference":{"jobId":"j","projectId":"acme"}}`,
		},
		"job, zero is no limit": {
			jobs, `{"configuration":{"query":{"query":"SELECT 1","maximumBytesBilled":"0"}}}`,
			`{"configuration":{"query":{"query":"SELECT 1","maximumBytesBilled":"1000"},"jobTimeoutMs":"60000","labels":{}},"jobReference":{"jobId":"j","projectId":"acme"}}`,
		},
		"query": {
			queries, `{"query":"SELECT 1","maxResults":100}`,
			`{"query":"SELECT 1","maxResults":5,"maximumBytesBilled":"1000","jobTimeoutMs":"60000","requestId":"r","labels":{}}`,
		},
		"query, fewer rows": {
			queries, `{"query":"SELECT 1","maxResults":2}`,
			`{"query":"SELECT 1","maxResults":2,"maximumBytesBilled":"1000","jobTimeoutMs":"60000","requestId":"r","labels":{}}`,
		},
		"copy": {
			jobs, `{"configuration":{"copy":{"sourceTable":{"projectId":"acme","datasetId":"d","tableId":"t"},"destinationTable":{"projectId":"acme","datasetId":"d","tableId":"u"}}}}`,
			`{"configuration":{"copy":{"sourceTable":{"projectId":"acme","datasetId":"d","tableId":"t"},"destinationTable":{"projectId":"acme","datasetId":"d","tableId":"u"}},"jobTimeoutMs":"60000","labels":{}},"jobReference":{"jobId":"j","projectId":"acme"}}`,
		},
	} {
		call := read(t, http.MethodPost, tc.path, "", tc.body)
		if refusal := call.Bound(bounds); refusal != nil {
			t.Errorf("%s: %v", name, refusal)
			continue
		}
		got, refusal := call.Stamp(bigquery.Stamp{JobID: "j", RequestID: "r"})
		if refusal != nil {
			t.Errorf("%s: %v", name, refusal)
			continue
		}
		if diff := cmp.Diff(decode(t, tc.want), decode(t, string(got))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for _, body := range []string{`{"query":"SELECT 1","maximumBytesBilled":"much"}`, `{"query":"SELECT 1","maximumBytesBilled":1e30}`, `{"query":"SELECT 1","maximumBytesBilled":{}}`} {
		call := read(t, http.MethodPost, queries, "", body)
		if call.Bound(bounds) == nil {
			t.Errorf("%s is taken", body)
		}
		if _, refusal := call.Options(); refusal == nil {
			t.Errorf("%s is taken", body)
		}
	}
	for query, want := range map[string]string{
		"":                         "maxResults=5",
		"maxResults=3":             "maxResults=3",
		"maxResults=0":             "maxResults=5",
		"startIndex=7&maxResults=": "",
		"maxResults=900&alt=json":  "alt=json&maxResults=5",
	} {
		call := read(t, http.MethodGet, queries+"/job_1", query, "")
		refusal := call.Bound(bounds)
		if (refusal != nil) != (want == "") {
			t.Errorf("%q: %v", query, refusal)
		}
		if refusal == nil && call.Path != queries+"/job_1?"+want {
			t.Errorf("%q became %s", query, call.Path)
		}
	}
}

func decode(t *testing.T, raw string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestRehearsal: what is asked about is the statement that would run, and nothing is
// run by asking.
func TestRehearsal(t *testing.T) {
	labels := map[string]string{"trailgate_entry": "e"}
	for name, tc := range map[string]struct{ path, body, want string }{
		"job": {
			jobs, `{"jobReference":{"jobId":"mine","location":"EU"},"configuration":{"labels":{"a":"b"},"query":{"query":"DELETE FROM d.t WHERE true","useLegacySql":false,"priority":"BATCH"}}}`,
			`{"jobReference":{"projectId":"acme","location":"EU"},"configuration":{"dryRun":true,"labels":{"trailgate_entry":"e"},"query":{"query":"DELETE FROM d.t WHERE true","useLegacySql":false,"priority":"BATCH"}}}`,
		},
		"query": {
			queries, `{"query":"SELECT @x","location":"EU","requestId":"q","maxResults":5,"timeoutMs":1,"useLegacySql":false,"parameterMode":"NAMED","queryParameters":[{"name":"x"}],"defaultDataset":{"datasetId":"d"}}`,
			`{"jobReference":{"projectId":"acme","location":"EU"},"configuration":{"dryRun":true,"labels":{"trailgate_entry":"e"},"query":{"query":"SELECT @x","useLegacySql":false,"parameterMode":"NAMED","queryParameters":[{"name":"x"}],"defaultDataset":{"datasetId":"d"}}}}`,
		},
	} {
		call := read(t, http.MethodPost, tc.path, "", tc.body)
		path, body := call.Rehearsal(labels)
		if diff := cmp.Diff(decode(t, tc.want), decode(t, string(body))); diff != "" || path != jobs {
			t.Errorf("%s: %s %s", name, path, diff)
		}
		if again := read(t, http.MethodPost, path, "", string(body)); !again.DryRun || again.Statements[0].Text != call.Statements[0].Text || !cmp.Equal(again.Classes, call.Classes) {
			t.Errorf("%s: the rehearsal reads as %+v", name, again)
		}
		if raw, _ := call.Stamp(bigquery.Stamp{JobID: "x", RequestID: "x"}); strings.Contains(string(raw), `"dryRun"`) {
			t.Errorf("%s: asking has changed the call itself: %s", name, raw)
		}
	}
	for _, call := range []*bigquery.Call{
		read(t, http.MethodGet, jobs, "", ""),
		read(t, http.MethodPost, jobs, "", `{"configuration":{"load":{"sourceUris":["gs://b/o"]}}}`),
	} {
		if _, body := call.Rehearsal(labels); body != nil || call.RunsQuery() {
			t.Errorf("%s has a rehearsal", call.Method)
		}
	}
}

// TestCanonical: what clients make anew for each try does not count; all else does.
func TestCanonical(t *testing.T) {
	const base = `{"jobReference":{"jobId":"a","projectId":"acme"},"configuration":{"query":{"query":"DELETE FROM d.t WHERE x","useLegacySql":false},"labels":{"team":"x"}}}`
	form := func(path, body string, h http.Header) string {
		return string(read(t, http.MethodPost, path, "", body).Canonical(h))
	}
	want := form(jobs, base, nil)
	for _, same := range []string{
		`{"jobReference":{"jobId":"b","projectId":"acme"},"configuration":{"query":{"query":"DELETE FROM d.t WHERE x","useLegacySql":false},"labels":{"team":"x"}}}`,
		`{"configuration":{"labels":{"team":"x","trailgate_agent":"forged"},"query":{"useLegacySql":false,"query":"DELETE FROM d.t WHERE x"}},"jobReference":{"projectId":"acme"}}`,
	} {
		if got := form(jobs, same, nil); got != want {
			t.Errorf("%s\nis %s\nnot %s", same, got, want)
		}
	}
	seen := map[string]string{want: base}
	for _, other := range []string{
		strings.Replace(base, "WHERE x", "WHERE true", 1),
		strings.Replace(base, `"useLegacySql":false`, `"useLegacySql":true`, 1),
		strings.Replace(base, `"team":"x"`, `"team":"y"`, 1),
		strings.Replace(base, `"useLegacySql":false`, `"useLegacySql":false,"queryParameters":[{"name":"p"}]`, 1),
		strings.Replace(base, `"useLegacySql":false`, `"useLegacySql":false,"destinationTable":{"tableId":"t"}`, 1),
		strings.Replace(base, `"projectId":"acme"`, `"projectId":"acme","location":"EU"`, 1),
	} {
		got := form(jobs, other, nil)
		if before, dup := seen[got]; dup {
			t.Errorf("%s\nand %s\nare one: %s", before, other, got)
		}
		seen[got] = other
	}
	if a, b := form(queries, `{"query":"SELECT 1","requestId":"1"}`, nil), form(queries, `{"requestId":"2","query":"SELECT 1"}`, nil); a != b {
		t.Errorf("%s\n%s", a, b)
	}
	drop := read(t, http.MethodDelete, "/bigquery/v2/projects/acme/datasets/d/tables/t", "", "")
	if string(drop.Canonical(nil)) == string(drop.Canonical(http.Header{"If-Match": {"e"}})) {
		t.Error("a condition makes no difference")
	}
}
