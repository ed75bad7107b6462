package e2e

import (
	"bufio"
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
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/idptest"
	"github.com/trailgate/trailgate/internal/sandbox"
)

// humans are on whose behalf each agent acts.
var humans = map[string]string{analyst: "ann@corp.example", etl: "eve@corp.example"}

// The providers of a workload identity pool: one trusts the agents' issuer, the
// other the gateway, since a provider trusts one issuer.
const (
	poolName      = "//iam.googleapis.com/projects/123456/locations/global/workloadIdentityPools/agents/providers/"
	poolOfAgents  = poolName + "cluster-1"
	poolOfGateway = poolName + "trailgate"
)

// Projects, each with a connection of its own mode, of the same name without "p-".
const (
	pNone      = "p-none"
	pStatic    = "p-static"
	pBecome    = "p-become"     // impersonation
	pHuman     = "p-human"      // oauth
	pOwn       = "p-own"        // workload, the agent's own JWT
	pSigned    = "p-signed"     // workload, the gateway's JWT
	pOnward    = "p-onward"     // workload, the gateway's JWT, then impersonation
	pOwnOnward = "p-own-onward" // workload, the agent's own JWT, then impersonation
	pPrefer    = "p-prefer"     // workload, the agent's JWT where there is one, else the gateway's
)

const cloudScope = "https://www.googleapis.com/auth/cloud-platform"

// serviceAccount is what the connections' template makes of an agent.
func serviceAccount(agent, project string) string {
	return agent + "@" + project + ".iam.gserviceaccount.com"
}

// subjectOf is how the agents' issuer calls an agent.
func subjectOf(agent string) string { return "system:serviceaccount:agents:" + agent }

// idRig is a gateway that takes every kind of credential and has a connection of
// every mode, between identity providers and a BigQuery that looks at whose
// tokens come.
type idRig struct {
	*rig
	admin   string              // the admin listener's address
	cluster *idptest.Provider   // of the agents' JWTs
	staff   *idptest.Provider   // of humans
	google  *idptest.Google     // STS, IAM Credentials, OAuth
	ca      *authority          // of the gateway's certificate
	spiffe  *authority          // of the agents' certificates
	open    *sandbox.Sandbox    // the BigQuery of mode none, which asks for no token
	client  *http.Client        // trusts the gateway, shows no certificate
	asks    func() string       // builds the Go client once
	printed map[string][]string // by file: the environment that "agent credential" prints
}

// newIDRig makes and starts it. The agents are known, and nobody has consented.
func newIDRig(t *testing.T) *idRig {
	t.Helper()
	endToEnd(t)
	r := &idRig{
		rig: &rig{t: t, dir: t.TempDir(), addr: freeAddr(t), out: &output{}}, admin: freeAddr(t),
		cluster: idptest.NewProvider(t), staff: idptest.NewProvider(t), google: idptest.NewGoogle(t),
		ca: newAuthority(t, "gateway CA"), spiffe: newAuthority(t, "corp.example"),
		printed: map[string][]string{},
	}
	r.google.AddServiceAccount(gatewaySA)
	// A token of Google's, so that BigQuery sees through one function whose each is.
	static := r.google.Give(gatewaySA, cloudScope)
	projects := []string{pNone, pStatic, pBecome, pHuman, pOwn, pSigned, pOnward, pOwnOnward, pPrefer}
	r.box = serveBox(t, sandbox.Config{Projects: projects, Principal: r.google.Principal})
	open := serveBox(t, sandbox.Config{Projects: projects})
	r.open = open.box

	r.must("init", "--dir", r.dir)
	r.writeFiles(static)
	r.configure(open.url)
	r.start()
	roots := x509.NewCertPool()
	roots.AddCert(r.ca.cert)
	r.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	for _, agent := range agents {
		r.must("agent", "add", agent)
	}

	r.google.TrustPool(poolOfAgents, r.cluster)
	r.google.AllowAudiences(poolOfAgents, r.url()) // the agents' JWTs are for the gateway
	r.google.TrustIssuer(poolOfGateway, r.url(), r.gatewayKeys)
	for _, agent := range agents {
		r.google.AllowImpersonation(gatewaySA, serviceAccount(agent, pBecome))
		r.google.AllowImpersonation(idptest.SubjectPrincipal(poolOfGateway, "agent:"+agent), serviceAccount(agent, pOnward))
		r.google.AllowImpersonation(idptest.SubjectPrincipal(poolOfAgents, subjectOf(agent)), serviceAccount(agent, pOwnOnward))
	}
	r.asks = sync.OnceValue(func() string { return buildAsAgent(t) })
	return r
}

func (r *idRig) url() string      { return "https://" + r.addr }
func (r *idRig) adminURL() string { return "http://" + r.admin }

func (r *idRig) writeFiles(static string) {
	t := r.t
	t.Helper()
	r.ca.server(t, filepath.Join(r.dir, "cert.pem"), filepath.Join(r.dir, "key.pem"))
	write(t, filepath.Join(r.dir, "ca.pem"), string(r.ca.pem))
	write(t, filepath.Join(r.dir, "spiffe.pem"), string(r.spiffe.pem))
	write(t, filepath.Join(r.dir, "upstream.token"), static+"\n")
	write(t, filepath.Join(r.dir, "gateway-sa.json"), string(r.google.ServiceAccountKey(gatewaySA)))
	write(t, filepath.Join(r.dir, "login.secret"), "login-secret\n")
	write(t, filepath.Join(r.dir, "consent.secret"), "consent-secret\n")
	r.staff.AddClient("trailgate", "login-secret", r.adminURL()+"/login/callback")
	r.google.AddClient("consents", "consent-secret", r.adminURL()+"/consent/human/callback")
}

func (r *idRig) configure(openURL string) {
	r.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, `id: e2e
data_dir: data
gateway:
  listen: %q
  public_url: %s
  tls: {cert_file: cert.pem, key_file: key.pem, ca_file: ca.pem}
admin:
  listen: %q
  login:
    issuer: %s
    client_id: trailgate
    client_secret_file: login.secret
    roles: {auditor: 'claims.email.endsWith("@corp.example")'}
identity:
  issuers:
    - name: cluster
      issuer: %s
      audiences: [%s]
      map:
        when: 'claims.sub.startsWith("system:serviceaccount:agents:")'
        agent: 'claims.sub.replace("system:serviceaccount:agents:", "")'
        human: 'has(claims.human) ? claims.human : ""'
    - name: staff
      issuer: %s
      audiences: [%s]
      map:
        when: 'claims.email_verified'
        human: 'claims.email'
  certificates:
    - name: corp
      trust_domain: corp.example
      bundle_file: spiffe.pem
      map:
        agent: 'cert.path.replace("/agent/", "")'
        human: 'size(cert.emails) > 0 ? cert.emails[0] : ""'
federation:
  endpoints:
    sts: %[9]s
    iam_credentials: %[9]s
    oauth_auth: %[10]s
    oauth_token: %[11]s
    oauth_revoke: %[12]s
    userinfo: %[13]s
policy: {record_only: true}
connections:
`, r.addr, r.url(), r.admin, r.staff.URL(), r.cluster.URL(), r.url(), r.staff.URL(), r.url(),
		r.google.URL(), r.google.AuthURL(), r.google.TokenURL(), r.google.RevokeURL(), r.google.UserInfoURL())
	account := `"{agent}@{project}.iam.gserviceaccount.com"`
	for _, c := range [][3]string{
		{pNone, openURL, `mode: none`},
		{pStatic, r.box.url, `mode: static, token_file: upstream.token`},
		{pBecome, r.box.url, `mode: impersonation, credential_file: gateway-sa.json, service_account: ` + account},
		{pHuman, r.box.url, `mode: oauth, client_id: consents, client_secret_file: consent.secret, allowed_domains: [corp.example]`},
		{pOwn, r.box.url, `mode: workload, assertion: agent, audience: ` + poolOfAgents},
		{pSigned, r.box.url, `mode: workload, assertion: gateway, audience: ` + poolOfGateway},
		{pOnward, r.box.url, `mode: workload, assertion: gateway, service_account: ` + account + `, audience: ` + poolOfGateway},
		{pOwnOnward, r.box.url, `mode: workload, assertion: agent, service_account: ` + account + `, audience: ` + poolOfAgents},
		{pPrefer, r.box.url, `mode: workload, assertion: prefer_agent, audience: ` + poolOfAgents},
	} {
		fmt.Fprintf(&b, "  - {name: %s, projects: [%s], upstream: %s, credential: {%s}}\n", strings.TrimPrefix(c[0], "p-"), c[0], c[1], c[2])
	}
	write(r.t, r.config(), b.String())
}

// gatewayKeys are those that the gateway publishes, found as Google would.
func (r *idRig) gatewayKeys() []byte {
	var doc struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	raw, err := r.get(r.url() + idptest.PathDiscovery)
	if err == nil {
		err = json.Unmarshal(raw, &doc)
	}
	if err == nil && doc.Issuer != r.url() {
		err = fmt.Errorf("the gateway calls itself %q", doc.Issuer)
	}
	if err == nil {
		raw, err = r.get(doc.JWKS)
	}
	if err != nil {
		r.t.Errorf("the gateway's keys: %v", err)
	}
	return raw
}

func (r *idRig) get(at string) ([]byte, error) {
	resp, err := r.client.Get(at)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", at, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// serveBox is a sandbox that listens and keeps what arrives.
func serveBox(t *testing.T, cfg sandbox.Config) *upstream {
	t.Helper()
	box, err := sandbox.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close() })
	u := &upstream{box: box}
	srv := httptest.NewServer(http.HandlerFunc(u.serve))
	t.Cleanup(srv.Close)
	u.url = srv.URL
	return u
}

// jwt is what the cluster gives an agent.
func (r *idRig) jwt(agent string, more map[string]any, opts ...idptest.MintOption) string {
	claims := map[string]any{
		"sub": subjectOf(agent), "aud": []string{r.url()}, "human": humans[agent],
		"exp": time.Now().Add(time.Hour).Unix(), "jti": fmt.Sprint(time.Now().UnixNano()),
	}
	for k, v := range more {
		claims[k] = v
	}
	return r.cluster.Mint(claims, opts...)
}

// consent lets an agent's human sign in to the gateway and consent at Google, as
// a browser would.
func (r *idRig) consent(human string) {
	r.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Timeout: time.Minute}
	open := func(at string) string {
		r.t.Helper()
		resp, err := browser.Get(at)
		if err != nil {
			r.t.Fatal(err)
		}
		defer resp.Body.Close()
		page, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			r.t.Fatalf("%s ends at %s with %s, %v\n%s\n%s", at, resp.Request.URL, resp.Status, err, page, r.out)
		}
		return string(page)
	}
	user := idptest.User{Subject: "id-of-" + human, Email: human, EmailVerified: true}
	r.staff.SignIn(user)
	user.Claims = map[string]any{"hd": "corp.example"}
	r.google.SignIn(user)
	if page := open(r.adminURL() + "/login"); !strings.Contains(page, human) {
		r.t.Fatalf("signed in, the page does not name %s:\n%s", human, page)
	}
	if page := open(r.adminURL() + "/consent/human"); !strings.Contains(page, human) {
		r.t.Fatalf("consented, the page does not name the account %s:\n%s", human, page)
	}
}

// authority is a certificate authority.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if strings.Contains(name, ".") { // a SPIFFE authority has its trust domain's id
		tmpl.URIs = []*url.URL{{Scheme: "spiffe", Host: name}}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue signs a leaf and returns it with its key, both as PEM.
func (a *authority) issue(t *testing.T, tmpl *x509.Certificate) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if tmpl.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		t.Fatal(err)
	}
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore = time.Now().Add(-time.Minute)
	}
	if tmpl.NotAfter.IsZero() {
		tmpl.NotAfter = time.Now().Add(time.Hour)
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func (a *authority) server(t *testing.T, certFile, keyFile string) {
	t.Helper()
	cert, key := a.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "gateway"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	write(t, certFile, string(cert))
	write(t, keyFile, string(key))
}

// svid is an X.509-SVID of an agent, with its human's address beside.
func svid(trustDomain, agent string) *x509.Certificate {
	return &x509.Certificate{
		URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain, Path: "/agent/" + agent}}, EmailAddresses: []string{humans[agent]},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func buildAsAgent(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "asagent")
	build := exec.Command("go", "build", "-o", bin, "./asagent")
	build.Dir = "goclient"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the Go client: %v\n%s", err, out)
	}
	return bin
}

// asking is a running Go client.
type asking struct {
	name string
	t    *testing.T
	in   io.WriteCloser
	out  *bufio.Scanner
	err  *output
}

// reply is what a question gave.
type reply struct {
	Value           string
	Failed          bool
	Code            int
	Reason, Message string
}

// startAsking runs the Go client with an environment; it ends with the test.
func (r *idRig) startAsking(t *testing.T, env ...string) *asking {
	t.Helper()
	cmd := exec.Command(r.asks())
	cmd.Env = append(cleanEnv(t.TempDir()), append(env, "TRAILGATE_GATEWAY="+r.url(), "SSL_CERT_FILE="+filepath.Join(r.dir, "ca.pem"))...)
	return r.startProgram(t, cmd)
}

// startProgram runs a program that takes questions; it ends with the test.
func (r *idRig) startProgram(t *testing.T, cmd *exec.Cmd) *asking {
	t.Helper()
	a := &asking{t: t, name: filepath.Base(cmd.Path), err: &output{}}
	cmd.Stderr = a.err
	var err error
	if a.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.out = bufio.NewScanner(stdout)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", a.name, err, a.err)
		}
	})
	return a
}

// ask asks one question and waits for what it gives.
func (a *asking) ask(project, sql string) reply {
	line, err := json.Marshal(map[string]string{"project": project, "sql": sql})
	if err != nil {
		a.t.Error(err)
	}
	if _, err := a.in.Write(append(line, '\n')); err != nil {
		a.t.Errorf("%s has gone: %v\n%s", a.name, err, a.err)
		return reply{Failed: true}
	}
	var got reply
	if !a.out.Scan() {
		a.t.Errorf("%s has gone: %v\n%s", a.name, a.out.Err(), a.err)
		return reply{Failed: true}
	}
	if err := json.Unmarshal(a.out.Bytes(), &got); err != nil {
		a.t.Errorf("the Go client says %q: %v", a.out.Text(), err)
	}
	return got
}

// readIfFile is a file's text; "" for what is none.
func readIfFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return "", err
	}
	raw, err := os.ReadFile(path)
	return string(raw), err
}
