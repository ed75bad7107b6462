package identity_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/identity"
)

func open(t testing.TB) (*identity.Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agents.json")
	s, err := identity.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s, path
}

func agent(t testing.TB, s *identity.Store, name string) (secret string, tok identity.Token) {
	t.Helper()
	if _, err := s.AddAgent(name, ""); err != nil {
		t.Fatal(err)
	}
	secret, tok, err := s.IssueToken(name, identity.TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return secret, tok
}

// TestTokenFormat pins the format, which secret scanners are to know.
func TestTokenFormat(t *testing.T) {
	// Made by another implementation of the format (Python's zlib.crc32 and integers).
	var count, ff [32]byte
	for i := range count {
		count[i], ff[i] = byte(i), 0xff
	}
	token := ""
	for want, raw := range map[string][32]byte{
		"tgt_000000000000000000000000000000000000000000044mP3U": {},
		"tgt_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf4SeLm8": count,
		"tgt_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1292iEu": ff,
	} {
		if token = identity.Format(raw); token != want || !identity.WellFormed(token) {
			t.Errorf("%s, want %s", token, want)
		}
	}
	for i := range token {
		for _, c := range []byte{'0', 'z', '-', token[i] ^ 1} {
			bad := token[:i] + string(rune(c)) + token[i+1:]
			if bad != token && identity.WellFormed(bad) {
				t.Errorf("one wrong character passes: %s", bad)
			}
		}
	}
}

func TestLifeOfAToken(t *testing.T) {
	s, path := open(t)
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	s.SetNow(func() time.Time { return now })
	secret, tok := agent(t, s, "etl-bot")
	other, _ := agent(t, s, "analyst-bot")

	id, err := s.Authenticate(secret)
	if err != nil || id.Principal.Agent != "etl-bot" || id.Principal.TokenID != tok.ID || id.Principal.AuthMode != "gateway_token" {
		t.Fatalf("%+v %v", id, err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte(secret)) || bytes.Contains(raw, []byte(secret[4:20])) {
		t.Error("the secret is at rest")
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}

	now = now.Add(24*time.Hour - time.Nanosecond)
	if _, err := s.Authenticate(secret); err != nil {
		t.Error("expired early:", err)
	}
	now = now.Add(time.Nanosecond)
	if _, err := s.Authenticate(secret); !errors.Is(err, identity.ErrExpired) {
		t.Error("expired:", err)
	}
	now = now.Add(-time.Hour)
	if err := s.RevokeToken(tok.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Authenticate(secret); !errors.Is(err, identity.ErrRevoked) {
		t.Error("revoked:", err)
	}
	if err := s.RevokeAgent("analyst-bot"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Authenticate(other); !errors.Is(err, identity.ErrRevoked) {
		t.Error("revoked agent:", err)
	}
	if _, _, err := s.IssueToken("analyst-bot", identity.TokenOptions{}); !errors.Is(err, identity.ErrRevoked) {
		t.Error("token for a revoked agent:", err)
	}
	if _, err := s.AddAgent("analyst-bot", ""); !errors.Is(err, identity.ErrExists) {
		t.Error("a revoked agent's name was given again:", err)
	}

	again, err := identity.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	again.SetNow(func() time.Time { return now })
	if d := cmp.Diff(s.Agents(), again.Agents()); d != "" {
		t.Error(d)
	}
	if _, err := again.Authenticate(secret); !errors.Is(err, identity.ErrRevoked) {
		t.Error("revocation did not survive:", err)
	}
}

func TestNotATokenOfOurs(t *testing.T) {
	s, _ := open(t)
	agent(t, s, "etl-bot")
	stranger, _ := open(t)
	foreign, _ := agent(t, stranger, "etl-bot")
	for token, want := range map[string]error{
		foreign: identity.ErrUnknown, "": identity.ErrMalformed, "tgt_": identity.ErrMalformed, foreign + "0": identity.ErrMalformed,
		foreign[:52] + "é": identity.ErrMalformed, strings.ToUpper(foreign): identity.ErrMalformed, "eyJhbGciOiJub25lIn0.e30.": identity.ErrMalformed,
	} {
		if _, err := s.Authenticate(token); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", token, err, want)
		}
	}
}

func TestBearer(t *testing.T) {
	for _, tt := range []struct {
		values []string
		want   string
	}{
		{[]string{"Bearer abc"}, "abc"},
		{[]string{"bearer abc"}, "abc"},
		{nil, ""},
		{[]string{""}, ""},
		{[]string{"Bearer"}, ""},
		{[]string{"Bearer "}, ""},
		{[]string{"Basic abc"}, ""},
		{[]string{"Bearer a", "Bearer b"}, ""},
		{[]string{"Bearer a, Bearer b"}, ""},
		{[]string{"Bearer a b"}, ""},
		{[]string{"Bearer  a"}, ""},
		{[]string{"Bearer " + strings.Repeat("x", 10_000)}, ""},
		{[]string{" Bearer a"}, ""},
		{[]string{"Bearer\ta"}, ""},
		{[]string{"Bearer a\n"}, ""},
		{[]string{"Bearer a\x00"}, ""},
		{[]string{"Bearer é"}, ""},
		{[]string{"Bearer:a"}, ""},
		{[]string{"Bearera"}, ""},
		{[]string{"Token a"}, ""},
		{[]string{"Bearer realm=\"x\", a"}, ""},
		{[]string{"", "Bearer a"}, ""},
		{[]string{"BEARER tgt_x"}, "tgt_x"},
	} {
		got, err := identity.BearerFrom(http.Header{"Authorization": tt.values})
		if got != tt.want || (err == nil) != (tt.want != "") || err != nil && !errors.Is(err, identity.ErrMalformed) {
			t.Errorf("%.40q: %q, %v", tt.values, got, err)
		}
	}
}

func TestBadInput(t *testing.T) {
	s, _ := open(t)
	for _, name := range []string{"", "Etl", "1bot", "a b", "a.b", "é", "../x", strings.Repeat("a", 64), "a\n", "-a"} {
		if _, err := s.AddAgent(name, ""); !errors.Is(err, identity.ErrBadName) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, _, err := s.IssueToken("nobody", identity.TokenOptions{}); !errors.Is(err, identity.ErrNoAgent) {
		t.Error(err)
	}
	agent(t, s, "a")
	for _, ttl := range []time.Duration{-1, 1, 400 * 24 * time.Hour} {
		if _, _, err := s.IssueToken("a", identity.TokenOptions{TTL: ttl}); err == nil {
			t.Errorf("ttl %s was accepted", ttl)
		}
	}
	if err := s.RevokeAgent("nobody"); !errors.Is(err, identity.ErrNoAgent) {
		t.Error(err)
	}
	if err := s.RevokeToken("tok_x"); !errors.Is(err, identity.ErrNoToken) {
		t.Error(err)
	}
}

// one cuts the first token out of a store, with a comma.
func one(raw []byte) []byte {
	_, rest, _ := bytes.Cut(raw, []byte(`"tokens": [`))
	end := bytes.IndexByte(rest, '}')
	return append(bytes.Clone(rest[:end+1]), ',')
}

// TestDamagedFile: what cannot be read whole is an error, and stays as it is.
func TestDamagedFile(t *testing.T) {
	s, path := open(t)
	agent(t, s, "etl-bot")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"empty": {}, "cut": good[:len(good)/2], "trailing": append(bytes.Clone(good), "{}"...), "unknown key": bytes.Replace(good, []byte(`"version"`), []byte(`"versions"`), 1),
		"repeated": bytes.Replace(good, []byte(`"version": 1`), []byte(`"version": 1, "version": 1`), 1), "case": bytes.Replace(good, []byte(`"tokens"`), []byte(`"Tokens"`), 1),
		"utf8": bytes.Replace(good, []byte(`"agents": [`), []byte("\"agents\": [ {\"name\": \"a\", \"note\": \"\xff\", \"created\": \"2026-11-23T00:00:00Z\"},"), 1),
		"null": bytes.Replace(good, []byte(`"agents": [`), []byte(`"agents": [ null,`), 1), "id": bytes.Replace(good, []byte(`"id": "tok_`), []byte(`"id": "tak_`), 1),
		"twice":   bytes.Replace(good, []byte(`"tokens": [`), append([]byte(`"tokens": [`), one(good)...), 1),
		"version": bytes.Replace(good, []byte(`"version": 1`), []byte(`"version": 9`), 1), "name": bytes.Replace(good, []byte(`"name": "etl-bot"`), []byte(`"name": "ETL"`), 1),
		"orphan": bytes.Replace(good, []byte(`"agent": "etl-bot"`), []byte(`"agent": "other"`), 1), "hash": bytes.Replace(good, []byte(`"sha256": "`), []byte(`"sha256": "zz`), 1),
	} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(bad, good) {
			t.Errorf("%s: nothing was damaged", name)
		}
		if _, err := identity.Open(path); err == nil || !strings.Contains(err.Error(), "agents.json is damaged") || !strings.Contains(err.Error(), "restore it") {
			t.Errorf("%s: %v", name, err)
		}
		if now, _ := os.ReadFile(path); !bytes.Equal(now, bad) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

func TestConcurrent(t *testing.T) {
	s, _ := open(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := fmt.Sprintf("bot-%d", i)
			if _, err := s.AddAgent(name, ""); err != nil {
				t.Error(err)
				return
			}
			for range 10 {
				secret, tok, err := s.IssueToken(name, identity.TokenOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				if id, err := s.Authenticate(secret); err != nil || id.Principal.Agent != name {
					t.Errorf("%v %v", id, err)
				}
				if err := s.RevokeToken(tok.ID); err != nil {
					t.Error(err)
				}
				if _, err := s.Authenticate(secret); !errors.Is(err, identity.ErrRevoked) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
