package federation_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/idptest"
)

// The tests here speak with stand-ins that verify what they are sent, as Google
// does, and tell whose a token is.

func endpointsOf(g *idptest.Google) federation.Endpoints {
	return federation.Endpoints{
		STS: g.URL(), IAMCredentials: g.URL(), OAuthAuth: g.AuthURL(), OAuthToken: g.TokenURL(),
		OAuthRevoke: g.RevokeURL(), UserInfo: g.UserInfoURL(), HTTP: g.Client(),
	}
}

func keyFile(tb testing.TB, g *idptest.Google) federation.Base {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "key.json")
	if err := os.WriteFile(path, g.ServiceAccountKey(baseAccount), 0o600); err != nil {
		tb.Fatal(err)
	}
	return federation.Base{File: path}
}

func account(agent string) string { return "agent-" + agent + "@demo-project.iam.gserviceaccount.com" }

// as gets a credential and has the stand-in say whose it is.
func as(tb testing.TB, g *idptest.Google, src federation.Source, r federation.Request, want string) federation.Credential {
	tb.Helper()
	c, err := src.Credential(tb.Context(), r)
	if err != nil {
		tb.Fatal(err)
	}
	if who, ok := g.Principal(c.Token); !ok || who != want || c.Principal != want {
		tb.Fatalf("the token is %q's (%v) and is said to be %q's; want %q", who, ok, c.Principal, want)
	}
	return c
}

func TestWireImpersonation(t *testing.T) {
	g := idptest.NewGoogle(t)
	const hop = "hop-one@mid.iam.gserviceaccount.com"
	g.AllowImpersonation(baseAccount, hop)
	g.AllowImpersonation(hop, account("etl"))
	src := closing[federation.Source](t)(federation.Impersonation(federation.ImpersonationConfig{
		Connection: "main", Base: keyFile(t, g), Template: template, Delegates: []string{hop}, Endpoints: endpointsOf(g),
	}))
	c := as(t, g, src, request("etl"), account("etl"))
	if s := g.Scopes(c.Token); len(s) != 1 || s[0] != federation.Scope {
		t.Errorf("scopes %v", s)
	}
	_, err := src.Credential(t.Context(), request("other"))
	known(t, err, federation.StepImpersonation)
	for _, c := range federation.Diagnose(t.Context(), src, request("etl")) {
		if !c.OK {
			t.Errorf("%+v", c)
		}
	}
	// The right is taken: what was rejected upstream is not handed out again.
	g.RevokeImpersonation(hop, account("etl"))
	federation.SetNow(src, func() time.Time { return time.Now().Add(time.Minute) })
	src.(federation.Rejecter).Rejected(request("etl"), c)
	_, err = src.Credential(t.Context(), request("etl"))
	if e := known(t, err, federation.StepImpersonation); !strings.Contains(e.Fix, account("etl")) {
		t.Errorf("fix: %s", e.Fix)
	}
}

func TestWireWorkload(t *testing.T) {
	g, idp := idptest.NewGoogle(t), idptest.NewProvider(t)
	const ownAudience = "//iam.googleapis.com/" + pool + "/providers/cluster"
	i := issuer(t)
	g.TrustIssuer(audience, i.URL(), i.JWKS)
	g.TrustPool(ownAudience, idp)
	g.AllowAudiences(ownAudience, "https://gw.example")

	gateways := wireWorkload(t, g, i, func(*federation.WorkloadConfig) {})
	r := request("etl")
	r.Principal.Human, r.Principal.Actors = human, []string{"planner"}
	c := as(t, g, gateways, r, "principal://iam.googleapis.com/"+pool+"/subject/agent:etl")
	claims := g.SubjectClaims(c.Token)
	if claims["agent"] != "etl" || claims["session"] != "ses_1" || claims["human"] != human || claims["connection"] != "main" || fmt.Sprint(claims["actors"]) != "[planner]" {
		t.Errorf("claims %v", claims)
	}
	jwt := idp.Mint(map[string]any{"sub": "system:serviceaccount:jobs:etl", "aud": "https://gw.example"})
	r.Assertion, r.AssertionExpires = jwt, time.Now().Add(5*time.Minute)
	agents := wireWorkload(t, g, i, func(c *federation.WorkloadConfig) { c.Audience = ownAudience })
	as(t, g, agents, r, "principal://iam.googleapis.com/"+pool+"/subject/system:serviceaccount:jobs:etl")
	// An agent's JWT that Google refuses is no reason to try the gateway's, or
	// another credential.
	issuedBefore := len(g.Issued())
	r.Assertion = idp.Mint(map[string]any{"sub": "x", "aud": "https://elsewhere.example"})
	_, err := agents.Credential(t.Context(), r)
	known(t, err, federation.StepSTS)
	if len(g.Issued()) != issuedBefore {
		t.Error("another token was got instead")
	}

	onward := wireWorkload(t, g, i, func(c *federation.WorkloadConfig) { c.Template = template })
	_, err = onward.Credential(t.Context(), request("etl"))
	known(t, err, federation.StepImpersonation)
	g.AllowImpersonation(idptest.SubjectPrincipal(audience, "agent:etl"), account("etl"))
	r = request("etl")
	r.Session = "ses_2" // the failure is kept for two seconds
	as(t, g, onward, r, account("etl"))
}

func wireWorkload(tb testing.TB, g *idptest.Google, i *federation.Issuer, edit func(*federation.WorkloadConfig)) federation.Source {
	tb.Helper()
	c := federation.WorkloadConfig{Connection: "main", Audience: audience, Issuer: i, Endpoints: endpointsOf(g)}
	edit(&c)
	return closing[federation.Source](tb)(federation.Workload(c))
}

func TestWireOAuth(t *testing.T) {
	g := idptest.NewGoogle(t)
	g.AddClient("client", "client-secret", redirect)
	store := openConsents(t)
	source := func(connection string) *federation.OAuthSource {
		return closing[*federation.OAuthSource](t)(federation.OAuth(federation.OAuthConfig{
			Connection: connection, ClientID: "client", ClientSecret: "client-secret", Store: store, Endpoints: endpointsOf(g),
		}))
	}
	o, other := source("main"), source("other")
	browser := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	consent := func(o *federation.OAuthSource, as idptest.User, human string) error {
		t.Helper()
		g.SignIn(as)
		at, err := o.Begin(human, redirect, "state-of-the-session", verifier)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := browser.Get(at)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		back, err := url.Parse(resp.Header.Get("Location"))
		if err != nil || !strings.HasPrefix(back.String(), redirect) || back.Query().Get("state") != "state-of-the-session" {
			t.Fatalf("sent back to %s: %v", back, err)
		}
		if _, err := o.Complete(t.Context(), human, redirect, back.Query().Get("code"), strings.Repeat("w", 43)); err == nil {
			t.Fatal("another verifier was taken")
		}
		resp, err = browser.Get(at) // that code is used up
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if back, err = url.Parse(resp.Header.Get("Location")); err != nil {
			t.Fatal(err)
		}
		_, err = o.Complete(t.Context(), human, redirect, back.Query().Get("code"), verifier)
		return err
	}
	alice := idptest.User{Subject: "1", Email: human, EmailVerified: true}
	bob := idptest.User{Subject: "2", Email: "bob@example.com", EmailVerified: true}
	if err := consent(o, bob, human); err == nil {
		t.Fatal("Bob's account was taken for Alice's")
	}
	for _, o := range []*federation.OAuthSource{o, other} {
		if err := consent(o, alice, human); err != nil {
			t.Fatal(err)
		}
	}
	if err := consent(o, bob, "bob@example.com"); err != nil {
		t.Fatal(err)
	}
	as(t, g, o, forHuman(human), human)
	as(t, g, o, forHuman("bob@example.com"), "bob@example.com")

	// Alice revokes one of two: the other stays. Then she revokes that too.
	if err := o.Revoke(t.Context(), human); err != nil {
		t.Fatal(err)
	}
	_, err := o.Credential(t.Context(), forHuman(human))
	known(t, err, federation.StepConsent)
	c := as(t, g, other, forHuman(human), human)
	if err := other.Revoke(t.Context(), human); err != nil {
		t.Fatal(err)
	}
	if _, ok := g.Principal(c.Token); ok {
		t.Error("Google was not told")
	}

	// Bob withdraws at Google: the next refresh says so, and so do all after it.
	g.RevokeConsent("bob@example.com")
	r := forHuman("bob@example.com")
	r.Principal.Agent = "another"
	for range 2 {
		_, err = o.Credential(t.Context(), r)
		known(t, err, federation.StepConsent)
	}
	if err := o.Revoke(t.Context(), "bob@example.com"); err != nil {
		t.Errorf("what Google does not know any more could not be revoked: %v", err)
	}
}

// TestWireManyAgents: 10,000 concurrent calls of 200 agents through all three modes,
// and each token is its caller's by the account of who gave it out.
func TestWireManyAgents(t *testing.T) {
	g := idptest.NewGoogle(t)
	i := issuer(t)
	g.TrustIssuer(audience, i.URL(), i.JWKS)
	g.AddClient("client", "client-secret", redirect)
	for a := range 200 {
		g.AllowImpersonation(baseAccount, account(fmt.Sprint("a", a)))
	}
	imp := closing[federation.Source](t)(federation.Impersonation(federation.ImpersonationConfig{Connection: "main", Base: keyFile(t, g), Template: template, Endpoints: endpointsOf(g)}))
	wif := closing[federation.Source](t)(federation.Workload(federation.WorkloadConfig{Connection: "main", Audience: audience, Issuer: i, Endpoints: endpointsOf(g)}))
	var wg sync.WaitGroup
	for n := range 10_000 {
		wg.Go(func() {
			agent := fmt.Sprint("a", n%200)
			r := request(agent)
			src, want := imp, account(agent)
			if n/200%2 == 1 {
				src, want = wif, idptest.SubjectPrincipal(audience, "agent:"+agent)
				r.Session = "ses_" + agent
			}
			c, err := src.Credential(t.Context(), r)
			if err != nil {
				t.Errorf("%s: %v", agent, err)
				return
			}
			if who, ok := g.Principal(c.Token); !ok || who != want || c.Principal != want {
				t.Errorf("%s got %s's token, said to be %s's", agent, who, c.Principal)
			}
			if claims := g.SubjectClaims(c.Token); claims != nil && claims["session"] != r.Session {
				t.Errorf("%s got the token of session %v", agent, claims["session"])
			}
		})
	}
	wg.Wait()
	if n := len(g.Issued()); n > 500 {
		t.Errorf("%d tokens for 200 agents in two modes", n)
	}
}
