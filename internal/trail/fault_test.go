package trail_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	"github.com/trailgate/trailgate/internal/trail/durable/durabletest"
)

// ledger remembers which entries were acknowledged, and as what.
type ledger struct {
	mu    sync.Mutex // guards acked and blobs
	acked map[uint64]string
	blobs []string // hashes of stored bodies
	n     atomic.Int64
	pad   string // makes entries longer
}

// append tries once to append a new entry.
func (l *ledger) append(tr *trail.Trail) error {
	e := entry(fmt.Sprint("ledger-", l.n.Add(1)))
	e.Statements[0].Text += l.pad
	err := tr.Append(context.Background(), e)
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.acked == nil {
			l.acked = map[uint64]string{}
		}
		if other, ok := l.acked[e.Seq]; ok {
			return fmt.Errorf("entries %s and %s share number %d", other, e.ID, e.Seq)
		}
		l.acked[e.Seq] = e.ID
	}
	return err
}

// store tries once to store a new body.
func (l *ledger) store(tr *trail.Trail) error {
	sha, err := tr.PutBlob(context.Background(), fmt.Appendf(nil, "body %d", l.n.Add(1)))
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.blobs = append(l.blobs, sha)
	}
	return err
}

// check compares the trail with the ledger: each acknowledged body and entry is there,
// once, in its place, and all entries are in order.
func (l *ledger) check(t testing.TB, tr *trail.Trail) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := map[string]uint64{}
	var last time.Time
	if err := tr.Scan(t.Context(), 0, func(seq uint64, raw []byte) error {
		e, err := trailgate.Decode(raw)
		if err != nil {
			return err
		}
		if before, ok := seen[e.ID]; ok {
			return fmt.Errorf("%s is there as %d and %d", e.ID, before, seq)
		}
		seen[e.ID] = seq
		if e.Seq != seq || e.Time.Before(last) {
			return fmt.Errorf("entry %d says that it is %d of %v, after %v", seq, e.Seq, e.Time, last)
		}
		last = e.Time
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for seq, id := range l.acked {
		if got, ok := seen[id]; !ok || got != seq {
			t.Fatalf("%s was acknowledged as %d, found: %v at %d", id, seq, ok, got)
		}
	}
	for _, sha := range l.blobs {
		if _, err := tr.GetBlob(t.Context(), sha); err != nil {
			t.Fatalf("a body was stored: %v", err)
		}
	}
}

// step is a durable step: an operation on paths that have part in them, or, where
// part begins with a slash, end with it.
type step struct {
	kind durable.Kind
	part string
}

func (s step) is(op durable.Op) bool {
	return op.Kind == s.kind && (strings.HasSuffix(op.Path, s.part) || (!strings.HasPrefix(s.part, "/") && strings.Contains(op.Path, s.part)))
}

// steps are all that a trail does to a disk by itself; what Tessera does is in
// TestIntegrateFaults, and, system call by system call, in test/chaos.
var steps = []step{
	{durable.OpWrite, ".seg"},
	{durable.OpSync, ".seg"},
	{durable.OpCreate, "spare-"},
	{durable.OpWrite, "spare-"},
	{durable.OpSync, "spare-"},
	{durable.OpRename, "spare-"},
	{durable.OpSyncDir, "/journal"},
	{durable.OpRename, ".seg"},
	{durable.OpRemove, ".seg"},
	{durable.OpSyncDir, "/.state"},
	{durable.OpCreate, "log/checkpoint.tmp"},
	{durable.OpWrite, "log/checkpoint.tmp"},
	{durable.OpSync, "log/checkpoint.tmp"},
	{durable.OpRename, "log/checkpoint.tmp"},
	{durable.OpSyncDir, "/log"},
	{durable.OpCreate, "head/checkpoint.tmp"},
	{durable.OpWrite, "head/checkpoint.tmp"},
	{durable.OpSync, "head/checkpoint.tmp"},
	{durable.OpRename, "head/checkpoint.tmp"},
	{durable.OpSyncDir, "/head"},
	{durable.OpMkdir, "blobs/"},
	{durable.OpCreate, ".zst.tmp"},
	{durable.OpWrite, ".zst.tmp"},
	{durable.OpSync, ".zst.tmp"},
	{durable.OpRename, ".zst.tmp"},
	{durable.OpSyncDir, "blobs/"},
}

// mode is what becomes of a step.
type mode struct {
	name string
	err  error
	done bool // although it fails
	torn bool // half of a write is done
	slow bool // it takes its time, and succeeds
	ends []string
}

var modes = []mode{
	{name: "EIO, nothing done", err: syscall.EIO, ends: []string{"close", "kill"}},
	{name: "ENOSPC, nothing done", err: syscall.ENOSPC, ends: []string{"kill"}},
	{name: "EIO, yet done", err: syscall.EIO, done: true, ends: []string{"close", "kill"}},
	{name: "EIO, torn", err: syscall.EIO, torn: true, ends: []string{"close", "kill"}},
	{name: "ENOSPC, torn", err: syscall.ENOSPC, torn: true, ends: []string{"kill"}},
	{name: "slow", slow: true, ends: []string{"kill"}},
}

// TestFaultMatrix fails every kind of durable step once, in every way, while a
// trail is written to, and checks that nothing that was acknowledged is lost,
// that the trail recovers by itself, and that the log verifies.
func TestFaultMatrix(t *testing.T) {
	cells := 0
	t.Run("matrix", func(t *testing.T) {
		for _, step := range steps {
			for _, mode := range modes {
				if mode.torn && step.kind != durable.OpWrite {
					continue
				}
				for _, end := range mode.ends {
					cells++
					t.Run(fmt.Sprintf("%s %s %s %s", step.kind, strings.Trim(step.part, "/"), mode.name, end), func(t *testing.T) {
						t.Parallel()
						var hits atomic.Int64
						var armed atomic.Bool
						fsys := &durable.FS{Hook: func(op durable.Op) durable.Fault {
							if !armed.Load() || !step.is(op) || hits.Add(1) != 1 {
								return durable.Fault{}
							}
							if mode.slow {
								time.Sleep(300 * time.Millisecond)
							}
							f := durable.Fault{Err: mode.err, Apply: mode.done}
							if mode.torn {
								f.Bytes = len(op.Data)/2 + 1
							}
							return f
						}}
						runFaulty(t, fsys, &armed, &hits, end, nil)
					})
				}
			}
		}
	})
	t.Logf("%d kinds of step, %d of step and fault and end", len(steps), cells)
}

// TestPowerCutAtSteps cuts the power before and after every kind of durable step.
func TestPowerCutAtSteps(t *testing.T) {
	for _, step := range steps {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %s after=%v", step.kind, strings.Trim(step.part, "/"), after), func(t *testing.T) {
				t.Parallel()
				dir := createIn(t, memory(t))
				l := ledger{pad: strings.Repeat("p", 6000)}
				disk, err := durabletest.New(dir)
				if err != nil {
					t.Fatal(err)
				}
				var armed, hit atomic.Bool
				disk.Inject = func(op durable.Op) durable.Fault {
					if hit.Load() {
						disk.Freeze() // the step that was to be the last is done
					}
					if armed.Load() && step.is(op) && !hit.Swap(true) && !after {
						disk.Freeze()
					}
					return durable.Fault{}
				}
				o := trail.Options{CheckpointInterval: 20 * time.Millisecond, BatchMaxAge: 2 * time.Millisecond, SegmentBytes: 256 << 10}
				o.SetFS(disk.FS())
				tr, err := trail.Open(t.Context(), dir, o)
				if err != nil {
					t.Fatal(err)
				}
				for range 40 { // so that there is something to lose
					if err := l.append(tr); err != nil {
						t.Fatal(err)
					}
				}
				armed.Store(true)
				for deadline := time.Now().Add(time.Minute); !hit.Load(); {
					_ = l.append(tr) // from the cut on it fails, or is never acknowledged
					_ = l.store(tr)
					if time.Now().After(deadline) {
						t.Fatal("the step was never taken")
					}
				}
				disk.Freeze()
				tr.Kill()
				next := filepath.Join(memory(t), "disk")
				if err := disk.Cut(next, rand.New(rand.NewPCG(1, uint64(len(step.part))))); err != nil {
					t.Fatal(err)
				}
				verify(t, next)
				tr = open(t, next, trail.Options{})
				l.check(t, tr)
				closeTrail(t, tr)
				verify(t, next)
			})
		}
	}
}

// TestIntegrateFaults fails the handing over of a batch to the tiled log.
func TestIntegrateFaults(t *testing.T) {
	for _, mode := range []string{"nothing done", "done"} {
		for _, end := range []string{"close", "kill"} {
			t.Run(mode+" "+end, func(t *testing.T) {
				t.Parallel()
				var hits atomic.Int64
				var armed atomic.Bool
				wrap := func(next trail.IntegrateFunc, from uint64, entries [][]byte) error {
					if !armed.Load() || hits.Add(1) > 2 {
						return next(from, entries)
					}
					if mode == "done" {
						if err := next(from, entries); err != nil {
							return err
						}
					}
					return syscall.EIO
				}
				runFaulty(t, &durable.FS{}, &armed, &hits, end, wrap)
			})
		}
	}
}

// memory is a temporary directory that is synced at no cost, where there is one:
// the disks of these tests are models, or faults, and some hundred trails that
// sync a real one wait for it minutes.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "trailgate-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if free, err := (&durable.FS{}).Free(dir); err != nil || free < 1<<30 {
		return t.TempDir()
	}
	return dir
}

func runFaulty(t *testing.T, fsys *durable.FS, armed *atomic.Bool, hits *atomic.Int64, end string, wrap func(trail.IntegrateFunc, uint64, [][]byte) error) {
	t.Helper()
	dir := createIn(t, memory(t))
	l := ledger{pad: strings.Repeat("p", 6000)} // some 35 to a segment
	o := trail.Options{CheckpointInterval: 20 * time.Millisecond, BatchMaxAge: 2 * time.Millisecond, SegmentBytes: 256 << 10}
	o.SetFS(fsys)
	if wrap != nil {
		o.WrapIntegrate(wrap)
	}
	tr, err := trail.Open(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	deadline := time.Now().Add(time.Minute)
	for i := 0; i < 120 || (hits.Load() == 0 && time.Now().Before(deadline)); i++ {
		err := l.append(tr)
		if err == nil && i%8 == 0 {
			err = l.store(tr)
		}
		switch {
		case errors.Is(err, trail.ErrUnavailable):
			time.Sleep(5 * time.Millisecond) // as a caller that refuses calls would see time pass
			if time.Now().After(deadline) {
				t.Fatal("does not recover: ", err)
			}
		case err != nil:
			t.Fatal(err)
		}
	}
	if hits.Load() == 0 {
		t.Fatal("the step was never taken")
	}
	if err := tr.Ready(); err != nil {
		t.Errorf("not ready after it has recovered: %v", err)
	}
	l.check(t, tr)
	if end == "kill" {
		tr.Kill()
	} else {
		closeTrail(t, tr)
	}
	r := verify(t, dir)
	if r.JournalSize < uint64(len(l.acked)) {
		t.Errorf("%d entries, %d were acknowledged", r.JournalSize, len(l.acked))
	}
	tr = open(t, dir, trail.Options{})
	for range 10 {
		if err := l.append(tr); err != nil {
			t.Fatal(err)
		}
	}
	l.check(t, tr)
	closeTrail(t, tr)
	verify(t, dir)
}

// TestPowerCut cuts the power at random moments of a busy trail, over and over.
func TestPowerCut(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	r := rand.New(rand.NewPCG(1, 2))
	dir := create(t)
	var l ledger
	for round := range rounds {
		disk, err := durabletest.New(dir)
		if err != nil {
			t.Fatal(err)
		}
		o := trail.Options{CheckpointInterval: 20 * time.Millisecond, BatchMaxAge: 2 * time.Millisecond, SegmentBytes: 256 << 10}
		o.SetFS(disk.FS())
		tr, err := trail.Open(t.Context(), dir, o)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		l.check(t, tr)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for l.append(tr) == nil { //nolint:revive // until the power is cut
				}
			})
		}
		time.Sleep(time.Duration(20+r.IntN(200)) * time.Millisecond)
		disk.Freeze()
		wg.Wait()
		tr.Kill()
		next := filepath.Join(t.TempDir(), "disk")
		if err := disk.Cut(next, r); err != nil {
			t.Fatal(err)
		}
		dir = next
		if _, err := trail.Verify(t.Context(), trail.VerifyOptions{Dir: dir}); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	tr := open(t, dir, trail.Options{})
	l.check(t, tr)
	t.Logf("%d entries acknowledged in %d rounds", len(l.acked), rounds)
}
