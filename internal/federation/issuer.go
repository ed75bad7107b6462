package federation

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/oklog/ulid/v2"
)

// IssuerConfig is the gateway as an OpenID Connect issuer.
type IssuerConfig struct {
	// URL is the "iss" of what it signs: https, or http on loopback. Google
	// fetches the keys below it, or is given them when the provider is made.
	URL string
	// Gateway is this gateway's name, which each assertion carries.
	Gateway string
	// KeyFile signs: a private key in PEM, RSA of 2048 bits or more (RS256) or EC
	// P-256 (ES256), which are what Google takes.
	KeyFile string
	// MoreKeyFiles are published and do not sign: the next key some time before
	// it takes KeyFile's place, the last one until what it signed has ended. Public
	// keys do.
	MoreKeyFiles []string
	TTL          time.Duration // of an assertion; default 10 min, at most 1 h
	// Now is for tests. Optional.
	Now func() time.Time
}

// Bounds of an issuer.
const (
	defaultAssertionTTL = 10 * time.Minute
	maxAssertionTTL     = time.Hour
	maxKeyFiles         = 11
)

// Issuer signs who calls, for a workload identity pool to believe. It is safe for
// concurrent use.
type Issuer struct {
	conf IssuerConfig
	keys atomic.Pointer[issuerKeys]
}

// issuerKeys never change; Reload puts others in their place.
type issuerKeys struct {
	signer    jose.Signer
	jwks      []byte
	discovery []byte
}

// NewIssuer reads the keys.
func NewIssuer(c IssuerConfig) (*Issuer, error) {
	c.URL = strings.TrimSuffix(c.URL, "/")
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		(u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname()))) {
		return nil, fmt.Errorf("issuer URL %q: want https://host[/path]", c.URL)
	}
	if c.TTL == 0 {
		c.TTL = defaultAssertionTTL
	}
	if c.TTL < time.Minute || c.TTL > maxAssertionTTL {
		return nil, fmt.Errorf("issuer TTL %s: want %s to %s", c.TTL, time.Minute, maxAssertionTTL)
	}
	if len(c.MoreKeyFiles) >= maxKeyFiles {
		return nil, fmt.Errorf("%d more key files are more than %d", len(c.MoreKeyFiles), maxKeyFiles-1)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	i := &Issuer{conf: c}
	if err := i.Reload(); err != nil {
		return nil, err
	}
	return i, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// URL is the "iss" of what it signs.
func (i *Issuer) URL() string { return i.conf.URL }

// Reload reads the key files again. On an error the keys stay as they are.
func (i *Issuer) Reload() error {
	private, err := readSigningKey(i.conf.KeyFile)
	if err != nil {
		return fmt.Errorf("issuer key: %w", err)
	}
	active, err := publicJWK(private)
	if err != nil {
		return fmt.Errorf("issuer key: %s: %w", i.conf.KeyFile, err)
	}
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{active}}
	algorithms := []string{active.Algorithm}
	for _, path := range i.conf.MoreKeyFiles {
		key, err := readAnyKey(path)
		if err != nil {
			return fmt.Errorf("issuer key: %w", err)
		}
		jwk, err := publicJWK(key)
		if err != nil {
			return fmt.Errorf("issuer key: %s: %w", path, err)
		}
		if len(set.Key(jwk.KeyID)) > 0 {
			continue // one key may lie under two names while keys are rotated
		}
		set.Keys = append(set.Keys, jwk)
		if jwk.Algorithm != algorithms[0] && len(algorithms) == 1 {
			algorithms = append(algorithms, jwk.Algorithm)
		}
	}
	next := &issuerKeys{}
	next.signer, err = jose.NewSigner(
		jose.SigningKey{Algorithm: jose.SignatureAlgorithm(active.Algorithm), Key: jose.JSONWebKey{Key: private, KeyID: active.KeyID}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return fmt.Errorf("issuer key: %s cannot sign", i.conf.KeyFile)
	}
	if next.jwks, err = json.Marshal(set); err != nil {
		return fmt.Errorf("encode public keys: %w", err)
	}
	// OpenID Connect Discovery 1.0, section 3; RFC 8414 has the same members.
	next.discovery, err = json.Marshal(map[string]any{
		"issuer":                                i.conf.URL,
		"jwks_uri":                              i.conf.URL + "/.well-known/jwks.json",
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": algorithms,
		"claims_supported":                      []string{"iss", "sub", "aud", "iat", "nbf", "exp", "jti", "agent", "session", "human", "actors", "connection", "gateway"},
	}, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("encode discovery document: %w", err)
	}
	i.keys.Store(next)
	return nil
}

// Discovery is the document at /.well-known/openid-configuration, and JWKS the
// public keys at /.well-known/jwks.json. They are the same until Reload.
func (i *Issuer) Discovery() []byte { return i.keys.Load().discovery }

// JWKS is described at Discovery.
func (i *Issuer) JWKS() []byte { return i.keys.Load().jwks }

// assertionClaims are what the gateway says about a call: nothing that it has not
// verified or decided itself.
type assertionClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	Issued   int64  `json:"iat"`
	Begins   int64  `json:"nbf"`
	Expires  int64  `json:"exp"`
	ID       string `json:"jti"`

	Agent      string   `json:"agent"`
	Session    string   `json:"session,omitempty"`
	Human      string   `json:"human,omitempty"`
	Actors     []string `json:"actors,omitempty"`
	Connection string   `json:"connection,omitempty"`
	Gateway    string   `json:"gateway,omitempty"`
}

// clockAllowance dates an assertion back, for a Google clock that is behind ours.
const clockAllowance = 5 * time.Second

// subjectPrefix keeps agents apart from whatever else may once be signed for.
const subjectPrefix = "agent:"

// Sign returns an assertion for audience that the principal's agent calls, and when
// it ends. Its subject is "agent:" and the agent's name.
func (i *Issuer) Sign(_ context.Context, audience string, r Request) (string, time.Time, error) {
	p := r.principal()
	if p.Agent == "" || audience == "" {
		return "", time.Time{}, errors.New("sign assertion: an agent and an audience are needed")
	}
	now := i.conf.Now().UTC()
	id, err := ulid.New(ulid.Timestamp(now), rand.Reader)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign assertion: make an id: %w", err)
	}
	expires := now.Add(i.conf.TTL).Truncate(time.Second)
	begins := now.Add(-clockAllowance).Unix()
	payload, err := json.Marshal(assertionClaims{
		Issuer: i.conf.URL, Subject: subjectPrefix + p.Agent, Audience: audience,
		Issued: begins, Begins: begins, Expires: expires.Unix(), ID: "asr_" + strings.ToLower(id.String()),
		Agent: p.Agent, Session: r.Session, Human: p.Human, Actors: p.Actors,
		Connection: r.Connection, Gateway: i.conf.Gateway,
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign assertion: %w", err)
	}
	signed, err := i.keys.Load().signer.Sign(payload)
	if err != nil {
		return "", time.Time{}, errors.New("sign assertion: the key does not sign")
	}
	jwt, err := signed.CompactSerialize()
	if err != nil {
		return "", time.Time{}, errors.New("sign assertion: it cannot be encoded")
	}
	return jwt, expires, nil
}
