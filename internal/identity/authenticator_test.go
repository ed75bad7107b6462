package identity_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/identity/assertion"
)

// said stands in for package assertion: what it is given as a JWT, and by a
// certificate's common name, it says.
type said struct {
	mu     sync.Mutex
	tokens map[string]assertion.Assertion
	certs  map[string]assertion.Assertion
}

func (s *said) JWT(_ context.Context, raw string) (assertion.Assertion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.tokens[raw]
	if !ok {
		return a, assertion.ErrSignature
	}
	a.Token, a.Mode = raw, assertion.ModeJWT
	return a, nil
}

func (s *said) Certificate(chain []*x509.Certificate) (assertion.Assertion, error) {
	a, ok := s.certs[chain[0].Subject.CommonName]
	if !ok {
		return a, assertion.ErrCertificate
	}
	a.Mode = assertion.ModeCertificate
	return a, nil
}

func cert(name string) []*x509.Certificate {
	c := &x509.Certificate{}
	c.Subject.CommonName = name
	return []*x509.Certificate{c}
}

const idp = "https://idp.example"

func jwtOf(agent, human string) assertion.Assertion {
	return assertion.Assertion{
		Source: "idp", Issuer: idp, Subject: "sa:" + agent + human, Agent: agent, Human: human, SHA256: fmt.Sprintf("%064x", len(agent+human)),
		Expires: time.Now().Add(30 * time.Minute),
	}
}

// callers makes an authenticator with two agents, and says that each has a
// token, a JWT and a certificate.
func callers(t testing.TB, change ...func(*identity.AuthConfig)) (*identity.Authenticator, *identity.Store, *said, map[string]string) {
	t.Helper()
	store, path := open(t)
	s := &said{tokens: map[string]assertion.Assertion{}, certs: map[string]assertion.Assertion{}}
	tokens := map[string]string{}
	for _, name := range []string{"etl-bot", "analyst-bot"} {
		tokens[name], _ = agent(t, store, name)
		s.tokens["a.b."+name] = jwtOf(name, "")
		s.certs[name] = assertion.Assertion{Source: "mesh", Issuer: "spiffe://example.org", Subject: "spiffe://example.org/" + name, Agent: name, Expires: time.Now().Add(time.Hour)}
	}
	s.tokens["h.u.ada"] = jwtOf("", "ada@example.com")
	cfg := identity.AuthConfig{Store: store, Verifier: s, SessionKeyFile: filepath.Join(filepath.Dir(path), "session.key")}
	for _, f := range change {
		f(&cfg)
	}
	a, err := identity.NewAuthenticator(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a, store, s, tokens
}

func bearer(s string) identity.Presented { return identity.Presented{Bearer: s} }

// TestEveryCredential: each says who calls, how that is known, and which calls
// are one session; and ends with the agent, on the next call.
func TestEveryCredential(t *testing.T) {
	a, store, _, tokens := callers(t)
	session, err := a.Exchange(t.Context(), exchange("a.b.etl-bot", identity.TypeJWT))
	if err != nil {
		t.Fatal(err)
	}
	ways := map[string]identity.Presented{
		trailgate.AuthGatewayToken: bearer(tokens["etl-bot"]), trailgate.AuthJWT: bearer("a.b.etl-bot"),
		trailgate.AuthCertificate: {Certificates: cert("etl-bot")}, trailgate.AuthTokenExchange: bearer(session.Token),
	}
	keys := map[string]string{}
	for mode, p := range ways {
		who, err := a.Authenticate(t.Context(), p)
		if err != nil || who.Principal.Agent != "etl-bot" || who.Principal.AuthMode != mode || who.SessionKey == "" || who.Expires.IsZero() {
			t.Errorf("%s: %+v, %v", mode, who.Principal, err)
		}
		keys[mode] = who.SessionKey
	}
	if keys[trailgate.AuthJWT] != keys[trailgate.AuthTokenExchange] || keys[trailgate.AuthJWT] == keys[trailgate.AuthGatewayToken] {
		t.Errorf("sessions: %v", keys)
	}
	if err := store.RevokeAgent("etl-bot"); err != nil {
		t.Fatal(err)
	}
	for mode, p := range ways {
		if _, err := a.Authenticate(t.Context(), p); !errors.Is(err, identity.ErrRevoked) {
			t.Errorf("%s of a revoked agent: %v", mode, err)
		}
	}
	if _, err := a.Exchange(t.Context(), exchange("a.b.etl-bot", identity.TypeJWT)); !errors.Is(err, identity.ErrRevoked) {
		t.Errorf("exchange for a revoked agent: %v", err)
	}
}

func TestWrongCredentials(t *testing.T) {
	a, _, s, tokens := callers(t)
	s.tokens["b.a.d"] = assertion.Assertion{Agent: "Not A Name", Issuer: idp, Subject: "x"}
	s.tokens["new.one.x"] = jwtOf("newcomer", "")
	s.certs["ada"] = assertion.Assertion{Source: "cards", Issuer: "x509:cards", Subject: "ada", Human: "ada@example.com", Expires: time.Now().Add(time.Hour)}
	for name, c := range map[string]struct {
		p    identity.Presented
		want error
	}{
		"nothing":                    {identity.Presented{}, identity.ErrMalformed},
		"no token at all":            {bearer("hello"), identity.ErrMalformed},
		"a JWT nobody signed":        {bearer("x.y.z"), assertion.ErrSignature},
		"a certificate nobody knows": {identity.Presented{Certificates: cert("stranger")}, assertion.ErrCertificate},
		"a name no agent can have":   {bearer("b.a.d"), assertion.ErrMapping},
		"an agent nobody added":      {bearer("new.one.x"), identity.ErrUnknownAgent},
		"humans alone":               {bearer("h.u.ada"), identity.ErrUnknownAgent},
		"two agents at once":         {identity.Presented{Bearer: tokens["etl-bot"], Certificates: cert("analyst-bot")}, identity.ErrConflict},
		"JWT and other certificate":  {identity.Presented{Bearer: "a.b.etl-bot", Certificates: cert("analyst-bot")}, identity.ErrConflict},
	} {
		if who, err := a.Authenticate(t.Context(), c.p); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", name, who.Principal, err, c.want)
		}
	}
	for name, p := range map[string]identity.Presented{
		"the same agent twice":               {Bearer: tokens["etl-bot"], Certificates: cert("etl-bot")},
		"a certificate of a human":           {Bearer: tokens["etl-bot"], Certificates: cert("ada")},
		"a certificate that does not verify": {Bearer: tokens["etl-bot"], Certificates: cert("stranger")},
	} {
		if _, err := a.Authenticate(t.Context(), p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestProvision: an agent is made once, and on record before it exists.
func TestProvision(t *testing.T) {
	var mu sync.Mutex
	var told []string
	refuse := false
	a, store, s, _ := callers(t, func(c *identity.AuthConfig) {
		c.Provisioned = func(_ context.Context, made identity.Agent, said assertion.Assertion) error {
			mu.Lock()
			defer mu.Unlock()
			if refuse {
				return errors.New("no trail")
			}
			told = append(told, made.Name+" by "+said.Source)
			return nil
		}
	})
	j := jwtOf("new-bot", "")
	j.Provision = true
	s.tokens["n.e.w"] = j
	refuse = true
	if _, err := a.Authenticate(t.Context(), bearer("n.e.w")); !errors.Is(err, assertion.ErrUnavailable) {
		t.Errorf("made without a record: %v", err)
	}
	if _, err := store.Agent("new-bot"); !errors.Is(err, identity.ErrNoAgent) {
		t.Errorf("it exists: %v", err)
	}
	refuse = false
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if who, err := a.Authenticate(t.Context(), bearer("n.e.w")); err != nil || who.Principal.Agent != "new-bot" {
				t.Errorf("%v %v", who.Principal, err)
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff([]string{"new-bot by idp"}, told); diff != "" {
		t.Error(diff)
	}
	// A name that was revoked is not made again.
	if err := store.RevokeAgent("new-bot"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(t.Context(), bearer("n.e.w")); !errors.Is(err, identity.ErrRevoked) {
		t.Errorf("%v", err)
	}
}

// TestProvisionRoom: where no agent fits, none is said to be made, however often
// a stranger asks; and who gives up waiting is not taken for a stranger.
func TestProvisionRoom(t *testing.T) {
	store, err := crowded(t, identity.MaxAgents, 0, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	j := jwtOf("newcomer", "")
	j.Provision = true
	s := &said{tokens: map[string]assertion.Assertion{"n.e.w": j}}
	a, err := identity.NewAuthenticator(identity.AuthConfig{
		Store: store, Verifier: s, SessionKeyFile: filepath.Join(store.Dir(), "session.key"),
		Provisioned: func(context.Context, identity.Agent, assertion.Assertion) error {
			t.Error("an entry about an agent that there is no room for")
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(t.Context(), bearer("n.e.w")); !errors.Is(err, assertion.ErrUnavailable) || !errors.Is(err, identity.ErrFull) {
		t.Errorf("%v", err)
	}

	began, goOn := make(chan struct{}), make(chan struct{})
	b, _, said, _ := callers(t, func(c *identity.AuthConfig) {
		c.Provisioned = func(context.Context, identity.Agent, assertion.Assertion) error {
			close(began)
			<-goOn
			return nil
		}
	})
	said.tokens["n.e.w"] = j
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := b.Authenticate(context.Background(), bearer("n.e.w")); err != nil {
			t.Errorf("%v", err)
		}
	})
	<-began
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Authenticate(ctx, bearer("n.e.w")); !errors.Is(err, assertion.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("who did not wait: %v", err)
	}
	close(goOn)
	wg.Wait()
}

// TestManyAtOnce: 10,000 calls of 200 agents, in every way, each get their own.
func TestManyAtOnce(t *testing.T) {
	a, store, s, _ := callers(t)
	type way struct {
		agent string
		p     identity.Presented
	}
	var ways []way
	for i := range 200 {
		name := fmt.Sprintf("agent-%d", i)
		secret, _ := agent(t, store, name)
		j := jwtOf(name, "")
		j.Subject = name
		s.tokens["j.w."+name] = j
		maps.Copy(s.certs, map[string]assertion.Assertion{name: {Source: "mesh", Issuer: "spiffe://x", Subject: name, Agent: name, Expires: time.Now().Add(time.Hour)}})
		out, err := a.Exchange(t.Context(), exchange("j.w."+name, identity.TypeJWT))
		if err != nil {
			t.Fatal(err)
		}
		ways = append(ways, way{name, bearer(secret)}, way{name, bearer("j.w." + name)}, way{name, identity.Presented{Certificates: cert(name)}}, way{name, bearer(out.Token)})
	}
	var wg sync.WaitGroup
	for i := range 10_000 {
		w := ways[i*7919%len(ways)]
		wg.Go(func() {
			who, err := a.Authenticate(t.Context(), w.p)
			if err != nil || who.Principal.Agent != w.agent {
				t.Errorf("%s is taken for %q: %v", w.agent, who.Principal.Agent, err)
			}
			if who.Assertion != "" && who.Assertion != "j.w."+w.agent {
				t.Errorf("%s has another's JWT", w.agent)
			}
		})
	}
	wg.Wait()
}
