package trailgate_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	f_note "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

// cosignerFor is a witness key that is the same in every run.
func cosignerFor(t testing.TB, name string) *trailgate.Cosigner {
	t.Helper()
	seed := sha256.Sum256([]byte("witness " + name))
	c, err := trailgate.NewCosigner(privateKey(name, 4, seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// privateKey writes a note private key down by the book: C2SP signed-note.
func privateKey(name string, alg byte, seed []byte) string {
	public := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	h := sha256.Sum256(slices.Concat([]byte(name+"\n"), []byte{alg}, public))
	return fmt.Sprintf("PRIVATE+KEY+%s+%x+%s", name, h[:4], base64.StdEncoding.EncodeToString(append([]byte{alg}, seed...)))
}

// fakeLog is a log's key, which signs checkpoints of trees of made-up leaves.
type fakeLog struct {
	signer   note.Signer
	verifier note.Verifier
	vkey     string
}

func logFor(t testing.TB, origin string) *fakeLog {
	t.Helper()
	seed := sha256.Sum256([]byte("log " + origin))
	skey := privateKey(origin, 1, seed[:])
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := note.NewEd25519VerifierKey(origin, ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return &fakeLog{s, v, vkey}
}

func (l *fakeLog) text(size int, root tlog.Hash) string {
	return fmt.Sprintf("%s\n%d\n%s\n", l.signer.Name(), size, root)
}

func (l *fakeLog) checkpoint(t testing.TB, size int, signers ...note.Signer) []byte {
	t.Helper()
	raw, err := note.Sign(&note.Note{Text: l.text(size, tlog.RecordHash(fmt.Append(nil, size)))}, append([]note.Signer{l.signer}, signers...)...)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// at is a cosigner whose clock stands.
type at struct {
	*trailgate.Cosigner
	time int64
}

func (a at) Sign(text []byte) ([]byte, error) { return a.SignAt(text, time.Unix(a.time, 0)) }

// policyOf is a policy of those witnesses, of whom so many are needed.
func policyOf(t testing.TB, needed string, witnesses ...*trailgate.Cosigner) *trailgate.WitnessPolicy {
	t.Helper()
	var b strings.Builder
	names := make([]string, len(witnesses))
	for i, w := range witnesses {
		names[i] = fmt.Sprintf("w%d", i)
		fmt.Fprintf(&b, "witness w%d %s\n", i, w.Verifier())
	}
	fmt.Fprintf(&b, "group all-of-us %s %s\nquorum all-of-us\n", needed, strings.Join(names, " "))
	p, err := trailgate.ParseWitnessPolicy([]byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestCosignatureFormats: the same keys sign and verify alike here and in the
// implementation that public witnesses use.
func TestCosignatureFormats(t *testing.T) {
	ours, err := trailgate.GenerateCosigner("witness.example/w1")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := f_note.NewSignerForCosignatureV1(ours.PrivateKey())
	if err != nil {
		t.Fatal(err)
	}
	theirVerifier, err := f_note.NewVerifierForCosignatureV1(ours.Verifier().String())
	if err != nil {
		t.Fatal(err)
	}
	if theirs.KeyHash() != ours.KeyHash() || theirVerifier.KeyHash() != ours.KeyHash() {
		t.Fatalf("key hashes: ours %08x, theirs %08x and %08x", ours.KeyHash(), theirs.KeyHash(), theirVerifier.KeyHash())
	}
	l := logFor(t, "trail.example")
	for _, signer := range []note.Signer{ours, theirs} {
		raw := l.checkpoint(t, 7, signer)
		for _, v := range []note.Verifier{ours.Verifier(), theirVerifier} {
			n, err := note.Open(raw, note.VerifierList(v))
			if err != nil || len(n.Sigs) != 1 {
				t.Fatalf("%T does not take what %T signed: %v", v, signer, err)
			}
		}
		c, err := trailgate.OpenCosigned(raw, l.verifier, policyOf(t, "all", ours))
		if err != nil {
			t.Fatal(err)
		}
		n, err := note.Open(raw, note.VerifierList(theirVerifier))
		if err != nil {
			t.Fatal(err)
		}
		theirTime, err := f_note.CoSigV1Timestamp(n.Sigs[0])
		if err != nil || !c.Cosignatures[0].Time.Equal(theirTime) {
			t.Errorf("time is %v here and %v there (%v)", c.Cosignatures[0].Time, theirTime, err)
		}
	}
}

// TestCosignerKeys: keys survive being written down, and damaged or foreign
// ones are refused.
func TestCosignerKeys(t *testing.T) {
	c := cosignerFor(t, "witness.example/w1")
	again, err := trailgate.NewCosigner(c.PrivateKey() + "\n")
	if err != nil || again.PrivateKey() != c.PrivateKey() || again.Verifier().String() != c.Verifier().String() {
		t.Fatalf("a key is another one after it is read again: %v", err)
	}
	if s := fmt.Sprintf("%v %s", c, c); strings.Contains(s, "PRIVATE") {
		t.Errorf("a private key is printed: %s", s)
	}
	vkey := c.Verifier().String()
	name, rest, _ := strings.Cut(vkey, "+")
	hash, key, _ := strings.Cut(rest, "+")
	_, mldsa, err := f_note.GenerateMLDSAKey("witness.example/w2")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ vkey, says string }{
		{"", "NAME+HASH+KEY"},
		{name + "+" + hash, "NAME+HASH+KEY"},
		{"other.example+" + hash + "+" + key, "hash"},
		{name + "+00000000+" + key, "hash"},
		{name + "+" + hash + "+" + key[:len(key)-4], "bytes"},
		{name + "+" + hash + "+" + key + "AAAA", "bytes"},
		{name + "+" + hash + "+" + key + "=", "base64"},
		{name + "+zzzzzzzz+" + key, "hexadecimal"},
		{"two words+" + hash + "+" + key, "NAME+HASH+KEY"},
		{logFor(t, "trail.example").vkey, "0x01"},
		{mldsa, "0x06"},
	} {
		if _, err := trailgate.NewCosignatureVerifier(tt.vkey); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("key %q: %v, want something about %q", tt.vkey, err, tt.says)
		}
	}
	for _, skey := range []string{"", vkey, "PRIVATE+KEY+" + vkey[:len(vkey)-8], strings.Replace(c.PrivateKey(), hash, "00000000", 1)} {
		if _, err := trailgate.NewCosigner(skey); err == nil {
			t.Errorf("private key %q is taken", skey)
		}
	}
	for _, name := range []string{"", "a b", "a+b", "a\nb", "a\x1b", "\xff", strings.Repeat("a", 256)} {
		if _, err := trailgate.GenerateCosigner(name); err == nil {
			t.Errorf("a key named %q is made", name)
		}
	}
}

// TestCosignOnlyCheckpoints: a witness's key signs nothing that is no checkpoint.
func TestCosignOnlyCheckpoints(t *testing.T) {
	c := cosignerFor(t, "w")
	for _, text := range []string{"", "hello\n", "origin\nx\nf+7CoKgXKE/tNys9TTXcr/ad6U/K3xvznmzew9y6SP0=\n", "origin\n1\nshort\n"} {
		if _, err := c.Sign([]byte(text)); err == nil {
			t.Errorf("%q is cosigned", text)
		}
	}
	for _, when := range []time.Time{time.Unix(-1, 0), time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if _, err := c.SignAt([]byte("origin\n1\nf+7CoKgXKE/tNys9TTXcr/ad6U/K3xvznmzew9y6SP0=\n"), when); err == nil {
			t.Errorf("a cosignature is made at %v", when)
		}
	}
}

// lineOf is a key's line in a signed note.
func lineOf(t testing.TB, raw []byte, key string) []byte {
	t.Helper()
	for s := range bytes.Lines(raw) {
		if bytes.HasPrefix(s, []byte("— "+key+" ")) {
			return s
		}
	}
	t.Fatalf("%s did not sign", key)
	return nil
}

// with is a note with one more signature line.
func with(raw, line []byte) []byte { return slices.Concat(raw, line) }

// TestOpenCosigned: who cosigned counts once, only if they did, and only if
// the policy knows them. The cases are vectors for other implementations, too.
func TestOpenCosigned(t *testing.T) {
	l, other := logFor(t, "trail.example"), logFor(t, "other.example")
	a, b, c := cosignerFor(t, "a.example"), cosignerFor(t, "b.example"), cosignerFor(t, "c.example")
	stranger := cosignerFor(t, "s.example")
	seed := sha256.Sum256([]byte("somebody else"))
	impostor, err := trailgate.NewCosigner(privateKey("b.example", 4, seed[:])) // b's name, but not b's key
	if err != nil {
		t.Fatal(err)
	}
	policy := fmt.Sprintf("log %s\nwitness alice %s https://a.example/\nwitness bob %s\nwitness carol %s\ngroup us 2 alice bob carol\nquorum us\n",
		l.vkey, a.Verifier(), b.Verifier(), c.Verifier())

	plain := l.checkpoint(t, 7)
	lastByte := lineOf(t, l.checkpoint(t, 7, at{b, 1000}), "b.example")
	flipped := slices.Clone(lastByte)
	flipped[len(flipped)-5] ^= 1
	type vector struct {
		Name       string   `json:"name"`
		Log        string   `json:"log"`
		Policy     string   `json:"policy"`
		Checkpoint string   `json:"checkpoint"`
		Cosigned   []string `json:"cosigned"` // "witness time", in the policy's order
		Result     string   `json:"result"`   // quorum, no quorum, or invalid
	}
	vectors := []vector{
		{"nobody", "", "", string(plain), nil, "no quorum"},
		{"one", "", "", string(l.checkpoint(t, 7, at{a, 1000})), []string{"alice 1000"}, "no quorum"},
		{"two", "", "", string(l.checkpoint(t, 7, at{c, 1000}, at{a, 1001})), []string{"alice 1001", "carol 1000"}, "quorum"},
		{"three", "", "", string(l.checkpoint(t, 7, at{c, 1000}, at{a, 1001}, at{b, 3})), []string{"alice 1001", "bob 3", "carol 1000"}, "quorum"},
		{"one twice", "", "", string(with(l.checkpoint(t, 7, at{a, 1000}), lineOf(t, l.checkpoint(t, 7, at{a, 2000}), "a.example"))), []string{"alice 1000"}, "no quorum"},
		{"one, a stranger and an impostor", "", "", string(l.checkpoint(t, 7, at{a, 1000}, at{stranger, 1000}, at{impostor, 1000})), []string{"alice 1000"}, "no quorum"},
		{"of another size", "", "", string(with(l.checkpoint(t, 7, at{a, 1000}), lineOf(t, l.checkpoint(t, 8, at{b, 1000}), "b.example"))), nil, "invalid"},
		{"of another log", "", "", string(with(l.checkpoint(t, 7, at{a, 1000}), lineOf(t, other.checkpoint(t, 7, at{b, 1000}), "b.example"))), nil, "invalid"},
		{"a bit is flipped", "", "", string(with(l.checkpoint(t, 7, at{a, 1000}), flipped)), nil, "invalid"},
		{"the log did not sign", "", "", string(bytes.Replace(l.checkpoint(t, 7, at{a, 1000}, at{b, 1000}), lineOf(t, plain, "trail.example"), nil, 1)), nil, "invalid"},
		{"another log signed", "", "", string(other.checkpoint(t, 7, at{a, 1000}, at{b, 1000})), nil, "invalid"},
		{"the log's own name is no cosignature", "", "", string(with(plain, lineOf(t, plain, "trail.example"))), nil, "no quorum"},
	}
	p, err := trailgate.ParseWitnessPolicy([]byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	for i := range vectors {
		v := &vectors[i]
		v.Log, v.Policy = l.vkey, policy
		got, err := trailgate.OpenCosigned([]byte(v.Checkpoint), l.verifier, p)
		result := "quorum"
		switch {
		case errors.Is(err, trailgate.ErrNoQuorum):
			result = "no quorum"
		case err != nil:
			result = "invalid"
		}
		if result != v.Result || (got == nil) != (result == "invalid") {
			t.Errorf("%s: %s (%v), want %s", v.Name, result, err, v.Result)
			continue
		}
		var who []string
		if got != nil {
			for _, s := range got.Cosignatures {
				who = append(who, fmt.Sprintf("%s %d", s.Witness, s.Time.Unix()))
			}
		}
		if d := cmp.Diff(v.Cosigned, who); d != "" {
			t.Errorf("%s: %s", v.Name, d)
		}
	}
	golden(t, "cosignatures.json", vectors)
}

// golden compares a JSON file with what it should hold.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name)
	if update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("%s changed, and with it what old cosignatures mean: %s", path, d)
	}
}
