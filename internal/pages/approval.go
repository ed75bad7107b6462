package pages

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/trailgate/trailgate/internal/admin/client"
)

func (p *Pages) approvalRoutes() {
	p.handle("GET /approvals", (*view).approvals)
	p.handle("GET /approvals/inbox", (*view).inbox)
	p.handle("GET /approvals/{id}", func(v *view) error { return v.approval(http.StatusOK, "", "") })
	p.handle("POST /approvals/{id}/approve", func(v *view) error { return v.decide(true) })
	p.handle("POST /approvals/{id}/deny", func(v *view) error { return v.decide(false) })
}

type approvalsPage struct {
	Open, Ended []client.Approval
	State       string
	States      []string
}

// maxEnded is how many decided questions the inbox shows.
const maxEnded = 50

func (v *view) listApprovals() (*approvalsPage, error) {
	open, err := v.api.Approvals(v.r.Context(), "open", "")
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(open, func(a, b client.Approval) int { return a.Expires.Compare(b.Expires) })
	return &approvalsPage{Open: open}, nil
}

// approvals is the inbox: what waits, and what was decided of late.
func (v *view) approvals() error {
	d, err := v.listApprovals()
	if err != nil {
		return err
	}
	d.States = []string{"", "approved", "denied", "expired", "released"}
	if d.State = v.arg("state"); !slices.Contains(d.States, d.State) {
		d.State = ""
	}
	all, err := v.api.Approvals(v.r.Context(), d.State, "")
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.State != "pending" && len(d.Ended) < maxEnded && !slices.ContainsFunc(d.Open, func(o client.Approval) bool { return o.ID == a.ID }) {
			d.Ended = append(d.Ended, a)
		}
	}
	return v.render("approvals.html", "approvals", d)
}

// inbox is the table of what waits alone, which script puts in place of the old one.
func (v *view) inbox() error {
	d, err := v.listApprovals()
	if err != nil {
		return err
	}
	return v.fragment("approvals.html", "inbox", d)
}

type approvalPage struct {
	*client.ApprovalDetail
	Notice, Problem string
	Reason          string // as it was typed, where the form comes back
}

// approval is all that a human needs to decide.
func (v *view) approval(code int, notice, problem string) error {
	d, err := v.api.Approval(v.r.Context(), v.r.PathValue("id"))
	if err != nil {
		return err
	}
	switch v.arg("done") {
	case "approve":
		notice = "Your approval is recorded."
	case "deny":
		notice = "Your denial is recorded."
	}
	return v.show(code, "approval.html", "approvals", &approvalPage{ApprovalDetail: d, Notice: notice, Problem: problem})
}

// decide takes a vote. The form says what its human read: another call, or one that was
// not shown whole, is not decided by it.
func (v *view) decide(yes bool) error {
	form, err := v.form()
	if err != nil {
		return err
	}
	id := v.r.PathValue("id")
	asked, err := v.api.Approval(v.r.Context(), id)
	if err != nil {
		return err
	}
	reason := strings.TrimSpace(form.Get("reason"))
	switch {
	case form.Get("call_sha256") == "" || form.Get("call_sha256") != asked.Approval.CallSHA256:
		return v.approval(http.StatusConflict, "", "What waits is not what the form was for. Read it again.")
	case yes && asked.Approval.StatementCut && form.Get("read_whole") != "yes":
		return v.approval(http.StatusConflict, "", "The statement is longer than what is shown here. Read it whole, and say that you did.")
	case !yes && reason == "":
		return v.approval(http.StatusBadRequest, "", "Say why: the agent and its human are told the reason.")
	}
	verb := "approve"
	if yes {
		_, err = v.api.Approve(v.r.Context(), id, reason)
	} else {
		verb = "deny"
		_, err = v.api.Deny(v.r.Context(), id, reason)
	}
	if told, ok := errors.AsType[*client.Error](err); ok && told.Code < 500 {
		return v.approval(told.Code, "", "Your vote does not count: "+told.Message)
	}
	if err != nil {
		return err
	}
	return v.to("/approvals/" + url.PathEscape(id) + "?done=" + verb)
}
