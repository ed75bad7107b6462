package export_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/export"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 123_000_000, time.UTC)

// stages numbers entries.
func stages(list ...*trailgate.Entry) []*trailgate.Entry {
	for i, e := range list {
		e.Seq, e.Time = uint64(10+i), noon.Add(time.Duration(i)*time.Second)
		if e.ID == "" {
			e.ID = fmt.Sprint("e", i)
		}
	}
	return list
}

func TestState(t *testing.T) {
	call := func(k trailgate.Kind, of string, o *trailgate.Outcome) *trailgate.Entry {
		return &trailgate.Entry{Kind: k, IntentID: of, Outcome: o}
	}
	refused := &trailgate.Outcome{Status: 409, End: trailgate.EndRefused}
	for want, list := range map[string][]*trailgate.Entry{
		"open":     {call("intent", "", nil)},
		"done":     {call("intent", "", nil), call("outcome", "e0", &trailgate.Outcome{Status: 200})},
		"failed":   {call("intent", "", nil), call("outcome", "e0", &trailgate.Outcome{Status: 404})},
		"settled":  {call("intent", "", nil), call("settled", "e0", &trailgate.Outcome{End: "job_found"})},
		"denied":   {call("denied", "", nil)},
		"refused":  {call("refused", "", nil)},
		"held":     {call("held", "", nil), call("outcome", "e0", refused)},
		"expired":  {call("held", "", nil), call("outcome", "e0", refused), call("expired", "e0", nil)},
		"recorded": {call("admin", "", nil)},
	} {
		if c := export.NewCall(stages(list...)); c.State != want {
			t.Errorf("%s: %s", want, c.State)
		}
	}
	went := export.NewCall(stages(call("held", "", nil), call("outcome", "e0", refused), call("approved", "e0", nil), call("intent", "e0", nil), call("outcome", "e3", &trailgate.Outcome{Status: 200, Rows: 7})))
	if went.State != "done" || went.Folded.Outcome.Rows != 7 || went.Folded.Kind != trailgate.KindIntent {
		t.Errorf("%+v", went)
	}
}

func TestGroups(t *testing.T) {
	var g export.Groups
	for _, e := range [][2]string{{"a", ""}, {"b", ""}, {"c", "a"}, {"d", "nobody"}, {"e", "c"}, {"f", "b"}} {
		g.Add(e[0], e[1])
	}
	if got := fmt.Sprint(g.Calls()); got != "[[0 2 4] [1 5] [3]]" {
		t.Error(got)
	}
}

// TestOCSF holds classes and activities to the schema: https://schema.ocsf.io/1.3.0.
func TestOCSF(t *testing.T) {
	bq := func(method string, class trailgate.Class, kind string) *trailgate.Entry {
		e := &trailgate.Entry{
			Kind: trailgate.KindIntent, Method: method, Class: class, Project: "p", Client: "192.0.2.1:99", Session: "s",
			Principal: &trailgate.Principal{Agent: "etl-bot", Human: "ada@example.com", Issuer: "https://idp.example.com"}, Gateway: trailgate.Gateway{ID: "gw", Version: "v1"},
		}
		if kind != "" {
			e.StatementType = &trailgate.StatementType{Local: kind}
			e.Statements = []trailgate.Statement{{Where: "query", Text: "SQL <&>\u202e", SHA256: "00", Length: 3}}
			e.Tables = &trailgate.Tables{Read: []string{"p.d.r"}, Written: []string{"p.d.w"}}
		}
		return e
	}
	event := func(action string) *trailgate.Entry {
		return &trailgate.Entry{Kind: trailgate.KindAdmin, Event: &trailgate.Event{Action: action, Actor: "root", Via: "socket"}}
	}
	for name, test := range map[string]struct {
		of             *trailgate.Entry
		class, a, stat int
	}{
		"select":       {bq("bigquery.jobs.query", trailgate.ClassRead, "SELECT"), 6005, 4, 99},
		"delete":       {bq("bigquery.jobs.query", trailgate.ClassWrite, "DELETE"), 6005, 7, 99},
		"insert":       {bq("bigquery.jobs.query", trailgate.ClassWrite, "INSERT"), 6005, 5, 99},
		"merge":        {bq("bigquery.jobs.query", trailgate.ClassWrite, "MERGE"), 6005, 2, 99},
		"create":       {bq("bigquery.jobs.query", trailgate.ClassMetadataChange, "CREATE_TABLE"), 6005, 6, 99},
		"drop":         {bq("bigquery.jobs.query", trailgate.ClassMetadataChange, "DROP_TABLE"), 6005, 7, 99},
		"grant":        {bq("bigquery.jobs.query", trailgate.ClassAccessChange, "GRANT"), 6005, 2, 99},
		"table data":   {bq("bigquery.tabledata.list", trailgate.ClassRead, ""), 6005, 1, 99},
		"list jobs":    {bq("bigquery.jobs.list", trailgate.ClassMetadataRead, ""), 6003, 2, 99},
		"delete table": {bq("bigquery.tables.delete", trailgate.ClassMetadataChange, ""), 6003, 4, 99},
		"add an agent": {event("agent.add"), 6003, 1, 1},
		"search":       {event("trail.search"), 6003, 2, 1},
		"revoke":       {event("token.revoke"), 6003, 4, 1},
		"start":        {&trailgate.Entry{Kind: trailgate.KindGateway, Event: &trailgate.Event{Action: "serve.start"}}, 6003, 99, 1},
	} {
		t.Run(name, func(t *testing.T) {
			line, err := export.OCSF(export.NewCall(stages(test.of)), "log.example.com")
			if err != nil {
				t.Fatal(err)
			}
			var ev struct {
				Class    int `json:"class_uid"`
				Category int `json:"category_uid"`
				Activity int `json:"activity_id"`
				Type     int `json:"type_uid"`
				Status   int `json:"status_id"`
				Severity int `json:"severity_id"`
				Time     int64
				API      *struct{ Operation string }
				Table    *struct{ UID string }
				Database *struct{ Name string }
				Src      map[string]any `json:"src_endpoint"`
				Actor    map[string]any
				Query    *struct {
					Text string `json:"query_string"`
					UID  string
				} `json:"query_info"`
				Metadata struct {
					Version  string
					Product  map[string]any
					Sequence uint64
				}
			}
			if err := json.Unmarshal(line, &ev); err != nil {
				t.Fatal(err)
			}
			if ev.Class != test.class || ev.Activity != test.a || ev.Type != test.class*100+test.a || ev.Category != 6 || ev.Status != test.stat || ev.Severity == 0 {
				t.Errorf("%s", line)
			}
			if ev.Time != noon.UnixMilli() || ev.Metadata.Version != "1.3.0" || ev.Metadata.Product["name"] != "Trailgate" || ev.Metadata.Sequence != 10 || len(ev.Src) == 0 || len(ev.Actor) == 0 {
				t.Errorf("%s", line)
			}
			switch ev.Class {
			case 6003:
				if ev.API == nil || ev.API.Operation == "" {
					t.Errorf("no operation: %s", line)
				}
			case 6005:
				if ev.Table == nil && ev.Database == nil {
					t.Errorf("neither table nor database: %s", line)
				}
			}
			if ev.Query != nil && (ev.Query.Text == "" || ev.Query.UID == "") {
				t.Errorf("a query without text or uid: %s", line)
			}
			if bytes.ContainsAny(line, "\n<>") {
				t.Errorf("not one safe line: %s", line)
			}
		})
	}
	ended := export.NewCall(stages(bq("bigquery.jobs.query", trailgate.ClassWrite, "DELETE"), &trailgate.Entry{Kind: trailgate.KindOutcome, IntentID: "e0", Outcome: &trailgate.Outcome{Status: 403, ErrorReason: "accessDenied"}}))
	line, err := export.OCSF(ended, "log")
	if err != nil || !bytes.Contains(line, []byte(`"status_code":"accessDenied"`)) || !bytes.Contains(line, []byte(`"duration":1000`)) || !bytes.Contains(line, []byte(`"stages":[10,11]`)) {
		t.Errorf("%s %v", line, err)
	}
}

// nasty is what an agent may write, into every text of an entry.
const nasty = "<script>alert(1)</script>\u202e\u2066\x1b[31m\x00 [x](javascript:alert(1)) ![i](http://evil/) `a` |b| https://evil.example www.evil.example & \u2028 *s* _u_"

// escaped is a character that Markdown takes as it is.
var escaped = regexp.MustCompile(`\\[[:punct:]]`)

func TestHostileReport(t *testing.T) {
	e := &trailgate.Entry{
		Kind: trailgate.KindIntent, Method: nasty, Session: nasty, Client: nasty, Project: nasty, Flags: []string{nasty},
		Principal: &trailgate.Principal{Agent: nasty, Human: nasty}, Claims: &trailgate.Claims{UserAgent: nasty, Reason: nasty},
		Statements: []trailgate.Statement{{Where: nasty, Text: nasty + "\n```\n# heading\n" + nasty, Parameters: nasty}},
		Tables:     &trailgate.Tables{Written: []string{nasty}}, Event: &trailgate.Event{Action: nasty, Detail: map[string]string{nasty: nasty}},
	}
	r := &export.Report{Origin: nasty, Title: nasty}
	r.Add(export.NewCall(stages(e)))
	var html, md, text bytes.Buffer
	if err := errors.Join(r.HTML(&html), r.Markdown(&md), r.Plain(&text)); err != nil {
		t.Fatal(err)
	}
	for name, out := range map[string]string{"html": html.String(), "markdown": md.String(), "text": text.String()} {
		for _, c := range "\u202e\u2066\x1b\x00\u2028" {
			if strings.ContainsRune(out, c) {
				t.Errorf("%s: %q is shown as it is", name, c)
			}
		}
	}
	for _, never := range []string{"<script", "<a ", "<img", "href"} {
		if strings.Contains(html.String(), never) {
			t.Errorf("html: %s", never)
		}
	}
	if !strings.Contains(html.String(), "default-src 'none'") {
		t.Error("html: a page that may load things")
	}
	fence := ""
	for line := range strings.Lines(md.String()) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case fence == "" && strings.HasPrefix(line, "```"):
			fence = line
			continue
		case fence != "":
			if line == fence {
				fence = ""
			}
			continue
		}
		line = escaped.ReplaceAllString(line, "")
		for _, never := range []string{"<script", "[x](", "![", "`a`", "https://", "www.evil", " |b|", "*s*", "_u_"} {
			if strings.Contains(line, never) {
				t.Errorf("markdown: %q in %q", never, line)
			}
		}
	}
	if fence != "" || !strings.Contains(md.String(), "````\n") {
		t.Error("markdown: a statement ends its own block")
	}
	if n := strings.Count(md.String(), "\n## "); n != 4 {
		t.Errorf("markdown: %d headings of level 2", n)
	}
}

// TestReportBounds: a long report says what it leaves out.
func TestReportBounds(t *testing.T) {
	r := &export.Report{}
	for i := range 1200 {
		r.Add(export.NewCall([]*trailgate.Entry{{Seq: uint64(i), Kind: trailgate.KindDenied, Principal: &trailgate.Principal{Agent: fmt.Sprint("agent-", i)}, Statements: []trailgate.Statement{{Text: strings.Repeat("x", 100_000)}}}}))
	}
	var out bytes.Buffer
	if err := r.HTML(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"The first 500 of 1200", "(others)", "<td>1100</td>", "… (cut)", "Entry 499:"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not said", want)
		}
	}
	if strings.Contains(out.String(), "Entry 500:") || out.Len() > 20<<20 {
		t.Errorf("%d bytes", out.Len())
	}
	if err := r.HTML(failing{}); err == nil {
		t.Error("a page that could not be written")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("full") }
