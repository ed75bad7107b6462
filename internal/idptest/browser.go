package idptest

import (
	"crypto/subtle"
	"html"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// User is a human who may sign in.
type User struct {
	Subject       string
	Email         string
	EmailVerified bool
	Name          string
	Claims        map[string]any // further claims, "groups" or "hd" for example
}

// claims are what an ID token and userinfo say of the user.
func (u User) claims(scopes []string) map[string]any {
	c := map[string]any{"sub": u.Subject}
	if u.Email != "" && slices.Contains(scopes, "email") {
		c["email"], c["email_verified"] = u.Email, u.EmailVerified
	}
	if u.Name != "" && slices.Contains(scopes, "profile") {
		c["name"] = u.Name
	}
	maps.Copy(c, u.Claims)
	return c
}

// client is a registered OAuth client.
type client struct {
	secret    string // empty: a public client
	redirects []string
}

// grant is what a user consented to: it is behind a code and behind tokens.
type grant struct {
	client    string
	user      User
	scopes    []string
	redirect  string
	nonce     string
	challenge string // of PKCE; empty: none was sent
	offline   bool   // a refresh token goes with it
	issued    time.Time
	used      bool // a code works once
	revoked   bool
}

// codeLife is how long a code may wait: RFC 6749 section 4.1.2 has at most ten minutes.
const codeLife = 10 * time.Minute

// authorization is a checked request of the authorization endpoint.
type authorization struct {
	clientID, redirect, state, scope, nonce, challenge string
	q                                                  url.Values
}

// readAuthorization checks what a browser brought. Where the client or its
// redirect URI is wrong, the browser is sent nowhere (RFC 6749 section 4.1.2.1)
// and the page says why; other mistakes go back to the client.
func readAuthorization(w http.ResponseWriter, r *http.Request, clients map[string]client, pkce bool) (authorization, bool) {
	q := r.URL.Query()
	page := func(code, text string) (authorization, bool) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte("<!doctype html><title>Error 400</title><p>Error 400: " + code + "<p>" + html.EscapeString(text)))
		return authorization{}, false
	}
	if r.Method != http.MethodGet {
		return page("invalid_request", "Method not allowed")
	}
	for name, values := range q {
		if len(values) > 1 {
			return page("invalid_request", "OAuth 2 parameters can only have a single value: "+name)
		}
	}
	known, ok := clients[q.Get("client_id")]
	if !ok {
		return page("invalid_client", "The OAuth client was not found.")
	}
	if !slices.Contains(known.redirects, q.Get("redirect_uri")) {
		return page("redirect_uri_mismatch", "The redirect URI in the request, "+q.Get("redirect_uri")+", does not match the ones authorized for the OAuth client.")
	}
	a := authorization{
		clientID: q.Get("client_id"), redirect: q.Get("redirect_uri"), state: q.Get("state"), scope: q.Get("scope"),
		nonce: q.Get("nonce"), challenge: q.Get("code_challenge"), q: q,
	}
	switch {
	case q.Get("response_type") != "code":
		back(w, r, a, url.Values{"error": {"unsupported_response_type"}})
	case a.scope == "":
		back(w, r, a, url.Values{"error": {"invalid_request"}, "error_description": {"Missing required parameter: scope"}})
	case a.challenge == "" && pkce:
		back(w, r, a, url.Values{"error": {"invalid_request"}, "error_description": {"Code challenge required."}})
	case a.challenge != "" && q.Get("code_challenge_method") != "S256":
		back(w, r, a, url.Values{"error": {"invalid_request"}, "error_description": {"Transform algorithm not supported."}})
	case a.challenge != "" && !pkceText(a.challenge):
		back(w, r, a, url.Values{"error": {"invalid_request"}, "error_description": {"Code challenge is malformed."}})
	default:
		return a, true
	}
	return authorization{}, false
}

// back sends the browser to the client.
func back(w http.ResponseWriter, r *http.Request, a authorization, values url.Values) {
	to, err := url.Parse(a.redirect)
	if err != nil {
		http.Error(w, "redirect URI: "+err.Error(), http.StatusBadRequest)
		return
	}
	q := to.Query()
	if a.state != "" {
		q.Set("state", a.state)
	}
	maps.Copy(q, values)
	to.RawQuery = q.Encode()
	http.Redirect(w, r, to.String(), http.StatusFound)
}

// authenticate finds the client of a token request, by client_secret_basic or
// client_secret_post, never by both (RFC 6749 section 2.3).
func authenticate(r *http.Request, clients map[string]client) (id string, ok bool) {
	id, secret := r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	if user, pass, basic := r.BasicAuth(); basic {
		if secret != "" {
			return "", false
		}
		user, err1 := url.QueryUnescape(user)
		pass, err2 := url.QueryUnescape(pass)
		if err1 != nil || err2 != nil || (id != "" && id != user) {
			return "", false
		}
		id, secret = user, pass
	}
	known, found := clients[id]
	return id, found && subtle.ConstantTimeCompare([]byte(known.secret), []byte(secret)) == 1
}

// redeem judges a code and, if all is well, uses it up. The text is Google's.
func redeem(g *grant, r *http.Request, clientID string, now time.Time) (problem string) {
	verifier := r.PostForm.Get("code_verifier")
	switch {
	case g == nil:
		return "Malformed auth code."
	case g.used:
		g.revoked = true // RFC 6749 section 4.1.2: twice means stolen
		return "Bad Request"
	case g.client != clientID, g.redirect != r.PostForm.Get("redirect_uri"), now.Sub(g.issued) > codeLife:
		return "Bad Request"
	case g.challenge != "" && verifier == "":
		return "Missing code verifier."
	case g.challenge == "" && verifier != "":
		return "code_verifier or verifier is not needed."
	case g.challenge != "" && (!pkceText(verifier) || challengeOf(verifier) != g.challenge):
		return "Invalid code verifier."
	}
	g.used = true
	return ""
}

func scopesOf(s string) []string { return strings.Fields(s) }
