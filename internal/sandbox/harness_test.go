package sandbox_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/trailgate/trailgate/internal/sandbox"
)

type object = map[string]any

// client speaks to a sandbox as a BigQuery client would, without a network.
type client struct {
	t      testing.TB
	s      *sandbox.Sandbox
	token  string
	header http.Header
}

const base = "/bigquery/v2/projects/demo-project"

func newClient(t testing.TB, cfg sandbox.Config) *client {
	t.Helper()
	s, err := sandbox.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return &client{t: t, s: s, header: http.Header{}}
}

// seeded is a client of a sandbox with the demo's data.
func seeded(t testing.TB) *client {
	t.Helper()
	c := newClient(t, sandbox.Config{})
	if err := c.s.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// raw sends a request and gives the answer as it is.
func (c *client) raw(verb, path, contentType string, body []byte) *httptest.ResponseRecorder {
	c.t.Helper()
	r := httptest.NewRequest(verb, path, bytes.NewReader(body))
	r.Host = "bigquery.test"
	for k, v := range c.header {
		r.Header[k] = v
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	w := httptest.NewRecorder()
	c.s.ServeHTTP(w, r)
	return w
}

// do sends JSON and decodes the answer.
func (c *client) do(verb, path string, body any) (int, object) {
	c.t.Helper()
	var raw []byte
	contentType := ""
	switch b := body.(type) {
	case nil:
	case string:
		raw, contentType = []byte(b), "application/json"
	default:
		var err error
		if raw, err = json.Marshal(b); err != nil {
			c.t.Fatal(err)
		}
		contentType = "application/json"
	}
	w := c.raw(verb, path, contentType, raw)
	o := object{}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &o); err != nil {
			c.t.Fatalf("%s %s: %v\n%s", verb, path, err, w.Body)
		}
	}
	return w.Code, o
}

// ok is do for what must succeed.
func (c *client) ok(verb, path string, body any) object {
	c.t.Helper()
	code, o := c.do(verb, path, body)
	if code >= 300 {
		c.t.Fatalf("%s %s: %d %s", verb, path, code, at(o, "error.message"))
	}
	return o
}

// fails is do for what must be refused, with the status and reason.
func (c *client) fails(verb, path string, body any, status int, reason string) string {
	c.t.Helper()
	code, o := c.do(verb, path, body)
	got := at(o, "error.errors.0.reason")
	if code != status || got != reason {
		c.t.Fatalf("%s %s: got %d %s (%s), want %d %s", verb, path, code, got, at(o, "error.message"), status, reason)
	}
	if at(o, "error.code") != fmt.Sprint(status) || at(o, "error.message") == "" || at(o, "error.errors.0.message") != at(o, "error.message") {
		c.t.Errorf("%s %s: not in BigQuery's shape: %v", verb, path, o)
	}
	return at(o, "error.message")
}

// query runs standard SQL through jobs.query.
func (c *client) query(sql string) object {
	c.t.Helper()
	return c.ok("POST", base+"/queries", object{"query": sql, "useLegacySql": false})
}

// insert runs standard SQL through jobs.insert.
func (c *client) insert(sql string, more object) object {
	c.t.Helper()
	return c.ok("POST", base+"/jobs", queryBody(sql, more))
}

// queryBody is the body of a jobs.insert; more is merged into it.
func queryBody(sql string, more object) object {
	body := object{"configuration": object{"query": object{"query": sql, "useLegacySql": false}}, "jobReference": object{"projectId": "demo-project"}}
	merge(body, more)
	return body
}

func merge(into, from object) {
	for k, v := range from {
		if o, ok := v.(object); ok {
			if old, ok := into[k].(object); ok {
				merge(old, o)
				continue
			}
		}
		into[k] = v
	}
}

// at gives what a path like "status.errors.0.reason" leads to, as text; ""
// where it leads nowhere.
func at(v any, path string) string {
	for p := range strings.SplitSeq(path, ".") {
		switch e := v.(type) {
		case object:
			v = e[p]
		case []any:
			var i int
			if _, err := fmt.Sscan(p, &i); err != nil || i >= len(e) {
				return ""
			}
			v = e[i]
		default:
			return ""
		}
	}
	switch e := v.(type) {
	case nil:
		return ""
	case string:
		return e
	case float64, bool:
		return fmt.Sprint(e)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// rows gives the rows of an answer as text: columns joined by "|", NULL as "∅".
func rows(o object) []string {
	var out []string
	list, _ := o["rows"].([]any)
	for _, r := range list {
		var cells []string
		fields, _ := r.(object)["f"].([]any)
		for _, f := range fields {
			if f.(object)["v"] == nil {
				cells = append(cells, "∅")
			} else {
				cells = append(cells, at(f, "v"))
			}
		}
		out = append(out, strings.Join(cells, "|"))
	}
	return out
}

// types gives the columns of an answer: "name:TYPE,name:TYPE".
func types(o object) string {
	var out []string
	schema, _ := o["schema"].(object)
	list, _ := schema["fields"].([]any)
	for _, f := range list {
		s := at(f, "name") + ":" + at(f, "type")
		if at(f, "mode") == "REPEATED" {
			s += "[]"
		}
		out = append(out, s)
	}
	return strings.Join(out, ",")
}
