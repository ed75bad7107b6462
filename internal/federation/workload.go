package federation

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// WorkloadConfig is for mode "workload".
type WorkloadConfig struct {
	Connection string
	// Audience is the pool's provider:
	// //iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER
	Audience string
	// GatewayAudience is the provider that trusts the gateway as issuer, where agents'
	// own JWTs go to another: a provider trusts one issuer. Default: Audience.
	GatewayAudience string
	// Prefer is AssertionAgent, AssertionGateway or PreferAgent, the default.
	Prefer string
	// Issuer signs for the gateway; required unless Prefer is AssertionAgent.
	Issuer *Issuer
	// Template and Map name the service account that the federated identity goes on
	// to become, as for [Impersonation]. Optional: without one, the identity of the
	// pool itself has the rights.
	Template  string
	Map       map[string]string
	Scopes    []string      // default [Scope]
	Lifetime  time.Duration // of a service account's token; default 1 h, at most 12 h
	Endpoints Endpoints
}

// issuerMismatch is how Google's Security Token Service says that a provider
// trusts another issuer.
var issuerMismatch = regexp.MustCompile(`(?i)issuer .*does not match the expected`)

// providerForm takes an audience apart: project number, pool, provider.
var providerForm = regexp.MustCompile(`^(?:https:)?//iam\.googleapis\.com/projects/([^/]+)/locations/global/workloadIdentityPools/([^/]+)/providers/([^/]+)$`)

// Workload exchanges a JWT about each agent at Google's Security Token Service, without
// any Google key. The errors are about the configuration; Google is not asked yet.
func Workload(c WorkloadConfig) (Source, error) {
	switch c.Prefer {
	case "":
		c.Prefer = PreferAgent
	case AssertionAgent, AssertionGateway, PreferAgent:
	default:
		return nil, fmt.Errorf("assertion %q: want %s, %s or %s", c.Prefer, PreferAgent, AssertionAgent, AssertionGateway)
	}
	if c.Prefer != AssertionAgent && c.Issuer == nil {
		return nil, errors.New("the gateway is to sign assertions and is no issuer: set federation.issuer, or assertion to \"agent\"")
	}
	if c.GatewayAudience == "" {
		c.GatewayAudience = c.Audience
	}
	for _, audience := range []string{c.Audience, c.GatewayAudience} {
		if !providerForm.MatchString(audience) {
			return nil, fmt.Errorf("audience %.200q: want //iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER", audience)
		}
	}
	to, err := newAccounts(c.Connection, c.Template, c.Map)
	if err != nil {
		return nil, err
	}
	lifetime, err := lifetimeOf(c.Lifetime)
	if err != nil {
		return nil, err
	}
	s := &workload{
		connection: c.Connection, audience: c.Audience, gatewayAudience: c.GatewayAudience, prefer: c.Prefer, issuer: c.Issuer, to: to,
		scopes: scopesOf(c.Scopes), lifetime: lifetime, ends: c.Endpoints.withDefaults(),
	}
	s.cache = newCache(s.mint)
	return s, nil
}

type workload struct {
	connection      string
	audience        string // of agents' own JWTs
	gatewayAudience string // of those that the gateway signs
	prefer          string
	issuer          *Issuer
	to              *accounts
	scopes          []string
	lifetime        time.Duration
	ends            Endpoints
	cache           *cache
}

// audienceOf is the provider that a JWT goes to.
func (s *workload) audienceOf(whose string) string {
	if whose == AssertionAgent {
		return s.audience
	}
	return s.gatewayAudience
}

func (s *workload) Describe() Credential { return Credential{Mode: ModeWorkload} }

func (s *workload) Credential(ctx context.Context, r Request) (Credential, error) {
	r.Connection = s.connection
	own, err := s.own(r)
	if err != nil {
		return Credential{}, err
	}
	if !own {
		r.Assertion, r.AssertionExpires = "", time.Time{}
	}
	return s.cache.get(ctx, s.key(r, own), r)
}

// own decides whose JWT is exchanged: the agent's own or the gateway's. That
// Google refuses one is never a reason to try the other.
func (s *workload) own(r Request) (bool, error) {
	if s.prefer == AssertionGateway {
		return false, nil
	}
	ended := !r.AssertionExpires.IsZero() && !s.cache.now().Before(r.AssertionExpires)
	if r.Assertion != "" && !ended {
		return true, nil
	}
	if s.prefer == PreferAgent {
		return false, nil
	}
	e := &Error{Connection: s.connection, Step: StepAssertion, Message: "this connection exchanges the agent's own JWT, and the call came without one"}
	if ended {
		e.Message = "this connection exchanges the agent's own JWT, and the one that the session began with has ended"
	}
	e.Fix = fmt.Sprintf("let agent %s call with a JWT of its issuer, or set assertion of connection %s to %s", r.principal().Agent, s.connection, PreferAgent)
	return false, e
}

// key: an assertion that the gateway signs carries the session.
func (s *workload) key(r Request, own bool) cacheKey {
	if own {
		return keyOf(s.connection, r.principal(), s.audience, s.to.target(r), "", r.Assertion)
	}
	return keyOf(s.connection, r.principal(), s.gatewayAudience, s.to.target(r), r.Session, "")
}

func (s *workload) mint(ctx context.Context, r Request) (Credential, error) {
	c := s.Describe()
	jwt, err := s.assertion(ctx, r, &c)
	if err != nil {
		return Credential{}, err
	}
	account := ""
	scopes := s.scopes
	if s.to.on() {
		if account, err = s.to.of(r); err != nil {
			return Credential{}, err
		}
		scopes = []string{scopeCloud}
	}
	c.Token, c.Expires, err = s.exchange(ctx, jwt, s.audienceOf(c.Assertion), scopes)
	if err != nil {
		return Credential{}, s.refused(jwt, c.Assertion, err)
	}
	// As the provider maps google.subject=assertion.sub, which is what
	// docs/gcp-setup.md sets up.
	c.Principal = poolPrincipal(s.audienceOf(c.Assertion), subjectOf(jwt))
	if account == "" {
		return c, nil
	}
	federated := c
	c.Principal, c.Shared = account, s.to.shared(r.principal().Agent, account)
	c.Token, c.Expires, err = s.ends.become(ctx, federated.Token, account, nil, s.scopes, s.lifetime)
	if err != nil {
		return Credential{}, s.to.refused(r, quote(federated.Principal), account, nil, roleWorkload, err)
	}
	return c, nil
}

// assertion is the JWT that is exchanged; c is told whose it is.
func (s *workload) assertion(ctx context.Context, r Request, c *Credential) (string, error) {
	if r.Assertion != "" {
		c.Assertion = AssertionAgent
		return r.Assertion, nil
	}
	c.Assertion = AssertionGateway
	jwt, _, err := s.issuer.Sign(ctx, s.gatewayAudience, r)
	if err != nil {
		return "", &Error{Connection: s.connection, Step: StepAssertion, Message: err.Error()}
	}
	return jwt, nil
}

// exchange is RFC 8693 at Google's STS
// (https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token). Google's
// library does it inside credentials/externalaccount, for one subject and with a
// cache of its own for it; here each call may have another subject.
func (s *workload) exchange(ctx context.Context, jwt, audience string, scopes []string) (string, time.Time, error) {
	var answer struct {
		Token     string `json:"access_token"`
		Type      string `json:"token_type"`
		ExpiresIn int64  `json:"expires_in"` // seconds
	}
	err := s.ends.postForm(ctx, s.ends.STS+"/v1/token", url.Values{
		"grant_type":           {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"audience":             {strings.TrimPrefix(audience, "https:")},
		"scope":                {strings.Join(scopes, " ")},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"subject_token_type":   {"urn:ietf:params:oauth:token-type:jwt"},
		"subject_token":        {jwt},
	}, &answer, "subject_token")
	if err != nil {
		return "", time.Time{}, err
	}
	expires, err := ends(s.cache.now(), answer.ExpiresIn)
	if err != nil {
		return "", time.Time{}, err
	}
	if !strings.EqualFold(answer.Type, "Bearer") {
		return "", time.Time{}, fmt.Errorf("%w: it gave no bearer token", errAnswer)
	}
	return answer.Token, expires, nil
}

// ends turns expires_in into a time.
func ends(now time.Time, seconds int64) (time.Time, error) {
	if seconds <= 0 || seconds > int64(24*time.Hour/time.Second) {
		return time.Time{}, fmt.Errorf("%w: it gave a token without a usual lifetime", errAnswer)
	}
	return now.Add(time.Duration(seconds) * time.Second).UTC(), nil
}

// refused tells why STS did not exchange a JWT, and the command that changes what the
// provider accepts. Its claims are read unverified, and only to be shown.
func (s *workload) refused(jwt, whose string, err error) *Error {
	e := &Error{Connection: s.connection, Step: StepSTS, Temporary: temporary(err)}
	e.Message = fmt.Sprintf("exchanging the %s's JWT at Google's Security Token Service did not work: %s", whose, clean(err, []string{jwt}))
	no, ok := errors.AsType[*refusal](err)
	m := providerForm.FindStringSubmatch(s.audienceOf(whose))
	if !ok || m == nil || no.Status >= http.StatusInternalServerError {
		return e
	}
	provider := fmt.Sprintf("%s --workload-identity-pool=%s --location=global --project=%s", m[3], m[2], m[1])
	const command = "gcloud iam workload-identity-pools providers "
	claims := claimsOf(jwt)
	switch no.Code {
	case "invalid_target":
		e.Fix = command + "describe " + provider + " (it must exist and be enabled; else make it as docs/gcp-setup.md says)"
	case "unauthorized_client":
		e.Fix = command + "describe " + provider + " --format='value(attributeCondition)' (the condition must hold for subject " + quote(claims.Subject) + ")"
	case "invalid_grant", "invalid_request":
		switch {
		case issuerMismatch.MatchString(no.Text):
			// Pointing the provider at this issuer would shut out all who come from
			// the one that it trusts now.
			key := "audience"
			if whose == AssertionGateway && s.prefer == PreferAgent {
				key = "gateway_audience"
			}
			e.Fix = fmt.Sprintf("%sdescribe %s --format='value(oidc.issuerUri)' (a provider trusts one issuer: set %s of connection %s to one that trusts %s, made as docs/gcp-setup.md says)",
				command, provider, key, s.connection, quote(claims.Issuer))
		case whose == AssertionGateway:
			e.Fix = fmt.Sprintf("curl -s %s/.well-known/jwks.json > jwks.json && %supdate-oidc %s --issuer-uri=%s --jwk-json-path=jwks.json", s.issuer.URL(), command, provider, quote(s.issuer.URL()))
		default:
			e.Fix = fmt.Sprintf("%supdate-oidc %s --issuer-uri=%s --allowed-audiences=%s", command, provider, quote(claims.Issuer), quote(strings.Join(claims.Audience, ",")))
		}
	}
	return e
}

// Rejected implements [Rejecter].
func (s *workload) Rejected(r Request, c Credential) {
	own := c.Assertion == AssertionAgent
	r.Connection = s.connection
	s.cache.reject(s.key(r, own), c.Token)
}

// Close implements [io.Closer].
func (s *workload) Close() error {
	s.cache.close()
	return nil
}

// shownClaims are what messages say about a JWT.
type shownClaims struct {
	Issuer   string
	Subject  string
	Audience []string
}

// claimsOf reads a JWT without verifying it; what it does not find is empty. For
// words and for the name of a principal that Google has just accepted, for
// nothing else.
func claimsOf(jwt string) shownClaims {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return shownClaims{}
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return shownClaims{}
	}
	var c struct {
		Issuer   string `json:"iss"`
		Subject  string `json:"sub"`
		Audience any    `json:"aud"`
	}
	if json.Unmarshal(raw, &c) != nil {
		return shownClaims{}
	}
	shown := shownClaims{Issuer: cleanText(c.Issuer, nil), Subject: cleanText(c.Subject, nil)}
	switch aud := c.Audience.(type) {
	case string:
		shown.Audience = []string{cleanText(aud, nil)}
	case []any:
		for _, a := range aud[:min(len(aud), 8)] {
			if s, ok := a.(string); ok {
				shown.Audience = append(shown.Audience, cleanText(s, nil))
			}
		}
	}
	return shown
}

func subjectOf(jwt string) string { return claimsOf(jwt).Subject }

// poolPrincipal is how IAM policies and audit logs name a subject of a pool
// (https://cloud.google.com/iam/docs/principal-identifiers), or "".
func poolPrincipal(audience, subject string) string {
	m := providerForm.FindStringSubmatch(audience)
	if m == nil || subject == "" {
		return ""
	}
	return fmt.Sprintf("principal://iam.googleapis.com/projects/%s/locations/global/workloadIdentityPools/%s/subject/%s", m[1], m[2], subject)
}
