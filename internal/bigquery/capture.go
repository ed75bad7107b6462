package bigquery

import (
	"slices"
	"strconv"

	"github.com/trailgate/trailgate"
)

const (
	maxCaptured = 4 << 10 // one value, bytes
	maxNesting  = 512     // containers on the way to what is wanted, and around it
)

// Facts are what an answer says of the call.
type Facts struct {
	// Outcome has ErrorReason, ErrorMessage, JobState, Rows, TotalRows,
	// RowsAffected, BytesProcessed, BytesBilled, CacheHit, SlotMillis and
	// CaptureError; the rest is the gateway's to fill.
	Outcome       trailgate.Outcome
	Job           *trailgate.Job
	StatementType string
	Tables        *trailgate.Tables
	UserEmail     string // the Google identity that BigQuery ran the job as
	PageToken     string // of the next page; "" where there is none, or it is too long to be kept
	// BilledTold: the answer said what the job was billed, if only that it was nothing.
	BilledTold bool
}

// Capture reads an answer as it streams by: job resources, query results, lists
// and errors of BigQuery's. It keeps what it looks for and nothing else, in
// memory that does not grow with the answer, and passes over all other values
// at the speed of a byte scan. It is for one goroutine.
type Capture struct {
	facts facts
	scan  scanner
}

// RowSink takes the rows of an answer as they stream by, and its schema. Rows are
// JSON as BigQuery sent it, without the white space outside strings. Its methods are
// called by the goroutine that writes to the capture, must be fast, and must not keep
// what they are handed.
type RowSink interface {
	// Schema is the answer's schema, whole; where BigQuery sends it, it comes before
	// the rows.
	Schema(raw []byte)
	// RowPart is the next part of a row.
	RowPart(p []byte)
	// EndRow says that the row is whole. A row that broke off has no end.
	EndRow()
}

// Rows hands the rows that the answer brings to a sink, beside what is captured
// anyhow. It is to be called before the first Write.
func (c *Capture) Rows(sink RowSink) { c.scan.sink = sink }

// NewCapture returns a capture for the call's answer.
func NewCapture(c *Call) *Capture {
	out := &Capture{}
	if c != nil {
		out.facts.method = c.Method
	}
	out.scan.facts = &out.facts
	out.scan.state = atValue
	out.scan.next = answers
	return out
}

// Write reads the next part of the answer. It never fails.
func (c *Capture) Write(p []byte) (int, error) {
	c.scan.feed(p)
	return len(p), nil
}

// Facts is what the answer said, to be asked after the last Write.
func (c *Capture) Facts() Facts {
	f := c.facts
	// What was counted when the answer broke off went by all the same: an agent
	// that hangs up one byte early has read the rows before it.
	for _, open := range c.scan.stack {
		if open.array && open.w != nil && open.w.count != nil {
			open.w.count(&f, open.n)
		}
	}
	out := f.Facts
	if c.scan.state == broken {
		out.Outcome.CaptureError = c.scan.why
	} else if c.scan.started && c.scan.state != finished {
		out.Outcome.CaptureError = "the answer ended in the middle of its JSON"
	}
	if f.job.ID != "" {
		job := f.job
		out.Job = &job
	}
	slices.Sort(f.read)
	slices.Sort(f.written)
	if len(f.read)+len(f.written) > 0 {
		out.Tables = &trailgate.Tables{Read: f.read, Written: f.written, Omitted: f.omitted, Final: true}
	}
	return out
}

// facts is what is being put together.
type facts struct {
	Facts
	method        string
	job           trailgate.Job
	table         [3]string // project, dataset, table being read
	read, written []string
	omitted       int64
}

// want says what to do with a value: nil means to pass over it.
type want struct {
	members map[string]*want
	elems   *want                // of an array
	scalar  func(*facts, string) // a string's value, or another scalar's text
	count   func(*facts, int64)  // how many elements an array had
	raw     rawKind              // the value itself goes to the sink, where there is one
	end     func(*facts)         // an object has ended
	object  func(*facts)         // an object begins
}

func scalar(f func(*facts, string)) *want { return &want{scalar: f} }

func number(set func(*facts, int64)) *want {
	return scalar(func(f *facts, s string) {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			set(f, n)
		}
	})
}

// tableRef reads a TableReference and hands it on.
func tableRef(done func(*facts, string)) *want {
	part := func(i int) *want { return scalar(func(f *facts, s string) { f.table[i] = s }) }
	return &want{
		members: map[string]*want{"projectId": part(0), "datasetId": part(1), "tableId": part(2)},
		object:  func(f *facts) { f.table = [3]string{} },
		end: func(f *facts) {
			if f.table[2] != "" {
				done(f, tableName(f.table[:]...))
			}
		},
	}
}

func addTable(to *[]string, f *facts, name string) {
	if len(*to) >= maxTables {
		f.omitted++
		return
	}
	if !slices.Contains(*to, name) {
		*to = append(*to, name)
	}
}

func readTable(f *facts, name string)    { addTable(&f.read, f, name) }
func writtenTable(f *facts, name string) { addTable(&f.written, f, name) }

// answers is the union of the shapes that matter; their names do not clash.
var answers = func() *want {
	processed := number(func(f *facts, n int64) { f.Outcome.BytesProcessed = n })
	billed := number(func(f *facts, n int64) { f.Outcome.BytesBilled, f.BilledTold = n, true })
	affected := number(func(f *facts, n int64) { f.Outcome.RowsAffected = n })
	cacheHit := scalar(func(f *facts, s string) { f.Outcome.CacheHit = s == "true" })
	slots := number(func(f *facts, n int64) { f.Outcome.SlotMillis = n })
	kind := scalar(func(f *facts, s string) { f.StatementType = s })
	items := &want{count: func(f *facts, n int64) { f.Outcome.Rows = n }}
	rows := &want{count: items.count, elems: &want{raw: rawRow}}
	failure := func(reason, message string) *want {
		return &want{members: map[string]*want{
			reason:  scalar(func(f *facts, s string) { f.Outcome.ErrorReason = s }),
			message: scalar(func(f *facts, s string) { f.Outcome.ErrorMessage = s }),
		}}
	}
	query := &want{members: map[string]*want{
		"statementType": kind, "totalBytesBilled": billed, "totalBytesProcessed": processed, "cacheHit": cacheHit, "numDmlAffectedRows": affected,
		"referencedTables":    {elems: tableRef(readTable)},
		"ddlTargetTable":      tableRef(writtenTable),
		"ddlDestinationTable": tableRef(writtenTable),
	}}
	configuration := &want{members: map[string]*want{
		"jobType": scalar(func(f *facts, s string) { f.job.Type = s }),
		"load":    {members: map[string]*want{"destinationTable": tableRef(writtenTable)}},
		"copy": {members: map[string]*want{
			"destinationTable": tableRef(writtenTable), "sourceTable": tableRef(readTable), "sourceTables": {elems: tableRef(readTable)},
		}},
		"extract": {members: map[string]*want{"sourceTable": tableRef(readTable)}},
	}}
	return &want{members: map[string]*want{
		"jobReference": {members: map[string]*want{
			"projectId": scalar(func(f *facts, s string) { f.job.Project = s }),
			"jobId":     scalar(func(f *facts, s string) { f.job.ID = s }),
			"location":  scalar(func(f *facts, s string) { f.job.Location = s }),
		}},
		"pageToken":     scalar(func(f *facts, s string) { f.PageToken = s }),
		"user_email":    scalar(func(f *facts, s string) { f.UserEmail = s }),
		"configuration": configuration,
		"status": {members: map[string]*want{
			"state":       scalar(func(f *facts, s string) { f.Outcome.JobState = s }),
			"errorResult": failure("reason", "message"),
		}},
		"statistics": {members: map[string]*want{
			"totalBytesProcessed": processed, "totalSlotMs": slots, "query": query,
			"load": {members: map[string]*want{"outputRows": affected}},
		}},
		"jobComplete": scalar(func(f *facts, s string) {
			f.Outcome.JobState = "RUNNING"
			if s == "true" {
				f.Outcome.JobState = "DONE"
			}
		}),
		"totalRows":           number(func(f *facts, n int64) { f.Outcome.TotalRows = n }),
		"totalBytesProcessed": processed, "totalBytesBilled": billed, "cacheHit": cacheHit, "numDmlAffectedRows": affected, "totalSlotMs": slots,
		"statementType": kind,
		"rows":          rows, "schema": {raw: rawSchema},
		"jobs": items, "datasets": items, "tables": items, "routines": items, "models": items, "projects": items, "rowAccessPolicies": items,
		"insertErrors": {count: func(f *facts, n int64) {
			if n > 0 && f.Outcome.ErrorReason == "" {
				f.Outcome.ErrorReason, f.Outcome.ErrorMessage = "insertErrors", strconv.FormatInt(n, 10)+" rows were not inserted"
			}
		}},
		"error": {members: map[string]*want{
			"message": scalar(func(f *facts, s string) { f.Outcome.ErrorMessage = s }),
			"errors": {elems: &want{members: map[string]*want{"reason": scalar(func(f *facts, s string) {
				if f.Outcome.ErrorReason == "" {
					f.Outcome.ErrorReason = s
				}
			})}}},
			"status": scalar(func(f *facts, s string) {
				if f.Outcome.ErrorReason == "" {
					f.Outcome.ErrorReason = s
				}
			}),
		}},
	}}
}()
