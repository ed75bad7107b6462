package idptest

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const grantJWT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

// AddClient registers an OAuth client of type "web application".
func (g *Google) AddClient(id, secret string, redirectURIs ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.clients[id] = client{secret: secret, redirects: slices.Clone(redirectURIs)}
}

// SignIn makes u the one at the browser, who consents to all.
func (g *Google) SignIn(u User) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.user, g.deny = &u, false
}

// Deny lets whoever is at the browser refuse, until the next SignIn.
func (g *Google) Deny() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deny = true
}

// RevokeConsent is a user's "remove access" at myaccount.google.com, for all
// clients: refresh and access tokens end at once.
func (g *Google) RevokeConsent(email string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, grants := range g.consents {
		for _, c := range grants {
			if strings.EqualFold(c.user.Email, email) {
				c.revoked = true
			}
		}
		if strings.HasSuffix(key, "\x00"+strings.ToLower(email)) {
			delete(g.consents, key)
		}
	}
}

// auth is https://developers.google.com/identity/protocols/oauth2/web-server#creatingclient.
func (g *Google) auth(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, ok := readAuthorization(w, r, g.clients, false)
	if !ok {
		return
	}
	if !knownScopes(a.scope) {
		back(w, r, a, url.Values{"error": {"invalid_scope"}})
		return
	}
	if g.deny || g.user == nil {
		back(w, r, a, url.Values{"error": {"access_denied"}})
		return
	}
	scopes := scopesOf(a.scope)
	key := a.clientID + "\x00" + strings.ToLower(g.user.Email)
	// A refresh token comes with the first consent, or where the client insists
	// that the user be asked again.
	fresh := len(g.consents[key]) == 0 || slices.Contains(strings.Fields(a.q.Get("prompt")), "consent")
	consent := &grant{
		client: a.clientID, user: *g.user, scopes: scopes, redirect: a.redirect, nonce: a.nonce, challenge: a.challenge,
		offline: a.q.Get("access_type") == "offline" && fresh, issued: g.now(),
	}
	g.consents[key] = append(g.consents[key], consent)
	code := "4/0A" + random(30)
	g.codes[code] = consent
	back(w, r, a, url.Values{"code": {code}, "scope": {a.scope}, "authuser": {"0"}, "prompt": {"consent"}})
}

func (g *Google) token(w http.ResponseWriter, r *http.Request) {
	if !form(w, r) {
		return
	}
	if r.PostForm.Get("grant_type") == grantJWT {
		g.serviceAccount(w, r)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	id, ok := authenticate(r, g.clients)
	if !ok {
		if _, known := g.clients[id]; !known {
			oauthError(w, http.StatusUnauthorized, "invalid_client", "The OAuth client was not found.")
			return
		}
		oauthError(w, http.StatusUnauthorized, "invalid_client", "Unauthorized")
		return
	}
	switch r.PostForm.Get("grant_type") {
	case "authorization_code":
		consent := g.codes[r.PostForm.Get("code")]
		if problem := redeem(consent, r, id, g.now()); problem != "" {
			oauthError(w, http.StatusBadRequest, "invalid_grant", problem)
			return
		}
		refresh := ""
		if consent.offline {
			refresh = "1//0" + random(48)
			g.refresh[refresh] = consent
		}
		g.answerLocked(w, consent, refresh)
	case "refresh_token":
		consent := g.refresh[r.PostForm.Get("refresh_token")]
		switch {
		case consent == nil:
			oauthError(w, http.StatusBadRequest, "invalid_grant", "Bad Request")
		case consent.client != id:
			oauthError(w, http.StatusUnauthorized, "unauthorized_client", "Unauthorized")
		case consent.revoked:
			oauthError(w, http.StatusBadRequest, "invalid_grant", "Token has been expired or revoked.")
		default:
			g.answerLocked(w, consent, "")
		}
	case "":
		oauthError(w, http.StatusBadRequest, "invalid_request", "Required parameter is missing: grant_type")
	default:
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "Invalid grant_type: "+r.PostForm.Get("grant_type"))
	}
}

func (g *Google) answerLocked(w http.ResponseWriter, consent *grant, refresh string) {
	now := g.now()
	user := consent.user
	access := g.giveLocked("ya29.a0", &issued{
		principal: user.Email, scopes: consent.scopes, expires: now.Add(g.life), consent: consent, user: &user, client: consent.client,
	})
	answer := map[string]any{
		"access_token": access, "expires_in": int(g.life/time.Second) - 1, "scope": strings.Join(consent.scopes, " "), "token_type": "Bearer",
	}
	if refresh != "" {
		answer["refresh_token"] = refresh
	}
	if slices.Contains(consent.scopes, "openid") {
		claims := user.claims(consent.scopes)
		maps.Copy(claims, map[string]any{
			"iss": googleIssuer, "azp": consent.client, "aud": consent.client, "at_hash": halfHash(access),
			"iat": numericDate(now), "exp": numericDate(now.Add(time.Hour)),
		})
		if consent.nonce != "" {
			claims["nonce"] = consent.nonce
		}
		answer["id_token"] = g.ring.sign(g.tb, claims, nil)
	}
	reply(w, http.StatusOK, answer)
}

// serviceAccount is the JWT bearer grant for key files
// (https://developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests).
func (g *Google) serviceAccount(w http.ResponseWriter, r *http.Request) {
	refuse := func(code, text string) { oauthError(w, http.StatusBadRequest, code, text) }
	raw := r.PostForm.Get("assertion")
	parsed, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.RS256})
	shown := map[string]any{}
	if err != nil || parsed.UnsafeClaimsWithoutVerification(&shown) != nil {
		refuse("invalid_grant", "Invalid JWT: Failed audience check or malformed assertion.")
		return
	}
	email, _ := shown["iss"].(string)
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.accounts[email]
	if a == nil {
		refuse("invalid_grant", "Invalid grant: account not found")
		return
	}
	claims, err := verified(raw, a.keys, jose.RS256)
	if err != nil {
		refuse("invalid_grant", "Invalid JWT Signature.")
		return
	}
	now := g.now()
	iat, hasIat := moment(claims, "iat")
	exp, hasExp := moment(claims, "exp")
	scope, _ := claims["scope"].(string)
	switch {
	case !slices.Contains(audiences(claims), g.http.URL+PathToken):
		refuse("invalid_grant", "Invalid JWT: Failed audience check.")
		return
	case !hasIat || !hasExp || exp.Sub(iat) > time.Hour+stsSkew || now.After(exp) || iat.After(now.Add(stsSkew)):
		refuse("invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.")
		return
	case claims["sub"] != nil && claims["sub"] != "" && claims["sub"] != email:
		oauthError(w, http.StatusUnauthorized, "unauthorized_client", "Client is unauthorized to retrieve access tokens using this method, or client not authorized for any of the scopes requested.")
		return
	case !knownScopes(scope):
		refuse("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
		return
	}
	token := g.giveLocked("ya29.c.", &issued{principal: email, scopes: scopesOf(scope), expires: now.Add(g.life)})
	reply(w, http.StatusOK, map[string]any{"access_token": token, "expires_in": int(g.life/time.Second) - 1, "token_type": "Bearer"})
}

// revoke is https://developers.google.com/identity/protocols/oauth2/web-server#tokenrevoke:
// an access token takes its refresh token with it.
func (g *Google) revoke(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		oauthError(w, http.StatusMethodNotAllowed, "invalid_request", "Method not allowed.")
		return
	}
	if err := r.ParseForm(); err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", "The request is malformed.")
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	token := r.Form.Get("token") // Google takes it in the query too
	consent := g.refresh[token]
	if t := g.tokens[token]; t != nil {
		consent = t.consent
	}
	if consent == nil || consent.revoked {
		oauthError(w, http.StatusBadRequest, "invalid_token", "Token expired or revoked")
		return
	}
	consent.revoked = true
	key := consent.client + "\x00" + strings.ToLower(consent.user.Email)
	for _, c := range g.consents[key] { // the user's whole consent to the client
		c.revoked = true
	}
	delete(g.consents, key)
	reply(w, http.StatusOK, map[string]any{})
}

func (g *Google) userinfo(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.liveLocked(bearer(r))
	if t == nil || t.user == nil {
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://accounts.google.com/", error="invalid_token"`)
		oauthError(w, http.StatusUnauthorized, "invalid_request", "Invalid Credentials")
		return
	}
	if !slices.Contains(t.scopes, "openid") && !slices.Contains(t.scopes, "email") {
		oauthError(w, http.StatusForbidden, "insufficient_scope", "Request had insufficient authentication scopes.")
		return
	}
	reply(w, http.StatusOK, t.user.claims(t.scopes))
}

// certs are the keys of Google's ID tokens.
func (g *Google) certs(w http.ResponseWriter, _ *http.Request) {
	raw, err := json.Marshal(jose.JSONWebKeySet{Keys: g.ring.keys()[:1]})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.Header().Set("Cache-Control", "public, max-age=21600, must-revalidate")
	_, _ = w.Write(raw) // the client may have gone
}
