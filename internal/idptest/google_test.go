package idptest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/auth/credentials"
	"golang.org/x/oauth2"

	"github.com/trailgate/trailgate/internal/idptest"
)

const (
	audience  = "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/agents/providers/k8s-1"
	cloud     = "https://www.googleapis.com/auth/cloud-platform"
	bigquery  = "https://www.googleapis.com/auth/bigquery"
	account   = "agent-a@demo-project.iam.gserviceaccount.com"
	gatewaySA = "gateway@demo-project.iam.gserviceaccount.com"
)

// post sends a form and returns the status and the "error" of the answer, or its token.
func post(t *testing.T, at string, form url.Values) (int, map[string]any) {
	t.Helper()
	resp, err := http.PostForm(at, form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode, object(t, resp.Body)
}

func object(t *testing.T, r io.Reader) map[string]any {
	t.Helper()
	m := map[string]any{}
	if err := json.NewDecoder(r).Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

func exchange(jwt string) url.Values {
	return url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "audience": {audience}, "scope": {cloud},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"subject_token_type":   {"urn:ietf:params:oauth:token-type:jwt"}, "subject_token": {jwt},
	}
}

func TestSTSRefuses(t *testing.T) {
	p, other, g := idptest.NewProvider(t), idptest.NewProvider(t), idptest.NewGoogle(t)
	g.TrustPool(audience, p)
	g.Condition(audience, func(c map[string]any) bool { return c["banned"] == nil })
	now := time.Now()
	good := func(more map[string]any, opts ...idptest.MintOption) string {
		claims := map[string]any{"sub": "agent-a", "aud": "https:" + audience}
		for k, v := range more {
			claims[k] = v
		}
		return p.Mint(claims, opts...)
	}
	for _, tt := range []struct {
		name string
		jwt  string
		with url.Values
		code string
	}{
		{"good", good(nil), nil, ""},
		{"ES256", good(nil, idptest.Alg("ES256")), nil, ""},
		{"EdDSA is not supported", good(nil, idptest.Alg("EdDSA")), nil, "invalid_request"},
		{"none", good(nil, idptest.Alg("none")), nil, "invalid_request"},
		{"HS256", good(nil, idptest.Alg("HS256")), nil, "invalid_request"},
		{"wrong key", good(nil, idptest.WrongKey()), nil, "invalid_grant"},
		{"unknown kid", good(nil, idptest.Header("kid", "x")), nil, "invalid_grant"},
		{"no kid", good(nil, idptest.Header("kid", nil)), nil, "invalid_grant"},
		{"other issuer", other.Mint(map[string]any{"sub": "agent-a", "aud": "https:" + audience}), nil, "invalid_grant"},
		{"other issuer's name", other.Mint(map[string]any{"sub": "agent-a", "aud": "https:" + audience, "iss": p.URL()}), nil, "invalid_grant"},
		{"other audience", good(map[string]any{"aud": "https://gateway"}), nil, "invalid_grant"},
		{"expired", good(map[string]any{"iat": now.Add(-time.Hour).Unix(), "exp": now.Add(-2 * time.Minute).Unix()}), nil, "invalid_grant"},
		{"no exp", good(map[string]any{"exp": nil}), nil, "invalid_grant"},
		{"no iat", good(map[string]any{"iat": nil}), nil, "invalid_grant"},
		{"of the future", good(map[string]any{"iat": now.Add(time.Hour).Unix(), "exp": now.Add(2 * time.Hour).Unix()}), nil, "invalid_grant"},
		{"not yet", good(map[string]any{"nbf": now.Add(time.Hour).Unix()}), nil, "invalid_grant"},
		{"too long", good(map[string]any{"exp": now.Add(25 * time.Hour).Unix()}), nil, "invalid_grant"},
		{"long subject", good(map[string]any{"sub": strings.Repeat("a", 128)}), nil, "invalid_request"},
		{"no subject", good(map[string]any{"sub": nil}), nil, "invalid_request"},
		{"condition", good(map[string]any{"banned": true}), nil, "unauthorized_client"},
		{"line end", good(nil) + "\n", nil, "invalid_request"},
		{"not a JWT", "x", nil, "invalid_request"},
		{"no grant type", good(nil), url.Values{"grant_type": nil}, "invalid_request"},
		{"other grant type", good(nil), url.Values{"grant_type": {"password"}}, "unsupported_grant_type"},
		{"short audience", good(nil), url.Values{"audience": {"projects/123"}}, "invalid_request"},
		{"other provider", good(nil), url.Values{"audience": {audience + "2"}}, "invalid_target"},
		{"no scope", good(nil), url.Values{"scope": nil}, "invalid_scope"},
		{"wants an ID token", good(nil), url.Values{"requested_token_type": {"urn:ietf:params:oauth:token-type:id_token"}}, "invalid_request"},
		{"twice", good(nil), url.Values{"audience": {audience, audience}}, "invalid_request"},
		{"actor", good(nil), url.Values{"actor_token": {"x"}}, "invalid_request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			form := exchange(tt.jwt)
			for k, v := range tt.with {
				form[k] = v
			}
			status, body := post(t, g.STSURL(), form)
			code, _ := body["error"].(string)
			if code != tt.code || (status == 200) != (tt.code == "") {
				t.Fatalf("status %d, %v", status, body)
			}
			if tt.code != "" {
				return
			}
			token := body["access_token"].(string)
			want := idptest.SubjectPrincipal(audience, "agent-a")
			if got, ok := g.Principal(token); !ok || got != want {
				t.Errorf("principal %q, want %q", got, want)
			}
			if got := g.SubjectClaims(token)["iss"]; got != p.URL() {
				t.Errorf("iss %v", got)
			}
			if body["token_type"] != "Bearer" || body["issued_token_type"] != "urn:ietf:params:oauth:token-type:access_token" || body["expires_in"] != 3600.0 {
				t.Errorf("answer %v", body)
			}
		})
	}
	g.AllowAudiences(audience, "https://gateway")
	if status, body := post(t, g.STSURL(), exchange(good(nil))); status == 200 {
		t.Errorf("the default audience counts beside allowed ones: %v", body)
	}
	if status, body := post(t, g.STSURL(), exchange(good(map[string]any{"aud": []string{"x", "https://gateway"}}))); status != 200 {
		t.Errorf("status %d, %v", status, body)
	}
	p.Fail(idptest.PathDiscovery, 500)
	if _, body := post(t, g.STSURL(), exchange(good(map[string]any{"aud": "https://gateway"}))); body["error_description"] != "Error connecting to the given credential's issuer." {
		t.Errorf("issuer away: %v", body)
	}
}

// TestGoogleLibrary lets Google's own library get tokens here: from a pool, by a
// key file, and of a service account from either.
func TestGoogleLibrary(t *testing.T) {
	p, g := idptest.NewProvider(t), idptest.NewGoogle(t)
	g.TrustIssuer(audience, p.URL(), p.JWKS) // uploaded keys
	subject := filepath.Join(t.TempDir(), "jwt")
	if err := os.WriteFile(subject, []byte(p.Mint(map[string]any{"sub": "agent-a", "aud": "https:" + audience})), 0o600); err != nil {
		t.Fatal(err)
	}
	at := g.URL() + "/v1/projects/-/serviceAccounts/" + account + ":generateAccessToken"
	pool := map[string]any{
		"type": "external_account", "audience": audience, "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
		"token_url": g.STSURL(), "credential_source": map[string]any{"file": subject},
	}
	onward := maps.Clone(pool)
	onward["service_account_impersonation_url"] = at
	key := g.ServiceAccountKey(gatewaySA)
	become := map[string]any{
		"type": "impersonated_service_account", "service_account_impersonation_url": at, "source_credentials": json.RawMessage(key),
	}
	principal := idptest.SubjectPrincipal(audience, "agent-a")
	g.AllowImpersonation(principal, account)
	g.AllowImpersonation(gatewaySA, account)
	for _, tt := range []struct {
		name   string
		kind   credentials.CredType
		file   any
		want   string
		caller string // who became want
	}{
		{"pool", credentials.ExternalAccount, pool, principal, ""},
		{"key", credentials.ServiceAccount, json.RawMessage(key), gatewaySA, ""},
		{"pool and impersonation", credentials.ExternalAccount, onward, account, principal},
		{"key and impersonation", credentials.ImpersonatedServiceAccount, become, account, gatewaySA},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw, err := json.Marshal(tt.file)
			if err != nil {
				t.Fatal(err)
			}
			creds, err := credentials.NewCredentialsFromJSON(tt.kind, raw, &credentials.DetectOptions{Scopes: []string{cloud}})
			if err != nil {
				t.Fatal(err)
			}
			token, err := creds.Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if who, ok := g.Principal(token.Value); !ok || who != tt.want {
				t.Errorf("principal %q, want %q", who, tt.want)
			}
			if left := time.Until(token.Expiry); left < 59*time.Minute || left > time.Hour {
				t.Errorf("ends in %v", left)
			}
			if tt.caller == "" {
				return
			}
			g.RevokeImpersonation(tt.caller, account)
			if _, ok := g.Principal(token.Value); ok {
				t.Error("the right is gone, and the token lives")
			}
		})
	}
}

func generate(t *testing.T, g *idptest.Google, sa, token, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.URL()+"/v1/projects/-/serviceAccounts/"+sa+":generateAccessToken", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode, object(t, resp.Body)
}

func TestImpersonation(t *testing.T) {
	g := idptest.NewGoogle(t)
	middle := "middle@demo-project.iam.gserviceaccount.com"
	g.AllowImpersonation(gatewaySA, account)
	g.AllowImpersonation(gatewaySA, middle)
	g.AllowImpersonation(middle, "agent-b@demo-project.iam.gserviceaccount.com")
	g.AddServiceAccount("agent-c@demo-project.iam.gserviceaccount.com")
	base, narrow := g.Give(gatewaySA, cloud), g.Give(gatewaySA, bigquery)
	good := fmt.Sprintf(`{"scope":[%q],"lifetime":"600s"}`, bigquery)
	for _, tt := range []struct {
		name, sa, token, body string
		status                int
		says                  string
	}{
		{"good", account, base, good, 200, ""},
		{"no token", account, "", good, 401, "UNAUTHENTICATED"},
		{"unknown token", account, "ya29.x", good, 401, "UNAUTHENTICATED"},
		{"token without the scope", account, narrow, good, 403, "PERMISSION_DENIED"},
		{"no right", "agent-c@demo-project.iam.gserviceaccount.com", base, good, 403, "PERMISSION_DENIED"},
		{"no account", "agent-x@demo-project.iam.gserviceaccount.com", base, good, 404, "NOT_FOUND"},
		{"no scope", account, base, `{}`, 400, "INVALID_ARGUMENT"},
		{"not a scope", account, base, `{"scope":["bigquery"]}`, 400, "INVALID_ARGUMENT"},
		{"too long", account, base, fmt.Sprintf(`{"scope":[%q],"lifetime":"3601s"}`, bigquery), 400, "INVALID_ARGUMENT"},
		{"not a duration", account, base, fmt.Sprintf(`{"scope":[%q],"lifetime":"1h"}`, bigquery), 400, "INVALID_ARGUMENT"},
		{"unknown member", account, base, fmt.Sprintf(`{"scopes":[%q]}`, bigquery), 400, "INVALID_ARGUMENT"},
		{"delegate skipped", "agent-b@demo-project.iam.gserviceaccount.com", base, good, 403, "PERMISSION_DENIED"},
		{"delegate", "agent-b@demo-project.iam.gserviceaccount.com", base, fmt.Sprintf(`{"scope":[%q],"delegates":["projects/-/serviceAccounts/%s"]}`, bigquery, middle), 200, ""},
		{"delegate's form", "agent-b@demo-project.iam.gserviceaccount.com", base, fmt.Sprintf(`{"scope":[%q],"delegates":[%q]}`, bigquery, middle), 400, "INVALID_ARGUMENT"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, body := generate(t, g, tt.sa, tt.token, tt.body)
			if status != tt.status {
				t.Fatalf("status %d, %v", status, body)
			}
			if status == 200 {
				if who, ok := g.Principal(body["accessToken"].(string)); !ok || who != tt.sa {
					t.Errorf("principal %q", who)
				}
				return
			}
			if e, _ := body["error"].(map[string]any); e["status"] != tt.says || e["code"] != float64(tt.status) {
				t.Errorf("answer %v", body)
			}
		})
	}
	g.Kill(base)
	if status, _ := generate(t, g, account, base, good); status != 401 {
		t.Errorf("a killed token: %d", status)
	}
	if got := g.Calls(idptest.PathIAM); got != 15 {
		t.Errorf("%d calls", got)
	}
}

func TestConsent(t *testing.T) {
	g := idptest.NewGoogle(t)
	g.AddClient("cid", "csecret", "http://127.0.0.1:1/cb")
	g.AddClient("other", "osecret", "http://127.0.0.1:1/cb")
	g.SignIn(idptest.User{Subject: "1001", Email: "ann@corp.example", EmailVerified: true, Claims: map[string]any{"hd": "corp.example"}})
	conf := oauth2.Config{
		ClientID: "cid", ClientSecret: "csecret", RedirectURL: "http://127.0.0.1:1/cb", Scopes: []string{bigquery, "openid", "email"},
		Endpoint: oauth2.Endpoint{AuthURL: g.AuthURL(), TokenURL: g.TokenURL(), AuthStyle: oauth2.AuthStyleInParams},
	}
	consent := func(opts ...oauth2.AuthCodeOption) *oauth2.Token {
		t.Helper()
		pkce := oauth2.GenerateVerifier()
		_, q := browse(t, http.DefaultClient, conf.AuthCodeURL("s", append(opts, oauth2.S256ChallengeOption(pkce))...))
		if _, err := conf.Exchange(t.Context(), q.Get("code")); err == nil {
			t.Fatal("a code works without its verifier")
		}
		token, err := conf.Exchange(t.Context(), q.Get("code"), oauth2.VerifierOption(pkce))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	if token := consent(); token.RefreshToken != "" {
		t.Error("a refresh token without access_type=offline")
	}
	if token := consent(oauth2.AccessTypeOffline); token.RefreshToken != "" {
		t.Error("a second consent gives a refresh token without prompt=consent")
	}
	token := consent(oauth2.AccessTypeOffline, oauth2.ApprovalForce, oauth2.SetAuthURLParam("prompt", "consent"))
	if token.RefreshToken == "" {
		t.Fatal("no refresh token")
	}
	if who, ok := g.Principal(token.AccessToken); !ok || who != "ann@corp.example" {
		t.Errorf("principal %q", who)
	}
	if !slices.Equal(g.Scopes(token.AccessToken), conf.Scopes) {
		t.Errorf("scopes %v", g.Scopes(token.AccessToken))
	}
	refresh := func(id, secret, rt string) string {
		_, body := post(t, g.TokenURL(), url.Values{"grant_type": {"refresh_token"}, "refresh_token": {rt}, "client_id": {id}, "client_secret": {secret}})
		code, _ := body["error"].(string)
		return code
	}
	for _, tt := range [][4]string{
		{"cid", "csecret", token.RefreshToken, ""},
		{"cid", "wrong", token.RefreshToken, "invalid_client"},
		{"nobody", "csecret", token.RefreshToken, "invalid_client"},
		{"other", "osecret", token.RefreshToken, "unauthorized_client"},
		{"cid", "csecret", "1//0x", "invalid_grant"},
	} {
		if got := refresh(tt[0], tt[1], tt[2]); got != tt[3] {
			t.Errorf("refresh by %s with %q: %q, want %q", tt[0], tt[1], got, tt[3])
		}
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, g.UserInfoURL(), nil)
	req.Header.Set("Authorization", "Bearer "+token.AccessToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if info := object(t, resp.Body); info["email"] != "ann@corp.example" || info["email_verified"] != true || info["hd"] != "corp.example" {
		t.Errorf("userinfo %v", info)
	}
	g.RevokeConsent("ann@corp.example")
	if _, ok := g.Principal(token.AccessToken); ok {
		t.Error("the consent is withdrawn, and its token lives")
	}
	if got := refresh("cid", "csecret", token.RefreshToken); got != "invalid_grant" {
		t.Errorf("the consent is withdrawn: %q", got)
	}
	again := consent(oauth2.AccessTypeOffline)
	if again.RefreshToken == "" {
		t.Fatal("a new consent gives no refresh token")
	}
	for _, want := range []int{200, 400} {
		if status, body := post(t, g.RevokeURL(), url.Values{"token": {again.RefreshToken}}); status != want {
			t.Errorf("revoke: %d %v", status, body)
		}
	}
	if _, ok := g.Principal(again.AccessToken); ok {
		t.Error("revoked, and the access token lives")
	}
}

func TestGoogleClock(t *testing.T) {
	g := idptest.NewGoogle(t)
	now := time.Now()
	g.SetClock(func() time.Time { return now })
	token := g.Give(account, bigquery)
	now = now.Add(time.Hour - time.Second)
	if _, ok := g.Principal(token); !ok {
		t.Error("ended early")
	}
	now = now.Add(time.Second)
	if _, ok := g.Principal(token); ok {
		t.Error("did not end")
	}
	if all := g.Issued(); len(all) != 1 || all[0].Principal != account {
		t.Errorf("issued %+v", all)
	}
	g.Fail(idptest.PathSTS, 503)
	if status, body := post(t, g.STSURL(), exchange("x")); status != 503 || body["error"] == nil {
		t.Errorf("%d %v", status, body)
	}
	g.Fail(idptest.PathIAM, 429)
	status, body := generate(t, g, account, token, "{}")
	if e, _ := body["error"].(map[string]any); status != 429 || e["status"] != "RESOURCE_EXHAUSTED" {
		t.Errorf("%d %v", status, body)
	}
	if _, err := (&oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: g.TokenURL()}}).Exchange(t.Context(), "x"); err == nil || !errors.As(err, new(*oauth2.RetrieveError)) {
		t.Errorf("got %v", err)
	}
}
