package admin

import (
	"net/http"
	"slices"
	"strings"
)

// Role is what a human may do.
type Role string

// The roles. An admin may do everything; an auditor may read everything; an
// approver may decide about held calls, and see what the gateway is.
const (
	RoleAdmin    Role = "admin"
	RoleAuditor  Role = "auditor"
	RoleApprover Role = "approver"
)

// everything is what the admin token, the socket and the data directory give.
var everything = []Role{RoleAdmin}

// access says which roles an operation is for, beside admin.
type access []Role

var (
	forAdmins    = access{}
	forAuditors  = access{RoleAuditor}
	forApprovers = access{RoleApprover}
	forHumans    = access{RoleAuditor, RoleApprover} // whoever has a role at all
)

// lets reports whether a caller with these roles may.
func (a access) lets(roles []Role) bool {
	return slices.ContainsFunc(roles, func(r Role) bool { return r == RoleAdmin || slices.Contains(a, r) })
}

// forbidden is what a caller is told who may not.
func forbidden(who caller, a access) *Error {
	need := []string{string(RoleAdmin)}
	for _, r := range a {
		need = append(need, string(r))
	}
	have := "no role"
	if len(who.roles) > 0 {
		have = "the role " + joinRoles(who.roles)
	}
	return &Error{Code: http.StatusForbidden, Message: "you have " + have + "; this is for: " + strings.Join(need, ", ")}
}

func joinRoles(roles []Role) string {
	words := make([]string, 0, len(roles))
	for _, r := range roles {
		words = append(words, string(r))
	}
	return strings.Join(words, ", ")
}
