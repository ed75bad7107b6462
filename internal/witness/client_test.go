package witness_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/witness"
)

// peerOf is a witness of a policy: its verifier key, and where it is.
type peerOf struct{ vkey, url string }

// policyOf is a policy by which so many of the witnesses, named w0, w1, ..., are needed.
func policyOf(t testing.TB, needed int, peers ...peerOf) *trailgate.WitnessPolicy {
	t.Helper()
	var b strings.Builder
	var names []string
	for i, p := range peers {
		names = append(names, fmt.Sprint("w", i))
		fmt.Fprintf(&b, "witness w%d %s %s\n", i, p.vkey, p.url)
	}
	fmt.Fprintf(&b, "group g %d %s\nquorum g\n", needed, strings.Join(names, " "))
	p, err := trailgate.ParseWitnessPolicy([]byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newClient(t testing.TB, l *fakeLog, p *trailgate.WitnessPolicy, edit func(*witness.ClientConfig)) *witness.Client {
	t.Helper()
	cfg := witness.ClientConfig{Policy: p, Log: l.verifier, Timeout: 20 * time.Second}
	if edit != nil {
		edit(&cfg)
	}
	c, err := witness.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Wait)
	return c
}

// cosign has a checkpoint of the tree cosigned.
func cosign(t testing.TB, c *witness.Client, tr *tree, size, known int) *witness.Answer {
	t.Helper()
	return c.Cosign(t.Context(), tr.checkpoint(t, size), uint64(known), true, func(old uint64) (tlog.TreeProof, error) {
		return tr.prove(t, int(old), size), nil
	})
}

func who(a *witness.Answer) (names []string) {
	for _, s := range a.Cosignatures {
		names = append(names, s.Witness)
	}
	return names
}

// TestClient: a log grows under the eyes of three witnesses, of whom one comes late.
func TestClient(t *testing.T) {
	l := newLog(t, "trail.example")
	a, b, late := start(t, "a", l), start(t, "b", l), start(t, "late", l)
	p := policyOf(t, 2, peerOf{a.vkey, a.http.URL}, peerOf{b.vkey, b.http.URL + "/"}, peerOf{late.vkey, late.http.URL})
	c := newClient(t, l, p, func(cfg *witness.ClientConfig) { cfg.Grace = 20 * time.Second }) // all are waited for
	tr := l.tree(t, 300, 300, "")
	for _, size := range []int{0, 1, 10, 10, 256, 300} {
		got := cosign(t, c, tr, size, size)
		if d := cmp.Diff([]string{"w0", "w1", "w2"}, who(got)); d != "" || !got.Quorum || len(got.Failed) > 0 {
			t.Fatalf("size %d: %s %v", size, d, got.Failed)
		}
		if _, err := trailgate.OpenCosigned(got.Raw, l.verifier, p); err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
	}
	// A client that knows nothing of them hears from each what it has.
	fresh := newClient(t, l, p, nil)
	if got := cosign(t, fresh, tr, 300, 300); !got.Quorum {
		t.Errorf("after a restart: %v", got.Failed)
	}
	for _, s := range fresh.Status() {
		if s.Size != 300 || s.At.IsZero() || s.Error != "" {
			t.Errorf("status: %+v", s)
		}
	}
}

// fake is a witness that misbehaves.
func fake(t testing.TB, f http.HandlerFunc) string {
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.URL
}

// TestMisbehavingWitnesses: whatever a witness answers, the log takes nothing but
// its cosignature on this very checkpoint, and never waits for more than the time it gives.
func TestMisbehavingWitnesses(t *testing.T) {
	l := newLog(t, "trail.example")
	tr := l.tree(t, 50, 50, "")
	good := start(t, "good", l)
	key, err := trailgate.GenerateCosigner("bad")
	if err != nil {
		t.Fatal(err)
	}
	sign := func(cp *trailgate.Checkpoint, at time.Time) string {
		text, _, _ := strings.Cut(string(cp.Raw), "\n\n")
		raw, err := note.Sign(&note.Note{Text: text + "\n"}, fixed{key, at})
		if err != nil {
			t.Error(err)
		}
		return string(raw)[len(text)+2:]
	}
	conflict := func(size func(n int) int) http.HandlerFunc {
		var n atomic.Int32
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/x.tlog.size")
			w.WriteHeader(409)
			fmt.Fprintf(w, "%d\n", size(int(n.Add(1))))
		}
	}
	var followed atomic.Bool
	elsewhere := fake(t, func(http.ResponseWriter, *http.Request) { followed.Store(true) })
	for name, tt := range map[string]struct {
		serve http.HandlerFunc
		says  string
	}{
		"nothing":              {func(http.ResponseWriter, *http.Request) {}, "not a cosignature"},
		"words":                {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "sure") }, "not a cosignature"},
		"another checkpoint's": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, sign(tr.checkpoint(t, 19), time.Now())) }, "not a cosignature"},
		"another key's":        {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "— bad AAAAAAAAAAA=\n") }, "not a cosignature"},
		"the whole note":       {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(tr.checkpoint(t, 20).Raw) }, "not a cosignature"},
		"tomorrow's": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, sign(tr.checkpoint(t, 20), time.Now().Add(24*time.Hour)))
		}, "yet to come"},
		"a flood": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("— bad AAAA\n", 1<<20)) }, "too long"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere, http.StatusTemporaryRedirect)
		}, "redirect"},
		"it does not know us":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, "404"},
		"another key for us":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, "403"},
		"broken":                {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "500"},
		"another size each try": {conflict(func(n int) int { return n }), "another size each time"},
		"what it was told":      {conflict(func(int) int { return 0 }), "what it was told"},
		"a size that is none": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/x.tlog.size")
			w.WriteHeader(409)
			fmt.Fprint(w, "many")
		}, "none"},
		"it cuts": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, l, policyOf(t, 2, peerOf{good.vkey, good.http.URL}, peerOf{key.Verifier().String(), fake(t, tt.serve)}), nil)
			got := cosign(t, c, tr, 20, 50)
			if got.Quorum || len(got.Against) > 0 || !cmp.Equal(who(got), []string{"w0"}) {
				t.Errorf("%v cosigned, quorum %v, against %v", who(got), got.Quorum, got.Against)
			}
			if !strings.Contains(got.Failed["w1"], tt.says) {
				t.Errorf("it says %q, want something about %q", got.Failed["w1"], tt.says)
			}
		})
	}
	if followed.Load() {
		t.Error("a redirect was followed")
	}
}

// fixed is a cosigner with a clock that stands.
type fixed struct {
	*trailgate.Cosigner
	at time.Time
}

func (f fixed) Sign(text []byte) ([]byte, error) { return f.SignAt(text, f.at) }

// TestSlowWitness: a quorum does not wait for who hangs, who is not asked again
// while it does, and is not counted as away when it comes back.
func TestSlowWitness(t *testing.T) {
	l := newLog(t, "trail.example")
	tr := l.tree(t, 50, 50, "")
	good, slow := start(t, "good", l), start(t, "slow", l)
	release := make(chan struct{})
	var asked atomic.Int32
	hang := fake(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-release
		slow.http.Config.Handler.ServeHTTP(w, r)
	})
	c := newClient(t, l, policyOf(t, 1, peerOf{good.vkey, good.http.URL}, peerOf{slow.vkey, hang}),
		func(cfg *witness.ClientConfig) { cfg.Timeout, cfg.Grace = time.Minute, time.Millisecond })
	for _, size := range []int{10, 20, 30} {
		if got := cosign(t, c, tr, size, 50); !got.Quorum || !cmp.Equal(who(got), []string{"w0"}) {
			t.Fatalf("size %d: %v, %v", size, who(got), got.Failed)
		}
	}
	if n := asked.Load(); n > 1 {
		t.Errorf("who hangs was asked %d times", n)
	}
	close(release)
	c.Wait()
	if s := c.Status()[1]; s.Error != "" || s.Size != 10 {
		t.Errorf("after it came back: %+v", s)
	}
}

// TestBackoff: who is away is let alone for a while, and asked when it matters.
func TestBackoff(t *testing.T) {
	l := newLog(t, "trail.example")
	tr := l.tree(t, 50, 50, "")
	var asked atomic.Int32
	away := fake(t, func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); w.WriteHeader(500) })
	key, err := trailgate.GenerateCosigner("away")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	now := time.Now()
	c := newClient(t, l, policyOf(t, 1, peerOf{key.Verifier().String(), away}), func(cfg *witness.ClientConfig) {
		cfg.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	ask := func(urgent bool) int32 {
		before := asked.Load()
		c.Cosign(t.Context(), tr.checkpoint(t, 10), 50, urgent, func(uint64) (tlog.TreeProof, error) { return nil, nil })
		return asked.Load() - before
	}
	pass := func(d time.Duration) { mu.Lock(); now = now.Add(d); mu.Unlock() }
	for i, step := range []struct {
		pass   time.Duration
		urgent bool
		want   int32
	}{{0, false, 1}, {0, false, 0}, {time.Second, false, 1}, {time.Second, false, 0}, {time.Second, false, 1}, {0, true, 1}, {time.Minute, false, 1}} {
		pass(step.pass)
		if got := ask(step.urgent); got != step.want {
			t.Errorf("step %d: asked %d times, want %d", i, got, step.want)
		}
	}
}

// TestContradiction: a log that was put back, or that has two histories, is found
// out by its witnesses: with proof where they show what they cosigned.
func TestContradiction(t *testing.T) {
	l := newLog(t, "trail.example")
	good, fork := l.tree(t, 300, 300, ""), l.tree(t, 300, 100, "the other")
	for _, tt := range []struct {
		name        string
		shown       *tree
		size, known int
		against     uint64
	}{
		{"an old copy", good, 150, 150, 200},
		{"an old copy of another history", fork, 150, 150, 200},
		{"another history, which grew", fork, 250, 250, 200},
		{"another history of the same size", fork, 200, 200, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, "w", l)
			p := policyOf(t, 1, peerOf{s.vkey, s.http.URL})
			if got := cosign(t, newClient(t, l, p, nil), good, 200, 200); !got.Quorum {
				t.Fatal(got.Failed)
			}
			c := newClient(t, l, p, nil)
			got := cosign(t, c, tt.shown, tt.size, tt.known)
			if got.Quorum || len(got.Against) != 1 || got.Against[0].Size != tt.against || !c.Believed(got.Against) {
				t.Fatalf("%+v %v", got.Against, got.Failed)
			}
			if held, err := trailgate.OpenCheckpoint(got.Against[0].Proof, l.verifier); err != nil || held.Size != 200 {
				t.Errorf("the proof is %q (%v)", got.Against[0].Proof, err)
			}
			if st := c.Status()[0]; !st.Disputes || st.Ahead != tt.against || st.Since.IsZero() {
				t.Errorf("status: %+v", st)
			}
		})
	}
	t.Run("more is on disk than is published", func(t *testing.T) {
		s := start(t, "w", l)
		c := newClient(t, l, policyOf(t, 1, peerOf{s.vkey, s.http.URL}), nil)
		cosign(t, c, good, 200, 200)
		if got := cosign(t, c, good, 150, 250); got.Quorum || len(got.Against) > 0 {
			t.Errorf("%+v", got)
		}
		if got := cosign(t, c, good, 250, 250); !got.Quorum {
			t.Errorf("the next checkpoint: %v", got.Failed)
		}
	})
	t.Run("one witness's word", func(t *testing.T) {
		// It shows nothing. Alone it is a quorum or is not believed.
		key, err := trailgate.GenerateCosigner("liar")
		if err != nil {
			t.Fatal(err)
		}
		liar := fake(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				_, _ = w.Write(good.checkpoint(t, 120).Raw) // true, and no contradiction
				return
			}
			w.Header().Set("Content-Type", "text/x.tlog.size")
			w.WriteHeader(409)
			fmt.Fprint(w, "1000000\n")
		})
		s := start(t, "w", l)
		for needed, believed := range map[int]bool{1: true, 2: false} {
			c := newClient(t, l, policyOf(t, needed, peerOf{s.vkey, s.http.URL}, peerOf{key.Verifier().String(), liar}), nil)
			got := cosign(t, c, good, 200, 200)
			if len(got.Against) != 1 || got.Against[0].Size != 1000000 || len(got.Against[0].Proof) > 0 {
				t.Fatalf("%+v", got.Against)
			}
			if c.Believed(got.Against) != believed {
				t.Errorf("with %d needed it is believed: %v", needed, !believed)
			}
		}
	})
}

// TestNewClient: a log's policy needs addresses.
func TestNewClient(t *testing.T) {
	l := newLog(t, "trail.example")
	key, err := trailgate.GenerateCosigner("w")
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{"", "w.example", "ftp://w.example", "https://u:p@w.example", "https://w.example/?x=y", "https:///x", "https://w.example/#x"} {
		_, err := witness.NewClient(witness.ClientConfig{Policy: policyOf(t, 1, peerOf{key.Verifier().String(), u}), Log: l.verifier})
		if err == nil || !strings.Contains(err.Error(), "w0") {
			t.Errorf("%q: %v", u, err)
		}
	}
}

// TestTessera: Tessera's own client, the one that public logs use, gets its
// checkpoints cosigned here, by a policy that its parser and ours read alike.
func TestTessera(t *testing.T) {
	l := newLog(t, "trail.example")
	a, b := start(t, "a.example", l), start(t, "b.example", l)
	var now atomic.Pointer[server] // what b's address leads to
	now.Store(b)
	addr := fake(t, func(w http.ResponseWriter, r *http.Request) { now.Load().http.Config.Handler.ServeHTTP(w, r) })
	text := fmt.Sprintf("witness a %s %s\nwitness b %s %s\ngroup g all a b\nquorum g\n", a.vkey, a.http.URL, b.vkey, addr)
	group, err := tessera.NewWitnessGroupFromPolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	policy, err := trailgate.ParseWitnessPolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	driver, err := posix.New(ctx, posix.Config{Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(l.signer).WithCheckpointInterval(200*time.Millisecond).WithBatching(10, 50*time.Millisecond).
		WithWitnesses(group, &tessera.WitnessOptions{Timeout: 30 * time.Second}))
	if err != nil {
		t.Fatal(err)
	}
	await := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 50*time.Millisecond)
	for i := range 3 {
		if i == 2 {
			b.stop() // and back, with its memory
			now.Store(open(t, b.dir, b.vkey, witness.Options{}, l))
		}
		_, raw, err := await.Await(ctx, appender.Add(ctx, tessera.NewEntry(fmt.Appendf(nil, "entry %d", i))))
		if err != nil {
			t.Fatal(err)
		}
		got, err := trailgate.OpenCosigned(raw, l.verifier, policy)
		if err != nil || len(got.Cosignatures) != 2 {
			t.Fatalf("%v\n%s", err, raw)
		}
	}
	if err := shutdown(ctx); err != nil {
		t.Error(err)
	}
}
