package idptest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Bounds of Google's
// (https://cloud.google.com/iam/docs/workload-identity-federation-with-other-providers).
const (
	maxAssertionLife = 24 * time.Hour
	maxSubject       = 127 // bytes of google.subject
	stsSkew          = time.Minute
)

const grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange"

// Token types (RFC 8693 section 3).
const (
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	typeIDToken     = "urn:ietf:params:oauth:token-type:id_token"
)

var (
	errIssuerAway = "Error connecting to the given credential's issuer."
	audienceForm  = regexp.MustCompile(`^//iam\.googleapis\.com/(projects/[0-9]+/locations/global/workloadIdentityPools/[a-z0-9-]{4,32})/providers/[a-z0-9-]{4,32}$`)
)

// pool is one OIDC provider of a workload identity pool. Its attribute mapping is
// google.subject=assertion.sub.
type pool struct {
	name      string // projects/…/workloadIdentityPools/…
	issuer    string
	jwks      func() []byte // uploaded keys; nil: by discovery
	http      *http.Client
	audiences []string // allowed; empty: the provider's own name
	condition func(claims map[string]any) bool
}

// TrustPool makes a provider of a workload identity pool, named by its audience,
// which trusts an issuer by discovery. A real one trusts one issuer, so a second
// provider is needed for another.
func (g *Google) TrustPool(audience string, issuer *Provider) {
	g.tb.Helper()
	g.trust(audience, &pool{issuer: issuer.URL(), http: issuer.Client()})
}

// TrustIssuer does so for any issuer. Its keys are those that jwks returns, as
// uploaded with --jwk-json-path, or, where that is nil, found by discovery.
func (g *Google) TrustIssuer(audience, issuerURL string, jwks func() []byte) {
	g.tb.Helper()
	g.trust(audience, &pool{issuer: issuerURL, jwks: jwks, http: http.DefaultClient})
}

func (g *Google) trust(audience string, p *pool) {
	g.tb.Helper()
	m := audienceForm.FindStringSubmatch(audience)
	if m == nil {
		g.tb.Fatalf("audience %q: want //iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER", audience)
	}
	p.name = m[1]
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pools[audience] != nil {
		g.tb.Fatalf("audience %q: a provider trusts one issuer; name another provider", audience)
	}
	g.pools[audience] = p
}

// AllowAudiences are the values of aud that a provider takes, in place of its own
// name (gcloud's --allowed-audiences).
func (g *Google) AllowAudiences(audience string, allowed ...string) {
	g.tb.Helper()
	g.change(audience, func(p *pool) { p.audiences = slices.Clone(allowed) })
}

// Condition is a provider's attribute condition.
func (g *Google) Condition(audience string, holds func(claims map[string]any) bool) {
	g.tb.Helper()
	g.change(audience, func(p *pool) { p.condition = holds })
}

func (g *Google) change(audience string, do func(*pool)) {
	g.tb.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.pools[audience]
	if p == nil {
		g.tb.Fatalf("audience %q is not there: call TrustPool or TrustIssuer first", audience)
	}
	changed := *p
	do(&changed)
	g.pools[audience] = &changed
}

// SubjectPrincipal is how IAM names a subject of the pool that audience belongs to.
func SubjectPrincipal(audience, subject string) string {
	m := audienceForm.FindStringSubmatch(audience)
	if m == nil {
		return ""
	}
	return "principal://iam.googleapis.com/" + m[1] + "/subject/" + subject
}

// sts is Google's token exchange
// (https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token).
func (g *Google) sts(w http.ResponseWriter, r *http.Request) {
	if !form(w, r) {
		return
	}
	f := r.PostForm
	invalid := func(name string) {
		oauthError(w, http.StatusBadRequest, "invalid_request", fmt.Sprintf("Invalid value for %q. See https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token for the list of possible formats.", name))
	}
	audience := f.Get("audience")
	switch {
	case f.Get("grant_type") == "":
		invalid("grant_type")
		return
	case f.Get("grant_type") != grantExchange:
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "")
		return
	case f.Get("requested_token_type") != typeAccessToken:
		invalid("requested_token_type")
		return
	case !slices.Contains([]string{typeJWT, typeIDToken}, f.Get("subject_token_type")):
		invalid("subject_token_type")
		return
	case f.Get("subject_token") == "":
		invalid("subject_token")
		return
	case f.Get("actor_token") != "" || f.Get("actor_token_type") != "":
		invalid("actor_token")
		return
	case !audienceForm.MatchString(audience):
		oauthError(w, http.StatusBadRequest, "invalid_request", `Invalid value for "audience". This value should be the full resource name of the Identity Provider. See https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token for the list of possible formats.`)
		return
	case !knownScopes(f.Get("scope")):
		oauthError(w, http.StatusBadRequest, "invalid_scope", "Invalid OAuth scope or ID token audience provided.")
		return
	}
	g.mu.Lock()
	p := g.pools[audience]
	g.mu.Unlock()
	if p == nil {
		oauthError(w, http.StatusBadRequest, "invalid_target", `The target service indicated by the "audience" parameters is invalid. This might either be because the pool or provider is disabled or deleted or because it doesn't exist.`)
		return
	}
	claims, code, problem := g.judge(p, audience, f.Get("subject_token"))
	if problem != "" {
		oauthError(w, http.StatusBadRequest, code, problem)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	principal := "principal://iam.googleapis.com/" + p.name + "/subject/" + claims["sub"].(string) // judge made sure
	token := g.giveLocked("ya29.d.", &issued{
		principal: principal, scopes: scopesOf(f.Get("scope")), expires: g.now().Add(g.life), claims: claims,
	})
	reply(w, http.StatusOK, map[string]any{
		"access_token": token, "issued_token_type": typeAccessToken, "token_type": "Bearer", "expires_in": int(g.life / time.Second),
	})
}

// judge verifies an assertion as a provider would. Of several mistakes it names
// the one that Google finds first: form, issuer, audience, times, then signature.
func (g *Google) judge(p *pool, audience, raw string) (claims map[string]any, code, problem string) {
	algs := []jose.SignatureAlgorithm{jose.RS256, jose.ES256} // what providers support
	parsed, err := jose.ParseSignedCompact(raw, algs)
	if err != nil || strings.ContainsAny(raw, " \t\r\n") { // which the parser takes out
		return nil, "invalid_request", "Unable to parse the ID Token."
	}
	// Nothing of this is believed before the signature is checked below.
	shown := map[string]any{}
	if json.Unmarshal(parsed.UnsafePayloadWithoutVerification(), &shown) != nil {
		return nil, "invalid_request", "Unable to parse the ID Token."
	}
	if shown["iss"] != p.issuer {
		return nil, "invalid_grant", fmt.Sprintf("The issuer in ID Token %v does not match the expected ones: %s.", shown["iss"], p.issuer)
	}
	allowed := p.audiences
	if len(allowed) == 0 {
		allowed = []string{audience, "https:" + audience}
	}
	if aud := audiences(shown); !slices.ContainsFunc(aud, func(a string) bool { return slices.Contains(allowed, a) }) {
		return nil, "invalid_grant", fmt.Sprintf("The audience in ID Token [%s] does not match the expected audience %s.", strings.Join(aud, ", "), strings.Join(allowed, ", "))
	}
	now := g.time()
	iat, hasIat := moment(shown, "iat")
	exp, hasExp := moment(shown, "exp")
	switch {
	case !hasIat || !hasExp:
		return nil, "invalid_grant", "The ID Token is missing a required claim: iat and exp."
	case now.After(exp.Add(stsSkew)):
		return nil, "invalid_grant", fmt.Sprintf("ID Token issued at %d is stale to sign-in.", iat.Unix())
	case iat.After(now.Add(stsSkew)):
		return nil, "invalid_grant", fmt.Sprintf("ID Token issued at %d is from the future.", iat.Unix())
	case exp.Sub(iat) > maxAssertionLife:
		return nil, "invalid_grant", "The lifetime of the ID Token is more than 24 hours."
	}
	if nbf, ok := moment(shown, "nbf"); ok && nbf.After(now.Add(stsSkew)) {
		return nil, "invalid_grant", "The ID Token is not valid yet."
	}
	keys, err := p.keys()
	if err != nil {
		return nil, "invalid_grant", errIssuerAway
	}
	if claims, err = verified(raw, keys, algs...); err != nil {
		return nil, "invalid_grant", "Unable to verify the ID Token signature."
	}
	sub, _ := claims["sub"].(string)
	switch {
	case sub == "":
		return nil, "invalid_request", "The mapped attribute google.subject is empty."
	case len(sub) > maxSubject:
		return nil, "invalid_request", "The size of mapped attribute google.subject exceeds the 127 bytes limit. Either modify your attribute mapping or the incoming assertion to produce a mapped attribute that is less than 127 bytes."
	case p.condition != nil && !p.condition(claims):
		return nil, "unauthorized_client", "The given credential is rejected by the attribute condition."
	}
	return claims, "", ""
}

// keys are the issuer's, uploaded or fetched. Google caches them for some hours;
// here they are fetched each time.
func (p *pool) keys() (set jose.JSONWebKeySet, err error) {
	if p.jwks != nil {
		return set, json.Unmarshal(p.jwks(), &set)
	}
	var doc struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if err := p.fetch(p.issuer+PathDiscovery, &doc); err != nil {
		return set, err
	}
	if doc.Issuer != p.issuer {
		return set, fmt.Errorf("discovery document of %s says that it is %s", p.issuer, doc.Issuer)
	}
	return set, p.fetch(doc.JWKS, &set)
}

func (p *pool) fetch(url string, into any) error {
	client := *p.http
	client.Timeout = time.Minute // a loaded machine must not pass for an issuer that is away
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(into)
}

// knownScopes reports whether there are scopes and all look like Google's.
func knownScopes(s string) bool {
	scopes := scopesOf(s)
	return len(scopes) > 0 && !slices.ContainsFunc(scopes, func(s string) bool {
		return s != "openid" && s != "email" && s != "profile" && !strings.HasPrefix(s, "https://www.googleapis.com/auth/")
	})
}
