package federation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/federation"
)

const template = "agent-{agent}@{project}.iam.gserviceaccount.com"

func request(agent string) federation.Request {
	return federation.Request{
		Principal: &trailgate.Principal{Agent: agent, Issuer: "trailgate", Subject: agent},
		Session:   "ses_1", Connection: "main", Project: "demo-project",
	}
}

func impersonation(tb testing.TB, g *google, edit ...func(*federation.ImpersonationConfig)) federation.Source {
	tb.Helper()
	c := federation.ImpersonationConfig{Connection: "main", Base: g.base(), Template: template, Endpoints: g.endpoints()}
	for _, e := range edit {
		e(&c)
	}
	return closing[federation.Source](tb)(federation.Impersonation(c))
}

func known(tb testing.TB, err error, step string) *federation.Error {
	tb.Helper()
	e, ok := errors.AsType[*federation.Error](err)
	if !ok || e.Step != step || e.Connection != "main" {
		tb.Fatalf("got %#v; want an Error of step %s", err, step)
	}
	return e
}

func TestImpersonation(t *testing.T) {
	g := newGoogle(t)
	src := impersonation(t, g, func(c *federation.ImpersonationConfig) {
		c.Delegates = []string{"hop-one@mid.iam.gserviceaccount.com"}
		c.Lifetime = 2 * time.Hour
	})
	for range 3 {
		c, err := src.Credential(t.Context(), request("etl"))
		if err != nil {
			t.Fatal(err)
		}
		if c.Token != "token-of-agent-etl@demo-project.iam.gserviceaccount.com" || c.Mode != "impersonation" || c.Shared ||
			c.Principal != "agent-etl@demo-project.iam.gserviceaccount.com" || time.Until(c.Expires) < 50*time.Minute {
			t.Errorf("got %+v", c)
		}
	}
	calls := g.to(pathMint)
	if len(calls) != 1 || calls[0].Bearer != "base-token" {
		t.Fatalf("calls: %+v", calls)
	}
	var body any
	if err := json.Unmarshal([]byte(calls[0].Body), &body); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"delegates": []any{"projects/-/serviceAccounts/hop-one@mid.iam.gserviceaccount.com"},
		"scope":     []any{federation.Scope}, "lifetime": "7200s",
	}
	if diff := cmp.Diff(want, body); diff != "" {
		t.Error(diff)
	}
}

func TestServiceAccountNames(t *testing.T) {
	g := newGoogle(t)
	for _, bad := range []string{"agent-{agent}", "{human}@p.iam.gserviceaccount.com", "agent-{agent}@example.com", "a/../b@p.iam.gserviceaccount.com"} {
		_, err := federation.Impersonation(federation.ImpersonationConfig{Connection: "main", Base: g.base(), Template: bad, Endpoints: g.endpoints()})
		if err == nil {
			t.Errorf("template %q was accepted", bad)
		}
	}
	src := impersonation(t, g, func(c *federation.ImpersonationConfig) {
		c.Map = map[string]string{"data_loader": "loader@other.iam.gserviceaccount.com", "legacy": "123-compute@developer.gserviceaccount.com"}
	})
	for _, tt := range []struct{ agent, project, want string }{
		{"etl", "p1", "agent-etl@p1.iam.gserviceaccount.com"},
		{"etl", "p2", "agent-etl@p2.iam.gserviceaccount.com"}, // not p1's, which is kept
		{"data_loader", "p1", "loader@other.iam.gserviceaccount.com"},
		{"legacy", "p1", "123-compute@developer.gserviceaccount.com"},
		{"etl", "example.com:p3", "agent-etl@p3.example.com.iam.gserviceaccount.com"},
	} {
		r := request(tt.agent)
		r.Project = tt.project
		c, err := src.Credential(t.Context(), r)
		if err != nil || c.Principal != tt.want || c.Token != "token-of-"+tt.want {
			t.Errorf("%s in %s: got %+v, %v", tt.agent, tt.project, c, err)
		}
	}
	before := len(g.to(pathMint))
	for _, tt := range [][2]string{{"data_reader", "p"}, {strings.Repeat("a", 40), "p"}, {"", "p"}, {"etl", ""}, {"etl", "p/../../x"}, {"etl", "p@evil"}} {
		r := request(tt[0])
		r.Project = tt[1]
		_, err := src.Credential(t.Context(), r)
		e := known(t, err, federation.StepImpersonation)
		if tt[0] == "data_reader" && (!strings.Contains(e.Fix, `"data_reader" in service_accounts`) || !strings.Contains(e.Message, "'_'")) {
			t.Errorf("an underscore gave %v", e)
		}
	}
	if n := len(g.to(pathMint)) - before; n != 0 {
		t.Errorf("%d names that cannot be were sent to Google", n)
	}
}

// TestSharedAccounts: an account that is several agents' is said to be shared.
func TestSharedAccounts(t *testing.T) {
	g := newGoogle(t)
	src := impersonation(t, g, func(c *federation.ImpersonationConfig) {
		c.Template = "all-agents@p.iam.gserviceaccount.com"
		c.Map = map[string]string{"own": "agent-own@p.iam.gserviceaccount.com", "one": "agent-x@p.iam.gserviceaccount.com", "two": "agent-x@p.iam.gserviceaccount.com"}
	})
	for agent, want := range map[string]bool{"etl": true, "own": false, "one": true, "two": true} {
		if c, err := src.Credential(t.Context(), request(agent)); err != nil || c.Shared != want {
			t.Errorf("%s: got shared %v, %v", agent, c.Shared, err)
		}
	}
}

func TestImpersonationFailures(t *testing.T) {
	const sa = "agent-etl@demo-project.iam.gserviceaccount.com"
	for name, tt := range map[string]struct {
		path      string
		status    int
		body      string
		step      string
		temporary bool
		says, fix string
	}{
		"not granted": {
			pathMint, 403, `{"error":{"code":403,"message":"Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).","status":"PERMISSION_DENIED"}}`,
			federation.StepImpersonation, false, "getAccessToken",
			"gcloud iam service-accounts add-iam-policy-binding " + sa + " --member=serviceAccount:" + baseAccount + " --role=roles/iam.serviceAccountTokenCreator",
		},
		"no such account": {
			pathMint, 404, `{"error":{"code":404,"message":"Not found; Gaia id not found for email","status":"NOT_FOUND"}}`,
			federation.StepImpersonation, false, "NOT_FOUND", "gcloud iam service-accounts create agent-etl --project=demo-project",
		},
		"API off": {
			pathMint, 403, `{"error":{"code":403,"message":"IAM Service Account Credentials API has not been used in project 1 before or it is disabled.","status":"PERMISSION_DENIED"}}`,
			federation.StepImpersonation, false, "disabled", "gcloud services enable iamcredentials.googleapis.com",
		},
		"lifetime":      {pathMint, 400, `{"error":{"code":400,"message":"The access token lifetime cannot exceed 3600s","status":"INVALID_ARGUMENT"}}`, federation.StepImpersonation, false, "3600s", "set lifetime"},
		"busy":          {pathMint, 503, `{"error":{"code":503,"message":"try later","status":"UNAVAILABLE"}}`, federation.StepImpersonation, true, "UNAVAILABLE", ""},
		"too many":      {pathMint, 429, `<html>`, federation.StepImpersonation, true, "429", ""},
		"garbage":       {pathMint, 200, `<html>`, federation.StepImpersonation, false, "cannot be used", ""},
		"huge":          {pathMint, 200, `{"x":"` + strings.Repeat("x", 1<<20) + `"}`, federation.StepImpersonation, false, "larger", ""},
		"no token":      {pathMint, 200, `{}`, federation.StepBase, false, "no token", ""},
		"newline token": {pathMint, 200, `{"accessToken":"a\nb","expireTime":"2100-01-01T00:00:00Z"}`, federation.StepBase, false, "no token", ""},
		"ended token":   {pathMint, 200, `{"accessToken":"a","expireTime":"2001-01-01T00:00:00Z"}`, federation.StepBase, true, "clock", ""},
		"twice":         {pathMint, 200, `{"accessToken":"a","accessToken":"b","expireTime":"2100-01-01T00:00:00Z"}`, federation.StepImpersonation, false, "cannot be used", ""},
		"redirect":      {pathMint, 307, "/elsewhere", federation.StepImpersonation, false, "307", ""},
		"key deleted":   {pathBase, 400, `{"error":"invalid_grant","error_description":"Invalid JWT Signature."}`, federation.StepBase, false, "Invalid JWT Signature", "keys list --iam-account=" + baseAccount},
		"base is away":  {pathBase, 503, `{}`, federation.StepBase, true, "503", ""},
		"base redirect": {pathBase, 302, "/elsewhere", federation.StepBase, false, "302", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGoogle(t)
			g.fail(tt.path, tt.status, tt.body)
			c, err := impersonation(t, g).Credential(t.Context(), request("etl"))
			e := known(t, err, tt.step)
			if c != (federation.Credential{}) {
				t.Errorf("a credential came with the error: %+v", c)
			}
			if e.Temporary != tt.temporary || !strings.Contains(e.Message, tt.says) || !strings.Contains(e.Fix, tt.fix) {
				t.Errorf("temporary %v: %s\nfix: %s", e.Temporary, e.Message, e.Fix)
			}
			if len(e.Error()) > 1000 || strings.Contains(e.Error(), "base-token") {
				t.Errorf("too much is said: %s", e)
			}
		})
	}
}

// TestEndpointEchoesSecrets: an endpoint that quotes what it was sent brings no
// secret into an error, and nothing that steers a terminal.
func TestEndpointEchoesSecrets(t *testing.T) {
	g := newGoogle(t)
	echo := func(c call) (int, string) {
		raw, err := json.Marshal(map[string]any{"error": map[string]any{"status": "INVALID\x1b[2J", "message": "\x1b]0;x\x07you sent " + c.Bearer + " and " + c.Body + " \u202egnp"}})
		if err != nil {
			t.Error(err)
		}
		return 400, string(raw)
	}
	g.on(pathMint, echo)
	_, err := impersonation(t, g).Credential(t.Context(), request("etl"))
	if err == nil || strings.Contains(err.Error(), "base-token") || strings.ContainsAny(err.Error(), "\x1b\x07\u202e\n") {
		t.Errorf("got %v", err)
	}
	g.on(pathBase, func(c call) (int, string) { return 400, `{"you sent":"` + c.Form.Get("assertion") + `"}` })
	_, err = impersonation(t, g).Credential(t.Context(), request("etl"))
	if err == nil || strings.Contains(err.Error(), "eyJ") {
		t.Errorf("the assertion of the gateway's key is in the error: %v", err)
	}
	for _, secret := range []string{"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln", "ya29.a0Af-x_y", "1//0abcdefghijklmnop", "GOCSPX-abcdef", "-----BEGIN RSA PRIVATE KEY-----\nabc"} {
		if got := federation.CleanText("x " + secret + " y"); strings.Contains(got, secret) || strings.Contains(got, secret[len(secret)-3:]) {
			t.Errorf("%q became %q", secret, got)
		}
	}
}

// TestNoFallback: where minting fails, no mode hands out any token, and least of
// all the gateway's own.
func TestNoFallback(t *testing.T) {
	g := newGoogle(t)
	for _, path := range []string{pathMint, pathSTS, pathOAuth} {
		g.fail(path, 403, `{}`)
	}
	consents := openConsents(t)
	o := oauth(t, g, consents)
	g.on(pathOAuth, okToken)
	g.on(pathUserInfo, user("human@example.com", true))
	if _, err := o.Complete(t.Context(), "human@example.com", redirect, "code", verifier); err != nil {
		t.Fatal(err)
	}
	g.fail(pathOAuth, 403, `{}`)
	for name, src := range map[string]federation.Source{
		"impersonation":              impersonation(t, g),
		"workload, gateway":          workload(t, g, nil),
		"workload, agent":            workload(t, g, func(c *federation.WorkloadConfig) { c.Prefer = federation.AssertionAgent }),
		"workload and impersonation": workload(t, g, func(c *federation.WorkloadConfig) { c.Template = template }),
		"oauth":                      o,
	} {
		for _, r := range []federation.Request{
			request("etl"), request("no_such_account"),
			{},
			{Principal: &trailgate.Principal{Agent: "etl", Human: "human@example.com"}, Project: "p"},
			{Principal: &trailgate.Principal{Agent: "etl"}, Project: "p", Assertion: agentJWT("sub")},
		} {
			c, err := src.Credential(t.Context(), r)
			if err == nil || c != (federation.Credential{}) {
				t.Errorf("%s: got %+v, %v", name, c, err)
			}
		}
		if src.Describe().Shared {
			t.Errorf("%s describes itself as shared", name)
		}
	}
}

func TestBaseFileIsReadAgain(t *testing.T) {
	g := newGoogle(t)
	base := g.base()
	src := impersonation(t, g, func(c *federation.ImpersonationConfig) { c.Base = base })
	if _, err := src.Credential(t.Context(), request("a1")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(base.File)
	if err != nil {
		t.Fatal(err)
	}
	g.on("/other", func(call) (int, string) {
		return 200, `{"access_token":"other-token","token_type":"Bearer","expires_in":3600}`
	})
	if err := os.WriteFile(base.File, []byte(strings.Replace(string(raw), pathBase, "/other", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := src.Credential(t.Context(), request("a2")); err != nil {
		t.Fatal(err)
	}
	if calls := g.to(pathMint); calls[1].Bearer != "other-token" {
		t.Errorf("the old credential was used: %+v", calls)
	}
	if err := os.Remove(base.File); err != nil {
		t.Fatal(err)
	}
	_, err = src.Credential(t.Context(), request("a3"))
	known(t, err, federation.StepBase)
	for _, bad := range []string{"", "{}", `{"type":"nonsense"}`, `{"type":"service_account"}`, "\x00"} {
		if err := os.WriteFile(base.File, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := federation.Impersonation(federation.ImpersonationConfig{Connection: "main", Base: base, Template: template, Endpoints: g.endpoints()}); err == nil && !strings.Contains(bad, "service_account") {
			t.Errorf("credential file %q was accepted", bad)
		}
	}
}

// TestManyAgentsMixNothing: 10,000 concurrent calls of 200 agents each get their own.
func TestManyAgentsMixNothing(t *testing.T) {
	g := newGoogle(t)
	g.on(pathMint, func(c call) (int, string) {
		return 200, fmt.Sprintf(`{"accessToken":"token-of-%s","expireTime":"%s"}`, c.Account, time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano))
	})
	src := impersonation(t, g, func(c *federation.ImpersonationConfig) { c.Endpoints.HTTP = &http.Client{} })
	var wg sync.WaitGroup
	ask := func(i int) {
		wg.Go(func() {
			agent := fmt.Sprint("a", i%200)
			c, err := src.Credential(t.Context(), request(agent))
			if want := "agent-" + agent + "@demo-project.iam.gserviceaccount.com"; err != nil || c.Principal != want || c.Token != "token-of-"+want {
				t.Errorf("%s got %+v, %v", agent, c, err)
			}
			if i%7 == 0 { // some tokens are to be minted anew while others ask
				src.(federation.Rejecter).Rejected(request(agent), c)
			}
		})
	}
	for i := range 10_000 {
		ask(i)
	}
	wg.Wait()
	for i := range 200 { // each agent's was refused by now
		ask(i)
	}
	wg.Wait()
	// A token that was not taken is forgotten at most once in ten seconds.
	if n := len(g.to(pathMint)); n < 400 || n > 5000 {
		t.Errorf("%d mints for 200 agents", n)
	}
}

func BenchmarkWarm(b *testing.B) {
	g := newGoogle(b)
	r := request("etl")
	r.Principal.Human, r.Principal.Actors = "human@example.com", []string{"https://idp.example|planner"}
	g.on(pathSTS, func(call) (int, string) {
		return 200, `{"access_token":"t","token_type":"Bearer","expires_in":3600}`
	})
	own := r
	own.Assertion = agentJWT(strings.Repeat("s", 600))
	for name, tt := range map[string]struct {
		src federation.Source
		r   federation.Request
	}{
		"impersonation":     {impersonation(b, g), r},
		"workload, gateway": {workload(b, g, nil), r},
		"workload, agent":   {workload(b, g, nil), own},
	} {
		b.Run(name, func(b *testing.B) {
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tt.src.Credential(ctx, tt.r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
