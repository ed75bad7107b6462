package federation_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/trailgate/trailgate/internal/federation"
)

const (
	pool     = "projects/12345/locations/global/workloadIdentityPools/agents"
	audience = "//iam.googleapis.com/" + pool + "/providers/trailgate"
)

// agentJWT is a JWT in form; STS judges it, not this package.
func agentJWT(sub string) string {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	return part(`{"alg":"RS256"}`) + "." + part(fmt.Sprintf(`{"iss":"https://idp.example","sub":%q,"aud":["https://gw.example"]}`, sub)) + "." + part("signature")
}

func issuer(tb testing.TB, edit ...func(*federation.IssuerConfig)) *federation.Issuer {
	tb.Helper()
	c := federation.IssuerConfig{URL: "https://gw.example", Gateway: "gw-1", KeyFile: filepath.Join(tb.TempDir(), "issuer.key")}
	if err := federation.GenerateKey(c.KeyFile); err != nil {
		tb.Fatal(err)
	}
	for _, e := range edit {
		e(&c)
	}
	i, err := federation.NewIssuer(c)
	if err != nil {
		tb.Fatal(err)
	}
	return i
}

func workload(tb testing.TB, g *google, edit func(*federation.WorkloadConfig)) federation.Source {
	tb.Helper()
	c := federation.WorkloadConfig{Connection: "main", Audience: audience, Issuer: issuer(tb), Endpoints: g.endpoints()}
	if edit != nil {
		edit(&c)
	}
	return closing[federation.Source](tb)(federation.Workload(c))
}

// sts exchanges anything, each time for another token.
func sts(g *google) {
	var n atomic.Int64
	g.on(pathSTS, func(call) (int, string) {
		return 200, fmt.Sprintf(`{"access_token":"federated-%d","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3600}`, n.Add(1))
	})
}

func TestWorkloadWhoseJWT(t *testing.T) {
	g := newGoogle(t)
	sts(g)
	own := request("etl")
	own.Assertion, own.AssertionExpires = agentJWT("system:serviceaccount:etl"), time.Now().Add(time.Hour)
	ended := own
	ended.AssertionExpires = time.Now().Add(-time.Second)
	const agents, gateways = "principal://iam.googleapis.com/" + pool + "/subject/system:serviceaccount:etl", "principal://iam.googleapis.com/" + pool + "/subject/agent:etl"
	for _, tt := range []struct {
		prefer string
		r      federation.Request
		whose  string // empty: refused
	}{
		{"", own, "agent"},
		{"", request("etl"), "gateway"},
		{"", ended, "gateway"},
		{federation.AssertionGateway, own, "gateway"},
		{federation.AssertionAgent, own, "agent"},
		{federation.AssertionAgent, ended, ""},
		{federation.AssertionAgent, request("etl"), ""},
	} {
		src := workload(t, g, func(c *federation.WorkloadConfig) { c.Prefer = tt.prefer })
		c, err := src.Credential(t.Context(), tt.r)
		if tt.whose == "" {
			if e := known(t, err, federation.StepAssertion); !strings.Contains(e.Fix, "prefer_agent") {
				t.Errorf("fix: %s", e.Fix)
			}
			continue
		}
		want := map[string]string{"agent": agents, "gateway": gateways}[tt.whose]
		if err != nil || c.Assertion != tt.whose || c.Principal != want || c.Mode != "workload" || c.Shared || !strings.HasPrefix(c.Token, "federated-") {
			t.Errorf("prefer %q: got %+v, %v", tt.prefer, c, err)
		}
	}
	last := g.to(pathSTS)
	for name, want := range map[string]string{
		"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "audience": audience, "scope": federation.Scope,
		"requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
		"subject_token_type":   "urn:ietf:params:oauth:token-type:jwt", "subject_token": own.Assertion,
	} {
		if got := last[len(last)-1].Form.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// TestWorkloadTwoProviders: a provider trusts one issuer, so agents' own JWTs and
// the gateway's go to different ones, and never to each other's.
func TestWorkloadTwoProviders(t *testing.T) {
	g := newGoogle(t)
	sts(g)
	second := "//iam.googleapis.com/" + pool + "/providers/gateway"
	src := workload(t, g, func(c *federation.WorkloadConfig) { c.GatewayAudience = second })
	own := request("etl")
	own.Assertion, own.AssertionExpires = agentJWT("system:serviceaccount:etl"), time.Now().Add(time.Hour)
	for _, tt := range []struct {
		r     federation.Request
		whose string
		want  string
	}{{own, "agent", audience}, {request("etl"), "gateway", second}} {
		c, err := src.Credential(t.Context(), tt.r)
		if err != nil || c.Assertion != tt.whose {
			t.Fatalf("%+v %v", c, err)
		}
		last := g.to(pathSTS)
		form := last[len(last)-1].Form
		if got := form.Get("audience"); got != tt.want {
			t.Errorf("the %s's JWT went to %s, want %s", tt.whose, got, tt.want)
		}
		if tt.whose == "gateway" {
			parts := strings.Split(form.Get("subject_token"), ".")
			claims, err := base64.RawURLEncoding.DecodeString(parts[1])
			if err != nil || !strings.Contains(string(claims), second) {
				t.Errorf("the assertion is not for its provider: %s %v", claims, err)
			}
		}
	}
	if _, err := federation.Workload(federation.WorkloadConfig{Connection: "c", Audience: audience, GatewayAudience: "x", Prefer: "agent"}); err == nil {
		t.Error("a second audience that is none")
	}
}

func TestWorkloadOnwards(t *testing.T) {
	g := newGoogle(t)
	sts(g)
	src := workload(t, g, func(c *federation.WorkloadConfig) { c.Template = template; c.Lifetime = 10 * time.Minute })
	c, err := src.Credential(t.Context(), request("etl"))
	if err != nil || c.Principal != "agent-etl@demo-project.iam.gserviceaccount.com" || c.Token != "token-of-"+c.Principal || c.Assertion != "gateway" {
		t.Fatalf("got %+v, %v", c, err)
	}
	if mint := g.to(pathMint)[0]; mint.Bearer != "federated-1" || !strings.Contains(mint.Body, `"600s"`) {
		t.Errorf("minted by %+v", mint)
	}
	if scope := g.to(pathSTS)[0].Form.Get("scope"); scope != "https://www.googleapis.com/auth/cloud-platform" {
		t.Errorf("exchanged for scope %s", scope)
	}
	g.fail(pathMint, 403, `{"error":{"status":"PERMISSION_DENIED","message":"no"}}`)
	_, err = src.Credential(t.Context(), request("other"))
	e := known(t, err, federation.StepImpersonation)
	if want := "gcloud iam service-accounts add-iam-policy-binding agent-other@demo-project.iam.gserviceaccount.com --member='principal://iam.googleapis.com/" + pool + "/subject/agent:other' --role=roles/iam.workloadIdentityUser"; e.Fix != want {
		t.Errorf("fix: %s", e.Fix)
	}
}

// TestWorkloadCache: what a token says is what it is kept by.
func TestWorkloadCache(t *testing.T) {
	g := newGoogle(t)
	sts(g)
	src := workload(t, g, nil)
	seen := map[string]int{}
	get := func(edit func(*federation.Request)) string {
		t.Helper()
		r := request("etl")
		edit(&r)
		c, err := src.Credential(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return c.Token
	}
	variants := []func(*federation.Request){
		func(*federation.Request) {},
		func(r *federation.Request) { r.Session = "ses_2" },
		func(r *federation.Request) { r.Principal.Human = "human@example.com" },
		func(r *federation.Request) { r.Principal.Actors = []string{"planner"} },
		func(r *federation.Request) { r.Principal.Subject = "other" },
		func(r *federation.Request) { r.Principal.Issuer = "other" },
		func(r *federation.Request) { r.Principal.Agent = "other" },
		func(r *federation.Request) { r.Assertion = agentJWT("one") },
		func(r *federation.Request) { r.Assertion = agentJWT("two") },
	}
	for i, v := range variants {
		token := get(v)
		if j, ok := seen[token]; ok {
			t.Errorf("variants %d and %d have one token", i, j)
		}
		seen[token] = i
	}
	for i, v := range variants {
		if seen[get(v)] != i {
			t.Errorf("variant %d got another's token", i)
		}
	}
	// The agent's own JWT says nothing of sessions.
	one := get(func(r *federation.Request) { r.Assertion = agentJWT("one"); r.Session = "ses_9" })
	if seen[one] != 7 {
		t.Error("a new session exchanged the agent's JWT again")
	}
}

func TestWorkloadFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		own       bool
		status    int
		body      string
		temporary bool
		fix       string
	}{
		"keys not known":            {false, 400, `{"error":"invalid_grant","error_description":"Error connecting to the given credential's issuer."}`, false, "curl -s https://gw.example/.well-known/jwks.json > jwks.json && gcloud iam workload-identity-pools providers update-oidc trailgate --workload-identity-pool=agents --location=global --project=12345 --issuer-uri='https://gw.example' --jwk-json-path=jwks.json"},
		"other audience":            {true, 400, `{"error":"invalid_grant","error_description":"The audience in ID Token does not match the expected audience."}`, false, "gcloud iam workload-identity-pools providers update-oidc trailgate --workload-identity-pool=agents --location=global --project=12345 --issuer-uri='https://idp.example' --allowed-audiences='https://gw.example'"},
		"another issuer's provider": {false, 400, `{"error":"invalid_grant","error_description":"The issuer in ID Token https://gw.example does not match the expected ones: https://idp.example."}`, false, "providers describe trailgate --workload-identity-pool=agents --location=global --project=12345 --format='value(oidc.issuerUri)' (a provider trusts one issuer: set gateway_audience of connection main to one that trusts 'https://gw.example', made as docs/gcp-setup.md says)"},
		"condition":                 {false, 400, `{"error":"unauthorized_client","error_description":"The given credential is rejected by the attribute condition."}`, false, "--format='value(attributeCondition)' (the condition must hold for subject 'agent:etl')"},
		"no provider":               {false, 400, `{"error":"invalid_target","error_description":"The target service indicated by the \"audience\" parameters is invalid."}`, false, "gcloud iam workload-identity-pools providers describe trailgate --workload-identity-pool=agents"},
		"away":                      {false, 503, ``, true, ""},
		"no lifetime":               {false, 200, `{"access_token":"x","token_type":"Bearer"}`, false, ""},
		"not a bearer":              {false, 200, `{"access_token":"x","token_type":"DPoP","expires_in":3600}`, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGoogle(t)
			g.fail(pathSTS, tt.status, tt.body)
			r := request("etl")
			if tt.own {
				r.Assertion = agentJWT("sub")
			}
			_, err := workload(t, g, nil).Credential(t.Context(), r)
			e := known(t, err, federation.StepSTS)
			if e.Temporary != tt.temporary || !strings.Contains(e.Fix, tt.fix) || (tt.fix == "") != (e.Fix == "") {
				t.Errorf("temporary %v: %s\nfix: %s", e.Temporary, e.Message, e.Fix)
			}
			if calls := g.to(pathSTS); len(calls) != 1 || strings.Contains(e.Error(), calls[0].Form.Get("subject_token")) {
				t.Errorf("%d exchanges, or the JWT is in %s", len(calls), e)
			}
		})
	}
}

func TestWorkloadConfig(t *testing.T) {
	i := issuer(t)
	for name, c := range map[string]federation.WorkloadConfig{
		"no issuer":   {Audience: audience},
		"preference":  {Audience: audience, Issuer: i, Prefer: "none"},
		"no audience": {Issuer: i},
		"audience":    {Audience: "https://example.com/", Issuer: i},
		"template":    {Audience: audience, Issuer: i, Template: "{x}@p.iam.gserviceaccount.com"},
		"lifetime":    {Audience: audience, Issuer: i, Lifetime: 13 * time.Hour},
	} {
		if _, err := federation.Workload(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestIssuerSigns: what the gateway says about a call, by keys that it publishes.
func TestIssuerSigns(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 500, time.UTC)
	i := issuer(t, func(c *federation.IssuerConfig) {
		c.URL += "/"
		c.Now = func() time.Time { return now }
	})
	r := request("etl")
	r.Principal.Human, r.Principal.Actors = "human@example.com", []string{"planner"}
	jwt, expires, err := i.Sign(t.Context(), audience, r)
	if err != nil || !expires.Equal(now.Add(10*time.Minute).Truncate(time.Second)) {
		t.Fatalf("got %s, %v", expires, err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(i.JWKS(), &set); err != nil || len(set.Keys) != 1 || !set.Keys[0].IsPublic() {
		t.Fatalf("keys %s: %v", i.JWKS(), err)
	}
	if strings.Contains(string(i.JWKS()), `"d"`) {
		t.Fatal("a private key is published")
	}
	payload := verify(t, jwt, set)
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"iss": "https://gw.example", "sub": "agent:etl", "aud": audience, "exp": float64(expires.Unix()), "iat": float64(now.Unix() - 5),
		"agent": "etl", "session": "ses_1", "human": "human@example.com", "connection": "main", "gateway": "gw-1",
	} {
		if claims[name] != want {
			t.Errorf("%s is %v, want %v", name, claims[name], want)
		}
	}
	var doc map[string]any
	if err := json.Unmarshal(i.Discovery(), &doc); err != nil || doc["issuer"] != "https://gw.example" || doc["jwks_uri"] != "https://gw.example/.well-known/jwks.json" {
		t.Errorf("discovery %s: %v", i.Discovery(), err)
	}
	if _, _, err := i.Sign(t.Context(), audience, federation.Request{}); err == nil {
		t.Error("nobody was signed for")
	}
}

func verify(tb testing.TB, jwt string, set jose.JSONWebKeySet) []byte {
	tb.Helper()
	sig, err := jose.ParseSignedCompact(jwt, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		tb.Fatal(err)
	}
	keys := set.Key(sig.Signatures[0].Header.KeyID)
	if len(keys) != 1 {
		tb.Fatalf("kid %q is not published once", sig.Signatures[0].Header.KeyID)
	}
	payload, err := sig.Verify(keys[0])
	if err != nil {
		tb.Fatal(err)
	}
	return payload
}
