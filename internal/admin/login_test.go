package admin_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/idptest"
)

// front is an admin listener with a login, and the identity provider behind it.
type front struct {
	*rig
	t        *testing.T
	url      string
	provider *idptest.Provider
	consents *consents
	clock    *clock
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// consents stands in for a connection that works by consent.
type consents struct {
	mu    sync.Mutex
	given []federation.Consent
	fail  error
	seen  url.Values // of the last Begin
}

func (c *consents) Begin(human, redirect, state, verifier string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := sha256.Sum256([]byte(verifier))
	c.seen = url.Values{"human": {human}, "redirect_uri": {redirect}, "state": {state}, "challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}}
	return "https://google.invalid/auth?" + c.seen.Encode(), nil
}

func (c *consents) Complete(_ context.Context, human, redirect, code, verifier string) (federation.Consent, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return federation.Consent{}, c.fail
	}
	sum := sha256.Sum256([]byte(verifier))
	if code != "good" || c.seen.Get("challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) || c.seen.Get("redirect_uri") != redirect {
		return federation.Consent{}, errors.New("no such code")
	}
	given := federation.Consent{Connection: "personal", Human: human, Account: human, Scopes: []string{"bigquery"}, Granted: time.Now()}
	c.given = append(c.given, given)
	return given, nil
}

func (c *consents) Consents() []federation.Consent {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]federation.Consent(nil), c.given...)
}

func (c *consents) Revoke(_ context.Context, human string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, g := range c.given {
		if g.Human == human {
			c.given = append(c.given[:i], c.given[i+1:]...)
			return nil
		}
	}
	return federation.ErrNoConsent
}

func newFront(t *testing.T, tweaks ...func(*admin.Config)) *front {
	t.Helper()
	f := &front{t: t, provider: idptest.NewProvider(t), consents: &consents{}, clock: &clock{now: time.Now()}}
	var handler http.Handler
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	f.url = srv.URL
	f.provider.SetClock(f.clock.Now)
	f.provider.AddClient("trailgate", "hush", f.url+"/login/callback")
	f.rig = newRig(t, append([]func(*admin.Config){func(c *admin.Config) {
		c.AdminURL, c.Now = f.url, f.clock.Now
		c.Consents = map[string]admin.Consenter{"personal": f.consents}
		c.Login = &admin.LoginConfig{
			Issuer: f.provider.URL(), ClientID: "trailgate", ClientSecret: "hush",
			Roles: admin.RoleExprs{Admin: `"root" in claims.groups`, Auditor: `"audit" in claims.groups`, Approver: `claims.email.startsWith("boss") && !("fired" in claims.groups)`},
		}
	}}, tweaks...)...)
	handler = f.api.TCP(admin.HashToken(adminToken))
	return f
}

// browser follows redirects within the gateway and the provider, as one does.
type browser struct {
	t *testing.T
	*http.Client
	at string
}

func (f *front) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return &browser{f.t, &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Host == "google.invalid" {
			return http.ErrUseLastResponse
		}
		return nil
	}}, f.url}
}

// get returns status, body and where it ended up.
func (b *browser) get(path string) (int, string, *url.URL) {
	b.t.Helper()
	req, err := http.NewRequest(http.MethodGet, b.at+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.send(req)
}

func (b *browser) send(req *http.Request) (int, string, *url.URL) {
	b.t.Helper()
	resp, err := b.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	at := resp.Request.URL
	if to := resp.Header.Get("Location"); to != "" {
		if at, err = url.Parse(to); err != nil {
			b.t.Fatal(err)
		}
	}
	return resp.StatusCode, string(raw), at
}

func (b *browser) post(path, kind, body string, header ...string) (int, string) {
	b.t.Helper()
	req, err := http.NewRequest(http.MethodPost, b.at+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			for _, c := range b.Jar.Cookies(req.URL) { // a browser that was fooled has them
				req.AddCookie(c)
			}
			req.Host = header[i+1]
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	status, text, _ := b.send(req)
	return status, text
}

func ada(groups ...any) idptest.User {
	return idptest.User{Subject: "1", Email: "ada@example.com", EmailVerified: true, Claims: map[string]any{"groups": groups}}
}

// signIn makes a browser that has signed in as a user.
func (f *front) signIn(u idptest.User) *browser {
	f.t.Helper()
	f.provider.SignIn(u)
	b := f.browser()
	if status, body, at := b.get("/login"); status != 200 || at.Path != "/" || !strings.Contains(html.UnescapeString(body), u.Email) {
		f.t.Fatalf("login: %d at %s: %s", status, at, body)
	}
	return b
}

// told are the entries of an action.
func (f *front) told(action string) (list []*trailgate.Entry) {
	for _, e := range f.trail.entries(f.t) {
		if e.Event != nil && e.Event.Action == action {
			list = append(list, e)
		}
	}
	return list
}

// TestLogin: a human signs in, is on record by name in all that they do, and
// signs out.
func TestLogin(t *testing.T) {
	f := newFront(t)
	b := f.signIn(ada("root"))
	in := f.told("admin.login")
	if len(in) != 1 || in[0].Event.Actor != "ada@example.com" || in[0].Event.Via != "oidc" || in[0].Event.Detail["roles"] != "admin" || in[0].Client == "" {
		t.Fatalf("the login's entry: %+v", in)
	}
	if status, body := b.post("/api/v1/agents", "application/json", `{"name":"etl-bot"}`); status != 201 {
		t.Fatalf("%d %s", status, body)
	}
	if e := f.told("agent.add"); len(e) != 1 || e[0].Event.Actor != "ada@example.com" || e[0].Event.Via != "oidc" {
		t.Errorf("the change does not name the human: %+v", e)
	}
	if status, _ := b.post("/logout", "application/x-www-form-urlencoded", ""); status != 200 {
		t.Errorf("logout: %d", status)
	}
	if len(f.told("admin.logout")) != 1 {
		t.Error("the logout is not on record")
	}
	if status, _, _ := b.get("/api/v1/agents"); status != 401 {
		t.Errorf("after the logout: %d", status)
	}
}

// TestRoles: what each may do.
func TestRoles(t *testing.T) {
	f := newFront(t)
	post := func(b *browser, path string) int {
		status, _ := b.post(path, "application/json", `{}`)
		return status
	}
	get := func(b *browser, path string) int {
		status, _, _ := b.get(path)
		return status
	}
	auditor, approver := f.signIn(ada("audit")), f.signIn(idptest.User{Subject: "2", Email: "boss@example.com", EmailVerified: true, Claims: map[string]any{"groups": []any{}}})
	for path, want := range map[string][2]int{ // auditor, approver
		"/api/v1/entries": {200, 403}, "/api/v1/agents": {200, 403}, "/api/v1/gateway": {200, 200}, "/api/v1/stats": {200, 403},
		"/api/v1/log/key": {200, 403}, "/api/v1/consents": {200, 200}, "/api/v1/healthz": {200, 200},
	} {
		if got := [2]int{get(auditor, path), get(approver, path)}; got != want {
			t.Errorf("GET %s: %v, want %v", path, got, want)
		}
	}
	for _, path := range []string{"/api/v1/agents", "/api/v1/agents/a:revoke", "/api/v1/agents/a/tokens", "/api/v1/index:rebuild", "/api/v1/tokens/t:rotate", "/api/v1/connections/c:check", "/api/v1/sessions/s:revoke"} {
		if got := [2]int{post(auditor, path), post(approver, path)}; got != [2]int{403, 403} {
			t.Errorf("POST %s: %v", path, got)
		}
	}
	if n := len(f.told("agent.add")); n != 0 {
		t.Errorf("%d agents were made", n)
	}
}

// TestNobody: who has no role, or no verified address, gets no session; the
// trail counts it.
func TestNobody(t *testing.T) {
	for name, u := range map[string]idptest.User{
		"no role":          ada("guests"),
		"address unproven": {Subject: "1", Email: "ada@example.com", Claims: map[string]any{"groups": []any{"root"}}},
		"no address":       {Subject: "1", Claims: map[string]any{"groups": []any{"root"}}},
		"hidden name":      {Subject: "1", Email: "ada\u202e@example.com", EmailVerified: true, Claims: map[string]any{"groups": []any{"root"}}},
		"truthy":           {Subject: "1", Email: "ada@example.com", EmailVerified: true, Claims: map[string]any{"groups": "root"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFront(t)
			f.provider.SignIn(u)
			b := f.browser()
			if status, body, _ := b.get("/login"); status != 403 || !strings.Contains(body, `role="alert"`) {
				t.Errorf("%d %s", status, body)
			}
			if status, _, _ := b.get("/api/v1/agents"); status != 401 {
				t.Errorf("a session all the same: %d", status)
			}
			if n := len(f.told("admin.login_refused")); n != 1 {
				t.Errorf("%d entries about it", n)
			}
			if n := len(f.told("admin.login")); n != 0 {
				t.Errorf("%d entries say that it worked", n)
			}
		})
	}
}

// TestForgedCallbacks: only what this browser began ends in a session.
func TestForgedCallbacks(t *testing.T) {
	f := newFront(t)
	f.provider.SignIn(ada("root"))
	stop := func(b *browser) *url.URL { // at the gateway's callback, before it is called
		t.Helper()
		var at *url.URL
		b.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
			if r.URL.Path == "/login/callback" {
				at = r.URL
				return http.ErrUseLastResponse
			}
			return nil
		}
		if _, _, _ = b.get("/login"); at == nil {
			t.Fatal("the provider did not send the browser back")
		}
		return at
	}
	attacker, victim := f.browser(), f.browser()
	at := stop(attacker)
	// Login CSRF: the attacker's callback in the victim's browser.
	if status, _, _ := victim.get(at.RequestURI()); status != 403 {
		t.Errorf("another browser's callback: %d", status)
	}
	if status, _, _ := victim.get("/api/v1/agents"); status != 401 {
		t.Errorf("the victim has the attacker's session: %d", status)
	}
	// It was used up by that.
	if status, _, _ := attacker.get(at.RequestURI()); status != 403 {
		t.Errorf("a state works twice: %d", status)
	}
	for name, change := range map[string]func(url.Values){
		"no state":      func(q url.Values) { q.Del("state") },
		"other state":   func(q url.Values) { q.Set("state", strings.Repeat("A", 43)) },
		"no code":       func(q url.Values) { q.Del("code") },
		"other code":    func(q url.Values) { q.Set("code", "x") },
		"error instead": func(q url.Values) { q.Del("code"); q.Set("error", "access_denied<script>") },
	} {
		b := f.browser()
		at := stop(b)
		q := at.Query()
		change(q)
		if status, body, _ := b.get("/login/callback?" + q.Encode()); status != 403 || strings.Contains(body, "<script>") {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	// Too late.
	b := f.browser()
	at = stop(b)
	f.clock.add(11 * time.Minute)
	if status, _, _ := b.get(at.RequestURI()); status != 403 {
		t.Errorf("an old state: %d", status)
	}
	// An ID token of another login, for another client, of another issuer.
	for name, change := range map[string]func(map[string]any){
		"nonce":    func(c map[string]any) { c["nonce"] = "other" },
		"no nonce": func(c map[string]any) { delete(c, "nonce") },
		"audience": func(c map[string]any) { c["aud"] = "other" },
		"issuer":   func(c map[string]any) { c["iss"] = "https://evil.example" },
		"expired":  func(c map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() },
	} {
		f.provider.ChangeIDToken(change)
		b := f.browser()
		if status, _, _ := b.get("/login"); status != 403 {
			t.Errorf("%s: %d", name, status)
		}
		if status, _, _ := b.get("/api/v1/agents"); status != 401 {
			t.Errorf("%s: a session all the same", name)
		}
	}
	f.provider.ChangeIDToken(nil)
	if n := len(f.told("admin.login")); n != 0 {
		t.Errorf("%d logins are on record", n)
	}
}

// TestCookies: what a session's cookie is, and that nobody else's is taken.
func TestCookies(t *testing.T) {
	f := newFront(t)
	b := f.signIn(ada("root"))
	at, err := url.Parse(f.url)
	if err != nil {
		t.Fatal(err)
	}
	var value string
	for _, c := range b.Jar.Cookies(at) {
		if c.Name == "trailgate_session" {
			value = c.Value
		}
	}
	ask := func(cookie string) int {
		req, err := http.NewRequest(http.MethodGet, f.url+"/api/v1/gateway", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Cookie", cookie)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for cookie, want := range map[string]int{
		"trailgate_session=" + value: 200, "trailgate_session=" + value + "x": 401, "trailgate_session=": 401,
		"trailgate_session=" + value + "; trailgate_session=" + value: 401, "trailgate_login=" + value: 401,
	} {
		if got := ask(cookie); got != want {
			t.Errorf("%.30s…: %d, want %d", cookie, got, want)
		}
	}
	// Idle, and at the end.
	f.clock.add(59 * time.Minute)
	if status, _, _ := b.get("/api/v1/gateway"); status != 200 {
		t.Errorf("within the hour: %d", status)
	}
	f.clock.add(61 * time.Minute)
	if status, _, _ := b.get("/api/v1/gateway"); status != 401 {
		t.Errorf("after an idle hour: %d", status)
	}
	b = f.signIn(ada("root"))
	for range 9 {
		f.clock.add(55 * time.Minute)
		b.get("/api/v1/gateway")
	}
	if status, _, _ := b.get("/api/v1/gateway"); status != 401 {
		t.Errorf("after eight hours: %d", status)
	}
	// Fixation: a session that was there before the login is not the one after it.
	f.provider.SignIn(ada("root"))
	fixed := f.browser()
	fixed.Jar.SetCookies(at, []*http.Cookie{{Name: "trailgate_session", Value: strings.Repeat("F", 43)}})
	fixed.get("/login")
	if got := ask("trailgate_session=" + strings.Repeat("F", 43)); got != 401 {
		t.Errorf("a planted session is taken: %d", got)
	}
}

// TestCookieFlags over https: bound to this host, to https, and to the server.
func TestCookieFlags(t *testing.T) {
	f := newFront(t, func(c *admin.Config) { c.AdminURL = "https://audit.example:8471" })
	req := httptest.NewRequest(http.MethodGet, "https://audit.example:8471/login", nil)
	w := httptest.NewRecorder()
	f.api.TCP(admin.HashToken(adminToken)).ServeHTTP(w, req)
	set := w.Header().Get("Set-Cookie")
	for _, want := range []string{"__Host-trailgate_login=", "Path=/", "HttpOnly", "Secure", "SameSite=Lax", "Max-Age=600"} {
		if !strings.Contains(set, want) {
			t.Errorf("no %s in %s", want, set)
		}
	}
	if strings.Contains(set, "Domain") {
		t.Errorf("%s", set)
	}
	to, err := url.Parse(w.Header().Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	q := to.Query()
	if q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" || q.Get("nonce") == "" || len(q.Get("state")) < 43 || q.Get("redirect_uri") != "https://audit.example:8471/login/callback" {
		t.Errorf("%s", to)
	}
}

// TestCookieFromOtherSites: a page elsewhere cannot act with a human's cookie.
func TestCookieFromOtherSites(t *testing.T) {
	f := newFront(t)
	b := f.signIn(ada("root"))
	agents := func() int { return len(f.told("agent.add")) }
	for name, header := range map[string][]string{
		"another origin":        {"Origin", "https://evil.example"},
		"another site, fetched": {"Sec-Fetch-Site", "cross-site"},
		"a sibling":             {"Sec-Fetch-Site", "same-site"},
		"another host":          {"Host", "evil.example"}, // DNS rebinding
	} {
		if status, _ := b.post("/api/v1/agents", "application/json", `{"name":"x"}`, header...); status != 403 {
			t.Errorf("%s: %d", name, status)
		}
	}
	if status, _ := b.post("/api/v1/agents", "text/plain", `{"name":"x"}`); status != 415 {
		t.Errorf("a form's content type: %d", status)
	}
	if status, _ := b.post("/api/v1/agents/a:revoke", "", ""); status != 415 {
		t.Errorf("no content type: %d", status)
	}
	if status, _ := b.post("/logout", "application/x-www-form-urlencoded", "", "Origin", "https://evil.example"); status != 403 {
		t.Errorf("logout from elsewhere: %d", status)
	}
	if agents() != 0 {
		t.Error("an agent was made")
	}
	// Whoever has a token as well as a cookie is judged by the token.
	if status, _ := b.post("/api/v1/agents", "application/json", `{"name":"x"}`, "Authorization", "Bearer wrong"); status != 401 {
		t.Errorf("a wrong token beside a good cookie: %d", status)
	}
}

// TestNext: a login goes on within the gateway, wherever a link wants to lead.
func TestNext(t *testing.T) {
	f := newFront(t)
	for next, want := range map[string]string{
		"/consent/personal": "/auth", // and on to Google
		"//evil.example/":   "/", "https://evil.example/": "/", `/\evil.example`: "/", "javascript:alert(1)": "/", "": "/",
	} {
		f.provider.SignIn(ada("root"))
		b := f.browser()
		_, _, at := b.get("/login?next=" + url.QueryEscape(next))
		if at.Path != want || at.Host == "evil.example" {
			t.Errorf("next=%q leads to %s", next, at)
		}
	}
}

// TestConsent: the human who signed in consents, by name, and takes it back.
func TestConsent(t *testing.T) {
	f := newFront(t)
	// Not signed in: to the login first, and back.
	f.provider.SignIn(ada())
	if status, _, at := f.browser().get("/consent/personal"); status != 403 {
		t.Errorf("somebody without a role: %d at %s", status, at)
	}
	b := f.signIn(ada("audit"))
	status, _, to := b.get("/consent/personal")
	if status != 303 || to.Host != "google.invalid" || to.Query().Get("human") != "ada@example.com" || to.Query().Get("redirect_uri") != f.url+"/consent/personal/callback" {
		t.Fatalf("%d %s", status, to)
	}
	state := to.Query().Get("state")
	back := "/consent/personal/callback?" + url.Values{"state": {state}, "code": {"good"}}.Encode()
	// Another human's browser, with this state.
	other := f.signIn(idptest.User{Subject: "9", Email: "boss@example.com", EmailVerified: true, Claims: map[string]any{"groups": []any{"audit"}}})
	if status, _, _ := other.get(back); status != 403 {
		t.Errorf("another human's callback: %d", status)
	}
	if len(f.consents.Consents()) != 0 {
		t.Fatal("there is a consent")
	}
	_, _, to = b.get("/consent/personal")
	back = "/consent/personal/callback?" + url.Values{"state": {to.Query().Get("state")}, "code": {"good"}, "scope": {"x"}}.Encode()
	status, body, _ := b.get(back)
	if status != 200 || !strings.Contains(body, "reach personal as ada@example.com") {
		t.Fatalf("%d %s", status, body)
	}
	if status, _, _ := b.get(back); status != 403 {
		t.Errorf("a second time: %d", status)
	}
	grant, account := f.told("consent.grant"), f.told("consent.account")
	if len(grant) != 1 || grant[0].Event.Actor != "ada@example.com" || len(account) != 1 || account[0].Event.Detail["account"] != "ada@example.com" {
		t.Errorf("%+v %+v", grant, account)
	}
	if status, body, _ := other.get("/api/v1/consents"); status != 200 || !strings.Contains(body, `"human":"ada@example.com"`) {
		t.Errorf("an auditor sees all: %d %s", status, body)
	}
	if status, _ := other.post("/api/v1/consents/personal:revoke", "application/json", `{"human":"ada@example.com"}`); status != 403 {
		t.Errorf("another's consent revoked by an auditor: %d", status)
	}
	if status, body := b.post("/consent/personal/withdraw", "application/x-www-form-urlencoded", ""); status != 200 || !strings.Contains(body, "withdrawn") {
		t.Errorf("%d %s", status, body)
	}
	if len(f.consents.Consents()) != 0 || len(f.told("consent.revoke")) != 1 {
		t.Error("it is still there, or not on record")
	}
	// The admin token is nobody in particular.
	if a := do(t, f.api.TCP(admin.HashToken(adminToken)), http.MethodGet, "/consent/personal", "", "Authorization", "Bearer "+adminToken); a.StatusCode != 403 {
		t.Errorf("consent by token: %d", a.StatusCode)
	}
	// An account that is not theirs.
	f.consents.fail = fmt.Errorf("%w: you consented as <b>mallory</b>", federation.ErrConsent)
	_, _, to = b.get("/consent/personal")
	status, body, _ = b.get("/consent/personal/callback?" + url.Values{"state": {to.Query().Get("state")}, "code": {"good"}}.Encode())
	if status != 403 || strings.Contains(body, "<b>") || !strings.Contains(body, "mallory") {
		t.Errorf("%d %s", status, body)
	}
}

// TestConsentOnRecord: a consent that cannot be recorded is taken back.
func TestConsentOnRecord(t *testing.T) {
	f := newFront(t)
	b := f.signIn(ada("audit"))
	_, _, to := b.get("/consent/personal")
	f.trail.set(func(m *memory) {
		m.refuse = func(e *trailgate.Entry) error {
			if e.Event.Action == "consent.account" {
				return errNoSpace
			}
			return nil
		}
	})
	status, _, _ := b.get("/consent/personal/callback?" + url.Values{"state": {to.Query().Get("state")}, "code": {"good"}}.Encode())
	if status != 503 || len(f.consents.Consents()) != 0 {
		t.Errorf("%d, %d consents", status, len(f.consents.Consents()))
	}
}

// TestPage: safe to look at, whatever names there are.
func TestPage(t *testing.T) {
	f := newFront(t)
	resp, err := http.Get(f.url + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'", "X-Frame-Options": "DENY", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
		"Referrer-Policy": "no-referrer", "Content-Type": "text/html; charset=utf-8",
	} {
		if got := resp.Header.Get(name); !strings.Contains(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	source, err := os.ReadFile("page.html")
	if err != nil {
		t.Fatal(err)
	}
	style := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindSubmatch(source)
	sum := sha256.Sum256(style[1])
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "script-src") {
		t.Errorf("the policy does not fit the page's style: %s", csp)
	}
	if strings.Contains(string(source), "<script") {
		t.Error("there is a script in the page")
	}
}

// TestProviderAway: the token works without it, and the login says so.
func TestProviderAway(t *testing.T) {
	f := newFront(t)
	f.provider.Fail(idptest.PathDiscovery, 503)
	if status, body, _ := f.browser().get("/login"); status != 503 || !strings.Contains(body, "cannot be reached") {
		t.Errorf("%d %s", status, body)
	}
	if a := do(t, f.api.TCP(admin.HashToken(adminToken)), http.MethodGet, "/api/v1/gateway", "", "Authorization", "Bearer "+adminToken); a.StatusCode != 200 {
		t.Errorf("%d", a.StatusCode)
	}
	f.provider.Fail(idptest.PathDiscovery, 0)
	f.signIn(ada("root"))
}
