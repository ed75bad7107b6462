package identity_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/identity"
)

// crowded is a store with so many agents, and tokens of the first, that end at
// expires.
func crowded(tb testing.TB, agents, tokens int, expires time.Time) (*identity.Store, error) {
	tb.Helper()
	var b bytes.Buffer
	b.WriteString(`{"version": 1, "agents": [`)
	for i := range agents {
		fmt.Fprintf(&b, `%s{"name": "bot-%d", "created": "2026-01-01T00:00:00Z"}`, comma(i), i)
	}
	b.WriteString(`], "tokens": [`)
	for i := range tokens {
		fmt.Fprintf(&b, `%s{"id": "tok_%026d", "agent": "bot-0", "created": "2026-01-01T00:00:00Z", "expires": %q, "sha256": "%064x"}`,
			comma(i), i, expires.Format(time.RFC3339), i)
	}
	b.WriteString(`]}`)
	path := filepath.Join(tb.TempDir(), "agents.json")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		tb.Fatal(err)
	}
	return identity.Open(path)
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}

func TestMostAgents(t *testing.T) {
	s, err := crowded(t, identity.MaxAgents-1, 0, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddAgent("last", ""); err != nil {
		t.Error(err)
	}
	if _, err := s.AddAgent("one-more", ""); !errors.Is(err, identity.ErrFull) {
		t.Error("no bound on agents:", err)
	}
	if _, err := crowded(t, identity.MaxAgents+1, 0, time.Time{}); err == nil {
		t.Error("a file beyond the bound was opened")
	}
}

func TestMostTokens(t *testing.T) {
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	s, err := crowded(t, 1, identity.MaxTokens, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	s.SetNow(func() time.Time { return now })
	if _, _, err := s.IssueToken("bot-0", identity.TokenOptions{}); !errors.Is(err, identity.ErrFull) {
		t.Error("no bound on tokens:", err)
	}
	// A token that ended makes room.
	now = now.Add(2 * time.Hour)
	secret, _, err := s.IssueToken("bot-0", identity.TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.Tokens("bot-0")); n != 1 {
		t.Errorf("%d tokens are left", n)
	}
	if _, err := s.Authenticate(secret); err != nil {
		t.Error(err)
	}
	if _, err := crowded(t, 1, identity.MaxTokens+1, now); err == nil {
		t.Error("a file beyond the bound was opened")
	}
}

// TestForgotten: a token that ended is told apart from an unknown one for a
// month, and then forgotten.
func TestForgotten(t *testing.T) {
	s, _ := open(t)
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	s.SetNow(func() time.Time { return now })
	secret, tok := agent(t, s, "etl-bot")
	for _, step := range []struct {
		after time.Duration
		want  error
	}{{24 * time.Hour, identity.ErrExpired}, {30 * 24 * time.Hour, identity.ErrExpired}, {time.Second, identity.ErrUnknown}} {
		now = now.Add(step.after)
		if _, _, err := s.IssueToken("etl-bot", identity.TokenOptions{TTL: time.Minute}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Authenticate(secret); !errors.Is(err, step.want) {
			t.Errorf("%s: %v, want %v", now, err, step.want)
		}
	}
	if _, err := s.Token(tok.ID); !errors.Is(err, identity.ErrNoToken) {
		t.Error(err)
	}
}

func TestTokenOptions(t *testing.T) {
	s, _ := open(t)
	agent(t, s, "etl-bot")
	id, err := identity.NewTokenID()
	if err != nil {
		t.Fatal(err)
	}
	_, tok, err := s.IssueToken("etl-bot", identity.TokenOptions{
		ID: id, TTL: identity.MaxTTL, Note: "n\xff", Title: "t", Purpose: strings.Repeat("é", 250), SessionBound: true,
	})
	if err != nil || tok.ID != id || tok.Note != "n�" || !tok.SessionBound || tok.Expires.Sub(tok.Created) != identity.MaxTTL {
		t.Errorf("%+v %v", tok, err)
	}
	long := strings.Repeat("x", 501)
	for name, o := range map[string]identity.TokenOptions{
		"id twice": {ID: id}, "id": {ID: "tok_x"}, "ttl": {TTL: identity.MaxTTL + 1}, "note": {Note: long}, "title": {Title: long}, "purpose": {Purpose: long},
	} {
		if _, _, err := s.IssueToken("etl-bot", o); !errors.Is(err, identity.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.AddAgent("x", long); !errors.Is(err, identity.ErrInvalid) {
		t.Error(err)
	}
}

// BenchmarkAuthenticate is on the data path: below a microsecond among ten
// thousand tokens. "near" is a token that differs from a real one in its last
// random character only: it must take no longer than "far", which shares
// nothing with any.
func BenchmarkAuthenticate(b *testing.B) {
	s, err := crowded(b, 100, 10_000, time.Now().Add(time.Hour))
	if err != nil {
		b.Fatal(err)
	}
	secret, _, err := s.IssueToken("bot-1", identity.TokenOptions{})
	if err != nil {
		b.Fatal(err)
	}
	run := func(name, token string, want error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Authenticate(token); !errors.Is(err, want) {
					b.Fatal(err)
				}
			}
		})
	}
	run("known", secret, nil)
	run("near", near(secret), identity.ErrUnknown)
	run("far", identity.Format([32]byte{1, 2, 3}), identity.ErrUnknown)
	run("malformed", "x"+secret[1:], identity.ErrMalformed)
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.Authenticate(secret); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// near is another well-formed token that begins as this one does.
func near(secret string) string {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	body := []byte(secret[:47])
	body[46] = alphabet[(strings.IndexByte(alphabet, body[46])+1)%62]
	return string(body) + identity.Checksum(string(body))
}

func FuzzAuthenticate(f *testing.F) {
	s, _ := open(f)
	secret, _ := agent(f, s, "etl-bot")
	f.Add(secret)
	f.Add(near(secret))
	f.Add("tgt_")
	f.Add("")
	f.Fuzz(func(t *testing.T, bearer string) {
		_, err := s.Authenticate(bearer)
		if (err == nil) != (bearer == secret) {
			t.Errorf("%q: %v", bearer, err)
		}
		if errors.Is(err, identity.ErrUnknown) != (bearer != secret && identity.WellFormed(bearer)) {
			t.Errorf("%q: %v", bearer, err)
		}
	})
}

func FuzzBearer(f *testing.F) {
	f.Add("Bearer tgt_x", "")
	f.Add("bearer  x", "Bearer y")
	f.Fuzz(func(t *testing.T, one, two string) {
		for _, values := range [][]string{{one}, {one, two}} {
			token, err := identity.BearerFrom(map[string][]string{"Authorization": values})
			if (err == nil) == (token == "") || err == nil && (len(values) != 1 || !strings.HasSuffix(one, " "+token) || len(one) != len("Bearer ")+len(token)) {
				t.Errorf("%q: %q %v", values, token, err)
			}
		}
	})
}
