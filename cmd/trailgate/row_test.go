package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/index"
)

// hostileSQL is a statement as an agent might write it to deceive who looks.
const hostileSQL = "=cmd()\x1b[2J\n\u202eETELED\tFROM x"

func sampleRows(t *testing.T) []client.Row {
	t.Helper()
	at := time.Date(2026, 11, 23, 12, 0, 0, 5, time.UTC)
	gw := trailgate.Gateway{ID: "gw", Version: "v"}
	rows := []index.Row{
		{
			State: index.StateDone,
			Entry: &trailgate.Entry{
				Seq: 7, Time: at, ID: "01jd2v8c9mhw3k5r7t9x0z2b4d", Kind: trailgate.KindIntent, Gateway: gw,
				Principal: &trailgate.Principal{Agent: "etl-bot", Human: "ada@example.com"}, Project: "p",
				Method: "bigquery.jobs.insert", Class: trailgate.ClassWrite,
				Statements: []trailgate.Statement{{Where: "configuration.query.query", Text: hostileSQL}, {Where: "x", Blob: "abc"}},
				Flags:      []string{"bidi_in_statement"},
			},
			Closing: &trailgate.Entry{
				Seq: 8, Time: at, ID: "01jd2v8c9mhw3k5r7t9x0z2b4e", Kind: trailgate.KindOutcome, Gateway: gw,
				Tables:        &trailgate.Tables{Read: []string{"q.d.r"}, Written: []string{"p.staging.imports"}, Omitted: 2},
				StatementType: &trailgate.StatementType{Local: "DELETE", Final: "MERGE"},
				Job:           &trailgate.Job{ID: "job1"},
				Outcome:       &trailgate.Outcome{Status: 200, RowsAffected: 3, BytesBilled: 1024, DurationNanos: 1_500_000},
			},
		},
		{
			State: index.StateFailed,
			Entry: &trailgate.Entry{
				Seq: 9, Time: at, ID: "01jd2v8c9mhw3k5r7t9x0z2b4f", Kind: trailgate.KindIntent, Gateway: gw,
				Principal: &trailgate.Principal{Agent: "evil\x1b[31m"}, Method: "bigquery.tabledata.list", Class: trailgate.ClassRead,
			},
			Closing: &trailgate.Entry{
				Seq: 10, Time: at, ID: "x", Kind: trailgate.KindOutcome, Gateway: gw,
				Outcome: &trailgate.Outcome{Status: 404, ErrorReason: "notFound"},
			},
		},
		{
			State: index.StateRecorded,
			Entry: &trailgate.Entry{
				Seq: 11, Time: at, ID: "01jd2v8c9mhw3k5r7t9x0z2b4g", Kind: trailgate.KindAdmin, Gateway: gw,
				Event: &trailgate.Event{Action: "trail.search", Detail: map[string]string{"filter": "agent = \"x\"\u202e"}},
			},
		},
	}
	var out []client.Row
	for _, r := range rows {
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var row client.Row
		if err := json.Unmarshal(raw, &row); err != nil {
			t.Fatal(err)
		}
		out = append(out, row)
	}
	return out
}

func render(t *testing.T, form string, follow bool, rows []client.Row) string {
	t.Helper()
	var b bytes.Buffer
	w := newRowWriter(&b, form, follow)
	for _, found := range rows {
		if err := w.add(found); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	for _, r := range b.String() {
		if r != '\n' && r != '\t' && hostile(r) {
			t.Errorf("%s shows %q", form, r)
		}
	}
	return b.String()
}

func TestTableRows(t *testing.T) {
	want := `TIME                 ID                AGENT                    CLASS  METHOD          TABLES              STATUS           STATEMENT
2026-11-23 12:00:00  01jd2v8c9mhw3k5r  etl-bot for ada@example.com  write  jobs.insert     staging.imports +3  done             =cmd()\x1b[2J \u202eETELED FROM x (+1 more)
2026-11-23 12:00:00  01jd2v8c9mhw3k5r  evil\x1b[31m             read   tabledata.list                      failed notFound
2026-11-23 12:00:00  01jd2v8c9mhw3k5r                                  trail.search                        recorded         agent = "x"\u202e
`
	got := render(t, "table", false, sampleRows(t))
	if diff := cmp.Diff(strings.Fields(want), strings.Fields(got)); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, got)
	}
	if n := strings.Count(got, "\n"); n != 4 {
		t.Errorf("%d lines:\n%s", n, got)
	}
	follow := render(t, "table", true, sampleRows(t))
	lines := strings.Split(strings.TrimSpace(follow), "\n")
	if len(lines) != 4 {
		t.Fatalf("following:\n%s", follow)
	}
	at := strings.Index(lines[0], "CLASS")
	for _, line := range lines[1:3] {
		if c := string([]rune(line)[at:]); !strings.HasPrefix(c, "write") && !strings.HasPrefix(c, "read") {
			t.Errorf("columns do not line up:\n%s", follow)
		}
	}
}

func TestJSONRows(t *testing.T) {
	rows := sampleRows(t)
	var array []json.RawMessage
	if err := json.Unmarshal([]byte(render(t, "json", false, rows)), &array); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(render(t, "jsonl", false, rows)), "\n")
	if len(array) != 3 || len(lines) != 3 {
		t.Fatalf("%d values, %d lines", len(array), len(lines))
	}
	for i, found := range rows {
		var want, a, b any
		for _, pair := range []struct {
			raw  []byte
			into *any
		}{{found.Raw, &want}, {array[i], &a}, {[]byte(lines[i]), &b}} {
			if err := json.Unmarshal(pair.raw, pair.into); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(want, a) + cmp.Diff(want, b); diff != "" {
			t.Errorf("row %d has another value:\n%s", i, diff)
		}
	}
	if got := render(t, "json", false, nil); got != "[]\n" {
		t.Errorf("no rows: %q", got)
	}
	if got := render(t, "jsonl", false, nil); got != "" {
		t.Errorf("no rows: %q", got)
	}
}

func TestCSVRows(t *testing.T) {
	records, err := csv.NewReader(strings.NewReader(render(t, "csv", false, sampleRows(t)))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(records) != 4 {
		t.Fatalf("%d records", len(records))
	}
	got := map[string]string{}
	for i, name := range records[0] {
		if v := records[1][i]; v != "" {
			got[name] = v
		}
	}
	want := map[string]string{
		"time": "2026-11-23T12:00:00.000000005Z", "id": "01jd2v8c9mhw3k5r7t9x0z2b4d", "seq": "7", "kind": "intent", "state": "done",
		"agent": "etl-bot", "human": "ada@example.com", "project": "p", "class": "write", "method": "bigquery.jobs.insert",
		"statement_type": "MERGE", "tables_written": "p.staging.imports", "tables_read": "q.d.r",
		"statement": "'=cmd()\\x1b[2J\n\\u202eETELED\tFROM x;\nsha256:abc", "job": "job1",
		"status": "200", "rows": "0", "rows_affected": "3", "bytes_processed": "0", "bytes_billed": "1024", "duration_ms": "1.500",
		"flags": "bidi_in_statement",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := render(t, "csv", false, nil); got != strings.Join(csvColumns, ",")+"\n" {
		t.Errorf("no rows: %q", got)
	}
}
