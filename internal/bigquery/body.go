package bigquery

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/trailgate/trailgate"
)

// Bounds that are BigQuery's own
// (https://cloud.google.com/bigquery/quotas and its label and job id rules).
const (
	maxLabels     = 64
	maxRequestID  = 36
	maxStatements = 1000 // in one call; ours
)

// ReadBody reads the JSON body (of an upload: its metadata) and finds what the
// call is about. It must be called once, where HasBody says so.
func (c *Call) ReadBody(body []byte) *Error {
	if c.method == nil || c.method.Schema == "" {
		return invalid("%s takes no request body", c.Method)
	}
	if len(strings.TrimSpace(string(body))) == 0 {
		if c.CreatesJob {
			return invalid("%s needs a request body", c.Method)
		}
		return nil
	}
	tree, err := parseBody(body, c.method.Schema)
	if err != nil {
		return err
	}
	c.tree = tree
	switch c.method.Schema {
	case "Job":
		err = c.readJob()
	case "QueryRequest":
		err = c.readQueryRequest()
	case "Table":
		err = c.readTable()
	case "Dataset":
		err = c.readDataset()
	case "Routine":
		err = c.readRoutine()
	case "RowAccessPolicy":
		err = c.readPolicy()
	case "SetIamPolicyRequest":
		c.readBindings()
	}
	if err == nil && len(c.Statements) > maxStatements {
		err = invalid("more than %d statements in one call", maxStatements)
	}
	return err
}

func (c *Call) readQueryRequest() *Error {
	t := c.tree
	c.RequestID, c.Location = t.get("requestId").str(), t.get("location").str()
	if len(c.RequestID) > maxRequestID {
		return invalid("requestId is longer than %d characters", maxRequestID)
	}
	var err *Error
	if c.DryRun, err = t.truth("dryRun", false); err != nil {
		return err
	}
	if err := c.labels(t.get("labels")); err != nil {
		return err
	}
	return c.readQueryConfig(t, "", scope{project: c.Project})
}

// readQueryConfig reads what jobs.query and a query job have in common.
func (c *Call) readQueryConfig(t *node, where string, sc scope) *Error {
	if d := t.get("defaultDataset"); d.present() {
		sc.dataset, sc.datasetProject = d.get("datasetId").str(), d.get("projectId").str()
	}
	props := t.get("connectionProperties")
	if props != nil {
		for _, p := range props.elems {
			if p.get("key").str() == "dataset_project_id" {
				sc.project = p.get("value").str()
				c.flag("dataset_project_id")
			}
		}
	}
	sc.datasetProject = orElse(sc.datasetProject, sc.project)
	// Legacy SQL is the default of the API, not only of bq.
	legacy, err := t.truth("useLegacySql", true)
	if err != nil {
		return err
	}
	sql := t.get("query")
	if !sql.present() || sql.kind != '"' {
		return invalid("the call has no query")
	}
	params := ""
	if p := t.get("queryParameters"); p.present() {
		params = string(p.encode(nil))
	}
	c.statement(where+"query", sql.str(), legacy, params, sc)
	c.functions(where, t)
	return nil
}

func list(n *node) []*node {
	if n == nil {
		return nil
	}
	return n.elems
}

// statement reads one text of SQL and adds what it is and does.
func (c *Call) statement(where, sql string, legacy bool, params string, sc scope) {
	switch directive(sql) { // overrules useLegacySql
	case "#standardsql":
		legacy = false
	case "#legacysql":
		legacy = true
	}
	dialect, s := "googlesql", reading{}
	if legacy {
		dialect, s = "legacy", readLegacy(sql, sc)
	} else {
		s = readSQL(sql, sc)
	}
	c.Statements = append(c.Statements, Statement{Where: where, Text: sql, Dialect: dialect, Parameters: params})
	if c.StatementType == "" {
		c.StatementType = s.kind
	}
	c.classed(s.classes...)
	c.found(s)
	if strings.ContainsFunc(sql, bidi) {
		c.flag("bidi_in_statement")
	}
}

// found takes over the names and flags of a reading.
func (c *Call) found(s reading) {
	c.Read = union(c.Read, s.read)
	c.Written = union(c.Written, s.written)
	c.Destinations = union(c.Destinations, s.destinations)
	for _, f := range s.flags {
		c.flag(f)
	}
}

// directive is the comment by which a query's first line says its dialect, in
// lower case (https://cloud.google.com/bigquery/docs/reference/standard-sql/enabling-standard-sql).
func directive(sql string) string {
	for word := range strings.FieldsSeq(sql) {
		return strings.ToLower(word)
	}
	return ""
}

// bidi reports the controls that make text read otherwise than it runs
// (Unicode TR36, TR39).
func bidi(r rune) bool {
	return r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x200e || r == 0x200f || r == 0x061c
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

// project holds a jobReference to the project in the path: one call, one project.
func (c *Call) project(ref *node) *Error {
	if ref.present() && ref.kind != '{' {
		return invalid("jobReference must be an object")
	}
	if p := ref.get("projectId").str(); p != "" && p != c.Project {
		return invalid("jobReference.projectId %q is not the project in the path", clip(p, 64))
	}
	return nil
}

func (c *Call) labels(n *node) *Error {
	if !n.present() {
		return nil
	}
	var labels map[string]string
	if err := n.decode(&labels); err != nil {
		return invalid("labels must be strings")
	}
	for k, v := range labels {
		if strings.HasPrefix(k, reserved) {
			if c.DroppedLabels == nil {
				c.DroppedLabels = map[string]string{}
			}
			c.DroppedLabels[k] = v
			c.flag("dropped_labels")
			continue
		}
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		c.Labels[k] = v
	}
	return nil
}

func (c *Call) readJob() *Error {
	ref, conf := c.tree.get("jobReference"), c.tree.get("configuration")
	if err := c.project(ref); err != nil {
		return err
	}
	if !conf.present() || conf.kind != '{' {
		return invalid("the job has no configuration")
	}
	c.Location = ref.get("location").str()
	if id := ref.get("jobId"); id.present() && id.str() != "" {
		if !validID("{jobId}", id.str()) {
			return invalid("jobReference.jobId may have letters, digits, '-' and '_' only")
		}
		c.Job = &trailgate.Job{Project: c.Project, ID: id.str(), Location: c.Location, AssignedBy: "client"}
	}
	var err *Error
	if c.DryRun, err = conf.truth("dryRun", false); err != nil {
		return err
	}
	if err := c.labels(conf.get("labels")); err != nil {
		return err
	}
	var kinds []string
	for _, kind := range []string{"query", "load", "copy", "extract"} {
		if conf.get(kind).present() {
			kinds = append(kinds, kind)
		}
	}
	if len(kinds) != 1 {
		return invalid("a job's configuration must have exactly one of query, load, copy, extract")
	}
	if c.Upload != UploadNone && kinds[0] != "load" {
		return invalid("only a load job takes an upload")
	}
	t, sc := conf.get(kinds[0]), scope{project: c.Project}
	where := "configuration." + kinds[0] + "."
	switch kinds[0] {
	case "query":
		if dest := c.ref(t.get("destinationTable")); dest != "" {
			c.classed(classWrite)
			c.Written = union(c.Written, []string{dest})
		}
		if defs := t.get("tableDefinitions"); defs.present() {
			c.classed(classExport)
			c.flag("external_tables")
			c.uris(defs)
		}
		return c.readQueryConfig(t, where, sc)
	case "load":
		c.classed(classWrite)
		c.Written = union(c.Written, refs(c.ref(t.get("destinationTable"))))
		c.strings(t.get("sourceUris"))
		c.Destinations = union(c.Destinations, refs(t.get("hivePartitioningOptions", "sourceUriPrefix").str()))
		c.StatementType = "LOAD_DATA"
		if c.Upload == UploadNone && len(list(t.get("sourceUris"))) == 0 {
			c.flag("load_without_source")
		}
	case "copy":
		c.classed(classRead, classWrite)
		for _, s := range append(list(t.get("sourceTables")), t.get("sourceTable")) {
			c.Read = union(c.Read, refs(c.ref(s)))
		}
		c.Written = union(c.Written, refs(c.ref(t.get("destinationTable"))))
		if p := t.get("destinationTable", "projectId").str(); p != "" && p != c.Project {
			c.classed(classExport)
			c.flag("other_project")
		}
		c.StatementType = "COPY"
	case "extract":
		c.classed(classRead, classExport)
		c.Read = union(c.Read, refs(c.ref(t.get("sourceTable"))))
		if model := t.get("sourceModel"); model.present() {
			c.Read = union(c.Read, []string{tableName(orElse(model.get("projectId").str(), c.Project), model.get("datasetId").str(), model.get("modelId").str())})
		}
		c.strings(t.get("destinationUris"))
		c.strings(&node{kind: '[', elems: []*node{t.get("destinationUri")}})
		c.StatementType = "EXTRACT"
	}
	return nil
}

func refs(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// ref is a TableReference's name.
func (c *Call) ref(n *node) string {
	if !n.present() || n.kind != '{' {
		return ""
	}
	return tableName(orElse(n.get("projectId").str(), c.Project), n.get("datasetId").str(), n.get("tableId").str())
}

func tableName(parts ...string) string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, ".")
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func (c *Call) strings(n *node) {
	for _, e := range list(n) {
		if s := e.str(); s != "" {
			c.Destinations = union(c.Destinations, []string{s})
		}
	}
}

// uris finds every sourceUris below n, whose names are the client's own.
func (c *Call) uris(n *node) {
	var v any
	if n.decode(&v) != nil {
		return
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, child := range v {
				if list, ok := child.([]any); ok && name == "sourceUris" {
					for _, u := range list {
						if s, ok := u.(string); ok {
							c.Destinations = union(c.Destinations, []string{s})
						}
					}
				}
				walk(child)
			}
		case []any:
			for _, child := range v {
				walk(child)
			}
		}
	}
	walk(v)
	slices.Sort(c.Destinations)
}

// reserved is the prefix of the labels that are the gateway's own.
const reserved = "trailgate_"

// Stamp is what the gateway adds to a call that makes a job.
type Stamp struct {
	JobID     string            // used where the client chose none (jobs.insert)
	RequestID string            // used where the client chose none (jobs.query)
	Labels    map[string]string // all under "trailgate_"
}

// Stamp returns the exact body to forward, written from the tree that was read:
// with the marks, for a call that makes a job; else unchanged in content. nil
// where there is no body.
func (c *Call) Stamp(s Stamp) ([]byte, *Error) {
	if c.tree == nil {
		return nil, nil
	}
	if c.CreatesJob {
		var at *node
		switch c.method.Schema {
		case "Job":
			ref := c.tree.object("jobReference")
			if c.Job == nil {
				ref.set("jobId", &node{kind: '"', text: s.JobID})
				c.Job = &trailgate.Job{Project: c.Project, ID: s.JobID, Location: c.Location, AssignedBy: "gateway"}
			}
			ref.set("projectId", &node{kind: '"', text: c.Project})
			at = c.tree.object("configuration")
		default:
			if c.RequestID == "" && s.RequestID != "" {
				c.tree.set("requestId", &node{kind: '"', text: s.RequestID})
			}
			at = c.tree
		}
		if err := c.stampLabels(at, s.Labels); err != nil {
			return nil, err
		}
	}
	return c.tree.encode(nil), nil
}

func (c *Call) stampLabels(at *node, ours map[string]string) *Error {
	if len(c.Labels)+len(ours) > maxLabels {
		return &Error{Status: http.StatusBadRequest, Reason: "invalid", Message: fmt.Sprintf("Trailgate: a job may have %d labels, %d of which are the gateway's", maxLabels, len(ours))}
	}
	labels := &node{kind: '{'}
	for _, set := range []map[string]string{c.Labels, ours} {
		var names []string
		for k := range set {
			names = append(names, k)
		}
		slices.Sort(names)
		for _, k := range names {
			labels.set(k, &node{kind: '"', text: set[k]})
		}
	}
	at.set("labels", labels)
	return nil
}
