package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/gateway"
	"github.com/trailgate/trailgate/internal/identity"
)

// memory is a trail in memory with the real one's contract, and a place to
// fail it: before is asked for every entry before it is kept.
type memory struct {
	mu      sync.Mutex
	entries []*trailgate.Entry
	blobs   map[string][]byte
	before  func(*trailgate.Entry) error
}

var errDisk = errors.New("no space left on device")

func (m *memory) Append(_ context.Context, e *trailgate.Entry) error {
	m.mu.Lock()
	before := m.before
	m.mu.Unlock()
	if before != nil {
		if err := before(e); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e.Seq, e.Time = uint64(len(m.entries)), time.Now().UTC()
	raw, err := e.Encode()
	if err != nil {
		return err
	}
	kept, err := trailgate.Decode(raw) // what a reader of the log would see
	if err != nil {
		return err
	}
	m.entries = append(m.entries, kept)
	return nil
}

func (m *memory) PutBlob(_ context.Context, data []byte) (string, error) {
	sum := sha256Hex(data)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.blobs == nil {
		m.blobs = map[string][]byte{}
	}
	m.blobs[sum] = append([]byte(nil), data...)
	return sum, nil
}

func (m *memory) fail(f func(*trailgate.Entry) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before = f
}

func (m *memory) all() []*trailgate.Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*trailgate.Entry(nil), m.entries...)
}

// calls leaves out what is not a call.
func (m *memory) calls() []*trailgate.Entry {
	var out []*trailgate.Entry
	for _, e := range m.all() {
		if e.Kind != trailgate.KindSession {
			out = append(out, e)
		}
	}
	return out
}

func (m *memory) byID(id string) *trailgate.Entry {
	for _, e := range m.all() {
		if e.ID == id {
			return e
		}
	}
	return nil
}

type rig struct {
	t      *testing.T
	trail  *memory
	store  *identity.Store
	auth   *identity.Authenticator
	gw     *gateway.Gateway
	front  *httptest.Server
	up     *httptest.Server
	tokens map[string]string

	mu   sync.Mutex
	seen []*http.Request // what the upstream saw, bodies read
	body []string
}

// newRig starts a gateway in front of an upstream that answers with handler.
func newRig(t *testing.T, handler http.HandlerFunc, change ...func(*gateway.Config)) *rig {
	t.Helper()
	r := &rig{t: t, trail: &memory{}, tokens: map[string]string{}}
	r.up = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		req.Body = io.NopCloser(strings.NewReader(string(body)))
		r.mu.Lock()
		r.seen = append(r.seen, req)
		r.body = append(r.body, string(body))
		r.mu.Unlock()
		handler(w, req)
	}))
	t.Cleanup(r.up.Close)
	var err error
	if r.store, err = identity.Open(filepath.Join(t.TempDir(), "agents.json")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etl-bot", "analyst-bot"} {
		if _, err := r.store.AddAgent(name, ""); err != nil {
			t.Fatal(err)
		}
		if r.tokens[name], _, err = r.store.IssueToken(name, identity.TokenOptions{TTL: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	r.auth, err = identity.NewAuthenticator(identity.AuthConfig{Store: r.store, SessionKeyFile: filepath.Join(t.TempDir(), "session.key"), ExchangeTTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(r.up.URL)
	if err != nil {
		t.Fatal(err)
	}
	cfg := gateway.Config{
		ID: "test", Version: "test", Trail: r.trail, Authenticate: r.auth.Authenticate, Exchange: r.auth.Exchange, Introspect: r.auth.Introspect,
		Sessions: identity.NewSessions(time.Hour, time.Now), Log: slog.New(slog.DiscardHandler),
		Connections:  []gateway.Connection{{Name: "main", Projects: []string{"demo-project"}, Upstream: target, Credential: federation.None()}},
		StallTimeout: time.Minute, GraceTimeout: 50 * time.Millisecond,
	}
	for _, f := range change {
		f(&cfg)
	}
	if r.gw, err = gateway.New(cfg); err != nil {
		t.Fatal(err)
	}
	r.front = httptest.NewServer(r.gw)
	t.Cleanup(r.front.Close)
	return r
}

func (r *rig) request(agent, verb, path, body string) *http.Request {
	r.t.Helper()
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	req, err := http.NewRequest(verb, r.front.URL+path, rd)
	if err != nil {
		r.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if agent != "" {
		req.Header.Set("Authorization", "Bearer "+r.tokens[agent])
	}
	return req
}

// do sends a request and returns status and body; a broken body is an error.
func (r *rig) do(req *http.Request) (*http.Response, string, error) {
	r.t.Helper()
	hc := &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

func (r *rig) call(agent, verb, path, body string) (int, string) {
	r.t.Helper()
	resp, text, err := r.do(r.request(agent, verb, path, body))
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, text
}

func (r *rig) upstreamSaw() ([]*http.Request, []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*http.Request(nil), r.seen...), append([]string(nil), r.body...)
}

// one returns the only intent and outcome, failing the test otherwise.
func (r *rig) one() (intent, outcome *trailgate.Entry) {
	r.t.Helper()
	calls := r.trail.calls()
	if len(calls) != 2 || calls[0].Kind != trailgate.KindIntent || calls[1].Kind != trailgate.KindOutcome || calls[1].IntentID != calls[0].ID {
		r.t.Fatalf("want one intent and its outcome, have %s", dump(calls))
	}
	return calls[0], calls[1]
}

// refused returns the only entry, a refusal, and checks that nothing went upstream.
func (r *rig) refused() *trailgate.Entry {
	r.t.Helper()
	calls := r.trail.calls()
	if len(calls) != 1 || (calls[0].Kind != trailgate.KindRefused && calls[0].Kind != trailgate.KindDenied) {
		r.t.Fatalf("want one refusal, have %s", dump(calls))
	}
	if seen, _ := r.upstreamSaw(); len(seen) != 0 {
		r.t.Fatalf("the upstream saw %d requests", len(seen))
	}
	return calls[0]
}

func dump(v any) string {
	raw, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// reason reads BigQuery's error JSON; every refusal must be in that shape.
func reason(t *testing.T, body string) (reason, message string) {
	t.Helper()
	var e struct {
		Error struct {
			Code    int
			Message string
			Errors  []struct{ Reason, Message, Domain string }
		}
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil || len(e.Error.Errors) != 1 || e.Error.Code == 0 {
		t.Fatalf("not BigQuery's error JSON: %v: %s", err, body)
	}
	return e.Error.Errors[0].Reason, e.Error.Message
}
