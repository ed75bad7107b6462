package approval

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
)

// State is where a request stands.
type State string

// The states. Only pending, approved and releasing can change.
const (
	StatePending   State = "pending"   // waits for humans
	StateApproved  State = "approved"  // enough humans agreed; not used yet
	StateReleasing State = "releasing" // a call has claimed it, its intent may or may not be in the trail
	StateReleased  State = "released"  // used: the intent is in the trail
	StateDenied    State = "denied"    // one human said no
	StateExpired   State = "expired"   // nobody decided, or nobody used it, in time
	StateCancelled State = "cancelled" // withdrawn by its own agent, or with it
	StateChanged   State = "changed"   // what the humans saw is no longer so; a new request takes its place
)

// Open reports whether the request can still be voted on or used.
func (s State) Open() bool { return s == StatePending || s == StateApproved }

// Final reports whether the state is the last.
func (s State) Final() bool {
	switch s {
	case StateReleased, StateDenied, StateExpired, StateCancelled, StateChanged:
		return true
	default:
		return false
	}
}

// Request is a question to humans: may this agent make exactly this call?
type Request struct {
	ID    string `json:"id"` // "apr_" and a ULID in lower case; given by Hold
	State State  `json:"state"`

	Created time.Time `json:"created"`
	// Expires is when a decision comes too late. Hold wants it within MaxSpan.
	Expires time.Time `json:"expires"`
	// Decided is when the humans decided: approved or denied.
	Decided time.Time `json:"decided,omitzero"`
	// ReleaseBy is when an approval can no longer be used.
	ReleaseBy time.Time `json:"release_by,omitzero"`
	// Ended is when the state became final; Released the same, where it was used.
	Ended    time.Time `json:"ended,omitzero"`
	Released time.Time `json:"released,omitzero"`

	Principal  trailgate.Principal `json:"principal"`
	Session    string              `json:"session,omitempty"`
	Connection string              `json:"connection"`
	Project    string              `json:"project,omitempty"`
	Location   string              `json:"location,omitempty"`
	Method     string              `json:"method,omitempty"`
	Class      trailgate.Class     `json:"class,omitempty"`
	Classes    []trailgate.Class   `json:"classes,omitempty"`

	StatementType string `json:"statement_type,omitempty"`
	// Statement is the text, or its first MaxStatementBytes; StatementSHA256 is of
	// the whole, hex.
	Statement       string           `json:"statement,omitempty"`
	StatementSHA256 string           `json:"statement_sha256,omitempty"`
	StatementCut    bool             `json:"statement_cut,omitempty"`
	Tables          trailgate.Tables `json:"tables,omitzero"`
	Destinations    []string         `json:"destinations,omitempty"`

	// Rule is what asked, under PolicyDigest, and Reason what it says.
	Rule         string `json:"rule,omitempty"`
	PolicyDigest string `json:"policy_digest,omitempty"`
	Reason       string `json:"reason,omitempty"`
	// From says who may decide: "human:ada@example.com", "role:approver",
	// "role:admin". Need is how many different humans must approve.
	From []string `json:"from"`
	Need int      `json:"need"`

	// CallSHA256 is of the exact canonical call, FactsSHA256 of what the dry run
	// said about it, both hex.
	CallSHA256  string `json:"call_sha256"`
	FactsSHA256 string `json:"facts_sha256"`
	Facts       Facts  `json:"facts,omitzero"`

	// HeldEntry is the trail's entry of the held call, IntentEntry the one of the
	// call that used the approval.
	HeldEntry   string `json:"held_entry"`
	IntentEntry string `json:"intent_entry,omitempty"`
	// Replaces is the request that was asked before what it was about changed.
	Replaces string `json:"replaces,omitempty"`

	// JobProject and JobID name the job of a held jobs.insert, which the client
	// sees as PENDING.
	JobProject string `json:"job_project,omitempty"`
	JobID      string `json:"job_id,omitempty"`

	Call  Stored `json:"call,omitzero"`
	Votes []Vote `json:"votes,omitempty"`
}

// Facts is what the dry run said.
type Facts struct {
	Ran           bool     `json:"ran,omitempty"`
	Error         string   `json:"error,omitempty"`
	StatementType string   `json:"statement_type,omitempty"`
	Read          []string `json:"read,omitempty"`
	Written       []string `json:"written,omitempty"`
	Bytes         int64    `json:"bytes,omitempty"` // that it would process
}

// Stored is what is forwarded at the release. It must hold no credential: it is
// on the disk as it is.
type Stored struct {
	Method string            `json:"method,omitempty"` // HTTP's
	Target string            `json:"target,omitempty"` // escaped path and query
	Header map[string]string `json:"header,omitempty"` // forgotten in a final state
	// Body is handed to Hold and given back by Claim, and nowhere else: it stays
	// on the disk, and is removed when the state is final.
	Body       []byte `json:"-"`
	BodyBytes  int64  `json:"body_bytes,omitempty"`
	BodySHA256 string `json:"body_sha256,omitempty"` // hex; absent where there is no body
}

// Verdict is a human's answer.
type Verdict string

// The verdicts.
const (
	Approve Verdict = "approve"
	Deny    Verdict = "deny"
)

// Vote is one human's answer.
type Vote struct {
	// Human is who, as the door they came through verified it: an e-mail address,
	// or "admin-token", "local", "local:…", "uid:…" for whoever holds the gateway's
	// own token or machine.
	Human   string    `json:"human"`
	Roles   []string  `json:"roles,omitempty"`
	Verdict Verdict   `json:"verdict"`
	Reason  string    `json:"reason,omitempty"` // at most MaxReasonBytes
	Via     string    `json:"via"`              // "login", "cli" or "api"; "demo": made up
	At      time.Time `json:"at"`               // given by Vote
	Entry   string    `json:"entry,omitempty"`  // the trail's entry of this vote
	// Void means that the human could no longer approve when it came to the release.
	Void bool `json:"void,omitempty"`
}

// Bounds of a request.
const (
	MaxStatementBytes = 64 << 10
	MaxBodyBytes      = 16 << 20
	MaxReasonBytes    = 1 << 10
	MaxSpan           = 7 * 24 * time.Hour // of Expires, from now
	maxNeed           = 100
	maxFrom           = 100
	maxVotes          = 100
	maxActors         = 100
)

var (
	idForm     = regexp.MustCompile(`^apr_[0-9a-hjkmnp-tv-z]{26}$`)
	sha256Form = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// deadline is when the state ends by itself. It is that of an approval while
// that is being used, too.
func (r *Request) deadline() (at time.Time, span time.Duration) {
	if r.ReleaseBy.IsZero() {
		return r.Expires, r.Expires.Sub(r.Created)
	}
	return r.ReleaseBy, r.ReleaseBy.Sub(r.Decided)
}

// Denial is the vote that denied the request, or nil.
func (r *Request) Denial() *Vote {
	for i, v := range r.Votes {
		if v.Verdict == Deny {
			return &r.Votes[i]
		}
	}
	return nil
}

// clone copies all that a caller could change.
func (r *Request) clone() Request {
	c := *r
	c.Principal.Actors = slices.Clone(r.Principal.Actors)
	c.Classes = slices.Clone(r.Classes)
	c.Tables.Read, c.Tables.Written = slices.Clone(r.Tables.Read), slices.Clone(r.Tables.Written)
	c.Destinations = slices.Clone(r.Destinations)
	c.From = slices.Clone(r.From)
	c.Facts.Read, c.Facts.Written = slices.Clone(r.Facts.Read), slices.Clone(r.Facts.Written)
	c.Call.Header = maps.Clone(r.Call.Header)
	c.Votes = slices.Clone(r.Votes)
	for i := range c.Votes {
		c.Votes[i].Roles = slices.Clone(c.Votes[i].Roles)
	}
	return c
}

// checkAsked looks at what a caller of Hold gives, and what a file must have.
func (r *Request) checkAsked() error {
	switch {
	case r.Principal.Agent == "" || r.Connection == "" || r.HeldEntry == "":
		return fmt.Errorf("agent, connection and held entry are needed")
	case len(r.Principal.Actors) > maxActors:
		return fmt.Errorf("%d actors, at most %d", len(r.Principal.Actors), maxActors)
	case !sha256Form.MatchString(r.CallSHA256) || !sha256Form.MatchString(r.FactsSHA256):
		return fmt.Errorf("the SHA-256 of call and facts are needed, in lower-case hex")
	case r.StatementSHA256 != "" && !sha256Form.MatchString(r.StatementSHA256):
		return fmt.Errorf("statement_sha256 is no SHA-256 in lower-case hex")
	case len(r.Statement) > MaxStatementBytes:
		return fmt.Errorf("a statement of %d bytes", len(r.Statement))
	case (r.JobID == "") != (r.JobProject == ""):
		return fmt.Errorf("job project and job id go together")
	case r.Need < 1 || r.Need > maxNeed:
		return fmt.Errorf("need is %d, want 1 to %d", r.Need, maxNeed)
	case len(r.From) == 0 || len(r.From) > maxFrom:
		return fmt.Errorf("%d who may decide, want 1 to %d", len(r.From), maxFrom)
	}
	for _, from := range r.From {
		kind, name, _ := strings.Cut(from, ":")
		if (kind != "human" && kind != "role") || strings.TrimSpace(name) == "" {
			return fmt.Errorf("%q is nobody who could decide: want \"human:ada@example.com\" or \"role:approver\"", from)
		}
	}
	return nil
}

// check looks for anything that no sequence of this package's methods makes. A
// file that was edited to say "approved" without votes that suffice is refused.
func (r *Request) check() error {
	if err := r.checkAsked(); err != nil {
		return err
	}
	switch {
	case !idForm.MatchString(r.ID) || (r.Replaces != "" && !idForm.MatchString(r.Replaces)):
		return fmt.Errorf("the id is not one of ours")
	case !r.State.Open() && !r.State.Final() && r.State != StateReleasing:
		return fmt.Errorf("there is no state %q", r.State)
	case r.Created.IsZero() || !r.Expires.After(r.Created) || r.Expires.Sub(r.Created) > MaxSpan:
		return fmt.Errorf("created and expires do not fit")
	case r.State.Final() == r.Ended.IsZero() || (r.State == StateReleased) == r.Released.IsZero():
		return fmt.Errorf("the state is %s, and its end does not fit", r.State)
	case (r.State == StateReleasing || r.State == StateReleased) != (r.IntentEntry != ""):
		return fmt.Errorf("the state is %s, and its intent does not fit", r.State)
	case (r.State == StateDenied) != (r.Denial() != nil):
		return fmt.Errorf("the state is %s, and a denial does not fit", r.State)
	case r.Call.BodyBytes < 0 || r.Call.BodyBytes > MaxBodyBytes || (r.Call.BodyBytes > 0 && !sha256Form.MatchString(r.Call.BodySHA256)):
		return fmt.Errorf("the body's size or SHA-256 is not one")
	case len(r.Votes) > maxVotes:
		return fmt.Errorf("%d votes, at most %d are kept", len(r.Votes), maxVotes)
	}
	for i, v := range r.Votes {
		if err := r.checkVote(v); err != nil {
			return fmt.Errorf("vote %d: %w", i, err)
		}
	}
	switch r.State {
	case StatePending:
		if !r.ReleaseBy.IsZero() || r.approvals() >= r.Need {
			return fmt.Errorf("it is pending, and approved")
		}
	case StateApproved, StateReleasing, StateReleased:
		if r.Decided.IsZero() || !r.ReleaseBy.After(r.Decided) || r.ReleaseBy.Sub(r.Decided) > MaxSpan || r.approvals() < r.Need {
			return fmt.Errorf("the state is %s, and nobody's votes suffice for that", r.State)
		}
	case StateDenied, StateExpired, StateCancelled, StateChanged:
	}
	return nil
}
