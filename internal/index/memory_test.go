package index_test

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
)

// jobs is a log of entries that each name a job of their own, made as they are read.
type jobs struct {
	n    atomic.Uint64
	long bool
}

func (l *jobs) Size() uint64 { return l.n.Load() }

func (l *jobs) Wait(ctx context.Context, _ uint64) error {
	<-ctx.Done()
	return ctx.Err()
}

func (l *jobs) Get(_ context.Context, seq uint64) ([]byte, error) {
	id := fmt.Sprint("job-", seq)
	if l.long {
		id += strings.Repeat("x", 900)
	}
	e := &trailgate.Entry{
		Seq: seq, ID: fmt.Sprintf("01jd3m%020d", seq), Time: noon.Add(time.Duration(seq) * time.Second), Kind: trailgate.KindIntent,
		Gateway: trailgate.Gateway{ID: "gw", Version: "v1"}, Principal: &trailgate.Principal{Agent: "etl-bot"}, Method: "bigquery.jobs.insert",
		Project: "p", Job: &trailgate.Job{Project: "p", ID: id},
	}
	return e.Encode()
}

func (l *jobs) Scan(ctx context.Context, from uint64, fn func(seq uint64, raw []byte) error) error {
	for seq := from; seq < l.Size(); seq++ {
		raw, err := l.Get(ctx, seq)
		if err != nil {
			return err
		}
		if err := fn(seq, raw); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (l *jobs) GetBlob(_ context.Context, sha string) ([]byte, error) {
	return nil, fmt.Errorf("no blob %s", sha)
}

func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestEntryLeavesNothing: once its memory of texts is full, the index takes no more of
// the heap for an entry, and says truly what that memory takes.
func TestEntryLeavesNothing(t *testing.T) {
	for _, long := range []bool{false, true} {
		const room = 64 << 10
		var opt index.Options
		opt.TextBytes(room)
		log := &jobs{long: long}
		x, err := index.Open(t.Context(), filepath.Join(t.TempDir(), "index"), log, opt)
		if err != nil {
			t.Fatal(err)
		}
		grow := func(n uint64) {
			for range n / 500 { // as it is while the gateway runs: few at a time
				log.n.Add(500)
				catchUp(t, x)
				if says := x.Remembered(); says > room || says == 0 {
					t.Fatalf("long %v: it remembers %d bytes of texts, of at most %d", long, says, room)
				}
			}
		}
		warm, more := uint64(4000), uint64(8000)
		if testing.Short() {
			warm, more = 1000, 2000
		}
		grow(warm)
		before := liveHeap()
		grow(more)
		grown := liveHeap() - before
		t.Logf("long %v: %d bytes more after %d entries", long, grown, more)
		// Its memory of texts may have been empty before and be full now.
		if grown > 2*room+20*int64(more) {
			t.Errorf("long %v: %d entries left %d bytes behind", long, more, grown)
		}
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// asked counts how many times it is asked when it ends.
type asked struct {
	context.Context
	n atomic.Int64
}

func (a *asked) Done() <-chan struct{} {
	a.n.Add(1)
	return a.Context.Done()
}

// TestNoGoroutinePerStatement: the driver starts a goroutine for each statement whose
// context can end. The hundreds that a commit takes must not have one each: they lie
// about until they have had their turn.
func TestNoGoroutinePerStatement(t *testing.T) {
	log := &jobs{}
	x, err := index.Open(t.Context(), filepath.Join(t.TempDir(), "index"), log, index.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	log.n.Add(1000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := &asked{Context: ctx}
	if err := x.CatchUp(a, nil); err != nil {
		t.Fatal(err)
	}
	if n := a.n.Load(); n == 0 || n > 200 {
		t.Errorf("a context was watched %d times for 1,000 entries", n)
	}
	// And still it is heeded.
	log.n.Add(1000)
	cancel()
	if err := x.CatchUp(a, nil); err == nil || x.Cursor() != 1000 {
		t.Errorf("indexed up to %d under a context that has ended: %v", x.Cursor(), err)
	}
}
