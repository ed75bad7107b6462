package index_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/index/indextest"
	"pgregory.net/rapid"
)

// TestReplay follows random logs with crashes, failures and reopenings
// between, and holds the index to the model and to one that was made in one
// go.
func TestReplay(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		src := &indextest.Log{}
		root, err := os.MkdirTemp(t.TempDir(), "replay")
		if err != nil {
			rt.Fatal(err)
		}
		m := newModel(nil)
		var atCommit func() error
		opt := index.Options{FileEntries: rapid.SampledFrom([]uint64{4, 16, 1000}).Draw(rt, "file_entries")}
		opt.BeforeCursor(func() error {
			if atCommit != nil {
				return atCommit()
			}
			return nil
		})
		dir, images := filepath.Join(root, "0"), 0
		open := func() *index.Index {
			x, err := index.Open(t.Context(), dir, src, opt)
			if err != nil {
				rt.Fatalf("open: %v", err)
			}
			return x
		}
		image := func() { // the files as a crash now would leave them
			images++
			next := filepath.Join(root, strconv.Itoa(images))
			if err := os.CopyFS(next, os.DirFS(dir)); err != nil {
				rt.Fatal(err)
			}
			dir = next
		}
		x := open()
		seq := 0
		for range rapid.IntRange(1, 8).Draw(rt, "rounds") {
			for range rapid.IntRange(0, 12).Draw(rt, "entries") {
				e := drawEntry(rt, seq, m)
				if err := src.Append(e); err != nil {
					rt.Fatal(err)
				}
				m.add(e)
				seq++
			}
			mode := rapid.SampledFrom([]string{"catch up", "fail", "crash in commit", "crash", "reopen", "rebuild"}).Draw(rt, "mode")
			old := x
			switch mode {
			case "fail":
				atCommit = func() error { return errors.New("disk on fire") }
				_ = x.CatchUp(t.Context(), nil) // what it committed, it keeps
				atCommit = nil
			case "crash in commit":
				atCommit = func() error { atCommit = nil; image(); return nil }
				if err := x.CatchUp(t.Context(), nil); err != nil {
					rt.Fatal(err)
				}
				atCommit = nil
				x = open()
			case "crash":
				image()
				x = open()
			case "reopen":
				if err := x.Close(); err != nil {
					rt.Fatal(err)
				}
				x = open()
			case "rebuild":
				if err := x.Rebuild(t.Context(), nil); err != nil {
					rt.Fatal(err)
				}
			}
			if old != x {
				if err := old.Close(); err != nil {
					rt.Fatal(err)
				}
			}
			if err := x.CatchUp(t.Context(), nil); err != nil {
				rt.Fatalf("after %s: %v", mode, err)
			}
		}
		defer x.Close()
		once, err := index.Open(t.Context(), filepath.Join(root, "once"), src, index.Options{FileEntries: 30})
		if err != nil {
			rt.Fatal(err)
		}
		defer once.Close()
		if err := once.CatchUp(t.Context(), nil); err != nil {
			rt.Fatal(err)
		}
		for range 6 {
			f := drawFilter(rt, m, 3)
			checkSearch(rt, m, f, x)
			checkSearch(rt, m, f, once)
			by := rapid.SliceOfNDistinct(rapid.SampledFrom(index.SumKeys()), 0, 3, rapid.ID[string]).Draw(rt, "by")
			checkStats(rt, m, by, f, x)
			checkStats(rt, m, by, f, once)
			checkStats(rt, m, by, modelFilter{"", func(*model, *modelRow) bool { return true }}, x)
		}
		checkLookups(rt, m, x)
		checkLookups(rt, m, once)
		// However it came about, it is what Check expects, which looks at every row.
		r, err := index.Check(t.Context(), dir, func(context.Context) (index.Source, error) { return src, nil }, index.CheckOptions{TempDir: root})
		if err != nil {
			rt.Fatal(err)
		}
		if r.Bad != nil || r.Entries != uint64(seq) {
			rt.Fatalf("check of %d: %+v %+v", seq, r, r.Bad)
		}
	})
}

func checkSearch(t *rapid.T, m *model, f modelFilter, x *index.Index) {
	var want []uint64
	for _, r := range m.rows {
		if f.ok(m, r) {
			want = append(want, r.opening.Seq)
		}
	}
	q := index.Query{
		Filter: f.text, Ascending: rapid.Bool().Draw(t, "ascending"), PageSize: rapid.IntRange(1, 9).Draw(t, "page"),
		From: uint64(rapid.SampledFrom([]int{0, 0, 5}).Draw(t, "from")),
	}
	want = slices.DeleteFunc(want, func(n uint64) bool { return n < q.From })
	if !q.Ascending {
		slices.Reverse(want)
	}
	var got []uint64
	for {
		rows, next, err := x.Search(context.Background(), q)
		if err != nil {
			t.Fatalf("search %s: %v", f.text, err)
		}
		for _, r := range rows {
			got = append(got, r.Entry.Seq)
			w := m.byID[r.Entry.ID]
			if d := cmp.Diff(w.closing, r.Closing, cmpopts.EquateEmpty()); d != "" || r.State != m.state(w) {
				t.Fatalf("row %d is %s, want %s; closing:\n%s", r.Entry.Seq, r.State, m.state(w), d)
			}
		}
		if q.PageToken = next; next == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("search %s:\n got %v\nwant %v", f.text, got, want)
	}
}

func checkStats(t *rapid.T, m *model, by []string, f modelFilter, x *index.Index) {
	groups, err := x.Stats(context.Background(), by, f.text)
	if err != nil {
		t.Fatalf("stats %v %s: %v", by, f.text, err)
	}
	got := map[string]index.Group{}
	for _, g := range groups {
		key := ""
		for _, k := range by {
			key += k + "=" + g.Keys[k] + " "
		}
		g.Keys = nil
		got[key] = g
	}
	if d := cmp.Diff(m.stats(by, f), got); d != "" || len(got) != len(groups) {
		t.Fatalf("stats %v %s (-want +got):\n%s", by, f.text, d)
	}
}

func checkLookups(t *rapid.T, m *model, x *index.Index) {
	ctx := context.Background()
	for id, r := range m.byID {
		got, err := x.Lookup(ctx, id)
		if err != nil {
			t.Fatalf("lookup %s: %v", id, err)
		}
		if d := cmp.Diff(r.stages, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("lookup %s:\n%s", id, d)
		}
	}
	for _, project := range []string{"p", "q"} {
		for _, job := range []string{"j1", "j2", "j3", "j9"} {
			e, err := x.JobOwner(ctx, project, job)
			agent, id, found := "", "", e != nil
			if found {
				id = e.ID
				if e.Principal != nil {
					agent = e.Principal.Agent
				}
			}
			wantAgent, wantID, wantFound := m.jobOwner(project, job)
			if err != nil || agent != wantAgent || id != wantID || found != wantFound {
				t.Fatalf("owner of %s.%s: %s %s %t %v, want %s %s %t", project, job, agent, id, found, err, wantAgent, wantID, wantFound)
			}
		}
	}
	before := uint64(rapid.IntRange(0, 60).Draw(t, "before"))
	var want []uint64
	for _, r := range m.rows {
		if s := m.state(r); (s == "open" || s == "indeterminate") && r.opening.Seq < before {
			want = append(want, r.opening.Seq)
		}
	}
	list, err := x.Unfinished(ctx, before, 5)
	if err != nil {
		t.Fatal(err)
	}
	got := slices.Collect(mapped(list))
	if want = want[:min(5, len(want))]; !slices.Equal(got, want) {
		t.Fatalf("unfinished before %d: %v, want %v", before, got, want)
	}
}

func mapped(list []*trailgate.Entry) func(func(uint64) bool) {
	return func(yield func(uint64) bool) {
		for _, e := range list {
			if !yield(e.Seq) {
				return
			}
		}
	}
}
