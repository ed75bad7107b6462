// Package federation turns a principal into the Google access token that its
// calls carry upstream. It is the only place where a Google credential is held;
// the agent's own token never goes further than the gateway, but where it is a
// JWT that a workload identity pool trusts: then it goes to Google's Security
// Token Service, to be exchanged.
//
// In three modes the token is the agent's own: "impersonation" (its service
// account, with the gateway as the one who may mint for it), "workload" (Workload
// Identity Federation: a JWT of the agent's, or one that the gateway signs as an
// [Issuer]) and "oauth" (the consent of the human on whose behalf it acts). In
// "static" and "adc" all agents share the gateway's; [Credential.Shared] says so,
// and every entry repeats it. "none" is for an upstream that asks for nothing.
//
// A connection has one mode. Where a token cannot be minted the call fails with an
// [Error] that says which step failed and what mends it; no mode falls back to
// another, and least of all to a shared credential.
//
// Minted tokens are kept in memory alone, for the very principal that they were
// minted for, and are refreshed before they end.
package federation

import (
	"context"
	"log/slog"
	"time"

	"github.com/trailgate/trailgate"
)

// The modes, as entries have them.
const (
	ModeNone          = "none"
	ModeStatic        = "static"
	ModeADC           = "adc"
	ModeImpersonation = "impersonation"
	ModeWorkload      = "workload"
	ModeOAuth         = "oauth"
)

// Whose JWT is exchanged in mode "workload".
const (
	AssertionAgent   = "agent"
	AssertionGateway = "gateway"
	// PreferAgent takes the agent's own where the call came with one, and else the
	// gateway's.
	PreferAgent = "prefer_agent"
)

// Scope is what a token is good for where no other is asked for: BigQuery, all of
// it. What an agent may do is decided by policy here and by IAM there.
const Scope = "https://www.googleapis.com/auth/bigquery"

// scopeCloud is what a token needs that mints others.
const scopeCloud = "https://www.googleapis.com/auth/cloud-platform"

// Request says for whom and for what a credential is.
type Request struct {
	// Principal is who calls, verified. It must not change afterwards.
	Principal *trailgate.Principal
	// Session, Connection and Project of the call.
	Session, Connection, Project string
	// Assertion is the agent's own JWT where it came with one; secret.
	Assertion        string
	AssertionExpires time.Time
}

// LogValue keeps the agent's JWT out of every log.
func (r Request) LogValue() slog.Value {
	return slog.GroupValue(slog.String("connection", r.Connection), slog.String("project", r.Project), slog.String("session", r.Session))
}

// principal is never nil.
func (r Request) principal() *trailgate.Principal {
	if r.Principal == nil {
		return &trailgate.Principal{}
	}
	return r.Principal
}

// Credential is what one call carries upstream.
type Credential struct {
	Token     string // empty in mode "none"; secret
	Mode      string // one of the Mode constants
	Principal string // as whom Google will see the call, where that is known; a service account's or human's e-mail, or "principal://…"
	Shared    bool   // not the agent's own
	Assertion string // whose JWT was exchanged: AssertionAgent or AssertionGateway, else empty
	// Expires is when the token ends, in UTC; zero where that is not known.
	Expires time.Time
}

// LogValue keeps the token out of every log.
func (c Credential) LogValue() slog.Value {
	return slog.GroupValue(slog.String("mode", c.Mode), slog.String("principal", c.Principal))
}

// Source mints credentials for one connection. Implementations are safe for
// concurrent use and cache what they mint. Those that mint for each agent also
// have Close, as [io.Closer] does: it ends what they do in the background and
// waits for it.
type Source interface {
	// Credential returns the token for the next call. Where one is kept it costs
	// a look-up; else it waits for Google, or for ctx. The error is an *[Error],
	// or ctx's; it never holds a secret.
	Credential(ctx context.Context, r Request) (Credential, error)
	// Describe tells what every credential of this source has in common, with
	// no I/O: mode and Shared. The intent entry holds it.
	Describe() Credential
}

// Rejecter is a [Source] that can be told that BigQuery did not accept a credential
// (401), because consent or a grant was withdrawn while the token had time left.
// It is then not handed out again, and the next call learns from Google why.
type Rejecter interface {
	Rejected(r Request, c Credential)
}

// The steps at which a credential can fail to come.
const (
	StepBase          = "base_credential" // the gateway's own credential
	StepAssertion     = "assertion"       // the JWT to be exchanged
	StepSTS           = "sts"             // the exchange
	StepImpersonation = "impersonation"   // becoming a service account
	StepRefresh       = "oauth_refresh"   // a new access token by a refresh token
	StepConsent       = "consent"         // the human's consent
	StepHuman         = "human"           // nobody on whose behalf the agent acts
)

// Error says why there is no credential.
type Error struct {
	Connection string
	Step       string // one of the Step constants
	Message    string // what is wrong, in words; never a secret
	Fix        string // what mends it, where that is known: mostly a gcloud command
	Temporary  bool   // trying again may help
}

func (e *Error) Error() string {
	if e.Fix == "" {
		return e.Message
	}
	return e.Message + "; to mend it: " + e.Fix
}
