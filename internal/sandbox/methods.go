package sandbox

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/trailgate/trailgate/internal/discovery"
)

// method is one method of the API, as the discovery document describes it.
type method struct {
	id       string // "bigquery.jobs.insert"
	verb     string
	segments []string // of the path below servicePath; "{name}" for a parameter
	suffix   string   // of the last segment, such as ":getIamPolicy"
	query    map[string]bool
	body     string // name of the request's schema; "" for none
	handle   func(*Sandbox, *call) (answer, error)
}

// schema is as much of a JSON schema as requests are checked by.
type schema struct {
	Type                 string             `json:"type"`
	Ref                  string             `json:"$ref"`
	Format               string             `json:"format"`
	Properties           map[string]*schema `json:"properties"`
	AdditionalProperties *schema            `json:"additionalProperties"`
	Items                *schema            `json:"items"`
}

// pathNames maps the document's flat path parameters to their plain names.
var pathNames = map[string]string{
	"{projectsId}": "{projectId}", "{datasetsId}": "{datasetId}", "{tablesId}": "{tableId}", "{jobsId}": "{jobId}", "{queriesId}": "{jobId}",
	"{modelsId}": "{modelId}", "{routinesId}": "{routineId}", "{rowAccessPoliciesId}": "{policyId}",
}

const servicePath = "/bigquery/v2/"

// loadMethods reads the discovery document and puts a handler to each method.
func loadMethods() ([]*method, map[string]*schema, error) {
	type discoMethod struct {
		ID       string `json:"id"`
		Verb     string `json:"httpMethod"`
		Path     string `json:"path"`
		FlatPath string `json:"flatPath"`
		Request  struct {
			Ref string `json:"$ref"`
		} `json:"request"`
		Parameters map[string]struct {
			Location string `json:"location"`
		} `json:"parameters"`
	}
	var doc struct {
		Parameters map[string]any     `json:"parameters"`
		Schemas    map[string]*schema `json:"schemas"`
		Resources  map[string]struct {
			Methods map[string]discoMethod `json:"methods"`
		} `json:"resources"`
	}
	if err := json.Unmarshal(discovery.Document(), &doc); err != nil {
		return nil, nil, fmt.Errorf("read the discovery document: %w", err)
	}
	// The document says string; BigQuery takes numbers and booleans as well, and
	// its Node client sends them.
	if v := doc.Schemas["QueryParameterValue"]; v != nil {
		v.Properties["value"] = &schema{Type: "any"}
	}
	var all []*method
	add := func(d discoMethod) {
		path := d.FlatPath
		if path == "" {
			path = d.Path
		}
		m := &method{id: d.ID, verb: d.Verb, body: d.Request.Ref, query: map[string]bool{}, handle: handlers[d.ID]}
		m.segments = strings.Split(path, "/")
		last := len(m.segments) - 1
		if i := strings.LastIndexByte(m.segments[last], ':'); i >= 0 {
			m.segments[last], m.suffix = m.segments[last][:i], m.segments[last][i:]
		}
		for i, s := range m.segments {
			if name, ok := pathNames[s]; ok {
				m.segments[i] = name
			}
		}
		for name, p := range d.Parameters {
			if p.Location == "query" {
				m.query[name] = true
			}
		}
		for name := range doc.Parameters {
			m.query[name] = true
		}
		all = append(all, m)
	}
	for _, r := range doc.Resources {
		for _, d := range r.Methods {
			add(d)
		}
	}
	// Three methods that bq calls and the public document leaves out.
	for _, verb := range []string{"getIamPolicy", "setIamPolicy", "testIamPermissions"} {
		d := discoMethod{ID: "bigquery.datasets." + verb, Verb: http.MethodPost, Path: "projects/{projectsId}/datasets/{datasetsId}:" + verb}
		d.Request.Ref = strings.ToUpper(verb[:1]) + verb[1:] + "Request"
		add(d)
	}
	slices.SortFunc(all, func(a, b *method) int { return strings.Compare(a.id, b.id) })
	for id := range handlers {
		if !slices.ContainsFunc(all, func(m *method) bool { return m.id == id }) {
			return nil, nil, fmt.Errorf("the discovery document has no method %s", id)
		}
	}
	return all, doc.Schemas, nil
}

// match finds the method that a verb and an escaped path below servicePath
// mean, and the parameters in the path.
func match(methods []*method, verb, path string) (*method, map[string]string, *apiError) {
	parts := strings.Split(path, "/")
	pathKnown := false
	for _, m := range methods {
		if len(m.segments) != len(parts) {
			continue
		}
		params, ok := m.bind(parts)
		if !ok {
			continue
		}
		pathKnown = true
		if m.verb == verb {
			return m, params, nil
		}
	}
	if pathKnown {
		return nil, nil, &apiError{status: http.StatusMethodNotAllowed, reason: "httpMethodNotAllowed", message: "The HTTP method " + verb + " is not allowed here"}
	}
	return nil, nil, &apiError{status: http.StatusNotFound, reason: "notFound", message: "The requested URL was not found on this server."}
}

func (m *method) bind(parts []string) (map[string]string, bool) {
	params := map[string]string{}
	for i, want := range m.segments {
		got := parts[i]
		if i == len(m.segments)-1 && m.suffix != "" {
			var ok bool
			if got, ok = strings.CutSuffix(got, m.suffix); !ok {
				return nil, false
			}
		}
		if !strings.HasPrefix(want, "{") {
			if got != want {
				return nil, false
			}
			continue
		}
		v, err := url.PathUnescape(got)
		// The last part of a path without a verb must not hold one, save where it
		// may be a project's domain ("example.com:project").
		if err != nil || v == "" || want != "{projectId}" && strings.ContainsAny(v, ":/") {
			return nil, false
		}
		params[strings.Trim(want, "{}")] = v
	}
	return params, true
}

// checkQuery refuses query parameters that the method does not have.
func (m *method) checkQuery(q url.Values) *apiError {
	for name, values := range q {
		switch {
		case name == "upload_id":
			continue
		case !m.query[name]:
			return fail("invalid", "Invalid JSON payload received. Unknown name %q: Cannot bind query parameter. Field '%s' could not be found in request message.", name, name)
		case name == "alt" && values[0] != "json" && values[0] != "":
			return unsupported("alt=%s", values[0])
		case name == "callback":
			return unsupported("JSONP")
		case name == "access_token", name == "oauth_token", name == "key":
			return unsupported("credentials in the query: send an Authorization header")
		}
	}
	return nil
}

// check holds a value to a schema, as Google's front end does: unknown names
// and wrong types are errors.
func (s *schema) check(schemas map[string]*schema, v any, at string) *apiError {
	if v == nil {
		return nil
	}
	if s.Ref != "" {
		if s = schemas[s.Ref]; s == nil {
			return nil
		}
	}
	bad := func(want string) *apiError {
		return fail("invalid", "Invalid value at '%s' (%s), %v", at, want, v)
	}
	switch s.Type {
	case "object":
		o, ok := v.(object)
		if !ok {
			return bad("object")
		}
		for name, e := range o {
			below := s.Properties[name]
			if below == nil {
				below = s.AdditionalProperties
			}
			if below == nil && s.Properties != nil {
				where := ""
				if at != "" {
					where = " at '" + at + "'"
				}
				return fail("invalid", "Invalid JSON payload received. Unknown name %q%s: Cannot find field.", name, where)
			}
			if below == nil {
				continue
			}
			inner := name
			if at != "" {
				inner = at + "." + name
			}
			if err := below.check(schemas, e, inner); err != nil {
				return err
			}
		}
	case "array":
		l, ok := v.([]any)
		if !ok {
			return bad("array")
		}
		for i, e := range l {
			if s.Items == nil {
				break
			}
			if err := s.Items.check(schemas, e, at+"["+strconv.Itoa(i)+"]"); err != nil {
				return err
			}
		}
	case "boolean":
		switch b := v.(type) {
		case bool:
		case string:
			if b != "true" && b != "false" {
				return bad("TYPE_BOOL")
			}
		default:
			return bad("TYPE_BOOL")
		}
	case "integer", "number":
		switch n := v.(type) {
		case json.Number:
		case string:
			if _, err := strconv.ParseFloat(n, 64); err != nil {
				return bad("TYPE_INT64")
			}
		default:
			return bad("TYPE_INT64")
		}
	case "string":
		switch v.(type) {
		case string:
		case json.Number: // of an int64 in string form
			if s.Format == "" {
				return bad("TYPE_STRING")
			}
		default:
			return bad("TYPE_STRING")
		}
	}
	return nil
}
