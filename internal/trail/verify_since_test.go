package trail_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail"
)

// keep writes a report's checkpoint into a file.
func keep(t testing.TB, r *trail.Report) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "verified")
	if err := os.WriteFile(path, r.Checkpoint, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSince goes on from checkpoints at and around the edges of bundles.
func TestSince(t *testing.T) {
	dir := create(t)
	size := 0
	var kept []string
	for _, n := range []int{0, 1, 254, 1, 1, 255, 200, 600} {
		fill(t, dir, n, trail.Options{})
		size += n
		kept = append(kept, keep(t, verify(t, dir)))
		for i, path := range kept {
			r, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir, Since: path})
			if err != nil {
				t.Fatalf("%d entries, from checkpoint %d: %v", size, i, err)
			}
			reread := uint64(0)
			if r.Since > 0 {
				reread = (r.Since - 1) / 256 * 256
			}
			if r.Size != uint64(size) || r.Entries != uint64(size)-reread || r.LastGood != uint64(size) {
				t.Errorf("%d entries, from %d: %+v", size, r.Since, r)
			}
		}
	}
}

// TestSinceLarge has tiles of level 2.
func TestSinceLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 70,000 entries")
	}
	dir := create(t)
	fill(t, dir, 66_000, trail.Options{CheckpointInterval: time.Second, SegmentBytes: 32 << 20})
	since := keep(t, verify(t, dir))
	fill(t, dir, 4_000, trail.Options{CheckpointInterval: time.Second, SegmentBytes: 32 << 20})
	r, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir, Since: since})
	if err != nil || r.Size != 70_000 || r.Entries > 4_300 || r.Bundles > 18 {
		t.Fatalf("%v %+v", err, r)
	}
	// The hashes from which it goes on are proven, and not believed.
	flipByte(t, filepath.Join(dir, "log", "tile", "2", "000.p", "1"), 4)
	_, err = trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir, Since: since})
	if _, ok := errors.AsType[*trail.TamperError](err); !ok {
		t.Errorf("a forged tile: %v", err)
	}
}

func flipByte(t *testing.T, path string, at int) {
	t.Helper()
	raw := read(t, path)
	raw[at] ^= 1
	write(t, path, raw)
}

// TestSinceTampering: what is found although old entries are not read again,
// and what cannot be.
func TestSinceTampering(t *testing.T) {
	base := create(t)
	fill(t, base, 700, trail.Options{})
	fork := copyDir(t, base)
	older := copyDir(t, base)
	fill(t, base, 300, trail.Options{})
	fill(t, fork, 400, trail.Options{}) // with the same key
	since := keep(t, verify(t, base))   // of 1000 entries
	fill(t, base, 500, trail.Options{})

	for _, tt := range []struct {
		name, want string
		change     func(dir string)
	}{
		{"a new entry", "entries/004", func(dir string) { flipByte(t, filepath.Join(dir, "log/tile/entries/004"), 700) }},
		{"the newest of the old entries", "entries/003", func(dir string) { flipByte(t, filepath.Join(dir, "log/tile/entries/003"), 700) }},
		{"cut to before the checkpoint", "ends after 700", func(dir string) {
			for _, part := range []string{"log", "head", "journal"} {
				replaceDir(t, filepath.Join(older, part), filepath.Join(dir, part))
			}
		}},
		{"another log of the same key", "the log was exchanged", func(dir string) {
			for _, part := range []string{"log", "head", "journal"} {
				replaceDir(t, filepath.Join(fork, part), filepath.Join(dir, part))
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := copyDir(t, base)
			tt.change(dir)
			_, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir, Since: since})
			if tamper, ok := errors.AsType[*trail.TamperError](err); !ok || !strings.Contains(tamper.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	t.Run("an old entry, which is not read", func(t *testing.T) {
		dir := copyDir(t, base)
		flipByte(t, filepath.Join(dir, "log/tile/entries/001"), 700)
		if _, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir, Since: since}); err != nil {
			t.Error(err)
		}
		if _, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir}); err == nil {
			t.Error("nor by a whole check")
		}
	})
	t.Run("not of this log", func(t *testing.T) {
		_, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: create(t), Since: since})
		if _, ok := errors.AsType[*trail.TamperError](err); !ok {
			t.Error(err)
		}
	})
}

// TestSinceLinks: entries may close calls that were opened before the checkpoint.
func TestSinceLinks(t *testing.T) {
	dir := create(t)
	tr := open(t, dir, trail.Options{})
	id := strings.ToLower(ulid.Make().String())
	for _, name := range []string{id, "plain"} {
		if err := tr.Append(t.Context(), entry(name)); err != nil {
			t.Fatal(err)
		}
	}
	appendN(t, tr, 600)
	closeTrail(t, tr)
	since := keep(t, verify(t, dir))
	closing := func(of string) *trailgate.Entry {
		return &trailgate.Entry{ID: "of-" + of, Kind: trailgate.KindOutcome, IntentID: of, Gateway: trailgate.Gateway{ID: "gw1", Version: "test"}}
	}
	tr = open(t, dir, trail.Options{})
	for _, of := range []string{id, "plain"} {
		if err := tr.Append(t.Context(), closing(of)); err != nil {
			t.Fatal(err)
		}
	}
	closeTrail(t, tr)
	check := func() error {
		_, err := trail.Verify(context.Background(), trail.VerifyOptions{Dir: dir, Since: since})
		return err
	}
	if err := check(); err != nil {
		t.Fatal(err)
	}
	// What they refer to is proven to be in the log.
	bundle := filepath.Join(dir, "log/tile/entries/000")
	raw := read(t, bundle)
	write(t, bundle, []byte(strings.Replace(string(raw), "etl-bot", "etl-bat", 2)))
	if tamper, ok := errors.AsType[*trail.TamperError](check()); !ok || tamper.Seq > 1 {
		t.Errorf("a changed opening entry: %v", tamper)
	}
	write(t, bundle, raw)
	tr = open(t, dir, trail.Options{})
	if err := tr.Append(t.Context(), closing("nobody")); err != nil {
		t.Fatal(err)
	}
	closeTrail(t, tr)
	if tamper, ok := errors.AsType[*trail.TamperError](check()); !ok || !strings.Contains(tamper.Reason, "nobody") || tamper.Seq != 604 {
		t.Errorf("an outcome of nothing: %v", tamper)
	}
}

// TestOpenCalls counts the calls that have no outcome.
func TestOpenCalls(t *testing.T) {
	dir := create(t)
	tr := open(t, dir, trail.Options{})
	for i := range 10 {
		if err := tr.Append(t.Context(), entry(fmt.Sprint("call-", i))); err != nil {
			t.Fatal(err)
		}
		if i%3 != 1 {
			continue
		}
		e := &trailgate.Entry{ID: fmt.Sprint("end-", i), Kind: trailgate.KindOutcome, IntentID: fmt.Sprint("call-", i), Gateway: trailgate.Gateway{ID: "gw1", Version: "test"}}
		if err := tr.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	closeTrail(t, tr)
	if r := verify(t, dir); r.Open != 7 || r.FirstOpen != 0 {
		t.Errorf("%d open, the first is %d", r.Open, r.FirstOpen)
	}
}
