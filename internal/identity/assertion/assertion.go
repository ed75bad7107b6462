// Package assertion verifies what other parties say about who calls: JWTs of
// OpenID Connect issuers and X.509 client certificates, SPIFFE's of both kinds
// among them. What holds is mapped by CEL to an agent, a human and connections.
//
// It verifies and maps. Whether the agent exists, and what it may do, is for
// others to say; it stores nothing itself, hands out what was verified to be kept
// for auditors, and passes on nothing of what failed.
//
// Verification follows RFC 7515 (JWS), RFC 7519 (JWT), RFC 8725 (JWT best
// practices), OpenID Connect Core and Discovery 1.0, RFC 8693 ("act", "may_act")
// and the SPIFFE X.509-SVID specification.
package assertion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/trailgate/trailgate/internal/mapping"
)

// Why a credential is not accepted, for errors.Is.
var (
	ErrMalformed   = errors.New("malformed credential")
	ErrIssuer      = errors.New("no such issuer is configured")
	ErrAudience    = errors.New("the token is for another audience")
	ErrExpired     = errors.New("the token has expired")
	ErrNotYet      = errors.New("the token is not valid yet")
	ErrSignature   = errors.New("the signature does not hold")
	ErrAlgorithm   = errors.New("the algorithm is not accepted")
	ErrKey         = errors.New("the issuer has no such key")
	ErrChain       = errors.New("the chain of actors cannot be read, or is too deep")
	ErrMapping     = errors.New("the map does not accept it")
	ErrUnavailable = errors.New("the issuer's keys cannot be had at the moment")
	ErrCertificate = errors.New("the certificate is not accepted")
)

// How the caller was verified, an Assertion's Mode; as in entries.
const (
	ModeJWT         = "oidc_jwt"
	ModeCertificate = "client_certificate"
)

// MaxDepth bounds a chain of actors (RFC 8693, section 4.1).
const MaxDepth = 8

// Map holds CEL expressions over "claims" (of a JWT) or "cert" (spiffe_id,
// trust_domain, path, uris, dns_names, emails, common_name, organization,
// serial, sha256). Empty ones say nothing.
type Map struct {
	When        string // bool: whether to accept it at all
	Agent       string // text; empty where the issuer tells of humans alone
	Human       string // text; an empty result means nobody
	Connections string // list of texts: what it may be used for
}

// Issuer is a party whose JWTs are taken.
type Issuer struct {
	Name      string   // for people
	Issuer    string   // the exact "iss"
	Audiences []string // one of which a token must name
	// DiscoveryURL, JWKSURL and JWKSFile say where its keys are. Optional, at most
	// one; default: DiscoveryURL below Issuer.
	DiscoveryURL, JWKSURL, JWKSFile string

	HTTP        *http.Client  // Optional; redirects are never followed.
	Algorithms  []string      // Default: RS256, ES256.
	ClockSkew   time.Duration // At most 5 minutes.
	MaxLifetime time.Duration // of a token, from "iat" to "exp". Default: 24 h.
	Map         Map
	Provision   bool // it may name agents that are not known yet
}

// Certificates are the client certificates of one authority.
type Certificates struct {
	Name        string
	TrustDomain string // of SPIFFE; where it is set, certificates must be X.509-SVIDs of it
	BundleFile  string // PEM, or a SPIFFE bundle (JSON) where there is a TrustDomain
	Map         Map
	Provision   bool
}

// Config says whom to believe.
type Config struct {
	Issuers      []Issuer
	Certificates []Certificates
	// Keep makes evidence of a credential that was verified durable, and names it. It is
	// called once for as long as a credential is remembered, before what it proves is
	// returned; its error means ErrUnavailable. Optional.
	Keep func(ctx context.Context, evidence []byte) (sha256 string, err error)
	HTTP *http.Client     // Optional; for issuers without their own.
	Log  *slog.Logger     // Optional.
	Now  func() time.Time // Optional.
}

// Assertion is what a credential proves.
type Assertion struct {
	Mode    string // ModeJWT or ModeCertificate
	Source  string // the configured name of who vouches
	Issuer  string // "iss", or "spiffe://trust-domain", or "x509:" and the configured name
	Subject string // "sub", the SPIFFE id, or the certificate's first name
	Agent   string // mapped; empty where the map has no agent
	Human   string // mapped
	// Actors is the "act" chain, nearest first, each "sub" or "iss|sub".
	Actors []string
	// MayAct are the subjects that the token lets act for it, where it says.
	MayAct []string
	// Connections counts where Scoped is set, also when it is empty.
	Connections []string
	Scoped      bool
	Provision   bool
	ID          string // "jti", or the certificate's serial number
	SHA256      string // of the JWT or the certificate's DER, hex
	Evidence    string // names what Config.Keep was given of it; empty without Keep
	Issued      time.Time
	Expires     time.Time
	Token       string // the JWT itself, secret; empty of certificates
}

// LogValue keeps the token out of every log.
func (a Assertion) LogValue() slog.Value {
	return slog.GroupValue(slog.String("source", a.Source), slog.String("issuer", a.Issuer), slog.String("subject", a.Subject), slog.String("agent", a.Agent))
}

// Verifier verifies. It is safe for concurrent use.
type Verifier struct {
	issuers      map[string]*issuer
	certificates []*authority
	seen         *memory
	now          func() time.Time
	keeper       func(ctx context.Context, evidence []byte) (string, error)
}

// New checks a configuration. It asks no issuer for anything: a start must not
// hang on them.
func New(c Config) (*Verifier, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.HTTP == nil {
		c.HTTP = &http.Client{Timeout: fetchTimeout}
	}
	v := &Verifier{issuers: map[string]*issuer{}, seen: newMemory(maxRemembered, maxRememberedBytes), now: c.Now, keeper: c.Keep}
	for _, conf := range c.Issuers {
		i, err := newIssuer(conf, c)
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", conf.Name, err)
		}
		if v.issuers[conf.Issuer] != nil {
			return nil, fmt.Errorf("issuer %s: %q is configured twice", conf.Name, conf.Issuer)
		}
		v.issuers[conf.Issuer] = i
	}
	for _, conf := range c.Certificates {
		a, err := newAuthority(conf, c)
		if err != nil {
			return nil, fmt.Errorf("certificates %s: %w", conf.Name, err)
		}
		v.certificates = append(v.certificates, a)
	}
	return v, nil
}

// WantsCertificates reports whether a listener should ask clients for one.
func (v *Verifier) WantsCertificates() bool { return len(v.certificates) > 0 }

// rules is a compiled Map.
type rules struct {
	variable    string
	when        *mapping.Expr[bool]
	agent       *mapping.Expr[string]
	human       *mapping.Expr[string]
	connections *mapping.Expr[[]string]
}

func newRules(variable string, m Map) (*rules, error) {
	env, err := mapping.NewEnv(variable)
	if err != nil {
		return nil, err
	}
	r := &rules{variable: variable}
	for _, part := range []struct {
		name, expr string
		compile    func(string) error
	}{
		{"when", m.When, func(s string) (err error) { r.when, err = env.Bool(s); return err }},
		{"agent", m.Agent, func(s string) (err error) { r.agent, err = env.String(s); return err }},
		{"human", m.Human, func(s string) (err error) { r.human, err = env.String(s); return err }},
		{"connections", m.Connections, func(s string) (err error) { r.connections, err = env.Strings(s); return err }},
	} {
		if part.expr == "" {
			continue
		}
		if err := part.compile(part.expr); err != nil {
			return nil, fmt.Errorf("map.%s: %w", part.name, err)
		}
	}
	if r.agent == nil && r.human == nil {
		return nil, errors.New("map.agent: missing; without it, map.human must tell of humans")
	}
	return r, nil
}

// apply fills in what the map makes of a verified credential.
func (r *rules) apply(a *Assertion, value map[string]any) error {
	vars := map[string]any{r.variable: value}
	fail := func(part string, err error) error {
		return fmt.Errorf("%w: %s: map.%s: %w", ErrMapping, a.Source, part, err)
	}
	if r.when != nil {
		switch ok, err := r.when.Eval(vars); {
		case err != nil:
			return fail("when", err)
		case !ok:
			return fmt.Errorf("%w: %s: map.when says no", ErrMapping, a.Source)
		}
	}
	if r.agent != nil {
		name, err := r.agent.Eval(vars)
		if err != nil {
			return fail("agent", err)
		}
		if name == "" {
			return fmt.Errorf("%w: %s: map.agent gives an empty name", ErrMapping, a.Source)
		}
		a.Agent = name
	}
	if r.human != nil {
		name, err := r.human.Eval(vars)
		if err != nil {
			return fail("human", err)
		}
		if !plain(name) {
			return fmt.Errorf("%w: %s: map.human gives a name with control characters, or of more than %d bytes", ErrMapping, a.Source, maxName)
		}
		a.Human = name
	}
	if r.connections != nil {
		list, err := r.connections.Eval(vars)
		if err != nil {
			return fail("connections", err)
		}
		if len(list) > maxScopes || slices.ContainsFunc(list, func(c string) bool { return !plain(c) }) {
			return fmt.Errorf("%w: %s: map.connections gives more than %d names, or such as cannot be recorded", ErrMapping, a.Source, maxScopes)
		}
		a.Connections, a.Scoped = list, true
	}
	return nil
}
