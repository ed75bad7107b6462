package trail_test

import (
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/trailgate/trailgate/internal/trail"
)

func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestRecordLeavesNothing: once the newest entries have filled their room, the trail
// takes no more of the heap for an entry.
func TestRecordLeavesNothing(t *testing.T) {
	tr := open(t, create(t), trail.Options{})
	const room = 64 << 10
	tr.Shrink(room)
	grow := func(from, n int) {
		var wg sync.WaitGroup
		for w := range 32 {
			wg.Go(func() {
				for i := from + w; i < from+n; i += 32 {
					if err := tr.Append(t.Context(), entry(fmt.Sprint("e", i))); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if _, err := tr.Prove(t.Context(), tr.Size()-1); err != nil { // waits until it is in the tiles
			t.Fatal(err)
		}
	}
	const warm, more = 2000, 6000
	grow(0, warm)
	before := liveHeap()
	grow(warm, more)
	grown := liveHeap() - before
	t.Logf("%d bytes more after %d entries", grown, more)
	// The last batch may be larger than the one before; an entry is some 1,300 bytes.
	if grown > room+40*more {
		t.Errorf("%d entries left %d bytes behind", more, grown)
	}
}
