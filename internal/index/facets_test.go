package index_test

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/index"
)

// found are all rows that a filter finds, the newest first.
func found(t testing.TB, x *index.Index, filter string) (all []index.Row) {
	t.Helper()
	q := index.Query{Filter: filter, PageSize: index.MaxPageSize}
	for {
		rows, next, err := x.Search(t.Context(), q)
		if err != nil {
			t.Fatalf("%s: %v", filter, err)
		}
		all = append(all, rows...)
		if q.PageToken = next; next == "" {
			return all
		}
	}
}

// isCall tells calls from events.
func isCall(r index.Row) bool { return r.State != index.StateRecorded }

func failed(r index.Row) bool {
	return r.State == index.StateFailed || r.State == index.StateDenied || r.State == index.StateRefused
}

// valuesOf are a row's values of a facet.
func valuesOf(r index.Row, field string) []string {
	e := r.Entry
	var v string
	switch field {
	case "agent":
		if e.Principal != nil {
			v = e.Principal.Agent
		}
	case "human":
		if e.Principal != nil {
			v = e.Principal.Human
		}
	case "connection":
		v = e.Connection
	case "class":
		v = string(e.Class)
	case "method":
		v = e.Method
	case "decision":
		if e.Decision != nil {
			v = e.Decision.Effect
		}
	case "state":
		v = r.State
	case "session":
		v = e.Session
	case "table":
		t := e.Tables
		if r.Closing != nil && r.Closing.Tables != nil {
			t = r.Closing.Tables
		}
		if t == nil {
			return nil
		}
		all := slices.Concat(t.Read, t.Written)
		slices.Sort(all)
		return slices.Compact(all)
	}
	if v == "" {
		return nil
	}
	return []string{v}
}

var lookedAt = []string{
	``, `agent = "dbt-runner"`, `class = "write"`, `table : "staging.*"`, `class = "read" OR state = "failed"`, `NOT agent = "dbt-runner" AND statement : "select"`,
	`state = "denied"`, `agent = "nobody"`, `duration_ms > 50`, `table : "orders" AND class = "write"`,
}

// TestFacets counts the same as somebody who goes through all that a filter finds.
func TestFacets(t *testing.T) {
	var opt index.Options
	opt.FileEntries = 1500 // several files
	opt.Glance(1<<40, time.Hour)
	x, _ := small(t, 6000, opt)
	fields := []string{"agent", "human", "connection", "class", "table", "decision", "state", "method"}
	for _, filter := range lookedAt {
		got, err := x.Facets(t.Context(), filter, fields, 1000)
		if err != nil {
			t.Fatalf("%s: %v", filter, err)
		}
		want := map[string]map[string]*index.FacetValue{}
		for _, r := range found(t, x, filter) {
			if !isCall(r) {
				continue
			}
			for _, field := range fields {
				if want[field] == nil {
					want[field] = map[string]*index.FacetValue{}
				}
				for _, v := range valuesOf(r, field) {
					n := want[field][v]
					if n == nil {
						n = &index.FacetValue{Value: v}
						want[field][v] = n
					}
					n.Calls++
					if failed(r) {
						n.Errors++
					}
				}
			}
		}
		for i, f := range got {
			list := []index.FacetValue{}
			for _, v := range want[fields[i]] {
				list = append(list, *v)
			}
			slices.SortFunc(list, func(a, b index.FacetValue) int {
				return cmp.Or(cmp.Compare(b.Calls, a.Calls), strings.Compare(a.Value, b.Value))
			})
			if f.Field != fields[i] || !f.Complete || f.More {
				t.Errorf("%s: %+v", filter, f)
			}
			if d := gocmp.Diff(list, f.Values); d != "" {
				t.Errorf("%s, %s (-counted one by one +facet):\n%s", filter, fields[i], d)
			}
		}
	}
	one, err := x.Facets(t.Context(), "", []string{"agent"}, 1)
	if err != nil || len(one[0].Values) != 1 || !one[0].More {
		t.Errorf("the most frequent one: %+v, %v", one, err)
	}
	for _, bad := range [][2]string{{"", "time"}, {"agnt = 1", "agent"}} {
		if _, err := x.Facets(t.Context(), bad[0], []string{bad[1]}, 10); err == nil {
			t.Errorf("%q by %s: no error", bad[0], bad[1])
		} else if _, ok := errors.AsType[*index.FilterError](err); !ok {
			t.Errorf("%q by %s: %v", bad[0], bad[1], err)
		}
	}
}

// TestFacetsPartly counts the newest where all are too many, and says since when.
func TestFacetsPartly(t *testing.T) {
	var opt index.Options
	opt.FileEntries = 1500
	opt.Glance(500, time.Hour)
	x, _ := small(t, 6000, opt)
	const filter = `statement : "select"` // no rollup has that
	got, err := x.Facets(t.Context(), filter, []string{"agent"}, 100)
	if err != nil {
		t.Fatal(err)
	}
	var calls []index.Row
	for _, r := range found(t, x, filter) {
		if isCall(r) {
			calls = append(calls, r)
		}
	}
	var total int64
	for _, v := range got[0].Values {
		total += v.Calls
	}
	if got[0].Complete || total != 500 || got[0].Since == nil || !got[0].Since.Equal(calls[499].Entry.Time.UTC()) {
		t.Errorf("%d of %d calls, complete %t, since %v, want %v", total, len(calls), got[0].Complete, got[0].Since, calls[499].Entry.Time)
	}
	h, err := x.Histogram(t.Context(), filter, time.Time{}, time.Time{}, 50)
	if err != nil || h.Complete || h.Counted == nil {
		t.Errorf("%+v, %v", h, err)
	}
}

// TestHistogram: every call that a filter finds is in the bucket of its time.
func TestHistogram(t *testing.T) {
	var opt index.Options
	opt.FileEntries = 1500
	opt.Glance(1<<40, time.Hour)
	opt.Now = func() time.Time { return noon.AddDate(1, 0, 0) }
	x, gen := small(t, 6000, opt)
	first, last := gen.Time(0), gen.Time(6000)
	for _, filter := range lookedAt {
		rows := found(t, x, filter)
		for _, span := range [][2]time.Time{
			{first, last}, {first.Add(last.Sub(first) / 3), first.Add(last.Sub(first) / 2)}, {first.AddDate(0, 0, -40), last.AddDate(0, 1, 0)}, {first.AddDate(-20, 0, 0), last.AddDate(20, 0, 0)},
		} {
			for _, n := range []int{1, 60, 400} {
				h, err := x.Histogram(t.Context(), filter, span[0], span[1], n)
				if err != nil {
					t.Fatalf("%s: %v", filter, err)
				}
				if len(h.Buckets) > n+1 && h.Step < 364*24*time.Hour || !h.Complete || h.Since.After(span[0]) || h.Until.Before(span[1]) {
					t.Fatalf("%s, %s: %d buckets for %d, %s to %s", filter, span, len(h.Buckets), n, h.Since, h.Until)
				}
				want := map[time.Time][2]int64{}
				var in int
				for _, r := range rows {
					if at := r.Entry.Time.UTC(); isCall(r) && !at.Before(h.Since) && at.Before(h.Until) {
						in++
						b := h.Since.Add(at.Sub(h.Since) / h.Step * h.Step)
						c := want[b]
						c[0]++
						if failed(r) {
							c[1]++
						}
						want[b] = c
					}
				}
				for _, b := range h.Buckets {
					if c := want[b.Time]; c != [2]int64{b.Calls, b.Errors} {
						t.Fatalf("%s, %s by %s, bucket %s: %d calls, %d failed, want %d", filter, span, h.Step, b.Time, b.Calls, b.Errors, c)
					}
					in -= int(b.Calls)
				}
				if in != 0 {
					t.Fatalf("%s, %s: %d calls are in no bucket", filter, span, in)
				}
			}
		}
	}
	if _, err := x.Histogram(t.Context(), "", last, first, 10); err == nil {
		t.Error("a span that ends before it begins")
	}
	if _, err := x.Histogram(t.Context(), `agent = "x" AND time >= "nonsense"`, first, last, 10); err == nil {
		t.Error("a bad filter")
	}
	// What closes a bracket of ours is a mistake of the filter.
	if _, err := x.Histogram(t.Context(), `agent = "a") OR (agent = "b"`, first, last, 10); err == nil {
		t.Error("a filter that breaks out of its brackets")
	}
}

// TestValues: completion offers what there is, and nothing else.
func TestValues(t *testing.T) {
	var opt index.Options
	opt.FileEntries = 1500
	opt.Glance(1<<40, time.Hour)
	x, _ := small(t, 6000, opt)
	agents := map[string]bool{}
	for _, r := range found(t, x, "") {
		for _, a := range valuesOf(r, "agent") {
			agents[a] = true
		}
	}
	got, err := x.Values(t.Context(), "agent", "", 100)
	if err != nil || len(got) != len(agents) || !slices.IsSorted(got) {
		t.Errorf("%q, %v; there are %d", got, err, len(agents))
	}
	got, err = x.Values(t.Context(), "agent", "db", 100)
	if err != nil || len(got) == 0 {
		t.Errorf("%q, %v", got, err)
	}
	for _, v := range got {
		if !strings.HasPrefix(v, "db") || !agents[v] {
			t.Errorf("%q", v)
		}
	}
	if got, err := x.Values(t.Context(), "class", "wr", 10); err != nil || !slices.Equal(got, []string{"write"}) {
		t.Errorf("classes: %q, %v", got, err)
	}
	if got, err := x.Values(t.Context(), "table", "", 3); err != nil || len(got) != 3 {
		t.Errorf("tables: %q, %v", got, err)
	}
	for _, odd := range []string{"%", "_", "\x00", "\xff", `"`, "'", strings.Repeat("x", 10_000)} {
		if got, err := x.Values(t.Context(), "agent", odd, 10); err != nil || len(got) > 0 {
			t.Errorf("%.20q: %q, %v", odd, got, err)
		}
	}
	if got, err := x.Values(t.Context(), "time", "2", 10); err != nil || len(got) > 0 {
		t.Errorf("times: %q, %v", got, err)
	}
	if _, err := x.Values(t.Context(), "agnt", "", 10); err == nil {
		t.Error("a field that there is not")
	}
}
