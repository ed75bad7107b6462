package sandbox_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/trailgate/trailgate/internal/sandbox"
)

// TestConcurrentUse has many clients do everything at once, for the race
// detector, and counts that nothing is lost.
func TestConcurrentUse(t *testing.T) {
	c := seeded(t)
	c.query("CREATE TABLE staging.counts (worker INT64, n INT64)")
	const workers, rounds = 8, 6
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for n := range rounds {
				id := fmt.Sprintf("w%d-%d", w, n)
				more := withID(id)
				if n%3 == 0 {
					merge(more, withLabels("sandbox_delay_ms", "1"))
				}
				c.insert(fmt.Sprintf("INSERT staging.counts VALUES (%d, %d)", w, n), more)
				c.query("SELECT worker, COUNT(*) FROM staging.counts GROUP BY worker")
				c.ok("GET", base+"/queries/"+id, nil)
				c.ok("GET", base+"/jobs?projection=full&maxResults=5", nil)
				c.ok("GET", datasets+"/staging/tables/counts/data?maxResults=3", nil)
				c.ok("GET", datasets+"/staging/tables", nil)
				c.ok("PATCH", datasets+"/staging", object{"labels": object{"last": fmt.Sprint(w)}})
				c.ok("PATCH", datasets+"/staging/tables/counts", object{"description": id})
				c.ok("POST", datasets+"/staging:setIamPolicy", object{"policy": object{"bindings": []any{}}})
				c.query(fmt.Sprintf("CREATE OR REPLACE TABLE staging.own_%d AS SELECT * FROM staging.counts; DROP TABLE staging.own_%d", w, w))
				c.s.Jobs()
				c.s.Calls()
			}
		})
	}
	wg.Wait()
	if got := rows(c.query("SELECT COUNT(*), COUNT(DISTINCT worker * 1000 + n) FROM staging.counts"))[0]; got != "48|48" {
		t.Errorf("%s rows", got)
	}
	if got := at(c.ok("GET", datasets+"/staging/tables/counts", nil), "numRows"); got != "48" {
		t.Errorf("numRows %s", got)
	}
}

// TestSameJobIDAtOnce: of many requests with one job id, one has an effect.
func TestSameJobIDAtOnce(t *testing.T) {
	c := seeded(t)
	c.query("CREATE TABLE staging.hits (n INT64)")
	var wg sync.WaitGroup
	codes := make([]int, 16)
	for i := range codes {
		wg.Go(func() {
			codes[i], _ = c.do("POST", base+"/jobs", queryBody("INSERT staging.hits VALUES (1)", withID("once")))
		})
	}
	wg.Wait()
	ok := 0
	for _, code := range codes {
		if code == 200 {
			ok++
		} else if code != 409 {
			t.Errorf("status %d", code)
		}
	}
	if got := rows(c.query("SELECT COUNT(*) FROM staging.hits"))[0]; ok != 1 || got != "1" {
		t.Errorf("%d answers 200, %s rows", ok, got)
	}
	for i := range codes {
		wg.Go(func() {
			codes[i], _ = c.do("POST", base+"/queries", object{"query": "INSERT staging.hits VALUES (2)", "useLegacySql": false, "requestId": "r"})
		})
	}
	wg.Wait()
	if got := rows(c.query("SELECT COUNT(*) FROM staging.hits WHERE n = 2"))[0]; got != "1" {
		t.Errorf("one requestId: %s rows", got)
	}
}

// FuzzQuery: whatever SQL comes, the answer is a result or an error in
// BigQuery's shape, and never the sandbox's own failure.
func FuzzQuery(f *testing.F) {
	for _, sql := range []string{
		"SELECT id, COUNT(*) FROM staging.imports GROUP BY 1", "DELETE FROM staging.imports WHERE id = 1", "INSERT staging.imports (id) VALUES (1)", "SELECT * FROM analytics.daily_revenue LIMIT 1",
		"CREATE OR REPLACE TABLE staging.x AS SELECT 1 a", "DECLARE a INT64 DEFAULT 1; SELECT a", "SELECT DATE_ADD(DATE '2026-01-01', INTERVAL 1 DAY), REPEAT('x', 3), CAST('1' AS INT64)",
		"SELECT x FROM UNNEST(GENERATE_ARRAY(1, 3)) AS x", "BEGIN; DELETE FROM staging.imports WHERE TRUE; ROLLBACK", "EXECUTE IMMEDIATE 'SELECT 1'", "SELECT LPAD('a', 5), POW(2, 2), SPLIT('a,b'), @p, ?",
	} {
		f.Add(sql, false)
		f.Add(sql, true)
	}
	c := seeded(f)
	f.Fuzz(func(t *testing.T, sql string, legacy bool) {
		if strings.Contains(strings.ToLower(sql), "rows_") || strings.Contains(strings.ToLower(sql), "recursive") {
			return // legal ways to keep a machine busy
		}
		raw, err := json.Marshal(object{"query": sql, "useLegacySql": legacy})
		if err != nil {
			t.Fatal(err)
		}
		own := *c
		own.t = t
		w := own.raw("POST", base+"/queries", "application/json", raw)
		var o object
		if err := json.Unmarshal(w.Body.Bytes(), &o); err != nil {
			t.Fatalf("%q: %v: %s", sql, err, w.Body)
		}
		if w.Code >= 500 && w.Code != 501 || w.Code != 200 && at(o, "error.errors.0.reason") == "" {
			t.Errorf("%q: %d %s", sql, w.Code, w.Body)
		}
	})
}

func BenchmarkSmallQuery(b *testing.B) {
	c := seeded(b)
	for b.Loop() {
		c.insert("DELETE FROM staging.imports WHERE batch_id = 42", nil)
	}
}

// BenchmarkBigPage streams 100 MB of tabledata over loopback.
func BenchmarkBigPage(b *testing.B) {
	s, err := sandbox.New(sandbox.Config{MaxPageBytes: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	srv := httptest.NewServer(s)
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	var n int64
	for b.Loop() {
		resp, err := client.Get(srv.URL + datasets + "/bench/tables/rows_800000/data")
		if err != nil {
			b.Fatal(err)
		}
		if n, err = io.Copy(io.Discard, resp.Body); err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
	}
	b.SetBytes(n)
}
