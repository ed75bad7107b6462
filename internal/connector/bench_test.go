package connector_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime/pprof"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/connector"
	"github.com/trailgate/trailgate/internal/gateway"
)

// as runs something, and whatever it starts, under a name that CPU profiles have:
// go tool pprof -tags shows which end of the tunnel took how much.
func as(name string, f func()) {
	pprof.Do(context.Background(), pprof.Labels("end", name), func(context.Context) { f() })
}

// ways are the transport that the gateway has without connectors, and the whole of a
// tunnel: TLS, hashes, receipt, its check. Both end at the same BigQuery, which speaks TLS
// as the real one does, and read the answer to its end. pace is how many bytes a second
// BigQuery gives; 0: what it can.
func ways(b *testing.B, h2 bool, pace int) map[string]func(path string) error {
	var r *rig
	as("gateway", func() { r = newRigFor(b) })
	bigquery := httptest.NewUnstartedServer(paced(r.backend, pace))
	bigquery.EnableHTTP2 = h2
	as("bigquery", bigquery.StartTLS)
	b.Cleanup(bigquery.Close)
	roots := x509.NewCertPool()
	roots.AddCert(bigquery.Certificate())

	id := r.enroll("lake-1", "lake")
	cfg := r.config(id, "lake")
	allowed, err := connector.NewAllowed([]string{bigquery.URL})
	if err != nil {
		b.Fatal(err)
	}
	cfg.Allowed, cfg.UpstreamRoots = allowed, roots
	as("connector", func() { r.start(cfg) })

	buf := make([]byte, 64<<10)
	read := func(resp *http.Response, err error) error {
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if h2 != (resp.ProtoMajor == 2) && resp.TLS != nil {
			return fmt.Errorf("answered by %s", resp.Proto)
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{resp.Body}, buf)
		return err
	}
	direct := gateway.NewTransport(time.Minute)
	direct.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	b.Cleanup(direct.CloseIdleConnections)
	get := func(path string) *http.Request {
		req, err := http.NewRequest(http.MethodGet, bigquery.URL+path, nil)
		if err != nil {
			b.Fatal(err)
		}
		return req
	}
	return map[string]func(string) error{
		"direct": func(path string) (err error) {
			as("direct", func() { err = read(direct.RoundTrip(get(path))) })
			return err
		},
		"connector": func(path string) (err error) {
			as("gateway", func() {
				resp, _, ferr := r.hub.Forward(get(path), connector.Call{Entry: "e", Connection: "lake"})
				err = read(resp, ferr)
			})
			return err
		},
	}
}

// paced has a handler write so many bytes a second, at most.
func paced(h http.Handler, perSecond int) http.Handler {
	if perSecond == 0 {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&pacedWriter{ResponseWriter: w, start: time.Now(), rate: float64(perSecond)}, r)
	})
}

type pacedWriter struct {
	http.ResponseWriter
	start time.Time
	rate  float64
	n     int
}

func (w *pacedWriter) Write(p []byte) (int, error) {
	time.Sleep(time.Until(w.start.Add(time.Duration(float64(w.n) / w.rate * float64(time.Second)))))
	w.n += len(p)
	return w.ResponseWriter.Write(p)
}

func median[T float64 | time.Duration](s []T) T {
	slices.Sort(s)
	return s[len(s)/2]
}

// processor is the CPU time that this process has taken: all ends together.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// compare has both ways take turns, in pairs of which each has its own ratio: what else
// the machine does disturbs the two of a pair alike. Each is the median of so many calls.
func compare(b *testing.B, path string, each int, h2 bool, pace int) {
	run := ways(b, h2, pace)
	for _, f := range run { // connections are made before it counts
		if err := f("/bytes/1"); err != nil {
			b.Fatal(err)
		}
	}
	cpu := map[string][]float64{}
	timed := func(name string) float64 {
		before := processor()
		defer func() { cpu[name] = append(cpu[name], float64((processor()-before).Microseconds())/float64(each)) }()
		took := make([]float64, each)
		for i := range took {
			start := time.Now()
			if err := run[name](path); err != nil {
				b.Fatal(err)
			}
			took[i] = float64(time.Since(start).Nanoseconds()) / 1e3
		}
		return median(took)
	}
	var direct, through, added, ratio []float64
	for b.Loop() {
		var d, c float64
		if len(ratio)%2 == 0 { // neither is always the first
			d = timed("direct")
			c = timed("connector")
		} else {
			c = timed("connector")
			d = timed("direct")
		}
		direct, through, added, ratio = append(direct, d), append(through, c), append(added, c-d), append(ratio, d/c)
	}
	b.ReportMetric(median(direct), "direct-us")
	b.ReportMetric(median(through), "connector-us")
	b.ReportMetric(median(cpu["direct"]), "direct-cpu-us")
	b.ReportMetric(median(cpu["connector"]), "connector-cpu-us")
	b.ReportMetric(median(added), "added-us")
	b.ReportMetric(median(ratio), "ratio")
}

func BenchmarkTunnelSmall(b *testing.B) {
	b.Run("h1", func(b *testing.B) { compare(b, "/bytes/2000", 50, false, 0) })
	b.Run("h2", func(b *testing.B) { compare(b, "/bytes/2000", 50, true, 0) })
}

// BenchmarkTunnelLarge has 100 MB: as fast as two ends and BigQuery on one machine make
// it, and as fast as a network of 1 Gbit/s would let it.
func BenchmarkTunnelLarge(b *testing.B) {
	b.Run("h1", func(b *testing.B) { compare(b, "/bytes/104857600", 1, false, 0) })
	b.Run("h2", func(b *testing.B) { compare(b, "/bytes/104857600", 1, true, 0) })
	b.Run("h2-gigabit", func(b *testing.B) { compare(b, "/bytes/104857600", 1, true, 125_000_000) })
}
