package gateway_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/gateway"
	"github.com/trailgate/trailgate/internal/policy"
	"github.com/trailgate/trailgate/internal/recording"
)

// levelPolicy allows everything, and records at a level, with or without asking.
type levelPolicy struct{ level string }

func (p levelPolicy) Evaluate(context.Context, *policy.Input) (policy.Decision, bool) {
	d := policy.Decision{Effect: policy.Allow, Rule: "level"}
	d.Limits.Recording = p.level
	return d, false
}

func (levelPolicy) Digest() string { return strings.Repeat("a", 64) }

// recorder is a store and where it is.
type recorder struct {
	*recording.Store
	dir string
}

func newRecorder(t *testing.T) recorder {
	t.Helper()
	dir := t.TempDir()
	s, err := recording.Open(recording.Options{Dir: filepath.Join(dir, "rows"), KeyDir: filepath.Join(dir, "keys")})
	if err != nil {
		t.Fatal(err)
	}
	return recorder{s, dir}
}

func (r recorder) keep(level string) func(*gateway.Config) {
	return func(c *gateway.Config) {
		c.Recordings = r.Store
		c.Connections[0].Recording = level
	}
}

// rowsOf reads what an entry names.
func (r recorder) rowsOf(t *testing.T, e *trailgate.Entry) (out []string) {
	t.Helper()
	if e.Recording == nil || e.Recording.StoredRows == 0 {
		return nil
	}
	rows, err := r.Rows(t.Context(), e.Recording, 0, e.Recording.StoredRows)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range rows {
		out = append(out, string(raw))
	}
	return out
}

func row(i int) string { return fmt.Sprintf(`{"f":[{"v":"%d"},{"v":"row %d"}]}`, i, i) }

func rowsFrom(from, to int) (list []string) {
	for i := from; i < to; i++ {
		list = append(list, row(i))
	}
	return list
}

const twoColumns = `{"fields":[{"name":"id","type":"INTEGER"},{"name":"name","type":"STRING"}]}`

// results is a job's result in pages of ten, fifty rows in all.
func results(w http.ResponseWriter, r *http.Request) {
	from := 0
	if token := r.URL.Query().Get("pageToken"); token != "" {
		from, _ = strconv.Atoi(strings.TrimPrefix(token, "at-"))
	} else if s := r.URL.Query().Get("startIndex"); s != "" {
		from, _ = strconv.Atoi(s)
	}
	next := ""
	if from+10 < 50 {
		next = fmt.Sprintf(`"pageToken":"at-%d",`, from+10)
	}
	w.Header().Set("Content-Type", "application/json")
	var out io.Writer = w
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		out = z
	}
	fmt.Fprintf(out, `{"kind":"bigquery#getQueryResultsResponse","jobReference":{"projectId":"demo-project","jobId":"j1","location":"US"},"jobComplete":true,"totalRows":"50",%s"schema":%s,"rows":[%s]}`,
		next, twoColumns, strings.Join(rowsFrom(from, from+10), ","))
}

const resultPath = "/bigquery/v2/projects/demo-project/queries/j1"

// outcomes are those of the calls that went back with rows.
func (r *rig) outcomes(method string) (list []*trailgate.Entry) {
	for _, e := range r.trail.all() {
		if e.Kind != trailgate.KindOutcome {
			continue
		}
		if of := r.trail.byID(e.IntentID); of != nil && of.Method == method {
			list = append(list, e)
		}
	}
	return list
}

// TestRecordedPages: each page knows its place, in whatever order pages are asked for,
// compressed or not; one whose token nobody gave out here says that it does not.
func TestRecordedPages(t *testing.T) {
	store := newRecorder(t)
	r := newRig(t, results, store.keep("results"))
	for _, c := range []struct {
		query   string
		gzip    bool
		start   int
		unknown bool
	}{
		{"", false, 0, false},
		{"?pageToken=at-10", true, 10, false},
		{"?pageToken=at-20", false, 20, false},
		{"?pageToken=at-10", false, 10, false},
		{"?startIndex=33", false, 33, false},
		{"?pageToken=at-40", false, 40, true}, // nobody was given that one
		{"?pageToken=at-43", true, 43, false}, // that one comes of the page at 33
	} {
		req := r.request("etl-bot", "GET", resultPath+c.query, "")
		if c.gzip {
			req.Header.Set("Accept-Encoding", "gzip")
		}
		if resp, body, err := r.do(req); err != nil || resp.StatusCode != http.StatusOK || c.gzip != (resp.Header.Get("Content-Encoding") == "gzip") {
			t.Fatalf("%s: %v %s", c.query, err, body)
		}
		list := r.outcomes("bigquery.jobs.getQueryResults")
		e := list[len(list)-1]
		rec := e.Recording
		if rec == nil || rec.Level != "results" || rec.Rows != 10 || rec.StoredRows != 10 || rec.Error != "" || rec.Truncated || rec.PlaceUnknown != c.unknown || !c.unknown && rec.StartRow != int64(c.start) {
			t.Fatalf("%s: %+v", c.query, rec)
		}
		if got := store.rowsOf(t, e); !slices.Equal(got, rowsFrom(c.start, c.start+10)) {
			t.Errorf("%s: recorded %q", c.query, got)
		}
		if schema, err := store.Schema(t.Context(), rec); err != nil || len(schema) != 2 || schema[1].Name != "name" {
			t.Errorf("%s: schema %+v, %v", c.query, schema, err)
		}
	}
	// The same page twice is stored once.
	list := r.outcomes("bigquery.jobs.getQueryResults")
	if list[1].Recording.Body != list[3].Recording.Body || list[1].Recording.Body == list[2].Recording.Body {
		t.Error("equal pages have different names, or others the same")
	}
}

// TestRecordingLevel: the rule's level goes before the connection's, and what is more
// than a read is never below request.
func TestRecordingLevel(t *testing.T) {
	const insert = "/bigquery/v2/projects/demo-project/jobs"
	job := func(sql string) string {
		return `{"configuration":{"query":{"query":"` + sql + `","useLegacySql":false}}}`
	}
	for _, c := range []struct {
		connection, rule, verb, path, body string
		level                              string // in the entry
		text, rows                         bool
	}{
		{"", "", "POST", insert, job("SELECT 1"), "", true, false},
		{"metadata", "", "POST", insert, job("SELECT 1"), "metadata", false, false},
		{"metadata", "", "POST", insert, job("DELETE FROM a.b WHERE TRUE"), "", true, false},
		{"results", "metadata", "POST", insert, job("SELECT 1"), "metadata", false, false},
		{"results", "metadata", "POST", insert, job("DELETE FROM a.b WHERE TRUE"), "", true, false},
		{"metadata", "request", "POST", insert, job("SELECT 1"), "", true, false},
		{"metadata", "", "GET", resultPath, "", "metadata", false, false},
		{"request", "", "GET", resultPath, "", "", false, false},
		{"metadata", "results", "GET", resultPath, "", "results", false, true},
		{"results", "request", "GET", resultPath, "", "", false, false},
	} {
		t.Run(strings.Join([]string{c.connection, c.rule, c.verb, c.body}, " "), func(t *testing.T) {
			store := newRecorder(t)
			r := newRig(t, results, store.keep(c.connection), func(g *gateway.Config) { g.Policy = levelPolicy{c.rule} })
			if status, body := r.call("etl-bot", c.verb, c.path, c.body); status != http.StatusOK {
				t.Fatalf("%d %s", status, body)
			}
			intent, outcome := r.one()
			level := ""
			if intent.Recording != nil {
				level = intent.Recording.Level
			}
			if level != c.level {
				t.Errorf("level %q, want %q", level, c.level)
			}
			if len(intent.Statements) > 0 {
				if s := intent.Statements[0]; (s.Text != "") != c.text || s.SHA256 == "" {
					t.Errorf("statement: %+v", s)
				}
			} else if c.text {
				t.Error("no statement")
			}
			if got := len(store.rowsOf(t, outcome)); (got > 0) != c.rows {
				t.Errorf("%d rows are stored", got)
			}
			if !c.rows {
				if _, err := os.Stat(filepath.Join(store.dir, "keys", "main")); err == nil {
					t.Error("a key was made although nothing was to be stored")
				}
			}
		})
	}
}

// TestRecordedRowsBroken: an answer that breaks off is recorded as far as it went back,
// and says so; the agent gets what it would have got without recording.
func TestRecordedRowsBroken(t *testing.T) {
	store := newRecorder(t)
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jobReference":{"projectId":"demo-project","jobId":"j1"},"jobComplete":true,"totalRows":"9000","schema":%s,"rows":[%s,{"f":[{"v":"7"`, twoColumns, strings.Join(rowsFrom(0, 8000), ","))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}, store.keep("results"))
	if _, body, err := r.do(r.request("etl-bot", "GET", resultPath, "")); err == nil || !strings.Contains(body, row(10)) {
		t.Fatalf("the agent got %d bytes, %v", len(body), err)
	}
	_, outcome := r.one()
	rec := outcome.Recording
	if rec == nil || rec.Rows != 8000 || rec.StoredRows != 8000 || outcome.Outcome.End == "complete" {
		t.Fatalf("%+v, %s", rec, dump(outcome.Outcome))
	}
	if got := store.rowsOf(t, outcome); !slices.Equal(got, rowsFrom(0, 8000)) {
		t.Errorf("recorded: %d rows", len(got))
	}
}

// TestRecordedRowsOfNothing: of an answer that broke off before anything went back, and
// that the agent never saw, no rows are recorded.
func TestRecordedRowsOfNothing(t *testing.T) {
	store := newRecorder(t)
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jobComplete":true,"totalRows":"50","schema":%s,"rows":[%s,{"f":[{"v":"7"`, twoColumns, row(0))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}, store.keep("results"))
	if status, body := r.call("etl-bot", "GET", resultPath, ""); status != http.StatusBadGateway || strings.Contains(body, "row 0") {
		t.Fatalf("%d %s", status, body)
	}
	if _, outcome := r.one(); outcome.Recording == nil || outcome.Recording.Rows != 0 || outcome.Recording.Body != "" {
		t.Errorf("%+v", outcome.Recording)
	}
}

// TestRecordedRowsLeft: an agent that goes away in the middle leaves a recording of what
// was read for it, without the row that was cut, and no file that nobody names.
func TestRecordedRowsLeft(t *testing.T) {
	store := newRecorder(t)
	gone := make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jobReference":{"projectId":"demo-project","jobId":"j1"},"jobComplete":true,"totalRows":"500000","schema":%s,"rows":[%s`, twoColumns, strings.Join(rowsFrom(0, 2000), ","))
		w.(http.Flusher).Flush()
		<-gone
		for i := 2000; i < 100_000; i++ {
			if _, err := fmt.Fprintf(w, ",%s", row(i)); err != nil {
				return
			}
		}
		<-req.Context().Done()
	}, store.keep("results"))
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := http.DefaultClient.Do(r.request("etl-bot", "GET", resultPath, "").WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	resp.Body.Close()
	close(gone)
	deadline := time.Now().Add(20 * time.Second)
	for len(r.outcomes("bigquery.jobs.getQueryResults")) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("no outcome")
		}
		time.Sleep(5 * time.Millisecond)
	}
	_, outcome := r.one()
	rec := outcome.Recording
	if rec == nil || outcome.Outcome.Rows-rec.Rows > 1 || rec.Rows > outcome.Outcome.Rows || int(rec.StoredRows) != len(store.rowsOf(t, outcome)) || rec.StoredRows == 0 || outcome.Outcome.End == "complete" {
		t.Errorf("%+v, %s", rec, dump(outcome.Outcome))
	}
	if left, err := os.ReadDir(filepath.Join(store.dir, "rows", ".tmp")); err != nil || len(left) > 0 {
		t.Errorf("%d files are left, %v", len(left), err)
	}
}

// TestRecordingFails: rows that cannot be stored go back all the same, and the entry
// says that they are missing, how many they were, and why.
func TestRecordingFails(t *testing.T) {
	store := newRecorder(t)
	r := newRig(t, results, store.keep("results"))
	for _, name := range []string{"rows", "keys"} {
		if err := os.RemoveAll(filepath.Join(store.dir, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(store.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if status, body := r.call("etl-bot", "GET", resultPath, ""); status != http.StatusOK || !strings.Contains(body, row(9)) {
		t.Fatalf("%d %s", status, body)
	}
	_, outcome := r.one()
	if rec := outcome.Recording; rec == nil || rec.Error == "" || rec.Rows != 10 || rec.StoredRows != 0 || rec.Body != "" || !rec.Truncated {
		t.Errorf("%+v", rec)
	}
}

// TestRecordedTable: the rows of tabledata.list come without their columns' names, so
// that the gateway asks for them, on record, once for all pages; without an answer a
// redaction takes everything.
func TestRecordedTable(t *testing.T) {
	for name, known := range map[string]bool{"schema known": true, "schema not known": false} {
		t.Run(name, func(t *testing.T) {
			store := newRecorder(t)
			redactor, err := recording.NewRedactor([]recording.RedactRule{{Columns: []string{"name"}, Action: recording.Drop}})
			if err != nil {
				t.Fatal(err)
			}
			r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				switch {
				case strings.HasSuffix(req.URL.Path, "/data"):
					fmt.Fprintf(w, `{"kind":"bigquery#tableDataList","totalRows":"20","pageToken":"n","rows":[%s]}`, strings.Join(rowsFrom(0, 10), ","))
				case known:
					fmt.Fprintf(w, `{"schema":%s}`, twoColumns)
				default:
					w.WriteHeader(http.StatusForbidden)
					fmt.Fprint(w, `{"error":{"code":403,"message":"no","errors":[{"reason":"accessDenied","message":"no"}]}}`)
				}
			}, store.keep("results"), func(c *gateway.Config) { c.Redactor = redactor })
			const path = "/bigquery/v2/projects/demo-project/datasets/d/tables/t/data"
			for _, query := range []string{"", "?pageToken=n"} {
				if status, body := r.call("etl-bot", "GET", path+query, ""); status != http.StatusOK || !strings.Contains(body, row(9)) {
					t.Fatalf("%d %s", status, body)
				}
			}
			list := r.outcomes("bigquery.tabledata.list")
			if len(list) != 2 || list[1].Recording.StartRow != 10 || list[1].Recording.PlaceUnknown {
				t.Fatalf("%s", dump(list))
			}
			for _, e := range list {
				want := `{"f":[{"v":"3"},{"v":null}]}`
				if !known {
					want = `{"f":[{"v":null},{"v":null}]}`
				}
				got := store.rowsOf(t, e)
				if len(got) != 10 || got[3] != want {
					t.Errorf("recorded: %q", got)
				}
				if e.Recording.Redacted < 10 {
					t.Errorf("%d values redacted", e.Recording.Redacted)
				}
			}
			asked := 0
			for _, e := range r.trail.all() {
				if e.Kind == trailgate.KindIntent && e.Method == "bigquery.tables.get" {
					asked++
					if e.Decision.Rule != "builtin/schema" || e.Request.For == "" || e.Principal.Agent != "etl-bot" {
						t.Errorf("the gateway's own question: %s", dump(e))
					}
				}
			}
			if known && asked != 1 || asked == 0 {
				t.Errorf("BigQuery was asked %d times", asked)
			}
		})
	}
}

// TestRecordedCap: of a long answer only so much is stored; all of it is committed to.
func TestRecordedCap(t *testing.T) {
	store := newRecorder(t)
	r := newRig(t, results, store.keep("results"), func(c *gateway.Config) { c.Connections[0].RecordBytes = 100 })
	if status, _ := r.call("etl-bot", "GET", resultPath, ""); status != http.StatusOK {
		t.Fatal(status)
	}
	_, outcome := r.one()
	rec := outcome.Recording
	if !rec.Truncated || rec.Rows != 10 || rec.StoredRows == 0 || rec.StoredRows >= 10 || rec.SHA256 == rec.Body || rec.SHA256 == "" || rec.Error != "" {
		t.Errorf("%+v", rec)
	}
	if got := store.rowsOf(t, outcome); !slices.Equal(got, rowsFrom(0, int(rec.StoredRows))) {
		t.Errorf("recorded: %q", got)
	}
}
