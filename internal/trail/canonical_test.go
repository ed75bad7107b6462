package trail_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail"
)

// vectors are the test vectors of docs/spec/entry.md.
func vectors(t testing.TB, name string) [][]byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var lines [][]byte
	for line := range bytes.SplitSeq(bytes.TrimSpace(raw), []byte("\n")) {
		if !bytes.HasPrefix(line, []byte("# ")) {
			lines = append(lines, []byte(strings.NewReplacer("<FF>", "\xff", "<BOM>", "\ufeff", "<LF>", "\n", "<2028>", "\u2028").Replace(string(line))))
		}
	}
	return lines
}

// agree checks that Canonical accepts nothing that Decode refuses, and finds
// the same in what both accept.
func agree(t *testing.T, raw []byte) (accepted bool) {
	t.Helper()
	found, ok := trail.Canonical(raw)
	if !ok {
		return false
	}
	e, err := trailgate.Decode(raw)
	if err != nil {
		t.Fatalf("accepted, but not canonical: %v\n%q", err, raw)
	}
	if want := trail.Summary(e); found != want {
		t.Fatalf("found %s, want %s", found, want)
	}
	return true
}

func TestCanonical(t *testing.T) {
	accepted := 0
	for _, raw := range vectors(t, "entries.golden") {
		if agree(t, raw) {
			accepted++
		}
		// Every byte, changed in several ways, taken out, doubled.
		for at := range raw {
			for _, x := range []byte{0x01, 0x10, 0x20, 0x80} {
				bad := bytes.Clone(raw)
				bad[at] ^= x
				agree(t, bad)
			}
			agree(t, append(bytes.Clone(raw[:at]), raw[at+1:]...))
			agree(t, append(append(bytes.Clone(raw[:at]), raw[at]), raw[at:]...))
		}
	}
	if accepted < 3 { // all but those with an aggregate's time
		t.Errorf("%d vectors are accepted without Decode", accepted)
	}
	for _, raw := range vectors(t, "entries.bad") {
		agree(t, raw)
	}
	raw, err := entry("typical").Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !agree(t, raw) {
		t.Error("a typical entry is left to Decode")
	}
}

func FuzzCanonical(f *testing.F) {
	for _, name := range []string{"entries.golden", "entries.bad"} {
		for _, raw := range vectors(f, name) {
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) { agree(t, raw) })
}
