package pages_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/pages"
)

// hostileTrail answers everything with texts that attack.
func hostileTrail(t *testing.T) *rig {
	r := newRig(t)
	e, o := call(), outcome()
	row := rowOf(t, e, "done")
	facet := func(field string) any {
		return map[string]any{"field": field, "values": []any{map[string]any{"value": nasty, "calls": 3, "errors": 1}}, "more": true, "complete": false, "since": moment}
	}
	session := map[string]any{
		"id": e.Session, "agent": "etl-bot" + nasty, "human": nasty, "how": nasty, "began": moment, "last": moment, "end_reason": nasty, "ended": moment,
		"claims": map[string]any{"title": nasty, "purpose": nasty}, "calls": 3, "errors": 1, "denied": 1, "held": 1, "bytes_billed": 5, "rows": 1, "tables": []string{nasty},
	}
	approval := map[string]any{
		"id": "apr_1", "state": "pending", "created": moment, "expires": moment.Add(7200e9), "principal": e.Principal, "session": e.Session, "connection": nasty, "project": nasty,
		"method": nasty, "class": nasty, "statement_type": nasty, "statement": "DELETE " + nasty, "statement_cut": true, "tables": e.Tables, "destinations": []string{nasty},
		"facts": map[string]any{"ran": false, "error": nasty, "bytes": 5}, "rule": nasty, "reason": nasty, "from": []string{nasty}, "need": 2, "call_sha256": strings.Repeat("c", 64),
		"held_entry": e.ID, "votes": []any{map[string]any{"human": nasty, "verdict": "approve", "reason": nasty, "via": "login", "at": moment}}, "may_vote": true,
	}
	r.answers = map[string]any{
		"GET entries":         map[string]any{"entries": []any{row}, "next_page_token": "next"},
		"GET entries/" + e.ID: map[string]any{"id": e.ID, "state": "done", "stages": []any{encoded(t, e), encoded(t, o)}, "statements": []any{map[string]any{"where": nasty, "sha256": "x", "length": 9, "dialect": nasty, "text": "SELECT '" + nasty + "'", "parameters": nasty, "missing": nasty}}},
		"GET entries/" + e.ID + "/results": map[string]any{
			"entry": e.ID, "job": nasty, "schema": []any{map[string]any{"name": nasty, "type": nasty}}, "from": 0, "rows": []json.RawMessage{cellOf(nasty), json.RawMessage("null")}, "more": true,
			"total_rows": 9, "stored_rows": 2, "gaps": []any{map[string]any{"from": 1, "to": 2, "why": nasty}}, "pages": []any{}, "erased": true,
		},
		"GET facets":                map[string]any{"facets": []any{facet("agent"), facet("table"), facet("class")}},
		"GET histogram":             map[string]any{"since": moment, "until": moment.Add(7200e9), "step_seconds": 3600, "complete": false, "counted_since": moment, "buckets": []any{map[string]any{"time": moment, "calls": 4, "errors": 1}, map[string]any{"time": moment.Add(3600e9), "calls": 2, "errors": 0}}},
		"GET searches":              map[string]any{"searches": []any{map[string]any{"id": "sea_1", "name": nasty, "filter": nasty, "owner": nasty, "shared": true, "at": moment}}},
		"GET sessions":              map[string]any{"sessions": []any{session}, "next_page_token": "n"},
		"GET sessions/" + e.Session: session,
		"GET agents":                map[string]any{"agents": []any{map[string]any{"name": "etl-bot", "note": nasty, "created": moment, "last_seen": moment}}},
		"GET agents/etl-bot/tokens": map[string]any{"tokens": []any{map[string]any{"id": nasty, "agent": "etl-bot", "note": nasty, "created": moment, "expires": moment.Add(7200e9), "human": nasty, "last_address": nasty, "last_used": moment}}},
		"GET stats":                 map[string]any{"groups": []any{map[string]any{"keys": map[string]string{"agent": "etl-bot", "day": "2026-11-23", "decision": "deny"}, "calls": 3, "errors": 1, "bytes_billed": 100}}},
		"GET suspensions":           map[string]any{"suspensions": []any{map[string]any{"scope": "agent", "name": "etl-bot", "reason": nasty, "by": nasty, "since": moment}}},
		"GET approvals":             map[string]any{"approvals": []any{approval}},
		"GET approvals/apr_1":       map[string]any{"approval": approval, "claims": e.Claims, "recent": []any{row}},
		"GET gateway":               map[string]any{"id": "gw", "version": nasty, "public_key": nasty, "origin": nasty, "entries": 9, "published": 9, "indexed": 9, "ready": false, "not_ready": nasty},
		"GET log/checkpoint":        "origin" + nasty + "\n9\nroot" + nasty + "\n\n— sig\n",
		"GET recordings":            map[string]any{"keys": []any{map[string]any{"key": "main/2026-11", "connection": "main", "month": "2026-11", "bodies": 2, "bytes": 7}}},
		"GET coverage": map[string]any{"connections": []any{
			map[string]any{
				"connection": "main", "compared": true, "source": "jobs", "projects": []any{"p"}, "every": "1h0m0s", "open": 1, "last_error": nasty, "last_run": moment, "until": moment,
				"days": []any{map[string]any{"date": "2026-11-28", "hours": 24, "both": 99999, "only_bigquery": 1, "mismatched": 2, "forged": 3, "only_trail": 4, "settled": 5, "others": 6, "percent": 99.999}},
			},
			map[string]any{"connection": "other", "compared": false, "projects": []any{}, "open": 0, "days": []any{}},
		}},
		"GET coverage/findings": map[string]any{"findings": []any{map[string]any{
			"kind": "mismatched", "connection": "main", "project": nasty, "job": nasty, "principal": nasty, "agent": nasty, "why": nasty, "created": moment,
			"call": "01k9qrs7h3j5c2d8m4n6p0v1wx", "entry": "01k9qrs7h3j5c2d8m4n6p0v1wy", "differences": []any{map[string]any{"field": "statement", "trail": nasty, "bigquery": nasty}},
		}}, "next_page_token": "100"},
		"GET holds": map[string]any{"holds": []any{map[string]any{"id": nasty, "reason": nasty, "by": nasty, "at": moment}}},
	}
	return r
}

func cellOf(s string) json.RawMessage {
	raw, _ := json.Marshal(map[string]any{"f": []any{map[string]any{"v": s}}})
	return raw
}

// every path that shows something of the trail.
func paths() []string {
	e := call()
	return []string{
		"/trail", "/trail?facets=1", "/trail?filter=" + url.QueryEscape(`agent = "`+typed+`"`), "/trail/rows", "/trail/facets", "/trail/histogram", "/entries/" + e.ID, "/entries/" + e.ID + "/results",
		"/entries/" + e.ID + "/results/rows", "/sessions", "/sessions?agent=" + url.QueryEscape(typed), "/sessions/" + e.Session, "/agents", "/agents/etl-bot", "/approvals", "/approvals/inbox",
		"/approvals/apr_1", "/coverage", "/coverage?state=all&connection=main", "/log", "/help", "/nothing",
	}
}

// TestHostileTexts: whatever agents write, no page becomes script, and what would steer
// the eye is shown as a mark. The checks are in rig.checked.
func TestHostileTexts(t *testing.T) {
	r := hostileTrail(t)
	for _, path := range paths() {
		code, body := r.get(path)
		want := http.StatusOK
		if path == "/nothing" {
			want = http.StatusNotFound
		}
		if code != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
		if strings.HasPrefix(path, "/entries/") && !strings.Contains(body, "‹U&#43;202E›") {
			t.Errorf("%s does not show the bidi control", path)
		}
	}
}

// TestAccessible: what a screen reader needs of every page.
func TestAccessible(t *testing.T) {
	r := hostileTrail(t)
	inputs := regexp.MustCompile(`<(input|select|textarea)\b[^>]*>`)
	ids := regexp.MustCompile(`\bid="([^"]+)"`)
	for _, path := range paths() {
		_, body := r.get(path)
		if !strings.HasPrefix(body, "<!doctype html>") {
			continue // a fragment
		}
		if n := strings.Count(body, "<h1"); n != 1 {
			t.Errorf("%s has %d h1", path, n)
		}
		for _, want := range []string{`<aside class="demo" aria-label="Demo">`, `<html lang="en">`, `<main id="main">`, `class="skip"`, "<title>", `name="viewport"`} {
			if !strings.Contains(body, want) {
				t.Errorf("%s lacks %s", path, want)
			}
		}
		for _, input := range inputs.FindAllString(body, -1) {
			if strings.Contains(input, `type="hidden"`) || strings.Contains(input, "aria-label=") {
				continue
			}
			id := ids.FindStringSubmatch(input)
			at := strings.Index(body, input)
			wrapped := strings.LastIndex(body[:at], "<label") > strings.LastIndex(body[:at], "</label")
			if !wrapped && (id == nil || !strings.Contains(body, `for="`+id[1]+`"`)) {
				t.Errorf("%s: %s has no label", path, input)
			}
		}
		for _, th := range regexp.MustCompile(`<th\b[^>]*>`).FindAllString(body, -1) {
			if !strings.Contains(th, "scope=") {
				t.Errorf("%s: %s has no scope", path, th)
			}
		}
		seen := map[string]bool{}
		for _, id := range ids.FindAllStringSubmatch(body, -1) {
			if seen[id[1]] {
				t.Errorf("%s has the id %s twice", path, id[1])
			}
			seen[id[1]] = true
		}
	}
}

// TestWaits: a session says how long a call waited for humans, and what they said of it;
// where approvals cannot be had it says the rest.
func TestWaits(t *testing.T) {
	r := hostileTrail(t)
	e := call()
	e.Kind = trailgate.KindHeld
	r.answers["GET entries"] = map[string]any{"entries": []any{rowOf(t, e, "held")}}
	vote := func(human, verdict, reason string, after time.Duration) map[string]any {
		return map[string]any{"human": human, "verdict": verdict, "reason": reason, "via": "oidc", "at": moment.Add(after)}
	}
	asked := map[string]any{
		"id": "apr_1", "state": "denied", "created": moment, "expires": moment.Add(time.Hour), "principal": e.Principal, "held_entry": e.ID,
		"votes": []any{vote("maya@example.com", "approve", "", 90*time.Second), vote(nasty, "deny", nasty, 5*time.Minute)},
	}
	r.answers["GET approvals"] = map[string]any{"approvals": []any{asked}}
	path := "/sessions/" + e.Session
	code, body := r.get(path)
	if code != http.StatusOK || !strings.Contains(body, "waited for a human") || !strings.Contains(body, "approved by maya@example.com after 90 s") || !strings.Contains(body, "after 5 min") {
		t.Errorf("%d %s", code, body)
	}
	asked["votes"], asked["state"] = []any{}, "expired"
	if _, body := r.get(path); !strings.Contains(body, "; expired") {
		t.Error("nobody decided, and the session does not say so")
	}
	delete(r.answers, "GET approvals")
	if code, body := r.get(path); code != http.StatusOK || !strings.Contains(body, "waited for a human") {
		t.Errorf("%d %s", code, body)
	}
}

// TestVote: a form decides about the call that its human read, and about no other.
func TestVote(t *testing.T) {
	sum := strings.Repeat("c", 64)
	for name, c := range map[string]struct {
		path   string
		form   url.Values
		voted  bool
		wanted string
	}{
		"approve":            {"approve", url.Values{"call_sha256": {sum}, "read_whole": {"yes"}}, true, ""},
		"another call":       {"approve", url.Values{"call_sha256": {strings.Repeat("d", 64)}, "read_whole": {"yes"}}, false, "is not what the form was for"},
		"no digest":          {"approve", url.Values{"read_whole": {"yes"}}, false, "is not what the form was for"},
		"not read whole":     {"approve", url.Values{"call_sha256": {sum}}, false, "Read it whole"},
		"deny":               {"deny", url.Values{"call_sha256": {sum}, "reason": {"not today"}}, true, ""},
		"deny, no reason":    {"deny", url.Values{"call_sha256": {sum}}, false, "Say why"},
		"two digests":        {"approve", url.Values{"call_sha256": {sum, sum}}, false, "more than once"},
		"deny, another call": {"deny", url.Values{"call_sha256": {"x"}, "reason": {"no"}}, false, "is not what the form was for"},
	} {
		r := hostileTrail(t)
		r.answers["POST approvals/apr_1:approve"], r.answers["POST approvals/apr_1:deny"] = map[string]any{"id": "apr_1"}, map[string]any{"id": "apr_1"}
		code, body, to := r.post("/approvals/apr_1/"+c.path, c.form)
		voted := slices.ContainsFunc(r.asked, func(s string) bool { return strings.HasPrefix(s, "POST approvals/") })
		if voted != c.voted {
			t.Errorf("%s: voted %v, %d %v", name, voted, code, r.asked)
		}
		if c.voted && (code != http.StatusSeeOther || to != "/approvals/apr_1?done="+c.path) {
			t.Errorf("%s: %d %s", name, code, to)
		}
		if !c.voted && (code < 400 || !strings.Contains(body, c.wanted)) {
			t.Errorf("%s: %d, want %q in the page", name, code, c.wanted)
		}
	}
	r := hostileTrail(t)
	r.answers["POST approvals/apr_1:deny"], r.codes["POST approvals/apr_1:deny"] = map[string]any{"error": map[string]any{"code": 403, "message": "it is your own"}}, 403
	code, body, _ := r.post("/approvals/apr_1/deny", url.Values{"call_sha256": {sum}, "reason": {"x"}})
	if code != 403 || !strings.Contains(body, "does not count: it is your own") {
		t.Errorf("a vote that does not count: %d", code)
	}
	if code, _ := r.get("/approvals/apr_1/approve"); code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
		t.Errorf("a vote by GET: %d", code)
	}
}

// TestRoles: who is no auditor is led to approvals, and sees no forms of an admin.
func TestRoles(t *testing.T) {
	r := hostileTrail(t)
	r.who = pages.Viewer{Name: "bob", Via: "oidc", Roles: []string{"approver"}}
	w := httptest.NewRecorder()
	r.p.Serve(w, httptest.NewRequest(http.MethodGet, "/", nil), r.who, r.api)
	if w.Header().Get("Location") != "/approvals" {
		t.Errorf("an approver begins at %s", w.Header().Get("Location"))
	}
	if _, body := r.get("/approvals"); strings.Contains(body, `href="/trail"`) {
		t.Error("an approver is offered the trail")
	}
	r.who = pages.Viewer{Name: "eve", Via: "oidc", Roles: []string{"auditor"}}
	for _, path := range []string{"/agents/etl-bot", "/log"} {
		if _, body := r.get(path); strings.Contains(body, "/suspend") || strings.Contains(body, "/resume") || strings.Contains(body, "/log/erase") || strings.Contains(body, "/revoke") || strings.Contains(body, `/tokens"`) {
			t.Errorf("%s shows an auditor an admin's form", path)
		}
	}
}

// TestToken: a new token's secret is shown by the page that answers, and kept nowhere.
func TestToken(t *testing.T) {
	r := hostileTrail(t)
	r.answers["POST agents/etl-bot/tokens"] = map[string]any{"token_id": "tok_1", "agent": "etl-bot", "expires": moment, "token": "tg_secret"}
	w := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodPost, "/agents/etl-bot/tokens", strings.NewReader("hours=24&note=x"))
	r.p.Serve(w, req, r.who, r.api)
	if w.Code != 200 || w.Header().Get("Cache-Control") != "no-store" || strings.Count(w.Body.String(), "tg_secret") != 1 {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	for _, form := range []url.Values{{"hours": {"0"}}, {"hours": {"x"}}, {"hours": {"999999"}}} {
		if code, _, _ := r.post("/agents/etl-bot/tokens", form); code != http.StatusBadRequest {
			t.Errorf("%v: %d", form, code)
		}
	}
	if code, body, _ := r.post("/agents/etl-bot/suspend", url.Values{}); code != http.StatusBadRequest || !strings.Contains(body, "Say why") {
		t.Errorf("suspended without a reason: %d", code)
	}
	for _, form := range []url.Values{{"key": {"main/2026-11"}, "typed": {"main/2026-10"}, "reason": {"x"}}, {"key": {"main/2026-11"}, "typed": {"main/2026-11"}}} {
		if code, _, _ := r.post("/log/erase", form); code != http.StatusBadRequest {
			t.Errorf("%v: %d", form, code)
		}
	}
	if slices.ContainsFunc(r.asked, func(s string) bool {
		return strings.Contains(s, "recordings:erase") || strings.Contains(s, "POST suspensions")
	}) {
		t.Errorf("asked: %v", r.asked)
	}
}

// TestConsole: the link to Google's console is made for jobs of Google's alone.
func TestConsole(t *testing.T) {
	r := hostileTrail(t)
	e := call()
	e.Job = &trailgate.Job{Project: "acme", ID: "bqjob_1", Location: "EU"}
	o := outcome()
	for host, linked := range map[string]bool{"bigquery.googleapis.com": true, "127.0.0.1:9050": false, "evil.example/.googleapis.com.evil.example": false} {
		o.Upstream.Host = host
		r.answers["GET entries/"+e.ID] = map[string]any{"id": e.ID, "state": "done", "stages": []any{encoded(t, e), encoded(t, o)}, "statements": []any{}}
		_, body := r.get("/entries/" + e.ID)
		if got := strings.Contains(body, "https://console.cloud.google.com/bigquery?j=bq%3AEU%3Abqjob_1"); got != linked {
			t.Errorf("%s: %v", host, got)
		}
	}
}

// TestFilterProblem: a mistake in a filter is shown where it is, and what was typed stays.
func TestFilterProblem(t *testing.T) {
	r := hostileTrail(t)
	r.answers["GET entries"] = map[string]any{"error": map[string]any{"code": 400, "message": "there is no field", "details": map[string]any{"column": 5}}}
	r.codes["GET entries"] = 400
	code, body := r.get("/trail?filter=" + url.QueryEscape(`a = 1 OR b`))
	if code != 400 || !strings.Contains(body, "there is no field") || !strings.Contains(body, "<span aria-hidden=\"true\">    </span>^") || !strings.Contains(body, `value="a = 1 OR b"`) {
		t.Errorf("%d %s", code, body)
	}
}

// TestAssets: what pages load is there, under a path that may be kept.
func TestAssets(t *testing.T) {
	r := hostileTrail(t)
	_, body := r.get("/trail")
	found := regexp.MustCompile(`(?:src|href)="(/assets/[^"]+)"`).FindAllStringSubmatch(body, -1)
	if len(found) < 4 {
		t.Fatalf("assets: %v", found)
	}
	for _, m := range found {
		w := httptest.NewRecorder()
		r.p.Assets().ServeHTTP(w, httptest.NewRequest(http.MethodGet, m[1], nil))
		if w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") || w.Header().Get("Content-Type") == "" {
			t.Errorf("%s: %d %v", m[1], w.Code, w.Header())
		}
	}
	for _, path := range []string{"/assets/", "/assets/0000/style.css", "/assets/../pages.go", strings.Replace(found[0][1], "style", "stile", 1)} {
		w := httptest.NewRecorder()
		r.p.Assets().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

// TestCoverage: a day is never shown as covered whole that is not, what the figure is
// relative to is said, and a finding is acknowledged with a reason alone.
func TestCoverage(t *testing.T) {
	r := hostileTrail(t)
	_, body := r.get("/coverage")
	for _, want := range []string{"more than 99.99 %", "relative to BigQuery&#39;s job list", "relative to BigQuery's job list", "Not compared: no credential", `href="/entries/01k9qrs7h3j5c2d8m4n6p0v1wy"`, `aria-current="page">Coverage`} {
		if !strings.Contains(body, want) && !strings.Contains(body, strings.ReplaceAll(want, "&#39;", "'")) {
			t.Errorf("the page lacks %q", want)
		}
	}
	r.answers["POST coverage/findings/01k9qrs7h3j5c2d8m4n6p0v1wy:acknowledge"] = map[string]any{"finding": "01k9qrs7h3j5c2d8m4n6p0v1wy", "entry": "e"}
	code, _, _ := r.post("/coverage/acknowledge", url.Values{"finding": {"01k9qrs7h3j5c2d8m4n6p0v1wy"}, "reason": {" "}})
	if code != http.StatusBadRequest || slices.ContainsFunc(r.asked, func(s string) bool { return strings.HasPrefix(s, "POST") }) {
		t.Errorf("without a reason: %d, %q", code, r.asked)
	}
	code, _, _ = r.post("/coverage/acknowledge", url.Values{"finding": {"01k9qrs7h3j5c2d8m4n6p0v1wy"}, "reason": {"a test"}})
	if code != http.StatusSeeOther || !strings.Contains(r.bodies[len(r.bodies)-1], "a test") {
		t.Errorf("%d, %q", code, r.bodies)
	}
}
