package bigquery_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/bigquery"
)

func capture(t testing.TB, parts ...string) bigquery.Facts {
	t.Helper()
	c := bigquery.NewCapture(route(t, "POST", "projects/p/queries"))
	for _, p := range parts {
		if n, err := c.Write([]byte(p)); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
	}
	return c.Facts()
}

const jobAnswer = `{
  "kind": "bigquery#job", "etag": "x", "user_email": "sa@p.iam", "jobReference": {"projectId": "p", "jobId": "j", "location": "EU"},
  "configuration": {"jobType": "QUERY", "query": {"query": "SELECT '{\"jobReference\":{\"jobId\":\"forged\"}}'", "destinationTable": {"tableId": "anon"}}},
  "status": {"state": "DONE", "errorResult": {"reason": "invalidQuery", "message": "no \"x\" é\u00e9"}, "errors": [{"reason": "other"}]},
  "statistics": {"totalBytesProcessed": "10", "totalSlotMs": "4", "query": {"statementType": "MERGE", "totalBytesBilled": "20", "cacheHit": true, "numDmlAffectedRows": "3",
    "referencedTables": [{"projectId": "p", "datasetId": "d", "tableId": "b"}, {"projectId": "p", "datasetId": "d", "tableId": "a"}, {"projectId": "p", "datasetId": "d", "tableId": "a"}],
    "ddlTargetTable": {"projectId": "p", "datasetId": "d", "tableId": "c"}, "schema": {"fields": []}}}
}`

var answers = []struct {
	name, text string
	want       bigquery.Facts
}{
	{"job", jobAnswer, bigquery.Facts{
		Outcome: trailgate.Outcome{
			JobState: "DONE", ErrorReason: "invalidQuery", ErrorMessage: `no "x" éé`, BytesProcessed: 10, BytesBilled: 20, SlotMillis: 4, CacheHit: true, RowsAffected: 3,
		},
		Job: &trailgate.Job{Project: "p", ID: "j", Location: "EU", Type: "QUERY"}, StatementType: "MERGE", UserEmail: "sa@p.iam", BilledTold: true,
		Tables: &trailgate.Tables{Read: []string{"p.d.a", "p.d.b"}, Written: []string{"p.d.c"}, Final: true},
	}},
	{"results", `{"jobComplete":true,"totalRows":"7","rows":[{"f":[{"v":"]}"},{"v":{"f":[{"v":null}]}}]},{"f":[]}],"cacheHit":false,"totalBytesProcessed":"5"}`, bigquery.Facts{
		Outcome: trailgate.Outcome{JobState: "DONE", TotalRows: 7, Rows: 2, BytesProcessed: 5},
	}},
	{"still running", `{"jobComplete":false,"jobReference":{"projectId":"p","jobId":"j"}}`, bigquery.Facts{
		Outcome: trailgate.Outcome{JobState: "RUNNING"}, Job: &trailgate.Job{Project: "p", ID: "j"},
	}},
	{"list", `{"kind":"bigquery#jobList","jobs":[{"id":"1","status":{"state":"DONE"}},{"id":"2"}],"nextPageToken":"x"}`, bigquery.Facts{Outcome: trailgate.Outcome{Rows: 2}}},
	{"error", `{"error":{"code":404,"message":"Not found: Table x","errors":[{"message":"m","domain":"global","reason":"notFound"},{"reason":"second"}],"status":"NOT_FOUND"}}`, bigquery.Facts{
		Outcome: trailgate.Outcome{ErrorReason: "notFound", ErrorMessage: "Not found: Table x"},
	}},
	{"insert errors", `{"kind":"x","insertErrors":[{"index":0},{"index":1}]}`, bigquery.Facts{Outcome: trailgate.Outcome{ErrorReason: "insertErrors", ErrorMessage: "2 rows were not inserted"}}},
	{"nothing", ``, bigquery.Facts{}},
	{"blank", " \n ", bigquery.Facts{}},
	{"array", `[{"jobReference":{"jobId":"x"}}]`, bigquery.Facts{}},
	{"html", `<html>busy</html>`, bigquery.Facts{Outcome: trailgate.Outcome{CaptureError: "?"}}},
	{"cut", `{"jobComplete":true,"rows":[{"f":[]},{"f":`, bigquery.Facts{Outcome: trailgate.Outcome{JobState: "DONE", Rows: 2, CaptureError: "?"}}},
	{"trailing", `{} {}`, bigquery.Facts{Outcome: trailgate.Outcome{CaptureError: "?"}}},
	{"no comma", `{"a":1 "b":2}`, bigquery.Facts{Outcome: trailgate.Outcome{CaptureError: "?"}}},
}

func TestCapture(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, tt := range answers {
		t.Run(tt.name, func(t *testing.T) {
			whole := capture(t, tt.text)
			got := whole
			if (got.Outcome.CaptureError != "") != (tt.want.Outcome.CaptureError != "") {
				t.Errorf("capture error %q", got.Outcome.CaptureError)
			}
			got.Outcome.CaptureError, tt.want.Outcome.CaptureError = "", ""
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			// However the answer is cut into parts, it says the same.
			for range 50 {
				var parts []string
				for rest := tt.text; rest != ""; {
					n := 1 + rnd.IntN(min(len(rest), 9))
					parts, rest = append(parts, rest[:n]), rest[n:]
				}
				if d := cmp.Diff(whole, capture(t, parts...)); d != "" {
					t.Fatalf("cut into %q: %s", parts, d)
				}
			}
		})
	}
}

// page is a result page of about n bytes.
func page(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"jobComplete":true,"rows":[`)
	for i := 0; b.Len() < n; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"f":[{"v":"%d"},{"v":"customer %d of the north"},{"v":"%d.25"},{"v":"2026-11-23T10:00:00Z"},{"v":null}]}`, i, i*7, i*3)
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

// TestCaptureMemory: what is kept does not grow with the answer.
func TestCaptureMemory(t *testing.T) {
	c := bigquery.NewCapture(nil)
	row := []byte(strings.Repeat(`{"f":[{"v":"`+strings.Repeat("x", 100)+`"}]},`, 100))
	c.Write([]byte(`{"error":{"message":"`))
	c.Write(bytes.Repeat([]byte("m"), 1<<20))
	c.Write([]byte(`"},"` + strings.Repeat("k", 1<<20) + `":1,"rows":[`))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 10_000 {
		c.Write(row)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Errorf("%d bytes were taken for %d of answer", grown, 10_000*len(row))
	}
	c.Write([]byte(`{}]}`))
	if f := c.Facts(); f.Outcome.Rows != 1_000_001 || f.Outcome.CaptureError != "" || len(f.Outcome.ErrorMessage) > 1<<13 {
		t.Errorf("%d rows, %q, %d", f.Outcome.Rows, f.Outcome.CaptureError, len(f.Outcome.ErrorMessage))
	}
}

func FuzzCapture(f *testing.F) {
	for _, a := range answers {
		f.Add([]byte(a.text), 3)
	}
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		whole := capture(t, string(text))
		if cut <= 0 || cut >= len(text) {
			return
		}
		if d := cmp.Diff(whole, capture(t, string(text[:cut]), string(text[cut:]))); d != "" {
			t.Error(d)
		}
	})
}

// pretty is the same page as BigQuery sends it where nobody asks otherwise.
func pretty(text []byte) []byte {
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// TestCapturePages cuts result pages at every place, so that whatever is read
// in larger steps meets the cut.
func TestCapturePages(t *testing.T) {
	text := []byte(`{"rows":[{"f":[{"v":"a"},{"v":"b\\\""},{"v":""},{"v":null},{"v":"},{"},{"v":[{"v":"1234567\\"},{"v":"12345678"}]}]},{"f":[]}],"totalRows":"2"}`)
	for _, page := range [][]byte{text, pretty(text)} {
		whole := capture(t, string(page))
		if whole.Outcome.Rows != 2 || whole.Outcome.TotalRows != 2 || whole.Outcome.CaptureError != "" {
			t.Fatalf("%s: %+v", page, whole)
		}
		for i := range page {
			if d := cmp.Diff(whole, capture(t, string(page[:i]), string(page[i:]))); d != "" {
				t.Fatalf("cut at %d: %s", i, d)
			}
		}
	}
}

func BenchmarkCapture(b *testing.B) {
	for name, text := range map[string][]byte{
		"compact": page(4 << 20), "pretty": pretty(page(4 << 20)), "long strings": bytes.Replace(page(4<<20), []byte("customer"), bytes.Repeat([]byte("customer"), 20), -1),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				c := bigquery.NewCapture(nil)
				for rest := text; len(rest) > 0; rest = rest[min(len(rest), 32<<10):] {
					c.Write(rest[:min(len(rest), 32<<10)])
				}
			}
		})
	}
}

func BenchmarkReadBody(b *testing.B) {
	body := []byte(`{"configuration":{"query":{"query":"DELETE FROM staging.imports WHERE batch_id = 42","useLegacySql":false},"labels":{"a":"b"}},"jobReference":{"projectId":"p","jobId":"j"}}`)
	for b.Loop() {
		c, err := bigquery.Route(bigquery.Request{Verb: "POST", EscapedPath: "/bigquery/v2/projects/p/jobs"})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.ReadBody(body); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Stamp(bigquery.Stamp{Labels: map[string]string{"trailgate_entry": "x"}}); err != nil {
			b.Fatal(err)
		}
	}
}
