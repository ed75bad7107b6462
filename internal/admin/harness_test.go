package admin_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/trail"
)

// The real parts are what the interfaces are for.
var (
	_ admin.Trail  = (*trail.Trail)(nil)
	_ admin.Index  = (*index.Index)(nil)
	_ admin.Agents = (*identity.Store)(nil)
)

// memory is a trail in memory, with faults. It is index.Source too, so that the
// index of these tests is the real one.
type memory struct {
	dir string

	mu       sync.Mutex // guards the rest
	grown    chan struct{}
	raw      [][]byte
	blobs    map[string][]byte
	refuse   func(*trailgate.Entry) error // asked before an entry is kept
	unready  error
	unproven bool
}

func newMemory(t testing.TB) *memory {
	return &memory{dir: t.TempDir(), grown: make(chan struct{}), blobs: map[string][]byte{}}
}

func (m *memory) Append(ctx context.Context, e *trailgate.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse != nil {
		if err := m.refuse(e); err != nil {
			return err
		}
	}
	e.Seq, e.Time = uint64(len(m.raw)), time.Now().UTC()
	raw, err := e.Encode()
	if err != nil {
		return err
	}
	m.raw = append(m.raw, raw)
	close(m.grown)
	m.grown = make(chan struct{})
	return nil
}

func (m *memory) Size() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(len(m.raw))
}

func (m *memory) Wait(ctx context.Context, size uint64) error {
	for {
		m.mu.Lock()
		grown, n := m.grown, uint64(len(m.raw))
		m.mu.Unlock()
		if n > size {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *memory) Scan(ctx context.Context, from uint64, fn func(uint64, []byte) error) error {
	for seq := from; seq < m.Size(); seq++ {
		raw, err := m.Get(ctx, seq)
		if err != nil {
			return err
		}
		if err := fn(seq, raw); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Get(ctx context.Context, seq uint64) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if seq >= uint64(len(m.raw)) {
		return nil, trail.ErrNotFound
	}
	return m.raw[seq], ctx.Err()
}

func (m *memory) PutBlob(data string) string {
	sum := sha256.Sum256([]byte(data))
	sha := hex.EncodeToString(sum[:])
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[sha] = []byte(data)
	return sha
}

func (m *memory) GetBlob(_ context.Context, sha string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	raw, ok := m.blobs[sha]
	if !ok {
		return nil, fmt.Errorf("body %s: %w", sha, trail.ErrNotFound)
	}
	return raw, nil
}

func (m *memory) Prove(ctx context.Context, seq uint64) (*trailgate.Proof, error) {
	m.mu.Lock()
	wait := m.unproven
	m.mu.Unlock()
	if wait {
		<-ctx.Done()
		return nil, fmt.Errorf("prove: waiting for a checkpoint: %w", ctx.Err())
	}
	raw, err := m.Get(ctx, seq)
	return &trailgate.Proof{Entry: raw, Index: seq, Checkpoint: "a note\n", Hashes: [][]byte{make([]byte, 32)}}, err
}

func (m *memory) Checkpoint() (*trailgate.Checkpoint, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := int64(len(m.raw))
	root, err := tlog.TreeHash(n, m.hashesLocked())
	return &trailgate.Checkpoint{Origin: "trailgate/test", Size: uint64(n), Root: root, Raw: []byte("a note\n")}, err
}

// hashesLocked computes the tree from the entries.
func (m *memory) hashesLocked() tlog.HashReader {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, at := range indexes {
			out[i] = stored[at]
		}
		return out, nil
	})
	for i, raw := range m.raw {
		hs, err := tlog.StoredHashes(int64(i), raw, reader)
		if err != nil {
			panic(err) // of memory
		}
		stored = append(stored, hs...)
	}
	return reader
}

// Covering and Hashes make it what bundles are made of.
func (m *memory) Covering(context.Context, uint64) (*trailgate.Checkpoint, error) {
	return m.Checkpoint()
}

func (m *memory) Hashes(uint64) tlog.HashReader {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hashesLocked()
}

func (m *memory) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unready
}

func (m *memory) LogDir() string    { return m.dir }
func (m *memory) PublicKey() string { return "trailgate/test+00000000+key" }

// set changes what the trail does from now on.
func (m *memory) set(change func(*memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

// entries are all that were committed.
func (m *memory) entries(t testing.TB) []*trailgate.Entry {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*trailgate.Entry
	for _, raw := range m.raw {
		e, err := trailgate.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

// actions are those of the admin entries.
func (m *memory) actions(t testing.TB) []string {
	t.Helper()
	var list []string
	for _, e := range m.entries(t) {
		if e.Kind == trailgate.KindAdmin {
			list = append(list, e.Event.Action)
		}
	}
	return list
}

// spy is an index that tells of each use, and has faults.
type spy struct {
	admin.Index
	used    func(string)
	fault   error
	rebuild func(context.Context) error
}

func (s *spy) Search(ctx context.Context, q index.Query) ([]index.Row, string, error) {
	s.used("search")
	if s.fault != nil {
		return nil, "", s.fault
	}
	return s.Index.Search(ctx, q)
}

func (s *spy) Lookup(ctx context.Context, id string) ([]*trailgate.Entry, error) {
	s.used("lookup")
	if s.fault != nil {
		return nil, s.fault
	}
	return s.Index.Lookup(ctx, id)
}

func (s *spy) Stats(ctx context.Context, by []string, filter string) ([]index.Group, error) {
	s.used("stats")
	if s.fault != nil {
		return nil, s.fault
	}
	return s.Index.Stats(ctx, by, filter)
}

func (s *spy) Rebuild(ctx context.Context, progress func(uint64, uint64)) error {
	s.used("rebuild")
	if s.rebuild != nil {
		return s.rebuild(ctx)
	}
	return s.Index.Rebuild(ctx, progress)
}

const adminToken = "tga_0123456789abcdefghijklmnop"

// rig is an API with what it works on.
type rig struct {
	t      testing.TB
	trail  *memory
	index  *index.Index
	spy    *spy
	agents *identity.Store
	api    *admin.API
	log    *syncBuffer
	files  string // agents.json

	mu   sync.Mutex // guards used
	used []string   // what was done with the index, each with the newest action in the trail then
}

type syncBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newRig(t testing.TB, tweaks ...func(*admin.Config)) *rig {
	t.Helper()
	r := &rig{t: t, trail: newMemory(t), log: &syncBuffer{}}
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	if r.index, err = index.Open(ctx, t.TempDir(), r.trail, index.Options{Linger: -1}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.index.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, r.index.Close()); err != nil {
			t.Error(err)
		}
	})
	r.files = filepath.Join(t.TempDir(), "agents.json")
	if r.agents, err = identity.Open(r.files); err != nil {
		t.Fatal(err)
	}
	r.spy = &spy{Index: r.index, used: func(what string) {
		last := "nothing"
		if actions := r.trail.actions(t); len(actions) > 0 {
			last = actions[len(actions)-1]
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.used = append(r.used, what+" after "+last)
	}}
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "trailgate_test", Help: "A gauge."}))
	cfg := admin.Config{
		Trail: r.trail, Bundles: r.trail, Index: r.spy, Agents: r.agents, Gateway: trailgate.Gateway{ID: "gw", Version: "v1"},
		PublicURL: "http://gw:8470", AdminURL: "http://gw:8471", Connections: []admin.Connection{{Name: "prod", Projects: []string{"p"}}, {Name: "none"}},
		Metrics: registry, Log: slog.New(slog.NewTextHandler(r.log, nil)),
	}
	for _, tweak := range tweaks {
		tweak(&cfg)
	}
	if r.api, err = admin.New(cfg); err != nil {
		t.Fatal(err)
	}
	return r
}

// caughtUp waits until the index has everything.
func (r *rig) caughtUp() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if size := r.trail.Size(); size > 0 {
		if err := r.index.Wait(ctx, size-1); err != nil {
			r.t.Fatal(err)
		}
	}
}

// entry commits an entry.
func (r *rig) entry(e *trailgate.Entry) *trailgate.Entry {
	r.t.Helper()
	e.Gateway = trailgate.Gateway{ID: "gw", Version: "v1"}
	if err := r.trail.Append(context.Background(), e); err != nil {
		r.t.Fatal(err)
	}
	return e
}

// id makes a ULID that ends in n.
func id(n int) string { return fmt.Sprintf("01jd2v8c9mhw3k5r00000%05d", n) }

// intent commits a call's intent.
func (r *rig) intent(n int, agent string) *trailgate.Entry {
	r.t.Helper()
	text := "DELETE FROM staging.imports WHERE batch_id < 42 -- <&>"
	sum := sha256.Sum256([]byte(text))
	return r.entry(&trailgate.Entry{
		ID: id(n), Kind: trailgate.KindIntent, Method: "bigquery.jobs.query", Class: trailgate.ClassWrite,
		Principal:  &trailgate.Principal{Agent: agent},
		Statements: []trailgate.Statement{{Where: "query", Text: text, SHA256: hex.EncodeToString(sum[:]), Length: int64(len(text))}},
	})
}

// outcome closes it.
func (r *rig) outcome(n int) *trailgate.Entry {
	r.t.Helper()
	return r.entry(&trailgate.Entry{
		ID: id(n + 50_000), Kind: trailgate.KindOutcome, IntentID: id(n), Outcome: &trailgate.Outcome{Status: 200, End: trailgate.EndComplete, RowsAffected: 3},
	})
}

// answer is what came back, read whole.
type answer struct {
	*http.Response
	body []byte
}

// json reads a member of the answer by its path.
func (a answer) json(t testing.TB, path ...any) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			l, _ := v.([]any)
			if step >= len(l) {
				return nil
			}
			v = l[step]
		}
	}
	return v
}

// do sends a request to a door as a server would.
func do(t testing.TB, door http.Handler, method, target, body string, header ...string) answer {
	t.Helper()
	req := httptest.NewRequest(method, target, strings.NewReader(body))
	if body == "" {
		req = httptest.NewRequest(method, target, http.NoBody)
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", "test/1")
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
			continue
		}
		req.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	door.ServeHTTP(w, req)
	resp := w.Result()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp, raw}
}

func (r *rig) socket(method, target, body string, header ...string) answer {
	r.t.Helper()
	return do(r.t, r.api.Socket(), method, target, body, header...)
}

// file puts a file into the log's directory.
func (r *rig) file(path, content string) {
	r.t.Helper()
	path = filepath.Join(r.trail.dir, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		r.t.Fatal(err)
	}
}
