package trail_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/trail"
)

// TestDiskFull fills a small file system, and makes room again.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=12m"); err != nil {
		t.Skipf("cannot mount a small file system here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	data := filepath.Join(dir, "data")
	if _, err := trail.CreateSmall(t.Context(), data, origin); err != nil {
		t.Fatal(err)
	}
	o := trail.Options{CheckpointInterval: 20 * time.Millisecond, SegmentBytes: 256 << 10, MinFreeBytes: 4 << 20}
	tr, err := trail.Open(t.Context(), data, o)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Kill()
	var l ledger
	if err := l.append(tr); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the trail refuses", func() bool { return tr.Ready() != nil })
	err = l.append(tr)
	if !errors.Is(err, trail.ErrNoSpace) || !errors.Is(err, trail.ErrUnavailable) {
		t.Fatalf("append on a full disk: %v", err)
	}
	t.Log(err)
	if _, err := tr.PutBlob(t.Context(), []byte("body")); !errors.Is(err, trail.ErrNoSpace) {
		t.Errorf("blob on a full disk: %v", err)
	}
	// To the brim: what was accepted before stays safe, though nobody can write.
	brim, _ := os.Create(filepath.Join(dir, "brim"))
	for {
		if _, err := brim.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	if err := errors.Join(brim.Close(), os.Remove(brim.Name()), os.Remove(filler)); err != nil {
		t.Fatal(err)
	}
	until(t, "the trail is ready again", func() bool { return tr.Ready() == nil })
	for range 20 {
		if err := l.append(tr); err != nil {
			t.Fatal(err)
		}
	}
	l.check(t, tr)
	ev := events(t, tr)["trail.recovered"]
	if ev == nil || ev.Detail["refused"] != "1" {
		t.Errorf("no entry tells of the refused one: %+v", ev)
	}
	closeTrail(t, tr)
	verify(t, data)
	// An unexpected brim: the log cannot grow, entries are still durable.
	o.MinFreeBytes = -1
	tr, err = trail.Open(t.Context(), data, o)
	if err != nil {
		t.Fatal(err)
	}
	brim, _ = os.Create(filepath.Join(dir, "brim"))
	for {
		if _, err := brim.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	for range 200 { // less than the journal has room for
		if err := l.append(tr); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the log fails to grow", func() bool { return tr.Stats().SequencerError != "" })
	if err := errors.Join(brim.Close(), os.Remove(brim.Name())); err != nil {
		t.Fatal(err)
	}
	until(t, "the log has caught up", func() bool { return tr.Stats().Published == tr.Size() })
	l.check(t, tr)
	closeTrail(t, tr)
	verify(t, data)
}
