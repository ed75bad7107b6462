package admin

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/approval"
	"github.com/trailgate/trailgate/internal/suspend"
)

const (
	actionSuspend     = "suspend.add"
	actionResume      = "suspend.remove"
	actionSuspensions = "suspend.list"
	actionPolicy      = "policy.show"
	actionReload      = "policy.reload"
	actionBudgets     = "budget.list"
)

// Cancelled is a job that BigQuery was asked to cancel.
type Cancelled struct {
	Agent      string `json:"agent"`
	Connection string `json:"connection"`
	Project    string `json:"project"`
	Job        string `json:"job"`
	Error      string `json:"error,omitempty"` // BigQuery's no
}

// Policy is the policy in force.
type Policy struct {
	Digest  string       `json:"digest,omitempty"`
	Source  string       `json:"source"` // "files", "starter" or "record_only"
	Files   []string     `json:"files"`
	Rules   []PolicyRule `json:"rules"`
	Loaded  time.Time    `json:"loaded"`
	DryRuns bool         `json:"dry_runs"` // some rule may ask BigQuery for one
}

// PolicyRule is a rule as a list shows it.
type PolicyRule struct {
	Name   string `json:"name"`
	Effect string `json:"effect"`
	When   string `json:"when"`
}

// Reloaded says what a reload changed.
type Reloaded struct {
	Digest       string   `json:"digest,omitempty"`
	Previous     string   `json:"previous,omitempty"`
	Changes      []string `json:"changes"`
	NeedsRestart []string `json:"needs_restart"`
}

// Budget is how a budget stands in one scope.
type Budget struct {
	Budget   string    `json:"budget"`
	Scope    string    `json:"scope"` // the agent, human or connection; "" for all together
	Limit    int64     `json:"limit"` // bytes billed
	Used     int64     `json:"used"`
	Reserved int64     `json:"reserved"`
	Period   string    `json:"period"`
	Turns    time.Time `json:"turns"`
	Warning  bool      `json:"warning"`
}

func noGateway(what string) *Error {
	return &Error{Code: http.StatusNotFound, Message: "no gateway runs here, so there is no " + what + "; start it: trailgate serve"}
}

// listSuspensions is GET suspensions.
func (a *API) listSuspensions(w http.ResponseWriter, r *request) error {
	if a.cfg.Suspensions == nil {
		return noGateway("list of who is suspended")
	}
	if _, err := a.record(r, actionSuspensions, "", nil); err != nil {
		return err
	}
	return reply(w, http.StatusOK, struct {
		Suspensions []suspend.Suspension `json:"suspensions"`
	}{a.cfg.Suspensions.List()})
}

// suspend is POST suspensions: the kill switch. Calls from now on are denied; those
// under way are cut, what waits for approval is withdrawn, and jobs are cancelled if
// that is asked for.
func (a *API) suspend(w http.ResponseWriter, r *request) error {
	var in struct {
		Scope      string `json:"scope"`
		Name       string `json:"name"`
		Reason     string `json:"reason"`
		CancelJobs bool   `json:"cancel_jobs"`
	}
	if err := decode(w, r, &in, false); err != nil {
		return err
	}
	if a.cfg.Suspensions == nil {
		return noGateway("list of who is suspended")
	}
	if err := a.knownScope(in.Scope, in.Name); err != nil {
		return err
	}
	x := suspend.Suspension{Scope: in.Scope, Name: in.Name, Reason: in.Reason, By: r.who.actor}
	x, err := a.cfg.Suspensions.Add(x, func(x suspend.Suspension) error {
		_, err := a.record(r, actionSuspend, x.What(), map[string]string{"reason": in.Reason, "cancel_jobs": strconv.FormatBool(in.CancelJobs)})
		return err
	})
	if err != nil {
		return err
	}
	out := struct {
		Suspension suspend.Suspension `json:"suspension"`
		Cut        int                `json:"cut"`       // calls under way
		Withdrawn  int                `json:"withdrawn"` // calls that waited for approval
		Cancelled  []Cancelled        `json:"cancelled"` // jobs
		Error      string             `json:"error,omitempty"`
	}{Suspension: x, Cancelled: []Cancelled{}}
	// In force. What follows is done as far as it can be, and told.
	ctx := context.WithoutCancel(r.Context())
	if a.cfg.CutSuspended != nil {
		out.Cut = a.cfg.CutSuspended()
	}
	if out.Withdrawn, err = a.withdrawSuspended(ctx, x); err != nil {
		out.Error = err.Error()
	}
	if in.CancelJobs && a.cfg.CancelSuspended != nil {
		cancelled, err := a.cfg.CancelSuspended(ctx)
		if cancelled != nil {
			out.Cancelled = cancelled
		}
		if err != nil {
			out.Error = err.Error()
		}
	}
	return reply(w, http.StatusCreated, out)
}

// knownScope refuses to suspend what is not there: a name with a typing error in it
// must not pass for the one that was meant.
func (a *API) knownScope(scope, name string) error {
	switch scope {
	case suspend.Agent:
		_, err := a.cfg.Agents.Agent(name)
		return err
	case suspend.Connection:
		if !slices.ContainsFunc(a.cfg.Connections, func(c Connection) bool { return c.Name == name }) {
			return &Error{Code: http.StatusNotFound, Message: "no connection is called " + strconv.Quote(clip(name, 64))}
		}
	}
	return nil
}

// withdrawSuspended ends the open questions of who was suspended.
func (a *API) withdrawSuspended(ctx context.Context, x suspend.Suspension) (n int, err error) {
	if a.cfg.Approvals == nil {
		return 0, nil
	}
	for _, q := range a.cfg.Approvals.List(approval.Filter{Open: true, Limit: 100_000}) {
		if x.Scope == suspend.Agent && q.Principal.Agent != x.Name || x.Scope == suspend.Connection && q.Connection != x.Name {
			continue
		}
		_, cerr := a.cfg.Approvals.Cancel(ctx, q.ID, q.Principal.Agent, func(q approval.Request) error {
			return a.append(ctx, &trailgate.Entry{
				Kind: trailgate.KindDenied, IntentID: q.HeldEntry, Session: q.Session, Connection: q.Connection, Project: q.Project,
				Method: q.Method, Class: q.Class, Principal: &trailgate.Principal{Agent: q.Principal.Agent},
				Decision: &trailgate.Decision{Effect: "deny", Rule: "builtin/suspended", Reason: x.What() + " was suspended", ApprovalID: q.ID},
			})
		})
		if cerr != nil {
			err = cerr // it was decided meanwhile, or the trail is full: it cannot go on either way
			continue
		}
		n++
	}
	return n, err
}

// resume is POST suspensions:remove.
func (a *API) resume(w http.ResponseWriter, r *request) error {
	var in struct {
		Scope string `json:"scope"`
		Name  string `json:"name"`
	}
	if err := decode(w, r, &in, false); err != nil {
		return err
	}
	if a.cfg.Suspensions == nil {
		return noGateway("list of who is suspended")
	}
	x, err := a.cfg.Suspensions.Remove(in.Scope, in.Name, func(x suspend.Suspension) error {
		_, err := a.record(r, actionResume, x.What(), nil)
		return err
	})
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, x)
}

// policy is GET policy.
func (a *API) policy(w http.ResponseWriter, r *request) error {
	if a.cfg.Policy == nil {
		return noGateway("policy in force")
	}
	if _, err := a.record(r, actionPolicy, "", nil); err != nil {
		return err
	}
	return reply(w, http.StatusOK, a.cfg.Policy())
}

// reload is POST policy:reload: what SIGHUP does.
func (a *API) reload(w http.ResponseWriter, r *request) error {
	if err := decode(w, r, &struct{}{}, true); err != nil {
		return err
	}
	if a.cfg.Reload == nil {
		return noGateway("policy in force")
	}
	var done Reloaded
	err := a.change(r, actionReload, "", nil, func() (err error) {
		done, err = a.cfg.Reload(context.WithoutCancel(r.Context()))
		return err
	})
	if err != nil {
		if e := explain(err); e.Code != http.StatusInternalServerError {
			return e
		}
		return &Error{Code: http.StatusConflict, Message: err.Error(), cause: err}
	}
	return reply(w, http.StatusOK, done)
}

// budgets is GET budgets.
func (a *API) budgets(w http.ResponseWriter, r *request) error {
	if a.cfg.Budgets == nil {
		return &Error{Code: http.StatusNotFound, Message: "no budgets are configured, or no gateway runs here"}
	}
	if _, err := a.record(r, actionBudgets, "", nil); err != nil {
		return err
	}
	list := a.cfg.Budgets()
	if list == nil {
		list = []Budget{}
	}
	return reply(w, http.StatusOK, struct {
		Budgets []Budget `json:"budgets"`
	}{list})
}
