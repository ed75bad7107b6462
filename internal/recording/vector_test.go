package recording_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/recording"
)

var updateVector = flag.Bool("update", false, "make testdata/vector anew")

// TestVector: what docs/spec/recording.md describes is read as long as there are
// recordings of that format. The files were written once and are never written again.
func TestVector(t *testing.T) {
	dir := filepath.Join("testdata", "vector")
	rowsFile, entryFile := filepath.Join(dir, "rows.jsonl"), filepath.Join(dir, "recording.json")
	options := recording.Options{
		Dir: filepath.Join(dir, "rows"), KeyDir: filepath.Join(dir, "keys"), MaxBytes: 120,
		Now: func() time.Time { return time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC) },
	}
	raw, err := os.ReadFile(rowsFile)
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for line := range strings.Lines(string(raw)) {
		rows = append(rows, strings.TrimSuffix(line, "\n"))
	}
	if *updateVector {
		s, err := recording.Open(options)
		if err != nil {
			t.Fatal(err)
		}
		w := s.Begin("main", nil, 0)
		w.Schema([]byte(`{"fields":[{"name":"id","type":"INTEGER"},{"name":"name","type":"STRING"}]}`))
		for _, row := range rows {
			w.RowPart([]byte(row))
			w.EndRow()
		}
		rec := w.Finish(t.Context())
		rec.Level = trailgate.RecordingResults
		out, err := json.MarshalIndent(rec, "", "  ")
		if err = errors.Join(err, os.WriteFile(entryFile, append(out, '\n'), 0o644), os.RemoveAll(filepath.Join(options.Dir, ".tmp"))); err != nil {
			t.Fatal(err)
		}
	}
	var rec trailgate.Recording
	if raw, err = os.ReadFile(entryFile); err == nil {
		err = json.Unmarshal(raw, &rec)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := recording.Existing(options)
	if gone, err := s.Check(t.Context(), &rec); gone || err != nil {
		t.Fatalf("gone %t, %v", gone, err)
	}
	got, err := s.Rows(t.Context(), &rec, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	if !rec.Truncated || rec.Rows != int64(len(rows)) || len(got) != int(rec.StoredRows) || !slices.EqualFunc(got, rows[:len(got)], func(a json.RawMessage, b string) bool { return string(a) == b }) {
		t.Errorf("%+v, %q", rec, got)
	}
	// What the specification shows is what the files have.
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "spec", "recording.md"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.Open(filepath.Join(options.KeyDir, "main", "2026-11.key"))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	shown := []string{rec.SHA256, rec.Body, rec.Schema, rec.Key}
	for lines := bufio.NewScanner(key); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "AGE-SECRET-KEY-") {
			shown = append(shown, lines.Text())
		}
	}
	for _, value := range append(shown, rows...) {
		if !strings.Contains(string(doc), value) {
			t.Errorf("docs/spec/recording.md does not show %s", value)
		}
	}
}
