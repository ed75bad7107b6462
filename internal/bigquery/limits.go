package bigquery

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Options are what a query asks for beside its statement.
type Options struct {
	MaximumBytesBilled int64  // bytes; 0: the client set none
	Priority           string // "INTERACTIVE", "BATCH", or "" where the client did not say
}

// Query is the part of the body that says how a query is run; nil where the call
// runs none.
func (c *Call) query() *node {
	if !c.CreatesJob || c.tree == nil {
		return nil
	}
	if c.method.Schema == "QueryRequest" {
		return c.tree
	}
	if q := c.tree.get("configuration", "query"); q.present() && q.kind == '{' {
		return q
	}
	return nil
}

// RunsQuery says whether the call runs SQL, and so can be rehearsed by a dry run.
func (c *Call) RunsQuery() bool { return c.query() != nil }

// Options reads what a query asks for. A number that cannot be read is refused:
// BigQuery might read it.
func (c *Call) Options() (Options, *Error) {
	q := c.query()
	if q == nil {
		return Options{}, nil
	}
	o := Options{Priority: clip(q.get("priority").str(), 32)}
	var err *Error
	o.MaximumBytesBilled, err = q.count("maximumBytesBilled")
	return o, err
}

// count reads an int64 that JSON may have as a string, as BigQuery's int64s are; 0
// where there is none.
func (n *node) count(name string) (int64, *Error) {
	v := n.get(name)
	if !v.present() {
		return 0, nil
	}
	i, err := strconv.ParseInt(v.text, 10, 64)
	if err != nil || v.kind != 0 && v.kind != '"' {
		return 0, invalid("%s must be a whole number", name)
	}
	return i, nil
}

// Bounds are the most that a job may take. A zero leaves what the client asked for.
type Bounds struct {
	MaximumBytesBilled int64 // bytes
	JobTimeoutMillis   int64
	MaxRows            int64 // in one answer
}

// Bound lowers what the call asks for to these bounds. It must be called before
// [Call.Stamp].
func (c *Call) Bound(b Bounds) *Error {
	if q := c.query(); q != nil {
		if err := q.lower("maximumBytesBilled", b.MaximumBytesBilled); err != nil {
			return err
		}
	}
	if c.CreatesJob && c.tree != nil {
		at := c.tree
		if c.method.Schema == "Job" {
			at = c.tree.object("configuration")
		}
		if err := at.lower("jobTimeoutMs", b.JobTimeoutMillis); err != nil {
			return err
		}
	}
	if b.MaxRows <= 0 {
		return nil
	}
	switch {
	case c.method != nil && c.method.Schema == "QueryRequest" && c.tree != nil:
		limit, err := c.tree.count("maxResults")
		if err != nil {
			return err
		}
		if limit <= 0 || limit > b.MaxRows {
			c.tree.set("maxResults", &node{text: strconv.FormatInt(b.MaxRows, 10)})
		}
	case c.method != nil && slices.Contains(c.method.Query, "maxResults"):
		return c.lowerParameter("maxResults", b.MaxRows)
	}
	return nil
}

// lower sets a number to at most limit. What is not above zero means "no limit" to
// BigQuery, and so gives way to one.
func (n *node) lower(name string, limit int64) *Error {
	if limit <= 0 {
		return nil
	}
	own, err := n.count(name)
	if err != nil {
		return err
	}
	if own <= 0 || own > limit {
		n.set(name, &node{kind: '"', text: strconv.FormatInt(limit, 10)})
	}
	return nil
}

// lowerParameter does the same with a parameter in the address.
func (c *Call) lowerParameter(name string, limit int64) *Error {
	path, query, _ := strings.Cut(c.Path, "?")
	var kept []string
	own := int64(0)
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if key != name {
			if pair != "" {
				kept = append(kept, pair)
			}
			continue
		}
		value, err := url.QueryUnescape(value)
		if err != nil {
			return invalid("the query is not validly escaped")
		}
		if own, err = strconv.ParseInt(value, 10, 64); err != nil {
			return invalid("%s must be a whole number", name)
		}
	}
	if own <= 0 || own > limit {
		own = limit
	}
	c.Path = path + "?" + strings.Join(append(kept, name+"="+strconv.FormatInt(own, 10)), "&")
	return nil
}

// dryRunFields are those of a query that decide what it does and reads. What is
// left out only matters to the job that really runs, or to its answer.
var dryRunFields = []string{
	"query", "useLegacySql", "defaultDataset", "parameterMode", "queryParameters", "connectionProperties",
	"createSession", "maximumBytesBilled", "secureContext",
}

// Rehearsal is the jobs.insert that has BigQuery say what the call's query would
// do, and does nothing: its path and body, with the labels given. Nil where the
// call runs no query. It is made from the tree that was read, so that it is the
// statement that would run which is asked about.
//
// A query of jobs.query is asked about as a job, because the dry run of
// jobs.query itself tells neither statement type nor tables
// (https://cloud.google.com/bigquery/docs/reference/rest/v2/jobs/query).
func (c *Call) Rehearsal(labels map[string]string) (path string, body []byte) {
	q := c.query()
	if q == nil {
		return "", nil
	}
	conf := &node{kind: '{'}
	if c.method.Schema == "Job" {
		conf.set("query", q)
	} else {
		part := &node{kind: '{'}
		for _, name := range dryRunFields {
			if v := q.get(name); v != nil {
				part.set(name, v)
			}
		}
		conf.set("query", part)
	}
	conf.set("dryRun", &node{text: "true"})
	ours := &node{kind: '{'}
	for _, k := range slices.Sorted(mapKeys(labels)) {
		ours.set(k, &node{kind: '"', text: labels[k]})
	}
	conf.set("labels", ours)
	ref := &node{kind: '{'}
	ref.set("projectId", &node{kind: '"', text: c.Project})
	if c.Location != "" {
		ref.set("location", &node{kind: '"', text: c.Location})
	}
	job := &node{kind: '{'}
	job.set("jobReference", ref)
	job.set("configuration", conf)
	return "/bigquery/v2/projects/" + joinPath([]string{c.Project}) + "/jobs", job.encode(nil)
}

func mapKeys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// Canonical is the call as an approval is bound to it: method, address and body, all
// that decides what it does and answers. Left out are the ids that clients make
// anew for each try (jobReference.jobId, requestId), and labels under "trailgate_",
// which never go upstream as they came. headers are the conditions among the
// request's headers (If-Match).
//
// Two calls with the same canonical form do the same, in whatever order their JSON
// came.
func (c *Call) Canonical(headers http.Header) []byte {
	out := &node{kind: '['}
	text := func(s string) { out.elems = append(out.elems, &node{kind: '"', text: s}) }
	text(c.Method)
	text(c.Verb)
	text(c.Path)
	for _, name := range []string{"If-Match", "If-None-Match", "X-Upload-Content-Type", "X-Upload-Content-Length"} {
		text(strings.Join(headers.Values(name), ", "))
	}
	if c.tree != nil {
		body := c.tree.sorted()
		if c.CreatesJob {
			switch c.method.Schema {
			case "Job":
				ref := body.object("jobReference")
				ref.drop("jobId")
				ref.set("projectId", &node{kind: '"', text: c.Project})
				body.object("configuration").set("labels", labelsNode(c.Labels))
			default:
				body.drop("requestId")
				body.set("labels", labelsNode(c.Labels))
			}
			body = body.sorted()
		}
		out.elems = append(out.elems, body)
	}
	return out.encode(nil)
}

func labelsNode(labels map[string]string) *node {
	n := &node{kind: '{'}
	for _, k := range slices.Sorted(mapKeys(labels)) {
		n.set(k, &node{kind: '"', text: labels[k]})
	}
	return n
}

// drop takes a member out.
func (n *node) drop(name string) {
	n.members = slices.DeleteFunc(n.members, func(m member) bool { return m.name == name })
}

// sorted is a copy with members in order. Subtrees that were kept as text stay as
// they are: what cannot be told to be the same counts as different.
func (n *node) sorted() *node {
	out := &node{kind: n.kind, text: n.text}
	for _, m := range n.members {
		out.members = append(out.members, member{m.name, m.value.sorted()})
	}
	slices.SortStableFunc(out.members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	for _, e := range n.elems {
		out.elems = append(out.elems, e.sorted())
	}
	return out
}
