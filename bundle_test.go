package trailgate_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

func bundleVector(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "bundle", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func bundleKey(t testing.TB) note.Verifier {
	t.Helper()
	key, err := note.NewVerifier(strings.TrimSpace(string(bundleVector(t, "log.pub"))))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func verifyBundle(file []byte, o trailgate.BundleOptions) (*trailgate.BundleReport, error) {
	b, err := trailgate.OpenBundle(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil, err
	}
	return b.Verify(o)
}

func TestBundleVectors(t *testing.T) {
	key, file := bundleKey(t), bundleVector(t, "good.tar")
	policy, err := trailgate.ParseWitnessPolicy(bundleVector(t, "witness-policy"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := verifyBundle(file, trailgate.BundleOptions{Key: key, Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	if r.Entries != 9 || r.Blobs != 1 || r.Bodies != 2 || r.AbsentRows != 1 || r.Identities != 1 || len(r.Witnesses) != 2 || len(r.Renderings) != 3 || !r.Rows() || !r.Statements() {
		t.Errorf("found %+v", r)
	}
	if r.First.Seq != 3 || r.Last.Kind != trailgate.KindDenied || r.Creation.Event.Actor == "" {
		t.Errorf("found %+v", r)
	}
	_, err = verifyBundle(bundleVector(t, "bad.tar"), trailgate.BundleOptions{Key: key})
	bad, ok := errors.AsType[*trailgate.BundleError](err)
	if !ok || bad.Member != trailgate.BundleEntries || bad.Line != 5 {
		t.Errorf("bad.tar: %v", err)
	}
	b, err := trailgate.OpenBundle(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(0)
	for e, err := range b.Entries() {
		if err != nil || e.ID == "" {
			t.Fatal(err)
		}
		n++
	}
	if n != r.Entries {
		t.Errorf("%d entries", n)
	}
}

// TestBundleRemembered: a bundle is held against a checkpoint that the auditor has kept.
func TestBundleRemembered(t *testing.T) {
	key, file := bundleKey(t), bundleVector(t, "good.tar")
	b, err := trailgate.OpenBundle(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{trailgate.BundleFirst, trailgate.BundleCheckpoint} {
		kept := make([]byte, b.Member(name).Size())
		if _, err := b.Member(name).ReadAt(kept, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Verify(trailgate.BundleOptions{Key: key, Remembered: kept}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	cp, _, _, other := testLog(t, 3)
	if _, err := b.Verify(trailgate.BundleOptions{Key: key, Remembered: []byte(cp)}); err == nil {
		t.Error("the checkpoint of another log is taken")
	}
	_ = other
	if _, err := b.Verify(trailgate.BundleOptions{}); err == nil {
		t.Error("verified without a key")
	}
}

// TestTreeWalk holds the walk against the proofs of package tlog, for all subsets of small
// trees.
func TestTreeWalk(t *testing.T) {
	for n := 1; n <= 9; n++ {
		_, entries, hashes, _ := testLog(t, n)
		root, err := tlog.TreeHash(int64(n), hashes)
		if err != nil {
			t.Fatal(err)
		}
		for set := range 1 << n {
			w := trailgate.NewTreeWalk(uint64(n), root)
			first := true
			for i := range n {
				if set>>i&1 == 0 {
					continue
				}
				siblings, err := w.Siblings(uint64(i))
				if err != nil {
					t.Fatal(err)
				}
				path := make([]tlog.Hash, len(siblings))
				for j, s := range siblings {
					path[j] = subtree(entries, s[0], s[1])
				}
				if first {
					want, err := tlog.ProveRecord(int64(n), int64(i), hashes)
					if err != nil || fmt.Sprint([]tlog.Hash(want)) != fmt.Sprint(path) {
						t.Fatalf("the first path of %d in %d is not RFC 6962's", i, n)
					}
					first = false
				}
				if err := w.Take(uint64(i), trailgate.LeafHash(append([]byte("x"), entries[i]...)), path); err == nil {
					t.Fatalf("another leaf %d of %d is taken", i, n)
				}
				if err := w.Take(uint64(i), trailgate.LeafHash(entries[i]), append(path, root)); err == nil {
					t.Fatalf("a longer path of %d in %d is taken", i, n)
				}
				if err := w.Take(uint64(i), trailgate.LeafHash(entries[i]), path); err != nil {
					t.Fatalf("%d of %d in %b: %v", i, n, set, err)
				}
				if err := w.Take(uint64(i), trailgate.LeafHash(entries[i]), path); err == nil {
					t.Fatalf("%d of %d is taken twice", i, n)
				}
			}
			if _, err := w.Siblings(uint64(n)); err == nil {
				t.Fatal("beyond the tree")
			}
		}
	}
}

// subtree hashes leaves as RFC 6962, section 2.1 says.
func subtree(entries [][]byte, lo, hi uint64) tlog.Hash {
	if hi-lo == 1 {
		return trailgate.LeafHash(entries[lo])
	}
	k := uint64(1)
	for k*2 < hi-lo {
		k *= 2
	}
	return tlog.NodeHash(subtree(entries, lo, lo+k), subtree(entries, lo+k, hi))
}

func FuzzBundle(f *testing.F) {
	key, good := bundleKey(f), bundleVector(f, "good.tar")
	f.Add(good)
	f.Add(bundleVector(f, "bad.tar"))
	f.Add(good[:4096])
	f.Add(append(bytes.Clone(good[:8192]), make([]byte, 1024)...))
	f.Add(make([]byte, 1024))
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := verifyBundle(file, trailgate.BundleOptions{Key: key})
		if err != nil {
			return
		}
		// Nobody has the key, so what verifies is the vector, but for cosignatures.
		if r.Entries != 9 || r.Size != 28 {
			t.Fatalf("a bundle that nobody made verifies: %+v", r)
		}
	})
}
