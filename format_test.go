package trailgate_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

// update has the golden files written anew. They are part of the format: a
// difference in them means that old trails can no longer be read.
var update = os.Getenv("TRAILGATE_UPDATE_GOLDEN") != ""

// fillAll gives every field below v a value.
func fillAll(v reflect.Value, name string) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillAll(v.Elem(), name)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 11, 23, 1, 2, 3, 40_000_000, time.UTC)))
			return
		}
		for i := range v.NumField() {
			fillAll(v.Field(i), v.Type().Field(i).Name)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fillAll(v.Index(0), name+" one")
		fillAll(v.Index(1), name+" two")
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"b": name, "a": "<&>", "aa": "", "B": "x"}))
	case reflect.String:
		v.SetString(name)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(len(name)))
	case reflect.Uint64:
		v.SetUint(uint64(len(name)))
	default:
		panic("a field of a kind that the format does not know: " + name)
	}
}

// samples are entries that between them use every member and every escape.
func samples() []*trailgate.Entry {
	full := &trailgate.Entry{}
	fillAll(reflect.ValueOf(full).Elem(), "entry")
	full.Seq = math.MaxUint64
	var all strings.Builder
	for r := rune(0); r < 0x100; r++ {
		all.WriteRune(r)
	}
	all.WriteString("\u2028\u2029\ufeff\ufffd\U0001F600 \\ufffd \\u0041 </script> \u202e")
	return []*trailgate.Entry{
		{ID: "01", Kind: trailgate.KindGateway},
		full,
		{
			Seq: 2, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), ID: "01k9qrs7h3j5c2d8m4n6p0v1wx", Kind: trailgate.KindIntent,
			Statements: []trailgate.Statement{{Where: "query", Text: all.String(), Length: int64(all.Len())}},
		},
		{
			Seq: 3, Time: time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC), ID: "x", Kind: trailgate.KindOutcome,
			Outcome: &trailgate.Outcome{Status: 200, BytesBilled: math.MaxInt64, DurationNanos: math.MinInt64},
		},
		{Seq: 4, ID: "y", Kind: trailgate.KindRefused, Aggregate: &trailgate.Aggregate{Count: 3, Since: time.Date(2026, 1, 2, 3, 4, 5, 600, time.FixedZone("", -7200))}},
	}
}

func TestGoldenEntries(t *testing.T) {
	var got bytes.Buffer
	for _, e := range samples() {
		raw, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got.Write(raw)
		got.WriteByte('\n')
	}
	path := filepath.Join("testdata", "entries.golden")
	if update {
		if err := os.WriteFile(path, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Errorf("the encoding has changed (-golden +now):\n%s", d)
	}
	for i, line := range bytes.Split(bytes.TrimSuffix(want, []byte("\n")), []byte("\n")) {
		e, err := trailgate.Decode(line)
		if err != nil {
			t.Errorf("line %d: %v", i+1, err)
			continue
		}
		again, err := e.Encode()
		if err != nil || !bytes.Equal(again, line) {
			t.Errorf("line %d does not come back: %v", i+1, err)
		}
		var loose trailgate.Entry
		if err := json.Unmarshal(line, &loose); err != nil {
			t.Errorf("line %d: %v", i+1, err)
		} else if d := cmp.Diff(e, &loose); d != "" {
			t.Errorf("line %d: %s", i+1, d)
		}
	}
}

// TestBadEntries reads the file of encodings that must be refused.
func TestBadEntries(t *testing.T) {
	f, err := os.Open(filepath.Join("testdata", "entries.bad"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // read only
	lines := bufio.NewScanner(f)
	why, n := "", 0
	for lines.Scan() {
		line := lines.Text()
		if comment, ok := strings.CutPrefix(line, "# "); ok {
			why = comment
			continue
		}
		n++
		raw := strings.NewReplacer(`<FF>`, "\xff", `<BOM>`, "\ufeff", `<LF>`, "\n", `<2028>`, "\u2028").Replace(line)
		if e, err := trailgate.Decode([]byte(raw)); err == nil {
			t.Errorf("%s: decodes as %+v", why, e)
		}
	}
	if n < 20 {
		t.Errorf("%d vectors only", n)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, e := range map[string]*trailgate.Entry{
		"too large":     {ID: strings.Repeat("x", trailgate.MaxEntryBytes)},
		"invalid UTF-8": {ID: "a\xffb"},
		"in a map name": {ID: "a", Claims: &trailgate.Claims{Labels: map[string]string{"\xc0": "x"}}},
		"year 10000":    {ID: "a", Aggregate: &trailgate.Aggregate{Since: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}},
	} {
		if _, err := e.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, e := range samples() {
		raw, err := e.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := trailgate.Decode(raw)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil || !bytes.Equal(raw, again) {
			t.Fatalf("%q decodes, but encodes as %q (%v)", raw, again, err)
		}
	})
}

const testOrigin = "example.com/trailgate/vectors"

// testLog makes a signed log of n entries, and a reader of its hashes.
func testLog(t testing.TB, n int) (cp string, entries [][]byte, hashes tlog.HashReaderFunc, key note.Verifier) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(zeroReader{}, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	if key, err = note.NewVerifier(vkey); err != nil {
		t.Fatal(err)
	}
	var stored []tlog.Hash
	hashes = func(idx []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(idx))
		for i, at := range idx {
			out[i] = stored[at]
		}
		return out, nil
	}
	for i := range n {
		raw, err := (&trailgate.Entry{Seq: uint64(i), Time: time.Unix(int64(i), 0), ID: fmt.Sprint("e", i), Kind: trailgate.KindIntent}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, raw)
		hs, err := tlog.StoredHashes(int64(i), raw, hashes)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hs...)
	}
	root, err := tlog.TreeHash(int64(n), hashes)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", testOrigin, n, root)}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return string(signed), entries, hashes, key
}

// zeroReader makes keys that are the same each time.
type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestProofs(t *testing.T) {
	for _, n := range []int{1, 2, 7, 256, 300} {
		cp, entries, hashes, key := testLog(t, n)
		for i := 0; i < n; i += 1 + n/9 {
			path, err := tlog.ProveRecord(int64(n), int64(i), hashes)
			if err != nil {
				t.Fatal(err)
			}
			p := &trailgate.Proof{Entry: entries[i], Index: uint64(i), Checkpoint: cp, Hashes: [][]byte{}}
			for _, h := range path {
				p.Hashes = append(p.Hashes, h[:])
			}
			raw, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			var back trailgate.Proof
			if err := json.Unmarshal(raw, &back); err != nil {
				t.Fatal(err)
			}
			e, head, err := back.Verify(key)
			if err != nil || e.Seq != uint64(i) || head.Size != uint64(n) {
				t.Fatalf("entry %d of %d: %v", i, n, err)
			}
			for name, change := range map[string]func(p *trailgate.Proof){
				"another entry":      func(p *trailgate.Proof) { p.Entry = bytes.Replace(p.Entry, []byte("intent"), []byte("denied"), 1) },
				"another index":      func(p *trailgate.Proof) { p.Index++ },
				"a hash more":        func(p *trailgate.Proof) { p.Hashes = append(p.Hashes, make([]byte, 32)) },
				"a short hash":       func(p *trailgate.Proof) { p.Hashes = append([][]byte{{1}}, p.Hashes...) },
				"another size":       func(p *trailgate.Proof) { p.Checkpoint = strings.Replace(cp, fmt.Sprintf("\n%d\n", n), "\n999\n", 1) },
				"no signature":       func(p *trailgate.Proof) { p.Checkpoint, _, _ = strings.Cut(cp, "\n\n") },
				"many hashes":        func(p *trailgate.Proof) { p.Hashes = make([][]byte, 1000) },
				"an index too large": func(p *trailgate.Proof) { p.Index = math.MaxUint64 },
			} {
				bad := back
				bad.Hashes = append([][]byte(nil), back.Hashes...)
				change(&bad)
				if _, _, err := bad.Verify(key); err == nil {
					t.Errorf("entry %d of %d with %s is proven", i, n, name)
				}
			}
		}
	}
}

func TestOpenCheckpointRefuses(t *testing.T) {
	cp, _, _, key := testLog(t, 3)
	if _, err := trailgate.OpenCheckpoint([]byte(cp), key); err != nil {
		t.Fatal(err)
	}
	skey, _, err := note.GenerateKey(zeroReader{}, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	root := strings.Split(cp, "\n")[2]
	for name, text := range map[string]string{
		"another origin":    "example.com/other\n3\n" + root + "\n",
		"a size with sign":  testOrigin + "\n+3\n" + root + "\n",
		"a size with zeros": testOrigin + "\n03\n" + root + "\n",
		"a huge size":       testOrigin + "\n18446744073709551615\n" + root + "\n",
		"a short root":      testOrigin + "\n3\nAAAA\n",
		"no root":           testOrigin + "\n3\n",
	} {
		signed, err := note.Sign(&note.Note{Text: text}, signer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := trailgate.OpenCheckpoint(signed, key); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if _, err := trailgate.OpenCheckpoint(bytes.Repeat([]byte("x"), 1<<17), key); err == nil {
		t.Error("a huge checkpoint is accepted")
	}
}

func FuzzOpenCheckpoint(f *testing.F) {
	cp, _, _, key := testLog(f, 3)
	f.Add([]byte(cp))
	f.Add([]byte(strings.Replace(cp, "\n3\n", "\n4\n", 1)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := trailgate.OpenCheckpoint(raw, key)
		if err != nil {
			return
		}
		if c.Origin != key.Name() || c.Size != 3 {
			t.Fatalf("%q is taken for a checkpoint of %d", raw, c.Size)
		}
	})
}
