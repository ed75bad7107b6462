package assertion

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"golang.org/x/sync/singleflight"
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
	minRSA   = 2048 // bits
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
	conf Issuer
	log  *slog.Logger
	now  func() time.Time
	one  singleflight.Group

	mu         sync.Mutex // guards what follows
	keys       []jose.JSONWebKey
	generation uint64    // changes with the keys
	fetched    time.Time // when keys were had last
	fresh      time.Time // until then they are not asked for again
	tried      time.Time // when they were asked for last
	mtime      time.Time // of JWKSFile
	size       int64
}

func newKeySet(conf Issuer, c Config) (*keySet, error) {
	s := &keySet{conf: conf, log: c.Log, now: c.Now}
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

// version tells whether keys have changed.
func (s *keySet) version() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generation
}

// find returns the key of a token's header: the one of that id, or where the
// token names none the only one that fits. It waits for the issuer only where it
// has no such key.
func (s *keySet) find(ctx context.Context, kid, algorithm string) (any, error) {
	if s.conf.JWKSFile != "" {
		if err := s.refreshFile(); err != nil {
			s.log.WarnContext(ctx, "an issuer's key file cannot be read; the keys in use stay", "issuer", s.conf.Name, "err", err)
		}
		return s.pick(kid, algorithm)
	}
	s.mu.Lock()
	now := s.now()
	have, stale, usable := len(s.keys) > 0, !now.Before(s.fresh), now.Sub(s.fetched) < keepLast
	mayTry := s.tried.IsZero() || now.Sub(s.tried) >= unknownEvery
	s.mu.Unlock()

	if have && usable {
		key, err := s.pick(kid, algorithm)
		switch {
		case err == nil && !stale:
			return key, nil
		case err == nil:
			if mayTry { // nobody waits for it
				go func() { _ = s.fetch(context.WithoutCancel(ctx)) }() // logged there
			}
			return key, nil
		case !mayTry:
			return nil, err
		}
	} else if !mayTry {
		return nil, ErrUnavailable
	}
	if err := s.fetch(ctx); err != nil {
		if have && usable {
			return s.pick(kid, algorithm)
		}
		return nil, ErrUnavailable
	}
	return s.pick(kid, algorithm)
}

// pick finds a key among those at hand.
func (s *keySet) pick(kid, algorithm string) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
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

// fetch asks the issuer for its keys: once for all who wait.
func (s *keySet) fetch(ctx context.Context) error {
	done := s.one.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		s.mu.Lock()
		s.tried = s.now()
		s.mu.Unlock()
		raw, age, err := s.download(ctx)
		if err == nil {
			err = s.take(raw, age)
		}
		if err != nil {
			s.log.WarnContext(ctx, "an issuer's keys cannot be had", "issuer", s.conf.Name, "err", err)
		}
		return nil, err
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take puts a key set in place of the one at hand. Keys that are not for
// signatures, or too weak, are left out.
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
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.keys, s.fetched, s.fresh = keys, now, now.Add(age)
	s.generation++
	return nil
}

// jsonValue is a JSON value as it stands.
type jsonValue []byte

func (v *jsonValue) UnmarshalJSON(raw []byte) error {
	*v = append((*v)[:0], raw...)
	return nil
}

// download gets the key set, by way of the metadata where need be.
func (s *keySet) download(ctx context.Context) (raw []byte, age time.Duration, err error) {
	at := s.conf.JWKSURL
	if at == "" {
		meta := s.conf.DiscoveryURL
		if meta == "" {
			if meta, err = wellKnown(s.conf.Issuer); err != nil {
				return nil, 0, err
			}
		}
		doc, _, err := s.get(ctx, meta)
		if err != nil {
			return nil, 0, err
		}
		var m struct {
			Issuer string `json:"issuer"`
			JWKS   string `json:"jwks_uri"`
		}
		if err := json.Unmarshal(doc, &m); err != nil {
			return nil, 0, errors.New("its metadata is not strict JSON")
		}
		if m.Issuer != s.conf.Issuer {
			return nil, 0, errors.New("its metadata is that of another issuer")
		}
		if strings.HasPrefix(meta, "https:") && !strings.HasPrefix(m.JWKS, "https:") {
			return nil, 0, errors.New("its metadata names no https address of keys")
		}
		at = m.JWKS
	}
	return s.get(ctx, at)
}

func (s *keySet) get(ctx context.Context, at string) (raw []byte, age time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, http.NoBody)
	if err != nil {
		return nil, 0, fmt.Errorf("its address: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := s.conf.HTTP.Do(req)
	if err != nil {
		return nil, 0, err
	}
	raw, err = io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	_ = resp.Body.Close() // what was read is what counts
	switch {
	case err != nil:
		return nil, 0, err
	case resp.StatusCode != http.StatusOK:
		return nil, 0, fmt.Errorf("%s answers %d", req.URL.Redacted(), resp.StatusCode)
	case len(raw) > maxDocument:
		return nil, 0, fmt.Errorf("%s answers with more than %d bytes", req.URL.Redacted(), maxDocument)
	}
	return raw, freshness(resp.Header.Get("Cache-Control")), nil
}

// freshness is how long an answer may be kept, within our bounds.
func freshness(cacheControl string) time.Duration {
	for part := range strings.SplitSeq(cacheControl, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if strings.EqualFold(name, "max-age") {
			if n, err := strconv.ParseInt(value, 10, 32); err == nil {
				return min(max(time.Duration(n)*time.Second, freshLeast), freshMost)
			}
		}
	}
	return freshDefault
}

// refreshFile reads JWKSFile again where it has changed, looking at most once a second.
func (s *keySet) refreshFile() error {
	s.mu.Lock()
	now := s.now()
	due := now.Sub(s.tried) >= time.Second || now.Before(s.tried)
	if due {
		s.tried = now
	}
	mtime, size := s.mtime, s.size
	s.mu.Unlock()
	if !due {
		return nil
	}
	info, err := os.Stat(s.conf.JWKSFile)
	if err != nil {
		return err
	}
	if info.ModTime().Equal(mtime) && info.Size() == size {
		return nil
	}
	return s.readFile()
}

func (s *keySet) readFile() error {
	raw, info, err := readBounded(s.conf.JWKSFile)
	if err != nil {
		return fmt.Errorf("read jwks_file: %w", err)
	}
	if err := s.take(raw, freshMost); err != nil {
		return fmt.Errorf("read jwks_file %s: %w", s.conf.JWKSFile, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mtime, s.size, s.tried = info.ModTime(), info.Size(), s.now()
	return nil
}

// readBounded reads a whole file, and tells which state of it that was.
func readBounded(path string) ([]byte, os.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err == nil && len(raw) > maxDocument {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxDocument)
	}
	return raw, info, err
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

// Issuers are the configured names of the issuers.
func (v *Verifier) Issuers() []string {
	var names []string
	for _, i := range v.issuers {
		names = append(names, i.conf.Name)
	}
	return names
}
