package index

import (
	"math/bits"
	"net"
	"strconv"

	"github.com/trailgate/trailgate"
)

// The kinds of term. In the index a term is '=', its letter (or digit), and the
// base-36 number that dict (or tbl, or job) gives its text; a word of a
// statement is a term without '='. So no text from an entry can pass for
// another kind of term. The letter is also dict's field.
const (
	termAgent      = 'a'
	termHost       = 'c' // the client's address without its port
	termDecision   = 'd'
	termError      = 'e'
	termFlag       = 'f'
	termClass      = 'g'
	termHuman      = 'h'
	termKind       = 'i' // of each stage
	termJob        = 'j'
	termToken      = 'k'
	termLocation   = 'l'
	termMethod     = 'm'
	termConnection = 'n'
	termProject    = 'p'
	termDataset    = 'q' // text: project NUL dataset, of a table
	termRule       = 'r'
	termSession    = 's'
	termTable      = 't'
	termUserAgent  = 'u'
	termAction     = 'v'
	termTableOwner = 'w' // the project part of a table
	termStatus     = 'x'
	termType       = 'y' // statement type, as told by anyone
	termState      = 'z' // but for pending
	// The tokenizer folds these into letters above. That joins nothing: a number
	// of dict belongs to one text of one field.
	termAuthMode     = 'M'
	termClaimedHuman = 'H'
	termIssuer       = 'I'
	termSubject      = 'S'
	termUpstream     = 'U' // the Google identity that the call carried
	termApproval     = 'P' // the question that humans were asked
	termApprover     = 'V' // who said yes
	// Figures: the text is the number of bits.
	termBilled    = '5'
	termProcessed = '6'
	termRows      = '7'
	termAffected  = '8'
	termDuration  = '9'
)

// Terms without a number. (The tokenizer folds case: letters are taken.)
const (
	everyRow  = "=0"
	anyTable  = "=1"
	anyJob    = "=2"
	hasOutput = "=3" // has figures
	makesJobs = "=4" // makes the jobs that it names
)

const (
	// maxDictText bounds what dict keeps of a text, in bytes.
	maxDictText  = 1 << 10
	methodInsert = "bigquery.jobs.insert"
	methodQuery  = "bigquery.jobs.query"
	actionServe  = "serve.start"
)

// state is a row's state as stored. A pending row is shown as open or, where
// the gateway was started since, as indeterminate.
type state int64

const (
	statePending state = iota
	stateDone
	stateFailed
	stateDenied
	stateHeld
	stateRefused
	stateSettled
	stateRecorded
)

// The states of a row, as [Row] and the field "state" have them.
const (
	StateOpen          = "open"          // an intent whose outcome may still come
	StateIndeterminate = "indeterminate" // an intent without outcome, from before the gateway's last start
	StateDone          = "done"          // answered without error
	StateFailed        = "failed"        // answered with an error
	StateDenied        = "denied"
	StateHeld          = "held"
	StateRefused       = "refused"
	StateSettled       = "settled"  // no outcome was recorded; what became of it was found out later
	StateRecorded      = "recorded" // not a call
)

var stateNames = [...]string{
	statePending: StateOpen, stateDone: StateDone, stateFailed: StateFailed, stateDenied: StateDenied,
	stateHeld: StateHeld, stateRefused: StateRefused, stateSettled: StateSettled, stateRecorded: StateRecorded,
}

// name is the state's word; started is the sequence after the gateway's last start.
func (s state) name(seq, started uint64) string {
	switch {
	case s == statePending && seq < started:
		return StateIndeterminate
	case s < 0 || int(s) >= len(stateNames):
		return StateRecorded
	default:
		return stateNames[s]
	}
}

// failedCall reports whether a call in this state counts as an error in sums.
func (s state) failedCall() bool {
	return s == stateFailed || s == stateDenied || s == stateRefused
}

// openingState is the state of a row that has no closing entry.
func openingState(k trailgate.Kind) state {
	switch k {
	case trailgate.KindIntent:
		return statePending
	case trailgate.KindDenied:
		return stateDenied
	case trailgate.KindHeld:
		return stateHeld
	case trailgate.KindRefused:
		return stateRefused
	default:
		return stateRecorded
	}
}

// closingState is the state of a row that this entry closes. A held call that was
// answered by the gateway stays one: if it went on, it did as an entry of its own.
func closingState(held bool, e *trailgate.Entry) state {
	switch {
	case held && e.Outcome != nil && e.Outcome.End == trailgate.EndRefused:
		return stateHeld
	case e.Kind == trailgate.KindSettled:
		return stateSettled
	case e.Outcome != nil && (e.Outcome.ErrorReason != "" || e.Outcome.Status >= 400):
		return stateFailed
	default:
		return stateDone
	}
}

// mayClose reports whether entries of this kind close a call.
func mayClose(k trailgate.Kind) bool {
	return k == trailgate.KindOutcome || k == trailgate.KindSettled
}

// isStage reports whether an entry belongs to the call that the entry opened which it
// names. A denial does where it says what became of a held call; a call of its own,
// with a request, is one that was approved, went on, and was denied then.
func isStage(e *trailgate.Entry) bool {
	switch e.Kind {
	case trailgate.KindApproved, trailgate.KindExpired:
		return true
	case trailgate.KindDenied:
		return e.Request == nil
	default:
		return mayClose(e.Kind)
	}
}

// classBit numbers classes by gravity; what it does not know is "unknown".
func classBit(c trailgate.Class) uint { return uint(c.Gravity() - 1) }

var classesByGravity = [...]trailgate.Class{
	trailgate.ClassMetadataRead, trailgate.ClassRead, trailgate.ClassMetadataChange, trailgate.ClassWrite,
	trailgate.ClassExport, trailgate.ClassAccessChange, trailgate.ClassUnknown,
}

// classMask is the set of an entry's classes.
func classMask(e *trailgate.Entry) int64 {
	var m int64
	if e.Class != "" {
		m |= 1 << classBit(e.Class)
	}
	for _, c := range e.Classes {
		m |= 1 << classBit(c)
	}
	return m
}

// gravest is the name of the gravest class of a set, "" of none.
func gravest(mask int64) string {
	if mask <= 0 || mask >= 1<<len(classesByGravity) {
		return ""
	}
	return string(classesByGravity[bits.Len64(uint64(mask))-1])
}

// figures are the numbers of an outcome, in the order of call's columns.
type figures struct {
	billed, processed, rows, affected, bytes, duration int64
}

func figuresOf(o *trailgate.Outcome) *figures {
	if o == nil {
		return nil
	}
	return &figures{o.BytesBilled, o.BytesProcessed, o.Rows, o.RowsAffected, o.Bytes, o.DurationNanos}
}

type (
	fact struct {
		letter byte
		text   string
	}
	jobName struct{ project, name string }
)

// facts is what one entry brings to its row.
type facts struct {
	seq  uint64
	time int64 // ns since 1970
	kind trailgate.Kind
	id   string

	agent, human, session, connection, method, decision, stype string

	state   state
	classes int64
	port    int64
	makes   bool // the entry says that the call makes the jobs it names
	spoils  bool // the entry says that it made none after all
	tables  []string
	jobs    []jobName
	facts   []fact
	figures *figures
	words   []string // each once
}

func (f *facts) add(letter byte, text string) {
	if text != "" {
		f.facts = append(f.facts, fact{letter, clip(text)})
	}
}

// setFigures takes an outcome's figures over.
func (f *facts) setFigures(o *trailgate.Outcome) {
	if f.figures = figuresOf(o); f.figures == nil {
		return
	}
	f.add(termBilled, bucket(o.BytesBilled))
	f.add(termProcessed, bucket(o.BytesProcessed))
	f.add(termRows, bucket(o.Rows))
	f.add(termAffected, bucket(o.RowsAffected))
	f.add(termDuration, bucket(o.DurationNanos))
}

// setState takes a state over that will not change back.
func (f *facts) setState(s state) {
	if f.state = s; s != statePending {
		f.add(termState, stateNames[s])
	}
}

// clip bounds a dictionary text.
func clip(s string) string { return cut(s, maxDictText) }

// openingFacts is what an entry brings as a row of its own.
func openingFacts(e *trailgate.Entry) *facts {
	f := stageFacts(e)
	f.setState(openingState(e.Kind))
	if p := e.Principal; p != nil {
		f.agent, f.human = clip(p.Agent), clip(p.Human)
		f.add(termToken, p.TokenID)
		f.add(termIssuer, p.Issuer)
		f.add(termSubject, p.Subject)
		f.add(termAuthMode, p.AuthMode)
	}
	f.session, f.connection, f.method = clip(e.Session), clip(e.Connection), clip(e.Method)
	f.add(termAgent, f.agent)
	f.add(termHuman, f.human)
	f.add(termSession, f.session)
	f.add(termConnection, f.connection)
	f.add(termMethod, f.method)
	f.add(termProject, e.Project)
	f.add(termLocation, e.Location)
	host, port := splitClient(e.Client)
	f.add(termHost, host)
	f.port = port
	if d := e.Decision; d != nil {
		f.decision = clip(d.Effect)
		f.add(termDecision, f.decision)
		f.add(termRule, d.Rule)
	}
	if e.Claims != nil {
		f.add(termUserAgent, e.Claims.UserAgent)
		f.add(termClaimedHuman, e.Claims.Human)
	}
	if e.Event != nil {
		f.add(termAction, e.Event.Action)
	}
	f.classes = classMask(e)
	for i, c := range classesByGravity {
		if f.classes>>i&1 == 1 {
			f.add(termClass, string(c))
		}
	}
	f.makes = e.Kind == trailgate.KindIntent && (e.Method == methodInsert || e.Method == methodQuery) &&
		(e.Request == nil || !e.Request.DryRun)
	if f.state != statePending && f.state != stateHeld {
		f.setFigures(e.Outcome)
	}
	return f
}

// closingFacts is what an outcome or settled entry brings to the row it closes.
func closingFacts(held bool, e *trailgate.Entry) *facts {
	f := stageFacts(e)
	f.setState(closingState(held, e))
	f.setFigures(e.Outcome)
	if o := e.Outcome; o != nil {
		f.spoils = o.Status >= 400 || o.End == trailgate.EndNotForwarded || o.End == trailgate.EndRefused
	}
	return f
}

// asked takes over which question humans were asked, and who said yes.
func (f *facts) asked(e *trailgate.Entry) {
	if d := e.Decision; d != nil {
		f.add(termApproval, d.ApprovalID)
		for _, human := range d.Approvers {
			f.add(termApprover, human)
		}
	}
}

// stageFacts is what any stage of a call may tell.
func stageFacts(e *trailgate.Entry) *facts {
	f := &facts{seq: e.Seq, time: e.Time.UnixNano(), kind: e.Kind, id: e.ID}
	f.add(termKind, string(e.Kind))
	f.asked(e)
	if s := e.StatementType; s != nil {
		f.stype = clip(effectiveType(s))
		f.add(termType, s.Local)
		f.add(termType, s.DryRun)
		f.add(termType, s.Final)
	}
	if t := e.Tables; t != nil {
		f.tables = append(append(f.tables, t.Read...), t.Written...)
	}
	if j := e.Job; j != nil {
		project := j.Project
		if project == "" {
			project = e.Project
		}
		if j.ID != "" {
			f.jobs = append(f.jobs, jobName{clip(project), clip(j.ID)})
		}
		for _, c := range j.Children {
			if c != "" {
				f.jobs = append(f.jobs, jobName{clip(project), clip(c)})
			}
		}
	}
	for _, flag := range e.Flags {
		f.add(termFlag, flag)
	}
	if u := e.Upstream; u != nil {
		f.add(termUpstream, u.Principal)
	}
	if o := e.Outcome; o != nil {
		if o.Status != 0 {
			f.add(termStatus, strconv.Itoa(o.Status))
		}
		f.add(termError, o.ErrorReason)
	}
	return f
}

// effectiveType is the statement type as told by who knows best.
func effectiveType(s *trailgate.StatementType) string {
	switch {
	case s.Final != "":
		return s.Final
	case s.DryRun != "":
		return s.DryRun
	default:
		return s.Local
	}
}

// splitClient splits "host:port"; port is 0 where there is none.
func splitClient(s string) (host string, port int64) {
	host, digits, err := net.SplitHostPort(s)
	if err != nil {
		return s, 0
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return s, 0
	}
	return host, int64(n)
}

// bucket is the number of bits of a positive figure, by which a comparison
// finds its candidates.
func bucket(n int64) string {
	if n <= 0 {
		return ""
	}
	return strconv.Itoa(bits.Len64(uint64(n)))
}
