package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/discovery"
	"github.com/trailgate/trailgate/internal/sandbox"
)

func TestAuthentication(t *testing.T) {
	c := newClient(t, sandbox.Config{Principals: map[string]string{"tok": "a@x"}})
	c.fails("GET", datasets, nil, 401, "required")
	c.token = "other"
	c.fails("GET", datasets, nil, 401, "authError")
	c.fails("POST", base+"/queries", object{"query": "SELECT 1"}, 401, "authError")
	c.token = ""
	for _, header := range [][]string{{"Basic dG9rOg=="}, {"Bearer"}, {"Bearer tok", "Bearer tok"}, {"tok"}} {
		c.header = http.Header{"Authorization": header}
		c.fails("GET", datasets, nil, 401, "authError")
	}
	c.header = http.Header{"Authorization": {"bearer tok"}}
	c.ok("GET", datasets, nil)
	c.header = http.Header{}
	if w := c.raw("GET", "/$discovery/rest?version=v2", "", nil); w.Code != 200 {
		t.Errorf("the discovery document wants a token: %d", w.Code)
	}
	if len(c.s.Jobs()) != 0 {
		t.Error("a stranger made a job")
	}
	if calls := c.s.Calls(); calls[1].Principal != "" || !calls[1].Authorization || calls[0].Authorization {
		t.Errorf("calls %+v", calls[:2])
	}
}

func TestDiscovery(t *testing.T) {
	c := newClient(t, sandbox.Config{})
	for _, path := range []string{"/$discovery/rest", "/$discovery/rest?version=v2", "/discovery/v1/apis/bigquery/v2/rest"} {
		if got := c.raw("GET", path, "", nil).Body.String(); got != string(discovery.For("http://bigquery.test/")) {
			t.Errorf("%s: not the document", path)
		}
	}
	c.fails("GET", "/$discovery/rest?version=v1", nil, 404, "notFound")
}

// TestEveryMethod calls every method of the document: each is there, and what
// is not implemented says so.
func TestEveryMethod(t *testing.T) {
	var doc struct {
		Resources map[string]struct {
			Methods map[string]struct{ ID, HTTPMethod, FlatPath, Path string }
		}
	}
	if err := json.Unmarshal(discovery.Document(), &doc); err != nil {
		t.Fatal(err)
	}
	implemented := 0
	c := newClient(t, sandbox.Config{})
	for _, r := range doc.Resources {
		for _, m := range r.Methods {
			c.do("DELETE", datasets+"/staging?deleteContents=true", nil)
			c.ok("POST", datasets, object{"datasetReference": object{"datasetId": "staging"}})
			c.ok("POST", datasets+"/staging/tables", object{"tableReference": object{"tableId": "imports"}, "schema": object{"fields": []any{object{"name": "a", "type": "INT64"}}}})
			path := m.FlatPath
			if path == "" {
				path = m.Path
			}
			path = strings.NewReplacer("{projectsId}", "demo-project", "{datasetsId}", "staging", "{tablesId}", "imports").Replace(path)
			path = regexp.MustCompile(`\{\w+\}`).ReplaceAllString(path, "x")
			var body any
			if m.HTTPMethod == "POST" || m.HTTPMethod == "PUT" || m.HTTPMethod == "PATCH" {
				body = object{}
			}
			code, o := c.do(m.HTTPMethod, "/bigquery/v2/"+path, body)
			switch {
			case code == 501 && at(o, "error.errors.0.reason") == "notImplemented" && strings.Contains(at(o, "error.message"), m.ID):
			case code == 405, code == 501, code >= 500, code == 404 && at(o, "error.errors.0.reason") != "notFound", strings.Contains(at(o, "error.message"), "requested URL"):
				t.Errorf("%s: %s %s: %d %v", m.ID, m.HTTPMethod, path, code, o)
			default:
				implemented++
			}
		}
	}
	if implemented < 28 {
		t.Errorf("%d methods are implemented", implemented)
	}
}

func TestOddRequests(t *testing.T) {
	c := seeded(t)
	for _, tt := range []struct {
		verb, path, body string
		status           int
		reason           string
	}{
		{"GET", "/", "", 404, "notFound"},
		{"GET", "/bigquery/v2", "", 404, "notFound"},
		{"GET", "/bigquery/v2/projects/demo-project/Datasets", "", 404, "notFound"},
		{"GET", "/bigquery/v2/projects//datasets", "", 404, "notFound"},
		{"GET", "/bigquery/v2/projects/demo-project/datasets/staging:odd", "", 404, "notFound"},
		{"GET", "/bigquery/v2/projects/demo-project/datasets/a%2Fb", "", 404, "notFound"},
		{"DELETE", "/bigquery/v2/projects/demo-project/queries/x", "", 405, "httpMethodNotAllowed"},
		{"POST", "/batch/bigquery/v2", "", 501, "notImplemented"},
		{"GET", datasets + "?alt=media", "", 501, "notImplemented"},
		{"GET", datasets + "?access_token=x", "", 501, "notImplemented"},
		{"GET", datasets + "?key=x", "", 501, "notImplemented"},
		{"GET", datasets + "?callback=x", "", 501, "notImplemented"},
		{"GET", datasets + "?nope=x", "", 400, "invalid"},
		{"POST", base + "/queries", "", 400, "required"},
		{"POST", base + "/queries", "{", 400, "invalid"},
		{"POST", base + "/queries", `{"query":"SELECT 1"} x`, 400, "invalid"},
		{"POST", base + "/queries", `[]`, 400, "invalid"},
		{"POST", base + "/queries", `{"query":1}`, 400, "invalid"},
		{"POST", base + "/queries", `{"query":"SELECT 1","useLegacySql":"maybe"}`, 400, "invalid"},
		{"POST", base + "/queries", `{"query":"SELECT 1","Query":"SELECT 2"}`, 400, "invalid"},
		{"POST", base + "/queries", `{"query":"SELECT 1","createSession":true}`, 501, "notImplemented"},
		{"POST", base + "/queries", `{"query":"SELECT 1","connectionProperties":[{"key":"dataset_project_id","value":"x"}]}`, 501, "notImplemented"},
		{"POST", base + "/queries", `{"query":"SELECT 1","labels":{"A":"x"}}`, 400, "invalid"},
		{"POST", base + "/jobs", `{}`, 400, "required"},
		{"POST", base + "/jobs", `{"configuration":{"query":{"query":"SELECT 1"},"load":{}}}`, 400, "invalid"},
		{"POST", base + "/jobs", `{"configuration":{"query":{"query":"SELECT 1","tableDefinitions":{"t":{"sourceFormat":"CSV"}}}}}`, 501, "notImplemented"},
		{"POST", base + "/jobs", `{"configuration":{"reservation":"r","query":{"query":"SELECT 1"}}}`, 501, "notImplemented"},
		{"POST", base + "/jobs", `{"configuration":{"query":{"query":"SELECT 1","priority":"HIGH"}}}`, 400, "invalid"},
		{"POST", base + "/jobs/x/cancel", `{"a":1}`, 400, "invalid"},
		{"POST", base + "/queries", `{"query":"SELECT 1","labels":{` + strings.TrimSuffix(strings.Repeat(`"l%d":"x",`, 65), ",") + `}}`, 400, "invalid"},
	} {
		body := tt.body
		if strings.Contains(body, "%d") {
			n := make([]any, 65)
			for i := range n {
				n[i] = i
			}
			body = fmt.Sprintf(body, n...)
		}
		contentType := ""
		if body != "" {
			contentType = "application/json"
		}
		w := c.raw(tt.verb, tt.path, contentType, []byte(body))
		var o object
		if err := json.Unmarshal(w.Body.Bytes(), &o); err != nil {
			t.Errorf("%s %s: %v in %q", tt.verb, tt.path, err, w.Body)
			continue
		}
		if w.Code != tt.status || at(o, "error.errors.0.reason") != tt.reason {
			t.Errorf("%s %s %.80s: %d %s (%s), want %d %s", tt.verb, tt.path, body, w.Code, at(o, "error.errors.0.reason"), at(o, "error.message"), tt.status, tt.reason)
		}
	}
	if w := c.raw("POST", base+"/queries", "application/json", []byte(`{"query":"`+strings.Repeat("x", 11<<20)+`"}`)); w.Code != 400 {
		t.Errorf("11 MiB: %d", w.Code)
	}
	if w := c.raw("POST", base+"/queries", "text/plain", []byte(`{"query":"SELECT 1"}`)); w.Code != 400 {
		t.Errorf("text/plain: %d", w.Code)
	}
	if n := len(c.s.Jobs()); n != 0 {
		t.Errorf("%d jobs", n)
	}
}

// TestMethodOverride: a GET whose address is too long comes as a POST with a
// form.
func TestMethodOverride(t *testing.T) {
	c := seeded(t)
	form := url.Values{"maxResults": {"1"}, "selectedFields": {"id"}}.Encode()
	c.header = http.Header{"X-Http-Method-Override": {"GET"}}
	w := c.raw("POST", datasets+"/staging/tables/imports/data?alt=json", "application/x-www-form-urlencoded", []byte(form))
	var o object
	if err := json.Unmarshal(w.Body.Bytes(), &o); err != nil || len(rows(o)) != 1 || rows(o)[0] != "1" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	c.header = http.Header{"X-Http-Method-Override": {"DELETE"}}
	if w := c.raw("POST", datasets+"/staging", "", nil); w.Code != 501 {
		t.Errorf("override to DELETE: %d", w.Code)
	}
}

// TestFaults sees each fault through a real connection.
func TestFaults(t *testing.T) {
	s, err := sandbox.New(sandbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	srv := httptest.NewServer(s)
	defer srv.Close()
	httpc := &http.Client{Transport: &http.Transport{DisableCompression: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	send := func(ctx context.Context) (status int, header http.Header, body string, err error) {
		r, err := http.NewRequestWithContext(ctx, "POST", srv.URL+base+"/queries", strings.NewReader(`{"query":"SELECT 1","useLegacySql":false}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		resp, err := httpc.Do(r)
		if err != nil {
			return 0, nil, "", err
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		return resp.StatusCode, resp.Header, string(raw), err
	}
	for _, tt := range []struct {
		name  string
		fault sandbox.Fault
		jobs  int // made by the call
		check func(status int, h http.Header, body string, err error) bool
	}{
		{"status", sandbox.Fault{Status: 503, RetryAfter: 3 * time.Second}, 0, func(st int, h http.Header, b string, _ error) bool {
			return st == 503 && h.Get("Retry-After") == "3" && strings.Contains(b, `"reason": "backendError"`)
		}},
		{"reason", sandbox.Fault{Status: 403, Reason: "rateLimitExceeded", Message: "slow down"}, 0, func(st int, _ http.Header, b string, _ error) bool {
			return st == 403 && strings.Contains(b, "rateLimitExceeded") && strings.Contains(b, "slow down")
		}},
		{"redirect", sandbox.Fault{Redirect: "http://elsewhere.invalid/"}, 0, func(st int, h http.Header, _ string, _ error) bool {
			return st == 307 && h.Get("Location") == "http://elsewhere.invalid/"
		}},
		{"garbage", sandbox.Fault{Garbage: true}, 0, func(st int, _ http.Header, b string, err error) bool {
			return st == 200 && err == nil && !json.Valid([]byte(b))
		}},
		{"drop", sandbox.Fault{DropAnswer: true}, 1, func(st int, _ http.Header, _ string, err error) bool { return st == 0 && err != nil }},
		{"cut", sandbox.Fault{CutAfterBytes: 20}, 1, func(st int, _ http.Header, b string, err error) bool {
			return st == 200 && len(b) == 20 && errors.Is(err, io.ErrUnexpectedEOF)
		}},
		{"wrong length", sandbox.Fault{WrongLength: 100_000}, 1, func(st int, _ http.Header, b string, err error) bool {
			return st == 200 && len(b) > 0 && errors.Is(err, io.ErrUnexpectedEOF)
		}},
		{"informational", sandbox.Fault{Informational: true}, 1, func(st int, _ http.Header, b string, err error) bool {
			return st == 200 && err == nil && json.Valid([]byte(b))
		}},
		{"delay", sandbox.Fault{Delay: 20 * time.Millisecond}, 1, func(st int, _ http.Header, _ string, err error) bool { return st == 200 && err == nil }},
		{"hang", sandbox.Fault{HangBeforeHeaders: true}, 0, func(st int, _ http.Header, _ string, err error) bool {
			return st == 0 && errors.Is(err, context.DeadlineExceeded)
		}},
		{"hang in the body", sandbox.Fault{HangAfter: 20}, 1, func(st int, _ http.Header, b string, err error) bool {
			return st == 200 && len(b) == 20 && errors.Is(err, context.DeadlineExceeded)
		}},
	} {
		before := len(s.Jobs())
		s.SetFault(func(*http.Request) *sandbox.Fault { return &tt.fault })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if strings.HasPrefix(tt.name, "hang") {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
		}
		status, h, body, err := send(ctx)
		cancel()
		if !tt.check(status, h, body, err) {
			t.Errorf("%s: %d %v %q %v", tt.name, status, h, body, err)
		}
		if got := len(s.Jobs()) - before; got != tt.jobs {
			t.Errorf("%s: %d jobs were made, want %d", tt.name, got, tt.jobs)
		}
	}
	s.SetFault(nil)
	if status, _, _, err := send(t.Context()); status != 200 || err != nil {
		t.Errorf("after the faults: %d %v", status, err)
	}
}

// TestClose ends what is still going on.
func TestClose(t *testing.T) {
	s, err := sandbox.New(sandbox.Config{JobDelay: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, s: s, header: http.Header{}}
	c.insert("SELECT 1", withID("never"))
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if jobs := s.Jobs(); jobs[0].State != "DONE" || jobs[0].Executed {
		t.Errorf("%+v", jobs[0])
	}
}

// TestSeedIsTheSame: everyone's demo has the same rows, in a moment.
func TestSeedIsTheSame(t *testing.T) {
	sums := map[string]bool{}
	for range 2 {
		c := seeded(t)
		o := c.query("SELECT (SELECT SUM(id * batch_id) + SUM(amount) FROM staging.imports), (SELECT COUNT(*) FROM staging.imports WHERE batch_id = 42), (SELECT SUM(total) FROM analytics.orders), (SELECT COUNT(DISTINCT name) FROM analytics.customers), (SELECT SUM(salary + bonus) FROM finance.payroll)")
		sums[rows(o)[0]] = true
	}
	if len(sums) != 1 {
		t.Errorf("seeds differ: %v", sums)
	}
	c := seeded(t)
	if err := c.s.Seed(t.Context()); err == nil {
		t.Error("seeding twice is no error")
	}
}
