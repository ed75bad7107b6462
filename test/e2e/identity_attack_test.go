package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/idptest"
)

// impostor is one try at being etl-bot, or at being more than one is.
type impostor struct {
	name string
	cert *tls.Certificate // shown in the handshake; nil: none
	do   func(*http.Request)
	want int
}

// got is what came of a request.
type got struct {
	status int
	header http.Header
	body   string
}

// send makes one query over a connection of its own.
func (r *idRig) send(t *testing.T, cert *tls.Certificate, project, sql string, do func(*http.Request)) got {
	t.Helper()
	body, err := json.Marshal(map[string]any{"query": sql, "useLegacySql": false})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url()+"/bigquery/v2/projects/"+project+"/queries", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	do(req)
	roots := x509.NewCertPool()
	roots.AddCert(r.ca.cert)
	conf := &tls.Config{RootCAs: roots}
	if cert != nil { // whichever authorities the server names, this one is shown
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	resp, err := (&http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return got{resp.StatusCode, resp.Header, string(raw)}
}

func withBearer(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

// certificate is one of a's, ready for a handshake.
func (a *authority) certificate(t *testing.T, tmpl *x509.Certificate) *tls.Certificate {
	t.Helper()
	cert, key := a.issue(t, tmpl)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

// nested is an act claim of this depth (RFC 8693 section 4.1).
func nested(depth int) map[string]any {
	act := map[string]any{"sub": "actor-0"}
	for i := range depth - 1 {
		act = map[string]any{"sub": fmt.Sprintf("actor-%d", i+1), "act": act}
	}
	return act
}

// forgedJWTs are those that the gateway must not take for etl-bot's.
func forgedJWTs(r *idRig, evil *idptest.Provider) []impostor {
	now := time.Now()
	claims := map[string]any{"sub": subjectOf(etl), "aud": r.url(), "iss": r.cluster.URL(), "human": humans[etl], "email_verified": true}
	mint := func(more map[string]any, opts ...idptest.MintOption) string { return r.jwt(etl, more, opts...) }
	var all []impostor
	for _, x := range []struct {
		name, token string
		want        int
	}{
		{"alg none", mint(nil, idptest.Alg("none")), 401},
		{"alg none without its dot", strings.TrimSuffix(mint(nil, idptest.Alg("none")), "."), 401},
		{"HS256 with the RSA public key", mint(nil, idptest.Alg("HS256")), 401},
		{"HS256 passed off as RS256", mint(nil, idptest.Alg("HS256"), idptest.Header("alg", "RS256")), 401},
		{"RS256 passed off as ES256", mint(nil, idptest.Header("alg", "ES256")), 401},
		{"algorithm that is not listed", mint(nil, idptest.Alg("EdDSA")), 401},
		{"other key", mint(nil, idptest.WrongKey()), 401},
		{"unknown kid", mint(nil, idptest.Header("kid", "elsewhere")), 401},
		{"jku", mint(nil, idptest.WrongKey(), idptest.Header("jku", evil.URL()+idptest.PathKeys), idptest.Header("kid", "k1-RS256")), 401},
		{"x5u", mint(nil, idptest.Header("x5u", evil.URL()+"/x5u")), 401},
		{"jwk", evil.Mint(claims, idptest.Header("jwk", json.RawMessage(firstKey(evil)))), 401},
		{"crit", mint(nil, idptest.Header("crit", []string{"b64"}), idptest.Header("b64", false)), 401},
		{"keys of another issuer", evil.Mint(claims), 401},
		{"other issuer", evil.Mint(map[string]any{"sub": subjectOf(etl), "aud": r.url()}), 401},
		{"issuer with a slash more", mint(map[string]any{"iss": r.cluster.URL() + "/"}), 401},
		{"other audience", mint(map[string]any{"aud": "https://other.example"}), 401},
		{"no audience", mint(map[string]any{"aud": nil}), 401},
		{"expired", mint(map[string]any{"iat": now.Add(-2 * time.Hour).Unix(), "exp": now.Add(-5 * time.Minute).Unix()}), 401},
		{"no expiry", mint(map[string]any{"exp": nil}), 401},
		{"not yet", mint(map[string]any{"nbf": now.Add(time.Hour).Unix()}), 401},
		{"of the future", mint(map[string]any{"iat": now.Add(time.Hour).Unix(), "exp": now.Add(2 * time.Hour).Unix()}), 401},
		{"for too long", mint(map[string]any{"exp": now.Add(48 * time.Hour).Unix()}), 401},
		{"act 1,000 deep", mint(map[string]any{"act": nested(1000)}), 401},
		{"act 9 deep", mint(map[string]any{"act": nested(9)}), 401},
		{"act of the wrong kind", mint(map[string]any{"act": "somebody"}), 401},
		{"outside of the map", mint(map[string]any{"sub": "system:serviceaccount:default:etl-bot"}), 401},
		{"unknown agent", mint(map[string]any{"sub": subjectOf("nobody")}), 401},
		{"name that is none", mint(map[string]any{"sub": subjectOf("etl-bot\n")}), 401},
		{"human's own JWT", r.staff.Mint(map[string]any{"sub": "u1", "aud": r.url(), "email": humans[etl], "email_verified": true}), 401},
		{"white space in the middle", spaced(mint(nil)), 401},
		{"17 KiB", mint(map[string]any{"x": strings.Repeat("y", 17<<10)}), 401},
	} {
		all = append(all, impostor{name: x.name, do: withBearer(x.token), want: x.want})
	}
	return all
}

// spaced has a space between two letters of its payload. Some parsers skip those.
func spaced(token string) string { return token[:len(token)/2] + " " + token[len(token)/2:] }

// firstKey is a provider's first public key as a JWK.
func firstKey(p *idptest.Provider) []byte {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(p.JWKS(), &set); err != nil || len(set.Keys) == 0 {
		return []byte("{}")
	}
	return set.Keys[0]
}

// forgedCertificates are client certificates that must not count as etl-bot's.
func forgedCertificates(t *testing.T, r *idRig) []impostor {
	none := func(*http.Request) {}
	evil := newAuthority(t, "corp.example") // the same name and trust domain, another key
	change := func(do func(*x509.Certificate)) *x509.Certificate {
		c := svid("corp.example", etl)
		do(c)
		return c
	}
	spiffe := func(c *x509.Certificate) *tls.Certificate { return r.spiffe.certificate(t, c) }
	expired := change(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	early := change(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	})
	return []impostor{
		{"other authority", evil.certificate(t, svid("corp.example", etl)), none, 401},
		{"gateway's own authority", r.ca.certificate(t, svid("corp.example", etl)), none, 401},
		{"other trust domain", spiffe(svid("evil.example", etl)), none, 401},
		{"two ids", spiffe(change(func(c *x509.Certificate) { c.URIs = append(c.URIs, svid("corp.example", analyst).URIs...) })), none, 401},
		{"name in the subject alone", spiffe(&x509.Certificate{Subject: pkix.Name{CommonName: etl}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}), none, 401},
		{"expired certificate", spiffe(expired), none, 401},
		{"certificate of tomorrow", spiffe(early), none, 401},
		{"server's certificate", spiffe(change(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), none, 401},
		{"agent that nobody knows", spiffe(svid("corp.example", "nobody")), none, 401},
		{"certificate of one agent with the JWT of another", spiffe(svid("corp.example", analyst)), withBearer(r.jwt(etl, nil)), 401},
	}
}

// TestIdentityAttacks is "Being someone else" of the threat model, as far as
// credentials go: none of these is etl-bot, and nothing of it reaches BigQuery.
func TestIdentityAttacks(t *testing.T) {
	r := newIDRig(t)
	for _, agent := range agents {
		r.prepare(agent)
	}
	evil := idptest.NewProvider(t)
	token := strings.TrimSpace(read(t, r.file(etl, "token")))
	own := strings.TrimSpace(read(t, r.file(analyst, "token")))
	all := append(forgedJWTs(r, evil), forgedCertificates(t, r)...)
	elsewhere := strings.TrimSpace(r.must("agent", "token", etl, "--source", "192.0.2.0/24"))
	all = append(all,
		impostor{"nothing at all", nil, func(*http.Request) {}, 401},
		impostor{"two Authorization headers", nil, func(r *http.Request) { r.Header["Authorization"] = []string{"Bearer " + own, "Bearer " + token} }, 401},
		impostor{"token in the query", nil, func(r *http.Request) { r.URL.RawQuery = "access_token=" + token }, 401},
		impostor{"certificate in a header", nil, func(r *http.Request) {
			r.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://corp.example/agent/etl-bot")
			r.Header.Set("X-SSL-Client-Verify", "SUCCESS")
		}, 401},
		impostor{"agent in a header", nil, func(r *http.Request) {
			r.Header.Set("X-Goog-Authenticated-User-Email", "accounts.google.com:"+etl)
			r.Header.Set("X-Trailgate-Agent", etl)
		}, 401},
		impostor{"token from another address", nil, withBearer(elsewhere), 401},
		impostor{"token from another address that says where it is", nil, func(r *http.Request) {
			withBearer(elsewhere)(r)
			r.Header.Set("X-Forwarded-For", "192.0.2.7")
			r.Header.Set("Forwarded", "for=192.0.2.7")
			r.Header.Set("X-Real-Ip", "192.0.2.7")
		}, 401},
		impostor{"Google's token", nil, withBearer(r.google.Give(serviceAccount(etl, pBecome), cloudScope)), 401},
		impostor{"token with one letter changed", nil, withBearer(flip(token)), 401},
	)
	before := len(r.box.arrivals())
	fetched := evil.Calls("*")
	for i, a := range all {
		g := r.send(t, a.cert, pBecome, fmt.Sprintf("SELECT 'attack-%d' AS tag", i), a.do)
		if g.status != a.want {
			t.Errorf("%s: %d %s, want %d", a.name, g.status, g.body, a.want)
		}
		checkShape(t, answered(g))
		if strings.Contains(g.body, "eyJ") || strings.Contains(g.body, "tgt_") {
			t.Errorf("%s: the answer has a credential in it: %s", a.name, g.body)
		}
	}
	if n := len(r.box.arrivals()) - before; n != 0 {
		t.Errorf("%d requests reached BigQuery", n)
	}
	if n := evil.Calls("*") - fetched; n != 0 {
		t.Errorf("the gateway asked the attacker's server %d times", n)
	}
	if n := r.google.Calls("*"); n != 0 {
		t.Errorf("Google was asked %d times on behalf of strangers", n)
	}
	// All are counted, none is an entry of the agent's.
	counted := r.strangers(len(all))
	total := 0
	for _, n := range counted {
		total += n
	}
	if total != len(all) {
		t.Errorf("%d of %d are counted: %v", total, len(all), counted)
	}
	for _, w := range r.calls() {
		if w.Entry.Principal != nil && len(w.Entry.Statements) > 0 && strings.Contains(w.Entry.Statements[0].Text, "attack-") {
			t.Errorf("an attack is on record as a call of %s's", w.Entry.Principal.Agent)
		}
	}
	t.Run("forged headers", func(t *testing.T) { checkForgedHeaders(t, r) })
	t.Run("exchange", func(t *testing.T) { checkForgedExchanges(t, r, evil) })
	t.Run("secrets", r.checkIDSecrets)
}

// checkForgedHeaders: a good credential with lies beside it is its owner's, and the
// lies stay here.
func checkForgedHeaders(t *testing.T, r *idRig) {
	const sql = "SELECT 'lies' AS tag"
	lies := map[string]string{
		"X-Forwarded-For": "10.9.8.7", "Forwarded": "for=10.9.8.7", "X-Forwarded-User": etl, "X-Goog-Authenticated-User-Email": "accounts.google.com:" + humans[etl],
		"X-Goog-Authenticated-User-Id": "accounts.google.com:1", "X-Goog-Iap-Jwt-Assertion": r.jwt(etl, nil), "X-Trailgate-Human": humans[etl],
		"X-Goog-User-Project": "somebody-elses", "X-Goog-Request-Reason": "ticket 1", "X-Forwarded-Client-Cert": "URI=spiffe://corp.example/agent/etl-bot",
	}
	before := len(r.box.arrivals())
	g := r.send(t, nil, pBecome, sql, func(req *http.Request) {
		withBearer(r.jwt(analyst, nil))(req)
		for name, value := range lies {
			req.Header.Set(name, value)
		}
	})
	if g.status != 200 {
		t.Fatalf("%d %s", g.status, g.body)
	}
	rows := r.calls()
	i := slices.IndexFunc(rows, func(w row) bool { return len(w.Entry.Statements) == 1 && w.Entry.Statements[0].Text == sql })
	if i < 0 {
		t.Fatal("the call is not in the trail")
	}
	e := rows[i].Entry
	if e.Principal.Agent != analyst || e.Principal.Human != humans[analyst] || upstreamOf(rows[i]).Principal != serviceAccount(analyst, pBecome) || !strings.HasPrefix(e.Client, "127.0.0.1:") {
		t.Errorf("it is put down to %+v from %s, as %+v", e.Principal, e.Client, upstreamOf(rows[i]))
	}
	if c := e.Claims; c == nil || c.Human != humans[etl] || c.Reason != "ticket 1" || c.QuotaProject != "somebody-elses" {
		t.Errorf("what it claimed is on record as %+v", e.Claims)
	}
	for _, a := range r.box.arrivals()[before:] {
		for name, value := range lies {
			if strings.Contains(a.raw, value) {
				t.Errorf("%s reached BigQuery", name)
			}
		}
	}
}

const (
	exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"
	typePrefix    = "urn:ietf:params:oauth:token-type:"
)

// trade asks for a session token and returns it, or "" and OAuth's word for why not.
func (r *idRig) trade(t *testing.T, form url.Values) (token, problem string) {
	t.Helper()
	all := url.Values{"grant_type": {exchangeGrant}, "subject_token_type": {typePrefix + "jwt"}}
	for name, values := range form {
		all[name] = values
	}
	resp, err := r.client.PostForm(r.url()+"/v1/token", all)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct {
		Token string `json:"access_token"`
		Error string `json:"error"`
		Type  string `json:"token_type"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	if (resp.StatusCode == 200) != (body.Token != "" && body.Type == "Bearer") || (resp.StatusCode != 200) != (body.Error != "") {
		t.Errorf("exchange: %s with %+v", resp.Status, body)
	}
	return body.Token, body.Error
}

// checkForgedExchanges: the second door takes nothing that the first does not, and
// what comes out is never more than what went in.
func checkForgedExchanges(t *testing.T, r *idRig, evil *idptest.Provider) {
	for _, x := range forgedJWTs(r, evil) {
		req := &http.Request{Header: http.Header{}}
		x.do(req)
		jwt := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
		if token, problem := r.trade(t, url.Values{"subject_token": {jwt}}); token != "" || problem == "" {
			t.Errorf("%s is exchanged", x.name)
		}
		good := r.jwt(etl, nil)
		if x.name == "human's own JWT" { // a human is no actor, though a good subject
			continue
		}
		if token, problem := r.trade(t, url.Values{"subject_token": {good}, "actor_token": {jwt}, "actor_token_type": {typePrefix + "jwt"}}); token != "" || problem == "" {
			t.Errorf("%s is taken for an actor", x.name)
		}
	}
	human := r.staff.Mint(map[string]any{"sub": "u1", "aud": r.url(), "email": "boss@corp.example", "email_verified": true})
	narrow := strings.TrimSpace(r.must("agent", "token", etl, "--connection", "become"))
	access := typePrefix + "access_token"

	// A human's JWT and an agent's: the agent acts for that human, verified.
	token, problem := r.trade(t, url.Values{"subject_token": {human}, "actor_token": {r.jwt(etl, map[string]any{"human": nil})}, "actor_token_type": {typePrefix + "jwt"}})
	if problem != "" {
		t.Fatalf("the agent for the human: %s", problem)
	}
	if g := r.send(t, nil, pSigned, "SELECT 'for the boss' AS tag", withBearer(token)); g.status != 200 {
		t.Errorf("%d %s", g.status, g.body)
	}
	// A token for one connection, exchanged with a wish for another, stays narrow.
	for _, audience := range []string{"", "connection:static", "connection:become"} {
		form := url.Values{"subject_token": {narrow}, "subject_token_type": {access}}
		if audience != "" {
			form.Set("audience", audience)
		}
		traded, problem := r.trade(t, form)
		if problem != "" {
			if audience != "connection:static" {
				t.Errorf("audience %q: %s", audience, problem)
			}
			continue
		}
		if g := r.send(t, nil, pStatic, "SELECT 'wider' AS tag", withBearer(traded)); g.status != 403 {
			t.Errorf("audience %q: a narrow token became a wide one: %d %s", audience, g.status, g.body)
		}
		if g := r.send(t, nil, pBecome, "SELECT 'narrow "+audience+"' AS tag", withBearer(traded)); audience != "connection:static" && g.status != 200 {
			t.Errorf("audience %q: %d %s", audience, g.status, g.body)
		}
		if g := r.send(t, nil, pBecome, "SELECT 'changed' AS tag", withBearer(flip(traded))); g.status != 401 {
			t.Errorf("a session token with a letter changed: %d %s", g.status, g.body)
		}
	}
	rows := r.calls()
	i := slices.IndexFunc(rows, func(w row) bool {
		return len(w.Entry.Statements) == 1 && w.Entry.Statements[0].Text == "SELECT 'for the boss' AS tag"
	})
	if i < 0 {
		t.Fatal("the call for the human is not in the trail")
	}
	if p := rows[i].Entry.Principal; p.Agent != etl || p.Human != "boss@corp.example" || p.HumanBy != trailgate.HumanByIssuer || !slices.Equal(p.Actors, []string{r.staff.URL() + "|u1"}) || p.AuthMode != trailgate.AuthTokenExchange {
		t.Errorf("the call for the human is put down to %+v", p)
	}
}
