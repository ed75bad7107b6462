package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/admin/client"
)

func TestAddresses(t *testing.T) {
	for address, ok := range map[string]bool{
		"http://127.0.0.1:8471": true, "http://localhost:8471/": true, "http://[::1]:1": true, "https://gw.example:8471": true, "https://gw.example/prefix": true, "unix:/run/x.sock": true,
		"http://gw.example:8471": false, "http://10.0.0.1": false, "gw.example:8471": false, "ftp://gw": false, "": false, "https://": false,
		"https://user@gw.example": false, "https://gw.example?x=1": false, "https://gw.example#x": false, "://": false,
	} {
		if _, err := client.New(address, client.Options{Token: "secret"}); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		} else if err != nil && strings.Contains(err.Error(), "secret") {
			t.Error("the token is in the error:", err)
		}
	}
	if _, err := client.New("http://gw.example", client.Options{}); err != nil {
		t.Error(err)
	}
}

// transport answers requests in its own way.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func says(status int, body string) transport {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	}
}

func with(t *testing.T, rt http.RoundTripper) *client.Client {
	t.Helper()
	c, err := client.New("https://gw.example/prefix/", client.Options{Token: "tga_secret", UserAgent: "test/1", Transport: rt})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRequests pins what goes over the wire.
func TestRequests(t *testing.T) {
	var got string
	c := with(t, transport(func(r *http.Request) (*http.Response, error) {
		var body []byte
		if r.Body != nil {
			var err error
			if body, err = io.ReadAll(r.Body); err != nil {
				t.Error(err)
			}
		}
		got = fmt.Sprintf("%s %s %s", r.Method, r.URL, body)
		if r.Header.Get("Authorization") != "Bearer tga_secret" || r.Header.Get("User-Agent") != "test/1" || (len(body) > 0) != (r.Header.Get("Content-Type") == "application/json") {
			t.Errorf("%v", r.Header)
		}
		return says(200, "{}")(r)
	}))
	ctx := context.Background()
	after := uint64(7)
	const api = "https://gw.example/prefix/api/v1/"
	for want, call := range map[string]func() error{
		"GET " + api + "entries?filter=a+%3D+%22b%22&order=asc&page_size=7&page_token=t ": func() error {
			_, _, err := c.Page(ctx, client.Query{Filter: `a = "b"`, Ascending: true, PageSize: 7, PageToken: "t"})
			return err
		},
		"GET " + api + "entries ": func() error {
			for _, err := range c.Entries(ctx, client.Query{}) {
				return err
			}
			return nil
		},
		"GET " + api + "entries:follow?after_seq=7&filter=x ": func() error {
			for _, err := range c.Follow(ctx, "x", &after) {
				return err
			}
			return nil
		},
		"GET " + api + "entries/a%2F..%3Fb ":             func() error { _, err := c.Show(ctx, "a/..?b"); return err },
		"GET " + api + "entries/01j/proof ":              func() error { _, _, err := c.Proofs(ctx, "01j"); return err },
		"GET " + api + "stats?by=agent%2Cday ":           func() error { _, err := c.Stats(ctx, []string{"agent", "day"}, ""); return err },
		"GET " + api + "blobs/00 ":                       func() error { _, err := c.Blob(ctx, "00"); return err },
		"GET " + api + "agents ":                         func() error { _, err := c.Agents(ctx); return err },
		"GET " + api + "readyz ":                         func() error { return c.Ready(ctx) },
		"GET " + api + "healthz ":                        func() error { return c.Live(ctx) },
		"GET " + api + "gateway ":                        func() error { _, err := c.Gateway(ctx); return err },
		"GET " + api + "agents/a/tokens ":                func() error { _, err := c.Tokens(ctx, "a"); return err },
		"POST " + api + `agents {"name":"a","note":"n"}`: func() error { _, err := c.AddAgent(ctx, "a", "n"); return err },
		"POST " + api + "agents/a:revoke {}":             func() error { return c.RevokeAgent(ctx, "a") },
		"POST " + api + "tokens/tok_x:revoke {}":         func() error { return c.RevokeToken(ctx, "tok_x") },
		"POST " + api + "index:rebuild {}":               func() error { _, err := c.RebuildIndex(ctx); return err },
		"POST " + api + `agents/a/tokens {"ttl_seconds":90,"session_bound":true}`: func() error {
			_, err := c.IssueToken(ctx, "a", client.TokenOptions{TTL: 90e9, SessionBound: true})
			return err
		},
	} {
		got = ""
		if err := call(); err != nil || got != want {
			t.Errorf("%q %v\nwant %q", got, err, want)
		}
	}
}

// TestErrors: the server's words and code come through; what is no admin API is
// told as such; the token and the filter are in no error.
func TestErrors(t *testing.T) {
	page := func(rt http.RoundTripper) error {
		_, _, err := with(t, rt).Page(context.Background(), client.Query{Filter: "private = 1"})
		if err != nil && (strings.Contains(err.Error(), "tga_secret") || strings.Contains(err.Error(), "private")) {
			t.Error("an error tells too much:", err)
		}
		return err
	}
	err := page(says(400, `{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"no such field","details":{"column":3}}}`))
	e, ok := errors.AsType[*client.Error](err)
	if want := (&client.Error{Code: 400, Status: "INVALID_ARGUMENT", Message: "no such field", Column: 3}); !ok || cmp.Diff(want, e) != "" || err.Error() != "no such field" {
		t.Errorf("%+v", err)
	}
	// A long answer that fails in the end.
	if e, ok := errors.AsType[*client.Error](page(says(200, "\n\n"+`{"error":{"code":503,"status":"UNAVAILABLE","message":"closed"}}`))); !ok || e.Code != 503 {
		t.Errorf("%+v", e)
	}
	if err := with(t, says(503, `{"error":{"code":503,"status":"UNAVAILABLE","message":"no room"}}`)).Ready(context.Background()); err == nil || err.Error() != "no room" {
		t.Errorf("not ready: %v", err)
	}
	for name, rt := range map[string]http.RoundTripper{
		"page": says(200, "<html>"), "plain error": says(502, "bad gateway"), "other error": says(404, `{"error":"not found"}`), "empty error": says(500, `{}`),
		"redirect": says(302, ""),
	} {
		if err := page(rt); !errors.Is(err, client.ErrNotTrailgate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := errors.New("connection refused")
	if err := page(transport(func(*http.Request) (*http.Response, error) { return nil, broken })); !errors.Is(err, broken) {
		t.Error(err)
	}
	c, err := client.New("unix:"+filepath.Join(t.TempDir(), "none.sock"), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Agents(context.Background()); err == nil {
		t.Error("a socket that is not there answered")
	}
}

// TestRedirect: the token goes where it was meant to go, and nowhere else.
func TestRedirect(t *testing.T) {
	asked := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer other.Close()
	here := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer here.Close()
	c, err := client.New(here.URL, client.Options{Token: "tga_secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Agents(context.Background()); !errors.Is(err, client.ErrNotTrailgate) || asked {
		t.Errorf("followed: %t, %v", asked, err)
	}
}

// TestStream: a stream is rows, signs of life, and perhaps an error at its end.
func TestStream(t *testing.T) {
	const row = `{"v":1,"seq":3,"time":"2026-11-23T00:00:00.000000001Z","id":"01a","kind":"intent","gateway":{"id":"g","version":"v"},"state":"done","closing_seq":4,"closing_id":"01b","closing_time":"2026-11-23T00:00:01.000000000Z","new_member":1}`
	for name, tt := range map[string]struct {
		body string
		want []string
	}{
		"whole":     {"\n" + row + "\n\n\n" + row + "\n", []string{"01a done", "01a done"}},
		"empty":     {"", nil},
		"error":     {row + "\n" + `{"error":{"code":503,"status":"UNAVAILABLE","message":"the index is closed"}}` + "\n" + row + "\n", []string{"01a done", "the index is closed"}},
		"garbage":   {row + "\nnot json\n" + row, []string{"01a done", "invalid"}},
		"long line": {strings.Repeat("x", 2<<20), []string{"too long"}},
	} {
		var got []string
		for r, err := range with(t, says(200, tt.body)).Follow(context.Background(), "", nil) {
			if err != nil {
				got = append(got, err.Error())
				continue
			}
			if r.Entry.Seq != 3 || r.ClosingSeq != 4 || r.ClosingID != "01b" || r.ClosingTime.Second() != 1 || string(r.Raw) != row {
				t.Errorf("%+v", r)
			}
			got = append(got, r.Entry.ID+" "+r.State)
		}
		if len(got) != len(tt.want) {
			t.Errorf("%s: %q", name, got)
			continue
		}
		for i, want := range tt.want {
			if !strings.Contains(got[i], want) {
				t.Errorf("%s: %q, want %q", name, got[i], want)
			}
		}
	}
	// Who stops reading ends it.
	for range with(t, says(200, row+"\n"+row+"\n")).Follow(context.Background(), "", nil) {
		break
	}
}
