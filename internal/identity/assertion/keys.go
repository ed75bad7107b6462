package assertion

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
)

// Bounds on an issuer's documents and on how often they are asked for.
const (
	fetchTimeout = 10 * time.Second
	maxDocument  = 1 << 20
	maxKeys      = 200
	freshDefault = time.Hour // keys without a Cache-Control of their own
	freshLeast   = 5 * time.Minute
	freshMost    = 24 * time.Hour
	// unknownEvery is how often an unknown key, or a failure, leads to a fetch: a
	// flood of made-up key ids must not become one at the issuer's.
	unknownEvery = 10 * time.Second
	// keepLast is how long keys that were good are used while the issuer is away.
	keepLast = 24 * time.Hour
	// maxWaiting bounds the calls that wait for a fetch, lest an issuer that hangs
	// lets strangers pile them up.
	maxWaiting = 1_000
	minRSA     = 2048 // bits
)

// keyKinds are the algorithms there are, and the kind of key each takes. None of
// them shares a secret: with HS256, whoever can check can also sign.
var keyKinds = map[string]string{
	"RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS256": "rsa", "PS384": "rsa", "PS512": "rsa",
	"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "ed25519",
}

// kindOf is the kind of a public key, as keyKinds has it; empty for those that
// are not accepted.
func kindOf(key any) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N != nil && k.N.BitLen() >= minRSA && k.N.BitLen() <= 16<<10 {
			return "rsa"
		}
	case *ecdsa.PublicKey:
		if k.Curve != nil {
			return k.Curve.Params().Name
		}
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return "ed25519"
		}
	}
	return ""
}

// keySet holds an issuer's keys.
type keySet struct {
	conf   Issuer
	client *http.Client
	log    *slog.Logger
	now    func() time.Time

	mu         sync.Mutex // guards what follows
	keys       []jose.JSONWebKey
	digest     [sha256.Size]byte // of keys
	generation uint64            // changes with the keys
	fetched    time.Time         // when keys were had last
	fresh      time.Time         // until then they are not asked for again
	tried      time.Time         // when they were asked for last
	failed     bool              // and whether that failed
	flight     *flight           // a fetch that is under way; nil for none
	waiting    int               // calls that wait for it
	mtime      time.Time         // of JWKSFile
	size       int64
}

// flight is one fetch, for all who wait for it.
type flight struct {
	done chan struct{} // closed at its end
	err  error         // set by then
}

func newKeySet(conf Issuer, c Config) (*keySet, error) {
	client := *conf.HTTP // whoever made it: keys are an issuer's only where it was asked for them
	client.CheckRedirect = noRedirects
	s := &keySet{conf: conf, client: &client, log: c.Log, now: c.Now}
	ways := 0
	for _, w := range []string{conf.DiscoveryURL, conf.JWKSURL, conf.JWKSFile} {
		if w != "" {
			ways++
		}
	}
	switch {
	case ways > 1:
		return nil, errors.New("name one of discovery_url, jwks_url and jwks_file")
	case conf.JWKSFile != "":
		if err := s.readFile(); err != nil {
			return nil, err
		}
	case ways == 0:
		if _, err := wellKnown(conf.Issuer); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func noRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// version tells whether keys have changed. Of a file it looks at the file, so
// that what was verified by a key ends with the key.
func (s *keySet) version() uint64 {
	s.refreshFile()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generation
}

// find returns the key of a token's header: the one of that id, or where the
// token names none the only one that fits. It waits for the issuer only where it
// has no such key, and asks only where nobody did just now.
func (s *keySet) find(ctx context.Context, kid, algorithm string) (any, error) {
	if s.conf.JWKSFile != "" {
		s.refreshFile()
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.pickLocked(kid, algorithm)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	key, err := s.atHandLocked(kid, algorithm, now)
	if err == nil && now.Before(s.fresh) {
		return key, nil
	}
	f := s.flight
	if f == nil && (s.tried.IsZero() || now.Sub(s.tried) >= unknownEvery) {
		f = s.startLocked(ctx)
	}
	switch {
	case err == nil: // nobody waits for fresher keys
		return key, nil
	case f == nil:
		return nil, err
	case s.waiting >= maxWaiting:
		return nil, ErrUnavailable
	}
	s.waiting++
	s.mu.Unlock()
	select {
	case <-f.done:
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.waiting--
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	return s.atHandLocked(kid, algorithm, s.now())
}

// atHandLocked finds a key among those at hand. What is not among them may be
// among the issuer's where it could not be asked.
func (s *keySet) atHandLocked(kid, algorithm string, now time.Time) (any, error) {
	if len(s.keys) == 0 || now.Sub(s.fetched) >= keepLast {
		return nil, ErrUnavailable
	}
	key, err := s.pickLocked(kid, algorithm)
	if err != nil && s.failed {
		return nil, ErrUnavailable
	}
	return key, err
}

func (s *keySet) pickLocked(kid, algorithm string) (any, error) {
	var found any
	for _, k := range s.keys {
		if kid != "" && k.KeyID != kid || k.Algorithm != "" && k.Algorithm != algorithm {
			continue
		}
		if kindOf(k.Key) != keyKinds[algorithm] {
			continue
		}
		if found != nil { // two of one id, or several and no id
			return nil, ErrKey
		}
		found = k.Key
	}
	if found == nil {
		return nil, ErrKey
	}
	return found, nil
}

// startLocked asks the issuer for its keys, for all who want them. It ends by
// itself, within fetchTimeout; that a caller leaves does not end it.
func (s *keySet) startLocked(ctx context.Context) *flight {
	f := &flight{done: make(chan struct{})}
	s.flight, s.tried = f, s.now()
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		raw, age, err := s.download(ctx)
		if err == nil {
			err = s.take(raw, age)
		}
		if err != nil {
			s.log.WarnContext(ctx, "an issuer's keys cannot be had", "issuer", s.conf.Name, "err", err)
		}
		s.mu.Lock()
		s.flight, s.failed = nil, err != nil
		s.mu.Unlock()
		f.err = err
		close(f.done)
	}()
	return f
}

// fetch asks the issuer for its keys now, or waits for the answer if it was asked.
func (s *keySet) fetch(ctx context.Context) error {
	s.mu.Lock()
	f := s.flight
	if f == nil {
		f = s.startLocked(ctx)
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take puts a key set in place of the one at hand. Keys that are not for
// signatures, or too weak, are left out. The same keys again are no change: what
// was verified by them stays remembered, whoever made us ask.
func (s *keySet) take(raw []byte, age time.Duration) error {
	var set struct {
		Keys []jsonValue `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return errors.New("its key set is not strict JSON")
	}
	if len(set.Keys) > maxKeys {
		return fmt.Errorf("its key set has more than %d keys", maxKeys)
	}
	var keys []jose.JSONWebKey
	for _, one := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(one) != nil || k.Use != "" && k.Use != "sig" && k.Use != "jwt-svid" || !k.IsPublic() || kindOf(k.Key) == "" {
			continue // of a kind that is not for us, which is no mistake
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return errors.New("its key set has no key that can be used")
	}
	digest := digestOf(keys)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.fetched, s.fresh = now, now.Add(age)
	if s.generation == 0 || s.digest != digest {
		s.keys, s.digest = keys, digest
		s.generation++
	}
	return nil
}

// digestOf is a digest of keys, with all that pickLocked looks at, in any order.
func digestOf(keys []jose.JSONWebKey) [sha256.Size]byte {
	var each []string
	for _, k := range keys {
		thumb, err := k.Thumbprint(crypto.SHA256) // RFC 7638
		each = append(each, fmt.Sprintf("%q %q %x %v", k.KeyID, k.Algorithm, thumb, err))
	}
	slices.Sort(each)
	return sha256.Sum256([]byte(strings.Join(each, "\n")))
}

// jsonValue is a JSON value as it stands.
type jsonValue []byte

func (v *jsonValue) UnmarshalJSON(raw []byte) error {
	*v = append((*v)[:0], raw...)
	return nil
}

// Check asks whether an issuer's keys can be had now, for diagnosis. The name is
// the configured one; unknown names are an error.
func (v *Verifier) Check(ctx context.Context, name string) error {
	for _, i := range v.issuers {
		if i.conf.Name != name {
			continue
		}
		if i.conf.JWKSFile != "" {
			return i.keys.readFile()
		}
		return i.keys.fetch(ctx)
	}
	return fmt.Errorf("no issuer is called %q", name)
}

// Issuers are the configured names of the issuers, sorted.
func (v *Verifier) Issuers() []string {
	var names []string
	for _, i := range v.issuers {
		names = append(names, i.conf.Name)
	}
	slices.Sort(names)
	return names
}
