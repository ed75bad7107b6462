package trail

import (
	"context"
	"fmt"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

// SetFS puts a file system with faults under the journal, the checkpoints and
// the blobs.
func (o *Options) SetFS(fs *durable.FS) { o.hooks.fs = fs }

// SetMono replaces the monotonic clock.
func (o *Options) SetMono(f func() time.Duration) { o.hooks.mono = f }

// IntegrateFunc is a batch on its way to the tiled log.
type IntegrateFunc func(from uint64, entries [][]byte) error

// faultyLog lets a test stand between the sequencer and the tiled log.
type faultyLog struct {
	integrator
	wrap func(next IntegrateFunc, from uint64, entries [][]byte) error
}

func (l faultyLog) integrate(from uint64, entries [][]byte) error {
	return l.wrap(l.integrator.integrate, from, entries)
}

// WrapIntegrate has f called in place of each handing over of a batch.
func (o *Options) WrapIntegrate(f func(next IntegrateFunc, from uint64, entries [][]byte) error) {
	o.hooks.integrator = func(l integrator) integrator { return faultyLog{l, f} }
}

// Shrink has a trail keep little of its newest entries in memory.
func (t *Trail) Shrink(bytes int64) {
	t.recent.mu.Lock()
	defer t.recent.mu.Unlock()
	t.recent.room = bytes
}

// Kill ends a trail as the end of its process would, but for what is in the
// kernel's hands: nothing more is integrated or published, the lock is released.
func (t *Trail) Kill() {
	t.giveUp()
	_ = t.Close(context.Background())
}

// CreateSmall is Create with small journal segments.
func CreateSmall(ctx context.Context, dir, origin string) (string, error) {
	return create(ctx, dir, origin, 256<<10)
}

// Canonical is the check that stands in for Decode; summary is what it found.
func Canonical(raw []byte) (found string, ok bool) {
	s, ok := canonical(raw)
	return s.String(), ok
}

// Summary is what Canonical should have found.
func Summary(e *trailgate.Entry) string { return summarize(e).String() }

func (s summary) String() string {
	return fmt.Sprintf("%d %q %q %q %q", s.seq, s.id, s.kind, s.intent, s.blobs)
}

// RootsAgree computes the roots of logs of up to n bundles leaf by leaf and
// bundle by bundle, in turn, and says where they first differ.
func RootsAgree(n int) error {
	c := newTreeCheck(nil)
	for i := range n {
		entries := make([]bundleEntry, tileWidth)
		for j := range entries {
			entries[j].leaf = trailgate.LeafHash(fmt.Appendf(nil, "%d %d", i, j))
		}
		leaves, err := c.rootWith(entries)
		if err != nil {
			return err
		}
		root := subtreeRoot(entries)
		if err := c.upper.Append(root[:], nil); err != nil {
			return err
		}
		bundles, err := c.rootWith(nil)
		if err != nil {
			return err
		}
		if leaves != bundles {
			return fmt.Errorf("after %d bundles", i+1)
		}
	}
	return nil
}
