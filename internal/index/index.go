package index

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// Defaults of [Options].
const (
	DefaultFileEntries  = 1 << 20
	DefaultSearchBudget = 10 * time.Second
	DefaultStatsBudget  = 60 * time.Second
	DefaultLinger       = 50 * time.Millisecond
)

const (
	// catchUpBatch is how many entries a transaction holds while many wait.
	catchUpBatch = 1 << 14
	// currentFile names the generation that is in use.
	currentFile = "current"
	genPrefix   = "gen-"
	// retryDelay is how long Run waits after an error, doubled up to retryMax.
	retryDelay = 100 * time.Millisecond
	retryMax   = 30 * time.Second
)

// Options tune an index. The zero value is ready for use.
type Options struct {
	// Log is where damage and rebuilding are told. Optional; nil: nowhere.
	Log *slog.Logger
	// FileEntries is how many log entries one file covers, fixed when the index
	// is made. Optional; default [DefaultFileEntries].
	FileEntries uint64
	// SearchBudget and StatsBudget bound one search and one sum. Optional.
	SearchBudget, StatsBudget time.Duration
	// Linger is how long Run gathers entries before it commits them.
	// Optional; default [DefaultLinger]; negative: not at all.
	Linger time.Duration
	// Now is the clock that relative times in filters refer to. Optional.
	Now func() time.Time

	beforeCursor func() error // see store.hook
	scratch      bool         // see part
	// What a look around may cost, glanceRows and glanceBudget; tests set others.
	glanceRows   int64
	glanceBudget time.Duration
	maxIDs       int // see writer; tests set less
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.FileEntries == 0 {
		o.FileEntries = DefaultFileEntries
	}
	if o.SearchBudget <= 0 {
		o.SearchBudget = DefaultSearchBudget
	}
	if o.StatsBudget <= 0 {
		o.StatsBudget = DefaultStatsBudget
	}
	if o.Linger == 0 {
		o.Linger = DefaultLinger
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.glanceRows == 0 {
		o.glanceRows, o.glanceBudget = glanceRows, glanceBudget
	}
	if o.maxIDs == 0 {
		o.maxIDs = maxCachedIDs
	}
	return o
}

// Index is an open index. All methods are safe for concurrent use.
type Index struct {
	dir string
	src Source
	opt Options

	// turn is held by who writes to st, and by who replaces it.
	turn sync.Mutex
	// rebuilding is held during Rebuild.
	rebuilding sync.Mutex

	mu     sync.Mutex // guards the rest
	st     *store     // nil once closed
	moved  chan struct{}
	broken bool               // a search met damage; Run is to rebuild
	alarm  context.CancelFunc // ends Run's waiting; nil while it does not run

	cache sumCache
}

// Open opens the index in dir, making dir and an empty index where there is
// none. An index of another log or another format, and a damaged one, is told
// to the log in words, deleted, and begun anew; [Index.Run] or [Index.CatchUp]
// fills it.
//
// The caller holds the lock on the log, and so is the only one to open the
// index for the time.
func Open(ctx context.Context, dir string, src Source, o Options) (*Index, error) {
	x := &Index{dir: dir, src: src, opt: o.withDefaults(), moved: make(chan struct{})}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	name, err := readCurrent(dir)
	if err != nil {
		return nil, err
	}
	if name != "" {
		st, err := openStore(ctx, filepath.Join(dir, name), src, x.opt)
		switch {
		case err == nil:
			x.st = st
		case ctx.Err() != nil:
			return nil, ctx.Err()
		default:
			x.opt.Log.WarnContext(ctx, "the index does not fit the log or is damaged; building it anew from the log", "dir", dir, "err", err)
		}
	}
	if x.st == nil {
		st, err := x.newGeneration(ctx)
		if err != nil {
			return nil, err
		}
		if err := x.makeCurrent(st); err != nil {
			return nil, errors.Join(err, st.close())
		}
		x.st = st
	}
	if err := x.removeOthers(filepath.Base(x.st.dir)); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	return x, nil
}

// Remove deletes the index in dir. Nothing is lost: it is rebuilt from the log.
func Remove(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove index: %w", err)
	}
	return nil
}

func readCurrent(dir string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, currentFile))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("open index: %w", err)
	}
	name := strings.TrimSpace(string(raw))
	if _, ok := parseULID(strings.TrimPrefix(name, genPrefix)); !ok || !strings.HasPrefix(name, genPrefix) {
		return "", nil
	}
	return name, nil
}

func (x *Index) newGeneration(ctx context.Context) (*store, error) {
	name := genPrefix + strings.ToLower(ulid.Make().String())
	st, err := createStore(ctx, filepath.Join(x.dir, name), x.src, x.opt)
	if err != nil && st != nil {
		return nil, errors.Join(err, st.close())
	}
	return st, err
}

// makeCurrent makes st the generation that the next Open finds. Before the
// rename returns, a crash leaves the one before.
func (x *Index) makeCurrent(st *store) error {
	path := filepath.Join(x.dir, currentFile)
	if err := os.WriteFile(path+".tmp", []byte(filepath.Base(st.dir)+"\n"), 0o600); err != nil {
		return fmt.Errorf("switch index: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("switch index: %w", err)
	}
	return syncDir(x.dir)
}

// removeOthers deletes generations that are not in use.
func (x *Index) removeOthers(keep string) error {
	list, err := os.ReadDir(x.dir)
	if err != nil {
		return fmt.Errorf("tidy index: %w", err)
	}
	for _, d := range list {
		if strings.HasPrefix(d.Name(), genPrefix) && d.Name() != keep {
			err = errors.Join(err, Remove(filepath.Join(x.dir, d.Name())))
		}
	}
	return err
}

// acquire returns the store for reading; release gives it back.
func (x *Index) acquire() (st *store, release func(), err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.st == nil {
		return nil, nil, ErrClosed
	}
	x.st.using.Add(1)
	return x.st, x.st.using.Done, nil
}

// current returns the store for writing; the caller holds turn.
func (x *Index) current() (*store, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.st == nil {
		return nil, ErrClosed
	}
	return x.st, nil
}

// Close closes the index, after running searches and commits have ended. End
// the context of Run and Rebuild first. A second Close does nothing.
func (x *Index) Close() error {
	x.turn.Lock()
	defer x.turn.Unlock()
	x.mu.Lock()
	st := x.st
	x.st = nil
	x.mu.Unlock()
	if st == nil {
		return nil
	}
	return st.close()
}

// Cursor is the number of entries that searches see: all below it.
func (x *Index) Cursor() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.st == nil {
		return 0
	}
	return x.st.cursor.Load()
}

// Wait returns nil once Cursor() > seq, or ctx's error.
func (x *Index) Wait(ctx context.Context, seq uint64) error {
	for {
		x.mu.Lock()
		moved, st := x.moved, x.st
		x.mu.Unlock()
		if st == nil {
			return ErrClosed
		}
		if st.cursor.Load() > seq {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// wake tells those in Wait that the cursor moved.
func (x *Index) wake() {
	x.mu.Lock()
	defer x.mu.Unlock()
	close(x.moved)
	x.moved = make(chan struct{})
}

// Health says how the index is.
type Health struct {
	Cursor uint64 // entries indexed
	Behind uint64 // durable entries not yet indexed
	Files  int
	Bytes  int64 // on disk
	// Unreadable counts entries of the log that could not be read. They are in
	// no search.
	Unreadable uint64
}

// Health looks at the files and the log's size.
func (x *Index) Health() (Health, error) {
	st, release, err := x.acquire()
	if err != nil {
		return Health{}, err
	}
	defer release()
	h := Health{Cursor: st.cursor.Load(), Files: len(st.oldestFirst()), Bytes: st.bytes(), Unreadable: st.skipped.Load()}
	h.Behind = max(x.src.Size(), h.Cursor) - h.Cursor
	return h, nil
}
