package journal_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail/durable"
	"github.com/trailgate/trailgate/internal/trail/durable/durabletest"
	"github.com/trailgate/trailgate/internal/trail/journal"
)

var id = tlog.Hash{1, 2, 3}

func options(fsys *durable.FS) journal.Options {
	return journal.Options{FS: fsys, Log: slog.New(slog.DiscardHandler), ID: id, SegmentBytes: journal.MinSegmentBytes}
}

func batch(entries ...string) []journal.Record {
	recs := make([]journal.Record, len(entries))
	for i, e := range entries {
		recs[i] = journal.Record{Entry: []byte(e), Leaf: trailgate.LeafHash([]byte(e))}
	}
	return recs
}

func newJournal(t testing.TB, fsys *durable.FS) (*journal.Journal, string) {
	t.Helper()
	dir := t.TempDir()
	if err := journal.Create(dir, options(&durable.FS{})); err != nil {
		t.Fatal(err)
	}
	return openJournal(t, dir, fsys, 0), dir
}

func openJournal(t testing.TB, dir string, fsys *durable.FS, covered uint64) *journal.Journal {
	t.Helper()
	o := options(fsys)
	o.Covered = covered
	j, err := journal.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

// contents reads the whole journal twice, through Walk and through Read, and
// checks that both agree.
func contents(t testing.TB, dir string, covered uint64) []string {
	t.Helper()
	var walked []string
	end, err := journal.Walk(dir, id, covered, func() func(journal.Record) error {
		walked = nil
		return func(r journal.Record) error {
			if r.Leaf != trailgate.LeafHash(r.Entry) {
				return errors.New("leaf hash")
			}
			walked = append(walked, string(r.Entry))
			return nil
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	j := openJournal(t, dir, &durable.FS{}, covered)
	defer j.Close()
	var got []string
	for seq := j.First(); seq < j.Next(); {
		recs, err := j.Read(seq, 3000)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			if r.Seq != seq {
				t.Fatalf("seq %d, want %d", r.Seq, seq)
			}
			got = append(got, string(r.Entry))
			seq++
		}
	}
	if !slices.Equal(got, walked) || end.First+uint64(len(got)) != end.Next {
		t.Fatalf("Read gives %d entries, Walk %d", len(got), len(walked))
	}
	return got
}

func TestAppendReopenTrim(t *testing.T) {
	j, dir := newJournal(t, &durable.FS{})
	var want []string
	for i := range 600 {
		e := fmt.Sprintf("entry %d %s", i, strings.Repeat("x", i*3))
		if err := j.Append(batch(e)); err != nil {
			t.Fatal(err)
		}
		want = append(want, e)
	}
	if j.Segments() < 2 {
		t.Fatal("one segment only")
	}
	if got := contents(t, dir, 0); !slices.Equal(got, want) {
		t.Fatal("contents differ")
	}
	if err := j.Trim(500); err != nil {
		t.Fatal(err)
	}
	first := j.First()
	if first == 0 || first > 500 {
		t.Fatalf("first is %d", first)
	}
	if got := contents(t, dir, 500); !slices.Equal(got, want[first:]) {
		t.Fatal("contents differ after Trim")
	}
	if _, err := j.Read(0, 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading a trimmed entry: %v", err)
	}
	if recs, err := j.Read(j.Next(), 1); err != nil || len(recs) != 0 {
		t.Errorf("reading past the end: %v, %v", recs, err)
	}
}

// TestFaults fails every step of an append and of a turn to a new segment, in
// every way, and checks that the journal then holds what was acknowledged,
// perhaps followed by the one batch that was not, and goes on.
func TestFaults(t *testing.T) {
	big := strings.Repeat("y", 60_000)
	script := []string{"a", "b", big + "1", big + "2", big + "3", "c", big + "4", big + "5", "d"}
	count := func(fault func(step int, op durable.Op) durable.Fault) (steps int, acked, tried []string, dir string) {
		fsys := &durable.FS{}
		j, dir := newJournal(t, fsys)
		fsys.Hook = func(op durable.Op) durable.Fault {
			steps++
			return fault(steps, op)
		}
		for i, e := range script {
			tried = append(tried, e)
			err := j.Append(batch(e))
			if err == nil {
				acked = append(acked, e)
				tried = tried[:0]
				continue
			}
			if aerr := j.Append(batch("while broken")); !errors.Is(aerr, journal.ErrBroken) {
				t.Fatalf("append %d after %v: %v", i, err, aerr)
			}
			for range 3 {
				if err = j.Turn(); err == nil {
					tried = tried[:0]
					break
				}
			}
		}
		return steps, acked, tried, dir
	}
	total, _, _, _ := count(func(int, durable.Op) durable.Fault { return durable.Fault{} })
	for at := 1; at <= total; at++ {
		for _, mode := range []string{"nothing done", "done", "torn", "twice"} {
			t.Run(fmt.Sprintf("step %d %s", at, mode), func(t *testing.T) {
				fault := func(step int, op durable.Op) durable.Fault {
					if step != at && (mode != "twice" || step != at+1) {
						return durable.Fault{}
					}
					f := durable.Fault{Err: syscall.EIO}
					switch mode {
					case "done":
						f.Apply = true
					case "torn":
						f.Bytes = len(op.Data) / 2
					}
					return f
				}
				_, acked, _, dir := count(fault)
				if got := contents(t, dir, 0); !slices.Equal(got, acked) {
					t.Fatalf("%d entries, %d acknowledged", len(got), len(acked))
				}
			})
		}
	}
}

// TestModel lets appends, failures, trims, kills and power cuts follow each
// other at random, and compares the journal with a list.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "j")
		if err != nil {
			rt.Fatal(err)
		}
		if err := journal.Create(dir, options(&durable.FS{})); err != nil {
			rt.Fatal(err)
		}
		disk, err := durabletest.New(dir)
		if err != nil {
			rt.Fatal(err)
		}
		var (
			j       *journal.Journal
			acked   []string // all that was acknowledged since the beginning
			maybe   []string // the batch after that, which may be found or not
			covered uint64
			failing string
			n       int
		)
		inject := func(op durable.Op) durable.Fault {
			if failing == "" || (failing != "any" && string(op.Kind) != failing) {
				return durable.Fault{}
			}
			return durable.Fault{Err: syscall.EIO, Apply: n%3 == 0, Bytes: n % 700}
		}
		disk.Inject = inject
		reopen := func() {
			failing = ""
			o := options(disk.FS())
			o.Covered = covered
			if j, err = journal.Open(dir, o); err != nil {
				rt.Fatal(err)
			}
			next := int(j.Next())
			if next < len(acked) || next > len(acked)+len(maybe) {
				rt.Fatalf("journal ends at %d, acknowledged are %d, in doubt %d", next, len(acked), len(maybe))
			}
			acked = append(acked, maybe[:next-len(acked)]...)
			maybe = nil
			for seq := j.First(); seq < j.Next(); {
				recs, err := j.Read(seq, 2000)
				if err != nil {
					rt.Fatal(err)
				}
				for _, r := range recs {
					if string(r.Entry) != acked[r.Seq] {
						rt.Fatalf("entry %d is another one", r.Seq)
					}
					seq++
				}
			}
		}
		reopen()
		defer func() { _ = j.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				var entries []string
				for range rapid.IntRange(1, 4).Draw(rt, "entries") {
					n++
					entries = append(entries, fmt.Sprintf("%d %s", n, strings.Repeat("z", rapid.SampledFrom([]int{0, 1, 500, 5000, 30000}).Draw(rt, "size"))))
				}
				if err := j.Append(batch(entries...)); err == nil {
					acked, maybe = append(acked, entries...), nil
				} else if !errors.Is(err, journal.ErrBroken) && maybe == nil {
					maybe = entries
				}
			},
			"turn": func(*rapid.T) {
				if j.Turn() == nil {
					maybe = nil
				}
			},
			"prepare": func(*rapid.T) { _ = j.Prepare() },
			"fail": func(rt *rapid.T) {
				failing = rapid.SampledFrom([]string{"any", "write", "sync", "rename", "syncdir", "create"}).Draw(rt, "op")
			},
			"heal": func(*rapid.T) { failing = "" },
			"trim": func(rt *rapid.T) {
				to := uint64(rapid.IntRange(int(covered), len(acked)).Draw(rt, "to"))
				covered = to
				_ = j.Trim(to)
			},
			"kill": func(*rapid.T) {
				if err := j.Close(); err != nil {
					rt.Fatal(err)
				}
				reopen()
			},
			"power cut": func(rt *rapid.T) {
				if err := j.Close(); err != nil {
					rt.Fatal(err)
				}
				to, err := os.MkdirTemp(t.TempDir(), "j")
				if err != nil {
					rt.Fatal(err)
				}
				seed := rapid.Uint64().Draw(rt, "seed")
				if err := disk.Cut(to, rand.New(rand.NewPCG(seed, 1))); err != nil {
					rt.Fatal(err)
				}
				_ = os.RemoveAll(dir)
				dir = to
				if disk, err = durabletest.New(dir); err != nil {
					rt.Fatal(err)
				}
				disk.Inject = inject
				reopen()
			},
		})
	})
}

// TestSpareOfEarlierRun turns to a spare that an earlier run of the same process id
// left (in a container it always is the same), while another spare is made.
func TestSpareOfEarlierRun(t *testing.T) {
	j, dir := newJournal(t, &durable.FS{})
	if err := j.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	var again *journal.Journal
	busy := false
	again = openJournal(t, dir, &durable.FS{Hook: func(op durable.Op) durable.Fault {
		if op.Kind == durable.OpRename && !busy {
			busy = true // the spare is taken, and has its header, and not yet its name
			if err := again.Prepare(); err != nil {
				t.Error(err)
			}
		}
		return durable.Fault{}
	}}, 0)
	if again.Spares() != 1 {
		t.Fatalf("%d spares were adopted", again.Spares())
	}
	if err := again.Turn(); err != nil {
		t.Fatal(err)
	}
	if err := again.Append(batch("a")); err != nil {
		t.Fatal(err)
	}
	if !busy {
		t.Fatal("nothing was renamed")
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, dir, 0); !slices.Equal(got, []string{"a"}) {
		t.Errorf("what was acknowledged is gone: %q", got)
	}
}

// TestDamage changes what was acknowledged, in every record but the last batch's.
func TestDamage(t *testing.T) {
	j, dir := newJournal(t, &durable.FS{})
	for i := range 5 {
		if err := j.Append(batch(fmt.Sprint("one ", i), fmt.Sprint("two ", i))); err != nil {
			t.Fatal(err)
		}
	}
	path := segments(t, dir)[0]
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lastBatch := bytes.Index(raw, []byte("one 4")) - 56
	for at := 0; at < lastBatch; at++ {
		if at >= 120 && at < 4096 {
			continue // nothing is there
		}
		if at >= 4096 && isPadding(raw, at) {
			continue
		}
		bad := slices.Clone(raw)
		bad[at] ^= 0x10
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := journal.Open(dir, options(&durable.FS{}))
		if _, damaged := errors.AsType[*journal.DamageError](err); !damaged && !errors.Is(err, journal.ErrForeign) {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
}

// isPadding reports whether the byte lies between two records.
func isPadding(raw []byte, at int) bool {
	for off := 4096; off < at; {
		n := int(raw[off]) | int(raw[off+1])<<8
		end := off + 56 + n
		if at >= end && at < (end+7)&^7 {
			return true
		}
		off = (end + 7) &^ 7
	}
	return false
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	return paths
}

func TestRefusals(t *testing.T) {
	j, dir := newJournal(t, &durable.FS{})
	if err := j.Append(batch("a")); err != nil {
		t.Fatal(err)
	}
	other := options(&durable.FS{})
	other.ID = tlog.Hash{9}
	if _, err := journal.Open(dir, other); !errors.Is(err, journal.ErrForeign) {
		t.Errorf("another log's journal: %v", err)
	}
	if _, err := journal.Open(t.TempDir(), options(&durable.FS{})); !errors.Is(err, journal.ErrMissing) {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := journal.Open(filepath.Join(dir, "nowhere"), options(&durable.FS{})); !errors.Is(err, journal.ErrMissing) {
		t.Errorf("no directory: %v", err)
	}
	if err := j.Append(batch(strings.Repeat("x", trailgate.MaxEntryBytes), strings.Repeat("x", trailgate.MaxEntryBytes), "x")); err == nil {
		t.Error("a batch that is too large was written")
	}
}

// TestGolden holds the format to docs/spec/journal.md: the bytes below must not change.
func TestGolden(t *testing.T) {
	j, dir := newJournal(t, &durable.FS{})
	if err := j.Append(batch("first", "second!!")); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(batch("third")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(segments(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	got := "header\n" + hex.Dump(raw[:128]) + "records\n" + hex.Dump(raw[4096:4096+200])
	golden := filepath.Join("testdata", "segment.golden")
	if os.Getenv("TRAILGATE_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the format has changed:\n%s", got)
	}
}

func FuzzScan(f *testing.F) {
	j, dir := newJournal(f, &durable.FS{})
	for _, b := range [][]journal.Record{batch("a", "b"), batch(strings.Repeat("c", 300)), batch("d")} {
		if err := j.Append(b); err != nil {
			f.Fatal(err)
		}
	}
	raw, err := os.ReadFile(segments(f, dir)[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw[4096:4696], false)
	f.Add(raw[4096:4696], true)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		var seq uint64
		next, err := journal.ScanBytes(id, b, fix, func(r journal.Record) error {
			if r.Seq != seq {
				t.Fatalf("entry %d follows %d", r.Seq, seq-1)
			}
			if len(r.Entry) == 0 || len(r.Entry) > trailgate.MaxEntryBytes {
				t.Fatalf("an entry of %d bytes", len(r.Entry))
			}
			seq++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if next != seq {
			t.Fatalf("ends at %d, last entry is %d", next, seq-1)
		}
	})
}
