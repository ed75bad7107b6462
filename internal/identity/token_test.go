package identity_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/identity"
)

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

// TestSourceForms: IPv4 is IPv4, also in the clothes of IPv6.
func TestSourceForms(t *testing.T) {
	a, store, _, _ := callers(t)
	for source, c := range map[string]struct{ in, out []string }{
		"::ffff:10.0.0.0/104":    {[]string{"10.9.9.9", "::ffff:10.9.9.9"}, []string{"11.0.0.1", "::1"}},
		"::ffff:192.0.2.7":       {[]string{"192.0.2.7", "::ffff:192.0.2.7"}, []string{"192.0.2.8"}},
		"::ffff:192.0.2.7/128":   {[]string{"192.0.2.7"}, []string{"192.0.2.8"}},
		"0.0.0.0/0":              {[]string{"192.0.2.7", "::ffff:192.0.2.7"}, []string{"2001:db8::1", "::1"}},
		"::/0":                   {[]string{"2001:db8::1"}, []string{"192.0.2.7", "::ffff:192.0.2.7"}},
		"fe80::/10":              {[]string{"fe80::1"}, []string{"fe80::1%eth0"}}, // a zone is of this host, and no part of what was allowed
		"2001:db8:0:1::/64":      {[]string{"2001:db8:0:1::9"}, []string{"2001:db8:0:2::9"}},
		"10.0.0.1/32":            {[]string{"10.0.0.1"}, []string{"10.0.0.2"}},
		"0:0:0:0:0:ffff:a00:1":   {[]string{"10.0.0.1"}, []string{"10.0.0.2"}},
		"::ffff:10.0.0.1":        {[]string{"10.0.0.1"}, []string{"::a00:1"}}, // an IPv4-compatible address is not a mapped one
		"2002:a00:1::/48":        {[]string{"2002:a00:1::1"}, []string{"10.0.0.1"}},
		"::ffff:0.0.0.0/96":      {[]string{"10.0.0.1", "192.0.2.1"}, []string{"::1"}},
		"64:ff9b::192.0.2.0/120": {[]string{"64:ff9b::192.0.2.9"}, []string{"192.0.2.9"}},
	} {
		secret, _, err := store.IssueToken("etl-bot", identity.TokenOptions{Sources: []string{source}})
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		for want, list := range map[bool][]string{true: c.in, false: c.out} {
			for _, from := range list {
				_, err := a.Authenticate(t.Context(), identity.Presented{Bearer: secret, Address: netip.MustParseAddr(from)})
				if (err == nil) != want || err != nil && !errors.Is(err, identity.ErrSource) {
					t.Errorf("for %s, from %s: %v", source, from, err)
				}
			}
		}
	}
	for _, bad := range []string{"::ffff:10.0.0.1/104", "10.0.0.0/08", "10.0.0.0/-1", "/", "10/8", "010.0.0.1", " 10.0.0.1", "fe80::%eth0/10"} {
		if _, _, err := store.IssueToken("etl-bot", identity.TokenOptions{Sources: []string{bad}}); !errors.Is(err, identity.ErrInvalid) {
			t.Errorf("source %q: %v", bad, err)
		}
	}
}

// TestOldFile: a store as the first version wrote it is read, changed and read again.
func TestOldFile(t *testing.T) {
	secret := identity.Format([32]byte{1, 2, 3})
	sum := sha256.Sum256([]byte(secret))
	path := filepath.Join(t.TempDir(), "agents.json")
	old := fmt.Sprintf(`{
 "version": 1,
 "agents": [{"name": "etl-bot", "note": "nightly", "created": "2026-11-01T00:00:00Z"}, {"name": "gone-bot", "created": "2026-11-01T00:00:00Z", "revoked": "2026-11-02T00:00:00Z"}],
 "tokens": [{"id": "tok_01jc0000000000000000000000", "agent": "etl-bot", "title": "t", "purpose": "p", "created": "2026-11-01T00:00:00Z", "expires": "2126-11-01T00:00:00Z", "session_bound": true, "sha256": %q}]
}
`, hex.EncodeToString(sum[:]))
	if err := os.WriteFile(path, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, err := identity.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		who, err := s.Authenticate(secret)
		if err != nil || who.Principal.Agent != "etl-bot" || who.Scoped || !who.MayUse("any") || len(who.Sources) > 0 || who.Principal.HumanBy != "" || who.Title != "t" || !who.Token.SessionBound {
			t.Errorf("%+v %v", who, err)
		}
		if tok, err := s.Token(who.Token.ID); err != nil || tok.LastUsed != nil {
			t.Errorf("%+v %v", tok, err)
		}
		if _, _, err := s.IssueToken("etl-bot", identity.TokenOptions{Human: "ada@example.com", Sources: []string{"::1"}}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamagedScopes: limits that cannot be read are not "no limits".
func TestDamagedScopes(t *testing.T) {
	s, path := open(t)
	if _, err := s.AddAgent("etl-bot", ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.IssueToken("etl-bot", identity.TokenOptions{Human: "ada", Sources: []string{"10.0.0.0/8"}, Connections: []string{"lake"}}); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for old, damaged := range map[string]string{`"10.0.0.0/8"`: `"10.0.0.0/80"`, `"lake"`: `"LAKE!"`, `"ada"`: `"a\u0007da"`, `"connections"`: `"connexions"`, `"sources"`: `"Sources"`} {
		raw := strings.Replace(string(good), old, damaged, 1)
		if raw == string(good) {
			t.Fatalf("no %s in %s", old, good)
		}
		if err := os.WriteFile(path, []byte(raw), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := identity.Open(path); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", damaged, err)
		}
	}
}

// TestUseByExchange: a gateway token that is only ever exchanged is in use too.
func TestUseByExchange(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	a, store, _, tokens := callers(t, func(c *identity.AuthConfig) { c.Now = func() time.Time { return now } })
	r := exchange(tokens["etl-bot"], identity.TypeAccessToken)
	r.Address = netip.MustParseAddr("192.0.2.1")
	out, err := a.Exchange(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	check := func(address string) {
		t.Helper()
		if got := store.Tokens("etl-bot")[0]; got.LastUsed == nil || !got.LastUsed.Equal(now) || got.LastAddress != address {
			t.Errorf("last used %v from %q, want %s from %s", got.LastUsed, got.LastAddress, now, address)
		}
	}
	check("192.0.2.1")
	now = now.Add(time.Minute)
	if _, err := a.Authenticate(t.Context(), identity.Presented{Bearer: out.Token, Address: netip.MustParseAddr("192.0.2.2")}); err != nil {
		t.Fatal(err)
	}
	check("192.0.2.2")
}
