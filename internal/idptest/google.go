package idptest

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// Paths of a [Google], for Fail, Delay and Calls.
const (
	PathSTS      = "/v1/token"
	PathIAM      = "*:generateAccessToken"
	PathAuth     = "/o/oauth2/v2/auth"
	PathToken    = "/token"
	PathRevoke   = "/revoke"
	PathUserInfo = "/v1/userinfo"
	PathCerts    = "/oauth2/v3/certs"
)

// googleIssuer is what Google's own ID tokens say.
const googleIssuer = "https://accounts.google.com"

// Scopes that endpoints ask for.
const (
	scopeCloud = "https://www.googleapis.com/auth/cloud-platform"
	scopeIAM   = "https://www.googleapis.com/auth/iam"
)

// Google is Google's Security Token Service, IAM Credentials API and OAuth 2.0
// endpoints, all on one address: URL() is the base URL of the first two.
type Google struct {
	*server
	ring *keyring // of ID tokens

	// Guarded by server.mu.
	pools    map[string]*pool           // by audience
	accounts map[string]*account        // by e-mail
	grants   map[string]map[string]bool // service account → who may become it
	clients  map[string]client
	user     *User
	deny     bool
	codes    map[string]*grant
	refresh  map[string]*grant
	consents map[string][]*grant // by client and user, those that stand
	tokens   map[string]*issued
	order    []Issued
	life     time.Duration
}

// issued is what stands behind an access token.
type issued struct {
	principal string
	scopes    []string
	expires   time.Time
	claims    map[string]any // of the assertion that began the chain
	consent   *grant         // of a user; its end is the token's
	through   []string       // service accounts, each with who became it, "caller account"
	user      *User
	client    string
	dead      bool
}

// Issued is one access token that was given out.
type Issued struct {
	Token     string
	Principal string
	Time      time.Time
}

// NewGoogle starts one; it ends with the test.
func NewGoogle(tb testing.TB, opts ...Option) *Google {
	tb.Helper()
	g := &Google{
		ring: newKeyring(tb, "g1"), pools: map[string]*pool{}, accounts: map[string]*account{}, grants: map[string]map[string]bool{},
		clients: map[string]client{}, codes: map[string]*grant{}, refresh: map[string]*grant{}, consents: map[string][]*grant{},
		tokens: map[string]*issued{}, life: time.Hour,
	}
	mux := http.NewServeMux()
	mux.HandleFunc(PathSTS, g.sts)
	mux.HandleFunc("/v1/projects/{project}/serviceAccounts/{action}", g.generateAccessToken)
	mux.HandleFunc(PathAuth, g.auth)
	mux.HandleFunc(PathToken, g.token)
	mux.HandleFunc(PathRevoke, g.revoke)
	mux.HandleFunc("GET "+PathUserInfo, g.userinfo)
	mux.HandleFunc("GET "+PathCerts, g.certs)
	g.server = start(tb, mux, g.broken, opts)
	return g
}

// STSURL is the token endpoint of the Security Token Service, in full.
func (g *Google) STSURL() string { return g.URL() + PathSTS }

// AuthURL is where a browser consents.
func (g *Google) AuthURL() string { return g.URL() + PathAuth }

// TokenURL is OAuth's token endpoint.
func (g *Google) TokenURL() string { return g.URL() + PathToken }

// RevokeURL is OAuth's revocation endpoint.
func (g *Google) RevokeURL() string { return g.URL() + PathRevoke }

// UserInfoURL is OpenID Connect's userinfo endpoint.
func (g *Google) UserInfoURL() string { return g.URL() + PathUserInfo }

// broken answers as Google does on a bad day: OAuth's shape at OAuth's endpoints,
// that of its APIs elsewhere.
func (g *Google) broken(w http.ResponseWriter, r *http.Request, status int) {
	if r.URL.Path == PathSTS || r.URL.Path == PathToken || r.URL.Path == PathRevoke {
		code := "internal_failure"
		if status < 500 {
			code = "rate_limit_exceeded"
		}
		oauthError(w, status, code, "")
		return
	}
	switch status {
	case http.StatusTooManyRequests:
		apiError(w, status, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota).", "RATE_LIMIT_EXCEEDED")
	case http.StatusServiceUnavailable:
		apiError(w, status, "UNAVAILABLE", "The service is currently unavailable.", "")
	default:
		apiError(w, status, "INTERNAL", "Internal error encountered.", "")
	}
}

// apiError is the error shape of Google's APIs
// (https://cloud.google.com/apis/design/errors).
func apiError(w http.ResponseWriter, status int, code, message, reason string) {
	e := map[string]any{"code": status, "message": message, "status": code}
	if reason != "" {
		domain := "googleapis.com"
		meta := map[string]string{"service": "iamcredentials.googleapis.com"}
		if reason == "IAM_PERMISSION_DENIED" {
			domain, meta = "iam.googleapis.com", map[string]string{"permission": "iam.serviceAccounts.getAccessToken"}
		}
		e["details"] = []any{map[string]any{
			"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": domain, "metadata": meta,
		}}
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://accounts.google.com/"`)
	}
	reply(w, status, map[string]any{"error": e})
}

// SetTokenLifetime is how long tokens of users and of pools live from now on.
// Default: one hour, as at Google.
func (g *Google) SetTokenLifetime(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.life = d
}

// giveLocked makes an access token.
func (g *Google) giveLocked(prefix string, t *issued) string {
	token := prefix + random(48)
	g.tokens[token] = t
	g.order = append(g.order, Issued{Token: token, Principal: t.principal, Time: g.now()})
	return token
}

// liveLocked returns what stands behind a token that is good now. Google's access
// tokens outlive a taken right to impersonate by up to their hour; here they end
// with it, so that a test sees what a client does next.
func (g *Google) liveLocked(token string) *issued {
	t := g.tokens[token]
	if t == nil || t.dead || !g.now().Before(t.expires) || (t.consent != nil && t.consent.revoked) {
		return nil
	}
	for _, step := range t.through {
		caller, sa, _ := strings.Cut(step, " ")
		if !g.mayLocked(caller, sa) {
			return nil
		}
	}
	return t
}

// Principal tells whose an access token is: a service account's or user's e-mail,
// or principal://iam.googleapis.com/… for an identity of a pool. It is not ok once
// the token is expired or revoked, and its signature fits sandbox.Config.Principal.
func (g *Google) Principal(accessToken string) (principal string, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.liveLocked(accessToken)
	if t == nil {
		return "", false
	}
	return t.principal, true
}

// SubjectClaims are those of the JWT that was exchanged for an access token, also
// where a service account was impersonated after that; nil where none was.
func (g *Google) SubjectClaims(accessToken string) map[string]any {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.tokens[accessToken]; t != nil {
		return maps.Clone(t.claims)
	}
	return nil
}

// Scopes are those of an access token.
func (g *Google) Scopes(accessToken string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.tokens[accessToken]; t != nil {
		return slices.Clone(t.scopes)
	}
	return nil
}

// Issued lists the access tokens given out so far, oldest first.
func (g *Google) Issued() []Issued {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.order)
}

// RefreshTokens are those given out so far.
func (g *Google) RefreshTokens() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(maps.Keys(g.refresh))
}

// Kill ends an access token before its time.
func (g *Google) Kill(accessToken string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.tokens[accessToken]; t != nil {
		t.dead = true
	}
}

// Give makes an access token of any principal, for a base credential for example.
func (g *Google) Give(principal string, scopes ...string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.giveLocked("ya29.", &issued{principal: principal, scopes: slices.Clone(scopes), expires: g.now().Add(g.life)})
}

func decode(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields() // Google: "Invalid JSON payload received. Unknown name"
	return d.Decode(into)
}
