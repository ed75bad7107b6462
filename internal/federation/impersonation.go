package federation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ImpersonationConfig is for mode "impersonation".
type ImpersonationConfig struct {
	Connection string
	// Base mints for the accounts: it needs the role Service Account Token Creator
	// on each, or on the first of Delegates.
	Base Base
	// Template is the account's e-mail with {agent}, {project} and {connection} in
	// it; Map names it for single agents, and wins. One of them is required.
	Template string
	Map      map[string]string
	// Delegates are the accounts in between, in order: each may mint for the next.
	Delegates []string
	Scopes    []string      // default [Scope]
	Lifetime  time.Duration // of a token; default 1 h, at most 12 h
	Endpoints Endpoints
}

// Impersonation mints a service account's token for each agent, by the gateway's own
// credential. The errors are about the configuration; Google is not asked yet.
func Impersonation(c ImpersonationConfig) (Source, error) {
	to, err := newAccounts(c.Connection, c.Template, c.Map)
	if err != nil {
		return nil, err
	}
	if !to.on() {
		return nil, errors.New("service_account is missing, such as agent-{agent}@{project}.iam.gserviceaccount.com")
	}
	if err := checkDelegates(c.Delegates); err != nil {
		return nil, err
	}
	lifetime, err := lifetimeOf(c.Lifetime)
	if err != nil {
		return nil, err
	}
	base, err := newBase(c.Base, []string{scopeCloud}, c.Endpoints)
	if err != nil {
		return nil, err
	}
	s := &impersonation{
		connection: c.Connection, base: base, to: to, delegates: slices.Clone(c.Delegates),
		scopes: scopesOf(c.Scopes), lifetime: lifetime, ends: c.Endpoints.withDefaults(),
	}
	s.cache = newCache(s.mint)
	return s, nil
}

func checkDelegates(delegates []string) error {
	if len(delegates) > maxDelegates {
		return fmt.Errorf("delegates: %d are more than %d", len(delegates), maxDelegates)
	}
	for _, d := range delegates {
		if err := checkAccount(d); err != nil {
			return fmt.Errorf("delegates: %w", err)
		}
	}
	return nil
}

func lifetimeOf(d time.Duration) (time.Duration, error) {
	switch {
	case d == 0:
		return defaultLifetime, nil
	case d < minLifetime || d > maxLifetime:
		return 0, fmt.Errorf("lifetime %s: want %s to %s", d, minLifetime, maxLifetime)
	}
	return d, nil
}

func scopesOf(scopes []string) []string {
	if len(scopes) == 0 {
		return []string{Scope}
	}
	return slices.Clone(scopes)
}

type impersonation struct {
	connection string
	base       *baseCredential
	to         *accounts
	delegates  []string
	scopes     []string
	lifetime   time.Duration
	ends       Endpoints
	cache      *cache
}

// Describe says that the account is not the agent's own where all have the same.
func (s *impersonation) Describe() Credential {
	return Credential{Mode: ModeImpersonation, Shared: s.to.plain()}
}

func (s *impersonation) Credential(ctx context.Context, r Request) (Credential, error) {
	return s.cache.get(ctx, s.key(r), r)
}

func (s *impersonation) key(r Request) cacheKey {
	return keyOf(s.connection, r.principal(), "", s.to.target(r), "", "")
}

func (s *impersonation) mint(ctx context.Context, r Request) (Credential, error) {
	account, err := s.to.of(r)
	if err != nil {
		return Credential{}, err
	}
	own, err := s.base.token(ctx)
	if err != nil {
		return Credential{}, s.base.failed(s.connection, err)
	}
	token, expires, err := s.ends.become(ctx, own.Value, account, s.delegates, s.scopes, s.lifetime)
	if err != nil {
		return Credential{}, s.to.refused(r, s.base.member(), account, s.delegates, roleTokenCreator, err)
	}
	return Credential{
		Token: token, Mode: ModeImpersonation, Principal: account, Expires: expires,
		Shared: s.to.shared(r.principal().Agent, account),
	}, nil
}

// Rejected implements [Rejecter].
func (s *impersonation) Rejected(r Request, c Credential) { s.cache.reject(s.key(r), c.Token) }

// Close implements [io.Closer].
func (s *impersonation) Close() error {
	s.cache.close()
	return nil
}
