package admin_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/trail"
)

// house is an API over a real trail, index and store, with its two doors.
type house struct {
	trail  *trail.Trail
	agents *identity.Store
	tcp    string // base URL
	socket string // path
	stop   func()
}

func newHouse(t *testing.T) *house {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	dir := t.TempDir()
	if _, err := trail.Create(ctx, dir, "trailgate/test"); err != nil {
		t.Fatal(err)
	}
	h := &house{}
	var err error
	if h.trail, err = trail.Open(ctx, dir, trail.Options{SegmentBytes: 1 << 20, MinFreeBytes: -1, CheckpointInterval: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	ix, err := index.Open(ctx, filepath.Join(dir, "index"), h.trail, index.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if h.agents, err = identity.Open(filepath.Join(dir, "agents.json")); err != nil {
		t.Fatal(err)
	}
	following := make(chan error, 1)
	go func() { following <- ix.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-following, ix.Close(), h.trail.Close(context.Background())); err != nil {
			t.Error(err)
		}
	})
	api, err := admin.New(admin.Config{Trail: h.trail, Bundles: h.trail, Index: ix, Agents: h.agents, Gateway: trailgate.Gateway{ID: "gw", Version: "v1"}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.tcp = "http://" + l.Addr().String()
	stopTCP := served(t, l, api.TCP(admin.HashToken(adminToken)))
	unix, path := unixListener(t)
	h.socket = path
	stopSocket := served(t, unix, api.Socket())
	h.stop = func() { stopTCP(); stopSocket() }
	return h
}

// TestRealParts goes through the whole API with the typed client, over both
// doors, on a real trail, index and store.
func TestRealParts(t *testing.T) {
	h := newHouse(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for name, open := range map[string]func() (*client.Client, error){
		"tcp": func() (*client.Client, error) {
			return client.New(h.tcp, client.Options{Token: adminToken, UserAgent: "test/1"})
		},
		"socket": func() (*client.Client, error) { return client.New("unix:"+h.socket, client.Options{}) },
	} {
		t.Run(name, func(t *testing.T) {
			c, err := open()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			useAgents(ctx, t, c, h, name+"-bot")
			useTrail(ctx, t, c, h, name+"-bot")
		})
	}
}

func useAgents(ctx context.Context, t *testing.T, c *client.Client, h *house, name string) {
	t.Helper()
	if a, err := c.AddAgent(ctx, name, "a note"); err != nil || a.Name != name || a.Note != "a note" {
		t.Fatalf("%+v %v", a, err)
	}
	_, err := c.AddAgent(ctx, name, "")
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != http.StatusConflict || e.Status != "FAILED_PRECONDITION" || !strings.Contains(e.Message, name) {
		t.Errorf("%v", err)
	}
	tok, err := c.IssueToken(ctx, name, client.TokenOptions{TTL: time.Hour, Title: "t", SessionBound: true})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := h.agents.Authenticate(tok.Secret); err != nil || id.Principal.Agent != name || id.Token.ID != tok.ID || !id.Token.SessionBound || !id.Token.Expires.Equal(tok.Expires) {
		t.Errorf("%+v %v", id, err)
	}
	if list, err := c.Tokens(ctx, name); err != nil || len(list) != 1 || list[0].ID != tok.ID || list[0].Title != "t" {
		t.Errorf("%+v %v", list, err)
	}
	if err := c.RevokeToken(ctx, tok.ID); err != nil {
		t.Error(err)
	}
	if _, err := h.agents.Authenticate(tok.Secret); !errors.Is(err, identity.ErrRevoked) {
		t.Error("revocation does not work at once:", err)
	}
	if err := c.RevokeAgent(ctx, name); err != nil {
		t.Error(err)
	}
	list, err := c.Agents(ctx)
	if err != nil || len(list) == 0 || list[len(list)-1].Name == "" {
		t.Errorf("%+v %v", list, err)
	}
	for _, a := range list {
		if a.Name == name && a.Revoked == nil {
			t.Error("the agent is not revoked")
		}
	}
}

func useTrail(ctx context.Context, t *testing.T, c *client.Client, h *house, name string) {
	t.Helper()
	text := "SELECT '<&>' FROM t"
	call := func(n int) *trailgate.Entry {
		e := &trailgate.Entry{
			ID: strings.ReplaceAll(id(n), "01jd", "01"+name[:2]), Kind: trailgate.KindIntent, Method: "bigquery.jobs.query", Class: trailgate.ClassRead,
			Principal: &trailgate.Principal{Agent: name}, Gateway: trailgate.Gateway{ID: "gw", Version: "v1"},
			Statements: []trailgate.Statement{{Where: "query", Text: text, SHA256: strings.Repeat("0", 64), Length: int64(len(text))}},
		}
		if err := h.trail.Append(ctx, e); err != nil {
			t.Fatal(err)
		}
		return e
	}
	newest := h.trail.Size() - 1
	first := call(1)
	next, stop := pull(c.Follow(ctx, `agent = "`+name+`"`, &newest))
	defer stop()
	row, err := next()
	if err != nil || row.Entry.ID != first.ID || row.Entry.Principal.Agent != name || row.State != "open" || row.Entry.Statements[0].Text != text {
		t.Fatalf("%+v %v", row, err)
	}
	for n := range 4 {
		call(n + 2)
	}
	for range 4 { // now they are searchable
		if _, err := next(); err != nil {
			t.Fatal(err)
		}
	}
	found := 0
	for row, err := range c.Entries(ctx, client.Query{Filter: `agent = "` + name + `"`, Ascending: true, PageSize: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		if row.Entry.Seq < first.Seq || len(row.Raw) == 0 {
			t.Errorf("%+v", row)
		}
		found++
	}
	if found != 5 {
		t.Errorf("%d rows", found)
	}
	shown, err := c.Show(ctx, first.ID[:25])
	if err == nil {
		t.Errorf("an ambiguous id: %+v", shown)
	}
	if shown, err = c.Show(ctx, first.ID); err != nil || shown.State != "open" || shown.Statements[0].Text != text || shown.Stages[0].Seq != first.Seq {
		t.Fatalf("%+v %v", shown, err)
	}
	proofs, key, err := c.Proofs(ctx, first.ID)
	if err != nil || len(proofs) != 1 {
		t.Fatalf("%v %v", proofs, err)
	}
	verifier, err := note.NewVerifier(key)
	if err != nil || key != h.trail.PublicKey() {
		t.Fatal(err)
	}
	if e, _, err := proofs[0].Verify(verifier); err != nil || e.ID != first.ID {
		t.Errorf("%+v %v", e, err)
	}
	groups, err := c.Stats(ctx, []string{"agent", "class"}, `agent = "`+name+`"`)
	if err != nil || len(groups) != 1 || groups[0].Calls != 5 || groups[0].Keys["class"] != "read" {
		t.Errorf("%+v %v", groups, err)
	}
	sha, err := h.trail.PutBlob(ctx, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := c.Blob(ctx, sha); err != nil || string(raw) != text {
		t.Errorf("%q %v", raw, err)
	}
	if n, err := c.RebuildIndex(ctx); err != nil || n == 0 {
		t.Errorf("%d %v", n, err)
	}
	info, err := c.Gateway(ctx)
	if err != nil || info.ID != "gw" || !info.Ready || info.Origin != "trailgate/test" || info.Entries == 0 {
		t.Errorf("%+v %v", info, err)
	}
	_, _, err = c.Page(ctx, client.Query{Filter: `agnt = "x"`})
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != http.StatusBadRequest || e.Column != 1 {
		t.Errorf("%v", err)
	}
}

// TestRealLogOverHTTP: trail.Verify takes what this API serves for a log, as it
// would any other.
func TestRealLogOverHTTP(t *testing.T) {
	h := newHouse(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range 600 {
		if err := h.trail.Append(ctx, &trailgate.Entry{ID: id(1), Kind: trailgate.KindGap, Gateway: trailgate.Gateway{ID: "gw", Version: "v1"}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.trail.Prove(ctx, 599); err != nil { // under a checkpoint now
		t.Fatal(err)
	}
	// Verify has no token yet: a small proxy of the test adds it.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), r.Method, h.tcp+r.URL.EscapedPath(), http.NoBody)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Authorization", "Bearer "+adminToken)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		if _, err := io.Copy(w, resp.Body); err != nil {
			t.Error(err)
		}
	}))
	report, err := trail.Verify(ctx, trail.VerifyOptions{URL: "http://" + l.Addr().String() + "/api/v1/log", Key: h.trail.PublicKey()})
	if err != nil || report.Entries < 600 || report.FirstBad != nil {
		t.Errorf("%+v %v", report, err)
	}
	var reads int
	for _, raw := range scan(ctx, t, h.trail) {
		if bytes.Contains(raw, []byte(`"action":"trail.log"`)) {
			reads++
		}
	}
	if reads != 1 {
		t.Errorf("%d entries tell of the reading", reads)
	}
}

// pull turns an iterator round.
func pull(rows iter.Seq2[client.Row, error]) (next func() (client.Row, error), stop func()) {
	pulled, stop := iter.Pull2(rows)
	return func() (client.Row, error) {
		row, err, ok := pulled()
		if !ok {
			return row, io.EOF
		}
		return row, err
	}, stop
}

func scan(ctx context.Context, t *testing.T, tr *trail.Trail) (list [][]byte) {
	t.Helper()
	err := tr.Scan(ctx, 0, func(_ uint64, raw []byte) error {
		list = append(list, raw)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}
