package bigquery

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/trailgate/trailgate"
)

const (
	maxCaptured   = 4 << 10 // one value, bytes
	maxNesting    = 512     // containers on the way to what is wanted, and around it
	maxErrorsKept = 1
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
}

// Capture reads an answer as it streams by: job resources, query results, lists
// and errors of BigQuery's. It keeps what it looks for and nothing else, in
// memory that does not grow with the answer, and passes over all other values
// at the speed of a byte scan. It is for one goroutine.
type Capture struct {
	facts facts
	scan  scanner
}

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
	billed := number(func(f *facts, n int64) { f.Outcome.BytesBilled = n })
	affected := number(func(f *facts, n int64) { f.Outcome.RowsAffected = n })
	cacheHit := scalar(func(f *facts, s string) { f.Outcome.CacheHit = s == "true" })
	slots := number(func(f *facts, n int64) { f.Outcome.SlotMillis = n })
	kind := scalar(func(f *facts, s string) { f.StatementType = s })
	rows := &want{count: func(f *facts, n int64) { f.Outcome.Rows = n }}
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
		"rows":          rows, "jobs": rows, "datasets": rows, "tables": rows, "routines": rows, "models": rows, "projects": rows, "rowAccessPolicies": rows,
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

// The scanner's states.
type state uint8

const (
	atValue  state = iota // a value, or white space, comes
	atElem                // the same, or an array's end
	atKey                 // a member's name comes
	atMember              // the same, or an object's end
	atColon
	afterValue
	inString // of a name or a wanted value
	inScalar
	inSkip // somewhere in a value that nobody wants
	finished
	broken
)

type frame struct {
	w     *want // of the container
	array bool
	n     int64 // elements so far
}

// scanner walks JSON byte by byte, wherever it is cut into parts. It trusts
// BigQuery to send JSON and notices where it does not; it is no validator.
type scanner struct {
	facts   *facts
	state   state
	why     string // broken
	started bool
	next    *want // of the value that comes
	stack   []frame

	token   []byte // the name or value being read
	isKey   bool
	escaped bool // the last byte was a backslash
	slashes bool // the token has escapes
	over    bool // the token is longer than is kept

	depth int // in inSkip: open containers
	inStr bool
	bare  bool // in inSkip: a scalar that is no string
}

func (s *scanner) fail(why string) { s.state, s.why = broken, why }

func (s *scanner) feed(p []byte) {
	for i := 0; i < len(p); {
		switch s.state {
		case broken:
			return
		case inSkip:
			i = s.skip(p, i)
			continue
		case inString:
			i = s.text(p, i)
			continue
		case inScalar:
			i = s.bareword(p, i)
			continue
		}
		c := p[i]
		if c == ' ' || c == '\n' || c == '\r' || c == '\t' {
			i++
			continue
		}
		s.started = true
		switch s.state {
		case atElem:
			if c == ']' {
				s.pop()
				i++
				continue
			}
			s.element()
			i = s.value(p, i)
		case atValue:
			i = s.value(p, i)
		case atMember:
			if c == '}' {
				s.pop()
				i++
				continue
			}
			fallthrough
		case atKey:
			if c != '"' {
				s.fail("the answer is not JSON: a name was expected")
				return
			}
			s.begin(true)
			i++
		case atColon:
			if c != ':' {
				s.fail("the answer is not JSON: a colon was expected")
				return
			}
			s.state = atValue
			i++
		case afterValue:
			i++
			top := &s.stack[len(s.stack)-1]
			switch {
			case c == ',' && top.array:
				s.element()
				s.state = atValue
			case c == ',':
				s.state = atKey
			case c == ']' && top.array, c == '}' && !top.array:
				s.pop()
			default:
				s.fail("the answer is not JSON: a comma or an end was expected")
				return
			}
		case finished:
			s.fail("something follows the answer's JSON")
			return
		}
	}
}

// element counts the array's next element and says what is wanted of it.
func (s *scanner) element() {
	top := &s.stack[len(s.stack)-1]
	top.n++
	s.next = nil
	if top.w != nil {
		s.next = top.w.elems
	}
}

// value begins a value at p[i].
func (s *scanner) value(p []byte, i int) int {
	c, w := p[i], s.next
	switch {
	case c == '{' && w != nil && w.members != nil:
		if w.object != nil {
			w.object(s.facts)
		}
		s.push(frame{w: w}, atMember)
		return i + 1
	case c == '[' && w != nil && (w.elems != nil || w.count != nil):
		s.push(frame{w: w, array: true}, atElem)
		return i + 1
	case w != nil && w.scalar != nil && c == '"':
		s.begin(false)
		return i + 1
	case w != nil && w.scalar != nil && c != '{' && c != '[':
		s.begin(false)
		s.state = inScalar
		return i
	}
	switch c {
	case '{', '[':
		s.depth, s.inStr, s.bare = 1, false, false
	case '"':
		s.depth, s.inStr, s.bare = 0, true, false
	case '}', ']', ',', ':':
		s.fail("the answer is not JSON: a value was expected")
		return i
	default:
		s.depth, s.inStr, s.bare = 0, false, true
	}
	s.escaped = false
	s.state = inSkip
	return i + 1
}

func (s *scanner) push(f frame, st state) {
	if len(s.stack) >= maxNesting {
		s.fail("the answer's JSON is nested too deep")
		return
	}
	s.stack = append(s.stack, f)
	s.state = st
}

func (s *scanner) pop() {
	top := s.stack[len(s.stack)-1]
	s.stack = s.stack[:len(s.stack)-1]
	if top.w != nil {
		if top.array && top.w.count != nil {
			top.w.count(s.facts, top.n)
		}
		if !top.array && top.w.end != nil {
			top.w.end(s.facts)
		}
	}
	s.done()
}

// done is behind a value.
func (s *scanner) done() {
	s.state = afterValue
	if len(s.stack) == 0 {
		s.state = finished
	}
}

func (s *scanner) begin(key bool) {
	s.state, s.isKey = inString, key
	s.token, s.escaped, s.slashes, s.over = s.token[:0], false, false, false
}

func (s *scanner) keep(b []byte) {
	if room := maxCaptured - len(s.token); len(b) > room {
		b, s.over = b[:room], true
	}
	s.token = append(s.token, b...)
}

// text reads on in a string that is kept.
func (s *scanner) text(p []byte, i int) int {
	start := i
	for ; i < len(p); i++ {
		switch c := p[i]; {
		case s.escaped:
			s.escaped = false
		case c == '\\':
			s.escaped, s.slashes = true, true
		case c == '"':
			s.keep(p[start:i])
			s.ended()
			return i + 1
		}
	}
	s.keep(p[start:])
	return i
}

func (s *scanner) ended() {
	value := s.token
	if s.slashes {
		var dec string
		if !s.over && json.Unmarshal(append(append([]byte{'"'}, s.token...), '"'), &dec) == nil {
			value = []byte(dec)
		}
	}
	if s.isKey {
		top := s.stack[len(s.stack)-1]
		s.next = nil
		if !s.over && top.w != nil {
			s.next = top.w.members[string(value)]
		}
		s.state = atColon
		return
	}
	s.next.scalar(s.facts, strings.ToValidUTF8(string(value), "�"))
	s.done()
}

// bareword reads on in a number or literal that is kept.
func (s *scanner) bareword(p []byte, i int) int {
	start := i
	for ; i < len(p); i++ {
		switch p[i] {
		case ',', '}', ']', ' ', '\n', '\r', '\t':
			s.keep(p[start:i])
			if v := string(s.token); v != "null" {
				s.next.scalar(s.facts, v)
			}
			s.done()
			return i
		}
	}
	s.keep(p[start:])
	return i
}

// structure marks the bytes at which passing over a value must look twice.
var structure = func() (t [256]uint8) {
	t['"'], t['{'], t['['], t['}'], t[']'] = 1, 2, 2, 3, 3
	return t
}()

// skip passes over a value that nobody wants: this is where result pages spend
// their bytes, so it looks at as little as it can.
func (s *scanner) skip(p []byte, i int) int {
	if s.bare {
		for ; i < len(p); i++ {
			switch p[i] {
			case ',', '}', ']', ' ', '\n', '\r', '\t':
				s.done()
				return i
			}
		}
		return i
	}
	depth, inStr := s.depth, s.inStr
	for i < len(p) {
		if inStr {
			if s.escaped {
				s.escaped = false
				i++
				continue
			}
			for i < len(p) && p[i] != '"' && p[i] != '\\' {
				i++
			}
			if i == len(p) {
				break
			}
			s.escaped = p[i] == '\\'
			inStr = s.escaped
			i++
			if !inStr && depth == 0 {
				s.done()
				return i
			}
			continue
		}
		for i < len(p) && structure[p[i]] == 0 {
			i++
		}
		if i == len(p) {
			break
		}
		switch structure[p[i]] {
		case 1:
			inStr = true
		case 2:
			depth++
		case 3:
			depth--
			if depth == 0 {
				s.done()
				return i + 1
			}
		}
		i++
	}
	s.depth, s.inStr = depth, inStr
	return i
}
