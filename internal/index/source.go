package index

import (
	"context"
	"errors"
	"fmt"
)

// Source is the log that an index follows. *trail.Trail is one.
//
// Entries below Size are durable and never change. All methods may be called
// concurrently.
type Source interface {
	// Size is the number of durable entries.
	Size() uint64
	// Wait returns nil once Size() > size, or ctx's error.
	Wait(ctx context.Context, size uint64) error
	// Scan calls fn with each durable entry's encoding, in order, from
	// sequence from on; raw is valid during the call only. It returns fn's
	// error as it is, or wrapped. fn may call Get and GetBlob.
	Scan(ctx context.Context, from uint64, fn func(seq uint64, raw []byte) error) error
	// Get returns one entry's encoding.
	Get(ctx context.Context, seq uint64) ([]byte, error)
	// GetBlob returns the bytes that have this SHA-256 (hex).
	GetBlob(ctx context.Context, sha string) ([]byte, error)
}

// What a caller may branch on.
var (
	// ErrNotFound means that no entry has this id, or begins with it.
	ErrNotFound = errors.New("no entry has this id")
	// ErrAmbiguous means that several calls have ids with this prefix.
	ErrAmbiguous = errors.New("several entries begin with this id; give more of it")
	// ErrTooSlow means that a search or sum exceeded its time budget.
	ErrTooSlow = errors.New("the search took too long; narrow it, for example by time or agent")
	// ErrDamaged means that the index does not fit the log or cannot be read.
	// The log is not affected. [Index.Run] rebuilds a damaged index by itself.
	ErrDamaged = errors.New("the index is damaged (the log is not); it is rebuilt from the log while the gateway runs, or by `trailgate index rebuild`")
	// ErrClosed means that the index was closed.
	ErrClosed = errors.New("the index is closed")
)

// FilterError says what is wrong with a filter, a page token, or a list of
// keys to sum by, in words for the person who wrote it.
type FilterError struct {
	Message string
	// Column is where, counted in characters from 1; 0 where it is nowhere in
	// particular.
	Column int
}

func (e *FilterError) Error() string {
	if e.Column > 0 {
		return fmt.Sprintf("filter: column %d: %s", e.Column, e.Message)
	}
	return "filter: " + e.Message
}
