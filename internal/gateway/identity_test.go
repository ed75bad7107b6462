package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/gateway"
	"github.com/trailgate/trailgate/internal/identity"
)

const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
)

// exchange posts a form to the token endpoint.
func (r *rig) post(path string, form url.Values) (*http.Response, map[string]any) {
	r.t.Helper()
	resp, body := r.raw(http.MethodPost, path, "application/x-www-form-urlencoded", form.Encode())
	return resp, object(r.t, body)
}

func (r *rig) raw(verb, path, kind, body string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequest(verb, r.front.URL+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	resp, text, err := r.do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp, text
}

func object(t *testing.T, body string) map[string]any {
	t.Helper()
	out := map[string]any{}
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		t.Fatalf("not a JSON object: %v: %s", err, body)
	}
	return out
}

func exchangeForm(subject string) url.Values {
	return url.Values{"grant_type": {grantExchange}, "subject_token": {subject}, "subject_token_type": {typeAccessToken}}
}

// TestExchange: a token got by exchange is the agent's for one session, and the
// trail told of it before the agent had it.
func TestExchange(t *testing.T) {
	r := newRig(t, answerJob)
	resp, got := r.post("/v1/token", exchangeForm(r.tokens["etl-bot"]))
	token, _ := got["access_token"].(string)
	if resp.StatusCode != 200 || !strings.HasPrefix(token, "tgs_") || got["token_type"] != "Bearer" || got["issued_token_type"] != typeAccessToken || got["expires_in"].(float64) <= 0 {
		t.Fatalf("%d %v", resp.StatusCode, got)
	}
	if resp.Header.Get("Cache-Control") != "no-store" {
		t.Error("the answer may be cached")
	}
	var made *trailgate.Entry
	for _, e := range r.trail.all() {
		if e.Event != nil && e.Event.Action == "token.exchange" {
			made = e
		}
	}
	if made == nil || made.Principal.Agent != "etl-bot" || made.Principal.TokenID == "" || made.Principal.AuthMode != trailgate.AuthTokenExchange || made.Session == "" {
		t.Fatalf("entry about the exchange: %s", dump(made))
	}
	r.tokens["etl-bot"] = token
	if status, body := r.call("etl-bot", "POST", jobsPath, deleteBody); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	intent, _ := r.one()
	if p := intent.Principal; p.Agent != "etl-bot" || p.TokenID != made.Principal.TokenID || p.AuthMode != trailgate.AuthTokenExchange || intent.Session != made.Session {
		t.Errorf("%s", dump(intent))
	}
	for _, e := range r.trail.all() {
		if raw := dump(e); strings.Contains(raw, "tgs_") || strings.Contains(raw, "tgt_") {
			t.Errorf("a secret is in the trail: %s", raw)
		}
	}
	// The agent is shut out with the next call.
	if err := r.store.RevokeAgent("etl-bot"); err != nil {
		t.Fatal(err)
	}
	if status, _ := r.call("etl-bot", "GET", jobsPath, ""); status != 401 {
		t.Errorf("revoked: %d", status)
	}
	if resp, got := r.post("/v1/introspect", url.Values{"token": {token}}); resp.StatusCode != 200 || got["active"] != false || len(got) != 1 {
		t.Errorf("introspection of a revoked agent's token: %v", got)
	}
}

// TestExchangeNeedsTheTrail: without an entry there is no token.
func TestExchangeNeedsTheTrail(t *testing.T) {
	r := newRig(t, answerJob)
	r.trail.fail(func(e *trailgate.Entry) error {
		if e.Event != nil && e.Event.Action == "token.exchange" {
			return errDisk
		}
		return nil
	})
	resp, got := r.post("/v1/token", exchangeForm(r.tokens["etl-bot"]))
	if resp.StatusCode != 503 || got["error"] != "temporarily_unavailable" || got["access_token"] != nil {
		t.Errorf("%d %v", resp.StatusCode, got)
	}
}

// TestExchangeRefusals: what a token request may not be.
func TestExchangeRefusals(t *testing.T) {
	r := newRig(t, answerJob)
	form := "application/x-www-form-urlencoded"
	good := exchangeForm(r.tokens["etl-bot"]).Encode()
	for name, c := range map[string]struct {
		verb, path, kind, body string
		status                 int
	}{
		"GET":                    {"GET", "/v1/token", form, "", 405},
		"token in the query":     {"POST", "/v1/token?subject_token=x", form, good, 400},
		"JSON":                   {"POST", "/v1/token", "application/json", "{}", 415},
		"parameter twice":        {"POST", "/v1/token", form, good + "&subject_token=x", 400},
		"too large":              {"POST", "/v1/token", form, good + "&x=" + strings.Repeat("y", 70<<10), 413},
		"unreadable":             {"POST", "/v1/token", form, "%zz", 400},
		"other grant":            {"POST", "/v1/token", form, strings.Replace(good, "token-exchange", "refresh", 1), 400},
		"no subject":             {"POST", "/v1/token", form, "grant_type=" + url.QueryEscape(grantExchange), 400},
		"unknown token":          {"POST", "/v1/token", form, exchangeForm("tgt_" + strings.Repeat("0", 49)).Encode(), 400},
		"introspect nothing":     {"POST", "/v1/introspect", form, "", 400},
		"introspect by GET":      {"GET", "/v1/introspect", form, "", 405},
		"other spelling of path": {"POST", "/v1//token", form, good, 401},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := r.raw(c.verb, c.path, c.kind, c.body)
			if resp.StatusCode != c.status || strings.Contains(body, "access_token\"") {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
			if c.status != 401 && object(t, body)["error"] == nil {
				t.Errorf("not OAuth's error: %s", body)
			}
		})
	}
	for _, e := range r.trail.all() {
		if e.Event != nil && e.Event.Action == "token.exchange" {
			t.Errorf("a refused exchange is on record as one that was made: %s", dump(e))
		}
	}
	// What was refused is counted.
	if err := r.gw.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var counted int64
	for _, e := range r.trail.all() {
		if e.Aggregate != nil {
			counted += e.Aggregate.Count
		}
	}
	if counted == 0 {
		t.Error("refused exchanges are not counted")
	}
}

// TestIntrospect tells whose a token is to whoever holds it.
func TestIntrospect(t *testing.T) {
	r := newRig(t, answerJob)
	resp, got := r.post("/v1/introspect", url.Values{"token": {r.tokens["etl-bot"]}})
	if resp.StatusCode != 200 || got["active"] != true || got["username"] != "etl-bot" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", resp.StatusCode, got)
	}
	good := r.tokens["etl-bot"]
	last := "0"
	if strings.HasSuffix(good, last) {
		last = "1"
	}
	for _, bad := range []string{"x", "tgt_" + strings.Repeat("0", 49), good[:len(good)-1] + last} {
		if _, got := r.post("/v1/introspect", url.Values{"token": {bad}}); got["active"] != false || len(got) != 1 {
			t.Errorf("%s: %v", bad, got)
		}
	}
}

// TestCredentialScope: a token for one connection is of no use at another.
func TestCredentialScope(t *testing.T) {
	r := newRig(t, answerJob)
	secret, _, err := r.store.IssueToken("etl-bot", identity.TokenOptions{TTL: time.Hour, Connections: []string{"elsewhere"}})
	if err != nil {
		t.Fatal(err)
	}
	r.tokens["etl-bot"] = secret
	status, body := r.call("etl-bot", "POST", jobsPath, deleteBody)
	if why, msg := reason(t, body); status != 403 || why != "accessDenied" || !strings.Contains(msg, "may not use connection main") {
		t.Errorf("%d %s", status, body)
	}
	e := r.refused()
	if e.Kind != trailgate.KindDenied || e.Decision.Rule != "builtin/credential-scope" || e.Principal.Agent != "etl-bot" || len(e.Statements) != 1 {
		t.Errorf("%s", dump(e))
	}
	// An exchange does not widen it.
	_, got := r.post("/v1/token", exchangeForm(secret))
	r.tokens["etl-bot"] = got["access_token"].(string)
	if status, _ := r.call("etl-bot", "POST", jobsPath, deleteBody); status != 403 {
		t.Errorf("after an exchange: %d", status)
	}
}

// TestScopedCredentialWithoutProject: a call that names no project goes to a
// connection that the credential is for, not to whichever stands first; bq
// begins every run with one.
func TestScopedCredentialWithoutProject(t *testing.T) {
	r := newRig(t, answerJob, func(c *gateway.Config) {
		second := c.Connections[0]
		second.Name, second.Projects = "second", []string{"second-project"}
		c.Connections = append(c.Connections, second)
	})
	for _, c := range []struct {
		connections []string
		status      int
		connection  string
	}{
		{[]string{"second"}, 200, "second"},
		{[]string{"main", "second"}, 200, "main"},
		{[]string{"elsewhere"}, 403, "main"},
	} {
		secret, _, err := r.store.IssueToken("etl-bot", identity.TokenOptions{TTL: time.Hour, Connections: c.connections})
		if err != nil {
			t.Fatal(err)
		}
		r.tokens["etl-bot"] = secret
		for _, path := range []string{"/$discovery/rest?version=v2", "/bigquery/v2/projects"} {
			before := len(r.trail.all())
			if status, body := r.call("etl-bot", "GET", path, ""); status != c.status {
				t.Errorf("%v %s: %d %s", c.connections, path, status, body)
			}
			for _, e := range r.trail.all()[before:] {
				if e.Kind != trailgate.KindSession && e.Connection != c.connection {
					t.Errorf("%v %s: on record with connection %q", c.connections, path, e.Connection)
				}
			}
		}
	}
}

// TestSourceAddress: a token that is not for this address is refused, and the
// count says whose token it was: it may have been stolen.
func TestSourceAddress(t *testing.T) {
	r := newRig(t, answerJob)
	secret, tok, err := r.store.IssueToken("etl-bot", identity.TokenOptions{TTL: time.Hour, Sources: []string{"192.0.2.0/24"}})
	if err != nil {
		t.Fatal(err)
	}
	r.tokens["etl-bot"] = secret
	req := r.request("etl-bot", "POST", jobsPath, deleteBody)
	req.Header.Set("X-Forwarded-For", "192.0.2.1") // anybody's word
	req.Header.Set("Forwarded", "for=192.0.2.1")
	resp, body, err := r.do(req)
	if err != nil || resp.StatusCode != 401 {
		t.Fatalf("%v %v %s", resp, err, body)
	}
	if _, got := r.post("/v1/token", exchangeForm(secret)); got["access_token"] != nil {
		t.Error("an exchange takes it from any address")
	}
	if err := r.gw.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, e := range r.trail.all() {
		if e.Aggregate != nil && e.Event != nil && strings.Contains(e.Event.Detail["owners"], "etl-bot "+tok.ID) {
			found = true
		}
	}
	if !found {
		t.Errorf("the trail does not say whose token it was: %s", dump(r.trail.all()))
	}
	if seen, _ := r.upstreamSaw(); len(seen) != 0 {
		t.Error("it went upstream")
	}
}

// TestClaimedHuman: a human whom the client names stays a claim, and goes nowhere.
func TestClaimedHuman(t *testing.T) {
	r := newRig(t, answerJob)
	req := r.request("etl-bot", "POST", jobsPath, deleteBody)
	req.Header.Set("X-Trailgate-Human", "boss@example.com")
	if resp, body, err := r.do(req); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %s", err, body)
	}
	intent, _ := r.one()
	if intent.Principal.Human != "" || intent.Claims.Human != "boss@example.com" {
		t.Errorf("%s", dump(intent))
	}
	seen, _ := r.upstreamSaw()
	if seen[0].Header.Get("X-Trailgate-Human") != "" {
		t.Error("it went upstream")
	}
}

// failing is a source that has no credential.
type failing struct {
	federation.Source
	err error
}

func (f failing) Credential(context.Context, federation.Request) (federation.Credential, error) {
	return federation.Credential{}, f.err
}

// TestCredentialErrors: for now means 503, which clients try again; until
// somebody mends it means 403, which they show.
func TestCredentialErrors(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
		reason string
	}{
		"temporary": {&federation.Error{Connection: "main", Step: "sts", Message: "STS answers 503", Fix: "wait", Temporary: true}, 503, "backendError"},
		"permanent": {fmt.Errorf("x: %w", &federation.Error{Connection: "main", Step: "impersonation", Message: "denied", Fix: "gcloud iam add"}), 403, "accessDenied"},
		"other":     {errors.New("disk"), 503, "backendError"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, answerJob, func(cfg *gateway.Config) { cfg.Connections[0].Credential = failing{federation.None(), c.err} })
			status, body := r.call("etl-bot", "POST", jobsPath, deleteBody)
			why, msg := reason(t, body)
			if status != c.status || why != c.reason || !strings.Contains(msg, "connection main") {
				t.Errorf("%d %s", status, body)
			}
			if fed, ok := errors.AsType[*federation.Error](c.err); ok && !strings.Contains(msg, fed.Fix) {
				t.Errorf("the message does not say what to do: %s", msg)
			}
			if _, outcome := r.one(); outcome.Outcome.End != trailgate.EndNotForwarded {
				t.Errorf("%s", dump(outcome))
			}
		})
	}
}

// seenRequests keeps what a source is asked for.
type seenRequests struct {
	federation.Source
	last federation.Request
}

func (s *seenRequests) Credential(_ context.Context, r federation.Request) (federation.Credential, error) {
	s.last = r
	return federation.Credential{Token: "ya29.minted", Mode: "workload", Principal: "principal://x", Assertion: "agent"}, nil
}

// TestCredentialRequest: the source is told who calls, and the entries say as
// whom the call went on.
func TestCredentialRequest(t *testing.T) {
	src := &seenRequests{Source: federation.None()}
	r := newRig(t, answerJob, func(cfg *gateway.Config) { cfg.Connections[0].Credential = src })
	if status, body := r.call("etl-bot", "POST", jobsPath, deleteBody); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	intent, outcome := r.one()
	if src.last.Principal.Agent != "etl-bot" || src.last.Connection != "main" || src.last.Session != intent.Session || src.last.Project != "demo-project" {
		t.Errorf("%+v", src.last)
	}
	if u := outcome.Upstream; u == nil || u.Principal != "principal://x" || u.Assertion != "agent" || u.Shared {
		t.Errorf("%s", dump(outcome))
	}
	seen, _ := r.upstreamSaw()
	if seen[0].Header.Get("Authorization") != "Bearer ya29.minted" {
		t.Errorf("upstream saw %q", seen[0].Header.Get("Authorization"))
	}
	// A call that names no project is made as in the connection's first.
	if status, body := r.call("etl-bot", "GET", "/bigquery/v2/projects", ""); status != 200 || src.last.Project != "demo-project" {
		t.Errorf("projects.list: %d %s, for project %q", status, body, src.last.Project)
	}
}

type publicKeys struct{}

func (publicKeys) Discovery() []byte { return []byte(`{"issuer":"https://gw.example"}`) }
func (publicKeys) JWKS() []byte      { return []byte(`{"keys":[]}`) }

// TestIssuerDocuments are for anybody; without an issuer the paths are no doors.
func TestIssuerDocuments(t *testing.T) {
	r := newRig(t, answerJob, func(cfg *gateway.Config) { cfg.Issuer = publicKeys{} })
	for path, want := range map[string]string{"/.well-known/openid-configuration": `"issuer"`, "/.well-known/jwks.json": `"keys"`} {
		if resp, body := r.raw("GET", path, "", ""); resp.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
		if resp, _ := r.raw("POST", path, "", ""); resp.StatusCode != 405 {
			t.Errorf("POST %s: %d", path, resp.StatusCode)
		}
	}
	r = newRig(t, answerJob)
	if resp, _ := r.raw("GET", "/.well-known/jwks.json", "", ""); resp.StatusCode != 401 {
		t.Errorf("without an issuer: %d", resp.StatusCode)
	}
}

// TestSessionBeginsFirst: however many calls come at once, the session's beginning
// stands before all of them; where it cannot be written none of them goes on.
func TestSessionBeginsFirst(t *testing.T) {
	r := newRig(t, answerJob)
	release := make(chan struct{})
	fails := atomic.Int64{}
	fails.Store(3)
	r.trail.fail(func(e *trailgate.Entry) error {
		if e.Event != nil && e.Event.Action == "session.open" {
			<-release
			if fails.Add(-1) >= 0 {
				return errDisk
			}
		}
		return nil
	})
	const calls = 32
	var wg sync.WaitGroup
	var refused, answered atomic.Int64
	for range calls {
		wg.Go(func() {
			switch status, _ := r.call("etl-bot", "POST", jobsPath, deleteBody); status {
			case 200:
				answered.Add(1)
			case 503:
				refused.Add(1)
			default:
				t.Errorf("status %d", status)
			}
		})
	}
	time.Sleep(50 * time.Millisecond) // most of them have come; the test holds if none has
	if n := len(r.trail.calls()); n != 0 {
		t.Errorf("%d calls are on record before their session", n)
	}
	close(release)
	wg.Wait()
	if refused.Load() != 3 || answered.Load() != calls-3 {
		t.Errorf("%d refused, %d answered", refused.Load(), answered.Load())
	}
	entries := r.trail.all()
	if len(entries) == 0 || entries[0].Kind != trailgate.KindSession {
		t.Fatalf("the first entry is %s", dump(entries[0]))
	}
	opened := 0
	for _, e := range entries {
		if e.Session != entries[0].Session && e.Kind != trailgate.KindOutcome {
			t.Errorf("another session: %s", dump(e))
		}
		if e.Event != nil && e.Event.Action == "session.open" {
			opened++
		}
	}
	if opened != 1 {
		t.Errorf("%d sessions began", opened)
	}
}
