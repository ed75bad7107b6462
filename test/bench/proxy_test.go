// Package bench measures the whole gateway against what it could at best be:
// the same calls made directly, and through httputil.ReverseProxy. Variants
// take turns within one run, so that a noisy machine disturbs all of them
// alike; what counts is the ratio. docs/benchmarks.md has the figures.
package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/gateway"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/idptest"
	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/policy"
	"github.com/trailgate/trailgate/internal/recording"
	"github.com/trailgate/trailgate/internal/trail"
)

const smallBody = `{"configuration":{"query":{"query":"DELETE FROM staging.imports WHERE batch_id = 42","useLegacySql":false}},"jobReference":{"projectId":"demo-project","jobId":"%s"}}`

const smallAnswer = `{"kind":"bigquery#job","id":"demo-project:US.j","jobReference":{"projectId":"demo-project","jobId":"j","location":"US"},` +
	`"configuration":{"jobType":"QUERY","query":{"query":"DELETE FROM staging.imports WHERE batch_id = 42"}},"status":{"state":"DONE"},` +
	`"statistics":{"totalBytesProcessed":"1024","query":{"statementType":"DELETE","totalBytesBilled":"10485760","cacheHit":false,"numDmlAffectedRows":"3",` +
	`"referencedTables":[{"projectId":"demo-project","datasetId":"staging","tableId":"imports"}]}}}`

// upstream answers jobs.insert with a small job, and a job's result with rows
// in pages of the size asked for.
func upstream(tb testing.TB, bigBytes int) *httptest.Server {
	var big []byte
	if bigBytes > 0 {
		var b bytes.Buffer
		b.WriteString(`{"kind":"bigquery#getQueryResultsResponse","jobComplete":true,"totalRows":"1000000","rows":[`)
		for i := 0; b.Len() < bigBytes; i++ {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"f":[{"v":"%d"},{"v":"customer %d of the north"},{"v":"%d.25"},{"v":"2026-11-23T10:00:00Z"},{"v":null}]}`, i, i*7, i*3)
		}
		b.WriteString(`]}`)
		big = b.Bytes()
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", strconv.Itoa(len(big)))
			w.Write(big)
			return
		}
		io.WriteString(w, smallAnswer)
	}))
	tb.Cleanup(srv.Close)
	return srv
}

// nowhere is a trail that keeps nothing: what the data path costs by itself.
type nowhere struct{ seq atomic.Uint64 }

func (n *nowhere) Append(_ context.Context, e *trailgate.Entry) error {
	e.Seq, e.Time = n.seq.Add(1), time.Now()
	return nil
}

func (n *nowhere) PutBlob(context.Context, []byte) (string, error) { return "", nil }

type variant struct {
	name  string
	url   string
	token string
}

// variants starts everything that is compared, all in front of the same upstream.
func variants(tb testing.TB, bigBytes int) []variant {
	up := upstream(tb, bigBytes)
	target, err := url.Parse(up.URL)
	if err != nil {
		tb.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	proxy := &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:  gateway.NewTransport(time.Minute),
		BufferPool: pool{&sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}},
	}
	proxied := httptest.NewServer(proxy)
	tb.Cleanup(proxied.Close)

	dir := tb.TempDir()
	ctx := tb.Context()
	if _, err := trail.Create(ctx, dir, "trailgate.test/bench"); err != nil {
		tb.Fatal(err)
	}
	tr, err := trail.Open(ctx, dir, trail.Options{Log: log})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { tr.Close(context.Background()) })
	ix, err := index.Open(ctx, filepath.Join(dir, "index"), tr, index.Options{Log: log})
	if err != nil {
		tb.Fatal(err)
	}
	follow, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { ix.Run(follow) })
	tb.Cleanup(func() { stop(); wg.Wait(); ix.Close() })

	rules := benchPolicy(tb)
	with := func(name string, t gateway.Trail, source federation.Source, traded bool, rows gateway.Recorder) variant {
		store, err := identity.Open(filepath.Join(tb.TempDir(), "agents.json"))
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := store.AddAgent("etl-bot", ""); err != nil {
			tb.Fatal(err)
		}
		secret, _, err := store.IssueToken("etl-bot", identity.TokenOptions{TTL: time.Hour})
		if err != nil {
			tb.Fatal(err)
		}
		callers, err := identity.NewAuthenticator(identity.AuthConfig{Store: store, SessionKeyFile: filepath.Join(tb.TempDir(), "session.key"), ExchangeTTL: time.Hour})
		if err != nil {
			tb.Fatal(err)
		}
		g, err := gateway.New(gateway.Config{
			ID: "bench", Version: "bench", Trail: t, Authenticate: callers.Authenticate,
			Sessions: identity.NewSessions(time.Hour, time.Now), JobOwner: jobOwner(ix), Log: log, Policy: rules,
			Connections: []gateway.Connection{{Name: "c", Projects: []string{"*"}, Upstream: target, Credential: source, Recording: trailgate.RecordingResults, RecordBytes: 1 << 30}},
			Recordings:  rows,
		})
		if err != nil {
			tb.Fatal(err)
		}
		srv := httptest.NewServer(g)
		tb.Cleanup(srv.Close)
		if traded {
			out, err := callers.Exchange(ctx, identity.ExchangeRequest{
				GrantType: identity.GrantExchange, SubjectToken: secret, SubjectTokenType: identity.TypeAccessToken,
			})
			if err != nil {
				tb.Fatal(err)
			}
			secret = out.Token
		}
		return variant{name, srv.URL, secret}
	}
	rows, err := recording.Open(recording.Options{Dir: filepath.Join(tb.TempDir(), "rows"), KeyDir: tb.TempDir()})
	if err != nil {
		tb.Fatal(err)
	}
	return []variant{
		{"direct", up.URL, ""},
		{"reverseproxy", proxied.URL, ""},
		with("noaudit", &nowhere{}, federation.None(), false, nil),
		with("everything", tr, federation.None(), false, nil),
		// The agent comes by token exchange and goes on as a service account of its own.
		with("federated", &nowhere{}, impersonation(tb), true, nil),
		// All rows are kept. A result that was kept before is not written again.
		with("recorded", tr, federation.None(), false, rows),
	}
}

// benchPolicy is the starter policy, and one rule more that lets the call pass which the
// last one would have had wait.
func benchPolicy(tb testing.TB) *policy.Set {
	const last = "  - name: ask-for-changes\n"
	text := strings.Replace(string(policy.Starter()), last, "  - name: writes\n    when: class == \"write\"\n    allow: {maximum_bytes_billed: 1TB}\n"+last, 1)
	rules, err := policy.Load([]policy.File{{Name: "bench", Data: []byte(text)}})
	if err != nil {
		tb.Fatal(err)
	}
	return rules
}

// impersonation is a source that mints for each agent, from a warm cache.
func impersonation(tb testing.TB) federation.Source {
	const gatewaySA, agentSA = "gateway@demo-project.iam.gserviceaccount.com", "agent-etl-bot@demo-project.iam.gserviceaccount.com"
	g := idptest.NewGoogle(tb)
	g.AllowImpersonation(gatewaySA, agentSA)
	key := filepath.Join(tb.TempDir(), "gateway.json")
	if err := os.WriteFile(key, g.ServiceAccountKey(gatewaySA), 0o600); err != nil {
		tb.Fatal(err)
	}
	source, err := federation.Impersonation(federation.ImpersonationConfig{
		Connection: "c", Base: federation.Base{File: key}, Template: "agent-{agent}@{project}.iam.gserviceaccount.com",
		Endpoints: federation.Endpoints{IAMCredentials: g.URL(), OAuthToken: g.TokenURL()},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { source.(io.Closer).Close() })
	return source
}

// pool is the proxy's BufferPool.
type pool struct{ p *sync.Pool }

func (p pool) Get() []byte { return *p.p.Get().(*[]byte) }

func (p pool) Put(b []byte) { p.p.Put(&b) }

func client() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConns: 256, MaxIdleConnsPerHost: 256, DisableCompression: true}}
}

// round makes calls for a while over n connections and returns calls a second
// and the latencies.
func round(tb testing.TB, hc *http.Client, v variant, n int, window time.Duration) (rate float64, lat []time.Duration) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := time.Now()
	for range n {
		wg.Go(func() {
			var mine []time.Duration
			for time.Since(start) < window {
				t := time.Now()
				if err := call(hc, v); err != nil {
					tb.Error(err)
					return
				}
				mine = append(mine, time.Since(t))
			}
			mu.Lock()
			lat = append(lat, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	return float64(len(lat)) / time.Since(start).Seconds(), lat
}

func call(hc *http.Client, v variant) error {
	var id [8]byte
	rand.Read(id[:])
	req, err := http.NewRequest(http.MethodPost, v.url+"/bigquery/v2/projects/demo-project/jobs?alt=json",
		strings.NewReader(fmt.Sprintf(smallBody, hex.EncodeToString(id[:]))))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if v.token != "" {
		req.Header.Set("Authorization", "Bearer "+v.token)
	}
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %d %s", v.name, resp.StatusCode, body)
	}
	return nil
}

func median[T interface{ ~int64 | ~float64 }](s []T) T {
	s = slices.Clone(s)
	slices.Sort(s)
	return s[len(s)/2]
}

func quantile(s []time.Duration, q float64) time.Duration {
	s = slices.Clone(s)
	slices.Sort(s)
	return s[int(float64(len(s)-1)*q)]
}

func benchmarkSmall(b *testing.B, conns int) {
	vs := variants(b, 0)
	clients := make([]*http.Client, len(vs))
	for i, v := range vs {
		clients[i] = client()
		round(b, clients[i], v, conns, 200*time.Millisecond) // warm up
	}
	rates := make([][]float64, len(vs))
	p50 := make([][]time.Duration, len(vs))
	for b.Loop() {
		for i, v := range vs {
			r, lat := round(b, clients[i], v, conns, 500*time.Millisecond)
			rates[i] = append(rates[i], r)
			p50[i] = append(p50[i], quantile(lat, 0.5))
		}
	}
	for i, v := range vs {
		b.ReportMetric(median(rates[i]), v.name+"-calls/s")
		b.ReportMetric(float64(median(p50[i]))/1e3, v.name+"-p50-us")
	}
	b.ReportMetric(median(rates[2])/median(rates[1]), "noaudit/proxy")
	b.ReportMetric(median(rates[3])/median(rates[1]), "everything/proxy")
	b.ReportMetric(median(rates[4])/median(rates[2]), "federated/noaudit")
	b.ReportMetric(float64(median(p50[3])-median(p50[0]))/1e3, "added-p50-us")
}

func BenchmarkSmallCall1(b *testing.B)  { benchmarkSmall(b, 1) }
func BenchmarkSmallCall64(b *testing.B) { benchmarkSmall(b, 64) }

// BenchmarkBigResult streams 100 MB of result rows.
func BenchmarkBigResult(b *testing.B) {
	const size = 100 << 20
	vs := variants(b, size)
	took := make([][]time.Duration, len(vs))
	var idle, peak runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&idle)
	var over [2]uint64
	hc := client()
	for b.Loop() {
		for i, v := range vs {
			req, err := http.NewRequest(http.MethodGet, v.url+"/bigquery/v2/projects/demo-project/queries/"+bigJob+"?maxResults=1000000", nil)
			if err != nil {
				b.Fatal(err)
			}
			if v.token != "" {
				req.Header.Set("Authorization", "Bearer "+v.token)
			}
			start := time.Now()
			resp, err := hc.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err != nil || n < size {
				b.Fatalf("%s: %d bytes, %v", v.name, n, err)
			}
			took[i] = append(took[i], time.Since(start))
			if at := slices.Index([]string{"everything", "recorded"}, v.name); at >= 0 {
				runtime.ReadMemStats(&peak)
				over[at] = max(over[at], peak.HeapInuse-min(idle.HeapInuse, peak.HeapInuse))
			}
		}
	}
	for i, v := range vs {
		b.ReportMetric(float64(size)/1e6/median(took[i]).Seconds(), v.name+"-MB/s")
	}
	b.ReportMetric(float64(median(took[1]))/float64(median(took[2])), "noaudit/proxy")
	b.ReportMetric(float64(median(took[1]))/float64(median(took[3])), "everything/proxy")
	b.ReportMetric(float64(median(took[3]))/float64(median(took[5])), "recorded/everything")
	b.ReportMetric(float64(over[0])/1e6, "MB-over-idle")
	b.ReportMetric(float64(over[1])/1e6, "recorded-MB-over-idle")
}

// bigJob is the job of the big result.
const bigJob = "big"

// jobOwner asks the index as the gateway does.
func jobOwner(ix *index.Index) func(context.Context, string, string) (gateway.Owner, bool, error) {
	return func(ctx context.Context, project, job string) (gateway.Owner, bool, error) {
		if job == bigJob { // it was begun before
			return gateway.Owner{Agent: "etl-bot"}, true, nil
		}
		e, err := ix.JobOwner(ctx, project, job)
		if err != nil || e == nil {
			return gateway.Owner{}, false, err
		}
		return gateway.Owner{Agent: e.Principal.Agent, Entry: e.ID, Limits: e.Decision.Limits}, true, nil
	}
}
