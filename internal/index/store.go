package index

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/trailgate/trailgate"
)

// store is one generation of the index: a directory of files, contiguous by
// sequence. Reading is safe for concurrent use; add, commit and abort belong
// to one goroutine at a time.
type store struct {
	dir     string
	src     Source
	log     *slog.Logger
	entries uint64 // per file
	scratch bool   // see part
	using   sync.WaitGroup

	cursor  atomic.Uint64 // committed
	started atomic.Uint64 // sequence after the gateway's newest start, committed
	skipped atomic.Uint64 // unreadable entries, committed

	mu    sync.RWMutex // guards parts, which only grows
	parts []*part

	// The writing side.
	writers   map[uint64]*writer
	next      uint64 // the cursor, uncommitted
	start     uint64 // started, uncommitted
	skip      uint64 // skipped, uncommitted
	first     string // leaf hash of the log's first entry, once that is known
	last      string // leaf hash of the entry before the cursor, committed
	newestRaw []byte // the entry before next, as it came, where it was not committed
	pending   int    // entries since the last commit
	doubt     bool   // an error has left the writing side in an unknown state
	words     map[string]struct{}
	maxIDs    int          // of each writer
	hook      func() error // before the newest file's commit; for tests
}

// createStore makes an empty generation in a directory that does not exist.
func createStore(ctx context.Context, dir string, src Source, o Options) (*store, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create index: %w", err)
	}
	s := newStore(dir, src, o)
	s.entries, s.scratch = o.FileEntries, o.scratch
	return s, s.grow(ctx)
}

func newStore(dir string, src Source, o Options) *store {
	return &store{dir: dir, src: src, log: o.Log, writers: map[uint64]*writer{}, words: map[string]struct{}{}, maxIDs: o.maxIDs, hook: o.beforeCursor}
}

// openStore opens a generation and checks that it is one of this log. An error
// that is not ctx's means that it has to be rebuilt.
func openStore(ctx context.Context, dir string, src Source, o Options) (*store, error) {
	s := newStore(dir, src, o)
	if err := s.openParts(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *store) openParts(ctx context.Context) error {
	names, err := filepath.Glob(filepath.Join(s.dir, "part-*.db"))
	if err != nil || len(names) == 0 {
		return errors.Join(errors.New("it has no files"), err)
	}
	var meta map[string]string
	for i := range uint64(len(names)) {
		p := newPart(s.dir, i, 1)
		meta, err = p.readMeta(ctx)
		if err == nil {
			err = s.adopt(ctx, p, meta, i+1 == uint64(len(names)))
		}
		if err != nil {
			return errors.Join(fmt.Errorf("file %d: %w", i, err), p.close())
		}
	}
	return s.checkAgainstLog(ctx, meta)
}

// adopt takes a file that is there into the store.
func (s *store) adopt(ctx context.Context, p *part, meta map[string]string, newest bool) error {
	if meta[metaFormat] != format {
		return fmt.Errorf("its format is %q, this program's is %q", meta[metaFormat], format)
	}
	number, err1 := parseUint(meta, metaNumber)
	entries, err2 := parseUint(meta, metaEntries)
	cursor, err3 := parseUint(meta, metaCursor)
	started, err4 := parseUint(meta, metaStarted)
	skipped, err5 := parseUint(meta, metaSkipped)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return err
	}
	if s.entries == 0 {
		s.entries = entries
	}
	p.lo, p.hi = p.number*entries, (p.number+1)*entries
	switch {
	case number != p.number || entries == 0 || entries != s.entries:
		return fmt.Errorf("it is file %d of an index of %d entries a file", number, entries)
	case cursor < p.lo || cursor > p.hi || cursor != p.hi && !newest:
		return fmt.Errorf("its cursor is %d, its entries are %d to %d", cursor, p.lo, p.hi)
	}
	if err := p.check(ctx); err != nil {
		return err
	}
	s.cursor.Store(cursor)
	s.started.Store(started)
	s.skipped.Store(skipped)
	s.next, s.start, s.skip = cursor, started, skipped
	s.parts = append(s.parts, p)
	return nil
}

// checkAgainstLog checks that the index was made from the log at hand: its
// first and its newest indexed entry must be the log's.
func (s *store) checkAgainstLog(ctx context.Context, meta map[string]string) error {
	if s.next == 0 {
		return nil
	}
	if size := s.src.Size(); s.next > size {
		return fmt.Errorf("it holds %d entries, the log %d", s.next, size)
	}
	for seq, want := range map[uint64]string{0: meta[metaFirst], s.next - 1: meta[metaLast]} {
		raw, err := s.src.Get(ctx, seq)
		if err != nil {
			return fmt.Errorf("read entry %d: %w", seq, err)
		}
		if leafHex(raw) != want {
			return fmt.Errorf("its entry %d is not the log's", seq)
		}
	}
	s.first, s.last = meta[metaFirst], meta[metaLast]
	return nil
}

func leafHex(raw []byte) string {
	h := trailgate.LeafHash(raw)
	return hex.EncodeToString(h[:])
}

// grow adds an empty file for the entries from next on.
func (s *store) grow(ctx context.Context) error {
	p := newPart(s.dir, s.next/s.entries, s.entries)
	p.scratch = s.scratch
	meta, err := s.meta(ctx)
	if err != nil {
		return err
	}
	meta[metaFormat], meta[metaNumber] = format, strconv.FormatUint(p.number, 10)
	meta[metaEntries] = strconv.FormatUint(s.entries, 10)
	if err := createPart(ctx, p, meta); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts = append(s.parts, p)
	return nil
}

// meta is what says how far the index is.
func (s *store) meta(ctx context.Context) (map[string]string, error) {
	m := map[string]string{
		metaCursor: strconv.FormatUint(s.next, 10), metaStarted: strconv.FormatUint(s.start, 10),
		metaSkipped: strconv.FormatUint(s.skip, 10), metaFirst: "", metaLast: "",
	}
	if s.next == 0 {
		return m, nil
	}
	if s.first == "" {
		raw, err := s.src.Get(ctx, 0)
		if err != nil {
			return nil, fmt.Errorf("read entry 0: %w", err)
		}
		s.first = leafHex(raw)
	}
	m[metaFirst], m[metaLast] = s.first, s.last
	if s.pending > 0 {
		m[metaLast] = leafHex(s.newestRaw)
	}
	return m, nil
}

// newestFirst returns the files, newest first.
func (s *store) newestFirst() []*part {
	s.mu.RLock()
	parts := slices.Clone(s.parts)
	s.mu.RUnlock()
	slices.Reverse(parts)
	return parts
}

func (s *store) oldestFirst() []*part {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.parts)
}

// writer returns the writer of a file, opening it if need be.
func (s *store) writer(ctx context.Context, p *part) (*writer, error) {
	if w := s.writers[p.number]; w != nil {
		return w, nil
	}
	w, err := openWriter(ctx, p, p.lo != s.newest().lo)
	if err != nil {
		return nil, err
	}
	w.maxIDs = s.maxIDs
	s.writers[p.number] = w
	return w, nil
}

// newest is the file that grows. Only the writing side asks.
func (s *store) newest() *part { return s.parts[len(s.parts)-1] }

// add takes the next entry in, without committing it.
func (s *store) add(ctx context.Context, seq uint64, raw []byte) error {
	if seq != s.next {
		return fmt.Errorf("index: entry %d came after entry %d", seq, s.next)
	}
	if seq >= s.newest().hi {
		if err := s.rollOver(ctx); err != nil {
			return err
		}
	}
	s.next++
	s.pending++
	s.newestRaw = append(s.newestRaw[:0], raw...)
	var e trailgate.Entry
	if err := e.UnmarshalJSON(raw); err != nil || e.Seq != seq {
		// verify tells what is wrong with it; a search cannot show what nobody can read.
		s.skip++
		s.log.ErrorContext(ctx, "log entry cannot be indexed; run trailgate verify", "seq", seq, "err", err)
		return nil
	}
	if e.Kind == trailgate.KindGateway && e.Event != nil && e.Event.Action == actionServe {
		s.start = seq + 1
	}
	w, err := s.writer(ctx, s.newest())
	if err != nil {
		return err
	}
	joined, err := s.join(ctx, &e)
	if err != nil {
		return err
	}
	if !joined {
		f := openingFacts(&e)
		f.words = s.wordsOf(ctx, &e)
		if err := w.insert(ctx, f); err != nil {
			return err
		}
	}
	if e.ID != "" {
		w.names[e.ID] = seq
	}
	return nil
}

// join adds a later entry of a call to the call's row. It reports false where
// the entry is no such, or the call is not in the log: then it gets a row of
// its own.
func (s *store) join(ctx context.Context, e *trailgate.Entry) (bool, error) {
	if e.IntentID == "" || !isStage(e) {
		return false, nil
	}
	p, opening, err := s.find(ctx, e.IntentID)
	if err != nil || p == nil {
		return false, err
	}
	w, err := s.writer(ctx, p)
	if err != nil {
		return false, err
	}
	r, err := w.load(ctx, opening)
	if err != nil || r == nil {
		return false, err
	}
	return true, w.stage(ctx, opening, e)
}

// find returns where the entry with this id stands, and nil where it is not
// known. It sees what was added and not committed yet.
func (s *store) find(ctx context.Context, id string) (*part, uint64, error) {
	for _, p := range slices.Backward(s.parts) {
		w, err := s.lookupWriter(ctx, p)
		if err != nil {
			return nil, 0, err
		}
		if w != nil {
			if seq, ok := w.names[id]; ok {
				return p, seq, nil
			}
		}
		var seq uint64
		const query = `SELECT seq FROM name WHERE id = ?`
		if w != nil {
			err = w.queryRow(ctx, query, []any{&seq}, nameKey(id))
		} else {
			var db *sql.DB
			if db, err = p.reader(); err == nil {
				err = db.QueryRowContext(ctx, query, nameKey(id)).Scan(&seq)
			}
		}
		switch {
		case err == nil:
			return p, seq, nil
		case !errors.Is(err, sql.ErrNoRows):
			return nil, 0, fmt.Errorf("look up entry: %w", err)
		}
	}
	return nil, 0, nil
}

// lookupWriter returns the writer of a file where there is one, or should be.
func (s *store) lookupWriter(ctx context.Context, p *part) (*writer, error) {
	if p == s.newest() {
		return s.writer(ctx, p)
	}
	return s.writers[p.number], nil
}

// wordsOf are the different words of an entry's statements.
func (s *store) wordsOf(ctx context.Context, e *trailgate.Entry) []string {
	if len(e.Statements) == 0 {
		return nil
	}
	clear(s.words)
	var list []string
	for _, st := range e.Statements {
		text := st.Text
		if st.Blob != "" {
			blob, err := s.src.GetBlob(ctx, st.Blob)
			if err != nil {
				s.log.WarnContext(ctx, "statement text cannot be read; it is not searchable", "seq", e.Seq, "err", err)
				continue
			}
			text = string(blob)
		}
		eachWord(cut(text, maxTextBytes), func(word string) bool {
			if _, ok := s.words[word]; !ok {
				s.words[word] = struct{}{}
				list = append(list, word)
			}
			return len(list) < maxWords
		})
	}
	return list
}

// rollOver commits, seals the newest file and begins another.
func (s *store) rollOver(ctx context.Context) error {
	if err := s.commit(ctx); err != nil {
		return err
	}
	full := s.newest()
	w, err := s.writer(ctx, full)
	if err != nil {
		return err
	}
	if err := w.seal(ctx); err != nil {
		return err
	}
	for number, w := range s.writers {
		delete(s.writers, number) // what comes late opens its file again, durably
		if err := w.close(); err != nil {
			return fmt.Errorf("close index file: %w", err)
		}
	}
	return s.grow(ctx)
}

// commit makes what was added visible to searches.
//
// Closings in older files are committed first, each durable when its commit
// returns; then the newest file, with the cursor. A crash between leaves
// closings that the cursor does not cover: they are replayed, and found done.
// A power cut may take commits of the newest file back, with the cursor.
func (s *store) commit(ctx context.Context) error {
	if s.pending == 0 {
		return nil
	}
	newest := s.newest()
	for _, number := range slices.Sorted(maps.Keys(s.writers)) {
		w := s.writers[number]
		if w.part == newest {
			continue
		}
		idle := len(w.rows) == 0
		if err := w.commit(ctx, nil); err != nil {
			return err
		}
		if idle {
			delete(s.writers, number)
			if err := w.close(); err != nil {
				return fmt.Errorf("close index file: %w", err)
			}
		}
	}
	w, err := s.writer(ctx, newest)
	if err != nil {
		return err
	}
	meta, err := s.meta(ctx)
	if err != nil {
		return err
	}
	if s.hook != nil {
		if err := s.hook(); err != nil {
			return err
		}
	}
	if err := w.commit(ctx, meta); err != nil {
		return err
	}
	s.pending, s.last = 0, meta[metaLast]
	s.started.Store(s.start)
	s.skipped.Store(s.skip)
	s.cursor.Store(s.next)
	return nil
}

// abort gives up what was not committed, after an error.
func (s *store) abort() error {
	s.doubt = true
	return s.closeWriters()
}

// settle makes the writing side fit for use after abort: the newest file says
// how far the index is.
func (s *store) settle(ctx context.Context) error {
	if !s.doubt {
		return nil
	}
	meta, err := s.newest().readMeta(ctx)
	if err != nil {
		return fmt.Errorf("read index cursor: %w", err)
	}
	cursor, err1 := parseUint(meta, metaCursor)
	started, err2 := parseUint(meta, metaStarted)
	skipped, err3 := parseUint(meta, metaSkipped)
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("read index cursor: %w", err)
	}
	s.next, s.start, s.skip, s.last, s.pending, s.doubt = cursor, started, skipped, meta[metaLast], 0, false
	s.started.Store(started)
	s.skipped.Store(skipped)
	s.cursor.Store(cursor)
	return nil
}

func (s *store) closeWriters() error {
	var err error
	for number, w := range s.writers {
		delete(s.writers, number)
		err = errors.Join(err, w.close())
	}
	return err
}

// close waits for searches to end and closes all files.
func (s *store) close() error {
	s.using.Wait()
	err := s.closeWriters()
	for _, p := range s.oldestFirst() {
		err = errors.Join(err, p.close())
	}
	return err
}

// bytes is how much room the files take.
func (s *store) bytes() int64 {
	var n int64
	for _, p := range s.oldestFirst() {
		for _, suffix := range []string{"", "-wal"} {
			if info, err := os.Stat(p.path + suffix); err == nil {
				n += info.Size()
			}
		}
	}
	return n
}
