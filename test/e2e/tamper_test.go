package e2e

import (
	"bytes"
	encoding "encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// query has an agent run a statement, over the API.
func (r *rig) query(agent, text string) {
	r.t.Helper()
	body, err := json.Marshal(map[string]any{"query": text, "useLegacySql": false})
	if err != nil {
		r.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), "POST", r.url()+"/bigquery/v2/projects/demo-project/queries", bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token(agent))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		r.t.Fatalf("%s: %s", text, resp.Status)
	}
}

// trails are the copies of one gateway's directory that an insider may have:
// as the gateway was made, as it was halfway, and as it is in the end; and two
// logs that are no less self-consistent.
type trails struct {
	*rig
	empty, half, full string
	twin              string // another log, signed with the same key
	other             string // another gateway's
}

func newTrails(t *testing.T) *trails {
	t.Helper()
	r := newRig(t)
	v := &trails{rig: r}
	r.stop()
	v.empty = copyOf(t, r.dir)
	r.start()
	for i := range 150 { // two entries a query
		r.query(agents[i%2], fmt.Sprintf("SELECT %d AS n", i))
	}
	r.query(etl, "SELECT 1 AS n /* "+strings.Repeat("long ", 4000)+"*/") // too long for an entry: a body of its own
	r.stop()
	v.half = copyOf(t, r.dir)
	r.start()
	for i := range 150 {
		r.query(agents[i%2], fmt.Sprintf("SELECT %d AS m", i))
	}
	r.query(etl, "DELETE FROM finance.payroll WHERE true")
	r.stop()
	v.full = copyOf(t, r.dir)

	// The twin begins as the same empty log and goes on with other calls, more of
	// them than the true one has.
	twin := &rig{t: t, dir: copyOf(t, v.empty), addr: r.addr, box: r.box, out: &output{}}
	twin.start()
	for i := range 400 {
		twin.query(agents[i%2], fmt.Sprintf("SELECT %d AS nothing_to_see", i))
	}
	twin.stop()
	v.twin = twin.dir

	other := newRig(t)
	other.query(etl, "SELECT 1 AS n")
	other.stop()
	v.other = other.dir
	return v
}

func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	// The admin socket is gone once the gateway has stopped; all else is files.
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	// CopyFS makes files that others may read, and the gateway does not start with
	// keys like that.
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return os.Chmod(filepath.Join(to, name), info.Mode().Perm())
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// swap puts what one copy has in the place of what another has.
func swap(t *testing.T, dir, from string, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.RemoveAll(filepath.Join(dir, "data", name)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(from, "data", name))
		if err != nil {
			t.Fatal(err)
		}
		if !info.IsDir() {
			write(t, filepath.Join(dir, "data", name), read(t, filepath.Join(from, "data", name)))
			continue
		}
		if err := os.CopyFS(filepath.Join(dir, "data", name), os.DirFS(filepath.Join(from, "data", name))); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// verify runs the built binary on a copy.
func verify(t *testing.T, dir string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return command(t, binary, append([]string{"verify", "--config", filepath.Join(dir, "trailgate.yaml")}, args...)...)
}

// firstBundle is the first 256 entries of a log, as C2SP tlog-tiles has them:
// each with its length, two bytes, big-endian, before it.
func firstBundle(t *testing.T, dir string) (path string, entries [][]byte) {
	t.Helper()
	path = filepath.Join(dir, "data", "log", "tile", "entries", "000")
	for raw := []byte(read(t, path)); len(raw) > 0; {
		n := int(encoding.BigEndian.Uint16(raw))
		entries = append(entries, raw[2:2+n])
		raw = raw[2+n:]
	}
	if len(entries) != 256 {
		t.Fatalf("the first bundle has %d entries", len(entries))
	}
	return path, entries
}

func writeBundle(t *testing.T, path string, entries [][]byte) {
	t.Helper()
	var b []byte
	for _, e := range entries {
		b = append(encoding.BigEndian.AppendUint16(b, uint16(len(e))), e...)
	}
	write(t, path, string(b))
}

// rehash writes every hash tile anew so that they fit the bundles, as an
// insider would who knows how a log is made and lacks only the key.
func rehash(t *testing.T, dir string) {
	t.Helper()
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(at))
		for i, x := range at {
			out[i] = hashes[x]
		}
		return out, nil
	})
	log := filepath.Join(dir, "data", "log", "tile")
	size, n := logSize(t, dir), int64(0)
	for i := 0; n < size; i++ {
		path := filepath.Join(log, "entries", fmt.Sprintf("%03d", i))
		if width := size - n; width < 256 {
			path += ".p/" + strconv.FormatInt(width, 10)
		}
		for raw := []byte(read(t, path)); len(raw) > 0; n++ {
			length := int(encoding.BigEndian.Uint16(raw))
			more, err := tlog.StoredHashes(n, raw[2:2+length], reader)
			if err != nil {
				t.Fatal(err)
			}
			hashes = append(hashes, more...)
			raw = raw[2+length:]
		}
	}
	place := regexp.MustCompile(`^(\d+)/(\d{3})(?:\.p/(\d+))?$`) // the log is short: no index has two parts
	each(t, log, func(path string) {
		rel, err := filepath.Rel(log, path)
		if err != nil {
			t.Fatal(err)
		}
		m := place.FindStringSubmatch(filepath.ToSlash(rel))
		if m == nil {
			return // a bundle
		}
		tile := tlog.Tile{H: 8, W: 256}
		tile.L, _ = strconv.Atoi(m[1])
		tile.N, _ = strconv.ParseInt(m[2], 10, 64)
		if m[3] != "" {
			tile.W, _ = strconv.Atoi(m[3])
		}
		data, err := tlog.ReadTileData(tile, reader)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, string(data))
	})
}

// logSize is what the checkpoint says.
func logSize(t *testing.T, dir string) int64 {
	t.Helper()
	lines := strings.Split(read(t, filepath.Join(dir, "data", "log", "checkpoint")), "\n")
	n, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// each calls f with the path of every file below dir.
func each(t *testing.T, dir string, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			f(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// crime is something an insider does to a copy, and what verify must name.
type crime struct {
	name  string
	do    func(t *testing.T, dir string)
	place string // a regular expression
	args  []string
}

// TestVerify is the honest log, and every way of falsifying it that issue and
// threat model list: exit code 3, and the place.
func TestVerify(t *testing.T) {
	v := newTrails(t)
	for _, dir := range []string{v.empty, v.half, v.full, v.twin, v.other} {
		if out, errs, code := verify(t, dir); code != 0 || !strings.HasPrefix(out, "good: ") {
			t.Fatalf("an honest log: exit %d\n%s%s", code, out, errs)
		}
	}
	// What an auditor put aside: a checkpoint, and the log's public key.
	head, key := filepath.Join(t.TempDir(), "head"), filepath.Join(t.TempDir(), "key")
	write(t, head, read(t, filepath.Join(v.full, "data", "log", "checkpoint")))
	write(t, key, read(t, filepath.Join(v.full, "data", "log.pub")))
	if out, errs, code := verify(t, v.full, "--head", head, "--key", key); code != 0 {
		t.Fatalf("an honest log, with what was put aside: exit %d\n%s%s", code, out, errs)
	}

	sizes := fmt.Sprintf(`log ends after %d entries, but a checkpoint of %d was published`, logSize(t, v.half), logSize(t, v.full))
	all := []string{"agents.json", "blobs", "head", "journal", "log", "log.key", "log.pub"}
	for _, c := range []crime{
		{"entry edited", func(t *testing.T, dir string) {
			path, entries := firstBundle(t, dir)
			entries[100] = bytes.Replace(entries[100], []byte("-bot"), []byte("-bat"), 1)
			writeBundle(t, path, entries)
		}, `tile/entries/000.*entry 100\b`, nil},
		{"entry edited, its hash too", func(t *testing.T, dir string) {
			path, entries := firstBundle(t, dir)
			entries[100] = bytes.Replace(entries[100], []byte("-bot"), []byte("-bat"), 1)
			writeBundle(t, path, entries)
			tile := filepath.Join(dir, "data", "log", "tile", "0", "000")
			raw := []byte(read(t, tile))
			h := tlog.RecordHash(entries[100])
			copy(raw[100*tlog.HashSize:], h[:])
			write(t, tile, string(raw))
		}, `log/checkpoint`, nil},
		{"entry edited, all hashes too", func(t *testing.T, dir string) {
			path, entries := firstBundle(t, dir)
			entries[100] = bytes.Replace(entries[100], []byte("-bot"), []byte("-bat"), 1)
			writeBundle(t, path, entries)
			rehash(t, dir)
		}, `log/checkpoint`, nil},
		{"entry removed", func(t *testing.T, dir string) {
			path, entries := firstBundle(t, dir)
			writeBundle(t, path, slices.Delete(entries, 77, 78))
		}, `tile/entries/000.*entry 77\b`, nil},
		{"two entries swapped", func(t *testing.T, dir string) {
			path, entries := firstBundle(t, dir)
			entries[80], entries[81] = entries[81], entries[80]
			writeBundle(t, path, entries)
		}, `tile/entries/000.*entry 80\b`, nil},
		{"entry added", func(t *testing.T, dir string) {
			path, entries := firstBundle(t, dir)
			writeBundle(t, path, slices.Insert(entries, 80, entries[79]))
		}, `tile/entries/000`, nil},
		{"bundle missing", func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, "data", "log", "tile", "entries", "000"))
		}, `tile/entries/000`, nil},
		{"tile missing", func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, "data", "log", "tile", "0", "000"))
		}, `tile/0/000`, nil},
		{"checkpoint missing", func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, "data", "log", "checkpoint"))
		}, `log/checkpoint.*missing`, nil},
		{"checkpoint edited", func(t *testing.T, dir string) {
			path := filepath.Join(dir, "data", "log", "checkpoint")
			n := strconv.FormatInt(logSize(t, dir), 10)
			write(t, path, strings.Replace(read(t, path), "\n"+n+"\n", "\n1\n", 1))
		}, `log/checkpoint.*not signed`, nil},
		{"checkpoint replaced by an older one", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "data", "log", "checkpoint"), read(t, filepath.Join(v.half, "data", "log", "checkpoint")))
		}, `log/checkpoint.*` + sizes, nil},
		{"tail cut", func(t *testing.T, dir string) {
			swap(t, dir, v.half, "log")
		}, `log/checkpoint.*` + sizes, nil},
		{"tail cut, the journal too", func(t *testing.T, dir string) {
			swap(t, dir, v.half, "log", "journal")
		}, `log/checkpoint.*` + sizes, nil},
		{"remembered checkpoint missing", func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, "data", "head", "checkpoint"))
		}, `head/checkpoint.*missing`, nil},
		{"everything put back to halfway, against a checkpoint put aside", func(t *testing.T, dir string) {
			swap(t, dir, v.half, all...)
		}, sizes, []string{"--head", head}},
		{"log swapped for its twin", func(t *testing.T, dir string) {
			swap(t, dir, v.twin, "log")
		}, `head/checkpoint|log/`, nil},
		{"everything swapped for its twin, against a checkpoint put aside", func(t *testing.T, dir string) {
			swap(t, dir, v.twin, all...)
		}, `head|log/`, []string{"--head", head}},
		{"log swapped for another gateway's", func(t *testing.T, dir string) {
			swap(t, dir, v.other, "log")
		}, `log/checkpoint.*not signed|head/checkpoint`, nil},
		{"everything swapped for another gateway's, against a key put aside", func(t *testing.T, dir string) {
			swap(t, dir, v.other, all...)
		}, `checkpoint`, []string{"--key", key}},
		{"body edited", func(t *testing.T, dir string) {
			path := blob(t, dir)
			raw := []byte(read(t, path))
			raw[len(raw)/2] ^= 1
			write(t, path, string(raw))
		}, `blobs/`, nil},
		{"body missing", func(t *testing.T, dir string) {
			remove(t, blob(t, dir))
		}, `blobs/`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyOf(t, v.full)
			c.do(t, dir)
			out, errs, code := verify(t, dir, c.args...)
			if code != 3 || out != "" || !strings.Contains(errs, "NOT as it was written") {
				t.Fatalf("exit %d\n%s%s", code, out, errs)
			}
			if !regexp.MustCompile(`(?s)` + c.place).MatchString(errs) {
				t.Errorf("the place, %s, is not named:\n%s", c.place, errs)
			}
			t.Log(strings.TrimSpace(errs))
			checkBad(t, dir, c.args)
		})
	}
	t.Run("a byte of each file", func(t *testing.T) { everyFile(t, copyOf(t, v.full)) })
	t.Run("serve", func(t *testing.T) { checkServe(t, v) })
	t.Run("index", func(t *testing.T) { checkIndex(t, v) })
}

// blob is the one stored body.
func blob(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	each(t, filepath.Join(dir, "data", "blobs"), func(path string) { all = append(all, path) })
	if len(all) != 1 {
		t.Fatalf("the stored bodies are %v", all)
	}
	return all[0]
}

// checkBad: a program is told the same.
func checkBad(t *testing.T, dir string, args []string) {
	t.Helper()
	out, _, code := verify(t, dir, append(slices.Clone(args), "-o", "json")...)
	var got struct {
		Good     bool
		FirstBad *struct{ Place, Reason string } `json:"first_bad"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 3 || got.Good || got.FirstBad == nil || got.FirstBad.Place == "" || got.FirstBad.Reason == "" {
		t.Errorf("as JSON: exit %d, %v\n%s", code, err, out)
	}
}

// everyFile changes one byte of every bundle and tile there is, partial ones
// that nothing needs any more too, one file after the other.
func everyFile(t *testing.T, dir string) {
	dice := rand.New(rand.NewPCG(7, 20261123))
	files := 0
	each(t, filepath.Join(dir, "data", "log", "tile"), func(path string) {
		files++
		raw := []byte(read(t, path))
		bad := slices.Clone(raw)
		at := dice.IntN(len(bad))
		bad[at] ^= byte(1 << dice.IntN(8))
		write(t, path, string(bad))
		_, errs, code := verify(t, dir)
		// A partial tile that a larger one repeats may be told by either.
		named, _, _ := strings.Cut(path, ".p/")
		if code != 3 || !strings.Contains(errs, named) {
			t.Errorf("byte %d of %s: exit %d\n%s", at, path, code, errs)
		}
		write(t, path, string(raw))
	})
	t.Logf("%d files", files)
	if files < 5 {
		t.Error("a log of so many entries has more files than that")
	}
	if out, errs, code := verify(t, dir); code != 0 {
		t.Errorf("put right again: exit %d\n%s%s", code, out, errs)
	}
}

// checkServe: the gateway does not go on with a trail that is gone, shorter
// than it was, or another's; it ends with words that say what to do, and
// changes nothing.
func checkServe(t *testing.T, v *trails) {
	for _, c := range []struct {
		name string
		do   func(dir string)
		code int
	}{
		{"cut", func(dir string) { swap(t, dir, v.half, "log", "journal") }, 3},
		{"foreign", func(dir string) { swap(t, dir, v.other, "log") }, 3},
		{"twin", func(dir string) { swap(t, dir, v.twin, "log", "journal") }, 3},
		{"no log", func(dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "data", "log")); err != nil {
				t.Fatal(err)
			}
		}, 1},
		{"no data", func(dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "data")); err != nil {
				t.Fatal(err)
			}
		}, 1},
	} {
		dir := copyOf(t, v.full)
		c.do(dir)
		_, errs, code := command(t, binary, "serve", "--config", filepath.Join(dir, "trailgate.yaml"))
		if code != c.code || strings.Contains(errs, readyMark) {
			t.Errorf("%s: serve ends with %d, want %d:\n%s", c.name, code, c.code, errs)
		}
		t.Logf("%s: %s", c.name, strings.TrimSpace(errs))
		if _, err := os.Stat(filepath.Join(dir, "data", "log")); (err == nil) == strings.HasPrefix(c.name, "no ") {
			t.Errorf("%s: serve made a log, or removed one: %v", c.name, err)
		}
	}
}

// checkIndex: what search finds comes from the log. Without its index a gateway
// finds the same.
func checkIndex(t *testing.T, v *trails) {
	dir := copyOf(t, v.full)
	search := func() string {
		t.Helper()
		out, errs, code := command(t, binary, "search", "--config", filepath.Join(dir, "trailgate.yaml"), `kind = "intent"`, "-o", "jsonl", "--limit", "0")
		if code != 0 {
			t.Fatalf("search: exit %d\n%s", code, errs)
		}
		return out
	}
	before := search()
	if err := os.RemoveAll(filepath.Join(dir, "data", "index")); err != nil {
		t.Fatal(err)
	}
	if after := search(); after != before || strings.Count(after, "\n") < 300 {
		t.Errorf("before the index was deleted search found %d calls, then %d", strings.Count(before, "\n"), strings.Count(after, "\n"))
	}
}

// TestVerifyJournal: what a crash left in the journal alone is checked too.
func TestVerifyJournal(t *testing.T) {
	r := newRig(t)
	r.stop()
	write(t, r.config(), read(t, r.config())+"trail: {segment_bytes: 1MiB, checkpoint_interval: 1h}\n")
	r.start()
	for i := range 50 {
		r.query(agents[i%2], fmt.Sprintf("SELECT %d AS only_in_the_journal", i))
	}
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = r.cmd.Wait() // killed
	r.cmd = nil
	out, errs, code := r.run("verify")
	if code != 0 || strings.Contains(out, " 0 in the journal") {
		t.Fatalf("after a crash: exit %d\n%s%s", code, out, errs)
	}
	var segments []string
	each(t, r.data("journal"), func(path string) {
		if strings.Contains(read(t, path), "SELECT 20 AS only_in_the_journal") {
			segments = append(segments, path)
		}
	})
	if len(segments) != 1 {
		t.Fatalf("the statement is in %v", segments)
	}
	honest := read(t, segments[0])
	write(t, segments[0], strings.Replace(honest, "SELECT 20 AS", "SELECT 21 AS", 1))
	if _, errs, code := r.run("verify"); code != 3 || !strings.Contains(errs, segments[0]) {
		t.Errorf("the journal edited: exit %d\n%s", code, errs)
	} else {
		t.Log(strings.TrimSpace(errs))
	}
	if _, errs, code := r.run("serve"); code != 3 {
		t.Errorf("serve on it: exit %d\n%s", code, errs)
	}
	write(t, segments[0], honest)
	if out, errs, code := r.run("verify"); code != 0 {
		t.Errorf("put right again: exit %d\n%s%s", code, out, errs)
	}
}
