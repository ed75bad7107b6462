package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/trailgate/trailgate/internal/mapping"
)

// LoginConfig lets humans in by OpenID Connect: the authorization code flow with
// PKCE (RFC 7636) and a nonce (OpenID Connect Core 1.0, section 3.1). Without an
// Issuer, the admin token and links made with it are the only ways in.
type LoginConfig struct {
	Issuer, ClientID, ClientSecret string
	RedirectURL                    string       // Default: Config.AdminURL and "/login/callback".
	Scopes                         []string     // Default: openid, email, profile.
	Algorithms                     []string     // of ID tokens. Default: RS256, ES256.
	HTTP                           *http.Client // Optional.
	// Name is CEL over "claims": what entries call the human. Default: the
	// e-mail address, which the issuer must have verified.
	Name  string
	Roles RoleExprs
	// SessionTTL ends a login, IdleTTL one that nothing happens in. Defaults: 8 h, 1 h.
	SessionTTL, IdleTTL time.Duration
}

// RoleExprs are CEL over "claims" that say who has a role. Empty: nobody.
type RoleExprs struct{ Admin, Auditor, Approver string }

// Bounds of logins.
const (
	maxPending  = 1_000            // logins and consents under way; the oldest are forgotten
	pendingTTL  = 10 * time.Minute // for one
	maxHumans   = 10_000           // sessions; the oldest are forgotten
	maxHuman    = 256              // bytes of a human's name
	secretBytes = 32
	loginCookie = "trailgate_login"
	humanCookie = "trailgate_session"
	actionLogin = "admin.login"
)

// login is the flow by which humans get a session.
type login struct {
	conf      LoginConfig
	secure    bool   // cookies for https alone
	host      string // that requests with a cookie must be addressed to
	now       func() time.Time
	name      *mapping.Expr[string] // nil: the verified e-mail address
	roles     map[Role]*mapping.Expr[bool]
	strangers strangers

	mu       sync.Mutex // guards what follows
	provider *oidc.Provider
	pending  map[string]*pending // by state
	sessions map[[sha256.Size]byte]*session
	links    map[[sha256.Size]byte]*session // by the hash of their code; expires is the link's
	latest   map[string][]Role              // the roles of a human's newest sign-in
}

// pending is a login, or a consent, on its way through the browser.
type pending struct {
	browser         [sha256.Size]byte // hash of the browser's own cookie
	nonce, verifier string
	next            string // path to go to afterwards
	connection      string // of a consent
	human           string // of a consent: whose session asked
	expires         time.Time
}

// session is a human who signed in, or whoever opened the pages with the admin token
// or a link.
type session struct {
	name    string
	via     string
	roles   []Role
	expires time.Time
	last    time.Time
}

func newLogin(conf LoginConfig, adminURL string, now func() time.Time) (*login, error) {
	if (conf.Issuer == "") != (conf.ClientID == "") || adminURL == "" {
		return nil, errors.New("admin: login needs the admin listener's address, and with an issuer a client id")
	}
	at, err := url.Parse(adminURL)
	if err != nil || at.Host == "" {
		return nil, fmt.Errorf("admin: %q is no address that humans could be sent back to", adminURL)
	}
	if conf.RedirectURL == "" {
		conf.RedirectURL = strings.TrimSuffix(adminURL, "/") + "/login/callback"
	}
	if len(conf.Scopes) == 0 {
		conf.Scopes = []string{oidc.ScopeOpenID, "email", "profile"}
	}
	if len(conf.Algorithms) == 0 {
		conf.Algorithms = []string{oidc.RS256, oidc.ES256}
	}
	if conf.SessionTTL <= 0 {
		conf.SessionTTL = 8 * time.Hour
	}
	if conf.IdleTTL <= 0 {
		conf.IdleTTL = time.Hour
	}
	l := &login{
		conf: conf, secure: at.Scheme == "https", host: at.Host, now: now,
		roles: map[Role]*mapping.Expr[bool]{}, pending: map[string]*pending{}, sessions: map[[sha256.Size]byte]*session{}, links: map[[sha256.Size]byte]*session{}, latest: map[string][]Role{},
	}
	env, err := mapping.NewEnv("claims")
	if err != nil {
		return nil, err
	}
	if conf.Name != "" {
		if l.name, err = env.String(conf.Name); err != nil {
			return nil, fmt.Errorf("admin.login.name: %w", err)
		}
	}
	for role, expr := range map[Role]string{RoleAdmin: conf.Roles.Admin, RoleAuditor: conf.Roles.Auditor, RoleApprover: conf.Roles.Approver} {
		if expr == "" {
			continue
		}
		if l.roles[role], err = env.Bool(expr); err != nil {
			return nil, fmt.Errorf("admin.login.roles.%s: %w", role, err)
		}
	}
	return l, nil
}

// issuer finds the issuer's endpoints, once; while it is away, each login tries.
func (l *login) issuer(ctx context.Context) (*oidc.Provider, error) {
	l.mu.Lock()
	known := l.provider
	l.mu.Unlock()
	if known != nil {
		return known, nil
	}
	// The provider fetches keys later, with this context's client and beyond this request.
	p, err := oidc.NewProvider(l.client(context.WithoutCancel(ctx)), l.conf.Issuer)
	if err != nil {
		return nil, &Error{Code: http.StatusServiceUnavailable, Message: "the identity provider cannot be reached at the moment; try again, or use the admin token", cause: err}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.provider = p
	return p, nil
}

func (l *login) client(ctx context.Context) context.Context {
	client := http.Client{Timeout: 20 * time.Second}
	if l.conf.HTTP != nil {
		client = *l.conf.HTTP
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return oidc.ClientContext(ctx, &client)
}

func (l *login) oauth(p *oidc.Provider) *oauth2.Config {
	return &oauth2.Config{ClientID: l.conf.ClientID, ClientSecret: l.conf.ClientSecret, Endpoint: p.Endpoint(), RedirectURL: l.conf.RedirectURL, Scopes: l.conf.Scopes}
}

// secret makes 256 random bits as text.
func secret() string {
	var b [secretBytes]byte
	_, _ = rand.Read(b[:]) // it does not fail: crypto/rand ends the program first
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// cookie makes a cookie that scripts and other sites do not get. Over https its
// name binds it to this host (RFC 6265bis, section 4.1.3.2).
func (l *login) cookie(name, value string, ttl time.Duration) *http.Cookie {
	c := &http.Cookie{Name: l.cookieName(name), Value: value, Path: "/", MaxAge: int(ttl / time.Second), HttpOnly: true, Secure: l.secure, SameSite: http.SameSiteLaxMode}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

func (l *login) cookieName(name string) string {
	if l.secure {
		return "__Host-" + name
	}
	return name
}

// held is the value of a cookie that stands exactly once; else it is nobody's.
func (l *login) held(r *http.Request, name string) string {
	value := ""
	for _, c := range r.Cookies() {
		if c.Name == l.cookieName(name) {
			if value != "" {
				return ""
			}
			value = c.Value
		}
	}
	return value
}

// start notes that this browser began something, and returns its state. A
// browser that has no cookie of its own gets one.
func (l *login) start(w http.ResponseWriter, r *http.Request, p *pending) (state string) {
	browser := l.held(r, loginCookie)
	if len(browser) < secretBytes {
		browser = secret()
	}
	http.SetCookie(w, l.cookie(loginCookie, browser, pendingTTL))
	p.browser, p.expires = sha256.Sum256([]byte(browser)), l.now().Add(pendingTTL)
	state = secret()
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pending) >= maxPending {
		oldest := ""
		for s, other := range l.pending {
			if oldest == "" || other.expires.Before(l.pending[oldest].expires) {
				oldest = s
			}
		}
		delete(l.pending, oldest)
	}
	l.pending[state] = p
	return state
}

// finish takes up what this very browser began; it is there once.
func (l *login) finish(r *http.Request, state string) (*pending, bool) {
	l.mu.Lock()
	p := l.pending[state]
	delete(l.pending, state)
	l.mu.Unlock()
	if p == nil || !l.now().Before(p.expires) {
		return nil, false
	}
	browser := sha256.Sum256([]byte(l.held(r, loginCookie)))
	return p, subtle.ConstantTimeCompare(browser[:], p.browser[:]) == 1
}

// open begins a session and returns its cookie's value.
func (l *login) open(name, via string, roles []Role) string {
	value := secret()
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, s := range l.sessions {
		if !l.aliveLocked(s, now) {
			delete(l.sessions, key)
		}
	}
	for len(l.sessions) >= maxHumans {
		var oldest [sha256.Size]byte
		var since time.Time
		for key, s := range l.sessions {
			if since.IsZero() || s.last.Before(since) {
				oldest, since = key, s.last
			}
		}
		delete(l.sessions, oldest)
	}
	l.sessions[sha256.Sum256([]byte(value))] = &session{name: name, via: via, roles: roles, expires: now.Add(l.conf.SessionTTL), last: now}
	return value
}

func (l *login) aliveLocked(s *session, now time.Time) bool {
	return now.Before(s.expires) && now.Before(s.last.Add(l.conf.IdleTTL))
}

// signedIn is the human of a request's cookie.
func (l *login) signedIn(r *http.Request) (session, bool) {
	value := l.held(r, humanCookie)
	if value == "" {
		return session{}, false
	}
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sessions[sha256.Sum256([]byte(value))]
	if s == nil || !l.aliveLocked(s, now) {
		return session{}, false
	}
	s.last = now
	out := *s
	if roles, seen := l.latest[s.name]; seen && s.via == viaOIDC { // what the newest sign-in did not give is lost in all browsers
		out.roles = nil
		for _, r := range s.roles {
			if slices.Contains(roles, r) {
				out.roles = append(out.roles, r)
			}
		}
	}
	return out, true
}

// saw remembers the roles that a human's newest sign-in gave, none included.
func (l *login) saw(name string, roles []Role) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.latest[name]; !known && len(l.latest) >= maxLatest {
		for other := range l.latest {
			delete(l.latest, other) // any: what is forgotten is as good as not known
			break
		}
	}
	l.latest[name] = roles
}

// maxLatest bounds the humans whose roles are remembered.
const maxLatest = 10_000

func (l *login) closeSession(r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sessions, sha256.Sum256([]byte(l.held(r, humanCookie))))
}

// localPath lets through paths on this host alone: where a login goes to is
// not for a link to say.
func localPath(next string) string {
	if !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t") || len(next) > 1024 {
		return "/"
	}
	u, err := url.Parse(next)
	if err != nil || u.Host != "" || u.Scheme != "" {
		return "/"
	}
	return next
}

// begin is GET login: to the identity provider.
func (a *API) begin(w http.ResponseWriter, r *request) error {
	l := a.login
	if l.conf.Issuer == "" {
		http.Redirect(w, r.Request, "/login/token?next="+url.QueryEscape(localPath(r.query.Get("next"))), http.StatusSeeOther)
		return nil
	}
	p, err := l.issuer(r.Context())
	if err != nil {
		return err
	}
	flow := &pending{nonce: secret(), verifier: oauth2.GenerateVerifier(), next: localPath(r.query.Get("next"))}
	state := l.start(w, r.Request, flow)
	to := l.oauth(p).AuthCodeURL(state, oidc.Nonce(flow.nonce), oauth2.S256ChallengeOption(flow.verifier))
	http.Redirect(w, r.Request, to, http.StatusSeeOther)
	return nil
}

// errLogin is what a browser is told whose login did not work. Why is for the
// operational log: it may be an attacker's browser.
var errLogin = &Error{Code: http.StatusForbidden, Message: "the login did not work; begin again"}

// callback is GET login/callback: from the identity provider.
func (a *API) callback(w http.ResponseWriter, r *request) error {
	l := a.login
	flow, ok := l.finish(r.Request, r.query.Get("state"))
	if !ok || flow.connection != "" {
		a.refuseLogin(r, "the state is not this browser's")
		return errLogin
	}
	if r.query.Get("error") != "" {
		a.refuseLogin(r, "the identity provider said no")
		return &Error{Code: http.StatusForbidden, Message: "the identity provider did not let you in (" + clip(printableWord(r.query.Get("error")), 64) + ")"}
	}
	claims, subject, err := l.claims(r.Context(), flow, r.query.Get("code"))
	if err != nil {
		a.cfg.Log.WarnContext(r.Context(), "a login did not work", "err", err)
		a.refuseLogin(r, "the identity provider's answer is not valid")
		return errLogin
	}
	name, roles, err := l.human(claims)
	if err == nil {
		l.saw(name, roles)
	}
	if err == nil && len(roles) == 0 {
		err = &Error{Code: http.StatusForbidden, Message: name + " has no role here; admin.login.roles says who has"}
	}
	if err != nil {
		a.refuseLogin(r, "no name, or no role")
		return err
	}
	r.who = caller{actor: name, via: viaOIDC, client: r.RemoteAddr, roles: roles}
	// On record before there is a session: a crash here means a login that did
	// not come about.
	_, err = a.record(r, actionLogin, name, map[string]string{"roles": joinRoles(roles), "issuer": l.conf.Issuer, "subject": subject})
	if err != nil {
		return err
	}
	http.SetCookie(w, l.cookie(loginCookie, "", 0))
	http.SetCookie(w, l.cookie(humanCookie, l.open(name, viaOIDC, roles), l.conf.SessionTTL))
	http.Redirect(w, r.Request, flow.next, http.StatusSeeOther)
	return nil
}

// claims redeems a code for an ID token, and checks that.
func (l *login) claims(ctx context.Context, flow *pending, code string) (claims map[string]any, subject string, err error) {
	if code == "" || len(code) > 4096 {
		return nil, "", errors.New("no code")
	}
	p, err := l.issuer(ctx)
	if err != nil {
		return nil, "", err
	}
	token, err := l.oauth(p).Exchange(l.client(ctx), code, oauth2.VerifierOption(flow.verifier))
	if err != nil {
		return nil, "", fmt.Errorf("redeem the code: %w", withoutSecrets(err))
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return nil, "", errors.New("the answer has no ID token")
	}
	id, err := p.Verifier(&oidc.Config{ClientID: l.conf.ClientID, SupportedSigningAlgs: l.conf.Algorithms, Now: l.now}).Verify(l.client(ctx), raw)
	if err != nil {
		return nil, "", fmt.Errorf("the ID token: %w", err)
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(flow.nonce)) != 1 {
		return nil, "", errors.New("the ID token is of another login")
	}
	if err := id.Claims(&claims); err != nil {
		return nil, "", fmt.Errorf("the ID token's claims: %w", err)
	}
	return claims, id.Subject, nil
}

// withoutSecrets keeps an OAuth error's code; its body is the provider's.
func withoutSecrets(err error) error {
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		return fmt.Errorf("the token endpoint answers %d %s", e.Response.StatusCode, printableWord(e.ErrorCode))
	}
	return err
}

// human reads name and roles out of a verified ID token.
func (l *login) human(claims map[string]any) (name string, roles []Role, err error) {
	vars := map[string]any{"claims": claims}
	if l.name != nil {
		if name, err = l.name.Eval(vars); err != nil {
			return "", nil, &Error{Code: http.StatusForbidden, Message: "admin.login.name: " + err.Error()}
		}
	} else {
		name, _ = claims["email"].(string)
		if verified, _ := claims["email_verified"].(bool); !verified {
			return "", nil, &Error{Code: http.StatusForbidden, Message: "the identity provider has not verified an e-mail address of yours; admin.login.name can name another claim"}
		}
	}
	if name == "" || len(name) > maxHuman || printableWord(name) != name {
		return "", nil, &Error{Code: http.StatusForbidden, Message: "the identity provider gives no name that can be recorded"}
	}
	for _, role := range []Role{RoleAdmin, RoleAuditor, RoleApprover} {
		expr := l.roles[role]
		if expr == nil {
			continue
		}
		// A claim that is missing gives no role; it is no reason to keep another back.
		if has, err := expr.Eval(vars); err == nil && has {
			roles = append(roles, role)
		}
	}
	return name, roles, nil
}

// printableWord leaves out what could steer a terminal or hide in a name.
func printableWord(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, s)
}

// logout is POST logout.
func (a *API) logout(w http.ResponseWriter, r *request) error {
	if _, err := a.record(r, "admin.logout", r.who.actor, nil); err != nil {
		return err
	}
	a.login.closeSession(r.Request)
	http.SetCookie(w, a.login.cookie(humanCookie, "", 0))
	// Not a page that wants a login: it would lead straight on to the identity
	// provider, which signs in again, or stands outside the page's form-action.
	http.Redirect(w, r.Request, a.accountPath(), http.StatusSeeOther)
	return nil
}

// refuseLogin counts a login that did not work.
func (a *API) refuseLogin(r *request, why string) {
	a.refuseOf(&a.login.strangers, r.Request, "admin.login_refused", viaOIDC, why, http.StatusForbidden)
}
