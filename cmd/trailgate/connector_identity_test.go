package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/connector"
	"github.com/trailgate/trailgate/internal/idptest"
)

// vouched is a hub that knows connectors by an issuer and by a trust bundle, both as the
// gateway's configuration has them.
type vouched struct {
	t        *testing.T
	dir      string
	address  string
	hub      *connector.Hub
	provider *idptest.Provider

	mu      sync.Mutex
	refused int
}

func newVouched(t *testing.T, bundle []byte) *vouched {
	t.Helper()
	v := &vouched{t: t, dir: t.TempDir(), provider: idptest.NewProvider(t)}
	v.put("bundle.pem", bundle)
	cfg, err := config.Parse(filepath.Join(v.dir, "trailgate.yaml"), []byte(fmt.Sprintf(`id: x
connectors:
  listen: 127.0.0.1:0
  issuers:
    - name: gce
      issuer: %s
      audiences: [trailgate-connectors]
      map:
        when: claims.email.endsWith("@p.iam.gserviceaccount.com")
        agent: '"lake-gce"'
        connections: 'claims.email.startsWith("pond") ? ["pond"] : ["lake"]'
  certificates:
    - name: mesh
      trust_domain: example.org
      bundle_file: bundle.pem
      map: {when: 'cert.path == "/connector/lake"', agent: '"lake-mesh"', connections: '["lake"]'}
connections:
  - {name: lake, projects: [lake-project], connectors: true, credential: {mode: none}}
`, v.provider.URL())))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := newAuthority("x connectors", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	v.put("ca.pem", pemBlock("CERTIFICATE", ca.cert.Raw))
	registry, err := connector.OpenRegistry(filepath.Join(v.dir, "connectors.json"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	hub := connector.HubConfig{
		Gateway: "x", Build: "v1", CA: ca.cert, Key: ca.key, Registry: registry, Log: slog.New(slog.DiscardHandler), Now: time.Now, CertificateTTL: time.Hour,
		Connections: map[string]string{"lake": trailgate.CredentialGateway, "pond": trailgate.CredentialGateway},
		Record: func(_ context.Context, e connector.Event) error {
			v.mu.Lock()
			defer v.mu.Unlock()
			if e.Action == connector.ActionRefused {
				v.refused++
			}
			return nil
		},
	}
	if err := connectorIdentities(cfg, "http://127.0.0.1", hub.Log, &hub); err != nil {
		t.Fatal(err)
	}
	if v.hub, err = connector.NewHub(hub); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v.address = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- v.hub.Serve(l) }()
	t.Cleanup(func() {
		v.hub.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return v
}

func (v *vouched) put(name string, raw []byte) {
	v.t.Helper()
	if err := os.WriteFile(filepath.Join(v.dir, name), raw, 0o600); err != nil {
		v.t.Fatal(err)
	}
}

// run runs a connector of this identity until it is admitted (true), or refused with what
// has code "token", "certificate" or "connection".
func (v *vouched) run(identity string, change func(*connector.Config)) (admitted bool, err error) {
	v.t.Helper()
	file, err := config.ParseConnector(filepath.Join(v.dir, "connector.yaml"), []byte(fmt.Sprintf("gateway: %s\nconnections: [{name: lake}]\nidentity: {gateway_ca_file: ca.pem, %s}\n", v.address, identity)))
	if err != nil {
		v.t.Fatal(err)
	}
	conf, closeAll, err := connectorConfig(file, slog.New(slog.DiscardHandler))
	if err != nil {
		v.t.Fatal(err)
	}
	defer closeAll()
	if change != nil {
		change(&conf)
	}
	c, err := connector.New(conf)
	if err != nil {
		v.t.Fatal(err)
	}
	// The one before may not be gone yet.
	for end := time.Now().Add(time.Minute); v.hub.Serving("lake") > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			v.t.Fatal("a connector that ended stays")
		}
	}
	ctx, cancel := context.WithTimeout(v.t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return admitted, err
		case <-tick.C:
			if !admitted && v.hub.Serving("lake") == 1 {
				admitted = true
				cancel()
			}
		}
	}
}

// TestConnectorVouched: a connector comes in by a JWT, by Google's metadata server, or by
// an X.509-SVID, through both configurations; one with a wrong audience, of another
// issuer, too late, or mapped to another's connection does not, and that is recorded.
func TestConnectorVouched(t *testing.T) {
	mesh, stranger := newSVIDs(t), newSVIDs(t)
	v := newVouched(t, pemBlock("CERTIFICATE", mesh.cert.Raw))
	other := idptest.NewProvider(t)
	claims := func(email, audience string, expires time.Duration) map[string]any {
		now := time.Now()
		return map[string]any{"sub": "1", "email": email, "aud": audience, "iat": now.Add(expires - time.Hour).Unix(), "exp": now.Add(expires).Unix()}
	}
	const lake, aud = "lake@p.iam.gserviceaccount.com", "trailgate-connectors"
	// With what goes wrong the hub has an entry.
	refused := func(name, code, identity string, change func(*connector.Config)) {
		t.Helper()
		admitted, err := v.run(identity, change)
		if refusal, ok := errors.AsType[*connector.Refusal](err); admitted || !ok || refusal.Code != code {
			t.Errorf("%s: admitted %v, %v; want refusal %s", name, admitted, err, code)
		}
	}
	for _, x := range []struct{ name, token, code string }{
		{"good", v.provider.Mint(claims(lake, aud, time.Hour)), ""},
		{"wrong audience", v.provider.Mint(claims(lake, "elsewhere", time.Hour)), connector.CodeToken},
		{"other issuer", other.Mint(claims(lake, aud, time.Hour)), connector.CodeToken},
		{"other key", v.provider.Mint(claims(lake, aud, time.Hour), idptest.WrongKey()), connector.CodeToken},
		{"expired", v.provider.Mint(claims(lake, aud, -time.Hour)), connector.CodeToken},
		{"not mapped", v.provider.Mint(claims("lake@elsewhere.example", aud, time.Hour)), connector.CodeToken},
		{"for another connection", v.provider.Mint(claims("pond@p.iam.gserviceaccount.com", aud, time.Hour)), connector.CodeConnection},
	} {
		v.put("token", []byte(x.token))
		if x.code != "" {
			refused(x.name, x.code, "mode: token, token_file: token", nil)
		} else if admitted, err := v.run("mode: token, token_file: token", nil); !admitted || err != nil {
			t.Errorf("%s: %v, %v", x.name, admitted, err)
		}
	}

	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Metadata-Flavor") != "Google" || r.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/identity" || r.URL.Query().Get("format") != "full" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintln(w, v.provider.Mint(claims(lake, r.URL.Query().Get("audience"), time.Hour)))
	}))
	defer metadata.Close()
	of := func(audience string) func(*connector.Config) {
		return func(c *connector.Config) {
			c.Token = func(ctx context.Context) (string, error) { return metadataToken(ctx, metadata.URL, audience) }
		}
	}
	if admitted, err := v.run("mode: gcp, audience: "+aud, of(aud)); !admitted || err != nil {
		t.Errorf("metadata: %v, %v", admitted, err)
	}
	refused("metadata, wrong audience", connector.CodeToken, "mode: gcp, audience: elsewhere", of("elsewhere"))
	if _, err := metadataToken(t.Context(), metadata.URL+"/nowhere", aud); err == nil || !strings.Contains(err.Error(), "does the machine have a service account?") {
		t.Errorf("no service account: %v", err)
	}

	svid := func(a *authority, path string, expires time.Duration) string {
		cert, key := issueSVID(t, a, path, expires)
		v.put("svid.pem", cert)
		v.put("svid.key", key)
		return "mode: certificate, cert_file: svid.pem, key_file: svid.key"
	}
	if admitted, err := v.run(svid(mesh, "/connector/lake", time.Hour), nil); !admitted || err != nil {
		t.Errorf("SVID: %v, %v", admitted, err)
	}
	refused("SVID of another", connector.CodeCertificate, svid(mesh, "/connector/pond", time.Hour), nil)
	refused("SVID of another authority", connector.CodeCertificate, svid(stranger, "/connector/lake", time.Hour), nil)
	refused("SVID that ended", connector.CodeCertificate, svid(mesh, "/connector/lake", -time.Minute), nil)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.refused == 0 {
		t.Error("no refusal is recorded")
	}
}

func newSVIDs(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "example.org"}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org"}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key}
}

func issueSVID(t *testing.T, a *authority, path string, expires time.Duration) (cert, key []byte) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(expires - 2*time.Hour), NotAfter: time.Now().Add(expires),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: path}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, own.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := marshalKey(own)
	if err != nil {
		t.Fatal(err)
	}
	return pemBlock("CERTIFICATE", der), raw
}

// TestConnectorHealth: /readyz is 200 while calls can come, and 503 else; /healthz is 200
// either way, and /metrics has the figures.
func TestConnectorHealth(t *testing.T) {
	v := newVouched(t, pemBlock("CERTIFICATE", newSVIDs(t).cert.Raw))
	v.put("token", []byte(v.provider.Mint(map[string]any{"sub": "1", "email": "lake@p.iam.gserviceaccount.com", "aud": "trailgate-connectors", "exp": time.Now().Add(time.Hour).Unix()})))
	file, err := config.ParseConnector(filepath.Join(v.dir, "c.yaml"), []byte(fmt.Sprintf("gateway: %s\nconnections: [{name: lake}]\nidentity: {gateway_ca_file: ca.pem, mode: token, token_file: token}\n", v.address)))
	if err != nil {
		t.Fatal(err)
	}
	conf, closeAll, err := connectorConfig(file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	c, err := connector.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	stop, err := serveHealth("127.0.0.1:0", c, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	at := "http://" + regexp.MustCompile(`listen=(\S+)`).FindStringSubmatch(said.String())[1]
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get(at + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, b.String()
	}
	check := func(ready int, figure string) {
		t.Helper()
		if status, _ := get("/healthz"); status != 200 {
			t.Errorf("/healthz: %d", status)
		}
		if status, body := get("/readyz"); status != ready {
			t.Errorf("/readyz: %d %s", status, body)
		}
		if status, body := get("/metrics"); status != 200 || !strings.Contains(body, "\ntrailgate_connector_connected "+figure+"\n") {
			t.Errorf("/metrics: %d %s", status, body)
		}
	}
	check(503, "0")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	for end := time.Now().Add(time.Minute); !c.State().Connected; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not connected: %+v", c.State())
		}
	}
	check(200, "1")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	check(503, "0")
}
