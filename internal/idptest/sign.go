package idptest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// keyring is one generation of a signer's keys, one for each algorithm.
type keyring struct {
	id  string // of the generation; a key's is this and its algorithm
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
	ed  ed25519.PrivateKey
}

func newKeyring(tb testing.TB, id string) *keyring {
	tb.Helper()
	k := &keyring{id: id}
	var err error
	if k.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		tb.Fatalf("make RSA key: %v", err)
	}
	if k.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		tb.Fatalf("make EC key: %v", err)
	}
	if _, k.ed, err = ed25519.GenerateKey(rand.Reader); err != nil {
		tb.Fatalf("make Ed25519 key: %v", err)
	}
	return k
}

// foreign are keys that no provider ever publishes.
var foreign = sync.OnceValue(func() *keyring { return newKeyring(noTest{}, "foreign") })

// noTest lets keys be made outside of any one test.
type noTest struct{ testing.TB }

func (noTest) Helper()                   {}
func (noTest) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

// keys are the public ones, as a JWK set lists them.
func (k *keyring) keys() []jose.JSONWebKey {
	return []jose.JSONWebKey{
		{Key: k.rsa.Public(), KeyID: k.id + "-RS256", Algorithm: "RS256", Use: "sig"},
		{Key: k.ec.Public(), KeyID: k.id + "-ES256", Algorithm: "ES256", Use: "sig"},
		{Key: k.ed.Public(), KeyID: k.id + "-EdDSA", Algorithm: "EdDSA", Use: "sig"},
	}
}

// MintOption changes a JWT from how a good issuer makes it.
type MintOption func(*minting)

type minting struct {
	alg     string
	header  map[string]any
	foreign bool
}

// Alg signs by RS256 (the default), ES256, EdDSA, "none" (which leaves the
// signature empty), or HS256 with the RSA public key in PEM as the secret: the
// key confusion that a careless verifier falls for.
func Alg(alg string) MintOption { return func(m *minting) { m.alg = alg } }

// Header sets a member of the JOSE header, also "alg" or "kid"; nil leaves it out.
func Header(name string, value any) MintOption {
	return func(m *minting) { m.header[name] = value }
}

// WrongKey signs with a key that is not the issuer's, under the issuer's key id.
func WrongKey() MintOption { return func(m *minting) { m.foreign = true } }

// sign makes a compact JWS of claims.
func (k *keyring) sign(tb testing.TB, claims map[string]any, opts []MintOption) string {
	tb.Helper()
	m := &minting{alg: "RS256", header: map[string]any{}}
	for _, o := range opts {
		o(m)
	}
	header := map[string]any{"alg": m.alg, "typ": "JWT"}
	switch m.alg {
	case "none":
	case "HS256":
		header["kid"] = k.id + "-RS256"
	default:
		header["kid"] = k.id + "-" + m.alg
	}
	maps.Copy(header, m.header)
	maps.DeleteFunc(header, func(_ string, v any) bool { return v == nil })
	input := segment(tb, header) + "." + segment(tb, claims)
	with := k
	if m.foreign {
		with = foreign()
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(with.signature(tb, m.alg, input))
}

func (k *keyring) signature(tb testing.TB, alg, input string) []byte {
	tb.Helper()
	digest := sha256.Sum256([]byte(input))
	var sig []byte
	var err error
	switch alg {
	case "none":
	case "RS256":
		sig, err = rsa.SignPKCS1v15(rand.Reader, k.rsa, crypto.SHA256, digest[:])
	case "ES256": // RFC 7518 section 3.4: r and s, 32 bytes each
		r, s, e := ecdsa.Sign(rand.Reader, k.ec, digest[:])
		if err = e; err == nil {
			sig = make([]byte, 64)
			r.FillBytes(sig[:32])
			s.FillBytes(sig[32:])
		}
	case "EdDSA":
		sig = ed25519.Sign(k.ed, []byte(input))
	case "HS256":
		mac := hmac.New(sha256.New, publicPEM(tb, &k.rsa.PublicKey))
		mac.Write([]byte(input))
		sig = mac.Sum(nil)
	default:
		tb.Fatalf("mint: algorithm %q is not known", alg)
	}
	if err != nil {
		tb.Fatalf("mint: sign: %v", err)
	}
	return sig
}

func publicPEM(tb testing.TB, key *rsa.PublicKey) []byte {
	tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		tb.Fatalf("mint: encode public key: %v", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func segment(tb testing.TB, v any) string {
	tb.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		tb.Fatalf("mint: encode: %v", err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// numericDate is RFC 7519 section 2: seconds since 1970.
func numericDate(t time.Time) int64 { return t.Unix() }

// verified checks a JWT's signature by a key set and returns its claims. The key
// is the one that the header names; a header without one is refused.
func verified(raw string, keys jose.JSONWebKeySet, algs ...jose.SignatureAlgorithm) (map[string]any, error) {
	token, err := jwt.ParseSigned(raw, algs)
	if err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	if len(token.Headers) != 1 || token.Headers[0].KeyID == "" {
		return nil, fmt.Errorf("no key is named")
	}
	known := keys.Key(token.Headers[0].KeyID)
	if len(known) != 1 {
		return nil, fmt.Errorf("key %q is not known", token.Headers[0].KeyID)
	}
	claims := map[string]any{}
	if err := token.Claims(known[0].Key, &claims); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	return claims, nil
}

// moment reads a NumericDate claim.
func moment(claims map[string]any, name string) (time.Time, bool) {
	switch n := claims[name].(type) {
	case float64:
		return time.Unix(int64(n), 0), true
	case json.Number:
		if f, err := n.Float64(); err == nil {
			return time.Unix(int64(f), 0), true
		}
	}
	return time.Time{}, false
}

// audiences reads an aud claim, a string or several.
func audiences(claims map[string]any) []string {
	switch aud := claims["aud"].(type) {
	case string:
		return []string{aud}
	case []any:
		var all []string
		for _, a := range aud {
			if s, ok := a.(string); ok {
				all = append(all, s)
			}
		}
		return all
	}
	return nil
}

// halfHash is OpenID Connect's at_hash (Core section 3.1.3.6) for SHA-256.
func halfHash(token string) string {
	digest := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(digest[:len(digest)/2])
}

// challengeOf is RFC 7636 section 4.2, S256.
func challengeOf(verifier string) string {
	digest := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(digest[:])
}

// pkceText reports whether s could be a code verifier or challenge (RFC 7636 section 4.1).
func pkceText(s string) bool {
	return len(s) >= 43 && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._~", r)
	})
}
