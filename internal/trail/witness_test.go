package trail_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail"
	"github.com/trailgate/trailgate/internal/trail/durable"
	"github.com/trailgate/trailgate/internal/witness"
)

// cosigner has a trail ask real witnesses.
type cosigner struct{ *witness.Client }

func (c cosigner) Cosign(ctx context.Context, cp *trailgate.Checkpoint, known uint64, urgent bool, prove func(uint64) (tlog.TreeProof, error)) *trail.Cosigned {
	a := c.Client.Cosign(ctx, cp, known, urgent, prove)
	out := &trail.Cosigned{Raw: a.Raw, Cosignatures: a.Cosignatures, Quorum: a.Quorum, Failed: a.Failed, Believed: c.Believed(a.Against)}
	for _, x := range a.Against {
		out.Against = append(out.Against, trail.Contradiction(x))
	}
	return out
}

// gate is a witness that can be made to be away, or to hang.
type gate struct {
	url, vkey string
	away      atomic.Bool
	hang      atomic.Pointer[chan struct{}]
	asked     atomic.Int64
}

func witnesses(t testing.TB, n int, logKey string) []*gate {
	t.Helper()
	v, err := note.NewVerifier(logKey)
	if err != nil {
		t.Fatal(err)
	}
	var gates []*gate
	for i := range n {
		dir := t.TempDir()
		g := &gate{}
		if g.vkey, err = witness.Init(dir, fmt.Sprintf("witness.example/%d", i)); err != nil {
			t.Fatal(err)
		}
		w, err := witness.Open(witness.Options{Dir: dir, Logs: []note.Verifier{v}})
		if err != nil {
			t.Fatal(err)
		}
		h := w.Handler("", witness.Limits{PerSecond: 1e6, Burst: 1e6})
		srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			g.asked.Add(1)
			if until := g.hang.Load(); until != nil {
				// What is waited for ends with the test, or with the client, which the server
				// sees only once the body is read.
				body, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(strings.NewReader(string(body)))
				select {
				case <-*until:
				case <-r.Context().Done():
				}
			}
			if g.away.Load() {
				rw.WriteHeader(http.StatusBadGateway)
				return
			}
			h.ServeHTTP(rw, r)
		}))
		g.url = srv.URL
		t.Cleanup(func() { srv.Close(); _ = w.Close() })
		gates = append(gates, g)
	}
	return gates
}

func witnessing(t testing.TB, logKey string, needed int, gates ...*gate) trail.Witnessing {
	t.Helper()
	var b strings.Builder
	var names []string
	for i, g := range gates {
		fmt.Fprintf(&b, "witness w%d %s %s\n", i, g.vkey, g.url)
		names = append(names, fmt.Sprint("w", i))
	}
	fmt.Fprintf(&b, "group g %d %s\nquorum g\n", needed, strings.Join(names, " "))
	p, err := trailgate.ParseWitnessPolicy([]byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(logKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := witness.NewClient(witness.ClientConfig{Policy: p, Log: v, Timeout: time.Minute, Grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return trail.Witnessing{Cosigner: cosigner{c}, Policy: p}
}

func publicKey(t testing.TB, dir string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "log.pub"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

// eventually polls, with the patience that witnesses need who are let alone for a while.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func add(t testing.TB, tr *trail.Trail, n int) {
	t.Helper()
	for i := range n {
		if err := tr.Append(t.Context(), entry(fmt.Sprint("e", tr.Size(), "-", i))); err != nil {
			t.Fatal(err)
		}
	}
}

// eventCounts counts the trail's own entries by action.
func eventCounts(t testing.TB, tr *trail.Trail) map[string]int {
	t.Helper()
	n := map[string]int{}
	if err := tr.Scan(t.Context(), 0, func(_ uint64, raw []byte) error {
		e, err := trailgate.Decode(raw)
		if err == nil && e.Event != nil {
			n[string(e.Kind)+" "+e.Event.Action]++
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// onDisk is who cosigned the published checkpoint, and its size.
func onDisk(t testing.TB, tr *trail.Trail, p *trailgate.WitnessPolicy) (who []string, size uint64, quorum bool) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(tr.LogDir(), "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(tr.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	c, err := trailgate.OpenCosigned(raw, v, p)
	if err != nil && !errors.Is(err, trailgate.ErrNoQuorum) {
		t.Fatal(err)
	}
	for _, s := range c.Cosignatures {
		who = append(who, s.Witness)
	}
	return who, c.Size, err == nil
}

// TestWitnessed: two of three witnesses are enough; with fewer the log grows all
// the same, and says once that it does, and once that it is over.
func TestWitnessed(t *testing.T) {
	dir := create(t)
	key := publicKey(t, dir)
	gates := witnesses(t, 3, key)
	w := witnessing(t, key, 2, gates...)
	tr := open(t, dir, trail.Options{Witnesses: w})
	add(t, tr, 300)
	eventually(t, "all three have cosigned everything", func() bool {
		who, size, quorum := onDisk(t, tr, w.Policy)
		return size == tr.Size() && quorum && len(who) == 3
	})
	gates[1].away.Store(true)
	add(t, tr, 10)
	eventually(t, "two of three", func() bool {
		who, size, quorum := onDisk(t, tr, w.Policy)
		return size == tr.Size() && quorum && slices.Equal(who, []string{"w0", "w2"})
	})
	gates[2].away.Store(true)
	for range 4 { // several checkpoints
		before := tr.Stats().Published
		add(t, tr, 10)
		eventually(t, "the log grows without a quorum", func() bool { return tr.Stats().Published > before })
	}
	eventually(t, "the loss of the quorum is on record", func() bool { return eventCounts(t, tr)["gateway witness.quorum_lost"] > 0 })
	if s := tr.Witnessed(); !s.On || s.Quorum || s.Lost == 0 || s.Failed["w1"] == "" || s.Failed["w0"] != "" {
		t.Errorf("state: %+v", s)
	}
	gates[1].away.Store(false)
	gates[2].away.Store(false)
	eventually(t, "the quorum is back, on a log that does not grow", func() bool {
		_, size, quorum := onDisk(t, tr, w.Policy)
		return size == tr.Size() && quorum && eventCounts(t, tr)["gateway witness.quorum_regained"] > 0
	})
	// One at the very first, since the empty log had no quorum; then one each.
	if n := eventCounts(t, tr); n["gateway witness.quorum_lost"] != 1 || n["gateway witness.quorum_regained"] > 2 {
		t.Errorf("events: %v", n)
	}
	closeTrail(t, tr)
	if _, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir}); err != nil {
		t.Error(err)
	}
}

// TestWitnessHangs: entries wait for the disk, and for no witness.
func TestWitnessHangs(t *testing.T) {
	dir := create(t)
	key := publicKey(t, dir)
	gates := witnesses(t, 1, key)
	w := witnessing(t, key, 1, gates...)
	tr := open(t, dir, trail.Options{Witnesses: w})
	release := make(chan struct{})
	gates[0].hang.Store(&release)
	add(t, tr, 1)
	asked := gates[0].asked.Load()
	eventually(t, "the witness is asked, and hangs", func() bool { return gates[0].asked.Load() > asked })
	before := tr.Stats().Published
	add(t, tr, 1000)
	eventually(t, "the log takes the entries over", func() bool { return tr.Stats().Integrated == tr.Size() })
	if s := tr.Stats(); s.Published != before || s.SequencerError != "" {
		t.Errorf("while it hangs: %+v", s)
	}
	close(release)
	eventually(t, "everything is cosigned", func() bool {
		_, size, quorum := onDisk(t, tr, w.Policy)
		return quorum && size == tr.Size()
	})
}

// TestRollback: an old copy of the whole data directory agrees with itself. Its
// witnesses know better, and it does not start; why is in the copy itself, once.
func TestRollback(t *testing.T) {
	dir := create(t)
	key := publicKey(t, dir)
	gates := witnesses(t, 2, key)
	tr := open(t, dir, trail.Options{Witnesses: witnessing(t, key, 1, gates...)})
	add(t, tr, 100)
	closeTrail(t, tr)
	old := copyDir(t, dir)
	tr = open(t, dir, trail.Options{Witnesses: witnessing(t, key, 1, gates...)})
	add(t, tr, 300)
	closeTrail(t, tr)

	gates[1].away.Store(true) // one is enough
	var before uint64
	for range 3 {
		_, err := trail.Open(t.Context(), old, trail.Options{Witnesses: witnessing(t, key, 1, gates...)})
		if !errors.Is(err, trail.ErrRolledBack) || !errors.Is(err, trail.ErrTruncated) {
			t.Fatalf("the old copy: %v", err)
		}
		r, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: old})
		if err != nil {
			t.Fatal(err)
		}
		if before != 0 && r.JournalSize != before {
			t.Errorf("each start adds an entry: %d, then %d", before, r.JournalSize)
		}
		before = r.JournalSize
	}
	// Without witnesses it would: that is what they are for.
	tr = open(t, old, trail.Options{})
	if n := eventCounts(t, tr)["gap witness.rollback"]; n != 1 {
		t.Errorf("%d entries tell of it", n)
	}
	// The newest copy goes on.
	tr = open(t, dir, trail.Options{Witnesses: witnessing(t, key, 1, gates...)})
	add(t, tr, 1)
}

// TestTwoHistories: two copies of a log grow apart. The one whose witnesses have
// seen the other stops, signs nothing more, and accepts no entry.
func TestTwoHistories(t *testing.T) {
	dir := create(t)
	key := publicKey(t, dir)
	gates := witnesses(t, 1, key)
	tr := open(t, dir, trail.Options{Witnesses: witnessing(t, key, 1, gates...)})
	add(t, tr, 50)
	closeTrail(t, tr)
	other := copyDir(t, dir)
	tr = open(t, dir, trail.Options{Witnesses: witnessing(t, key, 1, gates...)})
	second, err := trail.Open(t.Context(), other, trail.Options{CheckpointInterval: 100 * time.Millisecond, Witnesses: witnessing(t, key, 1, gates...)})
	if err != nil {
		t.Fatal(err)
	}
	add(t, tr, 100)
	eventually(t, "the first is cosigned", func() bool { s := tr.Witnessed(); return s.Quorum && s.Size == tr.Size() })
	for i := range 300 {
		if err := second.Append(t.Context(), entry(fmt.Sprint("other", i))); err != nil {
			break // found out already
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := second.RolledBack(ctx); !errors.Is(err, trail.ErrRolledBack) {
		t.Fatalf("the second: %v", err)
	}
	if err := second.Append(t.Context(), entry("one more")); !errors.Is(err, trail.ErrUnavailable) {
		t.Errorf("it accepts entries: %v", err)
	}
	if n := eventCounts(t, second)["gap witness.rollback"]; n != 1 {
		t.Errorf("%d entries tell of it", n)
	}
	_ = second.Close(t.Context())
	// What it published is what both have in common, or the part of its own that no witness cosigned.
	raw, err := os.ReadFile(filepath.Join(other, "log", "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(raw), "\n— ") > 1 && !strings.HasPrefix(string(raw), origin+"\n5") {
		t.Errorf("the second has a cosigned checkpoint:\n%s", raw)
	}
	add(t, tr, 1) // the first goes on
}

// TestRequireWitnesses: where calls need witnesses, none begins without; those
// that have begun end all the same.
func TestRequireWitnesses(t *testing.T) {
	dir := create(t)
	key := publicKey(t, dir)
	gates := witnesses(t, 1, key)
	gates[0].away.Store(true)
	w := witnessing(t, key, 1, gates...)
	w.MaxAge = time.Hour
	var ahead atomic.Int64
	tr := open(t, dir, trail.Options{Witnesses: w, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	if err := tr.Append(t.Context(), entry("x")); !errors.Is(err, trail.ErrUnavailable) || !errors.Is(tr.Ready(), trail.ErrUnavailable) {
		t.Fatalf("without witnesses: %v, ready: %v", err, tr.Ready())
	}
	outcome := entry("y")
	outcome.Kind, outcome.IntentID = trailgate.KindOutcome, "x"
	if err := tr.Append(t.Context(), outcome); err != nil {
		t.Errorf("an outcome: %v", err)
	}
	gates[0].away.Store(false)
	eventually(t, "it is ready", func() bool { return tr.Ready() == nil })
	add(t, tr, 1)
	gates[0].away.Store(true)
	add(t, tr, 1)
	ahead.Store(int64(2 * time.Hour))
	if err := tr.Append(t.Context(), entry("z")); !errors.Is(err, trail.ErrUnavailable) || !strings.Contains(err.Error(), "witnesses") {
		t.Errorf("two hours later: %v", err)
	}
}

// TestCosignedNotPublished: the witness has cosigned, and the checkpoint never
// reached the disk. The next start is no rollback, and goes on from there.
func TestCosignedNotPublished(t *testing.T) {
	dir := create(t)
	key := publicKey(t, dir)
	gates := witnesses(t, 1, key)
	w := witnessing(t, key, 1, gates...)
	var full atomic.Bool
	o := trail.Options{Witnesses: w, CheckpointInterval: 50 * time.Millisecond}
	o.SetFS(&durable.FS{Hook: func(op durable.Op) durable.Fault {
		if full.Load() && strings.HasSuffix(op.Path, filepath.Join("log", "checkpoint.tmp")) {
			return durable.Fault{Err: errors.New("no")}
		}
		return durable.Fault{}
	}})
	tr, err := trail.Open(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	add(t, tr, 20)
	eventually(t, "cosigned", func() bool { s := tr.Witnessed(); return s.Quorum && s.Size == tr.Size() })
	full.Store(true)
	add(t, tr, 30)
	eventually(t, "the witness is ahead of what is published", func() bool { return tr.Stats().SequencerError != "" })
	published := tr.Stats().Published
	tr.Kill()
	w = witnessing(t, key, 1, gates...)
	tr = open(t, dir, trail.Options{Witnesses: w})
	eventually(t, "everything is published and cosigned", func() bool {
		_, size, quorum := onDisk(t, tr, w.Policy)
		return quorum && size == tr.Size() && size > published
	})
	if n := eventCounts(t, tr); n["gap witness.rollback"]+n["gap witness.disagrees"] != 0 {
		t.Errorf("events: %v", n)
	}
}

// TestLiar: one witness of two says that it has seen more, and shows nothing. That
// is on record once, and the log goes on with the other.
func TestLiar(t *testing.T) {
	dir := create(t)
	key := publicKey(t, dir)
	gates := witnesses(t, 2, key)
	lie := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.WriteHeader(404)
			return
		}
		w.Header().Set("Content-Type", "text/x.tlog.size")
		w.WriteHeader(409)
		_, _ = w.Write([]byte("123456\n"))
	}))
	defer lie.Close()
	gates[1].url = lie.URL
	tr := open(t, dir, trail.Options{Witnesses: witnessing(t, key, 2, gates...)})
	for range 3 {
		before := tr.Stats().Published
		add(t, tr, 10)
		eventually(t, "the log grows", func() bool { return tr.Stats().Published > before })
	}
	eventually(t, "it is on record", func() bool { return eventCounts(t, tr)["gap witness.disagrees"] > 0 })
	if n := eventCounts(t, tr)["gap witness.disagrees"]; n != 1 {
		t.Errorf("it is on record %d times", n)
	}
}

// TestVerifyWitnessed: an auditor's policy is met, or is not, whatever the gateway's
// own is; and a second history under the real key, which verifies by itself, has no
// quorum: its witnesses refused it.
func TestVerifyWitnessed(t *testing.T) {
	dir := create(t)
	key := publicKey(t, dir)
	gates := witnesses(t, 3, key)
	w := witnessing(t, key, 2, gates...)
	tr := open(t, dir, trail.Options{Witnesses: w})
	add(t, tr, 50)
	closeTrail(t, tr)
	other := copyDir(t, dir)
	tr = open(t, dir, trail.Options{Witnesses: witnessing(t, key, 2, gates...)})
	add(t, tr, 30)
	closeTrail(t, tr)
	forged := open(t, other, trail.Options{}) // with the real key, and without witnesses
	add(t, forged, 40)
	closeTrail(t, forged)

	r, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir, Witnesses: w.Policy})
	if err != nil || len(r.Cosignatures) < 2 || r.Cosignatures[0].Time.IsZero() {
		t.Errorf("what was cosigned: %v, %+v", err, r)
	}
	if _, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: other}); err != nil {
		t.Errorf("the second history by itself: %v", err)
	}
	tampered := func(name string, o trail.VerifyOptions, says string) {
		t.Helper()
		_, err := trail.Verify(t.Context(), o)
		if e, ok := errors.AsType[*trail.TamperError](err); !ok || !strings.Contains(e.Reason, says) {
			t.Errorf("%s: %v, want something about %q", name, err, says)
		}
	}
	tampered("the second history", trail.VerifyOptions{Dir: other, Witnesses: w.Policy}, "witness policy is not met")
	strangers := witnessing(t, key, 1, witnesses(t, 1, key)...)
	tampered("another policy", trail.VerifyOptions{Dir: dir, Witnesses: strangers.Policy}, "0 did")

	// The same two, by checkpoints that somebody kept: many in one file, one torn.
	var kept []byte
	for _, d := range []string{dir, dir} {
		raw, err := os.ReadFile(filepath.Join(d, "log", "checkpoint"))
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, raw...)
		kept = append(kept, '\n')
		kept = append(kept, raw[:len(raw)-30]...)
		kept = append(kept, "\n# torn\n\n"...)
	}
	file := filepath.Join(t.TempDir(), "kept")
	for name, text := range map[string][]byte{"whole": kept, "cut off": append(slices.Clone(kept), kept[:40]...)} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir, Head: file}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		tampered(name, trail.VerifyOptions{Dir: other, Head: file}, "")
	}
	for name, text := range map[string]string{"nothing": "", "words": "hello\n", "another's": strings.Replace(string(kept), "8", "9", 1)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		tampered(name, trail.VerifyOptions{Dir: dir, Head: file}, "checkpoint")
	}
}
