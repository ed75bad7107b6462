package federation_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/trailgate/trailgate/internal/federation"
)

func writeKey(tb testing.TB, path, kind string, der []byte, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// TestIssuerRotates goes through a rotation: the next key is published, signs, and
// what the last one signed verifies until it is taken away.
func TestIssuerRotates(t *testing.T) {
	dir := t.TempDir()
	active, more := filepath.Join(dir, "active"), filepath.Join(dir, "more")
	der, err := x509.MarshalPKCS8PrivateKey(rsaKey())
	writeKey(t, active, "PRIVATE KEY", der, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(ec.Public())
	writeKey(t, more, "PUBLIC KEY", public, err)
	i, err := federation.NewIssuer(federation.IssuerConfig{URL: "http://127.0.0.1:1", KeyFile: active, MoreKeyFiles: []string{more, active}})
	if err != nil {
		t.Fatal(err)
	}
	set := func(n int) (s jose.JSONWebKeySet) {
		t.Helper()
		if err := json.Unmarshal(i.JWKS(), &s); err != nil || len(s.Keys) != n {
			t.Fatalf("keys: %s, %v", i.JWKS(), err)
		}
		return s
	}
	set(2)
	old, _, err := i.Sign(t.Context(), "a", request("etl"))
	if err != nil {
		t.Fatal(err)
	}
	verify(t, old, set(2))

	ecDER, err := x509.MarshalECPrivateKey(ec)
	writeKey(t, active, "EC PRIVATE KEY", ecDER, err)
	writeKey(t, more, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey()), nil)
	if err := i.Reload(); err != nil {
		t.Fatal(err)
	}
	next, _, err := i.Sign(t.Context(), "a", request("etl"))
	if err != nil {
		t.Fatal(err)
	}
	verify(t, old, set(2))
	verify(t, next, set(2))

	// A reload that cannot be done changes nothing.
	if err := os.WriteFile(active, []byte("secret rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := i.Reload(); err == nil {
		t.Fatal("rubbish was loaded")
	}
	verify(t, next, set(2))
}

func TestIssuerKeys(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	try := func() error {
		_, err := federation.NewIssuer(federation.IssuerConfig{URL: "https://gw.example", KeyFile: path})
		return err
	}
	if try() == nil {
		t.Error("a missing key was accepted")
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err == nil { // newer toolchains may refuse to make one
		writeKey(t, path, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(small), nil)
		if try() == nil {
			t.Error("1024 bits were accepted")
		}
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(p384)
	writeKey(t, path, "EC PRIVATE KEY", der, err)
	if try() == nil {
		t.Error("P-384 was accepted, which Google does not take")
	}
	public, err := x509.MarshalPKIXPublicKey(rsaKey().Public())
	writeKey(t, path, "PUBLIC KEY", public, err)
	if try() == nil {
		t.Error("a public key was to sign")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := federation.GenerateKey(path); err != nil || try() != nil {
		t.Errorf("a new key: %v, %v", err, try())
	}
	if federation.GenerateKey(path) == nil {
		t.Error("a key was overwritten")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if try() == nil {
		t.Error("a key that everybody can read was accepted")
	}
	good := filepath.Join(dir, "good")
	if err := federation.GenerateKey(good); err != nil {
		t.Fatal(err)
	}
	for _, c := range []federation.IssuerConfig{
		{URL: "http://gw.example"},
		{URL: "gw.example"},
		{URL: "https://u:p@gw.example"},
		{URL: "https://gw.example?x=1"},
		{URL: ""},
		{URL: "https://gw.example", TTL: time.Second},
		{URL: "https://gw.example", TTL: 2 * time.Hour},
		{URL: "https://gw.example", MoreKeyFiles: make([]string, 20)},
	} {
		c.KeyFile = good
		if _, err := federation.NewIssuer(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}
