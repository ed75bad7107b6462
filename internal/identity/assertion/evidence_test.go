package assertion_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/trailgate/trailgate/internal/identity/assertion"
	"github.com/trailgate/trailgate/internal/idptest"
)

// keeper keeps evidence in memory.
type keeper struct {
	kept []string
	fail error
}

func (k *keeper) keep(_ context.Context, raw []byte) (string, error) {
	if k.fail != nil {
		return "", k.fail
	}
	k.kept = append(k.kept, string(raw))
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

// TestEvidence: what is kept of a JWT is what was signed and the key that holds for it,
// once for as long as the token is remembered, and never the signature.
func TestEvidence(t *testing.T) {
	p := idptest.NewProvider(t)
	c := &clock{now: time.Now()}
	p.SetClock(c.Now)
	k := &keeper{fail: errors.New("the disk is full")}
	v, err := assertion.New(assertion.Config{Issuers: []assertion.Issuer{issuerOf(p)}, Now: c.Now, Keep: k.keep})
	if err != nil {
		t.Fatal(err)
	}
	raw := p.Mint(of(map[string]any{"exp": c.Now().Add(50 * time.Minute).Unix()}))
	// What cannot be kept is not accepted, and not remembered either.
	for range 2 {
		if _, err := v.JWT(t.Context(), raw); !errors.Is(err, assertion.ErrUnavailable) {
			t.Fatalf("accepted without evidence: %v", err)
		}
	}
	k.fail = nil
	var a assertion.Assertion
	for range 3 {
		if a, err = v.JWT(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.kept) != 1 || a.Evidence == "" {
		t.Fatalf("kept %d times, named %q", len(k.kept), a.Evidence)
	}
	parts := strings.Split(raw, ".")
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string]string{"the token": raw, "its signature": parts[2], "its signature, raw": string(signature), "in hex": hex.EncodeToString(signature), "in base64": base64.StdEncoding.EncodeToString(signature)} {
		if strings.Contains(k.kept[0], secret) {
			t.Errorf("%s is kept", name)
		}
	}
	var e struct {
		V                             int
		Kind, Source, Header, Payload string
		SHA256                        string `json:"credential_sha256"`
		Key                           jose.JSONWebKey
	}
	if err := json.Unmarshal([]byte(k.kept[0]), &e); err != nil {
		t.Fatal(err)
	}
	if e.V != 1 || e.Kind != a.Mode || e.Source != "cluster" || e.SHA256 != a.SHA256 {
		t.Errorf("%s", k.kept[0])
	}
	// Whoever has the signature can check it over what was kept, with the key that was.
	signed := base64.RawURLEncoding.EncodeToString([]byte(e.Header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(e.Payload)) + "." + parts[2]
	if signed != raw || !e.Key.IsPublic() {
		t.Error("what was kept is not what was signed")
	}
	jws, err := jose.ParseSignedCompact(signed, []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jws.Verify(&e.Key); err != nil {
		t.Errorf("the key that was kept: %v", err)
	}
	// When it is forgotten and verified again, the same evidence is kept: no more of it.
	c.add(10 * time.Minute)
	if _, err := v.JWT(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	if len(k.kept) != 2 || k.kept[0] != k.kept[1] {
		t.Errorf("kept %d times, not the same", len(k.kept))
	}
	// Nothing is kept of what is not accepted.
	for _, bad := range []string{raw[:len(raw)-4] + "AAAA", p.Mint(of(map[string]any{"sub": "system:serviceaccount:other:x"})), p.Mint(of(map[string]any{"aud": "other"}))} {
		if _, err := v.JWT(t.Context(), bad); err == nil {
			t.Error("accepted")
		}
	}
	if len(k.kept) != 2 {
		t.Error("evidence of what was refused")
	}
}

// TestCertificateEvidence: a certificate's evidence can be checked whole.
func TestCertificateEvidence(t *testing.T) {
	c := &clock{now: time.Now()}
	authority := newCA(t, c.Now())
	path := filepath.Join(t.TempDir(), "bundle.pem")
	authority.write(path)
	k := &keeper{}
	v, err := assertion.New(assertion.Config{Now: c.Now, Keep: k.keep, Certificates: []assertion.Certificates{{
		Name: "mesh", TrustDomain: "example.org", BundleFile: path, Map: assertion.Map{Agent: `cert.path.split("/")[2]`},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	chain := authority.leaf(c.Now(), "spiffe://example.org/agent/etl-bot")
	var a assertion.Assertion
	for range 3 {
		if a, err = v.Certificate(chain); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.kept) != 1 || a.Evidence == "" {
		t.Fatalf("kept %d times", len(k.kept))
	}
	var e struct {
		Kind               string
		SHA256             string `json:"credential_sha256"`
		Chain, Authorities [][]byte
	}
	if err := json.Unmarshal([]byte(k.kept[0]), &e); err != nil {
		t.Fatal(err)
	}
	if e.Kind != a.Mode || e.SHA256 != a.SHA256 || len(e.Chain) != len(chain) || len(e.Authorities) != 1 {
		t.Fatalf("%s", k.kept[0])
	}
	leaf, err := x509.ParseCertificate(e.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(e.Authorities[0])
	if err != nil {
		t.Fatal(err)
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	pool.AddCert(root)
	for _, raw := range e.Chain[1:] {
		one, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(one)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: c.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	k.fail = errors.New("full")
	if _, err := v.Certificate(authority.leaf(c.Now(), "spiffe://example.org/agent/other")); !errors.Is(err, assertion.ErrUnavailable) {
		t.Errorf("accepted without evidence: %v", err)
	}
}
