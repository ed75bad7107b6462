package trail_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

// events lists the trail's own entries by action.
func events(t *testing.T, tr *trail.Trail) map[string]*trailgate.Event {
	t.Helper()
	found := map[string]*trailgate.Event{}
	if err := tr.Scan(t.Context(), 0, func(_ uint64, raw []byte) error {
		e, err := trailgate.Decode(raw)
		if err == nil && e.Event != nil {
			found[e.Event.Action] = e.Event
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// until waits for a condition that another goroutine brings about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("timed out waiting until ", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// TestLowSpace is TestDiskFull for where nothing can be mounted.
func TestLowSpace(t *testing.T) {
	var free atomic.Int64
	free.Store(1 << 30)
	fsys := &durable.FS{FreeHook: func(string) (int64, error) { return free.Load(), nil }}
	o := trail.Options{}
	o.SetFS(fsys)
	tr := open(t, create(t), o)
	var l ledger
	if err := l.append(tr); err != nil {
		t.Fatal(err)
	}
	free.Store(63 << 20)
	until(t, "the trail refuses", func() bool { return errors.Is(tr.Ready(), trail.ErrNoSpace) })
	if err := l.append(tr); !errors.Is(err, trail.ErrNoSpace) {
		t.Fatal(err)
	}
	free.Store(80 << 20)
	until(t, "the trail is ready again", func() bool { return tr.Ready() == nil })
	if err := l.append(tr); err != nil {
		t.Fatal(err)
	}
	if events(t, tr)["trail.recovered"] == nil {
		t.Error("nothing tells of the refused entry")
	}
}

// TestFailingDisk has every journal write fail for a while.
func TestFailingDisk(t *testing.T) {
	var broken atomic.Bool
	fsys := &durable.FS{Hook: func(op durable.Op) durable.Fault {
		if broken.Load() {
			return durable.Fault{Err: syscall.EROFS}
		}
		return durable.Fault{}
	}}
	o := trail.Options{}
	o.SetFS(fsys)
	dir := create(t)
	tr := open(t, dir, o)
	var l ledger
	if err := l.append(tr); err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := l.append(tr); !errors.Is(err, trail.ErrUnavailable) {
				t.Errorf("append to a read-only disk: %v", err)
			}
		})
	}
	wg.Wait()
	if err := tr.Ready(); !errors.Is(err, trail.ErrUnavailable) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("ready: %v", err)
	}
	broken.Store(false)
	until(t, "the trail is ready again", func() bool { return tr.Ready() == nil })
	if err := l.append(tr); err != nil {
		t.Fatal(err)
	}
	until(t, "the trail tells", func() bool { return events(t, tr)["trail.recovered"] != nil })
	if ev := events(t, tr)["trail.recovered"]; ev.Detail["refused"] != "20" {
		t.Errorf("%+v", ev)
	}
	l.check(t, tr)
	closeTrail(t, tr)
	verify(t, dir)
}

// TestSlowDisk: a disk that takes its time makes nobody fail.
func TestSlowDisk(t *testing.T) {
	fsys := &durable.FS{Hook: func(op durable.Op) durable.Fault {
		if op.Kind == durable.OpSync && strings.HasSuffix(op.Path, ".seg") {
			time.Sleep(100 * time.Millisecond)
		}
		return durable.Fault{}
	}}
	o := trail.Options{}
	o.SetFS(fsys)
	tr := open(t, create(t), o)
	var l ledger
	var wg sync.WaitGroup
	start := time.Now()
	for range 64 {
		wg.Go(func() {
			for range 3 {
				if err := l.append(tr); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("64 writers do not share syncs: %v", took)
	}
	l.check(t, tr)
}

func TestBacklog(t *testing.T) {
	var stuck atomic.Bool
	stuck.Store(true)
	o := trail.Options{MaxJournalBytes: 300 << 10}
	o.WrapIntegrate(func(next trail.IntegrateFunc, from uint64, entries [][]byte) error {
		if stuck.Load() {
			return syscall.EIO
		}
		return next(from, entries)
	})
	dir := create(t)
	tr := open(t, dir, o)
	var l ledger
	var err error
	until(t, "the trail refuses", func() bool { err = l.append(tr); return err != nil })
	if !errors.Is(err, trail.ErrUnavailable) || !strings.Contains(err.Error(), "wait in the journal") {
		t.Error(err)
	}
	t.Log(err)
	stuck.Store(false)
	until(t, "the trail is ready again", func() bool { return tr.Ready() == nil })
	if err := l.append(tr); err != nil {
		t.Fatal(err)
	}
	l.check(t, tr)
}

func TestWrongIndexIsFatal(t *testing.T) {
	o := trail.Options{}
	o.WrapIntegrate(func(next trail.IntegrateFunc, from uint64, entries [][]byte) error {
		if len(entries) > 1 {
			entries = entries[1:] // as if Tessera had lost one
		}
		return next(from, entries)
	})
	dir := create(t)
	tr, err := trail.Open(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	var l ledger
	until(t, "the trail stops", func() bool { return l.append(tr) != nil })
	t.Log(tr.Ready())
	tr.Kill()
	if _, err := trail.Open(t.Context(), dir, trail.Options{}); !errors.Is(err, trail.ErrTruncated) {
		t.Errorf("opens all the same: %v", err)
	}
	if _, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir}); err == nil {
		t.Error("verifies all the same")
	}
}

func TestClock(t *testing.T) {
	var wall, mono atomic.Int64
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	o := trail.Options{
		Gateway: trailgate.Gateway{ID: "gw1", Version: "test"},
		Now:     func() time.Time { return start.Add(time.Duration(wall.Load())) },
	}
	o.SetMono(func() time.Duration { return time.Duration(mono.Load()) })
	both := func(d time.Duration) { wall.Add(int64(d)); mono.Add(int64(d)) }
	dir := create(t)
	tr := open(t, dir, o)
	var l ledger
	add := func() {
		if err := l.append(tr); err != nil {
			t.Fatal(err)
		}
	}
	add()
	both(10 * time.Second)
	add()
	if ev := events(t, tr)["clock.step"]; ev != nil {
		t.Errorf("time passed, and is taken for a step: %+v", ev)
	}
	wall.Add(-int64(time.Hour))
	until(t, "the step is noticed", func() bool { return events(t, tr)["clock.step"] != nil })
	ev := events(t, tr)["clock.step"]
	if ev.Detail["step_ns"] != fmt.Sprint(-int64(time.Hour)) {
		t.Errorf("%+v", ev)
	}
	add()
	l.check(t, tr) // no time goes back
	wall.Add(int64(3 * time.Hour))
	steps := func() (n int) {
		if err := tr.Scan(t.Context(), 0, func(_ uint64, raw []byte) error {
			e, err := trailgate.Decode(raw)
			if err == nil && e.Event != nil && e.Event.Action == "clock.step" {
				n++
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	until(t, "the step forward is noticed", func() bool { return steps() == 2 })
	add()
	wall.Add(-int64(2 * time.Hour)) // and back to the true time
	until(t, "the step back is noticed", func() bool { return steps() == 3 })
	add()
	l.check(t, tr)
	before := tr.Size()
	closeTrail(t, tr)
	// A clock that was set back while nothing ran.
	wall.Add(-int64(time.Hour))
	o.Now = func() time.Time { return start.Add(time.Duration(wall.Load())) }
	tr = open(t, dir, o)
	until(t, "the step is noticed at start", func() bool { return tr.Size() > before })
	add()
	l.check(t, tr)
	closeTrail(t, tr)
	verify(t, dir)
}

func TestOpenRefuses(t *testing.T) {
	base := create(t)
	fill(t, base, 300, trail.Options{})
	other := create(t)
	fill(t, other, 300, trail.Options{})
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, dir string)
		want   error
	}{
		{"empty directory", func(t *testing.T, dir string) {
			for _, part := range []string{"log.key", "log.pub", "log", "journal", "head", "blobs"} {
				if err := os.RemoveAll(filepath.Join(dir, part)); err != nil {
					t.Fatal(err)
				}
			}
		}, trail.ErrMissing},
		{"no key", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "log.key")) }, trail.ErrMissing},
		{"no log", func(t *testing.T, dir string) { _ = os.RemoveAll(filepath.Join(dir, "log")) }, trail.ErrMissing},
		{"no journal", func(t *testing.T, dir string) { _ = os.RemoveAll(filepath.Join(dir, "journal")) }, trail.ErrMissing},
		{"no segment", func(t *testing.T, dir string) {
			for _, p := range glob(t, filepath.Join(dir, "journal", "*.seg")) {
				remove(t, p)
			}
		}, trail.ErrMissing},
		{"no checkpoint", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "log", "checkpoint")) }, trail.ErrMissing},
		{"no head", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "head", "checkpoint")) }, trail.ErrMissing},
		{"no tree state", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "log", ".state", "treeState")) }, trail.ErrMissing},
		{"another key", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "log.key"), read(t, filepath.Join(other, "log.key")))
		}, trail.ErrForeign},
		{"another key pair", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "log.key"), read(t, filepath.Join(other, "log.key")))
			write(t, filepath.Join(dir, "log.pub"), read(t, filepath.Join(other, "log.pub")))
		}, trail.ErrForeign},
		{"another log", func(t *testing.T, dir string) {
			replaceDir(t, filepath.Join(other, "log"), filepath.Join(dir, "log"))
		}, trail.ErrForeign},
		{"another journal", func(t *testing.T, dir string) {
			replaceDir(t, filepath.Join(other, "journal"), filepath.Join(dir, "journal"))
		}, trail.ErrForeign},
		{"tree set back", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "log", ".state", "treeState"), []byte(`{"size":0,"root":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}`))
		}, trail.ErrTruncated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := copyDir(t, base)
			tt.change(t, dir)
			before := listing(t, dir)
			tr, err := trail.Open(t.Context(), dir, trail.Options{})
			if err == nil {
				closeTrail(t, tr)
			}
			if !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			t.Log(err)
			if after := listing(t, dir); after != before && !strings.Contains(tt.name, "empty") {
				t.Errorf("Open changed the directory:\n%s\n%s", before, after)
			}
		})
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// listing names the parts of a data directory, but for lock files.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"*", "*/*", "*/*/*/*"} {
		for _, p := range glob(t, filepath.Join(dir, pattern)) {
			if filepath.Base(p) != "lock" {
				all = append(all, strings.TrimPrefix(p, dir))
			}
		}
	}
	return strings.Join(all, " ")
}

func TestLockedAndClosed(t *testing.T) {
	dir := create(t)
	tr := open(t, dir, trail.Options{})
	if _, err := trail.Open(t.Context(), dir, trail.Options{}); !errors.Is(err, trail.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if _, err := trail.Create(t.Context(), dir, origin); !errors.Is(err, trail.ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	closeTrail(t, tr)
	if err := tr.Append(t.Context(), entry("late")); !errors.Is(err, trail.ErrClosed) || !errors.Is(err, trail.ErrUnavailable) {
		t.Errorf("append after close: %v", err)
	}
	if err := tr.Wait(t.Context(), 0); !errors.Is(err, trail.ErrClosed) {
		t.Errorf("wait after close: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tr = open(t, dir, trail.Options{})
	if err := tr.Append(ctx, entry("gone")); !errors.Is(err, context.Canceled) {
		t.Errorf("append with an ended context: %v", err)
	}
	if tr.Size() != 0 {
		t.Error("an entry was recorded all the same")
	}
}

func TestCreateRefuses(t *testing.T) {
	for _, bad := range []string{"", "with space", "plus+sign", "line\nbreak", strings.Repeat("x", 300), "\xff"} {
		dir := filepath.Join(t.TempDir(), "new")
		if _, err := trail.Create(t.Context(), dir, bad); err == nil {
			t.Errorf("origin %q is accepted", bad)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("origin %q: something was made", bad)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	if _, err := trail.Create(t.Context(), file, origin); err == nil {
		t.Error("a trail was made in a file")
	}
}
