package admin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/reconcile"
	"github.com/trailgate/trailgate/internal/recording"
)

// document is openapi.json.
type document struct {
	t    testing.TB
	root map[string]any
}

func readDocument(t testing.TB) *document {
	t.Helper()
	d := &document{t: t}
	if err := json.Unmarshal(admin.OpenAPI(), &d.root); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *document) at(path ...string) map[string]any {
	v := d.root
	for _, step := range path {
		v, _ = v[step].(map[string]any)
	}
	return d.follow(v)
}

// follow resolves a reference.
func (d *document) follow(v map[string]any) map[string]any {
	ref, ok := v["$ref"].(string)
	if !ok {
		return v
	}
	out := d.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	if out == nil {
		d.t.Errorf("the document has no %s", ref)
	}
	return out
}

// check holds a value against a schema: the part of JSON Schema 2020-12 that
// the document uses. Another keyword fails the test, so that none goes unseen.
func (d *document) check(schema map[string]any, v any, where string) (seen map[string]bool) {
	schema = d.follow(schema)
	seen = map[string]bool{}
	bad := func(format string, args ...any) {
		d.t.Helper()
		d.t.Errorf("%s: "+format, append([]any{where}, args...)...)
	}
	object, _ := v.(map[string]any)
	for _, keyword := range slices.Sorted(maps.Keys(schema)) {
		value := schema[keyword]
		switch keyword {
		case "description", "default", "format", "contentEncoding":
		case "type":
			if !isType(value.(string), v) {
				bad("%T, want %v", v, value)
			}
		case "properties":
			for name, sub := range value.(map[string]any) {
				seen[name] = true
				if member, ok := object[name]; ok {
					d.check(sub.(map[string]any), member, where+"."+name)
				}
			}
		case "required":
			for _, name := range value.([]any) {
				if _, ok := object[name.(string)]; !ok {
					bad("no %s", name)
				}
			}
		case "additionalProperties", "unevaluatedProperties":
			if value == false {
				continue // below, when all properties are known
			}
			for name, member := range object {
				seen[name] = true
				d.check(value.(map[string]any), member, where+"."+name)
			}
		case "items":
			list, _ := v.([]any)
			for i, item := range list {
				d.check(value.(map[string]any), item, fmt.Sprintf("%s[%d]", where, i))
			}
		case "minItems":
			if list, _ := v.([]any); len(list) < int(value.(float64)) {
				bad("%d items", len(list))
			}
		case "allOf":
			for _, sub := range value.([]any) {
				maps.Copy(seen, d.check(sub.(map[string]any), v, where))
			}
		case "enum":
			if !slices.Contains(value.([]any), v) {
				bad("%v is none of %v", v, value)
			}
		case "const":
			if v != value {
				bad("%v, want %v", v, value)
			}
		case "pattern":
			if s, _ := v.(string); !regexp.MustCompile(value.(string)).MatchString(s) {
				bad("%q does not match %s", s, value)
			}
		case "minimum":
			if n, _ := v.(float64); n < value.(float64) {
				bad("%v is below %v", n, value)
			}
		default:
			bad("the test does not know the keyword %s", keyword)
		}
	}
	if schema["additionalProperties"] == false || schema["unevaluatedProperties"] == false {
		for name := range object {
			if !seen[name] {
				bad("%s is not in the document", name)
			}
		}
	}
	return seen
}

func isType(name string, v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return name == "object"
	case []any:
		return name == "array"
	case string:
		return name == "string"
	case bool:
		return name == "boolean"
	case float64:
		return name == "number" || name == "integer" && v == float64(int64(v))
	}
	return false
}

// answered holds an answer against the document's response for its status.
func (d *document) answered(path, method string, a answer) {
	d.t.Helper()
	where := fmt.Sprintf("%s %s %d", method, path, a.StatusCode)
	op := d.at("paths", path, strings.ToLower(method))
	responses, _ := op["responses"].(map[string]any)
	response, ok := responses[fmt.Sprint(a.StatusCode)].(map[string]any)
	if !ok {
		d.t.Errorf("%s: this status is not in the document: %s", where, a.body)
		return
	}
	kind, _, _ := strings.Cut(a.Header.Get("Content-Type"), ";")
	content, _ := d.follow(response)["content"].(map[string]any)
	media, ok := content[kind].(map[string]any)
	if !ok {
		d.t.Errorf("%s: Content-Type %q is not in the document", where, kind)
		return
	}
	if kind != "application/json" {
		return
	}
	var v any
	if err := json.Unmarshal(a.body, &v); err != nil {
		d.t.Errorf("%s: %v", where, err)
		return
	}
	d.check(media["schema"].(map[string]any), v, where)
}

// TestDocumentedRoutes: what is served is in the document, and the other way
// round, with its parameters and who may ask.
func TestDocumentedRoutes(t *testing.T) {
	d := readDocument(t)
	documented := map[string][]string{}
	for path, item := range d.at("paths") {
		for method, op := range item.(map[string]any) {
			op := op.(map[string]any)
			facts := []string{fmt.Sprint("open ", op["security"] != nil)}
			parameters, _ := op["parameters"].([]any)
			for _, p := range parameters {
				p := d.follow(p.(map[string]any))
				facts = append(facts, fmt.Sprint(p["in"], " ", p["name"]))
			}
			if op["operationId"] == nil || op["summary"] == nil || op["tags"] == nil {
				t.Errorf("%s %s says too little", method, path)
			}
			slices.Sort(facts)
			documented[strings.ToUpper(method)+" "+path] = facts
		}
	}
	served := map[string][]string{}
	for _, r := range newRig(t).api.Routes() {
		facts := []string{fmt.Sprint("open ", r.Open)}
		for _, name := range r.Query {
			facts = append(facts, "query "+name)
		}
		for _, m := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(r.Path, -1) {
			facts = append(facts, "path "+m[1])
		}
		slices.Sort(facts)
		served[r.Method+" "+r.Path] = facts
	}
	if diff := cmp.Diff(documented, served); diff != "" {
		t.Errorf("documented (-) and served (+) differ:\n%s", diff)
	}
}

// TestDocumentedAnswers sends each operation what it should answer and what it
// should not, and holds every answer against the document.
func TestDocumentedAnswers(t *testing.T) {
	d := readDocument(t)
	given := &consents{given: []federation.Consent{{Connection: "personal", Human: "ada@example.com", Account: "ada@example.com", ClientID: "c", Scopes: []string{"s"}, Granted: time.Now(), Broken: "withdrawn"}}}
	var rows *recording.Store
	r := newRig(t, func(c *admin.Config) {
		c.Sessions = sessionTokens{}
		c.Consents = map[string]admin.Consenter{"personal": given}
		c.Check = func(_ context.Context, connection, agent, _ string) ([]admin.Check, error) {
			if connection != "prod" {
				return nil, fmt.Errorf("%w: %s", admin.ErrNotFound, connection)
			}
			return []admin.Check{{Name: "sts", OK: true, Detail: agent}, {Name: "impersonation", Fix: "gcloud"}}, nil
		}
		decide(t, c)
		withConnectors(t)(c)
		rows = keeping(t, c, time.Now)
		c.Coverage = coverage()
		c.SearchesFile = filepath.Join(t.TempDir(), "searches.json")
		c.Login, c.AdminURL = &admin.LoginConfig{}, "http://127.0.0.1:8471"
	})
	asked, other := hold(t, r, "etl-bot", ""), hold(t, r, "load-bot", "ada@example.com")
	r.file("checkpoint", "trailgate/test\n3\n\n")
	r.file("rotations", "{}\n")
	r.file("tile/0/000", "hashes")
	r.file("tile/entries/000.p/3", "entries")
	sha := r.trail.PutBlob("SELECT 1")
	r.intent(1, "etl-bot")
	r.outcome(1)
	r.entry(&trailgate.Entry{ID: id(2), Kind: trailgate.KindDenied, Statements: []trailgate.Statement{{Where: "query", Blob: sha, SHA256: sha, Length: 8}}})
	page(r, 3, "ses", "job", keep(rows, 0, 3, 0))
	r.caughtUp()
	_, tok := agentWithToken(t, r, "etl-bot")

	const p = "/api/v1/"
	done := map[string]bool{}
	ask := func(method, path, target, body string, code int) answer {
		t.Helper()
		a := r.socket(method, p+target, body)
		if a.StatusCode != code {
			t.Errorf("%s %s: %d, want %d: %s", method, target, a.StatusCode, code, a.body)
		}
		d.answered(p+path, method, a)
		done[fmt.Sprint(method, " ", p+path)] = done[fmt.Sprint(method, " ", p+path)] || code < 300
		return a
	}
	const get, post = http.MethodGet, http.MethodPost
	ask(get, "entries", "entries", "", 200)
	ask(get, "entries", "entries?page_size=1&order=asc&filter=agent%3D%22etl-bot%22", "", 200)
	ask(get, "entries", "entries?filter=agnt%3D1", "", 400)
	ask(get, "entries:follow", "entries:follow?after_seq=x", "", 400)
	ask(get, "entries/{id}", "entries/"+id(1), "", 200)
	ask(get, "entries/{id}", "entries/"+id(2), "", 200)
	ask(get, "entries/{id}", "entries/zzzzzzzz", "", 404)
	ask(get, "entries/{id}", "entries/01jd2v8c", "", 400)
	ask(get, "entries/{id}/proof", "entries/"+id(1)+"/proof", "", 200)
	ask(get, "entries/{id}/proof", "entries/zzzzzzzz/proof", "", 404)
	ask(get, "entries/{id}/results", "entries/"+id(3)+"/results?from=1&count=1", "", 200)
	ask(get, "entries/{id}/results", "entries/"+id(1)+"/results", "", 404)
	ask(get, "entries/{id}/results", "entries/"+id(3)+"/results?from=x", "", 400)
	ask(post, "bundles", "bundles", `{"filter":"agent = \"etl-bot\"","statements":true,"rows":true}`, 200)
	ask(post, "bundles", "bundles", `{"first":0,"last":2}`, 200)
	ask(post, "bundles", "bundles", `{"filter":"agnt = 1"}`, 400)
	ask(get, "recordings", "recordings", "", 200)
	month := "main/" + time.Now().UTC().Format("2006-01")
	ask(post, "holds", "holds", `{"id":"case","connection":"main","from":"2026-01-01T00:00:00Z","until":"2100-01-01T00:00:00Z","reason":"litigation"}`, 200)
	ask(post, "holds", "holds", `{"id":"Case","reason":"litigation"}`, 400)
	ask(get, "holds", "holds", "", 200)
	ask(post, "recordings:erase", "recordings:erase", `{"keys":["`+month+`"],"reason":"x"}`, 409)
	ask(post, "recordings:erase", "recordings:erase", `{"reason":"x"}`, 400)
	ask(post, "holds/{hold_id}:release", "holds/case:release", "", 200)
	ask(post, "holds/{hold_id}:release", "holds/case:release", "", 404)
	ask(post, "recordings:erase", "recordings:erase", `{"keys":["`+month+`"],"reason":"x"}`, 200)
	ask(get, "entries/{id}/results", "entries/"+id(3)+"/results", "", 200)
	r.entry(&trailgate.Entry{
		ID: id(7), Kind: trailgate.KindSession, Session: "ses", Principal: &trailgate.Principal{Agent: "etl-bot"}, Claims: &trailgate.Claims{Title: "t"},
		Event: &trailgate.Event{Action: "session.open", Target: "ses", Detail: map[string]string{"how": "run"}},
	})
	r.caughtUp()
	ask(get, "facets", "facets?filter=agent%3D%22etl-bot%22&limit=3", "", 200)
	ask(get, "facets", "facets?fields=nothing", "", 400)
	ask(get, "histogram", "histogram?buckets=10", "", 200)
	ask(get, "histogram", "histogram?since=yesterday", "", 400)
	ask(get, "filter:complete", "filter:complete?text=ag", "", 200)
	ask(get, "filter:complete", "filter:complete?text=ag&cursor=9", "", 400)
	ask(get, "sessions", "sessions?page_size=5", "", 200)
	ask(get, "sessions", "sessions?filter=agnt%3D1", "", 400)
	ask(get, "sessions/{session_id}", "sessions/ses", "", 200)
	ask(get, "sessions/{session_id}", "sessions/none", "", 404)
	ask(get, "entries:export", "entries:export?format=csv", "", 200)
	ask(get, "entries:export", "entries:export", "", 200)
	ask(get, "entries:export", "entries:export?format=xml", "", 400)
	made := ask(post, "searches", "searches", `{"name":"mine","filter":"agent = \"etl-bot\"","shared":true}`, 200)
	ask(post, "searches", "searches", `{"name":"","filter":""}`, 400)
	ask(post, "searches", "searches", `{"name":"x","filter":"agnt = 1"}`, 400)
	ask(get, "searches", "searches", "", 200)
	search, _ := made.json(t, "id").(string)
	ask(post, "searches/{search_id}:remove", "searches/"+search+":remove", "", 200)
	ask(post, "searches/{search_id}:remove", "searches/"+search+":remove", "", 404)
	ask(get, "stats", "stats?by=agent,class", "", 200)
	ask(get, "stats", "stats?by=nothing", "", 400)
	ask(get, "blobs/{sha256}", "blobs/"+sha, "", 200)
	ask(get, "blobs/{sha256}", "blobs/"+strings.Repeat("0", 64), "", 404)
	ask(get, "blobs/{sha256}", "blobs/x", "", 400)
	ask(get, "agents", "agents", "", 200)
	ask(post, "agents", "agents", `{"name":"analyst-bot","note":"n"}`, 201)
	ask(post, "agents", "agents", `{"name":"analyst-bot"}`, 409)
	ask(post, "agents", "agents", `{"name":"Analyst"}`, 400)
	ask(post, "agents", "agents", `{"name":"`+strings.Repeat("x", admin.MaxBodyBytes)+`"}`, 413)
	ask(get, "agents/{agent}/tokens", "agents/etl-bot/tokens", "", 200)
	ask(get, "agents/{agent}/tokens", "agents/nobody/tokens", "", 404)
	ask(post, "agents/{agent}/tokens", "agents/etl-bot/tokens", `{"ttl_seconds":60,"note":"n","title":"t","purpose":"p","session_bound":true}`, 201)
	ask(post, "agents/{agent}/tokens", "agents/etl-bot/tokens", "", 201)
	ask(post, "agents/{agent}/tokens", "agents/nobody/tokens", `{}`, 404)
	ask(post, "agents/{agent}/tokens", "agents/etl-bot/tokens", `{"ttl_seconds":-1}`, 400)
	ask(get, "agents/{agent}/tokens", "agents/etl-bot/tokens", "", 200)
	ask(post, "agents/{agent}/tokens", "agents/etl-bot/tokens", `{"connections":["prod"],"sources":["10.0.0.0/8"],"human":"ada@example.com"}`, 201)
	ask(post, "agents/{agent}/tokens", "agents/etl-bot/tokens", `{"connections":["nowhere"]}`, 400)
	ask(post, "agents/{agent}/tokens", "agents/etl-bot/tokens", `{"sources":["10.0.0.1/8"]}`, 400)
	ask(get, "agents/{agent}/tokens", "agents/etl-bot/tokens", "", 200)
	ask(post, "tokens/{token_id}:rotate", "tokens/"+tok.ID+":rotate", `{"ttl_seconds":60,"overlap_seconds":30}`, 201)
	ask(post, "tokens/{token_id}:rotate", "tokens/"+tok.ID+":rotate", ``, 400)
	ask(post, "tokens/{token_id}:rotate", "tokens/tok_x:rotate", `{}`, 404)
	ask(post, "tokens/{token_id}:rotate", "tokens/"+tok.ID+":rotate", `{"overlap_seconds":-1}`, 400)
	ask(post, "sessions/{session_token_id}:revoke", "sessions/ses_1:revoke", "", 200)
	ask(post, "sessions/{session_token_id}:revoke", "sessions/x:revoke", "", 400)
	ask(post, "connections/{connection}:check", "connections/prod:check", `{"agent":"etl-bot"}`, 200)
	ask(post, "connections/{connection}:check", "connections/nowhere:check", `{"agent":"etl-bot"}`, 404)
	ask(get, "consents", "consents", "", 200)
	ask(post, "consents/{connection}:revoke", "consents/personal:revoke", `{"human":"ada@example.com"}`, 200)
	ask(post, "consents/{connection}:revoke", "consents/personal:revoke", `{"human":"ada@example.com"}`, 404)
	ask(post, "consents/{connection}:revoke", "consents/nowhere:revoke", `{}`, 404)
	ask(get, "approvals", "approvals?state=open&agent=etl-bot", "", 200)
	ask(get, "approvals", "approvals?stat=open", "", 400)
	ask(get, "approvals/{approval_id}", "approvals/"+asked, "", 200)
	ask(get, "approvals/{approval_id}", "approvals/apr_none", "", 404)
	ask(post, "approvals/{approval_id}:approve", "approvals/"+asked+":approve", `{"reason":"fine"}`, 200)
	ask(post, "approvals/{approval_id}:approve", "approvals/"+asked+":approve", "", 409)
	ask(post, "approvals/{approval_id}:deny", "approvals/"+other+":deny", `{}`, 400)
	ask(post, "approvals/{approval_id}:deny", "approvals/"+other+":deny", `{"reason":"no"}`, 200)
	ask(post, "approvals/{approval_id}:deny", "approvals/apr_none:deny", `{"reason":"no"}`, 404)
	ask(get, "approvals/{approval_id}", "approvals/"+other, "", 200)
	ask(get, "policy", "policy", "", 200)
	ask(post, "login-links", "login-links", "", 200)
	ask(post, "policy:reload", "policy:reload", "", 200)
	ask(post, "policy:reload", "policy:reload", "", 409)
	ask(get, "budgets", "budgets", "", 200)
	ask(get, "coverage", "coverage", "", 200)
	ask(post, "coverage:run", "coverage:run?connection=main", "", 200)
	ask(post, "coverage:run", "coverage:run?connection=main&source=audit-log&since=2026-11-01T00:00:00Z", `{"insertId":"x"}`, 200)
	ask(post, "coverage:run", "coverage:run?connection=nowhere", "", 404)
	ask(post, "coverage:run", "coverage:run?connection=busy", "", 409)
	ask(post, "coverage:run", "coverage:run?connection=main&source=guess", "", 400)
	ask(post, "coverage:run", "coverage:run?connection=main&since=now", "", 400)
	ask(get, "coverage/findings", "coverage/findings?state=open&page_size=1", "", 200)
	ask(get, "coverage/findings", "coverage/findings?state=lost", "", 400)
	ask(post, "coverage/findings/{finding_id}:acknowledge", "coverage/findings/"+id(8)+":acknowledge", `{"reason":"a test"}`, 200)
	ask(post, "coverage/findings/{finding_id}:acknowledge", "coverage/findings/"+id(9)+":acknowledge", `{"reason":"again"}`, 409)
	ask(post, "coverage/findings/{finding_id}:acknowledge", "coverage/findings/"+id(8)+":acknowledge", `{"reason":" "}`, 400)
	ask(post, "coverage/findings/{finding_id}:acknowledge", "coverage/findings/none:acknowledge", `{"reason":"x"}`, 404)
	hold(t, r, "etl-bot", "")
	ask(get, "connectors", "connectors", "", 200)
	ask(post, "connectors", "connectors", `{"name":"prod-1","connections":["prod"],"ttl_seconds":600}`, 201)
	ask(post, "connectors", "connectors", `{"name":"prod-1","connections":["prod"]}`, 409)
	ask(post, "connectors", "connectors", `{"name":"none-1","connections":["none"]}`, 409)
	ask(post, "connectors", "connectors", `{"name":"x","connections":["nowhere"]}`, 404)
	ask(post, "connectors", "connectors", `{"name":"X","connections":["prod"]}`, 400)
	ask(get, "connectors", "connectors", "", 200)
	ask(post, "connectors/{connector}:revoke", "connectors/prod-1:revoke", "", 200)
	ask(post, "connectors/{connector}:revoke", "connectors/prod-1:revoke", "", 409)
	ask(post, "connectors/{connector}:revoke", "connectors/prod-7:revoke", "", 404)
	ask(post, "suspensions", "suspensions", `{"scope":"agent","name":"etl-bot","reason":"incident","cancel_jobs":true}`, 201)
	ask(post, "suspensions", "suspensions", `{"scope":"agent","name":"etl-bot"}`, 409)
	ask(post, "suspensions", "suspensions", `{"scope":"agent","name":"nobody"}`, 404)
	ask(post, "suspensions", "suspensions", `{"scope":"planet"}`, 400)
	ask(get, "suspensions", "suspensions", "", 200)
	ask(post, "suspensions:remove", "suspensions:remove", `{"scope":"agent","name":"etl-bot"}`, 200)
	ask(post, "suspensions:remove", "suspensions:remove", `{"scope":"agent","name":"etl-bot"}`, 404)
	ask(post, "tokens/{token_id}:revoke", "tokens/"+tok.ID+":revoke", "", 200)
	ask(post, "tokens/{token_id}:revoke", "tokens/tok_x:revoke", "{}", 404)
	ask(post, "agents/{agent}:revoke", "agents/etl-bot:revoke", "", 200)
	ask(post, "agents/{agent}:revoke", "agents/nobody:revoke", "", 404)
	ask(post, "agents/{agent}/tokens", "agents/etl-bot/tokens", "", 409)
	ask(get, "agents", "agents", "", 200)
	ask(get, "log/checkpoint", "log/checkpoint", "", 200)
	ask(get, "log/key", "log/key", "", 200)
	ask(get, "log/rotations", "log/rotations", "", 200)
	ask(get, "log/tile/{tile}", "log/tile/0/000", "", 200)
	ask(get, "log/tile/{tile}", "log/tile/entries/000.p/3", "", 200)
	ask(get, "log/tile/{tile}", "log/tile/0/001", "", 404)
	ask(get, "gateway", "gateway", "", 200)
	ask(post, "index:rebuild", "index:rebuild", "{}", 200)
	ask(get, "metrics", "metrics", "", 200)
	ask(get, "healthz", "healthz", "", 200)
	ask(get, "readyz", "readyz", "", 200)
	ask(get, "openapi.json", "openapi.json", "", 200)
	ask(get, "healthz", "healthz?x=1", "", 400)

	r.trail.set(func(m *memory) { m.unready = fmt.Errorf("%w: 12 bytes", errNoSpace) })
	ask(get, "readyz", "readyz", "", 503)
	ask(get, "gateway", "gateway", "", 200)
	r.spy.fault = index.ErrTooSlow
	ask(get, "entries", "entries", "", 504)
	ask(get, "stats", "stats", "", 504)
	r.trail.set(func(m *memory) { m.refuse = func(*trailgate.Entry) error { return errNoSpace } })
	for _, target := range []string{"entries", "stats", "agents", "entries:follow"} {
		ask(get, target, target, "", 503)
	}
	ask(post, "agents", "agents", `{"name":"late"}`, 503)

	// Without a token: whatever is not open is 401, and that is documented too.
	door := r.api.TCP(admin.HashToken(adminToken))
	for _, route := range r.api.Routes() {
		if route.Open || !strings.HasPrefix(route.Path, p) {
			continue
		}
		target := strings.NewReplacer("{tile}", "0/000", "{id}", id(1), "{agent}", "a", "{token_id}", "t", "{session_token_id}", "s", "{connection}", "c", "{approval_id}", "apr_x", "{hold_id}", "h", "{session_id}", "s", "{finding_id}", "f", "{search_id}", "s", "{sha256}", sha).Replace(route.Path)
		a := do(t, door, route.Method, target, "")
		if a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s %s without a token: %d", route.Method, target, a.StatusCode)
		}
		d.answered(route.Path, route.Method, a)
	}
	for _, route := range r.api.Routes() {
		if name := route.Method + " " + route.Path; strings.HasPrefix(route.Path, p) && !done[name] && !strings.HasSuffix(name, ":follow") {
			t.Errorf("no answer of %s was looked at", name)
		}
	}
}

// coverage stands in for the comparison with BigQuery's own records.
func coverage() *admin.Coverage {
	now := time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)
	list := []*reconcile.Finding{
		{
			Kind: reconcile.Mismatched, Connection: "main", Project: "p", Job: "j", Location: "US", Created: now, Principal: "sa", Agent: "etl-bot", Call: id(1), Why: "w",
			Differences: []reconcile.Difference{{Field: "statement", Trail: "a", BigQuery: "b"}}, Type: "SELECT", Processed: 7, Source: "jobs", Entry: id(8),
		},
		{Kind: reconcile.Bypassed, Connection: "main", Project: "p", Method: "storage.read", Why: "w", Entry: id(9), Acknowledged: true},
	}
	return &admin.Coverage{
		Connections: func(context.Context) ([]admin.ConnectionCoverage, error) {
			st := reconcile.State{Hours: map[int64]reconcile.Counts{now.Unix() / 3600: {Both: 3, Direct: 1}}}
			return []admin.ConnectionCoverage{
				{Connection: "main", Compared: true, Source: "jobs", Projects: []string{"p"}, Every: "1h0m0s", Until: &now, LastRun: &now, LastError: "x", Open: 1, Days: st.Days()},
				{Connection: "other", Projects: []string{}, Days: []reconcile.Day{}},
			}, nil
		},
		Findings: func(context.Context, string) ([]*reconcile.Finding, error) { return list, nil },
		Run: func(_ context.Context, r admin.CoverageRun) (*reconcile.Report, error) {
			switch r.Connection {
			case "nowhere":
				return nil, fmt.Errorf("%w: connection nowhere", admin.ErrNotFound)
			case "busy":
				return nil, fmt.Errorf("a comparison: %w", admin.ErrBusy)
			}
			if r.AuditLog != nil {
				if _, err := io.Copy(io.Discard, r.AuditLog); err != nil {
					return nil, err
				}
			}
			r.Found(list[0])
			r.Progress(reconcile.Progress{Since: now, Done: now, Until: now})
			return &reconcile.Report{Connection: "main", Percent: 75}, nil
		},
	}
}

// sessionTokens stands in for the authenticator.
type sessionTokens struct{}

func (sessionTokens) RevokeSession(id string) error {
	if !strings.HasPrefix(id, "ses_") {
		return fmt.Errorf("%w: no id", identity.ErrInvalid)
	}
	return nil
}

// TestDocumentedEntry: the document has every member of an entry, and no more.
func TestDocumentedEntry(t *testing.T) {
	d := readDocument(t)
	var e trailgate.Entry
	fill(reflect.ValueOf(&e).Elem())
	e.Time, e.Kind, e.Class, e.Classes = time.Now(), trailgate.KindIntent, trailgate.ClassRead, []trailgate.Class{trailgate.ClassWrite}
	closing := e
	closing.IntentID = e.ID
	for name, v := range map[string]any{"Entry": e, "Row": index.Row{Entry: &e, Closing: &closing, State: "done"}} {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var got any
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		d.check(d.at("components", "schemas", name), got, name)
		d.covered(d.at("components", "schemas", name), got, name)
	}
}

// covered makes sure that each property of a schema is in the value.
func (d *document) covered(schema map[string]any, v any, where string) {
	schema = d.follow(schema)
	all, _ := schema["allOf"].([]any)
	for _, sub := range all {
		d.covered(sub.(map[string]any), v, where)
	}
	if items, ok := schema["items"].(map[string]any); ok {
		d.covered(items, v.([]any)[0], where+"[]")
	}
	properties, _ := schema["properties"].(map[string]any)
	for name, sub := range properties {
		member, ok := v.(map[string]any)[name]
		if !ok {
			d.t.Errorf("%s.%s is in the document only", where, name)
			continue
		}
		d.covered(sub.(map[string]any), member, where+"."+name)
	}
}

// fill sets every field to something that is encoded.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"k": "v"}))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(7)
	}
}
