package bigquery

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/trailgate/trailgate"
)

// MethodDiscovery is the discovery document's own method, which is no method of
// BigQuery's.
const MethodDiscovery = "discovery.apis.getRest"

const (
	maxPathBytes  = 4 << 10
	maxQueryBytes = 16 << 10
	maxParams     = 64
)

// Upload is how a request takes part in a media upload.
type Upload int

// The ways of uploading.
const (
	UploadNone           Upload = iota
	UploadMultipart             // metadata and media in one request
	UploadResumableStart        // metadata; media follows in chunks
	UploadResumableChunk        // media, a status query, or a cancellation
)

// Request is what Route looks at.
type Request struct {
	Verb        string
	EscapedPath string
	RawQuery    string
	Header      http.Header // only X-HTTP-Method-Override and Content-Type are consulted
}

// Call is a request as far as it has been read.
type Call struct {
	Method  string
	Class   trailgate.Class   // the gravest of Classes
	Classes []trailgate.Class // gravest first
	Verb    string            // effective HTTP method
	Path    string            // escaped path and query to forward, re-encoded from what was read

	Project, Dataset, Table, Routine, Location string
	// Job is the job that the call makes or names; nil where it has none yet.
	Job           *trailgate.Job
	Statements    []Statement
	StatementType string // BigQuery's names, "SCRIPT", "UNKNOWN"; "" where there is no SQL
	// Read and Written are tables as "project.dataset.table"; Destinations what
	// data goes to or comes from outside of tables.
	Read, Written, Destinations []string
	DryRun                      bool
	RequestID                   string
	Labels, DroppedLabels       map[string]string
	Upload                      Upload
	UploadID                    string
	CreatesJob                  bool
	HasBody                     bool // a JSON body is to be given to ReadBody
	FormOverride                bool // the query came as a form body, to be given to ReadForm
	Flags                       []string

	method *Method
	vars   map[string]string
	path   string // without the query
	tree   *node
}

// Statement is SQL, or a routine's code, inside a call.
type Statement struct {
	Where      string // JSON path
	Text       string
	Dialect    string // "googlesql", "legacy", or a routine's language in lower case
	Parameters string // the queryParameters, JSON
}

// door is a path prefix at which methods are served.
type door struct {
	prefix string
	upload bool
}

var doors = []door{
	{"/bigquery/v2/", false},
	{"/upload/bigquery/v2/", true},
	{"/resumable/upload/bigquery/v2/", true},
}

// Route reads a request line. The call is returned, as far as it was
// understood, with an error too.
func Route(req Request) (*Call, *Error) {
	call := &Call{Verb: req.Verb, Class: trailgate.ClassUnknown}
	if len(req.EscapedPath) > maxPathBytes || len(req.RawQuery) > maxQueryBytes {
		return call, &Error{Status: http.StatusRequestURITooLong, Reason: "invalid", Message: "Trailgate: the request target is too long"}
	}
	if err := call.override(req); err != nil {
		return call, err
	}
	if req.EscapedPath == "/$discovery/rest" || req.EscapedPath == "/discovery/v1/apis/bigquery/v2/rest" {
		return call, call.discovery(req)
	}
	if strings.HasPrefix(req.EscapedPath, "/batch") {
		return call, notFound("batch requests are not served: send the calls one by one")
	}
	var at *door
	for i := range doors {
		if strings.HasPrefix(req.EscapedPath, doors[i].prefix) {
			at = &doors[i]
		}
	}
	if at == nil {
		return call, notFound("no BigQuery method is served at this path; the API's base path is /bigquery/v2/")
	}
	segments, err := splitPath(strings.TrimPrefix(req.EscapedPath, at.prefix))
	if err != nil {
		return call, err
	}
	verb := call.Verb
	if at.upload && verb == http.MethodPut {
		verb = http.MethodPost // a chunk of what a POST began
	}
	m, vars, known := match(verb, segments)
	switch {
	case m == nil && known:
		return call, &Error{Status: http.StatusMethodNotAllowed, Reason: "httpMethodNotAllowed", Message: "Trailgate: no BigQuery method has this HTTP method at this path"}
	case m == nil:
		return call, notFound("no BigQuery method that is known is served at this path, so the call cannot be judged")
	case at.upload && m.ID != "bigquery.jobs.insert":
		return call, notFound("uploads are for jobs.insert alone")
	}
	call.use(m, vars)
	call.path = at.prefix + joinPath(segments)
	call.HasBody = m.Schema != ""
	if call.FormOverride {
		call.Path = call.path
		if req.RawQuery != "" {
			return call, invalid("a query in the body and one in the address are one too many")
		}
		return call, nil
	}
	return call, call.readQuery(req.RawQuery, at.upload)
}

// override applies X-HTTP-Method-Override as clients use it: a GET whose query
// is too long for an address comes as a POST with the query as its form body.
func (c *Call) override(req Request) *Error {
	all := req.Header.Values("X-HTTP-Method-Override")
	if len(all) == 0 {
		return nil
	}
	o := strings.Join(all, ",")
	ct, _, _ := strings.Cut(req.Header.Get("Content-Type"), ";")
	if req.Verb != http.MethodPost || o != http.MethodGet || strings.TrimSpace(ct) != "application/x-www-form-urlencoded" {
		return invalid("X-HTTP-Method-Override may only turn a form POST into a GET")
	}
	c.Verb, c.FormOverride = http.MethodGet, true
	return nil
}

func (c *Call) discovery(req Request) *Error {
	c.Method, c.Class, c.Classes = MethodDiscovery, trailgate.ClassMetadataRead, does(classMeta)
	c.Path = req.EscapedPath
	query, err := url.ParseQuery(req.RawQuery)
	switch {
	case c.Verb != http.MethodGet || c.FormOverride:
		return &Error{Status: http.StatusMethodNotAllowed, Reason: "httpMethodNotAllowed", Message: "Trailgate: the discovery document is only to be read"}
	case err != nil:
		return invalid("the query cannot be read")
	case strings.HasPrefix(req.EscapedPath, "/$") && query.Get("version") != "v2":
		return notFound("only BigQuery v2 is served here; reservations, connections and transfers are services of their own, which this gateway does not record")
	}
	if strings.HasPrefix(req.EscapedPath, "/$") {
		c.Path += "?version=v2"
	}
	return nil
}

func (c *Call) use(m *Method, vars map[string]string) {
	c.method, c.vars, c.Method = m, vars, m.ID
	c.Project, c.Dataset, c.Table, c.Routine = vars["{projectId}"], vars["{datasetId}"], vars["{tableId}"], vars["{routineId}"]
	c.classed(m.Classes...)
	if job := vars["{jobId}"]; job != "" {
		c.Job = &trailgate.Job{Project: c.Project, ID: job}
	}
	if c.Table != "" {
		name := tableName(c.Project, c.Dataset, c.Table)
		switch {
		case slices.Contains(m.Classes, classWrite), slices.Contains(m.Classes, trailgate.ClassMetadataChange), slices.Contains(m.Classes, classAccess):
			c.Written = append(c.Written, name)
		default: // rows, or what is known of the table
			c.Read = append(c.Read, name)
		}
	}
	switch m.ID {
	case "bigquery.jobs.insert", "bigquery.jobs.query":
		c.CreatesJob = true
	}
}

// classed adds classes and keeps the gravest first.
func (c *Call) classed(classes ...trailgate.Class) {
	for _, k := range classes {
		if !slices.Contains(c.Classes, k) {
			c.Classes = append(c.Classes, k)
		}
	}
	slices.SortStableFunc(c.Classes, func(a, b trailgate.Class) int { return b.Gravity() - a.Gravity() })
	if len(c.Classes) > 0 {
		c.Class = c.Classes[0]
	}
}

func (c *Call) flag(f string) {
	if !slices.Contains(c.Flags, f) {
		c.Flags = append(c.Flags, f)
	}
}

// splitPath decodes a path's segments. Each byte has one way of being written:
// a segment that decodes to what another path could say is refused.
func splitPath(escaped string) ([]string, *Error) {
	raw := strings.Split(escaped, "/")
	out := make([]string, len(raw))
	for i, s := range raw {
		dec, err := url.PathUnescape(s)
		switch {
		case err != nil || !utf8.ValidString(dec):
			return nil, invalid("the path is not validly escaped")
		case dec == "":
			return nil, invalid("the path has an empty segment")
		case dec == "." || dec == "..":
			return nil, invalid("the path has a dot segment")
		case strings.ContainsAny(dec, "/\\%?#;"):
			return nil, invalid("the path has an escaped separator")
		case strings.ContainsFunc(dec, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return nil, invalid("the path has a control character")
		}
		out[i] = dec
	}
	return out, nil
}

func joinPath(segments []string) string {
	out := make([]string, len(segments))
	for i, s := range segments {
		// PathEscape leaves ":" and "$" as they are, which is how clients send
		// them in project ids, verbs and decorators.
		out[i] = url.PathEscape(s)
	}
	return strings.Join(out, "/")
}

// validID holds an id to what BigQuery accepts, generously: what it refuses
// itself does no harm, what two parsers read differently does.
func validID(slot, s string) bool {
	if s == "" || len(s) > 1024 {
		return false
	}
	switch slot {
	case "{projectId}":
		// "example.com:my-project" has a domain in front.
		return !strings.ContainsFunc(s, func(c rune) bool {
			return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == ':' || c >= 'A' && c <= 'Z' || c == '_')
		})
	case "{jobId}", "{datasetId}":
		return !strings.ContainsFunc(s, func(c rune) bool {
			return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
		})
	default:
		// Table ids are Unicode letters, marks, numbers, connectors, dashes and
		// spaces, with decorators ($20260101, @-3600000).
		return true
	}
}

// harmful parameters carry credentials, or change the answer's form so that it
// cannot be read.
var harmful = map[string]string{
	"access_token": "credentials belong in the Authorization header",
	"oauth_token":  "credentials belong in the Authorization header",
	"bearer_token": "credentials belong in the Authorization header",
	"key":          "API keys are not used here",
	"callback":     "JSONP is not served",
}

var common = []string{"alt", "fields", "prettyPrint", "quotaUser", "userIp", "$.xgafv", "uploadType", "upload_protocol", "upload_id"}

// readQuery reads the query parameters and encodes again what may pass.
func (c *Call) readQuery(raw string, upload bool) *Error {
	var kept []string
	seen := map[string]bool{}
	get := map[string]string{}
	if raw != "" {
		pairs := strings.Split(raw, "&")
		if len(pairs) > maxParams {
			return invalid("more than %d query parameters", maxParams)
		}
		for _, pair := range pairs {
			if pair == "" {
				continue
			}
			name, value, _ := strings.Cut(pair, "=")
			name, err1 := url.QueryUnescape(name)
			value, err2 := url.QueryUnescape(value)
			if err1 != nil || err2 != nil || !utf8.ValidString(name+value) {
				return invalid("the query is not validly escaped")
			}
			if why, bad := harmful[strings.ToLower(name)]; bad {
				return invalid("the query parameter %q is refused: %s", strings.ToLower(name), why)
			}
			if !slices.Contains(common, name) && !slices.Contains(c.method.Query, name) {
				return invalid("the query parameter %q is not known for %s", clip(name, 64), c.Method)
			}
			if seen[name] {
				return invalid("the query parameter %q stands twice", name)
			}
			seen[name], get[name] = true, value
			if name == "$.xgafv" {
				continue // the error format, which must stay the one that clients and capture know
			}
			if name == "fields" {
				value = c.widen(value)
			}
			kept = append(kept, url.QueryEscape(name)+"="+url.QueryEscape(value))
		}
	}
	if alt := get["alt"]; alt != "" && alt != "json" {
		return invalid("alt=%s is refused: answers must be JSON to be recorded", clip(alt, 32))
	}
	c.Location = get["location"]
	if c.Job != nil && c.Job.ID != "" {
		c.Job.Location = c.Location
	}
	c.Path = c.path
	if len(kept) > 0 {
		c.Path += "?" + strings.Join(kept, "&")
	}
	if c.Method == "bigquery.jobs.list" && get["allUsers"] == "true" {
		c.flag("all_users")
	}
	return c.readUpload(get, upload)
}

func (c *Call) readUpload(get map[string]string, upload bool) *Error {
	kind := get["uploadType"]
	if p := get["upload_protocol"]; p != "" {
		if kind != "" && kind != p {
			return invalid("uploadType and upload_protocol disagree")
		}
		kind = p
	}
	if !upload {
		if kind != "" || get["upload_id"] != "" {
			return invalid("uploads are served under /upload/bigquery/v2/")
		}
		return nil
	}
	c.UploadID = get["upload_id"]
	switch {
	case kind == "multipart" && c.Verb == http.MethodPost && c.UploadID == "":
		c.Upload = UploadMultipart
	case kind == "resumable" && c.Verb == http.MethodPost && c.UploadID == "":
		c.Upload = UploadResumableStart
	case kind == "resumable" && c.UploadID != "" && (c.Verb == http.MethodPut || c.Verb == http.MethodPost):
		c.Upload, c.HasBody, c.CreatesJob = UploadResumableChunk, false, false
		c.classed(classWrite)
	default:
		return invalid("an upload must be uploadType=multipart or uploadType=resumable")
	}
	return nil
}

// ReadForm reads the query that came as a form body.
func (c *Call) ReadForm(form []byte) *Error {
	if len(form) > maxQueryBytes {
		return invalid("the form is longer than %d bytes", maxQueryBytes)
	}
	c.HasBody = false
	return c.readQuery(string(form), false)
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
