package admin_test

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/index"
)

// TestShow: a call comes with its stages as the log has them, byte for byte,
// and with its statements from wherever they are.
func TestShow(t *testing.T) {
	r := newRig(t)
	r.intent(1, "etl-bot")
	r.outcome(1)
	long := strings.Repeat("SELECT 1; ", 5000)
	sha := r.trail.PutBlob(long)
	parameters := r.trail.PutBlob(`[{"name":"x"}]`)
	gone := strings.Repeat("0", 64)
	r.entry(&trailgate.Entry{ID: id(2), Kind: trailgate.KindIntent, Statements: []trailgate.Statement{
		{Where: "configuration.query.query", Blob: sha, SHA256: sha, Length: int64(len(long)), Dialect: "googlesql", ParametersBlob: parameters},
		{Where: "view.query", Blob: gone, SHA256: gone, Length: 9},
	}})
	r.caughtUp()
	a := r.socket("GET", "/api/v1/entries/"+id(1), "")
	for _, raw := range r.trail.raw[:2] {
		if !bytes.Contains(a.body, raw) {
			t.Errorf("%s is not in %s", raw, a.body)
		}
	}
	if a.json(t, "state") != "done" || a.json(t, "id") != id(1) || a.json(t, "statements", 0, "text") == nil {
		t.Errorf("%s", a.body)
	}
	// By the outcome's id it is the same call.
	if b := r.socket("GET", "/api/v1/entries/"+id(50_001), ""); !bytes.Equal(a.body, b.body) {
		t.Errorf("%s\n%s", a.body, b.body)
	}
	a = r.socket("GET", "/api/v1/entries/"+id(2), "")
	if a.json(t, "statements", 0, "text") != long || a.json(t, "statements", 0, "parameters") != `[{"name":"x"}]` || a.json(t, "state") != "open" {
		t.Errorf("%.500s", a.body)
	}
	if missing, _ := a.json(t, "statements", 1, "missing").(string); !strings.Contains(missing, "not found") {
		t.Errorf("%.500s", a.body)
	}
	if a := r.socket("GET", "/api/v1/entries/short", ""); a.StatusCode != http.StatusNotFound {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// TestLargeStatements: an answer carries only so much stored text, and says
// what it leaves out.
func TestLargeStatements(t *testing.T) {
	r := newRig(t)
	var list []trailgate.Statement
	for _, c := range "abc" {
		sha := r.trail.PutBlob(strings.Repeat(string(c), 12<<20))
		list = append(list, trailgate.Statement{Where: string(c), Blob: sha, SHA256: sha, Length: 12 << 20})
	}
	r.entry(&trailgate.Entry{ID: id(1), Kind: trailgate.KindIntent, Statements: list})
	r.caughtUp()
	a := r.socket("GET", "/api/v1/entries/"+id(1), "")
	if len(a.body) > 30<<20 || !strings.Contains(string(a.body), "too large; see blobs/"+list[2].SHA256) {
		t.Errorf("%d bytes", len(a.body))
	}
}

// TestProofTakesLong: the wait for a checkpoint has an end.
func TestProofTakesLong(t *testing.T) {
	lookup := func() []*trailgate.Entry { return []*trailgate.Entry{{ID: id(1), Seq: 0}} }
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.unproven = true
		api, err := admin.New(admin.Config{Trail: m, Index: fixedIndex{stages: lookup}, Agents: noAgents{}})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		a := do(t, api.Socket(), "GET", "/api/v1/entries/"+id(1)+"/proof", "")
		if a.StatusCode != http.StatusGatewayTimeout || time.Since(start) != 20*time.Second || !strings.Contains(string(a.body), "checkpoint") {
			t.Errorf("%d after %s: %s", a.StatusCode, time.Since(start), a.body)
		}
	})
}

// fixedIndex is an index without goroutines, for tests with a clock of their own.
type fixedIndex struct {
	admin.Index
	stages  func() []*trailgate.Entry
	rebuild func(context.Context) error
}

func (f fixedIndex) Lookup(context.Context, string) ([]*trailgate.Entry, error) {
	return f.stages(), nil
}
func (f fixedIndex) Cursor() uint64 { return 7 }

func (f fixedIndex) Rebuild(ctx context.Context, _ func(uint64, uint64)) error { return f.rebuild(ctx) }

// noAgents is never asked.
type agentStore = admin.Agents

type noAgents struct{ agentStore }

// TestRebuild: one at a time; a long one keeps the connection alive and tells of
// its end all the same; it ends with the caller.
func TestRebuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var takes time.Duration
		var fails error
		x := fixedIndex{rebuild: func(ctx context.Context) error {
			select {
			case <-time.After(takes):
				return fails
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
		m := newMemory(t)
		api, err := admin.New(admin.Config{Trail: m, Index: x, Agents: noAgents{}})
		if err != nil {
			t.Fatal(err)
		}
		rebuild := func() answer { return do(t, api.Socket(), "POST", "/api/v1/index:rebuild", "") }
		takes = 10 * time.Second
		if a := rebuild(); string(a.body) != `{"entries":7}`+"\n" || a.StatusCode != 200 {
			t.Errorf("%d %q", a.StatusCode, a.body)
		}
		takes = time.Minute
		done := make(chan answer)
		go func() { done <- rebuild() }()
		synctest.Wait()
		if a := rebuild(); a.StatusCode != http.StatusConflict {
			t.Errorf("%d %q", a.StatusCode, a.body)
		}
		if a := <-done; string(a.body) != "\n\n\n"+`{"entries":7}`+"\n" || a.json(t, "entries") != 7.0 {
			t.Errorf("%d %q", a.StatusCode, a.body)
		}
		fails = index.ErrClosed
		if a := rebuild(); a.StatusCode != 200 || a.json(t, "error", "status") != "UNAVAILABLE" {
			t.Errorf("%d %q", a.StatusCode, a.body)
		}
		takes = time.Second
		if a := rebuild(); a.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%d %q", a.StatusCode, a.body)
		}
		actions := m.actions(t)
		if len(actions) != 6 { // the one that was refused is none; the two that failed are two each
			t.Errorf("%v", actions)
		}

		takes, fails = time.Hour, nil
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "POST", "/api/v1/index:rebuild", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		api.Socket().ServeHTTP(discard{}, req)
		if time.Since(start) != time.Second {
			t.Errorf("it went on for %s without its caller", time.Since(start))
		}
	})
}

// discard is a response to nobody.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

func TestGateway(t *testing.T) {
	r := newRig(t)
	r.intent(1, "a")
	r.caughtUp()
	a := r.socket("GET", "/api/v1/gateway", "")
	want := `{"id":"gw","version":"v1","public_url":"http://gw:8470","admin_url":"http://gw:8471","connections":[{"name":"prod","projects":["p"]},{"name":"none","projects":[]}],` +
		`"public_key":"trailgate/test+00000000+key","origin":"trailgate/test","entries":1,"published":1,"indexed":1,"ready":true}` + "\n"
	if string(a.body) != want {
		t.Errorf("%s", a.body)
	}
	r.trail.set(func(m *memory) { m.unready = errNoSpace })
	a = r.socket("GET", "/api/v1/gateway", "")
	if a.json(t, "ready") != false || a.json(t, "not_ready") == nil {
		t.Errorf("%s", a.body)
	}
	a = do(t, r.api.TCP(admin.HashToken(adminToken)), "GET", "/api/v1/readyz", "")
	if a.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(a.body), "disk is nearly full") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := r.socket("GET", "/api/v1/metrics", ""); !strings.Contains(string(a.body), "trailgate_test 0") {
		t.Errorf("%s", a.body)
	}
	if n := r.trail.Size(); n != 1 {
		t.Errorf("%d entries", n)
	}
	r = newRig(t, func(c *admin.Config) { c.Metrics = nil })
	if a := r.socket("GET", "/api/v1/metrics", ""); a.StatusCode != http.StatusNotFound {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func TestConfig(t *testing.T) {
	if _, err := admin.New(admin.Config{}); err == nil {
		t.Error("an API of nothing was made")
	}
}
