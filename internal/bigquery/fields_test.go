package bigquery

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
)

// TestFields: whatever a client wants to see of an answer, what the record needs comes
// too, and nothing else of the request changes.
func TestFields(t *testing.T) {
	for _, tt := range []struct{ verb, path, query, want string }{
		{http.MethodGet, "/bigquery/v2/projects/p/jobs/j", "fields=status%2Fstate&prettyPrint=false", "status/state," + recordedJob},
		{http.MethodGet, "/bigquery/v2/projects/p/queries/j", "fields=rows", "rows," + recorded["bigquery.jobs.getQueryResults"]},
		{http.MethodPost, "/bigquery/v2/projects/p/queries", "fields=a(b", "a(b," + recorded["bigquery.jobs.query"]}, // BigQuery refuses it as before
		{http.MethodGet, "/bigquery/v2/projects/p/jobs/j", "fields=", ""},
		{http.MethodGet, "/bigquery/v2/projects/p/datasets", "fields=datasets", "datasets"},
	} {
		c, refusal := Route(Request{Verb: tt.verb, EscapedPath: tt.path, RawQuery: tt.query})
		if refusal != nil {
			t.Fatal(refusal)
		}
		path, query, _ := strings.Cut(c.Path, "?")
		q, err := url.ParseQuery(query)
		if err != nil || path != tt.path || q.Get("fields") != tt.want || strings.Contains(tt.query, "prettyPrint") != q.Has("prettyPrint") {
			t.Errorf("%s?%s became %s (%v)", tt.path, tt.query, c.Path, err)
		}
	}
}

// TestFieldsExist: BigQuery refuses a selection of what it does not have.
func TestFieldsExist(t *testing.T) {
	raw, err := os.ReadFile("../discovery/bigquery-v2.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Schemas map[string]described `json:"schemas"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	for method, of := range map[string]string{
		"bigquery.jobs.insert": "Job", "bigquery.jobs.get": "Job", "bigquery.jobs.query": "QueryResponse", "bigquery.jobs.getQueryResults": "GetQueryResultsResponse",
	} {
		n := 0
		rest := selected(t, doc.Schemas, doc.Schemas[of], recorded[method], &n)
		if rest != "" || n < 5 {
			t.Errorf("%s: %d fields, and %q is left", method, n, rest)
		}
	}
}

type described struct {
	Ref        string               `json:"$ref"`
	Properties map[string]described `json:"properties"`
	Items      *described           `json:"items"`
}

// selected walks a selection through the schema that it is of, up to a ")" that is
// none of its own.
func selected(t *testing.T, all map[string]described, in described, mask string, n *int) (rest string) {
	t.Helper()
	for mask != "" {
		end := strings.IndexAny(mask+",", ",/()")
		name := mask[:end]
		mask = mask[end:]
		next, ok := in.Properties[name]
		if !ok {
			t.Errorf("there is no %q", name)
		}
		if next.Items != nil {
			next = *next.Items
		}
		if next.Ref != "" {
			next = all[next.Ref]
		}
		*n++
		switch {
		case strings.HasPrefix(mask, "/"):
			end := strings.IndexAny(mask+",", ",)")
			selected(t, all, next, mask[1:end], n)
			mask = mask[end:]
		case strings.HasPrefix(mask, "("):
			mask = strings.TrimPrefix(selected(t, all, next, mask[1:], n), ")")
		}
		if strings.HasPrefix(mask, ")") {
			return mask
		}
		mask = strings.TrimPrefix(mask, ",")
	}
	return ""
}
