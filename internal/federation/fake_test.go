package federation_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/federation"
)

// google answers as Google's token endpoints do, for the paths of one test.
type google struct {
	*httptest.Server
	tb testing.TB

	mu      sync.Mutex // guards what follows
	answers map[string]func(call) (int, string)
	calls   []call
}

// call is what came in.
type call struct {
	Path   string // without the service account's name, which is in Account
	Bearer string
	Form   url.Values
	Body   string
	// Account is of generateAccessToken.
	Account string
}

const (
	pathBase     = "/base" // the token endpoint of the gateway's own credential
	pathSTS      = "/v1/token"
	pathMint     = "generateAccessToken"
	pathOAuth    = "/oauth/token"
	pathRevoke   = "/oauth/revoke"
	pathUserInfo = "/oauth/userinfo"
)

func newGoogle(tb testing.TB) *google {
	g := &google{tb: tb, answers: map[string]func(call) (int, string){}}
	g.Server = httptest.NewServer(g)
	tb.Cleanup(g.Close)
	g.on(pathBase, func(call) (int, string) {
		return 200, `{"access_token":"base-token","token_type":"Bearer","expires_in":3600}`
	})
	g.on(pathMint, func(c call) (int, string) {
		return 200, fmt.Sprintf(`{"accessToken":"token-of-%s","expireTime":"%s"}`, c.Account, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	})
	return g
}

func (g *google) on(path string, answer func(call) (int, string)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answers[path] = answer
}

// fail makes a path answer so from now on.
func (g *google) fail(path string, status int, body string) {
	g.on(path, func(call) (int, string) { return status, body })
}

func (g *google) to(path string) []call {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []call
	for _, c := range g.calls {
		if c.Path == path {
			out = append(out, c)
		}
	}
	return out
}

func (g *google) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := call{Path: r.URL.Path, Bearer: strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		g.tb.Error(err)
	}
	c.Body = string(raw)
	if r.Header.Get("Content-Type") == "application/x-www-form-urlencoded" {
		if c.Form, err = url.ParseQuery(c.Body); err != nil {
			g.tb.Error(err)
		}
	}
	if account, ok := strings.CutPrefix(c.Path, "/v1/projects/-/serviceAccounts/"); ok {
		c.Account = strings.TrimSuffix(account, ":generateAccessToken")
		c.Path = pathMint
	}
	g.mu.Lock()
	g.calls = append(g.calls, c)
	answer := g.answers[c.Path]
	g.mu.Unlock()
	if answer == nil {
		g.tb.Errorf("a call to %s, which the test did not expect", r.URL.Path)
		w.WriteHeader(http.StatusNotFound)
		return
	}
	status, body := answer(c)
	if status >= 300 && status < 400 {
		w.Header().Set("Location", body)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func (g *google) endpoints() federation.Endpoints {
	return federation.Endpoints{
		STS: g.URL, IAMCredentials: g.URL + "/", OAuthAuth: g.URL + "/oauth/auth", OAuthToken: g.URL + pathOAuth,
		OAuthRevoke: g.URL + pathRevoke, UserInfo: g.URL + pathUserInfo,
	}
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

const baseAccount = "trailgate@host-project.iam.gserviceaccount.com"

// base is a service account's key whose token endpoint is the fake's.
func (g *google) base() federation.Base {
	g.tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(rsaKey())
	if err != nil {
		g.tb.Fatal(err)
	}
	raw, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "host-project", "private_key_id": "k1", "client_email": baseAccount,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "token_uri": g.URL + pathBase,
	})
	if err != nil {
		g.tb.Fatal(err)
	}
	path := filepath.Join(g.tb.TempDir(), "base.json")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		g.tb.Fatal(err)
	}
	return federation.Base{File: path}
}

// closing ends a source with the test.
func closing[S federation.Source](tb testing.TB) func(S, error) S {
	return func(s S, err error) S {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		if c, ok := any(s).(io.Closer); ok {
			tb.Cleanup(func() { _ = c.Close() })
		}
		return s
	}
}
