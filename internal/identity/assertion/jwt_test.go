package assertion_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/identity/assertion"
	"github.com/trailgate/trailgate/internal/idptest"
)

const audience = "https://gw.example"

// clock is a clock that stands until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func issuerOf(p *idptest.Provider) assertion.Issuer {
	return assertion.Issuer{
		Name: "cluster", Issuer: p.URL(), Audiences: []string{audience}, Algorithms: []string{"RS256", "ES256", "EdDSA"}, ClockSkew: time.Minute, MaxLifetime: time.Hour,
		Map: assertion.Map{
			When: `claims.sub.startsWith("system:serviceaccount:agents:")`, Agent: `claims.sub.split(":")[3]`,
			Human: `has(claims.email) ? claims.email : ""`, Connections: `has(claims.conns) ? claims.conns : ["lake"]`,
		},
	}
}

// verifier makes one with a provider behind it, and a clock for both.
func verifier(t testing.TB, change ...func(*assertion.Issuer)) (*assertion.Verifier, *idptest.Provider, *clock) {
	t.Helper()
	p := idptest.NewProvider(t)
	c := &clock{now: time.Now()}
	p.SetClock(c.Now)
	iss := issuerOf(p)
	for _, f := range change {
		f(&iss)
	}
	v, err := assertion.New(assertion.Config{Issuers: []assertion.Issuer{iss}, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	return v, p, c
}

// of are the claims of a good token, with changes.
func of(changes ...map[string]any) map[string]any {
	claims := map[string]any{"sub": "system:serviceaccount:agents:etl-bot", "aud": audience, "jti": "id-1"}
	for _, c := range changes {
		for k, v := range c {
			claims[k] = v
		}
	}
	return claims
}

func TestJWT(t *testing.T) {
	v, p, c := verifier(t)
	raw := p.Mint(of(map[string]any{
		"email": "ada@example.com", "aud": []any{"other", audience},
		"act": map[string]any{"sub": "portal", "iss": "https://portal.example", "act": map[string]any{"sub": "batch"}}, "may_act": map[string]any{"sub": "helper"},
	}))
	a, err := v.JWT(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	want := assertion.Assertion{
		Mode: "oidc_jwt", Source: "cluster", Issuer: p.URL(), Subject: "system:serviceaccount:agents:etl-bot", Agent: "etl-bot", Human: "ada@example.com",
		Actors: []string{"https://portal.example|portal", "batch"}, MayAct: []string{"helper"}, Connections: []string{"lake"}, Scoped: true, ID: "id-1", Token: raw,
		Issued: c.Now().UTC().Truncate(time.Second), Expires: c.Now().UTC().Truncate(time.Second).Add(5 * time.Minute), SHA256: a.SHA256,
	}
	if diff := cmp.Diff(want, a); diff != "" {
		t.Error(diff)
	}
	again, err := v.JWT(t.Context(), raw)
	if diff := cmp.Diff(a, again); err != nil || diff != "" {
		t.Errorf("from memory: %v %s", err, diff)
	}
	if strings.Contains(fmt.Sprint(a.LogValue()), raw) {
		t.Error("the token is in the log")
	}
	if n := p.Calls(idptest.PathKeys); n != 1 {
		t.Errorf("%d fetches of the keys", n)
	}
}

// forge changes a part of a token, leaving the signature.
func forge(t *testing.T, raw string, part int, change func(map[string]any)) string {
	t.Helper()
	parts := strings.Split(raw, ".")
	decoded, err := base64.RawURLEncoding.DecodeString(parts[part])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(decoded, &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	if decoded, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	parts[part] = base64.RawURLEncoding.EncodeToString(decoded)
	return strings.Join(parts, ".")
}

func kidOf(t *testing.T, raw string) (kid string) {
	t.Helper()
	forge(t, raw, 0, func(m map[string]any) { kid = m["kid"].(string) })
	return kid
}

func rawPart(raw string, part int, text string) string {
	parts := strings.Split(raw, ".")
	parts[part] = base64.RawURLEncoding.EncodeToString([]byte(text))
	return strings.Join(parts, ".")
}

// TestAttacks: each is refused for its own reason, before and after the keys are
// known.
func TestAttacks(t *testing.T) {
	v, p, c := verifier(t)
	other := idptest.NewProvider(t)
	good := p.Mint(of())
	deep := any(nil)
	for range 1000 {
		deep = map[string]any{"sub": "x", "act": deep}
	}
	eight := any(nil)
	for range assertion.MaxDepth + 1 {
		m := map[string]any{"sub": "x"}
		if eight != nil {
			m["act"] = eight
		}
		eight = m
	}
	unix := func(d time.Duration) int64 { return c.Now().Add(d).Unix() }
	for name, tc := range map[string]struct {
		raw  string
		want error
	}{
		"alg none":                  {p.Mint(of(), idptest.Alg("none")), assertion.ErrAlgorithm},
		"HS256 with the public key": {p.Mint(of(), idptest.Alg("HS256")), assertion.ErrAlgorithm},
		"an algorithm not listed":   {p.Mint(of(), idptest.Header("alg", "PS256")), assertion.ErrAlgorithm},
		"another's key, same kid":   {p.Mint(of(), idptest.WrongKey()), assertion.ErrSignature},
		"unknown kid":               {p.Mint(of(), idptest.Header("kid", "nope")), assertion.ErrKey},
		"key in the header":         {p.Mint(of(), idptest.Header("jwk", map[string]any{"kty": "RSA"})), assertion.ErrKey},
		"jku elsewhere":             {p.Mint(of(), idptest.Header("jku", other.URL()+"/keys")), assertion.ErrKey},
		"x5u elsewhere":             {p.Mint(of(), idptest.Header("x5u", other.URL()+"/cert")), assertion.ErrKey},
		"x5c":                       {p.Mint(of(), idptest.Header("x5c", []string{"AAAA"})), assertion.ErrKey},
		"crit":                      {p.Mint(of(), idptest.Header("crit", []string{"exp"})), assertion.ErrMalformed},
		"b64":                       {p.Mint(of(), idptest.Header("b64", false)), assertion.ErrMalformed},
		"zip":                       {p.Mint(of(), idptest.Header("zip", "DEF")), assertion.ErrMalformed},
		"nested":                    {p.Mint(of(), idptest.Header("cty", "JWT")), assertion.ErrMalformed},
		"a logout token":            {p.Mint(of(), idptest.Header("typ", "logout+jwt")), assertion.ErrMalformed},
		"other issuer":              {other.Mint(of()), assertion.ErrIssuer},
		"other issuer, our name":    {other.Mint(of(map[string]any{"iss": p.URL()}), idptest.Header("kid", kidOf(t, good))), assertion.ErrSignature},
		"issuer with a slash":       {p.Mint(of(map[string]any{"iss": p.URL() + "/"})), assertion.ErrIssuer},
		"no issuer":                 {p.Mint(of(map[string]any{"iss": nil})), assertion.ErrIssuer},
		"other audience":            {p.Mint(of(map[string]any{"aud": "https://other.example"})), assertion.ErrAudience},
		"audience as prefix":        {p.Mint(of(map[string]any{"aud": audience + ".evil.example"})), assertion.ErrAudience},
		"no audience":               {p.Mint(of(map[string]any{"aud": nil})), assertion.ErrAudience},
		"100 audiences":             {p.Mint(of(map[string]any{"aud": append(make([]any, 100), audience)})), assertion.ErrMalformed},
		"expired":                   {p.Mint(of(map[string]any{"exp": unix(-2 * time.Minute)})), assertion.ErrExpired},
		"no expiry":                 {p.Mint(of(map[string]any{"exp": nil})), assertion.ErrMalformed},
		"expiry as text":            {p.Mint(of(map[string]any{"exp": "9999999999"})), assertion.ErrMalformed},
		"expiry beyond time":        {p.Mint(of(map[string]any{"exp": 1e300})), assertion.ErrMalformed},
		"too long a life":           {p.Mint(of(map[string]any{"exp": unix(2 * time.Hour)})), assertion.ErrExpired},
		"too long, no iat":          {p.Mint(of(map[string]any{"iat": nil, "exp": unix(3 * time.Hour)})), assertion.ErrExpired},
		"from the future":           {p.Mint(of(map[string]any{"iat": unix(5 * time.Minute), "exp": unix(10 * time.Minute)})), assertion.ErrNotYet},
		"not before":                {p.Mint(of(map[string]any{"nbf": unix(2 * time.Minute)})), assertion.ErrNotYet},
		"act 1,000 deep":            {p.Mint(of(map[string]any{"act": deep})), assertion.ErrMalformed}, // too large a token, even
		"act nine deep":             {p.Mint(of(map[string]any{"act": eight})), assertion.ErrChain},
		"act without a subject":     {p.Mint(of(map[string]any{"act": map[string]any{"iss": "x"}})), assertion.ErrChain},
		"act as text":               {p.Mint(of(map[string]any{"act": "x"})), assertion.ErrChain},
		"may_act as text":           {p.Mint(of(map[string]any{"may_act": "x"})), assertion.ErrChain},
		"no subject":                {p.Mint(of(map[string]any{"sub": nil})), assertion.ErrMalformed},
		"subject with an escape":    {p.Mint(of(map[string]any{"sub": "system:serviceaccount:agents:\x1b[2J"})), assertion.ErrMalformed},
		"subject with a bidi mark":  {p.Mint(of(map[string]any{"sub": "system:serviceaccount:agents:\u202ebot"})), assertion.ErrMalformed},
		"the map says no":           {p.Mint(of(map[string]any{"sub": "system:serviceaccount:kube-system:etl-bot"})), assertion.ErrMapping},
		"the map fails":             {p.Mint(of(map[string]any{"conns": "text"})), assertion.ErrMapping},
		"claims changed":            {forge(t, good, 1, func(m map[string]any) { m["sub"] = "system:serviceaccount:agents:boss-bot" }), assertion.ErrSignature},
		"header changed":            {forge(t, good, 0, func(m map[string]any) { m["x"] = "y" }), assertion.ErrSignature},
		"claim twice":               {rawPart(good, 1, `{"iss":"`+p.URL()+`","iss":"`+p.URL()+`"}`), assertion.ErrMalformed},
		"header twice":              {rawPart(good, 0, `{"alg":"RS256","alg":"none"}`), assertion.ErrMalformed},
		"claims not an object":      {rawPart(good, 1, `[1]`), assertion.ErrMalformed},
		"claims null":               {rawPart(good, 1, `null`), assertion.ErrMalformed},
		"bytes that are not UTF-8":  {rawPart(good, 1, "{\"iss\":\"\xff\"}"), assertion.ErrMalformed},
		"something behind":          {rawPart(good, 1, `{"iss":"x"} {}`), assertion.ErrMalformed},
		"padded":                    {strings.Replace(good, ".", "=.", 1), assertion.ErrMalformed},
		"no signature":              {good[:strings.LastIndexByte(good, '.')+1], assertion.ErrSignature},
		"two parts":                 {good[:strings.LastIndexByte(good, '.')], assertion.ErrMalformed},
		"five parts (JWE)":          {good + ".a.b", assertion.ErrMalformed},
		"20 KiB":                    {good + strings.Repeat("A", 20<<10), assertion.ErrMalformed},
		"nothing":                   {"", assertion.ErrMalformed},
		"dots":                      {"..", assertion.ErrMalformed},
		"standard base64":           {strings.NewReplacer("-", "+", "_", "/").Replace(good) + "+", assertion.ErrMalformed},
	} {
		a, err := v.JWT(t.Context(), tc.raw)
		if !errors.Is(err, tc.want) || a.Agent != "" && !errors.Is(err, assertion.ErrMapping) {
			t.Errorf("%s: %+v, %v; want %v", name, a, err, tc.want)
		}
		if err != nil && (strings.Contains(err.Error(), "boss") || strings.Contains(err.Error(), "serviceaccount")) {
			t.Errorf("%s: the error quotes the token: %v", name, err)
		}
	}
	if n := other.Calls("/keys") + other.Calls("/cert"); n != 0 {
		t.Errorf("an address in a token was followed %d times", n)
	}
	if _, err := v.JWT(t.Context(), good); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

// TestSkew: a clock may be off a little, both ways, and no more.
func TestSkew(t *testing.T) {
	v, p, c := verifier(t)
	raw := p.Mint(of(map[string]any{"exp": c.Now().Add(-30 * time.Second).Unix()}))
	if _, err := v.JWT(t.Context(), raw); err != nil {
		t.Errorf("30 s late: %v", err)
	}
	ahead := p.Mint(of(map[string]any{"iat": c.Now().Add(30 * time.Second).Unix()}))
	if _, err := v.JWT(t.Context(), ahead); err != nil {
		t.Errorf("30 s early: %v", err)
	}
	c.add(31 * time.Second)
	if _, err := v.JWT(t.Context(), raw); !errors.Is(err, assertion.ErrExpired) {
		t.Errorf("what was verified once outlives itself: %v", err)
	}
}

// TestRotation: new keys are found, old ones end, and a flood of unknown key ids
// is not one at the issuer's.
func TestRotation(t *testing.T) {
	v, p, c := verifier(t)
	old := p.Mint(of())
	if _, err := v.JWT(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	c.add(11 * time.Second)
	p.Rotate(false)
	if _, err := v.JWT(t.Context(), p.Mint(of())); err != nil {
		t.Fatalf("a new key: %v", err)
	}
	if _, err := v.JWT(t.Context(), old); !errors.Is(err, assertion.ErrKey) {
		t.Errorf("a key that was withdrawn: %v", err)
	}
	before := p.Calls(idptest.PathKeys)
	var wg sync.WaitGroup
	for i := range 500 {
		raw := p.Mint(of(), idptest.Header("kid", fmt.Sprint("made-up-", i)))
		wg.Go(func() {
			if _, err := v.JWT(t.Context(), raw); !errors.Is(err, assertion.ErrKey) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := p.Calls(idptest.PathKeys) - before; n > 1 {
		t.Errorf("500 unknown key ids led to %d fetches", n)
	}
}

// TestIssuerAway: keys that were good stay in use for a day, and new issuers'
// tokens are a matter of trying again.
func TestIssuerAway(t *testing.T) {
	v, p, c := verifier(t)
	p.Fail(idptest.PathKeys, 503)
	raw := p.Mint(of())
	if _, err := v.JWT(t.Context(), raw); !errors.Is(err, assertion.ErrUnavailable) {
		t.Errorf("without keys: %v", err)
	}
	before := p.Calls(idptest.PathKeys)
	for range 50 {
		if _, err := v.JWT(t.Context(), raw); !errors.Is(err, assertion.ErrUnavailable) {
			t.Error(err)
		}
	}
	if n := p.Calls(idptest.PathKeys) - before; n != 0 {
		t.Errorf("50 calls led to %d fetches", n)
	}
	p.Fail(idptest.PathKeys, 0)
	c.add(11 * time.Second)
	if _, err := v.JWT(t.Context(), p.Mint(of())); err != nil {
		t.Fatalf("back again: %v", err)
	}
	p.Fail(idptest.PathKeys, 503)
	c.add(23 * time.Hour)
	if _, err := v.JWT(t.Context(), p.Mint(of())); err != nil {
		t.Errorf("a day without the issuer: %v", err)
	}
	c.add(2 * time.Hour)
	if _, err := v.JWT(t.Context(), p.Mint(of())); !errors.Is(err, assertion.ErrUnavailable) {
		t.Errorf("more than a day: %v", err)
	}
}

// TestDocuments: what an issuer publishes is bounded and read strictly.
func TestDocuments(t *testing.T) {
	for name, breakIt := range map[string]func(*idptest.Provider){
		"another's metadata": func(p *idptest.Provider) {
			p.ChangeDiscovery(func(d map[string]any) { d["issuer"] = "https://evil.example" })
		},
		"keys that are no set": func(p *idptest.Provider) { p.ServeKeys(func() []byte { return []byte(`[]`) }) },
		"members twice":        func(p *idptest.Provider) { p.ServeKeys(func() []byte { return []byte(`{"keys":[],"keys":[]}`) }) },
		"2 MiB":                func(p *idptest.Provider) { p.ServeKeys(func() []byte { return []byte(strings.Repeat(" ", 2<<20)) }) },
		"no keys":              func(p *idptest.Provider) { p.ServeKeys(func() []byte { return []byte(`{"keys":[]}`) }) },
		"1,000 keys": func(p *idptest.Provider) {
			p.ServeKeys(func() []byte { return []byte(`{"keys":[` + strings.Repeat(`{},`, 999) + `{}]}`) })
		},
		"a shared key": func(p *idptest.Provider) {
			p.ServeKeys(func() []byte { return []byte(`{"keys":[{"kty":"oct","k":"AAAA","kid":"k1"}]}`) })
		},
	} {
		v, p, _ := verifier(t)
		breakIt(p)
		if a, err := v.JWT(t.Context(), p.Mint(of())); !errors.Is(err, assertion.ErrUnavailable) {
			t.Errorf("%s: %+v %v", name, a, err)
		}
		if err := v.Check(t.Context(), "cluster"); err == nil {
			t.Errorf("%s: the check finds nothing", name)
		}
	}
}

// TestKeyFile is read again when it changes; a broken one leaves the keys in use.
func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jwks.json")
	var p *idptest.Provider
	write := func(raw []byte, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	p = idptest.NewProvider(t)
	write(p.JWKS(), time.Hour)
	c := &clock{now: time.Now()}
	p.SetClock(c.Now)
	iss := issuerOf(p)
	iss.JWKSFile = path
	v, err := assertion.New(assertion.Config{Issuers: []assertion.Issuer{iss}, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.JWT(t.Context(), p.Mint(of())); err != nil {
		t.Fatal(err)
	}
	p.Rotate(false)
	write(p.JWKS(), time.Minute)
	c.add(2 * time.Second)
	if _, err := v.JWT(t.Context(), p.Mint(of())); err != nil {
		t.Errorf("after the file changed: %v", err)
	}
	write([]byte("{"), 0)
	c.add(2 * time.Second)
	if _, err := v.JWT(t.Context(), p.Mint(of())); err != nil {
		t.Errorf("a broken file: %v", err)
	}
	if p.Calls(idptest.PathKeys) != 0 {
		t.Error("the issuer was asked")
	}
	if _, err := assertion.New(assertion.Config{Issuers: []assertion.Issuer{iss}, Now: c.Now}); err == nil {
		t.Error("a broken file at start")
	}
}

func TestMistakenConfig(t *testing.T) {
	p := idptest.NewProvider(t)
	for name, change := range map[string]func(*assertion.Issuer){
		"shared key":     func(i *assertion.Issuer) { i.Algorithms = []string{"HS256"} },
		"none":           func(i *assertion.Issuer) { i.Algorithms = []string{"none"} },
		"no audience":    func(i *assertion.Issuer) { i.Audiences = nil },
		"empty audience": func(i *assertion.Issuer) { i.Audiences = []string{""} },
		"wide skew":      func(i *assertion.Issuer) { i.ClockSkew = time.Hour },
		"bad CEL":        func(i *assertion.Issuer) { i.Map.Agent = "claims." },
		"nobody":         func(i *assertion.Issuer) { i.Map.Agent, i.Map.Human = "", "" },
		"two sources":    func(i *assertion.Issuer) { i.JWKSURL, i.DiscoveryURL = "https://a.example", "https://b.example" },
		"no address":     func(i *assertion.Issuer) { i.Issuer = "cluster" },
	} {
		iss := issuerOf(p)
		change(&iss)
		if _, err := assertion.New(assertion.Config{Issuers: []assertion.Issuer{iss}}); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	iss := issuerOf(p)
	if _, err := assertion.New(assertion.Config{Issuers: []assertion.Issuer{iss, iss}}); err == nil {
		t.Error("one issuer twice is accepted")
	}
}

func FuzzJWT(f *testing.F) {
	v, p, _ := verifier(f)
	good := p.Mint(of())
	f.Add(good)
	f.Add("a.b.c")
	f.Add(good + ".x.y")
	f.Fuzz(func(t *testing.T, raw string) {
		a, err := v.JWT(context.Background(), raw)
		if err == nil && raw != good {
			t.Errorf("%q is accepted as %+v", raw, a)
		}
	})
}

func BenchmarkJWT(b *testing.B) {
	v, p, _ := verifier(b)
	raw := p.Mint(of())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.JWT(b.Context(), raw); err != nil {
			b.Fatal(err)
		}
	}
}
