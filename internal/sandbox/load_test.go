package sandbox_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/sandbox"
)

// loadBody is the Job of a load into staging.TABLE.
func loadBody(table string, cfg object) object {
	load := object{"destinationTable": object{"projectId": "demo-project", "datasetId": "staging", "tableId": table}}
	merge(load, cfg)
	return object{"configuration": object{"load": load}, "jobReference": object{"projectId": "demo-project"}}
}

// multipartBody is an upload in one request, as bq sends it with
// --enable_resumable_uploads=false.
func multipartBody(t *testing.T, job object, data string) (contentType string, body []byte) {
	t.Helper()
	raw, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	const boundary = "===============7330845974216740156=="
	return `multipart/related; boundary="` + boundary + `"`, []byte("--" + boundary + "\nContent-Type: application/json\nMIME-Version: 1.0\n\n" + string(raw) +
		"\n--" + boundary + "\nContent-Type: application/octet-stream\nMIME-Version: 1.0\nContent-Transfer-Encoding: binary\n\n" + data + "\n--" + boundary + "--")
}

func (c *client) upload(path string, job object, data string) (int, object) {
	c.t.Helper()
	contentType, body := multipartBody(c.t.(*testing.T), job, data)
	w := c.raw("POST", path, contentType, body)
	o := object{}
	if err := json.Unmarshal(w.Body.Bytes(), &o); err != nil {
		c.t.Fatalf("%v: %s", err, w.Body)
	}
	return w.Code, o
}

const (
	uploadPath    = "/upload" + base + "/jobs?uploadType=multipart"
	resumablePath = "/upload" + base + "/jobs?uploadType=resumable"
)

func TestMultipartUpload(t *testing.T) {
	c := seeded(t)
	code, job := c.upload(uploadPath+"&alt=json", loadBody("imports", object{"skipLeadingRows": 1, "sourceFormat": "CSV"}), "id,batch_id,source,amount,currency,valid,imported_at\n7001,70,\"a, \"\"b\"\"\",1.5,EUR,true,2026-11-20 10:00:00 UTC\n7002,,,,,,\n")
	if code != 200 || at(job, "status.errorResult") != "" || at(job, "statistics.load.outputRows") != "2" || at(job, "configuration.jobType") != "LOAD" {
		t.Fatalf("%d %v", code, job)
	}
	if got := strings.Join(rows(c.query("SELECT * FROM staging.imports WHERE id > 7000 ORDER BY id")), " "); got != `7001|70|a, "b"|1.5|EUR|true|1.7951688E9 7002|∅||∅||∅|∅` {
		t.Errorf("rows %s", got)
	}
	if code, o := c.upload(uploadPath, object{"configuration": object{"query": object{"query": "SELECT 1"}}}, "x"); code != 400 || at(o, "error.errors.0.reason") != "invalid" {
		t.Errorf("an upload for a query: %d %v", code, o)
	}
	for _, body := range []string{"", "--b\r\n\r\n{}\r\n--b--", "garbage"} {
		if w := c.raw("POST", uploadPath, "multipart/related; boundary=b", []byte(body)); w.Code != 400 {
			t.Errorf("body %q: %d", body, w.Code)
		}
	}
	if w := c.raw("POST", uploadPath, "text/plain", nil); w.Code != 400 {
		t.Errorf("no multipart: %d", w.Code)
	}
	if w := c.raw("POST", "/upload"+base+"/jobs?uploadType=media", "text/csv", []byte("x")); w.Code != 501 {
		t.Errorf("uploadType=media: %d", w.Code)
	}
}

// TestResumableUpload sends data in chunks, asks for the state in between, and
// sends again what was there.
func TestResumableUpload(t *testing.T) {
	for _, door := range []string{"/upload", "/resumable/upload"} {
		c := seeded(t)
		body, err := json.Marshal(loadBody("made", object{"autodetect": true, "sourceFormat": "NEWLINE_DELIMITED_JSON"}))
		if err != nil {
			t.Fatal(err)
		}
		c.header = http.Header{"X-Upload-Content-Type": {"application/octet-stream"}}
		w := c.raw("POST", door+base+"/jobs?uploadType=resumable&alt=json", "application/json", body)
		location := w.Header().Get("Location")
		if w.Code != 200 || !strings.HasPrefix(location, "http://bigquery.test"+door+base+"/jobs?uploadType=resumable&upload_id=") || w.Header().Get("X-Guploader-Uploadid") == "" {
			t.Fatalf("start: %d %v", w.Code, w.Header())
		}
		location = strings.TrimPrefix(location, "http://bigquery.test")
		data := `{"k":1,"name":"a","at":"2026-11-01T00:00:00Z"}` + "\n" + `{"k":2.5,"tags":["x"]}` + "\n"
		send := func(contentRange, part string) (int, http.Header, []byte) {
			c.header = http.Header{"Content-Range": {contentRange}}
			w := c.raw("PUT", location, "", []byte(part))
			return w.Code, w.Header(), w.Body.Bytes()
		}
		if code, h, _ := send("bytes 0-9/*", data[:10]); code != 308 || h.Get("Range") != "bytes=0-9" {
			t.Errorf("first chunk: %d %v", code, h)
		}
		if code, h, _ := send("bytes */*", ""); code != 308 || h.Get("Range") != "bytes=0-9" {
			t.Errorf("state: %d %v", code, h)
		}
		if code, _, _ := send("bytes 30-39/*", data[30:40]); code != 400 {
			t.Errorf("a chunk with a gap before it: %d", code)
		}
		if code, h, _ := send("bytes 5-29/*", data[5:30]); code != 308 || h.Get("Range") != "bytes=0-29" {
			t.Errorf("overlapping chunk: %d %v", code, h)
		}
		last := fmt.Sprintf("bytes 30-%d/%d", len(data)-1, len(data))
		code, _, raw := send(last, data[30:])
		var job object
		if err := json.Unmarshal(raw, &job); err != nil || code != 200 || at(job, "status.errorResult") != "" || at(job, "statistics.load.outputRows") != "2" {
			t.Fatalf("last chunk: %d %s", code, raw)
		}
		// A client that missed the answer asks again and makes no second job.
		code, _, raw = send(last, data[30:])
		var again object
		if err := json.Unmarshal(raw, &again); err != nil || code != 200 || at(again, "id") != at(job, "id") {
			t.Errorf("asked again: %d %s", code, raw)
		}
		c.header = http.Header{}
		o := c.query("SELECT k, name, tags FROM staging.made ORDER BY k")
		if got := types(o) + " " + strings.Join(rows(o), " "); got != `k:FLOAT,name:STRING,tags:STRING[] 1.0|a|[] 2.5|∅|[{"v":"x"}]` {
			t.Errorf("rows %s", got)
		}
	}
}

func TestResumableUploadEdges(t *testing.T) {
	c := seeded(t)
	start := func(total string) string {
		body, err := json.Marshal(loadBody("imports", nil))
		if err != nil {
			t.Fatal(err)
		}
		c.header = http.Header{"X-Upload-Content-Length": {total}}
		w := c.raw("POST", resumablePath, "application/json", body)
		c.header = http.Header{}
		if w.Code != 200 {
			return fmt.Sprint(w.Code)
		}
		return strings.TrimPrefix(w.Header().Get("Location"), "http://bigquery.test")
	}
	row := "7001,70,shop,1,EUR,true,2026-11-20\n"

	// All at once, without a Content-Range.
	if w := c.raw("PUT", start(fmt.Sprint(len(row))), "", []byte(row)); w.Code != 200 {
		t.Errorf("at once: %d %s", w.Code, w.Body)
	}
	// More than was announced.
	if w := c.raw("PUT", start("5"), "", []byte(row)); w.Code != 400 {
		t.Errorf("too much: %d", w.Code)
	}
	// Given up.
	loc := start(fmt.Sprint(len(row)))
	if w := c.raw("DELETE", loc, "", nil); w.Code != 499 {
		t.Errorf("delete: %d", w.Code)
	}
	if w := c.raw("PUT", loc, "", []byte(row)); w.Code != 404 {
		t.Errorf("after delete: %d", w.Code)
	}
	// A client of Go's library wants 200 for "go on".
	loc = start(fmt.Sprint(len(row)))
	c.header = http.Header{"Content-Range": {fmt.Sprintf("bytes 0-4/%d", len(row))}, "X-Guploader-No-308": {"yes"}}
	if w := c.raw("PUT", loc, "", []byte(row[:5])); w.Code != 200 || w.Header().Get("X-Http-Status-Code-Override") != "308" || w.Header().Get("Range") != "bytes=0-4" {
		t.Errorf("no 308: %d %v", w.Code, w.Header())
	}
	c.header = http.Header{}
	for _, total := range []string{"-1", "x", "999999999999"} {
		if got := start(total); got != "400" {
			t.Errorf("announcing %s: %s", total, got)
		}
	}
	if w := c.raw("GET", loc, "", nil); w.Code != 405 {
		t.Errorf("GET: %d", w.Code)
	}
	if n := len(c.s.Jobs()); n != 1 {
		t.Errorf("%d jobs, want the one that was sent whole", n)
	}
}

// TestUploadBelongsToItsPrincipal: nobody else may go on with an upload.
func TestUploadBelongsToItsPrincipal(t *testing.T) {
	c := newClient(t, sandbox.Config{Principals: map[string]string{"a": "a@x", "b": "b@x"}})
	c.token = "a"
	w := c.raw("POST", resumablePath, "application/json", []byte(`{}`))
	c.token = "b"
	if got := c.raw("PUT", strings.TrimPrefix(w.Header().Get("Location"), "http://bigquery.test"), "", []byte("x")).Code; got != 403 {
		t.Errorf("another principal: %d", got)
	}
}

func TestLoadFromObjects(t *testing.T) {
	c := seeded(t)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	fmt.Fprint(z, "a;b\n1;x\n2;\n")
	z.Close()
	if err := c.s.PutObject("gs://b/part-1.csv.gz", packed.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := c.s.PutObject("gs://b/part-2.csv.gz", []byte("a;b\n3;NULL\n")); err != nil {
		t.Fatal(err)
	}
	if err := c.s.PutObject("http://b/x", nil); err == nil {
		t.Error("an object at an http address")
	}
	load := func(table string, cfg object) object {
		return c.ok("POST", base+"/jobs", loadBody(table, cfg))
	}
	job := load("parts", object{"sourceUris": []any{"gs://b/part-*.gz"}, "fieldDelimiter": ";", "skipLeadingRows": 1, "autodetect": true, "nullMarker": "NULL"})
	if at(job, "status.errorResult") != "" || at(job, "statistics.load.inputFiles") != "2" {
		t.Fatalf("%v", job)
	}
	if o := c.query("SELECT * FROM staging.parts ORDER BY a"); strings.Join(rows(o), " ") != "1|x 2| 3|∅" || types(o) != "a:INTEGER,b:STRING" {
		t.Errorf("%s %v", types(o), rows(o))
	}
	for _, tt := range []struct {
		cfg    object
		reason string
	}{
		{object{"sourceUris": []any{"gs://b/absent"}}, "notFound"},
		{object{"sourceUris": []any{"gs://b/part-2.csv.gz"}, "fieldDelimiter": ";"}, "invalid"}, // the header is no number
		{object{"sourceUris": []any{"gs://b/part-2.csv.gz"}, "skipLeadingRows": 1}, "invalid"},  // one column
		{object{"sourceUris": []any{"gs://b/part-2.csv.gz"}, "fieldDelimiter": ";", "skipLeadingRows": 1, "writeDisposition": "WRITE_EMPTY"}, "duplicate"},
	} {
		if got := at(load("parts", tt.cfg), "status.errorResult.reason"); got != tt.reason {
			t.Errorf("%v: %q, want %s", tt.cfg, got, tt.reason)
		}
	}
	job = load("parts", object{"sourceUris": []any{"gs://b/part-2.csv.gz"}, "fieldDelimiter": ";", "maxBadRecords": 1})
	if at(job, "status.errorResult") != "" || at(job, "statistics.load.badRecords") != "1" || at(job, "status.errors.0.reason") != "invalid" {
		t.Errorf("with a bad record: %v", job["status"])
	}
	if got := at(load("unknown", object{"sourceUris": []any{"gs://b/part-2.csv.gz"}}), "status.errorResult.message"); got != "No schema specified on job or table." {
		t.Errorf("no schema: %q", got)
	}
	for _, cfg := range []object{
		{"sourceUris": []any{"gs://b/x"}, "sourceFormat": "PARQUET"}, {"sourceUris": []any{"gs://b/x"}, "encoding": "ISO-8859-1"}, {"sourceUris": []any{"gs://b/x"}, "hivePartitioningOptions": object{"mode": "AUTO"}},
	} {
		c.fails("POST", base+"/jobs", loadBody("parts", cfg), 501, "notImplemented")
	}
	c.fails("POST", base+"/jobs", loadBody("parts", nil), 400, "required")
}

func TestExtractAndCopy(t *testing.T) {
	c := seeded(t)
	c.query("CREATE TABLE staging.small AS SELECT id, source, valid, imported_at, 1.5 AS f FROM staging.imports WHERE id < 3")
	ref := func(table string) object {
		return object{"projectId": "demo-project", "datasetId": "staging", "tableId": table}
	}
	extract := func(cfg object) object {
		merge(cfg, object{"sourceTable": ref("small")})
		return c.ok("POST", base+"/jobs", object{"configuration": object{"extract": cfg}})
	}
	job := extract(object{"destinationUris": []any{"gs://out/small-*.csv"}})
	if at(job, "status.errorResult") != "" || at(job, "statistics.extract.destinationUriFileCounts.0") != "1" || at(job, "configuration.jobType") != "EXTRACT" {
		t.Errorf("%v", job)
	}
	extract(object{"destinationUris": []any{"gs://out/small.json"}, "destinationFormat": "NEWLINE_DELIMITED_JSON"})
	extract(object{"destinationUri": "gs://out/small.tsv", "printHeader": false, "fieldDelimiter": "\t"})
	got := map[string]string{}
	for _, uri := range c.s.Objects() {
		if strings.HasPrefix(uri, "gs://out/") {
			data, _ := c.s.Object(uri)
			got[uri] = string(data)
		}
	}
	want := map[string]string{
		"gs://out/small-000000000000.csv": "id,source,valid,imported_at,f\n1,partner-feed,true,2026-11-01 06:00:00 UTC,1.5\n2,call-center,true,2026-11-01 06:01:00 UTC,1.5\n",
		"gs://out/small.json":             `{"f":1.5,"id":"1","imported_at":"2026-11-01 06:00:00 UTC","source":"partner-feed","valid":true}` + "\n" + `{"f":1.5,"id":"2","imported_at":"2026-11-01 06:01:00 UTC","source":"call-center","valid":true}` + "\n",
		"gs://out/small.tsv":              "1\tpartner-feed\ttrue\t2026-11-01 06:00:00 UTC\t1.5\n2\tcall-center\ttrue\t2026-11-01 06:01:00 UTC\t1.5\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	job = c.insert("EXPORT DATA OPTIONS(uri='gs://out/data-*.csv', format='CSV', header=true) AS SELECT COUNT(*) AS n FROM finance.payroll", nil)
	if data, _ := c.s.Object("gs://out/data-000000000000.csv"); string(data) != "n\n120\n" || at(job, "statistics.query.statementType") != "EXPORT_DATA" || at(job, "statistics.query.referencedTables.0.tableId") != "payroll" {
		t.Errorf("EXPORT DATA: %q %v", data, job["statistics"])
	}

	cp := func(cfg object) object {
		merge(cfg, object{"destinationTable": ref("copied")})
		return c.ok("POST", base+"/jobs", object{"configuration": object{"copy": cfg}})
	}
	if job := cp(object{"sourceTable": ref("small")}); at(job, "status.errorResult") != "" || at(job, "statistics.copy.copiedRows") != "2" {
		t.Errorf("copy: %v", job)
	}
	if got := at(cp(object{"sourceTable": ref("small")}), "status.errorResult.reason"); got != "duplicate" {
		t.Errorf("copy again: %q", got)
	}
	cp(object{"sourceTables": []any{ref("small"), ref("small")}, "writeDisposition": "WRITE_APPEND"})
	if got := rows(c.query("SELECT COUNT(*) FROM staging.copied"))[0]; got != "6" {
		t.Errorf("%s rows copied", got)
	}
	if got := at(cp(object{"sourceTables": []any{ref("small"), ref("imports")}, "writeDisposition": "WRITE_TRUNCATE"}), "status.errorResult.reason"); got != "invalid" {
		t.Errorf("copy of two kinds: %q", got)
	}
	c.fails("POST", base+"/jobs", object{"configuration": object{"copy": object{"sourceTable": ref("small"), "destinationTable": ref("x"), "operationType": "SNAPSHOT"}}}, 501, "notImplemented")
	c.fails("POST", base+"/jobs", object{"configuration": object{"extract": object{"sourceTable": ref("small"), "destinationUris": []any{"gs://a/b"}, "destinationFormat": "AVRO"}}}, 501, "notImplemented")
}
