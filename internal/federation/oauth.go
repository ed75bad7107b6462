package federation

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// OAuthConfig is for mode "oauth".
type OAuthConfig struct {
	Connection string
	// ClientID and ClientSecret are an OAuth client of type "web application".
	ClientID, ClientSecret string
	Scopes                 []string // default [Scope]
	// AllowedDomains of the accounts that may consent. Empty: any, since the
	// account must be the signed-in human's own anyway.
	AllowedDomains []string
	Store          *ConsentStore
	// ConsentURL is where humans consent, for messages; "{connection}" in it is
	// filled in. Optional.
	ConsentURL string
	Endpoints  Endpoints
}

// OAuthSource makes calls of agents as the humans on whose behalf they act, by
// consent of each. It is a [Source].
type OAuthSource struct {
	conf  OAuthConfig
	ends  Endpoints
	cache *cache
}

// OAuth returns the source. The errors are about the configuration.
func OAuth(c OAuthConfig) (*OAuthSource, error) {
	switch {
	case c.ClientID == "" || c.ClientSecret == "":
		return nil, errors.New("client_id and client_secret_file are needed: make an OAuth client of type \"web application\"")
	case c.Store == nil:
		return nil, errors.New("consents have no store")
	}
	c.Scopes = scopesOf(c.Scopes)
	domains := make([]string, 0, len(c.AllowedDomains))
	for _, d := range c.AllowedDomains {
		domains = append(domains, foldASCII(strings.TrimPrefix(d, "@")))
	}
	c.AllowedDomains = domains
	o := &OAuthSource{conf: c, ends: c.Endpoints.withDefaults()}
	o.cache = newCache(o.mint)
	return o, nil
}

// Describe implements [Source].
func (o *OAuthSource) Describe() Credential { return Credential{Mode: ModeOAuth} }

// Credential implements [Source]. It needs a human in the principal, and their
// consent; whether it still stands at Google shows when a token is refreshed.
func (o *OAuthSource) Credential(ctx context.Context, r Request) (Credential, error) {
	consent, err := o.consent(r.principal().Human)
	if err != nil {
		return Credential{}, err
	}
	return o.cache.get(ctx, o.key(r, consent), r)
}

// consent returns the one that stands.
func (o *OAuthSource) consent(human string) (*sealedConsent, error) {
	if human == "" {
		return nil, &Error{
			Connection: o.conf.Connection, Step: StepHuman,
			Message: "this connection is used as the human on whose behalf an agent acts, and this call is on nobody's",
			Fix:     "call with a credential that names the human: a gateway token issued with --human, a JWT whose issuer maps one, or a token exchange",
		}
	}
	c, err := o.conf.Store.get(o.conf.Connection, human)
	if err != nil {
		return nil, o.needsConsent(human, "has not consented to it yet")
	}
	if c.ClientID != o.conf.ClientID {
		return nil, o.needsConsent(human, "consented when it had another OAuth client")
	}
	if c.Broken != "" {
		return nil, o.needsConsent(human, "consented, but that no longer works: "+c.Broken)
	}
	return c, nil
}

func (o *OAuthSource) needsConsent(human, why string) *Error {
	where := "/consent/" + o.conf.Connection + " on the gateway's admin address"
	if o.conf.ConsentURL != "" {
		where = strings.ReplaceAll(o.conf.ConsentURL, "{connection}", url.PathEscape(o.conf.Connection))
	}
	return &Error{
		Connection: o.conf.Connection, Step: StepConsent,
		Message: fmt.Sprintf("this connection is used as the human on whose behalf the agent acts, and %s %s", cleanText(human, nil), why),
		Fix:     cleanText(human, nil) + " signs in and consents at " + where,
	}
}

// key: a new consent is another key, so that nothing minted by the old one is used.
func (o *OAuthSource) key(r Request, c *sealedConsent) cacheKey {
	return keyOf(o.conf.Connection, r.principal(), "", c.Account, "", c.digest)
}

// mint refreshes (RFC 6749 section 6). Google's library (auth.New3LOTokenProvider) keeps
// the refresh token and a cache for each user, and hides "invalid_grant" in text.
func (o *OAuthSource) mint(ctx context.Context, r Request) (Credential, error) {
	human := r.principal().Human
	consent, err := o.consent(human)
	if err != nil {
		return Credential{}, err
	}
	refresh, err := o.conf.Store.open(consent)
	if err != nil {
		return Credential{}, &Error{Connection: o.conf.Connection, Step: StepRefresh, Message: "the stored consent cannot be opened: " + err.Error()}
	}
	answer, err := o.token(ctx, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}})
	if err != nil {
		return Credential{}, o.refreshFailed(consent, err)
	}
	if answer.Refresh != "" && answer.Refresh != refresh { // Google keeps them; others may not (RFC 6749 section 6)
		if err := o.rotate(consent, answer.Refresh); err != nil {
			return Credential{}, &Error{Connection: o.conf.Connection, Step: StepRefresh, Message: "a new refresh token could not be kept: " + err.Error(), Temporary: true}
		}
	}
	c := o.Describe()
	c.Token, c.Principal = answer.Access, consent.Account
	if c.Expires, err = ends(o.cache.now(), answer.ExpiresIn); err != nil {
		return Credential{}, &Error{Connection: o.conf.Connection, Step: StepRefresh, Message: "refreshing the access token did not work: " + err.Error()}
	}
	return c, nil
}

// rotate keeps a new refresh token, unless the human consented anew or revoked meanwhile.
func (o *OAuthSource) rotate(was *sealedConsent, token string) error {
	now, err := o.conf.Store.get(was.Connection, was.Human)
	if err != nil || now != was {
		return nil //nolint:nilerr // there is nothing to keep it for
	}
	return o.conf.Store.put(was.Consent, token)
}

// refreshFailed tells a consent that was withdrawn (or a password reset, six months
// of disuse, the client deleted: Google says "invalid_grant" to all) from the rest.
func (o *OAuthSource) refreshFailed(consent *sealedConsent, err error) error {
	no, ok := errors.AsType[*refusal](err)
	if ok && no.Code == "invalid_grant" {
		why := "Google no longer accepts it (withdrawn at myaccount.google.com, password changed, or unused for long)"
		if no.Subtype == "invalid_rapt" {
			why = "the organisation asks its people to sign in again"
		}
		// From now on calls are refused without asking Google. Where it cannot be
		// written they ask again every two seconds, and hear the same.
		if err := o.conf.Store.markBroken(consent, why); err != nil {
			why += " (and this could not be noted: " + err.Error() + ")"
		}
		return o.needsConsent(consent.Human, "consented, but that no longer works: "+why)
	}
	e := &Error{
		Connection: o.conf.Connection, Step: StepRefresh, Temporary: temporary(err),
		Message: "refreshing the access token did not work: " + clean(err, nil).Error(),
	}
	if ok && (no.Code == "invalid_client" || no.Code == "unauthorized_client") {
		e.Fix = "check client_id and client_secret_file of connection " + o.conf.Connection + " at https://console.cloud.google.com/auth/clients"
	}
	return e
}

// tokenAnswer is RFC 6749 section 5.1.
type tokenAnswer struct {
	Access    string `json:"access_token"`
	Type      string `json:"token_type"`
	ExpiresIn int64  `json:"expires_in"` // seconds
	Refresh   string `json:"refresh_token"`
	Scope     string `json:"scope"`
}

func (o *OAuthSource) token(ctx context.Context, form url.Values) (tokenAnswer, error) {
	form.Set("client_id", o.conf.ClientID)
	form.Set("client_secret", o.conf.ClientSecret)
	var answer tokenAnswer
	err := o.ends.postForm(ctx, o.ends.OAuthToken, form, &answer, "client_secret", "refresh_token", "code", "code_verifier")
	if err == nil && (!printable(answer.Access) || !strings.EqualFold(answer.Type, "Bearer")) {
		err = fmt.Errorf("%w: it gave no bearer token", errAnswer)
	}
	return answer, err
}

// Rejected implements [Rejecter].
func (o *OAuthSource) Rejected(r Request, c Credential) {
	if consent, err := o.consent(r.principal().Human); err == nil {
		o.cache.reject(o.key(r, consent), c.Token)
	}
}

// Close implements [io.Closer].
func (o *OAuthSource) Close() error {
	o.cache.close()
	return nil
}

// verifierForm is that of a code verifier (RFC 7636 section 4.1).
var verifierForm = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`)

// Begin returns where to send the signed-in human's browser to consent. State must
// be bound to their session, and verifier (RFC 7636: 43 to 128 characters) kept there
// for Complete; redirectURI is registered with the client.
func (o *OAuthSource) Begin(human, redirectURI, state, verifier string) (string, error) {
	if human == "" || len(human) > maxHumanBytes || len(state) < 16 || !verifierForm.MatchString(verifier) {
		return "", errors.New("begin consent: a human, a state of 16 characters or more and a PKCE verifier are needed")
	}
	u, err := url.Parse(o.ends.OAuthAuth)
	if err != nil {
		return "", errors.New("begin consent: the authorization endpoint's URL is not valid")
	}
	challenge := sha256.Sum256([]byte(verifier))
	q := u.Query()
	for name, value := range map[string]string{
		"response_type": "code", "client_id": o.conf.ClientID, "redirect_uri": redirectURI, "state": state,
		"scope":          strings.Join(append([]string{"openid", "email"}, o.conf.Scopes...), " "),
		"code_challenge": base64.RawURLEncoding.EncodeToString(challenge[:]), "code_challenge_method": "S256",
		"access_type": "offline", "prompt": "consent", // without both Google gives no refresh token the second time
		"login_hint": human,
	} {
		q.Set(name, value)
	}
	if len(o.conf.AllowedDomains) == 1 {
		q.Set("hd", o.conf.AllowedDomains[0])
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// ErrConsent is what Complete's errors are about the human's side: another account,
// something not ticked. Their text is fit to be shown to them.
var ErrConsent = errors.New("consent was not taken")

// Complete redeems the code that Google sent the human's browser back with, checks
// whose account it is, and keeps the consent. It takes the place of the one before.
func (o *OAuthSource) Complete(ctx context.Context, human, redirectURI, code, verifier string) (Consent, error) {
	if human == "" || len(human) > maxHumanBytes || code == "" || len(code) > 4<<10 || !verifierForm.MatchString(verifier) {
		return Consent{}, fmt.Errorf("%w: a human, a code and a PKCE verifier are needed", ErrConsent)
	}
	answer, err := o.token(ctx, url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirectURI}, "code_verifier": {verifier},
	})
	if no, ok := errors.AsType[*refusal](err); ok && no.Code == "invalid_grant" {
		return Consent{}, fmt.Errorf("%w: Google does not take the code (used, or too old): begin again", ErrConsent)
	}
	if err != nil {
		return Consent{}, fmt.Errorf("redeem the code: %w", clean(err, nil))
	}
	if answer.Refresh == "" {
		return Consent{}, fmt.Errorf("%w: Google gave no refresh token; remove Trailgate at https://myaccount.google.com/connections and begin again", ErrConsent)
	}
	granted := strings.Fields(answer.Scope)
	for _, scope := range o.conf.Scopes {
		// No scope in the answer means all that were asked for (RFC 6749 section 5.1).
		if answer.Scope != "" && !slices.Contains(granted, scope) {
			return Consent{}, fmt.Errorf("%w: %s was not ticked; begin again and allow it", ErrConsent, scope)
		}
	}
	account, err := o.account(ctx, answer.Access, human)
	if err != nil {
		// The token is forgotten and not revoked: that would also end the consent
		// that the owner of the account may have given before.
		return Consent{}, err
	}
	c := Consent{Connection: o.conf.Connection, Human: human, Account: account, ClientID: o.conf.ClientID, Scopes: slices.Clone(o.conf.Scopes), Granted: o.cache.now().UTC()}
	if err := o.conf.Store.put(c, answer.Refresh); err != nil {
		return Consent{}, err
	}
	return c, nil
}

// account asks whose an access token is (OpenID Connect Core 1.0, section 5.3), over
// the connection that the token itself came by.
func (o *OAuthSource) account(ctx context.Context, token, human string) (string, error) {
	var who struct {
		Email    string `json:"email"`
		Verified bool   `json:"email_verified"`
		Domain   string `json:"hd"` // Google's: the Workspace organisation of the account
	}
	if err := o.ends.do(ctx, http.MethodGet, o.ends.UserInfo, "", token, nil, &who, nil); err != nil {
		return "", fmt.Errorf("ask whose account it is: %w", err)
	}
	email := cleanText(who.Email, nil)
	_, domain, ok := strings.Cut(foldASCII(who.Email), "@")
	switch {
	case !ok || email != who.Email || len(email) > maxHumanBytes:
		return "", fmt.Errorf("%w: Google did not say whose account it is", ErrConsent)
	case !who.Verified:
		return "", fmt.Errorf("%w: the address %s is not verified", ErrConsent, email)
	case foldASCII(who.Email) != foldASCII(human):
		return "", fmt.Errorf("%w: you are signed in here as %s and consented as %s; choose your own account", ErrConsent, cleanText(human, nil), email)
	case len(o.conf.AllowedDomains) > 0 && !slices.Contains(o.conf.AllowedDomains, domain),
		len(o.conf.AllowedDomains) > 0 && who.Domain != "" && !slices.Contains(o.conf.AllowedDomains, foldASCII(who.Domain)):
		return "", fmt.Errorf("%w: accounts of %s may not be used for connection %s", ErrConsent, domain, o.conf.Connection)
	}
	return email, nil
}

// Consents lists the consents to this connection by human.
func (o *OAuthSource) Consents() []Consent { return o.conf.Store.list(o.conf.Connection) }

// Revoke ends a human's consent: here at once, and then at Google (RFC 7009), unless
// they also consented to another connection that has the same OAuth client, since
// Google would end that too. An error after the first says so; [ErrNoConsent] means
// that there was none.
func (o *OAuthSource) Revoke(ctx context.Context, human string) error {
	consent, err := o.conf.Store.get(o.conf.Connection, human)
	if err != nil {
		return fmt.Errorf("revoke consent of %s: %w", cleanText(human, nil), err)
	}
	token, openErr := o.conf.Store.open(consent)
	if err := o.conf.Store.remove(o.conf.Connection, human); err != nil {
		return fmt.Errorf("revoke consent: %w", err)
	}
	if o.conf.Store.others(consent) {
		return nil
	}
	if openErr == nil {
		openErr = o.ends.postForm(ctx, o.ends.OAuthRevoke, url.Values{"token": {token}}, nil, "token")
	}
	if no, ok := errors.AsType[*refusal](openErr); ok && (no.Code == "invalid_token" || no.Code == "invalid_grant") {
		return nil // Google knows it no more
	}
	if openErr != nil {
		return fmt.Errorf("consent is revoked here, but not at Google: %w; %s removes it at https://myaccount.google.com/connections", openErr, cleanText(human, nil))
	}
	return nil
}
