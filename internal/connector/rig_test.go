package connector_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/connector"
)

// deadline is generous: machines are busy.
const deadline = 60 * time.Second

func waitFor(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// events are what the trail would have.
type events struct {
	mu   sync.Mutex
	list []connector.Event
	fail error
}

func (e *events) record(_ context.Context, x connector.Event) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fail != nil {
		return e.fail
	}
	e.list = append(e.list, x)
	return nil
}

func (e *events) of(action, name string) (out []connector.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.list {
		if x.Action == action && x.Name == name {
			out = append(out, x)
		}
	}
	return out
}

// backend counts what arrives, by entry.
type backend struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string]int
	all  int
	hold func(entry string) // called before an answer
}

func newBackend(t testing.TB) *backend {
	b := &backend{seen: map[string]int{}}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

// ServeHTTP answers /bytes/N with N bytes, everything else with a job.
func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	entry := r.Header.Get("X-Goog-Request-Reason")
	b.mu.Lock()
	b.seen[entry]++
	b.all++
	hold := b.hold
	b.mu.Unlock()
	if hold != nil {
		hold(entry)
	}
	if n, ok := strings.CutPrefix(r.URL.Path, "/bytes/"); ok {
		size, _ := strconv.Atoi(n)
		w.Header().Set("Content-Length", n)
		chunk := bytes.Repeat([]byte("0123456789abcdef"), 4096)
		for size > 0 {
			m := min(size, len(chunk))
			if _, err := w.Write(chunk[:m]); err != nil {
				return
			}
			size -= m
		}
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Authorization", r.Header.Get("Authorization"))
	fmt.Fprintf(w, `{"kind":"bigquery#job","jobReference":{"projectId":"p","jobId":"j1","location":"EU"},"got":%d}`, len(raw))
}

func (b *backend) count(entry string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen[entry]
}

// rig is a hub with a listener, and a BigQuery.
type rig struct {
	t        testing.TB
	hub      *connector.Hub
	registry *connector.Registry
	events   *events
	address  string
	backend  *backend
	ca       *x509.Certificate
	key      *ecdsa.PrivateKey
	dir      string
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newCA(t testing.TB, name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func newRigFor(t testing.TB, change ...func(*connector.HubConfig)) *rig {
	t.Helper()
	r := &rig{t: t, events: &events{}, backend: newBackend(t), dir: t.TempDir()}
	r.ca, r.key = newCA(t, "Trailgate CA of connectors")
	var err error
	if r.registry, err = connector.OpenRegistry(filepath.Join(r.dir, "connectors.json"), time.Now); err != nil {
		t.Fatal(err)
	}
	cfg := connector.HubConfig{
		Gateway: "gw", Build: "v1", CA: r.ca, Key: r.key, Registry: r.registry, Record: r.events.record, Log: quiet(), Beat: 10 * time.Second, // a busy machine must not pass for a dead one

		Connections: map[string]string{"lake": trailgate.CredentialGateway, "pond": trailgate.CredentialConnector},
	}
	for _, c := range change {
		c(&cfg)
	}
	if r.hub, err = connector.NewHub(cfg); err != nil {
		t.Fatal(err)
	}
	r.address = r.listen(r.hub)
	return r
}

func (r *rig) listen(h *connector.Hub) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- h.Serve(l) }()
	r.t.Cleanup(func() {
		h.Close()
		if err := <-done; err != nil {
			r.t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

func (r *rig) remote() connector.Remote { return connector.Remote{Address: r.address, Build: "v1"} }

func (r *rig) token(name string, connections ...string) string {
	r.t.Helper()
	token, _, err := r.registry.NewToken(name, connections, time.Hour, r.hub.Pin(), func(connector.Token) error { return nil })
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// enroll makes a connector of that name.
func (r *rig) enroll(name string, connections ...string) *connector.Identity {
	r.t.Helper()
	return r.enrollIn(filepath.Join(r.t.TempDir(), name), name, connections...)
}

func (r *rig) enrollIn(dir, name string, connections ...string) *connector.Identity {
	r.t.Helper()
	got, _, err := connector.Enroll(r.t.Context(), r.remote(), r.token(name, connections...), dir)
	if err != nil || got != name {
		r.t.Fatalf("enrol: %q, %v", got, err)
	}
	id, err := connector.OpenIdentity(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

func (r *rig) config(id *connector.Identity, connections ...string) connector.Config {
	allowed, err := connector.NewAllowed([]string{r.backend.URL})
	if err != nil {
		r.t.Fatal(err)
	}
	remote := r.remote()
	remote.Roots = id.Roots()
	cfg := connector.Config{
		Gateway: remote, Allowed: allowed, Certificate: id.Certificate, Log: quiet(), Connections: map[string]connector.Served{},
		MinWait: 10 * time.Millisecond, MaxWait: 100 * time.Millisecond,
	}
	for _, name := range connections {
		cfg.Connections[name] = connector.Served{}
	}
	return cfg
}

// running is a connector that runs.
type running struct {
	*connector.Connector
	kill func()
	done chan error
}

func (r *rig) run(cfg connector.Config) *running {
	r.t.Helper()
	c, err := connector.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	x := &running{Connector: c, kill: cancel, done: make(chan error, 1)}
	go func() { x.done <- c.Run(ctx) }()
	r.t.Cleanup(cancel)
	return x
}

// start runs a connector and waits until calls take it.
func (r *rig) start(cfg connector.Config) *running {
	r.t.Helper()
	before := map[string]int{}
	for name := range cfg.Connections {
		before[name] = r.hub.Serving(name)
	}
	x := r.run(cfg)
	waitFor(r.t, "the connector is connected", func() bool {
		for name := range cfg.Connections {
			if r.hub.Serving(name) <= before[name] {
				return false
			}
		}
		return true
	})
	return x
}

// answer is what a call got.
type answer struct {
	status int
	body   []byte
	header http.Header
	used   connector.Used
	err    error
}

var callCount struct {
	sync.Mutex
	n int
}

// call sends one call over a connection.
func (r *rig) call(connection, verb, path, body string) (entry string, a answer) {
	callCount.Lock()
	callCount.n++
	entry = fmt.Sprintf("entry%d", callCount.n)
	callCount.Unlock()
	return entry, r.send(context.Background(), entry, connection, verb, r.backend.URL+path, body)
}

func (r *rig) send(ctx context.Context, entry, connection, verb, target, body string) (a answer) {
	req, err := http.NewRequestWithContext(ctx, verb, target, strings.NewReader(body))
	if err != nil {
		r.t.Error(err)
		return answer{err: err}
	}
	if body == "" {
		req.Body, req.ContentLength = nil, 0
	}
	req.Header.Set("X-Goog-Request-Reason", entry)
	req.Header.Set("Authorization", "Bearer of-the-gateway")
	resp, used, err := r.hub.Forward(req, connector.Call{Entry: entry, Connection: connection, Principal: &trailgate.Principal{Agent: "etl-bot"}})
	if err == nil {
		a.status, a.header = resp.StatusCode, resp.Header
		a.body, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	if a.err = err; used != nil {
		a.used = used()
	}
	return a
}

// codeOf is why the gateway refused.
func codeOf(err error) string {
	if refusal, ok := errors.AsType[*connector.Refusal](err); ok {
		return refusal.Code
	}
	return fmt.Sprintf("no refusal: %v", err)
}

func kindOf(err error) string {
	if f, ok := errors.AsType[*connector.Failure](err); ok {
		return f.Kind
	}
	return fmt.Sprintf("no failure: %v", err)
}

func publicKey(t *testing.T, id *connector.Identity) []byte {
	t.Helper()
	cert, err := id.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(cert.Leaf.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newRig(t *testing.T, change ...func(*connector.HubConfig)) *rig {
	t.Helper()
	return newRigFor(t, change...)
}
