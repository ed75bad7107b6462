package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/policy"
	"github.com/trailgate/trailgate/internal/recording"
)

const (
	ruleSchema  = "builtin/schema" // the gateway's own question to BigQuery
	methodTable = "bigquery.tables.get"

	maxPlaces  = 100_000 // page tokens whose place is remembered
	maxSchemas = 1_000   // tables whose columns are remembered
	// schemasRoom is what their columns may take, bytes: a table may have 10,000.
	schemasRoom = 16 << 20
	schemaTTL   = 2 * time.Minute // for how long
)

// Recorder keeps the rows of answers, as *recording.Store does.
type Recorder interface {
	Begin(connection string, r *recording.Redaction, maxBytes int64) *recording.Writer
}

var levels = []string{trailgate.RecordingMetadata, trailgate.RecordingRequest, trailgate.RecordingResults}

func higher(a, b string) string {
	if slices.Index(levels, b) > slices.Index(levels, a) {
		return b
	}
	return a
}

// level says how much of a call is recorded: as the rule that let it go says, else as
// the connection has it. A result is recorded as the rule says that let its job run,
// if that is more. What is more than a read is never below "request".
func (g *Gateway) level(e *trailgate.Entry, c *bigquery.Call, conn *Connection, d policy.Decision) string {
	level := cmp.Or(d.Limits.Recording, conn.Recording, trailgate.RecordingRequest)
	if c.Method == methodResults && e.Job != nil {
		level = higher(level, g.owners.limits(jobKey(e.Job.Project, e.Job.ID))["recording"])
	}
	if d.Effect == policy.RequireApproval || c.Class != trailgate.ClassRead && c.Class != trailgate.ClassMetadataRead {
		level = higher(level, trailgate.RecordingRequest)
	}
	return level
}

// record notes the level in a call's entry.
func (g *Gateway) record(e *trailgate.Entry, c *bigquery.Call, conn *Connection, d policy.Decision) {
	e.Recording = nil
	switch level := g.level(e, c, conn, d); {
	case level == trailgate.RecordingMetadata, level == trailgate.RecordingResults && (handsOut(c) || c.CreatesJob):
		e.Recording = &trailgate.Recording{Level: level}
	}
}

// handsOut reports whether a call's answer has rows.
func handsOut(c *bigquery.Call) bool {
	return c.Method == methodResults || c.Method == methodRows || c.Method == methodQuery
}

// textless reports whether an entry is to have no statement's text.
func textless(e *trailgate.Entry) bool {
	return e.Recording != nil && e.Recording.Level == trailgate.RecordingMetadata
}

// rows are those of one answer, on their way to the store.
type rows struct {
	g      *Gateway
	w      *recording.Writer
	result string // what they are rows of: a job or a table, in this session's sight
	start  int64
	known  bool // start is
}

// keepRows begins to keep the rows of an answer, where that is asked for.
func (g *Gateway) keepRows(ctx context.Context, a *answer, e *trailgate.Entry, who identity.Identity, c *bigquery.Call, conn *Connection) {
	if !handsOut(c) || g.cfg.Recordings == nil || e.Recording == nil || e.Recording.Level != trailgate.RecordingResults || c.DryRun {
		return
	}
	r := &rows{g: g}
	r.result, r.start, r.known = g.place(e, c)
	redaction := g.cfg.Redactor.For(conn.Name, g.readBy(e, c))
	r.w = g.cfg.Recordings.Begin(conn.Name, redaction, conn.RecordBytes)
	if c.Method == methodRows {
		// The answer has no schema of its own. Without one columns have no names, and
		// a redaction has to take all of them for those that are meant.
		if schema := g.columns(ctx, e, who, c, conn); schema != nil {
			r.w.KnowSchema(schema)
		}
	}
	a.rows = r
	a.capture.Rows(r.w)
}

// readBy are the tables that the rows come from; nil where that is not known.
func (g *Gateway) readBy(e *trailgate.Entry, c *bigquery.Call) []string {
	if c.Method == methodResults {
		if e.Job == nil {
			return nil
		}
		of, _ := g.owners.get(jobKey(e.Job.Project, e.Job.ID))
		return of.read
	}
	for _, name := range c.Read {
		// Where a query's rows stay for a day: they are those of other tables.
		if parts := strings.Split(name, "."); len(parts) >= 2 && strings.HasPrefix(parts[len(parts)-2], "_") {
			return nil
		}
	}
	if e.Tables == nil || e.Tables.Omitted > 0 || slices.Contains(e.Flags, "tables_omitted") || c.StatementType == "UNKNOWN" {
		return nil
	}
	return e.Tables.Read
}

// recorded ends the keeping: what is kept is durable when it returns. A crash before
// leaves rows that no entry names, which the store clears away.
func (a *answer) recorded(ctx context.Context, result *trailgate.Entry) {
	r := a.rows
	if r == nil {
		return
	}
	a.rows = nil
	if a.instead != nil || a.resp == nil { // the agent got none of the rows
		r.w.Abort()
		result.Recording = &trailgate.Recording{Level: trailgate.RecordingResults}
		return
	}
	rec := r.w.Finish(context.WithoutCancel(ctx))
	rec.Level = trailgate.RecordingResults
	rec.StartRow, rec.PlaceUnknown = r.start, !r.known && rec.Rows > 0
	rec.Error = clip(rec.Error, 512)
	if rec.Error != "" {
		a.g.cfg.Log.WarnContext(ctx, "rows were not kept, or not all of them", "entry", a.entry.ID, "err", rec.Error)
		a.g.metrics.recordings.WithLabelValues("failed").Inc()
	} else if rec.Rows > 0 {
		a.g.metrics.recordings.WithLabelValues("kept").Inc()
	}
	result.Recording = &rec
	if r.result == "" && result.Job != nil { // jobs.query: the job's id is known now
		r.result = jobKey(result.Job.Project, result.Job.ID)
	}
	if next := a.capture.Facts().PageToken; r.known && next != "" && r.result != "" {
		a.g.places.put(r.result, next, r.start+rec.Rows)
	}
}

// place says of what an answer's rows are, and where in it they begin: what the
// request asks for, or where the page ended whose token it has.
func (g *Gateway) place(e *trailgate.Entry, c *bigquery.Call) (result string, start int64, known bool) {
	switch {
	case c.Method == methodRows && len(c.Read) > 0:
		result = "table/" + c.Read[0]
	case e.Job != nil && e.Job.ID != "":
		result = jobKey(e.Job.Project, e.Job.ID)
	}
	if c.Method == methodQuery {
		return "", 0, true
	}
	query := queryOf(c)
	if token := query.Get("pageToken"); token != "" {
		start, known = g.places.get(result, token)
		return result, start, known
	}
	if s := query.Get("startIndex"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		return result, max(n, 0), err == nil && n >= 0
	}
	return result, 0, true
}

// queryOf is the query of the request that goes upstream.
func queryOf(c *bigquery.Call) url.Values {
	_, raw, _ := strings.Cut(c.Path, "?")
	query, err := url.ParseQuery(raw)
	if err != nil {
		return nil // it was made by this gateway, from what it read
	}
	return query
}

// places remembers at which row the page of a token begins.
type places struct {
	mu  sync.Mutex // guards all
	all recent[*int64]
}

func (p *places) put(result, token string, row int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*p.all.get(short(result+"\x00"+token), func() *int64 { return new(int64) }) = row
}

func (p *places) get(result, token string) (int64, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	row, ok := p.all.peek(short(result + "\x00" + token))
	if !ok {
		return 0, false
	}
	return *row, true
}

// schemas remembers the columns of tables for a short while.
type schemas struct {
	mu  sync.Mutex // guards all
	all recent[knownSchema]
}

func newSchemas() *schemas {
	return &schemas{all: recent[knownSchema]{most: maxSchemas, room: schemasRoom, size: func(s knownSchema) int { return len(s.raw) }}}
}

type knownSchema struct {
	raw []byte // nil: not known
	at  time.Time
}

// columns are those of a table whose rows are listed, as a schema, by asking BigQuery
// about it with the agent's own credential; nil where they cannot be told.
func (g *Gateway) columns(ctx context.Context, e *trailgate.Entry, who identity.Identity, c *bigquery.Call, conn *Connection) []byte {
	key := conn.Name + "/" + e.Principal.Agent + "/" + c.Project + "." + c.Dataset + "." + c.Table
	g.schemas.mu.Lock()
	known, _ := g.schemas.all.look(key)
	g.schemas.mu.Unlock()
	if known.raw == nil || g.cfg.Now().Sub(known.at) > schemaTTL {
		known = knownSchema{g.askSchema(ctx, e, who, c, conn), g.cfg.Now()}
		g.schemas.mu.Lock()
		g.schemas.all.put(key, known)
		g.schemas.mu.Unlock()
	}
	if known.raw == nil {
		return nil
	}
	return selected(known.raw, queryOf(c).Get("selectedFields"))
}

// selected is a schema with the columns that selectedFields leaves, in the table's
// order; nil where that takes RECORDs apart.
func selected(schema []byte, fields string) []byte {
	if fields == "" {
		return schema
	}
	var want []string
	for name := range strings.SplitSeq(fields, ",") {
		if strings.Contains(name, ".") {
			return nil
		}
		want = append(want, strings.ToLower(strings.TrimSpace(name)))
	}
	var all struct {
		Fields []json.RawMessage `json:"fields"`
	}
	if json.Unmarshal(schema, &all) != nil {
		return nil
	}
	left := all.Fields[:0]
	for _, raw := range all.Fields {
		var column struct {
			Name string `json:"name"`
		}
		if json.Unmarshal(raw, &column) != nil {
			return nil
		}
		if slices.Contains(want, strings.ToLower(column.Name)) {
			left = append(left, raw)
		}
	}
	all.Fields = left
	out, err := json.Marshal(all)
	if err != nil {
		return nil
	}
	return out
}

// schemaSink takes the schema out of an answer.
type schemaSink struct{ raw []byte }

func (s *schemaSink) Schema(raw []byte) { s.raw = slices.Clone(raw) }
func (*schemaSink) RowPart([]byte)      {}
func (*schemaSink) EndRow()             {}

// askSchema asks BigQuery for a table's schema. It is a call like any other: its intent
// is durable before it goes, its outcome before its answer is used.
func (g *Gateway) askSchema(ctx context.Context, call *trailgate.Entry, who identity.Identity, c *bigquery.Call, conn *Connection) []byte {
	path := "/bigquery/v2/projects/" + url.PathEscape(c.Project) + "/datasets/" + url.PathEscape(c.Dataset) + "/tables/" + url.PathEscape(c.Table) + "?fields=schema"
	own, refusal := bigquery.Route(bigquery.Request{Verb: http.MethodGet, EscapedPath: strings.TrimSuffix(path, "?fields=schema"), RawQuery: "fields=schema", Header: http.Header{}})
	if refusal != nil || own.Method != methodTable {
		return nil // a name that this gateway would not route either
	}
	e := g.sibling(call)
	up := conn.Credential.Describe()
	e.Kind, e.Method, e.Class = trailgate.KindIntent, own.Method, own.Class
	e.Request = &trailgate.Request{Verb: http.MethodGet, Path: clip(path, 2048), For: call.ID}
	e.Tables = tables(own.Read, nil)
	e.Decision = &trailgate.Decision{Effect: policy.Allow, Rule: ruleSchema, Reason: "the rows of the call are recorded, and come without the names of their columns"}
	e.Upstream = &trailgate.Upstream{Mode: up.Mode, Shared: up.Shared, Host: conn.Upstream.Host}
	if err := g.append(ctx, e); err != nil {
		return nil
	}
	result := outcomeOf(e)
	started := time.Now()
	sink := &schemaSink{}
	answer := g.sendFor(ctx, e, who, conn, own, http.MethodGet, path, nil, sink)
	o := answer.facts.Outcome
	o.Status, o.End, o.Bytes = answer.status, answer.end, answer.bytes
	o.ErrorReason, o.ErrorMessage = clip(o.ErrorReason, 128), clip(o.ErrorMessage, 1024)
	if answer.err != nil {
		o.ErrorMessage = clip(answer.err.Error(), 1024)
	}
	o.DurationNanos = time.Since(started).Nanoseconds()
	result.Outcome, result.Upstream, result.Flags = &o, answer.upstream, answer.flags
	if err := g.append(ctx, result); err != nil {
		return nil
	}
	g.metrics.outcome(result)
	if answer.err != nil || answer.status != http.StatusOK {
		return nil
	}
	return sink.raw
}
