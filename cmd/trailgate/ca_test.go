package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/config"
)

func TestServerNames(t *testing.T) {
	got, err := readServerNames([]string{"Gateway.Example.com", "gateway.example.com.", "10.1.2.3", "[2001:db8::1]", "::ffff:10.1.2.3", "localhost", "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	const want = "localhost, gateway.example.com, 127.0.0.1, ::1, 10.1.2.3, 2001:db8::1"
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if got := got.beyondLoopback(); got != "gateway.example.com" {
		t.Errorf("beyond loopback: %q", got)
	}
	for _, bad := range []string{
		"", "https://gw.example.com", "gw.example.com:8470", "gw example", "-gw", "gw-.example", "*.example.com", "gw..example",
		"0.0.0.0", "::", "fe80::1%eth0", "10.1.2", "10.1.2.300", "gw\n.example", strings.Repeat("a.", 130) + "a", strings.Repeat("a", 64), "gw.example.com/x", "ä.example",
	} {
		if names, err := readServerNames([]string{bad}); err == nil {
			t.Errorf("%q is taken: %s", bad, names)
		}
	}
}

// TestTLSTemplate: what init writes with --tls is a configuration with TLS on
// both listeners, whatever happens to the template.
func TestTLSTemplate(t *testing.T) {
	for _, tt := range []struct{ host, listen, url string }{
		{"", "127.0.0.1:8470", ""},
		{"localhost", "127.0.0.1:8470", ""},
		{"gw.example.com", ":8470", "https://gw.example.com:8470"},
		{"2001:db8::1", ":8470", "https://[2001:db8::1]:8470"},
	} {
		var hosts []string
		if tt.host != "" {
			hosts = []string{tt.host}
		}
		names, err := readServerNames(hosts)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Parse("/srv/gw/trailgate.yaml", []byte(withListenersTLS(config.Template("x"), names)))
		if err != nil {
			t.Fatal(err)
		}
		want := config.TLS{CertFile: "/srv/gw/tls/cert.pem", KeyFile: "/srv/gw/tls/key.pem", CAFile: "/srv/gw/tls/ca.pem"}
		if diff := cmp.Diff([]config.TLS{want, want}, []config.TLS{cfg.Gateway.TLS, cfg.Admin.TLS}); diff != "" {
			t.Errorf("%q: tls (-want +got):\n%s", tt.host, diff)
		}
		if cfg.Gateway.Listen != tt.listen || cfg.Gateway.PublicURL != tt.url || cfg.Admin.Listen != "127.0.0.1:8471" {
			t.Errorf("%q: listen %q, public_url %q, admin %q", tt.host, cfg.Gateway.Listen, cfg.Gateway.PublicURL, cfg.Admin.Listen)
		}
	}
}

// newTLSFiles makes a CA and a configuration that uses it.
func newTLSFiles(t *testing.T, now time.Time, hosts ...string) (*config.Config, string) {
	t.Helper()
	names, err := readServerNames(hosts)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	dir := filepath.Join(root, tlsDirName)
	if err := makeTLS(dir, "test", names, now); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse(filepath.Join(root, config.DefaultName), []byte(withListenersTLS(config.Template("test"), names)))
	if err != nil {
		t.Fatal(err)
	}
	return cfg, dir
}

func readPool(t *testing.T, path string) *x509.CertPool {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		t.Fatal("no certificate")
	}
	return pool
}

// TestPrivateCA: a client that was given ca.pem, and nothing else, talks to a
// server that has the certificate, under each of its names; and the CA is fit
// for nothing but to issue for servers.
func TestPrivateCA(t *testing.T) {
	now := time.Now()
	_, dir := newTLSFiles(t, now, "gw.example.com", "10.1.2.3")
	for name, mode := range map[string]os.FileMode{caCertName: 0o644, caKeyName: 0o600, leafCertName: 0o644, leafKeyName: 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, leafCertName), filepath.Join(dir, leafKeyName))
	if err != nil {
		t.Fatal(err)
	}
	pool := readPool(t, filepath.Join(dir, caCertName))
	for _, name := range []string{"gw.example.com", "10.1.2.3", "localhost", "127.0.0.1", "::1"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: name, CurrentTime: now}); err != nil {
			t.Errorf("as %s: %v", name, err)
		}
	}
	for name, o := range map[string]x509.VerifyOptions{
		"another host":  {Roots: pool, DNSName: "other.example.com", CurrentTime: now},
		"as a client":   {Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
		"after its end": {Roots: pool, CurrentTime: now.Add(leafLifetime + time.Minute)},
	} {
		if _, err := pair.Leaf.Verify(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	ca, err := openAuthority(filepath.Join(dir, caCertName))
	if err != nil {
		t.Fatal(err)
	}
	if c := ca.cert; !c.IsCA || c.MaxPathLen != 0 || !c.MaxPathLenZero || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(c.SubjectKeyId) == 0 {
		t.Errorf("CA: %+v", c)
	}
	if len(pair.Leaf.AuthorityKeyId) == 0 || pair.Leaf.IsCA || pair.Leaf.SerialNumber.BitLen() != 127 {
		t.Errorf("leaf: %+v", pair.Leaf)
	}

	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	resp, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
}

// TestCANames: two CAs of one gateway differ in name, so that a client that has
// both finds the right one.
func TestCANames(t *testing.T) {
	a, err := newAuthority("gw", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b, err := newAuthority(strings.Repeat("g", 100), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*authority{a, b} {
		if n := len([]rune(c.cert.Subject.CommonName)); n > 64 { // ub-common-name of RFC 5280
			t.Errorf("a name of %d characters", n)
		}
	}
	if a.cert.Subject.CommonName == b.cert.Subject.CommonName {
		t.Error("one name for two")
	}
}

func TestRenew(t *testing.T) {
	made := time.Now().Add(-390 * 24 * time.Hour)
	cfg, dir := newTLSFiles(t, made, "gw.example.com")
	load := func() *tls.Certificate {
		t.Helper()
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, leafCertName), filepath.Join(dir, leafKeyName))
		if err != nil {
			t.Fatal(err)
		}
		return &pair
	}
	old := load().Leaf
	names, end, err := renewCertificate(cfg, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	next := load().Leaf
	if !end.Equal(next.NotAfter) || !next.NotAfter.After(old.NotAfter.Add(300*24*time.Hour)) {
		t.Errorf("until %s; before: %s", next.NotAfter, old.NotAfter)
	}
	if diff := cmp.Diff(old.DNSNames, next.DNSNames); diff != "" || names.String() != "localhost, gw.example.com, 127.0.0.1, ::1" {
		t.Errorf("names are now %s (-want +got):\n%s", names, diff)
	}
	if old.SerialNumber.Cmp(next.SerialNumber) == 0 || cmp.Equal(old.RawSubjectPublicKeyInfo, next.RawSubjectPublicKeyInfo) {
		t.Error("the number or the key is the old one")
	}
	if _, err := next.Verify(x509.VerifyOptions{Roots: readPool(t, filepath.Join(dir, caCertName)), DNSName: "gw.example.com"}); err != nil {
		t.Error(err)
	}

	// For other hosts; and again after a run that was cut between the two files.
	if _, _, err := renewCertificate(cfg, []string{"10.9.8.7"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := load().Leaf; len(got.DNSNames) != 1 || got.VerifyHostname("10.9.8.7") != nil {
		t.Errorf("names: %v %v", got.DNSNames, got.IPAddresses)
	}
	key := filepath.Join(dir, leafKeyName)
	if err := os.WriteFile(key, []byte("of another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := renewCertificate(cfg, nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := load().Leaf; got.VerifyHostname("10.9.8.7") != nil {
		t.Error("the hosts are lost")
	}
	if there, err := os.ReadDir(dir); err != nil || len(there) != 4 {
		t.Errorf("left behind: %v %v", there, err)
	}

	// The CA's own end bounds what it issues.
	nearly := made.Add(caLifetime - 30*24*time.Hour)
	if _, end, err = renewCertificate(cfg, nil, nearly); err != nil || end.After(made.Add(caLifetime)) {
		t.Errorf("until %s, %v", end, err)
	}
	if _, _, err = renewCertificate(cfg, nil, made.Add(caLifetime)); err == nil || !strings.Contains(err.Error(), "the CA ended") {
		t.Errorf("after the CA's end: %v", err)
	}
}

// TestRenewLeavesAlone: nothing is overwritten that is not of this CA, and an
// open key is not used.
func TestRenewLeavesAlone(t *testing.T) {
	cfg, dir := newTLSFiles(t, time.Now(), "gw.example.com")
	_, other := newTLSFiles(t, time.Now(), "gw.example.com")
	set := func(name string, text []byte, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, mode); err != nil {
			t.Fatal(err)
		}
	}
	read := func(dir, name string) []byte {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	key := read(dir, leafKeyName)
	fails := func(want string) {
		t.Helper()
		_, _, err := renewCertificate(cfg, nil, time.Now())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if !cmp.Equal(key, read(dir, leafKeyName)) {
			t.Error("the key was replaced")
		}
	}
	good := read(dir, leafCertName)
	set(leafCertName, read(other, leafCertName), 0o644)
	fails("is not of the private CA")
	set(leafCertName, []byte("nonsense"), 0o644)
	fails("no certificate in PEM")
	set(leafCertName, good, 0o644)
	caKey := read(dir, caKeyName)
	set(caKeyName, caKey, 0o640)
	if err := os.Chmod(filepath.Join(dir, caKeyName), 0o640); err != nil {
		t.Fatal(err)
	}
	fails("can be read by others (mode 0640)")
	set(caKeyName, read(other, caKeyName), 0o600)
	fails("private key does not match")
	set(caKeyName, read(dir, leafKeyName), 0o600)
	fails("private key does not match")
	if err := os.Remove(filepath.Join(dir, caKeyName)); err != nil {
		t.Fatal(err)
	}
	fails("no private CA")
	plain := *cfg
	plain.Gateway.TLS = config.TLS{}
	if _, _, err := renewCertificate(&plain, nil, time.Now()); err == nil || !strings.Contains(err.Error(), "gateway.tls is not set") {
		t.Errorf("without TLS: %v", err)
	}
}

// TestLoopbackNames: "env" and "run" on the gateway's machine need them.
func TestLoopbackNames(t *testing.T) {
	names, err := readServerNames(nil)
	if err != nil || names.beyondLoopback() != "" {
		t.Fatalf("%v %v", names, err)
	}
	for _, ip := range names.ips {
		if !ip.IsLoopback() || ip == (netip.Addr{}) {
			t.Errorf("%s", ip)
		}
	}
}
