package idptest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// maxLifetime of a service account's token, unless the organisation allows more.
const (
	maxLifetime      = time.Hour
	extendedLifetime = 12 * time.Hour
)

// account is a service account.
type account struct {
	email string
	keys  jose.JSONWebKeySet // of its key files
	long  bool               // lifetimes of up to twelve hours
}

func (g *Google) accountLocked(email string) *account {
	if g.accounts[email] == nil {
		g.accounts[email] = &account{email: email}
	}
	return g.accounts[email]
}

// AddServiceAccount makes service accounts that nobody may become yet.
func (g *Google) AddServiceAccount(emails ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, email := range emails {
		g.accountLocked(email)
	}
}

// AllowImpersonation lets a caller get tokens of a service account, which is made if
// it is not there (roles/iam.serviceAccountTokenCreator, or workloadIdentityUser for
// identities of a pool). The caller is a service account's or user's e-mail,
// principal://…/subject/… or, for a whole pool, principalSet://…/*.
func (g *Google) AllowImpersonation(callerPrincipal, serviceAccount string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.accountLocked(serviceAccount)
	if g.grants[serviceAccount] == nil {
		g.grants[serviceAccount] = map[string]bool{}
	}
	g.grants[serviceAccount][callerPrincipal] = true
}

// RevokeImpersonation takes that back; tokens got by it end at once.
func (g *Google) RevokeImpersonation(callerPrincipal, serviceAccount string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.grants[serviceAccount], callerPrincipal)
}

// AllowLongLifetime puts a service account into the organisation policy
// iam.allowServiceAccountCredentialLifetimeExtension.
func (g *Google) AllowLongLifetime(serviceAccount string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.accountLocked(serviceAccount).long = true
}

func (g *Google) mayLocked(caller, serviceAccount string) bool {
	if g.grants[serviceAccount][caller] {
		return true
	}
	pool, _, found := strings.Cut(strings.TrimPrefix(caller, "principal://"), "/subject/")
	return found && g.grants[serviceAccount]["principalSet://"+pool+"/*"]
}

// ServiceAccountKey makes a key file of a service account, as
// "gcloud iam service-accounts keys create" would; its token_uri is here.
func (g *Google) ServiceAccountKey(email string) []byte {
	g.tb.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		g.tb.Fatalf("make key: %v", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		g.tb.Fatalf("encode key: %v", err)
	}
	id := fmt.Sprintf("%x", random(20))[:40]
	g.mu.Lock()
	a := g.accountLocked(email)
	a.keys.Keys = append(a.keys.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: id, Algorithm: "RS256", Use: "sig"})
	g.mu.Unlock()
	_, domain, _ := strings.Cut(email, "@")
	project, _, _ := strings.Cut(domain, ".")
	raw, err := json.MarshalIndent(map[string]string{
		"type": "service_account", "project_id": project, "private_key_id": id,
		"private_key":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"client_email": email, "client_id": "100000000000000000001",
		"auth_uri": g.AuthURL(), "token_uri": g.TokenURL(), "universe_domain": "googleapis.com",
	}, "", "  ")
	if err != nil {
		g.tb.Fatalf("encode key file: %v", err)
	}
	return raw
}

const notAuthenticated = "Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."

// generateAccessToken is
// https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken.
func (g *Google) generateAccessToken(w http.ResponseWriter, r *http.Request) {
	email, verb, _ := strings.Cut(r.PathValue("action"), ":")
	if r.Method != http.MethodPost || verb != "generateAccessToken" {
		apiError(w, http.StatusNotFound, "NOT_FOUND", "Method not found.", "")
		return
	}
	if r.PathValue("project") != "-" { // "The - wildcard character is required; replacing it with a project ID is invalid."
		apiError(w, http.StatusBadRequest, "INVALID_ARGUMENT", "Request contains an invalid argument.", "")
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	token := bearer(r)
	caller := g.liveLocked(token)
	switch {
	case token == "":
		apiError(w, http.StatusUnauthorized, "UNAUTHENTICATED", "Request is missing required authentication credential. "+notAuthenticated, "CREDENTIALS_MISSING")
		return
	case caller == nil:
		apiError(w, http.StatusUnauthorized, "UNAUTHENTICATED", "Request had invalid authentication credentials. "+notAuthenticated, "ACCESS_TOKEN_EXPIRED")
		return
	case !slices.Contains(caller.scopes, scopeCloud) && !slices.Contains(caller.scopes, scopeIAM):
		apiError(w, http.StatusForbidden, "PERMISSION_DENIED", "Request had insufficient authentication scopes.", "ACCESS_TOKEN_SCOPE_INSUFFICIENT")
		return
	}
	var body struct {
		Delegates []string `json:"delegates"`
		Scope     []string `json:"scope"`
		Lifetime  string   `json:"lifetime"`
	}
	if err := decode(r, &body); err != nil {
		apiError(w, http.StatusBadRequest, "INVALID_ARGUMENT", "Invalid JSON payload received. "+err.Error(), "")
		return
	}
	lifetime, err := seconds(body.Lifetime)
	if err != nil || !knownScopes(strings.Join(body.Scope, " ")) {
		apiError(w, http.StatusBadRequest, "INVALID_ARGUMENT", "Request contains an invalid argument.", "")
		return
	}
	chain := make([]string, 0, len(body.Delegates)+1)
	for _, d := range body.Delegates {
		delegate, ok := strings.CutPrefix(d, "projects/-/serviceAccounts/")
		if !ok {
			apiError(w, http.StatusBadRequest, "INVALID_ARGUMENT", "Invalid delegates value "+strconv.Quote(d)+".", "")
			return
		}
		chain = append(chain, delegate)
	}
	steps, ok := g.walkLocked(w, caller, append(chain, email))
	if !ok {
		return
	}
	limit := maxLifetime
	if g.accounts[email].long {
		limit = extendedLifetime
	}
	if lifetime <= 0 || lifetime > limit {
		apiError(w, http.StatusBadRequest, "INVALID_ARGUMENT", fmt.Sprintf("The requested lifetime must be more than 0 and at most %d seconds. To extend it, see the organization policy constraint iam.allowServiceAccountCredentialLifetimeExtension.", int(limit/time.Second)), "")
		return
	}
	expires := g.now().Add(lifetime).UTC().Truncate(time.Second)
	t := &issued{
		principal: email, scopes: slices.Clone(body.Scope), expires: expires, claims: caller.claims,
		consent: caller.consent, through: append(slices.Clone(caller.through), steps...),
	}
	reply(w, http.StatusOK, map[string]string{"accessToken": g.giveLocked("ya29.c.", t), "expireTime": expires.Format(time.RFC3339)})
}

// walkLocked sees that each party of a chain may become the next.
func (g *Google) walkLocked(w http.ResponseWriter, caller *issued, chain []string) (steps []string, ok bool) {
	at := caller.principal
	for _, next := range chain {
		if g.accounts[next] == nil {
			apiError(w, http.StatusNotFound, "NOT_FOUND", "Not found; Gaia id not found for email "+next, "")
			return nil, false
		}
		if !g.mayLocked(at, next) {
			apiError(w, http.StatusForbidden, "PERMISSION_DENIED", "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).", "IAM_PERMISSION_DENIED")
			return nil, false
		}
		steps = append(steps, at+" "+next)
		at = next
	}
	return steps, true
}

// seconds reads a google.protobuf.Duration; empty is an hour.
func seconds(s string) (time.Duration, error) {
	if s == "" {
		return maxLifetime, nil
	}
	n, ok := strings.CutSuffix(s, "s")
	if !ok {
		return 0, fmt.Errorf("duration %q does not end in s", s)
	}
	f, err := strconv.ParseFloat(n, 64)
	if err != nil {
		return 0, fmt.Errorf("duration: %w", err)
	}
	return time.Duration(f * float64(time.Second)), nil
}
