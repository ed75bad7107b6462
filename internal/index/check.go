package index

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
)

// CheckOptions tune [Check]. The zero value is good.
type CheckOptions struct {
	// TempDir is where the index is made a second time, and removed from again: it
	// takes as much room as the index. Default: the system's.
	TempDir string
	// Progress, if set, is called now and then from one goroutine.
	Progress func(done, total uint64)
}

// CheckReport is what [Check] found.
type CheckReport struct {
	// Absent says that there is no index, or only one of another format, which the
	// next start makes anew: nothing was compared.
	Absent bool
	// Entries is how many entries of the log the index holds, Behind how many more
	// the log has. Being behind is no fault.
	Entries, Behind uint64
	Files           int
	Rows            uint64 // of all tables, that were compared
	Terms           uint64 // of the inverted index, that were compared
	// Bad is the first place where the index does not say what the log does, nil
	// where there is none.
	Bad *Difference
}

// Difference is a place where an index is not what its log makes.
type Difference struct {
	File   string // path
	Table  string // "" where it is the file itself
	Row    string // which row
	Seq    uint64 // the entry that the row is about; the file's first where it is about many
	Reason string
}

// attempts bounds how often a moving index is looked at.
const attempts = 6

// Check compares the index in dir with the log: it makes the index a second
// time, in a temporary directory, and compares every row of every table, the
// sums and the inverted index included. So it finds what an edited index
// hides from searches, invents, or sums up wrongly.
//
// A gateway may be running on the index; nothing in dir is changed. The log is
// opened after the index was looked at, so that it holds all that the index does.
func Check(ctx context.Context, dir string, openLog func(context.Context) (Source, error), o CheckOptions) (*CheckReport, error) {
	tmp, err := os.MkdirTemp(o.TempDir, "trailgate-index-check-")
	if err != nil {
		return nil, fmt.Errorf("check index: %w", err)
	}
	c := &checker{dir: dir, tmp: filepath.Join(tmp, "ref"), openLog: openLog, o: o}
	report, err := c.run(ctx)
	err = errors.Join(err, c.close(), os.RemoveAll(tmp))
	if err != nil {
		return nil, fmt.Errorf("check index: %w", err)
	}
	return report, nil
}

type checker struct {
	dir, tmp string
	openLog  func(context.Context) (Source, error)
	o        CheckOptions
	src      Source
	ref      *store // what the log makes
}

// run looks at the index until two looks agree on what is wrong, or nothing is.
//
// The files of an index that grows are not changed all at once: a closing is
// committed in its older file before the cursor passes it. What such a moment
// shows is not there at the next look; what somebody forged is.
func (c *checker) run(ctx context.Context) (*CheckReport, error) {
	var last *Difference
	for try := range attempts {
		shot, err := c.look(ctx)
		if err != nil {
			return nil, err
		}
		if shot.report.Absent {
			return &shot.report, shot.close()
		}
		report, err := c.compare(ctx, shot)
		if err = errors.Join(err, shot.close()); err != nil {
			return nil, err
		}
		switch {
		case report.Bad == nil:
			return report, nil
		case last != nil && *last == *report.Bad:
			return report, nil
		case try == attempts-1:
			return nil, errors.New("the index changes faster than it can be compared; check it again when the gateway is less busy, or stopped")
		}
		last = report.Bad
	}
	panic("unreachable")
}

func (c *checker) close() error {
	var err error
	if c.ref != nil {
		err = c.ref.close()
	}
	if closer, ok := c.src.(io.Closer); ok {
		err = errors.Join(err, closer.Close())
	}
	return err
}

// snapshot is the index's files as of one moment each.
type snapshot struct {
	files  []*file
	report CheckReport
	meta   map[string]string // of the newest file
}

func (s *snapshot) close() error {
	var err error
	for _, f := range s.files {
		err = errors.Join(err, f.close())
	}
	return err
}

// look opens the files, the newest first: its cursor says how far the others are at least.
func (c *checker) look(ctx context.Context) (*snapshot, error) {
	s := &snapshot{}
	name, err := readCurrent(c.dir)
	if err != nil {
		return nil, err
	}
	if name == "" {
		s.report.Absent = true
		return s, nil
	}
	names, err := filepath.Glob(filepath.Join(c.dir, name, "part-*.db"))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		s.report.Absent = true
		return s, nil
	}
	s.files = make([]*file, len(names))
	for i := len(names) - 1; i >= 0; i-- {
		s.files[i] = openFile(ctx, newPart(filepath.Join(c.dir, name), uint64(i), 1).path)
	}
	newest := s.files[len(names)-1]
	s.report.Files = len(names)
	if newest.err == nil {
		s.meta, newest.err = newest.meta(ctx)
	}
	s.report.Absent = newest.err == nil && s.meta[metaFormat] != format
	return s, nil
}

// compare makes the reference as far as the snapshot is, and compares.
func (c *checker) compare(ctx context.Context, s *snapshot) (*CheckReport, error) {
	r := &s.report
	newest := s.files[len(s.files)-1]
	bad := func(f *file, seq uint64, reason string) (*CheckReport, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r.Bad = &Difference{File: f.path, Seq: seq, Reason: reason}
		return r, nil
	}
	if newest.err != nil {
		return bad(newest, 0, "the file cannot be read: "+newest.err.Error())
	}
	cursor, err1 := parseUint(s.meta, metaCursor)
	entries, err2 := parseUint(s.meta, metaEntries)
	if err := errors.Join(err1, err2); err != nil {
		return bad(newest, 0, err.Error())
	}
	if closer, ok := c.src.(io.Closer); ok {
		if err := closer.Close(); err != nil {
			return nil, err
		}
	}
	src, err := c.openLog(ctx)
	if err != nil {
		return nil, err
	}
	c.src = src
	if size := src.Size(); cursor > size {
		return bad(newest, size, fmt.Sprintf("the index holds %d entries, the log %d: either the log was cut, or the index is another log's", cursor, size))
	}
	if want := (max(cursor, 1)-1)/max(entries, 1) + 1; entries == 0 || want != uint64(len(s.files)) {
		return bad(newest, 0, fmt.Sprintf("the index has %d files for %d entries, of %d entries each", len(s.files), cursor, entries))
	}
	r.Entries, r.Behind = cursor, src.Size()-cursor
	if err := c.makeReference(ctx, cursor, entries); err != nil {
		return nil, err
	}
	mine := c.ref.oldestFirst()
	for i, f := range s.files {
		if f.err != nil {
			return bad(f, mine[i].lo, "the file cannot be read: "+f.err.Error())
		}
		d, err := c.compareFile(ctx, r, f, mine[i])
		switch {
		case damaged(err):
			return bad(f, mine[i].lo, "the file cannot be read: "+err.Error())
		case err != nil:
			return nil, err
		case d != nil:
			r.Bad = d
			return r, nil
		}
	}
	return r, nil
}

// makeReference makes, or extends, the index of the log's first n entries.
func (c *checker) makeReference(ctx context.Context, n, perFile uint64) error {
	o := Options{FileEntries: perFile, Log: slog.New(slog.DiscardHandler), scratch: true}.withDefaults()
	if c.ref != nil && (c.ref.entries != perFile || c.ref.next > n) {
		// Another generation took the index's place, or somebody plays.
		if err := errors.Join(c.ref.close(), os.RemoveAll(filepath.Dir(c.ref.dir))); err != nil {
			return err
		}
		c.ref = nil
	}
	if c.ref == nil {
		if err := os.MkdirAll(c.tmp, 0o700); err != nil {
			return err
		}
		ref, err := createStore(ctx, filepath.Join(c.tmp, "gen"), c.src, o)
		if err != nil {
			return err
		}
		c.ref = ref
	}
	c.ref.src = c.src
	feeder := &Index{src: c.src, opt: o, moved: make(chan struct{})}
	return feeder.feed(ctx, c.ref, n, c.o.Progress)
}

// file is one file of the index that is checked, read in one transaction.
type file struct {
	path string
	db   *sql.DB
	conn *sql.Conn
	err  error // why it cannot be read
}

// openFile opens a file for reading, as it is now.
func openFile(ctx context.Context, path string) *file {
	f := &file{path: path}
	query := url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(10000)", "cache_size(-16384)"}}
	if _, err := os.Stat(path + "-wal"); errors.Is(err, os.ErrNotExist) {
		// Nobody has it open. SQLite would make files beside it, and could not where
		// the directory must not be written to.
		query.Set("immutable", "1")
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		f.err = err
		return f
	}
	f.db = db
	if f.err = checkLength(path); f.err != nil {
		return f
	}
	if f.conn, f.err = db.Conn(ctx); f.err != nil {
		return f
	}
	var n int
	if _, f.err = f.conn.ExecContext(ctx, `BEGIN`); f.err == nil {
		f.err = f.conn.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master`).Scan(&n) // the transaction begins here
	}
	return f
}

func (f *file) close() error {
	if f == nil || f.db == nil {
		return nil
	}
	if f.conn != nil {
		_ = f.conn.Close() // its transaction has only read
	}
	return f.db.Close()
}

func (f *file) meta(ctx context.Context) (map[string]string, error) {
	rows, err := f.conn.QueryContext(ctx, `SELECT key, value FROM meta`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	m := map[string]string{}
	for rows.Next() {
		var k, v string
		if err := rows.Scan(&k, &v); err != nil {
			return nil, err
		}
		m[k] = v
	}
	return m, rows.Err()
}

// compareFile compares one file with its reference.
func (c *checker) compareFile(ctx context.Context, r *CheckReport, f *file, p *part) (*Difference, error) {
	mine := openFile(ctx, p.path)
	defer mine.close() //nolint:errcheck // read only
	if mine.err != nil {
		return nil, mine.err
	}
	var found string
	// The tables against SQLite's own indexes on them, by which searches find rows.
	if err := f.conn.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&found); err != nil {
		return nil, err
	}
	if found != "ok" {
		return &Difference{File: f.path, Seq: p.lo, Reason: "the file is not sound: " + found}, nil
	}
	for i := range checkedTables {
		d, n, err := compareTable(ctx, &checkedTables[i], f, mine, p)
		r.Rows += n
		if d != nil || err != nil {
			return d, err
		}
	}
	d, n, err := compareWords(ctx, f, mine, p)
	r.Terms += n
	return d, err
}

// seqText spells a column of which it is known that it holds a sequence number.
func seqText(v any) uint64 {
	n, err := strconv.ParseUint(fmt.Sprint(v), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
