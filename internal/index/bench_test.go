package index_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/index/indextest"
	"golang.org/x/sys/unix"
)

// benchEntries is how large the benchmarks' index is.
func benchEntries(b *testing.B) uint64 {
	b.Helper()
	v := os.Getenv("TRAILGATE_BENCH_ENTRIES")
	if v == "" {
		return 200_000
	}
	n, err := strconv.ParseUint(v, 10, 40)
	if err != nil {
		b.Fatalf("TRAILGATE_BENCH_ENTRIES: %v", err)
	}
	return n
}

// memory is the generated log's beginning, encoded beforehand, so that a
// benchmark of indexing does not measure the generator.
func memory(n uint64) (*indextest.Log, int64) {
	gen, l, size := indextest.New(1), &indextest.Log{}, int64(0)
	for seq := range n {
		raw := gen.Raw(seq)
		size += int64(len(raw))
		l.AppendRaw(raw)
	}
	return l, size
}

// cpuTime is what the process has used of processors so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkIndex measures catching up: entries a second by the clock and by
// the processor time that was used (which a busy machine does not change as
// much), and the index's size.
func BenchmarkIndex(b *testing.B) {
	const n = 100_000
	l, size := memory(n)
	var took, used time.Duration
	var bytes int64
	for b.Loop() {
		dir := b.TempDir()
		x, err := index.Open(b.Context(), dir, l, index.Options{})
		if err != nil {
			b.Fatal(err)
		}
		start, before := time.Now(), cpuTime(b)
		if err := x.CatchUp(b.Context(), nil); err != nil {
			b.Fatal(err)
		}
		took += time.Since(start)
		used += cpuTime(b) - before
		if err := x.Close(); err != nil {
			b.Fatal(err)
		}
		x, err = index.Open(b.Context(), dir, l, index.Options{})
		if err != nil {
			b.Fatal(err)
		}
		h, err := x.Health()
		if err != nil {
			b.Fatal(err)
		}
		bytes = h.Bytes
		if err := x.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n*b.N)/took.Seconds(), "entries/s")
	b.ReportMetric(float64(n*b.N)/used.Seconds(), "entries/cpu_s")
	b.ReportMetric(float64(bytes)/n, "index_B/entry")
	b.ReportMetric(float64(size)/n, "log_B/entry")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkSearch measures searches and sums over a generated log of
// TRAILGATE_BENCH_ENTRIES entries (default 200,000).
func BenchmarkSearch(b *testing.B) {
	gen := indextest.New(1)
	src := indextest.Generated{Gen: gen, Entries: benchEntries(b)}
	start := time.Now()
	x, err := index.Open(b.Context(), b.TempDir(), src, index.Options{Now: func() time.Time { return gen.Time(src.Entries) }})
	if err != nil {
		b.Fatal(err)
	}
	defer x.Close()
	if err := x.CatchUp(b.Context(), nil); err != nil {
		b.Fatal(err)
	}
	h, err := x.Health()
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%d entries in %.1f s (generator included), %d files, %.0f bytes an entry", h.Cursor, time.Since(start).Seconds(), h.Files, float64(h.Bytes)/float64(h.Cursor))
	middle := gen.Entry(src.Entries / 2)

	for _, q := range []struct{ name, filter string }{
		{"newest", ``},
		{"agent", `agent = "dbt-runner"`},
		{"rare_agent", `agent = "intern-agent"`},
		{"table", `table : "staging.imports"`},
		{"dataset", `table : "finance.*"`},
		{"table_glob", `table : "staging.ref*"`},
		{"common_word", `statement : "select"`},
		{"common_word_and_agent", `statement : "batch_id" AND agent = "churn-model"`},
		{"two_words", `statement : "delete payments"`},
		{"rare_words", `statement : "4711 imports"`},
		{"absent_word_and_agent", `statement : "nowhere" AND agent = "etl-bot"`},
		{"example", `agent = "etl-bot" AND table : "staging.*" AND class = "write" AND time >= "-7d"`},
		{"day", fmt.Sprintf(`time >= %q AND time < %q`, middle.Time.Format(time.RFC3339), middle.Time.Add(time.Hour).Format(time.RFC3339))},
		{"failed", `state = "failed" AND error_reason = "backendError"`},
		{"denied_agent", `state = "denied" AND agent = "data-quality"`},
		{"expensive", `bytes_billed > 400GiB AND class = "read"`},
		{"slow_not_read", `duration_ms > 9000 AND NOT class = "read"`},
		{"job", fmt.Sprintf(`job = %q`, jobOf(gen, src.Entries/3))},
		{"indeterminate", `state = "open"`},
		{"or", `agent = "intern-agent" OR rows > 8000`},
		{"contradiction", `class = "export" AND statement : "delete"`},
	} {
		b.Run("search/"+q.name, func(b *testing.B) {
			var times []time.Duration
			found := 0
			for b.Loop() {
				t := time.Now()
				rows, _, err := x.Search(b.Context(), index.Query{Filter: q.filter})
				times = append(times, time.Since(t))
				if err != nil {
					b.Fatal(err)
				}
				found = len(rows)
			}
			report(b, times)
			b.ReportMetric(float64(found), "rows")
		})
	}
	// What a page shows around its rows: facets and a histogram.
	for name, filter := range map[string]string{
		"all": ``, "agent": `agent = "dbt-runner"`, "table": `table : "staging.*"`, "word": `statement : "select"`, "week": `time >= "-7d"`,
		"example": `agent = "etl-bot" AND table : "staging.*" AND class = "write" AND time >= "-7d"`,
	} {
		b.Run("facets/"+name, func(b *testing.B) {
			var times []time.Duration
			for b.Loop() {
				t := time.Now()
				if _, err := x.Facets(b.Context(), filter, []string{"agent", "human", "connection", "class", "table", "decision", "state"}, 10); err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Since(t))
			}
			report(b, times)
		})
		b.Run("histogram/"+name, func(b *testing.B) {
			var times []time.Duration
			for b.Loop() {
				t := time.Now()
				if _, err := x.Histogram(b.Context(), filter, time.Time{}, time.Time{}, 60); err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Since(t))
			}
			report(b, times)
		})
	}
	b.Run("complete", func(b *testing.B) {
		var times []time.Duration
		for b.Loop() {
			t := time.Now()
			if _, err := x.Values(b.Context(), "table", "stag", 20); err != nil {
				b.Fatal(err)
			}
			times = append(times, time.Since(t))
		}
		report(b, times)
	})
	for _, q := range []struct {
		by     []string
		filter string
	}{
		{[]string{"agent"}, ``},
		{[]string{"agent", "day", "class"}, ``},
		{[]string{"table"}, ``},
		{[]string{"class", "decision"}, `agent = "etl-bot"`},
		{[]string{"method"}, `statement : "payments" AND class = "write"`},
		{[]string{"state"}, `time >= "-24h"`},
	} {
		b.Run(fmt.Sprintf("stats/%v/%s", q.by, q.filter), func(b *testing.B) {
			var times []time.Duration
			for b.Loop() {
				t := time.Now()
				if _, err := x.Stats(b.Context(), q.by, q.filter); err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Since(t))
			}
			report(b, times)
		})
	}
}

// jobOf is the first job that is named from seq on.
func jobOf(gen *indextest.Gen, seq uint64) string {
	for ; ; seq++ {
		if e := gen.Entry(seq); e.Job != nil {
			return e.Job.ID
		}
	}
}

func report(b *testing.B, times []time.Duration) {
	b.Helper()
	cold := times[0]
	slices.Sort(times)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(times[len(times)/2]), "p50_ms")
	b.ReportMetric(ms(times[len(times)*99/100]), "p99_ms")
	b.ReportMetric(ms(cold), "first_ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkCheck measures making an index a second time and comparing it, and how
// much of that is the comparing.
func BenchmarkCheck(b *testing.B) {
	n := min(benchEntries(b), 1_000_000)
	dir, _, l := grown(b, n)
	var used time.Duration
	for b.Loop() {
		before := cpuTime(b)
		r, err := index.Check(b.Context(), dir, func(context.Context) (index.Source, error) { return l, nil }, index.CheckOptions{TempDir: b.TempDir()})
		if err != nil || r.Bad != nil {
			b.Fatal(err, r)
		}
		used += cpuTime(b) - before
	}
	b.ReportMetric(float64(n)*float64(b.N)/used.Seconds(), "entries/cpu-s")
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
