package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/trailgate/trailgate"
)

// Approval is a call that waits, or waited, for humans.
type Approval struct {
	ID         string              `json:"id"`
	State      string              `json:"state"`
	Created    time.Time           `json:"created"`
	Expires    time.Time           `json:"expires"`
	ReleaseBy  *time.Time          `json:"release_by,omitempty"`
	Ended      *time.Time          `json:"ended,omitempty"`
	Principal  trailgate.Principal `json:"principal"`
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
	Facts           Facts            `json:"facts"`

	Rule         string   `json:"rule,omitempty"`
	PolicyDigest string   `json:"policy_digest,omitempty"`
	Reason       string   `json:"reason,omitempty"`
	From         []string `json:"from"`
	Need         int      `json:"need"`

	CallSHA256  string `json:"call_sha256"`
	HeldEntry   string `json:"held_entry"`
	IntentEntry string `json:"intent_entry,omitempty"`
	Replaces    string `json:"replaces,omitempty"`
	JobID       string `json:"job_id,omitempty"`
	Votes       []Vote `json:"votes"`
	MayVote     bool   `json:"may_vote"`
	MayNot      string `json:"may_not,omitempty"`
}

// Facts is what BigQuery's dry run said of a statement.
type Facts struct {
	Ran           bool     `json:"ran"`
	Error         string   `json:"error,omitempty"`
	StatementType string   `json:"statement_type,omitempty"`
	Read          []string `json:"read,omitempty"`
	Written       []string `json:"written,omitempty"`
	Bytes         int64    `json:"bytes"`
}

// Vote is one human's answer.
type Vote struct {
	Human   string    `json:"human"`
	Verdict string    `json:"verdict"`
	Reason  string    `json:"reason,omitempty"`
	Via     string    `json:"via"`
	At      time.Time `json:"at"`
	Entry   string    `json:"entry,omitempty"`
	Void    bool      `json:"void,omitempty"`
}

// ApprovalDetail is an approval with what is known beside it.
type ApprovalDetail struct {
	Approval Approval          `json:"approval"`
	Claims   *trailgate.Claims `json:"claims,omitempty"`
	Recent   []Row             `json:"-"` // what the agent did before, newest first
	Raw      json.RawMessage   `json:"-"`
}

// Approvals lists them, newest first. state may be "open"; empty arguments: all.
func (c *Client) Approvals(ctx context.Context, state, agent string) ([]Approval, error) {
	v := url.Values{}
	set(v, "state", state)
	set(v, "agent", agent)
	var out struct {
		Approvals []Approval `json:"approvals"`
	}
	err := c.do(ctx, http.MethodGet, "approvals", v, nil, &out)
	return out.Approvals, err
}

// Approval is one of them, with all that is needed to decide.
func (c *Client) Approval(ctx context.Context, id string) (*ApprovalDetail, error) {
	raw, err := c.read(ctx, http.MethodGet, "approvals/"+url.PathEscape(id), nil, nil)
	if err != nil {
		return nil, err
	}
	out := &ApprovalDetail{Raw: raw}
	var recent struct {
		Recent []Row `json:"recent"`
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &recent); err != nil {
		return nil, err
	}
	out.Recent = recent.Recent
	return out, nil
}

// Approve says yes, for the caller; Deny no, with the reason that the agent is told.
func (c *Client) Approve(ctx context.Context, id, reason string) (*Approval, error) {
	return c.vote(ctx, id, "approve", reason)
}

// Deny is described with [Client.Approve].
func (c *Client) Deny(ctx context.Context, id, reason string) (*Approval, error) {
	return c.vote(ctx, id, "deny", reason)
}

func (c *Client) vote(ctx context.Context, id, verb, reason string) (*Approval, error) {
	in := struct {
		Reason string `json:"reason,omitempty"`
	}{reason}
	var out Approval
	if err := c.do(ctx, http.MethodPost, "approvals/"+url.PathEscape(id)+":"+verb, nil, in, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// Suspension says that somebody may make no calls.
type Suspension struct {
	Scope  string    `json:"scope"`
	Name   string    `json:"name,omitempty"`
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by"`
	Since  time.Time `json:"since"`
}

// Suspended is what a suspension did.
type Suspended struct {
	Suspension Suspension `json:"suspension"`
	Cut        int        `json:"cut"`
	Withdrawn  int        `json:"withdrawn"`
	Cancelled  []struct {
		Agent      string `json:"agent"`
		Connection string `json:"connection"`
		Project    string `json:"project"`
		Job        string `json:"job"`
		Error      string `json:"error,omitempty"`
	} `json:"cancelled"`
	Error string `json:"error,omitempty"`
}

// Suspensions lists who is suspended, the oldest first.
func (c *Client) Suspensions(ctx context.Context) ([]Suspension, error) {
	var out struct {
		Suspensions []Suspension `json:"suspensions"`
	}
	err := c.do(ctx, http.MethodGet, "suspensions", nil, nil, &out)
	return out.Suspensions, err
}

// Suspend ends all calls of an agent ("agent"), over a connection ("connection"), or
// of everybody ("all"), until they are resumed.
func (c *Client) Suspend(ctx context.Context, scope, name, reason string, cancelJobs bool) (*Suspended, error) {
	in := struct {
		Scope      string `json:"scope"`
		Name       string `json:"name,omitempty"`
		Reason     string `json:"reason,omitempty"`
		CancelJobs bool   `json:"cancel_jobs"`
	}{scope, name, reason, cancelJobs}
	var out Suspended
	if err := c.do(ctx, http.MethodPost, "suspensions", nil, in, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// Resume ends a suspension.
func (c *Client) Resume(ctx context.Context, scope, name string) (*Suspension, error) {
	in := struct {
		Scope string `json:"scope"`
		Name  string `json:"name,omitempty"`
	}{scope, name}
	var out Suspension
	if err := c.do(ctx, http.MethodPost, "suspensions:remove", nil, in, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// Reloaded says what a reload changed.
type Reloaded struct {
	Digest       string   `json:"digest,omitempty"`
	Previous     string   `json:"previous,omitempty"`
	Changes      []string `json:"changes"`
	NeedsRestart []string `json:"needs_restart"`
}

// ReloadPolicy has the gateway read its policy and configuration again.
func (c *Client) ReloadPolicy(ctx context.Context) (*Reloaded, error) {
	var out Reloaded
	if err := c.do(ctx, http.MethodPost, "policy:reload", nil, struct{}{}, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// Budget is how a budget stands in one scope. Sizes are bytes billed.
type Budget struct {
	Budget   string    `json:"budget"`
	Scope    string    `json:"scope"`
	Limit    int64     `json:"limit"`
	Used     int64     `json:"used"`
	Reserved int64     `json:"reserved"`
	Period   string    `json:"period"`
	Turns    time.Time `json:"turns"`
	Warning  bool      `json:"warning"`
}

// Budgets lists how all budgets stand.
func (c *Client) Budgets(ctx context.Context) ([]Budget, error) {
	var out struct {
		Budgets []Budget `json:"budgets"`
	}
	err := c.do(ctx, http.MethodGet, "budgets", nil, nil, &out)
	return out.Budgets, err
}
