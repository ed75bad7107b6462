package indextest

import (
	"context"
	"fmt"
	"sync"

	"github.com/trailgate/trailgate"
)

// Log is a log in memory. The zero value is empty and ready for use; all
// methods are safe for concurrent use.
type Log struct {
	mu      sync.Mutex // guards all
	entries [][]byte
	blobs   map[string][]byte
	grown   chan struct{} // closed when an entry comes; nil while nobody waits
}

// Append gives the entry its place and adds it. The entry's time stays.
func (l *Log) Append(e *trailgate.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Seq = uint64(len(l.entries))
	raw, err := e.Encode()
	if err != nil {
		return err
	}
	l.appendLocked(raw)
	return nil
}

// AppendRaw adds bytes as they are.
func (l *Log) AppendRaw(raw []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.appendLocked(raw)
}

func (l *Log) appendLocked(raw []byte) {
	l.entries = append(l.entries, raw)
	if l.grown != nil {
		close(l.grown)
		l.grown = nil
	}
}

// PutBlob stores data under its name.
func (l *Log) PutBlob(sha string, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.blobs == nil {
		l.blobs = map[string][]byte{}
	}
	l.blobs[sha] = data
}

// Size is the number of entries.
func (l *Log) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.entries))
}

// Wait returns once there are more than size entries.
func (l *Log) Wait(ctx context.Context, size uint64) error {
	for {
		l.mu.Lock()
		if uint64(len(l.entries)) > size {
			l.mu.Unlock()
			return nil
		}
		if l.grown == nil {
			l.grown = make(chan struct{})
		}
		grown := l.grown
		l.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Scan calls fn with each entry.
func (l *Log) Scan(ctx context.Context, from uint64, fn func(seq uint64, raw []byte) error) error {
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

// Get returns an entry.
func (l *Log) Get(_ context.Context, seq uint64) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq >= uint64(len(l.entries)) {
		return nil, fmt.Errorf("entry %d of a log of %d", seq, len(l.entries))
	}
	return l.entries[seq], nil
}

// GetBlob returns a blob.
func (l *Log) GetBlob(_ context.Context, sha string) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b, ok := l.blobs[sha]; ok {
		return b, nil
	}
	return nil, fmt.Errorf("no blob %s", sha)
}

// Generated is a log of a generator's first entries, made as they are read. It
// takes no memory, whatever its size. Wait never sees it grow.
type Generated struct {
	*Gen
	Entries uint64
}

// Size is the number of entries.
func (g Generated) Size() uint64 { return g.Entries }

// Wait returns at once, or when ctx ends.
func (g Generated) Wait(ctx context.Context, size uint64) error {
	if g.Entries > size {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// Scan calls fn with each entry.
func (g Generated) Scan(ctx context.Context, from uint64, fn func(seq uint64, raw []byte) error) error {
	for seq := from; seq < g.Entries; seq++ {
		if err := fn(seq, g.Raw(seq)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Get returns an entry.
func (g Generated) Get(_ context.Context, seq uint64) ([]byte, error) {
	if seq >= g.Entries {
		return nil, fmt.Errorf("entry %d of a log of %d", seq, g.Entries)
	}
	return g.Raw(seq), nil
}

// GetBlob has none: these statements are short.
func (g Generated) GetBlob(_ context.Context, sha string) ([]byte, error) {
	return nil, fmt.Errorf("no blob %s", sha)
}
