package index_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/index/indextest"
)

// check compares the index in dir with l.
func check(t testing.TB, dir string, l *indextest.Log) *index.CheckReport {
	t.Helper()
	r, err := index.Check(t.Context(), dir, func(context.Context) (index.Source, error) { return l, nil }, index.CheckOptions{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// grown is an index of several files, and the log that it is of.
func grown(t testing.TB, n uint64) (dir string, files []string, l *indextest.Log) {
	t.Helper()
	l, _ = memory(n)
	dir = t.TempDir()
	x, err := index.Open(t.Context(), dir, l, index.Options{FileEntries: n/2 + n/4})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.CatchUp(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	files = x.Files()
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, files, l
}

func TestCheckHonest(t *testing.T) {
	dir, files, l := grown(t, 1000)
	before := indexFiles(t, dir)
	r := check(t, dir, l)
	if r.Bad != nil || r.Absent || r.Entries != 1000 || r.Behind != 0 || r.Files != 2 || r.Rows < 1000 || r.Terms < 5000 {
		t.Errorf("%+v %+v", r, r.Bad)
	}
	if after := indexFiles(t, dir); !slices.Equal(before, after) {
		t.Errorf("there were\n%v\nand now are\n%v", before, after)
	}
	// One that merely lags behind.
	gen := indextest.New(1)
	for seq := range uint64(1100) {
		if seq >= 1000 {
			l.AppendRaw(gen.Raw(seq))
		} else {
			gen.Raw(seq)
		}
	}
	if r := check(t, dir, l); r.Bad != nil || r.Behind != 100 {
		t.Errorf("behind: %+v %+v", r, r.Bad)
	}
	// None, and one of another format.
	if r := check(t, t.TempDir(), l); !r.Absent || r.Bad != nil {
		t.Errorf("none: %+v", r)
	}
	exec(t, files[1], `UPDATE meta SET value = '1' WHERE key = 'format'`)
	if r := check(t, dir, l); !r.Absent || r.Bad != nil {
		t.Errorf("another format: %+v", r)
	}
}

func indexFiles(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		list = append(list, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestCheckForged edits an index in each way that would falsify a search or a sum.
func TestCheckForged(t *testing.T) {
	base, files, l := grown(t, 400)
	generation := filepath.Base(filepath.Dir(files[0]))
	for _, tt := range []struct{ name, sql, want string }{
		{"a row hidden", `DELETE FROM call WHERE seq = (SELECT min(seq) FROM call WHERE state = 1)`, "call: seq"},
		{"a row invented", `INSERT INTO call SELECT 299, time, state, closing, agent, human, session, connection, method, decision,
			statement_type, classes, port, makes, tables, billed, processed, rows, affected, bytes, duration FROM call WHERE seq = 0`, "call: seq 299"},
		{"two rows swapped", `UPDATE call SET seq = -seq WHERE seq IN (SELECT min(seq) FROM call WHERE agent > 0 AND seq > 0 UNION SELECT max(seq) FROM call WHERE agent > 0);
			UPDATE call SET seq = seq - (SELECT sum(seq) FROM call WHERE seq < 0) WHERE seq < 0`, "call: seq"},
		{"who did it", `UPDATE call SET agent = agent % 3 + 1 WHERE seq = (SELECT min(seq) FROM call WHERE agent > 0)`, "agent is"},
		{"what it cost", `UPDATE call SET billed = billed + 1 WHERE seq = (SELECT min(seq) FROM call WHERE billed IS NOT NULL)`, "billed is"},
		{"how it ended", `UPDATE call SET state = 1 WHERE seq = (SELECT min(seq) FROM call WHERE state = 2)`, "state is 1, the log's entries make it 2"},
		{"another's outcome", `UPDATE call SET closing = closing + 1 WHERE seq = (SELECT min(seq) FROM call WHERE closing > 0)`, "closing is"},
		{"when", `UPDATE call SET time = time + 1 WHERE seq = 5`, "time is"},
		{"a name changed", `UPDATE dict SET text = 'someone-else' WHERE text = 'etl-bot'`, "dict: id"},
		{"a table renamed", `UPDATE tbl SET name = 'harmless' WHERE id = 1`, "tbl: id 1"},
		{"a job renamed", `UPDATE job SET name = 'harmless' WHERE id = 1`, "job: id 1"},
		{"an id lost", `DELETE FROM name WHERE seq = 7`, "name: id"},
		{"an id of another", `UPDATE name SET seq = 8 WHERE seq = 7`, "seq is 8, the log's entries make it 7"},
		{"a sum", `UPDATE rollup SET calls = calls + 1 WHERE day = (SELECT min(day) FROM rollup)`, "rollup: day"},
		{"a sum gone", `DELETE FROM rollup_table WHERE tbl = 1`, "rollup_table: day"},
		{"a sum by day", `UPDATE rollup_day_table SET billed = 0, rows = 1 WHERE tbl = 1`, "rollup_day_table: day"},
		{"a stage invented", `INSERT INTO stage VALUES(1, 2)`, "stage: opening 1"},
		{"a term added", `INSERT INTO words(rowid, terms) VALUES(3, 'drop')`, `words: term "drop" of entry 3`},
		{"a row not found by its terms", `INSERT INTO words(words) VALUES('delete-all')`, "missing from the inverted index"},
		{"a trigger", `CREATE TRIGGER quiet AFTER INSERT ON call BEGIN DELETE FROM call WHERE seq = new.seq AND agent = 1; END`, "sqlite_master"},
		{"an index gone", `DROP INDEX pending`, "sqlite_master"},
		{"restarts forgotten", `UPDATE meta SET value = '399' WHERE key = 'started'`, "meta"},
		{"a cursor moved on", `UPDATE meta SET value = '9999' WHERE key = 'cursor'`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, generation, filepath.Base(files[0]))
			exec(t, path, tt.sql)
			r := check(t, dir, l)
			if r.Bad == nil {
				t.Fatal("not found")
			}
			if got := r.Bad.Table + ": " + r.Bad.Row + ": " + r.Bad.Reason; !strings.Contains(got, tt.want) || r.Bad.File != path {
				t.Errorf("%s: %s; want %q", r.Bad.File, got, tt.want)
			} else {
				t.Log(got)
			}
		})
	}
	t.Run("bytes", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, generation, filepath.Base(files[1]))
		if err := os.Truncate(path, 8192); err != nil {
			t.Fatal(err)
		}
		if r := check(t, dir, l); r.Bad == nil || r.Bad.File != path || !strings.Contains(r.Bad.Reason, "cannot be read") {
			t.Errorf("%+v", r.Bad)
		}
	})
	t.Run("the log was cut", func(t *testing.T) {
		short, _ := memory(300)
		if r := check(t, base, short); r.Bad == nil || r.Bad.Seq != 300 || !strings.Contains(r.Bad.Reason, "the log was cut") {
			t.Errorf("%+v", r.Bad)
		}
	})
	t.Run("another log", func(t *testing.T) {
		other, gen := &indextest.Log{}, indextest.New(2)
		for seq := range uint64(400) {
			other.AppendRaw(gen.Raw(seq))
		}
		if r := check(t, base, other); r.Bad == nil {
			t.Error("not found")
		}
	})
}

// TestCheckWhileItGrows compares an index that follows its log meanwhile, with
// closings that go to older files.
func TestCheckWhileItGrows(t *testing.T) {
	const n = 3000
	gen, l := indextest.New(3), &indextest.Log{}
	for seq := range uint64(500) {
		l.AppendRaw(gen.Raw(seq))
	}
	dir := t.TempDir()
	x, err := index.Open(t.Context(), dir, l, index.Options{FileEntries: 64, Linger: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = x.Run(ctx) })
	if err := x.Wait(t.Context(), 499); err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		for seq := uint64(500); seq < n && ctx.Err() == nil; seq++ {
			l.AppendRaw(gen.Raw(seq))
		}
	})
	for range 2 {
		if r := check(t, dir, l); r.Bad != nil || r.Entries < 500 {
			t.Errorf("%+v %+v", r, r.Bad)
		}
	}
	if err := x.Wait(t.Context(), n-1); err != nil {
		t.Fatal(err)
	}
	cancel()
	wg.Wait()
	if r := check(t, dir, l); r.Bad != nil || r.Entries != n {
		t.Errorf("%+v %+v", r, r.Bad)
	}
}

// TestFormat: an index that an earlier program made is compared with what this one
// makes. Where they would differ the format needs another number: an index of
// another format is made anew, one of this format that differs looks forged.
func TestFormat(t *testing.T) {
	l := &indextest.Log{}
	for seq := range uint64(3) {
		if err := l.Append(formatEntry(seq)); err != nil {
			t.Fatal(err)
		}
	}
	x, err := index.Open(t.Context(), t.TempDir(), l, index.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := x.CatchUp(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	got, err := index.Digest(t.Context(), x.Files()[0])
	if err != nil {
		t.Fatal(err)
	}
	if want := "format 4, d9032f9c3817b3ba"; got != want {
		t.Errorf("the index of the same log is now %q, was %q: give schema.go's format another number, and then this test", got, want)
	}
}

// formatEntry is an intent with all that the index looks at, its outcome, and an
// entry that stands alone.
func formatEntry(seq uint64) *trailgate.Entry {
	e := &trailgate.Entry{
		Seq: seq, Time: noon.Add(time.Duration(seq) * time.Second), ID: fmt.Sprintf("01jd3m%020d", seq), Gateway: trailgate.Gateway{ID: "gw", Version: "v1"},
		Tables:        &trailgate.Tables{Read: []string{"p.staging.orders"}, Written: []string{"p.crm.users", "imports"}},
		Job:           &trailgate.Job{Project: "p", ID: "j1", Children: []string{"j2"}},
		StatementType: &trailgate.StatementType{Local: "SELECT", DryRun: "SELECT", Final: "SCRIPT"},
		Decision:      &trailgate.Decision{Effect: "allow", Rule: "reads", ApprovalID: "apr_1", Approvers: []string{"ada@example.com"}},
		Upstream:      &trailgate.Upstream{Mode: "static", Principal: "sa@p.iam.gserviceaccount.com"},
		Flags:         []string{"foreign_job"},
	}
	switch seq {
	case 0:
		e.Kind = trailgate.KindIntent
		e.Principal = &trailgate.Principal{Agent: "a-bot", TokenID: "tok_1", Issuer: "https://idp", Subject: "s", Human: "ada@example.com", AuthMode: "oidc_jwt"}
		e.Claims = &trailgate.Claims{UserAgent: "bq/2", Human: "bob"}
		e.Session, e.Client, e.Connection, e.Project, e.Location = "ses_1", "10.0.0.1:1001", "prod", "p", "EU"
		e.Method, e.Class, e.Classes = "bigquery.jobs.insert", trailgate.ClassWrite, []trailgate.Class{trailgate.ClassRead, trailgate.ClassWrite}
		e.Statements = []trailgate.Statement{{Where: "query", Text: "SELECT order_id FROM staging.orders -- Größe"}}
	case 1:
		e.Kind, e.IntentID = trailgate.KindOutcome, fmt.Sprintf("01jd3m%020d", 0)
		e.Outcome = &trailgate.Outcome{Status: 404, ErrorReason: "notFound", Bytes: 5, Rows: 7, RowsAffected: 3, BytesProcessed: 1 << 20, BytesBilled: 10 << 20, DurationNanos: 12345}
	case 2:
		e.Kind, e.Event = trailgate.KindGateway, &trailgate.Event{Action: "serve.start"}
	}
	return e
}
