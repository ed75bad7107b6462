package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/connector"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/gateway"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/trail"
)

// tunnel starts a hub and a connector before a BigQuery, and returns what a gateway's
// connection forwards with.
func tunnel(tb testing.TB, bigquery *httptest.Server, roots *x509.CertPool) func(*http.Request, gateway.Hop) (*http.Response, func() gateway.Passed, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	dir, log := tb.TempDir(), slog.New(slog.DiscardHandler)
	registry, err := connector.OpenRegistry(filepath.Join(dir, "connectors.json"), time.Now)
	if err != nil {
		tb.Fatal(err)
	}
	hub, err := connector.NewHub(connector.HubConfig{
		Gateway: "bench", Build: "v1", CA: ca, Key: key, Registry: registry, Log: log, Beat: 10 * time.Second,
		Record:      func(context.Context, connector.Event) error { return nil },
		Connections: map[string]string{"c": trailgate.CredentialGateway},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(hub.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	go hub.Serve(l) // until the hub is closed
	remote := connector.Remote{Address: l.Addr().String(), Build: "v1"}
	token, _, err := registry.NewToken("bench", []string{"c"}, time.Hour, hub.Pin(), func(connector.Token) error { return nil })
	if err != nil {
		tb.Fatal(err)
	}
	if _, _, err := connector.Enroll(tb.Context(), remote, token, filepath.Join(dir, "id")); err != nil {
		tb.Fatal(err)
	}
	id, err := connector.OpenIdentity(filepath.Join(dir, "id"))
	if err != nil {
		tb.Fatal(err)
	}
	allowed, err := connector.NewAllowed([]string{bigquery.URL})
	if err != nil {
		tb.Fatal(err)
	}
	remote.Roots = id.Roots()
	c, err := connector.New(connector.Config{
		Gateway: remote, Allowed: allowed, Certificate: id.Certificate, Log: log, UpstreamRoots: roots,
		Connections: map[string]connector.Served{"c": {}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	tb.Cleanup(cancel)
	go c.Run(ctx)
	for end := time.Now().Add(time.Minute); hub.Serving("c") == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatal("the connector does not connect")
		}
	}
	return func(req *http.Request, h gateway.Hop) (*http.Response, func() gateway.Passed, error) {
		resp, used, err := hub.Forward(req, connector.Call{Entry: h.Entry, Connection: h.Connection, Project: h.Project, Session: h.Session, Principal: h.Principal})
		if used == nil {
			return resp, nil, err
		}
		return resp, func() gateway.Passed { return gateway.Passed{Connector: used().Connector} }, err
	}
}

// BenchmarkConnector has an agent call a gateway with everything on, whose BigQuery
// speaks TLS and HTTP/2 as the real one does: reached directly, and through a connector.
// The two take turns in pairs, and the ratio is the median of the pairs' ratios. CPU is
// of all four together: agent, gateway, connector and BigQuery.
func BenchmarkConnector(b *testing.B) {
	const size = 100 << 20
	up := httptest.NewUnstartedServer(upstream(b, size).Config.Handler)
	up.EnableHTTP2 = true
	up.StartTLS()
	b.Cleanup(up.Close)
	roots := x509.NewCertPool()
	roots.AddCert(up.Certificate())
	target, err := url.Parse(up.URL)
	if err != nil {
		b.Fatal(err)
	}
	direct := gateway.NewTransport(time.Minute)
	direct.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	b.Cleanup(direct.CloseIdleConnections)
	start := func(name string, c gateway.Connection) variant {
		dir, log := b.TempDir(), slog.New(slog.DiscardHandler)
		if _, err := trail.Create(b.Context(), dir, "trailgate.test/bench"); err != nil {
			b.Fatal(err)
		}
		tr, err := trail.Open(b.Context(), dir, trail.Options{Log: log})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { tr.Close(context.Background()) })
		store, err := identity.Open(filepath.Join(dir, "agents.json"))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := store.AddAgent("etl-bot", ""); err != nil {
			b.Fatal(err)
		}
		secret, _, err := store.IssueToken("etl-bot", identity.TokenOptions{TTL: time.Hour})
		if err != nil {
			b.Fatal(err)
		}
		callers, err := identity.NewAuthenticator(identity.AuthConfig{Store: store, SessionKeyFile: filepath.Join(dir, "session.key"), ExchangeTTL: time.Hour})
		if err != nil {
			b.Fatal(err)
		}
		c.Name, c.Projects, c.Upstream, c.Credential = "c", []string{"*"}, target, federation.None()
		c.Recording, c.RecordBytes = trailgate.RecordingResults, 1<<30
		g, err := gateway.New(gateway.Config{
			ID: "bench", Version: "bench", Trail: tr, Authenticate: callers.Authenticate, Sessions: identity.NewSessions(time.Hour, time.Now), Log: log,
			JobOwner: func(context.Context, string, string) (gateway.Owner, bool, error) {
				return gateway.Owner{Agent: "etl-bot"}, true, nil
			},
			Connections: []gateway.Connection{c}, Policy: benchPolicy(b),
		})
		if err != nil {
			b.Fatal(err)
		}
		srv := httptest.NewServer(g)
		b.Cleanup(srv.Close)
		return variant{name, srv.URL, secret}
	}
	pair := []variant{start("direct", gateway.Connection{Transport: direct}), start("connector", gateway.Connection{Forward: tunnel(b, up, roots)})}
	hc := client()
	b.Run("Large", func(b *testing.B) {
		inPairs(b, pair, func(v variant) time.Duration {
			req, err := http.NewRequest(http.MethodGet, v.url+"/bigquery/v2/projects/demo-project/queries/"+bigJob+"?maxResults=1000000", nil)
			if err != nil {
				b.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+v.token)
			start := time.Now()
			resp, err := hc.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			defer resp.Body.Close()
			if n, err := io.Copy(io.Discard, resp.Body); err != nil || n < size {
				b.Fatalf("%s: %d: %d bytes, %v", v.name, resp.StatusCode, n, err)
			}
			return time.Since(start)
		})
	})
	b.Run("Small", func(b *testing.B) {
		inPairs(b, pair, func(v variant) time.Duration {
			took := make([]time.Duration, 50)
			for i := range took {
				start := time.Now()
				if err := call(hc, v); err != nil {
					b.Fatal(err)
				}
				took[i] = time.Since(start)
			}
			return median(took)
		})
	})
}

func inPairs(b *testing.B, pair []variant, f func(variant) time.Duration) {
	for _, v := range pair { // connections are made before it counts
		f(v)
	}
	var took, cpu [2][]time.Duration
	var ratio, added []float64
	for turn := 0; b.Loop(); turn++ {
		var t [2]time.Duration
		for i := range pair {
			i = (i + turn) % 2 // neither is always the first
			before := processor()
			t[i] = f(pair[i])
			cpu[i] = append(cpu[i], processor()-before)
			took[i] = append(took[i], t[i])
		}
		ratio = append(ratio, float64(t[0])/float64(t[1]))
		added = append(added, float64((t[1]-t[0]).Nanoseconds())/1e3)
	}
	for i, v := range pair {
		b.ReportMetric(float64(median(took[i]).Nanoseconds())/1e3, v.name+"-us")
		b.ReportMetric(median(cpu[i]).Seconds()*1e3, v.name+"-cpu-ms")
	}
	b.ReportMetric(median(added), "added-us")
	b.ReportMetric(median(ratio), "ratio")
}

// processor is the CPU time that this process has taken.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
