package e2e

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
)

// recordedAt restarts the gateway with a level for its connection and more of the
// configuration.
func (r *rig) recordedAt(level, more string) {
	r.t.Helper()
	r.stop()
	text := strings.Replace(read(r.t, r.config()), "    credential:", "    recording: {level: "+level+"}\n    credential:", 1)
	write(r.t, r.config(), text+more)
	r.start()
}

// table runs bq without tidying what it prints, and reads that as CSV.
func (s side) table(t *testing.T, agent string, args ...string) [][]string {
	t.Helper()
	cmd := exec.Command("bq", append([]string{"--format=csv"}, args...)...)
	cmd.Dir, cmd.Env = s.dir, s.env[agent]
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("bq %s: %v\n%s\n%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	got, err := csv.NewReader(bytes.NewReader(bytes.TrimLeft(stdout.Bytes(), "\n"))).ReadAll()
	if err != nil {
		t.Fatalf("bq %s printed no CSV: %v", strings.Join(args, " "), err)
	}
	return got
}

// recordedRows are the rows that trailgate show --rows prints.
func (r *rig) recordedRows(id string) (lines []string, rows [][]string) {
	r.t.Helper()
	for line := range strings.Lines(r.must("show", id, "--rows")) {
		lines = append(lines, strings.TrimSuffix(line, "\n"))
		var row struct {
			F []struct {
				V string `json:"v"`
			} `json:"f"`
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			r.t.Fatalf("%q: %v", line, err)
		}
		var cells []string
		for _, f := range row.F {
			cells = append(cells, f.V)
		}
		rows = append(rows, cells)
	}
	return lines, rows
}

// peak is the most memory that the gateway has had, in bytes (proc(5), VmHWM).
func (r *rig) peak() int64 {
	r.t.Helper()
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindStringSubmatch(read(r.t, fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid)))
	if m == nil {
		r.t.Fatal("no VmHWM")
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	return n << 10
}

// recordedCalls are the calls whose rows were kept, of a method.
func recordedCalls(rows []index.Row, method string) []index.Row {
	return slices.DeleteFunc(slices.Clone(rows), func(w index.Row) bool {
		return w.Entry.Method != method || w.Entry.Recording == nil || w.Entry.Recording.Rows == 0
	})
}

// TestRecording: what bq got is what was recorded, row for row, for a table's head and
// for a million rows in pages, in bounded memory; and it can be erased.
func TestRecording(t *testing.T) {
	needBQ(t)
	r := newRig(t)
	r.recordedAt("results", "recording: {retention: {results: 90d}}\n")
	side := gated(t, r)

	// A head: tabledata.list. BigQuery's own bytes are those of the sandbox.
	head := side.table(t, "analyst-bot", "head", "-n", "250", "bench.rows_5000")
	calls := recordedCalls(r.calls(), "bigquery.tabledata.list")
	if len(calls) != 1 {
		t.Fatalf("%d recorded calls", len(calls))
	}
	lines, rows := r.recordedRows(calls[0].Entry.ID)
	if !slices.EqualFunc(rows, head[1:], slices.Equal) || len(rows) != 250 {
		t.Errorf("the head that bq printed has %d rows, the recording %d, or they differ", len(head)-1, len(rows))
	}
	if want := `{"f":[{"v":"249"},{"v":"customer 249 of the north"},{"v":"249.25"},{"v":"paid in full, delivered on time"}]}`; lines[249] != want {
		t.Errorf("the last row is not as BigQuery sent it:\n%s\n%s", lines[249], want)
	}
	if !slices.Equal(head[0], []string{"id", "name", "amount", "note"}) {
		t.Errorf("bq's header: %q", head[0])
	}

	// A hundred thousand rows, then a million: ten times the rows (some 100 MiB of JSON), and hardly more memory.
	query := func(n int) (got [][]string) {
		t.Helper()
		got = side.table(t, "analyst-bot", "query", "--use_legacy_sql=false", "--max_rows="+strconv.Itoa(n), fmt.Sprintf("SELECT * FROM bench.rows_%d", n))
		if len(got) != n+1 {
			t.Fatalf("bq printed %d rows of %d", len(got)-1, n)
		}
		return got
	}
	query(100_000)
	before := r.peak()
	printed := query(1_000_000)
	after := r.peak()
	t.Logf("the gateway's peak: %d MiB after 100,000 rows, %d MiB after a million", before>>20, after>>20)
	if after-before > 48<<20 {
		t.Errorf("the gateway's memory grew by %d MiB with the result", (after-before)>>20)
	}
	pages := slices.DeleteFunc(recordedCalls(r.calls(), "bigquery.jobs.getQueryResults"), func(w index.Row) bool {
		return w.Entry.Outcome.TotalRows != 1_000_000
	})
	if len(pages) < 3 {
		t.Fatalf("the million rows came in %d pages", len(pages))
	}
	var next int64
	for _, w := range pages {
		rec := w.Entry.Recording
		if rec.StartRow != next || rec.PlaceUnknown || rec.Truncated || rec.Error != "" || rec.StoredRows != rec.Rows || rec.Rows != w.Entry.Outcome.Rows {
			t.Errorf("page at %d: %+v", next, rec)
		}
		next += rec.Rows
	}
	if next != 1_000_000 {
		t.Errorf("the pages have %d rows", next)
	}
	_, rows = r.recordedRows(pages[1].Entry.ID) // any page leads to the whole
	if len(rows) != 1_000_000 {
		t.Fatalf("%d rows are recorded", len(rows))
	}
	for i, row := range rows {
		if !slices.Equal(row, printed[i+1]) {
			t.Fatalf("row %d: bq printed %q, recorded is %q", i, printed[i+1], row)
		}
	}
	// In the clear they are nowhere.
	if found := filesWith(t, filepath.Join(r.dir, "data"), "customer 249 of the north"); len(found) > 0 {
		t.Errorf("rows lie in the clear in %q", found)
	}

	// Who looked is on record; and so is the erasure, after which nobody reads them.
	if looked := r.search(`action = "recording.read"`); len(looked) < 100 {
		t.Errorf("%d entries say that somebody read rows", len(looked))
	}
	var keys []struct {
		Key    string `json:"key"`
		Bodies int    `json:"bodies"`
	}
	if err := json.Unmarshal([]byte(r.must("retention", "show", "-o", "json")), &keys); err != nil || len(keys) != 1 || keys[0].Bodies < len(pages) {
		t.Fatalf("%v: %+v", err, keys)
	}
	if out, errs, code := r.run("verify"); code != 0 {
		t.Fatalf("verify: exit %d\n%s%s", code, out, errs)
	}
	r.must("retention", "erase", keys[0].Key, "--yes", "--reason", "the customer asked")
	if left := regularFiles(t, r.data("recordings")); len(left) > 0 {
		t.Errorf("bodies are left: %q", left)
	}
	// What is left of the key is a mark, which has nothing of it.
	if left := regularFiles(t, r.data("recording-keys")); len(left) != 1 || !strings.HasSuffix(left[0], ".erased") || strings.Contains(read(t, left[0]), "AGE-SECRET-KEY") {
		t.Errorf("of the key is left: %q", left)
	}
	if _, errs, code := r.run("show", calls[0].Entry.ID, "--rows"); code != 1 || !strings.Contains(errs, "erased") {
		t.Errorf("erased rows: exit %d, %s", code, errs)
	}
	if out, errs, code := r.run("verify"); code != 0 || !strings.Contains(out, "1 data keys erased") {
		t.Errorf("verify after the erasure: exit %d\n%s%s", code, out, errs)
	}
	r.stop()
	if out, errs, code := r.run("verify"); code != 0 {
		t.Errorf("verify of the stopped gateway: exit %d\n%s%s", code, out, errs)
	}
	r.start()
	// The same rows again, under a new key: what is kept is not what was erased.
	side.table(t, "analyst-bot", "head", "-n", "10", "bench.rows_5000")
	again := recordedCalls(r.calls(), "bigquery.tabledata.list")
	if _, rows := r.recordedRows(again[len(again)-1].Entry.ID); len(rows) != 10 {
		t.Errorf("%d rows are recorded after the erasure", len(rows))
	}
}

// filesWith are the files below dir that have text in them.
func filesWith(t *testing.T, dir, text string) (found []string) {
	t.Helper()
	for _, path := range regularFiles(t, dir) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte(text)) {
			found = append(found, path)
		}
	}
	return found
}

func regularFiles(t *testing.T, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestRecordingLevels: metadata keeps no statement of a read, and all of a change; what
// is to be redacted is stored nowhere; a rule's level goes before the connection's.
func TestRecordingLevels(t *testing.T) {
	needBQ(t)
	r := newRig(t)
	r.recordedAt("metadata", `
recording:
  redact:
    - {columns: ["amount"], action: drop}
    - {columns: ["name"], action: hash}
`)
	r.stop()
	write(t, r.config(), strings.Replace(read(t, r.config()), "policy: {record_only: true}", `policy:
  rules:
    - {name: kept, when: 'class == "read" && principal.agent == "analyst-bot"', allow: {recording: results}}
    - {name: rest, when: 'true', allow: {}}`, 1))
	r.start()
	side := gated(t, r)

	got := side.table(t, "analyst-bot", "query", "--use_legacy_sql=false", "SELECT id, name, amount AS amount FROM bench.rows_20 ORDER BY id")
	if len(got) != 21 || got[20][1] != "customer 19 of the north" {
		t.Errorf("the agent gets its rows as they are: %q", got[len(got)-1])
	}
	side.table(t, "etl-bot", "query", "--use_legacy_sql=false", "SELECT 'secret_of_a_read' AS x")
	if s := side.bq(t, "etl-bot", []string{"query", "--use_legacy_sql=false", "DELETE FROM staging.imports WHERE batch_id = 41 AND 'kept_of_a_change' != ''"}); s.Code != 0 {
		t.Fatalf("%+v", s)
	}
	calls := r.calls()
	kept := recordedCalls(calls, "bigquery.jobs.getQueryResults")
	kept = slices.DeleteFunc(kept, func(w index.Row) bool { return w.Entry.Principal.Agent != "analyst-bot" })
	if len(kept) == 0 {
		t.Fatal("nothing was recorded for analyst-bot")
	}
	_, rows := r.recordedRows(kept[0].Entry.ID)
	if len(rows) != 20 || rows[3][0] != "3" || strings.Contains(rows[3][1], "customer") || rows[3][1] == "" || rows[3][2] != "" {
		t.Errorf("recorded: %q", rows)
	}
	if n := kept[0].Entry.Recording.Redacted; n != 40 {
		t.Errorf("%d values are said to be redacted", n)
	}
	for _, w := range calls {
		if w.Entry.Principal.Agent != "etl-bot" || w.Entry.Method != "bigquery.jobs.insert" {
			continue
		}
		text := len(w.Entry.Statements) > 0 && w.Entry.Statements[0].Text != ""
		switch w.Entry.Class {
		case trailgate.ClassRead:
			if text || w.Entry.Recording == nil || w.Entry.Recording.Level != trailgate.RecordingMetadata || len(w.Entry.Statements) == 0 || w.Entry.Statements[0].SHA256 == "" {
				t.Errorf("a read at level metadata: %+v, %+v", w.Entry.Recording, w.Entry.Statements)
			}
		case trailgate.ClassWrite:
			if !text {
				t.Errorf("the change has no statement: %+v", w.Entry.Statements)
			}
		}
	}
	if found := filesWith(t, filepath.Join(r.dir, "data"), "secret_of_a_read"); len(found) > 0 {
		t.Errorf("the statement lies in %q", found)
	}
	if found := filesWith(t, filepath.Join(r.dir, "data"), "kept_of_a_change"); len(found) == 0 {
		t.Error("the change's statement is nowhere")
	}
}

// TestRecordingTampered: whoever changes, removes or exchanges what was recorded is
// found out, and so is whoever deletes a key without saying so.
func TestRecordingTampered(t *testing.T) {
	r := newRig(t)
	r.recordedAt("results", "")
	r.query("analyst-bot", "SELECT * FROM bench.rows_300")
	r.query("analyst-bot", "SELECT * FROM bench.rows_301")
	if got := recordedCalls(r.calls(), "bigquery.jobs.query"); len(got) != 2 {
		t.Fatalf("%d recorded calls", len(got))
	}
	r.stop()
	if out, errs, code := verify(t, r.dir); code != 0 || !strings.Contains(out, "2 recordings of rows") {
		t.Fatalf("before: exit %d\n%s%s", code, out, errs)
	}
	bodies := func(dir string) []string {
		t.Helper()
		found := regularFiles(t, filepath.Join(dir, "data", "recordings"))
		if len(found) < 3 { // two of rows, and their schema
			t.Fatalf("bodies: %q", found)
		}
		return found
	}
	for name, change := range map[string]func(dir string){
		"changed": func(dir string) {
			path := bodies(dir)[0]
			raw := []byte(read(t, path))
			raw[len(raw)/2] ^= 1
			write(t, path, string(raw))
		},
		"cut": func(dir string) {
			path := bodies(dir)[1]
			write(t, path, read(t, path)[:100])
		},
		"removed":   func(dir string) { remove(t, bodies(dir)[2]) },
		"exchanged": func(dir string) { write(t, bodies(dir)[0], read(t, bodies(dir)[1])) },
		"key gone": func(dir string) {
			for _, path := range regularFiles(t, filepath.Join(dir, "data", "recording-keys")) {
				remove(t, path)
			}
		},
		"key said to be erased": func(dir string) {
			for _, path := range regularFiles(t, filepath.Join(dir, "data", "recording-keys")) {
				remove(t, path)
				write(t, strings.TrimSuffix(path, filepath.Ext(path))+".erased", "")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyOf(t, r.dir)
			change(dir)
			if out, errs, code := verify(t, dir); code != 3 || !strings.Contains(errs, "recorded rows") {
				t.Errorf("exit %d\n%s%s", code, out, errs)
			}
		})
	}
}
