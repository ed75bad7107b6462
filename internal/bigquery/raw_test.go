package bigquery_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/bigquery"
)

// rows gathers what a sink is handed.
type rows struct {
	schema  string
	list    []string
	current []byte
}

func (r *rows) Schema(raw []byte) { r.schema = string(raw) }
func (r *rows) RowPart(p []byte)  { r.current = append(r.current, p...) }
func (r *rows) EndRow()           { r.list, r.current = append(r.list, string(r.current)), nil }

const answerWithRows = `{
  "kind": "bigquery#queryResponse",
  "schema": { "fields": [ { "name": "a b", "type": "STRING" }, {"name":"n","type":"INTEGER"} ] },
  "jobReference": { "projectId": "p", "jobId": "j" },
  "totalRows": "4",
  "rows": [
    { "f": [ { "v": "one  two\n\\\"}] ,\u00e9" }, { "v": "1" } ] },
    {"f":[{"v":"},{\"v\":\"x"},{"v":null}]},
	{"f":[{"v":[{"v":"a"},{"v":" "}]},{"v":{"f":[{"v":"deep"}]}}]},
    null, "text", 12
  ],
  "jobComplete": true, "cacheHit": false
}`

// TestRows: rows come out as they went in, without the white space between tokens,
// however the answer is cut into parts, and what is captured stays the same.
func TestRows(t *testing.T) {
	var whole struct {
		Schema json.RawMessage
		Rows   []json.RawMessage
	}
	if err := json.Unmarshal([]byte(answerWithRows), &whole); err != nil {
		t.Fatal(err)
	}
	var want []string
	compact := func(raw []byte) string {
		var b bytes.Buffer
		if err := json.Compact(&b, raw); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for _, r := range whole.Rows {
		want = append(want, compact(r))
	}
	plain := bigquery.NewCapture(nil)
	_, _ = plain.Write([]byte(answerWithRows))
	for size := 1; size < 40; size++ {
		var got rows
		c := bigquery.NewCapture(nil)
		c.Rows(&got)
		for rest := []byte(answerWithRows); len(rest) > 0; {
			n := min(size, len(rest))
			_, _ = c.Write(bytes.Clone(rest[:n]))
			rest = rest[n:]
		}
		if diff := cmp.Diff(want, got.list); diff != "" {
			t.Fatalf("in parts of %d:\n%s", size, diff)
		}
		if got.schema != compact(whole.Schema) {
			t.Fatalf("in parts of %d: schema %s", size, got.schema)
		}
		if diff := cmp.Diff(plain.Facts(), c.Facts()); diff != "" {
			t.Fatalf("the facts differ:\n%s", diff)
		}
	}
}

// TestRowsBrokenOff: a row that broke off has no end, and one of an error has no rows.
func TestRowsBrokenOff(t *testing.T) {
	at := strings.Index(answerWithRows, "deep")
	var got rows
	c := bigquery.NewCapture(nil)
	c.Rows(&got)
	_, _ = c.Write([]byte(answerWithRows[:at]))
	if len(got.list) != 2 || len(got.current) == 0 {
		t.Errorf("%d whole rows, %q of the next", len(got.list), got.current)
	}
	if c.Facts().Outcome.CaptureError == "" {
		t.Error("that the answer broke off is not said")
	}
}

// FuzzRows: whatever an answer is, the sink is handed no more than it holds, and valid
// rows come out equal.
func FuzzRows(f *testing.F) {
	f.Add([]byte(answerWithRows), uint64(1))
	f.Add([]byte(`{"rows":[{"f":[{"v":"`), uint64(2))
	f.Add([]byte(`{"rows":[1,2,{}],"rows":[[]]}`), uint64(3))
	f.Fuzz(func(t *testing.T, answer []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		var got rows
		c := bigquery.NewCapture(nil)
		c.Rows(&got)
		for rest := answer; len(rest) > 0; {
			n := 1 + random.IntN(len(rest))
			_, _ = c.Write(rest[:n])
			rest = rest[n:]
		}
		total := 0
		for _, r := range got.list {
			total += len(r)
		}
		if total > len(answer) {
			t.Fatalf("%d bytes of rows out of %d", total, len(answer))
		}
		if !json.Valid(answer) {
			return
		}
		for _, r := range got.list {
			if !json.Valid([]byte(r)) {
				t.Fatalf("row %q is not JSON", r)
			}
		}
	})
}
