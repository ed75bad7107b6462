package assertion

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
)

// Bounds of a JWT and of what is taken out of one.
const (
	maxJWT       = 16 << 10 // bytes
	maxName      = 512      // bytes of an issuer, subject, actor or human
	maxAudiences = 50
	maxMayAct    = 20
	maxScopes    = 100 // connections; as gateway tokens have at most
	maxSkew      = 5 * time.Minute
	rememberFor  = 5 * time.Minute // a JWT that was verified
)

// issuer is a configured issuer, ready.
type issuer struct {
	conf       Issuer
	algorithms []jose.SignatureAlgorithm
	rules      *rules
	keys       *keySet
}

func newIssuer(conf Issuer, c Config) (*issuer, error) {
	if conf.Issuer == "" || len(conf.Audiences) == 0 || slices.Contains(conf.Audiences, "") {
		return nil, errors.New("an issuer needs its name as in \"iss\", and audiences")
	}
	if conf.ClockSkew < 0 || conf.ClockSkew > maxSkew {
		return nil, fmt.Errorf("a clock skew of %s; want at most %s", conf.ClockSkew, maxSkew)
	}
	if conf.MaxLifetime <= 0 {
		conf.MaxLifetime = 24 * time.Hour
	}
	if len(conf.Algorithms) == 0 {
		conf.Algorithms = []string{"RS256", "ES256"}
	}
	if conf.HTTP == nil {
		conf.HTTP = c.HTTP
	}
	i := &issuer{conf: conf}
	for _, name := range conf.Algorithms {
		if keyKinds[name] == "" {
			return nil, fmt.Errorf("the algorithm %q is not accepted; those that are sign with a private key", name)
		}
		i.algorithms = append(i.algorithms, jose.SignatureAlgorithm(name))
	}
	var err error
	if i.rules, err = newRules("claims", conf.Map); err != nil {
		return nil, err
	}
	i.keys, err = newKeySet(conf, c)
	return i, err
}

// header is a JOSE header. Members that name or carry keys are refused rather
// than ignored: somebody hoped that they would be followed.
type header struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Type      string `json:"typ"`
	Content   string `json:"cty"`

	JWK      any `json:"jwk"`
	JKU      any `json:"jku"`
	X5C      any `json:"x5c"`
	X5U      any `json:"x5u"`
	Critical any `json:"crit"`
	B64      any `json:"b64"`
	Zip      any `json:"zip"`
	Enc      any `json:"enc"`
}

// JWT verifies a JWT in compact form. Errors are this package's, and tell
// nothing of what the token says but its issuer's configured name.
func (v *Verifier) JWT(ctx context.Context, raw string) (Assertion, error) {
	if len(raw) > maxJWT {
		return Assertion{}, fmt.Errorf("%w: larger than %d bytes", ErrMalformed, maxJWT)
	}
	// Decoders of base64 skip line breaks; what is verified here must be what others
	// read in it, byte for byte.
	if strings.ContainsFunc(raw, func(r rune) bool { return !inJWT(r) }) {
		return Assertion{}, fmt.Errorf("%w: a character that no JWT has", ErrMalformed)
	}
	sum := sha256.Sum256([]byte(raw))
	now := v.now()
	if a, ok := v.seen.get(sum, now); ok {
		return a, nil
	}
	h, claims, err := split(raw)
	if err != nil {
		return Assertion{}, err
	}
	// The issuer is looked up by what the token says, and then has to have signed it.
	iss, _ := claims["iss"].(string)
	i := v.issuers[iss]
	if iss == "" || i == nil {
		return Assertion{}, ErrIssuer
	}
	key, generation, err := i.verify(ctx, raw, h)
	if err != nil {
		return Assertion{}, err
	}
	a, until, err := i.read(claims, now)
	if err != nil {
		return Assertion{}, err
	}
	a.SHA256, a.Token = hex.EncodeToString(sum[:]), raw
	if err := i.rules.apply(&a, claims); err != nil {
		return Assertion{}, err
	}
	if a.Evidence, err = v.keepJWT(ctx, raw, &a, h, key); err != nil {
		return Assertion{}, err
	}
	v.seen.put(sum, a, i.keys, generation, earliest(until, now.Add(rememberFor)))
	return a, nil
}

// inJWT reports whether a character can stand in a compact JWS (RFC 7515, section 3.1).
func inJWT(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.'
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// split takes a compact JWS apart and reads header and claims strictly: repeated
// names, bad UTF-8 and anything behind the object are refused, so that no two
// readers can differ about what was signed.
func split(raw string) (header, map[string]any, error) {
	parts := strings.SplitN(raw, ".", 4)
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" {
		return header{}, nil, fmt.Errorf("%w: not a signed JWT in compact form", ErrMalformed)
	}
	var h header
	var claims map[string]any
	for n, out := range []any{&h, &claims} {
		decoded, err := base64.RawURLEncoding.Strict().DecodeString(parts[n])
		if err != nil {
			return header{}, nil, fmt.Errorf("%w: not base64url", ErrMalformed)
		}
		if err := json.Unmarshal(decoded, out); err != nil {
			return header{}, nil, fmt.Errorf("%w: its JSON is not strict", ErrMalformed)
		}
	}
	// Loosely read, a signature has several spellings, and one credential several digests.
	if _, err := base64.RawURLEncoding.Strict().DecodeString(parts[2]); err != nil {
		return header{}, nil, fmt.Errorf("%w: not base64url", ErrMalformed)
	}
	switch {
	case claims == nil:
		return header{}, nil, fmt.Errorf("%w: no claims", ErrMalformed)
	case h.JWK != nil, h.JKU != nil, h.X5C != nil, h.X5U != nil:
		return header{}, nil, fmt.Errorf("%w: a key in the token, or an address of one, is not accepted", ErrKey)
	case h.Critical != nil, h.B64 != nil, h.Zip != nil, h.Enc != nil, h.Content != "":
		return header{}, nil, fmt.Errorf("%w: a header that is not understood", ErrMalformed)
	}
	switch strings.ToLower(strings.TrimPrefix(h.Type, "application/")) {
	case "", "jwt", "at+jwt", "jose": // the last by the JWT-SVID specification, section 2.2
	default:
		return header{}, nil, fmt.Errorf("%w: a token of another type", ErrMalformed)
	}
	return h, claims, nil
}

// verify checks the signature by one of the issuer's keys, and tells by which, and of
// which generation they were.
func (i *issuer) verify(ctx context.Context, raw string, h header) (key any, generation uint64, err error) {
	if !slices.Contains(i.conf.Algorithms, h.Algorithm) {
		return nil, 0, ErrAlgorithm
	}
	if strings.HasSuffix(raw, ".") {
		return nil, 0, fmt.Errorf("%w: there is none", ErrSignature)
	}
	// Read before the key: should the keys change in between, the token is verified
	// once more than needed, and never remembered under keys that did not verify it.
	generation = i.keys.version()
	key, err = i.keys.find(ctx, h.KeyID, h.Algorithm)
	if err != nil {
		return nil, 0, err
	}
	sig, err := jose.ParseSignedCompact(raw, i.algorithms)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: not a signed JWT", ErrMalformed)
	}
	if _, err := sig.Verify(key); err != nil {
		return nil, 0, ErrSignature
	}
	return key, generation, nil
}

// read checks the claims of a token whose signature holds. until is when it
// ends, skew included.
func (i *issuer) read(claims map[string]any, now time.Time) (a Assertion, until time.Time, err error) {
	skew := i.conf.ClockSkew
	exp, err := date(claims, "exp", true)
	if err != nil {
		return a, until, err
	}
	iat, err := date(claims, "iat", false)
	if err != nil {
		return a, until, err
	}
	nbf, err := date(claims, "nbf", false)
	if err != nil {
		return a, until, err
	}
	until = exp.Add(skew)
	began := iat
	if began.IsZero() {
		began = nbf
	}
	switch {
	case !now.Before(until):
		return a, until, ErrExpired
	case now.Add(skew).Before(nbf), now.Add(skew).Before(iat):
		return a, until, ErrNotYet
	case began.IsZero() && exp.Sub(now) > i.conf.MaxLifetime+skew, !began.IsZero() && exp.Sub(began) > i.conf.MaxLifetime:
		return a, until, fmt.Errorf("%w: it lives longer than this issuer's tokens may (%s)", ErrExpired, i.conf.MaxLifetime)
	}
	if err := i.audience(claims["aud"]); err != nil {
		return a, until, err
	}
	sub, ok := claims["sub"].(string)
	if !ok || sub == "" || !plain(sub) {
		return a, until, fmt.Errorf("%w: no subject that can be recorded", ErrMalformed)
	}
	a = Assertion{
		Mode: ModeJWT, Source: i.conf.Name, Issuer: i.conf.Issuer, Subject: sub, Provision: i.conf.Provision, Issued: began, Expires: exp,
	}
	if id, ok := claims["jti"].(string); ok && plain(id) {
		a.ID = id
	}
	if a.Actors, err = actors(claims["act"]); err != nil {
		return a, until, err
	}
	a.MayAct, err = mayAct(claims["may_act"])
	return a, until, err
}

// audience checks that the token is for this gateway.
func (i *issuer) audience(aud any) error {
	switch aud := aud.(type) {
	case string:
		if slices.Contains(i.conf.Audiences, aud) {
			return nil
		}
	case []any:
		if len(aud) > maxAudiences {
			return fmt.Errorf("%w: more than %d audiences", ErrMalformed, maxAudiences)
		}
		for _, one := range aud {
			if s, ok := one.(string); ok && slices.Contains(i.conf.Audiences, s) {
				return nil
			}
		}
	}
	return ErrAudience
}

// date reads a NumericDate (RFC 7519, section 2).
func date(claims map[string]any, name string, required bool) (time.Time, error) {
	v, ok := claims[name]
	if !ok && !required {
		return time.Time{}, nil
	}
	n, ok := v.(float64)
	if !ok || math.IsNaN(n) || n < 0 || n > 1<<40 {
		return time.Time{}, fmt.Errorf("%w: %s is not a time", ErrMalformed, name)
	}
	whole, part := math.Modf(n)
	return time.Unix(int64(whole), int64(part*1e9)).UTC(), nil
}

// actors reads a chain of "act" claims, nearest first.
func actors(act any) ([]string, error) {
	var chain []string
	for act != nil {
		m, ok := act.(map[string]any)
		if !ok || len(chain) == MaxDepth {
			return nil, ErrChain
		}
		name, err := party(m)
		if err != nil {
			return nil, err
		}
		chain = append(chain, name)
		act = m["act"]
	}
	return chain, nil
}

// mayAct reads who may act for the subject: one party, or a list.
func mayAct(v any) ([]string, error) {
	var list []any
	switch v := v.(type) {
	case nil:
		return nil, nil
	case map[string]any:
		list = []any{v}
	case []any:
		list = v
	}
	if len(list) == 0 || len(list) > maxMayAct {
		return nil, fmt.Errorf("%w: may_act", ErrChain)
	}
	var names []string
	for _, one := range list {
		m, ok := one.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%w: may_act", ErrChain)
		}
		name, err := party(m)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// party names somebody by "sub", or by "iss|sub".
func party(m map[string]any) (string, error) {
	sub, ok := m["sub"].(string)
	if !ok || sub == "" || !plain(sub) {
		return "", ErrChain
	}
	iss, has := m["iss"]
	if !has {
		return sub, nil
	}
	name, ok := iss.(string)
	if !ok || name == "" || !plain(name) {
		return "", ErrChain
	}
	return name + "|" + sub, nil
}

// plain reports whether a name can stand in an entry, a message and a terminal.
func plain(s string) bool {
	return len(s) <= maxName && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) })
}

// wellKnown is where an issuer's metadata is (OpenID Connect Discovery 1.0, section 4).
func wellKnown(issuer string) (string, error) {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%q is no address; say with jwks_url, jwks_file or discovery_url where its keys are", issuer)
	}
	return strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration", nil
}
