package index

import "strings"

// format is the version of everything below. A file of another format is
// rebuilt; there are no migrations.
const format = "4"

// schema makes one file. Texts stand in dict, tbl and job once; call has
// their ids, 0 for "none".
//
// words has no stored text and no positions: a document is a set of terms
// (see term.go). The column's tokenizer splits at spaces, in effect, since
// everything it is given is made of word characters, '_' and '='.
const schema = `
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE dict(id INTEGER PRIMARY KEY, field INTEGER NOT NULL, text TEXT NOT NULL);
CREATE UNIQUE INDEX dict_text ON dict(field, text);
CREATE TABLE tbl(id INTEGER PRIMARY KEY, project TEXT NOT NULL, dataset TEXT NOT NULL, name TEXT NOT NULL);
CREATE UNIQUE INDEX tbl_name ON tbl(dataset, name, project);
CREATE TABLE job(id INTEGER PRIMARY KEY, name TEXT NOT NULL, project TEXT NOT NULL);
CREATE UNIQUE INDEX job_name ON job(name, project);
CREATE TABLE call(
  seq INTEGER PRIMARY KEY, time INTEGER NOT NULL, state INTEGER NOT NULL, closing INTEGER NOT NULL,
  agent INTEGER NOT NULL, human INTEGER NOT NULL, session INTEGER NOT NULL, connection INTEGER NOT NULL,
  method INTEGER NOT NULL, decision INTEGER NOT NULL, statement_type INTEGER NOT NULL,
  classes INTEGER NOT NULL, port INTEGER NOT NULL, makes INTEGER NOT NULL, tables BLOB,
  billed INTEGER, processed INTEGER, rows INTEGER, affected INTEGER, bytes INTEGER, duration INTEGER);
CREATE INDEX pending ON call(seq) WHERE state = 0;
CREATE TABLE name(id BLOB PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE stage(opening INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY(opening, seq)) WITHOUT ROWID;
CREATE TABLE rollup(
  day INTEGER NOT NULL, agent INTEGER NOT NULL, human INTEGER NOT NULL, connection INTEGER NOT NULL,
  method INTEGER NOT NULL, classes INTEGER NOT NULL, decision INTEGER NOT NULL,
  calls INTEGER NOT NULL, errors INTEGER NOT NULL, billed INTEGER NOT NULL, processed INTEGER NOT NULL,
  rows INTEGER NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY(day, agent, human, connection, method, classes, decision)) WITHOUT ROWID;
CREATE TABLE rollup_table(
  day INTEGER NOT NULL, agent INTEGER NOT NULL, classes INTEGER NOT NULL, tbl INTEGER NOT NULL,
  calls INTEGER NOT NULL, errors INTEGER NOT NULL, billed INTEGER NOT NULL, processed INTEGER NOT NULL,
  rows INTEGER NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY(day, agent, classes, tbl)) WITHOUT ROWID;
CREATE TABLE rollup_day_table(
  day INTEGER NOT NULL, tbl INTEGER NOT NULL,
  calls INTEGER NOT NULL, errors INTEGER NOT NULL, billed INTEGER NOT NULL, processed INTEGER NOT NULL,
  rows INTEGER NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY(day, tbl)) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(terms, content='', columnsize=0, detail=none, tokenize="ascii tokenchars '_='");
INSERT INTO words(words, rank) VALUES('hashsize', 16777216);
INSERT INTO words(words, rank) VALUES('automerge', 8);
`

const (
	insertCall = `INSERT INTO call(seq, time, state, closing, agent, human, session, connection, method, decision,
statement_type, classes, port, makes, tables, billed, processed, rows, affected, bytes, duration)
VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`
	updateCall = `UPDATE call SET state=?2, closing=?3, statement_type=?4, makes=?5, tables=?6,
billed=?7, processed=?8, rows=?9, affected=?10, bytes=?11, duration=?12 WHERE seq=?1`
	selectCall = `SELECT time, state, closing, agent, human, session, connection, method, decision,
statement_type, classes, port, makes, tables FROM call WHERE seq = ?`
	addSums = ` ON CONFLICT DO UPDATE SET calls=calls+excluded.calls, errors=errors+excluded.errors,
billed=billed+excluded.billed, processed=processed+excluded.processed, rows=rows+excluded.rows, bytes=bytes+excluded.bytes`
	addRollup      = `INSERT INTO rollup VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)` + addSums
	addRollupTable = `INSERT INTO rollup_table VALUES(?,?,?,?,?,?,?,?,?,?)` + addSums
	addDayTable    = `INSERT INTO rollup_day_table VALUES(?,?,?,?,?,?,?,?)` + addSums
)

// tableParts splits "project.dataset.table"; parts are missing from the left.
// A project may hold dots ("example.com:project").
func tableParts(s string) (project, dataset, name string) {
	head, name, ok := cutLast(s)
	if !ok {
		return "", "", s
	}
	project, dataset, ok = cutLast(head)
	if !ok {
		return "", head, name
	}
	return project, dataset, name
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// joinTable undoes tableParts.
func joinTable(project, dataset, name string) string {
	switch {
	case project != "":
		return project + "." + dataset + "." + name
	case dataset != "":
		return dataset + "." + name
	default:
		return name
	}
}
