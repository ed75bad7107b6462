// Package bundlejs_test holds two verifiers of evidence bundles against each other:
// Trailgate's own and the one in this directory, which was written in JavaScript from
// docs/spec/bundle.md and shares no code with it.
package bundlejs_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bundle"
	"github.com/trailgate/trailgate/internal/bundle/bundletest"
)

// verdict is what a verifier says.
type verdict struct {
	Good    bool           `json:"good"`
	Crashed bool           `json:"crashed"`
	Member  string         `json:"member"`
	Line    uint64         `json:"line"`
	Reason  string         `json:"reason"`
	Report  map[string]any `json:"report"`
}

// node runs the other verifier, once for all files.
type node struct {
	dir string
	in  *json.Encoder
	out *json.Decoder
	n   int
}

func startNode(t *testing.T) *node {
	t.Helper()
	cmd := exec.Command("node", "batch.mjs")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; the second verifier needs Node.js 20 or newer", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			t.Errorf("node: %v\n%s", err, stderr.String())
		}
	})
	return &node{dir: t.TempDir(), in: json.NewEncoder(in), out: json.NewDecoder(bufio.NewReader(out))}
}

func (n *node) verify(t *testing.T, file []byte, key, policy string) verdict {
	t.Helper()
	n.n++
	path := filepath.Join(n.dir, fmt.Sprint(n.n))
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.in.Encode(map[string]string{"file": path, "key": key, "policy": policy}); err != nil {
		t.Fatal(err)
	}
	var v verdict
	if err := n.out.Decode(&v); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	return v
}

// ours is Trailgate's own verdict.
func ours(t *testing.T, file []byte, key, policy string) (verdict, *trailgate.BundleReport) {
	t.Helper()
	verifier, err := note.NewVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	o := trailgate.BundleOptions{Key: verifier}
	if policy != "" {
		if o.Policy, err = trailgate.ParseWitnessPolicy([]byte(policy)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := trailgate.OpenBundle(bytes.NewReader(file), int64(len(file)))
	var r *trailgate.BundleReport
	if err == nil {
		r, err = b.Verify(o)
	}
	if err == nil {
		return verdict{Good: true}, r
	}
	bad, ok := errors.AsType[*trailgate.BundleError](err)
	if !ok {
		t.Fatalf("not about the bundle: %v", err)
	}
	return verdict{Member: bad.Member, Line: bad.Line, Reason: bad.Reason}, nil
}

// agree runs both and has them say the same, of the same member.
func (n *node) agree(t *testing.T, file []byte, key, policy string) verdict {
	t.Helper()
	a, r := ours(t, file, key, policy)
	b := n.verify(t, file, key, policy)
	if b.Crashed {
		t.Fatalf("the other verifier failed: %+v; ours said %+v", b, a)
	}
	if a.Good != b.Good || a.Member != b.Member {
		t.Fatalf("they do not agree\n ours %+v\n js   %+v", a, b)
	}
	if a.Good {
		got := fmt.Sprintf("%v %v %v %v %v %v %v", b.Report["origin"], b.Report["size"], b.Report["entries"], b.Report["blobs"], b.Report["bodies"], b.Report["absent_rows"], b.Report["identities"])
		want := fmt.Sprintf("%v %v %v %v %v %v %v", r.Origin, r.Size, r.Entries, r.Blobs, r.Bodies, r.AbsentRows, r.Identities)
		if got != want {
			t.Fatalf("they do not find the same: ours %s, js %s", want, got)
		}
	}
	return a
}

func make1(t testing.TB, seed byte, q bundle.Request) *bundletest.Made {
	t.Helper()
	made, err := bundletest.Make(t.Context(), seed, q)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestGood(t *testing.T) {
	n := startNode(t)
	all := func(lo, hi uint64) bundle.Request {
		q := bundle.Request{Range: &[2]uint64{lo, hi}, Statements: true, Rows: true}
		for seq := lo; seq <= hi; seq++ {
			q.Seqs = append(q.Seqs, seq)
		}
		return q
	}
	for name, q := range map[string]bundle.Request{
		"entries alone": {},
		"statements":    {Statements: true},
		"rows":          {Rows: true},
		"everything":    {Statements: true, Rows: true},
		"nothing found": {Seqs: []uint64{}},
		"one entry":     {Seqs: []uint64{3}},
		"a range":       all(0, 23),
		"a short range": all(7, 12),
	} {
		t.Run(name, func(t *testing.T) {
			made := make1(t, 1, q)
			for _, policy := range []string{"", made.Log.Policy} {
				if v := n.agree(t, made.File, made.Log.Key, policy); !v.Good {
					t.Errorf("refused: %+v", v)
				}
			}
		})
	}
}

// TestVectors reads the vectors in testdata/bundle, as other implementations do.
func TestVectors(t *testing.T) {
	n := startNode(t)
	dir := filepath.Join("..", "..", "testdata", "bundle")
	read := func(name string) []byte {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	made := make1(t, 1, bundle.Request{Statements: true, Rows: true})
	bad := bytes.Replace(made.File, []byte("DELETE FROM"), []byte("SELECT FROM"), 1)
	if os.Getenv("TRAILGATE_UPDATE_GOLDEN") != "" {
		for name, raw := range map[string][]byte{"good.tar": made.File, "bad.tar": bad, "log.pub": []byte(made.Log.Key + "\n"), "witness-policy": []byte(made.Log.Policy)} {
			if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	key, policy := strings.TrimSpace(string(read("log.pub"))), string(read("witness-policy"))
	if !bytes.Equal(read("good.tar"), made.File) {
		t.Error("the same request makes another bundle than it did; if that is meant, write the vectors anew (TRAILGATE_UPDATE_GOLDEN=1)")
	}
	if v := n.agree(t, read("good.tar"), key, policy); !v.Good {
		t.Errorf("good.tar is refused: %+v", v)
	}
	if v := n.agree(t, read("bad.tar"), key, policy); v.Member != trailgate.BundleEntries || v.Line == 0 {
		t.Errorf("bad.tar: %+v", v)
	}
}

// TestFlips flips bits anywhere: both refuse, or both accept, and what they accept is the
// same but for signatures of keys that nobody asked about.
func TestFlips(t *testing.T) {
	n := startNode(t)
	made := make1(t, 1, bundle.Request{Statements: true, Rows: true})
	rng := rand.New(rand.NewPCG(1, 2))
	rounds := 1500
	if testing.Short() {
		rounds = 300
	}
	accepted := 0
	for range rounds {
		file := bytes.Clone(made.File)
		for range 1 + rng.IntN(2) {
			at := rng.IntN(len(file))
			if rng.IntN(3) == 0 { // half of the file is text of little interest: the head is not
				at = rng.IntN(8 << 10)
			}
			file[at] ^= 1 << rng.IntN(8)
		}
		policy := ""
		if rng.IntN(2) == 0 {
			policy = made.Log.Policy
		}
		if v := n.agree(t, file, made.Log.Key, policy); v.Good && !bytes.Equal(file, made.File) {
			accepted++
			at := bytes.IndexFunc(xor(file, made.File), func(r rune) bool { return r != 0 })
			before := file[max(0, at-400):at]
			if line := before[bytes.LastIndexByte(before, '\n')+1:]; !bytes.HasPrefix(line, []byte("— ")) {
				t.Errorf("a changed byte at %d, after %q, is accepted", at, line)
			}
		}
	}
	t.Logf("%d of %d accepted, all in cosignatures that were not asked for", accepted, rounds)
}

func xor(a, b []byte) []byte {
	out := make([]byte, len(a))
	for i := range a {
		if a[i] != b[i] {
			out[i] = 'x'
		}
	}
	return out
}

// TestCut cuts and lengthens the file at many places.
func TestCut(t *testing.T) {
	n := startNode(t)
	made := make1(t, 1, bundle.Request{Statements: true, Rows: true})
	step := 997
	if testing.Short() {
		step = 4999
	}
	for end := 0; end < len(made.File); end += step {
		if v := n.agree(t, made.File[:end], made.Log.Key, ""); v.Good {
			t.Errorf("good after %d bytes", end)
		}
	}
	for end := 0; end < len(made.File); end += 512 * 7 {
		if v := n.agree(t, made.File[:end], made.Log.Key, ""); v.Good {
			t.Errorf("good after %d bytes", end)
		}
	}
	for _, more := range []int{1, 512, 1024} {
		if v := n.agree(t, append(bytes.Clone(made.File), make([]byte, more)...), made.Log.Key, ""); v.Good {
			t.Errorf("good with %d bytes behind it", more)
		}
	}
}
