package admin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/recording"
)

// keeping gives an API a store of recordings, whose clock stands in month.
func keeping(t *testing.T, c *admin.Config, now func() time.Time) *recording.Store {
	t.Helper()
	dir := t.TempDir()
	s, err := recording.Open(recording.Options{Dir: dir + "/rows", KeyDir: dir + "/keys", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	c.Recordings = s
	return s
}

const twoColumns = `{"fields":[{"name":"n","type":"INTEGER"},{"name":"who","type":"STRING"}]}`

// keep stores rows from..to and returns what the entry says of them.
func keep(s *recording.Store, from, to int, most int64) *trailgate.Recording {
	w := s.Begin("main", nil, most)
	w.Schema([]byte(twoColumns))
	for i := from; i < to; i++ {
		w.RowPart([]byte(rowText(i)))
		w.EndRow()
	}
	rec := w.Finish(context.Background())
	rec.Level, rec.StartRow = trailgate.RecordingResults, int64(from)
	return &rec
}

func rowText(i int) string { return fmt.Sprintf(`{"f":[{"v":"%d"},{"v":"<b>row %d</b>"}]}`, i, i) }

// page writes the entries of a call that read rows.
func page(r *rig, n int, session, job string, rec *trailgate.Recording) {
	e := &trailgate.Entry{
		ID: id(n), Kind: trailgate.KindIntent, Principal: &trailgate.Principal{Agent: "etl-bot"}, Session: session, Connection: "main",
		Method: "bigquery.jobs.getQueryResults", Class: trailgate.ClassRead, Recording: &trailgate.Recording{Level: "results"},
	}
	if job == "" {
		e.Method, e.Tables = "bigquery.tabledata.list", &trailgate.Tables{Read: []string{"p.d.t"}}
	} else {
		e.Job = &trailgate.Job{Project: "p", ID: job}
	}
	r.entry(e)
	r.entry(&trailgate.Entry{
		ID: id(n) + "x", Kind: trailgate.KindOutcome, IntentID: id(n), Session: session, Connection: "main", Recording: rec,
		Outcome: &trailgate.Outcome{Status: 200, End: "complete", Rows: rec.Rows, TotalRows: 10},
	})
}

type results struct {
	Rows   []json.RawMessage `json:"rows"`
	Schema []struct{ Name string }
	Gaps   []struct {
		From, To int64
		Why      string
	}
	More   bool
	Total  int64 `json:"total_rows"`
	Erased bool
	Pages  []struct{ Entry string }
}

func lastEntry(t *testing.T, r *rig) *trailgate.Entry {
	t.Helper()
	list := r.trail.entries(t)
	return list[len(list)-1]
}

func readResults(t *testing.T, r *rig, n int, query string) results {
	t.Helper()
	a := r.socket(http.MethodGet, "/api/v1/entries/"+id(n)+"/results"+query, "")
	if a.StatusCode != http.StatusOK {
		t.Fatalf("results: %d %s", a.StatusCode, a.body)
	}
	var out results
	if err := json.Unmarshal(a.body, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func texts(out results) (list []string) {
	for _, r := range out.Rows {
		list = append(list, string(r))
	}
	return list
}

func wantRows(from, to int) (list []string) {
	for i := from; i < to; i++ {
		list = append(list, rowText(i))
	}
	return list
}

// TestResults: the pages of a job's result are one result, whoever read them and in
// whatever order; what is not there is said.
func TestResults(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	var s *recording.Store
	r := newRig(t, func(c *admin.Config) { s = keeping(t, c, func() time.Time { return now }) })
	page(r, 1, "ses1", "job1", keep(s, 3, 6, 0))
	page(r, 2, "ses2", "job1", keep(s, 0, 3, 0))
	page(r, 3, "ses1", "job1", keep(s, 2, 5, 0)) // overlaps
	cut := keep(s, 6, 10, int64(2*len(rowText(6))+2))
	if cut.StoredRows != 2 || !cut.Truncated {
		t.Fatalf("stored %+v", cut)
	}
	page(r, 4, "ses1", "job1", cut)
	page(r, 5, "ses1", "other", keep(s, 0, 1, 0))
	r.caughtUp()

	out := readResults(t, r, 1, "")
	if diff := cmp.Diff(append(wantRows(0, 8), "null", "null"), texts(out)); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if len(out.Gaps) != 1 || out.Gaps[0].From != 8 || out.Gaps[0].To != 10 || out.Gaps[0].Why == "" || out.More || out.Total != 10 || len(out.Schema) != 2 || len(out.Pages) != 4 {
		t.Errorf("%+v", out)
	}
	if diff := cmp.Diff(wantRows(4, 7), texts(readResults(t, r, 2, "?from=4&count=3"))); diff != "" {
		t.Errorf("rows 4 to 7 (-want +got):\n%s", diff)
	}
	if out := readResults(t, r, 2, "?from=100"); len(out.Rows) != 0 || out.More {
		t.Errorf("beyond the end: %+v", out)
	}
	last := lastEntry(t, r)
	if last.Event == nil || last.Event.Action != "recording.read" || last.Event.Target != id(2) {
		t.Errorf("looking at rows is recorded as %+v", last.Event)
	}
	for _, bad := range []string{"?from=-1", "?count=10001", "?from=x", "?to=3"} {
		if a := r.socket(http.MethodGet, "/api/v1/entries/"+id(1)+"/results"+bad, ""); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, a.StatusCode)
		}
	}
}

// TestTableRows: pages of a table belong together where they follow on each other in
// one session, and only there: the table may have changed.
func TestTableRows(t *testing.T) {
	var s *recording.Store
	r := newRig(t, func(c *admin.Config) { s = keeping(t, c, time.Now) })
	page(r, 1, "ses1", "", keep(s, 0, 3, 0))
	page(r, 2, "ses1", "", keep(s, 3, 5, 0))
	page(r, 3, "ses2", "", keep(s, 5, 7, 0))
	page(r, 4, "ses1", "", keep(s, 0, 2, 0)) // begins again
	page(r, 5, "ses1", "", keep(s, 5, 6, 0)) // follows on the second
	r.caughtUp()
	if diff := cmp.Diff(wantRows(0, 6), texts(readResults(t, r, 2, ""))); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if got := readResults(t, r, 4, ""); len(got.Pages) != 1 || len(got.Rows) != 2 {
		t.Errorf("a read that began again is %+v", got)
	}
}

// TestErase: a hold keeps rows from being erased, roles decide who may, the entry is
// there before the rows are gone, and if it cannot be written they stay.
func TestErase(t *testing.T) {
	now := time.Date(2026, 5, 10, 12, 0, 0, 0, time.UTC)
	var s *recording.Store
	r := newRig(t, func(c *admin.Config) {
		s = keeping(t, c, func() time.Time { return now })
		c.Now = func() time.Time { return now }
		c.Retention = 30 * 24 * time.Hour
	})
	page(r, 1, "ses1", "job1", keep(s, 0, 3, 0))
	r.caughtUp()
	erase := func(body string, code int) string {
		t.Helper()
		a := r.socket(http.MethodPost, "/api/v1/recordings:erase", body)
		if a.StatusCode != code {
			t.Fatalf("erase %s: %d %s", body, a.StatusCode, a.body)
		}
		return string(a.body)
	}
	erase(`{"keys":["main/2026-05"]}`, 400)              // no reason
	erase(`{"reason":"x"}`, 400)                         // nothing
	erase(`{"keys":["../keys"],"reason":"x"}`, 400)      // no key
	erase(`{"keys":["main/2026-04"],"reason":"x"}`, 404) // none of that name
	if got := erase(`{"due":true}`, 200); strings.Contains(got, "main") {
		t.Errorf("erased before its time: %s", got)
	}
	now = time.Date(2026, 6, 30, 23, 0, 0, 0, time.UTC)
	if got := erase(`{"due":true}`, 200); strings.Contains(got, "main") {
		t.Errorf("erased within thirty days of its month's end: %s", got)
	}
	now = time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	if a := r.socket(http.MethodPost, "/api/v1/holds", `{"id":"case-1","connection":"main","from":"2026-05-31T00:00:00Z","reason":"litigation"}`); a.StatusCode != 200 {
		t.Fatalf("hold: %s", a.body)
	}
	if a := r.socket(http.MethodPost, "/api/v1/holds", `{"id":"case-1","reason":"again"}`); a.StatusCode != 409 {
		t.Errorf("the same hold twice: %d", a.StatusCode)
	}
	if got := erase(`{"due":true}`, 200); strings.Contains(got, "main") {
		t.Errorf("erased under a hold: %s", got)
	}
	erase(`{"keys":["main/2026-05"],"reason":"x"}`, 409)
	if a := r.socket(http.MethodPost, "/api/v1/holds/case-1:release", ""); a.StatusCode != 200 {
		t.Fatalf("release: %s", a.body)
	}
	r.trail.set(func(m *memory) { m.refuse = func(*trailgate.Entry) error { return fmt.Errorf("disk full") } })
	if a := r.socket(http.MethodPost, "/api/v1/recordings:erase", `{"due":true}`); a.StatusCode != 200 && a.StatusCode != 503 {
		t.Errorf("without a trail: %d", a.StatusCode)
	}
	r.trail.set(func(m *memory) { m.refuse = nil })
	if out := readResults(t, r, 1, ""); out.Erased || len(out.Gaps) > 0 {
		t.Fatalf("erased without an entry: %+v", out)
	}
	if got := erase(`{"due":true}`, 200); !strings.Contains(got, `"key":"main/2026-05","bodies":2`) {
		t.Errorf("erased: %s", got)
	}
	last := lastEntry(t, r)
	if last.Event == nil || last.Event.Action != "recording.erase" || last.Event.Target != "main/2026-05" || last.Event.Detail["reason"] == "" {
		t.Errorf("the entry is %+v", last.Event)
	}
	out := readResults(t, r, 1, "")
	if !out.Erased || len(out.Gaps) != 1 || len(out.Schema) != 0 || strings.Contains(strings.Join(texts(out), ""), "row") {
		t.Errorf("after the erasure: %+v", out)
	}
	var list struct {
		Keys []struct {
			Key    string
			Bodies int64
			Erased bool
		}
	}
	if err := json.Unmarshal(r.socket(http.MethodGet, "/api/v1/recordings", "").body, &list); err != nil || len(list.Keys) != 1 || !list.Keys[0].Erased || list.Keys[0].Bodies != 0 {
		t.Errorf("keys: %+v %v", list, err)
	}
}
