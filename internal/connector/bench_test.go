package connector_test

import (
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/trailgate/trailgate/internal/connector"
)

// ways are a transport to the same BigQuery, and the whole of a tunnel: TLS, hashes,
// receipt, its check. Both read the answer to its end.
func ways(b *testing.B) map[string]func(path string) error {
	r := newRigFor(b)
	id := r.enroll("lake-1", "lake")
	r.start(r.config(id, "lake"))
	buf := make([]byte, 64<<10)
	read := func(resp *http.Response, err error) error {
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{resp.Body}, buf)
		return err
	}
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.DisableCompression, tr.ReadBufferSize = true, 64<<10
	get := func(path string) *http.Request {
		req, err := http.NewRequest(http.MethodGet, r.backend.URL+path, nil)
		if err != nil {
			b.Fatal(err)
		}
		return req
	}
	return map[string]func(string) error{
		"direct": func(path string) error { return read(tr.RoundTrip(get(path))) },
		"connector": func(path string) error {
			resp, _, err := r.hub.Forward(get(path), connector.Call{Entry: "e", Connection: "lake"})
			return read(resp, err)
		},
	}
}

// compare has both ways take turns, and reports their medians and the ratio.
func compare(b *testing.B, path string, each int) {
	run := ways(b)
	took := map[string][]time.Duration{}
	for b.Loop() {
		for name, f := range run {
			for range each {
				start := time.Now()
				if err := f(path); err != nil {
					b.Fatal(err)
				}
				took[name] = append(took[name], time.Since(start))
			}
		}
	}
	median := func(name string) float64 {
		slices.Sort(took[name])
		return float64(took[name][len(took[name])/2].Microseconds())
	}
	d, c := median("direct"), median("connector")
	b.ReportMetric(d, "direct-us")
	b.ReportMetric(c, "connector-us")
	b.ReportMetric(c-d, "added-us")
	b.ReportMetric(d/c, "ratio")
}

func BenchmarkTunnelSmall(b *testing.B) { compare(b, "/bytes/2000", 50) }
func BenchmarkTunnelLarge(b *testing.B) { compare(b, "/bytes/104857600", 1) }
