package pages_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/pages"
)

// nasty is what an agent may write to attack who looks at it.
const nasty = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> javascript:alert(3) \u202Eevil\u202C \x1b[2J"

// typed is the same without what a box for typing shows as it is.
const typed = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"

// api is a fake of the admin API: answers by "METHOD path", and what was asked.
type api struct {
	t       *testing.T
	answers map[string]any
	codes   map[string]int
	asked   []string
	bodies  []string
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/api/v1/")
	raw, _ := io.ReadAll(r.Body)
	a.asked, a.bodies = append(a.asked, r.Method+" "+strings.TrimPrefix(r.URL.RequestURI(), "/api/v1/")), append(a.bodies, string(raw))
	w.Header().Set("Content-Type", "application/json")
	answer, ok := a.answers[name]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		answer = map[string]any{"error": map[string]any{"code": 404, "status": "NOT_FOUND", "message": "the test has no " + name}}
	} else if code := a.codes[name]; code != 0 {
		w.WriteHeader(code)
	}
	if text, ok := answer.(string); ok {
		_, _ = io.WriteString(w, text)
		return
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		a.t.Error(err)
	}
}

type rig struct {
	*api
	p   *pages.Pages
	who pages.Viewer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	p, err := pages.New(pages.Options{Gateway: "gw", Version: "1", Demo: true, Now: func() time.Time { return moment.Add(time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{api: &api{t: t, answers: map[string]any{}, codes: map[string]int{}}, p: p, who: pages.Viewer{Name: "ada@example.com", Via: "oidc", Roles: []string{"admin"}}}
}

var moment = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// get asks for a page.
func (r *rig) get(path string) (int, string) {
	r.t.Helper()
	w := httptest.NewRecorder()
	r.p.Serve(w, httptest.NewRequest(http.MethodGet, path, nil), r.who, r.api)
	return w.Code, r.checked(w)
}

// post sends a form.
func (r *rig) post(path string, form url.Values) (int, string, string) {
	r.t.Helper()
	w := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.p.Serve(w, req, r.who, r.api)
	return w.Code, r.checked(w), w.Header().Get("Location")
}

// checked is a page's body, after what must hold of every page was looked at.
func (r *rig) checked(w *httptest.ResponseRecorder) string {
	r.t.Helper()
	body := w.Body.String()
	if w.Code >= 300 && w.Code < 400 {
		return body
	}
	csp := w.Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"} {
		if !strings.Contains(csp, want) {
			r.t.Errorf("Content-Security-Policy %q lacks %s", csp, want)
		}
	}
	if strings.Contains(csp, "unsafe") || w.Header().Get("X-Frame-Options") != "DENY" {
		r.t.Errorf("headers: %v", w.Header())
	}
	for _, bad := range []string{"<script>", "<img", "\u202e", "\x1b", "href=\"javascript:", "style=\"", "onclick", "ZgotmplZ"} {
		if i := strings.Index(strings.ToLower(body), bad); i >= 0 {
			r.t.Errorf("the page has %q: …%s…", bad, body[max(0, i-80):min(len(body), i+80)])
		}
	}
	return body
}

// call is an entry of an agent that attacks with every text it has.
func call() *trailgate.Entry {
	return &trailgate.Entry{
		Seq: 7, Time: moment, ID: "01jd2v8c9mhw3k5r0000000001", Kind: trailgate.KindIntent, Gateway: trailgate.Gateway{ID: "gw", Version: "1"},
		Principal: &trailgate.Principal{Agent: "etl-bot" + nasty, Human: nasty, Subject: nasty, Issuer: "javascript:alert(1)", Actors: []string{nasty}},
		Claims:    &trailgate.Claims{UserAgent: nasty, Title: nasty, Purpose: nasty, Reason: nasty, Labels: map[string]string{nasty: nasty}},
		Session:   "01jd2v8c9mhw3k5r0000000009", Connection: "main", Project: nasty, Method: "bigquery.jobs.insert", Class: trailgate.ClassWrite,
		Request:      &trailgate.Request{Verb: "POST", Path: nasty},
		Statements:   []trailgate.Statement{{Where: "configuration.query.query", Text: "SELECT '" + nasty + "' -- " + nasty, SHA256: strings.Repeat("a", 64), Length: 9}},
		Tables:       &trailgate.Tables{Read: []string{nasty}, Written: []string{"p.d." + nasty}},
		Job:          &trailgate.Job{Project: nasty, ID: nasty, Location: nasty},
		Decision:     &trailgate.Decision{Effect: "allow", Rule: nasty, Reason: nasty, Limits: map[string]string{nasty: nasty}},
		Destinations: []string{"javascript:alert(1)", nasty}, Flags: []string{"foreign_job"},
	}
}

func outcome() *trailgate.Entry {
	return &trailgate.Entry{
		Seq: 8, Time: moment.Add(time.Second), ID: "01jd2v8c9mhw3k5r0000000002", Kind: trailgate.KindOutcome, IntentID: "01jd2v8c9mhw3k5r0000000001", Gateway: trailgate.Gateway{ID: "gw", Version: "1"},
		Outcome:   &trailgate.Outcome{Status: 200, End: trailgate.EndComplete, Rows: 3, TotalRows: 3, BytesBilled: 10485760, ErrorReason: nasty, ErrorMessage: nasty, DurationNanos: 5e6},
		Upstream:  &trailgate.Upstream{Mode: "impersonation", Principal: nasty, Host: "bigquery.googleapis.com"},
		Recording: &trailgate.Recording{Level: "results", Rows: 3, StoredRows: 2, Truncated: true, Error: nasty, Key: "main/2026-11", Body: strings.Repeat("b", 64)},
	}
}

// encoded is an entry as the API sends it.
func encoded(t *testing.T, e *trailgate.Entry) json.RawMessage {
	t.Helper()
	raw, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// rowOf is an entry as a search sends it.
func rowOf(t *testing.T, e *trailgate.Entry, state string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(encoded(t, e), &m); err != nil {
		t.Fatal(err)
	}
	m["state"] = state
	return m
}

// needNode is for tests that run script as a browser would.
func needNode(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("node is missing: install Node.js 18 or later")
		}
		t.Skip("node is not installed")
	}
}
