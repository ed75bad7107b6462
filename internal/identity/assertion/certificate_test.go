package assertion_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/identity/assertion"
)

// ca makes certificates.
type ca struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t testing.TB, now time.Time) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &ca{t: t, key: key}
	c.cert = c.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org"}},
	}, &key.PublicKey, nil, now)
	return c
}

func (c *ca) sign(t *x509.Certificate, pub any, parent *x509.Certificate, now time.Time) *x509.Certificate {
	c.t.Helper()
	t.SerialNumber = big.NewInt(now.UnixNano())
	if t.NotAfter.IsZero() {
		t.NotBefore, t.NotAfter = now.Add(-time.Hour), now.Add(time.Hour)
	}
	if parent == nil {
		parent = t
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

// leaf makes a client's certificate; change may spoil it.
func (c *ca) leaf(now time.Time, id string, change ...func(*x509.Certificate)) []*x509.Certificate {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: "agent"}, KeyUsage: x509.KeyUsageDigitalSignature, DNSNames: []string{"etl.agents.example"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if id != "" {
		u, err := url.Parse(id)
		if err != nil {
			c.t.Fatal(err)
		}
		t.URIs = []*url.URL{u}
	}
	for _, f := range change {
		f(t)
	}
	return []*x509.Certificate{c.sign(t, &key.PublicKey, c.cert, now)}
}

func (c *ca) write(path string) {
	c.t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func certificates(t testing.TB, c *clock, trustDomain string) (*assertion.Verifier, *ca, string) {
	t.Helper()
	authority := newCA(t, c.Now())
	path := filepath.Join(t.TempDir(), "bundle.pem")
	authority.write(path)
	agent := `cert.path.split("/")[2]`
	if trustDomain == "" {
		agent = `cert.dns_names[0].split(".")[0] + "-bot"`
	}
	v, err := assertion.New(assertion.Config{Now: c.Now, Certificates: []assertion.Certificates{{
		Name: "mesh", TrustDomain: trustDomain, BundleFile: path, Map: assertion.Map{Agent: agent},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return v, authority, path
}

func TestCertificates(t *testing.T) {
	c := &clock{now: time.Now()}
	v, authority, _ := certificates(t, c, "example.org")
	if !v.WantsCertificates() {
		t.Error("the listener is not to ask for one")
	}
	a, err := v.Certificate(authority.leaf(c.Now(), "spiffe://example.org/agent/etl-bot"))
	if err != nil || a.Agent != "etl-bot" || a.Issuer != "spiffe://example.org" || a.Subject != "spiffe://example.org/agent/etl-bot" || a.Mode != "client_certificate" || len(a.SHA256) != 64 || a.ID == "" || a.Token != "" || a.Scoped {
		t.Errorf("%+v %v", a, err)
	}
	stranger := newCA(t, c.Now())
	for name, chain := range map[string][]*x509.Certificate{
		"nothing":            nil,
		"another authority":  stranger.leaf(c.Now(), "spiffe://example.org/agent/etl-bot"),
		"self-signed":        {stranger.cert},
		"the authority":      {authority.cert},
		"other trust domain": authority.leaf(c.Now(), "spiffe://example.com/agent/etl-bot"),
		"no SPIFFE id":       authority.leaf(c.Now(), ""),
		"two URIs": authority.leaf(c.Now(), "spiffe://example.org/agent/etl-bot", func(t *x509.Certificate) {
			t.URIs = append(t.URIs, &url.URL{Scheme: "spiffe", Host: "example.org", Path: "/agent/boss-bot"})
		}),
		"for servers": authority.leaf(c.Now(), "spiffe://example.org/agent/etl-bot", func(t *x509.Certificate) {
			t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}),
		"expired": authority.leaf(c.Now(), "spiffe://example.org/agent/etl-bot", func(t *x509.Certificate) {
			t.NotBefore, t.NotAfter = c.Now().Add(-2*time.Hour), c.Now().Add(-time.Hour)
		}),
		"an authority itself": authority.leaf(c.Now(), "spiffe://example.org/agent/etl-bot", func(t *x509.Certificate) {
			t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
		}),
		"a long chain": append(authority.leaf(c.Now(), "spiffe://example.org/agent/etl-bot"), make([]*x509.Certificate, 20)...),
	} {
		if a, err := v.Certificate(chain); !errors.Is(err, assertion.ErrCertificate) {
			t.Errorf("%s: %+v %v", name, a, err)
		}
	}
	if _, err := v.Certificate(authority.leaf(c.Now(), "spiffe://example.org/short")); !errors.Is(err, assertion.ErrMapping) {
		t.Errorf("a path that the map cannot read: %v", err)
	}
	// What held a moment ago does not outlive itself.
	chain := authority.leaf(c.Now(), "spiffe://example.org/agent/etl-bot")
	c.add(61 * time.Minute)
	if _, err := v.Certificate(chain); !errors.Is(err, assertion.ErrCertificate) {
		t.Errorf("%v", err)
	}
}

// TestPlainCertificates: an authority of one's own, without SPIFFE.
func TestPlainCertificates(t *testing.T) {
	c := &clock{now: time.Now()}
	v, authority, _ := certificates(t, c, "")
	a, err := v.Certificate(authority.leaf(c.Now(), ""))
	if err != nil || a.Agent != "etl-bot" || a.Issuer != "x509:mesh" || a.Subject != "etl.agents.example" {
		t.Errorf("%+v %v", a, err)
	}
}

// TestBundleIsReadAgain when it changes; a broken one leaves that in use.
func TestBundleIsReadAgain(t *testing.T) {
	c := &clock{now: time.Now()}
	v, old, path := certificates(t, c, "example.org")
	next := newCA(t, c.Now())
	chain := next.leaf(c.Now(), "spiffe://example.org/agent/etl-bot")
	if _, err := v.Certificate(chain); err == nil {
		t.Fatal("an authority that is not there yet")
	}
	next.write(path)
	if err := os.Chtimes(path, time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	c.add(2 * time.Second)
	if _, err := v.Certificate(chain); err != nil {
		t.Errorf("after the bundle changed: %v", err)
	}
	if _, err := v.Certificate(old.leaf(c.Now(), "spiffe://example.org/agent/etl-bot")); err == nil {
		t.Error("the old authority is still trusted")
	}
	if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.add(2 * time.Second)
	if _, err := v.Certificate(chain); err != nil {
		t.Errorf("with a broken bundle: %v", err)
	}
	if _, err := assertion.New(assertion.Config{Certificates: []assertion.Certificates{{Name: "x", BundleFile: path, Map: assertion.Map{Agent: "cert.serial"}}}}); err == nil {
		t.Error("a broken bundle at start")
	}
}

func BenchmarkCertificate(b *testing.B) {
	c := &clock{now: time.Now()}
	v, authority, _ := certificates(b, c, "example.org")
	chain := authority.leaf(c.Now(), "spiffe://example.org/agent/etl-bot")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Certificate(chain); err != nil {
			b.Fatal(err)
		}
	}
}
