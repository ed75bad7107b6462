package connector_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/connector"
)

// TestForgedEndedCertificate: a certificate that anybody can make, in the name of the
// gateway's authority and past its end, puts no name into the trail: neither blame on a
// connector that was not there, nor an entry for every name that somebody thinks of.
func TestForgedEndedCertificate(t *testing.T) {
	r := newRig(t)
	id := r.enroll("lake-1", "lake")
	_, key := newCA(t, "x")
	for _, name := range []string{"lake-1", "made-up", "\x1b[2Jlake"} {
		parent := &x509.Certificate{RawSubject: r.ca.RawSubject, Subject: r.ca.Subject}
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		der, err := x509.CreateCertificate(cryptoRand, tmpl, parent, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		cfg := r.config(id, "lake")
		cfg.Certificate = func() (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
		}
		r.refusedWith(connector.CodeCertificate, "", cfg)
		if n := len(r.events.of(connector.ActionRefused, name)); n != 0 {
			t.Errorf("%q stands in the trail", name)
		}
	}
	if n := len(r.events.of(connector.ActionRefused, "")); n != 1 {
		t.Errorf("%d entries", n)
	}
}

// TestRequestOfAnotherKind: of a certificate request the kind of key is looked at before
// its signature, which costs what a stranger wants it to.
func TestRequestOfAnotherKind(t *testing.T) {
	r := newRig(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr[len(csr)-1] ^= 1
	id := r.enroll("lake-1", "lake")
	remote := r.remote()
	remote.Roots = id.Roots()
	err = connector.Say(t.Context(), remote, nil, connector.Hello{Op: "enroll", Token: r.token("lake-2", "lake"), CSR: csr})
	if codeOf(err) != connector.CodeMalformed || !strings.Contains(err.Error(), "not ECDSA P-256") {
		t.Errorf("%v", err)
	}
}

// TestEndlessBeat: a connector whose sign of life has no end is cut before it fills the
// gateway's memory, long before its silence would have it cut.
func TestEndlessBeat(t *testing.T) {
	r := newRig(t, func(c *connector.HubConfig) { c.Beat = time.Hour })
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
	err = connector.Pretend(t.Context(), cfg.Gateway, cert, map[string]string{"lake": "gateway"}, func(string, http.HandlerFunc) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"x":"`)
			for {
				if _, err := io.WriteString(w, strings.Repeat("a", 32<<10)); err != nil {
					return
				}
			}
		})
	}, conn)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "it is cut", func() bool { return len(r.events.of(connector.ActionDisconnect, "lake-1")) == 1 })
}

// TestNameOfEnrolled: who is vouched for from elsewhere does not get the name of one that
// enrolled here, not after it was revoked either.
func TestNameOfEnrolled(t *testing.T) {
	r := newRig(t, func(c *connector.HubConfig) {
		c.Token = func(context.Context, string) (connector.Peer, error) {
			return connector.Peer{Name: "lake-1", Connections: []string{"lake"}, By: "somebody"}, nil
		}
	})
	cfg := r.config(r.enroll("lake-1", "lake"), "lake")
	cfg.Token = func(context.Context) (string, error) { return "a.b.c", nil }
	r.refusedWith(connector.CodeConnection, "", cfg)
	if _, err := r.registry.Revoke("lake-1", func(connector.Enrolled) error { return nil }); err != nil {
		t.Fatal(err)
	}
	r.refusedWith(connector.CodeConnection, "", cfg)
}

// TestRevokedAndClockBack: a clock that goes back brings no token to life that was revoked.
func TestRevokedAndClockBack(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	r := newRig(t)
	registry, err := connector.OpenRegistry(filepath.Join(t.TempDir(), "c.json"), func() time.Time { return time.Unix(0, now.Load()) })
	if err != nil {
		t.Fatal(err)
	}
	h, err := connector.NewHub(connector.HubConfig{CA: r.ca, Key: r.key, Registry: registry, Record: r.events.record, Log: quiet(), Connections: map[string]string{"lake": "gateway"}})
	if err != nil {
		t.Fatal(err)
	}
	remote := connector.Remote{Address: r.listen(h)}
	token, _, err := registry.NewToken("lake-1", []string{"lake"}, time.Hour, h.Pin(), func(connector.Token) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := registry.Revoke("lake-1", func(connector.Enrolled) error { return nil }); err != nil {
		t.Fatal(err)
	}
	now.Add(-int64(time.Minute))
	if _, _, err := connector.Enroll(t.Context(), remote, token, t.TempDir()); codeOf(err) != connector.CodeToken {
		t.Errorf("enrolled: %v", err)
	}
	if s := registry.Status(); len(s) != 1 || s[0].State != "revoked" {
		t.Errorf("%+v", s)
	}
}

// TestTokenNotWasted: where the key could not be kept, the token is not used up.
func TestTokenNotWasted(t *testing.T) {
	r := newRig(t)
	token := r.token("lake-1", "lake")
	// Nobody, root neither, can make a file there.
	if _, _, err := connector.Enroll(t.Context(), r.remote(), token, "/proc"); err == nil || errors.As(err, new(*connector.Refusal)) {
		t.Fatalf("%v", err)
	}
	if _, _, err := connector.Enroll(t.Context(), r.remote(), token, t.TempDir()); err != nil {
		t.Error(err)
	}
}

// TestOddPrincipal: whoever calls, by whatever name, the call goes through.
func TestOddPrincipal(t *testing.T) {
	r := newRig(t)
	cfg := r.config(r.enroll("pond-1", "pond"))
	var asked connector.Call
	odd := "a\x7f\x00\x1b\r\nü\u2028"
	cfg.Connections["pond"] = connector.Served{Mint: func(_ context.Context, call connector.Call) (string, connector.Minted, func(), error) {
		asked = call
		return "", connector.Minted{Mode: "local", Principal: odd}, func() {}, nil
	}}
	r.start(cfg)
	req, err := http.NewRequest(http.MethodGet, r.backend.URL+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, used, err := r.hub.Forward(req, connector.Call{Entry: "e", Connection: "pond", Principal: &trailgate.Principal{Agent: odd}})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if asked.Principal == nil || asked.Principal.Agent != odd {
		t.Errorf("asked for %+v", asked.Principal)
	}
	// What it says of the credential is kept, and a mode that only the gateway has is not.
	if m := used().Minted; m == nil || m.Principal != odd || m.Mode != "unknown" {
		t.Errorf("minted %+v", m)
	}
}

// TestStalledUploads: request bodies that BigQuery does not take keep no other call waiting.
func TestStalledUploads(t *testing.T) {
	r := newRig(t)
	release := make(chan struct{})
	handler := r.backend.Config.Handler
	r.backend.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/stalls" {
			<-release
			return
		}
		handler.ServeHTTP(w, q)
	})
	r.start(r.config(r.enroll("lake-1", "lake"), "lake"))
	var taken atomic.Int64
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range 16 {
		wg.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.backend.URL+"/stalls", &endless{&taken})
			if err != nil {
				t.Error(err)
				return
			}
			req.ContentLength = 1 << 40
			resp, _, err := r.hub.Forward(req, connector.Call{Entry: "e", Connection: "lake"})
			if err == nil {
				_ = resp.Body.Close()
			}
		})
	}
	// The buffers of all of them are full when nothing more is taken; more than four hold
	// is enough to tell.
	waitFor(t, "uploads fill what they can", func() bool {
		before := taken.Load()
		time.Sleep(50 * time.Millisecond)
		return before > 16<<20 && taken.Load() == before
	})
	if _, a := r.call("lake", "POST", "/bytes/100", strings.Repeat("x", 100_000)); a.err != nil || len(a.body) != 100 {
		t.Errorf("a call beside them: %v", a.err)
	}
	cancel()
	close(release)
	wg.Wait()
}

type endless struct{ taken *atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.taken.Add(int64(len(p)))
	return len(p), nil
}

// TestRenewedInTime: a certificate of the shortest time that can be configured, an hour, is
// looked at before the last third of it is over.
func TestRenewedInTime(t *testing.T) {
	if connector.RenewEvery > time.Hour/3/2 {
		t.Errorf("looked at every %v", connector.RenewEvery)
	}
}

// TestLongUpload: a body that is taken all the time may take longer than the head of an
// answer may; one that nobody takes may not.
func TestLongUpload(t *testing.T) {
	const patience = 3 * time.Second
	r := newRig(t, func(c *connector.HubConfig) { c.AnswerTimeout = patience })
	r.start(r.config(r.enroll("lake-1", "lake"), "lake"))
	body := &slow{until: time.Now().Add(patience + time.Second)}
	req, err := http.NewRequest(http.MethodPost, r.backend.URL+"/x", body)
	if err != nil {
		t.Fatal(err)
	}
	resp, _, err := r.hub.Forward(req, connector.Call{Entry: "e", Connection: "lake"})
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
	free := make(chan struct{})
	defer close(free)
	r.backend.mu.Lock()
	r.backend.hold = func(string) { <-free }
	r.backend.mu.Unlock()
	if _, a := r.call("lake", "POST", "/x", "x"); kindOf(a.err) != connector.FailTimeout {
		t.Errorf("no answer: %v", a.err)
	}
}

// slow is a body that is there a little at a time, until a moment.
type slow struct{ until time.Time }

func (s *slow) Read(p []byte) (int, error) {
	if time.Now().After(s.until) {
		return 0, io.EOF
	}
	time.Sleep(20 * time.Millisecond)
	return copy(p, "x"), nil
}
