package index_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/index/indextest"
	_ "modernc.org/sqlite"
)

// exec changes a file behind the index's back.
func exec(t *testing.T, path, query string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatal(err)
	}
}

// TestPlan checks that filters are answered by an index of the database and
// not by looking at every row.
func TestPlan(t *testing.T) {
	x, gen := small(t, 1000, index.Options{})
	e := gen.Entry(0)
	const (
		terms   = "words MATCH ?"
		pending = "INDEXED BY pending"
		bounds  = "FROM call c WHERE c.seq BETWEEN ? AND ?" // and nothing else
	)
	for filter, want := range map[string]string{
		``:                                     bounds,
		`agent = etl-bot`:                      terms,
		`agent = etl-bot AND statement:delete`: terms,
		`agent : *-bot`:                        terms,
		`NOT agent = etl-bot`:                  terms,
		`human : *`:                            terms,
		`table : staging.*`:                    terms,
		`table = imports`:                      terms,
		`class = write OR class = export`:      terms,
		`state = done`:                         terms,
		`state = open`:                         pending,
		`state = open AND agent = etl-bot`:     pending,
		`state = indeterminate AND text:x`:     pending,
		`status >= 400`:                        terms,
		`bytes_billed > 1GB`:                   terms,
		`rows >= 1024`:                         terms,
		`duration_ms > 5s AND class=read`:      terms,
		`time >= 2026-03-02T00:05:00Z`:         bounds,
		`seq < 100`:                            bounds,
		`id = ` + e.ID:                         bounds,
		`session = ` + e.Session:               terms,
		`client = 10.0.0.1:30001`:              terms,
		`agent = nobody AND text : select`:     "",
		`job : bqjob_r*`:                       terms,
		`kind = denied`:                        terms,
		`agent = etl-bot OR rows > 10`:         terms,
	} {
		plans, err := x.Planned(t.Context(), filter)
		if err != nil {
			t.Errorf("%s: %v", filter, err)
			continue
		}
		plan := plans[0]
		ok := strings.Contains(plan, want) && (want != "" || plan == "")
		if want == bounds {
			ok = strings.TrimSpace(plan) == bounds
		}
		if !ok {
			t.Errorf("%s: %s", filter, plan)
		}
	}
}

// TestRollupUsed checks which sums need not visit rows.
func TestRollupUsed(t *testing.T) {
	x, _ := small(t, 300, index.Options{})
	for _, c := range []struct {
		by     string
		filter string
		want   bool
	}{
		{"agent", "", true},
		{"agent day class", `time >= 2026-03-02 AND agent : "*-bot"`, true},
		{"table", "", true},
		{"table day", "time < 2026-03-03", true},
		{"table agent", "class = write", true},
		{"method connection human decision", `NOT (class = read OR method = "bigquery.jobs.*")`, true},
		{"table", "human = x", false},
		{"table", "table = x", false},
		{"agent", "table = x", false},
		{"agent", "text : x", false},
		{"agent", "time >= 2026-03-02T01:00:00Z", false},
		{"session", "", false},
		{"hour", "", false},
		{"agent", "rows > 5", false},
	} {
		got, err := x.RollupUsed(t.Context(), strings.Fields(c.by), c.filter)
		if err != nil || got != c.want {
			t.Errorf("by %s, %s: %t %v", c.by, c.filter, got, err)
		}
	}
	for _, by := range [][]string{{"agnt"}, {"agent", "agent"}, {""}} {
		_, err := x.Stats(t.Context(), by, "")
		if fe, ok := errors.AsType[*index.FilterError](err); !ok {
			t.Errorf("%v: %v", by, err)
		} else if by[0] == "agnt" && !strings.Contains(fe.Message, `did you mean "agent"`) {
			t.Error(fe)
		}
	}
}

// TestStatsCache checks that sums follow the log although they are remembered.
func TestStatsCache(t *testing.T) {
	l := newTrail(t)
	x := l.open(t.TempDir(), index.Options{FileEntries: 4})
	var first string
	for i := range 12 {
		id := l.intent("a", "m")
		if i == 0 {
			first = id
		}
		catchUp(t, x)
		groups, err := x.Stats(t.Context(), []string{"agent"}, "")
		if err != nil || len(groups) != 1 || groups[0].Calls != int64(i+1) {
			t.Fatalf("%d calls: %v %v", i+1, groups, err)
		}
	}
	// A late outcome changes a file that was full long ago.
	l.add(trailgate.Entry{Kind: trailgate.KindOutcome, IntentID: first, Outcome: &trailgate.Outcome{Status: 500, BytesBilled: 7}})
	catchUp(t, x)
	want := []index.Group{{Keys: map[string]string{"agent": "a"}, Calls: 12, Errors: 1, BytesBilled: 7}}
	if groups, err := x.Stats(t.Context(), []string{"agent"}, ""); err != nil || !cmp.Equal(groups, want) {
		t.Errorf("%v %v", groups, err)
	}
}

// TestTermsAccumulate holds SQLite to what the index builds on and its
// documentation does not promise: in a contentless FTS5 table without sizes
// and positions, a second document under the same number adds its terms, also
// after merging.
func TestTermsAccumulate(t *testing.T) {
	db, err := sql.Open("sqlite", "file::memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	do := func(query string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	do(`CREATE VIRTUAL TABLE words USING fts5(terms, content='', columnsize=0, detail=none, tokenize="ascii tokenchars '_='")`)
	const n = 5000
	for _, step := range []int{1, 7, 11, 7} { // the last writes the same again
		do(`BEGIN`)
		for i := 0; i < n; i += step {
			do(`INSERT INTO words(rowid, terms) VALUES(?, ?)`, i, fmt.Sprintf("=s%d =all w%d", step, i%3))
		}
		do(`COMMIT`)
	}
	count := func(match string) (got int) {
		t.Helper()
		if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM words WHERE words MATCH ?`, match).Scan(&got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	check := func() {
		t.Helper()
		for match, want := range map[string]int{
			`"=all"`: n, `"=s1"`: n, `"=s7"`: 715, `"=s7" AND "=s11"`: 65, `"=s7" NOT "=s11"`: 650,
			`"=s7" OR "=s11"`: 715 + 455 - 65, `"=s1" AND "=s7" AND "w0"`: 239,
		} {
			if got := count(match); got != want {
				t.Errorf("%s: %d, want %d", match, got, want)
			}
		}
	}
	check()
	do(`INSERT INTO words(words) VALUES('optimize')`)
	check()
	do(`INSERT INTO words(words) VALUES('integrity-check')`)
}

// TestConcurrent searches, sums and looks up while the log grows over several
// files and the index is rebuilt.
func TestConcurrent(t *testing.T) {
	gen, l := indextest.New(5), &indextest.Log{}
	l.AppendRaw(gen.Raw(0))
	x, err := index.Open(t.Context(), t.TempDir(), l, index.Options{FileEntries: 300, Linger: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	catchUp(t, x)
	const n = 2000
	var wg sync.WaitGroup
	wg.Go(func() {
		for seq := uint64(1); seq < n; seq++ {
			l.AppendRaw(gen.Raw(seq))
			if seq%50 == 0 {
				if err := x.CatchUp(t.Context(), nil); err != nil {
					t.Error(err)
				}
			}
		}
	})
	wg.Go(func() {
		for range 3 {
			if err := x.Rebuild(t.Context(), nil); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range 3 {
		wg.Go(func() {
			for x.Cursor() < n-100 {
				seen := ^uint64(0)
				q := index.Query{Filter: []string{"", "class = read", "state = done OR rows > 5"}[i], PageSize: 20}
				for range 5 {
					rows, next, err := x.Search(t.Context(), q)
					if err != nil {
						t.Error(err)
						return
					}
					for _, r := range rows {
						if r.Entry.Seq >= seen {
							t.Errorf("row %d after row %d", r.Entry.Seq, seen)
							return
						}
						seen = r.Entry.Seq
					}
					if q.PageToken = next; next == "" {
						break
					}
				}
				if _, err := x.Stats(t.Context(), []string{"agent", "table"}, ""); err != nil {
					t.Error(err)
					return
				}
				if _, err := x.Lookup(t.Context(), gen.Entry(0).ID); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
