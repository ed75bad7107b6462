package index

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/trailgate/trailgate"
)

// row is a row of call, in memory until the writer's next commit.
type row struct {
	fresh   bool // not in the file yet
	changed bool // columns differ from the file's

	seq                                                 uint64
	time                                                int64
	state                                               state
	closing                                             uint64 // 0: none; an entry that closes is never the log's first
	agent, human, session, connection, method, decision int64
	stype                                               int64
	classes, port                                       int64
	makes                                               bool
	tables                                              []int64 // sorted, each once
	figures                                             *figures
	terms                                               []string // to add to the inverted index
	words                                               []string
}

// The keys and values of the rollups.
type (
	dayTableKey struct{ day, table int64 }
	rollupKey   struct{ day, agent, human, connection, method, classes, decision int64 }
	tableKey    struct{ day, agent, classes, table int64 }
	sums        struct{ calls, errors, billed, processed, rows, bytes int64 }
)

const nanosPerDay = 24 * 60 * 60 * 1e9

// add adds what a row has come to, times n.
func (s *sums) add(r *row, n int64) {
	s.calls += n
	if r.state.failedCall() {
		s.errors += n
	}
	if f := r.figures; f != nil {
		s.billed += n * f.billed
		s.processed += n * f.processed
		s.rows += n * f.rows
		s.bytes += n * f.bytes
	}
}

// writer changes one file. It gathers changes in memory and commits them in
// one transaction; what was not committed never happened. Not safe for
// concurrent use.
type writer struct {
	part *part
	db   *sql.DB
	conn *sql.Conn
	stmt map[string]*sql.Stmt

	ids      map[fact]int64 // dict, tbl and job, as far as recently used
	idsBytes int            // what they take, about
	maxIDs   int            // what they may take; set by who opened it
	lastID   map[string]int64

	// Since the last commit:
	open   bool // a transaction is
	rows   map[uint64]*row
	names  map[string]uint64
	stages [][2]uint64
	rollup map[rollupKey]*sums
	tables map[tableKey]*sums
	days   map[dayTableKey]*sums
}

// The writer's memory of texts is bounded by what they take, bytes, each with its place
// in the map: agents choose how long their job ids are.
const (
	maxCachedIDs = 16 << 20
	cachedID     = 80
)

// openWriter opens the file for changes. A durable writer's commits are on disk
// when they return; another's may be lost by a power cut (never by the
// process's end), newest first.
func openWriter(ctx context.Context, p *part, durable bool) (*writer, error) {
	sync, cache := "synchronous(normal)", "cache_size(-65536)"
	if durable {
		sync, cache = "synchronous(full)", "cache_size(-8192)"
	}
	if p.scratch {
		sync = "synchronous(off)"
	}
	db, err := sql.Open("sqlite", dsn(p.path, "rw", sync, cache, "wal_autocheckpoint(4000)",
		"journal_size_limit(67108864)", "temp_store(memory)"))
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open index: %w", err), db.Close())
	}
	w := &writer{part: p, db: db, conn: conn, stmt: map[string]*sql.Stmt{}, ids: map[fact]int64{}, lastID: map[string]int64{}}
	w.forget()
	return w, nil
}

func (w *writer) forget() {
	w.open = false
	w.rows, w.names, w.stages = map[uint64]*row{}, map[string]uint64{}, nil
	w.rollup, w.tables, w.days = map[rollupKey]*sums{}, map[tableKey]*sums{}, map[dayTableKey]*sums{}
}

// close gives up what was not committed.
func (w *writer) close() error {
	for _, s := range w.stmt {
		_ = s.Close() // closed with its connection in any case
	}
	return errors.Join(w.conn.Close(), w.db.Close())
}

// prepared returns the statement, made once per connection.
func (w *writer) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	if s := w.stmt[query]; s != nil {
		return s, nil
	}
	s, err := w.conn.PrepareContext(ctx, query)
	if err == nil {
		w.stmt[query] = s
	}
	return s, err
}

// shortly is a context for a statement that takes no time to speak of. For each one
// whose context can end, the driver starts a goroutine that watches it; thousands a
// second lie about until they have had their turn. A context that has ended is noticed
// between statements.
func shortly(ctx context.Context) (context.Context, error) {
	return context.WithoutCancel(ctx), ctx.Err()
}

// exec runs a changing statement, in a transaction that it begins if need be.
func (w *writer) exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	ctx, err := shortly(ctx)
	if err != nil {
		return nil, err
	}
	if !w.open {
		if _, err := w.conn.ExecContext(ctx, `BEGIN IMMEDIATE`); err != nil {
			return nil, err
		}
		w.open = true
	}
	s, err := w.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	return s.ExecContext(ctx, args...)
}

func (w *writer) queryRow(ctx context.Context, query string, dst []any, args ...any) error {
	ctx, err := shortly(ctx)
	if err != nil {
		return err
	}
	s, err := w.prepared(ctx, query)
	if err != nil {
		return err
	}
	return s.QueryRowContext(ctx, args...).Scan(dst...)
}

// id returns the number of a text, making one if need be. insert takes the
// number and args, and must do nothing where they are there already.
func (w *writer) id(ctx context.Context, key fact, table, where string, args ...any) (int64, error) {
	if n, ok := w.ids[key]; ok {
		return n, nil
	}
	if w.idsBytes += cachedID + len(key.text); w.idsBytes > w.maxIDs {
		w.ids, w.idsBytes = map[fact]int64{}, cachedID+len(key.text)
	}
	last, ok := w.lastID[table]
	if !ok {
		if err := w.queryRow(ctx, `SELECT ifnull(max(id), 0) FROM `+table, []any{&last}); err != nil {
			return 0, err
		}
		w.lastID[table] = last
	}
	res, err := w.exec(ctx, `INSERT INTO `+table+` VALUES(`+strings.Repeat("?,", len(args))+`?) ON CONFLICT DO NOTHING`,
		append([]any{last + 1}, args...)...)
	if err != nil {
		return 0, err
	}
	n := last + 1
	if made, err := res.RowsAffected(); err != nil {
		return 0, err
	} else if made == 1 {
		w.lastID[table] = n
	} else if err := w.queryRow(ctx, `SELECT id FROM `+table+` WHERE `+where, []any{&n}, args...); err != nil {
		return 0, err
	}
	w.ids[key] = n
	return n, nil
}

// dict returns the number of a text of dict, 0 of the empty one.
func (w *writer) dict(ctx context.Context, letter byte, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	return w.id(ctx, fact{letter, text}, "dict", "field=? AND text=?", int64(letter), text)
}

// term spells a numbered term.
func term(letter byte, id int64) string {
	return string(strconv.AppendInt([]byte{'=', letter}, id, 36))
}

// addFacts turns facts into terms of the row.
func (w *writer) addFacts(ctx context.Context, r *row, f *facts) error {
	for _, x := range f.facts {
		id, err := w.dict(ctx, x.letter, x.text)
		if err != nil {
			return err
		}
		r.terms = append(r.terms, term(x.letter, id))
	}
	for _, j := range f.jobs {
		id, err := w.id(ctx, fact{termJob, j.name + "\x00" + j.project}, "job", "name=? AND project=?", j.name, j.project)
		if err != nil {
			return err
		}
		r.terms = append(r.terms, anyJob, term(termJob, id))
	}
	for _, t := range f.tables {
		project, dataset, name := tableParts(clip(t))
		id, err := w.id(ctx, fact{termTable, t}, "tbl", "project=? AND dataset=? AND name=?", project, dataset, name)
		if err != nil {
			return err
		}
		in, err := w.dict(ctx, termDataset, project+"\x00"+dataset)
		if err != nil {
			return err
		}
		r.terms = append(r.terms, anyTable, term(termTable, id), term(termDataset, in))
		if project != "" {
			owner, err := w.dict(ctx, termTableOwner, project)
			if err != nil {
				return err
			}
			r.terms = append(r.terms, term(termTableOwner, owner))
		}
		r.tables = append(r.tables, id)
	}
	slices.Sort(r.tables)
	r.tables = slices.Compact(r.tables)
	if f.figures != nil {
		r.figures = f.figures
		r.terms = append(r.terms, hasOutput)
	}
	if f.stype != "" {
		id, err := w.dict(ctx, termType, f.stype)
		if err != nil {
			return err
		}
		r.stype = id
	}
	r.words = append(r.words, f.words...)
	return nil
}

// insert adds a row for an entry that opens a call or stands alone.
func (w *writer) insert(ctx context.Context, f *facts) error {
	r := &row{fresh: true, seq: f.seq, time: f.time, state: f.state, classes: f.classes, port: f.port, makes: f.makes}
	r.terms = append(r.terms, everyRow)
	if r.makes {
		r.terms = append(r.terms, makesJobs)
	}
	for _, x := range []struct {
		dst    *int64
		letter byte
		text   string
	}{
		{&r.agent, termAgent, f.agent},
		{&r.human, termHuman, f.human},
		{&r.session, termSession, f.session},
		{&r.connection, termConnection, f.connection},
		{&r.method, termMethod, f.method},
		{&r.decision, termDecision, f.decision},
	} {
		id, err := w.dict(ctx, x.letter, x.text)
		if err != nil {
			return err
		}
		*x.dst = id
	}
	if err := w.addFacts(ctx, r, f); err != nil {
		return err
	}
	w.rows[r.seq] = r
	w.count(r, 1)
	return nil
}

// load returns the row at seq, or nil.
func (w *writer) load(ctx context.Context, seq uint64) (*row, error) {
	if r := w.rows[seq]; r != nil {
		return r, nil
	}
	r := &row{seq: seq}
	var tables []byte
	err := w.queryRow(ctx, selectCall, []any{
		&r.time, &r.state, &r.closing, &r.agent, &r.human, &r.session, &r.connection,
		&r.method, &r.decision, &r.stype, &r.classes, &r.port, &r.makes, &tables,
	}, seq)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r.tables = unpackIDs(tables)
	w.rows[seq] = r
	return r, nil
}

// stage joins a later entry of a call to its row. It does nothing where that
// was done before.
func (w *writer) stage(ctx context.Context, opening uint64, e *trailgate.Entry) error {
	r, err := w.load(ctx, opening)
	if err != nil || r == nil || r.closing == e.Seq {
		return err
	}
	if mayClose(e.Kind) && r.closing == 0 && (r.state == statePending || r.state == stateHeld) {
		f := closingFacts(r.state == stateHeld, e)
		w.count(r, -1)
		if err := w.addFacts(ctx, r, f); err != nil {
			return err
		}
		r.changed, r.closing, r.state = true, e.Seq, f.state
		r.makes = r.makes && !f.spoils
		w.count(r, 1)
		return nil
	}
	w.stages = append(w.stages, [2]uint64{opening, e.Seq})
	f := &facts{facts: []fact{{termKind, string(e.Kind)}}}
	f.asked(e)
	return w.addFacts(ctx, r, f)
}

// count adds a row to the rollups, or takes it out again (n = -1). What stands
// alone is not a call and does not count.
func (w *writer) count(r *row, n int64) {
	if r.state == stateRecorded {
		return
	}
	day := r.time / nanosPerDay
	addSum(w.rollup, rollupKey{day, r.agent, r.human, r.connection, r.method, r.classes, r.decision}, r, n)
	for _, t := range r.tables {
		addSum(w.tables, tableKey{day, r.agent, r.classes, t}, r, n)
		addSum(w.days, dayTableKey{day, t}, r, n)
	}
}

func addSum[K comparable](m map[K]*sums, key K, r *row, n int64) {
	if m[key] == nil {
		m[key] = &sums{}
	}
	m[key].add(r, n)
}

// commit writes what was gathered, and meta, in one transaction. After an
// error the writer is of no more use.
func (w *writer) commit(ctx context.Context, meta map[string]string) error {
	// FTS5 flushes its buffer whenever row numbers do not ascend.
	for _, seq := range slices.Sorted(maps.Keys(w.rows)) {
		if err := w.writeRow(ctx, w.rows[seq]); err != nil {
			return fmt.Errorf("write index row: %w", err)
		}
	}
	for id, seq := range w.names {
		if _, err := w.exec(ctx, `INSERT INTO name VALUES(?, ?) ON CONFLICT DO NOTHING`, nameKey(id), seq); err != nil {
			return fmt.Errorf("write index name: %w", err)
		}
	}
	for _, s := range w.stages {
		if _, err := w.exec(ctx, `INSERT INTO stage VALUES(?, ?) ON CONFLICT DO NOTHING`, s[0], s[1]); err != nil {
			return fmt.Errorf("write index stage: %w", err)
		}
	}
	if err := w.writeRollups(ctx); err != nil {
		return fmt.Errorf("write rollup: %w", err)
	}
	for k, v := range meta {
		if _, err := w.exec(ctx, `INSERT INTO meta VALUES(?, ?) ON CONFLICT DO UPDATE SET value=excluded.value`, k, v); err != nil {
			return fmt.Errorf("write index cursor: %w", err)
		}
	}
	if w.open {
		if _, err := w.conn.ExecContext(ctx, `COMMIT`); err != nil {
			return fmt.Errorf("commit index: %w", err)
		}
	}
	w.forget()
	w.part.version.Add(1)
	return nil
}

func (w *writer) writeRollups(ctx context.Context) error {
	for k, s := range w.rollup {
		if _, err := w.exec(ctx, addRollup, k.day, k.agent, k.human, k.connection, k.method, k.classes, k.decision,
			s.calls, s.errors, s.billed, s.processed, s.rows, s.bytes); err != nil {
			return err
		}
	}
	for k, s := range w.tables {
		if _, err := w.exec(ctx, addRollupTable, k.day, k.agent, k.classes, k.table,
			s.calls, s.errors, s.billed, s.processed, s.rows, s.bytes); err != nil {
			return err
		}
	}
	for k, s := range w.days {
		if _, err := w.exec(ctx, addDayTable, k.day, k.table,
			s.calls, s.errors, s.billed, s.processed, s.rows, s.bytes); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) writeRow(ctx context.Context, r *row) error {
	var fig [6]any // NULL: no outcome
	if f := r.figures; f != nil {
		fig = [6]any{f.billed, f.processed, f.rows, f.affected, f.bytes, f.duration}
	}
	var err error
	switch {
	case r.fresh:
		_, err = w.exec(ctx, insertCall, r.seq, r.time, int64(r.state), r.closing, r.agent, r.human, r.session, r.connection,
			r.method, r.decision, r.stype, r.classes, r.port, r.makes, packIDs(r.tables),
			fig[0], fig[1], fig[2], fig[3], fig[4], fig[5])
	case r.changed:
		_, err = w.exec(ctx, updateCall, r.seq, int64(r.state), r.closing, r.stype, r.makes, packIDs(r.tables),
			fig[0], fig[1], fig[2], fig[3], fig[4], fig[5])
	}
	if err != nil || len(r.terms)+len(r.words) == 0 {
		return err
	}
	// A second document under the same number adds its terms to the first's:
	// the index is contentless and keeps no sizes, and a list of rows per term
	// is all that it has. TestTermsAccumulate holds SQLite to that.
	slices.Sort(r.terms)
	terms := strings.Join(slices.Compact(r.terms), " ")
	if len(r.words) > 0 {
		terms += " " + strings.Join(r.words, " ")
	}
	_, err = w.exec(ctx, `INSERT INTO words(rowid, terms) VALUES(?, ?)`, r.seq, terms)
	return err
}

// seal makes a full file compact (one list per term, no WAL) and durable: the
// commit under synchronous=FULL puts the WAL on disk, with all that was
// committed to it before. Only then may the next file's cursor move on.
func (w *writer) seal(ctx context.Context) error {
	sync := `PRAGMA synchronous=FULL`
	if w.part.scratch {
		sync = `PRAGMA synchronous=OFF`
	}
	for _, q := range []string{
		sync,
		`INSERT INTO words(words) VALUES('optimize')`,
		`PRAGMA wal_checkpoint(TRUNCATE)`,
	} {
		if _, err := w.conn.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("seal index file: %w", err)
		}
	}
	w.part.version.Add(1)
	return nil
}

// packIDs and unpackIDs store a sorted list of numbers as varints of the
// differences.
func packIDs(ids []int64) []byte {
	var b []byte
	last := int64(0)
	for _, id := range ids {
		b = binary.AppendUvarint(b, uint64(id-last))
		last = id
	}
	return b
}

func unpackIDs(b []byte) []int64 {
	var ids []int64
	last := int64(0)
	for len(b) > 0 {
		d, n := binary.Uvarint(b)
		if n <= 0 {
			return ids
		}
		last += int64(d)
		ids = append(ids, last)
		b = b[n:]
	}
	return ids
}
