package sandbox

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"

	"modernc.org/sqlite"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// engine is the SQLite database that has all rows, in memory. One statement
// runs at a time: whoever runs one, or changes the catalog, holds the engine.
type engine struct {
	pool   *sql.DB
	conn   *sql.Conn // that all statements use
	anchor *sql.Conn // keeps the database while the other is renewed
	free   chan struct{}
}

// databases numbers the databases of a process, since SQLite knows those in
// memory by name.
var databases atomic.Int64

// connector opens connections of one driver of our own, so that the functions
// of GoogleSQL reach no other SQLite of the process.
type connector struct {
	drv *sqlite.Driver
	dsn string
}

func (c connector) Connect(context.Context) (driver.Conn, error) { return c.drv.Open(c.dsn) }
func (c connector) Driver() driver.Driver                        { return c.drv }

func openEngine() (*engine, error) {
	drv := &sqlite.Driver{}
	if err := registerFunctions(drv); err != nil {
		return nil, err
	}
	dsn := fmt.Sprintf("file:/sandbox-%d?vfs=memdb&_dqs=0&_pragma=case_sensitive_like(1)&_pragma=journal_mode(MEMORY)&_pragma=synchronous(OFF)&_pragma=temp_store(MEMORY)", databases.Add(1))
	e := &engine{pool: sql.OpenDB(connector{drv, dsn}), free: make(chan struct{}, 1)}
	var err error
	if e.anchor, err = e.pool.Conn(context.Background()); err == nil {
		e.conn, err = e.pool.Conn(context.Background())
	}
	if err != nil {
		e.pool.Close()
		return nil, err
	}
	e.free <- struct{}{}
	return e, nil
}

func (e *engine) close() error {
	err := errors.Join(e.conn.Close(), e.anchor.Close(), e.pool.Close())
	if errors.Is(err, sql.ErrConnDone) {
		return nil
	}
	return err
}

// hold waits for the engine, and gives the function that gives it back.
func (e *engine) hold(ctx context.Context) (release func(), err error) {
	select {
	case <-e.free:
		return func() { e.free <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, fail("backendError", "The request ended while it waited for other statements")
	}
}

// ready gives the connection, renewed where an interrupted transaction lost it.
func (e *engine) ready(ctx context.Context) (*sql.Conn, error) {
	if err := e.conn.PingContext(ctx); errors.Is(err, sql.ErrConnDone) || errors.Is(err, driver.ErrBadConn) {
		fresh, err := e.pool.Conn(ctx)
		if err != nil {
			return nil, fmt.Errorf("open SQLite anew: %w", err)
		}
		e.conn = fresh
	}
	return e.conn, nil
}

// exec runs a statement of the sandbox's own; the caller holds the engine.
func (e *engine) exec(ctx context.Context, text string, args ...any) error {
	conn, err := e.ready(ctx)
	if err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, text, args...); err != nil {
		return sqlError(ctx, err, nil)
	}
	return nil
}

// change runs an agent's DML and tells how many rows it changed. It has all of
// its effect or none.
func (e *engine) change(ctx context.Context, text string, args []any, tables []*table) (int64, error) {
	conn, err := e.ready(ctx)
	if err != nil {
		return 0, err
	}
	r, err := conn.ExecContext(ctx, text, args...)
	if err != nil {
		return 0, sqlError(ctx, err, tables)
	}
	n, err := r.RowsAffected()
	return n, err
}

// storageTypes are the declared types in SQLite. They carry BigQuery's type
// through queries (as the "declared type" of a result column), and choose the
// affinity: a name with TEXT in it keeps SQLite from turning text into numbers.
var storageTypes = map[string]string{
	"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "STRING": "STRING_TEXT", "BYTES": "BYTES_BLOB", "TIMESTAMP": "TIMESTAMP_TEXT",
	"DATE": "DATE_TEXT", "DATETIME": "DATETIME_TEXT", "TIME": "TIME_TEXT", "NUMERIC": "NUMERIC", "BIGNUMERIC": "BIGNUMERIC", "JSON": "JSON_TEXT", "GEOGRAPHY": "GEOGRAPHY_TEXT",
}

// declared maps them back.
var declared = func() map[string]string {
	m := map[string]string{}
	for rest, storage := range storageTypes {
		m[storage] = rest
	}
	return m
}()

// quote writes an identifier for SQLite.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// columnDefinition declares a column, with what BigQuery would refuse to store
// in it as a constraint; the constraint's name becomes part of the message.
func columnDefinition(c googlesql.Column) string {
	name := quote(c.Name)
	if c.Mode == "REPEATED" || c.Type == "RECORD" {
		return name + " NESTED_TEXT"
	}
	def := name + " " + storageTypes[c.Type]
	check := ""
	switch c.Type {
	case "INTEGER":
		check = "typeof(" + name + ") IN ('integer', 'null')"
	case "FLOAT", "NUMERIC", "BIGNUMERIC":
		check = "typeof(" + name + ") IN ('real', 'integer', 'null')"
	case "BOOLEAN":
		check = name + " IN (0, 1)"
	case "BYTES":
		check = "typeof(" + name + ") IN ('blob', 'null')"
	case "TIMESTAMP", "DATE", "DATETIME", "TIME":
		check = "bq_is_time(" + quoteText(c.Type) + ", " + name + ")"
	}
	if check != "" {
		def += " CONSTRAINT " + quote("column "+c.Name+" of type "+sqlType(c.Type)) + " CHECK (" + check + ")"
	}
	if c.Mode == "REQUIRED" {
		def += " NOT NULL"
	}
	return def
}

func quoteText(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// createStorage makes the table in SQLite; the caller holds the engine.
func (e *engine) createStorage(ctx context.Context, t *table) error {
	defs := make([]string, 0, len(t.columns)+1)
	for _, c := range t.columns {
		defs = append(defs, columnDefinition(c))
	}
	if len(defs) == 0 {
		defs = append(defs, `"sandbox no columns"`) // SQLite wants one, BigQuery doesn't
	}
	if err := e.exec(ctx, "CREATE TABLE "+quote(t.storage)+" ("+strings.Join(defs, ", ")+")"); err != nil {
		return err
	}
	for _, c := range t.columns {
		if err := e.createTrigger(ctx, t, c); err != nil {
			return err
		}
	}
	return nil
}

// createTrigger brings times that a statement wrote in another spelling to the
// one in which they are kept, so that they compare and sort.
func (e *engine) createTrigger(ctx context.Context, t *table, c googlesql.Column) error {
	switch c.Type {
	case "TIMESTAMP", "DATE", "DATETIME", "TIME":
	default:
		return nil
	}
	if c.Mode == "REPEATED" {
		return nil
	}
	canonical := "bq_canonical(" + quoteText(c.Type) + ", NEW." + quote(c.Name) + ")"
	for _, event := range []string{"INSERT", "UPDATE OF " + quote(c.Name)} {
		err := e.exec(ctx, "CREATE TRIGGER "+quote(t.storage+" "+event[:6]+" "+c.Name)+" AFTER "+event+" ON "+quote(t.storage)+
			" WHEN NEW."+quote(c.Name)+" IS NOT "+canonical+" BEGIN UPDATE "+quote(t.storage)+" SET "+quote(c.Name)+" = "+canonical+" WHERE rowid = NEW.rowid; END")
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *engine) addColumn(ctx context.Context, t *table, c googlesql.Column) error {
	if err := e.exec(ctx, "ALTER TABLE "+quote(t.storage)+" ADD COLUMN "+columnDefinition(c)); err != nil {
		return err
	}
	return e.createTrigger(ctx, t, c)
}

// insert adds rows, all or none; the caller holds the engine. It gives their
// size.
func (e *engine) insert(ctx context.Context, t *table, cols []googlesql.Column, rows [][]any) (bytes int64, err error) {
	if len(rows) == 0 {
		return 0, nil
	}
	conn, err := e.ready(ctx)
	if err != nil {
		return 0, err
	}
	if len(cols) == 0 {
		return 0, fail("invalid", "The table %s has no columns", tableID(t.name))
	}
	names, marks := make([]string, len(cols)), make([]string, len(cols))
	for i, c := range cols {
		names[i], marks[i] = quote(c.Name), "?"
	}
	// A savepoint nests in a script's transaction, where there is one.
	if _, err := conn.ExecContext(ctx, `SAVEPOINT "sandbox insert"`); err != nil {
		return 0, sqlError(ctx, err, nil)
	}
	defer func() {
		undo := context.WithoutCancel(ctx)
		if err != nil {
			_, rerr := conn.ExecContext(undo, `ROLLBACK TO "sandbox insert"`)
			err = errors.Join(err, rerr)
		}
		_, rerr := conn.ExecContext(undo, `RELEASE "sandbox insert"`)
		if rerr != nil && err == nil {
			err = rerr
		}
	}()
	stmt, err := conn.PrepareContext(ctx, "INSERT INTO "+quote(t.storage)+" ("+strings.Join(names, ", ")+") VALUES ("+strings.Join(marks, ", ")+")")
	if err != nil {
		return 0, sqlError(ctx, err, nil)
	}
	defer stmt.Close()
	for _, row := range rows {
		if _, err := stmt.ExecContext(ctx, row...); err != nil {
			return 0, sqlError(ctx, err, []*table{t})
		}
		for _, v := range row {
			bytes += sizeOf(v)
		}
	}
	return bytes, nil
}

// SQLite's messages that have a counterpart in BigQuery.
var (
	noColumn   = regexp.MustCompile(`no such column: "?([^"]+?)"?(?: - should this be a string literal in single-quotes\?)?(?: \(\d+\))?$`)
	noFunction = regexp.MustCompile(`(?:no such function|wrong number of arguments to function):? (\w+)`)
	nearToken  = regexp.MustCompile(`near "(.*)": syntax error`)
	checkFail  = regexp.MustCompile(`CHECK constraint failed: column (.*) of type (\w+)`)
	notNull    = regexp.MustCompile(`NOT NULL constraint failed: (\w+)\.(.*?)(?: \(\d+\))?$`)
	ambiguous  = regexp.MustCompile(`ambiguous column name: ([^ ]+)`)
	ownError   = regexp.MustCompile(`sandbox: (.*?)(?: \(\d+\))?$`)
)

// sqlError says in BigQuery's words what SQLite complains of.
func sqlError(ctx context.Context, err error, tables []*table) error {
	if ctx.Err() != nil {
		return fail("stopped", "Job execution was cancelled: User requested cancellation")
	}
	var ae *apiError
	if errors.As(err, &ae) {
		return err
	}
	msg := err.Error()
	invalid := func(format string, args ...any) error {
		e := fail("invalidQuery", format, args...)
		e.location, e.locationType = "q", "parameter"
		return e
	}
	switch {
	case noColumn.MatchString(msg):
		name := strings.ReplaceAll(noColumn.FindStringSubmatch(msg)[1], `"`, "")
		for part := range strings.SplitSeq(name, ".") {
			for _, t := range tables {
				if c, ok := column(t.columns, part); ok && c.Type == "RECORD" {
					return unsupported("the fields of a RECORD in queries: %s", name)
				}
			}
		}
		return invalid("Unrecognized name: %s", name)
	case checkFail.MatchString(msg):
		m := checkFail.FindStringSubmatch(msg)
		return invalid("Query column has a value which cannot be inserted into column %s, which has type %s", m[1], m[2])
	case notNull.MatchString(msg):
		return fail("invalid", "Required field %s cannot be null", notNull.FindStringSubmatch(msg)[2])
	case ambiguous.MatchString(msg):
		return invalid("Column name %s is ambiguous", ambiguous.FindStringSubmatch(msg)[1])
	case ownError.MatchString(msg):
		return invalid("%s", ownError.FindStringSubmatch(msg)[1])
	case noFunction.MatchString(msg):
		return invalid("No matching signature for function %s", strings.ToUpper(strings.TrimPrefix(noFunction.FindStringSubmatch(msg)[1], "bq_")))
	case nearToken.MatchString(msg):
		return invalid("Syntax error: Unexpected %q", nearToken.FindStringSubmatch(msg)[1])
	case strings.Contains(msg, "incomplete input"):
		return invalid("Syntax error: Unexpected end of script")
	}
	for _, t := range tables {
		msg = strings.ReplaceAll(msg, t.storage, tableID(t.name))
	}
	return invalid("%s", strings.TrimPrefix(msg, "SQL logic error: "))
}
