package trail

import (
	"cmp"
	"context"
	"sort"
	"sync"

	"github.com/trailgate/trailgate/internal/trail/journal"
)

// recentBytes bounds the newest entries that are kept in memory, so that who
// follows the trail closely never reads the disk.
const recentBytes = 32 << 20

// recent holds the newest entries. Its zero value is empty and ready to use.
type recent struct {
	mu     sync.RWMutex // guards all below; the records themselves never change
	room   int64        // 0: recentBytes; tests set less
	chunks [][]journal.Record
	sizes  []int64
	bytes  int64
}

// add takes over a batch that follows the one before.
func (r *recent) add(recs []journal.Record) {
	size := int64(len(recs)) * 128 // what a record takes beside its entry
	for i := range recs {
		size += int64(len(recs[i].Entry))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.chunks, r.sizes, r.bytes = append(r.chunks, recs), append(r.sizes, size), r.bytes+size
	for r.bytes > cmp.Or(r.room, recentBytes) && len(r.chunks) > 1 {
		r.bytes -= r.sizes[0]
		r.chunks[0] = nil // the slice's front outlives the reslicing
		r.chunks, r.sizes = r.chunks[1:], r.sizes[1:]
	}
}

// from returns the rest, from seq on, of the batch that seq is in; nil if it is not here.
func (r *recent) from(seq uint64) []journal.Record {
	r.mu.RLock()
	defer r.mu.RUnlock()
	i := sort.Search(len(r.chunks), func(i int) bool { return r.chunks[i][0].Seq > seq }) - 1
	if i < 0 {
		return nil
	}
	chunk := r.chunks[i]
	if at := seq - chunk[0].Seq; at < uint64(len(chunk)) {
		return chunk[at:]
	}
	return nil
}

// signal wakes all who wait for something to grow.
type signal struct {
	mu sync.Mutex
	ch chan struct{} // closed at the next broadcast; nil while nobody waits
}

func (s *signal) broadcast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// wait returns when ok does, which it asks anew at each broadcast, or with an
// error when ctx ends or stop is closed.
func (s *signal) wait(ctx context.Context, stop <-chan struct{}, ok func() bool) error {
	for !ok() {
		s.mu.Lock()
		if s.ch == nil {
			s.ch = make(chan struct{})
		}
		ch := s.ch
		s.mu.Unlock()
		if ok() { // it may have grown before ch was there
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		case <-stop:
			if ok() {
				return nil
			}
			return ErrClosed
		}
	}
	return nil
}
