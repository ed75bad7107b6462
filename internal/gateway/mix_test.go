package gateway_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/gateway"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/identity/assertion"
	"github.com/trailgate/trailgate/internal/idptest"
)

const (
	mixAgents = 200
	mixCalls  = 50 // of each
	mixPool   = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/agents/providers/"
	mixBase   = "gateway@base-project.iam.gserviceaccount.com"
)

// Projects with a connection of the same name each.
const (
	mixBecome = "become"
	mixHuman  = "human"
	mixOwn    = "own-jwt"
	mixSigned = "signed"
	mixOnward = "onward"
)

// mixAgent is one agent with one kind of credential.
type mixAgent struct {
	name, human, subject, mode string
	client                     *http.Client
	bearer                     string
	ownJWT                     bool
}

// as is the Google principal that the agent must be in a project; "" where it
// must be refused.
func (a *mixAgent) as(project string) string {
	account := a.name + "@" + project + ".iam.gserviceaccount.com"
	switch project {
	case mixHuman:
		return a.human
	case mixOwn:
		if !a.ownJWT {
			return ""
		}
		return idptest.SubjectPrincipal(mixPool+"cluster", a.subject)
	case mixSigned:
		return idptest.SubjectPrincipal(mixPool+"gateway", "agent:"+a.name)
	default:
		return account
	}
}

// mixRig is a gateway with everything in it but the listener's process and the
// disk's trail.
type mixRig struct {
	t       *testing.T
	trail   *memory
	google  *idptest.Google
	cluster *idptest.Provider
	front   *httptest.Server
	store   *identity.Store
	ca      *x509.Certificate
	caKey   *ecdsa.PrivateKey

	mu  sync.Mutex
	saw map[string]string // entry → principal that came upstream with it
}

// TestNoCredentialIsMixed: 10,000 calls of 200 agents, who come by token, JWT, token
// exchange and certificate and go on by impersonation, consent and federation, many
// at once and by one listener. Each call is its agent's in the trail, and reaches
// BigQuery with that agent's own Google identity. To be run under the race detector.
func TestNoCredentialIsMixed(t *testing.T) {
	if testing.Short() && !raceDetector {
		t.Skip("-short: thousands of calls")
	}
	r := newMixRig(t)
	agents := make([]*mixAgent, mixAgents)
	for i := range agents {
		agents[i] = r.agent(i)
	}
	var wg sync.WaitGroup
	for i, a := range agents {
		wg.Go(func() {
			order := mathrand.New(mathrand.NewPCG(1, uint64(i)))
			for n := range mixCalls {
				r.call(a, []string{mixBecome, mixHuman, mixOwn, mixSigned, mixOnward}[order.IntN(5)], n)
			}
		})
	}
	wg.Wait()
	r.check(agents)
}

// call asks once and looks at who answered: the upstream says in the row whose
// token it was given.
func (r *mixRig) call(a *mixAgent, project string, n int) {
	sql := fmt.Sprintf("SELECT '%s %s %d'", a.name, project, n)
	body, err := json.Marshal(map[string]any{"query": sql, "useLegacySql": false})
	if err != nil {
		r.t.Error(err)
		return
	}
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.front.URL+"/bigquery/v2/projects/"+project+"/queries", bytes.NewReader(body))
	if err != nil {
		r.t.Error(err)
		return
	}
	req.Header.Set("Content-Type", "application/json")
	if a.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+a.bearer)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		r.t.Errorf("%s: %v", sql, err)
		return
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Errorf("%s: %v", sql, err)
		return
	}
	want := a.as(project)
	if want == "" {
		if resp.StatusCode != http.StatusForbidden || !strings.Contains(string(text), "connection "+project) {
			r.t.Errorf("%s: %d %s, want a 403 that names the connection", sql, resp.StatusCode, text)
		}
		return
	}
	var answer struct {
		Rows []struct {
			F []struct{ V string }
		}
	}
	if err := json.Unmarshal(text, &answer); err != nil || resp.StatusCode != http.StatusOK || len(answer.Rows) != 1 || answer.Rows[0].F[0].V != want {
		r.t.Errorf("%s: %d %s, want the row %q", sql, resp.StatusCode, text, want)
	}
}

// check holds every call's entries against what its agent is, and against what
// came upstream.
func (r *mixRig) check(agents []*mixAgent) {
	byName := map[string]*mixAgent{}
	for _, a := range agents {
		byName[a.name] = a
	}
	intents, sessions := map[string]*trailgate.Entry{}, map[string]string{}
	closed := 0
	for _, e := range r.trail.all() {
		switch e.Kind {
		case trailgate.KindIntent:
			intents[e.ID] = e
			words := strings.Fields(strings.Trim(strings.TrimPrefix(e.Statements[0].Text, "SELECT "), "'"))
			a := byName[words[0]]
			want := trailgate.Principal{
				Agent: a.name, Human: a.human, Subject: a.subject, AuthMode: a.mode,
				HumanBy: e.Principal.HumanBy, TokenID: e.Principal.TokenID, Issuer: e.Principal.Issuer, CredentialSHA256: e.Principal.CredentialSHA256,
			}
			if diff := cmp.Diff(want, *e.Principal); diff != "" || e.Connection != words[1] {
				r.t.Errorf("%s in the trail, want (-), got (+):\n%s", e.Statements[0].Text, diff)
			}
			if other, ok := sessions[e.Session]; ok && other != a.name {
				r.t.Errorf("session %s is %s's and %s's", e.Session, other, a.name)
			}
			sessions[e.Session] = a.name
		case trailgate.KindOutcome:
			closed++
			intent := intents[e.IntentID]
			if intent == nil {
				r.t.Errorf("outcome %s comes before its intent", e.ID)
				continue
			}
			want := byName[intent.Principal.Agent].as(intent.Connection)
			if saw := r.saw[e.IntentID]; saw != want || (want != "" && (e.Upstream == nil || e.Upstream.Principal != want || e.Upstream.Shared)) {
				r.t.Errorf("%s: upstream saw %q, the trail says %+v, want %q", intent.Statements[0].Text, saw, e.Upstream, want)
			}
		}
	}
	if len(intents) != mixAgents*mixCalls || closed != len(intents) {
		r.t.Errorf("%d intents and %d outcomes of %d calls", len(intents), closed, mixAgents*mixCalls)
	}
	// What was minted was kept: no more than one token for each principal and
	// session, some more for service accounts that were reached in two steps.
	if minted := len(r.google.Issued()); minted > 8*mixAgents {
		r.t.Errorf("%d tokens were minted for %d agents", minted, mixAgents)
	}
}

// upstream is BigQuery as far as it matters: it knows whose a token is, and says so.
func (r *mixRig) upstream(w http.ResponseWriter, req *http.Request) {
	principal, ok := r.google.Principal(strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "))
	if !ok {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	r.mu.Lock()
	r.saw[req.Header.Get("X-Goog-Request-Reason")] = principal
	r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"kind":"bigquery#queryResponse","jobReference":{"projectId":"p","jobId":"j"},"jobComplete":true,"totalRows":"1","schema":{"fields":[{"name":"f","type":"STRING"}]},"rows":[{"f":[{"v":%q}]}]}`, principal)
}

func newMixRig(t *testing.T) *mixRig {
	t.Helper()
	r := &mixRig{t: t, trail: &memory{}, google: idptest.NewGoogle(t), cluster: idptest.NewProvider(t), saw: map[string]string{}}
	r.newAuthority()
	up := httptest.NewServer(http.HandlerFunc(r.upstream))
	t.Cleanup(up.Close)
	r.front = httptest.NewUnstartedServer(nil)
	r.front.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	r.front.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	var handler http.Handler = http.NotFoundHandler() // until the gateway knows its own URL
	r.front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { handler.ServeHTTP(w, req) })
	r.front.StartTLS()
	t.Cleanup(r.front.Close)

	dir := t.TempDir()
	bundle := filepath.Join(dir, "bundle.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.ca.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	verifier, err := assertion.New(assertion.Config{
		Log: slog.New(slog.DiscardHandler),
		Issuers: []assertion.Issuer{{
			Name: "cluster", Issuer: r.cluster.URL(), Audiences: []string{r.front.URL},
			Map: assertion.Map{Agent: `claims.sub.replace("sa:", "")`, Human: "claims.human"},
		}},
		Certificates: []assertion.Certificates{{
			Name: "corp", TrustDomain: "corp.example", BundleFile: bundle,
			Map: assertion.Map{Agent: `cert.path.replace("/agent/", "")`, Human: "cert.emails[0]"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.store, err = identity.Open(filepath.Join(dir, "agents.json")); err != nil {
		t.Fatal(err)
	}
	auth, err := identity.NewAuthenticator(identity.AuthConfig{
		Store: r.store, Verifier: verifier, SessionKeyFile: filepath.Join(dir, "session.key"), ExchangeTTL: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	conns, issuer := r.connections(dir, up.URL)
	gw, err := gateway.New(gateway.Config{
		ID: "mix", Version: "test", Trail: r.trail, Authenticate: auth.Authenticate, Exchange: auth.Exchange, Introspect: auth.Introspect, Issuer: issuer,
		Sessions: identity.NewSessions(time.Hour, time.Now), Log: slog.New(slog.DiscardHandler), Connections: conns, PublicURL: r.front.URL,
	})
	if err != nil {
		t.Fatal(err)
	}
	handler = gw
	return r
}

// connections are one of each kind that gives an agent its own Google identity.
func (r *mixRig) connections(dir, upstream string) ([]gateway.Connection, *federation.Issuer) {
	t := r.t
	t.Helper()
	good := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ends := federation.Endpoints{
		STS: r.google.URL(), IAMCredentials: r.google.URL(), OAuthAuth: r.google.AuthURL(), OAuthToken: r.google.TokenURL(),
		OAuthRevoke: r.google.RevokeURL(), UserInfo: r.google.UserInfoURL(),
	}
	key := filepath.Join(dir, "issuer.key")
	good(federation.GenerateKey(key))
	issuer, err := federation.NewIssuer(federation.IssuerConfig{URL: r.front.URL, Gateway: "mix", KeyFile: key, TTL: 10 * time.Minute})
	good(err)
	r.google.TrustPool(mixPool+"cluster", r.cluster)
	r.google.AllowAudiences(mixPool+"cluster", r.front.URL)
	r.google.TrustIssuer(mixPool+"gateway", r.front.URL, issuer.JWKS)
	base := filepath.Join(dir, "base.json")
	good(os.WriteFile(base, r.google.ServiceAccountKey(mixBase), 0o600))
	consents, err := federation.OpenConsents(filepath.Join(dir, "consents.json"), filepath.Join(dir, "consent.key"))
	good(err)
	const callback = "http://127.0.0.1:1/callback"
	r.google.AddClient("consents", "secret", callback)

	const template = "{agent}@{project}.iam.gserviceaccount.com"
	become, err := federation.Impersonation(federation.ImpersonationConfig{Connection: mixBecome, Base: federation.Base{File: base}, Template: template, Endpoints: ends})
	good(err)
	human, err := federation.OAuth(federation.OAuthConfig{Connection: mixHuman, ClientID: "consents", ClientSecret: "secret", Store: consents, Endpoints: ends})
	good(err)
	own, err := federation.Workload(federation.WorkloadConfig{Connection: mixOwn, Audience: mixPool + "cluster", Prefer: "agent", Endpoints: ends})
	good(err)
	signed, err := federation.Workload(federation.WorkloadConfig{Connection: mixSigned, Audience: mixPool + "gateway", Prefer: "gateway", Issuer: issuer, Endpoints: ends})
	good(err)
	onward, err := federation.Workload(federation.WorkloadConfig{Connection: mixOnward, Audience: mixPool + "gateway", Prefer: "gateway", Issuer: issuer, Template: template, Endpoints: ends})
	good(err)
	for i := range mixAgents {
		r.consent(human, mixHumanOf(i), callback)
	}
	target, err := url.Parse(upstream)
	good(err)
	var conns []gateway.Connection
	for name, source := range map[string]federation.Source{mixBecome: become, mixHuman: human, mixOwn: own, mixSigned: signed, mixOnward: onward} {
		conns = append(conns, gateway.Connection{Name: name, Projects: []string{name}, Upstream: target, Credential: source})
		if closer, ok := source.(io.Closer); ok {
			t.Cleanup(func() { good(closer.Close()) })
		}
	}
	return conns, issuer
}

// consent lets a human consent as a browser would.
func (r *mixRig) consent(source *federation.OAuthSource, human, callback string) {
	r.t.Helper()
	verifier := strings.Repeat("v", 43)
	at, err := source.Begin(human, callback, "state-of-the-browser", verifier)
	if err != nil {
		r.t.Fatal(err)
	}
	r.google.SignIn(idptest.User{Subject: "id-" + human, Email: human, EmailVerified: true})
	browser := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := browser.Get(at)
	if err != nil {
		r.t.Fatal(err)
	}
	resp.Body.Close()
	back, err := resp.Location()
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := source.Complete(context.WithoutCancel(r.t.Context()), human, callback, back.Query().Get("code"), verifier); err != nil {
		r.t.Fatal(err)
	}
}

func mixHumanOf(i int) string { return fmt.Sprintf("human-%03d@corp.example", i) }

// agent makes the i-th, whose kind of credential is i modulo 4.
func (r *mixRig) agent(i int) *mixAgent {
	t := r.t
	t.Helper()
	a := &mixAgent{name: fmt.Sprintf("agent-%03d", i), human: mixHumanOf(i), client: r.front.Client()}
	if _, err := r.store.AddAgent(a.name, ""); err != nil {
		t.Fatal(err)
	}
	r.google.AllowImpersonation(mixBase, a.as(mixBecome))
	r.google.AllowImpersonation(idptest.SubjectPrincipal(mixPool+"gateway", "agent:"+a.name), a.as(mixOnward))
	jwt := func() string {
		return r.cluster.Mint(map[string]any{"sub": "sa:" + a.name, "aud": r.front.URL, "human": a.human, "exp": time.Now().Add(time.Hour).Unix()}, idptest.Alg("ES256"))
	}
	switch i % 4 {
	case 0:
		var err error
		if a.bearer, _, err = r.store.IssueToken(a.name, identity.TokenOptions{TTL: time.Hour, Human: a.human}); err != nil {
			t.Fatal(err)
		}
		a.mode, a.subject = trailgate.AuthGatewayToken, a.name
	case 1:
		a.mode, a.subject, a.bearer, a.ownJWT = trailgate.AuthJWT, "sa:"+a.name, jwt(), true
	case 2:
		a.mode, a.subject, a.bearer, a.ownJWT = trailgate.AuthTokenExchange, "sa:"+a.name, r.exchanged(jwt()), true
	case 3:
		a.mode, a.subject = trailgate.AuthCertificate, "spiffe://corp.example/agent/"+a.name
		transport := r.front.Client().Transport.(*http.Transport).Clone()
		transport.TLSClientConfig.Certificates = []tls.Certificate{r.certificate(a)}
		t.Cleanup(transport.CloseIdleConnections)
		a.client = &http.Client{Transport: transport}
	}
	return a
}

func (r *mixRig) exchanged(jwt string) string {
	r.t.Helper()
	resp, err := r.front.Client().PostForm(r.front.URL+"/v1/token", url.Values{
		"grant_type": {grantExchange}, "subject_token": {jwt}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || body.Token == "" {
		r.t.Fatalf("exchange: %s, %v", resp.Status, err)
	}
	return body.Token
}

func (r *mixRig) newAuthority() {
	r.t.Helper()
	var err error
	if r.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		r.t.Fatal(err)
	}
	r.ca = r.sign(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "corp"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: "corp.example"}},
	}, nil, &r.caKey.PublicKey)
}

func (r *mixRig) sign(tmpl, parent *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
	r.t.Helper()
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key, r.caKey)
	if err != nil {
		r.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		r.t.Fatal(err)
	}
	return cert
}

func (r *mixRig) certificate(a *mixAgent) tls.Certificate {
	r.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	cert := r.sign(&x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "corp.example", Path: "/agent/" + a.name}}, EmailAddresses: []string{a.human},
	}, r.ca, &key.PublicKey)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}
