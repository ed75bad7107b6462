package tunnel

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/quic-go/quic-go"
)

// Run with: go test -bench . -benchtime 3s -count 5
//
// Every candidate is the same connector: it takes a request from the tunnel and sends it
// on to a backend on loopback with a transport of its own. "direct" is that backend
// without a connector.

const large = 100 << 20

// backend answers /N with N bytes.
func backend(b *testing.B) *url.URL {
	chunk := make([]byte, 256<<10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		n, _ := strconv.Atoi(r.URL.Path[1:])
		w.Header().Set("Content-Length", strconv.Itoa(n))
		for n > 0 {
			m := min(n, len(chunk))
			if _, err := w.Write(chunk[:m]); err != nil {
				return
			}
			n -= m
		}
	}))
	b.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		b.Fatal(err)
	}
	return u
}

func transport() *http.Transport {
	return &http.Transport{MaxIdleConns: 256, MaxIdleConnsPerHost: 256, DisableCompression: true, ReadBufferSize: 64 << 10, WriteBufferSize: 64 << 10}
}

type pool struct{ sync.Pool }

func (p *pool) Get() []byte  { return *p.Pool.Get().(*[]byte) }
func (p *pool) Put(b []byte) { p.Pool.Put(&b) }

// forwarder is the connector's handler.
func forwarder(to *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport:  transport(),
		BufferPool: &pool{sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}},
	}
}

func certificate(b *testing.B) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, DNSNames: []string{"gateway"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// dialled is one TLS connection on loopback: the gateway's end and the connector's,
// which dialled.
func dialled(b *testing.B) (gateway, connector net.Conn) {
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate(b)}, MinVersion: tls.VersionTLS13})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	done := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = c.(*tls.Conn).Handshake()
		}
		if err != nil {
			b.Error(err)
		}
		done <- c
	}()
	// The certificate is made for this run, and what it costs to check it is no part of it.
	connector, err = tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err != nil {
		b.Fatal(err)
	}
	gateway = <-done
	b.Cleanup(func() { gateway.Close(); connector.Close() })
	return gateway, connector
}

func direct(b *testing.B, _ *url.URL) http.RoundTripper { return transport() }

type oneConn struct {
	conn chan net.Conn
	addr net.Addr
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c, ok := <-l.conn; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.addr }

type plain struct{ net.Conn }

// http2Reversed: the gateway is the HTTP/2 client on the connection that it accepted.
func http2Reversed(b *testing.B, to *url.URL) http.RoundTripper {
	gateway, connector := dialled(b)
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true) // TLS is below
	l := &oneConn{conn: make(chan net.Conn, 1), addr: connector.LocalAddr()}
	l.conn <- plain{connector}
	go (&http.Server{Handler: forwarder(to), Protocols: protocols, HTTP2: &http.HTTP2Config{
		MaxConcurrentStreams: 1000, MaxReadFrameSize: 256 << 10, MaxReceiveBufferPerConnection: 16 << 20, MaxReceiveBufferPerStream: 4 << 20,
	}}).Serve(l)
	t := &http.Transport{
		Protocols: protocols, DisableCompression: true, HTTP2: &http.HTTP2Config{MaxReadFrameSize: 256 << 10},
		DialContext: func(context.Context, string, string) (net.Conn, error) { return plain{gateway}, nil },
	}
	cc, err := t.NewClientConn(context.Background(), "http", "connector:80")
	if err != nil {
		b.Fatal(err)
	}
	return cc
}

// overYamux: each request is HTTP/1.1 on a stream of hashicorp/yamux; streams are kept.
func overYamux(b *testing.B, to *url.URL) http.RoundTripper {
	gateway, connector := dialled(b)
	cfg := yamux.DefaultConfig()
	cfg.MaxStreamWindowSize = 4 << 20
	cfg.LogOutput = io.Discard
	server, err := yamux.Server(connector, cfg)
	if err != nil {
		b.Fatal(err)
	}
	client, err := yamux.Client(gateway, cfg)
	if err != nil {
		b.Fatal(err)
	}
	go (&http.Server{Handler: forwarder(to)}).Serve(server)
	t := transport()
	t.DialContext = func(context.Context, string, string) (net.Conn, error) { return client.Open() }
	return t
}

type quicStream struct {
	*quic.Stream
	conn *quic.Conn
}

func (s *quicStream) LocalAddr() net.Addr  { return s.conn.LocalAddr() }
func (s *quicStream) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }
func (s *quicStream) Close() error {
	s.CancelRead(0)
	return s.Stream.Close()
}

type quicListener struct{ conn *quic.Conn }

func (l *quicListener) Accept() (net.Conn, error) {
	s, err := l.conn.AcceptStream(context.Background())
	if err != nil {
		return nil, err
	}
	return &quicStream{s, l.conn}, nil
}
func (l *quicListener) Close() error   { return nil }
func (l *quicListener) Addr() net.Addr { return l.conn.LocalAddr() }

// overQUIC: each request is HTTP/1.1 on a stream of QUIC; streams are kept.
func overQUIC(b *testing.B, to *url.URL) http.RoundTripper {
	cfg := &quic.Config{
		MaxIncomingStreams: 1000, InitialStreamReceiveWindow: 4 << 20, MaxStreamReceiveWindow: 16 << 20,
		InitialConnectionReceiveWindow: 16 << 20, MaxConnectionReceiveWindow: 64 << 20,
	}
	l, err := quic.ListenAddr("127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate(b)}, NextProtos: []string{"t"}}, cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	done := make(chan *quic.Conn, 1)
	go func() {
		c, err := l.Accept(ctx)
		if err != nil {
			b.Error(err)
		}
		done <- c
	}()
	connector, err := quic.DialAddr(ctx, l.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"t"}}, cfg)
	if err != nil {
		b.Fatal(err)
	}
	gateway := <-done
	b.Cleanup(func() { _ = connector.CloseWithError(0, ""); _ = l.Close() })
	go (&http.Server{Handler: forwarder(to)}).Serve(&quicListener{connector})
	t := transport()
	t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		s, err := gateway.OpenStreamSync(ctx)
		if err != nil {
			return nil, err
		}
		return &quicStream{s, gateway}, nil
	}
	return t
}

var candidates = []struct {
	name string
	open func(*testing.B, *url.URL) http.RoundTripper
}{{"direct", direct}, {"http2", http2Reversed}, {"yamux", overYamux}, {"quic", overQUIC}}

func call(rt http.RoundTripper, to *url.URL, n int) error {
	req, err := http.NewRequest(http.MethodGet, to.JoinPath(strconv.Itoa(n)).String(), nil)
	if err != nil {
		return err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	buf := make([]byte, 64<<10)
	got := 0
	for {
		m, err := resp.Body.Read(buf)
		got += m
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if got != n {
		return errors.New("short answer")
	}
	return nil
}

// BenchmarkLatency is the median of small calls, one at a time.
func BenchmarkLatency(b *testing.B) {
	for _, c := range candidates {
		b.Run(c.name, func(b *testing.B) {
			to := backend(b)
			rt := c.open(b, to)
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				if err := call(rt, to, 2000); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
		})
	}
}

// BenchmarkLarge is one answer of 100 MB.
func BenchmarkLarge(b *testing.B) {
	for _, c := range candidates {
		b.Run(c.name, func(b *testing.B) {
			to := backend(b)
			rt := c.open(b, to)
			b.SetBytes(large)
			for b.Loop() {
				if err := call(rt, to, large); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBesideLarge is the median of small calls while a large answer is on its way,
// and again: what one stream does to the others.
func BenchmarkBesideLarge(b *testing.B) {
	for _, c := range candidates {
		b.Run(c.name, func(b *testing.B) {
			to := backend(b)
			rt := c.open(b, to)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						if err := call(rt, to, large); err != nil {
							b.Error(err)
							return
						}
					}
				}
			})
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				if err := call(rt, to, 2000); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			close(stop)
			wg.Wait()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
		})
	}
}

// BenchmarkCalls64 is small calls over 64 connections' worth of callers.
func BenchmarkCalls64(b *testing.B) {
	for _, c := range candidates {
		b.Run(c.name, func(b *testing.B) {
			to := backend(b)
			rt := c.open(b, to)
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := call(rt, to, 2000); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
