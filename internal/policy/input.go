package policy

import (
	"time"

	"github.com/trailgate/trailgate"
)

// Bounds on what an evaluation looks at. A list that is longer cannot be read by a
// rule: the rule then denies.
const (
	// MaxStatementBytes is how much of the SQL a rule sees.
	MaxStatementBytes = 64 << 10
	// MaxList bounds tables, destinations, flags, actors.
	MaxList = 4096
	// MaxLabels bounds the labels that the client claims.
	MaxLabels = 256
)

// Input is what is known of a call when it is judged. The zero value of a field
// means what the spec says of the variable's absence, mostly "" or no elements.
// An Input must not change while it is evaluated.
type Input struct {
	Principal trailgate.Principal // verified
	Claims    trailgate.Claims    // the client's word; its Labels are the job's

	Connection, Project, Location, Method string
	Class                                 trailgate.Class   // the gravest of Classes
	Classes                               []trailgate.Class // may be empty: then it is Class alone
	StatementType                         string            // by the gateway's own reading
	// Statement is the SQL, all statements of the call, one after the other. Rules see
	// the first MaxStatementBytes of it.
	Statement    string
	Tables       trailgate.Tables // as the gateway read them; Omitted > 0: they cannot be judged
	Destinations []string
	Flags        []string
	Job          trailgate.Job // the zero Job: none
	Request      Request

	// DryRun is what BigQuery says that the call would do. Nil: it was not asked yet,
	// and [Set.Evaluate] says so where a rule needs it.
	DryRun *DryRun

	Session Session
	Budget  Budget
	// Now is the time of the call. Required where a rule looks at it; the zero time
	// makes such a rule deny.
	Now time.Time

	// Unknown names variables whose values here are not what a live call would have
	// had: those that an entry does not record. See [Set.Replay].
	Unknown []string
}

// Request is what the call asked for beside its statement.
type Request struct {
	DryRun             bool   // the client itself asks for a dry run only
	Bytes              int64  // of the body
	MaximumBytesBilled int64  // as the client set it; 0: it did not
	Priority           string // "INTERACTIVE", "BATCH", or "" where the client did not say
}

// DryRun is BigQuery's answer to a dry run of the call, or why there is none.
type DryRun struct {
	// Ran says that BigQuery answered. Otherwise Error says why not, and a rule that
	// reads the other fields denies.
	Ran           bool
	Error         string
	StatementType string
	Read, Written []string // tables that BigQuery says the statement refers to
	Bytes         int64    // estimate of totalBytesProcessed
}

// Session is what the agent's session has done before this call.
type Session struct {
	ID          string
	Calls       int64
	Rows, Bytes int64 // of answers
	BytesBilled int64
	Started     time.Time
}

// Budget is the budget that is nearest to its end of those that hold for the call.
type Budget struct {
	Limited bool   // false: none holds, and the other fields mean nothing
	Name    string // which budget
	// Limit, Used and Reserved are bytes billed in the present period: the most there
	// may be, what settled calls took, and what running ones may yet take.
	Limit, Used, Reserved int64
	Warning               bool // the warning level is reached
}

// remaining is never negative.
func (b Budget) remaining() int64 {
	if !b.Limited {
		return 1<<63 - 1
	}
	left := b.Limit - b.Used
	if left < 0 || left < b.Reserved {
		return 0
	}
	return left - b.Reserved
}

// Methods that make a job, and those that ask about or act on one that exists.
const (
	methodInsert = "bigquery.jobs.insert"
	methodQuery  = "bigquery.jobs.query"
)

var jobMethods = []string{
	"bigquery.jobs.get", "bigquery.jobs.getQueryResults", "bigquery.jobs.cancel", "bigquery.jobs.delete",
}

// makesJob says whether the call makes a job, and so can carry labels.
func (in *Input) makesJob() bool {
	return in.Method == methodInsert || in.Method == methodQuery
}

func (in *Input) jobOwn() bool {
	return in.Principal.Agent != "" && in.Job.OwnerAgent == in.Principal.Agent
}

// jobForeign: the call is about a job that exists, and the agent is not known to
// have made it.
func (in *Input) jobForeign() bool {
	if in.jobOwn() {
		return false
	}
	for _, m := range jobMethods {
		if in.Method == m {
			return true
		}
	}
	return false
}
