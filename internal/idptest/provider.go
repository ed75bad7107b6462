package idptest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Paths of a [Provider], for Fail, Delay and Calls.
const (
	PathDiscovery = "/.well-known/openid-configuration"
	PathKeys      = "/keys"
	PathAuthorize = "/authorize"
)

// tokenLife is that of a provider's ID and access tokens.
const tokenLife = 5 * time.Minute

// Provider is an OpenID Connect provider: it mints JWTs for tests as an issuer of
// workload identities would, and signs humans in by authorization code with PKCE,
// which it insists on.
type Provider struct {
	*server

	// Guarded by server.mu.
	rings    []*keyring // the first signs; all are published
	made     int        // generations of keys so far
	clients  map[string]client
	user     *User
	deny     bool
	codes    map[string]*grant
	access   map[string]*grant
	refresh  map[string]*grant
	document func(map[string]any)
	tamper   func(map[string]any)
	jwks     func() []byte
}

// NewProvider starts one; it ends with the test.
func NewProvider(tb testing.TB, opts ...Option) *Provider {
	tb.Helper()
	p := &Provider{
		clients: map[string]client{}, codes: map[string]*grant{}, access: map[string]*grant{}, refresh: map[string]*grant{},
		rings: []*keyring{newKeyring(tb, "k1")}, made: 1,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+PathDiscovery, p.discovery)
	mux.HandleFunc("GET "+PathKeys, p.keys)
	mux.HandleFunc(PathAuthorize, p.authorize)
	mux.HandleFunc("/token", p.token)
	mux.HandleFunc("/userinfo", p.userinfo)
	mux.HandleFunc("/revoke", p.revoke)
	p.server = start(tb, mux, func(w http.ResponseWriter, _ *http.Request, status int) {
		oauthError(w, status, "temporarily_unavailable", "The test wants this to fail.")
	}, opts)
	return p
}

// Fetches is how many requests came for a path.
func (p *Provider) Fetches(path string) int { return p.Calls(path) }

// Mint signs a JWT with these claims; iss, iat and exp (five minutes) are filled
// in where they are not given, and left out where they are nil. No claim is
// checked, so that wrong ones can be made.
func (p *Provider) Mint(claims map[string]any, opts ...MintOption) string {
	p.tb.Helper()
	now := p.time()
	all := map[string]any{"iss": p.URL(), "iat": numericDate(now), "exp": numericDate(now.Add(tokenLife))}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	p.mu.Lock()
	ring := p.rings[0]
	p.mu.Unlock()
	return ring.sign(p.tb, all, opts)
}

// Rotate lets new keys sign from now on. With keepOld the old ones stay published,
// so that JWTs they signed remain good.
func (p *Provider) Rotate(keepOld bool) {
	p.tb.Helper()
	p.mu.Lock()
	p.made++
	id := fmt.Sprintf("k%d", p.made)
	p.mu.Unlock()
	ring := newKeyring(p.tb, id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !keepOld {
		p.rings = nil
	}
	p.rings = append([]*keyring{ring}, p.rings...)
}

// JWKS is the key set as it is served.
func (p *Provider) JWKS() []byte {
	raw, err := json.Marshal(p.set())
	if err != nil {
		p.tb.Errorf("encode key set: %v", err)
	}
	return raw
}

func (p *Provider) set() jose.JSONWebKeySet {
	p.mu.Lock()
	defer p.mu.Unlock()
	var set jose.JSONWebKeySet
	for _, ring := range p.rings {
		set.Keys = append(set.Keys, ring.keys()...)
	}
	return set
}

// ServeKeys replaces the key set that is served, by a broken one for example; nil
// serves the own again.
func (p *Provider) ServeKeys(jwks func() []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.jwks = jwks
}

// ChangeDiscovery lets change alter the discovery document before it is served.
func (p *Provider) ChangeDiscovery(change func(document map[string]any)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.document = change
}

// ChangeIDToken lets change alter the claims of ID tokens that sign-ins give.
func (p *Provider) ChangeIDToken(change func(claims map[string]any)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tamper = change
}

// AddClient registers an OAuth client. An empty secret makes it a public one.
func (p *Provider) AddClient(id, secret string, redirectURIs ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients[id] = client{secret: secret, redirects: slices.Clone(redirectURIs)}
}

// SignIn makes u the one at the browser, who consents to all.
func (p *Provider) SignIn(u User) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.user, p.deny = &u, false
}

// Deny lets whoever is at the browser refuse, until the next SignIn.
func (p *Provider) Deny() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deny = true
}

func (p *Provider) discovery(w http.ResponseWriter, _ *http.Request) {
	u := p.URL()
	doc := map[string]any{
		"issuer": u, "authorization_endpoint": u + PathAuthorize, "token_endpoint": u + "/token", "userinfo_endpoint": u + "/userinfo",
		"revocation_endpoint": u + "/revoke", "jwks_uri": u + PathKeys,
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"grant_types_supported":                 []string{"authorization_code", "refresh_token"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"scopes_supported":                      []string{"openid", "email", "profile", "offline_access"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post", "none"},
		"code_challenge_methods_supported":      []string{"S256"},
		"claims_supported":                      []string{"sub", "email", "email_verified", "name"},
	}
	p.mu.Lock()
	change := p.document
	p.mu.Unlock()
	if change != nil {
		change(doc)
	}
	reply(w, http.StatusOK, doc)
}

func (p *Provider) keys(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	other := p.jwks
	p.mu.Unlock()
	w.Header().Set("Content-Type", "application/jwk-set+json")
	if other != nil {
		_, _ = w.Write(other()) // the client may have gone
		return
	}
	_, _ = w.Write(p.JWKS())
}

func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := readAuthorization(w, r, p.clients, true)
	if !ok {
		return
	}
	scopes := scopesOf(a.scope)
	switch {
	case !slices.Contains(scopes, "openid"):
		back(w, r, a, url.Values{"error": {"invalid_scope"}, "error_description": {"openid is missing."}})
		return
	case p.deny:
		back(w, r, a, url.Values{"error": {"access_denied"}})
		return
	case p.user == nil:
		back(w, r, a, url.Values{"error": {"login_required"}})
		return
	}
	code := random(24)
	p.codes[code] = &grant{
		client: a.clientID, user: *p.user, scopes: scopes, redirect: a.redirect, nonce: a.nonce, challenge: a.challenge,
		offline: slices.Contains(scopes, "offline_access"), issued: p.now(),
	}
	back(w, r, a, url.Values{"code": {code}, "iss": {p.http.URL}}) // RFC 9207
}

func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	if !form(w, r) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	id, ok := authenticate(r, p.clients)
	if !ok {
		w.Header().Set("WWW-Authenticate", `Basic realm="idptest"`)
		oauthError(w, http.StatusUnauthorized, "invalid_client", "The client is not known or did not authenticate.")
		return
	}
	var g *grant
	switch r.PostForm.Get("grant_type") {
	case "authorization_code":
		g = p.codes[r.PostForm.Get("code")]
		if problem := redeem(g, r, id, p.now()); problem != "" {
			oauthError(w, http.StatusBadRequest, "invalid_grant", problem)
			return
		}
	case "refresh_token":
		g = p.refresh[r.PostForm.Get("refresh_token")]
		if g == nil || g.client != id || g.revoked {
			oauthError(w, http.StatusBadRequest, "invalid_grant", "Token has been expired or revoked.")
			return
		}
	case "":
		oauthError(w, http.StatusBadRequest, "invalid_request", "grant_type is missing.")
		return
	default:
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "")
		return
	}
	now := p.now()
	access := random(24)
	p.access[access] = &grant{client: g.client, user: g.user, scopes: g.scopes, issued: now}
	claims := g.user.claims(g.scopes)
	maps.Copy(claims, map[string]any{
		"iss": p.http.URL, "aud": g.client, "iat": numericDate(now), "exp": numericDate(now.Add(tokenLife)),
		"auth_time": numericDate(g.issued), "at_hash": halfHash(access),
	})
	if g.nonce != "" {
		claims["nonce"] = g.nonce
	}
	if p.tamper != nil {
		p.tamper(claims)
	}
	answer := map[string]any{
		"access_token": access, "token_type": "Bearer", "expires_in": int(tokenLife / time.Second),
		"scope": strings.Join(g.scopes, " "), "id_token": p.rings[0].sign(p.tb, claims, nil),
	}
	if g.offline && r.PostForm.Get("grant_type") == "authorization_code" {
		refresh := random(24)
		p.refresh[refresh] = g
		answer["refresh_token"] = refresh
	}
	reply(w, http.StatusOK, answer)
}

func (p *Provider) userinfo(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.access[bearer(r)]
	if g == nil || g.revoked || p.now().Sub(g.issued) > tokenLife {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		oauthError(w, http.StatusUnauthorized, "invalid_token", "The access token is not known, expired or revoked.")
		return
	}
	reply(w, http.StatusOK, g.user.claims(g.scopes))
}

// revoke is RFC 7009: a token that is not known is no error.
func (p *Provider) revoke(w http.ResponseWriter, r *http.Request) {
	if !form(w, r) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := authenticate(r, p.clients); !ok {
		oauthError(w, http.StatusUnauthorized, "invalid_client", "")
		return
	}
	for _, tokens := range []map[string]*grant{p.access, p.refresh} {
		if g := tokens[r.PostForm.Get("token")]; g != nil {
			g.revoked = true
		}
	}
	w.WriteHeader(http.StatusOK)
}
