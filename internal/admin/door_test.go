package admin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
)

// TestAdminToken: the door of the network opens for the admin token alone.
func TestAdminToken(t *testing.T) {
	r := newRig(t)
	secret, _ := agentWithToken(t, r, "etl-bot")
	door := r.api.TCP(admin.HashToken(adminToken))
	for name, header := range map[string][]string{
		"none":            nil,
		"empty":           {"Authorization", "Bearer "},
		"wrong":           {"Authorization", "Bearer " + adminToken[:len(adminToken)-1] + "x"},
		"prefix":          {"Authorization", "Bearer " + adminToken[:len(adminToken)-1]},
		"longer":          {"Authorization", "Bearer " + adminToken + "x"},
		"twice":           {"Authorization", "Bearer " + adminToken, "Authorization", "Bearer " + adminToken},
		"list":            {"Authorization", "Bearer " + adminToken + ", Bearer x"},
		"scheme":          {"Authorization", "Basic " + adminToken},
		"no scheme":       {"Authorization", adminToken},
		"agent's token":   {"Authorization", "Bearer " + secret},
		"cookie":          {"Cookie", "token=" + adminToken},
		"another header":  {"Proxy-Authorization", "Bearer " + adminToken, "X-Admin-Token", adminToken},
		"forwarded claim": {"X-Forwarded-User", "admin", "X-Goog-Authenticated-User-Email", "a@example.com"},
	} {
		for _, target := range []string{"/api/v1/agents", "/api/v1/agents?access_token=" + adminToken, "/api/v1/nothing", "/", "/metrics", "/api/v1/metrics"} {
			a := do(t, door, "GET", target, "", header...)
			if a.StatusCode != http.StatusUnauthorized || a.json(t, "error", "status") != "UNAUTHENTICATED" || !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("%s: %s: %d %s", name, target, a.StatusCode, a.body)
			}
		}
	}
	for _, scheme := range []string{"Bearer", "bearer"} {
		if a := do(t, door, "GET", "/api/v1/agents", "", "Authorization", scheme+" "+adminToken); a.StatusCode != http.StatusOK {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}
	list := r.trail.entries(t)
	e := list[len(list)-1]
	if e.Event.Via != "token" || e.Event.Actor != "admin-token" || e.Client != "192.0.2.1:1234" {
		t.Errorf("%+v", e)
	}
	if door := r.api.TCP(admin.HashToken("")); do(t, door, "GET", "/api/v1/agents", "", "Authorization", "Bearer ").StatusCode != http.StatusUnauthorized {
		t.Error("an empty token opens")
	}
	for _, target := range []string{"/api/v1/healthz", "/api/v1/readyz", "/api/v1/openapi.json"} {
		if a := do(t, door, "GET", target, ""); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", target, a.StatusCode)
		}
	}
}

// TestStrangers: a flood of bad tokens is a few entries, and none goes uncounted
// once another comes later.
func TestStrangers(t *testing.T) {
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	r := newRig(t, func(c *admin.Config) { c.Now = func() time.Time { return now } })
	door := r.api.TCP(admin.HashToken(adminToken))
	knock := func() { do(t, door, "GET", "/api/v1/entries", "", "Authorization", "Bearer x") }
	tallies := func() (list []int64) {
		for _, e := range r.trail.entries(t) {
			if e.Event.Action != "admin.refused" || e.Outcome.Status != http.StatusUnauthorized || !slices.Equal(e.Aggregate.Addresses, []string{"192.0.2.1"}) {
				t.Errorf("%+v", e)
			}
			list = append(list, e.Aggregate.Count)
		}
		return list
	}
	for range 1000 {
		knock()
	}
	if got := tallies(); !slices.Equal(got, []int64{1}) {
		t.Errorf("%v", got)
	}
	now = now.Add(10 * time.Second)
	knock()
	if got := tallies(); !slices.Equal(got, []int64{1, 1000}) {
		t.Errorf("%v", got)
	}
	// What cannot be written is counted on, and nobody comes in for it.
	now = now.Add(10 * time.Second)
	r.trail.set(func(m *memory) { m.refuse = func(*trailgate.Entry) error { return errNoSpace } })
	knock()
	knock()
	r.trail.set(func(m *memory) { m.refuse = nil })
	knock()
	if got := tallies(); !slices.Equal(got, []int64{1, 1000, 3}) {
		t.Errorf("%v", got)
	}
}

// TestOtherSites: a page of another site cannot make a browser change anything,
// even if it had a way to add the token.
func TestOtherSites(t *testing.T) {
	r := newRig(t)
	door := r.api.TCP(admin.HashToken(adminToken))
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"}} {
		a := do(t, door, "POST", "/api/v1/agents", `{"name":"x"}`, append(header, "Authorization", "Bearer "+adminToken)...)
		if a.StatusCode != http.StatusForbidden || a.json(t, "error", "status") != "PERMISSION_DENIED" {
			t.Errorf("%v: %d %s", header, a.StatusCode, a.body)
		}
	}
	if len(r.agents.Agents()) != 0 {
		t.Error("an agent was made")
	}
}

// served runs a door on a listener, as cmd/trailgate does.
func served(t *testing.T, l net.Listener, door http.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	server := &http.Server{Handler: door, ConnContext: admin.ConnContext, BaseContext: func(net.Listener) context.Context { return ctx }, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		limit, end := context.WithTimeout(context.Background(), time.Minute)
		defer end()
		if err := server.Shutdown(limit); err != nil {
			t.Error("the server did not come to rest:", err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func unixListener(t *testing.T) (net.Listener, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return l, path
}

// TestPeer: an entry that came by the socket names the user who connected, as
// the kernel knows it; in process it is the process's own.
func TestPeer(t *testing.T) {
	r := newRig(t)
	l, path := unixListener(t)
	served(t, l, r.api.Socket())
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://localhost/api/v1/agents")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	do(t, r.api.InProcess(), "GET", "/api/v1/agents", "")
	me := fmt.Sprintf("uid:%d", os.Getuid())
	list := r.trail.entries(t)
	if e := list[0].Event; e.Actor != me || e.Via != "socket" || list[0].Client != "" {
		t.Errorf("%+v", e)
	}
	if e := list[1].Event; e.Actor != me || e.Via != "cli" {
		t.Errorf("%+v", e)
	}
	ctx := admin.ConnContext(context.Background(), &net.TCPConn{})
	if ctx != context.Background() {
		t.Error("a TCP connection has a peer")
	}
}

// TestStrict: a request that is not quite right is refused before anything is
// recorded or done.
func TestStrict(t *testing.T) {
	r := newRig(t)
	body := `{"name":"x"}`
	for _, tt := range []struct {
		name, method, target, body string
		header                     []string
		code                       int
	}{
		{"unknown parameter", "GET", "entries?fitler=x", "", nil, 400},
		{"repeated parameter", "GET", "entries?filter=a&filter=b", "", nil, 400},
		{"semicolon", "GET", "entries?filter=a;order=asc", "", nil, 400},
		{"bad escape", "GET", "entries?filter=%zz", "", nil, 400},
		{"page_size", "GET", "entries?page_size=-1", "", nil, 400},
		{"page_size", "GET", "entries?page_size=ten", "", nil, 400},
		{"order", "GET", "entries?order=up", "", nil, 400},
		{"after_seq", "GET", "entries:follow?after_seq=18446744073709551615", "", nil, 400},
		{"body of a GET", "GET", "entries", "{}", nil, 400},
		{"unknown member", "POST", "agents", `{"name":"x","nota":""}`, nil, 400},
		{"repeated member", "POST", "agents", `{"name":"x","name":"y"}`, nil, 400},
		{"other case", "POST", "agents", `{"Name":"x"}`, nil, 400},
		{"trailing", "POST", "agents", body + "{}", nil, 400},
		{"bad UTF-8", "POST", "agents", `{"name":"x","note":"` + "\xff" + `"}`, nil, 400},
		{"not JSON", "POST", "agents", `name=x`, nil, 400},
		{"array", "POST", "agents", `[]`, nil, 400},
		{"fraction", "POST", "agents/x/tokens", `{"ttl_seconds":1.5}`, nil, 400},
		{"overflow", "POST", "agents/x/tokens", `{"ttl_seconds":9223372036854775807}`, nil, 400},
		{"no body", "POST", "agents", "", nil, 415},
		{"form", "POST", "agents", "name=x", []string{"Content-Type", "", "Content-Type", "application/x-www-form-urlencoded"}, 415},
		{"no type", "POST", "agents", body, []string{"Content-Type", ""}, 415},
		{"member in an empty body", "POST", "index:rebuild", `{"x":1}`, nil, 400},
		{"verb", "PUT", "agents", body, nil, 405},
		{"verb", "DELETE", "entries", "", nil, 405},
		{"HEAD of what is recorded", "HEAD", "entries", "", nil, 405},
		{"custom verb", "POST", "agents/x:delete", "", nil, 404},
		{"no verb", "POST", "agents/x", "", nil, 404},
		{"empty segment", "GET", "entries/", "", nil, 404},
		{"dots", "GET", "entries/../agents", "", nil, 404},
		{"double slash", "GET", "/agents", "", nil, 404},
		{"trailing slash", "GET", "agents/", "", nil, 404},
		{"case", "GET", "Agents", "", nil, 404},
		{"escaped", "GET", "%61gents", "", nil, 404},
	} {
		a := r.socket(tt.method, "/api/v1/"+tt.target, tt.body, tt.header...)
		if a.StatusCode != tt.code || tt.method != "HEAD" && a.json(t, "error", "message") == nil {
			t.Errorf("%s: %s %s: %d, want %d: %s", tt.name, tt.method, tt.target, a.StatusCode, tt.code, a.body)
		}
		if a.Header.Get("X-Content-Type-Options") != "nosniff" || a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Location") != "" {
			t.Errorf("%s: %v", tt.name, a.Header)
		}
		if (a.StatusCode == http.StatusMethodNotAllowed) != (a.Header.Get("Allow") != "") {
			t.Errorf("%s: Allow: %q", tt.name, a.Header.Get("Allow"))
		}
	}
	if n := r.trail.Size(); n != 0 {
		t.Errorf("%d entries, %v", n, r.trail.actions(t))
	}
}

// TestPaging: 50 rows by default, 1000 at most, and all of them in the end.
func TestPaging(t *testing.T) {
	r := newRig(t)
	for i := range 1200 {
		r.intent(i, "a")
	}
	r.caughtUp()
	rows := func(query string) (int, string) {
		a := r.socket("GET", "/api/v1/entries?filter=kind%3Dintent"+query, "")
		list, _ := a.json(t, "entries").([]any)
		next, _ := a.json(t, "next_page_token").(string)
		return len(list), next
	}
	for query, want := range map[string]int{"": 50, "&page_size=0": 50, "&page_size=7": 7, "&page_size=1000": 1000, "&page_size=100000": 1000} {
		if n, next := rows(query); n != want || next == "" {
			t.Errorf("%q: %d rows, token %q", query, n, next)
		}
	}
	total, next := rows("&page_size=500&order=asc")
	for next != "" {
		var n int
		n, next = rows("&page_size=500&order=asc&page_token=" + next)
		total += n
	}
	if total != 1200 {
		t.Errorf("%d rows in all", total)
	}
	if a := r.socket("GET", "/api/v1/entries?page_token=bm90IG9uZQ", ""); a.StatusCode != http.StatusBadRequest {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}
