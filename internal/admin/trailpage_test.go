package admin_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
)

// TestEvents: a browser's EventSource gets the rows of a follower as events, and goes
// on where it was.
func TestEvents(t *testing.T) {
	r := newRig(t)
	base, stop := host(t, r)
	defer stop()
	r.intent(1, "etl-bot")
	r.caughtUp()
	open := func(last string) *stream {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"entries:follow?filter="+url.QueryEscape(`agent = "etl-bot"`), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/event-stream")
		if last != "" {
			req.Header.Set("Last-Event-ID", last)
		}
		return streamOf(t, req)
	}
	event := func(s *stream) (place, data string) {
		t.Helper()
		for line := range s.lines {
			switch {
			case strings.HasPrefix(line, "id: "):
				place = line[4:]
			case strings.HasPrefix(line, "data: "):
				data = line[6:]
			case line == "" && data != "":
				return place, data
			case line == "", line == "event: row", strings.HasPrefix(line, ":"):
			default:
				t.Fatalf("%q", line)
			}
		}
		t.Fatal("the stream ended")
		return "", ""
	}
	s := open("")
	if kind := s.resp.Header.Get("Content-Type"); s.resp.StatusCode != http.StatusOK || kind != "text/event-stream" {
		t.Fatalf("%d %s", s.resp.StatusCode, kind)
	}
	e := r.intent(2, "etl-bot")
	r.intent(3, "analyst-bot")
	place, data := event(s)
	var row struct{ ID, State string }
	if err := json.Unmarshal([]byte(data), &row); err != nil || row.ID != id(2) || row.State != "open" || place != fmt.Sprint(e.Seq) {
		t.Errorf("%s: %s, %v", place, data, err)
	}
	// Away for a while: what came meanwhile comes first.
	r.outcome(2)
	r.caughtUp()
	if _, data := event(open(place)); !strings.Contains(data, id(2)) || !strings.Contains(data, `"done"`) {
		t.Errorf("after a break: %s", data)
	}
	if a := r.socket("GET", "/api/v1/entries:follow", "", "Accept", "text/event-stream", "Last-Event-ID", "x"); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a bad Last-Event-ID: %d", a.StatusCode)
	}
}

// TestExport: everything that a filter finds, in a file that spreadsheets do not run.
func TestExport(t *testing.T) {
	r := newRig(t)
	for n, sql := range []string{`=HYPERLINK("http://evil.example","x")`, "+1", "-- a comment", "@x", "\tSELECT 1", "SELECT \"a\",\n1", "SELECT \x00 '\u202e'"} {
		r.entry(&trailgate.Entry{
			ID: id(n), Kind: trailgate.KindIntent, Principal: &trailgate.Principal{Agent: "etl-bot"}, Method: "bigquery.jobs.insert", Class: trailgate.ClassRead,
			Statements: []trailgate.Statement{{Text: sql, SHA256: strings.Repeat("a", 64)}}, Connection: "main",
		})
	}
	for n := 10; n < 2500; n++ {
		r.intent(n, "analyst-bot")
	}
	r.caughtUp()
	a := r.socket("GET", "/api/v1/entries:export?format=csv&filter="+url.QueryEscape(`agent = "etl-bot"`), "")
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "text/csv; charset=utf-8" || !strings.Contains(a.Header.Get("Content-Disposition"), `attachment; filename="trail-`) {
		t.Fatalf("%d %v", a.StatusCode, a.Header)
	}
	lines, err := csv.NewReader(bytes.NewReader(a.body)).ReadAll()
	if err != nil || len(lines) != 8 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	at := slices.Index(lines[0], "statement")
	for _, line := range lines[1:] {
		for _, cell := range line {
			if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) || strings.Contains(cell, "\x00") {
				t.Errorf("a spreadsheet would run %q", cell)
			}
		}
	}
	if got := lines[7][at]; got != `'=HYPERLINK("http://evil.example","x")` {
		t.Errorf("the first: %q", got)
	}
	if got := lines[2][at]; got != "SELECT \"a\",\n1" {
		t.Errorf("quotes and lines: %q", got)
	}
	// More than a page of the index, one a line.
	a = r.socket("GET", "/api/v1/entries:export?filter="+url.QueryEscape(`agent = "analyst-bot"`), "")
	if got := bytes.Count(a.body, []byte("\n")); a.Header.Get("Content-Type") != "application/x-ndjson" || got != 2490 {
		t.Errorf("%d lines of %s", got, a.Header.Get("Content-Type"))
	}
	last := lastEntry(t, r)
	if last.Event.Action != "trail.export" || last.Event.Detail["format"] != "jsonl" || last.Event.Detail["filter"] != `agent = "analyst-bot"` {
		t.Errorf("on record: %+v", last.Event)
	}
	for _, bad := range []string{"?format=xls", "?filter=agnt+%3D+1", "?format=csv&format=csv"} {
		if a := r.socket("GET", "/api/v1/entries:export"+bad, ""); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, a.StatusCode)
		}
	}
}

// TestSearches: who saved a search sees it and can remove it; others see what is shared.
func TestSearches(t *testing.T) {
	path := filepath.Join(t.TempDir(), "searches.json")
	r := newRig(t, func(c *admin.Config) { c.SearchesFile = path })
	as := func(name, method, target, body string) answer {
		t.Helper()
		return do(t, r.api.As(admin.Viewer{Name: name, Via: admin.ViaDemo, Roles: []string{"auditor"}}), method, target, body)
	}
	save := func(who, body string) (id string) {
		t.Helper()
		a := as(who, "POST", "/api/v1/searches", body)
		var x struct{ ID, Owner string }
		if err := json.Unmarshal(a.body, &x); err != nil || a.StatusCode != http.StatusOK || x.Owner != who {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		return x.ID
	}
	list := func(who string) (names []string) {
		t.Helper()
		var out struct{ Searches []struct{ Name string } }
		if err := json.Unmarshal(as(who, "GET", "/api/v1/searches", "").body, &out); err != nil {
			t.Fatal(err)
		}
		for _, x := range out.Searches {
			names = append(names, x.Name)
		}
		return names
	}
	own := save("ines", `{"name":"mine","filter":"class = \"write\""}`)
	shared := save("ines", `{"name":"ours","filter":"","shared":true}`)
	if got := list("ines"); !slices.Equal(got, []string{"mine", "ours"}) {
		t.Errorf("ines sees %q", got)
	}
	if got := list("omar"); !slices.Equal(got, []string{"ours"}) {
		t.Errorf("omar sees %q", got)
	}
	for _, x := range []string{own, shared} {
		if a := as("omar", "POST", "/api/v1/searches/"+x+":remove", "{}"); a.StatusCode != http.StatusNotFound {
			t.Errorf("omar removes %s: %d", x, a.StatusCode)
		}
	}
	for _, bad := range []string{`{"name":"","filter":""}`, `{"name":"x","filter":"agnt = 1"}`, `{"name":"a\u202eb","filter":""}`, `{"name":"` + strings.Repeat("x", 81) + `","filter":""}`, `{"name":"x","filter":"","owner":"omar"}`} {
		if a := as("ines", "POST", "/api/v1/searches", bad); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, a.StatusCode)
		}
	}
	if a := as("ines", "POST", "/api/v1/searches/"+own+":remove", "{}"); a.StatusCode != http.StatusOK {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	// They outlive the process, and a file that is damaged is no reason to lose it.
	again := newRig(t, func(c *admin.Config) { c.SearchesFile = path })
	if a := again.socket("GET", "/api/v1/searches", ""); !strings.Contains(string(a.body), "ours") || strings.Contains(string(a.body), "mine") {
		t.Errorf("after a restart: %s", a.body)
	}
	if err := os.WriteFile(path, []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := newRig(t, func(c *admin.Config) { c.SearchesFile = path })
	if a := broken.socket("POST", "/api/v1/searches", `{"name":"x","filter":""}`); a.StatusCode != http.StatusInternalServerError {
		t.Errorf("with a damaged file: %d", a.StatusCode)
	}
	if raw, err := os.ReadFile(path); err != nil || string(raw) != "[{" {
		t.Errorf("the damaged file is now %q, %v", raw, err)
	}
}

// TestComplete: what is offered fits where the cursor is.
func TestComplete(t *testing.T) {
	r := newRig(t)
	r.intent(1, "etl-bot")
	r.intent(2, "analyst-bot")
	r.caughtUp()
	for _, c := range []struct {
		text   string // the cursor at |
		from   int
		offers string // one of them; "": none
	}{
		{"|", 0, "agent"},
		{"ag|", 0, "agent"},
		{"AG|", 0, "agent"},
		{"agent = |", 8, "etl-bot"},
		{"agent = etl|", 8, "etl-bot"},
		{`agent = "etl|`, 8, "etl-bot"},
		{`agent = "etl| AND class = "read"`, 8, "etl-bot"},
		{`agent="an|`, 6, "analyst-bot"},
		{`agent != "an|`, 9, "analyst-bot"},
		{`agent = "etl-bot" AND cl|`, 22, "class"},
		{`agent = "etl-bot" AND class = "wr|`, 30, "write"},
		{`(agent = "etl-bot" OR agent = "an|`, 30, "analyst-bot"},
		{`statement : "agent = |`, 12, ""},
		{`statement : "a \" agent = |`, 12, ""},
		{`agent = "etl-bot" |`, 18, "agent"},
		{"nothing = x|", 10, ""},
		{"é = é agent = |", 14, "etl-bot"},
	} {
		before, after, _ := strings.Cut(c.text, "|")
		a := r.socket("GET", "/api/v1/filter:complete?text="+url.QueryEscape(before+after)+fmt.Sprintf("&cursor=%d", len([]rune(before))), "")
		var out struct {
			From, To int
			Options  []struct{ Insert, Label string }
		}
		if err := json.Unmarshal(a.body, &out); err != nil || a.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s", c.text, a.StatusCode, a.body)
		}
		has := false
		for _, o := range out.Options {
			has = has || o.Label == c.offers
		}
		if out.From != c.from || out.To != len([]rune(before)) || has != (c.offers != "") || c.offers == "" && len(out.Options) > 0 {
			t.Errorf("%s: from %d, %+v", c.text, out.From, out.Options)
		}
	}
	for _, bad := range []string{"?text=a&cursor=2", "?text=a&cursor=-1", "?text=a&cursor=x"} {
		if a := r.socket("GET", "/api/v1/filter:complete"+bad, ""); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, a.StatusCode)
		}
	}
}
