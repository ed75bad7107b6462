package idptest_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/trailgate/trailgate/internal/idptest"
)

// verifier is go-oidc's, for the audience "gw".
func verifier(t *testing.T, p *idptest.Provider, algs ...string) *oidc.IDTokenVerifier {
	t.Helper()
	provider, err := oidc.NewProvider(oidc.ClientContext(t.Context(), p.Client()), p.URL())
	if err != nil {
		t.Fatal(err)
	}
	return provider.Verifier(&oidc.Config{ClientID: "gw", SupportedSigningAlgs: algs})
}

// TestMint holds the provider against go-oidc: good JWTs pass, and each attack is
// one that a real verifier tells from a good one.
func TestMint(t *testing.T) {
	p := idptest.NewProvider(t)
	v := verifier(t, p, "RS256", "ES256", "EdDSA")
	good := map[string]any{"sub": "agent-a", "aud": "gw"}
	for _, tt := range []struct {
		name   string
		claims map[string]any
		opts   []idptest.MintOption
		ok     bool
	}{
		{"RS256", good, nil, true},
		{"ES256", good, []idptest.MintOption{idptest.Alg("ES256")}, true},
		{"EdDSA", good, []idptest.MintOption{idptest.Alg("EdDSA")}, true},
		{"other typ", good, []idptest.MintOption{idptest.Header("typ", "at+jwt")}, true},
		{"none", good, []idptest.MintOption{idptest.Alg("none")}, false},
		{"HS256 with the public key", good, []idptest.MintOption{idptest.Alg("HS256")}, false},
		{"HS256 passed off as RS256", good, []idptest.MintOption{idptest.Alg("HS256"), idptest.Header("alg", "RS256")}, false},
		{"wrong key", good, []idptest.MintOption{idptest.WrongKey()}, false},
		{"unknown kid", good, []idptest.MintOption{idptest.Header("kid", "other")}, false},
		{"other audience", map[string]any{"sub": "a", "aud": "else"}, nil, false},
		{"other issuer", map[string]any{"sub": "a", "aud": "gw", "iss": "http://else"}, nil, false},
		{"expired", map[string]any{"sub": "a", "aud": "gw", "exp": time.Now().Add(-time.Minute).Unix()}, nil, false},
		{"no exp", map[string]any{"sub": "a", "aud": "gw", "exp": nil}, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw := p.Mint(tt.claims, tt.opts...)
			if strings.Count(raw, ".") != 2 {
				t.Fatalf("not a compact JWS: %s", raw)
			}
			if _, err := v.Verify(t.Context(), raw); (err == nil) != tt.ok {
				t.Errorf("go-oidc says %v", err)
			}
		})
	}
}

func TestRotate(t *testing.T) {
	p := idptest.NewProvider(t)
	claims := map[string]any{"sub": "a", "aud": "gw"}
	first := p.Mint(claims)
	p.Rotate(true)
	second := p.Mint(claims)
	v := verifier(t, p)
	for _, raw := range []string{first, second} {
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Errorf("the old key is kept: %v", err)
		}
	}
	p.Rotate(false)
	v = verifier(t, p)
	if _, err := v.Verify(t.Context(), second); err == nil {
		t.Error("the old key is dropped, and yet its JWT passes")
	}
	if _, err := v.Verify(t.Context(), p.Mint(claims)); err != nil {
		t.Error(err)
	}
}

func TestFaults(t *testing.T) {
	p := idptest.NewProvider(t)
	get := func() int {
		resp, err := p.Client().Get(p.URL() + idptest.PathKeys)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	p.Fail(idptest.PathKeys, 503)
	if got := get(); got != 503 {
		t.Errorf("got %d", got)
	}
	p.Fail(idptest.PathKeys, 0)
	if got := get(); got != 200 {
		t.Errorf("got %d", got)
	}
	if got := p.Fetches(idptest.PathKeys); got != 2 {
		t.Errorf("%d fetches", got)
	}
	p.Delay(idptest.PathKeys, time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, p.URL()+idptest.PathKeys, nil)
	if _, err := p.Client().Do(req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a delayed answer came: %v", err)
	}
}

// browse opens a page as a browser that stops where the client would take over.
func browse(t *testing.T, client *http.Client, at string) (*http.Response, url.Values) {
	t.Helper()
	c := *client
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := c.Get(at)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusFound {
		return resp, nil
	}
	to, err := resp.Location()
	if err != nil {
		t.Fatal(err)
	}
	return resp, to.Query()
}

// TestSignIn signs a human in with the libraries a client would use.
func TestSignIn(t *testing.T) {
	p := idptest.NewProvider(t, idptest.TLS())
	if len(p.CA()) == 0 || !strings.HasPrefix(p.URL(), "https://") {
		t.Fatal("no TLS")
	}
	p.AddClient("gw", "s3cret", "http://127.0.0.1:1/callback")
	p.SignIn(idptest.User{Subject: "u1", Email: "ann@corp.example", EmailVerified: true, Claims: map[string]any{"groups": []string{"dba"}}})
	ctx := oidc.ClientContext(t.Context(), p.Client())
	provider, err := oidc.NewProvider(ctx, p.URL())
	if err != nil {
		t.Fatal(err)
	}
	conf := oauth2.Config{
		ClientID: "gw", ClientSecret: "s3cret", Endpoint: provider.Endpoint(), RedirectURL: "http://127.0.0.1:1/callback",
		Scopes: []string{"openid", "email", "offline_access"},
	}
	pkce := oauth2.GenerateVerifier()
	_, q := browse(t, p.Client(), conf.AuthCodeURL("state-1", oauth2.S256ChallengeOption(pkce), oidc.Nonce("n1")))
	if q.Get("state") != "state-1" || q.Get("code") == "" {
		t.Fatalf("sent back with %v", q)
	}
	if _, err := conf.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(oauth2.GenerateVerifier())); err == nil {
		t.Error("another verifier passes")
	}
	token, err := conf.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(pkce))
	if err != nil {
		t.Fatal(err)
	}
	id, err := provider.Verifier(&oidc.Config{ClientID: "gw"}).Verify(ctx, token.Extra("id_token").(string))
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Email    string   `json:"email"`
		Verified bool     `json:"email_verified"`
		Groups   []string `json:"groups"`
	}
	if err := id.Claims(&claims); err != nil {
		t.Fatal(err)
	}
	if id.Nonce != "n1" || claims.Email != "ann@corp.example" || !claims.Verified || !slices.Equal(claims.Groups, []string{"dba"}) {
		t.Errorf("nonce %q, claims %+v", id.Nonce, claims)
	}
	if err := id.VerifyAccessToken(token.AccessToken); err != nil {
		t.Error(err)
	}
	info, err := provider.UserInfo(ctx, oauth2.StaticTokenSource(token))
	if err != nil || info.Email != "ann@corp.example" {
		t.Errorf("userinfo: %+v, %v", info, err)
	}
	// A code works once; used twice, what it gave ends.
	if _, err := conf.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(pkce)); err == nil {
		t.Error("a code works twice")
	}
	if _, err := conf.TokenSource(ctx, &oauth2.Token{RefreshToken: token.RefreshToken}).Token(); err == nil {
		t.Error("the refresh token of a stolen code works")
	}
	// The user says no; the client forgets PKCE; someone else's redirect.
	p.Deny()
	if _, q := browse(t, p.Client(), conf.AuthCodeURL("s", oauth2.S256ChallengeOption(pkce))); q.Get("error") != "access_denied" {
		t.Errorf("sent back with %v", q)
	}
	if _, q := browse(t, p.Client(), conf.AuthCodeURL("s")); q.Get("error") != "invalid_request" {
		t.Errorf("sent back with %v", q)
	}
	conf.RedirectURL = "http://evil.example/"
	if resp, _ := browse(t, p.Client(), conf.AuthCodeURL("s", oauth2.S256ChallengeOption(pkce))); resp.StatusCode != 400 {
		t.Errorf("a redirect URI that is not registered: %s", resp.Status)
	}
}
