package trail_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail"
)

// TestVerifyLive verifies a trail over and over while it is written to, by its
// directory and over HTTP.
func TestVerifyLive(t *testing.T) {
	dir := create(t)
	tr := open(t, dir, trail.Options{BatchMaxSize: 700})
	srv := httptest.NewServer(http.FileServer(http.Dir(tr.LogDir())))
	defer srv.Close()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var l ledger
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := l.append(tr); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	var last uint64
	for range rounds {
		r, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir})
		if err != nil {
			t.Error(err)
			break
		}
		if r.JournalSize < last {
			t.Errorf("shrank from %d to %d", last, r.JournalSize)
		}
		last = r.JournalSize
		if _, err := trail.Verify(t.Context(), trail.VerifyOptions{URL: srv.URL, Key: tr.PublicKey()}); err != nil {
			t.Error(err)
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	close(stop)
	wg.Wait()
	l.check(t, tr)
	t.Log(last, "entries")
}

func TestVerifyElsewhere(t *testing.T) {
	dir := create(t)
	fill(t, dir, 600, trail.Options{})
	key := strings.TrimSpace(string(read(t, filepath.Join(dir, "log.pub"))))
	log := filepath.Join(dir, "log")
	r, err := trail.Verify(t.Context(), trail.VerifyOptions{LogDir: log, Key: key, Head: filepath.Join(dir, "head", "checkpoint")})
	if err != nil || r.Size != 600 {
		t.Fatal(r, err)
	}
	for name, o := range map[string]trail.VerifyOptions{
		"no place": {}, "two places": {Dir: dir, LogDir: log}, "no key": {LogDir: log},
		"bad key": {LogDir: log, Key: "x"}, "bad address": {URL: "ftp://x", Key: key}, "no trail": {Dir: t.TempDir()},
	} {
		_, err := trail.Verify(t.Context(), o)
		if _, tampered := errors.AsType[*trail.TamperError](err); err == nil || tampered {
			t.Errorf("%s: %v", name, err)
		}
	}
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	if _, err := trail.Verify(t.Context(), trail.VerifyOptions{URL: srv.URL, Key: key}); err == nil {
		t.Error("nothing verifies")
	}
}

func TestLinksAndBlobs(t *testing.T) {
	dir := create(t)
	tr := open(t, dir, trail.Options{})
	long := strings.Repeat("SELECT 1; -- ", 100_000)
	sha, err := tr.PutBlob(t.Context(), []byte(long))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := tr.PutBlob(t.Context(), []byte(long)); err != nil || again != sha {
		t.Fatal(again, err)
	}
	got, err := tr.GetBlob(t.Context(), sha)
	if err != nil || string(got) != long {
		t.Fatal(len(got), err)
	}
	if _, err := tr.GetBlob(t.Context(), strings.Repeat("0", 64)); !errors.Is(err, trail.ErrNotFound) {
		t.Error(err)
	}
	if _, err := tr.GetBlob(t.Context(), "../../log.key"); err == nil {
		t.Error("a path is taken for a hash")
	}
	intent := entry("01intent")
	intent.Statements = []trailgate.Statement{{Where: "query", Blob: sha, SHA256: sha, Length: int64(len(long))}}
	outcome := &trailgate.Entry{ID: "01outcome", Kind: trailgate.KindOutcome, IntentID: "01intent", Gateway: trailgate.Gateway{ID: "gw", Version: "test"}}
	for _, e := range []*trailgate.Entry{intent, outcome} {
		if err := tr.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	closeTrail(t, tr)
	if r := verify(t, dir); r.Blobs != 1 {
		t.Errorf("%d blobs", r.Blobs)
	}
	path := filepath.Join(dir, "blobs", sha[:2], sha+".zst")
	raw := read(t, path)
	for name, change := range map[string]func(){
		"changed": func() {
			bad := append([]byte(nil), raw...)
			bad[len(bad)/2] ^= 1
			write(t, path, bad)
		},
		"missing": func() { remove(t, path) },
	} {
		change()
		_, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir})
		if tamper, ok := errors.AsType[*trail.TamperError](err); !ok || tamper.Place != path || tamper.LastGood != 2 {
			t.Errorf("stored body %s: %v", name, err)
		} else {
			t.Log(err)
		}
		write(t, path, raw)
	}
	// A damaged body that comes again is put right.
	write(t, path, raw[:10])
	tr = open(t, dir, trail.Options{})
	if _, err := tr.PutBlob(t.Context(), []byte(long)); err != nil {
		t.Fatal(err)
	}
	orphan := &trailgate.Entry{ID: "01orphan", Kind: trailgate.KindOutcome, IntentID: "01nobody", Gateway: trailgate.Gateway{ID: "gw", Version: "test"}}
	if err := tr.Append(t.Context(), orphan); err != nil {
		t.Fatal(err)
	}
	closeTrail(t, tr)
	_, err = trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir})
	if tamper, ok := errors.AsType[*trail.TamperError](err); !ok || tamper.Seq != 2 || !strings.Contains(tamper.Reason, "01nobody") {
		t.Errorf("an outcome of nothing: %v", err)
	}
}

func TestFollow(t *testing.T) {
	dir := create(t)
	tr := open(t, dir, trail.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	const n = 1000
	got := make(chan uint64, n)
	go func() {
		defer close(got)
		for next := uint64(0); next < n; {
			if err := tr.Wait(ctx, next); err != nil {
				t.Error(err)
				return
			}
			if err := tr.Scan(ctx, next, func(seq uint64, _ []byte) error { got <- seq; next = seq + 1; return nil }); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	appendN(t, tr, n)
	want := uint64(0)
	for seq := range got {
		if seq != want {
			t.Fatalf("entry %d after %d", seq, want)
		}
		want++
	}
	if want != n {
		t.Fatalf("%d entries", want)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if err := tr.Wait(ctx, n); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestRandomReads reads entries from bundles that are not in memory.
func TestRandomReads(t *testing.T) {
	dir := create(t)
	fill(t, dir, 3000, trail.Options{})
	tr := open(t, dir, trail.Options{})
	v, err := note.NewVerifier(tr.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for range 50 {
		seq := rand.Uint64N(3000)
		raw, err := tr.Get(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := trailgate.Decode(raw); err != nil || e.Seq != seq {
			t.Fatal(seq, err)
		}
	}
	t.Log("50 random entries in", time.Since(start))
	for _, seq := range []uint64{0, 1, 255, 256, 2999} {
		p, err := tr.Prove(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		if e, _, err := p.Verify(v); err != nil || e.Seq != seq {
			t.Error(seq, err)
		}
	}
	if _, err := tr.Prove(t.Context(), 3000); !errors.Is(err, trail.ErrNotFound) {
		t.Error(err)
	}
	if _, err := tr.Get(t.Context(), 3000); !errors.Is(err, trail.ErrNotFound) {
		t.Error(err)
	}
	// A bundle that somebody changed is not proven, even if it looks right.
	path := glob(t, filepath.Join(dir, "log", "tile", "entries", "003"))[0]
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, []byte(strings.Replace(string(raw), "etl-bot", "etl-bat", 1)))
	closeTrail(t, tr)
	tr = open(t, dir, trail.Options{})
	if _, err := tr.Prove(t.Context(), 3*256); !errors.Is(err, trail.ErrTruncated) {
		t.Errorf("a changed entry is proven: %v", err)
	}
}

// TestSweep: what Tessera was writing when it was killed goes, tiles stay.
func TestSweep(t *testing.T) {
	dir := create(t)
	fill(t, dir, 600, trail.Options{})
	junk := []string{
		"tile/entries/0021804289383", "tile/entries/002.p/881804289383", "tile/0/0031804289383",
		"tile/1/000.p/21804289383", ".state/treeState1804289383", "checkpoint1804289383",
	}
	for _, name := range junk {
		write(t, filepath.Join(dir, "log", name), []byte("half a fil"))
	}
	verify(t, dir) // they are no part of the log
	fill(t, dir, 10, trail.Options{})
	for _, name := range junk {
		if _, err := os.Stat(filepath.Join(dir, "log", name)); !os.IsNotExist(err) {
			t.Errorf("%s is still there (%v)", name, err)
		}
	}
	verify(t, dir)
}
