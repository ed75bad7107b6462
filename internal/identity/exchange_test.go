package identity_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/identity/assertion"
)

func exchange(subject, kind string) identity.ExchangeRequest {
	return identity.ExchangeRequest{GrantType: identity.GrantExchange, SubjectToken: subject, SubjectTokenType: kind}
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
		"SAML":                 {func(r *identity.ExchangeRequest) { r.SubjectTokenType = "urn:ietf:params:oauth:token-type:saml2" }, "invalid_request"},
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

// TestNothingWidens: whichever way tokens are put together, and through however
// many exchanges, what comes out allows no more than each of them.
func TestNothingWidens(t *testing.T) {
	a, store, s, tokens := callers(t)
	issue := func(agent string, o identity.TokenOptions) string {
		t.Helper()
		secret, _, err := store.IssueToken(agent, o)
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	trade := func(subject, actor string) (identity.Exchanged, error) {
		r := exchange(subject, identity.TypeAccessToken)
		r.Address = netip.MustParseAddr("10.1.0.5")
		if actor != "" {
			r.ActorToken, r.ActorTokenType = actor, identity.TypeAccessToken
		}
		return a.Exchange(t.Context(), r)
	}
	must := func(out identity.Exchanged, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out.Token
	}

	t.Run("sources", func(t *testing.T) {
		wide := issue("etl-bot", identity.TokenOptions{Sources: []string{"10.0.0.0/8", "192.0.2.0/24", "::/0"}})
		narrow := issue("analyst-bot", identity.TokenOptions{Sources: []string{"10.1.0.0/16", "192.0.2.7", "2001:db8::/32"}})
		for name, pair := range map[string][2]string{"narrow actor": {wide, narrow}, "narrow subject": {narrow, wide}, "only one says": {tokens["etl-bot"], narrow}} {
			out := must(trade(must(trade(pair[0], pair[1])), "")) // and once more
			for from, want := range map[string]bool{"10.1.9.9": true, "10.2.0.1": false, "192.0.2.7": true, "192.0.2.8": false, "2001:db8::1": true, "2001:db9::1": false, "::ffff:10.1.9.9": true} {
				if _, err := a.Authenticate(t.Context(), identity.Presented{Bearer: out, Address: netip.MustParseAddr(from)}); (err == nil) != want || err != nil && !errors.Is(err, identity.ErrSource) {
					t.Errorf("%s, from %s: %v", name, from, err)
				}
			}
		}
	})

	t.Run("connections", func(t *testing.T) {
		one, two := issue("etl-bot", identity.TokenOptions{Connections: []string{"lake"}}), issue("analyst-bot", identity.TokenOptions{Connections: []string{"prod"}})
		out := must(trade(one, two))
		who, err := a.Authenticate(t.Context(), bearer(out))
		if err != nil || !who.Scoped || who.MayUse("lake") || who.MayUse("prod") || who.MayUse("") {
			t.Errorf("nothing in common: %+v %v", who, err)
		}
		for _, connection := range []string{"lake", "prod", ""} {
			r := exchange(out, identity.TypeAccessToken)
			r.Audience = "connection:" + connection
			if _, err := a.Exchange(t.Context(), r); err == nil {
				t.Errorf("audience %q", r.Audience)
			}
		}
	})

	t.Run("may_act", func(t *testing.T) {
		said := jwtOf("etl-bot", "ada@example.com")
		said.MayAct = []string{"sa:analyst-bot"} // of the same issuer, as it names no other
		s.tokens["may.a.ct"] = said
		through := must(trade("may.a.ct", ""))
		for name, subject := range map[string]string{"JWT": "may.a.ct", "exchanged": through, "exchanged twice": must(trade(through, ""))} {
			must(trade(subject, "a.b.analyst-bot"))
			for _, actor := range []string{"a.b.etl-bot", tokens["analyst-bot"], tokens["etl-bot"]} {
				if _, err := trade(subject, actor); err == nil || !strings.Contains(err.Error(), "may_act") {
					t.Errorf("%s: %.8s… may act: %v", name, actor, err)
				}
			}
		}
		// Another issuer's party of the same name.
		twin := jwtOf("analyst-bot", "")
		twin.Issuer = "https://other.example"
		s.tokens["t.w.in"] = twin
		if _, err := trade(through, "t.w.in"); err == nil || !strings.Contains(err.Error(), "may_act") {
			t.Errorf("another issuer's: %v", err)
		}
		// It holds for those who act for the actor; two lists without a common name mean nobody.
		acted := must(trade(through, "a.b.analyst-bot"))
		if _, err := trade(acted, "a.b.etl-bot"); err == nil {
			t.Error("anybody may act for the actor")
		}
		closed := jwtOf("analyst-bot", "")
		closed.MayAct = []string{"nobody"}
		s.tokens["c.l.osed"] = closed
		acted = must(trade(must(trade(through, "c.l.osed")), ""))
		for _, actor := range []string{"a.b.analyst-bot", "a.b.etl-bot", tokens["etl-bot"]} {
			if _, err := trade(acted, actor); err == nil || !strings.Contains(err.Error(), "may_act") {
				t.Errorf("nobody may act, but %.8s… may: %v", actor, err)
			}
		}
	})

	t.Run("depth", func(t *testing.T) {
		token, err := tokens["etl-bot"], error(nil)
		for n := range assertion.MaxDepth + 1 {
			var out identity.Exchanged
			if out, err = trade(token, tokens["analyst-bot"]); err != nil {
				if n != assertion.MaxDepth || !errors.Is(err, assertion.ErrChain) {
					t.Errorf("after %d: %v", n, err)
				}
				break
			}
			if got := len(out.Identity.Principal.Actors); got != n+1 {
				t.Errorf("%d actors after %d exchanges", got, n+1)
			}
			token = out.Token
		}
		if err == nil {
			t.Error("a chain without end")
		}
	})
}

// TestChainEnds: a token ends with everyone in its chain, whatever they came with.
func TestChainEnds(t *testing.T) {
	for name, subject := range map[string]string{"JWT": "a.b.etl-bot", "gateway token": "", "session token": "session"} {
		a, store, s, tokens := callers(t)
		if _, err := store.AddAgent("third-bot", ""); err != nil {
			t.Fatal(err)
		}
		s.tokens["a.b.third-bot"] = jwtOf("third-bot", "")
		switch subject {
		case "":
			subject = tokens["etl-bot"]
		case "session":
			out, err := a.Exchange(t.Context(), exchange("a.b.etl-bot", identity.TypeJWT))
			if err != nil {
				t.Fatal(err)
			}
			subject = out.Token
		}
		r := exchange(subject, identity.TypeAccessToken)
		r.ActorToken, r.ActorTokenType = "a.b.analyst-bot", identity.TypeJWT
		first, err := a.Exchange(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		second, err := a.Exchange(t.Context(), exchange(first.Token, identity.TypeAccessToken))
		if err != nil {
			t.Fatal(err)
		}
		r.SubjectToken, r.ActorToken = second.Token, "a.b.third-bot"
		third, err := a.Exchange(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if first.Identity.Principal.Agent != "analyst-bot" || third.Identity.Principal.Agent != "third-bot" {
			t.Fatalf("%+v, %+v", first.Identity.Principal, third.Identity.Principal)
		}
		if err := store.RevokeAgent("etl-bot"); err != nil {
			t.Fatal(err)
		}
		for _, token := range []string{first.Token, second.Token, third.Token} {
			if _, err := a.Authenticate(t.Context(), bearer(token)); !errors.Is(err, identity.ErrRevoked) {
				t.Errorf("%s: the agent on whose behalf it acts is revoked: %v", name, err)
			}
		}
		if _, err := a.Authenticate(t.Context(), bearer("a.b.analyst-bot")); err != nil {
			t.Errorf("%s: the actor by itself: %v", name, err)
		}
	}
}

// TestExchangeSessions: calls of one chain are one session, and those of two are two.
func TestExchangeSessions(t *testing.T) {
	a, store, _, tokens := callers(t)
	other, _, err := store.IssueToken("etl-bot", identity.TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	key := func(subject, actor string) string {
		t.Helper()
		r := exchange(subject, identity.TypeAccessToken)
		r.ActorToken, r.ActorTokenType = actor, identity.TypeAccessToken
		out, err := a.Exchange(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return out.Identity.SessionKey
	}
	one := key("h.u.ada", tokens["etl-bot"])
	if again := key("h.u.ada", tokens["etl-bot"]); again != one {
		t.Error("the same tokens, exchanged twice, are two sessions")
	}
	for name, k := range map[string]string{
		"another token of the agent": key("h.u.ada", other), "another subject": key(tokens["analyst-bot"], tokens["etl-bot"]), "the other way": key(tokens["etl-bot"], tokens["analyst-bot"]),
	} {
		if k == one {
			t.Errorf("%s: the same session", name)
		}
	}
}
