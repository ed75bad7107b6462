package admin

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/approval"
	"github.com/trailgate/trailgate/internal/index"
)

const (
	actionApprovals = "approval.list"
	actionApproval  = "approval.show"
	actionApprove   = "approval.approve"
	actionDeny      = "approval.deny"
)

const (
	maxListed     = 500     // approvals
	maxShownInRow = 1 << 10 // bytes of a statement in a list
	recentCalls   = 10      // of an agent, for whoever decides about its next one
)

// The doors of package approval.
var approvalDoors = map[string]string{viaOIDC: "login", viaToken: "api", viaSocket: "cli", viaCLI: "cli", ViaDemo: approval.Demo}

// voter is the caller as approvals know humans.
func voter(who caller) approval.Vote {
	v := approval.Vote{Human: who.actor, Via: approvalDoors[who.via]}
	for _, r := range who.roles {
		v.Roles = append(v.Roles, string(r))
	}
	return v
}

// shownFacts is what a dry run said.
type shownFacts struct {
	Ran           bool     `json:"ran"`
	Error         string   `json:"error,omitempty"`
	StatementType string   `json:"statement_type,omitempty"`
	Read          []string `json:"read,omitempty"`
	Written       []string `json:"written,omitempty"`
	Bytes         int64    `json:"bytes"`
}

type shownVote struct {
	Human   string    `json:"human"`
	Verdict string    `json:"verdict"`
	Reason  string    `json:"reason,omitempty"`
	Via     string    `json:"via"`
	At      time.Time `json:"at"`
	Entry   string    `json:"entry,omitempty"`
	Void    bool      `json:"void,omitempty"`
}

// shownApproval is a question to humans as the API shows it.
type shownApproval struct {
	ID         string              `json:"id"`
	State      string              `json:"state"`
	Created    time.Time           `json:"created"`
	Expires    time.Time           `json:"expires"`
	ReleaseBy  *time.Time          `json:"release_by,omitempty"`
	Ended      *time.Time          `json:"ended,omitempty"`
	Principal  trailgate.Principal `json:"principal"` // verified
	Session    string              `json:"session,omitempty"`
	Connection string              `json:"connection"`
	Project    string              `json:"project,omitempty"`
	Method     string              `json:"method,omitempty"`
	Class      string              `json:"class,omitempty"`

	StatementType   string           `json:"statement_type,omitempty"`
	Statement       string           `json:"statement,omitempty"`
	StatementSHA256 string           `json:"statement_sha256,omitempty"`
	StatementCut    bool             `json:"statement_cut,omitempty"`
	Tables          trailgate.Tables `json:"tables"`
	Destinations    []string         `json:"destinations,omitempty"`
	Facts           shownFacts       `json:"facts"`

	Rule         string   `json:"rule,omitempty"`
	PolicyDigest string   `json:"policy_digest,omitempty"`
	Reason       string   `json:"reason,omitempty"`
	From         []string `json:"from"`
	Need         int      `json:"need"`

	CallSHA256  string      `json:"call_sha256"`
	HeldEntry   string      `json:"held_entry"`
	IntentEntry string      `json:"intent_entry,omitempty"`
	Replaces    string      `json:"replaces,omitempty"`
	JobID       string      `json:"job_id,omitempty"`
	Votes       []shownVote `json:"votes"`
	// MayVote says whether the caller's approval would count; MayNot why it would not.
	MayVote bool   `json:"may_vote"`
	MayNot  string `json:"may_not,omitempty"`
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func showApproval(q *approval.Request, who caller) shownApproval {
	s := shownApproval{
		ID: q.ID, State: string(q.State), Created: q.Created.UTC(), Expires: q.Expires.UTC(), ReleaseBy: moment(q.ReleaseBy), Ended: moment(q.Ended),
		Principal: q.Principal, Session: q.Session, Connection: q.Connection, Project: q.Project, Method: q.Method, Class: string(q.Class),
		StatementType: q.StatementType, Statement: q.Statement, StatementSHA256: q.StatementSHA256, StatementCut: q.StatementCut,
		Tables: q.Tables, Destinations: q.Destinations,
		Facts: shownFacts(q.Facts),
		Rule:  q.Rule, PolicyDigest: q.PolicyDigest, Reason: q.Reason, From: q.From, Need: q.Need, CallSHA256: q.CallSHA256,
		HeldEntry: q.HeldEntry, IntentEntry: q.IntentEntry, Replaces: q.Replaces, JobID: q.JobID, Votes: []shownVote{},
	}
	for _, v := range q.Votes {
		s.Votes = append(s.Votes, shownVote{v.Human, string(v.Verdict), v.Reason, v.Via, v.At.UTC(), v.Entry, v.Void})
	}
	yes := voter(who)
	yes.Verdict = approval.Approve
	switch err := q.May(yes); {
	case q.State != approval.StatePending:
		s.MayNot = "it is " + string(q.State)
	case err != nil:
		s.MayNot = err.Error()
	default:
		s.MayVote = true
	}
	return s
}

func (a *API) approvals() (*approval.Store, error) {
	if a.cfg.Approvals == nil {
		return nil, &Error{Code: http.StatusNotFound, Message: "no gateway runs here, so nothing waits for approval"}
	}
	return a.cfg.Approvals, nil
}

// listApprovals is GET approvals.
func (a *API) listApprovals(w http.ResponseWriter, r *request) error {
	store, err := a.approvals()
	if err != nil {
		return err
	}
	f := approval.Filter{State: approval.State(r.query.Get("state")), Agent: r.query.Get("agent"), Limit: maxListed}
	if f.State == "open" {
		f.State, f.Open = "", true
	}
	if _, err := a.record(r, actionApprovals, "", map[string]string{"state": r.query.Get("state"), "agent": f.Agent}); err != nil {
		return err
	}
	out := struct {
		Approvals []shownApproval `json:"approvals"`
	}{[]shownApproval{}}
	for _, q := range store.List(f) {
		s := showApproval(&q, r.who)
		if len(s.Statement) > maxShownInRow {
			s.Statement, s.StatementCut = clip(s.Statement, maxShownInRow), true
		}
		out.Approvals = append(out.Approvals, s)
	}
	return reply(w, http.StatusOK, out)
}

// getApproval is GET approvals/{approval_id}: all that is needed to decide.
func (a *API) getApproval(w http.ResponseWriter, r *request) error {
	store, err := a.approvals()
	if err != nil {
		return err
	}
	id := r.args["approval_id"]
	if _, err := a.record(r, actionApproval, id, nil); err != nil {
		return err
	}
	q, err := store.Get(id)
	if err != nil {
		return err
	}
	out := struct {
		Approval shownApproval     `json:"approval"`
		Claims   *trailgate.Claims `json:"claims,omitempty"` // the client's word
		Recent   []index.Row       `json:"recent"`           // what the agent did before, newest first
	}{Approval: showApproval(&q, r.who), Recent: []index.Row{}}
	// The index may lag, or be away: what it adds is not needed to decide.
	if stages, err := a.cfg.Index.Lookup(r.Context(), q.HeldEntry); err == nil && len(stages) > 0 {
		out.Claims = stages[0].Claims
	}
	rows, _, err := a.cfg.Index.Search(r.Context(), index.Query{
		// Not that it asked whether the call may go by now.
		Filter: `agent = ` + strconv.Quote(q.Principal.Agent) + ` AND kind = ("intent" OR "denied" OR "held") AND time < ` + strconv.Quote(q.Created.UTC().Format(time.RFC3339Nano)) +
			` AND NOT method = ("bigquery.jobs.get" OR "bigquery.jobs.getQueryResults" OR "discovery.apis.getRest")`,
		PageSize: 3 * recentCalls,
	})
	if err == nil && rows != nil {
		out.Recent = theirs(rows)
	}
	return reply(w, http.StatusOK, out)
}

// theirs are an agent's own calls among those in its name, at most recentCalls: not the
// dry runs that the gateway made for their sake.
func theirs(rows []index.Row) []index.Row {
	rows = slices.DeleteFunc(rows, func(r index.Row) bool { return r.Entry.Request != nil && r.Entry.Request.For != "" })
	return rows[:min(len(rows), recentCalls)]
}

func (a *API) approve(w http.ResponseWriter, r *request) error {
	return a.vote(w, r, approval.Approve, actionApprove)
}

func (a *API) deny(w http.ResponseWriter, r *request) error {
	return a.vote(w, r, approval.Deny, actionDeny)
}

// vote is POST approvals/{approval_id}:approve and :deny. The entry is made durable
// before the vote counts; a crash between the two leaves an entry of a vote that has
// to be given again.
func (a *API) vote(w http.ResponseWriter, r *request, verdict approval.Verdict, action string) error {
	var in struct {
		Reason string `json:"reason"`
	}
	if err := decode(w, r, &in, true); err != nil {
		return err
	}
	store, err := a.approvals()
	if err != nil {
		return err
	}
	if verdict == approval.Deny && in.Reason == "" {
		return invalid("say why: the agent and its human are told the reason")
	}
	id := r.args["approval_id"]
	v := voter(r.who)
	v.Verdict, v.Reason = verdict, in.Reason
	after, err := store.Vote(context.WithoutCancel(r.Context()), id, v, func(after approval.Request, v approval.Vote) error {
		return a.recordVote(r, action, &after, v)
	})
	if err != nil {
		return a.refusedVote(r, action, id, err)
	}
	if a.cfg.Voted != nil && after.State != approval.StatePending {
		a.cfg.Voted(context.WithoutCancel(r.Context()), after)
	}
	return reply(w, http.StatusOK, showApproval(&after, r.who))
}

// recordVote writes the entry of a vote: the held call's next stage.
func (a *API) recordVote(r *request, action string, q *approval.Request, v approval.Vote) error {
	e := &trailgate.Entry{
		Kind: trailgate.KindApproved, IntentID: q.HeldEntry, Session: q.Session, Connection: q.Connection, Project: q.Project,
		Method: q.Method, Class: q.Class, Principal: &trailgate.Principal{Agent: q.Principal.Agent}, Client: r.who.client,
		Decision: &trailgate.Decision{Effect: "require_approval", Rule: q.Rule, ApprovalID: q.ID, Reason: clip(v.Reason, 1024)},
		Event:    &trailgate.Event{Action: action, Target: q.ID, Actor: r.who.actor, Via: r.who.via, Detail: map[string]string{"need": strconv.Itoa(q.Need)}},
	}
	have := 0
	for _, x := range q.Votes {
		if x.Verdict == approval.Approve && !x.Void {
			have++
			e.Decision.Approvers = append(e.Decision.Approvers, clip(x.Human, maxTarget))
		}
	}
	e.Event.Detail["have"] = strconv.Itoa(have)
	switch q.State {
	case approval.StateApproved:
		e.Decision.Effect = "allow"
	case approval.StateDenied:
		e.Kind, e.Decision.Effect = trailgate.KindDenied, "deny"
	}
	if err := a.append(r.Context(), e); err != nil {
		return &Error{Code: http.StatusServiceUnavailable, Message: "the vote does not count: it could not be recorded first: " + err.Error(), cause: err}
	}
	return nil
}

// refusedVote records a vote that did not count, and says why.
func (a *API) refusedVote(r *request, action, id string, err error) error {
	code := 0
	switch {
	case errors.Is(err, approval.ErrOwn), errors.Is(err, approval.ErrNotAsked), errors.Is(err, approval.ErrDoor):
		code = http.StatusForbidden
	case errors.Is(err, approval.ErrDecided):
		code = http.StatusConflict
	default:
		return err
	}
	if _, rerr := a.record(r, action, id, map[string]string{"refused": err.Error()}); rerr != nil {
		return rerr
	}
	return &Error{Code: code, Message: err.Error(), cause: err}
}

// StillMay reports whether the human behind a vote could give it today, as far as is
// known: their newest sign-in since the gateway's start gave them the role for which
// they were asked. Who was asked by name, or owns the gateway's machine, still may.
func (a *API) StillMay(v approval.Vote, from []string) bool {
	if v.Via != approvalDoors[viaOIDC] || a.login == nil {
		return true
	}
	a.login.mu.Lock()
	roles, known := a.login.latest[v.Human]
	a.login.mu.Unlock()
	if !known {
		return true
	}
	for _, f := range from {
		if name, ok := strings.CutPrefix(f, "human:"); ok && strings.EqualFold(name, v.Human) {
			return len(roles) > 0
		}
		if role, ok := strings.CutPrefix(f, "role:"); ok && slices.Contains(roles, Role(role)) {
			return true
		}
	}
	return false
}
