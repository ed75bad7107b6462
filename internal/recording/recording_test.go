package recording_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/recording"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

type rig struct {
	*recording.Store
	o recording.Options
}

func open(t testing.TB, tweaks ...func(*recording.Options)) *rig {
	t.Helper()
	dir := t.TempDir()
	o := recording.Options{Dir: filepath.Join(dir, "rows"), KeyDir: filepath.Join(dir, "keys"), Now: func() time.Time { return time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC) }}
	for _, tweak := range tweaks {
		tweak(&o)
	}
	return reopen(t, o)
}

func reopen(t testing.TB, o recording.Options) *rig {
	t.Helper()
	s, err := recording.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return &rig{s, o}
}

func row(i int) string { return fmt.Sprintf(`{"f":[{"v":"%d"},{"v":"row %d"}]}`, i, i) }

const schema = `{"fields":[{"name":"n","type":"INTEGER"},{"name":"email","type":"STRING"}]}`

// keep records rows; parts says into how many parts each is cut.
func (r *rig) keep(red *recording.Redaction, schema string, most int64, rows ...string) trailgate.Recording {
	w := r.Begin("main", red, most)
	if schema != "" {
		w.Schema([]byte(schema))
	}
	for _, s := range rows {
		w.RowPart([]byte(s[:len(s)/2]))
		w.RowPart([]byte(s[len(s)/2:]))
		w.EndRow()
	}
	return w.Finish(context.Background())
}

func rows(n int) (list []string) {
	for i := range n {
		list = append(list, row(i))
	}
	return list
}

func (r *rig) read(t testing.TB, rec trailgate.Recording) []string {
	t.Helper()
	got, err := r.Rows(context.Background(), &rec, 0, 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, raw := range got {
		out = append(out, string(raw))
	}
	return out
}

// TestRoundTrip: rows come back as they were, whatever their number and size.
func TestRoundTrip(t *testing.T) {
	r := open(t)
	for _, n := range []int{1, 3, 1000, 20_000} {
		rec := r.keep(nil, schema, 0, rows(n)...)
		if rec.Error != "" || rec.Truncated || rec.Rows != int64(n) || rec.StoredRows != int64(n) || rec.Body != rec.SHA256 || rec.Key != "main/2026-11" || rec.Bytes != rec.StoredBytes {
			t.Fatalf("%d rows: %+v", n, rec)
		}
		if diff := cmp.Diff(rows(n), r.read(t, rec)); diff != "" {
			t.Errorf("%d rows (-want +got):\n%s", n, diff)
		}
		if gone, err := reopen(t, r.o).Check(context.Background(), &rec); gone || err != nil {
			t.Errorf("after a restart: %v %v", gone, err)
		}
		part, err := r.Rows(context.Background(), &rec, int64(n-1), 5)
		if err != nil || len(part) != 1 || string(part[0]) != row(n-1) {
			t.Errorf("the last row: %s %v", part, err)
		}
	}
	columns, err := r.Schema(context.Background(), func() *trailgate.Recording { rec := r.keep(nil, schema, 0, row(1)); return &rec }())
	if err != nil || len(columns) != 2 || columns[1].Name != "email" {
		t.Errorf("schema: %+v %v", columns, err)
	}
	if rec := r.keep(nil, schema, 0); rec != (trailgate.Recording{}) {
		t.Errorf("no rows: %+v", rec)
	}
}

// TestSame: the same rows under the same key are one body; another month's are not.
func TestSame(t *testing.T) {
	now := time.Date(2026, 11, 30, 23, 59, 0, 0, time.UTC)
	r := open(t, func(o *recording.Options) { o.Now = func() time.Time { return now } })
	a, b := r.keep(nil, "", 0, rows(10)...), r.keep(nil, "", 0, rows(10)...)
	if a.Body != b.Body {
		t.Error("the same rows have two names")
	}
	now = now.Add(2 * time.Minute)
	c := r.keep(nil, "", 0, rows(10)...)
	if c.Key != "main/2026-12" || c.Body == a.Body {
		t.Errorf("in December they are %s %s", c.Key, c.Body)
	}
	sum := sha256.Sum256([]byte(row(1) + "\n"))
	if d := r.keep(nil, "", 0, row(1)); d.SHA256 == hex.EncodeToString(sum[:]) {
		t.Error("the name of rows can be guessed from what they are")
	}
	keys, err := r.Keys(context.Background())
	if err != nil || len(keys) != 2 || keys[0].Bodies != 1 || keys[1].Bodies != 2 {
		t.Errorf("%+v %v", keys, err)
	}
}

// TestTruncated: what is beyond the bound is hashed and counted, and said.
func TestTruncated(t *testing.T) {
	r := open(t)
	whole := r.keep(nil, "", 0, rows(100)...)
	most := int64(10 * (len(row(1)) + 1))
	cut := r.keep(nil, "", most, rows(100)...)
	if !cut.Truncated || cut.StoredRows != 10 || cut.StoredBytes > most || cut.Rows != 100 || cut.SHA256 != whole.SHA256 || cut.Body == cut.SHA256 {
		t.Errorf("%+v", cut)
	}
	if diff := cmp.Diff(rows(10), r.read(t, cut)); diff != "" {
		t.Error(diff)
	}
	if gone, err := r.Check(context.Background(), &cut); gone || err != nil {
		t.Errorf("%v %v", gone, err)
	}
}

// TestLongRow: a row that is too long for memory ends what is stored, and is hashed.
func TestLongRow(t *testing.T) {
	r := open(t, func(o *recording.Options) { o.MaxRow = 1000 })
	long := `{"f":[{"v":"` + strings.Repeat("x", 5000) + `"}]}`
	rec := r.keep(nil, "", 0, row(1), long, row(2))
	if rec.StoredRows != 1 || rec.Rows != 3 || !rec.Truncated || rec.Bytes != int64(len(row(1))+len(long)+len(row(2))+3) {
		t.Errorf("%+v", rec)
	}
	if diff := cmp.Diff([]string{row(1)}, r.read(t, rec)); diff != "" {
		t.Error(diff)
	}
	red := redaction(t, recording.RedactRule{Columns: []string{"email"}, Action: recording.Drop})
	if rec := r.keep(red, schema, 0, row(1), long); rec.Error == "" || strings.Contains(strings.Join(r.read(t, rec), ""), "xxxx") {
		t.Errorf("with a redaction: %+v", rec)
	}
}

// TestSplit: however rows are cut into parts, they have one name.
func TestSplit(t *testing.T) {
	r := open(t)
	want := r.keep(nil, "", 0, rows(50)...)
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		w := r.Begin("main", nil, 0)
		for _, s := range rows(50) {
			for len(s) > 0 {
				n := 1 + random.IntN(len(s))
				w.RowPart([]byte(s[:n]))
				s = s[n:]
			}
			w.EndRow()
		}
		if got := w.Finish(context.Background()); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}
	}
	w := r.Begin("main", nil, 0)
	for _, s := range rows(50) {
		w.RowPart([]byte(s))
		w.EndRow()
	}
	w.RowPart([]byte(`{"f":[{"v":"broken off`))
	if got := w.Finish(context.Background()); got != want {
		t.Errorf("a row that broke off is counted: %+v", got)
	}
}

func redaction(t testing.TB, rules ...recording.RedactRule) *recording.Redaction {
	t.Helper()
	r, err := recording.NewRedactor(rules)
	if err != nil {
		t.Fatal(err)
	}
	return r.For("main", []string{"proj.hr.people"})
}

// TestRedaction: values are dropped or hashed by column, in RECORDs and lists as well;
// where columns are not known, everything is dropped.
func TestRedaction(t *testing.T) {
	r := open(t)
	deep := `{"fields":[{"name":"id","type":"INTEGER"},{"name":"person","type":"RECORD","fields":[{"name":"Email","type":"STRING"},{"name":"age","type":"INTEGER"}]},
		{"name":"emails","type":"STRING","mode":"REPEATED"},{"name":"people","type":"RECORD","mode":"REPEATED","fields":[{"name":"email","type":"STRING"}]}]}`
	in := `{"f":[{"v":"7"},{"v":{"f":[{"v":"ada@example.com"},{"v":"36"}]}},{"v":[{"v":"ada@example.com"},{"v":null}]},{"v":[{"v":{"f":[{"v":"bob@example.com"}]}}]}]}`
	red := redaction(t, recording.RedactRule{Columns: []string{"*.email"}, Action: recording.Drop}, recording.RedactRule{Columns: []string{"emails"}, Action: recording.Hash})
	rec := r.keep(red, deep, 0, in, in)
	got := r.read(t, rec)
	if rec.Redacted != 6 || rec.Error != "" {
		t.Errorf("%+v", rec)
	}
	if strings.Contains(got[0], "example.com") || !strings.Contains(got[0], `"36"`) || !strings.Contains(got[0], `{"v":"7"}`) || !strings.Contains(got[0], `"hmac:`) || got[0] != got[1] {
		t.Errorf("redacted: %s", got[0])
	}
	if !json.Valid([]byte(got[0])) {
		t.Errorf("not JSON: %s", got[0])
	}

	secret := `{"f":[{"v":"1"},{"v":"ada@example.com"}]}`
	red = redaction(t, recording.RedactRule{Columns: []string{"email"}, Action: recording.Drop})
	for name, c := range map[string]struct{ schema, row string }{
		"no schema":         {"", secret},
		"a broken schema":   {`{"fields":`, secret},
		"another width":     {`{"fields":[{"name":"email"}]}`, secret},
		"a row of its own":  {schema, `"ada@example.com"`},
		"members twice":     {schema, `{"f":[{"v":"1"},{"v":"ada@example.com"}],"f":[{"v":"1"},{"v":"ada@example.com","x":"ada@example.com"}]}`},
		"another case":      {schema, `{"F":[{"V":"1"},{"V":"ada@example.com"}]}`},
		"a list in a cell":  {schema, `{"f":[{"v":"1"},{"v":["ada@example.com"]}]}`},
		"an escaped secret": {schema, `{"f":[{"v":"1"},{"v":"ada\u0040example.com"}]}`},
	} {
		rec := r.keep(red, c.schema, 0, c.row)
		for _, got := range r.read(t, rec) {
			if strings.Contains(got, "example.com") {
				t.Errorf("%s: %s", name, got)
			}
		}
	}
	// The schema behind the rows is too late, and does not bring back what was dropped.
	w := r.Begin("main", red, 0)
	w.RowPart([]byte(secret))
	w.EndRow()
	w.Schema([]byte(schema))
	late := w.Finish(context.Background())
	if late.Error == "" || strings.Contains(strings.Join(r.read(t, late), ""), "example.com") {
		t.Errorf("%+v", late)
	}
}

// TestRules: which rules hold for which rows.
func TestRules(t *testing.T) {
	r, err := recording.NewRedactor([]recording.RedactRule{
		{Connections: []string{"main"}, Columns: []string{"n"}, Action: recording.Keep},
		{Tables: []string{"hr.*"}, Columns: []string{"*"}, Action: recording.Drop},
		{Connections: []string{"other"}, Columns: []string{"email"}, Action: recording.Drop},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		connection string
		tables     []string
		redacts    bool
	}{
		{"main", []string{"proj.hr.people"}, true},
		{"main", []string{"proj.sales.orders", "proj.HR.people"}, true},
		{"main", []string{"proj.sales.orders"}, false},
		{"main", []string{}, false},
		{"main", nil, true}, // not known: it may be any
		{"other", []string{"proj.sales.orders"}, true},
		{"third", []string{"proj.chr.people"}, false},
	} {
		if got := r.For(c.connection, c.tables) != nil; got != c.redacts {
			t.Errorf("%s %v: %v", c.connection, c.tables, got)
		}
	}
	if (*recording.Redactor)(nil).For("main", nil) != nil {
		t.Error("no rules redact")
	}
	for _, bad := range []recording.RedactRule{{Columns: []string{"a"}, Action: "mask"}, {Columns: []string{"["}, Action: "drop"}} {
		if _, err := recording.NewRedactor([]recording.RedactRule{bad}); !errors.Is(err, recording.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// FuzzRedaction: a dropped column's value is in no row, whatever the row looks like.
func FuzzRedaction(f *testing.F) {
	f.Add([]byte(`{"f":[{"v":"1"},{"v":"SECRET-7"}]}`), []byte(schema))
	f.Add([]byte(`{"f":[{"v":"1"},{"v":{"f":[{"v":"SECRET-7"}]}}]}`), []byte(`{"fields":[{"name":"n"},{"name":"email","fields":[{"name":"x"}]}]}`))
	red, err := recording.NewRedactor([]recording.RedactRule{{Columns: []string{"n"}, Action: recording.Keep}, {Columns: []string{"*"}, Action: recording.Drop}})
	if err != nil {
		f.Fatal(err)
	}
	r := open(f)
	f.Fuzz(func(t *testing.T, raw, schema []byte) {
		if bytes.ContainsAny(raw, "\n\r") {
			return // the scanner takes white space out
		}
		w := r.Begin("main", red.For("main", []string{}), 0)
		w.Schema(schema)
		w.RowPart(raw)
		w.EndRow()
		rec := w.Finish(context.Background())
		if rec.Body == "" {
			t.Fatalf("%+v", rec)
		}
		rows := r.read(t, rec)
		if len(rows) != 1 || !json.Valid([]byte(rows[0])) {
			t.Fatalf("%q became %q", raw, rows)
		}
	})
}

// bodyFile is where a body lies.
func (r *rig) bodyFile(t testing.TB, rec trailgate.Recording) string {
	t.Helper()
	path := filepath.Join(r.o.Dir, rec.Key, rec.Body[:2], rec.Body+".age")
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTampered: a body that was changed, cut, exchanged or taken away is found.
func TestTampered(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, r *rig, path, other string){
		"a bit":      func(t *testing.T, _ *rig, path, _ string) { flip(t, path, -20) },
		"the header": func(t *testing.T, _ *rig, path, _ string) { flip(t, path, 30) },
		"cut":        func(t *testing.T, _ *rig, path, _ string) { must(t, os.Truncate(path, size(t, path)-10)) },
		"empty":      func(t *testing.T, _ *rig, path, _ string) { must(t, os.Truncate(path, 0)) },
		"longer": func(t *testing.T, _ *rig, path, _ string) {
			raw := read(t, path)
			must(t, os.WriteFile(path, append(raw, raw...), 0o600))
		},
		"another body": func(t *testing.T, _ *rig, path, other string) { must(t, os.WriteFile(path, read(t, other), 0o600)) },
		"gone":         func(t *testing.T, _ *rig, path, _ string) { must(t, os.Remove(path)) },
		"a link out": func(t *testing.T, r *rig, path, _ string) {
			outside := filepath.Join(t.TempDir(), "outside")
			must(t, os.Rename(path, outside))
			must(t, os.Symlink(outside, path))
		},
		"another key": func(t *testing.T, r *rig, path, _ string) {
			o := open(t)
			o.keep(nil, "", 0, row(1))
			must(t, os.WriteFile(filepath.Join(r.o.KeyDir, "main", "2026-11.key"), read(t, filepath.Join(o.o.KeyDir, "main", "2026-11.key")), 0o600))
		},
		"a key that is none": func(t *testing.T, r *rig, path, _ string) {
			must(t, os.WriteFile(filepath.Join(r.o.KeyDir, "main", "2026-11.key"), []byte("AGE-SECRET-KEY-1NO\n"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := open(t)
			rec, other := r.keep(nil, schema, 0, rows(100)...), r.keep(nil, "", 0, rows(7)...)
			harm(t, r, r.bodyFile(t, rec), r.bodyFile(t, other))
			s := recording.Existing(r.o)
			gone, err := s.Check(context.Background(), &rec)
			if gone || err == nil {
				t.Fatalf("not found: %v %v", gone, err)
			}
			if strings.Contains(err.Error(), "AGE-SECRET") {
				t.Errorf("the error tells a secret: %v", err)
			}
			if _, err := s.Rows(context.Background(), &rec, 0, 1); err == nil {
				t.Error("rows are shown all the same")
			}
		})
	}
	r := open(t)
	rec := r.keep(nil, schema, 0, rows(100)...)
	for name, lie := range map[string]func(*trailgate.Recording){
		"fewer rows":  func(rec *trailgate.Recording) { rec.StoredRows-- },
		"fewer bytes": func(rec *trailgate.Recording) { rec.StoredBytes-- },
		"more bytes":  func(rec *trailgate.Recording) { rec.StoredBytes++ },
		"a path":      func(rec *trailgate.Recording) { rec.Body = "../../../../../etc/passwd" },
		"a key path":  func(rec *trailgate.Recording) { rec.Key = "../main/2026-11" },
	} {
		said := rec
		lie(&said)
		if _, err := r.Check(context.Background(), &said); err == nil {
			t.Errorf("%s: an entry that does not fit is not found", name)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	return raw
}

func size(t testing.TB, path string) int64 { return int64(len(read(t, path))) }

func flip(t testing.TB, path string, at int) {
	t.Helper()
	raw := read(t, path)
	if at < 0 {
		at += len(raw)
	}
	raw[at] ^= 1
	must(t, os.WriteFile(path, raw, 0o600))
}

// TestErase: an erased key is gone, its bodies are off the disk, and the month's next
// rows have another key; a crash in between is completed.
func TestErase(t *testing.T) {
	r := open(t)
	rec := r.keep(nil, schema, 0, rows(10)...)
	secret := read(t, filepath.Join(r.o.KeyDir, "main", "2026-11.key"))
	must(t, r.MayErase("main/2026-11"))
	done, err := r.Erase(context.Background(), "main/2026-11")
	if err != nil || done.Bodies != 2 || done.Bytes == 0 {
		t.Fatalf("%+v %v", done, err)
	}
	for _, dir := range []string{r.o.Dir, r.o.KeyDir} {
		must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && (strings.HasSuffix(path, ".age") || bytes.Contains(read(t, path), secret[len(secret)-40:])) {
				t.Errorf("left over: %s", path)
			}
			return err
		}))
	}
	if _, err := r.Rows(context.Background(), &rec, 0, 1); !errors.Is(err, recording.ErrErased) {
		t.Errorf("rows: %v", err)
	}
	if gone, err := r.Check(context.Background(), &rec); !gone || err != nil {
		t.Errorf("check: %v %v", gone, err)
	}
	if err := r.MayErase("main/2026-11"); !errors.Is(err, recording.ErrErased) {
		t.Errorf("again: %v", err)
	}
	next := r.keep(nil, schema, 0, rows(10)...)
	if next.Key != "main/2026-11.2" || next.Error != "" {
		t.Errorf("the next rows: %+v", next)
	}
	if diff := cmp.Diff(rows(10), reopen(t, r.o).read(t, next)); diff != "" {
		t.Error(diff)
	}
	keys, err := r.Keys(context.Background())
	if err != nil || len(keys) != 2 || !keys[0].Erased || keys[1].Erased || keys[1].Key != "main/2026-11.2" {
		t.Errorf("%+v %v", keys, err)
	}
}

// TestEraseCrash: wherever an erasure stops, a restart completes it.
func TestEraseCrash(t *testing.T) {
	for stop := 0; ; stop++ {
		r := open(t)
		rec := r.keep(nil, schema, 0, rows(10)...)
		n, hit := 0, false
		r.Fault(func(durable.Op) durable.Fault {
			if n++; n > stop {
				hit = true
				return durable.Fault{Err: errors.New("power cut")}
			}
			return durable.Fault{}
		})
		_, err := r.Erase(context.Background(), "main/2026-11")
		again := reopen(t, r.o)
		gone, cerr := again.Check(context.Background(), &rec)
		if cerr != nil {
			t.Fatalf("stopped at %d: %v", stop, cerr)
		}
		if !gone { // nothing was begun
			if _, err := again.Erase(context.Background(), "main/2026-11"); err != nil {
				t.Fatalf("stopped at %d, again: %v", stop, err)
			}
		}
		keys, kerr := again.Keys(context.Background())
		if kerr != nil || len(keys) != 1 || !keys[0].Erased || keys[0].Bodies != 0 {
			t.Fatalf("stopped at %d: %+v %v", stop, keys, kerr)
		}
		if _, serr := os.Stat(filepath.Join(r.o.KeyDir, "main", "2026-11.key")); !errors.Is(serr, fs.ErrNotExist) {
			t.Fatalf("stopped at %d: the key is still there", stop)
		}
		if !hit {
			if err != nil {
				t.Fatal(err)
			}
			if stop < 5 {
				t.Fatalf("only %d operations were tried", stop)
			}
			return
		}
	}
}

// TestHolds: what is held is not erased, and holds survive a restart.
func TestHolds(t *testing.T) {
	r := open(t)
	r.keep(nil, "", 0, row(1))
	day := func(m, d int) time.Time { return time.Date(2026, time.Month(m), d, 0, 0, 0, 0, time.UTC) }
	for _, bad := range []recording.Hold{{ID: "Case", Reason: "x"}, {ID: "case"}, {ID: "case", Reason: "a\nb"}, {ID: "case", Reason: "x", From: day(2, 1), Until: day(1, 1)}, {ID: "case", Reason: "x", Connection: "../x"}} {
		if err := r.Hold(bad); !errors.Is(err, recording.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for _, h := range []recording.Hold{
		{ID: "all", Reason: "x"}, {ID: "touches", Connection: "main", From: day(11, 30), Reason: "x"}, {ID: "ends", Connection: "main", Until: day(11, 2), Reason: "x"},
	} {
		must(t, r.Hold(h))
		if err := r.Hold(h); !errors.Is(err, recording.ErrExists) {
			t.Errorf("twice: %v", err)
		}
		again := reopen(t, r.o)
		if err := again.MayErase("main/2026-11"); !errors.Is(err, recording.ErrHeld) {
			t.Errorf("%s: %v", h.ID, err)
		}
		if _, err := again.Erase(context.Background(), "main/2026-11"); !errors.Is(err, recording.ErrHeld) {
			t.Errorf("%s: %v", h.ID, err)
		}
		must(t, r.Release(h.ID))
	}
	for _, h := range []recording.Hold{{ID: "other", Connection: "other", Reason: "x"}, {ID: "before", Until: day(11, 1), Reason: "x"}, {ID: "after", From: day(12, 1), Reason: "x"}} {
		must(t, r.Hold(h))
	}
	must(t, r.MayErase("main/2026-11"))
	keys, err := r.Keys(context.Background())
	must(t, err)
	for _, c := range []struct {
		now time.Time
		due int
	}{{day(11, 30), 0}, {day(12, 30), 0}, {day(12, 31), 1}} {
		if got := recording.Due(keys, r.Holds(), 30*24*time.Hour, c.now); len(got) != c.due {
			t.Errorf("at %s %v are due", c.now, got)
		}
	}
	if got := recording.Due(keys, nil, 0, day(12, 31).AddDate(50, 0, 0)); len(got) != 0 {
		t.Error("without a period something is due")
	}
	if err := r.Release("none"); !errors.Is(err, recording.ErrNoHold) {
		t.Errorf("%v", err)
	}
	must(t, os.WriteFile(filepath.Join(r.o.Dir, "holds.json"), []byte("{"), 0o600))
	if _, err := recording.Open(r.o); err == nil {
		t.Error("holds that cannot be read are no holds")
	}
}

// TestFaults: whatever the disk does, the writer says so and nothing that is named is
// missing; and the next rows are kept again.
func TestFaults(t *testing.T) {
	for _, kind := range []error{syscall.ENOSPC, syscall.EIO} {
		for stop := 0; ; stop++ {
			r := open(t)
			n, hit := 0, false
			r.Fault(func(op durable.Op) durable.Fault {
				if n++; n == stop+1 {
					hit = true
					return durable.Fault{Err: &fs.PathError{Op: string(op.Kind), Path: op.Path, Err: kind}, Bytes: 3}
				}
				return durable.Fault{}
			})
			rec := r.keep(nil, schema, 0, rows(20_000)...)
			if hit && rec.Error == "" && rec.Body == "" {
				t.Fatalf("%v at %d: %+v", kind, stop, rec)
			}
			if rec.Rows != 20_000 {
				t.Fatalf("%v at %d: counted %d rows", kind, stop, rec.Rows)
			}
			if rec.Body != "" {
				if diff := cmp.Diff(rows(20_000), reopen(t, r.o).read(t, rec)); diff != "" {
					t.Fatalf("%v at %d: what is named is not there", kind, stop)
				}
			}
			r.Fault(nil)
			if again := r.keep(nil, schema, 0, rows(10)...); again.Error != "" || again.StoredRows != 10 {
				t.Fatalf("%v at %d: afterwards %+v", kind, stop, again)
			}
			if !hit {
				if stop < 5 {
					t.Fatalf("only %d operations were tried", stop)
				}
				break
			}
		}
	}
}

// TestLeftovers: a store that is opened clears away what a crash left half written.
func TestLeftovers(t *testing.T) {
	r := open(t)
	w := r.Begin("main", nil, 0)
	random := rand.NewChaCha8([32]byte{})
	for range 3000 {
		var b [300]byte
		_, _ = random.Read(b[:])
		w.RowPart([]byte(`{"f":[{"v":"` + hex.EncodeToString(b[:]) + `"}]}`))
		w.EndRow()
	}
	files, err := os.ReadDir(filepath.Join(r.o.Dir, ".tmp"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v %v: the test writes too little", files, err)
	}
	reopen(t, r.o)
	if files, err = os.ReadDir(filepath.Join(r.o.Dir, ".tmp")); err != nil || len(files) != 0 {
		t.Errorf("%v %v", files, err)
	}
	w.Abort()
}

// TestConcurrent: writers of the same and of different rows do not get in each other's way.
func TestConcurrent(t *testing.T) {
	r := open(t)
	done := make(chan trailgate.Recording)
	for i := range 32 {
		go func() { done <- r.keep(nil, schema, 0, rows(1000+i%4)...) }()
	}
	names := map[string]bool{}
	for range 32 {
		rec := <-done
		if rec.Error != "" || rec.Body == "" {
			t.Errorf("%+v", rec)
		}
		names[rec.Body] = true
		if gone, err := r.Check(context.Background(), &rec); gone || err != nil {
			t.Errorf("%v %v", gone, err)
		}
	}
	if len(names) != 4 {
		t.Errorf("%d bodies of 4 results", len(names))
	}
}

// TestPermissions: keys are nobody else's to read.
func TestPermissions(t *testing.T) {
	r := open(t)
	r.keep(redaction(t, recording.RedactRule{Columns: []string{"email"}, Action: recording.Hash}), schema, 0, row(1))
	must(t, filepath.WalkDir(filepath.Dir(r.o.Dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == filepath.Dir(r.o.Dir) {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	}))
}

func BenchmarkWriter(b *testing.B) {
	line := []byte(`{"f":[{"v":"100001"},{"v":"884"},{"v":"delivered"},{"v":"181.16"},{"v":"6"},{"v":"ada.lovelace@example.com"}]}`)
	six := `{"fields":[{"name":"a"},{"name":"b"},{"name":"c"},{"name":"d"},{"name":"e"},{"name":"email"}]}`
	red, err := recording.NewRedactor([]recording.RedactRule{{Columns: []string{"email"}, Action: recording.Hash}})
	if err != nil {
		b.Fatal(err)
	}
	for name, r := range map[string]*recording.Redaction{"plain": nil, "redacted": red.For("main", []string{})} {
		b.Run(name, func(b *testing.B) {
			s := open(b)
			b.SetBytes(int64(len(line)) * 10_000)
			b.ReportAllocs()
			for i := range b.N {
				w := s.Begin("main", r, 1<<40)
				w.Schema([]byte(six))
				for j := range 10_000 {
					w.RowPart([]byte(fmt.Sprintf(`{"f":[{"v":"%d"}`, i*10_000+j)))
					w.RowPart(line[6+10:])
					w.EndRow()
				}
				if rec := w.Finish(context.Background()); rec.Body == "" {
					b.Fatalf("%+v", rec)
				}
			}
		})
	}
}
