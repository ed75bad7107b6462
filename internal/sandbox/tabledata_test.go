package sandbox_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/trailgate/trailgate/internal/sandbox"
)

func TestTabledataList(t *testing.T) {
	c := seeded(t)
	data := datasets + "/staging/tables/imports/data"
	o := c.ok("GET", data+"?maxResults=2", nil)
	if at(o, "kind") != "bigquery#tableDataList" || at(o, "totalRows") != "1250" || len(rows(o)) != 2 || at(o, "pageToken") == "" {
		t.Errorf("first page %v", o)
	}
	if got := rows(c.ok("GET", data+"?maxResults=1&selectedFields=id,batch_id&pageToken="+at(o, "pageToken"), nil)); got[0] != "3|40" {
		t.Errorf("second page %v", got)
	}
	if got := rows(c.ok("GET", data+"?startIndex=1249&selectedFields=id,imported_at&formatOptions.useInt64Timestamp=true", nil)); got[0] != "1250|1793873340000000" {
		t.Errorf("last row %v", got)
	}
	if got := rows(c.ok("GET", data+"?startIndex=1249&selectedFields=imported_at&formatOptions.timestampOutputFormat=ISO8601_STRING", nil)); got[0] != "2026-11-05T10:09:00.000000Z" {
		t.Errorf("last row %v", got)
	}
	if n := len(rows(c.ok("GET", data, nil))); n != 1250 {
		t.Errorf("all: %d rows", n)
	}
	c.fails("GET", data+"?selectedFields=nope", nil, 400, "invalid")
	c.fails("GET", datasets+"/staging/tables/absent/data", nil, 404, "notFound")
}

func TestInsertAll(t *testing.T) {
	c := seeded(t)
	c.ok("POST", datasets+"/staging/tables", object{"tableReference": object{"tableId": "t"}, "schema": object{"fields": []any{
		object{"name": "id", "type": "INTEGER", "mode": "REQUIRED"},
		object{"name": "tags", "type": "STRING", "mode": "REPEATED"},
		object{"name": "seen", "type": "TIMESTAMP"},
		object{"name": "r", "type": "RECORD", "fields": []any{object{"name": "x", "type": "FLOAT"}, object{"name": "ok", "type": "BOOLEAN"}}},
		object{"name": "j", "type": "JSON"},
	}}})
	path := datasets + "/staging/tables/t/insertAll"
	o := c.ok("POST", path, object{"rows": []any{
		object{"insertId": "a", "json": object{"id": 1, "tags": []any{"x", "y"}, "seen": "2026-11-01T10:00:00Z", "r": object{"x": 1, "ok": true}, "j": `{"k":[1]}`}},
		object{"insertId": "b", "json": object{"id": "2", "seen": 1793527200.5}},
		object{"insertId": "a", "json": object{"id": 3}},
	}})
	if at(o, "insertErrors") != "" || at(o, "kind") != "bigquery#tableDataInsertAllResponse" {
		t.Errorf("answer %v", o)
	}
	c.ok("POST", path, object{"rows": []any{object{"insertId": "b", "json": object{"id": 4}}}})
	got := strings.Join(rows(c.ok("GET", datasets+"/staging/tables/t/data", nil)), " ")
	if got != `1|[{"v":"x"},{"v":"y"}]|1.7935272E9|{"f":[{"v":"1.0"},{"v":"true"}]}|{"k":[1]} 2|[]|1.7935272005E9|∅|∅` {
		t.Errorf("rows %s", got)
	}

	c.fails("POST", base+"/queries", object{"query": "SELECT r.x FROM staging.t", "useLegacySql": false}, 501, "notImplemented")
	if got := rows(c.query("SELECT * FROM staging.t ORDER BY id"))[0]; !strings.HasPrefix(got, `1|[{"v":"x"},{"v":"y"}]|1.7935272E9|{"f":`) {
		t.Errorf("a query's row %s", got)
	}

	// One bad row stops all, unless it is to be skipped.
	bad := object{"rows": []any{object{"json": object{"id": 5}}, object{"json": object{"nope": 1}}, object{"json": object{}}}}
	o = c.ok("POST", path, bad)
	if at(o, "insertErrors.0.errors.0.reason") != "stopped" || at(o, "insertErrors.1.errors.0.message") != "no such field: nope." || at(o, "insertErrors.2.errors.0.reason") != "invalid" {
		t.Errorf("errors %v", o)
	}
	bad["skipInvalidRows"] = true
	if o = c.ok("POST", path, bad); at(o, "insertErrors.0.index") != "1" || at(o, "insertErrors.2") != "" {
		t.Errorf("errors %v", o)
	}
	if got := at(c.ok("GET", datasets+"/staging/tables/t", nil), "numRows"); got != "3" {
		t.Errorf("%s rows", got)
	}
	c.fails("POST", path, object{"rows": []any{}}, 400, "invalid")
	c.fails("POST", path, object{"templateSuffix": "x", "rows": []any{object{"json": object{"id": 1}}}}, 501, "notImplemented")
	c.fails("POST", datasets+"/analytics/tables/daily_revenue/insertAll", bad, 400, "invalid")
}

// TestBenchRows: big answers, computed, all rows in one page where that is
// allowed.
func TestBenchRows(t *testing.T) {
	c := newClient(t, sandbox.Config{MaxPageBytes: 1 << 30})
	const n = 100_000
	path := datasets + "/bench/tables/rows_100000"
	if got := at(c.ok("GET", path, nil), "numRows"); got != "100000" {
		t.Errorf("numRows %s", got)
	}
	w := c.raw("GET", path+"/data", "", nil)
	var o object
	if err := json.Unmarshal(w.Body.Bytes(), &o); err != nil {
		t.Fatal(err)
	}
	all := rows(o)
	if len(all) != n || at(o, "pageToken") != "" || all[n-1] != "99999|customer 269 of the north|999.25|paid in full, delivered on time" {
		t.Errorf("%d rows, last %s", len(all), all[len(all)-1])
	}
	job := c.insert("SELECT * FROM bench.rows_100000", nil)
	if got := rows(c.ok("GET", base+"/queries/"+at(job, "jobReference.jobId"), nil)); len(got) != n || got[n-1] != all[n-1] {
		t.Errorf("query: %d rows", len(got))
	}
	// SQLite computes the same ones.
	if got := rows(c.query("SELECT * FROM bench.rows_100000 WHERE id = 99999")); len(got) != 1 || got[0] != all[n-1] {
		t.Errorf("filtered: %v", got)
	}
	c.fails("GET", datasets+"/bench/tables/rows_0", nil, 404, "notFound")
	c.fails("GET", datasets+"/bench/tables/rows_999999999999", nil, 404, "notFound")
	c.fails("POST", base+"/queries", object{"query": "DROP TABLE bench.rows_5", "useLegacySql": false}, 403, "accessDenied")
}

func TestGzip(t *testing.T) {
	c := seeded(t)
	for _, path := range []string{datasets + "/staging", datasets + "/staging/tables/imports/data", "/$discovery/rest?version=v2"} {
		plain := c.raw("GET", path, "", nil)
		c.header = http.Header{"Accept-Encoding": {"gzip"}}
		packed := c.raw("GET", path, "", nil)
		c.header = http.Header{}
		if packed.Header().Get("Content-Encoding") != "gzip" || plain.Header().Get("Content-Encoding") != "" {
			t.Fatalf("%s: encodings %v, %v", path, packed.Header(), plain.Header())
		}
		z, err := gzip.NewReader(packed.Body)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(z)
		if err != nil || !bytes.Equal(got, plain.Body.Bytes()) {
			t.Errorf("%s: %d bytes unpacked, %d plain, %v", path, len(got), plain.Body.Len(), err)
		}
	}
	// A request may be packed too.
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, `{"query":"SELECT 1","useLegacySql":false}`)
	z.Close()
	c.header = http.Header{"Content-Encoding": {"gzip"}}
	if w := c.raw("POST", base+"/queries", "application/json", b.Bytes()); w.Code != 200 {
		t.Errorf("packed request: %d %s", w.Code, w.Body)
	}
}

func TestPartialResponse(t *testing.T) {
	c := seeded(t)
	for _, tt := range []struct{ path, want string }{
		{datasets + "/staging?fields=id,datasetReference/datasetId", `{"datasetReference":{"datasetId":"staging"},"id":"demo-project:staging"}`},
		{datasets + "?fields=datasets(datasetReference(datasetId)),kind", `{"datasets":[{"datasetReference":{"datasetId":"analytics"}},{"datasetReference":{"datasetId":"finance"}},{"datasetReference":{"datasetId":"staging"}}],"kind":"bigquery#datasetList"}`},
		{datasets + "/staging/tables/imports/data?maxResults=1&selectedFields=id&fields=totalRows", `{"totalRows":"1250"}`},
		{datasets + "/staging/tables/imports/data?maxResults=1&selectedFields=id&fields=rows,totalRows", `{"totalRows":"1250","rows":[{"f":[{"v":"1"}]}]}`},
		{datasets + "/staging/tables/imports/data?maxResults=1250&selectedFields=id&startIndex=1249&fields=rows", `{"rows":[{"f":[{"v":"1250"}]}]}`},
	} {
		if got := strings.TrimSpace(c.raw("GET", tt.path, "", nil).Body.String()); got != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.path, got, tt.want)
		}
	}
	c.fails("GET", datasets+"?fields=a(b", nil, 400, "invalid")
	c.fails("GET", datasets+"?fields=,", nil, 400, "invalid")
}
