package trail_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/trail"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

// floor measures what no journal can be faster than: the same number of
// writers, each handing n bytes to one goroutine that writes them into a
// preallocated, zero-filled file, for all who wait at once, with one write and
// one sync, and does nothing else. It returns the median time that a writer waits.
func floor(b *testing.B, n, writers int) time.Duration {
	b.Helper()
	f, err := (&durable.FS{}).CreateZeroed(filepath.Join(b.TempDir(), "floor"), 32<<20, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, n*writers)
	for i := range buf {
		buf[i] = byte(i)
	}
	queue := make(chan chan struct{}, writers)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var off int64
		for done := range queue {
			batch := []chan struct{}{done}
			for more := true; more; {
				select {
				case d, ok := <-queue:
					if more = ok; ok {
						batch = append(batch, d)
					}
				default:
					more = false
				}
			}
			size := int64(len(batch) * n)
			if off+size > 32<<20 {
				off = 0
			}
			if err := f.WriteAt(buf[:size], off); err != nil {
				b.Error(err)
			}
			if err := f.Sync(); err != nil {
				b.Error(err)
			}
			off += size
			for _, ch := range batch {
				ch <- struct{}{}
			}
		}
	}()
	took := make([][]time.Duration, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			done := make(chan struct{}, 1)
			for range max(200, 1000/writers) {
				start := time.Now()
				queue <- done
				<-done
				took[w] = append(took[w], time.Since(start))
			}
		})
	}
	wg.Wait()
	close(queue)
	<-ended
	all := slices.Concat(took...)
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkAppend measures durable commits while the log takes them over, and
// compares them with the disk's own speed in the same run.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			dir := create(b)
			tr := open(b, dir, trail.Options{CheckpointInterval: time.Second, SegmentBytes: 32 << 20})
			raw, err := entry("bench").Encode()
			if err != nil {
				b.Fatal(err)
			}
			base := floor(b, len(raw), writers)
			for range 50 {
				if err := tr.Append(b.Context(), entry("warm")); err != nil {
					b.Fatal(err)
				}
			}
			took := make([][]time.Duration, writers)
			var cpu syscall.Rusage
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &cpu)
			cpu0 := cpu.Utime.Nano() + cpu.Stime.Nano()
			before := tr.Stats()
			b.ResetTimer()
			var wg sync.WaitGroup
			for w := range writers {
				n := b.N / writers
				if w < b.N%writers {
					n++
				}
				wg.Go(func() {
					e := entry("bench")
					for range n {
						start := time.Now()
						if err := tr.Append(b.Context(), e); err != nil {
							b.Error(err)
							return
						}
						took[w] = append(took[w], time.Since(start))
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &cpu)
			cpu1 := cpu.Utime.Nano() + cpu.Stime.Nano()
			after := tr.Stats()
			base = (base + floor(b, len(raw), writers)) / 2
			all := slices.Concat(took...)
			slices.Sort(all)
			p50, p99 := all[len(all)/2], all[len(all)*99/100]
			b.ReportMetric(float64(base.Nanoseconds())/1e3, "floor-us")
			b.ReportMetric(float64(p50.Nanoseconds())/1e3, "p50-us")
			b.ReportMetric(float64(p99.Nanoseconds())/1e3, "p99-us")
			b.ReportMetric(float64(p50)/float64(base), "p50/floor")
			b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "entries/s")
			b.ReportMetric(float64(cpu1-cpu0)/1e3/float64(len(all)), "cpu-us/entry")
			b.ReportMetric(time.Since(after.PublishedAt).Seconds(), "cp-age-s")
			b.ReportMetric(float64(after.Size-after.Published), "behind")
			b.ReportMetric(float64(after.Size-before.Size)/float64(max(1, after.Commits-before.Commits)), "entries/commit")
			start := time.Now()
			closeTrail(b, tr)
			b.ReportMetric(time.Since(start).Seconds(), "drain-s")
			b.ReportMetric(float64(diskBytes(b, filepath.Join(dir, "log")))/float64(after.Size), "disk-B/entry")
			b.ReportMetric(float64(len(raw)), "entry-B")
		})
	}
}

// diskBytes is how much disk space the files below dir take.
func diskBytes(tb testing.TB, dir string) int64 {
	tb.Helper()
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		sum += info.Sys().(*syscall.Stat_t).Blocks * 512
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		tb.Fatal(err)
	}
	return sum
}

// verifyEntries is how large the log of BenchmarkVerify is.
func verifyEntries(b *testing.B) int {
	b.Helper()
	v := os.Getenv("TRAILGATE_BENCH_ENTRIES")
	if v == "" {
		return 300_000
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		b.Fatalf("TRAILGATE_BENCH_ENTRIES: %v", err)
	}
	return n
}

// cpuTime is what the process has used of processors so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkVerify measures the full check, every entry decoded, of a log that
// the kernel has in memory: all of it on all cores, on one, and what came after
// a checkpoint. "sha256" is how the time compares with that of hashing the same
// entries alone, on as many cores; heap-MB is the most that was in use.
func BenchmarkVerify(b *testing.B) {
	n := verifyEntries(b)
	dir := create(b)
	write := func(n int) {
		tr := open(b, dir, trail.Options{CheckpointInterval: time.Second, SegmentBytes: 32 << 20})
		var wg sync.WaitGroup
		for w := range 64 {
			wg.Go(func() {
				for i := w; i < n; i += 64 {
					if err := tr.Append(b.Context(), entry("bench")); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		closeTrail(b, tr)
	}
	write(n - n/100)
	since := keep(b, verify(b, dir))
	write(n / 100)
	raw, err := entry("bench").Encode()
	if err != nil {
		b.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		parallel int
		since    string
	}{{"all", runtime.GOMAXPROCS(0), ""}, {"one-core", 1, ""}, {"since", runtime.GOMAXPROCS(0), since}} {
		b.Run(tt.name, func(b *testing.B) {
			// One core means one: also for what puts the bundles together in order.
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(tt.parallel))
			var hashed, took, used time.Duration
			var entries, heap uint64
			var mem runtime.MemStats
			for b.Loop() {
				start := time.Now()
				var wg sync.WaitGroup
				for w := range tt.parallel {
					wg.Go(func() {
						for i := w; i < n; i += tt.parallel {
							_ = sha256.Sum256(raw)
						}
					})
				}
				wg.Wait()
				hashed += time.Since(start)
				runtime.GC()
				start = time.Now()
				before := cpuTime(b)
				calls := 0
				r, err := trail.Verify(b.Context(), trail.VerifyOptions{Dir: dir, Since: tt.since, Parallel: tt.parallel, Progress: func(uint64, uint64) {
					if calls++; calls%200 == 1 {
						runtime.ReadMemStats(&mem)
						heap = max(heap, mem.HeapAlloc)
					}
				}})
				if err != nil {
					b.Fatal(err)
				}
				took += time.Since(start)
				used += cpuTime(b) - before
				entries += r.Entries
			}
			b.ReportMetric(float64(entries)/float64(b.N), "entries")
			b.ReportMetric(float64(entries)/took.Seconds(), "entries/s")
			b.ReportMetric(float64(entries)/used.Seconds(), "entries/cpu-s")
			b.ReportMetric(took.Seconds()/hashed.Seconds()*float64(n)*float64(b.N)/float64(entries), "x-sha256")
			b.ReportMetric(float64(heap)/1e6, "heap-MB")
		})
	}
}
