package policy

import (
	"strconv"
	"strings"
	"time"
)

// What a rule may decide.
const (
	Allow           = "allow"
	Deny            = "deny"
	RequireApproval = "require_approval"
)

// DefaultDeny is the name under which a call is denied that no rule matched.
const DefaultDeny = "builtin/default-deny"

// Bounds of a set.
const (
	MaxFiles      = 100
	MaxFileBytes  = 1 << 20
	MaxRules      = 2000
	MaxWhenBytes  = 8 << 10
	MaxTextBytes  = 1 << 10 // a message or a reason
	MaxApprovers  = 100
	MaxApprovals  = 10
	MaxExpiry     = 7 * 24 * time.Hour
	DefaultExpiry = time.Hour
)

// Decision is the answer to a call.
type Decision struct {
	Effect string // Allow, Deny or RequireApproval
	Rule   string // the rule that decided, or DefaultDeny
	// Reason is for the agent and its human: a rule's message, or why it could not be
	// evaluated. It may be empty where Effect is Allow.
	Reason string
	// Failed says that the rule did not say no: it could not be evaluated.
	Failed   bool
	Limits   Limits   // where Effect is Allow, or RequireApproval: for when it is approved
	Approval Approval // where Effect is RequireApproval
}

// Limits bound a call that is allowed. The zero value of a field: no such limit.
type Limits struct {
	MaximumBytesBilled int64         // bytes; the lower of this and the client's own goes upstream
	JobTimeout         time.Duration // jobTimeoutMs upstream; whole milliseconds
	MaxRows            int64         // rows that the session may read back from the job
	MaxBytes           int64         // bytes of answers
	Recording          string        // recording level; "" leaves the connection's
	RequireLabels      []string      // job labels that the client must have set; checked by Evaluate
	ReadOnly           bool          // BigQuery must call the statement a SELECT; checked by Evaluate
}

// The recording levels.
const (
	RecordMetadata = "metadata" // who, what, when, tables, counts
	RecordRequest  = "request"  // and the statement with its parameters
	RecordResults  = "results"  // and the rows of answers
)

// Map is the limits as an entry's decision holds them: names as in a policy
// file, sizes in bytes, times in milliseconds. Nil where there are none.
func (l Limits) Map() map[string]string {
	out := map[string]string{}
	number := func(name string, n int64) {
		if n != 0 {
			out[name] = strconv.FormatInt(n, 10)
		}
	}
	number("maximum_bytes_billed", l.MaximumBytesBilled)
	number("job_timeout_ms", l.JobTimeout.Milliseconds())
	number("max_rows", l.MaxRows)
	number("max_bytes", l.MaxBytes)
	if l.Recording != "" {
		out["recording"] = l.Recording
	}
	if len(l.RequireLabels) > 0 {
		out["require_labels"] = strings.Join(l.RequireLabels, ",")
	}
	if l.ReadOnly {
		out["read_only"] = "true"
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// Approval is who must agree, and for how long they may take.
type Approval struct {
	// From are those who may: "human:ada@example.com" or "role:approver". Whoever asked
	// for the call may not, whatever stands here.
	From      []string
	Approvals int           // how many different humans must; at least 1
	Expires   time.Duration // how long the call waits
}

// File is a policy file.
type File struct {
	Name string // for messages
	Data []byte
}

// Rule describes a rule of a set.
type Rule struct {
	Name, File string
	Line       int
	When       string // the condition as written
	Effect     string
	Message    string // of a denial, or the reason to approve
	Limits     Limits
	Approval   Approval
	// ReadsDryRun says that the rule may ask for a dry run.
	ReadsDryRun bool
}

// Digest is the SHA-256, hex, over all files the set was made from, in order.
func (s *Set) Digest() string { return s.digest }

// Rules lists the set's rules in the order in which they are tried.
func (s *Set) Rules() []Rule {
	out := make([]Rule, len(s.rules))
	for i := range s.rules {
		out[i] = s.rules[i].Rule
		out[i].Limits.RequireLabels = append([]string(nil), out[i].Limits.RequireLabels...)
		out[i].Approval.From = append([]string(nil), out[i].Approval.From...)
	}
	return out
}

// ReadsDryRun says whether any rule may ask for a dry run.
func (s *Set) ReadsDryRun() bool {
	for i := range s.rules {
		if s.rules[i].ReadsDryRun {
			return true
		}
	}
	return false
}
