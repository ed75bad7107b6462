package admin_test

import (
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/trailgate/trailgate/internal/admin"
)

const adminAt = "http://127.0.0.1:8471"

// browsed is an API with pages, and what they were asked.
type browsed struct {
	*rig
	door  http.Handler
	shown []admin.Viewer
}

func newBrowsed(t *testing.T) *browsed {
	b := &browsed{}
	b.rig = newRig(t, func(c *admin.Config) {
		c.Login, c.AdminURL = &admin.LoginConfig{}, adminAt
		c.Pages = func(w http.ResponseWriter, r *http.Request, v admin.Viewer, api http.Handler) {
			b.shown = append(b.shown, v)
			inner := httptest.NewRequest(http.MethodGet, "/api/v1/agents", nil)
			api.ServeHTTP(w, inner)
		}
		c.Assets = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("style")) })
	})
	b.door = b.api.TCP(admin.HashToken("the-admin-token-of-this-test"))
	return b
}

// ask sends a browser's request.
func (b *browsed) ask(method, target, form, cookie string, header ...string) *http.Response {
	r := httptest.NewRequest(method, adminAt+target, strings.NewReader(form))
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	b.door.ServeHTTP(w, r)
	return w.Result()
}

func cookieOf(t *testing.T, resp *http.Response) string {
	t.Helper()
	for _, c := range resp.Cookies() {
		if c.Name == "trailgate_session" && c.Value != "" {
			if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode {
				t.Errorf("the cookie is %v", c)
			}
			return c.Name + "=" + c.Value
		}
	}
	t.Fatalf("no session: %d", resp.StatusCode)
	return ""
}

// TestTokenForm: the admin token lets a browser in, another does not, and each is on
// record; pages are then shown as to that viewer.
func TestTokenForm(t *testing.T) {
	b := newBrowsed(t)
	if resp := b.ask(http.MethodGet, "/trail?filter=x", "", ""); resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/login?next=%2Ftrail%3Ffilter%3Dx" {
		t.Errorf("without a session: %d %s", resp.StatusCode, resp.Header.Get("Location"))
	}
	if resp := b.ask(http.MethodGet, "/login?next=/trail", "", ""); resp.Header.Get("Location") != "/login/token?next=%2Ftrail" {
		t.Errorf("login leads to %s", resp.Header.Get("Location"))
	}
	for _, wrong := range []string{"token=wrong", "token=", "", "token=the-admin-token-of-this-test&token=x"} {
		if resp := b.ask(http.MethodPost, "/login/token", wrong, ""); resp.StatusCode < 400 || len(resp.Cookies()) > 0 {
			t.Errorf("%q: %d %v", wrong, resp.StatusCode, resp.Cookies())
		}
	}
	right := "next=/approvals&token=the-admin-token-of-this-test"
	if resp := b.ask(http.MethodPost, "/login/token", right, "", "Host", "evil.example"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("under another name: %d", resp.StatusCode)
	}
	if resp := b.ask(http.MethodPost, "/login/token", right, "", "Sec-Fetch-Site", "cross-site"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("from another site: %d", resp.StatusCode)
	}
	resp := b.ask(http.MethodPost, "/login/token", right, "")
	cookie := cookieOf(t, resp)
	if resp.Header.Get("Location") != "/approvals" {
		t.Errorf("it leads to %s", resp.Header.Get("Location"))
	}
	last := lastEntry(t, b.rig)
	if last.Event.Action != "admin.login" || last.Event.Actor != "admin-token" || last.Event.Via != "token" || last.Event.Detail["how"] != "form" {
		t.Errorf("on record: %+v", last.Event)
	}
	if resp := b.ask(http.MethodGet, "/trail?whatever=1", "", cookie); resp.StatusCode != http.StatusOK {
		t.Errorf("a page: %d", resp.StatusCode)
	}
	if len(b.shown) != 1 || b.shown[0].Name != "admin-token" || b.shown[0].Via != "token" || len(b.shown[0].Roles) != 1 || b.shown[0].Roles[0] != "admin" {
		t.Errorf("shown to %+v", b.shown)
	}
	if last := lastEntry(t, b.rig); last.Event.Action != "agent.list" || last.Event.Actor != "admin-token" {
		t.Errorf("what the page asked is recorded as %+v", last.Event)
	}
	if resp := b.ask(http.MethodPost, "/approvals/x/approve", "reason=", cookie, "Sec-Fetch-Site", "cross-site"); resp.StatusCode != http.StatusForbidden || len(b.shown) != 1 {
		t.Errorf("a form of another site: %d, %d pages", resp.StatusCode, len(b.shown))
	}
	if resp := b.ask(http.MethodPost, "/logout", "", cookie); resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/account" {
		t.Errorf("logout: %d, to %s", resp.StatusCode, resp.Header.Get("Location"))
	}
	if resp := b.ask(http.MethodGet, "/trail", "", cookie); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("after the logout: %d", resp.StatusCode)
	}
	if resp := b.ask(http.MethodGet, "/assets/x/style.css", "", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("assets: %d", resp.StatusCode)
	}
	if resp := b.ask(http.MethodGet, "/api/v1/nothing", "", ""); resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusNotFound {
		t.Errorf("the API's paths are no pages: %d", resp.StatusCode)
	}
}

// TestLink: a link opens the pages once, as whoever made it, and does not lead away.
func TestLink(t *testing.T) {
	b := newBrowsed(t)
	a := b.socket(http.MethodPost, "/api/v1/login-links", "")
	var link struct{ URL string }
	if err := json.Unmarshal(a.body, &link); err != nil || !strings.HasPrefix(link.URL, adminAt+"/login/link?code=") {
		t.Fatalf("%s %v", a.body, err)
	}
	for _, e := range b.trail.entries(t) {
		raw, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		u, _ := url.Parse(link.URL)
		if strings.Contains(string(raw), u.Query().Get("code")) {
			t.Error("the code is in the trail")
		}
	}
	path := strings.TrimPrefix(link.URL, adminAt)
	resp := b.ask(http.MethodGet, path+"&next=//evil.example/", "", "")
	if resp.Header.Get("Location") != "/" {
		t.Errorf("it leads to %s", resp.Header.Get("Location"))
	}
	cookie := cookieOf(t, resp)
	if resp := b.ask(http.MethodGet, "/trail", "", cookie); resp.StatusCode != http.StatusOK || len(b.shown) != 1 || b.shown[0].Via != "socket" {
		t.Errorf("%d, shown to %+v", resp.StatusCode, b.shown)
	}
	if resp := b.ask(http.MethodGet, path, "", ""); resp.StatusCode != http.StatusForbidden || len(resp.Cookies()) > 0 {
		t.Errorf("a second time: %d", resp.StatusCode)
	}
	sum := sha256.Sum256([]byte(path))
	if resp := b.ask(http.MethodGet, "/login/link?code="+url.QueryEscape(string(sum[:])), "", ""); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a guess: %d", resp.StatusCode)
	}
}
