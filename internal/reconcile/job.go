package reconcile

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"time"
)

// Job is what BigQuery recorded of one job, or of a read that makes none.
type Job struct {
	Project, ID, Location string
	Parent                string // the script's job, of its statements
	// Principal is user_email, Subject principal_subject without its "user:" or
	// "serviceAccount:".
	Principal, Subject string
	Created            time.Time
	Type               string // QUERY, LOAD, COPY, EXTRACT
	StatementType      string
	Statement          *Statement // nil where the source does not tell, or there is none
	Labels             Labels
	Done               bool
	ErrorReason        string
	// Figures are final where Done; what the source leaves out is -1.
	Processed, Billed, Affected int64
	SlotMillis                  int64
	CacheHit                    bool
	// Method is set for what makes no job (audit logs alone), such as
	// "tabledata.list"; ID is then empty and Insert names the log entry.
	Method, Insert string
	Resource       string // the table or other resource, for those
	Reason         string // what came as X-Goog-Request-Reason (audit logs alone)
}

// Statement is a query's text, of which no more than maxStatementText is kept.
type Statement struct {
	SHA256 [sha256.Size]byte
	Length int64
	Text   string // whole, or empty
}

const maxStatementText = 1 << 10

func statementOf(text string) *Statement {
	s := &Statement{SHA256: sha256.Sum256([]byte(text)), Length: int64(len(text))}
	if len(text) <= maxStatementText {
		s.Text = strings.Clone(text) // without the page that it came in
	}
	return s
}

// Labels are a job's labels under "trailgate_".
type Labels struct {
	Entry, Agent, Session string
	Other                 string // one that the gateway never writes
}

// prefix is the gateway's own, in labels and job ids.
const prefix = "trailgate_"

func (l *Labels) set(key, value string) {
	switch key {
	case prefix + "entry":
		l.Entry = value
	case prefix + "agent":
		l.Agent = value
	case prefix + "session":
		l.Session = value
	default:
		if strings.HasPrefix(key, prefix) {
			l.Other = key
		}
	}
}

// any reports whether one of them is there.
func (l *Labels) any() bool { return *l != Labels{} }

// key names a job among all.
func (j *Job) key() string { return j.Project + ":" + j.ID }

// place names it among those of one name too: a name is taken in one location at a time.
func (j *Job) place() string { return j.key() + "@" + strings.ToLower(j.Location) }

// elsewhere reports whether two locations are known and not the same.
func elsewhere(a, b string) bool { return a != "" && b != "" && !strings.EqualFold(a, b) }

// ranAs reports whether a principal of the trail is the one that BigQuery names.
func (j *Job) ranAs(principal string) bool {
	return strings.EqualFold(principal, j.Principal) || j.Subject != "" && principal == j.Subject
}

// who names whom BigQuery says the job ran as.
func (j *Job) who() string {
	if j.Principal != "" {
		return j.Principal
	}
	return j.Subject
}

func subject(s string) string {
	for _, kind := range []string{"user:", "serviceAccount:"} {
		if rest, ok := strings.CutPrefix(s, kind); ok {
			return rest
		}
	}
	return s
}

// ErrNoJob is what a [Getter] says of a job that BigQuery does not have.
var ErrNoJob = errors.New("BigQuery has no such job")

// Source reads what BigQuery recorded. Implementations are safe for one run at a
// time.
type Source interface {
	// Name is "jobs", "information-schema" or "audit-log".
	Name() string
	// Jobs calls fn for each job that was created from from on and before until, in
	// any order and perhaps more than once; the last word of a job counts most. It
	// ends with fn's error, if that returns one.
	Jobs(ctx context.Context, project string, from, until time.Time, fn func(*Job) error) error
}

// Getter is a source that can be asked about one job, and whose word is final.
type Getter interface {
	// Get returns the job, or an error that is ErrNoJob.
	Get(ctx context.Context, project, id, location string) (*Job, error)
}
