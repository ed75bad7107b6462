package bigquery_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
)

// TestStrictJSON: whatever two parsers could read differently is refused.
func TestStrictJSON(t *testing.T) {
	query := func(s string) string { return `{"query":"SELECT 1"` + s + `}` }
	for name, body := range map[string]string{
		"empty": "", "not an object": "[]", "bom": "\xef\xbb\xbf" + query(""), "trailing": query("") + "{}", "trailing comma": query(","),
		"duplicate": query(`,"query":"SELECT 2"`), "escaped duplicate": query(`,"qu\u0065ry":"SELECT 2"`), "case variant": query(`,"Query":"x"`), "case variant alone": `{"QUERY":"SELECT 1"}`,
		"nested case variant": query(`,"defaultDataset":{"datasetID":"d"}`), "duplicate in labels": query(`,"labels":{"a":"1","a":"2"}`),
		"invalid utf-8": query(",\"x\":\"\xff\""), "lone surrogate": query(`,"x":"\ud800"`), "control": query(",\"x\":\"\x01\""), "bad escape": query(`,"x":"\q"`),
		"deep": query(`,"x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200)), "deep known": query(`,"queryParameters":[{"parameterValue":` + strings.Repeat(`{"structValues":{"a":`, 200) + "1" + strings.Repeat("}}", 200) + "}]"),
		"nan": query(`,"x":NaN`), "comment": query(`/**/`), "single quotes": `{'query':'SELECT 1'}`, "no query": `{}`, "null query": `{"query":null}`, "number query": `{"query":1}`,
		"dry run 0": query(`,"dryRun":0`), "dry run True": query(`,"dryRun":"True"`), "legacy 0": query(`,"useLegacySql":0`), "legacy quoted": query(`,"useLegacySql":"\"false\""`), "legacy array": query(`,"useLegacySql":["false"]`),
		"long request id": query(`,"requestId":"` + strings.Repeat("x", 37) + `"`), "labels": query(`,"labels":{"a":1}`),
	} {
		c := route(t, "POST", "projects/p/queries")
		if err := c.ReadBody([]byte(body)); err == nil {
			t.Errorf("%s: %s was accepted", name, body)
		} else if err.Status != 400 {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Rows have names of the client's own.
	c := route(t, "POST", "projects/p/datasets/d/tables/t/insertAll")
	body := `{"kind":"x","rows":[{"insertId":"1","json":{"Kind":1,"kind":2,"ROWS":[1.50e3,12345678901234567890123]}}]}`
	if err := c.ReadBody([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Stamp(bigquery.Stamp{JobID: "j", Labels: map[string]string{"trailgate_x": "y"}}); err != nil || string(got) != body {
		t.Errorf("%s %v", got, err)
	}
	if err := route(t, "POST", "projects/p/datasets/d/tables/t/insertAll").ReadBody([]byte(`{"Rows":[]}`)); err == nil {
		t.Error("a case variant in insertAll was accepted")
	}
}

func job(t testing.TB, body string) (*bigquery.Call, *bigquery.Error) {
	t.Helper()
	c := route(t, "POST", "projects/p/jobs")
	return c, c.ReadBody([]byte(body))
}

func TestJobs(t *testing.T) {
	for _, tt := range []struct {
		body                     string
		class                    trailgate.Class
		read, written, elsewhere string
	}{
		{`{"configuration":{"query":{"query":"SELECT * FROM s.t","useLegacySql":false,"destinationTable":{"projectId":"p","datasetId":"s","tableId":"o"}}}}`, "write", "[p.s.t]", "[p.s.o]", "[]"},
		{`{"configuration":{"query":{"query":"SELECT * FROM t","useLegacySql":false,"connectionProperties":[{"key":"dataset_project_id","value":"q"}],"defaultDataset":{"datasetId":"s"}}}}`, "read", "[q.s.t]", "[]", "[]"},
		{`{"configuration":{"query":{"query":"SELECT * FROM x","useLegacySql":false,"tableDefinitions":{"x":{"sourceFormat":"CSV","sourceUris":["gs://b/o"]}}}}}`, "export", "[x]", "[]", "[gs://b/o]"},
		{`{"configuration":{"load":{"destinationTable":{"datasetId":"s","tableId":"t"},"sourceUris":["gs://b/o"]}}}`, "write", "[]", "[p.s.t]", "[gs://b/o]"},
		{`{"configuration":{"copy":{"sourceTables":[{"projectId":"p","datasetId":"s","tableId":"a"},{"projectId":"q","datasetId":"s","tableId":"b"}],"destinationTable":{"projectId":"p","datasetId":"s","tableId":"t"}}}}`, "write", "[p.s.a q.s.b]", "[p.s.t]", "[]"},
		{`{"configuration":{"copy":{"sourceTable":{"projectId":"p","datasetId":"s","tableId":"a"},"destinationTable":{"projectId":"elsewhere","datasetId":"s","tableId":"t"}}}}`, "export", "[p.s.a]", "[elsewhere.s.t]", "[]"},
		{`{"configuration":{"extract":{"sourceTable":{"projectId":"p","datasetId":"s","tableId":"a"},"destinationUris":["gs://b/o"]}}}`, "export", "[p.s.a]", "[]", "[gs://b/o]"},
	} {
		c, err := job(t, tt.body)
		if err != nil {
			t.Errorf("%s: %v", tt.body, err)
			continue
		}
		got, want := fmt.Sprintf("%s %v %v %v", c.Class, c.Read, c.Written, c.Destinations), fmt.Sprintf("%s %s %s %s", tt.class, tt.read, tt.written, tt.elsewhere)
		if got != want {
			t.Errorf("%s\n is %s, want %s", tt.body, got, want)
		}
	}
	for _, bad := range []string{
		`{"jobReference":"x","configuration":{"query":{"query":"SELECT 1"}}}`, `{"configuration":{"dryRun":1,"query":{"query":"SELECT 1"}}}`,
		`{"configuration":{"query":{"query":"SELECT 1","tableDefinitions":{"x":{"SourceUris":["gs://b/o"]}}}}}`,
		`{}`, `{"configuration":{}}`, `{"configuration":{"query":{"query":"SELECT 1"},"load":{}}}`, `{"configuration":{"query":{}}}`,
		`{"jobReference":{"jobId":"a/b"},"configuration":{"query":{"query":"SELECT 1"}}}`, `{"jobReference":{"projectId":"q"},"configuration":{"query":{"query":"SELECT 1"}}}`,
	} {
		if _, err := job(t, bad); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

// TestStatementsEverywhere: SQL and code are found wherever a body may hold them.
func TestStatementsEverywhere(t *testing.T) {
	for _, tt := range []struct{ verb, path, body, class, where, also string }{
		{"POST", "projects/p/datasets/d/tables", `{"tableReference":{"tableId":"v"},"view":{"query":"SELECT * FROM s.t","useLegacySql":false}}`, "metadata_change", "view.query", "p.s.t"},
		{"POST", "projects/p/datasets/d/tables", `{"view":{"query":"SELECT * FROM [q:s.t]"}}`, "metadata_change", "view.query", "q.s.t"},
		{"PATCH", "projects/p/datasets/d/tables/v", `{"materializedView":{"query":"SELECT * FROM s.t"}}`, "metadata_change", "materializedView.query", "p.s.t"},
		{"POST", "projects/p/datasets/d/tables", `{"externalDataConfiguration":{"sourceUris":["gs://b/o"]}}`, "export", "", "gs://b/o"},
		{"POST", "projects/p/datasets/d/routines", `{"routineType":"SCALAR_FUNCTION","language":"SQL","definitionBody":"x + 1"}`, "metadata_change", "definitionBody", ""},
		{"POST", "projects/p/datasets/d/routines", `{"routineType":"PROCEDURE","language":"SQL","definitionBody":"EXECUTE IMMEDIATE 'x'"}`, "unknown", "definitionBody", ""},
		{"PUT", "projects/p/datasets/d/routines/f", `{"language":"JAVASCRIPT","definitionBody":"return 1"}`, "metadata_change", "definitionBody", ""},
		{"POST", "projects/p/datasets/d/routines", `{"remoteFunctionOptions":{"endpoint":"https://example.com/f"}}`, "export", "", "https://example.com/f"},
		{"POST", "projects/p/datasets/d/tables/t/rowAccessPolicies", `{"filterPredicate":"x IN (SELECT y FROM s.t)","grantees":["user:a@example.com"]}`, "access_change", "filterPredicate", "p.s.t"},
		{"POST", "projects/p/datasets", `{"datasetReference":{"datasetId":"d"},"access":[{"role":"READER","userByEmail":"a@example.com"}]}`, "access_change", "", ""},
		{"PATCH", "projects/p/datasets/d", `{"linkedDatasetSource":{"sourceDataset":{"projectId":"q","datasetId":"s"}}}`, "export", "", "q.s"},
		{"PUT", "projects/p/datasets/d", `{"friendlyName":"x"}`, "access_change", "", ""},
		{"PATCH", "projects/p/datasets/d", `{"friendlyName":"x"}`, "metadata_change", "", ""},
		{"PATCH", "projects/p/datasets/d", `{"access":[{"role":"READER","iamMember":"allUsers"}]}`, "access_change", "", "allUsers"},
		{"PATCH", "projects/p/datasets/d", `{"access":null}`, "access_change", "", ""},
		{"POST", "projects/p/datasets/d/tables/t:setIamPolicy", `{"policy":{"bindings":[{"role":"r","members":["user:a@example.com"]}]}}`, "access_change", "", "user:a@example.com"},
		{"POST", "projects/p/datasets/d/routines", `{"routineType":"PROCEDURE","definitionBody":"BEGIN DELETE FROM s.t WHERE TRUE; END"}`, "metadata_change", "definitionBody", "p.s.t"},
		{"PUT", "projects/p/datasets/d/routines/f", `{"definitionBody":"BEGIN EXECUTE IMMEDIATE 'x'; END"}`, "unknown", "definitionBody", ""},
		{"POST", "projects/p/datasets/d/routines", `{"routineType":"TABLE_VALUED_FUNCTION","definitionBody":"SELECT * FROM s.t"}`, "metadata_change", "definitionBody", "p.s.t"},
		{"POST", "projects/p/datasets/d/routines", `{"routineType":"SCALAR_FUNCTION","definitionBody":"'unclosed"}`, "unknown", "definitionBody", ""},
		{"POST", "projects/p/datasets/d/routines", `{"language":"PYTHON","sparkOptions":{"mainFileUri":"gs://b/m.py","jarUris":["gs://b/j.jar"]},"definitionBody":"x"}`, "export", "definitionBody", "gs://b/j.jar"},
		{"POST", "projects/p/datasets/d/tables", `{"view":{"query":"SELECT * FROM EXTERNAL_QUERY('c','x')","useLegacySql":false}}`, "export", "view.query", "c"},
		{"POST", "projects/p/datasets/d/tables", `{"biglakeConfiguration":{"storageUri":"gs://b/t"}}`, "export", "", "gs://b/t"},
		{"POST", "projects/p/datasets/d/tables/t/rowAccessPolicies", `{"filterPredicate":"'","grantees":[]}`, "unknown", "filterPredicate", ""},
		{"POST", "projects/p/jobs", `{"configuration":{"query":{"query":"SELECT 1","userDefinedFunctionResources":[{"inlineCode":"function f(){}"},{"resourceUri":"gs://b/f.js"}]}}}`, "read", "configuration.query.userDefinedFunctionResources[0].inlineCode", "gs://b/f.js"},
	} {
		c := route(t, tt.verb, tt.path)
		if err := c.ReadBody([]byte(tt.body)); err != nil {
			t.Errorf("%s: %v", tt.body, err)
			continue
		}
		if string(c.Class) != tt.class {
			t.Errorf("%s is %s, want %s", tt.body, c.Class, tt.class)
		}
		if tt.where != "" && !slices.ContainsFunc(c.Statements, func(s bigquery.Statement) bool { return s.Where == tt.where && s.Text != "" }) {
			t.Errorf("%s: nothing at %s: %+v", tt.body, tt.where, c.Statements)
		}
		if names := slices.Concat(c.Read, c.Written, c.Destinations); tt.also != "" && !slices.Contains(names, tt.also) {
			t.Errorf("%s: %s is not in %v", tt.body, tt.also, names)
		}
	}
}

// TestOtherResource: a body may not speak of another resource than the path.
func TestOtherResource(t *testing.T) {
	for _, tt := range []struct{ verb, path, body string }{
		{"PATCH", "projects/p/datasets/d/tables/t", `{"tableReference":{"projectId":"p","datasetId":"d","tableId":"u"}}`},
		{"POST", "projects/p/datasets/d/tables", `{"tableReference":{"projectId":"q","datasetId":"d","tableId":"t"}}`},
		{"PUT", "projects/p/datasets/d", `{"datasetReference":{"datasetId":"e"}}`},
		{"PUT", "projects/p/datasets/d/routines/r", `{"routineReference":{"routineId":"s"}}`},
		{"POST", "projects/p/datasets/d/tables/t/rowAccessPolicies", `{"rowAccessPolicyReference":{"tableId":"u"}}`},
	} {
		if err := route(t, tt.verb, tt.path).ReadBody([]byte(tt.body)); err == nil {
			t.Errorf("%s %s was accepted with %s", tt.verb, tt.path, tt.body)
		}
	}
	if err := route(t, "PATCH", "projects/p/datasets/d/tables/t").ReadBody([]byte(`{"tableReference":{"projectId":"p","datasetId":"d","tableId":"t"}}`)); err != nil {
		t.Error(err)
	}
}

// TestStamp: the marks are there, forged ones are not, and what is forwarded is
// judged as what came in.
func TestStamp(t *testing.T) {
	c, err := job(t, `{"jobReference":{"location":"EU"},"configuration":{"labels":{"team":"ops","trailgate_agent":"boss"},"query":{"query":"SELECT \u0031 FROM s.t","useLegacySql":"false","maximumBytesBilled":1e9}},"extra":{"kept":[1.0,"é"]}}`)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.Stamp(bigquery.Stamp{JobID: "trailgate_x", Labels: map[string]string{"trailgate_entry": "x", "trailgate_agent": "etl-bot"}})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"jobReference":{"location":"EU","jobId":"trailgate_x","projectId":"p"},"configuration":{"labels":{"team":"ops","trailgate_agent":"etl-bot","trailgate_entry":"x"},"query":{"query":"SELECT 1 FROM s.t","useLegacySql":"false","maximumBytesBilled":1e9}},"extra":{"kept":[1.0,"é"]}}`
	if string(raw) != want {
		t.Errorf("%s\nwant\n%s", raw, want)
	}
	if c.DroppedLabels["trailgate_agent"] != "boss" || c.Job.AssignedBy != "gateway" || !slices.Contains(c.Flags, "dropped_labels") {
		t.Errorf("%+v", c)
	}
	many := map[string]string{}
	for i := range 62 {
		many[fmt.Sprintf("l%d", i)] = "x"
	}
	text, _ := json.Marshal(map[string]any{"query": "SELECT 1", "labels": many})
	q := route(t, "POST", "projects/p/queries")
	if err := q.ReadBody(text); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Stamp(bigquery.Stamp{Labels: map[string]string{"trailgate_a": "", "trailgate_b": "", "trailgate_c": ""}}); err == nil {
		t.Error("65 labels were accepted")
	}
	q = route(t, "POST", "projects/p/queries")
	if err := q.ReadBody([]byte(`{"query":"SELECT 1"}`)); err != nil {
		t.Fatal(err)
	}
	if raw, err := q.Stamp(bigquery.Stamp{JobID: "j", RequestID: "r", Labels: map[string]string{"trailgate_a": "b"}}); err != nil || string(raw) != `{"query":"SELECT 1","requestId":"r","labels":{"trailgate_a":"b"}}` {
		t.Errorf("%s %v", raw, err)
	}
}

func FuzzBody(f *testing.F) {
	f.Add("projects/p/jobs", []byte(`{"configuration":{"query":{"query":"SELECT * FROM s.t","useLegacySql":false},"labels":{"a":"b"}}}`))
	f.Add("projects/p/queries", []byte(`{"query":"SELECT 1","requestId":"x","dryRun":true}`))
	f.Add("projects/p/datasets/d/tables", []byte(`{"view":{"query":"SELECT 1"}}`))
	f.Add("projects/p/datasets/d/routines", []byte(`{"definitionBody":"x","language":"SQL"}`))
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		read := func(body []byte) (*bigquery.Call, *bigquery.Error) {
			c, err := bigquery.Route(bigquery.Request{Verb: "POST", EscapedPath: "/bigquery/v2/" + path})
			if err != nil || !c.HasBody {
				return nil, &bigquery.Error{}
			}
			return c, c.ReadBody(body)
		}
		c, err := read(body)
		if err != nil {
			return
		}
		raw, err := c.Stamp(bigquery.Stamp{JobID: "j", RequestID: "r", Labels: map[string]string{"trailgate_a": "b"}})
		if err != nil || raw == nil {
			return
		}
		if !json.Valid(raw) {
			t.Fatalf("%s is forwarded as %s", body, raw)
		}
		again, err := read(raw)
		if err != nil {
			t.Fatalf("%s is forwarded as %s, which is refused: %v", body, raw, err)
		}
		if d := cmp.Diff(c, again, cmpopts.IgnoreUnexported(bigquery.Call{}), cmpopts.IgnoreFields(bigquery.Call{}, "Labels", "DroppedLabels", "Job", "RequestID", "Flags"), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%s is forwarded as %s, which is another call: %s", body, raw, d)
		}
		if third, err := again.Stamp(bigquery.Stamp{JobID: "j", RequestID: "r", Labels: map[string]string{"trailgate_a": "b"}}); err != nil || !bytes.Equal(third, raw) {
			t.Fatalf("stamping twice differs: %s, %s", raw, third)
		}
	})
}
