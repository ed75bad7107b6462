package connector_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/connector"
)

// refusedWith runs a connector that must be refused for a reason, which the trail has.
func (r *rig) refusedWith(code, name string, cfg connector.Config) {
	r.t.Helper()
	c, err := connector.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), deadline)
	defer cancel()
	if err := c.Run(ctx); codeOf(err) != code {
		r.t.Errorf("refused with %v, want %s", err, code)
	}
	r.recorded(code, name)
}

func (r *rig) recorded(code, name string) {
	r.t.Helper()
	for _, e := range r.events.of(connector.ActionRefused, name) {
		if e.Detail["code"] == code {
			return
		}
	}
	r.t.Errorf("the trail does not have that %q was refused (%s)", name, code)
}

// TestStolenToken: an enrolment token is good once; whoever comes second is told so, and
// the trail has it.
func TestStolenToken(t *testing.T) {
	r := newRig(t)
	token := r.token("lake-1", "lake")
	if _, _, err := connector.Enroll(t.Context(), r.remote(), token, filepath.Join(t.TempDir(), "a")); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "b")
	_, _, err := connector.Enroll(t.Context(), r.remote(), token, dir)
	if codeOf(err) != connector.CodeToken || !strings.Contains(err.Error(), "was used on") {
		t.Errorf("second use: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "connector.pem")); err == nil {
		t.Error("a key was written")
	}
	r.recorded(connector.CodeToken, "lake-1")
	// So it is after a restart.
	again, err := connector.OpenRegistry(filepath.Join(r.dir, "connectors.json"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	h, err := connector.NewHub(connector.HubConfig{CA: r.ca, Key: r.key, Registry: again, Record: r.events.record, Log: quiet(), Connections: map[string]string{"lake": "gateway"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := connector.Enroll(t.Context(), connector.Remote{Address: r.listen(h)}, token, dir); codeOf(err) != connector.CodeToken {
		t.Errorf("after a restart: %v", err)
	}
}

// TestBadTokens: ended, guessed, damaged.
func TestBadTokens(t *testing.T) {
	now := time.Now()
	r := newRig(t)
	registry, err := connector.OpenRegistry(filepath.Join(t.TempDir(), "c.json"), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	h, err := connector.NewHub(connector.HubConfig{CA: r.ca, Key: r.key, Registry: registry, Record: r.events.record, Log: quiet(), Connections: map[string]string{"lake": "gateway"}})
	if err != nil {
		t.Fatal(err)
	}
	remote := connector.Remote{Address: r.listen(h)}
	token, _, err := registry.NewToken("lake-1", []string{"lake"}, time.Minute, h.Pin(), func(connector.Token) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	id, rest, _ := strings.Cut(token, ".")
	_, tail, _ := strings.Cut(rest, ".")
	guessed := id + "." + strings.Repeat("A", 43) + "." + tail
	if _, _, err := connector.Enroll(t.Context(), remote, guessed, t.TempDir()); codeOf(err) != connector.CodeToken {
		t.Errorf("guessed: %v", err)
	}
	if _, _, err := connector.Enroll(t.Context(), remote, token[:len(token)-1], t.TempDir()); err == nil || codeOf(err) == connector.CodeToken {
		t.Errorf("damaged: %v", err)
	}
	now = now.Add(2 * time.Minute)
	if _, _, err := connector.Enroll(t.Context(), remote, token, t.TempDir()); codeOf(err) != connector.CodeToken || !strings.Contains(err.Error(), "ended") {
		t.Errorf("ended: %v", err)
	}
	raw, err := os.ReadFile(filepath.Join(r.dir, "connectors.json"))
	if err == nil && strings.Contains(string(raw), strings.Split(token, ".")[1]) {
		t.Error("the secret is on the disk")
	}
}

// TestTokenUnrecorded: what cannot be recorded does not happen, and the token stays good.
func TestTokenUnrecorded(t *testing.T) {
	r := newRig(t)
	token := r.token("lake-1", "lake")
	r.events.mu.Lock()
	r.events.fail = errors.New("disk full")
	r.events.mu.Unlock()
	if _, _, err := connector.Enroll(t.Context(), r.remote(), token, t.TempDir()); codeOf(err) != connector.CodeBusy {
		t.Errorf("%v", err)
	}
	r.events.mu.Lock()
	r.events.fail = nil
	r.events.mu.Unlock()
	if _, _, err := connector.Enroll(t.Context(), r.remote(), token, t.TempDir()); err != nil {
		t.Errorf("%v", err)
	}
}

// TestWrongGateway: a connector that enrols, and one that connects, talk to the gateway of
// their authority alone: nothing is said to another, the token least of all.
func TestWrongGateway(t *testing.T) {
	r, other := newRig(t), newRig(t)
	token := r.token("lake-1", "lake")
	remote := r.remote()
	remote.Address = other.address
	if _, _, err := connector.Enroll(t.Context(), remote, token, t.TempDir()); err == nil || !strings.Contains(err.Error(), "not the gateway that made the enrolment token") {
		t.Errorf("enrol: %v", err)
	}
	cfg := r.config(r.enroll("lake-2", "lake"), "lake")
	cfg.Gateway.Address = other.address
	c := r.run(cfg)
	waitFor(t, "it says why", func() bool { return strings.Contains(c.State().Error, "certificate") })
	other.events.mu.Lock()
	defer other.events.mu.Unlock()
	if len(other.events.list) != 0 {
		t.Errorf("the other gateway heard: %+v", other.events.list)
	}
}

// TestCertificateOfAnother: a certificate of another authority, though it names this one's
// connector, or has this one's name, is refused.
func TestCertificateOfAnother(t *testing.T) {
	r, other := newRig(t), newRig(t)
	r.enroll("lake-1", "lake")
	foreign := other.enroll("lake-1", "lake")
	cfg := r.config(foreign, "lake")
	mine := r.enroll("lake-2", "lake")
	cfg.Gateway.Roots = mine.Roots()
	r.refusedWith(connector.CodeCertificate, "", cfg) // an authority of the same name and another key
	selfSigned, key := newCA(t, "self-signed")
	foreign.SetCertificate(&tls.Certificate{Certificate: [][]byte{selfSigned.Raw}, PrivateKey: key, Leaf: selfSigned})
	r.refusedWith(connector.CodeCertificate, "", cfg)
}

// TestServerCertificateAsClient: the gateway's own certificate is none of a connector's.
func TestServerCertificateAsClient(t *testing.T) {
	r := newRig(t)
	id := r.enroll("lake-1", "lake")
	cfg := r.config(id, "lake")
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "lake-1"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	_, key := newCA(t, "x")
	der, err := x509.CreateCertificate(cryptoRand, tmpl, r.ca, &key.PublicKey, r.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	id.SetCertificate(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf})
	r.refusedWith(connector.CodeCertificate, "", cfg)
}

// TestRevoked: revoking cuts the tunnel at once; the certificate, though it is good for
// days, is refused from then on.
func TestRevoked(t *testing.T) {
	r := newRig(t)
	id := r.enroll("lake-1", "lake")
	c := r.start(r.config(id, "lake"))
	if _, err := r.registry.Revoke("lake-1", func(connector.Enrolled) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if n := r.hub.Revoked("lake-1"); n != 1 {
		t.Errorf("%d tunnels cut", n)
	}
	if _, a := r.call("lake", "GET", "/x", ""); kindOf(a.err) != connector.FailNoConnector {
		t.Errorf("a call: %v", a.err)
	}
	select {
	case err := <-c.done:
		if codeOf(err) != connector.CodeRevoked {
			t.Errorf("%v", err)
		}
	case <-time.After(deadline):
		t.Error("it goes on trying")
	}
	r.recorded(connector.CodeRevoked, "lake-1")
	if err := id.RenewNow(t.Context(), r.remote()); codeOf(err) != connector.CodeRevoked {
		t.Errorf("renew: %v", err)
	}
	if _, err := r.registry.Revoke("lake-1", nil); !errors.Is(err, connector.ErrRevoked) {
		t.Errorf("again: %v", err)
	}
	if _, _, err := r.registry.NewToken("lake-1", []string{"lake"}, time.Hour, r.hub.Pin(), nil); !errors.Is(err, connector.ErrTaken) {
		t.Errorf("the name again: %v", err)
	}
}

// TestRevokeBeforeEnrolment ends a token that nobody used.
func TestRevokeBeforeEnrolment(t *testing.T) {
	r := newRig(t)
	token := r.token("lake-1", "lake")
	if _, err := r.registry.Revoke("lake-1", func(connector.Enrolled) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, _, err := connector.Enroll(t.Context(), r.remote(), token, t.TempDir()); codeOf(err) != connector.CodeToken {
		t.Errorf("%v", err)
	}
}

// TestReplayedCertificate: once the renewed certificate was used, a copy of the old one,
// key and all, is of no use, and the trail has that it was tried.
func TestReplayedCertificate(t *testing.T) {
	r := newRig(t)
	dir := filepath.Join(t.TempDir(), "c")
	id := r.enrollIn(dir, "lake-1", "lake")
	raw, err := os.ReadFile(filepath.Join(dir, "connector.pem"))
	if err != nil {
		t.Fatal(err)
	}
	stolen := filepath.Join(t.TempDir(), "stolen")
	if err := os.Mkdir(stolen, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(stolen, "connector.pem"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	copied, err := connector.OpenIdentity(stolen)
	if err != nil {
		t.Fatal(err)
	}
	before := publicKey(t, id)
	if err := id.RenewNow(t.Context(), r.remote()); err != nil {
		t.Fatal(err)
	}
	if string(before) == string(publicKey(t, id)) {
		t.Error("the key is the old one")
	}
	if renewed := r.events.of(connector.ActionRenew, "lake-1"); len(renewed) != 1 || renewed[0].Detail["public_key"] != base64.StdEncoding.EncodeToString(publicKey(t, id)) {
		t.Errorf("renewal: %+v", renewed)
	}
	// The answer may have been lost: until the new one is used, the old one is good.
	if err := copied.RenewNow(t.Context(), r.remote()); err != nil {
		t.Errorf("before the new one was used: %v", err)
	}
	if err := id.RenewNow(t.Context(), r.remote()); codeOf(err) != connector.CodeCertificate {
		t.Errorf("two that renew: %v", err) // the second has the place of the first
	}
	c := r.start(r.config(copied, "lake"))
	if _, a := r.call("lake", "GET", "/x", ""); a.err != nil || a.used.Connector.Verdict != trailgate.ReceiptGood {
		t.Errorf("%v %+v", a.err, a.used)
	}
	c.kill()
	waitFor(t, "it is gone", func() bool { return r.hub.Serving("lake") == 0 })
	id2, err := connector.OpenIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	r.refusedWith(connector.CodeCertificate, "lake-1", r.config(id2, "lake"))
}

// TestClone: a copy of a connector's key cannot be used beside it.
func TestClone(t *testing.T) {
	r := newRig(t)
	id := r.enroll("lake-1", "lake")
	r.start(r.config(id, "lake"))
	c := r.run(r.config(id, "lake"))
	waitFor(t, "it is refused", func() bool { return strings.Contains(c.State().Error, "is connected already") })
	if r.hub.Serving("lake") != 1 {
		t.Error("both serve")
	}
	r.recorded(connector.CodeInUse, "lake-1")
}

// TestSameInstance: the same process that comes again takes its own place.
func TestSameInstance(t *testing.T) {
	r := newRig(t)
	id := r.enroll("lake-1", "lake")
	x := newLink(t, r.address)
	cfg := r.config(id, "lake")
	cfg.Gateway.Address = x.Addr().String()
	c := r.start(cfg)
	x.mu.Lock()
	for i := 0; i < len(x.conns); i += 2 {
		x.conns[i].Close() // the connector's half: to the gateway the tunnel may look whole
	}
	x.mu.Unlock()
	waitFor(t, "it is back", func() bool {
		return len(r.events.of(connector.ActionConnect, "lake-1")) == 2 && r.hub.Serving("lake") == 1
	})
	if !c.State().Connected {
		waitFor(t, "it knows", func() bool { return c.State().Connected })
	}
}

// TestForeignConnection: a connector that claims another's connection is refused, whole.
func TestForeignConnection(t *testing.T) {
	r := newRig(t, func(c *connector.HubConfig) { c.Connections["pond"] = trailgate.CredentialGateway })
	r.refusedWith(connector.CodeConnection, "lake-1", r.config(r.enroll("lake-1", "lake"), "lake", "pond"))
	if r.hub.Serving("lake")+r.hub.Serving("pond") != 0 {
		t.Error("it serves")
	}
}

// TestCredentialMode: the two ends must agree on who mints: a connector that would send
// calls on without a credential, or with another, is refused.
func TestCredentialMode(t *testing.T) {
	r := newRig(t)
	r.refusedWith(connector.CodeConnection, "pond-1", r.config(r.enroll("pond-1", "pond"), "pond"))
}

// TestVersions: a connector of another version is told what to do.
func TestVersions(t *testing.T) {
	r := newRig(t)
	cfg := r.config(r.enroll("lake-1", "lake"), "lake")
	cfg.Gateway.Offer(7)
	c, err := connector.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context()); codeOf(err) != connector.CodeVersion || !strings.Contains(err.Error(), "install") {
		t.Errorf("%v", err)
	}
	cfg.Gateway.Offer(9, 1) // a newer one that can do the old, too
	r.start(cfg)
}

// TestStolenGateway: whatever a gateway asks, a connector goes where its configuration says
// and nowhere else.
func TestStolenGateway(t *testing.T) {
	r := newRig(t)
	reached := false
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	t.Cleanup(inside.Close)
	r.start(r.config(r.enroll("lake-1", "lake"), "lake"))
	_, port, err := net.SplitHostPort(strings.TrimPrefix(r.backend.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{
		inside.URL, "http://metadata.google.internal", "http://169.254.169.254", "https://example.com", "https://127.0.0.1:" + port,
		"http://localhost:" + port, "http://127.1:" + port, "http://2130706433:" + port, "http://0x7f.0.0.1:" + port, "http://[::ffff:127.0.0.1]:" + port,
		"http://127.0.0.1.:" + port, "http://0:" + port, "http://0177.0.0.1:" + port,
	} {
		a := r.send(t.Context(), "e", "lake", "GET", target+"/x", "")
		if kindOf(a.err) != connector.FailNotAllowed {
			t.Errorf("%s: %v", target, a.err)
		}
	}
	if reached || r.backend.count("e") != 0 {
		t.Error("something was reached")
	}
	// Nor does a redirect, or a host in a header, lead it elsewhere.
	r.backend.Config.Handler = http.RedirectHandler(inside.URL, http.StatusTemporaryRedirect)
	if a := r.send(t.Context(), "e2", "lake", "GET", r.backend.URL+"/x", ""); a.status != http.StatusTemporaryRedirect || reached {
		t.Errorf("redirect: %d, reached %v", a.status, reached)
	}
}

// TestRebinding: a name that is allowed, and comes to mean this machine or its metadata
// server, is not dialled there.
func TestRebinding(t *testing.T) {
	a, err := connector.NewAllowed([]string{"https://bigquery.googleapis.com", "http://127.0.0.1:9"})
	if err != nil {
		t.Fatal(err)
	}
	means := []netip.Addr{}
	dialled := ""
	dial := connector.Dialer(a, func(context.Context, string) ([]netip.Addr, error) { return means, nil },
		func(_ context.Context, _, address string) (net.Conn, error) {
			dialled = address
			return nil, io.EOF
		})
	for _, addr := range []string{"127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "::ffff:127.0.0.1"} {
		means, dialled = []netip.Addr{netip.MustParseAddr(addr)}, ""
		if _, err := dial(t.Context(), "tcp", "bigquery.googleapis.com:443"); err == nil || dialled != "" {
			t.Errorf("%s: dialled %q, %v", addr, dialled, err)
		}
	}
	means = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("199.36.153.8")}
	if _, err := dial(t.Context(), "tcp", "bigquery.googleapis.com:443"); !errors.Is(err, io.EOF) || dialled != "199.36.153.8:443" {
		t.Errorf("dialled %q, %v", dialled, err)
	}
	for _, address := range []string{"bigquery.googleapis.com:80", "evil.example:443", "127.0.0.1:8"} {
		dialled = ""
		if _, err := dial(t.Context(), "tcp", address); err == nil || dialled != "" {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, bad := range []string{
		"http://bigquery.googleapis.com", "https://", "https://a/path", "https://u:p@a", "ftp://a", "https://a.", "https://*.googleapis.com", "https://127.1",
		"https://2130706433", "https://0x7f000001", "bigquery.googleapis.com", "https://[fe80::1%25eth0]", "https://a b",
	} {
		if _, err := connector.NewAllowed([]string{bad}); err == nil {
			t.Errorf("%s can be allowed", bad)
		}
	}
}

// TestTampering: a connector whose receipt is not what came through, one that forges, and
// one that sends none are found out.
func TestTampering(t *testing.T) {
	for _, c := range []struct {
		name, verdict, differs string
		tamper                 func(w http.ResponseWriter, q *http.Request, honest http.Handler, sign func(*trailgate.Receipt) (string, string))
	}{
		{"another body", trailgate.ReceiptDiffers, "response_sha256", func(w http.ResponseWriter, q *http.Request, honest http.Handler, _ func(*trailgate.Receipt) (string, string)) {
			honest.ServeHTTP(&changing{ResponseWriter: w}, q)
		}},
		{"no receipt", trailgate.ReceiptMissing, "", func(w http.ResponseWriter, _ *http.Request, _ http.Handler, _ func(*trailgate.Receipt) (string, string)) {
			_, _ = io.WriteString(w, "{}")
		}},
		{"another's receipt", trailgate.ReceiptDiffers, "entry", func(w http.ResponseWriter, _ *http.Request, _ http.Handler, sign func(*trailgate.Receipt) (string, string)) {
			text, sig := sign(&trailgate.Receipt{Entry: "another", Connector: "lake-1"})
			trailers(w, text, sig)
		}},
		{"another key", trailgate.ReceiptBad, "", func(w http.ResponseWriter, _ *http.Request, _ http.Handler, sign func(*trailgate.Receipt) (string, string)) {
			text, sig := sign(&trailgate.Receipt{Entry: "another", Connector: "lake-1"})
			trailers(w, strings.Replace(text, "another", "changed", 1), sig)
		}},
		{"garbage", trailgate.ReceiptBad, "", func(w http.ResponseWriter, _ *http.Request, _ http.Handler, _ func(*trailgate.Receipt) (string, string)) {
			trailers(w, "garbage", "AAAA")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			id := r.enroll("lake-1", "lake")
			cfg := r.config(id, "lake")
			conn, err := connector.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := id.Certificate()
			if err != nil {
				t.Fatal(err)
			}
			sign := func(x *trailgate.Receipt) (string, string) {
				text := x.Text()
				return text, signText(t, cert, text)
			}
			err = connector.Pretend(t.Context(), cfg.Gateway, cert, map[string]string{"lake": "gateway"}, func(name string, control http.HandlerFunc) http.Handler {
				honest := conn.Forwarder(name, cert)
				return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					if q.URL.Path == connector.ControlPath {
						control(w, q)
						return
					}
					c.tamper(w, q, honest, sign)
				})
			}, conn)
			if err != nil {
				t.Fatal(err)
			}
			waitFor(t, "it is connected", func() bool { return r.hub.Serving("lake") == 1 })
			_, a := r.call("lake", "GET", "/x", "")
			u := a.used.Connector
			if u.Verdict != c.verdict || c.differs != "" && u.Differs != c.differs {
				t.Errorf("%v: %+v", a.err, u)
			}
			found := false
			for _, verdict := range []string{trailgate.ReceiptDiffers, trailgate.ReceiptBad, trailgate.ReceiptMissing} {
				found = found || verdict == u.Verdict
			}
			if !found {
				t.Error("it passes")
			}
		})
	}
}

// changing swaps a byte of an answer on its way.
type changing struct{ http.ResponseWriter }

func (c *changing) Write(p []byte) (int, error) {
	q := []byte(strings.Replace(string(p), "bigquery#job", "bigquery#JOB", 1))
	return c.ResponseWriter.Write(q)
}

func trailers(w http.ResponseWriter, text, signature string) {
	quoted, _ := json.Marshal(text) // a text always encodes
	w.Header().Set("Trailer", "Trailgate-Receipt, Trailgate-Signature")
	_, _ = io.WriteString(w, "{}")
	w.Header().Set("Trailgate-Receipt", string(quoted))
	w.Header().Set("Trailgate-Signature", signature)
}

// TestProxy: a connector reaches the gateway through an HTTP proxy, with its password.
func TestProxy(t *testing.T) {
	r := newRig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	seen := make(chan string, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				q, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				seen <- q.Method + " " + q.Host + " " + q.Header.Get("Proxy-Authorization")
				d, err := net.Dial("tcp", q.Host)
				if err != nil {
					return
				}
				defer d.Close()
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
				go func() { _, _ = io.Copy(d, in) }()
				_, _ = io.Copy(c, d)
			}()
		}
	}()
	cfg := r.config(r.enroll("lake-1", "lake"), "lake")
	cfg.Gateway.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: l.Addr().String(), User: url.UserPassword("u", "p")})
	r.start(cfg)
	if got, want := <-seen, "CONNECT "+r.address+" Basic dTpw"; got != want {
		t.Errorf("the proxy saw %q, want %q", got, want)
	}
	if _, a := r.call("lake", "GET", "/x", ""); a.err != nil {
		t.Error(a.err)
	}
}

// TestNoise: what is not a connector is let go, and costs no entry.
func TestNoise(t *testing.T) {
	r := newRig(t)
	for _, noise := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01", strings.Repeat("\xff", 1000)} {
		c, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, noise)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.ReadAll(c)
		c.Close()
	}
	c, err := tls.Dial("tcp", r.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"trailgate-connector"}})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte{0xff, 0xff, 0xff, 0xff})
	_, _ = io.ReadAll(c)
	c.Close()
	r.events.mu.Lock()
	defer r.events.mu.Unlock()
	if len(r.events.list) != 0 {
		t.Errorf("%+v", r.events.list)
	}
}

// TestRefusalFlood: the same refusal again and again is one entry a minute.
func TestRefusalFlood(t *testing.T) {
	r := newRig(t)
	token := r.token("lake-1", "lake")
	if _, _, err := connector.Enroll(t.Context(), r.remote(), token, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if _, _, err := connector.Enroll(t.Context(), r.remote(), token, filepath.Join(t.TempDir(), "x")); codeOf(err) != connector.CodeToken {
			t.Fatal(err)
		}
	}
	if n := len(r.events.of(connector.ActionRefused, "lake-1")); n < 1 || n > 5 { // one, unless this took minutes
		t.Errorf("%d entries", n)
	}
}
