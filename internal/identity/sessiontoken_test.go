package identity_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/identity/assertion"
)

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

// TestSealedPayload: what has the right MAC is still read strictly.
func TestSealedPayload(t *testing.T) {
	a, _, _, _ := callers(t)
	exp := time.Now().Add(time.Hour).Unix()
	good := fmt.Sprintf(`{"v":1,"id":"ses_x","agent":"etl-bot","iss":"trailgate","sub":"etl-bot","session":"k","iat":1,"exp":%d}`, exp)
	if who, err := a.Authenticate(t.Context(), bearer(a.Seal(good))); err != nil || who.Principal.Agent != "etl-bot" {
		t.Fatalf("%+v %v", who.Principal, err)
	}
	for name, change := range map[string][2]string{
		"another version": {`"v":1`, `"v":2`}, "no version": {`"v":1,`, ``}, "a member that is not known": {`"v":1`, `"v":1,"admin":true`},
		"a member twice": {`"v":1`, `"v":1,"agent":"analyst-bot"`}, "another case": {`"agent"`, `"Agent"`}, "another type": {`"etl-bot"`, `7`},
		"no agent": {`"agent":"etl-bot",`, ``}, "an agent of nobody": {`"agent":"etl-bot"`, `"agent":"stranger"`}, "no end": {fmt.Sprintf(`,"exp":%d`, exp), ``},
		"cut off": {`"exp"`, ``}, "behind the object": {`}`, `}{}`}, "a parent that is not": {`"session"`, `"parents":["tok_x"],"session"`},
	} {
		payload := strings.Replace(good, change[0], change[1], 1)
		if payload == good {
			t.Fatalf("%s: nothing changed", name)
		}
		if who, err := a.Authenticate(t.Context(), bearer(a.Seal(payload))); err == nil {
			t.Errorf("%s: %+v", name, who.Principal)
		}
	}
	// Base64 in other spellings is another token.
	token := a.Seal(good)
	body, mac, _ := strings.Cut(token, ".")
	for name, other := range map[string]string{
		"line break in the MAC": body + "." + mac[:9] + "\n" + mac[9:], "line break behind": token + "\r\n", "padding": token + "=", "a third part": token + ".x", "no MAC": body + ".", "no dot": body,
	} {
		if _, err := a.Authenticate(t.Context(), bearer(other)); err == nil {
			t.Error(name)
		}
	}
}

// TestRevocationFaults: what could not be written is not in force, and says so;
// what was revoked before stays so.
func TestRevocationFaults(t *testing.T) {
	for _, step := range identity.WriteSteps {
		a, store, _, tokens := callers(t)
		var out [2]identity.Exchanged
		for i := range out {
			var err error
			if out[i], err = a.Exchange(t.Context(), exchange(tokens["etl-bot"], identity.TypeAccessToken)); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.RevokeSession(out[0].Identity.Principal.TokenID); err != nil {
			t.Fatal(err)
		}
		disk := errors.New("disk")
		a.SetRevokeFault(func(s string) error {
			if s == step {
				return disk
			}
			return nil
		})
		if err := a.RevokeSession(out[1].Identity.Principal.TokenID); !errors.Is(err, disk) {
			t.Fatalf("%s: %v", step, err)
		}
		if _, err := a.Authenticate(t.Context(), bearer(out[1].Token)); err != nil {
			t.Errorf("%s: not revoked, and does not work: %v", step, err)
		}
		again, err := identity.NewAuthenticator(identity.AuthConfig{Store: store, SessionKeyFile: filepath.Join(store.Dir(), "session.key")})
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		if _, err := again.Authenticate(t.Context(), bearer(out[0].Token)); !errors.Is(err, identity.ErrRevoked) {
			t.Errorf("%s: what was revoked before: %v", step, err)
		}
		a.SetRevokeFault(nil)
		if err := a.RevokeSession(out[1].Identity.Principal.TokenID); err != nil {
			t.Fatalf("%s, once more: %v", step, err)
		}
		if _, err := a.Authenticate(t.Context(), bearer(out[1].Token)); !errors.Is(err, identity.ErrRevoked) {
			t.Errorf("%s, once more: %v", step, err)
		}
	}
}

// TestRevocationOnASlowDisk: calls do not wait for one that is being written.
func TestRevocationOnASlowDisk(t *testing.T) {
	a, _, _, tokens := callers(t)
	out, err := a.Exchange(t.Context(), exchange(tokens["etl-bot"], identity.TypeAccessToken))
	if err != nil {
		t.Fatal(err)
	}
	began, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	a.SetRevokeFault(func(step string) error {
		if step == "sync" {
			close(began)
			<-goOn
		}
		return nil
	})
	go func() { done <- a.RevokeSession(out.Identity.Principal.TokenID) }()
	<-began
	if _, err := a.Authenticate(t.Context(), bearer(out.Token)); err != nil {
		t.Errorf("while it is being written: %v", err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(t.Context(), bearer(out.Token)); !errors.Is(err, identity.ErrRevoked) {
		t.Errorf("once it was: %v", err)
	}
}

// FuzzSessionToken: nothing but the token is the token, and nothing panics.
func FuzzSessionToken(f *testing.F) {
	a, _, _, tokens := callers(f)
	out, err := a.Exchange(f.Context(), exchange(tokens["etl-bot"], identity.TypeAccessToken))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{out.Token, "tgs_", "tgs_.", "tgs_e30.e30", "..", "tgs_a.b.c", out.Token + "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if who, err := a.Authenticate(t.Context(), bearer(s)); err == nil && s != out.Token {
			t.Errorf("%q is %+v", s, who.Principal)
		}
		a.Introspect(t.Context(), s)
	})
}
