package federation

import (
	"context"
	"time"

	"github.com/trailgate/trailgate"
)

// Cache is the cache, for tests.
type Cache struct{ c *cache }

func NewCache(mint func(ctx context.Context, r Request) (Credential, error)) Cache {
	return Cache{newCache(mint)}
}

func (c Cache) Get(ctx context.Context, name string) (Credential, error) {
	return c.c.get(ctx, key(name), Request{Connection: "c", Session: name})
}
func (c Cache) Reject(name, token string) { c.c.reject(key(name), token) }
func (c Cache) Close()                    { c.c.close() }
func (c Cache) Len() int                  { return c.c.recent.Len() }

func key(name string) cacheKey { return keyOf(name, &trailgate.Principal{}, "", "", "", "") }

const MaxCached = maxCached

// KeyOf is the key of a credential.
func KeyOf(connection string, p *trailgate.Principal, audience, target, session, assertion string) [32]byte {
	return keyOf(connection, p, audience, target, session, assertion)
}

// SetNow sets the clock of a source.
func SetNow(s Source, now func() time.Time) {
	switch s := s.(type) {
	case *impersonation:
		s.cache.now = now
	case *workload:
		s.cache.now = now
	case *OAuthSource:
		s.cache.now = now
	}
}

// SetFault is called before each step of a write.
func (s *ConsentStore) SetFault(f func(step string) error) { s.fault = f }

// CleanText is what errors do with an outsider's words.
func CleanText(s string, hide ...string) string { return cleanText(s, hide) }
