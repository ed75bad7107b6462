package index

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite" // registers the driver "sqlite"
)

// SQLite's result codes for a file that is not what it should be
// (https://sqlite.org/rescode.html).
const (
	codeInterrupt = 9
	codeCorrupt   = 11
	codeNotADB    = 26
)

// The keys of meta.
const (
	metaFormat  = "format"
	metaNumber  = "number"       // of this file, from 0
	metaEntries = "part_entries" // entries in each file
	metaFirst   = "first"        // leaf hash of the log's first entry, hex
	metaCursor  = "cursor"       // the next entry to index
	metaLast    = "last"         // leaf hash of the entry before the cursor, hex
	metaStarted = "started"      // sequence of the gateway's newest start, plus one; 0 for none
	metaSkipped = "skipped"      // how many entries could not be read
)

// part is one file of the index: the rows of the entries from lo up to hi.
type part struct {
	path   string
	number uint64
	lo, hi uint64
	// scratch: nobody minds if a power cut takes the file.
	scratch bool

	// version changes with every commit, for what is cached about the file.
	version atomic.Uint64

	mu     sync.Mutex // guards the rest
	ro     *sql.DB
	closed bool
}

func newPart(dir string, number, entries uint64) *part {
	return &part{
		path: filepath.Join(dir, fmt.Sprintf("part-%06d.db", number)), number: number,
		lo: number * entries, hi: (number + 1) * entries,
	}
}

// dsn names a file to the driver, with pragmas for every connection.
func dsn(path, mode string, pragmas ...string) string {
	v := url.Values{"mode": {mode}, "_pragma": append([]string{"busy_timeout(10000)"}, pragmas...)}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + v.Encode()
}

// createPart makes an empty file of the index under its name, whole or not at
// all. Its cursor stands at its first entry.
func createPart(ctx context.Context, p *part, meta map[string]string) error {
	tmp := p.path + ".tmp"
	if err := removeFile(tmp); err != nil {
		return err
	}
	// SQLite gives -wal and -shm the mode of the file; statements are not for everyone.
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("create index file: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("create index file: %w", err)
	}
	sync := "synchronous(full)"
	if p.scratch {
		sync = "synchronous(off)"
	}
	db, err := sql.Open("sqlite", dsn(tmp, "rw", "page_size(8192)", "journal_mode(wal)", sync))
	if err != nil {
		return fmt.Errorf("create index file: %w", err)
	}
	db.SetMaxOpenConns(1)
	err = func() error {
		if _, err := db.ExecContext(ctx, schema); err != nil {
			return err
		}
		for k, v := range meta {
			if _, err := db.ExecContext(ctx, `INSERT INTO meta VALUES(?, ?)`, k, v); err != nil {
				return err
			}
		}
		return nil
	}()
	// Closing the only connection moves the WAL into the file and removes it.
	if err = errors.Join(err, db.Close()); err != nil {
		return errors.Join(fmt.Errorf("create index file: %w", err), removeFile(tmp))
	}
	if err := os.Rename(tmp, p.path); err != nil {
		return fmt.Errorf("create index file: %w", err)
	}
	if p.scratch {
		return nil
	}
	return syncDir(filepath.Dir(p.path))
}

// readMeta reads a file's meta table, and so finds out whether it is a file of
// this index at all.
func (p *part) readMeta(ctx context.Context) (map[string]string, error) {
	db, err := p.reader()
	if err != nil {
		return nil, err
	}
	if err := checkLength(p.path); err != nil {
		return nil, err
	}
	rows, err := db.QueryContext(ctx, `SELECT key, value FROM meta`)
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

// checkLength reports a file that is shorter than its own header says
// (https://sqlite.org/fileformat.html#database_header): checkpoints lengthen a
// file before they count its pages.
func checkLength(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var head [32]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return fmt.Errorf("%s: no header: %w", filepath.Base(path), err)
	}
	size := int64(binary.BigEndian.Uint16(head[16:]))
	if size == 1 {
		size = 1 << 16
	}
	want := size * int64(binary.BigEndian.Uint32(head[28:]))
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < want {
		return fmt.Errorf("%s: %d bytes long instead of %d", filepath.Base(path), info.Size(), want)
	}
	return nil
}

// smallFile is up to where a file's structure is checked at each opening,
// bytes; that takes about 5 ms a megabyte.
const smallFile = 16 << 20

// check looks for structural damage in a small file.
func (p *part) check(ctx context.Context) error {
	info, err := os.Stat(p.path)
	if err != nil || info.Size() > smallFile {
		return err
	}
	db, err := p.reader()
	if err != nil {
		return err
	}
	var found string
	if err := db.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&found); err != nil {
		return err
	}
	if found != "ok" {
		return errors.New(found)
	}
	return nil
}

// reader returns the pool of read-only connections. It is for readers of one
// process; each sees what was committed when its query began.
func (p *part) reader() (*sql.DB, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	if p.ro == nil {
		db, err := sql.Open("sqlite", dsn(p.path, "ro", "query_only(1)", "cache_size(-4096)", "mmap_size(1073741824)"))
		if err != nil {
			return nil, fmt.Errorf("open index: %w", err)
		}
		db.SetMaxOpenConns(8)
		db.SetMaxIdleConns(2)
		db.SetConnMaxIdleTime(5 * time.Minute)
		p.ro = db
	}
	return p.ro, nil
}

func (p *part) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.ro == nil {
		return nil
	}
	db := p.ro
	p.ro = nil
	return db.Close()
}

// damaged reports whether err says that a file is not a sound SQLite database.
func damaged(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		code := e.Code() & 0xff
		return code == codeCorrupt || code == codeNotADB
	}
	return errors.Is(err, ErrDamaged)
}

// interrupted reports whether err is the mark of a query that its context stopped.
func interrupted(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()&0xff == codeInterrupt
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func removeFile(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove index file: %w", err)
		}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync index directory: %w", err)
	}
	err = d.Sync()
	if err = errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("sync index directory: %w", err)
	}
	return nil
}

func parseUint(m map[string]string, key string) (uint64, error) {
	n, err := strconv.ParseUint(m[key], 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%s is %q", key, m[key])
	}
	return n, nil
}
