package bigquery_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/discovery"
)

type resource struct {
	Methods map[string]struct {
		ID         string
		HTTPMethod string
		FlatPath   string
		Path       string
		Request    struct {
			Ref string `json:"$ref"`
		}
		Parameters map[string]struct{ Location string }
	}
	Resources map[string]resource
}

// TestMethodTable holds the table to Google's document: a method, a query
// parameter or a body that Google adds fails here until somebody classes it.
func TestMethodTable(t *testing.T) {
	var doc resource
	if err := json.Unmarshal(discovery.Document(), &doc); err != nil {
		t.Fatal(err)
	}
	table := map[string]bigquery.Method{}
	for _, m := range bigquery.Methods() {
		if _, twice := table[m.ID]; twice {
			t.Errorf("%s stands twice", m.ID)
		}
		table[m.ID] = m
		if len(m.Classes) == 0 && m.ID != "bigquery.jobs.insert" && m.ID != "bigquery.jobs.query" {
			t.Errorf("%s has no class", m.ID)
		}
	}
	braces := regexp.MustCompile(`\{[^}]*\}`)
	seen := 0
	var walk func(resource)
	walk = func(r resource) {
		for _, m := range r.Methods {
			seen++
			have, ok := table[m.ID]
			if !ok {
				t.Errorf("%s (%s %s) is not in the table: class it", m.ID, m.HTTPMethod, m.FlatPath)
				continue
			}
			path := m.FlatPath
			if path == "" {
				path = m.Path
			}
			if got, want := braces.ReplaceAllString(have.Template, "{}"), braces.ReplaceAllString(path, "{}"); got != want || have.Verb != m.HTTPMethod {
				t.Errorf("%s is %s %s, the document says %s %s", m.ID, have.Verb, got, m.HTTPMethod, want)
			}
			if have.Schema != m.Request.Ref {
				t.Errorf("%s takes %q, the document says %q", m.ID, have.Schema, m.Request.Ref)
			}
			var query []string
			for name, p := range m.Parameters {
				if p.Location == "query" {
					query = append(query, name)
				}
			}
			slices.Sort(query)
			mine := slices.Sorted(slices.Values(have.Query))
			if !slices.Equal(query, mine) {
				t.Errorf("%s has query parameters %v, the document says %v", m.ID, mine, query)
			}
			delete(table, m.ID)
		}
		for _, sub := range r.Resources {
			walk(sub)
		}
	}
	walk(doc)
	var left []string
	for id := range table {
		left = append(left, id)
	}
	slices.Sort(left)
	if want := []string{"bigquery.datasets.getIamPolicy", "bigquery.datasets.setIamPolicy", "bigquery.datasets.testIamPermissions"}; !slices.Equal(left, want) || seen < 47 {
		t.Errorf("%d methods in the document; only in the table: %v", seen, left)
	}
}

// TestEveryMethodIsRouted builds a request for each and expects itself.
func TestEveryMethodIsRouted(t *testing.T) {
	ids := strings.NewReplacer("{projectId}", "my-project", "{datasetId}", "ds", "{tableId}", "t$20260101", "{jobId}", "job_1", "{routineId}", "r", "{modelId}", "m", "{policyId}", "p")
	for _, m := range bigquery.Methods() {
		c, err := bigquery.Route(bigquery.Request{Verb: m.Verb, EscapedPath: "/bigquery/v2/" + ids.Replace(m.Template)})
		if err != nil || c.Method != m.ID || c.HasBody != (m.Schema != "") {
			t.Errorf("%s: %+v, %v", m.ID, c, err)
		}
	}
}

func TestRoute(t *testing.T) {
	for _, tt := range []struct {
		verb, path, query string
		method            string // "": refused
	}{
		{"GET", "/bigquery/v2/projects/p/datasets", "alt=json&maxResults=50&prettyPrint=false", "bigquery.datasets.list"},
		{"GET", "/bigquery/v2/projects/example.com:p/datasets", "", "bigquery.datasets.list"},
		{"GET", "/bigquery/v2/projects/p/datasets/d/tables/t%20x", "", "bigquery.tables.get"},
		{"POST", "/bigquery/v2/projects/p/datasets/d:getIamPolicy", "", "bigquery.datasets.getIamPolicy"},
		{"POST", "/upload/bigquery/v2/projects/p/jobs", "uploadType=resumable", "bigquery.jobs.insert"},
		{"POST", "/upload/bigquery/v2/projects/p/jobs", "uploadType=multipart", "bigquery.jobs.insert"},
		{"PUT", "/upload/bigquery/v2/projects/p/jobs", "uploadType=resumable&upload_id=x", "bigquery.jobs.insert"},
		{"PUT", "/resumable/upload/bigquery/v2/projects/p/jobs", "uploadType=resumable&upload_id=x", "bigquery.jobs.insert"},
		{"GET", "/$discovery/rest", "version=v2", bigquery.MethodDiscovery},
		{"GET", "/discovery/v1/apis/bigquery/v2/rest", "", bigquery.MethodDiscovery},
		{"GET", "/bigquery/v2/projects/p/queries/j", "location=EU&maxResults=10&$.xgafv=1", "bigquery.jobs.getQueryResults"},

		{"GET", "/", "", ""},
		{"GET", "/bigquery/v2", "", ""},
		{"GET", "/bigquery/v2/", "", ""},
		{"GET", "/bigquery/v1/projects/p/datasets", "", ""},
		{"GET", "/bigquery/v2/projects/p/datasets/", "", ""},
		{"GET", "/bigquery/v2//projects/p/datasets", "", ""},
		{"GET", "//bigquery/v2/projects/p/datasets", "", ""},
		{"GET", "/bigquery/v2/projects/p/./datasets", "", ""},
		{"GET", "/bigquery/v2/projects/p/../p/datasets", "", ""},
		{"GET", "/bigquery/v2/projects/p/%2e%2e/p/datasets", "", ""},
		{"GET", "/bigquery/v2/projects/p%2Fdatasets", "", ""},
		{"GET", "/bigquery/v2/projects/p/datasets/d%252F", "", ""},
		{"GET", "/bigquery/v2/projects/p/datasets/d%00", "", ""},
		{"GET", "/bigquery/v2/projects/p/datasets/d%ff", "", ""},
		{"GET", "/bigquery/v2/projects/p/datasets/d%zz", "", ""},
		{"GET", "/bigquery/v2/projects/p/datasets/d;x=1", "", ""},
		{"GET", "/bigquery/v2/projects/p/datasets/d.", "", ""},
		{"GET", "/bigquery/v2/Projects/p/datasets", "", ""},
		{"GET", "/BigQuery/v2/projects/p/datasets", "", ""},
		{"get", "/bigquery/v2/projects/p/datasets", "", ""},
		{"TRACE", "/bigquery/v2/projects/p/datasets", "", ""},
		{"HEAD", "/bigquery/v2/projects/p/datasets", "", ""},
		{"POST", "/batch/bigquery/v2", "", ""},
		{"POST", "/batch", "", ""},
		{"POST", "/bigquery/v2/projects/p/datasets/d/tables/t:drop", "", ""},
		{"GET", "/bigquery/v2/projects/p/datasets/d/tables/t:getIamPolicy", "", ""},
		{"POST", "/upload/bigquery/v2/projects/p/datasets", "uploadType=multipart", ""},
		{"POST", "/upload/bigquery/v2/projects/p/jobs", "", ""},
		{"POST", "/upload/bigquery/v2/projects/p/jobs", "uploadType=media", ""},
		{"PUT", "/upload/bigquery/v2/projects/p/jobs", "uploadType=resumable", ""},
		{"POST", "/upload/bigquery/v2/projects/p/jobs", "uploadType=multipart&upload_protocol=resumable", ""},
		{"POST", "/bigquery/v2/projects/p/jobs", "uploadType=multipart", ""},
		{"GET", "/$discovery/rest", "version=v1", ""},
		{"GET", "/$discovery/rest", "", ""},
		{"POST", "/$discovery/rest", "version=v2", ""},
		{"GET", "/bigquery/v2/projects/p/datasets", "access_token=x", ""},
		{"GET", "/bigquery/v2/projects/p/datasets", "ACCESS_TOKEN=x", ""},
		{"GET", "/bigquery/v2/projects/p/datasets", "access%5Ftoken=x", ""},
		{"GET", "/bigquery/v2/projects/p/datasets", "oauth_token=x", ""},
		{"GET", "/bigquery/v2/projects/p/datasets", "key=x", ""},
		{"GET", "/bigquery/v2/projects/p/datasets", "callback=x", ""},
		{"GET", "/bigquery/v2/projects/p/datasets", "alt=media", ""},
		{"GET", "/bigquery/v2/projects/p/datasets", "alt=json&alt=media", ""},
		{"GET", "/bigquery/v2/projects/p/datasets", "nonsense=1", ""},
		{"GET", "/bigquery/v2/projects/p/datasets", "filter=%zz", ""},
		{"GET", "/bigquery/v2/projects/p/datasets/" + strings.Repeat("d", 5000), "", ""},
	} {
		c, err := bigquery.Route(bigquery.Request{Verb: tt.verb, EscapedPath: tt.path, RawQuery: tt.query})
		switch {
		case tt.method == "" && err == nil:
			t.Errorf("%s %s?%s was taken for %s", tt.verb, tt.path, tt.query, c.Method)
		case tt.method != "" && (err != nil || c.Method != tt.method):
			t.Errorf("%s %s?%s: %s, %v", tt.verb, tt.path, tt.query, c.Method, err)
		case err != nil && (err.Status < 400 || err.Message == "" || err.Reason == ""):
			t.Errorf("%s %s?%s: poor error %+v", tt.verb, tt.path, tt.query, err)
		case err == nil && strings.Contains(c.Path, "xgafv"):
			t.Errorf("%s is forwarded", c.Path)
		}
	}
}

func TestOverride(t *testing.T) {
	form := http.Header{"X-Http-Method-Override": {"GET"}, "Content-Type": {"application/x-www-form-urlencoded"}}
	c, err := bigquery.Route(bigquery.Request{Verb: "POST", EscapedPath: "/bigquery/v2/projects/p/datasets", Header: form})
	if err != nil || !c.FormOverride || c.Verb != "GET" {
		t.Fatalf("%+v %v", c, err)
	}
	if err := c.ReadForm([]byte("filter=labels.x&maxResults=5")); err != nil || c.Path != "/bigquery/v2/projects/p/datasets?filter=labels.x&maxResults=5" {
		t.Errorf("%s %v", c.Path, err)
	}
	c, _ = bigquery.Route(bigquery.Request{Verb: "POST", EscapedPath: "/bigquery/v2/projects/p/datasets", Header: form})
	if err := c.ReadForm([]byte("access_token=x")); err == nil {
		t.Error("a token in the form was accepted")
	}
	for _, h := range []http.Header{
		{"X-Http-Method-Override": {"DELETE"}, "Content-Type": form["Content-Type"]},
		{"X-Http-Method-Override": {"GET"}, "Content-Type": {"application/json"}},
		{"X-Http-Method-Override": {"", "DELETE"}, "Content-Type": form["Content-Type"]},
		{"X-Http-Method-Override": {"GET", "GET"}, "Content-Type": form["Content-Type"]},
		{"X-Http-Method-Override": {"get"}, "Content-Type": form["Content-Type"]},
	} {
		if _, err := bigquery.Route(bigquery.Request{Verb: "POST", EscapedPath: "/bigquery/v2/projects/p/datasets", Header: h}); err == nil {
			t.Errorf("%v was accepted", h)
		}
	}
	if _, err := bigquery.Route(bigquery.Request{Verb: "GET", EscapedPath: "/bigquery/v2/projects/p/datasets", Header: form}); err == nil {
		t.Error("an override on a GET was accepted")
	}
}

func TestErrorJSON(t *testing.T) {
	e := &bigquery.Error{Status: 403, Reason: "accessDenied", Message: `no "way" <here>`}
	var got struct {
		Error struct {
			Code            int
			Message, Status string
			Errors          []struct{ Message, Domain, Reason string }
		}
	}
	if err := json.Unmarshal(e.JSON(), &got); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != `{{403 no "way" <here> PERMISSION_DENIED [{no "way" <here> global accessDenied}]}}` {
		t.Errorf("%+v", got)
	}
}

func route(t testing.TB, verb, path string) *bigquery.Call {
	t.Helper()
	verb, query := verb, ""
	path, query, _ = strings.Cut(path, "?")
	c, err := bigquery.Route(bigquery.Request{Verb: verb, EscapedPath: "/bigquery/v2/" + path, RawQuery: query})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func FuzzRoute(f *testing.F) {
	f.Add("GET", "/bigquery/v2/projects/p/datasets", "alt=json")
	f.Add("POST", "/upload/bigquery/v2/projects/p/jobs", "uploadType=resumable&upload_id=%41")
	f.Add("GET", "/bigquery/v2/projects/p/datasets/%2e%2e", "")
	f.Fuzz(func(t *testing.T, verb, path, query string) {
		c, err := bigquery.Route(bigquery.Request{Verb: verb, EscapedPath: path, RawQuery: query})
		if err != nil {
			return
		}
		if c.Class == "" || c.Class == trailgate.ClassUnknown && !c.CreatesJob {
			t.Errorf("%s has no class", c.Method)
		}
		// What is forwarded is routed as what was judged.
		p, q, _ := strings.Cut(c.Path, "?")
		again, err := bigquery.Route(bigquery.Request{Verb: c.Verb, EscapedPath: p, RawQuery: q})
		if err != nil || again.Method != c.Method || again.Path != c.Path || again.Project != c.Project || again.Table != c.Table {
			t.Errorf("%q %q is forwarded as %q, which is %+v %v", path, query, c.Path, again, err)
		}
	})
}
