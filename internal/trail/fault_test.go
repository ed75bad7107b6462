package trail_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	mu    sync.Mutex // guards acked
	acked map[uint64]string
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

// check compares the trail with the ledger: each acknowledged entry is there,
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
}

// TestFaultMatrix fails every kind of durable step once, in every way, while a
// trail is written to, and checks that nothing that was acknowledged is lost,
// that the trail recovers by itself, and that the log verifies.
func TestFaultMatrix(t *testing.T) {
	steps := []struct {
		kind durable.Kind
		part string // of the path
	}{
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
	}
	for _, step := range steps {
		for _, mode := range []string{"nothing done", "done", "torn"} {
			if mode == "torn" && step.kind != durable.OpWrite {
				continue
			}
			for _, end := range []string{"close", "kill"} {
				t.Run(fmt.Sprintf("%s %s %s %s", step.kind, strings.Trim(step.part, "/"), mode, end), func(t *testing.T) {
					t.Parallel()
					var hits atomic.Int64
					var armed atomic.Bool
					fsys := &durable.FS{Hook: func(op durable.Op) durable.Fault {
						hit := op.Kind == step.kind && (strings.HasSuffix(op.Path, step.part) || (!strings.HasPrefix(step.part, "/") && strings.Contains(op.Path, step.part)))
						if !hit || !armed.Load() || hits.Add(1) != 1 {
							return durable.Fault{}
						}
						f := durable.Fault{Err: syscall.EIO, Apply: mode == "done"}
						if mode == "torn" {
							f.Bytes = len(op.Data)/2 + 1
						}
						return f
					}}
					runFaulty(t, fsys, &armed, &hits, end, nil)
				})
			}
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

func runFaulty(t *testing.T, fsys *durable.FS, armed *atomic.Bool, hits *atomic.Int64, end string, wrap func(trail.IntegrateFunc, uint64, [][]byte) error) {
	t.Helper()
	dir := create(t)
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
	deadline := time.Now().Add(20 * time.Second)
	for i := 0; i < 120 || (hits.Load() == 0 && time.Now().Before(deadline)); i++ {
		switch err := l.append(tr); {
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
