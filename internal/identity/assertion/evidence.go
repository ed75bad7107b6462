package assertion

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// evidence is what was verified of a credential, and by what, as it is kept for auditors
// (docs/identity.md). It is a function of the credential and of the key alone, so that
// verifying the same one again keeps nothing new.
//
// Of a JWT it has everything but the signature. With the signature it would be the token,
// and the trail, its backups and each bundle a place to steal it from. Header and claims
// are the very texts that were signed: whoever has the signature can check it over them.
type evidence struct {
	Version int    `json:"v"`
	Kind    string `json:"kind"`
	Source  string `json:"source"` // the configured name of who vouches
	SHA256  string `json:"credential_sha256"`

	Header  string         `json:"header,omitempty"`  // of a JWT, decoded
	Payload string         `json:"payload,omitempty"` // its claims, decoded
	Key     jsontext.Value `json:"key,omitempty"`     // the issuer's, which verified it, as a JWK

	// Chain are the certificates that the client presented, and Authorities those that
	// were trusted, DER in base64. Neither is a secret.
	Chain       []string `json:"chain,omitempty"`
	Authorities []string `json:"authorities,omitempty"`
}

// maxAuthorities bounds the authorities in a certificate's evidence.
const maxAuthorities = 100

// keep has evidence made durable, once for as long as a credential is remembered. On
// return its hash may be named; a crash before that leaves evidence that nothing names.
func (v *Verifier) keep(ctx context.Context, e evidence) (string, error) {
	if v.keeper == nil {
		return "", nil
	}
	e.Version = 1
	raw, err := json.Marshal(e)
	if err != nil {
		return "", fmt.Errorf("%w: evidence: %w", ErrUnavailable, err)
	}
	sha, err := v.keeper(ctx, raw)
	if err != nil {
		return "", fmt.Errorf("%w: what was verified cannot be kept: %w", ErrUnavailable, err)
	}
	return sha, nil
}

// keepJWT keeps evidence of a JWT that was verified with a key.
func (v *Verifier) keepJWT(ctx context.Context, raw string, a *Assertion, h header, key any) (string, error) {
	if v.keeper == nil {
		return "", nil
	}
	parts := strings.Split(raw, ".")
	texts := make([]string, 2)
	for i := range texts {
		text, err := base64.RawURLEncoding.Strict().DecodeString(parts[i])
		if err != nil {
			return "", fmt.Errorf("%w: not base64url", ErrMalformed)
		}
		texts[i] = string(text)
	}
	jwk, err := (&jose.JSONWebKey{Key: key, KeyID: h.KeyID, Algorithm: h.Algorithm, Use: "sig"}).MarshalJSON()
	if err != nil {
		return "", fmt.Errorf("%w: evidence: %w", ErrUnavailable, err)
	}
	return v.keep(ctx, evidence{Kind: ModeJWT, Source: a.Source, SHA256: a.SHA256, Header: texts[0], Payload: texts[1], Key: jsontext.Value(jwk)})
}

// keepChain keeps evidence of a client's certificates.
func (v *Verifier) keepChain(a *Assertion, chain, roots []*x509.Certificate) (string, error) {
	if v.keeper == nil {
		return "", nil
	}
	e := evidence{Kind: ModeCertificate, Source: a.Source, SHA256: a.SHA256}
	for _, c := range chain {
		e.Chain = append(e.Chain, base64.StdEncoding.EncodeToString(c.Raw))
	}
	for _, c := range roots[:min(len(roots), maxAuthorities)] {
		e.Authorities = append(e.Authorities, base64.StdEncoding.EncodeToString(c.Raw))
	}
	return v.keep(context.Background(), e)
}
