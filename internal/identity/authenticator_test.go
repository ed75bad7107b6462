package identity_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
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

func exchange(subject, kind string) identity.ExchangeRequest {
	return identity.ExchangeRequest{GrantType: identity.GrantExchange, SubjectToken: subject, SubjectTokenType: kind}
}

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
		"a certificate that does not verify": {Bearer: tokens["etl-bot"], Certificates: cert("stranger")},
	} {
		if _, err := a.Authenticate(t.Context(), p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestForgedSessionTokens: every bit counts.
func TestForgedSessionTokens(t *testing.T) {
	a, _, _, tokens := callers(t)
	other, _, _, _ := callers(t)
	out, err := a.Exchange(t.Context(), exchange(tokens["etl-bot"], identity.TypeAccessToken))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Authenticate(t.Context(), bearer(out.Token)); err == nil {
		t.Error("another gateway takes it")
	}
	for i := range out.Token {
		for _, c := range []byte{'A', '.', out.Token[i] ^ 1, out.Token[i] ^ 0x20} {
			forged := out.Token[:i] + string(c) + out.Token[i+1:]
			if forged == out.Token {
				continue
			}
			if who, err := a.Authenticate(t.Context(), bearer(forged)); err == nil {
				t.Fatalf("byte %d changed to %q gives %v", i, c, who.Principal)
			}
		}
		if _, err := a.Authenticate(t.Context(), bearer(out.Token[:i])); err == nil {
			t.Fatalf("the first %d bytes are enough", i)
		}
	}
	// Another's payload under this one's MAC.
	body, mac, _ := strings.Cut(out.Token[len("tgs_"):], ".")
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		t.Fatal(err)
	}
	swapped := strings.Replace(string(raw), `"agent":"etl-bot"`, `"agent":"analyst-bot"`, 1)
	if swapped == string(raw) {
		t.Fatalf("the payload is %s", raw)
	}
	if _, err := a.Authenticate(t.Context(), bearer("tgs_"+base64.RawURLEncoding.EncodeToString([]byte(swapped))+"."+mac)); err == nil {
		t.Error("a changed payload is taken")
	}
	if _, err := a.Authenticate(t.Context(), bearer("tgs_"+strings.Repeat("A", 10<<10)+"."+mac)); err == nil {
		t.Error("10 KiB are taken")
	}
}

// TestSessionTokensEnd: with their time, with the token or JWT that they were got
// for, by themselves; and not with a restart.
func TestSessionTokensEnd(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	a, store, s, _ := callers(t, func(c *identity.AuthConfig) { c.ExchangeTTL, c.Now = 10*time.Minute, clock })
	store.SetNow(clock)
	secret, tok, err := store.IssueToken("etl-bot", identity.TokenOptions{TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	first, err := a.Exchange(t.Context(), exchange(secret, identity.TypeAccessToken))
	if err != nil || first.ExpiresIn != 600 {
		t.Fatalf("%+v %v", first, err)
	}
	second, err := a.Exchange(t.Context(), exchange(first.Token, identity.TypeAccessToken))
	if err != nil || second.ExpiresIn > 600 {
		t.Fatalf("an exchanged token exchanged: %+v %v", second, err)
	}
	s.tokens["short.lived.x"] = func() assertion.Assertion {
		j := jwtOf("etl-bot", "")
		j.Expires = now.Add(time.Minute)
		return j
	}()
	short, err := a.Exchange(t.Context(), exchange("short.lived.x", identity.TypeJWT))
	if err != nil || short.ExpiresIn != 60 {
		t.Fatalf("it outlives the JWT: %+v %v", short, err)
	}
	who, err := a.Authenticate(t.Context(), bearer(short.Token))
	if err != nil || who.Assertion != "short.lived.x" {
		t.Errorf("the agent's own JWT is not at hand: %q %v", who.Assertion, err)
	}

	again, err := identity.NewAuthenticator(identity.AuthConfig{Store: store, Verifier: s, SessionKeyFile: filepath.Join(store.Dir(), "session.key"), Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	if who, err := again.Authenticate(t.Context(), bearer(short.Token)); err != nil || who.Assertion != "" {
		t.Errorf("after a restart: %v %v", who.Assertion, err)
	}

	// A session token that is revoked takes those with it that were got for it.
	if err := a.RevokeSession(first.Identity.Principal.TokenID); err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"itself": first.Token, "its child": second.Token} {
		if _, err := a.Authenticate(t.Context(), bearer(token)); !errors.Is(err, identity.ErrRevoked) {
			t.Errorf("%s: %v", name, err)
		}
	}
	reopened, err := identity.NewAuthenticator(identity.AuthConfig{Store: store, SessionKeyFile: filepath.Join(store.Dir(), "session.key"), Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reopened.Authenticate(t.Context(), bearer(first.Token)); !errors.Is(err, identity.ErrRevoked) {
		t.Errorf("a restart brings it back: %v", err)
	}
	if err := a.RevokeSession("ses_x"); !errors.Is(err, identity.ErrInvalid) {
		t.Errorf("%v", err)
	}

	third, err := a.Exchange(t.Context(), exchange(secret, identity.TypeAccessToken))
	if err != nil {
		t.Fatal(err)
	}
	child, err := a.Exchange(t.Context(), exchange(third.Token, identity.TypeAccessToken))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.RevokeToken(tok.ID); err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"itself": third.Token, "its child": child.Token} {
		if _, err := a.Authenticate(t.Context(), bearer(token)); !errors.Is(err, identity.ErrRevoked) {
			t.Errorf("with the gateway token gone, %s: %v", name, err)
		}
	}
	now = now.Add(61 * time.Second)
	if _, err := a.Authenticate(t.Context(), bearer(short.Token)); !errors.Is(err, identity.ErrExpired) {
		t.Errorf("past its time: %v", err)
	}
}

// TestActors: an actor acts for a subject; the chain is theirs, and nothing widens.
func TestActors(t *testing.T) {
	a, store, s, _ := callers(t)
	narrow, _, err := store.IssueToken("etl-bot", identity.TokenOptions{Connections: []string{"lake", "prod"}})
	if err != nil {
		t.Fatal(err)
	}
	ada := jwtOf("", "ada@example.com")
	ada.Scoped, ada.Connections, ada.Actors = true, []string{"prod", "other"}, []string{"portal"}
	s.tokens["h.u.scoped"] = ada
	picky := jwtOf("", "grace@example.com")
	picky.MayAct = []string{"trailgate|analyst-bot"}
	s.tokens["h.u.picky"] = picky
	deep := jwtOf("", "ken@example.com")
	for i := range assertion.MaxDepth {
		deep.Actors = append(deep.Actors, fmt.Sprint("hop", i))
	}
	s.tokens["h.u.deep"] = deep
	own := jwtOf("etl-bot", "grace@example.com")
	s.tokens["e.t.grace"] = own

	act := func(subject, actor, kind string) (identity.Exchanged, error) {
		r := exchange(subject, identity.TypeJWT)
		r.ActorToken, r.ActorTokenType = actor, kind
		return a.Exchange(t.Context(), r)
	}
	out, err := act("h.u.scoped", narrow, identity.TypeAccessToken)
	if err != nil {
		t.Fatal(err)
	}
	who, err := a.Authenticate(t.Context(), bearer(out.Token))
	if err != nil {
		t.Fatal(err)
	}
	p := who.Principal
	if p.Agent != "etl-bot" || p.Human != "ada@example.com" || p.HumanBy != trailgate.HumanByIssuer || p.Issuer != identity.Issuer {
		t.Errorf("%+v", p)
	}
	if diff := cmp.Diff([]string{idp + "|" + ada.Subject, "portal"}, p.Actors); diff != "" {
		t.Errorf("actors: %s", diff)
	}
	for connection, want := range map[string]bool{"prod": true, "lake": false, "other": false} {
		if who.MayUse(connection) != want {
			t.Errorf("may use %s: %v", connection, !want)
		}
	}
	if _, err := act("h.u.picky", narrow, identity.TypeAccessToken); err == nil || !strings.Contains(err.Error(), "may_act") {
		t.Errorf("may_act: %v", err)
	}
	if _, err := act("h.u.deep", narrow, identity.TypeAccessToken); !errors.Is(err, assertion.ErrChain) {
		t.Errorf("depth: %v", err)
	}
	if _, err := act("h.u.ada", "e.t.grace", identity.TypeJWT); err == nil || !strings.Contains(err.Error(), "different humans") {
		t.Errorf("two humans: %v", err)
	}
	if _, err := act("h.u.ada", "h.u.ada", identity.TypeJWT); !errors.Is(err, identity.ErrUnknownAgent) {
		t.Errorf("a human as actor: %v", err)
	}
	// The same actor for two humans: two sessions.
	one, err := act("h.u.ada", "a.b.etl-bot", identity.TypeJWT)
	if err != nil {
		t.Fatal(err)
	}
	s.tokens["h.u.bob"] = jwtOf("", "bob@example.com")
	two, err := act("h.u.bob", "a.b.etl-bot", identity.TypeJWT)
	if err != nil || one.Identity.SessionKey == two.Identity.SessionKey {
		t.Errorf("%v: sessions of two humans are one", err)
	}
	if one.Identity.Assertion != "a.b.etl-bot" {
		t.Errorf("the assertion that goes to Google is %q, want the agent's", one.Identity.Assertion)
	}
}

func TestExchangeRequests(t *testing.T) {
	a, store, _, tokens := callers(t)
	narrow, _, err := store.IssueToken("etl-bot", identity.TokenOptions{Connections: []string{"lake"}})
	if err != nil {
		t.Fatal(err)
	}
	base := exchange(tokens["etl-bot"], identity.TypeAccessToken)
	for name, c := range map[string]struct {
		change func(*identity.ExchangeRequest)
		code   string
	}{
		"other grant":          {func(r *identity.ExchangeRequest) { r.GrantType = "authorization_code" }, "unsupported_grant_type"},
		"no subject":           {func(r *identity.ExchangeRequest) { r.SubjectToken = "" }, "invalid_request"},
		"no type":              {func(r *identity.ExchangeRequest) { r.SubjectTokenType = "" }, "invalid_request"},
		"SAML":                 {func(r *identity.ExchangeRequest) { r.SubjectTokenType = "urn:ietf:params:oauth:token-type:saml2" }, "invalid_grant"},
		"not a JWT":            {func(r *identity.ExchangeRequest) { r.SubjectTokenType = identity.TypeJWT }, "invalid_grant"},
		"actor without a type": {func(r *identity.ExchangeRequest) { r.ActorToken = "x" }, "invalid_request"},
		"a refresh token, please": {func(r *identity.ExchangeRequest) {
			r.RequestedTokenType = "urn:ietf:params:oauth:token-type:refresh_token"
		}, "invalid_request"},
		"long audience": {func(r *identity.ExchangeRequest) { r.Audience = strings.Repeat("x", 3000) }, "invalid_request"},
		"other connection": {func(r *identity.ExchangeRequest) {
			r.SubjectToken, r.Audience = narrow, "connection:prod"
		}, "invalid_target"},
		"other's certificate": {func(r *identity.ExchangeRequest) { r.ClientCertificates = cert("analyst-bot") }, "invalid_grant"},
	} {
		r := base
		c.change(&r)
		out, err := a.Exchange(t.Context(), r)
		oauth, ok := errors.AsType[*identity.OAuthError](err)
		if !ok || oauth.Code != c.code || out.Token != "" || oauth.Status < 400 || strings.Contains(err.Error(), tokens["etl-bot"]) {
			t.Errorf("%s: %+v, %v; want %s", name, out, err, c.code)
		}
	}
	r := base
	r.Audience = "connection:lake"
	out, err := a.Exchange(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if who, err := a.Authenticate(t.Context(), bearer(out.Token)); err != nil || !who.MayUse("lake") || who.MayUse("prod") {
		t.Errorf("narrowed: %+v %v", who, err)
	}
	// The custom audience of an external_account file means nothing more.
	r.Audience = "https://gw.example"
	if out, err = a.Exchange(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if who, err := a.Authenticate(t.Context(), bearer(out.Token)); err != nil || !who.MayUse("prod") {
		t.Errorf("%+v %v", who, err)
	}
}

func TestSources(t *testing.T) {
	a, store, _, _ := callers(t)
	secret, tok, err := store.IssueToken("etl-bot", identity.TokenOptions{Sources: []string{"10.1.0.0/16", "2001:db8::7"}})
	if err != nil {
		t.Fatal(err)
	}
	from := func(s string) identity.Presented {
		addr, _ := netip.ParseAddr(s)
		return identity.Presented{Bearer: secret, Address: addr}
	}
	for address, want := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "2001:db8::7": true, "2001:db8::8": false, "127.0.0.1": false, "": false,
	} {
		who, err := a.Authenticate(t.Context(), from(address))
		if (err == nil) != want || err != nil && (!errors.Is(err, identity.ErrSource) || who.Principal.TokenID != tok.ID) {
			t.Errorf("from %q: %v %v", address, who.Principal, err)
		}
	}
	// An exchange takes the limit along.
	r := exchange(secret, identity.TypeAccessToken)
	if _, err := a.Exchange(t.Context(), r); !errors.Is(err, identity.ErrSource) {
		t.Errorf("exchange from nowhere: %v", err)
	}
	r.Address = netip.MustParseAddr("10.1.0.1")
	out, err := a.Exchange(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(t.Context(), identity.Presented{Bearer: out.Token, Address: netip.MustParseAddr("192.0.2.1")}); !errors.Is(err, identity.ErrSource) {
		t.Errorf("the exchanged token from elsewhere: %v", err)
	}
	for _, bad := range []string{"10.1.2.3/16", "x", "10.0.0.0/33", "fe80::1%eth0", ""} {
		if _, _, err := store.IssueToken("etl-bot", identity.TokenOptions{Sources: []string{bad}}); !errors.Is(err, identity.ErrInvalid) {
			t.Errorf("source %q: %v", bad, err)
		}
	}
}

func TestRotation(t *testing.T) {
	now := time.Now().UTC()
	store, path := open(t)
	store.SetNow(func() time.Time { return now })
	if _, err := store.AddAgent("etl-bot", ""); err != nil {
		t.Fatal(err)
	}
	secret, old, err := store.IssueToken("etl-bot", identity.TokenOptions{
		TTL: 24 * time.Hour, Note: "airflow", Connections: []string{"lake"}, Sources: []string{"10.0.0.0/8"}, Human: "ada@example.com",
	})
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	fresh, next, err := store.RotateToken(old.ID, identity.RotateOptions{Overlap: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	want := old
	want.ID, want.Replaces, want.Created, want.Expires = next.ID, old.ID, now, now.Add(24*time.Hour)
	if diff := cmp.Diff(want, next); diff != "" {
		t.Error(diff)
	}
	if _, _, err := store.RotateToken(old.ID, identity.RotateOptions{}); !errors.Is(err, identity.ErrInvalid) {
		t.Errorf("rotated twice: %v", err)
	}
	reopened, err := identity.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	reopened.SetNow(func() time.Time { return now })
	for _, s := range []*identity.Store{store, reopened} {
		for _, token := range []string{secret, fresh} {
			if who, err := s.Authenticate(token); err != nil || who.Principal.Human != "ada@example.com" || who.Principal.HumanBy != trailgate.HumanByAdmin {
				t.Errorf("within the overlap: %+v %v", who.Principal, err)
			}
		}
	}
	now = now.Add(11 * time.Minute)
	if _, err := store.Authenticate(secret); !errors.Is(err, identity.ErrExpired) {
		t.Errorf("the old one after the overlap: %v", err)
	}
	if _, err := store.Authenticate(fresh); err != nil {
		t.Errorf("the new one: %v", err)
	}
	if _, _, err := store.RotateToken(old.ID, identity.RotateOptions{}); !errors.Is(err, identity.ErrInvalid) {
		t.Errorf("rotating one that ended: %v", err)
	}
	if _, _, err := store.RotateToken("tok_x", identity.RotateOptions{}); !errors.Is(err, identity.ErrNoToken) {
		t.Errorf("%v", err)
	}
	// A write that fails changes neither.
	store.SetFault(func(string) error { return errors.New("disk") })
	if _, _, err := store.RotateToken(next.ID, identity.RotateOptions{}); err == nil {
		t.Error("rotated without a disk")
	}
	store.SetFault(nil)
	if got, err := store.Token(next.ID); err != nil || got.ReplacedBy != "" || !got.Expires.Equal(next.Expires) {
		t.Errorf("%+v %v", got, err)
	}
}

// TestLastUse is known at once, and after a restart where it was written down.
func TestLastUse(t *testing.T) {
	a, store, _, tokens := callers(t)
	who, err := a.Authenticate(t.Context(), identity.Presented{Bearer: tokens["etl-bot"], Address: netip.MustParseAddr("192.0.2.9")})
	if err != nil {
		t.Fatal(err)
	}
	id := who.Principal.TokenID
	check := func(s *identity.Store) {
		t.Helper()
		got, err := s.Token(id)
		if err != nil || got.LastUsed == nil || time.Since(*got.LastUsed) > time.Minute || got.LastAddress != "192.0.2.9" {
			t.Errorf("%+v %v", got, err)
		}
		if list := s.Tokens("etl-bot"); list[0].LastUsed == nil {
			t.Error("not in the list")
		}
	}
	check(store)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	reopened, err := identity.Open(filepath.Join(store.Dir(), "agents.json"))
	if err != nil {
		t.Fatal(err)
	}
	check(reopened)
	if got := store.Tokens("analyst-bot")[0]; got.LastUsed != nil {
		t.Errorf("a token that nobody used: %+v", got)
	}
	// A damaged file is no reason not to start.
	if err := os.WriteFile(filepath.Join(store.Dir(), "agents.json.uses"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Open(filepath.Join(store.Dir(), "agents.json")); err != nil {
		t.Error(err)
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

// TestSessionKeyFile: a damaged or readable key stops the start, in words.
func TestSessionKeyFile(t *testing.T) {
	store, _ := open(t)
	path := filepath.Join(t.TempDir(), "session.key")
	for _, bad := range []string{"", "short", "!!!"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := identity.NewAuthenticator(identity.AuthConfig{Store: store, SessionKeyFile: path}); err == nil || !strings.Contains(err.Error(), "remove") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.NewAuthenticator(identity.AuthConfig{Store: store, SessionKeyFile: path}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.NewAuthenticator(identity.AuthConfig{Store: store, SessionKeyFile: path}); err == nil || !strings.Contains(err.Error(), "mode 0644") {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(path+".revoked", []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.NewAuthenticator(identity.AuthConfig{Store: store, SessionKeyFile: path}); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("%v", err)
	}
}

func TestIntrospect(t *testing.T) {
	a, store, _, tokens := callers(t)
	got := a.Introspect(t.Context(), tokens["etl-bot"])
	if !got.Active || got.Username != "etl-bot" || got.Expires == 0 {
		t.Errorf("%+v", got)
	}
	if err := store.RevokeAgent("etl-bot"); err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{tokens["etl-bot"], "x", "h.u.ada", ""} {
		if got := a.Introspect(t.Context(), token); got != (identity.Introspection{}) {
			t.Errorf("%q: %+v", token, got)
		}
	}
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

func BenchmarkSessionToken(b *testing.B) {
	a, _, _, tokens := callers(b)
	out, err := a.Exchange(b.Context(), exchange(tokens["etl-bot"], identity.TypeAccessToken))
	if err != nil {
		b.Fatal(err)
	}
	p := bearer(out.Token)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(b.Context(), p); err != nil {
			b.Fatal(err)
		}
	}
}
