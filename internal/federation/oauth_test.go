package federation_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/federation"
)

const (
	redirect = "https://admin.example/consent/main/callback"
	human    = "alice@example.com"
	refresh  = "1//refresh-token-of-alice"
)

var verifier = strings.Repeat("v", 43)

// okToken grants whatever is asked for.
func okToken(c call) (int, string) {
	if c.Form.Get("grant_type") == "authorization_code" {
		return 200, `{"access_token":"first","token_type":"Bearer","expires_in":3600,"refresh_token":"` + refresh + `","scope":"openid https://www.googleapis.com/auth/userinfo.email ` + federation.Scope + `"}`
	}
	return 200, `{"access_token":"fresh","token_type":"Bearer","expires_in":3600,"scope":"x"}`
}

func user(email string, verified bool) func(call) (int, string) {
	return func(call) (int, string) {
		return 200, fmt.Sprintf(`{"sub":"1","email":%q,"email_verified":%v}`, email, verified)
	}
}

func openConsents(tb testing.TB) *federation.ConsentStore {
	tb.Helper()
	dir := tb.TempDir()
	s, err := federation.OpenConsents(filepath.Join(dir, "consents.json"), filepath.Join(dir, "consent.key"))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func oauth(tb testing.TB, g *google, store *federation.ConsentStore, edit ...func(*federation.OAuthConfig)) *federation.OAuthSource {
	tb.Helper()
	c := federation.OAuthConfig{Connection: "main", ClientID: "client", ClientSecret: "client-secret", Store: store, Endpoints: g.endpoints()}
	for _, e := range edit {
		e(&c)
	}
	return closing[*federation.OAuthSource](tb)(federation.OAuth(c))
}

func forHuman(h string) federation.Request {
	r := request("etl")
	r.Principal.Human = h
	return r
}

func TestOAuthBegin(t *testing.T) {
	o := oauth(t, newGoogle(t), openConsents(t), func(c *federation.OAuthConfig) { c.AllowedDomains = []string{"Example.com"} })
	at, err := o.Begin(human, redirect, "0123456789abcdef", verifier)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(verifier))
	want := url.Values{
		"response_type": {"code"}, "client_id": {"client"}, "redirect_uri": {redirect}, "state": {"0123456789abcdef"},
		"scope": {"openid email " + federation.Scope}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
		"access_type": {"offline"}, "prompt": {"consent"}, "login_hint": {human}, "hd": {"example.com"},
	}
	if diff := cmp.Diff(want, u.Query()); diff != "" {
		t.Error(diff)
	}
	for _, bad := range [][3]string{{"", "0123456789abcdef", verifier}, {human, "", verifier}, {human, "0123456789abcdef", "short"}, {human, "0123456789abcdef", strings.Repeat("v", 42) + "&"}} {
		if _, err := o.Begin(bad[0], redirect, bad[1], bad[2]); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestOAuth(t *testing.T) {
	g := newGoogle(t)
	g.on(pathOAuth, okToken)
	g.on(pathUserInfo, user("Alice@Example.com", true))
	o := oauth(t, g, openConsents(t), func(c *federation.OAuthConfig) { c.ConsentURL = "https://admin.example/consent/{connection}" })

	_, err := o.Credential(t.Context(), request("etl"))
	known(t, err, federation.StepHuman)
	_, err = o.Credential(t.Context(), forHuman(human))
	if e := known(t, err, federation.StepConsent); !strings.Contains(e.Fix, "https://admin.example/consent/main") || e.Temporary {
		t.Errorf("got %v", e)
	}
	c, err := o.Complete(t.Context(), human, redirect, "the-code", verifier)
	if err != nil || c.Account != "Alice@Example.com" || c.Human != human || c.Connection != "main" {
		t.Fatalf("got %+v, %v", c, err)
	}
	if diff := cmp.Diff(url.Values{
		"grant_type": {"authorization_code"}, "code": {"the-code"}, "redirect_uri": {redirect}, "code_verifier": {verifier},
		"client_id": {"client"}, "client_secret": {"client-secret"},
	}, g.to(pathOAuth)[0].Form); diff != "" {
		t.Error(diff)
	}
	if who := g.to(pathUserInfo); len(who) != 1 || who[0].Bearer != "first" {
		t.Errorf("userinfo: %+v", who)
	}
	for range 3 {
		got, err := o.Credential(t.Context(), forHuman("ALICE@example.com"))
		if err != nil || got.Token != "fresh" || got.Principal != "Alice@Example.com" || got.Mode != "oauth" || got.Shared {
			t.Fatalf("got %+v, %v", got, err)
		}
	}
	calls := g.to(pathOAuth)
	if len(calls) != 2 || calls[1].Form.Get("refresh_token") != refresh || calls[1].Form.Get("grant_type") != "refresh_token" {
		t.Errorf("calls: %+v", calls)
	}
	_, err = o.Credential(t.Context(), forHuman("bob@example.com"))
	known(t, err, federation.StepConsent)

	// Revoked: here at once, whatever is kept, and at Google.
	g.on(pathRevoke, func(c call) (int, string) { return 200, `{}` })
	if err := o.Revoke(t.Context(), human); err != nil {
		t.Fatal(err)
	}
	if r := g.to(pathRevoke); len(r) != 1 || r[0].Form.Get("token") != refresh {
		t.Errorf("revoked %+v", r)
	}
	_, err = o.Credential(t.Context(), forHuman(human))
	known(t, err, federation.StepConsent)
	if err := o.Revoke(t.Context(), human); !errors.Is(err, federation.ErrNoConsent) {
		t.Errorf("a second time gave %v", err)
	}
}

// TestOAuthRevokedAtGoogle: it is said, noted, and not asked again.
func TestOAuthRevokedAtGoogle(t *testing.T) {
	g := newGoogle(t)
	g.on(pathOAuth, okToken)
	g.on(pathUserInfo, user(human, true))
	o := oauth(t, g, openConsents(t))
	if _, err := o.Complete(t.Context(), human, redirect, "c", verifier); err != nil {
		t.Fatal(err)
	}
	g.fail(pathOAuth, 400, `{"error":"invalid_grant","error_description":"Token has been expired or revoked."}`)
	before := len(g.to(pathOAuth))
	for i := range 50 {
		r := forHuman(human)
		r.Principal.Agent = fmt.Sprint("a", i) // no agent asks for another
		_, err := o.Credential(t.Context(), r)
		if e := known(t, err, federation.StepConsent); e.Temporary || !strings.Contains(e.Fix, "consents at") || strings.Contains(e.Error(), refresh) {
			t.Fatalf("got %v", e)
		}
	}
	if n := len(g.to(pathOAuth)) - before; n != 1 {
		t.Errorf("Google was asked %d times", n)
	}
	if cs := o.Consents(); len(cs) != 1 || cs[0].Broken == "" {
		t.Errorf("consents: %+v", cs)
	}
	g.on(pathOAuth, okToken)
	if _, err := o.Complete(t.Context(), human, redirect, "c", verifier); err != nil {
		t.Fatal(err)
	}
	if c, err := o.Credential(t.Context(), forHuman(human)); err != nil || c.Token != "fresh" {
		t.Errorf("after a new consent: %+v, %v", c, err)
	}
	// Other failures do not break it.
	g.fail(pathOAuth, 401, `{"error":"invalid_client"}`)
	r := forHuman(human)
	r.Principal.Agent = "other"
	_, err := o.Credential(t.Context(), r)
	if e := known(t, err, federation.StepRefresh); !strings.Contains(e.Fix, "client_secret_file") || strings.Contains(e.Error(), "client-secret") {
		t.Errorf("got %v", e)
	}
	if cs := o.Consents(); cs[0].Broken != "" {
		t.Errorf("consents: %+v", cs)
	}
}

// TestOAuthNewConsentNewToken: nothing minted by the old consent is used after it.
func TestOAuthNewConsentNewToken(t *testing.T) {
	g := newGoogle(t)
	var n atomic.Int64
	g.on(pathOAuth, func(c call) (int, string) {
		return 200, fmt.Sprintf(`{"access_token":"t%d","token_type":"Bearer","expires_in":3600,"refresh_token":%q}`, n.Add(1), fmt.Sprint("refresh-of-", c.Form.Get("code"), c.Form.Get("refresh_token")))
	})
	g.on(pathUserInfo, user(human, true))
	o := oauth(t, g, openConsents(t))
	tokens := map[string]bool{}
	for _, code := range []string{"A", "B"} {
		if _, err := o.Complete(t.Context(), human, redirect, code, verifier); err != nil {
			t.Fatal(err)
		}
		c, err := o.Credential(t.Context(), forHuman(human))
		if err != nil || tokens[c.Token] {
			t.Errorf("got %+v, %v", c, err)
		}
		tokens[c.Token] = true
	}
	// The endpoint gave a new refresh token with each access token: the last counts.
	r := forHuman(human)
	r.Principal.Agent = "other"
	if _, err := o.Credential(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	calls := g.to(pathOAuth)
	if got := calls[len(calls)-1].Form.Get("refresh_token"); got != "refresh-of-refresh-of-B" {
		t.Errorf("refreshed with %q", got)
	}
}

// TestConsentIsTheClients: a consent to one OAuth client is not tried with another.
func TestConsentIsTheClients(t *testing.T) {
	g := newGoogle(t)
	g.on(pathOAuth, okToken)
	g.on(pathUserInfo, user(human, true))
	store := openConsents(t)
	if _, err := oauth(t, g, store).Complete(t.Context(), human, redirect, "c", verifier); err != nil {
		t.Fatal(err)
	}
	before := len(g.to(pathOAuth))
	_, err := oauth(t, g, store, func(c *federation.OAuthConfig) { c.ClientID = "other" }).Credential(t.Context(), forHuman(human))
	known(t, err, federation.StepConsent)
	if len(g.to(pathOAuth)) != before {
		t.Error("the refresh token was sent for another client")
	}
}

// TestConsentIsOnesOwn: who signs in as one and consents as another gets nothing.
func TestConsentIsOnesOwn(t *testing.T) {
	for name, tt := range map[string]struct {
		human string
		token string // answer of the token endpoint; empty: okToken
		info  string
		says  string
	}{
		"another account":  {human, "", `{"email":"mallory@example.com","email_verified":true}`, "choose your own"},
		"look-alike":       {"kim@example.com", "", "{\"email\":\"\u212aim@example.com\",\"email_verified\":true}", "choose your own"},
		"not verified":     {human, "", `{"email":"alice@example.com","email_verified":false}`, "not verified"},
		"verified in text": {human, "", `{"email":"alice@example.com","email_verified":"true"}`, "ask whose account"},
		"no e-mail":        {human, "", `{"sub":"1"}`, "whose account"},
		"two e-mails":      {human, "", `{"email":"mallory@example.com","email":"alice@example.com","email_verified":true}`, "ask whose account"},
		"another domain":   {"alice@gmail.com", "", `{"email":"alice@gmail.com","email_verified":true}`, "may not be used"},
		"left the company": {human, "", `{"email":"alice@example.com","email_verified":true,"hd":"elsewhere.example"}`, "may not be used"},
		"no refresh token": {human, `{"access_token":"a","token_type":"Bearer","expires_in":3600}`, `{}`, "no refresh token"},
		"not ticked":       {human, `{"access_token":"a","token_type":"Bearer","expires_in":3600,"refresh_token":"r","scope":"openid"}`, `{}`, "not ticked"},
		"not a bearer":     {human, `{"access_token":"a","token_type":"mac","expires_in":3600,"refresh_token":"r"}`, `{}`, "redeem"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGoogle(t)
			g.on(pathOAuth, func(c call) (int, string) {
				if tt.token != "" {
					return 200, tt.token
				}
				return okToken(c)
			})
			g.on(pathUserInfo, func(call) (int, string) { return 200, tt.info })
			o := oauth(t, g, openConsents(t), func(c *federation.OAuthConfig) { c.AllowedDomains = []string{"example.com"} })
			_, err := o.Complete(t.Context(), tt.human, redirect, "c", verifier)
			if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), refresh) {
				t.Errorf("got %v", err)
			}
			if cs := o.Consents(); len(cs) != 0 {
				t.Errorf("kept: %+v", cs)
			}
			if len(g.to(pathRevoke)) != 0 {
				t.Error("the other's consent was revoked")
			}
		})
	}
	g := newGoogle(t)
	g.fail(pathOAuth, 400, `{"error":"invalid_grant","error_description":"Malformed auth code."}`)
	if _, err := oauth(t, g, openConsents(t)).Complete(t.Context(), human, redirect, "used", verifier); !errors.Is(err, federation.ErrConsent) {
		t.Errorf("a used code gave %v", err)
	}
}

// TestConsentStore: kept over a restart, unreadable without the key, and bound to whom
// it is from.
func TestConsentStore(t *testing.T) {
	g := newGoogle(t)
	g.on(pathOAuth, okToken)
	dir := t.TempDir()
	path, key := filepath.Join(dir, "consents.json"), filepath.Join(t.TempDir(), "consent.key")
	open := func() (*federation.ConsentStore, error) { return federation.OpenConsents(path, key) }
	store, err := open()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{human, "bob@example.com"} {
		g.on(pathUserInfo, user(h, true))
		for _, connection := range []string{"main", "other"} {
			o := oauth(t, g, store, func(c *federation.OAuthConfig) { c.Connection = connection })
			if _, err := o.Complete(t.Context(), h, redirect, "c", verifier); err != nil {
				t.Fatal(err)
			}
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "refresh-token") || strings.Contains(string(raw), base64.StdEncoding.EncodeToString([]byte(refresh))) {
		t.Error("a refresh token is on the disk")
	}
	for _, file := range []string{path, key} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
	store, err = open()
	if err != nil {
		t.Fatal(err)
	}
	o := oauth(t, g, store)
	if cs := o.Consents(); len(cs) != 2 || cs[0].Human != human {
		t.Errorf("after a restart: %+v", cs)
	}
	if c, err := o.Credential(t.Context(), forHuman(human)); err != nil || c.Token != "fresh" {
		t.Errorf("got %+v, %v", c, err)
	}

	refused := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := open(); err == nil || strings.Contains(err.Error(), refresh) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	swap := func(from, to string) []byte { return []byte(strings.ReplaceAll(string(raw), from, to)) }
	refused("Bob's under Alice's name", []byte(strings.NewReplacer(human, "bob@example.com", "bob@example.com", human).Replace(string(raw))))
	refused("another connection", []byte(strings.NewReplacer(`"main"`, `"other"`, `"other"`, `"main"`).Replace(string(raw))))
	refused("another account", swap(`"account": "bob@example.com"`, `"account": "eve@example.com"`))
	refused("later version", swap(`"version": 1`, `"version": 2`))
	refused("unknown member", swap(`"version": 1`, `"version": 1, "x": 1`))
	refused("cut off", raw[:len(raw)/2])
	refused("twice", swap("bob@example.com", "ALICE@example.com"))
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); err != nil {
		t.Fatalf("the right file: %v", err)
	}

	was, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() error{
		"another key": func() error {
			return os.WriteFile(key, []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o600)
		},
		"a short key":   func() error { return os.WriteFile(key, []byte("c2hvcnQ="), 0o600) },
		"no key":        func() error { return os.Remove(key) },
		"world's key":   func() error { return errors.Join(os.WriteFile(key, was, 0o600), os.Chmod(key, 0o604)) },
		"a missing dir": func() error { return errors.Join(os.Remove(key), os.Mkdir(key, 0o700)) },
	} {
		if err := change(); err != nil {
			t.Fatal(name, err)
		}
		if _, err := open(); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := os.Stat(key); name == "no key" && err == nil {
			t.Error("another key was made, with which nothing opens")
		}
		if err := os.RemoveAll(key); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(key, was, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestConsentStoreFaults: a change that could not be written is not made, and the
// next one is.
func TestConsentStoreFaults(t *testing.T) {
	g := newGoogle(t)
	g.on(pathOAuth, okToken)
	g.on(pathUserInfo, user(human, true))
	for _, step := range []string{"write", "rename", "sync directory"} {
		dir := t.TempDir()
		path, key := filepath.Join(dir, "consents.json"), filepath.Join(dir, "consent.key")
		store, err := federation.OpenConsents(path, key)
		if err != nil {
			t.Fatal(err)
		}
		o := oauth(t, g, store)
		broken := errors.New("disk")
		store.SetFault(func(s string) error {
			if s == step {
				return broken
			}
			return nil
		})
		if _, err := o.Complete(t.Context(), human, redirect, "c", verifier); !errors.Is(err, broken) {
			t.Errorf("%s: got %v", step, err)
		}
		if len(o.Consents()) != 0 {
			t.Errorf("%s: kept anyway", step)
		}
		if _, err := federation.OpenConsents(path, key); err != nil {
			t.Errorf("%s: what is on the disk cannot be read: %v", step, err)
		}
		store.SetFault(nil)
		if _, err := o.Complete(t.Context(), human, redirect, "c", verifier); err != nil {
			t.Errorf("%s: the next change: %v", step, err)
		}
		if _, err := os.Stat(path + ".new"); err == nil {
			t.Errorf("%s: a piece is left", step)
		}
	}
}
