package index_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/index/indextest"
)

// trail makes entries with ids and times of their own.
type trail struct {
	*indextest.Log
	t *testing.T
	n int
}

func newTrail(t *testing.T) *trail { return &trail{Log: &indextest.Log{}, t: t} }

// add appends an entry and returns its id.
func (l *trail) add(e trailgate.Entry) string {
	l.t.Helper()
	l.n++
	e.ID = fmt.Sprintf("01jd3m%020d", l.n)
	e.Time = noon.Add(time.Duration(l.n) * time.Second)
	e.Gateway = trailgate.Gateway{ID: "gw", Version: "v1"}
	if err := l.Append(&e); err != nil {
		l.t.Fatal(err)
	}
	return e.ID
}

func (l *trail) intent(agent, method string) string {
	l.t.Helper()
	return l.add(trailgate.Entry{Kind: trailgate.KindIntent, Principal: &trailgate.Principal{Agent: agent}, Method: method, Project: "p"})
}

func (l *trail) open(dir string, opt index.Options) *index.Index {
	l.t.Helper()
	x, err := index.Open(l.t.Context(), dir, l, opt)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { x.Close() })
	return x
}

func catchUp(t *testing.T, x *index.Index) {
	t.Helper()
	if err := x.CatchUp(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// find returns the ids of what a filter finds, all pages.
func find(t *testing.T, x *index.Index, q index.Query) []string {
	t.Helper()
	var ids []string
	for {
		rows, next, err := x.Search(t.Context(), q)
		if err != nil {
			t.Fatalf("%s: %v", q.Filter, err)
		}
		for _, r := range rows {
			ids = append(ids, r.Entry.ID)
		}
		if q.PageToken = next; next == "" {
			return ids
		}
	}
}

// TestStates follows each way that a call can go, and a restart.
func TestStates(t *testing.T) {
	l := newTrail(t)
	x := l.open(t.TempDir(), index.Options{FileEntries: 8})
	check := func(want map[string]string) {
		t.Helper()
		catchUp(t, x)
		for id, state := range want {
			rows, _, err := x.Search(t.Context(), index.Query{Filter: "id = " + id})
			if err != nil || len(rows) != 1 || rows[0].State != state {
				t.Errorf("%s: %v %v, want %s", id, rows, err, state)
				continue
			}
			found := false
			for _, other := range find(t, x, index.Query{Filter: "state = " + state}) {
				found = found || other == id
			}
			if !found {
				t.Errorf("state = %s does not find %s", state, id)
			}
		}
	}
	start := l.add(trailgate.Entry{Kind: trailgate.KindGateway, Event: &trailgate.Event{Action: "serve.start"}})
	done, failed, lost := l.intent("a", "m"), l.intent("a", "m"), l.intent("a", "m")
	denied := l.add(trailgate.Entry{Kind: trailgate.KindDenied, Outcome: &trailgate.Outcome{Status: 403, ErrorReason: "accessDenied"}})
	refused := l.add(trailgate.Entry{Kind: trailgate.KindRefused})
	held, released := l.add(trailgate.Entry{Kind: trailgate.KindHeld}), l.add(trailgate.Entry{Kind: trailgate.KindHeld})
	l.add(trailgate.Entry{Kind: trailgate.KindOutcome, IntentID: done, Outcome: &trailgate.Outcome{Status: 200}})
	l.add(trailgate.Entry{Kind: trailgate.KindOutcome, IntentID: failed, Outcome: &trailgate.Outcome{Status: 200, ErrorReason: "invalidQuery"}})
	l.add(trailgate.Entry{Kind: trailgate.KindApproved, IntentID: released})
	// What a human says no to stays what it was: a call that was held. One that went on
	// and was denied then is a call of its own.
	no := l.add(trailgate.Entry{Kind: trailgate.KindDenied, IntentID: held, Decision: &trailgate.Decision{Effect: "deny", ApprovalID: "apr_1"}})
	wentOn := l.add(trailgate.Entry{Kind: trailgate.KindDenied, IntentID: released, Request: &trailgate.Request{Verb: "POST"}})
	check(map[string]string{
		start: "recorded", done: "done", failed: "failed", lost: "open", denied: "denied",
		refused: "refused", held: "held", released: "held", wentOn: "denied",
	})
	if stages, err := x.Lookup(t.Context(), no); err != nil || len(stages) != 2 || stages[0].ID != held || stages[1].ID != no {
		t.Errorf("lookup by a denial: %v %v", stages, err)
	}
	if ids := find(t, x, index.Query{Filter: "kind = denied AND kind = held"}); !cmp.Equal(ids, []string{held}) {
		t.Errorf("denied by a human: %v", ids)
	}
	if n := len(find(t, x, index.Query{Filter: "kind = approved"})); n != 1 {
		t.Errorf("kind = approved finds %d calls", n)
	}
	l.add(trailgate.Entry{Kind: trailgate.KindOutcome, IntentID: released, Outcome: &trailgate.Outcome{Status: 200}})
	l.add(trailgate.Entry{Kind: trailgate.KindGateway, Event: &trailgate.Event{Action: "serve.start"}})
	young := l.intent("b", "m")
	check(map[string]string{lost: "indeterminate", young: "open", released: "done", held: "held"})

	list, err := x.Unfinished(t.Context(), 1<<40, 10)
	if err != nil || len(list) != 2 || list[0].ID != lost || list[1].ID != young {
		t.Errorf("unfinished: %v %v", list, err)
	}
	l.add(trailgate.Entry{Kind: trailgate.KindSettled, IntentID: lost, Outcome: &trailgate.Outcome{JobState: "DONE"}})
	late := l.add(trailgate.Entry{Kind: trailgate.KindOutcome, IntentID: lost, Outcome: &trailgate.Outcome{Status: 500}})
	orphan := l.add(trailgate.Entry{Kind: trailgate.KindOutcome, IntentID: "nobody", Outcome: &trailgate.Outcome{Status: 200}})
	check(map[string]string{lost: "settled", orphan: "recorded"})
	if ids := find(t, x, index.Query{Filter: "state = held"}); !cmp.Equal(ids, []string{held}) {
		t.Errorf("held: %v", ids)
	}
	stages, err := x.Lookup(t.Context(), late)
	if err != nil || len(stages) != 3 || stages[0].ID != lost || stages[2].ID != late {
		t.Errorf("lookup by a late outcome: %v %v", stages, err)
	}
	if groups, err := x.Stats(t.Context(), []string{"state"}, ""); err != nil {
		t.Error(err)
	} else {
		got := map[string]int64{}
		for _, g := range groups {
			got[g.Keys["state"]] = g.Calls
		}
		if d := cmp.Diff(map[string]int64{"done": 2, "failed": 1, "denied": 2, "refused": 1, "held": 1, "settled": 1, "open": 1}, got); d != "" {
			t.Error(d)
		}
	}
}

func TestLookup(t *testing.T) {
	l := newTrail(t)
	a := l.intent("a", "m")
	b := l.intent("a", "m")
	o := l.add(trailgate.Entry{Kind: trailgate.KindOutcome, IntentID: a})
	x := l.open(t.TempDir(), index.Options{})
	catchUp(t, x)
	for id, want := range map[string]error{
		a: nil, o: nil, strings.ToUpper(a): nil, b[:26]: nil, a[:8]: index.ErrAmbiguous, "01jd4m": index.ErrNotFound,
		"short": index.ErrNotFound, "": index.ErrNotFound, "zzzzzzzzzz": index.ErrNotFound, "%%%%%%%%": index.ErrNotFound,
		a[:25]: index.ErrAmbiguous, strings.Repeat("7", 40): index.ErrNotFound,
	} {
		if _, err := x.Lookup(t.Context(), id); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", id, err, want)
		}
	}
}

func TestJobOwner(t *testing.T) {
	l := newTrail(t)
	job := func(id string) *trailgate.Job { return &trailgate.Job{Project: "p", ID: id} }
	insert := func(agent, id string) string {
		return l.add(trailgate.Entry{Kind: trailgate.KindIntent, Principal: &trailgate.Principal{Agent: agent}, Method: "bigquery.jobs.insert", Job: job(id)})
	}
	end := func(intent string, status int) {
		l.add(trailgate.Entry{Kind: trailgate.KindOutcome, IntentID: intent, Outcome: &trailgate.Outcome{Status: status}})
	}
	end(insert("thief", "j1"), 403) // was not allowed to make it
	made := insert("maker", "j1")
	end(insert("thief", "j1"), 409) // there was one already
	end(made, 200)
	l.add(trailgate.Entry{
		Kind: trailgate.KindIntent, Principal: &trailgate.Principal{Agent: "reader"}, Method: "bigquery.jobs.get", Job: job("j2"),
	})
	l.add(trailgate.Entry{
		Kind: trailgate.KindIntent, Principal: &trailgate.Principal{Agent: "dry"}, Method: "bigquery.jobs.insert", Job: job("j3"),
		Request: &trailgate.Request{Verb: "POST", DryRun: true},
	})
	q := l.intent("asker", "bigquery.jobs.query") // is told its job's id, and children
	l.add(trailgate.Entry{
		Kind: trailgate.KindOutcome, IntentID: q, Outcome: &trailgate.Outcome{Status: 200},
		Job: &trailgate.Job{Project: "p", ID: "j4", Children: []string{"j4_child"}},
	})
	for _, size := range []uint64{2, 3, 100} {
		x := l.open(t.TempDir(), index.Options{FileEntries: size})
		catchUp(t, x)
		for id, want := range map[string]string{"j1": "maker", "j2": "", "j3": "", "j4": "asker", "j4_child": "asker", "j5": ""} {
			e, err := x.JobOwner(t.Context(), "p", id)
			agent, found := "", e != nil
			if found {
				agent = e.Principal.Agent
			}
			if err != nil || agent != want || found != (want != "") {
				t.Errorf("%s: %q %v, want %q", id, agent, err, want)
			}
		}
		if e, err := x.JobOwner(t.Context(), "other", "j1"); e != nil || err != nil {
			t.Error("a job of another project was found")
		}
	}
}

// TestRowJSON compares a row's JSON with a golden file.
func TestRowJSON(t *testing.T) {
	seqs := []*trailgate.Entry{
		{
			Seq: 7, Time: noon, ID: "01jd3m00000000000000000007", Kind: trailgate.KindIntent, Gateway: trailgate.Gateway{ID: "gw", Version: "v1"},
			Principal: &trailgate.Principal{Agent: "etl-bot"}, Method: "bigquery.jobs.insert", Class: trailgate.ClassWrite,
			Statements: []trailgate.Statement{{Where: "configuration.query.query", Text: "DELETE FROM t WHERE a < '<b>'\u2028", SHA256: "00", Length: 33}},
			Job:        &trailgate.Job{Project: "p", ID: "j"}, Tables: &trailgate.Tables{Written: []string{"t"}},
			StatementType: &trailgate.StatementType{Local: "DELETE"}, Flags: []string{"a", "b"},
		},
		{
			Seq: 9, Time: noon.Add(time.Second), ID: "01jd3m00000000000000000009", Kind: trailgate.KindOutcome, IntentID: "01jd3m00000000000000000007",
			Outcome: &trailgate.Outcome{Status: 200, RowsAffected: 3}, Tables: &trailgate.Tables{Written: []string{"p.d.t"}, Final: true},
			StatementType: &trailgate.StatementType{Local: "DELETE", Final: "DELETE"}, Job: &trailgate.Job{Project: "p", ID: "j", Location: "EU"},
			Flags: []string{"b", "c"},
		},
	}
	var got bytes.Buffer
	for _, r := range []index.Row{{Entry: seqs[0], State: "open"}, {Entry: seqs[0], Closing: seqs[1], State: "done"}} {
		raw, err := r.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		got.Write(append(raw, '\n'))
		var back index.Row
		if err := back.UnmarshalJSON(raw); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r.Fold(), back.Entry); d != "" || back.State != r.State {
			t.Errorf("read back: %s", d)
		}
		if again, err := back.MarshalJSON(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("written again: %s %v", again, err)
		}
	}
	path := filepath.Join("testdata", "rows.jsonl")
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Error(d)
	}
}

// TestPaging adds entries while pages are turned.
func TestPaging(t *testing.T) {
	l := newTrail(t)
	x := l.open(t.TempDir(), index.Options{FileEntries: 16})
	var want []string
	add := func(n int) {
		for range n {
			want = append(want, l.intent("a", "m"))
		}
		catchUp(t, x)
	}
	add(100)
	newest, q := 100, index.Query{Filter: "agent = a", PageSize: 7}
	var got []string
	for {
		rows, next, err := x.Search(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			got = append(got, r.Entry.ID)
		}
		add(5)
		if q.PageToken = next; next == "" {
			break
		}
	}
	for i, id := range got {
		if id != want[newest-1-i] {
			t.Fatalf("newest first, row %d is %s", i, id)
		}
	}
	if len(got) != newest {
		t.Errorf("newest first: %d rows of %d", len(got), newest)
	}
	all := find(t, x, index.Query{Ascending: true, PageSize: 3})
	if !cmp.Equal(all, want) {
		t.Errorf("oldest first: %d rows of %d", len(all), len(want))
	}
	if from := find(t, x, index.Query{From: 150}); len(from) != len(want)-150 {
		t.Errorf("from 150: %d rows of %d", len(from), len(want)-150)
	}
	// A token is for one filter and order.
	_, next, err := x.Search(t.Context(), index.Query{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []index.Query{
		{PageToken: next, Filter: "agent = a"},
		{PageToken: next, Ascending: true},
		{PageToken: next, From: 1},
		{PageToken: "x"},
		{PageToken: "AAAA"},
		{PageToken: next + "A"},
	} {
		if _, _, err := x.Search(t.Context(), q); err == nil || !strings.Contains(err.Error(), "page token") {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// TestRelativeTimeStands checks that "-1h" means the same on all pages.
func TestRelativeTimeStands(t *testing.T) {
	l := newTrail(t)
	now := noon.Add(20 * time.Second)
	x := l.open(t.TempDir(), index.Options{Now: func() time.Time { return now }})
	for range 20 {
		l.intent("a", "m")
	}
	catchUp(t, x)
	q := index.Query{Filter: "time >= -10s", PageSize: 6}
	rows, next, err := x.Search(t.Context(), q)
	if err != nil || len(rows) != 6 || next == "" {
		t.Fatalf("%d rows, %q, %v", len(rows), next, err)
	}
	now, q.PageToken = now.Add(time.Hour), next
	if rows, next, err = x.Search(t.Context(), q); err != nil || len(rows) != 5 || next != "" {
		t.Errorf("second page: %d rows, %q, %v", len(rows), next, err)
	}
}

// TestFollow checks that what is appended is found within a second, by a
// reader that waits for it.
func TestFollow(t *testing.T) {
	l := newTrail(t)
	x := l.open(t.TempDir(), index.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := x.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for i := range 5 {
		start := time.Now()
		id := l.intent("a", "m")
		if err := x.Wait(ctx, uint64(i)); err != nil {
			t.Fatal(err)
		}
		if rows, _, err := x.Search(ctx, index.Query{PageSize: 1}); err != nil || rows[0].Entry.ID != id {
			t.Errorf("newest is %v, %v", rows, err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("found after %v", d)
		}
	}
	// A rebuild does not disturb those who search and wait.
	gen := x.Generation()
	if err := x.Rebuild(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if x.Generation() == gen || x.Cursor() != 5 {
		t.Errorf("after rebuild: generation %s, cursor %d", x.Generation(), x.Cursor())
	}
	l.intent("a", "m")
	if err := x.Wait(ctx, 5); err != nil {
		t.Fatal(err)
	}
	cancel()
	wg.Wait()
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := x.Search(t.Context(), index.Query{}); !errors.Is(err, index.ErrClosed) {
		t.Errorf("search after close: %v", err)
	}
	if err := x.Wait(t.Context(), 99); !errors.Is(err, index.ErrClosed) {
		t.Errorf("wait after close: %v", err)
	}
	if err := x.Run(t.Context()); !errors.Is(err, index.ErrClosed) {
		t.Errorf("run after close: %v", err)
	}
	if err := x.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// TestDamage spoils an index in each way that Open is to notice, and checks
// that it says so and is whole again after catching up.
func TestDamage(t *testing.T) {
	gen := indextest.New(3)
	fill := func(n uint64) *indextest.Log {
		l := &indextest.Log{}
		for seq := range n {
			l.AppendRaw(gen.Raw(seq))
		}
		return l
	}
	files := func(t *testing.T, dir string) []string {
		list, err := filepath.Glob(filepath.Join(dir, "gen-*", "part-*.db"))
		if err != nil || len(list) < 3 {
			t.Fatalf("%v %v", list, err)
		}
		return list
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	overwrite := func(t *testing.T, path string, offset int64, data []byte) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt(data, offset)
		must(t, errors.Join(err, f.Close()))
	}
	junk := bytes.Repeat([]byte("junk"), 4096)
	other := indextest.New(4)
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		log   func(l *indextest.Log) *indextest.Log
		keeps bool // the index is fit as it is
	}{
		"nothing":        {spoil: func(*testing.T, string) {}, keeps: true},
		"file missing":   {spoil: func(t *testing.T, dir string) { must(t, os.Remove(files(t, dir)[1])) }},
		"newest missing": {spoil: func(t *testing.T, dir string) { must(t, os.Remove(files(t, dir)[2])) }, keeps: true}, // as if it was not begun
		"header":         {spoil: func(t *testing.T, dir string) { overwrite(t, files(t, dir)[0], 0, junk) }},
		"pages":          {spoil: func(t *testing.T, dir string) { overwrite(t, files(t, dir)[1], 3*8192, junk) }},
		"cut":            {spoil: func(t *testing.T, dir string) { must(t, os.Truncate(files(t, dir)[1], 5*8192)) }},
		"empty":          {spoil: func(t *testing.T, dir string) { must(t, os.Truncate(files(t, dir)[2], 0)) }},
		"swapped": {spoil: func(t *testing.T, dir string) {
			list := files(t, dir)
			must(t, os.Rename(list[0], list[0]+".x"))
			must(t, os.Rename(list[1], list[0]))
			must(t, os.Rename(list[0]+".x", list[1]))
		}},
		"pointer": {spoil: func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "current"), []byte("../../etc\n"), 0o600))
		}},
		"all files": {spoil: func(t *testing.T, dir string) {
			for _, f := range files(t, dir) {
				must(t, os.Remove(f))
			}
		}},
		"other log": {spoil: func(*testing.T, string) {}, log: func(*indextest.Log) *indextest.Log {
			l := &indextest.Log{}
			for seq := range uint64(300) {
				l.AppendRaw(other.Raw(seq))
			}
			return l
		}},
		"other tail": {spoil: func(*testing.T, string) {}, log: func(*indextest.Log) *indextest.Log {
			l := fill(200)
			for seq := uint64(200); seq < 300; seq++ {
				l.AppendRaw(other.Raw(seq))
			}
			return l
		}},
		"shorter log": {spoil: func(*testing.T, string) {}, log: func(*indextest.Log) *indextest.Log { return fill(250) }},
		"longer log":  {spoil: func(*testing.T, string) {}, log: func(*indextest.Log) *indextest.Log { return fill(350) }, keeps: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, l := t.TempDir(), fill(300)
			opt := index.Options{FileEntries: 128}
			x, err := index.Open(t.Context(), dir, l, opt)
			must(t, err)
			must(t, x.CatchUp(t.Context(), nil))
			generation := x.Generation()
			must(t, x.Close())
			c.spoil(t, dir)
			if c.log != nil {
				l = c.log(l)
			}
			var told bytes.Buffer
			opt.Log = slog.New(slog.NewTextHandler(&told, nil))
			x, err = index.Open(t.Context(), dir, l, opt)
			must(t, err)
			defer x.Close()
			if kept := x.Generation() == generation; kept != c.keeps {
				t.Errorf("kept: %t; it said: %s", kept, told.String())
			}
			if !c.keeps && name != "pointer" && !strings.Contains(told.String(), "building it anew from the log") {
				t.Errorf("it said: %s", told.String())
			}
			must(t, x.CatchUp(t.Context(), nil))
			if x.Cursor() != l.Size() {
				t.Errorf("cursor %d of %d", x.Cursor(), l.Size())
			}
			if n := len(find(t, x, index.Query{PageSize: 1000})); n < 100 {
				t.Errorf("%d rows", n)
			}
			gens, err := filepath.Glob(filepath.Join(dir, "gen-*"))
			if err != nil || len(gens) != 1 {
				t.Errorf("%v %v", gens, err)
			}
		})
	}
}

// TestDamageWhileOpen spoils a file under a running index: searches say so, and
// Run rebuilds it.
func TestDamageWhileOpen(t *testing.T) {
	gen, l := indextest.New(3), &indextest.Log{}
	for seq := range uint64(300) {
		l.AppendRaw(gen.Raw(seq))
	}
	dir := t.TempDir()
	x, err := index.Open(t.Context(), dir, l, index.Options{FileEntries: 128})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	catchUp(t, x)
	old := x.Generation()
	info, err := os.Stat(x.Files()[0])
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(x.Files()[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, int(info.Size())-8192), 8192); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, _, err = x.Search(t.Context(), index.Query{Ascending: true}); !errors.Is(err, index.ErrDamaged) {
		t.Fatalf("search: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := x.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for x.Generation() == old && t.Context().Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	if _, _, err = x.Search(t.Context(), index.Query{Ascending: true}); err != nil {
		t.Errorf("search after rebuild: %v", err)
	}
	cancel()
	wg.Wait()
}

// TestForged edits the index so that a call seems to have another's outcome.
// What is shown comes from the log, so it is noticed.
func TestForged(t *testing.T) {
	l := newTrail(t)
	a, b := l.intent("a", "m"), l.intent("b", "m")
	l.add(trailgate.Entry{Kind: trailgate.KindOutcome, IntentID: a})
	l.add(trailgate.Entry{Kind: trailgate.KindOutcome, IntentID: b})
	dir := t.TempDir()
	x := l.open(dir, index.Options{})
	catchUp(t, x)
	exec(t, x.Files()[0], `UPDATE call SET closing = 5 - closing`)
	if _, _, err := x.Search(t.Context(), index.Query{}); !errors.Is(err, index.ErrDamaged) {
		t.Errorf("search: %v", err)
	}
	catchUp(t, x) // rebuilds
	if _, _, err := x.Search(t.Context(), index.Query{}); err != nil {
		t.Errorf("search after rebuild: %v", err)
	}
}

// TestBlobs searches for words of statements that stand in blobs.
func TestBlobs(t *testing.T) {
	l := newTrail(t)
	l.PutBlob("aa", []byte("SELECT "+strings.Repeat("filler ", 10_000)+" needle_in_blob"))
	l.PutBlob("cc", []byte(strings.Repeat("x ", 600_000)+"beyond"))
	st := func(blob string) []trailgate.Statement { return []trailgate.Statement{{Where: "query", Blob: blob}} }
	found := l.add(trailgate.Entry{Kind: trailgate.KindIntent, Statements: st("aa")})
	lost := l.add(trailgate.Entry{Kind: trailgate.KindIntent, Statements: st("bb")})
	l.add(trailgate.Entry{Kind: trailgate.KindIntent, Statements: st("cc")})
	x := l.open(t.TempDir(), index.Options{})
	catchUp(t, x)
	if ids := find(t, x, index.Query{Filter: "needle_in_blob"}); !cmp.Equal(ids, []string{found}) {
		t.Errorf("found %v", ids)
	}
	if ids := find(t, x, index.Query{Filter: "id = " + lost}); len(ids) != 1 {
		t.Errorf("an entry whose blob is gone is not in the index")
	}
	if ids := find(t, x, index.Query{Filter: "beyond"}); len(ids) != 0 {
		t.Errorf("text beyond the bound was indexed")
	}
}

// TestUnreadable has an entry in the log that is none.
func TestUnreadable(t *testing.T) {
	l := newTrail(t)
	l.intent("a", "m")
	l.AppendRaw([]byte(`{"v":9}`))
	l.AppendRaw([]byte{0xff})
	l.intent("a", "m")
	var told bytes.Buffer
	dir := t.TempDir()
	x := l.open(dir, index.Options{Log: slog.New(slog.NewTextHandler(&told, nil))})
	catchUp(t, x)
	h, err := x.Health()
	if err != nil || h.Unreadable != 2 || h.Cursor != 4 || h.Behind != 0 || h.Bytes == 0 || h.Files != 1 {
		t.Errorf("%+v %v", h, err)
	}
	if n := len(find(t, x, index.Query{})); n != 2 || !strings.Contains(told.String(), "trailgate verify") {
		t.Errorf("%d rows; it said %s", n, told.String())
	}
}

// TestBudget stops a search that takes too long, and one whose caller left.
func TestBudget(t *testing.T) {
	x, _ := small(t, 2000, index.Options{SearchBudget: time.Nanosecond, StatsBudget: time.Nanosecond})
	if _, _, err := x.Search(t.Context(), index.Query{}); !errors.Is(err, index.ErrTooSlow) {
		t.Errorf("search: %v", err)
	}
	if _, err := x.Stats(t.Context(), []string{"session"}, ""); !errors.Is(err, index.ErrTooSlow) {
		t.Errorf("stats: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := x.Search(ctx, index.Query{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := x.CatchUp(ctx, nil); err != nil {
		t.Errorf("nothing to do: %v", err)
	}
}

// TestModes checks that nobody else can read the index.
func TestModes(t *testing.T) {
	l := newTrail(t)
	l.intent("a", "m")
	dir := filepath.Join(t.TempDir(), "index")
	x := l.open(dir, index.Options{})
	catchUp(t, x)
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		n++
		return err
	})
	if err != nil || n < 4 {
		t.Errorf("%d files, %v", n, err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if err := index.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
