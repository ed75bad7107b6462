package admin_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/trail"
)

var errNoSpace = fmt.Errorf("append: %w", trail.ErrNoSpace)

func agentWithToken(t testing.TB, r *rig, name string) (secret string, tok identity.Token) {
	t.Helper()
	if _, err := r.agents.AddAgent(name, ""); err != nil {
		t.Fatal(err)
	}
	secret, tok, err := r.agents.IssueToken(name, identity.TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return secret, tok
}

// recorded are requests that must leave an entry before they have an answer or
// an effect. %s is a token's id.
var recorded = []struct {
	method, target, body string
	action, about        string
	detail               map[string]string
}{
	{"GET", "entries?filter=agent%3D%22a%22&order=asc", "", "trail.search", "", map[string]string{"filter": `agent="a"`, "order": "asc"}},
	{"GET", "entries", "", "trail.search", "", nil},
	{"GET", "entries/" + id(1), "", "trail.show", id(1), nil},
	{"GET", "entries/zzzzzzzz", "", "trail.show", "zzzzzzzz", nil},
	{"GET", "entries/" + id(1) + "/proof", "", "trail.prove", id(1), nil},
	{"GET", "stats?by=agent&filter=class%3Dwrite", "", "trail.stats", "", map[string]string{"by": "agent", "filter": "class=write"}},
	{"GET", "stats?by=nonsense", "", "trail.stats", "", map[string]string{"by": "nonsense"}},
	{"GET", "entries:follow?filter=agnt%3D1&after_seq=7", "", "trail.follow", "", map[string]string{"filter": "agnt=1", "after_seq": "7"}},
	{"GET", "blobs/" + strings.Repeat("0", 64), "", "trail.blob", strings.Repeat("0", 64), nil},
	{"GET", "log/tile/entries/000.p/3", "", "trail.log", "tile/entries/000.p/3", nil},
	{"GET", "agents", "", "agent.list", "", nil},
	{"POST", "agents", `{"name":"new-bot","note":"why"}`, "agent.add", "new-bot", map[string]string{"note": "why"}},
	{"GET", "agents/etl-bot/tokens", "", "token.list", "etl-bot", nil},
	{"POST", "agents/etl-bot/tokens", `{"ttl_seconds":60,"title":"t"}`, "token.issue", "etl-bot", map[string]string{"ttl": "1m0s", "title": "t"}},
	{"POST", "tokens/%s:revoke", "", "token.revoke", "%s", map[string]string{"agent": "etl-bot"}},
	{"POST", "agents/etl-bot:revoke", "", "agent.revoke", "etl-bot", nil},
	{"POST", "index:rebuild", "", "index.rebuild", "", nil},
}

// TestRecordedFirst: the entry is there before the index is asked and before
// anything changes, and says who asked for what.
func TestRecordedFirst(t *testing.T) {
	for _, tt := range recorded {
		t.Run(tt.method+" "+tt.target, func(t *testing.T) {
			r := newRig(t)
			r.file("tile/entries/000.p/3", "entries")
			r.intent(1, "etl-bot")
			r.caughtUp()
			_, tok := agentWithToken(t, r, "etl-bot")
			r.socket(tt.method, "/api/v1/"+strings.ReplaceAll(tt.target, "%s", tok.ID), tt.body)

			list := r.trail.entries(t)
			if len(list) != 2 {
				t.Fatalf("%d entries", len(list))
			}
			e := list[1]
			if id := e.Event.Detail["token_id"]; tt.action == "token.issue" {
				delete(e.Event.Detail, "token_id")
				if made, err := r.agents.Token(id); err != nil || made.Agent != "etl-bot" {
					t.Errorf("the entry names the token %q: %v", id, err)
				}
			}
			want := &trailgate.Event{Action: tt.action, Target: strings.ReplaceAll(tt.about, "%s", tok.ID), Actor: "local", Via: "socket", Detail: tt.detail}
			if d := cmp.Diff(want, e.Event); d != "" {
				t.Error(d)
			}
			if e.Kind != trailgate.KindAdmin || e.Gateway.ID != "gw" || len(e.ID) != 26 || e.Claims.UserAgent != "test/1" {
				t.Errorf("%+v", e)
			}
			for _, use := range r.used {
				if !strings.HasSuffix(use, " after "+tt.action) {
					t.Error("the index was used before the entry was there:", use)
				}
			}
		})
	}
}

// TestNotRecorded: if the entry cannot be written, the answer is 503, nothing
// is asked of the index and nothing is changed.
func TestNotRecorded(t *testing.T) {
	for _, tt := range recorded {
		t.Run(tt.method+" "+tt.target, func(t *testing.T) {
			r := newRig(t)
			r.file("tile/entries/000.p/3", "entries")
			_, tok := agentWithToken(t, r, "etl-bot")
			before, err := os.ReadFile(r.files)
			if err != nil {
				t.Fatal(err)
			}
			r.trail.set(func(m *memory) { m.refuse = func(*trailgate.Entry) error { return errNoSpace } })
			a := r.socket(tt.method, "/api/v1/"+strings.ReplaceAll(tt.target, "%s", tok.ID), tt.body)
			if a.StatusCode != http.StatusServiceUnavailable || a.json(t, "error", "status") != "UNAVAILABLE" || !strings.Contains(string(a.body), "too little disk space") {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
			if len(r.used) > 0 {
				t.Errorf("the index was used: %v", r.used)
			}
			if after, err := os.ReadFile(r.files); err != nil || string(after) != string(before) {
				t.Errorf("agents were changed: %v\n%s", err, after)
			}
			r.trail.set(func(m *memory) { m.refuse = nil })
			if a := r.socket(tt.method, "/api/v1/"+strings.ReplaceAll(tt.target, "%s", tok.ID), tt.body); a.StatusCode == http.StatusServiceUnavailable {
				t.Errorf("it did not recover: %s", a.body)
			}
		})
	}
}

// TestFailedChange: a change that was recorded and then failed is recorded as
// failed, with a reference to the first entry.
func TestFailedChange(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct{ target, body, action, reason string }{
		{"agents", `{"name":"Bad Name"}`, "agent.add", "lower-case letter"},
		{"agents/nobody:revoke", ``, "agent.revoke", "no such agent"},
		{"agents/nobody/tokens", ``, "token.issue", "no such agent"},
		{"tokens/tok_x:revoke", ``, "token.revoke", "no such token"},
	} {
		r.socket("POST", "/api/v1/"+tt.target, tt.body)
		list := r.trail.entries(t)
		first, second := list[len(list)-2], list[len(list)-1]
		if first.Event.Action != tt.action || second.Event.Action != tt.action || second.Event.Target != first.Event.Target ||
			second.Event.Detail["attempt"] != first.ID || !strings.Contains(second.Event.Detail["failed"], tt.reason) || first.Event.Detail["failed"] != "" {
			t.Errorf("%s: %+v %+v", tt.target, first.Event, second.Event)
		}
	}
	r.spy.fault = errors.New("broken")
	if a := r.socket("GET", "/api/v1/entries", ""); a.StatusCode != http.StatusInternalServerError || a.json(t, "error", "status") != "INTERNAL" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if !strings.Contains(r.log.String(), "admin request failed") {
		t.Error("the failure is not in the log:", r.log.String())
	}
}

// TestSecrets: neither an agent's token nor the admin token gets into the trail,
// the file or the operational log, whatever goes wrong.
func TestSecrets(t *testing.T) {
	r := newRig(t)
	door := r.api.TCP(admin.HashToken(adminToken))
	bearer := []string{"Authorization", "Bearer " + adminToken}
	if a := do(t, door, "POST", "/api/v1/agents", `{"name":"etl-bot"}`, bearer...); a.StatusCode != http.StatusCreated {
		t.Fatal(string(a.body))
	}
	a := do(t, door, "POST", "/api/v1/agents/etl-bot/tokens", `{}`, bearer...)
	secret, _ := a.json(t, "token").(string)
	if id, err := r.agents.Authenticate(secret); err != nil || id.Principal.Agent != "etl-bot" || id.Token.ID != a.json(t, "token_id") {
		t.Fatalf("%+v %v: %s", id, err, a.body)
	}
	if a.Header.Get("Cache-Control") != "no-store" {
		t.Error("the secret may be cached")
	}
	r.spy.fault = errors.New("broken")
	do(t, door, "GET", "/api/v1/entries", "", bearer...)
	do(t, door, "GET", "/api/v1/agents/etl-bot/tokens", "", bearer...)
	do(t, door, "GET", "/api/v1/agents?access_token="+adminToken, "", bearer...)
	do(t, door, "GET", "/api/v1/agents", "", "Authorization", "Bearer "+secret)
	file, err := os.ReadFile(r.files)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"trail": string(slices.Concat(r.trail.raw...)), "file": string(file), "log": r.log.String()} {
		for _, secret := range []string{secret[4:], adminToken} {
			if strings.Contains(text, secret) {
				t.Errorf("a secret is in the %s: %s", name, text)
			}
		}
	}
}

// TestHostileTexts: whatever a caller sends fits an entry.
func TestHostileTexts(t *testing.T) {
	r := newRig(t)
	long := strings.Repeat("\x01", 60_000)
	for _, tt := range []struct{ method, target, body string }{
		{"GET", "entries?filter=" + strings.Repeat("%01", 20_000) + "&order=asc", ""},
		{"GET", "entries?filter=%ff%fe", ""},
		{"GET", "entries/" + strings.Repeat("%01", 5_000), ""},
		{"GET", "entries/%ff", ""},
		{"POST", "agents/" + strings.Repeat("x", 5_000) + ":revoke", ""},
		{"POST", "agents", `{"name":"` + strings.Repeat("y", 30_000) + `","note":"` + strings.Repeat("z", 30_000) + `"}`},
	} {
		a := r.socket(tt.method, "/api/v1/"+tt.target, tt.body, "User-Agent", long, "User-Agent", "\xff")
		if a.StatusCode != http.StatusBadRequest && a.StatusCode != http.StatusNotFound {
			t.Errorf("%.40s: %d %.200s", tt.target, a.StatusCode, a.body)
		}
		if !utf8.Valid(a.body) {
			t.Errorf("%.40s: the answer is not UTF-8", tt.target)
		}
	}
	if n := len(r.trail.entries(t)); n != 8 { // two of each change
		t.Errorf("%d entries", n)
	}
}

func FuzzClip(f *testing.F) {
	f.Add("héllo", 3)
	f.Fuzz(func(t *testing.T, s string, n int) {
		n = max(n, 0)
		got := admin.Clip(s, n)
		if len(got) > n || !utf8.ValidString(got) {
			t.Errorf("%q", got)
		}
		if utf8.ValidString(s) && len(s) <= n && got != s {
			t.Errorf("%q was changed to %q", s, got)
		}
	})
}
